import { createHash } from "node:crypto";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { VERSION } from "../base/version.ts";
import type { CachedFigure } from "../models/metrics/figures.ts";
import { writeJsonAtomically } from "../storage/files.ts";

/** Version of the measurements; a new one invalidates cached figures. */
const PROTOCOL = 1;

/** Cache key of a figure: hashes of the files, and the options of the measurement. */
export type FigureKey = Readonly<Record<string, unknown>>;

const entryForm = z.object({
	key: z.string(),
	measured: z.iso.datetime(),
	adapter: z.string(),
	/** Hash of the figure's JSON. */
	sha256: z.string(),
	figure: z.unknown(),
});

/**
 * A cache of measured figures by content, with one file per figure in the folder `figures`. Damaged
 * files are ignored, and failed writes have no effect.
 */
export class FigureCache {
	readonly #folder?: string;

	/** @param folder The program's cache folder; nothing is cached if absent. */
	constructor(folder: string | undefined) {
		this.#folder = folder && join(folder, "figures");
	}

	/** A cached figure and its origin; undefined if there is none. */
	find<Figure>(key: FigureKey): { figure: Figure; cached: CachedFigure } | undefined {
		if (!this.#folder) return undefined;
		const text = keyText(key);
		try {
			const entry = entryForm.parse(JSON.parse(readFileSync(this.#path(text), "utf8")));
			const { measured, adapter, figure } = entry;
			if (entry.key !== text || entry.sha256 !== sha256(JSON.stringify(figure))) return undefined;
			return { figure: figure as Figure, cached: { measured, adapter } };
		} catch {
			return undefined; // missing or damaged: measured and written again
		}
	}

	/** Stores a figure atomically. */
	keep(key: FigureKey, figure: unknown, adapter: string): void {
		if (!this.#folder || !isFiniteThroughout(figure)) return; // JSON has no infinity
		const text = keyText(key);
		const entry: z.output<typeof entryForm> = {
			key: text,
			measured: new Date().toISOString(),
			adapter,
			sha256: sha256(JSON.stringify(figure)),
			figure,
		};
		try {
			mkdirSync(this.#folder, { recursive: true });
			writeJsonAtomically(this.#path(text), entry);
		} catch {
			return; // the next run measures again
		}
	}

	#path(text: string): string {
		return join(this.#folder!, `${sha256(text)}.json`);
	}
}

/** The key as text, with the program's version, since versions may round differently. */
function keyText(key: FigureKey): string {
	return JSON.stringify({ protocol: PROTOCOL, billm: VERSION, ...key });
}

function sha256(text: string): string {
	return createHash("sha256").update(text).digest("hex");
}

function isFiniteThroughout(value: unknown): boolean {
	if (typeof value === "number") return Number.isFinite(value);
	return typeof value !== "object" || value === null ||
		Object.values(value).every(isFiniteThroughout);
}
