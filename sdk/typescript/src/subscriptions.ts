/**
 * What the application wants to be subscribed to and to see of it, kept true over reconnects: every connection is told
 * all of it, and each wish ends in a confirmation or an error. Also what the server subscribed the player to by itself.
 */

import { Backoff } from "./backoff.js";
import { Deferred } from "./deferred.js";
import { Entities } from "./entities.js";
import { DrawbridgeError } from "./errors.js";
import { Channel, type EventMap, type Listeners } from "./events.js";
import type { Continuity } from "./continuity.js";
import { globMatcher, isPattern } from "./glob.js";
import type { ServerMessage, SubscribeRequest, SubscribedMessage, UnsubscribedMessage, WireSubscription } from "./messages.js";
import type { Requests } from "./requests.js";
import { Timer, type Runtime } from "./runtime.js";
import type { Link } from "./link.js";
import { changedView, difference, withoutRefused, type Area, type View, type ViewOptions } from "./view.js";
import { Wish } from "./wish.js";

/** Single requests in flight, so that many wishes do not run into the rate limit all at once. */
const MAX_IN_FLIGHT = 16;
/** The wait before a refused request is sent again, on top of the server's `retry_after_ms`; see `Backoff`. */
const RETRY = { minDelayMs: 250, maxDelayMs: 30_000 };

export type SubscriptionState = "pending" | "active" | "ended";

/** A line of `client.subscriptions`. */
export interface SubscriptionInfo {
  /** The name or pattern. */
  channel: string;
  pattern: boolean;
  /** Who asked for it: this client, a template of the server's configuration, or a service. */
  by: "client" | "auto" | "server";
  state: SubscriptionState;
  /** After a reconnect, whether nothing was missed; absent where that is no question. */
  recovered?: boolean;
}

export interface Unsubscribed {
  channel: string;
  /** `client`, `server`, `forbidden`, the code of the error that ended it, or `session`: it ended with its session. */
  reason: string;
  error?: DrawbridgeError;
}

/** One subscription of the application. There is one for each name or pattern. */
export class Subscription<E extends EventMap = Record<string, unknown>> extends Channel<E> {
  readonly #subscriptions: Subscriptions;
  readonly #report: (thrown: unknown) => void;
  /** @internal */
  readonly wish: Wish;
  /** @internal Once somebody asked for it, or an entity came. */
  table: Entities<E> | undefined;
  /** @internal */
  ended = false;

  /** @internal */
  constructor(subscriptions: Subscriptions, wish: Wish, report: (thrown: unknown) => void) {
    super(wish.channel, report);
    this.#subscriptions = subscriptions;
    this.#report = report;
    this.wish = wish;
  }

  /** `pending` until the server has confirmed it, on each connection anew. */
  get state(): SubscriptionState {
    return this.ended ? "ended" : this.wish.active ? "active" : "pending";
  }

  /** Whether the last reconnect missed nothing; undefined where that is no question, or not known yet. */
  get recovered(): boolean | undefined {
    return this.wish.recovered;
  }

  /** What of the channel is wanted now. */
  get view(): View {
    return this.wish.view;
  }

