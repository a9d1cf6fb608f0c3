/**
 * A reader of softcache caches, written from docs/format.md alone. It shows that the page suffices.
 *
 *     const cache = await Cache.open('runs/digits');
 *     const row = await (await cache.target('digit@a')).get(17, 0);
 *     row.items[0].logP(2).logP;
 */
import fs from 'node:fs';
import path from 'node:path';
import { DataType } from 'apache-arrow';
import {
  checkDeclaration,
  columnsOf,
  decodeItems,
  decodeValues,
  floats,
  isList,
  isNumbers,
} from './codecs.mjs';
import { byCodePoint, check, CacheError, indexKey, parseJson, sha256 } from './hashing.mjs';
import {
  binaryOf,
  checkPath,
  idsOf,
  JSON_LIMIT,
  numbersOf,
  parseArrow,
  parseDocument,
  readArrowShard,
  readBlocks,
  readFile,
  readHashed,
  readZarrShard,
  records,
} from './storage.mjs';

export * from './hashing.mjs';

/** Shards that a target keeps in memory. */
const KEPT = 8;

const isTarget = (name) =>
  name === 'rows' || (/^[a-z0-9][a-z0-9_.-]*@[a-z0-9][a-z0-9_.-]*$/.test(name) && name.length <= 200);
const isSplit = (name) => /^[\p{L}\p{N}_]+(\.[\p{L}\p{N}_]+)*$/u.test(name) && name !== 'all';

/** The path of a commit. @param {number} number */
function commitPath(number) {
  const thousands = String(Math.floor(number / 1000)).padStart(3, '0');
  return `commits/${thousands}/${String(number).padStart(20, '0')}.json`;
}

/** The numbers of the commits in a folder; other files are not part of the cache. @param {string} root */
function commitNumbers(root) {
  const numbers = [];
  const list = (folder) => (fs.existsSync(folder) ? fs.readdirSync(folder) : []);
  for (const thousands of list(path.join(root, 'commits'))) {
    if (!/^\d{3,}$/.test(thousands)) continue;
    for (const name of list(path.join(root, 'commits', thousands))) {
      const number = Number(/^(\d{20})\.json$/.exec(name)?.[1]);
      if (commitPath(number) === `commits/${thousands}/${name}`) numbers.push(number);
    }
  }
  return numbers.sort((a, b) => a - b);
}

/** @param {string} root @param {string} name @returns {{document: any, hash: string}} */
function readDocument(root, name) {
  const bytes = readFile(root, name, { limit: JSON_LIMIT });
  return { document: parseDocument(bytes, name), hash: sha256(bytes) };
}

