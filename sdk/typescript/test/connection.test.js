import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { connect, Drawbridge } from "../dist/drawbridge.js";
import { connected, lost, rejection, setup, settled, told } from "./support/client.js";
import { ManualRuntime } from "./support/runtime.js";

test("connects with its token, its sub-protocol and its subscriptions", async (t) => {
  const { server, client } = await setup(t, { token: "jwt" });
  client.subscribe("chat:lobby");
  client.subscribe("room:42", { filter: "data.damage > 10" });
  const opening = client.connect();
  assert.equal(client.status, "connecting");
  const connection = await server.accept();
  assert.equal(connection.socket.protocol, "drawbridge.v1.json");
  const message = await connection.welcome();
  assert.equal(message.token, "jwt");
  assert.deepEqual(message.subscribe, [{ channel: "chat:lobby" }, { channel: "room:42", filter: "data.damage > 10" }]);
  const welcome = await opening;
  assert.deepEqual([welcome.player, welcome.node, welcome.limits.messageBytes], ["alice", "n1", 65_536]);
  assert.equal(client.status, "open");
  assert.equal(client.player, "alice");
});

test("connects without a token where there is none", async (t) => {
  const { connect: message } = await connected(t);
  assert.ok(!("token" in message));
  assert.ok(!("subscribe" in message));
});

test("`connect` gives a client that is already on its way", async (t) => {
  const { server } = await setup(t);
  const client = connect(server.url, { WebSocket });
  t.after(() => client.close());
  const opened = told(client, "welcome");
  await (await server.accept()).welcome();
  assert.equal((await opened).player, "alice");
});

test("an http address means ws", () => {
  const seen = [];
  class Spy {
    constructor(url) {
      seen.push(url);
      throw new Error("no network here");
    }
  }
  const client = new Drawbridge("https://play.example/ws", { WebSocket: Spy, logger: false });
  return rejection(client.connect()).then((error) => {
    assert.equal(error.code, "CLOSED");
    assert.deepEqual(seen, ["wss://play.example/ws"]);
    assert.equal(client.status, "closed");
  });
});

for (const code of [1000, 1001, 1011, 1012, 4000, 4001, 4002, 4003, 4321, 4499]) {
  test(`comes back after ${code}, with what it wants`, async (t) => {
    const { server, client, runtime, connection } = await connected(t, { reconnect: { minDelayMs: 500 } });
    const subscription = client.subscribe("room:1", { filter: "true" });
    await connection.confirm("room:1");
    await subscription.ready;
    const down = lost(client);
    connection.socket.close(code, "because");
    const { retryInMs, error } = await down;
    assert.equal(retryInMs, 500);
    assert.equal(error.closeCode, code);
    assert.equal(subscription.state, "pending");
    runtime.advance(500);
    const again = await server.accept();
    const message = await again.welcome();
    assert.deepEqual(message.subscribe, [{ channel: "room:1", filter: "true" }]);
    await subscription.ready;
    assert.equal(subscription.state, "active");
  });
}

test("comes back after a break without a close frame (1006)", async (t) => {
  const { server, client, runtime, connection } = await connected(t);
  const down = lost(client);
  connection.socket.terminate();
  assert.equal((await down).error.closeCode, 1006);
  runtime.advance(500);
  await (await server.accept()).welcome();
  await told(client, "status", ({ status }) => status === "open");
});

for (const code of [4500, 4502, 4503, 4504, 4505, 4506, 4777, 4999]) {
  test(`stays away after ${code}`, async (t) => {
    const { client, runtime, connection } = await connected(t);
    const down = told(client, "status", ({ status }) => status === "closed");
    connection.socket.close(code);
    const { error } = await down;
    assert.equal(error.closeCode, code);
    assert.equal(error.code, "CLOSED");
    assert.equal(runtime.timers, 0, "nothing is planned any more");
  });
}

test("a refusal rejects `connect` with the server's own word", async (t) => {
  const { server, client } = await setup(t, { token: "bad" });
  const subscription = client.subscribe("room:1");
  const opening = rejection(client.connect());
  const connection = await server.accept();
  const { id } = await connection.next("CONNECT");
  connection.send({ type: "ERROR", id, code: "UNAUTHENTICATED", message: "bad signature", retryable: false });
  connection.socket.close(4500);
  const error = await opening;
  assert.equal(error.code, "UNAUTHENTICATED");
  assert.equal(error.message, "bad signature");
  assert.equal(error.closeCode, 4500);
  assert.equal((await rejection(subscription.ready)).code, "UNAUTHENTICATED");
});

