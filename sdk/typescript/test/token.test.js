import assert from "node:assert/strict";
import { test } from "node:test";
import { connected, lost, rejection, settled, setup, told, tokenUntil } from "./support/client.js";

/** The server's time in these tests; a connection begins there. */
const START = 1_700_000_000_000;
const patient = { pongTimeoutMs: 10_000_000, pingIntervalMs: 10_000_000 };

test("a provider is asked at each connect, and told why", async (t) => {
  const reasons = [];
  const token = async (reason) => `token-${reasons.push(reason)}`;
  const { server, client, connection, connect, runtime } = await connected(t, { token });
  assert.equal(connect.token, "token-1");
  const down = lost(client);
  connection.socket.close(1011);
  await down;
  runtime.advance(500);
  assert.equal((await (await server.accept()).welcome()).token, "token-2");
  assert.deepEqual(reasons, ["connect", "reconnect"]);
});

test("4004 comes back with a fresh token, at once after a connection that held", async (t) => {
  const reasons = [];
  const { server, client, connection, runtime } = await connected(t, { token: (reason) => `token-${reasons.push(reason)}`, ...patient });
  runtime.advance(30_000);
  const down = lost(client);
  connection.send({ type: "ERROR", code: "TOKEN_EXPIRED", message: "expired", retryable: false });
  connection.socket.close(4004);
  const { error, retryInMs } = await down;
  assert.deepEqual([error.code, error.closeCode, retryInMs], ["TOKEN_EXPIRED", 4004, 0]);
  runtime.advance(0);
  assert.equal((await (await server.accept()).welcome()).token, "token-2");
  assert.deepEqual(reasons, ["connect", "expired"]);
});

test("4004 with a fixed token that is not valid yet is tried again", async (t) => {
  const { server, client, runtime } = await setup(t, { token: "early" });
  client.connect().catch(() => {});
  const connection = await server.accept();
  const { id } = await connection.next("CONNECT");
  const down = lost(client);
  connection.send({ type: "ERROR", id, code: "UNAUTHENTICATED", message: "not valid yet", retryable: true, retry_after_ms: 2_000 });
  connection.socket.close(4004);
  const { retryInMs } = await down;
  assert.ok(retryInMs >= 2_000);
  runtime.advance(retryInMs);
  assert.equal((await (await server.accept()).welcome()).token, "early");
});

test("4004 with a fixed token is the end", async (t) => {
  const { client, connection, runtime } = await connected(t, { token: "fixed" });
  const down = told(client, "status", ({ status }) => status === "closed");
  connection.send({ type: "ERROR", code: "TOKEN_EXPIRED", message: "expired", retryable: false });
  connection.socket.close(4004);
  assert.equal((await down).error.code, "TOKEN_EXPIRED");
  assert.equal(runtime.timers, 0);
});

test("a text that is no token is shown in part, and never sent", async (t) => {
  for (const [text, shown] of [["<!doctype html>\n<title>404</title>", "<!doctype html>\\n<title>404</title>"], [`Bearer ${"x".repeat(60)}`, `Bearer ${"x".repeat(33)}`]]) {
    const { client } = await setup(t, { token: async () => text });
    client.connect().catch(() => {});
    const { error } = await lost(client);
    assert.equal(error.code, "TOKEN_PROVIDER");
    assert.equal(error.message, `the token provider returned a text that is no token: "${shown}"`);
    assert.match(error.hint, /answer\.ok/);
    client.close();
  }
});

test("what is no token is named, and never sent", async (t) => {
  for (const [value, name] of [[new Response("token"), "an object \\(Response\\)"], [{ token: "t" }, "an object \\(Object\\)"], [null, "null"], [7, "a number"]]) {
    const { client, runtime } = await setup(t, { token: async () => value });
    client.connect().catch(() => {});
    const { error } = await lost(client);
    assert.equal(error.code, "TOKEN_PROVIDER");
    assert.match(error.message, new RegExp(`returned ${name}, not a string`));
    assert.match(error.hint, /\.text\(\)/);
    client.close();
    assert.equal(runtime.timers, 0);
  }
});

