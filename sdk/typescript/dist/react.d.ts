// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit.
import { EventMap, EventName, ChannelEvent, AnyEvent, Resync, Recovered, PresenceChange, SubscriptionState, DrawbridgeError, Entity, ViewOptions, ChannelMap, AnyChannels, ChannelName, Drawbridge, EventsOf, StatusChange } from './drawbridge.js';

/**
 * The snapshots that hooks return: each stays the same object until something in it changes. Sharing subscriptions is
 * the business of `lease.ts`.
 */

/** A method, whose parameter types are compared loosely: without a map, TypeScript infers each event's name as literal. */
type Handler<Event> = {
    call(event: Event): void;
}["call"];
/** Handlers as the methods of these names on a subscription take them. */
interface ChannelHandlers<E extends EventMap> {
    /** By the event's name. */
    on?: {
        [N in EventName<E>]?: Handler<ChannelEvent<N, E[N]>>;
    };
    onEvent?(event: AnyEvent<E>): void;
    onResync?(resync: Resync): void;
    onRecovered?(recovered: Recovered): void;
    onPresence?(change: PresenceChange): void;
}
interface ChannelState {
    /** `pending` until the server has confirmed the subscription; again after each reconnect. */
    readonly state: SubscriptionState;
    /** Why it has ended, or why the last `filter` or `area` is not in force. */
    readonly error?: DrawbridgeError;
}
interface EntitiesState<E extends EventMap> extends ChannelState {
    /** What is in view, in the order in which it entered. */
    readonly entities: readonly Entity<E>[];
    /** The table may be out of date: it has not arrived yet, or the connection was lost. */
    readonly stale: boolean;
}

/** Options are compared by value, so an object literal in a component does no harm. */
interface ChannelOptions<E extends object> extends ViewOptions, ChannelHandlers<E> {
}
/** The client's status, with the reason of its last change. */
declare function useConnection(client: Drawbridge<any>): StatusChange;
/**
 * Subscribes while the component is mounted (`null`: not), and calls its handlers, always those of the last render.
 * Components that name the same channel share one subscription. A new `filter` or `area` changes it in place; where
 * several components name one, that of the component that was mounted last is in force.
 */
declare function useChannel<M extends ChannelMap = AnyChannels, C extends ChannelName<M> = ChannelName<M>>(client: Drawbridge<M>, channel: C | null, options?: ChannelOptions<EventsOf<M, C>>): ChannelState;
/**
 * Subscribes to an entity channel as `useChannel` does, and returns its table. The component renders once for all
 * changes that arrive together. `entities` is the same array as long as the table does not change.
 */
declare function useEntities<M extends ChannelMap = AnyChannels, C extends ChannelName<M> = ChannelName<M>>(client: Drawbridge<M>, channel: C | null, options?: ViewOptions): EntitiesState<EventsOf<M, C>>;

export { useChannel, useConnection, useEntities };
export type { ChannelHandlers, ChannelOptions, ChannelState, EntitiesState };
