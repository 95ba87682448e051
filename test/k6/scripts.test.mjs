// The scripts of loadtest/k6 against the real binary: run by the stand-in for k6, and by k6
// itself where it is installed.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { credentials, Node, start, until } from '../gateway.mjs';
import { faulty } from './faulty.mjs';
import { broken, real, scripts, standIn, version } from './run.mjs';

const NAMES = ['connect', 'subscribe', 'churn'];
const script = (name) => `${scripts}${name}.js`;

let gateway;
before(async () => { gateway = await start(); });
after(() => gateway?.stop());

// Nothing here fails for being slow.
const PATIENT = {
  WELCOME_P95: '60000', WELCOME_P99: '60000', EVENT_P95: '60000', EVENT_P99: '60000',
  WELCOME_TIMEOUT: '60s', ANSWER_TIMEOUT: '60s', EVENT_TIMEOUT: '60s', SETTLE: '60s',
};
const CHURN = { RAMP: '2.5s' }; // on a machine that is busy the watchers take a while to come

const settings = (more = {}) => ({
  SHORT: '1',
  ...PATIENT,
  ROLLCALL_URL: gateway.url,
  ROLLCALL_ACCOUNT_SID: credentials.account,
  ROLLCALL_AUTH_TOKEN: credentials.authToken,
  ROLLCALL_API_KEY_SID: credentials.key,
  ROLLCALL_API_KEY_SECRET: credentials.secret,
  ...more,
});

async function rest(method, path, form, url = gateway.url) {
  const res = await fetch(`${url}/v1/${path}`, {
    method,
    headers: { Authorization: `Basic ${btoa(`${credentials.account}:${credentials.authToken}`)}` },
    body: form && new URLSearchParams(form),
  });
  return res.status === 204 ? null : res.json();
}

// nobody is a URL at which nobody listens.
async function nobody() {
  const proxy = await faulty(gateway.url, (message) => [message]);
  await proxy.stop();
  return proxy.url;
}

// loadTests are the services that scripts made and have not deleted yet.
const loadTests = async (url) => (await rest('GET', 'Services?PageSize=50', undefined, url)).services.filter((service) => service.friendly_name.startsWith('load test'));

describe('the scripts, run by the stand-in', { concurrency: true }, () => {
  const passes = (name, check, env) => test(`${name}.js passes`, async () => {
    const { code, output, summary } = await standIn(script(name), settings(env));
    assert.equal(code, 0, output);
    assert.deepEqual(broken(output), []);
    assert.doesNotMatch(output, /Uncaught|WARN|ERRO/);
    check(summary);
  });

  passes('connect', (summary) => {
    assert.ok(summary.rollcall_welcomed.samples >= 3, JSON.stringify(summary));
    assert.equal(summary.rollcall_welcome_time.samples, summary.rollcall_welcomed.samples);
  });
  passes('subscribe', (summary) => {
    assert.equal(summary.rollcall_subscribed_right.samples, 8); // two groups of four
    assert.equal(summary.rollcall_events_seen.samples, 4 * summary.rollcall_changes.count);
    assert.ok(summary.rollcall_changes.count >= 2, JSON.stringify(summary));
  });
  passes('churn', (summary) => {
    assert.equal(summary.rollcall_events_seen.count, summary.rollcall_events_expected.count);
    assert.ok(summary.rollcall_events_expected.count >= 4 * 2 * 24, JSON.stringify(summary)); // four watchers; 8 a second for most of 5 s
  }, CHURN);

  test('a service that is given is used, and stays', async () => {
    const { sid } = await rest('POST', 'Services', { FriendlyName: 'given' });
    const off = await standIn(script('connect'), settings({ ROLLCALL_SERVICE_SID: sid }));
    assert.equal(off.code, 107, off.output);
    assert.match(off.output, /turn reachability on/);
    await rest('POST', `Services/${sid}/Configuration`, { ReachabilityEnabled: 'true' });
    const on = await standIn(script('connect'), settings({ ROLLCALL_SERVICE_SID: sid, VUS: '3', DURATION: '1s' }));
    assert.equal(on.code, 0, on.output);
    const { users } = await rest('GET', `Services/${sid}/Users`);
    assert.equal(users.length, 3);
  });
});

