import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { counted } from "../base/figures.ts";
import { bytesText } from "../base/units.ts";
import { fetchFiles } from "../hub/fetch_files.ts";
import { type License, licenseOfFolder, licenseOnHub } from "../hub/license.ts";
import { hubSettings } from "../hub/settings.ts";
import { checkToken, upload } from "../hub/upload.ts";
import { type FileToUpload, planUpload, type UploadOptions } from "../hub/upload_plan.ts";
import { HUB_ID } from "../pipeline/run/hub_access.ts";
import { RUN_RECORD, type RunRecord } from "../pipeline/run/record.ts";
import { type Comparison, readRuns } from "../report/cells.ts";
import { type CardFacts, isOwnCard, modelCard, publicRecord } from "../report/card.ts";
import { MergedReport } from "../report/merged_report.ts";
import { finishedRun } from "../report/run_files.ts";
import { denoFile, denoFolder } from "../storage/deno_folder.ts";
import { readText } from "../storage/folder.ts";
import { terminalProgress } from "./open_model.ts";
import { runCommand, usageErrors } from "./task.ts";

const HELP = `Usage: deno task push RUN OWNER/NAME [options]

Uploads the packed model of a finished run to the Hugging Face hub, with a model card, the pipeline
file and a chart. The repository is created if it is not there. Files that it has with the same
content are not sent again, so the same command resumes. All changes are one commit. Needs a token
with the right to write in HF_TOKEN. See docs/push.md.

Options
  --private       Create a repository that only its owner sees
  --base MODEL    The base model on the hub, OWNER/NAME, if the run had it from a folder
  --card          Replace the repository's README.md even if its author has changed it
  --dry-run       Send nothing; print what would be sent, and the card
  --help          Print this

Exit codes: 0 done, 1 failed, 2 bad arguments, 130 interrupted.
`;

const usageError = usageErrors("push");

const options = {
	"private": { type: "boolean" },
	"base": { type: "string" },
	"card": { type: "boolean" },
	"dry-run": { type: "boolean" },
} as const;

const CHART = "chart.svg";
const CARD = "README.md";
const PIPELINE = "pipeline.yaml";

const interrupted = "The repository is as before; the same command resumes.";

await runCommand({ name: "push", help: HELP, options, interrupted }, async (given) => {
	const { values, positionals, signal } = given;
	if (positionals.length !== 2) {
		throw usageError(
			`Give a run and a repository, found ${counted(positionals.length, "argument")}`,
		);
	}
	const [folder, id] = positionals;
	if (values.base !== undefined && !HUB_ID.test(values.base)) {
		throw usageError(`--base must be OWNER/NAME, found "${values.base}"`);
	}
	const run = readRun(folder);
	const settings = hubSettings();
	if (!values["dry-run"]) checkToken(settings, id);
	const progress = terminalProgress();
	const upOptions: UploadOptions = {
		settings,
		signal,
		onWarning: (text) => console.error(`Warning: ${text}`),
		onProgress: (doing, done, total) =>
			progress(
				`${doing === "hashing" ? "Reading" : "Sending"} ${bytesText(done)} of ${bytesText(total)}`,
			),
	};
	const { record } = run;
	const { pipeline } = finishedRun(folder, record);
	const base = values.base ?? baseOnHub(record);
	const shown = publicRecord(record, base);
	const chart = new MergedReport({ done: [{ ...run, record: shown }], failed: [], missing: [] })
		.svg();
	const license = await licenseOf(record, base, upOptions);
	const facts: CardFacts = {
		id,
		base,
		license: license.keys,
		licenseFiles: Object.keys(license.files),
		pipeline,
		chart: chart === undefined ? undefined : CHART,
	};
	const card = modelCard(shown, facts);
	const files = [
		...modelFiles(folder, record),
		...Object.entries(license.files).map(([name, path]) => ({ name, content: { path } })),
		{ name: PIPELINE, content: { text: pipeline } },
		...chart === undefined ? [] : [{ name: CHART, content: { text: chart } }],
		{ name: CARD, content: { text: card } },
	];
	const plan = await planUpload(id, files, upOptions);
	progress("");
	const readme = plan.send.findIndex(({ name }) => name === CARD);
	const hasCard = plan.found.some(({ path }) => path === CARD);
	if (readme >= 0 && hasCard && !values.card && !await isOurs(plan.repository.id, upOptions)) {
		plan.send.splice(readme, 1);
		console.error(
			`Warning: ${CARD} of "${id}" was changed or written by its author and stays; --card replaces it`,
		);
	}
	warnOfPaths(pipeline);
	if (values["dry-run"]) return printPlan();
	if (plan.send.length + plan.remove.length === 0) {
		return console.log(`Nothing to do: "${id}" has all ${counted(plan.same.length, "file")}`);
	}
	const title = `Upload ${record.name} with billm ${record.billm}`;
	const url = await upload(plan, title, values.private ?? false, upOptions);
	progress("");
	console.log(`${summary()}: ${url}`);

	function summary(): string {
		const bytes = plan.send.reduce((sum, file) => sum + file.bytes, 0);
		return `${counted(plan.send.length, "file")} sent (${bytesText(bytes)}), ` +
			`${plan.same.length} unchanged, ${plan.remove.length} removed`;
	}

	function printPlan(): void {
		const kind = values.private ? "private" : "public";
		console.log(
			plan.isNew
				? `"${id}" would be created, ${kind}, or is not visible without another token`
				: `"${id}" is there, at commit ${plan.commit}`,
		);
		for (const { name, bytes } of plan.send) console.log(`send    ${name}  ${bytesText(bytes)}`);
		for (const { name } of plan.same) console.log(`same    ${name}`);
		for (const name of plan.remove) console.log(`remove  ${name}`);
		console.log(`\n${CARD}:\n\n${card}`);
	}
});

