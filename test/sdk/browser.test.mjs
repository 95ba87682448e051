// The bundles that the SDKs ship for browsers, in Chromium, on a page of another origin.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { chromium } from 'playwright-core';
import { browser as browserOptions } from '../gateway.mjs';
import { connectUri, Gateway, Log, sdks, tolerate } from './library.mjs';

const bundle = (name) => readFileSync(new URL(`node_modules/conversations-${name[0]}/builds/twilio-conversations.min.js`, import.meta.url));

/** site serves a page for each version, which has the SDK and nothing else. */
async function site() {
  const server = createServer((request, response) => {
    const [, name, file] = request.url.split('/');
    if (file === 'sdk.js' && sdks[name]) response.setHeader('Content-Type', 'text/javascript').end(bundle(name));
    else if (sdks[name]) response.setHeader('Content-Type', 'text/html').end(`<!doctype html><title>${name}</title><script src="/${name}/sdk.js"></script>`);
    else response.writeHead(404).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { origin: `http://localhost:${server.address().port}`, close: () => server.close() };
}

describe('in a browser', { concurrency: 4 }, () => {
  let gateway, browser, pages;

  before(async () => {
    tolerate();
    pages = await site();
    gateway = await Gateway.start({ env: { ROLLCALL_ALLOWED_ORIGINS: new URL(pages.origin).host } });
    browser = await chromium.launch(browserOptions);
  });
  after(async () => {
    await browser?.close();
    await gateway?.stop();
    pages?.close();
  });

  for (const [name, Client] of Object.entries(sdks)) {
    describe(`${name} (${Client.version})`, { concurrency: 8 }, () => {
      // visit opens a page in which a user is connected. What it says of its
      // connection and of those that it watches is in the two logs.
      async function visit(t, s, identity, { watching = [] } = {}) {
        const context = await browser.newContext();
        t.after(() => context.close());
        const page = await context.newPage();
        page.setDefaultTimeout(60_000);
        const log = new Log(`the page of ${identity}`);
        const seen = new Log(`what the page of ${identity} sees`);
        await page.exposeFunction('said', (item) => log.add(item));
        await page.exposeFunction('saw', (item) => seen.add(item));
        page.on('pageerror', (err) => log.add(`error ${err.message}`));
        const go = async () => {
          await page.goto(`${pages.origin}/${name}/`);
          await page.evaluate(async ({ token, uri, watching }) => {
            const client = new globalThis.Twilio.Conversations.Client(token, { Twilsock: { uri } });
            globalThis.client = client;
            client.on('connectionStateChanged', (state) => globalThis.said(state));
            await new Promise((resolve) => client.on('initialized', resolve));
            await client.getSubscribedConversations();
            for (const identity of watching) {
              const user = await client.getUser(identity);
              globalThis.saw(`${identity} is ${user.isOnline}`);
              user.on('updated', ({ user, updateReasons }) => globalThis.saw(`${identity} ${updateReasons.join()} ${user.isOnline} ${user.isNotifiable} ${user.friendlyName}`));
            }
            globalThis.said('ready');
          }, { token: s.token(identity), uri: connectUri(gateway.url), watching });
          await log.next((item) => item === 'ready', 'ready');
        };
        await go();
        return { context, page, log, seen, go };
      }

      test('a page initialises, and sees what others do', async (t) => {
        const s = await gateway.service(t, Client);
        await s.make('bob');
        const { page, seen } = await visit(t, s, 'alice', { watching: ['bob'] });
        assert.equal(await page.evaluate(() => globalThis.Twilio.Conversations.Client.version), Client.version);
        assert.deepEqual(
          await page.evaluate(() => {
            const { client } = globalThis;
            return [client.user.identity, client.user.isOnline, client.reachabilityEnabled, client.connectionState];
          }),
          ['alice', true, true, 'connected'],
        );
        await seen.expect('bob is null');
        const bob = await s.open('bob');
        await seen.expect('bob reachabilityOnline true null null');
        await bob.setPushRegistrationId('fcm', 'phone');
        await seen.expect('bob reachabilityNotifiable true true null');
        await bob.user.updateFriendlyName('Bob 😀');
        await seen.expect('bob friendlyName true true Bob 😀');
        await page.evaluate(() => globalThis.client.user.updateFriendlyName('Alice'));
        assert.equal((await s.read('alice')).friendly_name, 'Alice');
        await bob.shutdown();
        await seen.expect('bob reachabilityOnline false true Bob 😀');
      });

      test('a page that is loaded again within the linger was never away', async (t) => {
        const s = await gateway.service(t, Client, { linger: 20 });
        const alice = await s.open('alice');
        await s.make('bob');
        const seen = await s.watch(alice, 'bob');
        const visitor = await visit(t, s, 'bob', { watching: ['alice'] });
        await seen.expect('online true');
        for (let times = 0; times < 2; times += 1) await visitor.go();
        await s.lingerOver(alice);
        await seen.quiet();
        await visitor.seen.expect('alice is true', 'alice is true', 'alice is true');
      });

      test('a page that is closed lingers, and a shutdown does not', async (t) => {
        const s = await gateway.service(t, Client, { linger: 3 });
        const alice = await s.open('alice');
        await s.make('bob');
        const seen = await s.watch(alice, 'bob');
        const first = await visit(t, s, 'bob');
        await seen.expect('online true');
        const closed = performance.now();
        await first.page.close();
        await seen.expect('online false');
        const after = seen.times.at(-1) - closed;
        assert.ok(after >= 2_950, `offline after ${after} ms`);

        await s.linger(60);
        const second = await visit(t, s, 'bob');
        await seen.expect('online true');
        await second.page.evaluate(() => globalThis.client.shutdown());
        await seen.expect('online false');
        await seen.quiet();
      });

      test('a browser that was offline is told what it missed, and was not missed', async (t) => {
        const s = await gateway.service(t, Client, { linger: 20 });
        const alice = await s.open('alice');
        await s.make('bob');
        await s.make('carol', { FriendlyName: 'Carol' });
        const seen = await s.watch(alice, 'bob');
        const { context, log, seen: sees } = await visit(t, s, 'bob', { watching: ['alice', 'carol'] });
        await seen.expect('online true');
        await sees.expect('alice is true', 'carol is null');
        await context.setOffline(true);
        await log.next((item) => item !== 'connected', 'loss');
        await alice.setPushRegistrationId('apn', 'phone');
        await s.profile('carol', { FriendlyName: 'Caroline' });
        await context.setOffline(false);
        await log.next((item) => item === 'connected', 'connected');
        const missed = [(await sees.next()), (await sees.next())].sort();
        assert.deepEqual(missed, ['alice reachabilityNotifiable true true null', 'carol friendlyName null null Caroline']);
        await s.lingerOver(alice);
        await seen.quiet();
        await s.profile('carol', { FriendlyName: 'mark' });
        await sees.expect('carol friendlyName null null mark');
      });

      test('a page of an origin that is not allowed is refused', async (t) => {
        const s = await gateway.service(t, Client);
        const context = await browser.newContext();
        t.after(() => context.close());
        const page = await context.newPage();
        await page.goto(`${pages.origin.replace('localhost', '127.0.0.1')}/${name}/`);
        const outcome = await page.evaluate(({ token, uri }) => new Promise((resolve) => {
          const client = new globalThis.Twilio.Conversations.Client(token, { Twilsock: { uri } });
          for (const event of ['initialized', 'initFailed']) client.on(event, () => resolve(event));
        }), { token: s.token('bob'), uri: connectUri(gateway.url) });
        assert.equal(outcome, 'initFailed');
        await assert.rejects(s.read('bob'), { status: 404 });
      });
    });
  }
});
