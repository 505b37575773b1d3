// Coming back with the session: what the client asks for, what it believes, and what it says to the application.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, lost, rejection, settled, setup, told } from "./support/client.js";

const at = (epoch, offset) => ({ epoch, offset });
const listed = (channel, epoch, offset, more = {}) => ({ channel, epoch, offset, ...more });

/**
 * Breaks the connection, comes back, and returns the new one with what its `CONNECT` said; not yet welcomed. `meanwhile`
 * runs while there is no connection.
 */
async function again({ server, client, runtime }, connection, meanwhile = () => {}) {
  const down = lost(client);
  connection.socket.terminate();
  const { retryInMs } = await down;
  meanwhile();
  runtime.advance(retryInMs);
  const next = await server.accept();
  const connect = await next.next("CONNECT");
  return { next, connect };
}

async function welcomed({ client }, next, connect, fields) {
  const up = told(client, "welcome");
  next.send({ ...next.welcomeTo(connect), ...fields });
  await up;
}

/** Everything the application is called for, in order. */
function journal(client) {
  const lines = [];
  client.on("recovered", ({ channel }) => lines.push(`recovered ${channel}`));
  client.on("unsubscribed", ({ channel, reason }) => reason !== "client" && lines.push(`unsubscribed ${channel} ${reason}`));
  client.on("resync", ({ channel, reason, since }) => lines.push(`resync ${channel} ${reason}${since ? ` ${since.epoch}/${since.offset}` : ""}`));
  client.on("event", ({ channel, event, data }) => event === "e" && lines.push(`${channel} ${data}`));
  return lines;
}

/** A client that is subscribed to `room:1` at `e1` 0. */
async function inRoom(t, options = {}) {
  const all = await connected(t, { pongTimeoutMs: 60_000, ...options });
  const room = all.client.subscribe("room:1");
  await all.connection.confirm("room:1");
  await room.ready;
  return { ...all, room, lines: journal(all.client) };
}

test("CONNECT names the session and how far each channel came, by whatever message", async (t) => {
  const all = await setup(t);
  const { server, client } = all;
  for (const name of ["a", "b", "c", "d", "log:*"]) client.subscribe(name);
  const opening = client.connect();
  const connection = await server.accept();
  const first = await connection.next("CONNECT");
  assert.ok(!("resume" in first), "the first connection has nothing to resume");
  connection.send({
    ...connection.welcomeTo(first),
    subscriptions: [listed("mine", "e0", 3, { auto: true }), ...["a", "b", "c"].map((name) => listed(name, "e1", 10)), { channel: "log:*", pattern: true }],
  });
  await opening;
  connection.send({ type: "CHANNEL_SUBSCRIBED", channel: "d", epoch: "e4", offset: 2 });
  connection.event("a", "e", 1, { offset: 11 });
  connection.event("a", "volatile", 1);
  connection.send({ type: "POSITION", channel: "b", epoch: "e1", offset: 17 });
  connection.send({ type: "RESYNC", channel: "c", reason: "epoch", epoch: "e2", offset: 5 });
  connection.event("c", "e", 1, { offset: 6 });
  connection.event("log:1", "e", "before any POSITION its epoch is not known", { offset: 1 });
  connection.send({ type: "POSITION", channel: "log:2", epoch: "e7", offset: 30 });
  connection.event("log:2", "e", 1, { offset: 31 });
  await settled(client, connection);
  const { connect } = await again(all, connection);
  assert.equal(connect.resume.session, "s1");
  assert.deepEqual(connect.resume.positions, {
    mine: at("e0", 3), a: at("e1", 11), b: at("e1", 17), c: at("e2", 6), d: at("e4", 2), "log:2": at("e7", 31),
  });
  assert.deepEqual(connect.subscribe.map(({ channel }) => channel), ["a", "b", "c", "d", "log:*"]);
});

test("where the server keeps no sessions none is asked for", async (t) => {
  const all = await connected(t, {}, { resume_window_ms: 0 });
  const { connect } = await again(all, all.connection);
  assert.ok(!("resume" in connect));
});

