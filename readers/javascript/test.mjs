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
import * as arrow from 'apache-arrow';
import * as zarr from 'zarrita';
import { checkDeclaration, decodeItems, floats, gapOf, isList, isNumbers, logSumOf } from './codecs.mjs';
import * as sc from './softcache.mjs';
import { checkPath, parseArrow } from './storage.mjs';

const golden = process.argv[2];
if (!golden) throw new Error('usage: node test.mjs <folder with vectors.json>');
const exact = sc.parseJson(fs.readFileSync(path.join(golden, 'vectors.json'), 'utf8'), true);
let failures = 0;
let differences = [];
let count = 0;

/** Numbers of vectors as JavaScript has them. */
function plain(value) {
  if (value instanceof sc.Float) return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, plain(member)]));
}

/** Equal, or within 2e-6 and six digits; null is a missing number. */
function same(expected, found) {
  if (expected === '-inf' || expected === 'inf') return found === (expected === 'inf' ? Infinity : -Infinity);
  if (typeof expected !== 'number' || typeof found !== 'number') return expected === found;
  return Math.abs(expected - found) <= 2e-6 + 5e-6 * Math.abs(expected);
}

/** @param {string} where @param {any} expected @param {any} found arrays of any depth */
function compare(where, expected, found) {
  if (Array.isArray(expected)) {
    if (!found || expected.length !== found.length) differences.push(`${where}: ${found?.length} items`);
    else expected.forEach((item, i) => compare(`${where}[${i}]`, item, found[i]));
    return;
  }
  if (expected !== null) count++;
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
      JSON.stringify(typed.map(([, [type]]) => type)),
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
    // Codes round.
    const close = (x, i) => Math.abs(x - found[i]) < 2e-3;
    compare(`${where}: ${found}, not ${expected}`, true, expected.every(close));
  };
  const log = Math.log;
  const gap = (ratio) => Math.round(log(ratio) * 1024);
  const topk = { name: 'topk', k: 2, nodes: 4 };
  const head = { ids: [4, 1], gaps: [gap(2), 65534], sketch: Array(5).fill(65535) };
  const [ruledOut] = items(topk, { shape: [5] }, head);
  const { logP, logTail } = ruledOut.logP(1);
  near('a tail that is ruled out', [2 / 3, 1 / 3, 0], [...logP, logTail].map(Math.exp));
  const [whole] = items({ ...topk, k: 9 }, { shape: [2] }, { ids: [1, 0], gaps: [gap(2)] });
  near('all classes, T 0.4', [log(1 / (1 + 2 ** 2.5)), log(1 / (1 + 2 ** -2.5))], whole.dense(0.4));
  const [many] = items(topk, { shape: [200000] }, { ...head, ids_high: [0b01, 0b10] });
  compare('class numbers', [65536 + 4, 131072 + 1], Array.from(many.ids));
  const output = { weight: floats([0x3f80, 0x4000, 0xc040, 0x3f00], 'bfloat16') };
  const projected = { name: 'hidden', width: 2, dtype: 'float16' };
  const [half] = items(projected, { shape: [2] }, { hidden: [0x3400, 0x4000] }, { output });
  near('a bfloat16 table: 1 2, -3 0.5', [4.25, 0.25], half.z);
  const maps = { kind: 'segmentation', activation: 'sigmoid', value_kind: 'probs', shape: [2, 1, 2] };
  const [, place] = items({ name: 'dense', dtype: 'float32' }, maps, { values: [0.5, 0.25, 0.75, 1] });
  near('probabilities of a place, T 2', [log(1 / (1 + 3 ** 0.5)), 0], place.logP(2).logP);
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

function testKeys(cache, vectors) {
  const strings = cache.commit.id_type === 'string';
  for (const [row, { id, view }] of vectors.rows.entries()) {
    const key = cache.rows.key(row);
    compare(`row ${row}`, strings ? id : BigInt(id), key.sampleId);
    compare(`row ${row}`, view, key.view);
    compare(`find ${id}, ${view}`, row, cache.find(id, view));
    compare(`find ${id}, view 99`, true, cache.find(id, 99) === null);
  }
  for (const id of strings ? ['', 'nobody', 'zebra '] : [-1, 2n ** 62n])
    compare(`find ${id}`, true, cache.find(id) === null);
}

