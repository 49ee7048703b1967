// Reads compressed fixtures; `deno run -A tests/fixture.ts FILE ...` puts FILE.br in their place.

import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, brotliDecompressSync } from "node:zlib";
import { TemporaryFolder } from "./temporary_folder.ts";

/** The bytes of a compressed fixture by its path in tests/fixtures, without ".br". */
export function fixtureBytes(name: string): Uint8Array<ArrayBuffer> {
  const path = join(import.meta.dirname!, "fixtures", `${name}.br`);
  return new Uint8Array(brotliDecompressSync(readFileSync(path)));
}

/**
 * The content of a compressed fixture.
 *
 * @param name Its path in tests/fixtures, without ".json.br".
 */
export function fixture<Content>(name: string): Content {
  return JSON.parse(new TextDecoder().decode(fixtureBytes(`${name}.json`)));
}

/** A folder with the files of a compressed one in tests/fixtures, which goes when the tests end. */
export function fixtureFolder(name: string): string {
  const folder = new TemporaryFolder();
  addEventListener("unload", () => folder[Symbol.dispose]());
  for (const file of readdirSync(join(import.meta.dirname!, "fixtures", name))) {
    const own = file.replace(/\.br$/, "");
    if (own !== file) writeFileSync(join(folder.path, own), fixtureBytes(`${name}/${own}`));
  }
  return folder.path;
}

if (import.meta.main) {
  for (const path of Deno.args) {
    const text = readFileSync(path);
    const isJson = path.endsWith(".json");
    const content = isJson ? JSON.stringify(JSON.parse(text.toString())) : text;
    writeFileSync(`${path}.br`, brotliCompressSync(content));
    rmSync(path);
  }
}