test("`close` ends the session: the next connection is a new one", async (t) => {
  const { server, client, connection } = await inRoom(t);
  client.close();
  assert.equal((await connection.closed).code, 1000);
  client.connect().catch(() => {});
  const connect = await (await server.accept()).next("CONNECT");
  assert.ok(!("resume" in connect));
  assert.deepEqual(connect.subscribe, [{ channel: "room:1" }]);
});

test("4505 without a connection of its own that took over ends it, and the session is not asked for again", async (t) => {
  const { server, client, connection } = await inRoom(t);
  const down = told(client, "status", ({ status }) => status === "closed");
  connection.socket.close(4505);
  assert.equal((await down).error.closeCode, 4505);
  client.connect().catch(() => {});
  assert.ok(!("resume" in (await (await server.accept()).next("CONNECT"))));
});

test("4505 by an attempt of this client that was given up and arrived late: it takes the session back", async (t) => {
  const all = await inRoom(t, { connectTimeoutMs: 1_000 });
  const { server, client, runtime, connection } = all;
  let down = lost(client);
  connection.socket.terminate();
  runtime.advance((await down).retryInMs);
  await (await server.accept()).next("CONNECT");
  down = lost(client);
  runtime.advance(1_000);
  runtime.advance((await down).retryInMs);
  const second = await server.accept();
  await second.welcome({ resumed: true });
  await told(client, "welcome");
  down = lost(client);
  second.socket.close(4505);
  runtime.advance((await down).retryInMs);
  const third = await server.accept();
  assert.equal((await third.next("CONNECT")).resume.session, "s1");
  third.send({ ...third.welcomeTo({ subscribe: [] }), resumed: true });
  await told(client, "welcome");
  await settled(client, third);
  for (let i = 0; i < 60; i++) {
    runtime.advance(1_000);
    await settled(client, third);
  }
  const end = told(client, "status", ({ status }) => status === "closed");
  third.socket.close(4505);
  assert.equal((await end).error.closeCode, 4505, "a minute later it is somebody else");
});

test("a server that cannot resume (UNSUPPORTED) is greeted again without", async (t) => {
  const all = await inRoom(t);
  const { next, connect } = await again(all, all.connection);
  assert.ok(connect.resume);
  next.send({ type: "ERROR", id: connect.id, code: "UNSUPPORTED", message: "resume", retryable: false });
  const second = await next.next("CONNECT");
  assert.ok(!("resume" in second));
  assert.deepEqual(second.subscribe, [{ channel: "room:1" }]);
  await welcomed(all, next, second, {});
  await all.room.ready;
  assert.deepEqual(all.lines, ["resync room:1 reconnect e1/0"]);
});

test("what was missed follows `recovered`, and nothing is said of a loss", async (t) => {
  const all = await inRoom(t);
  const { client, connection, room, lines } = all;
  const own = [];
  room.onRecovered(({ channel }) => own.push(channel));
  room.onResync(({ channel }) => own.push(`resync ${channel}`));
  connection.event("room:1", "e", 1, { offset: 1 });
  await settled(client, connection);
  assert.equal(room.recovered, undefined);
  const { next, connect } = await again(all, connection);
  assert.deepEqual(connect.resume.positions, { "room:1": at("e1", 1) });
  next.send([
    { ...next.welcomeTo(connect), resumed: true, subscriptions: [listed("room:1", "e1", 3, { recovered: true })] },
    { type: "EVENT", channel: "room:1", event: "e", data: 2, offset: 2 },
    { type: "EVENT", channel: "room:1", event: "e", data: 3, offset: 3 },
  ]);
  await settled(client, next);
  assert.deepEqual(lines, ["room:1 1", "recovered room:1", "room:1 2", "room:1 3"]);
  assert.deepEqual(own, ["room:1"]);
  assert.equal(room.recovered, true);
  assert.deepEqual(client.subscriptions, [{ channel: "room:1", pattern: false, by: "client", state: "active", recovered: true }]);
  assert.equal(client.welcome.resumed, true);
});

