/**
 * JSON, checksums and hashes of the softcache format: sections 1, 3, 3.1 and 8 of docs/format.md.
 * Everything here is a pure function of its arguments.
 */
import { createHash } from 'node:crypto';

/** What a cache is refused with. Every check of this reader throws it. */
export class CacheError extends Error {
  name = 'CacheError';
}

/** Throw a CacheError unless `condition` holds. @param {unknown} condition @param {string} message */
export function check(condition, message) {
  if (!condition) throw new CacheError(message);
}

/** Refuse what makes `action` throw. @param {string} message @param {() => any} action @returns {any} */
export function attempt(message, action) {
  try {
    return action();
  } catch (error) {
    throw new CacheError(`${message}: ${error.message}`, { cause: error });
  }
}

/** @param {...(Uint8Array | string)} parts strings as UTF-8 @returns {string} 64 hexadecimal digits */
export function sha256(...parts) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

// ---------------------------------------------------------------------------------- JSON

/** A number that JSON writes as a float64. JavaScript alone cannot tell 1.0 from 1, hashes do. */
export class Float extends Number {}

const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
const SPACE = /[ \t\n\r]*/y;
/** Lists and objects in one another; more would overflow the stack. */
const DEPTH = 500;

/**
 * Parse JSON strictly: no member twice, no NaN or Infinity, no byte order mark, no half of a surrogate pair.
 * @param {string} text
 * @param {boolean} [exact] keep floats as `Float`, so that the value can be written canonically
 * @returns {any} objects have no prototype; integers beyond 2^53 are BigInt
 */
export function parseJson(text, exact = false) {
  let at = 0;
  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (found) at = pattern.lastIndex;
    return found;
  };
  const take = (token) => {
    match(SPACE);
    const found = text.startsWith(token, at);
    if (found) at += token.length;
    return found;
  };
  const need = (condition) => check(condition, `not JSON at character ${at}`);
  const string = () => {
    match(SPACE);
    need(text[at] === '"');
    let end = at + 1;
    while (end < text.length && text[end] !== '"') end += text[end] === '\\' ? 2 : 1;
    const found = attempt(`not JSON at character ${at}`, () => JSON.parse(text.slice(at, end + 1)));
    need(found.isWellFormed());
    at = end + 1;
    return found;
  };
  const number = () => {
    const found = match(NUMBER);
    need(found);
    const value = Number(found[0]);
    check(Number.isFinite(value), `${found[0]} is not a float64`);
    if (found[1] === undefined && found[2] === undefined)
      return Number.isSafeInteger(value) ? value + 0 : BigInt(found[0]);
    return exact ? new Float(value) : value;
  };
  const many = (end, one) => {
    if (take(end)) return;
    do one();
    while (take(','));
    need(take(end));
  };
  const value = (depth) => {
    check(depth < DEPTH, 'nested too deeply');
    if (take('{')) {
      const members = Object.create(null);
      many('}', () => {
        const name = string();
        check(!(name in members), `the member ${name} occurs twice`);
        need(take(':'));
        members[name] = value(depth + 1);
      });
      return members;
    }
    if (take('[')) {
      const items = [];
      many(']', () => items.push(value(depth + 1)));
      return items;
    }
    if (take('true')) return true;
    if (take('false')) return false;
    if (take('null')) return null;
    return text[at] === '"' ? string() : number();
  };
  const whole = value(0);
  match(SPACE);
  need(at === text.length);
  return whole;
}

const DECODER = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
/** UTF-8 to text; a byte order mark stays, so that the parser refuses it. @param {Uint8Array} bytes */
export const utf8 = (bytes) => attempt('not UTF-8', () => DECODER.decode(bytes));

