// Decoders written from the layouts of other programs' formats, for tests.

/** What a GGUF file holds. */
export interface GgufFile {
	metadata: Map<string, unknown>;
	tensors: Map<string, { shape: number[]; type: number; bytes: Uint8Array }>;
}

/** Reads a GGUF file, version 3. */
export function readGguf(bytes: Uint8Array): GgufFile {
	const view = new DataView(bytes.buffer, bytes.byteOffset);
	let at = 8; // behind the magic bytes and the version
	const u32 = () => view.getUint32((at += 4) - 4, true);
	const u64 = () => Number(view.getBigUint64((at += 8) - 8, true));
	const text = () => {
		const length = u64();
		return new TextDecoder().decode(bytes.subarray(at, at += length));
	};
	const value = (type: number): unknown => {
		switch (type) {
			case 4:
				return u32();
			case 5:
				return view.getInt32((at += 4) - 4, true);
			case 6:
				return view.getFloat32((at += 4) - 4, true);
			case 7:
				return bytes[at++] === 1;
			case 8:
				return text();
			case 9: {
				const element = u32();
				return Array.from({ length: u64() }, () => value(element));
			}
		}
		throw new Error(`type ${type} at byte ${at}`);
	};
	const [tensorCount, valueCount] = [u64(), u64()];
	const metadata = new Map<string, unknown>();
	for (let i = 0; i < valueCount; i++) metadata.set(text(), value(u32()));
	const infos = Array.from({ length: tensorCount }, () => {
		const name = text();
		const shape = Array.from({ length: u32() }, u64).reverse();
		return { name, shape, type: u32(), offset: u64() };
	});
	const start = Math.ceil(at / 32) * 32;
	const ends = [...infos.slice(1).map(({ offset }) => offset), bytes.length - start];
	const tensors = new Map(infos.map(({ name, shape, type, offset }, i) => [
		name,
		{ shape, type, bytes: bytes.subarray(start + offset, start + ends[i]) },
	]));
	return { metadata, tensors };
}

const half = (view: DataView, at: number) => view.getFloat16(at, true);

/** Decoders of a block by the number of its type, with its weights and bytes. */
export const BLOCKS: Record<
	number,
	{ size: number; bytes: number; weight(block: DataView, i: number): number }
> = {
	41: {
		size: 128,
		bytes: 18,
		weight: (b, i) => (b.getUint8(2 + (i >> 3)) >> (i % 8) & 1 ? 1 : -1) * half(b, 0),
	},
	42: {
		size: 64,
		bytes: 18,
		weight: (b, i) => ((b.getUint8(2 + (i >> 2)) >> (i % 4 * 2) & 3) - 1) * half(b, 0),
	},
	34: {
		size: 256,
		bytes: 54,
		weight(b, i) {
			const [first, start, width] = i < 160 ? [0, 0, 32] : i < 240 ? [160, 32, 16] : [240, 48, 4];
			const byte = b.getUint8(start + (i - first) % width);
			const shifted = byte * 3 ** Math.floor((i - first) / width) & 255;
			return ((shifted * 3 >> 8) - 1) * half(b, 52);
		},
	},
	35: {
		size: 256,
		bytes: 66,
		weight(b, i) {
			const byte = b.getUint8(Math.floor(i / 128) * 32 + i % 32);
			return ((byte >> (Math.floor(i % 128 / 32) * 2) & 3) - 1) * half(b, 64);
		},
	},
	10: {
		size: 256,
		bytes: 84,
		weight(b, i) {
			const code =
				b.getUint8(16 + Math.floor(i / 128) * 32 + i % 32) >> (Math.floor(i % 128 / 32) * 2) & 3;
			const scale = b.getUint8(Math.floor(i / 16));
			return half(b, 80) * (scale & 15) * code - half(b, 82) * (scale >> 4);
		},
	},
	11: {
		size: 256,
		bytes: 110,
		weight(b, i) {
			const low =
				b.getUint8(32 + Math.floor(i / 128) * 32 + i % 32) >> (Math.floor(i % 128 / 32) * 2) & 3;
			const high = b.getUint8(i % 32) >> Math.floor(i / 32) & 1;
			const j = Math.floor(i / 16);
			const nibble = b.getUint8(96 + j % 8) >> (j < 8 ? 0 : 4) & 15;
			const scale = (nibble | (b.getUint8(104 + j % 4) >> (Math.floor(j / 4) * 2) & 3) << 4) - 32;
			return half(b, 108) * scale * (low - (high ? 0 : 4));
		},
	},
	2: {
		size: 32,
		bytes: 18,
		weight: (b, i) => ((b.getUint8(2 + i % 16) >> (i < 16 ? 0 : 4) & 15) - 8) * half(b, 0),
	},
	6: {
		size: 32,
		bytes: 22,
		weight(b, i) {
			const low = b.getUint8(6 + i % 16) >> (i < 16 ? 0 : 4) & 15;
			return ((low | (b.getUint32(2, true) >>> i & 1) << 4) - 16) * half(b, 0);
		},
	},
	8: { size: 32, bytes: 34, weight: (b, i) => b.getInt8(2 + i) * half(b, 0) },
};

/** The weights of a tensor of blocks, row after row. */
export function decodeBlocks(type: number, bytes: Uint8Array, count: number): Float32Array {
	const { size, bytes: blockBytes, weight } = BLOCKS[type];
	return Float32Array.from({ length: count }, (_, i) => {
		const at = bytes.byteOffset + Math.floor(i / size) * blockBytes;
		return weight(new DataView(bytes.buffer, at, blockBytes), i % size);
	});
}

/** The field of some bits at an index of a bit string in words of 32 bits, the lowest bits first. */
export function field(words: Uint32Array, bits: number, i: number): number {
	let value = 0;
	for (let bit = 0; bit < bits; bit++) {
		const at = i * bits + bit;
		value |= (words[at >> 5] >>> (at & 31) & 1) << bit;
	}
	return value;
}
