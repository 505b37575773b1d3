/**
 * The client as an application sees it. It joins the parts and tells what happens; each part's rules are in its own
 * file: the link, subscriptions, publishing, tokens, the clock.
 */

import type { ReconnectOptions } from "./backoff.js";
import { Clock } from "./clock.js";
import { json, type Codec } from "./codec.js";
import { Continuity } from "./continuity.js";
import { Cursors } from "./cursors.js";
import { ConnectLog } from "./diagnosis.js";
import { Emitter, type Unlisten } from "./emitter.js";
import type { Entities } from "./entities.js";
import { DrawbridgeError } from "./errors.js";
import {
  Channel,
  Listeners,
  presenceChangeOf,
  resyncOf,
  type AnyChannels,
  type AnyEvent,
  type ChannelEvent,
  type ChannelMap,
  type ChannelName,
  type ChannelNotices,
  type EventName,
  type EventsOf,
  type PayloadOf,
  type PresenceChange,
  type PublishArguments,
  type Recovered,
  type Resync,
} from "./events.js";
import { Link, type LinkOwner } from "./link.js";
import type { ErrorMessage, Hello, ServerMessage, WelcomeMessage } from "./messages.js";
import { Publisher, type Published, type PublishOptions, type QueueOptions } from "./publisher.js";
import { pages, Reads, type History, type HistoryOptions, type Presence, type PresenceOptions } from "./reads.js";
import { Requests } from "./requests.js";
import { systemRuntime, type Runtime, type WebSocketConstructor } from "./runtime.js";
import { Session } from "./session.js";
import { Subscriptions, type Subscription, type SubscriptionInfo, type Unsubscribed } from "./subscriptions.js";
import { Tokens, type TokenProvider } from "./token.js";
import type { ViewOptions } from "./view.js";

export interface DrawbridgeOptions {
  /** A JWT, or a function that gets one. Absent: an anonymous player, where the server allows it. */
  token?: string | TokenProvider;
  /** The WebSocket to use: for Node before 22, the one of package `ws`. Default: the global one. */
  WebSocket?: WebSocketConstructor;
  /** The encoding (default: JSON). */
  codec?: Codec;
  reconnect?: ReconnectOptions;
  /** Publishes that wait for a connection. */
  queue?: QueueOptions;
  /** From dialling to `WELCOME`, the token provider included (default 10000). */
  connectTimeoutMs?: number;
  /** How long `publish` waits for its answer, and an entity table for its first sign (default 30000). */
  publishTimeoutMs?: number;
  /** How often to ask whether the server is there (default: half its heartbeat, at most 10000). */
  pingIntervalMs?: number;
  /** A server that is silent for so long after a `PING` is gone (default 5000). */
  pongTimeoutMs?: number;
  /**
   * Where warnings go, and errors that no `error` listener takes (default: the console; `false`: nowhere). Until the
   * first connect succeeds, each cause of a failure is one warning, with the address and what is likely wrong.
   */
  logger?: Logger | false;
  /** Time, chance and network, for tests. */
  runtime?: Runtime;
}

/** `console` is one. */
export interface Logger {
  warn(message: string): void;
  error(error: unknown): void;
}

/**
 * `connecting`: no connection, but one is on its way. `open`. `degraded`: connected, but the server has lost its
 * Redis for now. `closed`: not started, closed, or refused for good.
 */
export type Status = "connecting" | "open" | "degraded" | "closed";

export interface StatusChange {
  status: Status;
  previous: Status;
  /** Why, where something failed. */
  error?: DrawbridgeError;
  /** When the next attempt is due, while `connecting` after a failure. */
  retryInMs?: number;
}

/** What the server says on connecting. */
export interface Welcome {
  connection: string;
  session: string;
  resumed: boolean;
  player: string;
  node: string;
  heartbeatMs: number;
  limits: { messageBytes?: number; subscriptions?: number };
}

export interface ClientEvents {
  status: StatusChange;
  welcome: Welcome;
  /** Every event, whichever subscription brought it. */
  event: ChannelEvent;
  /** Events may be missing: fetch the state of the channel again. */
  resync: Resync;
  /** A reconnect missed nothing of the channel: what came meanwhile follows. */
  recovered: Recovered;
  presence: PresenceChange;
  /** The server will go away, and closes this connection so much later; this client moves on before. */
  goodbye: { reason: string; reconnectInMs: number };
  subscribed: SubscriptionInfo;
  unsubscribed: Unsubscribed;
  /** What goes wrong, publishes excepted: their promises tell. Without a listener it goes to the console. */
  error: DrawbridgeError;
}

