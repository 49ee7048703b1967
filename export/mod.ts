import type { Export } from "./export.ts";
import { gguf } from "./gguf/gguf.ts";

/** The formats of other programs, in the order of listings. A new one is a file in this room and a line here. */
export const EXPORTS: readonly Export[] = [gguf];
