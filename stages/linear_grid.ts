import { GridDraft } from "../codecs/grid/draft.ts";
import { dequantizeGrid } from "../codecs/grid/dequantize_grid.ts";
import { fitGrid } from "../codecs/grid/fit_grid.ts";
import { gatherCodes } from "../codecs/grid/gather_codes.ts";
import type { GridBits, GridLayout } from "../codecs/grid/grid.ts";
import { quantizeGrid } from "../codecs/grid/quantize_grid.ts";
import { refitScales } from "../codecs/grid/refit_scales.ts";
import { type GridSearch, searchGrid } from "../codecs/grid/search_grid.ts";
import { constant } from "../gpu/constant.ts";
import { copyRegion } from "../gpu/kernels/elementwise/copy_region.ts";
import { gatherColumns, gatherSquare } from "../gpu/kernels/elementwise/gather.ts";
import { dampedDiagonal } from "../gpu/kernels/hessian/hessian.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { LinearContext } from "../pipeline/stage.ts";
import { draftOf } from "./draft_of.ts";
import type { Levels } from "./grid_options.ts";
import { spreadErrorFrom } from "./spread_error.ts";

/**
 * The order in which columns are quantized. "none": from the first to the last. "falling": by falling
 * diagonal of the Hessian; scale groups are those of this order, which is stored. "static": in the same
 * order, but scale groups are those of adjacent columns and their grids are found beforehand.
 */
export type ColumnOrder = "none" | "falling" | "static";

/** The choices of a stage that quantizes a linear layer to grids. */
export interface LinearGridChoice extends Levels {
	/** The stage's name. */
	method: string;
	bits: GridBits;
	/** Whether all columns of a row share a grid, not those of a block. */
	perRow: boolean;
	/** Which later columns compensate for an error: none, those beyond the block, all. */
	feedback: "none" | "block" | "column";
	order: ColumnOrder;
	/** Rounds in which the scales of ranges are refitted to the output error after all columns. */
	refit: number;
}

/** The damping of diag H as costs of a search, a fraction of its mean. */
const DAMPING = 0.01;

/**
 * Quantizes all columns of a linear layer to grids.
 *
 * With feedback and without "static", the grid of a scale group is determined when its first column is
 * reached, from the weights as compensated so far.
 */
export async function linearGrid(context: LinearContext, choice: LinearGridChoice): Promise<void> {
	const { gpu, linear, blockSize } = context;
	const { method, grid, zeros, bits, perRow, feedback, order, refit } = choice;
	const { rows, cols } = linear;
	linear.method = method;
	const layout: GridLayout = {
		rows,
		cols,
		groupSize: perRow ? cols : blockSize,
		grid,
		...(zeros && zeros !== "any" && { zeros }),
		bits,
		salient: false,
	};
	const { codes } = draftOf(linear, GridDraft, () => new GridDraft(gpu, layout));
	using temporary = new DisposableStack();
	const own = (tensor: Tensor) => temporary.use(tensor);

	const isOrdered = order !== "none";
	const columnOrder = isOrdered ? context.get("column-order") : undefined;
	const factor = isOrdered ? context.get("ordered-factor") : context.find("factor");
	const weight = columnOrder
		? own(await gatherColumns(gpu, linear.weight, columnOrder))
		: linear.weight;
	const quantized = columnOrder ? own(gpu.empty([rows, cols])) : linear.quantized;
	let target = codes;
	if (order === "falling") codes.order = gpu.clone(columnOrder!);
	if (order === "static") target = { ...codes, codes: own(gpu.empty(codes.codes.shape, "u32")) };

	const costs = zeros && await columnCosts(context, choice, own);
	const fit = async (source: Tensor, first: number, width: number) => {
		const group = perRow ? 0 : first / blockSize;
		const { fits } = codes;
		if (zeros) {
			const part = { first, cols: width, groupSize: perRow ? cols : blockSize, group };
			await searchGrid(gpu, { bits, zeros, weight: source, ...part, ...costs!, fits });
			return;
		}
		for (let start = first; start < first + width; start += layout.groupSize) {
			const size = Math.min(layout.groupSize, cols - start);
			using part = await columnsOf(source, start, size);
			await fitGrid(gpu, { grid, bits, weight: part, fits, group: perRow ? 0 : start / blockSize });
		}
	};
	const isFittedBefore = feedback === "none" || order === "static" || perRow;
	if (isFittedBefore) await fit(order === "static" ? linear.weight : weight, 0, cols);

	for (let first = 0; first < cols; first += blockSize) {
		const width = Math.min(blockSize, cols - first);
		if (!isFittedBefore) await fit(weight, first, width);
		using block = await columnsOf(weight, first, width);
		using error = await quantizeGrid(
			gpu,
			{
				first,
				weight: block,
				group: perRow || order === "static" ? 0 : first / blockSize,
				...(order === "static" && { scattered: columnOrder }),
				factor: feedback === "none" ? undefined : factor,
				feedback: feedback === "column",
			},
			target,
			quantized,
		);
		if (feedback !== "none") await spreadErrorFrom(first, error, { weight, factor: factor! });
	}
	const places = columnOrder && context.get("column-places");
	if (places) await gatherColumns(gpu, quantized, places, linear.quantized);
	if (target !== codes) await gatherCodes(gpu, target.codes, places!, codes.codes);
	if (refit === 0) return;
	const isFalling = order === "falling";
	const hessian = context.get("hessian");
	const { original } = linear;
	await refitScales(gpu, {
		weight: isFalling ? own(await gatherColumns(gpu, original, columnOrder!)) : original,
		hessian: isFalling ? own(await gatherSquare(gpu, hessian, columnOrder!)) : hessian,
		quantized: isFalling ? quantized : linear.quantized,
		fits: codes.fits,
		groupSize: layout.groupSize,
		rounds: refit,
	});
	gpu.copy(own(await dequantizeGrid(gpu, codes)), linear.quantized);
}

/**
 * The costs of errors in the columns of the weights that grids are fitted to.
 *
 * @param own Called with each new tensor.
 */
async function columnCosts(
	context: LinearContext,
	{ feedback, order }: LinearGridChoice,
	own: (tensor: Tensor) => Tensor,
): Promise<Pick<GridSearch, "costs" | "otherCosts">> {
	const { gpu, linear: { cols } } = context;
	if (feedback === "none") {
		const hessian = context.find("hessian");
		if (!hessian) return { costs: constant(gpu, new Float32Array(cols).fill(1)) };
		return { costs: own(await dampedDiagonal(gpu, hessian, DAMPING)) };
	}
	if (order !== "static") {
		return { costs: context.get(order === "falling" ? "ordered-costs" : "column-costs") };
	}
	// Before any compensation: 1 / U_jj², what remains of an error after it, alone underrates the columns
	// that are visited first.
	const ordered = context.get("ordered-costs").view(0, [1, cols]);
	return {
		costs: own(await dampedDiagonal(gpu, context.get("hessian"), DAMPING)),
		otherCosts: own(await gatherColumns(gpu, ordered, context.get("column-places"))),
	};
}

/** Some columns of a matrix, f32 `[rows, width]`, owned by the caller. */
async function columnsOf(matrix: Tensor, first: number, width: number): Promise<Tensor> {
	const { gpu, shape: [rows, stride] } = matrix;
	const columns = gpu.empty([rows, width]);
	const region = { tensor: matrix, start: first, stride, rows, cols: width };
	await copyRegion(gpu, region, columns, width);
	return columns;
}
