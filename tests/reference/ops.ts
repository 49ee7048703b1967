/**
 * Decoders in f64, operation by operation as an architecture lists them. What config.json means is not
 * checked by this: goldens do that. Written from the papers named at each part.
 */

import type { Architecture } from "~/models/architectures/architecture.ts";
import type { Op } from "~/models/ops/mod.ts";
import type { NormOp } from "~/models/ops/norm.ts";
import type { Rotary } from "~/models/rotary.ts";
import type { ClampedSwiglu } from "~/gpu/kernels/elementwise/clamped_swiglu.ts";
import { attentionReference } from "./attention.ts";
import {
	ACTIVATION,
	type ForwardReference,
	layerNorm,
	linearReference,
	type ReferenceTensors,
	rmsNorm,
	ropeHead,
	row,
	sum,
} from "./decoder.ts";

import { combineReference, expertsReference, routeReference } from "./experts.ts";

type Rows = Float64Array[];

/** Runs a model over one window. */
export function architectureReference(
	architecture: Architecture,
	tensors: ReferenceTensors,
	ids: number[],
): ForwardReference {
	const { names, layers, finalNorm, embeddingFactor = 1 } = architecture;
	const { logitFactor = 1, logitCap = Infinity } = architecture;
	let x = ids.map((id) =>
		row(tensors, `${names.embedding}.weight`, id).map((value) => value * embeddingFactor)
	);
	const hidden: Rows[] = [];
	for (let layer = 0; layer < layers; layer++) {
		const registers = new Map([["hidden", x]]);
		for (const op of architecture.steps(layer)) {
			run(op, registers, tensors, names.layer(layer), ids.length);
		}
		x = registers.get("hidden")!;
		hidden.push(x);
	}
	const normed = finalNorm ? normReference(x, finalNorm, tensors, "") : x;
	const logits = linearReference(normed, tensors, names.head ?? names.embedding);
	return { hidden, logits: logits.map((row) => row.map((v) => capped(v * logitFactor, logitCap))) };
}

/** The gated activation of GPT-OSS, arXiv:2508.10925. */
export function clampedSwigluReference(
	gate: number,
	up: number,
	{ alpha, limit }: ClampedSwiglu,
): number {
	const [g, u] = [Math.min(gate, limit), Math.max(-limit, Math.min(limit, up))];
	return g / (1 + Math.exp(-alpha * g)) * (u + 1);
}

function run(
	op: Op,
	registers: Map<string, Rows>,
	tensors: ReferenceTensors,
	prefix: string,
	length: number,
): void {
	const get = (register: string) => registers.get(register)!;
	switch (op.op) {
		case "norm":
			registers.set(op.to, normReference(get(op.from), op, tensors, prefix));
			break;
		case "linear": {
			const { fused, residual, linears } = op;
			const x = get(op.from);
			const all = fused ? linearReference(x, tensors, prefix + fused) : undefined;
			let first = 0;
			for (const { module, to, rows } of linears) {
				const product = all?.map((row) => row.slice(first, first + rows)) ??
					linearReference(x, tensors, prefix + module);
				first += rows;
				registers.set(to, residual ? sum(product, get(residual)) : product);
			}
			break;
		}
		case "split":
			op.to.forEach((register, part) => {
				const { heads, width } = op;
				const parts = op.to.length;
				const out = get(op.from).map((row) =>
					Float64Array.from({ length: heads * width }, (_, i) => {
						const head = Math.floor(i / width);
						return row[(head * parts + part) * width + i % width];
					})
				);
				registers.set(register, out);
			});
			break;
		case "rope":
			for (const { register, heads } of op.registers) {
				registers.set(register, rotated(get(register), heads, op.rotary));
			}
			break;
		case "attention": {
			const flat = (register: string) => get(register).flatMap((row) => [...row]);
			const q = get(op.query);
			const out = attentionReference(flat(op.query), flat(op.key), flat(op.value), {
				...op,
				length,
				sinks: op.sinks === undefined ? undefined : tensors.get(prefix + op.sinks)!.data,
			});
			const width = q[0].length;
			registers.set(op.to, q.map((_, t) => out.slice(t * width, (t + 1) * width)));
			break;
		}
		case "activation": {
			const up = op.up ? get(op.up) : undefined;
			const out = get(op.from).map((row, t) =>
				row.map((v, i) => ACTIVATION[op.name](v) * (up ? up[t][i] : 1))
			);
			registers.set(op.to, out);
			break;
		}
		case "clamped_swiglu": {
			const up = get(op.up);
			const out = get(op.from).map((row, t) =>
				row.map((v, i) => clampedSwigluReference(v, up[t][i], op))
			);
			registers.set(op.to, out);
			break;
		}
		case "add": {
			const scaled = get(op.from).map((row) => row.map((v) => v * (op.factor ?? 1)));
			registers.set(op.to, sum(get(op.to), scaled));
			break;
		}
		case "route": {
			const logits = linearReference(get(op.from), tensors, prefix + op.module);
			registers.set(op.to, routeReference(logits, op));
			break;
		}
		case "experts":
			for (
				const [register, rows] of expertsReference(
					op,
					get(op.from),
					get(op.routing),
					tensors,
					prefix,
				)
			) registers.set(register, rows);
			break;
		case "combine":
			registers.set(op.to, combineReference(op, get(op.to), get(op.from), get(op.routing)));
			break;
	}
}

