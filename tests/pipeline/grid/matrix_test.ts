import assert from "node:assert/strict";
import { matrixCells } from "../../../pipeline/grid/matrix.ts";

/** The names of the cells of a matrix that is good. */
function names(matrix: unknown): string[] {
	const { cells, issues } = matrixCells(matrix);
	assert.deepEqual(issues, []);
	return cells.map(({ name }) => name);
}

/** The values of the cells of a matrix that is good. */
function values(matrix: unknown): Record<string, unknown>[] {
	const { cells, issues } = matrixCells(matrix);
	assert.deepEqual(issues, []);
	return cells.map(({ values }) => values);
}

Deno.test("matrixCells() combines all values, the first key varying slowest", () => {
	assert.deepEqual(
		values({ model: ["a", "b"], seed: [1, 2, 3] }),
		["a", "b"].flatMap((model) => [1, 2, 3].map((seed) => ({ model, seed }))),
	);
});

// The keys of the example in GitHub's documentation, in the places that a pipeline has.
const [fruit, animal, color, shape] = [
	"model",
	"stages.s.animal",
	"stages.s.color",
	"stages.s.shape",
];

Deno.test("include does what GitHub documents of its own example", () => {
	const cells = values({
		[fruit]: ["apple", "pear"],
		[animal]: ["cat", "dog"],
		include: [
			{ [color]: "green" },
			{ [color]: "pink", [animal]: "cat" },
			{ [fruit]: "apple", [shape]: "circle" },
			{ [fruit]: "banana" },
			{ [fruit]: "banana", [animal]: "cat" },
		],
	});
	assert.deepEqual(cells, [
		{ [fruit]: "apple", [animal]: "cat", [color]: "pink", [shape]: "circle" },
		{ [fruit]: "apple", [animal]: "dog", [color]: "green", [shape]: "circle" },
		{ [fruit]: "pear", [animal]: "cat", [color]: "pink" },
		{ [fruit]: "pear", [animal]: "dog", [color]: "green" },
		{ [fruit]: "banana" },
		{ [fruit]: "banana", [animal]: "cat" },
	]);
});

Deno.test("exclude does what GitHub documents: all that an entry says must hold, include comes later", () => {
	const [os, version, environment] = ["model", "seed", "stages.s.environment"];
	const matrix = {
		[os]: ["macos", "windows"],
		[version]: [12, 14, 16],
		[environment]: ["staging", "production"],
		exclude: [
			{ [os]: "macos", [version]: 12, [environment]: "production" },
			{ [os]: "windows", [version]: 16 },
		],
	};
	const all = ["macos", "windows"].flatMap((a) =>
		[12, 14, 16].flatMap((b) =>
			["staging", "production"].map((c) => ({ [os]: a, [version]: b, [environment]: c }))
		)
	);
	const left = all.filter((cell) =>
		!(cell[os] === "macos" && cell[version] === 12 && cell[environment] === "production") &&
		!(cell[os] === "windows" && cell[version] === 16)
	);
	assert.equal(left.length, 9);
	assert.deepEqual(values(matrix), left);
	const back = { [os]: "windows", [version]: 16 };
	assert.deepEqual(values({ ...matrix, include: [back] }), [...left, back]);
});

Deno.test("include alone makes one cell of each entry", () => {
	assert.deepEqual(values({ include: [{ model: "a", seed: 1 }, { model: "b" }] }), [
		{ model: "a", seed: 1 },
		{ model: "b" },
	]);
});

Deno.test("a variant stands for several values and is meant by its name", () => {
	const { cells, issues } = matrixCells({
		model: ["a", "b"],
		method: [
			{ name: "rtn-2", stages: ["download"], "stages.download.revision": "x" },
			{ name: "plain" },
		],
		exclude: [{ model: "b", method: "rtn-2" }],
		include: [
			{ method: "plain", seed: 3 },
			{ model: "a", method: { name: "new", mode: "reference" } },
		],
	});
	assert.deepEqual(issues, []);
	assert.deepEqual(cells.map(({ name, values }) => [name, values]), [
		["a,rtn-2", { model: "a", method: "rtn-2" }],
		["a,plain", { model: "a", method: "plain", seed: 3 }],
		["b,plain", { model: "b", method: "plain", seed: 3 }],
		["a,new", { model: "a", method: "new" }],
	]);
	assert.deepEqual(cells[0].settings, [
		{ name: "model", path: ["matrix", "model", 0] },
		{ name: "stages", path: ["matrix", "method", 0, "stages"] },
		{
			name: "stages.download.revision",
			path: ["matrix", "method", 0, "stages.download.revision"],
		},
	]);
	assert.deepEqual(cells[3].settings.map(({ path }) => path), [
		["matrix", "model", 0],
		["matrix", "include", 1, "method", "mode"],
	]);
});

