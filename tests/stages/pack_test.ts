import assert from "node:assert/strict";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { loadBillm } from "~/codecs/billm/store.ts";
import { grid } from "~/codecs/grid/codec.ts";
import { dequantizeEmbeddingOnHost } from "~/codecs/embedding/embedding.ts";
import { packedLinears } from "~/codecs/mod.ts";
import { ModelFiles } from "~/models/model_files.ts";
import { PlainWeights } from "~/models/plain_weights.ts";
import type { RunRecord } from "~/pipeline/run/record.ts";
import type { GroupContext, GroupStage } from "~/pipeline/stage.ts";
import { pack } from "~/stages/pack.ts";
import { denoFolder } from "~/storage/deno_folder.ts";
import { randomGrid } from "../codecs/grid/random_grid.ts";
import { contents, type StageItem, Workplace } from "../micro_model.ts";
import { openCheckpoint, openModel } from "../open.ts";

/** The whole method with options of pack. */
function methodWith(place: Workplace, pack: Record<string, unknown>): StageItem[] {
	return place.method.map((stage) => stage === "pack" ? { pack } : stage);
}

async function runWith(
	place: Workplace,
	name: string,
	pack: Record<string, unknown>,
): Promise<RunRecord> {
	const { record } = await place.run({ output: place.path(name), stages: methodWith(place, pack) });
	return record;
}

const PLAIN = { scales: "f16", flags: "plain", embeddings: "stored" };

/** Checks that the record says what is in the files. */
function checkRecord({ packed, layers }: RunRecord): void {
	using checkpoint = openCheckpoint(packed!.folder);
	const stored = packedLinears(checkpoint);
	for (const { name, storedBytes } of layers!.flatMap(({ linears }) => linears)) {
		assert.deepEqual(storedBytes, stored.get(name)!.parts, name);
	}
}

Deno.test("pack: scales in 8 bits are those that the codes stand for, errors small", async () => {
	using place = new Workplace({ layers: 2 });
	const f16 = await runWith(place, "f16", PLAIN);
	const i8 = await runWith(place, "i8", { ...PLAIN, scales: "i8" });
	checkRecord(f16);
	checkRecord(i8);
	assert.ok(i8.packed!.storedBitsByPart.scales < 0.7 * f16.packed!.storedBitsByPart.scales);
	using before = openModel(f16.packed!.folder);
	using after = openModel(i8.packed!.folder);
	const unpack = ({ checkpoint }: ModelFiles, module: string) =>
		loadBillm(checkpoint, `model.layers.${module}`, { cols: 64, blockSize: 32 });
	// The first group has seen no rounding yet: the same bits, other scales.
	for (const module of ["0.self_attn.q_proj", "0.self_attn.k_proj", "0.self_attn.v_proj"]) {
		const [plain, coded] = [unpack(before, module), unpack(after, module)];
		assert.deepEqual(coded.bits, plain.bits);
		assert.deepEqual(coded.salient, plain.salient);
		assert.equal(plain.codes, undefined);
		const perRow = coded.scales.length / coded.rows;
		coded.scales.forEach((scale, i) => {
			const factor = Math.max(
				...coded.codes!.factors.subarray(2 * Math.floor(i / perRow)).subarray(0, 2),
			);
			assert.ok(
				Math.abs(scale - plain.scales[i]) <= 0.501 * factor,
				`${scale}, ${plain.scales[i]}`,
			);
		});
	}
	// Later ones are calibrated on the rounded weights.
	const later = ["1.self_attn.q_proj", "1.mlp.up_proj"];
	assert.ok(later.some((module) => {
		const [plain, coded] = [unpack(before, module), unpack(after, module)];
		return plain.bits.some((word, i) => word !== coded.bits[i]);
	}));
});

Deno.test("pack: the error of an output is that of the weights as they are stored", async () => {
	using place = new Workplace({ layers: 1 });
	const errorOf = async (pack: Record<string, unknown>) => {
		const record = await runWith(place, JSON.stringify(pack), pack);
		return record.layers![0].linears.find(({ name }) => name.endsWith("q_proj"))!;
	};
	const [f16, i8] = [await errorOf(PLAIN), await errorOf({ ...PLAIN, scales: "i8" })];
	assert.notEqual(f16.relativeOutputError, i8.relativeOutputError);
	const change = i8.relativeOutputError! / f16.relativeOutputError!;
	assert.ok(change > 0.99 && change < 1.02, `${change}`);
	const i4 = await errorOf({ ...PLAIN, scales: "i4" });
	const larger = i4.relativeOutputError! / f16.relativeOutputError!;
	assert.ok(larger > 1 && larger < 1.2, `${larger}`);
});

