/**
 * The fenced blocks of README and docs/, and what can be done with them.
 *
 * A comment before a block of commands says whether tests run it: `<!-- run -->` in every test run, where
 * long commands do less ({@link shortened}); `<!-- run in test:docs -->` by that task alone;
 * `<!-- not run: REASON -->` by none. Blocks of YAML are pipelines or parts of one, unless
 * `<!-- no pipeline: WHAT -->` says what else.
 */

import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { parse, stringify } from "yaml";
import { importStage } from "../tasks/task.ts";
import { loadGrid } from "../pipeline/grid/load_grid.ts";
import { RECIPES, STAGES } from "../stages/mod.ts";
import { PROJECT, runScript } from "./checkout.ts";

/** README first: what its commands leave is there for those of the other pages. */
export const PAGES = [
	"README.md",
	...readdirSync(join(PROJECT, "docs")).filter((name) => name.endsWith(".md")).sort()
		.map((name) => `docs/${name}`),
];

export interface Block {
	/** `PAGE:LINE` of its first line. */
	where: string;
	language: string;
	/** The comment before it. */
	marker: string;
	code: string;
}

export function textOf(page: string): string {
	return readFileSync(join(PROJECT, page), "utf8");
}

/** The fenced blocks of a page. */
export function blocksOf(page: string): Block[] {
	const text = textOf(page);
	const fences = /^(?:<!-- (.*) -->\n)?```(\w*)\n([^]*?)^```$/gm;
	return [...text.matchAll(fences)].map(
		({ 0: all, 1: marker = "", 2: language, 3: code, index }) => {
			const line = text.slice(0, index + all.indexOf("```")).split("\n").length + 1;
			return { where: `${page}:${line}`, language, marker, code };
		},
	);
}

export function isShell({ language }: Block): boolean {
	return ["sh", "bash", "console", "shell"].includes(language);
}

/** The commands of a block with less to do: 8 tokens, and rounding in place of the recipe. */
export function shortened(code: string): string {
	return code
		.replace(
			/quantize examples\/tiny-llama\.yaml(?!.*--(check|set))/g,
			"$& --set recipe=rtn --set stages.calibrate=false --set stages.evaluate.perplexity=" +
				"'[{ dataset: examples/text/evaluation.txt.gz, sequence-length: 64, windows: 2 }]'",
		)
		.replace(/billm generate \S+/g, "$& --max-tokens 8");
}

/** Runs blocks of commands in a copy of the checkout, in their order, until one fails. */
export async function runBlocks(
	blocks: readonly Block[],
	folder: string,
	prepare = (code: string) => code,
): Promise<void> {
	const copy = copyCheckout(join(folder, "checkout"));
	const commands = join(folder, "commands");
	mkdirSync(commands);
	// Stands for a browser.
	writeFileSync(join(commands, "xdg-open"), '#!/bin/sh\ntest -s "$1"\n', { mode: 0o755 });
	const env = {
		PATH: `${commands}${delimiter}${Deno.env.get("PATH")}`,
		HF_HOME: join(folder, "hub"),
		HF_HUB_OFFLINE: "1",
		BILLM_NO_INSTALL: "1",
	};
	for (const { where, code } of blocks) {
		const { code: status, stdout, stderr } = await runScript(prepare(code), copy, env);
		if (status !== 0) {
			throw new Error(`${where} ended with ${status}:\n${code}\n${stdout}${stderr}`);
		}
	}
}

/** A copy of the files that belong to the project, with nothing beside it. */
function copyCheckout(folder: string): string {
	mkdirSync(folder);
	const left = ["out", "dist", "site", ".git", ".gpu", "node_modules"];
	for (const name of readdirSync(PROJECT).filter((name) => !left.includes(name))) {
		cpSync(join(PROJECT, name), join(folder, name), { recursive: true });
	}
	return folder;
}

/**
 * Checks a block of YAML as `quantize --check` does. A part of a pipeline is completed before: stages as a
 * list or a map, or some keys of a file.
 *
 * @throws {PipelineFileError} If it is wrong.
 */
export async function checkYaml(code: string): Promise<void> {
	const value = parse(code);
	const text = value?.name === undefined ? stringify(completed(value)) : code;
	const path = join(PROJECT, "examples/stages/block.yaml"); // custom stages are those of the examples
	await loadGrid(path, { stages: STAGES, recipes: RECIPES, importStage, text });
}

const NAMES = STAGES.map(({ name }) => name);
/** Stages that stand for a chain of their own, and the one of BiLLM. */
const QUANTIZERS = ["rtn", "gptq", "levels", "trellis", "pb-llm", "sign", "arb", "hbllm"];

/** A whole pipeline with what a block has of one. */
function completed(part: unknown): Record<string, unknown> {
	if (Array.isArray(part)) {
		const named = part.map((item) => typeof item === "string" ? { [item]: null } : item);
		return completed(Object.assign({}, ...named));
	}
	const keys = part as Record<string, unknown>;
	if (Object.keys(keys).every((key) => NAMES.includes(key))) return completed({ stages: keys });
	const { recipe, stages = {}, matrix } = keys;
	const base = { name: "block", model: "model", ...keys };
	if (Array.isArray(stages)) return base;
	const given = stages as Record<string, unknown>;
	const quantizer = QUANTIZERS.find((name) => name in given);
	const chain = recipe ?? (quantizer ? "gptq" : "default");
	const isVaried = matrix !== undefined && "recipe" in (matrix as object);
	return {
		...base,
		...(isVaried ? {} : { recipe: chain }),
		stages: {
			...(chain === "rtn" ? {} : { calibrate: { dataset: "wikitext2" } }),
			...(recipe === undefined && quantizer && quantizer !== "gptq" && { gptq: false }),
			...(quantizer === "pb-llm" && { rotate: false }),
			...given,
		},
	};
}
