// Reads compressed fixtures. `deno run -A tests/fixture.ts PATH ...` puts PATH.br in the place of a file or
// a folder; in a folder, scripts and what is compressed already stay.

import {
	mkdirSync,
	mkdtempSync,
	readdirSync,
	readFileSync,
	rmSync,
	statSync,
	writeFileSync,
} from "node:fs";
import { Buffer } from "node:buffer";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { brotliCompressSync, brotliDecompressSync } from "node:zlib";

/**
 * The content of a compressed fixture.
 *
 * @param name Its path in tests/fixtures, without ".json.br".
 */
export function fixture<Content>(name: string): Content {
	return JSON.parse(new TextDecoder().decode(fixtureBytes(`${name}.json`)));
}

/**
 * The bytes of a compressed fixture.
 *
 * @param name Its path in tests/fixtures, without ".br".
 */
export function fixtureBytes(name: string): Uint8Array {
	return brotliDecompressSync(readFileSync(join(import.meta.dirname!, "fixtures", `${name}.br`)));
}

/**
 * A folder with the files of a compressed one: a line of JSON with their names and sizes, and their bytes.
 * It is removed at the end of the process.
 *
 * @param name Its path in tests/fixtures, without ".br".
 */
export function fixtureFolder(name: string): string {
	const folder = mkdtempSync(join(tmpdir(), "billm-fixture-"));
	globalThis.addEventListener("unload", () => rmSync(folder, { recursive: true, force: true }));
	const bytes = fixtureBytes(name);
	let at = bytes.indexOf(10) + 1;
	for (const [path, size] of JSON.parse(new TextDecoder().decode(bytes.subarray(0, at)))) {
		mkdirSync(dirname(join(folder, path)), { recursive: true });
		writeFileSync(join(folder, path), bytes.subarray(at, at += size));
	}
	return folder;
}

function compressed(path: string): Uint8Array {
	if (path.endsWith(".json")) {
		return brotliCompressSync(JSON.stringify(JSON.parse(readFileSync(path, "utf8"))));
	}
	if (!statSync(path).isDirectory()) return brotliCompressSync(readFileSync(path));
	const names = readdirSync(path, { recursive: true, encoding: "utf8" }).sort()
		.filter((name) => statSync(join(path, name)).isFile() && !/\.(br|py)$/.test(name));
	const files = names.map((name) => readFileSync(join(path, name)));
	const head = JSON.stringify(names.map((name, i) => [name, files[i].length]));
	names.forEach((name) => rmSync(join(path, name)));
	return brotliCompressSync(Buffer.concat([Buffer.from(`${head}\n`), ...files]));
}

if (import.meta.main) {
	for (const path of Deno.args) {
		writeFileSync(`${path}.br`, compressed(path));
		if (statSync(path).isFile()) rmSync(path);
	}
}
