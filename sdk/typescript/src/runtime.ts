/**
 * Time, chance and sockets, as this library asks for them. Everything else is deterministic, so that tests can
 * drive reconnects, timeouts and clocks by hand.
 */

import { answersHttp, onPage, type PageSignal } from "./page.js";

/** What a `WebSocket` must offer: the browser's, Node's own (22 and later) and the one of package `ws` do. */
export interface WebSocketLike {
  binaryType: string;
  readonly readyState: number;
  readonly bufferedAmount: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

export interface Runtime {
  /** Milliseconds of a clock that only goes forward. */
  now(): number;
  /** Unix milliseconds of this machine. */
  wallNow(): number;
  /** From 0 up to 1. */
  random(): number;
  setTimeout(callback: () => void, delayMs: number): unknown;
  clearTimeout(handle: unknown): void;
  /** Calls back for what a browser says of the page and its network; the returned function removes the handler. */
  onPage(callback: (signal: PageSignal) => void): () => void;
  /** Whether an HTTP server responds at `url`; undefined outside of browsers, where sockets report their errors. */
  answersHttp(url: string): Promise<boolean | undefined>;
  /** A name that nobody else has: at most 64 characters. */
  uniqueKey(): string;
}

export const systemRuntime: Runtime = {
  now: () => performance.now(),
  wallNow: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (callback, delayMs) => setTimeout(callback, delayMs),
  clearTimeout: (handle) => clearTimeout(handle as number),
  onPage,
  answersHttp,
  uniqueKey: () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(36)).join("-"),
};

/** Longer delays overflow `setTimeout` and would fire at once. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** One deadline that can be set anew and cleared. */
export class Timer {
  #handle: unknown;
  #dueAt = Infinity;
  #callback: () => void = () => {};

  constructor(private readonly runtime: Runtime) {}

  set(delayMs: number, callback: () => void): void {
    this.clear();
    this.#dueAt = this.runtime.now() + delayMs;
    this.#callback = callback;
    this.#handle = this.runtime.setTimeout(
      () => {
        this.#handle = undefined;
        callback();
      },
      Math.min(Math.max(delayMs, 0), MAX_DELAY_MS),
    );
  }

  /** It is due no later than this; nothing happens if it is not set. */
  shorten(delayMs: number): void {
    if (this.#handle !== undefined && this.runtime.now() + delayMs < this.#dueAt) this.set(delayMs, this.#callback);
  }

  clear(): void {
    if (this.#handle !== undefined) this.runtime.clearTimeout(this.#handle);
    this.#handle = undefined;
  }
}
