import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, lost, rejection, settled, setup, told } from "./support/client.js";

const accept = (connection, { id, channel }, fields = {}) => connection.send({ type: "EVENT_PUBLISHED", id, channel, ...fields });

async function cut(client, connection) {
  const down = lost(client);
  connection.socket.terminate();
  return down;
}

test("resolves when the server has said that Redis has it", async (t) => {
  const { client, connection } = await connected(t);
  const publishing = client.publish("room:1", "move", { x: 3, y: 4 }, { key: "k", idempotencyKey: "once" });
  const request = await connection.next("PUBLISH_EVENT");
  const { id } = request;
  assert.deepEqual(request, { type: "PUBLISH_EVENT", id, channel: "room:1", event: "move", data: { x: 3, y: 4 }, key: "k", idempotency_key: "once" });
  accept(connection, request, { offset: 120, result: { ok: true } });
  assert.deepEqual(await publishing, { channel: "room:1", offset: 120, result: { ok: true } });
});

test("`data` is optional, and null is said", async (t) => {
  const { client, connection } = await connected(t);
  void client.publish("c", "ping").catch(() => {});
  void client.publish("c", "ping", null).catch(() => {});
  assert.ok(!("data" in (await connection.next("PUBLISH_EVENT"))));
  assert.equal((await connection.next("PUBLISH_EVENT")).data, null);
});

test("answers find their questions in any order", async (t) => {
  const { client, connection } = await connected(t);
  const answers = [1, 2, 3].map((n) => client.publish("c", "e", n));
  const requests = [];
  for (let i = 0; i < 3; i++) requests.push(await connection.next("PUBLISH_EVENT"));
  connection.send(requests.reverse().map(({ id, data }) => ({ type: "EVENT_PUBLISHED", id, channel: "c", offset: data * 10 })));
  assert.deepEqual((await Promise.all(answers)).map(({ offset }) => offset), [10, 20, 30]);
});

test("rejects with all that the server said", async (t) => {
  const { client, connection } = await connected(t);
  const refused = rejection(client.publish("room:1", "move"));
  const { id } = await connection.next("PUBLISH_EVENT");
  connection.send({ type: "ERROR", id, code: "REJECTED", message: "not your turn", reason: "turn", retryable: false, channel: "room:1" });
  const error = await refused;
  assert.equal(error.name, "DrawbridgeError");
  assert.ok(error instanceof Error);
  assert.deepEqual([error.code, error.message, error.reason, error.retryable, error.channel], ["REJECTED", "not your turn", "turn", false, "room:1"]);
  const limited = rejection(client.publish("room:1", "move"));
  const request = await connection.next("PUBLISH_EVENT");
  connection.send({ type: "ERROR", id: request.id, code: "RATE_LIMITED", message: "slow", retryable: true, retry_after_ms: 180 });
  assert.deepEqual([(await limited).retryable, (await limited).retryAfterMs], [true, 180]);
  const unknown = rejection(client.publish("room:1", "move"));
  const third = await connection.next("PUBLISH_EVENT");
  connection.send({ type: "ERROR", id: third.id, code: "BROKER_UNAVAILABLE", message: "away", retryable: true, outcome: "unknown" });
  assert.equal((await unknown).outcome, "unknown");
});

test("what the server refused is not done, where it says nothing else", async (t) => {
  const { client, connection } = await connected(t);
  const refusal = async (answer) => {
    const refused = rejection(client.publish("room:1", "move"));
    const { id } = await connection.next("PUBLISH_EVENT");
    connection.send({ type: "ERROR", id, message: "no", retryable: false, ...answer });
    return refused;
  };
  for (const code of ["FORBIDDEN", "UNSUPPORTED", "CHANNEL_INVALID"]) {
    const error = await refusal({ code, channel: "room:1" });
    assert.deepEqual([error.code, error.message, error.channel, error.outcome], [code, "no", "room:1", "not_done"]);
  }
  const limited = await refusal({ code: "RATE_LIMITED", retryable: true, retry_after_ms: 180 });
  assert.deepEqual([limited.outcome, limited.retryable, limited.retryAfterMs], ["not_done", true, 180]);
  assert.equal((await refusal({ code: "BROKER_UNAVAILABLE", outcome: "unknown" })).outcome, "unknown");
  // Only a publish has an outcome.
  const subscribing = rejection(client.subscribe("secret:1").ready);
  const { id } = await connection.next("CHANNEL_SUBSCRIBE");
  connection.send({ type: "ERROR", id, channel: "secret:1", code: "FORBIDDEN", message: "no", retryable: false });
  assert.equal((await subscribing).outcome, undefined);
});

