/**
 * What the application wants to be subscribed to, kept true over reconnects: every connection is told all of it, and
 * each wish ends in a confirmation or an error. Also what the server subscribed the player to by itself.
 */

import { DrawbridgeError } from "./errors.js";
import { Channel, type EventMap, type Listeners, type Resync } from "./events.js";
import { isPattern } from "./glob.js";
import type { ServerMessage, SubscribeRequest, SubscribedMessage, UnsubscribedMessage, WireSubscription } from "./messages.js";
import type { Requests } from "./requests.js";
import { Timer, type Runtime } from "./runtime.js";
import type { Link } from "./link.js";

/** `CONNECT` carries this much of the wishes, so that it stays below the server's `message_bytes`; the rest follows. */
const MAX_HELLO_CHARS = 8 * 1024;
/** Single requests in flight, so that many wishes do not run into the rate limit all at once. */
const MAX_IN_FLIGHT = 16;
/** The wait before asking again where the server names none. */
const RETRY_MS = 1_000;

export type SubscriptionState = "pending" | "active" | "ended";

/** A line of `client.subscriptions`. */
export interface SubscriptionInfo {
  /** The name or pattern. */
  channel: string;
  pattern: boolean;
  /** Who asked for it: this client, a template of the server's configuration, or a service. */
  by: "client" | "auto" | "server";
  state: SubscriptionState;
}

export interface Unsubscribed {
  channel: string;
  /** `client`, `server`, `forbidden`, or the code of the error that ended it. */
  reason: string;
  error?: DrawbridgeError;
}

/** What became of one wish, until it changes again. */
class Deferred {
  resolve!: () => void;
  reject!: (error: DrawbridgeError) => void;
  settled = false;
  readonly promise = new Promise<void>((resolve, reject) => {
    this.resolve = () => ((this.settled = true), resolve());
    this.reject = (error) => ((this.settled = true), reject(error));
  });

  constructor() {
    // Nobody has to look: the client's `error` event tells, too.
    this.promise.catch(() => {});
  }
}

/** Where a wish stands with the server. */
type Phase =
  /** Not asked for: no connection, or none that has said `WELCOME`. */
  | "offline"
  /** In `CONNECT`, not yet answered. */
  | "greeted"
  /** To be asked for, when there is room. */
  | "queued"
  /** Asked for by a request of its own. */
  | "asked"
  /** Confirmed as it is wanted. */
  | "settled";

/** A wish. `filter` is what is wanted, `asked` what was last sent, `accepted` what the server last confirmed. */
class Wish {
  phase: Phase = "offline";
  asked: string | undefined;
  accepted: { filter: string | undefined } | undefined;
  /** Whether the server holds it on this connection. */
  held = false;
  deferred = new Deferred();

  constructor(
    readonly channel: string,
    public filter: string | undefined,
  ) {}

  get request(): SubscribeRequest {
    return { channel: this.channel, ...(this.filter !== undefined && { filter: this.filter }) };
  }
}

/** One subscription of the application. There is one for each name or pattern. */
export class Subscription<E extends EventMap = Record<string, unknown>> extends Channel<E> {
  readonly #subscriptions: Subscriptions;
  /** @internal */
  readonly wish: Wish;
  /** @internal */
  ended = false;

  /** @internal */
  constructor(subscriptions: Subscriptions, wish: Wish, report: (thrown: unknown) => void) {
    super(wish.channel, report);
    this.#subscriptions = subscriptions;
    this.wish = wish;
  }

  /** `pending` until the server has confirmed it, on each connection anew. */
  get state(): SubscriptionState {
    return this.ended ? "ended" : this.wish.held ? "active" : "pending";
  }

  get filter(): string | undefined {
    return this.wish.filter;
  }

  /**
   * Resolves when the server has confirmed the subscription as it is wanted now: whatever is published after that
   * arrives. Rejects when it is refused. A new promise after each change and each reconnect.
   */
  get ready(): Promise<void> {
    return this.wish.deferred.promise;
  }

