/**
 * The codecs of the softcache format: section 11 of docs/format.md. A row is made of *items*: one
 * distribution of a plain row, one for each place of a map (in C order), one for each position of a
 * list. Logits, gaps and log-probabilities are in nats; all arithmetic is float64.
 */
import { check, fromHalf } from './hashing.mjs';

const natural = (x) => Number.isSafeInteger(x) && x >= 0;
const positive = (x) => natural(x) && x > 0;

/** The settings of each codec, and which values they may have; others could change what columns mean. */
const SETTINGS = {
  dense: { dtype: (x) => ['float32', 'float16', 'bfloat16'].includes(x) },
  topk: {
    k: positive,
    nodes: (x) => natural(x) && Object.hasOwn(NODES, x),
    basis: natural,
    companions: (x) => typeof x === 'boolean',
  },
  quantized: {},
  sampled: { draws: (x) => positive(x) && x <= 255, proposal: (x) => x > 0 && x < Infinity },
  hidden: { width: positive, dtype: (x) => ['float16', 'int8'].includes(x) },
  served: { k: positive },
};
const KINDS = ['classification', 'multilabel', 'sequence', 'causal_lm', 'segmentation', 'detection'];
const NUMBERS = ['regression', 'features'];
const LISTS = ['sequence', 'causal_lm', 'detection'];

/** `nodes` -> [m of each node, s]; a node is at beta = m / 64. */
const NODES = {
  4: [[16, 48, 64, 128], 1.0],
  8: [[2, 8, 16, 32, 48, 64, 96, 128], 0.3],
  12: [[2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128], 0.5],
  16: [[2, 4, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 104, 112, 120, 128], 0.6],
  24: [[1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 124, 128], 0.5],
};

/** What `topk` may store beside its columns. */
const COMPANIONS = ['entropy', 'top1', 'top1_prob', 'tail_mass'];

/** Whether rows of this task are lists. @param {{kind: string}} task */
export const isList = (task) => LISTS.includes(task.kind);

/** Whether values of this task are plain numbers, without a temperature. @param {{kind: string}} task */
export const isNumbers = (task) => NUMBERS.includes(task.kind);

/** Numbers of an item of each part. @param {any} task */
const partsOf = (task) => ({ boxes: 4, scores: 1, variance: product(task.shape) });

/** Refuse what section 13 says to refuse. @param {any} declaration */
export function checkDeclaration({ task, codec, format }) {
  const { kind, shape, activation, value_kind: valueKind } = task;
  check(['arrow', 'zarr'].includes(format), `unknown format ${format}`);
  check([...KINDS, ...NUMBERS].includes(kind), `unknown kind of task ${kind}`);
  for (const part of task.parts) check(Object.hasOwn(partsOf(task), part), `unknown part ${part}`);
  check(Object.hasOwn(SETTINGS, codec.name), `unknown codec ${codec.name}`);
  const settings = SETTINGS[codec.name];
  for (const member of Object.keys(codec))
    check(member === 'name' || Object.hasOwn(settings, member), `unknown member ${member} of codec`);
  for (const [member, allowed] of Object.entries(settings))
    check(allowed(codec[member]), `unknown value ${codec[member]} of ${member}`);
  if (isNumbers(task)) return;
  check(['softmax', 'sigmoid'].includes(activation), `unknown activation ${activation}`);
  check(['logits', 'log_probs', 'probs'].includes(valueKind), `unknown kind of values ${valueKind}`);
  check(shape.every(positive), `not a shape: ${shape}`);
}

/** @param {number[]} shape @returns {number} */
const product = (shape) => shape.reduce((a, b) => a * b, 1);

/** Items of a row that is not a list. @param {{kind: string, shape: number[]}} task */
const placesOf = (task) => (task.kind === 'segmentation' ? product(task.shape.slice(1)) : 1);

/** Bits of a class number beyond 16. @param {number} classes */
const highBits = (classes) => Math.max(0, 32 - Math.clz32(classes - 1) - 16);

/** @returns {import('./storage.mjs').Spec} */
const spec = (name, dtype, numbers = 1, list = dtype === 'bytes') => ({ name, dtype, numbers, list });
const idColumn = (idType) => spec('sample_id', idType === 'string' ? 'bytes' : idType);

/** The columns of a shard of `rows`, but for those that differ from cache to cache. @param {string} idType */
export const columnsOfRows = (idType) => [
  spec('view', 'int32'),
  idColumn(idType),
  spec('split', 'bytes'),
  spec('content', 'bytes'),
];

