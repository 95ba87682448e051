// Clients that are none: what breaks the framing is closed, what asks for too much or
// for what is another's is refused, and those who do neither do not notice.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { WebSocket } from 'ws';
import { connectUri, Gateway, Log, sdks, tolerate } from './library.mjs';

const BAD_REQUEST = 3501;
const TOO_BIG = 1009; // or 1006, when the reset that follows overtakes it
const RATE_LIMITED = 3005;
const BATCH = 100; // maps in a request
const SUBSCRIPTIONS = 1000; // of a session

/** frame makes one by hand, with lengths that may lie. */
function frame(header, payload = '', { headerSize, payloadSize = Buffer.byteLength(payload) } = {}) {
  const text = typeof header === 'string' ? header : JSON.stringify({ ...header, payload_size: payloadSize });
  return Buffer.from(`TWILSOCK V3.0 ${headerSize ?? Buffer.byteLength(text)}\r\n${text}\r\n${payload}`);
}

class Raw {
  constructor(url) {
    this.socket = new WebSocket(connectUri(url));
    this.log = new Log('a raw client');
    this.socket.on('error', () => {}).on('close', (code) => this.log.add({ closed: code }));
    this.socket.on('message', (data) => {
      const [, text] = data.toString('latin1').split('\r\n', 2);
      const header = JSON.parse(Buffer.from(text, 'latin1'));
      const payload = data.subarray(data.length - header.payload_size).toString();
      this.log.add({ header, body: header.payload_size > 0 ? JSON.parse(payload) : null });
    });
  }

  static async open(t, url, token) {
    const raw = new Raw(url);
    t.after(() => raw.socket.terminate());
    await once(raw.socket, 'open');
    if (token) assert.equal((await raw.ask({ method: 'init', token })).header.status.code, 200);
    return raw;
  }

  send(data) { this.socket.send(data); }

  async ask(header, payload) {
    const id = randomUUID();
    this.send(frame({ id, ...header }, payload));
    return this.log.next((item) => item.closed || (item.header.method === 'reply' && item.header.id === id), 'reply');
  }

  /** request is the status of a tunnelled request. */
  async request(method, path, body) {
    const { header } = await this.ask({ method: 'message', http_request: { host: 'x', path, method, params: {}, headers: {} } }, body && JSON.stringify(body));
    return header.http_status.code;
  }

  async establish(sids, correlation = 1) {
    return this.request('POST', '/v4/Subscriptions', {
      action: 'establish', correlation_id: correlation, requests: sids.map((sid) => ({ object_sid: sid, object_type: 'map', last_event_id: null })),
    });
  }

  async event(type) {
    const { body } = await this.log.next((item) => item.closed || item.body?.event_type === type, type);
    return body.events;
  }

  async closed() { return (await this.log.next((item) => item.closed, 'close')).closed; }
}

const mapOf = (kind, identity) => `MP${kind}${Buffer.from(identity).toString('base64url')}`;
const deep = (n) => `${'['.repeat(n)}${']'.repeat(n)}`;

