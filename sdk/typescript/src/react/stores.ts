/**
 * The snapshots that hooks return: each stays the same object until something in it changes. Sharing subscriptions is
 * the business of `lease.ts`.
 */

import type {
  AnyEvent,
  ChannelEvent,
  Drawbridge,
  DrawbridgeError,
  Entity,
  EventMap,
  EventName,
  PresenceChange,
  Recovered,
  Resync,
  Subscription,
  SubscriptionState,
  ViewOptions,
} from "../index.js";
import { isPattern } from "../glob.js";
import { leaseOf, type Holder, type Lease } from "./lease.js";

/** A method, whose parameter types are compared loosely: without a map, TypeScript infers each event's name as literal. */
type Handler<Event> = { call(event: Event): void }["call"];

/** Handlers as the methods of these names on a subscription take them. */
export interface ChannelHandlers<E extends EventMap> {
  /** By the event's name. */
  on?: { [N in EventName<E>]?: Handler<ChannelEvent<N, E[N]>> };
  onEvent?(event: AnyEvent<E>): void;
  onResync?(resync: Resync): void;
  onRecovered?(recovered: Recovered): void;
  onPresence?(change: PresenceChange): void;
}

export interface ChannelState {
  /** `pending` until the server has confirmed the subscription; again after each reconnect. */
  readonly state: SubscriptionState;
  /** Why it has ended, or why the last `filter` or `area` is not in force. */
  readonly error?: DrawbridgeError;
}

export interface EntitiesState<E extends EventMap> extends ChannelState {
  /** What is in view, in the order in which it entered. */
  readonly entities: readonly Entity<E>[];
  /** The table may be out of date: it has not arrived yet, or the connection was lost. */
  readonly stale: boolean;
}

/** The state of one hook in one component. React calls the properties below as functions, so they are bound. */
export abstract class Store<S> implements Holder {
  view: ViewOptions = {};
  #lease: Lease | undefined;
  #snapshot: S;
  readonly #listeners = new Set<() => void>();

  /** Does nothing if `channel` is null. `first` is the snapshot before the first change. */
  constructor(
    private readonly client: Drawbridge<any>,
    private readonly channel: string | null,
    private readonly first: S,
  ) {
    this.#snapshot = first;
  }

  abstract attach(subscription: Subscription<any>): () => void;
  /** Returns the next snapshot, or `last` itself if nothing has changed. */
  protected abstract next(last: S, state: ChannelState): S;

  /** Subscribes; the returned function unsubscribes. */
  hold(): (() => void) | undefined {
    if (this.channel === null) return undefined;
    this.#lease = leaseOf(this.client, this.channel);
    return this.#lease.hold(this);
  }

  setView(view: ViewOptions): void {
    this.view = view;
    this.#lease?.viewChanged();
  }

  changed(): void {
    const { state = "pending", error } = this.#lease ?? {};
    const next = this.next(this.#snapshot, { state, ...(error && { error }) });
    if (next === this.#snapshot) return;
    this.#snapshot = next;
    for (const listener of [...this.#listeners]) listener();
  }

  readonly listen = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  readonly snapshot = (): S => this.#snapshot;
  /** For server rendering and hydration. */
  readonly initial = (): S => this.first;
}

const PENDING: ChannelState = { state: "pending" };

export class ChannelStore<E extends EventMap> extends Store<ChannelState> {
  constructor(
    client: Drawbridge<any>,
    channel: string | null,
    private readonly handlers: () => ChannelHandlers<E>,
  ) {
    super(client, channel, PENDING);
  }

  override attach(subscription: Subscription<E>): () => void {
    return all([
      // Two listeners, so that both handlers are called even if the first one throws.
      subscription.onEvent((event) => this.#handlerOf(event.event)?.(event)),
      subscription.onEvent((event) => this.handlers().onEvent?.(event)),
      subscription.onResync((resync) => this.handlers().onResync?.(resync)),
      subscription.onRecovered((recovered) => this.handlers().onRecovered?.(recovered)),
      subscription.onPresence((change) => this.handlers().onPresence?.(change)),
    ]);
  }

  /** Own properties only: players choose event names, `toString` for example. */
  #handlerOf(name: string): ((event: any) => void) | undefined {
    const on: Record<string, ((event: any) => void) | undefined> = this.handlers().on ?? {};
    return Object.hasOwn(on, name) ? on[name] : undefined;
  }

  protected override next(last: ChannelState, state: ChannelState): ChannelState {
    return isSame(last, state) ? last : state;
  }
}

const EMPTY: EntitiesState<any> = { state: "pending", entities: [], stale: true };

export class EntitiesStore<E extends EventMap> extends Store<EntitiesState<E>> {
  #table: Subscription<E>["entities"] | undefined;
  /** The table has changed since the last snapshot. */
  #isOutdated = false;

  constructor(client: Drawbridge<any>, channel: string | null) {
    if (channel !== null && isPattern(channel)) throw new TypeError(`useEntities: ${channel} is a pattern; entities are delivered by channel`);
    super(client, channel, EMPTY);
  }

  override attach(subscription: Subscription<E>): () => void {
    const table = subscription.entities;
    const outdate = () => this.#outdate();
    this.#table = table;
    this.#isOutdated = true;
    // A `RESYNC` makes the table stale without changing it.
    return all([table.onEnter(outdate), table.onUpdate(outdate), table.onLeave(outdate), table.onReset(outdate), subscription.onResync(outdate)]);
  }

  /** Changes of one frame are reported one by one; the table is copied once for all of them. */
  #outdate(): void {
    if (this.#isOutdated) return;
    this.#isOutdated = true;
    queueMicrotask(() => this.changed());
  }

  protected override next(last: EntitiesState<E>, state: ChannelState): EntitiesState<E> {
    const stale = this.#table?.stale ?? true;
    if (!this.#isOutdated && stale === last.stale && isSame(last, state)) return last;
    const entities = this.#isOutdated && this.#table ? [...this.#table] : last.entities;
    this.#isOutdated = false;
    return { ...state, entities, stale };
  }
}

function isSame(a: ChannelState, b: ChannelState): boolean {
  return a.state === b.state && a.error === b.error;
}

function all(unlisten: (() => void)[]): () => void {
  return () => {
    for (const each of unlisten) each();
  };
}