export class Drawbridge<M extends ChannelMap = AnyChannels> {
  /** The server's clock. */
  readonly clock: Clock;

  readonly #emitter = new Emitter<ClientEvents>((thrown) => this.#report(thrown));
  readonly #listeners = new Listeners();
  readonly #requests = new Requests();
  readonly #tokens: Tokens;
  readonly #link: Link;
  readonly #subscriptions: Subscriptions;
  readonly #publisher: Publisher;
  readonly #reads: Reads;
  readonly #cursors = new Cursors((channel) => this.#subscriptions.isExact(channel));
  readonly #session = new Session(this.#cursors);
  readonly #continuity = new Continuity(this.#cursors, {
    recovered: (recovered) => this.#notify("recovered", recovered),
    resync: (resync) => this.#notify("resync", resync),
  });
  #statusChange: StatusChange = { status: "closed", previous: "closed" };
  #welcome: Welcome | undefined;
  readonly #logger: Logger;
  readonly #connectLog: ConnectLog;
  #connecting: { promise: Promise<Welcome>; resolve(welcome: Welcome): void; reject(error: DrawbridgeError): void } | undefined;

  /** Nothing is dialled before `connect()`. In a browser `url` may be relative to the page. */
  constructor(url: string | URL, options: DrawbridgeOptions = {}) {
    const runtime = options.runtime ?? systemRuntime;
    const codec = options.codec ?? json;
    const address = socketUrl(url);
    this.#logger = options.logger === false ? silent : (options.logger ?? console);
    this.#connectLog = new ConnectLog(address, typeof options.token, runtime, (message) => this.#logger.warn(message));
    this.clock = new Clock(runtime);
    this.#tokens = new Tokens(options.token, this.clock, runtime);
    this.#link = new Link(
      {
        url: address,
        WebSocket: options.WebSocket ?? globalWebSocket(),
        codec,
        reconnect: options.reconnect,
        connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
        pingIntervalMs: options.pingIntervalMs,
        pongTimeoutMs: options.pongTimeoutMs ?? 5_000,
      },
      runtime,
      this.clock,
      this.#tokens,
      this.#requests,
      this.#linkOwner(),
    );
    const timeoutMs = options.publishTimeoutMs ?? 30_000;
    this.#subscriptions = new Subscriptions(this.#link, this.#requests, this.#listeners, runtime, timeoutMs, this.#continuity, {
      subscribed: (info) => this.#emitter.emit("subscribed", info),
      unsubscribed: (ended) => this.#unsubscribed(ended),
      failed: (error) => this.#complain(error),
      report: (thrown) => this.#report(thrown),
    });
    this.#publisher = new Publisher(this.#link, this.#requests, codec, runtime, timeoutMs, options.queue);
    this.#reads = new Reads(this.#link, this.#requests, runtime, timeoutMs);
  }

  get status(): Status {
    return this.#statusChange.status;
  }

  /** The last change of `status`, with its reason: another object after each. */
  get statusChange(): StatusChange {
    return this.#statusChange;
  }

  /** Of the present connection; undefined while there is none. */
  get welcome(): Welcome | undefined {
    return this.#welcome;
  }

  /** The player id that the token names; undefined while there is no connection. */
  get player(): string | undefined {
    return this.#welcome?.player;
  }

  /** All that is or should be subscribed: by this client, by the server's templates, by services. */
  get subscriptions(): SubscriptionInfo[] {
    return this.#subscriptions.list();
  }

  /** Publishes that wait for a connection. */
  get queued(): number {
    return this.#publisher.queued;
  }

  /**
   * Connects, and from then on stays connected until `close()` or a refusal. Resolves with the first `WELCOME`;
   * rejects when the server refuses for good. Called while waiting to reconnect, it tries at once.
   */
  connect(): Promise<Welcome> {
    if (this.#welcome) return Promise.resolve(this.#welcome);
    this.#connecting ??= deferred();
    const { promise } = this.#connecting;
    this.#setStatus("connecting");
    this.#link.start();
    return promise;
  }

  /** Ends the session. Subscriptions stay wanted, should `connect()` be called again. */
  close(): void {
    if (this.status === "closed") return;
    this.#link.stop();
    this.#ended(new DrawbridgeError("CLOSED", "the client was closed"), false);
  }

  /** Calls back on what happens to the client; the returned function removes the handler. */
  on<K extends keyof ClientEvents>(name: K, listener: (event: ClientEvents[K]) => void): Unlisten {
    return this.#emitter.on(name, listener);
  }

  /** Calls back on the next one only; the returned function removes the handler before that. */
  once<K extends keyof ClientEvents>(name: K, listener: (event: ClientEvents[K]) => void): Unlisten {
    return this.#emitter.once(name, listener);
  }

  /**
   * Subscribes to a channel, or with `*`, `?` or `[…]` to all channels that match. It holds over reconnects. The same
   * name again is the same subscription; a `filter` or `area` named then replaces the old one (`null`: none).
   */
  subscribe<C extends ChannelName<M>>(channel: C, options: ViewOptions = {}): Subscription<EventsOf<M, C>> {
    return this.#subscriptions.subscribe(channel, options);
  }

  /** Subscribes to an entity channel, and gives its live table; `subscription` is beside it. */
  entities<C extends ChannelName<M>>(channel: C, options: ViewOptions = {}): Entities<EventsOf<M, C>> {
    return this.subscribe<C>(channel, options).entities;
  }

  /** Ends whatever subscription there is by that name, a template's or a service's too. */
  unsubscribe(channel: ChannelName<M>): Promise<void> {
    return this.#subscriptions.unsubscribe(channel);
  }

  /**
   * Listens without subscribing: for channels that the server subscribes the player to. A handle without handlers costs
   * nothing, so removing them is enough.
   */
  channel<C extends ChannelName<M>>(channel: C): Channel<EventsOf<M, C>> {
    const changed = () => (handle.hasHandlers ? this.#listeners.add(handle) : this.#listeners.drop(handle));
    const handle = new Channel<EventsOf<M, C>>(channel, (thrown) => this.#report(thrown), changed);
    return handle;
  }

  /** Removes all handlers of what `channel` returned. */
  forget(handle: Channel<any>): void {
    this.#listeners.remove(handle);
  }

  /**
   * Publishes, and resolves when Redis has taken it. Rejects with a `DrawbridgeError` whose `outcome` says whether it
   * may have happened all the same. Without a connection it waits in the offline queue.
   */
  publish<C extends ChannelName<M>, N extends EventName<EventsOf<M, C>>>(
    channel: C,
    event: N,
    ...dataAndOptions: PublishArguments<PayloadOf<M, C, N>, PublishOptions>
  ): Promise<Published> {
    const [data, options = {}] = dataAndOptions as [data?: unknown, options?: PublishOptions];
    return this.#publisher.publish(channel, event, data, options, this.status !== "closed");
  }

  /**
   * A page of a channel's history: the newest events, or those that follow `since`; the oldest first. The right is that
   * to subscribe, and the views of the server apply.
   */
  history<C extends ChannelName<M>>(channel: C, options: HistoryOptions = {}): Promise<History<AnyEvent<EventsOf<M, C>>>> {
    return this.#reads.history(channel, options);
  }

  /** The pages that follow `since`, until the present: `for await (const { events } of game.historyPages(…))`. */
  historyPages<C extends ChannelName<M>>(
    channel: C,
    options: HistoryOptions = {},
  ): AsyncGenerator<History<AnyEvent<EventsOf<M, C>>>, void, undefined> {
    return pages(options.since, (since) => this.#reads.history(channel, { ...options, ...(since && { since }) }));
  }

  /** A page of the players who are on a channel, in the order of their ids. */
  presence(channel: ChannelName<M>, options: PresenceOptions = {}): Promise<Presence> {
    return this.#reads.presence(channel, options);
  }

  /** All pages: `for await (const { players } of game.presencePages(…))`. */
  presencePages(channel: ChannelName<M>, options: PresenceOptions = {}): AsyncGenerator<Presence, void, undefined> {
    return pages(options.after, (after) => this.#reads.presence(channel, { ...options, ...(after !== undefined && { after }) }));
  }

  #linkOwner(): LinkOwner {
    return {
      hello: () => this.#hello(),
      resumeRefused: () => this.#session.forget(),
      canResume: () => this.#session.canResume,
      hold: (held) => this.#publisher.hold(held),
      moved: () => this.#disconnected(),
      left: () => this.#session.forget(),
      welcomed: (message, token) => this.#welcomed(message, token),
      received: (message) => this.#received(message),
      lost: (error, retryInMs) => this.#lost(error, retryInMs),
      ended: (error) => this.#ended(error, true),
      complain: (error) => this.#complain(error),
    };
  }

  #hello(): Hello {
    const subscribe = this.#subscriptions.hello(this.#session.helloChars);
    this.#cursors.retain((channel) => this.#subscriptions.covers(channel));
    const resume = this.#session.resume();
    // What an empty list does not name the resumed session does not keep.
    return { ...((subscribe.length > 0 || resume) && { subscribe }), ...(resume && { resume }) };
  }

  #welcomed(message: WelcomeMessage, token: string | undefined): void {
    const welcome = welcomeOf(message);
    this.#welcome = welcome;
    this.#connectLog.succeeded();
    const subscriptions = message.subscriptions ?? [];
    this.#continuity.welcomed(subscriptions, this.#session.welcomed(message));
    // Listeners of `status` and `welcome` find the automatic subscriptions in `subscriptions`.
    this.#subscriptions.welcomed(subscriptions);
    this.#setStatus("open");
    this.#emitter.emit("welcome", welcome);
    // A listener may have closed the client.
    if (this.#welcome !== welcome) return;
    this.#subscriptions.opened();
    if (this.#welcome !== welcome) return;
    this.#tokens.keepFresh(
      token,
      (fresh) => this.#refresh(fresh),
      (error) => this.#report(error),
    );
    this.#publisher.opened(welcome.limits.messageBytes);
    this.#connecting?.resolve(welcome);
    this.#connecting = undefined;
  }

  #received(message: ServerMessage): void {
    // Behind `WELCOME` comes what has ended, then the errors of `CONNECT`.
    const isOfGreeting = message.type === "ERROR" || (message.type === "CHANNEL_UNSUBSCRIBED" && message.id === undefined);
    if (!isOfGreeting) this.#subscriptions.greetingOver();
    switch (message.type) {
      case "EVENT":
        if (!this.#cursors.accept(message)) return;
        this.#continuity.beforeEvent(message.channel);
        if (message.key !== undefined) this.#subscriptions.live(message.channel)?.table?.updated({ ...message, key: message.key });
        this.#listeners.deliver(message, (event) => this.#emitter.emit("event", event));
        return;
      case "VIEW_ENTER":
        // Its table is sent whole again; there is no place to go on from.
        this.#cursors.delete(message.channel);
        return this.#subscriptions.live(message.channel)?.entities.entered(message);
      case "VIEW_LEAVE":
        return this.#subscriptions.live(message.channel)?.table?.left(message);
      case "CHANNEL_SUBSCRIBED":
        this.#cursors.begin(message.channel, message);
        if (!this.#requests.settle(message.id, message)) this.#subscriptions.subscribed(message);
        return;
      case "CHANNEL_UNSUBSCRIBED":
        if (!this.#requests.settle(message.id, message)) this.#subscriptions.unsubscribed(message);
        return this.#cursors.retain((channel) => this.#subscriptions.covers(channel));
      case "POSITION":
        return this.#cursors.advance(message.channel, message);
      case "PONG":
        return this.#continuity.settle();
      case "PRESENCE_CHANGED":
        return this.#notify("presence", presenceChangeOf(message));
      case "EVENT_PUBLISHED":
      case "FILTER_UPDATED":
      case "TOKEN_REFRESHED":
      case "HISTORY":
      case "PRESENCE":
        this.#requests.settle(message.id, message);
        return;
      case "STATUS":
        if (this.#welcome) this.#setStatus(message.broker === "ok" ? "open" : "degraded");
        return;
      case "RESYNC":
        this.#cursors.replace(message.channel, message);
        this.#subscriptions.live(message.channel)?.table?.due();
        return this.#notify("resync", this.#continuity.resynced(resyncOf(message)));
      case "GOODBYE":
        return this.#emitter.emit("goodbye", { reason: message.reason, reconnectInMs: message.reconnect_in_ms });
      case "ERROR":
        return this.#failed(message);
    }
  }

  #failed(message: ErrorMessage): void {
    if (this.#requests.settle(message.id, message)) return this.#subscriptions.greetingOver();
    const error = DrawbridgeError.fromWire(message);
    if (message.channel !== undefined && this.#subscriptions.greetingFailed(message.channel, error)) return;
    // A rejected connect is logged once, with its hint, when the link ends.
    if (this.#link.greeting && this.#connectLog.isActive && !this.#emitter.has("error")) return;
    this.#complain(error);
  }

  async #refresh(token: string): Promise<number | undefined> {
    const id = this.#requests.nextId();
    const answer = this.#requests.answer(id);
    this.#link.send({ type: "TOKEN_REFRESH", id, token });
    return ((await answer) as { expires_ms?: number }).expires_ms;
  }

  #notify<K extends keyof ChannelNotices>(name: K, notice: ChannelNotices[K]): void {
    this.#listeners.notify(name, notice);
    this.#emitter.emit(name, notice as ClientEvents[K]);
  }

  #unsubscribed(ended: Unsubscribed): void {
    this.#cursors.retain((channel) => this.#subscriptions.covers(channel));
    this.#emitter.emit("unsubscribed", ended);
  }

  #lost(error: DrawbridgeError, retryInMs: number | undefined): void {
    if (retryInMs !== undefined) void this.#connectLog.failed(error, `trying again in ${Math.round(retryInMs)} ms`);
    this.#welcome = undefined;
    this.#disconnected(error.closeCode);
    this.#setStatus("connecting", error, retryInMs);
  }

  #ended(error: DrawbridgeError, refused: boolean): void {
    if (refused) void this.#connectLog.failed(error, "not trying again");
    this.#welcome = undefined;
    this.#disconnected(error.closeCode);
    this.#session.forget();
    this.#subscriptions.abandoned(error);
    this.#publisher.abandoned(error);
    this.#connecting?.reject(error);
    this.#connecting = undefined;
    this.#setStatus("closed", refused ? error : undefined);
  }

  #disconnected(closeCode?: number): void {
    this.#tokens.stop();
    this.#requests.lose(closeCode);
    this.#subscriptions.lost();
    this.#publisher.lost();
  }

  #setStatus(status: Status, error?: DrawbridgeError, retryInMs?: number): void {
    const previous = this.status;
    if (status === previous && !error) return;
    this.#statusChange = { status, previous, ...(error && { error }), ...(retryInMs !== undefined && { retryInMs }) };
    this.#emitter.emit("status", this.#statusChange);
  }

  /** What the application's code threw, or an error of ours. */
  #report(thrown: unknown): void {
    if (thrown instanceof DrawbridgeError) return this.#complain(thrown);
    this.#complain(new DrawbridgeError("LISTENER", `a listener threw: ${String(thrown)}`, { cause: thrown }));
  }

  #complain(error: DrawbridgeError): void {
    // What a listener of `error` throws goes to the log: as an `error` it would call that listener again, without end.
    if (this.#emitter.has("error")) this.#emitter.emit("error", error, (thrown) => this.#logger.error(thrown));
    else this.#logger.error(error);
  }
}

