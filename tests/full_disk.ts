/**
 * Makes the disk full for what is written to one file: its temporary file is opened as /dev/full, which
 * finds no space for any byte. Until disposal. Linux only.
 */
export function fillDiskFor(path: string): Disposable {
	const { openSync } = Deno;
	Deno.openSync = (name, options) =>
		`${name}`.startsWith(`${path}.`) && options?.createNew
			? openSync("/dev/full", { write: true })
			: openSync(name, options);
	return {
		[Symbol.dispose]: () => {
			Deno.openSync = openSync;
		},
	};
}
