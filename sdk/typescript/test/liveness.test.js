import assert from "node:assert/strict";
import { test } from "node:test";
import { lost, settled, setup } from "./support/client.js";

/** Connected to a server that answers `PING` only by hand. */
async function silent(t, options = {}) {
  const all = await setup(t, { pingIntervalMs: 10_000, pongTimeoutMs: 5_000, ...options });
  const opening = all.client.connect();
  const connection = await all.server.accept();
  connection.clock = null;
  await connection.welcome();
  await opening;
  return { ...all, connection };
}

test("asks at once, a few times quickly, then at the interval", async (t) => {
  const { client, connection, runtime } = await silent(t);
  const times = [];
  for (const stepMs of [1_000, 1_000, 10_000, 10_000]) {
    const ping = await connection.nextPing();
    times.push(ping.t);
    connection.pong(ping);
    await settled(client, connection);
    runtime.advance(stepMs);
  }
  assert.deepEqual(times.map((time) => time - times[0]), [0, 1_000, 2_000, 12_000]);
});

test("the server's heartbeat sets the interval where none is given", async (t) => {
  const { server, client, runtime } = await setup(t);
  const opening = client.connect();
  const connection = await server.accept();
  connection.clock = null;
  await connection.welcome({ heartbeat_ms: 4_000 });
  await opening;
  const times = [];
  for (let i = 0; i < 4; i++) {
    const ping = await connection.nextPing();
    times.push(ping.t);
    connection.pong(ping);
    await settled(client, connection);
    runtime.advance(i < 2 ? 1_000 : 2_000);
  }
  assert.deepEqual(times.map((time) => time - times[0]), [0, 1_000, 2_000, 4_000]);
});

test("a silent server is gone, and the client comes back without waiting for the socket", async (t) => {
  const { server, client, connection, runtime } = await silent(t);
  await connection.nextPing();
  connection.socket.pause();
  const down = lost(client);
  runtime.advance(5_000);
  const { error } = await down;
  assert.equal(error.code, "CONNECTION_LOST");
  runtime.advance(500);
  await (await server.accept()).welcome();
});

test("other traffic excuses a late PONG, but not for ever", async (t) => {
  const { client, connection, runtime } = await silent(t);
  await connection.nextPing();
  const down = lost(client);
  for (let i = 0; i < 2; i++) {
    connection.event("c", "e", null);
    await settled(client, connection);
    runtime.advance(5_000);
    assert.equal(client.status, "open");
  }
  await settled(client, connection);
  runtime.advance(5_000);
  assert.equal(client.status, "connecting");
  await down;
});

test("an error is an answer too", async (t) => {
  const { client, connection, runtime, errors } = await silent(t);
  const { id } = await connection.nextPing();
  connection.send({ type: "ERROR", id, code: "RATE_LIMITED", message: "slow", retryable: true, retry_after_ms: 100 });
  await settled(client, connection);
  runtime.advance(999);
  assert.equal(client.status, "open");
  assert.deepEqual(errors, []);
});

test("a page that was frozen first reads what is waiting for it", async (t) => {
  const { client, connection, runtime } = await silent(t);
  const ping = await connection.nextPing();
  runtime.sleep(60_000);
  assert.equal(client.status, "open");
  connection.pong(ping);
  await settled(client, connection);
  assert.equal(client.status, "open");
});

test("the clock believes the shortest round trip", async (t) => {
  const { client, connection, runtime } = await silent(t, { pongTimeoutMs: 60_000 });
  const start = runtime.now();
  const serverNow = () => 1_700_000_123_000 + (runtime.now() - start);
  // A slow way there (80 ms) and a quick one back (0 ms): 40 ms wrong.
  let ping = await connection.nextPing();
  runtime.advance(80);
  connection.pong(ping, serverNow());
  await settled(client, connection);
  // The sample of WELCOME took no time at all and is exact by its own server time.
  assert.equal(client.clock.rttMs, 0);
  assert.equal(client.clock.now(), 1_700_000_000_080);
});

test("before the first connection the clock is this machine's", async (t) => {
  const { client, runtime } = await setup(t);
  assert.equal(client.clock.now(), runtime.wallNow());
  assert.equal(client.clock.rttMs, undefined);
  assert.equal(client.clock.offsetMs, 0);
});

test("a better sample takes the place of a worse one, and old ones are forgotten", async (t) => {
  const { server, client, runtime } = await setup(t, { pingIntervalMs: 1_000, pongTimeoutMs: 60_000 });
  const opening = client.connect();
  const connection = await server.accept();
  connection.clock = null;
  const connect = await connection.next("CONNECT");
  const start = runtime.now();
  let ahead = 5_000_000;
  const serverNow = () => runtime.wallNow() + ahead;
  runtime.advance(400);
  connection.send({ ...connection.welcomeTo(connect), server_time_ms: serverNow() });
  await opening;
  assert.equal(client.clock.rttMs, 400);
  assert.equal(client.clock.offsetMs, 5_000_200, "half the round trip wrong");
  const answer = async (rttMs) => {
    const ping = await connection.nextPing();
    runtime.advance(rttMs / 2);
    const time = serverNow();
    runtime.advance(rttMs / 2);
    connection.pong(ping, time);
    await settled(client, connection);
    runtime.advance(1_000 - rttMs);
  };
  await answer(20);
  assert.deepEqual([client.clock.rttMs, client.clock.offsetMs], [20, 5_000_000]);
  await answer(60);
  assert.deepEqual([client.clock.rttMs, client.clock.offsetMs], [20, 5_000_000]);
  ahead = 5_000_300;
  for (let i = 0; i < 16; i++) await answer(60);
  assert.deepEqual([client.clock.rttMs, client.clock.offsetMs], [60, 5_000_300]);
  assert.ok(runtime.now() > start);
});
