import { UserError } from "../../base/errors.ts";
import { bytesText } from "../../base/units.ts";
import {
	fetchFiles,
	fetchModel,
	type FetchOptions,
	type MissingShards,
	type Snapshot,
} from "../../hub/fetch_files.ts";
import { NoSuchRepository } from "../../hub/refusal.ts";
import type { HubRepository } from "../../hub/repository.ts";
import { HubUnreachable } from "../../hub/session.ts";
import { Shards, type ShardsOptions } from "../../hub/shards.ts";
import { nearPath } from "../../storage/model_folder.ts";
import { VerifiedFiles } from "../../hub/verify.ts";
import type { HashedFile } from "../../storage/files.ts";
import type { Emit } from "./events.ts";

/** A name on the hub: "gpt2" or "facebook/opt-125m". */
export const HUB_ID = /^(?!.*\.(?:gguf|safetensors|bin|ya?ml)$)[A-Za-z0-9][\w.-]*(\/[\w.-]+)?$/;

/**
 * Access of a run to the Hugging Face hub; records the commits used.
 *
 * @internal
 */
export class HubAccess {
	/** Commit hashes by "id@revision". */
	readonly commits: Record<string, string> = {};
	readonly #verified = new VerifiedFiles();
	/** The shards of the model that are downloaded when they are needed, if there are any. */
	shards?: Shards;

	/** @param beforeWeights Called before the weights of a model are downloaded, which may take long. */
	constructor(
		readonly emit: Emit,
		readonly signal: AbortSignal,
		readonly beforeWeights: () => Promise<void>,
		/** Where shards go that are removed after use, and who hears of them. */
		readonly late?: Pick<ShardsOptions, "onArrived" | "onRemove"> & { folder: string },
		/** Where a folder of the model's name was looked for, in words. */
		readonly places?: string,
	) {}

	/**
	 * The files of a model that a run needs.
	 *
	 * @param id Name on the hub; not a local folder.
	 * @param check Called with the folder when all files except the weights are present.
	 * @param keep If false, shards that are not in the cache are downloaded when they are needed, and removed
	 *   when they no longer are.
	 */
	async model(
		id: string,
		revision: string,
		check: (folder: string) => void,
		keep = true,
	): Promise<Snapshot> {
		const repository: HubRepository = { type: "model", id, revision };
		const options = this.#options(id);
		const onMissingShards = async (missing: MissingShards) => {
			const { onArrived, onRemove, folder } = this.late!;
			this.shards = await Shards.open(folder, missing, {
				onProgress: options.onProgress,
				onArrived,
				onRemove,
			});
		};
		const beforeWeights = async (folder: string) => {
			check(folder);
			await this.beforeWeights();
		};
		try {
			const late = !keep && { onMissingShards };
			return this.#remember(await fetchModel(repository, { ...options, beforeWeights, ...late }));
		} catch (error) {
			const isMissing = error instanceof NoSuchRepository || error instanceof HubUnreachable ||
				(error instanceof UserError && error.message.includes(" offline: "));
			if (!isMissing) throw error;
			const near = nearPath(id);
			const message = `${error.message}; a folder "${id}" is not there either` +
				(this.places ? `: ${this.places}` : "") + (near ? `; did you mean "${near}"?` : "");
			throw new UserError(message, { cause: error });
		}
	}

	/** The folder with files of a data set. */
	async dataset(repository: HubRepository, paths: string[]): Promise<string> {
		const options = this.#options(repository.id);
		return this.#remember(await fetchFiles(repository, paths, options)).folder;
	}

	/** The hash of a file in the cache, if it was computed to verify the cache. */
	hashOf(path: string): HashedFile | undefined {
		return this.#verified.get(path);
	}

	#remember(snapshot: Snapshot): Snapshot {
		this.#verified.add(snapshot.verified);
		const { repository: { id, revision }, commit, downloadedBytes } = snapshot;
		this.commits[`${id}@${revision}`] = commit;
		if (downloadedBytes > 0) {
			const text = `${id}: ${bytesText(downloadedBytes)} downloaded, to ${snapshot.folder}`;
			this.emit({ type: "stage", stage: "download", text });
		}
		return snapshot;
	}

	#options(id: string): FetchOptions {
		return {
			signal: this.signal,
			onProgress: ({ doneBytes, totalBytes, bytesPerSecond }) =>
				this.emit({
					type: "progress",
					stage: "download",
					done: doneBytes,
					total: totalBytes,
					text: id,
					detail: `${bytesText(doneBytes)} of ${bytesText(totalBytes)}` +
						(bytesPerSecond > 0 ? `, ${bytesText(bytesPerSecond)}/s` : ""),
				}),
			onWarning: (message) => this.emit({ type: "warning", message }),
		};
	}
}

/** The name of a file in the hub cache, independent of cache and commit: "id/path". */
export function hubName(path: string): string | undefined {
	const found = /(?:models|datasets)--([^/\\]+)[/\\]snapshots[/\\][0-9a-f]{40}[/\\](.+)$/.exec(
		path,
	);
	return found ? `${found[1].replace("--", "/")}/${found[2]}` : undefined;
}
