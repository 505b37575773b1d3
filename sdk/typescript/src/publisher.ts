/**
 * Publishing: what is in flight, and what waits for a connection. Both are bounded, and order is kept. Nothing is sent
 * twice, except what the server did not act on, and what has an idempotency key while the server remembers that.
 *
 *   queued ──▶ in flight ──▶ settled
 *     ▲            │ outcome unknown, and a key to repeat it by
 *     └────────────┘
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
export interface Published {
  channel: string;
  /** Its number, for logged events. */
  offset?: number;
  /** What the game logic replied. */
  result?: unknown;
  /** The server has lost its Redis, and delivered the event on its own node alone (`when_broker_down = "local"`). */
  local?: boolean;
}

/** Publishes whose answers are out. */
const MAX_IN_FLIGHT = 1024;
/** The wait before a queued publish is sent again where the rate limit names none. */
const RETRY_MS = 1_000;
/** Of the queue: enough that it empties faster than a game fills it, over a slow network too. */
const MAX_WINDOW = 32;
/** The server remembers a key for two minutes; the rest is for what is still on its way. */
const REPEAT_MS = 90_000;

interface Publish {
  /** In the order of `publish`. */
  id: number;
  channel: string;
  /** Has an idempotency key. */
  repeatable: boolean;
  firstSent?: { at: number; wallAt: number };
  /** It was sent once, and whether it was done then is unknown. */
  doubtful: boolean;
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
  /** Those of the queue whose answers are out. */
  readonly #sent = new Set<Publish>();
  /** How many of the queue may be out. */
  #window = 1;
  /** The rate limit asked to wait. */
  #resting = false;
  /** The connection is about to be replaced: nothing more goes out on this one. */
  #held = false;
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
      const direct = this.link.open && this.#queue.length === 0 && !this.#held;
      const refusal = this.#tooLarge(publish) ?? (direct ? this.#noRoomInFlight() : this.#noRoomInQueue(publish, options, coming));
      if (refusal) return reject(refusal);
      const timeoutMs = options.timeoutMs ?? (publish.repeatable ? REPEAT_MS : this.timeoutMs);
      publish.deadline.set(timeoutMs, () => this.#late(publish));
      if (direct) return this.#send(publish, (answer) => this.#answered(publish, answer));
      this.#queue.push(publish);
      this.#queuedBytes += publish.bytes;
      this.#flush();
    });
  }

  /** A connection is open: what waited goes out. */
  opened(maxMessageBytes: number | undefined): void {
    this.maxMessageBytes = maxMessageBytes ?? Infinity;
    this.#window = 1;
    this.hold(false);
  }

  /** While held, publishes wait in the queue, although there is a connection. */
  hold(held: boolean): void {
    this.#held = held && this.#maxMessages > 0;
    this.#flush();
  }

  lost(): void {
    this.#retry.clear();
    this.#resting = false;
    this.#held = false;
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
    const key = options.idempotencyKey ?? (options.retry ? this.runtime.uniqueKey() : undefined);
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
        ...(key !== undefined && { idempotency_key: key }),
      });
    } catch (cause) {
      const why = cause instanceof Error ? `: ${cause.message}` : "";
      throw refused("BAD_MESSAGE", `\`data\` cannot be encoded${why}`, { cause });
    }
    const deadline = new Timer(this.runtime);
    return { id, channel, repeatable: key !== undefined, doubtful: false, frame, bytes: sizeOf(frame), deadline, resolve, reject };
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
    publish.firstSent ??= { at: this.runtime.now(), wallAt: this.runtime.wallNow() };
    this.#inFlight++;
    this.requests.expect(publish.id, (answer) => {
      this.#inFlight--;
      onAnswer(answer);
    });
    this.link.sendFrame(publish.frame);
  }

  /**
   * One, and twice as many with each round that the server took, so that a crowd that comes back does not flood it. New
   * publishes wait behind. A rate limit refuses all that are sent together from some point on, so the order stays.
   */
  #flush(): void {
    for (const publish of [...this.#queue]) {
      if (this.#sent.size >= this.#window || this.#resting || this.#held || !this.link.open) return;
      if (this.#sent.has(publish) || !this.#queue.includes(publish)) continue;
      const isTooOld = publish.doubtful && this.#repeatableMs(publish) <= 0;
      const refusal = this.#tooLarge(publish) ?? (isTooOld ? late(publish) : undefined);
      if (refusal) {
        this.#dequeue(publish);
        this.#settle(publish, refusal);
        continue;
      }
      this.#sent.add(publish);
      this.#send(publish, (answer) => this.#queueAnswered(publish, answer));
    }
  }

  #queueAnswered(publish: Publish, answer: ServerMessage | DrawbridgeError): void {
    this.#sent.delete(publish);
    if (answer instanceof DrawbridgeError && answer.code === "RATE_LIMITED") {
      this.#window = 1;
      return this.#rest(answer.retryAfterMs ?? RETRY_MS);
    }
    this.#window = Math.min(this.#window + 1, MAX_WINDOW);
    this.#dequeue(publish);
    this.#answered(publish, answer);
    this.#flush();
  }

  #answered(publish: Publish, answer: ServerMessage | DrawbridgeError): void {
    const unknown = answer instanceof DrawbridgeError && answer.outcome === "unknown";
    if (unknown && publish.repeatable && answer.code !== "TIMEOUT") this.#repeat(publish, answer);
    else this.#settle(publish, answer);
  }

  /** Back into the queue, before what was published later. It was accepted already, so no bound refuses it. */
  #repeat(publish: Publish, cause: DrawbridgeError): void {
    publish.doubtful = true;
    const leftMs = this.#repeatableMs(publish);
    if (leftMs <= 0) return this.#settle(publish, cause);
    publish.deadline.shorten(leftMs);
    const at = this.#queue.findIndex(({ id }) => id > publish.id);
    this.#queue.splice(at < 0 ? this.#queue.length : at, 0, publish);
    this.#queuedBytes += publish.bytes;
    // The connection is there, but Redis is away.
    if (this.link.open) this.#rest(cause.retryAfterMs ?? RETRY_MS);
  }

  /** How much longer it may be repeated. Of two clocks, the one that saw more time pass: one may stand still in a sleep. */
  #repeatableMs({ firstSent }: Publish): number {
    if (!firstSent) return REPEAT_MS;
    return REPEAT_MS - Math.max(this.runtime.now() - firstSent.at, this.runtime.wallNow() - firstSent.wallAt);
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
    if (answer instanceof DrawbridgeError) return publish.reject(publishRefused(answer, publish.doubtful ? "unknown" : undefined));
    const { offset, result, local } = answer as PublishedMessage;
    publish.resolve({
      channel: publish.channel,
      ...(offset !== undefined && { offset }),
      ...(result !== undefined && { result }),
      ...(local && { local }),
    });
  }

  #late(publish: Publish): void {
    const unsent = this.#queue.includes(publish) && !this.#sent.has(publish);
    const error = late(publish, unsent && !publish.doubtful ? "not_done" : "unknown");
    if (unsent) this.#finish(publish, error);
    else this.requests.abandon(publish.id, error);
  }
}

function late({ channel }: Publish, outcome: Outcome = "unknown"): DrawbridgeError {
  return new DrawbridgeError("TIMEOUT", "no answer in time", { retryable: true, outcome, channel });
}

function closed(cause: DrawbridgeError): DrawbridgeError {
  return refused("CLOSED", cause.message, { closeCode: cause.closeCode, cause });
}

function refused(code: string, message: string, details: { retryable?: boolean; closeCode?: number | undefined; cause?: unknown } = {}) {
  return new DrawbridgeError(code, message, { ...details, outcome: "not_done" });
}
