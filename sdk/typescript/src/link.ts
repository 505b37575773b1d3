/**
 * One link that heals: it dials, says `CONNECT`, watches for silence, and comes back after a break, or stays away
 * where the close code says so. What the messages mean is its owner's business.
 *
 *   waiting ──▶ dialling ──▶ greeting ──▶ open ──▶ (GOODBYE) a second socket dials, and takes over when it is there
 *      ▲            │            │          │
 *      └────────────┴────────────┴──────────┘ lost
 */

import { Backoff, mayReconnect, STABLE_MS, TAKEN_OVER_CLOSE, TOKEN_EXPIRED_CLOSE, type ReconnectOptions } from "./backoff.js";
import type { Clock } from "./clock.js";
import type { Codec } from "./codec.js";
import { hintOf, hintOfBlocked } from "./diagnosis.js";
import { DrawbridgeError } from "./errors.js";
import { Liveness } from "./liveness.js";
import { messagesOf, type ClientMessage, type Hello, type ServerMessage, type WelcomeMessage } from "./messages.js";
import type { PageSignal } from "./page.js";
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
  /** What this connection should subscribe to in `CONNECT`, and the session that it goes on with. */
  hello(): Hello;
  /** The server resumes no sessions: another `CONNECT` follows. */
  resumeRefused(): void;
  /** Whether a new connection can go on where the present one is. */
  canResume(): boolean;
  /** Another connection stands ready: nothing more should go out on this one. False: after all, this one stays. */
  hold(held: boolean): void;
  /** The other connection has taken over. What is out on the old one is lost. */
  moved(): void;
  welcomed(message: WelcomeMessage, token: string | undefined): void;
  received(message: ServerMessage): void;
  /** The link is down and will be tried again; at an unknown time if the page is hidden. Called for each failed attempt. */
  lost(error: DrawbridgeError, retryInMs: number | undefined): void;
  /** The link is down for good, until `start`. */
  ended(error: DrawbridgeError): void;
  /** The session was ended from here: nothing is left to resume. */
  left(): void;
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
/** After `GOODBYE`, for what was sent to be answered before the other connection takes over. */
const MAX_HOLD_MS = 1_000;
/** A `CONNECT` that was given up may still reach the server for so long, and take the session over. */
const STRAY_MS = 60_000;
/** The part of `reconnect_in_ms` in which a client returns: the later half, less some time for the attempt. */
const EARLIEST_RETURN = 0.5;
const LATEST_RETURN = 0.95;
/** More than this unsent means that the network does not take what is published. */
const MAX_UNSENT_BYTES = 1024 * 1024;

/** One attempt, from asking for the token to the end of its socket. */
interface Attempt {
  token?: string | undefined;
  socket?: WebSocketLike;
  connectId?: number;
  /** `CONNECT` named a session. */
  asksToResume?: boolean;
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
  /** After `GOODBYE`: opened while the present connection still serves. */
  #successor: Attempt | undefined;
  readonly #successorTimer: Timer;
  /** Of the connection that was left for its successor; the server closes it with 4505. */
  #predecessor: WebSocketLike | undefined;
  /** When an attempt to resume was last given up before its `WELCOME`. */
  #strayAt = -Infinity;
  /** What to do instead of waiting on. */
  #redial: (() => void) | undefined;
  /** Until then the server does not want to be dialled. */
  #notBefore = 0;
  /** The page is in the back-forward cache, or leaving: nothing is dialled. */
  #hidden = false;
  #ignorePage: (() => void) | undefined;

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
    this.#successorTimer = new Timer(runtime);
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
    this.#ignorePage ??= this.runtime.onPage((signal) => this.#onPage(signal));
    if (this.#attempt) return;
    void this.#dial(this.#redial ? "reconnect" : "connect");
  }

