/** A headless Chromium with a profile of its own, and pages that fail a test by what they complain of. */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

import { forget } from './processes.js';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export async function openBrowser() {
  const profile = mkdtempSync(join(tmpdir(), 'drawbridge-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: FLAGS,
    viewport: { width: 1360, height: 1000 },
  });
  await context.grantPermissions(['clipboard-read', 'clipboard-write']).catch(() => {});
  return {
    async open(url) {
      const page = await context.newPage();
      page.complaints = [];
      page.on('pageerror', (error) => page.complaints.push(String(error)));
      page.on('console', (message) => {
        if (message.type() === 'error') page.complaints.push(message.text());
      });
      page.foreign = [];
      page.on('request', (request) => {
        const host = new URL(request.url());
        if (!['127.0.0.1', 'localhost', ''].includes(host.hostname)) page.foreign.push(request.url());
      });
      await page.goto(url);
      return page;
    },
    async close() {
      await context.close();
      forget(profile);
    },
  };
}
