import { loadPipeline } from "../pipeline/config.ts";
import { runPipeline } from "../pipeline/run.ts";
import { STAGES } from "../stages/mod.ts";
const config = await loadPipeline(Deno.args[0], { stages: STAGES, sets: Deno.args.slice(1) });
const r = await runPipeline(config, { report: (e) => console.log(JSON.stringify(e).slice(0, 300)), overwrite: true });
console.log(r.secondsByStage, r.packed, r.evaluation);
Deno.exit(0);
