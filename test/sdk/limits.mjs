// The SDK at its limits and at the gateway's, and what is beyond reachability.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { came } from './library.mjs';

const USERS = 100; // that the SDK subscribes to at most
const SESSIONS = 100; // of a user, on a node

export function limits(gateway, Client) {
  test(`an application may ask for ${USERS} users at once, and the oldest makes way for one more`, async (t) => {
    const s = await gateway().service(t, Client);
    const line = await s.line();
    const names = Array.from({ length: USERS + 1 }, (_, i) => `user ${i}`);
    await Promise.all(names.map((identity) => s.make(identity)));
    const alice = await s.open('alice', { url: line.url });
    const subscribed = async () => (await alice.getSubscribedUsers()).filter((user) => user !== alice.user).length;
    const asked = await Promise.all(names.slice(0, USERS).map((identity) => s.watch(alice, identity)));
    assert.ok(line.received.includes('"code":200'), 'the answers cannot be read');
    assert.ok(!line.received.includes('"code":429'), 'a request was refused for rate');
    assert.equal(await subscribed(), USERS);

    const more = await s.watch(alice, names[USERS]);
    assert.deepEqual([await subscribed(), asked[0].user.isSubscribed, asked[1].user.isSubscribed], [USERS, false, true]);
    for (const identity of names) await s.profile(identity, { FriendlyName: identity });
    for (const seen of [...asked.slice(1), more]) await seen.expect(`name ${seen.user.identity}`);
    assert.deepEqual(asked[0].items, []);

    const back = await s.watch(alice, names[0]);
    assert.equal(back.user.friendlyName, names[0]);
    assert.equal(asked[1].user.isSubscribed, false);
    await back.quiet();
    assert.ok(!line.received.includes('"code":429'), 'a request was refused for rate');
  });

  test(`${USERS} subscriptions survive a reconnect`, async (t) => {
    const s = await gateway().service(t, Client);
    const line = await s.line();
    const names = Array.from({ length: USERS }, (_, i) => `user ${i}`);
    await Promise.all(names.map((identity) => s.make(identity)));
    const alice = await s.open('alice', { url: line.url });
    const seen = await Promise.all(names.map((identity) => s.watch(alice, identity)));
    line.fail();
    await alice.log.next((item) => typeof item === 'string' && item !== 'connected', 'loss');
    for (const identity of names) await s.profile(identity, { FriendlyName: identity });
    line.restore();
    for (const log of seen) await log.expect(`name ${log.user.identity}`);
    assert.ok(!line.received.includes('"code":429'), 'a request was refused for rate');
    await seen[0].quiet();
    await seen.at(-1).quiet();
  });

  test('a user with too many sessions is let in once some have ended', async (t) => {
    const s = await gateway().service(t, Client);
    const others = await Promise.all(Array.from({ length: SESSIONS }, () => s.native('alice')));
    const { client, log } = s.start('alice');
    assert.deepEqual(await log.next((item) => item.error, 'error'), { error: 429, terminal: false, errorCode: 113 });
    await came(log, 'initFailed');
    for (const other of others) other.send({ type: 'bye' });
    await came(log, 'initialized'); // it was told to wait for half a minute
    await client.getSubscribedConversations();
  });

  test('what is beyond reachability is refused cleanly', async (t) => {
    const s = await gateway().service(t, Client);
    const [alice, bob] = await Promise.all(['alice', 'bob'].map((identity) => s.open(identity)));
    const seen = await s.watch(alice, 'bob');
    const sid = `CH${'0'.repeat(32)}`;
    for (const [name, ask, status] of [
      ['createConversation', () => alice.createConversation({ uniqueName: 'room', friendlyName: 'A room' }), 501],
      ['getConversationBySid', () => alice.getConversationBySid(sid), 404],
      ['peekConversationBySid', () => alice.peekConversationBySid(sid), 404],
      ['getConversationByUniqueName', () => alice.getConversationByUniqueName('a room/?#'), 404],
      ['getTemporaryContentUrlsForMediaSids', () => alice.getTemporaryContentUrlsForMediaSids([`ME${'0'.repeat(32)}`])],
      ['getContentTemplates', () => alice.getContentTemplates()],
    ]) {
      await t.test(name, async () => {
        await assert.rejects(async () => ask(), (err) => {
          assert.ok(status === undefined || err.status === status, `${name}: ${err.status} ${err.message} ${err.stack}`);
          return true;
        });
      });
    }
    const page = await alice.getSubscribedConversations();
    assert.deepEqual([page.items, page.hasNextPage], [[], false]);
    await seen.quiet();
    await alice.user.updateFriendlyName('still here');
    assert.equal((await s.read('alice')).friendly_name, 'still here');
    assert.equal(alice.connectionState, 'connected');
  });
}
