import { FormatError } from "./safetensors.ts";

/** A dictionary as alternating keys and values; a later key replaces an equal earlier one. */
export class PickleDict {
	readonly items: unknown[] = [];

	/** The value of a string or number key; undefined if there is none. */
	get(key: unknown): unknown {
		for (let i = this.items.length - 2; i >= 0; i -= 2) {
			if (this.items[i] === key) return this.items[i + 1];
		}
	}
}

/** The replacements for Python objects that a pickle refers to. */
export interface PickleNames {
	/**
	 * The globals by "module.name": a value, or a function of the pickle's arguments. Nothing else can be
	 * named or called. Functions must run in constant time even for long lists, because a pickle can pass
	 * the same list many times.
	 */
	globals: ReadonlyMap<string, unknown>;
	/** The replacement for a reference to an object outside the pickle. */
	persistentLoad(id: unknown): unknown;
}

/** The supported opcodes by their names in Python. */
const OP = {
	MARK: 0x28,
	EMPTY_TUPLE: 0x29,
	STOP: 0x2e,
	POP: 0x30,
	POP_MARK: 0x31,
	DUP: 0x32,
	BINBYTES: 0x42,
	SHORT_BINBYTES: 0x43,
	BINFLOAT: 0x47,
	BININT: 0x4a,
	BININT1: 0x4b,
	BININT2: 0x4d,
	NONE: 0x4e,
	BINPERSID: 0x51,
	REDUCE: 0x52,
	BINSTRING: 0x54,
	SHORT_BINSTRING: 0x55,
	BINUNICODE: 0x58,
	EMPTY_LIST: 0x5d,
	APPEND: 0x61,
	BUILD: 0x62,
	GLOBAL: 0x63,
	APPENDS: 0x65,
	BINGET: 0x68,
	INST: 0x69,
	LONG_BINGET: 0x6a,
	BINPUT: 0x71,
	LONG_BINPUT: 0x72,
	SETITEM: 0x73,
	TUPLE: 0x74,
	SETITEMS: 0x75,
	EMPTY_DICT: 0x7d,
	PROTO: 0x80,
	TUPLE1: 0x85,
	TUPLE2: 0x86,
	TUPLE3: 0x87,
	NEWTRUE: 0x88,
	NEWFALSE: 0x89,
	LONG1: 0x8a,
	SHORT_BINUNICODE: 0x8c,
	BINUNICODE8: 0x8d,
	BINBYTES8: 0x8e,
	EMPTY_SET: 0x8f,
	ADDITEMS: 0x90,
	FROZENSET: 0x91,
	STACK_GLOBAL: 0x93,
	MEMOIZE: 0x94,
	FRAME: 0x95,
} as const;

/**
 * Limit of instructions: enough for 100 000 tensors of about 40 each, and at most half a GB of memory.
 */
const MAX_INSTRUCTIONS = 5_000_000;
const MAX_INTEGER_BYTES = 16;
const MAX_NAME_BYTES = 200;

/**
 * Reads one pickle as plain data: strings, numbers, bytes, lists (also for tuples and sets),
 * {@link PickleDict}, `null` for None, and the replacements in `names`. Runs no code but the functions
 * in `names`. Integers beyond 2⁵³ - 1 are `bigint`.
 *
 * Attributes set on a dictionary are dropped. Other objects, extensions and the text opcodes of
 * protocol 0, except for names, are rejected.
 *
 * @param start The offset of the pickle in `bytes`.
 * @returns The value, and the end offset of the pickle in `bytes`.
 * @throws {FormatError} If the pickle is damaged, too long or contains anything that is not allowed.
 * @see https://github.com/python/cpython/blob/main/Lib/pickletools.py
 */
export function unpickle(
	bytes: Uint8Array<ArrayBuffer>,
	start: number,
	names: PickleNames,
): { value: unknown; end: number } {
	const unpickler = new Unpickler(bytes, start, names);
	return { value: unpickler.run(), end: unpickler.at };
}

class Unpickler {
	at: number;
	readonly #bytes: Uint8Array;
	readonly #view: DataView;
	readonly #names: PickleNames;
	#stack: unknown[] = [];
	/** The stacks below each mark. */
	readonly #outer: unknown[][] = [];
	readonly #memo = new Map<number, unknown>();

