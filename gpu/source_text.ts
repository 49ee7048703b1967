/** Components of a vec4 by their numbers. */
export const XYZW = "xyzw";

/** Lines of a kernel that is written out. */
export function repeat(
  count: number,
  line: (i: number) => string,
  separator = "\n",
): string {
  return Array.from({ length: count }, (_, i) => line(i)).join(separator);
}
