// llama.cpp itself, by node-llama-cpp, for `deno task test:export`. Nothing else imports this file, so
// that no other task fetches the package.

import { getLlama, type Token } from "npm:node-llama-cpp@3.21.1";

/** A GGUF file that llama.cpp has opened, on the CPU. */
export class LlamaCpp implements AsyncDisposable {
  private constructor(
    readonly llama: Awaited<ReturnType<typeof getLlama>>,
    readonly model: Awaited<ReturnType<Awaited<ReturnType<typeof getLlama>>["loadModel"]>>,
  ) {}

  static async open(modelPath: string): Promise<LlamaCpp> {
    const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
    return new LlamaCpp(
      llama,
      await llama.loadModel({ modelPath, defaultContextFlashAttention: false }),
    );
  }

  /** The ids of a text, without those of special tokens around it. */
  encode(text: string): number[] {
    return this.model.tokenize(text) as number[];
  }

  /** The logarithms of the probabilities of the next token behind each token, f32 `[tokens, vocabulary]`. */
  async logProbabilities(ids: ArrayLike<number>, vocabulary: number): Promise<Float32Array> {
    const context = await this.model.createContext({ contextSize: Math.max(64, ids.length + 8) });
    const sequence = context.getSequence();
    const generateNext = {
      probabilities: true,
      options: { temperature: 1, topK: 0, topP: 1, minP: 0 },
    };
    const input = Array.from(
      ids,
      (id) => [id as Token, { generateNext }] as [Token, { generateNext: typeof generateNext }],
    );
    const found = await sequence.controlledEvaluate(input);
    const all = new Float32Array(ids.length * vocabulary).fill(-Infinity);
    found.forEach((item, at) => {
      for (const [id, probability] of item!.next.probabilities!) {
        all[at * vocabulary + id] = Math.log(probability);
      }
    });
    await context.dispose();
    return all;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.model.dispose();
    await this.llama.dispose();
  }
}
