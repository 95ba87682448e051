// Users and their reachability, as the SDK shows them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { came, connectUri, Log, spell, until } from './library.mjs';

// A user may have each of these as its identity, and be asked for by it.
const ODD = ['a/b', 'a?b=c&d', 'a#b', '100%', '%2F', 'a@b.example', 'a:b', ' a b ', '+', '..', 'zoë', '日本語', '👩‍👩‍👧 family', '"\\\'<&>', 'MPuYQ', 'x'.repeat(256)];

export function users(gateway, Client) {
  test('a client initialises, and is online by then', async (t) => {
    const s = await gateway().service(t, Client);
    const alice = await s.open('alice');
    assert.deepEqual([alice.reachabilityEnabled, alice.connectionState], [true, 'connected']);
    assert.deepEqual([alice.user.identity, alice.user.isOnline, alice.user.isNotifiable], ['alice', true, null]);
    assert.deepEqual([alice.user.friendlyName, alice.user.attributes], [null, {}]);
    assert.equal((await s.read('alice')).is_online, true);
    assert.deepEqual(alice.log.items.filter((item) => typeof item !== 'string' || item.startsWith('token')), []);
  });

  test('Client.create gives a client that is ready', async (t) => {
    const s = await gateway().service(t, Client);
    const alice = await Client.create(s.token('alice'), { Twilsock: { uri: connectUri(s.gateway.url) } });
    t.after(() => alice.shutdown());
    await alice.getSubscribedConversations();
    assert.deepEqual([alice.user.identity, alice.user.isOnline, alice.connectionState], ['alice', true, 'connected']);
  });

  test('with reachability disabled nobody is known', async (t) => {
    const s = await gateway().service(t, Client, { enabled: false });
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    await bob.setPushRegistrationId('fcm', 'device');
    assert.equal(alice.reachabilityEnabled, false);
    assert.deepEqual([alice.user.isOnline, alice.user.isNotifiable], [null, null]);
    const seen = await s.watch(alice, 'bob');
    assert.deepEqual([seen.user.isOnline, seen.user.isNotifiable], [null, null]);
    await bob.shutdown();
    await seen.quiet();
    assert.deepEqual([seen.user.isOnline, seen.user.isNotifiable], [null, null]);
  });

  test('getUser tells who is online, who was, who never was, and who does not exist', async (t) => {
    const s = await gateway().service(t, Client);
    await s.make('carol', { FriendlyName: 'Carol', Attributes: '{"duty":["tech",1]}' });
    const alice = await s.open('alice');
    await s.open('bob');
    await (await s.open('dave')).shutdown();
    const [bob, carol] = await Promise.all(['bob', 'carol'].map((identity) => alice.getUser(identity)));
    assert.deepEqual([bob.isOnline, bob.isNotifiable, bob.isSubscribed], [true, null, true]);
    assert.deepEqual([carol.isOnline, carol.isNotifiable, carol.friendlyName, carol.attributes], [null, null, 'Carol', { duty: ['tech', 1] }]);
    const dave = await s.watch(alice, 'dave');
    if (dave.user.isOnline !== false) await dave.expect('online false'); // the shutdown only says that it was asked for
    assert.equal(dave.user.isOnline, false);
    await assert.rejects(alice.getUser('nobody'), { status: 404 });
    assert.equal((await alice.getUser('carol')).friendlyName, 'Carol');
  });

  test('whatever is in an identity', async (t) => {
    const s = await gateway().service(t, Client);
    const watcher = await s.open('watcher');
    for (const identity of ODD) {
      const odd = await s.open(identity);
      assert.deepEqual([odd.user.identity, odd.user.isOnline], [identity, true]);
      const seen = await s.watch(watcher, identity);
      assert.deepEqual([seen.user.identity, seen.user.isOnline], [identity, true]);
      await odd.user.updateFriendlyName(`is ${identity}`.slice(0, 200));
      await seen.expect(`name is ${identity}`.slice(0, 205));
      await odd.shutdown();
      await seen.expect('online false');
      await s.open(identity);
      await seen.expect('online true');
    }
  });

  test('an identity that cannot be is not found', async (t) => {
    const s = await gateway().service(t, Client);
    const alice = await s.open('alice');
    for (const identity of ['x'.repeat(257), 'é'.repeat(129)]) {
      await assert.rejects(alice.getUser(identity), ({ status }) => status === 400 || status === 404, identity);
    }
    assert.equal((await alice.getUser('alice')).isOnline, true);
  });

  test('getSubscribedUsers names them until they are unsubscribed', async (t) => {
    const s = await gateway().service(t, Client);
    const alice = await s.open('alice');
    await Promise.all(['bob', 'carol'].map((identity) => s.make(identity)));
    const names = async () => (await alice.getSubscribedUsers()).map(({ identity }) => identity).sort();
    const before = await names();
    const bob = await alice.getUser('bob');
    await alice.getUser('carol');
    assert.deepEqual(await names(), [...before, 'bob', 'carol'].sort());
    await bob.unsubscribe();
    assert.deepEqual(await names(), [...before, 'carol'].sort());
    assert.equal(bob.isSubscribed, false);
  });

  test('after unsubscribe nothing comes, and a new getUser sees what is', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const [seen, witness] = [await s.watch(alice, 'bob'), await s.watch(await s.open('witness'), 'bob')];
    await bob.user.updateFriendlyName('first');
    await Promise.all([seen, witness].map((log) => log.expect('name first')));
    await seen.user.unsubscribe();
    await bob.user.updateFriendlyName('second');
    await bob.shutdown();
    await witness.expect('name second', 'online false');
    const again = await s.watch(alice, 'bob');
    assert.deepEqual([again.user.friendlyName, again.user.isOnline], ['second', false]);
    await again.quiet();
    assert.deepEqual(seen.items, ['name first']);
  });

  test('updated names its reasons, in one event if both fields change', async (t) => {
    const s = await gateway().service(t, Client);
    const alice = await s.open('alice');
    await s.make('bob');
    const seen = await s.watch(alice, 'bob');
    const bob = await s.open('bob');
    await seen.expect('online true');
    await bob.setPushRegistrationId('fcm', 'device');
    await seen.expect('notifiable true');
    await bob.user.updateFriendlyName('Bob 😀');
    await seen.expect('name Bob 😀');
    await bob.user.updateAttributes({ a: [1, 'é😀', null] });
    await seen.expect('attributes {"a":[1,"é😀",null]}');
    await s.profile('bob', { FriendlyName: 'Robert', Attributes: '{}' });
    await seen.expect('name Robert', 'attributes {}'); // the SDK makes two of it
    await s.enable(false);
    await seen.expect('online null, notifiable null');
    await s.enable(true);
    await seen.expect('online true, notifiable true');
    await bob.shutdown();
    await seen.expect('online false');
    await seen.quiet();
  });

  test("the client's userUpdated tells the same", async (t) => {
    const s = await gateway().service(t, Client);
    const alice = await s.open('alice');
    await s.make('bob');
    const seen = await s.watch(alice, 'bob');
    const all = new Log('userUpdated');
    alice.on('userUpdated', (update) => all.add(`${update.user.identity}: ${spell(update)}`));
    const bob = await s.open('bob');
    await seen.expect('online true');
    await bob.shutdown();
    await seen.expect('online false');
    await alice.user.updateFriendlyName('Alice');
    await all.expect('bob: online true', 'bob: online false', 'alice: name Alice');
  });

  test('users change their own profile, in sight of themselves, others and REST', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    const own = new Log('own user');
    bob.user.on('updated', (update) => own.add(spell(update)));
    await bob.user.updateFriendlyName('Bob');
    await Promise.all([seen, own].map((log) => log.expect('name Bob')));
    for (const value of [{ deep: { er: [true, null] } }, 'text', 7, [1, 2], null, {}]) {
      await bob.user.updateAttributes(value);
      await Promise.all([seen, own].map((log) => log.expect(`attributes ${JSON.stringify(value)}`)));
    }
    const { friendly_name: name, attributes } = await s.read('bob');
    assert.deepEqual([name, attributes], ['Bob', '{}']);
    assert.deepEqual([bob.user.friendlyName, bob.user.attributes], ['Bob', {}]);
    await seen.quiet();
  });

  test('a profile that is too long is refused, and nothing changes', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    await assert.rejects(bob.user.updateFriendlyName('x'.repeat(257)), { status: 400 });
    await assert.rejects(bob.user.updateAttributes({ text: 'x'.repeat(16 * 1024) }), { status: 400 });
    // Deeper than this the SDK of whoever follows bob would overflow its stack, here and in REST.
    const deep = (levels) => JSON.parse('['.repeat(levels) + ']'.repeat(levels));
    await assert.rejects(bob.user.updateAttributes(deep(65)), { status: 400 });
    await assert.rejects(s.profile('bob', { Attributes: JSON.stringify(deep(65)) }), { status: 400 });
    await seen.quiet();
    assert.equal((await s.read('bob')).attributes, '{}');
    await bob.user.updateAttributes(deep(64));
    await seen.next((text) => text.startsWith('attributes'), 'attributes');
    await bob.user.updateFriendlyName('x'.repeat(256));
    await seen.expect(`name ${'x'.repeat(256)}`);
    await bob.user.updateAttributes({ text: 'x'.repeat(16 * 1024 - 11) });
    await seen.next((text) => text.startsWith('attributes'), 'attributes');
    assert.equal(bob.connectionState, 'connected');
  });

  test("another's profile is refused", async (t) => {
    const s = await gateway().service(t, Client);
    const alice = await s.open('alice');
    await s.make('bob', { FriendlyName: 'Bob' });
    const seen = await s.watch(alice, 'bob');
    await assert.rejects(seen.user.updateFriendlyName('hijacked'), { status: 403 });
    await assert.rejects(seen.user.updateAttributes({ hijacked: true }), { status: 403 });
    const { friendly_name: name, attributes } = await s.read('bob');
    assert.deepEqual([name, attributes], ['Bob', '{}']);
    await seen.quiet();
  });

  test('the switch reaches clients that are connected', async (t) => {
    const s = await gateway().service(t, Client, { enabled: false });
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const [seen, own] = [await s.watch(alice, 'bob'), new Log('own user')];
    bob.user.on('updated', (update) => own.add(spell(update)));
    for (let times = 0; times < 3; times += 1) {
      await s.enable(true);
      await Promise.all([seen, own].map((log) => log.expect('online true')));
      assert.equal((await s.open(`newcomer ${times}`)).reachabilityEnabled, true);
      await s.enable(false);
      await Promise.all([seen, own].map((log) => log.expect('online null')));
    }
    // It is told when a client starts only.
    assert.deepEqual([alice.reachabilityEnabled, (await s.open('late')).reachabilityEnabled], [false, false]);
    await seen.quiet();
  });

  test('a client that began while the switch was off is told of whom it comes to follow', async (t) => {
    const s = await gateway().service(t, Client, { enabled: false });
    const line = await s.line();
    const alice = await s.open('alice', { url: line.url });
    await s.enable(true);
    for (const [identity, lost] of [['bob', false], ['carol', true]]) {
      await s.open(identity);
      if (lost) { // on a later connection the SDK does not ask for the switch
        line.fail();
        await alice.log.next((item) => item === 'connecting', 'loss');
        line.restore();
        await came(alice.log, 'connected');
      }
      const { user } = await s.watch(alice, identity);
      await until(() => user.isOnline, (online) => online === true);
    }
  });

  test('a deleted user is unknown, and known again once it is made again', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    await bob.user.updateFriendlyName('Bob');
    const seen = await s.watch(alice, 'bob');
    await s.remove('bob');
    await seen.next((text) => text.includes('online null'), 'online null');
    assert.deepEqual([seen.user.isOnline, seen.user.isNotifiable], [null, null]);
    await assert.rejects((await s.open('other')).getUser('bob'), { status: 404 });
    await bob.log.next((item) => item === 'disconnected' || item === 'denied', 'disconnected');
    await s.open('bob');
    await seen.next((text) => text.includes('online true'), 'online true');
    assert.equal(seen.user.friendlyName, null);
    await seen.quiet();
  });
}
