import { UserError } from "../base/errors.ts";
import { jsonObjects, jsonRows } from "./json_rows.ts";
import { parquetObjects, parquetRows } from "./parquet_rows.ts";
import { readText } from "./texts.ts";

type RowReader = (path: string, column: string) => AsyncGenerator<string>;

const READERS: Record<string, RowReader> = {
  ".txt": wholeText,
  ".raw": wholeText,
  ".jsonl": jsonRows,
  ".jsonl.gz": jsonRows,
  ".json.gz": jsonRows,
  ".parquet": parquetRows,
};

/** What the names of files end in that {@link readRows} reads. */
export const ROW_EXTENSIONS: readonly string[] = Object.keys(READERS);

/** Whether {@link readRows} reads a file of such a name; upper and lower case count as equal. */
export function hasRows(path: string): boolean {
  return readerOf(path) !== undefined;
}

/**
 * The documents of a file, one after the other: the lines of JSON Lines, the rows of parquet, or
 * a whole text as one.
 *
 * @param column Where the texts stand in JSON Lines and parquet.
 * @throws {UserError} If the file cannot be read, at the first document that is not in order.
 */
export function readRows(path: string, column = "text"): AsyncGenerator<string> {
  const reader = readerOf(path);
  if (!reader) {
    const known = ROW_EXTENSIONS.join(", ");
    throw new UserError(`Cannot read "${path}": its name ends in none of ${known}`);
  }
  return reader(path, column);
}

/** What the names of files end in that {@link readObjects} reads. */
export const OBJECT_EXTENSIONS: readonly string[] = ROW_EXTENSIONS
  .filter((extension) => READERS[extension] !== wholeText);

/** Whether {@link readObjects} reads a file of such a name; upper and lower case count as equal. */
export function hasObjects(path: string): boolean {
  const reader = readerOf(path);
  return reader !== undefined && reader !== wholeText;
}

/**
 * The rows of a file of JSON Lines or parquet, one after the other, with all their columns.
 *
 * @throws {UserError} If the file cannot be read, at the first row that is not in order.
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
