// The TypeScript client in Node against the built binary and a real Redis: what a game does with it, and that it
// comes back by itself when the node or Redis goes away.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';

import WebSocket from 'ws';

import { connect } from '../../sdk/typescript/dist/drawbridge.js';
import { msgpack } from '../../sdk/typescript/dist/msgpack.js';
import { cleanUp, freePort, startNode, startRedis, until } from './support/processes.js';

const clients = [];

async function world(options) {
  const redis = await startRedis();
  const node = await startNode(redis, options);
  return { redis, node };
}

function join(node, sub, options = {}) {
  const client = connect(node.url, {
    WebSocket,
    token: () => node.token(sub),
    reconnect: { minDelayMs: 20, maxDelayMs: 200 },
    ...options,
  });
  client.heard = [];
  client.resyncs = [];
  client.on('event', (event) => client.heard.push(event));
  client.on('resync', (resync) => client.resyncs.push(resync));
  client.on('error', () => {});
  clients.push(client);
  return client;
}

function heard(client, event) {
  return until(() => client.heard.find((each) => each.event === event), `${event} is heard`, 30_000);
}

const isOpen = (client) => until(() => client.status === 'open', 'the client is open', 30_000);

after(async () => {
  for (const client of clients) client.close();
  await cleanUp();
});

for (const [name, codec] of [['json', undefined], ['msgpack', msgpack]]) {
  test(`two players talk, by name and by pattern, with filters (${name})`, async () => {
    const { redis, node } = await world();
    const alice = join(node, 'alice', { codec });
    const bob = join(node, 'bob', { codec });
    const named = alice.subscribe('chat:1', { filter: "from != me.player && event != 'hidden'" });
    const pattern = bob.subscribe('chat:*');
    await Promise.all([named.ready, pattern.ready]);
    await bob.publish('chat:1', 'hidden', 1);
    await bob.publish('chat:1', 'hello', { text: 'hi', list: [1, 2.5, null] });
    await alice.publish('chat:1', 'own', null);
    const event = await heard(alice, 'hello');
    assert.equal(event.channel, 'chat:1');
    assert.equal(event.from, 'bob');
    assert.equal(JSON.stringify(event.data, (_, v) => (typeof v === 'bigint' ? Number(v) : v)), '{"text":"hi","list":[1,2.5,null]}');
    await heard(bob, 'own');
    assert.deepEqual(alice.heard.map((each) => each.event), ['hello']);
    redis.cli('PUBLISH', 'player:alice', '{"event":"whisper","data":1}');
    await heard(alice, 'whisper');
    assert.ok(Math.abs(alice.clock.now() - Date.now()) < 60_000);
  });
}

test('bytes stay bytes between MessagePack players, and are marked for JSON players', async () => {
  const { node } = await world();
  const [alice, bob, eve] = [join(node, 'alice', { codec: msgpack }), join(node, 'bob', { codec: msgpack }), join(node, 'eve')];
  await Promise.all([bob, eve].map((client) => client.subscribe('chat:1').ready));
  const bytes = Uint8Array.of(255, 0, 1);
  await alice.publish('chat:1', 'blob', bytes);
  const packed = await heard(bob, 'blob');
  assert.deepEqual([packed.data, packed.encoding], [bytes, undefined]);
  const text = await heard(eve, 'blob');
  assert.deepEqual([text.data, text.encoding], ['/wAB', 'base64']);
  await assert.rejects(eve.publish('chat:1', 'blob', bytes), { code: 'BAD_MESSAGE', message: /msgpack/ });
});

test('a refused filter on an automatic subscription rejects, and the subscription goes on', async () => {
  const classes = '[[channel]]\nname = "player:{player}"\nsubscribe = "params.player == me.player"';
  const { redis, node } = await world({ classes });
  const alice = join(node, 'alice');
  const mine = alice.subscribe('player:alice', { filter: 'data.x ==' });
  const listed = [];
  alice.on('welcome', () => listed.push(...alice.subscriptions.map(({ channel }) => channel)));
  await assert.rejects(mine.ready, { code: 'FILTER_INVALID' });
  assert.deepEqual(listed, ['player:alice']);
  assert.deepEqual(alice.subscriptions.map(({ channel, by, state }) => [channel, by, state]), [['player:alice', 'auto', 'active']]);
  redis.cli('PUBLISH', 'player:alice', '{"event":"whisper","data":1}');
  await heard(alice, 'whisper');
});

