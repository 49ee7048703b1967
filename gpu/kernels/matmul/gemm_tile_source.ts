import { repeat, XYZW } from "../../source_text.ts";
import {
  ALL_F32,
  GEMM_FLAGS,
  type GemmLayout,
  prelude,
  type Storages,
  widened,
} from "./gemm_source.ts";

/** The size of the tiles that pass through workgroup memory. */
export interface TileShape {
  /** Rows and columns of C that a workgroup computes. */
  rows: number;
  cols: number;
  /** Steps along the inner dimension between two barriers. */
  depth: number;
  /** Rows and columns of C that a thread computes, multiples of four. */
  threadRows: number;
  threadCols: number;
}

/** Changes whenever {@link tileKernel} gives another text for the same arguments. */
export const TILE_KERNEL_VERSION = 1;

/**
 * What a kernel may take for granted. Aligned: every row starts at a multiple of four elements and
 * the columns come in fours. Whole: besides, C is made of whole tiles, and k of whole steps. Paired:
 * besides, the steps are even in number, and workgroup memory has room for two tiles of each operand,
 * so that one barrier a step is enough.
 */
export type GemmFit = "any" | "aligned" | "whole" | "paired";

/** `128x128x16_8x8`: the tile, then what a thread has of it. */
export function tileName({ rows, cols, depth, threadRows, threadCols }: TileShape): string {
  return `${rows}x${cols}x${depth}_${threadRows}x${threadCols}`;
}

/** Threads of a workgroup. */
export function tileThreads({ rows, cols, threadRows, threadCols }: TileShape): number {
  return (rows / threadRows) * (cols / threadCols);
}

/** Bytes of workgroup memory that {@link tileKernel} needs. */
export function tileKernelBytes(layout: GemmLayout, tile: TileShape, fit: GemmFit): number {
  const { a, b } = tileWidths(layout, tile);
  return 16 * tile.depth * (a + b) * (fit === "paired" ? 2 : 1);
}

/** Vectors in a row of the tiles; one more where storing a transposed block would meet itself. */
function tileWidths(layout: GemmLayout, { rows, cols }: TileShape): { a: number; b: number } {
  return { a: rows / 4 + Number(layout[0] === "N"), b: cols / 4 + Number(layout[1] === "T") };
}

/** How the threads fetch one operand. */
interface Operand {
  name: "a" | "b";
  array: "A" | "B";
  storage: Storages["a"];
  /** Rows or columns of C that it has in a tile, and the first of them. */
  length: number;
  first: string;
  /** Whether k is its fast dimension: blocks of 4 x 4 are transposed on the way. */
  across: boolean;
  /** Pieces, of one vector or of one block, and the greatest number that a thread fetches. */
  pieces: number;
  turns: number;
}

/**
 * Both operands pass through workgroup memory as `[k][rows / 4]`; each thread keeps its entries of C
 * in registers, in groups of four rows by four columns that lie apart, so that it reads workgroup
 * memory only in vec4 without bank conflicts. The next tile is fetched into registers while this one
 * is multiplied.
 *
 * Workgroup arrays are nested, `[constant k][index that does not depend on k]`, so that their bounds
 * checks are hoisted. Each entry of C is one sum with k ascending: the tiles do not change a bit of
 * the result.
 *
 * @param storages Where all are not f32; C may be f16 only if rows are aligned.
 */
