import { repeat, XYZW } from "../../gpu/source_text.ts";
import { type BillmForm, planesOf, scaleSource } from "./tensors.ts";

/** The terms that {@link billmMatmulKernel} adds to the product. */
export const MATMUL_FLAGS = { bias: 1, residual: 2 } as const;

/** The size of the tiles that pass through workgroup memory. */
export interface BillmTile {
	/** Rows (tokens) and columns (rows of the weight) of C that a workgroup computes. */
	rows: number;
	cols: number;
	/** Inner dimension of a tile: half a word of bits. */
	depth: 16;
}

/** The parameters of {@link billmMatmulKernel}. */
export interface PackedMatmulShape {
	tile: BillmTile;
	/** Whether tiles are double-buffered in workgroup memory, so that one barrier per step is enough. */
	paired: boolean;
	/** Whether the length of the result's rows is a multiple of four. */
	aligned: boolean;
}

/** Bytes of workgroup memory that {@link billmMatmulKernel} needs. */
export function billmMatmulBytes({ rows, cols, depth }: BillmTile, paired: boolean): number {
	return 16 * depth * (rows / 4 + 1 + cols / 4) * (paired ? 2 : 1);
}

/** WGSL expressions for the bits and scales of a row, see {@link weightAt}. */
interface RowNames {
	/** The word of a plane of bits. */
	plane(k: number): string;
	/** The word that marks salient columns. */
	marks: string;
}

/** WGSL statements that declare the possible weight values of a row and block. */
function weightValues(form: BillmForm, prefix: string): string {
	const scale = scaleSource(form, prefix);
	return `${
		repeat(form.zones, (zone) =>
			`let mean${zone} = ${scale.zoneMean(zone)};
      let scale${zone} = ${scale.zoneScale(zone)};
      let minus${zone} = mean${zone} - scale${zone};
      let plus${zone} = mean${zone} + scale${zone};`)
	}
    ${form.planes > 0 ? `let salient_mean = ${scale.salientMean};` : ""}
    ${repeat(form.planes, (k) => `let salient_scale${k} = ${scale.salientScale(k)};`)}`;
}

/** WGSL for the weight at a bit, after {@link weightValues}; sums in the order of dequantize.wgsl. */
function weightAt(form: BillmForm, row: RowNames, bit: string, mayBeSalient: boolean): string {
	const test = (word: string) => `(${word} & ${bit}) != 0u`;
	const zone = (i: number) => `select(minus${i}, plus${i}, ${test(row.plane(0))})`;
	const ordinary = form.zones === 2
		? `select(${zone(0)}, ${zone(1)}, ${test(row.plane(1))})`
		: zone(0);
	if (!mayBeSalient) return ordinary;
	const salient = repeat(
		form.planes,
		(k) => ` + select(-salient_scale${k}, salient_scale${k}, ${test(row.plane(k))})`,
		"",
	);
	return `select(${ordinary}, salient_mean${salient}, ${test(row.marks)})`;
}

/**
 * Generates the kernel C = A · Bᵀ for many tokens, A `[m, positions]` in the weight's column order, B
 * packed; see gemm_tile_source.ts for how tiles are multiplied. Half of the threads load A. The other
 * half unpack one word of each row's bits to two tiles of B; each thread has its own rows, so that
 * adjacent threads store to adjacent places.
 */
