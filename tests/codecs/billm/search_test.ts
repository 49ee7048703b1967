import assert from "node:assert/strict";
import { dequantize } from "../../../codecs/billm/dequantize.ts";
import type { BillmBits } from "../../../codecs/billm/quantize_block.ts";
import {
  canSearch,
  rowSearchShape,
  searchBits,
  searchRows,
  sweepBlocks,
} from "../../../codecs/billm/search.ts";
import type { Gpu } from "../../../gpu/device.ts";
import type { Tensor } from "../../../gpu/tensor.ts";
import { assertClose } from "../../assert_close.ts";
import { openAsHardware, openGpu } from "../../gpu/open_gpu.ts";
import { damped, matmul } from "../../reference/linear_algebra.ts";
import { normals, seededRandom } from "../../reference/random.ts";
import {
  lossOf,
  PARAMETERS,
  type SearchedLayer,
  sweepReference,
  tabuReference,
  valuesOfLayer,
} from "../../reference/row_search.ts";

interface Problem {
  layer: SearchedLayer;
  hasSalient: boolean;
  target: Float32Array;
  hessian: Float32Array;
}

interface Shape {
  rows: number;
  cols: number;
  blockSize: number;
  hasSalient: boolean;
}

/** A Hessian of correlated inputs; H_ij = 0.6^|i - j| for many columns, where sums would take long. */
function makeHessian(cols: number, isDead: (col: number) => boolean): Float32Array {
  if (cols > 400) {
    return Float32Array.from(
      { length: cols * cols },
      (_, at) => 0.6 ** Math.abs(Math.floor(at / cols) - at % cols),
    );
  }
  const tokens = cols + 20;
  const shared = normals(tokens, 5);
  const x = normals(tokens * cols, 6).map((value, i) =>
    isDead(i % cols) ? 0 : (value + 0.5 * shared[Math.floor(i / cols)]) * (1 + i % cols % 3)
  );
  const xt = new Float32Array(cols * tokens).map((_, i) => x[i % tokens * cols + i / tokens | 0]);
  const hessian = matmul(xt, x, cols, cols, tokens).map((sum) => sum / tokens);
  return Float32Array.from(damped(hessian, cols, 0.01));
}

/** A layer with arbitrary bits; every third row has its low scale so small that the zone is nearly empty. */
function makeProblem({ rows, cols, blockSize, hasSalient }: Shape): Problem {
  const random = seededRandom(rows + cols);
  const isDead = (col: number) => cols > 60 && col % 41 === 7;
  const salient = Uint8Array.from({ length: cols }, () => Number(hasSalient && random() < 0.1));
  if (hasSalient && cols > blockSize) salient.fill(0, 0, blockSize); // a block without any
  const typical = [0.02, 0.4, -0.05, 1.3, 0.1, 1, 0.5];
  const count = rows * Math.ceil(cols / blockSize) * PARAMETERS;
  const scales = Float64Array.from(
    { length: count },
    (_, i) => Math.f16round(typical[i % PARAMETERS] * (0.7 + 0.6 * random())),
  );
  const codes = Uint8Array.from({ length: rows * cols }, () => 4 * random());
  const target = normals(rows * cols, cols).map((w, i) => isDead(i % cols) ? 0 : w);
  const layer = { rows, cols, blockSize, salient, codes, scales };
  return { layer, hasSalient, target, hessian: makeHessian(cols, isDead) };
}

/** A problem on the GPU, with what its kernels make of it. */
class OnGpu implements Disposable {
  readonly bits: BillmBits;
  readonly quantized: Tensor;
  readonly target: Tensor;
  readonly hessian: Tensor;

