import assert from "node:assert/strict";
import { constant } from "~/gpu/constant.ts";
import { openGpu } from "./open_gpu.ts";

Deno.test("constant() uploads a list once for each device", async () => {
	const [gpu, other] = [await openGpu(), await openGpu()];
	const data = Float32Array.of(1, 0.5, -2);
	const first = constant(gpu, data);
	gpu.free(first); // a view: it stays
	data[0] = 7; // a list of its own from here on
	const second = constant(gpu, data);
	assert.equal(constant(gpu, Float32Array.of(1, 0.5, -2)), first);
	assert.equal(constant(gpu, Float32Array.of(7, 0.5, -2)), second);
	assert.deepEqual([...await gpu.read(first)], [1, 0.5, -2]);
	assert.deepEqual([...await gpu.read(second)], [7, 0.5, -2]);
	assert.deepEqual([...await gpu.read(constant(gpu, Float32Array.of(1)))], [1]);
	assert.deepEqual([...await other.read(constant(other, data))], [7, 0.5, -2]);
});
