// The REST API, and the page's own endpoints beside it.

const TIMEOUT_MS = 15_000;

/** ApiError is every way a request can fail. status 0: no answer came. */
export class ApiError extends Error {
  constructor(status, code, message, retryAfterMs = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

export class Api {
  #authorization;

  constructor(user, secret) {
    const bytes = new TextEncoder().encode(`${user}:${secret}`);
    this.#authorization = 'Basic ' + btoa(String.fromCharCode(...bytes));
  }

  account() { return this.#ask('GET', 'v1/Configuration'); }
  services() { return this.#all('v1/Services', 'services', 500); }
  service(sid) { return this.#ask('GET', `v1/Services/${sid}`); }
  createService(name) { return this.#ask('POST', 'v1/Services', { FriendlyName: name }); }
  configuration(sid) { return this.#ask('GET', `v1/Services/${sid}/Configuration`); }
  setReachability(sid, on) { return this.#ask('POST', `v1/Services/${sid}/Configuration`, { ReachabilityEnabled: String(on) }); }
  user(sid, identity) { return this.#ask('GET', `v1/Services/${sid}/Users/${encodeURIComponent(identity)}`); }

  /** users reads one page; cursor is what the page before gave as next, or ''. */
  users(sid, cursor) { return this.#page(`v1/Services/${sid}/Users`, 'users', cursor); }

  settings(sid) { return this.#ask('GET', `console/api/services/${sid}/settings`); }
  token(sid, identity) { return this.#ask('POST', 'console/api/token', { ServiceSid: sid, Identity: identity }); }

  /** sample is the text of a sample, which is a file of this page. */
  async sample(name) {
    try {
      const response = await fetch(new URL(`console/sample-${name}.mjs`, document.baseURI), { signal: AbortSignal.timeout(TIMEOUT_MS) });
      if (response.ok) return await response.text();
    } catch {
      // it is told the same way
    }
    throw new ApiError(0, 0, 'The gateway does not answer.');
  }

  async sessions(sid, identities) {
    const query = new URLSearchParams(identities.map((identity) => ['Identity', identity]));
    return (await this.#ask('GET', `console/api/services/${sid}/sessions?${query}`)).sessions;
  }

  async #all(path, key, limit) {
    const all = [];
    for (let cursor = ''; cursor !== null && all.length < limit;) {
      const page = await this.#page(path, key, cursor);
      all.push(...page.items);
      cursor = page.next;
    }
    return all;
  }

  async #page(path, key, cursor) {
    const body = await this.#ask('GET', path + (cursor || '?PageSize=50'));
    // Only the query of the next address is used: the credentials stay with
    // the origin that served this page, whatever address it thinks it has.
    const next = body.meta.next_page_url;
    return { items: body[key], next: next ? new URL(next, document.baseURI).search : null };
  }

  async #ask(method, path, form) {
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), {
        method,
        headers: { Authorization: this.#authorization, Accept: 'application/json' },
        body: form && new URLSearchParams(form),
        credentials: 'omit', // else a 401 opens the browser's own password dialogue
        cache: 'no-store',
        redirect: 'error',
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch {
      throw new ApiError(0, 0, 'The gateway does not answer.');
    }
    const body = await response.json().catch(() => null);
    if (response.ok && body) return body;
    throw new ApiError(response.status, body?.code ?? 0, body?.message ?? `The gateway answered ${response.status}.`,
      1000 * (Number(response.headers.get('Retry-After')) || 0));
  }
}
