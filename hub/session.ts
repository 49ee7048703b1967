import { UserError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import type { HubLimits } from "./limits.ts";
import { isJson, noHub, refusal, typeText } from "./refusal.ts";
import type { HubRepository } from "./repository.ts";
import { Attempts, PassingTrouble, sleep } from "./retry.ts";
import type { HubSettings } from "./settings.ts";

const MAX_REDIRECTS = 10;

/** The hub cannot be asked, so what the cache holds may do instead. */
export class HubUnreachable extends UserError {
  override name = "HubUnreachable";
}

/** Cuts a connection on which nothing arrives. */
export class StallGuard implements Disposable {
  readonly #stalled = new AbortController();
  #timer?: ReturnType<typeof setTimeout>;
  /** Aborted if the connection stalls or the user interrupts. */
  readonly signal: AbortSignal;

  constructor(readonly stallMs: number, user: AbortSignal) {
    this.signal = AbortSignal.any([user, this.#stalled.signal]);
    this.arrived();
  }

  /** Something has arrived: the time begins anew. */
  arrived(): void {
    clearTimeout(this.#timer);
    const trouble = new PassingTrouble(`nothing has arrived for ${this.stallMs / 1000} s`);
    this.#timer = setTimeout(() => this.#stalled.abort(trouble), this.stallMs);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

/** Requests for one repository. */
export class HubSession {
  constructor(
    readonly settings: HubSettings,
    readonly repository: HubRepository,
    readonly limits: HubLimits,
    readonly signal: AbortSignal,
    readonly warn: (text: string) => void,
    /** Whether the cache could answer instead, so that there is no point in trying long. */
    readonly impatient = false,
  ) {}

  /**
   * One attempt at a request. Redirects are followed here, since the token is for the endpoint's
   * origin only, and `fetch` would follow to any scheme.
   *
   * @param path The file asked for, for messages.
   * @throws {PassingTrouble | UserError} If there is no answer, or one of 400 or more other than
   *   the 416 of a range.
   */
  async request(
    address: string,
    guard: StallGuard,
    init: { method?: string; headers?: HeadersInit; body?: BodyInit | null } = {},
    path?: string,
  ): Promise<Response> {
    let { method = "GET", body } = init;
    let url = new URL(address);
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      const headers = new Headers(init.headers);
      headers.set("User-Agent", `billm/${VERSION}`);
      // A compressed answer has no byte ranges and no length to check.
      headers.set("Accept-Encoding", "identity");
      headers.delete("Authorization");
      if (this.settings.token !== undefined && url.origin === this.#origin) {
        headers.set("Authorization", `Bearer ${this.settings.token}`);
      }
      const response = await this.translating(
        guard,
        () => fetch(url, { method, headers, body, redirect: "manual", signal: guard.signal }),
      );
      guard.arrived();
      const location = response.headers.get("Location");
      if (![301, 302, 303, 307, 308].includes(response.status) || location === null) {
        const beyondEnd = response.status === 416 && headers.has("Range");
        if (response.status < 400 || beyondEnd) return response;
        throw await this.translating(
          guard,
          () => refusal(response, this.settings, this.repository, path),
        );
      }
      await response.body?.cancel();
      const target = URL.parse(location, url);
      if (target === null || !/^https?:$/.test(target.protocol)) {
        throw new UserError(
          `Cannot download "${this.repository.id}": "${url.host}" redirects to ` +
            `"${location}", which is no web address; check HF_ENDPOINT`,
        );
      }
      if (response.status < 307 && method !== "GET") [method, body] = ["GET", undefined];
      url = target;
    }
    throw new UserError(
      `Cannot download "${this.repository.id}": the hub redirects more than ` +
        `${MAX_REDIRECTS} times, at last to "${url.host}"; check HF_ENDPOINT`,
    );
  }

  /**
   * The `fetch` for questions about the repository: with redirects and attempts as they ought to
   * be, and with errors that name what would do, so that it returns nothing but good JSON.
   *
   * @throws {HubUnreachable} If there is no answer.
   * @throws {UserError} If the hub refuses, or what answers is no hub.
   */
  readonly fetch = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const limits = this.impatient ? { ...this.limits, attempts: 1 } : this.limits;
    const stallMs = this.impatient ? limits.impatientStallMs : limits.stallMs;
    const attempts = new Attempts(limits);
    for (;;) {
      try {
        using guard = new StallGuard(stallMs, this.signal);
        const { method, headers, body } = init;
        const response = await this.request(String(input), guard, { method, headers, body });
        const text = await this.translating(guard, () => response.text());
        if (!isJson(text)) {
          const evidence = `sends ${typeText(response.headers)} in place of JSON`;
          throw noHub(this.settings, this.repository, evidence);
        }
        return new Response(text, { headers: response.headers });
      } catch (trouble) {
        if (!(trouble instanceof PassingTrouble)) throw trouble;
        const pauseMs = attempts.pauseAfter(trouble);
        if (pauseMs === undefined) {
          throw new HubUnreachable(
            `Cannot reach the hub at "${this.settings.endpoint}": ${trouble.message}; ` +
              `check the network and HF_ENDPOINT, or try again later`,
          );
        }
        this.warn(
          `The hub does not answer: ${trouble.message}; trying again in ${secondsText(pauseMs)}`,
        );
        await sleep(pauseMs, this.signal);
      }
    }
  };

  /**
   * Turns what `fetch` and bodies throw into `PassingTrouble`.
   *
   * @throws The user's reason, if it was the user who interrupted.
   */
  async translating<T>(guard: StallGuard, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      this.signal.throwIfAborted();
      if (guard.signal.aborted) throw guard.signal.reason;
      throw new PassingTrouble(networkReason(error));
    }
  }

  get #origin(): string {
    return new URL(this.settings.endpoint).origin;
  }
}

/** What went wrong with a connection, without Deno's repetition of the address. */
function networkReason(error: unknown): string {
  let innermost = error as Error;
  while (innermost.cause instanceof Error) innermost = innermost.cause;
  return innermost.message
    .replace(/^error sending request (?:for url \(\S*\)|from .*? for \S* \(\S*\)): /, "")
    .replace(/client error \(\w+\): /, "");
}

export function secondsText(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 9500 ? 1 : 0)} s`;
}
