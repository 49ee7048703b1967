import assert from "node:assert/strict";
import {
	copyFileSync,
	existsSync,
	mkdirSync,
	readdirSync,
	readFileSync,
	writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { VERSION } from "../base/version.ts";
import { PROJECT } from "./checkout.ts";
import { Workplace } from "./micro_model.ts";

async function deno(cwd: string, ...args: string[]) {
	const { INIT_CWD: _, ...env } = Deno.env.toObject();
	const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
		args,
		cwd,
		clearEnv: true,
		env: { ...env, NO_COLOR: "1" },
	}).output();
	const [out, error] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
	assert.equal(code, 0, `deno ${args.join(" ")}: ${error}`);
	return out + error;
}

const project = JSON.parse(readFileSync(join(PROJECT, "deno.json"), "utf8"));

Deno.test("a program in any folder imports the library through links, with its types", async () => {
	using place = new Workplace({ layers: 1 });
	const folder = place.path("program");
	mkdirSync(folder);
	const config = {
		links: [PROJECT],
		imports: { [project.name]: `jsr:${project.name}@${VERSION}` },
		unstable: project.unstable,
	};
	writeFileSync(join(folder, "deno.json"), JSON.stringify(config));
	copyFileSync(join(PROJECT, "deno.lock"), join(folder, "deno.lock")); // no look-ups of packages
	writeFileSync(
		join(folder, "main.ts"),
		`
    import { defineStage, generate, Gpu, ModelFiles, ResidentModel, z } from "${project.name}";
    const options = z.strictObject({ bits: z.int().default(2).describe("bits") });
    const given: z.output<typeof options> = options.parse({});
    const run = async () => {};
    defineStage({ name: "own", scope: "linear", summary: "", options, needs: [], gives: [], run });
    await using gpu = await Gpu.open();
    using files = ModelFiles.open(${JSON.stringify(place.model)});
    using model = await ResidentModel.load(gpu, files);
    let tokens = 0;
    for await (const { id } of generate(model, { prompt: "The", maxTokens: 3 })) tokens += Number(id >= 0);
    console.log(\`bits \${given.bits}, tokens \${tokens}\`);
    `,
	);
	const said = await deno(folder, "run", "--check", "--cached-only", "-A", "main.ts");
	assert.match(said, /bits 2, tokens [1-3]/);
});

Deno.test("deno publish accepts the package, which has no models, texts or tests", async () => {
	const said = await deno(PROJECT, "publish", "--dry-run", "--allow-dirty");
	assert.match(said, /Success Dry run complete/);
	const files = [...said.matchAll(/file:\/\/(\S+) \(/g)].map(([, file]) =>
		file.slice(PROJECT.length + 1)
	);
	assert(files.includes("mod.ts") && files.includes("LICENSE") && files.includes("README.md"));
	const inside = /^(mod\.ts|deno\.json|[A-Z]+(\.md)?|billm|[a-z]+\/.*\.(ts|wgsl|css))$/;
	assert.deepEqual(
		files.filter((file) => !inside.test(file) || /^(tests|examples)/.test(file)),
		[],
	);
});

Deno.test("every public symbol has a docstring", async () => {
	await deno(PROJECT, "doc", "--lint", "mod.ts");
});

Deno.test("all files name one version of the program, and one of Deno", () => {
	const read = (name: string) => readFileSync(join(PROJECT, name), "utf8");
	assert.equal(project.version, VERSION);
	assert.match(read("CITATION.cff"), new RegExp(`^version: ${VERSION}$`, "m"));
	assert(read("docs/library.md").includes(`"jsr:${project.name}@^${VERSION}"`));
	const [, deno] = read("billm").match(/^version=([\d.]+)$/m)!;
	assert.match(read("Dockerfile"), new RegExp(`^FROM denoland/deno:debian-${deno}$`, "m"));
});

Deno.test("forms and metadata of the project are YAML, and its pages link to what is there", () => {
	const folder = join(PROJECT, ".github");
	const files = readdirSync(folder, { recursive: true }).map((name) => join(folder, `${name}`));
	for (const file of [...files, join(PROJECT, "CITATION.cff")]) {
		if (/\.(ya?ml|cff)$/.test(file)) assert(parse(readFileSync(file, "utf8")), file);
	}
	for (const page of ["CONTRIBUTING", "CODE_OF_CONDUCT", "SECURITY", "LICENSES", "docs/library"]) {
		const path = join(PROJECT, `${page}.md`);
		for (const [, link] of readFileSync(path, "utf8").matchAll(/\]\((?!https:)([^)#]+)/g)) {
			assert(existsSync(join(path, "..", link)), `${page}.md: ${link}`);
		}
	}
});
