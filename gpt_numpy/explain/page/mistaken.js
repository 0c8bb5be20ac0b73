// The account of a wrong entry: how the broken code comes to its number, beside the right products.

/**
 * Where this account reads its numbers: the results of the broken code, or the right numbers where these are.
 * @type {Code}
 */
const ofBrokenCode = {
  at: (name, index) => overrides.get(name)?.numbers[quantities.get(name).flatIndex(index)] ?? ofRightCode.at(name, index),
  isMaskedAt: (name, index) => ofRightCode.isMaskedAt(name, index) && !overrides.get(name)?.isUnmasked,
};
/** @type {(entry: Entry) => boolean} */
const isWrongEntry = ({ name, index }) =>
  Boolean(overrides.get(name)?.wrong[quantities.get(name).flatIndex(index)]);

/** The terms of a formula. @param {string} formula  @returns {Term[]} */
function parseTerms(formula) {
  return formula.split(/ (?=[+-] )/).map(/** @returns {Term} */ term => {
    const words = term.split(" "), sum = words.find(word => word.startsWith("Σ_"));
    const factors = words.filter(word => word !== sum && !"+-".includes(word)).map(/** @returns {Factor} */ word => {
      const [name, letters] = word.split(/[[\]]/);
      return letters ? [name, ...letters.split(",")] : [name];
    });
    return [words[0] === "-" ? -1 : 1, sum?.slice(2) ?? "", ...factors];
  });
}

/**
 * @typedef {{formula: string, isBroken: boolean, parts: Part[], total: number, value: number, wrongFactors: Entry[]
 * }} Mistaken  isBroken: whether the mistake is in this formula; wrongFactors: those that are computed first come first
 */

/** How the broken code computes an entry. @type {(account: Account, mistakes: Set<string>) => Mistaken} */
function mistakenAccountOf({ quantity, bindings, index }, mistakes) {
  const edits = editsOf(quantity.name, mistakes);
  const formula = edits.reduce((text, edit) => edit(text), quantity.formula);
  const terms = formula === quantity.formula ? quantity.terms : parseTerms(formula);
  const { parts, total } = partsOf(quantity, bindings, ofBrokenCode, terms);
  const value = quantity.kind === "share" ? softmaxOf(quantity, index, total, ofBrokenCode) : total;
  const wrongFactors = parts.flatMap(({ factors }) => factors).filter(isWrongEntry);
  wrongFactors.sort((one, other) => COMPARED.indexOf(one.name) - COMPARED.indexOf(other.name));
  return { formula, isBroken: edits.length > 0, parts, total, value, wrongFactors };
}

// ---- on the page ---------------------------------------------------------------------------------------------------

/**
 * What the right code has instead of an entry that only the code without the mask computes.
 * @type {Object<string, string>}
 */
const INSTEAD = {
  S: "the right score is −∞", P: "the right weight is 0", dS: "the right gradient is 0",
  dP: "the right code multiplies it by a weight of 0, so it is not shown",
};

/** @param {Element} box  @param {Account} account  the right one  @param {Link} link */
function putMistakenAccount(box, account, link) {
  const { quantity, index, bindings } = account, mistaken = mistakenAccountOf(account, state.mistakes);
  put(box, "h3", {}, "How the wrong number comes about");
  const sentence = put(box, "p", { "data-reason": "" }), [wrongFactor] = mistaken.wrongFactors;
  const isSoftmax = quantity.kind === "share", isUnmasked = isSoftmax && mistaken.isBroken;
  const factors = isSoftmax ? "exponents" : "factors";
  if (isUnmasked) sentence.append("The mistake is in this line: its sum runs over all positions k, not only up to i.");
  else if (mistaken.isBroken) sentence.append("The mistake is in this line.");
  else if (quantity.isMaskedAt(index) && !wrongFactor)
    sentence.append("This line and its factors are right. Only the mask is missing.");
  if (wrongFactor && !isUnmasked) {
    sentence.append(mistaken.isBroken ? ` Some of its ${factors} are wrong as well: first `
      : `This line is right, but some of its ${factors} are wrong: first `);
    putLink(sentence, wrongFactor, link);
    sentence.append(".");
  }
  const lines = put(box, "div", { class: "derivation" }), left = { name: quantity.name, indices: index };
  putFormula(put(lines, "p"), quantity, mistaken.formula);
  putFormula(put(lines, "p"), left, mistaken.formula, bindings);
  putBothSums(box, account, mistaken, link);
}

