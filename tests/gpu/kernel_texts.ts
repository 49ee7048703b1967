/** Every WGSL text of the project, complete, for each compiler that is to take them. */
import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { billmMatmulKernel, type BillmTile, unpackKernel } from "~/codecs/billm/matmul_source.ts";
import { billmMatvecKernel } from "~/codecs/billm/matvec_source.ts";
import { gridRowCode } from "~/codecs/grid/row_code.ts";
import { gridUnpacking } from "~/codecs/grid/unpack_source.ts";
import { unpackRowsKernel } from "~/codecs/packed_rows/unpack_source.ts";
import { type RowCode, rowVectorKernel } from "~/codecs/packed_rows/vector_source.ts";
import { billmVectorKernel } from "~/codecs/billm/vector_product_source.ts";
import { ARB_QUADS } from "~/codecs/arb/products.ts";
import arbCandidates from "~/codecs/arb/row_candidates_arb.wgsl" with { type: "text" };
import rowCandidates from "~/codecs/billm/row_candidates.wgsl" with { type: "text" };
import { HAAR_QUADS } from "~/codecs/haar/products.ts";
import haarCandidates from "~/codecs/haar/row_candidates_haar.wgsl" with { type: "text" };
import { quadRowCode, quadUnpacking } from "~/codecs/packed_rows/quads.ts";
import { rowSearchSource } from "~/codecs/row_search/row_search_source.ts";
import type { BillmForm } from "~/codecs/billm/tensors.ts";
import { tileErrorKernel } from "~/codecs/trellis/tile_error_source.ts";
import { partsOf, tableFormsOf, trellisRowCode, WHOLE_TILES } from "~/codecs/trellis/row_code.ts";
import { trellisUnpacking } from "~/codecs/trellis/unpack_source.ts";
import { hasTable, STATE_BITS, TRELLIS_BITS } from "~/codecs/trellis/trellis.ts";
import { viterbiKernel } from "~/codecs/trellis/viterbi_source.ts";
import { embeddingMatvecKernel } from "~/codecs/embedding/embedding_matvec_source.ts";
import { levelCandidates } from "~/codecs/levels/level_candidates_source.ts";
import { LEVEL_KINDS } from "~/codecs/levels/levels.ts";
import { levelRowCode } from "~/codecs/levels/row_code.ts";
import { levelUnpacking } from "~/codecs/levels/unpack_source.ts";
import { levelsSource, STORE_THETA, THETA_OF_ROW } from "~/codecs/levels/levels_source.ts";
import { sweepLevelsKernel } from "~/codecs/levels/sweep_levels_source.ts";
import { attentionBroadcastKernel } from "~/gpu/kernels/attention/attention_broadcast_source.ts";
import { attentionDecodeKernel } from "~/gpu/kernels/attention/attention_decode_source.ts";
import { attentionKernel } from "~/gpu/kernels/attention/attention_source.ts";
import { attentionTileKernel } from "~/gpu/kernels/attention/attention_tile_source.ts";
import {
	factorBlockKernel,
	rowsKernel,
	updateKernel,
} from "~/gpu/kernels/hessian/factor_source.ts";
import { TILES } from "~/gpu/kernels/matmul/gemm.ts";
import { GROUPED_TILES } from "~/gpu/kernels/matmul/grouped_gemm.ts";
import { broadcastKernel } from "~/gpu/kernels/matmul/gemm_broadcast_source.ts";
import {
	ALL_F32,
	finishKernel,
	type GemmLayout,
	type Storages,
} from "~/gpu/kernels/matmul/gemm_source.ts";
import { tileKernel, tileName } from "~/gpu/kernels/matmul/gemm_tile_source.ts";
import { matvecKernel } from "~/gpu/kernels/matmul/matvec_source.ts";
import { argmaxKernel } from "~/gpu/kernels/reduce/argmax_source.ts";
import { PROJECT } from "../checkout.ts";

type Text = [name: string, source: string];

/** Paths of the files in the rooms that have kernels. */
export const KERNEL_FILES = ["gpu", "codecs"].flatMap((room) =>
	readdirSync(join(PROJECT, room), { recursive: true }).map((name) =>
		join(PROJECT, room, `${name}`)
	)
).sort();

/** The `.wgsl` files by name; no two have the same. */
export const TEXTS = new Map<string, string>();
for (const path of KERNEL_FILES.filter((path) => path.endsWith(".wgsl"))) {
	if (TEXTS.has(basename(path))) throw new Error(`There are two files ${basename(path)}`);
	TEXTS.set(basename(path), readFileSync(path, "utf8"));
}

