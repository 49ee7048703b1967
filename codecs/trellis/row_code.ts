import { repeat, XYZW } from "../../gpu/source_text.ts";
import type { RowCode, RowCodeText } from "../packed_rows/vector_source.ts";
import { stepsOf, TILE, type Trellis } from "./trellis.ts";

/**
 * How the table lies in workgroup memory: the entries as they are, f32 numbers or pairs of f16 numbers of
 * one step ("entries"); two f16 numbers of neighbouring states in a word ("halves"); four copies of these
 * in banks of their own ("copies"); or what two successive steps of one weight need ("pairs").
 */
export type TableForm = "entries" | "halves" | "copies" | "pairs";

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
  table: TableForm;
}

/** The form that suits any adapter. */
export const WHOLE_TILES: TrellisVectorForm = {
  parts: 1,
  bands: 1,
  threads: 256,
  turns: 1,
  table: "entries",
};

/** The parts into which the tiles of a trellis can be split, the most last. */
export function partsOf(trellis: Trellis): (1 | 2 | 4)[] {
  const quads = stepsOf(trellis).words / 4;
  return ([1, 2, 4] as const).filter((parts) => quads % parts === 0);
}

/** The forms of the table that a trellis can have. */
export function tableFormsOf(trellis: Trellis): TableForm[] {
  const { stepBits, stepWeights } = stepsOf(trellis);
  if (stepWeights === 2) return ["entries"];
  return ["entries", "halves", "copies", ...(stepBits <= 2 ? ["pairs" as const] : [])];
}

/** Bytes of a table in a form. */
export function tableFormBytes({ stateBits }: Trellis, form: TableForm): number {
  return { entries: 4, halves: 2, copies: 8, pairs: 8 }[form] * 2 ** stateBits;
}

/**
 * The words of a table in a form other than "entries" and "copies", which is made of "halves".
 *
 * @param table The entries, exact f16 values.
 * @returns Halves: the states 2 i and 2 i + 1 in word i. Pairs with steps of 1 bit: both states of each
 *   window of two steps in a word. With steps of 2 bits, the first and the last bit of the window are not
 *   part of the index: a word with the two possible first states, and one with the two second states.
 */
export function tableWords(
  trellis: Trellis,
  form: "halves" | "pairs",
  table: Float32Array,
): Uint32Array<ArrayBuffer> {
  const entries = 2 ** trellis.stateBits;
  const half = entries / 2;
  const states = form === "halves"
    ? table.keys()
    : stepsOf(trellis).stepBits === 1
    ? Array.from({ length: 2 * entries }, (_, i) => [i >> 1, i % entries]).flat()
    : Array.from({ length: entries }, (_, i) => {
      const [first, second] = [i >> 1, 2 * (i % half)];
      return [first, first + half, second, second + 1];
    }).flat();
  const values = Float16Array.from(states, (state) => table[state]);
  return new Uint32Array(values.buffer);
}

/** The most statements that a thread copies the table with; more of them are a loop. */
const MOST_COPIES = 16;

/**
 * The tiles of a trellis in rowVectorKernel(): a thread decodes whole tiles, or some rows of them. It holds
 * the words in registers, so that the window of each state is one or two of them, shifted by constants.
 *
 * A warp of 32 threads reads the table in workgroup memory at 32 random places, which takes 3.5 times as
 * long as reading different banks and is what bounds the product. Copies of the table in banks of their own
 * for each part of the warp would hardly help, as the slowest bank counts: 3.3 times with four copies. A
 * read of two words, which the two halves of a warp take in turns, is 6.1 times as long, and in the form
 * "pairs" gives two weights: 3.1 times for each. So all else has to take place meanwhile: the table arrives
 * at once and not in a loop, several rows of tiles share it and x, and threads that decode a part of a tile
 * need few registers, so that a multiprocessor has room for many.
 *
 * @param inMemory Whether the table is copied to workgroup memory, in the form's form of a table.
 */
export function trellisRowCode(
  trellis: Trellis,
  inMemory: boolean,
  form: TrellisVectorForm = WHOLE_TILES,
): RowCode {
  const { stateBits, bits } = trellis;
  const { parts, bands, threads, turns } = form;
  const table = inMemory ? form.table : "entries";
  return {
    name: `trellis_${stateBits}_${bits}${
      inMemory ? table === "entries" ? "" : `_${table}` : "_stored"
    }`,
    chunk: TILE,
    rows: TILE / parts,
    ...{ bands: parts * bands, threads, turns },
    tensors: {
      stream: "vec4u", // [tiles below, words / 4, CHUNKS]
      scales: "f32", // [rows]
      table: table === "entries"
        ? stepsOf(trellis).stepWeights === 1 ? "f32" : "vec2f"
        : wordType(trellis, table),
    },
    bytes: inMemory ? tableFormBytes(trellis, table) : 0,
    isDense: true,
    text: (threads) => trellisText(trellis, inMemory, table, parts, threads),
  };
}

/** The WGSL type of an entry of a table in workgroup memory. */
function wordType(trellis: Trellis, table: TableForm): "f32" | "u32" | "vec2u" {
  const { stepBits, stepWeights } = stepsOf(trellis);
  if (table === "entries") return stepWeights === 1 ? "f32" : "u32";
  return table === "pairs" && stepBits === 2 ? "vec2u" : "u32";
}

