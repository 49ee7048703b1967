// Kills runs of chains that together have all stages, at random moments and with each signal, and checks
// that they resume and end in the same bytes: `deno run -A tests/proofs/kills.ts [KILLS] [SEED]`. 100 kills
// take some 15 minutes on two cores; tests/pipeline/resume_test.ts has a few of them.

import { type Killer, killRuns, undisturbed } from "../pipeline/kills.ts";
import { type PipelineFields, Workplace } from "../micro_model.ts";
import { seededRandom } from "../reference/random.ts";

const kills = Number(Deno.args[0] ?? 100);
const random = seededRandom(Number(Deno.args[1] ?? 20260101));

const SIGNALS: Killer["signal"][] = ["SIGKILL", "SIGINT", "SIGTERM"];

const CHAINS: Record<string, (place: Workplace) => PipelineFields["stages"]> = {
	"billm with correction, rotation, search over rows and a new norm": (place) => [
		"download",
		place.calibrate,
		"rotate",
		"hessian",
		"propagate-error",
		"salient-select",
		"residual-binarize",
		{ "split-search": { candidates: 9 } },
		{ compensate: { "block-size": 32 } },
		{ "row-search": { rounds: 1, moves: 0.5 } },
		"refit-norm",
		"pack",
		place.evaluate,
	],
	"trellis with correction": (place) => [
		"download",
		place.calibrateWith({ order: "layer" }),
		"rotate",
		"hessian",
		{ trellis: { bits: 2, table: 8 } },
		"pack",
		place.evaluate,
	],
	"trellis of allocated bits": (place) => [
		"download",
		place.calibrate,
		{ allocate: { "target-bits": 2.9, candidates: [1, 2, 3], windows: 2 } },
		"rotate",
		"hessian",
		"propagate-error",
		{ trellis: { bits: 2 } },
		"pack",
		place.evaluate,
	],
	"levels": (place) => [
		"download",
		place.calibrateWith({ activations: "f16" }),
		"rotate",
		"hessian",
		{ levels: { count: 4, rounds: 1 } },
		"pack",
		place.evaluate,
	],
	"gptq": (place) => [
		"download",
		place.calibrate,
		"hessian",
		"propagate-error",
		{ gptq: { bits: 3, "group-size": 32 } },
		{ pack: { embeddings: 4 } },
		place.evaluate,
	],
	"pb-llm": (place) => [
		"download",
		place.calibrate,
		"hessian",
		"pb-llm",
		{ pack: { flags: "entropy" } },
		place.evaluate,
	],
	"rtn": (place) => ["download", { rtn: { bits: 4, "group-size": 32 } }, "pack", place.evaluate],
	"sign": (place) => ["download", "sign", "pack", place.evaluate],
};

const names = Object.keys(CHAINS);
let ended = 0;
let resumed = 0;
for (const [i, name] of names.entries()) {
	using place = new Workplace({ layers: 3 });
	const fields = { stages: CHAINS[name](place) };
	const { expected, duration } = await undisturbed(place, fields);
	let own = 0;
	const wanted = Math.round((i + 1) * kills / names.length) - ended;
	while (own < wanted) {
		const killers = Array.from({ length: wanted - own }, (): Killer => ({
			moment: random() * duration,
			signal: SIGNALS[Math.floor(SIGNALS.length * random())],
		}));
		const found = await killRuns(place, fields, expected, killers);
		own += found.ended;
		resumed += found.resumed;
	}
	ended += own;
	console.log(`${name}: ${own} kills, ${(duration / 1000).toFixed(1)} s undisturbed, same bytes`);
}
console.log(
	`${ended} kills, ${resumed} runs resumed after a complete layer: all ended in the same bytes`,
);
