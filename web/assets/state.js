// What the page knows: models, index, the current photo, and what of it the address keeps.

/** @typedef {import('../contract.d.ts').Model} Model */
/** @typedef {import('../contract.d.ts').IndexInfo} IndexInfo */

/**
 * @typedef {object} Picture
 * @property {number} number tells one choice from another
 * @property {string} source as requests name it: a data URL or `item:ID`
 * @property {string} url what an `img` shows
 * @property {string} name
 * @property {string} text the index's text of it, or ''
 * @property {string | null} item its id in the index
 */

/** @typedef {'picture' | 'models' | 'task'} Topic */

export const state = {
  /** @type {Model[]} */
  models: [],
  /** @type {IndexInfo | null} */
  index: null,
  /** Why there is no index, in the server's words. */
  noIndex: '',
  model: '',
  /** The model beside it, or ''. */
  other: '',
  /** @type {Picture | null} */
  picture: null,
  task: '',
};

/** @type {Map<Topic, Set<() => void>>} */
const listeners = new Map();

/** @param {Topic} topic @param {() => void} hear */
export function on(topic, hear) {
  const set = listeners.get(topic) ?? new Set();
  listeners.set(topic, set.add(hear));
}

/** @param {Topic} topic */
export function changed(topic) {
  for (const hear of listeners.get(topic) ?? []) hear();
}

/** The models that a task runs on: one, or two beside each other. @returns {Model[]} */
export function chosen() {
  return [state.model, state.other]
    .flatMap((id) => state.models.filter((model) => model.id === id))
    .slice(0, 2);
}

let pictures = 0;

/** @param {Omit<Picture, 'number'> | null} picture */
export function setPicture(picture) {
  pictures += 1;
  const old = state.picture;
  state.picture = picture && { ...picture, number: pictures };
  changed('picture');
  // What still shows it has been replaced by now.
  if (old?.url.startsWith('blob:') && old.item === null) setTimeout(() => URL.revokeObjectURL(old.url), 1000);
}

/** What an ability is for, in words that complete "This model cannot …". @type {Record<string, string>} */
const ABILITIES = {
  embed_text: 'turn words into an embedding',
  embed_image: 'turn a photo into an embedding',
  match: 'say how well a photo and a text match',
  answer: 'answer questions about a photo',
  relation: 'say how a text and a photo relate',
  ground: 'find what a phrase names in a photo',
  explain: 'show where it looks',
  select: 'select attention by a threshold',
};

/**
 * Why a model cannot do something, or '' where it can.
 *
 * @param {Model} model
 * @param {string[]} abilities one of which is enough
 */
export function lacks(model, abilities) {
  if (abilities.length === 0 || abilities.some((ability) => model.abilities.includes(ability))) return '';
  return `The model “${model.id}” cannot ${ABILITIES[abilities[0]] ?? abilities[0]}.`;
}

/** Keys of the address that are not a task's own. */
const SHARED = ['task', 'model', 'with', 'item'];

/** @returns {Record<string, string>} */
export function readHash() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/**
 * Keeps the state in the address. A photo that was not taken from the index is not kept.
 *
 * @param {Record<string, string>} own what the task adds
 * @param {'push' | 'replace'} how whether going back leads to the state before
 */
export function writeHash(own, how) {
  const shared = [state.task, state.model, state.other, state.picture?.item ?? ''];
  const parameters = new URLSearchParams();
  SHARED.forEach((name, place) => shared[place] && parameters.set(name, shared[place]));
  for (const [name, value] of Object.entries(own)) if (value) parameters.set(name, value);
  const hash = `#${parameters}`;
  if (hash === location.hash) return;
  if (how === 'push') history.pushState(null, '', hash);
  else history.replaceState(null, '', hash);
}