	constructor(bytes: Uint8Array<ArrayBuffer>, start: number, names: PickleNames) {
		this.at = start;
		this.#bytes = bytes;
		this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
		this.#names = names;
	}

	run(): unknown {
		for (let count = 0; count < MAX_INSTRUCTIONS; count++) {
			const op = this.#uint8();
			if (op !== OP.STOP) {
				this.#follow(op);
				continue;
			}
			const value = this.#pop();
			if (this.#stack.length > 0 || this.#outer.length > 0) this.#damaged("it stops too early");
			return value;
		}
		throw new FormatError(
			`its pickle has more than ${MAX_INSTRUCTIONS} instructions, too many for a list of tensors`,
		);
	}

	#follow(op: number): void {
		switch (op) {
			case OP.PROTO: {
				const protocol = this.#uint8();
				if (protocol > 5) throw new FormatError(`its pickle has the unknown protocol ${protocol}`);
				return;
			}
			case OP.FRAME: // a prefetch hint
				this.#take(8);
				return;

			case OP.NONE:
				return this.#push(null);
			case OP.NEWTRUE:
				return this.#push(true);
			case OP.NEWFALSE:
				return this.#push(false);
			case OP.BININT:
				return this.#push(this.#view.getInt32(this.#take(4), true));
			case OP.BININT1:
				return this.#push(this.#uint8());
			case OP.BININT2:
				return this.#push(this.#view.getUint16(this.#take(2), true));
			case OP.LONG1:
				return this.#push(this.#integer(this.#uint8()));
			case OP.BINFLOAT:
				return this.#push(this.#view.getFloat64(this.#take(8)));

			case OP.SHORT_BINSTRING: // a string of Python 2
			case OP.SHORT_BINUNICODE:
				return this.#push(this.#text(this.#uint8()));
			case OP.BINSTRING:
			case OP.BINUNICODE:
				return this.#push(this.#text(this.#uint32()));
			case OP.BINUNICODE8:
				return this.#push(this.#text(this.#uint64()));
			case OP.SHORT_BINBYTES:
				return this.#push(this.#slice(this.#uint8()));
			case OP.BINBYTES:
				return this.#push(this.#slice(this.#uint32()));
			case OP.BINBYTES8:
				return this.#push(this.#slice(this.#uint64()));

			case OP.EMPTY_TUPLE:
			case OP.EMPTY_LIST:
			case OP.EMPTY_SET:
				return this.#push([]);
			case OP.TUPLE1:
				return this.#push([this.#pop()]);
			case OP.TUPLE2:
				return this.#push([this.#pop(), this.#pop()].reverse());
			case OP.TUPLE3:
				return this.#push([this.#pop(), this.#pop(), this.#pop()].reverse());
			case OP.TUPLE:
			case OP.FROZENSET:
				return this.#push(this.#popToMark());
			case OP.APPEND:
				return this.#append([this.#pop()]);
			case OP.APPENDS:
			case OP.ADDITEMS:
				return this.#append(this.#popToMark());
			case OP.EMPTY_DICT:
				return this.#push(new PickleDict());
			case OP.SETITEM:
				return this.#setItems([this.#pop(), this.#pop()].reverse());
			case OP.SETITEMS:
				return this.#setItems(this.#popToMark());

			case OP.MARK:
				this.#outer.push(this.#stack);
				this.#stack = [];
				return;
			case OP.POP: // also pops a mark
				if (this.#stack.length > 0) this.#pop();
				else this.#popToMark();
				return;
			case OP.POP_MARK:
				this.#popToMark();
				return;
			case OP.DUP:
				return this.#push(this.#top());
			case OP.MEMOIZE:
				this.#memo.set(this.#memo.size, this.#top());
				return;
			case OP.BINPUT:
				this.#memo.set(this.#uint8(), this.#top());
				return;
			case OP.LONG_BINPUT:
				this.#memo.set(this.#uint32(), this.#top());
				return;
			case OP.BINGET:
				return this.#recall(this.#uint8());
			case OP.LONG_BINGET:
				return this.#recall(this.#uint32());

			case OP.GLOBAL:
				return this.#push(this.#global(this.#line(), this.#line()));
			case OP.STACK_GLOBAL: {
				const name = this.#pop();
				return this.#push(this.#global(this.#pop(), name));
			}
			case OP.INST: // names a class, then creates an object
				this.#global(this.#line(), this.#line());
				break;
			case OP.REDUCE: {
				const parameters = this.#pop();
				const callee = this.#pop();
				if (typeof callee !== "function" || !Array.isArray(parameters)) {
					return this.#damaged("it calls what is no function");
				}
				return this.#push(callee(parameters));
			}
			case OP.BUILD:
				this.#pop();
				if (!(this.#top() instanceof PickleDict)) {
					this.#damaged("it sets attributes of what has none");
				}
				return;
			case OP.BINPERSID:
				return this.#push(this.#names.persistentLoad(this.#pop()));
		}
		throw new FormatError(
			`its pickle has the instruction 0x${op.toString(16).padStart(2, "0")} at byte ` +
				`${this.at - 1}, which is not part of weights; download it again or use weights that are ` +
				`saved as safetensors`,
		);
	}

	#damaged(problem: string): never {
		throw new FormatError(
			`its pickle is damaged near byte ${this.at} (${problem}); download it again`,
		);
	}

	/** Skips some bytes and returns their offset. */
	#take(count: number): number {
		const start = this.at;
		if (count > this.#bytes.length - start) this.#damaged("it ends early");
		this.at += count;
		return start;
	}

	#uint8(): number {
		return this.#view.getUint8(this.#take(1));
	}

