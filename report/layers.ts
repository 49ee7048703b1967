import { isNumber, sum, sumByKey } from "../base/figures.ts";
import type { LayerRecord, LinearRecord } from "../pipeline/run/events.ts";
import { roleOf } from "../models/ops/experts.ts";
import { moduleOf } from "../pipeline/run/record.ts";

/** Short names of modules: the last word ("q_proj"), unless two modules share it. */
export function shortNames(modules: readonly string[]): string[] {
	const last = (name: string) => name.slice(name.lastIndexOf(".") + 1);
	const isOwn = new Set(modules.map(last)).size === modules.length;
	return isOwn ? modules.map(last) : [...modules];
}

/** The module of a linear layer; experts of a decoder layer have one together. */
function tableModuleOf({ name }: LinearRecord): string {
	return roleOf(moduleOf(name));
}

/** The linear layers of all decoder layers by module. Those of experts are told of together. */
export class LayerTable {
	/** In the order of execution. */
	readonly modules: readonly string[];
	readonly linears: readonly LinearRecord[];
	readonly #byModule: ReadonlyMap<string, LinearRecord[]>;
	readonly #byLayer: readonly ReadonlyMap<string, LinearRecord>[];

	constructor(readonly layers: readonly LayerRecord[]) {
		this.linears = layers.flatMap(({ linears }) => linears);
		this.#byModule = Map.groupBy(this.linears, tableModuleOf);
		this.#byLayer = layers.map(({ linears }) => {
			const modules = Map.groupBy(linears, tableModuleOf);
			return new Map([...modules].map(([module, alike]) => [module, together(alike)]));
		});
		this.modules = [...this.#byModule.keys()];
	}

	/** The linear layers of a module, from the first decoder layer on. */
	of(module: string): readonly LinearRecord[] {
		return this.#byModule.get(module) ?? [];
	}

	/** The linear layer of a module in the decoder layer of that place in the list; undefined if there is none. */
	at(place: number, module: string): LinearRecord | undefined {
		return this.#byLayer[place].get(module);
	}

	/** A figure of each linear layer by module and decoder layer. */
	values(of: (linear: LinearRecord) => number | undefined): (number | undefined)[][] {
		return this.modules.map((module) =>
			this.layers.map((_, place) => {
				const linear = this.at(place, module);
				const value = linear && of(linear);
				return isNumber(value) ? value : undefined;
			})
		);
	}
}

/** Linear layers of experts as one that has all of their columns: figures are averages. */
function together(linears: readonly LinearRecord[]): LinearRecord {
	const [first] = linears;
	if (linears.length === 1) return first;
	const mean = (of: (linear: LinearRecord) => number | undefined | null) => {
		const values = linears.map(of).filter(isNumber);
		return values.length > 0 ? sum(values) / values.length : undefined;
	};
	const [error, correction, salient] = [
		mean(({ relativeOutputError }) => relativeOutputError),
		mean(({ correction }) => correction),
		mean(({ salientFraction }) => salientFraction),
	];
	return {
		...first,
		name: roleOf(first.name),
		cols: sum(linears.map(({ cols }) => cols)),
		relativeOutputError: error,
		correction,
		...(salient !== undefined && { salientFraction: salient }),
		paperBits: mean(({ paperBits }) => paperBits)!,
		highFraction: mean(({ highFraction }) => highFraction)!,
		salientColumns: linears.flatMap(({ salientColumns }) => salientColumns),
		storedBytes: sumByKey(linears.map(({ storedBytes }) => storedBytes)),
	};
}

/** Stored bits per weight of linear layers by part, without file headers. */
export function bitsByPart(linears: readonly LinearRecord[]): Record<string, number> {
	const weights = sum(linears.map(({ rows, cols }) => rows * cols));
	const bytes = sumByKey(linears.map(({ storedBytes }) => storedBytes));
	return Object.fromEntries(
		Object.entries(bytes).map(([part, bytes]) => [part, 8 * bytes / weights]),
	);
}