export function billmMatmulKernel(form: BillmForm, shape: PackedMatmulShape): string {
	const { tile: { rows, cols, depth }, paired, aligned } = shape;
	const planeCount = planesOf(form);
	const threadsX = cols / 8;
	const threads = threadsX * (rows / 8);
	const loaders = threads / 2;
	const vectors = rows * depth / 4 / loaders;
	const rowsEach = cols / loaders; // rows of B per loading thread
	const scaleOf = (q: number) => scaleSource(form, `scale${q}_`);

	const fetchA = repeat(
		vectors / 4,
		(q) =>
			repeat(4, (i) => `a${q * 4 + i} = A[at${q} + ${i}u * stride];`) + ` at${q} += ${depth / 4}u;`,
	);
	const stashA = (pair: number) =>
		repeat(vectors / 4, (q) =>
			`{ let block = u + ${q * loaders}u;
      let k = (block % ${depth / 4}u) * 4u;
      ${
				repeat(4, (i) =>
					`tile_a${pair}[k + ${i}u][block / ${depth / 4}u] = vec4f(${
						repeat(4, (j) => `a${q * 4 + j}.${XYZW[i]}`, ", ")
					});`)
			} }`);
	const fetchB = `{
    let unit = word >> 2u;
    marks = ${form.planes > 0 ? "salient[word]" : "0u"};
    ${
		repeat(rowsEach, (q) =>
			`{ let row = min(n0 + u + ${q * loaders}u, p.tiles * 32u - 1u);
      let tile = row >> 5u;
      let lane = row & 31u;
      let first = (((tile * p.units + unit) * ${planeCount}u) * 32u + lane) * 4u + (word & 3u);
      ${
				repeat(
					planeCount,
					(k) => {
						const load = `bits${q}_${k} = bits[first + ${128 * k}u];`;
						return k < form.zones ? load : `if (marks != 0u) { ${load} }`;
					},
				)
			}
      let block = min(word * 32u / p.block_size, p.blocks - 1u);
      ${scaleOf(q).load("tile", "block", "lane")} }`)
	}
  }`;
	const stashB = (pair: number, half: number) =>
		repeat(rowsEach, (q) => {
			const names: RowNames = { plane: (k) => `bits${q}_${k}`, marks: "marks" };
			const store = (mayBeSalient: boolean) =>
				repeat(depth, (k) => {
					const bit = `0x${(2 ** (half * depth + k)).toString(16)}u`;
					return `tile_b${pair}[${k}][at][part] = ${weightAt(form, names, bit, mayBeSalient)};`;
				});
			const mask = `0x${((2 ** depth - 1) * 2 ** (half * depth)).toString(16)}u`;
			return `{ let at = (u + ${q * loaders}u) >> 2u;
      let part = u & 3u;
      ${form.coded ? `let mean_factor = factor${q}.x; let scale_factor = factor${q}.y;` : ""}
      ${weightValues(form, `scale${q}_`)}
      ${
				form.planes > 0
					? `if ((marks & ${mask}) != 0u) { ${store(true)} } else { ${store(false)} }`
					: store(false)
			} }`;
		});
	const multiply = (pair: number) =>
		repeat(
			depth,
			(k) =>
				`{ ${
					repeat(2, (g) =>
						`let a_${g} = tile_a${pair}[${k}][ty + ${
							g * rows / 8
						}u]; let b_${g} = tile_b${pair}[${k}][tx + ${g * cols / 8}u];`, " ")
				}
    ${
					repeat(8, (i) =>
						repeat(
							2,
							(j) => `c${i}_${j} = fma(vec4f(a_${i >> 2}.${XYZW[i & 3]}), b_${j}, c${i}_${j});`,
							" ",
						))
				} }`,
		);
	const stash = (half: number) => {
		const pair = paired ? half : 0;
		return `${paired ? "" : "workgroupBarrier(); // everyone is done with the tiles"}
    if (fetches_a) { ${stashA(pair)} } else { ${stashB(pair, half)} }
    workgroupBarrier();`;
	};
	const element = aligned ? "vec4f" : "f32";
	const load = (array: string, index: string) =>
		aligned
			? `${array}[(${index}) >> 2u]`
			: `vec4f(${repeat(4, (i) => `${array}[${index} + ${i}u]`, ", ")})`;
	return `
struct Params {
  m: u32, n: u32, units: u32, blocks: u32, block_size: u32, tiles: u32, flags: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> A: array<vec4f>;         // [m in whole tiles, units * 32]
@group(0) @binding(2) var<storage, read> bits: array<u32>;        // [tiles, units, planes, 32, 4]
@group(0) @binding(3) var<storage, read> scales: array<u32>;      // [tiles, blocks, words, 32]
@group(0) @binding(4) var<storage, read> factors: array<vec2f>;   // [tiles * 32]
@group(0) @binding(5) var<storage, read> salient: array<u32>;     // [units * 4]
@group(0) @binding(6) var<storage, read> bias: array<${element}>; // [n]
@group(0) @binding(7) var<storage, read> R: array<${element}>;    // [m, n]
@group(0) @binding(8) var<storage, read_write> C: array<${element}>; // [m, n]

${
		repeat(paired ? 2 : 1, (pair) =>
			`var<workgroup> tile_a${pair}: array<array<vec4f, ${rows / 4 + 1}>, ${depth}>;
var<workgroup> tile_b${pair}: array<array<vec4f, ${cols / 4}>, ${depth}>;`)
	}

fn put(row: u32, col: u32, sum: vec4f) {
  if (row >= p.m || col >= p.n) { return; }
  var v = sum;
  let at = row * p.n + col;
  if ((p.flags & ${MATMUL_FLAGS.bias}u) != 0u) { v += ${load("bias", "col")}; }
  if ((p.flags & ${MATMUL_FLAGS.residual}u) != 0u) { v += ${load("R", "at")}; }
  ${
		aligned
			? "C[at >> 2u] = v;"
			: repeat(4, (i) => `if (col + ${i}u < p.n) { C[at + ${i}u] = v.${XYZW[i]}; }`)
	}
}

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let m0 = group.y * ${rows}u;
  let n0 = group.x * ${cols}u;
  let tx = thread % ${threadsX}u;
  let ty = thread / ${threadsX}u;
  let fetches_a = thread < ${loaders}u;
  let u = select(thread - ${loaders}u, thread, fetches_a);
  ${repeat(vectors, (q) => `var a${q}: vec4f;`, " ")}
  ${
		repeat(rowsEach, (q) =>
			`${
				repeat(planeCount, (k) => `var bits${q}_${k}: u32;`, " ")
			} ${scaleOf(q).declare}
  ${
				form.coded
					? `let factor${q} = factors[min(n0 + u + ${q * loaders}u, p.tiles * 32u - 1u)];`
					: ""
			}`)
	}
  var marks: u32;
  ${repeat(8, (i) => `var c${i}_0 = vec4f(0.0); var c${i}_1 = vec4f(0.0);`)}
  let stride = p.units * 32u;
  ${
		repeat(vectors / 4, (q) =>
			`var at${q} = (m0 + (u + ${q * loaders}u) / ${depth / 4}u * 4u) * stride + (u + ${
				q * loaders
			}u) % ${depth / 4}u;`)
	}
  var word = 0u;
  if (fetches_a) { ${fetchA} } else { ${fetchB} }
  ${stash(0)}
  loop {
    if (fetches_a) { ${fetchA} }
    ${multiply(0)}
    ${stash(1)}
    word++;
    let more = word < p.units * 4u;
    if (more) { if (fetches_a) { ${fetchA} } else { ${fetchB} } }
    ${multiply(paired ? 1 : 0)}
    if (!more) { break; }
    ${stash(0)}
  }
  ${
		repeat(8, (i) =>
			repeat(2, (j) =>
				`put(m0 + ${(i >> 2) * rows / 2 + (i & 3)}u + ty * 4u, n0 + ${
					j * cols / 2
				}u + tx * 4u, c${i}_${j});`, " "))
	}
}
`;
}

