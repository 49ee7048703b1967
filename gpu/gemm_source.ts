/**
 * Generates the matrix-multiplication kernels: C = alpha · op(A) · op(B), and what follows it.
 *
 * Hot loops are written out: naga guards every WGSL loop with a 64-bit counter. Workgroup arrays are
 * nested, `[constant k][index that does not depend on k]`, so that their bounds checks are hoisted.
 */

/** Which operands come transposed: `N` as used, `T` with rows and columns swapped. */
export type GemmLayout = "NN" | "NT" | "TN";

/** The size of the tiles that pass through workgroup memory. */
export interface TileShape {
  /** Rows and columns of C that a workgroup computes. */
  rows: number;
  cols: number;
  /** Steps along the inner dimension between two barriers. */
  depth: number;
}

/** Bits of the `flags` parameter. */
export const GEMM_FLAGS = { bias: 1, residual: 2, accumulate: 4, upper: 8 } as const;

const XYZW = "xyzw";

function repeat(count: number, line: (i: number) => string): string {
  return Array.from({ length: count }, (_, i) => line(i)).join("\n");
}

const PARAMS = `
struct Params {
  m: u32, n: u32, k: u32, flags: u32,
  a_start: u32, a_stride: u32, b_start: u32, b_stride: u32,
  c_start: u32, c_stride: u32, r_start: u32, r_stride: u32,
  alpha: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
`;

/**
 * What a kernel may take for granted. Aligned: every row starts at a multiple of four elements and
 * the columns come in fours. Whole: besides, C is made of whole tiles, and k of whole steps. Paired:
 * besides, the steps are even in number, and workgroup memory has room for two tiles of each operand,
 * so that one barrier a step is enough.
 */
export type GemmFit = "any" | "aligned" | "whole" | "paired";

/** Bytes of workgroup memory that {@link tileKernel} needs. */
export function tileKernelBytes(layout: GemmLayout, tile: TileShape, fit: GemmFit): number {
  const { a, b } = tileWidths(layout, tile);
  return 16 * tile.depth * (a + b) * (fit === "paired" ? 2 : 1);
}

/** Vectors in a row of the tiles; one more where storing a transposed block would meet itself. */
function tileWidths(layout: GemmLayout, { rows, cols }: TileShape): { a: number; b: number } {
  return { a: rows / 4 + Number(layout[0] === "N"), b: cols / 4 + Number(layout[1] === "T") };
}

/** Bindings, parameters and `put`, which finishes four neighbouring entries of C. */
function prelude(fit: GemmFit): string {
  const aligned = fit !== "any";
  const element = aligned ? "vec4f" : "f32";
  const load = (array: string, index: string) =>
    aligned
      ? `${array}[(${index}) >> 2u]`
      : `vec4f(${[0, 1, 2, 3].map((i) => `${array}[${index} + ${i}u]`).join(", ")})`;
  const store = aligned
    ? "C[at >> 2u] = v;"
    : repeat(4, (i) => `if (col + ${i}u < p.n) { C[at + ${i}u] = v.${XYZW[i]}; }`);
  return `${PARAMS}
@group(0) @binding(1) var<storage, read> A: array<${element}>;
@group(0) @binding(2) var<storage, read> B: array<${element}>;
@group(0) @binding(3) var<storage, read_write> C: array<${element}>; // [m, n]
@group(0) @binding(4) var<storage, read> bias: array<${element}>;    // [n]
@group(0) @binding(5) var<storage, read> R: array<${element}>;       // [m, n]

fn load_a(index: u32) -> vec4f { return ${load("A", "index")}; }
fn load_b(index: u32) -> vec4f { return ${load("B", "index")}; }

fn put(row: u32, col: u32, sum: vec4f) {
  ${fit === "whole" || fit === "paired" ? "" : "if (row >= p.m || col >= p.n) { return; }"}
  var v = p.alpha * sum;
  let at = p.c_start + row * p.c_stride + col;
  if ((p.flags & ${GEMM_FLAGS.bias}u) != 0u) { v += ${load("bias", "col")}; }
  if ((p.flags & ${GEMM_FLAGS.residual}u) != 0u) { let r = p.r_start + row * p.r_stride + col; v += ${
    load("R", "r")
  }; }
  if ((p.flags & ${GEMM_FLAGS.accumulate}u) != 0u) { v += ${load("C", "at")}; }
  ${store}
}
`;
}

/**
 * Both operands pass through workgroup memory as `[k][rows / 4]`; each thread keeps 8 x 8 entries of
 * C in registers, two by two groups of four, so that it reads workgroup memory only in vec4 without
 * bank conflicts. The next tile is fetched into registers while this one is multiplied.
 */