test("a second break in the middle of what is replayed goes on where the first part ended", async (t) => {
  const all = await inRoom(t);
  const { client, connection } = all;
  let { next, connect } = await again(all, connection);
  next.send({ ...next.welcomeTo(connect), resumed: true, subscriptions: [listed("room:1", "e1", 9, { recovered: true })] });
  next.event("room:1", "e", 1, { offset: 1 });
  next.event("room:1", "e", 4, { offset: 4 });
  await settled(client, next);
  ({ connect } = await again(all, next));
  assert.deepEqual(connect.resume.positions, { "room:1": at("e1", 4) }, "not the 9 of WELCOME");
});

test("not recovered: the server's RESYNC is the one call, with the place before the gap", async (t) => {
  const all = await inRoom(t);
  const { client, connection, room, lines } = all;
  connection.event("room:1", "e", 1, { offset: 1 });
  await settled(client, connection);
  const { next, connect } = await again(all, connection);
  next.send([
    { ...next.welcomeTo(connect), resumed: true, subscriptions: [listed("room:1", "e1", 40, { recovered: false })] },
    { type: "RESYNC", channel: "room:1", reason: "gap", epoch: "e1", offset: 37 },
    { type: "EVENT", channel: "room:1", event: "e", data: 38, offset: 38 },
  ]);
  await settled(client, next);
  assert.deepEqual(lines, ["room:1 1", "resync room:1 gap e1/1", "room:1 38"]);
  assert.equal(room.recovered, false);
  const { connect: last } = await again(all, next);
  assert.deepEqual(last.resume.positions, { "room:1": at("e1", 38) });
});

test("not recovered and no RESYNC: the client says it, before the first event, or when nothing can come any more", async (t) => {
  const all = await setup(t);
  const { server, client } = all;
  const lines = journal(client);
  for (const name of ["room:1", "room:2", "chat:*"]) client.subscribe(name);
  client.connect().catch(() => {});
  const connection = await server.accept();
  await connection.welcome();
  await settled(client, connection);
  const { next, connect } = await again(all, connection);
  next.clock = null;
  const subscriptions = ["room:1", "room:2"].map((name) => listed(name, "e2", 0, { recovered: false }));
  next.send({ ...next.welcomeTo(connect), resumed: true, subscriptions: [...subscriptions, { channel: "chat:*", pattern: true, recovered: false }] });
  next.event("room:1", "e", 1, { offset: 1 });
  next.event("chat:7", "e", 1, { offset: 4 });
  await settled(client, next);
  assert.deepEqual(lines, ["resync room:1 reconnect e1/0", "room:1 1", "resync chat:* reconnect e1/0", "chat:7 1"]);
  next.pong(await next.nextPing());
  await settled(client, next);
  assert.deepEqual(lines.slice(4), ["resync room:2 reconnect e1/0"]);
});

test("a session that has ended: a fresh connection, and a resync of each channel that was live", async (t) => {
  const all = await inRoom(t);
  const { client, connection, room, lines } = all;
  client.subscribe("asked:1");
  await connection.next("CHANNEL_SUBSCRIBE");
  connection.event("room:1", "e", 1, { offset: 1 });
  await settled(client, connection);
  const { next, connect } = await again(all, connection);
  await welcomed(all, next, connect, { session: "s2", subscriptions: [listed("room:1", "e9", 100), listed("asked:1", "e1", 0)] });
  await room.ready;
  assert.deepEqual(lines, ["room:1 1", "resync room:1 session e1/1"], "what was not live missed nothing");
  assert.equal(room.recovered, undefined);
  const { connect: last } = await again(all, next);
  assert.deepEqual(last.resume, { session: "s2", positions: { "room:1": at("e9", 100), "asked:1": at("e1", 0) } });
});

test("what the resumed session no longer may see ends as the server says", async (t) => {
  const all = await inRoom(t);
  const { next, connect } = await again(all, all.connection);
  await welcomed(all, next, connect, { resumed: true, subscriptions: [] });
  next.send({ type: "CHANNEL_UNSUBSCRIBED", channel: "room:1", reason: "forbidden" });
  next.send({ type: "ERROR", channel: "room:1", code: "FORBIDDEN", message: "no", retryable: false });
  await settled(all.client, next);
  assert.equal(all.room.state, "ended");
  assert.deepEqual(all.lines, ["unsubscribed room:1 FORBIDDEN"]);
});

