import type { Gpu } from "~/gpu/device.ts";
import { crossEntropy } from "~/gpu/kernels/reduce/cross_entropy.ts";
import { assertClose } from "../../../assert_close.ts";
import { crossEntropyReference } from "../../../reference/decoder.ts";
import { normals, seededRandom } from "../../../reference/random.ts";
import { DEVICES } from "../../devices.ts";

/** The losses of `rows` rows whose vocabulary comes in parts. */
async function losses(
	gpu: Gpu,
	logits: Float32Array,
	targets: Uint32Array,
	parts: number[],
): Promise<Float32Array> {
	const rows = targets.length;
	const vocabulary = logits.length / rows;
	using state = gpu.empty([rows, 4]);
	using targetTensor = gpu.upload(targets, [rows]);
	let first = 0;
	for (const cols of parts) {
		const part = new Float32Array(rows * cols);
		for (let r = 0; r < rows; r++) {
			const at = r * vocabulary + first;
			part.set(logits.subarray(at, at + cols), r * cols);
		}
		using partTensor = gpu.upload(part, [rows, cols]);
		await crossEntropy(gpu, partTensor, targetTensor, first, state);
		first += cols;
	}
	return (await gpu.read(state)).filter((_, i) => i % 4 === 3);
}

function expected(logits: Float32Array, targets: Uint32Array): number[] {
	const vocabulary = logits.length / targets.length;
	return Array.from(
		targets,
		(target, r) =>
			crossEntropyReference(logits.subarray(r * vocabulary, (r + 1) * vocabulary), target),
	);
}

for (const { kernels, gpu } of DEVICES) {
	for (
		const parts of [
			[1],
			[2],
			[15],
			[16],
			[17],
			[127],
			[128],
			[129],
			[1, 1, 1],
			[5, 128, 3, 33],
			[1000],
			[700, 300],
		]
	) {
		Deno.test(`crossEntropy() with ${kernels} agrees with the reference for parts of ${parts}`, async () => {
			const vocabulary = parts.reduce((sum, cols) => sum + cols, 0);
			const rows = 37;
			const random = seededRandom(vocabulary);
			const logits = normals(rows * vocabulary, vocabulary, 3);
			const targets = Uint32Array.from({ length: rows }, () => Math.floor(random() * vocabulary));
			targets[0] = 0;
			targets[1] = vocabulary - 1;
			targets[2] = parts[0] - 1;
			targets[3] = Math.min(parts[0], vocabulary - 1); // the first id of the second part
			logits.fill(-2, 4 * vocabulary, 5 * vocabulary); // all equal
			logits[5 * vocabulary + targets[5]] = 60; // certain
			logits[6 * vocabulary + targets[6]] = -60; // hopeless
			const actual = await losses(gpu, logits, targets, parts);
			// Up to 1000 terms are added in f32; the loss is a difference of numbers up to 60.
			assertClose(actual, expected(logits, targets), { abs: 1e-5, rel: 1e-6 });
		});
	}

	Deno.test(`crossEntropy() with ${kernels} holds logits of any size`, async () => {
		const logits = new Float32Array(5 * 50);
		const values = normals(50, 1, 3);
		[1e4, -1e4, 90, -3e38].forEach((offset, r) => {
			for (let i = 0; i < 50; i++) {
				logits[r * 50 + i] = r === 3 && i > 0 ? offset : offset + values[i];
			}
		});
		logits[3 * 50] = 1; // the others of row 3 have no probability
		logits[4 * 50 + 37] = 500; // e^500 is infinite in f32
		const targets = Uint32Array.of(3, 49, 20, 0, 5);
		for (const parts of [[50], [20, 30], [1, 49]]) {
			const actual = await losses(gpu, logits, targets, parts);
			assertClose(actual, expected(logits, targets), { abs: 2e-3 }); // an f32 near 1e4 is good to 1e-3
		}
	});

	Deno.test(`crossEntropy() with ${kernels} reaches beyond 65535 rows`, async () => {
		const rows = 65535 + 2;
		const logits = normals(rows * 3, 9);
		const targets = Uint32Array.from({ length: rows }, (_, r) => r % 3);
		const actual = await losses(gpu, logits, targets, [3]);
		assertClose(actual, expected(logits, targets), { abs: 2e-6, rel: 1e-6 });
	});
}
