/**
 * Compare this reader with tests/golden/vectors.json, and see that damaged caches are refused:
 *
 *     node test.mjs ../../tests/golden
 *
 * Prints one line for each group of checks and exits with 1 if any of them fails.
 */
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { decodeItems, floats, gapOf, isList, isNumbers, logSumOf } from './codecs.mjs';
import * as sc from './softcache.mjs';
import { checkPath, parseArrow, shardHash } from './storage.mjs';

const golden = process.argv[2];
if (!golden) throw new Error('usage: node test.mjs <folder with vectors.json>');
const exact = sc.parseJson(fs.readFileSync(path.join(golden, 'vectors.json'), 'utf8'), true);
let failures = 0;
let differences = [];
let count = 0;

/** Numbers of vectors as JavaScript has them. */
function plain(value) {
  if (value instanceof sc.Float) return value.value;
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, plain(member)]));
}

/** Equal, or as near as float32 and six digits allow; null is a missing number. */
function same(expected, found) {
  if (expected === '-inf' || expected === 'inf') return found === (expected === 'inf' ? Infinity : -Infinity);
  if (typeof expected !== 'number' || typeof found !== 'number') return expected === found;
  return Math.abs(expected - found) <= 5e-7 + 6e-6 * Math.abs(expected);
}

/** @param {string} where @param {any} expected @param {any} found arrays of any depth */
function compare(where, expected, found) {
  if (Array.isArray(expected)) {
    if (!found || expected.length !== found.length) differences.push(`${where}: ${found?.length} items`);
    else expected.forEach((item, i) => compare(`${where}[${i}]`, item, found[i]));
    return;
  }
  count++;
  if (!same(expected, found)) differences.push(`${where}: ${found}, not ${expected}`);
}

/** Print what a group found. */
function group(name, unit) {
  console.log(`${name}: ${count} ${unit}, ${differences.length} differences`);
  for (const difference of differences.slice(0, 10)) console.log(`    ${difference}`);
  failures += differences.length + (count === 0 ? 1 : 0);
  differences = [];
  count = 0;
}

/** @param {string} text such as `list<float32>` or `fixed<int32>[2]` @returns {sc.Type} */
function typeOf(text) {
  const list = /^(list|fixed)<(.*)>(?:\[(\d+)\])?$/.exec(text);
  if (list) return { kind: 'list', item: typeOf(list[2]), length: list[3] && Number(list[3]) };
  const struct = /^struct<(.*)>$/.exec(text);
  if (struct) {
    const fields = struct[1].split(', ').map((field) => field.split(': '));
    return { kind: 'struct', fields: fields.map(([name, type]) => ({ name, type: typeOf(type) })) };
  }
  if (/^(date|time|timestamp|duration)/.test(text)) return { kind: 'stored' };
  return { kind: text === 'binary' ? 'bytes' : text };
}

function testComputations() {
  const vectors = plain(exact);
  for (const { value, text, sha256 } of exact.canonical_json) {
    compare('text', text, sc.canonicalJson(value));
    compare('hash', sha256, sc.sha256(sc.canonicalJson(value)));
  }
  group('canonical JSON', 'texts and hashes');
  for (const { text, crc } of vectors.crc32c) compare(text, crc, sc.crc32c(Buffer.from(text)));
  group('CRC-32C', 'checksums');
  for (const { columns, sha256 } of vectors.content_hashes) {
    const typed = Object.entries(columns).map(([name, [type, value]]) => {
      return [name, [typeOf(type), type === 'binary' ? Buffer.from(value, 'hex') : value]];
    });
    compare(
      JSON.stringify(columns, (_, x) => (typeof x === 'bigint' ? String(x) : x)),
      sha256,
      sc.contentHash(Object.fromEntries(typed)),
    );
  }
  group('content hashes', 'hashes');
  for (const { code, gap } of vectors.gap_codes) compare(`code ${code}`, gap, gapOf(code));
  for (const { code, log_sum: sum } of vectors.sketch_codes) compare(`code ${code}`, sum, logSumOf(code));
  group('codes of gaps and sketches', 'codes');
  for (const { id, key } of vectors.index_keys) compare(id, key, String(sc.indexKey(id)));
  group('index keys', 'keys');
  for (const { seed, id, view, s } of vectors.view_seeds)
    compare(`${id}`, s, String(sc.viewSeed(seed, id, view)));
  for (const part of vectors.view_checks) {
    const found = sc.viewCheck([{ name: '', ...part }]);
    compare(part.check, part.check, found.toString('hex'));
    compare(`${part.check} is close to itself`, true, sc.closeViews(found, Buffer.from(part.check, 'hex')));
  }
  group('views', 'seeds and checks');
}

