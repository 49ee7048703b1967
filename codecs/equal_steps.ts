/**
 * A linear layer as codes on equal steps, the form that exports can move: weight = scale · (code - zero),
 * rounded as {@link Codec.dequantize} rounds it.
 */
export interface EqualSteps {
	/** Outputs. */
	rows: number;
	/** Inputs. */
	cols: number;
	/** Bits of a code. */
	bits: number;
	/** The greatest code, at most 2^bits - 1. */
	topCode: number;
	/** Columns that share a scale and a zero; `cols` if a whole row does. */
	groupSize: number;
	/**
	 * The scale group of each column, u32 `[cols]`; absent if groups are runs of `groupSize` neighbouring
	 * columns.
	 */
	groupOf?: Uint32Array;
	/** f32 `[rows, groups]`; may be negative. */
	scales: Float32Array;
	/** f32 `[rows, groups]`; half of a whole number where no weight is 0, any number if they are free. */
	zeros: Float32Array;
	/** Writes the codes of a row, in the order of the columns, u8 `[cols]`. */
	readCodes(row: number, into: Uint8Array): void;
}

/** Why a linear layer has no such form, as the end of a sentence, and what would have one. */
export interface NoEqualSteps {
	/** Why there are none. */
	problem: string;
	/** What would help. */
	remedy: string;
}

/** Whether a linear layer has the form of {@link EqualSteps}. */
export function hasEqualSteps(steps: EqualSteps | NoEqualSteps): steps is EqualSteps {
	return !("problem" in steps);
}

/** The scale groups of a row. */
export function stepGroups({ cols, groupSize }: Pick<EqualSteps, "cols" | "groupSize">): number {
	return Math.ceil(cols / groupSize);
}
