// The TypeScript client in Node against the built binary and a real Redis, through a network that breaks: what is
// missed arrives, once and in order, on the same node and on another one.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';

import WebSocket from 'ws';

import { connect } from '../../sdk/typescript/dist/drawbridge.js';
import { cleanUp, lifecycle, LOGGED, startNode, startRedis, until } from './support/processes.js';
import { startProxy } from './support/proxy.js';

const clients = [];
const proxies = [];

after(async () => {
  for (const client of clients) client.close();
  for (const proxy of proxies) proxy.close();
  await cleanUp();
});

async function world({ count = 1, ...options } = {}) {
  const redis = await startRedis();
  const nodes = [];
  for (let n = 1; n <= count; n += 1) nodes.push(await startNode(redis, { name: `n${n}`, classes: LOGGED, ...options }));
  const proxy = await startProxy(nodes[0]);
  proxies.push(proxy);
  return { redis, nodes, node: nodes[0], proxy };
}

function join(node, sub, { url = node.url, ...options } = {}) {
  const token = node.token(sub);
  const client = connect(url, { WebSocket, token: () => token, reconnect: { minDelayMs: 20, maxDelayMs: 200 }, ...options });
  Object.assign(client, { heard: [], resyncs: [], recoveries: [], statuses: [], complaints: [] });
  client.on('event', (event) => client.heard.push(event));
  client.on('resync', (resync) => client.resyncs.push(resync));
  client.on('recovered', ({ channel }) => client.recoveries.push(channel));
  client.on('status', ({ status }) => client.statuses.push(status));
  client.on('error', (error) => client.complaints.push(error));
  clients.push(client);
  return client;
}

const numbers = (client, channel) => client.heard.filter((event) => event.channel === channel).map(({ data }) => Number(data));
const count = (n, from = 1) => Array.from({ length: n }, (_, i) => from + i);
const hasAll = (client, channel, n) => until(() => numbers(client, channel).length >= n, `${n} events of ${channel} are here`, 30_000);

/** Alice behind the proxy, on the channels; Bob directly on a node. */
async function players({ nodes, proxy }, channels, options) {
  const alice = join(nodes[0], 'alice', { url: proxy.url, ...options });
  const bob = join(nodes.at(-1), 'bob');
  await Promise.all(channels.map((channel) => alice.subscribe(channel).ready));
  await until(() => bob.status === 'open', 'bob is there');
  return { alice, bob };
}

const playersOf = async (client) => (await client.presence('log:1')).players.map(({ player }) => player).join();

/** Breaks Alice's network while `act` runs, then lets her back. */
async function away(alice, proxy, act) {
  proxy.cut({ refuse: true });
  await until(() => alice.status === 'connecting', 'alice is away');
  await act();
  proxy.mend();
  await until(() => alice.status === 'open', 'alice is back', 30_000);
}

/** Alice is away three times, and each time something is published on the channels meanwhile. */
async function missThreeTimes(subscribed, channels) {
  const here = await world();
  const { alice, bob } = await players(here, subscribed);
  for (const channel of channels) await bob.publish(channel, 'e', 1);
  for (const channel of channels) await hasAll(alice, channel, 1);
  const { session } = alice.welcome;
  for (let round = 0; round < 3; round += 1) {
    const from = 2 + round * 5;
    await away(alice, here.proxy, async () => {
      for (const channel of channels) for (const n of count(5, from)) await bob.publish(channel, 'e', n);
    });
    assert.deepEqual([alice.welcome.resumed, alice.welcome.session], [true, session]);
    for (const channel of channels) {
      await hasAll(alice, channel, from + 4);
      assert.deepEqual(numbers(alice, channel), count(from + 4));
    }
  }
  assert.deepEqual([alice.resyncs, alice.complaints], [[], []]);
  assert.ok([...subscribed, 'player:alice'].every((channel) => alice.recoveries.includes(channel)), `${alice.recoveries}`);
}

test('on the same node everything that was missed arrives, with history and without', () => missThreeTimes(['log:1', 'chat:1'], ['log:1', 'chat:1']));

test('the same by a pattern over channels with history', () => missThreeTimes(['log:p*'], ['log:p1', 'log:p2']));

test('a tunnel: what vanished in it arrives after it, once', async () => {
  const here = await world();
  const { alice, bob } = await players(here, ['log:1'], { pingIntervalMs: 300, pongTimeoutMs: 600 });
  for (const n of count(3)) await bob.publish('log:1', 'e', n);
  await hasAll(alice, 'log:1', 3);
  here.proxy.stall();
  for (const n of count(20, 4)) await bob.publish('log:1', 'e', n);
  await until(() => alice.status === 'connecting', 'silence is noticed');
  here.proxy.mend();
  await hasAll(alice, 'log:1', 23);
  await bob.publish('log:1', 'e', 24);
  await hasAll(alice, 'log:1', 24);
  assert.deepEqual(numbers(alice, 'log:1'), count(24));
  assert.deepEqual(alice.resyncs, []);
});

