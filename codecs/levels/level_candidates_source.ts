import type { Candidates } from "../row_search/row_search_source.ts";
import type { LevelKind } from "./levels.ts";
import { levelsSource, selected, THETA_OF_ROW } from "./levels_source.ts";

/**
 * The WGSL of the changes that a tabu search tries: from each level to its neighbours.
 *
 * @param isShared Whether the steps between levels are a table in workgroup memory, for GPUs, instead of
 *   variables of each thread, which software adapters select from in half the time.
 */
export function levelCandidates(kind: LevelKind, isShared: boolean): Candidates {
	const codes = Array.from({ length: kind.count }, (_, code) => code);
	const stepTo = (from: number, to: number) =>
		to in codes ? `possible(levels.l${to} - levels.l${from})` : "NONE";
	const step = (code: number) => isShared ? `steps[${code}]` : `step${code}`;
	const table = isShared
		? `var<workgroup> steps: array<vec2f, ${kind.count}>;`
		: codes.map((code) => `var<private> step${code}: vec2f;`).join("\n");
	return `${levelsSource(kind)}${THETA_OF_ROW}
@group(0) @binding(4) var<storage, read> theta: array<f32>;       // [rows, PARAMETERS]
@group(0) @binding(5) var<storage, read_write> codes: array<u32>; // [rows, cols]

const NONE = 1e16; // so large that it is never the best step

// The steps from each level to the next one and to the one before.
${table}

fn possible(step: f32) -> f32 { return select(step, NONE, step == 0.0); }

fn stage(row: u32, lane: u32) {
  ${isShared ? "if (lane > 0) { return; }" : ""}
  let levels = levels_of(theta_of(row));
${codes.map((i) => `  ${step(i)} = vec2f(${stepTo(i, i + 1)}, ${stepTo(i, i - 1)});`).join("\n")}
}

fn steps_from(code: u32) -> vec2f {
  return ${isShared ? "steps[code]" : selected("code", codes.map(step))};
}

fn code_of(row: u32, col: u32) -> u32 { return codes[row * p.cols + col]; }

fn least_gain(row: u32, col: u32, state: u32, r: f32, h: f32) -> f32 {
  let d = steps_from(state & CODE);
  let gains = d * (h * d - 2.0 * r);
  return min(gains.x, gains.y);
}

fn best_change(row: u32, col: u32, state: u32, r: f32, h: f32) -> Move {
  let code = state & CODE;
  let d = steps_from(code);
  let gains = select(d * (h * d - 2.0 * r), vec2f(1e30), d == vec2f(NONE));
  if (min(gains.x, gains.y) >= 1e30) { return Move(1e30, 0.0, col, code); }
  if (gains.x <= gains.y) { return Move(gains.x, d.x, col, code + 1u); }
  return Move(gains.y, d.y, col, code - 1u);
}

fn value_of(row: u32, col: u32, state: u32) -> f32 {
  return level(levels_of(theta_of(row)), state & CODE);
}

fn put(row: u32, col: u32, code: u32) { codes[row * p.cols + col] = code; }

fn finish(row: u32, lane: u32) {}
`;
}