test("what somebody else had subscribed and the resumed session no longer may see is reported", async (t) => {
  const all = await connected(t, {}, { subscriptions: [listed("mine", "e1", 0, { auto: true }), listed("given:1", "e1", 0)] });
  const { client, connection } = all;
  const lines = journal(client);
  const { next, connect } = await again(all, connection);
  await welcomed(all, next, connect, { resumed: true, subscriptions: [listed("mine", "e1", 0, { auto: true, recovered: true })] });
  next.send({ type: "CHANNEL_UNSUBSCRIBED", channel: "given:1", reason: "forbidden" });
  await settled(client, next);
  assert.deepEqual(lines, ["recovered mine", "unsubscribed given:1 forbidden"]);
  const { next: last, connect: third } = await again(all, next);
  assert.deepEqual(Object.keys(third.resume.positions), ["mine"]);
  await welcomed(all, last, third, { resumed: true, subscriptions: [listed("mine", "e1", 0, { auto: true, recovered: true })] });
  await settled(client, last);
  assert.deepEqual(lines.slice(2), ["recovered mine"], "it is reported once");
});

test("what somebody else had subscribed and a new session does not have is reported", async (t) => {
  const all = await connected(t, {}, { subscriptions: [listed("mine", "e1", 0, { auto: true }), listed("given:1", "e1", 0)] });
  const { client, connection } = all;
  const lines = journal(client);
  const { next, connect } = await again(all, connection);
  await welcomed(all, next, connect, { session: "s2", subscriptions: [listed("mine", "e2", 0, { auto: true })] });
  await settled(client, next);
  assert.deepEqual(lines, ["unsubscribed given:1 session", "resync mine session e1/0"]);
  assert.deepEqual(client.subscriptions.map(({ channel }) => channel), ["mine"]);
});

test("an end behind WELCOME does not grant what an ERROR behind it refuses", async (t) => {
  const mine = listed("mine", "e1", 0, { auto: true });
  const all = await connected(t, { logger: false }, { subscriptions: [mine, listed("given:1", "e1", 0)] });
  const { client, connection } = all;
  const { next, connect } = await again(all, connection, () => client.subscribe("mine", { filter: "nonsense" }));
  assert.deepEqual(connect.subscribe, [{ channel: "mine", filter: "nonsense" }]);
  const subscription = client.subscribe("mine");
  const refused = rejection(subscription.ready);
  next.send([
    { ...next.welcomeTo(connect), resumed: true, subscriptions: [mine] },
    { type: "CHANNEL_UNSUBSCRIBED", channel: "given:1", reason: "forbidden" },
    { type: "ERROR", channel: "mine", code: "FILTER_INVALID", message: "no", retryable: false },
  ]);
  assert.equal((await refused).code, "FILTER_INVALID");
  assert.equal(subscription.state, "ended");
});

test("a repeated event of a channel with history is not delivered twice", async (t) => {
  const all = await inRoom(t);
  const { client, connection, lines } = all;
  connection.send({ type: "POSITION", channel: "room:1", epoch: "e1", offset: 4 });
  for (const offset of [4, 5, 5, 3, 6]) connection.event("room:1", "e", offset, { offset });
  await settled(client, connection);
  assert.deepEqual(lines.splice(0), ["room:1 5", "room:1 6"]);
  // Another node has recovered it: only a log can do that.
  const { next, connect } = await again(all, connection);
  await welcomed(all, next, connect, { resumed: true, node: "n2", subscriptions: [listed("room:1", "e1", 8, { recovered: true })] });
  for (const offset of [6, 7, 7, 8]) next.event("room:1", "e", offset, { offset });
  await settled(client, next);
  assert.deepEqual(lines.splice(0), ["recovered room:1", "room:1 7", "room:1 8"]);
  // After another epoch has begun the same numbers are other events.
  next.send({ type: "RESYNC", channel: "room:1", reason: "epoch", epoch: "e2", offset: 6 });
  for (const offset of [7, 8]) next.event("room:1", "e", offset, { offset });
  await settled(client, next);
  assert.deepEqual(lines, ["resync room:1 epoch", "room:1 7", "room:1 8"]);
});

