// The configuration of webhooks, and what a backend receives.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { test } from 'node:test';
import twilio from 'twilio';
import { credentials } from '../gateway.mjs';
import { refused } from './library.mjs';

/** receiver is a backend: it checks each signature as the library does, and keeps what came. */
async function receiver() {
  const got = [];
  const waiting = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const url = `http://127.0.0.1:${server.address().port}${request.url}`;
    const form = Object.fromEntries(new URLSearchParams(request.method === 'POST' ? body : new URL(url).search));
    const signed = twilio.validateRequest(credentials.authToken, request.headers['x-twilio-signature'], url, request.method === 'POST' ? form : {});
    got.push({ ...form, method: request.method, url, signed });
    response.statusCode = request.url.startsWith('/refuse') ? 403 : 200;
    response.end();
    waiting.splice(0).forEach((look) => look());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    close: () => { server.closeAllConnections(); server.close(); },
    got,
    /** event is the first that came, or is to come, with these parameters. */
    async event(want) {
      for (;;) {
        const found = got.find((event) => Object.entries(want).every(([name, value]) => event[name] === value));
        if (found) return found;
        await new Promise((resolve) => waiting.push(resolve));
      }
    },
  };
}

export function webhooks(gateway) {
  test('webhooks are configured', async () => {
    const service = await gateway.service('hooked');
    for (const hooks of [service.configuration.webhooks(), gateway.v1.configuration.webhooks()]) {
      const set = await hooks.update({
        preWebhookUrl: 'https://example.com/pre', postWebhookUrl: 'https://example.com/post?a=b', filters: ['onUserAdded', 'onUserUpdated'], method: 'POST',
        ...(hooks._uri.startsWith('/Configuration') ? { target: 'webhook' } : {}),
      });
      assert.deepEqual([set.preWebhookUrl, set.postWebhookUrl, set.filters, set.method], ['https://example.com/pre', 'https://example.com/post?a=b', ['onUserAdded', 'onUserUpdated'], 'POST']);
      assert.deepEqual((await hooks.update()).toJSON(), set.toJSON());
      // An empty array is not sent at all; null is sent as an empty value.
      assert.deepEqual((await hooks.update({ filters: [], preWebhookUrl: null })).preWebhookUrl, null);
      assert.deepEqual((await hooks.fetch()).filters, ['onUserAdded', 'onUserUpdated']);
      await refused(hooks.update({ method: 'PUT' }), 400, 50055);
      await hooks.update({ postWebhookUrl: null });
    }
  });

  test('a backend hears of users, with signatures that the library accepts', { timeout: 30_000 }, async () => {
    const backend = await receiver();
    try {
      const service = await gateway.service('told');
      await service.configuration.webhooks().update({
        preWebhookUrl: `${backend.url}/pre`, postWebhookUrl: `${backend.url}/post?secret=a%20b&x=1`,
        filters: ['onUserAdded', 'onUserUpdate', 'onUserUpdated', 'onReachabilityChanged'], method: 'POST',
      });
      const made = await service.users.create({ identity: 'bob', friendlyName: 'Bob & Söns', xTwilioWebhookEnabled: 'true' });
      const added = await backend.event({ EventType: 'onUserAdded' });
      assert.deepEqual(
        [added.AccountSid, added.ChatServiceSid, added.UserSid, added.Identity, added.FriendlyName, added.Attributes, added.RoleSid, added.Source],
        [credentials.account, service.sid, made.sid, 'bob', 'Bob & Söns', '{}', made.roleSid, 'API'],
      );
      await service.users('bob').update({ friendlyName: 'unheard' });
      await service.users('bob').update({ friendlyName: 'Bobby', xTwilioWebhookEnabled: 'true' });
      const pre = await backend.event({ EventType: 'onUserUpdate' });
      assert.deepEqual([pre.Identity, pre.FriendlyName], ['bob', 'Bobby']);
      await backend.event({ EventType: 'onUserUpdated', FriendlyName: 'Bobby' });

      const session = await gateway.connect(gateway.token(service.sid, 'alice'));
      await backend.event({ EventType: 'onUserAdded', Identity: 'alice', Source: 'SDK', ClientIdentity: 'alice' });
      const online = await backend.event({ EventType: 'onUserUpdated', Identity: 'alice', isOnline: 'true' });
      assert.equal(online.UserSid, session.welcome.user.sid);
      await session.bye();
      await backend.event({ EventType: 'onUserUpdated', Identity: 'alice', isOnline: 'false' });
      await backend.event({ EventType: 'onReachabilityChanged', Identity: 'alice' });

      assert.deepEqual(backend.got.filter((event) => !event.signed), [], 'signatures that the library does not accept');
      assert.deepEqual(backend.got.filter((event) => event.FriendlyName === 'unheard' && event.EventType !== 'onUserUpdated'), []);

      // A refusal before the change stops it.
      await service.configuration.webhooks().update({ preWebhookUrl: `${backend.url}/refuse` });
      await refused(service.users('bob').update({ friendlyName: 'no', xTwilioWebhookEnabled: 'true' }), 400, 50056);
      assert.equal((await service.users('bob').fetch()).friendlyName, 'Bobby');

      // By GET the parameters are in the URL, and it alone is signed.
      await service.configuration.webhooks().update({ preWebhookUrl: null, method: 'GET' });
      await service.users.create({ identity: 'carol', xTwilioWebhookEnabled: 'true' });
      const asked = await backend.event({ EventType: 'onUserAdded', Identity: 'carol' });
      assert.deepEqual([asked.method, asked.signed, asked.secret], ['GET', true, 'a b']);
    } finally {
      backend.close();
    }
  });
}
