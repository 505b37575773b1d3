import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, lost, rejection, settled, setup, told } from "./support/client.js";

const refuse = (connection, request, code, fields = {}) =>
  connection.send({ type: "ERROR", id: request.id, channel: request.channel, code, message: code, retryable: false, ...fields });

test("is ready when the server has confirmed it, and not before", async (t) => {
  const { client, connection } = await connected(t);
  const subscription = client.subscribe("room:1", { filter: "true" });
  const request = await connection.next("CHANNEL_SUBSCRIBE");
  assert.deepEqual(request, { type: "CHANNEL_SUBSCRIBE", id: request.id, channel: "room:1", filter: "true" });
  await settled(client, connection);
  assert.equal(subscription.state, "pending");
  connection.send({ type: "CHANNEL_SUBSCRIBED", id: request.id, channel: "room:1", epoch: "e", offset: 3 });
  await subscription.ready;
  assert.equal(subscription.state, "active");
});

test("handlers get their events, by name and all", async (t) => {
  const { client, connection } = await connected(t);
  const room = client.subscribe("room:1");
  const [hits, all] = [[], []];
  const off = room.on("hit", (event) => hits.push(event));
  room.onEvent((event) => all.push(event.event));
  await connection.confirm("room:1");
  connection.event("room:1", "hit", { damage: 12 }, { from: "bob", offset: 119, ts: 1_790_000_000_123 });
  connection.event("room:1", "heal", null);
  connection.event("room:2", "hit", null);
  connection.send({ type: "EVENT", channel: "room:1", event: "bare" });
  await settled(client, connection);
  assert.deepEqual(hits, [{ channel: "room:1", event: "hit", data: { damage: 12 }, from: "bob", offset: 119, ts: 1_790_000_000_123 }]);
  assert.deepEqual(all, ["hit", "heal", "bare"]);
  off();
  connection.event("room:1", "hit", null);
  await settled(client, connection);
  assert.equal(hits.length, 1);
});

test("a confirmation, events and an end in one frame take effect in their order", async (t) => {
  const { client, connection } = await connected(t);
  const room = client.subscribe("room:1");
  const seen = [];
  room.onEvent(({ data }) => seen.push([data, room.state]));
  client.on("unsubscribed", ({ channel, reason }) => seen.push([channel, reason]));
  const { id } = await connection.next("CHANNEL_SUBSCRIBE");
  connection.send([
    { type: "CHANNEL_SUBSCRIBED", id, channel: "room:1" },
    { type: "EVENT", channel: "room:1", event: "e", data: 1 },
    { type: "CHANNEL_UNSUBSCRIBED", channel: "room:1", reason: "forbidden" },
    { type: "EVENT", channel: "room:1", event: "e", data: 2 },
  ]);
  await settled(client, connection);
  assert.deepEqual(seen, [[1, "active"], ["room:1", "forbidden"]]);
  assert.equal(room.state, "ended");
});

test("a pattern's handlers get every channel that it covers, under its real name", async (t) => {
  const { client, connection } = await connected(t);
  const rooms = client.subscribe("room:*");
  const seen = [];
  rooms.onEvent(({ channel }) => seen.push(channel));
  const request = await connection.next("CHANNEL_SUBSCRIBE");
  connection.send({ type: "CHANNEL_SUBSCRIBED", id: request.id, channel: "room:*", pattern: true });
  await rooms.ready;
  for (const channel of ["room:1", "room:", "hall:1", "room:2:north"]) connection.event(channel, "e", null);
  await settled(client, connection);
  assert.deepEqual(seen, ["room:1", "room:", "room:2:north"]);
  assert.equal(client.subscriptions[0].pattern, true);
});

test("a refusal ends it and says why", async (t) => {
  const { client, connection, errors } = await connected(t);
  const subscription = client.subscribe("secret:1");
  const ended = told(client, "unsubscribed");
  refuse(connection, await connection.next("CHANNEL_SUBSCRIBE"), "FORBIDDEN");
  assert.equal((await rejection(subscription.ready)).code, "FORBIDDEN");
  assert.equal((await ended).reason, "FORBIDDEN");
  assert.equal(subscription.state, "ended");
  assert.deepEqual(client.subscriptions, []);
  assert.deepEqual(errors.map(({ code }) => code), ["FORBIDDEN"]);
});

