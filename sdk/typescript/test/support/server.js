// A server that says exactly what a test tells it to, over real sockets.

import assert from "node:assert/strict";
import { once } from "node:events";
import { inspect } from "node:util";
import { WebSocketServer } from "ws";

/** Awaits values in the order in which they come. */
class Inbox {
  #values = [];
  #takers = [];

  put(value) {
    const taker = this.#takers.shift();
    if (taker) taker(value);
    else this.#values.push(value);
  }

  take() {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    return new Promise((resolve) => this.#takers.push(resolve));
  }

  get size() {
    return this.#values.length;
  }
}

const json = { encode: (message) => JSON.stringify(message), decode: (data) => JSON.parse(data.toString()) };

class ServerConnection {
  #messages = new Inbox();
  #pings = new Inbox();
  #codec;
  /** Answer `PING` with this clock; null: by hand. */
  clock = () => 1_700_000_000_000;
  closed;

  constructor(socket, codec) {
    this.socket = socket;
    this.#codec = codec;
    this.closed = once(socket, "close").then(([code, reason]) => ({ code, reason: reason.toString() }));
    socket.on("error", () => {});
    socket.on("message", (data, binary) => {
      this.lastFrameBinary = binary;
      const decoded = this.#codec.decode(data);
      for (const message of Array.isArray(decoded) ? decoded : [decoded]) this.#receive(message);
    });
  }

  #receive(message) {
    if (message.type !== "PING") return this.#messages.put(message);
    if (this.clock) this.pong(message);
    else this.#pings.put(message);
  }

  /** The next message but `PING`, which must be of that type. */
  async next(type) {
    const message = await this.#messages.take();
    assert.equal(message.type, type, inspect(message));
    return message;
  }

  /** How many messages wait to be taken. */
  get waiting() {
    return this.#messages.size;
  }

  nextPing() {
    return this.#pings.take();
  }

  pong(ping, serverTimeMs = this.clock?.() ?? 0) {
    this.send({ type: "PONG", id: ping.id, t: ping.t, server_time_ms: serverTimeMs });
  }

  send(message) {
    this.socket.send(this.#codec.encode(message));
  }

  raw(frame) {
    this.socket.send(frame);
  }

  /** Takes `CONNECT` and welcomes it with all that it asked for. */
  async welcome(fields = {}) {
    const connect = await this.next("CONNECT");
    this.send({ ...this.welcomeTo(connect), ...fields });
    return connect;
  }

  welcomeTo(connect) {
    return {
      type: "WELCOME",
      id: connect.id,
      connection: "c1",
      session: "s1",
      resumed: false,
      player: "alice",
      node: "n1",
      server_time_ms: 1_700_000_000_000,
      heartbeat_ms: 25_000,
      resume_window_ms: 60_000,
      limits: { message_bytes: 65_536, subscriptions: 256 },
      subscriptions: (connect.subscribe ?? []).map(({ channel }) => ({ channel, epoch: "e1", offset: 0 })),
    };
  }

  /** Confirms the next subscribe. */
  async confirm(channel) {
    const request = await this.next("CHANNEL_SUBSCRIBE");
    assert.equal(request.channel, channel);
    this.send({ type: "CHANNEL_SUBSCRIBED", id: request.id, channel, epoch: "e1", offset: 0 });
    return request;
  }

  /** Confirms the next change of a live view. */
  async confirmUpdate(channel) {
    const request = await this.next("FILTER_UPDATE");
    assert.equal(request.channel, channel);
    this.send({ type: "FILTER_UPDATED", id: request.id, channel });
    return request;
  }

  /** Entities by key, each with its data; `reset` and `complete` as given. */
  enter(channel, entities, { reset = false, complete = true } = {}) {
    const list = Object.entries(entities).map(([key, data]) => ({ key, event: "move", data }));
    this.send({ type: "VIEW_ENTER", channel, ...(reset && { reset }), complete, entities: list });
  }

  leave(channel, keys, reason = "view") {
    this.send({ type: "VIEW_LEAVE", channel, keys, reason });
  }

  event(channel, event, data, fields = {}) {
    this.send({ type: "EVENT", channel, event, data, ...fields });
  }
}

export class FakeServer {
  #sockets;
  #connections = new Inbox();

  static async start(t, { codec = json, subprotocol = "drawbridge.v1.json" } = {}) {
    const server = new FakeServer();
    server.#sockets = new WebSocketServer({
      host: "127.0.0.1",
      port: 0,
      handleProtocols: (offered) => (offered.has(subprotocol) ? subprotocol : false),
    });
    server.#sockets.on("connection", (socket) => server.#connections.put(new ServerConnection(socket, codec)));
    await once(server.#sockets, "listening");
    t.after(() => {
      for (const socket of server.#sockets.clients) socket.terminate();
      server.#sockets.close();
    });
    return server;
  }

  get url() {
    return `ws://127.0.0.1:${this.#sockets.address().port}/ws`;
  }

  /** The next connection. */
  accept() {
    return this.#connections.take();
  }
}