/** What no target of the golden caches has, with numbers that can be followed by hand. */
function testCodecs() {
  const items = (codec, task, columns, tables) => {
    const declaration = {
      codec,
      task: { kind: 'classification', activation: 'softmax', value_kind: 'logits', ...task },
    };
    return decodeItems(declaration, (name) => columns[name] && Float64Array.from(columns[name]), tables);
  };
  const near = (where, expected, found) => {
    compare(where, expected.length, found.length);
    // Codes and float16 round.
    expected.forEach((x, i) =>
      compare(`${where}[${i}]: ${found[i]}, not ${x}`, true, Math.abs(x - found[i]) < 3e-3),
    );
  };
  const logs = (weights) => weights.map((w) => Math.log(w / weights.reduce((sum, x) => sum + x)));
  const gap = (ratio) => Math.round(Math.log(ratio) * 1024);

  // Weights 1 4 2 1 8: a head of the classes 4 and 1, and a tail of three classes whose anchor is class 2.
  const sketch = [0, 16, 48, 64, 128].map((m) => Math.round(4096 * Math.log(1 + 2 * 0.5 ** (m / 64))));
  const columns = { ids: [4, 1], gaps: [gap(2), gap(4)], sketch, shape: [228], shape_scale: [0x3c00] };
  const topk = { name: 'topk', k: 2, nodes: 4 };
  const [flat] = items(topk, { shape: [5] }, columns);
  near('tail', logs([4 / 3, 4, 4 / 3, 4 / 3, 8]), flat.dense(1));
  // The coefficient 100 of a component that is 1 for all classes takes the -100 of the means away.
  const means = [1 / 8, 1, 1 / 4, 1 / 8, 1].flatMap((ratio) => [Math.log(ratio) - 100, 1]);
  const [shaped] = items({ ...topk, basis: 1 }, { shape: [5] }, columns, { basis: means });
  for (const T of [0.5, 1, 3])
    near(`basis, T ${T}`, logs([1, 4, 2, 1, 8].map((w) => w ** (1 / T))), shaped.dense(T));
  const ruledOut = { ids: [4, 1], gaps: [gap(2), 65534], sketch: Array(5).fill(65535) };
  near('no tail', logs([2, 1]), items(topk, { shape: [5] }, ruledOut)[0].logP(1).logP);
  const [whole] = items({ ...topk, k: 9 }, { shape: [2] }, { ids: [1, 0], gaps: [gap(2)] });
  near('all classes, T 0.1', logs([1, 2 ** 10]), whole.dense(0.1));
  const many = items(topk, { shape: [200000] }, { ...columns, ids_high: [0b01, 0b10] });
  compare('class numbers', [65536 + 4, 131072 + 1], Array.from(many[0].ids));

  const bits = (x) => Math.fround(x) && new Uint32Array(Float32Array.of(x).buffer)[0] >>> 16;
  const weight = floats([1, 2, -3, 0.5].map(bits), 'bfloat16');
  const hidden = items(
    { name: 'hidden', width: 2, dtype: 'float16' },
    { shape: [2] },
    { hidden: [sc.toHalf(0.25), sc.toHalf(2)] },
    { output: { weight } },
  );
  near('hidden float16', [4.25, 0.25], hidden[0].z);
  const map = items(
    { name: 'dense', dtype: 'float32' },
    { kind: 'segmentation', activation: 'sigmoid', value_kind: 'probs', shape: [2, 1, 2] },
    { values: [0.5, 0.25, 0.75, 1] },
  );
  near('places of a map', [Math.log(0.5), Math.log(0.75)], map[0].logP(1).logP);
  near('sigmoid at T 2', [Math.log(1 / (1 + 3 ** 0.5)), 0], map[1].logP(2).logP);
  const codes = { codes: [0, 254, 255], affine: [-1, 3 / 254] };
  compare('quantized', [-1, 2, '-inf'], Array.from(items({ name: 'quantized' }, { shape: [3] }, codes)[0].z));
  group('codecs without vectors', 'numbers');
}

