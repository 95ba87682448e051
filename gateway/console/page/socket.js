// One session: a connection of one user over the native protocol, kept alive.
//
// A session that loses its connection comes back by itself, after a random delay
// (full jitter) or after the time the server asked for, and names the revisions
// it saw, so that it is told only what changed meanwhile.

const PROTOCOL = 'rollcall.v1.json';
const BASE_MS = 1000;
const CAP_MS = 30_000;
const ANSWER_MS = 10_000; // for a connection, or the answer to a request
const WELCOME_MS = 45_000; // more than the gateway has a session wait while its store is away
const PONG_MS = 8000;
const LOST = { 1001: 'The gateway is going away.', 1006: 'The connection was lost.', 1012: 'The gateway is restarting.' };
const FINAL = new Set([1002, 1003, 1007, 1009]); // we broke the protocol, and would again; so from 3500 to 3999
const MAX_IDENTITIES = 500; // in one request
const MAX_BYTES = 48 << 10; // of identities in one request; frames end at 64 KiB

const bytes = (s) => new TextEncoder().encode(s).length;

export class Session {
  /** Every identity this session follows, with the revision last seen of it (undefined: none yet). */
  known = new Map();
  /** name: closed | connecting | open | waiting; with reason, code, retryAt where they apply. */
  state = { name: 'closed' };

  #on;
  #token;
  #invisible;
  #ws = null;
  #attempt = 0;
  #requests = new Map();
  #lastId = 0;
  #complaint = ''; // an error of the server that answers no request
  #timers = new Map();

  /**
   * token: async function giving an access token.
   * on: {state(state), welcome(message), user(user, reasons), service(enabled)};
   * reasons is null for a snapshot.
   */
  constructor({ token, invisible = false, on }) {
    this.#token = token;
    this.#invisible = invisible;
    this.#on = on;
  }

  /** open connects, now, whatever the session was waiting for. */
  open() {
    if (this.state.name === 'open' || this.state.name === 'connecting') return;
    this.#connect();
  }

  /** bye ends the session cleanly: its user is offline at once. */
  bye() {
    const ws = this.#ws;
    if (this.state.name === 'open') {
      this.#send({ type: 'bye' });
      setTimeout(() => ws.close(1000), 2000); // if the server does not close first
      this.#detach({ name: 'closed', how: 'bye' });
    } else {
      this.#detach({ name: 'closed', how: 'bye' });
      ws?.close(1000);
    }
  }

  /** drop ends the connection without a goodbye, as a lost network would: its user lingers. */
  drop() {
    const ws = this.#ws;
    this.#detach({ name: 'closed', how: 'drop' });
    ws?.close(4000); // a page cannot cut its TCP connection; any code but 1000 is abnormal
  }

  /** follow subscribes. It resolves when the snapshots are in, or at once when the session is not open: it will be done then. */
  async follow(identities) {
    const fresh = identities.filter((identity) => !this.known.has(identity));
    for (const identity of fresh) this.known.set(identity, undefined);
    try {
      await this.refresh(fresh);
    } catch (err) {
      // Refused, or no answer: not followed. After a lost connection it will be.
      if (this.state.name === 'open') for (const identity of fresh) if (this.known.get(identity) === undefined) this.known.delete(identity);
      throw err;
    }
  }

  /** refresh asks again for the state of identities that are followed. */
  async refresh(identities = [...this.known.keys()]) {
    if (this.state.name !== 'open') return;
    await Promise.all(chunks(identities).map(async (part) => {
      const answer = await this.#request({ type: 'subscribe', identities: part });
      for (const user of answer.users) this.#user(user, null);
    }));
  }

  /** unfollow ends subscriptions. */
  async unfollow(identities) {
    for (const identity of identities) this.known.delete(identity);
    if (this.state.name !== 'open') return;
    await Promise.all(chunks(identities).map((part) => this.#request({ type: 'unsubscribe', identities: part })));
  }

  #set(state) {
    this.state = state;
    this.#on.state?.(state);
  }

  #timer(name, ms, fn) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(fn, ms));
  }

