import assert from "node:assert/strict";
import { trellis } from "~/codecs/trellis/codec.ts";
import { uploadTrellis, uploadTrellisGroup, vectorForm } from "~/codecs/trellis/products.ts";
import {
	pairWords,
	partsOf,
	tableFormBytes,
	tableFormsOf,
	trellisRowCode,
	type TrellisVectorForm,
	WHOLE_TILES,
} from "~/codecs/trellis/row_code.ts";
import { rowShape } from "~/codecs/packed_rows/vector.ts";
import { tableOf, tableOnGpu } from "~/codecs/trellis/tables.ts";
import {
	hasTable,
	STATE_BITS,
	stepsOf,
	type Trellis,
	TRELLIS_BITS,
} from "~/codecs/trellis/trellis.ts";
import type { TrellisHost } from "~/codecs/trellis/store.ts";
import type { Gpu } from "~/gpu/device.ts";
import { DEVICES, hardware } from "../../gpu/devices.ts";
import { gpu } from "../../gpu/gpu.ts";
import { openAsHardware, watchKernels } from "../../gpu/open_gpu.ts";
import { checkGroup, checkLayer, INPUTS } from "../packed_rows/check_products.ts";
import { randomTrellis } from "./random_trellis.ts";

/** Uploads the tables, which stay on the GPU. */
function keepTables(gpu: Gpu, trellis: Trellis): void {
	for (const form of tableFormsOf(trellis)) tableOnGpu(gpu, trellis, form);
}

const FORMS: Trellis[] = STATE_BITS.flatMap((stateBits) =>
	TRELLIS_BITS.map((bits) => ({ bits, stateBits })).filter(hasTable)
);

const SHAPES: [rows: number[], cols: number, isOrdered: boolean][] = [
	[[48, 16, 20], 80, true],
	[[7], 161, false],
	[[1, 33], 300, true],
];

for (const [k, form] of FORMS.entries()) {
	const what = `${form.bits} bits, states of ${form.stateBits}`;
	Deno.test(`products of trellis layers agree with f64: ${what}`, async () => {
		const [rows, cols, isOrdered] = SHAPES[k % SHAPES.length];
		const hosts = rows.map((rows) => randomTrellis({ rows, cols, ...form }, isOrdered).host);
		keepTables(gpu, form);
		await checkGroup(gpu, trellis, hosts, [INPUTS[k % 5]], [12]);
	});

	Deno.test(`unpacked rows have the bits of the dequantized ones: ${what}`, async () => {
		for (const [[rows], cols, isOrdered] of SHAPES) {
			const { host } = randomTrellis({ rows, cols, ...form }, isOrdered);
			using weight = await uploadTrellis(gpu, host);
			const first = rows >> 2;
			using values = await weight.layer.unpack(gpu, first, rows - first);
			assert.deepEqual(await gpu.read(values), trellis.dequantize(host, first));
		}
	});
}

Deno.test("tiles can be split where the words of their parts are whole vec4s", () => {
	const most = TRELLIS_BITS.map((bits) => partsOf({ bits, stateBits: 12 }));
	assert.deepEqual(most, [2, 1, 4, 1, 2], "1, 1.5, 2, 2.5 and 3 bits");
});

Deno.test("GPUs split tiles, and large layers share a table between two or four rows of tiles", () => {
	const trellis: Trellis = { bits: 2, stateBits: 12 };
	const gpuWith = (threads: number, memory: number, software = false) => {
		const limits = {
			maxComputeInvocationsPerWorkgroup: threads,
			maxComputeWorkgroupStorageSize: memory,
		};
		return { software, device: { limits } } as unknown as Gpu;
	};
	const large = gpuWith(1024, 49152);
	const [one, two, four] = [1, 2, 4].map((bands) => ({ bands, threads: 256 * bands }));
	const usual = { parts: 4, turns: 4, table: "pairs" };
	assert.deepEqual(vectorForm(large, trellis, 4096), { ...usual, ...two });
	assert.deepEqual(vectorForm(large, trellis, 1024), { ...usual, ...one });
	assert.deepEqual(vectorForm(large, trellis, 16383), { ...usual, ...two });
	assert.deepEqual(vectorForm(large, trellis, 16384), { ...usual, ...four });
	assert.deepEqual(vectorForm(gpuWith(512, 49152), trellis, 16384), { ...usual, ...two });
	assert.deepEqual(vectorForm(gpuWith(256, 49152), trellis, 16384), { ...usual, ...one });
	const smaller = { ...usual, table: "entries", ...two };
	assert.deepEqual(vectorForm(gpuWith(1024, 32768), trellis, 4096), smaller);
	assert.deepEqual(vectorForm(large, { ...trellis, bits: 3 }, 16384), { ...smaller, parts: 2 });
	const least = { ...smaller, table: "stored" };
	assert.deepEqual(vectorForm(gpuWith(1024, 16384), trellis, 4096), least);
	assert.deepEqual(vectorForm(gpuWith(1024, 49152, true), trellis, 4096), WHOLE_TILES);
	const stored = { ...WHOLE_TILES, table: "stored" };
	assert.deepEqual(vectorForm(gpuWith(1024, 16384, true), trellis, 4096), stored);
});

