/**
 * A reader of softcache caches, written from docs/format.md alone. It shows that the page suffices.
 *
 *     const row = Cache.open('runs/digits').target('digit@a').get(17, 0);
 *     row.items[0].logP(2).logP;
 */
import fs from 'node:fs';
import path from 'node:path';
import * as codecs from './codecs.mjs';
import { byCodePoint, canonicalJson, check, indexKey, parseJson, sha256 } from './hashing.mjs';
import * as storage from './storage.mjs';

export * from './hashing.mjs';

/** Shards that `rows` and each target keep in memory. */
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
  const folder = path.join(root, 'commits');
  const names = fs.existsSync(folder) ? fs.readdirSync(folder, { recursive: true }) : [];
  const number = (name) => Number(/\/(\d{20})\.json$/.exec(name)?.[1] ?? 0);
  const inPlace = names.filter((name) => commitPath(number(name)) === `commits/${name}`);
  return inPlace.map(number).sort((a, b) => a - b);
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
   * @returns {Cache}
   */
  static open(root, { commit } = {}) {
    const cache = new Cache();
    cache.root = root;
    const marker = storage.readDocument(root, 'softcache.json');
    check(marker.document.format === 'softcache', 'not a softcache cache');
    check(marker.document.version === 1, `unknown version ${marker.document.version}`);
    const numbers = commitNumbers(root);
    check(numbers.length > 0, 'the cache has no commit');
    const gaps = numbers.some((number, i) => number !== i + 1);
    check(!gaps, 'the numbers of the commits have gaps');
    const number = commit ?? numbers.length;
    check(numbers.includes(number), `there is no commit ${number}`);
    cache.commit = storage.readDocument(root, commitPath(number)).document;
    cache.#checkCommit(number, marker.hash);
    if (number === numbers.length && number > 1) {
      const { hash } = storage.readDocument(root, commitPath(number - 1));
      const { parent } = cache.commit;
      check(parent?.number === number - 1 && parent.sha256 === hash, 'the commit has another parent');
    }
    cache.rows = new Rows(cache, 'rows', cache.commit.manifests.rows);
    return cache;
  }

  #checkCommit(number, marker) {
    const { commit } = this;
    check(commit.reader_features.length === 0, `unknown features ${commit.reader_features}`);
    check(commit.manifests?.rows, 'the commit names no rows');
    check(commit.number === number, `commit ${number} says that it is ${commit.number}`);
    check(commit.marker_sha256 === marker, 'the commit belongs to another marker');
    for (const name of Object.keys(commit.manifests)) check(isTarget(name), `not a target: ${name}`);
    for (const name of Object.keys(commit.splits)) check(isSplit(name), `not a split: ${name}`);
    check(['int64', 'string'].includes(commit.id_type), `unknown type of ids ${commit.id_type}`);
  }

  /** The names of the targets, without `rows`. @returns {string[]} */
  get targets() {
    const names = Object.keys(this.commit.manifests).sort(byCodePoint);
    return names.filter((name) => name !== 'rows');
  }

  /** @param {string} name @returns {Target} */
  target(name) {
    check(Object.hasOwn(this.commit.manifests, name) && name !== 'rows', `there is no target ${name}`);
    return new Target(this, name, this.commit.manifests[name]);
  }

  /**
   * The row of a sample's view, through the index.
   * @param {number | bigint | string} id @param {number} [view]
   * @returns {number | null} null if the cache has no such row
   */
  find(id, view = 0) {
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
        if (this.rows.read(shard).ids[sample] !== wanted) continue;
        if (view >= shard.first_view && view < shard.first_view + shard.views)
          return Number(rows[i]) + view - shard.first_view;
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
      const bytes = storage.readBlocks(this.root, file);
      check(sha256(bytes) === file.sha256, `${file.path} is damaged: it has another hash`);
      const { columns } = storage.parseArrow(bytes, file.path);
      const [keys, rows] = ['key', 'row'].map((name) => {
        const { values, dtype, width } = columns.get(name) ?? {};
        const expected = name === 'key' && this.commit.id_type === 'string' ? 'uint64' : 'int64';
        check(dtype === expected && width === 1, `${file.path} has no column ${name} of ${expected}`);
        return values;
      });
      this.#segments.set(file.path, { keys, rows });
    }
    return this.#segments.get(file.path);
  }
}

/** What `rows` and other targets share: a manifest with live shards. */
class Manifest {
  #kept = new Map();

  /** @param {Cache} cache @param {string} name @param {import('./storage.mjs').File} file */
  constructor(cache, name, file) {
    const { rows, metadata, columns } = storage.parseArrow(storage.readHashed(cache.root, file), file.path);
    check(metadata('softcache.target') === name, `${file.path} is not of the target ${name}`);
    Object.assign(this, { cache, name, metadata });
    const record = (_, i) => Object.fromEntries([...columns].map(([key, column]) => [key, column.at(i)]));
    this.shards = Array.from({ length: rows }, record);
  }

