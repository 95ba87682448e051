// The gateway under test: the binary named by ROLLCALL_BIN, started here with the
// embedded store or a redis-server of its own, or one that already listens at ROLLCALL_URL.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { mkdtempSync, readFileSync, rmSync, watch } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const credentials = {
  account: process.env.ROLLCALL_ACCOUNT_SID ?? `AC${'1'.repeat(32)}`,
  authToken: process.env.ROLLCALL_AUTH_TOKEN ?? 'b'.repeat(32),
  key: process.env.ROLLCALL_API_KEY_SID ?? `SK${'2'.repeat(32)}`,
  secret: process.env.ROLLCALL_API_KEY_SECRET ?? 'd'.repeat(32),
};

/** browser is how Chromium is launched with playwright-core, also as root. */
export const browser = {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
};

/** until asks again and again, for so many milliseconds, until what it gets passes. */
export async function until(ask, passes, within) {
  const deadline = Date.now() + within;
  for (;;) {
    const got = await ask();
    if (passes(got)) return got;
    if (Date.now() > deadline) throw new Error(`it stays ${JSON.stringify(got)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const START_MS = 20_000;
const STOP_MS = 10_000;
const OUTPUT_CHARS = 10_000; // of a gateway, when it ended unasked

/**
 * start gives {url, stop}; stop resolves when all that it started is gone.
 * store is 'embedded' or 'redis'; env adds to the gateway's environment.
 */
export async function start({ store = 'embedded', env = {} } = {}) {
  if (process.env.ROLLCALL_URL) return { url: process.env.ROLLCALL_URL, stop: async () => {} };
  const redis = store === 'redis' ? await startRedis() : null;
  try {
    const node = new Node({ redisUrl: redis?.url, env });
    await node.start();
    return {
      url: node.url,
      stop: async () => {
        await node.stop();
        await redis?.stop();
      },
    };
  } catch (err) {
    await redis?.stop();
    throw err;
  }
}

/** Node is one gateway process after another, at one address: that which the first one got, or the port given. */
export class Node {
  #settings;
  #child;
  #exited;
  #ending = false;

  constructor({ redisUrl = 'embedded', port = 0, env = {} } = {}) {
    this.#settings = { redisUrl, port, env };
  }

  /** start resolves when the node serves. */
  async start() {
    if (!process.env.ROLLCALL_BIN) throw new Error('Set ROLLCALL_BIN to the gateway binary, or ROLLCALL_URL to one that runs.');
    const { redisUrl, port, env } = this.#settings;
    const folder = mkdtempSync(join(tmpdir(), 'rollcall-'));
    const readyFile = join(folder, 'ready.json');
    const child = spawn(process.env.ROLLCALL_BIN, ['serve'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: {
        PATH: process.env.PATH,
        ROLLCALL_ADDR: `127.0.0.1:${port}`,
        ROLLCALL_ADMIN_ADDR: '127.0.0.1:0',
        ROLLCALL_REDIS_URL: redisUrl,
        ROLLCALL_READY_FILE: readyFile,
        ROLLCALL_LINGER: '5s', // long enough to be seen for sure, short enough to wait for
        ROLLCALL_DRAIN_TIMEOUT: '1s',
        ROLLCALL_ACCOUNT_SID: credentials.account,
        ROLLCALL_AUTH_TOKEN: credentials.authToken,
        ROLLCALL_API_KEY_SID: credentials.key,
        ROLLCALL_API_KEY_SECRET: credentials.secret,
        ...env,
      },
    });
    this.#child = child;
    this.output = '';
    this.#ending = false;
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { this.output += data; });
    this.#exited = once(child, 'exit');
    child.on('exit', (code, signal) => {
      if (!this.#ending) console.error(`The gateway ended by itself (${signal ?? code}):\n${this.output.slice(-OUTPUT_CHARS)}`);
    });
    try {
      const { addr, admin_addr: admin } = await ready(readyFile, folder, this.#exited);
      Object.assign(this, { url: `http://${addr}`, admin: `http://${admin}` });
      this.#settings.port = Number(new URL(this.url).port);
    } catch (err) {
      await this.stop();
      throw new Error(`${err.message}\n${this.output}`);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  /** stop ends the process as an operator does. */
  async stop() {
    this.#ending = true;
    if (this.#child) await end(this.#child, this.#exited);
  }

  /** kill ends it without a word. */
  async kill() {
    this.#ending = true;
    this.#child.kill('SIGKILL');
    await this.#exited;
  }
}

// end asks a process to stop, and insists if it does not.
async function end(child, exited) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
  await exited;
  clearTimeout(timer);
}

/** startRedis gives a redis-server of one's own: its url, stop, and pause and resume, between which it answers nobody. */
export async function startRedis() {
  const folder = mkdtempSync(join(tmpdir(), 'rollcall-redis-'));
  const port = await freePort();
  const child = spawn('redis-server', ['--port', port, '--bind', '127.0.0.1', '--dir', folder, '--save', ''], { stdio: 'ignore' });
  const exited = once(child, 'exit');
  const stop = async () => {
    child.kill('SIGCONT');
    await end(child, exited);
    rmSync(folder, { recursive: true, force: true });
  };
  const deadline = Date.now() + START_MS;
  while (!(await listens(port))) {
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop();
      throw new Error('redis-server did not start.');
    }
  }
  return { url: `redis://127.0.0.1:${port}`, stop, pause: () => child.kill('SIGSTOP'), resume: () => child.kill('SIGCONT') };
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

// listens tells whether somebody does; a refusal takes a moment.
function listens(port) {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.on('connect', () => { socket.destroy(); resolve(true); });
    socket.on('error', () => setTimeout(resolve, 20, false));
  });
}

// ready waits until the file can be read as JSON.
function ready(file, folder, exited) {
  return new Promise((resolve, reject) => {
    const look = () => {
      try {
        done(resolve, JSON.parse(readFileSync(file, 'utf8')));
      } catch {
        // not written yet
      }
    };
    const watcher = watch(folder, look);
    const timer = setTimeout(() => done(reject, new Error(`The gateway was not ready in ${START_MS / 1000} s.`)), START_MS);
    function done(settle, value) {
      watcher.close();
      clearTimeout(timer);
      settle(value);
    }
    exited.then(([code, signal]) => done(reject, new Error(`The gateway ended (${signal ?? code}) before it was ready.`)));
    look();
  });
}
