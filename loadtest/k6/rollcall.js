// What the scripts share: settings, access tokens, the service under load, and a session of
// the native protocol (docs/protocol.md). Needs k6 1.6 or newer, for k6/websockets.

import { fail } from 'k6';
import crypto from 'k6/crypto';
import encoding from 'k6/encoding';
import http from 'k6/http';
import { Counter, Rate, Trend } from 'k6/metrics';
import { WebSocket } from 'k6/websockets';

// ---- settings

export const short = ['1', 'true'].includes(__ENV.SHORT);

/** count is a setting that is a whole number, of which the form for SHORT=1 has another default. */
export function count(name, usual, brief = usual) {
  const value = Number(__ENV[name] || (short ? brief : usual));
  if (!Number.isInteger(value) || value < 1) throw new Error(`${name} must be a whole number, 1 or more, not "${__ENV[name]}"`);
  return value;
}

/** seconds is a setting that is a time: 90, 90s, 1.5s or 1m30s; five hours at most, so that no run is without end. */
export function seconds(name, usual, brief = usual) {
  const text = String(__ENV[name] || (short ? brief : usual));
  const [all, hours, minutes, secs] = /^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?$/.exec(text) || [''];
  const value = Number(hours || 0) * 3600 + Number(minutes || 0) * 60 + Number(secs || 0);
  if (!all || !(value > 0) || value > 5 * 3600) throw new Error(`${name} must be a time above 0 and up to 5h, like 90s or 1m30s, not "${text}"`);
  return value;
}

/** span is so many seconds as options of k6 want them. */
export const span = (value) => `${Math.round(value * 1000)}ms`;

// bound is a setting that goes into a threshold.
function bound(name, usual) {
  const value = Number(__ENV[name] || usual);
  if (!(value >= 0)) throw new Error(`${name} must be a number, not "${__ENV[name]}"`);
  return value;
}

// The defaults are the development credentials, which a node without any configuration uses.
const url = (__ENV.ROLLCALL_URL || 'http://127.0.0.1:8080').replace(/\/+$/, '');
const account = __ENV.ROLLCALL_ACCOUNT_SID || 'ACdec0de00000000000000000000000001';
const authToken = __ENV.ROLLCALL_AUTH_TOKEN || 'dec0de00000000000000000000000002';
const key = __ENV.ROLLCALL_API_KEY_SID || 'SKdec0de00000000000000000000000003';
const secret = __ENV.ROLLCALL_API_KEY_SECRET || 'dec0de00000000000000000000000004';
const givenService = __ENV.ROLLCALL_SERVICE_SID || '';