  /** Check the shards, whose files have these columns. @param {import('./storage.mjs').Spec[]} specs */
  checkShards(specs) {
    this.specs = specs;
    const layout = (shard) => JSON.stringify([shard.files.length, shard.columns.map(({ name }) => name)]);
    for (const shard of this.shards) {
      const { fragment, split, rows, views, files } = shard;
      const need = (condition, message) => check(condition, `${this.name}, fragment ${fragment}: ${message}`);
      need(isSplit(split), `not a split: ${split}`);
      need(views > 0 && rows > 0 && rows % views === 0, 'a wrong number of rows');
      for (const entry of files) storage.checkPath(entry.path);
      const bytes = files.reduce((sum, entry) => sum + entry.bytes, 0);
      need(rows <= 8 * bytes, 'more rows than its files have bits');
      storage.checkColumns(shard, this.rowsOf(shard), specs);
      need(layout(shard) === layout(this.shards[0]), 'other files or columns than the first shard');
    }
  }

  /** Rows of the files of a shard; `rows` has one for all views of a sample. */
  rowsOf({ rows, views }) {
    return this.name === 'rows' ? rows / views : rows;
  }

  /** The live shard with a row. @param {number} row */
  shardOf(row) {
    const shard = this.shards[lastAtMost(this.shards, (s) => s.first_row, row)];
    check(shard && row < shard.first_row + shard.rows, `${this.name} does not cover the row ${row}`);
    return shard;
  }

  /** @param {any} record of a shard @returns {any} see `readShard` */
  read(record) {
    const { path: name } = record.files[0];
    if (!this.#kept.has(name)) {
      const { root, commit } = this.cache;
      const shard = storage.readShard(root, record, this.rowsOf(record), this.specs, commit.id_type);
      this.checkShard(shard, name);
      if (this.#kept.size === KEPT) this.#kept.delete(this.#kept.keys().next().value);
      this.#kept.set(name, shard);
    }
    return this.#kept.get(name);
  }
}

/** The target `rows`: what identifies each row. */
class Rows extends Manifest {
  constructor(cache, name, file) {
    super(cache, name, file);
    this.checkShards(codecs.columnsOfRows(cache.commit.id_type));
    let next = 0;
    for (const shard of this.shards) {
      check(shard.first_row === next, `rows leaves a gap or overlaps at row ${shard.first_row}`);
      next += shard.rows;
    }
    check(next === cache.commit.rows, `rows has ${next} rows, the commit ${cache.commit.rows}`);
    this.fragments = new Map(this.shards.map((shard) => [shard.fragment, shard]));
    check(this.fragments.size === this.shards.length, 'a fragment has two shards of rows');
  }

  checkShard(shard, name) {
    check(shard.self?.target === 'rows', `${name} is a shard of another target`);
    shard.content = storage.binaryOf(shard.columns.get('content'));
    shard.split = storage.binaryOf(shard.columns.get('split')).map((bytes) => Buffer.from(bytes).toString());
  }

  /**
   * What identifies a row.
   * @param {number} row
   * @returns {{sampleId: bigint | string, view: number, split: string, content: string}} the content hash
   *   in hexadecimal digits
   */
  key(row) {
    const record = this.shardOf(row);
    const { ids, split, content } = this.read(record);
    const r = row - record.first_row;
    const sample = Math.floor(r / record.views);
    const view = record.first_view + (r % record.views);
    const hash = Buffer.from(content[sample]).toString('hex');
    return { sampleId: ids[sample], view, split: split[sample], content: hash };
  }
}

/**
 * An answer; if it is not valid, there is nothing else. Distributions are one item, one for each place of a map
 * in C order, or one for each position of a list. Features and regression have values, in C order. Parts, such
 * as `boxes`, come item after item.
 * @typedef {{row: number, sampleId: bigint | string, view: number, valid: boolean, items?: any[],
 *   values?: Float64Array, parts?: Record<string, Float64Array>, inputIds?: Int32Array,
 *   positions?: Int32Array}} Row
 */

/** A target other than `rows`. */
export class Target extends Manifest {
  #tables;

  constructor(cache, name, file) {
    super(cache, name, file);
    const record = this.metadata('softcache.record');
    check(Buffer.byteLength(record) <= storage.JSON_LIMIT, `the record of ${name} is too large`);
    this.record = parseJson(record);
    const { declaration, fingerprint } = this.record;
    Object.assign(this, { declaration, fingerprint });
    codecs.checkDeclaration(this.declaration);
    this.checkShards(codecs.columnsOf(this.declaration, cache.commit.id_type));
    const same = ['first_row', 'rows', 'split', 'keys_sha256', 'first_view', 'views'];
    this.shards.forEach((shard, i) => {
      const rows = cache.rows.fragments.get(shard.fragment);
      const placed = rows && same.every((key) => rows[key] === shard[key]);
      check(placed, `${name}: fragment ${shard.fragment} is not as in rows`);
      check(i === 0 || this.shards[i - 1].first_row < shard.first_row, `${name}: shards are not in order`);
    });
  }