/**
 * The columns of a shard: of the codec, of the task, and of every target.
 * @param {any} declaration @param {string} idType @returns {import('./storage.mjs').Spec[]}
 */
export function columnsOf({ codec, task, format }, idType) {
  const list = isList(task);
  check(!list || format === 'arrow', 'lists are stored in Arrow');
  const classes = task.shape[0];
  const size = product(task.shape);
  const head = Math.min(codec.k, classes);
  const tail = classes > codec.k;
  const ids = (n) => [
    ['ids', 'uint16', n],
    ['ids_high', 'uint8', highBits(classes) * Math.ceil(n / 8)],
  ];
  const columns = {
    dense: [['values', codec.dtype === 'bfloat16' ? 'uint16' : codec.dtype, size]],
    topk: [
      ...ids(head),
      ['gaps', 'uint16', tail ? head : head - 1],
      ['sketch', 'uint16', tail && codec.nodes + 1],
      ['shape', 'uint8', tail && codec.basis],
      ['shape_scale', 'float16', tail && codec.basis > 0],
      ...COMPANIONS.map((name) => [name, name === 'top1' ? 'int32' : 'float16', codec.companions]),
    ],
    quantized: [
      ['codes', 'uint8', size],
      ['affine', 'float32', 2],
    ],
    sampled: [...ids(codec.draws), ['gaps', 'uint16', codec.draws], ['counts', 'uint8', codec.draws]],
    hidden: [
      ['hidden', codec.dtype === 'int8' ? 'uint8' : 'float16', codec.width],
      ['affine', 'float32', codec.dtype === 'int8' && 2],
    ],
    served: [...ids(codec.k), ['log_p', 'float32', codec.k]],
  }[codec.name];
  // Only these store each place of a map as an item; dense and quantized store the map as it is.
  const places = ['topk', 'sampled'].includes(codec.name) ? placesOf(task) : 1;
  const parts = task.parts.map((part) => [part, 'float32', partsOf(task)[part]]);
  const tokens = task.kind === 'causal_lm' ? ['input_ids', 'positions'].map((n) => [n, 'int32', 1]) : [];
  return [
    ...[...columns.map(([name, dtype, n]) => [name, dtype, n * places]), ...parts, ...tokens]
      .filter(([, , numbers]) => numbers > 0)
      .map((column) => spec(...column, list)),
    spec('valid', format === 'zarr' ? 'uint8' : 'bit'),
    ...(format === 'zarr' ? [] : [idColumn(idType)]),
    spec('view', 'int32'),
  ];
}

// ------------------------------------------------------------------------------- numbers

/** Stored floats as float64. @param {ArrayLike<number>} raw @param {string} dtype @returns {Float64Array} */
export function floats(raw, dtype) {
  if (dtype === 'bfloat16') raw = new Float32Array(Uint32Array.from(raw, (bits) => bits << 16).buffer);
  return Float64Array.from(raw, dtype === 'float16' ? fromHalf : undefined);
}

/** @param {number} code uint16 @returns {number} the gap in nats that the code stands for */
export function gapOf(code) {
  check(code <= 65534, 'a code of a gap says that the answer is missing');
  if (code === 65534) return Infinity;
  return code <= 49152 ? code / 1024 : 48 + (code - 49152) / 32;
}

/** @param {number} code uint16 @returns {number} log of a sum over the tail, in nats */
export const logSumOf = (code) => code / 4096;

/** 8-bit codes as in `quantized`. @param {Uint8Array} codes @param {Float32Array} affine lowest, step */
function dequantize(codes, [lowest, step], masked) {
  return Float64Array.from(codes, (code) => (masked && code === 255 ? -Infinity : lowest + code * step));
}

/**
 * @param {Float64Array} x @returns {Float64Array} x - log Σ exp(x). The largest x and the log of the sum
 *   relative to it are kept apart, so that a probability that is nearly 1 is not lost.
 */
function logSoftmax(x) {
  const top = x.reduce((best, v, i) => (v > x[best] ? i : best), 0);
  if (x[top] === -Infinity) return x;
  const rest = Math.log1p(x.reduce((sum, v, i) => (i === top ? sum : sum + Math.exp(v - x[top])), 0));
  return x.map((v) => v - x[top] - rest);
}

/** -log(1 + exp(-x)), the log of the sigmoid. @param {number} x */
const logSigmoid = (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));

