import type { Gpu } from "../../device.ts";
import { uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import type { Placed } from "./gemm.ts";
import { elementType, load, type Storage, WIDEN } from "./gemm_source.ts";

/** A matrix in f16, padded by zeros, whose rows or columns have power-of-two scales. */
export interface Halves extends Disposable {
	/** u32 words of two f16, row-major `[paddedRows, paddedCols]`. */
	words: Tensor;
	paddedCols: number;
	/** f32, one per row or column, padded: the matrix is words · scale. */
	scales: Tensor;
}

/**
 * Rounds a matrix to f16. Each row, or each column, is first scaled by the power of two that brings its
 * largest magnitude to between 2^14 and 2^15, so that outliers fit and small values stay normal.
 *
 * @param by Whether rows or columns have a scale.
 * @param matrix f32, f16 or bf16 `[rows, cols]`.
 * @param multiples The numbers whose multiples rows and columns are padded to; even.
 */
export async function halve(
	gpu: Gpu,
	by: "row" | "column",
	matrix: Placed,
	[rows, cols]: readonly [number, number],
	multiples: readonly [number, number],
): Promise<Halves> {
	const [paddedRows, paddedCols] = [rows, cols].map((length, i) =>
		Math.ceil(length / multiples[i]) * multiples[i]
	);
	const { tensor, start, stride } = matrix;
	const storage = tensor.dtype as Storage;
	const aligned = [start, stride, cols].every((value) => value % 4 === 0);
	const words = gpu.empty([paddedRows, paddedCols / 2], "u32");
	const scales = gpu.empty([by === "row" ? paddedRows : paddedCols]);
	const params = uniform([rows, cols, start, stride, paddedRows, paddedCols]);
	const name = `${storage}_${aligned ? "aligned" : "any"}`;
	if (by === "row") {
		const kernel = await gpu.kernel({
			name: `halve_rows_${name}`,
			source: () => rowsSource(storage, aligned),
		});
		kernel.dispatch({ params, tensors: [tensor, words, scales], workgroups: paddedRows });
	} else {
		using largest = gpu.zeros([paddedCols], "u32");
		const find = await gpu.kernel({
			name: `largest_columns_${name}`,
			source: () => largestSource(storage, aligned),
		});
		const across = Math.ceil(paddedCols / 256);
		find.dispatch({
			params,
			tensors: [tensor, largest],
			workgroups: [across, Math.ceil(rows / SLAB)],
		});
		const round = await gpu.kernel({
			name: `halve_columns_${name}`,
			source: () => columnsSource(storage, aligned),
		});
		round.dispatch({
			params,
			tensors: [tensor, words, scales, largest],
			workgroups: [across, Math.ceil(paddedRows / 4)],
		});
	}
	return {
		words,
		paddedCols,
		scales,
		[Symbol.dispose]: () => gpu.free(words, scales),
	};
}

/** Rows of which a thread of the search for the largest magnitudes takes its columns. */
const SLAB = 128;

function shared(storage: Storage, aligned: boolean): string {
	return `
struct Params { rows: u32, cols: u32, start: u32, stride: u32, padded_rows: u32, padded_cols: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> X: array<${elementType(storage, aligned)}>;
${WIDEN}
// Four adjacent values; zeros outside of the matrix.
fn values(row: u32, col: u32) -> vec4f {
  if (row >= p.rows || col >= p.cols) { return vec4f(); }
  let index = p.start + row * p.stride + col;
  ${
		aligned
			? `return ${load("X", storage, true, "index")};`
			: `let v = ${
				load("X", storage, false, "index")
			};\n  return select(vec4f(), v, vec4u(col, col + 1u, col + 2u, col + 3u) < vec4u(p.cols));`
	}
}
fn largest_of(v: vec4f) -> f32 {
  let a = abs(v);
  return max(max(a.x, a.y), max(a.z, a.w));
}
// The exponent of a magnitude as f32 stores it, such that both powers of two below are normal numbers.
fn exponent_of(largest: f32) -> u32 {
  let exponent = bitcast<u32>(largest) >> 23u;
  return select(clamp(exponent, 15u, 253u), 141u, largest == 0.0 || exponent == 255u);
}
fn factor_of(exponent: u32) -> f32 { return bitcast<f32>((268u - exponent) << 23u); }
fn scale_of(exponent: u32) -> f32 { return bitcast<f32>((exponent - 14u) << 23u); }
fn halves(v: vec4f) -> vec2u { return vec2u(pack2x16float(v.xy), pack2x16float(v.zw)); }
`;
}

/** One workgroup per row. */
function rowsSource(storage: Storage, aligned: boolean): string {
	return `${shared(storage, aligned)}
@group(0) @binding(2) var<storage, read_write> H: array<vec2u>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
var<workgroup> parts: array<f32, 128>;
@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x + group.y * 65535u;
  if (row >= p.padded_rows) { return; }
  var largest = 0.0;
  for (var col = lane * 4u; col < p.cols; col += 512u) {
    largest = max(largest, largest_of(values(row, col)));
  }
  parts[lane] = largest;
  workgroupBarrier();
  for (var half = 64u; half > 0u; half /= 2u) {
    if (lane < half) { parts[lane] = max(parts[lane], parts[lane + half]); }
    workgroupBarrier();
  }
  let exponent = exponent_of(parts[0]);
  for (var col = lane * 4u; col < p.padded_cols; col += 512u) {
    H[(row * p.padded_cols + col) / 4u] = halves(values(row, col) * factor_of(exponent));
  }
  if (lane == 0u) { scales[row] = scale_of(exponent); }
}
`;
}

/** The bits of the largest magnitude of each column, which order like the magnitudes. */
function largestSource(storage: Storage, aligned: boolean): string {
	return `${shared(storage, aligned)}
@group(0) @binding(2) var<storage, read_write> largest: array<atomic<u32>>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let col = (group.x * 64u + lane) * 4u;
  if (col >= p.cols) { return; }
  var most = vec4f();
  let end = min((group.y + 1u) * ${SLAB}u, p.rows);
  for (var row = group.y * ${SLAB}u; row < end; row++) { most = max(most, abs(values(row, col))); }
  let bits = bitcast<vec4u>(most);
  atomicMax(&largest[col], bits.x);
  atomicMax(&largest[col + 1u], bits.y);
  atomicMax(&largest[col + 2u], bits.z);
  atomicMax(&largest[col + 3u], bits.w);
}
`;
}

function columnsSource(storage: Storage, aligned: boolean): string {
	return `${shared(storage, aligned)}
@group(0) @binding(2) var<storage, read_write> H: array<vec2u>;
@group(0) @binding(3) var<storage, read_write> scales: array<f32>;
@group(0) @binding(4) var<storage, read> largest: array<u32>;
@compute @workgroup_size(64, 4)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let col = id.x * 4u;
  if (col >= p.padded_cols || id.y >= p.padded_rows) { return; }
  let e = vec4u(
    exponent_of(bitcast<f32>(largest[col])),
    exponent_of(bitcast<f32>(largest[col + 1u])),
    exponent_of(bitcast<f32>(largest[col + 2u])),
    exponent_of(bitcast<f32>(largest[col + 3u])),
  );
  let factors = vec4f(factor_of(e.x), factor_of(e.y), factor_of(e.z), factor_of(e.w));
  H[(id.y * p.padded_cols + col) / 4u] = halves(values(id.y, col) * factors);
  if (id.y == 0u) {
    scales[col] = scale_of(e.x);
    scales[col + 1u] = scale_of(e.y);
    scales[col + 2u] = scale_of(e.z);
    scales[col + 3u] = scale_of(e.w);
  }
}
`;
}
