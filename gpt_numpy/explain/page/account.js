// The account of one entry: the products that it is the sum of, the largest first; the entries that it comes from and
// those that it goes into; and its value four ways. Nothing here touches the page.

const SHARE = /^e\^(\w+)\[/; // the quantity of whose row a share is taken
const NAMED = /([A-Za-z]\w*)\[([^\]]*)\]/g;

/**
 * quantity, index, at   the entry, and the number that each of its index letters stands for
 * parts                 { sign, factors: [{ name, index, value }], value }; of a share, the e^x that it is a share of
 * total                 of the parts, added up in their order
 * formula               what the formula gives; null where it is not a sum
 * size                  what rounding errors go by: the parts without their signs, and no less than a thousandth of the
 *                       largest entry, since a product alone can still come from numbers that nearly cancelled
 * isMissing             whether a number that it needs is not on this page
 */
function accountOf({ name, index }) {
  const quantity = quantities.get(name), value = quantity.at(index);
  const at = Object.fromEntries(quantity.indices.map((letter, axis) => [letter, index[axis]]));
  if (at.i !== undefined) at.next = data.next[at.i];
  const parts = quantity.kind === "share" ? exponentials(quantity, at) : products(quantity, at);
  parts.sort((one, other) => Math.abs(other.value) - Math.abs(one.value));
  const total = parts.reduce((sum, part) => sum + part.value, 0);
  const sizes = quantity.kind !== "sum" ? Math.abs(value) : parts.reduce((sum, part) => sum + Math.abs(part.value), 0);
  const size = Math.max(sizes, quantity.largest / 1000);
  const formula = quantity.kind === "sum" ? total : quantity.kind === "share" ? shareOf(quantity, index, total) : null;
  const isMissing = value === undefined || parts.some(({ factors }) => factors.some(one => one.value === undefined));
  return { quantity, index, at, value, parts, total, formula, size, isMissing };
}

const exponentOf = quantity => quantities.get(SHARE.exec(quantity.formula)[1]);
const shareOf = (quantity, index, total) =>
  Math.exp(exponentOf(quantity).at(index) - topOf(exponentOf(quantity), index[0])) / total;

/** The largest exponent of a row. Powers are shown over that of this one: the shares are the same, none is too large. */
function topOf(of, row) {
  let top = -Infinity;
  for (let col = 0; col < of.cols; col++) if (!of.isHidden([row, col])) top = Math.max(top, of.at([row, col]));
  return top;
}

function exponentials(quantity, { i }) {
  const of = exponentOf(quantity), top = topOf(of, i);
  return Array.from({ length: of.cols }, (_, k) => [i, k]).filter(index => !of.isHidden(index)).map(index => {
    const value = of.at(index);
    return { sign: 1, factors: [{ name: of.name, index, value }], value: Math.exp(value - top) };
  });
}

function products(quantity, at) {
  return quantity.terms.flatMap(([sign, over, ...factors]) => {
    const places = over ? Array.from({ length: lengthOf(over, factors) }, (_, n) => ({ ...at, [over]: n })) : [at];
    const found = places.map(place => factors.map(factor => placed(factor, place))).filter(isVisible);
    return found.map(entries => {
      return { sign, factors: entries, value: entries.reduce((product, { value }) => product * value, sign) };
    });
  });
}

/** How many terms a sum over an index has: the length of an axis that the index counts. */
function lengthOf(over, factors) {
  const [name, ...letters] = factors.find(([, ...letters]) => letters.includes(over));
  return quantities.get(name).shape[letters.indexOf(over)];
}

function placed([name, ...letters], place) {
  const index = letters.map(letter => place[letter]);
  return { name, index, value: index.length ? quantities.get(name).at(index) : constantOrNumber(name) };
}

const isConstant = name => name in data.constants;
const constantOrNumber = name => isConstant(name) ? data.constants[name] : quantities.get(name).at([]);
const isVisible = entries => !entries.some(({ name, index }) => quantities.get(name)?.isHidden(index));

// ---- where it comes from, and where it goes ------------------------------------------------------------------------

/** What a formula names, as lists [name, index letters...] with the letter that it is summed over. */
function mentions(quantity) {
  if (quantity.terms.length) return quantity.terms.flatMap(([, over, ...factors]) =>
    factors.filter(([name]) => !isConstant(name)).map(([name, ...letters]) => ({ name, letters, over })));
  return [...quantity.formula.matchAll(NAMED)].map(([, name, letters]) => ({ name, letters: letters.split(",") }));
}