/** The last of sorted `items` whose `key` is at most `value`, by bisection. @returns {number} -1 if none */
function lastAtMost(items, key, value) {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(items[middle]) <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** A cache at one commit. Make it with `Cache.open`. */
export class Cache {
  #segments = new Map();

  /**
   * @param {string} root the folder
   * @param {{commit?: number}} [options] the number of a commit; the newest if it is not given
   * @returns {Promise<Cache>}
   */
  static async open(root, { commit } = {}) {
    const cache = new Cache();
    cache.root = root;
    const marker = readDocument(root, 'softcache.json');
    check(marker.document.format === 'softcache', 'not a softcache cache');
    check(marker.document.version === 1, `unknown version ${marker.document.version}`);
    const numbers = commitNumbers(root);
    check(numbers.length > 0, 'the cache has no commit');
    check(
      numbers.every((number, i) => number === i + 1),
      'the numbers of the commits have gaps',
    );
    const number = commit ?? numbers.length;
    check(numbers.includes(number), `there is no commit ${number}`);
    cache.commit = readDocument(root, commitPath(number)).document;
    cache.#checkCommit(number, marker.hash);
    if (number === numbers.length && number > 1) {
      const parent = sha256(readFile(root, commitPath(number - 1), { limit: JSON_LIMIT }));
      check(cache.commit.parent?.number === number - 1, 'the commit names another parent');
      check(cache.commit.parent.sha256 === parent, 'the parent of the commit has another hash');
    }
    cache.rows = new Rows(cache, 'rows', cache.commit.manifests.rows);
    return cache;
  }

  #checkCommit(number, marker) {
    const { commit } = this;
    for (const feature of commit.reader_features) throw new CacheError(`unknown feature ${feature}`);
    check(commit.manifests?.rows, 'the commit names no rows');
    check(commit.number === number, `commit ${number} says that it is ${commit.number}`);
    check(commit.marker_sha256 === marker, 'the commit belongs to another marker');
    for (const name of Object.keys(commit.manifests)) check(isTarget(name), `not a target: ${name}`);
    for (const name of Object.keys(commit.splits)) check(isSplit(name), `not a split: ${name}`);
    check(['int64', 'string'].includes(commit.id_type), `unknown type of ids ${commit.id_type}`);
  }

  /** The names of the targets, without `rows`. @returns {string[]} */
  get targets() {
    return Object.keys(this.commit.manifests)
      .filter((name) => name !== 'rows')
      .sort(byCodePoint);
  }

  /** @param {string} name @returns {Promise<Target>} */
  async target(name) {
    check(Object.hasOwn(this.commit.manifests, name) && name !== 'rows', `there is no target ${name}`);
    return new Target(this, name, this.commit.manifests[name]);
  }

  /**
   * The row of a sample's view, through the index.
   * @param {number | bigint | string} id @param {number} [view]
   * @returns {Promise<number | null>} null if the cache has no such row
   */
  async find(id, view = 0) {
    const strings = this.commit.id_type === 'string';
    check(strings === (typeof id === 'string'), `sample ids are of the type ${this.commit.id_type}`);
    const wanted = strings ? id : BigInt(id);
    const key = strings ? indexKey(id) : wanted;
    for (const file of this.commit.index) {
      const { keys, rows } = this.#segment(file);
      for (let i = lastAtMost(keys, (k) => k, key); i >= 0 && keys[i] === key; i--) {
        const shard = this.rows.shardOf(Number(rows[i]));
        const sample = (Number(rows[i]) - shard.first_row) / shard.views;
        check(Number.isInteger(sample), 'an entry of the index is not the first view of a sample');
        // Two strings may have one key, so the stored id decides.
        if (this.rows.samples(shard).ids[sample] !== wanted) continue;
        if (view >= shard.first_view && view < shard.first_view + shard.views) {
          return Number(rows[i]) + view - shard.first_view;
        }
      }
    }
    return null;
  }

  /**
   * A segment of the index. We read it whole and compare its blocks and its hash, which suffices both
   * for an entry that is found and for a key that is missing.
   */
  #segment(file) {
    if (!this.#segments.has(file.path)) {
      const bytes = readBlocks(this.root, file);
      check(sha256(bytes) === file.sha256, `${file.path} is damaged: it has another hash`);
      const { columns } = parseArrow(bytes, file.path);
      const [key, row] = ['key', 'row'].map((name) => {
        check(columns.has(name), `${file.path} has no column ${name}`);
        const data = columns.get(name);
        const { values, dtype } = numbersOf(data);
        const expected = name === 'key' && this.commit.id_type === 'string' ? 'uint64' : 'int64';
        check(dtype === expected, `${file.path} has a ${name} of type ${dtype}`);
        return values.subarray(0, data.length);
      });
      this.#segments.set(file.path, { keys: key, rows: row });
    }
    return this.#segments.get(file.path);
  }
}

/** What `rows` and other targets share: a manifest with live shards. */
class Manifest {
  /** @param {Cache} cache @param {string} name @param {import('./storage.mjs').File} file */
  constructor(cache, name, file) {
    const { table, metadata } = parseArrow(readHashed(cache.root, file), file.path);
    check(metadata.get('softcache.target') === name, `${file.path} is not of the target ${name}`);
    this.cache = cache;
    this.name = name;
    this.metadata = metadata;
    this.shards = records(table);
    const layout = (shard) =>
      JSON.stringify([shard.files.length, shard.columns.map((column) => column.name)]);
    for (const shard of this.shards) {
      const where = `${name}, fragment ${shard.fragment}`;
      check(isSplit(shard.split), `${where}: not a split: ${shard.split}`);
      check(
        shard.views > 0 && shard.rows > 0 && shard.rows % shard.views === 0,
        `${where}: a wrong number of rows`,
      );
      for (const entry of shard.files) checkPath(entry.path);
      for (const column of shard.columns) {
        const inside = column.offset >= 0 && column.offset + column.bytes <= shard.files[column.file]?.bytes;
        check(inside && column.bytes >= 0, `${where}: the column ${column.name} lies outside its file`);
      }
      const bytes = shard.files.reduce((sum, entry) => sum + entry.bytes, 0);
      check(shard.rows <= 8 * bytes, `${where}: more rows than its files have bits`);
      check(
        layout(shard) === layout(this.shards[0]),
        `${where}: other files or columns than the first shard`,
      );
    }
  }

  /** The live shard with a row. @param {number} row */
  shardOf(row) {
    const shard = this.shards[lastAtMost(this.shards, (s) => s.first_row, row)];
    check(shard && row < shard.first_row + shard.rows, `${this.name} does not cover the row ${row}`);
    return shard;
  }
}