test("without history nothing is taken for a repeat: there batching may change the order", async (t) => {
  const all = await inRoom(t);
  for (const offset of [2, 1, 3]) all.connection.event("room:1", "e", offset, { offset });
  await settled(all.client, all.connection);
  assert.deepEqual(all.lines, ["room:1 2", "room:1 1", "room:1 3"]);
});

test("an epoch that goes on under another name keeps the place", async (t) => {
  const all = await inRoom(t);
  const { client, connection, lines } = all;
  connection.event("room:1", "e", 90, { offset: 90 });
  await settled(client, connection);
  const { next, connect } = await again(all, connection);
  await welcomed(all, next, connect, { resumed: true, subscriptions: [listed("room:1", "e2", 110, { recovered: true })] });
  next.event("room:1", "e", 95, { offset: 95 });
  await settled(client, next);
  const third = await again(all, next);
  assert.deepEqual(third.connect.resume.positions, { "room:1": at("e2", 95) });
  await welcomed(all, third.next, third.connect, { resumed: true, subscriptions: [listed("room:1", "e2", 95, { recovered: true })] });
  third.next.send({ type: "POSITION", channel: "room:1", epoch: "e3", offset: 95 });
  third.next.event("room:1", "e", 96, { offset: 96 });
  await settled(client, third.next);
  assert.deepEqual((await again(all, third.next)).connect.resume.positions, { "room:1": at("e3", 96) });
  assert.deepEqual(lines.filter((line) => line.startsWith("resync")), []);
});

test("a changed subscription keeps its place; one that was left and taken again begins anew", async (t) => {
  const all = await inRoom(t);
  const { client, connection, room } = all;
  connection.event("room:1", "e", 1, { offset: 1 });
  // Confirmed as if it were new, ahead of events that are on their way.
  connection.send({ type: "CHANNEL_SUBSCRIBED", channel: "room:1", epoch: "e1", offset: 9, auto: true });
  await settled(client, connection);
  let { next, connect } = await again(all, connection);
  assert.deepEqual(connect.resume.positions, { "room:1": at("e1", 1) });
  await welcomed(all, next, connect, { resumed: true, subscriptions: [listed("room:1", "e1", 1, { recovered: true })] });
  const leaving = room.unsubscribe();
  const leave = await next.next("CHANNEL_UNSUBSCRIBE");
  next.send({ type: "CHANNEL_UNSUBSCRIBED", id: leave.id, channel: "room:1", reason: "client" });
  await leaving;
  const anew = client.subscribe("room:1");
  const { id } = await next.next("CHANNEL_SUBSCRIBE");
  next.send({ type: "CHANNEL_SUBSCRIBED", id, channel: "room:1", epoch: "e1", offset: 30 });
  await anew.ready;
  ({ connect } = await again(all, next));
  assert.deepEqual(connect.resume.positions, { "room:1": at("e1", 30) });
});

test("what is not subscribed any more is not named, unless a pattern still shows it", async (t) => {
  const all = await setup(t);
  const { server, client } = all;
  for (const name of ["room:1", "chat:1", "chat:*"]) client.subscribe(name);
  client.connect().catch(() => {});
  const connection = await server.accept();
  await connection.welcome();
  await settled(client, connection);
  for (const name of ["room:1", "chat:1"]) {
    const leaving = client.unsubscribe(name);
    const { id } = await connection.next("CHANNEL_UNSUBSCRIBE");
    connection.send({ type: "CHANNEL_UNSUBSCRIBED", id, channel: name, reason: "client" });
    await leaving;
  }
  const { connect } = await again(all, connection);
  assert.deepEqual(Object.keys(connect.resume.positions).sort(), ["chat:*", "chat:1"].filter((name) => name in connect.resume.positions).sort());
  assert.ok(connect.resume.positions["chat:1"] && !connect.resume.positions["room:1"]);
});