/** Files that name what the texts around them declare; those are among the generated ones. */
const UNFINISHED = [
	...["arb_weights.wgsl", "haar_weights.wgsl", "haar_split.wgsl", "row_candidates.wgsl"],
	...["row_candidates_arb.wgsl", "row_candidates_haar.wgsl"],
];

/** Files that kernels begin with. */
export const isPart = (name: string) =>
	/^(reduce|row_candidates)/.test(name) ||
	["activate.wgsl", "round_f16.wgsl", "embedding_value.wgsl", ...UNFINISHED].includes(name);

export const LAYOUTS: GemmLayout[] = ["NN", "NT", "TN"];
const STORAGES: Storages[] = [
	ALL_F32,
	{ a: "f32", b: "f16", c: "f32", r: "f32" },
	{ a: "f32", b: "bf16", c: "f32", r: "f32" },
	{ a: "f16", b: "bf16", c: "f16", r: "f16" },
];
const FORMS: BillmForm[] = [
	{ zones: 2, planes: 2, coded: true, mixed: false },
	{ zones: 2, planes: 0, coded: false, mixed: true },
	{ zones: 1, planes: 3, coded: true, mixed: true },
	{ zones: 1, planes: 1, coded: false, mixed: false },
];
const ROW_CODES: RowCode[] = [
	...([1, 2, 3, 4, 8] as const).map((bits, i) =>
		gridRowCode({ bits, salient: i % 2 === 1, centered: false }, {
			rows: [4, 8, 16, 16, 8][i],
			...{ bands: 1, threads: 256 },
		})
	),
	gridRowCode({ bits: 1, salient: true, centered: true }, {
		...{ rows: 8, bands: 1, threads: 256 },
	}),
	...[ARB_QUADS, HAAR_QUADS].map((quads) => quadRowCode(quads, 4)),
	...LEVEL_KINDS.map((kind, i) => levelRowCode(kind, [4, 8, 16][i % 3])),
	...STATE_BITS.flatMap((stateBits) =>
		TRELLIS_BITS.map((bits) => ({ stateBits, bits })).filter(hasTable).map((trellis, i) =>
			trellisRowCode(trellis, {
				...WHOLE_TILES,
				table: stateBits === 8 || i > 0 ? "entries" : "stored",
			})
		)
	),
];
const ROW_UNPACKINGS = [
	...([1, 2, 3, 4, 8] as const).flatMap((bits) =>
		[true, false].map((salient) => gridUnpacking({ bits, salient, centered: false }))
	),
	gridUnpacking({ bits: 1, salient: true, centered: true }),
	...[ARB_QUADS, HAAR_QUADS].map(quadUnpacking),
	...LEVEL_KINDS.map(levelUnpacking),
	...STATE_BITS.flatMap((stateBits) =>
		TRELLIS_BITS.map((bits) => ({ stateBits, bits })).filter(hasTable).map(trellisUnpacking)
	),
];
const LARGE: BillmTile = { rows: 128, cols: 128, depth: 16 };
const SMALL: BillmTile = { rows: 64, cols: 64, depth: 16 };

/** The threads of workgroups that sum over their lanes, where it stands in the text. */
const LANES = 128;

/** A text with each of the sums over lanes that it may call. */
function withSums(name: string, source: string): Text[] {
	return ["reduce.wgsl", "reduce_large.wgsl", "reduce_subgroup.wgsl"]
		.map((sums) => [`${name}, ${sums}`, TEXTS.get(sums)! + source]);
}

