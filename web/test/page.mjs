// The page in a browser: `node test/page.mjs`, against the mock.
//
// CHIASM_URL: a running server to test in place of the mock; what its models cannot do is skipped.
// CHIASM_KEY: its key, if it asks for one.
// CHIASM_CHROMIUM: the browser's program, where Playwright has not installed its own.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { chromium } from 'playwright-core';
import { drawn } from './drawn.mjs';
import { CSP, HOSTILE, startMock } from './mock.mjs';

/** @typedef {import('playwright-core').Page} Page */
/** @typedef {import('playwright-core').Route} Route */
/** @typedef {import('../contract.d.ts').Model} Model */

const KEY = process.env.CHIASM_KEY ?? '';
const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const PHOTO = { name: 'disc.png', mimeType: 'image/png', buffer: drawn(2) };

/** @type {Awaited<ReturnType<typeof startMock>> | null} */
let mock = null;
let base = process.env.CHIASM_URL?.replace(/\/$/, '') ?? '';
if (!base) {
  mock = await startMock();
  base = mock.url;
}
/** @param {string} path */
const get = async (path) => {
  const response = await fetch(base + path, { headers: KEY ? { Authorization: `Bearer ${KEY}` } : {} });
  return response.ok ? response.json() : null;
};
const models = /** @type {Model[]} */ ((await get('/v1/models')).data);
const index = await get('/v1/index');
const items = index ? (await get('/v1/items?offset=0&limit=24')).items : [];

/** The first model with all of some abilities. @param {...string} abilities */
const able = (...abilities) => models.find((model) => abilities.every((a) => model.abilities.includes(a)));

/** @param {unknown} condition @param {string} why */
const without = (condition, why) => (condition ? false : `this server has no ${why}`);

/** @type {import('playwright-core').Browser} */
let browser;
before(async () => {
  browser = await chromium.launch({ executablePath: process.env.CHIASM_CHROMIUM, args: ['--no-sandbox'] });
});
after(async () => {
  await browser.close();
  await mock?.close();
});

/**
 * A test of a page that must leave no error, warning or violation on the console.
 *
 * @param {string} name
 * @param {{skip?: string | false, hash?: string, width?: number, dark?: boolean, url?: string, expected?: RegExp,
 *   prepare?: (page: Page) => Promise<unknown>}} options `expected`: console messages that belong to the test
 * @param {(page: Page) => Promise<unknown>} run
 */
function pageTest(name, { skip, hash = '', width = 1200, dark, url = base, expected, prepare }, run) {
  test(name, { skip, timeout: 180_000 }, async () => {
    const context = await browser.newContext({
      viewport: { width, height: 900 },
      colorScheme: dark ? 'dark' : 'light',
    });
    context.setDefaultTimeout(40_000);
    const page = await context.newPage();
    /** @type {string[]} */
    const problems = [];
    page.on('console', (message) => {
      // A server without an index says so by 404, which a browser logs.
      if (!index && message.location().url.endsWith('/v1/index')) return;
      if (['error', 'warning'].includes(message.type()) && !expected?.test(message.text())) {
        problems.push(message.text());
      }
    });
    page.on('pageerror', (error) => problems.push(String(error)));
    page.on('dialog', (dialog) => {
      problems.push(`a dialog opened: ${dialog.message()}`);
      void dialog.dismiss();
    });
    if (KEY) await page.addInitScript((value) => sessionStorage.setItem('chiasm-key', value), KEY);
    await prepare?.(page);
    try {
      await page.goto(`${url}/${hash}`);
      await run(page);
      assert.deepEqual(problems, []);
    } finally {
      await context.close();
    }
  });
}

/** @param {Page} page @param {string} name */
const tab = (page, name) => page.getByRole('tab', { name: new RegExp(`^${name}`) });

/** The panel that is shown. @param {Page} page */
const panel = (page) => page.locator('[role=tabpanel]:visible');

/** @param {Page} page @param {string} name @param {Model} [model] */
async function openTask(page, name, model) {
  await page.locator('#stage:visible').waitFor();
  if (model) await page.getByLabel('Model', { exact: true }).selectOption(model.id);
  await page.locator('#file').setInputFiles(PHOTO);
  await page.getByAltText('Current photo').waitFor();
  await tab(page, name).click();
}

/** @param {Page} page */
const canvas = (page, number = 0) =>
  page
    .locator('canvas')
    .nth(number)
    .evaluate((node) => /** @type {HTMLCanvasElement} */ (node).toDataURL());

/** Waits until the layer over the photo is another. @param {Page} page @param {string} old */
async function changedFrom(page, old) {
  for (let tries = 0; tries < 100; tries += 1) {
    const now = await canvas(page);
    if (now !== old) return now;
    await page.waitForTimeout(30);
  }
  throw new Error('the map did not change');
}

