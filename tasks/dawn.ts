import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { DAWN_VERSION, findDawn } from "../hosts/dawn_gpu.ts";
import { dawnFolder, openGpu } from "../hosts/deno_gpu.ts";
import { runCommand } from "./task.ts";

const HELP = `Usage: deno task dawn

Installs Dawn's WebGPU (npm webgpu ${DAWN_VERSION}, 51 MB to download) into the cache folder of this program, and opens
it. Pipeline files use it with gpu: { backend: dawn }, other commands with BILLM_BACKEND=dawn. With
NVIDIA's tensor cores, gpu: { precision: f16 } then rounds large products to f16; it is experimental.

Options
  --help   Print this
`;

const command = {
	name: "dawn",
	help: HELP,
	options: {},
	takesArguments: false,
	interrupted: "The same command installs it again.",
} as const;

await runCommand(command, async ({ signal }) => {
	const folder = dawnFolder();
	if (!folder) {
		throw new UserError("There is no folder for it: set HOME, or BILLM_CACHE to a folder");
	}
	let file = findDawn(folder);
	if (!file) {
		console.log(`Installing webgpu ${DAWN_VERSION} into ${folder} ...`);
		mkdirSync(folder, { recursive: true });
		const dependencies = { webgpu: DAWN_VERSION };
		writeFileSync(join(folder, "package.json"), JSON.stringify({ dependencies }));
		writeFileSync(join(folder, "deno.json"), JSON.stringify({ nodeModulesDir: "manual" }));
		const { code, stderr } = await new Deno.Command(Deno.execPath(), {
			args: ["install", "--quiet"],
			cwd: folder,
			signal,
		}).output();
		file = findDawn(folder);
		if (code !== 0 || !file) {
			throw new UserError(
				`webgpu ${DAWN_VERSION} cannot be installed into "${folder}": ` +
					(new TextDecoder().decode(stderr).trim() || "it has no binding for this platform"),
			);
		}
	}
	await using gpu = await openGpu({ backend: "dawn" });
	const cores = gpu.matrices
		? "with tensor cores: gpu.precision f16 uses them"
		: "without tensor cores that Dawn can use: results are those of f32, at about Deno's speed";
	console.log(`${file}\n${gpu.name}, ${cores}`);
});
