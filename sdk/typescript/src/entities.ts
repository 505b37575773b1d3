/**
 * The live table of an entity channel: what the server shows of it, in the state that it last told. A snapshot takes
 * effect as a whole, so nobody sees half of one. Who is subscribed to what is `subscriptions.ts`'s business.
 */

import { Deferred } from "./deferred.js";
import { Emitter, type Unlisten } from "./emitter.js";
import { DrawbridgeError } from "./errors.js";
import type { EventMap, EventName } from "./events.js";
import type { EventMessage, ViewEnterMessage, ViewLeaveMessage, WireEntity } from "./messages.js";
import { Timer, type Runtime } from "./runtime.js";
import type { Subscription } from "./subscriptions.js";

/** One entity in its last state. It is never changed: each update makes a new one. `event` narrows `data`. */
export type Entity<E extends EventMap = Record<string, unknown>> = {
  [N in EventName<E>]: {
    readonly key: string;
    /** The event that brought it into this state. */
    readonly event: N;
    readonly data: E[N];
    readonly from?: string;
    readonly tags?: unknown;
    readonly ts?: number;
    readonly encoding?: string;
  };
}[EventName<E>];

/**
 * `view`: it moved out, or the view did. `removed`: it is no more. `reset`: a snapshot came without it.
 * `unsubscribed`: nothing is shown any more.
 */
export type LeaveReason = "view" | "removed" | "reset" | "unsubscribed";

interface TableEvents<E extends EventMap> {
  enter: Entity<E>;
  update: { entity: Entity<E>; previous: Entity<E> };
  leave: { entity: Entity<E>; reason: LeaveReason };
  reset: undefined;
}

/** All entities of one channel that are in view. Handlers are called after the table has changed. */
export class Entities<E extends EventMap = Record<string, unknown>> {
  readonly #emitter: Emitter<TableEvents<E>>;
  #shown = new Map<string, Entity<E>>();
  /** A snapshot on its way. */
  #coming: Map<string, Entity<E>> | undefined;
  #stale = true;
  #synced = new Deferred();
  /** Whether the server has told of a table here: it is an entity channel. */
  #known = false;
  /** That nothing is shown without an area was reported, and no other snapshot has come since. */
  #areaMissing = false;
  readonly #overdue: Timer;
  readonly #timeoutMs: number;
  readonly #report: (thrown: unknown) => void;

  /** @internal */
  constructor(
    /** What it belongs to: for `area()`, `filter()` and `unsubscribe()`. */
    readonly subscription: Subscription<E>,
    report: (thrown: unknown) => void,
    runtime: Runtime,
    timeoutMs: number,
  ) {
    this.#emitter = new Emitter(report);
    this.#overdue = new Timer(runtime);
    this.#timeoutMs = timeoutMs;
    this.#report = report;
  }

  get size(): number {
    return this.#shown.size;
  }

  get(key: string): Entity<E> | undefined {
    return this.#shown.get(key);
  }

  has(key: string): boolean {
    return this.#shown.has(key);
  }

  [Symbol.iterator](): IterableIterator<Entity<E>> {
    return this.#shown.values();
  }

  /** True from a loss (or the beginning) until the next snapshot is complete: what is here may be out of date. */
  get stale(): boolean {
    return this.#stale;
  }

  /**
   * Resolves when the table is complete. Rejects when it will not be; with `TIMEOUT` where the server tells nothing of
   * one: the channel may not be `kind = "entity"`. A new promise after each loss, and for a table that comes late. Where
   * the class has `area_required` and the subscription no area the table is empty, and the client's `error` event says so.
   */
  get synced(): Promise<void> {
    return this.#synced.promise;
  }

  /** Calls back when one comes into view; the returned function removes the handler. */
  onEnter(handler: (entity: Entity<E>) => void): Unlisten {
    return this.#emitter.on("enter", handler);
  }

  /** Calls back for each new state of one that is in view; the returned function removes the handler. */
  onUpdate(handler: (entity: Entity<E>, previous: Entity<E>) => void): Unlisten {
    return this.#emitter.on("update", ({ entity, previous }) => handler(entity, previous));
  }

  /** Calls back with the last state of one that is not in view any more; the returned function removes the handler. */
  onLeave(handler: (entity: Entity<E>, reason: LeaveReason) => void): Unlisten {
    return this.#emitter.on("leave", ({ entity, reason }) => handler(entity, reason));
  }

  /** Calls back when a snapshot has taken effect, behind what it changed; the returned function removes the handler. */
  onReset(handler: () => void): Unlisten {
    return this.#emitter.on("reset", handler);
  }