/** @param {unknown} body @param {number} [status] @param {Record<string, string>} [headers] */
const json = (body, status = 200, headers = {}) => ({
  status,
  headers: { 'Content-Type': 'application/json', ...headers },
  body: JSON.stringify(body),
});

/** @param {string} type @param {string} message */
const refusal = (type, message) => ({ error: { message, type, param: null, code: null } });

/** @param {Page} page */
async function assertNoSideways(page) {
  const [has, shown] = await page.evaluate(() => [
    document.documentElement.scrollWidth,
    document.documentElement.clientWidth,
  ]);
  assert.ok(has <= shown, `${has} wide in ${shown}: ${await page.evaluate(() => location.hash)}`);
}

/** @param {Page} page @param {string} where */
async function assertAccessible(page, where) {
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    // @ts-expect-error axe is a global of the script above
    const { violations } = await globalThis.axe.run(document, { resultTypes: ['violations'] });
    return violations.map((/** @type {any} */ { id, impact, nodes }) => ({
      id,
      impact,
      nodes: nodes.map((/** @type {any} */ node) => node.html.slice(0, 160)),
    }));
  });
  const bad = found.filter((/** @type {any} */ { impact }) => impact !== 'minor');
  assert.deepEqual(bad, [], where);
}

const PHOTO_TASKS = [
  ['Ask', 'answer', 'What colour is the disc?'],
  ['Locate', 'ground', 'the disc'],
  ['Relation', 'relation', 'A green disc above a field.'],
  ['Match', 'match', 'a green disc\na red car'],
  ['Heat map', 'explain', 'a green disc'],
];

/* What is there */

test('the policy forbids everything inline', async () => {
  const response = await fetch(`${base}/`);
  assert.equal(response.headers.get('content-security-policy'), CSP);
  const page = await response.text();
  assert.ok(!/<style|<script(?![^>]+src=)|\sstyle=|\son\w+=|javascript:/i.test(page));
});

pageTest('the first view says what can be done', {}, async (page) => {
  await page.locator('#stage:visible').waitFor();
  assert.equal(await page.getByRole('tab').count(), 6);
  assert.equal(await page.getByRole('tab', { selected: true }).count(), 1);
  await page.getByRole('button', { name: 'Choose a photo' }).waitFor();
  for (const role of /** @type {const} */ (['banner', 'main', 'contentinfo'])) {
    assert.equal(await page.getByRole(role).count(), 1, role);
  }
  await page.waitForLoadState('networkidle');
});

pageTest('light and dark: the system, then the button, then kept', { dark: true }, async (page) => {
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.getByRole('button', { name: 'Light colours' }).click();
  const light = await ground();
  assert.notEqual(light, dark);
  await page.reload();
  assert.equal(await ground(), light);
  await page.getByRole('button', { name: 'Dark colours' }).click();
  assert.equal(await ground(), dark);
});

/* Search */

const noIndex = without(index, 'index');

pageTest('search by words, and take a result as the photo', { skip: noIndex }, async (page) => {
  await tab(page, 'Search').click();
  await page.getByLabel('Words', { exact: true }).fill('a red ball');
  await page.getByLabel('Words', { exact: true }).press('Enter');
  const results = panel(page).locator('.results ol > li');
  await results.first().waitFor();
  assert.match(await results.first().innerText(), /score −?\d\.\d\d/);
  assert.match(page.url(), /q=a\+red\+ball/);
  await results.first().getByRole('button').click();
  const id = (await results.first().getByRole('button').getAttribute('data-item')) ?? '';
  await page.locator('.photo-name', { hasText: id }).waitFor();
  assert.equal(new URLSearchParams(new URL(page.url()).hash.slice(1)).get('item'), id);
  assert.ok((await results.count()) > 0, 'the results stay');
  assert.equal(await results.first().getByRole('button').getAttribute('aria-current'), 'true');
  // The address brings all of it back.
  await page.reload();
  await results.first().waitFor();
  await page.locator('.photo-name', { hasText: id }).waitFor();
});

pageTest('search by photo, filter and order', { skip: noIndex }, async (page) => {
  await openTask(page, 'Search');
  /** @type {any[]} */
  const asked = [];
  await page.route('**/v1/search', async (route) => {
    asked.push(route.request().postDataJSON());
    await route.fulfill(json({ model: 'm', results: [], searched: 7, approximate: true }));
  });
  const like = page.getByLabel('Like the current photo');
  if (!(await like.isVisible())) return;
  await like.check();
  await page.getByText('Filter and order').click();
  await page.getByLabel('Filter', { exact: true }).fill('split=test');
  await page.getByRole('button', { name: 'Search', exact: true }).click();
  await page.getByText('Nothing found of 7 pictures searched, approximately').waitFor();
  assert.equal(asked[0].text, undefined);
  assert.match(asked[0].image, /^data:image\/png;base64,/);
  assert.equal(asked[0].filter, 'split=test');
  await page.getByRole('button', { name: 'Show all pictures' }).click();
  await page.getByRole('heading', { name: 'All pictures' }).waitFor();
});

