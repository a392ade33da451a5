// Maps as colours: pure functions, the same as those that draw the pictures of `chiasm explain`.

/** @typedef {import('../contract.d.ts').Box} Box */
/** @typedef {import('../contract.d.ts').Places} Places */
/** @typedef {import('../contract.d.ts').Word} Word */

/**
 * The colour map viridis at 33 equal steps, between which it is interpolated. By Stéfan van der Walt and
 * Nathaniel Smith for matplotlib, released under CC0.
 */
const VIRIDIS = [
  [68, 1, 84],
  [71, 13, 96],
  [72, 24, 106],
  [72, 35, 116],
  [71, 45, 123],
  [69, 54, 129],
  [66, 64, 134],
  [63, 73, 137],
  [59, 82, 139],
  [55, 90, 141],
  [51, 99, 141],
  [47, 106, 142],
  [44, 114, 142],
  [41, 122, 142],
  [38, 129, 142],
  [35, 137, 142],
  [33, 144, 140],
  [31, 152, 139],
  [31, 159, 136],
  [33, 166, 133],
  [40, 174, 128],
  [49, 181, 123],
  [62, 188, 116],
  [76, 194, 108],
  [93, 201, 99],
  [110, 206, 88],
  [130, 211, 76],
  [150, 216, 63],
  [171, 220, 50],
  [192, 223, 36],
  [213, 226, 26],
  [234, 229, 26],
  [253, 231, 37],
];

/**
 * The colour of a value from 0 to 1; what is not a number has that of 0.
 *
 * @param {number} value
 * @returns {[number, number, number]}
 */
export function colour(value) {
  const at = (Number.isNaN(value) ? 0 : Math.min(1, Math.max(0, value))) * (VIRIDIS.length - 1);
  const low = VIRIDIS[Math.floor(at)];
  const high = VIRIDIS[Math.ceil(at)];
  const part = at - Math.floor(at);
  const mixed = (/** @type {number} */ channel) =>
    Math.round(low[channel] + (high[channel] - low[channel]) * part);
  return [mixed(0), mixed(1), mixed(2)];
}

/**
 * A map brought to 0 to 1: what is negative or not a number becomes 0, then the least becomes 0 and the
 * largest 1. A map that is the same everywhere becomes zeros.
 *
 * @param {ArrayLike<number>} map
 * @returns {Float32Array}
 */
export function scaled(map) {
  const out = Float32Array.from(map, (value) => (Number.isFinite(value) ? Math.max(0, value) : 0));
  let least = Infinity;
  let largest = 0;
  for (const value of out) {
    least = Math.min(least, value);
    largest = Math.max(largest, value);
  }
  const range = largest - least;
  return out.map((value) => (value - least) / (1e-7 + range));
}

/**
 * A grid in another size, bilinear between the centres of its cells.
 *
 * @param {ArrayLike<number>} map row by row
 * @param {number} rows
 * @param {number} columns
 * @param {number} width
 * @param {number} height
 */
export function enlarged(map, rows, columns, width, height) {
  const out = new Float32Array(width * height);
  const across = Array.from({ length: width }, (_, x) => between(x, width, columns));
  for (let y = 0; y < height; y += 1) {
    const [top, bottom, down] = between(y, height, rows);
    for (let x = 0; x < width; x += 1) {
      const [left, right, part] = across[x];
      const line = (/** @type {number} */ row) => {
        const start = map[row * columns + left] ?? 0;
        return start + ((map[row * columns + right] ?? 0) - start) * part;
      };
      out[y * width + x] = line(top) + (line(bottom) - line(top)) * down;
    }
  }
  return out;
}

/**
 * The cells around a pixel's centre, and how far it is from the first to the second.
 *
 * @param {number} at
 * @param {number} pixels
 * @param {number} cells
 * @returns {[number, number, number]}
 */
function between(at, pixels, cells) {
  const centre = Math.min(Math.max(((at + 0.5) * cells) / pixels - 0.5, 0), Math.max(0, cells - 1));
  const low = Math.floor(centre);
  return [low, Math.min(low + 1, Math.max(0, cells - 1)), centre - low];
}

