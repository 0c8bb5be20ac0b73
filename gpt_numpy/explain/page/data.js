// The data of the page: every quantity by its name, with its numbers; and how entries, positions and numbers are
// formatted. Text from the data is only ever set as textContent, never as HTML.

/** @type {(id: string) => any} */
const byId = id => document.getElementById(id);
/** @type {(selector: string) => NodeListOf<any>} */
const findAll = selector => document.querySelectorAll(selector);

/** @typedef {Object<string, number>} Bindings  by an index letter, or by a name */
/** @typedef {[name: string, ...letters: string[]]} Factor  an entry; a constant has no index letters */
/** @typedef {[sign: number, over: string, ...factors: Factor[]]} Term  over: the index of its sum, or empty */
/**
 * @typedef {{name: string, indices: string[], kind: "sum"|"share"|"function"|"given", meaning: string, formula: string,
 *   terms: Term[], shape?: number[], numbers?: string, torch?: string, difference?: string, measured?: string
 * }} QuantityRecord  indices: a letter for each axis; the last four: packed numbers, and how far torch and difference
 *   quotients deviate from them, these at the entries that were measured
 */
/**
 * text, ids, layer, head     those that the page begins with, or all that it has
 * vocabulary, characters     the tokens, as they are shown and as they are typed
 * described, learns, about   the model, the loss, and an example, in words
 * ofLoss, masked, tables     names of quantities, and all quantities of each layer
 * command, program, flags    before and after further flags; and parts of the command for another text
 * step, bend, blind          of difference quotients, and their relative and absolute error
 * exact, torch, digests      the error of all else; whether torch is installed; by library and name
 * @typedef {{text: string, ids: number[], layer: number, head: number, layers: number, heads: number, width: number,
 *   vocabulary: string[], characters: string[], described: string, about?: string, learns: string, ofLoss: string[],
 *   aboutLoss: string, command: string[], program: string, flags: string, torch: boolean, masked: string[],
 *   tables: Object<number, QuantityRecord[]>, step: number, exact: number, bend: number, blind?: number,
 *   constants?: Bindings, model?: PackedModel, digests?: Object<string, Lists>}} Data
 */
/** @type {Data} */
const data = JSON.parse(byId("data").textContent);
const MASKED = data.masked; // defined where a position may attend: column <= row
/** An example has no more than attention. @type {(name: string) => boolean} */
const isOnPage = name => data.tables[data.layer].some(one => one.name === name);
const POSITIONS = "ijk"; // the index letters that count positions

/**
 * Appends a child element in the namespace of its parent, so that it works for HTML and SVG.
 * @template {string} N
 * @param {Element} parent  @param {N} name  @param {Object<string, any>} attributes  @param {string|number} text
 * @returns {N extends keyof HTMLElementTagNameMap ? HTMLElementTagNameMap[N] : any}
 */
function put(parent, name, attributes = {}, text = null) {
  /** @type {any} */
  const child = parent.appendChild(document.createElementNS(parent.namespaceURI, name));
  for (const key in attributes) child.setAttribute(key, attributes[key]);
  if (text !== null) child.textContent = text;
  return child;
}

/** A named matrix, vector or number. A vector counts as one row, a number as a matrix of one entry. */
class Quantity {
  /** @type {number} */ largestNumber; // from its first use on

  /** @param {QuantityRecord} record  @param {Float64Array} [numbers]  if they are not in the record */
  constructor({ name, indices, kind, meaning, formula, terms, shape, ...packed }, numbers) {
    this.name = name, this.indices = indices, this.kind = kind, this.meaning = meaning;
    this.formula = formula, this.terms = terms, this.packed = /** @type {Object<string, string>} */ (packed);
    this.shape = shape ?? indices.map(letter => scene.lengths[letter]);
    this.rows = this.shape.length === 2 ? this.shape[0] : 1;
    this.cols = this.shape.at(-1) ?? 1;
    this.hasMask = MASKED.includes(name);
    this.isGradient = name.startsWith("d");
    /** @type {Object<string, Float64Array|number[]>} */
    this.unpacked = numbers ? { numbers } : {};
  }

  /**
   * "numbers", or how far "torch" or "difference" deviates from them; null if that is not on this page.
   * @param {string} key
   */
  read(key) {
    if (this.packed[key] === undefined && !this.unpacked[key]) return null;
    return this.unpacked[key] ??= key === "difference" ? this.unpackDifferences() : unpackFloats(this.packed[key]);
  }

