// Search: by words, by the current photo, or by both.

import { request } from '../api.js';
import { createBrowser, tile } from '../browser.js';
import { h } from '../dom.js';
import { counted, decimal, grouped, listed, percent } from '../format.js';
import { check, field } from '../parts.js';
import { pickItem } from '../picture.js';
import { chosen, state } from '../state.js';
import { Task } from './task.js';

/** @typedef {import('../../contract.d.ts').SearchAnswer} SearchAnswer */
/** @typedef {import('../../contract.d.ts').Item} Item */

export class Search extends Task {
  constructor() {
    super({
      id: 'search',
      label: 'Search',
      title: 'Find pictures in the index',
      lead: 'Describe what you look for, or search with the current photo, or both. Choosing a result makes it the current photo.',
      abilities: [],
      action: 'Search',
      needsPhoto: false,
    });
    this.text = h('input', { type: 'search', placeholder: 'two dogs on a beach', dir: 'auto' });
    this.like = h('input', { type: 'checkbox' });
    this.filter = h('input', { type: 'text', spellcheck: 'false', placeholder: 'split=test' });
    this.top = h('select', {}, ...['12', '24', '48', '96'].map((value) => h('option', { value }, value)));
    this.rerank = h('input', { type: 'checkbox' });
    this.controls = {
      q: this.text,
      like: this.like,
      filter: this.filter,
      top: this.top,
      rerank: this.rerank,
    };
    this.fields = h('span', {});
    this.likeLine = check('Like the current photo', this.like);
    this.rerankLine = check(
      'Re-rank',
      this.rerank,
      '(slower: orders the best 32 again by how well each matches the words)',
    );
    this.note = h('p', { class: 'soft' });
    this.layOut(
      this.asking('Words', this.text),
      this.likeLine,
      h(
        'details',
        { class: 'more' },
        h('summary', {}, 'Filter and order'),
        h('div', { class: 'fields' }, field('Filter', this.filter, this.fields), field('Results', this.top)),
        this.rerankLine,
      ),
      this.note,
    );
    /** @param {Item} item */
    const pick = (item) => void pickItem(item);
    this.pick = pick;
    this.browser = createBrowser(pick);
    const all = h('button', { type: 'button', class: 'quiet small' }, 'Show all pictures');
    all.addEventListener('click', () => {
      this.clear();
      this.browse.querySelector('h3')?.focus();
    });
    this.all = all;
    this.browse = h(
      'section',
      { class: 'browse', 'aria-label': 'All pictures' },
      h('h3', { tabindex: -1 }, 'All pictures'),
      this.browser.node,
    );
    this.node.append(this.browse);
  }

  clear() {
    super.clear();
    this.browse.hidden = false;
  }

  /** @override */
  unable() {
    if (!state.index) return state.noIndex || 'This server has no index of pictures.';
    return '';
  }

  missing() {
    if (this.text.value.trim() || (this.like.checked && state.picture)) return null;
    const message = state.picture
      ? 'Write some words, or search with the current photo.'
      : 'Write some words, or choose a photo to search with.';
    return { message, control: this.text };
  }

  refresh() {
    const own = state.models.find(({ id }) => id === state.index?.model);
    const byPhoto = !own || own.abilities.includes('embed_image');
    this.likeLine.hidden = !byPhoto;
    this.like.disabled = !state.picture;
    if (!state.picture) this.like.checked = false;
    this.rerankLine.hidden = own !== undefined && !own.abilities.includes('match');
    const fields = state.index?.fields ?? [];
    this.fields.textContent = fields.length
      ? `Such as ${fields[0]}=…, joined by “and”. This index has ${listed(fields)}.`
      : 'This index has no fields to filter by.';
    this.filter.placeholder = fields.length ? `${fields[0]}=` : '';
    const others = chosen().some(({ id }) => id !== state.index?.model);
    this.note.textContent =
      state.index && others
        ? `The index was made with “${state.index.model}”, which answers all searches.`
        : '';
    if (state.index && state.task === this.id) this.browser.open();
  }

  restore(/** @type {Record<string, string>} */ params) {
    super.restore(params);
    const details = this.form.querySelector('details');
    if (details && (this.filter.value || this.rerank.checked || params.top)) details.open = true;
  }

  start() {
    this.alert.textContent = '';
    this.browse.hidden = true;
    const text = this.text.value.trim();
    const image = this.like.checked ? state.picture?.source : undefined;
    const body = {
      ...(text && { text }),
      ...(image && { image }),
      top: Number(this.top.value),
      ...(this.filter.value.trim() && { filter: this.filter.value.trim() }),
      ...(this.rerank.checked && text && { rerank: true }),
    };
    const model = state.models.find(({ id }) => id === state.index?.model) ?? chosen()[0];
    if (!model) return;
    void this.runner.run([model], {
      refuse: () => '',
      doing: () => (body.rerank ? 'Searching and looking again at the best …' : 'Searching …'),
      call: (_, options) =>
        /** @type {Promise<SearchAnswer>} */ (request('/v1/search', { body, ...options })),
      show: (answer) => this.show(answer, text, image !== undefined, body.rerank === true),
    });
  }

  /**
   * @param {SearchAnswer} answer
   * @param {string} text
   * @param {boolean} byPhoto
   * @param {boolean} reranked then scores are probabilities
   */
  show({ results, searched, approximate }, text, byPhoto, reranked) {
    const what = [text && `“${text}”`, byPhoto && 'the photo'].filter(Boolean).join(' and ');
    const about = `of ${counted(searched, 'picture')} searched${approximate ? ', approximately' : ''}`;
    if (results.length === 0) {
      const node = h(
        'div',
        {},
        h(
          'p',
          {},
          `Nothing found ${about}. `,
          this.filter.value.trim() && 'The filter may leave out too much.',
        ),
        this.all,
      );
      return { node, summary: 'Nothing found.' };
    }
    const figure = (/** @type {number} */ score) =>
      reranked ? `match ${percent(score)}` : `score ${decimal(score)}`;
    const list = h(
      'ol',
      { class: 'tiles', role: 'list' },
      results.map((result) =>
        h(
          'li',
          {},
          tile(result, this.pick, `${grouped(result.rank)}. ${figure(result.score)}${extra(result)}`),
        ),
      ),
    );
    const head = h(
      'div',
      { class: 'results-head' },
      h('h3', { dir: 'auto' }, `Closest to ${what}`),
      h('p', { class: 'soft numbers' }, `${grouped(results.length)} ${about}`),
      this.all,
    );
    return { node: h('div', {}, head, list), summary: `${counted(results.length, 'result')}.` };
  }
}

/** What else the index knows of an item, shortly. @param {Item} item */
function extra(item) {
  return Object.entries(item.metadata ?? {})
    .filter(([, value]) => ['string', 'number', 'boolean'].includes(typeof value))
    .slice(0, 2)
    .map(([name, value]) => ` · ${name} ${value}`)
    .join('');
}
