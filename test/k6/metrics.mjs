// Metrics, and the thresholds on them, in the syntax of k6.

/** Fatal ends the run at once: the script asks for what this stand-in, or k6, does not have. */
export class Fatal extends Error {}

const METHODS = {
  counter: ['count', 'rate'],
  gauge: ['value'],
  rate: ['rate'],
  trend: ['avg', 'min', 'max', 'med', 'p'],
};

/** Metrics is the registry of a run: a metric has one type, however many virtual users make it. */
export class Metrics {
  #metrics = new Map(); // name to {type, time, samples}
  #began = Date.now();

  constructor() {
    this.define('iterations', 'counter');
    this.define('dropped_iterations', 'counter');
    this.define('iteration_duration', 'trend', true);
  }

  define(name, type, time = false) {
    if (!/^[A-Za-z_][A-Za-z0-9_]{0,127}$/.test(name)) throw new Fatal(`"${name}" is no name for a metric`);
    const known = this.#metrics.get(name);
    if (!known) this.#metrics.set(name, { type, time, samples: [] });
    else if (known.type !== type || known.time !== time) throw new Fatal(`the metric ${name} is there already, as another type`);
    return this.#metrics.get(name);
  }

  add(name, value, tags = {}) {
    const number = typeof value === 'boolean' ? Number(value) : value;
    if (typeof number !== 'number' || Number.isNaN(number)) throw new Fatal(`${name}.add(${value}): not a number`);
    for (const [tag, text] of Object.entries(tags)) {
      if (typeof text !== 'string') throw new Fatal(`${name}.add: the tag ${tag} is no string`);
    }
    this.#metrics.get(name).samples.push({ value: number, tags });
  }

  /** values are what thresholds may ask of a metric, or of those of its samples that have some tags. */
  values(name, tags = {}) {
    const { type, samples } = this.#metrics.get(name);
    const some = samples.filter((sample) => Object.entries(tags).every(([tag, value]) => sample.tags[tag] === value)).map(({ value }) => value);
    const sum = some.reduce((a, b) => a + b, 0);
    switch (type) {
      case 'counter': return { count: sum, rate: sum / ((Date.now() - this.#began) / 1000) };
      case 'gauge': return { value: some.at(-1) ?? 0 };
      case 'rate': return { rate: some.length ? some.filter(Boolean).length / some.length : 0, samples: some.length };
      default: {
        const sorted = Float64Array.from(some).sort();
        const p = (share) => {
          if (!sorted.length) return 0;
          const at = (share / 100) * (sorted.length - 1);
          const below = Math.floor(at);
          const above = Math.min(below + 1, sorted.length - 1);
          return sorted[below] + (sorted[above] - sorted[below]) * (at - below);
        };
        return { avg: some.length ? sum / some.length : 0, min: p(0), max: p(100), med: p(50), 'p(95)': p(95), 'p(99)': p(99), samples: some.length, p };
      }
    }
  }

  names() {
    return [...this.#metrics.keys()];
  }

  /** thresholds reads options.thresholds, and gives a function that tells which do not hold. */
  thresholds(wanted) {
    const checks = Object.entries(wanted).flatMap(([target, expressions]) => {
      const [, name, filter] = /^([^{]+?)(?:\{(.*)\})?$/.exec(target) ?? [];
      const metric = this.#metrics.get(name);
      if (!metric) throw new Fatal(`a threshold is on ${target}, and there is no such metric`);
      const tags = Object.fromEntries((filter ?? '').split(',').filter(Boolean).map((pair) => pair.split(':').map((part) => part.trim())));
      if (!Array.isArray(expressions) || !expressions.length) throw new Fatal(`the thresholds on ${target} are no list`);
      return expressions.map((expression) => {
        const parsed = typeof expression === 'string' &&
          /^\s*(count|rate|value|avg|min|max|med|p\((\d+(?:\.\d+)?)\))\s*(<=|>=|<|>|===|==|!=)\s*(-?\d+(?:\.\d+)?)\s*$/.exec(expression);
        if (!parsed) throw new Fatal(`the threshold "${expression}" on ${target} is not understood`);
        const [, method, percentile, operator, right] = parsed;
        if (!METHODS[metric.type].includes(percentile === undefined ? method : 'p') || Number(percentile ?? 0) > 100) {
          throw new Fatal(`the threshold "${expression}" is not for a ${metric.type}, as ${target} is`);
        }
        return () => {
          const values = this.values(name, tags);
          const value = percentile === undefined ? values[method] : values.p(Number(percentile));
          const holds = {
            '<': (a, b) => a < b, '<=': (a, b) => a <= b, '>': (a, b) => a > b, '>=': (a, b) => a >= b,
            '==': (a, b) => a === b, '===': (a, b) => a === b, '!=': (a, b) => a !== b,
          }[operator](value, Number(right));
          return { target, expression, value, holds };
        };
      });
    });
    return () => checks.map((check) => check());
  }
}
