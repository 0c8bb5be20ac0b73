// The account of one entry: the products that add up to it, largest first; the entries that it depends on and those
// that depend on it; and its value four ways. This file only computes, and does not touch the document.

const EXPONENT = /^e\^(\w+)\[/; // captures the quantity in the exponents of a softmax formula
const ENTRIES = /([A-Za-z]\w*)\[([^\]]*)\]/g;

/** @typedef {{sign: number, factors: (Entry & {value: number})[], value: number}} Part  a product, or an exponential */
/**
 * @typedef {object} Account
 * @property {Quantity} quantity  @property {number[]} index  of the entry
 * @property {Bindings} bindings  the number of each index letter
 * @property {number} value
 * @property {Part[]} parts  largest first; of a softmax, the e^(x - max x) of its row
 * @property {number} total  the sum of the parts, in their order
 * @property {number} formula  the value by the formula; null if it is neither a sum nor a softmax
 * @property {number} size  the scale of rounding errors: the sum of |parts|, and at least a thousandth of the largest
 *   entry, since even a single product may have factors in which terms nearly cancelled
 * @property {boolean} isMissing  whether a number that it needs is not on this page
 */

/** @param {Entry} entry  @returns {Account} */
function accountOf({ name, index }) {
  const quantity = quantities.get(name), value = quantity.at(index), { kind } = quantity;
  const bindings = Object.fromEntries(quantity.indices.map((letter, axis) => [letter, index[axis]]));
  if (bindings.i !== undefined) bindings.next = scene.next[bindings.i];
  const { parts, total } = partsOf(quantity, bindings);
  const magnitude = kind !== "sum" ? Math.abs(value) : parts.reduce((sum, part) => sum + Math.abs(part.value), 0);
  const size = Math.max(magnitude, quantity.largest / 1000);
  const formula = kind === "sum" ? total : kind === "share" ? softmaxOf(quantity, index, total) : null;
  const isMissing = value === undefined || parts.some(({ factors }) => factors.some(one => one.value === undefined));
  return { quantity, index, bindings, value, parts, total, formula, size, isMissing };
}

/** @template T  @typedef {(name: string, index: number[]) => T} OfEntry */
/** @typedef {{at: OfEntry<number>, isMaskedAt: OfEntry<boolean>}} Code */

/** Where an account reads its numbers: the right ones, or, in mistaken.js, those of the broken code. @type {Code} */
const ofRightCode = {
  at: (name, index) => index.length ? quantities.get(name).at(index) : scalarValue(name),
  isMaskedAt: (name, index) => Boolean(quantities.get(name)?.isMaskedAt(index)),
};

/**
 * The parts of an entry, largest first, and their sum. `terms` can be those of another formula than the right one.
 * @param {Quantity} quantity  @param {Bindings} bindings
 */
function partsOf(quantity, bindings, numbers = ofRightCode, terms = quantity.terms) {
  const parts = quantity.kind === "share"
    ? exponentialsOf(quantity, bindings, numbers) : productsOf(terms, bindings, numbers);
  parts.sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  return { parts, total: parts.reduce((sum, part) => sum + part.value, 0) };
}

/** @type {(quantity: Quantity) => Quantity} */
const exponentsOf = quantity => quantities.get(EXPONENT.exec(quantity.formula)[1]);

/** @param {Quantity} quantity  @param {number[]} index  @param {number} total */
function softmaxOf(quantity, index, total, numbers = ofRightCode) {
  const exponents = exponentsOf(quantity);
  return Math.exp(numbers.at(exponents.name, index) - rowMax(exponents, index[0], numbers)) / total;
}

/**
 * Subtracted from the exponents of a row, so that no exponential overflows; the softmax is the same.
 * @type {(exponents: Quantity, row: number, numbers: Code) => number}
 */
function rowMax({ name, cols }, row, numbers) {
  let max = -Infinity;
  for (let col = 0; col < cols; col++)
    if (!numbers.isMaskedAt(name, [row, col])) max = Math.max(max, numbers.at(name, [row, col]));
  return max;
}

/** @type {(quantity: Quantity, bindings: Bindings, numbers: Code) => Part[]} */
function exponentialsOf(quantity, { i }, numbers) {
  const exponents = exponentsOf(quantity), max = rowMax(exponents, i, numbers);
  const row = Array.from({ length: exponents.cols }, (_, k) => [i, k]);
  return row.filter(index => !numbers.isMaskedAt(exponents.name, index)).map(index => {
    const value = numbers.at(exponents.name, index);
    return { sign: 1, factors: [{ name: exponents.name, index, value }], value: Math.exp(value - max) };
  });
}

