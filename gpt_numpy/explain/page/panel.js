// The account on the page: name, value and meaning of the selected entry, how it is computed, its value four ways, and
// where it is used; with a trail of the entries visited before.

const MAX_TERMS = 24; // before a click on "Show all"
const MAX_USES = 6; // listed for each quantity

/** @typedef {(entry: Entry) => string} Link  the address that opens it, and leaves the rest of the page as it is */
/** @typedef {(box: Element, account: Account, link?: Link) => void} PutPart  of the account */

/** @type {(entry: Entry, trail: Entry[], link: Link) => Account} */
function showAccount(entry, trail, link) {
  const box = byId("account");
  box.hidden = !entry;
  document.body.classList.toggle("open", Boolean(entry));
  box.replaceChildren();
  if (!entry) return null;
  const account = accountOf(entry);
  putTrail(box, entry, trail.filter(one => openableEntry(one, state.mistakes)), link);
  if (account.quantity.isMaskedAt(entry.index)) return putMaskedAccount(box, entry, account, link);
  putHeading(box, entry, account);
  if (account.value === undefined) putMissingNote(box, account);
  else if (isWrongEntry(entry)) {
    putMistakeNote(box, entry, account);
    putMistakenAccount(box, account, link);
  }
  const marks = put(box, "button", { type: "button", class: "marks", title: "Four ways to compute it" });
  putWayToLoss(box, entry, link);
  putDerivation(box, account, link);
  if (account.value !== undefined && !account.isMissing) putWays(put(box, "section", { tabindex: -1 }), marks, account);
  else marks.remove();
  putUses(box, entry, link);
  put(box, "h3", {}, "In a terminal");
  put(box, "pre", { tabindex: 0, "aria-label": "command" }, commandFor(`--entry '${formatEntry(entry)}'`));
  box.scrollTop = 0;
  return account;
}

/**
 * Of an entry above the diagonal, which only the code without the mask has.
 * @type {(box: Element, entry: Entry, account: Account, link: Link) => Account}
 */
function putMaskedAccount(box, entry, account, link) {
  putHeading(box, entry, { ...account, value: ofBrokenCode.at(entry.name, entry.index) });
  put(box, "p", { class: "note mistake" }, "Only the code that forgets the mask has this number: position " +
    `${entry.index[0]} cannot look ahead, and ${INSTEAD[entry.name]}.`);
  putMistakenAccount(box, account, link);
  putUses(box, entry, link);
  box.scrollTop = 0;
  return account;
}

/** @param {Element} parent  @param {Entry} entry  @param {Link} link  @param {string} text */
function putLink(parent, entry, link, text = null) {
  const label = text ? `${formatEntry(entry)}: ${text}` : formatEntry(entry);
  const anchor = put(parent, "a", { href: link(entry), "aria-label": label });
  putSymbol(putMath(anchor), entry.name, entry.index);
  return anchor;
}

// ---- heading -------------------------------------------------------------------------------------------------------

/** @type {(box: Element, entry: Entry, trail: Entry[], link: Link) => void} */
function putTrail(box, entry, trail, link) {
  const bar = put(box, "div", { class: "bar" }), nav = put(bar, "nav", { "aria-label": "entries visited" });
  const list = put(nav, "ol");
  for (const one of trail) {
    const item = put(list, "li"), anchor = putLink(item, one, link);
    if (isSameEntry(one, entry)) anchor.setAttribute("aria-current", "true");
  }
  const close = put(bar, "button", { type: "button", id: "close", "aria-label": "close the account" }, "×");
  close.onclick = () => closeAccount();
}

/** @type {(box: Element, entry: Entry, account: Account) => void} */
function putHeading(box, entry, { quantity, index, value }) {
  const label = value === undefined ? formatEntry(entry) : `${formatEntry(entry)} = ${formatRounded(value)}`;
  const heading = put(box, "h2", { id: "entry", tabindex: -1, "aria-label": label });
  const math = putMath(heading);
  putSymbol(math, entry.name, entry.index);
  if (value !== undefined) {
    math.append(" = ");
    putNumber(math, value, 6);
    if (/\D/.test(formatExact(Math.abs(value)))) math.append(` = ${formatRounded(value)}`);
  }
  const meaning = put(box, "p", {}, toSentence(quantity.meaning));
  const position = describePosition(quantity, index);
  if (position) put(meaning, "span", { class: "quiet" }, ` ${position}.`);
}

