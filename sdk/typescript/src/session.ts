/** The session that the server keeps for this client while it is away. Its name is a credential: it stays in memory. */

import type { Cursors } from "./cursors.js";
import type { ResumeRequest, WelcomeMessage } from "./messages.js";

/** How a connection began: with no session to go on with, with one that had ended, or with one that goes on. */
export type Begin = "fresh" | "ended" | "resumed";

/** Where the server has not said what it takes. */
const UNKNOWN_MESSAGE_BYTES = 24 * 1024;
/** Subscriptions and positions each have a third of what the server takes; the token and the rest have the third. */
const PARTS = 3;
/** The server takes as many positions for each subscription that it allows. */
const POSITIONS_PER_SUBSCRIPTION = 4;
const UNKNOWN_SUBSCRIPTIONS = 256;

export class Session {
  #name: string | undefined;
  #node: string | undefined;
  #asked = false;
  #messageBytes = UNKNOWN_MESSAGE_BYTES;
  #subscriptions = UNKNOWN_SUBSCRIPTIONS;

  constructor(private readonly cursors: Cursors) {}

  /** Whether there is one that the server keeps. */
  get canResume(): boolean {
    return this.#name !== undefined;
  }

  /** How much of `CONNECT` its subscriptions may take, in characters. */
  get helloChars(): number {
    return Math.floor(this.#messageBytes / PARTS);
  }

  /** For a `CONNECT`. */
  resume(): ResumeRequest | undefined {
    this.#asked = this.#name !== undefined;
    if (this.#name === undefined) return undefined;
    return { session: this.#name, positions: this.cursors.positions(this.#subscriptions * POSITIONS_PER_SUBSCRIPTION, this.helloChars) };
  }

  welcomed({ session, resumed, resume_window_ms, node, limits, subscriptions = [] }: WelcomeMessage): Begin {
    const elsewhere = node !== this.#node;
    this.#name = resume_window_ms > 0 ? session : undefined;
    this.#node = node;
    this.#messageBytes = limits?.message_bytes ?? UNKNOWN_MESSAGE_BYTES;
    this.#subscriptions = limits?.subscriptions ?? UNKNOWN_SUBSCRIPTIONS;
    if (!resumed) this.cursors.clear();
    for (const item of subscriptions) {
      if (item.pending) continue;
      if (resumed && item.recovered) this.cursors.resumed(item.channel, item.epoch, elsewhere);
      else this.cursors.replace(item.channel, item);
    }
    return resumed ? "resumed" : this.#asked ? "ended" : "fresh";
  }

  /** It has ended, or is not to be taken up again. */
  forget(): void {
    this.#name = undefined;
    this.cursors.clear();
  }
}
