import { z } from "zod";
import { GRID_BITS } from "../codecs/grid/grid.ts";

/** What no stage that puts weights on grids makes use of: it would be lost work. */
export const NOT_FOR_GRIDS = ["salient-columns", "salient-fit", "zones", "block-error"];

/** The option that says which columns share a grid. */
export function groupSizeOption(usual: 32 | 64 | 128 | 256 | "row") {
  return z.literal([32, 64, 128, 256, "row"]).default(usual).describe(
    "Columns of a row that share a scale; row: all of them",
  );
}

/** Columns of a block, so that those that share a scale are one; a whole row is not. */
export function blockOfGroup(
  { "group-size": size }: { "group-size": number | "row" },
): number | undefined {
  return size === "row" ? undefined : size;
}

/** The option that says how many bits a code has. */
export const bitsOption = z.literal(GRID_BITS).default(4).describe("Bits of a weight's code");

/** The option that says what the codes stand for. */
export const gridOption = z.enum(["range", "mean"]).optional().describe(
  "range: equal steps from the least weight to the greatest, zero among them; mean: the mean of the " +
    "weights plus or minus their mean distance from it, in 1 bit; if absent, mean in 1 bit, else range",
);

/** A check of the two together. */
export function hasGridFor({ bits, grid }: { bits: number; grid?: "range" | "mean" }): boolean {
  return grid !== "mean" || bits === 1;
}

/** What is wrong if {@link hasGridFor} is false. */
export const NO_GRID = { path: ["grid"], message: "must be range with more than 1 bit" };
