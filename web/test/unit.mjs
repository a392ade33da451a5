// Pure functions of the page: `node --test test/unit.mjs`.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decimal, listed, percent, place } from '../assets/format.js';
import { centre, colour, cut, enlarged, painted, scaled, strongest } from '../assets/heat.js';

/** @param {string} text @param {number} start @param {number} end */
const word = (text, start, end) => ({ text, start, end, weight: null, map: null });

test('colours rise in lightness', () => {
  const light = (/** @type {number} */ value) => {
    const [r, g, b] = colour(value);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  for (let step = 1; step <= 100; step += 1) assert.ok(light(step / 100) >= light((step - 1) / 100) - 1);
  assert.deepEqual(colour(0), [68, 1, 84]);
  assert.deepEqual(colour(9), [253, 231, 37]);
  assert.deepEqual(colour(NaN), colour(-1));
});

test('maps are brought to 0 to 1', () => {
  assert.deepEqual([...scaled([0, 0, 0])], [0, 0, 0]);
  assert.deepEqual([...scaled([])], []);
  const found = scaled([-1, NaN, 2, 4]);
  assert.deepEqual([...found.slice(0, 2)], [0, 0]);
  assert.ok(Math.abs(found[2] - 0.5) < 1e-6 && Math.abs(found[3] - 1) < 1e-6);
});

test('grids are enlarged between the centres of their cells', () => {
  const large = enlarged([0, 1, 1, 0], 2, 2, 4, 4);
  assert.deepEqual([...large.slice(0, 4)], [0, 0.25, 0.75, 1]);
  assert.deepEqual(
    [...enlarged([0.5], 1, 1, 3, 2)],
    Array.from({ length: 6 }, () => 0.5),
  );
  assert.deepEqual([...enlarged([0, 1], 1, 2, 2, 1)], [0, 1]);
});

test('boxes add up where they overlap', () => {
  const out = painted(
    [
      [0, 0, 0.5, 1],
      [0.25, 0, 0.75, 1],
    ],
    [1, 2],
    4,
    1,
  );
  assert.deepEqual([...out], [1, 3, 2, 2]);
  assert.deepEqual([...painted([[-1, -1, 9, 9]], [NaN], 2, 1)], [0, 0]);
});

test('the strongest come first, of equals the first', () => {
  assert.deepEqual(strongest([1, 3, 3, 0, NaN, -2], 9), [1, 2, 0]);
  assert.deepEqual(centre({ kind: 'grid', rows: 2, columns: 2 }, 3), [0.75, 0.75]);
  assert.deepEqual(centre({ kind: 'grid', rows: 1, columns: 1, window: [0.5, 0, 0.5, 1] }, 0), [0.75, 0.5]);
  assert.deepEqual(centre({ kind: 'boxes', boxes: [[0, 0.5, 0.5, 0.5]] }, 0), [0.25, 0.75]);
});

test('texts are cut at words counted in characters, bytes or UTF-16 units', () => {
  const text = '🐕 hué dog';
  const expected = ['🐕 ', 'hué', ' ', 'dog'];
  for (const [a, b, c, d] of [
    [2, 5, 6, 9],
    [5, 9, 10, 13],
    [3, 6, 7, 10],
  ]) {
    const parts = cut(text, [word('hué', a, b), word('dog', c, d)]);
    assert.deepEqual(
      parts.map(({ text }) => text),
      expected,
    );
    assert.deepEqual(
      parts.map(({ word }) => word),
      [null, 0, null, 1],
    );
  }
});

test('words that are not in the text follow each other', () => {
  assert.deepEqual(
    cut('a b', [word('x', 0, 9), word('y', 3, 2)]).map(({ text }) => text),
    ['x', ' ', 'y', ' '],
  );
  assert.deepEqual(cut('', []), []);
});

test('numbers and places as words', () => {
  assert.equal(percent(0.421), '42 %');
  assert.equal(percent(0.0042), '0.4 %');
  assert.equal(percent(0.00001), '< 0.1 %');
  assert.equal(percent(0), '0 %');
  assert.equal(percent(null), 'not finite');
  assert.equal(decimal(-0.5), '−0.50');
  assert.equal(place(0.5, 0.5), 'the centre');
  assert.equal(place(0.1, 0.9), 'the lower left');
  assert.equal(place(0.9, 0.5), 'the middle right');
  assert.equal(listed(['a', 'b', 'c']), 'a, b and c');
});
