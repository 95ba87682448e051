// Programs that are run by node beside this folder's packages, as a reader of the docs runs them.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const WAIT_MS = 30_000;

/** folder makes a new one, from which this folder's packages are found; it goes when this process ends. */
export function folder() {
  const artifacts = new URL('./artifacts/', import.meta.url).pathname;
  mkdirSync(artifacts, { recursive: true });
  const dir = mkdtempSync(join(artifacts, 'run-'));
  process.on('exit', () => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

/**
 * run starts a program of this text: line waits for the next line that it prints, ended for its end, stop ends it.
 * Of this process's environment it has the PATH.
 */
export function run(dir, name, text, env = {}) {
  writeFileSync(join(dir, name), text);
  const child = spawn(process.execPath, [name], { cwd: dir, env: { PATH: process.env.PATH, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  const exited = once(child, 'exit');
  let out = '', err = '', told = () => {};
  child.stdout.on('data', (data) => { out += data; told(); });
  child.stderr.on('data', (data) => { err += data; });
  let over = false;
  exited.then(() => { over = true; told(); });
  const line = async () => {
    const deadline = AbortSignal.timeout(WAIT_MS);
    while (!out.includes('\n')) {
      if (over || deadline.aborted) throw new Error(`${name} ${over ? 'ended' : 'waits'}: ${err}`);
      await new Promise((resolve) => {
        told = resolve;
        deadline.addEventListener('abort', resolve);
      });
    }
    const at = out.indexOf('\n'), first = out.slice(0, at);
    out = out.slice(at + 1);
    return first;
  };
  const ended = async () => {
    const [code] = await exited;
    if (code !== 0) throw new Error(`${name} ended with ${code}: ${err}`);
    return out;
  };
  const stop = async () => {
    child.kill('SIGKILL');
    await exited;
  };
  return { line, ended, stop };
}
