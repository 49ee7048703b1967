/**
 * A rotary position embedding: rotates entry i of each half of a head by position · frequency i. The
 * unscaled frequency is theta^(-2i / headDim). Layers with equal rotation share one object.
 */
export interface Rotary {
  headDim: number;
  theta: number;
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
  };

const { fround } = Math;

/** The frequencies of a head, f32 `[headDim / 2]`, with the f32 rounding of transformers. */
export function rotaryFrequencies({ headDim, theta, scaling }: Rotary): Float32Array {
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const frequency = fround(1 / fround(theta ** fround(2 * i / headDim)));
    switch (scaling?.type) {
      case undefined:
        return frequency;
      case "linear":
        return frequency / scaling.factor;
      case "llama3":
        return llama3(frequency, scaling);
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
