import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sum } from "~/base/figures.ts";
import type { RunEvent } from "~/pipeline/run/events.ts";
import type { RunRecord } from "~/pipeline/run/record.ts";
import { batchesFor } from "~/stages/measure_losses.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";

const GPTQ = { "group-size": 32 };

function stages(
	place: Workplace,
	allocate: Record<string, unknown>,
	quantizer: StageItem = { gptq: GPTQ },
): StageItem[] {
	return [
		"download",
		place.calibrate,
		{ allocate: { windows: 4, ...allocate } },
		{ rotate: { block: 32 } },
		"hessian",
		"propagate-error",
		quantizer,
		{ pack: { embeddings: 4 } },
	];
}

function linearsOf(record: RunRecord) {
	return record.layers!.flatMap(({ linears }) => linears);
}

/** The losses in a file of sensitivities, by linear layer and rate. */
function lossesIn(path: string): Record<string, Record<string, number>> {
	return JSON.parse(readFileSync(path, "utf8")).losses;
}

function measures(events: RunEvent[]): boolean {
	return events.some((event) => event.type === "progress" && event.stage === "allocate");
}

Deno.test("allocate: the choice meets the target and is what is quantized", async (t) => {
	using place = new Workplace({ layers: 2 });
	const target = 4.7;
	const { record, events } = await place.run({ stages: stages(place, { "target-bits": target }) });
	const file = place.path("out", "sensitivities.json");
	const losses = lossesIn(file);

	await t.step("each linear layer has the bits of the record", () => {
		const { allocation } = record;
		const linears = linearsOf(record);
		assert.deepEqual(Object.keys(allocation!), linears.map(({ name }) => name));
		for (const { name, paperBits } of linears) {
			assert.deepEqual(allocation![name], { bits: paperBits });
		}
		const { storedBits } = record.packed!;
		assert.ok(storedBits <= target && storedBits > target - 0.7, `${storedBits}`);
		assert.ok(new Set(linears.map(({ paperBits }) => paperBits)).size > 1);
	});

	await t.step("a table says it", () => {
		const text = events.flatMap((event) =>
			event.type === "stage" && event.stage === "allocate" ? event.text : []
		);
		assert.match(text[0], /^4\.\d+ bits per weight for the target of 4\.7 bits per weight; sum of/);
		assert.equal(text.length, 8);
		assert.match(text[7], /^mlp\.down_proj +bits \d in \d layers?/);
	});

	await t.step(
		"a loss is the KL divergence of the model with this linear layer quantized",
		async () => {
			for (
				const [name, bits] of [
					["model.layers.1.mlp.up_proj", 2],
					["model.layers.0.self_attn.v_proj", 3],
				] as const
			) {
				const skip = Object.keys(losses).filter((other) => other !== name);
				const dataset = place.path("out", "calibration.safetensors");
				const entry = { dataset, "sequence-length": 32, "kl-windows": "all" };
				const { record } = await place.run({
					output: place.path(`alone${bits}`),
					stages: [
						"download",
						place.calibrate,
						{ rotate: { block: 32 } },
						"hessian",
						{ gptq: { ...GPTQ, bits, skip } },
						{ pack: { embeddings: "stored" } },
						{ evaluate: { perplexity: [entry], cache: false } },
					],
				});
				const { kl } = record.evaluation!.packed![0].divergence!;
				assert.ok(Math.abs(losses[name][bits] / kl - 1) < 0.02, `${losses[name][bits]} ${kl}`);
			}
		},
	);

	await t.step("fewer bits lose more", () => {
		const totals = [2, 3, 4].map((bits) => sum(Object.values(losses).map((of) => of[bits])));
		assert.ok(totals[0] > 2 * totals[1] && totals[1] > 2 * totals[2], `${totals}`);
	});

	await t.step(
		"the sensitivities serve another target, and are measured for other stages",
		async () => {
			const again = (allocate: Record<string, unknown>, quantizer?: StageItem) =>
				place.run({
					output: place.path("again"),
					stages: stages(place, { sensitivities: file, ...allocate }, quantizer),
				}, { overwrite: true });
			const other = await again({ "target-bits": 5.2 });
			assert.ok(!measures(other.events));
			assert.ok(other.record.packed!.storedBits > record.packed!.storedBits);
			assert.deepEqual(lossesIn(file), losses);
			const narrow = await again({ "target-bits": 5.2, candidates: [2, 4] });
			assert.ok(!measures(narrow.events));
			assert.deepEqual(new Set(linearsOf(narrow.record).map((l) => l.paperBits)), new Set([2, 4]));
			const changed = await again({ "target-bits": 5.2 }, { gptq: { ...GPTQ, order: "none" } });
			assert.ok(measures(changed.events));
			const warnings = changed.events.flatMap((e) => e.type === "warning" ? e.message : []);
			assert.ok(
				warnings.some((message) => /measured anew: the stages or their options/.test(message)),
			);
			assert.notDeepEqual(lossesIn(file), losses);
		},
	);
});