if (!/^https?:\/\/[^/?#]+$/.test(url)) throw new Error(`ROLLCALL_URL must be http:// or https:// with a host, not "${url}"`);

const TOKEN_S = 6 * 3600;
const AFTER_ERROR_MS = 2000; // for the close event after an error event
const WELCOME_MS = seconds('WELCOME_TIMEOUT', 35, 10) * 1000; // a node lets sessions wait 30 s while Redis is away
const ANSWER_MS = seconds('ANSWER_TIMEOUT', 10) * 1000; // also for the server's close after a bye
const WARNINGS = 3; // of each kind, of each virtual user

// ---- metrics and thresholds

export const welcomed = new Rate('rollcall_welcomed');
const welcomeTime = new Trend('rollcall_welcome_time', true);
const openTime = new Trend('rollcall_open_time', true);
const unexpectedCloses = new Counter('rollcall_unexpected_closes');
const errors = new Counter('rollcall_errors');
const outOfOrder = new Counter('rollcall_revisions_out_of_order');
const pings = new Counter('rollcall_pings');

/** share is the least share of what must come that has to come. */
export const share = bound('MIN_SHARE', 0.999);
if (share > 1) throw new Error('MIN_SHARE must be from 0 to 1');

/** times are the bounds on a trend, as thresholds, from settings called like name_P95. */
export const times = (name) => [`p(95)<${bound(`${name}_P95`, 500)}`, `p(99)<${bound(`${name}_P99`, 1000)}`];

/** thresholds are those of every script. */
export const thresholds = {
  iterations: ['count>0'], // without any, nothing was measured
  rollcall_welcomed: [`rate>=${share}`],
  rollcall_welcome_time: times('WELCOME'),
  rollcall_unexpected_closes: [`count<=${bound('MAX_UNEXPECTED_CLOSES', 0)}`],
  rollcall_errors: [`count<=${bound('MAX_ERRORS', 0)}`],
  rollcall_revisions_out_of_order: ['count<1'],
};

export const summaryTrendStats = ['min', 'med', 'avg', 'p(95)', 'p(99)', 'max'];

const warned = {};
function warn(kind, text) {
  warned[kind] = (warned[kind] || 0) + 1;
  if (warned[kind] <= WARNINGS) console.warn(text);
}

// ---- the service

const params = (name) => ({
  headers: { Authorization: `Basic ${encoding.b64encode(`${account}:${authToken}`)}` },
  tags: { name },
  timeout: ANSWER_MS,
});

const refused = (what, res) => `${what}: ${res.status ? `${res.status} ${res.body}` : res.error} (${url})`;

/**
 * begin is for setup: it makes a service whose reachability is on, unless one is given, and
 * a prefix for the identities of this run.
 */
export function begin() {
  const prefix = `k6-${Date.now().toString(36)}-${Math.floor(Math.random() * 1e9).toString(36)}`;
  const configuration = (service) => `${url}/v1/Services/${service}/Configuration`;
  if (givenService) {
    const res = http.get(configuration(givenService), params('FetchServiceConfiguration'));
    if (res.status !== 200) fail(refused('the service cannot be read', res));
    if (!res.json('reachability_enabled')) fail(`turn reachability on for ${givenService}: ReachabilityEnabled=true`);
    return { service: givenService, prefix, made: false };
  }
  const made = http.post(`${url}/v1/Services`, { FriendlyName: `load test ${prefix}` }, params('CreateService'));
  if (made.status !== 201) fail(refused('no service was made', made));
  const data = { service: made.json('sid'), prefix, made: true };
  const on = http.post(configuration(data.service), { ReachabilityEnabled: 'true' }, params('UpdateServiceConfiguration'));
  if (on.status !== 200) {
    end(data); // k6 calls no teardown after a setup that failed
    fail(refused('reachability was not turned on', on));
  }
  return data;
}

/** end is for teardown: it deletes the service that begin made. */
export function end(data) {
  if (!data.made) return;
  const res = http.del(`${url}/v1/Services/${data.service}`, null, params('DeleteService'));
  if (res.status !== 204) fail(refused(`the service ${data.service} was not deleted`, res));
}

/** mint makes an access token, as auth.Mint and the helper libraries do. */
export function mint(service, identity) {
  const now = Math.floor(Date.now() / 1000);
  const part = (value) => encoding.b64encode(JSON.stringify(value), 'rawurl');
  const signed = `${part({ alg: 'HS256', typ: 'JWT', cty: 'twilio-fpa;v=1' })}.${part({
    jti: `${key}-${now}-${Math.random().toString(36).slice(2)}`,
    iss: key,
    sub: account,
    iat: now,
    exp: now + TOKEN_S,
    grants: { identity, chat: { service_sid: service } },
  })}`;
  return `${signed}.${crypto.hmac('sha256', secret, signed, 'base64rawurl')}`;
}

// ---- a session

/** pause resolves after so many seconds. */
export const pause = (secs) => new Promise((resolve) => { setTimeout(resolve, secs * 1000); });

// within resolves to what done is called with, or to undefined after so many milliseconds.
function within(ms, start) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    start((value) => {
      clearTimeout(timer);
      resolve(value);
    });
  });
}

/**
 * connect opens a session and resolves to it when its welcome came, or to null. onUser is
 * called with each user of a snapshot or an update, and with whether it was an update.
 *
 * A session that ends in any other way than by its bye counts as an unexpected close.
 */
