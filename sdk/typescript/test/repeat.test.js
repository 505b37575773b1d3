// Publishes that may be repeated: what has an idempotency key is sent until it is answered, in order, for 90 s.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, lost, rejection, settled } from "./support/client.js";

const accept = (connection, { id, channel }, fields = {}) => connection.send({ type: "EVENT_PUBLISHED", id, channel, ...fields });
const refuse = (connection, { id }, code, fields = {}) => connection.send({ type: "ERROR", id, code, message: "no", retryable: false, ...fields });

async function again({ server, client, runtime }, connection) {
  const down = lost(client);
  connection.socket.terminate();
  runtime.advance((await down).retryInMs);
  const next = await server.accept();
  await next.welcome();
  return next;
}

test("`retry` makes a key for each publish, and an `idempotencyKey` of your own is one", async (t) => {
  const { client, connection } = await connected(t);
  for (const options of [{ retry: true }, { retry: true }, { idempotencyKey: "mine" }, { retry: true, idempotencyKey: "mine" }, {}]) {
    void client.publish("log:1", "e", 1, options).catch(() => {});
  }
  const keys = [];
  for (let i = 0; i < 5; i++) keys.push((await connection.next("PUBLISH_EVENT")).idempotency_key);
  assert.deepEqual(keys, ["key-1", "key-2", "mine", "mine", undefined]);
});

test("what was out when the link broke is repeated with its key, in order and before what came later", async (t) => {
  const all = await connected(t);
  const { client, connection } = all;
  const publish = (n, retry = true) => client.publish("log:1", "e", n, { retry });
  const answers = [publish(1), publish(2)];
  const doubtful = rejection(publish(3, false));
  answers.push(publish(4));
  const sent = [];
  for (let i = 0; i < 4; i++) sent.push(await connection.next("PUBLISH_EVENT"));
  accept(connection, sent[1], { offset: 8 });
  await answers[1];
  const broken = lost(client);
  connection.socket.terminate();
  const { retryInMs } = await broken;
  assert.deepEqual([(await doubtful).code, (await doubtful).outcome], ["CONNECTION_LOST", "unknown"]);
  answers.push(publish(5));
  assert.equal(client.queued, 3);
  all.runtime.advance(retryInMs);
  const next = await all.server.accept();
  await next.welcome();
  for (const n of [1, 4, 5]) {
    const request = await next.next("PUBLISH_EVENT");
    assert.equal(request.data, n);
    if (n !== 5) assert.equal(request.idempotency_key, sent[n - 1].idempotency_key);
    accept(next, request, { offset: 10 + n });
  }
  assert.deepEqual((await Promise.all(answers)).map(({ offset }) => offset), [11, 8, 14, 15]);
  await settled(client, next);
  assert.equal(next.waiting, 0);
});

test("a break of the link while the repeat is out repeats it again", async (t) => {
  const all = await connected(t);
  const publishing = all.client.publish("log:1", "e", 1, { retry: true });
  const { idempotency_key: key } = await all.connection.next("PUBLISH_EVENT");
  let { connection } = all;
  for (let i = 0; i < 3; i++) {
    connection = await again(all, connection);
    assert.equal((await connection.next("PUBLISH_EVENT")).idempotency_key, key);
  }
  connection = await again(all, connection);
  accept(connection, await connection.next("PUBLISH_EVENT"), { offset: 1 });
  assert.equal((await publishing).offset, 1);
});

test("where Redis went away and the outcome is unknown it is repeated, behind a pause", async (t) => {
  const { client, connection, runtime } = await connected(t);
  const publishing = client.publish("log:1", "e", 1, { retry: true });
  const unkeyed = rejection(client.publish("log:1", "e", 2));
  for (let i = 0; i < 2; i++) refuse(connection, await connection.next("PUBLISH_EVENT"), "BROKER_UNAVAILABLE", { outcome: "unknown", retryable: true });
  assert.equal((await unkeyed).outcome, "unknown");
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
  runtime.advance(1_000);
  const request = await connection.next("PUBLISH_EVENT");
  assert.equal(request.data, 1);
  accept(connection, request, { offset: 5 });
  assert.equal((await publishing).offset, 5);
});

test("what the server certainly did not do is not repeated: that is the application's choice", async (t) => {
  const { client, connection } = await connected(t);
  for (const [code, fields] of [["RATE_LIMITED", { retryable: true }], ["BROKER_UNAVAILABLE", { outcome: "not_done", retryable: true }], ["UNSUPPORTED", {}]]) {
    const refused = rejection(client.publish("log:1", "e", 1, { retry: true }));
    refuse(connection, await connection.next("PUBLISH_EVENT"), code, fields);
    assert.deepEqual([(await refused).code, (await refused).outcome], [code, "not_done"]);
  }
});

