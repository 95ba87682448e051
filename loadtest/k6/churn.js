// Users who come and go at a rate, while watchers watch all of them.
//
//   k6 run loadtest/k6/churn.js
//
// Those who come are a pool that is gone through in turn, so that nobody comes who is still
// there, and each coming and going is two changes that every watcher must see.

import exec from 'k6/execution';
import { Counter, Rate } from 'k6/metrics';
import { begin, connect, count, end, pause, seconds, share, span, summaryTrendStats, thresholds } from './rollcall.js';

const WATCHERS = count('VUS', 10, 4);
const RATE = count('RATE', 10, 8); // users who come, a second
const RAMP = seconds('RAMP', 5, 1); // in which the watchers come, and then again until users come at the full rate
const DURATION = seconds('DURATION', 60, 4);
const STAY = seconds('STAY', 2, 0.5);
const SETTLE = seconds('SETTLE', 10); // at most, for the watchers to see the last one leave
const POOL = count('POOL', Math.min(1000, Math.ceil(RATE * (STAY + 15))));

const SUBSCRIPTIONS = 1000; // of a session, and of a request
const REQUEST = 500;
if (POOL > SUBSCRIPTIONS) throw new Error(`POOL must be ${SUBSCRIPTIONS} at most: a watcher subscribes to all of it`);
if (POOL < 2 * RATE * STAY) throw new Error(`POOL must be at least ${Math.ceil(2 * RATE * STAY)}, twice RATE times STAY: lower one of those`);

const expected = new Counter('rollcall_events_expected');
const seen = new Counter('rollcall_events_seen');
// A threshold looks at one metric, so both go into this one too: a 0 for each event that is
// expected and a 1 for each that is seen. Its rate is a half when all are seen, once each.
const balance = new Rate('rollcall_event_balance');
const viewsTrue = new Rate('rollcall_views_true');

export const options = {
  scenarios: {
    watchers: {
      executor: 'per-vu-iterations',
      exec: 'watch',
      vus: WATCHERS,
      iterations: 1,
      maxDuration: span(3 * RAMP + DURATION + STAY + SETTLE + 120),
    },
    churn: {
      executor: 'ramping-arrival-rate',
      exec: 'comeAndGo',
      startTime: span(2 * RAMP),
      startRate: 1,
      stages: [{ duration: span(RAMP), target: RATE }, { duration: span(DURATION), target: RATE }],
      preAllocatedVUs: Math.ceil(RATE * (STAY + 1)),
      maxVUs: Math.ceil(RATE * (STAY + 10)),
      gracefulStop: span(STAY + 45),
    },
  },
  thresholds: Object.assign({}, thresholds, {
    dropped_iterations: ['count<1'], // k6 had no virtual user to spare, and let fewer come
    rollcall_events_expected: ['count>0'],
    rollcall_event_balance: [`rate>=${share / (1 + share)}`, `rate<=${1 / (1 + share)}`],
    rollcall_views_true: [`rate>=${share}`],
  }),
  summaryTrendStats,
};

const identity = (data, i) => `${data.prefix}-${i}`;

export function setup() {
  return begin();
}

export async function watch(data) {
  const until = exec.scenario.startTime + (3 * RAMP + DURATION + STAY + 1) * 1000;
  const online = Object.create(null);
  await pause(Math.random() * RAMP);

  const session = await connect(data, `${data.prefix}-watcher-${exec.vu.idInTest}`, (user, update) => {
    // What is counted is each change of the view. An update that changes nothing is none,
    // and of two that a slow reader gets as one, both are missing.
    const is = user.is_online === true;
    const was = online[user.identity] === true;
    online[user.identity] = is;
    if (!update || is === was) return;
    seen.add(1);
    balance.add(true);
  });
  if (!session) return;
  for (let i = 0; i < POOL; i += REQUEST) {
    const some = Array.from({ length: Math.min(REQUEST, POOL - i) }, (_, j) => identity(data, i + j));
    if (!(await session.subscribe(some))) break;
  }
  let stayed = await session.hold((until - Date.now()) / 1000);
  // By now all who came are about to be gone again, and that is what a watcher must come to believe.
  const left = () => Object.values(online).every((is) => !is);
  while (stayed && !left() && Date.now() < until + SETTLE * 1000) stayed = await session.hold(0.1);
  for (let i = 0; i < POOL; i++) viewsTrue.add(stayed && online[identity(data, i)] === false);
  await session.bye();
}

export async function comeAndGo(data) {
  const session = await connect(data, identity(data, exec.scenario.iterationInTest % POOL));
  if (!session) return;
  const events = 2 * WATCHERS; // each sees it come and go
  expected.add(events);
  for (let i = 0; i < events; i++) balance.add(false);
  await session.hold(STAY);
  await session.bye();
}

export function teardown(data) {
  end(data);
}
