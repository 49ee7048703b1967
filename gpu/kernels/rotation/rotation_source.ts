import { XYZW } from "../../source_text.ts";
import { type InputTransform, signStart, transformFactor } from "./rotation.ts";

/** What {@link transformSource} needs to know of a transform: the rest are pipeline constants. */
export function runOf({ rotation }: InputTransform): number {
	return rotation?.block ?? 1;
}

/** The pipeline constants of {@link transformSource}. */
export function transformConstants(transform: InputTransform): Record<string, number> {
	return {
		SIGN_START: signStart(transform.rotation?.seed ?? 0),
		TRANSFORM_FACTOR: transformFactor(transform),
	};
}

/**
 * WGSL that kernels transform their input with, as transformInput() does: the factor of a column with its
 * sign, `signed_factor(col)`. Runs of 1 entry have no signs.
 */
export function transformSource(run: number): string {
	return `
override SIGN_START: u32;
override TRANSFORM_FACTOR: f32;

fn signed_factor(col: u32) -> f32 {
  ${
		run === 1 ? "return TRANSFORM_FACTOR;" : `var h = SIGN_START + col;
  h ^= h >> 16u;
  h *= 0x7feb352du;
  h ^= h >> 15u;
  h *= 0x846ca68bu;
  h ^= h >> 16u;
  return select(TRANSFORM_FACTOR, -TRANSFORM_FACTOR, h >= 0x80000000u);`
	}
}
`;
}

/**
 * WGSL statements that transform a run of entries, multiplied with their factors before, that lie in the
 * variables of a subgroup's threads: entry `lane + lanes · i` in variable i of a thread.
 *
 * @param names The variables: f32, or vec4f for four runs of entries.
 * @param lane The index of the thread in its subgroup, or in the part of it that has entries.
 * @param lanes Threads that have entries, a power of two.
 * @param run Entries of a run, at most `lanes` times the number of variables.
 */
export function butterflies(
	names: readonly string[],
	lane: string,
	lanes: number,
	run: number,
): string {
	const steps: string[] = [];
	for (let distance = 1; distance < run; distance *= 2) {
		if (distance < lanes) {
			steps.push(
				`{ let sign = select(1.0, -1.0, (${lane} & ${distance}u) != 0u); ${
					names.map((name) =>
						`${name} = sign * ${name} + subgroupShuffleXor(${name}, ${distance}u);`
					)
						.join(" ")
				} }`,
			);
			continue;
		}
		const apart = distance / lanes; // variables
		const pairs = names.flatMap((name, i) => i & apart ? [] : [[name, names[i + apart]]]);
		steps.push(
			pairs.map(([a, b]) => `{ let sum = ${a} + ${b}; ${b} = ${a} - ${b}; ${a} = sum; }`).join(" "),
		);
	}
	return steps.join("\n    ");
}

/**
 * WGSL statements that transform a run of entries, multiplied with their factors before, of which each
 * thread of a subgroup has four neighbouring ones in a vec4f.
 *
 * @param name The variable.
 * @param lane The index of the thread in its subgroup.
 * @param lanes Threads of a subgroup.
 * @param run Entries of a run, at most four times as many.
 */
export function quadButterflies(name: string, lane: string, lanes: number, run: number): string {
	const parts = Array.from({ length: 4 }, (_, i) => `${name}.${XYZW[i]}`);
	return `${butterflies(parts, "0u", 1, Math.min(run, 4))}
    ${run > 4 ? butterflies([name], lane, lanes, run / 4) : ""}`;
}