/** Every path of a folder. @returns {string[]} */
function walk(folder, inside = '') {
  return fs.readdirSync(path.join(folder, inside), { withFileTypes: true }).flatMap((entry) => {
    const name = inside + entry.name;
    return entry.isDirectory() ? walk(folder, `${name}/`) : [name];
  });
}

async function testKeys(cache, vectors) {
  const names = new Map(
    cache.commit.id_type === 'string' ? [] : vectors.rows.map(({ id }) => [id, BigInt(id)]),
  );
  for (const [row, { id, view }] of vectors.rows.entries()) {
    const key = cache.rows.key(row);
    compare(`row ${row}`, names.get(id) ?? id, key.sampleId);
    compare(`row ${row}`, view, key.view);
    compare(`find ${id}, ${view}`, row, await cache.find(id, view));
    compare(`find ${id}, view 99`, null, await cache.find(id, 99));
  }
  const unknown = cache.commit.id_type === 'string' ? ['', 'nobody', 'zebra '] : [-1, 2n ** 62n];
  for (const id of unknown) compare(`find ${id}`, null, await cache.find(id));
}

/** Hashes that the cache itself states: names of files, keys hashes, unit keys. */
function testHashes(root, cache, targets, vectors) {
  for (const name of walk(root)) {
    const hash = /([0-9a-f]{64})\.arrow$/.exec(name)?.[1];
    if (hash) compare(name, hash, sc.sha256(fs.readFileSync(path.join(root, name))));
  }
  for (const shard of cache.rows.shards) {
    const { ids, content, split, columns, table } = cache.rows.samples(shard);
    const samples = content.map((bytes, i) => ({ id: ids[i], content: bytes }));
    compare('keys hash', shard.keys_sha256, sc.keysHash(samples, shard.first_view, shard.views));
    const self = sc.parseJson(table.schema.metadata.get('softcache'));
    const { augmentation } = sc.parseJson(
      fs.readFileSync(path.join(root, `commits/000/${'2'.padStart(20, '0')}.json`), 'utf8'),
      true,
    );
    const declaration = { id: cache.commit.id_type, keep: cache.commit.keep };
    if (augmentation) declaration.augmentation = augmentation.declaration;
    compare('fingerprint of rows', self.fingerprint, sc.targetFingerprint('rows', declaration));
    const kept = content.map((_, i) => {
      const values = Object.entries(cache.commit.keep).map(([name, kind]) => [
        name,
        [{ kind }, columns.get(name).values[i]],
      ]);
      return sc.contentHash(Object.fromEntries(values));
    });
    compare(
      'unit key of rows',
      shard.unit_key,
      sc.unitKey(shard.keys_sha256, self.fingerprint, { kept, split: split[0] }),
    );
  }
  for (const entry of vectors.unit_keys) {
    compare(entry.target, entry.unit_key, sc.unitKey(entry.keys_sha256, entry.fingerprint));
    const known = targets.get(entry.target).shards.map((shard) => shard.unit_key);
    compare(`${entry.target} in its manifest`, true, known.includes(entry.unit_key));
  }
  for (const [name, target] of targets) {
    compare(name, target.fingerprint, sc.targetFingerprint(name, target.exactDeclaration));
    if (target.declaration.format !== 'zarr') continue;
    for (const shard of target.shards)
      compare(name, true, shard.files[0].path.includes(`-${shardHash(shard.files)}.zarr/`));
  }
}

/** Numbers of a map in C order, as the nested lists of vectors.json. */
function nest(values, shape) {
  if (shape.length <= 1) return Array.from(values);
  const size = values.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) =>
    nest(values.slice(i * size, (i + 1) * size), shape.slice(1)),
  );
}

/** One row at a temperature, in the order of vectors.json: classes or ranks before the places of a map. */
function arrange(task, items, T) {
  const answers = items.map((item) => item.logP(T));
  const array = (x) => x && Array.from(x);
  if (task.kind === 'segmentation') {
    const grid = (values) => nest(values, task.shape.slice(1));
    const at = (key, rank) => grid(answers.map((a) => a[key][rank]));
    const ranks = (key) => answers[0][key] && Array.from(answers[0][key], (_, rank) => at(key, rank));
    return { ids: ranks('ids'), log_probs: ranks('logP'), log_tail: grid(answers.map((a) => a.logTail)) };
  }
  const lists = answers.map((a) => ({ ids: array(a.ids), log_probs: array(a.logP), log_tail: a.logTail }));
  if (!isList(task)) return lists[0];
  return {
    ids: lists.map((l) => l.ids),
    log_probs: lists.map((l) => l.log_probs),
    log_tail: lists.map((l) => l.log_tail),
  };
}

