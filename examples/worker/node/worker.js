// A game service: reads what players do, decides, and publishes what follows. Start as many as you like.
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { createClient } from 'redis';

const rooms = (process.env.ROOMS ?? '42').split(',');
const tickMs = Number(process.env.TICK_MS ?? 1000);
const claimMs = Number(process.env.CLAIM_MS ?? 10_000);
const group = 'game';
const me = `${hostname()}-${process.pid}`;
const move = readFileSync(new URL('../move.lua', import.meta.url), 'utf8');
const db = createClient({ url: process.env.REDIS_URL ?? 'redis://127.0.0.1:6379' });
const reader = db.duplicate(); // it blocks while it waits
for (const client of [db, reader]) client.on('error', (error) => console.error(error.message));

// One action of one player. A client's data is whatever the client sent: look before you use it.
async function act(room, { id, message: action }) {
  const step = JSON.parse(action.data) ?? {};
  const within = (n) => Math.max(-10, Math.min(10, Math.trunc(n)));
  if (!Number.isFinite(step.dx) || !Number.isFinite(step.dy)) {
    await db.xAck(`actions:${room}`, group, id);
    await db.xDel(`actions:${room}`, id);
    await db.publish(`player:${action.player}`, JSON.stringify({ event: 'refused', data: 'move wants dx and dy' }));
    return;
  }
  const values = [group, id, action.player, within(step.dx), within(step.dy), `room:${room}`];
  await db.eval(move, { keys: [`actions:${room}`, `state:${room}`], arguments: values.map(String) });
}

// The service's own clock: the whole state, now and then. One worker at a time does it.
async function tick(room) {
  const mine = await db.set(`ticking:${room}`, me, { NX: true, PX: Math.max(1, Math.floor(tickMs * 0.9)) });
  if (!mine) return;
  const state = Object.entries(await db.hGetAll(`state:${room}`)).map(([player, at]) => [player, JSON.parse(at)]);
  await db.publish(`room:${room}`, JSON.stringify({ event: 'state', data: Object.fromEntries(state) }));
}

await Promise.all([db.connect(), reader.connect()]);
for (const room of rooms) {
  await db.xGroupCreate(`actions:${room}`, group, '0', { MKSTREAM: true }).catch((error) => {
    if (!error.message.includes('BUSYGROUP')) throw error;
  });
}
console.log('worker ready');
for (let nextTick = Date.now(); ; ) {
  if (Date.now() >= nextTick) {
    nextTick = Date.now() + tickMs;
    for (const room of rooms) {
      const stale = await db.xAutoClaim(`actions:${room}`, group, me, claimMs, '0-0');
      for (const entry of stale.messages) if (entry) await act(room, entry);
      await tick(room);
    }
  }
  const streams = rooms.map((room) => ({ key: `actions:${room}`, id: '>' }));
  const options = { COUNT: 100, BLOCK: Math.max(1, nextTick - Date.now()) };
  for (const { name, messages } of (await reader.xReadGroup(group, me, streams, options)) ?? []) {
    for (const entry of messages) await act(name.slice('actions:'.length), entry);
  }
}
