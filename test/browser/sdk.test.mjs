// docs/twilio-sdk.md: its transcript is what really happens. Each command is run, in
// one shell, against a gateway as make run starts it, and prints what the page says.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { credentials, start } from '../gateway.mjs';
import { folder, run } from './node.mjs';

const MARK = '### ';
const docs = readFileSync(new URL('../../docs/twilio-sdk.md', import.meta.url), 'utf8');
const { devDependencies } = JSON.parse(readFileSync(new URL('./package.json', import.meta.url)));

test('the versions that the docs and the page name are those that the tests use', () => {
  const page = readFileSync(new URL('../../gateway/console/page/sdk.js', import.meta.url), 'utf8');
  for (const name of ['twilio', '@twilio/conversations']) {
    for (const text of [docs, page]) assert.ok(text.includes(`${name}@${devDependencies[name]}`), `${name}@${devDependencies[name]} is not named`);
  }
});

test('the transcript of docs/twilio-sdk.md', { skip: !process.env.ROLLCALL_BIN && 'needs ROLLCALL_BIN' }, async () => {
  const names = ['ROLLCALL_ACCOUNT_SID', 'ROLLCALL_AUTH_TOKEN', 'ROLLCALL_API_KEY_SID', 'ROLLCALL_API_KEY_SECRET'];
  const gateway = await start({ env: Object.fromEntries(names.map((name) => [name, ''])) });
  try {
    const { host } = new URL(gateway.url);
    const transcript = docs.match(/```console\n([^]*?)```/)[1].replaceAll('127.0.0.1:8080', host);
    const dir = folder();
    mkdirSync(join(dir, 'bin'));
    symlinkSync(process.env.ROLLCALL_BIN, join(dir, 'bin', 'rollcall'));
    // What the page installs there is here already, above.
    mkdirSync(join(dir, 'try'));
    for (const name of ['sample-switch.mjs', 'sample-updated.mjs']) {
      copyFileSync(new URL(`../../gateway/console/page/${name}`, import.meta.url), join(dir, 'try', name));
    }
    let script = '', want = '', commands = 0;
    for (const line of transcript.trimEnd().split('\n')) {
      if (line.startsWith('$ ')) {
        commands += 1;
        script += `printf '\\n${MARK}\\n'\n${line.slice(2)}\n`;
        want += `\\n*${MARK}\\n`;
      } else {
        // … stands for anything on the line
        want += `${line.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replaceAll('…', '.*')}\\n*`;
      }
    }
    assert.ok(commands > 5, `the transcript has ${commands} commands; the test looks at nothing`);
    const { stdout } = await promisify(execFile)('bash', ['-c', script], {
      cwd: dir, timeout: 60_000, env: { PATH: process.env.PATH, HOME: dir, ROLLCALL_ADDR: host },
    });
    assert.match(stdout, new RegExp(`^${want}$`));
  } finally {
    await gateway.stop();
  }
});

test('a token that expired is renewed at once, and nobody sees it', async () => {
  const gateway = await start();
  // A program of its own: the SDK keeps a timer of a day.
  const program = run(folder(), 'expiry.mjs', `
    import { once } from 'node:events';
        import { Client } from '@twilio/conversations';
    import twilio from 'twilio';
    const { url, account, authToken, key, secret } = process.env;
    const rest = twilio(account, authToken);
    rest.conversations.baseUrl = url;
    const { sid } = await rest.conversations.v1.services.create({ friendlyName: 'expiry' });
    await rest.conversations.v1.services(sid).configuration().update({ reachabilityEnabled: true });
    const token = (identity, ttl) => {
      const made = new twilio.jwt.AccessToken(account, key, secret, { identity, ttl });
      made.addGrant(new twilio.jwt.AccessToken.ChatGrant({ serviceSid: sid }));
      return made.toJwt();
    };
    const connect = async (jwt) => {
      const client = new Client(jwt, { Twilsock: { uri: url.replace('http', 'ws') + '/v3/wsconnect' } });
      await once(client, 'initialized');
      return client;
    };
    const watcher = await connect(token('watcher', 3600)), ada = await connect(token('ada', 4));
    (await watcher.getUser('ada')).on('updated', ({ user, updateReasons }) => console.log(updateReasons.join(), user.isOnline));
    await once(ada, 'tokenExpired');
    await ada.updateToken(token('ada', 3600)); // which would pend for ever in some states of the SDK
    console.log('renewed');
    await ada.user.updateFriendlyName('Ada');
  `, { url: gateway.url, ...credentials });
  try {
    assert.equal(await program.line(), 'renewed');
    assert.equal(await program.line(), 'friendlyName true');
  } finally {
    await program.stop();
    await gateway.stop();
  }
});