test('a refusal rejects with its code', async () => {
  const { node } = await world();
  const alice = join(node, 'alice');
  await assert.rejects(alice.publish('quiet:1', 'x'), { code: 'FORBIDDEN' });
  await assert.rejects(alice.subscribe('nobody:1').ready, { code: 'FORBIDDEN' });
  const room = alice.subscribe('chat:1');
  await room.ready;
  await assert.rejects(room.filter('data.x =='), { code: 'FILTER_INVALID' });
  await room.filter("event == 'yes'");
  await alice.publish('chat:1', 'no');
  await alice.publish('chat:1', 'yes');
  await heard(alice, 'yes');
  assert.ok(!alice.heard.some((each) => each.event === 'no'));
});

const WORLD = `
[[channel]]
name = "world:{world}"
subscribe = "true"
publish = "true"
kind = "entity"
key = "data.id"
position = ["data.x", "data.y"]
hysteresis = 1.0
max_radius = 100
batch = "20ms"
conflate = true
`;

for (const [name, codec] of [['json', undefined], ['msgpack', msgpack]]) {
  test(`a table of entities follows what happens, and its area (${name})`, async () => {
    const { redis, node } = await world({ classes: WORLD });
    const alice = join(node, 'alice', { codec });
    const bob = join(node, 'bob', { codec });
    const move = (id, x, y) => bob.publish('world:1', 'move', { id, x, y });
    await Promise.all([move('near', 1, 1), move('far', 50, 0)]);
    const table = alice.entities('world:1', { area: { x: 0, y: 0, radius: 10 } });
    const left = [];
    table.onLeave(({ key }, reason) => left.push(`${key} ${reason}`));
    const shows = (...keys) => until(() => [...table].map(({ key }) => key).sort().join() === keys.sort().join(), `${keys} are seen`);
    await table.synced;
    await shows('near');
    await move('near', 2, 2);
    await until(() => Number(table.get('near')?.data.x) === 2, 'near moves');
    redis.cli('PUBLISH', 'world:1', '{"event":"move","data":{"id":7,"x":0,"y":5}}');
    await shows('7', 'near');
    await table.subscription.area({ min: [40, -10], max: [60, 10] });
    await shows('far');
    await Promise.all(Array.from({ length: 50 }, (_, i) => table.subscription.area({ x: 41 + i / 5, y: 0, radius: 20 })));
    await shows('far');
    await bob.publish('world:1', 'remove', { id: 'far' });
    await shows();
    assert.deepEqual(left.sort(), ['7 view', 'far removed', 'near view']);
    await assert.rejects(table.subscription.area({ x: 0, y: 0, radius: 1_000 }), { code: 'FILTER_INVALID' });
    assert.deepEqual(table.subscription.view.area, { x: 50.8, y: 0, radius: 20 });
    await table.subscription.area(null);
    await shows('7', 'near');
    await table.subscription.filter('data.x > 1');
    await shows('near');
  });
}

test('a table of entities is whole again after its node was killed', async () => {
  const port = await freePort();
  const { redis, node } = await world({ port, classes: WORLD });
  const alice = join(node, 'alice');
  await Promise.all(['a', 'b', 'c'].map((id, x) => alice.publish('world:1', 'move', { id, x, y: 0 })));
  const table = alice.entities('world:1', { area: { x: 0, y: 0, radius: 1 } });
  await table.synced;
  const told = [];
  table.onEnter(({ key }) => told.push(`${key} enters`));
  table.onLeave(({ key }, reason) => told.push(`${key} leaves: ${reason}`));
  assert.deepEqual([...table].map(({ key }) => key).sort(), ['a', 'b']);
  await node.end('SIGKILL');
  await until(() => table.stale, 'the client notices');
  assert.equal(table.size, 2);
  const synced = table.synced;
  void table.subscription.area({ x: 2, y: 0, radius: 1 });
  await startNode(redis, { port, name: 'n2', classes: WORLD });
  await synced;
  assert.deepEqual([...table].map(({ key }) => key).sort(), ['b', 'c']);
  assert.deepEqual(told, ['a leaves: reset', 'c enters']);
});