  /** Ends the connection, and the session with it (1000). The owner is not told. */
  stop(): void {
    this.#ignorePage?.();
    this.#ignorePage = undefined;
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
    this.#hidden = false;
    const attempt: Attempt = { connectSentAt: this.runtime.now() };
    this.#attempt = attempt;
    this.#timer.set(this.options.connectTimeoutMs, () => this.#lose(ABANDON_CLOSE, "no WELCOME in time"));
    try {
      attempt.token = await this.tokens.get(reason);
      if (this.#attempt === attempt) this.#openSocket(attempt);
    } catch (thrown) {
      if (this.#attempt !== attempt) return;
      if (thrown instanceof DrawbridgeError) this.#fail(thrown, ABNORMAL_CLOSE);
      else this.#end(blocked(thrown, this.options.url));
    }
  }

  #openSocket(attempt: Attempt): void {
    const socket = new this.options.WebSocket(this.options.url, [this.options.codec.subprotocol]);
    attempt.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => (this.#successor === attempt ? this.#hold(attempt) : this.#greet(attempt));
    socket.onmessage = (event: { data: string | ArrayBuffer }) => this.#receive(attempt, event.data);
    socket.onclose = (event: { code: number; reason: string }) => {
      if (this.#attempt === attempt) this.#lose(event.code || ABNORMAL_CLOSE, event.reason);
      else if (this.#successor === attempt) this.#dropSuccessor();
    };
    // A close event follows. Browsers keep the cause to themselves.
    socket.onerror = (event: { message?: string; error?: { code?: string } }) => {
      attempt.socketError = (event?.message || event?.error?.code)?.split("\n")[0];
    };
  }

  #greet(attempt: Attempt): void {
    if (this.#attempt !== attempt) return;
    const hello = this.owner.hello();
    attempt.connectId = this.requests.nextId();
    attempt.connectSentAt = this.runtime.now();
    attempt.asksToResume = hello.resume !== undefined;
    this.send({ type: "CONNECT", id: attempt.connectId, ...(attempt.token !== undefined && { token: attempt.token }), ...hello });
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
    if (attempt.asksToResume && message.type === "ERROR" && message.id === attempt.connectId && message.code === "UNSUPPORTED") {
      this.owner.resumeRefused();
      return this.#greet(attempt);
    }
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
    this.#closePredecessor();
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

  /**
   * The server names the moment at which it closes this connection, spread over its clients; or we do then. If the
   * session can be resumed, another connection is opened before that, and no message is late.
   */
  #goodbye(attempt: Attempt, reconnectInMs: number): void {
    const delayMs = Math.max(Number(reconnectInMs) || 0, 0);
    attempt.returnAt = this.runtime.now() + delayMs;
    this.#timer.set(delayMs, () => this.#lose(GOODBYE_CLOSE, "drain"));
    if (!this.owner.canResume() || this.#successor) return;
    const part = EARLIEST_RETURN + this.runtime.random() * (LATEST_RETURN - EARLIEST_RETURN);
    this.#successorTimer.set(delayMs * part, () => void this.#dialSuccessor());
  }

  async #dialSuccessor(): Promise<void> {
    const attempt: Attempt = { connectSentAt: this.runtime.now() };
    this.#successor = attempt;
    this.#successorTimer.set(this.options.connectTimeoutMs, () => this.#dropSuccessor());
    try {
      attempt.token = await this.tokens.get("reconnect");
      if (this.#successor === attempt || this.#attempt === attempt) this.#openSocket(attempt);
    } catch {
      // Whatever it is, the next attempt reports it.
      if (this.#successor === attempt) this.#dropSuccessor();
      else if (this.#attempt === attempt) this.#lose(ABNORMAL_CLOSE, "no token");
    }
  }

  /** What is out is answered first, so that the change of the connection leaves no publish in doubt. */
  #hold(attempt: Attempt): void {
    const takeOver = () => this.#successor === attempt && this.#takeOver(attempt);
    this.#successorTimer.set(MAX_HOLD_MS, takeOver);
    this.owner.hold(true);
    this.requests.whenIdle(takeOver);
  }

  /** From here on nothing of the old connection counts: the server replays what follows the positions of `CONNECT`. */
  #takeOver(attempt: Attempt): void {
    const old = this.#attempt;
    this.#forgetSuccessor();
    this.#predecessor = old?.socket;
    if (this.#predecessor) silence(this.#predecessor);
    this.#liveness.stop();
    this.#attempt = attempt;
    this.#timer.set(this.options.connectTimeoutMs, () => this.#lose(ABANDON_CLOSE, "no WELCOME in time"));
    this.owner.moved();
    this.#greet(attempt);
  }

  #dropSuccessor(): void {
    const socket = this.#successor?.socket;
    this.#forgetSuccessor();
    close(socket, ABANDON_CLOSE);
    this.owner.hold(false);
  }

  #forgetSuccessor(): void {
    this.#successor = undefined;
    this.#successorTimer.clear();
    this.requests.whenIdle(undefined);
  }

  #closePredecessor(closeCode = GOODBYE_CLOSE): void {
    close(this.#predecessor, closeCode);
    this.#predecessor = undefined;
  }

  #onPage(signal: PageSignal): void {
    if (signal === "keep") return this.#hide(ABANDON_CLOSE);
    if (signal === "leave") return this.#hide(1000);
    if (this.#hidden) {
      if (signal === "return") void this.#dial("reconnect");
    } else if (this.#redial) {
      if (signal !== "offline" && this.runtime.now() >= this.#notBefore) this.#redial();
    } else {
      this.#liveness.probe();
    }
  }

  /** The cache keeps no page with an open socket, and a page that leaves for good ends its session (1000). */
  #hide(closeCode: number): void {
    if (this.#hidden) return;
    this.#stopWaiting();
    const error = closeError(this.#attempt, closeCode, "the page is hidden");
    this.#drop(closeCode);
    this.#hidden = true;
    this.owner.lost(error, undefined);
    if (closeCode === 1000) this.owner.left();
  }

  #lose(code: number, reason: string): void {
    this.#fail(closeError(this.#attempt, code, reason), code);
  }

  #fail(error: DrawbridgeError, code: number): void {
    const attempt = this.#attempt;
    const expired = code === TOKEN_EXPIRED_CLOSE;
    // A token that is not yet valid (`retryable`) may be valid later; one that has expired stays so.
    const tokenIsDead = expired && !this.tokens.renewable && !attempt?.fault?.retryable;
    const isOurOwn = code === TAKEN_OVER_CLOSE && this.runtime.now() - this.#strayAt < STRAY_MS;
    if ((!mayReconnect(code) && !isOurOwn) || tokenIsDead) return this.#end(error);

    const delayMs = this.#delay(attempt, expired);
    const successor = this.#successor;
    if (successor && !expired) return this.#promote(successor, error);
    this.#drop(ABANDON_CLOSE);
    this.#redial = () => void this.#dial(expired ? "expired" : "reconnect");
    this.#timer.set(delayMs, this.#redial);
    this.owner.lost(error, delayMs);
  }

  /** The present connection ended before the other one could take over. */
  #promote(successor: Attempt, error: DrawbridgeError): void {
    this.#forgetSuccessor();
    this.#drop(ABANDON_CLOSE);
    this.#attempt = successor;
    this.#timer.set(this.options.connectTimeoutMs, () => this.#lose(ABANDON_CLOSE, "no WELCOME in time"));
    this.owner.lost(error, 0);
    if (this.#attempt === successor && successor.socket?.readyState === OPEN) this.#greet(successor);
  }

  /** The wait before the next attempt. Never shorter than what the server asked for. */
  #delay(attempt: Attempt | undefined, expired: boolean): number {
    const now = this.runtime.now();
    this.#notBefore = Math.max(attempt?.returnAt ?? 0, now + (attempt?.fault?.retryAfterMs ?? 0));
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
    this.#redial = undefined;
    this.#timer.clear();
  }

  /** Forgets the socket at once: a half-open one would take long to say that it is closed. */
  #drop(closeCode: number): void {
    const sockets = [this.#attempt?.socket, this.#successor?.socket];
    if (this.#attempt?.asksToResume && !this.open) this.#strayAt = this.runtime.now();
    this.#attempt = undefined;
    this.#forgetSuccessor();
    // Before `WELCOME` the session may still be its: then 1000 ends it there.
    this.#closePredecessor(closeCode);
    this.#timer.clear();
    this.#liveness.stop();
    for (const socket of sockets) close(socket, closeCode);
  }
}

function silence(socket: WebSocketLike): void {
  socket.onopen = socket.onmessage = socket.onclose = null;
}

function close(socket: WebSocketLike | undefined, code: number): void {
  if (!socket) return;
  silence(socket);
  try {
    socket.close(code);
  } catch {
    // It was closed already.
  }
}

function blocked(thrown: unknown, url: string): DrawbridgeError {
  const why = thrown instanceof Error ? thrown.message : String(thrown);
  return new DrawbridgeError("CLOSED", `the WebSocket could not be created: ${why}`, { cause: thrown, hint: hintOfBlocked(url) });
}

function closeError(attempt: Attempt | undefined, code: number, reason: string): DrawbridgeError {
  const retryable = mayReconnect(code);
  const { fault, socket, connectId, socketError } = attempt ?? {};
  const details = { closeCode: code, retryable, retryAfterMs: fault?.retryAfterMs, hint: fault?.hint };
  if (fault) return new DrawbridgeError(fault.code, fault.message, details);
  if (socket && connectId === undefined && attempt?.openedAt === undefined) {
    const cause = socketError || (reason || `closed with ${code} before it was open`);
    return new DrawbridgeError("CONNECTION_LOST", `no WebSocket connection: ${cause}`, { ...details, hint: hintOf(socketError) });
  }
  const text = `the connection closed with ${code}${reason ? `: ${reason}` : ""}`;
  return new DrawbridgeError(retryable ? "CONNECTION_LOST" : "CLOSED", text, details);
}