/** The target `rows`: what identifies each row. */
class Rows extends Manifest {
  #samples = new Map();

  constructor(cache, name, file) {
    super(cache, name, file);
    let next = 0;
    for (const shard of this.shards) {
      check(shard.first_row === next, `rows leaves a gap or overlaps at row ${shard.first_row}`);
      next += shard.rows;
    }
    check(next === cache.commit.rows, `rows has ${next} rows, the commit ${cache.commit.rows}`);
    this.fragments = new Map(this.shards.map((shard) => [shard.fragment, shard]));
    check(this.fragments.size === this.shards.length, 'a fragment has two shards of rows');
  }

  /**
   * The samples of a fragment, one after the other.
   * @returns {{ids: ArrayLike<bigint | string>, content: Uint8Array[], split: string[], columns: Map<string, any>,
   *   table: any}}
   */
  samples(shard) {
    const [file] = shard.files;
    if (!this.#samples.has(file.path)) {
      const { rows, columns, table } = parseArrow(readBlocks(this.cache.root, file), file.path);
      check(rows * shard.views === shard.rows, `${file.path} has another number of samples`);
      const binary = (name) => {
        const data = columns.get(name);
        check(
          data && (DataType.isBinary(data.type) || DataType.isUtf8(data.type)),
          `${file.path} has no column ${name}`,
        );
        return binaryOf(data);
      };
      const ids = idsOf(columns.get('sample_id'), this.cache.commit.id_type);
      const split = binary('split').map((bytes) => Buffer.from(bytes).toString());
      this.#samples.set(file.path, { ids, content: binary('content'), split, columns, table });
    }
    return this.#samples.get(file.path);
  }

  /**
   * What identifies a row.
   * @param {number} row
   * @returns {{sampleId: bigint | string, view: number, split: string, content: string}} the content hash
   *   in hexadecimal digits
   */
  key(row) {
    const shard = this.shardOf(row);
    const samples = this.samples(shard);
    const r = row - shard.first_row;
    const sample = Math.floor(r / shard.views);
    return {
      sampleId: samples.ids[sample],
      view: shard.first_view + (r % shard.views),
      split: samples.split[sample],
      content: Buffer.from(samples.content[sample]).toString('hex'),
    };
  }
}

/**
 * An answer.
 * @typedef {object} Row
 * @property {number} row @property {bigint | string} sampleId @property {number} view
 * @property {boolean} valid whether there is an answer; if not, there is nothing else
 * @property {(import('./codecs.mjs').Full | import('./codecs.mjs').Topk | import('./codecs.mjs').Sampled |
 *   import('./codecs.mjs').Served)[]} [items] distributions: one, one for each place of a map in C order,
 *   or one for each position of a list
 * @property {Float64Array} [values] of features and regression, in C order
 * @property {Record<string, Float64Array>} [parts] such as `boxes`, item after item
 * @property {Int32Array} [inputIds] @property {Int32Array} [positions] of causal_lm
 */

/** A target other than `rows`. */
export class Target extends Manifest {
  #shards = new Map();
  #tables;

  constructor(cache, name, file) {
    super(cache, name, file);
    const record = this.metadata.get('softcache.record') ?? '';
    check(Buffer.byteLength(record) <= JSON_LIMIT, `the record of ${name} is too large`);
    this.record = parseJson(record);
    /** The declaration with floats kept apart from integers, as its fingerprint takes it. */
    this.exactDeclaration = parseJson(record, true).declaration;
    this.declaration = this.record.declaration;
    this.fingerprint = this.record.fingerprint;
    checkDeclaration(this.declaration);
    const same = ['first_row', 'rows', 'split', 'keys_sha256', 'first_view', 'views'];
    this.shards.forEach((shard, i) => {
      const rows = cache.rows.fragments.get(shard.fragment);
      check(
        rows && same.every((key) => rows[key] === shard[key]),
        `${name}: fragment ${shard.fragment} is not as in rows`,
      );
      check(i === 0 || this.shards[i - 1].first_row < shard.first_row, `${name}: shards are not in order`);
    });
  }

  /**
   * The answer for a sample's view.
   * @param {number | bigint | string} id @param {number} [view]
   * @param {{content?: string}} [options] the content hash that the sample must have, in hexadecimal digits
   * @returns {Promise<Row | null>} null if the cache has no such row
   */
  async get(id, view = 0, { content } = {}) {
    const row = await this.cache.find(id, view);
    if (row === null) return null;
    const key = this.cache.rows.key(row);
    check(content === undefined || content === key.content, `the sample ${id} had another content`);
    return this.row(row);
  }

