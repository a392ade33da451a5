// A photo with a layer above it: heat of a map, or boxes.

import { h, setVars, svg } from './dom.js';
import { centre, colour, enlarged, painted, scaled, strongest } from './heat.js';

/** @typedef {import('../contract.d.ts').Box} Box */
/** @typedef {import('../contract.d.ts').Places} Places */
/** @typedef {import('./state.js').Picture} Picture */

/** Longest side of the layer in pixels, and of the colours in it, which are smooth. */
const LAYER = 1024;
const COLOURS = 256;

/** How much of the photo the weakest places cover, of what the strongest do: it stays recognisable there. */
const WEAKEST = 0.45;

/** Colour and cover of 256 values from 0 to 1. */
const INKS = Array.from({ length: 256 }, (_, step) =>
  Uint8ClampedArray.from([...colour(step / 255), 255 * (WEAKEST + ((1 - WEAKEST) * step) / 255)]),
);

/** Regions whose outline and share are drawn. */
const OUTLINED = 3;

export class Photo {
  /**
   * @param {Picture} picture
   * @param {string} alt
   */
  constructor(picture, alt) {
    this.image = h('img', { src: picture.url || null, alt, class: 'photo-image' });
    this.canvas = h('canvas', { class: 'photo-layer', 'aria-hidden': 'true' });
    this.marks = svg('svg', {
      class: 'photo-layer',
      viewBox: '0 0 1 1',
      preserveAspectRatio: 'none',
      'aria-hidden': 'true',
    });
    this.names = h('div', { class: 'photo-layer', 'aria-hidden': 'true' });
    this.node = h('div', { class: 'photo' }, this.image, this.canvas, this.marks, this.names);
    /** @type {(() => void) | null} */
    this.redraw = null;
    this.image.addEventListener('load', () => this.sized());
    if (this.image.complete) this.sized();
    // Marks keep their size on the screen, so they are drawn again when the photo's size changes.
    new ResizeObserver(() => this.redraw?.()).observe(this.node);
  }

  sized() {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    if (!width || !height) return;
    setVars(this.node, { '--ratio': (width / height).toFixed(4) });
    const scale = LAYER / Math.max(width, height);
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    this.redraw?.();
  }

  /**
   * Draws a map over the photo; `null` shows the photo as it is.
   *
   * @param {Places} places
   * @param {number[] | null} map
   * @param {number} opacity from 0 to 1
   */
  heat(places, map, opacity) {
    this.redraw = () => {
      const context = this.canvas.getContext('2d');
      if (!context) return;
      context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      const pixel = this.canvas.width / (this.node.clientWidth || this.canvas.width);
      if (map) draw(context, places, map, opacity, pixel);
    };
    if (this.canvas.width && this.image.naturalWidth) this.redraw();
  }

  /**
   * Draws numbered boxes.
   *
   * @param {Box[]} boxes
   */
  boxes(boxes) {
    this.marks.replaceChildren();
    this.names.replaceChildren();
    boxes.forEach(([x, y, width, height], number) => {
      const kind = number === 0 ? 'box first' : 'box';
      // A dark line under a light one is seen on every ground.
      for (const part of ['box-under', 'box-line']) {
        this.marks.append(svg('rect', { x, y, width, height, class: `${kind} ${part}`, 'data-box': number }));
      }
      const name = h('span', { class: `box-name ${kind}`, 'data-box': String(number) }, number + 1);
      setVars(name, { '--x': x, '--y': y });
      this.names.append(name);
    });
  }

  /**
   * Puts one box forward; `null` treats all alike.
   *
   * @param {number | null} number
   */
  point(number) {
    for (const node of this.node.querySelectorAll('[data-box]')) {
      const own = Number(node.getAttribute('data-box')) === number;
      node.classList.toggle('pointed', own);
      node.classList.toggle('faded', number !== null && !own);
    }
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Places} places
 * @param {number[]} map
 * @param {number} opacity
 * @param {number} pixel how much of the layer is one pixel on the screen
 */
function draw(context, places, map, opacity, pixel) {
  const { width, height } = context.canvas;
  const [x, y, w, h] = (places.kind === 'grid' && places.window) || [0, 0, 1, 1];
  const [left, top, across, down] = [x * width, y * height, w * width, h * height];
  if (across < width || down < height) {
    // What the model does not see is darkened.
    context.fillStyle = 'rgb(0 0 0 / 0.67)';
    context.fillRect(0, 0, width, height);
    context.clearRect(left, top, across, down);
  }
  const scale = Math.min(1, COLOURS / Math.max(across, down));
  const size = [across, down].map((side) => Math.max(1, Math.round(side * scale)));
  const values =
    places.kind === 'grid'
      ? enlarged(scaled(map), places.rows, places.columns, size[0], size[1])
      : scaled(painted(places.boxes, map, size[0], size[1]));
  context.globalAlpha = opacity;
  context.drawImage(coloured(values, size[0], size[1]), left, top, across, down);
  context.globalAlpha = 1;
  if (places.kind === 'grid') {
    const [first] = strongest(scaled(map), 1);
    if (first !== undefined) {
      const [cx, cy] = centre(places, first);
      cross(context, cx * width, cy * height, pixel);
    }
  } else {
    outlines(context, places.boxes, map, pixel);
  }
}

/**
 * @param {Float32Array} values
 * @param {number} width
 * @param {number} height
 */
function coloured(values, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  values.forEach((value, at) => pixels.data.set(INKS[Math.round(255 * value)], 4 * at));
  canvas.getContext('2d')?.putImageData(pixels, 0, 0);
  return canvas;
}

/**
 * A cross: white with a dark border.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} pixel
 */
function cross(context, x, y, pixel) {
  for (const [style, line, arm] of /** @type {const} */ ([
    ['#000', 5, 10],
    ['#fff', 2, 8.5],
  ])) {
    context.strokeStyle = style;
    context.lineWidth = line * pixel;
    const long = arm * pixel;
    context.beginPath();
    context.moveTo(x - long, y);
    context.lineTo(x + long, y);
    context.moveTo(x, y - long);
    context.lineTo(x, y + long);
    context.stroke();
  }
}

/**
 * The strongest regions, with their share of the map.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Box[]} boxes
 * @param {number[]} map
 * @param {number} pixel
 */
function outlines(context, boxes, map, pixel) {
  const { width, height } = context.canvas;
  const total = map.reduce((sum, value) => sum + (Number.isFinite(value) ? Math.max(0, value) : 0), 0);
  for (const number of strongest(map, OUTLINED).reverse()) {
    const box = boxes[number];
    if (!box || total <= 0) continue;
    const [x, y, w, h] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height];
    for (const [style, line] of /** @type {const} */ ([
      ['#000', 4],
      ['#fff', 2],
    ])) {
      context.strokeStyle = style;
      context.lineWidth = line * pixel;
      context.strokeRect(x, y, w, h);
    }
    const label = `${((100 * map[number]) / total).toFixed(0)} %`;
    context.font = `600 ${13 * pixel}px system-ui, sans-serif`;
    const wide = context.measureText(label).width + 8 * pixel;
    const at = Math.max(0, Math.min(x, width - wide));
    context.fillStyle = '#fff';
    context.fillRect(at, y, wide, 18 * pixel);
    context.fillStyle = '#000';
    context.textBaseline = 'middle';
    context.fillText(label, at + 4 * pixel, y + 9.5 * pixel);
  }
}
