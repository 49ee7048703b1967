import { sha1 } from "@noble/hashes/legacy.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import type { FileHash } from "./file_list.ts";

/** A hash that is computed while a file arrives; the one of browsers takes whole files only. */
export class RunningHash {
	readonly #hash: { update(bytes: Uint8Array): unknown; digest(): Uint8Array };

	/** @param bytes The size of the file, which git's hash begins with. */
	constructor(readonly expected: FileHash, bytes: number) {
		this.#hash = expected.kind === "git" ? sha1.create() : sha256.create();
		if (expected.kind === "git") this.#hash.update(new TextEncoder().encode(`blob ${bytes}\0`));
	}

	add(bytes: Uint8Array): void {
		this.#hash.update(bytes);
	}

	/** Whether all that was added has the expected hash; nothing can be added afterwards. */
	isRight(): boolean {
		return bytesToHex(this.#hash.digest()) === this.expected.digits;
	}
}
