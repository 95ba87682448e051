// Errors, credentials and access tokens, as the library makes and reads them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { credentials } from '../gateway.mjs';
import { Gateway, refused } from './library.mjs';

export function quirks(gateway) {
  test('either pair of credentials lets in, nothing else does', async () => {
    const fetch = (user, password) => gateway.as(user, password).conversations.v1.configuration().fetch();
    assert.equal((await fetch(credentials.key, credentials.secret)).accountSid, credentials.account);
    await refused(fetch(credentials.account, 'wrong'), 401, 20003);
    await refused(fetch(credentials.key, credentials.authToken), 401, 20003);
  });

  test('an unescaped identity is a plain 404', async () => {
    const service = await gateway.service('escaped');
    await service.users.create({ identity: 'a%b' });
    await refused(service.users('nobody#b').fetch(), 404, 20404);
    assert.equal((await service.users(encodeURIComponent('a%b')).fetch()).identity, 'a%b');
  });

  test('a list refuses what is no page', async () => {
    const service = await gateway.service('paged');
    await refused(service.users.page({ pageSize: 0 }), 400, 20001);
    await refused(service.users.page({ pageNumber: 3 }), 400, 20001);
    await refused(service.users.page({ pageToken: 'PTnonsense' }), 400, 20001);
    assert.deepEqual(await service.users.list({ limit: 1000 }), []);
  });

  test('a library that may retries what came too early', async (t) => {
    const strict = new Gateway();
    t.after(() => strict.stop?.());
    await strict.start({ env: { ROLLCALL_REST_RATE: '1', ROLLCALL_REST_BURST: '1' } });
    const patient = strict.as(credentials.account, credentials.authToken, { autoRetry: true, maxRetries: 10 });
    const outcomes = await Promise.allSettled([1, 2].map(() => strict.v1.configuration().fetch()));
    const late = outcomes.find(({ status }) => status === 'rejected');
    assert.deepEqual([late?.reason.status, late?.reason.code], [429, 20429]);
    assert.equal((await patient.conversations.v1.configuration().fetch()).accountSid, credentials.account);
  });

  test('tokens of the library open sessions, and say why not', async () => {
    const service = await gateway.service('tokens');
    const session = await gateway.connect(gateway.token(service.sid, 'zoë & co', { ttl: 60, nbf: Math.floor(Date.now() / 1000) - 1 }));
    assert.equal(session.welcome.identity, 'zoë & co');
    await session.bye();
    const fails = async (code, token) => assert.rejects(gateway.connect(token), (err) => {
      assert.equal(err.code, code);
      return true;
    });
    await fails(20104, gateway.token(service.sid, 'late', { ttl: -10 }));
    await fails(20104, gateway.token(service.sid, 'long', { ttl: 25 * 60 * 60 }));
    await fails(20105, gateway.token(service.sid, 'early', { nbf: Math.floor(Date.now() / 1000) + 1000 }));
    await fails(20101, 'nonsense');
    await fails(112, gateway.token(`IS${'0'.repeat(32)}`, 'nowhere'));
  });
}