export function tileKernel(layout: GemmLayout, tile: TileShape, fit: GemmFit): string {
  const aligned = fit !== "any";
  const walks = fit === "whole" || fit === "paired";
  const { rows, cols, depth } = tile;
  const threadsX = cols / 8;
  const threads = threadsX * (rows / 8);
  const loaders = threads / 2; // half of the threads fetch A, half fetch B
  const vectors = (length: number) => length * depth / 4 / loaders;
  const aAcross = layout[0] === "N"; // k is A's fast dimension: transpose on the way
  const bAcross = layout[1] === "T";
  const kIn = (k: string) => `${k} < p.k`;
  const clamp4 = (value: string, k: string) =>
    aligned
      ? `select(vec4f(0.0), ${value}, ${kIn(k)})`
      : `select(vec4f(0.0), ${value}, vec4<bool>(${
        [0, 1, 2, 3].map((i) => kIn(`${k} + ${i}u`)).join(", ")
      }))`;

  // Fetches operand x (rows or columns `first` on) into registers.
  const fetch = (x: "a" | "b", length: number, across: boolean, first: string) =>
    across
      ? repeat(vectors(length) / 4, (q) =>
        `{ let block = u + ${q * loaders}u;
        let k = k0 + (block % ${depth / 4}u) * 4u;
        let at = p.${x}_start + (${first} + block / ${depth / 4}u * 4u) * p.${x}_stride + k;
        ${
          repeat(
            4,
            (i) => `r${q * 4 + i} = ${clamp4(`load_${x}(at + ${i}u * p.${x}_stride)`, "k")};`,
          )
        } }`)
      : repeat(vectors(length), (q) =>
        `{ let piece = u + ${q * loaders}u;
        let k = k0 + piece / ${length / 4}u;
        r${q} = select(vec4f(0.0), load_${x}(p.${x}_start + k * p.${x}_stride + ${first} + piece % ${
          length / 4
        }u * 4u), ${kIn("k")}); }`);
  // Of whole tiles, each thread walks along its own places: nothing is checked or multiplied.
  const place = (x: "a" | "b", length: number, across: boolean, first: string) =>
    `row_stride = p.${x}_stride >> 2u;
    ${across ? `step = ${depth / 4}u;` : `step = ${depth}u * row_stride;`}
    ${
      repeat(vectors(length) / (across ? 4 : 1), (q) =>
        across
          ? `{ let block = u + ${
            q * loaders
          }u; at${q} = (p.${x}_start >> 2u) + (${first} + block / ${
            depth / 4
          }u * 4u) * row_stride + block % ${depth / 4}u; }`
          : `{ let piece = u + ${q * loaders}u; at${q} = (p.${x}_start >> 2u) + piece / ${
            length / 4
          }u * row_stride + (${first} >> 2u) + piece % ${length / 4}u; }`)
    }`;
  const walk = (x: "A" | "B", length: number, across: boolean) =>
    repeat(
      vectors(length) / (across ? 4 : 1),
      (q) =>
        (across
          ? repeat(4, (i) => `r${q * 4 + i} = ${x}[at${q} + ${i}u * row_stride];`)
          : `r${q} = ${x}[at${q}];`) + ` at${q} += step;`,
    );
  const fetchBoth = walks
    ? `if (fetches_a) { ${walk("A", rows, aAcross)} } else { ${walk("B", cols, bAcross)} }`
    : `if (fetches_a) { ${fetch("a", rows, aAcross, "m0")} } else { ${
      fetch("b", cols, bAcross, "n0")
    } }`;
  const stash = (tileName: string, length: number, across: boolean) =>
    across
      ? repeat(vectors(length) / 4, (q) =>
        `{ let block = u + ${q * loaders}u;
        let k = (block % ${depth / 4}u) * 4u;
        let at = block / ${depth / 4}u;
        ${
          repeat(4, (i) =>
            `${tileName}[k + ${i}u][at] = vec4f(${
              [0, 1, 2, 3].map((j) => `r${q * 4 + j}.${XYZW[i]}`).join(", ")
            });`)
        } }`)
      : repeat(
        vectors(length),
        (q) =>
          `{ let piece = u + ${q * loaders}u; ${tileName}[piece / ${length / 4}u][piece % ${
            length / 4
          }u] = r${q}; }`,
      );
  const stashBoth = (pair: number) =>
    `if (fetches_a) { ${stash(`tile_a${pair}`, rows, aAcross)} } else { ${
      stash(`tile_b${pair}`, cols, bAcross)
    } }`;
  const multiply = (pair: number) =>
    repeat(
      depth,
      (k) =>
        `{ ${
          [0, 1].map((g) =>
            `let a${g} = tile_a${pair}[${k}][ty + ${
              g * rows / 8
            }u]; let b${g} = tile_b${pair}[${k}][tx + ${g * cols / 8}u];`
          ).join(" ")
        }
    ${
          repeat(8, (i) =>
            [0, 1].map((j) =>
              `c${i}_${j} = fma(vec4f(a${i >> 2}.${XYZW[i & 3]}), b${j}, c${i}_${j});`
            )
              .join(" "))
        } }`,
    );
  const widths = tileWidths(layout, tile);
  return `${prelude(fit)}
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
  ${repeat(Math.max(vectors(rows), vectors(cols)), (q) => `var r${q}: vec4f;`)}
  ${repeat(8, (i) => `var c${i}_0 = vec4f(0.0); var c${i}_1 = vec4f(0.0);`)}
  var k0 = 0u;
  ${
    !walks ? "" : `
  var row_stride: u32;
  var step: u32;
  ${repeat(Math.max(vectors(rows), vectors(cols)), (q) => `var at${q}: u32;`)}
  if (fetches_a) { ${place("a", rows, aAcross, "m0")} } else { ${place("b", cols, bAcross, "n0")} }`
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
    repeat(8, (i) =>
      [0, 1].map((j) =>
        `put(m0 + ${(i >> 2) * rows / 2 + (i & 3)}u + ty * 4u, n0 + ${
          j * cols / 2
        }u + tx * 4u, c${i}_${j});`
      ).join(" "))
  }
}
`;
}

