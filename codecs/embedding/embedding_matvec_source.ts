import { repeat } from "../../gpu/source_text.ts";
import type { EmbeddingLayout } from "./dequantize_embedding.ts";

/** Rows of the table per workgroup. */
export const TABLE_ROWS = 8;

/** Columns per read of a thread: 16 bytes of 8-bit codes, 8 bytes of 4-bit codes. */
export const TABLE_STEP = 16;

/**
 * Generates the kernel of {@link embeddingMatvec}.
 *
 * A workgroup handles {@link TABLE_ROWS} rows, so that a thread has as many loads in flight and reuses
 * each entry of the vector as often. Its threads stride over the columns.
 *
 * Codes are converted without a conversion instruction, which costs GPUs as much as several additions:
 * a code's bits are combined in place with those of 2^23, so that a subtraction leaves code · 2^shift.
 * The entries of the vector are divided by 2^shift beforehand; all of this is exact.
 *
 * @param lanes Threads of a workgroup, a power of two; at least {@link TABLE_ROWS} unless they are a
 *   subgroup.
 * @param useSubgroup Whether they are exactly one subgroup.
 * @param aligned Whether rows consist of whole steps of columns with one scale each; else a thread reads
 *   code by code.
 */
export function embeddingMatvecKernel(
  { bits, group }: Pick<EmbeddingLayout, "bits" | "group">,
  lanes: number,
  useSubgroup: boolean,
  aligned: boolean,
): string {
  const perHalf = 16 / bits; // codes per half word
  const zero = 2 ** (bits - 1); // the offset that makes stored codes nonnegative
  const list = (count: number, item: (i: number) => string) => repeat(count, item, ", ");
  const vector = (type: string, item: (shift: number) => string) =>
    `${type}(${list(4, (i) => item(bits * (i % perHalf)))})`;
  const masks = vector("vec4u", (shift) => `${(2 ** bits - 1) * 2 ** shift}u`);
  const exponents = vector(
    "vec4u",
    (shift) => `${0x4b000000 + (bits === 8 ? zero * 2 ** shift : 0)}u`, // also converts two's complement
  );
  const zeros = vector("vec4f", (shift) => `${2 ** 23 + zero * 2 ** shift}.0`);
  const factors = vector("vec4f", (shift) => `${1 / 2 ** shift}`);

  const rows = (line: (r: number) => string) => repeat(TABLE_ROWS, line, "\n    ");
  /** The four codes of each of the four vectors of x. */
  const four = (r: number, i: number) =>
    bits === 8
      ? `codes_of(vec2u(word${r}[${i}], word${r}[${i}] >> 16u).xxyy)`
      : `codes_of(vec4u(word${r}[${i >> 1}]${i % 2 ? " >> 16u" : ""}))`;
  const loop = aligned
    ? `for (var i = lane; i < p.cols / ${TABLE_STEP}u; i += ${lanes}u) {
    ${repeat(4, (v) => `let x${v} = x[4u * i + ${v}u] * ${factors};`, "\n    ")}
    ${rows((r) => `let word${r} = codes[row${r} + i];`)}
    ${
      rows((r) =>
        `sum${r} += scale_of(row${r}_scales + i / ${group / TABLE_STEP}u) * (${
          repeat(4, (v) => `dot(x${v}, ${four(r, v)})`, " + ")
        });`
      )
    }
  }`
    : `for (var col = lane; col < p.cols; col += ${lanes}u) {
    let entry = x[col];
    ${
      rows((r) =>
        `sum${r} += entry * code_at(row${r}, col) * scale_of(row${r}_scales + col / ${group}u);`
      )
    }
  }`;
  const parts = lanes / TABLE_ROWS; // threads that sum a row
  const finish = useSubgroup
    ? repeat(
      TABLE_ROWS,
      (r) => `{ let sum = subgroupAdd(sum${r}); if (lane == 0u) { finish(first + ${r}u, sum); } }`,
      "\n  ",
    )
    : `${repeat(TABLE_ROWS, (r) => `partials[${r}][lane] = sum${r};`, "\n  ")}
  workgroupBarrier();
  let r = lane / ${parts}u;
  let part = lane % ${parts}u;
  // A thread overwrites a value that only it has read.
  partials[r][part] = ${repeat(TABLE_ROWS, (i) => `partials[r][part + ${i * parts}u]`, " + ")};
  workgroupBarrier();
  if (lane < ${TABLE_ROWS}u) {
    var sum = 0.0;
    for (var i = 0u; i < ${parts}u; i++) { sum += partials[lane][i]; }
    finish(first + lane, sum);
  }`;
  return `
struct Params { rows: u32, cols: u32, row_bytes: u32, groups: u32, start: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<${aligned ? "vec4f" : "f32"}>;  // [cols]
@group(0) @binding(2) var<storage, read> codes: array<${
    aligned ? (bits === 8 ? "vec4u" : "vec2u") : "u32"
  }>; // [rows, row_bytes], bytes
@group(0) @binding(3) var<storage, read> scales: array<u32>;      // [rows, groups], f16
@group(0) @binding(4) var<storage, read_write> out: array<f32>;   // [rows] from start on

${
    useSubgroup
      ? ""
      : `var<workgroup> partials: array<array<f32, ${
        lanes + 16
      }>, ${TABLE_ROWS}>; // apart in the banks`
  }

fn scale_of(index: u32) -> f32 {
  let pair = unpack2x16float(scales[index >> 1u]);
  return select(pair.x, pair.y, (index & 1u) == 1u);
}

${
    aligned
      ? `fn codes_of(words: vec4u) -> vec4f {
  return bitcast<vec4f>((words & ${masks}) ^ ${exponents}) - ${zeros};
}`
      : `fn code_at(row_bytes: u32, col: u32) -> f32 {
  let at = row_bytes + col * ${bits}u / 8u;
  let byte = codes[at >> 2u] >> (8u * (at & 3u));
  ${
        bits === 8
          ? "return f32(i32(byte << 24u) >> 24u);"
          : "return f32((byte >> (4u * (col & 1u))) & 15u) - 8.0;"
      }
}`
  }

fn finish(row: u32, sum: f32) {
  if (row < p.rows) { out[p.start + row] = sum; }
}

@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (group.y * groups.x + group.x) * ${TABLE_ROWS}u;
  if (first >= p.rows) { return; }
  ${
    repeat(TABLE_ROWS, (r) =>
      `let row${r} = min(first + ${r}u, p.rows - 1u) * ${
        aligned ? `(p.cols / ${TABLE_STEP}u)` : "p.row_bytes"
      };
  let row${r}_scales = min(first + ${r}u, p.rows - 1u) * p.groups;
  var sum${r} = 0.0;`, "\n  ")
  }
  ${loop}
  ${finish}
}
`;
}
