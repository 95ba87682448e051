// The modules of k6 that the scripts may import, for one virtual user. What is not here ends
// the run: a script that needs more needs more of this, checked against k6's documentation.

import { Buffer } from 'node:buffer';
import { createHmac, randomBytes } from 'node:crypto';
import Socket from 'ws';
import { request } from './http.mjs';
import { Fatal } from './metrics.mjs';

// only refuses every property that target does not have.
function only(what, target) {
  const check = (property) => {
    if (typeof property === 'string' && !(property in target) && property !== 'then' && property !== 'toJSON') {
      throw new Fatal(`the stand-in for k6 does not know ${what}.${property}`);
    }
  };
  return new Proxy(target, {
    get(object, property) {
      check(property);
      const value = Reflect.get(object, property, object);
      // A method must be called on the object itself, which has its private fields.
      return typeof value === 'function' && !Object.hasOwn(object, property) ? value.bind(object) : value;
    },
    set(object, property, value) {
      check(property);
      return Reflect.set(object, property, value, object);
    },
  });
}

function options(what, given, known) {
  for (const name of Object.keys(given ?? {})) {
    if (!known.includes(name)) throw new Fatal(`the stand-in for k6 does not know ${name} of ${what}`);
  }
  return given ?? {};
}

const text = (what, value) => {
  if (typeof value !== 'string') throw new Fatal(`${what} must be a string here, not ${typeof value}`);
  return value;
};

const unpadded = (base64) => base64.replace(/=+$/, '');
const urlSafe = (base64) => base64.replaceAll('+', '-').replaceAll('/', '_');
const VARIANTS = { std: (s) => s, rawstd: unpadded, url: urlSafe, rawurl: (s) => unpadded(urlSafe(s)) };
const ENCODINGS = { base64: VARIANTS.std, base64url: VARIANTS.url, base64rawurl: VARIANTS.rawurl };

/** modules are those of k6 as vu sees them: specifier to named exports and default. */
export function modules(vu) {
  const inInit = () => vu.phase === 'init';
  const running = (what) => {
    if (inInit()) throw new Fatal(`${what} cannot be used in the init context`);
  };

  const metric = (type) => class {
    constructor(name, isTime = false) {
      if (!inInit()) throw new Fatal(`the metric ${name} must be made in the init context`);
      this.name = name;
      vu.run.metrics.define(name, type, isTime);
      return only(type, this);
    }

    add(value, tags) {
      running(`${this.name}.add`);
      vu.run.metrics.add(this.name, value, tags);
    }
  };

  const call = (method, url, body, given) => {
    running(`http.${method}`);
    // In k6 it keeps its virtual user waiting; here it would keep all of them.
    if (vu.phase === 'vu') throw new Fatal('the stand-in for k6 makes HTTP requests in setup and teardown only');
    const params = options('the params of http', given, ['headers', 'tags', 'timeout']);
    const headers = { ...params.headers };
    let data = body ?? undefined;
    if (data !== undefined && typeof data !== 'string') {
      data = new URLSearchParams(Object.entries(data).map(([name, value]) => [name, text(`the field ${name}`, value)])).toString();
      headers['Content-Type'] ??= 'application/x-www-form-urlencoded';
    }
    const answer = request({ method, url: text('the URL', url), headers, body: data, timeout: milliseconds(params.timeout ?? '60s') });
    return only('the response', {
      ...answer,
      json(selector) {
        const value = JSON.parse(answer.body);
        if (selector === undefined) return value;
        if (!/^\w+$/.test(selector)) throw new Fatal(`the stand-in for k6 does not know the selector ${selector}`);
        return value[selector];
      },
    });
  };

  return {
    k6: named('k6', {
      fail(message = '') { throw new vu.Error(message); },
      check(value, sets) {
        running('check');
        return Object.values(sets).map((passes) => Boolean(passes(value))).every(Boolean);
      },
    }),
    'k6/crypto': named('k6/crypto', {
      hmac(algorithm, secret, input, encoding) {
        if (algorithm !== 'sha256') throw new Fatal(`the stand-in for k6 does not know the algorithm ${algorithm}`);
        const sum = createHmac('sha256', text('the secret', secret)).update(text('the input', input));
        if (encoding === 'hex') return sum.digest('hex');
        if (!ENCODINGS[encoding]) throw new Fatal(`the stand-in for k6 does not know the encoding ${encoding}`);
        return ENCODINGS[encoding](sum.digest('base64'));
      },
      randomBytes: (size) => new Uint8Array(randomBytes(size)).buffer,
    }),
    'k6/encoding': named('k6/encoding', {
      b64encode(input, variant = 'std') {
        if (!VARIANTS[variant]) throw new Fatal(`the stand-in for k6 does not know the variant ${variant}`);
        return VARIANTS[variant](Buffer.from(text('the input', input)).toString('base64'));
      },
    }),
    'k6/execution': named('k6/execution', execution(vu, running)),
    'k6/http': named('k6/http', {
      get: (url, params) => call('GET', url, null, params),
      post: (url, body, params) => call('POST', url, body, params),
      del: (url, body, params) => call('DELETE', url, body, params),
    }),
    'k6/metrics': named('k6/metrics', { Counter: metric('counter'), Gauge: metric('gauge'), Rate: metric('rate'), Trend: metric('trend') }),
    'k6/websockets': named('k6/websockets', { WebSocket: webSocket(vu, running) }),
  };
}

