import assert from "node:assert/strict";
import { BillmWeight } from "~/codecs/billm/weight.ts";
import type { DenseWeight } from "~/codecs/dense/weight.ts";
import { statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "~/base/errors.ts";
import { billm } from "~/codecs/billm/codec.ts";
import type { StoreForm } from "~/codecs/codec.ts";
import { dequantize } from "~/codecs/billm/dequantize.ts";
import { downloadBits } from "~/codecs/billm/draft.ts";
import {
	type BillmHost,
	dequantizeBillm,
	highFraction,
	paperBits,
	salientColumns,
} from "~/codecs/billm/host.ts";
import { unpackRows } from "~/codecs/billm/matmul.ts";
import { emptyBits, scalesPerBlock } from "~/codecs/billm/quantize_block.ts";
import { loadBillm } from "~/codecs/billm/store.ts";
import { codecOf, storeLinear } from "~/codecs/mod.ts";
import {
	columnsOf,
	fusedOf,
	readQuantizationConfig,
	rotationConfigOf,
	rotationOf,
} from "~/codecs/quantization_config.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import { Decoder } from "~/models/decoder.ts";
import { LayerPlan } from "~/models/layer_plan.ts";
import { denoFile } from "~/storage/deno_folder.ts";
import { packedMetadata } from "~/storage/packed_metadata.ts";
import { readHeader, type TensorToWrite } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { assertClose } from "../../assert_close.ts";
import { LoadedModel } from "../../models/loaded_model.ts";
import {
	type RandomModel,
	randomModel,
	randomWindows,
	stored,
	TINY_LLAMA,
	TINY_OPT,
	writeModel,
} from "../../models/random_model.ts";
import { openModel, openSafetensors } from "../../open.ts";
import { forwardReference } from "../../reference/decoder.ts";
import { seededRandom } from "../../reference/random.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { storedParts } from "./stored_parts.ts";
import { PLAIN } from "../store_forms.ts";

const gpu = await openGpu();

type Layout = Pick<BillmHost, "rows" | "cols" | "blockSize" | "zones" | "planes">;

/** Bits of a linear layer, one number each, and the weights that they stand for. */
interface PlainBits {
	host: BillmHost;
	salient: boolean[];
	/** Whether a weight is in the high zone, `[rows * cols]`. */
	high: boolean[];
	weight: Float32Array;
}

/**
 * Random bits and scales, number by number; about `share` of the columns are salient. Scales have
 * magnitudes from 2^least to 2^most, by default so different that their sums do not fit into an f32;
 * or they are codes of few bits with such factors.
 */
function randomBits(
	layout: Layout,
	share: number,
	seed: number,
	[least, most] = [-12, 14],
	scaleBits: 16 | 8 | 4 = 16,
): PlainBits {
	const { rows, cols, blockSize, zones, planes } = layout;
	const random = seededRandom(seed);
	const coin = () => random() < 0.5;
	const width = Math.ceil(cols / 32);
	const blocks = Math.ceil(cols / blockSize);
	const perBlock = scalesPerBlock(layout);
	const host: BillmHost = {
		...layout,
		bits: new Uint32Array(Math.max(zones, planes) * rows * width),
		scales: Float32Array.from(
			{ length: rows * blocks * perBlock },
			() => Math.f16round((2 * random() - 1) * 2 ** (least + (most - least) * random())),
		),
		salient: new Uint32Array(width),
	};
	if (scaleBits < 16) {
		const isScale = (place: number) => place < 2 * zones ? place % 2 === 1 : place > 2 * zones;
		const codeOf = (i: number) => {
			if (scaleBits === 8) return Math.floor(255 * random()) - 127;
			return isScale(i % perBlock) ? Math.floor(16 * random()) : Math.floor(15 * random()) - 7;
		};
		const values = Int8Array.from(host.scales, (_, i) => codeOf(i));
		const factors = Float32Array.from(
			{ length: 2 * rows },
			() => Math.f16round(2 ** (least + (most - least) * random())),
		);
		host.codes = { values, factors, ...(scaleBits === 4 && { bits: 4 }) };
		host.scales = Float32Array.from(values, (code, i) => {
			const row = Math.floor(i / (blocks * perBlock));
			return code * factors[2 * row + Number(isScale(i % perBlock))];
		});
	}
	const salient = Array.from({ length: cols }, () => planes > 0 && random() < share);
	salient.forEach((is, col) => {
		if (is) host.salient[col >> 5] |= 1 << (col & 31);
	});
	const high = new Array(rows * cols).fill(false);
	const weight = new Float32Array(rows * cols);
	for (let row = 0; row < rows; row++) {
		for (let col = 0; col < cols; col++) {
			const set = (plane: number) => {
				host.bits[(plane * rows + row) * width + (col >> 5)] |= 1 << (col & 31);
			};
			const first = (row * blocks + Math.floor(col / blockSize)) * perBlock;
			const scales = host.scales.subarray(first, first + perBlock);
			if (salient[col]) {
				let value = scales[2 * zones];
				for (let plane = 0; plane < planes; plane++) {
					const plus = coin();
					if (plus) set(plane);
					value = Math.fround(value + (plus ? 1 : -1) * scales[2 * zones + 1 + plane]);
				}
				weight[row * cols + col] = value;
			} else {
				const plus = coin();
				const zone = Number(zones === 2 && coin());
				if (plus) set(0);
				if (zone === 1) set(1);
				high[row * cols + col] = zone === 1;
				weight[row * cols + col] = scales[2 * zone] + (plus ? 1 : -1) * scales[2 * zone + 1];
			}
		}
	}
	return { host, salient, high, weight };
}

function store(name: string, host: BillmHost, form: Partial<StoreForm> = {}) {
	return storeLinear(name, { codec: billm, host }, { ...PLAIN, ...form });
}

async function dequantizeOnGpu(host: BillmHost): Promise<Float32Array> {
	using bits = gpu.upload(host.bits, [host.bits.length]);
	using scales = gpu.upload(host.scales, [host.scales.length]);
	using salient = gpu.upload(host.salient, [host.salient.length]);
	using weight = await dequantize(gpu, host, bits, scales, salient);
	return await gpu.read(weight);
}

/** The share of salient columns and the bits of scales. */
const FORMS = [[0, 16], [0.2, 16], [0.2, 8], [1, 8], [0.3, 4]] as const;
/** [rows, cols, columns of a block], around words of 32 and blocks. */
const SIZES = [
	[1, 1, 32],
	[3, 31, 32],
	[5, 32, 256],
	[2, 33, 32],
	[1, 127, 128],
	[4, 129, 128],
	[3, 257, 64],
	[2, 257, 256],
	[1, 300, 96],
];

for (const zones of [1, 2] as const) {
	for (const planes of [0, 1, 2, 3, 4]) {
		Deno.test(`${zones} zones and ${planes} planes come back bit for bit`, async () => {
			using folder = new TemporaryFolder();
			for (const [rows, cols, blockSize] of SIZES) {
				for (const [share, scaleBits] of FORMS) {
					const what = `[${rows}, ${cols}], blocks of ${blockSize}, ${share} salient, ${scaleBits}`;
					const layout = { rows, cols, blockSize, zones, planes };
					const seed = rows * cols + planes;
					const { host, salient, high, weight } = randomBits(
						layout,
						share,
						seed,
						[-12, 14],
						scaleBits,
					);
					const packed = store("a.b", host);
					const path = folder.file("x.safetensors");
					const entropyPath = folder.file("entropy.safetensors");
					writeSafetensors(entropyPath, store("a.b", host, { flags: "entropy" }).tensors);
					using entropy = openSafetensors(entropyPath);
					assert.deepEqual(loadBillm(entropy, "a.b", { cols, blockSize }), host, what);
					const other: TensorToWrite = { // bytes before and after the layer's
						name: "a.c",
						dtype: "U8",
						shape: [3],
						data: Uint8Array.of(1, 2, 3),
					};
					writeSafetensors(path, [...packed.tensors, other]);
					using checkpoint = openSafetensors(path);
					assert.ok(codecOf(checkpoint, "a.b"));
					assert.ok(!codecOf(checkpoint, "a.c"));
					assert.deepEqual(loadBillm(checkpoint, "a.b", { cols, blockSize }), host, what);

					assert.deepEqual(dequantizeBillm(host), weight, `${what}, on the host`);
					assert.deepEqual(await dequantizeOnGpu(host), weight, `${what}, on the GPU`);

					const columns = salient.flatMap((is, col) => is ? [col] : []);
					assert.deepEqual(salientColumns(host), columns, what);
					const others = high.filter((_, i) => !salient[i % cols]);
					const inHigh = others.filter((is) => is).length;
					assert.equal(highFraction(host), inHigh / (others.length || 1), what);

					const bytes: Record<string, number> = {};
					for (const { name, bytes: size } of readHeader(denoFile(path)).tensors.values()) {
						if (!name.startsWith("a.b.")) continue;
						const part = name === "a.b.scale_factors" ? "scales" : name.slice(4).replace("_", "-");
						bytes[part] = (bytes[part] ?? 0) + size;
					}
					const parts = storedParts(layout, columns.length, scaleBits);
					assert.deepEqual(packed.parts, parts, what);
					const stored = Object.entries(parts).filter(([, size]) => size > 0);
					assert.deepEqual(bytes, Object.fromEntries(stored), `${what}: formula and file`);
				}
			}
		});
	}
}

Deno.test("a packed layer can be packed, written and packed again into the same bytes", () => {
	using folder = new TemporaryFolder();
	const { host } = randomBits({ rows: 7, cols: 200, blockSize: 64, zones: 2, planes: 4 }, 0.3, 1);
	const path = folder.file("x.safetensors");
	const { sha256 } = writeSafetensors(path, store("a", host).tensors);
	using checkpoint = openSafetensors(path);
	const again = store("a", loadBillm(checkpoint, "a", { cols: 200, blockSize: 64 }));
	const copy = folder.file("y.safetensors");
	assert.equal(writeSafetensors(copy, again.tensors).sha256, sha256);
});

Deno.test("entropy-coded flags take fewer bytes, and the second signs then lie apart", () => {
	const layout = { rows: 64, cols: 512, blockSize: 128, zones: 2, planes: 2 } as const;
	const { host, salient } = randomBits(layout, 0.1, 6);
	host.bits.subarray(64 * 16).fill(0); // all in the low zone, second signs minus
	const plain = store("a", host);
	const entropy = store("a", host, { flags: "entropy" });
	const columns = salient.filter((is) => is).length;
	assert.deepEqual(plain.parts, storedParts(layout, columns));
	const { flags, ...others } = entropy.parts;
	assert.ok(flags < plain.parts.flags / 20, `${flags} bytes`);
	assert.deepEqual(others, {
		signs: plain.parts.signs,
		"salient-signs": 4 * Math.ceil(64 * columns / 32),
		"salient-columns": plain.parts["salient-columns"],
		scales: plain.parts.scales,
	});
	const one = { ...host, zones: 1 as const, planes: 0, scales: new Float32Array(64 * 4 * 2) };
	assert.deepEqual(store("a", one, { flags: "entropy" }), store("a", one));
});

Deno.test("version 1 has the signs of each row in words of their own", () => {
	for (const share of [0.3, 1]) { // 64 columns fill their words
		const layout = { rows: 3, cols: 64, blockSize: 32, zones: 2, planes: 3 } as const;
		const { host } = randomBits(layout, share, 3);
		const columns = salientColumns(host);
		const width = Math.ceil(columns.length / 32);
		const signs = new Uint32Array(layout.rows * width);
		for (let row = 0; row < layout.rows; row++) {
			columns.forEach((col, i) => {
				const bit = (host.bits[2 * 3 * 2 + row * 2 + (col >> 5)] >>> (col & 31)) & 1;
				signs[row * width + (i >> 5)] |= bit << (i & 31);
			});
		}
		const tensors = store("a.b", host).tensors
			.filter(({ name }) => name !== "a.b.salient_signs");
		tensors.push({
			name: "a.b.salient_signs",
			dtype: "U32",
			shape: [1, layout.rows, width],
			data: new Uint8Array(signs.buffer),
		});
		using folder = new TemporaryFolder();
		const path = folder.file("x.safetensors");
		writeSafetensors(path, tensors, { format: "billm", format_version: "1" });
		using checkpoint = openSafetensors(path);
		assert.deepEqual(loadBillm(checkpoint, "a.b", { cols: 64, blockSize: 32 }), host);
	}
});

Deno.test("flags that are no entropy code are refused", () => {
	const flags = { name: "a.b.flags", dtype: "U16", shape: [3], data: new Uint8Array(6) } as const;
	const problem = 'flags" is no entropy code of flags, expected one of 3 x 70';
	assertRefused(problem, (tensors) => tensors.set("flags", { ...flags, shape: [3] }));
});

Deno.test("downloadBits() reads a layer back from the GPU, its salient columns as bits", async () => {
	const layout = { rows: 3, cols: 70, blockSize: 32, zones: 2, planes: 3 } as const;
	const { host, salient } = randomBits(layout, 0.3, 2);
	const linear = emptyBits(gpu, layout);
	const copy = (data: Uint32Array | Float32Array, target: typeof linear.bits) => {
		using uploaded = gpu.upload(data, target.shape);
		gpu.copy(uploaded, target);
	};
	copy(host.bits, linear.bits);
	copy(host.scales, linear.scales);
	copy(Uint32Array.from(salient, Number), linear.salient);
	assert.deepEqual(await downloadBits(linear), host);
	gpu.free(linear.bits, linear.scales, linear.salient);
});

Deno.test("a layer of 4096 x 4096 takes less than 3 bits per weight, formula and file", () => {
	const layout = { rows: 4096, cols: 4096, blockSize: 128, zones: 2, planes: 2 } as const;
	const salient = 16 * 32; // in each of the 32 blocks
	const parts = storedParts(layout, salient);
	assert.deepEqual(parts, {
		signs: 4096 * 4096 / 8,
		flags: 4096 * 4096 / 8,
		"salient-signs": 0, // the second sign of a salient weight takes the place of its flag
		"salient-columns": 4096 / 8,
		scales: 4096 * 32 * 7 * 2,
	});
	const bits = (bytes: number) => 8 * bytes / (4096 * 4096);
	const sum = Object.values(parts).reduce((a, b) => a + b);
	assert.equal(bits(sum), 2.875 + 1 / 4096);
	assert.equal(paperBits(layout, salient), 1.125);

	using folder = new TemporaryFolder();
	const path = folder.file("x.safetensors");
	const host: BillmHost = {
		...layout,
		bits: new Uint32Array(2 * 4096 * 128),
		scales: new Float32Array(4096 * 32 * 7),
		salient: new Uint32Array(128).map((_, word) => word % 4 === 1 ? 0x0000ffff : 0),
	};
	const packed = store("model.layers.0.self_attn.q_proj", host);
	assert.equal(salientColumns(host).length, salient);
	const { headerBytes } = writeSafetensors(path, packed.tensors);
	assert.equal(statSync(path).size - headerBytes, sum);
	assert.ok(bits(statSync(path).size) < 2.876, `${bits(statSync(path).size)} with the header`);
});

Deno.test("scales in 8 bits take half, in 4 a quarter, and two f16 for each row", () => {
	const layout = { rows: 4096, cols: 4096, blockSize: 128, zones: 2, planes: 2 } as const;
	const { scales, ...rest } = storedParts(layout, 512, 8);
	const { scales: half, ...others } = storedParts(layout, 512);
	assert.deepEqual([scales, half], [4096 * (32 * 7 + 4), 4096 * 32 * 7 * 2]);
	assert.deepEqual(rest, others);
	assert.equal(storedParts(layout, 512, 4).scales, 4096 * (32 * 7 / 2 + 4));
	const odd = { ...layout, rows: 3, cols: 300 }; // three blocks take two bytes of each number
	assert.equal(storedParts(odd, 0, 4).scales, 3 * (2 * 7 + 4));
});

Deno.test("more planes store more signs, of salient columns only", () => {
	const layout = { rows: 10, cols: 256, blockSize: 128, zones: 2, planes: 4 } as const;
	assert.deepEqual(storedParts(layout, 33), {
		signs: 320,
		flags: 320,
		"salient-signs": 2 * 11 * 4, // a third and a fourth sign, 10 x 33 bits in 11 words
		"salient-columns": 32,
		scales: 10 * 2 * 9 * 2,
	});
	// With one zone there are no flags, so the second sign is stored like the others.
	assert.deepEqual(storedParts({ ...layout, zones: 1, planes: 2 }, 33), {
		signs: 320,
		flags: 0,
		"salient-signs": 11 * 4,
		"salient-columns": 32,
		scales: 10 * 2 * 5 * 2,
	});
	assert.deepEqual(storedParts({ ...layout, zones: 1, planes: 0 }, 0), {
		signs: 320,
		flags: 0,
		"salient-signs": 0,
		"salient-columns": 0,
		scales: 10 * 2 * 2 * 2,
	});
});

Deno.test("paper bits: one per weight, one more for each further plane of a salient column", () => {
	const layout = { rows: 1, cols: 1000, blockSize: 128, zones: 2 } as const;
	const bits = (planes: number, salient: number) => paperBits({ ...layout, planes }, salient);
	assert.equal(bits(0, 0), 1);
	assert.equal(bits(1, 80), 1);
	assert.equal(bits(2, 80), 1.08);
	assert.equal(bits(4, 100), 1.3);
	assert.equal(bits(2, 1000), 2);
});

const QUANTIZATION = {
	quant_method: "billm",
	format_version: 2,
	block_size: 128,
	columns: { "mlp.up_proj": 64 },
};

const ROTATED = {
	...QUANTIZATION,
	format_version: 4,
	rotation: { generator: "hash32", seed: 7, block: 64 },
};

Deno.test("quantization_config is read, or absent", () => {
	const read = (found: unknown) => readQuantizationConfig({ quantization_config: found }, "c.json");
	assert.deepEqual(read(QUANTIZATION), QUANTIZATION);
	const first = { ...QUANTIZATION, format_version: 1 };
	assert.deepEqual(read(first), first);
	assert.deepEqual(read(ROTATED), ROTATED);
	assert.equal(read(undefined), undefined);
	assert.equal(read(null), undefined);
});

Deno.test("a rotation is told by its seed and the layers that it is not of all", () => {
	const linear = (layer: number, module: string, block?: number) => ({
		name: `layers.${layer}.${module}`,
		module,
		...(block && { rotation: { seed: 5, block } }),
	});
	assert.equal(rotationConfigOf([linear(0, "up"), linear(1, "up")]), undefined);
	const head = { generator: "hash32", seed: 5, block: 64 };
	assert.deepEqual(rotationConfigOf([linear(0, "up", 64), linear(0, "down", 32)]), head);
	const some = [linear(0, "up", 64), linear(1, "up", 16), linear(0, "down"), linear(1, "down", 32)];
	const rotation = rotationConfigOf(some)!;
	assert.deepEqual(rotation, { ...head, modules: ["up", "layers.1.down"] });
	const found = some.map(({ name }, i) => rotationOf({ rotation }, name, [64, 48, 100, 96][i]));
	assert.deepEqual(found, some.map(({ rotation }) => rotation));
	const other = { ...linear(1, "up", 64), rotation: { seed: 6, block: 64 } };
	assert.throws(() => rotationConfigOf([linear(0, "up", 64), other]), {
		message: "Cannot pack linear layers that are rotated with different seeds (5 and 6); " +
			"rotate all of them with one",
	});
});

Deno.test("columns are those of a linear layer's whole name, if it is there, or of its module", () => {
	const columns = { "mlp.up_proj": 64, "layers.1.mlp.up_proj": 96 };
	const quantization = { columns };
	assert.equal(columnsOf(quantization, "layers.0.mlp.up_proj"), 64);
	assert.equal(columnsOf(quantization, "layers.1.mlp.up_proj"), 96);
	assert.equal(columnsOf(quantization, "layers.11.mlp.up_proj"), 64);
	assert.equal(columnsOf(quantization, "layers.0.mlp.down_proj"), undefined);
});

Deno.test("a linear layer is found in the tensor that it is fused into", () => {
	const fused = { "attn.qkv": ["attn.q", "attn.k"] };
	const linears = ["layers.3.attn.q", "layers.3.attn.k"];
	assert.deepEqual(fusedOf({ fused }, "layers.3.attn.k"), { name: "layers.3.attn.qkv", linears });
	for (const name of ["layers.3.attn.o", "layers.3.cross_attn.q"]) {
		assert.deepEqual(fusedOf({ fused }, name), { name, linears: [name] });
	}
	assert.deepEqual(fusedOf({}, "layers.3.attn.k").linears, ["layers.3.attn.k"]);
});

/** A change of a valid configuration, what must be otherwise, and what is found. */
const CHANGED: [change: Record<string, unknown>, wanted: string, found: unknown][] = [
	[{ format_version: "2" }, "format_version must be a whole number", "2"],
	[{ block_size: 100 }, "block_size must be a multiple of 32", 100],
	[{ block_size: undefined }, "block_size must be a multiple of 32", undefined],
	...[undefined, { fc1: "64" }].map((columns): typeof CHANGED[number] => [
		{ columns },
		"columns must be a whole number for each linear layer",
		columns,
	]),
	...[["q"], { qkv: "q" }, { qkv: [] }, { qkv: [1] }].map((fused): typeof CHANGED[number] => [
		{ fused },
		"fused must be a list of linear layers for each fused module",
		fused,
	]),
	[{ ...ROTATED, format_version: 3 }, "format_version must be 4 or later with a rotation", 3],
	[{ ...ROTATED, rotation: 7 }, "rotation must be an object", 7],
	...([
		["generator", "hash64", '"hash32", the only one that this program has'],
		["seed", -1, "a whole number from 0 to 2^32 - 1"],
		["seed", 1.5, "a whole number from 0 to 2^32 - 1"],
		["block", 48, "a power of two from 16 to 512"],
		["block", 1024, "a power of two from 16 to 512"],
		["block", undefined, "a power of two from 16 to 512"],
		["modules", "fc1", "a list of linear layers that .columns has"],
		["modules", ["fc1"], "a list of linear layers that .columns has"],
	] as const).map(([field, value, wanted]): typeof CHANGED[number] => [
		{ ...ROTATED, rotation: { ...ROTATED.rotation, [field]: value } },
		`rotation.${field} must be ${wanted}`,
		value,
	]),
	[
		{ ...ROTATED, columns: { "mlp.up_proj": 64, "mlp.down_proj": 100 } },
		'columns["mlp.down_proj"] must be a multiple of 16 to be rotated',
		100,
	],
	[
		{
			...ROTATED,
			columns: { "mlp.up_proj": 64, "layers.1.mlp.up_proj": 72 },
			rotation: { ...ROTATED.rotation, modules: ["mlp.up_proj"] },
		},
		'columns["layers.1.mlp.up_proj"] must be a multiple of 16 to be rotated',
		72,
	],
];

const REFUSED: [quantization: unknown, text: string][] = [
	...CHANGED.map(([change, wanted, found]): [unknown, string] => [
		{ ...QUANTIZATION, ...change },
		`quantization_config.${wanted}, found ${
			found === undefined ? "nothing" : JSON.stringify(found)
		}`,
	]),
	[
		{ quant_method: "gptq", bits: 4 },
		'the model is quantized with "gptq", which cannot be read; use the original model',
	],
	[
		{ bits: 4 },
		"the model is quantized in a way that it does not name, such as that of MLX, which cannot be read; use the original model",
	],
	[
		{ ...QUANTIZATION, format_version: 7 },
		"the packed format has version 7, this program reads versions up to 6; use a later program",
	],
	["billm", 'quantization_config must be an object, found "billm"'],
];

for (const [quantization, text] of REFUSED) {
	Deno.test(`quantization_config is refused: ${text}`, () => {
		assert.throws(
			() => readQuantizationConfig({ quantization_config: quantization }, "c.json"),
			new UserError(`"c.json": ${text}`),
		);
	});
}

const LAYOUT: Layout = { rows: 3, cols: 70, blockSize: 32, zones: 2, planes: 3 };

type Change = (tensors: Map<string, TensorToWrite>) => void;

/** Writes a layer after `change` had its way with its tensors, and reads it. */
function unpackChanged(
	folder: string,
	change: Change,
	cols = LAYOUT.cols,
	scaleBits: 16 | 8 | 4 = 16,
): BillmHost {
	const { host } = randomBits(LAYOUT, 0.3, 3, [-12, 14], scaleBits);
	const tensors = new Map(
		store("a.b", host).tensors.map((tensor) => [tensor.name.slice(4), tensor]),
	);
	change(tensors);
	const path = join(folder, "x.safetensors");
	writeSafetensors(path, [...tensors.values()]);
	using checkpoint = openSafetensors(path);
	return loadBillm(checkpoint, "a.b", { cols, blockSize: LAYOUT.blockSize });
}

function zeros(
	part: string,
	dtype: "U32" | "I32" | "F16" | "F32" | "U8",
	shape: number[],
): TensorToWrite {
	const size = shape.reduce((product, length) => product * length, 1);
	const data = new Uint8Array(size * (dtype === "U8" ? 1 : dtype === "F16" ? 2 : 4));
	return { name: `a.b.${part}`, dtype, shape, data };
}

const N = "N = 4 or 6 .. 9";

const DAMAGED: [tensor: TensorToWrite, problem: string, scaleBits?: 8 | 4][] = [
	[zeros("signs", "U32", [3, 2]), "U32 [3, 2], expected U32 [3, 3]"],
	[zeros("signs", "U32", [9]), "U32 [9], expected U32 [9, 3]"],
	[zeros("signs", "I32", [3, 3]), "I32 [3, 3], expected U32 [3, 3]"],
	[zeros("flags", "U32", [2, 3]), "U32 [2, 3], expected U32 [3, 3]"],
	[zeros("salient_columns", "U32", [4]), "U32 [4], expected U32 [3]"],
	[zeros("salient_signs", "U32", [2, 3, 1]), "U32 [2, 3, 1], expected U32 [1, 3, 1]"],
	[zeros("salient_signs", "U32", [1, 1]), "U32 [1, 1], expected U32 [1, 3]"],
	[zeros("scales", "F16", [3, 2, 8]), "F16 [3, 2, 8], expected F16 [3, 3, 8]"],
	[zeros("scales", "F32", [3, 3, 8]), "F32 [3, 3, 8], expected F16 [3, 3, 8]"],
	// Neither zones only nor zones, a mean and one to four scales.
	[zeros("scales", "F16", [3, 3, 5]), `[3, 3, 5], expected [3, 3, N] with ${N}`],
	[zeros("scales", "F16", [3, 3, 2]), `[3, 3, 2], expected [3, 3, N] with ${N}`],
	[zeros("scales", "F16", [3, 3, 10]), `[3, 3, 10], expected [3, 3, N] with ${N}`],
	[zeros("scales", "F16", [72]), `[72], expected [3, 3, N] with ${N}`],
	[zeros("scales", "F16", [3, 3, 8]), "F16 [3, 3, 8], expected I8 [3, 3, 8]", 8],
	[zeros("scale_factors", "F16", [3, 1]), "F16 [3, 1], expected F16 [3, 2]", 8],
	[zeros("scale_factors", "F32", [3, 2]), "F32 [3, 2], expected F16 [3, 2]", 4],
	[zeros("scales", "U8", [8, 3, 3]), "U8 [8, 3, 3], expected U8 [8, 3, 2]", 4],
	[zeros("scales", "U8", [5, 3, 2]), "[5, 3, 2], expected [N, 3, 2] with N = 4 or 6 .. 9", 4],
];

/** Checks what is said of a layer after `change`; the problem begins with the tensor's name. */
function assertRefused(problem: string, change: Change, cols?: number, bits?: 8 | 4): void {
	using folder = new TemporaryFolder();
	assert.throws(
		() => unpackChanged(folder.path, change, cols, bits),
		new UserError(
			`"${folder.file("x.safetensors")}": "a.b.${problem}; the file does not fit its config.json`,
		),
	);
}

for (const [tensor, problem, scaleBits] of DAMAGED) {
	const part = tensor.name.slice(4);
	Deno.test(`a packed layer ${scaleBits ? "with codes " : ""}is refused: ${part} is ${problem}`, () => {
		const change: Change = (tensors) => tensors.set(part, tensor);
		assertRefused(`${part}" is ${problem}`, change, LAYOUT.cols, scaleBits);
	});
}

Deno.test("codes without their factors are refused", () => {
	const problem = 'scales" is I8 [3, 3, 8], expected F16 [3, 3, 8]';
	assertRefused(problem, (tensors) => tensors.delete("scale_factors"), 70, 8);
});

Deno.test("a packed layer is refused if config.json says other columns", () => {
	assertRefused('signs" is U32 [3, 3], expected U32 [3, 2]', () => {}, 64);
});

for (const part of ["signs", "scales", "salient_columns", "salient_signs"]) {
	Deno.test(`a packed layer is refused without its ${part}`, () => {
		using folder = new TemporaryFolder();
		assert.throws(
			() => unpackChanged(folder.path, (tensors) => assert.ok(tensors.delete(part))),
			(error: Error) => {
				assert.ok(error instanceof UserError);
				const start = `Cannot find tensor "a.b.${part}" in "${folder.path}"; the nearest names are`;
				assert.ok(error.message.startsWith(start), error.message);
				return true;
			},
		);
	});
}

Deno.test("without its flags a layer has the scales of another form", () => {
	const problem = 'scales" is [3, 3, 8], expected [3, 3, N] with N = 2 or 4 .. 7';
	assertRefused(problem, (tensors) => assert.ok(tensors.delete("flags")));
});

interface PackedOptions {
	config?: typeof TINY_LLAMA;
	blockSize?: number;
	zones?: 1 | 2;
	planes?: number;
}

/** A tiny model whose linear layers are packed random bits, and the weights these stand for. */
function packedModel(
	folder: string,
	columns: (columns: Record<string, number>) => unknown,
	change?: (name: string, host: BillmHost) => void,
	{ config = TINY_LLAMA, blockSize = 32, zones = 2, planes = 3 }: PackedOptions = {},
) {
	const model = randomModel(config, 4);
	writeModel(folder, model); // for the names of its modules
	const tensors: TensorToWrite[] = [];
	const widths: Record<string, number> = {};
	using files = openModel(folder);
	const modules = new LayerPlan(files.architecture, 0).modules;
	for (const [name, { shape, data }] of model.tensors) {
		const module = modules.find((module) => name.endsWith(`.${module}.weight`));
		if (module) {
			const [rows, cols] = shape;
			widths[module] = cols;
			const layout = { rows, cols, blockSize, zones, planes };
			const { host, weight } = randomBits(layout, 0.2, tensors.length, [-4, -1]);
			data.set(weight);
			change?.(name.slice(0, -".weight".length), host);
			tensors.push(...billm.store(name.slice(0, -".weight".length), host, PLAIN));
		} else {
			tensors.push({ name, dtype: "F32", shape, data: stored(data, "F32") });
		}
	}
	const quantization = { ...QUANTIZATION, block_size: blockSize, columns: columns(widths) };
	const packed = { ...config, quantization_config: quantization };
	Deno.writeTextFileSync(join(folder, "config.json"), JSON.stringify(packed));
	const metadata = packedMetadata(tensors, QUANTIZATION.format_version);
	writeSafetensors(join(folder, "model.safetensors"), tensors, metadata);
	return model;
}

function logitsReference({ config, tensors }: RandomModel, windows: Int32Array[]): number[] {
	return windows.flatMap((window) =>
		forwardReference(config, tensors, window).logits.flatMap((row) => [...row])
	);
}

for (const packed of [false, true]) {
	const how = packed ? "as it is" : "dequantized";
	Deno.test(`a packed model runs ${how} with the weights that its bits stand for`, async () => {
		using folder = new TemporaryFolder();
		const model = packedModel(folder.path, (columns) => columns);
		const before = gpu.memory.current;
		{
			using loaded = await LoadedModel.open(gpu, folder.path, { packed });
			const { weight } = loaded.layers[1].linears.get("mlp.down_proj")!;
			const expected = model.tensors.get("model.layers.1.mlp.down_proj.weight")!;
			assert.equal(weight instanceof BillmWeight, packed);
			using rows = weight instanceof BillmWeight
				? await unpackRows(gpu, weight.tensors)
				: gpu.clone((weight as DenseWeight).matrix);
			assert.deepEqual(rows.shape, expected.shape);
			assert.deepEqual(await gpu.read(rows), expected.data);

			for (const length of [1, 8, 17]) {
				const windows = randomWindows(length === 17 ? 2 : 1, length, TINY_LLAMA.vocab_size, 5);
				const logits = logitsReference(model, windows);
				// As for plain models: f32 sums of some 50 terms, logits near 6.
				assertClose(await loaded.logits(windows), logits, { abs: 2e-5, rel: 1e-5, what: "logits" });
			}
		}
		assert.equal(gpu.memory.current, before);
	});
}

const PACKED_MODELS: [what: string, options: PackedOptions][] = [
	["OPT, blocks of 32", { config: TINY_OPT, planes: 2 }],
	["OPT, one zone, blocks of 96", {
		config: { ...TINY_OPT, hidden_size: 110, ffn_dim: 201, word_embed_proj_dim: 26 },
		zones: 1,
		blockSize: 96,
	}],
	["LLaMA, blocks of 128 and a rest", {
		config: { ...TINY_LLAMA, hidden_size: 144, intermediate_size: 333, attention_bias: true },
		blockSize: 128,
		planes: 2,
	}],
	["Qwen3, nothing salient", {
		config: { ...TINY_LLAMA, model_type: "qwen3", head_dim: 18 },
		blockSize: 64,
		planes: 0,
	}],
];

for (const [what, options] of PACKED_MODELS) {
	Deno.test(`a model that stays packed gives the logits of its matrices: ${what}`, async () => {
		using folder = new TemporaryFolder();
		const model = packedModel(folder.path, (columns) => columns, undefined, options);
		using matrices = await LoadedModel.open(gpu, folder.path);
		const before = gpu.memory.current;
		using packed = await LoadedModel.open(gpu, folder.path, { packed: true });
		assert(
			[...packed.layers[0].linears.values()].every(({ weight }) => weight instanceof BillmWeight),
		);
		for (const length of [1, 5, 8, 21]) {
			const windows = randomWindows(1, length, TINY_LLAMA.vocab_size, length);
			const expected = logitsReference(model, windows);
			const error = (logits: Float32Array) =>
				expected.reduce((most, logit, i) => Math.max(most, Math.abs(logits[i] - logit)), 0);
			const [ofMatrices, ofPacked] = [await matrices.logits(windows), await packed.logits(windows)];
			assertClose(ofPacked, ofMatrices, { abs: 1e-3, what });
			// The sums are in another order, so they round otherwise, but not more: by up to 1e-4 where
			// activations are large (LLaMA; logits near 40), else by 1e-5.
			assert(
				error(ofPacked) <= 3 * error(ofMatrices) + 1e-5,
				`${error(ofPacked)} from the reference, the matrices ${error(ofMatrices)}`,
			);
		}
		packed[Symbol.dispose]();
		matrices.decoder[Symbol.dispose]();
		assert.equal(gpu.memory.current, before);
	});
}

Deno.test("scales that are not finite are refused, packed or dequantized", async () => {
	using folder = new TemporaryFolder();
	packedModel(folder.path, (columns) => columns, (name, host) => {
		if (name === "model.layers.0.mlp.up_proj") host.scales.set([NaN, Infinity]);
	});
	const start = `"${folder.path}": "model.layers.0.mlp.up_proj.`;
	for (const [packed, found] of [[true, "scales"], [false, "weight"]] as const) {
		await assert.rejects(() => LoadedModel.open(gpu, folder.path, { packed }), (error: Error) => {
			assert.ok(
				error instanceof UserError && error.message.startsWith(start + found),
				error.message,
			);
			assert.match(error.message, /" holds \d+ values that are NaN or infinite; /);
			if (packed) assert.match(error.message, / holds 2 values /);
			return true;
		});
	}
});

Deno.test("a packed model is refused if config.json lacks the columns of a layer", async () => {
	using folder = new TemporaryFolder();
	packedModel(folder.path, ({ "self_attn.k_proj": _, ...others }) => others);
	using files = openModel(folder.path);
	using decoder = new Decoder(gpu, files);
	await assert.rejects(
		() => decoder.loadLayer(0),
		new UserError(
			`"${folder.path}": quantization_config lacks the columns of ` +
				`"model.layers.0.self_attn.k_proj"`,
		),
	);
});
