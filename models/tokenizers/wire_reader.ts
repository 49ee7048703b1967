/** The wire types of field values. */
export const WireType = {
	Varint: 0,
	Bit64: 1,
	LengthDelimited: 2,
	StartGroup: 3,
	EndGroup: 4,
	Bit32: 5,
} as const;

/**
 * A reader of the fields of a protobuf message. It runs in browsers too, whereas protobuf's own library
 * detects its host. All methods throw a RangeError if the message is malformed.
 *
 * @see https://protobuf.dev/programming-guides/encoding/
 */
export class WireReader {
	#at = 0;
	readonly #view: DataView;

	constructor(readonly message: Uint8Array) {
		this.#view = new DataView(message.buffer, message.byteOffset, message.length);
	}

	get isAtEnd(): boolean {
		return this.#at === this.message.length;
	}

	/** The number and wire type of the next field. */
	tag(): [field: number, wireType: number] {
		const tag = this.varint() >>> 0;
		const [field, wireType] = [tag >>> 3, tag & 7];
		if (field === 0 || wireType > WireType.Bit32) throw new RangeError(`Tag ${tag}`);
		return [field, wireType];
	}

	/** The lower 32 bits of a varint, signed. */
	varint(): number {
		let value = 0;
		for (let shift = 0; shift < 70; shift += 7) {
			const byte = this.#view.getUint8(this.#skip(1));
			if (shift < 32) value |= (byte & 0x7f) << shift;
			if (byte < 0x80) return value;
		}
		throw new RangeError("A whole number of more than ten bytes");
	}

	float(): number {
		return this.#view.getFloat32(this.#skip(4), true);
	}

	bytes(): Uint8Array {
		const length = this.varint() >>> 0;
		const start = this.#skip(length);
		return this.message.subarray(start, start + length);
	}

	string(): string {
		try {
			return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.bytes());
		} catch {
			throw new RangeError("A text that is not UTF-8");
		}
	}

	/** Skips the value of a field, or all fields of a group. */
	pass(field: number, wireType: number): void {
		switch (wireType) {
			case WireType.Varint:
				this.varint();
				break;
			case WireType.Bit64:
				this.#skip(8);
				break;
			case WireType.LengthDelimited:
				this.bytes();
				break;
			case WireType.Bit32:
				this.#skip(4);
				break;
			case WireType.StartGroup:
				for (;;) {
					const [inner, type] = this.tag();
					if (type === WireType.EndGroup && inner === field) return;
					this.pass(inner, type);
				}
			default:
				throw new RangeError("The end of a group that has not begun");
		}
	}

	/** @returns The offset of the skipped bytes. */
	#skip(bytes: number): number {
		const start = this.#at;
		if (start + bytes > this.message.length) throw new RangeError("The message ends early");
		this.#at += bytes;
		return start;
	}
}
