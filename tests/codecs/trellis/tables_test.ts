import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { tableBytes, tableOf } from "~/codecs/trellis/tables.ts";
import { stepsOf } from "~/codecs/trellis/trellis.ts";
import { searchTiles } from "~/codecs/trellis/viterbi.ts";
import { gpu } from "../../gpu/gpu.ts";
import { normals } from "../../reference/random.ts";

/** State bits, bits per weight, the mean squared error on unit Gaussians, and the SHA-256. */
// deno-fmt-ignore
const TABLES = [
  [12, 1, 0.2725, "8c5892d2e1499d74aa9f2a910239ada1eddc9d281d981c1d080bb98a60d05335"],
  [12, 1.5, 0.1412, "8c9ea2aa536f51bc73910b668a25e863943e0011d430524274e3aa5c39fc18f0"],
  [12, 2, 0.0724, "4cbb0057d7de165eef08c1b377c3c38f54e686e131705521f33c1aedc54b0a1f"],
  [12, 2.5, 0.0379, "3fc509101583337cb8a4f22d9baf26ac1713c9edae91261d12103586b50f7993"],
  [12, 3, 0.0191, "f6b7ef2c4449bc1b59e1cafe6083b5ba3bb332b86c6c40eb6dd70cf34ff5e909"],
  [8, 1, 0.2889, "d0615bf2b96a82fc0d091ade404c3024a3f9ab9a97ab9120b3ceb86f400f0b48"],
  [8, 2, 0.0819, "34b7fb1247650702da5d7b9c2c24a498d7ddb655698182ed2d46cc08ca5d058a"],
] as const;

for (const [stateBits, bits, error, sha256] of TABLES) {
	const trellis = { stateBits, bits };
	Deno.test(`the table of ${bits} bits with states of ${stateBits} has its bytes and its error`, async () => {
		const bytes = tableBytes(trellis);
		const table = tableOf(trellis);
		const { stepWeights, words } = stepsOf(trellis);
		assert.equal(createHash("sha256").update(bytes).digest("hex"), sha256);
		assert.equal(table.length, 2 ** stateBits * stepWeights);
		// No value that a GPU might take for 0.
		assert.ok(table.every((value) => value === 0 || Math.abs(value) >= 2 ** -14));

		const tiles = stateBits === 8 ? 64 : 24;
		const rows = 16 * tiles;
		const weight = normals(rows * 16, 7);
		using weightTensor = gpu.upload(weight, [rows, 16]);
		using spread = gpu.upload(new Float32Array(rows).fill(1), [rows]);
		using values = gpu.empty([rows, 16]);
		using stream = gpu.empty([tiles, 1, words], "u32");
		await searchTiles(gpu, { trellis, weight: weightTensor, spread, first: 0, values, stream });
		const found = await gpu.read(values);
		const square = weight.reduce((sum, w) => sum + w * w, 0);
		const off = weight.reduce((sum, w, i) => sum + (w - found[i]) ** 2, 0);
		// Relative to the weights that were drawn; the number of tiles leaves 2 % of chance.
		assert.ok(Math.abs(off / square / error - 1) < 0.02, `${off / square}, not ${error}`);
	});
}