  /** Entries without a difference quotient are undefined. */
  unpackDifferences() {
    const differences = unpackFloats(this.packed.difference), places = this.read("measured");
    if (!places) return differences;
    const all = new Array(this.rows * this.cols);
    places.forEach((place, n) => { all[place] = differences[n]; });
    return all;
  }

  get numbers() { return /** @type {Float64Array} */ (this.read("numbers")); }
  get largest() { return this.largestNumber ??= largestMagnitude(this.numbers ?? []); }

  /** No entry is larger than this sum of products of the largest factors. */
  get bound() {
    return sumOf(this.terms.map(([, over, ...factors]) => factors.reduce((product, [name]) =>
      product * (scene.constants[name] ?? quantities.get(name).largest), over ? lengthOfSum(over, factors) : 1)));
  }

  /**
   * Whether a number is 0 except for rounding, as the gradient of K's bias: it is tiny relative to its terms.
   * @param {number} number
   */
  isRoundingError(number) { return Math.abs(number) < 1e-12 * this.bound; }

  /** @param {number[]} index */
  at(index, key = "numbers") { return this.read(key)?.[this.flatIndex(index)]; }
  /** @param {number[]} index  @returns {number} */
  flatIndex(index) { return index.length === 2 ? index[0] * this.cols + index[1] : index[0] ?? 0; }
  /** @param {number} row  @param {number} col */
  indexOf(row, col) { return this.shape.length === 2 ? [row, col] : this.shape.length ? [col] : []; }
  /** @param {number[]} index */
  isMaskedAt(index) { return this.hasMask && index[1] > index[0]; }
  /** @param {number[]} index */
  has(index) { return index.length === this.shape.length && index.every((n, axis) => n < this.shape[axis]); }
}

/** @type {(numbers: number[]|Float64Array) => number} */
const sumOf = numbers => /** @type {number[]} */ (numbers).reduce((sum, x) => sum + x, 0);

// ---- the scene: what is on the screen ------------------------------------------------------------------------------

const isLiving = Boolean(data.model); // the page has the model in it, and not the numbers of one head on one text
/**
 * @typedef {{ids: number[], layer: number, head: number, reads: string[], next: number[], constants: Bindings,
 *   lengths: Bindings}} Scene  the text, with the head that is explained; reads: its tokens; next: the ids to predict;
 *   lengths: of the axes
 */
/** @type {Scene} */
const scene = { ids: [], layer: 0, head: 0, reads: [], next: [], constants: {}, lengths: {} };
/** @type {Map<string, Quantity>} */
let quantities = new Map(); // those of the scene

/** @param {{ids: number[], layer: number, head: number}} chosen  @param {Numbers} numbers  of the model on this page */
function setScene({ ids, layer, head }, numbers = {}) {
  const T = ids.length - 1, { width: C, heads, vocabulary: { length: V } } = data, D = C / heads;
  const reads = ids.slice(0, -1).map(id => data.vocabulary[id]);
  Object.assign(scene, { ids, layer, head, reads, next: ids.slice(1) });
  scene.lengths = { i: T, j: T, k: T, d: D, m: C, a: C, u: 4 * C, v: V };
  scene.constants = data.constants ?? { c: 1 / Math.sqrt(D), "1/T": 1 / T, "1/C": 1 / C };
  quantities = new Map(data.tables[layer].map(record => [record.name, new Quantity(record, numbers[record.name])]));
  findDependents();
}

// ---- entries -------------------------------------------------------------------------------------------------------

/** @typedef {{name: string, index: number[]}} Entry  of a quantity; a single number has no index */

/** @type {(entry: {name: string, index: (string|number)[]}) => string} */
const formatEntry = ({ name, index }) => index.length ? `${name}[${index.join(",")}]` : name;
/** @type {(one: Entry, other: Entry) => boolean} */
const isSameEntry = (one, other) => Boolean(one && other) && formatEntry(one) === formatEntry(other);

/** @typedef {{entry?: Entry, error?: string}} Parsed  an entry, or what is wrong with its text */

/** Masked entries are only valid if `isUnmasked`. @param {string} text  @returns {Parsed} */
function parseEntry(text, isUnmasked = false) {
  const [, name, inside] = /^([A-Za-z]\w*)(?:\[(\d+(?:,\d+)*)\])?$/.exec(text) ?? [];
  const quantity = quantities.get(name), index = inside ? inside.split(",").map(Number) : [];
  if (!quantity) return { error: `This page has no number called ${text}.` };
  if (!quantity.has(index)) return { error: `${text} is not an entry; write ${describeIndices(quantity)}.` };
  if (!isUnmasked && quantity.isMaskedAt(index))
    return { error: `${text} is masked: position ${index[0]} cannot look ahead.` };
  return { entry: { name, index } };
}

