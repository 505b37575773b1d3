// The live table of an entity channel: what is in it, and what its handlers are told, in which order.

import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encode, msgpack } from "../dist/msgpack.js";
import { connected, lost, rejection, settled, setup } from "./support/client.js";

const CHANNEL = "world:1";

/** A confirmed table, and all that its handlers were told. */
async function table(t, options = {}) {
  const all = await connected(t, options);
  const world = all.client.entities(CHANNEL);
  await all.connection.confirm(CHANNEL);
  await world.subscription.ready;
  return { ...all, world, told: listening(world) };
}

function listening(world) {
  const told = [];
  world.onEnter(({ key, data }) => told.push(["enter", key, data]));
  world.onUpdate(({ key, data }, previous) => told.push(["update", key, data, previous.data]));
  world.onLeave(({ key, data }, reason) => told.push(["leave", key, data, reason]));
  world.onReset(() => told.push(["reset"]));
  return told;
}

const content = (world) => Object.fromEntries([...world].map(({ key, data }) => [key, data]));

async function comeBack({ server, client, connection, runtime }) {
  const down = lost(client);
  connection.socket.terminate();
  await down;
  runtime.advance(500);
  const again = await server.accept();
  await again.welcome();
  return again;
}

test("a snapshot takes effect when it is complete, as a whole", async (t) => {
  const { client, connection, world, told } = await table(t);
  connection.enter(CHANNEL, { a: 1, b: 2 }, { reset: true, complete: false });
  await settled(client, connection);
  assert.deepEqual([world.size, world.stale, told], [0, true, []]);
  connection.enter(CHANNEL, { c: 3 }, { complete: false });
  connection.enter(CHANNEL, { d: 4 });
  await world.synced;
  await settled(client, connection);
  assert.deepEqual(content(world), { a: 1, b: 2, c: 3, d: 4 });
  assert.deepEqual([world.size, world.stale, world.has("d"), world.has("e")], [4, false, true, false]);
  assert.deepEqual(told, [["enter", "a", 1], ["enter", "b", 2], ["enter", "c", 3], ["enter", "d", 4], ["reset"]]);
});

test("an empty table that only an area would fill says so, once, until there is one", async (t) => {
  const { client, connection, world, errors } = await table(t);
  const empty = () => connection.send({ type: "VIEW_ENTER", channel: CHANNEL, reset: true, complete: true, reason: "area_required", entities: [] });
  empty();
  await world.synced;
  empty();
  await settled(client, connection);
  assert.deepEqual([world.size, world.stale], [0, false]);
  assert.deepEqual(errors.map(({ code, channel }) => [code, channel]), [["AREA_REQUIRED", CHANNEL]]);
  assert.match(errors[0].message, /world:1 shows nothing without an area; pass one: .*area/);
  connection.enter(CHANNEL, { a: 1 });
  empty();
  await settled(client, connection);
  assert.equal(errors.length, 2);
});

test("with nothing in view it is complete and empty", async (t) => {
  const { connection, world } = await table(t);
  connection.enter(CHANNEL, {}, { reset: true });
  await world.synced;
  assert.deepEqual([world.size, world.stale], [0, false]);
});

test("entities come, change and go, in the order of the wire", async (t) => {
  const { client, connection, world, told } = await table(t);
  connection.send([
    { type: "VIEW_ENTER", channel: CHANNEL, reset: true, complete: true, entities: [{ key: "a", event: "move", data: 1 }] },
    { type: "EVENT", channel: CHANNEL, key: "a", event: "move", data: 2 },
    { type: "VIEW_ENTER", channel: CHANNEL, complete: true, entities: [{ key: "b", event: "move", data: 3 }, { key: "c", event: "move" }] },
    { type: "VIEW_LEAVE", channel: CHANNEL, keys: ["a", "nobody"], reason: "view" },
    { type: "VIEW_LEAVE", channel: CHANNEL, keys: ["b"], reason: "removed" },
  ]);
  await settled(client, connection);
  assert.deepEqual(told, [
    ["enter", "a", 1],
    ["reset"],
    ["update", "a", 2, 1],
    ["enter", "b", 3],
    ["enter", "c", null],
    ["leave", "a", 2, "view"],
    ["leave", "b", 3, "removed"],
  ]);
  assert.deepEqual(content(world), { c: null });
});