/** The files that begin with what depends on a kind of levels. */
const OF_LEVELS = [...TEXTS.keys()].filter((name) =>
	name.endsWith("_levels.wgsl") && /\b(levels_of|pattern)\(/.test(TEXTS.get(name)!)
);

/** A file as the kernels that are made of it. */
export function completed(name: string): Text[] {
	const source = TEXTS.get(name)!;
	if (UNFINISHED.includes(name)) return [];
	if (name === "embedding_value.wgsl") return []; // names what the text behind it declares
	if (isPart(name)) return [[name, source]];
	if (!OF_LEVELS.includes(name)) return withParts(name, source);
	return LEVEL_KINDS.flatMap((kind) => {
		const own = levelsSource(kind) + (/\btheta_of\(/.test(source) ? THETA_OF_ROW : "") +
			(/\bstore_theta\(/.test(source) ? STORE_THETA : "");
		return withParts(`${name} of ${kind.count} levels, ${kind.pattern}`, own + source);
	});
}

/** A text with the files that it needs before it, in all its forms. */
function withParts(name: string, text: string): Text[] {
	let source = text;
	if (/\bactivate\(/.test(source)) source = TEXTS.get("activate.wgsl")! + source;
	if (/\bvalue_at\(/.test(source)) source = TEXTS.get("embedding_value.wgsl")! + source;
	if (/\bfit_lists\(/.test(source)) source = TEXTS.get("haar_split.wgsl")! + source;
	if (/\brounded\(/.test(source)) source = TEXTS.get("round_f16.wgsl")! + source;
	if (/\bover_row\(/.test(source) && !/fn over_row\(/.test(source)) {
		source = TEXTS.get("reduce_row.wgsl")! + source;
	}
	if (/_over_lanes/.test(source)) return withSums(name, source);
	if (!source.includes(F32)) return [[name, source]];
	return [[name, source], [`${name} in f64`, source.replace(F32, "alias real = f64;")]];
}

/** What a text begins with that may compute in f64 as well. */
const F32 = "alias real = f32;";

/** The kernels that are generated, for all subgroup sizes that occur (4 to 64 lanes). */
export const GENERATED: Text[] = [
	...LAYOUTS.flatMap((layout) =>
		TILES.flatMap((tile) =>
			STORAGES.flatMap((storages) =>
				(["any", "aligned", "whole", "paired"] as const)
					.filter((fit) => fit !== "any" || storages.c === "f32")
					.map((fit): Text => [
						`tileKernel ${layout} ${tileName(tile)}, ${fit}, ${Object.values(storages)}`,
						tileKernel(layout, tile, fit, storages),
					])
			)
		)
	),
	...GROUPED_TILES.flatMap((tile) =>
		(["f32", "f16", "bf16"] as const).flatMap((b) =>
			(["any", "aligned", "whole", "paired"] as const).map((fit): Text => [
				`tileKernel of experts ${tileName(tile)}, ${fit}, ${b}`,
				tileKernel("NT", tile, fit, { ...ALL_F32, b }, true),
			])
		)
	),
	...[4, 8, 16, 32, 64].flatMap((lanes): Text[] => [
		...LAYOUTS.map((layout): Text => [
			`broadcastKernel ${layout} of ${lanes} lanes`,
			broadcastKernel(layout, lanes),
		]),
		...[true, false].flatMap((slides) =>
			[true, false].map((isSegmented): Text => [
				`attentionBroadcastKernel of ${lanes} lanes${slides ? ", sliding" : ""}` +
				(isSegmented ? ", segments" : ""),
				attentionBroadcastKernel(lanes === 8 ? 70 : 64, lanes, {
					...{ slides, isSegmented, isCapped: lanes === 16, hasSinks: lanes > 16 },
				}),
			])
		),
	]),
	...[0, 1, 2, 4, 7].flatMap((flags): Text[] => [
		[`finishKernel, aligned, flags ${flags}`, finishKernel(true, flags)],
		[`finishKernel, any, flags ${flags}`, finishKernel(false, flags)],
		[`finishKernel, f16, flags ${flags}`, finishKernel(true, flags, { c: "f16", r: "f16" })],
	]),
	...[64, 128].flatMap((headDim) =>
		[64, 128].flatMap((queries) =>
			[true, false].flatMap((slides) =>
				[true, false].map((isSegmented): Text => [
					`attentionTileKernel for heads of ${headDim}, ${queries} queries` +
					(slides ? ", sliding" : "") + (isSegmented ? ", segments" : ""),
					attentionTileKernel(headDim, queries, {
						...{ slides, isSegmented, isCapped: headDim === 128, hasSinks: queries === 64 },
					}),
				])
			)
		)
	),
	...[2, 4, 6, 8, 32, 48, 64, 80, 96, 128, 256].map((headDim): Text => [
		`attentionKernel for heads of ${headDim} in workgroup memory`,
		attentionKernel(headDim, 32, {
			...{ slides: headDim % 16 === 0, isCapped: headDim > 80, hasSinks: headDim % 32 === 0 },
		}),
	]),
	[
		"attentionKernel for heads of 80, sliding, segments",
		attentionKernel(80, 32, { slides: true, isSegmented: true, hasSinks: true }),
	],
	...[2, 7, 32, 64, 80, 128, 256].flatMap((headDim) =>
		(["f32", "f16"] as const).flatMap((dtype) =>
			[
				undefined,
				"unrotated" as const,
				...headDim % 2 ? [] : [{ pairs: headDim / 2, interleaved: headDim === 64 }],
				...headDim === 80
					? [{ pairs: 10, interleaved: true }, { pairs: 10, interleaved: false }]
					: [],
			]
				.flatMap((append) =>
					[1, 4].flatMap((together) =>
						withSums(
							`attentionDecodeKernel for heads of ${headDim} in ${dtype}, ${together} threads a key${
								append ? `, ${JSON.stringify(append)}` : ""
							}`,
							attentionDecodeKernel({
								...{ headDim, dtype, lanes: LANES, keys: 512, together, append },
								capped: headDim === 128,
								sinking: headDim === 64,
							}),
						)
					)
				)
		)
	),
	...(["f32", "f16", "bf16"] as const).flatMap((dtype) =>
		[true, false].flatMap((aligned) =>
			[true, false].map((useSubgroup): Text => [
				`matvecKernel of ${dtype}${aligned ? "" : ", any"}${useSubgroup ? ", a subgroup" : ""}`,
				matvecKernel(dtype, 32, useSubgroup, aligned),
			])
		)
	),
	...[true, false].flatMap((aligned) =>
		withSums(`argmaxKernel${aligned ? "" : ", any"}`, argmaxKernel(LANES, aligned))
	),
	...[8, 16, 32, 64].flatMap((lanes) =>
		(["plain", "rms", "activation", "gated"] as const).flatMap((input, i) =>
			[true, false].map((subgroupBarriers): Text => [
				`billmVectorKernel of ${input}, subgroups of ${lanes}${
					subgroupBarriers ? " with barriers" : ""
				}`,
				TEXTS.get("activate.wgsl")! + billmVectorKernel(
					{ zones: i === 3 ? 1 : 2, planes: i, coded: i % 2 === 0, mixed: false },
					{ lanes, splits: 4, steps: 1 + i % 2, turns: i < 2, subgroupBarriers },
					input,
					1 + i,
					subgroupBarriers ? undefined : [1, 16, 64, 128][i],
				),
			])
		)
	),
	...[8, 32].map((lanes): Text => [
		`billmVectorKernel of experts, subgroups of ${lanes}`,
		billmVectorKernel(
			{ zones: 2, planes: 2, coded: true, mixed: false },
			{ lanes, splits: 4, steps: 2, turns: true, subgroupBarriers: false },
			"plain",
			1,
			undefined,
			true,
		),
	]),
	...ROW_CODES.flatMap((code) =>
		([[256, 32], [8, 8]] as const).map(([threads, lanes]): Text => {
			const ordered = lanes === 8;
			return [
				`rowVectorKernel of ${code.name}, ${code.rows} rows, of experts, ${threads} threads of ${lanes}`,
				rowVectorKernel(code, { threads, lanes }, {
					input: "plain",
					ordered,
					aligned: !ordered,
					stacked: true,
				}),
			];
		})
	),
	...ROW_CODES.flatMap((code) => [
		...([[256, 32], [64, 64], [64, 0], [8, 8]] as const).flatMap(([threads, lanes], i) =>
			(["plain", "rms", "activation", "gated"] as const).map((input, k): Text => {
				const ordered = (i + k) % 3 === 0;
				const run = lanes > 0 && k % 2 === 0 ? Math.min(4 * lanes, 64) : undefined;
				const aligned = (i + k) % 3 === 1 || (ordered && run !== undefined && i % 2 === 0);
				return [
					`rowVectorKernel of ${code.name}, ${code.rows} rows, ${threads} threads of ${lanes}, ${input}` +
					(ordered ? ", ordered" : aligned ? "" : ", any") + (run ? ", transformed" : ""),
					TEXTS.get("activate.wgsl")! +
					rowVectorKernel(code, { threads, lanes }, { input, ordered, aligned, run }),
				];
			})
		),
	]),
	...ROW_UNPACKINGS.flatMap((code) =>
		(["aligned", "any", "ordered"] as const).map((store): Text => [
			`unpackRowsKernel of ${code.name}, ${store}`,
			unpackRowsKernel(code, store),
		])
	),
	// Trellis tiles in parts, with bands and turns.
	...TRELLIS_BITS.flatMap((bits) => {
		const trellis = { bits, stateBits: 12 } as const;
		const parts = partsOf(trellis);
		return [[1, 4, 32], [2, 1, 32], [2, 3, 0], [4, 2, 0]].flatMap(([bands, turns, lanes]) =>
			tableFormsOf(trellis).map((table): Text => {
				const form = { parts, bands, threads: 256 * bands, turns, table };
				const shape = { threads: 256 * bands, lanes, bands: parts * bands, turns };
				return [
					`rowVectorKernel of a trellis of ${bits} bits, ${table}, ${bands} bands, ${turns} turns of ${lanes}`,
					rowVectorKernel(
						trellisRowCode(trellis, form),
						shape,
						{ input: "rms", ordered: true, aligned: false },
					),
				];
			})
		);
	}),
	...FORMS.flatMap((form) => [
		...([1, 2, 4] as const).flatMap((tokens) =>
			[true, false].map((unrolled): Text => [
				`billmMatvecKernel of ${JSON.stringify(form)}, ${tokens} tokens${
					unrolled ? "" : ", in loops"
				}`,
				billmMatvecKernel(form, { tokens, splits: 2, unrolled }),
			])
		),
		...[true, false].flatMap((paired) =>
			[true, false].map((aligned): Text => [
				`billmMatmulKernel of ${JSON.stringify(form)}${paired ? ", paired" : ""}${
					aligned ? "" : ", any"
				}`,
				billmMatmulKernel(form, { tile: paired ? LARGE : SMALL, paired, aligned }),
			])
		),
		[`unpackKernel of ${JSON.stringify(form)}`, unpackKernel(form)] as Text,
	]),
	...(["f32", "f64"] as const).flatMap((real) =>
		([4, 8] as const).map((each): Text => [
			`factorBlockKernel of ${real}, ${each} rows a thread`,
			factorBlockKernel(real, each),
		])
	),
	...[true, false].flatMap((isUnrolled) =>
		(["subgroup", "workgroup"] as const).flatMap((choice) =>
			Object.entries({ billm: rowCandidates, arb: arbCandidates, haar: haarCandidates })
				.map(([codec, candidates]): Text => [
					`rowSearchSource of ${codec}, ${isUnrolled ? "registers" : "arrays"} in ${choice}`,
					rowSearchSource(candidates, 4, isUnrolled, choice),
				])
		)
	),
	...LEVEL_KINDS.flatMap((kind): Text[] => [
		...(["feedback", "descent"] as const).map((sweep): Text => [
			`sweepLevelsKernel of ${kind.count} levels, ${kind.pattern}, ${sweep}`,
			sweepLevelsKernel(kind, sweep),
		]),
		...[true, false].map((isShared): Text => [
			`rowSearchSource of ${kind.count} levels, ${kind.pattern}${isShared ? ", shared" : ""}`,
			rowSearchSource(levelCandidates(kind, isShared), 4, true, "workgroup"),
		]),
	]),
	...STATE_BITS.flatMap((stateBits) =>
		TRELLIS_BITS.filter((bits) => stateBits === 12 || bits === 2).flatMap((bits) =>
			([1, 2] as const).map((buffers): Text => [
				`viterbiKernel of ${bits} bits with states of ${stateBits}, ${buffers} buffers`,
				viterbiKernel({ bits, stateBits }, {
					threads: stateBits === 8 ? 32 : bits === 2.5 ? 128 : 256,
					buffers,
					staged: buffers === 1 ? 4 : 64,
				}),
			])
		)
	),
	["tileErrorKernel", tileErrorKernel()],
	["rowsKernel", rowsKernel()],
	["updateKernel", updateKernel()],
	...([
		{ bits: 8, group: 64 },
		{ bits: 4, group: 32 },
		{ bits: 3, group: 32, zeros: true },
		{ bits: 4, group: 64, zeros: true },
		{ bits: 5, group: 64, zeros: true },
		{ bits: 6, group: 128, zeros: true },
	] as const).flatMap((form) =>
		[true, false].flatMap((aligned) =>
			[true, false].map((useSubgroup): Text => [
				`embeddingMatvecKernel of ${form.bits} bits${"zeros" in form ? ", zeros" : ""}${
					aligned ? "" : ", any"
				}${useSubgroup ? ", a subgroup" : ""}`,
				embeddingMatvecKernel(form, 32, useSubgroup, aligned),
			])
		)
	),
];

/** All of them by name. */
export const KERNEL_TEXTS = new Map([...GENERATED, ...[...TEXTS.keys()].flatMap(completed)]);
