// What others see of a client whose connection ends, and what it sees itself.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { came } from './library.mjs';

export function connections(gateway, Client) {
  test('a shutdown is seen at once', async (t) => {
    const s = await gateway().service(t, Client, { linger: 60 }); // longer than this test waits
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    await bob.shutdown();
    await seen.expect('online false');
    await s.open('bob');
    await seen.expect('online true');
    await seen.quiet();
  });

  test('who has several clients is online until the last is shut down', async (t) => {
    const s = await gateway().service(t, Client, { linger: 60 });
    const alice = await s.open('alice');
    const [phone, laptop] = [await s.open('bob'), await s.open('bob')];
    const seen = await s.watch(alice, 'bob');
    await phone.shutdown();
    await seen.quiet();
    assert.equal(seen.user.isOnline, true);
    await laptop.shutdown();
    await seen.expect('online false');
    await seen.quiet();
  });

  test('a lost connection lingers', async (t) => {
    const linger = 3;
    const s = await gateway().service(t, Client, { linger });
    const [alice, line] = [await s.open('alice'), await s.line()];
    await s.open('bob', { url: line.url });
    const seen = await s.watch(alice, 'bob');
    const lost = performance.now();
    line.fail();
    await seen.expect('online false');
    const after = seen.times[0] - lost;
    assert.ok(after >= linger * 1000 - 50, `offline after ${after} ms`); // the gateway's clock and this one need not tick alike
    line.restore();
    await seen.expect('online true');
    await seen.quiet();
  });

  test('who comes back within the linger was never away', async (t) => {
    const s = await gateway().service(t, Client, { linger: 20 });
    const [alice, line] = [await s.open('alice'), await s.line()];
    const bob = await s.open('bob', { url: line.url });
    const seen = await s.watch(alice, 'bob');
    for (let times = 0; times < 2; times += 1) {
      line.cut();
      await came(bob.log, 'connected');
    }
    await s.lingerOver(alice);
    await seen.quiet();
    assert.deepEqual([seen.user.isOnline, bob.connectionState, line.connections], [true, 'connected', 3]);
  });

  test('who was cut off is told what it missed, and nothing else', async (t) => {
    const s = await gateway().service(t, Client);
    const line = await s.line();
    const alice = await s.open('alice', { url: line.url });
    const [bob, carol, dave] = await Promise.all(['bob', 'carol', 'dave'].map((identity) => s.open(identity)));
    await s.make('erin');
    await dave.user.updateFriendlyName('Dave');
    const seen = {};
    for (const identity of ['bob', 'carol', 'dave', 'erin']) seen[identity] = await s.watch(alice, identity);
    for (let times = 1; times <= 2; times += 1) {
      line.fail();
      await alice.log.next((item) => typeof item === 'string' && item !== 'connected', 'loss');
      await bob.user.updateFriendlyName(`Bob ${times}`);
      await bob.user.updateAttributes({ times });
      if (times === 1) await carol.shutdown();
      else await s.open('carol');
      // There and back again: dave's name changes, and is as before.
      for (const name of ['David', 'Dave']) await s.profile('dave', { FriendlyName: name });
      await dave.setPushRegistrationId('fcm', `phone ${times}`);
      line.restore();
      await seen.bob.expect(`name Bob ${times}`, `attributes {"times":${times}}`);
      await seen.carol.expect(times === 1 ? 'online false' : 'online true');
      if (times === 1) await seen.dave.expect('notifiable true');
      for (const identity of ['bob', 'carol']) await seen[identity].quiet();
    }
    await seen.dave.quiet();
    await seen.erin.quiet();
    assert.equal(alice.connectionState, 'connected');
  });

  test('who unsubscribed while cut off is not told', async (t) => {
    const s = await gateway().service(t, Client);
    const line = await s.line();
    const alice = await s.open('alice', { url: line.url });
    const bob = await s.open('bob');
    const [seen, own] = [await s.watch(alice, 'bob'), await s.watch(alice, 'alice')];
    await s.profile('bob', { FriendlyName: 'Bob' });
    await seen.expect('name Bob');
    line.fail();
    await alice.log.next((item) => typeof item === 'string' && item !== 'connected', 'loss');
    await seen.user.unsubscribe();
    await bob.user.updateFriendlyName('Robert');
    line.restore();
    await own.quiet();
    await (await s.watch(alice, 'bob')).quiet();
    assert.deepEqual(seen.items, ['name Bob']);
  });
}