Deno.test("allocate: cheap measures one rate and estimates the others near the full ones", async () => {
	using place = new Workplace({ layers: 4 });
	const losses = [];
	const chosen: NonNullable<RunRecord["allocation"]>[] = [];
	for (const mode of ["full", "cheap"]) {
		const sensitivities = place.path(`${mode}.json`);
		const { record } = await place.run({
			output: place.path(mode),
			stages: stages(place, { "target-bits": 4.7, mode, sensitivities }),
		});
		losses.push(lossesIn(sensitivities));
		chosen.push(record.allocation!);
	}
	const [full, cheap] = losses;
	const ratio = (name: string, bits: number) => cheap[name][bits] / cheap[name][3];
	for (const [name, of] of Object.entries(full)) {
		assert.ok(Math.abs(cheap[name][3] / of[3] - 1) < 1e-3, name);
		const [, layer, module] = /^model\.layers\.(\d)\.(.*)$/.exec(name)!;
		for (const bits of [2, 4]) {
			const found = cheap[name][bits] / of[bits];
			assert.ok(found > 0.3 && found < 3, `${name} ${bits}: ${found}`);
			const tried = ratio(`model.layers.1.${module}`, bits);
			const isTaken = Math.abs(ratio(name, bits) / tried - 1) < 1e-6;
			assert.equal(isTaken, Number(layer) > 0, `${name} ${bits}`);
		}
	}
	const names = Object.keys(chosen[0]);
	const alike = names.filter((name) => chosen[0][name].bits === chosen[1][name].bits);
	assert.ok(alike.length >= 0.7 * names.length, `${alike.length} of ${names.length}`);
});

Deno.test("Hessians of estimates take the first batches with 16 tokens for each column", () => {
	const batches = [2, 3, 1].map((windows) =>
		Array.from({ length: windows }, () => new Int32Array(8))
	);
	for (const [cols, expected] of [[1, 1], [1.5, 2], [2.5, 2], [2.6, 3], [3, 3], [100, 3]]) {
		assert.equal(batchesFor(batches, cols), expected, `${cols} columns`);
	}
});

Deno.test("allocate: a size in bytes holds for the weight files", async () => {
	using place = new Workplace({ layers: 2 });
	for (const size of [0.19, 0.198]) {
		const sensitivities = place.path("sensitivities.json");
		const { record } = await place.run({
			output: place.path(`out${size}`),
			stages: stages(place, { "target-size": `${size}MB`, sensitivities }),
		});
		const { bytes, folder, files } = record.packed!;
		const onDisk = sum(
			files.filter(({ name }) => name.endsWith(".safetensors"))
				.map(({ name }) => statSync(join(folder, name)).size),
		);
		assert.equal(bytes, onDisk);
		assert.ok(bytes <= size * 1e6 && bytes > 0.93 * size * 1e6, `${bytes}`);
	}
});

