// The page: loads what the server has, lays out the tasks, and keeps the address in step.

import { isAborted, key, onUnauthorized, request } from './api.js';
import { announce, byId, fill, h } from './dom.js';
import { counted, grouped } from './format.js';
import { problem, setOptions, waiting } from './parts.js';
import { createPicturePanel, pickItem } from './picture.js';
import { changed, chosen, lacks, on, readHash, state, writeHash } from './state.js';
import { createTabs } from './tabs.js';
import { Ask } from './tasks/ask.js';
import { Explain } from './tasks/explain.js';
import { Ground } from './tasks/ground.js';
import { Match } from './tasks/match.js';
import { Relation } from './tasks/relation.js';
import { Search } from './tasks/search.js';
import { createThemeButton } from './themes.js';

/** @typedef {import('./tasks/task.js').Task} Task */

const tasks = [new Search(), new Ask(), new Ground(), new Relation(), new Match(), new Explain()];
/** @type {Map<Task, HTMLElement>} */
const notices = new Map();

const modelSelect = byId('model', HTMLSelectElement);
const otherSelect = byId('other', HTMLSelectElement);
const boot = byId('boot', HTMLElement);

const tabs = createTabs(
  byId('tabs', HTMLElement),
  byId('panels', HTMLElement),
  tasks.map((task) => {
    const notice = h('div', { class: 'notices' });
    notices.set(task, notice);
    const panel = h(
      'section',
      { 'aria-labelledby': `title-${task.id}` },
      h('h2', { id: `title-${task.id}` }, task.title),
      h('p', { class: 'lead' }, task.lead),
      notice,
      task.node,
    );
    return { id: task.id, label: task.label, panel };
  }),
  (id) => {
    if (id === state.task) return;
    state.task = id;
    changed('task');
    writeHash(own(), 'push');
  },
);

const current = () => tasks.find(({ id }) => id === state.task) ?? tasks[0];

/** What the address keeps of the current task: what leads to what it shows. */
const own = () => (current().isShown ? current().params() : {});

/** What a task cannot do, and what can be done about it. @param {Task} task */
function notice(task) {
  const node = notices.get(task);
  if (!node) return;
  const reason = task.unable();
  tabs.mark(task.id, !reason);
  task.node.hidden = Boolean(reason);
  if (!reason) {
    const photo = task.needsPhoto && !state.picture;
    fill(
      node,
      photo &&
        h('p', { class: 'unable' }, 'This needs a photo: drop one, paste one, or choose one under “Photo”.'),
    );
    return;
  }
  const able = state.models.filter((model) => task.abilities.length > 0 && !lacks(model, task.abilities));
  fill(
    node,
    h(
      'div',
      { class: 'unable' },
      h('p', {}, h('strong', {}, 'Not available. '), reason),
      able.slice(0, 3).map((model) => {
        const use = () => {
          setModels(model.id, '');
          writeHash(own(), 'push');
          byId(`tab-${task.id}`, HTMLElement).focus();
        };
        return h('button', { type: 'button', onclick: use }, `Use “${model.id}”, which can`);
      }),
    ),
  );
}

/** @param {string} model @param {string} other */
function setModels(model, other) {
  state.model = state.models.some(({ id }) => id === model) ? model : (state.models[0]?.id ?? '');
  state.other = other !== state.model && state.models.some(({ id }) => id === other) ? other : '';
  changed('models');
}

on('models', () => {
  setOptions(
    modelSelect,
    state.models.map(({ id }) => [id, id]),
  );
  modelSelect.value = state.model;
  const others = state.models.filter(({ id }) => id !== state.model);
  setOptions(otherSelect, [
    ['', 'no other'],
    ...others.map(({ id }) => /** @type {[string, string]} */ ([id, id])),
  ]);
  otherSelect.value = state.other;
  byId('model-setting', HTMLElement).hidden = state.models.length === 0;
  byId('other-setting', HTMLElement).hidden = state.models.length < 2;
  for (const task of tasks) {
    // What is searched does not depend on the chosen models.
    const depends = task.abilities.length > 0;
    const again = depends && task === current() && task.isShown;
    if (depends) task.clear();
    task.refresh();
    notice(task);
    if (again) task.startIfReady();
  }
  foot();
});

on('picture', () => {
  for (const task of tasks) {
    if (task.needsPhoto) task.clear();
    task.alert.textContent = '';
    task.refresh();
    notice(task);
  }
});

on('task', () => {
  tabs.select(state.task);
  current().refresh();
  notice(current());
  document.title = `${current().label} – Chiasm`;
});

modelSelect.addEventListener('change', () => {
  setModels(modelSelect.value, otherSelect.value);
  writeHash(own(), 'push');
});
otherSelect.addEventListener('change', () => {
  setModels(modelSelect.value, otherSelect.value);
  writeHash(own(), 'push');
  announce(state.other ? `Comparing ${state.model} with ${state.other}` : `Only ${state.model}`);
});
on('picture', () => writeHash(own(), 'replace'));

