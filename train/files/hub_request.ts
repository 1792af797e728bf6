/**
 * Requests to the Hugging Face hub: redirects that do not leak the token, and patience with a network or a server that fails for
 * a while.
 *
 * @module
 */
import { setTimeout as wait } from "node:timers/promises";
import type { HubSettings } from "./hub_settings.ts";

/** Waiting before the first retry; it doubles each time. */
const BACKOFF = 500;
/** The hub counts requests over five minutes, so it asks for no longer wait than that. */
const LONGEST_WAIT = 300_000;
/** A connection that says nothing for so long is taken for cut. */
const SILENCE = 60_000;
const RETRIES = 5;
const REDIRECTS = 10;
/** The longest JSON that is read: a list of thousands of files takes some hundred kilobytes. */
const JSON_BYTES = 32e6;

/** How long things take. Tests make all of it short. */
export interface HubTiming {
  /** Milliseconds before the first retry. */
  readonly backoff?: number;
  /** Milliseconds without a byte after which a connection counts as cut. */
  readonly silence?: number;
}

/** A fault that may pass: the same request can work a little later. */
export class PassingFault extends Error {
  /** How long the server wants to be left alone. */
  readonly milliseconds: number;
  /** Whether the attempt got further than all before it. */
  readonly isAdvance: boolean;

  constructor(message: string, { milliseconds = 0, isAdvance = false }: {
    milliseconds?: number;
    isAdvance?: boolean;
  } = {}) {
    super(message);
    this.milliseconds = milliseconds;
    this.isAdvance = isAdvance;
  }
}

/** An answer that says no, for good. */
export class RefusedRequest extends Error {
  readonly status: number;
  /** The hub's own name for the reason, such as `GatedRepo`. */
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** What a request is. */
export interface HubRequest {
  readonly method?: "GET" | "HEAD";
  /** The first byte that is wanted. */
  readonly from?: number;
  /** Statuses that are an answer, not a fault. */
  readonly allowed?: readonly number[];
}

/** An answer whose body is still to come. */
export interface HubResponse extends Disposable {
  readonly status: number;
  readonly headers: Headers;
  /** The body, piece by piece. @throws {PassingFault} if the connection is cut or falls silent. */
  chunks(): AsyncIterable<Uint8Array<ArrayBuffer>>;
  /** The body as JSON. @throws {SyntaxError} if it is none, or longer than any list of files. */
  json(): Promise<unknown>;
}

/** Aborts where nothing happens for too long. */
class Silence implements Disposable {
  readonly #controller = new AbortController();
  readonly #milliseconds: number;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(milliseconds: number) {
    this.#milliseconds = milliseconds;
    this.touch();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  touch(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#controller.abort(new Error(`no byte came for ${this.#milliseconds / 1000} s`));
    }, this.#milliseconds);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#controller.abort();
  }
}

/** How long a server asks to wait: its Retry-After is in seconds, or a date. */
function retryAfter(headers: Headers): number {
  const text = headers.get("retry-after") ?? "";
  const milliseconds = /^\d+(\.\d+)?$/.test(text)
    ? 1000 * Number(text)
    : Date.parse(text) - Date.now();
  return Math.min(LONGEST_WAIT, Math.max(0, milliseconds || 0));
}

/** Text from a server as it may be shown: one short line. */
function cleanText(text: string): string {
  const line = text.replace(/[\p{Cc}\s]+/gu, " ").trim();
  return line.length > 200 ? `${line.slice(0, 200)}…` : line;
}

/** Talks to one hub. */
export class HubClient {
  readonly settings: HubSettings;
  readonly signal?: AbortSignal;
  readonly #backoff: number;
  readonly #silence: number;

  constructor(
    settings: HubSettings,
    { signal, timing: { backoff = BACKOFF, silence = SILENCE } = {} }: {
      signal?: AbortSignal;
      timing?: HubTiming;
    } = {},
  ) {
    this.settings = settings;
    this.signal = signal;
    this.#backoff = backoff;
    this.#silence = silence;
  }