test("an entity has all that the wire told, and handlers of events hear it after the table", async (t) => {
  const { client, connection, world } = await table(t);
  const seen = [];
  world.subscription.on("move", ({ key, data }) => seen.push([key, data, world.get(key)?.data]));
  const entity = { key: "e7", event: "move", data: { x: 1 }, from: "bob", tags: { zone: "a" }, ts: 5 };
  connection.send({ type: "VIEW_ENTER", channel: CHANNEL, reset: true, complete: true, entities: [entity] });
  await world.synced;
  const before = world.get("e7");
  assert.deepEqual(before, entity);
  connection.event(CHANNEL, "move", { x: 2 }, { key: "e7", ts: 6, offset: 9 });
  await settled(client, connection);
  assert.deepEqual(world.get("e7"), { key: "e7", event: "move", data: { x: 2 }, ts: 6 });
  assert.deepEqual(before.data, { x: 1 }, "an entity is never changed");
  assert.deepEqual(seen, [["e7", { x: 2 }, { x: 2 }]], "entering is no event");
});

test("an event of a key that is not there: it entered, but never ahead of a snapshot", async (t) => {
  const { client, connection, world, told } = await table(t);
  const move = (key, data) => connection.event(CHANNEL, "move", data, { key });
  move("early", 1);
  await settled(client, connection);
  assert.equal(world.size, 0);
  connection.enter(CHANNEL, { a: 1 }, { reset: true, complete: false });
  move("b", 2);
  move("a", 3);
  connection.leave(CHANNEL, ["b"]);
  move("c", 4);
  await settled(client, connection);
  assert.deepEqual([world.size, told], [0, []]);
  connection.enter(CHANNEL, { d: 5 });
  move("e", 6);
  await settled(client, connection);
  assert.deepEqual(content(world), { a: 3, c: 4, d: 5, e: 6 });
  assert.deepEqual(told.filter(([what]) => what !== "enter"), [["reset"]]);
  assert.deepEqual(told.at(-1), ["enter", "e", 6]);
});

test("events without a key, and on other channels, leave the table alone", async (t) => {
  const { client, connection, world } = await table(t);
  connection.enter(CHANNEL, { a: 1 }, { reset: true });
  connection.event(CHANNEL, "move", 2);
  connection.event("world:2", "move", 2, { key: "a" });
  connection.enter("world:2", { b: 1 }, { reset: true });
  connection.leave("world:2", ["a"]);
  await settled(client, connection);
  assert.deepEqual(content(world), { a: 1 });
});

test("a later snapshot is told as what differs", async (t) => {
  const { client, connection, world, told } = await table(t);
  const pose = (x) => ({ at: [x, 0], tags: { team: "red" } });
  connection.enter(CHANNEL, { gone: 1, same: pose(1), moved: pose(2) }, { reset: true });
  await settled(client, connection);
  told.length = 0;
  connection.send({ type: "RESYNC", channel: CHANNEL, reason: "slow_consumer" });
  await settled(client, connection);
  assert.deepEqual([world.stale, world.size], [true, 3]);
  const again = world.synced;
  connection.enter(CHANNEL, { same: pose(1), fresh: 5 }, { reset: true, complete: false });
  await settled(client, connection);
  assert.deepEqual([world.stale, world.size, told], [true, 3, []]);
  connection.enter(CHANNEL, { moved: pose(3) });
  await again;
  await settled(client, connection);
  assert.deepEqual(told, [["leave", "gone", 1, "reset"], ["enter", "fresh", 5], ["update", "moved", pose(3), pose(2)], ["reset"]]);
  assert.deepEqual(content(world), { same: pose(1), fresh: 5, moved: pose(3) });
});

test("a snapshot that begins anew forgets the half one", async (t) => {
  const { connection, world } = await table(t);
  connection.enter(CHANNEL, { a: 1 }, { reset: true, complete: false });
  connection.enter(CHANNEL, { b: 2 }, { reset: true });
  await world.synced;
  assert.deepEqual(content(world), { b: 2 });
});