Deno.test("wide settings come before the narrow ones that go into them", () => {
	const { cells } = matrixCells({ "stages.pack.scales": ["f16"], x: [{ name: "y", stages: [] }] });
	assert.deepEqual(cells[0].settings.map(({ name }) => name), ["stages", "stages.pack.scales"]);
});

Deno.test("cells are named after their values", () => {
	for (
		const [matrix, expected] of [
			[{ model: ["examples/models/tiny-llama", "facebook/opt-125m/"] }, ["tiny-llama", "opt-125m"]],
			[{ model: ["a/tiny", "b/tiny", "c"] }, ["a-tiny", "b-tiny", "c"]],
			[{ model: ["./x/../m", "Größe 7"] }, ["m", "Gr-e-7"]],
			[{ model: ["日本", "日本語"] }, ["1", "2"]],
			[{ model: ["a/M", "b/m"] }, ["a-M", "b-m"]],
			[{ "stages.calibrate.samples": [32, 64] }, ["samples-32", "samples-64"]],
			[{ "stages.hessian.damping": [0.01, 1e-7] }, ["damping-0.01", "damping-1e-7"]],
			[{ "stages.a.bits": [1], "stages.b.bits": [2] }, ["a.bits-1,b.bits-2"]],
			[{ "stages.calibrate.dataset": ["c4", "texts/a.txt"] }, ["dataset-c4", "dataset-a.txt"]],
			[{ "stages.evaluate.original": [true, false] }, ["original-true", "original-false"]],
			[{ "stages.split-search": [{ candidates: 5 }, null] }, [
				"split-search-1",
				"split-search-null",
			]],
			[{ mode: ["default", "reference"] }, ["mode-default", "mode-reference"]],
			[{ include: [{ model: "a", seed: 1 }, { model: "a", seed: 2 }] }, ["a,seed-1", "a,seed-2"]],
			[{ model: ["a"], include: [{ model: "b", seed: 1 }, { model: "b", seed: 2 }] }, [
				"a",
				"b,seed-1",
				"b,seed-2",
			]],
		] as [unknown, string[]][]
	) assert.deepEqual(names(matrix), expected);
});

Deno.test("names are unique and safe as folder names, whatever the values", () => {
	const models = [
		"a b",
		"a-b",
		"a/b",
		"A-B",
		"..",
		".",
		"",
		"x".repeat(300),
		"x".repeat(301),
		"1",
		"2",
	];
	const seen = names({
		model: models,
		"stages.s.text": ["../../etc", "C:\\x", "a\nb", "$(rm)", "-rf"],
		include: [{ seed: 1 }, { model: "text-rf" }, { "stages.s.text": "text-rf" }],
	});
	assert.equal(seen.length, 57);
	assert.equal(new Set(seen.map((name) => name.toLowerCase())).size, seen.length);
	for (const name of seen) {
		assert.match(name, /^[A-Za-z0-9][A-Za-z0-9._,-]*$/, name);
		assert.ok(name.length <= 124, name);
	}
});

Deno.test("adding values at the end changes no name that was there", () => {
	const before = names({ model: ["m/a", "m/b"], seed: [1, 2] });
	const after = names({ model: ["m/a", "m/b", "m/c"], seed: [1, 2, 3] });
	for (const name of before) assert.ok(after.includes(name));
});

