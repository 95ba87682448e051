// The unmodified SDK, in its newest version of each major one, against the real binary with
// each kind of store.

import { after, before, describe } from 'node:test';
import { Gateway, sdks, tolerate } from './library.mjs';
import { connections } from './connections.mjs';
import { limits } from './limits.mjs';
import { push } from './push.mjs';
import { tokens } from './tokens.mjs';
import { users } from './users.mjs';

const TOGETHER = 50; // they mostly wait

describe('the SDK', { concurrency: 4 }, () => {
  before(tolerate);
  for (const store of ['embedded', 'redis']) {
    for (const [name, Client] of Object.entries(sdks)) {
      describe(`${name} (${Client.version}) with the store ${store}`, { concurrency: TOGETHER }, () => {
        let gateway;
        before(async () => { gateway = await Gateway.start({ store }); });
        after(() => gateway?.stop());
        const at = () => gateway;

        for (const tests of [limits, tokens, connections, push, users]) tests(at, Client);
      });
    }
  }
});