test("a channel left while offline is left by the session too", async (t) => {
  const all = await connected(t, {}, { subscriptions: [listed("mine", "e1", 0, { auto: true })] });
  const { server, client, runtime, connection } = all;
  const lines = journal(client);
  const room = client.subscribe("room:1");
  await connection.confirm("room:1");
  await room.ready;
  const down = lost(client);
  connection.socket.terminate();
  const { retryInMs } = await down;
  await room.unsubscribe();
  await client.unsubscribe("mine");
  runtime.advance(retryInMs);
  const next = await server.accept();
  const connect = await next.next("CONNECT");
  assert.deepEqual([connect.subscribe, connect.resume.positions], [[], {}]);
  await welcomed(all, next, connect, { resumed: true, subscriptions: [listed("mine", "e1", 2, { auto: true, recovered: true })] });
  const left = [await next.next("CHANNEL_UNSUBSCRIBE"), await next.next("CHANNEL_UNSUBSCRIBE")];
  assert.deepEqual(left.map(({ channel }) => channel).sort(), ["mine", "room:1"]);
  await settled(client, next);
  assert.deepEqual(lines, []);
  assert.deepEqual(client.subscriptions, []);
});

test("an entity channel has no place to go on from: it is sent whole", async (t) => {
  const all = await connected(t);
  const { client, connection } = all;
  const world = client.entities("world:1");
  await connection.confirm("world:1");
  connection.enter("world:1", { a: 1 }, { reset: true });
  await world.synced;
  connection.event("world:1", "move", 2, { key: "a", offset: 7 });
  const lines = journal(client);
  await settled(client, connection);
  const { next, connect } = await again(all, connection);
  assert.deepEqual(connect.resume.positions, {});
  await welcomed(all, next, connect, { resumed: true, subscriptions: [listed("world:1", "e2", 0)] });
  next.enter("world:1", { a: 3 }, { reset: true });
  await settled(client, next);
  assert.equal(world.get("a").data, 3);
  assert.deepEqual(lines, []);
});

test("positions are bounded: named channels stay, and a pattern that lost one is not taken for whole", async (t) => {
  const all = await setup(t);
  const { server, client } = all;
  const lines = journal(client);
  client.subscribe("room:1");
  client.subscribe("log:*");
  client.connect().catch(() => {});
  const connection = await server.accept();
  const limits = { message_bytes: 1024 * 1024, subscriptions: 256 };
  await connection.welcome({ limits, subscriptions: [listed("room:1", "e1", 5), { channel: "log:*", pattern: true }] });
  for (let i = 0; i < 1_500; i++) connection.send({ type: "POSITION", channel: `log:${i}`, epoch: "e", offset: i });
  await settled(client, connection);
  const { next, connect } = await again(all, connection);
  const names = Object.keys(connect.resume.positions);
  assert.equal(names.length, 1_024);
  assert.ok(names.includes("room:1") && names.includes("log:1499") && !names.includes("log:0"));
  await welcomed(all, next, connect, {
    limits,
    resumed: true,
    subscriptions: [listed("room:1", "e1", 5, { recovered: true }), { channel: "log:*", pattern: true, recovered: true }],
  });
  await settled(client, next);
  assert.deepEqual(lines, ["recovered room:1", "resync log:* reconnect"]);
  // What was given up is not named this time either.
  const { next: last, connect: third } = await again(all, next);
  assert.ok(!("log:0" in third.resume.positions));
  await welcomed(all, last, third, {
    limits,
    resumed: true,
    subscriptions: [listed("room:1", "e1", 5, { recovered: true }), { channel: "log:*", pattern: true, recovered: true }],
  });
  await settled(client, last);
  assert.deepEqual(lines.slice(2), ["recovered room:1", "resync log:* reconnect"]);
});

test("CONNECT stays below what the server takes, and what does not fit is asked for and resynced", async (t) => {
  const all = await setup(t);
  const { server, client } = all;
  const names = Array.from({ length: 60 }, (_, i) => `room:${i}:${"x".repeat(40)}`);
  for (const name of names) client.subscribe(name);
  client.connect().catch(() => {});
  const connection = await server.accept();
  const limits = { message_bytes: 6_000, subscriptions: 256 };
  await connection.welcome({ limits });
  await settled(client, connection);
  const lines = journal(client);
  const { next, connect } = await again(all, connection);
  assert.ok(JSON.stringify(connect).length < 5_000, `${JSON.stringify(connect).length}`);
  const inConnect = connect.subscribe.map(({ channel }) => channel);
  await welcomed(all, next, connect, { limits, resumed: true, subscriptions: inConnect.map((name) => listed(name, "e1", 0, { recovered: true })) });
  for (const name of names.slice(inConnect.length)) await next.confirm(name);
  await settled(client, next);
  assert.deepEqual(lines.filter((line) => line.startsWith("resync")), names.slice(inConnect.length).map((name) => `resync ${name} reconnect e1/0`));
  assert.equal(lines.length, 60);
});