test("may be started again after a refusal", async (t) => {
  const { server, client, connection } = await connected(t);
  const down = told(client, "status", ({ status }) => status === "closed");
  connection.socket.close(4502);
  await down;
  const subscription = client.subscribe("room:1");
  const opening = client.connect();
  await (await server.accept()).welcome();
  await opening;
  await subscription.ready;
});

test("waits longer after each failure, up to the bound, with chance", async (t) => {
  const { client, runtime } = await setup(t, { reconnect: { minDelayMs: 100, maxDelayMs: 1_000 }, token: () => Promise.reject(new Error("down")) });
  const waits = [];
  client.on("status", ({ retryInMs }) => retryInMs !== undefined && waits.push(retryInMs));
  client.connect().catch(() => {});
  await lost(client);
  for (let i = 0; i < 5; i++) {
    const next = lost(client);
    runtime.advance(waits.at(-1));
    await next;
  }
  assert.deepEqual(waits, [100, 200, 400, 800, 1_000, 1_000]);
  runtime.chance = 0;
  const next = lost(client);
  runtime.advance(1_000);
  assert.equal((await next).retryInMs, 0, "full jitter: from nothing to the bound");
});

test("a crowd that lost its server comes back spread over the bound", async (t) => {
  const { client, runtime } = await setup(t, { reconnect: undefined, token: () => Promise.reject(new Error("down")) });
  client.connect().catch(() => {});
  const waits = [];
  for (let i = 0; i < 400; i++) {
    // A fresh bound each time: each round is another client's first wait.
    runtime.chance = (i + 0.5) / 400;
    waits.push((await lost(client)).retryInMs);
    client.close();
    client.connect().catch(() => {});
  }
  assert.ok(Math.max(...waits) < 3_000);
  const inOneSecond = Math.max(...waits.map((from) => waits.filter((wait) => wait >= from && wait < from + 1_000).length));
  assert.ok(inOneSecond <= 134, `${inOneSecond} of 400 in one second`);
});

test("an error before the close says how long to wait at least, and the next waits are no shorter", async (t) => {
  const { server, client, runtime, connection } = await connected(t, { reconnect: { minDelayMs: 100 } });
  let down = lost(client);
  connection.send({ type: "ERROR", code: "INTERNAL", message: "overloaded", retryable: true, retry_after_ms: 4_000 });
  connection.socket.close(4003);
  const { retryInMs, error } = await down;
  assert.deepEqual([retryInMs, error.code, error.retryAfterMs], [8_000, "INTERNAL", 4_000]);
  runtime.advance(8_000);
  const again = await server.accept();
  down = lost(client);
  again.socket.close(4003);
  assert.equal((await down).retryInMs, 8_000);
});

test("a server that says GOODBYE at once is not dialled more often for that", async (t) => {
  const { server, client, runtime, connection } = await connected(t, { reconnect: { minDelayMs: 100, maxDelayMs: 10_000 } });
  const waits = [];
  client.on("status", ({ retryInMs }) => retryInMs !== undefined && waits.push(retryInMs));
  let current = connection;
  for (const goodbye of [2_000, undefined, 0, undefined]) {
    const down = lost(client);
    if (goodbye !== undefined) current.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: goodbye });
    current.socket.close(4000);
    await down;
    const up = told(client, "welcome");
    runtime.advance(waits.at(-1));
    current = await server.accept();
    await current.welcome();
    await up;
  }
  assert.deepEqual(waits, [2_000, 2_000, 0, 4_000]);
});

const listening = () => {
  const said = [];
  return { said, logger: { warn: (message) => said.push(message), error: (error) => said.push(error) } };
};

test("the first failed connect is logged once, with the address but not its query, and the likely cause", async (t) => {
  const { said, logger } = listening();
  const runtime = new ManualRuntime();
  const client = new Drawbridge("ws://user:secret@127.0.0.1:1/ws?token=secret", { WebSocket, runtime, logger });
  t.after(() => client.close());
  client.connect().catch(() => {});
  for (let i = 0; i < 3; i++) {
    const { retryInMs } = await lost(client);
    runtime.advance(retryInMs);
  }
  assert.equal(said.length, 1);
  assert.match(said[0], /cannot connect to ws:\/\/127\.0\.0\.1:1\/ws: CONNECTION_LOST: .*ECONNREFUSED.*is the server running.*trying again in 3000 ms/);
  assert.doesNotMatch(said[0], /secret/);
});

