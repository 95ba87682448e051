// The live page in a real browser against a real gateway. Every step waits for
// what the page shows; the deadlines are those of a machine that is busy.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { mkdirSync, readFileSync } from 'node:fs';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { chromium } from 'playwright-core';
import { browser as browserOptions, credentials, start } from '../gateway.mjs';
import { folder, run } from './node.mjs';

const ARTIFACTS = new URL('./artifacts/', import.meta.url).pathname;
const WAIT_MS = 15_000;
const authorization = { Authorization: `Basic ${btoa(`${credentials.account}:${credentials.authToken}`)}` };
const SIZES = { wide: { width: 1440, height: 900 }, narrow: { width: 390, height: 844 } };

let gateway, app, browser, context, page, complaints;

before(async () => {
  mkdirSync(ARTIFACTS, { recursive: true });
  app = await serveApp();
  gateway = await start({ env: { ROLLCALL_ALLOWED_ORIGINS: app.origin } });
  browser = await chromium.launch(browserOptions);
});

after(async () => {
  await browser?.close();
  await gateway?.stop();
  app?.close();
});

// Each test has a browser profile and a service of its own.
beforeEach(async (t) => {
  context = await browser.newContext({ viewport: SIZES.wide, colorScheme: 'light' });
  page = await context.newPage();
  page.setDefaultTimeout(WAIT_MS);
  complaints = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()));
  page.on('pageerror', (err) => complaints.push(String(err)));
  t.service = await rest('POST', '/v1/Services', { FriendlyName: t.name });
});

afterEach(async (t) => {
  if (!t.passed) await page.screenshot({ path: `${ARTIFACTS}failed-${t.name.replace(/\W+/g, '-')}.png` });
  await context.close();
});

test('a newcomer sees users come and go', async (t) => {
  await signIn(t.service);

  // The switch is off, and the page says what to click.
  await page.getByRole('switch', { name: 'Reachability', checked: false }).waitFor();
  await page.getByText('No users yet').waitFor();
  await screenshots('first-look');
  await page.getByRole('button', { name: 'Turn reachability on' }).click();
  await page.getByRole('switch', { name: 'Reachability', checked: true }).waitFor();
  await page.locator('#hint-off').waitFor({ state: 'hidden' });
  assert.equal((await configuration(t.service)).reachability_enabled, true);

  // Two demo users connect.
  await page.getByLabel('Open', { exact: true }).fill('2');
  await page.getByRole('button', { name: 'Open 2', exact: true }).click();
  await row('ada', { online: 'Online', sessions: '1' });
  await row('grace', { online: 'Online', sessions: '1' });
  await page.locator('#stat-online').getByText('2', { exact: true }).waitFor();
  assert.equal((await user(t.service, 'ada')).is_online, true);

  // One leaves with a goodbye: offline at once. The other is lost: it lingers.
  await page.getByRole('button', { name: 'Close ada' }).click();
  await row('ada', { online: 'Offline', sessions: '0' });
  await page.getByRole('button', { name: 'Drop grace' }).click();
  await page.getByText(/grace dropped: shown online for up to \d+ s/).waitFor();
  await row('grace', { online: 'Online', sessions: '0, lingering' });
  await screenshots('live');
  await row('grace', { online: 'Offline', sessions: '0' });
  assert.equal((await user(t.service, 'grace')).is_online, false);
  await page.locator('#stat-offline').getByText('2', { exact: true }).waitFor();

  // It was never registered for push: unknown, which is not "no".
  await row('ada', { notifiable: 'Unknown' });

  assert.deepEqual(await feed(), ['grace went offline', 'ada went offline', 'grace came online', 'ada came online', 'Reachability turned on']
    .sort(), 'the events, in whatever order the two connected');

  // The page's own session is invisible: neither shown here nor online anywhere.
  assert.deepEqual(await identities(), ['ada', 'grace']);
  const watcher = await fetch(`${gateway.url}/v1/Services/${t.service.sid}/Users/rollcall-console`, { headers: authorization });
  assert.ok(watcher.status === 404 || (await watcher.json()).is_online === null);

  // One comes back.
  await page.getByRole('button', { name: 'Reopen grace' }).click();
  await row('grace', { online: 'Online', sessions: '1' });

  // The switch goes off: nobody is known any more.
  await page.getByRole('switch', { name: 'Reachability' }).click();
  await row('grace', { online: 'Unknown' });
  await row('ada', { online: 'Unknown' });

  // And on again: who is connected is replayed, who is not stays unknown.
  await page.getByRole('switch', { name: 'Reachability' }).click();
  await row('grace', { online: 'Online' });
  await row('ada', { online: 'Unknown' });
  assert.deepEqual(complaints, []);
});