/** Class numbers from their low 16 bits and planes of the others. */
function classNumbers(get, classes) {
  const ids = Int32Array.from(get('ids'));
  const high = get('ids_high') ?? [];
  const stride = Math.ceil(ids.length / 8);
  for (let i = 0; i < ids.length; i++) {
    for (let plane = 0; plane * stride < high.length; plane++) {
      if ((high[plane * stride + (i >> 3)] >> (i & 7)) & 1) ids[i] |= 1 << (16 + plane);
    }
    check(ids[i] < classes, `there is no class ${ids[i]}`);
  }
  return ids;
}

// --------------------------------------------------------------------------------- items

/**
 * What an item says at a temperature.
 * @typedef {{ids: Int32Array | null, logP: Float64Array, logTail: number | null}} Distribution `logP` is
 *   of each class, or of the classes `ids`, whose remainder has the mass exp(logTail) together
 */

const checkTemperature = (T) => check(T > 0 && T < Infinity, 'a temperature is above 0');

/** An item of which every class is known: codecs dense, quantized, hidden. */
export class Full {
  /** @param {Float64Array} z logits @param {boolean} sigmoid */
  constructor(z, sigmoid) {
    Object.assign(this, { z, sigmoid });
  }

  /** @param {number} T @returns {Distribution} */
  logP(T) {
    checkTemperature(T);
    const tempered = this.z.map((z) => z / T);
    const logP = this.sigmoid ? tempered.map(logSigmoid) : logSoftmax(tempered);
    return { ids: null, logP, logTail: null };
  }

  /** @param {number} T @returns {Float64Array} log p of every class */
  dense(T) {
    return this.logP(T).logP;
  }
}

/** An item of which some classes are known, the first of them the highest. */
class Sparse {
  /** @param {number} classes @param {(name: string) => any} get */
  constructor(classes, get) {
    Object.assign(this, { classes, ids: classNumbers(get, classes) });
  }

  /** Logs of the shares that the classes of the tail have in it. @param {number} T */
  shares(T) {
    return new Float64Array(this.classes);
  }

  /** @param {number} T @returns {Float64Array} log p of every class */
  dense(T) {
    const { ids, logP, logTail } = this.logP(T);
    const shares = this.shares(T);
    for (const id of ids) shares[id] = -Infinity;
    const logs = logSoftmax(shares).map((x) => x + logTail);
    // Places that `sampled` does not use have the id 0, which may also be the id of a class that was drawn.
    ids.forEach((id, i) => (logs[id] = Math.max(logs[id], logP[i])));
    return logs;
  }
}

/** The highest logits, and a sketch of the tail (section 11.2). */
export class Topk extends Sparse {
  /** @param {any} codec @param {number} classes @param {(name: string) => any} get @param {any} tables */
  constructor(codec, classes, get, tables) {
    super(classes, get);
    const head = Math.min(codec.k, classes);
    const gaps = Float64Array.from(get('gaps'), gapOf);
    this.gaps = Float64Array.of(0, ...gaps.subarray(0, head - 1));
    if (classes > codec.k) {
      this.anchor = gaps[head - 1];
      this.sketch = Float64Array.from(get('sketch'), logSumOf);
      this.nodes = NODES[codec.nodes];
      if (codec.basis) {
        this.basis = tables.basis;
        this.coefficients = Float64Array.from(get('shape'), (code) => code - 128);
        this.unit = fromHalf(get('shape_scale')[0]);
      }
    }
    const stored = (name) => [name, name === 'top1' ? get(name)[0] : fromHalf(get(name)[0])];
    if (codec.companions) this.companions = Object.fromEntries(COMPANIONS.map(stored));
  }

  /** B(beta), by Lagrange's polynomial through the nodes. @param {number} beta @returns {number} nats */
  tailSum(beta) {
    const [nodes, scale] = this.nodes;
    const u = Math.log1p(beta / scale);
    const axis = [0, ...nodes].map((m) => Math.log1p(m / 64 / scale));
    return axis.reduce((sum, node, j) => {
      const others = axis.filter((_, k) => k !== j);
      return sum + others.reduce((part, other) => (part * (u - other)) / (node - other), this.sketch[j]);
    }, 0);
  }

