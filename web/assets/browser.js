// The pictures of the index, page by page.

import { isAborted, request } from './api.js';
import { announce, fill, h } from './dom.js';
import { grouped } from './format.js';
import { problem, thumbnail, waiting } from './parts.js';
import { on, state } from './state.js';

/** @typedef {import('../contract.d.ts').Item} Item */
/** @typedef {import('../contract.d.ts').Items} Items */

const PAGE = 24;

/**
 * A tile that makes an item the current photo, where it has a picture.
 *
 * @param {Item} item
 * @param {(item: Item) => void} onPick
 * @param {string} [figure] what stands below, such as a score
 */
export function tile(item, onPick, figure) {
  const text = item.text || item.id;
  if (!item.thumbnail) {
    // A text: there is no picture to take.
    return h(
      'div',
      { class: 'tile', 'data-item': item.id, title: item.id },
      h('span', { class: 'picture words', dir: 'auto' }, text),
      figure && h('span', { class: 'soft numbers' }, figure),
    );
  }
  const button = h(
    'button',
    {
      type: 'button',
      class: 'tile',
      'data-item': item.id,
      title: `${item.id}${item.text ? `: ${item.text}` : ''}`,
    },
    thumbnail(item.thumbnail, ''),
    h('span', { class: 'tile-text', dir: 'auto' }, text),
    figure && h('span', { class: 'soft numbers' }, figure),
  );
  button.addEventListener('click', () => onPick(item));
  markCurrent(button);
  return button;
}

/** @param {HTMLElement} button */
function markCurrent(button) {
  const here = state.picture?.item !== undefined && state.picture?.item === button.dataset.item;
  if (here) button.setAttribute('aria-current', 'true');
  else button.removeAttribute('aria-current');
}

on('picture', () => {
  for (const button of document.querySelectorAll('button.tile')) {
    if (button instanceof HTMLElement) markCurrent(button);
  }
});

/** @param {(item: Item) => void} onPick */
export function createBrowser(onPick) {
  const list = h('ul', { class: 'tiles', role: 'list' });
  const count = h('p', { class: 'soft numbers' });
  const back = h('button', { type: 'button' }, 'Previous');
  const next = h('button', { type: 'button' }, 'Next');
  const page = h('input', { type: 'number', min: 1, value: 1, class: 'page-number', 'aria-label': 'Page' });
  const pages = h('span', { class: 'soft numbers' });
  const pager = h('div', { class: 'pager' }, back, h('span', { class: 'page-of' }, page, pages), next);
  const node = h('div', { class: 'browser' }, list, h('div', { class: 'browser-foot' }, count, pager));
  let current = 0;
  let total = 0;
  let loaded = false;
  /** @type {AbortController | null} */
  let controller = null;

  const last = () => Math.max(0, Math.ceil(total / PAGE) - 1);

  /** @param {number} number */
  async function show(number) {
    controller?.abort();
    controller = new AbortController();
    const { signal } = controller;
    current = number;
    node.setAttribute('aria-busy', 'true');
    const wait = waiting('Loading pictures …');
    if (!loaded) fill(list, h('li', { class: 'wide' }, wait.node));
    try {
      const path = `/v1/items?offset=${number * PAGE}&limit=${PAGE}`;
      const answer = /** @type {Items} */ (await request(path, { signal, onWait: wait.busy }));
      if (signal.aborted) return;
      ({ total } = answer);
      loaded = true;
      fill(
        list,
        answer.items.map((item) => h('li', {}, tile(item, onPick))),
      );
      const [first, end] = [number * PAGE + 1, number * PAGE + answer.items.length];
      count.textContent = total
        ? `${grouped(first)} to ${grouped(end)} of ${grouped(total)} pictures`
        : 'The index is empty.';
      page.value = String(number + 1);
      page.max = String(last() + 1);
      pages.textContent = `of ${grouped(last() + 1)}`;
      pager.hidden = total <= PAGE;
      // Not `disabled`: the focus would be lost with it.
      back.setAttribute('aria-disabled', String(number === 0));
      next.setAttribute('aria-disabled', String(number >= last()));
    } catch (error) {
      if (!isAborted(error))
        fill(
          list,
          h(
            'li',
            { class: 'wide' },
            problem(error, () => void show(number)),
          ),
        );
    } finally {
      if (!signal.aborted) node.removeAttribute('aria-busy');
    }
  }

  /** @param {number} number */
  const turn = (number) => {
    const to = Math.min(Math.max(0, number), last());
    page.value = String(to + 1);
    if (to === current) return;
    void show(to).then(() => announce(count.textContent ?? ''));
  };
  back.addEventListener('click', () => turn(current - 1));
  next.addEventListener('click', () => turn(current + 1));
  page.addEventListener('change', () => turn(Math.round(Number(page.value) || 1) - 1));
  pager.hidden = true;

  return {
    node,
    /** Loads the first page when it is shown for the first time. */
    open() {
      if (!loaded) void show(current);
    },
  };
}
