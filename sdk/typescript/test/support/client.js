// A client under manual time, and ways to await what it tells.

import { once } from "node:events";
import WebSocket from "ws";
import { Drawbridge } from "../../dist/drawbridge.js";
import { ManualRuntime } from "./runtime.js";
import { FakeServer } from "./server.js";

/** A server, a client on manual time, and everything the client complained about. */
export async function setup(t, options = {}, serverOptions = {}) {
  const server = await FakeServer.start(t, serverOptions);
  const runtime = new ManualRuntime();
  const client = new Drawbridge(server.url, { WebSocket, runtime, reconnect: { minDelayMs: 500 }, logger: false, ...options });
  const errors = [];
  client.on("error", (error) => errors.push(error));
  t.after(() => client.close());
  return { server, client, runtime, errors };
}

/** The same, already connected. */
export async function connected(t, options = {}, welcome = {}) {
  const all = await setup(t, options);
  const opening = all.client.connect();
  const connection = await all.server.accept();
  const connect = await connection.welcome(welcome);
  await opening;
  return { ...all, connection, connect };
}

/** The next event of the client by that name for which `test` holds. */
export function told(client, name, test = () => true) {
  return new Promise((resolve) => {
    const off = client.on(name, (event) => {
      if (!test(event)) return;
      off();
      resolve(event);
    });
  });
}

export const lost = (client) => told(client, "status", ({ status, error }) => status === "connecting" && error);

/**
 * Awaits that the client has handled every frame sent so far (a marker event behind them came), and that the server
 * has read all that the client sent upon them (so did the answer to a WebSocket ping).
 */
export async function settled(client, connection) {
  const marker = told(client, "event", ({ event }) => event === "test-marker");
  connection.event("test:marker", "test-marker", null);
  await marker;
  const pong = once(connection.socket, "pong");
  connection.socket.ping();
  await pong;
}

/** Awaits a rejection and answers with its error. */
export async function rejection(promise) {
  return promise.then(
    (value) => {
      throw new Error(`resolved with ${JSON.stringify(value)}`);
    },
    (error) => error,
  );
}

/** A JWT-shaped token that nobody verifies. */
export function tokenUntil(expMs, sub = "alice") {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${part({ alg: "HS256" })}.${part({ sub, exp: expMs / 1000 })}.sig`;
}
