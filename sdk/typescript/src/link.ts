/**
 * One link that heals: it dials, says `CONNECT`, watches for silence, and comes back after a break, or stays away
 * where the close code says so. What the messages mean is its owner's business.
 */

import { Backoff, mayReconnect, STABLE_MS, TOKEN_EXPIRED_CLOSE, type ReconnectOptions } from "./backoff.js";
import type { Clock } from "./clock.js";
import type { Codec } from "./codec.js";
import { DrawbridgeError } from "./errors.js";
import { Liveness } from "./liveness.js";
import { messagesOf, type ClientMessage, type ServerMessage, type SubscribeRequest, type WelcomeMessage } from "./messages.js";
import type { Requests } from "./requests.js";
import { Timer, type Runtime, type WebSocketConstructor, type WebSocketLike } from "./runtime.js";
import type { TokenReason, Tokens } from "./token.js";

export interface LinkOptions {
  url: string;
  WebSocket: WebSocketConstructor;
  codec: Codec;
  reconnect: ReconnectOptions | undefined;
  connectTimeoutMs: number;
  pingIntervalMs: number | undefined;
  pongTimeoutMs: number;
}

export interface LinkOwner {
  /** What this connection should subscribe to in `CONNECT`. */
  hello(): SubscribeRequest[];
  welcomed(message: WelcomeMessage, token: string | undefined): void;
  received(message: ServerMessage): void;
  /** The link is down and will be tried again. Called for each failed attempt. */
  lost(error: DrawbridgeError, retryInMs: number): void;
  /** The link is down for good, until `start`. */
  ended(error: DrawbridgeError): void;
  /** Something odd that changes nothing. */
  complain(error: DrawbridgeError): void;
}

/** `WebSocket.OPEN`. */
const OPEN = 1;
/** Browsers let a page close with 1000 or 3000–4999; 1000 would end the session (contract §7). */
const ABANDON_CLOSE = 4002;
const GOODBYE_CLOSE = 4000;
/** `ws` and browsers say this when a connection breaks without a close frame. */
const ABNORMAL_CLOSE = 1006;
/** More than this unsent means that the network does not take what is published. */
const MAX_UNSENT_BYTES = 1024 * 1024;

/** One attempt, from asking for the token to the end of its socket. */
interface Attempt {
  token?: string | undefined;
  socket?: WebSocketLike;
  connectId?: number;
  connectSentAt: number;
  openedAt?: number;
  /** When `GOODBYE` asked to come back. */
  returnAt?: number;
  /** The last message, where that was an error of the connection as a whole. */
  fault?: DrawbridgeError | undefined;
  /** What the runtime says of a socket that could not be opened. */
  socketError?: string | undefined;
}

export class Link {
  readonly #backoff: Backoff;
  readonly #liveness: Liveness;
  readonly #timer: Timer;
  #attempt: Attempt | undefined;
  #waiting: (() => void) | undefined;