/** Rows that a thread of {@link unpackKernel} takes, and threads along the rows of a workgroup. */
const UNPACKED_EACH = 4;
const UNPACKED_THREADS = 4;
/** Rows of a workgroup of {@link unpackKernel}. */
export const UNPACKED_ROWS = UNPACKED_EACH * UNPACKED_THREADS;

/**
 * Generates the kernel that dequantizes some rows to f32 `[rows, cols]`. 32 threads compute 128 columns
 * of a row; each takes every 32nd column, so that adjacent threads store to adjacent places. A thread
 * begins the loads of its rows before it decodes any.
 */
export function unpackKernel(form: BillmForm): string {
	const planeCount = planesOf(form);
	const scaleOf = (r: number) => scaleSource(form, `scale${r}_`);
	const loadScales = (r: number, block: string) =>
		`{ let block = min(${block}, p.blocks - 1u); ${
			scaleOf(r).load(`(row${r} >> 5u)`, "block", `(row${r} & 31u)`)
		} }`;
	const loadRow = (r: number) =>
		`let row${r} = p.first + min(local${r}, p.rows - 1u);
  let start${r} = ((row${r} >> 5u) * p.units + unit) * ${32 * planeCount}u + (row${r} & 31u);
  ${repeat(planeCount, (k) => `let bits${r}_${k} = bits[start${r} + ${32 * k}u];`)}
  ${scaleOf(r).declare}
  ${form.coded ? `let factor${r} = factors[row${r}];` : ""}
  ${form.mixed ? "" : loadScales(r, "unit * 128u / p.block_size")}`;
	const word = (r: number, w: number) => {
		const names: RowNames = {
			plane: (k) => `bits${r}_${k}.${XYZW[w]}`,
			marks: `marks.${XYZW[w]}`,
		};
		return `{
    ${
			form.mixed
				? `${loadScales(r, `(unit * 128u + ${32 * w}u) / p.block_size`)}
    ${weightValues(form, `scale${r}_`)}`
				: ""
		}
    if (columns.${XYZW[w]} < p.cols) { weight[local${r} * p.cols + columns.${XYZW[w]}] = ${
			weightAt(form, names, "bit", form.planes > 0)
		}; }
  }`;
	};
	const storeRow = (r: number) =>
		`if (local${r} < p.rows) {
    ${form.coded ? `let mean_factor = factor${r}.x; let scale_factor = factor${r}.y;` : ""}
    ${form.mixed ? "" : weightValues(form, `scale${r}_`)}
    ${repeat(4, (w) => word(r, w))}
  }`;
	return `
struct Params {
  first: u32, rows: u32, cols: u32, units: u32, blocks: u32, block_size: u32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> bits: array<vec4u>;      // [tiles, units, planes, 32]
@group(0) @binding(2) var<storage, read> scales: array<u32>;      // [tiles, blocks, words, 32]
@group(0) @binding(3) var<storage, read> factors: array<vec2f>;   // [tiles * 32]
@group(0) @binding(4) var<storage, read> salient: array<vec4u>;   // [units]
@group(0) @binding(5) var<storage, read> order: array<u32>;       // [units * 128]
@group(0) @binding(6) var<storage, read_write> weight: array<f32>; // [rows, cols], from row \`first\` on

@compute @workgroup_size(32, ${UNPACKED_THREADS})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) thread: vec3u,
) {
  let unit = group.x;
  let local0 = (group.z * groups.y + group.y) * ${UNPACKED_ROWS}u + thread.y;
  if (local0 >= p.rows) { return; }
  ${
		repeat(
			UNPACKED_EACH - 1,
			(r) => `let local${r + 1} = local0 + ${UNPACKED_THREADS * (r + 1)}u;`,
			"\n  ",
		)
	}
  let bit = 1u << thread.x;
  let marks = salient[unit];
  let first_place = unit * 128u + thread.x;
  // Bit 31 marks salient columns.
  let columns = vec4u(${
		repeat(4, (w) => `order[first_place + ${32 * w}u]`, ", ")
	}) & vec4u(0x7fffffffu);
  ${repeat(UNPACKED_EACH, loadRow, "\n  ")}
  ${repeat(UNPACKED_EACH, storeRow, "\n  ")}
}
`;
}
