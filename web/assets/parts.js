// Small parts that several tasks show: errors, waiting, bars, thumbnails, fields.

import { ApiError, pictureUrl } from './api.js';
import { fresh, h, setVars } from './dom.js';

/** @typedef {import('./dom.js').Child} Child */

/** @type {Record<string, string>} */
const TITLES = {
  invalid_request_error: 'The server could not use this',
  authentication_error: 'This needs a key',
  not_found: 'Not found',
  overloaded: 'The server is busy',
  timeout: 'This took too long',
  server_error: 'Something went wrong on the server',
  network: 'No connection',
};

/**
 * An error as people want it: what went wrong, in the server's words, and a way on.
 *
 * @param {unknown} error
 * @param {() => void} [again]
 */
export function problem(error, again) {
  const known = error instanceof ApiError;
  const title =
    known && error.status === 403
      ? 'This key may not do that'
      : (known && TITLES[error.type]) || 'That did not work';
  const message = error instanceof Error ? error.message : String(error);
  return h(
    'div',
    { class: 'problem', role: 'alert' },
    h('p', { class: 'problem-title' }, title),
    h('p', {}, message),
    again && h('button', { type: 'button', onclick: again }, 'Try again'),
  );
}

/**
 * Says that something is awaited, for how long, and lets it be stopped.
 *
 * @param {string} text
 * @param {() => void} [stop]
 */
export function waiting(text, stop) {
  const words = h('span', {}, text);
  const clock = h('span', { class: 'soft numbers', 'aria-hidden': 'true' });
  const node = h(
    'div',
    { class: 'waiting' },
    h('span', { class: 'spinner', 'aria-hidden': 'true' }),
    words,
    clock,
    stop && h('button', { type: 'button', class: 'small', onclick: stop }, 'Stop'),
  );
  const start = performance.now();
  const timer = setInterval(() => {
    const seconds = Math.floor((performance.now() - start) / 1000);
    if (seconds >= 2) clock.textContent = `${seconds} s`;
    if (!node.isConnected) clearInterval(timer);
  }, 500);
  return {
    node,
    /** @param {number} seconds until a busy server is asked again; 0: it is asked now */
    busy(seconds) {
      words.textContent = seconds > 0 ? `The server is busy. Trying again in ${seconds} s.` : text;
    },
  };
}

/**
 * Rows of a name, a bar and a figure, as a table for screen readers.
 *
 * @param {string} caption
 * @param {[string, string]} heads
 * @param {{name: string, part: number | null, figure: string, strong?: boolean}[]} rows
 */
export function bars(caption, heads, rows) {
  return h(
    'table',
    { class: 'bars' },
    h('caption', { class: 'hidden' }, caption),
    h('thead', { class: 'hidden' }, h('tr', {}, ...heads.map((head) => h('th', { scope: 'col' }, head)))),
    h(
      'tbody',
      {},
      rows.map(({ name, part, figure, strong }) => {
        const row = h(
          'tr',
          { class: strong ? 'strong' : null },
          h('th', { scope: 'row', dir: 'auto' }, name),
          h('td', {}, h('span', { class: 'figure' }, figure)),
        );
        if (part !== null)
          setVars(row, { '--part': `${(100 * Math.min(1, Math.max(0, part))).toFixed(1)}%` });
        else row.classList.add('without-bar');
        return row;
      }),
    ),
  );
}

/**
 * A picture of the server that loads when it comes into view, or words in its place.
 *
 * @param {string | null | undefined} path
 * @param {string} alt
 */
export function thumbnail(path, alt) {
  const frame = h('span', { class: 'picture' });
  const none = () => frame.replaceChildren(h('span', { class: 'no-picture' }, 'no picture'));
  if (!path) {
    none();
    return frame;
  }
  const image = h('img', { alt, loading: 'lazy', decoding: 'async' });
  image.addEventListener('error', none);
  frame.append(image);
  pictureUrl(path).then((url) => (image.src = url), none);
  return frame;
}

/**
 * A field with its label above and, below, what it is for.
 *
 * @template {HTMLElement} T
 * @param {string} label
 * @param {T} control
 * @param {Child | Child[]} [help]
 */
export function field(label, control, help) {
  control.id ||= fresh('field');
  const note = help ? h('p', { class: 'help', id: `${control.id}-help` }, help) : null;
  if (note) control.setAttribute('aria-describedby', note.id);
  return h('div', { class: 'field' }, h('label', { for: control.id }, label), control, note);
}

/**
 * @param {string} label
 * @param {HTMLInputElement} control
 * @param {string} [help]
 */
export function check(label, control, help) {
  control.id ||= fresh('field');
  return h(
    'div',
    { class: 'check' },
    control,
    h('label', { for: control.id }, label, help && h('span', { class: 'soft' }, ` ${help}`)),
  );
}

/**
 * Refills a select and keeps what is chosen where it is still there.
 *
 * @param {HTMLSelectElement} select
 * @param {[string, string][]} options value and label
 */
export function setOptions(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, label]) => h('option', { value }, label)));
  if (options.some(([value]) => value === before)) select.value = before;
}
