// Inputs that change while a run reads them: nothing is recorded or kept that mixes two contents.

import assert from "node:assert/strict";
import {
	appendFileSync,
	copyFileSync,
	existsSync,
	readdirSync,
	readFileSync,
	renameSync,
	rmSync,
	utimesSync,
	writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { RunEvent } from "../../pipeline/run/events.ts";
import { sha256, Workplace, writeMicroModel } from "../micro_model.ts";
import { TemporaryFolder } from "../temporary_folder.ts";

/** Ways to change a file; `other` is a file of the same form. */
const CHANGES: [string, (path: string, other: string) => void][] = [
	["written over in place", (path, other) => writeFileSync(path, readFileSync(other))],
	["replaced", (path, other) => {
		copyFileSync(other, `${path}.new`);
		renameSync(`${path}.new`, path);
	}],
	["appended to", (path) => appendFileSync(path, " ")],
	["removed", (path) => rmSync(path)],
	["written over, with its old time", (path, other) => {
		const { atime, mtime } = Deno.statSync(path);
		writeFileSync(path, readFileSync(other));
		utimesSync(path, atime!, mtime!);
	}],
];

const MOMENTS: [string, (event: RunEvent) => boolean][] = [
	["the model is found", ({ type }) => type === "stage"],
	["the run begins", ({ type }) => type === "start"],
	["the first layer is done", ({ type }) => type === "layer"],
	["the original is measured", (event) => event.type === "progress" && /original/.test(event.text)],
];

/** Runs in a cache of its own; a run without changes comes first and keeps nothing. */
class Changing implements Disposable {
	readonly #cache = new TemporaryFolder();
	readonly #before = Deno.env.get("BILLM_CACHE");
	readonly place = new Workplace({ layers: 2, vocabulary: 4096 });
	readonly other = writeMicroModel(this.place.path("other/model"), { layers: 2, seed: 9 });

	constructor() {
		Deno.env.set("BILLM_CACHE", this.#cache.path);
		writeFileSync(this.place.path("other/evaluation.txt"), readFileSync(this.place.calibration));
		writeFileSync(this.place.path("other/calibration.txt"), readFileSync(this.place.evaluation));
		for (const name of ["config.json", "tokenizer.json"]) {
			appendFileSync(join(this.other, name), "\n"); // the same to read
		}
	}

	/** Figures kept for later runs. */
	get kept(): string[] {
		const folder = join(this.#cache.path, "figures");
		return existsSync(folder) ? readdirSync(folder) : [];
	}

	/** The whole method, with figures kept. */
	fields(output: string) {
		const { place } = this;
		const perplexity = [{ dataset: place.evaluation, "sequence-length": 32, windows: 2 }];
		const stages = [
			"download",
			place.calibrate,
			"hessian",
			{ gptq: { bits: 4 } },
			"pack",
			{ evaluate: { perplexity } },
		];
		return { output: place.path(output), stages };
	}

	[Symbol.dispose](): void {
		if (this.#before === undefined) Deno.env.delete("BILLM_CACHE");
		else Deno.env.set("BILLM_CACHE", this.#before);
		this.place[Symbol.dispose]();
		this.#cache[Symbol.dispose]();
	}
}

/** Each file at two moments; each way and moment several times. Texts are first read when the run begins. */
const CASES: [file: string, moments: number[]][] = [
	["model/model.safetensors", [0, 2]],
	["model/config.json", [1, 3]],
	["model/tokenizer.json", [0, 3]],
	["calibration.txt", [1, 2]],
	["evaluation.txt", [2, 3]],
];

for (const [i, [file, moments]] of CASES.entries()) {
	Deno.test(`${file} changes during a run: it is refused, and nothing of it is kept`, async () => {
		using changing = new Changing();
		const { place } = changing;
		const path = place.path(file);
		const original = readFileSync(path);
		let runs = 0;
		for (const [what, isMoment] of moments.map((moment) => MOMENTS[moment])) {
			const [how, change] = CHANGES[(2 * i + runs) % CHANGES.length];
			const output = `out${runs++}`;
			let done = false;
			const emit = (event: RunEvent) => {
				if (done || !isMoment(event)) return;
				done = true;
				change(path, place.path("other", file));
			};
			await assert.rejects(place.run(changing.fields(output), { emit }), (error: Error) => {
				assert.equal(error.name, "UserError", `${how} when ${what}: ${error.stack}`);
				const said = error.message.includes("during the run") && error.message.includes(path);
				// A file may also be found missing or wrong by whoever reads it next.
				if (how !== "removed") assert.ok(said, `${how} when ${what}: ${error.message}`);
				return true;
			});
			assert.ok(done, what);
			assert.deepEqual(changing.kept, [], `${how} when ${what}`);
			const record = place.path(output, "run.json");
			if (existsSync(record)) {
				assert.equal(JSON.parse(readFileSync(record, "utf8")).status, "running");
			}
			writeFileSync(path, original);
		}
		// What the interrupted runs have recorded is right: they go on to what an undisturbed run gives.
		const { record: whole } = await place.run(changing.fields("whole"));
		for (let run = 0; run < runs; run++) {
			const { record } = await place.run(changing.fields(`out${run}`));
			assert.deepEqual(
				record.packed!.files.map(({ sha256 }) => sha256),
				whole.packed!.files.map(({ sha256 }) => sha256),
			);
			assert.equal(
				record.evaluation!.packed![0].perplexity,
				whole.evaluation!.packed![0].perplexity,
			);
			assert.equal(
				sha256(place.path(`out${run}`, "calibration.safetensors")),
				sha256(place.path("whole", "calibration.safetensors")),
			);
		}
	});
}

Deno.test("other files in the model's folder, and reading times, are of no concern", async () => {
	using changing = new Changing();
	const { place } = changing;
	const emit = ({ type }: RunEvent) => {
		if (type !== "layer") return;
		writeFileSync(join(place.model, "README.md"), "# New");
		readFileSync(join(place.model, "model.safetensors"));
	};
	const { record } = await place.run(changing.fields("out"), { emit });
	assert.equal(record.status, "done");
});
