/**
 * Files of a cache on a local disk, and the shards in them: sections 1, 4 and 14 of docs/format.md.
 * Nothing is used before it has been compared with what the commit says of it.
 */
import fs from 'node:fs';
import path from 'node:path';
import { DataType, tableFromIPC } from 'apache-arrow';
import * as zarr from 'zarrita';
import {
  blockChecksums,
  CacheError,
  check,
  crc32c,
  listingHash,
  parseJson,
  sha256,
  utf8,
} from './hashing.mjs';

/** The largest JSON document, in bytes. */
export const JSON_LIMIT = 256 * 2 ** 20;

/** Bytes of the ending of a JSON file: all but its 64 digits is fixed. */
const ENDING = 83;

/** Refuse a path that could leave the cache or mean something in a URL. @param {string} name */
export function checkPath(name) {
  const segments = String(name).split('/');
  check(!segments.some((s) => s === '' || s === '.' || s === '..'), `not a path in a cache: ${name}`);
  check(typeof name === 'string' && !/[\p{Cc}\\:%?#*[\]]/u.test(name), `not a path in a cache: ${name}`);
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
  let file;
  try {
    file = fs.openSync(path.join(root, name), fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  } catch (error) {
    check(error.code !== 'ENOENT', `${name} is missing`);
    throw error;
  }
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

/**
 * A file as a commit or manifest records it.
 * @typedef {{path: string, bytes: number, sha256: string, blocks?: number[]}} File
 */

/** Read a file and compare its blocks. @param {string} root @param {File} file @returns {Buffer} */
export function readBlocks(root, file) {
  const bytes = readFile(root, file.path, file);
  // A Zarr chunk ends with its own CRC, which its blocks leave out.
  const chunk = /\.zarr\/.*\/c\//.test(file.path);
  check(!chunk || bytes.length > 4, `${file.path} is empty`);
  const data = chunk ? bytes.subarray(0, -4) : bytes;
  // The library that reads Zarr drops this CRC without a look at it.
  check(
    !chunk || bytes.readUInt32LE(data.length) === crc32c(data),
    `${file.path} is damaged: it has another CRC`,
  );
  const blocks = blockChecksums(data);
  const same = blocks.length === file.blocks.length && blocks.every((crc, i) => crc === file.blocks[i]);
  check(same, `${file.path} is damaged: a block has another checksum`);
  return bytes;
}

/** Read a file and compare its SHA-256. @param {string} root @param {File} file @returns {Buffer} */
export function readHashed(root, file) {
  const bytes = readFile(root, file.path, file);
  check(sha256(bytes) === file.sha256, `${file.path} is damaged: it has another hash`);
  return bytes;
}

/** A JSON file whose last member is the hash of what is before it. @param {Buffer} bytes @param {string} name */
export function parseDocument(bytes, name) {
  const ending = /^,\n {2}"sha256": "([0-9a-f]{64})"\n\}\n$/.exec(bytes.subarray(-ENDING).toString('latin1'));
  check(ending, `${name} does not end with its hash`);
  check(sha256(bytes.subarray(0, -ENDING)) === ending[1], `${name} is damaged: it has another hash`);
  const document = parseJson(utf8(bytes));
  check(document && typeof document === 'object' && !Array.isArray(document), `${name} is not one object`);
  return document;
}

// --------------------------------------------------------------------------------- Arrow

/** The position of a field of a flatbuffer's table, or 0 if it is absent. */
function field(view, table, index) {
  const vtable = table - view.getInt32(table, true);
  const slot = 4 + 2 * index;
  const offset = slot < view.getUint16(vtable, true) ? view.getUint16(vtable + slot, true) : 0;
  return offset && table + offset;
}

/** Follow an offset of a flatbuffer. */
const follow = (view, at) => at + view.getUint32(at, true);

/**
 * Refuse a batch that is compressed, has nulls, has buffers outside its body, or is longer than its body
 * has bits, so that nothing makes us allocate more than a small multiple of the file.
 */
function checkBatch(view, batch, bodyLength) {
  check(field(view, batch, 3) === 0, 'it is compressed');
  const structs = (index) => {
    const at = field(view, batch, index);
    const vector = at && follow(view, at);
    const words = (i) => [0, 8].map((k) => Number(view.getBigInt64(vector + 4 + 16 * i + k, true)));
    return Array.from({ length: at && view.getUint32(vector, true) }, (_, i) => words(i));
  };
  const rows = field(view, batch, 0);
  const limit = rows ? Number(view.getBigInt64(rows, true)) : 0;
  for (const [length, nulls] of [[limit, 0], ...structs(1)]) {
    check(nulls === 0, 'it has nulls');
    check(length >= 0 && length <= 8 * bodyLength, 'a column is longer than its batch');
  }
  for (const [start, length] of structs(2)) {
    check(start >= 0 && length >= 0 && start + length <= bodyLength, 'a buffer lies outside its batch');
  }
}

/**
 * Refuse a schema, or a field of one, with longer lists than its bytes can hold: the library would believe
 * them, and a small file would take minutes and gigabytes.
 * @param {number[]} lists where children and metadata are among the table's fields
 * @param {{left: number}} budget entries that the rest may have
 */
function checkLists(view, table, [children, metadata], budget) {
  const lists = [children, metadata]
    .map((index) => field(view, table, index))
    .map((at) => at && follow(view, at));
  const [fields, entries] = lists.map((vector) => (vector ? view.getUint32(vector, true) : 0));
  budget.left -= fields + entries;
  check(budget.left >= 0, 'its schema is longer than its bytes');
  for (let i = 1; i <= fields; i++) checkLists(view, follow(view, lists[0] + 4 * i), [5, 6], budget);
}

/**
 * Look at the messages of an Arrow stream before any of them is read: a schema, possibly dictionaries,
 * one uncompressed record batch, and the end, which nothing follows.
 * @param {Buffer} bytes
 */
function checkStream(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const types = [];
  for (let at = 0; ;) {
    check(view.getUint32(at, true) === 0xffffffff, 'not an Arrow stream');
    const size = view.getInt32(at + 4, true);
    at += 8;
    if (size === 0) {
      check(at === bytes.length, 'something follows the end of the stream');
      break;
    }
    check(size > 0 && at + size <= bytes.length, 'it is cut off');
    const message = follow(view, at);
    const type = view.getUint8(field(view, message, 1));
    const header = follow(view, field(view, message, 2));
    const body = field(view, message, 3);
    const bodyLength = body && Number(view.getBigInt64(body, true));
    check(bodyLength >= 0 && at + size + bodyLength <= bytes.length, 'it is cut off');
    if (type === 1) checkLists(view, header, [1, 2], { left: size });
    const metadata = field(view, message, 4);
    check(!metadata || view.getUint32(follow(view, metadata), true) <= size, 'it is cut off');
    if (type === 3) checkBatch(view, header, bodyLength);
    if (type === 2) checkBatch(view, follow(view, field(view, header, 1)), bodyLength);
    types.push(type);
    at += size + bodyLength;
  }
  check(/^1(2)*3$/.test(types.join('')), 'not a stream of one record batch');
}

/** Refuse offsets of lists and strings that would read outside their items, at any level. @param {any} data Arrow */
function checkOffsets(data) {
  const isList = DataType.isList(data.type);
  if (data.length && (isList || DataType.isUtf8(data.type) || DataType.isBinary(data.type))) {
    const offsets = data.valueOffsets;
    const items = isList ? data.children[0].length : data.values.length;
    let ok = offsets.length > data.length && offsets[0] >= 0 && offsets[data.length] <= items;
    for (let i = 0; ok && i < data.length; i++) ok = offsets[i] <= offsets[i + 1];
    check(ok, 'offsets of a column are wrong');
  }
  data.children.forEach(checkOffsets);
}

/**
 * @param {Buffer} bytes @param {string} name for messages
 * @returns {{rows: number, metadata: Map<string, string>, columns: Map<string, any>, table: any}} columns
 *   are Arrow `Data`
 */
export function parseArrow(bytes, name) {
  try {
    checkStream(bytes);
    const table = tableFromIPC(bytes);
    const fields = table.schema.fields;
    const batch = table.batches[0].data;
    const columns = new Map(fields.map((f, i) => [f.name, batch.children[i]]));
    check(columns.size === fields.length, 'two columns have one name');
    check(
      batch.children.every((child) => child.length === batch.length),
      'columns differ in length',
    );
    checkOffsets(batch);
    return { rows: batch.length, metadata: table.schema.metadata, columns, table };
  } catch (error) {
    // Offsets outside the file make DataView or the library throw, which is a refusal as well.
    throw new CacheError(`${name}: ${error.message}`, { cause: error });
  }
}

/** The rows of a table as objects; hashes as hexadecimal digits. @param {any} table */
export function records(table) {
  const plain = (value) => {
    if (typeof value === 'bigint') {
      check(Number.isSafeInteger(Number(value)), `${value} is too large`);
      return Number(value);
    }
    if (value === null || typeof value !== 'object') return value;
    if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
    if (
      typeof value.toJSON === 'function' &&
      !Array.isArray(value) &&
      !(Symbol.isConcatSpreadable in value)
    ) {
      return Object.fromEntries(Object.entries(value.toJSON()).map(([k, v]) => [k, plain(v)]));
    }
    return Array.from(value, plain);
  };
  return Array.from(table, plain);
}

/** The dtype of a column of plain numbers. @param {any} type Arrow */
function dtypeOf(type) {
  if (DataType.isInt(type)) return `${type.isSigned ? '' : 'u'}int${type.bitWidth}`;
  return DataType.isFloat(type) ? `float${[16, 32, 64][type.precision]}` : String(type);
}

/**
 * The raw numbers of a column.
 * @param {any} data Arrow
 * @returns {{values: any, dtype: string, width: number, offsets: Int32Array | null}} `width` numbers a row,
 *   or, if `offsets` says where each row's items are, a position
 */
export function numbersOf(data) {
  let offsets = null;
  let width = 1;
  if (DataType.isList(data.type)) {
    offsets = data.valueOffsets;
    data = data.children[0];
  }
  let length = data.length;
  if (DataType.isFixedSizeList(data.type)) {
    width = data.type.listSize;
    length *= width;
    data = data.children[0];
  }
  check(data.values.length >= length, 'a column is cut off');
  return { values: data.values, dtype: dtypeOf(data.type), width, offsets };
}

/** The bytes of each row of a column of strings or bytes. @param {any} data Arrow */
export function binaryOf(data) {
  const offsets = data.valueOffsets;
  return Array.from({ length: data.length }, (_, i) => data.values.subarray(offsets[i], offsets[i + 1]));
}

/** The sample ids of a column: BigInt or string. @param {any} data Arrow @param {string} idType */
export function idsOf(data, idType) {
  check(data, 'it has no sample ids');
  if (idType === 'string') {
    check(DataType.isUtf8(data.type), 'sample ids are not strings');
    return binaryOf(data).map(utf8);
  }
  const { values, dtype } = numbersOf(data);
  check(dtype === 'int64', 'sample ids are not int64');
  return values.subarray(0, data.length);
}

/**
 * A shard of any target but `rows`.
 * @typedef {object} Shard
 * @property {any} self what it says about itself
 * @property {Uint8Array} valid 0 or 1 for each row
 * @property {ArrayLike<bigint | string>} ids
 * @property {Int32Array} views
 * @property {Map<string, {values: any, dtype: string, width: number, offsets: Int32Array | null}>} columns
 */

/** @param {string} root @param {any} record of the manifest @param {string} idType @returns {Shard} */
export function readArrowShard(root, record, idType) {
  check(record.files.length === 1, 'an Arrow shard is one file');
  const file = record.files[0];
  const { rows, metadata, columns } = parseArrow(readBlocks(root, file), file.path);
  const valid = columns.get('valid');
  check(
    rows === record.rows && valid && DataType.isBool(valid.type),
    `${file.path} has no column valid of its rows`,
  );
  const numbers = [...columns].filter(([name]) => !['valid', 'sample_id'].includes(name));
  const raw = new Map(numbers.map(([name, data]) => [name, numbersOf(data)]));
  check(raw.get('view')?.dtype === 'int32', `${file.path} has no column view`);
  return {
    self: parseJson(metadata.get('softcache') ?? 'null'),
    valid: Uint8Array.from({ length: rows }, (_, i) => (valid.values[i >> 3] >> (i & 7)) & 1),
    ids: idsOf(columns.get('sample_id'), idType),
    views: raw.get('view').values,
    columns: raw,
  };
}

// ---------------------------------------------------------------------------------- Zarr

const SIZES = { bool: 1, uint8: 1, uint16: 2, float16: 2, int32: 4, float32: 4, int64: 8 };

/** Refuse an array that is compressed, has several chunks, or is larger than its chunk. */
function checkArray(name, meta, chunk) {
  const codecs = meta.codecs.map((codec) => codec.name).join(' ');
  const serializer = meta.data_type === 'string' ? 'vlen-utf8' : 'bytes';
  check(codecs === `${serializer} crc32c`, `the array ${name} has the codecs ${codecs}`);
  const endian = meta.codecs[0].configuration?.endian ?? 'little';
  check(endian === 'little', `the array ${name} is not little-endian`);
  const { chunk_shape: chunks } = meta.chunk_grid.configuration;
  check(String(chunks) === String(meta.shape), `the array ${name} is not one chunk`);
  check(chunk, `the chunk of ${name} is missing`);
  if (serializer === 'vlen-utf8') return;
  const bytes = meta.shape.reduce((a, b) => a * b, SIZES[meta.data_type]);
  check(chunk.length === bytes + 4, `the chunk of ${name} has another size than its shape`);
}

/**
 * The strings of a chunk: their number, then each one's length and UTF-8. (The library takes a byte order
 * mark at the start of a string away, and with it what tells two ids apart.)
 * @param {Buffer} chunk @returns {string[]}
 */
function stringsOf(chunk) {
  const end = chunk.length - 4;
  const strings = [];
  let at = 4;
  for (let left = chunk.readUInt32LE(0); left > 0; left--) {
    check(at + 4 <= end, 'strings are cut off');
    const stop = at + 4 + chunk.readUInt32LE(at);
    check(stop <= end, 'strings are cut off');
    strings.push(utf8(chunk.subarray(at + 4, stop)));
    at = stop;
  }
  return strings;
}

/** @param {string} root @param {any} record of the manifest @param {string} idType @returns {Promise<Shard>} */
export async function readZarrShard(root, record, idType) {
  const inside = (file) => file.path.slice(file.path.indexOf('.zarr/') + 5);
  // The library takes memory to begin with the file, which is not so in Node's shared buffers.
  const read = (file) => Buffer.from(new Uint8Array(readBlocks(root, file)).buffer);
  const store = new Map(record.files.map((file) => [inside(file), read(file)]));
  const names = [...store.keys()].flatMap((file) => file.match(/^\/([^/]+)\/zarr\.json$/)?.[1] ?? []);
  const columns = new Map();
  const arrays = new Map();
  const group = zarr.root(store);
  for (const name of names) {
    const meta = parseJson(utf8(store.get(`/${name}/zarr.json`)));
    const dtype = meta.data_type;
    const chunk = store.get(`/${name}/c/${meta.shape.map(() => 0).join('/')}`);
    checkArray(name, meta, chunk);
    check(meta.shape[0] === record.rows, `the array ${name} has another number of rows`);
    if (dtype === 'string') {
      arrays.set(name, stringsOf(chunk));
      continue;
    }
    if (dtype === 'float16') {
      // Node 20 has no Float16Array, so we read the bits.
      const bits = { ...meta, data_type: 'uint16', fill_value: 0 };
      store.set(`/${name}/zarr.json`, Buffer.from(JSON.stringify(bits)));
    }
    const array = await zarr.open.v3(group.resolve(name), { kind: 'array' });
    const { data } = await array.getChunk(array.shape.map(() => 0));
    const width = array.shape.slice(1).reduce((a, b) => a * b, 1);
    arrays.set(name, data);
    if (name !== 'valid' && name !== 'sample_id')
      columns.set(name, { values: data, dtype, width, offsets: null });
  }
  check(
    ['valid', 'sample_id', 'view'].every((name) => arrays.has(name)),
    'an array of the shard is missing',
  );
  const attributes = parseJson(utf8(store.get('/zarr.json'))).attributes;
  const ids = Array.from(arrays.get('sample_id'));
  const right = (id) => typeof id === (idType === 'string' ? 'string' : 'bigint');
  check(ids.length === record.rows && ids.every(right), 'sample ids have another type or number');
  return {
    self: attributes.softcache,
    valid: Uint8Array.from(arrays.get('valid'), Number),
    ids,
    views: arrays.get('view'),
    columns,
  };
}

/** The hash in the name of a Zarr shard. @param {File[]} files of the shard in a manifest @returns {string} */
export function shardHash(files) {
  const inside = (file) => file.path.slice(file.path.indexOf('.zarr/') + 6);
  return listingHash(files.map((file) => ({ path: inside(file), sha256: file.sha256 })));
}