function capped(value: number, cap: number): number {
	return cap === Infinity ? value : cap * Math.tanh(value / cap);
}

/** Root mean square norm, arXiv:1910.07467; layer norm, arXiv:1607.06450. */
function normReference(x: Rows, op: NormOp, tensors: ReferenceTensors, prefix: string): Rows {
	const { kind, module, width, heads = 1, epsilon, bias = true, offset = 0, perHead } = op;
	const read = (name: string) => Array.from(tensors.get(`${prefix}${name}`)!.data);
	const weightOf = (head: number) => {
		const all = read(perHead === "modules" ? `${module}.norms.${head}.weight` : `${module}.weight`);
		const own = perHead === "rows" ? all.slice(head * width, (head + 1) * width) : all;
		return own.map((value) => value + offset);
	};
	const biases = kind === "layer" && bias ? read(`${module}.bias`) : new Array(width).fill(0);
	return x.map((row) => {
		const out = new Float64Array(row.length);
		for (let head = 0; head < heads; head++) {
			const part = row.subarray(head * width, (head + 1) * width);
			const normed = kind === "rms"
				? rmsNorm(part, weightOf(head), epsilon)
				: layerNorm(part, weightOf(head), biases, epsilon);
			out.set(normed, head * width);
		}
		return out;
	});
}

function rotated(x: Rows, heads: number, rotary: Rotary): Rows {
	const { headDim, interleaved } = rotary;
	const { frequencies, magnitude } = rotaryReference(rotary, x.length);
	return x.map((row, position) => {
		const table = frequencies.flatMap((frequency) => {
			const angle = position * frequency;
			return [magnitude * Math.cos(angle), magnitude * Math.sin(angle)];
		});
		const out = new Float64Array(row.length);
		for (let head = 0; head < heads; head++) {
			const own = row.subarray(head * headDim, (head + 1) * headDim);
			out.set(ropeHead(own, table, interleaved), head * headDim);
		}
		return out;
	});
}

/**
 * Frequencies in radians per token, and the factor of cos and sin: position interpolation,
 * arXiv:2306.15595; LLaMA 3.1, arXiv:2407.21783; YaRN, arXiv:2309.00071; LongRoPE, arXiv:2402.13753.
 */
export function rotaryReference(
	{ headDim, dims = headDim, theta, scaling }: Rotary,
	length: number,
): { frequencies: number[]; magnitude: number } {
	const plain = (base = theta) =>
		Array.from({ length: dims / 2 }, (_, i) => base ** (-2 * i / dims));
	switch (scaling?.type) {
		case undefined:
			return { frequencies: plain(), magnitude: 1 };
		case "linear":
			return { frequencies: plain().map((f) => f / scaling.factor), magnitude: 1 };
		case "llama3": {
			const { factor, lowTurns, highTurns, originalLength } = scaling;
			const frequencies = plain().map((f) => {
				const turns = originalLength * f / (2 * Math.PI);
				const share = Math.min(Math.max((turns - lowTurns) / (highTurns - lowTurns), 0), 1);
				return f * (share + (1 - share) / factor);
			});
			return { frequencies, magnitude: 1 };
		}
		case "yarn": {
			const { factor, lowTurns, highTurns, originalLength, truncate, magnitude } = scaling;
			const pairAt = (turns: number) =>
				Math.log(originalLength / (2 * Math.PI * turns)) * dims / 2 / Math.log(theta);
			const round = (f: (x: number) => number, x: number) => truncate ? f(x) : x;
			const low = Math.max(round(Math.floor, pairAt(highTurns)), 0);
			const high = Math.min(round(Math.ceil, pairAt(lowTurns)), dims - 1);
			const frequencies = plain().map((f, i) => {
				const ramp = Math.min(Math.max((i - low) / (high - low || 0.001), 0), 1);
				return f * (1 - ramp) + f / factor * ramp;
			});
			return { frequencies, magnitude };
		}
		case "dynamic": {
			const { factor, originalLength } = scaling;
			const growth = factor * Math.max(length / originalLength, 1) - (factor - 1);
			return { frequencies: plain(theta * growth ** (dims / (dims - 2))), magnitude: 1 };
		}
		case "longrope": {
			const { short, long, originalLength, magnitude } = scaling;
			const divisors = length > originalLength ? long : short;
			return { frequencies: plain().map((f, i) => f / divisors[i]), magnitude };
		}
	}
}
