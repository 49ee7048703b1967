import { UserError } from "../base/errors.ts";
import { jsonObjects, jsonRows } from "./json_rows.ts";
import { parquetObjects, parquetRows } from "./parquet_rows.ts";
import { readText } from "./texts.ts";

type RowReader = (path: string, column: string) => AsyncGenerator<string>;

const READERS: Record<string, RowReader> = {
	".txt": wholeText,
	".txt.gz": wholeText,
	".raw": wholeText,
	".jsonl": jsonRows,
	".jsonl.gz": jsonRows,
	".json.gz": jsonRows,
	".parquet": parquetRows,
};

/** File name extensions of {@link readRows}. */
export const ROW_EXTENSIONS: readonly string[] = Object.keys(READERS);

/** Whether {@link readRows} supports a file name; case is ignored. */
export function hasRows(path: string): boolean {
	return readerOf(path) !== undefined;
}

/**
 * The documents of a file: the lines of JSON Lines, the rows of parquet, or a whole text as one.
 *
 * @param column Column of the texts in JSON Lines and parquet.
 * @throws {UserError} If the file cannot be read, or at the first invalid document.
 */
export function readRows(path: string, column = "text"): AsyncGenerator<string> {
	const reader = readerOf(path);
	if (!reader) {
		const known = ROW_EXTENSIONS.join(", ");
		throw new UserError(`Cannot read "${path}": its name ends in none of ${known}`);
	}
	return reader(path, column);
}

/** File name extensions of {@link readObjects}. */
export const OBJECT_EXTENSIONS: readonly string[] = ROW_EXTENSIONS
	.filter((extension) => READERS[extension] !== wholeText);

/** Whether {@link readObjects} supports a file name; case is ignored. */
export function hasObjects(path: string): boolean {
	const reader = readerOf(path);
	return reader !== undefined && reader !== wholeText;
}

/**
 * The rows of a JSON Lines or parquet file with all columns.
 *
 * @throws {UserError} If the file cannot be read, or at the first invalid row.
 */
export function readObjects(path: string): AsyncGenerator<Record<string, unknown>> {
	if (!hasObjects(path)) {
		const known = OBJECT_EXTENSIONS.join(", ");
		throw new UserError(`Cannot read "${path}": its name ends in none of ${known}`);
	}
	return readerOf(path) === parquetRows ? parquetObjects(path) : jsonObjects(path);
}

function readerOf(path: string): RowReader | undefined {
	const extension = ROW_EXTENSIONS.find((extension) => path.toLowerCase().endsWith(extension));
	return extension === undefined ? undefined : READERS[extension];
}

async function* wholeText(path: string): AsyncGenerator<string> {
	yield readText(path);
}