export async function connect(data, identity, onUser = () => {}) {
  const token = mint(data.service, identity);
  const revs = Object.create(null); // identity to the highest revision seen
  const waiting = new Map(); // id of a request to who waits for its answer
  const watchers = []; // who waits for the end
  let onWelcome = () => {};
  let over = null; // {code, reason} once it ended
  let leaving = false;
  let failure = ''; // what an error event said
  let lastId = 0;
  for (const counter of [unexpectedCloses, errors, outOfOrder, pings]) counter.add(0); // so that the summary shows them

  const finish = (code, reason) => {
    if (over) return;
    over = { code, reason: reason || failure };
    if (!(leaving && code === 1000)) {
      unexpectedCloses.add(1, { code: String(code) });
      warn('end', `${identity}: the session ended with ${code} ${over.reason}`);
    }
    onWelcome(null);
    for (const done of waiting.values()) done(null);
    for (const done of watchers) done(over);
  };

  const note = (user, update) => {
    const before = revs[user.identity];
    if (before !== undefined && (update ? user.rev <= before : user.rev < before)) {
      outOfOrder.add(1);
      warn('order', `${identity}: ${user.identity} went from revision ${before} to ${user.rev}`);
    }
    revs[user.identity] = Math.max(user.rev, before || 0);
    onUser(user, update);
  };

  const began = Date.now();
  const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/v1/connect`); // without a subprotocol it is rollcall.v1.json
  let opened = false;
  const send = (message) => {
    if (!opened || over) return;
    try {
      socket.send(JSON.stringify(message));
    } catch (err) {
      failure = failure || String(err); // it is closing: who waits for an answer hears of the end
    }
  };

  socket.onopen = () => {
    opened = true;
    openTime.add(Date.now() - began);
    send({ type: 'hello', token });
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    switch (message.type) {
      case 'welcome':
        onWelcome(message);
        return;
      case 'user.updated':
        note(message.user, true);
        return;
      case 'subscribed':
        message.users.forEach((user) => note(user, false));
        break;
      case 'token.expiring':
        send({ type: 'token', token: mint(data.service, identity) });
        return;
      case 'error':
        errors.add(1, { code: String(message.code) });
        warn('error', `${identity}: error ${message.code} ${message.message}`);
        break;
      default:
    }
    const done = waiting.get(message.id);
    waiting.delete(message.id);
    if (done) done(message);
  };
  socket.onping = () => pings.add(1); // k6 answers by itself
  socket.onerror = (event) => {
    // A close event follows, or does not: a close with another code than 1000 may be told as an error alone.
    if (over) return;
    failure = String(event.error);
    const [, code] = /websocket: close (\d{4})/.exec(failure) || [];
    const timer = setTimeout(() => finish(Number(code || 1006)), AFTER_ERROR_MS);
    watchers.push(() => clearTimeout(timer));
  };
  socket.onclose = (event) => {
    const [, code] = /websocket: close (\d{4})/.exec(failure) || [];
    finish(event.code || Number(code || 1006), event.reason);
  };

  const ended = (ms) => within(ms, (done) => {
    if (over) done(over);
    else watchers.push(done);
  });
  const drop = async () => {
    if (over) return;
    try {
      socket.close();
    } catch (err) {
      failure = failure || String(err);
    }
    if (!(await ended(AFTER_ERROR_MS))) finish(1006, 'the peer did not answer the close');
  };

  const welcome = await within(WELCOME_MS, (done) => { onWelcome = done; });
  welcomed.add(Boolean(welcome));
  if (!welcome) {
    if (welcome === undefined) warn('welcome', `${identity}: no welcome in ${WELCOME_MS / 1000} s`);
    await drop();
    return null;
  }
  welcomeTime.add(Date.now() - began);

  const ask = async (message) => {
    if (over) return null;
    const id = ++lastId;
    return (await within(ANSWER_MS, (done) => {
      waiting.set(id, done);
      send(Object.assign({ id }, message));
    })) || null;
  };

  return {
    identity,
    welcome,

    /** subscribe resolves to the users of the answer, or to null if there was none. */
    async subscribe(identities) {
      const answer = await ask({ type: 'subscribe', identities });
      return answer && answer.type === 'subscribed' ? answer.users : null;
    },

    /** hold resolves after so many seconds, or when the session ended: to whether it still is. */
    async hold(secs) {
      return !(await ended(Math.max(0, secs * 1000)));
    },

    /** bye signs out, and resolves when the server has closed. */
    async bye() {
      if (over) return;
      leaving = true;
      send({ type: 'bye' });
      if (await ended(ANSWER_MS)) return;
      leaving = false;
      warn('bye', `${identity}: no close ${ANSWER_MS / 1000} s after the bye`);
      await drop();
    },
  };
}