for (const withId of [true, false]) {
  test(`a refusal of what stood in CONNECT, ${withId ? "with" : "without"} its id`, async (t) => {
    const { server, client } = await setup(t);
    const bad = client.subscribe("secret:1");
    const good = client.subscribe("room:1");
    const opening = client.connect();
    const connection = await server.accept();
    const connect = await connection.next("CONNECT");
    connection.send({ type: "ERROR", ...(withId && { id: connect.id }), channel: "secret:1", code: "FORBIDDEN", message: "no", retryable: false });
    connection.send({ ...connection.welcomeTo(connect), subscriptions: [{ channel: "room:1" }] });
    await opening;
    await good.ready;
    assert.equal((await rejection(bad.ready)).code, "FORBIDDEN");
  });
}

test("what WELCOME lists as pending is confirmed later", async (t) => {
  const { server, client } = await setup(t);
  const room = client.subscribe("room:1");
  const opening = client.connect();
  const connection = await server.accept();
  await connection.welcome({ subscriptions: [{ channel: "room:1", pending: true }, { channel: "player:alice", auto: true, pending: true }] });
  await opening;
  assert.equal(room.state, "pending");
  assert.equal(client.subscriptions.find(({ channel }) => channel === "player:alice").state, "pending");
  connection.send([{ type: "CHANNEL_SUBSCRIBED", channel: "room:1" }, { type: "CHANNEL_SUBSCRIBED", channel: "player:alice", auto: true }]);
  await room.ready;
  assert.equal(client.subscriptions.find(({ channel }) => channel === "player:alice").state, "active");
});

test("lists what the server subscribed by itself, and `channel` listens to it", async (t) => {
  const { client, connection } = await connected(t, {}, { subscriptions: [{ channel: "player:alice", auto: true }] });
  const seen = [];
  const mine = client.channel("player:alice");
  mine.on("gift", ({ data }) => seen.push(data));
  connection.event("player:alice", "gift", 1);
  connection.send({ type: "CHANNEL_SUBSCRIBED", channel: "room:9", by: "server" });
  await settled(client, connection);
  assert.deepEqual(seen, [1]);
  assert.deepEqual(client.subscriptions, [
    { channel: "player:alice", pattern: false, by: "auto", state: "active" },
    { channel: "room:9", pattern: false, by: "server", state: "active" },
  ]);
  const ended = told(client, "unsubscribed");
  connection.send({ type: "CHANNEL_UNSUBSCRIBED", channel: "room:9", reason: "server", by: "server" });
  assert.deepEqual(await ended, { channel: "room:9", reason: "server" });
  client.forget(mine);
  connection.event("player:alice", "gift", 2);
  await settled(client, connection);
  assert.deepEqual(seen, [1]);
  assert.equal(connection.waiting, 0, "listening asks the server for nothing");
});

test("unsubscribe silences at once and resolves when the server has confirmed it", async (t) => {
  const { client, connection } = await connected(t);
  const room = client.subscribe("room:1");
  await connection.confirm("room:1");
  await room.ready;
  const seen = [];
  room.onEvent(() => seen.push(1));
  const leaving = room.unsubscribe();
  connection.event("room:1", "e", null);
  const request = await connection.next("CHANNEL_UNSUBSCRIBE");
  connection.send({ type: "CHANNEL_UNSUBSCRIBED", id: request.id, channel: "room:1", reason: "client" });
  await leaving;
  await room.unsubscribe();
  assert.deepEqual([seen, room.state, client.subscriptions], [[], "ended", []]);
  assert.equal((await rejection(room.filter("true"))).code, "UNSUBSCRIBED");
});

test("NOT_SUBSCRIBED and a break end an unsubscribe just as well", async (t) => {
  const { client, connection } = await connected(t, {}, { subscriptions: [{ channel: "a", auto: true }, { channel: "b", auto: true }] });
  const first = client.unsubscribe("a");
  refuse(connection, await connection.next("CHANNEL_UNSUBSCRIBE"), "NOT_SUBSCRIBED");
  await first;
  const second = client.unsubscribe("b");
  await connection.next("CHANNEL_UNSUBSCRIBE");
  connection.socket.terminate();
  await second;
});

test("unsubscribing while CONNECT is out takes it back after WELCOME", async (t) => {
  const { server, client } = await setup(t);
  const room = client.subscribe("room:1");
  const opening = client.connect();
  const connection = await server.accept();
  const connect = await connection.next("CONNECT");
  await room.unsubscribe();
  connection.send(connection.welcomeTo(connect));
  await opening;
  assert.equal((await connection.next("CHANNEL_UNSUBSCRIBE")).channel, "room:1");
  assert.deepEqual(client.subscriptions, []);
});

