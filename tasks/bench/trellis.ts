import {
	hasTable,
	STATE_BITS,
	stepsOf,
	TILE,
	type Trellis,
	TRELLIS_BITS,
} from "../../codecs/trellis/trellis.ts";
import { searchTiles, viterbiForm } from "../../codecs/trellis/viterbi.ts";
import {
	viterbiBytes,
	type ViterbiForm,
	viterbiShape,
} from "../../codecs/trellis/viterbi_source.ts";
import type { Gpu } from "../../gpu/device.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { uniforms } from "../../models/synthetic.ts";
import { tableText } from "../table.ts";
import { count, runCommand, usageErrors } from "../task.ts";

const HELP = `Usage: deno task bench:trellis [--bits N] [--table N] [--tiles N] [--runs N]

Measures the search of the stage trellis on this machine's adapter, for each rate and table and in
several forms of its kernel: the time of a column of tiles, tiles and weights per second, and what
that makes for the weights of a decoder layer of LLaMA-7B. The form that the stage takes is marked.

Options
  --bits N    One rate only: ${TRELLIS_BITS.join(", ")}
  --table N   One table only: ${STATE_BITS.join(", ")}
  --tiles N   Tiles of a column (256, as in 4096 rows; 4 on a software adapter)
  --runs N    Columns of tiles per measurement (20, 1 on a software adapter)
  --help      Print this
`;

/** Weights of the linear layers of a decoder layer of LLaMA-7B. */
const LAYER_WEIGHTS = 4 * 4096 ** 2 + 3 * 4096 * 11008;

const WARM_UP_MS = 200;

const usageError = usageErrors("bench:trellis");

const command = {
	name: "bench:trellis",
	help: HELP,
	options: {
		bits: { type: "string" },
		table: { type: "string" },
		tiles: { type: "string" },
		runs: { type: "string" },
	},
	takesArguments: false,
} as const;

await runCommand(command, async ({ values }) => {
	const only = (name: "bits" | "table", known: readonly number[]) => {
		const text = values[name];
		if (text === undefined) return known;
		const found = known.filter((value) => String(value) === text);
		if (found.length === 1) return found;
		throw usageError(`--${name} must be one of ${known.join(", ")}, found "${text}"`);
	};
	const rates = only("bits", TRELLIS_BITS);
	const tables = only("table", STATE_BITS);
	await using gpu = await openGpu();
	const tiles = count(usageError, "--tiles", values.tiles, gpu.software ? 4 : 256);
	const runs = count(usageError, "--runs", values.runs, gpu.software ? 1 : 20);
	console.log(`${gpu.name}, Deno ${Deno.version.deno}, columns of ${tiles} tiles`);
	const rows: string[][] = [];
	for (const stateBits of STATE_BITS.filter((bits) => tables.includes(bits))) {
		for (const bits of TRELLIS_BITS.filter((bits) => rates.includes(bits))) {
			const trellis = { bits, stateBits };
			if (hasTable(trellis)) rows.push(...await measure(gpu, trellis, tiles, runs));
		}
	}
	console.log(tableText(
		["bits", "table", "form", "ms", "tiles/s", "Mweights/s", "s/layer", ""],
		rows,
		3,
	));
});

/** The form of the stage first, then others that fit the adapter. */
function formsOf(gpu: Gpu, trellis: Trellis): ViterbiForm[] {
	const usual = viterbiForm(gpu, trellis);
	const { maxComputeInvocationsPerWorkgroup: most, maxComputeWorkgroupStorageSize: memory } =
		gpu.device.limits;
	const { stepBits } = stepsOf(trellis);
	const { threads } = usual;
	const others: ViterbiForm[] = [
		...[threads / 4, threads / 2, 2 * threads, 4 * threads].map((threads) => ({
			...usual,
			threads,
		})),
		{ ...usual, buffers: 1 },
		{ ...usual, staged: Math.max(2, usual.staged / 4) },
		{ ...usual, staged: 4 * usual.staged },
	];
	const owned = ({ threads }: ViterbiForm) => 2 ** (trellis.stateBits - stepBits) / threads;
	return [
		usual,
		...others.filter((form) =>
			form.threads >= 2 ** stepBits && form.threads <= most && owned(form) >= 1 &&
			owned(form) * stepBits <= 32 && form.staged <= viterbiShape(trellis, form).rows &&
			viterbiBytes(trellis, form) <= memory
		),
	];
}

/** A row of the table for each form. */
async function measure(
	gpu: Gpu,
	trellis: Trellis,
	tiles: number,
	runs: number,
): Promise<string[][]> {
	const rows = TILE * tiles;
	const random = uniforms(1);
	const sum = () => Array.from({ length: 12 }, random).reduce((a, b) => a + b) - 6; // nearly normal
	using weight = gpu.upload(Float32Array.from({ length: rows * TILE }, sum), [rows, TILE]);
	using spread = gpu.upload(new Float32Array(rows).fill(1), [rows]);
	using values = gpu.empty([rows, TILE]);
	const lines: string[][] = [];
	let expected = "";
	for (const [i, form] of formsOf(gpu, trellis).entries()) {
		using stream = gpu.zeros([tiles, 1, stepsOf(trellis).words], "u32");
		const search = () =>
			searchTiles(gpu, { trellis, weight, spread, first: 0, values, stream }, form);
		await search(); // compiles
		const found = (await gpu.read(stream, "u32")).join();
		expected ||= found;
		// An idle GPU needs time to reach its clock rate.
		for (
			const start = performance.now();
			!gpu.software && performance.now() < start + WARM_UP_MS;
		) {
			await search();
			await gpu.idle();
		}
		let seconds = Infinity;
		for (let turn = 0; turn < 3; turn++) {
			await gpu.idle();
			const start = performance.now();
			for (let run = 0; run < runs; run++) await search();
			await gpu.read(values.view(0, [1]));
			seconds = Math.min(seconds, (performance.now() - start) / 1000 / runs);
		}
		const weights = TILE * TILE * tiles / seconds;
		lines.push([
			`${trellis.bits}`,
			`${trellis.stateBits}`,
			`${form.threads} threads, buffers: ${form.buffers}, rows: ${form.staged}`,
			(1000 * seconds).toFixed(3),
			(tiles / seconds).toFixed(0),
			(weights / 1e6).toFixed(1),
			(LAYER_WEIGHTS / weights).toFixed(2),
			(i === 0 ? "as the stage" : "") + (found === expected ? "" : " OTHER RESULT"),
		]);
	}
	return lines;
}
