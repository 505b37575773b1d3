/**
 * Whether the other side still answers. A browser cannot see WebSocket pings, and a half-open connection looks like a
 * quiet one, so this asks with the contract's own `PING`; the answers also set the clock.
 */

import type { Clock } from "./clock.js";
import { Timer, type Runtime } from "./runtime.js";

/** A new connection asks a few times quickly, for a good first sample of the clock. */
const QUICK_PINGS = 3;
const QUICK_MS = 1_000;
/** Other traffic excuses a late answer (it may stand behind it in a queue), but only so often. */
const MAX_EXCUSES = 2;
/** Somebody looks at the page, or the network is another one: a dead connection should not take long. */
const PROBE_TIMEOUT_MS = 2_000;

export interface LivenessOptions {
  intervalMs: number;
  timeoutMs: number;
}

export class Liveness {
  readonly #interval: Timer;
  readonly #deadline: Timer;
  #outstanding: { id: number; sentAt: number } | undefined;
  #heard = false;
  #pings = 0;
  /** Undefined while stopped. */
  #options: LivenessOptions | undefined;

  /** `ping` sends one and says its id; `dead` is called at most once for each `start`. */
  constructor(
    private readonly runtime: Runtime,
    private readonly clock: Clock,
    private readonly ping: (sentAt: number) => number,
    private readonly dead: () => void,
  ) {
    this.#interval = new Timer(runtime);
    this.#deadline = new Timer(runtime);
  }

  start(options: LivenessOptions): void {
    this.stop();
    this.#options = options;
    this.#pings = 0;
    this.#ask(options);
  }

  stop(): void {
    this.#options = undefined;
    this.#interval.clear();
    this.#deadline.clear();
    this.#outstanding = undefined;
  }

  /** The network may have changed, or the machine slept: asks now, and waits less long than otherwise. */
  probe(): void {
    const options = this.#options;
    const sentAt = this.#outstanding?.sentAt ?? -Infinity;
    if (!options || this.runtime.now() - sentAt < PROBE_TIMEOUT_MS) return;
    this.#outstanding = undefined;
    this.#ask(options);
    this.#expect(Math.min(options.timeoutMs, PROBE_TIMEOUT_MS), 1);
  }

  /** Any frame came. */
  heard(): void {
    this.#heard = true;
  }

  /** Whether `id` was ours. `serverTimeMs` is absent where the answer was an error (a rate limit, say): still an answer. */
  answered(id: number | undefined, serverTimeMs?: number): boolean {
    const ping = this.#outstanding;
    if (!ping || ping.id !== id) return false;
    this.#outstanding = undefined;
    this.#deadline.clear();
    if (serverTimeMs !== undefined) this.clock.sample(ping.sentAt, serverTimeMs);
    return true;
  }

  #ask(options: LivenessOptions): void {
    const delayMs = ++this.#pings < QUICK_PINGS ? Math.min(QUICK_MS, options.intervalMs) : options.intervalMs;
    this.#interval.set(delayMs, () => this.#ask(options));
    if (this.#outstanding) return;
    const sentAt = this.runtime.now();
    this.#outstanding = { id: this.ping(sentAt), sentAt };
    this.#expect(options.timeoutMs, MAX_EXCUSES);
  }

  #expect(timeoutMs: number, excuses: number): void {
    this.#heard = false;
    const armedAt = this.runtime.now();
    this.#deadline.set(timeoutMs, () => {
      // A page that was frozen runs this before it has read what is waiting on the socket.
      const late = this.runtime.now() - armedAt > 2 * timeoutMs;
      if (excuses > 0 && (late || this.#heard)) this.#expect(timeoutMs, excuses - 1);
      else this.dead();
    });
  }
}
