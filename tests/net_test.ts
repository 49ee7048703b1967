import assert from "node:assert/strict";
import { join } from "node:path";
import { fixture } from "./fixture.ts";

interface Outcome {
	files: Record<string, string>;
	numbers: string;
	bytes: number;
	loss: number;
}

interface Outcomes {
	adapter: string;
	results: Record<string, Outcome>;
}

const expected = fixture<Outcomes>("net");

/** Runs net.ts; sums are those of vectors that every CPU has, so that they round alike on all. */
async function outcomes(env: Record<string, string>) {
	const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
		args: ["run", "-A", join(import.meta.dirname!, "net.ts")],
		env: { NO_COLOR: "1", LP_NATIVE_VECTOR_WIDTH: "256", BILLM_TUNE: "0", ...env },
	}).output();
	assert.equal(code, 0, new TextDecoder().decode(stderr));
	return JSON.parse(new TextDecoder().decode(stdout)) as Outcomes;
}

Deno.test("pipelines leave the bytes and numbers that they left before", async () => {
	const { adapter, results } = await outcomes({});
	const names = Object.keys(expected.results);
	assert.deepEqual(Object.keys(results), names);
	for (const name of names) {
		const [found, wanted]: Outcome[] = [results[name], expected.results[name]];
		if (adapter === expected.adapter) {
			assert.deepEqual(found, wanted, name);
			continue;
		}
		// Another driver may round differently: sizes are the same, figures nearly so.
		assert.equal(found.bytes, wanted.bytes, name);
		assert.deepEqual(Object.keys(found.files), Object.keys(wanted.files), name);
		assert.ok(Math.abs(found.loss / wanted.loss - 1) < 0.02, `${name}: a loss of ${found.loss}`);
	}
	assert.deepEqual(results["billm, resumed"].files, results.billm.files);
	assert.deepEqual(results["billm, by the recipe light"], results.billm);
});
