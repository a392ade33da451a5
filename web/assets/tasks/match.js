// Match: which of several texts fits the photo best.

import { request } from '../api.js';
import { h } from '../dom.js';
import { decimal, percent } from '../format.js';
import { bars } from '../parts.js';
import { Task } from './task.js';

/** @typedef {import('../../contract.d.ts').MatchAnswer} MatchAnswer */

export class Match extends Task {
  constructor() {
    super({
      id: 'match',
      label: 'Match',
      title: 'Which text fits the photo',
      lead: 'Give several texts; the model says how well each matches the photo.',
      abilities: ['match'],
      action: 'Match',
    });
    this.texts = h('textarea', {
      rows: 4,
      placeholder: 'a dog on a beach\na child on a swing\na red car in a street',
      dir: 'auto',
    });
    this.controls = { q: this.texts };
    this.layOut(this.asking('Texts', this.texts, 'One text a line.'));
  }

  lines() {
    return this.texts.value
      .split('\n')
      .map((line) => line.trim())
      .filter(Boolean);
  }

  missing() {
    return this.lines().length
      ? null
      : { message: 'Write at least one text first, one a line.', control: this.texts };
  }

  start() {
    const texts = this.lines();
    const image = this.photo().source;
    this.runOnChosen(
      (model, options) =>
        /** @type {Promise<MatchAnswer>} */ (
          request('/v1/match', { body: { model: model.id, image, texts }, ...options })
        ),
      ({ scores }) => {
        const value = (/** @type {MatchAnswer['scores'][number]} */ { probability, cosine }) =>
          probability ?? cosine ?? -Infinity;
        const sorted = [...scores].sort((a, b) => value(b) - value(a));
        const [best] = sorted;
        if (!best) return { node: h('p', {}, 'The model gave no scores.'), summary: 'No scores.' };
        const figure = (/** @type {MatchAnswer['scores'][number]} */ { probability, cosine }) =>
          [probability !== null && percent(probability), cosine !== null && `cosine ${decimal(cosine)}`]
            .filter(Boolean)
            .join(', ') || 'no score';
        const node = h(
          'div',
          { class: 'card' },
          bars(
            'Texts, best first',
            ['Text', 'Score'],
            sorted.map((score, number) => ({
              name: score.text,
              part: score.probability ?? score.cosine,
              figure: figure(score),
              strong: number === 0,
            })),
          ),
          h(
            'p',
            { class: 'soft' },
            best.probability === null
              ? 'Cosine: how close photo and text lie, from −1 to 1; only the order says much.'
              : 'Per cent: how likely photo and text belong together, each text for itself.',
          ),
        );
        return { node, summary: `Best: ${best.text}, ${figure(best)}.` };
      },
    );
  }
}