/** @type {(text: string) => string} */
const toSentence = text => // a name such as dX stays as it is
  (/^d?[A-Z]/.test(text) ? text[0] : text[0].toUpperCase()) + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");

/**
 * For example: “e” at 3 attends to “o” at 1. Or: This entry: position 3, “e”; channel 5.
 * @param {Quantity} quantity  @param {number[]} index
 */
function describePosition({ hasMask, indices }, index) {
  const labels = index.map((n, axis) => labelOf(indices[axis], n));
  if (hasMask) return `“${labels[0]}” at ${index[0]} attends to “${labels[1]}” at ${index[1]}`;
  const parts = index.map((n, axis) => {
    if (POSITIONS.includes(indices[axis])) return `position ${n}, “${labels[axis]}”`;
    /** @type {Object<string, string>} */
    const units = { d: "channel # of the head", m: "channel #", u: "hidden unit # of the MLP", v: "token #" };
    return units[indices[axis]].replace("#", String(n)) + (labels[axis] && `, “${labels[axis]}”`);
  });
  return parts.length ? `This entry: ${parts.join("; ")}` : "";
}

/** @type {PutPart} */
function putMissingNote(box, { quantity }) {
  const text = `The numbers of ${quantity.name} did not fit on this page.`;
  put(box, "p", { class: "note" }, `${text} The command below prints this one in a terminal.`);
}

/** @type {typeof putHeading} */
function putMistakeNote(box, entry, { quantity, index, value }) {
  const wrongValue = overrides.get(entry.name).numbers[quantity.flatIndex(index)];
  const note = put(box, "dl", { class: "note mistake" });
  for (const [name, number] of [["with the mistake", wrongValue], ["right", value]]) {
    put(note, "dt", {}, name);
    put(note, "dd", { class: name === "right" ? "" : "wrong" }, formatFull(number));
  }
}

/**
 * For a gradient: the entries that lead on to the loss.
 * @type {(box: Element, entry: Entry, link: Link) => any}
 */
function putWayToLoss(box, entry, link) {
  const way = wayToLoss(entry);
  if (!way.length) return;
  const line = put(box, "p", { class: "way" }, "One way to the loss, at each step through the " +
    "largest product that leads to it on this page: ");
  way.forEach((one, n) => {
    if (n) line.append(" › ");
    putLink(line, one, link);
  });
}

// ---- how it is computed --------------------------------------------------------------------------------------------

/** @type {PutPart} */
function putDerivation(box, account, link) {
  const { quantity, bindings, index, parts, isMissing } = account;
  const isWrong = isWrongEntry({ name: quantity.name, index });
  put(box, "h3", {}, isWrong ? "How the right value is computed" : "How it is computed");
  if (quantity.kind === "given") {
    put(box, "p", {}, "Given: " + (data.about ? "a number of the example." : /^[Wwb]|^tok|^pos/.test(quantity.name)
      ? "a parameter of the model." : "computed in another part of the model."));
    putElsewhere(box, account);
    return;
  }
  const lines = put(box, "div", { class: "derivation" }), entry = { name: quantity.name, indices: index };
  putFormula(put(lines, "p"), quantity, quantity.formula);
  if (index.length) putFormula(put(lines, "p"), entry, quantity.formula, bindings);
  if (quantity.kind === "function") return putArguments(box, account, link);
  if (isMissing) put(box, "p", { class: "note" }, "Some factors are not on this page; the command below prints them.");
  else if (parts.length > 1 || parts[0].factors.length > 1) putNumericLine(put(lines, "p"), entry, account);
  putTerms(box, account, link);
  if (quantity.name === "dZ") putLossNote(box, account, link);
  putElsewhere(box, account);
}

/**
 * Links to the layers and heads that an entry comes from, or goes on to, outside the one that is shown.
 * @type {PutPart}
 */
