// Small DOM and formatting tools. Text goes in as text: an identity may contain
// anything, so no string is ever parsed as markup (the page's security policy
// would make that throw).

const SVG = 'http://www.w3.org/2000/svg';

export const $ = (id) => document.getElementById(id);

/** h makes an element: h('a', {class: 'x', onclick}, 'text', child). */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** svg is h for SVG elements. */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(el, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else el.setAttribute(name, value === true ? '' : value);
  }
  el.append(...children);
  return el;
}

/** setText writes only what changed: an equal write still costs a mutation. */
export function setText(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

export function setAttr(el, name, value) {
  if (el.getAttribute(name) !== value) el.setAttribute(name, value);
}

/**
 * frame calls fn once in the next animation frame, however often it is asked,
 * and at most every gap ms: what nobody can read faster need not be drawn faster.
 */
export function frame(fn, gap = 0) {
  let asked = false, last = -Infinity;
  const run = () => {
    asked = false;
    last = performance.now();
    fn();
  };
  return () => {
    if (asked) return;
    asked = true;
    const wait = last + gap - performance.now();
    // A hidden page gets no animation frames; what it says must still be right.
    if (document.hidden) setTimeout(run, 250);
    else if (wait > 0) setTimeout(() => requestAnimationFrame(run), wait);
    else requestAnimationFrame(run);
  };
}

/** debounce calls fn once, ms after the last call. */
export function debounce(ms, fn) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(fn, ms, ...args);
  };
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long' });
const number = new Intl.NumberFormat();

export const clockTime = (t) => clock.format(t);
export const fullTime = (t) => full.format(t);
export const count = (n) => number.format(n);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
export const seconds = (ms) => `${Math.max(0, Math.ceil(ms / 1000))} s`;

/** ago tells how long ago t was, in one unit. Clocks differ: the future is now. */
export function ago(t, now = Date.now()) {
  const s = Math.round((now - t) / 1000);
  if (s < 3) return 'just now';
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return plural(Math.floor(s / 86400), 'day') + ' ago';
}