test('a bad token ends it for good', async () => {
  const { node } = await world();
  const client = join(node, 'alice', { token: () => 'nonsense' });
  await until(() => client.status === 'closed', 'the client gives up');
});

test('it comes back after its node was killed, resubscribes, and says what may be missing', async () => {
  const port = await freePort();
  const { redis, node } = await world({ port });
  const alice = join(node, 'alice');
  await alice.subscribe('chat:1', { filter: "event != 'hidden'" }).ready;
  await node.end('SIGKILL');
  await until(() => alice.status === 'connecting', 'the client notices');
  const queued = alice.publish('chat:1', 'queued', 7);
  await startNode(redis, { port, name: 'n2' });
  await queued;
  await isOpen(alice);
  await until(() => alice.resyncs.some((resync) => resync.channel === 'chat:1'), 'a resync of the channel');
  await until(() => redis.cli('PUBSUB', 'NUMSUB', 'chat:1').endsWith('1'), 'it is subscribed again');
  redis.cli('PUBLISH', 'chat:1', '{"event":"hidden"}');
  redis.cli('PUBLISH', 'chat:1', '{"event":"after"}');
  await heard(alice, 'after');
  assert.ok(!alice.heard.some((each) => each.event === 'hidden'), 'the filter came along');
});

test('it moves on when its node drains', async () => {
  const port = await freePort();
  const { redis, node } = await world({ port });
  const alice = join(node, 'alice');
  await alice.subscribe('chat:1').ready;
  let goodbye;
  alice.on('goodbye', (said) => (goodbye = said));
  assert.equal(await node.end('SIGTERM'), 0);
  await until(() => goodbye, 'it is told');
  assert.equal(goodbye.reason, 'drain');
  await startNode(redis, { port, name: 'n2' });
  await until(() => alice.welcome?.node === 'n2', 'it is on the new node', 30_000);
  await alice.publish('chat:1', 'here');
  await heard(alice, 'here');
});

test('Redis away: it stays connected, is degraded, queues, and hears again', async () => {
  const { redis, node } = await world();
  const alice = join(node, 'alice');
  const statuses = [];
  alice.on('status', ({ status }) => statuses.push(status));
  await alice.subscribe('chat:1').ready;
  const connection = alice.welcome.connection;
  await redis.stop();
  await until(() => alice.status === 'degraded', 'it is degraded', 30_000);
  // Two links and the connection that it publishes on: a publish under way when that breaks would be `unknown`.
  await until(async () => (await node.metric('drawbridge_redis_reconnects_total')) >= 3, 'all connections are known to be lost');
  const waiting = alice.publish('chat:1', 'waited', 1);
  await redis.start();
  await waiting;
  await isOpen(alice);
  assert.equal(alice.welcome.connection, connection, 'the socket stayed');
  await until(() => alice.resyncs.some((resync) => resync.channel === 'chat:1'), 'a resync of the channel', 30_000);
  await alice.publish('chat:1', 'after');
  await heard(alice, 'after');
  assert.ok(statuses.includes('degraded'));
});

test('a token that is about to expire is refreshed in place', async () => {
  const { node } = await world();
  const reasons = [];
  const token = (reason) => {
    reasons.push(reason);
    return node.token('alice', { ttl: reason === 'connect' ? '6s' : '1h' });
  };
  const alice = join(node, 'alice', { token });
  await isOpen(alice);
  const { connection } = alice.welcome;
  await until(() => reasons.length > 1, 'it asks for another token');
  const expired = Date.now() + 6_000;
  await until(() => Date.now() > expired, 'the first token has expired');
  await alice.publish('chat:1', 'still here');
  assert.equal(alice.welcome.connection, connection);
  assert.deepEqual(reasons, ['connect', 'refresh']);
});