export function tileKernel(
  layout: GemmLayout,
  tile: TileShape,
  fit: GemmFit,
  storages: Storages = ALL_F32,
): string {
  const aligned = fit !== "any";
  const walks = fit === "whole" || fit === "paired";
  const { rows, cols, depth, threadRows, threadCols } = tile;
  const rowGroups = threadRows / 4;
  const colGroups = threadCols / 4;
  const threadsX = cols / threadCols;
  const threads = tileThreads(tile);
  const loaders = threads / 2; // half of the threads fetch A, half fetch B
  const operand = (
    name: "a" | "b",
    length: number,
    first: string,
    across: boolean,
  ): Operand => {
    const pieces = length / 4 * depth / (across ? 4 : 1);
    const turns = Math.ceil(pieces / loaders);
    const array = name === "a" ? "A" : "B";
    return { name, array, storage: storages[name], length, first, across, pieces, turns };
  };
  const a = operand("a", rows, "m0", layout[0] === "N");
  const b = operand("b", cols, "n0", layout[1] === "T");
  const registers = Math.max(...[a, b].map(({ across, turns }) => turns * (across ? 4 : 1)));
  // What is stored narrow waits in the registers as it is: widening it would wait for memory.
  const keepsWords = walks && [a, b].some(({ storage }) => storage !== "f32");
  const kept = ({ storage }: Operand, value: string) => {
    if (!keepsWords) return value;
    return storage === "f32" ? `bitcast<vec4u>(${value})` : `vec4u(${value}, 0u, 0u)`;
  };
  const register = ({ storage }: Operand, i: number) => {
    if (!keepsWords) return `r${i}`;
    return storage === "f32" ? `bitcast<vec4f>(r${i})` : widened(storage, `r${i}.xy`);
  };
  /** The text for each piece of a thread, guarded where not all threads have one. */
  const eachPiece = ({ pieces, turns }: Operand, line: (turn: number) => string) =>
    repeat(turns, (turn) => {
      const isCertain = (turn + 1) * loaders <= pieces;
      const body = `let piece = u + ${turn * loaders}u; ${line(turn)}`;
      return isCertain ? `{ ${body} }` : `if (u < ${pieces - turn * loaders}u) { ${body} }`;
    });
  const isInside = (k: string) => `${k} < p.k`;
  const inside4 = (value: string, k: string) =>
    aligned
      ? `select(vec4f(0.0), ${value}, ${isInside(k)})`
      : `select(vec4f(0.0), ${value}, vec4<bool>(${
        [0, 1, 2, 3].map((i) => isInside(`${k} + ${i}u`)).join(", ")
      }))`;

  // Fetches rows or columns `first` and on of an operand into registers.
  const fetch = (operand: Operand) => {
    const { name, length, first, across } = operand;
    return eachPiece(operand, (turn) =>
      across
        ? `let k = k0 + (piece % ${depth / 4}u) * 4u;
        let at = p.${name}_start + (${first} + piece / ${depth / 4}u * 4u) * p.${name}_stride + k;
        ${
          repeat(4, (i) =>
            `r${turn * 4 + i} = ${inside4(`load_${name}(at + ${i}u * p.${name}_stride)`, "k")};`)
        }`
        : `let k = k0 + piece / ${length / 4}u;
        r${turn} = select(vec4f(0.0), load_${name}(p.${name}_start + k * p.${name}_stride + ${first} + piece % ${
          length / 4
        }u * 4u), ${isInside("k")});`);
  };
  // Of whole tiles, each thread walks along its own places: nothing is checked or multiplied.
  const place = (operand: Operand) => {
    const { name, length, first, across } = operand;
    return `row_stride = p.${name}_stride >> 2u;
    step = ${across ? `${depth / 4}u` : `${depth}u * row_stride`};
    ${
      repeat(operand.turns, (turn) =>
        `{ let piece = u + ${turn * loaders}u; at${turn} = (p.${name}_start >> 2u) + ${
          across
            ? `(${first} + piece / ${depth / 4}u * 4u) * row_stride + piece % ${depth / 4}u`
            : `piece / ${length / 4}u * row_stride + (${first} >> 2u) + piece % ${length / 4}u`
        }; }`)
    }`;
  };
  const walk = (operand: Operand) =>
    eachPiece(
      operand,
      (turn) =>
        (operand.across
          ? repeat(4, (i) =>
            `r${turn * 4 + i} = ${
              kept(operand, `${operand.array}[at${turn} + ${i}u * row_stride]`)
            };`)
          : `r${turn} = ${kept(operand, `${operand.array}[at${turn}]`)};`) +
        ` at${turn} += step;`,
    );
  const forBoth = (text: (operand: Operand) => string) =>
    `if (fetches_a) { ${text(a)} } else { ${text(b)} }`;
  const fetchBoth = forBoth(walks ? walk : fetch);
  const stash = (operand: Operand, tileName: string) =>
    eachPiece(operand, (turn) =>
      operand.across
        ? `let k = (piece % ${depth / 4}u) * 4u;
        let at = piece / ${depth / 4}u;
        ${repeat(4, (i) => `let v${i} = ${register(operand, turn * 4 + i)};`)}
        ${
          repeat(4, (i) =>
            `${tileName}[k + ${i}u][at] = vec4f(${
              [0, 1, 2, 3].map((j) => `v${j}.${XYZW[i]}`).join(", ")
            });`)
        }`
        : `${tileName}[piece / ${operand.length / 4}u][piece % ${operand.length / 4}u] = ${
          register(operand, turn)
        };`);
  const stashBoth = (pair: number) =>
    forBoth((operand) => stash(operand, `tile_${operand.name}${pair}`));
  const multiply = (pair: number) =>
    repeat(
      depth,
      (k) =>
        `{ ${
          repeat(
            rowGroups,
            (g) => `let a${g} = tile_a${pair}[${k}][ty + ${g * rows / threadRows}u];`,
          )
        } ${
          repeat(
            colGroups,
            (g) => `let b${g} = tile_b${pair}[${k}][tx + ${g * cols / threadCols}u];`,
          )
        }
    ${
          repeat(threadRows, (i) =>
            repeat(colGroups, (j) =>
              `c${i}_${j} = fma(vec4f(a${i >> 2}.${XYZW[i & 3]}), b${j}, c${i}_${j});`))
        } }`,
    );
  const widths = tileWidths(layout, tile);
  const registerType = keepsWords ? "vec4u" : "vec4f";
  return `${prelude({ storages, aligned, whole: walks })}
${
    repeat(fit === "paired" ? 2 : 1, (pair) =>
      `var<workgroup> tile_a${pair}: array<array<vec4f, ${widths.a}>, ${depth}>;
var<workgroup> tile_b${pair}: array<array<vec4f, ${widths.b}>, ${depth}>;`)
  }

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let m0 = group.y * ${rows}u;
  let n0 = group.x * ${cols}u;
  if ((p.flags & ${GEMM_FLAGS.upper}u) != 0u && n0 + ${cols}u <= m0) { return; }
  let tx = thread % ${threadsX}u;
  let ty = thread / ${threadsX}u;
  let fetches_a = thread < ${loaders}u;
  let u = select(thread - ${loaders}u, thread, fetches_a);
  ${repeat(registers, (q) => `var r${q}: ${registerType};`)}
  ${repeat(threadRows, (i) => repeat(colGroups, (j) => `var c${i}_${j} = vec4f(0.0);`))}
  var k0 = 0u;
  ${
    !walks ? "" : `
  var row_stride: u32;
  var step: u32;
  ${repeat(Math.max(a.turns, b.turns), (q) => `var at${q}: u32;`)}
  ${forBoth(place)}`
  }
  ${fetchBoth}
  ${stashBoth(0)}
  workgroupBarrier();
  loop {
    k0 += ${depth}u;
    ${
    fit === "paired"
      ? `${fetchBoth}
    ${multiply(0)}
    ${stashBoth(1)}
    workgroupBarrier();
    k0 += ${depth}u;
    let more = k0 < p.k;
    if (more) { ${fetchBoth} }
    ${multiply(1)}
    if (!more) { break; }`
      : `let more = k0 < p.k;
    if (more) { ${fetchBoth} }
    ${multiply(0)}
    if (!more) { break; }
    workgroupBarrier(); // everyone is done with the tiles`
  }
    ${stashBoth(0)}
    workgroupBarrier();
  }
  ${
    repeat(threadRows, (i) =>
      repeat(colGroups, (j) =>
        `put(m0 + ${(i >> 2) * rows / rowGroups + (i & 3)}u + ty * 4u, n0 + ${
          j * cols / colGroups
        }u + tx * 4u, c${i}_${j});`))
  }
}
`;
}
