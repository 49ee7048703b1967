import { repeat, XYZW } from "../../gpu/source_text.ts";
import type { RowCode, RowCodeText } from "../packed_rows/vector_source.ts";
import { stepsOf, TILE, type Trellis } from "./trellis.ts";

/** How the threads of a workgroup share tiles in the product with a vector. */
export interface TrellisVectorForm {
  /** Threads that share a tile, with adjacent rows of it each: their words are whole vec4s. */
  parts: 1 | 2 | 4;
  /** Rows of tiles of a workgroup, which share the table and the panels of x. */
  bands: number;
  /** The most threads of a workgroup. */
  threads: number;
  /** The most tiles, or parts of them, that a thread takes of a panel. */
  turns: number;
}

/** The form that suits any adapter. */
export const WHOLE_TILES: TrellisVectorForm = { parts: 1, bands: 1, threads: 256, turns: 1 };

/** The parts into which the tiles of a trellis can be split, the most last. */
export function partsOf(trellis: Trellis): (1 | 2 | 4)[] {
  const quads = stepsOf(trellis).words / 4;
  return ([1, 2, 4] as const).filter((parts) => quads % parts === 0);
}

/** The most statements that a thread copies the table with; more of them are a loop. */
const MOST_COPIES = 16;

/**
 * The tiles of a trellis in rowVectorKernel(): a thread decodes whole tiles, or some rows of them. It holds
 * the words in registers, so that the window of each state is one or two of them, shifted by constants.
 *
 * A warp of 32 threads reads the table in workgroup memory at 32 random places, which takes 3.5 times as
 * long as reading different banks and is what bounds the product. Copies of the table in banks of their own
 * for each part of the warp would hardly help, as the slowest bank counts: 3.3 times with four copies.
 * So all else has to take place meanwhile: the table arrives at once and not in a loop, several rows of
 * tiles share it and x, and threads that decode a part of a tile need few registers, so that a
 * multiprocessor has room for many.
 *
 * @param inMemory Whether the table is copied to workgroup memory: as f32 numbers, or as pairs of f16
 *   numbers where a step has two weights.
 */
export function trellisRowCode(
  trellis: Trellis,
  inMemory: boolean,
  form: TrellisVectorForm = WHOLE_TILES,
): RowCode {
  const { stateBits, bits } = trellis;
  const { parts, bands, threads, turns } = form;
  return {
    name: `trellis_${stateBits}_${bits}${inMemory ? "" : "_stored"}`,
    chunk: TILE,
    rows: TILE / parts,
    ...{ bands: parts * bands, threads, turns },
    tensors: {
      stream: "vec4u", // [tiles below, words / 4, CHUNKS]
      scales: "f32", // [rows]
      table: stepsOf(trellis).stepWeights === 1 ? "f32" : "vec2f",
    },
    bytes: inMemory ? 4 * 2 ** stateBits : 0,
    text: (threads) => trellisText(trellis, inMemory, parts, threads),
  };
}

function trellisText(
  trellis: Trellis,
  inMemory: boolean,
  parts: number,
  threads: number,
): RowCodeText {
  const { stateBits } = trellis;
  const { stepBits, stepWeights, ...tile } = stepsOf(trellis);
  const [steps, words] = [tile.steps / parts, tile.words / parts];
  const quads = words / 4;
  const entries = 2 ** stateBits;
  const isSingle = stepWeights === 1;
  /** Word k of those of the thread, the one before them with k = -1. */
  const word = (k: number) => {
    if (k >= 0) return `own${k >> 2}.${XYZW[k & 3]}`;
    return parts === 1 ? `own${quads - 1}.w` : "own_before"; // the words of a tile are a ring
  };
  const state = (step: number) => {
    const start = (step + 1) * stepBits - stateBits;
    const [k, first] = [start >> 5, start & 31];
    const beyond = first + stateBits - 32; // bits in the next word
    const window = beyond > 0
      ? `(${word(k)} << ${beyond}u) | (${word(k + 1)} >> ${32 - beyond}u)`
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
  const eachQuad = (line: (q: number) => string) => repeat(quads, line, "\n    ");
  const quadsOfTile = quads * parts;
  return {
    ...(inMemory && {
      declarations: `var<workgroup> entries: array<${isSingle ? "f32" : "u32"}, ${entries}>;`,
      fill: fillTable(entries, isSingle, threads),
    }),
    setup: `let tile_at = row0 / ${TILE}u * ${quadsOfTile}u;
  ${
      parts === 1 ? "" : `let first_quad = band % ${parts}u * ${quads}u;
  let quad_before = (first_quad + ${quadsOfTile - 1}u) % ${quadsOfTile}u;`
    }`,
    variables: `${repeat(quads, (q) => `var words${q}: vec4u;`, " ")}${
      parts === 1 ? "" : " var before: u32;"
    }`,
    load: `${
      eachQuad((q) =>
        `words${q} = stream[(tile_at + ${
          parts === 1 ? "" : "first_quad + "
        }${q}u) * CHUNKS + chunk];`
      )
    }${
      parts === 1 ? "" : `
    before = stream[(tile_at + quad_before) * CHUNKS + chunk].w;`
    }`,
    take: `${eachQuad((q) => `let own${q} = words${q};`)}${
      parts === 1 ? "" : " let own_before = before;"
    }`,
    multiply: repeat(steps, product, "\n      "),
    factor: "scales[row]",
  };
}

/** Statements that copy the table to workgroup memory, with all loads at once if they are not too many. */
function fillTable(entries: number, isSingle: boolean, threads: number): string {
  const converted = (entry: string) => isSingle ? entry : `pack2x16float(${entry})`; // exact: f16 numbers
  const copies = Math.ceil(entries / threads);
  if (copies > MOST_COPIES) {
    return `for (var i = thread; i < ${entries}u; i += ${threads}u) { entries[i] = ${
      converted("table[i]")
    }; }`;
  }
  const at = (i: number) => `thread + ${i * threads}u`;
  const last = entries % threads; // threads that the last copy takes, or 0 for all
  const load = (i: number) =>
    `let entry${i} = table[${
      i === copies - 1 && last ? `min(${at(i)}, ${entries - 1}u)` : at(i)
    }];`;
  const store = (i: number) =>
    `${i === copies - 1 && last ? `if (thread < ${last}u) ` : ""}{ entries[${at(i)}] = ${
      converted(`entry${i}`)
    }; }`;
  return `${repeat(copies, load, " ")}
  ${repeat(copies, store, " ")}`;
}
