/**
 * The server's clock, as well as it can be told from here. Each answered `PING` is a sample; the one with the
 * shortest round trip is the most exact (its error is at most half of that), so it is the one believed.
 */

import type { Runtime } from "./runtime.js";

/** Old samples are forgotten, so that drift shows. */
const SAMPLES = 16;

interface Sample {
  offsetMs: number;
  rttMs: number;
}

export class Clock {
  #samples: Sample[] = [];
  #best: Sample | undefined;

  constructor(private readonly runtime: Runtime) {}

  /** The server's time in Unix milliseconds. Before the first connection, this machine's. */
  now(): number {
    return this.#best ? this.runtime.now() + this.#best.offsetMs : this.runtime.wallNow();
  }

  /** How far the server's clock is ahead of this machine's, in milliseconds. */
  get offsetMs(): number {
    return this.now() - this.runtime.wallNow();
  }

  /** The shortest round trip among the recent samples, in milliseconds; undefined before the first. */
  get rttMs(): number | undefined {
    return this.#best?.rttMs;
  }

  /** @internal A request left at `sentAt`, its answer with the server's time is here now. */
  sample(sentAt: number, serverTimeMs: number): void {
    const receivedAt = this.runtime.now();
    const rttMs = Math.max(receivedAt - sentAt, 0);
    if (!Number.isFinite(serverTimeMs)) return;
    this.#samples.push({ offsetMs: serverTimeMs - (sentAt + receivedAt) / 2, rttMs });
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    this.#best = this.#samples.reduce((best, sample) => (sample.rttMs <= best.rttMs ? sample : best));
  }

  /** @internal A new connection, perhaps to another node, perhaps after this machine slept: the old samples say little. */
  restart(): void {
    this.#samples = [];
  }
}
