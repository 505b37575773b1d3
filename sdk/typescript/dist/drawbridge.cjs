// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit.
"use strict";
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);

// src/index.ts
var src_exports = {};
__export(src_exports, {
  Drawbridge: () => Drawbridge,
  DrawbridgeError: () => DrawbridgeError,
  connect: () => connect,
  globMatcher: () => globMatcher,
  isPattern: () => isPattern,
  json: () => json
});
module.exports = __toCommonJS(src_exports);

// src/clock.ts
var SAMPLES = 16;
var Clock = class {
  constructor(runtime) {
    this.runtime = runtime;
  }
  runtime;
  #samples = [];
  #best;
  /** The server's time in Unix milliseconds. Before the first connection, this machine's. */
  now() {
    return this.#best ? this.runtime.now() + this.#best.offsetMs : this.runtime.wallNow();
  }
  /** How far the server's clock is ahead of this machine's, in milliseconds. */
  get offsetMs() {
    return this.now() - this.runtime.wallNow();
  }
  /** The shortest round trip among the recent samples, in milliseconds; undefined before the first. */
  get rttMs() {
    return this.#best?.rttMs;
  }
  /** @internal A request left at `sentAt`, its answer with the server's time is here now. */
  sample(sentAt, serverTimeMs) {
    const receivedAt = this.runtime.now();
    const rttMs = Math.max(receivedAt - sentAt, 0);
    if (!Number.isFinite(serverTimeMs)) return;
    this.#samples.push({ offsetMs: serverTimeMs - (sentAt + receivedAt) / 2, rttMs });
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    this.#best = this.#samples.reduce((best, sample) => sample.rttMs <= best.rttMs ? sample : best);
  }
  /** @internal A new connection, perhaps to another node, perhaps after this machine slept: the old samples say little. */
  restart() {
    this.#samples = [];
  }
};

// src/codec.ts
var json = {
  subprotocol: "drawbridge.v1.json",
  encode(message) {
    if (message.data instanceof Uint8Array) throw new TypeError("bytes need the codec `msgpack`");
    return JSON.stringify(message);
  },
  decode(frame) {
    if (typeof frame !== "string") throw new TypeError("a binary frame on a JSON connection");
    return JSON.parse(frame);
  }
};
var utf8 = new TextEncoder();
function sizeOf(frame) {
  return typeof frame === "string" ? utf8.encode(frame).length : frame.length;
}

