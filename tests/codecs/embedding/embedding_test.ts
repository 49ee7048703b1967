import assert from "node:assert/strict";
import { UserError } from "~/base/errors.ts";
import {
	dequantizeEmbeddingOnHost,
	embeddingLayout,
	GpuEmbedding,
	isPackedEmbedding,
	packEmbedding,
} from "~/codecs/embedding/embedding.ts";
import { type SearchedForm, searchEmbedding } from "~/codecs/embedding/search_embedding.ts";
import { openGpu } from "~/hosts/deno_gpu.ts";
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { writeSafetensors } from "~/storage/write_safetensors.ts";
import { assertClose } from "../../assert_close.ts";
import { watchKernels } from "../../gpu/open_gpu.ts";
import { LoadedModel } from "../../models/loaded_model.ts";
import {
	randomModel,
	randomWindows,
	stored,
	TINY_LLAMA,
	TINY_OPT,
	writeModel,
} from "../../models/random_model.ts";
import { openCheckpoint } from "../../open.ts";
import { normals } from "../../reference/random.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { plainTable, write } from "./table_files.ts";

const gpu = await openGpu();

/** A table of f32 in a file, and in packed form in another. */
function tables(folder: string, values: Float32Array, cols: number, bits: 8 | 4) {
	const plain = plainTable(folder, values, cols);
	return { plain, packed: write(folder, `packed${bits}`, packEmbedding(plain, "e", bits)) };
}

for (const [bits, group, steps] of [[8, 64, 127], [4, 32, 7]] as const) {
	Deno.test(`a table in ${bits} bits is near the original, on the host as on the GPU`, async () => {
		for (const [rows, cols] of [[1, 2], [3, 30], [5, 64], [40, 66], [9, 130], [300, 34]]) {
			using folder = new TemporaryFolder();
			const values = normals(rows * cols, cols);
			const { plain, packed } = tables(folder.path, values, cols, bits);
			using _plain = plain;
			using _packed = packed;
			assert.ok(isPackedEmbedding(packed, "e") && !isPackedEmbedding(plain, "e"));
			assert.deepEqual(embeddingLayout(packed, "e"), { rows, cols, bits, group });
			const table = dequantizeEmbeddingOnHost(packed, "e", 0, rows);
			for (let row = 0; row < rows; row++) {
				for (let start = 0; start < cols; start += group) {
					const places = Array.from(
						{ length: Math.min(group, cols - start) },
						(_, i) => row * cols + start + i,
					);
					const top = Math.max(...places.map((at) => Math.abs(values[at])));
					// Half a step, and what rounds the scale to f16; 4 bits give up some of the largest for
					// the others.
					const most = top / steps * (bits === 8 ? 0.5 : 1) + top * 2 ** -11;
					for (const at of places) assert.ok(Math.abs(table[at] - values[at]) <= most, `${at}`);
				}
			}
			for (const [first, count] of [[0, rows], [rows >> 1, 1], [rows - 1, 1]]) {
				using uploaded = GpuEmbedding.upload(gpu, packed, "e", first, count);
				using part = await uploaded.dequantized(0, count);
				const expected = table.subarray(first * cols, (first + count) * cols);
				assert.deepEqual((await gpu.read(part)).map((value) => value + 0), expected);
				assert.deepEqual(dequantizeEmbeddingOnHost(packed, "e", first, count), expected);
			}
		}
	});
}

Deno.test("a table in 4 bits errs by a tenth or less of what it holds, in 8 bits by a hundredth", () => {
	using folder = new TemporaryFolder();
	const values = normals(64 * 512, 5);
	const relative = (bits: 8 | 4) => {
		const { plain, packed } = tables(folder.path, values, 512, bits);
		using _plain = plain;
		using _packed = packed;
		const table = dequantizeEmbeddingOnHost(packed, "e", 0, 64);
		const squares = (array: Float32Array) => array.reduce((sum, value) => sum + value ** 2, 0);
		return Math.sqrt(squares(table.map((value, i) => value - values[i])) / squares(values));
	};
	assert.ok(relative(8) < 0.01, `${relative(8)}`);
	assert.ok(relative(4) < 0.1, `${relative(4)}`);
});

