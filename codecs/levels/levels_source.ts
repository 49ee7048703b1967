import { gaussianLevels, type LevelKind, levelParts, parametersOf } from "./levels.ts";

/** An f32 number in WGSL. */
function f32(value: number): string {
	return Number.isInteger(value) ? `${value}.0` : `${value}f`;
}

/** WGSL that selects the value of a code, `values[i]` for code i. */
export function selected(code: string, values: readonly string[]): string {
	return values.slice(1).reduce(
		(text, value, i) => `select(${text}, ${value}, ${code} == ${i + 1}u)`,
		values[0],
	);
}

/**
 * WGSL that kernels for levels begin with. Levels are named variables, since arrays that are indexed lie
 * in slow memory on many GPUs.
 *
 *     PARAMETERS                    the parameters of a row
 *     Levels                        the levels of a row
 *     levels_of(theta)              those with parameters theta; bit-identical to those of the host
 *     level(levels, code)           the level of a code
 *     nearest(levels, x)            the nearest level and its code, the lower code if two are as near
 *     pattern(code)                 the factor of each parameter in the level of a code
 *     start(deviation)              parameters for normal numbers of a deviation
 */
export function levelsSource(kind: LevelKind): string {
	const parts = levelParts(kind);
	const codes = parts.map((_, code) => code);
	const valueOf = ({ parameter, factor }: typeof parts[number]) => {
		if (factor === 0) return "0.0";
		const theta = `theta.${"xy"[parameter]}`;
		const size = Math.abs(factor) === 1 ? theta : `${theta} * ${f32(Math.abs(factor))}`;
		return factor < 0 ? `negated(${size})` : size;
	};
	const patternOf = ({ parameter, factor }: typeof parts[number]) => {
		const both = [0, 1].map((i) => f32(i === parameter ? factor : 0));
		return `vec2f(${both.join(", ")})`;
	};
	const starts = [0, 1].map((parameter) => {
		const gaussian = gaussianLevels(kind.count);
		const own = parts.map((part) => part.parameter === parameter ? part.factor : 0);
		const square = own.reduce((sum, factor) => sum + factor * factor, 0);
		const product = own.reduce((sum, factor, code) => sum + factor * gaussian[code], 0);
		return f32(square > 0 ? product / square : 0);
	});
	return `
const PARAMETERS = ${parametersOf(kind)}u;

struct Levels { ${codes.map((code) => `l${code}: f32`).join(", ")} }
struct Nearest { code: u32, level: f32 }

// Not -0 for 0: by integer arithmetic, since drivers may replace 0 - x by -x.
fn negated(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  return bitcast<f32>(select(bits ^ 0x80000000u, 0u, (bits << 1u) == 0u));
}

fn levels_of(theta: vec2f) -> Levels {
  return Levels(${parts.map(valueOf).join(", ")});
}

fn level(levels: Levels, code: u32) -> f32 {
  return ${selected("code", codes.map((code) => `levels.l${code}`))};
}

fn nearest(levels: Levels, x: f32) -> Nearest {
  var code = 0u;
  var value = levels.l0;
  var least = abs(x - levels.l0);
${
		codes.slice(1).map((code) => `
  let off${code} = abs(x - levels.l${code});
  if (off${code} < least) { least = off${code}; code = ${code}u; value = levels.l${code}; }`)
			.join("")
	}
  return Nearest(code, value);
}

fn pattern(code: u32) -> vec2f {
  return ${selected("code", parts.map(patternOf))};
}

fn start(deviation: f32) -> vec2f { return deviation * vec2f(${starts.join(", ")}); }
`;
}

/** WGSL that reads the parameters of a row from `theta`, f32 `[rows, PARAMETERS]`. */
export const THETA_OF_ROW = `
fn theta_of(row: u32) -> vec2f {
  if (PARAMETERS == 1) { return vec2f(theta[row], 0.0); }
  return vec2f(theta[row * PARAMETERS], theta[row * PARAMETERS + 1]);
}
`;

/** WGSL that stores the parameters of a row in `theta`, never as -0. */
export const STORE_THETA = `
fn store_theta(row: u32, own: vec2f) {
  theta[row * PARAMETERS] = select(own.x, 0.0, own.x == 0.0);
  if (PARAMETERS == 2) { theta[row * PARAMETERS + 1] = select(own.y, 0.0, own.y == 0.0); }
}
`;

/** The kind as a part of names of kernels. */
export function kindName({ count, pattern }: LevelKind): string {
	return `${count}_${pattern}`;
}
