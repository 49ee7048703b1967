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

/**
 * Bindings, parameters and `put`, which finishes four neighbouring entries of C.
 *
 * @param known The flags if they are known when the kernel is compiled.
 */
function prelude(fit: GemmFit, known?: number): string {
  const aligned = fit !== "any";
  const element = aligned ? "vec4f" : "f32";
  const load = (array: string, index: string) =>
    aligned
      ? `${array}[(${index}) >> 2u]`
      : `vec4f(${[0, 1, 2, 3].map((i) => `${array}[${index} + ${i}u]`).join(", ")})`;
  const store = aligned
    ? "C[at >> 2u] = v;"
    : repeat(4, (i) => `if (col + ${i}u < p.n) { C[at + ${i}u] = v.${XYZW[i]}; }`);
  const extra = (name: keyof typeof GEMM_FLAGS, text: string) => {
    const flag = GEMM_FLAGS[name];
    if (known === undefined) return `if ((p.flags & ${flag}u) != 0u) { ${text} }`;
    return known & flag ? `{ ${text} }` : "";
  };
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
  ${extra("bias", `v += ${load("bias", "col")};`)}
  ${
    extra(
      "residual",
      `let r = p.r_start + row * p.r_stride + col; v += ${load("R", "r")};`,
    )
  }
  ${extra("accumulate", `v += ${load("C", "at")};`)}
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
 * together and passed round by broadcast. Of an operand whose fast dimension is k, a lane loads four
 * neighbours along k from each of its rows or columns.
 *
 * The accumulators are more than the registers hold and live in the first-level cache, so each is
 * loaded and stored once for several steps along k: four, or two where both operands have k as their
 * slow dimension, for eight streams a power of two apart evict each other.
 *
 * C = A · B (+ bias) is written in whole tiles, and starts and strides are multiples of four:
 * guarding 128 stores, looping over them or loading C for them takes Mesa's compiler seconds.
 * {@link finishKernel} does the rest.
 */
export function broadcastKernel(layout: GemmLayout, subgroupSize: number): string {
  const { rows, colsPerLane } = BROADCAST_TILE;
  const aAcross = layout[0] === "N";
  const bAcross = layout[1] === "T";
  const steps = aAcross || bAcross ? 4 : 2;
  const within = (value: string, step: number) =>
    step === 0 ? value : `select(vec4f(0.0), ${value}, k + ${step}u < p.k)`;
  const inRange = (value: string) =>
    `select(vec4f(0.0), ${value}, vec4u(k) + vec4u(0u, 1u, 2u, 3u) < vec4u(p.k))`;
  const allSteps = (line: (step: number) => string) => repeat(steps, line);

  const loadA = aAcross
    ? `let a_at = (p.a_start + (m0 + lane) * p.a_stride + k) >> 2u;
    ${
      repeat(
        rows / subgroupSize,
        (q) => `let a${q} = ${inRange(`A[a_at + ${q * subgroupSize / 4}u * p.a_stride]`)};`,
      )
    }`
    : allSteps((step) =>
      `let a_at${step} = ((p.a_start + (k + ${step}u) * p.a_stride + m0) >> 2u) + lane;
    ${
        repeat(Math.ceil(rows / 4 / subgroupSize), (q) =>
          `let a${q}_${step} = ${within(`A[a_at${step} + ${q * subgroupSize}u]`, step)};`)
      }`
    );
  const loadB = bAcross
    ? `let b_at = (p.b_start + n0 * p.b_stride + k) >> 2u;
    let b_row = p.b_stride >> 2u;
    ${repeat(colsPerLane, (j) => `let t${j} = ${inRange(`B[b_at + ${j}u * b_row]`)};`)}
    ${
      allSteps((step) =>
        [0, 1].map((half) =>
          `let b${half}_${step} = vec4f(${
            [0, 1, 2, 3].map((j) => `t${half * 4 + j}.${XYZW[step]}`).join(", ")
          });`
        ).join(" ")
      )
    }`
    : allSteps((step) =>
      `let b_at${step} = (p.b_start + (k + ${step}u) * p.b_stride + n0) >> 2u;
    let b0_${step} = ${within(`B[b_at${step}]`, step)};
    let b1_${step} = ${within(`B[b_at${step} + 1u]`, step)};`
    );
  const multiply = (row: number, a: (step: number) => string) =>
    [0, 1].map((half) =>
      allSteps((step) =>
        `c${row}_${half} = fma(vec4f(${a(step)}), b${half}_${step}, c${row}_${half});`
      )
    ).join("\n");
  const multiplyAll = aAcross
    ? repeat(
      rows,
      (row) =>
        `{ let s = subgroupBroadcast(a${Math.floor(row / subgroupSize)}, ${row % subgroupSize}u);
      ${multiply(row, (step) => `s.${XYZW[step]}`)} }`,
    )
    : repeat(
      rows / 4,
      (i) =>
        `{ ${
          allSteps((step) =>
            `let s${step} = subgroupBroadcast(a${Math.floor(i / subgroupSize)}_${step}, ${
              i % subgroupSize
            }u);`
          )
        }
      ${repeat(4, (j) => multiply(i * 4 + j, (step) => `s${step}.${XYZW[j]}`))} }`,
    );
  return `${PARAMS}
@group(0) @binding(1) var<storage, read> A: array<vec4f>;
@group(0) @binding(2) var<storage, read> B: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> C: array<vec4f>;
@group(0) @binding(4) var<storage, read> bias: array<vec4f>; // [n]

@compute @workgroup_size(${subgroupSize})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.y * ${rows}u;
  let n0 = (group.x * ${subgroupSize}u + lane) * ${colsPerLane}u;
  if ((p.flags & ${GEMM_FLAGS.upper}u) != 0u && (group.x + 1u) * ${
    subgroupSize * colsPerLane
  }u <= m0) { return; }
  var first0 = vec4f(0.0);
  var first1 = vec4f(0.0);
  if ((p.flags & ${GEMM_FLAGS.bias}u) != 0u) {
    first0 = bias[n0 >> 2u];
    first1 = bias[(n0 >> 2u) + 1u];
  }
  ${repeat(rows, (i) => `var c${i}_0 = first0; var c${i}_1 = first1;`)}
  for (var k = 0u; k < p.k; k += ${steps}u) {
    ${loadA}
    ${loadB}
    ${multiplyAll}
  }
  let at = (p.c_start + m0 * p.c_stride + n0) >> 2u;
  let stride = p.c_stride >> 2u;
  ${repeat(rows, (i) => `C[at + ${i}u * stride] = c${i}_0; C[at + ${i}u * stride + 1u] = c${i}_1;`)}
}
`;
}

/**
 * Finishes a product that lies in whole tiles in A: a thread handles four neighbours of C.
 *
 * @param flags The {@link GEMM_FLAGS} of the call; what they leave out is not in the kernel, for
 *   drivers that compute on the CPU walk through branches that no lane takes.
 */
export function finishKernel(fit: "any" | "aligned", flags: number): string {
  return `${prelude(fit, flags)}
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
