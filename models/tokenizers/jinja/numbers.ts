import { TemplateError } from "./limits.ts";

/** `repr()` of a float: the fewest digits that give the same number, with an exponent as Python writes it. */
export function floatText(value: number): string {
	if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value < 0 ? "-inf" : "inf";
	const [digits, exponent] = Math.abs(value).toExponential().split("e");
	const sign = value < 0 || Object.is(value, -0) ? "-" : "";
	const power = Number(exponent);
	if (power < -4 || power >= 16) return `${sign}${digits}${exponentText(power)}`;
	return sign + placed(digits.replace(".", ""), power, 1);
}

function exponentText(power: number): string {
	return `e${power < 0 ? "-" : "+"}${`${Math.abs(power)}`.padStart(2, "0")}`;
}

/** Digits with a point after the one for 10^power, and at least some decimals. */
function placed(digits: string, power: number, least = 0): string {
	const all = power < 0 ? "0".repeat(-power) + digits : digits.padEnd(power + 1, "0");
	const whole = Math.max(0, power) + 1;
	const decimals = all.slice(whole).padEnd(least, "0");
	return decimals === "" ? all.slice(0, whole) : `${all.slice(0, whole)}.${decimals}`;
}

/** |x| 10^power, rounded to an integer exactly, ties to even. */
function scaled(x: number, power: number): bigint {
	const bits = new DataView(new ArrayBuffer(8));
	bits.setFloat64(0, Math.abs(x));
	const raw = bits.getBigUint64(0);
	const field = Number(raw >> 52n);
	let over = field === 0 ? raw : (raw & ((1n << 52n) - 1n)) | (1n << 52n);
	let under = 1n;
	const exponent = (field || 1) - 1075;
	if (exponent < 0) under <<= BigInt(-exponent);
	else over <<= BigInt(exponent);
	if (power < 0) under *= 10n ** BigInt(-power);
	else over *= 10n ** BigInt(power);
	const whole = over / under;
	const twice = 2n * (over % under);
	return twice > under || twice === under && whole & 1n ? whole + 1n : whole;
}

/** `round(x, decimals)` of a float, correctly rounded. */
export function roundFloat(x: number, decimals: number): number {
	if (!Number.isFinite(x) || decimals > 323) return x;
	if (decimals < -308) return 0 * x;
	const size = Number(`${scaled(x, decimals)}e${-decimals}`);
	return x < 0 || Object.is(x, -0) ? -size : size;
}

/** Decimals of a format may not exceed these: a double has no more. */
const MOST_DECIMALS = 1100;

/**
 * The size of a float in a format of C, without its sign.
 *
 * @param kind "e", "f" or "g".
 * @param keepsZeros Whether "g" keeps zeros at the end.
 */
export function formatFloat(x: number, kind: string, decimals: number, keepsZeros = false): string {
	if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : "inf";
	if (decimals > MOST_DECIMALS) {
		throw new TemplateError(`a format has at most ${MOST_DECIMALS} decimals, found ${decimals}`);
	}
	if (kind === "f") {
		const digits = `${scaled(x, decimals)}`.padStart(decimals + 1, "0");
		return decimals === 0 ? digits : `${digits.slice(0, -decimals)}.${digits.slice(-decimals)}`;
	}
	const places = kind === "g" ? Math.max(1, decimals) : decimals + 1;
	let power = x === 0 ? 0 : Number(Math.abs(x).toExponential().split("e")[1]);
	let digits = `${scaled(x, places - 1 - power)}`;
	if (digits.length > places) digits = `${scaled(x, places - 1 - ++power)}`;
	if (kind === "g" && !keepsZeros) digits = digits.padEnd(places, "0").replace(/(?!^)0+$/, "");
	if (kind === "g" && power >= -4 && power < places) return placed(digits, power);
	return placed(digits.padEnd(kind === "e" ? places : 1, "0"), 0) + exponentText(power);
}

/** `int(text, base)`; undefined if it is none. */
export function parseInteger(text: string, base = 10): bigint | undefined {
	const found = /^([+-]?)(0[box])?([0-9a-z]+(?:_[0-9a-z]+)*)$/.exec(text.trim().toLowerCase());
	if (!found) return undefined;
	const [, sign, prefix = "", written] = found;
	let digits = written.replaceAll("_", "");
	const own = { "0b": 2, "0o": 8, "0x": 16 }[prefix];
	if (base === 0) base = own ?? 10;
	else if (own !== base) digits = prefix + digits; // "0b1" is a number of base 16 too
	if (digits.length > 5000) return undefined;
	let value = 0n;
	for (const digit of digits) {
		const number = parseInt(digit, 36);
		if (!(number < base)) return undefined;
		value = value * BigInt(base) + BigInt(number);
	}
	return sign === "-" ? -value : value;
}

/** `float(text)`; undefined if it is none. */
export function parseFloatText(text: string): number | undefined {
	const plain = text.trim().toLowerCase().replaceAll(/(?<=\d)_(?=\d)/g, "");
	const named = /^([+-]?)(inf|infinity|nan)$/.exec(plain);
	if (named) return named[2] === "nan" ? NaN : named[1] === "-" ? -Infinity : Infinity;
	return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/.test(plain) ? Number(plain) : undefined;
}
