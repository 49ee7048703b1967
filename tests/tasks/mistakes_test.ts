import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { Environment } from "../environment.ts";
import { type StageItem, Workplace } from "../micro_model.ts";
import { type Ending, runInProcess } from "../run_in_process.ts";
import { startTask } from "../start_task.ts";

// A mistake, a part of the message that says what was found, and one that says what would do. A model, its
// packed form "out", pipeline files p.yaml and g.yaml, a grid, lie in the folder of the command.

const COMMANDS = `
quantize => found 0 => Give one pipeline file or one model
quantize p.yaml g.yaml => found 2 => Give one pipeline file
quantize p.yaml --chek => --chek => did you mean --check?
quantize p.yaml --output x => --output => its options: --bits, --set
quantize p.yaml --set => '--set <value>' argument missing => --help prints
quantize p.yaml --set a = 4 => found "a" and after it "= 4" => write --set a=4
quantize p.yaml --set seed => --set seed: Not of the form => as in seed=3
quantize p.yaml --set rtn.bits=4 => it is a stage => write stages.rtn
quantize p.yaml --set bits=4 => an option of rtn => stages.rtn.bits
quantize p.yaml --set stages.rnt.bits=4 => "stages.rnt" names no stage => did you mean "rtn"?
quantize p.yaml --set stages.rtn.bit=4 => "bit" in rtn => did you mean "bits"?
quantize p.yaml --set stages.rtn.bits=5 => found 5 => one of 1, 2, 3, 4, 8
quantize p.yaml --set sed=4 => "sed" => did you mean "seed"?
quantize p.yaml --set recipe=2bit => "2bit" => did you mean "2-bit"?
quantize p.yaml --set gpu.memory=12 => found 12 => like "12GB"
quantize p.yaml --cell 3/12 => has 1 cell, not 12 => --check prints them
quantize g.yaml --cell 3 => no cell "3" => 3/2
quantize g.yaml --cell bits-22 => "bits-22" => did you mean "bits-2"?
quantize g.yaml --set stages.rtn.bits=4 => The matrix varies => choose cells with --cell
quantize g.yaml --set stages.gptq.bits=4 => "stages.gptq" names no stage => its stages: download, rtn, pack
quantize pp.yaml => no pipeline file "pp.yaml" => did you mean "p.yaml"?
quantize none.yaml => no pipeline file "none.yaml" => init MODEL writes one
quantize models => is a folder => give the file
quantize out => is a folder => give "out/pipeline.yaml"
quantize a.gguf => GGUF => give the model that it was made from
quantize model/model.safetensors => is a file of one => give the folder "model"
quantize model/config.json => configuration of a model => init FOLDER
quantize model/tokenizer.json => version, truncation => in place of name, model
quantize odd.json => lacks "name" => the name of the run
quantize model --bits 4 => --bits must be 1, 1.6, 2, 2.5 or 3, found "4" => for 4 or more bits write a file
quantize p.yaml --bits 2 => found the pipeline file => leave --bits out
quantize mdoel --bits 2 => offline => did you mean "model"?
quantize out --bits 2 => is packed already => give the original one
quantize p.yaml --set output=odd.json => folder "odd.json" => a file is in the way
quantize p.yaml --set model=./none/x => no such folder => give the folder that holds config.json
quantize p.yaml --set model=out/model => quantized already => give the original
quantize p.yaml --set model=bare => it has no weights => model.safetensors
quantize p.yaml --set model=empty => is no model => the folder is empty
generate => found 0 => Give one model
generate model => --prompt => such as --prompt
generate model --prompt a --temprature 1 => --temprature => did you mean --temperature?
generate model --prompt a --temperature hot => found "hot" => must be a number
generate model --prompt a --temperature -1 => followed by another option => write --temperature=VALUE
generate model --prompt a --max-tokens 0 => found "0" => at least 1
generate model --prompt a --top-k x => --top-k must be a whole number of at least 1 => found "x"
generate model --prompt a --temperature= => found "" => must be a number
generate model --prompt a --temperature=-1 => found -1 => at least 0
generate model --prompt a --seed 0.5 => found 0.5 => a whole number
generate model --prompt a --top-p 0.5 --temperature 0 => --top-p => needs a --temperature above 0
generate model --prompt a --chat=yes => '--chat' does not take an argument => --help prints
generate model --prompt a --top-k 5 => --top-k => needs a --temperature above 0
generate model --prompt a --temperature 1 --top-p 2 => found 2 => at most 1
generate model --prompt a --cache f8 => found "f8" => f32 or f16
generate model --prompt a --chat => has no chat template => give it a plain prompt
generate ./not/there --prompt a => there is no such folder => give the folder that holds config.json
generate p.yaml --prompt a => it is a pipeline file => quantize p.yaml
inspect a b c => found 3 => Give one folder
inspect mdoel => no such folder => did you mean "model"?
inspect none/such => "none/such" => no such folder
inspect empty => is no model => the folder is empty
inspect unfinished => not finished => run its pipeline again
inspect models--a--b => the hub's cache => give "a/b"
inspect ggufs => holds the GGUF file "a.gguf" => give the model that it was made from
inspect odd.json => it is a file => give the folder that holds config.json
export out => found 1 argument => Give MODEL and OUT
export out x => --to => gguf, compressed-tensors, gptq, mlx
export out x --to gguff => "gguff" => did you mean "gguf"?
export out x --to gguf => "x" does not end => write "x.gguf"
export out model --to mlx => "model" is not empty => --overwrite
export out x.gguf --to gguf --types Q9 => "Q9" => gguf has Q1_0
export out x --to mlx --types Q2_0 => mlx has no choice of types => --types is for gguf
export out x.gguf --to gguf --allow all => found "all" => must be lossy
export model x --to mlx => not packed => a plain model
export out x.gguf --to gguf => cannot be expressed => --allow lossy
serve => found 0 => Give one model
serve model --port http => found "http" => a whole number
serve model --port 70000 => "70000" => at most 65535
serve model --cors http://a/b => found "http://a/b" => an origin such as http://localhost:3000, or *
serve model --context 100000 => --context 100000 => at most 128
push out => found 1 argument => Give a run and a repository
push model me/x => no run in "model" => give the folder of one
push measured me/x => its pipeline has no stage "pack" => so there is no model
push out me/x => there is no token => set HF_TOKEN
push out me/x/y --dry-run => "me/x/y" => write "owner/name"
push out me/x --base a/b/c => found "a/b/c" => OWNER/NAME
dequantize a b c => found 3 => Give two folders
dequantize none/such x => "none/such" => no such folder
dequantize model plain => is not packed => nothing to dequantize
dequantize out model => is not empty => --overwrite
dequantize out plain --dtype f8 => found "f8" => f16 or f32
compare model => found 1 => Give two folders
compare none/such none/such => "none/such" => no such folder
report => found none => Give at least one folder
report nowhere => no folder "nowhere" => such as out/NAME
report model => no run in "model" => run.json, which quantize writes
report out --layers 1-2 => found "1-2" => with commas
report out --peers x.json => found one => needs several runs
report out --outptu x => --outptu => did you mean --output?
report out --svg x.svg => found one => needs several runs
schema x => 'x' => --help prints
doctor --fix => --fix => its options: --json
dawn now => 'now' => --help prints
matrix => found 0 => Give one pipeline file
matrix model => is a model => quantize model --bits 2
matrix facebook/opt-125m => is a model, not a pipeline file => init facebook/opt-125m
synth x => found "" => one of opt-125m
synth x --like opt-126m => "opt-126m" => did you mean "opt-125m"?
synth x --like opt-125m --layers many => found "many" => whole number
synth model --like opt-125m --layers 1 => holds another model => give an empty folder
web a b => found 2 => one model at most
web --port 99999 => found 99999 => at most 65535
web ./nowhere => "./nowhere" => there is no such folder
web owner/name => no such folder => loads models from the hub itself: give it the name
init p.yaml => found "p.yaml" => Give a model
init model p.yaml => "p.yaml" is there already => --overwrite
init model x.json => "x.json" => ends in .yaml
init out/model => quantized already => give the original
init model --recipe 2bit => "2bit" => did you mean "2-bit"?
stages rnt => "rnt" => did you mean "rtn"?
stages default => a recipe of that name => stages: download
bench/products --shape 64 => found "64" => ROWSxCOLS, as in 4096x4096
bench/products --form f16 => --form must be one of billm, grid-2, grid-4, levels-2, trellis-2 => found "f16"
bench/generate --like opt-125m --forms grid-5 => found "grid-5" => --forms must be some of billm
bench/trellis --bits 4 => found "4" => --bits must be one of 1, 1.5, 2, 2.5, 3
bench/zero_shot --like llama-8b => found "llama-8b" => --like must be one of
billm quantise => "quantise" => quantize"?
billm p.yaml => "p.yaml" => quantize p.yaml"?
billm help frobnicate => "frobnicate" => help lists the commands
`;

