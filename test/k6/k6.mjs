// A stand-in for k6, so that the scripts of loadtest/k6 are run in tests without it:
//
//   node --experimental-vm-modules k6.mjs run [--summary-export file] script.js
//
// It is written from k6's documentation, has what those scripts use, and ends the run where
// they use anything else. Exit codes are k6's: 99 for a threshold that does not hold, 107 for
// an exception in init, setup or teardown; and 70 where the script asks for what is not here.

import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { play } from './executors.mjs';
import { Fatal, Metrics } from './metrics.mjs';
import { VU } from './vu.mjs';

const THRESHOLDS_FAILED = 99;
const SCRIPT_EXCEPTION = 107;
const UNKNOWN = 70;
const OPTIONS = ['scenarios', 'thresholds', 'summaryTrendStats'];

class Run {
  metrics = new Metrics();
  env = process.env;
  quirks = (process.env.K6_STANDIN_QUIRKS ?? '').split(',');
  data = undefined; // of setup, as JSON
  #users = 0;

  constructor(path) {
    this.path = resolve(path);
  }

  async user(id = ++this.#users) {
    const vu = new VU(this, id);
    await vu.load(this.path);
    return vu;
  }

  users(count) {
    return Promise.all(Array.from({ length: count }, () => this.user()));
  }

  /** uncaught tells of an exception in an iteration, which does not fail the run. */
  uncaught(error) {
    if (error instanceof Fatal) this.fatal(error);
    console.error(`ERRO: Uncaught ${error?.stack ?? error}`);
  }

  fatal(error) {
    console.error(`FATAL: ${error.stack}`);
    process.exit(UNKNOWN);
  }

  /** once runs setup or teardown, if there is one. */
  async once(vu, name) {
    if (!vu.exports[name]) return undefined;
    const { value, error } = await vu.call(name, name, this.data);
    if (error) throw error;
    return value;
  }

  /** start resolves to the exit code. */
  async start() {
    const first = await this.user(0);
    const options = first.exports.options ?? {};
    for (const option of Object.keys(options)) {
      if (!OPTIONS.includes(option)) throw new Fatal(`the stand-in for k6 does not know the option ${option}`);
    }
    // What the script's world made is looked at as JSON, as k6 does.
    const { scenarios, thresholds = {} } = JSON.parse(JSON.stringify(options));
    const check = this.metrics.thresholds(thresholds);
    const data = await this.once(first, 'setup');
    this.data = data === undefined ? undefined : JSON.stringify(data);
    await Promise.all(Object.entries(scenarios).map(([name, config]) => play(this, name, config)));
    await this.once(await this.user(0), 'teardown');
    this.results = check();
    return this.results.every(({ holds }) => holds) ? 0 : THRESHOLDS_FAILED;
  }

  report() {
    for (const name of this.metrics.names()) {
      const values = Object.entries(this.metrics.values(name)).filter(([, value]) => typeof value === 'number');
      console.log(`${name.padEnd(34, '.')} ${values.map(([key, value]) => `${key}=${Math.round(value * 1000) / 1000}`).join(' ')}`);
    }
    for (const { target, expression, value, holds } of this.results) console.log(`${holds ? '✓' : '✗'} ${target} ${expression} (${value})`);
  }

  summary() {
    return Object.fromEntries(this.metrics.names().map((name) => [name, this.metrics.values(name)]));
  }
}

const args = process.argv.slice(2);
const path = args.pop();
if (args.shift() !== 'run' || !path) {
  console.error('usage: k6.mjs run [--summary-export file] script.js');
  process.exit(1);
}
const run = new Run(path);
process.on('unhandledRejection', (error) => run.uncaught(error));
let code;
try {
  code = await run.start();
  run.report();
} catch (error) {
  if (error instanceof Fatal || error instanceof SyntaxError || error?.name === 'SyntaxError') run.fatal(error);
  console.error(`ERRO: ${error?.stack ?? error}`);
  code = SCRIPT_EXCEPTION;
}
if (args[0] === '--summary-export') writeFileSync(args[1], JSON.stringify(run.summary()));
process.exit(code);
