// The plot: how many were online over the last minutes, at most ten; it starts
// short and grows with what it has to show. A count holds until the next one, so
// the line is made of steps; where nothing is known it breaks.

import { svg, setText, setAttr, frame, clockTime, count } from './dom.js';

const MINUTE = 60_000;
const SPANS = [2, 5, 10]; // minutes
const KEPT_MS = SPANS.at(-1) * MINUTE;
const GRAIN_MS = 500; // counts closer than this share a point: the later one wins
const LEFT = 36, RIGHT = 12, TOP = 8, BOTTOM = 22, HEIGHT = 168;

export class Plot {
  #samples = []; // {t, v}, v null where nothing is known
  #root;
  #svg;
  #readout;
  #title;
  #width = 0;
  #span = SPANS[0] * MINUTE;
  #cursor = null; // ms before now, while somebody reads the plot
  #timer;
  #resize;

  constructor({ root, readout, title }) {
    this.#root = root;
    this.#readout = readout;
    this.#title = title;
    this.#svg = svg('svg', { role: 'img', tabindex: '0', height: HEIGHT, 'aria-labelledby': title.id });
    root.replaceChildren(this.#svg);
    this.#resize = new ResizeObserver(([entry]) => {
      this.#width = Math.floor(entry.contentRect.width);
      this.#draw();
    });
    this.#resize.observe(root);
    this.#svg.addEventListener('pointermove', (event) => this.#point(event));
    this.#svg.addEventListener('pointerdown', (event) => this.#point(event));
    this.#svg.addEventListener('pointerleave', () => this.#read(null));
    this.#svg.addEventListener('blur', () => this.#read(null));
    this.#svg.addEventListener('keydown', (event) => this.#key(event));
    this.#timer = setInterval(() => document.hidden || this.#draw(), 1000);
  }

  stop() {
    clearInterval(this.#timer);
    this.#resize.disconnect();
    this.#root.replaceChildren();
    setText(this.#readout, '');
  }

  /** push records the count from now on; null: nothing is known. */
  push(v) {
    const t = Date.now();
    const last = this.#samples.at(-1);
    if (last && last.v === v) return;
    if (last && t - last.t < GRAIN_MS && this.#samples.length > 1) last.v = v;
    else this.#samples.push({ t, v });
    // One sample from before the span stays: its count reaches into it.
    while (this.#samples.length > 1 && this.#samples[1].t < t - KEPT_MS) this.#samples.shift();
    this.#soon();
  }

  #soon = frame(() => this.#draw(), 100);

  #x(t, now) { return LEFT + (1 - (now - t) / this.#span) * (this.#width - LEFT - RIGHT); }

  #draw() {
    if (this.#width < 80 || !this.#svg.isConnected) return;
    const now = Date.now();
    const age = this.#samples.length ? now - this.#samples[0].t : 0;
    const minutes = SPANS.find((span) => age <= span * MINUTE) ?? SPANS.at(-1);
    this.#span = minutes * MINUTE;
    setText(this.#title, `Online, last ${minutes} minutes`);
    const bottom = HEIGHT - BOTTOM;
    const ticks = scale(Math.max(0, ...this.#samples.map((sample) => sample.v ?? 0)));
    const y = (v) => bottom - (v / ticks.at(-1)) * (bottom - TOP);
    const crisp = (n) => Math.round(n) + 0.5;

    const parts = [];
    for (const v of ticks) {
      const at = crisp(y(v));
      parts.push(svg('line', { class: v ? 'grid' : 'axis', x1: LEFT, x2: this.#width - RIGHT, y1: at, y2: at }));
      parts.push(label(LEFT - 8, at + 3.5, 'end', count(v)));
    }
    for (const [i, ago] of marks(minutes).entries()) {
      const x = crisp(this.#x(now - ago * MINUTE, now));
      parts.push(svg('line', { class: 'axis', x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
      if (!ago) parts.push(label(x + RIGHT - 2, bottom + 17, 'end', 'now'));
      else parts.push(label(i ? x : x - 8, bottom + 17, i ? 'middle' : 'start', ago % 1 ? `−${ago * 60} s` : `−${ago} min`));
    }
    const { line, area } = this.#paths(now, y, bottom);
    parts.push(svg('path', { class: 'area', d: area }), svg('path', { class: 'line', d: line }));
    const latest = this.#samples.at(-1);
    if (latest && latest.v !== null) parts.push(svg('circle', { class: 'dot', cx: this.#x(now, now), cy: y(latest.v), r: 3 }));
    if (this.#samples.every((sample) => sample.v === null)) {
      parts.push(svg('text', { class: 'nothing', x: this.#width / 2, y: TOP + (bottom - TOP) * 0.28, 'text-anchor': 'middle' }, 'Nothing is known yet'));
    }
    this.#drawCursor(parts, now, y, bottom, crisp);

    setAttr(this.#svg, 'width', String(this.#width));
    setAttr(this.#svg, 'viewBox', `0 0 ${this.#width} ${HEIGHT}`);
    this.#svg.replaceChildren(...parts);
  }

  #paths(now, y, bottom) {
    let line = '', area = '';
    for (let i = 0; i < this.#samples.length; i++) {
      const { t, v } = this.#samples[i];
      if (v === null) continue;
      // A sample from before the span reaches into it from the left edge.
      const from = Math.max(LEFT, this.#x(t, now)).toFixed(1);
      const to = this.#x(this.#samples[i + 1]?.t ?? now, now).toFixed(1);
      if (to < LEFT) continue;
      const at = y(v).toFixed(1);
      const joined = i > 0 && this.#samples[i - 1].v !== null && line !== '';
      line += `${joined ? 'L' : 'M'}${from} ${at}H${to}`;
      area += `M${from} ${bottom}V${at}H${to}V${bottom}Z`;
    }
    return { line, area };
  }

  #drawCursor(parts, now, y, bottom, crisp) {
    if (this.#cursor === null) {
      setText(this.#readout, '');
      return;
    }
    const t = now - this.#cursor;
    const v = this.#at(t);
    const x = crisp(this.#x(t, now));
    parts.push(svg('line', { class: 'cursor', x1: x, x2: x, y1: TOP, y2: bottom }));
    if (v !== null) parts.push(svg('circle', { class: 'dot', cx: x, cy: y(v), r: 4 }));
    setText(this.#readout, v === null ? `not known at ${clockTime(t)}` : `${count(v)} online at ${clockTime(t)}`);
  }

  #at(t) {
    return this.#samples.findLast((sample) => sample.t <= t)?.v ?? null;
  }

  #point(event) {
    const x = event.clientX - this.#svg.getBoundingClientRect().left;
    const share = (x - LEFT) / (this.#width - LEFT - RIGHT);
    this.#read((1 - Math.min(1, Math.max(0, share))) * this.#span);
  }

  #key(event) {
    const step = { ArrowLeft: 10_000, ArrowRight: -10_000 }[event.key];
    if (step) this.#read(Math.min(this.#span, Math.max(0, (this.#cursor ?? 0) + step)));
    else if (event.key === 'Escape') this.#read(null);
    else return;
    event.preventDefault();
  }

  #read(cursor) {
    this.#cursor = cursor;
    this.#soon();
  }
}

const label = (x, y, anchor, text) => svg('text', { x, y, 'text-anchor': anchor }, text);

// marks gives the places on the time axis, in minutes before now.
const marks = (minutes) => ({ 2: [2, 1.5, 1, 0.5, 0], 5: [5, 4, 3, 2, 1, 0], 10: [10, 8, 6, 4, 2, 0] })[minutes];

// scale gives whole-number ticks from 0 to at least max, 1-2-5 apart, at most five steps.
function scale(max) {
  let step = 1;
  for (let i = 0; step * 4 < max; step = [1, 2, 5][++i % 3] * 10 ** Math.floor(i / 3));
  const top = Math.max(2, Math.ceil(max / step)) * step;
  return Array.from({ length: top / step + 1 }, (_, i) => i * step);
}
