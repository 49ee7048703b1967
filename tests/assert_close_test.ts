import assert from "node:assert/strict";
import { assertClose } from "./assert_close.ts";

Deno.test("assertClose() accepts what is within abs + rel · |expected|", () => {
	assertClose([1, 2, Infinity], [1, 2, Infinity]);
	assertClose([1.09], [1], { abs: 0.1 });
	assertClose([109], [100], { rel: 0.1 });
	assertClose([-119], [-100], { abs: 10, rel: 0.1 });
	assertClose([], []);
});

Deno.test("assertClose() names the worst entry", () => {
	assert.throws(() => assertClose([1, 5, 3], [1, 2, 2], { abs: 0.5, what: "sums" }), {
		message: "sums: 2 of 3 entries are off, worst at 1: 5, expected 2 (abs 0.5, rel 0)",
	});
});

Deno.test("assertClose() never accepts NaN, a wrong infinity or a wrong length", () => {
	const tolerance = { abs: 1e9, rel: 1e9 };
	assert.throws(() => assertClose([0, NaN], [0, 0], tolerance), /worst at 1: NaN, expected 0/);
	assert.throws(() => assertClose([NaN], [NaN], tolerance), /worst at 0: NaN, expected NaN/);
	assert.throws(() => assertClose([0], [NaN], tolerance), /worst at 0: 0, expected NaN/);
	assert.throws(() => assertClose([Infinity], [1], tolerance), /worst at 0: Infinity/);
	assert.throws(() => assertClose([1], [-Infinity], tolerance), /expected -Infinity/);
	assert.throws(() => assertClose([1], [1, 2]), { message: "values: 1 entries, expected 2" });
});
