// The unmodified SDKs led to a gateway, and what is needed to tell what they saw.

import assert from 'node:assert/strict';
import { createHmac, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { WebSocket } from 'ws';
import { credentials, Node, start, until as untilWithin } from '../gateway.mjs';

/** WAIT_MS is how long anything that must happen may take, on a machine that is busy. */
export const WAIT_MS = 60_000;

const { devDependencies } = JSON.parse(readFileSync(new URL('package.json', import.meta.url)));

/** sdks are the versions under test, by a short name. */
export const sdks = {};
for (const major of ['3', '2']) {
  const { Client } = await import(`conversations-${major}`);
  assert.equal(`npm:@twilio/conversations@${Client.version}`, devDependencies[`conversations-${major}`]);
  sdks[`${major}.x`] = Client;
}

// The SDK rejects what it was to send when its connection failed, and, half a minute later,
// what was under way when it was shut down; nobody in it catches that (its source says
// so). All else that nobody catches fails the test.
const own = (reason) => /^(Unable to connect: |Twilsock: request timeout: TM)/.test(reason?.message) && /node_modules\/(.*\/)?twilsock\//.test(reason.stack);

/** tolerate makes the test runner not see those rejections. Call it when it listens. */
export function tolerate() {
  const listeners = process.listeners('unhandledRejection');
  process.removeAllListeners('unhandledRejection');
  process.on('unhandledRejection', (reason, promise) => {
    if (own(reason)) return;
    for (const listener of listeners) listener(reason, promise);
  });
}

/** Log keeps what happened in order, and waits for what happens next. */
export class Log {
  items = [];
  #at = 0;
  #wake = () => {};

  constructor(name) { this.name = name; }

  add(item) {
    this.items.push(item);
    this.#wake();
  }

  /** next is the next item, or the next that passes. */
  async next(passes = () => true, wanted = 'anything') {
    const deadline = Date.now() + WAIT_MS;
    for (;;) {
      while (this.#at < this.items.length) {
        const item = this.items[this.#at++];
        if (passes(item)) return item;
      }
      const left = deadline - Date.now();
      assert.ok(left > 0, `${this.name}: no ${wanted} came; all that came: ${JSON.stringify(this.items)}`);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => { clearTimeout(timer); resolve(); };
      });
    }
  }

  /** expect asserts that these are the next items, and nothing between them. */
  async expect(...wanted) {
    for (const want of wanted) {
      assert.deepEqual(await this.next(undefined, want), want, `${this.name}: ${JSON.stringify(this.items)}`);
    }
  }
}

/** until asks again and again until what it gets passes. */
export const until = (ask, passes) => untilWithin(ask, passes, WAIT_MS);

/** listen logs what a client says of its connection. */
export function listen(client) {
  const log = new Log('the client');
  client.on('connectionStateChanged', (state) => log.add(state));
  client.on('connectionError', ({ terminal, httpStatusCode, errorCode }) => log.add({ error: httpStatusCode, terminal, errorCode }));
  for (const name of ['initialized', 'initFailed', 'tokenAboutToExpire', 'tokenExpired']) client.on(name, () => log.add(name));
  return log;
}

const is = (want) => (item) => item === want;

/** came waits for one of a client's events or states, whatever is before it. */
export const came = (log, want) => log.next(is(want), want);

/** spell says what an update told of a user. */
export function spell({ user, updateReasons }) {
  return updateReasons.map((reason) => ({
    reachabilityOnline: () => `online ${user.isOnline}`,
    reachabilityNotifiable: () => `notifiable ${user.isNotifiable}`,
    friendlyName: () => `name ${user.friendlyName}`,
    attributes: () => `attributes ${JSON.stringify(user.attributes)}`,
  })[reason]()).join(', ');
}

/** Watch is a user as a client of the SDK sees it, with all its events from here on. */
export class Watch extends Log {
  static #marks = 0;

  constructor(service, user) {
    super(`updates of ${user.identity}`);
    Object.assign(this, { service, user, times: [] });
    user.on('updated', (update) => {
      this.times.push(performance.now());
      this.add(spell(update));
    });
  }

  /** quiet asserts that nothing came: a change made now is the next that is told. */
  async quiet() {
    const name = `mark ${++Watch.#marks}`;
    await this.service.profile(this.user.identity, { FriendlyName: name });
    await this.expect(`name ${name}`);
  }
}

/** Gateway is a node, or several of which the first is asked. */
export class Gateway {
  static async start(options) {
    return new Gateway(await start(options));
  }

  constructor(node) { this.node = node; }

  get url() { return this.node.url; }

  stop() { return this.node.stop(); }

  /** rest asks the REST API; null for an answer without a body. */
  async rest(method, path, form, url = this.url) {
    const response = await fetch(url + path, {
      method,
      headers: { Authorization: `Basic ${btoa(`${credentials.account}:${credentials.authToken}`)}` },
      body: form && new URLSearchParams(form),
    });
    const body = response.status === 204 ? null : await response.json();
    if (!response.ok) throw Object.assign(new Error(`${method} ${path}: ${response.status} ${body.message}`), { status: response.status, body });
    return body;
  }

  /** service makes one for a test, which ends its clients. */
  async service(t, Client, { enabled = true, linger } = {}) {
    const { sid } = await this.rest('POST', '/v1/Services', { FriendlyName: 'sdk' });
    const service = new Service(this, sid, Client);
    t.after(() => service.close());
    if (enabled) await service.enable(true);
    if (linger !== undefined) await service.linger(linger);
    return service;
  }
}

export const connectUri = (url) => `${url.replace('http', 'ws')}/v3/wsconnect`;

