/**
 * Rotary position embedding: entry i of a head's half turns by position · frequency i, where the
 * plain frequency is theta^(-2i / headDim). Layers that turn alike share one object.
 */
export interface Rotary {
  headDim: number;
  theta: number;
  scaling?: RotaryScaling;
}

/** How the frequencies of a model that takes longer texts than it was first trained on differ. */
export type RotaryScaling =
  /** Position interpolation, arXiv:2306.15595. */
  | { type: "linear"; factor: number }
  /** LLaMA 3.1, arXiv:2407.21783: slow frequencies are divided, fast ones kept, others between. */
  | {
    type: "llama3";
    factor: number;
    /** Turns within the first training's window below which a frequency is slow, above which fast. */
    lowTurns: number;
    highTurns: number;
    /** Tokens of the first training's window. */
    originalLength: number;
  };

const { fround } = Math;

/** The frequencies of a head, f32 `[headDim / 2]`, in the f32 steps of transformers. */
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