/** A client that is already connecting. What goes wrong for good is told by `status`. */
export function connect<M extends ChannelMap = AnyChannels>(url: string | URL, options: DrawbridgeOptions = {}): Drawbridge<M> {
  const client = new Drawbridge<M>(url, options);
  client.connect().catch(() => {});
  return client;
}

function deferred<T>(): { promise: Promise<T>; resolve(value: T): void; reject(error: DrawbridgeError): void } {
  let resolve!: (value: T) => void;
  let reject!: (error: DrawbridgeError) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

function welcomeOf(message: WelcomeMessage): Welcome {
  const { message_bytes: messageBytes, subscriptions } = message.limits ?? {};
  return {
    connection: message.connection,
    session: message.session,
    resumed: message.resumed,
    player: message.player,
    node: message.node,
    heartbeatMs: message.heartbeat_ms,
    limits: { ...(messageBytes !== undefined && { messageBytes }), ...(subscriptions !== undefined && { subscriptions }) },
  };
}

/** `http` means `ws`, and a relative address, which begins with `/`, `.` or `?`, is the page's own. */
function socketUrl(url: string | URL): string {
  let absolute = "";
  try {
    // Why the check: without a scheme, `127.0.0.1:8000/ws` would be a path of the page's own server.
    const base = /^[/.?]/.test(String(url)) ? globalThis.location?.href : undefined;
    absolute = new URL(url, base).href.replace(/^http/, "ws");
  } catch {
    // It is no URL.
  }
  if (/^wss?:/.test(absolute)) return absolute;
  throw new TypeError(`${String(url)} is not the address of a WebSocket: write it like ws://127.0.0.1:8000/ws`);
}

const silent: Logger = { warn: () => {}, error: () => {} };

function globalWebSocket(): WebSocketConstructor {
  const found = (globalThis as { WebSocket?: unknown }).WebSocket;
  if (found) return found as WebSocketConstructor;
  throw new TypeError("no WebSocket here, as in Node before 22: install the package `ws`, and pass its WebSocket as the option `WebSocket`");
}
