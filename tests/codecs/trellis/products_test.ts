import assert from "node:assert/strict";
import { trellis } from "../../../codecs/trellis/codec.ts";
import { uploadTrellis, uploadTrellisGroup, vectorForm } from "../../../codecs/trellis/products.ts";
import {
  partsOf,
  tableFormBytes,
  tableFormsOf,
  tableWords,
  trellisRowCode,
  type TrellisVectorForm,
  WHOLE_TILES,
} from "../../../codecs/trellis/row_code.ts";
import { rowShape } from "../../../codecs/packed_rows/vector.ts";
import { tableOf, tableOnGpu } from "../../../codecs/trellis/tables.ts";
import {
  hasTable,
  STATE_BITS,
  stepsOf,
  type Trellis,
  TRELLIS_BITS,
} from "../../../codecs/trellis/trellis.ts";
import type { TrellisHost } from "../../../codecs/trellis/store.ts";
import type { Gpu } from "../../../gpu/device.ts";
import { openAsHardware, openGpu, watchKernels } from "../../gpu/open_gpu.ts";
import { checkGroup, checkLayer, INPUTS } from "../packed_rows/check_products.ts";
import { randomTrellis } from "./random_trellis.ts";

const adapters = { adapter: await openGpu(), hardware: await openAsHardware() };

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

for (const [family, gpu] of Object.entries(adapters)) {
  for (const [k, form] of FORMS.entries()) {
    const what = `${form.bits} bits, states of ${form.stateBits}`;
    Deno.test(`products of trellis layers agree with f64, ${family}: ${what}`, async () => {
      const [rows, cols, isOrdered] = SHAPES[k % SHAPES.length];
      const hosts = rows.map((rows) => randomTrellis({ rows, cols, ...form }, isOrdered).host);
      keepTables(gpu, form);
      await checkGroup(gpu, trellis, hosts, [INPUTS[k % 5]], [12]);
    });

    Deno.test(`${family}: unpacked rows have the bits of the dequantized ones: ${what}`, async () => {
      for (const [[rows], cols, isOrdered] of SHAPES) {
        const { host } = randomTrellis({ rows, cols, ...form }, isOrdered);
        using weight = await uploadTrellis(gpu, host);
        const first = rows >> 2;
        using values = await weight.layer.unpack(gpu, first, rows - first);
        assert.deepEqual(await gpu.read(values), trellis.dequantize(host, first));
      }
    });
  }
}

Deno.test("tiles can be split where the words of their parts are whole vec4s", () => {
  const most = TRELLIS_BITS.map((bits) => partsOf({ bits, stateBits: 12 }).at(-1));
  assert.deepEqual(most, [2, 1, 4, 1, 2], "1, 1.5, 2, 2.5 and 3 bits");
});

Deno.test("GPUs split tiles, and large layers share a table between two rows of tiles", () => {
  const trellis: Trellis = { bits: 2, stateBits: 12 };
  const gpuWith = (threads: number, memory: number, software = false) => {
    const limits = {
      maxComputeInvocationsPerWorkgroup: threads,
      maxComputeWorkgroupStorageSize: memory,
    };
    return { software, device: { limits } } as unknown as Gpu;
  };
  const large = gpuWith(1024, 49152);
  const [one, two] = [{ bands: 1, threads: 256 }, { bands: 2, threads: 512 }];
  const usual = { parts: 4, turns: 4, table: "pairs" };
  assert.deepEqual(vectorForm(large, trellis, 4096), { ...usual, ...two });
  assert.deepEqual(vectorForm(large, trellis, 1024), { ...usual, ...one });
  assert.deepEqual(vectorForm(gpuWith(256, 49152), trellis, 4096), { ...usual, ...one });
  const smaller = { ...usual, table: "entries", ...two };
  assert.deepEqual(vectorForm(gpuWith(1024, 32768), trellis, 4096), smaller);
  assert.deepEqual(vectorForm(large, { ...trellis, bits: 3 }, 4096), { ...smaller, parts: 2 });
  assert.deepEqual(vectorForm(gpuWith(1024, 49152, true), trellis, 4096), WHOLE_TILES);
});