Deno.test("matrixCells() says what is wrong, and where", () => {
	const own = ' (a key of your own must have a list of maps, each with a "name")';
	const known = "known keys: model, recipe, seed, mode, gpu, stages";
	for (
		const [matrix, ...expected] of [
			[3, 'matrix: matrix must be a map of lists, such as "model: [a, b]", found 3'],
			[{}, "matrix: matrix gives no cell: it has no values"],
			[{ include: [] }, "matrix: matrix gives no cell: it has no values"],
			[
				{ model: "a" },
				'matrix.model: matrix.model must be a list of values, found "a"',
			],
			[{ model: [] }, "matrix.model: matrix.model must not be empty, found []"],
			[
				{ modell: ["a", "b"] },
				`matrix.modell: Unknown key "modell" in matrix; did you mean "model"?${own}`,
			],
			[
				{ inclued: [{ model: "a" }] },
				`matrix.inclued: Unknown key "inclued" in matrix; did you mean "include"?${own}`,
			],
			[
				{ "stage.pack.scales": ["f16"] },
				'matrix.stage.pack.scales: Unknown key "stage.pack.scales" in matrix; did you mean "stages"?',
			],
			[
				{ "stages..scales": ["f16"] },
				'matrix.stages..scales: Key "stages..scales" in matrix must be a path such as ' +
				'"stages.calibrate.samples"',
			],
			[
				{ output: ["a", "b"] },
				'matrix.output: "output" cannot vary: every cell has the grid\'s own',
			],
			[{ seed: [1, 2, 1] }, "matrix.seed.2: matrix.seed has 1 twice"],
			[
				{ x: [{ name: "a" }, { name: "A" }, { mode: "reference" }, 5, { name: "a/b" }] },
				'matrix.x.1.name: matrix.x has the name "A" twice',
				'matrix.x.2: matrix.x.2 lacks "name": what its cells are called',
				'matrix.x.3: matrix.x.3 must be a map with a "name" and the values that it sets, found 5',
				'matrix.x.4.name: matrix.x.4.name must be letters, digits, ".", "_" and "-", beginning with ' +
				'a letter or digit, found "a/b"',
			],
			[
				{ x: [{ name: "a", mdoe: "reference", output: "b" }] },
				'matrix.x.0.mdoe: Unknown key "mdoe" in matrix.x.0; did you mean "mode"?',
				'matrix.x.0.output: "output" cannot vary: every cell has the grid\'s own',
			],
			[
				{ model: ["a"], exclude: { model: "a" } },
				'matrix.exclude: matrix.exclude must be a list of maps, found {"model":"a"}',
			],
			[
				{ model: ["a"], exclude: [{}, { seed: 1 }, { model: "b" }] },
				"matrix.exclude.0: matrix.exclude.0 must be a map of values, found {}",
				'matrix.exclude.1.seed: matrix.exclude.1 names "seed", which is no key of matrix; ' +
				"its keys: model",
				"matrix.exclude.2.model: matrix.exclude.2.model is none of the values of matrix.model, " +
				'found "b"; they are: a',
			],
			[
				{ method: [{ name: "plain" }, { name: "other" }], include: [{ method: "plan" }] },
				"matrix.include.0.method: matrix.include.0.method is none of the values of matrix.method, " +
				'found "plan"; did you mean "plain"?',
			],
			[
				{ method: [{ name: "plain" }], include: [{ method: { name: "plain" } }] },
				'matrix.include.0.method.name: matrix.include.0.method has the name "plain" of another; ' +
				'write "method: plain" to mean that one',
			],
			[
				{ model: ["a"], include: [{ what: 3 }] },
				`matrix.include.0.what: Unknown key "what" in matrix.include.0; ${known}`,
			],
			[
				{ model: ["a"], include: [{ model: "b" }, { model: "b" }] },
				"matrix.include.1: matrix.include.1 is the same cell as matrix.include.0",
			],
			[
				{ model: ["a"], exclude: [{ model: "a" }] },
				"matrix: matrix gives no cell: exclude leaves no combination",
			],
			[
				{ mode: ["default"], method: [{ name: "x", mode: "reference" }] },
				'matrix.method.0.mode: Cell "mode-default,x" has "mode" set twice; leave one of them out',
			],
			[
				{
					model: Array.from({ length: 40 }, (_, i) => `m${i}`),
					seed: Array.from({ length: 40 }, (_, i) => i),
				},
				"matrix: matrix has 1600 combinations; at most 1000 can be run",
			],
		] as [unknown, ...string[]][]
	) {
		const { issues } = matrixCells(matrix);
		const found = issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
		assert.deepEqual(found, expected);
	}
});
