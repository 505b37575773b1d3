// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit.
/** What a browser says about the page and its network. Elsewhere (Node, workers without a page) little or nothing comes. */
/**
 * `online`, `offline`: the network changed. `visible`: somebody looks at the page again, perhaps after a sleep.
 * `keep`: the page goes into the back-forward cache, and may come back as it is. `leave`: it goes for good.
 * `return`: it is back.
 */
type PageSignal = "online" | "offline" | "visible" | "keep" | "leave" | "return";

/**
 * Time, chance and sockets, as this library asks for them. Everything else is deterministic, so that tests can
 * drive reconnects, timeouts and clocks by hand.
 */

/** What a `WebSocket` must offer: the browser's, Node's own (22 and later) and the one of package `ws` do. */
interface WebSocketLike {
    binaryType: string;
    readonly readyState: number;
    readonly bufferedAmount: number;
    onopen: ((event: any) => void) | null;
    onmessage: ((event: any) => void) | null;
    onclose: ((event: any) => void) | null;
    onerror: ((event: any) => void) | null;
    send(data: string | Uint8Array<ArrayBuffer>): void;
    close(code?: number, reason?: string): void;
}
type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;
interface Runtime {
    /** Milliseconds of a clock that only goes forward. */
    now(): number;
    /** Unix milliseconds of this machine. */
    wallNow(): number;
    /** From 0 up to 1. */
    random(): number;
    setTimeout(callback: () => void, delayMs: number): unknown;
    clearTimeout(handle: unknown): void;
    /** Calls back for what a browser says of the page and its network; the returned function removes the handler. */
    onPage(callback: (signal: PageSignal) => void): () => void;
    /** Whether an HTTP server responds at `url`; undefined outside of browsers, where sockets report their errors. */
    answersHttp(url: string): Promise<boolean | undefined>;
    /** A name that nobody else has: at most 64 characters. */
    uniqueKey(): string;
}

/** When to come back, and whether. */

interface ReconnectOptions {
    /** The bound of the first wait, in milliseconds (default 3000). Waits are uniform between 0 and their bound. */
    minDelayMs?: number;
    /** The bound of the longest wait, in milliseconds (default 30000). */
    maxDelayMs?: number;
}

/**
 * The server's clock, as well as it can be told from here. Each answered `PING` is a sample; the one with the
 * shortest round trip is the most exact (its error is at most half of that), so it is the one believed.
 */

declare class Clock {
    #private;
    private readonly runtime;
    constructor(runtime: Runtime);
    /** The server's time in Unix milliseconds. Before the first connection, this machine's. */
    now(): number;
    /** How far the server's clock is ahead of this machine's, in milliseconds. */
    get offsetMs(): number;
    /** The shortest round trip among the recent samples, in milliseconds; undefined before the first. */
    get rttMs(): number | undefined;
}

/** How messages become frames. JSON is built in; MessagePack is an entry of its own (`@drawbridge/client/msgpack`). */
interface Codec {
    /** The WebSocket sub-protocol that names this encoding. */
    readonly subprotocol: string;
    /** Throws on what the encoding cannot say. */
    encode(message: unknown): string | Uint8Array<ArrayBuffer>;
    /** Throws on a frame of the wrong kind, or one that is not well formed. */
    decode(frame: string | ArrayBuffer): unknown;
}
/** Integers beyond 2^53 lose digits here, as everywhere in JavaScript's JSON. */
declare const json: Codec;

/** Listeners by name. A listener that throws is reported and the others still run. */
type Unlisten = () => void;

/** What a subscription is shown of its channel: filter and area as values, and what tells one view from another. */
/** A circle, a box, or a circle around an entity that the server lets this player follow; in the game's own units. */
type Area = {
    x: number;
    y: number;
    radius: number;
} | {
    min: readonly [x: number, y: number];
    max: readonly [x: number, y: number];
} | {
    follow: string;
    radius: number;
};
interface View {
    readonly filter?: string;
    readonly area?: Area;
}
/** A change of a view: `null` removes, what is absent stays as it is. */
interface ViewOptions {
    filter?: string | null;
    area?: Area | null;
}

