// What stays of handlers that were removed: nothing.

import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { connected, settled } from "./support/client.js";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc");

/** Handles on which a handler was added and removed, in every way that removes one. */
function usedHandles(client) {
  const ways = [
    (handle) => handle.on("hit", () => {})(),
    (handle) => handle.once("hit", () => {})(),
    (handle) => handle.onEvent(() => {})(),
    (handle) => handle.onResync(() => {})(),
    (handle) => (handle.onPresence(() => {}), client.forget(handle)),
  ];
  return ways.map((use) => {
    const handle = client.channel("room:1");
    use(handle);
    return new WeakRef(handle);
  });
}

test("a handle of `channel` without handlers is not kept by the client", async (t) => {
  const { client, connection } = await connected(t);
  const kept = client.channel("room:1");
  const seen = [];
  kept.on("hit", ({ data }) => seen.push(data));
  const handles = usedHandles(client);
  for (let round = 0; round < 50 && handles.some((handle) => handle.deref()); round++) {
    await setImmediate();
    collectGarbage();
  }
  assert.deepEqual(handles.map((handle) => handle.deref()), [undefined, undefined, undefined, undefined, undefined]);
  connection.event("room:1", "hit", 1);
  await settled(client, connection);
  assert.deepEqual(seen, [1]);
});

test("a handle whose handlers were removed works again with a new one", async (t) => {
  const { client, connection } = await connected(t);
  const handle = client.channel("room:1");
  const seen = [];
  for (const round of [1, 2, 3]) {
    const off = round === 3 ? () => client.forget(handle) : handle.on("hit", ({ data }) => seen.push(data));
    if (round === 3) handle.once("hit", ({ data }) => seen.push(data));
    connection.event("room:1", "hit", round);
    connection.event("room:1", "miss", round);
    await settled(client, connection);
    off();
    connection.event("room:1", "hit", "nobody");
    await settled(client, connection);
  }
  assert.deepEqual(seen, [1, 2, 3]);
});

test("a handler that removes itself or another while an event is delivered disturbs nobody", async (t) => {
  const { client, connection } = await connected(t);
  const [first, second] = [client.channel("room:1"), client.channel("room:*")];
  const seen = [];
  first.once("hit", () => seen.push("first"));
  const off = second.on("hit", () => (seen.push("second"), off()));
  for (let n = 0; n < 2; n++) connection.event("room:1", "hit", n);
  await settled(client, connection);
  assert.deepEqual(seen, ["first", "second"]);
});