test('wrong credentials are told apart from a gateway that is away', async () => {
  await page.goto(`${gateway.url}/console#account=${credentials.account}&secret=not-read`);
  assert.equal(await page.locator('#signin-user').inputValue(), credentials.account);
  assert.equal(await page.locator('#signin-secret').inputValue(), '');
  await page.locator('#signin-secret').fill('wrong');
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').getByText('These credentials are not valid').waitFor();

  await page.route('**/v1/Configuration', (route) => route.abort());
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('alert').getByText('The gateway does not answer').waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
});

test('credentials outlive a reload, and not a sign-out', async (t) => {
  await signIn(t.service);
  await page.reload();
  await connected();
  assert.equal(await page.locator('#service').inputValue(), t.service.sid);
  assert.ok(!page.url().includes(credentials.authToken));
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('heading', { name: 'Who is reachable right now?' }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length + localStorage.length), 0);
  assert.deepEqual(complaints, []);
});

test('an identity is text, whatever is in it', async (t) => {
  const hostile = '<img src=x onerror="document.title=1"> "&\u202e';
  await rest('POST', `/v1/Services/${t.service.sid}/Users`, { Identity: hostile, FriendlyName: '<script>document.title=1</script>' });
  await signIn(t.service);
  await page.getByText(hostile, { exact: true }).waitFor();
  assert.equal(await page.title(), 'Rollcall');
  assert.equal(await page.locator('#users img, #users script').count(), 0);
  assert.deepEqual(complaints, []);
});

test('a service made on the page, and a user made over REST, appear', async () => {
  await signIn();
  await page.getByRole('button', { name: 'New service' }).click();
  await page.getByLabel('Name').fill('Made on the page');
  await page.getByRole('button', { name: 'Create' }).click();
  await page.locator('#service option:checked').getByText('Made on the page').waitFor({ state: 'attached' });
  await connected();
  await page.getByText('No users yet').waitFor();
  const sid = await page.locator('#service').inputValue();
  await rest('POST', `/v1/Services/${sid}/Users`, { Identity: 'radia', FriendlyName: 'Radia P.' });
  await row('radia', { online: 'Unknown' });
  await page.getByText('Radia P.').waitFor();
  await page.getByRole('tab', { name: 'Connect' }).click();
  await page.getByText(`rollcall watch --service ${sid} --url ${gateway.url} `).waitFor();
  assert.deepEqual(complaints, []);
});

test('the samples of the page run as they are', async (t) => {
  const users = `/v1/Services/${t.service.sid}/Users`;
  await rest('POST', users, { Identity: "o'grace" });
  await signIn(t.service);
  await page.getByRole('tab', { name: 'Conversations SDK' }).click();
  await page.getByText(/The token is good until \d\d:\d\d:\d\d: whoever has it can connect as radia/).waitFor();
  await screenshots('sdk');
  const shown = await page.locator('#panel-sdk').textContent();
  for (const value of [gateway.url, `${gateway.url.replace('http', 'ws')}/v3/wsconnect`, credentials.account, t.service.sid, credentials.key]) {
    assert.ok(shown.includes(value), `the page does not show ${value}`);
  }

  // Who connects and who is followed can be chosen; the copy button copies what is shown.
  await page.getByLabel('Connect as').fill('ada');
  await page.getByLabel('Follow', { exact: true }).fill("o'grace");
  await page.getByRole('button', { name: 'New token' }).click();
  await page.getByText('whoever has it can connect as ada until then').waitFor();
  await context.grantPermissions(['clipboard-read', 'clipboard-write']);
  const copied = async (name) => {
    await page.getByRole('button', { name: `Copy ${name}` }).click();
    await page.getByRole('button', { name: `Copy ${name}` }).getByText('Copied').waitFor();
    const text = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(text, await page.getByRole('region', { name }).textContent());
    return text;
  };
  const first = await copied('the sample of the switch'), second = await copied('the sample of the handler');
  assert.deepEqual((first + second).match(/process\.env\.\w+/g), ['process.env.AUTH_TOKEN'], 'all is filled in but the secret');
  assert.ok(!(await page.content()).includes(credentials.authToken), 'the page shows a secret');

  const dir = folder();
  const said = await run(dir, 'switch.mjs', first, { AUTH_TOKEN: credentials.authToken }).ended();
  assert.equal(said, 'reachability true\n');
  assert.equal((await configuration(t.service)).reachability_enabled, true);
  await page.getByRole('switch', { name: 'Reachability', checked: true }).waitFor();

  const watcher = run(dir, 'updated.mjs', second);
  try {
    assert.equal(await watcher.line(), 'reachability true');
    assert.equal(await watcher.line(), "o'grace online null");
    assert.equal(await watcher.line(), "o'grace notifiable null");
    assert.equal((await user(t.service, 'ada')).is_online, true);
    const { token } = await rest('POST', '/console/api/token', { ServiceSid: t.service.sid, Identity: "o'grace" });
    const grace = await page.evaluateHandle((token) => new Promise((resolve) => {
      const socket = new WebSocket(`${location.origin.replace('http', 'ws')}/v1/connect`, 'rollcall.v1.json');
      socket.onopen = () => socket.send(JSON.stringify({ type: 'hello', token }));
      socket.onmessage = () => resolve(socket);
    }), token);
    assert.equal(await watcher.line(), "o'grace online true");
    await rest('POST', `${users}/o'grace/Bindings`, { BindingType: 'fcm', Address: 'a-device' });
    assert.equal(await watcher.line(), "o'grace notifiable true");
    await grace.evaluate((socket) => socket.send('{"type":"bye"}'));
    assert.equal(await watcher.line(), "o'grace online false");
  } finally {
    await watcher.stop();
  }
  assert.deepEqual(complaints, []);
});

