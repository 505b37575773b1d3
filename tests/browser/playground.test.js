// `drawbridge dev` in a headless Chromium: with no typing two players are connected and hear each other; then each
// control of the page, and the lines that it offers for other services, run as they stand.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { openBrowser } from './support/browser.js';
import { cleanUp, startDev, startRedis, until } from './support/processes.js';

const here = dirname(fileURLToPath(import.meta.url));
const run = promisify(execFile);
const pages = [];
let browser;
let dev;

before(async () => {
  browser = await openBrowser();
  dev = await startDev();
});

afterEach(async () => {
  for (const page of pages.splice(0)) {
    assert.deepEqual(page.foreign, [], 'nothing is loaded from elsewhere');
    assert.deepEqual(page.complaints, [], 'the page has nothing to complain of');
    await page.close();
  }
});

after(async () => {
  await browser?.close();
  await cleanUp();
});

/** The page, once each player has heard the other. */
async function playground(url = dev.url) {
  const page = await browser.open(url);
  pages.push(page);
  page.part = (id) => page.getByTestId(id);
  await page.waitForSelector('html[data-ready="true"]', { timeout: 20_000 });
  return page;
}

/** Both stop playing by themselves. */
async function quiet(page) {
  for (const player of ['alice', 'bob']) await page.part(`${player}-autopilot`).uncheck();
}

const inFeed = (page, player, text) => page.part(`${player}-feed`).getByText(text).first().waitFor({ timeout: 15_000 });

test('two players are connected and talk with no typing', async () => {
  const page = await playground();
  for (const player of ['alice', 'bob']) {
    assert.equal(await page.part(`${player}-name`).textContent(), player);
    assert.equal(await page.part(`${player}-status`).textContent(), 'open');
    const count = async () => Number(await page.part(`${player}-count`).textContent());
    const before = await count();
    await until(async () => (await count()) > before, 'events keep flowing');
    const other = player === 'alice' ? 'bob' : 'alice';
    await page.part(`${player}-feed`).locator(`[data-from="${other}"]`).first().waitFor();
  }
  assert.equal(await page.part('broker').textContent(), 'in memory');
  assert.equal(await page.part('node').textContent(), 'dev');
  await until(async () => /\d\d:\d\d:\d\d/.test(await page.part('server-time').textContent()), 'the clock runs');
  const pictures = process.env.DRAWBRIDGE_PICTURES;
  if (pictures) {
    mkdirSync(pictures, { recursive: true });
    await page.screenshot({ path: join(pictures, 'playground.png') });
  }
});

test("the players' views differ", async () => {
  const page = await playground();
  const filters = await Promise.all(['alice', 'bob'].map((player) => page.part(`${player}-filter-input`).inputValue()));
  assert.notEqual(filters[0], filters[1]);
});

test('what one publishes the other hears', async () => {
  const page = await playground();
  await quiet(page);
  await page.part('alice-chat-input').fill('hello from the test');
  await page.part('alice-chat-send').click();
  await inFeed(page, 'bob', 'hello from the test');
  await page.part('bob-publish-event').fill('chat');
  await page.part('bob-publish-data').fill('{"text":"and back"}');
  await page.part('bob-publish-send').click();
  await inFeed(page, 'alice', 'and back');
  await until(async () => /taken/.test(await page.part('bob-publish-result').textContent()), 'the acknowledgement is shown');
});

test('a publish that is not JSON, or not allowed, is explained', async () => {
  const page = await playground();
  await page.part('alice-publish-data').fill('{nonsense');
  await page.part('alice-publish-send').click();
  await until(async () => /not JSON/.test(await page.part('alice-publish-result').textContent()), 'it is explained');
  await page.part('alice-publish-data').fill('1');
  await page.part('alice-publish-channel').fill('team:blue');
  await page.part('alice-publish-send').click();
  await until(async () => {
    const said = await page.part('alice-publish-result').textContent();
    return /FORBIDDEN/.test(said) && /team/.test(said);
  }, 'dev names the class and the rule');
});

