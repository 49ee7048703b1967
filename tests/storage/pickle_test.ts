import assert from "node:assert/strict";
import { join } from "node:path";
import { fixtureFolder } from "../fixture.ts";
import { PickleDict, type PickleNames, unpickle } from "~/storage/pickle.ts";
import { FormatError } from "~/storage/safetensors.ts";
import { bytes, call, dict, global, integer, little, pickle, text, tuple } from "./pytorch_file.ts";

const DATA = fixtureFolder("pytorch");

/** Keeps what it is given. */
class Call {
	constructor(readonly parameters: unknown) {}
}

const NAMES: PickleNames = {
	globals: new Map<string, unknown>([
		["collections.OrderedDict", () => new PickleDict()],
		["some.function", (parameters: unknown[]) => new Call(parameters)],
		["some.value", "value"],
	]),
	persistentLoad: (id) => new Call(id),
};

function valueOf(content: Uint8Array<ArrayBuffer>): unknown {
	return unpickle(content, 0, NAMES).value;
}

/** What is said of a pickle of protocol 2 with these instructions; it must be refused. */
function refusal(...instructions: (string | number | Uint8Array)[]): string {
	try {
		valueOf(pickle(bytes(...instructions)));
	} catch (error) {
		if (!(error instanceof FormatError)) throw error;
		return error.message;
	}
	throw new assert.AssertionError({ message: `Not refused: ${instructions}` });
}

/** A dictionary as a Map. */
function mapOf(value: unknown): Map<unknown, unknown> {
	assert.ok(value instanceof PickleDict);
	const map = new Map<unknown, unknown>();
	for (let i = 0; i < value.items.length; i += 2) map.set(value.items[i], value.items[i + 1]);
	return map;
}

