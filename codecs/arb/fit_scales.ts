import type { Gpu } from "../../gpu/device.ts";
import { uniform } from "../../gpu/kernel.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import columnsSource from "./arb_columns.wgsl" with { type: "text" };
import passSource from "./arb_pass.wgsl" with { type: "text" };
import rowsSource from "./arb_rows.wgsl" with { type: "text" };

/** A block whose weights a fit approximates. */
export interface ArbBlock {
	/** f32 `[rows, cols]`. */
	weight: Tensor;
	/** u32 `[cols]`, 0 or 1. */
	salient: Tensor;
	/** The cost of a squared error in each column, f32 `[cols]`. */
	costs: Tensor;
	/** Bits of the high zone, u32 `[rows, ⌈cols / 32⌉]`; of salient columns, too, with a bitmap. */
	zones: Tensor;
	bitmap: boolean;
	/** Columns of a whole block; kernels are compiled for these. */
	size: number;
}

/** The fit of a block; its tensors are owned by the caller. */
export interface ArbFit {
	/** The signs of both planes, u32 `[2, rows, ⌈cols / 32⌉]`. */
	signs: Tensor;
	/**
	 * The numbers of each row as the codec stores them, with those of both salient zones in any case: f32
	 * `[rows, 6]` with column scales, else f32 `[rows, 10]`.
	 */
	rowFits: Tensor;
	/** f32 `[cols, 4]`; content without meaning without column scales. */
	colScales: Tensor;
}

/** Rows of a part of the sums by column. */
const ROWS = 16;

/**
 * Fits scales of rows and columns to a block by alternation (ARB-RC).
 *
 * @param block With `nearest`, its zones are updated.
 * @param nearest Whether all weights take the nearest value, of any zone, after each iteration; otherwise
 *   only salient ones, within their zones.
 */
export async function fitArbScales(
	gpu: Gpu,
	{ weight, salient, costs, zones, bitmap, size }: ArbBlock,
	iterations: number,
	nearest: boolean,
): Promise<ArbFit> {
	const [rows, cols] = weight.shape;
	const words = Math.ceil(cols / 32);
	const signs = gpu.zeros([2, rows, words], "u32");
	const rowFits = gpu.zeros([rows, 6]);
	const colScales = gpu.empty([cols, 4]);
	const parts = Math.ceil(rows / ROWS);
	using part = gpu.empty([parts, cols, 4]);
	const step = async (plane: 0 | 1, first: boolean, assigns: 0 | 1 | 2) => {
		const pass = await gpu.kernel({
			name: "arb_pass",
			source: passSource,
			constants: {
				ROWS,
				WORDS: size / 32,
				STRIDE: size + 1,
				PLANE: plane,
				FIRST: Number(first),
				NEAREST: Number(nearest),
				BITMAP: Number(bitmap),
			},
		});
		pass.dispatch({
			params: uniform([rows, cols, assigns]),
			tensors: [weight, salient, costs, zones, signs, rowFits, colScales, part],
			workgroups: parts,
		});
		if (assigns === 2) return;
		const sum = await gpu.kernel({
			name: "arb_columns",
			source: columnsSource,
			constants: {
				PLANE: plane,
				FIRST: Number(first),
				...(gpu.software ? { COLS: 32, SLICES: 1 } : {}),
			},
		});
		sum.dispatch({
			params: uniform([parts, cols]),
			tensors: [part, salient, colScales],
			workgroups: Math.ceil(cols / (gpu.software ? 32 : 8)),
		});
	};
	for (const plane of [0, 1] as const) await step(plane, true, 0);
	for (let i = 0; i < iterations; i++) {
		for (const plane of [0, 1] as const) await step(plane, false, i > 0 ? 1 : 0);
	}
	// The signs of the last scales; the kernel that stores the bits finds nearest ones itself.
	if (iterations > 0 && !nearest) await step(0, false, 2);
	return { signs, rowFits, colScales };
}

/**
 * Fits means and scales of rows to a block by alternation, first to the weights and then to the output of
 * its columns (ARB-X).
 *
 * @param block Its zones are updated: without a bitmap those of salient columns become 0, and with
 *   `nearest` those of all columns may change.
 * @param hessian Σ x xᵀ of the input of the layer, up to a factor, f32 `[n, n]`.
 * @param first The block's first column in the layer.
 * @param nearest Whether weights take the nearest value of any zone.
 */
export async function fitArbRows(
	gpu: Gpu,
	{ weight, salient, costs, zones, bitmap, size }: ArbBlock,
	hessian: Tensor,
	first: number,
	iterations: number,
	nearest: boolean,
): Promise<ArbFit> {
	const [rows, cols] = weight.shape;
	const stride = hessian.shape[1];
	const signs = gpu.empty([2, rows, Math.ceil(cols / 32)], "u32");
	const rowFits = gpu.empty([rows, 10]);
	const ROWS = 8;
	const kernel = await gpu.kernel({
		name: "arb_rows",
		source: rowsSource,
		constants: {
			...{ ROWS, LANES: gpu.software ? 4 : 16, COLS: size },
			...{ ROUNDS: iterations, MOMENT_ROUNDS: iterations },
			...{ BITMAP: Number(bitmap), NEAREST: Number(nearest) },
		},
	});
	kernel.dispatch({
		params: uniform([rows, cols, first * (stride + 1), stride]),
		tensors: [weight, salient, costs, hessian, zones, signs, rowFits],
		workgroups: Math.ceil(rows / ROWS),
	});
	return { signs, rowFits, colScales: gpu.empty([1, 4]) };
}