  /** @param {number} row @returns {Promise<Row>} */
  async row(row) {
    const record = this.shardOf(row);
    const shard = await this.#shard(record);
    const r = row - record.first_row;
    const { sampleId, view } = this.cache.rows.key(row);
    check(
      shard.ids[r] === sampleId && shard.views[r] === view,
      `${this.name}: row ${row} is of another sample`,
    );
    if (!shard.valid[r]) return { row, sampleId, view, valid: false };
    return { row, sampleId, view, valid: true, ...this.#decode(shard, r) };
  }

  #decode(shard, r) {
    const { task, codec } = this.declaration;
    const list = isList(task);
    // A row of a list has the positions first ... last - 1; any other row is a position of its own.
    const [first, last] = list ? shard.offsets.subarray(r, r + 2) : [r, r + 1];
    const getter = (position) => (name) => {
      const column = shard.columns.get(name);
      return column && column.values.subarray(position * column.width, (position + 1) * column.width);
    };
    const parts = {};
    for (const part of task.parts) {
      const { values, width } = shard.columns.get(part);
      parts[part] = floats(values.subarray(first * width, last * width), 'float32');
    }
    if (isNumbers(task)) return { values: decodeValues(codec, getter(r)), parts };
    const items = [];
    for (let i = first; i < last; i++) items.push(...decodeItems(this.declaration, getter(i), this.tables));
    if (task.kind !== 'causal_lm') return { items, parts };
    const [inputIds, positions] = ['input_ids', 'positions'].map((name) => {
      const { values, offsets: ends } = shard.columns.get(name);
      return values.subarray(ends[r], ends[r + 1]);
    });
    return { items, parts, inputIds, positions };
  }

  async #shard(record) {
    const { path: name } = record.files[0];
    if (!this.#shards.has(name)) {
      const read = this.declaration.format === 'zarr' ? readZarrShard : readArrowShard;
      const shard = await read(this.cache.root, record, this.cache.commit.id_type);
      this.#checkShard(shard, name);
      if (this.#shards.size === KEPT) this.#shards.delete(this.#shards.keys().next().value);
      this.#shards.set(name, shard);
    }
    return this.#shards.get(name);
  }

  /** Columns must be those that the codec decodes, so that no answer is made of something else. */
  #checkShard(shard, name) {
    const { task, codec } = this.declaration;
    check(shard.self?.fingerprint === this.fingerprint, `${name} is a shard of another target`);
    const list = isList(task);
    for (const { name: column, dtype, numbers } of columnsOf(codec, task)) {
      const found = shard.columns.get(column);
      const right =
        found && found.dtype === dtype && found.width === numbers && list === Boolean(found.offsets);
      check(right, `${name}: the column ${column} is missing or has another type`);
      if (list) {
        shard.offsets ??= found.offsets;
        const same =
          found.offsets[0] === 0 &&
          shard.valid.every((_, r) => found.offsets[r + 1] === shard.offsets[r + 1]);
        check(same, `${name}: the lists of ${column} have other lengths`);
      }
    }
    for (const column of task.kind === 'causal_lm' ? ['input_ids', 'positions'] : []) {
      const found = shard.columns.get(column);
      check(
        found?.dtype === 'int32' && found.offsets,
        `${name}: the column ${column} is missing or has another type`,
      );
    }
  }

  /** The numbers of the tables that decoding needs, read once. */
  get tables() {
    this.#tables ??= this.#readTables();
    return this.#tables;
  }

  #readTables() {
    const { codec, task } = this.declaration;
    const tables = {};
    for (const name of ['basis', 'output']) {
      const file = this.record.tables?.[name];
      if (!file) continue;
      const bytes = readHashed(this.cache.root, file);
      const { rows, columns } = parseArrow(bytes, file.path);
      check(rows === task.shape[0], `the table ${name} has another number of classes`);
      const read = (column, width) => {
        if (!columns.has(column)) return undefined;
        const found = numbersOf(columns.get(column));
        check(found.width === width, `the table ${name} has another width`);
        // A table has no other integers than the bits of bfloat16.
        return floats(
          found.values.subarray(0, rows * width),
          found.dtype === 'uint16' ? 'bfloat16' : found.dtype,
        );
      };
      if (name === 'basis') tables.basis = read('basis', codec.basis + 1);
      else tables.output = { weight: read('weight', codec.width), bias: read('bias', 1) };
    }
    check(codec.name !== 'hidden' || tables.output?.weight, `${this.name} has no table of its output layer`);
    check(
      !(codec.name === 'topk' && codec.basis && task.shape[0] > codec.k) || tables.basis,
      `${this.name} has no basis`,
    );
    return tables;
  }
}
