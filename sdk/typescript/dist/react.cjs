// Drawbridge's client, built from sdk/typescript by `npm run build`. Do not edit.
"use strict";
"use client";
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __export = (target, all2) => {
  for (var name in all2)
    __defProp(target, name, { get: all2[name], enumerable: true });
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

// src/react/index.ts
var react_exports = {};
__export(react_exports, {
  useChannel: () => useChannel,
  useConnection: () => useConnection,
  useEntities: () => useEntities
});
module.exports = __toCommonJS(react_exports);
var import_react = require("react");

// src/glob.ts
var utf8 = new TextEncoder();
var [STAR, QUESTION, OPEN, CLOSE, BACKSLASH, CARET, DASH] = [..."*?[]\\^-"].map((c) => c.charCodeAt(0));
function isPattern(channel) {
  return /[*?[]/.test(channel);
}

// src/react/lease.ts
var leases = /* @__PURE__ */ new WeakMap();
function leaseOf(client, channel) {
  const ofClient = leases.get(client) ?? /* @__PURE__ */ new Map();
  leases.set(client, ofClient);
  const lease = ofClient.get(channel) ?? new Lease(client, channel, () => ofClient.delete(channel));
  ofClient.set(channel, lease);
  return lease;
}
var Lease = class {
  constructor(client, channel, forget) {
    this.client = client;
    this.channel = channel;
    this.forget = forget;
  }
  client;
  channel;
  forget;
  /** In the order of mounting; each with the function that removes its handlers, once it is attached. */
  #holders = /* @__PURE__ */ new Map();
  #subscription;
  /** The view of the application's own subscription before this lease; undefined if the lease made the subscription. */
  #borrowed;
  #error;
  /** Counts the requests: only the outcome of the last one is shown. */
  #round = 0;
  #isScheduled = false;
  /** A holder was added or changed its view, so a subscription that has ended is requested again. */
  #isWanted = false;
  #unlisten = [];
  get state() {
    return this.#subscription?.state ?? "pending";
  }
  /** Why the subscription has ended, or why the view that the holders name is not in force. */
  get error() {
    return this.#error;
  }
  /** Adds a holder; the returned function removes it. */
  hold(holder) {
    this.#holders.set(holder, void 0);
    this.viewChanged();
    return () => {
      this.#holders.get(holder)?.();
      this.#holders.delete(holder);
      this.#schedule();
    };
  }
  viewChanged() {
    this.#isWanted = true;
    this.#schedule();
  }
  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => {
      this.#isScheduled = false;
      if (this.#holders.size === 0) this.#end();
      else this.#apply();
    });
  }
  #apply() {
    const isWanted = this.#isWanted;
    this.#isWanted = false;
    const current = this.#subscription;
    if (!isWanted && current?.state === "ended") return;
    try {
      const subscription = this.#subscribe();
      this.#watch(subscription);
      for (const [holder, detach] of [...this.#holders]) {
        if (detach && subscription === current) continue;
        detach?.();
        this.#holders.set(holder, holder.attach(subscription));
      }
    } catch (thrown) {
      return this.#settle(thrown);
    }
    this.#changed();
  }
  #subscribe() {
    if (this.#unlisten.length === 0) this.#listen();
    const current = this.#subscription;
    if (!current || current.state === "ended") {
      const isApplications = this.client.subscriptions.some(({ channel, by }) => channel === this.channel && by === "client");
      this.#borrowed = isApplications ? this.client.subscribe(this.channel).view : void 0;
    }
    this.#subscription = this.client.subscribe(this.channel, this.#view());
    return this.#subscription;
  }
  /** Of filter and area each: that of the last holder that names one, or else of the application's own subscription. */
  #view() {
    const views = [...this.#holders.keys()].map(({ view }) => view).reverse();
    const filter = views.find((view) => view.filter !== void 0)?.filter;
    const area = views.find((view) => view.area !== void 0)?.area;
    return {
      filter: filter !== void 0 ? filter : this.#borrowed?.filter ?? null,
      area: area !== void 0 ? area : this.#borrowed?.area ?? null
    };
  }
  /** Takes over the outcome of the request that was just made. */
  #watch(subscription) {
    const round = ++this.#round;
    const settled = (error) => round === this.#round && this.#settle(error);
    subscription.ready.then(() => settled(void 0), settled);
  }
  #settle(error) {
    this.#error = error;
    this.#changed();
  }
  #listen() {
    this.#unlisten = [
      this.client.on("status", () => this.#changed()),
      this.client.on("subscribed", ({ channel }) => channel === this.channel && this.#settle(void 0)),
      this.client.on("unsubscribed", ({ channel, error }) => channel === this.channel && this.#settle(error))
    ];
  }
  #changed() {
    for (const holder of this.#holders.keys()) holder.changed();
  }
  #end() {
    for (const unlisten of this.#unlisten) unlisten();
    this.#unlisten = [];
    this.forget();
    const subscription = this.#subscription;
    if (!subscription || subscription.state === "ended") return;
    if (this.#borrowed) this.client.subscribe(this.channel, this.#view());
    else subscription.unsubscribe().catch(() => {
    });
  }
};

// src/react/stores.ts
var Store = class {
  /** Does nothing if `channel` is null. `first` is the snapshot before the first change. */
  constructor(client, channel, first) {
    this.client = client;
    this.channel = channel;
    this.first = first;
    this.#snapshot = first;
  }
  client;
  channel;
  first;
  view = {};
  #lease;
  #snapshot;
  #listeners = /* @__PURE__ */ new Set();
  /** Subscribes; the returned function unsubscribes. */
  hold() {
    if (this.channel === null) return void 0;
    this.#lease = leaseOf(this.client, this.channel);
    return this.#lease.hold(this);
  }
  setView(view) {
    this.view = view;
    this.#lease?.viewChanged();
  }
  changed() {
    const { state = "pending", error } = this.#lease ?? {};
    const next = this.next(this.#snapshot, { state, ...error && { error } });
    if (next === this.#snapshot) return;
    this.#snapshot = next;
    for (const listener of [...this.#listeners]) listener();
  }
  listen = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };
  snapshot = () => this.#snapshot;
  /** For server rendering and hydration. */
  initial = () => this.first;
};
var PENDING = { state: "pending" };
var ChannelStore = class extends Store {
  constructor(client, channel, handlers) {
    super(client, channel, PENDING);
    this.handlers = handlers;
  }
  handlers;
  attach(subscription) {
    return all([
      // Two listeners, so that both handlers are called even if the first one throws.
      subscription.onEvent((event) => this.#handlerOf(event.event)?.(event)),
      subscription.onEvent((event) => this.handlers().onEvent?.(event)),
      subscription.onResync((resync) => this.handlers().onResync?.(resync)),
      subscription.onRecovered((recovered) => this.handlers().onRecovered?.(recovered)),
      subscription.onPresence((change) => this.handlers().onPresence?.(change))
    ]);
  }
  /** Own properties only: players choose event names, `toString` for example. */
  #handlerOf(name) {
    const on = this.handlers().on ?? {};
    return Object.hasOwn(on, name) ? on[name] : void 0;
  }
  next(last, state) {
    return isSame(last, state) ? last : state;
  }
};
var EMPTY = { state: "pending", entities: [], stale: true };
var EntitiesStore = class extends Store {
  #table;
  /** The table has changed since the last snapshot. */
  #isOutdated = false;
  constructor(client, channel) {
    if (channel !== null && isPattern(channel)) throw new TypeError(`useEntities: ${channel} is a pattern; entities are delivered by channel`);
    super(client, channel, EMPTY);
  }
  attach(subscription) {
    const table = subscription.entities;
    const outdate = () => this.#outdate();
    this.#table = table;
    this.#isOutdated = true;
    return all([table.onEnter(outdate), table.onUpdate(outdate), table.onLeave(outdate), table.onReset(outdate), subscription.onResync(outdate)]);
  }
  /** Changes of one frame are reported one by one; the table is copied once for all of them. */
  #outdate() {
    if (this.#isOutdated) return;
    this.#isOutdated = true;
    queueMicrotask(() => this.changed());
  }
  next(last, state) {
    const stale = this.#table?.stale ?? true;
    if (!this.#isOutdated && stale === last.stale && isSame(last, state)) return last;
    const entities = this.#isOutdated && this.#table ? [...this.#table] : last.entities;
    this.#isOutdated = false;
    return { ...state, entities, stale };
  }
};
function isSame(a, b) {
  return a.state === b.state && a.error === b.error;
}
function all(unlisten) {
  return () => {
    for (const each of unlisten) each();
  };
}

// src/react/index.ts
var CONNECTING = { status: "connecting", previous: "closed" };
function useConnection(client) {
  const listen = (0, import_react.useMemo)(() => (changed) => client.on("status", changed), [client]);
  return (0, import_react.useSyncExternalStore)(listen, () => client.statusChange, () => CONNECTING);
}
function useChannel(client, channel, options = {}) {
  const handlers = (0, import_react.useRef)(options);
  (0, import_react.useInsertionEffect)(() => {
    handlers.current = options;
  });
  const store = (0, import_react.useMemo)(() => new ChannelStore(client, channel, () => handlers.current), [client, channel]);
  return useStore(store, options);
}
function useEntities(client, channel, options = {}) {
  const store = (0, import_react.useMemo)(() => new EntitiesStore(client, channel), [client, channel]);
  return useStore(store, options);
}
function useStore(store, { filter, area }) {
  const key = JSON.stringify({ filter, area });
  const view = (0, import_react.useMemo)(() => ({ ...filter !== void 0 && { filter }, ...area !== void 0 && { area } }), [key]);
  (0, import_react.useEffect)(() => store.hold(), [store]);
  (0, import_react.useEffect)(() => store.setView(view), [store, view]);
  return (0, import_react.useSyncExternalStore)(store.listen, store.snapshot, store.initial);
}
// Annotate the CommonJS export names for ESM import in node:
0 && (module.exports = {
  useChannel,
  useConnection,
  useEntities
});