  /**
   * Sends a request, once. The token goes to the hub itself alone: files lie on other hosts, whose addresses are signed.
   *
   * @throws {PassingFault} if the server cannot be reached, or answers 408, 429 or 5xx
   * @throws {RefusedRequest} if it answers another status that is neither 2xx nor allowed
   */
  async send(
    url: string,
    { method = "GET", from = 0, allowed = [] }: HubRequest = {},
  ): Promise<HubResponse> {
    this.signal?.throwIfAborted();
    const silence = new Silence(this.#silence);
    try {
      const response = await this.#follow(url, method, from, silence.signal);
      const { status, headers } = response;
      if (status < 300 || allowed.includes(status) || method === "HEAD" && isLinked(response)) {
        return this.#respond(response, silence);
      }
      await response.body?.cancel();
      const reason = cleanText(headers.get("x-error-message") || response.statusText);
      const message = `${status}${reason ? ` (${reason})` : ""}`;
      if (status === 408 || status === 429 || status >= 500) {
        throw new PassingFault(`the answer ${message}`, { milliseconds: retryAfter(headers) });
      }
      throw new RefusedRequest(status, headers.get("x-error-code") ?? "", message);
    } catch (error) {
      silence[Symbol.dispose]();
      throw error;
    }
  }

  async #follow(url: string, method: string, from: number, quiet: AbortSignal): Promise<Response> {
    const { endpoint, token } = this.settings;
    const hub = new URL(endpoint).origin;
    const signal = this.signal ? AbortSignal.any([this.signal, quiet]) : quiet;
    for (let hop = 0; hop <= REDIRECTS; hop++) {
      // Sizes and ranges are of the file itself, not of its compressed form.
      const headers = new Headers({ "accept-encoding": "identity" });
      if (token && new URL(url).origin === hub) headers.set("authorization", `Bearer ${token}`);
      if (from > 0) headers.set("range", `bytes=${from}-`);
      let response: Response;
      try {
        response = await fetch(url, { method, headers, signal, redirect: "manual" });
      } catch (error) {
        throw this.#cut(`no answer from ${new URL(url).origin}`, error);
      }
      const { status } = response;
      const location = response.headers.get("location");
      const isAnswer = method === "HEAD" && isLinked(response);
      if (status < 300 || status >= 400 || !location || isAnswer) return response;
      await response.body?.cancel();
      const next = URL.parse(location, url);
      if (!next || !/^https?:$/.test(next.protocol)) {
        throw new RefusedRequest(status, "", `${status}, to "${cleanText(location)}"`);
      }
      url = next.href;
    }
    throw new RefusedRequest(310, "", `more than ${REDIRECTS} redirects`);
  }

  #respond(response: Response, silence: Silence): HubResponse {
    const cut = (error: unknown) => this.#cut("the connection was cut", error);
    async function* chunks(): AsyncGenerator<Uint8Array<ArrayBuffer>> {
      const reader = response.body?.getReader();
      while (reader) {
        let piece;
        try {
          piece = await reader.read();
        } catch (error) {
          throw cut(error);
        }
        if (piece.done) return;
        silence.touch();
        yield piece.value;
      }
    }
    return {
      status: response.status,
      headers: response.headers,
      chunks,
      async json() {
        const pieces: Uint8Array<ArrayBuffer>[] = [];
        let size = 0;
        for await (const piece of chunks()) {
          pieces.push(piece);
          size += piece.length;
          if (size > JSON_BYTES) throw new SyntaxError(`more than ${JSON_BYTES} bytes`);
        }
        return JSON.parse(await new Blob(pieces).text());
      },
      [Symbol.dispose]: () => silence[Symbol.dispose](),
    };
  }

  /** The fault for what `fetch` threw, unless the user stopped it. */
  #cut(what: string, error: unknown): PassingFault {
    this.signal?.throwIfAborted();
    const { message, cause } = error as Error;
    // Deno wraps the reason, and repeats the address in it.
    const reason = String((cause as Error)?.message ?? message)
      .replace(/^error sending request for url \([^)]*\): /, "");
    return new PassingFault(`${what} (${cleanText(reason)})`);
  }

  /**
   * Repeats an attempt while its fault may pass. An attempt that got further than those before it starts the count anew: a large
   * file may come over a poor line in many parts.
   *
   * @param attempt what to do
   * @param retries how often it is repeated without getting further
   */
  async patiently<T>(attempt: () => Promise<T>, retries = RETRIES): Promise<T> {
    for (let failed = 0;;) {
      try {
        return await attempt();
      } catch (error) {
        if (!(error instanceof PassingFault)) throw error;
        failed = error.isAdvance ? 1 : failed + 1;
        if (failed > retries) throw error;
        const pause = Math.max(error.milliseconds, this.#backoff * 2 ** (failed - 1));
        await wait(pause, undefined, { signal: this.signal }).catch(() => {});
        this.signal?.throwIfAborted();
      }
    }
  }
}

/** Whether a redirect says already what the file behind it is. */
function isLinked({ status, headers }: Response): boolean {
  return status >= 300 && status < 400 && headers.has("x-linked-etag");
}
