import assert from "node:assert/strict";
import { argmax, NOT_FINITE } from "../../gpu/argmax.ts";
import { normals } from "../reference/random.ts";
import { openAsHardware, openGpu } from "./open_gpu.ts";

for (
  const { family, gpu } of [
    { family: "suits the adapter", gpu: await openGpu() },
    { family: "suits GPUs", gpu: await openAsHardware() },
  ]
) {
  const find = async (x: Float32Array, cols: number) => {
    using tensor = gpu.upload(x, [x.length / cols, cols]);
    using found = await argmax(gpu, tensor);
    return [...await gpu.read(found, "u32")];
  };

  for (const cols of [1, 2, 15, 16, 17, 127, 128, 129, 1000, 50272]) {
    Deno.test(`argmax() that ${family} finds the greatest of ${cols}`, async () => {
      const x = normals(4 * cols, cols);
      x.fill(-1e30, cols, 2 * cols); // all the same: the first counts
      x[3 * cols - 1] = 100;
      if (cols > 20) x[3 * cols + 20] = x[3 * cols + 9] = 100;
      const expected = Array.from({ length: 4 }, (_, row) => {
        const values = x.subarray(row * cols, (row + 1) * cols);
        return values.reduce((best, value, i) => value > values[best] ? i : best, 0);
      });
      assert.deepEqual(await find(x, cols), expected);
    });
  }

  Deno.test(`argmax() that ${family} marks what is not finite`, async () => {
    for (const wrong of [NaN, Infinity, -Infinity]) {
      for (const at of [0, 77, 199]) {
        const x = normals(400, 1);
        x[at] = wrong;
        x[399] = 3.4e38;
        assert.deepEqual(await find(x, 200), [NOT_FINITE, 199], `${wrong} at ${at}`);
      }
    }
    assert.deepEqual(await find(Float32Array.of(-3.4e38, -3.4028e38), 2), [0]);
  });
}