test("what is in flight when the link breaks has an unknown outcome, and is not sent again", async (t) => {
  const { server, client, connection, runtime } = await connected(t);
  const publishing = rejection(client.publish("c", "e", 1));
  await connection.next("PUBLISH_EVENT");
  await cut(client, connection);
  const error = await publishing;
  assert.deepEqual([error.code, error.outcome, error.retryable], ["CONNECTION_LOST", "unknown", true]);
  runtime.advance(500);
  const again = await server.accept();
  await again.welcome();
  await settled(client, again);
  assert.equal(again.waiting, 0);
});

test("without a connection it waits, and goes out in order, one at first", async (t) => {
  const { server, client } = await setup(t);
  const opening = client.connect();
  const answers = [1, 2, 3].map((n) => client.publish("c", "e", n));
  assert.equal(client.queued, 3);
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  const first = await connection.next("PUBLISH_EVENT");
  answers.push(client.publish("c", "e", 4));
  await settled(client, connection);
  assert.equal(connection.waiting, 0, "the second waits for the first one's answer");
  accept(connection, first);
  for (const n of [2, 3, 4]) {
    const request = await connection.next("PUBLISH_EVENT");
    assert.equal(request.data, n);
    accept(connection, request);
  }
  await Promise.all(answers);
  assert.equal(client.queued, 0);
});

test("the queue empties faster than a game fills it, over a slow network too", async (t) => {
  const { server, client } = await setup(t);
  const opening = client.connect();
  const answers = Array.from({ length: 20 }, (_, n) => client.publish("c", "e", n));
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  const rounds = [];
  const seen = [];
  // In each round trip the game publishes three times more.
  while (client.queued > 0) {
    await settled(client, connection);
    rounds.push(connection.waiting);
    while (connection.waiting > 0) {
      const request = await connection.next("PUBLISH_EVENT");
      seen.push(request.data);
      accept(connection, request);
    }
    if (answers.length < 60) for (let i = 0; i < 3; i++) answers.push(client.publish("c", "e", answers.length));
    await settled(client, connection);
    assert.ok(rounds.length < 30, `${rounds}`);
  }
  await Promise.all(answers);
  assert.deepEqual(rounds.slice(0, 4), [1, 2, 4, 8]);
  assert.deepEqual(seen, answers.map((_, n) => n));
});

test("a rate limit on several that are out is waited out, and they go again in their order", async (t) => {
  const { server, client, runtime } = await setup(t);
  const opening = client.connect();
  const answers = Array.from({ length: 8 }, (_, n) => client.publish("c", "e", n));
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  for (const round of [[0], [1, 2]]) for (const _ of round) accept(connection, await connection.next("PUBLISH_EVENT"));
  const limited = [];
  for (let i = 0; i < 4; i++) limited.push(await connection.next("PUBLISH_EVENT"));
  connection.send(limited.map(({ id }) => ({ type: "ERROR", id, code: "RATE_LIMITED", message: "slow", retryable: true, retry_after_ms: 180 })));
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
  runtime.advance(180);
  for (const n of [3, 4, 5, 6, 7]) {
    const request = await connection.next("PUBLISH_EVENT");
    assert.equal(request.data, n);
    accept(connection, request);
  }
  await Promise.all(answers);
});

test("a queued publish waits out the rate limit, before those behind it", async (t) => {
  const { server, client, runtime } = await setup(t);
  const opening = client.connect();
  const answers = [client.publish("c", "e", 1), client.publish("c", "e", 2)];
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  const first = await connection.next("PUBLISH_EVENT");
  connection.send({ type: "ERROR", id: first.id, code: "RATE_LIMITED", message: "slow", retryable: true, retry_after_ms: 180 });
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
  runtime.advance(180);
  for (const n of [1, 2]) {
    const request = await connection.next("PUBLISH_EVENT");
    assert.equal(request.data, n);
    accept(connection, request);
  }
  await Promise.all(answers);
});