test("a repeat that is refused stays in doubt: the first may have been done", async (t) => {
  const all = await connected(t);
  const refused = rejection(all.client.publish("log:1", "e", 1, { retry: true }));
  await all.connection.next("PUBLISH_EVENT");
  const next = await again(all, all.connection);
  refuse(next, await next.next("PUBLISH_EVENT"), "FORBIDDEN");
  assert.deepEqual([(await refused).code, (await refused).outcome], ["FORBIDDEN", "unknown"]);
});

test("a rate limit on a repeat is waited out", async (t) => {
  const all = await connected(t);
  const publishing = all.client.publish("log:1", "e", 1, { retry: true });
  await all.connection.next("PUBLISH_EVENT");
  const next = await again(all, all.connection);
  refuse(next, await next.next("PUBLISH_EVENT"), "RATE_LIMITED", { retryable: true, retry_after_ms: 300 });
  await settled(all.client, next);
  all.runtime.advance(300);
  accept(next, await next.next("PUBLISH_EVENT"));
  await publishing;
});

test("90 s after the first time nothing is repeated, however long the caller would wait", async (t) => {
  const all = await connected(t, { connectTimeoutMs: 500_000, reconnect: { minDelayMs: 80_000, maxDelayMs: 80_000 } });
  const { client, connection, server, runtime } = all;
  const [short, long] = [{}, { timeoutMs: 300_000 }].map((more) => rejection(client.publish("log:1", "e", 1, { retry: true, ...more })));
  for (let i = 0; i < 2; i++) await connection.next("PUBLISH_EVENT");
  const down = lost(client);
  connection.socket.terminate();
  runtime.advance((await down).retryInMs);
  await (await server.accept()).next("CONNECT");
  runtime.advance(9_999);
  assert.equal(client.queued, 2);
  runtime.advance(1);
  for (const error of [await short, await long]) assert.deepEqual([error.code, error.outcome], ["TIMEOUT", "unknown"]);
  assert.equal(client.queued, 0);
});

test("a sleep counts too, where the clock of timers stood still in it", async (t) => {
  const all = await connected(t);
  const { client, connection, runtime } = all;
  const doubtful = rejection(client.publish("log:1", "e", 1, { retry: true }));
  await connection.next("PUBLISH_EVENT");
  const down = lost(client);
  connection.socket.terminate();
  const { retryInMs } = await down;
  runtime.wallOffset += 90_000;
  runtime.advance(retryInMs);
  const next = await all.server.accept();
  await next.welcome();
  assert.deepEqual([(await doubtful).code, (await doubtful).outcome], ["TIMEOUT", "unknown"]);
  await settled(client, next);
  assert.equal(next.waiting, 0);
});

test("closing leaves in doubt what was sent, and says so", async (t) => {
  const all = await connected(t);
  const sent = rejection(all.client.publish("log:1", "e", 1, { retry: true }));
  await all.connection.next("PUBLISH_EVENT");
  const down = lost(all.client);
  all.connection.socket.terminate();
  await down;
  const unsent = rejection(all.client.publish("log:1", "e", 2, { retry: true }));
  all.client.close();
  assert.deepEqual([(await sent).code, (await sent).outcome], ["CLOSED", "unknown"]);
  assert.deepEqual([(await unsent).code, (await unsent).outcome], ["CLOSED", "not_done"]);
  assert.equal(all.runtime.timers, 0);
});

test("what is repeated has room, even where the queue is full or off", async (t) => {
  for (const maxMessages of [0, 2]) {
    const all = await connected(t, { queue: { maxMessages } });
    const { client, connection } = all;
    const answers = Array.from({ length: 5 }, (_, n) => client.publish("log:1", "e", n, { retry: true }));
    for (let i = 0; i < 5; i++) await connection.next("PUBLISH_EVENT");
    const next = await again(all, connection);
    for (let n = 0; n < 5; n++) {
      const request = await next.next("PUBLISH_EVENT");
      assert.equal(request.data, n);
      accept(next, request);
    }
    await Promise.all(answers);
  }
});

test("`local` says that only this node's players have it", async (t) => {
  const { client, connection } = await connected(t);
  const publishing = client.publish("chat:1", "e", 1);
  accept(connection, await connection.next("PUBLISH_EVENT"), { local: true });
  assert.deepEqual(await publishing, { channel: "chat:1", local: true });
});
