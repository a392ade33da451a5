// The current photo: dropped, chosen, pasted, or taken from the index.

import { ApiError, pictureUrl } from './api.js';
import { createBrowser } from './browser.js';
import { announce, fill, h } from './dom.js';
import { problem } from './parts.js';
import { on, setPicture, state } from './state.js';

/** @typedef {import('../contract.d.ts').Item} Item */

/** Types that the server decodes as they are; a browser may show more, which are sent as JPEG. */
const SENT_AS_IS = ['image/jpeg', 'image/png', 'image/webp', 'image/gif'];

/** What is larger is made smaller before it is sent: bytes, and pixels of the longest side. */
const MOST_BYTES = 4_000_000;
const LONGEST = 2048;

/** Counts choices, so that one that loads slowly does not replace a newer one. */
let newest = 0;

/**
 * Makes an item of the index the current photo.
 *
 * @param {Item} item
 */
export async function pickItem(item) {
  newest += 1;
  const mine = newest;
  const path = `${item.thumbnail ?? `/v1/items/${encodeURIComponent(item.id)}/thumbnail`}?side=1024`;
  const url = await pictureUrl(path).catch(() => '');
  if (mine !== newest) return;
  setPicture({ source: `item:${item.id}`, url, name: item.id, text: item.text ?? '', item: item.id });
  announce(`Photo: ${item.text || item.id}`);
}

/** @param {File} file */
async function readFile(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new ApiError(
      `“${file.name}” is not a picture that this browser can show. Choose a JPEG, PNG, WebP or GIF file.`,
      { type: 'invalid_request_error' },
    );
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  const as_is = SENT_AS_IS.includes(file.type) && file.size <= MOST_BYTES && scale === 1;
  if (as_is && !(await isTurned(file))) {
    bitmap.close();
    return file;
  }
  // Drawn anew: smaller, upright, and as JPEG.
  const canvas = new OffscreenCanvas(Math.round(width * scale), Math.round(height * scale));
  const context = canvas.getContext('2d');
  if (!context) throw new ApiError('This browser cannot make the picture smaller.');
  context.fillStyle = '#fff';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.convertToBlob({ type: 'image/jpeg', quality: 0.92 });
}

/**
 * Whether a JPEG says that it is to be turned. A browser turns it and a model may not, so boxes would lie
 * elsewhere; such a photo is sent as it is seen.
 *
 * @param {Blob} file
 */
async function isTurned(file) {
  const view = new DataView(await file.slice(0, 131_072).arrayBuffer());
  if (view.byteLength < 4 || view.getUint16(0) !== 0xffd8) return false;
  for (let at = 2; at + 18 <= view.byteLength;) {
    const [marker, length] = [view.getUint16(at), view.getUint16(at + 2)];
    if (marker < 0xff00 || marker === 0xffda) return false;
    if (marker === 0xffe1 && view.getUint32(at + 4) === 0x45786966) {
      const start = at + 10;
      const little = view.getUint16(start) === 0x4949;
      const directory = start + view.getUint32(start + 4, little);
      if (directory + 2 > view.byteLength) return false;
      const entries = view.getUint16(directory, little);
      for (let entry = 0; entry < entries; entry += 1) {
        const place = directory + 2 + 12 * entry;
        if (place + 10 > view.byteLength) return false;
        if (view.getUint16(place, little) === 0x0112) return view.getUint16(place + 8, little) > 1;
      }
      return false;
    }
    at += 2 + length;
  }
  return false;
}

/** @param {Blob} blob @returns {Promise<string>} */
function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener('load', () => resolve(String(reader.result)));
    reader.addEventListener('error', () => reject(new ApiError('The file could not be read.')));
    reader.readAsDataURL(blob);
  });
}

