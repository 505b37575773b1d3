/** What is read of a channel once: its history and who is there, a page at a time. It owns its waits. */

import { DrawbridgeError, type Outcome } from "./errors.js";
import { eventOf, type ChannelEvent } from "./events.js";
import type { Position } from "./cursors.js";
import type { Link } from "./link.js";
import type { HistoryMessage, PresenceMessage, ReadRequest, ServerMessage } from "./messages.js";
import type { Requests } from "./requests.js";
import { Timer, type Runtime } from "./runtime.js";

export interface HistoryOptions {
  /** Reads what follows this position; absent: the newest. */
  since?: Position;
  /** Events to read; the server may answer with fewer. */
  limit?: number;
}

export interface History<Event = ChannelEvent> {
  channel: string;
  epoch: string;
  /** The oldest first. */
  events: Event[];
  /** The `since` of the following page; absent at the end. */
  next?: Position;
  /** Events after `since` are no longer kept, or its epoch is not known: these are the oldest that are. */
  gap?: boolean;
}

export interface PresenceOptions {
  /** The `next` of the page before. */
  after?: string;
  /** Players to read; at most 1,000 come. */
  limit?: number;
}

export interface Presence {
  channel: string;
  /** In the order of their ids, each with the number of its connections. */
  players: { player: string; connections: number }[];
  /** Players on the channel, on all pages. */
  total: number;
  /** The `after` of the following page; absent at the end. */
  next?: string;
}

export class Reads {
  constructor(
    private readonly link: Link,
    private readonly requests: Requests,
    private readonly runtime: Runtime,
    private readonly timeoutMs: number,
  ) {}

  async history(channel: string, { since, limit }: HistoryOptions): Promise<History<any>> {
    const request = { type: "HISTORY_GET", channel, ...(since && { since }), ...(limit !== undefined && { limit }) } as const;
    const { epoch, events, next, gap } = (await this.#read(request)) as HistoryMessage;
    const page = { channel, epoch, events: events.map((event) => eventOf({ ...event, channel: event.channel ?? channel })) };
    return { ...page, ...(next && { next }), ...(gap && { gap }) };
  }

  async presence(channel: string, { after, limit }: PresenceOptions): Promise<Presence> {
    const request = { type: "PRESENCE_GET", channel, ...(after !== undefined && { after }), ...(limit !== undefined && { limit }) } as const;
    const { players, total, next } = (await this.#read(request)) as PresenceMessage;
    return { channel, players, total, ...(next !== undefined && { next }) };
  }

  #read(request: ReadRequest): Promise<ServerMessage> {
    const { channel } = request;
    if (!this.link.open) return Promise.reject(new DrawbridgeError("NOT_CONNECTED", "there is no connection", { retryable: true, channel }));
    const id = this.requests.nextId();
    const answer = this.requests.answer(id);
    const deadline = new Timer(this.runtime);
    const late = new DrawbridgeError("TIMEOUT", "no answer in time", { retryable: true, channel });
    deadline.set(this.timeoutMs, () => this.requests.abandon(id, late));
    this.link.send({ ...request, id });
    return answer.catch(withoutOutcome).finally(() => deadline.clear());
  }
}

/** Reading changes nothing, so there is no doubt about what has happened. */
function withoutOutcome(error: DrawbridgeError & { outcome?: Outcome }): never {
  if (error.outcome === undefined) throw error;
  const { outcome: _, ...details } = error;
  throw new DrawbridgeError(error.code, error.message, details);
}

/** Page after page, from `first` on, until one has no `next`. */
export async function* pages<Page extends { next?: unknown }>(
  first: Page["next"] | undefined,
  read: (from: Page["next"] | undefined) => Promise<Page>,
): AsyncGenerator<Page, void, undefined> {
  for (let from = first; ; ) {
    const page = await read(from);
    yield page;
    if (page.next === undefined) return;
    from = page.next;
  }
}