  constructor(readonly gpu: Gpu, readonly problem: Problem) {
    const { layer, hasSalient, target, hessian } = problem;
    const { rows, cols, blockSize, codes, salient } = layer;
    const words = Math.ceil(cols / 32);
    const planes = new Uint32Array(2 * rows * words);
    codes.forEach((code, i) => {
      const [row, col] = [Math.floor(i / cols), i % cols];
      for (const plane of [0, 1]) {
        planes[(plane * rows + row) * words + (col >> 5)] |= (code >> plane & 1) << (col & 31);
      }
    });
    const perBlock = hasSalient ? 7 : 4;
    const scales = Float32Array.from(layer.scales.filter((_, i) => i % PARAMETERS < perBlock));
    this.bits = {
      ...{ rows, cols, blockSize, zones: 2, planes: hasSalient ? 2 : 0 },
      bits: gpu.upload(planes, [2, rows, words]),
      scales: gpu.upload(scales, [rows, scales.length / rows / perBlock, perBlock]),
      salient: gpu.upload(Uint32Array.from(salient), [cols]),
    };
    this.quantized = gpu.upload(Float32Array.from(valuesOfLayer(layer)), [rows, cols]);
    this.target = gpu.upload(target, [rows, cols]);
    this.hessian = gpu.upload(hessian, [cols, cols]);
  }

  /** (W - Q) H. */
  residual(): Tensor {
    const { layer, target, hessian } = this.problem;
    const { rows, cols } = layer;
    const error = valuesOfLayer(layer).map((value, i) => target[i] - value);
    const residual = Float32Array.from(matmul(error, hessian, rows, cols, cols));
    return this.gpu.upload(residual, [rows, cols]);
  }

  /** The result as a layer, checked to be consistent. */
  async read(): Promise<{ layer: SearchedLayer; quantized: Float32Array; words: Uint32Array }> {
    const { gpu, bits, problem: { layer } } = this;
    const { rows, cols, planes } = bits;
    const quantized = await gpu.read(this.quantized);
    const words = await gpu.read(bits.bits, "u32");
    const width = words.length / 2 / rows;
    const marks = new Uint32Array(width);
    if (planes) for (let col = 0; col < cols; col++) marks[col >> 5] |= layer.salient[col] << col;
    using salient = gpu.upload(marks, [width]);
    using again = await dequantize(gpu, bits, bits.bits, bits.scales, salient);
    assert.deepEqual(await gpu.read(again), quantized, "the bits give back the values");
    if (cols % 32 > 0) {
      const beyond = words.filter((_, i) => i % width === width - 1)
        .map((word) => word >>> (cols % 32));
      assert(beyond.every((word) => word === 0), "bits beyond the last column are 0");
    }
    const bit = (plane: number, i: number) =>
      words[(plane * rows + Math.floor(i / cols)) * width + (i % cols >> 5)] >>> (i % cols & 31) &
      1;
    const codes = layer.codes.map((_, i) => bit(0, i) + 2 * bit(1, i));
    const stored = await gpu.read(bits.scales);
    assert.deepEqual(stored, stored.map(Math.f16round), "scales are f16");
    const perBlock = planes ? 7 : 4;
    const scales = layer.scales.map((_, i) =>
      i % PARAMETERS < perBlock ? stored[Math.floor(i / PARAMETERS) * perBlock + i % PARAMETERS] : 0
    );
    return { layer: { ...layer, codes, scales }, quantized, words };
  }

  [Symbol.dispose](): void {
    const { bits, scales, salient } = this.bits;
    this.gpu.free(bits, scales, salient, this.quantized, this.target, this.hessian);
  }
}

function copyOf(layer: SearchedLayer): SearchedLayer {
  return { ...layer, codes: layer.codes.slice(), scales: layer.scales.slice() };
}

/** The loss of the weights on the device, in f64, which must be that of the reference. */
function assertSameLoss({ target, hessian, layer }: Problem, found: number, wanted: SearchedLayer) {
  const expected = lossOf(target, valuesOfLayer(wanted), hessian, layer.cols);
  assertClose([found], [expected], { rel: 1e-4, what: "loss" });
}

