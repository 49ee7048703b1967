import assert from "node:assert/strict";
import { HaarDraft } from "~/codecs/haar/draft.ts";
import { dequantizeHaar } from "~/codecs/haar/host.ts";
import { type HaarFit, quantizeHaarBlock } from "~/codecs/haar/quantize_block.ts";
import type { Gpu } from "~/gpu/device.ts";
import { assertClose } from "../../assert_close.ts";
import { hardware } from "../../gpu/devices.ts";
import { openGpu } from "../../gpu/open_gpu.ts";
import { rowsOf } from "../../reference/billm.ts";
import { haarColumnsReference, haarRowsReference } from "../../reference/haar.ts";
import { normals } from "../../reference/random.ts";

const own = await openGpu();
const [ROWS, COLS, SIZE] = [6, 86, 64];

/** Weights with a row of zeros, two blocks, the last one short; salient columns side by side. */
function makeLayer() {
	const values = normals(ROWS * COLS, 3, 0.3).map((w, i) => i % COLS === 5 ? 3 * w : w);
	values.fill(0, 4 * COLS, 5 * COLS);
	const salient = Array.from({ length: COLS }, (_, j) => Number(j % 9 === 5 || (j > 64 && j < 73)));
	const u = normals(COLS * COLS, 4, 0.05);
	for (let j = 0; j < COLS; j++) u[j * (COLS + 1)] = 1 + 0.5 * Math.abs(u[j]);
	return { values, salient, u };
}

async function quantize(gpu: Gpu, axis: "row" | "column", fit: HaarFit) {
	const { values, salient, u } = makeLayer();
	const layout = { rows: ROWS, cols: COLS, blockSize: SIZE, axis };
	using draft = new HaarDraft(gpu, layout);
	using quantized = gpu.empty([ROWS, COLS]);
	using factor = gpu.upload(u, [COLS, COLS]);
	const errors: Float32Array[] = [];
	for (let first = 0; first < COLS; first += SIZE) {
		const cols = Math.min(SIZE, COLS - first);
		const block = rowsOf(values, COLS).flatMap((row) => row.slice(first, first + cols));
		using weight = gpu.upload(Float32Array.from(block), [ROWS, cols]);
		using marks = gpu.upload(Uint32Array.from(salient.slice(first, first + cols)), [cols]);
		const input = { first, weight, salient: marks, factor };
		using error = await quantizeHaarBlock(gpu, input, fit, draft.linear, quantized);
		errors.push(await gpu.read(error));
	}
	const host = await draft.download();
	return { values, salient, u, host, errors, found: await gpu.read(quantized) };
}

const FITS: Record<string, HaarFit> = {
	published: { candidates: 41, scale: "rms", rounds: 0, nearest: false, feedback: false },
	refined: { candidates: 21, scale: "mean", rounds: 3, nearest: true, feedback: false },
};

for (const axis of ["row", "column"] as const) {
	for (const [name, fit] of Object.entries(FITS)) {
		Deno.test(`Haar coefficients by ${axis}, ${name}, agree with f64`, async () => {
			const { values, salient, u, host, errors, found } = await quantize(
				name === "refined" ? hardware : own,
				axis,
				fit,
			);
			assert.deepEqual(dequantizeHaar(host), found, "what is stored is what later layers see");
			const reference = axis === "row" ? haarRowsReference : haarColumnsReference;
			const form = { ...fit, rms: fit.scale === "rms" };
			const matrix = rowsOf(values, COLS);
			for (let first = 0; first < COLS; first += SIZE) {
				const end = Math.min(first + SIZE, COLS);
				const marks = salient.slice(first, end);
				for (let row = 0; row < ROWS; row += 2) {
					const pair = [row, row + 1].map((r) => matrix[r].slice(first, end));
					const expected = reference(pair, marks, form).flat();
					const own = [row, row + 1].flatMap((
						r,
					) => [...found.slice(r * COLS + first, r * COLS + end)]);
					// f16 scales.
					assertClose(own, expected, { abs: 2e-3, rel: 2e-3, what: `rows ${row}, from ${first}` });
				}
				errors[first / SIZE].forEach((e, i) => {
					const [r, j] = [Math.floor(i / (end - first)), first + i % (end - first)];
					const wanted = (values[r * COLS + j] - found[r * COLS + j]) / u[j * (COLS + 1)];
					assert.ok(Math.abs(e - wanted) < 1e-6, `error of ${r}, ${j}`);
				});
			}
		});
	}

	Deno.test(`Haar coefficients by ${axis} make up for the errors of earlier columns`, async () => {
		const fit = { ...FITS.refined, feedback: true };
		const { values, u, host, errors, found } = await quantize(
			axis === "row" ? own : hardware,
			axis,
			fit,
		);
		assert.deepEqual(dequantizeHaar(host), found);
		// With e of earlier columns, w_j - Σ e_k U_kj - q_j = e_j U_jj: W - Q = E U within a block.
		for (let first = 0; first < COLS; first += SIZE) {
			const cols = Math.min(SIZE, COLS - first);
			const error = errors[first / SIZE];
			for (let r = 0; r < ROWS; r++) {
				for (let j = 0; j < cols; j++) {
					let sum = 0;
					for (let k = 0; k <= j; k++) {
						sum += error[r * cols + k] * u[(first + k) * COLS + first + j];
					}
					const at = r * COLS + first + j;
					assert.ok(Math.abs(values[at] - found[at] - sum) < 2e-5, `${r}, ${first + j}`);
				}
			}
		}
	});
}
