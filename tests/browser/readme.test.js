// The README's own page, from the README's text alone: the scaffold that its commands make, with the packed client and its
// five lines, on a Vite dev server of another port. Its first event comes, then one of a service.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { createServer } from 'vite';

import { openBrowser } from './support/browser.js';
import { binary, cleanUp, startDev, until } from './support/processes.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const readme = readFileSync(join(root, 'README.md'), 'utf8');
let browser;
let dev;
let directory;
let server;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'drawbridge-readme-'));
  [browser, dev] = await Promise.all([openBrowser(), startDev()]);
});

after(async () => {
  await server?.close();
  await browser?.close();
  await cleanUp();
  rmSync(directory, { recursive: true, force: true });
});

/** The one block of the README in this language that has this text, with the addresses of this run. */
function block(language, part) {
  const blocks = [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(([, text]) => text);
  const found = blocks.filter((text) => text.includes(part));
  assert.equal(found.length, 1, `one block in ${language} with ${part}`);
  return found[0].replaceAll('127.0.0.1:8000', dev.listen).replaceAll('127.0.0.1:8001', dev.admin);
}

const npm = (cwd, ...parameters) =>
  execFileSync('npm', [...parameters, '--offline', '--no-audit', '--no-fund', '--loglevel=error'], { cwd, encoding: 'utf8' });

/** What `npm create vite -- --template vanilla` makes of a page, as far as the README relies on it. */
function scaffold(game) {
  mkdirSync(join(game, 'src'), { recursive: true });
  writeFileSync(join(game, 'package.json'), JSON.stringify({ name: 'my-game', private: true, type: 'module' }));
  writeFileSync(join(game, 'index.html'), '<!doctype html><link rel="icon" href="data:,"><div id="app"></div><script type="module" src="/src/main.js"></script>');
}

test('a page from the README has its first event, and one of a service', async () => {
  assert.match(block('sh', 'npm create'), /vite@latest my-game -- --template vanilla[^]*npm install[^]*sdk\/typescript/);
  const game = join(directory, 'my-game');
  scaffold(game);
  const tarball = npm(join(root, 'sdk/typescript'), 'pack', '--pack-destination', directory).trim();
  npm(game, 'install', join(directory, tarball));
  const lines = block('js', '@drawbridge/client').trimEnd();
  assert.equal(lines.split('\n').length, 5, 'five lines');
  writeFileSync(join(game, 'src/main.js'), lines);
  // Vite listens on localhost, on the first free port from 5173 on; here on any.
  server = await createServer({ root: game, configFile: false, logLevel: 'error', server: { host: 'localhost', port: 0 } });
  await server.listen();

  const page = await browser.open('about:blank');
  const said = [];
  page.on('console', (message) => said.push(message.text()));
  await page.goto(server.resolvedUrls.local[0]);
  assert.notEqual(new URL(page.url()).port, dev.listen.split(':').at(-1));
  await until(() => said.includes('alice hits for 12'), `the page's own event; it said: ${said}`, 60_000);

  const [command, ...words] = block('sh', 'drawbridge publish').trim().split(/ (?=(?:[^']*'[^']*')*[^']*$)/);
  assert.equal(command, 'drawbridge');
  execFileSync(binary(), words.map((word) => word.replaceAll("'", '')), { encoding: 'utf8' });
  await until(() => said.includes('a service hits for 30'), `the service's event; the page said: ${said}`);
  assert.deepEqual(page.complaints, [], 'the page has nothing to complain of');
});

test('a token that a login service signs in Node, as docs/configuration.md has it, is accepted', () => {
  const configuration = readFileSync(join(root, 'docs/configuration.md'), 'utf8');
  const [script, ...others] = [...configuration.matchAll(/^```js\n(.*?)^```/gms)].map(([, text]) => text);
  assert.deepEqual([script.includes("from 'jose'"), others], [true, []]);
  const config = join(directory, 'drawbridge.toml');
  execFileSync(binary(), ['init', config]);
  const [, secret] = readFileSync(config, 'utf8').match(/^hmac_secret = "(.*)"$/m);
  const here = dirname(fileURLToPath(import.meta.url));
  const environment = { ...process.env, DRAWBRIDGE_AUTH__HMAC_SECRET: secret };
  // Packages are looked for from the working directory on.
  const token = execFileSync(process.execPath, ['--input-type=module', '--eval', `${script}\nconsole.log(token)`], { cwd: here, env: environment, encoding: 'utf8' }).trim();
  const explained = execFileSync(binary(), ['explain', '--config', config, '--token', token, '--subscribe', 'room:42'], { encoding: 'utf8' });
  assert.match(explained, /^token: accepted; player `alice`/);
  assert.match(explained, /\n {2}it expires in 60 min\n[^]*\nallowed\n$/);
});

test('without npm: a page of a plain HTTP server, which imports the copied file', async () => {
  const [, copied] = readme.match(/copy `(sdk\/typescript\/dist\/[a-z.]+)`/);
  const [, imported] = readme.match(/import from `'(\.\/[a-z.]+)'`/);
  const script = block('js', '@drawbridge/client').replace("'@drawbridge/client'", `'${imported}'`);
  assert.ok(script.includes(imported));
  const files = {
    '/': ['text/html', `<!doctype html><link rel="icon" href="data:,"><script type="module">${script}</script>`],
    [imported.slice(1)]: ['text/javascript', readFileSync(join(root, copied), 'utf8')],
  };
  const pages = createHttpServer((request, response) => {
    const [type, body] = files[request.url] ?? [];
    response.writeHead(body ? 200 : 404, { 'content-type': type ?? 'text/plain' }).end(body);
  });
  await new Promise((resolve) => pages.listen(0, '127.0.0.1', resolve));
  try {
    const page = await browser.open('about:blank');
    const said = [];
    page.on('console', (message) => said.push(message.text()));
    await page.goto(`http://127.0.0.1:${pages.address().port}/`);
    await until(() => said.includes('alice hits for 12'), `the page's own event; it said: ${said}`, 60_000);
  } finally {
    pages.closeAllConnections();
    pages.close();
  }
});
