import { UserError } from "../base/errors.ts";
import { counted } from "../base/figures.ts";
import { BillmDraft } from "../codecs/billm/draft.ts";
import { quantizeBlock } from "../codecs/billm/quantize_block.ts";
import { constant } from "../gpu/constant.ts";
import { fitSalient, fitZones } from "../gpu/kernels/binarize/fit_rows.ts";
import { refineFits } from "../gpu/kernels/binarize/refine_fits.ts";
import { MAX_BLOCK, saliency } from "../gpu/kernels/binarize/search.ts";
import type { Tensor } from "../gpu/tensor.ts";
import type { BlockContext } from "../pipeline/stage.ts";
import { draftOf } from "./draft_of.ts";

/**
 * The mask of a block's salient columns, all zeros if no stage has selected any.
 *
 * @returns u32 `[cols]`, a view of a tensor that others own.
 */
export function salientColumnsOf({ gpu, block, find }: BlockContext): Tensor {
	const found = find("salient-columns");
	if (found) return found.view(0, found.shape);
	return constant(gpu, new Float32Array(MAX_BLOCK)).view(0, [block.cols], "u32"); // 0 has the same bits
}

/** The saliencies of a block, f32 `[rows, cols]`: those of salient-select, which sets them if it uses them. */
export async function saliencyOf({ gpu, block, find, set }: BlockContext): Promise<Tensor> {
	const found = find("saliency");
	if (found) return found;
	const own = await saliency(gpu, block.weight, block.costs);
	set("saliency", own);
	return own;
}

/** The way in which the bits of a block are chosen. */
export interface BitChoice {
	/** Whether later columns in the block compensate for each column's error. */
	feedback: boolean;
	/** Whether bits are those of the nearest stored value instead of those of the fit. */
	nearest: boolean;
	/** Rounds of alternating refinement of bits and fits beforehand; for `nearest`. */
	refine: number;
}

/**
 * Quantizes a block to bits with the fits of earlier stages. Without a fit, salient columns get one
 * plane and the others one zone.
 *
 * @returns "block-error", which is also set.
 */
export async function blockBits(
	context: BlockContext,
	choice: BitChoice,
): Promise<Tensor> {
	const { gpu, linear, block } = context;
	const hasSalient = context.find("salient-columns") !== undefined;
	const salient = salientColumnsOf(context);
	let salientFit = context.find("salient-fit");
	if (hasSalient && !salientFit) {
		salientFit = await fitSalient(gpu, block.weight, salient, 1);
		context.set("salient-fit", salientFit);
	}
	const zones = context.find("zones");
	let zoneFits = context.find("zone-fits");
	if (!zoneFits) {
		zoneFits = await fitZones(gpu, block.weight, salient, zones);
		context.set("zone-fits", zoneFits);
	}
	if (choice.refine > 0) {
		const fits = { zoneFits, salientFit };
		await refineFits(gpu, block.weight, salient, block.costs, fits, choice.refine);
	}
	const form = {
		zones: zones ? 2 as const : 1 as const,
		planes: salientFit ? salientFit.shape[1] / 2 : 0,
	};
	const { rows, cols } = linear;
	const layout = { rows, cols, blockSize: block.size, ...form };
	const { bits } = draftOf(linear, BillmDraft, () => new BillmDraft(gpu, layout));
	if (bits.zones !== form.zones || bits.planes !== form.planes) {
		throw new UserError(
			`The block of "${linear.name}" from column ${block.first} on has ${
				formText(form)
			}, the blocks ` +
				`before it ${formText(bits)}; a stage must do the same in each block`,
		);
	}
	const input = {
		first: block.first,
		weight: block.weight,
		salient,
		salientFit,
		zones,
		zoneFits,
		factor: context.find("factor"),
		feedback: choice.feedback,
		nearest: choice.nearest,
	};
	const error = await quantizeBlock(gpu, input, bits, linear.quantized);
	context.set("block-error", error);
	return error;
}

/** The form of bits, for messages: "2 zones and 1 salient plane". */
export function formText({ zones, planes }: { zones: number; planes: number }): string {
	return `${counted(zones, "zone")} and ${counted(planes, "salient plane")}`;
}
