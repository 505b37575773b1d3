import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encode, msgpack } from "../dist/msgpack.js";
import { rejection, settled, setup } from "./support/client.js";

const hex = (bytes) => Buffer.from(bytes).toString("hex");

// Value, its bytes.
const rows = [
  [null, "c0"],
  [false, "c2"],
  [true, "c3"],
  [0, "00"],
  [127, "7f"],
  [128, "cc80"],
  [255, "ccff"],
  [256, "cd0100"],
  [65_535, "cdffff"],
  [65_536, "ce00010000"],
  [4_294_967_295, "ceffffffff"],
  [4_294_967_296, "cf0000000100000000"],
  [Number.MAX_SAFE_INTEGER, "cf001fffffffffffff"],
  [2n ** 53n, "cf0020000000000000"],
  [2n ** 64n - 1n, "cfffffffffffffffff"],
  [-1, "ff"],
  [-32, "e0"],
  [-33, "d0df"],
  [-128, "d080"],
  [-129, "d1ff7f"],
  [-32_768, "d18000"],
  [-32_769, "d2ffff7fff"],
  [-2_147_483_648, "d280000000"],
  [-2_147_483_649, "d3ffffffff7fffffff"],
  [-(2n ** 63n), "d38000000000000000"],
  [1.5, "cb3ff8000000000000"],
  [-0, "cb8000000000000000"],
  [1e300, "cb7e37e43c8800759c"],
  ["", "a0"],
  ["é", "a2c3a9"],
  ["x".repeat(31), "bf" + "78".repeat(31)],
  ["x".repeat(32), "d920" + "78".repeat(32)],
  ["x".repeat(256), "da0100" + "78".repeat(256)],
  ["x".repeat(65_536), "db00010000" + "78".repeat(65_536)],
  [[], "90"],
  [[1, [2]], "92019102"],
  [Array(16).fill(0), "dc0010" + "00".repeat(16)],
  [{}, "80"],
  [{ a: 1, b: [true] }, "82a16101a16291c3"],
];

for (const [value, bytes] of rows) {
  const name = typeof value === "bigint" ? `${value}n` : Object.is(value, -0) ? "-0" : JSON.stringify(value);
  test(`${name.slice(0, 40)} is ${bytes.slice(0, 40)}`, () => {
    assert.equal(hex(encode(value)), bytes);
    assert.deepEqual(decode(Buffer.from(bytes, "hex")), value);
  });
}

test("bytes stay bytes, on their own memory", () => {
  const bytes = Uint8Array.of(1, 2, 255);
  const encoded = encode({ b: bytes });
  assert.equal(hex(encoded), "81a162c4030102ff");
  const decoded = decode(encoded).b;
  assert.deepEqual(decoded, bytes);
  encoded.fill(0);
  assert.deepEqual(decoded, bytes);
});

test("a map with many keys, and undefined fields that are absent", () => {
  const map = Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, i]));
  assert.equal(hex(encode({ ...map, gone: undefined })).slice(0, 6), "de0014");
  assert.deepEqual(decode(encode({ ...map, gone: undefined })), map);
  assert.deepEqual(decode(encode({ at: new Date(0) })), { at: "1970-01-01T00:00:00.000Z" });
});

test("reads what others may write: longer forms, float32, wide integers", () => {
  for (const [bytes, value] of [
    ["ca3fc00000", 1.5],
    ["cd0001", 1],
    ["cf0000000000000001", 1],
    ["d3ffffffffffffffff", -1],
    ["d90161", "a"],
    ["dd0000000101", [1]],
    ["df00000001a16101", { a: 1 }],
    ["c50001ff", Uint8Array.of(255)],
  ]) {
    assert.deepEqual(decode(Buffer.from(bytes, "hex")), value);
  }
});

test("`__proto__` is a key like any other", () => {
  const decoded = decode(encode(JSON.parse('{"__proto__":{"x":1}}')));
  assert.equal(decoded.x, undefined);
  assert.deepEqual(Object.keys(decoded), ["__proto__"]);
});

test("what is not well formed is refused", () => {
  for (const bytes of ["", "c1", "d9", "a261", "92c0", "81a161", "8101c0", "c70100ff", "d40100", "0000", "a1ff", "ddffffffff", "dfffffffff", "91".repeat(100) + "c0"]) {
    assert.throws(() => decode(Buffer.from(bytes, "hex")), Error, bytes);
  }
});

test("what cannot be said is refused", () => {
  const cycle = [];
  cycle.push(cycle);
  for (const value of [NaN, Infinity, () => {}, Symbol("s"), 2n ** 64n, -(2n ** 63n) - 1n, cycle]) assert.throws(() => encode(value));
});

const codec = { encode: (message) => Buffer.from(encode(message)), decode: (data) => decode(data) };

test("a client speaks MessagePack", async (t) => {
  const { server, client, errors } = await setup(t, { codec: msgpack }, { codec, subprotocol: "drawbridge.v1.msgpack" });
  const room = client.subscribe("room:1");
  const opening = client.connect();
  const connection = await server.accept();
  await connection.welcome();
  await opening;
  assert.ok(connection.lastFrameBinary);
  const seen = [];
  room.onEvent(({ data }) => seen.push(data));
  connection.event("room:1", "e", { bytes: Uint8Array.of(1), big: 2n ** 60n });
  connection.raw("{}");
  await settled(client, connection);
  assert.deepEqual(seen, [{ bytes: Uint8Array.of(1), big: 2n ** 60n }]);
  assert.deepEqual(errors.map(({ code }) => code), ["BAD_FRAME"]);
  const publishing = client.publish("room:1", "e", { big: 2n ** 60n });
  const request = await connection.next("PUBLISH_EVENT");
  assert.equal(request.data.big, 2n ** 60n);
  connection.send({ type: "EVENT_PUBLISHED", id: request.id, channel: "room:1" });
  await publishing;
  assert.equal((await rejection(client.publish("room:1", "e", NaN))).code, "BAD_MESSAGE");
});
