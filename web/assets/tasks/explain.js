// Heat map: where the model looks for each word, before and after selection of attention.

import { request } from '../api.js';
import { fill, fresh, h, setVars } from '../dom.js';
import { counted, decimal, percent, place } from '../format.js';
import { centre, cut, scaled, strongest } from '../heat.js';
import { field, setOptions } from '../parts.js';
import { Photo } from '../photo.js';
import { chosen } from '../state.js';
import { moved } from '../tabs.js';
import { Task, prefilled } from './task.js';

/** @typedef {import('../../contract.d.ts').ExplainAnswer} ExplainAnswer */
/** @typedef {import('../../contract.d.ts').Places} Places */
/** @typedef {import('../state.js').Picture} Picture */

/** What a map of a method is. @type {Record<string, string>} */
const METHODS = {
  attention: 'Attention from each word to the places of the photo, in one layer.',
  rollout: 'Attention of all layers, multiplied.',
  'grad-cam': 'Channels of the image tower’s last block, weighted by their gradient.',
  'grad-cam-fusion': 'Channels of the last fusion layer, weighted by their gradient.',
  relevance: 'Attention weighted by its gradient, through all layers.',
  occlusion: 'What the result loses when a part of the photo is hidden. Slow: one pass a part.',
};

const RULES = ['prob_abs=0.05', 'prob_rel_max=0.5', 'topk=8', 'topk_ratio=0.3', 'topp=0.9'];

/** Answers that are kept, so that going back to a method is at once. */
const KEPT = 12;

export class Explain extends Task {
  constructor() {
    super({
      id: 'heat',
      label: 'Heat map',
      title: 'Where the model looks',
      lead: 'Write what the photo shows; then point at a word, or move to it with Tab and the arrow keys.',
      abilities: ['explain'],
      action: 'Show heat maps',
    });
    this.text = h('input', { type: 'text', placeholder: 'two dogs run on a beach', dir: 'auto' });
    this.method = h('select', { 'data-initial': '' });
    this.target = h(
      'select',
      { 'data-initial': '' },
      ...[
        ['', 'what is usual for the model'],
        ['match', 'how well photo and text match'],
        ['cosine', 'how close they lie (cosine)'],
        ['class', 'the class that the model gives'],
      ].map(([value, label]) => h('option', { value }, label)),
    );
    const rules = h('datalist', { id: fresh('rules') }, ...RULES.map((value) => h('option', { value })));
    this.select = h('input', {
      type: 'text',
      list: rules.id,
      spellcheck: 'false',
      placeholder: 'prob_abs=0.05',
    });
    this.controls = { q: this.text, method: this.method, target: this.target, select: this.select };
    this.methodHelp = h('span', {});
    this.methodField = field('Method', this.method, this.methodHelp);
    this.selectField = field(
      'Select attention',
      this.select,
      'Keeps only attention that passes a threshold, and shows every map before and after.',
    );
    this.layOut(
      this.asking('Text', this.text),
      h(
        'details',
        { class: 'more' },
        h('summary', {}, 'Method and selection'),
        h(
          'div',
          { class: 'fields even' },
          this.methodField,
          this.selectField,
          field('What is explained', this.target),
        ),
      ),
      rules,
    );

    this.opacity = h('input', { type: 'range', min: 0, max: 100, step: 5, value: 70 });
    this.opacityText = h('output', { class: 'soft numbers' }, '70 %');
    /** By model. @type {Map<string, HeatView>} */
    this.views = new Map();
    this.how = 'both';
    this.howGroup = this.radios();
    this.tools = h(
      'div',
      { class: 'heat-tools', hidden: true },
      h(
        'div',
        { class: 'slider' },
        h('label', { for: (this.opacity.id = fresh('opacity')) }, 'Heat'),
        this.opacity,
        this.opacityText,
      ),
      h(
        'div',
        { class: 'scale' },
        h('span', {}, 'weak'),
        h('span', { class: 'scale-bar' }),
        h('span', {}, 'strong'),
      ),
      this.howGroup,
    );
    this.form.after(this.tools);
    this.opacity.addEventListener('input', () => {
      this.opacityText.textContent = `${this.opacity.value} %`;
      for (const view of this.views.values()) view.draw();
    });
    for (const control of [this.method, this.target]) {
      control.addEventListener('change', () => {
        this.describe();
        if (this.isShown) this.submit();
      });
    }
    this.fillIn = prefilled(this.text);
    /** @type {Map<string, ExplainAnswer>} */
    this.answers = new Map();
  }

  radios() {
    const name = fresh('how');
    const group = h(
      'fieldset',
      { class: 'segments', hidden: true },
      h('legend', { class: 'hidden' }, 'Selection'),
    );
    for (const [value, label] of [
      ['both', 'Side by side'],
      ['before', 'Before'],
      ['after', 'After'],
    ]) {
      const radio = h('input', { type: 'radio', name, value, id: fresh('how'), checked: value === this.how });
      radio.addEventListener('change', () => {
        this.how = value;
        for (const view of this.views.values()) view.arrange();
      });
      group.append(radio, h('label', { for: radio.id }, label));
    }
    return group;
  }

