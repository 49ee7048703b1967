import type { ArchitectureFamily } from "./architecture.ts";
import { readLlama } from "./llama.ts";
import { readQwenWindows } from "./sliding_windows.ts";

export const qwen2: ArchitectureFamily = {
  read: (fields) =>
    readLlama(fields, {
      keyValueHeads: 32,
      intermediateSize: 22016,
      maxLength: 32768,
      biases: { qkv: true },
      slidingWindows: (layers) => readQwenWindows(fields, layers),
    }),
};