test("subscribing behind an unsubscribe is a new subscription", async (t) => {
  const { client, connection } = await connected(t);
  const old = client.subscribe("room:1");
  await connection.confirm("room:1");
  await old.ready;
  void old.unsubscribe();
  const fresh = client.subscribe("room:1");
  assert.notEqual(fresh, old);
  const leave = await connection.next("CHANNEL_UNSUBSCRIBE");
  connection.send({ type: "CHANNEL_UNSUBSCRIBED", id: leave.id, channel: "room:1", reason: "client" });
  await connection.confirm("room:1");
  await fresh.ready;
  assert.deepEqual([old.state, fresh.state], ["ended", "active"]);
});

test("the server's end is final: it is not asked for again", async (t) => {
  const { server, client, connection, runtime } = await connected(t);
  const room = client.subscribe("room:1");
  await connection.confirm("room:1");
  await room.ready;
  const ended = told(client, "unsubscribed");
  connection.send({ type: "CHANNEL_UNSUBSCRIBED", channel: "room:1", reason: "forbidden" });
  assert.equal((await ended).error.code, "UNSUBSCRIBED");
  const down = lost(client);
  connection.socket.terminate();
  await down;
  runtime.advance(500);
  assert.ok(!("subscribe" in (await (await server.accept()).welcome())));
});

test("a rate limit is waited out, and nothing more is asked meanwhile", async (t) => {
  const { client, connection, runtime } = await connected(t);
  const first = client.subscribe("room:1");
  refuse(connection, await connection.next("CHANNEL_SUBSCRIBE"), "RATE_LIMITED", { retryable: true, retry_after_ms: 300 });
  await settled(client, connection);
  const second = client.subscribe("room:2");
  runtime.advance(299);
  assert.equal(first.state, "pending");
  runtime.advance(1);
  await connection.confirm("room:1");
  await connection.confirm("room:2");
  await Promise.all([first.ready, second.ready]);
});

test("many subscriptions: CONNECT stays small, and the rest follows a few at a time", async (t) => {
  const { server, client } = await setup(t);
  const filter = `data.name == '${"x".repeat(900)}'`;
  const all = Array.from({ length: 60 }, (_, i) => client.subscribe(`room:${i}`, { filter }));
  const opening = client.connect();
  const connection = await server.accept();
  const connect = await connection.welcome();
  assert.ok(JSON.stringify(connect).length < 10_000);
  await opening;
  await settled(client, connection);
  let left = 60 - connect.subscribe.length;
  assert.equal(connection.waiting, 16);
  for (; left > 0; left--) {
    const request = await connection.next("CHANNEL_SUBSCRIBE");
    connection.send({ type: "CHANNEL_SUBSCRIBED", id: request.id, channel: request.channel });
  }
  await Promise.all(all.map(({ ready }) => ready));
});

test("RESYNC is told to the client, the channel and the patterns that cover it", async (t) => {
  const { client, connection } = await connected(t, {}, { subscriptions: [{ channel: "room:1", auto: true }] });
  const seen = [];
  client.on("resync", ({ reason }) => seen.push(`client ${reason}`));
  client.channel("room:1").onResync(({ offset }) => seen.push(`exact ${offset}`));
  client.channel("room:*").onResync(({ channel }) => seen.push(`pattern ${channel}`));
  client.channel("room:2").onResync(() => seen.push("other"));
  connection.send({ type: "RESYNC", channel: "room:1", reason: "broker", epoch: "e", offset: 7 });
  await settled(client, connection);
  assert.deepEqual(seen, ["exact 7", "pattern room:1", "client broker"]);
});

test("coming back without the session says that something may be missed, once confirmed; with it, not", async (t) => {
  const { server, client, connection, runtime } = await connected(t, {}, { subscriptions: [{ channel: "player:alice", auto: true }] });
  const seen = [];
  const room = client.subscribe("room:1");
  client.on("resync", ({ channel, reason }) => seen.push([channel, reason, room.state]));
  await connection.confirm("room:1");
  await room.ready;
  let current = connection;
  for (const resumed of [false, true]) {
    const down = lost(client);
    current.socket.terminate();
    await down;
    runtime.advance(1_000);
    current = await server.accept();
    const connect = await current.welcome({ resumed, subscriptions: [{ channel: "player:alice", auto: true }, { channel: "room:1" }] });
    assert.deepEqual(connect.subscribe, [{ channel: "room:1" }]);
    await room.ready;
    await settled(client, current);
  }
  assert.deepEqual(seen, [
    ["player:alice", "reconnect", "pending"],
    ["room:1", "reconnect", "active"],
  ]);
});
