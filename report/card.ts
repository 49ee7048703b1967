import { basename, isAbsolute } from "node:path";
import { stringify } from "yaml";
import { dateText, decimal, listed, sizeText } from "../base/figures.ts";
import type { RunRecord } from "../pipeline/run/record.ts";
import { runTables } from "./run_report.ts";
import { escapeMarkdown } from "./table.ts";

/** What a card needs besides the record. */
export interface CardFacts {
	/** The repository that gets the card: `owner/name`. */
	id: string;
	/** The base model on the hub, if it is known. */
	base?: string;
	/** The keys of the base model's license, see `License`. */
	license: Record<string, string | string[]>;
	/** Names of files with the text of the license. */
	licenseFiles: readonly string[];
	/** The pipeline file as run. */
	pipeline: string;
	/** The name of the chart, if there is one. */
	chart?: string;
}

/** In each card that the program has written; others are kept. */
const MARK =
	"<!-- Written by billm push, which replaces this file as long as this line is in it. -->";

/** Whether a card was written by this program and not claimed by its reader. */
export function isOwnCard(text: string): boolean {
	return text.includes(MARK);
}

/**
 * A record for others to see: files and folders of the machine by their last names only.
 *
 * @param base The name of the base model on the hub, if it is known.
 */
export function publicRecord(record: RunRecord, base?: string): RunRecord {
	const { model, stages, evaluation } = record;
	const shown = { model: base ?? model, stages, evaluation };
	const isPath = (value: unknown) => typeof value === "string" && isAbsolute(value);
	const text = JSON.stringify(
		shown,
		(_, value) => isPath(value) ? basename(value as string) : value,
	);
	return { ...record, ...JSON.parse(text) };
}

/**
 * The model card of a packed model: README.md with metadata of the hub.
 *
 * @param record Of a finished run that packed a model, see {@link publicRecord}.
 * @see https://huggingface.co/docs/hub/model-cards
 */
export function modelCard(record: RunRecord, facts: CardFacts): string {
	const { id, base, license, licenseFiles, pipeline, chart } = facts;
	const { packed } = record;
	const bits = decimal(packed!.storedBits, 2);
	const methods = methodsOf(record);
	const metadata = {
		...base !== undefined && { base_model: base, base_model_relation: "quantized" },
		library_name: "billm",
		...license,
		pipeline_tag: "text-generation",
		tags: [...new Set(["billm", "quantized", bitsTag(packed!.storedBits), "webgpu", ...methods])],
	};
	const name = base === undefined
		? escapeMarkdown(record.model)
		: `[${base}](https://huggingface.co/${base})`;
	const parts = [
		`---\n${stringify(metadata)}---`,
		MARK,
		`# ${escapeMarkdown(id.split("/")[1])}`,
		`${name}, quantized to **${bits} bits per weight** of its linear layers: weight files of ` +
		`${sizeText(packed!.bytes)} in place of ${sizeText(packed!.originalBytes)}. Method: ` +
		`${listed(methods.map((method) => `\`${method}\``), "and")}.`,
		"## Use",
		"The files are in the format of BiLLM for Deno and WebGPU:",
		fenced("sh", [
			`deno task generate ${id} --prompt "Once upon a time"`,
			`deno task serve ${id}`,
		]),
		"## Results",
		...runTables(record),
		...chart === undefined ? [] : [`![The result against the size of the weight files](${chart})`],
		...calibrationOf(record),
		"## How it was made",
		`BiLLM ${record.billm}, on ${dateText(record.finished)}, on ${
			escapeMarkdown(record.adapter)
		}, ` +
		`with the pipeline file [pipeline.yaml](pipeline.yaml):`,
		fenced("yaml", [pipeline.trimEnd()]),
		fenced("sh", ["deno task quantize pipeline.yaml"]),
		"## License",
		licenseText(base, license, licenseFiles),
	];
	return parts.join("\n\n") + "\n";
}

/** "2-bit" */
function bitsTag(bits: number): string {
	return `${Math.max(1, Math.round(bits))}-bit`;
}

/** The methods of the linear layers; the record names none for BiLLM's own. */
function methodsOf({ layers = [] }: RunRecord): string[] {
	const linears = layers.flatMap(({ linears }) => linears).filter(({ dense }) => !dense);
	return [...new Set(linears.map(({ method }) => method ?? "billm"))].sort();
}

/** The calibration data, if the pipeline has any. */
function calibrationOf({ stages }: RunRecord): string[] {
	const options = stages.find(({ name }) => name === "calibrate")?.options;
	if (typeof options !== "object" || options === null) return [];
	const items = Object.entries(options)
		.filter(([, value]) => ["string", "number", "boolean"].includes(typeof value))
		.map(([key, value]) => `- ${key}: ${escapeMarkdown(String(value))}`);
	return ["## Calibration", items.join("\n")];
}

function licenseText(
	base: string | undefined,
	license: CardFacts["license"],
	files: readonly string[],
): string {
	const name = license.license_name ?? license.license;
	const of = base === undefined ? "the base model" : `[${base}](https://huggingface.co/${base})`;
	const links = files.map((file) => `[${file}](${file})`);
	const text = name === undefined
		? `That of ${of}, whose card names none.`
		: `That of ${of}: ${escapeMarkdown(String(name))}.`;
	return links.length === 0 ? text : `${text} See ${listed(links, "and")}.`;
}

/** A block of code, with a fence that is longer than any in it. */
function fenced(language: string, lines: readonly string[]): string {
	const text = lines.join("\n");
	const longest = Math.max(2, ...Array.from(text.matchAll(/`{3,}/g), ([run]) => run.length));
	const fence = "`".repeat(longest + 1);
	return `${fence}${language}\n${text}\n${fence}`;
}
