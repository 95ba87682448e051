// Credentials, and the bindings that devices register over the socket.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { refused, until, wantList } from './library.mjs';

export function bindings(gateway) {
  test('credentials are made, read, changed and deleted', async () => {
    const { credentials } = gateway.v1;
    const before = (await credentials.list()).map((c) => c.sid);
    const apn = await credentials.create({ type: 'apn', friendlyName: 'Äpfel', certificate: 'hush', privateKey: 'hush', sandbox: true });
    const gcm = await credentials.create({ type: 'gcm', apiKey: 'hush' });
    const fcm = await credentials.create({ type: 'fcm', secret: 'hush' });
    assert.deepEqual([apn.type, apn.friendlyName, apn.sandbox, gcm.type, fcm.type], ['apn', 'Äpfel', 'True', 'gcm', 'fcm']);
    await wantList(credentials, [...before, apn.sid, gcm.sid, fcm.sid]);
    const { body } = await credentials(apn.sid).fetchWithHttpInfo();
    assert.ok(!JSON.stringify(body).includes('hush'), 'a secret is shown');
    const changed = await credentials(apn.sid).update({ type: 'apn', friendlyName: 'Birnen', certificate: 'hush', privateKey: 'hush', sandbox: false });
    assert.deepEqual([changed.friendlyName, changed.sandbox], ['Birnen', 'False']);
    assert.deepEqual((await credentials(apn.sid).fetch()).toJSON(), changed.toJSON());
    await refused(credentials.create({ type: 'pigeon' }), 400, 20001);
    for (const { sid } of [apn, gcm, fcm]) assert.equal(await credentials(sid).remove(), true);
    await refused(credentials(apn.sid).fetch(), 404, 20404);
  });

  test('bindings are listed, filtered and deleted', async () => {
    const service = await gateway.service('bound');
    const fcm = await gateway.v1.credentials.create({ type: 'fcm', secret: 'hush' });
    const sessions = {};
    const bind = async (identity, type, address, more = {}) => {
      const grant = type === fcm.type ? { pushCredentialSid: fcm.sid } : {}; // a credential is for its own type
      sessions[identity] ??= await gateway.connect(gateway.token(service.sid, identity, { grant }));
      const { binding } = await sessions[identity].request({ type: 'register_push', binding_type: type, address, ...more }, 'push_registered');
      return binding.sid;
    };
    const want = [await bind('ann', 'fcm', '1'), await bind('carl', 'gcm', '2'), await bind('b&b', 'fcm', '3', { message_types: ['new_message'] })];
    const { bindings: list } = service;
    await wantList(list, want);
    await wantList(list, [want[0], want[2]], { bindingType: ['fcm'] });
    await wantList(list, want, { bindingType: ['fcm', 'gcm'], identity: ['ann', 'carl', 'b&b'] });
    await wantList(list, [want[2]], { bindingType: ['fcm'], identity: ['b&b'] });
    await wantList(list, [], { identity: ['nobody'] });
    await refused(list.list({ bindingType: ['pigeon'] }), 400, 50209);

    const third = await list(want[2]).fetch();
    assert.deepEqual(
      [third.identity, third.endpoint, third.bindingType, third.credentialSid, third.messageTypes, third.chatServiceSid],
      ['b&b', '3', 'fcm', fcm.sid, ['new_message'], service.sid],
    );
    // The same address of another user moves there.
    assert.notEqual(await bind('ann', 'fcm', '3'), want[2]);
    await refused(list(want[2]).fetch(), 404, 20404);
    await until(() => service.users(encodeURIComponent('b&b')).fetch(), (u) => u.isNotifiable === false);

    for (const { sid } of await list.list()) assert.equal(await list(sid).remove(), true);
    await until(() => service.users('ann').fetch(), (u) => u.isNotifiable === false);
    await refused(list(want[0]).remove(), 404, 20404);
    for (const session of Object.values(sessions)) await session.bye();
  });
}
