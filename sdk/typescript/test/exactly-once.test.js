// A client on a server with logs, broken at random places: every event of a channel with history comes exactly once and
// in order, or the application is told at the place where some are missing.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setup, settled, told } from "./support/client.js";
import { LogServer } from "./support/log-server.js";

const CHANNELS = ["room:1", "room:2", "log:a", "log:b", "log:c"];
const SEEDS = Number(process.env.DRAWBRIDGE_SEEDS ?? 25);
const ROUNDS = 12;

/** Numbers from a seed (mulberry32). */
function dice(seed) {
  let state = seed;
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return { chance: (part) => random() < part, below: (n) => Math.floor(random() * n), one: (list) => list[Math.floor(random() * list.length)] };
}

/** What the application saw of each channel: numbers of events, and "resync" where it was told of a gap. */
function observe(client) {
  const seen = new Map(CHANNELS.map((channel) => [channel, []]));
  client.on("event", ({ channel, event, data }) => event === "e" && seen.get(channel).push(data));
  client.on("resync", ({ channel }) => {
    for (const name of CHANNELS) if (name === channel || (channel === "log:*" && name.startsWith("log:"))) seen.get(name).push("resync");
  });
  return seen;
}

for (let seed = 1; seed <= SEEDS; seed++) {
  test(`exactly once, or told (seed ${seed})`, async (t) => {
    const { server, client, runtime, errors } = await setup(t, { pongTimeoutMs: 1e9, connectTimeoutMs: 1e9, reconnect: { minDelayMs: 1, maxDelayMs: 1 } });
    const { chance, below, one } = dice(seed);
    const logs = new LogServer(server);
    const published = new Map(CHANNELS.map((channel) => [channel, 0]));
    const seen = observe(client);
    for (const name of ["room:1", "room:2", "log:*"]) client.subscribe(name);
    const publish = (channel) => {
      const n = published.get(channel) + 1;
      published.set(channel, n);
      logs.publish(channel, n);
    };
    client.connect().catch(() => {});
    await logs.accept();
    await settled(client, logs.connection);

    for (let round = 0; round < ROUNDS; round++) {
      for (let i = below(12); i > 0; i--) publish(one(CHANNELS));
      if (chance(0.15)) logs.newEpoch(one(CHANNELS), chance(0.5) ? 0 : 1 + below(3));
      if (chance(0.3)) {
        await logs.drain(runtime, () => {
          for (let i = below(5); i > 0; i--) publish(one(CHANNELS));
        });
        for (let i = below(5); i > 0; i--) publish(one(CHANNELS));
      }
      if (chance(0.4)) await settled(client, logs.connection);
      const down = told(client, "status", ({ status }) => status === "connecting");
      logs.break();
      await down;
      for (let i = below(8); i > 0; i--) publish(one(CHANNELS));
      if (chance(0.15)) logs.log(one(CHANNELS)).trim(below(4));
      if (chance(0.15)) logs.newEpoch(one(CHANNELS), chance(0.5) ? 0 : 1 + below(3));
      if (chance(0.08)) logs.endSession();
      // Some attempts break in the middle of what was missed.
      for (;;) {
        const downAgain = told(client, "status", ({ status, error }) => status === "connecting" && error);
        runtime.advance(1);
        await logs.accept(chance(0.4) ? below(6) : Infinity);
        if (logs.connected) break;
        await downAgain;
      }
      await settled(client, logs.connection);
    }
    for (const channel of CHANNELS) publish(channel);
    await settled(client, logs.connection);

    for (const [channel, marks] of seen) {
      let last = 0;
      let isTold = channel.startsWith("log:");
      for (const mark of marks) {
        if (mark === "resync") {
          isTold = true;
          continue;
        }
        assert.ok(mark > last, `${channel}: ${mark} behind ${last} in ${marks}`);
        while (logs.log(channel).lost.has(last + 1) && last + 1 < mark) last++;
        assert.ok(mark === last + 1 || isTold, `${channel}: nobody said what is missing before ${mark} in ${marks}`);
        last = mark;
        isTold = false;
      }
      assert.equal(last, published.get(channel), `${channel}: the newest is here: ${marks}`);
    }
    assert.ok(logs.resumed > 0);
    assert.deepEqual(errors, []);
  });
}
