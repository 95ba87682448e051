// The gateway under test: the binary named by ROLLCALL_BIN, started here with
// the embedded store, or one that already listens at ROLLCALL_URL.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, watch } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const credentials = {
  account: process.env.ROLLCALL_ACCOUNT_SID ?? `AC${'1'.repeat(32)}`,
  authToken: process.env.ROLLCALL_AUTH_TOKEN ?? 'b'.repeat(32),
  key: process.env.ROLLCALL_API_KEY_SID ?? `SK${'2'.repeat(32)}`,
  secret: process.env.ROLLCALL_API_KEY_SECRET ?? 'd'.repeat(32),
};

const START_MS = 20_000;
const STOP_MS = 10_000;

/** start gives {url, stop}; stop resolves when the gateway is gone. */
export async function start() {
  if (process.env.ROLLCALL_URL) return { url: process.env.ROLLCALL_URL, stop: async () => {} };
  if (!process.env.ROLLCALL_BIN) throw new Error('Set ROLLCALL_BIN to the gateway binary, or ROLLCALL_URL to one that runs.');

  const folder = mkdtempSync(join(tmpdir(), 'rollcall-'));
  const readyFile = join(folder, 'ready.json');
  const child = spawn(process.env.ROLLCALL_BIN, ['serve'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env.PATH,
      ROLLCALL_ADDR: '127.0.0.1:0',
      ROLLCALL_ADMIN_ADDR: '127.0.0.1:0',
      ROLLCALL_REDIS_URL: 'embedded',
      ROLLCALL_READY_FILE: readyFile,
      ROLLCALL_LINGER: '5s', // long enough to be seen for sure, short enough to wait for
      ROLLCALL_DRAIN_TIMEOUT: '1s',
      ROLLCALL_ACCOUNT_SID: credentials.account,
      ROLLCALL_AUTH_TOKEN: credentials.authToken,
      ROLLCALL_API_KEY_SID: credentials.key,
      ROLLCALL_API_KEY_SECRET: credentials.secret,
    },
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { output += data; });
  const exited = once(child, 'exit');

  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS);
      await exited;
      clearTimeout(timer);
    }
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const { addr } = await ready(readyFile, folder, exited);
    return { url: `http://${addr}`, stop };
  } catch (err) {
    await stop();
    throw new Error(`${err.message}\n${output}`);
  }
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