Deno.test("a table too large for a binding is multiplied with and looked up in parts", async () => {
	using folder = new TemporaryFolder();
	const [rows, cols] = [600, 34];
	const values = normals(rows * cols, 3);
	const { plain, packed } = tables(folder.path, values, cols, 8);
	using _plain = plain;
	using _packed = packed;
	await using small = await openGpu({ poison: true });
	Object.defineProperty(small, "maxBinding", { value: 300 * cols }); // parts of 256 rows
	using table = GpuEmbedding.upload(small, packed, "e");
	const numbers = dequantizeEmbeddingOnHost(packed, "e", 0, rows);
	const x = normals(cols, 4);
	using xTensor = small.upload(x, [1, cols]);
	using products = small.empty([1, rows]);
	await table.multiply(xTensor, products);
	const expected = Float64Array.from(
		{ length: rows },
		(_, row) => x.reduce((sum, value, col) => sum + value * numbers[row * cols + col], 0),
	);
	assertClose(await small.read(products), expected, { abs: 2e-5 });
	const ids = Uint32Array.of(599, 0, 255, 256, 512, 511);
	using idTensor = small.upload(ids, [ids.length]);
	using found = small.empty([ids.length, cols]);
	await table.lookUp(idTensor, found, false);
	const wanted = [...ids].flatMap((id) => [...numbers.subarray(id * cols, (id + 1) * cols)]);
	assert.deepEqual([...await small.read(found)].map((value) => value + 0), wanted);
});

Deno.test("zeros, and numbers too small for a scale, become zeros; the largest f16 stays", () => {
	using folder = new TemporaryFolder();
	for (const bits of [8, 4] as const) {
		const values = Float32Array.of(0, 0, 1e-9, -1e-9, 65504, -65504, 0, 65504);
		const { plain, packed } = tables(folder.path, values, 2, bits);
		using _plain = plain;
		using _packed = packed;
		const table = dequantizeEmbeddingOnHost(packed, "e", 0, 4);
		assert.deepEqual([...table.subarray(0, 4)], [0, 0, 0, 0]);
		table.subarray(4).forEach((value, i) => {
			assert.ok(Math.abs(value - values[4 + i]) <= 65504 / (bits === 8 ? 250 : 7), `${value}`);
		});
	}
});

Deno.test("a table that holds NaN or infinity is refused, or what is too large for a scale", () => {
	using folder = new TemporaryFolder();
	const damaged = (count: string) =>
		`holds ${count} NaN or infinite; the model is damaged, get it again`;
	const large = "holds values that are too large for a scale in f16; use embeddings: stored";
	const cases: [values: number[], problem: string][] = [
		[[NaN], damaged("1 value that is")],
		[[Infinity, 1, -Infinity, NaN], damaged("3 values that are")],
		[[1e30], large],
		[[-1e30], large],
	];
	for (const [i, [values, problem]] of cases.entries()) {
		const all = normals(64, 1);
		all.set(values, 40);
		const shape = [2, 32];
		const data = stored(all, "F32");
		using plain = write(folder.path, `${i}`, [{ name: "e.weight", dtype: "F32", shape, data }]);
		for (const bits of [8, 4] as const) {
			assert.throws(
				() => packEmbedding(plain, "e", bits, "the model"),
				new UserError(`"the model": "e.weight" ${problem}`),
			);
		}
	}
});

Deno.test("a table of values that are all too small for scales is refused; a zero table is not", () => {
	using folder = new TemporaryFolder();
	const pack = (name: string, deviation: number) => {
		const data = stored(normals(64, 1, deviation), "F32");
		const tensor = { name: "e.weight", dtype: "F32", shape: [2, 32], data } as const;
		using plain = write(folder.path, name, [{ ...tensor, shape: [2, 32] }]);
		for (const bits of [8, 4] as const) packEmbedding(plain, "e", bits, "the model");
	};
	pack("zero", 0);
	pack("small", 1e-3);
	for (const deviation of [1e-5, 1e-9, 1e-30]) {
		assert.throws(
			() => pack(`${deviation}`, deviation),
			new UserError(
				'"the model": "e.weight" holds only values that are too small for scales in f16; ' +
					"use embeddings: stored",
			),
		);
	}
});

