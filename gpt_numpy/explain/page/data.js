// What the file holds: every quantity by its name, with its numbers, which are unpacked when first asked for; and how
// entries, positions and numbers are written. What comes from the data reaches the page by textContent only.

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const MASKED = data.masked; // defined where a position may look: column <= row
const POSITIONS = "ijk"; // the index letters that count positions

/** A new last child; in the namespace of its parent, so that it serves HTML, SVG and MathML. */
function put(parent, name, attributes = {}, text = null) {
  const child = parent.appendChild(document.createElementNS(parent.namespaceURI, name));
  for (const key in attributes) child.setAttribute(key, attributes[key]);
  if (text !== null) child.textContent = text;
  return child;
}

/** Base64 of little-endian floats: of 4 bytes each if a comma stands in front, else of 8. */
function unpacked(text) {
  const isShort = text.startsWith(",");
  const bytes = Uint8Array.from(atob(isShort ? text.slice(1) : text), one => one.charCodeAt(0));
  return isShort ? Float64Array.from(new Float32Array(bytes.buffer)) : new Float64Array(bytes.buffer);
}

/** A matrix, vector or number that has a name. A vector counts as one row, a number as a matrix of one entry. */
class Quantity {
  constructor({ name, indices, shape, kind, size, meaning, formula, terms, ...packed }) {
    Object.assign(this, { name, indices, shape, kind, size, meaning, formula, terms, packed });
    this.rows = shape.length === 2 ? shape[0] : 1;
    this.cols = shape.at(-1) ?? 1;
    this.isMasked = MASKED.includes(name);
    this.isGradient = name.startsWith("d");
    this.unpacked = {};
  }

  /** "numbers", or what the ways "torch" and "difference" have beyond them; null for what is not on this page. */
  read(what) {
    if (this.packed[what] === undefined) return null;
    return this.unpacked[what] ??= what === "difference" ? this.differences() : unpacked(this.packed[what]);
  }

  /** With undefined where none was taken. */
  differences() {
    const taken = unpacked(this.packed.difference), places = this.read("measured");
    if (!places) return taken;
    const all = new Array(this.rows * this.cols);
    places.forEach((place, n) => { all[place] = taken[n]; });
    return all;
  }

  get numbers() { return this.read("numbers"); }
  get largest() { return largestOf(this.numbers ?? []); }
  /** What is nothing beside its terms, as the gradient of the keys' bias, is 0 but for rounding. */
  isRounding(number) { return Math.abs(number) < 1e-12 * this.size; }
  at(index, what = "numbers") { return this.read(what)?.[this.flat(index)]; }
  flat(index) { return index.length === 2 ? index[0] * this.cols + index[1] : index[0] ?? 0; }
  index(row, col) { return this.shape.length === 2 ? [row, col] : this.shape.length ? [col] : []; }
  isHidden(index) { return this.isMasked && index[1] > index[0]; }
  has(index) { return index.length === this.shape.length && index.every((n, axis) => n < this.shape[axis]); }
}

const quantities = new Map(data.quantities.map(record => [record.name, new Quantity(record)]));

// ---- entries -------------------------------------------------------------------------------------------------------

const written = ({ name, index }) => index.length ? `${name}[${index.join(",")}]` : name;
const isSame = (one, other) => Boolean(one && other) && written(one) === written(other);

/** The entry that a text names, or what is wrong with it: { entry } or { error }. */
function entryFrom(text) {
  const [, name, inside] = /^([A-Za-z]\w*)(?:\[(\d+(?:,\d+)*)\])?$/.exec(text) ?? [];
  const quantity = quantities.get(name), index = inside ? inside.split(",").map(Number) : [];
  if (!quantity) return { error: `This page has no number called ${text}.` };
  if (!quantity.has(index)) return { error: `${text} is no entry: write ${sizeOf(quantity)}.` };
  if (quantity.isHidden(index)) return { error: `${text} is above the mask: position ${index[0]} cannot look ahead.` };
  return { entry: { name, index } };
}

function sizeOf({ name, shape, indices }) {
  if (!shape.length) return `${name}, a single number`;
  const counts = shape.map((length, axis) => `${indices[axis]} from 0 to ${length - 1}`);
  return `${name}[${indices.join(",")}], ${counts.join(", ")}`;
}

/** The character at a position or the token of the vocabulary; channels and the like have only their number. */
function labelOf(letter, n) {
  if (letter && POSITIONS.includes(letter)) return data.reads[n] ?? "";
  return letter === "v" ? data.vocabulary[n] ?? "" : "";
}

/** What stands in the place of an index: "row 3 e, column 1 o". */
function placeOf({ indices }, index) {
  const axes = index.length === 2 ? ["row", "column"] : ["entry"];
  return index.map((n, axis) => [axes[axis], n, labelOf(indices[axis], n)].join(" ").trim()).join(", ");
}

/** The terminal shows the same account, of what did not fit on this page as well. */
const commandFor = entry => `${data.command[0]} --entry '${written(entry)}'${data.command[1]}`;

// ---- numbers -------------------------------------------------------------------------------------------------------

const full = value => String(value ?? NaN).replaceAll("-", "−").replace("Infinity", "∞"); // JSON has null for NaN
const rounded = (value, digits = 6) => !Number.isFinite(value ?? NaN) ? full(value) : full(Number(value.toPrecision(digits)));

/** Rounded, with as many digits as asked even where they are zeros, so that a column of them lines up. */
function aligned(value, digits = 6) {
  if (!Number.isFinite(value)) return full(value);
  if (value === 0) return "0";
  const size = Math.abs(value), isPlain = size >= 1e-4 && size < 1e6;
  return full(isPlain ? value.toPrecision(digits) : value.toExponential(digits - 1));
}
const count = value => value.toLocaleString("en");
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** The largest size among lists of numbers, -∞ above the mask aside. */
function largestOf(...lists) {
  let largest = 0;
  for (const numbers of lists)
    for (const value of numbers) if (Math.abs(value) > largest && Number.isFinite(value)) largest = Math.abs(value);
  return largest;
}