const allNull = (x) => (Array.isArray(x) ? x.every(allNull) : x === null);

/** What `topk` stores beside its columns follows from them; float16 has three digits. */
function compareCompanions(where, item) {
  const { logP, logTail } = item.logP(1);
  const { top1, top1Prob, tailMass, entropy } = item.companions;
  compare(`${where}, top1`, item.ids[0], top1);
  compare(`${where}, top1_prob`, true, Math.abs(top1Prob - Math.exp(logP[0])) < 1e-3);
  compare(`${where}, tail_mass`, true, Math.abs(tailMass - Math.exp(logTail)) < 1e-3);
  const least = -logP.reduce((sum, x) => sum + Math.exp(x) * x, 0) - Math.exp(logTail) * logTail;
  const most = least + Math.exp(logTail) * Math.log(item.classes - logP.length);
  compare(`${where}, entropy`, true, entropy > least - 0.01 && entropy < most + 0.01);
}

async function testTarget(cache, target, expected) {
  const { task } = target.declaration;
  compare('fingerprint', expected.fingerprint, target.fingerprint);
  for (const [r, valid] of expected.valid.entries()) {
    const row = await target.row(r);
    compare(`valid ${r}`, valid, row.valid);
    if (expected.lengths) compare(`length ${r}`, expected.lengths[r], row.items?.length ?? 0);
    for (const [T, at] of Object.entries(expected.at ?? {})) {
      const found = row.valid && arrange(task, row.items, Number(T));
      for (const [key, rows] of Object.entries(at)) {
        if (!row.valid) {
          // What an answer that is missing looks like is up to a reader; its ids mean nothing.
          if (key === 'log_probs') compare(`no answer ${r}`, true, allNull(rows[r]));
          continue;
        }
        const length = isList(task) ? row.items.length : undefined;
        compare(`row ${r}, T ${T}, ${key}`, rows[r].slice?.(0, length) ?? rows[r], found[key]);
        if (isList(task)) compare(`padding of row ${r}`, true, allNull(rows[r].slice(length)));
      }
      for (const item of row.items ?? []) {
        if (item.companions && T === '1') compareCompanions(`row ${r}`, item);
        if (!item.dense || item.sigmoid) continue;
        const total = item.dense(Number(T)).reduce((sum, x) => sum + Math.exp(x), 0);
        compare(`row ${r}, T ${T}, sum of p`, 1, total);
      }
    }
    if (expected.values)
      compare(`row ${r}`, expected.values[r], row.valid ? nest(row.values, task.shape) : expected.values[r]);
    if (expected.values && !row.valid) compare(`no values ${r}`, true, allNull(expected.values[r]));
    for (const part of row.valid ? task.parts : [])
      compare(`row ${r}, ${part}`, true, row.parts[part].every(Number.isFinite));
  }
  const kinds = [task.kind, task.activation, target.declaration.codec.name, target.declaration.format];
  group(
    `${cache}: ${target.name} (${kinds.filter(Boolean).join(', ')})`,
    isNumbers(task) ? 'values' : 'numbers',
  );
}

async function testCache(name, vectors) {
  const root = path.join(golden, name);
  const cache = await sc.Cache.open(root);
  const targets = new Map();
  for (const target of cache.targets) targets.set(target, await cache.target(target));
  compare('targets', Object.keys(vectors.targets).sort(sc.byCodePoint), cache.targets);
  await testKeys(cache, vectors);
  group(`${name}: keys`, 'look-ups');
  testHashes(root, cache, targets, vectors);
  group(`${name}: hashes`, 'hashes');
  for (const [target, expected] of Object.entries(vectors.targets))
    await testTarget(name, targets.get(target), expected);
  const first = await sc.Cache.open(root, { commit: 1 });
  for (const target of first.targets) {
    for (let row = 0; row < first.commit.rows; row++) {
      const [a, b] = [await (await first.target(target)).row(row), await targets.get(target).row(row)];
      compare(
        `${target}, row ${row}`,
        String(a.items?.map((i) => i.logP(1).logP)),
        String(b.items?.map((i) => i.logP(1).logP)),
      );
    }
  }
  group(`${name}: the first commit`, 'rows as in the second');
}