  /**
   * Replaces the filter (`null`: none) on the live subscription, and resolves when the server has confirmed it. A bad
   * one rejects with `FILTER_INVALID`, and the old one stays.
   */
  setFilter(filter: string | null): Promise<void> {
    return this.#subscriptions.change(this, filter ?? undefined);
  }

  /** No handler is called from now on. Resolves when the server has confirmed it. */
  unsubscribe(): Promise<void> {
    return this.ended ? Promise.resolve() : this.#subscriptions.unsubscribe(this.channel);
  }
}

export interface SubscriptionsOwner {
  subscribed(info: SubscriptionInfo): void;
  resync(resync: Resync): void;
  unsubscribed(ended: Unsubscribed): void;
  /** A wish failed, or cannot be as it is wanted. */
  failed(error: DrawbridgeError): void;
  report(thrown: unknown): void;
}

export class Subscriptions {
  readonly #own = new Map<string, Subscription<any>>();
  /** Those that nobody here asked for. */
  readonly #foreign = new Map<string, SubscriptionInfo>();
  /** Named in a `CONNECT` that is out, and no longer wanted. */
  readonly #leaving = new Set<string>();
  readonly #queue = new Set<Subscription<any>>();
  /** Subscribed when the connection broke, and not yet again: events may have passed meanwhile. */
  readonly #missed = new Set<string>();
  readonly #pause: Timer;
  #paused = false;
  #inFlight = 0;

  constructor(
    private readonly link: Link,
    private readonly requests: Requests,
    private readonly listeners: Listeners,
    runtime: Runtime,
    private readonly owner: SubscriptionsOwner,
  ) {
    this.#pause = new Timer(runtime);
  }