Deno.test("pack: entropy-coded flags stand for the same weights", async () => {
	using place = new Workplace({ layers: 2 });
	const plain = await runWith(place, "plain", PLAIN);
	const entropy = await runWith(place, "entropy", { ...PLAIN, flags: "entropy" });
	checkRecord(entropy);
	assert.deepEqual(
		entropy.layers!.map(({ linears }) => linears.map(({ highFraction }) => highFraction)),
		plain.layers!.map(({ linears }) => linears.map(({ highFraction }) => highFraction)),
	);
	assert.deepEqual(entropy.evaluation, plain.evaluation);
	using a = PlainWeights.open(denoFolder(plain.packed!.folder));
	using b = PlainWeights.open(denoFolder(entropy.packed!.folder));
	for (const name of a.tensors.keys()) {
		assert.deepEqual([...a.chunks(name, 1 << 20)], [...b.chunks(name, 1 << 20)], name);
	}
});

for (const family of ["llama", "opt"] as const) {
	Deno.test(`pack: embeddings and head in few bits, ${family}`, async () => {
		using place = new Workplace({ family, layers: 1 });
		const stored = await runWith(place, "stored", PLAIN);
		const forms = [
			{ embeddings: 8 },
			{ embeddings: 4 },
			{ embeddings: 4, "embeddings-zeros": "free" },
			{ embeddings: 6, "embeddings-group-size": 128 },
		];
		for (const form of forms) {
			const { embeddings: bits, "embeddings-zeros": zeros, "embeddings-group-size": size } = form;
			const packed = await runWith(place, JSON.stringify(form), { ...PLAIN, ...form });
			const hasZeros = bits === 6 || zeros === "free";
			using files = openModel(packed.packed!.folder);
			assert.equal(files.quantization!.format_version, hasZeros ? 5 : 2);
			checkRecord(packed);
			using original = openCheckpoint(place.model);
			using weights = PlainWeights.open(denoFolder(packed.packed!.folder));
			const tables = [...original.tensors.keys()].filter((name) => /embed_/.test(name));
			assert.equal(tables.length, family === "opt" ? 2 : 1);
			let saved = 0;
			for (const name of tables) {
				const { shape: [rows, cols] } = original.get(name);
				assert.deepEqual(weights.get(name).shape, [rows, cols]);
				assert.equal(weights.get(name).dtype, "packed");
				const table = name.slice(0, -".weight".length);
				const found = new Float32Array(rows * cols);
				let at = 0;
				for (const chunk of weights.chunks(name, 1000)) { // no whole number of rows
					found.set(chunk, at);
					at += chunk.length;
				}
				assert.deepEqual(found, dequantizeEmbeddingOnHost(weights.checkpoint, table, 0, rows));
				const group = Math.min(cols, size ?? (bits === 8 || hasZeros ? 64 : 32));
				saved += rows * cols * (16 - bits - (hasZeros ? 32 : 16) / group) / 8;
			}
			// Headers have more names: a few bytes for each table.
			const difference = stored.packed!.bytes - saved - packed.packed!.bytes;
			assert.ok(Math.abs(difference) < 400 * tables.length, `${difference}`);
			const change = packed.evaluation!.packed![0].loss - stored.evaluation!.packed![0].loss;
			assert.ok(Math.abs(change) < ({ 8: 0.01, 6: 0.05, 4: 0.2 }[bits]!), `${change}`);
		}
	});
}

Deno.test("pack: with all options, an interrupted run ends in the same bytes", async () => {
	using place = new Workplace({ layers: 3 });
	const pack = { scales: "i4", flags: "entropy", embeddings: 4 };
	await runWith(place, "whole", pack);
	const controller = new AbortController();
	const fields = { output: place.path("again"), stages: methodWith(place, pack) };
	await assert.rejects(place.run(fields, {
		signal: controller.signal,
		emit: (event) => {
			if (event.type === "layer" && event.layer === 1) controller.abort();
		},
	}));
	const { events } = await place.run(fields);
	assert.ok(events.some((event) => event.type === "start" && event.resumedLayers === 2));
	assert.deepEqual(contents(place.path("again", "model")), contents(place.path("whole", "model")));
});