  describe() {
    this.methodHelp.textContent = METHODS[this.method.value] ?? 'The method that is usual for the model.';
  }

  refresh() {
    const methods = [...new Set(chosen().flatMap((model) => model.methods ?? []))];
    const before = this.wanted ?? this.method.value;
    setOptions(this.method, [
      ['', 'usual'],
      ...methods.map((name) => /** @type {[string, string]} */ ([name, name])),
    ]);
    this.method.value = methods.includes(before) ? before : '';
    this.describe();
    this.selectField.hidden = !chosen().some((model) => model.abilities.includes('select'));
    this.fillIn();
  }

  /** @param {Record<string, string>} params */
  restore(params) {
    this.wanted = params.method;
    super.restore(params);
    if (this.method.selectedIndex < 0) this.method.value = '';
    const details = this.form.querySelector('details');
    if (details && (params.method || params.target || params.select)) details.open = true;
    this.describe();
  }

  missing() {
    return this.text.value.trim() ? null : { message: 'Write a text first.', control: this.text };
  }

  clear() {
    super.clear();
    this.views.clear();
    this.tools.hidden = true;
  }

  start() {
    this.wanted = undefined;
    this.views.clear();
    this.tools.hidden = true;
    this.howGroup.hidden = true;
    const text = this.text.value.trim();
    const picture = this.photo();
    const [method, target] = [this.method.value, this.target.value];
    const select = this.select.value.trim();
    this.runOnChosen(
      async (model, options) => {
        const selects = select && model.abilities.includes('select');
        const body = {
          model: model.id,
          image: picture.source,
          text,
          ...(method && { method }),
          ...(target && { target }),
          ...(selects && { select }),
        };
        const name = JSON.stringify({ ...body, image: picture.number });
        const known = this.answers.get(name);
        if (known) return known;
        const answer = /** @type {ExplainAnswer} */ (await request('/v1/explain', { body, ...options }));
        this.answers.set(name, answer);
        const [oldest] = this.answers.keys();
        if (this.answers.size > KEPT && oldest !== undefined) this.answers.delete(oldest);
        return answer;
      },
      (answer, model) => {
        const view = new HeatView(this, picture, text, answer);
        if (select && !answer.selected) {
          view.node.append(
            h('p', { class: 'soft' }, `“${model.id}” cannot select attention; this is all of it.`),
          );
        }
        this.views.set(model.id, view);
        this.tools.hidden = false;
        if (answer.selected) this.howGroup.hidden = false;
        return {
          node: view.node,
          summary: `Heat maps of ${counted(answer.words.length, 'word')}, method ${answer.method}.`,
        };
      },
    );
  }

  /**
   * Shows the same word on the model beside.
   *
   * @param {HeatView} from
   * @param {number | null} word
   */
  follow(from, word) {
    for (const view of this.views.values()) if (view !== from) view.show(view.same(from, word));
  }
}

/** The maps of one model: words, the photo under its heat, and a line of words about it. */
class HeatView {
  /**
   * @param {Explain} task
   * @param {Picture} picture
   * @param {string} text
   * @param {ExplainAnswer} answer
   */
  constructor(task, picture, text, answer) {
    this.task = task;
    this.answer = answer;
    /** The word that stays when nothing is pointed at; `null`: the whole text. @type {number | null} */
    this.pinned = null;
    /** @type {number | null} */
    this.shown = null;
    const { selected, places, words } = answer;

    const alt = picture.text ? `The photo under a heat map: ${picture.text}` : 'The photo under a heat map';
    this.before = new Photo(picture, alt);
    this.after = selected ? new Photo(picture, `${alt}, after selection`) : null;
    this.beforeFigure = figure(this.before, selected ? 'before selection' : '');
    this.afterFigure = this.after ? figure(this.after, `after ${selected?.rule}`) : null;
    this.photos = h('div', { class: 'heat-photos' }, this.beforeFigure, this.afterFigure);
    this.line = h('p', { class: 'heat-line' });

    /** By their words; `null` is the whole text. @type {{word: number | null, button: HTMLButtonElement}[]} */
    this.chips = [];
    const chip = (/** @type {number | null} */ word, /** @type {string} */ label) => {
      const has = word === null || Boolean(words[word]?.map);
      const button = h(
        'button',
        {
          type: 'button',
          class: word === null ? 'chip whole' : 'chip',
          tabindex: -1,
          'aria-pressed': 'false',
        },
        label,
        h('span', { class: 'hidden' }, `, ${this.says(word)}`),
      );
      if (!has) button.classList.add('without-map');
      const weight = word === null ? null : words[word]?.weight;
      if (typeof weight === 'number') {
        setVars(button, { '--part': `${(100 * Math.min(1, Math.max(0, weight))).toFixed(1)}%` });
      }
      this.chips.push({ word, button });
      return button;
    };
    const sentence = cut(text, words).map((part) =>
      part.word === null
        ? h('span', { class: 'between', 'aria-hidden': 'true' }, part.text)
        : chip(part.word, part.text),
    );
    const whole = chip(null, 'Whole text');
    this.chips.unshift(...this.chips.splice(-1));
    const toolbar = h(
      'div',
      { class: 'chips', role: 'toolbar', 'aria-label': 'Words; arrow keys move between them' },
      whole,
      h('span', { class: 'sentence', dir: 'auto' }, sentence),
    );
    this.chips.forEach(({ word, button }, number) => {
      button.addEventListener('mouseenter', () => this.point(word));
      button.addEventListener('mouseleave', () => this.rest());
      button.addEventListener('focus', () => {
        for (const chip of this.chips) chip.button.tabIndex = chip.button === button ? 0 : -1;
        this.point(word);
      });
      button.addEventListener('blur', () => this.point(this.pinned));
      button.addEventListener('click', () => {
        this.pinned = this.pinned === word ? null : word;
        this.point(word);
      });
      button.addEventListener('keydown', (event) => {
        const to = moved(event.key, number, this.chips.length);
        if (to === null) return;
        event.preventDefault();
        this.chips[to].button.focus();
      });
    });
    whole.tabIndex = 0;

    const facts = [
      `method ${answer.method}`,
      `explains ${answer.target}`,
      answer.score === null ? '' : `score ${decimal(answer.score)}`,
      places.kind === 'grid'
        ? `${places.rows} × ${places.columns} places`
        : counted(places.boxes.length, 'region'),
    ];
    this.node = h(
      'div',
      { class: 'heat' },
      toolbar,
      this.line,
      this.photos,
      selected && h('p', { class: 'soft' }, kept(selected.kept)),
      h('p', { class: 'soft numbers' }, facts.filter(Boolean).join(' · ')),
    );
    this.arrange();
    this.show(null);
  }

