// The executors that the scripts use: who starts an iteration, and when.

import { Fatal } from './metrics.mjs';
import { milliseconds } from './modules.mjs';

const COMMON = ['executor', 'exec', 'startTime', 'gracefulStop'];
const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });

const EXECUTORS = {
  'per-vu-iterations': {
    options: ['vus', 'iterations', 'maxDuration'],
    async run(scenario, { vus = 1, iterations = 1, maxDuration = '10m' }) {
      const users = await scenario.users(whole('vus', vus));
      const until = Date.now() + milliseconds(maxDuration);
      await all(users, async (vu) => {
        for (let i = 0; i < whole('iterations', iterations) && Date.now() < until; i++) await scenario.iterate(vu, until);
      });
    },
  },
  'constant-vus': {
    options: ['vus', 'duration'],
    async run(scenario, { vus = 1, duration }) {
      const users = await scenario.users(whole('vus', vus));
      const until = Date.now() + milliseconds(duration);
      await all(users, async (vu) => {
        while (Date.now() < until) await scenario.iterate(vu, until);
      });
    },
  },
  'ramping-vus': {
    options: ['startVUs', 'stages', 'gracefulRampDown'],
    async run(scenario, { startVUs = 1, stages }) {
      let before = whole('startVUs', startVUs);
      const starts = Array.from({ length: before }, () => 0); // of each user, in milliseconds
      let passed = 0;
      for (const { duration, target } of stages) {
        if (whole('target', target) < before) throw new Fatal('the stand-in for k6 does not know ramping down');
        for (let i = before + 1; i <= target; i++) starts.push(passed + (milliseconds(duration) * (i - before)) / (target - before));
        passed += milliseconds(duration);
        before = target;
      }
      const users = await scenario.users(starts.length);
      const began = Date.now();
      await all(users, async (vu, i) => {
        await sleep(starts[i]);
        while (Date.now() < began + passed) await scenario.iterate(vu, began + passed);
      });
    },
  },
  'constant-arrival-rate': {
    options: ['rate', 'timeUnit', 'duration', 'preAllocatedVUs', 'maxVUs'],
    run: (scenario, { rate, duration, ...rest }) => arrivals(scenario, { ...rest, startRate: rate, stages: [{ duration, target: rate }] }),
  },
  'ramping-arrival-rate': {
    options: ['startRate', 'timeUnit', 'stages', 'preAllocatedVUs', 'maxVUs'],
    run: arrivals,
  },
};

async function arrivals(scenario, { startRate = 0, timeUnit = '1s', stages, preAllocatedVUs, maxVUs = preAllocatedVUs }) {
  if (maxVUs < preAllocatedVUs) throw new Fatal('maxVUs is less than preAllocatedVUs');
  const idle = await scenario.users(whole('preAllocatedVUs', preAllocatedVUs));
  let made = idle.length;
  whole('maxVUs', maxVUs);
  const unit = milliseconds(timeUnit);
  const length = stages.reduce((sum, stage) => sum + milliseconds(stage.duration), 0);
  // due is how many iterations should have begun after so many milliseconds: the area below the rate.
  const due = (elapsed) => {
    let area = 0;
    let from = whole('startRate', startRate, 0);
    let left = elapsed;
    for (const { duration, target } of stages) {
      const full = milliseconds(duration);
      const part = Math.min(left, full);
      area += (part * (from + from + ((target - from) * part) / full)) / 2 / unit;
      left -= part;
      from = whole('target', target, 0);
      if (left <= 0) break;
    }
    return area;
  };
  const began = Date.now();
  const running = new Set();
  let begun = 0;
  for (let elapsed = 0; elapsed <= length;) {
    elapsed = Date.now() - began; // that of the last time is beyond the end, for what is due by then
    while (begun < Math.floor(due(Math.min(elapsed, length)))) {
      begun++;
      if (!idle.length && made < maxVUs) {
        made++;
        idle.push(...await scenario.users(1));
      }
      const vu = idle.pop();
      if (!vu) {
        scenario.dropped();
        continue;
      }
      const iteration = scenario.iterate(vu, began + length).then(() => {
        running.delete(iteration);
        idle.push(vu);
      });
      running.add(iteration);
    }
    await sleep(5);
  }
  await Promise.all(running);
}

function whole(name, value, least = 1) {
  if (!Number.isInteger(value) || value < least) throw new Fatal(`${name} must be a whole number, ${least} or more, not ${value}`);
  return value;
}

const all = (users, run) => Promise.all(users.map(run));

/** play runs one scenario to its end. */
export async function play(run, name, config) {
  const executor = EXECUTORS[config.executor];
  if (!executor) throw new Fatal(`the stand-in for k6 does not know the executor ${config.executor}`);
  for (const option of Object.keys(config)) {
    if (![...COMMON, ...executor.options].includes(option)) throw new Fatal(`${config.executor} has no option ${option}`);
  }
  const { executor: kind, exec = 'default', startTime = '0s', gracefulStop = '30s', ...own } = config;
  await sleep(milliseconds(startTime));
  let iterations = 0;
  const scenario = { name, executor: kind, startTime: Date.now() };
  await executor.run({
    users: (count) => run.users(count),
    dropped: () => run.metrics.add('dropped_iterations', 1),
    async iterate(vu, until) {
      vu.scenario = scenario;
      vu.iterationInTest = iterations++;
      vu.iterations++;
      const began = Date.now();
      const { error, interrupted } = await vu.call(exec, 'vu', run.data, until + milliseconds(gracefulStop));
      if (error) run.uncaught(error);
      if (interrupted) console.error(`WARN: an iteration of ${name} was interrupted`);
      else run.metrics.add('iterations', 1);
      run.metrics.add('iteration_duration', Date.now() - began);
    },
  }, own);
}
