// The stand-in itself: that it does as k6's documentation says where the scripts rely on it,
// and that it does not let pass what k6 would not.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { WebSocketServer } from 'ws';
import { Metrics } from './metrics.mjs';
import { milliseconds } from './modules.mjs';
import { broken, standIn } from './run.mjs';

const folder = mkdtempSync(join(tmpdir(), 'k6-scripts-'));
after(() => rmSync(folder, { recursive: true, force: true }));

let last = 0;
function run(source, env) {
  const file = join(folder, `${++last}.js`);
  writeFileSync(file, source);
  return standIn(file, env);
}

const THRESHOLDS = 99;
const EXCEPTION = 107;
const UNKNOWN = 70;

const single = "export const options = { scenarios: { once: { executor: 'per-vu-iterations' } } };\n";
const scenario = (config, more = '') => `export const options = { scenarios: { it: ${JSON.stringify(config)} }, ${more} };\n`;
const counter = "import { Counter } from 'k6/metrics'; const ran = new Counter('ran');\n";

describe('thresholds', () => {
  const metrics = new Metrics();
  metrics.define('some_trend', 'trend', true);
  metrics.define('some_rate', 'rate');
  metrics.define('some_count', 'counter');
  metrics.define('some_gauge', 'gauge');
  metrics.define('no_rate', 'rate');
  for (const value of [40, 10, 30, 20, 50]) metrics.add('some_trend', value, { kind: value > 25 ? 'high' : 'low' });
  for (const value of [true, 1, false, 0]) metrics.add('some_rate', value);
  for (const value of [3, 4, 0]) metrics.add('some_count', value);
  for (const value of [3, 4]) metrics.add('some_gauge', value);

  for (const [target, expression, holds] of [
    ['some_trend', 'p(50)<=30', true], ['some_trend', 'p(50)<30', false], ['some_trend', 'p(95)>47.9', true], ['some_trend', 'p(95)<48.1', true],
    ['some_trend', 'p(99.9) < 50', true], ['some_trend', 'avg===30', true], ['some_trend', 'min==10', true], ['some_trend', 'max!=50', false],
    ['some_trend', 'med>=30', true], ['some_trend{kind:low}', 'max<=20', true], ['some_trend{kind:high}', 'min>=30', true],
    ['some_trend{kind:none}', 'max<1', true], ['some_rate', 'rate>=0.5', true], ['some_rate', 'rate>0.5', false],
    ['some_count', 'count<8', true], ['some_count', 'count<7', false], ['some_count', 'rate>0', true],
    ['some_gauge', 'value==4', true], ['no_rate', 'rate>0.9', false],
  ]) {
    test(`${target} ${expression} ${holds ? 'holds' : 'does not hold'}`, () => {
      assert.equal(metrics.thresholds({ [target]: [expression] })()[0].holds, holds);
    });
  }

  for (const [target, expression] of [
    ['other', 'count<1'], ['some_count', 'p(95)<1'], ['some_rate', 'count<1'], ['some_trend', 'rate<1'], ['some_trend', 'p(101)<1'],
    ['some_trend', 'p95<1'], ['some_trend', 'avg<1 && max<2'], ['some_count', 'count<'], ['some_count', 'count<1s'],
  ]) {
    test(`${target} ${expression} is refused`, () => assert.throws(() => metrics.thresholds({ [target]: [expression] })));
  }

  test('durations', () => {
    assert.deepEqual(['500ms', '1.5s', '1m30s', '2h', 20].map(milliseconds), [500, 1500, 90_000, 7_200_000, 20]);
    for (const wrong of ['', '5', '5 s', 's', '1d', '-1s']) assert.throws(() => milliseconds(wrong), `"${wrong}"`);
  });
});

