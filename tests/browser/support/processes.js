/**
 * The built binary and a real redis-server as child processes, on ports of their own. Everything that waits has a
 * bound; `cleanUp` ends what a test started, by its process.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const READY = /drawbridge: ready listen=(\S+)(?: admin=(\S+))? node=(\S+)/;
const started = [];
let given = 0;

export const SECRET = 'a-secret-for-the-browser-tests-that-is-long-enough';

export function binary() {
  if (process.env.DRAWBRIDGE_BIN) return process.env.DRAWBRIDGE_BIN;
  const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target');
  const built = ['release', 'debug'].map((kind) => join(target, kind, 'drawbridge')).find((path) => existsSync(path));
  if (!built) throw new Error('no binary: run `cargo build`, or set DRAWBRIDGE_BIN');
  return built;
}

/** Waits until `condition` gives something truthy, and gives that. */
export async function until(condition, what, timeoutMs = 15_000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function start(command, args, env = {}) {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('DRAWBRIDGE_'));
  const child = spawn(command, args, { env: { ...Object.fromEntries(inherited), ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  const run = {
    child,
    output: '',
    ended: new Promise((resolve) => child.once('exit', (code) => resolve(code))),
    get running() {
      return child.exitCode === null && child.signalCode === null;
    },
    async end(signal = 'SIGKILL') {
      if (run.running) child.kill(signal);
      return run.ended;
    },
  };
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (run.output += data));
  started.push(run);
  return run;
}

async function ready(run) {
  const found = await until(() => {
    if (!run.running) throw new Error(`it ended:\n${run.output}`);
    return READY.exec(run.output);
  }, 'it is ready');
  run.listen = found[1];
  run.admin = found[2];
  return run;
}

const ANY_PORTS = { DRAWBRIDGE_LISTEN: '127.0.0.1:0', DRAWBRIDGE_ADMIN__LISTEN: '127.0.0.1:0' };

/** `drawbridge dev`; `url` is its page. */
export async function startDev(...args) {
  const dev = await ready(start(binary(), ['dev', ...args], ANY_PORTS));
  dev.url = `http://${dev.listen}/`;
  return dev;
}

/** `drawbridge serve` on this Redis. A fixed `port` lets a client come back to the same address. */
export async function startNode(redis, { port = 0, name = 'n1', drainWindow = '300ms', extra = '', classes = '' } = {}) {
  const directory = mkdtempSync(join(tmpdir(), 'drawbridge-'));
  const config = join(directory, 'drawbridge.toml');
  writeFileSync(
    config,
    `
node = "${name}"
listen = "127.0.0.1:${port}"
drain_delay = "0s"
drain_window = "${drainWindow}"
[broker]
kind = "redis"
url = "${redis.url}"
[auth]
hmac_secret = "${SECRET}"
[connection]
auto_subscribe = ["player:{sub}"]
${extra}
[[channel]]
name = "chat:{room}"
subscribe = "true"
publish = "true"
patterns = true
[[channel]]
name = "quiet:{x}"
subscribe = "true"
${classes}
`,
  );
  const node = await ready(start(binary(), ['serve', '--config', config]));
  node.port = Number(node.listen.split(':').at(-1));
  node.url = `ws://${node.listen}/ws`;
  node.token = (sub, { ttl = '1h' } = {}) =>
    execFileSync(binary(), ['token', '--config', config, '--sub', sub, '--ttl', ttl], { encoding: 'utf8' }).trim();
  node.metric = async (name) => {
    const text = await (await fetch(`http://${node.listen}/metrics`)).text();
    return Number(text.match(new RegExp(`^${name} (.+)$`, 'm'))?.[1]);
  };
  return node;
}

/**
 * A port that nothing listens on, for what comes back to the same one. Not of those that the kernel gives to outgoing
 * connections and to port 0: they would take it while nothing listens. Each process of these tests has some of its own.
 */
export async function freePort() {
  const own = 30_000 + (process.pid % 50) * 50;
  for (let tries = 0; tries < 50; tries += 1) {
    const port = own + (given++ % 50);
    const server = createServer();
    const isFree = await new Promise((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
    });
    if (isFree) return port;
  }
  throw new Error(`no free port from ${own} on`);
}

/** Classes with history, presence, and what happens to players in the stream `lifecycle`. */
export const LOGGED = `
[[channel]]
name = "log:{x}"
subscribe = "true"
publish = "true"
patterns = true
presence = "notify"
presence_rule = "true"
history = { events = 2000, age = "10m" }
[lifecycle]
stream = "lifecycle"
`;

/** The lifecycle of a player, as services read it: `[{ event, code, … }]`, the oldest first. */
export function lifecycle(redis, player) {
  const entries = [];
  // Of each entry redis-cli prints the id, then names and values in turn.
  for (const line of redis.cli('XRANGE', 'lifecycle', '-', '+').split('\n')) {
    if (/^\d+-\d+$/.test(line)) entries.push([]);
    else entries.at(-1)?.push(line);
  }
  const maps = entries.map((fields) => Object.fromEntries(fields.flatMap((name, at) => (at % 2 === 0 ? [[name, fields[at + 1]]] : []))));
  return maps.filter((entry) => entry.player === player);
}

/** A real Redis; `restart()` on the same port. */
export async function startRedis() {
  const port = await freePort();
  const directory = mkdtempSync(join(tmpdir(), 'drawbridge-redis-'));
  const redis = { port, url: `redis://127.0.0.1:${port}`, directory };
  redis.start = async () => {
    const args = ['--bind', '127.0.0.1', '--port', port, '--save', '', '--appendonly', 'no', '--dir', directory];
    redis.run = start('redis-server', args.map(String));
    await until(() => answers(port), 'redis-server answers');
  };
  redis.stop = () => redis.run.end('SIGTERM');
  redis.restart = async () => {
    await redis.stop();
    await redis.start();
  };
  /** One command by redis-cli; gives what it printed. */
  redis.cli = (...args) => execFileSync('redis-cli', ['-p', String(port), ...args], { encoding: 'utf8' }).trim();
  await redis.start();
  return redis;
}

function answers(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.end();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

/** Ends everything; fails where the binary panicked. */
export async function cleanUp() {
  const runs = started.splice(0);
  await Promise.all(runs.map((run) => run.end()));
  const panicked = runs.find((run) => run.output.includes('panicked at'));
  if (panicked) throw new Error(`it panicked:\n${panicked.output}`);
}

export function forget(directory) {
  // A browser that has ended may still write.
  rmSync(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
}
