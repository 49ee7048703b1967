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

/** The chain of light with another stage that stores the bits of a block. */
function chainOfBlocks(last: Recipe["stages"][number]): Recipe["stages"] {
	const isHaar = last[0] === "hbllm";
	return [
		["download"],
		["calibrate"],
		["hessian"],
		isHaar ? ["salient-select", { norm: "l2" }] : ["salient-select"],
		...(isHaar ? [] : [["split-search"] as const]),
		last,
		["pack"],
	];
}

/**
 * The chain of a recipe that is named after its bits: linear layers on a trellis, embeddings and head in 8
 * bits.
 *
 * @param trellis The options of the stage that quantizes; another one can take its place here.
 * @param target Bits per weight if `allocate` chooses those of each linear layer.
 */
function chainOfBits(bits: number, trellis: { bits: number }, target?: number): Recipe["stages"] {
	return [
		["download"],
		["calibrate"],
		...(target === undefined ? [] : [["allocate", { "target-bits": target }] as const]),
		["rotate"],
		["hessian"],
		["propagate-error"],
		["trellis", trellis],
		...(bits < MOST_REFIT_BITS ? [["refit-norm"] as const] : []),
		["pack", { embeddings: 8 }],
	];
}

/** Bits per weight from which on a refit of the final norm brings nothing. */
const MOST_REFIT_BITS = 1.8;

const DEFAULT: Recipe["stages"] = [
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
];

/** The recipes that are named after their bits, by bits per weight of the linear layers. */
const BY_BITS: Recipe[] = [
	{
		name: "1-bit",
		summary: "1 bit per weight on a trellis",
		stages: chainOfBits(1, { bits: 1 }),
	},
	{
		name: "1.6-bit",
		summary: "1.6 bits per weight on a trellis, 1 to 3 for each linear layer by what it matters",
		// The rate is that of allocate.
		stages: chainOfBits(1.6, { bits: 1.5 }, 1.62),
	},
	{
		name: "2-bit",
		summary: "2 bits per weight on a trellis",
		stages: chainOfBits(2, { bits: 2 }),
	},
	{
		name: "2.5-bit",
		summary: "2.5 bits per weight on a trellis",
		stages: chainOfBits(2.5, { bits: 2.5 }),
	},
	{
		name: "3-bit",
		summary: "3 bits per weight on a trellis",
		stages: chainOfBits(3, { bits: 3 }),
	},
];

/**
 * The chain of a recipe for another program: only what its format holds exactly, so without a rotation.
 *
 * @param to The format.
 * @param quantizer The stage that quantizes, with its options.
 * @param pack The options of pack.
 */
function chainFor(
	to: string,
	quantizer: Recipe["stages"][number],
	pack: Readonly<Record<string, unknown>>,
): Recipe["stages"] {
	return [
		["download"],
		["calibrate"],
		["hessian"],
		["propagate-error"],
		quantizer,
		["pack", pack],
		["export", { to: [to] }],
	];
}

/** The recipes for other programs, named after their format and the bits of a code. */
const FOR_EXPORT: Recipe[] = [
	{
		name: "gguf-1.6-bit",
		summary: "llama.cpp: three levels per row, Q2_0 (2.25 stored bits)",
		stages: chainFor("gguf", ["levels", { count: 3 }], { embeddings: 8 }),
	},
	{
		name: "gguf-2-bit",
		summary: "llama.cpp: 2 bits by GPTQ, Q2_0 (2.25 stored bits)",
		stages: chainFor(
			"gguf",
			["gptq", { "bits": 2, "zeros": "middle", "group-size": 64 }],
			{ embeddings: 8 },
		),
	},
	{
		name: "gguf-3-bit",
		summary:
			"llama.cpp: 3 bits by GPTQ, Q3_K (3.44 stored bits) where columns are a multiple of 256",
		stages: chainFor(
			"gguf",
			["gptq", { "bits": 3, "zeros": "middle", "group-size": 256 }],
			{ embeddings: 8 },
		),
	},
	{
		name: "gguf-4-bit",
		summary: "llama.cpp: 4 bits by GPTQ, Q4_0 (4.5 stored bits)",
		stages: chainFor(
			"gguf",
			["gptq", { "bits": 4, "zeros": "middle", "group-size": 32 }],
			{ embeddings: 8 },
		),
	},
	{
		name: "vllm-4-bit",
		summary: "vLLM: 4 bits by GPTQ in groups of 128, compressed-tensors",
		stages: chainFor(
			"compressed-tensors",
			["gptq", { "bits": 4, "zeros": "symmetric", "group-size": 128 }],
			{ embeddings: "stored" },
		),
	},
	{
		name: "mlx-4-bit",
		summary: "MLX: 4 bits by GPTQ in groups of 64",
		stages: chainFor("mlx", ["gptq", { "bits": 4, "group-size": 64 }], { embeddings: 8 }),
	},
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
		stages: DEFAULT,
	},
	{ name: "billm", summary: "Another name of default", stages: DEFAULT },
	...BY_BITS,
	...FOR_EXPORT,
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
		name: "arb",
		summary: "ARB-LLM with scales of rows and columns and the group bitmap",
		stages: chainOfBlocks(["arb"]),
	},
	{
		name: "arb-x",
		summary: "ARB-LLM with means and scales of rows, fitted to the calibration data",
		stages: chainOfBlocks(["arb", { variant: "x" }]),
	},
	{
		name: "hbllm-row",
		summary: "HBLLM: Haar coefficients of rows",
		stages: chainOfBlocks(["hbllm"]),
	},
	{
		name: "hbllm-column",
		summary: "HBLLM: Haar coefficients of pairs of rows",
		stages: chainOfBlocks(["hbllm", { variant: "column" }]),
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
