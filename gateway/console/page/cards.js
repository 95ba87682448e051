// What the sections that explain are made of: cards with facts and code, and a
// button that copies each.

import { h } from './dom.js';

export function card(title, text, ...children) {
  return h('section', { class: 'card' }, h('div', { class: 'card-head' }, h('h2', {}, title)), h('p', { class: 'muted' }, text), ...children);
}

export function facts(rows) {
  return h('dl', { class: 'facts' }, ...rows.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, ...named(name, value))]));
}

/** named is what a fact shows of its value. */
export const named = (name, value) => [value, copy(() => value, name)];

/** code shows a text; its copy button copies what is shown when it is pressed. */
export function code(text, name = 'code') {
  const pre = h('pre', { tabindex: '0', role: 'region', 'aria-label': name }, text);
  return h('div', { class: 'code' }, pre, copy(() => pre.textContent, name));
}

function copy(read, name) {
  const button = h('button', { class: 'button small', type: 'button', 'aria-label': `Copy ${name}`, onclick: async () => {
    try {
      await navigator.clipboard.writeText(read());
      button.textContent = 'Copied';
    } catch {
      button.textContent = 'Select it';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  } }, 'Copy');
  return button;
}
