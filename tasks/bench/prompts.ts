import { billmMatmul, type UnpackedIn, unpackRows } from "../../codecs/billm/matmul.ts";
import { BillmWeight } from "../../codecs/billm/weight.ts";
import type { Weight } from "../../codecs/codec.ts";
import { DenseWeight } from "../../codecs/dense/weight.ts";
import { PackedRowsWeight } from "../../codecs/packed_rows/packed_rows.ts";
import { openGpu } from "../../hosts/deno_gpu.ts";
import { tableText } from "../table.ts";
import { count, runCommand, usageErrors } from "../task.ts";
import { gpuMilliseconds } from "./measure.ts";
import { RANDOM_FORMS } from "./random_packed.ts";

const HELP = `Usage: deno task bench:prompts [--tokens N] [--runs N]

Measures the product of a linear layer with the tokens of a prompt on this machine's adapter, for plain
matrices and each form of packed ones without rotation: the median time of several runs (from GPU
timestamps if available), and that of unpacking all rows alone.

Options
  --tokens N  Tokens (512 on a GPU, 32 on a software adapter)
  --runs N    Runs of each product (5 on a GPU, 1 on a software adapter)
  --help      Print this
`;

/** Products of a run. */
const REPEAT = 8;

const usageError = usageErrors("bench:prompts");

const command = {
	name: "bench:prompts",
	help: HELP,
	options: { tokens: { type: "string" }, runs: { type: "string" } },
	takesArguments: false,
} as const;

await runCommand(command, async ({ values }) => {
	await using gpu = await openGpu();
	const tokens = count(usageError, "--tokens", values.tokens, gpu.software ? 32 : 512);
	const runs = count(usageError, "--runs", values.runs, gpu.software ? 1 : 5);
	const repeat = gpu.software ? 1 : REPEAT;
	const shapes = gpu.software ? [[256, 256]] : [[4096, 4096], [11008, 4096], [4096, 11008]];
	console.log(`${gpu.name}, Deno ${Deno.version.deno}, ${tokens} tokens, median of ${runs} runs`);
	for (const [rows, cols] of shapes) {
		using x = gpu.zeros([tokens, cols]);
		const lines: string[][] = [];
		const add = async (
			name: string,
			multiply: () => Promise<void>,
			unpack?: () => Promise<void>,
		) => {
			const ms = await gpuMilliseconds(gpu, multiply, { runs, repeat });
			const alone = unpack && await gpuMilliseconds(gpu, unpack, { runs, repeat });
			const rate = 2 * tokens * rows * cols / ms / 1e9;
			lines.push([name, ms.toFixed(3), rate.toFixed(1), alone?.toFixed(3) ?? ""]);
		};
		const product = (weight: Weight) => async () => gpu.free(await weight.multiply(x));
		for (const dtype of ["f16", "f32"] as const) {
			using weight = new DenseWeight(gpu.zeros([rows, cols], dtype));
			await add(dtype, product(weight));
		}
		for (const [name, { linear }] of Object.entries(RANDOM_FORMS)) {
			const { codec, host } = linear(rows, cols);
			using weight = await codec.upload(gpu, host);
			if (weight instanceof PackedRowsWeight) {
				await add(name, product(weight), async () => {
					using _ = await weight.layer.unpack(gpu, 0, rows);
				});
			} else if (weight instanceof BillmWeight) {
				const { tensors } = weight;
				for (const place of ["tiles", "slabs"] satisfies UnpackedIn[]) {
					await add(
						`${name}, unpacked in ${place}`,
						async () => gpu.free(await billmMatmul(gpu, x, tensors, {}, place)),
						place === "tiles" ? undefined : async () => gpu.free(await unpackRows(gpu, tensors)),
					);
				}
			}
		}
		gpu.trim();
		console.log(`\n${rows} x ${cols}`);
		console.log(tableText(["form", "ms", "TFLOP/s", "unpacking, ms"], lines, 1));
	}
});