describe('a run', { concurrency: 4 }, () => {
  test('that holds', async () => {
    const { code, output } = await run(`${counter}${scenario({ executor: 'per-vu-iterations', vus: 2, iterations: 3 }, "thresholds: { ran: ['count==6'] }")}
      export default function () { ran.add(1); }`);
    assert.equal(code, 0, output);
  });

  test('with a threshold that cannot hold fails', async () => {
    const { code, output } = await run(`${counter}${scenario({ executor: 'per-vu-iterations' }, "thresholds: { ran: ['count>=0', 'count>1'], iterations: ['count<1'] }")}
      export default function () { ran.add(1); }`);
    assert.equal(code, THRESHOLDS, output);
    assert.deepEqual(broken(output), ['iterations', 'ran']);
  });

  test('hands the data of setup on as JSON, a copy to each', async () => {
    const { code, output } = await run(`${scenario({ executor: 'per-vu-iterations', vus: 2 }, "thresholds: { iterations: ['count==2'] }")}
      export function setup() { return { list: [1], at: new Date(0), f() {}, nothing: undefined }; }
      export default function (data) {
        console.log('vu ' + JSON.stringify(data) + ' ' + Array.isArray(data.list) + ' ' + (data.list instanceof Array));
        data.list.push(2);
      }
      export function teardown(data) { console.log('teardown ' + JSON.stringify(data)); }`);
    assert.equal(code, 0, output);
    const data = '{"list":[1],"at":"1970-01-01T00:00:00.000Z"}';
    assert.equal(output.split(`vu ${data} true true`).length - 1, 2, output);
    assert.ok(output.includes(`teardown ${data}`), output);
  });

  test('gives each virtual user its modules, numbers and world', async () => {
    const { code, output } = await run(`import exec from 'k6/execution';
      ${scenario({ executor: 'per-vu-iterations', vus: 3, iterations: 2 })}
      let mine = 0;
      export default function () {
        mine++;
        console.log([exec.vu.idInTest === __VU, exec.vu.idInTest, mine, exec.vu.iterationInScenario, exec.scenario.name, typeof process, typeof URL, typeof fetch].join(' '));
        console.log('iteration ' + exec.scenario.iterationInTest);
      }`);
    assert.equal(code, 0, output);
    for (let vu = 1; vu <= 3; vu++) {
      for (let i = 0; i < 2; i++) assert.ok(output.includes(`true ${vu} ${i + 1} ${i} it undefined undefined undefined`), output);
    }
    assert.deepEqual([...output.matchAll(/iteration (\d)/g)].map(([, i]) => Number(i)).sort(), [0, 1, 2, 3, 4, 5]);
  });

  test('has an iteration last until its timers are over, and starts what was awaited', async () => {
    const { code, output, summary } = await run(`${counter}${single}
      export default async function () {
        setTimeout(() => setTimeout(() => ran.add(1), 100), 100);
        const again = setInterval(() => { ran.add(1); clearInterval(again); }, 10);
        clearTimeout(setTimeout(() => ran.add(100), 10));
        await new Promise((resolve) => { setTimeout(resolve, 50); });
        ran.add(1);
      }`);
    assert.equal(code, 0, output);
    assert.equal(summary.ran.count, 3);
    assert.ok(summary.iteration_duration.min >= 200, output);
  });

  for (const [what, body] of [
    ['throws', "throw new Error('mine')"],
    ['rejects', "await Promise.reject(new Error('mine'))"],
    ['throws in a timer', "setTimeout(() => { throw new Error('mine'); }, 1); await new Promise((r) => { setTimeout(r, 600_000); })"],
    ['fails', "fail('mine')"],
  ]) {
    test(`goes on after an iteration that ${what}`, async () => {
      const { code, output } = await run(`import { fail } from 'k6'; ${scenario({ executor: 'per-vu-iterations', iterations: 2 }, "thresholds: { iterations: ['count==2'] }")}
        export default async function () { ${body}; }`);
      assert.equal(code, 0, output);
      assert.equal(output.match(/Uncaught .*mine/g)?.length, 2, output);
    });
  }

  test('does not wait for a promise that nothing settles', async () => {
    const { code, output } = await run(`${single}export default async function () { await new Promise((r) => { setTimeout(() => {}, 1); }); }`);
    assert.equal(code, 0, output);
    assert.match(output, /waits for what never comes/);
  });

  test('interrupts what goes on after gracefulStop', async () => {
    const { code, output } = await run(`${counter}${scenario({ executor: 'per-vu-iterations', maxDuration: '200ms', gracefulStop: '200ms' }, "thresholds: { iterations: ['count<1'], ran: ['count<1'] }")}
      export default async function () { await new Promise((r) => { setTimeout(r, 600_000); }); ran.add(1); }`);
    assert.equal(code, 0, output);
    assert.match(output, /interrupted/);
  });

  for (const [config, expected] of [
    [{ executor: 'constant-arrival-rate', rate: 50, duration: '1s', preAllocatedVUs: 50 }, '==50'],
    [{ executor: 'constant-arrival-rate', rate: 60, timeUnit: '1m', duration: '2s', preAllocatedVUs: 3 }, '==2'],
    [{ executor: 'ramping-arrival-rate', startRate: 0, stages: [{ duration: '1s', target: 40 }], preAllocatedVUs: 1, maxVUs: 20 }, '==20'],
    [{ executor: 'ramping-arrival-rate', startRate: 10, stages: [{ duration: '1s', target: 30 }, { duration: '500ms', target: 30 }], preAllocatedVUs: 35 }, '==35'],
    [{ executor: 'constant-vus', vus: 2, duration: '2s' }, '>2'],
    [{ executor: 'ramping-vus', startVUs: 1, stages: [{ duration: '3s', target: 3 }] }, '>3'],
  ]) {
    test(`${JSON.stringify(config)} gives ${expected}`, async () => {
      const { code, output } = await run(`${scenario(config, `thresholds: { iterations: ['count${expected}'], dropped_iterations: ['count<1'] }`)}
        export default async function () { await new Promise((r) => { setTimeout(r, 10); }); }`);
      assert.equal(code, 0, output);
    });
  }

  test('drops iterations for which it has no virtual user', async () => {
    const { code, output } = await run(`${scenario({ executor: 'constant-arrival-rate', rate: 20, duration: '1s', preAllocatedVUs: 1, maxVUs: 2 }, "thresholds: { dropped_iterations: ['count>10'] }")}
      export default async function () { await new Promise((r) => { setTimeout(r, 900); }); }`);
    assert.equal(code, 0, output);
  });

  for (const [what, source] of [
    ['setup', `${single}export function setup() { throw new Error('mine'); } export default function () { console.log('ran'); }`],
    ['setup, by fail', `import { fail } from 'k6'; ${single}export function setup() { fail('mine'); } export default function () { console.log('ran'); }`],
    ['teardown', `${single}export function teardown() { throw new Error('mine'); } export default function () {}`],
    ['the init context', `${single}throw new Error('mine'); export default function () {}`],
  ]) {
    test(`fails with an exception in ${what}`, async () => {
      const { code, output } = await run(source);
      assert.equal(code, EXCEPTION, output);
      assert.match(output, /mine/);
      assert.doesNotMatch(output, /ran$/m);
    });
  }

  const vu = (body, imports = '') => `${imports}\n${single}export default async function () { ${body}; }`;
  for (const [what, source] of [
    ['a module', vu('', "import ws from 'k6/ws';")],
    ['a module from elsewhere', vu('', "import x from 'https://jslib.k6.io/k6-utils/1.2.0/index.js';")],
    ['an export', vu('', "import { sleep } from 'k6';")],
    ['a function', vu("http.patch('http://127.0.0.1/')", "import http from 'k6/http';")],
    ['HTTP in an iteration', vu("http.get('http://127.0.0.1/')", "import http from 'k6/http';")],
    ['a field of exec', vu('exec.test.abort()', "import exec from 'k6/execution';")],
    ['a field of exec.vu', vu('exec.vu.tags.a = 1', "import exec from 'k6/execution';")],
    ['a method of a metric', vu('ran.subtract(1)', counter)],
    ['a tag that is no string', vu('ran.add(1, { a: 1 })', counter)],
    ['a value that is no number', vu("ran.add('1')", counter)],
    ['an encoding', vu("crypto.hmac('sha256', 'a', 'b', 'base32')", "import crypto from 'k6/crypto';")],
    ['a variant', vu("encoding.b64encode('a', 'rawurlsafe')", "import encoding from 'k6/encoding';")],
    ['a param of a WebSocket', vu("new WebSocket('ws://127.0.0.1:1/', null, { timeout: 1 })", "import { WebSocket } from 'k6/websockets';")],
    ['a subprotocol', vu("new WebSocket('ws://127.0.0.1:1/', 'a')", "import { WebSocket } from 'k6/websockets';")],
    ['a handler', vu("new WebSocket('ws://127.0.0.1:1/').onended = () => {}", "import { WebSocket } from 'k6/websockets';")],
    ['an executor', `${scenario({ executor: 'shared-iterations' })}export default function () {}`],
    ['an option of an executor', `${scenario({ executor: 'per-vu-iterations', duration: '1s' })}export default function () {}`],
    ['a number of users that is none', `${scenario({ executor: 'per-vu-iterations', vus: 1.5 })}export default function () {}`],
    ['a duration', `${scenario({ executor: 'constant-vus', duration: '1 s' })}export default function () {}`],
    ['an option', `export const options = { vu: 1, scenarios: {} }; export default function () {}`],
    ['a threshold', `${scenario({ executor: 'per-vu-iterations' }, "thresholds: { other: ['count<1'] }")}export default function () {}`],
    ['a function that is not exported', `${scenario({ executor: 'per-vu-iterations', exec: 'other' })}export default function () {}`],
    ['a metric made in an iteration', vu("new Counter('late')", "import { Counter } from 'k6/metrics';")],
    ['a metric used in the init context', `${counter}${single}ran.add(1); export default function () {}`],
    ['HTTP in the init context', `import http from 'k6/http'; ${single}http.get('http://127.0.0.1/'); export default function () {}`],
    ['a socket in the init context', `import { WebSocket } from 'k6/websockets'; ${single}new WebSocket('ws://127.0.0.1/'); export default function () {}`],
    ['exec in the init context', `import exec from 'k6/execution'; ${single}exec.vu.idInTest; export default function () {}`],
    ['a timer in the init context', `${single}setTimeout(() => {}, 1); export default function () {}`],
    ['what waits in the init context', `${single}await new Promise(() => {}); export default function () {}`],
    ['a metric of two types', `import { Counter, Rate } from 'k6/metrics'; ${single}new Counter('a'); new Rate('a'); export default function () {}`],
    ['a name with a space', `import { Counter } from 'k6/metrics'; ${single}new Counter('a b'); export default function () {}`],
  ]) {
    test(`ends at ${what} that it does not know`, async () => {
      const { code, output } = await run(source);
      assert.equal(code, UNKNOWN, output);
      assert.match(output, /FATAL/);
    });
  }

  test('encodes and signs as k6 does', async () => {
    const { output } = await run(`import crypto from 'k6/crypto'; import encoding from 'k6/encoding';
      ${vu(`console.log([
        crypto.hmac('sha256', 'Jefe', 'what do ya want for nothing?', 'hex'),
        crypto.hmac('sha256', 'k', 'd', 'base64rawurl') === encoding.b64encode(''),
        crypto.hmac('sha256', 'k', '1', 'base64rawurl').length,
        encoding.b64encode('<<???>>'), encoding.b64encode('<<???>>', 'rawurl'), encoding.b64encode('é'),
      ].join(' '))`)}`);
    // RFC 4231, test case 2
    assert.ok(output.includes('5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843 false 43 PDw/Pz8+Pg== PDw_Pz8-Pg w6k='), output);
  });
});

