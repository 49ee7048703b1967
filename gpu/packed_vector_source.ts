import { type PackedForm, planesOf, scaleSource, scaleWords, UNIT_COLS } from "./packed_weight.ts";
import { repeat, XYZW } from "./source_text.ts";

/** What {@link packedVectorKernel} adds to the product. */
export const VECTOR_FLAGS = { bias: 1, residual: 2 };

/** What the kernel makes of its input on the way. */
export type VectorInput =
  /** Nothing. */
  | "plain"
  /** Its RMS norm. */
  | "rms"
  /** An activation function of it. */
  | "activation"
  /** An activation function of its first half, times its second half. */
  | "gated";

export interface PackedVectorShape {
  /** Threads of a subgroup, a power of two from 8 to 64. */
  lanes: number;
  /** Rows of a thread; no more than splits. */
  rows: number;
  /** Subgroups of a workgroup, which share the columns among them; a power of two. */
  splits: number;
  /** Whether a subgroup can wait for itself alone. */
  subgroupBarriers: boolean;
}

/** Salient columns of a unit that are looked for first. */
const MARKED_COLS = 15;

/** How the columns of a unit are distributed over tables. */
export interface TableLayoutOf {
  /** Columns of a table. */
  step: number;
  /** Tables of a unit. */
  tables: number;
  /** Tables that a thread fills. */
  bring: number;
  /** Places for columns in the tables of all threads. */
  places: number;
}

/** The tables of a unit for subgroups of so many threads: one thread for each subset of a table's columns. */
export function tablesFor(lanes: number): TableLayoutOf {
  const step = Math.log2(lanes);
  const tables = Math.ceil(UNIT_COLS / step);
  const bring = Math.ceil(tables / lanes);
  return { step, tables, bring, places: bring * step * lanes };
}

/** Sums that are kept of a table: of the subsets of the lower and of the upper half of its columns. */
function entriesOf(lanes: number): { low: number; high: number; stride: number } {
  const { step } = tablesFor(lanes);
  const low = Math.ceil(step / 2);
  const high = step - low;
  return { low, high, stride: ((1 << low) + (1 << high)) | 1 };
}

/** Bytes of workgroup memory that {@link packedVectorKernel} needs. */
export function packedVectorBytes({ lanes, rows, splits }: PackedVectorShape): number {
  const tables = tablesFor(lanes).bring * lanes * entriesOf(lanes).stride;
  return 4 * splits * (tables + lanes * rows + 1);
}

/**
 * Generates the kernel that multiplies a packed weight with one vector, for adapters whose subgroups
 * have one size.
 *
 * As in packedMatvecKernel(), a row needs sums of activations over the columns that its bits choose,
 * and they come from tables of the sums of all subsets of a few columns. Here a table lies in the
 * registers of a subgroup: of five columns with 32 threads, each thread holding the sum of one subset.
 * A thread finds the sum that its bits choose by a shuffle. The tables are made in workgroup memory,
 * in halves: a thread adds the sum of a subset of the first columns and of one of the others.
 *
 * A subgroup takes `rows` times its threads rows and every `splits`th unit of 128 columns. With S, F
 * and B the sums over the columns with the sign bit, the zone bit and both, A over all of them, m and r
 * the mean and scale of a zone, a unit adds
 *
 *   m0 (A - F) + r0 (2 (S - B) - (A - F)) + m1 F + r1 (2 B - F)
 *
 * to a row, and its salient columns m A' + Σ r (2 S' - A') likewise. Scales that are codes are
 * multiplied with their factors in the end.
 *
 * @param blockUnits Units of a block.
 */
