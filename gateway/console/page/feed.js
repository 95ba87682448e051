// The event feed: the last events as they came, newest first.

import { h, setText, frame, clockTime, fullTime, count } from './dom.js';

const KEPT = 200;

export class Feed {
  #list;
  #empty;
  #counter;
  #button;
  #waiting = [];
  #paused = false;
  #total = 0;
  #stop = new AbortController();

  constructor({ list, empty, counter, button }) {
    this.#list = list;
    this.#empty = empty;
    this.#counter = counter;
    this.#button = button;
    list.replaceChildren();
    button.addEventListener('click', () => this.#pause(!this.#paused), { signal: this.#stop.signal });
    this.#pause(false);
  }

  stop() {
    this.#stop.abort();
    this.#waiting = [];
    this.#list.replaceChildren();
  }

  /** add shows {time, title, value, text, rev}; while paused it keeps the newest. */
  add(entry) {
    this.#waiting.push(entry);
    this.#total++;
    if (this.#waiting.length > KEPT) this.#waiting.shift();
    this.#soon();
  }

  #soon = frame(() => this.#draw(), 200);

  #pause(paused) {
    this.#paused = paused;
    setText(this.#button, paused ? 'Resume' : 'Pause');
    this.#button.setAttribute('aria-pressed', String(paused));
    this.#draw();
  }

  #draw() {
    if (this.#stop.signal.aborted) return;
    if (!this.#paused && this.#waiting.length) {
      this.#list.prepend(...this.#waiting.reverse().map(item));
      this.#waiting = [];
      while (this.#list.childElementCount > KEPT) this.#list.lastElementChild.remove();
    }
    this.#empty.hidden = this.#list.childElementCount > 0;
    this.#list.hidden = !this.#empty.hidden;
    const waiting = this.#waiting.length === KEPT ? `${KEPT}+` : this.#waiting.length;
    setText(this.#counter, this.#paused ? `paused, ${waiting} waiting` : this.#total ? count(this.#total) : '');
  }
}

function item({ time, title, value, text, rev }) {
  return h('li', {},
    h('i', { class: 'mark', 'data-value': String(value) }),
    h('div', { title: `${title} ${text}` }, h('strong', {}, title), ' ', h('span', {}, text)),
    rev ? h('small', { title: `Revision ${rev}` }, String(rev)) : '',
    h('time', { datetime: new Date(time).toISOString(), title: fullTime(time) }, clockTime(time)));
}
