/** Events, their types, and who listens to which channel. What is subscribed is `subscriptions.ts`'s business. */

import { Emitter, type Unlisten } from "./emitter.js";
import { globMatcher, isPattern } from "./glob.js";
import type { Position } from "./cursors.js";
import type { EventMessage, PresenceChangedMessage, ResyncMessage } from "./messages.js";

/** A channel's events: their names, and the type of each one's `data`. */
export type EventMap = object;

/**
 * An application's channels. Names, or template literals for families of them:
 * `{ "chat:lobby": { say: { text: string } }; [room: `room:${string}`]: { hit: { damage: number } } }`.
 * A channel that is not declared is a compile error.
 */
export type ChannelMap = object;

/** The map of an application that declares nothing: every channel, and every event with data of any kind. */
export type AnyChannels = Record<string, Record<string, unknown>>;

/** The channels and patterns that `M` declares. */
export type ChannelName<M extends ChannelMap> = keyof M & string;

/** The events of channel (or pattern) `C`. */
export type EventsOf<M extends ChannelMap, C extends ChannelName<M>> = M[C] extends EventMap ? M[C] : never;

export type EventName<E extends EventMap> = keyof E & string;

/** The `data` of event `N` on channel `C`. Where either may be one of several, what fits all of them. */
export type PayloadOf<M extends ChannelMap, C extends ChannelName<M>, N extends string> = (
  C extends ChannelName<M> ? (N extends EventName<EventsOf<M, C>> ? (data: EventsOf<M, C>[N]) => void : never) : never
) extends (data: infer Data) => void
  ? Data
  : never;

/** The arguments of `publish` after the event's name: `data` is optional only if it may be `null` or `undefined`. */
export type PublishArguments<Data, Options> = null extends Data
  ? [data?: Data, options?: Options]
  : undefined extends Data
    ? [data?: Data, options?: Options]
    : [data: Data, options?: Options];

/** One event as a handler gets it. */
export interface ChannelEvent<Name extends string = string, Data = unknown> {
  /** The real channel, also where a pattern was subscribed to. */
  channel: string;
  event: Name;
  data: Data;
  /** The player who published it; absent for services. */
  from?: string;
  /** Its number among the channel's events. */
  offset?: number;
  /** Unix milliseconds of the publisher's clock (the server's, for players). */
  ts?: number;
  /** On entity channels. */
  key?: string;
  tags?: unknown;
  /** `base64`: `data` is text that stands for bytes. */
  encoding?: string;
}

/** Any event of the map `E`; `event` tells which, and narrows `data`. */
export type AnyEvent<E extends EventMap> = { [N in EventName<E>]: ChannelEvent<N, E[N]> }[EventName<E>];

/** Events may be missing at this point: fetch the state anew where that matters. */
export interface Resync {
  channel: string;
  /**
   * The server's word (`gap`, `epoch`, `broker`, `slow_consumer`, `too_large`), or this client's: it was away, and the
   * session had ended (`session`), or could not be taken up for this channel (`reconnect`).
   */
  reason: string;
  /** Where the channel goes on, if the server says so. */
  epoch?: string;
  offset?: number;
  /** Where this client was before: for `history(channel, { since })`, on channels with history. */
  since?: Position;
}

/** After a reconnect nothing of the channel (or pattern) is missing: what was missed follows. */
export interface Recovered {
  channel: string;
}

/** Who came to a channel and who left it; not this player itself. */
export interface PresenceChange {
  channel: string;
  joined: string[];
  left: string[];
  /** Changes were missed, so the list of players may be wrong: read it again with `presence()`. */
  reset: boolean;
}

/** What listeners of a channel get beside events. */
export interface ChannelNotices {
  resync: Resync;
  recovered: Recovered;
  presence: PresenceChange;
}

/** Listening to a channel or pattern. By itself it subscribes to nothing. */
export class Channel<E extends EventMap = Record<string, unknown>> {
  readonly #events: Emitter<Record<string, any>>;
  readonly #any: Emitter<ChannelNotices & { event: any }>;
  /** @internal */
  readonly matches: (channel: string) => boolean;

  /** @internal */
  constructor(
    /** The name or pattern. */
    readonly channel: string,
    report: (thrown: unknown) => void,
    /** Called after a handler was added or removed. */
    changed?: () => void,
  ) {
    this.#events = new Emitter(report, changed);
    this.#any = new Emitter(report, changed);
    this.matches = isPattern(channel) ? globMatcher(channel) : (name) => name === channel;
  }

