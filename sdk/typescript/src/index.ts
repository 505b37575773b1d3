/** What `@drawbridge/client` offers. */

export type { ReconnectOptions } from "./backoff.js";
export { connect, Drawbridge } from "./client.js";
export type { ClientEvents, DrawbridgeOptions, Logger, Status, StatusChange, Welcome } from "./client.js";
export type { Clock } from "./clock.js";
export { json } from "./codec.js";
export type { Codec } from "./codec.js";
export type { Position } from "./cursors.js";
export type { Unlisten } from "./emitter.js";
export type { Entities, Entity, LeaveReason } from "./entities.js";
export { DrawbridgeError } from "./errors.js";
export type { ClientErrorCode, ErrorCode, ErrorDetails, Outcome, ServerErrorCode } from "./errors.js";
export type { AnyChannels, AnyEvent, Channel, ChannelEvent, ChannelMap, ChannelName, EventMap, EventName, EventsOf, PayloadOf, PresenceChange, PublishArguments, Recovered, Resync } from "./events.js";
export { globMatcher, isPattern } from "./glob.js";
export type { PageSignal } from "./page.js";
export type { Published, PublishOptions, QueueOptions } from "./publisher.js";
export type { History, HistoryOptions, Presence, PresenceOptions } from "./reads.js";
export type { Runtime, WebSocketConstructor, WebSocketLike } from "./runtime.js";
export type { Subscription, SubscriptionInfo, SubscriptionState, Unsubscribed } from "./subscriptions.js";
export type { TokenProvider, TokenReason } from "./token.js";
export type { Area, View, ViewOptions } from "./view.js";
