/** Progress of a download. */
export interface HubProgress {
	/** Bytes present, including those of earlier downloads. */
	doneBytes: number;
	/** Total bytes of files that were missing or incomplete at the start. */
	totalBytes: number;
	/** Throughput over the last seconds; 0 at first. */
	bytesPerSecond: number;
}

/** Time window of the throughput. */
const WINDOW_MS = 5000;
/** Minimum interval of progress events. */
const PERIOD_MS = 100;

/** Accumulated progress of the transfers of a download. */
export class ProgressMeter {
	totalBytes = 0;
	doneBytes = 0;
	/** Bytes received over the network. */
	receivedBytes = 0;
	readonly #done = new Map<string, number>();
	#toldAt = -Infinity;
	#samples: { time: number; received: number }[] = [];

	constructor(readonly onProgress: (progress: HubProgress) => void) {}

	/** Bytes present of a blob. */
	doneOf(etag: string): number {
		return this.#done.get(etag) ?? 0;
	}

	/** Adds received bytes of a blob. */
	receive(bytes: number, etag: string): void {
		this.receivedBytes += bytes;
		this.advance(bytes, etag);
	}

	/** Adds bytes of a blob from any source; negative if they were discarded. */
	advance(bytes: number, etag: string): void {
		if (bytes === 0) return;
		this.#done.set(etag, this.doneOf(etag) + bytes);
		this.doneBytes += bytes;
		const now = performance.now();
		if (now - this.#toldAt >= PERIOD_MS || this.doneBytes === this.totalBytes) this.#tell(now);
	}

	#tell(now: number): void {
		this.#toldAt = now;
		this.#samples.push({ time: now, received: this.receivedBytes });
		this.#samples = this.#samples.filter(({ time }) => now - time <= WINDOW_MS);
		const [{ time, received }] = this.#samples;
		const bytesPerSecond = now > time ? (this.receivedBytes - received) / (now - time) * 1000 : 0;
		const { doneBytes, totalBytes } = this;
		this.onProgress({ doneBytes, totalBytes, bytesPerSecond });
	}
}
