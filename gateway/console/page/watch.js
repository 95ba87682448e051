// Watch follows the users of one service: the list over REST, their presence
// over a session of its own, which is invisible and so never shows up itself.

import { Session } from './socket.js';
import { debounce } from './dom.js';

export const MAX_FOLLOWED = 1000; // what a session may follow
export const MAX_LISTED = 5000; // users read from the list
const WATCHER = 'rollcall-console';
const LIST_MS = 4000;
const SESSIONS_MS = 3000;
const SESSIONS_BATCH = 100; // identities in one question: addresses have a limit, too

/**
 * A user here: {identity, sid, friendlyName, online, notifiable, rev, changed,
 * lastOnline, sessions}. online and notifiable: true, false, null (unknown), or
 * undefined (not told yet). changed: ms since 1970. sessions: a number, or
 * undefined (not counted yet).
 */
export class Watch {
  users = new Map();
  enabled = undefined;
  /** loading | ready | failed */
  list = 'loading';
  listError = '';
  /** more users exist than MAX_LISTED */
  cut = false;

  #api;
  #service;
  #on;
  #session;
  #pinned = new Set();
  #filter = '';
  #lastCursor = '';
  #stopped = false;
  #timers = new Set();
  #visible;

  /**
   * on: {change(identity), list(), state(state), switched(enabled), event(event)}.
   * visible: function giving the identities on screen, whose sessions are counted.
   */
  constructor({ api, service, visible, on }) {
    this.#api = api;
    this.#service = service;
    this.#visible = visible;
    this.#on = on;
    this.#session = new Session({
      token: async () => (await api.token(service, WATCHER)).token,
      invisible: true,
      on: {
        state: (state) => on.state(state),
        welcome: (message) => this.#switched(message.reachability_enabled),
        user: (user, reasons) => this.#user(user, reasons),
        service: (enabled) => this.#switched(enabled),
      },
    });
  }

  start() {
    this.#session.open();
    this.#readAll();
    this.#every(LIST_MS, () => this.list === 'ready' && this.#readOn());
    this.#every(SESSIONS_MS, () => this.#count(this.#visible()));
  }

  stop() {
    this.#stopped = true;
    this.#timers.forEach(clearInterval);
    this.#session.bye();
  }

  get connected() { return this.#session.state.name === 'open'; }

  /** retry connects now instead of after the wait. */
  retry() { this.#session.open(); }

  /** reload reads the list anew after a failure. */
  reload() { this.#readAll(); }

  follows(identity) { return this.#session.known.has(identity); }

  /** token gives an access token for a user of this service. */
  async token(identity) { return (await this.#api.token(this.#service, identity)).token; }

  /** linger tells how long a lost user of this service is shown online, in ms. */
  async linger() { return (await this.#api.settings(this.#service)).linger_ms; }

  /** pin follows an identity whatever the filter says, before others. */
  async pin(identity) {
    this.#pinned.add(identity);
    await this.#retarget();
  }

  unpin(identity) { this.#pinned.delete(identity); }

  /** filter chooses whom to follow when there are more users than a session may follow. */
  set filter(text) {
    this.#filter = text;
    if (this.users.size > MAX_FOLLOWED) this.#retargetSoon();
  }

  /** find adds the user of exactly this identity, listed or not. It fails with 404 when there is none. */
  async find(identity) {
    this.#add(await this.#api.user(this.#service, identity));
    await this.pin(identity);
  }

  async setReachability(on) {
    const { reachability_enabled } = await this.#api.setReachability(this.#service, on);
    this.#switched(reachability_enabled);
  }

  // --- the list

  async #readAll() {
    this.list = 'loading';
    this.#lastCursor = '';
    this.#on.list();
    if (await this.#readOn()) {
      this.list = 'ready';
      this.#on.list();
    }
  }

  // readOn reads from the last page that was seen: new users are at the end.
  async #readOn() {
    try {
      for (let cursor = this.#lastCursor; cursor !== null && !this.#stopped;) {
        const page = await this.#api.users(this.#service, cursor);
        if (this.#stopped) return false;
        this.#lastCursor = cursor;
        const before = this.users.size;
        for (const user of page.items) this.#add(user);
        cursor = page.next;
        this.cut = cursor !== null && this.users.size >= MAX_LISTED;
        if (this.cut) cursor = null;
        if (this.users.size !== before) {
          this.#retarget().catch(() => {}); // what is not followed yet is after a reconnect
          this.#on.list();
        }
      }
      return !this.#stopped;
    } catch (err) {
      if (this.#stopped) return false;
      if (this.list === 'loading') {
        this.list = 'failed';
        this.listError = err.message;
        this.#on.list();
      }
      return false;
    }
  }

  #add(resource) {
    if (resource.identity === WATCHER) return; // that is this page
    const user = this.#get(resource.identity);
    user.sid = resource.sid;
    user.friendlyName = resource.friendly_name;
    this.#on.change(user.identity);
  }

  #get(identity) {
    let user = this.users.get(identity);
    if (!user) {
      user = { identity, sid: null, friendlyName: null, rev: 0 };
      this.users.set(identity, user);
    }
    return user;
  }

  // --- whom to follow

  #retargetSoon = debounce(300, () => this.#retarget().catch(() => {}));

  async #retarget() {
    // Who matches the filter comes first; who is followed already stays while
    // there is room.
    const users = [...this.users.values()];
    const target = new Set(this.#pinned);
    const fill = (wanted) => {
      for (const user of users) if (target.size < MAX_FOLLOWED && wanted(user)) target.add(user.identity);
    };
    if (this.#filter) fill((user) => matches(user, this.#filter));
    fill((user) => this.follows(user.identity));
    fill(() => true);
    const gone = [...this.#session.known.keys()].filter((identity) => !target.has(identity));
    if (gone.length) await this.#session.unfollow(gone);
    for (const identity of gone) if (this.users.has(identity)) this.#on.change(identity);
    await this.#session.follow([...target]);
  }

  // --- presence

  #user(message, reasons) {
    const { identity } = message;
    const user = this.#get(identity);
    const was = { ...user };
    if (message.sid !== undefined) user.sid = message.sid;
    if (message.friendly_name !== undefined) user.friendlyName = message.friendly_name;
    user.online = message.is_online;
    user.notifiable = message.is_notifiable;
    user.lastOnline = message.date_last_online ?? user.lastOnline;
    user.rev = message.rev;
    // A revision is the time of its change unless changes come faster than time.
    if (message.rev > 1e12) user.changed = message.rev;
    if (was.online !== user.online) user.sessions = user.online === false ? 0 : undefined; // counted anew
    this.#on.change(identity);
    if (was.online !== user.online || reasons) this.countSoon(identity);
    const caughtUp = reasons === null;
    if (caughtUp && (was.online === undefined || was.rev === user.rev)) return;
    this.#on.event({ time: Date.now(), identity, was, user: { ...user }, caughtUp,
      reasons: reasons ?? ['reachabilityOnline', 'reachabilityNotifiable', 'friendlyName'].filter((reason) => changed(reason, was, user)) });
  }

  #switched(enabled) {
    if (this.enabled === enabled) return;
    const first = this.enabled === undefined;
    this.enabled = enabled;
    if (!enabled) {
      for (const user of this.users.values()) {
        if (user.online === undefined) continue;
        user.online = user.notifiable = null;
        this.#on.change(user.identity);
      }
    } else if (!first) {
      this.#session.refresh().catch(() => {}); // events bring it as well, later
    }
    this.#on.switched(enabled);
    if (!first) this.#on.event({ time: Date.now(), enabled });
  }

  // --- sessions

  #asked = new Set();
  #countNow = debounce(200, () => {
    this.#count([...this.#asked].slice(0, SESSIONS_BATCH)); // the rest waits for its turn on screen
    this.#asked.clear();
  });

  /** countSoon counts an identity's sessions out of turn: somebody knows that they changed. */
  countSoon(identity) {
    this.#asked.add(identity);
    this.#countNow();
  }

  async #count(identities) {
    for (let i = 0; i < identities.length && !this.#stopped; i += SESSIONS_BATCH) {
      try {
        const counts = await this.#api.sessions(this.#service, identities.slice(i, i + SESSIONS_BATCH));
        for (const [identity, n] of Object.entries(counts)) {
          const user = this.users.get(identity);
          if (!user || user.sessions === n) continue;
          user.sessions = n;
          this.#on.change(identity);
        }
      } catch {
        return; // the next round asks again; the connection's state is shown anyway
      }
    }
  }

  // every calls fn in turns, one at a time, while the page can be seen.
  #every(ms, fn) {
    let busy = false;
    this.#timers.add(setInterval(async () => {
      if (busy || document.hidden) return;
      busy = true;
      try {
        await fn();
      } finally {
        busy = false;
      }
    }, ms));
  }
}

/** matches tells whether a filter's text is in a user's identity or name. */
export function matches(user, text) {
  if (!text) return true;
  const needle = text.toLowerCase();
  return user.identity.toLowerCase().includes(needle) || (user.friendlyName ?? '').toLowerCase().includes(needle);
}

function changed(reason, was, user) {
  switch (reason) {
    case 'reachabilityOnline': return was.online !== user.online;
    case 'reachabilityNotifiable': return was.notifiable !== user.notifiable;
    case 'friendlyName': return was.friendlyName !== user.friendlyName;
  }
}
