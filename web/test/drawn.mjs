// Small drawn pictures as PNG, so that tests need no photos.

import { crc32, deflateSync } from 'node:zlib';

const [WIDTH, HEIGHT] = [256, 192];

const THINGS = [
  [214, 60, 48],
  [52, 108, 190],
  [46, 140, 84],
  [240, 196, 40],
  [244, 244, 240],
];

/**
 * A disc in a sky above a field; the number says its colour and where it is.
 *
 * @param {number} number
 */
export function drawn(number) {
  const [cx, cy] = [50 + ((number * 67) % 156), 50 + ((number * 41) % 70)];
  return png(WIDTH, HEIGHT, (x, y) => {
    if ((x - cx) ** 2 + (y - cy) ** 2 < 32 ** 2) return THINGS[number % THINGS.length];
    if (y > 140) return [112 - (y >> 3), 150 - (x >> 4), 84];
    return [150 + (y >> 1), 190 + (y >> 2), 226];
  });
}

/**
 * @param {number} width
 * @param {number} height
 * @param {(x: number, y: number) => number[]} colour
 */
export function png(width, height, colour) {
  const raw = Buffer.alloc((3 * width + 1) * height);
  let at = 0;
  for (let y = 0; y < height; y += 1) {
    at += 1;
    for (let x = 0; x < width; x += 1) for (const value of colour(x, y)) raw[at++] = value;
  }
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head.set([8, 2], 8);
  return Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk('IHDR', head),
    chunk('IDAT', deflateSync(raw)),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

/** @param {string} name @param {Buffer} data */
function chunk(name, data) {
  const body = Buffer.concat([Buffer.from(name, 'latin1'), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc32(body), body.length + 4);
  return out;
}
