/** The one error that this library rejects with. It owns the mapping from the wire; who causes one is not its business. */

import type { ErrorMessage } from "./messages.js";

/** What the server says (contract §8). */
export type ServerErrorCode =
  | "BAD_MESSAGE"
  | "UNSUPPORTED"
  | "UNAUTHENTICATED"
  | "TOKEN_EXPIRED"
  | "FORBIDDEN"
  | "CHANNEL_INVALID"
  | "FILTER_INVALID"
  | "NOT_SUBSCRIBED"
  | "LIMIT_EXCEEDED"
  | "TOO_LARGE"
  | "RATE_LIMITED"
  | "REJECTED"
  | "LOGIC_UNAVAILABLE"
  | "BROKER_UNAVAILABLE"
  | "BROKER_REFUSED"
  | "INTERNAL";

/** What this client says by itself. */
export type ClientErrorCode =
  /** The link broke while the answer was out; the outcome is unknown. */
  | "CONNECTION_LOST"
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

export type ErrorCode = ServerErrorCode | ClientErrorCode | (string & {});

/** Whether a publish has happened: `not_done`, or `unknown` when its answer never came. */
export type Outcome = "not_done" | "unknown";

export interface ErrorDetails {
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

export class DrawbridgeError extends Error {
  // On the prototype, so that the first line of `stack` has it, also from a minified bundle.
  static {
    Object.defineProperty(this, "name", { value: "DrawbridgeError" });
    Object.defineProperty(this.prototype, "name", { value: "DrawbridgeError", writable: true, configurable: true });
  }

  readonly code: ErrorCode;
  /** Whether asking for the same again, later, can succeed. */
  readonly retryable: boolean;
  /** Where the server names a time, for `RATE_LIMITED` say: when to ask again. */
  declare readonly retryAfterMs?: number;
  /** For publishes. */
  declare readonly outcome?: Outcome;
  /** For `REJECTED`: the game logic's word. */
  declare readonly reason?: string;
  /** The channel concerned. */
  declare readonly channel?: string;
  /** For `FILTER_INVALID`: a byte offset into the expression. */
  declare readonly position?: number;
  /** What would be right, or what to look at. */
  declare readonly hint?: string;
  /** The WebSocket close code, where a close is the reason. */
  declare readonly closeCode?: number;

  constructor(code: ErrorCode, message: string, { cause, retryable = false, ...details }: ErrorDetails = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.retryable = retryable;
    // Only what there is, so that a printed error shows nothing else.
    for (const [name, value] of Object.entries(details)) if (value !== undefined) Object.assign(this, { [name]: value });
    // A browser's console prints the stack and no fields: its first line names the code and the channel.
    const { channel } = details;
    if (this.stack) this.stack = this.stack.replace(message, () => `${code}: ${message}${channel === undefined ? "" : ` (${channel})`}`);
  }

  /** @internal */
  static fromWire(message: ErrorMessage): DrawbridgeError {
    return new DrawbridgeError(message.code, message.message, {
      retryable: message.retryable,
      retryAfterMs: message.retry_after_ms,
      outcome: message.outcome,
      reason: message.reason,
      channel: message.channel,
      position: message.position,
      hint: message.hint,
    });
  }
}

/**
 * @internal The answer to a publish: the server says an `outcome` only where a doubt is possible. `outcome`: what is
 * known of it from before.
 */
export function publishRefused(error: DrawbridgeError, outcome = error.outcome ?? "not_done"): DrawbridgeError {
  return error.outcome === outcome ? error : new DrawbridgeError(error.code, error.message, { ...error, outcome });
}

/** @internal The link broke with a request out. */
export function connectionLost(closeCode?: number): DrawbridgeError {
  const message = "the connection was lost before the answer came";
  return new DrawbridgeError("CONNECTION_LOST", message, { retryable: true, outcome: "unknown", closeCode });
}
