/**
 * Layers of experts in f64. Shazeer et al., "Outrageously large neural networks: the sparsely-gated
 * mixture-of-experts layer", arXiv:1701.06538; the order of softmax and choice as in each family.
 */

import type { CombineOp } from "~/models/ops/combine.ts";
import { type ExpertsOp, moduleOf } from "~/models/ops/experts.ts";
import type { RouteOp } from "~/models/ops/route.ts";
import { linearReference, type ReferenceTensors } from "./decoder.ts";

type Rows = Float64Array[];

/** The k experts of each token by falling logits, then their weights. */
export function routeReference(
	logits: Rows,
	{ k, renormalized }: Pick<RouteOp, "k" | "renormalized">,
): Rows {
	return logits.map((row) => {
		const top = Array.from(row.keys()).sort((a, b) => row[b] - row[a] || a - b).slice(0, k);
		const greatest = row[top[0]];
		const exponentials = row.map((value) => Math.exp(value - greatest));
		const counted = renormalized ? top.map((expert) => exponentials[expert]) : [...exponentials];
		const total = counted.reduce((a, b) => a + b, 0);
		return Float64Array.of(...top, ...top.map((expert) => exponentials[expert] / total));
	});
}

/** The outputs of a token's experts, slot by slot, for each linear layer of an expert. */
export function expertsReference(
	op: ExpertsOp,
	x: Rows,
	routing: Rows,
	tensors: ReferenceTensors,
	prefix: string,
): [register: string, rows: Rows][] {
	const { cols, k, each, linears } = op;
	return linears.map(({ to, rows }, role): [string, Rows] => {
		const out = x.map((row, token) => {
			const all = new Float64Array(k * rows);
			for (let slot = 0; slot < k; slot++) {
				const input = each ? row.slice(slot * cols, (slot + 1) * cols) : row;
				const expert = routing[token][slot];
				const own = matrixOf(op, role, expert, tensors, prefix);
				all.set(linearReference([input], own, "m")[0], slot * rows);
			}
			return all;
		});
		return [to, out];
	});
}

/** The matrix of an expert, and its bias, as "m". */
function matrixOf(
	{ linears, cols, stacked, bias }: ExpertsOp,
	role: number,
	expert: number,
	tensors: ReferenceTensors,
	prefix: string,
): ReferenceTensors {
	const { module, rows } = linears[role];
	if (!stacked) {
		const name = prefix + moduleOf(module, expert);
		const own: ReferenceTensors = new Map([["m.weight", tensors.get(`${name}.weight`)!]]);
		if (bias) own.set("m.bias", tensors.get(`${name}.bias`)!);
		return own;
	}
	const before = linears.slice(0, role).reduce((sum, linear) => sum + linear.rows, 0);
	const all = linears.reduce((sum, linear) => sum + linear.rows, 0);
	const name = prefix + stacked.module;
	const { data } = tensors.get(stacked.columns ? name : `${name}.weight`)!;
	const entry = (row: number, col: number) =>
		stacked.columns
			? data[(expert * cols + col) * all + row * linears.length + role]
			: data[(expert * all + before + row) * cols + col];
	const matrix = Float64Array.from(
		{ length: rows * cols },
		(_, i) => entry(Math.floor(i / cols), i % cols),
	);
	const own: ReferenceTensors = new Map([["m.weight", { shape: [rows, cols], data: matrix }]]);
	if (bias) {
		const biases = tensors.get(`${name}_bias`)!.data;
		own.set("m.bias", {
			shape: [rows],
			data: Float64Array.from(
				{ length: rows },
				(_, i) => biases[expert * all + i * linears.length + role],
			),
		});
	}
	return own;
}

/** The residual stream and the weighted outputs of each token's experts. */
export function combineReference(
	{ k, width, factor = 1 }: CombineOp,
	residual: Rows,
	y: Rows,
	routing: Rows,
): Rows {
	return residual.map((row, token) =>
		row.map((value, i) => {
			let sum = 0;
			for (let slot = 0; slot < k; slot++) {
				sum += routing[token][k + slot] * y[token][slot * width + i];
			}
			return value + factor * sum;
		})
	);
}
