/**
 * Publishing: what is in flight, and what waits for a connection. Both are bounded. Nothing is ever sent twice by
 * itself, save what the server said it did not act on; order is kept.
 */

import { sizeOf, type Codec } from "./codec.js";
import { DrawbridgeError, publishRefused, type Outcome } from "./errors.js";
import type { Link } from "./link.js";
import type { PublishedMessage, ServerMessage } from "./messages.js";
import type { Requests } from "./requests.js";
import { Timer, type Runtime } from "./runtime.js";

export interface QueueOptions {
  /** Publishes that wait for a connection (default 128; 0 turns the queue off). */
  maxMessages?: number;
  /** Their size on the wire together (default 256 KiB). */
  maxBytes?: number;
}

export interface PublishOptions {
  /** The entity's key, on entity channels. */
  key?: string;
  /** Makes a repeat safe on logged channels and in rooms. */
  idempotencyKey?: string;
  /** How long to wait for the answer, waiting in the queue included (default: the client's `publishTimeoutMs`). */
  timeoutMs?: number;
  /** False: reject with `NOT_CONNECTED` rather than wait for a connection. */
  queue?: boolean;
}

/** The server's answer: Redis has taken it. */
export interface Published {
  channel: string;
  /** Its number, for logged events. */
  offset?: number;
  /** What the game logic replied. */
  result?: unknown;
}

/** Publishes whose answers are out. */
const MAX_IN_FLIGHT = 1024;
/** The wait before a queued publish is sent again where the rate limit names none. */
const RETRY_MS = 1_000;

interface Publish {
  id: number;
  channel: string;
  frame: string | Uint8Array<ArrayBuffer>;
  bytes: number;
  deadline: Timer;
  resolve(published: Published): void;
  reject(error: DrawbridgeError): void;
}

export class Publisher {
  /** Oldest first. */
  readonly #queue: Publish[] = [];
  #queuedBytes = 0;
  /** The queue's head, while its answer is out. */
  #sent: Publish | undefined;
  /** The rate limit asked to wait. */
  #resting = false;
  #inFlight = 0;
  /** Why the last connection was the last one. */
  #end: DrawbridgeError | undefined;
  readonly #retry: Timer;
  readonly #maxMessages: number;
  readonly #maxBytes: number;
  /** The server's `limits.message_bytes`. */
  maxMessageBytes = Infinity;

  constructor(
    private readonly link: Link,
    private readonly requests: Requests,
    private readonly codec: Codec,
    private readonly runtime: Runtime,
    private readonly timeoutMs: number,
    options: QueueOptions = {},
  ) {
    this.#retry = new Timer(runtime);
    this.#maxMessages = options.maxMessages ?? 128;
    this.#maxBytes = options.maxBytes ?? 256 * 1024;
  }

  get queued(): number {
    return this.#queue.length;
  }

  /** `coming`: whether a connection is there or on its way. */
  publish(channel: string, event: string, data: unknown, options: PublishOptions, coming: boolean): Promise<Published> {
    return new Promise((resolve, reject) => {
      const publish = this.#encode(channel, event, data, options, resolve, reject);
      const direct = this.link.open && this.#queue.length === 0;
      const refusal = this.#tooLarge(publish) ?? (direct ? this.#noRoomInFlight() : this.#noRoomInQueue(publish, options, coming));
      if (refusal) return reject(refusal);
      publish.deadline.set(options.timeoutMs ?? this.timeoutMs, () => this.#late(publish));
      if (direct) return this.#send(publish, (answer) => this.#settle(publish, answer));
      this.#queue.push(publish);
      this.#queuedBytes += publish.bytes;
      this.#flush();
    });
  }

  /** A connection is open: what waited goes out. */
  opened(maxMessageBytes: number | undefined): void {
    this.maxMessageBytes = maxMessageBytes ?? Infinity;
    this.#flush();
  }

  lost(): void {
    this.#retry.clear();
    this.#resting = false;
  }

  /** No connection will come: what waits is refused. */
  abandoned(cause: DrawbridgeError): void {
    this.lost();
    this.#end = cause;
    for (const publish of this.#queue.splice(0)) {
      this.#queuedBytes -= publish.bytes;
      this.#settle(publish, closed(cause));
    }
  }

  #encode(
    channel: string,
    event: string,
    data: unknown,
    options: PublishOptions,
    resolve: (published: Published) => void,
    reject: (error: DrawbridgeError) => void,
  ): Publish {
    const id = this.requests.nextId();
    let frame: string | Uint8Array<ArrayBuffer>;
    try {
      // Now, so that a later change of `data` does not show.
      frame = this.codec.encode({
        type: "PUBLISH_EVENT",
        id,
        channel,
        event,
        ...(data !== undefined && { data }),
        ...(options.key !== undefined && { key: options.key }),
        ...(options.idempotencyKey !== undefined && { idempotency_key: options.idempotencyKey }),
      });
    } catch (cause) {
      const why = cause instanceof Error ? `: ${cause.message}` : "";
      throw refused("BAD_MESSAGE", `\`data\` cannot be encoded${why}`, { cause });
    }
    return { id, channel, frame, bytes: sizeOf(frame), deadline: new Timer(this.runtime), resolve, reject };
  }