  // detach forgets the connection: what it still says goes unheard.
  #detach(state) {
    this.#ws = null;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    for (const request of this.#requests.values()) {
      clearTimeout(request.timer);
      request.reject(new Error('The connection ended.'));
    }
    this.#requests.clear();
    this.#set(state);
  }

  #retry(reason, hintMs) {
    const jitter = Math.random() * Math.min(CAP_MS, BASE_MS * 2 ** Math.min(this.#attempt++, 10));
    const wait = hintMs > 0 ? hintMs : 200 + jitter;
    this.#detach({ name: 'waiting', reason, retryAt: Date.now() + wait });
    this.#timer('retry', wait, () => this.#connect());
  }

  async #connect() {
    this.#detach({ name: 'connecting' });
    const mine = this.state;
    let token;
    try {
      token = await this.#token();
    } catch (err) {
      if (this.state !== mine) return;
      // 4xx is our mistake, and asking again the same mistake; 429 is not.
      if (err.status >= 400 && err.status < 500 && err.status !== 429) this.#detach({ name: 'closed', how: 'refused', reason: err.message, status: err.status });
      else this.#retry(err.message, err.retryAfterMs);
      return;
    }
    if (this.state !== mine) return;
    const url = new URL('v1/connect', document.baseURI);
    url.protocol = url.protocol.replace('http', 'ws');
    const ws = new WebSocket(url, PROTOCOL);
    this.#ws = ws;
    ws.onopen = () => this.#ws === ws && this.#hello(token);
    ws.onmessage = (event) => this.#ws === ws && this.#frame(event.data);
    ws.onclose = (event) => this.#ws === ws && this.#closed(event);
    this.#answerWithin(ANSWER_MS);
  }

  // answerWithin gives the connection up unless it has its welcome, or is asked again, until then.
  #answerWithin(ms) {
    const ws = this.#ws;
    this.#timer('answer', ms, () => {
      ws.close();
      this.#retry('The gateway did not answer in time.');
    });
  }

  #hello(token) {
    this.#answerWithin(WELCOME_MS);
    const hello = { type: 'hello', token, batch: true };
    if (this.#invisible) hello.invisible = true;
    const seen = [...this.known].filter(([, rev]) => rev !== undefined).map(([identity]) => identity);
    // What does not fit in the first frame is subscribed to after the welcome.
    const first = chunks(seen)[0] ?? [];
    if (first.length) hello.known = Object.fromEntries(first.map((identity) => [identity, this.known.get(identity)]));
    this.resumed = new Set(first);
    this.#send(hello);
  }

  #frame(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      return; // not for us
    }
    if (message.type === 'batch') message.messages.forEach((each) => this.#message(each));
    else this.#message(message);
  }

  #message(message) {
    switch (message.type) {
      case 'welcome': return this.#welcome(message);
      case 'user.updated': return this.#user(message.user, message.update_reasons ?? []);
      case 'service.updated': return this.#on.service?.(message.reachability_enabled);
      case 'token.expiring': return this.#renew();
      case 'pong': clearTimeout(this.#timers.get('pong'));
    }
    const request = this.#requests.get(message.id);
    if (!request) {
      if (message.type === 'error') this.#complaint = message.message;
      return;
    }
    this.#requests.delete(message.id);
    clearTimeout(request.timer);
    if (message.type === 'error') request.reject(new Error(message.message));
    else request.resolve(message);
  }

  #welcome(message) {
    clearTimeout(this.#timers.get('answer'));
    this.#attempt = 0;
    this.#set({ name: 'open', session: message.session });
    this.#on.welcome?.(message);
    for (const user of message.users ?? []) this.#user(user, null);
    const rest = [...this.known.keys()].filter((identity) => !this.resumed.has(identity));
    if (rest.length) this.refresh(rest).catch(() => {}); // a lost connection does it again
    this.#beat(message.ping_interval_ms || 25_000);
  }

  // A page cannot see the server's pings, so it asks for itself.
  #beat(interval) {
    this.#timer('ping', interval, () => {
      const ws = this.#ws;
      this.#send({ type: 'ping', id: ++this.#lastId });
      this.#timer('pong', PONG_MS, () => {
        ws.close();
        this.#retry('The connection went silent.');
      });
      this.#beat(interval);
    });
  }

  async #renew() {
    const ws = this.#ws;
    try {
      await this.#request({ type: 'token', token: await this.#token() });
    } catch {
      if (this.#ws === ws) this.#timer('renew', 5000, () => this.#renew());
    }
  }

  #user(user, reasons) {
    // An unfollowed user's last words may still be on their way.
    if (!this.known.has(user.identity)) return;
    // A reader keeps the highest revision it saw; a user that is gone has none.
    const seen = this.known.get(user.identity);
    const gone = reasons === null && user.sid === null;
    if (seen !== undefined && user.rev < seen && !gone) return;
    this.known.set(user.identity, user.rev);
    this.#on.user?.(user, reasons);
  }

  #closed({ code, reason }) {
    let hint;
    try {
      hint = JSON.parse(reason);
    } catch {
      hint = null;
    }
    const said = this.#complaint || (hint ? '' : reason);
    this.#complaint = '';
    if (code === 1000) this.#detach({ name: 'closed', how: 'bye' });
    else if (FINAL.has(code) || (code >= 3500 && code < 4000)) this.#detach({ name: 'closed', how: 'refused', reason: `The gateway ended the session${said ? `: ${said}` : ''} (${code}).` });
    else this.#retry(LOST[code] ?? `The gateway closed the connection${said ? `: ${said}` : ''} (${code}).`, Number(hint?.retry_after_ms) || 0);
  }

  #send(message) {
    if (this.#ws?.readyState === WebSocket.OPEN) this.#ws.send(JSON.stringify(message));
  }

  #request(message) {
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#requests.delete(id);
        reject(new Error('The gateway did not answer in time.'));
      }, ANSWER_MS);
      this.#requests.set(id, { resolve, reject, timer });
      this.#send({ ...message, id });
    });
  }
}

// chunks cuts identities into requests within the protocol's limits.
function chunks(identities) {
  const all = [];
  let part = [], size = 0;
  for (const identity of identities) {
    const cost = bytes(JSON.stringify(identity)) + 18; // a comma, or a colon and a revision
    if (part.length === MAX_IDENTITIES || size + cost > MAX_BYTES) {
      all.push(part);
      part = [];
      size = 0;
    }
    part.push(identity);
    size += cost;
  }
  if (part.length) all.push(part);
  return all;
}
