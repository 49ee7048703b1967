import {
	asyncBufferFromFile,
	type FileMetaData,
	parquetMetadataAsync,
	parquetReadObjects,
	parquetSchema,
} from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { reasonOf } from "../storage/folder.ts";
import { kindOf } from "./json_rows.ts";
import { foreignFile } from "./lines.ts";

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The most rows of a row group, which are in memory together, and bytes of a column in it. */
const MOST_ROWS = 50_000_000;
const MOST_BYTES = 2 ** 32;

/** Invalid UTF-8 stays bytes, so that messages can name the row. */
const PARSERS = {
	stringFromBytes(bytes: Uint8Array | undefined): unknown {
		if (!bytes) return bytes;
		try {
			return UTF8.decode(bytes);
		} catch {
			return bytes;
		}
	},
};

/**
 * The values of a string column of a parquet file, with one row group in memory at a time.
 *
 * @throws {UserError} If the file cannot be read, or a value of the column is not a string.
 */
export async function* parquetRows(path: string, column: string): AsyncGenerator<string> {
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read "${path}": ${problem}`);
	};
	let row = 0;
	for await (const { [column]: text } of parquetObjects(path, [column])) {
		const where = `column "${column}" of row ${++row}`;
		if (text instanceof Uint8Array) refuse(`${where} is not UTF-8`);
		if (typeof text !== "string") refuse(`${where} is ${kindOf(text)}, not a string`);
		yield text as string;
	}
}

/**
 * The rows of a parquet file, with one row group of the columns in memory at a time. 64-bit integers are
 * bigint; invalid UTF-8 stays bytes.
 *
 * @param columns The columns to read; default all.
 * @throws {UserError} If the file cannot be read or lacks a column.
 */
export async function* parquetObjects(
	path: string,
	columns?: readonly string[],
): AsyncGenerator<Record<string, unknown>> {
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read "${path}": ${problem}`);
	};
	const damaged = (error: unknown): never => {
		if (error instanceof Error && "code" in error) refuse(reasonOf(error));
		const found = error instanceof Error ? error.message : String(error);
		return refuse(foreignFile(path) ?? `it is not parquet, or damaged (${found})`);
	};
	const file = await asyncBufferFromFile(path).catch(damaged);
	const metadata: FileMetaData = await parquetMetadataAsync(file).catch(damaged);
	const found = parquetSchema(metadata).children.map(({ element }) => element.name);
	const missing = columns?.find((column) => !found.includes(column));
	if (missing !== undefined) {
		refuse(`it has no column "${missing}" (columns: ${found.join(", ") || "none"})`);
	}
	let first = 0;
	for (const { num_rows, columns: chunks } of metadata.row_groups) {
		const bytes = chunks.map(({ meta_data }) => Number(meta_data?.total_uncompressed_size ?? 0));
		if (num_rows < 0n || num_rows > MOST_ROWS || Math.max(0, ...bytes) > MOST_BYTES) {
			refuse(
				`a row group of it has ${num_rows} rows and up to ${
					bytesText(Math.max(0, ...bytes))
				} in a ` +
					`column; at most ${MOST_ROWS} and ${bytesText(MOST_BYTES)} are read at once`,
			);
		}
		const end = first + Number(num_rows);
		const rows = await parquetReadObjects({
			file,
			metadata,
			columns: columns && [...columns],
			rowStart: first,
			rowEnd: end,
			compressors,
			parsers: PARSERS,
		}).catch(damaged);
		if (rows.length !== end - first) {
			damaged(`${rows.length} of ${end - first} rows from row ${first + 1}`);
		}
		yield* rows;
		first = end;
	}
}
