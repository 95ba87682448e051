// The table of users: one row a user, keyed by identity, changed in place, once
// an animation frame at most.

import { h, setText, setAttr, frame, ago, fullTime, count } from './dom.js';

const ONLINE = { true: 'Online', false: 'Offline', null: 'Unknown', undefined: '…' };
const NOTIFIABLE = { true: 'Yes', false: 'No', null: 'Unknown', undefined: '…' };
const ORDER = new Map([[true, 0], [false, 1], [null, 2], [undefined, 3]]);

// demo-9 comes before demo-10; what a language calls equal still has one order.
const collator = new Intl.Collator(undefined, { numeric: true });
const byIdentity = (a, b) => collator.compare(a.identity, b.identity) || (a.identity < b.identity ? -1 : 1);
const sorts = {
  identity: byIdentity,
  online: (a, b) => ORDER.get(a.online) - ORDER.get(b.online),
  notifiable: (a, b) => ORDER.get(a.notifiable) - ORDER.get(b.notifiable),
  sessions: (a, b) => (b.sessions ?? -1) - (a.sessions ?? -1),
  changed: (a, b) => (b.changed ?? 0) - (a.changed ?? 0),
};

export class Table {
  #rows = new Map();
  #onScreen = new Set();
  #dirty = new Set();
  #sort = { by: 'identity', down: false };
  #body;
  #source;
  #observer;
  #head;
  #clock;
  #stopped = false;

  /** source: function giving the users to show, a new array each time; root: the table. */
  constructor({ root, source }) {
    this.#source = source;
    this.#body = root.tBodies[0];
    this.#head = root.tHead;
    // Rows know whether they can be seen: times tick and sessions are counted only there.
    this.#observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) this.#onScreen.add(target.identity);
        else this.#onScreen.delete(target.identity);
      }
    });
    this.#head.addEventListener('click', (event) => {
      const by = event.target.closest('button')?.dataset.sort;
      if (by) this.#sortBy(by);
    });
    this.#clock = setInterval(() => document.hidden || this.#tick(), 1000);
  }

  stop() {
    this.#stopped = true;
    clearInterval(this.#clock);
    this.#observer.disconnect();
    this.#body.replaceChildren();
    this.#rows.clear();
  }

  /** visible gives the identities whose rows are on screen. */
  visible() { return [...this.#onScreen]; }

  /** touch redraws one user in the next frame. */
  touch(identity) {
    this.#dirty.add(identity);
    this.#soon();
    if (this.#sort.by !== 'identity') this.#arrangeSoon();
  }

  /** refill looks again which users there are, soon. */
  refill() { this.#arrangeSoon(); }

  #soon = frame(() => this.#draw());
  #arrangeSoon = frame(() => this.#arrange(), 400); // rows that keep moving cannot be read

  #sortBy(by) {
    this.#sort = { by, down: this.#sort.by === by && !this.#sort.down };
    for (const th of this.#head.querySelectorAll('th')) {
      const mine = th.firstElementChild.dataset.sort === by;
      if (mine) th.setAttribute('aria-sort', this.#sort.down ? 'descending' : 'ascending');
      else th.removeAttribute('aria-sort');
    }
    this.#arrange();
  }

  #draw() {
    for (const identity of this.#dirty) {
      const row = this.#rows.get(identity);
      if (row) row.draw();
    }
    this.#dirty.clear();
  }

  #arrange() {
    if (this.#stopped) return;
    const compare = sorts[this.#sort.by];
    const sign = this.#sort.down ? -1 : 1;
    const users = this.#source().sort((a, b) => sign * compare(a, b) || byIdentity(a, b));
    const wanted = new Set(users.map((user) => user.identity));
    for (const [identity, row] of this.#rows) {
      if (wanted.has(identity)) continue;
      this.#observer.unobserve(row.el);
      this.#onScreen.delete(identity);
      row.el.remove();
      this.#rows.delete(identity);
    }
    // Only rows that are out of place move, so a quiet table is left alone.
    let next = this.#body.firstElementChild;
    for (const user of users) {
      let row = this.#rows.get(user.identity);
      if (!row) {
        row = new Row(user);
        this.#rows.set(user.identity, row);
        this.#observer.observe(row.el);
      }
      if (row.el === next) next = next.nextElementSibling;
      else this.#body.insertBefore(row.el, next);
    }
  }

  #tick() {
    const now = Date.now();
    for (const identity of this.#onScreen) this.#rows.get(identity)?.drawTime(now);
  }
}

class Row {
  #user;
  #name = h('span', { class: 'id' });
  #friendly = h('span', { class: 'friendly' });
  #online = badge();
  #notifiable = badge();
  #sessions = h('span');
  #time = h('time');

  constructor(user) {
    this.#user = user;
    this.el = h('tr', { role: 'row' },
      h('td', { role: 'cell', class: 'c-id' }, this.#name, this.#friendly),
      h('td', { role: 'cell', class: 'c-online' }, this.#online),
      h('td', { role: 'cell', class: 'c-notifiable' }, this.#notifiable),
      h('td', { role: 'cell', class: 'c-sessions' }, this.#sessions),
      h('td', { role: 'cell', class: 'c-changed' }, this.#time));
    this.el.identity = user.identity;
    this.draw();
  }

  draw() {
    const user = this.#user;
    setAttr(this.el, 'data-identity', user.identity);
    setText(this.#name, user.identity);
    setAttr(this.#name, 'title', user.identity);
    setText(this.#friendly, user.friendlyName ?? '');
    const lingers = user.online === true && user.sessions === 0;
    drawBadge(this.#online, user.online, ONLINE[user.online]);
    drawBadge(this.#notifiable, user.notifiable, NOTIFIABLE[user.notifiable]);
    setAttr(this.#online, 'title', onlineTitle(user, lingers));
    setAttr(this.#notifiable, 'title', notifiableTitle(user));
    setText(this.#sessions, user.sessions === undefined ? '–' : lingers ? '0, lingering' : count(user.sessions));
    setAttr(this.#sessions, 'class', lingers ? 'lingers' : user.sessions ? '' : 'none');
    this.drawTime(Date.now());
  }

  drawTime(now) {
    const { changed, rev } = this.#user;
    setText(this.#time, changed ? ago(changed, now) : '–');
    if (!changed) return;
    setAttr(this.#time, 'datetime', new Date(changed).toISOString());
    setAttr(this.#time, 'title', `${fullTime(changed)}, revision ${rev}`);
  }
}

const badge = () => h('span', { class: 'badge' }, h('i', { class: 'mark' }), h('span'));

function drawBadge(el, value, text) {
  setAttr(el, 'data-value', String(value));
  setAttr(el.firstElementChild, 'data-value', String(value));
  setText(el.lastElementChild, text);
}

function onlineTitle(user, lingers) {
  const last = user.lastOnline ? ` Last online ${fullTime(new Date(user.lastOnline))}.` : '';
  if (lingers) return 'Its connection was lost: shown online for a while, in case it comes back.';
  switch (user.online) {
    case true: return 'is_online is true: at least one live session.';
    case false: return `is_online is false: no live session.${last}`;
    case null: return 'is_online is null: reachability is off, or not online since it was last turned on.';
    default: return 'Not told yet.';
  }
}

function notifiableTitle(user) {
  switch (user.notifiable) {
    case true: return 'is_notifiable is true: registered for push.';
    case false: return 'is_notifiable is false: every push registration is gone.';
    case null: return 'is_notifiable is null: reachability is off, or never registered for push.';
    default: return 'Not told yet.';
  }
}