/** @param {HTMLElement} panel */
export function createPicturePanel(panel) {
  const input = h('input', { type: 'file', accept: 'image/*', hidden: true, id: 'file' });
  const choose = h('button', { type: 'button', id: 'choose' }, 'Choose a photo');
  const fromIndex = h('button', { type: 'button', id: 'from-index' }, 'From the index');
  const remove = h('button', { type: 'button', class: 'quiet small', id: 'remove' }, 'Remove');
  const show = h('div', { class: 'current' });
  const says = h('div', { class: 'photo-says' });
  const error = h('div', {});
  fill(
    panel,
    h('div', { class: 'photo-head' }, h('h2', { id: 'photo-title' }, 'Photo'), remove),
    h(
      'div',
      { class: 'photo-body' },
      show,
      h('div', { class: 'photo-side' }, says, h('div', { class: 'buttons' }, choose, fromIndex)),
    ),
    error,
    input,
  );

  // The dialog's browser loads when it is opened.
  const browser = createBrowser((item) => {
    dialog.close();
    error.replaceChildren();
    void pickItem(item);
  });
  const close = h('button', { type: 'button', class: 'quiet' }, 'Close');
  const dialog = h(
    'dialog',
    { class: 'dialog', 'aria-labelledby': 'dialog-title' },
    h('div', { class: 'dialog-head' }, h('h2', { id: 'dialog-title' }, 'Pictures of the index'), close),
    browser.node,
  );
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);

  const chosen = () => {
    error.replaceChildren();
    announce(`Photo: ${state.picture?.text || state.picture?.name || ''}`);
  };

  /** @param {File | undefined} file */
  const take = async (file) => {
    if (!file) return;
    newest += 1;
    const mine = newest;
    try {
      const blob = await readFile(file);
      const source = await dataUrl(blob);
      if (mine !== newest) return;
      setPicture({
        source,
        url: URL.createObjectURL(blob),
        name: file.name || 'pasted photo',
        text: '',
        item: null,
      });
      chosen();
    } catch (why) {
      if (mine === newest) fill(error, problem(why));
    }
  };

  choose.addEventListener('click', () => input.click());
  input.addEventListener('change', () => {
    void take(input.files?.[0]);
    input.value = '';
  });
  fromIndex.addEventListener('click', () => {
    dialog.showModal();
    browser.open();
  });
  remove.addEventListener('click', () => {
    setPicture(null);
    choose.focus();
    announce('Photo removed');
  });

  document.addEventListener('paste', (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith('image/'));
    if (!file) return;
    event.preventDefault();
    void take(file);
  });
  const root = document.documentElement;
  const holdsFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes('Files') ?? false;
  document.addEventListener('dragover', (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    root.classList.add('dropping');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) root.classList.remove('dropping');
  });
  document.addEventListener('drop', (event) => {
    root.classList.remove('dropping');
    if (!holdsFiles(event)) return;
    event.preventDefault();
    void take(event.dataTransfer?.files[0]);
  });

  const draw = () => {
    const { picture } = state;
    panel.classList.toggle('empty', !picture);
    remove.hidden = !picture;
    choose.textContent = picture ? 'Choose file' : 'Choose a photo';
    choose.classList.toggle('primary', !picture);
    fromIndex.hidden = !state.index;
    if (!picture) {
      show.replaceChildren();
      fill(says, h('p', {}, 'Drop a photo here, paste one, or choose one.'));
      return;
    }
    const none = h('span', { class: 'no-picture' }, 'no picture');
    if (picture.url) {
      const alt = picture.text ? `Current photo: ${picture.text}` : 'Current photo';
      const image = h('img', { src: picture.url, alt });
      image.addEventListener('error', () => image.replaceWith(none));
      fill(show, image);
    } else {
      fill(show, none);
    }
    fill(
      says,
      picture.text && h('p', { class: 'photo-text', dir: 'auto' }, picture.text),
      h('p', { class: 'soft photo-name' }, picture.name),
    );
  };
  on('picture', draw);
  on('models', draw);
  draw();
}