test('a filter hides, and a bad one is explained with its place', async () => {
  const page = await playground();
  await page.part('alice-filter-input').fill("event == 'chat'");
  await page.part('alice-filter-apply').click();
  await until(async () => /only where/.test(await page.part('alice-filter-result').textContent()), 'it is applied');
  await page.part('alice-filter-input').fill('data.x >');
  await page.part('alice-filter-apply').click();
  const explained = page.part('alice-filter-error');
  await explained.waitFor({ state: 'visible' });
  const said = await explained.textContent();
  assert.match(said, /data\.x >\n +\^\n/);
  assert.match(said, /FILTER_INVALID/);
  await page.part('alice-filter-clear').click();
  await until(async () => /everything/.test(await page.part('alice-filter-result').textContent()), 'it is cleared');
});

test('subscribing to another channel, to a pattern, and leaving', async () => {
  const page = await playground();
  for (const channel of ['chat:test', 'chat:*']) {
    await page.part('alice-subscribe-input').fill(channel);
    await page.part('alice-subscribe-add').click();
    await page.part(`alice-subscription-${channel}`).waitFor();
  }
  await page.part('bob-publish-channel').fill('chat:test');
  await page.part('bob-publish-data').fill('{"text":"over there"}');
  await page.part('bob-publish-send').click();
  await inFeed(page, 'alice', 'over there');
  await page.part('alice-unsubscribe-chat:*').click();
  await page.part('alice-subscription-chat:*').waitFor({ state: 'detached' });
  await page.part('alice-subscribe-input').fill('nobody:here');
  await page.part('alice-subscribe-add').click();
  await until(async () => /FORBIDDEN/.test(await page.part('alice-subscribe-result').textContent()), 'a refusal is shown');
});

test('a broken link comes back by itself', async () => {
  const page = await playground();
  const connection = await page.part('alice-detail').textContent();
  await page.part('alice-cut').click();
  await until(async () => {
    const now = await page.part('alice-detail').textContent();
    return (await page.part('alice-status').textContent()) === 'open' && /connection/.test(now) && now !== connection;
  }, 'another connection');
  await quiet(page);
  await page.part('bob-chat-input').fill('still there?');
  await page.part('bob-chat-send').click();
  await inFeed(page, 'alice', 'still there?');
});

test('the HTTP line works as it stands', async () => {
  const page = await playground();
  await page.part('recipe-tab-http').click();
  await run('bash', ['-c', await page.part('recipe-text').textContent()], { timeout: 15_000 });
  for (const player of ['alice', 'bob']) await inFeed(page, player, 'hello from HTTP');
});

test('on a Redis the lines for other services work as they stand', async () => {
  const redis = await startRedis();
  const onRedis = await startDev('--redis', redis.url);
  const page = await playground(onRedis.url);
  assert.equal(await page.part('broker').textContent(), 'Redis');
  const recipe = async (name) => {
    await page.part(`recipe-tab-${name}`).click();
    return page.part('recipe-text').textContent();
  };

  await run('bash', ['-c', await recipe('redis-cli')], { timeout: 15_000 });
  for (const player of ['alice', 'bob']) await inFeed(page, player, 'hello from redis-cli');

  const script = join(here, 'node_modules', '.recipe.mjs');
  writeFileSync(script, await recipe('node'));
  await run('node', [script], { timeout: 15_000 });
  await inFeed(page, 'bob', 'hello from Node');

  const python = process.env.DRAWBRIDGE_PYTHON;
  if (python) {
    await run(python, ['-c', await recipe('python')], { timeout: 15_000 });
    await inFeed(page, 'bob', 'hello from Python');
  }
  const rust = await recipe('rust');
  assert.match(rust, /redis::Client::open/);
  assert.ok(rust.includes(redis.url) && rust.includes('hello from Rust'));
});

test('Redis away is shown, and gone again', async () => {
  const redis = await startRedis();
  const onRedis = await startDev('--redis', redis.url);
  const page = await playground(onRedis.url);
  await redis.stop();
  const status = (wanted) => until(async () => (await page.part('alice-status').textContent()) === wanted, `alice is ${wanted}`, 30_000);
  await status('degraded');
  await redis.start();
  await status('open');
});
