import type { PackedLinear, WeightGroup } from "../../codecs/codec.ts";
import type { GridWork } from "../../codecs/grid/row_code.ts";
import { gridWork, uploadGridGroup } from "../../codecs/grid/rows.ts";
import type { GridHost } from "../../codecs/grid/store.ts";
import { storeLinear, uploadLinears } from "../../codecs/mod.ts";
import { TransformedGroup } from "../../codecs/transformed_weight.ts";
import { uploadTrellisGroup, vectorForm } from "../../codecs/trellis/products.ts";
import {
	partsOf,
	tableFormBytes,
	tableFormsOf,
	type TrellisVectorForm,
	WHOLE_TILES,
} from "../../codecs/trellis/row_code.ts";
import type { TrellisHost } from "../../codecs/trellis/store.ts";
import type { Gpu } from "../../gpu/device.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { uniforms } from "../../models/synthetic.ts";
import { tableText } from "../table.ts";
import { count, runCommand, usageErrors } from "../task.ts";
import { gpuMilliseconds } from "./measure.ts";
import { RANDOM_FORMS } from "./random_packed.ts";

const HELP = `Usage: deno task bench:products [--form NAME] [--shape ROWSxCOLS] [--runs N]

Measures the product of a packed linear layer with one token on this machine's adapter, for each form
of linear layers and several variants of its kernel: the median time of several runs (from GPU
timestamps if available) and its ratio to that of BiLLM. Weights take turns, so that they exceed the
cache of a GPU. The variant that a model would use is marked.

Options
  --form NAME        BiLLM and one other form only: ${Object.keys(RANDOM_FORMS).join(", ")}
  --shape ROWSxCOLS  One shape only (those of LLaMA-7B; 256x256 on a software adapter)
  --runs N           Runs of each product (7 on a GPU, 1 on a software adapter)
  --help             Print this
`;

/** Bytes of the weights that take turns. */
const ALL_BYTES = 128e6;
/** Products of a run. */
const REPEAT = 64;

const usageError = usageErrors("bench:products");

const command = {
	name: "bench:products",
	help: HELP,
	options: { form: { type: "string" }, shape: { type: "string" }, runs: { type: "string" } },
	takesArguments: false,
} as const;

/** A way to multiply with linear layers of a form. */
interface Variant {
	name: string;
	/** Whether a model would use it. */
	isUsual: boolean;
	upload(gpu: Gpu): Promise<WeightGroup | undefined>;
}

await runCommand(command, async ({ values }) => {
	const shape = values.shape === undefined ? undefined : /^(\d+)x(\d+)$/.exec(values.shape);
	if (shape === null || shape?.slice(1).some((size) => Number(size) < 1)) {
		throw usageError(`--shape must be ROWSxCOLS, as in 4096x4096, found "${values.shape}"`);
	}
	const { form: only } = values;
	const forms = Object.keys(RANDOM_FORMS).filter((form) =>
		only === undefined || form === only || form === "billm"
	);
	if (only !== undefined && !(only in RANDOM_FORMS)) {
		throw usageError(
			`--form must be one of ${Object.keys(RANDOM_FORMS).join(", ")}, found "${only}"`,
		);
	}
	await using gpu = await openGpu();
	const runs = count(usageError, "--runs", values.runs, gpu.software ? 1 : 7);
	const shapes = shape
		? [[Number(shape[1]), Number(shape[2])]]
		: gpu.software
		? [[256, 256]]
		: [[4096, 4096], [22016, 4096], [4096, 11008]];
	console.log(`${gpu.name}, Deno ${Deno.version.deno}, median of ${runs} runs`);
	for (const [rows, cols] of shapes) {
		const lines: string[][] = [];
		let reference: number | undefined; // ms of BiLLM
		for (const form of forms) {
			const linear = RANDOM_FORMS[form].linear(rows, cols);
			const { parts } = storeLinear("", linear, { scales: "i8", flags: "plain" });
			const bytes = Object.values(parts).reduce((sum, own) => sum + own, 0);
			const variants: Variant[] = [
				{ name: "", isUsual: true, upload: (gpu) => uploadLinears(gpu, [linear]) },
				...(form.startsWith("grid") ? gridVariants(gpu, linear.host as GridHost) : []),
				...(linear.transform ? rotatedVariants(linear) : []),
				...("stream" in linear.host ? trellisVariants(gpu, linear.host as TrellisHost) : []),
			];
			for (const { name, isUsual, upload } of variants) {
				const ms = await milliseconds(gpu, upload, cols, gpu.software ? 1 : bytes, runs);
				if (ms === undefined) continue; // this adapter has no groups of the form
				reference ??= ms;
				lines.push([
					form,
					name,
					(1000 * ms).toFixed(1),
					(bytes / ms / 1e6).toFixed(0),
					(ms / reference).toFixed(2),
					isUsual ? "as in a model" : "",
				]);
			}
			gpu.trim();
		}
		console.log(`\n${rows} x ${cols}`);
		console.log(tableText(["form", "variant", "µs", "GB/s", "of billm", ""], lines, 2));
	}
});

