import assert from "node:assert/strict";
import { trellis } from "../../../codecs/trellis/codec.ts";
import { uploadTrellis, uploadTrellisGroup, vectorForm } from "../../../codecs/trellis/products.ts";
import { partsOf, type TrellisVectorForm, WHOLE_TILES } from "../../../codecs/trellis/row_code.ts";
import { tableOnGpu } from "../../../codecs/trellis/tables.ts";
import {
  hasTable,
  STATE_BITS,
  type Trellis,
  TRELLIS_BITS,
} from "../../../codecs/trellis/trellis.ts";
import type { TrellisHost } from "../../../codecs/trellis/store.ts";
import { openAsHardware, openGpu, watchKernels } from "../../gpu/open_gpu.ts";
import { checkGroup, checkLayer, INPUTS } from "../packed_rows/check_products.ts";
import { randomTrellis } from "./random_trellis.ts";

const adapters = { adapter: await openGpu(), hardware: await openAsHardware() };

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
      tableOnGpu(gpu, form); // is kept
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
  const { hardware } = adapters;
  const trellis: Trellis = { bits: 2, stateBits: 12 };
  const [one, two] = [{ bands: 1, threads: 256 }, { bands: 2, threads: 512 }];
  assert.deepEqual(vectorForm(hardware, trellis, 4096), { parts: 4, turns: 4, ...two });
  assert.deepEqual(vectorForm(hardware, trellis, 1024), { parts: 4, turns: 4, ...one });
  const small = { software: false, device: { limits: { maxComputeInvocationsPerWorkgroup: 256 } } };
  assert.deepEqual(
    vectorForm(small as typeof hardware, trellis, 4096),
    { parts: 4, turns: 4, ...one },
  );
  assert.deepEqual(
    vectorForm({ ...small, software: true } as typeof hardware, trellis, 4096),
    WHOLE_TILES,
  );
});

// 19 tiles beside each other, in several panels and turns, and layers that end within a band.
for (const form of FORMS) {
  for (const parts of partsOf(form)) {
    Deno.test(
      `all forms of products agree with f64: ${form.bits} bits, states of ${form.stateBits}, ${parts} parts`,
      async () => {
        const gpu = adapters.hardware;
        const hosts = [40, 16, 5].map((rows) =>
          randomTrellis({ rows, cols: 300, ...form }, true).host
        );
        tableOnGpu(gpu, form); // is kept
        const multiplied = new Set<string>();
        for (const [i, [bands, turns]] of [[1, 1], [1, 3], [2, 2], [3, 4]].entries()) {
          const threads = 8 * parts * bands; // the least on this adapter
          const vector: TrellisVectorForm = { parts, bands, threads, turns };
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
      },
    );
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
    tableOnGpu(gpu, layout); // is kept
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
