import { counted, listed, sum } from "../base/figures.ts";
import { roleOf } from "../models/ops/experts.ts";
import type { LayerRecord, LinearRecord } from "../pipeline/run/events.ts";
import { type Content, html } from "./html.ts";
import { section } from "./page.ts";
import { foldedTable } from "./table.ts";

/** The most experts that are named one by one. */
const NAMED = 12;

/** The tokens of the calibration data that an expert of a decoder layer got. */
interface ExpertTokens {
	layer: number;
	expert: number;
	tokens: number;
	/** Its linear layers with the Hessian of all experts. */
	pooled: readonly LinearRecord[];
}

/** The section about the tokens of experts; nothing if the model has none. */
export function expertsSection(layers: readonly LayerRecord[]): Content {
	const all = layers.flatMap(tokensOf);
	if (all.length === 0) return undefined;
	const experts = [...new Set(all.map(({ expert }) => expert))].sort((a, b) => a - b);
	const columns = [...new Set(all.map(({ layer }) => layer))];
	const byPlace = new Map(all.map((one) => [`${one.layer} ${one.expert}`, one]));
	const counts = all.map(({ tokens }) => tokens);
	const pooled = all.filter(({ pooled }) => pooled.length > 0);
	const fewest = counts.reduce((a, b) => Math.min(a, b), Infinity);
	const most = counts.reduce((a, b) => Math.max(a, b), 0);
	const named = pooled.slice(0, NAMED)
		.map(({ layer, expert }) => `${expert} of layer ${layer + 1}`);
	const rest = pooled.length - named.length;
	if (rest > 0) named.push(`${rest} more`);
	const about = pooled.length === 0
		? "All got enough for Hessians of their own."
		: `${
			counted(pooled.length, "expert")
		} got too few for a Hessian of each of its linear layers, ` +
			`which is then that of all experts of the layer: ${listed(named, "and")}.`;
	return section(
		"Tokens by expert",
		html`
			<p>An expert got between ${fewest} and ${most} tokens of the calibration data, ${Math.round(
				sum(counts) / counts.length,
			)} on average. ${about}</p>
		`,
		foldedTable("Tokens by expert and layer", {
			caption: "Tokens of each expert by decoder layer; * with a Hessian of all experts",
			head: ["Expert", ...columns.map((layer) => `${layer + 1}`)],
			left: 0,
			rows: experts.map((expert) => [
				`${expert}`,
				...columns.map((layer) => {
					const one = byPlace.get(`${layer} ${expert}`);
					return one ? `${one.tokens}${one.pooled.length > 0 ? " *" : ""}` : "";
				}),
			]),
		}),
	);
}

/** The tokens of each expert of a decoder layer. */
function tokensOf({ layer, linears }: LayerRecord): ExpertTokens[] {
	const own = linears.filter(({ name, tokens }) => tokens !== undefined && roleOf(name) !== name);
	const experts = Map.groupBy(own, ({ name }) => Number(/\bexperts\.(\d+)\./.exec(name)![1]));
	return [...experts].map(([expert, linears]) => ({
		layer,
		expert,
		tokens: linears[0].tokens!,
		pooled: linears.filter(({ pooled }) => pooled),
	}));
}
