/**
 * The codecs of the softcache format: section 11 of docs/format.md. A row is made of *items*: one
 * distribution of a plain row, one for each place of a map (in C order), one for each position of a
 * list. Logits, gaps and log-probabilities are in nats; all arithmetic is float64.
 */
import { check, fromHalf } from './hashing.mjs';

const oneOf =
  (...values) =>
  (x) =>
    values.includes(x);
const atLeast = (least) => (x) => Number.isSafeInteger(x) && x >= least;

/** The settings of each codec, and which values they may have; others could change what columns mean. */
const SETTINGS = {
  dense: { dtype: oneOf('float32', 'float16', 'bfloat16') },
  topk: {
    k: atLeast(1),
    nodes: (x) => Number.isInteger(x) && Object.hasOwn(NODES, x),
    basis: atLeast(0),
    companions: oneOf(true, false),
  },
  quantized: {},
  sampled: { draws: (x) => atLeast(1)(x) && x <= 255, proposal: (x) => x > 0 && x < Infinity },
  hidden: { width: atLeast(1), dtype: oneOf('float16', 'int8') },
  served: { k: atLeast(1) },
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
  check(shape.every(atLeast(1)), `not a shape: ${shape}`);
}

/** @param {number[]} shape @returns {number} */
const product = (shape) => shape.reduce((a, b) => a * b, 1);

/** Items of a row that is not a list. @param {{kind: string, shape: number[]}} task */
export const placesOf = (task) => (task.kind === 'segmentation' ? product(task.shape.slice(1)) : 1);

/** Bits of a class number beyond 16. @param {number} classes */
const highBits = (classes) => Math.max(0, 32 - Math.clz32(classes - 1) - 16);

/** Logits that `topk` ranks. @param {any} codec @param {number} classes */
const headSize = (codec, classes) => Math.min(codec.k, classes);

/**
 * The columns of a shard: of the codec, of the task, and of every target.
 * @param {any} declaration @param {string} idType @returns {import('./storage.mjs').Spec[]}
 */
export function columnsOf({ codec, task, format }, idType) {
  const list = isList(task);
  check(!list || format === 'arrow', 'lists are stored in Arrow');
  const classes = task.shape[0];
  const size = product(task.shape);
  const head = headSize(codec, classes);
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
      ['entropy', 'float16', codec.companions],
      ['top1', 'int32', codec.companions],
      ['top1_prob', 'float16', codec.companions],
      ['tail_mass', 'float16', codec.companions],
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
  const specs = columns.map(([name, dtype, n]) => ({ name, dtype, numbers: n * places, list }));
  for (const part of task.parts)
    specs.push({ name: part, dtype: 'float32', numbers: partsOf(task)[part], list });
  for (const name of task.kind === 'causal_lm' ? ['input_ids', 'positions'] : [])
    specs.push({ name, dtype: 'int32', numbers: 1, list });
  const [valid, view] = [format === 'zarr' ? 'uint8' : 'bit', 'int32'];
  const id = idType === 'string' ? { dtype: 'bytes', list: true } : { dtype: 'int64' };
  specs.push({ name: 'valid', dtype: valid, numbers: 1 });
  if (format === 'arrow') specs.push({ name: 'sample_id', numbers: 1, ...id });
  specs.push({ name: 'view', dtype: view, numbers: 1 });
  return specs.filter(({ numbers }) => numbers > 0);
}

// ------------------------------------------------------------------------------- numbers

const word32 = new DataView(new ArrayBuffer(4));

/** @param {number} bits uint16 @returns {number} */
function fromBfloat(bits) {
  word32.setUint32(0, bits * 65536);
  return word32.getFloat32(0);
}

/** Stored floats as float64. @param {ArrayLike<number>} raw @param {string} dtype @returns {Float64Array} */
export function floats(raw, dtype) {
  const decode = { float16: fromHalf, bfloat16: fromBfloat }[dtype];
  return Float64Array.from(raw, decode);
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
 * The parts of log Σ exp(x): the largest x, and the log of the sum relative to it. Kept apart, they do not
 * lose a probability that is nearly 1.
 * @param {ArrayLike<number>} x @returns {[number, number]}
 */
function logSumParts(x) {
  let top = 0;
  for (let i = 1; i < x.length; i++) if (x[i] > x[top]) top = i;
  if (x[top] === -Infinity) return [-Infinity, 0];
  let others = 0;
  for (let i = 0; i < x.length; i++) if (i !== top) others += Math.exp(x[i] - x[top]);
  return [x[top], Math.log1p(others)];
}

/** @param {Float64Array} x @returns {Float64Array} */
function logSoftmax(x) {
  const [most, rest] = logSumParts(x);
  return x.map((v) => v - most - rest);
}

/** -log(1 + exp(-x)), the log of the sigmoid. @param {number} x */
function logSigmoid(x) {
  return Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)));
}

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