test("a break while the queue goes out leaves in doubt only what was out", async (t) => {
  const { server, client, runtime } = await setup(t);
  const opening = client.connect();
  const first = rejection(client.publish("c", "e", 1));
  const second = client.publish("c", "e", 2);
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  await connection.next("PUBLISH_EVENT");
  await cut(client, connection);
  assert.equal((await first).outcome, "unknown");
  assert.equal(client.queued, 1);
  runtime.advance(500);
  const again = await server.accept();
  await again.welcome();
  const request = await again.next("PUBLISH_EVENT");
  assert.equal(request.data, 2);
  accept(again, request);
  await second;
});

test("a queued publish says what `data` was when it was called", async (t) => {
  const { server, client } = await setup(t);
  const opening = client.connect();
  const data = { x: 1 };
  void client.publish("c", "e", data).catch(() => {});
  data.x = 2;
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  assert.deepEqual((await connection.next("PUBLISH_EVENT")).data, { x: 1 });
});

test("the queue is bounded in messages", async (t) => {
  const { client } = await setup(t, { queue: { maxMessages: 2 } });
  client.connect().catch(() => {});
  void client.publish("c", "e").catch(() => {});
  void client.publish("c", "e").catch(() => {});
  const error = await rejection(client.publish("c", "e"));
  assert.deepEqual([error.code, error.outcome, error.retryable], ["QUEUE_FULL", "not_done", true]);
  assert.equal(client.queued, 2);
});

test("the queue is bounded in bytes, as they go over the wire", async (t) => {
  const { client } = await setup(t, { queue: { maxBytes: 1_000 } });
  client.connect().catch(() => {});
  void client.publish("c", "e", "é".repeat(400)).catch(() => {});
  assert.equal((await rejection(client.publish("c", "e", "x".repeat(200)))).code, "QUEUE_FULL");
  void client.publish("c", "e", "x").catch(() => {});
  assert.equal(client.queued, 2);
});

test("the queue can be off, for the client or for one publish", async (t) => {
  const { client } = await setup(t, { queue: { maxMessages: 0 } });
  assert.equal((await rejection(client.publish("c", "e"))).code, "NOT_CONNECTED");
  client.connect().catch(() => {});
  assert.equal((await rejection(client.publish("c", "e"))).code, "NOT_CONNECTED");
  const other = await setup(t);
  other.client.connect().catch(() => {});
  const error = await rejection(other.client.publish("c", "e", 1, { queue: false }));
  assert.deepEqual([error.code, error.outcome], ["NOT_CONNECTED", "not_done"]);
});

test("closing refuses what waits (not done) and gives up what is in flight (unknown)", async (t) => {
  const { client, connection, runtime } = await connected(t);
  const flying = rejection(client.publish("c", "e", 1));
  await connection.next("PUBLISH_EVENT");
  client.close();
  assert.equal((await flying).outcome, "unknown");
  const other = await setup(t);
  other.client.connect().catch(() => {});
  const waiting = rejection(other.client.publish("c", "e", 1));
  other.client.close();
  assert.deepEqual([(await waiting).code, (await waiting).outcome], ["CLOSED", "not_done"]);
  assert.equal(runtime.timers + other.runtime.timers, 0);
});

test("being refused for good refuses what waits", async (t) => {
  const { server, client } = await setup(t);
  client.connect().catch(() => {});
  const waiting = rejection(client.publish("c", "e", 1));
  const connection = await server.accept();
  await connection.next("CONNECT");
  connection.socket.close(4500);
  assert.deepEqual([(await waiting).code, (await waiting).outcome, (await waiting).closeCode], ["CLOSED", "not_done", 4500]);
});

test("publishing on a client that is closed, or refused for good, is `CLOSED`, until it connects again", async (t) => {
  const { server, client, connection } = await connected(t);
  // `queue: false` too: that there is no connection is not the reason.
  const refusals = async () => {
    const errors = [await rejection(client.publish("c", "e", 1)), await rejection(client.publish("c", "e", 1, { queue: false }))];
    return errors.map(({ code, outcome, retryable, closeCode }) => [code, outcome, retryable, closeCode]);
  };
  client.close();
  assert.deepEqual(await refusals(), Array(2).fill(["CLOSED", "not_done", false, undefined]));
  await connection.closed;

  client.connect().catch(() => {});
  const waiting = client.publish("c", "e", 2);
  const again = await server.accept();
  await again.welcome();
  accept(again, await again.next("PUBLISH_EVENT"));
  await waiting;

  const kicked = told(client, "status", ({ status }) => status === "closed");
  again.socket.close(4502);
  await kicked;
  assert.deepEqual(await refusals(), Array(2).fill(["CLOSED", "not_done", false, 4502]));
});