/** @type {(terms: Term[], bindings: Bindings, numbers: Code) => Part[]} */
function productsOf(terms, bindings, numbers) {
  return terms.flatMap(([sign, over, ...factors]) => {
    const length = over && lengthOfSum(over, factors);
    const all = over ? Array.from({ length }, (_, n) => ({ ...bindings, [over]: n })) : [bindings];
    const products = all.map(bound => factors.map(factor => evaluateFactor(factor, bound, numbers)));
    /** @type {(entries: Entry[]) => boolean} */
    const isMasked = entries => entries.some(({ name, index }) => numbers.isMaskedAt(name, index));
    return products.filter(entries => !isMasked(entries)).map(entries => {
      return { sign, factors: entries, value: entries.reduce((product, { value }) => product * value, sign) };
    });
  });
}

/**
 * The number of terms in a sum over an index: the length of the axis that the index counts.
 * @param {string} over  @param {Factor[]} factors
 */
function lengthOfSum(over, factors) {
  const [name, ...letters] = factors.find(([, ...letters]) => letters.includes(over));
  return quantities.get(name).shape[letters.indexOf(over)];
}

/** @param {Factor} factor  @param {Bindings} bindings  @param {Code} numbers */
function evaluateFactor([name, ...letters], bindings, numbers) {
  const index = letters.map(letter => bindings[letter]);
  return { name, index, value: numbers.at(name, index) };
}

/** @type {(name: string) => boolean} */
const isConstant = name => name in scene.constants;
/** @type {(name: string) => number} */
const scalarValue = name => isConstant(name) ? scene.constants[name] : quantities.get(name).at([]);

// ---- sources and uses ----------------------------------------------------------------------------------------------

/**
 * The entries in a formula, with their index letters.
 * @param {Quantity} quantity  @returns {{name: string, letters: string[]}[]}
 */
function formulaEntries(quantity) {
  if (quantity.terms.length) return quantity.terms.flatMap(([,, ...factors]) =>
    factors.filter(([name]) => !isConstant(name)).map(([name, ...letters]) => ({ name, letters })));
  return [...quantity.formula.matchAll(ENTRIES)].map(([, name, letters]) => ({ name, letters: letters.split(",") }));
}

/** @typedef {{name: string, rows: number[], cols: number[]}} Rectangle  of entries: the first and the last of each */

/** The entries that an entry is computed from. @param {Account} account  @returns {Rectangle[]} */
function sourcesOf({ quantity, bindings }) {
  return formulaEntries(quantity).map(({ name, letters }) => {
    const source = quantities.get(name);
    const ranges = letters.map((letter, axis) => [bindings[letter] ?? 0, bindings[letter] ?? source.shape[axis] - 1]);
    const [rows, cols] = ranges.length === 2 ? ranges : [[0, 0], ranges[0] ?? [0, 0]];
    if (!source.hasMask || overrides.get(name)?.isUnmasked) return { name, rows, cols };
    return { name, rows: [Math.max(rows[0], cols[0]), rows[1]], cols: [cols[0], Math.min(cols[1], rows[1])] };
  });
}

/** The arguments of a formula that is not a sum, such as gelu(U[i,u]). @param {Account} account */
function argumentsOf({ quantity, bindings }) {
  return formulaEntries(quantity).map(({ name, letters }) => {
    const isWholeRow = letters.some(letter => bindings[letter] === undefined);
    return { name, index: letters.map(letter => bindings[letter] ?? 0), isWholeRow };
  });
}

/** @type {Map<string, Set<Quantity>>} */
let dependents = new Map(); // by name, the quantities that have it in their formula

function findDependents() {
  dependents = new Map();
  for (const quantity of quantities.values())
    for (const { name } of formulaEntries(quantity))
      dependents.set(name, (dependents.get(name) ?? new Set()).add(quantity));
}

/** Where an entry is used: for each quantity, the entries whose formula contains it. @param {Entry} entry */
function usesOf({ name, index }) {
  return [...dependents.get(name) ?? []].map(quantity => {
    const /** @type {Map<string, Entry>} */ entries = new Map();
    for (const used of formulaEntries(quantity)) {
      if (used.name !== name) continue;
      const bindings = Object.fromEntries(used.letters.map((letter, axis) => [letter, index[axis]]));
      for (const entry of matchingEntries(quantity, bindings)) entries.set(formatEntry(entry), entry);
    }
    return { quantity, entries: [...entries.values()] };
  }).filter(({ entries }) => entries.length);
}

/**
 * The entries of a quantity whose indices agree with the bindings; masked ones only if the mask is forgotten.
 * @type {(quantity: Quantity, bindings: Bindings) => Entry[]}
 */
function matchingEntries(quantity, bindings) {
  if (bindings.next !== undefined && scene.next[bindings.i] !== bindings.next) return [];
  const all = quantity.shape.reduce((indices, length, axis) => {
    const fixed = bindings[quantity.indices[axis]];
    const choices = fixed === undefined ? Array.from({ length }, (_, n) => n) : [fixed];
    return indices.flatMap(index => choices.map(n => [...index, n]));
  }, [[]]);
  const { name } = quantity;
  return all.filter(index => !ofBrokenCode.isMaskedAt(name, index)).map(index => ({ name, index }));
}