  /** The live table of an entity channel. */
  get entities(): Entities<E> {
    if (isPattern(this.channel)) throw new TypeError(`${this.channel} is a pattern: entities are told by channel`);
    if (!this.table) {
      const { runtime, timeoutMs } = this.#subscriptions;
      this.table = new Entities<E>(this, this.#report, runtime, timeoutMs);
      if (this.wish.held) this.table.due();
    }
    return this.table;
  }

  /**
   * Resolves when the server has confirmed the subscription as it is wanted now: whatever is published after that
   * arrives. Rejects when it is refused. A new promise after each change and each reconnect.
   */
  get ready(): Promise<void> {
    return this.wish.whenInForce();
  }

  /**
   * Replaces the filter (`null`: none) on the live subscription, and resolves when it, or a newer change, is in force.
   * A bad one rejects with `FILTER_INVALID`, and the old one stays.
   */
  filter(expression: string | null): Promise<void> {
    return this.#subscriptions.change(this, { filter: expression });
  }

  /**
   * Replaces the area (`null`: none), as `filter` does the filter. It may be called on every frame: one change is out at
   * a time, and the newest follows it.
   */
  area(area: Area | null): Promise<void> {
    return this.#subscriptions.change(this, { area });
  }

  /** @deprecated `filter` does the same. */
  setFilter(filter: string | null): Promise<void> {
    return this.filter(filter);
  }

  /** No handler is called from now on. Resolves when the server has confirmed it. */
  unsubscribe(): Promise<void> {
    return this.ended ? Promise.resolve() : this.#subscriptions.unsubscribe(this.channel);
  }
}

export interface SubscriptionsOwner {
  subscribed(info: SubscriptionInfo): void;
  unsubscribed(ended: Unsubscribed): void;
  /** A wish failed, or cannot be as it is wanted. */
  failed(error: DrawbridgeError): void;
  report(thrown: unknown): void;
}

export class Subscriptions {
  readonly #own = new Map<string, Subscription<any>>();
  /** What the server holds by its templates or for a service, also where the application wants the same. */
  readonly #foreign = new Map<string, SubscriptionInfo>();
  /** Named in a `CONNECT` that is out, or held by the session that it resumes, and no longer wanted. */
  readonly #leaving = new Set<string>();
  readonly #queue = new Set<Subscription<any>>();
  /** In `CONNECT`, and listed in `WELCOME` as automatic: the `ERROR` that refuses one comes behind. */
  readonly #undecided = new Set<Subscription<any>>();
  readonly #pause: Timer;
  readonly #backoff: Backoff;
  #paused = false;
  #inFlight = 0;
  /** How many may be in flight: one after a rate limit, and one more for each that is granted. */
  #window = MAX_IN_FLIGHT;

  constructor(
    private readonly link: Link,
    private readonly requests: Requests,
    private readonly listeners: Listeners,
    readonly runtime: Runtime,
    /** How long a table waits for its first sign. */
    readonly timeoutMs: number,
    private readonly continuity: Continuity,
    private readonly owner: SubscriptionsOwner,
  ) {
    this.#pause = new Timer(runtime);
    this.#backoff = new Backoff(runtime, RETRY);
  }

