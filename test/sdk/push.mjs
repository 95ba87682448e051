// Registrations for push, as the SDK makes and removes them.

import assert from 'node:assert/strict';
import { test } from 'node:test';

export function push(gateway, Client) {
  const bindings = async (s, identity) => (await s.rest('GET', `/Users/${identity}/Bindings`)).bindings
    .map(({ binding_type: type, endpoint }) => `${type} ${endpoint}`).sort();

  test('registrations drive isNotifiable, those of either kind', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    await bob.setPushRegistrationId('fcm', 'phone');
    await seen.expect('notifiable true');
    await bob.setPushRegistrationId('apn', 'tablet');
    assert.deepEqual(await bindings(s, 'bob'), ['apn tablet', 'fcm phone']);
    await bob.unsetPushRegistrationId('fcm');
    assert.deepEqual(await bindings(s, 'bob'), ['apn tablet']);
    await bob.unsetPushRegistrationId('apn');
    await seen.expect('notifiable false');
    assert.deepEqual(await bindings(s, 'bob'), []);
    await seen.quiet();
  });

  test('an id that changes replaces the former', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    await bob.setPushRegistrationId('fcm', 'first');
    await seen.expect('notifiable true');
    await bob.setPushRegistrationId('fcm', 'second');
    assert.deepEqual(await bindings(s, 'bob'), ['fcm second']);
    await bob.removePushRegistrations('fcm', 'second');
    await seen.next((text) => text === 'notifiable false', 'notifiable false'); // the SDK may take the first away before it sets the second
    assert.deepEqual(await bindings(s, 'bob'), []);
  });

  test('a registration outlives the connection, and is removed by another client', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    await bob.setPushRegistrationId('apn', 'phone/ö');
    await seen.expect('notifiable true');
    await bob.shutdown();
    await seen.expect('online false');
    const { is_online: online, is_notifiable: notifiable } = await s.read('bob');
    assert.deepEqual([online, notifiable], [false, true]);
    const again = await s.open('bob');
    assert.equal(again.user.isNotifiable, true);
    await seen.expect('online true');
    await again.removePushRegistrations('apn', 'phone/ö');
    await seen.expect('notifiable false');
    await seen.quiet();
  });

  test('removing what is not there changes nothing, and what cannot be is refused', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    await bob.removePushRegistrations('fcm', 'nothing');
    await bob.unsetPushRegistrationId('apn');
    await assert.rejects(async () => bob.removePushRegistrations('pigeon', 'loft'));
    await seen.quiet();
    assert.deepEqual([await bindings(s, 'bob'), bob.connectionState], [[], 'connected']);
  });
}