test("a pattern's late confirmation, and one while Redis was away, say whether something was missed", async (t) => {
  const all = await setup(t);
  const { server, client } = all;
  const lines = journal(client);
  for (const name of ["a", "b"]) client.subscribe(name);
  client.connect().catch(() => {});
  const connection = await server.accept();
  await connection.welcome();
  await settled(client, connection);
  const { next, connect } = await again(all, connection);
  await welcomed(all, next, connect, { resumed: true, subscriptions: ["a", "b"].map((channel) => ({ channel, pending: true })) });
  next.send({ type: "CHANNEL_SUBSCRIBED", channel: "a", epoch: "e1", offset: 0, recovered: true });
  next.send({ type: "CHANNEL_SUBSCRIBED", channel: "b", epoch: "e1", offset: 0 });
  await settled(client, next);
  assert.deepEqual(lines, ["recovered a", "resync b reconnect e1/0"]);
});

// ── GOODBYE ──────────────────────────────────────────────────────────────────────────────────────────────────────

test("GOODBYE: the new connection is there before the old one is left, and the old one's 4505 is no error", async (t) => {
  const all = await inRoom(t);
  const { server, client, runtime, connection, room, lines, errors } = all;
  runtime.chance = 0.5;
  const statuses = [];
  client.on("status", ({ status }) => statuses.push(status));
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 10_000 });
  await settled(client, connection);
  runtime.advance(7_249);
  connection.event("room:1", "e", 1, { offset: 1 });
  await settled(client, connection);
  runtime.advance(1);
  const next = await server.accept();
  const connect = await next.next("CONNECT");
  assert.deepEqual(connect.resume, { session: "s1", positions: { "room:1": at("e1", 1) } });
  // Behind the positions of `CONNECT` the old one's events are the new one's business.
  connection.event("room:1", "e", 2, { offset: 2 });
  connection.socket.close(4505);
  await connection.closed;
  next.send([
    { ...next.welcomeTo(connect), resumed: true, node: "n2", subscriptions: [listed("room:1", "e1", 2, { recovered: true })] },
    { type: "EVENT", channel: "room:1", event: "e", data: 2, offset: 2 },
  ]);
  await settled(client, next);
  assert.deepEqual(lines, ["room:1 1", "recovered room:1", "room:1 2"]);
  assert.deepEqual([statuses, errors, client.status, client.welcome.node, room.state], [[], [], "open", "n2", "active"]);
  runtime.advance(60_000);
  assert.equal(client.status, "open", "the time at which the old one would have closed means nothing any more");
});

test("GOODBYE: clients spread over the later half of the time that they are given", async (t) => {
  for (const [chance, afterMs] of [[0, 5_000], [1, 9_500]]) {
    const all = await inRoom(t);
    all.runtime.chance = chance;
    all.connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 10_000 });
    await settled(all.client, all.connection);
    const dialled = all.server.accept();
    all.runtime.advance(afterMs - 1);
    await settled(all.client, all.connection);
    assert.equal(await Promise.race([dialled, "nobody"]), "nobody");
    all.runtime.advance(1);
    await (await dialled).next("CONNECT");
  }
});

test("GOODBYE: a publish that is out is answered first, those after it go out on the new connection, once", async (t) => {
  const all = await inRoom(t);
  const { server, client, runtime, connection } = all;
  runtime.chance = 0;
  const first = client.publish("room:1", "e", 1);
  const out = await connection.next("PUBLISH_EVENT");
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 2_000 });
  await settled(client, connection);
  runtime.advance(1_000);
  const next = await server.accept();
  await settled(client, connection);
  const second = client.publish("room:1", "e", 2);
  assert.deepEqual([connection.waiting, next.waiting, client.queued], [0, 0, 1], "neither is told anything while an answer is out");
  connection.send({ type: "EVENT_PUBLISHED", id: out.id, channel: "room:1" });
  await first;
  const connect = await next.next("CONNECT");
  await welcomed(all, next, connect, { resumed: true, subscriptions: [listed("room:1", "e1", 0, { recovered: true })] });
  const { id, data } = await next.next("PUBLISH_EVENT");
  assert.equal(data, 2);
  next.send({ type: "EVENT_PUBLISHED", id, channel: "room:1" });
  await second;
});