  /** @internal */
  entered({ entities, reset, complete, reason }: ViewEnterMessage): void {
    this.#overdue.clear();
    this.#known = true;
    this.#noteMissingArea(reason === "area_required");
    if (reset) {
      this.#coming = new Map();
      // It is late: the wait was given up.
      if (this.#stale) this.#renew();
    }
    if (!this.#coming) return this.#enter(entities.map((entity) => entityOf<E>(entity)));
    for (const entity of entities) this.#coming.set(entity.key, entityOf(entity));
    if (complete) this.#replaceBy(this.#coming);
  }

  /** @internal */
  updated(message: EventMessage & { key: string }): void {
    const entity = entityOf<E>(message);
    const previous = this.#shown.get(entity.key);
    this.#coming?.set(entity.key, entity);
    // Nobody told that it entered. What a snapshot will tell waits for that; else it is in view, as an event came.
    if (!previous && (this.#coming || this.#stale)) return;
    this.#shown.set(entity.key, entity);
    if (previous) this.#emitter.emit("update", { entity, previous });
    else this.#emitter.emit("enter", entity);
  }

  /** @internal */
  left({ keys, reason }: ViewLeaveMessage): void {
    const gone: Entity<E>[] = [];
    for (const key of keys) {
      const entity = this.#shown.get(key);
      if (entity) gone.push(entity);
      this.#shown.delete(key);
      this.#coming?.delete(key);
    }
    for (const entity of gone) this.#emitter.emit("leave", { entity, reason: reason as LeaveReason });
  }

  /** @internal What is here may be out of date until the next snapshot. */
  lost(): void {
    this.#stale = true;
    this.#coming = undefined;
    this.#overdue.clear();
    this.#renew();
  }

  /** @internal A snapshot follows if this is an entity channel, an empty one too. */
  due(): void {
    this.lost();
    if (!this.#known) this.#overdue.set(this.#timeoutMs, () => this.#late());
  }

  /** @internal There will be no snapshot. */
  abandoned(error: DrawbridgeError): void {
    this.#synced.reject(error);
  }

  /** @internal The subscription has ended. */
  end(error: DrawbridgeError): void {
    this.lost();
    this.abandoned(error);
    const gone = this.#shown;
    this.#shown = new Map();
    for (const entity of gone.values()) this.#emitter.emit("leave", { entity, reason: "unsubscribed" });
    this.#emitter.clear();
  }

  /** `synced` resolves with an empty table, which looks like an empty world: the reason is an error of its own. */
  #noteMissingArea(missing: boolean): void {
    const first = missing && !this.#areaMissing;
    this.#areaMissing = missing;
    if (!first) return;
    const { channel } = this.subscription;
    const hint = "pass one: entities(channel, { area: { x, y, radius } }), or subscription.area(…)";
    this.#report(new DrawbridgeError("AREA_REQUIRED", `${channel} shows nothing without an area; ${hint}`, { channel, hint }));
  }

  #late(): void {
    const { channel } = this.subscription;
    const error = new DrawbridgeError("TIMEOUT", `no table of ${channel} came: the channel may not be kind = "entity"`, { channel });
    this.abandoned(error);
    this.#report(error);
  }

  #renew(): void {
    if (this.#synced.settled) this.#synced = new Deferred();
  }

  #enter(entities: Entity<E>[]): void {
    const before = entities.map(({ key }) => this.#shown.get(key));
    for (const entity of entities) this.#shown.set(entity.key, entity);
    entities.forEach((entity, at) => this.#tell(entity, before[at]));
  }

  #replaceBy(coming: Map<string, Entity<E>>): void {
    const before = this.#shown;
    this.#shown = coming;
    this.#coming = undefined;
    this.#stale = false;
    this.#synced.resolve();
    for (const [key, entity] of before) if (!coming.has(key)) this.#emitter.emit("leave", { entity, reason: "reset" });
    // A copy: a handler may bring on what changes the table.
    for (const entity of [...coming.values()]) this.#tell(entity, before.get(entity.key));
    this.#emitter.emit("reset", undefined);
  }

  #tell(entity: Entity<E>, previous: Entity<E> | undefined): void {
    if (!previous) this.#emitter.emit("enter", entity);
    else if (!same(entity, previous)) this.#emitter.emit("update", { entity, previous });
  }
}

function entityOf<E extends EventMap>({ key, event, data, from, tags, ts, encoding }: WireEntity): Entity<E> {
  return {
    key,
    event,
    data: data ?? null,
    ...(from !== undefined && { from }),
    ...(tags !== undefined && { tags }),
    ...(ts !== undefined && { ts }),
    ...(encoding !== undefined && { encoding }),
  } as Entity<E>;
}

/** Of values as JSON and MessagePack have them. */
function same(a: any, b: any): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || !a || !b || Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => name in b && same(a[name], b[name]));
}
