// Reads compressed fixtures; `deno run -A tests/fixture.ts PATH ...` puts FILE.br in the place of files, and
// FOLDER.json.br in that of the files of folders.

import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
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

/**
 * A folder with the files of a packed one, which goes when the tests end.
 *
 * @param name Its path in tests/fixtures, without ".json.br".
 */
export function fixtureFolder(name: string): string {
  const folder = new TemporaryFolder();
  addEventListener("unload", () => folder[Symbol.dispose]());
  for (const [file, text] of Object.entries(fixture<Record<string, string>>(name))) {
    const path = join(folder.path, file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text, "latin1");
  }
  return folder.path;
}

/** The bytes of each file in a folder as characters, by its path there; without scripts. */
function filesOf(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true }).map(String).sort()
    .filter((name) => statSync(join(folder, name)).isFile() && !name.endsWith(".py"));
  return Object.fromEntries(
    names.map((name) => [name, readFileSync(join(folder, name), "latin1")]),
  );
}

if (import.meta.main) {
  for (const path of Deno.args) {
    const isFolder = statSync(path).isDirectory();
    const content = isFolder
      ? JSON.stringify(filesOf(path))
      : path.endsWith(".json")
      ? JSON.stringify(JSON.parse(readFileSync(path, "utf8")))
      : readFileSync(path);
    writeFileSync(`${path}${isFolder ? ".json" : ""}.br`, brotliCompressSync(content));
    if (isFolder) Object.keys(filesOf(path)).forEach((name) => rmSync(join(path, name)));
    else rmSync(path);
  }
}