/** The entries that a formula names, as rectangles { name, rows: [first, last], cols: [first, last] }. */
function sourcesOf({ quantity, at }) {
  return mentions(quantity).map(({ name, letters }) => {
    const of = quantities.get(name);
    const ranges = letters.map((letter, axis) => [at[letter] ?? 0, at[letter] ?? of.shape[axis] - 1]);
    const [rows, cols] = ranges.length === 2 ? ranges : [[0, 0], ranges[0] ?? [0, 0]];
    if (!of.isMasked) return { name, rows, cols };
    return { name, rows: [Math.max(rows[0], cols[0]), rows[1]], cols: [cols[0], Math.min(cols[1], rows[1])] };
  });
}

/** The entries that an entry's own formula names outright, for formulas that are no sums. */
function namedEntries({ quantity, at }) {
  return mentions(quantity).map(({ name, letters }) => {
    const isWhole = letters.some(letter => at[letter] === undefined);
    return { name, index: letters.map(letter => at[letter] ?? 0), isWhole };
  });
}

const readers = new Map(); // by name, the quantities whose formulas it is in
for (const quantity of quantities.values()) {
  for (const { name } of mentions(quantity)) readers.set(name, (readers.get(name) ?? new Set()).add(quantity));
}

/** Where an entry is used: for each quantity, its entries that this one is in. */
function usesOf({ name, index }) {
  return [...readers.get(name) ?? []].map(quantity => {
    const found = new Map();
    for (const mention of mentions(quantity)) {
      if (mention.name !== name) continue;
      const at = Object.fromEntries(mention.letters.map((letter, axis) => [letter, index[axis]]));
      for (const entry of matching(quantity, at)) found.set(written(entry), entry);
    }
    return { quantity, entries: [...found.values()] };
  }).filter(({ entries }) => entries.length);
}

/** The entries of a quantity whose indices agree with those that are given. */
function matching(quantity, at) {
  if (at.next !== undefined && data.next[at.i] !== at.next) return [];
  const found = quantity.shape.reduce((indices, length, axis) => {
    const fixed = at[quantity.indices[axis]];
    const choices = fixed === undefined ? Array.from({ length }, (_, n) => n) : [fixed];
    return indices.flatMap(index => choices.map(n => [...index, n]));
  }, [[]]);
  return found.filter(index => !quantity.isHidden(index)).map(index => ({ name: quantity.name, index }));
}

// ---- four ways -----------------------------------------------------------------------------------------------------

/** { key, label, value, relative, isWrong, note }: the distance is from the formula, relative to the size. */
function fourWays(account) {
  const { quantity, index, value, formula, size } = account;
  const base = formula ?? value, exact = data.exact * size;
  const way = (key, label, found, allowed, note = "") => {
    const off = Math.abs(found - base);
    return { key, label, value: found, relative: size ? off / size : off, isWrong: !(off <= allowed), note };
  };
  const without = (key, label, note) => ({ key, label, note });
  const beyond = key => value + quantity.at(index, key);
  const forward = "a forward value: there is nothing to differentiate";
  const ways = [], isGiven = quantity.kind === "given";

  const made = ["formula", "this formula"];
  if (formula === null) ways.push(without(...made, isGiven ? "given, not calculated here" : "not a sum of products"));
  else ways.push(way(...made, formula, Infinity));

  ways.push(way("tape", "minitensor’s tape", value, exact));

  const torch = ["torch", "torch, float64"];
  if (quantity.read("torch")) ways.push(way(...torch, beyond("torch"), exact));
  else ways.push(without(...torch, isGiven ? "given, not compared" : data.torch ? "keeps it to itself" : "was not installed"));

  const measured = ["difference", "central difference"];
  const slope = quantity.read("difference")?.[quantity.flat(index)] === undefined ? undefined : beyond("difference");
  const note = `step ${full(data.step)}; sees nothing below ${rounded(data.blind, 1)}`;
  if (!quantity.isGradient) ways.push(without(...measured, forward));
  else if (isGiven) ways.push(without(...measured, "given, not measured"));
  else if (slope === undefined) ways.push(without(...measured, "not measured; the command below does it"));
  else ways.push(way(...measured, slope, data.bend * size + data.blind, note));
  return ways;
}