describe('a socket', () => {
  let server;
  before(async () => {
    server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
    await once(server, 'listening');
    server.on('connection', (socket) => {
      socket.on('message', (data) => {
        if (data.toString().startsWith('close')) socket.close(Number(data.toString().slice(5)), 'why');
        else socket.send(`echo ${data}`);
      });
      socket.ping();
    });
  });
  after(() => server.close());

  const talk = async (body, env) => {
    const { output } = await run(`import { WebSocket } from 'k6/websockets'; ${single}
      export default function () {
        const ws = new WebSocket('ws://127.0.0.1:${server.address().port}/');
        ws.onopen = () => { console.log('open ' + ws.readyState); ${body} };
        ws.onping = () => console.log('ping');
        ws.addEventListener('message', (event) => { console.log('message ' + typeof event.data + ' ' + event.data); ws.close(); });
        ws.onerror = (event) => console.log('error ' + event.error);
        ws.onclose = (event) => console.log('close ' + event.code + ' ' + event.reason + ' ' + ws.readyState);
        let early; try { ws.send('early'); } catch (err) { early = err; } console.log('early ' + (early instanceof Error));
      }`, env);
    return output.split('\n').filter((line) => line.startsWith('INFO')).map((line) => line.slice(6));
  };

  test('opens, answers pings, gets text as a string, closes', async () => {
    const lines = await talk("ws.send('hi');");
    assert.deepEqual(lines.filter((line) => line !== 'ping').slice(0, 3), ['early true', 'open 1', 'message string echo hi']);
    assert.ok(lines.includes('ping'));
    assert.match(lines.at(-1), /^close \d+ .*3$/);
  });

  test('tells of a close by the server, of an unusual one as an error as well, or alone', async () => {
    assert.deepEqual((await talk("ws.send('close1000');")).slice(-1), ['close 1000 why 3']);
    assert.deepEqual((await talk("ws.send('close3500');")).slice(-2), ['error websocket: close 3500: why', 'close 3500 why 3']);
    assert.deepEqual((await talk("ws.send('close3500');", { K6_STANDIN_QUIRKS: 'no-close-event' })).slice(-1), ['error websocket: close 3500: why']);
  });
});
