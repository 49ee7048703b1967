/**
 * Every WGSL text of the project, with `-- --print` also on the screen:
 * `deno test -A tests/gpu/kernel_source_test.ts -- --print`
 */
import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { type KernelNeed, needsOf, uniform } from "~/gpu/kernel.ts";
import { TILES } from "~/gpu/kernels/matmul/gemm.ts";
import { tileKernel, tileKernelBytes, tileThreads } from "~/gpu/kernels/matmul/gemm_tile_source.ts";
import { PROJECT } from "../checkout.ts";
import {
	completed,
	GENERATED,
	isPart,
	KERNEL_FILES,
	KERNEL_TEXTS,
	LAYOUTS,
	TEXTS,
} from "./kernel_texts.ts";
import { gpu } from "./gpu.ts";

const modules = KERNEL_FILES.filter((path) => path.endsWith(".ts"))
	.map((path) => readFileSync(path, "utf8"));

/** Whether this adapter has what texts may need. */
const HAS: Record<KernelNeed, boolean> = {
	"subgroups": gpu.subgroupSize > 0,
	"subgroup barriers": gpu.subgroupBarriers,
	"f64": gpu.f64,
	"f16": gpu.matrices,
	"subgroup matrices": gpu.matrices,
};

/** What the compiler says of a text; undefined if it is valid, or needs what this adapter lacks. */
async function complaint(code: string): Promise<string | undefined> {
	const needs = needsOf(code);
	if (!needs.every((need) => HAS[need])) return undefined;
	gpu.device.pushErrorScope("validation");
	gpu.device.createShaderModule({ code: (gpu.host.prelude?.(needs) ?? "") + code });
	return (await gpu.device.popErrorScope())?.message;
}

Deno.test("generated kernels are valid WGSL", async () => {
	for (const [name, source] of GENERATED) {
		if (Deno.args.includes("--print")) console.log(source);
		assert.equal(await complaint(source), undefined, name);
		assert(!/undefined|NaN|\bvectors\b|\$\{/.test(source), `${name}: a rest of the generator`);
	}
});

for (const [name, source] of TEXTS) {
	Deno.test(`${name} is valid WGSL, bound in order and in use`, async () => {
		if (Deno.args.includes("--print")) console.log(source);
		for (const [form, text] of completed(name)) {
			assert.equal(await complaint(text), undefined, form);
		}
		if (!isPart(name)) {
			const numbers = [...source.matchAll(/@binding\((\d+)\)/g)].map(([, number]) =>
				Number(number)
			);
			assert.deepEqual(numbers, numbers.map((_, i) => i), "bindings count from 0");
		}
		assert(modules.some((text) => text.includes(`/${name}"`)), "a module imports it");
	});

	Deno.test(`${name} begins with what it computes and names a reference that exists`, () => {
		assert.match(source, /^\/\/ \S/);
		const [, reference] = /Reference: (?:\w+\(\) in )?(\S+\.ts)\./.exec(source) ?? [];
		if (reference) assert(statSync(join(PROJECT, reference)).isFile);
		else assert(!/Reference:/.test(source));
	});

	Deno.test(`${name} lists u32 parameters before f32 ones, as uniform() packs them`, () => {
		const [, fields] = /struct Params \{([^}]*)\}/.exec(source) ?? [];
		if (fields === undefined) return;
		const types = [...fields.matchAll(/\w+: (\w+)/g)].map(([, type]) => type);
		assert.deepEqual(types, types.toSorted().reverse(), "u32 sorts after f32");
		assert(types.every((type) => type === "u32" || type === "f32"));
	});
}

Deno.test("needsOf() finds what a text needs beyond the core of WebGPU", () => {
	assert.deepEqual(needsOf("let a = subgroupAdd(x); // subgroupBarrier(), f64"), ["subgroups"]);
	assert.deepEqual(needsOf("@builtin(subgroup_invocation_id) lane: u32"), ["subgroups"]);
	assert.deepEqual(needsOf("subgroupBarrier();"), ["subgroup barriers"]);
	assert.deepEqual(needsOf("alias real = f64;"), ["f64"]);
	assert.deepEqual(needsOf("let one = 1.0lf;"), ["f64"]);
	assert.deepEqual(needsOf("let halves = unpack2x16float(x); // f16"), []);
	const counts: Record<string, number> = {};
	for (const text of KERNEL_TEXTS.values()) {
		for (const need of needsOf(text)) counts[need] = (counts[need] ?? 0) + 1;
	}
	assert.deepEqual(Object.keys(counts).sort(), ["f64", "subgroup barriers", "subgroups"]);
});

Deno.test("uniform() packs u32 first and then f32", () => {
	const packed = uniform([1, 0xffffffff], [0.5]);
	assert.deepEqual(new Uint32Array(packed.buffer, 0, 2), Uint32Array.of(1, 0xffffffff));
	assert.deepEqual(new Float32Array(packed.buffer, 8, 1), Float32Array.of(0.5));
	assert.equal(uniform([]).byteLength, 0);
});

Deno.test("the tile kernel keeps its sums in registers and its tiles in workgroup memory", () => {
	for (const layout of LAYOUTS) {
		for (const tile of TILES) {
			const source = tileKernel(layout, tile, "whole");
			assert(source.includes(`@workgroup_size(${tileThreads(tile)})`));
			for (const fit of ["whole", "paired"] as const) {
				const bytes = [
					...tileKernel(layout, tile, fit).matchAll(/array<array<vec4f, (\d+)>, (\d+)>/g),
				]
					.reduce((sum, [, width, depth]) => sum + Number(width) * Number(depth) * 16, 0);
				assert.equal(bytes, tileKernelBytes(layout, tile, fit));
			}
			const products = [...source.matchAll(/fma\(/g)].length;
			const vectors = tile.threadRows * tile.threadCols / 4;
			assert.equal(products, vectors * tile.depth, "written out, four entries each");
		}
		for (const tile of TILES.slice(0, 2)) { // which need no measurement
			assert(tileKernelBytes(layout, tile, "whole") <= 17408); // what most GPUs have is 32 KiB
		}
	}
});