/** @param {Quantity} quantity */
function describeIndices({ name, shape, indices }) {
  if (!shape.length) return `${name}, a single number`;
  const ranges = shape.map((length, axis) => `${indices[axis]} from 0 to ${length - 1}`);
  return `${name}[${indices.join(",")}], ${ranges.join(", ")}`;
}

/**
 * The character at a position, or the token of the vocabulary; other indices have no label.
 * @param {string} letter  @param {number} n  @returns {string}
 */
function labelOf(letter, n) {
  if (letter && POSITIONS.includes(letter)) return scene.reads[n] ?? "";
  return letter === "v" ? data.vocabulary[n] ?? "" : "";
}

/** For example "row 3 e, column 1 o". @param {Quantity} quantity  @param {number[]} index */
function describeIndex({ indices }, index) {
  const axes = index.length === 2 ? ["row", "column"] : ["entry"];
  return index.map((n, axis) => [axes[axis], n, labelOf(indices[axis], n)].join(" ").trim()).join(", ");
}

/** The command that explains the text of the scene with these further flags. @param {string} flags */
function commandFor(flags) {
  if (!isLiving) return `${data.command[0]} ${flags}${data.command[1]}`;
  const text = scene.ids.map(id => data.characters[id]).join(""), isFlag = text.startsWith("-");
  const quoted = /^[\w.,/:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
  const all = [data.flags, `--layer ${scene.layer} --head ${scene.head}`, flags].filter(Boolean).join(" ");
  return isFlag ? `${data.program} explain ${all} -- ${quoted}` : `${data.program} explain ${quoted} ${all}`;
}

// ---- numbers -------------------------------------------------------------------------------------------------------

/** @type {(value: number|string) => string} */
const formatFull = value => String(value ?? NaN).replaceAll("-", "−").replace("Infinity", "∞"); // JSON has null for NaN
/** @type {(value: number, digits?: number) => string} */
const formatRounded = (value, digits = 6) =>
  formatFull(Number.isFinite(value ?? NaN) ? Number(value.toPrecision(digits)) : value);

const UNITS = { "": 1, "√2": Math.SQRT2, "ln 2": Math.LN2, "√2 ln 2": Math.SQRT2 * Math.LN2 };
const MOST_BELOW = 100; // the line of a fraction

/**
 * As a fraction with a small denominator, or one times a root or a logarithm of 2, as 1/2 √2; else empty. Only in an
 * example, whose numbers are chosen so.
 * @param {number} value  @returns {string}
 */
function formatExact(value) {
  if (value === 0) return "0";
  if (!data.about || !Number.isFinite(value)) return "";
  for (const [name, unit] of Object.entries(UNITS)) for (let below = 1; below <= MOST_BELOW; below++) {
    const above = Math.round(Math.abs(value) / unit * below);
    if (!(Math.abs(above * unit / below - Math.abs(value)) <= 1e-12 * Math.abs(value))) continue;
    const fraction = below > 1 ? `${above}/${below}` : above > 1 || !name ? String(above) : "";
    return `${value < 0 ? "−" : ""}${[fraction, name].filter(Boolean).join(" ")}`;
  }
  return "";
}

/** Exact, or rounded, with trailing zeros, so that a column of numbers lines up. @param {number} value */
function formatAligned(value, digits = 6) {
  if (!Number.isFinite(value)) return formatFull(value);
  const exact = Math.abs(value) < 1e6 ? formatExact(value) : "";
  if (exact) return exact;
  const magnitude = Math.abs(value), isPlain = magnitude >= 1e-4 && magnitude < 1e6;
  return formatFull(isPlain ? value.toPrecision(digits) : value.toExponential(digits - 1));
}
/** @type {(value: number) => string} */
const formatCount = value => value.toLocaleString("en");
/** @type {(n: number, one: string, many?: string) => string} */
const pluralize = (n, one, many = `${one}s`) => `${formatCount(n)} ${n === 1 ? one : many}`;

/** The largest magnitude in lists of numbers, ignoring the -∞ of masked scores. @param {...Iterable<number>} lists */
function largestMagnitude(...lists) {
  let largest = 0;
  for (const numbers of lists)
    for (const value of numbers) if (Math.abs(value) > largest && Number.isFinite(value)) largest = Math.abs(value);
  return largest;
}