pageTest('a text of the index is found, but is no photo', { skip: noIndex }, async (page) => {
  const result = { rank: 1, id: 't1', score: 0.625, text: 'only words', thumbnail: null, metadata: {} };
  await page.route('**/v1/search', (route) =>
    route.fulfill(json({ model: 'm', results: [result], searched: 1, approximate: false })),
  );
  await tab(page, 'Search').click();
  await page.getByLabel('Words', { exact: true }).fill('words');
  await page.keyboard.press('Enter');
  await page.locator('.results .tile', { hasText: 'only words' }).waitFor();
  assert.equal(await page.locator('.results button.tile').count(), 0);
});

pageTest('pictures of the index, page by page, in a dialog', { skip: noIndex }, async (page) => {
  await page.getByRole('button', { name: 'From the index' }).click();
  const dialog = page.getByRole('dialog', { name: 'Pictures of the index' });
  await dialog.locator('.tile').first().waitFor();
  const first = await dialog.locator('.tile').first().getAttribute('data-item');
  if (index.items > 24) {
    await dialog.getByRole('button', { name: 'Next' }).click();
    await dialog.getByText('25 to').waitFor();
    assert.notEqual(await dialog.locator('.tile').first().getAttribute('data-item'), first);
    await dialog.getByRole('button', { name: 'Previous' }).click();
    await dialog.getByText('1 to 24').waitFor();
  }
  await page.keyboard.press('Escape');
  assert.equal(await dialog.isVisible(), false);
  await page.getByRole('button', { name: 'From the index' }).click();
  await dialog.locator('.tile').first().click();
  await page.locator('.photo-name', { hasText: first ?? '' }).waitFor();
  assert.equal(await dialog.isVisible(), false);
});

/* Photos */

pageTest('a photo is dropped, pasted, refused, removed', {}, async (page) => {
  await page.locator('#stage:visible').waitFor();
  /** @param {string} kind @param {string} name @param {number[]} bytes */
  const give = (kind, name, bytes, type = 'image/png') =>
    page.evaluate(
      ({ kind, name, bytes, type }) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, { type }));
        const event =
          kind === 'drop'
            ? new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
      },
      { kind, name, bytes, type },
    );
  await give('drop', 'dropped.png', [...PHOTO.buffer]);
  await page.locator('.photo-name', { hasText: 'dropped.png' }).waitFor();
  await give('paste', 'pasted.png', [...PHOTO.buffer]);
  await page.locator('.photo-name', { hasText: 'pasted.png' }).waitFor();
  await give('drop', 'notes.png', [1, 2, 3]);
  await page.getByRole('alert').getByText('“notes.png” is not a picture').waitFor();
  await page.getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('button', { name: 'Choose a photo' }).waitFor();
});

pageTest(
  'a turned or large photo is sent as it is seen',
  { skip: without(able('answer'), 'model that answers') },
  async (page) => {
    await openTask(page, 'Ask', able('answer'));
    const big = await page.evaluate(async () => {
      const canvas = new OffscreenCanvas(3000, 200);
      canvas.getContext('2d')?.fillRect(0, 0, 3000, 200);
      return [...new Uint8Array(await (await canvas.convertToBlob({ type: 'image/jpeg' })).arrayBuffer())];
    });
    // EXIF data that say: turn by a quarter.
    const exif = [
      0xff,
      0xe1,
      0,
      34,
      ...Buffer.from('Exif\0\0MM\0*'),
      0,
      0,
      0,
      8,
      0,
      1,
      1,
      0x12,
      0,
      3,
      0,
      0,
      0,
      1,
      0,
      6,
    ];
    exif.push(0, 0, 0, 0, 0, 0);
    const small = await page.evaluate(async () => {
      const canvas = new OffscreenCanvas(30, 20);
      canvas.getContext('2d')?.fillRect(0, 0, 30, 20);
      return [...new Uint8Array(await (await canvas.convertToBlob({ type: 'image/jpeg' })).arrayBuffer())];
    });
    const turned = [...small.slice(0, 2), ...exif, ...small.slice(2)];
    /** @type {string[]} */
    const sent = [];
    await page.route('**/v1/vqa', async (route) => {
      sent.push(route.request().postDataJSON().image);
      await route.fulfill(json({ model: 'm', answers: [{ answer: 'yes', probability: 1 }] }));
    });
    for (const [name, bytes] of /** @type {[string, number[]][]} */ ([
      ['big.jpg', big],
      ['turned.jpg', turned],
      ['small.jpg', small],
    ])) {
      await page.locator('#file').setInputFiles({ name, mimeType: 'image/jpeg', buffer: Buffer.from(bytes) });
      await page.locator('.photo-name', { hasText: name }).waitFor();
      await page.getByLabel('Question').fill('Is it dark?');
      await page.getByRole('button', { name: 'Ask', exact: true }).click();
      await panel(page).getByText('100 %').waitFor();
    }
    const sizes = await page.evaluate(
      (sent) =>
        Promise.all(
          sent.map(async (url) => {
            const image = new Image();
            image.src = url;
            await image.decode();
            return [image.naturalWidth, image.naturalHeight];
          }),
        ),
      sent,
    );
    assert.deepEqual(sizes, [
      [2048, 137],
      [20, 30],
      [30, 20],
    ]);
    assert.equal(sent[2], `data:image/jpeg;base64,${Buffer.from(small).toString('base64')}`);
    assert.ok(!Buffer.from(sent[1].split(',')[1], 'base64').includes('Exif'));
  },
);

