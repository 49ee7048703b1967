import { z } from "zod";
import { GRID_BITS } from "../codecs/grid/grid.ts";

/** Artifacts that stages for grids do not use; producing them would be wasted work. */
export const NOT_FOR_GRIDS = ["salient-columns", "salient-fit", "zones", "block-error"];

/** The option for the number of columns that share a grid. */
export function groupSizeOption(usual: 32 | 64 | 128 | 256 | "row") {
  return z.literal([32, 64, 128, 256, "row"]).default(usual).describe(
    "Columns of a row that share a scale; row: all of them",
  );
}

/** Columns of a block: one scale group; undefined for whole rows. */
export function blockOfGroup(
  { "group-size": size }: { "group-size": number | "row" },
): number | undefined {
  return size === "row" ? undefined : size;
}

/** The option for the bits of a code. */
export const bitsOption = z.literal(GRID_BITS).default(4).describe("Bits of a weight's code");

/** The option for the kind of grid. */
export const gridOption = z.enum(["range", "mean"]).optional().describe(
  "range: equal steps from the smallest to the largest weight, including zero; mean: the mean of the " +
    "weights plus or minus their mean absolute deviation, 1 bit only; default mean for 1 bit, else range",
);

/** Whether bits and kind of grid are compatible. */
export function hasGridFor({ bits, grid }: { bits: number; grid?: "range" | "mean" }): boolean {
  return grid !== "mean" || bits === 1;
}

/** The problem if {@link hasGridFor} is false. */
export const NO_GRID = { path: ["grid"], message: "must be range with more than 1 bit" };
