// Runs that are killed at random moments and started again until they end, for tests and for the script
// tests/proofs/kills.ts.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { contents, LEFT, type PipelineFields, Workplace } from "../micro_model.ts";
import { startTask } from "../start_task.ts";

/** What a finished run left, apart from times. */
export function outcome(folder: string) {
	const names = readdirSync(folder).filter((name) => name !== "sensitivities.json").sort();
	const { status, layers, packed, evaluation, ...record } = JSON.parse(
		readFileSync(join(folder, "run.json"), "utf8"),
	);
	assert.equal(status, "done");
	const { identity, inputs, stages } = record;
	const isCalibrated = stages.some(({ name }: { name: string }) => name === "calibrate");
	assert.deepEqual(names, isCalibrated ? LEFT : LEFT.slice(1));
	return {
		files: contents(join(folder, "model")),
		histograms: readFileSync(join(folder, "histograms.json"), "utf8"),
		layers: layers.map((layer: object) => {
			return { ...layer, seconds: 0, secondsByStage: {}, peakGpuBytes: 0, peakGpuBytesByStage: {} };
		}),
		packed: { ...packed, folder: "" },
		evaluation,
		identity,
		inputs,
		stages,
	};
}

/** When and how to end a run. */
export interface Killer {
	/** Milliseconds after the start, or a text to wait for in what the run prints. */
	moment: number | string;
	signal: "SIGKILL" | "SIGINT" | "SIGTERM";
}

/** What became of the runs that were killed. */
export interface Kills {
	/** Runs that a signal ended. */
	ended: number;
	/** Runs that went on after a complete layer. */
	resumed: number;
}

const EXIT_CODES = { SIGKILL: 137, SIGINT: 130, SIGTERM: 130 };

/** Whether the record in a run's folder says that the run is done. */
function isDone(folder: string): boolean {
	const path = join(folder, "run.json");
	return existsSync(path) && JSON.parse(readFileSync(path, "utf8")).status === "done";
}

function kill(child: Deno.ChildProcess, signal: Killer["signal"]): void {
	try {
		child.kill(signal);
	} catch (error) {
		if (!(error instanceof TypeError)) throw error; // it has just ended by itself
	}
}

/** Runs a pipeline once without disturbance. */
export async function undisturbed(place: Workplace, fields: PipelineFields) {
	const output = place.path("whole");
	const start = performance.now();
	const { code, stderr } = await startTask("quantize", [place.pipeline({ ...fields, output })]);
	const duration = performance.now() - start;
	assert.equal(code, 0, stderr);
	return { expected: outcome(output), duration };
}

/**
 * Kills runs of a pipeline and starts them again until each has ended, in as many folders as it takes for
 * all killers, and compares what the runs leave.
 */
export async function killRuns(
	place: Workplace,
	fields: PipelineFields,
	expected: ReturnType<typeof outcome>,
	killers: readonly Killer[],
): Promise<Kills> {
	const left = [...killers];
	const kills: Kills = { ended: 0, resumed: 0 };
	for (let folder = 0; left.length > 0; folder++) {
		const output = place.path(`out${folder}`);
		const pipeline = place.pipeline({ ...fields, output });
		for (let finished = false; !finished;) {
			const { moment, signal = "SIGKILL" } = left.shift() ?? {};
			let timer: ReturnType<typeof setTimeout> | undefined;
			let isSent = false;
			const send = (child: Deno.ChildProcess) => {
				if (!isSent) kill(child, signal);
				isSent = true;
			};
			const wasDone = isDone(output); // killed between its record and its end
			const { code, stdout, stderr } = await startTask("quantize", [pipeline], {
				onStart(child) {
					if (typeof moment === "number") timer = setTimeout(() => send(child), moment);
				},
				onOutput(text, child) {
					if (typeof moment === "string" && text.includes(moment)) send(child);
				},
			});
			clearTimeout(timer);
			if (/; resumes after layer \d, the last complete one/.test(stdout)) kills.resumed++;
			// A signal before the program listens ends it as the system does: 128 and the signal's number.
			if (isSent && [EXIT_CODES[signal], 130, 143].includes(code)) {
				if (signal === "SIGKILL" || code === 143) assert.equal(stderr, "");
				else assert.match(stderr, /^(\nInterrupted\. The same command resumes .*\n)?$/);
				kills.ended++;
			} else {
				assert.equal(code, 0, stderr);
				assert.equal(stdout.includes("Nothing to do"), wasDone, stdout);
				finished = true;
			}
		}
		assert.deepEqual(outcome(output), expected, `after ${kills.ended} kills, in ${output}`);
	}
	return kills;
}