test('a killed node: on another one nothing of a channel with history is missing, and of others it is said', async () => {
  const here = await world({ count: 2 });
  const { alice, bob } = await players(here, ['log:1', 'log:p*', 'chat:1']);
  for (const channel of ['log:1', 'log:p1', 'chat:1']) await bob.publish(channel, 'e', 1);
  for (const channel of ['log:1', 'log:p1', 'chat:1']) await hasAll(alice, channel, 1);
  here.proxy.target = here.nodes[1];
  here.proxy.cut({ refuse: true });
  await here.nodes[0].end('SIGKILL');
  await until(() => alice.status === 'connecting', 'alice is away');
  for (const channel of ['log:1', 'log:p1', 'chat:1']) for (const n of count(5, 2)) await bob.publish(channel, 'e', n);
  here.proxy.mend();
  await until(() => alice.status === 'open' && alice.welcome.node === 'n2', 'alice is on n2', 30_000);
  assert.equal(alice.welcome.resumed, true);
  for (const channel of ['log:1', 'log:p1', 'chat:1']) await bob.publish(channel, 'e', 7);
  for (const channel of ['log:1', 'log:p1']) {
    await hasAll(alice, channel, 7);
    assert.deepEqual(numbers(alice, channel), count(7));
  }
  await until(() => numbers(alice, 'chat:1').includes(7), 'the plain channel goes on');
  assert.ok(alice.recoveries.includes('log:1'));
  const said = alice.resyncs.map(({ channel }) => channel);
  assert.equal(said.filter((channel) => channel === 'chat:1').length, 1, `once for the plain channel: ${said}`);
  assert.ok(!said.includes('log:1') && !said.includes('log:p1'), `${said}`);
});

