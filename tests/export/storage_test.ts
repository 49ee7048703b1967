import assert from "node:assert/strict";
import type { EqualSteps } from "../../codecs/equal_steps.ts";
import { storageOf } from "../../export/gguf/storage.ts";
import type { Matrix } from "../../export/source.ts";

/** One row of a linear layer with these codes. */
function linear(
	cols: number,
	form: Partial<EqualSteps> & { bits: number; zeros: Float32Array },
): Matrix {
	const groups = form.zeros.length;
	const steps: EqualSteps = {
		rows: 1,
		cols,
		topCode: 2 ** form.bits - 1,
		groupSize: cols / groups,
		scales: new Float32Array(groups).fill(0.25),
		readCodes() {},
		...form,
	};
	const open = () => ({ steps, values: () => new Float32Array(cols) });
	return { name: "a.b", rows: 1, cols, dtype: undefined, isLinear: true, open };
}

function typeOf(matrix: Matrix, types?: string[]): string {
	const { storage, misfit } = storageOf([{ matrix }], types);
	return misfit ? misfit.problem : storage.type.name;
}

const zeros = (...values: number[]) => Float32Array.from(values);

/** SmolLM2-135M has rows of 576 and 1536 columns. */
const WIDTHS = [576, 1536];

Deno.test("linear layers take the smallest type that holds their codes and width", () => {
	const cases: [form: Parameters<typeof linear>[1], types: string[]][] = [
		[{ bits: 1, zeros: zeros(0.5) }, ["Q2_0", "Q1_0"]],
		[{ bits: 2, topCode: 2, zeros: zeros(1) }, ["Q2_0", "Q2_0"]],
		[{ bits: 2, zeros: zeros(1, 2, 1) }, ["Q2_0", "Q2_0"]],
		[{ bits: 2, zeros: zeros(0) }, ["Q4_0", "Q2_K"]],
		[{ bits: 2, zeros: zeros(1.5) }, ["Q4_0", "Q2_K"]],
		[{ bits: 3, zeros: zeros(3) }, ["Q4_0", "Q3_K"]],
		[{ bits: 3, zeros: zeros(7) }, ["Q4_0", "Q4_0"]],
		[{ bits: 4, zeros: zeros(8) }, ["Q4_0", "Q4_0"]],
		[{ bits: 4, zeros: zeros(7) }, ["Q4_0", "Q4_0"]],
		[{ bits: 4, zeros: zeros(3) }, ["Q5_0", "Q5_0"]],
		[{ bits: 8, zeros: zeros(128) }, ["Q8_0", "Q8_0"]],
	];
	for (const [form, types] of cases) {
		const found = WIDTHS.map((cols) => typeOf(linear(cols, form)));
		assert.deepEqual(found, types, JSON.stringify(form));
	}
});

Deno.test("types that are asked for are refused where rows or groups do not fit", () => {
	const sign = { bits: 1, zeros: zeros(0.5) };
	for (const [type, size] of [["Q1_0", 128], ["TQ1_0", 256], ["TQ2_0", 256]]) {
		const problem = `${type} takes rows of a multiple of ${size} columns, not 576`;
		assert.equal(typeOf(linear(576, sign), [`${type}`]), problem);
		assert.equal(typeOf(linear(1536, sign), [`${type}`]), type);
	}
	const grouped = linear(1536, { bits: 2, zeros: zeros(...new Array(48).fill(1)) });
	assert.equal(typeOf(grouped, ["Q2_0"]), "Q2_0 takes a scale for 64 columns, not for 32");
	assert.equal(typeOf(grouped), "Q4_0");
});

Deno.test("codes that no type holds are refused with what would map", () => {
	const refused = (matrix: Matrix) => storageOf([{ matrix }], undefined).misfit!;
	const free = refused(linear(1536, { bits: 4, zeros: zeros(7.3) }));
	assert.equal(free.problem, "its zeros are any numbers");
	assert.match(free.remedy, /zeros: middle/);
	const large = refused(linear(1536, { bits: 4, zeros: zeros(8), scales: zeros(1e6) }));
	assert.equal(large.problem, "f16 cannot hold its scales");
	const odd = refused(linear(100, { bits: 4, zeros: zeros(8) }));
	assert.match(odd.problem, /Q8_0 takes rows of a multiple of 32 columns, not 100/);
	const groupOf = Uint32Array.from({ length: 1536 }, (_, i) => i % 2);
	const mixed = refused(linear(1536, { bits: 4, zeros: zeros(8, 8), groupOf }));
	assert.match(mixed.remedy, /order: static/);
	assert.equal(mixed.instead, "F16, dequantized");
});
