import type { StoreForm } from "~/codecs/codec.ts";

/** Nothing is stored in fewer bits than it must. */
export const PLAIN: StoreForm = { scales: "f16", flags: "plain" };