/** Order by code point, which is also the order of the UTF-8 bytes (but not of UTF-16). */
export const byCodePoint = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** A float64 as Python writes it. @param {number} x finite @returns {string} */
function floatText(x) {
  if (Object.is(x, -0)) return '-0.0';
  const size = Math.abs(x);
  const fraction = x === 0 || (size >= 1e-4 && size < 1e16);
  if (fraction) return Number.isInteger(x) ? `${x}.0` : String(x);
  return x.toExponential().replace(/e(.)(\d)$/, (_, sign, digit) => `e${sign}0${digit}`);
}

/**
 * Canonical JSON. Numbers are taken as integers, `Float` as float64.
 * @param {any} value as `parseJson(text, true)` gives it @returns {string}
 */
export function canonicalJson(value) {
  if (value instanceof Float) return floatText(Number(value));
  if (typeof value === 'number') check(Number.isSafeInteger(value), 'a float64 must be given as Float');
  if (value === null || ['number', 'bigint', 'boolean'].includes(typeof value)) return String(value);
  // JSON.stringify escapes strings exactly as the page says, as long as no surrogate is alone.
  if (typeof value === 'string') return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  const names = Object.keys(value).sort(byCodePoint);
  return `{${names.map((name) => `${JSON.stringify(name)}:${canonicalJson(value[name])}`).join(',')}}`;
}

// ----------------------------------------------------------------------------- checksums

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0x82f63b78 : byte >>> 1;
  return byte;
});

/** CRC-32C (Castagnoli). @param {Uint8Array} bytes @returns {number} uint32 */
export function crc32c(bytes) {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Bytes of a block whose CRC-32C is recorded (section 6). */
export const BLOCK = 262144;

/** The CRC-32C of a block. @param {Uint8Array} bytes @param {number} i its number */
export const blockChecksum = (bytes, i) => crc32c(bytes.subarray(i * BLOCK, (i + 1) * BLOCK));

/** The hash in the name of a Zarr shard. @param {{path: string, sha256: string}[]} files paths inside it */
export function listingHash(files) {
  const sorted = [...files].sort((a, b) => byCodePoint(a.path, b.path));
  return sha256(sorted.map((file) => `${file.sha256}  ${file.path}\n`).join(''));
}

// --------------------------------------------------------------------------- float16, ints

/** @param {number} bits uint16 @returns {number} the float16 of these bits */
export function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** @param {number} x @returns {number} uint16, the bits of the nearest float16 (halves to even) */
function toHalf(x) {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const size = Math.abs(x);
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(-14, Math.floor(Math.log2(size)));
  // A fraction that rounds up to 2048 runs over into the exponent, which is what it should do.
  return sign + (((exponent + 14) << 10) + roundEven(size * 2 ** (10 - exponent)));
}

/** Round halves to even. @param {number} x @returns {number} */
function roundEven(x) {
  const up = Math.round(x);
  return up - x === 0.5 && up % 2 ? up - 1 : up;
}

/** @param {bigint | number} value int64 or uint64 @returns {Buffer} its 8 bytes */
const word = (value) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);

/** @param {number} value int32 @returns {Buffer} */
const int32 = (value) => Buffer.from(Int32Array.of(value).buffer);

const SIGNED = { int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array };
const UNSIGNED = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array };
const FLOATS = { float16: Uint16Array, float32: Float32Array, float64: Float64Array };
/** How numbers lie in files and hashes, on a little-endian machine; float16 is its bits. */
export const ARRAYS = { ...SIGNED, ...UNSIGNED, ...FLOATS };

/** @param {string} dtype @param {(number | bigint | boolean)[]} values @returns {Buffer} booleans as bytes */
function numberBytes(dtype, values) {
  const convert = dtype === 'float16' ? toHalf : dtype.endsWith('int64') ? BigInt : Number;
  return Buffer.from((ARRAYS[dtype] ?? Uint8Array).from(values, (x) => convert(x)).buffer);
}

// -------------------------------------------------------------------------- content hashes

