// What a developer reads in the browser's console when their page cannot connect: the browser itself says nothing of it.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';

import { openBrowser } from './support/browser.js';
import { cleanUp, freePort, startNode, startRedis, until } from './support/processes.js';

const CLIENT = readFileSync(new URL('../../sdk/typescript/dist/drawbridge.js', import.meta.url));
let browser;
let node;
let site;

before(async () => {
  browser = await openBrowser();
  node = await startNode(await startRedis());
  site = createServer((request, response) => {
    const isScript = request.url === '/drawbridge.js';
    response.setHeader('content-type', isScript ? 'text/javascript' : 'text/html');
    response.end(isScript ? CLIENT : '<!doctype html><title>game</title>');
  });
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
  site.url = `http://127.0.0.1:${site.address().port}`;
});

after(async () => {
  await browser.close();
  site.close();
  await cleanUp();
});

/** The client's warnings on a page that fails to connect several times. */
async function warnings(url) {
  const page = await browser.open(site.url);
  const said = [];
  page.on('console', (message) => message.type() === 'warning' && said.push(message.text()));
  await page.evaluate(async (address) => {
    const { connect } = await import('/drawbridge.js');
    const client = connect(address, { reconnect: { minDelayMs: 1, maxDelayMs: 1 } });
    let failures = 0;
    await new Promise((resolve) => client.on('status', ({ error }) => error && ++failures === 4 && resolve()));
    client.close();
  }, url);
  await until(() => said.length > 0, 'a warning');
  await page.close();
  return said.filter((text) => text.startsWith('drawbridge:'));
}

test('a page of an origin that is not allowed reads that, once', async () => {
  const said = await warnings(`${node.url}?token=secret`);
  assert.equal(said.length, 1);
  const address = node.url.replace(/[.?]/g, '\\$&');
  assert.match(said[0], new RegExp(`^drawbridge: cannot connect to ${address}: CONNECTION_LOST: .*does the server allow the origin ${site.url} \\(connection.allowed_origins\\).*; trying again`));
});

test('a page that names a wrong port reads that, once', async () => {
  const said = await warnings(`ws://127.0.0.1:${await freePort()}/ws`);
  assert.equal(said.length, 1);
  assert.match(said[0], /nothing answers at 127\.0\.0\.1:\d+: is the server running, is this its port/);
});

test('a page that names a wrong path reads what the path is', async () => {
  const said = await warnings(node.url.replace('/ws', '/socket'));
  assert.match(said[0], /is the path right \(Drawbridge's is \/ws, this one \/socket\)/);
});
