/** The files of a folder that was chosen or dropped. */
export interface ChosenFolder {
	name: string;
	files: Map<string, File>;
}

/**
 * The model among files with paths, such as "tiny/config.json": the files of the folder that has config.json,
 * which may also be the folder "model" of a run.
 *
 * @returns A text that says what was found instead, if there is no model.
 */
export function modelAmong(
	files: readonly (readonly [path: string, file: File])[],
): ChosenFolder | string {
	const folders = Map.groupBy(files, ([path]) => path.slice(0, Math.max(0, path.lastIndexOf("/"))));
	const models = [...folders].filter(([, files]) =>
		files.some(([path]) => /(^|\/)config\.json$/.test(path))
	).sort(([a], [b]) => a.split("/").length - b.split("/").length);
	const isRun = (path: string) =>
		path === "" || path.split("/").length === 1 || /^[^/]+\/model$/.test(path);
	const found = models.find(([path]) => isRun(path));
	if (!found) {
		return files.length === 0
			? "There are no files in what you chose; choose the folder of a model."
			: `There is no config.json among the ${files.length} files that you chose; choose the folder of a ` +
				`model, or of a run that packed one.`;
	}
	const [path, own] = found;
	return {
		name: path.replace(/\/model$/, "") || "files",
		files: new Map(own.map(([path, file]) => [path.slice(path.lastIndexOf("/") + 1), file])),
	};
}

/** The files of an input for folders. */
export function filesOfInput({ files }: HTMLInputElement): [string, File][] {
	return [...files ?? []].map((file) => [file.webkitRelativePath || file.name, file]);
}

/** The files of a drop: of a folder those at its top and in its folder "model". */
export async function filesOfDrop({ items, files }: DataTransfer): Promise<[string, File][]> {
	// The list is only readable before anything is awaited.
	const entries = [...items].map((item) => item.webkitGetAsEntry()).filter((entry) =>
		entry !== null
	);
	if (entries.length === 0) return [...files].map((file) => [file.name, file]);
	const found = await Promise.all(entries.map((entry) => filesOfEntry(entry, "", 0)));
	return found.flat();
}

async function filesOfEntry(
	entry: FileSystemEntry,
	above: string,
	depth: number,
): Promise<[string, File][]> {
	const path = above + entry.name;
	if (!entry.isDirectory) {
		const file = await new Promise<File>((resolve, reject) =>
			(entry as FileSystemFileEntry).file(resolve, reject)
		);
		return [[path, file]];
	}
	if (depth > 1) return [];
	const reader = (entry as FileSystemDirectoryEntry).createReader();
	const all: FileSystemEntry[] = [];
	for (;;) { // a reader gives some entries at a time
		const some = await new Promise<FileSystemEntry[]>((resolve, reject) =>
			reader.readEntries(resolve, reject)
		);
		if (some.length === 0) break;
		all.push(...some);
	}
	return (await Promise.all(all.map((entry) => filesOfEntry(entry, `${path}/`, depth + 1)))).flat();
}
