/** How far a download is. */
export interface HubProgress {
  /** Bytes there, with those that were there before. */
  doneBytes: number;
  /** Bytes of all that was missing or begun when the download started. */
  totalBytes: number;
  /** Received over the last seconds; 0 at first. */
  bytesPerSecond: number;
}

/** The time over which the speed is taken. */
const WINDOW_MS = 5000;
/** Progress is told no more often than this. */
const PERIOD_MS = 100;

/** Adds up what the transfers of one download have done. */
export class ProgressMeter {
  totalBytes = 0;
  doneBytes = 0;
  /** Bytes that came over the network. */
  receivedBytes = 0;
  readonly #done = new Map<string, number>();
  #toldAt = -Infinity;
  #samples: { time: number; received: number }[] = [];

  constructor(readonly onProgress: (progress: HubProgress) => void) {}

  /** Bytes of a blob that are there. */
  doneOf(etag: string): number {
    return this.#done.get(etag) ?? 0;
  }

  /** Bytes of a blob have come. */
  receive(bytes: number, etag: string): void {
    this.receivedBytes += bytes;
    this.advance(bytes, etag);
  }

  /** Bytes of a blob are there, from wherever; negative if they have turned out to be of no use. */
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