/** A finished run that packed a model. */
function readRun(folder: string): Comparison["done"][number] {
	if (!existsSync(join(folder, RUN_RECORD))) {
		throw usageError(`There is no run in "${folder}": no ${RUN_RECORD}; give the folder of one`);
	}
	const { done: [run], failed: [failed] } = readRuns([folder]);
	if (failed) throw new UserError(`Cannot upload "${folder}": ${failed.problem}`);
	if (!run.record.packed) {
		throw new UserError(
			`Cannot upload "${folder}": its pipeline has no stage "pack", so there is no model`,
		);
	}
	return run;
}

/** The base model of a run that had it from the hub. */
function baseOnHub({ model, commits = {} }: RunRecord): string | undefined {
	return Object.keys(commits).some((name) => name.startsWith(`${model}@`)) ? model : undefined;
}

/** The license of the base model: on the hub or in its folder. */
async function licenseOf(
	record: RunRecord,
	base: string | undefined,
	options: UploadOptions,
): Promise<License> {
	const license = base !== undefined
		? await licenseOnHub(base, options)
		: existsSync(record.model)
		? licenseOfFolder(denoFolder(record.model), record.model)
		: { keys: {}, files: {} };
	if (base === undefined) {
		console.error(
			"Warning: the run had its model from a folder, so the card names no base model; give --base",
		);
	}
	if (Object.keys(license.keys).length === 0) {
		console.error("Warning: the base model names no license, so the card names none either");
	}
	return license;
}

/** The files of the packed model, with the hashes that the run recorded. */
function modelFiles(folder: string, { packed }: RunRecord): FileToUpload[] {
	return packed!.files.map(({ name, sha256 }) => {
		const path = join(folder, "model", name);
		if (existsSync(path)) return { name, content: { path }, sha256 };
		throw new UserError(
			`Cannot upload "${folder}": "${path}" is missing; run the pipeline again with --overwrite`,
		);
	});
}

/** Whether the README.md of the repository is one that this program wrote. */
async function isOurs(id: string, options: UploadOptions): Promise<boolean> {
	const repository = { type: "model", id, revision: "main" } as const;
	const { settings, signal, onWarning } = options;
	const { folder } = await fetchFiles(repository, [CARD], { settings, signal, onWarning });
	return isOwnCard(readText(denoFile(join(folder, CARD))));
}

/** The pipeline file is published as it is. */
function warnOfPaths(pipeline: string): void {
	const paths = pipeline.match(
		/(?<![\w:/.])(?:~|\/(?:home|Users|root|mnt|media|tmp)\b)\/?[^\s,}\]"']*/g,
	);
	if (!paths) return;
	console.error(
		`Warning: ${PIPELINE} names folders of this machine, which the repository will show: ` +
			[...new Set(paths)].join(", "),
	);
}
