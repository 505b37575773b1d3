// Filters and areas of live subscriptions: what is asked of the server, and what the promises of changes mean.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, lost, rejection, settled, setup } from "./support/client.js";

const circle = (x) => ({ x, y: 0, radius: 50 });

const refuse = (connection, request, code, fields = {}) =>
  connection.send({ type: "ERROR", id: request.id, channel: request.channel, code, message: code, retryable: false, ...fields });

/** A confirmed subscription to `world:1`. */
async function viewing(t, view = {}) {
  const all = await connected(t);
  const world = all.client.subscribe("world:1", view);
  const request = await all.connection.confirm("world:1");
  await world.ready;
  return { ...all, world, request };
}

async function comeBack({ server, client, connection, runtime }) {
  const down = lost(client);
  connection.socket.terminate();
  await down;
  runtime.advance(500);
  return server.accept();
}

/** Whether a promise has settled by now. */
async function isSettled(promise) {
  const pending = Symbol("pending");
  const first = await Promise.race([promise.then(() => true, () => true), new Promise((resolve) => setImmediate(resolve, pending))]);
  return first !== pending;
}

test("filter and area go along with the subscribe", async (t) => {
  const { world, request } = await viewing(t, { filter: "true", area: circle(1) });
  assert.deepEqual(request, { type: "CHANNEL_SUBSCRIBE", id: request.id, channel: "world:1", filter: "true", area: circle(1) });
  assert.deepEqual(world.view, { filter: "true", area: circle(1) });
});

test("a change names what changes, and null for what is removed", async (t) => {
  const { client, connection, world } = await viewing(t, { filter: "data.hp > 1", area: circle(1) });
  const update = async (change) => {
    const { id, ...request } = await connection.confirmUpdate("world:1");
    await change;
    return request;
  };
  const head = { type: "FILTER_UPDATE", channel: "world:1" };
  assert.deepEqual(await update(world.filter("data.hp > 2")), { ...head, filter: "data.hp > 2" });
  assert.deepEqual(await update(world.area(circle(2))), { ...head, area: circle(2) });
  assert.deepEqual(await update(world.area({ min: [0, 0], max: [10, 5] })), { ...head, area: { min: [0, 0], max: [10, 5] } });
  assert.deepEqual(await update(world.area({ follow: "e7", radius: 5 })), { ...head, area: { follow: "e7", radius: 5 } });
  assert.deepEqual(await update(world.area(null)), { ...head, area: null });
  assert.deepEqual(await update(world.setFilter(null)), { ...head, filter: null });
  assert.deepEqual([world.view, world.state], [{}, "active"]);
  await world.filter(null);
  assert.equal(client.subscribe("world:1"), world, "the same name is the same subscription");
  assert.equal(client.subscribe("world:1", { filter: "3", area: circle(3) }), world);
  assert.deepEqual(await update(world.ready), { ...head, filter: "3", area: circle(3) });
  assert.equal(connection.waiting, 0);
});

test("what changes an area's object later does not show", async (t) => {
  const { connection, world } = await viewing(t);
  const area = { ...circle(1), name: "mine" };
  void world.area(area);
  area.x = 99;
  assert.deepEqual((await connection.confirmUpdate("world:1")).area, circle(1));
  await world.area(circle(1));
  assert.equal(connection.waiting, 0, "the same area again asks for nothing");
});

test("an area with no number in it is refused here", async (t) => {
  const { client, connection, world } = await viewing(t, { area: circle(1) });
  for (const area of [circle(NaN), { x: 1, radius: 2 }, { min: [0, 0], max: [Infinity, 1] }, { follow: undefined, radius: 1 }]) {
    assert.equal((await rejection(world.area(area))).code, "FILTER_INVALID");
  }
  assert.throws(() => client.subscribe("world:2", { area: circle(NaN) }), { code: "FILTER_INVALID" });
  assert.deepEqual(world.view.area, circle(1));
  assert.equal(connection.waiting, 0);
});