/* Tasks */

pageTest('a question', { skip: without(able('answer'), 'model that answers') }, async (page) => {
  await openTask(page, 'Ask', able('answer'));
  await page.getByRole('button', { name: 'Ask', exact: true }).click();
  await page.getByText('Write a question first.').waitFor();
  await page.getByLabel('Question').fill('What colour is the disc?');
  await page.keyboard.press('Enter');
  const rows = panel(page).locator('.bars tbody tr');
  await rows.first().waitFor();
  assert.match(await rows.first().innerText(), /%/);
  assert.ok((await rows.count()) > 1);
});

pageTest('a phrase and its boxes', { skip: without(able('ground'), 'model that grounds') }, async (page) => {
  await openTask(page, 'Locate', able('ground'));
  await page.getByLabel('Phrase').fill('the disc');
  await page.getByRole('button', { name: 'Locate', exact: true }).click();
  const rows = panel(page).locator('.boxes li');
  await rows.first().waitFor();
  assert.equal(await panel(page).locator('rect.box-line').count(), await rows.count());
  await rows.first().focus();
  assert.ok(await panel(page).locator('rect.box-line.pointed').count());
});

pageTest(
  'a relation, and abstaining',
  { skip: without(able('relation'), 'model of relations') },
  async (page) => {
    await openTask(page, 'Relation', able('relation'));
    await page.getByRole('textbox', { name: 'Text', exact: true }).fill('A disc above a field.');
    await page.getByRole('button', { name: 'Show the relation' }).click();
    await panel(page).locator('.bars').first().waitFor();
    await page.route('**/v1/relation', (route) =>
      route.fulfill(
        json({
          model: 'm',
          relation: null,
          confidence: 0.3,
          probabilities: [
            { class: 'adds', probability: 0.3 },
            { class: 'both', probability: 0.28 },
          ],
          text_represented: 0.5,
          image_adds: null,
          alignment: null,
        }),
      ),
    );
    await page.getByRole('button', { name: 'Show the relation' }).click();
    await panel(page).getByText('The model abstains').waitFor();
    await panel(page).getByText('best guess, “adds”, reaches only 30 %').waitFor();
    assert.equal(await panel(page).getByRole('alert').filter({ hasText: /./ }).count(), 0);
  },
);

pageTest('several texts', { skip: without(able('match'), 'model that matches') }, async (page) => {
  await openTask(page, 'Match', able('match'));
  await page.getByLabel('Texts').fill('a green disc\n\n a red car \n');
  await page.getByRole('button', { name: 'Match', exact: true }).click();
  const rows = panel(page).locator('.bars tbody tr');
  await rows.first().waitFor();
  assert.equal(await rows.count(), 2);
});

/* Heat maps */

const explainer = able('explain');
const noHeat = without(explainer, 'model that explains');

/** @param {Page} page */
async function openHeat(page, text = 'a green disc above some field') {
  await openTask(page, 'Heat map', explainer);
  await page.getByRole('textbox', { name: 'Text', exact: true }).fill(text);
  await page.getByRole('button', { name: 'Show heat maps' }).click();
  await page.locator('.chip').first().waitFor();
  await page.waitForTimeout(150);
}

pageTest('heat maps by pointing at words', { skip: noHeat }, async (page) => {
  /** @type {string[]} */
  const asked = [];
  page.on('request', (request) => request.url().endsWith('/v1/explain') && asked.push(request.url()));
  await openHeat(page);
  const whole = await canvas(page);
  const words = page.locator('.sentence .chip:not(.without-map)');
  await words.first().hover();
  const first = await changedFrom(page, whole);
  await words.nth(1).hover();
  await changedFrom(page, first);
  await page.locator('h1').hover();
  await page.waitForTimeout(100);
  assert.equal(await canvas(page), whole, 'the whole text comes back');
  await page.getByLabel('Heat', { exact: true }).fill('20');
  await changedFrom(page, whole);
  assert.equal(asked.length, 1, 'one request for all words');
  assert.match(await page.locator('.heat-line').innerText(), /Whole text/);
});

