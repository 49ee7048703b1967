import { accumulateHessian, mirrorUpper, zeroDeadColumns } from "../../gpu/hessian.ts";
import { assertClose } from "../assert_close.ts";
import { matmul, transposed } from "../reference/linear_algebra.ts";
import { normals } from "../reference/random.ts";
import { openGpu } from "./open_gpu.ts";

const gpu = await openGpu();

for (const n of [1, 15, 16, 17, 64, 65, 130, 257]) {
  Deno.test(`accumulateHessian() adds batches and mirrorUpper() completes [${n}, ${n}]`, async () => {
    using hessian = gpu.zeros([n, n]);
    const expected = new Float64Array(n * n);
    for (const tokens of [1, 5, 33]) {
      const x = normals(tokens * n, tokens);
      using input = gpu.upload(x, [tokens, n]);
      await accumulateHessian(gpu, input, hessian, 0.25);
      matmul(transposed(x, tokens, n), x, n, n, tokens).forEach((v, i) => expected[i] += 0.25 * v);
    }
    await mirrorUpper(gpu, hessian);
    assertClose(await gpu.read(hessian), expected, { abs: 1e-5 }); // 39 terms of about 1 in f32
  });

  Deno.test(`zeroDeadColumns() clears what H leaves out of [5, ${n}]`, async () => {
    const rows = 5;
    const weight = normals(rows * n, n);
    const matrix = normals(n * n, n + 1);
    const isDead = (column: number) => column % 7 === 2 || column === n - 1;
    for (let j = 0; j < n; j++) if (isDead(j)) matrix[j * n + j] = 0;
    using hessian = gpu.upload(matrix, [n, n]);
    using tensor = gpu.upload(weight, [rows, n]);
    await zeroDeadColumns(gpu, hessian, tensor);
    assertClose(await gpu.read(tensor), weight.map((w, i) => isDead(i % n) ? 0 : w));
  });
}
