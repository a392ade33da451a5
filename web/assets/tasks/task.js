// What all tasks share: a form, its state in the address, and a run on the chosen models.

import { ApiError } from '../api.js';
import { append, h } from '../dom.js';
import { field } from '../parts.js';
import { Runner } from '../runner.js';
import { chosen, lacks, state, writeHash } from '../state.js';

/** @typedef {import('../../contract.d.ts').Model} Model */
/** @typedef {import('../runner.js').Options} Options */
/** @typedef {import('../state.js').Picture} Picture */
/** @typedef {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} Control */

export class Task {
  /**
   * @param {object} about
   * @param {string} about.id as the address names it
   * @param {string} about.label on the tab
   * @param {string} about.title
   * @param {string} about.lead
   * @param {string[]} about.abilities one of which a model needs
   * @param {string} about.action on the button
   * @param {boolean} [about.needsPhoto]
   */
  constructor({ id, label, title, lead, abilities, action, needsPhoto = true }) {
    this.id = id;
    this.label = label;
    this.title = title;
    this.lead = lead;
    this.abilities = abilities;
    this.needsPhoto = needsPhoto;
    this.runner = new Runner();
    this.alert = h('p', { class: 'wrong', role: 'alert' });
    this.button = h('button', { type: 'submit', class: 'primary' }, action);
    this.form = h('form', { class: 'task-form', novalidate: true, autocomplete: 'off' });
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.submit();
    });
    this.node = h('div', {}, this.form, this.runner.node);
    /** By their names in the address. @type {Record<string, Control>} */
    this.controls = {};
  }

  /** @returns {Record<string, string>} */
  params() {
    return Object.fromEntries(
      Object.entries(this.controls).map(([name, control]) => {
        if (control instanceof HTMLInputElement && control.type === 'checkbox') {
          return [name, control.checked && !control.disabled ? '1' : ''];
        }
        return [name, control.value === initial(control) ? '' : control.value.trim()];
      }),
    );
  }

  /** @param {Record<string, string>} params */
  restore(params) {
    for (const [name, control] of Object.entries(this.controls)) {
      const value = params[name];
      if (control instanceof HTMLInputElement && control.type === 'checkbox') control.checked = value === '1';
      else control.value = value ?? initial(control);
    }
  }

  /**
   * What is missing before it can run, and where to give it; `null` when nothing is.
   *
   * @returns {{message: string, control: HTMLElement | null} | null}
   */
  missing() {
    return null;
  }

  submit() {
    const missing = this.missing() ?? (this.needsPhoto && !state.picture ? NO_PHOTO : null);
    this.alert.textContent = missing?.message ?? '';
    if (missing) {
      (missing.control ?? document.getElementById('choose'))?.focus();
      return;
    }
    writeHash(this.params(), 'push');
    this.start();
  }

  /** Runs if nothing is missing, without saying what is. */
  startIfReady() {
    if (!this.missing() && !(this.needsPhoto && !state.picture) && !this.unable()) this.start();
  }

  start() {}

  /** Whether something is shown or awaited. */
  get isShown() {
    return this.runner.node.hasChildNodes();
  }

  clear() {
    this.runner.clear();
  }

  /** Hears that models, the index or the photo are others now. */
  refresh() {}

  /** Why none of the chosen models can do it; '' where one can. */
  unable() {
    const reasons = chosen().map((model) => lacks(model, this.abilities));
    return reasons.every(Boolean) ? reasons.join(' ') : '';
  }

  /**
   * The usual run: one call a model.
   *
   * @template A
   * @param {(model: Model, options: Options) => Promise<A>} call
   * @param {(answer: A, model: Model) => {node: Node, summary: string}} show
   */
  runOnChosen(call, show) {
    const models = chosen();
    void this.runner.run(models, {
      refuse: (model) => lacks(model, this.abilities),
      doing: (model) => (models.length > 1 ? `Asking ${model.id} …` : 'Asking the model …'),
      call,
      show,
    });
  }

  /** The current photo, where a run needs it. @returns {Picture} */
  photo() {
    if (!state.picture) throw new ApiError(NO_PHOTO.message, { type: 'invalid_request_error' });
    return state.picture;
  }

  /**
   * The field that asks for the text, with the button beside it, or below a tall one.
   *
   * @param {string} label
   * @param {Control} control
   * @param {import('../dom.js').Child} [help]
   */
  asking(label, control, help) {
    const node = field(label, control, help);
    const line = h('div', { class: control instanceof HTMLTextAreaElement ? 'asking tall' : 'asking' });
    const note = line.classList.contains('tall') ? node.querySelector('.help') : null;
    control.replaceWith(line);
    append(line, control, note, this.button);
    line.after(this.alert);
    return node;
  }

  /** @param {...import('../dom.js').Child} children */
  layOut(...children) {
    append(this.form, ...children);
  }
}

const NO_PHOTO = { message: 'Choose a photo first.', control: null };

/** What a control holds before anybody changes it. @param {Control} control */
function initial(control) {
  if (control instanceof HTMLSelectElement) return control.dataset.initial ?? control.options[0]?.value ?? '';
  return control.defaultValue;
}

/**
 * A task whose text starts as the photo's own, until someone writes another.
 *
 * @param {HTMLInputElement | HTMLTextAreaElement} control
 */
export function prefilled(control) {
  let own = '';
  return () => {
    if (control.value.trim() !== '' && control.value !== own) return;
    own = state.picture?.text ?? '';
    control.value = own;
  };
}