/** Rows and columns of C that a lane of {@link broadcastKernel} keeps. */
export const BROADCAST_TILE = { rows: 64, colsPerLane: 8 } as const;

/**
 * For drivers that compute on the CPU, where workgroup memory is slow: one subgroup per workgroup.
 * A lane holds 64 rows by 8 columns of C; the 64 values of A for one k are loaded by the lanes
 * together and passed round by broadcast. B has k as its slow dimension. So has A if `aTransposed`;
 * else each lane loads four neighbours along k from its rows and they are used one after the other.
 *
 * C is written in whole tiles, and starts and strides are multiples of four: guarding 128 stores, or
 * looping over them, takes Mesa's compiler half a minute and more. {@link finishKernel} does the rest.
 */
export function broadcastKernel(aTransposed: boolean, subgroupSize: number): string {
  const { rows, colsPerLane } = BROADCAST_TILE;
  const loads = Math.ceil(rows / 4 / subgroupSize);
  const rowLoads = rows / subgroupSize;
  const multiply = (row: number, a: string) =>
    `c${row}_0 = fma(vec4f(${a}), b0, c${row}_0); c${row}_1 = fma(vec4f(${a}), b1, c${row}_1);`;
  const loadB = `let b_row = (p.b_start + k * p.b_stride + n0) >> 2u;
    let b0 = B[b_row];
    let b1 = B[b_row + 1u];`;
  const loop = aTransposed
    ? `for (var k = 0u; k < p.k; k++) {
    let a_row = ((p.a_start + k * p.a_stride + m0) >> 2u) + lane;
    ${repeat(loads, (q) => `let a${q} = A[a_row + ${q * subgroupSize}u];`)}
    ${loadB}
    ${
      repeat(rows / 4, (i) =>
        `{ let s = subgroupBroadcast(a${Math.floor(i / subgroupSize)}, ${i % subgroupSize}u); ${
          repeat(4, (j) => multiply(i * 4 + j, `s.${XYZW[j]}`))
        } }`)
    }
  }`
    : `for (var k0 = 0u; k0 < p.k; k0 += 4u) {
    let a_row = (p.a_start + (m0 + lane) * p.a_stride + k0) >> 2u;
    ${repeat(rowLoads, (q) => `let a${q} = A[a_row + ${q * subgroupSize / 4}u * p.a_stride];`)}
    for (var i = 0u; i < min(4u, p.k - k0); i++) {
      let k = k0 + i;
      ${loadB}
      ${repeat(rowLoads, (q) => `let v${q} = a${q}[i];`)}
      ${
      repeat(rows, (i) =>
        `{ let s = subgroupBroadcast(v${Math.floor(i / subgroupSize)}, ${i % subgroupSize}u); ${
          multiply(i, "s")
        } }`)
    }
    }
  }`;
  return `${PARAMS}
@group(0) @binding(1) var<storage, read> A: array<vec4f>;
@group(0) @binding(2) var<storage, read> B: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> C: array<vec4f>;

@compute @workgroup_size(${subgroupSize})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.y * ${rows}u;
  let n0 = (group.x * ${subgroupSize}u + lane) * ${colsPerLane}u;
  if ((p.flags & ${GEMM_FLAGS.upper}u) != 0u && (group.x + 1u) * ${
    subgroupSize * colsPerLane
  }u <= m0) { return; }
  ${repeat(rows, (i) => `var c${i}_0 = vec4f(0.0); var c${i}_1 = vec4f(0.0);`)}
  ${loop}
  let at = (p.c_start + m0 * p.c_stride + n0) >> 2u;
  let stride = p.c_stride >> 2u;
  ${repeat(rows, (i) => `C[at + ${i}u * stride] = c${i}_0; C[at + ${i}u * stride + 1u] = c${i}_1;`)}
}
`;
}

/** Finishes a product that lies in whole tiles in A: a thread handles four neighbours of C. */
export function finishKernel(fit: "any" | "aligned"): string {
  return `${prelude(fit)}
@compute @workgroup_size(16, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.y;
  let col = id.x * 4u;
  if (row >= p.m || col >= p.n) { return; }
  if ((p.flags & ${GEMM_FLAGS.upper}u) != 0u && col + 4u <= row) { return; }
  put(row, col, load_a(p.a_start + row * p.a_stride + col));
}
`;
}