  list(): SubscriptionInfo[] {
    const own = [...this.#own.values()].map(infoOf);
    return [...own, ...[...this.#foreign.values()].filter((info) => !this.#own.has(info.channel))];
  }

  /** Whether it is subscribed by name, or was when the connection broke. */
  isExact(channel: string): boolean {
    return this.#own.has(channel) || this.#foreign.has(channel) || this.continuity.has(channel);
  }

  /** The same by a name or a pattern. */
  covers(channel: string): boolean {
    if (this.isExact(channel)) return true;
    const names = [...this.#own.keys(), ...this.#foreign.keys(), ...this.continuity.names()];
    return names.some((name) => isPattern(name) && globMatcher(name)(channel));
  }

  /** The same name again is the same subscription; what `options` name replaces the old. */
  subscribe(channel: string, options: ViewOptions): Subscription<any> {
    const existing = this.#own.get(channel);
    const view = changedView(existing?.view ?? {}, options);
    if (existing) {
      void this.#change(existing, view);
      return existing;
    }
    const wish = new Wish(channel, view);
    const subscription = new Subscription(this, wish, (thrown) => this.owner.report(thrown));
    this.#own.set(channel, subscription);
    this.#leaving.delete(channel);
    this.listeners.add(subscription);
    this.#ask(subscription);
    return subscription;
  }

  change(subscription: Subscription<any>, options: ViewOptions): Promise<void> {
    let view: View;
    try {
      view = changedView(subscription.view, options);
    } catch (thrown) {
      const refused = new Deferred();
      refused.reject(thrown as DrawbridgeError);
      return refused.promise;
    }
    return this.#change(subscription, view);
  }

  /** The subscription by that name, if the server holds it: what comes for its table is about what it sees now. */
  live(channel: string): Subscription<any> | undefined {
    const subscription = this.#own.get(channel);
    return subscription?.wish.held ? subscription : undefined;
  }

  async unsubscribe(channel: string): Promise<void> {
    const subscription = this.#own.get(channel);
    const greeted = subscription?.wish.phase === "greeted";
    const wasHeld = this.continuity.has(channel);
    const known = subscription ? subscription.wish.held || subscription.wish.phase === "asked" : this.#foreign.has(channel);
    if (subscription) {
      // One `CHANNEL_UNSUBSCRIBE` ends a template's or a service's with it.
      this.#foreign.delete(channel);
      this.#forget(subscription, { channel, reason: "client" });
    }
    // The next connection may find it in the session, or filled by a template.
    if (greeted || (!this.link.open && wasHeld)) this.#leaving.add(channel);
    this.continuity.forget(channel);
    if (this.link.open && (known || greeted)) await this.#leave(channel);
  }

  /** For a `CONNECT`: everything, as far as it fits; the rest is asked for behind `WELCOME`. */
  hello(maxChars: number): SubscribeRequest[] {
    this.#reset();
    const requests: SubscribeRequest[] = [];
    let chars = 0;
    for (const subscription of this.#own.values()) {
      const { wish } = subscription;
      chars += JSON.stringify(wish.view).length + wish.channel.length + 32;
      if (chars > maxChars) {
        wish.phase = "queued";
        this.#queue.add(subscription);
        continue;
      }
      wish.phase = "greeted";
      requests.push({ channel: wish.channel, ...wish.ask() });
    }
    return requests;
  }

  /** `WELCOME`: from now on `list` says what is subscribed. What follows from it waits for `opened`. */
  welcomed(subscriptions: WireSubscription[]): void {
    for (const item of subscriptions) {
      const subscription = this.#own.get(item.channel);
      if (subscription) subscription.wish.recovered = item.recovered;
      if (item.auto || !subscription) this.#listForeign(item);
      if (!subscription || item.pending) continue;
      if (item.auto) this.#awaitDecision(subscription);
      else this.#grant(subscription);
    }
  }

  /** Announces what `WELCOME` listed and what a new session does not have, and asks for what `CONNECT` left out. */
  opened(): void {
    for (const channel of this.continuity.takeEnded((name) => this.#own.has(name) || this.#foreign.has(name))) {
      this.owner.unsubscribed({ channel, reason: "session" });
    }
    for (const info of [...this.#foreign.values()]) {
      if (info.state === "active" && !this.#own.has(info.channel)) this.#announce(info);
    }
    for (const subscription of [...this.#own.values()]) {
      const { phase } = subscription.wish;
      if (phase === "settled") this.#announceOwn(subscription);
      else if (phase === "offline") this.#ask(subscription);
    }
    for (const channel of this.#leaving) if (!this.#own.has(channel)) void this.#leave(channel).catch(() => {});
    this.#leaving.clear();
    this.#pump();
  }

  /**
   * A message that is no answer to `CONNECT`. The errors of `CONNECT` stand directly behind `WELCOME`: what is listed
   * there and not refused by now is granted.
   */
  greetingOver(): void {
    for (const subscription of this.#undecided) {
      this.#undecided.delete(subscription);
      this.#granted(subscription);
    }
  }

  /** `CHANNEL_SUBSCRIBED` that answers no request: the late confirmation of one in `CONNECT`, or somebody else's doing. */
  subscribed(message: SubscribedMessage): void {
    const subscription = this.#own.get(message.channel);
    const byService = message.by === "server";
    if (message.recovered) this.continuity.proven(message.channel);
    if (subscription && message.recovered !== undefined) subscription.wish.recovered = message.recovered;
    if (subscription?.wish.phase === "greeted" && !byService) this.#granted(subscription);
    if (message.auto || byService || !subscription) this.#listForeign(message);
    const info = this.#foreign.get(message.channel);
    if (info?.state === "active" && !subscription) this.#announce(info);
  }

  /** `CHANNEL_UNSUBSCRIBED` that answers no request: a service or the server ended it. */
  unsubscribed(message: UnsubscribedMessage): void {
    const { channel, reason } = message;
    const subscription = this.#own.get(channel);
    // Behind the `WELCOME` of a resumed session, which does not list it any more, it was live before.
    const foreign = this.#foreign.delete(channel) || this.continuity.has(channel);
    if (subscription?.wish.held) {
      const error = new DrawbridgeError("UNSUBSCRIBED", `${channel} was unsubscribed by the server: ${reason}`, { channel, reason });
      this.#forget(subscription, { channel, reason, error });
      // Otherwise one of ours is asked for behind it, and that answer decides.
    } else if (!subscription && foreign) {
      this.continuity.forget(channel);
      this.owner.unsubscribed({ channel, reason });
    }
  }

  /** An `ERROR` for one that was in `CONNECT`. Whether it was ours. */
  greetingFailed(channel: string, error: DrawbridgeError): boolean {
    const subscription = this.#own.get(channel);
    if (subscription?.wish.phase !== "greeted") return false;
    this.#undecided.delete(subscription);
    this.#failed(subscription, error);
    return true;
  }

  /** The connection is gone. */
  lost(): void {
    const all = [...this.#foreign.values(), ...[...this.#own.values()].map(infoOf)];
    this.continuity.lost(all.filter(({ state }) => state === "active").map(({ channel }) => channel));
    this.#reset();
    this.#foreign.clear();
  }

  /** There will be no connection: those who wait for a confirmation are told. What is wanted stays wanted. */
  abandoned(error: DrawbridgeError): void {
    for (const { wish, table } of this.#own.values()) {
      wish.fail(error);
      table?.abandoned(error);
    }
  }

  #reset(): void {
    this.#pause.clear();
    this.#paused = false;
    this.#window = MAX_IN_FLIGHT;
    this.#queue.clear();
    this.#undecided.clear();
    for (const { wish, table } of this.#own.values()) {
      wish.reset();
      table?.lost();
    }
  }

  #change(subscription: Subscription<any>, view: View): Promise<void> {
    const { wish } = subscription;
    if (!subscription.ended && difference(wish.view, view)) {
      wish.change(view);
      // One that is out already is compared with what is wanted when its answer comes.
      if (wish.phase === "settled") this.#ask(subscription);
    }
    return wish.whenInForce();
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
      if (this.#paused || this.#inFlight >= this.#window || !this.link.open) return;
      this.#queue.delete(subscription);
      this.#request(subscription);
    }
  }

  #request(subscription: Subscription<any>): void {
    const { wish } = subscription;
    const { channel, held } = wish;
    const changes = difference(wish.inForce ?? {}, wish.view);
    // It was changed back while it waited.
    if (held && !changes) return this.#settled(subscription);
    const id = this.requests.nextId();
    wish.phase = "asked";
    const view = wish.ask();
    this.#inFlight++;
    this.requests.expect(id, (answer) => {
      this.#inFlight--;
      if (!subscription.ended) this.#answered(subscription, answer);
      this.#pump();
    });
    if (held) this.link.send({ type: "FILTER_UPDATE", id, channel, ...changes });
    else this.link.send({ type: "CHANNEL_SUBSCRIBE", id, channel, ...view });
  }

  #answered(subscription: Subscription<any>, answer: ServerMessage | DrawbridgeError): void {
    if (!(answer instanceof DrawbridgeError)) {
      this.#backoff.reset();
      this.#window = Math.min(this.#window + 1, MAX_IN_FLIGHT);
      this.#granted(subscription);
    }
    // After a break every wish is in the next `CONNECT`.
    else if (answer.code !== "CONNECTION_LOST") this.#failed(subscription, answer);
  }

  #listForeign({ channel, auto, pending, recovered }: WireSubscription): void {
    if (this.#leaving.has(channel)) return;
    const state = pending ? "pending" : "active";
    const by = auto ? "auto" : "server";
    this.#foreign.set(channel, { channel, pattern: isPattern(channel), by, state, ...(recovered !== undefined && { recovered }) });
  }

  /** A template's subscription is live, without a view; whether ours is granted is not known yet. */
  #awaitDecision(subscription: Subscription<any>): void {
    subscription.wish.inForce = {};
    subscription.table?.due();
    this.#undecided.add(subscription);
  }

  #grant(subscription: Subscription<any>): void {
    const { wish, table } = subscription;
    if (!wish.held) table?.due();
    wish.grant();
  }

  #granted(subscription: Subscription<any>): void {
    const first = !subscription.wish.active;
    this.#grant(subscription);
    if (first) this.#announceOwn(subscription);
    else this.#askIfOutdated(subscription);
  }

  #announceOwn(subscription: Subscription<any>): void {
    this.#announce(infoOf(subscription));
    // A listener may have ended it, or changed it.
    if (!subscription.ended && subscription.wish.phase === "settled") this.#askIfOutdated(subscription);
  }

  #askIfOutdated(subscription: Subscription<any>): void {
    const { wish } = subscription;
    if (wish.held && !difference(wish.inForce ?? {}, wish.view)) this.#settled(subscription);
    else this.#ask(subscription);
  }

  /** What the server holds is what is wanted, by whatever way. */
  #settled(subscription: Subscription<any>): void {
    const first = !subscription.wish.active;
    subscription.wish.settle();
    if (first) this.#announce(infoOf(subscription));
  }

