// Runs a task on one model or two beside each other. A newer run, or Stop, ends the older one.

import { isAborted } from './api.js';
import { announce, h } from './dom.js';
import { problem, waiting } from './parts.js';

/** @typedef {import('../contract.d.ts').Model} Model */
/** @typedef {{signal: AbortSignal, onWait: (seconds: number) => void}} Options */

export class Runner {
  constructor() {
    this.node = h('div', { class: 'results' });
    /** @type {AbortController | null} */
    this.controller = null;
  }

  /** Ends what runs and forgets what was shown. */
  clear() {
    this.controller?.abort();
    this.controller = null;
    this.node.replaceChildren();
    this.node.removeAttribute('aria-busy');
  }

  /**
   * @template A
   * @param {Model[]} models
   * @param {object} task
   * @param {(model: Model) => string} task.refuse why a model cannot do it; '' where it can
   * @param {(model: Model) => string} task.doing what is said meanwhile
   * @param {(model: Model, options: Options) => Promise<A>} task.call
   * @param {(answer: A, model: Model) => {node: Node, summary: string}} task.show
   */
  async run(models, { refuse, doing, call, show }) {
    this.clear();
    const controller = new AbortController();
    this.controller = controller;
    const several = models.length > 1;
    this.node.classList.toggle('beside', several);
    this.node.setAttribute('aria-busy', 'true');

    /** @param {Model} model @param {HTMLElement} body @returns {Promise<string>} */
    const one = async (model, body) => {
      const reason = refuse(model);
      if (reason) {
        body.replaceChildren(h('p', { class: 'unable' }, reason));
        return reason;
      }
      const again = () => void one(model, body).then(announce);
      const stop = () => {
        controller.abort();
        this.node.removeAttribute('aria-busy');
      };
      const signal = controller.signal;
      if (signal.aborted) return '';
      const wait = waiting(doing(model), stop);
      body.replaceChildren(wait.node);
      try {
        const answer = await call(model, { signal, onWait: wait.busy });
        if (signal.aborted) return '';
        const { node, summary } = show(answer, model);
        body.replaceChildren(node);
        return several ? `${model.id}: ${summary}` : summary;
      } catch (error) {
        if (isAborted(error)) {
          if (this.controller === controller) body.replaceChildren(h('p', { class: 'soft' }, 'Stopped.'));
          return '';
        }
        body.replaceChildren(problem(error, again));
        return '';
      }
    };

    const bodies = models.map((model) => {
      const body = h('div', { class: 'column-body' });
      if (several) {
        const head = h('h3', { class: 'column-title' }, model.id);
        this.node.append(h('section', { class: 'column', 'aria-label': model.id }, head, body));
      } else {
        this.node.append(body);
      }
      return body;
    });
    const summaries = await Promise.all(models.map((model, number) => one(model, bodies[number])));
    if (this.controller !== controller) return;
    this.node.removeAttribute('aria-busy');
    const said = summaries.filter(Boolean).join(' ');
    if (said) announce(said);
  }
}