/** Hashes that the cache itself states: names of files, keys hashes, fingerprints, unit keys, tokenizers. */
function testHashes(root, cache, targets, vectors) {
  for (const name of walk(root)) {
    const hash = /([0-9a-f]{64})\.arrow$/.exec(name)?.[1];
    if (hash) compare(name, hash, sc.sha256(fs.readFileSync(path.join(root, name))));
  }
  const { number, id_type: id, keep } = cache.commit;
  const name = `commits/000/${String(number).padStart(20, '0')}.json`;
  const { augmentation } = sc.parseJson(fs.readFileSync(path.join(root, name), 'utf8'), true);
  const declaration = { id, keep, ...(augmentation && { augmentation: augmentation.declaration }) };
  const fingerprint = sc.targetFingerprint('rows', declaration);
  for (const record of cache.rows.shards) {
    const { self, ids, content, split } = cache.rows.read(record);
    compare('fingerprint of rows', self.fingerprint, fingerprint);
    const samples = content.map((bytes, i) => ({ id: ids[i], content: bytes }));
    compare('keys hash', record.keys_sha256, sc.keysHash(samples, record.first_view, record.views));
    // Kept columns of the golden caches are int64.
    const columns = arrow.tableFromIPC(fs.readFileSync(path.join(root, record.files[0].path)));
    const value = (name, i) => [{ kind: keep[name] }, columns.getChild(name).get(i)];
    const sample = (i) => Object.fromEntries(Object.keys(keep).map((name) => [name, value(name, i)]));
    const kept = content.map((_, i) => sc.contentHash(sample(i)));
    const key = sc.unitKey(record.keys_sha256, fingerprint, { kept, split: split[0] });
    compare('unit key of rows', record.unit_key, key);
  }
  for (const entry of vectors.unit_keys) {
    compare(entry.target, entry.unit_key, sc.unitKey(entry.keys_sha256, entry.fingerprint));
    const known = targets.get(entry.target).shards.map((shard) => shard.unit_key);
    compare(`${entry.target} in its manifest`, true, known.includes(entry.unit_key));
  }
  for (const [name, target] of targets) {
    const { declaration } = sc.parseJson(target.metadata('softcache.record'), true);
    compare(name, target.fingerprint, sc.targetFingerprint(name, declaration));
    if (target.declaration.task.tokenizer)
      compare(`vocabulary of ${name}`, target.declaration.task.shape[0], target.vocabulary().at(-1)[0] + 1);
    for (const { files } of target.declaration.format === 'zarr' ? target.shards : []) {
      const [folder, hash] = /^.*-([0-9a-f]{64})\.zarr\//.exec(files[0].path);
      const listing = files.map((file) => ({ path: file.path.slice(folder.length), sha256: file.sha256 }));
      compare(folder, hash, sc.listingHash(listing));
    }
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength);

/** Whether a library finds the numbers that the manifest's places give. */
function compareNumbers(where, values, found) {
  const numbers = found instanceof zarr.BoolArray ? Uint8Array.from(found, Number) : found;
  compare(where, true, bytesOf(values).equals(bytesOf(numbers).subarray(0, values.byteLength)));
}

/** What libraries for Arrow and Zarr find in shards, and what shards say about themselves (section 4). */
async function testLayout(root, target) {
  const { task, codec, format } = target.declaration ?? {};
  for (const record of target.shards) {
    const { self, columns } = target.read(record);
    const files = record.files.map((file) => [file.path, fs.readFileSync(path.join(root, file.path))]);
    const [where, file] = files[0];
    compare(where, [1, target.name], [self.version, self.target]);
    const labels = task?.labels && sc.sha256(sc.canonicalJson(task.labels));
    if (task) compare(where, sc.canonicalJson({ ...task, labels }), sc.canonicalJson(self.task));
    if (task) compare(where, JSON.stringify(codec), JSON.stringify(self.codec));
    if (format === 'zarr') {
      const inside = (name) => name.slice(name.indexOf('.zarr/') + 5);
      const group = zarr.root(new Map(files.map(([name, bytes]) => [inside(name), Uint8Array.from(bytes)])));
      for (const [name, { values }] of columns) {
        const array = await zarr.open.v3(group.resolve(name), { kind: 'array' });
        const { data } = await array.getChunk(array.shape.map(() => 0));
        compareNumbers(`${where}, ${name}`, values, data);
      }
      continue;
    }
    const { schema, batches } = arrow.tableFromIPC(file);
    const names = schema.fields.map(({ name }) => name);
    if (task) compare(where, [...columns.keys()].join(), names.join());
    for (const [name, { values, offsets }] of columns) {
      const i = names.indexOf(name);
      compare(`${where}, ${name} may have nulls`, false, schema.fields[i].nullable);
      let data = batches[0].data.children[i];
      if (offsets) compareNumbers(`${where}, ${name}.offsets`, offsets, data.valueOffsets);
      while (data.children.length) [data] = data.children;
      compareNumbers(`${where}, ${name}`, values, data.values);
    }
  }
}

/** Numbers of a map in C order, as the nested lists of vectors.json. */
function nest(values, shape) {
  if (shape.length <= 1) return Array.from(values);
  const size = values.length / shape[0];
  const part = (_, i) => nest(values.slice(i * size, (i + 1) * size), shape.slice(1));
  return Array.from({ length: shape[0] }, part);
}

/**
 * One row at a temperature, in the order of vectors.json: classes or ranks before the places of a map. Lists
 * have log p of every class, whatever the codec, at their positions; others are null.
 */
function arrange(task, { items, positions }, T, length) {
  if (isList(task)) {
    const rows = Array.from({ length }, () => Array(task.shape[0]).fill(null));
    items.forEach((item, i) => (rows[positions?.[i] ?? i] = Array.from(item.dense(T))));
    return { log_probs: rows };
  }
  const answers = items.map((item) => item.logP(T));
  const map = task.kind === 'segmentation';
  const grid = (get) => (map ? nest(answers.map(get), task.shape.slice(1)) : get(answers[0]));
  const ranks = (key) =>
    answers[0][key] && Array.from(answers[0][key], (_, rank) => grid((a) => a[key][rank]));
  return { ids: ranks('ids'), log_probs: ranks('logP'), log_tail: grid((a) => a.logTail) };
}

const allNull = (x) => (Array.isArray(x) ? x.every(allNull) : x === null);

/** What `topk` stores beside its columns follows from them; float16 has three digits. */
function compareCompanions(where, item) {
  const { logP, logTail } = item.logP(1);
  const { top1, top1_prob: top1Prob, tail_mass: tailMass, entropy } = item.companions;
  const mass = Math.exp(logTail);
  compare(`${where}, top1`, item.ids[0], top1);
  compare(`${where}, top1_prob`, true, Math.abs(top1Prob - Math.exp(logP[0])) < 1e-3);
  compare(`${where}, tail_mass`, true, Math.abs(tailMass - mass) < 1e-3);
  const least = -logP.reduce((sum, x) => sum + Math.exp(x) * x, 0) - (mass && mass * logTail);
  const most = least + (mass && mass * Math.log(item.classes - logP.length));
  compare(`${where}, entropy`, true, entropy > least - 0.01 && entropy < most + 0.01);
}

function testTarget(cache, target, expected) {
  const { task, codec, format } = target.declaration;
  compare('fingerprint', expected.fingerprint, target.fingerprint);
  for (const [r, valid] of expected.valid.entries()) {
    const row = target.row(r);
    compare(`valid ${r}`, valid, row.valid);
    compare(`length ${r}`, expected.lengths?.[r] ?? null, isList(task) ? (row.items?.length ?? 0) : null);
    if (row.inputIds || expected.input_ids) {
      compare(`input_ids ${r}`, expected.input_ids[r], row.inputIds);
      compare(`positions ${r}`, expected.positions[r], row.positions);
    }
    for (const [T, at] of Object.entries(expected.at ?? {})) {
      // What an answer that is missing looks like is up to a reader; its ids mean nothing.
      if (!valid) compare(`no answer ${r}`, true, allNull(at.log_probs[r]));
      const found = row.valid && arrange(task, row, Number(T), at.log_probs[r].length);
      for (const [key, rows] of row.valid ? Object.entries(at) : [])
        compare(`row ${r}, T ${T}, ${key}`, rows[r], found[key]);
      for (const item of row.items ?? []) {
        if (item.companions && T === '1') compareCompanions(`row ${r}`, item);
        if (!item.dense || item.sigmoid) continue;
        const total = item.dense(Number(T)).reduce((sum, x) => sum + Math.exp(x), 0);
        compare(`row ${r}, T ${T}, sum of p`, 1, total);
      }
    }
    const values = expected.values?.[r];
    if (row.valid && values) compare(`row ${r}`, values, nest(row.values, task.shape));
    if (!row.valid && values) compare(`no values ${r}`, true, allNull(values));
    for (const part of row.valid ? task.parts : [])
      compare(`row ${r}, ${part}`, true, row.parts[part].every(Number.isFinite));
  }
  const kinds = [task.kind, task.activation, codec.name, format].filter(Boolean);
  group(`${cache}: ${target.name} (${kinds.join(', ')})`, isNumbers(task) ? 'values' : 'numbers');
}

async function testCache(name, vectors) {
  const root = path.join(golden, name);
  const cache = sc.Cache.open(root);
  const targets = new Map(cache.targets.map((target) => [target, cache.target(target)]));
  compare('targets', Object.keys(vectors.targets).sort(sc.byCodePoint), cache.targets);
  testKeys(cache, vectors);
  group(`${name}: keys`, 'look-ups');
  testHashes(root, cache, targets, vectors);
  group(`${name}: hashes`, 'hashes');
  for (const target of [cache.rows, ...targets.values()]) await testLayout(root, target);
  group(`${name}: layout`, 'facts that libraries confirm');
  for (const [target, expected] of Object.entries(vectors.targets))
    testTarget(name, targets.get(target), expected);
  const first = sc.Cache.open(root, { commit: 1 });
  for (const target of first.targets) {
    for (let row = 0; row < first.commit.rows; row++) {
      const [a, b] = [first.target(target).row(row), targets.get(target).row(row)];
      const said = ({ valid, values, items }) => [valid, values, items?.map((i) => i.logP(1).logP)].join();
      compare(`${target}, row ${row}`, said(a), said(b));
    }
  }
  group(`${name}: the first commit`, 'rows as in the second');
}

/** Read everything that can be read. */
function readAll(root) {
  const cache = sc.Cache.open(root);
  for (const target of cache.targets.map((name) => cache.target(name))) {
    if (target.declaration.task.tokenizer) target.vocabulary();
    for (let row = 0; row < cache.commit.rows; row++) {
      const { sampleId, view } = cache.rows.key(row);
      const answer = target.get(sampleId, view);
      for (const item of answer.items ?? []) item.logP(1);
    }
  }
}

/** Whether `action` is refused, and by a check of this reader, not by an accident. */
function refused(where, action) {
  let found = 'nothing';
  try {
    action();
  } catch (error) {
    found = error instanceof sc.CacheError ? 'refused' : `${error.stack}`;
  }
  compare(where, 'refused', found);
}

/** Damage one file at a time, of those that match and those that every cache has. @param {RegExp} pattern */
function testDamage(cache, pattern) {
  const root = path.join(golden, cache);
  const { manifests, index, number } = sc.Cache.open(root).commit;
  const commits = [number - 1, number].map((n) => `commits/000/${String(n).padStart(20, '0')}.json`);
  const named = [...Object.values(manifests), ...index].map((file) => file.path);
  const matching = walk(root).filter((name) => pattern.test(name));
  const victims = ['softcache.json', ...commits, ...named, ...matching];
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'softcache-'));
  try {
    fs.cpSync(root, folder, { recursive: true });
    readAll(folder);
    for (const name of victims) {
      const original = fs.readFileSync(path.join(root, name));
      for (const at of [0, original.length >> 1, original.length - 1]) {
        const damaged = Buffer.from(original);
        damaged[at] ^= 1;
        fs.writeFileSync(path.join(folder, name), damaged);
        refused(`${name}, byte ${at}`, () => readAll(folder));
      }
      fs.writeFileSync(path.join(folder, name), original.subarray(0, -1));
      refused(`${name}, cut off`, () => readAll(folder));
      fs.rmSync(path.join(folder, name));
      // Without its newest commit, a cache is what it was before.
      if (name !== commits[1]) refused(`${name}, deleted`, () => readAll(folder));
      fs.writeFileSync(path.join(folder, name), original);
    }
    readAll(folder);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
  group(`${cache}: damage`, 'damaged caches refused');
}

