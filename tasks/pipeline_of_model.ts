import { basename } from "node:path";
import type { Architecture } from "../models/architectures/architecture.ts";

/** The name of a run of a model, from that of its folder or on the hub and the recipe. */
export function runName(model: string, recipe: string): string {
	const own = basename(model.replace(/[/\\]+$/, "")).replace(/[^A-Za-z0-9._-]/g, "-");
	return `${own.replace(/^[^A-Za-z0-9]+/, "") || "model"}-${recipe}`;
}

/** Tokens of a window: as many as the model takes, up to the usual number. */
export function windowLength(architecture: Architecture | undefined): number {
	return Math.min(2048, architecture?.maxLength ?? Infinity);
}
