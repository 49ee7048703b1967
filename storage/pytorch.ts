import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import type { SourceFile } from "./folder.ts";
import { PickleDict, type PickleNames, unpickle } from "./pickle.ts";
import {
	count,
	DTYPE_BITS,
	foreignContent,
	FormatError,
	openFile,
	readRange,
	type StoredDtype,
	type StoredTensor,
} from "./safetensors.ts";
import { type FileRange, type ReadBytes, ZipArchive } from "./zip.ts";

/** Limit of the pickle's size: enough for 100 000 tensors. */
const MAX_PICKLE_BYTES = 32_000_000;

/** PyTorch's limit of dimensions. */
const MAX_DIMENSIONS = 64;

/** The magic number of the legacy format, before zip. */
const LEGACY_MAGIC = 0x1950a86a20f9469cfc6cn;
const LEGACY_PROTOCOL = 1001;

/** An element type, given by the class of a storage or as a dtype. */
class ElementType {
	constructor(readonly dtype: StoredDtype) {}
}

/** A storage: elements in the file, of which tensors are views. */
class Storage {
	constructor(
		readonly key: string,
		readonly dtype: StoredDtype,
		readonly elements: number,
	) {}

	get bytes(): number {
		return this.elements * DTYPE_BITS[this.dtype] / 8;
	}
}

/** A tensor as described by the pickle; `place` checks each field. */
class View {
	constructor(
		readonly storage: unknown,
		readonly offset: unknown,
		readonly shape: unknown,
		readonly strides: unknown,
		/** The element type; that of the storage if absent. */
		readonly type?: unknown,
		/** Flags that the stored values are to be conjugated or negated. */
		readonly metadata?: unknown,
	) {}
}

const STORAGES: Record<string, StoredDtype> = {
	BoolStorage: "BOOL",
	ByteStorage: "U8",
	CharStorage: "I8",
	ShortStorage: "I16",
	IntStorage: "I32",
	LongStorage: "I64",
	HalfStorage: "F16",
	BFloat16Storage: "BF16",
	FloatStorage: "F32",
	DoubleStorage: "F64",
	ComplexFloatStorage: "C64",
	UntypedStorage: "U8",
	"storage.UntypedStorage": "U8",
};

/** The dtypes without a storage class, which their tensors name. */
const DTYPES: Record<string, StoredDtype> = {
	float8_e4m3fn: "F8_E4M3",
	float8_e4m3fnuz: "F8_E4M3FNUZ",
	float8_e5m2: "F8_E5M2",
	float8_e5m2fnuz: "F8_E5M2FNUZ",
	float8_e8m0fnu: "F8_E8M0",
	uint16: "U16",
	uint32: "U32",
	uint64: "U64",
};

/** All globals that weights refer to; the functions only describe tensors. */
const GLOBALS: PickleNames["globals"] = new Map<string, unknown>([
	...Object.entries({ ...STORAGES, ...DTYPES })
		.map(([name, dtype]) => [`torch.${name}`, new ElementType(dtype)] as const),
	["collections.OrderedDict", orderedDict],
	["torch.Size", ([sizes]: unknown[]) => sizes],
	[
		"torch._utils._rebuild_tensor",
		([storage, offset, shape, strides]: unknown[]) => new View(storage, offset, shape, strides),
	],
	[
		"torch._utils._rebuild_tensor_v2",
		([storage, offset, shape, strides, _grad, _hooks, metadata]: unknown[]) =>
			new View(storage, offset, shape, strides, undefined, metadata),
	],
	[
		"torch._utils._rebuild_tensor_v3",
		([storage, offset, shape, strides, _grad, _hooks, type, metadata]: unknown[]) =>
			new View(storage, offset, shape, strides, type, metadata),
	],
	["torch._utils._rebuild_parameter", ([data]: unknown[]) => data],
	["torch._utils._rebuild_parameter_with_state", ([data]: unknown[]) => data],
]);

/** The storage that a pickle refers to. */
function storageOf(id: unknown): Storage {
	const [kind, type, key, _device, elements, view = null] = Array.isArray(id) ? id : [];
	if (
		kind !== "storage" || !(type instanceof ElementType) || typeof key !== "string" ||
		!isSize(elements)
	) throw new FormatError("its pickle refers to something other than a storage of numbers");
	if (view !== null) {
		throw new FormatError(
			`its storage "${key}" is a part of another one, as in files of PyTorch before 0.4; ` +
				`save it with a newer version`,
		);
	}
	return new Storage(key, type.dtype, elements);
}

function orderedDict(parameters: unknown[]): PickleDict {
	if (parameters.length === 0) return new PickleDict();
	throw new FormatError("its pickle is one of Python 2; save it again with Python 3");
}

