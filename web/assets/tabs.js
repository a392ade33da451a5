// Tabs as the ARIA Authoring Practices Guide describes them: one tab stop, arrows move, panels follow.

import { h } from './dom.js';

/**
 * @param {HTMLElement} list
 * @param {HTMLElement} panels
 * @param {{id: string, label: string, panel: HTMLElement}[]} entries
 * @param {(id: string) => void} onSelect hears what a person selects
 */
export function createTabs(list, panels, entries, onSelect) {
  const tabs = entries.map(({ id, label }) =>
    h(
      'button',
      {
        type: 'button',
        role: 'tab',
        id: `tab-${id}`,
        'aria-controls': `panel-${id}`,
        'aria-selected': 'false',
      },
      label,
      h(
        'span',
        { class: 'off-mark', hidden: true },
        h('span', { 'aria-hidden': 'true' }, 'n/a'),
        h('span', { class: 'hidden' }, ' (not available)'),
      ),
    ),
  );
  const boxes = entries.map(({ id, panel }) =>
    h(
      'div',
      { role: 'tabpanel', id: `panel-${id}`, 'aria-labelledby': `tab-${id}`, class: 'panel', hidden: true },
      panel,
    ),
  );
  list.replaceChildren(...tabs);
  panels.replaceChildren(...boxes);

  /** @param {string} id */
  const select = (id) => {
    entries.forEach((entry, number) => {
      const here = entry.id === id;
      tabs[number].setAttribute('aria-selected', String(here));
      tabs[number].tabIndex = here ? 0 : -1;
      boxes[number].hidden = !here;
    });
  };

  tabs.forEach((tab, number) => {
    tab.addEventListener('click', () => onSelect(entries[number].id));
    tab.addEventListener('keydown', (event) => {
      const to = moved(event.key, number, tabs.length);
      // Up and down scroll the page.
      if (to === null || event.key === 'ArrowUp' || event.key === 'ArrowDown') return;
      event.preventDefault();
      tabs[to].focus();
      onSelect(entries[to].id);
    });
  });

  return {
    select,
    /** @param {string} id @param {boolean} able */
    mark(id, able) {
      const tab = tabs[entries.findIndex((entry) => entry.id === id)];
      tab?.classList.toggle('off', !able);
      const why = tab?.querySelector('.off-mark');
      why?.toggleAttribute('hidden', able);
    },
  };
}

/**
 * Where an arrow, Home or End leads in a row of places; `null` for other keys.
 *
 * @param {string} key
 * @param {number} from
 * @param {number} count
 */
export function moved(key, from, count) {
  if (key === 'ArrowRight' || key === 'ArrowDown') return (from + 1) % count;
  if (key === 'ArrowLeft' || key === 'ArrowUp') return (from + count - 1) % count;
  if (key === 'Home') return 0;
  if (key === 'End') return count - 1;
  return null;
}
