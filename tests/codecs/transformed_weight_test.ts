// Groups whose product with a vector transforms its input, against f64 products of the dequantized weights
// with the transform undone.

import assert from "node:assert/strict";
import type { Codec, HostLinear, InputTransform, WeightGroup } from "~/codecs/codec.ts";
import { grid } from "~/codecs/grid/codec.ts";
import { levels } from "~/codecs/levels/codec.ts";
import { uploadLinears } from "~/codecs/mod.ts";
import type { PackedRows } from "~/codecs/packed_rows/packed_rows.ts";
import { transformsRows } from "~/codecs/packed_rows/vector.ts";
import { TransformedGroup } from "~/codecs/transformed_weight.ts";
import { trellis } from "~/codecs/trellis/codec.ts";
import { trellisRowCode, WHOLE_TILES } from "~/codecs/trellis/row_code.ts";
import { tableOnGpu } from "~/codecs/trellis/tables.ts";
import type { Gpu } from "~/gpu/device.ts";
import { undoOnHost } from "~/gpu/kernels/rotation/rotation.ts";
import { openAsHardware, openGpu, watchKernels } from "../gpu/open_gpu.ts";
import { randomGrid } from "./grid/random_grid.ts";
import { randomLevels } from "./levels/random_levels.ts";
import { checkGroup } from "./packed_rows/check_products.ts";
import { randomTrellis } from "./trellis/random_trellis.ts";

const gpu = await openAsHardware();
const TRELLIS = { bits: 2, stateBits: 12 } as const;
tableOnGpu(gpu, TRELLIS); // is kept

/** A codec whose linear layers are those of another one with a transformed input. */
function transformed<Host extends HostLinear>(
	codec: Codec<Host>,
	transform: InputTransform,
): Codec<Host> {
	return {
		...codec,
		dequantize(host, first, rows) {
			const values = codec.dequantize(host, first, rows);
			undoOnHost(values, host.cols, transform);
			return values;
		},
		uploadGroup: async (gpu, hosts) => {
			const group = await uploadLinears(gpu, hosts.map((host) => ({ codec, host, transform })));
			assert(group instanceof TransformedGroup && group.isFused, "the product transforms x");
			return group;
		},
	};
}

const TRANSFORMS: Record<string, InputTransform> = {
	"runs of 16": { rotation: { seed: 3, block: 16 } },
	"runs of 32, an exponent": { rotation: { seed: 4294967295, block: 32 }, exponent: -2 },
	"an exponent": { exponent: 3 },
};
/** Runs that only the kernel of signs and zones can transform with subgroups of 8 threads. */
const LONG: Record<string, InputTransform> = {
	"runs of 64": { rotation: { seed: 5, block: 64 } },
	"runs of 128, an exponent": { rotation: { seed: 6, block: 128 }, exponent: 1 },
};

const [ROWS, COLS] = [[40, 9], 1408];

for (const [i, [what, transform]] of Object.entries({ ...TRANSFORMS, ...LONG }).entries()) {
	Deno.test(`products of signs and zones transform their input: ${what}`, async () => {
		const kind = { count: 4, pattern: "free" } as const;
		const hosts = ROWS.map((rows) => randomLevels({ rows, cols: COLS, ...kind }).host);
		const inputs = i === 1 ? undefined : ["rms", "gated"] as const; // all of them once
		await checkGroup(gpu, transformed(levels, transform), hosts, inputs, [1]);
	});
}

for (const [i, [what, transform]] of Object.entries(TRANSFORMS).entries()) {
	Deno.test(`products of rows transform their input: ${what}`, async () => {
		const shapes = ROWS.map((rows) => ({ rows, cols: 224 }));
		await checkGroup(
			gpu,
			transformed(trellis, transform),
			shapes.map((shape) => randomTrellis({ ...shape, ...TRELLIS }).host),
			i === 1 ? undefined : ["addends", "activation"],
			[1],
		);
		// In an order of columns: 7 tiles in a panel of 8, and entries that are no whole vec4s.
		for (const cols of "rotation" in transform ? [224] : [224, 230]) {
			await checkGroup(
				gpu,
				transformed(trellis, transform),
				ROWS.map((rows) => randomTrellis({ rows, cols, ...TRELLIS }, true).host),
				i === 1 ? undefined : ["plain", "rms", "gated"],
				[1],
			);
		}
		if (i !== 1) return;
		const gridKind = { grid: "range", bits: 4, salient: false } as const;
		await checkGroup(
			gpu,
			transformed(grid, transform),
			shapes.map((shape) => randomGrid({ ...shape, groupSize: 32, ...gridKind }, 0, true).host),
			["addends", "rms"],
			[1],
		);
		await checkGroup(
			gpu,
			transformed(levels, transform),
			shapes.map((shape) => randomLevels({ ...shape, count: 8, pattern: "gaussian" }).host),
			["rms", "gated"],
			[1],
		);
	});
}

Deno.test("long runs, orders of several panels and software adapters take a dispatch to transform", async () => {
	const shape = { rows: 1, cols: 16384, ...TRELLIS };
	const { maxComputeWorkgroupStorageSize } = gpu.device.limits;
	assert(maxComputeWorkgroupStorageSize < 4 * shape.cols, "x takes several panels");
	const short = TRANSFORMS["runs of 16"];
	const long = { rotation: { seed: 7, block: 128 } };
	const upload = async (adapter: Gpu, isOrdered: boolean, transform: InputTransform) => {
		const { host } = randomTrellis(shape, isOrdered);
		return await uploadLinears(adapter, [{ codec: trellis, host, transform }]) as WeightGroup;
	};
	const software = await openGpu();
	for (
		const [adapter, isOrdered, transform] of [
			[gpu, true, short],
			[gpu, false, long],
			...(software.software ? [[software, false, short] as const] : []),
		] as const
	) {
		using group = await upload(adapter, isOrdered, transform);
		using x = adapter.zeros([1, shape.cols]);
		const names = watchKernels(adapter);
		adapter.free(await group.multiplyVector(x));
		assert(names.has("rotate"), [...names].join());
	}
});

Deno.test("products transform their input where that takes less time than a dispatch", () => {
	const transforms = (rows: number, cols: number) => {
		const layers = {
			rows,
			cols,
			starts: [0],
			tensors: [],
			code: () => trellisRowCode(TRELLIS, WHOLE_TILES),
		};
		return transformsRows(gpu, layers as unknown as PackedRows, {
			rotation: { seed: 1, block: 16 },
		});
	};
	assert.equal(transforms(4096, 4096), true, "256 workgroups of 16 rows");
	assert.equal(transforms(32000, 4096), false, "2000 workgroups");
	assert.equal(transforms(32000, 2048), true, "that transform less");
});
