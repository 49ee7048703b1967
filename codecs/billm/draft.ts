import { bitWords } from "../../base/bits.ts";
import type { Gpu } from "../../gpu/device.ts";
import type { Tensor } from "../../gpu/tensor.ts";
import type { Draft, StoreForm } from "../codec.ts";
import { billm } from "./codec.ts";
import { dequantize } from "./dequantize.ts";
import type { BillmHost } from "./host.ts";
import { type BillmBits, type BillmLayout, emptyBits } from "./quantize_block.ts";
import { roundScales } from "./round_scales.ts";

/** The draft of a BiLLM layer, which stages quantize block by block. */
export class BillmDraft implements Draft<BillmHost> {
	readonly codec = billm;
	readonly bits: BillmBits;

	constructor(readonly gpu: Gpu, layout: BillmLayout) {
		this.bits = emptyBits(gpu, layout);
	}

	/** Rounds 8-bit and 4-bit scales first, so that later layers are calibrated on the stored values. */
	async download({ scales }: StoreForm, quantized: Tensor): Promise<BillmHost> {
		const { gpu, bits } = this;
		if (scales === "f16") return await downloadBits(bits);
		const scaleBits = scales === "i8" ? 8 : 4;
		const { codes, factors } = await roundScales(gpu, bits, bits.scales, scaleBits);
		const host = await downloadBits(bits);
		const values = new Int8Array(await gpu.read(codes, "u32")); // the low byte of each
		const few = scaleBits === 4 ? { bits: scaleBits } as const : {};
		const coded = { ...host, codes: { values, factors: await gpu.read(factors), ...few } };
		gpu.free(codes, factors);
		using salient = gpu.upload(host.salient, [host.salient.length]);
		await dequantize(gpu, bits, bits.bits, bits.scales, salient, quantized);
		return coded;
	}

	[Symbol.dispose](): void {
		const { bits, scales, salient } = this.bits;
		this.gpu.free(bits, scales, salient);
	}
}

/** Downloads the bits of a linear layer. */
export async function downloadBits(linear: BillmBits): Promise<BillmHost> {
	const { bits, scales, salient: columns, ...layout } = linear;
	const { gpu } = bits;
	const marks = await gpu.read(columns, "u32");
	const salient = new Uint32Array(bitWords(layout.cols));
	marks.forEach((mark, col) => salient[col >> 5] |= mark << (col & 31));
	return {
		...layout,
		bits: await gpu.read(bits, "u32"),
		scales: await gpu.read(scales),
		salient,
	};
}