/**
 * How far this client has come on each channel: what `CONNECT` names to resume, and what tells a repeated event from a
 * new one. Positions are the server's: a client never makes one up.
 */

/** A place in a channel's count: everything up to it has been received, or was hidden by the view. */
interface Position {
    epoch: string;
    offset: number;
}

/** Events, their types, and who listens to which channel. What is subscribed is `subscriptions.ts`'s business. */

/** A channel's events: their names, and the type of each one's `data`. */
type EventMap = object;
/**
 * An application's channels. Names, or template literals for families of them:
 * `{ "chat:lobby": { say: { text: string } }; [room: `room:${string}`]: { hit: { damage: number } } }`.
 * A channel that is not declared is a compile error.
 */
type ChannelMap = object;
/** The map of an application that declares nothing: every channel, and every event with data of any kind. */
type AnyChannels = Record<string, Record<string, unknown>>;
/** The channels and patterns that `M` declares. */
type ChannelName<M extends ChannelMap> = keyof M & string;
/** The events of channel (or pattern) `C`. */
type EventsOf<M extends ChannelMap, C extends ChannelName<M>> = M[C] extends EventMap ? M[C] : never;
type EventName<E extends EventMap> = keyof E & string;
/** The `data` of event `N` on channel `C`. Where either may be one of several, what fits all of them. */
type PayloadOf<M extends ChannelMap, C extends ChannelName<M>, N extends string> = (C extends ChannelName<M> ? (N extends EventName<EventsOf<M, C>> ? (data: EventsOf<M, C>[N]) => void : never) : never) extends (data: infer Data) => void ? Data : never;
/** The arguments of `publish` after the event's name: `data` is optional only if it may be `null` or `undefined`. */
type PublishArguments<Data, Options> = null extends Data ? [data?: Data, options?: Options] : undefined extends Data ? [data?: Data, options?: Options] : [data: Data, options?: Options];
/** One event as a handler gets it. */
interface ChannelEvent<Name extends string = string, Data = unknown> {
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
type AnyEvent<E extends EventMap> = {
    [N in EventName<E>]: ChannelEvent<N, E[N]>;
}[EventName<E>];
/** Events may be missing at this point: fetch the state anew where that matters. */
interface Resync {
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
interface Recovered {
    channel: string;
}
/** Who came to a channel and who left it; not this player itself. */
interface PresenceChange {
    channel: string;
    joined: string[];
    left: string[];
    /** Changes were missed, so the list of players may be wrong: read it again with `presence()`. */
    reset: boolean;
}
/** Listening to a channel or pattern. By itself it subscribes to nothing. */
declare class Channel<E extends EventMap = Record<string, unknown>> {
    #private;
    /** The name or pattern. */
    readonly channel: string;
    /** Calls back for each event of that name; the returned function removes the handler. */
    on<N extends EventName<E>>(event: N, handler: (event: ChannelEvent<N, E[N]>) => void): Unlisten;
    /** Calls back for the next event of that name only; the returned function removes the handler before that. */
    once<N extends EventName<E>>(event: N, handler: (event: ChannelEvent<N, E[N]>) => void): Unlisten;
    /** Calls back for every event; the returned function removes the handler. */
    onEvent(handler: (event: AnyEvent<E>) => void): Unlisten;
    /** Calls back where events may be missing: fetch the state again there. The returned function removes the handler. */
    onResync(handler: (resync: Resync) => void): Unlisten;
    /** Calls back after a reconnect that lost nothing, before the events that were missed; the returned function removes the handler. */
    onRecovered(handler: (recovered: Recovered) => void): Unlisten;
    /** Calls back when players come or leave, on channels with `presence = "notify"`; the returned function removes the handler. */
    onPresence(handler: (change: PresenceChange) => void): Unlisten;
}

/** The one error that this library rejects with. It owns the mapping from the wire; who causes one is not its business. */
/** What the server says (contract §8). */
type ServerErrorCode = "BAD_MESSAGE" | "UNSUPPORTED" | "UNAUTHENTICATED" | "TOKEN_EXPIRED" | "FORBIDDEN" | "CHANNEL_INVALID" | "FILTER_INVALID" | "NOT_SUBSCRIBED" | "LIMIT_EXCEEDED" | "TOO_LARGE" | "RATE_LIMITED" | "REJECTED" | "LOGIC_UNAVAILABLE" | "BROKER_UNAVAILABLE" | "BROKER_REFUSED" | "INTERNAL";
/** What this client says by itself. */
type ClientErrorCode = 
/** The link broke while the answer was out; the outcome is unknown. */
"CONNECTION_LOST"
/** The client was closed, by `close()` or by a close code that forbids coming back. */
 | "CLOSED"
/** There is no connection, and the offline queue is off. */
 | "NOT_CONNECTED"
/** The offline queue, or what is in flight, has reached its bound. */
 | "QUEUE_FULL"
/** No answer in time. */
 | "TIMEOUT"
/** The token provider failed. */
 | "TOKEN_PROVIDER"
/** The entity channel shows nothing without an area, and the subscription has none. */
 | "AREA_REQUIRED"
/** The server sent a frame that is not of the contract. */
 | "BAD_FRAME"
/** The subscription was ended by `unsubscribe()` or by the server. */
 | "UNSUBSCRIBED"
/** A listener of the application threw; `cause` is what. */
 | "LISTENER";
type ErrorCode = ServerErrorCode | ClientErrorCode | (string & {});
/** Whether a publish has happened: `not_done`, or `unknown` when its answer never came. */
type Outcome = "not_done" | "unknown";
interface ErrorDetails {
    retryable?: boolean | undefined;
    retryAfterMs?: number | undefined;
    outcome?: Outcome | undefined;
    reason?: string | undefined;
    channel?: string | undefined;
    position?: number | undefined;
    hint?: string | undefined;
    closeCode?: number | undefined;
    cause?: unknown;
}
declare class DrawbridgeError extends Error {
    readonly code: ErrorCode;
    /** Whether asking for the same again, later, can succeed. */
    readonly retryable: boolean;
    /** Where the server names a time, for `RATE_LIMITED` say: when to ask again. */
    readonly retryAfterMs?: number;
    /** For publishes. */
    readonly outcome?: Outcome;
    /** For `REJECTED`: the game logic's word. */
    readonly reason?: string;
    /** The channel concerned. */
    readonly channel?: string;
    /** For `FILTER_INVALID`: a byte offset into the expression. */
    readonly position?: number;
    /** What would be right, or what to look at. */
    readonly hint?: string;
    /** The WebSocket close code, where a close is the reason. */
    readonly closeCode?: number;
    constructor(code: ErrorCode, message: string, { cause, retryable, ...details }?: ErrorDetails);
}

/** Where tokens come from, and renewing them in place before they expire. The token itself is never logged or kept. */

/** Why a token is asked for. After `expired` a cached one will not do. */
type TokenReason = "connect" | "reconnect" | "expired" | "refresh";
/** Called at each connect and reconnect, and before the token expires. */
type TokenProvider = (reason: TokenReason) => string | Promise<string>;

/**
 * What the application wants to be subscribed to and to see of it, kept true over reconnects: every connection is told
 * all of it, and each wish ends in a confirmation or an error. Also what the server subscribed the player to by itself.
 */

type SubscriptionState = "pending" | "active" | "ended";
/** A line of `client.subscriptions`. */
interface SubscriptionInfo {
    /** The name or pattern. */
    channel: string;
    pattern: boolean;
    /** Who asked for it: this client, a template of the server's configuration, or a service. */
    by: "client" | "auto" | "server";
    state: SubscriptionState;
    /** After a reconnect, whether nothing was missed; absent where that is no question. */
    recovered?: boolean;
}
interface Unsubscribed {
    channel: string;
    /** `client`, `server`, `forbidden`, the code of the error that ended it, or `session`: it ended with its session. */
    reason: string;
    error?: DrawbridgeError;
}
/** One subscription of the application. There is one for each name or pattern. */
declare class Subscription<E extends EventMap = Record<string, unknown>> extends Channel<E> {
    #private;
    /** `pending` until the server has confirmed it, on each connection anew. */
    get state(): SubscriptionState;
    /** Whether the last reconnect missed nothing; undefined where that is no question, or not known yet. */
    get recovered(): boolean | undefined;
    /** What of the channel is wanted now. */
    get view(): View;
    /** The live table of an entity channel. */
    get entities(): Entities<E>;
    /**
     * Resolves when the server has confirmed the subscription as it is wanted now: whatever is published after that
     * arrives. Rejects when it is refused. A new promise after each change and each reconnect.
     */
    get ready(): Promise<void>;
    /**
     * Replaces the filter (`null`: none) on the live subscription, and resolves when it, or a newer change, is in force.
     * A bad one rejects with `FILTER_INVALID`, and the old one stays.
     */
    filter(expression: string | null): Promise<void>;
    /**
     * Replaces the area (`null`: none), as `filter` does the filter. It may be called on every frame: one change is out at
     * a time, and the newest follows it.
     */
    area(area: Area | null): Promise<void>;
    /** @deprecated `filter` does the same. */
    setFilter(filter: string | null): Promise<void>;
    /** No handler is called from now on. Resolves when the server has confirmed it. */
    unsubscribe(): Promise<void>;
}

/**
 * The live table of an entity channel: what the server shows of it, in the state that it last told. A snapshot takes
 * effect as a whole, so nobody sees half of one. Who is subscribed to what is `subscriptions.ts`'s business.
 */

/** One entity in its last state. It is never changed: each update makes a new one. `event` narrows `data`. */
type Entity<E extends EventMap = Record<string, unknown>> = {
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
type LeaveReason = "view" | "removed" | "reset" | "unsubscribed";
/** All entities of one channel that are in view. Handlers are called after the table has changed. */
declare class Entities<E extends EventMap = Record<string, unknown>> {
    #private;
    /** What it belongs to: for `area()`, `filter()` and `unsubscribe()`. */
    readonly subscription: Subscription<E>;
    get size(): number;
    get(key: string): Entity<E> | undefined;
    has(key: string): boolean;
    [Symbol.iterator](): IterableIterator<Entity<E>>;
    /** True from a loss (or the beginning) until the next snapshot is complete: what is here may be out of date. */
    get stale(): boolean;
    /**
     * Resolves when the table is complete. Rejects when it will not be; with `TIMEOUT` where the server tells nothing of
     * one: the channel may not be `kind = "entity"`. A new promise after each loss, and for a table that comes late. Where
     * the class has `area_required` and the subscription no area the table is empty, and the client's `error` event says so.
     */
    get synced(): Promise<void>;
    /** Calls back when one comes into view; the returned function removes the handler. */
    onEnter(handler: (entity: Entity<E>) => void): Unlisten;
    /** Calls back for each new state of one that is in view; the returned function removes the handler. */
    onUpdate(handler: (entity: Entity<E>, previous: Entity<E>) => void): Unlisten;
    /** Calls back with the last state of one that is not in view any more; the returned function removes the handler. */
    onLeave(handler: (entity: Entity<E>, reason: LeaveReason) => void): Unlisten;
    /** Calls back when a snapshot has taken effect, behind what it changed; the returned function removes the handler. */
    onReset(handler: () => void): Unlisten;
}

/**
 * Publishing: what is in flight, and what waits for a connection. Both are bounded, and order is kept. Nothing is sent
 * twice, except what the server did not act on, and what has an idempotency key while the server remembers that.
 *
 *   queued ──▶ in flight ──▶ settled
 *     ▲            │ outcome unknown, and a key to repeat it by
 *     └────────────┘
 */

interface QueueOptions {
    /** Publishes that wait for a connection (default 128; 0 turns the queue off). */
    maxMessages?: number;
    /** Their size on the wire together (default 256 KiB). */
    maxBytes?: number;
}
interface PublishOptions {
    /** The entity's key, on entity channels. */
    key?: string;
    /**
     * On channels with history: if the answer is lost, the publish is repeated for up to 90 s, and happens once. Without
     * it such a publish rejects with the outcome `unknown`. Channels without history refuse it (`UNSUPPORTED`).
     */
    retry?: boolean;
    /** As `retry`, with a key of yours (at most 64 bytes), so that you can repeat it yourself, within two minutes. */
    idempotencyKey?: string;
    /**
     * How long to wait for the answer, waiting in the queue included (default: the client's `publishTimeoutMs`; 90 s with
     * `retry` or an `idempotencyKey`).
     */
    timeoutMs?: number;
    /** False: reject with `NOT_CONNECTED` rather than wait for a connection. */
    queue?: boolean;
}
/** The server's answer: Redis has taken it. */
interface Published {
    channel: string;
    /** Its number, for logged events. */
    offset?: number;
    /** What the game logic replied. */
    result?: unknown;
    /** The server has lost its Redis, and delivered the event on its own node alone (`when_broker_down = "local"`). */
    local?: boolean;
}

/** What is read of a channel once: its history and who is there, a page at a time. It owns its waits. */

interface HistoryOptions {
    /** Reads what follows this position; absent: the newest. */
    since?: Position;
    /** Events to read; the server may answer with fewer. */
    limit?: number;
}
interface History<Event = ChannelEvent> {
    channel: string;
    epoch: string;
    /** The oldest first. */
    events: Event[];
    /** The `since` of the following page; absent at the end. */
    next?: Position;
    /** Events after `since` are no longer kept, or its epoch is not known: these are the oldest that are. */
    gap?: boolean;
}
interface PresenceOptions {
    /** The `next` of the page before. */
    after?: string;
    /** Players to read; at most 1,000 come. */
    limit?: number;
}
interface Presence {
    channel: string;
    /** In the order of their ids, each with the number of its connections. */
    players: {
        player: string;
        connections: number;
    }[];
    /** Players on the channel, on all pages. */
    total: number;
    /** The `after` of the following page; absent at the end. */
    next?: string;
}

/**
 * The client as an application sees it. It joins the parts and tells what happens; each part's rules are in its own
 * file: the link, subscriptions, publishing, tokens, the clock.
 */

interface DrawbridgeOptions {
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
interface Logger {
    warn(message: string): void;
    error(error: unknown): void;
}
/**
 * `connecting`: no connection, but one is on its way. `open`. `degraded`: connected, but the server has lost its
 * Redis for now. `closed`: not started, closed, or refused for good.
 */
type Status = "connecting" | "open" | "degraded" | "closed";
interface StatusChange {
    status: Status;
    previous: Status;
    /** Why, where something failed. */
    error?: DrawbridgeError;
    /** When the next attempt is due, while `connecting` after a failure. */
    retryInMs?: number;
}
/** What the server says on connecting. */
interface Welcome {
    connection: string;
    session: string;
    resumed: boolean;
    player: string;
    node: string;
    heartbeatMs: number;
    limits: {
        messageBytes?: number;
        subscriptions?: number;
    };
}
interface ClientEvents {
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
    goodbye: {
        reason: string;
        reconnectInMs: number;
    };
    subscribed: SubscriptionInfo;
    unsubscribed: Unsubscribed;
    /** What goes wrong, publishes excepted: their promises tell. Without a listener it goes to the console. */
    error: DrawbridgeError;
}
declare class Drawbridge<M extends ChannelMap = AnyChannels> {
    #private;
    /** The server's clock. */
    readonly clock: Clock;
    /** Nothing is dialled before `connect()`. In a browser `url` may be relative to the page. */
    constructor(url: string | URL, options?: DrawbridgeOptions);
    get status(): Status;
    /** The last change of `status`, with its reason: another object after each. */
    get statusChange(): StatusChange;
    /** Of the present connection; undefined while there is none. */
    get welcome(): Welcome | undefined;
    /** The player id that the token names; undefined while there is no connection. */
    get player(): string | undefined;
    /** All that is or should be subscribed: by this client, by the server's templates, by services. */
    get subscriptions(): SubscriptionInfo[];
    /** Publishes that wait for a connection. */
    get queued(): number;
    /**
     * Connects, and from then on stays connected until `close()` or a refusal. Resolves with the first `WELCOME`;
     * rejects when the server refuses for good. Called while waiting to reconnect, it tries at once.
     */
    connect(): Promise<Welcome>;
    /** Ends the session. Subscriptions stay wanted, should `connect()` be called again. */
    close(): void;
    /** Calls back on what happens to the client; the returned function removes the handler. */
    on<K extends keyof ClientEvents>(name: K, listener: (event: ClientEvents[K]) => void): Unlisten;
    /** Calls back on the next one only; the returned function removes the handler before that. */
    once<K extends keyof ClientEvents>(name: K, listener: (event: ClientEvents[K]) => void): Unlisten;
    /**
     * Subscribes to a channel, or with `*`, `?` or `[…]` to all channels that match. It holds over reconnects. The same
     * name again is the same subscription; a `filter` or `area` named then replaces the old one (`null`: none).
     */
    subscribe<C extends ChannelName<M>>(channel: C, options?: ViewOptions): Subscription<EventsOf<M, C>>;
    /** Subscribes to an entity channel, and gives its live table; `subscription` is beside it. */
    entities<C extends ChannelName<M>>(channel: C, options?: ViewOptions): Entities<EventsOf<M, C>>;
    /** Ends whatever subscription there is by that name, a template's or a service's too. */
    unsubscribe(channel: ChannelName<M>): Promise<void>;
    /**
     * Listens without subscribing: for channels that the server subscribes the player to. A handle without handlers costs
     * nothing, so removing them is enough.
     */
    channel<C extends ChannelName<M>>(channel: C): Channel<EventsOf<M, C>>;
    /** Removes all handlers of what `channel` returned. */
    forget(handle: Channel<any>): void;
    /**
     * Publishes, and resolves when Redis has taken it. Rejects with a `DrawbridgeError` whose `outcome` says whether it
     * may have happened all the same. Without a connection it waits in the offline queue.
     */
    publish<C extends ChannelName<M>, N extends EventName<EventsOf<M, C>>>(channel: C, event: N, ...dataAndOptions: PublishArguments<PayloadOf<M, C, N>, PublishOptions>): Promise<Published>;
    /**
     * A page of a channel's history: the newest events, or those that follow `since`; the oldest first. The right is that
     * to subscribe, and the views of the server apply.
     */
    history<C extends ChannelName<M>>(channel: C, options?: HistoryOptions): Promise<History<AnyEvent<EventsOf<M, C>>>>;
    /** The pages that follow `since`, until the present: `for await (const { events } of game.historyPages(…))`. */
    historyPages<C extends ChannelName<M>>(channel: C, options?: HistoryOptions): AsyncGenerator<History<AnyEvent<EventsOf<M, C>>>, void, undefined>;
    /** A page of the players who are on a channel, in the order of their ids. */
    presence(channel: ChannelName<M>, options?: PresenceOptions): Promise<Presence>;
    /** All pages: `for await (const { players } of game.presencePages(…))`. */
    presencePages(channel: ChannelName<M>, options?: PresenceOptions): AsyncGenerator<Presence, void, undefined>;
}
/** A client that is already connecting. What goes wrong for good is told by `status`. */
declare function connect<M extends ChannelMap = AnyChannels>(url: string | URL, options?: DrawbridgeOptions): Drawbridge<M>;

/**
 * The glob rules of Redis' `PSUBSCRIBE`, so that an event finds the pattern subscriptions that it belongs to.
 * As in Redis, the unit is the byte of UTF-8: `?` is one byte, and so is a member of a class.
 */
/** Whether a channel name is a pattern. */
declare function isPattern(channel: string): boolean;
/** A test for one pattern. */
declare function globMatcher(pattern: string): (channel: string) => boolean;

export { Channel, Clock, Drawbridge, DrawbridgeError, Entities, Subscription, connect, globMatcher, isPattern, json };
export type { AnyChannels, AnyEvent, Area, ChannelEvent, ChannelMap, ChannelName, ClientErrorCode, ClientEvents, Codec, DrawbridgeOptions, Entity, ErrorCode, ErrorDetails, EventMap, EventName, EventsOf, History, HistoryOptions, LeaveReason, Logger, Outcome, PageSignal, PayloadOf, Position, Presence, PresenceChange, PresenceOptions, PublishArguments, PublishOptions, Published, QueueOptions, ReconnectOptions, Recovered, Resync, Runtime, ServerErrorCode, Status, StatusChange, SubscriptionInfo, SubscriptionState, TokenProvider, TokenReason, Unlisten, Unsubscribed, View, ViewOptions, WebSocketConstructor, WebSocketLike, Welcome };