	#uint32(): number {
		return this.#view.getUint32(this.#take(4), true);
	}

	#uint64(): number {
		return Number(this.#view.getBigUint64(this.#take(8), true));
	}

	#slice(length: number): Uint8Array {
		const start = this.#take(length);
		return this.#bytes.subarray(start, start + length);
	}

	#text(length: number): string {
		const bytes = this.#slice(length);
		try {
			return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
		} catch {
			return this.#damaged("a text is not UTF-8");
		}
	}

	/** A line without its terminator. */
	#line(): string {
		const end = this.#bytes.subarray(this.at, this.at + MAX_NAME_BYTES).indexOf(0x0a);
		if (end < 0) this.#damaged("a name does not end");
		const line = this.#text(end);
		this.#take(1);
		return line;
	}

	/** An integer in two's complement, little-endian. */
	#integer(length: number): number | bigint {
		if (length > MAX_INTEGER_BYTES) this.#damaged(`a number has ${length} bytes`);
		const bits = this.#slice(length).reduceRight((sum, byte) => sum << 8n | BigInt(byte), 0n);
		const value = BigInt.asIntN(8 * length, bits);
		return Number.isSafeInteger(Number(value)) ? Number(value) : value;
	}

	#push(value: unknown): void {
		this.#stack.push(value);
	}

	#top(): unknown {
		if (this.#stack.length === 0) this.#damaged("a value is missing");
		return this.#stack.at(-1);
	}

	#pop(): unknown {
		const value = this.#top();
		this.#stack.pop();
		return value;
	}

	/** All values pushed since the last mark. */
	#popToMark(): unknown[] {
		const items = this.#stack;
		this.#stack = this.#outer.pop() ?? this.#damaged("a mark is missing");
		return items;
	}

	#append(items: unknown[]): void {
		const list = this.#top();
		if (!Array.isArray(list)) return this.#damaged("it appends to what is no list");
		for (const item of items) list.push(item);
	}

	#setItems(items: unknown[]): void {
		const dict = this.#top();
		if (!(dict instanceof PickleDict)) return this.#damaged("it sets items of what has none");
		if (items.length % 2 > 0) this.#damaged("a key has no value");
		for (const item of items) dict.items.push(item);
	}

	#recall(index: number): void {
		if (!this.#memo.has(index)) this.#damaged(`there is no value ${index}`);
		this.#push(this.#memo.get(index));
	}

	#global(module: unknown, name: unknown): unknown {
		if (typeof module !== "string" || typeof name !== "string") {
			return this.#damaged("a name is no text");
		}
		const full = `${module}.${name}`;
		if (!this.#names.globals.has(full)) {
			throw new FormatError(
				`its pickle wants ${JSON.stringify(full.slice(0, MAX_NAME_BYTES))}, which is not part of ` +
					`weights and might run a program; use weights that are saved as safetensors`,
			);
		}
		return this.#names.globals.get(full);
	}
}
