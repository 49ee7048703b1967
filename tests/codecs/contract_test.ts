// What every codec must do, whatever it stores.

import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import type { BillmHost } from "~/codecs/billm/host.ts";
import type { Codec, HostLinear, InputTransform, StoreForm } from "~/codecs/codec.ts";
import {
	codecOf,
	CODECS,
	dequantizedLinear,
	linearMatrix,
	loadLinear,
	packedLinears,
	storeLinear,
	uploadLinear,
	uploadLinears,
} from "~/codecs/mod.ts";
import { type QuantizationConfig, rotationConfigOf } from "~/codecs/quantization_config.ts";
import { undoOnHost } from "~/gpu/kernels/rotation/rotation.ts";
import { Checkpoint } from "~/storage/checkpoint.ts";
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { gpu } from "../gpu/gpu.ts";
import { written } from "../open.ts";
import { normals } from "../reference/random.ts";
import { TemporaryFolder } from "../temporary_folder.ts";
import { productReference, randomPacked } from "./billm/random_packed.ts";
import { LEVEL_KINDS } from "~/codecs/levels/levels.ts";
import { randomArb } from "./arb/random_arb.ts";
import { randomGrid } from "./grid/random_grid.ts";
import { randomHaar } from "./haar/random_haar.ts";
import { randomLevels } from "./levels/random_levels.ts";
import { randomTrellis } from "./trellis/random_trellis.ts";

const NAME = "model.layers.0.mlp.up_proj";
const [ROWS, COLS, BLOCK] = [70, 208, 64];

const QUANTIZATION: QuantizationConfig = {
	quant_method: "billm",
	format_version: 6,
	block_size: BLOCK,
	columns: { [NAME]: COLS },
};

/** What the input goes through before the product. */
const TRANSFORMS: (InputTransform | undefined)[] = [
	undefined,
	{ rotation: { seed: 3, block: 16 } },
	{ rotation: { seed: 3, block: 16 }, exponent: -3 },
	{ exponent: 20 },
];
const FORMS: StoreForm[] = [{ scales: "f16", flags: "plain" }, { scales: "f16", flags: "entropy" }];

/** Linear layers of each codec with all the tensors that it has. */
const SAMPLES: Record<string, () => HostLinear[]> = {
	billm: () => {
		const layout = { rows: ROWS, cols: COLS, blockSize: BLOCK, zones: 2, planes: 3 } as const;
		return [false, true].map((coded): BillmHost => {
			const { host } = randomPacked(layout, 1, { coded });
			// A row's bits end with its columns, and a weight that is salient has no zone.
			clearPadding(host);
			if (host.codes === undefined) delete host.codes;
			return host;
		});
	},
	trellis: () => {
		const size = { rows: ROWS, cols: COLS } as const;
		return [
			randomTrellis({ ...size, bits: 2, stateBits: 12 }, true).host,
			randomTrellis({ ...size, bits: 2.5, stateBits: 12 }).host,
			randomTrellis({ ...size, bits: 1, stateBits: 8 }, true).host,
		];
	},
	grid: () => {
		const size = { rows: ROWS, cols: COLS, groupSize: BLOCK, grid: "range" } as const;
		return [
			randomGrid({ ...size, bits: 3, salient: false }, 0).host,
			randomGrid({ ...size, bits: 3, salient: true }, 0.1).host,
			...(["middle", "symmetric", "half", "free"] as const).map((zeros, i) =>
				randomGrid({ ...size, zeros, bits: i % 2 ? 2 : 4, salient: false }, 0, i > 1).host
			),
			randomGrid({ ...size, zeros: "free", bits: 2, salient: true }, 0.1, true).host,
		];
	},
	arb: () =>
		[true, false].map((bitmap) =>
			randomArb({ rows: ROWS, cols: COLS, blockSize: BLOCK, columnScales: bitmap, bitmap })
		),
	haar: () =>
		(["row", "column"] as const).map((axis) =>
			randomHaar({ rows: ROWS, cols: COLS, blockSize: BLOCK, axis })
		),
	levels: () => LEVEL_KINDS.map((kind) => randomLevels({ rows: ROWS, cols: COLS, ...kind }).host),
};

