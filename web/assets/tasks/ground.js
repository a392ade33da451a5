// Locate: where in the photo is what a phrase names.

import { request } from '../api.js';
import { h, setVars } from '../dom.js';
import { decimal, percent, place } from '../format.js';
import { field } from '../parts.js';
import { Photo } from '../photo.js';
import { Task } from './task.js';

/** @typedef {import('../../contract.d.ts').GroundAnswer} GroundAnswer */

/** @type {Record<string, string>} */
const BY = {
  head: 'Boxes from the part of the model that was trained to find them.',
  map: 'Boxes read from where the model looks, which is less exact than a model trained to find them.',
};

export class Ground extends Task {
  constructor() {
    super({
      id: 'locate',
      label: 'Locate',
      title: 'Find something in the photo',
      lead: 'Name a thing or a person, and the model draws a box where it sees it.',
      abilities: ['ground'],
      action: 'Locate',
    });
    this.phrase = h('input', { type: 'text', placeholder: 'the dog on the left', dir: 'auto' });
    this.top = h(
      'select',
      { 'data-initial': '3' },
      ...['1', '3', '5'].map((value) => h('option', { value }, value)),
    );
    this.top.value = '3';
    this.controls = { q: this.phrase, top: this.top };
    this.layOut(
      this.asking('Phrase', this.phrase),
      h('div', { class: 'inline' }, field('Boxes at most', this.top)),
    );
  }

  missing() {
    return this.phrase.value.trim()
      ? null
      : { message: 'Write what to look for first.', control: this.phrase };
  }

  start() {
    const phrase = this.phrase.value.trim();
    const picture = this.photo();
    const top = Number(this.top.value);
    this.runOnChosen(
      (model, options) =>
        /** @type {Promise<GroundAnswer>} */ (
          request('/v1/ground', { body: { model: model.id, image: picture.source, phrase, top }, ...options })
        ),
      ({ boxes, by }) => {
        if (boxes.length === 0) {
          return {
            node: h('p', {}, 'The model found no place for this phrase.'),
            summary: 'No place found.',
          };
        }
        const shown = boxes.map(({ box }) => box);
        const where = shown.map(([x, y, w, height]) => place(x + w / 2, y + height / 2));
        const photo = new Photo(picture, `The photo, with a box around “${phrase}” in ${where[0]}`);
        photo.boxes(shown);
        const most = Math.max(...boxes.map(({ score }) => score));
        const rows = boxes.map(({ box: [, , w, height], score }, number) => {
          const row = h(
            'li',
            { tabindex: 0, class: number === 0 ? 'strong' : null },
            h('span', { class: 'box-number', 'aria-hidden': 'true' }, number + 1),
            h('span', {}, `in ${where[number]}, ${percent(w * height)} of the photo`),
            h('span', { class: 'figure' }, `score ${decimal(score)}`),
          );
          if (most > 0) setVars(row, { '--part': `${Math.max(0, (100 * score) / most).toFixed(1)}%` });
          for (const [event, box] of /** @type {const} */ ([
            ['mouseenter', number],
            ['mouseleave', null],
            ['focus', number],
            ['blur', null],
          ])) {
            row.addEventListener(event, () => photo.point(box));
          }
          return row;
        });
        const node = h(
          'div',
          { class: 'seen' },
          h('div', { class: 'seen-photo' }, photo.node),
          h(
            'div',
            { class: 'seen-facts' },
            h('ol', { class: 'boxes', role: 'list', 'aria-label': 'Boxes, best first' }, rows),
            h('p', { class: 'soft' }, BY[by] ?? ''),
          ),
        );
        return { node, summary: `Found in ${where[0]}.` };
      },
    );
  }
}
