"use client";

/**
 * The entry `@drawbridge/client/react`: hooks for the connection, a channel and a table of entities. Sharing
 * subscriptions is the business of `lease.ts`, snapshots are that of `stores.ts`.
 */

import { useEffect, useInsertionEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { AnyChannels, ChannelMap, ChannelName, Drawbridge, EventsOf, StatusChange, ViewOptions } from "../index.js";
import { ChannelStore, EntitiesStore, type ChannelHandlers, type ChannelState, type EntitiesState, type Store } from "./stores.js";

export type { ChannelHandlers, ChannelState, EntitiesState } from "./stores.js";

/** Options are compared by value, so an object literal in a component does no harm. */
export interface ChannelOptions<E extends object> extends ViewOptions, ChannelHandlers<E> {}

/** For server rendering and hydration. */
const CONNECTING: StatusChange = { status: "connecting", previous: "closed" };

/** The client's status, with the reason of its last change. */
export function useConnection(client: Drawbridge<any>): StatusChange {
  const listen = useMemo(() => (changed: () => void) => client.on("status", changed), [client]);
  return useSyncExternalStore(listen, () => client.statusChange, () => CONNECTING);
}

/**
 * Subscribes while the component is mounted (`null`: not), and calls its handlers, always those of the last render.
 * Components that name the same channel share one subscription. A new `filter` or `area` changes it in place; where
 * several components name one, that of the component that was mounted last is in force.
 */
export function useChannel<M extends ChannelMap = AnyChannels, C extends ChannelName<M> = ChannelName<M>>(
  client: Drawbridge<M>,
  channel: C | null,
  options: ChannelOptions<EventsOf<M, C>> = {},
): ChannelState {
  const handlers = useRef<ChannelHandlers<EventsOf<M, C>>>(options);
  // Not during render: handlers of a render that React discards must not be called.
  useInsertionEffect(() => {
    handlers.current = options;
  });
  const store = useMemo(() => new ChannelStore<EventsOf<M, C>>(client, channel, () => handlers.current), [client, channel]);
  return useStore(store, options);
}

/**
 * Subscribes to an entity channel as `useChannel` does, and returns its table. The component renders once for all
 * changes that arrive together. `entities` is the same array as long as the table does not change.
 */
export function useEntities<M extends ChannelMap = AnyChannels, C extends ChannelName<M> = ChannelName<M>>(
  client: Drawbridge<M>,
  channel: C | null,
  options: ViewOptions = {},
): EntitiesState<EventsOf<M, C>> {
  const store = useMemo(() => new EntitiesStore<EventsOf<M, C>>(client, channel), [client, channel]);
  return useStore(store, options);
}

function useStore<S>(store: Store<S>, { filter, area }: ViewOptions): S {
  const key = JSON.stringify({ filter, area });
  const view = useMemo(() => ({ ...(filter !== undefined && { filter }), ...(area !== undefined && { area }) }), [key]);
  useEffect(() => store.hold(), [store]);
  useEffect(() => store.setView(view), [store, view]);
  return useSyncExternalStore(store.listen, store.snapshot, store.initial);
}
