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

test("`once` is called for one event, and can be taken back", async (t) => {
  const { client, connection } = await connected(t);
  const room = client.subscribe("room:1");
  await connection.confirm("room:1");
  const heard = [];
  room.once("hit", ({ data }) => heard.push(data));
  const back = room.once("hit", () => heard.push("taken back"));
  back();
  client.once("event", ({ data }) => heard.push(`client ${data}`));
  for (const data of [1, 2]) connection.event("room:1", "hit", data);
  await settled(client, connection);
  assert.deepEqual(heard, ["client 1", 1]);
});

test("a promise that a `once` handler rejects is reported", async (t) => {
  const { client, connection, errors } = await connected(t);
  const room = client.subscribe("room:1");
  await connection.confirm("room:1");
  room.once("hit", async () => {
    throw new Error("mine");
  });
  connection.event("room:1", "hit", null);
  await settled(client, connection);
  assert.deepEqual(errors.map(({ code, cause }) => [code, cause.message]), [["LISTENER", "mine"]]);
});

test("after `unsubscribe` in a handler, no other handler is called for that event", async (t) => {
  const { client, connection } = await connected(t);
  const room = client.subscribe("room:1");
  await connection.confirm("room:1");
  const heard = [];
  room.on("hit", () => {
    heard.push("first");
    void room.unsubscribe();
  });
  room.on("hit", () => heard.push("second"));
  room.onEvent(() => heard.push("any"));
  connection.event("room:1", "hit", null);
  await connection.next("CHANNEL_UNSUBSCRIBE");
  assert.deepEqual(heard, ["first"]);
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
  assert.deepEqual((await (await server.accept()).welcome()).subscribe, []);
});

test("a rate limit is waited out with jitter, and nothing more is asked meanwhile", async (t) => {
  const { client, connection, runtime } = await connected(t);
  runtime.chance = 0.5;
  const first = client.subscribe("room:1");
  refuse(connection, await connection.next("CHANNEL_SUBSCRIBE"), "RATE_LIMITED", { retryable: true, retry_after_ms: 300 });
  await settled(client, connection);
  const second = client.subscribe("room:2");
  runtime.advance(300 + 124);
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
  runtime.advance(1);
  await connection.confirm("room:1");
  await connection.confirm("room:2");
  await Promise.all([first.ready, second.ready]);
});

