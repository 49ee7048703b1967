import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A folder that is removed when it goes out of scope. */
export class TemporaryFolder implements Disposable {
	readonly path = mkdtempSync(join(tmpdir(), "billm-test-"));

	file(...names: string[]): string {
		return join(this.path, ...names);
	}

	[Symbol.dispose](): void {
		rmSync(this.path, { recursive: true });
	}
}

/** Runs a test on a file of that name and content, in a fresh folder. */
export function withFile(
	name: string,
	content: string | Uint8Array,
	test: (path: string, folder: string) => void,
): void {
	using folder = new TemporaryFolder();
	const path = join(folder.path, name);
	writeFileSync(path, content);
	test(path, folder.path);
}
