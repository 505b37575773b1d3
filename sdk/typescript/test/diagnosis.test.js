// What a developer reads when the client cannot connect.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { createServer as createTcpServer } from "node:net";
import { test } from "node:test";
import WebSocket from "ws";
import { Drawbridge } from "../dist/drawbridge.js";
import { lost, setup, told } from "./support/client.js";
import { ManualRuntime } from "./support/runtime.js";

/** A client on `url` that has failed once, and its warnings. */
async function failing(t, url, options = {}) {
  const warnings = [];
  const runtime = options.runtime ?? new ManualRuntime();
  const logger = { warn: (message) => warnings.push(message), error: assert.fail };
  const client = new Drawbridge(url, { WebSocket, logger, ...options, runtime });
  t.after(() => client.close());
  const down = told(client, "status", ({ error }) => error);
  client.connect().catch(() => {});
  const { error } = await down;
  return { client, runtime, warnings, error };
}

async function listening(t, server) {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  return `127.0.0.1:${server.address().port}`;
}

/** Answers each upgrade with this status. */
function refusing(t, status) {
  const server = createServer();
  server.on("upgrade", (_, socket) => socket.end(`HTTP/1.1 ${status} Refused\r\ncontent-length: 0\r\n\r\n`));
  return listening(t, server);
}

test("a port on which nothing listens", async (t) => {
  const { warnings, error } = await failing(t, "ws://127.0.0.1:1/ws");
  assert.match(warnings[0], /^drawbridge: cannot connect to ws:\/\/127\.0\.0\.1:1\/ws: .*ECONNREFUSED.*\(nothing listens there: is the server running, and is this its port\?\); trying again in \d+ ms$/);
  assert.match(error.hint, /is this its port/);
});

test("an origin that the server does not allow", async (t) => {
  const { warnings } = await failing(t, `ws://${await refusing(t, 403)}/ws`);
  assert.match(warnings[0], /does not allow this origin: add it to its connection\.allowed_origins/);
});

