import { UserError } from "../base/errors.ts";
import { bytesText } from "../base/units.ts";
import { type RepositoryCache, sizeOf } from "./cache.ts";
import type { RemoteFile } from "./listing.ts";
import { ProgressMeter } from "./progress.ts";
import { HubSession } from "./session.ts";
import { transferBlob } from "./transfer.ts";

/** Brings files of one commit into the cache, several at a time. */
export class Download {
  constructor(
    readonly session: HubSession,
    readonly cache: RepositoryCache,
    readonly commit: string,
    readonly meter: ProgressMeter,
    readonly freeBytes: (folder: string) => number,
  ) {}

  /**
   * Says what will be fetched in all, before anything is.
   *
   * @throws {UserError} If the disk has no room for it.
   */
  plan(files: RemoteFile[]): void {
    const missing = new Map(this.#missing(files).map((file) => [file.etag, file]));
    let neededBytes = 0;
    this.meter.totalBytes = this.meter.doneBytes;
    for (const { etag, bytes } of missing.values()) {
      this.meter.totalBytes += bytes;
      if (sizeOf(this.cache.blob(etag)) === bytes) continue;
      const kept = sizeOf(this.cache.incomplete(etag)) ?? 0;
      neededBytes += kept <= bytes ? bytes - kept : bytes;
    }
    if (neededBytes === 0) return;
    const free = this.freeBytes(this.cache.folder);
    if (neededBytes > free) {
      throw new UserError(
        `Cannot download "${this.session.repository.id}": it needs ${bytesText(neededBytes)}, ` +
          `and the disk of "${this.cache.root}" has ${bytesText(free)} free; make room, or set ` +
          `HF_HOME or HF_HUB_CACHE to a folder on a larger disk`,
      );
    }
  }

  /** @throws {UserError} If a file cannot be fetched; the others are then stopped. */
  async fetch(files: RemoteFile[]): Promise<void> {
    // The same content may be in several places.
    const waiting = [...Map.groupBy(this.#missing(files), ({ etag }) => etag).values()];
    const failed = new AbortController();
    const signal = AbortSignal.any([this.session.signal, failed.signal]);
    const { settings, repository, limits, warn } = this.session;
    const session = new HubSession(settings, repository, limits, signal, warn);
    const connection = async () => {
      for (let places; (places = waiting.shift());) {
        await this.#fetchBlob(session, places);
      }
    };
    await Promise.allSettled(
      Array.from({ length: limits.connections }, () =>
        connection().catch((error) => {
          waiting.length = 0;
          failed.abort(error); // does nothing if another one has failed before
        })),
    );
    signal.throwIfAborted();
  }

  /** Fetches a blob and puts it in its places. */
  async #fetchBlob(session: HubSession, places: RemoteFile[]): Promise<void> {
    const { cache, commit, meter } = this;
    const [{ path, etag, bytes }] = places;
    using _lock = await cache.lock(
      etag,
      session.signal,
      () =>
        session.warn(
          `Waiting for another process, which downloads "${path}" of "${session.repository.id}"`,
        ),
    );
    // Another one may have been faster.
    if (this.#missing(places).length > 0) {
      const isNew = await transferBlob(session, cache, commit, places[0], meter);
      cache.link(commit, etag, places.map(({ path }) => path), isNew);
    }
    meter.advance(bytes - meter.doneOf(etag), etag);
  }

  #missing(files: RemoteFile[]): RemoteFile[] {
    return files.filter(({ path, bytes }) => this.cache.file(this.commit, path)?.bytes !== bytes);
  }
}