function putElsewhere(box, { quantity: { name }, index }) {
  if (!isLiving) return;
  const [, kind, number] = /(attn|mlp)(\d+)$/.exec(name) ?? [], layer = Number(number);
  const /** @type {[text: string, entry: Entry, changes: Partial<State>][]} */ links = [];
  /** @type {(text: string, entry: Entry, changes: Partial<State>) => number} */
  const add = (text, entry, changes) => links.push([text, entry, changes]);
  if (name.endsWith("_others")) {
    const of = name.startsWith("d") ? "dQ" : "O";
    for (let head = 0; head < data.heads; head++)
      if (head !== scene.head) add(`head ${head}`, { name: of, index: [index[0], 0] }, { head });
  } else if (kind && layer !== scene.layer && layer < data.layers && /^(dN|Y)_attn|^d?Y_mlp/.test(name)) {
    const there = { [`Y_attn${layer}`]: "Y", [`dN_attn${layer}`]: "dX" }[name] ?? name;
    if (kind === "attn" || layer < scene.layer) add(`layer ${layer}`, { name: there, index }, { layer });
  }
  if (!links.length) return;
  const line = put(box, "p", { class: "elsewhere" }, "Continued in ");
  links.forEach(([text, entry, changes], n) => {
    if (n) line.append(", ");
    put(line, "a", { href: formatAddress({ ...state, entry, ...changes }) }, `${text}: ${formatEntry(entry)}`);
  });
  line.append(".");
}

/**
 * Where dZ comes from: without this line no way would lead from a gradient to the loss that it is of.
 * @type {PutPart}
 */
function putLossNote(box, { bindings: { i } }, link) {
  const note = put(box, "p", {}, "It is the gradient of the loss ");
  putLink(note, { name: "L", index: [] }, link);
  note.append(", in which the logits of this position occur through ");
  putLink(note, { name: "l", index: [i] }, link);
  note.append(quantities.has("q") ? ": the logarithms of its probabilities. " : ": -log of one of its probabilities. ");
  note.append("Log and softmax cancel, and what is left of both is the probability minus the target.");
}

/**
 * The formula with numbers for all entries; of more than four terms, the three largest.
 * @type {(line: Element, entry: LeftSide, account: Account) => void}
 */
function putNumericLine(line, entry, { quantity, index, parts, formula }) {
  const shown = parts.slice(0, parts.length > 4 ? 3 : 4), isSoftmax = quantity.kind === "share";
  const math = putMath(line);
  putLeftSide(math, entry);
  const [numerator, sum] = isSoftmax ? putFraction(math) : [null, put(math, "span")];
  if (isSoftmax) putNumber(putPower(numerator, "e"), exponentsOf(quantity).at(index));
  shown.forEach((part, n) => putTermNumbers(sum, part, n, isSoftmax));
  if (parts.length > shown.length) {
    putSign(sum, "+");
    sum.append("…");
  }
  putSign(math, "=");
  putNumber(math, formula, 6);
}

/**
 * A product breaks before its factors only if a line is too short for all of it.
 * @param {Element} row  @param {Part} part  @param {number} n  @param {boolean} isExponent
 */
function putTermNumbers(row, { sign, factors }, n, isExponent) {
  if (n) put(row, "span", { class: "gap" }, " ");
  const term = isExponent ? row : put(row, "span", { class: "term" });
  if (n || sign < 0) term.append((sign < 0 ? "−" : "+") + THIN);
  if (isExponent) return putNumber(putPower(term, "e"), factors[0].value);
  factors.forEach(({ value }, k) => {
    if (k) putSign(term, "·");
    putFactor(term, value, k > 0 || n > 0 || sign < 0);
  });
}

/** @param {Element} row  @param {number} value  @param {boolean} needsParentheses */
function putFactor(row, value, needsParentheses) {
  if (value >= 0 || !needsParentheses) return putNumber(row, value);
  row.append("(");
  putNumber(row, value);
  row.append(")");
}