/**
 * The gradients in whose formula L begins: of the loss itself in an example, of the logits elsewhere.
 * @type {(name: string) => boolean}
 */
const isOfLoss = name => name === "dZ" || formulaEntries(quantities.get("l")).some(one => one.name === name);

/**
 * The gradients from which factors lead on to L. Those from other heads and layers have no formula on this page: a
 * product of them leads nowhere, as does one whose numbers are missing.
 */
function gradientsToLoss() {
  const /** @type {Set<string>} */ found = new Set();
  /** @type {(factors: Factor[]) => boolean} */
  const leadsOn = factors => factors.some(([name]) => found.has(name)) &&
    factors.every(([name]) => isConstant(name) || quantities.get(name).numbers);
  for (const { name, terms, isGradient } of quantities.values()) // each after those in its formula
    if (isGradient && (isOfLoss(name) || terms.some(([,, ...factors]) => leadsOn(factors)))) found.add(name);
  return found;
}

/**
 * From a gradient to L, at each step through the largest of the products that lead there; empty if none does.
 * @param {Entry} entry
 */
function wayToLoss(entry) {
  if (!quantities.has("L") || !quantities.has("l")) return [];
  const leading = gradientsToLoss(), /** @type {Entry[]} */ way = [];
  if (!leading.has(entry.name)) return [];
  let at = entry;
  while (!isOfLoss(at.name)) {
    const gradientOf = (/** @type {Part} */ { factors }) => factors.find(({ name }) => leading.has(name));
    const parts = accountOf(at).parts.filter(one =>
      gradientOf(one) && one.factors.every(({ value }) => value !== undefined));
    const largest = parts.reduce((most, one) => Math.abs(one.value) > Math.abs(most.value) ? one : most);
    const { name, index } = gradientOf(largest);
    way.push(at = { name, index });
  }
  return [...way, { name: "l", index: [at.index[0]] }, { name: "L", index: [] }];
}

// ---- four ways -----------------------------------------------------------------------------------------------------

/**
 * @typedef {{key: string, label: string, value?: number, relative?: number, isWrong?: boolean, isAgreed?: boolean,
 *   reservation?: string, note: string}} Way  of computing an entry; relative: the distance from the formula over the
 *   size; reservation: in a few words, why there is no verdict
 */

/**
 * `slope`: the difference of the loss of a page with the model, as soon as it is there.
 * @param {Account} account  @param {number} [slope]  @returns {Way[]}
 */
function fourWays(account, slope) {
  const { quantity, index, value, formula, size } = account, isGiven = quantity.kind === "given";
  const base = formula ?? value, exact = data.exact * size;
  /** @type {(key: string, label: string, found: number, allowed: number, note?: string) => Way} */
  const withValue = (key, label, found, allowed, note = "") => {
    const distance = Math.abs(found - base);
    const isWrong = !(distance <= allowed); // NaN is never right
    return { key, label, value: found, relative: size ? distance / size : distance, isWrong, note };
  };
  /** @type {(key: string, label: string, note: string) => Way} */
  const withoutValue = (key, label, note) => ({ key, label, note });

  const byFormula = formula !== null ? withValue("formula", "this formula", formula, Infinity)
    : withoutValue("formula", "this formula", isGiven ? "given, not computed" : "not a sum of products");
  const resolution = data.blind ?? 16 * 2 ** -52 * quantities.get("L").largest / (2 * data.step);
  const note = `step ${formatFull(data.step)}; rounding of L limits it to ± ${formatRounded(resolution, 1)}`;
  /** @type {(found: number, missing: string) => Way} */
  const byDifference = (found, missing) => quantity.isGradient && found !== undefined && found !== null
    ? withValue("difference", "central difference", found, data.bend * size + resolution, note)
    : withoutValue("difference", "central difference",
      quantity.isGradient ? missing : "a forward value, not a gradient");
  if (isLiving) return [
    byFormula, withValue("page", "this page’s model", value, exact), ...agreements(quantity),
    byDifference(slope, slope === undefined ? "being computed …" : "inside an operation: not measured"),
  ];

  const off = (/** @type {string} */ key) => quantity.read(key)?.[quantity.flatIndex(index)];
  const byTorch = quantity.read("torch") ? withValue("torch", "torch, float64", value + off("torch"), exact)
    : withoutValue("torch", "torch, float64",
      isGiven ? "given, not compared" : data.torch ? "not exposed" : "not installed");
  const difference = off("difference");
  return [
    byFormula, withValue("tape", "minitensor’s tape", value, exact), byTorch,
    byDifference(difference === undefined ? undefined : value + difference,
      isGiven ? "given, not measured" : "not measured; the command below measures it"),
  ];
}
