import assert from "node:assert/strict";
import { largestMagnitude } from "../../../../gpu/kernels/reduce/largest.ts";
import { normals } from "../../../reference/random.ts";
import { openGpu } from "../../open_gpu.ts";

const gpu = await openGpu();

Deno.test("the largest magnitude is found wherever it is, whatever its sign", async () => {
  for (const size of [1, 63, 65, 257, 5000, 4096 * 256 + 77]) {
    for (const value of [-70, 1e30, -3e38, Infinity]) {
      const values = normals(size, 2);
      values[Math.floor(0.9 * size)] = value;
      using tensor = gpu.upload(values, [size]);
      using top = gpu.zeros([1]);
      await largestMagnitude(gpu, tensor, top);
      assert.deepEqual([...await gpu.read(top)], [Math.fround(Math.abs(value))], `${size}`);
    }
  }
});

Deno.test("the largest magnitude of several tensors is found one by one", async () => {
  using top = gpu.zeros([1]);
  const found: number[] = [];
  for (const values of [[0, -0], [1e-20, -2e-20], [1, -5], [4, 3]]) {
    using tensor = gpu.upload(Float32Array.from(values), [2]);
    await largestMagnitude(gpu, tensor, top);
    found.push(...await gpu.read(top));
  }
  assert.deepEqual(found, [0, Math.fround(2e-20), 5, 5]);
});