test('the samples are for who signed in, and for the service that is chosen', async (t) => {
  const key = await rest('POST', '/v1/Keys', { FriendlyName: 'of a test' });
  await signIn(t.service, key.sid, key.secret);
  await page.getByRole('tab', { name: 'Conversations SDK' }).click();
  const sample = page.getByRole('region', { name: 'the sample of the switch' });
  await sample.getByText(`twilio('${key.sid}', process.env.API_KEY_SECRET, { accountSid: '${credentials.account}' })`).waitFor();
  await page.getByText('The token is good until').waitFor();
  const said = await run(folder(), 'switch.mjs', await sample.textContent(), { API_KEY_SECRET: key.secret }).ended();
  assert.equal(said, 'reachability true\n');

  const { default_chat_service_sid: other } = await rest('GET', '/v1/Configuration');
  await page.locator('#service').selectOption(other);
  await sample.getByText(`.services('${other}')`).waitFor();
  await page.getByRole('region', { name: 'the sample of the handler' }).getByText("new Client('ey").waitFor();

  // What cannot be seen in an identity is written out, and what would end the text is escaped.
  await page.getByLabel('Follow', { exact: true }).fill("a'b\\c\u202ed\u00e9");
  await page.getByText("follow('a\\'b\\\\c\\u202ed\u00e9')").waitFor();
  await page.getByRole('button', { name: 'Sign out' }).click();
  assert.equal(await page.locator('#panel-sdk').textContent(), '');
  assert.deepEqual(complaints, []);
});

test('the SDK on a page of another host follows a user over a reload, if that host may connect', async (t) => {
  const users = `/v1/Services/${t.service.sid}/Users`;
  await rest('POST', `/v1/Services/${t.service.sid}/Configuration`, { ReachabilityEnabled: 'true' });
  await rest('POST', users, { Identity: 'grace' });
  const token = async (identity) => (await rest('POST', '/console/api/token', { ServiceSid: t.service.sid, Identity: identity })).token;
  const connect = (where, jwt) => where.evaluate(([uri, jwt]) => new Promise((resolve) => {
    globalThis.client = new globalThis.Twilio.Conversations.Client(jwt, { Twilsock: { uri } });
    globalThis.client.on('initialized', () => resolve('initialized'));
    globalThis.client.on('initFailed', () => resolve('initFailed'));
  }), [`${gateway.url.replace('http', 'ws')}/v3/wsconnect`, jwt]);

  await page.goto(app.origin.replace('127.0.0.1', 'localhost')); // another origin
  assert.equal(await connect(page, await token('ada')), 'initFailed');
  assert.ok(complaints.some((text) => text.includes('403')), complaints.join());

  await page.goto(app.origin);
  assert.equal(await connect(page, await token('ada')), 'initialized');
  await page.evaluate(async () => {
    globalThis.told = [];
    const grace = await globalThis.client.getUser('grace');
    grace.on('updated', ({ user, updateReasons }) => globalThis.told.push(`${updateReasons} ${user.isOnline}`));
  });
  const told = async (...want) => {
    await page.waitForFunction((n) => globalThis.told.length >= n, want.length);
    assert.deepEqual(await page.evaluate(() => globalThis.told), want);
  };
  const other = await context.newPage();
  await other.goto(app.origin);
  assert.equal(await connect(other, await token('grace')), 'initialized');
  await told('reachabilityOnline true');
  await other.reload(); // within the linger: nothing is seen of it
  assert.equal(await connect(other, await token('grace')), 'initialized');
  await other.evaluate(() => globalThis.client.user.updateFriendlyName('Grace'));
  await told('reachabilityOnline true', 'friendlyName true');
  await other.evaluate(() => globalThis.client.shutdown());
  await told('reachabilityOnline true', 'friendlyName true', 'reachabilityOnline false');
});

