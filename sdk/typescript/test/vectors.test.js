// The project's golden vectors: both encodings say the same to this client, and what it sends has exactly these bytes.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { decode, encode, msgpack } from "../dist/msgpack.js";
import { settled, setup } from "./support/client.js";

const directory = new URL("../../../crates/protocol/vectors/", import.meta.url);
const skip = existsSync(directory) ? false : "this checkout has no vectors";
const vectors = (name) => (skip ? [] : JSON.parse(readFileSync(new URL(name, directory), "utf8")));
const bytesOf = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

/** What both encodings can say of a value: base64 for bytes, every number a finite double, Unicode well formed. */
function asJson(value) {
  if (typeof value === "bigint") return Number(value);
  if (typeof value === "number") return Math.min(Math.max(value, -Number.MAX_VALUE), Number.MAX_VALUE);
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (typeof value === "string") return value.toWellFormed();
  if (Array.isArray(value)) return value.map(asJson);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, asJson(item)]));
}

for (const file of ["client.json", "server.json", "events.json", "entities.json", "history.json"]) {
  test(`${file}: both encodings say the same`, { skip }, () => {
    for (const { name, json, msgpack_hex } of vectors(file)) {
      if (json === null) continue;
      const packed = asJson(decode(bytesOf(msgpack_hex)));
      const text = asJson(JSON.parse(json));
      // Bytes need no hint where they are bytes.
      if (text.encoding === "base64" && packed.encoding === undefined) delete text.encoding;
      assert.deepEqual(packed, text, name);
    }
  });
}

test("client.json: this encoder writes the same bytes", { skip }, () => {
  for (const { name, json, msgpack_hex } of vectors("client.json")) {
    const value = JSON.parse(json);
    // Numbers that JavaScript cannot tell from others ("7.0", more than 53 bits) may have another form.
    if (JSON.stringify(value) !== json) continue;
    assert.equal(Buffer.from(encode(value)).toString("hex"), msgpack_hex, name);
  }
});

for (const encoding of ["json", "msgpack"]) {
  test(`a client takes all that servers send, in ${encoding}`, { skip }, async (t) => {
    const packed = encoding === "msgpack";
    const codec = { encode: (message) => Buffer.from(encode(message)), decode: (data) => decode(new Uint8Array(data)) };
    const { server, client, errors } = packed
      ? await setup(t, { codec: msgpack }, { codec, subprotocol: msgpack.subprotocol })
      : await setup(t);
    const world = client.entities("world:1");
    const opening = client.connect();
    const connection = await server.accept();
    await connection.welcome();
    await opening;
    const told = { event: 0, resync: 0, goodbye: 0, status: 0 };
    for (const name of Object.keys(told)) client.on(name, () => told[name]++);
    // Events first: behind the POSITION of their channel they would be repeats.
    for (const vector of [...vectors("events.json"), ...vectors("server.json")]) {
      if (vector.json !== null) connection.raw(packed ? bytesOf(vector.msgpack_hex) : vector.json);
    }
    for (const vector of vectors("entities.json")) connection.raw(packed ? bytesOf(vector.msgpack_hex) : vector.json);
    await settled(client, connection);
    const last = JSON.parse(vectors("entities.json").at(-1).json).entities;
    assert.deepEqual([...world].map(({ key, event, data }) => ({ key, event, data })), last);
    assert.deepEqual(errors.filter(({ code }) => code === "BAD_FRAME" || code === "LISTENER"), []);
    const events = vectors("events.json").filter(({ json }) => json !== null).length;
    assert.equal(told.event - 1, events, "the marker aside");
    assert.ok(told.resync > 0 && told.goodbye > 0 && told.status > 0, JSON.stringify(told));
  });
}

test("bad.json: what is not JSON or MessagePack is refused here too", { skip }, () => {
  for (const { name, json, msgpack_hex, answers } of vectors("bad.json")) {
    if (answers[0].bad === "not JSON" && json !== undefined) assert.throws(() => JSON.parse(json), SyntaxError, name);
    const broken = /not MessagePack|extension types|map's key/.test(answers[0].bad);
    if (broken && msgpack_hex !== undefined) assert.throws(() => decode(bytesOf(msgpack_hex)), Error, name);
  }
});
