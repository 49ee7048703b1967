/** The storage format of a matrix in {@link matvecKernel}. */
export type MatvecDtype = "f32" | "f16" | "bf16";

/** Rows of the matrix per workgroup: one per component of a vec4. */
export const MATVEC_ROWS = 4;

/** The terms that {@link matvecKernel} adds to the product. */
export const MATVEC_FLAGS = { bias: 1, residual: 2 };

/** Columns that a thread reads at a time, 16 bytes. */
export function matvecStep(dtype: MatvecDtype): number {
	return dtype === "f32" ? 4 : 8;
}

/**
 * Generates the kernel of {@link matvec}.
 *
 * A workgroup handles four rows, so that a thread has four loads in flight and uses each entry of the
 * vector four times. Its threads stride over the columns.
 *
 * @param lanes Threads of a workgroup, a power of two.
 * @param useSubgroup Whether they are exactly one subgroup.
 * @param aligned Whether rows are whole reads of 16 bytes; else a thread reads entry by entry.
 */
export function matvecKernel(
	dtype: MatvecDtype,
	lanes: number,
	useSubgroup: boolean,
	aligned: boolean,
): string {
	const rows = Array.from({ length: MATVEC_ROWS }, (_, r) => r);
	const step = aligned ? matvecStep(dtype) : 1;
	const all = (line: (r: number) => string) => rows.map(line).join("\n    ");
	const product = (r: number): string => {
		const at = `weight[row${r} + i]`;
		if (!aligned) return `sum${r} += x[token * p.k + i] * entry(row${r} + i);`;
		switch (dtype) {
			case "f32":
				return `sum${r} += dot(x0, ${at});`;
			case "f16":
				return `let w${r} = ${at};
    sum${r} += dot(x0, vec4f(unpack2x16float(w${r}.x), unpack2x16float(w${r}.y)))
      + dot(x1, vec4f(unpack2x16float(w${r}.z), unpack2x16float(w${r}.w)));`;
			case "bf16": // even columns are the low halves
				return `let w${r} = ${at};
    sum${r} += dot(even, bitcast<vec4f>(w${r} << vec4u(16u)))
      + dot(odd, bitcast<vec4f>(w${r} & vec4u(0xffff0000u)));`;
		}
	};
	const vector = !aligned ? "" : dtype === "f32" ? "let x0 = x[start + i];" : `
    let x0 = x[start + 2u * i];
    let x1 = x[start + 2u * i + 1u];` + (dtype === "bf16"
		? `
    let even = vec4f(x0.xz, x1.xz);
    let odd = vec4f(x0.yw, x1.yw);`
		: "");
	// Reduces all rows at once, for few barriers.
	const four = `vec4f(${rows.map((r) => `sum${r}`).join(", ")})`;
	const strides = Array.from({ length: Math.log2(lanes) }, (_, i) => lanes >> (i + 1));
	const addUp = useSubgroup ? `let sums = subgroupAdd(${four});` : `partials[lane] = ${four};
  workgroupBarrier();
  ${
		strides.map((stride) =>
			`if (lane < ${stride}u) { partials[lane] += partials[lane + ${stride}u]; }
  workgroupBarrier();`
		).join("\n  ")
	}
  let sums = partials[0];`;
	const stored = !aligned ? "u32" : dtype === "f32" ? "vec4f" : "vec4u";
	return `
struct Params { n: u32, k: u32, flags: u32, start: u32, stride: u32 }
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<${aligned ? "vec4f" : "f32"}>;   // [tokens, k]
@group(0) @binding(2) var<storage, read> weight: array<${stored}>;  // [n, k] ${dtype}
@group(0) @binding(3) var<storage, read> bias: array<f32>;      // [n], used if flagged
@group(0) @binding(4) var<storage, read> residual: array<f32>;  // [tokens, n], used if flagged
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // row t from start + t * stride on

${
		aligned ? "" : `fn entry(index: u32) -> f32 {
  ${
			dtype === "f32" ? "return bitcast<f32>(weight[index]);" : `let word = weight[index >> 1u];
  let odd = (index & 1u) == 1u;
  ${
				dtype === "bf16"
					? "return bitcast<f32>(select(word << 16u, word & 0xffff0000u, odd));"
					: "let pair = unpack2x16float(word);\n  return select(pair.x, pair.y, odd);"
			}`
		}
}`
	}

${useSubgroup ? "" : `var<workgroup> partials: array<vec4f, ${lanes}>;`}

fn finish(row: u32, token: u32, sum: f32) {
  if (row >= p.n) { return; }
  var y = sum;
  if ((p.flags & ${MATVEC_FLAGS.bias}u) != 0u) { y += bias[row]; }
  if ((p.flags & ${MATVEC_FLAGS.residual}u) != 0u) { y += residual[token * p.n + row]; }
  out[p.start + token * p.stride + row] = y;
}

@compute @workgroup_size(${lanes})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = (group.y * groups.x + group.x) * ${MATVEC_ROWS}u;
  if (first >= p.n) { return; }
  let token = group.z;
  let reads = p.k / ${step}u;
  let start = token * (p.k / 4u);
  ${all((r) => `let row${r} = min(first + ${r}u, p.n - 1u) * reads;`)}
  ${all((r) => `var sum${r} = 0.0;`)}
  for (var i = lane; i < reads; i += ${lanes}u) {
    ${vector}
    ${all(product)}
  }
  ${addUp}
  if (lane == 0u) {
    ${all((r) => `finish(first + ${r}u, token, sums[${r}]);`)}
  }
}
`;
}