for (const protocol of [2, 3, 4, 5]) {
	Deno.test(`values that Python pickled by protocol ${protocol} are read`, () => {
		const file = Deno.readFileSync(join(DATA, `values-${protocol}.pkl`));
		const values = mapOf(valueOf(file));
		assert.deepEqual(values.get("integers"), [
			...[0, 255, 256, 65536, -1, -(2 ** 31), 2 ** 31, Number.MAX_SAFE_INTEGER],
			...[2n ** 53n, -(2n ** 63n), 2n ** 80n],
		]);
		assert.deepEqual(values.get("floats"), [0.1, -1e300]);
		assert.deepEqual(values.get("texts"), ["", "ü中😀", "\ufeffx", "x".repeat(300)]);
		assert.deepEqual(values.get("tuples"), [[], [1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]);
		assert.deepEqual(values.get("others"), [true, false, null]);
		assert.deepEqual(
			mapOf(values.get("dict")),
			new Map<unknown, unknown>([
				["a", new PickleDict()],
				[1, "one"],
			]),
		);
		const [first, second] = values.get("twice") as unknown[];
		assert.deepEqual(first, ["s"]);
		assert.equal(first, second); // one object
		assert.deepEqual(mapOf(values.get("ordered")), new Map([["k", 2]]));
		if (protocol > 2) {
			const expected = [[], [0, 255], Array(300).fill(0x78)].map((list) => Uint8Array.from(list));
			assert.deepEqual(values.get("bytes"), expected);
		}
		if (protocol > 3) assert.deepEqual(values.get("sets"), [[1], [2]]);
	});
}

Deno.test("a pickle ends where it says, and the next may follow", () => {
	const both = bytes(1, 2, pickle(text("a")), pickle(text("b")));
	const first = unpickle(both, 2, NAMES);
	assert.deepEqual(first, { value: "a", end: 2 + pickle(text("a")).length });
	assert.deepEqual(unpickle(both, first.end, NAMES), { value: "b", end: both.length });
});

Deno.test("what a pickle names, calls and refers to is what it is told", () => {
	const value = valueOf(pickle(tuple(
		global("some", "value"),
		call(global("some", "function"), integer(-3), text("x")),
		bytes(text("some"), text("value"), 0x93), // STACK_GLOBAL
		bytes(text("id"), "Q"),
	)));
	assert.deepEqual(value, ["value", new Call([-3, "x"]), "value", new Call("id")]);
});

Deno.test("texts of Python 2, stack and memo instructions are followed", () => {
	assert.equal(valueOf(pickle(bytes("U", 2, "ab"))), "ab");
	assert.equal(valueOf(pickle(bytes("T", little(3, 4), "abc"))), "abc");
	assert.deepEqual(valueOf(pickle(bytes("(", integer(1), "2", integer(2), "0", "t"))), [1, 1]);
	assert.deepEqual(valueOf(pickle(bytes("]((", integer(1), "1", "00", "]", integer(7), "a"))), [7]);
	const kept = bytes("(", text("a"), "r", little(70000, 4), "0j", little(70000, 4), "t");
	assert.deepEqual(valueOf(pickle(kept)), ["a"]);
	assert.deepEqual(mapOf(valueOf(pickle(bytes("}", text("a"), "K", 1, "s")))), new Map([["a", 1]]));
});

Deno.test("attributes of a dictionary are dropped", () => {
	const metadata = dict({ _metadata: dict({ version: integer(1) }) });
	const built = bytes(call(global("collections", "OrderedDict")), metadata, "b");
	assert.deepEqual(valueOf(pickle(built)), new PickleDict());
});

Deno.test("of two equal keys the later counts", () => {
	const value = valueOf(pickle(bytes("}(", text("a"), "K", 1, text("a"), "K", 2, "u")));
	assert.ok(value instanceof PickleDict);
	assert.equal(value.get("a"), 2);
	assert.equal(value.get("b"), undefined);
});

Deno.test("whatever else a pickle names is refused by name, in each form", () => {
	const wanted = (name: string) =>
		`its pickle wants "${name}", which is not part of weights and might run a program; ` +
		`use weights that are saved as safetensors`;
	assert.equal(refusal(global("posix", "system")), wanted("posix.system"));
	assert.equal(refusal(text("posix"), text("system"), 0x93), wanted("posix.system"));
	assert.equal(refusal("(", text("touch x"), "iposix\nsystem\n"), wanted("posix.system"));
	const nested = dict({ a: call(global("builtins", "eval"), text("1")) });
	assert.equal(refusal(nested), wanted("builtins.eval"));
	for (const [module, name] of [["__proto__", "constructor"], ["constructor", "name"], ["", ""]]) {
		assert.equal(refusal(global(module, name)), wanted(`${module}.${name}`));
	}
	assert.equal(refusal(text("a".repeat(300)), text('"\n'), 0x93), wanted("a".repeat(200)));
});

Deno.test("other ways to make objects are refused, also of what may be named", () => {
	const instructions: [string, number, (string | number | Uint8Array)[]][] = [
		["INST", 0x69, ["(", "isome\nfunction\n"]],
		["OBJ", 0x6f, ["(", global("some", "function"), "o"]],
		["NEWOBJ", 0x81, [global("some", "function"), ")", 0x81]],
		["NEWOBJ_EX", 0x92, [global("some", "function"), ")", "}", 0x92]],
		["EXT1", 0x82, [0x82, 1]],
		["EXT2", 0x83, [0x83, 1, 0]],
		["EXT4", 0x84, [0x84, 1, 0, 0, 0]],
		["PERSID", 0x50, ["Pkey\n"]],
		["BYTEARRAY8", 0x96, [0x96, little(0, 8)]],
		["NEXT_BUFFER", 0x97, [0x97]],
		["INT", 0x49, ["I1\n"]],
		["DICT", 0x64, ["(d"]],
		["LONG4", 0x8b, [0x8b, little(1, 4), 1]],
		["none", 0x00, [0]],
	];
	for (const [name, code, pieces] of instructions) {
		const found = refusal(...pieces).replace(/ at byte \d+/, "");
		const hex = `0x${code.toString(16).padStart(2, "0")}`;
		const expected = `its pickle has the instruction ${hex}, which is not part of weights; ` +
			`download it again or use weights that are saved as safetensors`;
		assert.equal(found, expected, name);
	}
});

Deno.test("only functions that are named are called, and only with a tuple", () => {
	const problem = "it calls what is no function";
	for (
		const pieces of [
			[text("x"), ")R"],
			[global("some", "value"), ")R"],
			["})R"],
			[global("some", "function"), "NR"],
			[global("some", "function"), "}R"],
		]
	) assert.ok(refusal(...pieces).includes(`(${problem})`), refusal(...pieces));
});

Deno.test("a damaged pickle is refused with its place", () => {
	const cases: [problem: string, ...pieces: (string | number | Uint8Array)[]][] = [
		["a value is missing"],
		["a value is missing", 0x85],
		["a value is missing", "N", 0x86],
		["a value is missing", "R"],
		["a value is missing", "q", 1],
		["a value is missing", "2"],
		["a value is missing", "Q"],
		["a value is missing", "(", "b"],
		["a mark is missing", "t"],
		["a mark is missing", "0"],
		["it stops too early", "NN"],
		["it stops too early", "(N"],
		["there is no value 7", "h", 7],
		["there is no value 4294967295", "j", little(-1, 4)],
		["it appends to what is no list", "}Na"],
		["it appends to what is no list", "}(Ne"],
		["it sets items of what has none", "]NNs"],
		["a key has no value", "}(Nu"],
		["it sets attributes of what has none", "]Nb"],
		["a name does not end", "cposix"],
		["a name does not end", "c", "x".repeat(300), "\nsystem\n"],
		["a name is no text", "NN", 0x93],
		["a text is not UTF-8", "X", little(1, 4), 0xff],
		["a number has 255 bytes", 0x8a, 255],
		["it ends early", "X", little(100, 4), "x"],
		["it ends early", 0x8d, little(-1, 8)], // a length of 2⁶⁴ - 1
		["it ends early", 0x8e, little(2n ** 53n, 8)],
		["it ends early", "G"],
		["it ends early", 0x95],
	];
	for (const [problem, ...pieces] of cases) {
		const found = refusal(...pieces);
		const expected = `its pickle is damaged near byte N (${problem}); download it again`;
		assert.equal(found.replace(/byte \d+/, "byte N"), expected);
	}
	assert.ok(refusal("NN").includes("near byte 5 "));
	const error = new FormatError("its pickle has the unknown protocol 6");
	assert.throws(() => valueOf(bytes(0x80, 6, "N.")), error);
});

Deno.test("every part of a pickle that lacks its end is refused", () => {
	for (const protocol of [2, 4]) {
		const file = Deno.readFileSync(join(DATA, `values-${protocol}.pkl`));
		for (let length = 0; length < file.length; length++) {
			assert.throws(() => valueOf(file.slice(0, length)), FormatError, `${length} bytes`);
		}
	}
});

Deno.test("a pickle without end costs little", () => {
	const problem = new FormatError(
		"its pickle has more than 5000000 instructions, too many for a list of tensors",
	);
	const memory = Deno.memoryUsage().rss;
	for (const op of ["(", "}"]) { // marks and dictionaries
		const endless = new Uint8Array(6_000_000).fill(op.charCodeAt(0));
		assert.throws(() => valueOf(endless), problem);
	}
	const grown = Deno.memoryUsage().rss - memory;
	assert.ok(grown < 1.5e9, `${grown} bytes`);
});

Deno.test("a list that holds itself is read", () => {
	const list = valueOf(pickle(bytes("]q", 0, "h", 0, "a"))) as unknown[];
	assert.equal(list[0], list);
});