pageTest('heat maps by keyboard', { skip: noHeat }, async (page) => {
  await openHeat(page);
  const whole = await canvas(page);
  const chips = page.locator('.chip');
  await chips.first().focus();
  let at = 0;
  do {
    await page.keyboard.press('ArrowRight');
    at += 1;
  } while (await chips.nth(at).evaluate((node) => node.classList.contains('without-map')));
  const word = await changedFrom(page, whole);
  assert.equal(await page.evaluate(() => document.activeElement?.className.includes('chip')), true);
  assert.equal(await page.locator('.chip[tabindex="0"]').count(), 1, 'one tab stop');
  await page.keyboard.press('Enter');
  assert.equal(await chips.nth(at).getAttribute('aria-pressed'), 'true');
  await page.keyboard.press('Tab');
  await page.waitForTimeout(60);
  assert.equal(await canvas(page), word, 'a pinned word stays');
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('End');
  assert.equal(await chips.last().evaluate((node) => node === document.activeElement), true);
  await page.keyboard.press('Home');
  assert.equal(await chips.first().evaluate((node) => node === document.activeElement), true);
});

pageTest(
  'another method is fetched when it is chosen',
  { skip: noHeat || without((explainer?.methods.length ?? 0) > 1, 'second method') },
  async (page) => {
    await openHeat(page);
    await page.getByText('Method and selection').click();
    const answer = page.waitForResponse('**/v1/explain');
    await page.getByLabel('Method', { exact: true }).selectOption({ index: 2 });
    assert.equal((await answer).request().postDataJSON().method, explainer?.methods[1]);
  },
);

pageTest(
  'before and after selection',
  { skip: without(able('explain', 'select'), 'model that selects') },
  async (page) => {
    await openTask(page, 'Heat map', able('explain', 'select'));
    await page.getByRole('textbox', { name: 'Text', exact: true }).fill('a green disc');
    await page.getByText('Method and selection').click();
    await page.getByLabel('Select attention').fill('prob_abs=0.05');
    await page.keyboard.press('Enter');
    await page.getByText('before selection').waitFor();
    await page.waitForTimeout(100);
    assert.equal(await page.locator('.heat-figure:visible').count(), 2);
    await page.getByText('After', { exact: true }).click();
    assert.equal(await page.locator('.heat-figure:visible').count(), 1);
    assert.match(await page.locator('.heat-figure:visible').innerText(), /prob_abs=0.05/);
    await page.getByText('it keeps').waitFor();
  },
);

pageTest('heat of regions', { skip: noHeat }, async (page) => {
  await page.route('**/v1/explain', (route) =>
    route.fulfill(
      json({
        model: 'm',
        method: 'attention',
        target: 'match',
        score: null,
        places: {
          kind: 'boxes',
          boxes: [
            [0, 0, 0.5, 0.5],
            [0.5, 0.5, 0.5, 0.5],
          ],
        },
        whole: [0.2, 0.8],
        words: [{ text: 'disc', start: 8, end: 12, weight: null, map: [1, 0] }],
        selected: null,
      }),
    ),
  );
  await openHeat(page, 'a green disc');
  await page.locator('.heat-line', { hasText: 'strongest in the lower right' }).waitFor();
  await page.getByRole('button', { name: 'disc' }).hover();
  await page.locator('.heat-line', { hasText: 'strongest in the upper left' }).waitFor();
  await page.getByText('2 regions').waitFor();
});

/* Comparing */

const pair = models.filter(({ abilities }) => abilities.includes('explain')).slice(0, 2);

pageTest(
  'two models beside each other',
  { skip: without(pair.length === 2, 'two models that explain') },
  async (page) => {
    await openHeat(page);
    await page.getByLabel('Model', { exact: true }).selectOption(pair[0].id);
    await page.getByLabel('Compare with').selectOption(pair[1].id);
    await page.locator('.column .heat').nth(1).waitFor();
    assert.deepEqual(await page.locator('.column-title').allInnerTexts(), [pair[0].id, pair[1].id]);
    const columns = page.locator('.column');
    await columns.first().locator('.sentence .chip').nth(1).hover();
    const line = await columns.first().locator('.heat-line strong').innerText();
    assert.equal(await columns.nth(1).locator('.heat-line strong').innerText(), line, 'both show the word');
    assert.match(page.url(), new RegExp(`with=${pair[1].id}`));
    const boxes = await columns.evaluateAll((nodes) => nodes.map((node) => node.getBoundingClientRect().top));
    assert.equal(boxes[0], boxes[1], 'beside, not below');
  },
);

