import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { bundleForBrowsers } from "./bundle.ts";

const PAGE = join(import.meta.dirname!, "../../web/page");

/** The modules of the page, by the names of their bundles. */
const MODULES = {
	"page.js": "web/page/page.ts",
	"worker.js": "web/page/worker_start.ts",
	"service_worker.js": "web/page/service_worker.ts",
};

/** The files of the page, by name. */
export type PageFiles = Map<string, string | Uint8Array<ArrayBuffer>>;

/**
 * The files of the page.
 *
 * @param model The path of the model that the page is to suggest.
 */
export async function pageFiles(model?: string): Promise<PageFiles> {
	const scratch = mkdtempSync(join(tmpdir(), "billm-web-"));
	try {
		const files: PageFiles = new Map();
		for (const name of ["index.html", "page.css"]) {
			files.set(name, readFileSync(join(PAGE, name), "utf8"));
		}
		for (const [name, entry] of Object.entries(MODULES)) {
			files.set(name, await bundleForBrowsers(entry, scratch));
		}
		const worker = await bundleForBrowsers("web/page/worker.ts", scratch);
		files.set("worker.packed", new Uint8Array(gzipSync(worker, { level: 9 })));
		return files.set("site.json", JSON.stringify({ generator: "billm", model }));
	} finally {
		rmSync(scratch, { recursive: true });
	}
}