  list(): SubscriptionInfo[] {
    const own = [...this.#own.values()].map(infoOf);
    return [...own, ...[...this.#foreign.values()].filter((info) => !this.#own.has(info.channel))];
  }

  /** The same name again is the same subscription; with `filter` named, that replaces the old one. */
  subscribe(channel: string, options: { filter?: string | null }): Subscription<any> {
    const existing = this.#own.get(channel);
    if (existing) {
      if (options.filter !== undefined) void this.change(existing, options.filter ?? undefined);
      return existing;
    }
    const wish = new Wish(channel, options.filter ?? undefined);
    const subscription = new Subscription(this, wish, (thrown) => this.owner.report(thrown));
    this.#own.set(channel, subscription);
    this.#leaving.delete(channel);
    this.listeners.add(subscription);
    this.#ask(subscription);
    return subscription;
  }

  change(subscription: Subscription<any>, filter: string | undefined): Promise<void> {
    const { wish } = subscription;
    if (subscription.ended) return Promise.reject(ended(subscription.channel));
    if (filter === wish.filter) return wish.deferred.promise;
    wish.filter = filter;
    if (wish.deferred.settled) wish.deferred = new Deferred();
    // One that is out already is compared with what is wanted when its answer comes.
    if (wish.phase === "settled") this.#ask(subscription);
    return wish.deferred.promise;
  }

  async unsubscribe(channel: string): Promise<void> {
    const subscription = this.#own.get(channel);
    const greeted = subscription?.wish.phase === "greeted";
    const known = subscription ? subscription.wish.held || subscription.wish.phase === "asked" : this.#foreign.has(channel);
    if (subscription) this.#forget(subscription, { channel, reason: "client" });
    if (greeted) this.#leaving.add(channel);
    if (this.link.open && (known || greeted)) await this.#leave(channel);
  }

  /** For a `CONNECT`: everything, as far as it fits. */
  hello(): SubscribeRequest[] {
    this.#reset();
    const requests: SubscribeRequest[] = [];
    let chars = 0;
    for (const subscription of this.#own.values()) {
      const { wish } = subscription;
      chars += wish.channel.length + (wish.filter?.length ?? 0) + 32;
      if (chars > MAX_HELLO_CHARS) {
        wish.phase = "queued";
        this.#queue.add(subscription);
        continue;
      }
      wish.phase = "greeted";
      wish.asked = wish.filter;
      requests.push(wish.request);
    }
    return requests;
  }

  welcomed(subscriptions: WireSubscription[], resumed: boolean): void {
    if (resumed) this.#missed.clear();
    for (const item of subscriptions) this.#confirmed(item, item.auto ? "auto" : "server");
    for (const subscription of this.#own.values()) if (subscription.wish.phase === "offline") this.#ask(subscription);
    for (const channel of this.#leaving) void this.#leave(channel).catch(() => {});
    this.#leaving.clear();
    this.#pump();
  }

  /** `CHANNEL_SUBSCRIBED` that answers no request: the late confirmation of one in `CONNECT`, or somebody else's doing. */
  subscribed(message: SubscribedMessage): void {
    this.#confirmed(message, message.auto ? "auto" : "server");
  }

  /** `CHANNEL_UNSUBSCRIBED` that answers no request: a service or the server ended it. */
  unsubscribed(message: UnsubscribedMessage): void {
    const { channel, reason } = message;
    const subscription = this.#own.get(channel);
    if (subscription?.wish.phase === "settled") {
      const error = new DrawbridgeError("UNSUBSCRIBED", `${channel} was unsubscribed by the server: ${reason}`, { channel, reason });
      this.#forget(subscription, { channel, reason, error });
    } else if (subscription) {
      // A request is out behind it; its answer decides.
      subscription.wish.held = false;
    } else if (this.#foreign.delete(channel)) {
      this.owner.unsubscribed({ channel, reason });
    }
  }

  /** An `ERROR` for one that was in `CONNECT`. Whether it was ours. */
  greetingFailed(channel: string, error: DrawbridgeError): boolean {
    const subscription = this.#own.get(channel);
    if (subscription?.wish.phase !== "greeted") return false;
    this.#failed(subscription, error);
    return true;
  }

  /** The connection is gone. */
  lost(): void {
    for (const info of this.list()) if (info.state === "active") this.#missed.add(info.channel);
    this.#reset();
    this.#foreign.clear();
    this.#leaving.clear();
  }

  /** There will be no connection: those who wait for a confirmation are told. What is wanted stays wanted. */
  abandoned(error: DrawbridgeError): void {
    for (const { wish } of this.#own.values()) if (!wish.deferred.settled) wish.deferred.reject(error);
  }

  #reset(): void {
    this.#pause.clear();
    this.#paused = false;
    this.#queue.clear();
    for (const { wish } of this.#own.values()) {
      wish.phase = "offline";
      wish.held = false;
      if (wish.deferred.settled) wish.deferred = new Deferred();
    }
  }

  #ask(subscription: Subscription<any>): void {
    // Without a connection, the next `CONNECT` or what follows its `WELCOME` asks.
    subscription.wish.phase = this.link.open ? "queued" : "offline";
    if (!this.link.open) return;
    this.#queue.add(subscription);
    this.#pump();
  }

  #pump(): void {
    for (const subscription of this.#queue) {
      if (this.#paused || this.#inFlight >= MAX_IN_FLIGHT || !this.link.open) return;
      this.#queue.delete(subscription);
      this.#request(subscription);
    }
  }

  #request(subscription: Subscription<any>): void {
    const { wish } = subscription;
    const id = this.requests.nextId();
    wish.phase = "asked";
    wish.asked = wish.filter;
    this.#inFlight++;
    this.requests.expect(id, (answer) => {
      this.#inFlight--;
      if (!subscription.ended) this.#answered(subscription, answer);
      this.#pump();
    });
    this.link.send({ type: "CHANNEL_SUBSCRIBE", id, ...wish.request });
  }

  #answered(subscription: Subscription<any>, answer: ServerMessage | DrawbridgeError): void {
    if (!(answer instanceof DrawbridgeError)) this.#accepted(subscription);
    // After a break every wish is in the next `CONNECT`.
    else if (answer.code !== "CONNECTION_LOST") this.#failed(subscription, answer);
  }

  #confirmed(item: WireSubscription, by: "auto" | "server"): void {
    const subscription = this.#own.get(item.channel);
    if (!subscription) {
      if (this.#leaving.has(item.channel)) return;
      const state = item.pending ? "pending" : "active";
      const info: SubscriptionInfo = { channel: item.channel, pattern: isPattern(item.channel), by, state };
      this.#foreign.set(item.channel, info);
      if (state === "active") this.#announce(info);
    } else if (subscription.wish.phase === "greeted" && !item.pending) {
      this.#accepted(subscription);
    }
  }

  #accepted(subscription: Subscription<any>): void {
    const { wish } = subscription;
    const first = !wish.held;
    wish.held = true;
    wish.accepted = { filter: wish.asked };
    wish.phase = "settled";
    if (first) this.#announce(infoOf(subscription));
    // A listener may have ended it.
    if (subscription.ended) return;
    if (wish.filter === wish.asked) wish.deferred.resolve();
    else this.#ask(subscription);
  }

  #announce(info: SubscriptionInfo): void {
    this.owner.subscribed(info);
    if (this.#missed.delete(info.channel)) this.owner.resync({ channel: info.channel, reason: "reconnect" });
  }

  #failed(subscription: Subscription<any>, error: DrawbridgeError): void {
    const { wish } = subscription;
    if (error.retryable) return this.#askLater(subscription, error.retryAfterMs ?? RETRY_MS);
    // The application has changed its mind meanwhile.
    if (wish.filter !== wish.asked) return this.#ask(subscription);
    if (!wish.accepted || wish.accepted.filter === wish.filter) {
      return this.#forget(subscription, { channel: wish.channel, reason: error.code, error });
    }
    wish.filter = wish.accepted.filter;
    wish.deferred.reject(error);
    wish.deferred = new Deferred();
    this.owner.failed(error);
    if (!wish.held) return this.#ask(subscription);
    wish.phase = "settled";
    wish.deferred.resolve();
  }

