/**
 * A rotary position embedding: rotates each pair of entries of a head by position · frequency. The
 * unscaled frequency of pair i is theta^(-2i / dims). Layers with equal rotation share one object.
 */
export interface Rotary {
	/** Numbers per head. */
	headDim: number;
	/** The entries of a head that are rotated, the first ones; `headDim` if absent. */
	dims?: number;
	/** Whether pair i is entries 2i and 2i + 1, instead of i and i + dims / 2. */
	interleaved?: true;
	/** The base of the frequencies. */
	theta: number;
	/** Absent if there is none. */
	scaling?: RotaryScaling;
}

/** The scaling of rotary frequencies that extends the context beyond that of the original training. */
export type RotaryScaling =
	/** Position interpolation, arXiv:2306.15595. */
	| { type: "linear"; factor: number }
	/** LLaMA 3.1, arXiv:2407.21783: low frequencies are divided, high ones kept, others interpolated. */
	| {
		type: "llama3";
		factor: number;
		/**
		 * Rotations within the original window below which a frequency is low, and above which it is high.
		 */
		lowTurns: number;
		highTurns: number;
		/** The window of the original training, in tokens. */
		originalLength: number;
	}
	/** YaRN, arXiv:2309.00071: as `llama3`, with a linear ramp over the pairs. */
	| {
		type: "yarn";
		factor: number;
		lowTurns: number;
		highTurns: number;
		originalLength: number;
		/** Whether the ramp begins and ends at whole pairs. */
		truncate: boolean;
		/** Factor of cos and sin. */
		magnitude: number;
	}
	/** Dynamic NTK: theta grows with the length of a text that is longer than the original window. */
	| { type: "dynamic"; factor: number; originalLength: number }
	/** LongRoPE, arXiv:2402.13753: divisors of each frequency, others for texts beyond the original window. */
	| {
		type: "longrope";
		short: readonly number[];
		long: readonly number[];
		originalLength: number;
		/** Factor of cos and sin. */
		magnitude: number;
	};

const { fround } = Math;

/** The pairs of a head that are rotated. */
export function rotaryPairs({ headDim, dims = headDim }: Rotary): number {
	return dims / 2;
}

/** The factor of cos and sin. */
export function rotaryMagnitude({ scaling }: Rotary): number {
	return scaling && "magnitude" in scaling ? fround(scaling.magnitude) : 1;
}

/**
 * The shortest text whose frequencies are those of a text of some length. Where it changes, keys that
 * were rotated before are no longer right.
 */
export function rotaryLength({ scaling }: Rotary, length: number): number {
	switch (scaling?.type) {
		case "dynamic":
			return length > scaling.originalLength ? length : 1;
		case "longrope":
			return length > scaling.originalLength ? scaling.originalLength + 1 : 1;
		default:
			return 1;
	}
}

/**
 * The frequencies of a head, f32 `[pairs]`, with the f32 rounding of transformers.
 *
 * @param length The tokens of the text, which dynamic scalings depend on.
 */
export function rotaryFrequencies(rotary: Rotary, length: number): Float32Array {
	const { scaling } = rotary;
	const pairs = rotaryPairs(rotary);
	const theta = scaling?.type === "dynamic"
		? dynamicTheta(rotary.theta, 2 * pairs, scaling, length)
		: rotary.theta;
	return Float32Array.from({ length: pairs }, (_, i) => {
		const power = fround(theta ** fround(i / pairs));
		const frequency = fround(1 / power);
		switch (scaling?.type) {
			case undefined:
			case "dynamic":
				return frequency;
			case "linear":
				return frequency / scaling.factor;
			case "llama3":
				return llama3(frequency, scaling);
			case "yarn":
				return yarn(i, power, rotary, scaling);
			case "longrope": {
				const divisors = length > scaling.originalLength ? scaling.long : scaling.short;
				return 1 / fround(fround(divisors[i]) * power);
			}
		}
	});
}

function llama3(
	frequency: number,
	{ factor, lowTurns, highTurns, originalLength }: RotaryScaling & { type: "llama3" },
): number {
	const wavelength = fround(fround(2 * Math.PI) / frequency);
	const slow = fround(frequency / factor);
	if (wavelength > originalLength / lowTurns) return slow;
	if (wavelength < originalLength / highTurns) return frequency;
	const turns = fround(originalLength / wavelength);
	const share = fround(fround(turns - lowTurns) / (highTurns - lowTurns));
	return fround(fround(fround(1 - share) * slow) + fround(share * frequency));
}

function yarn(
	pair: number,
	power: number,
	{ theta, ...rotary }: Rotary,
	{ factor, lowTurns, highTurns, originalLength, truncate }: RotaryScaling & { type: "yarn" },
): number {
	const dims = 2 * rotaryPairs({ theta, ...rotary });
	/** The pair that makes so many turns within the original window. */
	const pairOf = (turns: number) =>
		dims * Math.log(originalLength / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
	const [first, last] = [pairOf(highTurns), pairOf(lowTurns)];
	const low = Math.max(truncate ? Math.floor(first) : first, 0);
	let high = Math.min(truncate ? Math.ceil(last) : last, dims - 1);
	if (low === high) high += 0.001; // as in transformers
	const share = fround(Math.min(Math.max((pair - low) / (high - low), 0), 1)); // of the slow one
	const slow = fround(1 / fround(factor * power));
	return fround(fround(slow * share) + fround(fround(1 / power) * fround(1 - share)));
}

function dynamicTheta(
	theta: number,
	dims: number,
	{ factor, originalLength }: RotaryScaling & { type: "dynamic" },
	length: number,
): number {
	if (length <= originalLength) return theta;
	return theta * (factor * length / originalLength - (factor - 1)) ** (dims / (dims - 2));
}
