/**
 * Files of a cache on a local disk, and the shards in them: sections 1, 4, 6 and 14 of docs/format.md.
 * Nothing is used before it has been compared with what the commit says of it.
 */
import fs from 'node:fs';
import path from 'node:path';
import { ARRAYS, attempt, blockChecksum, BLOCK, check, crc32c, parseJson, sha256, utf8 } from './hashing.mjs';

/** The largest JSON document, in bytes. */
export const JSON_LIMIT = 256 * 2 ** 20;

/** Bytes of the ending of a JSON file: all but its 64 digits is fixed. */
const ENDING = 83;

/** Refuse a path that could leave the cache or mean something in a URL. @param {string} name */
export function checkPath(name) {
  const segments = String(name).split('/');
  check(!segments.some((s) => s === '' || s === '.' || s === '..'), `not a path in a cache: ${name}`);
  check(typeof name === 'string' && !/[\0-\x1f\x7f\\:%?#*[\]]/.test(name), `not a path in a cache: ${name}`);
}

/**
 * Read a regular file whole.
 * @param {string} root the folder of the cache @param {string} name path inside it
 * @param {{bytes?: number, limit?: number}} [size] its recorded size, or the largest allowed, in bytes
 * @returns {Buffer}
 */
export function readFile(root, name, { bytes, limit = Infinity } = {}) {
  checkPath(name);
  // Without O_NONBLOCK, opening a named pipe would wait for ever. What is open cannot be exchanged.
  const full = path.join(root, name);
  check(fs.existsSync(full), `${name} is missing`);
  const file = fs.openSync(full, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  try {
    const stat = fs.fstatSync(file);
    check(stat.isFile(), `${name} is not a regular file`);
    check(stat.size <= limit, `${name} has more than ${limit} bytes`);
    check(bytes === undefined || stat.size === bytes, `${name} has ${stat.size} bytes, not ${bytes}`);
    return fs.readFileSync(file);
  } finally {
    fs.closeSync(file);
  }
}

/** @typedef {{path: string, bytes: number, sha256: string, blocks?: number[]}} File as a commit records it */

/**
 * Read a file and compare its blocks.
 * @param {string} root @param {File} file @returns {Buffer} of a Zarr chunk the values, without its CRC
 */
export function readBlocks(root, file) {
  const bytes = readFile(root, file.path, file);
  const chunk = /\.zarr\/.*\/c\//.test(file.path);
  check(!chunk || bytes.length > 4, `${file.path} is empty`);
  const data = chunk ? bytes.subarray(0, -4) : bytes;
  const crc = !chunk || bytes.readUInt32LE(data.length) === crc32c(data);
  check(crc, `${file.path} is damaged: it has another CRC`);
  // Without its CRC, a chunk may have a last block of no bytes.
  const [least, most] = [data, bytes].map(({ length }) => Math.ceil(length / BLOCK));
  const same = file.blocks.every((expected, i) => blockChecksum(data, i) === expected);
  const whole = file.blocks.length >= least && file.blocks.length <= most;
  check(same && whole, `${file.path} is damaged: a block has another checksum`);
  return data;
}

/** Read a file and compare its SHA-256. @param {string} root @param {File} file @returns {Buffer} */
export function readHashed(root, file) {
  const bytes = readFile(root, file.path, file);
  check(sha256(bytes) === file.sha256, `${file.path} is damaged: it has another hash`);
  return bytes;
}

/** A JSON file, whose last member is the hash of what is before it. @returns {{document: any, hash: string}} */
export function readDocument(root, name) {
  const bytes = readFile(root, name, { limit: JSON_LIMIT });
  const ending = /^,\n {2}"sha256": "([0-9a-f]{64})"\n\}\n$/.exec(bytes.subarray(-ENDING).toString('latin1'));
  check(ending, `${name} does not end with its hash`);
  check(sha256(bytes.subarray(0, -ENDING)) === ending[1], `${name} is damaged: it has another hash`);
  const document = parseJson(utf8(bytes));
  check(document && typeof document === 'object' && !Array.isArray(document), `${name} is not one object`);
  return { document, hash: sha256(bytes) };
}

// --------------------------------------------------------------------------------- Arrow

/** A table of a flatbuffer, which is what Arrow's messages are made of. Absent numbers are 0. */
class Table {
  constructor(view, at) {
    Object.assign(this, { view, at });
  }

  /** Where a field lies, or 0 if it is absent. @param {number} index */
  where(index) {
    const vtable = this.at - this.view.getInt32(this.at, true);
    const slot = 4 + 2 * index;
    const offset = slot < this.view.getUint16(vtable, true) ? this.view.getUint16(vtable + slot, true) : 0;
    return offset && this.at + offset;
  }

  number(index, getter) {
    const at = this.where(index);
    return at && Number(this.view[getter](at, true));
  }

  follow(at) {
    return at && at + this.view.getUint32(at, true);
  }

  table(index) {
    return new Table(this.view, this.follow(this.where(index)));
  }

  /** Where the items of a list begin, and how many there are. @param {number} size of an item, in bytes */
  span(index, size) {
    const at = this.follow(this.where(index));
    const length = at && this.view.getUint32(at, true);
    check(at + 4 + length * size <= this.view.byteLength, 'a list is longer than its bytes');
    return [at + 4, length];
  }

  list(index, size) {
    const [start, length] = this.span(index, size);
    return Array.from({ length }, (_, i) => start + i * size);
  }

  tables(index) {
    return this.list(index, 4).map((at) => new Table(this.view, this.follow(at)));
  }

  bytes(index) {
    const [start, length] = this.span(index, 1);
    return Buffer.from(this.view.buffer, this.view.byteOffset + start, length);
  }
}

/** The messages of an Arrow stream: each one's type, header and body. @param {Buffer} bytes */
function messagesOf(bytes) {
  const messages = [];
  let at = 0;
  for (let size = 1; size !== 0;) {
    check(bytes.readUInt32LE(at) === 0xffffffff, 'not an Arrow stream');
    size = bytes.readInt32LE(at + 4);
    at += 8;
    check(size >= 0 && at + size <= bytes.length, 'it is cut off');
    if (size === 0) continue;
    const view = new DataView(bytes.buffer, bytes.byteOffset + at, size);
    const message = new Table(view, view.getUint32(0, true));
    const length = message.number(3, 'getBigInt64');
    const body = bytes.subarray(at + size, at + size + length);
    check(length >= 0 && body.length === length, 'it is cut off');
    messages.push({ type: message.number(1, 'getUint8'), header: message.table(2), body });
    at += size + length;
  }
  check(at === bytes.length, 'something follows the end of the stream');
  return messages;
}

/** Numbers as they lie in a file, which the machine must have in the same (little-endian) order. */
function typed(dtype, bytes) {
  const Type = { bit: Uint8Array, bytes: Uint8Array }[dtype] ?? ARRAYS[dtype];
  check(Type && bytes.length % Type.BYTES_PER_ELEMENT === 0, `a buffer does not hold ${dtype}`);
  const aligned = bytes.byteOffset % Type.BYTES_PER_ELEMENT ? Uint8Array.from(bytes) : bytes;
  return new Type(aligned.buffer, aligned.byteOffset, bytes.length / Type.BYTES_PER_ELEMENT);
}

/** Refuse offsets that would read outside the items. @param {Int32Array} offsets @param {number} items */
function checkOffsets(offsets, items) {
  const ascending = offsets.every((end, i) => end >= (i ? offsets[i - 1] : 0));
  check(ascending && (offsets.at(-1) ?? 0) <= items, 'offsets of a column are wrong');
}

/** Arrow's numbers of the types that tables, manifests and the index have. */
const [INT, FLOAT, UTF8, BOOL, LIST, STRUCT, FIXED_BINARY, FIXED_LIST] = [2, 3, 5, 6, 12, 13, 15, 16];

/**
 * A column of an Arrow file: `at` gives the value of a row; hashes are hexadecimal digits. Columns of
 * numbers have `values`, `width` of them a row.
 * @param {Table} field of a schema @param {Iterator<number[]>} nodes @param {Iterator<number[]>} buffers
 * @returns {{length: number, at: (row: number) => any, dtype?: string, values?: any, width?: number}}
 */
function readColumn(field, nodes, buffers, body) {
  const [length] = nodes.next().value;
  const take = (dtype, size) => {
    const [offset] = buffers.next().value;
    const inside = offset >= 0 && size >= 0 && offset + size <= body.length;
    check(inside, 'a buffer lies outside its batch');
    return typed(dtype, body.subarray(offset, offset + size));
  };
  const child = (f) => readColumn(f, nodes, buffers, body);
  const takeOffsets = () => take('int32', length && 4 * (length + 1));
  take('bit', 0); // of missing values, which there are none of
  const kind = field.number(2, 'getUint8');
  const type = field.table(3);
  if (kind === INT || kind === FLOAT) {
    const bits = kind === INT ? type.number(0, 'getInt32') : [16, 32, 64][type.number(0, 'getInt16')];
    const dtype = `${kind === FLOAT ? 'float' : type.number(1, 'getUint8') ? 'int' : 'uint'}${bits}`;
    const values = take(dtype, (length * bits) / 8);
    const at = (i) => {
      check(Number.isSafeInteger(Number(values[i])) || kind === FLOAT, `${values[i]} is too large`);
      return Number(values[i]);
    };
    return { length, at, dtype, values, width: 1 };
  }
  if (kind === BOOL) {
    const bits = take('bit', Math.ceil(length / 8));
    return { length, at: (i) => ((bits[i >> 3] >> (i & 7)) & 1) === 1 };
  }
  if (kind === UTF8) {
    const offsets = takeOffsets();
    const data = take('bytes', offsets.at(-1) ?? 0);
    checkOffsets(offsets, data.length);
    return { length, at: (i) => utf8(data.subarray(offsets[i], offsets[i + 1])) };
  }
  if (kind === FIXED_BINARY) {
    const size = type.number(0, 'getInt32');
    const data = take('bytes', length * size);
    return { length, at: (i) => Buffer.from(data.subarray(i * size, (i + 1) * size)).toString('hex') };
  }
  if (kind === LIST) {
    const offsets = takeOffsets();
    const items = child(field.tables(5)[0]);
    checkOffsets(offsets, items.length);
    const size = (i) => ({ length: offsets[i + 1] - offsets[i] });
    return { length, at: (i) => Array.from(size(i), (_, j) => items.at(offsets[i] + j)) };
  }
  if (kind === FIXED_LIST) {
    const width = type.number(0, 'getInt32');
    const items = child(field.tables(5)[0]);
    check(width > 0 && items.length === width * length, 'lists of a column are cut off');
    return { ...items, length, width };
  }
  check(kind === STRUCT, `a column has the type ${kind}`);
  const members = field.tables(5).map((f) => [f.bytes(0).toString(), child(f)]);
  check(members.length && members.every(([, m]) => m.length === length), 'members differ in length');
  return { length, at: (i) => Object.fromEntries(members.map(([name, m]) => [name, m.at(i)])) };
}

/**
 * An Arrow stream of a schema and one uncompressed record batch without nulls.
 * @param {Buffer} bytes @param {string} name for messages
 * @param {boolean} [decode] whether to read its columns, whose types must then be known
 * @returns {{rows: number, metadata: (key: string) => string, columns: Map<string, any>}}
 */
export function parseArrow(bytes, name, decode = true) {
  // Offsets outside the file make DataView throw, which is a refusal as well.
  return attempt(name, () => {
    const messages = messagesOf(bytes);
    check(messages.map(({ type }) => type).join() === '1,3', 'not a stream of one record batch');
    const [{ header: schema }, { header: batch, body }] = messages;
    check(batch.where(3) === 0, 'it is compressed');
    const word = (at) => Number(batch.view.getBigInt64(at, true));
    const [nodes, buffers] = [1, 2].map((i) => batch.list(i, 16).map((at) => [word(at), word(at + 8)]));
    const nulls = nodes.some(([, missing]) => missing !== 0);
    check(!nulls, 'it has nulls');
    const fields = schema.tables(1);
    const columns = new Map(fields.map((field) => [field.bytes(0).toString(), field]));
    check(columns.size === fields.length, 'two columns have one name');
    const rows = batch.number(0, 'getBigInt64');
    if (decode) {
      const iterators = [nodes.values(), buffers.values()];
      for (const [key, field] of columns) columns.set(key, readColumn(field, ...iterators, body));
      const equal = [...columns.values()].every(({ length }) => length === rows);
      check(equal && columns.size, 'columns differ in length');
    }
    const metadata = (key) => {
      const entry = schema.tables(2).find((e) => e.bytes(0).equals(Buffer.from(key)));
      check(entry, `${name} has no metadata ${key}`);
      return utf8(entry.bytes(1));
    };
    return { rows, metadata, columns };
  });
}

// -------------------------------------------------------------------------------- shards

/**
 * What a column of a shard must be. `numbers` is how many a row (of a list: an item) has, and `dtype` that
 * of the stored bits, so bfloat16 is uint16. Strings and bytes are lists of the dtype `bytes`.
 * @typedef {{name: string, dtype: string, numbers: number, list?: boolean}} Spec
 */

/** What a manifest calls the numbers of a column. @param {Spec} spec */
const bufferOf = ({ name, dtype }) => (dtype === 'bytes' ? `${name}.data` : name);

/**
 * Refuse a shard whose columns are not those that `specs` asks for, or lie outside their files.
 * @param {any} record of the manifest @param {number} rows of the file @param {Spec[]} specs
 */
export function checkColumns({ files, columns }, rows, specs) {
  for (const { name, file, offset, bytes } of columns) {
    const inside = offset >= 0 && bytes >= 0 && offset + bytes <= files[file]?.bytes;
    check(inside, `the column ${name} lies outside its file`);
  }
  for (const spec of specs) {
    const { name, dtype, numbers, list } = spec;
    const found = (wanted) => columns.find((column) => column.name === wanted);
    const size = { bit: 1 / 8, bytes: 1 }[dtype] ?? ARRAYS[dtype].BYTES_PER_ELEMENT;
    const { dtype: actual, bytes } = found(bufferOf(spec)) ?? {};
    const fits = list ? bytes % (numbers * size) === 0 : bytes === Math.ceil(rows * numbers * size);
    check(actual === dtype && fits, `the column ${name} is missing or has another type or size`);
    const offsets = list && found(`${name}.offsets`);
    const right = !list || (offsets?.dtype === 'int32' && offsets.bytes === 4 * (rows + 1));
    check(right, `the offsets of ${name} are missing or have another type or size`);
  }
}

/** The bytes of each row of a column of strings or bytes. */
export function binaryOf({ values, offsets }) {
  return Array.from({ length: offsets.length - 1 }, (_, i) => values.subarray(offsets[i], offsets[i + 1]));
}

/** The strings of a Zarr chunk: their number, then each one's length and UTF-8. @param {Buffer} chunk */
function stringsOf(chunk) {
  let at = 4;
  const next = () => {
    const start = at + 4;
    at = start + chunk.readUInt32LE(at);
    check(at <= chunk.length, 'strings are cut off');
    return utf8(chunk.subarray(start, at));
  };
  const strings = [];
  for (let left = chunk.readUInt32LE(0); left > 0; left--) strings.push(next());
  return strings;
}

/**
 * Read a shard. Columns are taken from where the manifest says that they lie.
 * @param {string} root @param {any} record of the manifest, which `checkColumns` has seen
 * @param {number} rows of the file @param {Spec[]} specs @param {string} idType
 * @returns {any} its `columns`, its sample `ids`, and what it says about it in `self`
 */
export function readShard(root, record, rows, specs, idType) {
  const files = record.files.map((file) => readBlocks(root, file));
  const take = (name) => {
    const { dtype, file, offset, bytes } = record.columns.find((column) => column.name === name);
    const found = files[file].subarray(offset, offset + bytes);
    check(found.length === bytes, `the column ${name} lies in a checksum`);
    return typed(dtype, found);
  };
  const column = ({ name, dtype, numbers, list }) => {
    const values = take(bufferOf({ name, dtype }));
    const offsets = list ? take(`${name}.offsets`) : undefined;
    checkOffsets(offsets ?? [], values.length / numbers);
    return [name, { values, offsets, numbers }];
  };
  const columns = new Map(specs.map(column));
  const name = record.files[0].path;
  const end = (suffix) => files[record.files.findIndex((file) => file.path.endsWith(suffix))];
  let self;
  let ids = columns.get('sample_id');
  if (ids) {
    check(files.length === 1, 'an Arrow shard is one file');
    self = parseJson(parseArrow(files[0], name, false).metadata('softcache'));
    ids = idType === 'string' ? binaryOf(ids).map(utf8) : ids.values;
  } else {
    const [group, chunk] = [end('.zarr/zarr.json'), end('.zarr/sample_id/c/0')];
    check(group && chunk, `a file of ${name} is missing`);
    self = parseJson(utf8(group)).attributes?.softcache;
    ids = idType === 'string' ? attempt(name, () => stringsOf(chunk)) : typed('int64', chunk);
    check(ids.length === rows, `${name} has another number of sample ids`);
  }
  return { self, ids, columns };
}