test("a refused first connect is logged, a break later is not", async (t) => {
  const { said, logger } = listening();
  const { server, client } = await setup(t, { logger, token: "jwt" });
  client.connect().catch(() => {});
  const connection = await server.accept();
  const { id } = await connection.next("CONNECT");
  const closed = told(client, "status", ({ status }) => status === "closed");
  connection.send({ type: "ERROR", id, code: "UNAUTHENTICATED", message: "bad signature", retryable: false });
  connection.socket.close(4500);
  await closed;
  assert.match(said.join("\n"), /^drawbridge: cannot connect to ws:.*: UNAUTHENTICATED: bad signature; not trying again$/);

  const other = listening();
  const up = await connected(t, { logger: other.logger });
  const down = lost(up.client);
  up.connection.socket.close(1011);
  await down;
  assert.deepEqual(other.said, []);
});

test("a connection that held is followed by a short wait again, one that fell at once is not", async (t) => {
  const reconnect = { minDelayMs: 100, maxDelayMs: 10_000 };
  const { server, client, runtime, connection } = await connected(t, { reconnect, pongTimeoutMs: 60_000 });
  const waits = [];
  client.on("status", ({ retryInMs }) => retryInMs !== undefined && waits.push(retryInMs));
  let current = connection;
  for (const heldMs of [0, 0, 30_000]) {
    runtime.advance(heldMs);
    const down = lost(client);
    current.socket.close(1011);
    await down;
    const up = told(client, "welcome");
    runtime.advance(waits.at(-1));
    current = await server.accept();
    await current.welcome();
    await up;
  }
  assert.deepEqual(waits, [100, 200, 100]);
});

test("GOODBYE: comes back when it was asked to, however early the close", async (t) => {
  const { server, client, runtime, connection } = await connected(t);
  const goodbye = told(client, "goodbye");
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 3_000 });
  assert.deepEqual(await goodbye, { reason: "drain", reconnectInMs: 3_000 });
  runtime.advance(1_000);
  const down = lost(client);
  connection.socket.close(4000);
  assert.equal((await down).retryInMs, 2_000);
  runtime.advance(2_000);
  await (await server.accept()).welcome();
});

test("GOODBYE: leaves by itself when the time has come, without ending the session", async (t) => {
  const { server, client, runtime, connection } = await connected(t);
  const goodbye = told(client, "goodbye");
  connection.send({ type: "GOODBYE", reason: "drain", reconnect_in_ms: 3_000 });
  await goodbye;
  const down = lost(client);
  runtime.advance(3_000);
  assert.equal((await down).retryInMs, 0);
  assert.notEqual((await connection.closed).code, 1000);
  runtime.advance(0);
  await (await server.accept()).welcome();
});

test("no WELCOME in time is a failed attempt", async (t) => {
  const { server, client, runtime } = await setup(t, { connectTimeoutMs: 4_000 });
  client.connect().catch(() => {});
  const connection = await server.accept();
  await connection.next("CONNECT");
  const down = lost(client);
  runtime.advance(4_000);
  await down;
  runtime.advance(500);
  await (await server.accept()).welcome();
  await told(client, "welcome");
});

test("the network's return ends the wait, and so does `connect`", async (t) => {
  const { server, client, runtime, connection } = await connected(t);
  let down = lost(client);
  connection.socket.terminate();
  await down;
  runtime.online();
  const second = await server.accept();
  await second.welcome();
  await told(client, "welcome");
  down = lost(client);
  second.socket.terminate();
  await down;
  const opening = client.connect();
  await (await server.accept()).welcome();
  await opening;
});

test("close ends the session with 1000 and leaves nothing planned", async (t) => {
  const { client, runtime, connection } = await connected(t);
  client.close();
  assert.equal((await connection.closed).code, 1000);
  assert.equal(client.status, "closed");
  assert.equal(runtime.timers, 0);
  assert.equal(client.welcome, undefined);
});

