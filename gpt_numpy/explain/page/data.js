// The data of the page: every quantity by its name, with its numbers; and how entries, positions and numbers are
// formatted. Text from the data is only ever set as textContent, never as HTML.

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const MASKED = data.masked; // defined where a position may attend: column <= row
/** An example has no more than attention. */
const isOnPage = name => data.tables[data.layer].some(one => one.name === name);
const POSITIONS = "ijk"; // the index letters that count positions

/** Appends a child element in the namespace of its parent, so that it works for HTML and SVG. */
function put(parent, name, attributes = {}, text = null) {
  const child = parent.appendChild(document.createElementNS(parent.namespaceURI, name));
  for (const key in attributes) child.setAttribute(key, attributes[key]);
  if (text !== null) child.textContent = text;
  return child;
}

/** A named matrix, vector or number. A vector counts as one row, a number as a matrix of one entry. */
class Quantity {
  /** `numbers`: those of the model on this page; without one, the record has packed numbers. */
  constructor({ name, indices, kind, meaning, formula, terms, shape, ...packed }, numbers) {
    Object.assign(this, { name, indices, kind, meaning, formula, terms, packed });
    this.shape = shape ?? indices.map(letter => scene.lengths[letter]);
    this.rows = this.shape.length === 2 ? this.shape[0] : 1;
    this.cols = this.shape.at(-1) ?? 1;
    this.hasMask = MASKED.includes(name);
    this.isGradient = name.startsWith("d");
    this.unpacked = numbers ? { numbers } : {};
  }

  /** "numbers", or how far "torch" or "difference" deviates from them; null if that is not on this page. */
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

  get numbers() { return this.read("numbers"); }
  get largest() { return this.largestNumber ??= largestMagnitude(this.numbers ?? []); }

  /** No entry is larger than this sum of products of the largest factors. */
  get bound() {
    return sumOf(this.terms.map(([, over, ...factors]) => factors.reduce((product, [name]) =>
      product * (scene.constants[name] ?? quantities.get(name).largest), over ? lengthOfSum(over, factors) : 1)));
  }

  /** Whether a number is 0 except for rounding, as the gradient of K's bias: it is tiny relative to its terms. */
  isRoundingError(number) { return Math.abs(number) < 1e-12 * this.bound; }
  at(index, key = "numbers") { return this.read(key)?.[this.flatIndex(index)]; }
  flatIndex(index) { return index.length === 2 ? index[0] * this.cols + index[1] : index[0] ?? 0; }
  indexOf(row, col) { return this.shape.length === 2 ? [row, col] : this.shape.length ? [col] : []; }
  isMaskedAt(index) { return this.hasMask && index[1] > index[0]; }
  has(index) { return index.length === this.shape.length && index.every((n, axis) => n < this.shape[axis]); }
}

const sumOf = numbers => numbers.reduce((sum, x) => sum + x, 0);

// ---- the scene: what is on the screen ------------------------------------------------------------------------------

const isLiving = Boolean(data.model); // the page has the model in it, and not the numbers of one head on one text
const scene = {}; // { ids, layer, head, reads, next, constants, lengths }: the text, with the head that is explained
let quantities = new Map(); // by name, those of the scene

/** `numbers` by name: of the model on this page. */
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

const formatEntry = ({ name, index }) => index.length ? `${name}[${index.join(",")}]` : name;
const isSameEntry = (one, other) => Boolean(one && other) && formatEntry(one) === formatEntry(other);

/** { entry }, or { error } with what is wrong with the text. Masked entries are only valid if `isUnmasked`. */
function parseEntry(text, isUnmasked = false) {
  const [, name, inside] = /^([A-Za-z]\w*)(?:\[(\d+(?:,\d+)*)\])?$/.exec(text) ?? [];
  const quantity = quantities.get(name), index = inside ? inside.split(",").map(Number) : [];
  if (!quantity) return { error: `This page has no number called ${text}.` };
  if (!quantity.has(index)) return { error: `${text} is not an entry; write ${describeIndices(quantity)}.` };
  if (!isUnmasked && quantity.isMaskedAt(index))
    return { error: `${text} is masked: position ${index[0]} cannot look ahead.` };
  return { entry: { name, index } };
}