Deno.test("allocate: rules of the file come first", async () => {
	using place = new Workplace({ layers: 2 });
	const gptq = {
		...GPTQ,
		overrides: { "*.q_proj": { bits: 8 }, "*.k_proj": { zeros: "symmetric" } },
		skip: ["*.0.mlp.down_proj"],
	};
	const { record } = await place.run({
		stages: stages(place, { "target-bits": 6.3, candidates: [2, 3] }, { gptq }),
	});
	const { allocation } = record;
	for (const { name, paperBits, dense } of linearsOf(record)) {
		if (name.endsWith("q_proj")) assert.deepEqual([paperBits, allocation![name]], [8, undefined]);
		else if (name.endsWith("0.mlp.down_proj")) {
			assert.deepEqual([dense, allocation![name]], [true, undefined]);
		} else assert.deepEqual(allocation![name], { bits: paperBits });
	}
	assert.ok(record.packed!.storedBits <= 6.3);
});

for (
	const [quantizer, option, rates] of [
		[{ trellis: { table: 8 } }, "bits", [1, 2]],
		[{ levels: { rounds: 0 } }, "count", [2, 3, 4, 5, 8]],
		[{ rtn: { "group-size": 32 } }, "bits", [2, 3, 4]],
	] as const
) {
	Deno.test(`allocate works with ${JSON.stringify(quantizer)}`, async () => {
		using place = new Workplace({ layers: 1, intermediate: 128 });
		const target = option === "count" ? 3.6 : "rtn" in quantizer ? 4.2 : 3;
		const { record } = await place.run({
			stages: stages(place, { "target-bits": target }, quantizer),
		});
		const losses = lossesIn(place.path("out", "sensitivities.json"));
		for (const of of Object.values(losses)) {
			assert.deepEqual(Object.keys(of).map(Number), [...rates]);
		}
		for (const { name } of linearsOf(record)) {
			assert.ok((rates as readonly unknown[]).includes(record.allocation![name][option]));
		}
		assert.ok(record.packed!.storedBits <= target);
		// What was planned is what is stored, but for the header.
		const { headers, ...parts } = record.packed!.storedBitsByPart;
		assert.ok(headers > 0 && sum(Object.values(parts)) < target);
	});
}

Deno.test("allocate: an interrupted run goes on without measuring and ends in the same bytes", async () => {
	using place = new Workplace({ layers: 2 });
	const fields = { stages: stages(place, { "target-bits": 4.7 }) };
	await place.run(fields);
	assert.deepEqual(await place.resumed(fields), contents(place.path("out", "model")));
});

Deno.test("allocate: what is impossible is refused before anything is measured", async () => {
	using place = new Workplace({ layers: 1 });
	const refused = async (
		message: RegExp,
		allocate: Record<string, unknown>,
		quantizer?: StageItem,
	) => {
		const events: RunEvent[] = [];
		const emit = (event: RunEvent) => void events.push(event);
		const fields = { stages: stages(place, allocate, quantizer) };
		await assert.rejects(place.run(fields, { emit }), { message });
		assert.ok(!measures(events));
	};
	await refused(
		/^The target-bits 2 are below what the smallest rates take, 3\.\d+ bits per weight$/,
		{ "target-bits": 2 },
	);
	await refused(
		/^The target-size 0\.1 MB is below the smallest size, 0\.2 MB: 7 linear layers with at least/,
		{ "target-size": "0.1MB" },
	);
	await refused(
		/^Candidate 5 of allocate is no bits of stage "gptq" with its other options; it has 2, 3, 4$/,
		{ "target-bits": 4, candidates: [3, 5] },
	);
	await refused(/allocate.target-bits must stand alone, or target-size in its place/, {});
	await refused(/target-bits must stand alone/, { "target-bits": 3, "target-size": "1MB" });
	await refused(
		/^Stage "allocate" has nothing to choose: overrides and skip of gptq set the rate of every/,
		{ "target-bits": 4 },
		{ gptq: { ...GPTQ, overrides: { "*": { bits: 2 } } } },
	);
	await refused(
		/^Stage "allocate" needs a stage behind it that quantizes at several rates, such as gptq or/,
		{ "target-bits": 4 },
		{ "pb-llm": {} },
	);
	writeFileSync(place.path("other.json"), '{"a": 1}');
	await refused(/holds no sensitivities of this program; give another file, which is written if/, {
		"target-bits": 4,
		sensitivities: place.path("other.json"),
	});
});
