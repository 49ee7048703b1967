import assert from "node:assert/strict";
import { canGroup, freeGroup, uploadPackedGroup } from "../../gpu/packed_group.ts";
import {
  multipliesVectors,
  packedVectorProduct,
  shapeFor,
  type VectorSource,
} from "../../gpu/packed_vector.ts";
import { packedVectorBytes, packedVectorKernel } from "../../gpu/packed_vector_source.ts";
import { freePacked, uploadPacked } from "../../gpu/packed_weight.ts";
import type { BitLayout } from "../../gpu/quantize_block.ts";
import { normals } from "../reference/random.ts";
import { openAsHardware, openGpu, watchKernels } from "./open_gpu.ts";
import { productReference, randomPacked } from "./random_packed.ts";

const gpu = await openAsHardware();
assert(gpu.subgroupSize >= 8, "the adapter has subgroups of one size");

/** Rows of each layer of a group, the layout that they share, and whether scales are codes. */
type Case = [rows: number[], layout: Omit<BitLayout, "rows">, coded: boolean, share: number];

const CASES: Case[] = [
  [[64, 40, 300], { cols: 256, blockSize: 128, zones: 2, planes: 2 }, true, 0.1],
  [[100], { cols: 700, blockSize: 128, zones: 2, planes: 2 }, false, 0.2],
  [[33, 20], { cols: 129, blockSize: 256, zones: 2, planes: 3 }, true, 0.4],
  [[1], { cols: 1, blockSize: 128, zones: 2, planes: 2 }, true, 1],
  [[70], { cols: 1290, blockSize: 128, zones: 1, planes: 2 }, true, 1],
  [[70], { cols: 1290, blockSize: 384, zones: 1, planes: 0 }, false, 0],
  [[129], { cols: 2500, blockSize: 128, zones: 2, planes: 1 }, false, 0.05],
  // More units than subgroups, with one step of rows and with several.
  [[40], { cols: 2900, blockSize: 256, zones: 2, planes: 2 }, true, 0.1],
  [[1500, 800], { cols: 2100, blockSize: 128, zones: 2, planes: 3 }, true, 0.1],
];

for (const [rows, layout, coded, share] of CASES) {
  const { cols, blockSize, zones, planes } = layout;
  const what =
    `${rows.join(", ")} rows, ${cols} columns in blocks of ${blockSize}, ${zones} zones, ` +
    `${planes} planes${coded ? ", codes" : ""}`;
  Deno.test(`packedVectorProduct() agrees with the reference: ${what}`, async () => {
    const layers = rows.map((rows, i) =>
      randomPacked({ ...layout, rows } as BitLayout, 10 * cols + i, { coded, share })
    );
    const before = gpu.memory.current;
    const group = await uploadPackedGroup(gpu, layers.map(({ host }) => host));
    const x = normals(cols, 5);
    const weight = normals(cols, 6);
    const up = Math.ceil(cols / 64) * 64;
    const both = new Float32Array(up + cols);
    both.set(normals(cols, 7));
    both.set(normals(cols, 8), up);
    const bias = normals(group.rows, 9);
    const residual = normals(group.rows, 10);

    const multiply = async (input: Float32Array, source?: VectorSource, adds = false) => {
      using xs = gpu.upload(input, [1, input.length]);
      using biases = gpu.upload(bias, [1, group.rows]);
      using residuals = gpu.upload(residual, [1, group.rows]);
      const addends = adds ? { bias: biases, residual: residuals } : {};
      using y = await packedVectorProduct(gpu, xs, group, { source, ...addends });
      return await gpu.read(y);
    };
    const check = (actual: Float32Array, input: Float64Array, adds: boolean, error: number) => {
      for (const [i, { weight }] of layers.entries()) {
        const { sums, magnitudes } = productReference(Float32Array.from(input), weight, cols);
        for (let row = 0; row < rows[i]; row++) {
          const at = group.starts[i] + row;
          const expected = sums[row] + (adds ? bias[at] + residual[at] : 0);
          const size = magnitudes[row] + (adds ? Math.abs(bias[at]) + Math.abs(residual[at]) : 0);
          assert(
            Math.abs(actual[at] - expected) <= error * size,
            `${actual[at]} in row ${row} of layer ${i}, expected ${expected} within ${
              error * size
            }`,
          );
        }
      }
    };

    check(await multiply(x), Float64Array.from(x), false, 2e-6);
    check(await multiply(x, undefined, true), Float64Array.from(x), true, 2e-6);
    const norm = gpu.upload(weight, [cols]);
    const squares = x.reduce((sum, value) => sum + value * value, 0);
    const rms = Math.sqrt(squares / cols + 1e-5);
    const normed = Float64Array.from(x, (value, i) => value * weight[i] / rms);
    const rmsSource = { op: "rms", weight: norm, epsilon: 1e-5 } as const;
    check(await multiply(x, rmsSource, true), normed, true, 3e-6);
    const relu = { op: "activation", name: "relu" } as const;
    check(await multiply(x, relu), Float64Array.from(x, (v) => Math.max(v, 0)), false, 2e-6);
    const gated = Float64Array.from(
      { length: cols },
      (_, i) => both[i] / (1 + Math.exp(-both[i])) * both[up + i],
    );
    check(await multiply(both, { op: "activation", name: "silu", up }, true), gated, true, 3e-6);

    freeGroup(gpu, group);
    gpu.free(norm);
    assert.equal(gpu.memory.current, before);
  });
}

