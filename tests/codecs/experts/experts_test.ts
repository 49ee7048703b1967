// Products of routed tokens with the linear layers of their experts, dense and of each codec, in f64.

import assert from "node:assert/strict";
import type { HostLinear, InputTransform, PackedLinear } from "~/codecs/codec.ts";
import { DenseExperts } from "~/codecs/experts/dense_experts.ts";
import { type ExpertWeights, RoutedTokens } from "~/codecs/experts/expert_weights.ts";
import { CODECS, dequantizedLinear, expertKind, uploadExperts } from "~/codecs/mod.ts";
import type { Gpu } from "~/gpu/device.ts";
import { openAsHardware, openGpu } from "../../gpu/open_gpu.ts";
import { normals, seededRandom } from "../../reference/random.ts";
import { randomPacked } from "../billm/random_packed.ts";
import { randomGrid } from "../grid/random_grid.ts";
import { randomLevels } from "../levels/random_levels.ts";
import { randomTrellis } from "../trellis/random_trellis.ts";

const gpu = await openGpu();

const [EXPERTS, K] = [5, 2];
/** Experts 1 and 4 are elsewhere. */
const MEMBERS = [3, 0, 2];
const NOTHING = 12345;

const SHAPE = { rows: 38, cols: 208 };
const GRID = { ...SHAPE, groupSize: 64, grid: "range" } as const;
const BILLM = { ...SHAPE, blockSize: 128 } as const;

/** Linear layers of each codec, three of a kind. */
const SAMPLES: [codec: string, what: string, make: (seed: number) => HostLinear][] = [
	["billm", "codes", (seed) => {
		return randomPacked({ ...BILLM, zones: 2, planes: 2 }, seed, { coded: true }).host;
	}],
	["billm", "f16", (seed) => randomPacked({ ...BILLM, zones: 1, planes: 0 }, seed).host],
	[
		"grid",
		"salient, ordered",
		(seed) => randomGrid({ ...GRID, zeros: "free", bits: 2, salient: true }, 0.1, true, seed).host,
	],
	["levels", "3", (seed) => randomLevels({ ...SHAPE, count: 3, pattern: "free" }, seed).host],
	["levels", "5", (seed) => randomLevels({ ...SHAPE, count: 5, pattern: "free" }, seed).host],
	["trellis", "ordered", (seed) => {
		return randomTrellis({ ...SHAPE, bits: 1, stateBits: 8 }, true, seed).host;
	}],
];

/** Random experts of tokens, f32 `[tokens, 2 K]`, so that some expert gets none. */
function randomRouting(tokens: number, seed: number): Float32Array {
	const random = seededRandom(seed);
	const routing = new Float32Array(tokens * 2 * K);
	for (let token = 0; token < tokens; token++) {
		const first = Math.floor(random() * 4);
		const second = (first + 1 + Math.floor(random() * 3)) % 4;
		routing.set([first, second, 0.7, 0.3], token * 2 * K);
	}
	return routing;
}

/** Compares products with those of matrices, f64; slots of experts that are elsewhere stay. */
async function check(
	weights: ExpertWeights,
	matrixOf: (member: number) => ArrayLike<number>,
	tokens: number,
	each: boolean,
	tolerance = 3e-6,
): Promise<void> {
	const { rows, cols } = weights;
	const { gpu } = weights as unknown as { gpu: Gpu };
	const before = gpu.memory.current;
	const xs = normals(tokens * (each ? K : 1) * cols, tokens);
	const biases = normals(EXPERTS * rows, 3);
	const routing = randomRouting(tokens, tokens);
	{
		using x = gpu.upload(xs, [tokens, xs.length / tokens]);
		using bias = gpu.upload(biases, [EXPERTS, rows]);
		using onGpu = gpu.upload(routing, [tokens, 2 * K]);
		using y = gpu.upload(new Float32Array(tokens * K * rows).fill(NOTHING), [tokens, K * rows]);
		using routed = new RoutedTokens(gpu, onGpu, EXPERTS);
		await weights.multiply({ x, each, routed, bias, y });
		const found = await gpu.read(y);
		for (let pair = 0; pair < tokens * K; pair++) {
			const expert = routing[Math.floor(pair / K) * 2 * K + pair % K];
			const member = MEMBERS.indexOf(expert);
			const from = (each ? pair : Math.floor(pair / K)) * cols;
			for (let row = 0; row < rows; row++) {
				const value = found[pair * rows + row];
				if (member < 0) {
					assert.equal(value, NOTHING, `pair ${pair} of expert ${expert}`);
					continue;
				}
				const matrix = matrixOf(member);
				let sum = biases[expert * rows + row];
				let size = Math.abs(sum);
				for (let col = 0; col < cols; col++) {
					const product = xs[from + col] * matrix[row * cols + col];
					sum += product;
					size += Math.abs(product);
				}
				assert.ok(
					Math.abs(value - sum) <= tolerance * size,
					`pair ${pair}, row ${row}: ${value}, ${sum}`,
				);
			}
		}
	}
	assert.equal(gpu.memory.current, before, "everything is freed");
}

Deno.test("dense experts multiply the tokens that are routed to them", async () => {
	const hardware = await openAsHardware();
	const cases: [gpu: Gpu, tokens: number[], rows: number, cols: number, f16?: boolean][] = [
		[gpu, [1, 40], 37, 30],
		[gpu, [40], 36, 20],
		[gpu, [3, 40], 64, 40, true],
		[hardware, [9], 36, 20],
		[hardware, [260], 128, 32], // many enough for large tiles
	];
	for (const [device, counts, rows, cols, hasHalves] of cases) {
		{
			const matrices = MEMBERS.map((_, i) => normals(rows * cols, 7 + i));
			for (const dtype of hasHalves ? ["f32", "f16"] as const : ["f32"] as const) {
				using dense = new DenseExperts(device, rows, cols, MEMBERS, EXPERTS, dtype);
				const rounded = matrices.map((matrix) =>
					dtype === "f32" ? matrix : Float32Array.from(matrix, Math.f16round)
				);
				for (const [i, expert] of MEMBERS.entries()) {
					const data = dtype === "f32"
						? rounded[i]
						: new Uint16Array(Float16Array.from(matrices[i]).buffer);
					using own = device.upload(data, [rows, cols], dtype);
					device.copy(own, dense.matrix(expert));
				}
				for (const each of [false, true]) {
					for (const tokens of counts) await check(dense, (i) => rounded[i], tokens, each);
				}
			}
		}
	}
	await hardware[Symbol.asyncDispose]();
});

const TRANSFORM: InputTransform = { rotation: { seed: 3, block: 16 }, exponent: -3 };

for (const [name, what, make] of SAMPLES) {
	Deno.test(`${name}, ${what}: experts multiply few and many tokens in packed form`, async () => {
		const codec = CODECS.find((codec) => codec.name === name)!;
		for (const transform of [undefined, TRANSFORM]) {
			const linears = MEMBERS.map((_, i): PackedLinear => ({
				codec,
				host: make(100 + i),
				...(transform && { transform }),
			}));
			const [kind, ...others] = linears.map((linear) => expertKind(gpu, linear));
			assert.deepEqual([...new Set(others)], [kind]);
			assert.ok(kind !== undefined);
			using experts = await uploadExperts(gpu, linears, MEMBERS, EXPERTS);
			const matrices = linears.map((linear) => dequantizedLinear(linear));
			for (const each of transform ? [false] : [false, true]) {
				for (const tokens of [3, 11]) await check(experts, (i) => matrices[i], tokens, each);
			}
		}
	});
}
