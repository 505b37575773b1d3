/**
 * A headless Chromium driven by its own protocol (CDP), with the back-forward cache on, which Playwright switches off.
 * One page at a time; everything that waits has a bound.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import WebSocket from 'ws';

import { forget, until } from './processes.js';

const FLAGS = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--enable-features=BackForwardCache', '--remote-debugging-port=0'];

export async function openChromium() {
  const profile = mkdtempSync(join(tmpdir(), 'drawbridge-chromium-'));
  const child = spawn(process.env.CHROMIUM ?? '/usr/bin/chromium', [...FLAGS, `--user-data-dir=${profile}`, 'about:blank'], { stdio: 'ignore' });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const [port, path] = await until(() => {
    try {
      const lines = readFileSync(join(profile, 'DevToolsActivePort'), 'utf8').split('\n');
      return lines.length > 1 && lines;
    } catch {
      return undefined;
    }
  }, 'Chromium listens', 30_000);
  const socket = new WebSocket(`ws://127.0.0.1:${port}${path}`);
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));

  let lastId = 0;
  const waiting = new Map();
  socket.on('message', (data) => {
    const { id, result, error } = JSON.parse(data.toString());
    const waiter = waiting.get(id);
    waiting.delete(id);
    if (error) waiter?.reject(new Error(`${waiter.method}: ${error.message}`));
    else waiter?.resolve(result);
  });
  const send = (method, params = {}, sessionId) =>
    new Promise((resolve, reject) => {
      const id = ++lastId;
      waiting.set(id, { method, resolve, reject });
      socket.send(JSON.stringify({ id, method, params, ...(sessionId && { sessionId }) }));
    });

  return {
    /** A tab at this address. */
    async open(url) {
      const { targetId } = await send('Target.createTarget', { url: 'about:blank' });
      const { sessionId } = await send('Target.attachToTarget', { targetId, flatten: true });
      const command = (method, params) => send(method, params, sessionId);
      await command('Page.enable');
      await command('Network.enable');
      const page = {
        command,
        goto: (to) => command('Page.navigate', { url: to }),
        /** What the expression evaluates to, a promise awaited. */
        async eval(expression) {
          const { result, exceptionDetails } = await command('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true });
          if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description ?? exceptionDetails.text}`);
          return result.value;
        },
        /** The same, until it is truthy; errors of a page that is not there yet are passed over. */
        until: (expression, what = expression, timeoutMs = 20_000) => until(() => page.eval(expression).catch(() => false), what, timeoutMs),
        close: () => send('Target.closeTarget', { targetId }),
      };
      await page.goto(url);
      return page;
    },
    async close() {
      socket.close();
      child.kill('SIGTERM');
      await ended;
      forget(profile);
    },
  };
}
