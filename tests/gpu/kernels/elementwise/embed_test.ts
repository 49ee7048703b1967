import { embed } from "~/gpu/kernels/elementwise/embed.ts";
import type { Dtype } from "~/gpu/tensor.ts";
import { assertClose } from "../../../assert_close.ts";
import { normals, seededRandom, uniforms } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

/** A table as it is stored, and the values that it stands for. */
function makeTable(rows: number, cols: number, dtype: Dtype) {
	const values = normals(rows * cols, rows + cols);
	if (dtype === "f32") return { values, tensor: gpu.upload(values, [rows, cols]) };
	if (dtype === "f16") {
		const halves = Float16Array.from(values);
		return { values: Float32Array.from(halves), tensor: gpu.upload(halves, [rows, cols], dtype) };
	}
	const words = Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >> 16);
	const kept = new Float32Array(Uint32Array.from(words, (bits) => bits << 16).buffer);
	return { values: kept, tensor: gpu.upload(words, [rows, cols], dtype) };
}

for (const dtype of ["f32", "f16", "bf16"] as const) {
	for (const cols of [1, 2, 63, 64, 65, 129]) {
		Deno.test(`embed() looks up rows of [11, ${cols}] ${dtype}`, async () => {
			const { values, tensor } = makeTable(11, cols, dtype);
			const random = seededRandom(cols);
			const ids = Uint32Array.from(
				{ length: 33 },
				(_, i) => i < 11 ? i : Math.floor(11 * random()),
			);
			const row = (id: number) => values.subarray(id * cols, (id + 1) * cols);
			const looked = Float32Array.from([...ids].flatMap((id) => [...row(id)]));
			using idTensor = gpu.upload(ids, [33]);
			using out = gpu.empty([33, cols]);
			await embed(gpu, idTensor, tensor, 0, out);
			assertClose(await gpu.read(out), looked, { what: "replaced" });

			const before = uniforms(33 * cols, 5);
			using sum = gpu.upload(before, [33, cols]);
			await embed(gpu, idTensor, tensor, 0, sum, true);
			const expected = looked.map((value, i) => value + before[i]); // one f32 addition each
			assertClose(await gpu.read(sum), expected, { what: "added" });
			gpu.free(tensor);
		});
	}

	Deno.test(`embed() joins the parts of a table of ${dtype} and leaves other ids alone`, async () => {
		const cols = 5;
		const parts = [makeTable(4, cols, dtype), makeTable(1, cols, dtype), makeTable(7, cols, dtype)];
		const ids = Uint32Array.of(11, 0, 3, 4, 5, 12, 0xffffffff, 4, 2, 10);
		const values = parts.flatMap((part) => [...part.values]);
		const before = uniforms(ids.length * cols, 6);
		using idTensor = gpu.upload(ids, [ids.length]);
		using out = gpu.upload(before, [ids.length, cols]);
		let first = 0;
		for (const { tensor } of parts) {
			await embed(gpu, idTensor, tensor, first, out);
			first += tensor.shape[0];
			gpu.free(tensor);
		}
		const expected = before.map((value, i) => {
			const id = ids[Math.floor(i / cols)];
			return id < first ? values[id * cols + i % cols] : value;
		});
		assertClose(await gpu.read(out), expected);
	});
}
