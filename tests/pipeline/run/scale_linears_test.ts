import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Decoder } from "../../../models/decoder.ts";
import { ModelFiles } from "../../../models/model_files.ts";
import { PlainWeights } from "../../../models/plain_weights.ts";
import { exponentFor } from "../../../pipeline/run/scale_linears.ts";
import { countWeights } from "../../../report/histograms.ts";
import { denoFolder } from "../../../storage/deno_folder.ts";
import { openGpu } from "../../gpu/open_gpu.ts";
import { startTask } from "../../start_task.ts";
import { type MicroTensor, type StageItem, Workplace } from "../../micro_model.ts";

const gpu = await openGpu();
const SIZE = { layers: 1, intermediate: 96, dtype: "F32" } as const;
const FACTORS = [2 ** 23, 1e7, 1e-7];

/** Values times a factor into a product and divided by it in the next: the same function. */
function scaled(factor: number) {
	return (tensors: Map<string, MicroTensor>) => {
		for (const [name, { values }] of tensors) {
			const change = name.includes("v_proj") ? factor : name.includes("o_proj") ? 1 / factor : 1;
			values.forEach((value, i) => values[i] = value * change);
		}
	};
}

Deno.test("the exponent brings the largest weight to 1 .. 2 if it is far from there", () => {
	const usual = [0, 2 ** -8, 0.1, 1, 2 ** 8];
	assert.deepEqual(usual.map(exponentFor), usual.map(() => 0));
	assert.deepEqual([257, 1e7, 0.0039, 1e-7].map(exponentFor), [8, 23, -9, -24]);
	assert.deepEqual([3e38, 1e-38, 1e-42].map(exponentFor), [126, -126, -126]);
});

const CHAINS: Record<string, (place: Workplace) => StageItem[]> = {
	"BiLLM": ({ method }) => method,
	"GPTQ, rotated": (place) => [
		...["download", place.calibrate, "rotate", "hessian"],
		...[{ gptq: { bits: 3, "group-size": 32 } }, "pack", place.evaluate],
	],
	"round to nearest": (place) => ["download", { rtn: { bits: 3 } }, "pack", place.evaluate],
};

for (const [name, chain] of Object.entries(CHAINS)) {
	Deno.test(`a model whose layers are scaled up and down is quantized as well: ${name}`, async () => {
		const run = async (place: Workplace) => {
			const { record } = await place.run({ gpu: { adapter: "software" }, stages: chain(place) });
			return record;
		};
		using usual = new Workplace(SIZE);
		const wanted = await run(usual);
		assert.ok(wanted.layers![0].linears.every(({ exponent }) => exponent === undefined));
		for (const factor of FACTORS) {
			using place = new Workplace({ ...SIZE, alter: scaled(factor) });
			const record = await run(place);
			const { original: [original], packed } = record.evaluation!;
			const loss = wanted.evaluation!.packed![0].loss;
			assert.ok(Math.abs(original.loss - wanted.evaluation!.original[0].loss) < 1e-4);
			const packedLoss = packed![0].loss;
			if (factor === 2 ** 23) assert.equal(packedLoss, loss);
			else assert.ok(Math.abs(packedLoss / loss - 1) < 0.01, `${packedLoss}, not ${loss}`);
			for (const { name, exponent, relativeOutputError } of record.layers![0].linears) {
				const isScaled = /[vo]_proj/.test(name);
				assert.equal(exponent !== undefined, isScaled, name);
				const { relativeOutputError: error } = wanted.layers![0].linears.find((linear) =>
					linear.name === name
				)!;
				if (error) assert.ok(Math.abs(relativeOutputError! / error - 1) < 0.05, name);
			}
			const folder = denoFolder(join(place.path("out"), "model"));
			for (const histogram of await countWeights(place.model, folder.path, record.layers!, [0])) {
				const { name, rms, errorRms } = histogram;
				assert.ok(errorRms < 0.7 * rms, `${name}: ${errorRms} of ${rms}`);
			}
			const config = JSON.parse(readFileSync(join(folder.path, "config.json"), "utf8"));
			assert.equal(config.quantization_config.format_version, 4);
			using stored = PlainWeights.open(folder);
			using model = ModelFiles.open(folder);
			using decoder = new Decoder(gpu, model);
			using layer = await decoder.loadLayer(0);
			for (const module of ["self_attn.v_proj", "self_attn.o_proj"]) {
				const { weight } = layer.linear(module);
				const tensor = `model.layers.0.${module}.weight`;
				assert.deepEqual(await gpu.read(weight.matrix), stored.rowsOf(tensor)(0, weight.rows));
			}
			if (name === "round to nearest") await dequantizes(place, folder.path);
		}
	});
}

/** What dequantize writes is the packed model, in f32 where f16 would lose it. */
async function dequantizes(place: Workplace, packed: string): Promise<void> {
	const plain = place.path("plain");
	assert.equal((await startTask("dequantize", [packed, plain])).code, 0);
	const { stdout } = await startTask("compare", [packed, plain, "--json"]);
	const { differences } = JSON.parse(stdout);
	for (const { name, relativeRms } of differences) {
		assert.ok(relativeRms < 1e-3 && !/[vo]_proj/.test(name), `${name}: ${relativeRms}`);
	}
	const config = JSON.parse(readFileSync(join(plain, "config.json"), "utf8"));
	assert.equal(config.torch_dtype, "float32");
	using model = ModelFiles.open(denoFolder(plain));
	const dtypes = ["v_proj", "o_proj", "q_proj"].map((module) =>
		model.checkpoint.get(`model.layers.0.self_attn.${module}.weight`).dtype
	);
	assert.deepEqual(dtypes, ["F32", "F32", "F16"]);
}

Deno.test("rows that are far smaller than the others are named by a warning", async () => {
	const alter = (tensors: Map<string, MicroTensor>) => {
		for (const [name, { values, shape }] of tensors) {
			if (name.includes("v_proj")) values.fill(1e7, 0, shape[1]); // its first row
		}
	};
	using place = new Workplace({ ...SIZE, alter });
	const { events } = await place.run({
		gpu: { adapter: "software" },
		stages: ["download", { rtn: { bits: 3 } }, "pack"],
	});
	const warnings = events.flatMap((event) => event.type === "warning" ? [event.message] : []);
	assert.equal(warnings.length, 1);
	assert.match(
		warnings[0],
		/^\d+ rows of "model\.layers\.0\.self_attn\.v_proj" are so small beside/,
	);
});
