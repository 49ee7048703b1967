import { UserError } from "../base/errors.ts";
import type { OpenFile } from "./folder.ts";
import type { StoredTensor } from "./safetensors.ts";

/** Elements that share a scale, and bytes of their codes. */
const BLOCK = 32;
const BLOCK_BYTES = 16;

/** The values of the codes of E2M1: a sign, two bits of exponent, one of mantissa. */
const MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6];

/** The BF16 bits of a code of a scale, 2^(scale - 127); scale 255 is NaN. */
function bitsOf(scale: number, code: number): number {
	const value = scale === 255 ? NaN : MAGNITUDES[code & 7] * 2 ** (scale - 127);
	const [bits] = new Uint32Array(Float32Array.of(value).buffer);
	return bits >>> 16 | (code & 8) << 12;
}

let pairs: Uint32Array | undefined;

/** The BF16 bits of both codes in a byte, 256 for each scale; the first code is in the low half. */
function pairTable(): Uint32Array {
	return pairs ??= Uint32Array.from({ length: 256 * 256 }, (_, i) => {
		const [scale, codes] = [i >> 8, i & 255];
		return bitsOf(scale, codes & 15) | bitsOf(scale, codes >> 4) << 16;
	});
}

const [BLOCKS, SCALES] = ["_blocks", "_scales"];

/**
 * The tensors of a file or folder, with each pair of codes `X_blocks` and scales `X_scales` of MXFP4 as one
 * tensor X in BF16, which holds their values exactly.
 *
 * The codes are U8 `[matrices, rows, groups, 16]`, two in a byte, the first in its low half; the scales are
 * U8 `[matrices, rows, groups]`, E8M0. X is `[matrices, 32 · groups, rows]`: transformers transposes it when
 * it loads GPT-OSS.
 *
 * @throws {UserError} If a pair is not complete, or its shapes are not such ones.
 * @see OCP Microscaling Formats (MX) Specification 1.0
 */
export function withMxfp4(tensors: Map<string, StoredTensor>): Map<string, StoredTensor> {
	const isCodes = ({ name, dtype }: StoredTensor) => dtype === "U8" && name.endsWith(BLOCKS);
	if (![...tensors.values()].some(isCodes)) return tensors;
	const all = new Map<string, StoredTensor>();
	for (const tensor of tensors.values()) {
		if (isCodes(tensor)) {
			const whole = joined(tensor, tensors);
			all.set(whole.name, whole);
			continue;
		}
		const codes = tensors.get(tensor.name.replace(/_scales$/, BLOCKS));
		if (!tensor.name.endsWith(SCALES) || !codes || !isCodes(codes)) all.set(tensor.name, tensor);
	}
	return all;
}

function joined(codes: StoredTensor, tensors: ReadonlyMap<string, StoredTensor>): StoredTensor {
	const name = codes.name.slice(0, -BLOCKS.length);
	const refuse = (problem: string): never => {
		throw new UserError(`Cannot read "${codes.file}": ${problem}; download it again`);
	};
	const scales = tensors.get(name + SCALES) ??
		refuse(`"${codes.name}" holds codes of MXFP4, but there is no "${name}${SCALES}"`);
	const [matrices, rows, groups, bytes] = codes.shape;
	if (codes.shape.length !== 4 || bytes !== BLOCK_BYTES) {
		refuse(
			`"${codes.name}" has the shape [${codes.shape}], ` +
				`not [matrices, rows, groups, ${BLOCK_BYTES}] of MXFP4`,
		);
	}
	if (scales.dtype !== "U8" || `${scales.shape}` !== `${codes.shape.slice(0, 3)}`) {
		refuse(
			`"${scales.name}" is ${scales.dtype} [${scales.shape}], ` +
				`not U8 [${codes.shape.slice(0, 3)}] as "${codes.name}" needs`,
		);
	}
	if (codes.strides || scales.strides) {
		refuse(`"${codes.name}" or "${scales.name}" is not row-major, as MXFP4 must be`);
	}
	const cols = BLOCK * groups;
	return {
		name,
		dtype: "BF16",
		shape: [matrices, cols, rows],
		strides: [rows * cols, 1, cols],
		file: codes.file,
		offset: 0,
		bytes: 2 * matrices * rows * cols,
		mxfp4: { codes, scales },
	};
}

/** The values of an MXFP4 tensor as a file of BF16, `[matrices, rows, cols]`, that is computed when it is read. */
export class Mxfp4File implements OpenFile {
	readonly size: number;

	/** @param bytesOf Reads bytes of a tensor. */
	constructor(
		readonly tensor: NonNullable<StoredTensor["mxfp4"]>,
		readonly bytesOf: (tensor: StoredTensor, from: number, bytes: number) => Uint8Array,
	) {
		this.size = 2 * 2 * tensor.codes.bytes;
	}

	read(offset: number, target: Uint8Array<ArrayBuffer>): number {
		const length = Math.min(target.length, this.size - offset);
		const perBlock = 2 * BLOCK;
		const first = Math.floor(offset / perBlock);
		const count = Math.ceil((offset + length) / perBlock) - first;
		const { bytesOf, tensor } = this;
		const codes = bytesOf(tensor.codes, first * BLOCK_BYTES, count * BLOCK_BYTES);
		const scales = bytesOf(tensor.scales, first, count);
		const table = pairTable();
		const values = new Uint32Array(count * BLOCK_BYTES);
		for (let block = 0, i = 0; block < count; block++) {
			const scale = scales[block] << 8;
			for (const end = i + BLOCK_BYTES; i < end; i++) values[i] = table[scale | codes[i]];
		}
		const start = offset - first * perBlock;
		target.set(new Uint8Array(values.buffer, start, length));
		return length;
	}

	[Symbol.dispose](): void {} // the files are the caller's
}

/** The files that hold a tensor. */
export function filesOf({ file, mxfp4 }: StoredTensor): string[] {
	return mxfp4 ? [mxfp4.codes.file, mxfp4.scales.file] : [file];
}

/** The dtype and the bytes of what is stored of a tensor. */
export function storedAs({ dtype, bytes, mxfp4 }: StoredTensor): { dtype: string; bytes: number } {
	if (!mxfp4) return { dtype, bytes };
	return { dtype: "MXFP4", bytes: mxfp4.codes.bytes + mxfp4.scales.bytes };
}
