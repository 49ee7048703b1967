import { add } from "~/gpu/kernels/elementwise/add.ts";
import { scale } from "~/gpu/kernels/elementwise/scale.ts";
import { assertClose } from "../../../assert_close.ts";
import { normals } from "../../../reference/random.ts";
import { gpu } from "../../gpu.ts";

for (const size of [1, 63, 64, 65, 65536 * 64 + 1]) { // the last one takes two dimensions of workgroups
	Deno.test(`scale() and add() of ${size} values`, async () => {
		const [x, y] = [normals(size, 1), normals(size, 2)];
		y[0] = 1e30; // far beyond the cap
		using xTensor = gpu.upload(x, [size]);
		using yTensor = gpu.upload(y, [size]);
		using sum = await add(gpu, xTensor, yTensor, 0.3);
		using plain = await add(gpu, xTensor, yTensor);
		assertClose(await gpu.read(sum), x.map((v, i) => v + 0.3 * y[i]), { abs: 1e-6, rel: 1e-6 });
		assertClose(await gpu.read(plain), x.map((v, i) => v + y[i]), { abs: 1e-6, rel: 1e-6 });
		await scale(gpu, xTensor, -1.7);
		assertClose(await gpu.read(xTensor), x.map((v) => -1.7 * v), { abs: 1e-7, rel: 1e-6 });
		await scale(gpu, yTensor, 0.5, 1.2);
		const capped = Float64Array.from(y, (v) => 1.2 * Math.tanh(0.5 * v / 1.2));
		assertClose(await gpu.read(yTensor), capped, { abs: 2e-6 });
	});
}
