/**
 * How far this client has come on each channel: what `CONNECT` names to resume, and what tells a repeated event from a
 * new one. Positions are the server's: a client never makes one up.
 */

import type { EventMessage } from "./messages.js";

/** A place in a channel's count: everything up to it has been received, or was hidden by the view. */
export interface Position {
  epoch: string;
  offset: number;
}

interface Cursor extends Position {
  /** The count is Redis' own: offsets only grow. On other channels batching may deliver in another order. */
  logged: boolean;
}

/** Exact subscriptions and channels that only patterns show, together. */
const MAX_CURSORS = 1024;

export class Cursors {
  /** The channels that were seen first come first. */
  readonly #cursors = new Map<string, Cursor>();
  /** A channel that only patterns show was given up for want of room. Its `POSITION` does not come again in this session. */
  #hasEvicted = false;
  /** The last `CONNECT` had no room for all. */
  #isTruncated = false;

  /** `isExact`: whether the channel is subscribed by name; those are never given up for others. */
  constructor(private readonly isExact: (channel: string) => boolean) {}

  /** The last `CONNECT` did not name every channel that patterns have shown: no pattern can be proven whole. */
  get incomplete(): boolean {
    return this.#hasEvicted || this.#isTruncated;
  }

  get(channel: string): Position | undefined {
    const cursor = this.#cursors.get(channel);
    return cursor && { epoch: cursor.epoch, offset: cursor.offset };
  }

  /** A subscription was confirmed. One that was live already keeps its place: events before it may be on the way. */
  begin(channel: string, position: Partial<Position>): void {
    if (this.#cursors.get(channel)?.epoch !== position.epoch) this.replace(channel, position);
  }

  /** The next event continues here, whatever came before. */
  replace(channel: string, { epoch, offset }: Partial<Position>, logged = false): void {
    if (epoch === undefined || offset === undefined) return;
    if (!this.#cursors.has(channel)) this.#makeRoom();
    this.#cursors.set(channel, { epoch, offset: Number(offset), logged });
  }

  /** `POSITION`: only channels with history have one. */
  advance(channel: string, { epoch, offset }: Position): void {
    const cursor = this.#cursors.get(channel);
    const from = cursor?.epoch === epoch ? cursor.offset : 0;
    this.replace(channel, { epoch, offset: Math.max(from, Number(offset)) }, true);
  }

  /** The resumed session continues here, under this epoch from now on. Elsewhere only a log can be continued. */
  resumed(channel: string, epoch: string | undefined, elsewhere: boolean): void {
    const cursor = this.#cursors.get(channel);
    if (!cursor) return;
    cursor.epoch = epoch ?? cursor.epoch;
    cursor.logged ||= elsewhere;
  }

  /** Whether the event is a new one. */
  accept({ channel, offset, epoch }: EventMessage): boolean {
    const cursor = offset === undefined ? undefined : this.#cursors.get(channel);
    if (!cursor) return true;
    const isRepeated = cursor.logged && Number(offset) <= cursor.offset && (epoch ?? cursor.epoch) === cursor.epoch;
    if (isRepeated) return false;
    cursor.offset = Number(offset);
    cursor.epoch = epoch ?? cursor.epoch;
    return true;
  }

  delete(channel: string): void {
    this.#cursors.delete(channel);
  }

  /** Forgets the channels for which `isSubscribed` is false. */
  retain(isSubscribed: (channel: string) => boolean): void {
    for (const channel of this.#cursors.keys()) if (!isSubscribed(channel)) this.#cursors.delete(channel);
  }

  clear(): void {
    this.#cursors.clear();
    this.#hasEvicted = false;
  }

  /** For `CONNECT.resume`: as many as fit, those of exact subscriptions first. */
  positions(maxCount: number, maxChars: number): Record<string, Position> {
    const positions: Record<string, Position> = Object.create(null);
    this.#isTruncated = false;
    const all = [...this.#cursors.keys()];
    const exact = all.filter(this.isExact);
    let count = 0;
    let chars = 0;
    for (const channel of [...exact, ...all.filter((name) => !this.isExact(name))]) {
      const { epoch, offset } = this.#cursors.get(channel)!;
      chars += channel.length + epoch.length + 48;
      if (++count > maxCount || chars > maxChars) {
        this.#isTruncated = true;
        break;
      }
      positions[channel] = { epoch, offset };
    }
    return positions;
  }

  #makeRoom(): void {
    if (this.#cursors.size < MAX_CURSORS) return;
    for (const channel of this.#cursors.keys()) {
      if (this.isExact(channel)) continue;
      this.#cursors.delete(channel);
      this.#hasEvicted = true;
      return;
    }
  }
}