  /** @param {number} T at least 0.5 if there is a tail @returns {Distribution} */
  logP(T) {
    checkTemperature(T);
    check(T >= 0.5 || !this.sketch, 'topk answers from T = 0.5');
    const gone = !this.sketch || this.anchor === Infinity;
    const tail = gone ? -Infinity : this.tailSum(1 / T) - this.anchor / T;
    // The tail is one more item beside the head, so that its mass needs no step of its own.
    const logs = logSoftmax(Float64Array.of(...this.gaps.map((gap) => -gap / T), tail));
    return { ids: this.ids, logP: logs.subarray(0, -1), logTail: logs.at(-1) };
  }

  shares(T) {
    const width = this.basis && this.coefficients.length + 1;
    return super.shares(T).map((flat, i) => {
      if (!width) return flat;
      const [mean, ...components] = this.basis.subarray(i * width, (i + 1) * width);
      const s = components.reduce((sum, t, j) => sum + this.coefficients[j] * t, 0);
      return Math.min(mean + this.unit * s, -this.anchor) / T;
    });
  }
}

/** Classes drawn at the temperature `proposal` (section 11.4). */
export class Sampled extends Sparse {
  /** @param {any} codec @param {number} classes @param {(name: string) => any} get */
  constructor(codec, classes, get) {
    super(classes, get);
    this.proposal = codec.proposal;
    this.gaps = Float64Array.from(get('gaps'), gapOf);
    this.counts = Uint8Array.from(get('counts'));
  }

  /** @param {number} T @returns {Distribution} a place that is not used has the log of 0 */
  logP(T) {
    checkTemperature(T);
    const power = 1 / this.proposal - 1 / T;
    const weight = (gap, i) => (this.counts[i] ? Math.log(this.counts[i]) + power * gap : -Infinity);
    return { ids: this.ids, logP: logSoftmax(this.gaps.map(weight)), logTail: -Infinity };
  }
}

/** The highest log-probabilities of an endpoint (section 11.6), which say nothing of any other class. */
export class Served {
  /** @param {number} classes @param {(name: string) => any} get */
  constructor(classes, get) {
    this.ids = classNumbers(get, classes);
    this.logs = Float64Array.from(get('log_p'));
  }

  /** @param {number} T only 1 @returns {Distribution} */
  logP(T) {
    check(T === 1, 'served log-probabilities answer only at T = 1');
    const rest = -this.logs.reduce((sum, x) => sum + Math.exp(x), 0);
    return { ids: this.ids, logP: this.logs, logTail: rest > -1 ? Math.log1p(rest) : -Infinity };
  }
}

/** The logits of a hidden state. @param {Float64Array} hidden @param {{weight: any, bias?: any}} output */
function project(hidden, { weight, bias }, classes) {
  const width = hidden.length;
  return Float64Array.from({ length: classes }, (_, i) =>
    hidden.reduce((sum, x, j) => sum + weight[i * width + j] * x, bias?.[i] ?? 0),
  );
}

/** Stored values as logits. @param {Float64Array} values @param {any} task */
function logits(values, task) {
  if (task.value_kind !== 'probs') return values;
  return values.map(task.activation === 'sigmoid' ? (p) => Math.log(p) - Math.log1p(-p) : Math.log);
}

/** Stored numbers, not tempered: codecs dense and quantized. @returns {Float64Array} */
export function decodeValues(codec, get) {
  if (codec.name === 'dense') return floats(get('values'), codec.dtype);
  return dequantize(get('codes'), get('affine'), true);
}

/**
 * The items of a row, or the one item of a position of a list. `get` gives the raw numbers that a column has.
 * @param {any} declaration @param {(name: string) => any} get @param {any} tables @returns {any[]}
 */
export function decodeItems({ codec, task }, get, tables) {
  const classes = task.shape[0];
  const places = placesOf(task);
  if (codec.name === 'hidden') {
    const raw = get('hidden');
    const hidden = codec.dtype === 'int8' ? dequantize(raw, get('affine'), false) : floats(raw, codec.dtype);
    return [new Full(project(hidden, tables.output, classes), false)];
  }
  const whole = ['dense', 'quantized'].includes(codec.name) && logits(decodeValues(codec, get), task);
  return Array.from({ length: places }, (_, place) => {
    if (whole) {
      const z = Float64Array.from({ length: classes }, (_, c) => whole[c * places + place]);
      return new Full(z, task.activation === 'sigmoid');
    }
    const part = (name) => {
      const raw = get(name);
      const size = raw && raw.length / places;
      return raw && raw.subarray(place * size, (place + 1) * size);
    };
    if (codec.name === 'topk') return new Topk(codec, classes, part, tables);
    return codec.name === 'sampled' ? new Sampled(codec, classes, part) : new Served(classes, part);
  });
}
