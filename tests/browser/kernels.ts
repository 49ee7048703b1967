/**
 * Every WGSL text with the compiler of Chromium (Tint): `deno task test:browser`, with a Chromium on
 * the machine (Debian: apt-get install chromium).
 */
import assert from "node:assert/strict";
import { needsOf } from "../../gpu/kernel.ts";
import { browserGpu } from "../../hosts/browser_gpu.ts";
import { KERNEL_TEXTS } from "../gpu/kernel_texts.ts";
import { WebPage } from "./web_page.ts";

/** Texts that are sent to the page at a time. */
const BATCH = 50;

/** Runs in the page: what the compiler says of texts, by name. */
async function compile(texts: [name: string, code: string][]): Promise<[string, string][]> {
	const adapter = await navigator.gpu.requestAdapter();
	if (!adapter?.features.has("subgroups")) throw new Error("The adapter has no subgroups");
	const device = await adapter.requestDevice({ requiredFeatures: ["subgroups"] });
	const complaints: [string, string][] = [];
	for (const [name, code] of texts) {
		device.pushErrorScope("validation");
		const module = device.createShaderModule({ code });
		const { messages } = await module.getCompilationInfo();
		await device.popErrorScope();
		for (const { type, lineNum, message } of messages) {
			if (type === "info") continue;
			complaints.push([name, `${type} in line ${lineNum}: ${message}`]);
			break;
		}
	}
	device.destroy();
	return complaints;
}

const host = browserGpu();

/** What only compilers of other hosts take: f64, and a wait for a subgroup alone. */
const isForOthers = (text: string) =>
	needsOf(text).some((need) => need === "f64" || need === "subgroup barriers");

Deno.test("every kernel that a browser can run is valid for Tint", async () => {
	await using page = await WebPage.open();
	const texts = [...KERNEL_TEXTS].filter(([, text]) => !isForOthers(text))
		.map(([name, text]): [string, string] => [name, host.prelude!(needsOf(text)) + text]);
	assert(texts.length > 500);
	const complaints: [string, string][] = [];
	for (let i = 0; i < texts.length; i += BATCH) {
		complaints.push(...await page.call(compile, texts.slice(i, i + BATCH)));
	}
	assert.deepEqual(Object.fromEntries(complaints), {});
	const bare = [...KERNEL_TEXTS].find(([, text]) => needsOf(text).join() === "subgroups")!;
	const [[, problem]] = await page.call(compile, [bare]);
	assert.match(problem, /subgroups/, "the prelude is needed");
	const [[damaged]] = await page.call(compile, [["damaged", "fn main() { let x: u32 = 1.5; }"]]);
	assert.equal(damaged, "damaged", "the compiler is asked");
});
