import { repeat, XYZW } from "../../source_text.ts";
import { GEMM_FLAGS, GEMM_PARAMS, type GemmLayout } from "./gemm_source.ts";

/** Rows and columns of C per lane of {@link broadcastKernel}. */
export const BROADCAST_TILE = { rows: 64, colsPerLane: 8 } as const;

/**
 * Generates the matrix product for software adapters, where workgroup memory is slow: one subgroup per
 * workgroup. A lane holds 64 rows by 8 columns of C; the lanes load the 64 values of A for one k together
 * and broadcast them. Of an operand whose fast dimension is k, a lane loads four adjacent elements along
 * k from each of its rows or columns.
 *
 * The accumulators spill to the L1 cache, so each is loaded and stored once per four steps along k.
 *
 * C = A · B (+ bias) is written in whole tiles, and starts and strides are multiples of four:
 * guarding 128 stores, looping over them or loading C for them takes Mesa's compiler seconds.
 * `finishKernel()` does the rest.
 */
export function broadcastKernel(layout: GemmLayout, subgroupSize: number): string {
	const { rows, colsPerLane } = BROADCAST_TILE;
	const aAcross = layout[0] === "N";
	const bAcross = layout[1] === "T";
	const steps = 4;
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
	return `${GEMM_PARAMS}
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