/** @type {PutPart} */
function putArguments(box, account, link) {
  const list = put(box, "ul", { class: "arguments" });
  for (const { name, index, isWholeRow } of argumentsOf(account)) {
    const item = put(list, "li"), value = quantities.get(name).at(index);
    putLink(item, { name, index }, link);
    item.append(isWholeRow ? " and the rest of its row" : value === undefined ? "" : ` = ${formatAligned(value)}`);
  }
}

/** @type {PutPart} */
function putTerms(box, { quantity, parts, total, isMissing }, link) {
  const table = put(box, "table", { class: "terms" }), isSoftmax = quantity.kind === "share";
  const terms = pluralize(parts.length, isSoftmax ? "exponential" : "product");
  const scaled = isSoftmax ? " in the row, each e^x, divided by the row’s largest" : "";
  put(table, "caption", {}, terms + scaled + (parts.length > 1 ? `${isSoftmax ? ";" : ","} largest first` : ""));
  const head = put(put(table, "thead"), "tr");
  const titles = isSoftmax ? ["exponent x", "e^x / largest"] : ["factors", "product"];
  titles.push("running sum");
  for (const title of titles) put(head, "th", { scope: "col" }, title);
  const body = put(table, "tbody");
  let running = 0;
  parts.forEach((part, n) => putTerm(body, part, running += part.value, n, link));
  const foot = put(put(table, "tfoot"), "tr");
  put(foot, "th", { scope: "row", colspan: 2 }, "sum");
  put(foot, "td", { "data-total": total }, isMissing ? "–" : formatAligned(total));
  limitRows(box, table, parts.length);
}

/**
 * A button for the rows of a long table that are hidden at first.
 * @param {Element} box  @param {Element} table  @param {number} count
 */
function limitRows(box, table, count) {
  if (count <= MAX_TERMS) return;
  const more = put(box, "button", { type: "button" }, `Show all ${count}`);
  more.onclick = () => {
    table.classList.add("all");
    more.remove();
  };
}

/** @type {(body: Element, part: Part, running: number, n: number, link: Link) => void} */
function putTerm(body, part, running, n, link) {
  const row = put(body, "tr", { "data-term": part.value, class: n < MAX_TERMS ? "" : "more" });
  putFactors(row, part, link);
  for (const value of [part.value, running])
    put(row, "td", { class: "number" }, formatAligned(value));
}

/**
 * `isWithMistake`: under the right value of each factor also the one that the broken code multiplies by.
 * @param {Element} row  @param {Part} part  @param {Link} link
 */
function putFactors(row, part, link, isWithMistake = false) {
  const cell = put(row, "td", { class: "factors" });
  if (part.sign < 0) put(cell, "span", { class: "sign" }, "−");
  for (const { name, index } of part.factors) {
    const isOnlyBroken = isWithMistake && ofRightCode.isMaskedAt(name, index) && !isWrongEntry({ name, index });
    const value = (isOnlyBroken ? ofBrokenCode : ofRightCode).at(name, index);
    const factor = put(cell, "span", { class: "factor" });
    if (isConstant(name)) putInlineConstant(putMath(factor), name);
    else putLink(factor, { name, index }, link, value === undefined ? null : formatRounded(value));
    put(factor, "span", { class: "quiet" }, value === undefined ? "–" : formatAligned(value, 4));
    if (isWithMistake && isWrongEntry({ name, index }))
      put(factor, "span", { class: "wrong" }, formatAligned(ofBrokenCode.at(name, index), 4));
  }
}

// ---- four ways, and uses -------------------------------------------------------------------------------------------

/**
 * All four at a glance in the line of `marks`, which leads to the table. On a page with the model the difference comes
 * later.
 * @type {(box: HTMLElement, marks: HTMLElement, account: Account) => void}
 */
function putWays(box, marks, account) {
  fillWays(box, marks, account);
  marks.onclick = () => {
    box.focus({ preventScroll: true });
    box.scrollIntoView({ block: "nearest" });
  };
  const entry = { name: account.quantity.name, index: account.index };
  if (isLiving) slopeOf(entry).then(slope => {
    if (box.isConnected) fillWays(box, marks, account, slope);
  });
}

