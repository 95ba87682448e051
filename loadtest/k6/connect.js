// Users who connect, are welcomed, stay for a while, and sign out; again and again.
//
//   k6 run loadtest/k6/connect.js

import exec from 'k6/execution';
import { begin, connect, count, end, pause, seconds, span, summaryTrendStats, thresholds } from './rollcall.js';

const VUS = count('VUS', 50, 10);
const RAMP = seconds('RAMP', 5, 1);
const DURATION = seconds('DURATION', 60, 3);
const HOLD = seconds('HOLD', 30, 1); // beyond 25 s the node pings

export const options = {
  scenarios: {
    connect: {
      executor: 'ramping-vus',
      startVUs: 1,
      stages: [{ duration: span(RAMP), target: VUS }, { duration: span(DURATION), target: VUS }],
      gracefulStop: span(HOLD + 45), // who is connected then still holds, and signs out
    },
  },
  thresholds,
  summaryTrendStats,
};

export function setup() {
  return begin();
}

export default async function (data) {
  const session = await connect(data, `${data.prefix}-${exec.vu.idInTest}`);
  if (!session) {
    await pause(1); // the next try is no attack
    return;
  }
  await session.hold(HOLD);
  await session.bye();
}

export function teardown(data) {
  end(data);
}
