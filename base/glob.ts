/**
 * A test for names by a pattern: `*` stands for any characters, dots included, `?` for one; all else for
 * itself.
 */
export function globTest(pattern: string): (name: string) => boolean {
	const source = pattern.replace(
		/[\\^$.*+?()[\]{}|]/g,
		(sign) => sign === "*" ? ".*" : sign === "?" ? "." : `\\${sign}`,
	);
	const whole = new RegExp(`^${source}$`, "s");
	return (name) => whole.test(name);
}