/** @type {(box: Element, marks: Element, account: Account, slope?: number) => void} */
function fillWays(box, marks, account, slope) {
  const ways = fourWays(account, slope), compared = ways.filter(({ value }) => value !== undefined);
  box.replaceChildren();
  marks.replaceChildren();
  put(box, "h3", {}, "Four ways to compute it");
  const table = put(box, "table", { class: "ways" });
  put(table, "caption", { class: "visually-hidden" }, "The value four ways, and how far each is from the formula");
  const head = put(put(table, "thead"), "tr"), body = put(table, "tbody");
  for (const title of ["way", "value", "off by"]) put(head, "th", { scope: "col" }, title);
  for (const way of ways) {
    putMark(marks, way);
    const row = put(body, "tr", { "data-way": way.key, class: way.isWrong ? "wrong" : "" });
    if (way.value !== undefined) Object.assign(row.dataset, { value: way.value, relative: way.relative });
    put(row, "th", { scope: "row" }, way.label);
    if (way.value === undefined) {
      put(row, "td", { class: "quiet", colspan: 2 }, way.note);
      continue;
    }
    const cell = put(row, "td", { class: "number" }, formatFull(way.value));
    if (way.note) put(cell, "div", { class: "quiet" }, way.note);
    const off = way.key === "formula" ? "" : formatRounded(way.relative, 1);
    put(row, "td", { class: "number" }, way.isWrong ? `${off} WRONG` : off);
  }
  const isWrong = ways.some(way => way.isWrong), largest = Math.max(...compared.map(({ relative }) => relative));
  if (compared.length > 1) put(box, "p", { class: isWrong ? "wrong" : "" },
    isWrong ? "They do NOT agree." : `They agree: off by ${formatRounded(largest, 1)} at most.`);
  put(box, "p", { class: "quiet" }, (account.quantity.kind === "sum"
    ? "Off by: the distance from the formula’s value, relative to the sum of the magnitudes of its products, "
    : "Off by: the distance, relative to the value itself, ") + "or to 0.001 of the matrix’s largest entry if larger.");
  if (isLiving && slope !== undefined && slope !== null) putMeasureAll(box, account.quantity);
}

/** What has no value says why in its tip. @param {Element} marks  @param {Way} way */
function putMark(marks, { label, value, isWrong, isAgreed, reservation = "", note }) {
  const sign = isWrong ? "✗" : value !== undefined || isAgreed ? "✓" : "–";
  put(marks, "span", { class: isWrong ? "wrong" : sign === "✓" ? "" : "quiet", title: note || label },
    `${sign} ${label}${reservation && `: ${reservation}`}`);
}

/**
 * Takes the difference of the loss for every entry of a gradient, which takes two passes of the model each.
 * @param {Element} box  @param {Quantity} quantity
 */
function putMeasureAll(box, quantity) {
  const line = put(box, "p"), count = quantity.numbers.length;
  const button = put(line, "button", { type: "button" }, `Measure all ${formatCount(count)} entries`);
  button.onclick = async () => {
    const report = (/** @type {string} */ text) => line.replaceChildren(text);
    /** @type {(done: number, all: number) => void} */
    const progress = (done, all) => report(`${done} of ${all} measured …`);
    const { slopes, formulas } = await measureAll(quantity, progress, () => line.isConnected);
    const error = slopes.reduce((most, x, n) => Math.max(most, Math.abs(x - formulas[n])), 0);
    report(`${formatCount(slopes.length)} differences of the loss: off by at most ` +
      `${formatRounded(error / (quantity.largest || 1), 1)} of the largest entry.`);
  };
}

/** @type {typeof putWayToLoss} */
function putUses(box, entry, link) {
  const uses = usesOf(entry);
  put(box, "h3", {}, "Where it is used");
  if (!uses.length) return put(box, "p", { class: "quiet" }, "No other entry on this page depends on it.");
  const list = put(box, "ul", { class: "uses" });
  for (const { entries } of uses) {
    const item = put(list, "li");
    entries.slice(0, MAX_USES).forEach(one => {
      putLink(item, one, link);
      item.append(" ");
    });
    if (entries.length <= MAX_USES) continue;
    item.append(`and ${entries.length - MAX_USES} more, up to `);
    putLink(item, entries.at(-1), link);
  }
  return list;
}