test("while a rate limit goes on, one request at a time tries again, after waits that double up to a bound", async (t) => {
  const { client, connection, runtime } = await connected(t, { pingIntervalMs: 1e9, pongTimeoutMs: 1e9 });
  const all = Array.from({ length: 3 }, (_, i) => client.subscribe(`room:${i}`));
  for (const _ of all) refuse(connection, await connection.next("CHANNEL_SUBSCRIBE"), "RATE_LIMITED", { retryable: true, retry_after_ms: 100 });
  await settled(client, connection);
  for (const bound of [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
    runtime.advance(100 + bound - 1);
    await settled(client, connection);
    assert.equal(connection.waiting, 0, `waits ${100 + bound} ms`);
    runtime.advance(1);
    await settled(client, connection);
    assert.equal(connection.waiting, 1);
    refuse(connection, await connection.next("CHANNEL_SUBSCRIBE"), "RATE_LIMITED", { retryable: true, retry_after_ms: 100 });
    await settled(client, connection);
  }
  runtime.advance(30_100);
  for (const _ of all) {
    const request = await connection.next("CHANNEL_SUBSCRIBE");
    connection.send({ type: "CHANNEL_SUBSCRIBED", id: request.id, channel: request.channel });
  }
  await Promise.all(all.map(({ ready }) => ready));
  client.subscribe("room:9");
  refuse(connection, await connection.next("CHANNEL_SUBSCRIBE"), "RATE_LIMITED", { retryable: true, retry_after_ms: 100 });
  await settled(client, connection);
  runtime.advance(350);
  await connection.confirm("room:9");
});

test("entries of CONNECT beyond a rate limit are asked for later, with their filter and area", async (t) => {
  const { server, client, runtime, errors } = await setup(t);
  const view = { filter: "data.hp > 0", area: { x: 1, y: 2, radius: 3 } };
  const [first, late, auto] = [client.subscribe("room:1"), client.subscribe("world:1", view), client.subscribe("player:alice", { filter: "true" })];
  const opening = client.connect();
  const connection = await server.accept();
  const { subscribe } = await connection.welcome({ subscriptions: [{ channel: "room:1" }, { channel: "player:alice", auto: true }] });
  assert.equal(subscribe.length, 3);
  for (const channel of ["world:1", "player:alice"]) {
    connection.send({ type: "ERROR", channel, code: "RATE_LIMITED", message: "slow", retryable: true, retry_after_ms: 700 });
  }
  await opening;
  await settled(client, connection);
  assert.deepEqual([first.state, late.state, auto.state], ["active", "pending", "pending"]);
  runtime.advance(700 + 249);
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
  runtime.advance(1);
  const request = await connection.confirm("world:1");
  assert.deepEqual([request.filter, request.area], [view.filter, view.area]);
  await late.ready;
  assert.equal((await connection.confirmUpdate("player:alice")).filter, "true", "the template's subscription is live already");
  await auto.ready;
  assert.deepEqual([late.state, auto.state, errors], ["active", "active", []]);
});

test("an automatic subscription in WELCOME is no answer: the ERROR behind it refuses the filter", async (t) => {
  const { server, client, errors } = await setup(t);
  const bad = client.subscribe("player:alice", { filter: "data.x ==" });
  const good = client.subscribe("game:1", { filter: "data.x == 1" });
  const said = [];
  client.on("subscribed", ({ channel, by }) => said.push(`+${channel} ${by}`));
  client.on("unsubscribed", ({ channel, reason }) => said.push(`-${channel} ${reason}`));
  const opening = client.connect();
  const connection = await server.accept();
  const auto = ["player:alice", "game:1"].map((channel) => ({ channel, auto: true }));
  const connect = await connection.next("CONNECT");
  const error = { type: "ERROR", channel: "player:alice", code: "FILTER_INVALID", message: "no", retryable: false, position: 9 };
  connection.send([{ ...connection.welcomeTo(connect), subscriptions: auto }, error]);
  await opening;
  const refused = await rejection(bad.ready);
  assert.deepEqual([refused.code, refused.position], ["FILTER_INVALID", 9]);
  await good.ready;
  assert.deepEqual([bad.state, good.state], ["ended", "active"]);
  assert.deepEqual(client.subscriptions, [
    { channel: "game:1", pattern: false, by: "client", state: "active" },
    { channel: "player:alice", pattern: false, by: "auto", state: "active" },
  ]);
  assert.deepEqual(said, ["-player:alice FILTER_INVALID", "+player:alice auto", "+game:1 client"]);
  assert.deepEqual(errors.map(({ code }) => code), ["FILTER_INVALID"]);
});

test("one that is left in a listener of `welcome` is not announced afterwards", async (t) => {
  const { server, client } = await setup(t);
  const mine = client.subscribe("player:alice", { filter: "true" });
  const said = [];
  client.on("subscribed", ({ channel, by }) => said.push(`+${channel} ${by}`));
  client.on("welcome", () => void mine.unsubscribe());
  client.connect().catch(() => {});
  const connection = await server.accept();
  await connection.welcome({ subscriptions: [{ channel: "player:alice", auto: true }] });
  const { id } = await connection.next("CHANNEL_UNSUBSCRIBE");
  connection.send({ type: "CHANNEL_UNSUBSCRIBED", id, channel: "player:alice", reason: "client" });
  await settled(client, connection);
  assert.deepEqual([said, mine.state, client.subscriptions], [[], "ended", []]);
});

test("a filter on an automatic subscription that was in force before stays wanted when a change of it is refused", async (t) => {
  const welcome = { subscriptions: [{ channel: "player:alice", auto: true }] };
  const { server, client, connection, runtime } = await connected(t, {}, welcome);
  const mine = client.subscribe("player:alice", { filter: "good" });
  await connection.confirm("player:alice");
  await mine.ready;
  const down = lost(client);
  connection.socket.terminate();
  await down;
  const changed = rejection(mine.filter("bad"));
  runtime.advance(500);
  const again = await server.accept();
  await again.welcome(welcome);
  again.send({ type: "ERROR", channel: "player:alice", code: "FILTER_INVALID", message: "no", retryable: false });
  assert.equal((await changed).code, "FILTER_INVALID");
  assert.equal((await again.confirmUpdate("player:alice")).filter, "good", "the template's subscription has no filter");
  await mine.ready;
  assert.deepEqual([mine.view.filter, mine.state], ["good", "active"]);
});

test("automatic subscriptions are listed when `status` and `welcome` tell of the connection", async (t) => {
  const { server, client } = await setup(t);
  client.subscribe("room:1");
  const seen = [];
  const look = (name) => () => seen.push([name, ...client.subscriptions.map(({ channel, state }) => `${channel} ${state}`)]);
  client.on("status", ({ status }) => status === "open" && look("status")());
  client.on("welcome", look("welcome"));
  const opening = client.connect();
  await (await server.accept()).welcome({ subscriptions: [{ channel: "room:1" }, { channel: "player:alice", auto: true }] });
  await opening;
  const all = ["room:1 active", "player:alice active"];
  assert.deepEqual(seen, [["status", ...all], ["welcome", ...all]]);
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
    ["player:alice", "session", "active"],
    ["room:1", "session", "active"],
  ]);
});