test("over a break entities stay, stale, until the next snapshot is complete", async (t) => {
  const all = await table(t);
  const { client, connection, world, told } = all;
  connection.enter(CHANNEL, { a: 1, b: 2 }, { reset: true });
  await world.synced;
  connection.enter(CHANNEL, { half: 1 }, { reset: true, complete: false });
  await settled(client, connection);
  told.length = 0;
  const again = await comeBack(all);
  await world.subscription.ready;
  assert.deepEqual([content(world), world.stale, told], [{ a: 1, b: 2 }, true, []]);
  again.enter(CHANNEL, { b: 2, c: 3 }, { reset: true });
  await world.synced;
  await settled(client, again);
  assert.deepEqual(told, [["leave", "a", 1, "reset"], ["enter", "c", 3], ["reset"]]);
});

test("what comes for a subscription before this one is not in its table", async (t) => {
  const { client, connection } = await connected(t);
  const old = client.entities(CHANNEL);
  await connection.confirm(CHANNEL);
  await old.subscription.ready;
  void old.subscription.unsubscribe();
  const fresh = client.entities(CHANNEL);
  assert.notEqual(fresh, old);
  connection.enter(CHANNEL, { late: 1 }, { reset: true });
  const leave = await connection.next("CHANNEL_UNSUBSCRIBE");
  connection.send({ type: "CHANNEL_UNSUBSCRIBED", id: leave.id, channel: CHANNEL, reason: "client" });
  await connection.confirm(CHANNEL);
  connection.enter(CHANNEL, { a: 1 }, { reset: true });
  await fresh.synced;
  assert.deepEqual([content(old), content(fresh)], [{}, { a: 1 }]);
});

test("the end empties it, tells so, and is the last that is told", async (t) => {
  const { client, connection, world, told } = await table(t);
  connection.enter(CHANNEL, { a: 1, b: 2 }, { reset: true });
  await settled(client, connection);
  told.length = 0;
  connection.send({ type: "CHANNEL_UNSUBSCRIBED", channel: CHANNEL, reason: "forbidden" });
  connection.enter(CHANNEL, { c: 1 });
  await settled(client, connection);
  assert.deepEqual(told, [["leave", "a", 1, "unsubscribed"], ["leave", "b", 2, "unsubscribed"]]);
  assert.deepEqual([world.size, world.stale], [0, true]);
  assert.equal((await rejection(world.synced)).code, "UNSUBSCRIBED");
});

test("a refusal, or the client's end, ends the wait", async (t) => {
  const { client, connection } = await connected(t);
  const refused = client.entities("secret:1");
  const request = await connection.next("CHANNEL_SUBSCRIBE");
  connection.send({ type: "ERROR", id: request.id, channel: "secret:1", code: "FORBIDDEN", message: "no", retryable: false });
  assert.equal((await rejection(refused.synced)).code, "FORBIDDEN");
  const { synced } = client.entities(CHANNEL);
  client.close();
  assert.equal((await rejection(synced)).code, "CLOSED");
});

// Longer than all that these tests let pass: nobody answers `PING` between two steps of manual time.
const IMPATIENT = { publishTimeoutMs: 3_000, pongTimeoutMs: 60_000 };

/** What becomes of a wait that begins now, when nothing comes. */
async function overdue(runtime, world) {
  const { synced } = world;
  runtime.advance(3_000);
  const { code, channel, message } = await rejection(synced);
  assert.deepEqual([code, channel], ["TIMEOUT", CHANNEL]);
  assert.match(message, /may not be kind = "entity"/);
}

test("on a channel without a table the wait ends, after each loss anew", async (t) => {
  const all = await table(t, IMPATIENT);
  const { client, connection, runtime, world, errors } = all;
  // Such a channel has events, and they are no sign of a table.
  connection.event(CHANNEL, "say", "hello");
  await settled(client, connection);
  await overdue(runtime, world);
  assert.deepEqual([errors.map(({ code }) => code), world.stale], [["TIMEOUT"], true]);
  connection.send({ type: "RESYNC", channel: CHANNEL, reason: "broker" });
  await settled(client, connection);
  await overdue(runtime, world);
  await comeBack(all);
  await world.subscription.ready;
  await overdue(runtime, world);
});

