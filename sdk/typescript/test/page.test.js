// What a browser says of the page and its network: the back-forward cache, leaving, sleep, another network.

import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { transformSync } from "esbuild";
import { readFileSync } from "node:fs";
import { connected, lost, settled, told } from "./support/client.js";

async function inRoom(t, options = {}) {
  const all = await connected(t, options);
  const room = all.client.subscribe("room:1");
  await all.connection.confirm("room:1");
  await room.ready;
  return { ...all, room };
}

test("the back-forward cache: no socket and no timer while the page is kept, and the session goes on when it returns", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t);
  const down = lost(client);
  runtime.page("keep");
  assert.equal((await down).retryInMs, undefined);
  const { code } = await connection.closed;
  assert.ok(code !== 1000 && code < 4500, `${code} keeps the session`);
  assert.equal(runtime.timers, 0);
  for (const signal of ["online", "offline", "visible", "keep"]) runtime.page(signal);
  assert.equal(runtime.timers, 0);
  runtime.sleep(30_000);
  runtime.page("return");
  const connect = await (await server.accept()).next("CONNECT");
  assert.equal(connect.resume.session, "s1");
  assert.deepEqual(connect.resume.positions, { "room:1": { epoch: "e1", offset: 0 } });
});

test("a page that leaves for good ends its session, so that no ghost stays", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t);
  const resyncs = [];
  client.on("resync", ({ channel, reason }) => resyncs.push([channel, reason]));
  runtime.page("leave");
  assert.equal((await connection.closed).code, 1000);
  assert.equal(runtime.timers, 0);
  // A browser that keeps it all the same finds the client working.
  runtime.page("return");
  const next = await server.accept();
  const connect = await next.welcome();
  assert.ok(!("resume" in connect));
  await settled(client, next);
  assert.deepEqual(resyncs, [["room:1", "reconnect"]]);
});

test("a page that is hidden while it waits, or while it dials, does neither any more", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t);
  const down = lost(client);
  connection.socket.terminate();
  await down;
  runtime.page("keep");
  assert.equal(runtime.timers, 0);
  runtime.page("return");
  const dialling = await server.accept();
  runtime.page("keep");
  await dialling.closed;
  assert.equal(runtime.timers, 0);
  client.close();
  runtime.page("return");
  assert.equal(runtime.timers, 0, "a closed client stays closed");
});

test("another network, or somebody who looks again: the client asks at once whether the server is there", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t, { pingIntervalMs: 600_000, pongTimeoutMs: 2_000 });
  await settled(client, connection);
  for (const signal of ["online", "offline", "visible", "return"]) {
    connection.clock = null;
    runtime.page(signal);
    connection.pong(await connection.nextPing());
    await settled(client, connection);
  }
  runtime.page("online");
  await connection.nextPing();
  const down = lost(client);
  runtime.advance(2_000);
  await down;
  runtime.page("online");
  assert.equal((await (await server.accept()).next("CONNECT")).resume.session, "s1");
});

test("whoever looks again after a sleep waits two seconds for a dead connection, not for the usual time", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t, { pongTimeoutMs: 30_000 });
  await settled(client, connection);
  connection.clock = null;
  // The usual question is out, and its answer is lost in the sleep.
  runtime.advance(1_000);
  await connection.nextPing();
  runtime.sleep(25_000);
  runtime.page("visible");
  await connection.nextPing();
  runtime.page("visible");
  const down = lost(client);
  runtime.advance(2_000);
  runtime.advance((await down).retryInMs);
  await (await server.accept()).next("CONNECT");
  assert.ok((await connection.closed).code !== 1000);
});

test("being looked at ends a wait, but none that the server asked for", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t);
  let down = lost(client);
  connection.socket.terminate();
  await down;
  runtime.page("offline");
  assert.equal(client.status, "connecting");
  runtime.page("visible");
  const next = await server.accept();
  await next.welcome();
  await settled(client, next);
  down = lost(client);
  next.send({ type: "ERROR", code: "INTERNAL", message: "overloaded", retryable: true, retry_after_ms: 4_000 });
  next.socket.close(4003);
  await down;
  const dialled = server.accept();
  runtime.page("visible");
  runtime.page("online");
  await new Promise(setImmediate);
  assert.equal(runtime.timers, 1, "it still waits");
  runtime.advance(4_000);
  runtime.page("online");
  await (await dialled).welcome();
  await told(client, "welcome");
});

test("after a sleep the silent connection is found out, and the session goes on", async (t) => {
  const { server, client, runtime, connection } = await inRoom(t, { pongTimeoutMs: 5_000 });
  await settled(client, connection);
  connection.clock = null;
  const down = lost(client);
  runtime.sleep(3_600_000);
  // What ran late is excused first: the page may not have read what waits on the socket.
  while (client.status === "open") runtime.advance(1_000);
  const { retryInMs } = await down;
  runtime.sleep(retryInMs + 60_000);
  assert.equal((await (await server.accept()).next("CONNECT")).resume.session, "s1");
});

// ── The browser's events ─────────────────────────────────────────────────────────────────────────────────────────

const source = transformSync(readFileSync(new URL("../src/page.ts", import.meta.url), "utf8"), { loader: "ts" }).code;
const { onPage } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
const globals = ["addEventListener", "removeEventListener", "document"];
afterEach(() => globals.forEach((name) => delete globalThis[name]));

test("each event of the browser is one signal, and none after the end", () => {
  const [page, document] = [new EventTarget(), Object.assign(new EventTarget(), { visibilityState: "visible" })];
  globalThis.addEventListener = page.addEventListener.bind(page);
  globalThis.removeEventListener = page.removeEventListener.bind(page);
  globalThis.document = document;
  const seen = [];
  const stop = onPage((signal) => seen.push(signal));
  const say = (target, name, fields) => target.dispatchEvent(Object.assign(new Event(name), fields));
  const all = () => {
    say(page, "online");
    say(page, "offline");
    say(page, "pagehide", { persisted: true });
    say(page, "pagehide", { persisted: false });
    say(page, "pageshow", { persisted: true });
    say(document, "visibilitychange");
    document.visibilityState = "hidden";
    say(document, "visibilitychange");
  };
  all();
  stop();
  all();
  assert.deepEqual(seen, ["online", "offline", "keep", "leave", "return", "visible"]);
});

test("where there is no page nothing comes", () => onPage(() => assert.fail())());
