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

const seen = (page, player) => page.evaluate((name) => window.playground.seen(name), player);
const area = (page, player) => page.evaluate((name) => window.playground.area(name), player);
const keysOf = (entities) => entities.map(({ key }) => key).sort();
const distance = (entity, { x, y }) => Math.hypot(entity.x - x, entity.y - y);

/** Both see something of the world, and stay where they are. */
async function still() {
  const page = await playground();
  await quiet(page);
  for (const player of ['alice', 'bob']) await until(async () => (await seen(page, player)).length > 3, `${player} sees something`);
  return page;
}

/** Drags on a canvas, from one place of the world to another, in as many steps. */
async function drag(page, player, from, to, steps = 8) {
  const box = await page.part(`${player}-world`).boundingBox();
  const pixel = ({ x, y }) => [box.x + (x / 200) * box.width, box.y + (y / 100) * box.height];
  await page.mouse.move(...pixel(from));
  await page.mouse.down();
  await page.mouse.move(...pixel(to), { steps });
  await page.mouse.up();
}

test('with no typing each player sees its own part of a moving world', async () => {
  const page = await playground();
  const first = {};
  for (const player of ['alice', 'bob']) first[player] = await until(async () => ((all) => all.length > 3 && all)(await seen(page, player)), 'entities');
  assert.notDeepEqual(keysOf(first.alice), keysOf(first.bob));
  for (const player of ['alice', 'bob']) {
    await until(async () => {
      const now = new Map((await seen(page, player)).map((entity) => [entity.key, entity]));
      return first[player].some(({ key, x, y }) => now.has(key) && (now.get(key).x !== x || now.get(key).y !== y));
    }, 'they move');
  }
});

test('each sees its own team, and of the other only lit lanterns; nothing beyond its area', async () => {
  const page = await still();
  for (const [player, team] of [['alice', 'red'], ['bob', 'blue']]) {
    // The last change of the area may still be on its way; hysteresis keeps what leaves for 2 units more.
    await until(async () => {
      const around = await area(page, player);
      return (await seen(page, player)).every((entity) => distance(entity, around) <= around.radius + 3);
    }, 'nothing is beyond the area');
    for (const entity of await seen(page, player)) assert.ok(entity.team === team || entity.public === true, JSON.stringify(entity));
    const round = await area(page, player);
    await drag(page, player, round, { x: 100, y: 50 });
    // The whole world, nearly: lanterns of the other team are somewhere.
    await drag(page, player, { x: 100 + round.radius, y: 50 }, { x: 170, y: 50 });
    await until(async () => (await area(page, player)).radius === 60, 'the radius ends at its bound');
    await until(async () => {
      const entities = await seen(page, player);
      return [team, team === 'red' ? 'blue' : 'red'].every((each) => entities.some((entity) => entity.team === each));
    }, 'both teams are there', 30_000);
  }
});

test('dragging the circle changes what is seen, and leaves the other player alone', async () => {
  const page = await still();
  const bob = await area(page, 'bob');
  await drag(page, 'alice', await area(page, 'alice'), { x: 20, y: 30 });
  const moved = await area(page, 'alice');
  assert.ok(distance({ x: 20, y: 30 }, moved) < 3, JSON.stringify(moved));
  await until(async () => {
    const entities = await seen(page, 'alice');
    return entities.length > 0 && entities.every((entity) => distance(entity, moved) <= moved.radius + 3);
  }, 'only what is there is seen');
  const before = keysOf(await seen(page, 'alice'));
  await drag(page, 'alice', moved, { x: 180, y: 70 });
  await until(async () => keysOf(await seen(page, 'alice')).every((key) => !before.includes(key)), 'at the other end nobody of these is seen');
  assert.deepEqual(await area(page, 'bob'), bob);
  await inFeed(page, 'bob', '"x":180');
});

test('the knob and the wheel change how far a player sees', async () => {
  const page = await still();
  await drag(page, 'alice', await area(page, 'alice'), { x: 100, y: 50 });
  const { radius } = await area(page, 'alice');
  await drag(page, 'alice', { x: 100 + radius, y: 50 }, { x: 100 + radius / 2, y: 50 });
  const smaller = await area(page, 'alice');
  assert.ok(Math.abs(smaller.radius - radius / 2) < 2, JSON.stringify(smaller));
  await until(async () => (await seen(page, 'alice')).every((entity) => distance(entity, smaller) <= smaller.radius + 3), 'less is seen');
  await page.mouse.wheel(0, -400);
  await until(async () => (await area(page, 'alice')).radius > smaller.radius, 'the wheel makes it larger');
});

test('what the view costs is counted, and is a part of a broadcast', async () => {
  const page = await still();
  const number = async (part) => Number.parseFloat(await page.part(`alice-${part}`).textContent());
  for (const part of ['updates', 'bytes', 'share']) await until(async () => (await number(part)) > 0, `${part} are counted`);
  await until(async () => (await number('share')) < 50, 'it is a part of the whole');
  assert.match(await page.part('alice-broadcast').textContent(), /A plain broadcast: \d+ kB\/s .*300 entities × 10 updates\/s × \d+ bytes/);
  await until(async () => Number.parseInt(await page.part('alice-seen').textContent()) === (await seen(page, 'alice')).length, 'the number in view is shown');
});