/** @template T  @typedef {{right?: T, wrong?: T}} Both */

/**
 * One row for each product, with its value in both sums; of a softmax, for each exponential.
 * @param {Element} box  @param {Account} account  @param {Mistaken} mistaken  @param {Link} link
 */
function putBothSums(box, account, mistaken, link) {
  const { quantity, index } = account, isSoftmax = quantity.kind === "share", isMasked = quantity.isMaskedAt(index);
  const table = put(box, "table", { class: "terms both" });
  const /** @type {("right"|"wrong")[]} */ columns = isMasked ? ["wrong"] : ["right", "wrong"];
  put(table, "caption", {}, isSoftmax ? "exponentials in the row, each e^x, divided by the row’s largest" : "products");
  const head = put(put(table, "thead"), "tr");
  for (const title of [isSoftmax ? "exponent x" : "factors", ...columns]) put(head, "th", { scope: "col" }, title);
  const body = put(table, "tbody"), rows = pairParts(isMasked ? [] : account.parts, mistaken.parts);
  rows.forEach((pair, n) => {
    const row = put(body, "tr", { class: n < MAX_TERMS ? "" : "more" });
    putFactors(row, pair.right ?? pair.wrong, link, true);
    for (const column of columns) {
      const value = pair[column]?.value, cell = put(row, "td", { class: "number" });
      cell.textContent = value === undefined ? "–" : formatAligned(value, 5);
      if (value !== undefined) cell.setAttribute(`data-${column}-term`, String(value));
    }
  });
  const foot = put(table, "tfoot");
  /** @type {(putLabel: (cell: Element) => void, sums: Both<number>, key: string) => void} */
  const putFoot = (putLabel, sums, key) => {
    const row = put(foot, "tr");
    putLabel(put(row, "th", { scope: "row" }));
    for (const column of columns)
      put(row, "td", { class: column === "wrong" ? "wrong" : "", [`data-${column}-${key}`]: sums[column] },
        formatAligned(sums[column], 5));
  };
  putFoot(cell => cell.append("sum"), { right: account.total, wrong: mistaken.total }, "total");
  if (isSoftmax) putFoot(cell => {
    putSymbol(putMath(cell), quantity.name, index);
    cell.append(", its own over the sum");
  }, { right: account.formula, wrong: mistaken.value }, "value");
  limitRows(box, table, rows.length);
}

/**
 * Pairs the products of the same entries; a constant that only one of them has does not matter.
 * @param {Part[]} right  @param {Part[]} wrong
 */
function pairParts(right, wrong) {
  const keyOf = (/** @type {Part} */ { sign, factors }) =>
    [sign, ...factors.filter(({ name }) => !isConstant(name)).map(formatEntry)].join(" ");
  const /** @type {Map<string, Both<Part>>} */ pairs = new Map(right.map(part => [keyOf(part), { right: part }]));
  for (const part of wrong) pairs.set(keyOf(part), { ...pairs.get(keyOf(part)), wrong: part });
  /** @type {(pair: Both<Part>) => number} */
  const sizeOf = ({ right, wrong }) => Math.max(Math.abs(right?.value ?? 0), Math.abs(wrong?.value ?? 0));
  return [...pairs.values()].sort((one, other) => sizeOf(other) - sizeOf(one));
}