Deno.test("a workgroup keeps its tables for several steps of rows where there are many", async () => {
  const layout = { rows: 16390, cols: 140, blockSize: 128, zones: 2, planes: 2 } as const;
  const { host, weight } = randomPacked(layout, 3);
  const group = await uploadPackedGroup(gpu, [host]);
  const names = watchKernels(gpu);
  const x = normals(layout.cols, 4);
  using xs = gpu.upload(x, [1, layout.cols]);
  using y = await packedVectorProduct(gpu, xs, group);
  assert.deepEqual([...names], ["packed_vector_2_2_f16_1_2x2_plain"]);
  const actual = await gpu.read(y);
  const { sums, magnitudes } = productReference(x, weight, layout.cols);
  sums.forEach((sum, i) => assert(Math.abs(actual[i] - sum) <= 2e-6 * magnitudes[i]));
  freeGroup(gpu, group);
});

Deno.test("shapeFor() shares rows and columns as the adapter allows", () => {
  const shapeOf = (rows: number, cols: number, threads = 1024, bytes = 49152, lanes = 32) => {
    const limits = {
      maxComputeInvocationsPerWorkgroup: threads,
      maxComputeWorkgroupStorageSize: bytes,
    } as GPUSupportedLimits;
    const adapter = { subgroupSize: lanes, subgroupBarriers: true, device: { limits } };
    const shape = shapeFor(adapter as unknown as typeof gpu, rows, Math.ceil(cols / 128));
    assert(shape.splits * lanes <= threads && packedVectorBytes(shape) <= bytes);
    const { splits, steps, turns } = shape;
    return `${splits}x${steps}${turns ? " turns" : ""}`;
  };
  assert.equal(shapeOf(4096, 4096), "16x1 turns");
  assert.equal(shapeOf(22016, 4096), "16x6 turns");
  assert.equal(shapeOf(32000, 4096), "16x8 turns");
  assert.equal(shapeOf(4096, 11008), "22x1 turns");
  assert.equal(shapeOf(128256, 4096), "16x8 turns", "as much as the memory holds");
  assert.equal(shapeOf(4096, 1024), "8x1");
  assert.equal(shapeOf(4096, 4096, 256, 16384), "8x1 turns");
  assert.equal(shapeOf(32000, 128, 256, 16384), "1x1");
  assert.equal(shapeOf(4096, 4096, 256, 16384, 64), "4x1 turns");
});

Deno.test("the layers of a group are packed weights of their own", async () => {
  const layers = [40, 200].map((rows, i) =>
    randomPacked({ rows, cols: 300, blockSize: 128, zones: 2, planes: 2 }, i, { coded: true }).host
  );
  const group = await uploadPackedGroup(gpu, layers);
  for (const [i, host] of layers.entries()) {
    const alone = await uploadPacked(gpu, host);
    for (const part of ["bits", "salient", "order", "scales", "factors"] as const) {
      const [expected, actual] = [alone[part]!, group.weights[i][part]!];
      assert.deepEqual(actual.shape, expected.shape);
      assert.deepEqual(await gpu.readBytes(actual), await gpu.readBytes(expected), part);
    }
    freePacked(gpu, alone);
  }
  freeGroup(gpu, group);
});

Deno.test("canGroup() and multipliesVectors() say what goes together", async () => {
  const layout = { rows: 8, cols: 256, blockSize: 128, zones: 2, planes: 2 } as const;
  const { host } = randomPacked(layout, 1);
  assert(canGroup([host, { ...host, rows: 4 }]));
  assert(!canGroup([host, host, host, host]));
  assert(!canGroup([host, { ...host, cols: 255 }]));
  assert(!canGroup([host, { ...host, zones: 1 }]));
  assert(!canGroup([host, randomPacked(layout, 1, { coded: true }).host]));
  assert(multipliesVectors(gpu, layout.blockSize));
  assert(!multipliesVectors(gpu, 96));
  const software = await openGpu();
  assert.equal(multipliesVectors(software, layout.blockSize), !software.software);
  const group = await uploadPackedGroup(gpu, [host]);
  using x = gpu.zeros([1, 255]);
  await assert.rejects(
    () => packedVectorProduct(gpu, x, group),
    new RangeError("Cannot multiply [1, 255] with packed weights of [8, 256]"),
  );
  freeGroup(gpu, group);
});

Deno.test("the kernel for subgroups of 32 threads looks five columns up at a time", () => {
  const form = { zones: 2, planes: 2, coded: true, mixed: false } as const;
  const shape = { lanes: 32, splits: 4, steps: 2, turns: false, subgroupBarriers: false };
  const source = packedVectorKernel(form, shape, "plain", 1);
  assert(source.includes("@workgroup_size(128)"));
  for (const sum of ["plus", "high", "both", "marked0", "marked1"]) {
    assert.equal(source.split(`${sum} += subgroupShuffle`).length - 1, 26, sum);
  }
  assert.equal(source.match(/workgroupBarrier/g)!.length, 4);
  const barriers = packedVectorKernel(form, { ...shape, subgroupBarriers: true }, "plain", 1);
  assert.equal(barriers.match(/workgroupBarrier/g)!.length, 1);
  assert.equal(packedVectorBytes(shape), 4 * 4 * (140 + 12 * 28 + 64 + 1));
});
