import { clampedSwiglu } from "~/gpu/kernels/elementwise/clamped_swiglu.ts";
import { assertClose } from "../../../assert_close.ts";
import { clampedSwigluReference } from "../../../reference/ops.ts";
import { uniforms } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

Deno.test("clampedSwiglu() agrees with the reference, also beyond its limits", async () => {
	for (const size of [1, 64, 65, 64 * 65535 + 3]) {
		const gate = uniforms(size, 1, -12, 12);
		const up = uniforms(size, 2, -12, 12);
		[0, 7, -7, 1e4, -1e4, 100].forEach((value, i) => {
			if (i < size) gate[i] = value;
			if (i < size) up[size - 1 - i] = value;
		});
		using gateTensor = gpu.upload(gate, [size]);
		using upTensor = gpu.upload(up, [size]);
		for (const numbers of [{ alpha: 1.702, limit: 7 }, { alpha: 1, limit: 2.5 }]) {
			using out = await clampedSwiglu(gpu, gateTensor, upTensor, numbers);
			const found = (await gpu.read(out)).subarray(0, 5000);
			const expected = Array.from(found, (_, i) => clampedSwigluReference(gate[i], up[i], numbers));
			assertClose(found, expected, { abs: 1e-5, rel: 2e-6, what: JSON.stringify(numbers) });
			if (size > 5000) break;
		}
	}
});
