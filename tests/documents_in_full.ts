// Runs all commands of README and docs/ that a machine without a network can run, as they are written.

import { blocksOf, PAGES, runBlocks } from "./documents.ts";
import { TemporaryFolder } from "./temporary_folder.ts";

Deno.test("all commands of README and docs/ run as they are written", async () => {
	using folder = new TemporaryFolder();
	const blocks = PAGES.flatMap(blocksOf).filter(({ marker }) => marker.startsWith("run"));
	await runBlocks(blocks, folder.path);
});