  #announce(info: SubscriptionInfo): void {
    this.owner.subscribed(info);
    this.continuity.live(info.channel);
  }

  #failed(subscription: Subscription<any>, error: DrawbridgeError): void {
    const { wish } = subscription;
    if (error.retryable) return this.#askLater(subscription, error.retryAfterMs ?? 0);
    if (error.code === "NOT_SUBSCRIBED") {
      // Only an update is answered so: what is wanted is asked for as if it were new.
      wish.drop();
      return this.#ask(subscription);
    }
    const { granted, asked } = wish;
    if (granted && difference(granted, asked)) {
      wish.view = withoutRefused(wish.view, asked, granted);
      wish.refuse(error);
      this.owner.failed(error);
      if (!subscription.ended) this.#askIfOutdated(subscription);
    } else if (wish.outdated) {
      // The application has changed its mind meanwhile.
      wish.refuse(error);
      this.#ask(subscription);
    } else {
      this.#forget(subscription, { channel: wish.channel, reason: error.code, error });
    }
  }

  /**
   * Nothing is asked for until the server's time and a random wait have passed, and then one by one: a refused request
   * counts against the same rate limit. The wait doubles while nothing is granted.
   */
  #askLater(subscription: Subscription<any>, retryAfterMs: number): void {
    subscription.wish.phase = "queued";
    this.#queue.add(subscription);
    this.#window = 1;
    // Invariant: refusals that were out together count as one.
    if (this.#paused) return;
    this.#paused = true;
    this.#pause.set(retryAfterMs + this.#backoff.next(), () => {
      this.#paused = false;
      this.#pump();
    });
  }

  #forget(subscription: Subscription<any>, end: Unsubscribed): void {
    subscription.ended = true;
    this.#own.delete(subscription.channel);
    this.#queue.delete(subscription);
    this.#undecided.delete(subscription);
    this.continuity.forget(subscription.channel);
    this.listeners.remove(subscription);
    const error = end.error ?? ended(subscription.channel);
    subscription.wish.fail(error);
    subscription.table?.end(error);
    if (end.error) this.owner.failed(end.error);
    this.owner.unsubscribed(end);
    // The template's subscription, which it stood before, goes on.
    const info = this.#foreign.get(subscription.channel);
    if (info?.state === "active" && !this.#own.has(info.channel)) this.#announce(info);
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
  const { channel, state, recovered } = subscription;
  return { channel, pattern: isPattern(channel), by: "client", state, ...(recovered !== undefined && { recovered }) };
}

function ended(channel: string): DrawbridgeError {
  return new DrawbridgeError("UNSUBSCRIBED", `${channel} is not subscribed any more`, { channel });
}