test("it waits for a table from when it is asked for, and only while there is a connection", async (t) => {
  const { client, connection, runtime, errors } = await connected(t, IMPATIENT);
  const subscription = client.subscribe(CHANNEL);
  await connection.confirm(CHANNEL);
  await subscription.ready;
  runtime.advance(10_000);
  await overdue(runtime, subscription.entities);
  assert.equal(errors.length, 1);
  client.entities("world:2");
  await connection.confirm("world:2");
  await settled(client, connection);
  client.close();
  assert.equal(runtime.timers, 0);
});

test("a table that comes late works all the same, and is never given up again", async (t) => {
  const { client, connection, runtime, world, told, errors } = await table(t, IMPATIENT);
  await overdue(runtime, world);
  connection.enter(CHANNEL, { a: 1 }, { reset: true, complete: false });
  await settled(client, connection);
  const late = world.synced;
  connection.enter(CHANNEL, { b: 2 });
  await late;
  await settled(client, connection);
  assert.deepEqual([content(world), world.stale], [{ a: 1, b: 2 }, false]);
  assert.deepEqual(told, [["enter", "a", 1], ["enter", "b", 2], ["reset"]]);
  // What kind it is of is known now, so the next one may take as long as the server's Redis does.
  connection.send({ type: "RESYNC", channel: CHANNEL, reason: "broker" });
  await settled(client, connection);
  const again = world.synced;
  runtime.advance(3_000);
  connection.enter(CHANNEL, { c: 3 }, { reset: true });
  await again;
  assert.equal(errors.length, 1);
});

test("it is there from the beginning, whenever it is asked for; a pattern has none", async (t) => {
  const { client, connection } = await connected(t);
  const world = client.subscribe(CHANNEL, { area: { x: 0, y: 0, radius: 5 } });
  await connection.confirm(CHANNEL);
  connection.enter(CHANNEL, { a: 1 }, { reset: true });
  await settled(client, connection);
  assert.deepEqual(content(client.entities(CHANNEL)), { a: 1 });
  assert.equal(world.entities, client.entities(CHANNEL));
  assert.equal(world.entities.subscription, world);
  assert.throws(() => client.entities("world:*"), /pattern/);
});

test("a handler that throws, or ends it, stops nothing else", async (t) => {
  const { client, connection, world, told, errors } = await table(t);
  world.onEnter(() => {
    throw new Error("mine");
  });
  world.onEnter(({ key }) => key === "b" && void world.subscription.unsubscribe());
  connection.enter(CHANNEL, { a: 1, b: 2, c: 3 }, { reset: true });
  await connection.next("CHANNEL_UNSUBSCRIBE");
  assert.deepEqual(errors.map(({ code }) => code), ["LISTENER", "LISTENER"]);
  assert.deepEqual(told.slice(0, 2), [["enter", "a", 1], ["enter", "b", 2]]);
  assert.deepEqual(told.slice(2), ["a", "b", "c"].map((key, at) => ["leave", key, at + 1, "unsubscribed"]));
});

test("the same in MessagePack", async (t) => {
  const codec = { encode: (message) => Buffer.from(encode(message)), decode: (data) => decode(new Uint8Array(data)) };
  const { server, client } = await setup(t, { codec: msgpack }, { codec, subprotocol: msgpack.subprotocol });
  const world = client.entities(CHANNEL, { area: { min: [0, -1.5], max: [10, 5] } });
  const told = listening(world);
  const opening = client.connect();
  const connection = await server.accept();
  const connect = await connection.welcome();
  await opening;
  assert.deepEqual(connect.subscribe, [{ channel: CHANNEL, area: { min: [0, -1.5], max: [10, 5] } }]);
  const big = 2n ** 60n;
  const bytes = () => Uint8Array.of(1, 2);
  connection.enter(CHANNEL, { a: { big, bytes: bytes() }, b: { bytes: bytes() } }, { reset: true });
  await world.synced;
  connection.enter(CHANNEL, { a: { big, bytes: bytes() }, b: { bytes: Uint8Array.of(1, 3) } }, { reset: true });
  await settled(client, connection);
  assert.deepEqual(told.map(([what, key]) => [what, key]), [["enter", "a"], ["enter", "b"], ["reset", undefined], ["update", "b"], ["reset", undefined]]);
  assert.equal(world.get("a").data.big, big);
});