export function packedVectorKernel(
  form: PackedForm,
  { lanes, rows, splits, subgroupBarriers }: PackedVectorShape,
  input: VectorInput,
  blockUnits: number,
): string {
  const { zones, planes, coded } = form;
  const planeCount = planesOf(form);
  const firstPlanes = Math.min(planeCount, 2); // the others are read where there are salient columns
  const words = scaleWords(form);
  const { step, tables, bring, places } = tablesFor(lanes);
  const { low, high, stride } = entriesOf(lanes);

  const each = (body: (r: number) => string) => repeat(rows, body);
  const eachPlane = (body: (k: number) => string) => repeat(planes, body);
  const eachBrought = (body: (b: number, i: number) => string) =>
    repeat(bring, (b) => repeat(step, (i) => body(b, i)));
  const barrier = subgroupBarriers ? "subgroupBarrier();" : "workgroupBarrier();";

  /** The bits of four words that belong to a table. */
  const bitsOf = (name: string, table: number) => {
    const first = table * step;
    const end = Math.min(UNIT_COLS, first + step);
    const [word, shift] = [first >> 5, first & 31];
    let bits = shift ? `(${name}.${XYZW[word]} >> ${shift}u)` : `${name}.${XYZW[word]}`;
    if (end > 32 * (word + 1)) bits = `(${bits} | (${name}.${XYZW[word + 1]} << ${32 - shift}u))`;
    return end & 31 ? `(${bits} & ${(1 << (end - first)) - 1}u)` : bits;
  };
  const loadTable = (table: number) =>
    `let t = sums[split][${table}][lane & ${(1 << low) - 1}u] + ` +
    `sums[split][${table}][${1 << low}u + (lane >> ${low}u)];`;
  const sumTable = (table: number) =>
    `{
      ${loadTable(table)}
      ${
      each((r) =>
        zones === 1 ? `plus${r} += subgroupShuffle(t, ${bitsOf(`plus_bits${r}`, table)});` : `{
        let s = ${bitsOf(`plus_bits${r}`, table)};
        let f = ${bitsOf(`high_bits${r}`, table)};
        plus${r} += subgroupShuffle(t, s);
        high${r} += subgroupShuffle(t, f);
        both${r} += subgroupShuffle(t, s & f);
      }`
      )
    }
    }`;
  const sumMarked = (table: number) =>
    `{
      ${loadTable(table)}
      all_marked += subgroupShuffle(t, ${bitsOf("marks", table)});
      ${
      each((r) =>
        eachPlane((k) =>
          `marked${r}_${k} += subgroupShuffle(t, ${bitsOf(`marked_bits${r}_${k}`, table)});`
        )
      )
    }
    }`;
  /** Salient columns come first: as a rule the first tables have them all. */
  const sumAllMarked = (first = 0): string => {
    if (first === tables) return "";
    const end = Math.min(tables, first === 0 ? Math.ceil(MARKED_COLS / step) : 2 * first + 2);
    return `if (marked_count > ${first * step}u) {
      ${repeat(end - first, (i) => sumMarked(first + i))}
      ${sumAllMarked(end)}
    }`;
  };

  /** Writes the sums of all subsets of some columns of a thread's table b. */
  const fillHalf = (b: number, half: string, count: number, first: number, start: number) =>
    repeat(1 << count, (subset) => {
      const place = `sums[split][lane + ${b * lanes}u][${start + subset}]`;
      if (subset === 0) return `${place} = 0.0;`;
      const top = 31 - Math.clz32(subset);
      const rest = subset - (1 << top);
      const x = `x${b}_${first + top}`;
      const name = `${half}${b}_`;
      return `let ${name}${subset} = ${rest ? `${name}${rest} + ${x}` : x};
      ${place} = ${name}${subset};`;
    });
  const fill = (b: number) =>
    fillHalf(b, "low", low, 0, 0) + "\n" + fillHalf(b, "high", high, low, 1 << low);
  const whole = (b: number) => `low${b}_${(1 << low) - 1} + high${b}_${(1 << high) - 1}`;

  const gather = (declare: string) => (b: number, i: number) => {
    const [x, col] = [`x${b}_${i}`, `col${b}_${i}`];
    const text = `${declare}${x} = gather(${col});`;
    if (input !== "rms") return text;
    return `${text} square += ${x} * ${x}; ${x} *= norm[min(${col}, p.cols - 1u)];`;
  };
  const order = (declare: string, unit: string) => (b: number, i: number) =>
    `${declare}col${b}_${i} = column_at(part, ${unit}, ${(b * step + i) * lanes}u + lane);`;
  const fetch = (r: number) =>
    `{ let here = bits_at${r} + unit_ahead * ${32 * planeCount}u;
    ${repeat(firstPlanes, (k) => `next_plane${r}_${k} = bits[here + ${32 * k}u];`)}
    let scale_here = scales_at${r} + ${
      blockUnits === 1 ? "unit_ahead" : `unit_ahead / ${blockUnits}u`
    } * ${32 * words}u;
    ${repeat(words, (w) => `next_scale${r}_${w} = scales[scale_here + ${32 * w}u];`)} }`;

  const takeBits = (r: number) =>
    `let plus_bits${r} = plane${r}_0 & ~marks;
    var plus${r} = 0.0;
    ${
      zones === 2
        ? `let high_bits${r} = plane${r}_1 & ~marks; var high${r} = 0.0; var both${r} = 0.0;`
        : ""
    }
    ${
      eachPlane((k) =>
        `var marked${r}_${k} = 0.0;
    ${
          k < firstPlanes
            ? `let marked_bits${r}_${k} = plane${r}_${k} & marks;`
            : `var marked_bits${r}_${k} = vec4u(0u);
    if (marked_count > 0u) { marked_bits${r}_${k} = marks & bits[bits_at${r} + (unit - ${splits}u) * ${
              32 * planeCount
            }u + ${32 * k}u]; }`
        }`
      )
    }`;
  const settle = (r: number) => {
    const scale = scaleSource(form, `scale${r}_`, false);
    const lowAll = zones === 2 ? `(all - high${r})` : "all";
    const lowPlus = zones === 2 ? `(plus${r} - both${r})` : `plus${r}`;
    return `
    means${r} += ${scale.zoneMean(0)} * ${lowAll};
    spreads${r} += ${scale.zoneScale(0)} * (2.0 * ${lowPlus} - ${lowAll});
    ${
      zones === 2
        ? `means${r} += ${scale.zoneMean(1)} * high${r};
    spreads${r} += ${scale.zoneScale(1)} * (2.0 * both${r} - high${r});`
        : ""
    }
    ${planes > 0 ? `means${r} += ${scale.salientMean} * all_marked;` : ""}
    ${
      eachPlane((k) =>
        `spreads${r} += ${scale.salientScale(k)} * (2.0 * marked${r}_${k} - all_marked);`
      )
    }`;
  };
  const value = {
    plain: "X[col]",
    rms: "X[col]",
    activation: "activate(X[col])",
    gated: "activate(X[col]) * X[p.up + col]",
  }[input];

  return `
struct Params {
  rows: u32, cols: u32, units: u32, blocks: u32, flags: u32,
  part1: u32, part2: u32, // the rows where the second and third part begin
  salient_stride: u32,    // units from one part to the next
  up: u32,                // where the second half of the input begins
  epsilon: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> X: array<f32>;          // [cols], or both halves
@group(0) @binding(2) var<storage, read> bits: array<vec4u>;     // [tiles, units, planes, 32]
@group(0) @binding(3) var<storage, read> scales: array<u32>;     // [tiles, blocks, words, 32]
@group(0) @binding(4) var<storage, read> factors: array<vec2f>;  // [tiles * 32]
@group(0) @binding(5) var<storage, read> salient: array<vec4u>;  // [parts, salient_stride]
@group(0) @binding(6) var<storage, read> columns: array<u32>;    // [parts, units, ${
    bring * step
  }, ${lanes}]
@group(0) @binding(7) var<storage, read> bias: array<f32>;       // [rows], used if flagged
@group(0) @binding(8) var<storage, read> residual: array<f32>;   // [rows], used if flagged
${
    input === "rms"
      ? "@group(0) @binding(9) var<storage, read> norm: array<f32>;       // [cols]"
      : ""
  }
@group(0) @binding(10) var<storage, read_write> Y: array<f32>;    // [rows]

// Of each table of each split's unit the sums of the subsets of either half of its columns. The odd
// length keeps what is written together in different banks.
var<workgroup> sums: array<array<array<f32, ${stride}>, ${bring * lanes}>, ${splits}>;
var<workgroup> partials: array<array<f32, ${lanes * rows}>, ${splits}>;
${input === "rms" ? `var<workgroup> squares: array<f32, ${splits}>;` : ""}

// The column at a place of a unit's tables; p.cols for none.
fn column_at(part: u32, unit: u32, place: u32) -> u32 {
  if (unit >= p.units) { return p.cols; }
  return columns[(part * p.units + unit) * ${places}u + place];
}

fn value(col: u32) -> f32 {
  return ${value};
}

fn gather(col: u32) -> f32 {
  return select(0.0, value(min(col, p.cols - 1u)), col < p.cols);
}

@compute @workgroup_size(${lanes * splits})
fn main(
  @builtin(workgroup_id) workgroup: vec3u,
  @builtin(num_workgroups) workgroups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let first_row = (workgroup.y * workgroups.x + workgroup.x) * ${lanes * rows}u;
  if (first_row >= p.rows) { return; }
  let lane = thread & ${lanes - 1}u;
  let split = (thread >> ${step}u) & ${splits - 1}u;
  let part = select(0u, 1u, first_row >= p.part1) + select(0u, 1u, first_row >= p.part2);
  ${
    each((r) =>
      `let row${r} = min(first_row + ${r * lanes}u + lane, p.rows - 1u);
  let bits_at${r} = (row${r} >> 5u) * p.units * ${32 * planeCount}u + (row${r} & 31u);
  let scales_at${r} = (row${r} >> 5u) * p.blocks * ${32 * words}u + (row${r} & 31u);
  var means${r} = 0.0;
  var spreads${r} = 0.0;`
    )
  }
  ${each((r) => repeat(firstPlanes, (k) => `var next_plane${r}_${k}: vec4u;`, " "))}
  ${each((r) => repeat(words, (w) => `var next_scale${r}_${w}: u32;`, " "))}
  ${input === "rms" ? "var square = 0.0;" : ""}
  var unit = split;
  var unit_ahead = min(unit, p.units - 1u);
  ${each(fetch)}
  var next_marks = salient[part * p.salient_stride + unit_ahead];
  ${eachBrought(order("var ", "unit"))}
  ${coded ? each((r) => `let factor${r} = factors[row${r}];`) : ""}
  var added = 0.0;
  let row = first_row + thread;
  if ((p.flags & ${VECTOR_FLAGS.bias}u) != 0u) { added = bias[min(row, p.rows - 1u)]; }
  if ((p.flags & ${VECTOR_FLAGS.residual}u) != 0u) { added += residual[min(row, p.rows - 1u)]; }
  ${eachBrought(gather("var "))}
  ${eachBrought(order("", `unit + ${splits}u`))}
  let turns = (p.units + ${splits - 1}u) / ${splits}u;
  for (var turn = 0u; turn < turns; turn++) {
    ${barrier} // the tables have been read
    ${repeat(bring, fill)}
    let total = subgroupAdd(${repeat(bring, whole, " + ")});
    let marks = next_marks;
    let marked_count = ${XYZW.split("").map((c) => `countOneBits(marks.${c})`).join(" + ")};
    ${
    each((r) =>
      repeat(firstPlanes, (k) => `let plane${r}_${k} = next_plane${r}_${k};`) +
      repeat(words, (w) => `let scale${r}_${w} = next_scale${r}_${w};`)
    )
  }
    unit += ${splits}u;
    unit_ahead = min(unit, p.units - 1u);
    ${eachBrought(gather(""))}
    ${eachBrought(order("", `unit + ${splits}u`))}
    ${each(fetch)}
    next_marks = salient[part * p.salient_stride + unit_ahead];
    ${each(takeBits)}
    ${barrier} // the tables are filled
    var all_marked = 0.0;
    ${planes > 0 ? sumAllMarked() : ""}
    let all = total - all_marked;
    ${repeat(tables, sumTable)}
    ${each(settle)}
  }
  ${
    each((r) =>
      `partials[split][${r * lanes}u + lane] = ${
        coded ? `factor${r}.x * means${r} + factor${r}.y * spreads${r}` : `means${r} + spreads${r}`
      };`
    )
  }
  ${
    input === "rms"
      ? `let squares_of_lanes = subgroupAdd(square);
  if (lane == 0u) { squares[split] = squares_of_lanes; }`
      : ""
  }
  workgroupBarrier();
  if (thread >= ${lanes * rows}u || row >= p.rows) { return; }
  var y = ${repeat(splits, (s) => `partials[${s}][thread]`, " + ")};
  ${
    input === "rms"
      ? `let mean_square = (${repeat(splits, (s) => `squares[${s}]`, " + ")}) / f32(p.cols);
  y /= sqrt(mean_square + p.epsilon);`
      : ""
  }
  Y[row] = y + added;
}
`;
}
