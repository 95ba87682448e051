// The unmodified helper library, led to a gateway, with a record of what it asked.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import twilio from 'twilio';
import { WebSocket } from 'ws';
import { credentials, start, until as untilWithin } from '../gateway.mjs';

const published = JSON.parse(readFileSync(new URL('../../gateway/rest/testdata/twilio_conversations_v1.json', import.meta.url)));

/** operations are those of the published document: {id, method, path}. */
export const operations = Object.entries(published.paths).flatMap(([path, item]) => Object.entries(item)
  .filter(([, op]) => op?.operationId)
  .map(([method, op]) => ({
    id: op.operationId,
    method,
    path: new RegExp(`^${path.replace(/\{\w+\}/g, '[^/]+')}$`),
  })));

// Recorder is the library's own client. It notes which operations succeeded, and that
// nothing goes anywhere but to the gateway: page URLs are followed as they come.
class Recorder extends twilio.RequestClient {
  constructor(gateway, options) {
    super(options);
    this.gateway = gateway;
  }

  async request(opts) {
    assert.equal(new URL(opts.uri).origin, this.gateway.url, 'a request went astray');
    const response = await super.request(opts);
    if (response.statusCode < 300) {
      const { pathname } = new URL(opts.uri);
      const op = operations.find(({ method, path }) => method === opts.method.toLowerCase() && path.test(pathname));
      if (op) this.gateway.asked.add(op.id);
    }
    return response;
  }
}

/** Gateway is one gateway with a store, for all tests of a suite. */
export class Gateway {
  asked = new Set();

  async start(options) {
    const { url, stop } = await start(options);
    Object.assign(this, { url, stop });
    this.twilio = this.as(credentials.account, credentials.authToken);
    this.v1 = this.twilio.conversations.v1;
  }

  /** as is a client of the library with other credentials, or with options of its requests. */
  as(user, password, options = {}) {
    const client = twilio(user, password, { accountSid: credentials.account, httpClient: new Recorder(this, options) });
    client.conversations.baseUrl = this.url;
    return client;
  }

  /** service makes one with reachability switched on, and gives the library's context of it. */
  async service(friendlyName) {
    const { sid } = await this.v1.services.create({ friendlyName });
    await this.v1.services(sid).configuration().update({ reachabilityEnabled: true });
    return Object.assign(this.v1.services(sid), { sid });
  }

  /** token is an access token of the library's making. */
  token(serviceSid, identity, options = {}) {
    const token = new twilio.jwt.AccessToken(credentials.account, credentials.key, credentials.secret, { identity, ...options });
    token.addGrant(new twilio.jwt.AccessToken.ChatGrant({ serviceSid, ...options.grant }));
    return token.toJwt();
  }

  /** connect opens a session and gives it once it is welcome. */
  async connect(token) {
    const socket = new WebSocket(`${this.url.replace('http', 'ws')}/v1/connect`, 'rollcall.v1.json');
    const session = new Session(socket);
    await session.opened;
    session.send({ type: 'hello', token });
    session.welcome = await session.next('welcome');
    return session;
  }
}

/** Session is a connection of the native protocol. */
class Session {
  #waiting = [];
  #got = [];

  constructor(socket) {
    this.socket = socket;
    this.opened = new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject));
    this.closed = new Promise((resolve) => socket.on('close', resolve));
    socket.on('message', (data) => this.#take(JSON.parse(data)));
    this.closed.then((code) => this.#waiting.forEach(({ reject, type }) => reject(new Error(`closed with ${code} while waiting for ${type}`))));
  }

  #take(message) {
    const at = this.#waiting.findIndex(({ type }) => type === message.type || message.type === 'error');
    if (at < 0) this.#got.push(message);
    else this.#waiting.splice(at, 1)[0].settle(message);
  }

  send(message) { this.socket.send(JSON.stringify(message)); }

  /** next is the next message of a type; an error in its place is thrown. */
  next(type) {
    return new Promise((resolve, reject) => {
      const settle = (message) => (message.type === type ? resolve(message) : reject(Object.assign(new Error(message.message), message)));
      const at = this.#got.findIndex((message) => message.type === type || message.type === 'error');
      if (at < 0) this.#waiting.push({ type, settle, reject });
      else settle(this.#got.splice(at, 1)[0]);
    });
  }

  request(message, answer) {
    this.send({ id: 1, ...message });
    return this.next(answer);
  }

  async bye() {
    this.send({ type: 'bye' });
    assert.equal(await this.closed, 1000);
  }
}

const WAIT_MS = 15_000;

/** until asks again and again until what it gets passes. */
export const until = (ask, passes) => untilWithin(ask, passes, WAIT_MS);

/** refused asserts that the library threw its decoded error. */
export async function refused(promise, status, code) {
  await assert.rejects(promise, (err) => {
    assert.equal(err.constructor.name, 'RestException', String(err.stack));
    assert.deepEqual([err.status, err.code, err.moreInfo], [status, code, `https://www.twilio.com/docs/errors/${code}`], err.message);
    return true;
  });
}

/** pages reads a list to its end and back by the page URLs alone, two at a time. */
export async function pages(list, params = {}) {
  const sids = (page) => page.instances.map((item) => item.sid);
  let page = await list.page({ pageSize: 2, ...params });
  const there = [sids(page)];
  while (page.nextPageUrl) {
    page = await page.nextPage();
    there.push(sids(page));
  }
  for (let at = there.length - 2; at >= 0; at -= 1) {
    page = await page.previousPage();
    assert.deepEqual(sids(page), there[at]);
  }
  assert.ok(!page.previousPageUrl, 'there is a page before the first');
  return there.flat();
}

/** wantList asserts that every way of reading a list gives these, in this order. */
export async function wantList(list, want, params = {}) {
  const sids = (items) => items.map((item) => item.sid);
  assert.deepEqual(await pages(list, params), want);
  assert.deepEqual(sids(await list.list(params)), want);
  assert.deepEqual(sids(await list.list({ ...params, limit: 1000 })), want);
  assert.deepEqual(sids(await list.list({ ...params, limit: 3, pageSize: 2 })), want.slice(0, 3));
  const each = [];
  await new Promise((resolve, reject) => {
    list.each({ ...params, pageSize: 2, callback: (item) => each.push(item.sid), done: (err) => (err ? reject(err) : resolve()) });
  });
  assert.deepEqual(each, want);
}