  #tooLarge(publish: Publish): DrawbridgeError | undefined {
    if (publish.bytes <= this.maxMessageBytes) return undefined;
    return refused("TOO_LARGE", `the message has ${publish.bytes} bytes; the server takes ${this.maxMessageBytes}`);
  }

  #noRoomInFlight(): DrawbridgeError | undefined {
    if (this.#inFlight < MAX_IN_FLIGHT && !this.link.congested) return undefined;
    return refused("QUEUE_FULL", "too much is in flight", { retryable: true });
  }

  #noRoomInQueue(publish: Publish, options: PublishOptions, coming: boolean): DrawbridgeError | undefined {
    if (!coming && this.#end) return closed(this.#end);
    const off = options.queue === false || this.#maxMessages === 0;
    if (!this.link.open && (off || !coming)) return refused("NOT_CONNECTED", "there is no connection", { retryable: true });
    if (this.#queue.length < this.#maxMessages && this.#queuedBytes + publish.bytes <= this.#maxBytes) return undefined;
    return refused("QUEUE_FULL", "the offline queue is full", { retryable: true });
  }

  #send(publish: Publish, onAnswer: (answer: ServerMessage | DrawbridgeError) => void): void {
    this.#inFlight++;
    this.requests.expect(publish.id, (answer) => {
      this.#inFlight--;
      onAnswer(answer);
    });
    this.link.sendFrame(publish.frame);
  }

  /**
   * One at a time: so the order stays even where the rate limit refuses one, and a crowd that comes back does not
   * flood the server. New publishes wait behind.
   */
  #flush(): void {
    const head = this.#queue[0];
    if (!head || this.#sent || this.#resting || !this.link.open) return;
    const refusal = this.#tooLarge(head);
    if (refusal) return this.#finish(head, refusal);
    this.#sent = head;
    this.#send(head, (answer) => {
      this.#sent = undefined;
      if (answer instanceof DrawbridgeError && answer.code === "RATE_LIMITED") this.#rest(answer.retryAfterMs ?? RETRY_MS);
      else this.#finish(head, answer);
    });
  }

  #finish(head: Publish, answer: ServerMessage | DrawbridgeError): void {
    this.#dequeue(head);
    this.#settle(head, answer);
    this.#flush();
  }

  #rest(delayMs: number): void {
    this.#resting = true;
    this.#retry.set(delayMs, () => {
      this.#resting = false;
      this.#flush();
    });
  }

  #dequeue(publish: Publish): void {
    const index = this.#queue.indexOf(publish);
    if (index < 0) return;
    this.#queue.splice(index, 1);
    this.#queuedBytes -= publish.bytes;
  }

  #settle(publish: Publish, answer: ServerMessage | DrawbridgeError): void {
    publish.deadline.clear();
    if (answer instanceof DrawbridgeError) return publish.reject(publishRefused(answer));
    const { offset, result } = answer as PublishedMessage;
    publish.resolve({
      channel: publish.channel,
      ...(offset !== undefined && { offset }),
      ...(result !== undefined && { result }),
    });
  }

  #late(publish: Publish): void {
    const unsent = this.#queue.includes(publish) && this.#sent !== publish;
    const outcome: Outcome = unsent ? "not_done" : "unknown";
    const error = new DrawbridgeError("TIMEOUT", "no answer in time", { retryable: true, outcome, channel: publish.channel });
    if (unsent) this.#finish(publish, error);
    else this.requests.abandon(publish.id, error);
  }
}

function closed(cause: DrawbridgeError): DrawbridgeError {
  return refused("CLOSED", cause.message, { closeCode: cause.closeCode, cause });
}

function refused(code: string, message: string, details: { retryable?: boolean; closeCode?: number | undefined; cause?: unknown } = {}) {
  return new DrawbridgeError(code, message, { ...details, outcome: "not_done" });
}
