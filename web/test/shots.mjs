// Pictures of the page, to look at: `node test/shots.mjs FOLDER`. CHIASM_URL and CHIASM_CHROMIUM as for tests.

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { startMock } from './mock.mjs';

const folder = process.argv[2];
if (!folder) throw new Error('say into which folder');
await mkdir(folder, { recursive: true });
const mock = process.env.CHIASM_URL ? null : await startMock();
const base = process.env.CHIASM_URL ?? mock?.url ?? '';
const browser = await chromium.launch({
  executablePath: process.env.CHIASM_CHROMIUM,
  args: ['--no-sandbox'],
});
const { items } = await (await fetch(`${base}/v1/items?offset=0&limit=24`)).json();
const item = encodeURIComponent(items[6].id);

/** Name, address, and what is done before. @type {[string, string, ((page: import('playwright-core').Page) => Promise<unknown>)?][]} */
const SHOTS = [
  ['start', ''],
  ['search', `#task=search&item=${item}&q=a+dog+runs+on+a+beach`],
  ['ask', `#task=ask&item=${item}&q=What+colour+is+the+dog%3F`],
  ['locate', `#task=locate&item=${item}&q=the+dog`],
  ['relation', `#task=relation&item=${item}&q=What+a+day+at+the+beach.`],
  ['abstains', `#task=relation&item=${item}&q=unsure+what+to+say`],
  ['match', `#task=match&item=${item}&q=a+dog+on+a+beach%0Aa+child+on+a+swing%0Aa+red+car`],
  [
    'heat',
    `#task=heat&item=${item}&q=a+brown+dog+runs+through+the+grass`,
    (page) => page.locator('.chip', { hasText: 'dog' }).hover(),
  ],
  [
    'heat-select',
    `#task=heat&model=regions&item=${item}&q=a+brown+dog+runs&select=prob_abs%3D0.05`,
    (page) => page.locator('.chip', { hasText: 'dog' }).click(),
  ],
  [
    'heat-compare',
    `#task=heat&with=clip-small&item=${item}&q=a+brown+dog+runs`,
    (page) => page.locator('.chip', { hasText: 'dog' }).first().focus(),
  ],
  ['ask-compare', `#task=ask&with=clip-small&item=${item}&q=What+is+this%3F`],
  ['unable', `#task=relation&model=clip-small&item=${item}`],
  ['error', `#task=ask&item=${item}&q=broken+question`],
];
for (const [look, width, height, scheme] of /** @type {[string, number, number, 'light' | 'dark'][]} */ ([
  ['light', 1280, 860, 'light'],
  ['dark', 1280, 860, 'dark'],
  ['phone', 360, 740, 'light'],
])) {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme: scheme });
  for (const [name, hash, act] of SHOTS) {
    await page.goto('about:blank');
    await page.goto(`${base}/${hash}`);
    await page.waitForLoadState('networkidle');
    await act?.(page);
    await page.waitForTimeout(250);
    await page.screenshot({ path: join(folder, `${look}-${name}.png`), fullPage: look === 'phone' });
  }
  await page.close();
}
await browser.close();
await mock?.close();
