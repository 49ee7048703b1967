// Reads compressed fixtures; `deno run -A tests/fixture.ts FILE.json ...` puts FILE.json.br in their place.

import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, brotliDecompressSync } from "node:zlib";

/**
 * The content of a compressed fixture.
 *
 * @param name Its path in tests/fixtures, without ".json.br".
 */
export function fixture<Content>(name: string): Content {
  const path = join(import.meta.dirname!, "fixtures", `${name}.json.br`);
  return JSON.parse(brotliDecompressSync(readFileSync(path)).toString());
}

if (import.meta.main) {
  for (const path of Deno.args) {
    const content = JSON.stringify(JSON.parse(readFileSync(path, "utf8")));
    writeFileSync(`${path}.br`, brotliCompressSync(content));
    rmSync(path);
  }
}
