import assert from "node:assert/strict";
import { generate, Gpu, ModelFiles, ResidentModel, UserError } from "../mod.ts";
import { Workplace } from "./micro_model.ts";

Deno.test("mod.ts opens Deno's WebGPU and models by their paths, as README shows", async () => {
	using place = new Workplace({ layers: 1 });
	const opened: [gpu?: Gpu, files?: ModelFiles] = []; // both are types as well
	await using gpu = opened[0] = await Gpu.open({ adapter: "auto" });
	using files = opened[1] = ModelFiles.open(place.model, "micro");
	using model = await ResidentModel.load(gpu, files);
	let tokens = 0;
	for await (const { id } of generate(model, { prompt: "The detective", maxTokens: 4 })) {
		assert(Number.isInteger(id));
		tokens++;
	}
	assert(tokens > 0 && tokens <= 4);
	assert.equal(files.name, "micro");
	assert.equal(files.folder, place.model);
	const missing = place.path("no");
	assert.throws(() => ModelFiles.open(missing), (error) => {
		assert(error instanceof UserError);
		return error.message.startsWith(`Cannot open the model "${missing}": there is no such folder`);
	});
});
