// The page: sign in, choose a service, show its sections.

import { Api, ApiError } from './api.js';
import { Live } from './live.js';
import { drawConnect } from './connect.js';
import { Sdk } from './sdk.js';
import { $, h, setText } from './dom.js';

const STORED = 'rollcall.credentials'; // in sessionStorage: this tab, until it closes
const DENIED = 'These credentials are not valid. Check the SID and its secret.';

let api = null;
let account = null;
let live = null;
let sdk = null;
let user = null; // who signed in: the account or a key

// --- signing in

async function signIn(name, secret) {
  const candidate = new Api(name, secret);
  const found = await candidate.account();
  api = candidate;
  account = found;
  user = name;
  sessionStorage.setItem(STORED, JSON.stringify({ user: name, secret }));
  $('signin').hidden = true;
  $('app').hidden = false;
  $('signin-secret').value = '';
  await showServices(deepLink().service ?? account.default_chat_service_sid);
}

function signOut(message = '') {
  sessionStorage.removeItem(STORED);
  showSignIn(message);
}

function showSignIn(message) {
  live?.stop();
  sdk?.stop();
  $('panel-sdk').replaceChildren(); // it shows a token
  live = sdk = api = account = user = null;
  $('app').hidden = true;
  $('signin').hidden = false;
  showError($('signin-error'), message);
  ($('signin-user').value ? $('signin-secret') : $('signin-user')).focus();
}

$('signin-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = $('signin-submit');
  showError($('signin-error'), '');
  button.disabled = true;
  setText(button, 'Signing in');
  try {
    await signIn($('signin-user').value.trim(), $('signin-secret').value.trim());
  } catch (err) {
    signOut(explain(err));
  } finally {
    button.disabled = false;
    setText(button, 'Sign in');
  }
});

$('signout').addEventListener('click', () => signOut());

function explain(err) {
  if (!(err instanceof ApiError)) throw err;
  return err.status === 401 ? DENIED : err.message;
}

function showError(el, message) {
  setText(el, message);
  el.hidden = !message;
}

// A link may name an account and a service. Never a secret: addresses are kept
// in histories.
function deepLink() {
  const given = new URLSearchParams(location.hash.slice(1));
  const sid = (name, pattern) => (pattern.test(given.get(name) ?? '') ? given.get(name) : undefined);
  return { account: sid('account', /^(AC|SK)[0-9a-f]{32}$/i), service: sid('service', /^IS[0-9a-f]{32}$/i) };
}

// --- services

async function showServices(wanted) {
  const services = await api.services();
  const first = account.default_chat_service_sid;
  services.sort((a, b) => (b.sid === first) - (a.sid === first));
  if (!services.some((service) => service.sid === wanted)) {
    // Beyond the first pages, or gone: the default takes its place.
    const service = await api.service(wanted).catch(() => null);
    if (service) services.push(service);
    else wanted = first;
  }
  $('service').replaceChildren(...services.map(({ sid, friendly_name }) =>
    h('option', { value: sid, title: sid }, serviceName(friendly_name || sid, sid === first))));
  choose(wanted);
}

const serviceName = (name, isDefault) => (isDefault && !/default/i.test(name) ? `${name} (default)` : name);

function choose(sid) {
  live?.stop();
  sdk?.stop();
  $('service').value = sid;
  history.replaceState(null, '', `#service=${sid}`);
  live = new Live({ api, service: sid, onDenied: () => signOut(DENIED) });
  drawConnect($('panel-connect'), { service: sid, account: account.account_sid });
  sdk = new Sdk({ root: $('panel-sdk'), api, service: sid, account: account.account_sid, user, onDenied: () => signOut(DENIED) });
  if (!$('panel-sdk').hidden) sdk.show();
}

$('service').addEventListener('change', () => choose($('service').value));

$('service-new').addEventListener('click', () => {
  $('service-name').value = '';
  showError($('service-error'), '');
  $('service-dialog').showModal();
});
$('service-cancel').addEventListener('click', () => $('service-dialog').close());
$('service-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = $('service-create');
  button.disabled = true;
  try {
    const { sid } = await api.createService($('service-name').value.trim());
    $('service-dialog').close();
    await showServices(sid);
  } catch (err) {
    showError($('service-error'), explain(err));
  } finally {
    button.disabled = false;
  }
});

// --- sections

const tabs = [...document.querySelectorAll('[role=tab]')];

function select(tab) {
  for (const each of tabs) {
    const mine = each === tab;
    each.setAttribute('aria-selected', String(mine));
    each.tabIndex = mine ? 0 : -1;
    $(each.getAttribute('aria-controls')).hidden = !mine;
  }
  if (tab === $('tab-sdk')) sdk?.show();
}

for (const tab of tabs) {
  tab.addEventListener('click', () => select(tab));
  tab.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    select(next);
    next.focus();
  });
}

// --- start

const kept = JSON.parse(sessionStorage.getItem(STORED) ?? 'null');
$('signin-user').value = kept?.user ?? deepLink().account ?? '';
if (!kept) showSignIn('');
else {
  signIn(kept.user, kept.secret).catch((err) => {
    if (err.status === 401) return signOut(DENIED);
    $('signin-secret').value = kept.secret; // to try again once the gateway is back
    showSignIn(explain(err));
  });
}
