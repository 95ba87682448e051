// The unmodified Node library through every operation of the published document,
// against the real binary with each kind of store.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Gateway, operations } from './library.mjs';
import { bindings } from './bindings.mjs';
import { quirks } from './quirks.mjs';
import { services } from './services.mjs';
import { users } from './users.mjs';
import { webhooks } from './webhooks.mjs';

for (const store of ['embedded', 'redis']) {
  describe(`with the store ${store}`, () => {
    const gateway = new Gateway();
    before(() => gateway.start({ store, env: { ROLLCALL_WEBHOOK_ALLOWED_NETWORKS: '127.0.0.0/8' } }));
    after(() => gateway.stop?.());

    services(gateway);
    users(gateway);
    bindings(gateway);
    webhooks(gateway);
    quirks(gateway);

    test('no operation of the published document was left out', () => {
      assert.deepEqual(operations.map(({ id }) => id).filter((id) => !gateway.asked.has(id)), []);
    });
  });
}
