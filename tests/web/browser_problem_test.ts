import assert from "node:assert/strict";
import { browserProblem } from "../../web/browser_problem.ts";

/** A browser whose adapter has some limits; null for one without adapter. */
function browserWith(limits: Partial<GPUSupportedLimits> | null) {
	const guaranteed = {
		maxStorageBuffersPerShaderStage: 8,
		maxComputeInvocationsPerWorkgroup: 256,
		maxComputeWorkgroupStorageSize: 16384,
		maxStorageBufferBindingSize: 134217728,
	};
	const adapter = limits && { limits: { ...guaranteed, ...limits } } as unknown as GPUAdapter;
	return {
		isSecureContext: true,
		navigator: { gpu: { requestAdapter: async () => adapter } },
		Float16Array,
	};
}

Deno.test("what keeps a browser from running models is said with what would do", async () => {
	assert.equal(await browserProblem(browserWith({})), undefined);
	const cases: [browser: Parameters<typeof browserProblem>[0], problem: RegExp, remedy: RegExp][] =
		[
			[
				{ ...browserWith({}), isSecureContext: false },
				/is not a secure one/,
				/https, or from localhost/,
			],
			[{ isSecureContext: true, navigator: {} }, /has no WebGPU/, /current Chrome/],
			[{ ...browserWith({}), Float16Array: undefined }, /too old/, /version 135/],
			[browserWith(null), /found no GPU/, /hardware acceleration/],
			[
				browserWith({ maxStorageBuffersPerShaderStage: 4 }),
				/^This GPU has maxStorageBuffersPerShaderStage 4; models need 8\.$/,
				/another GPU/,
			],
		];
	for (const [browser, problem, remedy] of cases) {
		const found = await browserProblem(browser);
		assert.match(found!.problem, problem);
		assert.match(found!.remedy, remedy);
	}
	const failing = { gpu: { requestAdapter: () => Promise.reject(new Error("lost")) } };
	assert.match(
		(await browserProblem({ navigator: failing, Float16Array }))!.problem,
		/found no GPU/,
	);
});
