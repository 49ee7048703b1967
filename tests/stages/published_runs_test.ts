// Runs with ARB-LLM and HBLLM: what is written is what was measured, also after an interruption.

import assert from "node:assert/strict";
import { packedLinears } from "~/codecs/mod.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { openCheckpoint } from "../open.ts";
import { startTask } from "../start_task.ts";

const ARB: StageItem[] = ["split-search", { arb: { "block-size": 32, iterations: 3 } }];
const HBLLM: StageItem[] = [{ hbllm: { variant: "column", "block-size": 32 } }];

function chain(
	{ calibrate, evaluate }: Workplace,
	own: StageItem[],
	isWhole: boolean,
): StageItem[] {
	return [
		"download",
		calibrate,
		...(isWhole ? ["rotate"] : []),
		"hessian",
		...(isWhole ? ["propagate-error"] : []),
		{ "salient-select": { "max-columns": 8, "norm": "l2" } },
		...own,
		...(isWhole ? [{ "row-search": { rounds: 1, moves: 0.2 } }, "refit-norm"] : []),
		"pack",
		evaluate,
	];
}

for (const [name, own, family] of [["arb", ARB, "llama"], ["hbllm", HBLLM, "opt"]] as const) {
	const isWhole = name === "arb";
	const what = isWhole ? "corrected: what is written is what was measured, and resumes" : "alone";
	Deno.test(`${name} of ${family}, ${what}`, async () => {
		// No width is a multiple of 32.
		const layers = isWhole ? 2 : 1;
		using place = new Workplace({ layers, family, hidden: 48, intermediate: 80, heads: 4 });
		const stages = chain(place, own, isWhole);
		const { record } = await place.run({ stages });
		const { packed } = record;
		using checkpoint = openCheckpoint(packed!.folder);
		const stored = packedLinears(checkpoint);
		for (const linear of record.layers!.flatMap(({ linears }) => linears)) {
			assert.equal(linear.method, name);
			assert.deepEqual(linear.storedBytes, stored.get(linear.name)!.parts);
			assert.ok(linear.relativeOutputError! > 0 && linear.relativeOutputError! < 1);
		}
		await place.assertStandsForPlain(record);
		if (!isWhole) return;
		assert.deepEqual(await place.resumed({ stages }), contents(place.path("out", "model")));
		const inspected = await startTask("inspect", [packed!.folder]);
		assert.equal(inspected.code, 0, inspected.stderr);
		assert.match(inspected.stdout, new RegExp(`packed by ${name}, format version 6`));
		assert.match(inspected.stdout, /salient +high +paper +stored +signs +flags +salient +scales/);
	});
}

Deno.test("a chain has one stage that quantizes, and row-search says so early where it cannot", async () => {
	using place = new Workplace({ layers: 1 });
	const fails = (own: StageItem[], message: RegExp) =>
		assert.rejects(place.run({ stages: chain(place, own, false) }), { message });
	await fails([...ARB, ...HBLLM], /"hbllm" makes no use of "block-error", which stage "arb" gives/);
	await fails([{ arb: {} }], /"arb" needs "zones", which stage "split-search" gives/);
	await fails([{ hbllm: { assign: "fit" } }], /hbllm\.(refine|feedback) must be/);
});