  #askLater(subscription: Subscription<any>, delayMs: number): void {
    subscription.wish.phase = "queued";
    this.#queue.add(subscription);
    this.#paused = true;
    this.#pause.set(delayMs, () => {
      this.#paused = false;
      this.#pump();
    });
  }

  #forget(subscription: Subscription<any>, end: Unsubscribed): void {
    subscription.ended = true;
    this.#own.delete(subscription.channel);
    this.#queue.delete(subscription);
    this.#missed.delete(subscription.channel);
    this.listeners.remove(subscription);
    subscription.wish.deferred.reject(end.error ?? ended(subscription.channel));
    if (end.error) this.owner.failed(end.error);
    this.owner.unsubscribed(end);
  }

  async #leave(channel: string): Promise<void> {
    const id = this.requests.nextId();
    const answer = this.requests.answer(id);
    this.link.send({ type: "CHANNEL_UNSUBSCRIBE", id, channel });
    try {
      await answer;
    } catch (thrown) {
      const { code } = thrown as DrawbridgeError;
      // Either way it is not subscribed any more.
      if (code !== "CONNECTION_LOST" && code !== "NOT_SUBSCRIBED") throw thrown;
    }
    if (this.#foreign.delete(channel)) this.owner.unsubscribed({ channel, reason: "client" });
  }
}

function infoOf(subscription: Subscription<any>): SubscriptionInfo {
  const { channel, state } = subscription;
  return { channel, pattern: isPattern(channel), by: "client", state };
}

function ended(channel: string): DrawbridgeError {
  return new DrawbridgeError("UNSUBSCRIBED", `${channel} is not subscribed any more`, { channel });
}