const [[wanted, ability]] = [...PHOTO_TASKS]
  .filter(([, a]) => models.some((m) => !m.abilities.includes(a)))
  .concat([['', '']]);
const unable = models.find((model) => ability && !model.abilities.includes(ability));

pageTest(
  'what a model cannot do is said, with the reason',
  { skip: without(unable, 'model that lacks an ability') },
  async (page) => {
    await openTask(page, wanted, unable);
    await panel(page).getByText('Not available.').waitFor();
    await panel(page).getByText(`The model “${unable?.id}” cannot`).waitFor();
    assert.match((await tab(page, wanted).innerText()) ?? '', /n\/a/);
    assert.equal(await panel(page).locator('form').isVisible(), false);
    const other = able(ability);
    if (other) {
      await panel(page)
        .getByRole('button', { name: `Use “${other.id}”` })
        .click();
      await panel(page).locator('form').waitFor();
    }
  },
);

pageTest(
  'a server without an index says so under Search',
  {
    expected: /404/,
    prepare: (page) =>
      page.route('**/v1/index', (route) =>
        route.fulfill(json(refusal('not_found', 'no index here; start it with one'), 404)),
      ),
  },
  async (page) => {
    await tab(page, 'Search').click();
    await panel(page).getByText('no index here; start it with one').waitFor();
    assert.equal(await page.getByRole('button', { name: 'From the index' }).isVisible(), false);
  },
);

/* Errors */

const asks = without(able('answer'), 'model that answers');

/** @param {Page} page */
async function ask(page, question = 'What is it?') {
  await openTask(page, 'Ask', able('answer'));
  await page.getByLabel('Question').fill(question);
  await page.getByRole('button', { name: 'Ask', exact: true }).click();
}

const YES = { model: 'm', answers: [{ answer: 'certainly', probability: 0.9 }] };

pageTest(
  'an error is shown kindly, and can be tried again',
  { skip: asks, expected: /500/ },
  async (page) => {
    let fails = true;
    await page.route('**/v1/vqa', (route) =>
      route.fulfill(fails ? json(refusal('server_error', `the model failed ${HOSTILE}`), 500) : json(YES)),
    );
    await ask(page);
    const alert = panel(page).locator('.problem');
    await alert.waitFor();
    assert.match(await alert.innerText(), /Something went wrong on the server/);
    assert.ok((await alert.innerText()).includes(`the model failed ${HOSTILE}`));
    fails = false;
    await alert.getByRole('button', { name: 'Try again' }).click();
    await panel(page).getByText('certainly').first().waitFor();
  },
);

pageTest(
  'an answer that is no JSON, and no connection',
  { skip: asks, expected: /502|ERR_FAILED/ },
  async (page) => {
    let broken = true;
    await page.route('**/v1/vqa', (route) =>
      broken ? route.fulfill({ status: 502, body: '<html>' }) : route.abort(),
    );
    await ask(page);
    await panel(page).getByText('The server answered with status 502').waitFor();
    broken = false;
    await panel(page).getByRole('button', { name: 'Try again' }).click();
    await panel(page).getByText('The server does not answer').waitFor();
  },
);

pageTest(
  'a busy server is asked again after as long as it says',
  { skip: asks, expected: /429/ },
  async (page) => {
    let times = 0;
    await page.route('**/v1/vqa', (route) => {
      times += 1;
      return route.fulfill(
        times === 1 ? json(refusal('overloaded', 'busy'), 429, { 'Retry-After': '2' }) : json(YES),
      );
    });
    const start = Date.now();
    await ask(page);
    await panel(page)
      .getByText(/The server is busy. Trying again in [12] s/)
      .waitFor();
    await panel(page).getByText('certainly').first().waitFor();
    assert.equal(times, 2);
    assert.ok(Date.now() - start >= 1900);
  },
);

pageTest('what timed out is not asked again by itself', { skip: asks, expected: /503/ }, async (page) => {
  let times = 0;
  await page.route('**/v1/vqa', (route) => {
    times += 1;
    return route.fulfill(json(refusal('timeout', 'not answered within 60 s'), 503, { 'Retry-After': '1' }));
  });
  await ask(page);
  await panel(page).getByText('This took too long').waitFor();
  assert.equal(times, 1);
});

