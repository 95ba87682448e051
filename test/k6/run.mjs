// Runs a script with the stand-in, or with k6 itself, and says how that ended.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** scripts is the folder of those under test, with a slash. */
export const scripts = fileURLToPath(new URL('../../loadtest/k6/', import.meta.url));

const HUNG_MS = 120_000;

/** version is what the k6 on PATH says of itself, or '' where there is none. */
export function version() {
  const { status, stdout } = spawnSync('k6', ['version'], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : '';
}

/** standIn runs the script with the stand-in; it resolves to {code, output, summary, ms}. */
export async function standIn(script, env = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'k6-'));
  try {
    const file = join(folder, 'summary.json');
    const program = fileURLToPath(new URL('k6.mjs', import.meta.url));
    const result = await run(process.execPath, ['--experimental-vm-modules', '--no-warnings', program, 'run', '--summary-export', file, script], env);
    try {
      result.summary = JSON.parse(readFileSync(file, 'utf8'));
    } catch {
      result.summary = null; // it ended before
    }
    return result;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** real runs the script with the k6 on PATH. */
export const real = (script, env) => run('k6', ['run', '--no-color', script], { K6_NO_USAGE_REPORT: 'true', ...env });

async function run(program, args, env) {
  const began = Date.now();
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env.PATH, HOME: process.env.HOME, ...env } });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { output += data; });
  const timer = setTimeout(() => {
    output += '\nIt hung, and was killed.\n';
    child.kill('SIGKILL');
  }, HUNG_MS);
  const [code] = await once(child, 'close');
  clearTimeout(timer);
  return { code, output, ms: Date.now() - began };
}

/** broken are the thresholds that the output says do not hold, by metric. */
export const broken = (output) => [...new Set([...output.matchAll(/^✗ (\w+)/gm)].map(([, metric]) => metric))].sort();
