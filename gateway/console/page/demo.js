// Demo users: any number of real connections from this page, each a row that
// tells its state and can be closed, dropped, reopened or removed.

import { Session } from './socket.js';
import { h, setText, seconds, plural } from './dom.js';

const NAMES = ['ada', 'grace', 'linus', 'margaret', 'alan', 'barbara', 'dennis', 'frances', 'edsger', 'hedy',
  'ken', 'katherine', 'shafi', 'radia', 'donald', 'joan', 'tony', 'karen', 'niklaus', 'mary'];
const MOST = 100; // a browser opens some 200 sockets to one host, all tabs together
const AT_ONCE = 4; // connecting at the same time: a crowd would be told to come back later

export class Demo {
  #users = new Map();
  #watch;
  #ui;
  #linger = 10_000; // ms, until the server told
  #clock;
  #stop = new AbortController();
  #queue = [];
  #opening = 0;
  #hint;

  /** ui: {form, number, button, list, foot, closeAll, clear, counter, hint}. */
  constructor({ watch, ui }) {
    this.#watch = watch;
    this.#ui = ui;
    this.#hint = ui.hint.textContent;
    const { signal } = this.#stop;
    ui.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.add(ui.number.valueAsNumber);
    }, { signal });
    ui.number.addEventListener('input', () => setText(ui.button, `Open ${ui.number.value || '…'}`), { signal });
    ui.closeAll.addEventListener('click', () => this.#closeAll(), { signal });
    ui.clear.addEventListener('click', () => this.#clear(), { signal });
    this.#askLinger();
    this.#clock = setInterval(() => this.#tick(), 500);
    this.#summary();
  }

  /** stop closes every demo user cleanly and clears the panel. */
  stop() {
    this.#stop.abort();
    clearInterval(this.#clock);
    this.#queue = [];
    for (const user of this.#users.values()) user.session.bye();
    this.#users.clear();
    this.#ui.list.replaceChildren();
    this.#summary();
    setText(this.#ui.hint, this.#hint);
  }

  /** add opens n more demo users. */
  add(n) {
    const room = MOST - this.#users.size;
    if (n > room) {
      this.#say(room ? `A browser allows only so many connections: opening ${room} of ${n}, ${MOST} in all.`
        : `This page holds ${MOST} demo users already: a browser allows only so many connections. Remove some first.`);
    }
    for (let i = 0; i < Math.min(n, room); i++) this.#make(this.#nextName());
  }

  /** changed tells what the table now shows of a user, so that a lingering one is seen to end. */
  changed(identity, shown) {
    const user = this.#users.get(identity);
    if (user?.droppedAt && shown.online !== true) this.#settle(user);
  }

  #nextName() {
    for (let i = 0; ; i++) {
      const name = NAMES[i] ?? `demo-${i + 1}`;
      if (!this.#users.has(name)) return name;
    }
  }

  #make(identity) {
    const user = { identity, droppedAt: 0, queued: true };
    user.session = new Session({
      token: () => this.#watch.token(identity),
      on: {
        state: ({ name }) => {
          if (name !== 'connecting') user.arrived?.();
          this.#draw(user);
        },
        welcome: () => this.#settle(user),
      },
    });
    const act = (name, label, fn) => h('button', { type: 'button', class: 'button small', 'data-act': name, 'aria-label': `${label} ${identity}`, onclick: () => fn.call(this, user) }, label);
    user.mark = h('i', { class: 'mark' });
    user.text = h('span', { class: 'demo-state' });
    user.buttons = {
      close: act('close', 'Close', this.#close),
      drop: act('drop', 'Drop', this.#drop),
      reopen: act('reopen', 'Reopen', this.#enqueue),
      remove: act('remove', 'Remove', this.#remove),
    };
    user.el = h('li', { 'data-identity': identity }, user.mark, h('strong', { title: identity }, identity), user.text,
      h('span', { class: 'demo-acts' }, ...Object.values(user.buttons)));
    this.#users.set(identity, user);
    this.#ui.list.append(user.el);
    this.#enqueue(user);
  }

  #enqueue(user) {
    user.queued = true;
    this.#queue.push(user);
    this.#draw(user);
    this.#pump();
  }

  async #pump() {
    if (this.#opening >= AT_ONCE || !this.#queue.length) return;
    const user = this.#queue.shift();
    this.#opening++;
    try {
      // Followed first, so that the events show the user come online.
      await this.#watch.pin(user.identity).catch(() => {});
      if (user.queued && !this.#stop.signal.aborted) {
        user.queued = false;
        await new Promise((resolve) => {
          user.arrived = resolve;
          user.session.open();
        });
      }
    } finally {
      this.#opening--;
      this.#pump();
    }
    this.#pump();
  }

  #close(user) {
    user.queued = false;
    user.session.bye();
    this.#draw(user);
  }

  async #drop(user) {
    user.droppedAt = Date.now();
    user.session.drop();
    this.#watch.countSoon(user.identity);
    await this.#askLinger();
    if (!user.droppedAt) return; // that was quick
    this.#draw(user);
    this.#say(`${user.identity} dropped: shown online for up to ${seconds(this.#linger)}, in case it comes back.`);
  }

  async #askLinger() {
    this.#linger = await this.#watch.linger().catch(() => this.#linger);
  }

  #remove(user) {
    user.queued = false;
    if (user.session.state.name !== 'closed') user.session.bye();
    const focus = user.el.nextElementSibling ?? user.el.previousElementSibling;
    user.el.remove();
    this.#users.delete(user.identity);
    this.#watch.unpin(user.identity);
    this.#calm();
    (focus?.querySelector('button:not([hidden])') ?? this.#ui.button).focus();
    this.#summary();
  }

  #closeAll() {
    for (const user of this.#users.values()) if (user.queued || user.session.state.name !== 'closed') this.#close(user);
  }

  #clear() {
    for (const user of [...this.#users.values()]) if (!user.queued && user.session.state.name === 'closed') this.#remove(user);
  }

  // settle ends a user's linger, however it ended.
  #settle(user) {
    const lingered = user.droppedAt;
    user.droppedAt = 0;
    this.#draw(user);
    if (lingered) this.#calm();
  }

  #calm() {
    if (![...this.#users.values()].some((user) => user.droppedAt)) this.#say(this.#hint);
  }

  #say(text) { setText(this.#ui.hint, text); }

  #tick() {
    for (const user of this.#users.values()) {
      if (!user.droppedAt && user.session.state.name !== 'waiting') continue;
      // With reachability off, nobody tells that the linger is over.
      if (user.droppedAt && Date.now() - user.droppedAt > this.#linger + 5000) this.#settle(user);
      else this.#draw(user);
    }
  }

  #draw(user) {
    const { state } = user.session;
    const closed = state.name === 'closed' && !user.queued;
    const [value, text] = this.#describe(user, state);
    user.mark.dataset.value = value;
    user.el.dataset.state = user.queued ? 'connecting' : state.how ?? state.name;
    setText(user.text, text);
    user.text.title = state.reason ?? '';
    const focused = user.el.contains(document.activeElement);
    user.buttons.close.hidden = closed;
    user.buttons.drop.hidden = state.name !== 'open';
    user.buttons.reopen.hidden = user.buttons.remove.hidden = !closed;
    // A keyboard's place must not vanish with the button it pressed.
    if (focused && document.activeElement.hidden) user.el.querySelector('button:not([hidden])').focus();
    this.#summary();
  }

  #describe(user, state) {
    if (user.queued || state.name === 'connecting') return ['pending', 'connecting'];
    switch (state.name) {
      case 'open': return ['true', 'connected'];
      case 'waiting': return ['pending', `retry in ${seconds(state.retryAt - Date.now())}`];
    }
    switch (state.how) {
      case 'drop':
        if (!user.droppedAt) return ['false', 'dropped'];
        return ['linger', `lingers ${seconds(this.#linger - (Date.now() - user.droppedAt))}`];
      case 'refused': return ['error', state.reason];
      default: return ['false', 'closed'];
    }
  }

  #summary() {
    const all = [...this.#users.values()];
    const open = all.filter((user) => user.session.state.name === 'open').length;
    const closed = all.filter((user) => user.session.state.name === 'closed' && !user.queued).length;
    this.#ui.closeAll.disabled = closed === all.length;
    this.#ui.clear.disabled = closed === 0;
    setText(this.#ui.counter, all.length ? `${open} of ${plural(all.length, 'user')} connected` : '');
    this.#ui.foot.hidden = all.length === 0;
    this.#ui.list.hidden = all.length === 0;
  }
}
