// Several gateways on one real Redis, with clients of both versions of the SDK: what
// happens to nodes and store is not seen, and all see the same.

import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { startRedis } from '../gateway.mjs';
import { came, Gateway, Log, Node, sdks, spell, tolerate, until } from './library.mjs';

const [V3, V2] = Object.values(sdks);

/** cluster starts nodes on a Redis of their own, each with its own environment. */
async function cluster(t, ...envs) {
  const redis = await startRedis();
  t.after(redis.stop);
  const nodes = envs.map((env) => new Node({ redisUrl: redis.url, env }));
  t.after(() => Promise.all(nodes.map((node) => node.stop())));
  await Promise.all(nodes.map((node) => node.start()));
  return { redis, nodes, gateway: new Gateway(nodes[0]) };
}

// company opens clients of both versions, each of which watches all others.
async function company(s, url, each = 2) {
  const clients = await Promise.all(Array.from({ length: 2 * each }, (_, i) => s.open(`member ${i}`, { url, Client: i % 2 ? V2 : V3 })));
  const seen = [];
  for (const client of clients) {
    for (const other of clients) if (other !== client) seen.push(await s.watch(client, other.user.identity));
  }
  return { clients, seen };
}

const allConnected = (clients) => until(() => clients.map((client) => client.connectionState), (states) => states.every((state) => state === 'connected'));

// undisturbed asserts that nobody was told anything, and that everybody is told of what is new.
async function undisturbed({ clients, seen }) {
  await allConnected(clients);
  for (const client of clients) {
    const name = `${client.user.identity} is here`;
    const own = client.user.friendlyName === name ? `${name} again` : name;
    await client.user.updateFriendlyName(own);
    for (const log of seen.filter(({ user }) => user.identity === client.user.identity)) await log.expect(`name ${own}`);
  }
}