test("one change is out at a time, the newest follows, and each promise resolves with its own or a newer one", async (t) => {
  const { client, connection, world } = await viewing(t);
  const changes = Array.from({ length: 100 }, (_, i) => world.area(circle(i)));
  const first = await connection.next("FILTER_UPDATE");
  await settled(client, connection);
  assert.deepEqual([first.area, connection.waiting], [circle(0), 0]);
  connection.send({ type: "FILTER_UPDATED", id: first.id, channel: "world:1" });
  await changes[0];
  const second = await connection.next("FILTER_UPDATE");
  assert.deepEqual(second.area, circle(99));
  assert.equal(await isSettled(changes[1]), false);
  const later = world.area(circle(100));
  connection.send({ type: "FILTER_UPDATED", id: second.id, channel: "world:1" });
  await Promise.all(changes);
  assert.equal(await isSettled(later), false);
  assert.deepEqual((await connection.confirmUpdate("world:1")).area, circle(100));
  await later;
  assert.equal(connection.waiting, 0);
});

test("an area that moves without pause starves neither `ready` nor the filter", async (t) => {
  const { connection, world } = await viewing(t);
  void world.area(circle(0));
  const request = await connection.next("FILTER_UPDATE");
  const ready = world.ready;
  const filter = world.filter("true");
  void world.area(circle(1));
  connection.send({ type: "FILTER_UPDATED", id: request.id, channel: "world:1" });
  await ready;
  const both = await connection.next("FILTER_UPDATE");
  assert.deepEqual([both.filter, both.area], ["true", circle(1)]);
  void world.area(circle(2));
  connection.send({ type: "FILTER_UPDATED", id: both.id, channel: "world:1" });
  await filter;
});

test("changed back before the answer came, it is changed back on the server too", async (t) => {
  const { connection, world } = await viewing(t, { area: circle(1) });
  void world.area(circle(2));
  const back = world.area(circle(1));
  assert.deepEqual((await connection.confirmUpdate("world:1")).area, circle(2));
  assert.deepEqual((await connection.confirmUpdate("world:1")).area, circle(1));
  await back;
});

test("a bad filter is explained, and the old one stays, over reconnects too", async (t) => {
  const all = await viewing(t, { filter: "data > 1", area: circle(1) });
  const { connection, world, errors } = all;
  const change = world.filter("data >");
  refuse(connection, await connection.next("FILTER_UPDATE"), "FILTER_INVALID", { position: 6, hint: "a value is missing" });
  const error = await rejection(change);
  assert.deepEqual([error.code, error.position, error.hint], ["FILTER_INVALID", 6, "a value is missing"]);
  assert.deepEqual([world.view, world.state], [{ filter: "data > 1", area: circle(1) }, "active"]);
  assert.deepEqual(errors.map(({ code }) => code), ["FILTER_INVALID"]);
  await world.ready;
  const connect = await (await comeBack(all)).welcome();
  assert.deepEqual(connect.subscribe, [{ channel: "world:1", filter: "data > 1", area: circle(1) }]);
});

test("what changed behind a refused change is asked for without it", async (t) => {
  const { connection, world } = await viewing(t, { filter: "1" });
  const bad = rejection(world.filter("data >"));
  const request = await connection.next("FILTER_UPDATE");
  const area = world.area(circle(1));
  refuse(connection, request, "FILTER_INVALID");
  assert.equal((await bad).code, "FILTER_INVALID");
  const { id, ...next } = await connection.confirmUpdate("world:1");
  assert.deepEqual(next, { type: "FILTER_UPDATE", channel: "world:1", area: circle(1) });
  await area;
  assert.deepEqual(world.view, { filter: "1", area: circle(1) });
});

test("an entity that may not be followed leaves the area as it was", async (t) => {
  const { connection, world } = await viewing(t, { area: circle(1) });
  const change = rejection(world.area({ follow: "theirs", radius: 5 }));
  refuse(connection, await connection.next("FILTER_UPDATE"), "FORBIDDEN");
  assert.equal((await change).code, "FORBIDDEN");
  assert.deepEqual([world.view, world.state], [{ area: circle(1) }, "active"]);
});

test("a bad filter that was set while away falls back to the old one", async (t) => {
  const { server, client, connection, runtime } = await connected(t);
  const room = client.subscribe("room:1", { filter: "data > 1" });
  await connection.confirm("room:1");
  await room.ready;
  const down = lost(client);
  connection.socket.terminate();
  await down;
  const change = rejection(room.filter("data >"));
  runtime.advance(500);
  const again = await server.accept();
  const connect = await again.next("CONNECT");
  assert.equal(connect.subscribe[0].filter, "data >");
  again.send([
    { type: "ERROR", id: connect.id, channel: "room:1", code: "FILTER_INVALID", message: "bad", retryable: false },
    { ...again.welcomeTo(connect), subscriptions: [] },
  ]);
  assert.equal((await change).code, "FILTER_INVALID");
  assert.equal((await again.confirm("room:1")).filter, "data > 1");
  await room.ready;
});

