// Talking to the server: JSON, keys, errors as data, and waiting when it is busy.

/** @typedef {import('../contract.d.ts').ErrorBody} ErrorBody */

const KEY = 'chiasm-key';

/** How often a busy server is asked again by itself, and the longest wait that is worth it, in seconds. */
const RETRIES = 3;
const LONGEST_WAIT = 30;

/** An answer that is not the one hoped for; `message` is the server's own. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, type?: string, param?: string | null, retryAfter?: number | null}} [about]
   */
  constructor(message, { status = 0, type = 'network', param = null, retryAfter = null } = {}) {
    super(message);
    this.name = 'ApiError';
    this.status = status;
    this.type = type;
    this.param = param;
    this.retryAfter = retryAfter;
  }
}

/** Whether an error only says that a newer request took the place of this one. @param {unknown} error */
export const isAborted = (error) => error instanceof DOMException && error.name === 'AbortError';

/** The key lives as long as the tab. */
export const key = {
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? '';
    } catch {
      return memory;
    }
  },
  /** @param {string} value */
  set(value) {
    memory = value;
    try {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    } catch {
      // A browser without storage keeps it in memory.
    }
  },
};
let memory = '';

/** Hears of every answer 401. @type {Set<(error: ApiError) => void>} */
export const onUnauthorized = new Set();

/**
 * @param {string} path
 * @param {{body?: unknown, signal?: AbortSignal, onWait?: (seconds: number) => void}} [options]
 *   `onWait` hears each second of waiting for a busy server, and 0 when it is asked again
 * @returns {Promise<any>}
 */
export async function request(path, { body, signal, onWait } = {}) {
  for (let tries = 0; ; tries += 1) {
    const response = await send(path, body, signal);
    if (response.ok) return readJson(response);
    const error = await errorOf(response);
    // What timed out would only time out again.
    const busy = (error.status === 429 || error.status === 503) && error.type !== 'timeout';
    const wait = Math.max(1, error.retryAfter ?? 2 ** tries);
    if (!busy || tries >= RETRIES || wait > LONGEST_WAIT) {
      if (error.status === 401) for (const hear of onUnauthorized) hear(error);
      throw error;
    }
    for (let left = Math.ceil(wait); left > 0; left -= 1) {
      onWait?.(left);
      await pause(1000, signal);
    }
    onWait?.(0);
  }
}

/**
 * @param {string} path
 * @param {unknown} body
 * @param {AbortSignal | undefined} signal
 */
async function send(path, body, signal) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  try {
    return await fetch(path, {
      method: body === undefined ? 'GET' : 'POST',
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (isAborted(error)) throw error;
    throw new ApiError(
      'The server does not answer. Check that `chiasm serve` is still running, then try again.',
    );
  }
}

/** @param {Response} response */
async function readJson(response) {
  try {
    return await response.json();
  } catch (error) {
    if (isAborted(error)) throw error;
    throw new ApiError('The server’s answer broke off or is not JSON. Try again.', {
      status: response.status,
    });
  }
}

/** @param {Response} response */
async function errorOf(response) {
  const after = Number.parseFloat(response.headers.get('Retry-After') ?? '');
  const about = { status: response.status, retryAfter: Number.isFinite(after) ? after : null };
  try {
    const { error } = /** @type {ErrorBody} */ (await response.json());
    return new ApiError(String(error.message), { ...about, type: error.type, param: error.param });
  } catch (error) {
    if (isAborted(error)) throw error;
    const type = response.status >= 500 ? 'server_error' : 'invalid_request_error';
    return new ApiError(`The server answered with status ${response.status} and no explanation.`, {
      ...about,
      type,
    });
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException('stopped', 'AbortError'));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    if (signal?.aborted) stop();
    else signal?.addEventListener('abort', stop, { once: true });
  });
}

/** Pictures that needed a key to be fetched, by their address. @type {Map<string, Promise<string>>} */
const fetched = new Map();
const MOST_FETCHED = 400;

/**
 * An address that an `img` can show: the path itself, or with a key a blob, since an `img` sends no key.
 * Only paths of this server and `data:` pictures are shown.
 *
 * @param {string} path
 * @returns {Promise<string>}
 */
export async function pictureUrl(path) {
  if (path.startsWith('data:image/') || path.startsWith('blob:')) return path;
  const url = new URL(path, location.origin);
  if (url.origin !== location.origin) throw new ApiError('A picture of another server is not shown.');
  if (!key.get()) return url.pathname + url.search;
  const known = fetched.get(url.href);
  if (known) return known;
  const loading = send(url.pathname + url.search, undefined, undefined).then(async (response) => {
    if (!response.ok) throw await errorOf(response);
    return URL.createObjectURL(await response.blob());
  });
  fetched.set(url.href, loading);
  loading.catch(() => fetched.delete(url.href));
  const [oldest] = fetched;
  if (fetched.size > MOST_FETCHED && oldest) {
    fetched.delete(oldest[0]);
    oldest[1].then(URL.revokeObjectURL, () => {});
  }
  return loading;
}