function named(name, exports) {
  return { ...exports, default: only(name, exports) };
}

// execution is k6/execution; most of it is there only while an iteration runs.
function execution(vu, running) {
  const part = (name, fields) => only(`exec.${name}`, Object.defineProperties({}, Object.fromEntries(
    Object.entries(fields).map(([field, get]) => [field, {
      enumerable: true,
      get() {
        running(`exec.${name}.${field}`);
        if (name === 'scenario' && !vu.scenario) throw new vu.Error(`exec.${name} is there only in a scenario`);
        return get();
      },
    }]),
  )));
  return {
    vu: part('vu', {
      idInTest: () => vu.id,
      idInInstance: () => vu.id,
      iterationInInstance: () => vu.iterations - 1,
      iterationInScenario: () => vu.iterations - 1,
    }),
    scenario: part('scenario', {
      name: () => vu.scenario.name,
      executor: () => vu.scenario.executor,
      startTime: () => vu.scenario.startTime,
      iterationInTest: () => vu.iterationInTest,
      iterationInInstance: () => vu.iterationInTest,
    }),
  };
}

const EVENTS = ['open', 'message', 'ping', 'pong', 'close', 'error'];

// webSocket is the class of k6/websockets, of which vu keeps those that are open: an iteration
// is not over before they are closed, and one that is interrupted closes them.
function webSocket(vu, running) {
  return class WebSocket {
    #socket;
    #listeners = Object.fromEntries(EVENTS.map((event) => [event, []]));
    #failure = '';

    constructor(url, protocols = null, params = null) {
      running('WebSocket');
      if (!/^wss?:\/\/[^/]/.test(text('the URL', url))) throw new vu.Error(`invalid URL: ${url}`);
      if (protocols !== null) throw new Fatal('k6 does not implement the protocols of a WebSocket');
      const { headers } = options('the params of WebSocket', params, ['headers', 'tags']);
      this.url = url;
      for (const event of EVENTS) this[`on${event}`] = null;
      const socket = new Socket(url, { headers, perMessageDeflate: false });
      this.#socket = socket;
      const forget = vu.hold(() => socket.terminate());
      socket.on('open', () => this.#emit('open'));
      socket.on('ping', () => this.#emit('ping'));
      socket.on('pong', () => this.#emit('pong'));
      socket.on('message', (data, binary) => {
        if (binary) vu.run.fatal(new Fatal('the stand-in for k6 does not know binary messages'));
        else this.#emit('message', { data: data.toString() });
      });
      socket.on('error', (err) => { this.#failure = err.message || err.code || String(err); });
      socket.on('close', (code, reason) => {
        // k6's documentation has a close event for 1000 and for closes of one's own, so a
        // script must be ready for an error event with any other, and for that alone.
        const abnormal = this.#failure || (![1000, 1001, 1005].includes(code) && `websocket: close ${code}: ${reason}`);
        if (abnormal) this.#emit('error', { error: abnormal });
        if (!abnormal || !vu.run.quirks.includes('no-close-event')) this.#emit('close', { code, reason: reason.toString() });
        forget();
      });
      return only('WebSocket', this);
    }

    #emit(type, fields = {}) {
      vu.enter(() => {
        const event = only(`the ${type} event`, { type, timestamp: Date.now(), ...fields });
        for (const handler of [this[`on${type}`], ...this.#listeners[type]]) handler?.(event);
      });
    }

    get readyState() {
      return this.#socket.readyState;
    }

    send(data) {
      if (this.#socket.readyState !== 1) throw new vu.Error('InvalidStateError: the WebSocket is not open');
      this.#socket.send(text('what is sent', data));
    }

    close(code = 1000, reason = '') {
      this.#socket.close(code, reason);
    }

    addEventListener(event, handler) {
      if (!EVENTS.includes(event)) throw new vu.Error(`unknown event: ${event}`);
      this.#listeners[event].push(handler);
    }
  };
}

/** milliseconds of a duration as k6 writes it, like 1m30s or 500ms; a number is of milliseconds. */
export function milliseconds(duration) {
  if (typeof duration === 'number' && duration >= 0) return duration;
  const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };
  const parts = [...String(duration).matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)];
  if (!parts.length || parts.map(([all]) => all).join('') !== duration) throw new Fatal(`"${duration}" is no duration`);
  return parts.reduce((sum, [, value, unit]) => sum + Number(value) * units[unit], 0);
}