  /** Calls back for each event of that name; the returned function removes the handler. */
  on<N extends EventName<E>>(event: N, handler: (event: ChannelEvent<N, E[N]>) => void): Unlisten {
    return this.#events.on(event, handler);
  }

  /** Calls back for the next event of that name only; the returned function removes the handler before that. */
  once<N extends EventName<E>>(event: N, handler: (event: ChannelEvent<N, E[N]>) => void): Unlisten {
    return this.#events.once(event, handler);
  }

  /** Calls back for every event; the returned function removes the handler. */
  onEvent(handler: (event: AnyEvent<E>) => void): Unlisten {
    return this.#any.on("event", handler);
  }

  /** Calls back where events may be missing: fetch the state again there. The returned function removes the handler. */
  onResync(handler: (resync: Resync) => void): Unlisten {
    return this.#any.on("resync", handler);
  }

  /** Calls back after a reconnect that lost nothing, before the events that were missed; the returned function removes the handler. */
  onRecovered(handler: (recovered: Recovered) => void): Unlisten {
    return this.#any.on("recovered", handler);
  }

  /** Calls back when players come or leave, on channels with `presence = "notify"`; the returned function removes the handler. */
  onPresence(handler: (change: PresenceChange) => void): Unlisten {
    return this.#any.on("presence", handler);
  }

  /** @internal Whether it has handlers. */
  get hasHandlers(): boolean {
    return !this.#events.isEmpty || !this.#any.isEmpty;
  }

  /** @internal */
  deliver(event: ChannelEvent): void {
    this.#events.emit(event.event, event);
    this.#any.emit("event", event);
  }

  /** @internal */
  notify<K extends keyof ChannelNotices>(name: K, notice: ChannelNotices[K]): void {
    this.#any.emit(name, notice as any);
  }

  /** @internal */
  silence(): void {
    this.#events.clear();
    this.#any.clear();
  }
}

/** How many channels' listeners are remembered, so that an event finds them without trying every pattern. */
const MAX_REMEMBERED = 1024;

export class Listeners {
  readonly #channels = new Set<Channel<any>>();
  readonly #remembered = new Map<string, Channel<any>[]>();

  add(channel: Channel<any>): void {
    if (this.#channels.has(channel)) return;
    this.#channels.add(channel);
    this.#remembered.clear();
  }

  /** Nothing reaches it any more; its handlers stay, should it be added again. */
  drop(channel: Channel<any>): void {
    if (this.#channels.delete(channel)) this.#remembered.clear();
  }

  remove(channel: Channel<any>): void {
    channel.silence();
    this.drop(channel);
  }

  /** `all` hears every event, before the channels' own listeners. */
  deliver(message: EventMessage, all: (event: ChannelEvent) => void): void {
    const event = eventOf(message);
    all(event);
    for (const channel of this.#of(message.channel)) channel.deliver(event);
  }

  /** To the listeners of that name or pattern, and to those of patterns that cover it. */
  notify<K extends keyof ChannelNotices>(name: K, notice: ChannelNotices[K]): void {
    for (const channel of this.#of(notice.channel)) channel.notify(name, notice);
  }

  #of(name: string): Channel<any>[] {
    let found = this.#remembered.get(name);
    if (!found) {
      found = [...this.#channels].filter((channel) => channel.channel === name || channel.matches(name));
      if (this.#remembered.size >= MAX_REMEMBERED) this.#remembered.clear();
      this.#remembered.set(name, found);
    }
    return found;
  }
}

/** @internal The wire's `RESYNC` as the application sees it. */
export function resyncOf(message: ResyncMessage): Resync {
  const { type: _, ...resync } = message;
  return resync;
}

/** @internal An event as the application sees it. */
export function eventOf(message: Omit<EventMessage, "type"> & { type?: string }): ChannelEvent {
  const { type: _, epoch: __, ...event } = message;
  return { ...event, data: event.data ?? null };
}

/** @internal */
export function presenceChangeOf(message: PresenceChangedMessage): PresenceChange {
  const { channel, joined = [], left = [], reset = false } = message;
  return { channel, joined, left, reset };
}
