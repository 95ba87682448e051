// Services, their configuration and the account's.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { credentials } from '../gateway.mjs';
import { refused, wantList } from './library.mjs';

const RECENT_MS = 60_000;

export function services(gateway) {
  test('services are made, read and deleted', async () => {
    const { v1 } = gateway;
    const before = (await v1.services.list()).map((s) => s.sid);
    const made = await v1.services.create({ friendlyName: 'Ünited + Söns & 100%' });
    assert.equal(made.friendlyName, 'Ünited + Söns & 100%');
    assert.equal(made.accountSid, credentials.account);
    assert.equal(made.url, `${gateway.url}/v1/Services/${made.sid}`);
    assert.equal(made.links.bindings, `${made.url}/Bindings`);
    assert.ok(Math.abs(Date.now() - made.dateCreated) < RECENT_MS && made.dateUpdated instanceof Date);

    const fetched = await v1.services(made.sid).fetch();
    assert.deepEqual(fetched.toJSON(), made.toJSON());
    const more = [made];
    for (const friendlyName of ['one', 'two', 'three']) more.push(await v1.services.create({ friendlyName }));
    await wantList(v1.services, [...before, ...more.map((s) => s.sid)]);

    for (const { sid } of more.slice(1)) assert.equal(await v1.services(sid).remove(), true);
    const gone = await v1.services(made.sid).removeWithHttpInfo();
    assert.deepEqual([gone.statusCode, gone.body], [204, true]);
    await refused(v1.services(made.sid).fetch(), 404, 20404);
    await refused(v1.services(made.sid).users.list(), 404, 20404);
    await refused(v1.services(made.sid).remove(), 404, 20404);
  });

  test('a service is configured', async () => {
    const { v1 } = gateway;
    const { sid } = await v1.services.create({ friendlyName: 'configured' });
    const configuration = v1.services(sid).configuration();
    const at = await configuration.fetch();
    assert.equal(at.reachabilityEnabled, false);
    assert.equal(at.links.webhooks, `${at.url}/Webhooks`);
    const roles = await v1.services(sid).roles.list();
    const type = (role) => roles.find((r) => r.sid === role)?.type;
    assert.deepEqual(
      [at.defaultChatServiceRoleSid, at.defaultConversationRoleSid, at.defaultConversationCreatorRoleSid].map(type),
      ['service', 'conversation', 'conversation'],
    );
    const on = await configuration.update({
      reachabilityEnabled: true, defaultChatServiceRoleSid: at.defaultChatServiceRoleSid,
      defaultConversationRoleSid: at.defaultConversationCreatorRoleSid, defaultConversationCreatorRoleSid: at.defaultConversationRoleSid,
    });
    assert.equal(on.reachabilityEnabled, true);
    assert.equal(on.defaultConversationRoleSid, at.defaultConversationCreatorRoleSid);
    assert.deepEqual((await configuration.update()).toJSON(), on.toJSON());
    await refused(configuration.update({ reachabilityEnabled: 'perhaps' }), 400, 20001);
  });

  test('push settings are kept', async () => {
    const service = await gateway.service('notified');
    const notifications = service.configuration.notifications();
    const at = await notifications.fetch();
    assert.equal(at.logEnabled, false);
    assert.deepEqual(at.newMessage, { enabled: false, template: null, sound: null, badge_count_enabled: false, with_media: { enabled: false, template: null } });
    const set = await notifications.update({
      logEnabled: true, 'newMessage.enabled': true, 'newMessage.template': 'a & b', 'newMessage.withMedia.enabled': true,
      'addedToConversation.sound': 'in', 'removedFromConversation.enabled': true,
    });
    assert.equal(set.logEnabled, true);
    assert.deepEqual(set.newMessage, { enabled: true, template: 'a & b', sound: null, badge_count_enabled: false, with_media: { enabled: true, template: null } });
    assert.equal(set.addedToConversation.sound, 'in');
    assert.equal(set.removedFromConversation.enabled, true);
    assert.deepEqual((await notifications.update()).toJSON(), set.toJSON());
  });

  test('the account is configured', async () => {
    const { v1 } = gateway;
    const at = await v1.configuration().fetch();
    assert.equal(at.accountSid, credentials.account);
    assert.equal(at.links.service, `${gateway.url}/v1/Services/${at.defaultChatServiceSid}/Configuration`);
    const other = await gateway.service('for a moment the default');
    const set = await v1.configuration().update({
      defaultChatServiceSid: other.sid, defaultMessagingServiceSid: `MG${'0'.repeat(32)}`, defaultInactiveTimer: 'PT1M', defaultClosedTimer: 'PT10M',
    });
    assert.deepEqual(
      [set.defaultChatServiceSid, set.defaultMessagingServiceSid, set.defaultInactiveTimer, set.defaultClosedTimer],
      [other.sid, `MG${'0'.repeat(32)}`, 'PT1M', 'PT10M'],
    );
    const { chatServiceSid } = await v1.users.create({ identity: 'of the new default' });
    assert.equal(chatServiceSid, other.sid);
    // null arrives as an empty value, which clears.
    const back = await v1.configuration().update({ defaultChatServiceSid: at.defaultChatServiceSid, defaultInactiveTimer: null });
    assert.deepEqual([back.defaultChatServiceSid, back.defaultInactiveTimer, back.defaultClosedTimer], [at.defaultChatServiceSid, null, 'PT10M']);
    await refused(v1.services(at.defaultChatServiceSid).remove(), 409, 20409);
  });
}