/**
 * The type of a value that is hashed. `kind` is `bool`, `string`, `bytes`, `stored` (a date or time,
 * given as the integer of its storage type), `list`, `struct`, or a numeric dtype.
 * @typedef {{kind: string, item?: Type, length?: number, fields?: {name: string, type: Type}[]}} Type
 */

/** A string without the `s` of a string value: its length and UTF-8. @param {string} text */
function stringBytes(text) {
  const bytes = Buffer.from(text);
  return Buffer.concat([word(bytes.length), bytes]);
}

const tagged = (tag, ...rest) => Buffer.concat([Buffer.from(tag), ...rest]);

/** An array: dtype, dimensions, values. @param {string} dtype @param {number[]} shape @param {Buffer} values */
function arrayBytes(dtype, shape, values) {
  return tagged('a', stringBytes(dtype), word(shape.length), ...shape.map(word), values);
}

/** The innermost type and the shape of a list, with null for a length that varies. @param {Type} type */
function dimensions(type) {
  if (type.kind !== 'list') return { shape: [], dtype: type.kind };
  const inner = dimensions(type.item);
  return { shape: [type.length ?? null, ...inner.shape], dtype: inner.dtype };
}

/** A value as a content hash takes it. @param {Type} type @param {any} value @returns {Buffer} */
function encodeValue(type, value) {
  if ((value ?? null) === null) return Buffer.from('n');
  if (type.kind === 'bool') return tagged('b', Buffer.from([value ? 1 : 0]));
  if (type.kind === 'string') return tagged('s', stringBytes(value));
  if (type.kind === 'bytes') return tagged('y', word(value.length), value);
  if (type.kind === 'stored') return tagged('i', word(value));
  if (type.kind.startsWith('float')) {
    const bytes = numberBytes(type.kind, [value]);
    return tagged('f', Buffer.from([bytes.length]), bytes);
  }
  if (type.kind in ARRAYS) return tagged(BigInt(value) >= 1n << 63n ? 'u' : 'i', word(value));
  if (type.kind === 'struct') {
    const fields = [...type.fields].sort((a, b) => byCodePoint(a.name, b.name));
    const parts = fields.map((f) => Buffer.concat([stringBytes(f.name), encodeValue(f.type, value[f.name])]));
    return tagged('d', word(fields.length), ...parts);
  }
  check(type.kind === 'list', `${type.kind} has no encoding`);
  const { shape, dtype } = dimensions(type);
  if (dtype in ARRAYS && (shape.length === 1 || !shape.includes(null))) {
    const numbers = value.flat(shape.length - 1);
    const missing = numbers.some((x) => (x ?? null) === null);
    if (!missing) return arrayBytes(dtype, [value.length, ...shape.slice(1)], numberBytes(dtype, numbers));
  }
  return tagged('l', word(value.length), ...value.map((item) => encodeValue(type.item, item)));
}

/** @param {Record<string, [Type, any]>} columns @returns {string} the content hash of one sample */
export function contentHash(columns) {
  const names = Object.keys(columns).sort(byCodePoint);
  return sha256(...names.flatMap((name) => [stringBytes(name), encodeValue(...columns[name])]));
}

/** A sample id as the keys hash takes it. @param {bigint | string} id */
const idBytes = (id) => (typeof id === 'string' ? tagged('s', stringBytes(id)) : tagged('i', word(id)));

/**
 * The keys hash of a fragment.
 * @param {{id: bigint | string, content: Uint8Array}[]} samples in order
 * @param {number} firstView @param {number} views how many @returns {string}
 */
export function keysHash(samples, firstView, views) {
  const all = Array.from({ length: views }, (_, i) => int32(firstView + i));
  const parts = ({ id, content }) => all.flatMap((view) => [idBytes(id), view, content]);
  return sha256(Buffer.concat(samples.flatMap(parts)));
}

/** @param {string} name of a target @param {any} declaration parsed exactly @returns {string} */
export const targetFingerprint = (name, declaration) => sha256(canonicalJson([name, declaration]));

