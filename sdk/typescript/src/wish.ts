/**
 * What one subscription of the application should be, what of it the server has granted, and who waits for that. When
 * it is sent is `subscriptions.ts`'s business.
 */

import { Deferred } from "./deferred.js";
import type { DrawbridgeError } from "./errors.js";
import type { View } from "./view.js";

/** Where a wish stands with the server. */
type Phase =
  /** Not asked for: no connection, or none that has said `WELCOME`. */
  | "offline"
  /** In `CONNECT`, not yet granted or refused. */
  | "greeted"
  /** To be asked for, when there is room. */
  | "queued"
  /** Asked for by a request of its own. */
  | "asked"
  /** Confirmed as it is wanted. */
  | "settled";

/** A wish, and who waits for what of it. */
export class Wish {
  phase: Phase = "offline";
  /** Counts the changes of what is wanted. */
  #version = 0;
  /** What was last sent on this connection, and the version that it was. */
  #asked: { view: View; version: number } | undefined;
  /** The newest version in force on this connection. */
  #settledVersion = -1;
  /** What the server last granted, on this connection or before: what a refused change falls back to. */
  granted: View | undefined;
  /** The view of what the server holds on this connection; undefined while it holds nothing. */
  inForce: View | undefined;
  /** In the order of their versions. A newer version serves as well. */
  #waiting: { version: number; deferred: Deferred }[] = [];
  /** On this connection: whether nothing was missed before it. */
  recovered: boolean | undefined;
  /** Why nothing is to be waited for. */
  #failure: DrawbridgeError | undefined;

  constructor(
    readonly channel: string,
    /** What is wanted. */
    public view: View,
  ) {}

  change(view: View): void {
    this.view = view;
    this.#version++;
    this.#failure = undefined;
  }

  /** What the next message about it asks for. */
  ask(): View {
    this.#asked = { view: this.view, version: this.#version };
    return this.view;
  }

  /** Whether what is wanted has changed since it was last sent. */
  get outdated(): boolean {
    return this.#asked?.version !== this.#version;
  }

  get asked(): View {
    return this.#asked?.view ?? this.view;
  }

  /** Whether the server holds it on this connection. */
  get held(): boolean {
    return this.inForce !== undefined;
  }

  /** Whether it was granted on this connection. What a template subscribed is held before that, and without a view. */
  get active(): boolean {
    return this.#settledVersion >= 0;
  }

  /** The server has granted what was asked. */
  grant(): void {
    this.phase = "settled";
    this.inForce = this.granted = this.asked;
    this.#settle(this.#asked?.version ?? -1);
  }

  /** The server holds nothing any more. */
  drop(): void {
    this.inForce = undefined;
    this.#settledVersion = -1;
  }

  /** What the server holds is what is wanted, by whatever way. */
  settle(): void {
    this.phase = "settled";
    this.#settle(this.#version);
  }

  /** What was asked is refused. */
  refuse(error: DrawbridgeError): void {
    this.#take(this.#asked?.version ?? -1, (deferred) => deferred.reject(error));
  }

  fail(error: DrawbridgeError): void {
    this.#failure = error;
    this.#take(Infinity, (deferred) => deferred.reject(error));
  }

  /** Another connection: all is to be asked and confirmed anew. */
  reset(): void {
    this.drop();
    this.recovered = undefined;
    this.phase = "offline";
    this.#asked = undefined;
    this.#failure = undefined;
  }

  /** Settles when what is wanted now, or anything newer, is in force or refused. */
  whenInForce(): Promise<void> {
    const last = this.#waiting.at(-1);
    // One that is not sent yet goes out with what is newest, so those who wait for it are together.
    if (last && (last.version === this.#version || last.version > (this.#asked?.version ?? -1))) {
      last.version = this.#version;
      return last.deferred.promise;
    }
    const deferred = new Deferred();
    if (this.#failure) deferred.reject(this.#failure);
    else if (this.#settledVersion >= this.#version) deferred.resolve();
    else this.#waiting.push({ version: this.#version, deferred });
    return deferred.promise;
  }

  #settle(version: number): void {
    this.#settledVersion = version;
    this.#take(version, (deferred) => deferred.resolve());
  }

  #take(version: number, act: (deferred: Deferred) => void): void {
    while (this.#waiting[0] && this.#waiting[0].version <= version) act(this.#waiting.shift()!.deferred);
  }
}
