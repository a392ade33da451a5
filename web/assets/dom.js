// Building elements. Everything that people or models wrote becomes text nodes here, never markup.

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * An element with properties, listeners (`onclick`), attributes and children.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [props] `class`, `dataset`, `vars` (CSS custom properties), `on…`, or attributes
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'class') node.className = value;
    else if (name === 'vars') setVars(node, value);
    else if (name === 'dataset') Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  append(node, ...children);
  return node;
}

/**
 * An SVG element.
 *
 * @param {string} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  append(node, ...children);
  return node;
}

/**
 * @param {Element} node
 * @param {...(Child | Child[])} children
 */
export function append(node, ...children) {
  for (const child of children.flat()) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Replaces what is in a node.
 *
 * @param {Element} node
 * @param {...(Child | Child[])} children
 */
export function fill(node, ...children) {
  node.replaceChildren();
  append(node, ...children);
}

/**
 * Sets custom properties through the CSSOM, which the content security policy allows.
 *
 * @param {HTMLElement} node
 * @param {Record<string, string | number>} vars
 */
export function setVars(node, vars) {
  for (const [name, value] of Object.entries(vars)) node.style.setProperty(name, String(value));
}

/**
 * An element of the page by its id.
 *
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const node = document.getElementById(id);
  if (!(node instanceof kind)) throw new Error(`the page lacks #${id}`);
  return node;
}

let last = 0;

/**
 * An id that no other element has.
 *
 * @param {string} stem
 */
export function fresh(stem) {
  last += 1;
  return `${stem}-${last}`;
}

/**
 * Says something to screen readers without moving the focus.
 *
 * @param {string} text
 */
export function announce(text) {
  const region = document.getElementById('announcer');
  if (!region) return;
  region.textContent = '';
  // A change in a later task is announced even when the text is the same.
  setTimeout(() => (region.textContent = text), 30);
}
