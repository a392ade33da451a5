// Ask: a question about the photo, answers with their probabilities.

import { request } from '../api.js';
import { h } from '../dom.js';
import { grouped, percent } from '../format.js';
import { bars } from '../parts.js';
import { chosen } from '../state.js';
import { Task } from './task.js';

/** @typedef {import('../../contract.d.ts').VqaAnswer} VqaAnswer */

export class Ask extends Task {
  constructor() {
    super({
      id: 'ask',
      label: 'Ask',
      title: 'Ask about the photo',
      lead: 'The model chooses among the answers it has learned; the bars say how likely it holds each.',
      abilities: ['answer'],
      action: 'Ask',
    });
    this.question = h('input', { type: 'text', placeholder: 'What colour is the dog?', dir: 'auto' });
    this.controls = { q: this.question };
    this.classes = h('span', {});
    this.layOut(this.asking('Question', this.question, this.classes));
  }

  missing() {
    return this.question.value.trim() ? null : { message: 'Write a question first.', control: this.question };
  }

  refresh() {
    const known = chosen().filter(({ classes }) => classes);
    this.classes.textContent = known
      .map(({ id, classes }) => `“${id}” knows ${grouped(classes ?? 0)} answers.`)
      .join(' ');
  }

  start() {
    const question = this.question.value.trim();
    const image = this.photo().source;
    this.runOnChosen(
      (model, options) =>
        /** @type {Promise<VqaAnswer>} */ (
          request('/v1/vqa', { body: { model: model.id, image, question, top: 5 }, ...options })
        ),
      ({ answers }) => {
        const [best] = answers;
        if (!best) return { node: h('p', {}, 'The model gave no answer.'), summary: 'No answer.' };
        const node = h(
          'div',
          { class: 'card' },
          h('p', { class: 'verdict', dir: 'auto' }, best.answer),
          bars(
            `Answers to “${question}”`,
            ['Answer', 'Probability'],
            answers.map(({ answer, probability }, number) => ({
              name: answer,
              part: probability,
              figure: percent(probability),
              strong: number === 0,
            })),
          ),
        );
        return { node, summary: `${best.answer}, ${percent(best.probability)}.` };
      },
    );
  }
}