Deno.test("a table of pairs and 4096 columns are within 48 KB, so that columns can be rotated and ordered", () => {
  const limits = {
    maxComputeInvocationsPerWorkgroup: 1024,
    maxComputeWorkgroupStorageSize: 49152,
  };
  const gpu = { software: false, subgroupSize: 32, device: { limits } } as unknown as Gpu;
  for (const [bits, rows] of [[1, 1024], [1, 4096], [2, 1024], [2, 4096]] as const) {
    const trellis: Trellis = { bits, stateBits: 12 };
    const form = vectorForm(gpu, trellis, rows);
    const shape = rowShape(gpu, trellisRowCode(trellis, true, form), 4096);
    const { threads, bands = 1, turns = 1 } = shape;
    assert.equal(threads / bands * turns * 16, 4096, `${bits} bits, ${rows} rows`);
  }
});

Deno.test("words of a table have the entries of all windows", () => {
  for (const form of FORMS) {
    const { stepBits } = stepsOf(form);
    const table = tableOf(form);
    for (const kind of tableFormsOf(form)) {
      if (kind === "entries" || kind === "copies") continue;
      const words = tableWords(form, kind, table);
      assert.equal(words.byteLength, tableFormBytes(form, kind));
      const values = new Float16Array(words.buffer);
      const windows = table.length << (kind === "halves" ? 0 : stepBits);
      for (let window = 0; window < windows; window++) {
        const expected: number[] = kind === "halves"
          ? [table[window]]
          : [table[window >> stepBits], table[window % table.length]];
        const found: number[] = kind === "halves"
          ? [values[window]]
          : stepBits === 1
          ? [values[2 * window], values[2 * window + 1]]
          : [
            values[4 * ((window >> 1) % table.length) + (window >> 1 >= table.length ? 1 : 0)],
            values[4 * ((window >> 1) % table.length) + 2 + (window & 1)],
          ];
        assert.deepEqual(found, expected, `${kind}, window ${window}`);
      }
    }
  }
});

// 19 tiles beside each other, in several panels and turns, and layers that end within a band.
for (const form of FORMS) {
  for (const parts of partsOf(form)) {
    const what = `${form.bits} bits, states of ${form.stateBits}, ${parts} parts`;
    Deno.test(`all forms of products agree with f64: ${what}`, async () => {
      const gpu = adapters.hardware;
      const hosts = [40, 16, 5].map((rows) =>
        randomTrellis({ rows, cols: 300, ...form }, true).host
      );
      keepTables(gpu, form);
      const multiplied = new Set<string>();
      const tables = tableFormsOf(form);
      for (const [i, [bands, turns]] of [[1, 1], [1, 3], [2, 2], [3, 4]].entries()) {
        const threads = 8 * parts * bands; // the least on this adapter
        const table = tables[(i + parts) % tables.length];
        const vector: TrellisVectorForm = { parts, bands, threads, turns, table };
        const codec = {
          ...trellis,
          uploadGroup: (gpu: typeof adapters.hardware, hosts: readonly TrellisHost[]) =>
            uploadTrellisGroup(gpu, hosts, vector),
        };
        const names = watchKernels(gpu);
        await checkGroup(gpu, codec, hosts, [INPUTS[i % 5], "rms"], [3]);
        for (const name of names) if (name.startsWith("row_vector_trellis")) multiplied.add(name);
      }
      assert(multiplied.size >= 4, "kernels differ");
      for (const table of tables) {
        const part = table === "entries" ? "" : `_${table}`;
        const known = `row_vector_trellis_${form.stateBits}_${form.bits}${part}_${16 / parts}_`;
        assert([...multiplied].some((name) => name.startsWith(known)), `table of ${table}`);
      }
    });
  }
}

Deno.test("single trellis layers are multiplied with few tokens and with many", async () => {
  const { host } = randomTrellis({ rows: 37, cols: 530, bits: 2, stateBits: 8 }, true);
  await checkLayer(adapters.adapter, trellis, host, [1, 3, 20]);
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
    assert([...names].some((name) => name.startsWith(`row_vector_trellis_12_${bits}_stored`)));
  }
});

Deno.test("trellis layers of different layouts are no group", async () => {
  const gpu = adapters.adapter;
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