/** A product of 0 and infinity means a class that is ruled out at every temperature. */
const scaled = (beta, gap) => (gap === Infinity ? Infinity : beta * gap);

// --------------------------------------------------------------------------------- items

/**
 * What an item says at a temperature.
 * @typedef {{ids: Int32Array | null, logP: Float64Array, logTail: number | null}} Distribution `logP` is
 *   of each class, or of the classes `ids`, whose remainder has the mass exp(logTail) together
 */

/** @param {number} T */
function checkTemperature(T) {
  check(T > 0 && Number.isFinite(T), 'a temperature is above 0');
}

/** An item of which every class is known: codecs dense, quantized, hidden. */
export class Full {
  /** @param {Float64Array} z logits @param {boolean} sigmoid */
  constructor(z, sigmoid) {
    this.z = z;
    this.sigmoid = sigmoid;
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

/** The highest logits, and a sketch of the tail (section 11.2). */
export class Topk {
  /** @param {any} codec @param {number} classes @param {(name: string) => any} get @param {any} tables */
  constructor(codec, classes, get, tables) {
    const head = headSize(codec, classes);
    this.classes = classes;
    this.ids = classNumbers(get, classes);
    const gaps = Float64Array.from(get('gaps'), gapOf);
    this.gaps = Float64Array.of(0, ...gaps.subarray(0, head - 1));
    if (classes > codec.k) {
      this.anchor = gaps[head - 1];
      this.sketch = Float64Array.from(get('sketch'), logSumOf);
      const [nodes, scale] = NODES[codec.nodes];
      this.axis = [0, ...nodes].map((m) => Math.log1p(m / 64 / scale));
      this.scale = scale;
      if (codec.basis) this.basis = tables.basis;
      if (codec.basis) this.coefficients = Float64Array.from(get('shape'), (code) => code - 128);
      if (codec.basis) this.unit = fromHalf(get('shape_scale')[0]);
    }
    if (codec.companions) {
      this.companions = {
        entropy: fromHalf(get('entropy')[0]),
        top1: get('top1')[0],
        top1Prob: fromHalf(get('top1_prob')[0]),
        tailMass: fromHalf(get('tail_mass')[0]),
      };
    }
  }

  /** B(beta), by Lagrange's polynomial through the nodes. @param {number} beta @returns {number} nats */
  tailSum(beta) {
    const u = Math.log1p(beta / this.scale);
    let sum = 0;
    this.axis.forEach((node, j) => {
      let term = this.sketch[j];
      this.axis.forEach((other, k) => {
        if (k !== j) term *= (u - other) / (node - other);
      });
      sum += term;
    });
    return sum;
  }

  /** @param {number} T at least 0.5 if there is a tail @returns {Distribution} */
  logP(T) {
    checkTemperature(T);
    const beta = 1 / T;
    const head = this.gaps.map((gap) => -scaled(beta, gap));
    let tail = -Infinity;
    if (this.sketch) {
      check(T >= 0.5, 'topk answers from T = 0.5');
      if (this.anchor < Infinity) tail = this.tailSum(beta) - beta * this.anchor;
    }
    // The tail is one more item beside the head, so that its mass needs no step of its own.
    const logs = logSoftmax(Float64Array.of(...head, tail));
    return { ids: this.ids, logP: logs.subarray(0, -1), logTail: logs[head.length] };
  }

  /** @param {number} T @returns {Float64Array} log p of every class */
  dense(T) {
    const { ids, logP, logTail } = this.logP(T);
    let logs = new Float64Array(this.classes);
    if (this.basis) {
      const width = this.coefficients.length + 1;
      for (let i = 0; i < this.classes; i++) {
        let s = 0;
        for (let j = 1; j < width; j++) s += this.coefficients[j - 1] * this.basis[i * width + j];
        logs[i] = Math.min(this.basis[i * width] + this.unit * s, -this.anchor) / T;
      }
    }
    for (const id of ids) logs[id] = -Infinity;
    logs = logSoftmax(logs).map((x) => x + logTail);
    ids.forEach((id, i) => (logs[id] = logP[i]));
    return logs;
  }
}

/** Classes drawn at the temperature `proposal` (section 11.4). */
export class Sampled {
  /** @param {any} codec @param {number} classes @param {(name: string) => any} get */
  constructor(codec, classes, get) {
    this.classes = classes;
    this.proposal = codec.proposal;
    this.ids = classNumbers(get, classes);
    this.gaps = Float64Array.from(get('gaps'), gapOf);
    this.counts = Uint8Array.from(get('counts'));
  }

  /** @param {number} T @returns {Distribution} a place that is not used has the log of 0 */
  logP(T) {
    checkTemperature(T);
    const power = 1 / this.proposal - 1 / T;
    const weights = this.gaps.map((gap, i) =>
      this.counts[i] ? Math.log(this.counts[i]) + power * gap : -Infinity,
    );
    return { ids: this.ids, logP: logSoftmax(weights), logTail: -Infinity };
  }

  /** @param {number} T @returns {Float64Array} log p of every class */
  dense(T) {
    const { logP } = this.logP(T);
    const logs = new Float64Array(this.classes).fill(-Infinity);
    // Unused places have the id 0, which may also be the id of a class that was drawn.
    this.ids.forEach((id, i) => this.counts[i] && (logs[id] = logP[i]));
    return logs;
  }
}

/** The highest log-probabilities of an endpoint (section 11.6). */
export class Served {
  /** @param {number} classes @param {(name: string) => any} get */
  constructor(classes, get) {
    this.classes = classes;
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

/**
 * The logits of a hidden state.
 * @param {Float64Array} hidden @param {{weight: Float64Array, bias?: Float64Array}} output
 */
function project(hidden, { weight, bias }, classes) {
  const z = new Float64Array(classes);
  for (let i = 0; i < classes; i++) {
    let sum = bias ? bias[i] : 0;
    for (let j = 0; j < hidden.length; j++) sum += weight[i * hidden.length + j] * hidden[j];
    z[i] = sum;
  }
  return z;
}

/** Stored values as logits. @param {Float64Array} values @param {any} task */
function logits(values, task) {
  if (task.value_kind !== 'probs') return values;
  return values.map(task.activation === 'sigmoid' ? (p) => Math.log(p) - Math.log1p(-p) : Math.log);
}

/**
 * Stored numbers of one row or position, decoded but not tempered: codecs dense and quantized.
 * @param {any} codec @param {(name: string) => any} get @returns {Float64Array}
 */
export function decodeValues(codec, get) {
  if (codec.name === 'dense') return floats(get('values'), codec.dtype);
  return dequantize(get('codes'), get('affine'), true);
}

/**
 * The items of one row that is not a list, or the one item of a position.
 * @param {{codec: any, task: any}} declaration
 * @param {(name: string) => any} get the raw numbers of a column for this row or position
 * @param {any} tables of the target
 * @returns {(Full | Topk | Sampled | Served)[]}
 */
export function decodeItems({ codec, task }, get, tables) {
  const classes = task.shape[0];
  const places = placesOf(task);
  if (codec.name === 'dense' || codec.name === 'quantized') {
    const z = logits(decodeValues(codec, get), task);
    const at = (place) => Float64Array.from({ length: classes }, (_, c) => z[c * places + place]);
    return Array.from({ length: places }, (_, place) => new Full(at(place), task.activation === 'sigmoid'));
  }
  if (codec.name === 'hidden') {
    const raw = get('hidden');
    const hidden = codec.dtype === 'int8' ? dequantize(raw, get('affine'), false) : floats(raw, codec.dtype);
    return [new Full(project(hidden, tables.output, classes), false)];
  }
  return Array.from({ length: places }, (_, place) => {
    const part = (name) => {
      const raw = get(name);
      const size = raw && raw.length / places;
      return raw && raw.subarray(place * size, (place + 1) * size);
    };
    if (codec.name === 'topk') return new Topk(codec, classes, part, tables);
    return codec.name === 'sampled' ? new Sampled(codec, classes, part) : new Served(classes, part);
  });
}