/** A stream of 64 int64 values, compressed with lz4 by pyarrow. */
const COMPRESSED = [
  '/////3gAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAEAAAAUAAAAEAAUAAgABgAHAAwA',
  'AAAQABAAAAAAAAECEAAAABwAAAAEAAAAAAAAAAEAAABhAAAACAAMAAgABwAIAAAAAAAAAUAAAAD/////mAAAABQAAAAAAAAA',
  'DAAYAAYABQAIAAwADAAAAAADBAAcAAAAKAAAAAAAAAAAAAAADAAcABAABAAIAAwADAAAAEgAAAAcAAAAFAAAAEAAAAAAAAAA',
  'AAAAAAQABAAEAAAAAgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAACMAAAAAAAAAAAAAAAEAAABAAAAAAAAAAAAAAAAAAAAA',
  'AAIAAAAAAAAEIk0YYECCDAAAAB8AAQD/6FAAAAAAAAAAAAAAAAAAAP////8AAAAA',
].join('');

function testRefusals() {
  const long = `[1${'0'.repeat(400)}]`;
  const texts = ['{"a":1,"a":2}', '[NaN]', '[Infinity]', '\ufeff{}', '[1e999]', long, '[01]', '{} {}'];
  for (const text of [...texts, '["\u0001"]', '[1,]', '["\\ud800"]', '{"\\udc00":1}', '['.repeat(5000)])
    refused(text, () => sc.parseJson(text));
  const paths = ['', '/a', 'a/', 'a//b', '../a', 'a/./b', 'a\\b', 'a:b', 'a%2e', 'a?b', 'a#b', 'a*', '[a]'];
  for (const name of [...paths, 'a\nb', 'a\x7f', 7]) refused(name, () => checkPath(name));
  checkPath('a b/\u0085');
  const stream = (columns) => Buffer.from(arrow.tableToIPC(new arrow.Table(columns), 'stream'));
  const numbers = stream({ a: arrow.vectorFromArray([1, 2]) });
  compare('a stream', 2, parseArrow(numbers, 'a stream').columns.get('a').at(1));
  const dictionary = new arrow.Dictionary(new arrow.Utf8(), new arrow.Int32());
  const twice = arrow.vectorFromArray([1, 2]).concat(arrow.vectorFromArray([3]));
  const streams = {
    compressed: Buffer.from(COMPRESSED, 'base64'),
    'dictionary-encoded': stream({ a: arrow.vectorFromArray(['x', 'y', 'x'], dictionary) }),
    'with a null': stream({ a: arrow.vectorFromArray([1, null]) }),
    'of two batches': stream({ a: twice }),
    'without an end': numbers.subarray(0, -8),
    'with more after its end': Buffer.concat([numbers, Buffer.alloc(8)]),
  };
  for (const [name, bytes] of Object.entries(streams))
    refused(name, () => parseArrow(bytes, 'a stream', false));
  const plainTask = {
    kind: 'classification',
    shape: [3],
    activation: 'softmax',
    value_kind: 'logits',
    parts: [],
  };
  const topk = { name: 'topk', k: 2, nodes: 4, basis: 0, companions: true };
  const declaration = (codec, task) => {
    return { task: { ...plainTask, ...task }, codec: { ...topk, ...codec }, format: 'arrow' };
  };
  checkDeclaration(declaration());
  const unknown = [{ k: 0 }, { nodes: 5 }, { basis: -1 }, { companions: 1 }, { name: 'best' }, { more: 1 }];
  for (const codec of unknown) refused(JSON.stringify(codec), () => checkDeclaration(declaration(codec)));
  const tasks = [{ kind: 'ranking' }, { parts: ['ranks'] }, { activation: 'relu' }, { value_kind: 'odds' }];
  for (const task of tasks) refused(JSON.stringify(task), () => checkDeclaration(declaration({}, task)));
  refused('a format', () => checkDeclaration({ ...declaration(), format: 'csv' }));
  group('refusals', 'texts, paths, streams and declarations refused');
}

testComputations();
testCodecs();
for (const [name, vectors] of Object.entries(plain(exact.caches))) await testCache(name, vectors);
testDamage('v1', /^data\/(rows|cls@g|maps@g\/.*\/((values|sample_id)\/c|valid))\/|^tables\/.*arrow$/);
testDamage('words', /^data\/shaped@m\/|^tables\/.*arrow$/);
testRefusals();
console.log(failures ? `${failures} differences` : 'all as the page says');
process.exit(failures ? 1 : 0);
