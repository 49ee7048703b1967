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
import type { TensorToWrite } from "~/storage/safetensors.ts";
import { openAsHardware, openGpu } from "../../gpu/open_gpu.ts";
import { normals } from "../../reference/random.ts";
import { TemporaryFolder } from "../../temporary_folder.ts";
import { plainTable, write } from "./table_files.ts";

const gpu = await openGpu();

/** |a - b| / |a| */
function relativeError(a: Float32Array, b: Float32Array): number {
	let [errors, squares] = [0, 0];
	a.forEach((value, i) => {
		errors += (value - b[i]) ** 2;
		squares += value ** 2;
	});
	return Math.sqrt(errors / squares);
}

/** The relative error of the grid from the smallest to the largest number of each scale group. */
function rangeError(values: Float32Array, cols: number, { bits, group }: SearchedForm): number {
	const nearest = values.map((value, i) => {
		const row = Math.floor(i / cols) * cols;
		const start = row + Math.floor((i - row) / group) * group;
		const part = values.subarray(start, Math.min(start + group, row + cols));
		const [least, most] = [Math.min(...part), Math.max(...part)];
		const step = (most - least) / (2 ** bits - 1);
		return least + step * Math.round((value - least) / step);
	});
	return relativeError(values, nearest);
}

for (const bits of [3, 4, 5, 6] as const) {
	for (const group of [32, 64, 128] as const) {
		const form = { bits, group };
		Deno.test(`${bits} bits, groups of ${group}: host and GPU agree, the error is below min-max`, async () => {
			for (const [rows, cols] of [[1, 2], [5, 64], [9, 130], [40, 66], [70, 192]]) {
				using folder = new TemporaryFolder();
				const values = normals(rows * cols, cols).map((value, i) =>
					value + (i % cols < 64 ? 1 : 0)
				);
				using plain = plainTable(folder.path, values, cols);
				const tensors = await searchEmbedding(gpu, plain, "e", form);
				using packed = write(folder.path, "packed", tensors);
				assert.ok(isPackedEmbedding(packed, "e"));
				const layout = { rows, cols, bits, group, zeros: true };
				assert.deepEqual(embeddingLayout(packed, "e"), layout);
				const table = dequantizeEmbeddingOnHost(packed, "e", 0, rows);
				if (rows > 30) {
					const error = relativeError(values, table);
					const ratio = error / rangeError(values, cols, form);
					assert.ok(ratio > 0.5 && ratio < 1.002, `[${rows}, ${cols}] ${ratio}`);
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
}

Deno.test("of numbers with a mean, groups of 64 with zeros have less error than groups of 32 without", async () => {
	using folder = new TemporaryFolder();
	const values = normals(300 * 128, 1).map((value, i) => value + Math.sign(i % 128 - 63.5));
	using plain = plainTable(folder.path, values, 128);
	const errorOf = (name: string, tensors: TensorToWrite[]) => {
		using packed = write(folder.path, name, tensors);
		return relativeError(values, dequantizeEmbeddingOnHost(packed, "e", 0, 300));
	};
	const size = (tensors: TensorToWrite[]) =>
		tensors.filter(({ name }) => !name.endsWith("table_layout"))
			.reduce((sum, { data }) => sum + (data as Uint8Array).length, 0);
	const without = packEmbedding(plain, "e", 4);
	const searched = await searchEmbedding(gpu, plain, "e", { bits: 4, group: 64 });
	assert.equal(size(searched), size(without));
	const [a, b] = [errorOf("searched", searched), errorOf("without", without)];
	assert.ok(a < 0.9 * b, `${a} ${b}`);
});

Deno.test("the kernels of GPUs find grids as good", async () => {
	using folder = new TemporaryFolder();
	const values = normals(60 * 192, 2);
	using plain = plainTable(folder.path, values, 192);
	const errors: number[] = [];
	for (const [i, adapter] of [gpu, await openAsHardware()].entries()) {
		const tensors = await searchEmbedding(adapter, plain, "e", { bits: 4, group: 64 });
		using packed = write(folder.path, `${i}`, tensors);
		errors.push(relativeError(values, dequantizeEmbeddingOnHost(packed, "e", 0, 60)));
	}
	assert.ok(Math.abs(errors[0] / errors[1] - 1) < 1e-3, `${errors}`);
});

Deno.test("zeros stay zeros, in groups of zeros too; the largest f16 stays near", async () => {
	using folder = new TemporaryFolder();
	const values = new Float32Array(4 * 32);
	values.set([65504, -65504, 3, 0], 32);
	values.set(normals(32, 1), 64);
	values[70] = 0;
	using plain = plainTable(folder.path, values, 32);
	using packed = write(
		folder.path,
		"packed",
		await searchEmbedding(gpu, plain, "e", { bits: 4, group: 32 }),
	);
	const table = dequantizeEmbeddingOnHost(packed, "e", 0, 4);
	assert.deepEqual([...table.subarray(0, 32), ...table.subarray(96)], new Array(64).fill(0));
	assert.ok(Math.abs(table[32] - 65504) < 9000 && Math.abs(table[33] + 65504) < 9000);
});

Deno.test("tables that the form cannot hold are refused", async () => {
	using folder = new TemporaryFolder();
	const cases: [values: number[], problem: string][] = [
		[[NaN], "holds 1 value that is NaN or infinite; the model is damaged, get it again"],
		[
			[Infinity, 1, -Infinity],
			"holds 2 values that are NaN or infinite; the model is damaged, get it again",
		],
		[[1e30], "holds values that are too large for a scale in f16; use embeddings: stored"],
	];
	for (const [values, problem] of cases) {
		const all = normals(64, 1);
		all.set(values, 40);
		using plain = plainTable(folder.path, all, 32);
		await assert.rejects(
			searchEmbedding(gpu, plain, "e", { bits: 4, group: 32 }, "the model"),
			new UserError(`"the model": "e.weight" ${problem}`),
		);
	}
	using plain = plainTable(folder.path, normals(64, 1, 1e-8), 32);
	await assert.rejects(
		searchEmbedding(gpu, plain, "e", { bits: 4, group: 32 }, "the model"),
		new UserError(
			'"the model": "e.weight" holds only values that are too small for scales in f16; ' +
				"use embeddings: stored",
		),
	);
});

Deno.test("a table whose parts do not fit its stated layout is refused", async () => {
	using folder = new TemporaryFolder();
	using plain = plainTable(folder.path, normals(3 * 64, 1), 64);
	const tensors = await searchEmbedding(gpu, plain, "e", { bits: 4, group: 32 });
	const refused = (change: (tensors: TensorToWrite[]) => TensorToWrite[], problem: string) => {
		using checkpoint = write(folder.path, "changed", change(tensors));
		assert.throws(
			() => embeddingLayout(checkpoint, "e"),
			new UserError(`"${folder.file("changed")}": ${problem}; the file is damaged`),
		);
	};
	const stating = (...numbers: number[]) => (tensors: TensorToWrite[]) =>
		tensors.with(3, { ...tensors[3], data: new Uint8Array(Uint32Array.from(numbers).buffer) });
	const expected = "expected columns, 3, 4, 5, 6 bits and groups of 32, 64, 128";
	refused(stating(64, 7, 32), `"e.table_layout" is 64, 7, 32; ${expected}`);
	refused(stating(64, 4, 48), `"e.table_layout" is 64, 4, 48; ${expected}`);
	refused(stating(0, 4, 32), `"e.table_layout" is 0, 4, 32; ${expected}`);
	refused(stating(64, 5, 32), '"e.codes" is U32 [3, 8], expected U32 [3, 10]');
	refused(stating(64, 4, 64), '"e.group_scales" is F16 [3, 2], expected F16 [3, 1]');
});
