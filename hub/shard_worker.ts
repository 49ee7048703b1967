import { UserError } from "../base/errors.ts";
import { Download } from "./download.ts";
import type { HubLimits } from "./limits.ts";
import type { RemoteFile } from "./listing.ts";
import { type HubProgress, ProgressMeter } from "./progress.ts";
import type { HubRepository } from "./repository.ts";
import { HubSession } from "./session.ts";
import type { HubSettings } from "./settings.ts";
import { ShardFolder } from "./shard_folder.ts";

// Downloads shards in a thread of its own: the main one is often too busy with the GPU for the network.

/** A file to download. */
export interface ShardDownload {
	id: number;
	settings: HubSettings;
	repository: HubRepository;
	limits: HubLimits;
	commit: string;
	/** The folder that gets the file. */
	folder: string;
	file: RemoteFile;
}

/** What the worker is told: to download a file, or to stop doing so. */
export type ShardTask = ShardDownload | { id: number; stop: true };

/** What the worker tells of a task; `done` and `error` end it. */
export type ShardNews =
	& { id: number }
	& (
		| { progress: HubProgress }
		| { warning: string }
		| { done: true }
		| { error: string; isUserError: boolean }
	);

const running = new Map<number, AbortController>();

// The compiler knows the scope of the main thread only.
const scope = self as unknown as {
	onmessage: (event: MessageEvent<ShardTask>) => void;
	postMessage: (news: ShardNews) => void;
};

scope.onmessage = async ({ data }) => {
	const { id } = data;
	if ("stop" in data) return running.get(id)?.abort();
	const tell = (news: ShardNews) => scope.postMessage(news);
	const controller = new AbortController();
	running.set(id, controller);
	try {
		const { settings, repository, limits, commit, folder, file } = data;
		const warn = (warning: string) => tell({ id, warning });
		const session = new HubSession(settings, repository, limits, controller.signal, warn);
		const cache = new ShardFolder(folder, repository);
		const meter = new ProgressMeter((progress) => tell({ id, progress }));
		const download = new Download(session, cache, commit, meter, () => Infinity);
		download.plan([file]); // for the progress; room was looked for before
		await download.fetch([file]);
		tell({ id, done: true });
	} catch (error) {
		const { message, stack } = error as Error;
		const isUserError = error instanceof UserError;
		tell({ id, error: isUserError ? message : stack ?? message, isUserError });
	} finally {
		running.delete(id);
	}
};