// src/glob.ts
var utf82 = new TextEncoder();
var [STAR, QUESTION, OPEN, CLOSE, BACKSLASH, CARET, DASH] = [..."*?[]\\^-"].map((c) => c.charCodeAt(0));
function isPattern(channel) {
  return /[*?[]/.test(channel);
}
function globMatcher(pattern) {
  const glob = utf82.encode(pattern);
  return (channel) => matches(glob, utf82.encode(channel));
}
function matches(glob, text) {
  let g = 0;
  let t = 0;
  let starAt = -1;
  let starText = 0;
  while (t < text.length) {
    if (glob[g] === STAR) {
      starAt = g++;
      starText = t;
      continue;
    }
    const next = g < glob.length ? matchOne(glob, g, text[t]) : -1;
    if (next >= 0) {
      g = next;
      t++;
    } else if (starAt >= 0) {
      g = starAt + 1;
      t = ++starText;
    } else {
      return false;
    }
  }
  while (glob[g] === STAR) g++;
  return g === glob.length;
}
function matchOne(glob, g, byte) {
  switch (glob[g]) {
    case QUESTION:
      return g + 1;
    case OPEN:
      return matchClass(glob, g + 1, byte);
    case BACKSLASH:
      if (g + 1 < glob.length) g++;
      return glob[g] === byte ? g + 1 : -1;
    default:
      return glob[g] === byte ? g + 1 : -1;
  }
}
function matchClass(glob, g, byte) {
  const negated = glob[g] === CARET;
  if (negated) g++;
  let found = false;
  while (g < glob.length && glob[g] !== CLOSE) {
    if (glob[g] === BACKSLASH && g + 1 < glob.length) {
      found ||= glob[g + 1] === byte;
      g += 2;
    } else if (glob[g + 1] === DASH && g + 2 < glob.length) {
      const [low, high] = [Math.min(glob[g], glob[g + 2]), Math.max(glob[g], glob[g + 2])];
      found ||= low <= byte && byte <= high;
      g += 3;
    } else {
      found ||= glob[g] === byte;
      g++;
    }
  }
  return found !== negated ? Math.min(g + 1, glob.length) : -1;
}

// src/continuity.ts
var Continuity = class {
  constructor(cursors, owner) {
    this.cursors = cursors;
    this.owner = owner;
  }
  cursors;
  owner;
  /** Live when the connection broke, and not yet again; with the position at that time. */
  #missed = /* @__PURE__ */ new Map();
  /** Proven whole by `WELCOME`, not yet announced. */
  #recovered = /* @__PURE__ */ new Set();
  /** Not recovered: the server's `RESYNC` follows and says why. Where none does, this client says so itself. */
  #unproven = /* @__PURE__ */ new Map();
  #reason = "reconnect";
  /** The session is another one than before the break. */
  #isNew = false;
  has(channel) {
    return this.#missed.has(channel);
  }
  names() {
    return this.#missed.keys();
  }
  /** The connection is lost; `live` are its subscriptions. */
  lost(live) {
    this.settle();
    const unannounced = [...this.#recovered];
    this.#recovered.clear();
    for (const channel of [...unannounced, ...live]) this.#missed.set(channel, this.cursors.get(channel));
  }
  welcomed(subscriptions, how) {
    this.#reason = how === "ended" ? "session" : "reconnect";
    this.#isNew = how !== "resumed";
    if (this.#isNew) return;
    for (const { channel, pending, recovered } of subscriptions) {
      if (pending || !this.#missed.has(channel)) continue;
      const isWhole = recovered && !(this.cursors.incomplete && isPattern(channel));
      if (isWhole) this.#recovered.add(channel);
      else if (recovered !== void 0) this.#unproven.set(channel, isPattern(channel) ? globMatcher(channel) : (name) => name === channel);
      if (isWhole || recovered === void 0) this.#missed.delete(channel);
    }
  }
  /** What was live before the break and is not in the new session: forgotten here. Only the server had subscribed to it. */
  takeEnded(isListed) {
    if (!this.#isNew) return [];
    const ended2 = [...this.#missed.keys()].filter((channel) => !isListed(channel));
    for (const channel of ended2) this.forget(channel);
    return ended2;
  }
  /** A subscription is live on this connection. */
  live(channel) {
    if (this.#recovered.delete(channel)) this.owner.recovered({ channel });
    else if (!this.#unproven.has(channel)) this.#resync(channel);
  }
  /** It was live after `WELCOME` without a doubt (its confirmation said so). */
  proven(channel) {
    if (this.#missed.delete(channel)) this.#recovered.add(channel);
  }
  /** An event of this channel comes next. */
  beforeEvent(channel) {
    if (this.#unproven.size === 0) return;
    for (const [name, matches2] of this.#unproven) if (matches2(channel)) this.#resync(name);
  }
  /** The server's own word on it. */
  resynced(resync) {
    const since = this.#missed.get(resync.channel);
    this.forget(resync.channel);
    return since ? { ...resync, since } : resync;
  }
  /** What the server had to say behind `WELCOME` is here. */
  settle() {
    for (const channel of this.#unproven.keys()) this.#resync(channel);
  }
  /** It is not subscribed any more. */
  forget(channel) {
    this.#missed.delete(channel);
    this.#unproven.delete(channel);
    this.#recovered.delete(channel);
  }
  #resync(channel) {
    if (!this.#missed.has(channel)) return;
    const since = this.#missed.get(channel);
    this.forget(channel);
    this.owner.resync({ channel, reason: this.#reason, ...since && { since } });
  }
};

// src/cursors.ts
var MAX_CURSORS = 1024;
var Cursors = class {
  /** `isExact`: whether the channel is subscribed by name; those are never given up for others. */
  constructor(isExact) {
    this.isExact = isExact;
  }
  isExact;
  /** The channels that were seen first come first. */
  #cursors = /* @__PURE__ */ new Map();
  /** A channel that only patterns show was given up for want of room. Its `POSITION` does not come again in this session. */
  #hasEvicted = false;
  /** The last `CONNECT` had no room for all. */
  #isTruncated = false;
  /** The last `CONNECT` did not name every channel that patterns have shown: no pattern can be proven whole. */
  get incomplete() {
    return this.#hasEvicted || this.#isTruncated;
  }
  get(channel) {
    const cursor = this.#cursors.get(channel);
    return cursor && { epoch: cursor.epoch, offset: cursor.offset };
  }
  /** A subscription was confirmed. One that was live already keeps its place: events before it may be on the way. */
  begin(channel, position) {
    if (this.#cursors.get(channel)?.epoch !== position.epoch) this.replace(channel, position);
  }
  /** The next event continues here, whatever came before. */
  replace(channel, { epoch, offset }, logged = false) {
    if (epoch === void 0 || offset === void 0) return;
    if (!this.#cursors.has(channel)) this.#makeRoom();
    this.#cursors.set(channel, { epoch, offset: Number(offset), logged });
  }
  /** `POSITION`: only channels with history have one. */
  advance(channel, { epoch, offset }) {
    const cursor = this.#cursors.get(channel);
    const from = cursor?.epoch === epoch ? cursor.offset : 0;
    this.replace(channel, { epoch, offset: Math.max(from, Number(offset)) }, true);
  }
  /** The resumed session continues here, under this epoch from now on. Elsewhere only a log can be continued. */
  resumed(channel, epoch, elsewhere) {
    const cursor = this.#cursors.get(channel);
    if (!cursor) return;
    cursor.epoch = epoch ?? cursor.epoch;
    cursor.logged ||= elsewhere;
  }
  /** Whether the event is a new one. */
  accept({ channel, offset, epoch }) {
    const cursor = offset === void 0 ? void 0 : this.#cursors.get(channel);
    if (!cursor) return true;
    const isRepeated = cursor.logged && Number(offset) <= cursor.offset && (epoch ?? cursor.epoch) === cursor.epoch;
    if (isRepeated) return false;
    cursor.offset = Number(offset);
    cursor.epoch = epoch ?? cursor.epoch;
    return true;
  }
  delete(channel) {
    this.#cursors.delete(channel);
  }
  /** Forgets the channels for which `isSubscribed` is false. */
  retain(isSubscribed) {
    for (const channel of this.#cursors.keys()) if (!isSubscribed(channel)) this.#cursors.delete(channel);
  }
  clear() {
    this.#cursors.clear();
    this.#hasEvicted = false;
  }
  /** For `CONNECT.resume`: as many as fit, those of exact subscriptions first. */
  positions(maxCount, maxChars) {
    const positions = /* @__PURE__ */ Object.create(null);
    this.#isTruncated = false;
    const all = [...this.#cursors.keys()];
    const exact = all.filter(this.isExact);
    let count = 0;
    let chars = 0;
    for (const channel of [...exact, ...all.filter((name) => !this.isExact(name))]) {
      const { epoch, offset } = this.#cursors.get(channel);
      chars += channel.length + epoch.length + 48;
      if (++count > maxCount || chars > maxChars) {
        this.#isTruncated = true;
        break;
      }
      positions[channel] = { epoch, offset };
    }
    return positions;
  }
  #makeRoom() {
    if (this.#cursors.size < MAX_CURSORS) return;
    for (const channel of this.#cursors.keys()) {
      if (this.isExact(channel)) continue;
      this.#cursors.delete(channel);
      this.#hasEvicted = true;
      return;
    }
  }
};

// src/diagnosis.ts
var UNEXPLAINED = "is the server running, are host, port and path right, and does the server allow the origin of this page?";
var HINTS = [
  [/ECONNREFUSED/, "nothing listens there: is the server running, and is this its port?"],
  [/ENOTFOUND|EAI_AGAIN/, "there is no such host: is its name right?"],
  [/\b403\b/, "the server does not allow this origin: add it to its connection.allowed_origins"],
  [/\b404\b/, "is the path right? Drawbridge's is /ws"],
  [/wrong version number/, "this port has no TLS: use ws:"],
  [/certificate/, "the server's certificate is not trusted here"],
  [/hang up|ECONNRESET|Parse Error/, "no WebSocket server answers there: is this its port, and does it need wss:?"]
];
function hintOfToken(code, token) {
  if (code === "UNAUTHENTICATED" && token === "undefined") return "pass `token` to the client: a JWT, or a function that returns one";
  if (code === "TOKEN_EXPIRED" && token === "string") return "pass a function as `token`, which fetches a fresh one";
  return void 0;
}
function hintOf(reported) {
  return HINTS.find(([pattern]) => reported && pattern.test(reported))?.[1] ?? UNEXPLAINED;
}
function hintOfBlocked(url) {
  const isMixed = url.startsWith("ws:") && globalThis.location?.protocol === "https:";
  return isMixed ? "mixed content: a page over https may open wss: only" : void 0;
}
var MAX_CAUSES = 4;
var ConnectLog = class {
  constructor(url, token, runtime, warn) {
    this.token = token;
    this.runtime = runtime;
    this.warn = warn;
    this.#url = new URL(url);
  }
  token;
  runtime;
  warn;
  #url;
  /** The causes that were logged; undefined after the first success. */
  #causes = /* @__PURE__ */ new Set();
  succeeded() {
    this.#causes = void 0;
  }
  /** Whether the next failure is logged, if its cause is new. */
  get isActive() {
    return this.#causes !== void 0;
  }
  /** `next`: what the client does about it. */
  async failed({ code, message, hint: reported }, next) {
    const hint = reported ?? hintOfToken(code, this.token);
    const cause = `${code} ${hint ?? message}`;
    if (!this.#causes || this.#causes.has(cause) || this.#causes.size >= MAX_CAUSES) return;
    this.#causes.add(cause);
    const likely = hint === UNEXPLAINED ? await this.#explore() : hint;
    if (this.#causes) this.warn(`drawbridge: cannot connect to ${this.#shown("ws")}: ${code}: ${message}${likely ? ` (${likely})` : ""}; ${next}`);
  }
  async #explore() {
    const { host, pathname, protocol } = this.#url;
    const answers = await this.runtime.answersHttp(this.#shown("http"));
    if (answers === void 0) return UNEXPLAINED;
    if (!answers && protocol === "wss:") return `nothing answers at ${host} over TLS: is the server running, does this port have TLS (without it: ws:), and does the browser trust its certificate?`;
    if (!answers) return `nothing answers at ${host}: is the server running, is this its port, and may this page connect there?`;
    const path = pathname === "/ws" ? "" : `is the path right (Drawbridge's is /ws, this one ${pathname}), `;
    return `${host} answers, but not as a WebSocket: ${path}does the server allow the origin ${globalThis.location?.origin} (connection.allowed_origins), and is this its port for players? The server's log names the reason`;
  }
  /** Without query and credentials, which may be secret. */
  #shown(scheme) {
    const { protocol, host, pathname } = this.#url;
    return `${protocol.replace("ws", scheme)}//${host}${pathname}`;
  }
};

// src/emitter.ts
var Emitter = class {
  /** `report` gets what a listener threw; `changed` is called after a listener was added or removed. */
  constructor(report, changed = () => {
  }) {
    this.report = report;
    this.changed = changed;
  }
  report;
  changed;
  #listeners = /* @__PURE__ */ new Map();
  get isEmpty() {
    return this.#listeners.size === 0;
  }
  on(name, listener) {
    const entry = (argument) => listener(argument);
    const set = this.#listeners.get(name) ?? /* @__PURE__ */ new Set();
    this.#listeners.set(name, set.add(entry));
    this.changed();
    return () => {
      set.delete(entry);
      if (set.size === 0 && this.#listeners.get(name) === set) this.#listeners.delete(name);
      this.changed();
    };
  }
  /** As `on`, for the next one only. */
  once(name, listener) {
    const unlisten = this.on(name, (argument) => {
      unlisten();
      return listener(argument);
    });
    return unlisten;
  }
  has(name) {
    return this.#listeners.has(name);
  }
  emit(name, argument, report = this.report) {
    for (const listener of [...this.#listeners.get(name) ?? []]) {
      if (this.#listeners.get(name)?.has(listener)) contain(() => listener(argument), report);
    }
  }
  clear() {
    this.#listeners.clear();
    this.changed();
  }
};
function contain(call, report) {
  try {
    const result = call();
    if (result instanceof Promise) result.catch(report);
  } catch (thrown) {
    report(thrown);
  }
}

// src/errors.ts
var DrawbridgeError = class _DrawbridgeError extends Error {
  static {
    Object.defineProperty(this, "name", { value: "DrawbridgeError" });
    Object.defineProperty(this.prototype, "name", { value: "DrawbridgeError", writable: true, configurable: true });
  }
  code;
  /** Whether asking for the same again, later, can succeed. */
  retryable;
  constructor(code, message, { cause, retryable = false, ...details } = {}) {
    super(message, cause === void 0 ? void 0 : { cause });
    this.code = code;
    this.retryable = retryable;
    for (const [name, value] of Object.entries(details)) if (value !== void 0) Object.assign(this, { [name]: value });
    const { channel } = details;
    if (this.stack) this.stack = this.stack.replace(message, () => `${code}: ${message}${channel === void 0 ? "" : ` (${channel})`}`);
  }
  /** @internal */
  static fromWire(message) {
    return new _DrawbridgeError(message.code, message.message, {
      retryable: message.retryable,
      retryAfterMs: message.retry_after_ms,
      outcome: message.outcome,
      reason: message.reason,
      channel: message.channel,
      position: message.position,
      hint: message.hint
    });
  }
};
function publishRefused(error, outcome = error.outcome ?? "not_done") {
  return error.outcome === outcome ? error : new DrawbridgeError(error.code, error.message, { ...error, outcome });
}
function connectionLost(closeCode) {
  const message = "the connection was lost before the answer came";
  return new DrawbridgeError("CONNECTION_LOST", message, { retryable: true, outcome: "unknown", closeCode });
}

// src/events.ts
var Channel = class {
  /** @internal */
  constructor(channel, report, changed) {
    this.channel = channel;
    this.#events = new Emitter(report, changed);
    this.#any = new Emitter(report, changed);
    this.matches = isPattern(channel) ? globMatcher(channel) : (name) => name === channel;
  }
  channel;
  #events;
  #any;
  /** @internal */
  matches;
  /** Calls back for each event of that name; the returned function removes the handler. */
  on(event, handler) {
    return this.#events.on(event, handler);
  }
  /** Calls back for the next event of that name only; the returned function removes the handler before that. */
  once(event, handler) {
    return this.#events.once(event, handler);
  }
  /** Calls back for every event; the returned function removes the handler. */
  onEvent(handler) {
    return this.#any.on("event", handler);
  }
  /** Calls back where events may be missing: fetch the state again there. The returned function removes the handler. */
  onResync(handler) {
    return this.#any.on("resync", handler);
  }
  /** Calls back after a reconnect that lost nothing, before the events that were missed; the returned function removes the handler. */
  onRecovered(handler) {
    return this.#any.on("recovered", handler);
  }
  /** Calls back when players come or leave, on channels with `presence = "notify"`; the returned function removes the handler. */
  onPresence(handler) {
    return this.#any.on("presence", handler);
  }
  /** @internal Whether it has handlers. */
  get hasHandlers() {
    return !this.#events.isEmpty || !this.#any.isEmpty;
  }
  /** @internal */
  deliver(event) {
    this.#events.emit(event.event, event);
    this.#any.emit("event", event);
  }
  /** @internal */
  notify(name, notice) {
    this.#any.emit(name, notice);
  }
  /** @internal */
  silence() {
    this.#events.clear();
    this.#any.clear();
  }
};
var MAX_REMEMBERED = 1024;
var Listeners = class {
  #channels = /* @__PURE__ */ new Set();
  #remembered = /* @__PURE__ */ new Map();
  add(channel) {
    if (this.#channels.has(channel)) return;
    this.#channels.add(channel);
    this.#remembered.clear();
  }
  /** Nothing reaches it any more; its handlers stay, should it be added again. */
  drop(channel) {
    if (this.#channels.delete(channel)) this.#remembered.clear();
  }
  remove(channel) {
    channel.silence();
    this.drop(channel);
  }
  /** `all` hears every event, before the channels' own listeners. */
  deliver(message, all) {
    const event = eventOf(message);
    all(event);
    for (const channel of this.#of(message.channel)) channel.deliver(event);
  }
  /** To the listeners of that name or pattern, and to those of patterns that cover it. */
  notify(name, notice) {
    for (const channel of this.#of(notice.channel)) channel.notify(name, notice);
  }
  #of(name) {
    let found = this.#remembered.get(name);
    if (!found) {
      found = [...this.#channels].filter((channel) => channel.channel === name || channel.matches(name));
      if (this.#remembered.size >= MAX_REMEMBERED) this.#remembered.clear();
      this.#remembered.set(name, found);
    }
    return found;
  }
};
function resyncOf(message) {
  const { type: _, ...resync } = message;
  return resync;
}
function eventOf(message) {
  const { type: _, epoch: __, ...event } = message;
  return { ...event, data: event.data ?? null };
}
function presenceChangeOf(message) {
  const { channel, joined = [], left = [], reset = false } = message;
  return { channel, joined, left, reset };
}

// src/backoff.ts
var STABLE_MS = 3e4;
var Backoff = class {
  constructor(runtime, { minDelayMs = 3e3, maxDelayMs = 3e4 } = {}) {
    this.runtime = runtime;
    this.#minMs = Math.max(minDelayMs, 1);
    this.#maxMs = Math.max(maxDelayMs, this.#minMs);
    this.#boundMs = this.#minMs;
  }
  runtime;
  #boundMs;
  #minMs;
  #maxMs;
  /** The next wait, in milliseconds. */
  next() {
    const boundMs = this.#boundMs;
    this.widen(boundMs * 2);
    return boundMs * this.runtime.random();
  }
  /** The next waits spread over at least so much, up to `maxDelayMs`: the server named this time itself. */
  widen(boundMs) {
    this.#boundMs = Math.min(Math.max(this.#boundMs, boundMs), this.#maxMs);
  }
  reset() {
    this.#boundMs = this.#minMs;
  }
};
function mayReconnect(closeCode) {
  return !(closeCode >= 4500 && closeCode <= 4999);
}
var TAKEN_OVER_CLOSE = 4505;
var TOKEN_EXPIRED_CLOSE = 4004;

// src/page.ts
function onPage(callback) {
  const page = globalThis;
  const { document } = page;
  if (typeof page.addEventListener !== "function") return () => {
  };
  const listeners = [
    [page, "online", () => callback("online")],
    [page, "offline", () => callback("offline")],
    [page, "pagehide", ({ persisted }) => callback(persisted ? "keep" : "leave")],
    [page, "pageshow", () => callback("return")],
    [document, "visibilitychange", () => document?.visibilityState === "visible" && callback("visible")]
  ];
  for (const [target, name, listener] of listeners) target?.addEventListener(name, listener);
  return () => {
    for (const [target, name, listener] of listeners) target?.removeEventListener(name, listener);
  };
}
var ANSWER_MS = 2e3;
async function answersHttp(url) {
  if (!globalThis.location) return void 0;
  try {
    await fetch(url, { method: "HEAD", mode: "no-cors", cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(ANSWER_MS) });
    return true;
  } catch {
    return false;
  }
}

// src/runtime.ts
var systemRuntime = {
  now: () => performance.now(),
  wallNow: () => Date.now(),
  random: () => Math.random(),
  setTimeout: (callback, delayMs) => setTimeout(callback, delayMs),
  clearTimeout: (handle) => clearTimeout(handle),
  onPage,
  answersHttp,
  uniqueKey: () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (word) => word.toString(36)).join("-")
};
var MAX_DELAY_MS = 2 ** 31 - 1;
var Timer = class {
  constructor(runtime) {
    this.runtime = runtime;
  }
  runtime;
  #handle;
  #dueAt = Infinity;
  #callback = () => {
  };
  set(delayMs, callback) {
    this.clear();
    this.#dueAt = this.runtime.now() + delayMs;
    this.#callback = callback;
    this.#handle = this.runtime.setTimeout(
      () => {
        this.#handle = void 0;
        callback();
      },
      Math.min(Math.max(delayMs, 0), MAX_DELAY_MS)
    );
  }
  /** It is due no later than this; nothing happens if it is not set. */
  shorten(delayMs) {
    if (this.#handle !== void 0 && this.runtime.now() + delayMs < this.#dueAt) this.set(delayMs, this.#callback);
  }
  clear() {
    if (this.#handle !== void 0) this.runtime.clearTimeout(this.#handle);
    this.#handle = void 0;
  }
};

// src/liveness.ts
var QUICK_PINGS = 3;
var QUICK_MS = 1e3;
var MAX_EXCUSES = 2;
var PROBE_TIMEOUT_MS = 2e3;
var Liveness = class {
  /** `ping` sends one and says its id; `dead` is called at most once for each `start`. */
  constructor(runtime, clock, ping, dead) {
    this.runtime = runtime;
    this.clock = clock;
    this.ping = ping;
    this.dead = dead;
    this.#interval = new Timer(runtime);
    this.#deadline = new Timer(runtime);
  }
  runtime;
  clock;
  ping;
  dead;
  #interval;
  #deadline;
  #outstanding;
  #heard = false;
  #pings = 0;
  /** Undefined while stopped. */
  #options;
  start(options) {
    this.stop();
    this.#options = options;
    this.#pings = 0;
    this.#ask(options);
  }
  stop() {
    this.#options = void 0;
    this.#interval.clear();
    this.#deadline.clear();
    this.#outstanding = void 0;
  }
  /** The network may have changed, or the machine slept: asks now, and waits less long than otherwise. */
  probe() {
    const options = this.#options;
    const sentAt = this.#outstanding?.sentAt ?? -Infinity;
    if (!options || this.runtime.now() - sentAt < PROBE_TIMEOUT_MS) return;
    this.#outstanding = void 0;
    this.#ask(options);
    this.#expect(Math.min(options.timeoutMs, PROBE_TIMEOUT_MS), 1);
  }
  /** Any frame came. */
  heard() {
    this.#heard = true;
  }
  /** Whether `id` was ours. `serverTimeMs` is absent where the answer was an error (a rate limit, say): still an answer. */
  answered(id, serverTimeMs) {
    const ping = this.#outstanding;
    if (!ping || ping.id !== id) return false;
    this.#outstanding = void 0;
    this.#deadline.clear();
    if (serverTimeMs !== void 0) this.clock.sample(ping.sentAt, serverTimeMs);
    return true;
  }
  #ask(options) {
    const delayMs = ++this.#pings < QUICK_PINGS ? Math.min(QUICK_MS, options.intervalMs) : options.intervalMs;
    this.#interval.set(delayMs, () => this.#ask(options));
    if (this.#outstanding) return;
    const sentAt = this.runtime.now();
    this.#outstanding = { id: this.ping(sentAt), sentAt };
    this.#expect(options.timeoutMs, MAX_EXCUSES);
  }
  #expect(timeoutMs, excuses) {
    this.#heard = false;
    const armedAt = this.runtime.now();
    this.#deadline.set(timeoutMs, () => {
      const late2 = this.runtime.now() - armedAt > 2 * timeoutMs;
      if (excuses > 0 && (late2 || this.#heard)) this.#expect(timeoutMs, excuses - 1);
      else this.dead();
    });
  }
};

// src/messages.ts
function messagesOf(decoded) {
  const list = Array.isArray(decoded) ? decoded : [decoded];
  for (const item of list) {
    if (typeof item?.type !== "string") throw new TypeError("a message without a type");
  }
  return list;
}

// src/link.ts
var OPEN2 = 1;
var ABANDON_CLOSE = 4002;
var GOODBYE_CLOSE = 4e3;
var ABNORMAL_CLOSE = 1006;
var MAX_HOLD_MS = 1e3;
var STRAY_MS = 6e4;
var EARLIEST_RETURN = 0.5;
var LATEST_RETURN = 0.95;
var MAX_UNSENT_BYTES = 1024 * 1024;
var Link = class {
  constructor(options, runtime, clock, tokens, requests, owner) {
    this.options = options;
    this.runtime = runtime;
    this.clock = clock;
    this.tokens = tokens;
    this.requests = requests;
    this.owner = owner;
    this.#backoff = new Backoff(runtime, options.reconnect);
    this.#timer = new Timer(runtime);
    this.#successorTimer = new Timer(runtime);
    this.#liveness = new Liveness(
      runtime,
      clock,
      (t) => this.#ping(t),
      () => this.#lose(ABANDON_CLOSE, "no answer to PING")
    );
  }
  options;
  runtime;
  clock;
  tokens;
  requests;
  owner;
  #backoff;
  #liveness;
  #timer;
  #attempt;
  /** After `GOODBYE`: opened while the present connection still serves. */
  #successor;
  #successorTimer;
  /** Of the connection that was left for its successor; the server closes it with 4505. */
  #predecessor;
  /** When an attempt to resume was last given up before its `WELCOME`. */
  #strayAt = -Infinity;
  /** What to do instead of waiting on. */
  #redial;
  /** Until then the server does not want to be dialled. */
  #notBefore = 0;
  /** The page is in the back-forward cache, or leaving: nothing is dialled. */
  #hidden = false;
  #ignorePage;
  /** Whether `WELCOME` has come and nothing ended the connection since. */
  get open() {
    return this.#attempt?.openedAt !== void 0;
  }
  /** Whether `CONNECT` is out and `WELCOME` is not yet here. */
  get greeting() {
    return this.#attempt?.connectId !== void 0 && !this.open;
  }
  /** Whether the socket has taken more than it could send. */
  get congested() {
    return (this.#attempt?.socket?.bufferedAmount ?? 0) > MAX_UNSENT_BYTES;
  }
  /** Dials, or if it waits to come back, does so now. */
  start() {
    this.#ignorePage ??= this.runtime.onPage((signal) => this.#onPage(signal));
    if (this.#attempt) return;
    void this.#dial(this.#redial ? "reconnect" : "connect");
  }
  /** Ends the connection, and the session with it (1000). The owner is not told. */
  stop() {
    this.#ignorePage?.();
    this.#ignorePage = void 0;
    this.#stopWaiting();
    this.#drop(1e3);
    this.#backoff.reset();
  }
  send(message) {
    this.sendFrame(this.options.codec.encode(message));
  }
  sendFrame(frame) {
    const socket = this.#attempt?.socket;
    if (socket?.readyState === OPEN2) socket.send(frame);
  }
  async #dial(reason) {
    this.#stopWaiting();
    this.#hidden = false;
    const attempt = { connectSentAt: this.runtime.now() };
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
  #openSocket(attempt) {
    const socket = new this.options.WebSocket(this.options.url, [this.options.codec.subprotocol]);
    attempt.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#successor === attempt ? this.#hold(attempt) : this.#greet(attempt);
    socket.onmessage = (event) => this.#receive(attempt, event.data);
    socket.onclose = (event) => {
      if (this.#attempt === attempt) this.#lose(event.code || ABNORMAL_CLOSE, event.reason);
      else if (this.#successor === attempt) this.#dropSuccessor();
    };
    socket.onerror = (event) => {
      attempt.socketError = (event?.message || event?.error?.code)?.split("\n")[0];
    };
  }
  #greet(attempt) {
    if (this.#attempt !== attempt) return;
    const hello = this.owner.hello();
    attempt.connectId = this.requests.nextId();
    attempt.connectSentAt = this.runtime.now();
    attempt.asksToResume = hello.resume !== void 0;
    this.send({ type: "CONNECT", id: attempt.connectId, ...attempt.token !== void 0 && { token: attempt.token }, ...hello });
  }
  #receive(attempt, frame) {
    if (this.#attempt !== attempt) return;
    this.#liveness.heard();
    let messages;
    try {
      messages = messagesOf(this.options.codec.decode(frame));
    } catch (cause) {
      return this.owner.complain(new DrawbridgeError("BAD_FRAME", "the server sent no message of the contract", { cause }));
    }
    for (const message of messages) {
      if (this.#attempt !== attempt) return;
      this.#handle(attempt, message);
    }
  }
  #handle(attempt, message) {
    if (attempt.asksToResume && message.type === "ERROR" && message.id === attempt.connectId && message.code === "UNSUPPORTED") {
      this.owner.resumeRefused();
      return this.#greet(attempt);
    }
    const fault = message.type === "ERROR" && (message.id === void 0 || message.id === attempt.connectId) && !message.channel;
    attempt.fault = fault ? DrawbridgeError.fromWire(message) : void 0;
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
  #welcome(attempt, message) {
    if (attempt.openedAt !== void 0) return;
    attempt.openedAt = this.runtime.now();
    this.#timer.clear();
    this.#closePredecessor();
    this.clock.restart();
    this.clock.sample(attempt.connectSentAt, message.server_time_ms);
    const heartbeatMs = message.heartbeat_ms > 0 ? message.heartbeat_ms : 25e3;
    this.#liveness.start({
      intervalMs: this.options.pingIntervalMs ?? Math.min(heartbeatMs / 2, 1e4),
      timeoutMs: this.options.pongTimeoutMs
    });
    this.owner.welcomed(message, attempt.token);
  }
  #ping(t) {
    const id = this.requests.nextId();
    this.send({ type: "PING", id, t });
    return id;
  }
  /**
   * The server names the moment at which it closes this connection, spread over its clients; or we do then. If the
   * session can be resumed, another connection is opened before that, and no message is late.
   */
  #goodbye(attempt, reconnectInMs) {
    const delayMs = Math.max(Number(reconnectInMs) || 0, 0);
    attempt.returnAt = this.runtime.now() + delayMs;
    this.#timer.set(delayMs, () => this.#lose(GOODBYE_CLOSE, "drain"));
    if (!this.owner.canResume() || this.#successor) return;
    const part = EARLIEST_RETURN + this.runtime.random() * (LATEST_RETURN - EARLIEST_RETURN);
    this.#successorTimer.set(delayMs * part, () => void this.#dialSuccessor());
  }
  async #dialSuccessor() {
    const attempt = { connectSentAt: this.runtime.now() };
    this.#successor = attempt;
    this.#successorTimer.set(this.options.connectTimeoutMs, () => this.#dropSuccessor());
    try {
      attempt.token = await this.tokens.get("reconnect");
      if (this.#successor === attempt || this.#attempt === attempt) this.#openSocket(attempt);
    } catch {
      if (this.#successor === attempt) this.#dropSuccessor();
      else if (this.#attempt === attempt) this.#lose(ABNORMAL_CLOSE, "no token");
    }
  }
  /** What is out is answered first, so that the change of the connection leaves no publish in doubt. */
  #hold(attempt) {
    const takeOver = () => this.#successor === attempt && this.#takeOver(attempt);
    this.#successorTimer.set(MAX_HOLD_MS, takeOver);
    this.owner.hold(true);
    this.requests.whenIdle(takeOver);
  }
  /** From here on nothing of the old connection counts: the server replays what follows the positions of `CONNECT`. */
  #takeOver(attempt) {
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
  #dropSuccessor() {
    const socket = this.#successor?.socket;
    this.#forgetSuccessor();
    close(socket, ABANDON_CLOSE);
    this.owner.hold(false);
  }
  #forgetSuccessor() {
    this.#successor = void 0;
    this.#successorTimer.clear();
    this.requests.whenIdle(void 0);
  }
  #closePredecessor(closeCode = GOODBYE_CLOSE) {
    close(this.#predecessor, closeCode);
    this.#predecessor = void 0;
  }
  #onPage(signal) {
    if (signal === "keep") return this.#hide(ABANDON_CLOSE);
    if (signal === "leave") return this.#hide(1e3);
    if (this.#hidden) {
      if (signal === "return") void this.#dial("reconnect");
    } else if (this.#redial) {
      if (signal !== "offline" && this.runtime.now() >= this.#notBefore) this.#redial();
    } else {
      this.#liveness.probe();
    }
  }
  /** The cache keeps no page with an open socket, and a page that leaves for good ends its session (1000). */
  #hide(closeCode) {
    if (this.#hidden) return;
    this.#stopWaiting();
    const error = closeError(this.#attempt, closeCode, "the page is hidden");
    this.#drop(closeCode);
    this.#hidden = true;
    this.owner.lost(error, void 0);
    if (closeCode === 1e3) this.owner.left();
  }
  #lose(code, reason) {
    this.#fail(closeError(this.#attempt, code, reason), code);
  }
  #fail(error, code) {
    const attempt = this.#attempt;
    const expired = code === TOKEN_EXPIRED_CLOSE;
    const tokenIsDead = expired && !this.tokens.renewable && !attempt?.fault?.retryable;
    const isOurOwn = code === TAKEN_OVER_CLOSE && this.runtime.now() - this.#strayAt < STRAY_MS;
    if (!mayReconnect(code) && !isOurOwn || tokenIsDead) return this.#end(error);
    const delayMs = this.#delay(attempt, expired);
    const successor = this.#successor;
    if (successor && !expired) return this.#promote(successor, error);
    this.#drop(ABANDON_CLOSE);
    this.#redial = () => void this.#dial(expired ? "expired" : "reconnect");
    this.#timer.set(delayMs, this.#redial);
    this.owner.lost(error, delayMs);
  }
  /** The present connection ended before the other one could take over. */
  #promote(successor, error) {
    this.#forgetSuccessor();
    this.#drop(ABANDON_CLOSE);
    this.#attempt = successor;
    this.#timer.set(this.options.connectTimeoutMs, () => this.#lose(ABANDON_CLOSE, "no WELCOME in time"));
    this.owner.lost(error, 0);
    if (this.#attempt === successor && successor.socket?.readyState === OPEN2) this.#greet(successor);
  }
  /** The wait before the next attempt. Never shorter than what the server asked for. */
  #delay(attempt, expired) {
    const now = this.runtime.now();
    this.#notBefore = Math.max(attempt?.returnAt ?? 0, now + (attempt?.fault?.retryAfterMs ?? 0));
    const stable = attempt?.openedAt !== void 0 && now - attempt.openedAt >= STABLE_MS;
    if (stable) this.#backoff.reset();
    if (attempt?.returnAt !== void 0) {
      const delayMs = Math.max(attempt.returnAt - now, 0);
      this.#backoff.widen(delayMs);
      return delayMs;
    }
    if (stable && expired) return 0;
    const retryAfterMs = attempt?.fault?.retryAfterMs ?? 0;
    this.#backoff.widen(retryAfterMs);
    return retryAfterMs + this.#backoff.next();
  }
  #end(error) {
    this.stop();
    this.owner.ended(error);
  }
  #stopWaiting() {
    this.#redial = void 0;
    this.#timer.clear();
  }
  /** Forgets the socket at once: a half-open one would take long to say that it is closed. */
  #drop(closeCode) {
    const sockets = [this.#attempt?.socket, this.#successor?.socket];
    if (this.#attempt?.asksToResume && !this.open) this.#strayAt = this.runtime.now();
    this.#attempt = void 0;
    this.#forgetSuccessor();
    this.#closePredecessor(closeCode);
    this.#timer.clear();
    this.#liveness.stop();
    for (const socket of sockets) close(socket, closeCode);
  }
};
function silence(socket) {
  socket.onopen = socket.onmessage = socket.onclose = null;
}
function close(socket, code) {
  if (!socket) return;
  silence(socket);
  try {
    socket.close(code);
  } catch {
  }
}
function blocked(thrown, url) {
  const why = thrown instanceof Error ? thrown.message : String(thrown);
  return new DrawbridgeError("CLOSED", `the WebSocket could not be created: ${why}`, { cause: thrown, hint: hintOfBlocked(url) });
}
function closeError(attempt, code, reason) {
  const retryable = mayReconnect(code);
  const { fault, socket, connectId, socketError } = attempt ?? {};
  const details = { closeCode: code, retryable, retryAfterMs: fault?.retryAfterMs, hint: fault?.hint };
  if (fault) return new DrawbridgeError(fault.code, fault.message, details);
  if (socket && connectId === void 0 && attempt?.openedAt === void 0) {
    const cause = socketError || (reason || `closed with ${code} before it was open`);
    return new DrawbridgeError("CONNECTION_LOST", `no WebSocket connection: ${cause}`, { ...details, hint: hintOf(socketError) });
  }
  const text = `the connection closed with ${code}${reason ? `: ${reason}` : ""}`;
  return new DrawbridgeError(retryable ? "CONNECTION_LOST" : "CLOSED", text, details);
}

// src/publisher.ts
var MAX_IN_FLIGHT = 1024;
var RETRY_MS = 1e3;
var MAX_WINDOW = 32;
var REPEAT_MS = 9e4;
var Publisher = class {
  constructor(link, requests, codec, runtime, timeoutMs, options = {}) {
    this.link = link;
    this.requests = requests;
    this.codec = codec;
    this.runtime = runtime;
    this.timeoutMs = timeoutMs;
    this.#retry = new Timer(runtime);
    this.#maxMessages = options.maxMessages ?? 128;
    this.#maxBytes = options.maxBytes ?? 256 * 1024;
  }
  link;
  requests;
  codec;
  runtime;
  timeoutMs;
  /** Oldest first. */
  #queue = [];
  #queuedBytes = 0;
  /** Those of the queue whose answers are out. */
  #sent = /* @__PURE__ */ new Set();
  /** How many of the queue may be out. */
  #window = 1;
  /** The rate limit asked to wait. */
  #resting = false;
  /** The connection is about to be replaced: nothing more goes out on this one. */
  #held = false;
  #inFlight = 0;
  /** Why the last connection was the last one. */
  #end;
  #retry;
  #maxMessages;
  #maxBytes;
  /** The server's `limits.message_bytes`. */
  maxMessageBytes = Infinity;
  get queued() {
    return this.#queue.length;
  }
  /** `coming`: whether a connection is there or on its way. */
  publish(channel, event, data, options, coming) {
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
  opened(maxMessageBytes) {
    this.maxMessageBytes = maxMessageBytes ?? Infinity;
    this.#window = 1;
    this.hold(false);
  }
  /** While held, publishes wait in the queue, although there is a connection. */
  hold(held) {
    this.#held = held && this.#maxMessages > 0;
    this.#flush();
  }
  lost() {
    this.#retry.clear();
    this.#resting = false;
    this.#held = false;
  }
  /** No connection will come: what waits is refused. */
  abandoned(cause) {
    this.lost();
    this.#end = cause;
    for (const publish of this.#queue.splice(0)) {
      this.#queuedBytes -= publish.bytes;
      this.#settle(publish, closed(cause));
    }
  }
  #encode(channel, event, data, options, resolve, reject) {
    const id = this.requests.nextId();
    const key = options.idempotencyKey ?? (options.retry ? this.runtime.uniqueKey() : void 0);
    let frame;
    try {
      frame = this.codec.encode({
        type: "PUBLISH_EVENT",
        id,
        channel,
        event,
        ...data !== void 0 && { data },
        ...options.key !== void 0 && { key: options.key },
        ...key !== void 0 && { idempotency_key: key }
      });
    } catch (cause) {
      const why = cause instanceof Error ? `: ${cause.message}` : "";
      throw refused("BAD_MESSAGE", `\`data\` cannot be encoded${why}`, { cause });
    }
    const deadline = new Timer(this.runtime);
    return { id, channel, repeatable: key !== void 0, doubtful: false, frame, bytes: sizeOf(frame), deadline, resolve, reject };
  }
  #tooLarge(publish) {
    if (publish.bytes <= this.maxMessageBytes) return void 0;
    return refused("TOO_LARGE", `the message has ${publish.bytes} bytes; the server takes ${this.maxMessageBytes}`);
  }
  #noRoomInFlight() {
    if (this.#inFlight < MAX_IN_FLIGHT && !this.link.congested) return void 0;
    return refused("QUEUE_FULL", "too much is in flight", { retryable: true });
  }
  #noRoomInQueue(publish, options, coming) {
    if (!coming && this.#end) return closed(this.#end);
    const off = options.queue === false || this.#maxMessages === 0;
    if (!this.link.open && (off || !coming)) return refused("NOT_CONNECTED", "there is no connection", { retryable: true });
    if (this.#queue.length < this.#maxMessages && this.#queuedBytes + publish.bytes <= this.#maxBytes) return void 0;
    return refused("QUEUE_FULL", "the offline queue is full", { retryable: true });
  }
  #send(publish, onAnswer) {
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
  #flush() {
    for (const publish of [...this.#queue]) {
      if (this.#sent.size >= this.#window || this.#resting || this.#held || !this.link.open) return;
      if (this.#sent.has(publish) || !this.#queue.includes(publish)) continue;
      const isTooOld = publish.doubtful && this.#repeatableMs(publish) <= 0;
      const refusal = this.#tooLarge(publish) ?? (isTooOld ? late(publish) : void 0);
      if (refusal) {
        this.#dequeue(publish);
        this.#settle(publish, refusal);
        continue;
      }
      this.#sent.add(publish);
      this.#send(publish, (answer) => this.#queueAnswered(publish, answer));
    }
  }
  #queueAnswered(publish, answer) {
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
  #answered(publish, answer) {
    const unknown = answer instanceof DrawbridgeError && answer.outcome === "unknown";
    if (unknown && publish.repeatable && answer.code !== "TIMEOUT") this.#repeat(publish, answer);
    else this.#settle(publish, answer);
  }
  /** Back into the queue, before what was published later. It was accepted already, so no bound refuses it. */
  #repeat(publish, cause) {
    publish.doubtful = true;
    const leftMs = this.#repeatableMs(publish);
    if (leftMs <= 0) return this.#settle(publish, cause);
    publish.deadline.shorten(leftMs);
    const at = this.#queue.findIndex(({ id }) => id > publish.id);
    this.#queue.splice(at < 0 ? this.#queue.length : at, 0, publish);
    this.#queuedBytes += publish.bytes;
    if (this.link.open) this.#rest(cause.retryAfterMs ?? RETRY_MS);
  }
  /** How much longer it may be repeated. Of two clocks, the one that saw more time pass: one may stand still in a sleep. */
  #repeatableMs({ firstSent }) {
    if (!firstSent) return REPEAT_MS;
    return REPEAT_MS - Math.max(this.runtime.now() - firstSent.at, this.runtime.wallNow() - firstSent.wallAt);
  }
  #finish(head, answer) {
    this.#dequeue(head);
    this.#settle(head, answer);
    this.#flush();
  }
  #rest(delayMs) {
    this.#resting = true;
    this.#retry.set(delayMs, () => {
      this.#resting = false;
      this.#flush();
    });
  }
  #dequeue(publish) {
    const index = this.#queue.indexOf(publish);
    if (index < 0) return;
    this.#queue.splice(index, 1);
    this.#queuedBytes -= publish.bytes;
  }
  #settle(publish, answer) {
    publish.deadline.clear();
    if (answer instanceof DrawbridgeError) return publish.reject(publishRefused(answer, publish.doubtful ? "unknown" : void 0));
    const { offset, result, local } = answer;
    publish.resolve({
      channel: publish.channel,
      ...offset !== void 0 && { offset },
      ...result !== void 0 && { result },
      ...local && { local }
    });
  }
  #late(publish) {
    const unsent = this.#queue.includes(publish) && !this.#sent.has(publish);
    const error = late(publish, unsent && !publish.doubtful ? "not_done" : "unknown");
    if (unsent) this.#finish(publish, error);
    else this.requests.abandon(publish.id, error);
  }
};
function late({ channel }, outcome = "unknown") {
  return new DrawbridgeError("TIMEOUT", "no answer in time", { retryable: true, outcome, channel });
}
function closed(cause) {
  return refused("CLOSED", cause.message, { closeCode: cause.closeCode, cause });
}
function refused(code, message, details = {}) {
  return new DrawbridgeError(code, message, { ...details, outcome: "not_done" });
}

// src/reads.ts
var Reads = class {
  constructor(link, requests, runtime, timeoutMs) {
    this.link = link;
    this.requests = requests;
    this.runtime = runtime;
    this.timeoutMs = timeoutMs;
  }
  link;
  requests;
  runtime;
  timeoutMs;
  async history(channel, { since, limit }) {
    const request = { type: "HISTORY_GET", channel, ...since && { since }, ...limit !== void 0 && { limit } };
    const { epoch, events, next, gap } = await this.#read(request);
    const page = { channel, epoch, events: events.map((event) => eventOf({ ...event, channel: event.channel ?? channel })) };
    return { ...page, ...next && { next }, ...gap && { gap } };
  }
  async presence(channel, { after, limit }) {
    const request = { type: "PRESENCE_GET", channel, ...after !== void 0 && { after }, ...limit !== void 0 && { limit } };
    const { players, total, next } = await this.#read(request);
    return { channel, players, total, ...next !== void 0 && { next } };
  }
  #read(request) {
    const { channel } = request;
    if (!this.link.open) return Promise.reject(new DrawbridgeError("NOT_CONNECTED", "there is no connection", { retryable: true, channel }));
    const id = this.requests.nextId();
    const answer = this.requests.answer(id);
    const deadline = new Timer(this.runtime);
    const late2 = new DrawbridgeError("TIMEOUT", "no answer in time", { retryable: true, channel });
    deadline.set(this.timeoutMs, () => this.requests.abandon(id, late2));
    this.link.send({ ...request, id });
    return answer.catch(withoutOutcome).finally(() => deadline.clear());
  }
};
function withoutOutcome(error) {
  if (error.outcome === void 0) throw error;
  const { outcome: _, ...details } = error;
  throw new DrawbridgeError(error.code, error.message, details);
}
async function* pages(first, read) {
  for (let from = first; ; ) {
    const page = await read(from);
    yield page;
    if (page.next === void 0) return;
    from = page.next;
  }
}

// src/requests.ts
var Requests = class {
  #lastId = 0;
  #waiting = /* @__PURE__ */ new Map();
  #onIdle;
  /** Ids are never used twice, not even on another connection. */
  nextId() {
    return ++this.#lastId;
  }
  expect(id, onAnswer) {
    this.#waiting.set(id, onAnswer);
  }
  /** The same as a promise, which rejects with an `ERROR`. */
  answer(id) {
    return new Promise(
      (resolve, reject) => this.expect(id, (answer) => answer instanceof DrawbridgeError ? reject(answer) : resolve(answer))
    );
  }
  /** Whether somebody waited for it. */
  settle(id, message) {
    return this.#end(id, message.type === "ERROR" ? DrawbridgeError.fromWire(message) : message);
  }
  /** It takes too long: a late answer will be dropped. */
  abandon(id, error) {
    this.#end(id, error);
  }
  /** Calls back once, when nothing waits for an answer; undefined: not any more. */
  whenIdle(onIdle) {
    this.#onIdle = onIdle;
    this.#noticeIdle();
  }
  /** The link broke: no answer will come. */
  lose(closeCode) {
    for (const id of [...this.#waiting.keys()]) this.#end(id, connectionLost(closeCode));
  }
  #end(id, answer) {
    const onAnswer = id === void 0 ? void 0 : this.#waiting.get(id);
    if (id === void 0 || !onAnswer) return false;
    this.#waiting.delete(id);
    onAnswer(answer);
    this.#noticeIdle();
    return true;
  }
  #noticeIdle() {
    if (this.#waiting.size > 0) return;
    const onIdle = this.#onIdle;
    this.#onIdle = void 0;
    onIdle?.();
  }
};

// src/session.ts
var UNKNOWN_MESSAGE_BYTES = 24 * 1024;
var PARTS = 3;
var POSITIONS_PER_SUBSCRIPTION = 4;
var UNKNOWN_SUBSCRIPTIONS = 256;
var Session = class {
  constructor(cursors) {
    this.cursors = cursors;
  }
  cursors;
  #name;
  #node;
  #asked = false;
  #messageBytes = UNKNOWN_MESSAGE_BYTES;
  #subscriptions = UNKNOWN_SUBSCRIPTIONS;
  /** Whether there is one that the server keeps. */
  get canResume() {
    return this.#name !== void 0;
  }
  /** How much of `CONNECT` its subscriptions may take, in characters. */
  get helloChars() {
    return Math.floor(this.#messageBytes / PARTS);
  }
  /** For a `CONNECT`. */
  resume() {
    this.#asked = this.#name !== void 0;
    if (this.#name === void 0) return void 0;
    return { session: this.#name, positions: this.cursors.positions(this.#subscriptions * POSITIONS_PER_SUBSCRIPTION, this.helloChars) };
  }
  welcomed({ session, resumed, resume_window_ms, node, limits, subscriptions = [] }) {
    const elsewhere = node !== this.#node;
    this.#name = resume_window_ms > 0 ? session : void 0;
    this.#node = node;
    this.#messageBytes = limits?.message_bytes ?? UNKNOWN_MESSAGE_BYTES;
    this.#subscriptions = limits?.subscriptions ?? UNKNOWN_SUBSCRIPTIONS;
    if (!resumed) this.cursors.clear();
    for (const item of subscriptions) {
      if (item.pending) continue;
      if (resumed && item.recovered) this.cursors.resumed(item.channel, item.epoch, elsewhere);
      else this.cursors.replace(item.channel, item);
    }
    return resumed ? "resumed" : this.#asked ? "ended" : "fresh";
  }
  /** It has ended, or is not to be taken up again. */
  forget() {
    this.#name = void 0;
    this.cursors.clear();
  }
};

// src/deferred.ts
var Deferred = class {
  resolve;
  reject;
  settled = false;
  promise = new Promise((resolve, reject) => {
    this.resolve = () => (this.settled = true, resolve());
    this.reject = (error) => (this.settled = true, reject(error));
  });
  constructor() {
    this.promise.catch(() => {
    });
  }
};

// src/entities.ts
var Entities = class {
  /** @internal */
  constructor(subscription, report, runtime, timeoutMs) {
    this.subscription = subscription;
    this.#emitter = new Emitter(report);
    this.#overdue = new Timer(runtime);
    this.#timeoutMs = timeoutMs;
    this.#report = report;
  }
  subscription;
  #emitter;
  #shown = /* @__PURE__ */ new Map();
  /** A snapshot on its way. */
  #coming;
  #stale = true;
  #synced = new Deferred();
  /** Whether the server has told of a table here: it is an entity channel. */
  #known = false;
  /** That nothing is shown without an area was reported, and no other snapshot has come since. */
  #areaMissing = false;
  #overdue;
  #timeoutMs;
  #report;
  get size() {
    return this.#shown.size;
  }
  get(key) {
    return this.#shown.get(key);
  }
  has(key) {
    return this.#shown.has(key);
  }
  [Symbol.iterator]() {
    return this.#shown.values();
  }
  /** True from a loss (or the beginning) until the next snapshot is complete: what is here may be out of date. */
  get stale() {
    return this.#stale;
  }
  /**
   * Resolves when the table is complete. Rejects when it will not be; with `TIMEOUT` where the server tells nothing of
   * one: the channel may not be `kind = "entity"`. A new promise after each loss, and for a table that comes late. Where
   * the class has `area_required` and the subscription no area the table is empty, and the client's `error` event says so.
   */
  get synced() {
    return this.#synced.promise;
  }
  /** Calls back when one comes into view; the returned function removes the handler. */
  onEnter(handler) {
    return this.#emitter.on("enter", handler);
  }
  /** Calls back for each new state of one that is in view; the returned function removes the handler. */
  onUpdate(handler) {
    return this.#emitter.on("update", ({ entity, previous }) => handler(entity, previous));
  }
  /** Calls back with the last state of one that is not in view any more; the returned function removes the handler. */
  onLeave(handler) {
    return this.#emitter.on("leave", ({ entity, reason }) => handler(entity, reason));
  }
  /** Calls back when a snapshot has taken effect, behind what it changed; the returned function removes the handler. */
  onReset(handler) {
    return this.#emitter.on("reset", handler);
  }
  /** @internal */
  entered({ entities, reset, complete, reason }) {
    this.#overdue.clear();
    this.#known = true;
    this.#noteMissingArea(reason === "area_required");
    if (reset) {
      this.#coming = /* @__PURE__ */ new Map();
      if (this.#stale) this.#renew();
    }
    if (!this.#coming) return this.#enter(entities.map((entity) => entityOf(entity)));
    for (const entity of entities) this.#coming.set(entity.key, entityOf(entity));
    if (complete) this.#replaceBy(this.#coming);
  }
  /** @internal */
  updated(message) {
    const entity = entityOf(message);
    const previous = this.#shown.get(entity.key);
    this.#coming?.set(entity.key, entity);
    if (!previous && (this.#coming || this.#stale)) return;
    this.#shown.set(entity.key, entity);
    if (previous) this.#emitter.emit("update", { entity, previous });
    else this.#emitter.emit("enter", entity);
  }
  /** @internal */
  left({ keys, reason }) {
    const gone = [];
    for (const key of keys) {
      const entity = this.#shown.get(key);
      if (entity) gone.push(entity);
      this.#shown.delete(key);
      this.#coming?.delete(key);
    }
    for (const entity of gone) this.#emitter.emit("leave", { entity, reason });
  }
  /** @internal What is here may be out of date until the next snapshot. */
  lost() {
    this.#stale = true;
    this.#coming = void 0;
    this.#overdue.clear();
    this.#renew();
  }
  /** @internal A snapshot follows if this is an entity channel, an empty one too. */
  due() {
    this.lost();
    if (!this.#known) this.#overdue.set(this.#timeoutMs, () => this.#late());
  }
  /** @internal There will be no snapshot. */
  abandoned(error) {
    this.#synced.reject(error);
  }
  /** @internal The subscription has ended. */
  end(error) {
    this.lost();
    this.abandoned(error);
    const gone = this.#shown;
    this.#shown = /* @__PURE__ */ new Map();
    for (const entity of gone.values()) this.#emitter.emit("leave", { entity, reason: "unsubscribed" });
    this.#emitter.clear();
  }
  /** `synced` resolves with an empty table, which looks like an empty world: the reason is an error of its own. */
  #noteMissingArea(missing) {
    const first = missing && !this.#areaMissing;
    this.#areaMissing = missing;
    if (!first) return;
    const { channel } = this.subscription;
    const hint = "pass one: entities(channel, { area: { x, y, radius } }), or subscription.area(…)";
    this.#report(new DrawbridgeError("AREA_REQUIRED", `${channel} shows nothing without an area; ${hint}`, { channel, hint }));
  }
  #late() {
    const { channel } = this.subscription;
    const error = new DrawbridgeError("TIMEOUT", `no table of ${channel} came: the channel may not be kind = "entity"`, { channel });
    this.abandoned(error);
    this.#report(error);
  }
  #renew() {
    if (this.#synced.settled) this.#synced = new Deferred();
  }
  #enter(entities) {
    const before = entities.map(({ key }) => this.#shown.get(key));
    for (const entity of entities) this.#shown.set(entity.key, entity);
    entities.forEach((entity, at) => this.#tell(entity, before[at]));
  }
  #replaceBy(coming) {
    const before = this.#shown;
    this.#shown = coming;
    this.#coming = void 0;
    this.#stale = false;
    this.#synced.resolve();
    for (const [key, entity] of before) if (!coming.has(key)) this.#emitter.emit("leave", { entity, reason: "reset" });
    for (const entity of [...coming.values()]) this.#tell(entity, before.get(entity.key));
    this.#emitter.emit("reset", void 0);
  }
  #tell(entity, previous) {
    if (!previous) this.#emitter.emit("enter", entity);
    else if (!same(entity, previous)) this.#emitter.emit("update", { entity, previous });
  }
};
function entityOf({ key, event, data, from, tags, ts, encoding }) {
  return {
    key,
    event,
    data: data ?? null,
    ...from !== void 0 && { from },
    ...tags !== void 0 && { tags },
    ...ts !== void 0 && { ts },
    ...encoding !== void 0 && { encoding }
  };
}
function same(a, b) {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || !a || !b || Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => name in b && same(a[name], b[name]));
}

// src/view.ts
function changedView(view, { filter = view.filter ?? null, area = view.area ?? null }) {
  return { ...filter !== null && { filter }, ...area !== null && { area: checked(area) } };
}
function difference(from, to) {
  const filter = from.filter !== to.filter;
  const area = !sameArea(from.area, to.area);
  if (!filter && !area) return void 0;
  return { ...filter && { filter: to.filter ?? null }, ...area && { area: to.area ?? null } };
}
function withoutRefused(wanted, asked, inForce) {
  const filter = wanted.filter === asked.filter ? inForce.filter : wanted.filter;
  const area = sameArea(wanted.area, asked.area) ? inForce.area : wanted.area;
  return { ...filter !== void 0 && { filter }, ...area !== void 0 && { area } };
}
function sameArea(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
function checked(area) {
  const copy = "min" in area ? { min: [area.min[0], area.min[1]], max: [area.max[0], area.max[1]] } : "follow" in area ? { follow: area.follow, radius: area.radius } : { x: area.x, y: area.y, radius: area.radius };
  for (const value of Object.values(copy).flat()) {
    if (typeof value === "number" ? !Number.isFinite(value) : value === void 0) {
      throw new DrawbridgeError("FILTER_INVALID", "an area is {x, y, radius}, {min, max} or {follow, radius}, in finite numbers");
    }
  }
  return copy;
}

// src/wish.ts
var Wish = class {
  constructor(channel, view) {
    this.channel = channel;
    this.view = view;
  }
  channel;
  view;
  phase = "offline";
  /** Counts the changes of what is wanted. */
  #version = 0;
  /** What was last sent on this connection, and the version that it was. */
  #asked;
  /** The newest version in force on this connection. */
  #settledVersion = -1;
  /** What the server last granted, on this connection or before: what a refused change falls back to. */
  granted;
  /** The view of what the server holds on this connection; undefined while it holds nothing. */
  inForce;
  /** In the order of their versions. A newer version serves as well. */
  #waiting = [];
  /** On this connection: whether nothing was missed before it. */
  recovered;
  /** Why nothing is to be waited for. */
  #failure;
  change(view) {
    this.view = view;
    this.#version++;
    this.#failure = void 0;
  }
  /** What the next message about it asks for. */
  ask() {
    this.#asked = { view: this.view, version: this.#version };
    return this.view;
  }
  /** Whether what is wanted has changed since it was last sent. */
  get outdated() {
    return this.#asked?.version !== this.#version;
  }
  get asked() {
    return this.#asked?.view ?? this.view;
  }
  /** Whether the server holds it on this connection. */
  get held() {
    return this.inForce !== void 0;
  }
  /** Whether it was granted on this connection. What a template subscribed is held before that, and without a view. */
  get active() {
    return this.#settledVersion >= 0;
  }
  /** The server has granted what was asked. */
  grant() {
    this.phase = "settled";
    this.inForce = this.granted = this.asked;
    this.#settle(this.#asked?.version ?? -1);
  }
  /** The server holds nothing any more. */
  drop() {
    this.inForce = void 0;
    this.#settledVersion = -1;
  }
  /** What the server holds is what is wanted, by whatever way. */
  settle() {
    this.phase = "settled";
    this.#settle(this.#version);
  }
  /** What was asked is refused. */
  refuse(error) {
    this.#take(this.#asked?.version ?? -1, (deferred2) => deferred2.reject(error));
  }
  fail(error) {
    this.#failure = error;
    this.#take(Infinity, (deferred2) => deferred2.reject(error));
  }
  /** Another connection: all is to be asked and confirmed anew. */
  reset() {
    this.drop();
    this.recovered = void 0;
    this.phase = "offline";
    this.#asked = void 0;
    this.#failure = void 0;
  }
  /** Settles when what is wanted now, or anything newer, is in force or refused. */
  whenInForce() {
    const last = this.#waiting.at(-1);
    if (last && (last.version === this.#version || last.version > (this.#asked?.version ?? -1))) {
      last.version = this.#version;
      return last.deferred.promise;
    }
    const deferred2 = new Deferred();
    if (this.#failure) deferred2.reject(this.#failure);
    else if (this.#settledVersion >= this.#version) deferred2.resolve();
    else this.#waiting.push({ version: this.#version, deferred: deferred2 });
    return deferred2.promise;
  }
  #settle(version) {
    this.#settledVersion = version;
    this.#take(version, (deferred2) => deferred2.resolve());
  }
  #take(version, act) {
    while (this.#waiting[0] && this.#waiting[0].version <= version) act(this.#waiting.shift().deferred);
  }
};

// src/subscriptions.ts
var MAX_IN_FLIGHT2 = 16;
var RETRY = { minDelayMs: 250, maxDelayMs: 3e4 };
var Subscription = class extends Channel {
  #subscriptions;
  #report;
  /** @internal */
  wish;
  /** @internal Once somebody asked for it, or an entity came. */
  table;
  /** @internal */
  ended = false;
  /** @internal */
  constructor(subscriptions, wish, report) {
    super(wish.channel, report);
    this.#subscriptions = subscriptions;
    this.#report = report;
    this.wish = wish;
  }
  /** `pending` until the server has confirmed it, on each connection anew. */
  get state() {
    return this.ended ? "ended" : this.wish.active ? "active" : "pending";
  }
  /** Whether the last reconnect missed nothing; undefined where that is no question, or not known yet. */
  get recovered() {
    return this.wish.recovered;
  }
  /** What of the channel is wanted now. */
  get view() {
    return this.wish.view;
  }
  /** The live table of an entity channel. */
  get entities() {
    if (isPattern(this.channel)) throw new TypeError(`${this.channel} is a pattern: entities are told by channel`);
    if (!this.table) {
      const { runtime, timeoutMs } = this.#subscriptions;
      this.table = new Entities(this, this.#report, runtime, timeoutMs);
      if (this.wish.held) this.table.due();
    }
    return this.table;
  }
  /**
   * Resolves when the server has confirmed the subscription as it is wanted now: whatever is published after that
   * arrives. Rejects when it is refused. A new promise after each change and each reconnect.
   */
  get ready() {
    return this.wish.whenInForce();
  }
  /**
   * Replaces the filter (`null`: none) on the live subscription, and resolves when it, or a newer change, is in force.
   * A bad one rejects with `FILTER_INVALID`, and the old one stays.
   */
  filter(expression) {
    return this.#subscriptions.change(this, { filter: expression });
  }
  /**
   * Replaces the area (`null`: none), as `filter` does the filter. It may be called on every frame: one change is out at
   * a time, and the newest follows it.
   */
  area(area) {
    return this.#subscriptions.change(this, { area });
  }
  /** @deprecated `filter` does the same. */
  setFilter(filter) {
    return this.filter(filter);
  }
  /** No handler is called from now on. Resolves when the server has confirmed it. */
  unsubscribe() {
    return this.ended ? Promise.resolve() : this.#subscriptions.unsubscribe(this.channel);
  }
};
var Subscriptions = class {
  constructor(link, requests, listeners, runtime, timeoutMs, continuity, owner) {
    this.link = link;
    this.requests = requests;
    this.listeners = listeners;
    this.runtime = runtime;
    this.timeoutMs = timeoutMs;
    this.continuity = continuity;
    this.owner = owner;
    this.#pause = new Timer(runtime);
    this.#backoff = new Backoff(runtime, RETRY);
  }
  link;
  requests;
  listeners;
  runtime;
  timeoutMs;
  continuity;
  owner;
  #own = /* @__PURE__ */ new Map();
  /** What the server holds by its templates or for a service, also where the application wants the same. */
  #foreign = /* @__PURE__ */ new Map();
  /** Named in a `CONNECT` that is out, or held by the session that it resumes, and no longer wanted. */
  #leaving = /* @__PURE__ */ new Set();
  #queue = /* @__PURE__ */ new Set();
  /** In `CONNECT`, and listed in `WELCOME` as automatic: the `ERROR` that refuses one comes behind. */
  #undecided = /* @__PURE__ */ new Set();
  #pause;
  #backoff;
  #paused = false;
  #inFlight = 0;
  /** How many may be in flight: one after a rate limit, and one more for each that is granted. */
  #window = MAX_IN_FLIGHT2;
  list() {
    const own = [...this.#own.values()].map(infoOf);
    return [...own, ...[...this.#foreign.values()].filter((info) => !this.#own.has(info.channel))];
  }
  /** Whether it is subscribed by name, or was when the connection broke. */
  isExact(channel) {
    return this.#own.has(channel) || this.#foreign.has(channel) || this.continuity.has(channel);
  }
  /** The same by a name or a pattern. */
  covers(channel) {
    if (this.isExact(channel)) return true;
    const names = [...this.#own.keys(), ...this.#foreign.keys(), ...this.continuity.names()];
    return names.some((name) => isPattern(name) && globMatcher(name)(channel));
  }
  /** The same name again is the same subscription; what `options` name replaces the old. */
  subscribe(channel, options) {
    const existing = this.#own.get(channel);
    const view = changedView(existing?.view ?? {}, options);
    if (existing) {
      void this.#change(existing, view);
      return existing;
    }
    const wish = new Wish(channel, view);
    const subscription = new Subscription(this, wish, (thrown) => this.owner.report(thrown));
    this.#own.set(channel, subscription);
    this.#leaving.delete(channel);
    this.listeners.add(subscription);
    this.#ask(subscription);
    return subscription;
  }
  change(subscription, options) {
    let view;
    try {
      view = changedView(subscription.view, options);
    } catch (thrown) {
      const refused2 = new Deferred();
      refused2.reject(thrown);
      return refused2.promise;
    }
    return this.#change(subscription, view);
  }
  /** The subscription by that name, if the server holds it: what comes for its table is about what it sees now. */
  live(channel) {
    const subscription = this.#own.get(channel);
    return subscription?.wish.held ? subscription : void 0;
  }
  async unsubscribe(channel) {
    const subscription = this.#own.get(channel);
    const greeted = subscription?.wish.phase === "greeted";
    const wasHeld = this.continuity.has(channel);
    const known = subscription ? subscription.wish.held || subscription.wish.phase === "asked" : this.#foreign.has(channel);
    if (subscription) {
      this.#foreign.delete(channel);
      this.#forget(subscription, { channel, reason: "client" });
    }
    if (greeted || !this.link.open && wasHeld) this.#leaving.add(channel);
    this.continuity.forget(channel);
    if (this.link.open && (known || greeted)) await this.#leave(channel);
  }
  /** For a `CONNECT`: everything, as far as it fits; the rest is asked for behind `WELCOME`. */
  hello(maxChars) {
    this.#reset();
    const requests = [];
    let chars = 0;
    for (const subscription of this.#own.values()) {
      const { wish } = subscription;
      chars += JSON.stringify(wish.view).length + wish.channel.length + 32;
      if (chars > maxChars) {
        wish.phase = "queued";
        this.#queue.add(subscription);
        continue;
      }
      wish.phase = "greeted";
      requests.push({ channel: wish.channel, ...wish.ask() });
    }
    return requests;
  }
  /** `WELCOME`: from now on `list` says what is subscribed. What follows from it waits for `opened`. */
  welcomed(subscriptions) {
    for (const item of subscriptions) {
      const subscription = this.#own.get(item.channel);
      if (subscription) subscription.wish.recovered = item.recovered;
      if (item.auto || !subscription) this.#listForeign(item);
      if (!subscription || item.pending) continue;
      if (item.auto) this.#awaitDecision(subscription);
      else this.#grant(subscription);
    }
  }
  /** Announces what `WELCOME` listed and what a new session does not have, and asks for what `CONNECT` left out. */
  opened() {
    for (const channel of this.continuity.takeEnded((name) => this.#own.has(name) || this.#foreign.has(name))) {
      this.owner.unsubscribed({ channel, reason: "session" });
    }
    for (const info of [...this.#foreign.values()]) {
      if (info.state === "active" && !this.#own.has(info.channel)) this.#announce(info);
    }
    for (const subscription of [...this.#own.values()]) {
      const { phase } = subscription.wish;
      if (phase === "settled") this.#announceOwn(subscription);
      else if (phase === "offline") this.#ask(subscription);
    }
    for (const channel of this.#leaving) if (!this.#own.has(channel)) void this.#leave(channel).catch(() => {
    });
    this.#leaving.clear();
    this.#pump();
  }
  /**
   * A message that is no answer to `CONNECT`. The errors of `CONNECT` stand directly behind `WELCOME`: what is listed
   * there and not refused by now is granted.
   */
  greetingOver() {
    for (const subscription of this.#undecided) {
      this.#undecided.delete(subscription);
      this.#granted(subscription);
    }
  }
  /** `CHANNEL_SUBSCRIBED` that answers no request: the late confirmation of one in `CONNECT`, or somebody else's doing. */
  subscribed(message) {
    const subscription = this.#own.get(message.channel);
    const byService = message.by === "server";
    if (message.recovered) this.continuity.proven(message.channel);
    if (subscription && message.recovered !== void 0) subscription.wish.recovered = message.recovered;
    if (subscription?.wish.phase === "greeted" && !byService) this.#granted(subscription);
    if (message.auto || byService || !subscription) this.#listForeign(message);
    const info = this.#foreign.get(message.channel);
    if (info?.state === "active" && !subscription) this.#announce(info);
  }
  /** `CHANNEL_UNSUBSCRIBED` that answers no request: a service or the server ended it. */
  unsubscribed(message) {
    const { channel, reason } = message;
    const subscription = this.#own.get(channel);
    const foreign = this.#foreign.delete(channel) || this.continuity.has(channel);
    if (subscription?.wish.held) {
      const error = new DrawbridgeError("UNSUBSCRIBED", `${channel} was unsubscribed by the server: ${reason}`, { channel, reason });
      this.#forget(subscription, { channel, reason, error });
    } else if (!subscription && foreign) {
      this.continuity.forget(channel);
      this.owner.unsubscribed({ channel, reason });
    }
  }
  /** An `ERROR` for one that was in `CONNECT`. Whether it was ours. */
  greetingFailed(channel, error) {
    const subscription = this.#own.get(channel);
    if (subscription?.wish.phase !== "greeted") return false;
    this.#undecided.delete(subscription);
    this.#failed(subscription, error);
    return true;
  }
  /** The connection is gone. */
  lost() {
    const all = [...this.#foreign.values(), ...[...this.#own.values()].map(infoOf)];
    this.continuity.lost(all.filter(({ state }) => state === "active").map(({ channel }) => channel));
    this.#reset();
    this.#foreign.clear();
  }
  /** There will be no connection: those who wait for a confirmation are told. What is wanted stays wanted. */
  abandoned(error) {
    for (const { wish, table } of this.#own.values()) {
      wish.fail(error);
      table?.abandoned(error);
    }
  }
  #reset() {
    this.#pause.clear();
    this.#paused = false;
    this.#window = MAX_IN_FLIGHT2;
    this.#queue.clear();
    this.#undecided.clear();
    for (const { wish, table } of this.#own.values()) {
      wish.reset();
      table?.lost();
    }
  }
  #change(subscription, view) {
    const { wish } = subscription;
    if (!subscription.ended && difference(wish.view, view)) {
      wish.change(view);
      if (wish.phase === "settled") this.#ask(subscription);
    }
    return wish.whenInForce();
  }
  #ask(subscription) {
    subscription.wish.phase = this.link.open ? "queued" : "offline";
    if (!this.link.open) return;
    this.#queue.add(subscription);
    this.#pump();
  }
  #pump() {
    for (const subscription of this.#queue) {
      if (this.#paused || this.#inFlight >= this.#window || !this.link.open) return;
      this.#queue.delete(subscription);
      this.#request(subscription);
    }
  }
  #request(subscription) {
    const { wish } = subscription;
    const { channel, held } = wish;
    const changes = difference(wish.inForce ?? {}, wish.view);
    if (held && !changes) return this.#settled(subscription);
    const id = this.requests.nextId();
    wish.phase = "asked";
    const view = wish.ask();
    this.#inFlight++;
    this.requests.expect(id, (answer) => {
      this.#inFlight--;
      if (!subscription.ended) this.#answered(subscription, answer);
      this.#pump();
    });
    if (held) this.link.send({ type: "FILTER_UPDATE", id, channel, ...changes });
    else this.link.send({ type: "CHANNEL_SUBSCRIBE", id, channel, ...view });
  }
  #answered(subscription, answer) {
    if (!(answer instanceof DrawbridgeError)) {
      this.#backoff.reset();
      this.#window = Math.min(this.#window + 1, MAX_IN_FLIGHT2);
      this.#granted(subscription);
    } else if (answer.code !== "CONNECTION_LOST") this.#failed(subscription, answer);
  }
  #listForeign({ channel, auto, pending, recovered }) {
    if (this.#leaving.has(channel)) return;
    const state = pending ? "pending" : "active";
    const by = auto ? "auto" : "server";
    this.#foreign.set(channel, { channel, pattern: isPattern(channel), by, state, ...recovered !== void 0 && { recovered } });
  }
  /** A template's subscription is live, without a view; whether ours is granted is not known yet. */
  #awaitDecision(subscription) {
    subscription.wish.inForce = {};
    subscription.table?.due();
    this.#undecided.add(subscription);
  }
  #grant(subscription) {
    const { wish, table } = subscription;
    if (!wish.held) table?.due();
    wish.grant();
  }
  #granted(subscription) {
    const first = !subscription.wish.active;
    this.#grant(subscription);
    if (first) this.#announceOwn(subscription);
    else this.#askIfOutdated(subscription);
  }
  #announceOwn(subscription) {
    this.#announce(infoOf(subscription));
    if (!subscription.ended && subscription.wish.phase === "settled") this.#askIfOutdated(subscription);
  }
  #askIfOutdated(subscription) {
    const { wish } = subscription;
    if (wish.held && !difference(wish.inForce ?? {}, wish.view)) this.#settled(subscription);
    else this.#ask(subscription);
  }
  /** What the server holds is what is wanted, by whatever way. */
  #settled(subscription) {
    const first = !subscription.wish.active;
    subscription.wish.settle();
    if (first) this.#announce(infoOf(subscription));
  }
  #announce(info) {
    this.owner.subscribed(info);
    this.continuity.live(info.channel);
  }
  #failed(subscription, error) {
    const { wish } = subscription;
    if (error.retryable) return this.#askLater(subscription, error.retryAfterMs ?? 0);
    if (error.code === "NOT_SUBSCRIBED") {
      wish.drop();
      return this.#ask(subscription);
    }
    const { granted, asked } = wish;
    if (granted && difference(granted, asked)) {
      wish.view = withoutRefused(wish.view, asked, granted);
      wish.refuse(error);
      this.owner.failed(error);
      if (!subscription.ended) this.#askIfOutdated(subscription);
    } else if (wish.outdated) {
      wish.refuse(error);
      this.#ask(subscription);
    } else {
      this.#forget(subscription, { channel: wish.channel, reason: error.code, error });
    }
  }
  /**
   * Nothing is asked for until the server's time and a random wait have passed, and then one by one: a refused request
   * counts against the same rate limit. The wait doubles while nothing is granted.
   */
  #askLater(subscription, retryAfterMs) {
    subscription.wish.phase = "queued";
    this.#queue.add(subscription);
    this.#window = 1;
    if (this.#paused) return;
    this.#paused = true;
    this.#pause.set(retryAfterMs + this.#backoff.next(), () => {
      this.#paused = false;
      this.#pump();
    });
  }
  #forget(subscription, end) {
    subscription.ended = true;
    this.#own.delete(subscription.channel);
    this.#queue.delete(subscription);
    this.#undecided.delete(subscription);
    this.continuity.forget(subscription.channel);
    this.listeners.remove(subscription);
    const error = end.error ?? ended(subscription.channel);
    subscription.wish.fail(error);
    subscription.table?.end(error);
    if (end.error) this.owner.failed(end.error);
    this.owner.unsubscribed(end);
    const info = this.#foreign.get(subscription.channel);
    if (info?.state === "active" && !this.#own.has(info.channel)) this.#announce(info);
  }
  async #leave(channel) {
    const id = this.requests.nextId();
    const answer = this.requests.answer(id);
    this.link.send({ type: "CHANNEL_UNSUBSCRIBE", id, channel });
    try {
      await answer;
    } catch (thrown) {
      const { code } = thrown;
      if (code !== "CONNECTION_LOST" && code !== "NOT_SUBSCRIBED") throw thrown;
    }
    if (this.#foreign.delete(channel)) this.owner.unsubscribed({ channel, reason: "client" });
  }
};
function infoOf(subscription) {
  const { channel, state, recovered } = subscription;
  return { channel, pattern: isPattern(channel), by: "client", state, ...recovered !== void 0 && { recovered } };
}
function ended(channel) {
  return new DrawbridgeError("UNSUBSCRIBED", `${channel} is not subscribed any more`, { channel });
}

// src/token.ts
var REFRESH_LEAD_MS = 3e4;
var REFRESH_LEAD_PART = 0.2;
var MIN_REFRESH_MS = 1e3;
var MAX_SHOWN = 40;
var Tokens = class {
  constructor(source, clock, runtime) {
    this.source = source;
    this.clock = clock;
    this.#timer = new Timer(runtime);
  }
  source;
  clock;
  #timer;
  #round = 0;
  /** Whether asking again can bring another token. */
  get renewable() {
    return typeof this.source === "function";
  }
  /** Undefined: connect without one (an anonymous player). */
  async get(reason) {
    if (typeof this.source !== "function") return this.source;
    let token;
    try {
      token = await this.source(reason);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new DrawbridgeError("TOKEN_PROVIDER", `the token provider failed: ${why}`, { retryable: true, cause });
    }
    if (token === void 0 || typeof token === "string" && !isProse(token)) return token;
    const [what, hint] = typeof token === "string" ? [`a text that is no token: ${JSON.stringify(token.slice(0, MAX_SHOWN))}`, "check the response before you read it: if (!answer.ok) throw …"] : [`${nameOf(token)}, not a string`, "return the token itself: (await fetch(…)).text()"];
    throw new DrawbridgeError("TOKEN_PROVIDER", `the token provider returned ${what}`, { retryable: true, hint });
  }
  /**
   * Keeps a connection's token fresh until `stop`. `renew` tells the server and answers with the new end, if the
   * server names one; what goes wrong is reported and tried again while there is time.
   */
  keepFresh(token, renew, report) {
    this.stop();
    if (this.renewable && token !== void 0) this.#arm(expiryOf(token), renew, report);
  }
  stop() {
    this.#round++;
    this.#timer.clear();
  }
  #arm(expiresMs, renew, report) {
    if (expiresMs === void 0) return;
    const leftMs = expiresMs - this.clock.now();
    const delayMs = leftMs - Math.min(REFRESH_LEAD_MS, leftMs * REFRESH_LEAD_PART);
    if (delayMs < MIN_REFRESH_MS) return;
    const round = this.#round;
    this.#timer.set(delayMs, async () => {
      let nextExpiryMs = expiresMs;
      try {
        const token = await this.get("refresh");
        if (round !== this.#round || token === void 0) return;
        nextExpiryMs = await renew(token) ?? expiryOf(token);
      } catch (error) {
        if (round === this.#round) report(error);
      }
      if (round === this.#round) this.#arm(nextExpiryMs, renew, report);
    });
  }
};
function isProse(text) {
  return /\S\s+\S/.test(text);
}
function nameOf(value) {
  return value === null ? "null" : typeof value === "object" ? `an object (${value.constructor?.name})` : `a ${typeof value}`;
}
function expiryOf(token) {
  try {
    const claims = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const { exp } = JSON.parse(atob(claims));
    return typeof exp === "number" ? exp * 1e3 : void 0;
  } catch {
    return void 0;
  }
}

// src/client.ts
var Drawbridge = class {
  /** The server's clock. */
  clock;
  #emitter = new Emitter((thrown) => this.#report(thrown));
  #listeners = new Listeners();
  #requests = new Requests();
  #tokens;
  #link;
  #subscriptions;
  #publisher;
  #reads;
  #cursors = new Cursors((channel) => this.#subscriptions.isExact(channel));
  #session = new Session(this.#cursors);
  #continuity = new Continuity(this.#cursors, {
    recovered: (recovered) => this.#notify("recovered", recovered),
    resync: (resync) => this.#notify("resync", resync)
  });
  #statusChange = { status: "closed", previous: "closed" };
  #welcome;
  #logger;
  #connectLog;
  #connecting;
  /** Nothing is dialled before `connect()`. In a browser `url` may be relative to the page. */
  constructor(url, options = {}) {
    const runtime = options.runtime ?? systemRuntime;
    const codec = options.codec ?? json;
    const address = socketUrl(url);
    this.#logger = options.logger === false ? silent : options.logger ?? console;
    this.#connectLog = new ConnectLog(address, typeof options.token, runtime, (message) => this.#logger.warn(message));
    this.clock = new Clock(runtime);
    this.#tokens = new Tokens(options.token, this.clock, runtime);
    this.#link = new Link(
      {
        url: address,
        WebSocket: options.WebSocket ?? globalWebSocket(),
        codec,
        reconnect: options.reconnect,
        connectTimeoutMs: options.connectTimeoutMs ?? 1e4,
        pingIntervalMs: options.pingIntervalMs,
        pongTimeoutMs: options.pongTimeoutMs ?? 5e3
      },
      runtime,
      this.clock,
      this.#tokens,
      this.#requests,
      this.#linkOwner()
    );
    const timeoutMs = options.publishTimeoutMs ?? 3e4;
    this.#subscriptions = new Subscriptions(this.#link, this.#requests, this.#listeners, runtime, timeoutMs, this.#continuity, {
      subscribed: (info) => this.#emitter.emit("subscribed", info),
      unsubscribed: (ended2) => this.#unsubscribed(ended2),
      failed: (error) => this.#complain(error),
      report: (thrown) => this.#report(thrown)
    });
    this.#publisher = new Publisher(this.#link, this.#requests, codec, runtime, timeoutMs, options.queue);
    this.#reads = new Reads(this.#link, this.#requests, runtime, timeoutMs);
  }
  get status() {
    return this.#statusChange.status;
  }
  /** The last change of `status`, with its reason: another object after each. */
  get statusChange() {
    return this.#statusChange;
  }
  /** Of the present connection; undefined while there is none. */
  get welcome() {
    return this.#welcome;
  }
  /** The player id that the token names; undefined while there is no connection. */
  get player() {
    return this.#welcome?.player;
  }
  /** All that is or should be subscribed: by this client, by the server's templates, by services. */
  get subscriptions() {
    return this.#subscriptions.list();
  }
  /** Publishes that wait for a connection. */
  get queued() {
    return this.#publisher.queued;
  }
  /**
   * Connects, and from then on stays connected until `close()` or a refusal. Resolves with the first `WELCOME`;
   * rejects when the server refuses for good. Called while waiting to reconnect, it tries at once.
   */
  connect() {
    if (this.#welcome) return Promise.resolve(this.#welcome);
    this.#connecting ??= deferred();
    const { promise } = this.#connecting;
    this.#setStatus("connecting");
    this.#link.start();
    return promise;
  }
  /** Ends the session. Subscriptions stay wanted, should `connect()` be called again. */
  close() {
    if (this.status === "closed") return;
    this.#link.stop();
    this.#ended(new DrawbridgeError("CLOSED", "the client was closed"), false);
  }
  /** Calls back on what happens to the client; the returned function removes the handler. */
  on(name, listener) {
    return this.#emitter.on(name, listener);
  }
  /** Calls back on the next one only; the returned function removes the handler before that. */
  once(name, listener) {
    return this.#emitter.once(name, listener);
  }
  /**
   * Subscribes to a channel, or with `*`, `?` or `[…]` to all channels that match. It holds over reconnects. The same
   * name again is the same subscription; a `filter` or `area` named then replaces the old one (`null`: none).
   */
  subscribe(channel, options = {}) {
    return this.#subscriptions.subscribe(channel, options);
  }
  /** Subscribes to an entity channel, and gives its live table; `subscription` is beside it. */
  entities(channel, options = {}) {
    return this.subscribe(channel, options).entities;
  }
  /** Ends whatever subscription there is by that name, a template's or a service's too. */
  unsubscribe(channel) {
    return this.#subscriptions.unsubscribe(channel);
  }
  /**
   * Listens without subscribing: for channels that the server subscribes the player to. A handle without handlers costs
   * nothing, so removing them is enough.
   */
  channel(channel) {
    const changed = () => handle.hasHandlers ? this.#listeners.add(handle) : this.#listeners.drop(handle);
    const handle = new Channel(channel, (thrown) => this.#report(thrown), changed);
    return handle;
  }
  /** Removes all handlers of what `channel` returned. */
  forget(handle) {
    this.#listeners.remove(handle);
  }
  /**
   * Publishes, and resolves when Redis has taken it. Rejects with a `DrawbridgeError` whose `outcome` says whether it
   * may have happened all the same. Without a connection it waits in the offline queue.
   */
  publish(channel, event, ...dataAndOptions) {
    const [data, options = {}] = dataAndOptions;
    return this.#publisher.publish(channel, event, data, options, this.status !== "closed");
  }
  /**
   * A page of a channel's history: the newest events, or those that follow `since`; the oldest first. The right is that
   * to subscribe, and the views of the server apply.
   */
  history(channel, options = {}) {
    return this.#reads.history(channel, options);
  }
  /** The pages that follow `since`, until the present: `for await (const { events } of game.historyPages(…))`. */
  historyPages(channel, options = {}) {
    return pages(options.since, (since) => this.#reads.history(channel, { ...options, ...since && { since } }));
  }
  /** A page of the players who are on a channel, in the order of their ids. */
  presence(channel, options = {}) {
    return this.#reads.presence(channel, options);
  }
  /** All pages: `for await (const { players } of game.presencePages(…))`. */
  presencePages(channel, options = {}) {
    return pages(options.after, (after) => this.#reads.presence(channel, { ...options, ...after !== void 0 && { after } }));
  }
  #linkOwner() {
    return {
      hello: () => this.#hello(),
      resumeRefused: () => this.#session.forget(),
      canResume: () => this.#session.canResume,
      hold: (held) => this.#publisher.hold(held),
      moved: () => this.#disconnected(),
      left: () => this.#session.forget(),
      welcomed: (message, token) => this.#welcomed(message, token),
      received: (message) => this.#received(message),
      lost: (error, retryInMs) => this.#lost(error, retryInMs),
      ended: (error) => this.#ended(error, true),
      complain: (error) => this.#complain(error)
    };
  }
  #hello() {
    const subscribe = this.#subscriptions.hello(this.#session.helloChars);
    this.#cursors.retain((channel) => this.#subscriptions.covers(channel));
    const resume = this.#session.resume();
    return { ...(subscribe.length > 0 || resume) && { subscribe }, ...resume && { resume } };
  }
  #welcomed(message, token) {
    const welcome = welcomeOf(message);
    this.#welcome = welcome;
    this.#connectLog.succeeded();
    const subscriptions = message.subscriptions ?? [];
    this.#continuity.welcomed(subscriptions, this.#session.welcomed(message));
    this.#subscriptions.welcomed(subscriptions);
    this.#setStatus("open");
    this.#emitter.emit("welcome", welcome);
    if (this.#welcome !== welcome) return;
    this.#subscriptions.opened();
    if (this.#welcome !== welcome) return;
    this.#tokens.keepFresh(
      token,
      (fresh) => this.#refresh(fresh),
      (error) => this.#report(error)
    );
    this.#publisher.opened(welcome.limits.messageBytes);
    this.#connecting?.resolve(welcome);
    this.#connecting = void 0;
  }
  #received(message) {
    const isOfGreeting = message.type === "ERROR" || message.type === "CHANNEL_UNSUBSCRIBED" && message.id === void 0;
    if (!isOfGreeting) this.#subscriptions.greetingOver();
    switch (message.type) {
      case "EVENT":
        if (!this.#cursors.accept(message)) return;
        this.#continuity.beforeEvent(message.channel);
        if (message.key !== void 0) this.#subscriptions.live(message.channel)?.table?.updated({ ...message, key: message.key });
        this.#listeners.deliver(message, (event) => this.#emitter.emit("event", event));
        return;
      case "VIEW_ENTER":
        this.#cursors.delete(message.channel);
        return this.#subscriptions.live(message.channel)?.entities.entered(message);
      case "VIEW_LEAVE":
        return this.#subscriptions.live(message.channel)?.table?.left(message);
      case "CHANNEL_SUBSCRIBED":
        this.#cursors.begin(message.channel, message);
        if (!this.#requests.settle(message.id, message)) this.#subscriptions.subscribed(message);
        return;
      case "CHANNEL_UNSUBSCRIBED":
        if (!this.#requests.settle(message.id, message)) this.#subscriptions.unsubscribed(message);
        return this.#cursors.retain((channel) => this.#subscriptions.covers(channel));
      case "POSITION":
        return this.#cursors.advance(message.channel, message);
      case "PONG":
        return this.#continuity.settle();
      case "PRESENCE_CHANGED":
        return this.#notify("presence", presenceChangeOf(message));
      case "EVENT_PUBLISHED":
      case "FILTER_UPDATED":
      case "TOKEN_REFRESHED":
      case "HISTORY":
      case "PRESENCE":
        this.#requests.settle(message.id, message);
        return;
      case "STATUS":
        if (this.#welcome) this.#setStatus(message.broker === "ok" ? "open" : "degraded");
        return;
      case "RESYNC":
        this.#cursors.replace(message.channel, message);
        this.#subscriptions.live(message.channel)?.table?.due();
        return this.#notify("resync", this.#continuity.resynced(resyncOf(message)));
      case "GOODBYE":
        return this.#emitter.emit("goodbye", { reason: message.reason, reconnectInMs: message.reconnect_in_ms });
      case "ERROR":
        return this.#failed(message);
    }
  }
  #failed(message) {
    if (this.#requests.settle(message.id, message)) return this.#subscriptions.greetingOver();
    const error = DrawbridgeError.fromWire(message);
    if (message.channel !== void 0 && this.#subscriptions.greetingFailed(message.channel, error)) return;
    if (this.#link.greeting && this.#connectLog.isActive && !this.#emitter.has("error")) return;
    this.#complain(error);
  }
  async #refresh(token) {
    const id = this.#requests.nextId();
    const answer = this.#requests.answer(id);
    this.#link.send({ type: "TOKEN_REFRESH", id, token });
    return (await answer).expires_ms;
  }
  #notify(name, notice) {
    this.#listeners.notify(name, notice);
    this.#emitter.emit(name, notice);
  }
  #unsubscribed(ended2) {
    this.#cursors.retain((channel) => this.#subscriptions.covers(channel));
    this.#emitter.emit("unsubscribed", ended2);
  }
  #lost(error, retryInMs) {
    if (retryInMs !== void 0) void this.#connectLog.failed(error, `trying again in ${Math.round(retryInMs)} ms`);
    this.#welcome = void 0;
    this.#disconnected(error.closeCode);
    this.#setStatus("connecting", error, retryInMs);
  }
  #ended(error, refused2) {
    if (refused2) void this.#connectLog.failed(error, "not trying again");
    this.#welcome = void 0;
    this.#disconnected(error.closeCode);
    this.#session.forget();
    this.#subscriptions.abandoned(error);
    this.#publisher.abandoned(error);
    this.#connecting?.reject(error);
    this.#connecting = void 0;
    this.#setStatus("closed", refused2 ? error : void 0);
  }
  #disconnected(closeCode) {
    this.#tokens.stop();
    this.#requests.lose(closeCode);
    this.#subscriptions.lost();
    this.#publisher.lost();
  }
  #setStatus(status, error, retryInMs) {
    const previous = this.status;
    if (status === previous && !error) return;
    this.#statusChange = { status, previous, ...error && { error }, ...retryInMs !== void 0 && { retryInMs } };
    this.#emitter.emit("status", this.#statusChange);
  }
  /** What the application's code threw, or an error of ours. */
  #report(thrown) {
    if (thrown instanceof DrawbridgeError) return this.#complain(thrown);
    this.#complain(new DrawbridgeError("LISTENER", `a listener threw: ${String(thrown)}`, { cause: thrown }));
  }
  #complain(error) {
    if (this.#emitter.has("error")) this.#emitter.emit("error", error, (thrown) => this.#logger.error(thrown));
    else this.#logger.error(error);
  }
};
function connect(url, options = {}) {
  const client = new Drawbridge(url, options);
  client.connect().catch(() => {
  });
  return client;
}
function deferred() {
  let resolve;
  let reject;
  const promise = new Promise((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
function welcomeOf(message) {
  const { message_bytes: messageBytes, subscriptions } = message.limits ?? {};
  return {
    connection: message.connection,
    session: message.session,
    resumed: message.resumed,
    player: message.player,
    node: message.node,
    heartbeatMs: message.heartbeat_ms,
    limits: { ...messageBytes !== void 0 && { messageBytes }, ...subscriptions !== void 0 && { subscriptions } }
  };
}
function socketUrl(url) {
  let absolute = "";
  try {
    const base = /^[/.?]/.test(String(url)) ? globalThis.location?.href : void 0;
    absolute = new URL(url, base).href.replace(/^http/, "ws");
  } catch {
  }
  if (/^wss?:/.test(absolute)) return absolute;
  throw new TypeError(`${String(url)} is not the address of a WebSocket: write it like ws://127.0.0.1:8000/ws`);
}
var silent = { warn: () => {
}, error: () => {
} };
function globalWebSocket() {
  const found = globalThis.WebSocket;
  if (found) return found;
  throw new TypeError("no WebSocket here, as in Node before 22: install the package `ws`, and pass its WebSocket as the option `WebSocket`");
}
// Annotate the CommonJS export names for ESM import in node:
0 && (module.exports = {
  Drawbridge,
  DrawbridgeError,
  connect,
  globMatcher,
  isPattern,
  json
});