  /**
   * The answer for a sample's view.
   * @param {number | bigint | string} id @param {number} [view]
   * @param {{content?: string}} [options] the content hash that the sample must have, in hexadecimal digits
   * @returns {Row | null} null if the cache has no such row
   */
  get(id, view = 0, { content } = {}) {
    const row = this.cache.find(id, view);
    if (row === null) return null;
    const key = this.cache.rows.key(row);
    check(content === undefined || content === key.content, `the sample ${id} had another content`);
    return this.row(row);
  }

  /** @param {number} row @returns {Row} */
  row(row) {
    const record = this.shardOf(row);
    const { ids, columns } = this.read(record);
    const r = row - record.first_row;
    const { sampleId, view } = this.cache.rows.key(row);
    const right = ids[r] === sampleId && columns.get('view').values[r] === view;
    check(right, `${this.name}: row ${row} is of another sample`);
    const { values: flags } = columns.get('valid');
    const valid = Boolean(this.declaration.format === 'zarr' ? flags[r] : (flags[r >> 3] >> (r & 7)) & 1);
    return { row, sampleId, view, valid, ...(valid && this.#decode(columns, r)) };
  }

  #decode(columns, r) {
    const { task, codec } = this.declaration;
    // A row of a list has the positions first ... last - 1; any other row is a position of its own.
    const slice = (name, first, last) => {
      const { values, numbers } = columns.get(name) ?? {};
      return values?.subarray(first * numbers, last * numbers);
    };
    const range = (name) => columns.get(name).offsets?.subarray(r, r + 2) ?? [r, r + 1];
    const [first, last] = range(this.specs[0].name);
    const parts = {};
    for (const part of task.parts) parts[part] = codecs.floats(slice(part, first, last), 'float32');
    const getter = (position) => (name) => slice(name, position, position + 1);
    if (codecs.isNumbers(task)) return { values: codecs.decodeValues(codec, getter(r)), parts };
    const items = [];
    for (let i = first; i < last; i++)
      items.push(...codecs.decodeItems(this.declaration, getter(i), this.tables));
    if (task.kind !== 'causal_lm') return { items, parts };
    const inputIds = slice('input_ids', ...range('input_ids'));
    return { items, parts, inputIds, positions: slice('positions', first, last) };
  }

  checkShard(shard, name) {
    check(shard.self?.fingerprint === this.fingerprint, `${name} is a shard of another target`);
    if (!codecs.isList(this.declaration.task)) return;
    const { offsets } = shard.columns.get(this.specs[0].name);
    for (const [column, { offsets: others, values, numbers }] of shard.columns) {
      if (!others || ['input_ids', 'sample_id'].includes(column)) continue;
      const same = others[0] === 0 && others.every((end, i) => end === offsets[i]);
      check(same && offsets.at(-1) === values.length / numbers, `${name}: ${column} has other lists`);
    }
  }

  /** The numbers of the tables that decoding needs, read once. */
  get tables() {
    return (this.#tables ??= this.#readTables());
  }

  /** @param {string} name */
  #table(name) {
    const file = this.record.tables?.[name];
    check(file, `${this.name} has no table ${name}`);
    return storage.parseArrow(storage.readHashed(this.cache.root, file), file.path);
  }

  #readTables() {
    const { codec, task } = this.declaration;
    const read = (table, name, width, dtypes) => {
      const { rows, columns } = this.#table(table);
      check(rows === task.shape[0], `the table ${table} has another number of classes`);
      if (name === 'bias' && !columns.has(name)) return undefined;
      const found = columns.get(name);
      const right = dtypes.includes(found?.dtype) && found.width === width;
      check(right, `the table ${table} has no column ${name} of its type and width`);
      // A table has no other integers than the bits of bfloat16.
      return codecs.floats(found.values, found.dtype === 'uint16' ? 'bfloat16' : found.dtype);
    };
    const tables = {};
    if (codec.name === 'topk' && codec.basis && task.shape[0] > codec.k)
      tables.basis = read('basis', 'basis', codec.basis + 1, ['float16']);
    if (codec.name === 'hidden') {
      const weight = read('output', 'weight', codec.width, ['float32', 'float16', 'uint16']);
      tables.output = { weight, bias: read('output', 'bias', 1, ['float32', 'float16', 'uint16']) };
    }
    return tables;
  }

  /** The tokens of a causal_lm. @returns {[number, string, boolean][]} id, token, whether it was added */
  vocabulary() {
    const { rows, columns } = this.#table('vocabulary');
    const [ids, tokens, added] = ['id', 'token', 'added'].map((name) => columns.get(name));
    check(ids && tokens && added, 'a column of the table vocabulary is missing');
    const mapping = Array.from({ length: rows }, (_, i) => [ids.at(i), tokens.at(i), added.at(i)]);
    const { tokenizer, shape } = this.declaration.task;
    check(sha256(canonicalJson(mapping)) === tokenizer, 'the table vocabulary is of another tokenizer');
    check(ids.at(rows - 1) === shape[0] - 1, 'the highest id of the vocabulary is not the last class');
    return mapping;
  }
}
