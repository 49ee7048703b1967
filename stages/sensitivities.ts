import { existsSync } from "node:fs";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { denoFile } from "../storage/deno_folder.ts";
import { writeJsonAtomically } from "../storage/files.ts";
import { readJson } from "../storage/json.ts";
import type { RatedLinear } from "./rate_plan.ts";

/** What sensitivities depend on so much that others are of no use. */
export interface MeasuredChain {
	/** SHA-256 of the model's files by name. */
	model: Record<string, string>;
	/** The stages with their options, without rates and rules for single linear layers. */
	stages: Record<string, unknown>;
	/** The option of the last stage that sets the rate. */
	option: string;
}

/** How sensitivities were measured. */
export interface Measurement {
	mode: "full" | "cheap";
	windows: number;
	length: number;
	calibration: unknown;
	seed: number;
}

/** The KL divergence in nats that a linear layer alone causes, by name and by rate. */
export type Losses = Record<string, Record<string, number>>;

const fileForm = z.object({
	format: z.literal(1),
	chain: z.object({
		model: z.record(z.string(), z.string()),
		stages: z.record(z.string(), z.unknown()),
		option: z.string(),
	}),
	measured: z.record(z.string(), z.unknown()),
	losses: z.record(z.string(), z.record(z.string(), z.number())),
});

/**
 * Reads a file of sensitivities.
 *
 * @returns The losses, or why they do not fit; undefined if there is no file.
 * @throws {UserError} If the file cannot be read or is of another kind.
 */
export function readSensitivities(
	path: string,
	chain: MeasuredChain,
	linears: readonly RatedLinear[],
): Losses | string | undefined {
	if (!existsSync(path)) return undefined;
	const { data } = fileForm.safeParse(readJson(denoFile(path)));
	if (!data) {
		throw new UserError(
			`"${path}" holds no sensitivities of this program; give another file, which is written if ` +
				"it does not exist",
		);
	}
	const text = (value: unknown) => JSON.stringify(value);
	const [found, { losses }] = [data.chain, data];
	if (text(Object.values(found.model).sort()) !== text(Object.values(chain.model).sort())) {
		return "they are those of another model";
	}
	if (text(found.stages) !== text(chain.stages) || found.option !== chain.option) {
		return "the stages or their options were others";
	}
	for (const { name, rates } of linears) {
		const missing = rates.find((rate) => losses[name]?.[rate] === undefined);
		if (missing !== undefined) return `they lack ${chain.option} ${missing} of "${name}"`;
	}
	return losses;
}

/** Writes a file of sensitivities atomically. @throws {UserError} If it cannot be written. */
export function writeSensitivities(
	path: string,
	chain: MeasuredChain,
	measured: Measurement,
	losses: Losses,
): void {
	writeJsonAtomically(path, { format: 1, chain, measured, losses });
}
