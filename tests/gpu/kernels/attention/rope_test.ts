import { rope } from "../../../../gpu/kernels/attention/rope.ts";
import { assertClose } from "../../../assert_close.ts";
import { ropeHead } from "../../../reference/decoder.ts";
import { normals } from "../../../reference/random.ts";
import { openGpu } from "../../open_gpu.ts";

const gpu = await openGpu();

for (
  const { heads, headDim, length, windows } of [
    { heads: 1, headDim: 2, length: 1, windows: 1 },
    { heads: 1, headDim: 6, length: 5, windows: 2 },
    { heads: 21, headDim: 6, length: 3, windows: 1 }, // 63 pairs
    { heads: 4, headDim: 32, length: 33, windows: 3 }, // 64
    { heads: 5, headDim: 26, length: 7, windows: 2 }, // 65
    { heads: 3, headDim: 128, length: 17, windows: 1 },
  ]
) {
  Deno.test(`rope() turns ${heads} heads of ${headDim} in ${windows} windows of ${length}`, async () => {
    const half = headDim / 2;
    const tokens = length * windows;
    const table = Float32Array.from({ length: length * headDim }, (_, i) => {
      const angle = Math.floor(i / headDim) / 10000 ** (Math.floor(i % headDim / 2) / half);
      return i % 2 ? Math.sin(angle) : Math.cos(angle);
    });
    const x = normals(tokens * heads * headDim, headDim);
    using xTensor = gpu.upload(x, [tokens, heads * headDim]);
    using tableTensor = gpu.upload(table, [length, half, 2]);
    await rope(gpu, xTensor, tableTensor, heads);
    const expected = new Float64Array(x.length);
    for (let token = 0; token < tokens; token++) {
      const position = token % length;
      for (let head = 0; head < heads; head++) {
        const at = (token * heads + head) * headDim;
        const row = table.subarray(position * headDim, (position + 1) * headDim);
        expected.set(ropeHead(x.subarray(at, at + headDim), row), at);
      }
    }
    // Two products of numbers up to 5 and their sum.
    assertClose(await gpu.read(xTensor), expected, { abs: 1e-6 });
  });
}
