import { copyRegion, placeRegion, type Region } from "~/gpu/kernels/elementwise/copy_region.ts";
import { assertClose } from "../../../assert_close.ts";
import { uniforms } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

// Both sides of the 16 x 4 of a workgroup.
const SIZES = [
	[1, 1],
	[1, 5],
	[3, 4],
	[4, 3],
	[5, 17],
	[31, 33],
	[32, 32],
	[33, 31],
	[65, 16],
	[15, 65],
	[129, 70],
];

/** A region of random values whose tensor is NaN everywhere else. */
function makeRegion(rows: number, cols: number, start: number, gap: number) {
	const values = uniforms(rows * cols, rows * 1000 + cols);
	const stride = cols + gap;
	const content = new Float32Array(start + (rows + 5) * stride).fill(NaN);
	for (let r = 0; r < rows; r++) {
		content.set(values.subarray(r * cols, (r + 1) * cols), start + r * stride);
	}
	const region: Region = {
		tensor: gpu.upload(content, [content.length]),
		start,
		stride,
		rows,
		cols,
	};
	return { region, values };
}

for (const [rows, cols] of SIZES) {
	Deno.test(`copyRegion() copies [${rows}, ${cols}] and pads with zeros`, async () => {
		for (
			const { start, gap, padding } of [{ start: 0, gap: 0, padding: 0 }, {
				start: 5,
				gap: 3,
				padding: 21,
			}]
		) {
			const { region, values } = makeRegion(rows, cols, start, gap);
			const stride = cols + padding;
			using target = gpu.empty([rows, stride]);
			await copyRegion(gpu, region, target, stride);
			const expected = Float32Array.from(
				{ length: rows * stride },
				(_, i) => i % stride < cols ? values[Math.floor(i / stride) * cols + i % stride] : 0,
			);
			assertClose(await gpu.read(target), expected);
			gpu.free(region.tensor);
		}
	});

	Deno.test(`placeRegion() leaves what surrounds [${rows}, ${cols}] alone`, async () => {
		const { region, values } = makeRegion(rows, cols, 2, 1);
		const place = { start: 7, stride: cols + 6 };
		const content = uniforms(place.start + rows * place.stride, 1, 2, 3);
		for (const width of [undefined, cols + 2]) {
			using tensor = gpu.upload(content, [content.length]);
			await placeRegion(gpu, region, { tensor, ...place }, width);
			const expected = content.slice();
			for (let r = 0; r < rows; r++) {
				for (let c = 0; c < (width ?? cols); c++) {
					expected[place.start + r * place.stride + c] = c < cols ? values[r * cols + c] : 0;
				}
			}
			assertClose(await gpu.read(tensor), expected);
		}
		gpu.free(region.tensor);
	});
}

Deno.test("placeRegion() does nothing for a region without columns", async () => {
	using source = gpu.upload(new Float32Array([1, 2]), [2, 1]);
	using tensor = gpu.upload(new Float32Array([3, 4]), [2, 1]);
	const region = { tensor: source, start: 0, stride: 1, rows: 2, cols: 0 };
	await placeRegion(gpu, region, { tensor, start: 0, stride: 1 });
	assertClose(await gpu.read(tensor), [3, 4]);
});

Deno.test("copyRegion() widens f16 and bf16", async () => {
	const values = [1, -2.5, 0.125, 65504, -0.5, 3];
	const halves = new Float16Array([9, ...values]);
	const words = new Uint16Array(new Float32Array([9, ...values]).buffer)
		.filter((_, i) => i % 2 === 1);
	for (const [bits, dtype] of [[halves, "f16"], [words, "bf16"]] as const) {
		using tensor = gpu.upload(bits, [7], dtype);
		using target = gpu.empty([2, 4]);
		await copyRegion(gpu, { tensor, start: 1, stride: 3, rows: 2, cols: 3 }, target, 4);
		const large = dtype === "f16" ? 65504 : 65280; // bf16 has eight digits
		assertClose(await gpu.read(target), [1, -2.5, 0.125, 0, large, -0.5, 3, 0]);
	}
});
