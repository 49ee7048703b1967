import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { type Export, misfitLines } from "../export/export.ts";
import { EXPORT_FOLDER, exportModel, EXPORTS } from "../export/mod.ts";
import { defineStage, type ModelContext } from "../pipeline/stage.ts";

const NAMES = EXPORTS.map(({ name }) => name) as [string, ...string[]];
const TYPES = EXPORTS.flatMap(({ types = [] }) => types) as [string, ...string[]];

interface Options {
	to: string[];
	types?: string[];
	allow?: "lossy";
}

/** The stage that writes the packed model in formats of other programs, into the folder of the run. */
export const exportStage = defineStage({
	name: "export",
	scope: "model",
	summary: "Write the packed model for other programs",
	options: z.strictObject({
		"to": z.array(z.enum(NAMES)).min(1).describe(`The formats: ${NAMES.join(", ")}`),
		"types": z.array(z.enum(TYPES)).min(1).optional().describe(
			"Types that linear layers may have in gguf; default all but TQ1_0 and TQ2_0",
		),
		"allow": z.enum(["lossy"]).optional().describe(
			"lossy: approximate what does not map, instead of refusing it",
		),
	}),
	listOption: "to",
	needs: ["packed-model"],
	gives: [],

	async check(context, { to, allow }) {
		const model = context.get("model-files");
		for (const format of formatsOf(to)) format.check?.(model);
		if (allow === "lossy" || !context.stages.some(({ stage }) => stage.name === "rotate")) return;
		throw new UserError(
			`Cannot export to ${
				to.join(", ")
			}: the stage rotate turns the inputs of the linear layers, ` +
				`which other programs do not; leave rotate out (in a recipe, rotate: false)`,
		);
	},

	async restore(context, options) {
		const gone = formatsOf(options.to).filter((format) => !existsSync(pathOf(context, format)));
		if (gone.length === 0) return;
		context.folder.lock();
		for (const format of gone) await write(context, format, options);
	},

	async run(context, options) {
		for (const format of formatsOf(options.to)) await write(context, format, options);
	},
});

function formatsOf(names: readonly string[]): Export[] {
	return EXPORTS.filter(({ name }) => names.includes(name));
}

function pathOf({ folder }: ModelContext, { name, form }: Export): string {
	return join(folder.path, EXPORT_FOLDER, form.kind === "file" ? `model${form.ending}` : name);
}

async function write(context: ModelContext, format: Export, options: Options): Promise<void> {
	const { folder, emit, pause } = context;
	const path = pathOf(context, format);
	removeLeftovers(join(folder.path, EXPORT_FOLDER), format.name);
	const { bytes, types, misfits, notes } = await exportModel(format, folder.model, path, {
		lossy: options.allow === "lossy",
		types: options.types,
		overwrite: true,
		name: folder.path,
		pause,
	});
	for (const { text, instead } of misfitLines(misfits)) {
		const message = `${format.name} approximates as ${instead}: ${text}`;
		emit({ type: "warning", message });
	}
	const all = Object.entries(types).map(([type, count]) => `${count} ${type}`).join(", ");
	const text = [`${path}: ${bytesText(bytes)}; tensors: ${all}`, ...notes].join("; ");
	emit({ type: "stage", stage: "export", text });
}

/** Removes the temporary folders that killed runs have left. */
function removeLeftovers(folder: string, format: string): void {
	if (!existsSync(folder)) return;
	for (const name of readdirSync(folder)) {
		if (name.startsWith(`${format}-`) && name.length === format.length + 7) {
			rmSync(join(folder, name), { recursive: true, force: true });
		}
	}
}