function describeIndices({ name, shape, indices }) {
  if (!shape.length) return `${name}, a single number`;
  const ranges = shape.map((length, axis) => `${indices[axis]} from 0 to ${length - 1}`);
  return `${name}[${indices.join(",")}], ${ranges.join(", ")}`;
}

/** The character at a position, or the token of the vocabulary; other indices have no label. */
function labelOf(letter, n) {
  if (letter && POSITIONS.includes(letter)) return scene.reads[n] ?? "";
  return letter === "v" ? data.vocabulary[n] ?? "" : "";
}

/** For example "row 3 e, column 1 o". */
function describeIndex({ indices }, index) {
  const axes = index.length === 2 ? ["row", "column"] : ["entry"];
  return index.map((n, axis) => [axes[axis], n, labelOf(indices[axis], n)].join(" ").trim()).join(", ");
}

/** The command that explains the text of the scene with these further flags. */
function commandFor(flags) {
  if (!isLiving) return `${data.command[0]} ${flags}${data.command[1]}`;
  const text = scene.ids.map(id => data.characters[id]).join(""), isFlag = text.startsWith("-");
  const quoted = /^[\w.,/:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
  const all = [data.flags, `--layer ${scene.layer} --head ${scene.head}`, flags].filter(Boolean).join(" ");
  return isFlag ? `${data.program} explain ${all} -- ${quoted}` : `${data.program} explain ${quoted} ${all}`;
}

// ---- numbers -------------------------------------------------------------------------------------------------------

const formatFull = value => String(value ?? NaN).replaceAll("-", "−").replace("Infinity", "∞"); // JSON has null for NaN
const formatRounded = (value, digits = 6) =>
  formatFull(Number.isFinite(value ?? NaN) ? Number(value.toPrecision(digits)) : value);

const UNITS = { "": 1, "√2": Math.SQRT2, "ln 2": Math.LN2, "√2 ln 2": Math.SQRT2 * Math.LN2 };
const MOST_BELOW = 100; // the line of a fraction

/**
 * As a fraction with a small denominator, or one times a root or a logarithm of 2, as 1/2 √2; else empty. Only in an
 * example, whose numbers are chosen so.
 */
function formatExact(value) {
  if (value === 0) return "0";
  if (!data.about || !Number.isFinite(value)) return "";
  for (const [name, unit] of Object.entries(UNITS)) for (let below = 1; below <= MOST_BELOW; below++) {
    const above = Math.round(Math.abs(value) / unit * below);
    if (!(Math.abs(above * unit / below - Math.abs(value)) <= 1e-12 * Math.abs(value))) continue;
    const fraction = below > 1 ? `${above}/${below}` : above > 1 || !name ? above : "";
    return `${value < 0 ? "−" : ""}${[fraction, name].filter(Boolean).join(" ")}`;
  }
  return "";
}

/** Exact, or rounded, with trailing zeros, so that a column of numbers lines up. */
function formatAligned(value, digits = 6) {
  if (!Number.isFinite(value)) return formatFull(value);
  const exact = Math.abs(value) < 1e6 ? formatExact(value) : "";
  if (exact) return exact;
  const magnitude = Math.abs(value), isPlain = magnitude >= 1e-4 && magnitude < 1e6;
  return formatFull(isPlain ? value.toPrecision(digits) : value.toExponential(digits - 1));
}
const formatCount = value => value.toLocaleString("en");
const pluralize = (n, one, many = `${one}s`) => `${formatCount(n)} ${n === 1 ? one : many}`;

/** The largest magnitude in lists of numbers, ignoring the -∞ of masked scores. */
function largestMagnitude(...lists) {
  let largest = 0;
  for (const numbers of lists)
    for (const value of numbers) if (Math.abs(value) > largest && Number.isFinite(value)) largest = Math.abs(value);
  return largest;
}