test('a node that drains: the player is on the next one before it closes, and every publish is answered, once', async () => {
  const here = await world({ count: 2, drainWindow: '4s' });
  const { alice, bob } = await players(here, ['log:1']);
  await bob.subscribe('log:1').ready;
  const answers = [];
  let running = true;
  const publishing = (async () => {
    for (let n = 1; running && n < 2_000; n += 1) {
      const answer = alice.publish('log:1', 'e', n);
      answer.catch(() => {});
      answers.push(answer);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  await until(() => numbers(bob, 'log:1').length > 10, 'events flow');
  const statuses = alice.statuses.length;
  // As a load balancer does that saw /readyz fail.
  here.proxy.target = here.nodes[1];
  const ended = here.nodes[0].end('SIGTERM');
  await until(() => alice.welcome?.node === 'n2', 'alice is on n2', 30_000);
  assert.equal(await ended, 0);
  await until(() => numbers(bob, 'log:1').length > answers.length + 10 || answers.length > 150, 'events flow on');
  running = false;
  await publishing;
  await Promise.all(answers);
  for (const client of [alice, bob]) {
    await hasAll(client, 'log:1', answers.length);
    assert.deepEqual(numbers(client, 'log:1'), count(answers.length));
  }
  assert.deepEqual(alice.statuses.slice(statuses), [], 'it was open all the time');
  // Of a channel without history another node cannot know that nothing is missing.
  assert.deepEqual(alice.resyncs.map(({ channel }) => channel), ['player:alice']);
  assert.deepEqual(alice.complaints, []);
});

test('a publish whose answer was lost is repeated, and happens once', async () => {
  const here = await world();
  const { alice, bob } = await players(here, ['log:1'], { pingIntervalMs: 300, pongTimeoutMs: 600 });
  await bob.subscribe('log:1').ready;
  await alice.publish('log:1', 'e', 1, { retry: true });
  here.proxy.stall('node');
  const publishing = count(4, 2).map((n) => alice.publish('log:1', 'e', n, { retry: true }));
  const doubtful = alice.publish('log:1', 'e', 6).catch((error) => error);
  await hasAll(bob, 'log:1', 6);
  await until(() => alice.status === 'connecting', 'silence is noticed');
  here.proxy.mend();
  const answers = await Promise.all(publishing);
  assert.deepEqual([(await doubtful).code, (await doubtful).outcome], ['CONNECTION_LOST', 'unknown']);
  await alice.publish('log:1', 'e', 7);
  for (const client of [alice, bob]) {
    await hasAll(client, 'log:1', 7);
    assert.deepEqual(numbers(client, 'log:1'), count(7));
  }
  const offsets = bob.heard.filter(({ channel }) => channel === 'log:1').map(({ offset }) => offset);
  assert.deepEqual(answers.map(({ offset }) => offset), offsets.slice(1, 5), 'the first ones answers');
  await assert.rejects(alice.publish('chat:1', 'e', 1, { retry: true }), { code: 'UNSUPPORTED', outcome: 'not_done' });
});

test('what is published while offline is sent once, in order, on return', async () => {
  const here = await world();
  const { alice, bob } = await players(here, ['log:1']);
  await bob.subscribe('log:1').ready;
  let answers;
  await away(alice, here.proxy, async () => {
    answers = count(30).map((n) => alice.publish('log:1', 'e', n));
    assert.equal(alice.queued, 30);
  });
  await Promise.all(answers);
  for (const client of [alice, bob]) {
    await hasAll(client, 'log:1', 30);
    assert.deepEqual(numbers(client, 'log:1'), count(30));
  }
});

test('after the window it is a new session, and each channel that was live is to be fetched again', async () => {
  const here = await world({ extra: 'resume_window = "500ms"' });
  const { alice, bob } = await players(here, ['log:1', 'chat:1']);
  await bob.publish('log:1', 'e', 1);
  await hasAll(alice, 'log:1', 1);
  const { session } = alice.welcome;
  await away(alice, here.proxy, async () => {
    await until(() => lifecycle(here.redis, 'alice').some(({ event }) => event === 'left'), 'the window ends', 30_000);
    for (const n of count(3, 2)) await bob.publish('log:1', 'e', n);
  });
  assert.equal(alice.welcome.resumed, false);
  assert.notEqual(alice.welcome.session, session);
  await until(() => alice.resyncs.length >= 3, 'three resyncs');
  assert.deepEqual(alice.resyncs.map(({ channel, reason }) => [channel, reason]).sort(), [['chat:1', 'session'], ['log:1', 'session'], ['player:alice', 'session']]);
  // The place before the gap is what the history reads on from.
  const { since } = alice.resyncs.find(({ channel }) => channel === 'log:1');
  const missed = [];
  for await (const { events } of alice.historyPages('log:1', { since, limit: 2 })) missed.push(...events.map(({ data }) => data));
  assert.deepEqual(missed, [2, 3, 4]);
});

test('`close` ends the session at once', async () => {
  const { redis, node } = await world();
  const alice = join(node, 'alice');
  await until(() => alice.status === 'open', 'alice is there');
  alice.close();
  const left = await until(() => lifecycle(redis, 'alice').find(({ event }) => event === 'left'), 'she has left');
  assert.ok(left);
  assert.ok(!lifecycle(redis, 'alice').some(({ event }) => event === 'resumed'));
});

test('history is read in pages, with the newest first page without `since`', async () => {
  const { node } = await world();
  const alice = join(node, 'alice');
  await until(() => alice.status === 'open', 'alice is there');
  for (const n of count(25)) await alice.publish('log:1', 'e', n);
  const newest = await alice.history('log:1', { limit: 10 });
  assert.deepEqual(newest.events.map(({ data }) => data), count(10, 16));
  assert.deepEqual([newest.events[0].from, newest.events[0].event, newest.next], ['alice', 'e', undefined]);
  const since = { epoch: newest.epoch, offset: newest.events[0].offset - 6 };
  const pages = [];
  for await (const { events } of alice.historyPages('log:1', { since, limit: 4 })) pages.push(events.map(({ data }) => data));
  assert.deepEqual(pages.flat(), count(15, 11));
  assert.ok(pages.length >= 4);
  await assert.rejects(alice.history('chat:1'), { code: 'UNSUPPORTED' });
});

test('presence: who is there, in pages, and who comes and leaves', async () => {
  const here = await world();
  const { bob } = await players(here, ['log:1']);
  const changes = [];
  const room = bob.subscribe('log:1');
  room.onPresence(({ joined, left }) => changes.push(...joined.map((name) => `+${name}`), ...left.map((name) => `-${name}`)));
  await room.ready;
  await until(async () => (await playersOf(bob)) === 'alice,bob', 'both are there');
  const eve = join(here.node, 'eve');
  await eve.subscribe('log:1').ready;
  await until(() => changes.includes('+eve'), 'eve is announced');
  const names = [];
  for await (const page of bob.presencePages('log:1', { limit: 1 })) names.push(...page.players.map(({ player }) => player));
  assert.deepEqual(names, ['alice', 'bob', 'eve']);
  eve.close();
  await until(() => changes.includes('-eve'), 'and that she left');
});

test('presence: a player who is away counts, and neither leaves nor joins by a resume', async () => {
  const here = await world({ extra: 'resume_window = "20s"' });
  const { alice, bob } = await players(here, ['log:1']);
  const changes = [];
  const room = bob.subscribe('log:1');
  room.onPresence(({ joined, left }) => changes.push(...joined.map((name) => `+${name}`), ...left.map((name) => `-${name}`)));
  await room.ready;
  await until(async () => (await playersOf(bob)) === 'alice,bob', 'both are there');
  const arrives = async (name) => {
    await join(here.node, name).subscribe('log:1').ready;
    await until(() => changes.includes(`+${name}`), `${name} is announced`);
  };
  // What was before it has been announced now, too.
  await arrives('eve');
  changes.length = 0;
  await away(alice, here.proxy, async () => assert.equal(await playersOf(bob), 'alice,bob,eve'));
  await arrives('dan');
  assert.deepEqual(changes, ['+dan']);
});
