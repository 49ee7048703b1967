import { loadPipeline, type PipelineConfig } from "../pipeline/config.ts";
import { PipelineFileError } from "../pipeline/errors.ts";
import type { RunRecord } from "../pipeline/record.ts";
import { runPipeline } from "../pipeline/run.ts";
import type { Stage } from "../pipeline/stage.ts";
import { bytesText } from "../pipeline/units.ts";
import { STAGES } from "../stages/mod.ts";
import { showJson, showProgress } from "./progress.ts";
import { parseArguments, runTask, startInCallersFolder } from "./task.ts";

const HELP = `Usage: deno task quantize PIPELINE.yaml [options]

Runs a pipeline file: reads the model, calibrates, quantizes, packs and evaluates. The same command
goes on where an interrupted run stopped.

Options
  --set PATH=VALUE   Override a value of the file; may be given several times:
                     --set stages.calibrate.samples=16 --set mode=reference
  --check            Only check the file, and print the plan
  --json             Print events as JSON, one per line
  --overwrite        Replace what a different run left in the output folder
  --help             Print this

Exit codes: 0 done, 1 failed, 2 bad pipeline file or arguments, 130 interrupted.

Stages
${STAGES.map(({ name, summary }) => `  ${name.padEnd(18)} ${summary}`).join("\n")}
`;

await runTask(async (signal) => {
  const { values, positionals } = readArguments();
  if (values.help) {
    console.log(HELP);
    return;
  }
  if (positionals.length !== 1) {
    throw usageError(`Give one pipeline file, found ${positionals.length}`);
  }
  startInCallersFolder();
  const [file] = positionals;
  const config = await loadPipeline(file, { stages: STAGES, sets: values.set });
  if (values.check) {
    console.log(values.json ? JSON.stringify(planOf(config)) : planText(config));
    return;
  }
  const report = values.json ? showJson() : showProgress();
  const record = await runPipeline(config, { report, signal, overwrite: values.overwrite });
  console.log(values.json ? JSON.stringify({ type: "record", ...record }) : summary(record));
});

function readArguments() {
  return parseArguments(usageError, {
    allowPositionals: true,
    options: {
      set: { type: "string", multiple: true },
      check: { type: "boolean" },
      json: { type: "boolean" },
      overwrite: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    },
  });
}

function usageError(message: string): PipelineFileError {
  return new PipelineFileError([{
    where: "deno task quantize",
    message: `${message}; deno task quantize --help prints the usage`,
  }]);
}

function planOf(config: PipelineConfig<Stage>) {
  const stages = config.stages.map(({ stage: { name, scope }, options }) => ({
    name,
    scope,
    options,
  }));
  const { name, model, output, mode, seed } = config;
  return { name, model, output, mode, seed, stages };
}

function planText(config: PipelineConfig<Stage>): string {
  const plan = planOf(config);
  const lines = [
    `${config.file} is good (the model and the texts are not looked at).`,
    `name ${plan.name}, model ${plan.model}, output ${plan.output}, mode ${plan.mode}, seed ${plan.seed}`,
  ];
  for (const { name, scope, options } of plan.stages) {
    const text = Object.entries(options)
      .map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ");
    lines.push(`  once per ${scope}`.padEnd(18) + `${name.padEnd(18)} ${text}`);
  }
  return lines.join("\n");
}

/** What a person wants to know in the end. */
function summary({ packed, layers, evaluation, peakGpuBytes, stages }: RunRecord): string {
  const lines: string[] = [""];
  if (packed) {
    const share = (100 * packed.bytes / packed.originalBytes).toFixed(1);
    const isOnGrids = layers?.some(({ linears }) => linears.some(({ method }) => method));
    const what = isOnGrids ? "codes" : "signs";
    lines.push(
      `Size        ${bytesText(packed.bytes)} in all, ${share} % of ${
        bytesText(packed.originalBytes)
      } (with embeddings and head ${tablesText(stages)})`,
      `Paper bits  ${packed.paperBits.toFixed(2)} per weight of the linear layers (${what} only)`,
      `Stored bits ${packed.storedBits.toFixed(2)} per weight of the linear layers: ${
        Object.entries(packed.storedBitsByPart)
          .map(([part, bits]) => `${part} ${bits.toFixed(3)}`).join(", ")
      }`,
    );
  }
  (evaluation?.packed ?? evaluation?.original ?? []).forEach((after, i) => {
    const before = evaluation!.packed && evaluation!.original[i];
    const values = [before, after].filter((value) => value !== undefined)
      .map(({ perplexity }) => perplexity.toFixed(2)).join(" -> ");
    lines.push(`Perplexity  ${values} on ${after.dataset}`);
  });
  if (peakGpuBytes) lines.push(`GPU memory  ${bytesText(peakGpuBytes)} at most`);
  return lines.join("\n");
}

/** How `pack` has stored embeddings and head. */
function tablesText(stages: RunRecord["stages"]): string {
  const options = stages.find(({ name }) => name === "pack")?.options as { embeddings?: unknown };
  const { embeddings = "stored" } = options ?? {};
  return embeddings === "stored" ? "as in the original" : `in ${embeddings} bits`;
}
