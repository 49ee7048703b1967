import { UserError } from "../base/errors.ts";
import { counted } from "../base/figures.ts";
import type { ModelFiles } from "../models/model_files.ts";
import type { ExportSource } from "./source.ts";

/** What an export is asked for. */
export interface ExportOptions {
	/** Whether tensors that do not map exactly are approximated; they are refused otherwise. */
	lossy: boolean;
	/** Preferred types of a format that has several, the first that holds a tensor counts. */
	types?: readonly string[];
	/** Called periodically; may throw to abort. */
	pause(): Promise<void>;
}

/** A tensor that a format cannot hold exactly. */
export interface Misfit {
	/** The name of the linear layer or matrix. */
	tensor: string;
	/** Why, as the end of a sentence. */
	problem: string;
	/** What would map. */
	remedy: string;
	/** What is written if approximations are allowed: "F16, dequantized". */
	instead: string;
}

/** What an export has written. */
export interface Exported {
	/** Bytes of the written files. */
	bytes: number;
	/** The number of tensors by what they are stored as. */
	types: Record<string, number>;
	/** What was approximated. */
	misfits: Misfit[];
	/** What the user of the file has to know. */
	notes: string[];
}

/** A format of other programs. */
export interface Export {
	/** As commands and pipeline files name it. */
	readonly name: string;
	/** What it writes, in one line. */
	readonly summary: string;
	/** Whether the model is a folder or a single file, then with the ending of its name. */
	readonly form: { kind: "folder" } | { kind: "file"; ending: string };
	/** The types that {@link ExportOptions.types} may name; none if the format has no choice. */
	readonly types?: readonly string[];
	/**
	 * Early check of a model whose linear layers are not quantized yet.
	 *
	 * @throws {UserError} If it cannot be exported whatever its codes are.
	 */
	check?(model: ModelFiles): void;
	/**
	 * Writes a model.
	 *
	 * @param path The file, or an empty folder. A file appears when it is complete.
	 * @throws {UserError} If the model cannot be read, something does not map, or it cannot be written.
	 */
	write(source: ExportSource, path: string, options: ExportOptions): Promise<Exported>;
}

/**
 * Refuses tensors that do not map, unless approximations are allowed.
 *
 * @throws {UserError} With each problem, the tensors that have it, and what would map.
 */
export function refuseMisfits(format: string, misfits: readonly Misfit[], lossy: boolean): void {
	if (lossy || misfits.length === 0) return;
	const lines = misfitLines(misfits).map(({ text, remedy }) => `${text}; what maps: ${remedy}`);
	throw new UserError(
		`Cannot export to ${format} exactly, ${counted(misfits.length, "tensor")} of the model ` +
			`cannot be expressed:\n${lines.map((line) => `  - ${line}`).join("\n")}\n` +
			`With --allow lossy (in a pipeline file, allow: lossy) they are approximated`,
	);
}

/** A line for each problem of some tensors, and what would map. */
export function misfitLines(
	misfits: readonly Misfit[],
): { text: string; remedy: string; instead: string }[] {
	const kinds = Map.groupBy(misfits, ({ problem, instead }) => `${problem}\n${instead}`);
	return [...kinds.values()].map((same) => {
		const [{ tensor, problem, remedy, instead }] = same;
		const others = same.length > 1 ? ` and ${counted(same.length - 1, "other")}` : "";
		return { text: `"${tensor}"${others}: ${problem}`, remedy, instead };
	});
}
