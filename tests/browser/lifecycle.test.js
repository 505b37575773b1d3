// The client in a real browser: the back-forward cache, leaving, reloading, the network going and coming, and a sleep.
// What was missed meanwhile arrives, once and in order.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { after, afterEach, before, test } from 'node:test';

import WebSocket from 'ws';

import { connect } from '../../sdk/typescript/dist/drawbridge.js';
import { openChromium } from './support/cdp.js';
import { cleanUp, lifecycle, LOGGED, startNode, startRedis, until } from './support/processes.js';
import { startProxy } from './support/proxy.js';

const BUNDLE = readFileSync(new URL('../../crates/server/src/http/playground/drawbridge.min.js', import.meta.url));
const clients = [];
const pages = [];
let browser;
let redis;
let node;
let proxy;
let site;
let bob;
let lastChannel = 0;

/** A page of a game: `heard` has the numbers that came, `notes` what else happened. */
const game = (url, token, channel) => `<!doctype html><title>game</title><script type="module">
import { connect } from "/drawbridge.js";
const client = connect(${JSON.stringify(url)}, { token: ${JSON.stringify(token)}, reconnect: { minDelayMs: 50, maxDelayMs: 500 }, pongTimeoutMs: 2000 });
Object.assign(window, { client, heard: [], notes: [] });
client.on("event", ({ channel, data }) => channel === ${JSON.stringify(channel)} && heard.push(data));
for (const name of ["resync", "recovered"]) client.on(name, ({ channel, reason }) => notes.push(name + " " + channel + " " + (reason ?? "")));
client.on("error", (error) => notes.push(String(error)));
addEventListener("pageshow", ({ persisted }) => persisted && notes.push("kept"));
for (const name of ["online", "offline"]) addEventListener(name, () => notes.push(name));
await client.subscribe(${JSON.stringify(channel)}).ready;
document.title = "ready";
</script>`;

before(async () => {
  browser = await openChromium();
  redis = await startRedis();
  node = await startNode(redis, { classes: LOGGED, extra: 'allowed_origins = ["*"]\nresume_window = "30s"' });
  proxy = await startProxy(node);
  site = createServer((request, response) => {
    const url = new URL(request.url, 'http://site');
    const script = url.pathname === '/drawbridge.js';
    response.setHeader('content-type', script ? 'text/javascript' : 'text/html');
    if (script) response.end(BUNDLE);
    else if (url.pathname === '/game') response.end(game(proxy.url, node.token(url.searchParams.get('player')), url.searchParams.get('channel')));
    else response.end('<!doctype html><title>elsewhere</title>');
  });
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
  site.url = `http://127.0.0.1:${site.address().port}`;
  const token = node.token('bob');
  bob = connect(node.url, { WebSocket, token: () => token });
  clients.push(bob);
  await until(() => bob.status === 'open', 'bob is there');
});

afterEach(async () => {
  for (const page of pages.splice(0)) await page.close().catch(() => {});
});

after(async () => {
  for (const client of clients) client.close();
  await browser?.close();
  proxy?.close();
  site?.close();
  await cleanUp();
});

/** A player on a channel of its own, with the first event. */
async function play(player) {
  const channel = `log:${(lastChannel += 1)}`;
  const page = await browser.open(`${site.url}/game?player=${player}&channel=${channel}`);
  pages.push(page);
  await page.until("document.title === 'ready'", 'the page plays');
  page.publish = async (from, to) => {
    for (let n = from; n <= to; n += 1) await bob.publish(channel, 'e', n);
  };
  page.hasHeard = async (n) => {
    await page.until(`window.heard?.includes(${n})`, `${n} is heard`);
    assert.deepEqual(await page.eval('heard'), Array.from({ length: n }, (_, i) => i + 1));
  };
  page.session = () => page.eval('client.welcome?.session');
  page.channel = channel;
  page.happened = () => lifecycle(redis, player).map(({ event }) => event);
  await page.publish(1, 1);
  await page.hasHeard(1);
  return page;
}

const missedNothing = (page) => page.eval('notes').then((notes) => assert.deepEqual(notes.filter((note) => /^resync|Error/.test(note)), []));

test('a page in the back-forward cache keeps its session, and resumes it when it is shown again', async () => {
  const page = await play('cached');
  const session = await page.session();
  await page.goto(`${site.url}/elsewhere`);
  await page.until("document.title === 'elsewhere'");
  await until(() => page.happened().includes('disconnected'), 'the socket is closed');
  await page.publish(2, 12);
  assert.ok(!page.happened().includes('left'), 'the session stays');
  await page.eval('history.back()');
  await page.until("document.title === 'ready' && notes.includes('kept') && client.status === 'open'", 'the page is back from the cache');
  await page.hasHeard(12);
  assert.equal(await page.session(), session);
  await page.publish(13, 13);
  await page.hasHeard(13);
  await missedNothing(page);
  assert.ok(page.happened().includes('resumed'));
});

test('a page that is left, or closed, ends its session at once: no ghost stays', async () => {
  for (const leave of [(page) => page.goto('about:blank'), (page) => page.close()]) {
    const page = await play('leaving');
    // A page with such a listener is not kept.
    await page.eval("addEventListener('unload', () => {})");
    const before = page.happened().filter((event) => event === 'left').length;
    await leave(page);
    await until(() => page.happened().filter((event) => event === 'left').length > before, 'the player has left');
    await until(async () => (await bob.presence(page.channel)).total === 0, 'nobody is there');
  }
});

test('a reload is a new session, and ends the old one', async () => {
  const page = await play('reloading');
  const session = await page.session();
  await page.command('Page.reload');
  await page.until("document.title === 'ready' && client.status === 'open'");
  assert.notEqual(await page.session(), session);
  assert.equal(await page.eval('client.welcome.resumed'), false);
  await until(() => page.happened().filter((event) => event === 'left').length === 1, 'the old session has ended');
});

test('the network goes and comes: nothing is missing', async () => {
  const page = await play('offline');
  const session = await page.session();
  const network = (offline) => page.command('Network.emulateNetworkConditions', { offline, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
  await network(true);
  await page.until("notes.includes('offline') && client.status === 'connecting'", 'it is offline');
  await page.publish(2, 8);
  const queued = page.eval("client.publish('chat:1', 'queued').then(() => 'done')");
  await network(false);
  await page.until("notes.includes('online') && client.status === 'open'", 'it is online');
  assert.equal(await queued, 'done');
  await page.hasHeard(8);
  assert.equal(await page.session(), session);
  await missedNothing(page);
});

test('a sleep in which the connection died: on waking everything that was missed arrives', async () => {
  const page = await play('sleeping');
  const session = await page.session();
  await page.command('Page.setWebLifecycleState', { state: 'frozen' });
  proxy.stall();
  await page.publish(2, 30);
  // The network has given the connection up by the time that the machine wakes.
  proxy.mend();
  await page.command('Page.setWebLifecycleState', { state: 'active' });
  await page.hasHeard(30);
  assert.equal(await page.session(), session);
  await missedNothing(page);
});

test('a tunnel while the page is looked at: silence is noticed, and the session goes on', async () => {
  const page = await play('tunnel');
  proxy.stall();
  await page.publish(2, 5);
  await page.eval("document.dispatchEvent(new Event('visibilitychange'))");
  await page.until("client.status === 'connecting'", 'silence is noticed');
  proxy.mend();
  await page.hasHeard(5);
  await missedNothing(page);
});
