import type { Gpu } from "../../device.ts";
import { type Kernel, uniform } from "../../kernel.ts";
import type { Tensor } from "../../tensor.ts";
import roundSource from "../elementwise/round_f64.wgsl" with { type: "text" };
import { gemm, type GemmLayout } from "../matmul/gemm.ts";
import dampedSource from "./damped.wgsl" with { type: "text" };
import {
	FACTOR_BLOCK,
	factorBlockKernel,
	rowsKernel,
	UPDATE_TILE,
	updateKernel,
} from "./factor_source.ts";
import { meanDiagonal } from "./hessian.ts";
import productSource from "./product.wgsl" with { type: "text" };
import settleSource from "./settle_rows.wgsl" with { type: "text" };
import upperSource from "./upper_factor.wgsl" with { type: "text" };

/** The upper Cholesky factor of an inverse Hessian. */
export interface InverseFactor {
	/** U with UᵀU = (H + damping)⁻¹, f32 `[n, n]`, zeros below the diagonal. */
	factor: Tensor;
	/** 1 / U_jj², f32 `[n]`: the cost of a squared error in a column. */
	cost: Tensor;
	/** 0, or 1 + the column (counted from the last) of a pivot that was not positive, u32 `[1]`. */
	status: Tensor;
}

/** The precision of the computation; the result is f32 either way. */
export type FactorPrecision = "f32" | "f64";

/**
 * Factors the inverse of G = H + damping · mean(diagonal) · I without computing the inverse.
 *
 * With G = R Rᵀ and R upper triangular, U = R⁻¹. Blocks of rows are processed from the last to the
 * first, in one copy of G whose upper triangle is used. With U_b the inverse factor of the diagonal
 * block b, the rows Q = U_b · [G_abᵀ | I | M_bc] (a: before the block, c: after it) complete rows b of
 * U, and the rows above them become
 *
 *     G_aa -= Q_aᵀ Q_a        M_ab = -Q_aᵀ U_b        M_ac -= Q_aᵀ Q_c
 *
 * which is one product once the consumed columns b above the block are cleared. M, the known part of U,
 * replaces the consumed part of G, so that H and U are the only full matrices.
 *
 * f64, which not all adapters support, uses plain kernels and a matrix of twice the size.
 *
 * @param hessian f32 `[n, n]`, of which the upper triangle is read; H_jj = 0 counts as 1.
 * @returns Tensors that the caller owns. If `status` is not 0, the others are useless.
 */
export async function inverseFactor(
	gpu: Gpu,
	hessian: Tensor,
	damping: number,
	precision: FactorPrecision = "f32",
): Promise<InverseFactor> {
	const [n] = hessian.shape;
	const tiles: [number, number] = [Math.ceil(n / 16), Math.ceil(n / 4)];
	const calculus = arithmetic(gpu, precision);
	const { words, kernel } = calculus;
	using mean = await meanDiagonal(gpu, hessian);
	const a = gpu.empty([n, words * n]);
	const damped = await kernel("damped", dampedSource);
	damped.dispatch({
		params: uniform([n], [damping]),
		tensors: [hessian, mean, a],
		workgroups: tiles,
	});

	const status = gpu.zeros([1], "u32");
	// On software adapters few busy threads are faster; f64 needs twice the registers.
	const each = gpu.software && precision === "f32" ? 8 : 4;
	const factorBlock = await gpu.kernel({
		name: `factor_block_${precision}_${each}`,
		source: () => factorBlockKernel(precision, each),
	});
	const fused = precision === "f32" && !gpu.software && n % 4 === 0;
	using inverse = gpu.empty([FACTOR_BLOCK, words * FACTOR_BLOCK]);
	const stride = Math.ceil(n / 4) * 4; // whole vec4s
	using rows = gpu.empty([FACTOR_BLOCK, words * stride]);
	const last = (Math.ceil(n / FACTOR_BLOCK) - 1) * FACTOR_BLOCK;
	for (let start = last; start >= 0; start -= FACTOR_BLOCK) {
		const size = Math.min(FACTOR_BLOCK, n - start);
		factorBlock.dispatch({
			params: uniform([n, start, size]),
			tensors: [a, inverse, status],
			workgroups: 1,
		});
		const block = { n, start, size, stride, a, inverse, rows };
		if (fused) await fusedStep(gpu, block);
		else await productStep(block, calculus);
	}

	let factor = a;
	if (precision === "f64") {
		factor = gpu.empty([n, n]);
		const round = await kernel("round_f64", roundSource);
		round.dispatch({
			params: uniform([n * n]),
			tensors: [a, factor],
			workgroups: Math.ceil(n * n / 64),
		});
		gpu.free(a);
	}
	const cost = gpu.empty([n]);
	const upper = await gpu.kernel({ name: "upper_factor", source: upperSource });
	upper.dispatch({ params: uniform([n]), tensors: [factor, cost], workgroups: tiles });
	return { factor, cost, status };
}