test("a provider that fails is asked again, with backoff", async (t) => {
  let calls = 0;
  const token = () => {
    if (++calls === 1) throw new Error("no network");
    return "token";
  };
  const { server, client, runtime } = await setup(t, { token });
  const opening = client.connect();
  const { error, retryInMs } = await lost(client);
  assert.deepEqual([error.code, error.cause.message, retryInMs], ["TOKEN_PROVIDER", "no network", 500]);
  runtime.advance(500);
  assert.equal((await (await server.accept()).welcome()).token, "token");
  await opening;
});

test("a provider that hangs is a failed attempt, and its late answer is not used", async (t) => {
  const calls = [];
  const token = () => new Promise((resolve) => calls.push(resolve));
  const { server, client, runtime } = await setup(t, { token, connectTimeoutMs: 2_000 });
  const opening = client.connect();
  const down = lost(client);
  runtime.advance(2_000);
  await down;
  runtime.advance(500);
  calls[0]("late");
  calls[1]("right");
  assert.equal((await (await server.accept()).welcome()).token, "right");
  await opening;
});

test("a token is renewed in place before it ends, again and again", async (t) => {
  const minute = 60_000;
  let ends = START + 10 * minute;
  const reasons = [];
  const token = (reason) => (reasons.push(reason), tokenUntil(ends));
  const { client, connection, runtime } = await connected(t, { token, ...patient });
  ends = START + 20 * minute;
  runtime.advance(9.5 * minute - 1);
  assert.deepEqual(reasons, ["connect"]);
  runtime.advance(1);
  const refresh = await connection.next("TOKEN_REFRESH");
  assert.equal(refresh.token, tokenUntil(ends));
  // The server's word on the end counts, rather than the token's.
  connection.send({ type: "TOKEN_REFRESHED", id: refresh.id, expires_ms: START + 15 * minute });
  await settled(client, connection);
  runtime.advance(5 * minute);
  await connection.next("TOKEN_REFRESH");
  assert.deepEqual(reasons, ["connect", "refresh", "refresh"]);
});

test("the server's clock decides when, not this machine's", async (t) => {
  const { server, client, runtime } = await setup(t, { token: () => tokenUntil(START + 600_000), ...patient });
  runtime.wallOffset += 3_600_000;
  const opening = client.connect();
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  runtime.advance(569_999);
  await settled(client, connection);
  assert.equal(connection.waiting, 0);
  runtime.advance(1);
  await connection.next("TOKEN_REFRESH");
});

test("a refused renewal is told and tried again while there is time, and not for ever", async (t) => {
  const { client, connection, runtime, errors } = await connected(t, { token: () => tokenUntil(START + 100_000), ...patient });
  runtime.advance(80_000);
  let asked = 0;
  while (runtime.timers > 0 && asked < 20) {
    const { id } = await connection.next("TOKEN_REFRESH");
    asked++;
    connection.send({ type: "ERROR", id, code: "UNAUTHENTICATED", message: "no", retryable: false });
    await settled(client, connection);
    await new Promise(setImmediate);
    const before = asked;
    for (let i = 0; i < 100 && connection.waiting === 0 && before === asked; i++) {
      runtime.advance(1_000);
      await settled(client, connection);
      if (i === 99) asked = 100;
    }
    if (asked === 100) break;
  }
  assert.equal(asked, 100, "it gives up before the end");
  assert.ok(errors.length >= 2 && errors.every(({ code }) => code === "UNAUTHENTICATED"));
  assert.equal(client.status, "open");
});

test("a token that is no JWT, or has no end, is left alone", async (t) => {
  for (const token of [() => "opaque", () => "a.b.c", () => `x.${Buffer.from("{}").toString("base64url")}.y`]) {
    const { client, connection, runtime } = await connected(t, { token, ...patient });
    runtime.advance(3_600_000);
    await settled(client, connection);
    assert.equal(connection.waiting, 0);
  }
});

test("a break ends the renewing", async (t) => {
  const { client, runtime, connection } = await connected(t, { token: () => tokenUntil(START + 100_000), ...patient });
  const closed = told(client, "status", ({ status }) => status === "closed");
  connection.socket.close(4502);
  await closed;
  assert.equal(runtime.timers, 0);
});

test("a token never shows in an error", async (t) => {
  const { client, server } = await setup(t, { token: "very-secret" });
  const opening = rejection(client.connect());
  const connection = await server.accept();
  await connection.next("CONNECT");
  connection.socket.close(4500);
  const error = await opening;
  assert.ok(!`${error.stack}${JSON.stringify(error)}`.includes("very-secret"));
});