pageTest('only the newest question counts, and Stop ends it', { skip: asks }, async (page) => {
  /** @type {string[]} */
  const ended = [];
  page.on('requestfailed', (request) => {
    if (request.url().endsWith('/v1/vqa')) ended.push(request.failure()?.errorText ?? '');
  });
  await page.route('**/v1/vqa', async (route) => {
    const { question } = route.request().postDataJSON();
    if (question !== 'quick?') await new Promise((resolve) => setTimeout(resolve, 1500));
    await route
      .fulfill(json({ model: 'm', answers: [{ answer: `to ${question}`, probability: 1 }] }))
      .catch(() => {});
  });
  await ask(page, 'slow?');
  await panel(page).getByText('Asking the model').waitFor();
  await page.getByLabel('Question').fill('quick?');
  await page.keyboard.press('Enter');
  await panel(page).getByText('to quick?').first().waitFor();
  await page.waitForTimeout(1700);
  assert.equal(await panel(page).getByText('to slow?').count(), 0);
  await page.getByLabel('Question').fill('stop?');
  await page.keyboard.press('Enter');
  await panel(page).getByRole('button', { name: 'Stop' }).click();
  await panel(page).getByText('Stopped.').waitFor();
  // The browser tells of it a little later.
  for (let tries = 0; tries < 50 && ended.length < 2; tries += 1) await page.waitForTimeout(50);
  assert.deepEqual(ended, ['net::ERR_ABORTED', 'net::ERR_ABORTED']);
});

test(
  'a key is asked for, used for everything, and forgotten',
  { skip: mock ? false : 'needs the mock', timeout: 180_000 },
  async () => {
    const locked = await startMock({ key: 'secret' });
    const page = await browser.newPage();
    try {
      await page.goto(`${locked.url}/#task=search`);
      const field = page.getByLabel('API key');
      await field.waitFor();
      assert.equal(await field.evaluate((node) => node === document.activeElement), true);
      assert.equal(await field.getAttribute('type'), 'password');
      await field.fill('wrong');
      await page.keyboard.press('Enter');
      await page.getByText('this key is not known').waitFor();
      await field.fill('secret');
      await page.keyboard.press('Enter');
      await page.locator('.tile img').first().waitFor();
      const source = await page.locator('.tile img').first().getAttribute('src');
      assert.match(source ?? '', /^blob:/);
      assert.equal(
        await page
          .locator('.tile img')
          .first()
          .evaluate(async (node) => {
            await /** @type {HTMLImageElement} */ (node).decode();
            return /** @type {HTMLImageElement} */ (node).naturalWidth > 0;
          }),
        true,
      );
      assert.ok(!page.url().includes('secret'));
      await page.reload();
      await page.locator('.tile').first().waitFor();
      await page.getByRole('button', { name: 'API key' }).click();
      await page.getByRole('button', { name: 'Forget it' }).click();
      await page.reload();
      await field.waitFor();
    } finally {
      await page.close();
      await locked.close();
    }
  },
);

/* Hostile data */

pageTest(
  'what people wrote stays text',
  {
    skip: noIndex || asks,
    expected: /404|ERR_|Failed to load/,
    prepare: async (page) => {
      const item = {
        id: `${HOSTILE}"'/..`,
        text: HOSTILE,
        thumbnail: '/v1/items/x/thumbnail',
        metadata: { [HOSTILE]: HOSTILE },
      };
      await page.route('**/v1/items?*', (route) =>
        route.fulfill(json({ total: 1, items: [{ ...item, thumbnail: 'javascript:alert(1)' }] })),
      );
      await page.route('**/v1/search', (route) =>
        route.fulfill(
          json({
            model: HOSTILE,
            results: [{ rank: 1, score: 0.5, ...item }],
            searched: 1,
            approximate: false,
          }),
        ),
      );
      await page.route('**/v1/vqa', (route) =>
        route.fulfill(
          json({
            model: HOSTILE,
            answers: [{ answer: `${HOSTILE}<script>alert(2)</script>`, probability: 1 }],
          }),
        ),
      );
    },
  },
  async (page) => {
    await tab(page, 'Search').click();
    await page.locator('.tile-text', { hasText: HOSTILE }).first().waitFor();
    await page.getByLabel('Words', { exact: true }).fill(HOSTILE);
    await page.keyboard.press('Enter');
    await page.locator('.results .tile').click();
    await page.locator('.photo-text', { hasText: HOSTILE }).waitFor();
    await page.getByLabel('Model', { exact: true }).selectOption(able('answer')?.id ?? '');
    await tab(page, 'Ask').click();
    await page.getByLabel('Question').fill('?');
    await page.keyboard.press('Enter');
    await panel(page).locator('.verdict', { hasText: '<script>' }).waitFor();
    assert.equal(await page.locator('img[src=x], [onerror], body script, img[src^="javascript"]').count(), 0);
  },
);

pageTest(
  'an address that means nothing does no harm',
  { hash: `#task=${encodeURIComponent(HOSTILE)}&model=nobody&with=none&item=&q=%ZZ&__proto__=1` },
  async (page) => {
    await page.locator('#stage:visible').waitFor();
    assert.equal(await page.getByRole('tab', { selected: true }).count(), 1);
    await page.waitForLoadState('networkidle');
  },
);

/* Keyboard, address, width, accessibility */

