// The Conversations SDK section: the two samples of docs/twilio-sdk.md, filled in
// with this gateway's own values, ready to be run. The files that are shown are
// the ones that the tests run.
//
// An access token is shown, since it is for one user and one hour, and who sees
// this page can make more. The account's auth token and the key's secret are not:
// the sample takes them from its environment, so that they are in no file that is
// made here, on no screen and in no clipboard.

import { card, code, facts, named } from './cards.js';
import { clockTime, h, setText } from './dom.js';

const PACKAGES = 'twilio@6.2.0 @twilio/conversations@3.0.1';
const WAITING = 'Making an access token';

/** fill puts values into a sample, where it would take them from its environment. */
export function fill(sample, values) {
  return sample.replace(/process\.env\.(\w+)/g, (all, name) => (values[name] === undefined ? all : literal(values[name])));
}

// literal is a text as code. What cannot be seen is written out: a text that looks
// like another must not be copied unnoticed.
const literal = (text) => `'${text.replace(/[\\']/g, '\\$&').replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (unseen) =>
  unseen.split('').map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`).join(''))}'`;

export class Sdk {
  #api;
  #service;
  #onDenied;
  #account;
  #root;
  #values;
  #asked = 0; // tells the newest request for a token from those before
  #shown = false;
  #expiry;
  #parts;

  /** Nothing is asked for before show is called. user: who signed in. */
  constructor({ root, api, service, account, user, onDenied }) {
    this.#api = api;
    this.#service = service;
    this.#account = account;
    this.#onDenied = onDenied;
    this.#root = root;
    const base = new URL('.', document.baseURI).href.replace(/\/$/, '');
    this.#values = {
      GATEWAY_URL: base,
      GATEWAY_SOCKET: `${base.replace(/^http/, 'ws')}/v3/wsconnect`,
      ACCOUNT_SID: account,
      SERVICE_SID: service,
    };
    this.#draw(/^SK/i.test(user) ? user : null);
  }

  #draw(key) {
    const v = this.#values;
    const p = this.#parts = {
      signer: h('dd', {}, WAITING),
      first: code('', 'the sample of the switch'),
      second: code('', 'the sample of the handler'),
      as: h('input', { id: 'sdk-as', value: 'radia', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', required: true, maxlength: '256' }),
      followed: h('input', { id: 'sdk-followed', value: 'grace', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', required: true, maxlength: '256' }),
      status: h('p', { class: 'note', role: 'status' }),
      error: h('p', { class: 'error', role: 'alert', hidden: true }),
      key,
    };
    const form = h('form', { class: 'sdk-form', onsubmit: (event) => {
      event.preventDefault();
      this.#mint();
    } },
    h('label', { class: 'field', for: 'sdk-as' }, h('span', {}, 'Connect as'), p.as),
    h('label', { class: 'field', for: 'sdk-followed' }, h('span', {}, 'Follow'), p.followed),
    h('button', { class: 'button', type: 'submit' }, 'New token'));
    p.as.addEventListener('change', () => form.reportValidity() && this.#mint());
    p.followed.addEventListener('input', () => this.#write());

    const where = facts([
      ['Base URL', v.GATEWAY_URL], ['SDK socket', v.GATEWAY_SOCKET], ['Account SID', v.ACCOUNT_SID], ['Service SID', v.SERVICE_SID],
    ]);
    where.append(h('dt', {}, 'API key SID'), p.signer);
    const secret = key ? 'API_KEY_SECRET' : 'AUTH_TOKEN';
    this.#root.replaceChildren(
      card('Where', 'Code written for the hosted Conversations goes on here with one line more in each place. The API key is the one that signs access tokens.', where),
      card('Turn the switch on', `With the helper library, on a server. ${secret} comes from the environment: a secret belongs in no file, and this page shows none.`,
        p.first),
      card('Follow a user', 'With the SDK, in Node or on a page. The one who is followed must be a user of the service: made over REST, or connected once. ' +
        'Open demo users under Live, follow one of them, and close it.', form, p.error, p.second, p.status),
      card('Run them', 'Save them as switch.mjs and updated.mjs. The second command, for bash, asks for the secret without showing it.',
        code(`npm install ${PACKAGES}\nread -rsp '${secret}: ' ${secret} && export ${secret} \\\n  && node switch.mjs && node updated.mjs`, 'the commands')),
    );
  }

  /** show is called whenever the section comes into sight. */
  async show() {
    if (this.#shown) return;
    this.#shown = true;
    try {
      [this.#parts.switch, this.#parts.updated] = await Promise.all(['switch', 'updated'].map((name) => this.#api.sample(name)));
    } catch (err) {
      this.#shown = false;
      return this.#tell(err);
    }
    this.#write();
    await this.#mint();
  }

  stop() {
    this.#asked += 1;
    clearTimeout(this.#expiry);
  }

  async #mint() {
    const mine = ++this.#asked, identity = this.#parts.as.value;
    clearTimeout(this.#expiry);
    delete this.#values.ACCESS_TOKEN;
    this.#write();
    setText(this.#parts.status, WAITING);
    this.#tell(null);
    let made;
    try {
      made = await this.#api.token(this.#service, identity);
    } catch (err) {
      if (mine === this.#asked) this.#tell(err);
      return;
    }
    if (mine !== this.#asked) return;
    this.#values.ACCESS_TOKEN = made.token;
    this.#write();
    const ends = new Date(made.expires_at);
    this.#parts.status.replaceChildren(`The token is good until ${clockTime(ends)}: whoever has it can connect as `, h('bdi', {}, identity), ' until then.');
    this.#parts.signer.replaceChildren(...named('API key SID', issuer(made.token)));
    this.#expiry = setTimeout(() => setText(this.#parts.status, 'The token has expired. Make a new one.'), ends - Date.now());
  }

  #write() {
    const p = this.#parts;
    const first = p.key
      ? p.switch?.replace('process.env.AUTH_TOKEN', `process.env.API_KEY_SECRET, { accountSid: ${literal(this.#account)} }`)
        .replace('process.env.ACCOUNT_SID', literal(p.key))
      : p.switch;
    setText(p.first.querySelector('pre'), fill(first ?? '', this.#values));
    setText(p.second.querySelector('pre'), fill(p.updated ?? '', { ...this.#values, FOLLOWED: p.followed.value }));
  }

  #tell(err) {
    if (err?.status === 401) return this.#onDenied();
    setText(this.#parts.error, err?.message ?? '');
    this.#parts.error.hidden = !err;
    if (err) setText(this.#parts.status, '');
  }
}

// issuer is the key that signed a token. A token is text between dots, in base64url.
const issuer = (token) => JSON.parse(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/'))).iss;