Deno.test("a table of pairs and 4096 columns are within 48 KB, so that columns can be rotated and ordered", () => {
	const limits = { maxComputeInvocationsPerWorkgroup: 1024, maxComputeWorkgroupStorageSize: 49152 };
	const gpu = { software: false, subgroupSize: 32, device: { limits } } as unknown as Gpu;
	for (const bits of [1, 2] as const) {
		for (const rows of [1024, 4096, 22016]) {
			const trellis: Trellis = { bits, stateBits: 12 };
			const form = vectorForm(gpu, trellis, rows);
			const { threads, bands = 1, turns = 1 } = rowShape(gpu, trellisRowCode(trellis, form), 4096);
			assert.equal(threads / bands * turns * 16, 4096, `${bits} bits, ${rows} rows`);
		}
	}
});

Deno.test("words of pairs have the entries of all windows", () => {
	for (const form of FORMS.filter((form) => tableFormsOf(form).includes("pairs"))) {
		const { stepBits } = stepsOf(form);
		const table = tableOf(form);
		const { length } = table;
		const words = pairWords(form, table);
		assert.equal(words.byteLength, tableFormBytes(form, "pairs"));
		const values = new Float16Array(words.buffer);
		for (let window = 0; window < length << stepBits; window++) {
			const inner = 4 * ((window >> 1) % length); // the first of a word of each step of 2 bits
			const places = stepBits === 1
				? [2 * window, 2 * window + 1]
				: [inner + Number(window >= 2 * length), inner + 2 + (window & 1)];
			const expected = [table[window >> stepBits], table[window % length]];
			assert.deepEqual(places.map((place) => values[place]), expected, `window ${window}`);
		}
	}
});

// 19 tiles beside each other, in several panels and turns, and layers that end within a band.
const WORKS = [[1, 1], [4, 4], [1, 3], [2, 2]] as const;
const VECTOR_FORMS = FORMS.flatMap((form) => tableFormsOf(form).map((table) => ({ form, table })));
for (const [i, { form, table }] of VECTOR_FORMS.entries()) {
	const [bands, turns] = WORKS[i % WORKS.length];
	const what =
		`${form.bits} bits, states of ${form.stateBits}, ${table}, ${bands} bands, ${turns} turns`;
	Deno.test(`products on GPUs agree with f64: ${what}`, async () => {
		const gpu = hardware;
		const parts = partsOf(form);
		const hosts = [40, 5].map((rows) => randomTrellis({ rows, cols: 300, ...form }, true).host);
		keepTables(gpu, form);
		const threads = 8 * parts * bands; // the least on this adapter
		const vector: TrellisVectorForm = { parts, bands, threads, turns, table };
		const uploadGroup = (gpu: Gpu, hosts: readonly TrellisHost[]) =>
			uploadTrellisGroup(gpu, hosts, vector);
		const names = watchKernels(gpu);
		await checkGroup(gpu, { ...trellis, uploadGroup }, hosts, [INPUTS[i % 5]], [[12, 3][i % 2]]);
		const known = `row_vector_trellis_${form.stateBits}_${form.bits}_${table}_${16 / parts}_`;
		assert([...names].some((name) => name.startsWith(known)), [...names].join());
	});
}

Deno.test("single trellis layers are multiplied with few tokens and with many", async () => {
	const { host } = randomTrellis({ rows: 37, cols: 530, bits: 2, stateBits: 8 }, true);
	for (const { gpu } of DEVICES) {
		keepTables(gpu, host);
		await checkLayer(gpu, trellis, host, [1, 3, 20]);
	}
});

Deno.test("where workgroup memory is small, the table is read from where it is stored", async () => {
	const gpu = await openAsHardware();
	const { limits } = gpu.device;
	const small = new Proxy(limits, {
		get: (target, name) =>
			name === "maxComputeWorkgroupStorageSize" ? 16384 : Reflect.get(target, name, target),
	});
	Object.defineProperty(gpu.device, "limits", { value: small });
	const names = watchKernels(gpu);
	for (const bits of [1, 1.5] as const) {
		const layout = { rows: 18, cols: 64, bits, stateBits: 12 } as const;
		const { host } = randomTrellis(layout);
		keepTables(gpu, layout);
		await checkGroup(gpu, trellis, [host], ["plain"], [12]);
		assert([...names].some((name) => name.startsWith(`row_vector_trellis_12_${bits}_stored_`)));
	}
});

Deno.test("trellis layers of different layouts are no group", async () => {
	const layout = { rows: 16, cols: 64, bits: 2, stateBits: 12 } as const;
	const { host } = randomTrellis(layout);
	for (const other of [{ bits: 1 }, { stateBits: 8 }, { cols: 80 }] as const) {
		const { host: second } = randomTrellis({ ...layout, ...other });
		assert.equal(await trellis.uploadGroup!(gpu, [host, second]), undefined);
	}
	assert.equal(
		await trellis.uploadGroup!(gpu, [host, randomTrellis(layout, true).host]),
		undefined,
	);
	assert.equal(await trellis.uploadGroup!(gpu, [host, host, host, host]), undefined, "four layers");
});
