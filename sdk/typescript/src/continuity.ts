/**
 * What a reconnect may have missed, and when the application learns of it: once for each channel or pattern, before any
 * later event of it.
 */

import type { Cursors, Position } from "./cursors.js";
import type { Recovered, Resync } from "./events.js";
import { globMatcher, isPattern } from "./glob.js";
import type { WireSubscription } from "./messages.js";
import type { Begin } from "./session.js";

export interface ContinuityOwner {
  recovered(recovered: Recovered): void;
  resync(resync: Resync): void;
}

export class Continuity {
  /** Live when the connection broke, and not yet again; with the position at that time. */
  readonly #missed = new Map<string, Position | undefined>();
  /** Proven whole by `WELCOME`, not yet announced. */
  readonly #recovered = new Set<string>();
  /** Not recovered: the server's `RESYNC` follows and says why. Where none does, this client says so itself. */
  readonly #unproven = new Map<string, (channel: string) => boolean>();
  #reason = "reconnect";
  /** The session is another one than before the break. */
  #isNew = false;

  constructor(private readonly cursors: Cursors, private readonly owner: ContinuityOwner) {}

  has(channel: string): boolean {
    return this.#missed.has(channel);
  }

  names(): Iterable<string> {
    return this.#missed.keys();
  }

  /** The connection is lost; `live` are its subscriptions. */
  lost(live: Iterable<string>): void {
    this.settle();
    const unannounced = [...this.#recovered];
    this.#recovered.clear();
    for (const channel of [...unannounced, ...live]) this.#missed.set(channel, this.cursors.get(channel));
  }

  welcomed(subscriptions: WireSubscription[], how: Begin): void {
    this.#reason = how === "ended" ? "session" : "reconnect";
    this.#isNew = how !== "resumed";
    if (this.#isNew) return;
    for (const { channel, pending, recovered } of subscriptions) {
      if (pending || !this.#missed.has(channel)) continue;
      const isWhole = recovered && !(this.cursors.incomplete && isPattern(channel));
      if (isWhole) this.#recovered.add(channel);
      else if (recovered !== undefined) this.#unproven.set(channel, isPattern(channel) ? globMatcher(channel) : (name) => name === channel);
      if (isWhole || recovered === undefined) this.#missed.delete(channel);
    }
  }

  /** What was live before the break and is not in the new session: forgotten here. Only the server had subscribed to it. */
  takeEnded(isListed: (channel: string) => boolean): string[] {
    // A resumed session reports each itself, with its reason.
    if (!this.#isNew) return [];
    const ended = [...this.#missed.keys()].filter((channel) => !isListed(channel));
    for (const channel of ended) this.forget(channel);
    return ended;
  }

  /** A subscription is live on this connection. */
  live(channel: string): void {
    if (this.#recovered.delete(channel)) this.owner.recovered({ channel });
    else if (!this.#unproven.has(channel)) this.#resync(channel);
  }

  /** It was live after `WELCOME` without a doubt (its confirmation said so). */
  proven(channel: string): void {
    if (this.#missed.delete(channel)) this.#recovered.add(channel);
  }

  /** An event of this channel comes next. */
  beforeEvent(channel: string): void {
    if (this.#unproven.size === 0) return;
    for (const [name, matches] of this.#unproven) if (matches(channel)) this.#resync(name);
  }

  /** The server's own word on it. */
  resynced(resync: Resync): Resync {
    const since = this.#missed.get(resync.channel);
    this.forget(resync.channel);
    return since ? { ...resync, since } : resync;
  }

  /** What the server had to say behind `WELCOME` is here. */
  settle(): void {
    for (const channel of this.#unproven.keys()) this.#resync(channel);
  }

  /** It is not subscribed any more. */
  forget(channel: string): void {
    this.#missed.delete(channel);
    this.#unproven.delete(channel);
    this.#recovered.delete(channel);
  }

  #resync(channel: string): void {
    if (!this.#missed.has(channel)) return;
    const since = this.#missed.get(channel);
    this.forget(channel);
    this.owner.resync({ channel, reason: this.#reason, ...(since && { since }) });
  }
}