/**
 * Finds the tensors in a `state_dict()` saved by PyTorch's `torch.save()`, in the zip format or the
 * legacy one (before version 1.6). It does not read the tensors and, unlike PyTorch itself, runs no code
 * in the file. Entries that are not tensors are skipped.
 *
 * @returns The tensors by name, in the order of the state dict. They may share bytes and have strides.
 * @throws {UserError} If the file cannot be read, is damaged, or refers to Python objects that weights
 *   do not need.
 * @see https://docs.pytorch.org/docs/stable/notes/serialization.html
 */
export function readPytorch(source: SourceFile): Map<string, StoredTensor> {
	const { path } = source;
	using file = openFile(source);
	const { size } = file;
	const read: ReadBytes = (offset, bytes) => readRange(file, path, offset, bytes);
	try {
		const start = read(0, Math.min(size, 512));
		const foreign = foreignContent(new TextDecoder().decode(start));
		if (foreign !== undefined) throw new FormatError(foreign);
		const { state, locate } = start[0] === 0x50 && start[1] === 0x4b // "PK"
			? openZip(read, size)
			: start[0] === 0x80 // a pickle
			? openLegacy(read, size)
			: notPytorch(size);
		return tensorsOf(state, locate, path);
	} catch (error) {
		if (!(error instanceof FormatError)) throw error;
		throw new UserError(`Cannot read "${path}": ${error.message}`);
	}
}

/** The state dict of a file, and a function that locates storages in it. */
interface Opened {
	state: unknown;
	locate: (storage: Storage) => FileRange;
}

function notPytorch(size: number): never {
	throw new FormatError(
		`it has ${count(size)} that do not start as a file of torch.save(); download it again`,
	);
}

function openZip(read: ReadBytes, size: number): Opened {
	const archive = new ZipArchive(read, size);
	const pickles = archive.names.filter((name) => /^[^/]+\/data\.pkl$/.test(name));
	if (pickles.length !== 1) {
		throw new FormatError(
			`it is a zip archive with ${pickles.length} entries "*/data.pkl", not a file of torch.save()`,
		);
	}
	const folder = pickles[0].slice(0, -"data.pkl".length);
	const byteOrder = archive.locate(`${folder}byteorder`);
	if (byteOrder) {
		const text = new TextDecoder().decode(read(byteOrder.offset, Math.min(byteOrder.bytes, 20)));
		if (text !== "little") refuseByteOrder(JSON.stringify(text));
	}
	const pickle = archive.locate(pickles[0])!;
	if (pickle.bytes > MAX_PICKLE_BYTES) {
		throw new FormatError(
			`its data.pkl has ${bytesText(pickle.bytes)}, too many for a list of tensors`,
		);
	}
	const names = { globals: GLOBALS, persistentLoad: storageOf };
	const state = unpickle(read(pickle.offset, pickle.bytes), 0, names).value;
	const locate = (storage: Storage): FileRange => {
		const name = `${folder}data/${storage.key}`;
		const range = archive.locate(name);
		if (!range) throw new FormatError(`it lacks its entry "${name}"; download it again`);
		if (range.bytes !== storage.bytes) {
			throw new FormatError(
				`its entry "${name}" has ${count(range.bytes)}, but ${storage.elements} × ` +
					`${storage.dtype} need ${storage.bytes}; download it again`,
			);
		}
		return range;
	};
	return { state, locate };
}

/**
 * Opens the legacy format: consecutive pickles of a magic number, a version, the byte order, the state
 * dict and the keys of the storages; then each storage as its number of elements (64 bits) and its bytes.
 */
