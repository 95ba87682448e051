// The Live section: one service's switch, table, plot, demo users and events.

import { Watch, matches, MAX_FOLLOWED, MAX_LISTED } from './watch.js';
import { Table } from './table.js';
import { Plot } from './plot.js';
import { Feed } from './feed.js';
import { Demo } from './demo.js';
import { $, h, setText, setAttr, frame, debounce, seconds, count, plural } from './dom.js';

export class Live {
  #watch;
  #table;
  #plot;
  #feed;
  #demo;
  #filter = '';
  #state = { name: 'connecting' };
  #switching = false;
  #stop = new AbortController();
  #clock;
  #onDenied;

  /** service: its SID; onDenied: called when the credentials are no longer taken. */
  constructor({ api, service, onDenied }) {
    this.#onDenied = onDenied;
    this.#table = new Table({ root: $('users'), source: () => this.#shown() });
    this.#plot = new Plot({ root: $('plot'), readout: $('plot-readout'), title: $('plot-title') });
    this.#feed = new Feed({ list: $('feed'), empty: $('feed-empty'), counter: $('feed-count'), button: $('feed-pause') });
    this.#watch = new Watch({
      api, service,
      visible: () => this.#table.visible(),
      on: {
        change: (identity) => this.#change(identity),
        list: () => { this.#table.refill(); this.#soon(); },
        state: (state) => this.#connection(state),
        switched: () => this.#soon(),
        event: (event) => this.#event(event),
      },
    });
    this.#demo = new Demo({ watch: this.#watch, ui: {
      form: $('demo-form'), number: $('demo-number'), button: $('demo-open'), list: $('demo-list'), foot: $('demo-foot'),
      closeAll: $('demo-close-all'), clear: $('demo-clear'), counter: $('demo-count'), hint: $('demo-hint') } });
    const { signal } = this.#stop;
    $('switch').addEventListener('click', () => this.#flip(!this.#watch.enabled), { signal });
    $('hint-on').addEventListener('click', () => this.#flip(true), { signal });
    $('filter').addEventListener('input', debounce(120, () => this.#setFilter($('filter').value.trim())), { signal });
    $('banner-action').addEventListener('click', () => this.#watch.retry(), { signal });
    addEventListener('online', () => this.#state.name === 'waiting' && this.#watch.retry(), { signal });
    this.#clock = setInterval(() => this.#state.name === 'waiting' && this.#drawConnection(), 500);
    $('filter').value = '';
    this.#watch.start();
    this.#soon();
  }

  /** stop ends every connection of this service and empties the section. */
  stop() {
    this.#stop.abort();
    clearInterval(this.#clock);
    this.#demo.stop();
    this.#watch.stop();
    this.#table.stop();
    this.#plot.stop();
    this.#feed.stop();
  }

  #shown() {
    return [...this.#watch.users.values()].filter((user) =>
      user.sid !== null && this.#watch.follows(user.identity) && matches(user, this.#filter));
  }

  #change(identity) {
    const user = this.#watch.users.get(identity);
    const exists = user.sid !== null && this.#watch.follows(identity);
    if (exists !== user.inTable) {
      user.inTable = exists;
      this.#table.refill();
    }
    this.#table.touch(identity);
    this.#demo.changed(identity, user);
    this.#soon();
  }

  #soon = frame(() => this.#draw(), 100);

  #draw() {
    if (this.#stop.signal.aborted) return;
    const tally = { true: 0, false: 0, null: 0, undefined: 0 };
    let users = 0;
    for (const user of this.#watch.users.values()) {
      if (user.sid === null) continue;
      users++;
      if (this.#watch.follows(user.identity)) tally[user.online]++;
    }
    const told = this.#watch.enabled !== undefined;
    setText($('stat-online'), told ? count(tally.true) : '–');
    setText($('stat-offline'), told ? count(tally.false) : '–');
    setText($('stat-unknown'), told ? count(tally.null) : '–');
    this.#plot.push(this.#watch.connected && this.#watch.enabled ? tally.true : null);
    this.#drawSwitch();
    this.#drawList(users);
  }

  #drawSwitch() {
    const { enabled } = this.#watch;
    const button = $('switch');
    button.disabled = enabled === undefined || this.#switching;
    setAttr(button, 'aria-checked', String(enabled === true));
    $('hint-off').hidden = enabled !== false;
    $('hint-on').disabled = this.#switching;
  }

  #drawList(users) {
    const shown = this.#shown().length;
    setText($('users-count'), this.#watch.list === 'loading' && !users ? '' : this.#filter ? `${count(shown)} of ${count(users)}` : count(users) + (this.#watch.cut ? '+' : ''));
    const note = $('users-note');
    const limited = users > MAX_FOLLOWED;
    note.hidden = !limited;
    if (limited) {
      setText(note, `This page follows ${count(MAX_FOLLOWED)} of ${this.#watch.cut ? `more than ${count(MAX_LISTED)}` : count(users)} users, the most that one session may. Filter to follow others.`);
    }
    const empty = $('users-empty');
    empty.hidden = shown > 0;
    if (shown > 0) empty.replaceChildren();
    else this.#drawEmpty(empty, users);
    $('users').classList.toggle('bare', shown === 0);
  }

  #drawEmpty(empty, users) {
    const say = (key, ...children) => {
      if (empty.dataset.key === key && empty.firstChild) return; // keep focus and text
      empty.dataset.key = key;
      empty.replaceChildren(...children);
    };
    if (this.#watch.list === 'failed') {
      say('failed', h('h3', {}, 'The users could not be read'), h('p', {}, this.#watch.listError),
        h('button', { class: 'button', type: 'button', onclick: () => this.#watch.reload() }, 'Try again'));
    } else if (this.#watch.list === 'loading') {
      say('loading', h('p', { class: 'loading' }, 'Reading the users'));
    } else if (this.#filter) {
      const error = h('p', { class: 'error', role: 'alert', hidden: true });
      say(`none ${this.#filter}`, h('h3', {}, 'No user matches'), h('p', {}, `Nobody listed has “${this.#filter}” in identity or name.`),
        h('button', { class: 'button', type: 'button', onclick: () => this.#find(error) }, `Look for exactly this identity`), error);
    } else if (users) {
      say('pending', h('p', { class: 'loading' }, 'Asking who is online'));
    } else if (this.#watch.enabled === false) {
      say('off', h('h3', {}, 'No users yet'), h('p', {}, 'Turn reachability on, then open demo users to see them come and go.'));
    } else {
      say('empty', h('h3', {}, 'No users yet'), h('p', {}, 'A user appears with the first connection, or when made over REST.'),
        h('button', { class: 'button primary', type: 'button', onclick: () => this.#demo.add(5) }, 'Open 5 demo users'));
    }
  }

  async #find(error) {
    try {
      await this.#watch.find(this.#filter);
    } catch (err) {
      setText(error, err.status === 404 ? 'There is no user of exactly this identity.' : err.message);
      error.hidden = false;
    }
  }

  #setFilter(text) {
    this.#filter = text;
    this.#watch.filter = text;
    this.#table.refill();
    this.#soon();
  }

  async #flip(on) {
    this.#switching = true;
    this.#drawSwitch();
    try {
      await this.#watch.setReachability(on);
    } catch (err) {
      if (err.status === 401) return this.#onDenied(err.message);
      this.#feed.add({ time: Date.now(), title: 'Reachability', value: 'error', text: `not changed: ${err.message}` });
    } finally {
      this.#switching = false;
      this.#soon();
    }
  }

  #connection(state) {
    if (this.#stop.signal.aborted) return;
    this.#state = state;
    if (state.status === 401) return this.#onDenied(state.reason);
    this.#drawConnection();
    this.#soon();
  }

  #drawConnection() {
    const { name, reason, retryAt } = this.#state;
    const pill = $('connection');
    setAttr(pill, 'data-state', name);
    setText(pill, { open: 'Live', connecting: 'Connecting', waiting: 'Reconnecting', closed: 'Disconnected' }[name]);
    const lost = name === 'waiting' || name === 'closed';
    $('banner').hidden = !lost;
    $('panel-live').classList.toggle('stale', lost);
    if (!lost) return;
    // Spoken once a change, not with each second of the countdown.
    $('banner').ariaLive = retryAt && $('banner').dataset.reason === reason ? 'off' : 'polite';
    $('banner').dataset.reason = reason;
    setText($('banner-text'), name === 'waiting'
      ? `${reason} What you see may be out of date. Trying again in ${seconds(retryAt - Date.now())}.`
      : `${reason ?? 'The gateway ended this session.'} What you see is no longer updated.`);
    setText($('banner-action'), name === 'waiting' ? 'Try now' : 'Connect again');
  }

  #event(event) {
    if (event.enabled !== undefined) {
      this.#feed.add({ time: event.time, title: 'Reachability', value: String(event.enabled), text: `turned ${event.enabled ? 'on' : 'off'}` });
      return;
    }
    const { was, user, reasons, caughtUp } = event;
    const words = reasons.map((reason) => describe(reason, user));
    if (user.sid === null && was.sid !== null) words.unshift('was deleted');
    else if (user.sid !== null && was.sid === null && !words.length) words.push('was created');
    if (!words.length) return;
    this.#feed.add({ time: event.time, title: user.identity, rev: user.rev,
      value: reasons.includes('reachabilityOnline') ? String(user.online) : 'note',
      text: words.join(', ') + (caughtUp ? ' (caught up)' : '') });
  }
}

function describe(reason, user) {
  switch (reason) {
    case 'reachabilityOnline': return { true: 'came online', false: 'went offline' }[user.online] ?? 'no longer known';
    case 'reachabilityNotifiable': return { true: 'is notifiable', false: 'is not notifiable any more' }[user.notifiable] ?? 'notifiable unknown';
    case 'friendlyName': return user.friendlyName === null ? 'lost its name' : `is now named ${user.friendlyName}`;
    case 'attributes': return 'changed attributes';
    default: return reason;
  }
}