  constructor(
    private readonly options: LinkOptions,
    private readonly runtime: Runtime,
    private readonly clock: Clock,
    private readonly tokens: Tokens,
    private readonly requests: Requests,
    private readonly owner: LinkOwner,
  ) {
    this.#backoff = new Backoff(runtime, options.reconnect);
    this.#timer = new Timer(runtime);
    this.#liveness = new Liveness(
      runtime,
      clock,
      (t) => this.#ping(t),
      () => this.#lose(ABANDON_CLOSE, "no answer to PING"),
    );
  }

  /** Whether `WELCOME` has come and nothing ended the connection since. */
  get open(): boolean {
    return this.#attempt?.openedAt !== undefined;
  }

  /** Whether `CONNECT` is out and `WELCOME` is not yet here. */
  get greeting(): boolean {
    return this.#attempt?.connectId !== undefined && !this.open;
  }

  /** Whether the socket has taken more than it could send. */
  get congested(): boolean {
    return (this.#attempt?.socket?.bufferedAmount ?? 0) > MAX_UNSENT_BYTES;
  }

  /** Dials, or if it waits to come back, does so now. */
  start(): void {
    if (this.#attempt) return;
    void this.#dial(this.#waiting ? "reconnect" : "connect");
  }

  /** Ends the connection, and the session with it (1000). The owner is not told. */
  stop(): void {
    this.#stopWaiting();
    this.#drop(1000);
    this.#backoff.reset();
  }

  send(message: ClientMessage): void {
    this.sendFrame(this.options.codec.encode(message));
  }

  sendFrame(frame: string | Uint8Array<ArrayBuffer>): void {
    const socket = this.#attempt?.socket;
    // Of a socket that is closing the close event is on the way and settles everything that is out.
    if (socket?.readyState === OPEN) socket.send(frame);
  }

  async #dial(reason: TokenReason): Promise<void> {
    this.#stopWaiting();
    const attempt: Attempt = { connectSentAt: this.runtime.now() };
    this.#attempt = attempt;
    this.#timer.set(this.options.connectTimeoutMs, () => this.#lose(ABANDON_CLOSE, "no WELCOME in time"));
    try {
      attempt.token = await this.tokens.get(reason);
      if (this.#attempt === attempt) this.#openSocket(attempt);
    } catch (thrown) {
      if (this.#attempt !== attempt) return;
      if (thrown instanceof DrawbridgeError) this.#fail(thrown, ABNORMAL_CLOSE);
      else this.#end(new DrawbridgeError("CLOSED", "the WebSocket could not be created", { cause: thrown, hint: "a page over https needs wss:" }));
    }
  }

  #openSocket(attempt: Attempt): void {
    const socket = new this.options.WebSocket(this.options.url, [this.options.codec.subprotocol]);
    attempt.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#greet(attempt);
    socket.onmessage = (event: { data: string | ArrayBuffer }) => this.#receive(attempt, event.data);
    socket.onclose = (event: { code: number; reason: string }) => {
      if (this.#attempt === attempt) this.#lose(event.code || ABNORMAL_CLOSE, event.reason);
    };
    // A close event follows. Browsers keep the cause to themselves.
    socket.onerror = (event: { message?: string; error?: { code?: string } }) => {
      attempt.socketError = event?.message || event?.error?.code;
    };
  }

  #greet(attempt: Attempt): void {
    if (this.#attempt !== attempt) return;
    const subscribe = this.owner.hello();
    attempt.connectId = this.requests.nextId();
    attempt.connectSentAt = this.runtime.now();
    this.send({
      type: "CONNECT",
      id: attempt.connectId,
      ...(attempt.token !== undefined && { token: attempt.token }),
      ...(subscribe.length > 0 && { subscribe }),
    });
  }

  #receive(attempt: Attempt, frame: string | ArrayBuffer): void {
    if (this.#attempt !== attempt) return;
    this.#liveness.heard();
    let messages: ServerMessage[];
    try {
      messages = messagesOf(this.options.codec.decode(frame));
    } catch (cause) {
      return this.owner.complain(new DrawbridgeError("BAD_FRAME", "the server sent no message of the contract", { cause }));
    }
    for (const message of messages) {
      // A listener may have closed the client.
      if (this.#attempt !== attempt) return;
      this.#handle(attempt, message);
    }
  }

  #handle(attempt: Attempt, message: ServerMessage): void {
    const fault = message.type === "ERROR" && (message.id === undefined || message.id === attempt.connectId) && !message.channel;
    attempt.fault = fault ? DrawbridgeError.fromWire(message) : undefined;
    switch (message.type) {
      case "WELCOME":
        return this.#welcome(attempt, message);
      case "PONG":
        this.#liveness.answered(message.id, message.server_time_ms);
        return this.owner.received(message);
      case "ERROR":
        if (!this.#liveness.answered(message.id)) this.owner.received(message);
        return;
      case "GOODBYE":
        this.#goodbye(attempt, message.reconnect_in_ms);
        return this.owner.received(message);
      default:
        return this.owner.received(message);
    }
  }

  #welcome(attempt: Attempt, message: WelcomeMessage): void {
    if (attempt.openedAt !== undefined) return;
    attempt.openedAt = this.runtime.now();
    this.#timer.clear();
    this.clock.restart();
    this.clock.sample(attempt.connectSentAt, message.server_time_ms);
    const heartbeatMs = message.heartbeat_ms > 0 ? message.heartbeat_ms : 25_000;
    this.#liveness.start({
      intervalMs: this.options.pingIntervalMs ?? Math.min(heartbeatMs / 2, 10_000),
      timeoutMs: this.options.pongTimeoutMs,
    });
    this.owner.welcomed(message, attempt.token);
  }

  #ping(t: number): number {
    const id = this.requests.nextId();
    this.send({ type: "PING", id, t });
    return id;
  }

  /** The server names the moment to come back, spread over its clients; it closes by itself, or we do then. */
  #goodbye(attempt: Attempt, reconnectInMs: number): void {
    const delayMs = Math.max(Number(reconnectInMs) || 0, 0);
    attempt.returnAt = this.runtime.now() + delayMs;
    this.#timer.set(delayMs, () => this.#lose(GOODBYE_CLOSE, "drain"));
  }

  #lose(code: number, reason: string): void {
    this.#fail(closeError(this.#attempt, code, reason), code);
  }

  #fail(error: DrawbridgeError, code: number): void {
    const attempt = this.#attempt;
    const expired = code === TOKEN_EXPIRED_CLOSE;
    // A token that is not yet valid (`retryable`) may be valid later; one that has expired stays so.
    const tokenIsDead = expired && !this.tokens.renewable && !attempt?.fault?.retryable;
    if (!mayReconnect(code) || tokenIsDead) return this.#end(error);

    const delayMs = this.#delay(attempt, expired);
    this.#drop(ABANDON_CLOSE);
    const redial = () => void this.#dial(expired ? "expired" : "reconnect");
    this.#timer.set(delayMs, redial);
    this.#waiting = this.runtime.onOnline(redial);
    this.owner.lost(error, delayMs);
  }

  /** The wait before the next attempt. Never shorter than what the server asked for. */
  #delay(attempt: Attempt | undefined, expired: boolean): number {
    const now = this.runtime.now();
    const stable = attempt?.openedAt !== undefined && now - attempt.openedAt >= STABLE_MS;
    if (stable) this.#backoff.reset();
    if (attempt?.returnAt !== undefined) {
      // `GOODBYE` has spread the clients already. Who does not get in then waits over as long a time again.
      const delayMs = Math.max(attempt.returnAt - now, 0);
      this.#backoff.widen(delayMs);
      return delayMs;
    }
    if (stable && expired) return 0;
    const retryAfterMs = attempt?.fault?.retryAfterMs ?? 0;
    this.#backoff.widen(retryAfterMs);
    return retryAfterMs + this.#backoff.next();
  }

  #end(error: DrawbridgeError): void {
    this.stop();
    this.owner.ended(error);
  }

  #stopWaiting(): void {
    this.#waiting?.();
    this.#waiting = undefined;
    this.#timer.clear();
  }

  /** Forgets the socket at once: a half-open one would take long to say that it is closed. */
  #drop(closeCode: number): void {
    const socket = this.#attempt?.socket;
    this.#attempt = undefined;
    this.#timer.clear();
    this.#liveness.stop();
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    try {
      socket.close(closeCode);
    } catch {
      // It was closed already.
    }
  }
}

function closeError(attempt: Attempt | undefined, code: number, reason: string): DrawbridgeError {
  const retryable = mayReconnect(code);
  const { fault, socket, connectId, socketError } = attempt ?? {};
  const details = { closeCode: code, retryable, retryAfterMs: fault?.retryAfterMs, hint: fault?.hint };
  if (fault) return new DrawbridgeError(fault.code, fault.message, details);
  if (socket && connectId === undefined && attempt?.openedAt === undefined) {
    const cause = socketError || (reason || `closed with ${code} before it was open`);
    const hint = "is the server running, are host, port and path right, and does the server allow the origin of this page?";
    return new DrawbridgeError("CONNECTION_LOST", `no WebSocket connection: ${cause}`, { ...details, hint });
  }
  const text = `the connection closed with ${code}${reason ? `: ${reason}` : ""}`;
  return new DrawbridgeError(retryable ? "CONNECTION_LOST" : "CLOSED", text, details);
}
