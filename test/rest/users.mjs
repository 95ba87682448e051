// Users in both forms of URL, roles, and what the two fields tell.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { refused, until, wantList } from './library.mjs';

export function users(gateway) {
  const forms = {
    'with their service': async () => {
      const service = await gateway.service('of users');
      return { service, of: service, base: `/v1/Services/${service.sid}` };
    },
    'of the default service': async () => {
      const { defaultChatServiceSid: sid } = await gateway.v1.configuration().fetch();
      return { service: Object.assign(gateway.v1.services(sid), { sid }), of: gateway.v1, base: '/v1' };
    },
  };

  for (const [form, given] of Object.entries(forms)) {
    test(`users ${form} are made, read, changed and deleted`, async () => {
      const { service, of: { users: of }, base } = await given();
      const before = (await of.list()).map((u) => u.sid);
      const { defaultChatServiceRoleSid } = await service.configuration().fetch();
      const made = await of.create({ identity: 'a b+é@x', friendlyName: 'Ann & Bob', attributes: '{ "duty": "tech" }', roleSid: defaultChatServiceRoleSid, xTwilioWebhookEnabled: 'true' });
      assert.deepEqual(
        [made.identity, made.friendlyName, made.attributes, made.roleSid, made.isOnline, made.isNotifiable, made.chatServiceSid],
        ['a b+é@x', 'Ann & Bob', '{ "duty": "tech" }', defaultChatServiceRoleSid, null, null, service.sid],
      );
      assert.equal(made.url, `${gateway.url}${base}/Users/${made.sid}`);
      assert.equal(made.links.user_conversations, `${made.url}/Conversations`);

      const more = [made];
      for (const identity of ['a/b', 'a?b', 'a#b', 'a%2Fb', 'listed.1']) more.push(await of.create({ identity }));
      assert.deepEqual([more[1].friendlyName, more[1].attributes], [null, '{}']);
      for (const u of more) {
        for (const by of [u.sid, encodeURIComponent(u.identity)]) assert.equal((await of(by).fetch()).sid, u.sid, by);
      }
      await wantList(of, [...before, ...more.map((u) => u.sid)]);

      const changed = await of(made.sid).update({ friendlyName: 'Both', attributes: '[1,"2"]', roleSid: defaultChatServiceRoleSid, xTwilioWebhookEnabled: 'true' });
      assert.deepEqual([changed.friendlyName, changed.attributes], ['Both', '[1,"2"]']);
      assert.deepEqual((await of(made.sid).update()).toJSON(), changed.toJSON());
      assert.equal((await of(made.sid).update({ attributes: null })).attributes, '{}');

      await refused(of.create({ identity: 'a/b' }), 409, 50201);
      await refused(of.create({ identity: `US${'0'.repeat(32)}` }), 400, 50206);
      await refused(of(made.sid).update({ attributes: '{' }), 400, 50304);
      for (const u of more) assert.equal(await of(u.sid).remove({ xTwilioWebhookEnabled: 'true' }), true);
      await refused(of(made.sid).fetch(), 404, 20404);
      await refused(of(encodeURIComponent(made.identity)).fetch(), 404, 20404);
    });

    test(`roles ${form} are made, read, changed and deleted`, async () => {
      const { service, of: { roles: of }, base } = await given();
      const before = await of.list();
      assert.deepEqual(before.slice(0, 4).map((r) => r.friendlyName).sort(), ['channel admin', 'channel user', 'service admin', 'service user']);
      const made = await of.create({ friendlyName: 'Prüfer', type: 'service', permission: ['joinConversation', 'editOwnUserInfo'] });
      assert.deepEqual([made.friendlyName, made.type, made.chatServiceSid, [...made.permissions].sort()], ['Prüfer', 'service', service.sid, ['editOwnUserInfo', 'joinConversation']]);
      assert.equal(made.url, `${gateway.url}${base}/Roles/${made.sid}`);
      await wantList(of, [...before.map((r) => r.sid), made.sid]);
      const changed = await of(made.sid).update({ permission: ['createConversation'] });
      assert.deepEqual(changed.permissions, ['createConversation']);
      assert.deepEqual((await of(made.sid).fetch()).toJSON(), changed.toJSON());
      await refused(of.create({ friendlyName: 'x', type: 'channel', permission: ['joinConversation'] }), 400, 50105);
      assert.equal(await of(made.sid).remove(), true);
      await refused(of(made.sid).fetch(), 404, 20404);
    });
  }

  test('the two fields follow a user', async () => {
    const service = await gateway.service('reachable');
    const read = () => service.users('alice').fetch();
    const online = (want) => until(read, (u) => u.isOnline === want);
    const token = gateway.token(service.sid, 'alice');

    // A user comes into being by connecting.
    const session = await gateway.connect(token);
    assert.equal(session.welcome.identity, 'alice');
    const { dateUpdated, isNotifiable } = await online(true);
    assert.equal(isNotifiable, null);
    const { binding } = await session.request({ type: 'register_push', binding_type: 'fcm', address: 'device' }, 'push_registered');
    assert.equal((await until(read, (u) => u.isNotifiable === true)).isOnline, true);
    const [listed] = await service.users.list();
    assert.deepEqual([listed.sid, listed.isOnline, listed.isNotifiable], [session.welcome.user.sid, null, null]);

    await session.request({ type: 'unregister_push', sid: binding.sid }, 'push_unregistered');
    await until(read, (u) => u.isNotifiable === false);
    await session.bye();
    assert.deepEqual((await online(false)).dateUpdated, dateUpdated, 'reachability moved date_updated');

    await service.configuration().update({ reachabilityEnabled: false });
    await online(null);
    await service.configuration().update({ reachabilityEnabled: true });
    assert.deepEqual([(await read()).isOnline, (await read()).isNotifiable], [null, null]);
  });
}