/** A diagonal block of A with the tensors of its step. */
interface Block {
	n: number;
	/** Its first row and its number of rows. */
	start: number;
	size: number;
	/** A `[n, n]`. */
	a: Tensor;
	/** U_b, `[FACTOR_BLOCK, FACTOR_BLOCK]`. */
	inverse: Tensor;
	/** Q, `[FACTOR_BLOCK, stride]`. */
	rows: Tensor;
	stride: number;
}

/** A step with two fused kernels, the fastest way on a GPU. */
async function fusedStep(gpu: Gpu, block: Block): Promise<void> {
	const { n, start, size, stride, a, inverse, rows } = block;
	const rowsOf = await gpu.kernel({ name: "factor_rows", source: rowsKernel });
	rowsOf.dispatch({
		params: uniform([n, start, size, stride]),
		tensors: [inverse, rows, a],
		workgroups: [Math.ceil(n / FACTOR_BLOCK), 1],
	});
	const update = await gpu.kernel({ name: "factor_update", source: () => updateKernel() });
	update.dispatch({
		params: uniform([start, n, size, stride, n]),
		tensors: [rows, a],
		workgroups: [Math.ceil(n / UPDATE_TILE.cols), Math.ceil(start / UPDATE_TILE.rows)],
	});
}

/** A step by matrix products. */
async function productStep(block: Block, { kernel, multiply, terms }: Arithmetic): Promise<void> {
	const { n, start, size, stride, a, inverse, rows } = block;
	const end = start + size;
	const u = { tensor: inverse, start: 0, stride: FACTOR_BLOCK };
	await multiply({
		layout: "NT",
		m: size,
		n: start,
		k: size,
		a: u,
		b: { tensor: a, start, stride: n },
		c: { tensor: rows, start: 0, stride },
	});
	await multiply({
		layout: "NN",
		m: size,
		n: n - end,
		k: size,
		a: u,
		b: { tensor: a, start: start * n + end, stride: n },
		c: { tensor: rows, start: end, stride },
	});
	const settleRows = await kernel("settle_rows", settleSource);
	settleRows.dispatch({
		params: uniform([n, start, size, stride, FACTOR_BLOCK]),
		tensors: [inverse, rows, a],
		workgroups: Math.ceil((size * (n - start) + start * size) / 64),
	});
	for (let first = 0; first < size; first += terms) {
		const q = { tensor: rows, start: first * stride, stride };
		await multiply({
			layout: "TN",
			m: start,
			n,
			k: Math.min(terms, size - first),
			alpha: -1,
			accumulate: true,
			upperOnly: true,
			a: q,
			b: q,
			c: { tensor: a, start: 0, stride: n },
		});
	}
}

/** A part of a matrix; offsets are in elements. */
interface Part {
	tensor: Tensor;
	start: number;
	stride: number;
}

interface Product {
	layout: GemmLayout;
	m: number;
	n: number;
	k: number;
	a: Part;
	b: Part;
	c: Part;
	alpha?: number;
	accumulate?: boolean;
	/** Whether to skip all or most of the part of C below the diagonal. */
	upperOnly?: boolean;
}

interface Arithmetic {
	/** u32 words per number. */
	words: number;
	/** Compiles a kernel whose text uses the type `real`. */
	kernel(name: string, source: string): Promise<Kernel>;
	/** C = alpha · op(A) · op(B) (+ C), see {@link gemm}. */
	multiply(product: Product): Promise<void>;
	/** The number of products that are summed before they are subtracted from C. */
	terms: number;
}

function arithmetic(gpu: Gpu, precision: FactorPrecision): Arithmetic {
	if (precision === "f32") {
		return {
			words: 1,
			kernel: (name, source) => gpu.kernel({ name, source }),
			multiply: (product) => gemm(gpu, product),
			terms: 32, // a longer sum would dominate the error
		};
	}
	const kernel = (name: string, source: string) =>
		gpu.kernel({
			name: `${name}_f64`,
			source: () => source.replace("alias real = f32;", "alias real = f64;"),
		});
	const multiply = async (
		{ layout, m, n, k, a, b, c, alpha = 1, accumulate, upperOnly }: Product,
	) => {
		const [aI, aK] = layout === "TN" ? [1, a.stride] : [a.stride, 1];
		const [bK, bJ] = layout === "NT" ? [1, b.stride] : [b.stride, 1];
		const product = await kernel("product", productSource);
		product.dispatch({
			params: uniform(
				[
					...[m, n, k, Number(accumulate ?? false), Number(upperOnly ?? false)],
					...[a.start, aI, aK, b.start, bK, bJ, c.start, c.stride],
				],
				[alpha],
			),
			tensors: [a.tensor, b.tensor, c.tensor],
			workgroups: [Math.ceil(n / 16), Math.ceil(m / 16)],
		});
	};
	return {
		words: 2,
		kernel,
		multiply,
		terms: FACTOR_BLOCK,
	};
}
