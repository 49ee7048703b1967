import { type BitLayout, bitPlanes, scalesPerBlock } from "../../gpu/quantize_block.ts";
import type { PackedOnHost } from "../../gpu/packed_weight.ts";
import { dequantizeReference } from "../reference/billm.ts";
import { normals, seededRandom } from "../reference/random.ts";

/** Random bits of a linear layer. */
export interface RandomPacked {
  host: PackedOnHost;
  /** The weights that they stand for, f32 `[rows, cols]`. */
  weight: Float32Array;
}

/** Random bits; about `share` of the columns are salient, scales are f16 values or 8-bit codes. */
export function randomPacked(
  layout: BitLayout,
  seed: number,
  { share = 0.2, coded = false } = {},
): RandomPacked {
  const { rows, cols, blockSize } = layout;
  const random = seededRandom(seed);
  const words = Math.ceil(cols / 32);
  const perBlock = scalesPerBlock(layout);
  const perRow = Math.ceil(cols / blockSize) * perBlock;
  const bits = Uint32Array.from(
    { length: bitPlanes(layout) * rows * words },
    () => random() * 2 ** 32,
  );
  const marks = Array.from({ length: cols }, () => Number(layout.planes > 0 && random() < share));
  const salient = new Uint32Array(words);
  marks.forEach((mark, col) => salient[col >> 5] |= mark << (col & 31));
  let scales = normals(rows * perRow, seed + 1, 0.1).map(Math.f16round);
  let codes: PackedOnHost["codes"];
  if (coded) {
    const values = Int8Array.from(
      { length: rows * perRow },
      () => Math.floor(random() * 256) - 128,
    );
    const factors = Float32Array.from({ length: 2 * rows }, () => Math.f16round(random() / 500));
    codes = { values, factors };
    scales = Float32Array.from(values, (code, i) => {
      const inBlock = i % perRow % perBlock;
      const isMean = inBlock < 2 * layout.zones ? inBlock % 2 === 0 : inBlock === 2 * layout.zones;
      return code * factors[2 * Math.floor(i / perRow) + Number(!isMean)];
    });
  }
  return {
    host: { ...layout, bits, salient, scales, codes },
    weight: dequantizeReference(layout, bits, scales, marks),
  };
}

/** x · weightᵀ in f64, and the sums of the magnitudes of its terms. */
export function productReference(
  x: Float32Array,
  weight: Float32Array,
  cols: number,
): { sums: Float64Array; magnitudes: Float64Array } {
  const [tokens, rows] = [x.length / cols, weight.length / cols];
  const sums = new Float64Array(tokens * rows);
  const magnitudes = new Float64Array(tokens * rows);
  for (let token = 0; token < tokens; token++) {
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) {
        const term = x[token * cols + col] * weight[row * cols + col];
        sums[token * rows + row] += term;
        magnitudes[token * rows + row] += Math.abs(term);
      }
    }
  }
  return { sums, magnitudes };
}
