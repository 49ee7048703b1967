/** The components of a vec4 by index. */
export const XYZW = "xyzw";

/** Repeated WGSL lines, for unrolled loops. */
export function repeat(
	count: number,
	line: (i: number) => string,
	separator = "\n",
): string {
	return Array.from({ length: count }, (_, i) => line(i)).join(separator);
}
