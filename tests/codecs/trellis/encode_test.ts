import assert from "node:assert/strict";
import type { TrellisDraft } from "~/codecs/trellis/draft.ts";
import { dequantizeTrellisHost } from "~/codecs/trellis/store.ts";
import { tableOf } from "~/codecs/trellis/tables.ts";
import { stepsOf, type Trellis } from "~/codecs/trellis/trellis.ts";
import { quantizeLinear } from "~/pipeline/run/quantize_linear.ts";
import { type Planned, StageClock } from "~/pipeline/run/run.ts";
import type { LinearStage } from "~/pipeline/stage.ts";
import { trellis as stage } from "~/stages/trellis.ts";
import { assertClose } from "../../assert_close.ts";
import { DEVICES } from "../../gpu/devices.ts";
import { matmul, transposed } from "../../reference/linear_algebra.ts";
import { normals } from "../../reference/random.ts";
import { encodeReference } from "../../reference/trellis.ts";
import { layerOnGpu } from "../../stages/linear_on_gpu.ts";

/** Correlated inputs of unequal size, one of them always zero. */
function hessianOf(cols: number): Float32Array {
	const tokens = 2 * cols + 8;
	const common = normals(tokens, 5);
	const x = normals(tokens * cols, 6).map((value, i) => {
		const col = i % cols;
		return col === 3 ? 0 : (value + 0.5 * common[Math.floor(i / cols)]) * (1 + col * 7 % 5);
	});
	return Float32Array.from(matmul(transposed(x, tokens, cols), x, cols, cols, tokens));
}

const LAYERS: [Trellis, rows: number, cols: number, order: "none" | "falling"][] = [
	[{ bits: 2, stateBits: 8 }, 20, 70, "falling"],
	[{ bits: 1, stateBits: 8 }, 20, 70, "none"],
	[{ bits: 1.5, stateBits: 12 }, 16, 32, "falling"],
	[{ bits: 2, stateBits: 8 }, 1, 40, "falling"],
	[{ bits: 1, stateBits: 8 }, 40, 1, "none"],
	[{ bits: 2, stateBits: 8 }, 1, 1, "falling"],
];

for (const { kernels, gpu } of DEVICES) {
	for (const [trellis, rows, cols, order] of LAYERS) {
		const what = `${rows} x ${cols}, ${JSON.stringify(trellis)}, order ${order}`;
		Deno.test(`the stage encodes as f64 does: ${what}, ${kernels}`, async () => {
			const damping = 0.02;
			const weight = normals(rows * cols, 7, 0.1);
			const hessian = hessianOf(cols);
			for (let col = 3; col < cols; col += cols) { // the dead column
				for (let row = 0; row < rows; row++) weight[row * cols + col] = 0;
			}
			const reference = { ...trellis, ...stepsOf(trellis), table: tableOf(trellis) };
			const options = { bits: trellis.bits, table: trellis.stateBits, order, damping };
			const layer = { name: "up", weight, hessian };
			const uploaded = await layerOnGpu(gpu, layer, 128, () => true);
			using _store = uploaded.store;
			const { linear, store, context } = uploaded;
			const planned = [{ stage, options: stage.options.parse(options) }];
			await quantizeLinear(
				context,
				store,
				linear,
				planned as unknown as Planned<LinearStage>[],
				new StageClock(gpu),
			);
			using draft = linear.draft as TrellisDraft;
			const host = await draft.download();
			assert.deepEqual(await gpu.read(linear.quantized), dequantizeTrellisHost(host));

			const isOrdered = order === "falling";
			// The factor's damping is that of the stage hessian.
			const expected = encodeReference(weight, hessian, rows, reference, {
				isOrdered,
				damping: 0.01,
				scaleDamping: damping,
			});
			assert.deepEqual(host.order, isOrdered ? Uint32Array.from(expected.order) : undefined);
			assert.deepEqual([...host.stream], expected.streams.flatMap((words) => [...words]));
			assert.deepEqual(host.scales.map(Math.f16round), host.scales);
			assertClose(host.scales, expected.scales, { rel: 2 ** -10, what: "scales" });
		});
	}
}
