import assert from "node:assert/strict";
import { globTest } from "../../base/glob.ts";

Deno.test("a pattern fits whole names: * any characters, ? one, all else itself", () => {
	const name = "model.layers.10.mlp.down_proj";
	for (const pattern of [name, "*", "*.down_proj", "model.layers.1?.*", "*mlp*", "m*.10.*j"]) {
		assert.ok(globTest(pattern)(name), pattern);
	}
	for (const pattern of ["", "down_proj", "*.down", "model.layers.?.*", "*.mlp+*", "*.MLP.*"]) {
		assert.ok(!globTest(pattern)(name), pattern);
	}
	assert.ok(!globTest("a.b")("axb"));
	assert.ok(globTest("a[0](^$|+)\\")("a[0](^$|+)\\"));
});