/** The products of grids in several forms of the kernel. */
function gridVariants(gpu: Gpu, host: GridHost): Variant[] {
	const usual = gridWork(gpu, host.rows);
	const works: GridWork[] = [
		usual,
		...[[8, 1, 256], [8, 2, 256], [8, 2, 384], [8, 4, 512], [4, 2, 256], [4, 4, 512], [16, 1, 256]]
			.map(([rows, bands, threads]) => ({ rows, bands, threads })),
	];
	const nameOf = ({ rows, bands, threads }: GridWork) =>
		`${rows} rows, ${bands} bands, ${threads} threads`;
	const { maxComputeInvocationsPerWorkgroup } = gpu.device.limits;
	const unit = gpu.subgroupSize || 32;
	const fits = ({ bands, threads }: GridWork) =>
		threads <= maxComputeInvocationsPerWorkgroup && bands * unit <= threads;
	const byName = new Map(works.filter(fits).map((work) => [nameOf(work), work]));
	return [...byName].map(([name, work]) => ({
		name,
		isUsual: name === nameOf(usual),
		upload: (gpu) => Promise.resolve(uploadGridGroup(gpu, [host], work)),
	}));
}

/** The products of rotated layers if the rotation takes a dispatch of its own, and without it. */
function rotatedVariants(linear: PackedLinear): Variant[] {
	const { codec, host, transform } = linear;
	const inner = (gpu: Gpu) => codec.uploadGroup!(gpu, [host]);
	return [{
		name: "rotated in a dispatch of its own",
		isUsual: false,
		upload: async (gpu) => {
			const group = await inner(gpu);
			return group && new TransformedGroup(gpu, group, transform!, false);
		},
	}, { name: "not rotated", isUsual: false, upload: inner }];
}

/** The products of trellis layers without their rotation, in several forms of the kernel. */
function trellisVariants(gpu: Gpu, host: TrellisHost): Variant[] {
	const usual = vectorForm(gpu, host, host.rows);
	const parts = partsOf(host);
	const forms: TrellisVectorForm[] = [
		usual,
		WHOLE_TILES,
		...tableFormsOf(host).flatMap((table) =>
			[1, 2, 4].map((bands) => ({ parts, bands, threads: 256 * bands, turns: 4, table }))
		),
		{ ...usual, turns: 1 },
	];
	const nameOf = ({ parts, bands, threads, turns, table }: TrellisVectorForm) =>
		`${table}, ${parts} parts, ${bands} bands, ${threads} threads, ${turns} turns`;
	const { maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupStorageSize } = gpu.device.limits;
	const unit = gpu.subgroupSize || 32;
	const fits = ({ parts, bands, threads, table }: TrellisVectorForm) =>
		threads <= maxComputeInvocationsPerWorkgroup && parts * bands * unit <= threads &&
		tableFormBytes(host, table) + 8192 <= maxComputeWorkgroupStorageSize;
	const names = new Set<string>();
	const variants = forms.filter(fits).flatMap((form, i): Variant[] => {
		const name = nameOf(form);
		if (names.has(name)) return [];
		names.add(name);
		return [{
			name: `${name}, not rotated`,
			isUsual: i === 0,
			upload: (gpu) => uploadTrellisGroup(gpu, [host], form),
		}];
	});
	const random = uniforms(2);
	const shuffled = Array.from({ length: host.cols }, (_, col) => [random(), col])
		.sort(([a], [b]) => a - b);
	const order = Uint32Array.from(shuffled, ([, col]) => col);
	return [
		...variants,
		{
			name: "the first, columns in a random order",
			isUsual: false,
			upload: (gpu) => uploadTrellisGroup(gpu, [{ ...host, order }], usual),
		},
		{
			name: "the first, columns in order",
			isUsual: false,
			upload: (gpu) => uploadTrellisGroup(gpu, [{ ...host, order: undefined }], usual),
		},
	];
}

/** Milliseconds of a product, the median of some runs; undefined if there is no group. */
async function milliseconds(
	gpu: Gpu,
	upload: (gpu: Gpu) => Promise<WeightGroup | undefined>,
	cols: number,
	bytes: number,
	runs: number,
): Promise<number | undefined> {
	const groups: WeightGroup[] = [];
	const copies = gpu.software ? 1 : Math.ceil(ALL_BYTES / bytes);
	for (let i = 0; i < copies; i++) {
		const group = await upload(gpu);
		if (!group) return undefined;
		groups.push(group);
	}
	const random = uniforms(1);
	using x = gpu.upload(Float32Array.from({ length: cols }, () => random() - 0.5), [1, cols]);
	let turn = 0;
	const ms = await gpuMilliseconds(gpu, async () => {
		gpu.free(await groups[turn++ % copies].multiplyVector(x));
	}, { runs, repeat: gpu.software ? 1 : REPEAT });
	for (const group of groups) group[Symbol.dispose]();
	return ms;
}
