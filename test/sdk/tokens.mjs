// Tokens that expire, are renewed, refused and revoked.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { came, mint, until } from './library.mjs';

// recover gives a client another token. After a failed start the SDK connects and
// initialises, and yet rejects with a TypeError of its own.
const recover = (client, token) => client.updateToken(token).catch((err) => assert.equal(err.name, 'TypeError', err.stack));

const errors = (log) => log.items.filter((item) => typeof item !== 'string');

export function tokens(gateway, Client) {
  test('a token that is about to expire is announced, and renewed in place', async (t) => {
    const s = await gateway().service(t, Client, { linger: 0 });
    const alice = await s.open('alice');
    const bob = await s.open('bob', { token: s.token('bob', { ttl: 50 }) });
    const other = await s.open('other', { token: s.token('other', { ttl: 50 }) }); // expires no earlier than bob's
    const seen = await s.watch(alice, 'bob');
    await came(bob.log, 'tokenAboutToExpire');
    await bob.updateToken(s.token('bob'));
    await came(other.log, 'tokenAboutToExpire');
    await came(other.log, 'tokenExpired');
    await seen.quiet();
    await bob.user.updateFriendlyName('still here');
    await seen.expect('name still here');
    assert.deepEqual(bob.log.items.slice(bob.log.items.indexOf('initialized') + 1), ['tokenAboutToExpire']);
  });

  test('a token that expired ends the session, until there is another', async (t) => {
    const s = await gateway().service(t, Client, { linger: 1 });
    const alice = await s.open('alice');
    const bob = await s.open('bob', { token: s.token('bob', { ttl: 30 }) });
    const seen = await s.watch(alice, 'bob');
    await came(bob.log, 'tokenExpired');
    await seen.expect('online false');
    await bob.updateToken(s.token('bob'));
    await came(bob.log, 'connected');
    await seen.expect('online true');
    await bob.user.updateFriendlyName('back');
    await seen.expect('name back');
    await seen.quiet();
  });

  test('an application that renews when it hears tokenExpired is not seen to leave', async (t) => {
    const s = await gateway().service(t, Client, { linger: 60 });
    const alice = await s.open('alice');
    const bob = await s.open('bob', { token: s.token('bob', { ttl: 30 }) });
    const seen = await s.watch(alice, 'bob');
    for (let times = 0; times < 2; times += 1) {
      await came(bob.log, 'tokenExpired');
      await bob.updateToken(s.token('bob', { ttl: times === 0 ? 5 : 3600 }));
      await came(bob.log, 'connected');
    }
    await seen.quiet();
    await bob.user.updateFriendlyName('renewed');
    await seen.expect('name renewed');
  });

  test('a token that expired while its client was cut off is refused, and another taken without a trace', async (t) => {
    const s = await gateway().service(t, Client, { linger: 60 });
    const [alice, line] = [await s.open('alice'), await s.line()];
    const ttl = 20;
    const bob = await s.open('bob', { url: line.url, token: s.token('bob', { ttl }) });
    const expired = Date.now() + ttl * 1000; // or somewhat before
    const seen = await s.watch(alice, 'bob');
    await until(() => Date.now(), (now) => now > expired - 2_000); // the longer it is away the longer the SDK waits
    line.fail();
    await until(() => Date.now(), (now) => now > expired);
    line.restore();
    await came(bob.log, 'tokenExpired');
    await bob.updateToken(s.token('bob'));
    await came(bob.log, 'connected');
    await seen.quiet();
    await bob.user.updateFriendlyName('back');
    await seen.expect('name back');
  });

  test('a new token of another identity or service, or garbage, is refused, and a good one recovers', async (t) => {
    const s = await gateway().service(t, Client, { linger: 60 });
    const elsewhere = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    for (const token of [s.token('eve'), elsewhere.token('bob'), 'x.y.z', s.token('bob', { ttl: -10 }), mint(s.sid, 'bob', { secret: 'wrong' })]) {
      await assert.rejects(bob.updateToken(token), token);
      await came(bob.log, 'denied');
      await bob.updateToken(s.token('bob'));
      await came(bob.log, 'connected');
    }
    assert.deepEqual(errors(bob.log).map(({ error }) => error), [403, 403, 401, 401, 401]);
    await seen.quiet();
    await assert.rejects(alice.getUser('eve'), { status: 404 });
  });

  for (const [name, status, make] of [
    ['expired', { error: 401, errorCode: 20104 }, (s) => s.token('bob', { ttl: -10 })],
    ['is garbage', { error: 401, errorCode: 20101 }, () => 'garbage'],
    ['has another signature', { error: 401, errorCode: 20107 }, (s) => mint(s.sid, 'bob', { secret: 'wrong' })],
    ['is of a service that does not exist', { error: 403, errorCode: 112 }, () => mint(`IS${'0'.repeat(32)}`, 'bob')],
  ]) {
    test(`a client whose token ${name} at start is denied, until there is another`, async (t) => {
      const s = await gateway().service(t, Client);
      const alice = await s.open('alice');
      await s.make('bob');
      const seen = await s.watch(alice, 'bob');
      const { client, log } = s.start('bob', { token: make(s) });
      assert.deepEqual(await log.next(({ error }) => error, 'error'), { ...status, terminal: true });
      await came(log, 'initFailed');
      assert.ok(log.items.includes('denied'));
      assert.equal(log.items.includes('tokenExpired'), name === 'expired');
      await recover(client, s.token('bob'));
      await came(log, 'initialized');
      await client.getSubscribedConversations(); // else the shutdown cuts off what it does at start
      await seen.expect('online true');
      await seen.quiet();
    });
  }

  test('revoking the API key ends the sessions of its tokens at once', async (t) => {
    const s = await gateway().service(t, Client, { linger: 60 });
    const alice = await s.open('alice');
    const key = await gateway().rest('POST', '/v1/Keys', { FriendlyName: 'sdk' });
    const token = () => s.token('bob', { key: key.sid, secret: key.secret });
    const bob = await s.open('bob', { token: token() });
    const seen = await s.watch(alice, 'bob');
    await gateway().rest('DELETE', `/v1/Keys/${key.sid}`);
    await seen.expect('online false');
    await came(bob.log, 'denied');
    await assert.rejects(bob.updateToken(token()));
    await came(bob.log, 'denied');
    await bob.updateToken(s.token('bob'));
    await came(bob.log, 'connected');
    await seen.expect('online true');
    await seen.quiet();
  });

  test("revoking a user's tokens ends its sessions at once, and nobody else's", async (t) => {
    const s = await gateway().service(t, Client, { linger: 60 });
    const [alice, bob, carol] = await Promise.all(['alice', 'bob', 'carol'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    await s.rest('POST', '/Revocations', { Identity: 'bob' });
    const revoked = Math.floor(Date.now() / 1000);
    await seen.expect('online false');
    await came(bob.log, 'denied');
    await until(() => Math.floor(Date.now() / 1000), (now) => now > revoked); // a token's time is in seconds
    await bob.updateToken(s.token('bob'));
    await came(bob.log, 'connected');
    await seen.expect('online true');
    await seen.quiet();
    assert.ok(bob.log.items.includes('tokenAboutToExpire'), 'the application was not told to get another token');
    assert.deepEqual([alice.connectionState, carol.connectionState], ['connected', 'connected']);
  });

  test('a client that an operator ended stays away until it has another token', async (t) => {
    const s = await gateway().service(t, Client, { linger: 60 });
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    await s.rest('DELETE', '/Users/bob/Sessions');
    await seen.expect('online false');
    await came(bob.log, 'disconnected');
    await seen.quiet();
    await bob.updateToken(s.token('bob'));
    await came(bob.log, 'connected');
    await seen.expect('online true');
  });
}
