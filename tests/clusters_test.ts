import assert from "node:assert/strict";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { PROJECT, runScript } from "./checkout.ts";
import { Workplace } from "./micro_model.ts";

const text = readFileSync(join(PROJECT, "docs/clusters.md"), "utf8");

/** The code of a language in the page, in order. */
function blocks(language: string): string[] {
	const fence = new RegExp("^```" + language + "\\n([^]*?)^```$", "gm");
	return [...text.matchAll(fence)].map(([, code]) => code);
}

/** A grid of two cells that only measure; one fails. */
function gridFile(place: Workplace): string {
	const method = [
		{ name: "plain" },
		{ name: "broken", "stages.evaluate.perplexity": [{ dataset: "no-such-file.txt" }] },
	];
	const stages = ["download", place.evaluateWith({ windows: 1 })];
	return place.pipeline({ stages, matrix: { method } });
}

const statusOf = (...path: string[]) =>
	JSON.parse(readFileSync(join(...path, "cell.json"), "utf8")).status;

// Stands for the scheduler: runs the tasks of an array one after the other, and what is wrapped.
const SBATCH = `#!/bin/bash
for argument; do
  case "$argument" in
    --array=*) range=\${argument#--array=} ;;
    --wrap=*) wrapped=\${argument#--wrap=} ;;
    --parsable | --dependency=* | --export=ALL) ;;
    *) job=$argument ;;
  esac
done
echo "$*" >> "$LOG"
if [ -n "\${job:-}" ]; then
  for task in $(seq "\${range%-*}" "\${range#*-}"); do
    SLURM_ARRAY_TASK_ID=$task bash "$job" > "$LOG.$task" 2>&1
    echo "task $task ended with $?" >> "$LOG"
  done
else
  bash -n -c "$wrapped" && echo "wrapped $wrapped" >> "$LOG"
fi
echo 4711
`;

Deno.test("the Slurm scripts submit as many tasks as there are cells, each of which runs its own", async () => {
	using place = new Workplace({ layers: 1 });
	const [cell, submit, ...others] = blocks("bash");
	assert.deepEqual(others, []);
	const folder = place.path("submit");
	mkdirSync(folder);
	writeFileSync(join(folder, "cell.sbatch"), cell);
	writeFileSync(join(folder, "submit.sh"), submit);
	writeFileSync(join(folder, "sbatch"), SBATCH);
	chmodSync(join(folder, "sbatch"), 0o755);
	const log = place.path("log");
	const { code, stderr } = await runScript('bash submit.sh "$FILE" "$OUT"', folder, {
		PATH: `${folder}:${Deno.env.get("PATH")}`,
		BILLM: PROJECT,
		LOG: log,
		FILE: gridFile(place),
		OUT: place.path("out"),
	});
	assert.equal(code, 0, stderr);
	assert.deepEqual(readFileSync(log, "utf8").trimEnd().split("\n"), [
		"--parsable --array=1-2 --export=ALL cell.sbatch",
		"task 1 ended with 0",
		"task 2 ended with 1",
		"--dependency=afterany:4711 --export=ALL --wrap=" +
		'cd "$BILLM" && deno task report "$OUTPUT"/* --output report.html',
		'wrapped cd "$BILLM" && deno task report "$OUTPUT"/* --output report.html',
	]);
	assert.equal(statusOf(place.path("out/plain")), "done");
	assert.equal(statusOf(place.path("out/broken")), "failed");
	assert.match(readFileSync(`${log}.2`, "utf8"), /Error: The cell failed/);
});

Deno.test("the container of the Kubernetes job runs the cell of its index", async () => {
	using place = new Workplace({ layers: 1 });
	const [job] = blocks("yaml").map((yaml) => parse(yaml));
	const { completions, maxFailedIndexes, completionMode, template } = job.spec;
	const [container] = template.spec.containers;
	const env: Record<string, string> = Object.fromEntries(
		// deno-lint-ignore no-explicit-any -- parsed YAML
		container.env.map(({ name, value }: any) => [name, value]),
	);
	assert.deepEqual([completionMode, env.CELLS], ["Indexed", String(completions)]);
	assert.equal(maxFailedIndexes, completions);
	assert.deepEqual(container.command, ["/bin/sh", "-c"]);
	const [script] = container.args;
	const run = (index: number, count: number) =>
		runScript(script, PROJECT, {
			GRID: gridFile(place),
			CELLS: String(count),
			OUTPUT: place.path("data"),
			JOB_COMPLETION_INDEX: String(index),
		}, ["-c"]);
	const first = await run(0, 2);
	assert.equal(first.code, 0, first.stderr);
	assert.equal(statusOf(place.path("data/plain")), "done");
	assert.ok(!existsSync(place.path("data/broken")));
	assert.equal((await run(1, 2)).code, 1);
	assert.equal(statusOf(place.path("data/broken")), "failed");
	assert.equal((await run(1, 3)).code, 2);
});
