import { statSync } from "node:fs";
import { basename } from "node:path";
import { UserError } from "../../base/errors.ts";
import { ModelFiles } from "../../models/model_files.ts";
import { denoFolder } from "../../storage/deno_folder.ts";
import { fileStamp, sha256OfFile } from "../../storage/files.ts";

/** The file that lists the files of a model with their hashes; web/file_list.ts reads it. */
export const FILE_LIST = "files.json";

/** The files of a model that a page may ask for. */
export class ServedModel {
	readonly #hashes = new Map<string, { stamp: string; sha256: string }>();

	private constructor(
		/** The path of the model from the page; its last part is what the page calls it. */
		readonly place: string,
		/** The paths of the files by name. */
		readonly paths: ReadonlyMap<string, string>,
	) {}

	/**
	 * @param name What the page calls it.
	 * @throws {UserError} If there is no model in a folder, or none that a page can load.
	 */
	static open(folder: string, name: string): ServedModel {
		using model = ModelFiles.open(denoFolder(folder));
		const other = model.files.find((path) => /\.bin(\.index\.json)?$/.test(path));
		if (other !== undefined) {
			throw new UserError(
				`Cannot serve "${folder}": its weights are PyTorch files, such as "${basename(other)}"; ` +
					`pages load safetensors only, so quantize the model first`,
			);
		}
		const place = `models/${name.replaceAll(/[^\w.-]+/g, "-").replace(/^\.*/, "") || "model"}`;
		return new ServedModel(place, new Map(model.files.map((path) => [basename(path), path])));
	}

	/** The content of the {@link FILE_LIST}; files are hashed when they are new or have changed. */
	list(): { name: string; bytes: number; sha256: string }[] {
		return [...this.paths].map(([name, path]) => {
			const stamp = fileStamp(path);
			let known = this.#hashes.get(name);
			if (known?.stamp !== stamp) {
				known = { stamp, sha256: sha256OfFile(path) };
				this.#hashes.set(name, known);
			}
			return { name, bytes: statSync(path).size, sha256: known.sha256 };
		});
	}
}
