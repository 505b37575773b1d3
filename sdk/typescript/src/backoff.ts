/** When to come back, and whether. */

import type { Runtime } from "./runtime.js";

export interface ReconnectOptions {
  /** The bound of the first wait, in milliseconds (default 3000). Waits are uniform between 0 and their bound. */
  minDelayMs?: number;
  /** The bound of the longest wait, in milliseconds (default 30000). */
  maxDelayMs?: number;
}

/** A connection that stayed open this long was a good one: the next wait is a short one again. */
export const STABLE_MS = 30_000;

/** Waits with full jitter: uniform between 0 and a bound that doubles, so that a crowd does not come back as one. */
export class Backoff {
  #boundMs: number;
  readonly #minMs: number;
  readonly #maxMs: number;

  constructor(private readonly runtime: Runtime, { minDelayMs = 3_000, maxDelayMs = 30_000 }: ReconnectOptions = {}) {
    this.#minMs = Math.max(minDelayMs, 1);
    this.#maxMs = Math.max(maxDelayMs, this.#minMs);
    this.#boundMs = this.#minMs;
  }

  /** The next wait, in milliseconds. */
  next(): number {
    const boundMs = this.#boundMs;
    this.widen(boundMs * 2);
    return boundMs * this.runtime.random();
  }

  /** The next waits spread over at least so much, up to `maxDelayMs`: the server named this time itself. */
  widen(boundMs: number): void {
    this.#boundMs = Math.min(Math.max(this.#boundMs, boundMs), this.#maxMs);
  }

  reset(): void {
    this.#boundMs = this.#minMs;
  }
}

/** Contract §8: after 4500–4999 a client stays away; after everything else it comes back. */
export function mayReconnect(closeCode: number): boolean {
  return !(closeCode >= 4500 && closeCode <= 4999);
}

/** The session has another connection now. */
export const TAKEN_OVER_CLOSE = 4505;

/** The close code that asks for a fresh token. */
export const TOKEN_EXPIRED_CLOSE = 4004;
