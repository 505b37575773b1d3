// A server with logs and sessions, as the contract has them, over real sockets: it refuses what no client may say, and
// a test decides where it breaks. One client at a time.

import assert from "node:assert/strict";
import { once } from "node:events";
import { isPattern } from "../../dist/drawbridge.js";

class Log {
  epoch = "e1";
  last = 0;
  first = 1;
  /** Earlier epochs, each with the offset at which it ended. */
  ended = [];
  events = [];
  /** What Redis has lost: whoever has not seen it misses nothing that exists. */
  lost = new Set();

  append(data) {
    const event = { offset: ++this.last, data };
    this.events.push(event);
    return event;
  }

  trim(keep) {
    this.events = this.events.slice(-keep);
    this.first = this.events[0]?.offset ?? this.last + 1;
  }

  /** Redis was replaced by one that had not seen the last events. */
  newEpoch(lose = 0) {
    const lost = Math.min(lose, this.events.length);
    if (lost > 0) for (const { data } of this.events.splice(-lost)) this.lost.add(data);
    this.last -= lost;
    this.ended.push({ epoch: this.epoch, offset: this.last });
    this.epoch = `e${this.ended.length + 1}`;
  }

  cursor({ epoch, offset }) {
    const end = epoch === this.epoch ? this.last : this.ended.find((each) => each.epoch === epoch)?.offset;
    if (end === undefined || offset > end) return "epoch";
    return offset + 1 < this.first ? "gap" : "whole";
  }
}

export class LogServer {
  #server;
  #connection;
  #session;
  #sessions = 0;
  #logs = new Map();
  /** How many connections were resumed. */
  resumed = 0;

  constructor(server) {
    this.#server = server;
  }

  log(channel) {
    if (!this.#logs.has(channel)) this.#logs.set(channel, new Log());
    return this.#logs.get(channel);
  }

  /** Takes the next connection; `breakAfter`: so many messages of the answer are sent, and then it breaks. */
  async accept(breakAfter = Infinity) {
    const connection = await this.#server.accept();
    const connect = await connection.next("CONNECT");
    const channels = (connect.subscribe ?? []).map(({ channel }) => channel);
    const old = this.#resume(connect.resume, channels);
    if (old) this.resumed++;
    this.#session = { name: old?.name ?? `s${++this.#sessions}`, channels, positions: new Map() };
    const messages = [];
    const subscriptions = channels.map((channel) => this.#subscription(channel, old, connect.resume?.positions ?? {}, messages));
    const welcome = { ...connection.welcomeTo(connect), session: this.#session.name, resumed: old !== undefined, node: `n${this.#sessions}`, subscriptions };
    this.#connection = connection;
    const all = [welcome, ...messages];
    for (const message of all.slice(0, breakAfter)) connection.send(message);
    if (all.length > breakAfter) this.break();
    return connection;
  }

  /** Asks the client to move on; `meanwhile` runs when its new connection is there, and the old one still is. */
  async drain(runtime, meanwhile) {
    const old = this.#connection;
    old.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 1_000 });
    await this.#read(old);
    runtime.advance(999);
    meanwhile();
    await this.accept();
    old.socket.close(4505);
  }

  /** The client has read all that was sent. */
  async #read(connection) {
    const pong = once(connection.socket, "pong");
    connection.socket.ping();
    await pong;
  }

  #resume(resume, channels) {
    if (!resume) return undefined;
    for (const [channel, position] of Object.entries(resume.positions)) {
      assert.deepEqual(Object.keys(position), ["epoch", "offset"]);
      const { epoch, offset } = position;
      assert.ok(typeof epoch === "string" && Number.isSafeInteger(offset) && offset >= 0, JSON.stringify(position));
      assert.ok(channels.includes(channel) || channels.some((name) => isPattern(name) && channel.startsWith(name.slice(0, -1))), channel);
    }
    return resume.session === this.#session?.name ? this.#session : undefined;
  }

  #subscription(channel, old, positions, messages) {
    if (isPattern(channel)) {
      let recovered = true;
      const written = [...(old?.positions.keys() ?? [])].filter((name) => name.startsWith(channel.slice(0, -1)));
      if (written.some((name) => !(name in positions))) recovered = false;
      for (const [name, position] of Object.entries(positions)) {
        if (old && name.startsWith(channel.slice(0, -1))) recovered = this.#replay(name, position, messages) && recovered;
      }
      if (old && !recovered) messages.push({ type: "RESYNC", channel, reason: "gap" });
      return { channel, pattern: true, ...(old && { recovered }) };
    }
    const log = this.log(channel);
    const listed = { channel, epoch: log.epoch, offset: log.last };
    const position = positions[channel];
    if (!old || !position) return listed;
    return { ...listed, recovered: this.#replay(channel, position, messages) };
  }

  #replay(channel, position, messages) {
    const log = this.log(channel);
    const found = log.cursor(position);
    const from = found === "whole" ? position.offset : found === "gap" ? log.first - 1 : log.last;
    if (found !== "whole") messages.push({ type: "RESYNC", channel, reason: found, epoch: log.epoch, offset: from });
    else if (position.epoch !== log.epoch) {
      // As the node sends it where the epoch changes: here, before what follows is shown.
      const end = Math.max(position.offset, log.ended.at(-1).offset);
      for (const event of log.events.filter(({ offset }) => offset > from && offset <= end)) messages.push(this.#event(channel, event));
      messages.push({ type: "POSITION", channel, epoch: log.epoch, offset: end });
      for (const event of log.events.filter(({ offset }) => offset > end)) messages.push(this.#event(channel, event));
      this.#session.positions.set(channel, log.last);
      return true;
    }
    for (const event of log.events.filter(({ offset }) => offset > from)) messages.push(this.#event(channel, event));
    this.#session.positions.set(channel, log.last);
    return found === "whole";
  }

  #event(channel, { offset, data }) {
    return { type: "EVENT", channel, event: "e", data, offset };
  }

  publish(channel, data) {
    const event = this.log(channel).append(data);
    if (!this.#connection) return;
    const { channels, positions } = this.#session;
    if (!channels.includes(channel) && !positions.has(channel)) {
      const { epoch } = this.log(channel);
      this.#connection.send({ type: "POSITION", channel, epoch, offset: event.offset - 1 });
    }
    positions.set(channel, event.offset);
    this.#connection.send(this.#event(channel, event));
  }

  /** The epoch changes; `lose`: so many of the last events are gone, and those who saw them are told. */
  newEpoch(channel, lose) {
    const log = this.log(channel);
    log.newEpoch(lose);
    const seen = this.#session?.channels.includes(channel) || this.#session?.positions.has(channel);
    if (!this.#connection || !seen) return;
    const place = { channel, epoch: log.epoch, offset: log.last };
    this.#connection.send(lose > 0 ? { type: "RESYNC", reason: "epoch", ...place } : { type: "POSITION", ...place });
  }

  endSession() {
    this.#session = undefined;
  }

  get connected() {
    return this.#connection !== undefined;
  }

  get connection() {
    return this.#connection;
  }

  break() {
    this.#connection.socket.terminate();
    this.#connection = undefined;
  }
}