/** mint makes an access token; no two are the same, since the SDK does nothing with one that it has. */
export function mint(service, identity, { ttl = 3600, key = credentials.key, secret = credentials.secret } = {}) {
  const iat = Math.floor(Date.now() / 1000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT', cty: 'twilio-fpa;v=1' })}.${part({
    jti: `${key}-${randomUUID()}`, iss: key, sub: credentials.account, iat, exp: iat + ttl, grants: { identity, chat: { service_sid: service } },
  })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

const path = (identity) => encodeURIComponent(identity);

export class Service {
  #closing = [];

  constructor(gateway, sid, Client) { Object.assign(this, { gateway, sid, Client, path: `/v1/Services/${sid}` }); }

  rest(method, below, form, url) { return this.gateway.rest(method, this.path + below, form, url); }
  enable(on) { return this.rest('POST', '/Configuration', { ReachabilityEnabled: String(on) }); }
  linger(seconds) { return this.rest('POST', '/Configuration/Presence', { Linger: seconds }); }
  make(identity, more) { return this.rest('POST', '/Users', { Identity: identity, ...more }); }
  read(identity, url) { return this.rest('GET', `/Users/${path(identity)}`, undefined, url); }
  profile(identity, form) { return this.rest('POST', `/Users/${path(identity)}`, form); }
  remove(identity) { return this.rest('DELETE', `/Users/${path(identity)}`); }
  token(identity, options) { return mint(this.sid, identity, options); }

  /** start makes a client that may or may not be let in, and what it logs. */
  start(identity, { url = this.gateway.url, token = this.token(identity), Client = this.Client } = {}) {
    const client = new Client(token, { Twilsock: { uri: connectUri(url) } });
    this.#closing.push(() => client.shutdown());
    return { client, log: listen(client) };
  }

  /** open gives a client that is initialised, and is done with what it does at start. */
  async open(identity, options) {
    const { client, log } = this.start(identity, options);
    await came(log, 'initialized');
    await client.getSubscribedConversations();
    return Object.assign(client, { log });
  }

  /** watch is how a client sees a user. */
  async watch(client, identity) { return new Watch(this, await client.getUser(identity)); }

  /** line is a way to the gateway that can be cut. */
  async line(...urls) {
    const line = await new Line(urls.length > 0 ? urls : [this.gateway.url]).open();
    this.#closing.push(() => line.close());
    return line;
  }

  /** native opens a session of the native protocol. */
  async native(identity, { url = this.gateway.url } = {}) {
    const session = new Native(url);
    this.#closing.push(() => session.socket.terminate());
    await session.request({ type: 'hello', token: this.token(identity) }, 'welcome');
    return session;
  }

  /** lingerOver waits until who was lost before is shown offline: somebody else who is lost now is. */
  async lingerOver(watcher) {
    const clock = await this.native(`clock ${randomUUID()}`);
    const seen = await this.watch(watcher, clock.identity);
    assert.equal(seen.user.isOnline, true);
    clock.socket.terminate();
    await seen.expect('online false');
  }

  async close() {
    await Promise.all(this.#closing.map(async (end) => {
      try {
        await Promise.race([end(), new Promise((resolve) => setTimeout(resolve, 2_000))]);
      } catch {
        // a client that was never let in
      }
    }));
  }
}

/** Line is a TCP proxy on loopback, to one gateway or to several in turn. */
export class Line {
  #server = createServer((socket) => this.#accept(socket));
  #sockets = new Set();
  #next = 0;

  down = false;
  connections = 0; // that were accepted
  received = ''; // from the gateways, as text

  constructor(urls) { this.targets = urls.map((url) => Number(new URL(url).port)); }

  async open() {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    this.url = `http://127.0.0.1:${this.#server.address().port}`;
    return this;
  }

  #accept(socket) {
    if (this.down) {
      socket.destroy();
      return;
    }
    this.connections += 1;
    this.#hold(socket);
    this.#dial(socket, this.targets.length);
  }

  #hold(socket) {
    this.#sockets.add(socket);
    socket.on('error', () => {}).on('close', () => this.#sockets.delete(socket));
  }

  #dial(socket, tries) {
    const peer = connect(this.targets[this.#next++ % this.targets.length], '127.0.0.1');
    this.#hold(peer);
    const failed = () => (tries > 1 && !socket.destroyed ? this.#dial(socket, tries - 1) : socket.destroy());
    peer.once('error', failed).once('connect', () => {
      peer.off('error', failed);
      peer.on('data', (data) => { this.received += data.toString('latin1'); });
      peer.pipe(socket).pipe(peer);
      socket.on('close', () => peer.destroy());
      peer.on('close', () => socket.destroy());
    });
  }

  /** cut destroys what is connected. */
  cut() { for (const socket of this.#sockets) socket.destroy(); }

  /** fail cuts, and lets nobody in until restore. */
  fail() {
    this.down = true;
    this.cut();
  }

  restore() { this.down = false; }

  close() {
    this.fail();
    this.#server.close();
  }
}

/** Native is a session of the native protocol. */
export class Native {
  constructor(url) {
    this.socket = new WebSocket(`${url.replace('http', 'ws')}/v1/connect`, 'rollcall.v1.json');
    this.log = new Log('a native session');
    this.opened = once(this.socket, 'open');
    this.socket.on('message', (data) => this.log.add(JSON.parse(data))).on('error', () => {});
    this.socket.on('close', (code) => this.log.add({ type: 'close', code }));
  }

  send(message) { this.socket.send(JSON.stringify(message)); }

  async request(message, answer) {
    await this.opened;
    this.send({ id: 1, ...message });
    const got = await this.log.next(({ type }) => [answer, 'error', 'close'].includes(type), answer);
    assert.equal(got.type, answer, JSON.stringify(got));
    this.identity ??= got.identity;
    return got;
  }
}

export { Node };
