// Reads compressed fixtures; `deno run -A tests/fixture.ts FILE ...` puts FILE.br in their place.

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
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

if (import.meta.main) {
  for (const path of Deno.args) {
    const bytes = readFileSync(path);
    const isJson = path.endsWith(".json");
    const content = isJson ? JSON.stringify(JSON.parse(bytes.toString())) : bytes;
    writeFileSync(`${path}.br`, brotliCompressSync(content));
    rmSync(path);
  }
}
