import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { reasonOf } from "../storage/folder.ts";
import { RepositoryCache } from "./cache.ts";

/** A flat folder in place of a cache, which only one process uses. */
export class ShardFolder extends RepositoryCache {
	override readonly remedy = "choose as output";

	override blob(etag: string): string {
		return join(this.root, etag);
	}

	override snapshot(): string {
		return this.root;
	}

	override link(_commit: string, etag: string, [path]: string[]): void {
		const place = join(this.root, path);
		try {
			Deno.renameSync(this.blob(etag), place);
		} catch (error) {
			throw new UserError(`Cannot write "${place}": ${reasonOf(error)}`);
		}
	}

	override lock(): Promise<Disposable> {
		return Promise.resolve({ [Symbol.dispose]: () => {} });
	}
}
