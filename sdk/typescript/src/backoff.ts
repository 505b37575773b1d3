/** When to come back, and whether. */

import type { Runtime } from "./runtime.js";

export interface ReconnectOptions {
  /** The bound of the first wait, in milliseconds (default 500). */
  minDelayMs?: number;
  /** The bound of the longest wait, in milliseconds (default 20000). */
  maxDelayMs?: number;
}

/** A link that stayed open this long was a good one: the next wait is a short one again. */
export const STABLE_MS = 10_000;

export class Backoff {
  #failures = 0;
  readonly #minMs: number;
  readonly #maxMs: number;

  constructor(private readonly runtime: Runtime, options: ReconnectOptions = {}) {
    this.#minMs = Math.max(options.minDelayMs ?? 500, 1);
    this.#maxMs = Math.max(options.maxDelayMs ?? 20_000, this.#minMs);
  }

  /** The next wait: doubling, and between half and whole by chance, so that a crowd does not come back as one. */
  next(): number {
    const bound = Math.min(this.#minMs * 2 ** this.#failures, this.#maxMs);
    this.#failures = Math.min(this.#failures + 1, 30);
    return bound * (0.5 + this.runtime.random() / 2);
  }

  reset(): void {
    this.#failures = 0;
  }
}

/** Contract §8: after 4500–4999 a client stays away; after everything else it comes back. */
export function mayReconnect(closeCode: number): boolean {
  return !(closeCode >= 4500 && closeCode <= 4999);
}

/** The close code that asks for a fresh token. */
export const TOKEN_EXPIRED_CLOSE = 4004;
