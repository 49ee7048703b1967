import { type EqualSteps, stepGroups } from "../codecs/equal_steps.ts";

/** The levels that the codes of a scale group can have, as multiples of its unit. */
export interface LevelRange {
	low: number;
	high: number;
	/** The difference of neighbours: 2 where no weight is 0, else 1. */
	gap: 1 | 2;
}

/**
 * Codes on equal steps as whole multiples of a unit for each scale group: weight = unit · level. A zero
 * between two codes makes levels odd and the unit half a scale.
 */
export class IntegerLevels {
	/** f32 `[rows, groups]`. */
	readonly units: Float32Array;
	/** All ranges of levels that occur. */
	readonly ranges: readonly LevelRange[];
	readonly #codes: Uint8Array;

	private constructor(readonly steps: EqualSteps) {
		const { zeros, scales, topCode } = steps;
		this.#codes = new Uint8Array(steps.cols);
		this.units = scales.map((scale, i) => scale / gapOf(zeros[i]));
		this.ranges = [...new Set(zeros)].map((zero) => rangeOf(zero, topCode));
	}

	/** @returns Undefined if a zero is neither whole nor half of a whole number. */
	static of(steps: EqualSteps): IntegerLevels | undefined {
		return steps.zeros.every((zero) => Number.isInteger(2 * zero))
			? new IntegerLevels(steps)
			: undefined;
	}

	/** Whether f16 holds all units exactly. */
	get hasHalfUnits(): boolean {
		return this.units.every((unit) => Math.f16round(unit) === unit);
	}

	/** The range of levels of a scale group. */
	rangeOf(row: number, group: number): LevelRange {
		const { zeros, topCode } = this.steps;
		return rangeOf(zeros[row * stepGroups(this.steps) + group], topCode);
	}

	/** Writes the levels of a row, i16 `[cols]`. */
	readRow(row: number, into: Int16Array): void {
		const { steps } = this;
		const { cols, groupSize, groupOf, zeros } = steps;
		steps.readCodes(row, this.#codes);
		const first = row * stepGroups(steps);
		for (let col = 0; col < cols; col++) {
			const zero = zeros[first + (groupOf ? groupOf[col] : Math.floor(col / groupSize))];
			into[col] = gapOf(zero) * (this.#codes[col] - zero);
		}
	}
}

function gapOf(zero: number): 1 | 2 {
	return Number.isInteger(zero) ? 1 : 2;
}

function rangeOf(zero: number, topCode: number): LevelRange {
	const gap = gapOf(zero);
	return { low: -gap * zero, high: gap * (topCode - zero), gap };
}