function clearPadding({ rows, cols, planes, zones, bits, salient }: BillmHost): void {
	const width = Math.ceil(cols / 32);
	const stored = Math.max(zones, planes);
	for (let plane = 0; plane < stored; plane++) {
		for (let i = 0; i < rows * width; i++) {
			const word = i % width;
			const end = Math.min(32, cols - 32 * word);
			let kept = end < 32 ? 2 ** end - 1 : 0xffffffff;
			if (plane >= zones) kept &= salient[word]; // further signs are those of salient weights
			bits[plane * rows * width + i] &= kept;
		}
	}
}

for (const codec of CODECS) {
	const samples = SAMPLES[codec.name]();
	const packed = samples.flatMap((host) =>
		TRANSFORMS.map((transform) => ({ codec, host, ...(transform && { transform }) }))
	);

	Deno.test(`${codec.name}: what is loaded is what was stored, and its parts are its bytes`, () => {
		for (const linear of packed) {
			for (const form of FORMS) {
				using folder = new TemporaryFolder();
				const { tensors, parts } = storeLinear(NAME, linear, form);
				using checkpoint = written(folder.path, tensors);
				assert.equal(codecOf(checkpoint, NAME), codec);
				const rotation = rotationConfigOf([{ name: NAME, module: NAME, ...linear.transform }]);
				const quantization = { ...QUANTIZATION, ...(rotation && { rotation }) };
				assert.deepEqual(loadLinear(checkpoint, quantization, NAME), linear, JSON.stringify(form));
				const found = packedLinears(checkpoint).get(NAME)!;
				assert.deepEqual(found.parts, parts);
				assert.deepEqual(found.tensors.sort(), tensors.map(({ name }) => name).sort());
				const bytes = [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
				assert.equal(Object.values(parts).reduce((a, b) => a + b), bytes);
				assert.equal(parts.exponent, linear.transform?.exponent && 4);
				delete parts.exponent; // has no column
				for (const part of Object.keys(parts)) {
					const columns = Object.values(codec.sizeColumns).flat();
					assert.equal(columns.filter((name) => name === part).length, 1, `a column for ${part}`);
				}
			}
		}
	});

	Deno.test(`${codec.name}: host and GPU dequantize to the same bits, whole and row by row`, async () => {
		for (const linear of packed) {
			const values = dequantizedLinear(linear);
			using matrix = await linearMatrix(gpu, linear);
			assert.deepEqual(matrix.shape, [ROWS, COLS]);
			assert.deepEqual(await gpu.read(matrix), values);
			assert.deepEqual(dequantizedLinear(linear, 3, 2), values.slice(3 * COLS, 5 * COLS));
			const stored = codec.dequantize(linear.host);
			if (linear.transform) undoOnHost(stored, COLS, linear.transform);
			assert.deepEqual(values, stored);
		}
	});

	Deno.test(`${codec.name}: products agree with f64, for one token and for many`, async () => {
		const tokens = 19;
		const x = normals(tokens * COLS, 5);
		const [biases, residuals] = [normals(ROWS, 6), normals(tokens * ROWS, 7)];
		for (const linear of packed) {
			const before = gpu.memory.current;
			const { sums, magnitudes } = productReference(x, dequantizedLinear(linear), COLS);
			{
				using weight = await uploadLinear(gpu, linear);
				assert.deepEqual([weight.rows, weight.cols], [ROWS, COLS]);
				using bias = gpu.upload(biases, [ROWS]);
				for (const count of [1, 5, tokens]) {
					using input = gpu.upload(x.slice(0, count * COLS), [count, COLS]);
					using residual = gpu.upload(residuals.slice(0, count * ROWS), [count, ROWS]);
					using plain = await weight.multiply(input);
					using full = await weight.multiply(input, { bias, residual });
					const [y, z] = [await gpu.read(plain), await gpu.read(full)];
					for (let i = 0; i < count * ROWS; i++) {
						assert.ok(Math.abs(y[i] - sums[i]) <= 2e-6 * magnitudes[i], `${count} tokens at ${i}`);
						const sum = sums[i] + biases[i % ROWS] + residuals[i];
						const size = magnitudes[i] + Math.abs(biases[i % ROWS]) + Math.abs(residuals[i]);
						assert.ok(Math.abs(z[i] - sum) <= 2e-6 * size, `${count} tokens at ${i}, with addends`);
					}
				}
			}
			assert.equal(gpu.memory.current, before, "everything is freed");
		}
	});

	Deno.test(`${codec.name}: layers with different transforms are no group`, async () => {
		for (const [i, linear] of packed.slice(0, TRANSFORMS.length).entries()) {
			const other = packed[(i + 1) % TRANSFORMS.length];
			assert.equal(await uploadLinears(gpu, [linear, other]), undefined);
		}
	});

	Deno.test(`${codec.name}: facts fit the linear layer`, () => {
		for (const host of samples) {
			const facts = codec.facts(host);
			assert.ok(facts.paperBits >= 1 && facts.paperBits <= 32);
			for (const { key, value, text } of codec.factColumns) {
				assert.ok(Number.isFinite(value(facts)), key);
				assert.match(text(value(facts)), /\d/);
			}
			for (const { title, value } of codec.factMaps) {
				const part = value({ ...facts, cols: COLS });
				assert.ok(part >= 0 && part <= 1, title);
			}
			assert.deepEqual(Object.values(codec.nonFinite(host)).filter((count) => count > 0), []);
			const kinds = codec.kinds?.(host, 0);
			if (kinds) assert.equal(kinds.length, COLS);
		}
	});

	Deno.test(`${codec.name}: damage of each tensor is refused`, () => {
		for (const host of samples) {
			for (const form of FORMS) {
				const tensors = codec.store(NAME, host, form);
				for (const [i, tensor] of tensors.entries()) {
					const data = tensor.data as Uint8Array;
					const [rows, ...rest] = tensor.shape;
					const rowBytes = data.length / rows;
					const damaged: [string, TensorToWrite[]][] = [
						["is missing", tensors.toSpliced(i, 1)],
						["has another type", tensors.with(i, { ...tensor, dtype: "I8", shape: [data.length] })],
						[
							"is a row short",
							tensors.with(i, {
								...tensor,
								shape: [rows - 1, ...rest],
								data: data.subarray(0, data.length - rowBytes),
							}),
						],
					];
					for (const [what, others] of damaged) {
						using folder = new TemporaryFolder();
						using checkpoint = written(folder.path, others);
						const message = `${tensor.name} ${what}`;
						if (tensor.name === `${NAME}.${codec.main}` && what === "is missing") {
							assert.equal(codecOf(checkpoint, NAME), undefined, message);
						} else if (tensor.name === `${NAME}.${codec.rowsPart}` && what === "is a row short") {
							// With the same number of tiles; the layer is not the one that its model has.
							assert.equal(load(codec, checkpoint).rows, ROWS - 1, message);
						} else if (what !== "is missing" || !isOptional(tensor.name)) {
							assert.throws(() => load(codec, checkpoint), UserError, message);
						}
					}
				}
			}
		}
	});
}

/** Whether a linear layer without the tensor is valid, so that only the file's checksums show the damage. */
function isOptional(tensor: string): boolean {
	return [`${NAME}.grid_order`, `${NAME}.trellis_order`].includes(tensor);
}

function load(codec: Codec, checkpoint: Checkpoint): HostLinear {
	return codec.load(checkpoint, NAME, { cols: COLS, blockSize: BLOCK });
}

Deno.test("an exponent out of range, or of another type, is refused", () => {
	const [host] = SAMPLES.grid();
	const tensors = CODECS.find(({ name }) => name === "grid")!.store(NAME, host, FORMS[0]);
	const part = { name: `${NAME}.exponent`, dtype: "I32" as const, shape: [1] };
	for (
		const [exponent, text] of [
			[
				{ ...part, data: Uint8Array.of(127, 0, 0, 0) },
				"is 127, expected a number from -126 to 126",
			],
			[{ ...part, shape: [2], data: new Uint8Array(8) }, "is I32 \\[2\\], expected I32 \\[1\\]"],
		] satisfies [TensorToWrite, string][]
	) {
		using folder = new TemporaryFolder();
		using checkpoint = written(folder.path, [...tensors, exponent]);
		assert.throws(() => loadLinear(checkpoint, QUANTIZATION, NAME), {
			name: "UserError",
			message: new RegExp(`${NAME}.exponent" ${text}`),
		});
	}
});