  /** @param {number | null} word */
  point(word) {
    this.show(word);
    this.task.follow(this, word);
  }

  /** Shows what is shown when no word is pointed at. */
  rest() {
    const focused = this.chips.find(({ button }) => button.matches(':focus-visible'));
    this.point(focused ? focused.word : this.pinned);
  }

  /**
   * The word of this answer that is the same as one of another.
   *
   * @param {HeatView} other
   * @param {number | null} word
   */
  same(other, word) {
    if (word === null) return null;
    const wanted = other.answer.words[word];
    const found = this.answer.words.findIndex(
      ({ text, start }) => start === wanted?.start && text.toLowerCase() === wanted.text.toLowerCase(),
    );
    return found < 0 ? null : found;
  }

  /** @param {number | null} word */
  show(word) {
    this.shown = word;
    this.draw();
    const name = word === null ? 'Whole text' : `“${this.answer.words[word]?.text}”`;
    fill(this.line, h('strong', { dir: 'auto' }, name), `: ${this.says(word)}`);
    for (const chip of this.chips) {
      chip.button.classList.toggle('shown', chip.word === word);
      chip.button.setAttribute('aria-pressed', String(chip.word === this.pinned));
    }
  }

  draw() {
    const { places, selected } = this.answer;
    const opacity = Number(this.task.opacity.value) / 100;
    const map = (/** @type {{whole: number[], words: import('../../contract.d.ts').Word[]}} */ of) =>
      this.shown === null ? of.whole : (of.words[this.shown]?.map ?? null);
    this.before.heat(places, map(this.answer), opacity);
    if (selected) this.after?.heat(places, map(selected), opacity);
    this.node.dataset.shown = this.shown === null ? 'whole' : String(this.shown);
  }

  /** Before and after beside each other, or one of them. */
  arrange() {
    if (!this.afterFigure) return;
    this.beforeFigure.hidden = this.task.how === 'after';
    this.afterFigure.hidden = this.task.how === 'before';
    this.photos.classList.toggle('pair', this.task.how === 'both');
  }

  /**
   * A map in words, for those who do not see it and those who do.
   *
   * @param {number | null} word
   */
  says(word) {
    const of = word === null ? { map: this.answer.whole, weight: null } : this.answer.words[word];
    if (!of?.map) return 'no map of its own';
    const { places } = this.answer;
    const [best] = strongest(places.kind === 'grid' ? scaled(of.map) : of.map, 1);
    const where =
      best === undefined ? 'the same everywhere' : `strongest in ${place(...centre(places, best))}`;
    return typeof of.weight === 'number' ? `counts ${percent(of.weight)}, ${where}` : where;
  }
}

/** @param {Photo} photo @param {string} caption */
function figure(photo, caption) {
  return h(
    'figure',
    { class: 'heat-figure' },
    photo.node,
    caption && h('figcaption', { class: 'soft' }, caption),
  );
}

/** @param {number[]} shares */
function kept(shares) {
  if (shares.length === 0) return 'Selection was applied.';
  const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
  const [least, most] = [Math.min(...shares), Math.max(...shares)];
  return `Of what a head could look at it keeps ${percent(mean)} on average over ${counted(shares.length, 'head')} (${percent(least)} to ${percent(most)}).`;
}
