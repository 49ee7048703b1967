import type { Gpu } from "~/gpu/device.ts";
import type { KernelSource } from "~/gpu/kernel.ts";
import { openGpu } from "./open_gpu.ts";

/**
 * Subgroup matrices in plain WGSL: a fragment of a factor is a place in workgroup memory, and each of 32
 * lanes has eight entries of a sum.
 *
 * @param one 1, in a form that compilers do not know if they must not unroll the loops.
 */
const matrices = (one: string) => `
struct Fragment { array: u32, start: u32, stride: u32, columns: bool }
alias Sum = array<f32, 8>;
fn place(f: Fragment, row: u32, col: u32) -> u32 {
  return f.start + select(row * f.stride + col, col * f.stride + row, f.columns);
}
fn multiply(a: Fragment, b: Fragment, c: Sum, lane: u32) -> Sum {
  var sum = c;
  for (var i = 0u; i < 8u * ${one}; i++) {
    let at = lane % 32u + i * 32u;
    for (var k = 0u; k < 16u * ${one}; k++) { sum[i] += entry(a, at / 16u, k) * entry(b, k, at % 16u); }
  }
  return sum;
}
`;

const PRODUCT = matrices("1u") + `
fn entry(f: Fragment, row: u32, col: u32) -> f32 {
  let at = place(f, row, col);
  var four: vec4u;
  if (f.array == 0u) { four = sA[at / 8u]; } else { four = sB[at / 8u]; }
  return unpack2x16float(four[at / 2u % 4u])[at % 2u];
}
`;

/** The same for attention, where the queries keep their place. */
const ATTENTION = matrices("min(p.heads, 1u)") + `
var<workgroup> sQ: array<vec4u, 64 * 17>;
var<workgroup> lanes: array<f32, 128>;
fn half(v: f32) -> f32 { return unpack2x16float(pack2x16float(vec2f(v, 0.0))).x; }
fn entry(f: Fragment, row: u32, col: u32) -> f32 {
  let at = place(f, row, col);
  if (f.array == 2u) { return sP[at]; }
  var four: vec4u;
  if (f.array == 0u) { four = sQ[at / 8u]; } else { four = sT[at / 8u]; }
  return unpack2x16float(four[at / 2u % 4u])[at % 2u];
}
fn sums_at(start: u32, stride: u32, lane: u32) -> Sum {
  var sum: Sum;
  for (var i = 0u; i < 8u * min(p.heads, 1u); i++) {
    let e = lane % 32u + i * 32u;
    sum[i] = sS[start + e / 16u * stride + e % 16u];
  }
  return sum;
}
fn neighbour(value: f32, lane: u32) -> f32 {
  workgroupBarrier();
  lanes[lane] = value;
  workgroupBarrier();
  return lanes[lane ^ 1u];
}
fn any_lane(value: bool, lane: u32) -> bool {
  workgroupBarrier();
  lanes[lane] = f32(value);
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < 32u * min(p.heads, 1u); i++) { sum += lanes[lane / 32u * 32u + i]; }
  return sum > 0.0;
}
`;

/** A kernel with subgroup matrices, whose offsets count eight halves, for any adapter. */
function emulated(text: string): string {
	if (!text.includes("subgroupMatrix")) return text;
	return text.includes("sT") ? emulatedAttention(text) : emulatedProduct(text);
}

const STORE = /subgroupMatrixStore<row_major>\(&(\w+), (.+?), (\w+), ([\w.]+)\);/gs;
const stored = (_: string, array: string, at: string, sum: string, stride: string) =>
	`for (var i = 0u; i < 8u; i++) { let e = lane % 32u + i * 32u; ` +
	`${array}[${at} + e / 16u * ${stride} + e % 16u] = ${sum}[i]; }`;

function emulatedAttention(text: string): string {
	return text
		.replace(/alias (Left|Right|Sum) = .*;/g, "")
		.replace(/array<f16/g, "array<f32")
		.replace(/\bf16\(/g, "half(")
		.replace(/sT(\[r \* .+?\] = queries)/gs, "sQ$1")
		.replace(
			/subgroupMatrixLoad<(\w+), (row|col)_major>\(&(s[TPS]),\s*(.+?),\s*(\d+)u,?\s*\)/gs,
			(_, type, order, array, at, stride) => {
				if (array === "sS") return `sums_at(${at}, ${stride}u, lane)`;
				if (array === "sP") return `Fragment(2u, ${at}, ${stride}u, false)`;
				const from = type === "Left" ? 0 : 1;
				return `Fragment(${from}u, (${at}) * 8u, ${8 * stride}u, ${order === "col"})`;
			},
		)
		.replace(/subgroupMatrixMultiplyAccumulate\((.+?), (\w+)\);/gs, "multiply($1, $2, lane);")
		.replace(STORE, stored)
		.replace(/subgroupShuffleXor\((\w+), 1u\)/g, "neighbour($1, lane)")
		.replace(/subgroupAny\((.+?)\)\);/g, "any_lane($1, lane));") + ATTENTION;
}

function emulatedProduct(text: string): string {
	return text
		.replace(/alias (Left|Right|Sum) = .*;/g, "")
		.replace(/subgroup_matrix_(left|right)<f16, 16, 16>/g, "Fragment")
		.replace(/subgroup_matrix_result<f32, 16, 16>/g, "Sum")
		.replace(
			/subgroupMatrixLoad<\w+, (row|col)_major>\(&s([AB]),\s*(.+?),\s*(\d+)u\)/gs,
			(_, order, array, at, stride) =>
				`Fragment(${array === "A" ? 0 : 1}u, (${at}) * 8u, ${8 * stride}u, ${order === "col"})`,
		)
		.replace(
			/subgroupMatrixMultiplyAccumulate\((\w+), (\w+), (\w+)\)/g,
			"multiply($1, $2, $3, lane)",
		)
		.replace(STORE, stored) + PRODUCT;
}

/** The names of the kernels that were compiled on such devices. */
export const emulatedNames: string[] = [];

/** A device that rounds to f16, with emulated tensor cores. */
export async function openWithMatrices(): Promise<Gpu> {
	const gpu = await openGpu({ precision: "f16", backend: "deno", poison: true });
	const kernel = gpu.kernel.bind(gpu);
	const all = (source: KernelSource) => {
		const { source: text } = source;
		emulatedNames.push(source.name);
		return kernel({ ...source, source: () => emulated(typeof text === "string" ? text : text()) });
	};
	return Object.defineProperties(gpu, { matrices: { value: true }, kernel: { value: all } });
}