test("no answer in time: unknown if it was sent, not done if it still waited", async (t) => {
  const { client, connection, runtime } = await connected(t, { publishTimeoutMs: 3_000, pongTimeoutMs: 60_000 });
  const sent = rejection(client.publish("c", "e", 1));
  const { id } = await connection.next("PUBLISH_EVENT");
  runtime.advance(3_000);
  assert.deepEqual([(await sent).code, (await sent).outcome], ["TIMEOUT", "unknown"]);
  connection.send({ type: "EVENT_PUBLISHED", id, channel: "c" });
  await settled(client, connection);

  const other = await setup(t, { connectTimeoutMs: 60_000 });
  other.client.connect().catch(() => {});
  const waiting = rejection(other.client.publish("c", "e", 1, { timeoutMs: 1_000 }));
  other.runtime.advance(1_000);
  assert.deepEqual([(await waiting).code, (await waiting).outcome, other.client.queued], ["TIMEOUT", "not_done", 0]);
});

test("a queued publish may run out of time while the rate limit is waited out", async (t) => {
  const { server, client, runtime } = await setup(t);
  const opening = client.connect();
  const waiting = rejection(client.publish("c", "e", 1, { timeoutMs: 1_000 }));
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  const { id } = await connection.next("PUBLISH_EVENT");
  connection.send({ type: "ERROR", id, code: "RATE_LIMITED", message: "slow", retryable: true, retry_after_ms: 5_000 });
  await settled(client, connection);
  runtime.advance(1_000);
  assert.deepEqual([(await waiting).code, (await waiting).outcome], ["TIMEOUT", "not_done"]);
});

test("what the server would not take is refused here, and the connection stays", async (t) => {
  const { client, connection } = await connected(t, {}, { limits: { message_bytes: 200 } });
  const error = await rejection(client.publish("c", "e", "x".repeat(200)));
  assert.deepEqual([error.code, error.outcome], ["TOO_LARGE", "not_done"]);
  const publishing = client.publish("c", "e", "x");
  accept(connection, await connection.next("PUBLISH_EVENT"));
  await publishing;
});

test("what was queued before the limit was known is refused then, and the rest goes on", async (t) => {
  const { server, client } = await setup(t);
  const opening = client.connect();
  const large = rejection(client.publish("c", "e", "x".repeat(200)));
  const small = client.publish("c", "e", "x");
  const connection = await server.accept();
  await connection.welcome({ limits: { message_bytes: 200 } });
  await opening;
  assert.equal((await large).code, "TOO_LARGE");
  accept(connection, await connection.next("PUBLISH_EVENT"));
  await small;
});

test("what cannot be encoded is refused", async (t) => {
  const { client } = await connected(t);
  const cycle = {};
  cycle.self = cycle;
  for (const data of [cycle, 10n]) {
    const error = await rejection(client.publish("c", "e", data));
    assert.deepEqual([error.code, error.outcome], ["BAD_MESSAGE", "not_done"]);
    assert.ok(error.cause instanceof TypeError);
  }
});

test("what is in flight is bounded", async (t) => {
  const { client } = await connected(t);
  for (let i = 0; i < 1_024; i++) void client.publish("c", "e", i).catch(() => {});
  const error = await rejection(client.publish("c", "e"));
  assert.deepEqual([error.code, error.outcome], ["QUEUE_FULL", "not_done"]);
});

test("a publish behind a subscribe goes out behind it", async (t) => {
  const { client, connection } = await connected(t);
  client.subscribe("room:1");
  void client.publish("room:1", "e", 1).catch(() => {});
  await connection.next("CHANNEL_SUBSCRIBE");
  await connection.next("PUBLISH_EVENT");
});

test("publishing from the `status` listener works", async (t) => {
  const { server, client } = await setup(t);
  let answer;
  client.on("status", ({ status }) => status === "open" && (answer = client.publish("c", "e", 1)));
  const opened = told(client, "welcome");
  client.connect().catch(() => {});
  const connection = await server.accept();
  await connection.welcome();
  await opened;
  accept(connection, await connection.next("PUBLISH_EVENT"));
  await answer;
});
