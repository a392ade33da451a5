// Relation: what a text and the photo have to do with each other.

import { request } from '../api.js';
import { h, svg } from '../dom.js';
import { decimal, percent } from '../format.js';
import { bars } from '../parts.js';
import { Task, prefilled } from './task.js';

/** @typedef {import('../../contract.d.ts').RelationAnswer} RelationAnswer */

/** What the four classes of text and picture say. @type {Record<string, string>} */
const MEANINGS = {
  neither: 'The text is not shown in the photo, and the photo adds nothing to it.',
  adds: 'The text is not shown in the photo, but the photo adds to it.',
  represented: 'The photo shows what the text says and adds nothing more.',
  both: 'The photo shows what the text says, and adds to it.',
};

export class Relation extends Task {
  constructor() {
    super({
      id: 'relation',
      label: 'Relation',
      title: 'How text and photo relate',
      lead: 'Does the photo show what the text says, and does it add something? Meant for posts and captions.',
      abilities: ['relation'],
      action: 'Show the relation',
    });
    this.text = h('textarea', { rows: 3, placeholder: 'What a day at the beach.', dir: 'auto' });
    this.controls = { q: this.text };
    this.refresh = prefilled(this.text);
    this.layOut(this.asking('Text', this.text));
  }

  missing() {
    return this.text.value.trim() ? null : { message: 'Write a text first.', control: this.text };
  }

  start() {
    const text = this.text.value.trim();
    const image = this.photo().source;
    this.runOnChosen(
      (model, options) =>
        /** @type {Promise<RelationAnswer>} */ (
          request('/v1/relation', { body: { model: model.id, image, text }, ...options })
        ),
      show,
    );
  }
}

/** @param {RelationAnswer} answer */
function show(answer) {
  const { relation, confidence, probabilities, text_represented: t, image_adds: v, alignment } = answer;
  const sorted = [...probabilities].sort((a, b) => b.probability - a.probability);
  const verdict =
    relation === null
      ? [
          h('p', { class: 'verdict' }, 'The model abstains'),
          h(
            'p',
            {},
            `It is not sure enough to say: its best guess${sorted[0] ? `, “${sorted[0].class}”,` : ''} reaches only ${percent(confidence)}. This is better than a wrong answer; the bars show what it weighs.`,
          ),
        ]
      : [
          h('p', { class: 'verdict', dir: 'auto' }, relation),
          h('p', {}, MEANINGS[relation] ?? '', ` Confidence ${percent(confidence)}.`),
        ];
  const table = bars(
    'Probabilities of the relations',
    ['Relation', 'Probability'],
    sorted.map((row) => ({
      name: row.class,
      part: row.probability,
      figure: percent(row.probability),
      strong: row.class === relation,
    })),
  );
  /** @type {{name: string, part: number | null, figure: string}[]} */
  const measures = [];
  if (t !== null) measures.push({ name: 'The photo shows the text', part: t, figure: percent(t) });
  if (v !== null) measures.push({ name: 'The photo adds to the text', part: v, figure: percent(v) });
  if (alignment !== null) {
    measures.push({ name: 'Alignment of the two', part: null, figure: decimal(alignment) });
  }
  const node = h(
    'div',
    { class: 'card' },
    ...verdict,
    h(
      'div',
      { class: 'relation' },
      h(
        'div',
        { class: 'relation-bars' },
        table,
        measures.length > 0 && bars('Measures', ['Measure', 'Value'], measures),
      ),
      t !== null && v !== null && gauge(t, v),
    ),
  );
  const said = relation === null ? 'The model abstains' : relation;
  return { node, summary: `${said}, confidence ${percent(confidence)}.` };
}

/**
 * The two questions as a square: across, whether the photo shows the text; up, whether it adds to it.
 *
 * @param {number} t
 * @param {number} v
 */
function gauge(t, v) {
  const [left, top, side] = [30, 8, 152];
  const [x, y] = [left + side * clamp(t), top + side * (1 - clamp(v))];
  // A label makes room for the dot.
  const label = (/** @type {number} */ column, /** @type {number} */ row, /** @type {string} */ text) => {
    const [lx, ly] = [left + (side * (2 * column + 1)) / 4, top + (side * (2 * row + 1)) / 4];
    const isNear = Math.abs(x - lx) < 38 && Math.abs(y - ly) < 16;
    const aside = !isNear ? 0 : y > ly ? -22 : 22;
    return svg('text', { x: lx, y: ly + aside, class: 'gauge-label' }, text);
  };
  const said = `The photo shows the text: ${percent(t)}. It adds to the text: ${percent(v)}.`;
  return h(
    'figure',
    { class: 'gauge' },
    svg(
      'svg',
      { viewBox: '0 0 200 196', role: 'img', 'aria-label': said },
      svg('rect', { x: left, y: top, width: side, height: side, rx: 4, class: 'gauge-ground' }),
      svg('rect', {
        x: t >= 0.5 ? left + side / 2 : left,
        y: v >= 0.5 ? top : top + side / 2,
        width: side / 2,
        height: side / 2,
        class: 'gauge-here',
      }),
      svg('path', {
        d: `M${left + side / 2} ${top}v${side}M${left} ${top + side / 2}h${side}`,
        class: 'gauge-line',
      }),
      label(0, 0, 'adds'),
      label(1, 0, 'both'),
      label(0, 1, 'neither'),
      label(1, 1, 'represented'),
      svg('circle', { cx: x, cy: y, r: 7, class: 'gauge-dot' }),
      svg('text', { x: left + side / 2, y: 184, class: 'gauge-axis' }, 'photo shows text →'),
      svg(
        'text',
        { x: 0, y: 0, class: 'gauge-axis', transform: `translate(16 ${top + side / 2}) rotate(-90)` },
        'photo adds →',
      ),
    ),
  );
}

/** @param {number} value */
const clamp = (value) => (Number.isFinite(value) ? Math.min(1, Math.max(0, value)) : 0);