/** What follows the name and the model in a pipeline file, in which ; stands for the end of a line. */
const FILES = `
stages: [download, hessian, gptq, pack] => needs "calibration" => put calibrate before it
stages: [download, pack] => nothing to pack => a stage that quantizes before it
stages: [download, pack, rtn] => nothing to pack => put rtn before it
stages: [download, rtn] => No stage stores what "rtn" quantizes => put pack after it
stages: [download, evaluate: {}] => found {} => must have "perplexity", "zero-shot" or both
stages: [download, evaluate: {perplexity: [{dataset: c4}], original: false}] => nothing to measure => leave original out
stages: [download, evaluate: {perplexity: [{dataset: c4}]}, rtn, pack] => would measure nothing => put it last
stages: [download, calibrate: {dataset: c4}, hessian] => neither quantizes nor measures => add a method with pack
stages: [download, calibrate: {dataset: c4}, hessian, rtn, gptq, pack] => which stage "rtn" gives => leave one of them out
stages: [download, trelis, pack] => "trelis" => did you mean "trellis"?
stages:; - download; - rtn:;   bits: 2; - pack => Key "bits" stands beside stage "rtn" => indent the options of rtn
stages: {rtn: {}} => which needs a recipe => add "recipe: default"
stages: [download, {use: ./none.ts}, pack] => "./none.ts" => no such file
stages: [download, {use: ./s.ts}, rtn, pack] => names the artifact "salient-colums" => did you mean "salient-columns"?
recipe: rtn; calibrate: {dataset: c4} => it is a stage => put it under "stages"
recipe: rtn; bits: 2 => an option of rtn => stages.rtn.bits
recipe: 2-bit; stages: {calibrate: {dataset: wikitext}} => found "wikitext" => wikitext2
recipe: 2-bit; stages: {calibrate: {dataset: c4, samples: "4"}} => found "4" => a whole number
recipe: 2-bit; stages: {calibrate: {samples: 4}} => lacks "dataset" => .parquet file
recipe: rtn; stages: {evaluate: {zero-shot: [pica]}} => found "pica" => did you mean "piqa"?
recipe: rtn; stages: {export: [guff]} => found "guff" => did you mean "gguf"?
recipe: rtn; stages:;\trtn: {};\tpack: {} => Tabs are not allowed => write spaces
recipe: rtn; stages => x.yaml:4:1 => a colon is missing behind a key
recipe: "rtn => Missing closing "quote => x.yaml:4
recipe: rtn; gpu: auto => found "auto" => must be a map
recipe: rtn; name: b => "name" occurs twice => may occur once
recipe: rtn; matrix: {stages.rtn.bits: 2} => found 2 => a list of values
recipe: rtn; matrix: {sed: [1]} => "sed" in matrix => did you mean "seed"?
recipe: rtn; matrix: {bits: [2, 3]} => "bits" in matrix => known keys: model, recipe
`;