function shareOfEqual(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Array.from(a).filter((value, i) => value === b[i]).length / a.length;
}

const FAMILIES = [
  { suits: "the adapter", gpu: await openGpu() },
  { suits: "GPUs", gpu: await openAsHardware() },
];

// Rows on both sides of a workgroup's; one block, a short last one, widths of no full word or vec4.
const SHAPES: [rows: number, cols: number, blockSize: number][] = [
  [5, 32, 32],
  [17, 75, 32],
  [16, 64 + 2, 64],
  [3, 128, 128],
  [9, 128 + 45, 128],
  [2, 256 + 31, 256],
];

for (const { suits, gpu } of FAMILIES) {
  for (const hasSalient of [true, false]) {
    const what = `${hasSalient ? "with" : "without"} salient columns, as suits ${suits}`;
    Deno.test(`a sweep is that of f64, ${what}`, async () => {
      for (const [rows, cols, blockSize] of SHAPES) {
        const problem = makeProblem({ rows, cols, blockSize, hasSalient });
        const { target, hessian } = problem;
        using device = new OnGpu(gpu, problem);
        using residual = device.residual();
        await sweepBlocks(gpu, device.hessian, residual, device.bits, device.quantized);
        const { layer, quantized } = await device.read();
        const wanted = copyOf(problem.layer);
        sweepReference(wanted, target, hessian);
        const loss = lossOf(target, quantized, hessian, cols);
        const before = lossOf(target, valuesOfLayer(problem.layer), hessian, cols);
        assert(loss < 0.5 * before, `${loss} after ${before}`);
        assertSameLoss(problem, loss, wanted);
        assert(shareOfEqual(layer.codes, wanted.codes) > 0.99, `codes of ${rows}, ${cols}`);
        if (cols <= blockSize) {
          // A place of f16, since f32 sums may lie on the other side of a boundary. Several parameters
          // give the same values to few salient columns.
          const zones = ({ scales }: SearchedLayer) => scales.filter((_, i) => i % PARAMETERS < 4);
          const halves = { rel: 2 ** -10, abs: 2 ** -13, what: "means and scales of zones" };
          assertClose(zones(layer), zones(wanted), halves);
          assertClose(quantized, valuesOfLayer(wanted), { abs: 2 ** -9, what: "values" });
        }
        const error = target.map((w, i) => w - quantized[i]);
        const expected = matmul(error, hessian, rows, cols, cols);
        assertClose(await gpu.read(residual), expected, { abs: 1e-3, what: "R" });
      }
    });

    Deno.test(`tabu search is that of f64, ${what}`, async () => {
      for (const [rows, cols, blockSize] of [SHAPES[1], SHAPES[4], [2, 8 * 64 + 3, 128]]) {
        const { lanes, perThread, most } = rowSearchShape(gpu, cols);
        assert.equal(perThread, Math.ceil(cols / lanes));
        for (const moves of [1, 12, 150]) {
          assert(moves <= most);
          const problem = makeProblem({ rows, cols, blockSize, hasSalient });
          const { target, hessian } = problem;
          using device = new OnGpu(gpu, problem);
          using residual = device.residual();
          const { bits } = device;
          await searchRows(gpu, device.hessian, residual, bits, device.quantized, moves, 3);
          const { layer, quantized } = await device.read();
          const wanted = copyOf(problem.layer);
          const isCoarse = !(gpu.software && gpu.subgroupSize > 0);
          tabuReference(wanted, target, hessian, moves, 3, isCoarse ? lanes : undefined);
          assertSameLoss(problem, lossOf(target, quantized, hessian, cols), wanted);
          assert(shareOfEqual(layer.codes, wanted.codes) > 0.98, `codes of ${rows}, ${cols}`);
          const changed = layer.codes.filter((code, i) => code !== problem.layer.codes[i]).length;
          assert(changed > 0 && changed <= moves * rows, `${changed} codes changed`);
        }
      }
    });
  }
}
