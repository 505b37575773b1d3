// History and presence: pages, their helpers, and who comes and leaves.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, lost, rejection, settled, setup } from "./support/client.js";

const at = (epoch, offset) => ({ epoch, offset });

test("a page of history is events as they would have been delivered", async (t) => {
  const { client, connection } = await connected(t);
  const reading = client.history("room:1", { since: at("e1", 4), limit: 2 });
  const { id, ...request } = await connection.next("HISTORY_GET");
  assert.deepEqual(request, { type: "HISTORY_GET", channel: "room:1", since: at("e1", 4), limit: 2 });
  const events = [
    { type: "EVENT", channel: "room:1", event: "hit", data: { damage: 3 }, from: "bob", offset: 5, ts: 7 },
    { event: "end", offset: 6 },
  ];
  connection.send({ type: "HISTORY", id, channel: "room:1", epoch: "e1", events, next: at("e1", 6), gap: true });
  assert.deepEqual(await reading, {
    channel: "room:1",
    epoch: "e1",
    events: [
      { channel: "room:1", event: "hit", data: { damage: 3 }, from: "bob", offset: 5, ts: 7 },
      { channel: "room:1", event: "end", data: null, offset: 6 },
    ],
    next: at("e1", 6),
    gap: true,
  });
});

test("all pages of history: each begins where the last one ended, also behind one that a view hid whole", async (t) => {
  const { client, connection } = await connected(t);
  const pages = [];
  const reading = (async () => {
    for await (const { events } of client.historyPages("room:1", { since: at("e1", 0), limit: 2 })) pages.push(events.map(({ offset }) => offset));
  })();
  const answers = [
    [at("e1", 0), [1, 2], at("e1", 2)],
    [at("e1", 2), [], at("e1", 4)],
    [at("e1", 4), [5], undefined],
  ];
  for (const [since, offsets, next] of answers) {
    const { id, since: asked, limit } = await connection.next("HISTORY_GET");
    assert.deepEqual([asked, limit], [since, 2]);
    connection.send({ type: "HISTORY", id, channel: "room:1", epoch: "e1", events: offsets.map((offset) => ({ event: "e", offset })), next });
  }
  await reading;
  assert.deepEqual(pages, [[1, 2], [], [5]]);
});

test("a reader may stop: no further page is read", async (t) => {
  const { client, connection } = await connected(t);
  const reading = (async () => {
    for await (const { events } of client.historyPages("room:1")) return events.length;
  })();
  const { id, ...request } = await connection.next("HISTORY_GET");
  assert.deepEqual(request, { type: "HISTORY_GET", channel: "room:1" });
  connection.send({ type: "HISTORY", id, channel: "room:1", epoch: "e1", events: [{ event: "e", offset: 1 }], next: at("e1", 1) });
  assert.equal(await reading, 1);
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
});

test("presence: a page, and all pages", async (t) => {
  const { client, connection } = await connected(t);
  const reading = client.presence("room:1", { limit: 1 });
  let { id, ...request } = await connection.next("PRESENCE_GET");
  assert.deepEqual(request, { type: "PRESENCE_GET", channel: "room:1", limit: 1 });
  connection.send({ type: "PRESENCE", id, channel: "room:1", players: [{ player: "alice", connections: 2 }], total: 2, next: "alice" });
  assert.deepEqual(await reading, { channel: "room:1", players: [{ player: "alice", connections: 2 }], total: 2, next: "alice" });
  const players = [];
  const all = (async () => {
    for await (const page of client.presencePages("room:1")) players.push(...page.players.map(({ player }) => player));
  })();
  ({ id, ...request } = await connection.next("PRESENCE_GET"));
  connection.send({ type: "PRESENCE", id, channel: "room:1", players: [{ player: "alice", connections: 2 }], total: 2, next: "alice" });
  ({ id, ...request } = await connection.next("PRESENCE_GET"));
  assert.equal(request.after, "alice");
  connection.send({ type: "PRESENCE", id, channel: "room:1", players: [{ player: "bob", connections: 1 }], total: 2 });
  await all;
  assert.deepEqual(players, ["alice", "bob"]);
});

test("who comes and leaves is told to the client, the channel and the patterns that cover it", async (t) => {
  const { client, connection } = await connected(t);
  const seen = [];
  client.on("presence", (change) => seen.push(change));
  client.channel("room:1").onPresence(({ joined }) => seen.push(joined));
  client.channel("room:*").onPresence(({ left }) => seen.push(left));
  client.channel("room:2").onPresence(() => seen.push("other"));
  connection.send({ type: "PRESENCE_CHANGED", channel: "room:1", joined: ["bob"] });
  await settled(client, connection);
  assert.deepEqual(seen.splice(0), [["bob"], [], { channel: "room:1", joined: ["bob"], left: [], reset: false }]);
  connection.send({ type: "PRESENCE_CHANGED", channel: "room:1", reset: true });
  await settled(client, connection);
  assert.deepEqual(seen, [[], [], { channel: "room:1", joined: [], left: [], reset: true }]);
});

test("what cannot be read rejects: refused, offline, lost, late", async (t) => {
  const { client, connection, runtime } = await connected(t, { publishTimeoutMs: 3_000, pongTimeoutMs: 60_000 });
  const refused = rejection(client.history("plain:1"));
  const { id } = await connection.next("HISTORY_GET");
  connection.send({ type: "ERROR", id, code: "UNSUPPORTED", message: "no history", channel: "plain:1", retryable: false });
  assert.deepEqual([(await refused).code, (await refused).channel], ["UNSUPPORTED", "plain:1"]);
  const late = rejection(client.presence("room:1"));
  await connection.next("PRESENCE_GET");
  runtime.advance(3_000);
  assert.deepEqual([(await late).code, (await late).retryable, (await late).outcome], ["TIMEOUT", true, undefined]);
  const broken = rejection(client.history("room:1"));
  await connection.next("HISTORY_GET");
  const down = lost(client);
  connection.socket.terminate();
  await down;
  assert.deepEqual([(await broken).code, (await broken).outcome], ["CONNECTION_LOST", undefined]);
  assert.equal((await rejection(client.presence("room:1"))).code, "NOT_CONNECTED");
  const other = await setup(t);
  assert.equal((await rejection(other.client.history("room:1"))).code, "NOT_CONNECTED");
  client.close();
  assert.equal(runtime.timers, 0);
});
