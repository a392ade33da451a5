// A stand-in for `chiasm serve`: the page under its content security policy, and made-up answers in the
// server's form. By hand: `node test/mock.mjs [PORT]`.
//
// Words in a text make it behave: "slow" answers after 3 s, "busy" is refused with 429 every first time,
// "broken" answers 500, "refuse" 400, "unsure" lets the relation abstain, "nothing" finds nothing.
//
// CHIASM_MOCK_PICTURES: a folder of JPEG files to show in place of drawn pictures.
// CHIASM_MOCK_TEXTS: their texts, a JSON object from file name to text.

import { createServer } from 'node:http';
import { readFile, readdir } from 'node:fs/promises';
import { join, normalize, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { drawn } from './drawn.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

export const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** @type {Record<string, string>} */
const TYPES = {
  html: 'text/html; charset=utf-8',
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  svg: 'image/svg+xml',
};

export const HOSTILE = '<img src=x onerror=alert(1)>';

const MODELS = [
  {
    id: 'flickr',
    dimensions: 256,
    abilities: ['embed_text', 'embed_image', 'match', 'answer', 'relation', 'ground', 'explain', 'select'],
    methods: ['attention', 'rollout', 'grad-cam', 'relevance', 'occlusion'],
    classes: 3129,
  },
  {
    id: 'regions',
    dimensions: 256,
    abilities: ['match', 'answer', 'ground', 'explain', 'select'],
    methods: ['attention', 'relevance'],
    classes: 430,
  },
  {
    id: 'clip-small',
    dimensions: 512,
    abilities: ['embed_text', 'embed_image', 'match', 'explain'],
    methods: ['grad-cam', 'occlusion'],
    classes: null,
  },
].map((model) => ({ ...model, object: 'model', owned_by: 'chiasm' }));

class Refused extends Error {
  /**
   * @param {number} status
   * @param {string} type
   * @param {string} message
   * @param {string | null} [param]
   * @param {number} [after]
   */
  constructor(status, type, message, param = null, after) {
    super(message);
    this.status = status;
    this.type = type;
    this.param = param;
    this.after = after;
  }
}

/**
 * @param {{port?: number, key?: string, noIndex?: boolean, models?: number}} [options]
 * @returns {Promise<{url: string, close: () => Promise<void>}>}
 */
export async function startMock({ port = 0, key, noIndex = false, models = 3 } = {}) {
  const shown = MODELS.slice(0, models);
  const items = noIndex ? [] : await makeItems();
  const busy = new Set();

  const server = createServer(async (request, response) => {
    const url = new URL(request.url ?? '/', 'http://mock');
    response.setHeader('Content-Security-Policy', CSP);
    response.setHeader('X-Content-Type-Options', 'nosniff');
    response.setHeader('Cache-Control', 'no-store');
    /** @param {number} status @param {string} type @param {string | Buffer} body */
    const send = (status, type, body) => response.writeHead(status, { 'Content-Type': type }).end(body);
    try {
      if (url.pathname === '/' || url.pathname.startsWith('/assets/')) {
        const name = url.pathname === '/' ? 'index.html' : normalize(url.pathname.slice(1));
        if (!/^(index\.html|assets[\\/])/.test(name) || name.includes(`..${sep}`))
          throw notFound(url.pathname);
        const body = await readFile(join(ROOT, name)).catch(() => {
          throw notFound(url.pathname);
        });
        send(200, TYPES[name.split('.').at(-1) ?? ''] ?? 'application/octet-stream', body);
        return;
      }
      if (url.pathname === '/health') {
        send(200, 'application/json', '{"status":"ok","version":"0.1.0"}');
        return;
      }
      if (key && request.headers.authorization !== `Bearer ${key}`) {
        throw new Refused(
          401,
          'authentication_error',
          'this key is not known; send a key of the server as `Authorization: Bearer KEY`',
        );
      }
      const thumbnail = /^\/v1\/items\/([^/]+)\/thumbnail$/.exec(url.pathname);
      if (thumbnail) {
        const item = items.find(({ id }) => id === decodeURIComponent(thumbnail[1]));
        if (!item) throw notFound(url.pathname);
        const picture = await item.picture();
        send(200, picture[0] === 0xff ? 'image/jpeg' : 'image/png', picture);
        return;
      }
      const body = request.method === 'POST' ? JSON.parse((await text(request)) || '{}') : {};
      await behave(body, busy);
      send(200, 'application/json', JSON.stringify(answer(url, body, { models: shown, items, noIndex })));
    } catch (error) {
      const refused =
        error instanceof Refused
          ? error
          : new Refused(500, 'server_error', 'the mock failed: ' + String(error));
      const { status, type, message, param, after } = refused;
      if (after) response.setHeader('Retry-After', String(after));
      send(status, 'application/json', JSON.stringify({ error: { message, type, param, code: null } }));
    }
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', () => resolve(null)));
  const address = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${address.port}`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

/** @param {string} what */
const notFound = (what) => new Refused(404, 'not_found', `there is no ${what}`);

/** @param {import('node:http').IncomingMessage} request */
async function text(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString('utf8');
}

/**
 * @param {any} body
 * @param {Set<string>} busy
 */
async function behave(body, busy) {
  const said = [body.text, body.question, body.phrase, ...(body.texts ?? [])].filter(Boolean).join(' ');
  if (said.includes('slow')) await new Promise((resolve) => setTimeout(resolve, 3000));
  if (said.includes('busy') && !busy.delete(said)) {
    busy.add(said);
    throw new Refused(429, 'overloaded', 'too many requests wait; try again in 2 s', null, 2);
  }
  if (said.includes('broken')) throw new Refused(500, 'server_error', 'the model failed; the log has more');
  if (said.includes('refuse')) {
    throw new Refused(
      400,
      'invalid_request_error',
      'the picture cannot be decoded: not a JPEG; send another',
      'image',
    );
  }
}

async function makeItems() {
  const folder = process.env.CHIASM_MOCK_PICTURES;
  const texts = process.env.CHIASM_MOCK_TEXTS;
  /** @type {Record<string, string>} */
  const known = texts ? JSON.parse(await readFile(texts, 'utf8')) : {};
  const files = folder ? (await readdir(folder)).filter((name) => name.endsWith('.jpg')).sort() : [];
  const count = folder ? Math.min(1000, files.length) : 57;
  const things = ['red ball', 'blue kite', 'green boat', 'yellow sun', 'white cloud'];
  return Array.from({ length: count }, (_, number) => {
    const name = files[number] ?? `drawing-${String(number).padStart(3, '0')}.png`;
    return {
      id: number === 3 ? `${HOSTILE}.jpg` : name,
      text:
        number === 3
          ? `<b onmouseover="alert(1)">bold</b> & "quoted" ${HOSTILE}`
          : (known[name] ?? `a ${things[number % things.length]} above a field`),
      metadata: { split: number % 5 ? 'train' : 'test', label: things[number % things.length].split(' ')[1] },
      picture: async () => (folder ? readFile(join(folder, name)) : drawn(number)),
    };
  });
}

/** @typedef {Awaited<ReturnType<typeof makeItems>>} Made */

/**
 * @param {URL} url
 * @param {any} body
 * @param {{models: typeof MODELS, items: Made, noIndex: boolean}} server
 */
function answer(url, body, { models, items, noIndex }) {
  const model = models.find(({ id }) => id === (body.model ?? models[0].id));
  if (!model) throw new Refused(404, 'not_found', `there is no model \`${body.model}\``, 'model');
  /** @param {string} ability */
  const needs = (ability) => {
    if (model.abilities.includes(ability)) return;
    throw new Refused(
      400,
      'invalid_request_error',
      `the model \`${model.id}\` lacks the ability \`${ability}\``,
      'model',
    );
  };
  if (body.image !== undefined && !/^(data:image\/|item:)/.test(body.image)) {
    throw new Refused(400, 'invalid_request_error', 'the picture is neither a data URL nor an item', 'image');
  }
  switch (url.pathname) {
    case '/v1/models':
      return { object: 'list', data: models };
    case '/v1/index':
      if (noIndex)
        throw new Refused(404, 'not_found', 'this server has no index; start it with `--index INDEX`');
      return { items: items.length, dimensions: 256, model: 'flickr', fields: ['split', 'label'] };
    case '/v1/items': {
      const [offset, limit] = ['offset', 'limit'].map((name) => Number(url.searchParams.get(name)));
      return { total: items.length, items: items.slice(offset, offset + (limit || 24)).map(shownItem) };
    }
    case '/v1/search': {
      const filter = /^(\w+)=(\w+)$/.exec(body.filter ?? '');
      if (body.filter && !filter) {
        throw new Refused(
          400,
          'invalid_request_error',
          `the filter \`${body.filter}\` is not NAME=VALUE`,
          'filter',
        );
      }
      const left = items.filter(
        ({ metadata }) =>
          !filter || /** @type {Record<string, string>} */ (metadata)[filter[1]] === filter[2],
      );
      const words = String(body.text ?? '')
        .toLowerCase()
        .split(/\W+/);
      const score = (/** @type {Made[number]} */ item) =>
        words.filter((word) => word && item.text.toLowerCase().split(/\W+/).includes(word)).length * 0.07 +
        0.1 +
        hash(item.id + body.text + body.image) * 0.05;
      const found = left
        .map((item) => ({ item, score: score(item) }))
        .sort((a, b) => b.score - a.score)
        .slice(0, body.text?.includes('nothing') ? 0 : (body.top ?? 10));
      return {
        model: 'flickr',
        results: found.map((hit, number) => ({ rank: number + 1, score: hit.score, ...shownItem(hit.item) })),
        searched: left.length,
        approximate: false,
      };
    }
    case '/v1/vqa': {
      needs('answer');
      const answers = ['brown', 'black and white', 'yellow', HOSTILE, 'two'];
      return {
        model: model.id,
        answers: answers
          .slice(0, body.top ?? 5)
          .map((answer, number) => ({ answer, probability: 0.62 / 3 ** number })),
      };
    }
    case '/v1/relation': {
      needs('relation');
      const unsure = body.text.includes('unsure');
      const probabilities = unsure ? [0.22, 0.21, 0.3, 0.27] : [0.05, 0.12, 0.21, 0.62];
      return {
        model: model.id,
        relation: unsure ? null : 'both',
        confidence: Math.max(...probabilities),
        probabilities: ['neither', 'adds', 'represented', 'both'].map((name, number) => ({
          class: name,
          probability: probabilities[number],
        })),
        text_represented: unsure ? 0.57 : 0.83,
        image_adds: unsure ? 0.48 : 0.74,
        alignment: 0.31,
      };
    }
    case '/v1/match':
      needs('match');
      return {
        model: model.id,
        scores: body.texts.map((/** @type {string} */ text) => ({
          text,
          cosine: 0.1 + 0.3 * hash(text + model.id),
          probability: model.id === 'clip-small' ? null : hash(model.id + text),
        })),
      };
    case '/v1/ground': {
      needs('ground');
      const boxes = [
        { box: [0.3, 0.35, 0.36, 0.5], score: 0.82 },
        { box: [0.05, 0.1, 0.3, 0.4], score: 0.41 },
        { box: [0.62, 0.5, 0.34, 0.42], score: 0.13 },
      ];
      return {
        model: model.id,
        by: model.id === 'regions' ? 'head' : 'map',
        boxes: boxes.slice(0, body.top ?? 3),
      };
    }
    case '/v1/explain':
      needs('explain');
      if (body.select) needs('select');
      if (body.method && !model.methods.includes(body.method)) {
        throw new Refused(
          400,
          'invalid_request_error',
          `the model \`${model.id}\` has no method \`${body.method}\`; it has ${model.methods.join(', ')}`,
          'method',
        );
      }
      return explained(model, body);
    default:
      throw notFound(url.pathname);
  }
}

/** @param {Made[number]} item */
function shownItem({ id, text, metadata }) {
  return { id, text, thumbnail: `/v1/items/${encodeURIComponent(id)}/thumbnail`, metadata };
}

/** Five regions. */
const BOXES = [
  [0.05, 0.1, 0.35, 0.6],
  [0.4, 0.3, 0.3, 0.5],
  [0.7, 0.15, 0.25, 0.35],
  [0.2, 0.65, 0.6, 0.3],
  [0.0, 0.0, 1.0, 0.25],
];

/**
 * @param {typeof MODELS[number]} model
 * @param {any} body
 */
function explained(model, body) {
  const method = body.method ?? model.methods[0];
  const byBoxes = model.id === 'regions';
  const [rows, columns] = [7, 7];
  /** @param {string} word */
  const map = (word) => {
    const [x, y] = [hash(`${word}x${method}`), hash(`${word}y${method}`)];
    if (byBoxes) return BOXES.map((_, number) => hash(word + number + method) ** 3);
    return Array.from({ length: rows * columns }, (_, at) => {
      const [dx, dy] = [((at % columns) + 0.5) / columns - x, (Math.floor(at / columns) + 0.5) / rows - y];
      return Math.exp(-(dx * dx + dy * dy) / 0.05) + 0.15 * hash(word + at);
    });
  };
  /** @param {(map: number[]) => number[]} change */
  const words = (change) => {
    const found = [...body.text.matchAll(/[\p{L}\p{N}]+/gu)];
    return found.map(([word], number) => {
      // Counted in bytes, not in UTF-16 units.
      const start = Buffer.byteLength(body.text.slice(0, found[number].index));
      const small = ['a', 'the', 'of'].includes(word.toLowerCase());
      return {
        text: word,
        start,
        end: start + Buffer.byteLength(word),
        weight: small ? 0.04 : 0.2 + 0.7 * hash(word),
        map: small && !byBoxes ? null : change(map(word.toLowerCase())),
      };
    });
  };
  const same = (/** @type {number[]} */ values) => values;
  const cutOff = (/** @type {number[]} */ values) => values.map((value) => (value > 0.4 ? value : 0));
  return {
    model: model.id,
    method,
    target: body.target ?? 'match',
    score: 0.83,
    places: byBoxes
      ? { kind: 'boxes', boxes: BOXES }
      : {
          kind: 'grid',
          rows,
          columns,
          window: model.id === 'clip-small' ? [0.125, 0, 0.75, 1] : [0, 0, 1, 1],
        },
    whole: map(body.text),
    words: words(same),
    selected: body.select
      ? {
          rule: body.select,
          whole: cutOff(map(body.text)),
          words: words(cutOff),
          kept: [0.12, 0.31, 0.44, 0.28],
        }
      : null,
  };
}

/** A number from 0 to 1 that a text always has. @param {string} text */
function hash(text) {
  let value = 2166136261;
  for (const character of text) value = Math.imul(value ^ (character.codePointAt(0) ?? 0), 16777619) >>> 0;
  value = Math.imul(value ^ (value >>> 15), 2246822507) >>> 0;
  return ((value ^ (value >>> 13)) >>> 0) / 4294967296;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await startMock({
    port: Number(process.argv[2] ?? 8018),
    key: process.env.CHIASM_MOCK_KEY,
  });
  console.log(url);
}
