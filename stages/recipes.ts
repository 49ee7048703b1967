import type { Recipe } from "../pipeline/config/config.ts";

const LIGHT: Recipe["stages"] = [
  ["download"],
  ["calibrate"],
  ["hessian"],
  ["salient-select"],
  ["residual-binarize"],
  ["split-search"],
  ["compensate"],
  ["pack"],
];

/**
 * The built-in recipes. None has the stage `evaluate`, which needs data sets: a file that names it has it
 * at the end.
 */
export const RECIPES: Recipe[] = [
  {
    name: "default",
    summary:
      "BiLLM with correction, rotation and search over rows: the best at about 2.5 stored bits",
    stages: [
      ["download"],
      ["calibrate"],
      ["rotate"],
      ["hessian"],
      ["propagate-error"],
      ["salient-select", { columns: 8 }],
      ["residual-binarize"],
      ["split-search"],
      ["compensate"],
      ["row-search"],
      ["pack"],
    ],
  },
  {
    name: "light",
    summary: "BiLLM alone: faster, the usual chain up to version 0.4",
    stages: LIGHT,
  },
  {
    name: "reference",
    summary: "BiLLM as the released program: the chain of light with mode: reference",
    mode: "reference",
    stages: LIGHT,
  },
  {
    name: "gptq",
    summary: "GPTQ with correction and rotation, 4 bits per weight unless set",
    stages: [
      ["download"],
      ["calibrate"],
      ["rotate"],
      ["hessian"],
      ["propagate-error"],
      ["gptq"],
      ["pack"],
    ],
  },
  {
    name: "rtn",
    summary: "Rounding to the nearest value without calibration, 4 bits per weight unless set",
    stages: [
      ["download"],
      ["rtn", { "group-size": 128 }],
      ["pack"],
    ],
  },
];