test("a path that the server does not have", async (t) => {
  const { warnings } = await failing(t, `ws://${await refusing(t, 404)}/socket`);
  assert.match(warnings[0], /is the path right\? Drawbridge's is \/ws/);
});

test("wss: to a port without TLS", async (t) => {
  const { warnings, error } = await failing(t, `wss://${await refusing(t, 403)}/ws`);
  assert.match(warnings[0], /this port has no TLS: use ws:/);
  assert.doesNotMatch(error.message, /\n/);
});

test("a port of something else", async (t) => {
  const server = createTcpServer((socket) => socket.on("error", () => {}).on("data", () => socket.end("-ERR unknown command\r\n")));
  const { warnings } = await failing(t, `ws://${await listening(t, server)}/ws`);
  assert.match(warnings[0], /no WebSocket server answers there/);
});

test("a token that cannot be had", async (t) => {
  const { warnings } = await failing(t, "ws://127.0.0.1:1/ws", { token: () => Promise.reject(new Error("HTTP 500 of /token")) });
  assert.match(warnings[0], /TOKEN_PROVIDER: the token provider failed: HTTP 500 of \/token; trying again/);
});

test("each cause is logged once, until a connect succeeds", async (t) => {
  const warnings = [];
  let provide = () => Promise.reject(new Error("no token yet"));
  const logger = { warn: (message) => warnings.push(message), error: assert.fail };
  const { server, client, runtime } = await setup(t, { token: () => provide(), logger });
  let retryInMs;
  const failure = async (action) => {
    const down = lost(client);
    await action();
    ({ retryInMs } = await down);
    return warnings.length;
  };
  const retry = () => runtime.advance(retryInMs);
  const closed = async () => {
    retry();
    (await server.accept()).socket.close(4003);
  };
  assert.equal(await failure(() => void client.connect().catch(() => {})), 1);
  assert.equal(await failure(retry), 1);
  provide = () => "jwt";
  assert.equal(await failure(closed), 2);
  assert.equal(await failure(closed), 2);
  const up = told(client, "welcome");
  retry();
  const connection = await server.accept();
  await connection.welcome();
  await up;
  provide = () => Promise.reject(new Error("gone again"));
  assert.equal(await failure(() => connection.socket.close(1011)), 2);
  assert.equal(await failure(retry), 2);
});

/** A browser's: no word on why. */
class MuteWebSocket {
  readyState = 0;
  bufferedAmount = 0;
  constructor() {
    queueMicrotask(() => {
      this.onerror?.({});
      this.onclose?.({ code: 1006, reason: "" });
    });
  }
  close() {}
}

function inPage(t, origin) {
  const value = { origin, href: `${origin}/`, protocol: new URL(origin).protocol };
  Object.defineProperty(globalThis, "location", { value, configurable: true });
  t.after(() => delete globalThis.location);
}

for (const [answers, path, expected] of [
  [false, "/ws", /\(nothing answers at 127\.0\.0\.1:8000: is the server running, is this its port, and may this page connect there\?\)/],
  [true, "/ws", /\(127\.0\.0\.1:8000 answers, but not as a WebSocket: does the server allow the origin http:\/\/localhost:5173 \(connection\.allowed_origins\), and is this its port for players\? The server's log names the reason\)/],
  [true, "/socket", /not as a WebSocket: is the path right \(Drawbridge's is \/ws, this one \/socket\), does the server allow the origin/],
]) {
  test(`in a browser, at ${path}, where ${answers ? "a server" : "nothing"} answers`, async (t) => {
    inPage(t, "http://localhost:5173");
    const runtime = new ManualRuntime();
    runtime.answers = answers;
    const { warnings } = await failing(t, `ws://user:secret@127.0.0.1:8000${path}?token=secret`, { runtime, WebSocket: MuteWebSocket });
    assert.match(warnings[0], expected);
    assert.deepEqual([warnings.length, runtime.asked], [1, [`http://127.0.0.1:8000${path}`]]);
  });
}

test("in a browser, wss: where nothing answers over TLS", async (t) => {
  inPage(t, "http://localhost:5173");
  const runtime = new ManualRuntime();
  runtime.answers = false;
  const { warnings } = await failing(t, "wss://127.0.0.1:8000/ws", { runtime, WebSocket: MuteWebSocket });
  assert.match(warnings[0], /nothing answers at 127\.0\.0\.1:8000 over TLS: .*does this port have TLS \(without it: ws:\)/);
});

test("a server that rejects the token, or wants one, in one line", async (t) => {
  for (const [token, code, hint] of [
    [undefined, "UNAUTHENTICATED", / \(pass `token` to the client: a JWT, or a function that returns one\); not trying again$/],
    ["jwt", "UNAUTHENTICATED", /: bad; not trying again$/],
    ["jwt", "TOKEN_EXPIRED", / \(pass a function as `token`, which fetches a fresh one\); not trying again$/],
  ]) {
    const warnings = [];
    // Errors of a rejected connect are in `status`, and in `error` for those who listen.
    const logger = { warn: (message) => warnings.push(message), error: assert.fail };
    const { server, client } = await setup(t, { token, logger });
    const ended = told(client, "status", ({ error }) => error);
    client.connect().catch(() => {});
    const connection = await server.accept();
    const { id } = await connection.next("CONNECT");
    connection.send({ type: "ERROR", id, code, message: "bad" });
    connection.socket.close(code === "TOKEN_EXPIRED" ? 4004 : 4500);
    await ended;
    assert.equal(warnings.length, 1);
    assert.match(warnings[0], hint);
  }
});

test("in a browser, an insecure address on a secure page", async (t) => {
  inPage(t, "https://play.example");
  class Blocked {
    constructor() {
      throw new Error("An insecure WebSocket connection may not be initiated from a page loaded over HTTPS.");
    }
  }
  const { warnings, client, error } = await failing(t, "ws://play.example/ws", { WebSocket: Blocked });
  assert.match(warnings[0], /An insecure WebSocket .* \(mixed content: a page over https may open wss: only\); not trying again$/);
  assert.deepEqual([client.status, error.cause.constructor], ["closed", Error]);
});

test("an address that is none of a WebSocket is refused at once", (t) => {
  for (const url of ["127.0.0.1:8000/ws", "localhost:8000/ws", "/ws", "ftp://127.0.0.1/ws", ""]) {
    assert.throws(() => new Drawbridge(url, { WebSocket }), /^TypeError: .*is not the address of a WebSocket: write it like ws:\/\//, url);
  }
  inPage(t, "http://localhost:5173");
  for (const url of ["127.0.0.1:8000/ws", "localhost:8000/ws", "play.example/ws"]) {
    assert.throws(() => new Drawbridge(url, { WebSocket }), /write it like ws:\/\//, url);
  }
  for (const url of ["/ws", "./ws", "//localhost:1/ws"]) assert.equal(new Drawbridge(url, { WebSocket }).status, "closed");
  for (const url of ["http://127.0.0.1:1/ws", new URL("wss://127.0.0.1:1/ws")]) assert.equal(new Drawbridge(url, { WebSocket }).status, "closed");
});