/**
 * @param {string} keys the keys hash @param {string} fingerprint
 * @param {{kept: string[], split: string}} [rows] for the target `rows`: kept hashes, and the split
 * @returns {string} the unit key of a shard
 */
export function unitKey(keys, fingerprint, rows) {
  const more = rows ? [sha256(Buffer.from(rows.kept.join(''), 'hex')), rows.split] : [];
  return sha256(canonicalJson(['softcache', 1, keys, fingerprint, ...more]));
}

// -------------------------------------------------------------------------- index, views

const G = 0x9e3779b97f4a7c15n;

/** @param {bigint} x uint64 @returns {bigint} uint64 */
function mix(x) {
  x = BigInt.asUintN(64, x);
  x = BigInt.asUintN(64, (x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n);
  x = BigInt.asUintN(64, (x ^ (x >> 27n)) * 0x94d049bb133111ebn);
  return x ^ (x >> 31n);
}

/** The key of a string id in the index. @param {string} id @returns {bigint} uint64 */
export function indexKey(id) {
  const bytes = Buffer.from(id);
  const padded = Buffer.concat([bytes, Buffer.alloc(-bytes.length & 7)]);
  let h = mix(BigInt(bytes.length) + G);
  for (let at = 0; at < padded.length; at += 8) h = mix((h ^ padded.readBigUInt64LE(at)) + G);
  return h;
}

/** @param {number | bigint} seed int64 @param {bigint | string} id @param {number} view @returns {bigint} */
export function viewSeed(seed, id, view) {
  const hash = sha256(word(seed), idBytes(id), int32(view));
  return Buffer.from(hash, 'hex').readBigUInt64LE(0);
}

/**
 * One named part of a view: an array, or a string.
 * @typedef {{name: string, text?: string, dtype?: string, shape?: number[], values?: number[]}} Part
 */

/** The check of a view. @param {Part[]} parts @returns {Buffer} 8 bytes */
export function viewCheck(parts) {
  const sorted = [...parts].sort((a, b) => byCodePoint(a.name, b.name));
  const encode = (withValues) => {
    const pieces = sorted.map(({ name, text, dtype, shape, values }) => {
      const numbers = numberBytes(dtype ?? '', (withValues && values) || []);
      const value = values ? arrayBytes(dtype, shape, numbers) : tagged('s', stringBytes(text));
      return Buffer.concat([stringBytes(name), value]);
    });
    return tagged('view', ...pieces);
  };
  const result = Buffer.alloc(8);
  result.writeUInt32LE(crc32c(encode(true)), 0);
  result.writeUInt32LE(crc32c(encode(false)), 4);
  const arrays = sorted.filter((part) => part.values);
  const x = arrays.flatMap((part) => part.values.map((v) => (Number.isFinite(Number(v)) ? Number(v) : 0)));
  const whole = arrays.every((part) => !part.dtype.startsWith('float'));
  const unit = whole ? 1 : x.reduce((most, v) => Math.max(most, Math.abs(v)), 0) / 255;
  if (x.length === 0 || unit === 0) return result;
  const signs = x.map((_, i) => mix(BigInt(i) + G));
  for (let j = 0; j < 4; j++) {
    const terms = x.map((v, i) => ((signs[i] >> BigInt(j)) & 1n ? -v : v) / (unit * Math.sqrt(x.length)));
    const sum = roundEven(terms.reduce((a, b) => a + b, 0)) + roundEven((128 - 13 * j) * Math.log2(unit));
    result[4 + j] = (((result[4 + j] + sum) % 256) + 256) % 256;
  }
  return result;
}

/** Whether the sketches of two checks tell apart no more than rounding. @param {Uint8Array} a @param {Uint8Array} b */
export function closeViews(a, b) {
  return [4, 5, 6, 7].every((i) => {
    const apart = Math.abs(a[i] - b[i]);
    return Math.min(apart, 256 - apart) <= 3;
  });
}