const STAGE = `import { z } from ${JSON.stringify(import.meta.resolve("zod"))};
export default { name: "s", scope: "block", summary: "", needs: [], gives: ["salient-colums"],
  options: z.strictObject({}), run() {} };`;

function check({ code, stdout, stderr }: Ending, mistake: string, parts: readonly string[]): void {
	assert.ok(code === 1 || code === 2, `${mistake} ends with ${code}`);
	if (code === 2) assert.equal(stdout, "", mistake);
	for (const part of parts) assert.ok(stderr.includes(part), `${mistake}: ${part}\n${stderr}`);
	assert.doesNotMatch(stderr, /fault of this program|\n\s+at /, mistake);
	assert.ok(stderr.trimEnd().split("\n").length <= 5, stderr);
}

Deno.test("each mistake of a user is told with what was found and what would do", async (t) => {
	using place = new Workplace({ layers: 1, intermediate: 128 });
	using _ = new Environment({ HF_HUB_OFFLINE: "1", HF_TOKEN: "", NO_COLOR: "1", INIT_CWD: "" });
	await place.run({ stages: ["download", "rtn", "pack"] as StageItem[] });
	const stages = ["download", place.evaluate];
	await place.run({ stages, output: place.path("measured") });
	const before = Deno.cwd();
	Deno.chdir(place.folder);
	try {
		for (const folder of ["models/tiny", "bare", "empty", "unfinished", "models--a--b", "ggufs"]) {
			mkdirSync(folder, { recursive: true });
		}
		for (const folder of ["models/tiny", "bare"]) {
			copyFileSync("model/config.json", `${folder}/config.json`);
		}
		for (const file of ["a.gguf", "ggufs/a.gguf"]) writeFileSync(file, "GGUF");
		for (const file of ["odd.json", "unfinished/run.json"]) writeFileSync(file, "{}");
		const head = "name: a\nmodel: model\n";
		writeFileSync("p.yaml", `${head}recipe: rtn\nstages: { rtn: { bits: 2 } }\n`);
		writeFileSync("g.yaml", `${head}recipe: rtn\nmatrix: { stages.rtn.bits: [2, 3] }\n`);
		writeFileSync("s.ts", STAGE);

		const commands = COMMANDS.trim().split("\n").map((line) => line.split(" => "));
		const files = FILES.trim().split("\n").map((line) => line.split(" => "));
		assert.ok(commands.length + files.length >= 120);
		for (const [mistake, ...parts] of commands) {
			const [task, ...args] = mistake.split(" ");
			await t.step(mistake, async () => check(await runInProcess(task, args), mistake, parts));
		}
		for (const [mistake, ...parts] of files) {
			await t.step(mistake, async () => {
				writeFileSync(
					"x.yaml",
					`${head}${mistake.replaceAll("; ", "\n").replaceAll(";\t", "\n\t")}\n`,
				);
				check(await runInProcess("quantize", ["x.yaml", "--check"]), mistake, parts);
			});
		}
		for (
			const [args, ...parts] of [
				[["p.yaml", "--set", "gpu.adapter=nvida"], "nvida", "llvmpipe"],
				[["p.yaml", "--set", "gpu.backend=down"], 'found "down"', "dawn"],
			] as const
		) {
			await t.step(args.join(" "), async () => {
				check(await startTask("quantize", [...args], { cwd: place.folder }), `${args}`, parts);
			});
		}
	} finally {
		Deno.chdir(before);
	}
});