function trellisText(
  trellis: Trellis,
  inMemory: boolean,
  table: TableForm,
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
  /** The last bits before the end of a step, so many of them below any others. */
  const window = (step: number, bits: number = stateBits) => {
    const start = (step + 1) * stepBits - bits;
    const [k, first] = [start >> 5, start & 31];
    const beyond = first + bits - 32; // bits in the next word
    if (beyond > 0) return `((${word(k)} << ${beyond}u) | (${word(k + 1)} >> ${32 - beyond}u))`;
    return beyond < 0 ? `(${word(k)} >> ${-beyond}u)` : word(k);
  };
  const state = (step: number) => `${window(step)} & ${entries - 1}u`;
  const term = (place: number, value: string) => {
    const [row, col] = [Math.floor(place / TILE), place % TILE];
    return `sum${row} = fma(x${col >> 2}.${XYZW[col & 3]}, ${value}, sum${row});`;
  };
  /** One of the f16 numbers of a word: the second one if the bit of a window is 1. */
  const choice = (word: string, window: string, bit: number) => {
    const shift = bit > 4
      ? `${window} >> ${bit - 4}u`
      : bit < 4
      ? `${window} << ${4 - bit}u`
      : window;
    return `unpack2x16float(${word} >> ((${shift}) & 16u)).x`;
  };
  const products: Record<TableForm, (step: number) => string> = {
    entries(step) {
      const entry = `${inMemory ? "entries" : "table"}[${state(step)}]`;
      if (isSingle) return term(step, entry);
      return `{ let pair = ${inMemory ? `unpack2x16float(${entry})` : entry}; ${
        term(2 * step, "pair.x")
      } ${term(2 * step + 1, "pair.y")} }`;
    },
    halves: (step) =>
      `{ let state = ${state(step)}; ${term(step, choice("entries[state >> 1u]", "state", 0))} }`,
    copies: (step) =>
      `{ let window = ${window(step)}; ${
        term(
          step,
          choice(
            `entries[((window << 1u) & ${
              (entries / 16 - 1) << 5
            }u) | ((window >> 1u) & 7u) | copy]`,
            "window",
            0,
          ),
        )
      } }`,
    pairs(step) {
      if (step % 2) return "";
      const bits = stateBits + stepBits;
      if (stepBits === 1) {
        return `{ let pair = unpack2x16float(entries[${window(step + 1, bits)} & ${
          2 * entries - 1
        }u]); ${term(step, "pair.x")} ${term(step + 1, "pair.y")} }`;
      }
      return `{ let window = ${window(step + 1, bits)}; let words = entries[(window >> 1u) & ${
        entries - 1
      }u]; ${term(step, choice("words.x", "window", bits - 1))} ${
        term(step + 1, choice("words.y", "window", 0))
      } }`;
    },
  };
  const eachQuad = (line: (q: number) => string) => repeat(quads, line, "\n    ");
  const quadsOfTile = quads * parts;
  const type = wordType(trellis, table);
  const count = tableFormBytes(trellis, table) / (type === "vec2u" ? 8 : 4);
  return {
    ...(inMemory && {
      declarations: `var<workgroup> entries: array<${type}, ${count}>;`,
      fill: fillTable(table === "copies" ? count / 4 : count, table, isSingle, threads),
    }),
    setup: `let tile_at = row0 / ${TILE}u * ${quadsOfTile}u;
  ${
      parts === 1 ? "" : `let first_quad = band % ${parts}u * ${quads}u;
  let quad_before = (first_quad + ${quadsOfTile - 1}u) % ${quadsOfTile}u;`
    }
  ${
      table === "copies"
        ? "let copy = thread & 24u; // of the quarter of a warp, in banks of its own"
        : ""
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
    multiply: repeat(steps, products[table], "\n      "),
    factor: "scales[row]",
  };
}

/**
 * Statements that copy the table to workgroup memory, with all loads at once if they are not too many.
 *
 * @param count Entries of the table as stored.
 */
function fillTable(count: number, table: TableForm, isSingle: boolean, threads: number): string {
  // Exact: f16 numbers.
  const converted = (entry: string) =>
    table === "entries" && !isSingle ? `pack2x16float(${entry})` : entry;
  const place = (at: string, copy: number) =>
    table === "copies" ? `((${at}) >> 3u << 5u) + ((${at}) & 7u) + ${8 * copy}u` : at;
  const stored = (at: string, entry: string) =>
    repeat(
      table === "copies" ? 4 : 1,
      (copy) => `entries[${place(at, copy)}] = ${converted(entry)};`,
      " ",
    );
  const copies = Math.ceil(count / threads);
  if (copies > MOST_COPIES) {
    return `for (var i = thread; i < ${count}u; i += ${threads}u) { ${stored("i", "table[i]")} }`;
  }
  const at = (i: number) => `thread + ${i * threads}u`;
  const last = count % threads; // threads that the last copy takes, or 0 for all
  const load = (i: number) =>
    `let entry${i} = table[${i === copies - 1 && last ? `min(${at(i)}, ${count - 1}u)` : at(i)}];`;
  const store = (i: number) =>
    `${i === copies - 1 && last ? `if (thread < ${last}u) ` : ""}{ ${stored(at(i), `entry${i}`)} }`;
  return `${repeat(copies, load, " ")}
  ${repeat(copies, store, " ")}`;
}