Deno.test("a packed table of wrong shapes is refused", () => {
	using folder = new TemporaryFolder();
	const codes = {
		name: "e.codes",
		dtype: "I8",
		shape: [2, 65],
		data: new Uint8Array(130),
	} as const;
	const scales = {
		name: "e.group_scales",
		dtype: "F16",
		shape: [2, 1],
		data: new Uint8Array(4),
	} as const;
	const cases: [TensorToWrite[], string][] = [
		[
			[{ ...codes, shape: [2, 65] }, { ...scales, shape: [2, 1] }],
			'"e.group_scales" is F16 [2, 1], expected F16 [2, 2]',
		],
		[
			[{ ...codes, shape: [2, 65] }, { ...scales, dtype: "I16", shape: [2, 1] }],
			'"e.group_scales" is I16 [2, 1], expected F16 [2, 2]',
		],
		[
			[{ ...codes, shape: [130] }, { ...scales, shape: [2, 1] }],
			'"e.codes" is I8 [130], expected I8 [rows, cols] or U8 [rows, cols / 2]',
		],
		[
			[{ ...codes, dtype: "BOOL", shape: [2, 65] }, { ...scales, shape: [2, 1] }],
			'"e.codes" is BOOL [2, 65], expected I8 [rows, cols] or U8 [rows, cols / 2]',
		],
	];
	cases.forEach(([tensors, problem], i) => {
		using checkpoint = write(folder.path, `${i}`, tensors);
		assert.throws(
			() => embeddingLayout(checkpoint, "e"),
			new UserError(`"${folder.file(`${i}`)}": ${problem}; the file is damaged`),
		);
	});
});

for (
	const config of [TINY_LLAMA, { ...TINY_LLAMA, tie_word_embeddings: false }, {
		...TINY_OPT,
		hidden_size: 40,
	}]
) {
	const what = `${config.model_type}, ${
		config.tie_word_embeddings === false ? "own head" : "tied"
	}`;
	Deno.test(`a model with packed tables runs as with what they stand for: ${what}`, async () => {
		const forms: (4 | 8 | SearchedForm)[] = [8, 4, { bits: 4, group: 64 }, { bits: 5, group: 32 }];
		for (const form of forms) {
			using folder = new TemporaryFolder();
			using reference = new TemporaryFolder();
			const model = randomModel(config, 3);
			writeModel(folder.path, model);
			const tensors: TensorToWrite[] = [];
			{
				using checkpoint = openCheckpoint(folder.path);
				for (const [name, { shape, data }] of model.tensors) {
					if (!/embed|lm_head/.test(name)) {
						tensors.push({ name, dtype: "F32", shape, data: stored(data, "F32") });
						continue;
					}
					const table = name.slice(0, -".weight".length);
					const packed = typeof form === "number"
						? packEmbedding(checkpoint, table, form)
						: await searchEmbedding(gpu, checkpoint, table, form);
					tensors.push(...packed);
					using read = write(reference.path, "table", packed);
					data.set(dequantizeEmbeddingOnHost(read, table, 0, shape[0]));
				}
			}
			assert.ok(tensors.length > model.tensors.size);
			writeModel(reference.path, model);
			writeSafetensors(folder.file("model.safetensors"), tensors);
			const windows = randomWindows(2, 17, 97, 5);
			const logits = async (path: string, partBytes?: number) => {
				using loaded = await LoadedModel.open(gpu, path, { partBytes });
				return await loaded.logits(windows);
			};
			const expected = await logits(reference.path);
			assert.deepEqual(await logits(folder.path), expected);
			assert.deepEqual(
				await logits(folder.path, 4 * 40 * 30),
				await logits(reference.path, 4 * 40 * 30),
			);

			// Kept on the GPU, the tables are not dequantized.
			using loaded = await LoadedModel.open(gpu, folder.path);
			await loaded.decoder.keepEnds();
			const names = watchKernels(gpu);
			assert.deepEqual(await loaded.logits(windows.slice(0, 1)), expected.subarray(0, 17 * 97));
			assert(names.delete("embed_table") && names.delete("dequantize_table"));
			const [id] = windows[0];
			const one = await loaded.logits([Int32Array.of(id)]);
			assert(names.has("embed_table") && !names.has("dequantize_table"));
			assert([...names].some((name) => name.startsWith("table_matvec")));
			assertClose(one, expected.subarray(0, 97), {
				abs: 2e-5,
				rel: 1e-5,
				what: JSON.stringify(form),
			});
		}
	});
}
