// Numbers and names as words.

const whole = new Intl.NumberFormat('en');

/** @param {number} value */
export const grouped = (value) => whole.format(value);

/**
 * A probability from 0 to 1, as in the reports: "42 %", below one per cent with a digit.
 *
 * @param {number | null | undefined} value
 */
export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return 'not finite';
  const hundred = 100 * value;
  if (hundred > 0 && hundred < 0.1) return '< 0.1 %';
  return `${hundred.toFixed(hundred < 1 && hundred > 0 ? 1 : 0)} %`;
}

/**
 * @param {number | null | undefined} value
 * @param {number} [digits]
 */
export function decimal(value, digits = 2) {
  return value === null || value === undefined || !Number.isFinite(value)
    ? 'not finite'
    : value.toFixed(digits).replace('-', '−');
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 */
export function counted(count, one, many = `${one}s`) {
  return `${grouped(count)} ${count === 1 ? one : many}`;
}

/**
 * Where a point of a picture lies, in words.
 *
 * @param {number} x share from the left
 * @param {number} y share from the top
 */
export function place(x, y) {
  const across = x < 1 / 3 ? 'left' : x > 2 / 3 ? 'right' : '';
  const down = y < 1 / 3 ? 'upper' : y > 2 / 3 ? 'lower' : '';
  if (!across && !down) return 'the centre';
  if (!across) return `the ${down} middle`;
  if (!down) return `the middle ${across}`;
  return `the ${down} ${across}`;
}

/**
 * A list of strings as a sentence part: "a, b and c".
 *
 * @param {string[]} parts
 */
export function listed(parts) {
  return parts.length < 2 ? parts.join('') : `${parts.slice(0, -1).join(', ')} and ${parts.at(-1)}`;
}