describe('several nodes', { concurrency: 8 }, () => {
  before(tolerate);

  test('clients of both versions, native ones and REST see the same on three nodes, in the same order', async (t) => {
    const { nodes, gateway } = await cluster(t, {}, {}, {});
    const s = await gateway.service(t, V3, { linger: 2 });
    await s.make('bob');
    const at = nodes.map(({ url }) => url);
    const lines = await Promise.all(at.map((url) => s.line(url)));
    const watchers = [];
    for (const [i, url] of at.entries()) {
      for (const Client of [V3, V2]) watchers.push(await s.watch(await s.open(`watcher ${Client.version} ${i}`, { url, Client }), 'bob'));
      const native = await s.native(`native ${i}`, { url });
      await native.request({ type: 'subscribe', identities: ['bob'] }, 'subscribed');
      const log = new Log(`native ${i}`);
      native.socket.on('message', (data) => {
        const { type, update_reasons: updateReasons, user } = JSON.parse(data);
        if (type !== 'user.updated') return;
        const { is_online: isOnline, is_notifiable: isNotifiable, friendly_name: friendlyName, attributes } = user;
        log.add(spell({ updateReasons, user: { isOnline, isNotifiable, friendlyName, attributes: attributes && JSON.parse(attributes) } }));
      });
      watchers.push(log);
    }

    let phone, laptop, native;
    const script = [
      ['online true', async () => { phone = await s.open('bob', { url: lines[0].url, Client: V3 }); }],
      ['name Bob', () => phone.user.updateFriendlyName('Bob')],
      ['notifiable true', () => phone.setPushRegistrationId('fcm', 'phone')],
      ['attributes {"at":"phone"}', () => phone.user.updateAttributes({ at: 'phone' })],
      ['name Robert', async () => {
        laptop = await s.open('bob', { url: lines[1].url, Client: V2 });
        await s.rest('POST', '/Users/bob', { FriendlyName: 'Robert' }, at[2]);
      }],
      ['attributes {"at":"laptop"}', async () => {
        await phone.shutdown(); // not the last one
        await laptop.user.updateAttributes({ at: 'laptop' });
      }],
      ['online false', () => laptop.shutdown()],
      ['online true', async () => { native = await s.native('bob', { url: at[2] }); }],
      ['name b', () => s.rest('POST', '/Users/bob', { FriendlyName: 'b' }, at[0])],
      ['online null, notifiable null', () => s.rest('POST', '/Configuration', { ReachabilityEnabled: 'false' }, at[1])],
      ['attributes {"off":true}', () => s.rest('POST', '/Users/bob', { Attributes: '{"off":true}' }, at[2])],
      ['online true, notifiable true', () => s.rest('POST', '/Configuration', { ReachabilityEnabled: 'true' }, at[2])],
      ['notifiable false', async () => {
        laptop = await s.open('bob', { url: lines[0].url, Client: V2 });
        await laptop.removePushRegistrations('fcm', 'phone');
      }],
      ['notifiable true', () => native.request({ type: 'register_push', binding_type: 'apn', address: 'tablet' }, 'push_registered')],
      ['name of both', async () => {
        native.send({ type: 'bye' });
        await laptop.user.updateFriendlyName('of both');
      }],
      ['online false', () => lines[0].fail()], // after the linger
      ['online true', () => lines[0].restore()],
      ['attributes [3]', () => laptop.user.updateAttributes([3])],
      ['online false', () => s.rest('DELETE', '/Users/bob/Sessions', undefined, at[1])],
      ['online true', async () => { phone = await s.open('bob', { url: lines[2].url, Client: V3 }); }],
      ['notifiable false', () => phone.removePushRegistrations('apn', 'tablet')],
      ['name end', () => phone.user.updateFriendlyName('end')],
      ['online false', () => phone.shutdown()],
    ];
    for (const [want, act] of script) {
      await act();
      for (const log of watchers) await log.expect(want);
      const { user } = watchers[0];
      for (const url of at) {
        const { is_online: isOnline, is_notifiable: isNotifiable, friendly_name: friendlyName, attributes } = await s.read('bob', url);
        assert.deepEqual(
          { isOnline, isNotifiable, friendlyName, attributes: JSON.parse(attributes) },
          { isOnline: user.isOnline, isNotifiable: user.isNotifiable, friendlyName: user.friendlyName, attributes: user.attributes },
          `REST after ${want}`,
        );
      }
    }
    await s.profile('bob', { FriendlyName: 'mark' });
    for (const log of watchers) {
      await log.expect('name mark');
      assert.deepEqual(log.items, [...script.map(([want]) => want), 'name mark'], log.name);
    }
  });

  for (const [how, end] of [['stopped', (node) => node.stop()], ['killed', (node) => node.kill()]]) {
    test(`a node that is ${how} and started again is not seen`, async (t) => {
      const { nodes: [node], gateway } = await cluster(t, { ROLLCALL_LEASE_TTL: '8s' });
      const s = await gateway.service(t, V3);
      const present = await company(s);
      for (let times = 0; times < 2; times += 1) {
        const gone = await s.native(`gone ${times}`);
        const ofGone = await s.watch(present.clients[times], gone.identity);
        await end(node);
        await node.start();
        await ofGone.expect('online false'); // it did not come back, and so all others have
        await undisturbed(present);
      }
      for (const { log } of present.clients) assert.equal(log.items.filter((item) => item === 'connected').length, 3);
    });
  }

  test('a node that is killed for good takes only those along who do not come back', async (t) => {
    const { nodes, gateway } = await cluster(t, {}, {}, {});
    const s = await gateway.service(t, V3);
    const line = await s.line(...nodes.slice().reverse().map(({ url }) => url));
    const present = await company(s, line.url);
    const lost = nodes[2];
    const leaving = await Promise.all(['x', 'y'].map((identity) => s.native(identity, { url: lost.url })));
    const watcher = await s.open('watcher', { Client: V2 });
    const seen = [];
    for (const { identity } of leaving) {
      seen.push(await s.watch(watcher, identity), await s.watch(present.clients[0], identity));
    }
    await lost.kill();
    for (const log of seen) await log.expect('online false');
    await undisturbed(present);
    for (const log of seen.filter(({ user }) => user.identity === 'x')) assert.deepEqual(log.items, ['online false']);
    await seen[2].quiet();
  });

  test('restarting three nodes in turn, behind a load balancer, is not seen', async (t) => {
    const { nodes, gateway } = await cluster(t, {}, {}, {});
    const s = await gateway.service(t, V3);
    const line = await s.line(...nodes.map(({ url }) => url));
    const present = await company(s, line.url, 3);
    const gone = await s.native('gone', { url: nodes[2].url }); // leaves with the last node that is stopped
    const ofGone = await s.watch(present.clients[0], gone.identity);
    for (const node of nodes) {
      await node.stop();
      await node.start();
      await allConnected(present.clients);
    }
    await ofGone.expect('online false'); // by when all the others would be shown so, had they not come back
    await undisturbed(present);
    assert.ok(line.connections >= 2 * present.clients.length, `only ${line.connections} connections`);
  });

  test('while Redis is away clients stay, nobody is shown offline, and who comes gets in when it is back', async (t) => {
    const timers = { ROLLCALL_LEASE_TTL: '4s', ROLLCALL_HEARTBEAT: '1s' };
    const { redis, nodes: [patient, strict], gateway } = await cluster(t, timers, { ...timers, ROLLCALL_WAIT_TIMEOUT: '0s' });
    const s = await gateway.service(t, V3);
    const present = await company(s);
    const line = await s.line(patient.url);
    const cut = await Promise.all([V3, V2].map((Client) => s.open(`cut ${Client.version}`, { url: line.url, Client })));
    const elsewhere = await Promise.all([V3, V2].map((Client) => s.open(`elsewhere ${Client.version}`, { url: strict.url, Client })));
    const [watcher] = present.clients;
    const seen = await Promise.all([...cut, ...elsewhere].map(({ user }) => s.watch(watcher, user.identity)));

    redis.pause();
    t.after(redis.resume);
    const connections = line.connections;
    line.cut();
    const asked = present.clients.map((client) => client.getUser('nobody').then(() => 200, ({ status, message }) => status ?? message));
    const newcomers = [V3, V2].map((Client, i) => s.start(`newcomer ${i}`, { url: strict.url, Client }));
    for (const { log } of newcomers) {
      for (let times = 0; times < 3; times += 1) { // for longer than a lease lasts
        const { error, terminal } = await log.next((item) => item.error, 'error');
        assert.deepEqual([error, terminal], [503, false]);
      }
    }
    await until(() => line.connections, (n) => n >= connections + cut.length);
    redis.resume();

    for (const { log } of newcomers) await came(log, 'initialized');
    await allConnected(cut);
    // A request waits in the SDK, which tries again some times and then gives up.
    for (const got of await Promise.all(asked)) assert.ok([404, 503, 'Maximum attempt count limit reached'].includes(got), got);
    await undisturbed(present);
    for (const log of seen) await log.quiet();
    for (const client of [...present.clients, ...elsewhere]) {
      assert.deepEqual(client.log.items.filter((item) => item === 'connected').length, 1, 'a client was disconnected');
      assert.equal((await client.getUser('newcomer 0')).isOnline, true);
    }
  });

  for (const [name, Client] of Object.entries(sdks)) {
    test(`with a lower limit of subscriptions, ${name} is told of all that it says it is subscribed to`, async (t) => {
      const { gateway } = await cluster(t, { ROLLCALL_MAX_SUBSCRIPTIONS: '10' });
      const s = await gateway.service(t, Client);
      const names = Array.from({ length: 12 }, (_, i) => `user ${i}`);
      await Promise.all(names.map((identity) => s.make(identity)));
      const alice = await s.open('alice');
      const seen = [];
      for (const identity of names.slice(0, 4)) seen.push(await s.watch(alice, identity));
      seen.push(...await Promise.all(names.slice(4).map((identity) => s.watch(alice, identity)))); // the older make way
      assert.equal((await alice.getSubscribedUsers()).length, 1 + 4);
      for (const log of seen.filter(({ user }) => user.isSubscribed)) {
        await s.profile(log.user.identity, { FriendlyName: 'told' });
        await log.expect('name told');
      }
    });
  }
});