/**
 * A link, or where a key is needed, which a link does not send, the path as text.
 *
 * @param {string} path
 * @param {string} label
 */
const link = (path, label) => (key.get() ? `${label} at ${path}` : h('a', { href: path }, label));

/** What the server has, below everything. */
function foot() {
  const facts = chosen().map((model) => {
    const about = [
      model.dimensions && `${grouped(model.dimensions)} dimensions`,
      model.classes && counted(model.classes, 'answer'),
    ].filter(Boolean);
    return h('span', {}, `Model “${model.id}”${about.length ? `: ${about.join(', ')}` : ''}.`);
  });
  fill(
    byId('bottom', HTMLElement),
    h(
      'p',
      { class: 'soft' },
      facts.flatMap((fact) => [fact, ' ']),
      state.index
        ? `Index: ${counted(state.index.items, 'picture')}, made with “${state.index.model}”. `
        : 'No index. ',
      'For programs: ',
      link('/openapi.json', 'API description'),
      ', ',
      link('/metrics', 'metrics'),
      '.',
    ),
  );
}

/** Counts readings of the address, so that going back twice quickly ends where it should. */
let readings = 0;

/** Takes everything from the address: on loading, and on going back and forth. */
async function fromHash() {
  readings += 1;
  const mine = readings;
  const params = readHash();
  const wanted = tasks.find(({ id }) => id === params.task);
  const first = (state.index ? undefined : tasks.find((task) => !task.unable())) ?? tasks[0];
  setModelsQuietly(params);
  state.task = (wanted ?? first).id;
  const task = current();
  const item = params.item || null;
  if (item !== null && state.picture?.item !== item) {
    await pickItem({ id: item, text: null, thumbnail: null });
    if (mine !== readings) return;
  }
  const given = Object.keys(task.controls).some((name) => params[name]);
  if (given) task.restore(params);
  changed('task');
  if (given) task.startIfReady();
  else task.clear();
  writeHash(given ? task.params() : {}, 'replace');
}

/** @param {Record<string, string>} params */
function setModelsQuietly(params) {
  const [model, other] = [params.model ?? state.models[0]?.id ?? '', params.with ?? ''];
  if (model !== state.model || other !== state.other) setModels(model, other);
}

window.addEventListener('popstate', () => {
  if (state.models.length) void fromHash();
});
byId('skip', HTMLElement).addEventListener('click', (event) => {
  // The address is the page's own; a jump would replace it.
  event.preventDefault();
  byId('work', HTMLElement).focus();
});

async function start() {
  const wait = waiting('Looking what this server has …');
  fill(boot, wait.node);
  const stage = byId('stage', HTMLElement);
  try {
    const models = await request('/v1/models', { onWait: wait.busy });
    state.models = models.data;
    try {
      state.index = await request('/v1/index', { onWait: wait.busy });
    } catch (error) {
      if (isAborted(error)) throw error;
      state.index = null;
      const { status, message } = /** @type {import('./api.js').ApiError} */ (error);
      if (status !== 404) throw error;
      state.noIndex = message;
    }
    if (state.models.length === 0)
      throw new Error('The server has no model. Start it with the folder of a run.');
  } catch (error) {
    stage.hidden = true;
    const unauthorized = /** @type {{status?: number}} */ (error).status === 401;
    fill(boot, unauthorized ? null : problem(error, () => void start()));
    return;
  }
  boot.replaceChildren();
  stage.hidden = false;
  const params = readHash();
  state.task = params.task ?? tasks[0].id;
  setModels(params.model ?? '', params.with ?? '');
  await fromHash();
}

/* Keys */

const keySection = byId('key-section', HTMLElement);
const keyInput = byId('key', HTMLInputElement);
const keyButton = byId('key-button', HTMLButtonElement);
const keyForget = byId('key-forget', HTMLButtonElement);
const keyError = byId('key-error', HTMLElement);

/** @param {boolean} open */
function showKey(open) {
  keySection.hidden = !open;
  keyButton.hidden = !open && !key.get();
  keyButton.setAttribute('aria-expanded', String(open));
  keyForget.hidden = !key.get();
}

onUnauthorized.add((error) => {
  showKey(true);
  keyError.textContent = key.get() ? error.message : '';
  keyInput.focus();
});
keyButton.addEventListener('click', () => {
  showKey(Boolean(keySection.hidden));
  if (!keySection.hidden) keyInput.focus();
});
byId('key-form', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault();
  const value = keyInput.value.trim();
  if (!value) {
    keyError.textContent = 'Write the key first.';
    keyInput.focus();
    return;
  }
  key.set(value);
  keyInput.value = '';
  keyError.textContent = '';
  showKey(false);
  announce('Key set');
  if (state.models.length === 0) void start();
  else current().startIfReady();
});
keyForget.addEventListener('click', () => {
  key.set('');
  showKey(false);
  announce('Key forgotten');
});

createThemeButton(byId('theme-button', HTMLButtonElement));
createPicturePanel(byId('photo-panel', HTMLElement));
showKey(false);
void start();
