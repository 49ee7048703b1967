import assert from "node:assert/strict";
import { startTask } from "../start_task.ts";

Deno.test("bench:products measures the forms of linear layers and variants of their kernels", async () => {
	const args = ["--form", "trellis-2", "--shape", "32x128", "--runs", "1"];
	const { code, stdout, stderr } = await startTask("bench/products", args);
	assert.deepEqual([code, stderr], [0, ""]);
	const [title, , shape, head, ...lines] = stdout.trim().split("\n");
	assert.match(title, /median of 1 runs$/);
	assert.equal(shape, "32 x 128");
	assert.match(head, /^form +variant +µs +GB\/s +of billm/);
	assert.match(lines.join("\n"), /^trellis-2 .* as in a model$/m);
	assert.match(lines.join("\n"), /^trellis-2 +entries, 4 parts, 2 bands, /m);
	assert.doesNotMatch(stdout, /NaN|Infinity/);
});