test("close while the token is being fetched dials nothing", async (t) => {
  let give;
  const { client, runtime } = await setup(t, { token: () => new Promise((resolve) => (give = resolve)) });
  const opening = rejection(client.connect());
  client.close();
  give("late");
  assert.equal((await opening).code, "CLOSED");
  await new Promise(setImmediate);
  assert.equal(client.status, "closed");
  assert.equal(runtime.timers, 0);
});

test("a listener may close the client from any callback", async (t) => {
  const { server, client, runtime } = await setup(t);
  client.subscribe("room:1");
  client.on("welcome", () => client.close());
  const opening = rejection(client.connect());
  const connection = await server.accept();
  await connection.welcome();
  assert.equal((await opening).code, "CLOSED");
  assert.equal((await connection.closed).code, 1000);
  assert.equal(runtime.timers, 0);
});

test("STATUS degrades and restores the status", async (t) => {
  const { client, connection } = await connected(t);
  const changes = [];
  client.on("status", ({ previous, status }) => changes.push(`${previous}>${status}`));
  connection.send([{ type: "STATUS", broker: "degraded" }, { type: "STATUS", broker: "degraded" }, { type: "STATUS", broker: "ok" }]);
  await settled(client, connection);
  assert.deepEqual(changes, ["open>degraded", "degraded>open"]);
});

test("takes single messages and arrays, and passes over what it does not know", async (t) => {
  const { client, connection, errors } = await connected(t);
  const seen = [];
  client.on("event", ({ data }) => seen.push(data));
  const event = (data) => ({ type: "EVENT", channel: "c", event: "e", data });
  connection.send(event(1));
  connection.send([event(2), { type: "FROM_THE_FUTURE", x: 1 }, event(3)]);
  connection.send(Array.from({ length: 64 }, (_, i) => event(4 + i)));
  await settled(client, connection);
  assert.deepEqual(seen.slice(0, -1), Array.from({ length: 67 }, (_, i) => i + 1));
  assert.deepEqual(errors, []);
});

test("a frame that is not of the contract is told and changes nothing", async (t) => {
  const { client, connection, errors } = await connected(t);
  for (const frame of ["{", "3", "null", "[1]", '{"type":7}', Buffer.from([1, 2])]) connection.raw(frame);
  await settled(client, connection);
  assert.deepEqual(errors.map(({ code }) => code), Array(6).fill("BAD_FRAME"));
  assert.equal(client.status, "open");
});

test("an error that answers nothing is told", async (t) => {
  const { client, connection, errors } = await connected(t);
  connection.send({ type: "ERROR", code: "RATE_LIMITED", message: "slow down", retryable: true, retry_after_ms: 180 });
  await settled(client, connection);
  assert.deepEqual([errors[0].code, errors[0].retryable, errors[0].retryAfterMs], ["RATE_LIMITED", true, 180]);
});

test("what listeners throw is told, and the others still run", async (t) => {
  const { client, connection, errors } = await connected(t);
  const subscription = client.subscribe("room:1");
  await connection.confirm("room:1");
  const seen = [];
  subscription.on("hit", () => {
    throw new Error("mine");
  });
  subscription.on("hit", async () => {
    throw new Error("mine, later");
  });
  subscription.on("hit", ({ data }) => seen.push(data));
  client.on("event", () => {
    throw new Error("mine, too");
  });
  connection.event("room:1", "hit", 5);
  await settled(client, connection);
  await new Promise(setImmediate);
  assert.deepEqual(seen, [5]);
  assert.equal(client.status, "open");
  const causes = errors.filter(({ code }) => code === "LISTENER").map(({ cause }) => cause.message);
  assert.ok(["mine", "mine, later", "mine, too"].every((message) => causes.includes(message)), String(causes));
});

test("a listener of `error` that throws is not told about itself", async (t) => {
  const { client, connection } = await connected(t, { logger: undefined });
  const said = t.mock.method(console, "error", () => {});
  client.on("error", () => {
    throw new Error("again");
  });
  connection.send({ type: "ERROR", code: "INTERNAL", message: "x", retryable: true });
  await settled(client, connection);
  assert.equal(said.mock.callCount(), 1);
});

test("without a WebSocket of its own it says what to do", (t) => {
  t.mock.property?.(globalThis, "WebSocket", undefined);
  if (globalThis.WebSocket) return t.skip("this Node has one");
  assert.throws(() => new Drawbridge("ws://127.0.0.1:1/ws"), /package `ws`/);
});