test("GOODBYE: an answer that does not come is not waited for longer than a second", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t);
  runtime.chance = 0;
  const doubtful = rejection(client.publish("room:1", "e", 1));
  await connection.next("PUBLISH_EVENT");
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 8_000 });
  await settled(client, connection);
  runtime.advance(4_000);
  const next = await server.accept();
  await settled(client, connection);
  runtime.advance(1_000);
  await next.next("CONNECT");
  assert.deepEqual([(await doubtful).code, (await doubtful).outcome], ["CONNECTION_LOST", "unknown"]);
});

test("GOODBYE: where no new connection can be had, the old one serves until it closes", async (t) => {
  const all = await inRoom(t);
  const { server, client, runtime, connection, lines } = all;
  runtime.chance = 0;
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 10_000 });
  await settled(client, connection);
  const publish = rejection(client.publish("room:1", "e", 0));
  await connection.next("PUBLISH_EVENT");
  runtime.advance(5_000);
  const refused = await server.accept();
  refused.socket.terminate();
  await refused.closed;
  connection.event("room:1", "e", 1, { offset: 1 });
  await settled(client, connection);
  assert.deepEqual(lines, ["room:1 1"]);
  const late = client.publish("room:1", "e", 2);
  const { id } = await connection.next("PUBLISH_EVENT");
  connection.send({ type: "EVENT_PUBLISHED", id, channel: "room:1" });
  await late;
  const down = lost(client);
  connection.socket.close(4000);
  await publish;
  runtime.advance((await down).retryInMs);
  assert.deepEqual((await (await server.accept()).next("CONNECT")).resume.positions, { "room:1": at("e1", 1) });
});

test("GOODBYE: if the old one closes while the new one is dialled, the new one goes on at once", async (t) => {
  let give;
  let tokens = 0;
  const token = () => (tokens++ === 0 ? "first" : new Promise((resolve) => (give = resolve)));
  const all = await inRoom(t, { token });
  const { server, client, runtime, connection } = all;
  runtime.chance = 0;
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 10_000 });
  await settled(client, connection);
  runtime.advance(5_000);
  const down = lost(client);
  connection.socket.close(4000);
  assert.equal((await down).retryInMs, 0);
  give("second");
  const next = await server.accept();
  const connect = await next.next("CONNECT");
  assert.equal(connect.token, "second");
  assert.equal(connect.resume.session, "s1");
  await welcomed(all, next, connect, { resumed: true });
  assert.equal(client.status, "open");
});

test("GOODBYE: `close` while the new connection is dialled leaves neither", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t);
  runtime.chance = 0;
  const out = client.publish("room:1", "e", 1).catch(() => {});
  await connection.next("PUBLISH_EVENT");
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 10_000 });
  await settled(client, connection);
  runtime.advance(5_000);
  const next = await server.accept();
  await settled(client, connection);
  client.close();
  await out;
  assert.deepEqual([(await connection.closed).code, (await next.closed).code, runtime.timers], [1000, 1000, 0]);
});

test("GOODBYE: `close` before the new connection is welcomed ends the session on the old one, too", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t);
  runtime.chance = 0;
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 10_000 });
  await settled(client, connection);
  runtime.advance(5_000);
  const next = await server.accept();
  await next.next("CONNECT");
  client.close();
  assert.deepEqual([(await connection.closed).code, (await next.closed).code, runtime.timers], [1000, 1000, 0]);
});

test("GOODBYE without a session: back when it was asked to, as before", async (t) => {
  const { server, client, runtime, connection } = await connected(t, { pongTimeoutMs: 60_000 }, { resume_window_ms: 0 });
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 3_000 });
  await settled(client, connection);
  const down = lost(client);
  runtime.advance(3_000);
  assert.equal((await down).retryInMs, 0);
  runtime.advance(0);
  await (await server.accept()).welcome();
});