test('a filter of the world narrows what is seen at once, and a broken link brings it back as it was', async () => {
  const page = await still();
  await drag(page, 'alice', await area(page, 'alice'), { x: 60, y: 50 });
  await page.part('alice-filter-channel').selectOption('world:demo');
  await page.part('alice-filter-input').fill("data.team == 'red' && data.x < 60");
  await page.part('alice-filter-apply').click();
  const narrowed = async () => {
    const entities = await seen(page, 'alice');
    return entities.length > 0 && entities.every(({ team, x }) => team === 'red' && x < 61);
  };
  await until(narrowed, 'only these are seen');
  const connection = await page.part('alice-detail').textContent();
  await page.part('alice-cut').click();
  await until(async () => (await page.part('alice-detail').textContent()) !== connection, 'the link breaks');
  assert.ok((await seen(page, 'alice')).length > 0, 'nothing vanishes meanwhile');
  await until(async () => (await page.part('alice-status').textContent()) === 'open', 'it is back');
  await until(narrowed, 'filter and area came along');
});

test("the players' filters differ", async () => {
  const page = await playground();
  const filters = await Promise.all(['alice', 'bob'].map((player) => page.part(`${player}-filter-input`).inputValue()));
  assert.notEqual(filters[0], filters[1]);
});

test('what one publishes the other receives', async () => {
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

test('all that the page suggests is allowed, and it suggests something', async () => {
  const page = await playground();
  await quiet(page);
  const suggested = (part) => page.part(part).locator('option').evaluateAll((all) => all.map(({ value }) => value));
  const own = await suggested('alice-subscribe-suggestions');
  const placeholder = await page.part('alice-subscribe-input').getAttribute('placeholder');
  for (const channel of [...own, placeholder.split(' ').at(-1)]) {
    await page.part('alice-subscribe-input').fill(channel);
    await page.part('alice-subscribe-add').click();
    await page.locator(`[data-testid="alice-subscription-${channel}"][data-state="active"]`).waitFor();
    assert.doesNotMatch(await page.part('alice-subscribe-result').textContent(), /FORBIDDEN/, channel);
  }
  const published = await suggested('alice-publish-suggestions');
  for (const channel of published) {
    await page.part('alice-publish-channel').fill(channel);
    await page.part('alice-publish-send').click();
    await until(async () => (await page.part('alice-publish-result').textContent()).startsWith(`${channel} has taken`), `${channel} is published on`);
  }
  assert.ok(own.length >= 4 && published.length >= 4);
  const ofBob = (names) => names.map((name) => name.replace('team:red', 'team:blue'));
  assert.deepEqual(await suggested('bob-subscribe-suggestions'), ofBob(own));
  assert.deepEqual(await suggested('bob-publish-suggestions'), ofBob(published));
});

test('on a phone nothing is cut away: the data of events has a line of its own', async () => {
  const page = await playground();
  for (const [width, least] of [[390, 250], [320, 180], [1360, 150]]) {
    await page.setViewportSize({ width, height: 844 });
    const data = await page.part('alice-feed').locator('.data').first().boundingBox();
    assert.ok(data.width >= least, `${data.width} of ${width}`);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width, 'nothing sticks out');
    const typed = await page.part('alice-publish-data').boundingBox();
    assert.ok(typed.width >= least, `what is to be published has ${typed.width} of ${width}`);
  }
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

test('a dropped connection is resumed, and what was missed arrives, marked, each once', async () => {
  const page = await playground();
  await quiet(page);
  await page.part('alice-cut').click();
  await until(async () => (await page.part('alice-status').textContent()) === 'connecting', 'alice is away');
  for (const n of [1, 2, 3]) {
    await page.part('bob-chat-input').fill(`while you were away, ${n}`);
    await page.part('bob-chat-send').click();
    await inFeed(page, 'bob', `while you were away, ${n}`);
  }
  assert.equal(await page.part('alice-status').textContent(), 'connecting', 'she is still away');
  await until(async () => (await page.part('alice-status').textContent()) === 'open', 'alice is back');
  const missed = page.part('alice-feed').locator('[data-missed="true"][data-event="chat"] .data');
  await until(async () => (await missed.count()) === 3, 'three lines were missed');
  // The newest comes first.
  assert.deepEqual((await missed.allTextContents()).map((text) => text.match(/\d/)[0]), ['3', '2', '1']);
  assert.match(await page.part('alice-detail').textContent(), /: resumed, \d+ missed events have arrived$/);
  await page.part('bob-chat-input').fill('welcome back');
  await page.part('bob-chat-send').click();
  await inFeed(page, 'alice', 'welcome back');
  assert.equal(await missed.count(), 3, 'what comes now is not marked');
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