/** Read everything that can be read. */
async function readAll(root) {
  const cache = await sc.Cache.open(root);
  for (const name of cache.targets) {
    const target = await cache.target(name);
    for (let row = 0; row < cache.commit.rows; row++) {
      const { sampleId, view } = cache.rows.key(row);
      const answer = await target.get(sampleId, view);
      for (const item of answer.items ?? []) item.logP(1);
    }
  }
}

/** Whether `action` is refused, and by a check of this reader, not by an accident. */
async function refused(where, action) {
  let found = 'nothing';
  try {
    await action();
  } catch (error) {
    found = error instanceof sc.CacheError ? 'refused' : `${error.stack}`;
  }
  compare(where, 'refused', found);
}

async function testDamage() {
  const root = path.join(golden, 'v1');
  const { commit } = await sc.Cache.open(root);
  const files = walk(root);
  const find = (pattern) => files.filter((name) => pattern.test(name)).at(-1);
  const victims = [
    'softcache.json',
    commit.manifests.rows.path,
    commit.manifests['top@g'].path,
    commit.index[0].path,
    find(/^commits\/.*1\.json$/),
    find(/^commits\/.*2\.json$/),
    find(/^data\/rows\//),
    find(/^data\/cls@g\//),
    find(/^data\/maps@g\/.*\/values\/c\//),
    find(/^data\/maps@g\/.*\/valid\/zarr\.json$/),
    find(/^tables\/.*\.arrow$/),
  ];
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'softcache-'));
  try {
    fs.cpSync(root, folder, { recursive: true });
    await readAll(folder);
    for (const name of victims) {
      const original = fs.readFileSync(path.join(root, name));
      for (const at of [0, original.length >> 1, original.length - 1]) {
        const damaged = Buffer.from(original);
        damaged[at] ^= 1;
        fs.writeFileSync(path.join(folder, name), damaged);
        await refused(`${name}, byte ${at}`, () => readAll(folder));
      }
      fs.writeFileSync(path.join(folder, name), original.subarray(0, -1));
      await refused(`${name}, cut off`, () => readAll(folder));
      fs.rmSync(path.join(folder, name));
      // Without its newest commit, a cache is what it was before.
      if (!/^commits\/.*2\.json$/.test(name)) await refused(`${name}, deleted`, () => readAll(folder));
      fs.writeFileSync(path.join(folder, name), original);
    }
    await readAll(folder);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
  group('damage', 'damaged caches refused');
}

/** A stream of 64 int64 values, compressed with lz4 by pyarrow. */
const COMPRESSED = [
  '/////3gAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAEAAAAUAAAAEAAUAAgABgAHAAwA',
  'AAAQABAAAAAAAAECEAAAABwAAAAEAAAAAAAAAAEAAABhAAAACAAMAAgABwAIAAAAAAAAAUAAAAD/////mAAAABQAAAAAAAAA',
  'DAAYAAYABQAIAAwADAAAAAADBAAcAAAAKAAAAAAAAAAAAAAADAAcABAABAAIAAwADAAAAEgAAAAcAAAAFAAAAEAAAAAAAAAA',
  'AAAAAAQABAAEAAAAAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACMAAAAAAAAAAAAAAAEAAABAAAAAAAAAAAAAAAAAAAAA',
  'AAIAAAAAAAAEIk0YYECCDAAAAB8AAQD/6FAAAAAAAAAAAAAAAAAAAP////8AAAAA',
].join('');

async function testRefusals() {
  for (const text of [
    '{"a":1,"a":2}',
    '[NaN]',
    '[Infinity]',
    '\ufeff{}',
    '[1e999]',
    '[01]',
    '{} {}',
    '["\u0001"]',
    '[1,]',
  ]) {
    await refused(text, () => sc.parseJson(text));
  }
  for (const name of [
    '',
    '/a',
    'a/',
    'a//b',
    '../a',
    'a/./b',
    'a\\b',
    'a:b',
    'a%2e',
    'a?b',
    'a#b',
    'a*',
    '[a]',
    'a\nb',
  ]) {
    await refused(name, () => checkPath(name));
  }
  await refused('compressed Arrow', () => parseArrow(Buffer.from(COMPRESSED, 'base64'), 'a stream'));
  group('refusals', 'texts, paths and streams refused');
}

testComputations();
testCodecs();
for (const [name, vectors] of Object.entries(plain(exact.caches))) await testCache(name, vectors);
await testDamage();
await testRefusals();
console.log(failures ? `${failures} differences` : 'all as the page says');
process.exit(failures ? 1 : 0);
