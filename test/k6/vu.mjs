// One virtual user: the script in a world of its own, with what k6 puts there and no more.

import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { inspect } from 'node:util';
import { createContext, runInContext, SourceTextModule, SyntheticModule } from 'node:vm';
import { Fatal } from './metrics.mjs';
import { modules } from './modules.mjs';

// What V8 has and the engine of k6 has not.
const NOT_IN_K6 = ['Atomics', 'FinalizationRegistry', 'Intl', 'SharedArrayBuffer', 'WebAssembly', 'WeakRef', 'escape', 'unescape'];

export class VU {
  phase = 'init'; // then setup, vu or teardown
  iterations = 0;
  iterationInTest = -1;
  scenario = null;
  #held = new Set(); // what ends the timers and sockets that are open
  #context;
  #loaded = new Map(); // path or specifier to module
  #api = modules(this);
  #settle = null; // called when the iteration may be over

  constructor(run, id) {
    this.run = run;
    this.id = id;
    const say = (level) => (...args) => console.error(`${level}: ${args.map((arg) => (typeof arg === 'string' ? arg : inspect(arg))).join(' ')}`);
    this.#context = createContext({
      __ENV: { ...run.env },
      __VU: id,
      __ITER: 0,
      console: { log: say('INFO'), info: say('INFO'), warn: say('WARN'), error: say('ERRO'), debug() {} },
      ...this.#timers(),
    });
    for (const name of NOT_IN_K6) delete this.#context[name];
    runInContext(NOT_IN_K6.map((name) => `delete globalThis.${name};`).join(''), this.#context);
    this.Error = runInContext('Error', this.#context);
  }

  /** load runs the init context; the exports of the script are in exports then. */
  async load(path) {
    const link = (specifier, from) => this.#module(specifier, from.identifier);
    const script = this.#module(path, path);
    await script.link(link);
    const evaluated = script.evaluate();
    // k6 lets nothing that waits into the init context.
    if (await Promise.race([evaluated.then(() => false), new Promise((done) => { setImmediate(done, true); })])) {
      throw new Fatal('the init context waits for something');
    }
    if (this.#held.size) throw new Fatal('the init context left timers behind');
    this.exports = script.namespace;
  }

  #module(specifier, from) {
    const api = this.#api[specifier];
    if (!api && !/^\.{0,2}\//.test(specifier)) throw new Fatal(`the stand-in for k6 has no module ${specifier}`);
    const id = api ? specifier : resolve(dirname(from), specifier);
    if (!this.#loaded.has(id)) {
      this.#loaded.set(id, api
        ? new SyntheticModule(Object.keys(api), function set() {
          for (const name of Object.keys(api)) this.setExport(name, api[name]);
        }, { identifier: id, context: this.#context })
        : new SourceTextModule(readFileSync(id, 'utf8'), { identifier: id, context: this.#context }));
    }
    return this.#loaded.get(id);
  }

  #timers() {
    let last = 0;
    const stops = new Map();
    const start = (set, unset, repeats) => (callback, delay = 0, ...args) => {
      if (this.phase === 'init') throw new Fatal('timers cannot be used in the init context');
      const id = ++last;
      const timer = set(() => {
        if (!repeats) stops.get(id)?.();
        this.enter(() => callback(...args));
      }, delay);
      const forget = this.hold(() => unset(timer));
      stops.set(id, () => {
        unset(timer);
        stops.delete(id);
        forget();
      });
      return id;
    };
    const stop = (id) => stops.get(id)?.();
    return {
      setTimeout: start(setTimeout, clearTimeout, false), clearTimeout: stop,
      setInterval: start(setInterval, clearInterval, true), clearInterval: stop,
    };
  }

  /** hold keeps the iteration going until the function that it returns is called; end is called if it is interrupted. */
  hold(end) {
    this.#held.add(end);
    return () => {
      this.#held.delete(end);
      // What was just called may go on in a promise that starts another timer.
      setImmediate(() => this.#settle?.());
    };
  }

  /** enter runs a callback of the script. One that throws ends the iteration, as in k6. */
  enter(callback) {
    if (!this.#settle) return; // interrupted
    try {
      callback();
    } catch (err) {
      this.#settle(err);
    }
  }

  /** call runs a function of the script until it and all that it started are over. It resolves to {value, error, interrupted}. */
  call(name, phase, data, deadline = Infinity) {
    const fn = this.exports[name];
    if (typeof fn !== 'function') throw new Fatal(`the script exports no function ${name}`);
    this.phase = phase;
    const argument = data === undefined ? undefined : runInContext('JSON.parse', this.#context)(data);
    return new Promise((done) => {
      let value;
      let returned = false;
      const over = (result) => {
        if (!this.#settle) return;
        this.#settle = null;
        clearTimeout(timer);
        for (const end of this.#held) end();
        this.#held.clear();
        done(result);
      };
      const timer = deadline < Infinity ? setTimeout(() => over({ interrupted: true }), deadline - Date.now()) : undefined;
      this.#settle = (error) => {
        if (error) over({ error });
        else if (returned && !this.#held.size) over({ value });
        else if (!returned && !this.#held.size) this.#stalled(() => over({ error: new Error('waits for what never comes') }), () => returned);
      };
      const back = (result) => {
        value = result;
        returned = true;
        setImmediate(() => this.#settle?.());
      };
      try {
        Promise.resolve(fn(argument)).then(back, (error) => over({ error: error ?? new Error('rejected') }));
      } catch (error) {
        over({ error });
      }
    });
  }

  // With no timer and no socket left, a promise that is not settled soon never is.
  #stalled(end, returned) {
    setTimeout(() => {
      if (!returned() && !this.#held.size) end();
    }, 100);
  }
}
