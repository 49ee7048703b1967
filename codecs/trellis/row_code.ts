import { repeat, XYZW } from "../../gpu/source_text.ts";
import type { RowCode, RowCodeText } from "../packed_rows/vector_source.ts";
import { stepsOf, TILE, type Trellis } from "./trellis.ts";

/**
 * The tiles of a trellis in rowVectorKernel(): a thread decodes whole tiles. It holds the words of a tile
 * in registers, so that the window of each state is one or two of them, shifted by constants.
 *
 * @param inMemory Whether the table is copied to workgroup memory: as f32 numbers, or as pairs of f16
 *   numbers where a step has two weights.
 */
export function trellisRowCode(trellis: Trellis, inMemory: boolean): RowCode {
  const { stateBits, bits } = trellis;
  return {
    name: `trellis_${stateBits}_${bits}${inMemory ? "" : "_stored"}`,
    chunk: TILE,
    rows: TILE,
    tensors: {
      stream: "vec4u", // [tiles below, words / 4, CHUNKS]
      scales: "f32", // [rows]
      table: stepsOf(trellis).stepWeights === 1 ? "f32" : "vec2f",
    },
    bytes: inMemory ? 4 * 2 ** stateBits : 0,
    text: (threads) => trellisText(trellis, inMemory, threads),
  };
}

function trellisText(trellis: Trellis, inMemory: boolean, threads: number): RowCodeText {
  const { stateBits } = trellis;
  const { stepBits, stepWeights, steps, words } = stepsOf(trellis);
  const entries = 2 ** stateBits;
  const isSingle = stepWeights === 1;
  const word = (k: number) => `words${k >> 2}.${XYZW[k & 3]}`;
  const state = (step: number) => {
    const start = ((step + 1) * stepBits + 32 * words - stateBits) % (32 * words);
    const [k, first] = [start >> 5, start & 31];
    const beyond = first + stateBits - 32; // bits in the next word
    const window = beyond > 0
      ? `(${word(k)} << ${beyond}u) | (${word((k + 1) % words)} >> ${32 - beyond}u)`
      : `${word(k)}${beyond < 0 ? ` >> ${-beyond}u` : ""}`;
    return `(${window}) & ${entries - 1}u`;
  };
  const entry = (step: number) => {
    if (!inMemory) return `table[${state(step)}]`;
    return isSingle ? `entries[${state(step)}]` : `unpack2x16float(entries[${state(step)}])`;
  };
  const term = (place: number, value: string) => {
    const [row, col] = [Math.floor(place / TILE), place % TILE];
    return `sum${row} = fma(x${col >> 2}.${XYZW[col & 3]}, ${value}, sum${row});`;
  };
  const product = (step: number) =>
    isSingle
      ? term(step, entry(step))
      : `{ let pair = ${entry(step)}; ${term(2 * step, "pair.x")} ${
        term(2 * step + 1, "pair.y")
      } }`;
  return {
    ...(inMemory && {
      declarations: `var<workgroup> entries: array<${isSingle ? "f32" : "u32"}, ${entries}>;`,
      setup: `for (var i = thread; i < ${entries}u; i += ${threads}u) { entries[i] = ${
        isSingle ? "table[i]" : "pack2x16float(table[i])" // exact: they are f16 numbers
      }; }`,
    }),
    load: `let first_word = first_row / ${TILE}u * ${words / 4}u * CHUNKS + chunk;
    ${
      repeat(
        words / 4,
        (q) => `let words${q} = stream[first_word + ${q}u * CHUNKS];`,
        "\n    ",
      )
    }`,
    multiply: repeat(steps, product, "\n      "),
    factor: "scales[row]",
  };
}