/**
 * Boxes painted into a grid of pixels: where boxes overlap their values add up.
 *
 * @param {Box[]} boxes
 * @param {ArrayLike<number>} map a value a box
 * @param {number} width
 * @param {number} height
 */
export function painted(boxes, map, width, height) {
  const out = new Float32Array(width * height);
  boxes.forEach(([x, y, w, h], number) => {
    const value = Number.isFinite(map[number]) ? Math.max(0, map[number]) : 0;
    const [left, right] = [x * width, (x + w) * width].map((edge) => clamp(Math.round(edge), width));
    const [top, bottom] = [y * height, (y + h) * height].map((edge) => clamp(Math.round(edge), height));
    for (let row = top; row < bottom; row += 1) {
      for (let column = left; column < right; column += 1) out[row * width + column] += value;
    }
  });
  return out;
}

/** @param {number} value @param {number} most */
const clamp = (value, most) => Math.min(Math.max(value, 0), most);

/**
 * Numbers of the places with the largest values, largest first; of equal ones the first.
 *
 * @param {ArrayLike<number>} map
 * @param {number} count
 */
export function strongest(map, count) {
  return Array.from(map, (value, number) => ({ value: Number.isFinite(value) ? value : 0, number }))
    .filter(({ value }) => value > 0)
    .sort((a, b) => b.value - a.value || a.number - b.number)
    .slice(0, count)
    .map(({ number }) => number);
}

/**
 * The middle of a place, as shares of the picture.
 *
 * @param {Places} places
 * @param {number} number
 * @returns {[number, number]}
 */
export function centre(places, number) {
  if (places.kind === 'boxes') {
    const [x, y, w, h] = places.boxes[number] ?? [0, 0, 1, 1];
    return [x + w / 2, y + h / 2];
  }
  const [x, y, w, h] = places.window ?? [0, 0, 1, 1];
  const [row, column] = [Math.floor(number / places.columns), number % places.columns];
  return [x + (w * (column + 0.5)) / places.columns, y + (h * (row + 0.5)) / places.rows];
}

/**
 * A text cut at its words: parts between words have no number.
 *
 * Where words start and end is counted in bytes; should the words not be found there, characters and UTF-16
 * units are tried. Words that are not in the text follow each other.
 *
 * @param {string} text
 * @param {Word[]} words
 * @returns {{text: string, word: number | null}[]}
 */
export function cut(text, words) {
  const units = offsets(text).find((offset) =>
    words.every(({ text: word, start, end }) => {
      const [from, to] = [offset.get(start), offset.get(end)];
      if (from === undefined || to === undefined || from >= to) return false;
      return text.slice(from, to).toLowerCase() === word.toLowerCase();
    }),
  );
  /** @type {{text: string, word: number | null}[]} */
  const parts = [];
  if (!units) {
    words.forEach((word, number) => parts.push({ text: word.text, word: number }, { text: ' ', word: null }));
    return parts;
  }
  let at = 0;
  const order = words.map((word, number) => ({ ...word, number })).sort((a, b) => a.start - b.start);
  for (const { start, end, number } of order) {
    const [from, to] = [units.get(start) ?? 0, units.get(end) ?? 0];
    if (from < at) continue;
    if (from > at) parts.push({ text: text.slice(at, from), word: null });
    parts.push({ text: text.slice(from, to), word: number });
    at = to;
  }
  if (at < text.length) parts.push({ text: text.slice(at), word: null });
  return parts;
}

/**
 * From a count in bytes, characters or UTF-16 units to one in UTF-16 units.
 *
 * @param {string} text
 * @returns {Map<number, number>[]}
 */
function offsets(text) {
  const encoder = new TextEncoder();
  /** @type {[Map<number, number>, Map<number, number>, Map<number, number>]} */
  const maps = [new Map(), new Map(), new Map()];
  let [characters, bytes, units] = [0, 0, 0];
  const mark = () => [bytes, characters, units].forEach((at, kind) => maps[kind].set(at, units));
  for (const character of text) {
    mark();
    characters += 1;
    bytes += encoder.encode(character).length;
    units += character.length;
  }
  mark();
  return maps;
}