test('a lost connection is announced, and resumed with what was seen', async (t) => {
  const identity = 'radia';
  const users = `/v1/Services/${t.service.sid}/Users`;
  const { sid } = await rest('POST', users, { Identity: identity, FriendlyName: 'before' });
  const wire = await tap();
  await signIn(t.service);
  await row(identity, { online: 'Unknown' });

  await wire.cut(1012, '{"retry_after_ms":60000}');
  await page.getByText(/Trying again in (60|59|58) s/).waitFor();
  await rest('POST', `${users}/${sid}`, { FriendlyName: 'after' });
  await page.getByRole('button', { name: 'Try now' }).click();
  await connected();
  await page.locator('#banner').waitFor({ state: 'hidden' });
  await page.locator('#users').getByText('after').waitFor();
  await page.locator('#feed').getByText('is now named after (caught up)').waitFor();
  const hellos = wire.sent.filter(({ type }) => type === 'hello');
  assert.deepEqual(hellos.map(({ invisible, known }) => [invisible, Object.keys(known ?? {})]), [[true, []], [true, [identity]]]);
  assert.ok(hellos[1].known[identity] > 0);
  assert.deepEqual(complaints, []);
});

test('a token is renewed in band, and a refusal is not tried again', async (t) => {
  const wire = await tap();
  await signIn(t.service);
  const accepted = wire.answered('token_accepted');
  wire.push({ type: 'token.expiring', expires_in_ms: 60_000 });
  await accepted;
  const { token } = wire.sent.find(({ type }) => type === 'token');
  assert.equal(JSON.parse(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/'))).grants.identity, 'rollcall-console');

  await wire.cut(3503, 'ended by the operator');
  await page.getByText('The gateway ended the session: ended by the operator (3503).').waitFor();
  await page.getByRole('button', { name: 'Connect again' }).click();
  await connected();
  assert.equal(wire.sent.filter(({ type }) => type === 'hello').length, 2);
  assert.deepEqual(complaints, []);
});

test('beyond what a session may follow, the page says so and follows what is filtered', async (t) => {
  const made = Array.from({ length: 1030 }, (_, i) => `user-${String(i).padStart(4, '0')}`);
  await inTurns(16, made, (identity) => rest('POST', `/v1/Services/${t.service.sid}/Users`, { Identity: identity }));
  await signIn(t.service);
  await page.getByText('This page follows 1,000 of 1,030 users').waitFor();
  await page.waitForFunction(() => document.querySelectorAll('#users tbody tr').length === 1000);
  assert.ok(!(await identities()).includes('user-1029'));
  await page.getByLabel('Filter users').fill('user-102');
  await row('user-1029', { online: 'Unknown' });
  assert.deepEqual((await identities()), made.slice(1020));
  assert.deepEqual(complaints, []);
});

test('the client of docs/protocol.md follows a user over a lost connection and a deletion', async (t) => {
  const [, code] = readFileSync(new URL('../../docs/protocol.md', import.meta.url), 'utf8').match(/```js\n([^]*?)```/);
  const users = `/v1/Services/${t.service.sid}/Users`;
  await rest('POST', `/v1/Services/${t.service.sid}/Configuration`, { ReachabilityEnabled: 'true' });
  const token = async (identity) => (await rest('POST', '/console/api/token', { ServiceSid: t.service.sid, Identity: identity })).token;
  const told = [];
  const next = async (wanted) => {
    for (const deadline = Date.now() + WAIT_MS; told.length === 0;) {
      assert.ok(Date.now() < deadline, `nothing told; want ${wanted}`);
      await page.waitForTimeout(20);
    }
    assert.equal(told.shift(), wanted);
  };
  await context.close();
  context = await browser.newContext({ bypassCSP: true }); // this page is only a place to run the code in
  page = await context.newPage();
  const wire = await tap();
  await page.exposeFunction('tokenFor', token);
  await page.exposeFunction('told', (user) => told.push(`${user.identity} ${user.sid ? 'exists' : 'absent'} ${user.is_online}`));
  await page.goto(`${gateway.url}/console`);
  await page.addScriptTag({ content: `${code}
    const url = location.origin.replace('http', 'ws') + '/v1/connect';
    const come = (identity) => follow(url, () => tokenFor(identity), [], () => {});
    follow(url, () => tokenFor('watcher'), ['grace'], told);` });
  await next('grace absent null');
  await wire.cut(1012, '{"retry_after_ms":500}');
  await rest('POST', users, { Identity: 'grace' });
  await next('grace exists null');
  const leave = await page.evaluateHandle(() => come('grace'));
  await next('grace exists true');
  await leave.evaluate((bye) => bye());
  await next('grace exists false');
  assert.equal((await fetch(`${gateway.url}${users}/grace`, { method: 'DELETE', headers: authorization })).status, 204);
  await next('grace absent null');
});

// --- what the tests say

async function signIn(service, user = credentials.account, secret = credentials.authToken) {
  await page.goto(`${gateway.url}/console${service ? `#service=${service.sid}` : ''}`);
  await page.getByLabel('Account SID or API key SID').fill(user);
  await page.getByLabel('Auth token or API key secret').fill(secret);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await connected();
}

const connected = () => page.locator('#connection[data-state=open]').waitFor();

/**
 * tap stands between the page and the gateway's socket: sent is what the page
 * sent, push tells it something, answered waits for a message of the gateway,
 * cut ends the connection.
 */
async function tap() {
  const wire = { sent: [] };
  const waiting = new Map();
  await page.routeWebSocket('**/v1/connect', (client) => {
    const server = client.connectToServer();
    client.onMessage((text) => {
      wire.sent.push(JSON.parse(text));
      server.send(text);
    });
    server.onMessage((text) => {
      client.send(text);
      waiting.get(JSON.parse(text).type)?.();
    });
    wire.push = (message) => client.send(JSON.stringify(message));
    wire.cut = async (code, reason) => {
      await server.close({ code: 4000 });
      await client.close({ code, reason });
    };
  });
  wire.answered = (type) => new Promise((resolve, reject) => {
    waiting.set(type, resolve);
    setTimeout(() => reject(new Error(`no ${type} came`)), WAIT_MS).unref();
  });
  return wire;
}

const CELLS = { online: 'c-online', notifiable: 'c-notifiable', sessions: 'c-sessions' };

/** row waits until a user's row shows each of the texts given. */
async function row(identity, texts) {
  await page.waitForFunction(({ identity, cells }) => {
    const tr = [...document.querySelectorAll('#users tbody tr')].find((each) => each.dataset.identity === identity);
    return tr && cells.every(([cell, text]) => tr.querySelector(`.${cell}`).textContent === text);
  }, { identity, cells: Object.entries(texts).map(([name, text]) => [CELLS[name], text]) });
}

const identities = () => page.locator('#users tbody .id').allTextContents();

const feed = async () => (await page.locator('#feed li > div').allTextContents()).sort();

async function screenshots(name) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    for (const colorScheme of ['light', 'dark']) {
      await page.setViewportSize(viewport);
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${ARTIFACTS}${name}-${size}-${colorScheme}.png`, fullPage: true });
    }
  }
  await page.setViewportSize(SIZES.wide);
  await page.emulateMedia({ colorScheme: 'light' });
}

/** serveApp serves a page of an application that has the SDK, from a host of its own. */
async function serveApp() {
  const sdk = readFileSync(new URL('./node_modules/@twilio/conversations/builds/twilio-conversations.min.js', import.meta.url));
  const server = createServer((request, response) => {
    if (request.url === '/sdk.js') response.setHeader('Content-Type', 'text/javascript').end(sdk);
    else response.setHeader('Content-Type', 'text/html').end('<!doctype html><link rel="icon" href="data:,"><script src="/sdk.js"></script>');
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => { server.close(); server.closeAllConnections(); } };
}

async function rest(method, path, form) {
  const response = await fetch(gateway.url + path, {
    method,
    headers: authorization,
    body: form && new URLSearchParams(form),
  });
  const body = await response.json();
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${body.message}`);
  return body;
}

/** inTurns calls fn for each item, so many at a time. */
async function inTurns(most, items, fn) {
  const left = items.values();
  await Promise.all(Array.from({ length: most }, async () => {
    for (const item of left) await fn(item);
  }));
}

const configuration = (service) => rest('GET', `/v1/Services/${service.sid}/Configuration`);
const user = (service, identity) => rest('GET', `/v1/Services/${service.sid}/Users/${identity}`);