pageTest('everything by keyboard', { skip: asks }, async (page) => {
  await page.locator('#stage:visible').waitFor();
  await page.locator('#file').setInputFiles(PHOTO);
  await page.getByAltText('Current photo').waitFor();
  await page.evaluate(() => /** @type {HTMLElement} */ (document.activeElement)?.blur());
  const focused = () =>
    page.evaluate(() => document.activeElement?.textContent?.trim() || document.activeElement?.id);
  await page.keyboard.press('Tab');
  assert.equal(await focused(), 'Skip to the task');
  await page.keyboard.press('Enter');
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute('role')), 'tab');
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowRight');
  assert.match((await focused()) ?? '', /^Ask/);
  assert.equal(await tab(page, 'Ask').getAttribute('aria-selected'), 'true');
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('ArrowLeft');
  assert.match((await focused()) ?? '', /^Heat map/, 'around the end');
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowRight');
  assert.equal(await page.locator('[role=tab][tabindex="0"]').count(), 1);
  if (!able('answer') || models[0] !== able('answer')) return;
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement?.tagName), 'INPUT');
  const outline = await page.evaluate(
    () => getComputedStyle(document.activeElement ?? document.body).outlineStyle,
  );
  assert.equal(outline, 'solid', 'the focus is seen');
  await page.keyboard.type('What colour is it?');
  await page.keyboard.press('Enter');
  await panel(page).locator('.bars').waitFor();
  const said = page.locator('#announcer');
  await page.waitForFunction(() => /%/.test(document.getElementById('announcer')?.textContent ?? ''));
  assert.equal(await said.getAttribute('aria-live'), 'polite');
});

pageTest('going back and forth', { skip: noIndex }, async (page) => {
  await tab(page, 'Search').click();
  for (const words of ['first words', 'second words']) {
    await page.getByLabel('Words', { exact: true }).fill(words);
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: `Closest to “${words}”` }).waitFor();
  }
  await tab(page, 'Match').click();
  await page.goBack();
  await page.getByRole('heading', { name: 'Closest to “second words”' }).waitFor();
  await page.goBack();
  await page.getByRole('heading', { name: 'Closest to “first words”' }).waitFor();
  assert.equal(await page.getByLabel('Words', { exact: true }).inputValue(), 'first words');
  await page.goForward();
  await page.getByRole('heading', { name: 'Closest to “second words”' }).waitFor();
});

for (const [name, width, dark] of /** @type {[string, number, boolean][]} */ ([
  ['wide and light', 1400, false],
  ['wide and dark', 1400, true],
  ['phone and light', 360, false],
  ['phone and dark', 360, true],
])) {
  pageTest(`${name}: nothing sideways, nothing for axe to complain`, { width, dark }, async (page) => {
    await page.locator('#stage:visible').waitFor();
    await page.waitForLoadState('networkidle');
    await assertNoSideways(page);
    await assertAccessible(page, 'start');
    if (index) {
      await page.getByRole('button', { name: 'From the index' }).click();
      await page.getByRole('dialog').locator('.tile').first().waitFor();
      await assertNoSideways(page);
      await assertAccessible(page, 'dialog');
      await page.keyboard.press('Escape');
      await tab(page, 'Search').click();
      await page.getByText('Filter and order').click();
      await page.getByLabel('Words', { exact: true }).fill('a red ball');
      await page.keyboard.press('Enter');
      await page.locator('.results .tile').first().waitFor();
      await assertNoSideways(page);
      await assertAccessible(page, 'search');
    }
    await page.locator('#file').setInputFiles({ ...PHOTO, name: `${'a-very-long-name'.repeat(6)}.png` });
    await page.getByAltText('Current photo').waitFor();
    for (const [task, ability, text] of PHOTO_TASKS) {
      const model = able(ability);
      if (model && models.length > 1) await page.getByLabel('Model', { exact: true }).selectOption(model.id);
      await tab(page, task).click();
      if (model) {
        if (task === 'Heat map') await page.getByText('Method and selection').click();
        if (task === 'Heat map' && model.abilities.includes('select')) {
          await page.getByLabel('Select attention').fill('prob_abs=0.05');
        }
        await panel(page).locator('.asking > :first-child').fill(text);
        await panel(page).locator('button[type=submit]').click();
        await panel(page).locator('.results > div > *').first().waitFor();
        await panel(page).locator('.results:not([aria-busy])').waitFor();
      }
      await assertNoSideways(page);
      await assertAccessible(page, task);
    }
    const other = models.find(({ id }) => id !== models[0].id);
    if (other) {
      await page.getByLabel('Compare with').selectOption({ index: 1 });
      await panel(page).locator('.column-body > *').nth(1).waitFor();
      await panel(page).locator('.results:not([aria-busy])').waitFor();
      await assertNoSideways(page);
      await assertAccessible(page, 'compare');
    }
  });
}

assert.ok(items.length > 0 || !index, 'an index has items');
