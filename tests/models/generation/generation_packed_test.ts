import assert from "node:assert/strict";
import { argmax } from "~/gpu/kernels/reduce/argmax.ts";
import { continueTokens, ResidentModel } from "~/models/generation/generation.ts";
import { KeyValueCache } from "~/models/generation/kv_cache.ts";
import { assertClose } from "../../assert_close.ts";
import { hardware } from "../../gpu/devices.ts";
import { openGpu, watchKernels } from "../../gpu/open_gpu.ts";
import { type MicroModelOptions, type StageItem, Workplace } from "../../micro_model.ts";
import { openModel } from "../../open.ts";
import { LoadedModel } from "../loaded_model.ts";

const software = await openGpu();
const MODELS: Record<string, MicroModelOptions> = {
	"llama": { intermediate: 200, config: { hidden_act: "gelu" } },
	"mistral with a sliding window": { config: { model_type: "mistral", sliding_window: 5 } },
	"opt": { family: "opt", hidden: 80, intermediate: 150 },
	"opt with norms last": { family: "opt", config: { do_layer_norm_before: false } },
};

for (const [name, options] of Object.entries(MODELS)) {
	Deno.test(`on a GPU, a packed ${name} gives the logits of its matrices, token by token`, async () => {
		using place = new Workplace({ layers: 2, ...options });
		const blocks = place.method.slice(0, 6); // up to the zones; compensate has blocks of 32 there
		await place.run({ stages: [...blocks, "compensate", "pack"] });
		const folder = place.path("out", "model");
		const text = Int32Array.from({ length: 12 }, (_, i) => (i * 389 + 7) % 4096);
		const prompt = 2; // as for three and four, but compiled in a third of the time

		const expected = await (async () => {
			using loaded = await LoadedModel.open(software, folder);
			return await loaded.logits([text]);
		})();
		const before = hardware.memory.current;
		{
			using files = openModel(folder);
			using model = await ResidentModel.load(hardware, files);
			using cache = new KeyValueCache(hardware, files.architecture, text.length, "f32");
			const names = watchKernels(hardware);
			using id = hardware.empty([1], "u32");
			for (let done = 0; done < text.length;) {
				const count = done === 0 ? prompt : 1;
				const ids = text.subarray(done, done + count);
				using uploaded = hardware.upload(ids, [count], "u32");
				if (done > prompt) hardware.copy(uploaded, id);
				using logits = done > prompt
					? await model.logitsAfter(id, cache)
					: (await model.logits(ids, cache))!;
				done += count;
				const row = expected.subarray((done - 1) * 4096, done * 4096);
				assertClose(await hardware.read(logits), row, { abs: 1e-3, what: `after ${done} tokens` });
				using best = await argmax(hardware, logits);
				assert.equal((await hardware.read(best, "u32"))[0], row.indexOf(Math.max(...row)));
			}
			const products = [...names].filter((name) => name.startsWith("packed_vector"));
			assert(products.length >= 2, `a layer is ${products.join(", ")}`);
			assert(![...names].some((name) => name.startsWith("packed_matvec_") && name.includes("_1x")));
		}
		assert.equal(hardware.memory.current, before);
	});
}

/** Chains of stages that store linear layers in each form that has a product of its own. */
const CHAINS: Record<string, StageItem[]> = {
	"grids of 4 bits": [{ rtn: { bits: 4 } }, "pack"],
	"grids in an order of columns": ["hessian", { gptq: { bits: 3, order: "falling" } }, "pack"],
	"grids with salient weights": ["hessian", "pb-llm", "pack"],
	"grids, rotated": [{ rotate: { block: 16 } }, { rtn: { bits: 4 } }, "pack"],
};

for (
	const [name, stage] of Object.entries({
		"4 levels": { levels: { rounds: 0 } },
		"8 levels": { levels: { count: 8, rounds: 0 } },
		"a trellis of 2 bits": { trellis: { table: 8 } },
	})
) CHAINS[name] = [{ rotate: { block: 16 } }, "hessian", stage, "pack"];

for (const [name, chain] of Object.entries(CHAINS)) {
	Deno.test(`on a GPU, a model with its linear layers on ${name} gives the logits and the text of its matrices`, async () => {
		using place = new Workplace({ layers: 2 });
		await place.run({ stages: [...place.method.slice(0, 2), ...chain] });
		const folder = place.path("out", "model");
		const text = Int32Array.from({ length: 6 }, (_, i) => (i * 389 + 7) % 4096);
		using files = openModel(folder);
		(await ResidentModel.load(hardware, files))[Symbol.dispose](); // what a device keeps: tables
		const before = hardware.memory.current;
		{
			using loaded = await LoadedModel.open(software, folder);
			const expected = await loaded.logits([text]);
			using model = await ResidentModel.load(hardware, files);
			using cache = new KeyValueCache(hardware, files.architecture, text.length, "f32");
			const names = watchKernels(hardware);
			for (let done = 0; done < text.length; done++) {
				using logits = (await model.logits(text.subarray(done, done + 1), cache))!;
				const row = expected.subarray(done * 4096, (done + 1) * 4096);
				const what = `after ${done + 1} tokens`;
				assertClose(await hardware.read(logits), row, { abs: 1e-3, what });
			}
			const products = [...names].filter((name) => /^(row|packed)_vector/.test(name));
			assert(products.length >= 2, `a layer is ${products.join(", ")}`);
			assert(
				![...names].some((name) => /^(matvec|gemm|unpack|packed_matvec)/.test(name)),
				[...names].join(),
			);
			// The greedy text, which the model of matrices continues token by token.
			const greedy: number[] = [];
			for await (const { id } of continueTokens(model, [...text], { maxTokens: 5 })) {
				greedy.push(id);
			}
			const known = [...text];
			while (known.length < text.length + 5) {
				const logits = await loaded.logits([Int32Array.from(known)]);
				const last = logits.subarray(logits.length - 4096);
				known.push(last.indexOf(Math.max(...last)));
			}
			assert.deepEqual(greedy, known.slice(text.length));
		}
		assert.equal(hardware.memory.current, before);
	});
}