test("what changes while away, or before the confirmation, stands in the next CONNECT", async (t) => {
  const all = await viewing(t, { area: circle(1) });
  const { world, client, connection, runtime, server } = all;
  const down = lost(client);
  const unanswered = world.area(circle(2));
  await connection.next("FILTER_UPDATE");
  connection.socket.terminate();
  await down;
  const changes = Array.from({ length: 5 }, (_, i) => world.area(circle(10 + i)));
  assert.equal(await isSettled(unanswered), false);
  runtime.advance(500);
  const connect = await (await server.accept()).welcome();
  assert.deepEqual(connect.subscribe, [{ channel: "world:1", area: circle(14) }]);
  await Promise.all([unanswered, ...changes]);
});

test("changes of a subscribe that is not confirmed wait for it", async (t) => {
  const { client, connection } = await connected(t);
  const world = client.subscribe("world:1", { filter: "1" });
  const request = await connection.next("CHANNEL_SUBSCRIBE");
  const changes = [world.filter("2"), world.area(circle(1)), world.filter("3")];
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
  connection.send({ type: "CHANNEL_SUBSCRIBED", id: request.id, channel: "world:1" });
  const { id, ...update } = await connection.confirmUpdate("world:1");
  assert.deepEqual(update, { type: "FILTER_UPDATE", channel: "world:1", filter: "3", area: circle(1) });
  await Promise.all(changes);
});

test("a change while CONNECT is out follows WELCOME", async (t) => {
  const { server, client } = await setup(t);
  const room = client.subscribe("room:1", { filter: "1" });
  const opening = client.connect();
  const connection = await server.accept();
  const connect = await connection.next("CONNECT");
  const change = room.filter("2");
  const late = client.subscribe("room:2");
  connection.send(connection.welcomeTo(connect));
  await opening;
  assert.equal((await connection.confirmUpdate("room:1")).filter, "2");
  await connection.confirm("room:2");
  await change;
  await late.ready;
});

test("a change from the listener of `subscribed` goes out once", async (t) => {
  const { client, connection } = await connected(t);
  const world = client.subscribe("world:1");
  client.on("subscribed", () => void world.area(circle(1)));
  await connection.confirm("world:1");
  assert.deepEqual((await connection.confirmUpdate("world:1")).area, circle(1));
  await world.ready;
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
});

test("a rate limit is waited out, and the newest area goes then", async (t) => {
  const { client, connection, runtime, world } = await viewing(t);
  const first = world.area(circle(1));
  refuse(connection, await connection.next("FILTER_UPDATE"), "RATE_LIMITED", { retryable: true, retry_after_ms: 300 });
  await settled(client, connection);
  const second = world.area(circle(2));
  runtime.chance = 0;
  runtime.advance(300 + 250);
  assert.deepEqual((await connection.confirmUpdate("world:1")).area, circle(2));
  await Promise.all([first, second]);
});

test("where the server does not hold it any more it is subscribed anew", async (t) => {
  const { connection, world } = await viewing(t);
  const change = world.area(circle(1));
  refuse(connection, await connection.next("FILTER_UPDATE"), "NOT_SUBSCRIBED");
  assert.deepEqual((await connection.confirm("world:1")).area, circle(1));
  await change;
});

test("the server's end wins over a change that is out", async (t) => {
  const { client, connection, world } = await viewing(t);
  const change = rejection(world.area(circle(1)));
  const request = await connection.next("FILTER_UPDATE");
  connection.send({ type: "CHANNEL_UNSUBSCRIBED", channel: "world:1", reason: "forbidden" });
  refuse(connection, request, "NOT_SUBSCRIBED");
  assert.equal((await change).code, "UNSUBSCRIBED");
  await settled(client, connection);
  assert.deepEqual([world.state, connection.waiting], ["ended", 0]);
});

test("changes that nobody awaits break nothing when the client closes", async (t) => {
  const { client, world } = await viewing(t);
  void world.area(circle(1));
  void world.area(circle(NaN));
  client.close();
  assert.equal((await rejection(world.ready)).code, "CLOSED");
});