test('the services that were made are deleted', async () => {
  assert.deepEqual(await loadTests(), []);
});

describe('what is wrong is found', { concurrency: 8 }, () => {
  for (const name of NAMES) {
    test(`${name}.js: a wrong secret`, async () => {
      const { code, output, summary } = await standIn(script(name), settings({ ROLLCALL_API_KEY_SECRET: 'wrong', DURATION: '1s', RAMP: '0.5s' }));
      assert.equal(code, 99, output);
      assert.ok(broken(output).includes('rollcall_welcomed'), output);
      assert.match(output, /error 20107 Invalid Access Token signature/);
      assert.match(output, /ended with 3500/);
      assert.equal(summary.rollcall_welcomed.rate, 0);
      assert.ok(summary.rollcall_unexpected_closes.count > 0);
    });
  }

  test('a close that is told as an error alone', async () => {
    const { code, output } = await standIn(script('connect'), settings({
      ROLLCALL_API_KEY_SECRET: 'wrong', DURATION: '1s', K6_STANDIN_QUIRKS: 'no-close-event',
    }));
    assert.equal(code, 99, output);
    assert.match(output, /ended with 3500 websocket: close 3500/);
  });

  test('wrong credentials for REST', async () => {
    const { code, output } = await standIn(script('connect'), settings({ ROLLCALL_AUTH_TOKEN: 'wrong' }));
    assert.equal(code, 107, output);
    assert.match(output, /no service was made: 401/);
  });

  for (const env of [{}, { ROLLCALL_SERVICE_SID: `IS${'0'.repeat(32)}` }]) {
    test(`a node that is down${env.ROLLCALL_SERVICE_SID ? ', with a service given' : ''}`, async () => {
      const { code, output } = await standIn(script('connect'), settings({ ROLLCALL_URL: await nobody(), ...env }));
      assert.equal(code, 107, output);
      assert.match(output, /ECONNREFUSED/);
    });
  }

  test('a node that dies meanwhile', async () => {
    const node = new Node();
    await node.start();
    try {
      const running = standIn(script('connect'), settings({ ROLLCALL_URL: node.url, DURATION: '6s' }));
      const users = async () => {
        const service = (await loadTests(node.url))[0];
        return service ? (await rest('GET', `Services/${service.sid}/Users`, undefined, node.url)).users?.length : 0;
      };
      await until(users, (seen) => seen > 0, 30_000);
      await node.kill();
      const { code, output } = await running;
      assert.ok(code === 99 || code === 107, output); // thresholds, or the service that cannot be deleted
      assert.match(output, /ended with 1006/);
      assert.match(output, /was not deleted/);
    } finally {
      await node.stop();
    }
  });

  test('a node that takes too few connections', async () => {
    const node = new Node({ env: { ROLLCALL_ACCEPT_RATE: '1', ROLLCALL_ACCEPT_BURST: '1' } });
    await node.start();
    try {
      const { code, output } = await standIn(script('connect'), settings({ ROLLCALL_URL: node.url }));
      assert.equal(code, 99, output);
      assert.ok(broken(output).includes('rollcall_welcomed'), output);
      assert.match(output, /503/);
    } finally {
      await node.stop();
    }
  });

  let calls = 0;
  const every = (n) => (calls = (calls + 1) % n) === 0;
  const updates = (change) => (message) => (message.type === 'user.updated' ? change(message) : [message]);
  const faults = {
    'an update that is lost': { spoil: updates((m) => (every(5) ? [] : [m])), subscribe: 'rollcall_events_seen', churn: 'rollcall_event_balance' },
    'an update that comes twice': { spoil: updates((m) => [m, m]), subscribe: 'rollcall_revisions_out_of_order', churn: 'rollcall_revisions_out_of_order' },
    'an update that says the contrary': {
      spoil: updates((m) => [{ ...m, user: { ...m.user, is_online: !m.user.is_online } }]), subscribe: 'rollcall_events_seen', churn: 'rollcall_event_balance',
    },
    'a leave that is lost': { spoil: updates((m) => (m.user.is_online ? [m] : [])), subscribe: 'rollcall_events_seen', churn: 'rollcall_views_true' },
    'a snapshot of others': {
      spoil: (m) => [m.type === 'subscribed' ? { ...m, users: m.users.toReversed() } : m], subscribe: 'rollcall_subscribed_right',
    },
  };
  for (const [what, { spoil, ...finds }] of Object.entries(faults)) {
    for (const [name, metric] of Object.entries(finds)) {
      test(`${name}.js: ${what}`, async () => {
        const proxy = await faulty(gateway.url, spoil);
        try {
          const { code, output } = await standIn(script(name), settings({ ...(name === 'churn' && CHURN), ROLLCALL_URL: proxy.url, DURATION: '2s', EVENT_TIMEOUT: '0.5s', SETTLE: '1s' }));
          assert.equal(code, 99, output);
          assert.ok(broken(output).includes(metric), output);
        } finally {
          await proxy.stop();
        }
      });
    }
  }

  test('a bound that is too tight', async () => {
    const { code, output } = await standIn(script('subscribe'), settings({ DURATION: '1s', EVENT_P95: '0', WELCOME_P99: '0' }));
    assert.equal(code, 99, output);
    for (const metric of ['rollcall_event_time', 'rollcall_welcome_time']) assert.ok(broken(output).includes(metric), output);
  });

  for (const [env, says] of [
    [{ VUS: '0' }, /VUS must be a whole number/], [{ VUS: 'x' }, /VUS must be/], [{ DURATION: '6h' }, /DURATION must be a time/],
    [{ DURATION: '5 min' }, /DURATION must be/], [{ MIN_SHARE: '2' }, /MIN_SHARE must be/], [{ ROLLCALL_URL: 'localhost:8080' }, /ROLLCALL_URL must be/],
  ]) {
    test(`settings like ${JSON.stringify(env)}`, async () => {
      const { code, output } = await standIn(script('connect'), settings(env));
      assert.equal(code, 107, output);
      assert.match(output, says);
    });
  }
});