function openLegacy(read: ReadBytes, size: number): Opened {
	const bytes = read(0, Math.min(size, MAX_PICKLE_BYTES));
	const storages = new Map<unknown, Storage>();
	const names: PickleNames = {
		globals: GLOBALS,
		persistentLoad(id) {
			const storage = storageOf(id);
			storages.set(storage.key, storage);
			return storage;
		},
	};
	let end = 0;
	const next = (): unknown => {
		const { value, end: after } = unpickle(bytes, end, names);
		end = after;
		return value;
	};
	if (next() !== LEGACY_MAGIC) {
		throw new FormatError(
			"it is a pickle, but not of torch.save(); use weights that are saved as safetensors",
		);
	}
	const version = next();
	if (version !== LEGACY_PROTOCOL) {
		throw new FormatError(
			"it has an unknown version of PyTorch's format before zip; save it with a newer PyTorch",
		);
	}
	const system = next();
	if (system instanceof PickleDict && system.get("little_endian") === false) {
		refuseByteOrder('"big"');
	}
	const state = next();
	const keys = next();
	if (!Array.isArray(keys)) throw new FormatError("it has no list of storages; download it again");
	const places = new Map<string, FileRange>();
	for (const key of keys) {
		const storage = storages.get(key);
		if (!storage) {
			throw new FormatError("it lists a storage that it does not contain; download it again");
		}
		const offset = end + 8;
		if (offset + storage.bytes > size) {
			throw new FormatError(`it lacks ${count(offset + storage.bytes - size)}; download it again`);
		}
		const elements = new DataView(read(end, 8).buffer).getBigInt64(0, true);
		if (elements !== BigInt(storage.elements)) {
			throw new FormatError(
				`its storage "${key}" has ${elements} elements at byte ${end}, but should have ` +
					`${storage.elements}; download it again`,
			);
		}
		places.set(storage.key, { offset, bytes: storage.bytes });
		end = offset + storage.bytes;
	}
	const locate = ({ key, bytes }: Storage): FileRange => {
		const place = places.get(key);
		if (place?.bytes !== bytes) {
			throw new FormatError(`it lacks its storage "${key}"; download it again`);
		}
		return place;
	};
	return { state, locate };
}

function refuseByteOrder(found: string): never {
	throw new FormatError(
		`its byte order is ${found}, but only "little" is supported; save it on another computer`,
	);
}

function tensorsOf(
	state: unknown,
	locate: Opened["locate"],
	path: string,
): Map<string, StoredTensor> {
	if (!(state instanceof PickleDict)) {
		throw new FormatError("it holds no dictionary of tensors; save a state_dict()");
	}
	const tensors = new Map<string, StoredTensor>();
	const others: unknown[] = [];
	for (let i = 0; i < state.items.length; i += 2) {
		const [name, value] = state.items.slice(i, i + 2);
		if (!(value instanceof View)) {
			others.push(name);
		} else if (typeof name === "string") {
			tensors.set(name, { name, file: path, ...place(name, value, locate) });
		} else {
			throw new FormatError("the name of a tensor in it is not a string");
		}
	}
	if (tensors.size === 0 && others.length > 0) {
		const names = others.filter((name) => typeof name === "string").slice(0, 3);
		throw new FormatError(
			`its dictionary holds no tensors, but ${names.map((name) => `"${name}"`).join(", ")}; ` +
				`save the state_dict() alone`,
		);
	}
	return tensors;
}

/** The place of a tensor in the file, after checking its fields. */
function place(
	name: string,
	{ storage, offset, shape, strides, type, metadata }: View,
	locate: Opened["locate"],
): Pick<StoredTensor, "dtype" | "shape" | "offset" | "bytes" | "strides"> {
	const tensor = `tensor "${name}"`;
	if (
		!(storage instanceof Storage) || !(type === undefined || type instanceof ElementType) ||
		!isSize(offset) || !isSizes(shape) || !isSizes(strides) || shape.length !== strides.length
	) {
		throw new FormatError(`${tensor} is not described by a storage, a shape and strides`);
	}
	if (metadata instanceof PickleDict && metadata.items.length > 0) {
		throw new FormatError(`${tensor} is stored as its conjugate or negative; save it resolved`);
	}
	const dtype = type?.dtype ?? storage.dtype;
	const width = DTYPE_BITS[dtype] / 8;
	const range = locate(storage);
	const bytes = shape.reduce((product, size) => product * size, width);
	if (shape.includes(0)) return { dtype, shape, offset: range.offset, bytes: 0 };

	const described = `${tensor}, ${dtype} [${shape.join(", ")}] with strides [${
		strides.join(", ")
	}] from element ${offset},`;
	const last = shape.reduce((sum, size, i) => sum + (size - 1) * strides[i], offset);
	if ((last + 1) * width > storage.bytes) {
		throw new FormatError(`${described} reaches beyond its storage of ${count(storage.bytes)}`);
	}
	if (bytes > storage.bytes) { // with strides of 0, few bytes could claim any number of elements
		throw new FormatError(`${described} repeats elements of its storage; save it as contiguous`);
	}
	const start = { dtype, shape, offset: range.offset + offset * width, bytes };
	return isRowMajor(shape, strides) ? start : { ...start, strides };
}

function isRowMajor(shape: number[], strides: number[]): boolean {
	let step = 1;
	return shape.toReversed().every((size, i) => {
		const ok = size === 1 || strides.at(-1 - i) === step;
		step *= size;
		return ok;
	});
}

function isSize(value: unknown): value is number {
	return Number.isSafeInteger(value) && value as number >= 0;
}

function isSizes(value: unknown): value is number[] {
	return Array.isArray(value) && value.length <= MAX_DIMENSIONS && value.every(isSize);
}
