// Groups whose members watch each other while one more user of each group comes and goes.
//
//   k6 run loadtest/k6/subscribe.js
//
// A virtual user of k6 is a whole group: it has a socket for each member and one for the
// user who comes and goes. So it knows who must see what, and measures it by one clock.

import exec from 'k6/execution';
import { Counter, Rate, Trend } from 'k6/metrics';
import { begin, connect, count, end, pause, seconds, share, span, summaryTrendStats, thresholds, times } from './rollcall.js';

const GROUPS = count('VUS', 5, 2);
const MEMBERS = count('ROSTER', 10, 4);
const RAMP = seconds('RAMP', 5, 1);
const DURATION = seconds('DURATION', 60, 3);
const PAUSE = seconds('PAUSE', 1, 0.2);
const EVENT_TIMEOUT = seconds('EVENT_TIMEOUT', 5);

if (MEMBERS > 499) throw new Error('ROSTER must be 499 at most: a request may name 500 users');

const subscribedRight = new Rate('rollcall_subscribed_right');
const eventsSeen = new Rate('rollcall_events_seen');
const eventTime = new Trend('rollcall_event_time', true);
const changes = new Counter('rollcall_changes');

export const options = {
  scenarios: {
    groups: {
      executor: 'per-vu-iterations',
      vus: GROUPS,
      iterations: 1,
      maxDuration: span(RAMP + DURATION + 120),
    },
  },
  thresholds: Object.assign({}, thresholds, {
    rollcall_subscribed_right: [`rate>=${share}`],
    rollcall_changes: ['count>0'],
    rollcall_events_seen: [`rate>=${share}`],
    rollcall_event_time: times('EVENT'),
  }),
  summaryTrendStats,
};

export function setup() {
  return begin();
}

export default async function (data) {
  await pause(Math.random() * RAMP);
  const until = Date.now() + DURATION * 1000;
  const name = `${data.prefix}-${exec.vu.idInTest}`;
  const guest = `${name}-guest`;

  let awaited = null; // the change under way: {online, began, missing, done}
  const watch = (member) => (user, update) => {
    if (!update || !awaited || user.identity !== guest || user.is_online !== awaited.online) return;
    if (!awaited.missing.delete(member)) return;
    eventsSeen.add(true);
    eventTime.add(Date.now() - awaited.began);
    if (awaited.missing.size === 0) awaited.done();
  };

  const names = Array.from({ length: MEMBERS }, (_, i) => `${name}-${i}`);
  const members = (await Promise.all(names.map((member) => connect(data, member, watch(member))))).filter(Boolean);
  const here = members.map((member) => member.identity);

  const subscribed = await Promise.all(members.map(async (member) => {
    const roster = here.filter((other) => other !== member.identity).concat(guest);
    const users = await member.subscribe(roster);
    const right = users !== null && users.length === roster.length &&
      users.every((user, i) => user.identity === roster[i] && (user.identity === guest ? !user.is_online : user.is_online === true));
    subscribedRight.add(right);
    return users !== null;
  }));
  const watching = here.filter((_, i) => subscribed[i]);

  // change runs act, and resolves when every member has seen the guest online, or offline.
  async function change(online, act) {
    let timer;
    const seen = new Promise((done) => {
      awaited = { online, began: Date.now(), missing: new Set(watching), done };
      timer = setTimeout(done, EVENT_TIMEOUT * 1000);
    });
    changes.add(1);
    const result = await act();
    if (online && !result) awaited.done(); // not welcomed: there is nothing to be seen
    else await seen;
    clearTimeout(timer);
    if (!online || result) awaited.missing.forEach(() => eventsSeen.add(false));
    awaited = null;
    return result;
  }

  while (watching.length > 0 && Date.now() < until) {
    const session = await change(true, () => connect(data, guest));
    await pause(PAUSE);
    if (!session) continue;
    await change(false, () => session.bye());
    await pause(PAUSE);
  }
  await Promise.all(members.map((member) => member.bye()));
}

export function teardown(data) {
  end(data);
}