Deno.test("pack: what the files stand for does not depend on how flags are stored", async () => {
	using place = new Workplace({ layers: 1 });
	const [plain, coded] = ["plain", "entropy"].map(async (flags) => {
		const record = await runWith(place, flags, { flags });
		using weights = PlainWeights.open(denoFolder(record.packed!.folder));
		const [values] = weights.chunks("model.layers.0.mlp.up_proj.weight", 1 << 20);
		return values.slice();
	});
	assert.deepEqual(await coded, await plain);
});

Deno.test("pack refuses embeddings in 4 bits of an odd width before any long work", async () => {
	using place = new Workplace({ layers: 1, family: "opt", hidden: 63, heads: 3 });
	await assert.rejects(
		() => runWith(place, "out", { embeddings: 4 }),
		new UserError(
			"Cannot pack the embeddings in 4 bits: they are 63 wide, which is odd; use embeddings: 8, " +
				"or embeddings-zeros: free",
		),
	);
	await assert.rejects(
		() => Deno.stat(join(place.folder, "out", "run.json")),
		Deno.errors.NotFound,
	);
});

Deno.test("pack: scales that f16 cannot hold are refused with the name of their tensor", async () => {
	const { host } = randomGrid({
		rows: 3,
		cols: 64,
		groupSize: 32,
		grid: "range",
		bits: 2,
		salient: false,
	}, 0);
	host.fits[2] = 1e5;
	const linear = { name: "a.b", draft: { codec: grid, download: () => Promise.resolve(host) } };
	const context = { linears: [linear] } as unknown as GroupContext;
	await assert.rejects(
		(pack as GroupStage).run(context, pack.options.parse({})),
		new UserError(
			'Cannot pack "a.b": 1 values of "a.b.grid_scales" are NaN or exceed the range of f16; ' +
				"use another method, or more calibration text if the method uses any",
		),
	);
});

Deno.test("pack: shard-bytes splits the tensors outside the layers between files, and changes none", async () => {
	using place = new Workplace({ family: "opt", layers: 1 });
	const run = async (name: string, pack: Record<string, unknown>) => {
		const stages = [place.method[0], { rtn: { bits: 4 } }, { pack }];
		const { record } = await place.run({ output: place.path(name), stages });
		return record;
	};
	const whole = await run("whole", {});
	const split = await run("split", { "shard-bytes": "0.1MB" });
	checkRecord(split);
	const contentOf = ({ packed }: RunRecord) => {
		using checkpoint = openCheckpoint(packed!.folder);
		const tensors = [...checkpoint.tensors.values()].sort((a, b) => a.name < b.name ? -1 : 1);
		return tensors.map(({ name, file }) => ({ name, file, bytes: checkpoint.readBytes(name) }));
	};
	const [before, after] = [contentOf(whole), contentOf(split)];
	const plain = ({ name, bytes }: { name: string; bytes: Uint8Array }) => ({ name, bytes });
	assert.deepEqual(after.map(plain), before.map(plain));
	const filesOf = ({ packed }: RunRecord) =>
		packed!.files.filter(({ name }) => name.endsWith(".safetensors")).map(({ name }) => name);
	const names = (count: number) =>
		Array.from({ length: count }, (_, i) => `model-0000${i + 1}-of-0000${count}.safetensors`);
	assert.deepEqual(filesOf(whole), names(2));
	assert.deepEqual(filesOf(split), names(4));
	// The embedding is larger than that, so it is alone; the tensors of the layer are in the last file.
	for (const [file, content] of Object.entries(Object.groupBy(after, ({ file }) => file))) {
		const size = content!.reduce((sum, { bytes }) => sum + bytes.length, 0);
		const isLayer = file.includes("00004-of");
		assert.equal(isLayer, content!.every(({ name }) => name.includes("layers.0.")), file);
		if (!isLayer && size > 1e5) {
			assert(content!.every(({ name }) => /embed_tokens/.test(name)), file);
		}
	}
	assert.equal(split.packed!.storedBits, whole.packed!.storedBits);
});