test('README.md has every setting and every threshold, and the credentials are those of make run', () => {
  const readme = readFileSync(`${scripts}README.md`, 'utf8');
  const files = readdirSync(scripts).filter((file) => file.endsWith('.js')).map((file) => [file, readFileSync(scripts + file, 'utf8')]);
  const all = files.map(([, source]) => source).join('\n');
  const used = new Set([
    ...[...all.matchAll(/\b(?:count|seconds|bound)\('([A-Z_]+)'/g)].map(([, name]) => name),
    ...[...all.matchAll(/\b__ENV\.([A-Z_]+)/g)].map(([, name]) => name),
    ...[...all.matchAll(/\btimes\('([A-Z_]+)'/g)].flatMap(([, name]) => [`${name}_P95`, `${name}_P99`]),
  ]);
  assert.ok(used.size > 15);
  const written = new Set([...readme.matchAll(/^\| `([A-Z][A-Z0-9_]+)`/gm)].map(([, name]) => name));
  assert.deepEqual([...written].sort(), [...used].sort());
  const metrics = new Set([...all.matchAll(/new (?:Rate|Trend|Counter)\('(\w+)'/g)].map(([, name]) => name));
  for (const metric of metrics) assert.ok(readme.includes(`\`${metric}\``), `README.md does not tell what ${metric} is`);

  const development = readFileSync(new URL('../../configs/load.go', import.meta.url), 'utf8').matchAll(/Dev\w+\s*=\s*"((?:AC|SK)?dec0de\w+)"/g);
  const values = [...development].map(([, value]) => value);
  assert.equal(values.length, 4);
  for (const value of values) assert.ok(all.includes(`'${value}'`), value);
});

describe('the scripts, run by k6 itself', { concurrency: true }, () => {
  const k6 = version();
  test(`k6 is ${k6 || 'not on PATH: what follows was not run by it, but by the stand-in alone'}`, (t) => t.diagnostic(k6 || 'no k6 on PATH'));
  for (const name of NAMES) {
    test(`${name}.js passes with k6`, { skip: !k6 && 'k6 is not on PATH' }, async () => {
      const { code, output } = await real(script(name), settings(name === 'churn' ? CHURN : {}));
      assert.equal(code, 0, output);
      assert.doesNotMatch(output, /Uncaught|TypeError|ReferenceError/);
    });
  }
});