describe('a hostile client', { concurrency: 8 }, () => {
  const [Client] = Object.values(sdks);
  let gateway;
  before(async () => {
    tolerate();
    gateway = await Gateway.start();
  });
  after(() => gateway?.stop());

  const init = { id: 'x', method: 'init', token: 'x' };
  const broken = {
    'a text frame': [frame(init).toString(), BAD_REQUEST],
    'another protocol': [Buffer.from('TWILSOCK V2.0 2\r\n{}\r\n'), BAD_REQUEST],
    'nothing': [Buffer.alloc(0), BAD_REQUEST],
    'a header shorter than it says': [frame(init, '', { headerSize: 5000 }), BAD_REQUEST],
    'a header longer than it says': [frame(init, '', { headerSize: 10 }), BAD_REQUEST],
    'a header of a negative length': [frame(init, '', { headerSize: -1 }), BAD_REQUEST],
    'a header of a huge length': [frame(init, '', { headerSize: '9'.repeat(40) }), BAD_REQUEST],
    'a payload shorter than it says': [frame(init, 'x', { payloadSize: 2 ** 40 }), BAD_REQUEST],
    'a payload longer than it says': [frame(init, 'xyz', { payloadSize: 1 }), BAD_REQUEST],
    'deep JSON': [frame(`{"id":"x","method":"init","x":${deep(20_000)}}`), BAD_REQUEST],
    'an id of 60 KB': [frame({ ...init, id: 'x'.repeat(60_000) }), BAD_REQUEST],
    'a frame of 1 MB': [frame(init, 'x'.repeat(1 << 20)), TOO_BIG],
    'a request before init': [frame({ id: 'x', method: 'message', http_request: { method: 'GET', path: '/Client/v2/Configuration' } }), BAD_REQUEST],
  };
  test('that breaks the framing is closed, and others do not notice', async (t) => {
    const s = await gateway.service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    for (const [what, [data, code]] of Object.entries(broken)) {
      await t.test(what, async () => {
        const raw = await Raw.open(t, gateway.url);
        raw.send(data);
        const got = await raw.closed();
        assert.ok(got === code || (code === TOO_BIG && got === 1006), `closed with ${got}`);
      });
    }
    await bob.user.updateFriendlyName('Bob');
    await seen.expect('name Bob');
    assert.deepEqual(alice.log.items.filter((item) => item !== 'connecting'), ['connected', 'initialized']);
  });

  test('is refused what is of others, and what does not exist', async (t) => {
    const [s, other] = [await gateway.service(t, Client), await gateway.service(t, Client)];
    await Promise.all([s, other].map((each) => each.make('bob', { FriendlyName: 'secret' })));
    const raw = await Raw.open(t, gateway.url, s.token('mallory'));
    for (const [method, path] of [
      ['GET', `/Client/v2/Services/${other.sid}/Users/bob`],
      ['POST', `/Client/v2/Services/${other.sid}/Users/mallory`],
      ['POST', `/Client/v2/Services/${s.sid}/typing`],
      ['GET', `/Client/v2/Services/${other.sid}/Users/mallory/Conversations`],
      ['GET', `/Client/v2/Services/${s.sid}/../${other.sid}/Users/bob`],
      ['GET', `/v3/Maps/${mapOf('c', 'bob')}`],
      ['GET', `/v3/Maps/${mapOf('c', 'bob')}/Items`],
      ['GET', `/v3/Maps/${mapOf('u', 'nobody')}`],
      ['GET', '/v3/Maps/MPu'], ['GET', '/v3/Maps/%zz'], ['GET', '/v1/Services'], ['GET', '/metrics'], ['GET', ''],
    ]) {
      assert.ok([404, 501].includes(await raw.request(method, path, method === 'POST' ? { friendly_name: 'x' } : undefined)), `${method} ${path}`);
    }
    assert.equal(await raw.request('POST', `/Client/v2/Services/${s.sid}/Users/bob`, { friendly_name: 'x' }), 403);
    assert.equal(await raw.request('GET', `/Client/v2/Services/${s.sid}/Users/bob/Conversations`), 403);
    assert.equal(await raw.establish([mapOf('c', 'bob'), 'MPu', 'x', mapOf('u', '')]), 202);
    const failed = await raw.event('subscription_failed');
    assert.deepEqual(failed.map(({ error }) => error.status), [404, 404, 404, 404]);
    for (const each of [s, other]) assert.equal((await each.read('bob')).friendly_name, 'secret');
    await assert.rejects(other.read('mallory'), { status: 404 });
  });

  test('is refused too many subscriptions, and bodies that are none', async (t) => {
    const s = await gateway.service(t, Client);
    const raw = await Raw.open(t, gateway.url, s.token('mallory'));
    const sids = Array.from({ length: 1200 }, (_, i) => mapOf('u', `u${i}`));
    assert.equal(await raw.establish(sids.slice(0, BATCH + 1)), 400);
    for (let at = 0; at < SUBSCRIPTIONS; at += BATCH) {
      assert.equal(await raw.establish(sids.slice(at, at + BATCH)), 202);
      assert.equal((await raw.event('subscription_established')).length, BATCH);
    }
    assert.equal(await raw.establish(sids.slice(SUBSCRIPTIONS, SUBSCRIPTIONS + BATCH)), 429);
    assert.equal(await raw.establish(sids.slice(0, 1), 'text'), 400);
    for (const body of ['{', '"', 'null x', deep(20_000), '\ud800']) {
      const { header } = await raw.ask({ method: 'message', http_request: { path: '/v4/Subscriptions', method: 'POST' } }, body);
      assert.equal(header.http_status.code, 400, body.slice(0, 10));
    }
    const alice = await s.open('alice');
    assert.equal((await alice.getUser('mallory')).isOnline, true);
  });

  test('that says init twice, or does not stop, is closed', async (t) => {
    const s = await gateway.service(t, Client);
    const twice = await Raw.open(t, gateway.url, s.token('mallory'));
    twice.send(frame({ ...init, token: s.token('eve') }));
    assert.equal(await twice.closed(), BAD_REQUEST);
    for (const header of [{ id: 'x', method: 'reply' }, { id: 'x', method: 'nonsense' }]) {
      const flood = await Raw.open(t, gateway.url, s.token('mallory'));
      for (let i = 0; i < 5000; i += 1) flood.send(frame(header));
      assert.equal(await flood.closed(), RATE_LIMITED, header.method);
    }
    assert.equal((await s.open('alice')).user.isOnline, true);
  });
});
