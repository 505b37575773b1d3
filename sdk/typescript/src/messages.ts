/**
 * The contract's messages as types: what this client sends and what it understands. Unknown types and fields of a
 * newer server pass by unseen. Names on the wire are kept here as they are; the public API uses camelCase.
 */

import type { Position } from "./cursors.js";
import type { View, ViewOptions } from "./view.js";

/** One subscription as the client asks for it. */
export interface SubscribeRequest extends View {
  channel: string;
}

/** The session to go on with, and how far this client has come on each channel. `session` is a credential. */
export interface ResumeRequest {
  session: string;
  positions: Record<string, Position>;
}

/** What a connection begins with. */
export interface Hello {
  subscribe?: SubscribeRequest[];
  resume?: ResumeRequest;
}

/** Without its `id`. */
export type ReadRequest =
  | { type: "HISTORY_GET"; channel: string; since?: Position; limit?: number }
  | { type: "PRESENCE_GET"; channel: string; after?: string; limit?: number };

export type ClientMessage =
  | ({ type: "CONNECT"; id: number; token?: string } & Hello)
  | (ReadRequest & { id: number })
  | { type: "TOKEN_REFRESH"; id: number; token: string }
  | ({ type: "CHANNEL_SUBSCRIBE"; id: number } & SubscribeRequest)
  | { type: "CHANNEL_UNSUBSCRIBE"; id: number; channel: string }
  | ({ type: "FILTER_UPDATE"; id: number; channel: string } & ViewOptions)
  | {
      type: "PUBLISH_EVENT";
      id: number;
      channel: string;
      event: string;
      data?: unknown;
      key?: string;
      idempotency_key?: string;
    }
  | { type: "PING"; id: number; t: number };

export interface WireSubscription {
  channel: string;
  auto?: boolean;
  pending?: boolean;
  pattern?: boolean;
  epoch?: string;
  offset?: number;
  /** Of a resumed session: whether nothing is missing. Absent where that is no question (entity channels, new ones). */
  recovered?: boolean;
}

export interface WelcomeMessage {
  type: "WELCOME";
  id?: number;
  connection: string;
  session: string;
  resumed: boolean;
  player: string;
  node: string;
  server_time_ms: number;
  heartbeat_ms: number;
  resume_window_ms: number;
  limits?: { message_bytes?: number; subscriptions?: number };
  subscriptions?: WireSubscription[];
}

export interface SubscribedMessage extends WireSubscription {
  type: "CHANNEL_SUBSCRIBED";
  id?: number;
  by?: string;
}

export interface UnsubscribedMessage {
  type: "CHANNEL_UNSUBSCRIBED";
  id?: number;
  channel: string;
  reason: string;
  by?: string;
}

export interface EventMessage {
  type: "EVENT";
  channel: string;
  event: string;
  data?: unknown;
  from?: string;
  offset?: number;
  epoch?: string;
  ts?: number;
  key?: string;
  tags?: unknown;
  encoding?: string;
}

/** The last state of an entity. */
export interface WireEntity {
  key: string;
  event: string;
  data?: unknown;
  from?: string;
  tags?: unknown;
  ts?: number;
  encoding?: string;
}

/** Entities that come into view. A snapshot begins with `reset`, and its last message is `complete`. */
export interface ViewEnterMessage {
  type: "VIEW_ENTER";
  channel: string;
  reset?: boolean;
  complete: boolean;
  /** Why nothing is shown: `area_required`, where the class shows nothing without an area and there is none. */
  reason?: string;
  entities: WireEntity[];
}

export interface ViewLeaveMessage {
  type: "VIEW_LEAVE";
  channel: string;
  keys: string[];
  reason: string;
}

export interface PublishedMessage {
  type: "EVENT_PUBLISHED";
  id: number;
  channel: string;
  offset?: number;
  result?: unknown;
  local?: boolean;
}

export interface HistoryMessage {
  type: "HISTORY";
  id: number;
  channel: string;
  epoch: string;
  events: (Omit<EventMessage, "type" | "channel"> & { channel?: string })[];
  next?: Position;
  gap?: boolean;
}

export interface PresenceMessage {
  type: "PRESENCE";
  id: number;
  channel: string;
  players: { player: string; connections: number }[];
  total: number;
  next?: string;
}

export interface PresenceChangedMessage {
  type: "PRESENCE_CHANGED";
  channel: string;
  joined?: string[];
  left?: string[];
  reset?: boolean;
}

export interface ResyncMessage {
  type: "RESYNC";
  channel: string;
  reason: string;
  epoch?: string;
  offset?: number;
}

export interface ErrorMessage {
  type: "ERROR";
  id?: number;
  code: string;
  message: string;
  retryable?: boolean;
  retry_after_ms?: number;
  channel?: string;
  outcome?: "not_done" | "unknown";
  reason?: string;
  position?: number;
  hint?: string;
}

export type ServerMessage =
  | WelcomeMessage
  | SubscribedMessage
  | UnsubscribedMessage
  | EventMessage
  | ViewEnterMessage
  | ViewLeaveMessage
  | PublishedMessage
  | ResyncMessage
  | HistoryMessage
  | PresenceMessage
  | PresenceChangedMessage
  | { type: "POSITION"; channel: string; epoch: string; offset: number }
  | ErrorMessage
  | { type: "FILTER_UPDATED"; id: number; channel: string }
  | { type: "TOKEN_REFRESHED"; id: number; expires_ms?: number }
  | { type: "PONG"; id: number; t?: number; server_time_ms: number }
  | { type: "STATUS"; broker: string }
  | { type: "GOODBYE"; reason: string; reconnect_in_ms: number };

/** The messages of one WebSocket frame: one object, or an array of them. Throws on anything else. */
export function messagesOf(decoded: unknown): ServerMessage[] {
  const list: unknown[] = Array.isArray(decoded) ? decoded : [decoded];
  for (const item of list) {
    if (typeof (item as { type?: unknown } | null)?.type !== "string") throw new TypeError("a message without a type");
  }
  return list as ServerMessage[];
}
