// The account on the page: what the chosen number is called and means, how it is made, four ways to it, where it is
// used; and the trail of the numbers visited on the way.

const SHOWN = 24; // terms, until all are asked for
const LISTED = 6; // uses of one kind

/** `link` gives the address of an entry, with all else on the page as it is. */
function showAccount(entry, trail, link) {
  const box = byId("account");
  box.hidden = !entry;
  document.body.classList.toggle("open", Boolean(entry));
  box.replaceChildren();
  if (!entry) return null;
  const account = accountOf(entry);
  putTrail(box, entry, trail, link);
  putHead(box, entry, account);
  if (account.value === undefined) putAbsent(box, account);
  else putBroken(box, entry, account);
  putMaking(box, account, link);
  if (account.value !== undefined && !account.isMissing) putWays(box, account);
  putUses(box, entry, link);
  put(box, "h3", {}, "In a terminal");
  put(box, "pre", { tabindex: 0, "aria-label": "command" }, commandFor(entry));
  box.scrollTop = 0;
  return account;
}

function putLink(parent, entry, link, text = null) {
  const label = text ? `${written(entry)}: ${text}` : written(entry);
  const anchor = put(parent, "a", { href: link(entry), "aria-label": label });
  putSymbol(putMath(anchor), entry.name, entry.index);
  return anchor;
}

// ---- the head ------------------------------------------------------------------------------------------------------

function putTrail(box, entry, trail, link) {
  const bar = put(box, "div", { class: "bar" }), nav = put(bar, "nav", { "aria-label": "numbers visited" });
  const list = put(nav, "ol");
  for (const one of trail) {
    const item = put(list, "li"), anchor = putLink(item, one, link);
    if (isSame(one, entry)) anchor.setAttribute("aria-current", "true");
  }
  const close = put(bar, "button", { type: "button", id: "close", "aria-label": "close the account" }, "×");
  close.onclick = () => closeAccount();
}

function putHead(box, entry, { quantity, index, value }) {
  const label = value === undefined ? written(entry) : `${written(entry)} = ${rounded(value)}`;
  const head = put(box, "h2", { id: "entry", tabindex: -1, "aria-label": label });
  const math = putMath(head);
  putSymbol(math, entry.name, entry.index);
  if (value !== undefined) {
    put(math, "mo", {}, "=");
    putNumber(math, value, 6);
  }
  const meaning = put(box, "p", {}, sentence(quantity.meaning));
  const place = whereabouts(quantity, index);
  if (place) put(meaning, "span", { class: "quiet" }, ` ${place}.`);
}

const sentence = text => (/^d?[A-Z]/.test(text) ? text[0] : text[0].toUpperCase()) + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");

/** Which characters an entry is about: "e at 3 looks at o at 1". */
function whereabouts({ isMasked, indices }, index) {
  const labels = index.map((n, axis) => labelOf(indices[axis], n));
  if (isMasked) return `“${labels[0]}” at ${index[0]} looks at “${labels[1]}” at ${index[1]}`;
  const parts = index.map((n, axis) => {
    if (POSITIONS.includes(indices[axis])) return `position ${n}, “${labels[axis]}”`;
    const kind = { d: "number # of the head", m: "channel #", u: "number # of the MLP", v: "token #" }[indices[axis]];
    return kind.replace("#", n) + (labels[axis] && `, “${labels[axis]}”`);
  });
  return parts.length ? `Here: ${parts.join("; ")}` : "";
}

function putAbsent(box, { quantity }) {
  const text = `The numbers of ${quantity.name} did not fit on this page.`;
  put(box, "p", { class: "note" }, `${text} The command below shows this one in a terminal.`);
}

function putBroken(box, entry, { quantity, index, value }) {
  const broken = overriding.get(entry.name), at = quantity.flat(index);
  if (!broken?.wrong[at]) return;
  const note = put(box, "dl", { class: "note mistake" });
  for (const [name, number] of [["with the mistake", broken.numbers[at]], ["right", value]]) {
    put(note, "dt", {}, name);
    put(note, "dd", { class: name === "right" ? "" : "wrong" }, full(number));
  }
  put(note, "p", { class: "quiet" }, "What follows is the account of the right number.");
}

// ---- how it is made ------------------------------------------------------------------------------------------------

function putMaking(box, account, link) {
  const { quantity, at, index, parts, isMissing } = account;
  put(box, "h3", {}, "How it is made");
  if (quantity.kind === "given") {
    put(box, "p", {}, "It is given: " + (/^[Wwb]|^tok|^pos/.test(quantity.name)
      ? "a parameter of the model." : "what this page begins with, and takes as it is."));
    return;
  }
  const lines = put(box, "div", { class: "derivation" }), entry = { name: quantity.name, indices: index };
  putWrapped(put(lines, "p"), quantity, quantity.formula);
  if (index.length) putWrapped(put(lines, "p"), entry, quantity.formula, at);
  if (quantity.kind === "function") return putNamed(box, account, link);
  if (isMissing) put(box, "p", { class: "note" }, "Some factors are not on this page; the command below shows them.");
  else if (parts.length > 1 || parts[0].factors.length > 1) putWithNumbers(put(lines, "p"), entry, account);
  putTerms(box, account, link);
}

/** The products with their numbers, the three largest if there are many. */
function putWithNumbers(line, entry, { quantity, index, parts, formula }) {
  const shown = parts.slice(0, parts.length > 4 ? 3 : 4), isShare = quantity.kind === "share";
  const next = n => {
    line.append(" ");
    return putMath(line, n ? { class: "continued" } : {});
  };
  equals(putMath(line), entry);
  const fraction = isShare ? put(next(0), "mfrac") : null;
  if (isShare) putPower(fraction, exponentOf(quantity).at(index));
  const below = isShare ? put(fraction, "mrow") : null;
  shown.forEach((part, n) => putProduct(below ?? next(n), part, n));
  if (parts.length > shown.length) {
    const rest = below ?? next(1);
    putSign(rest, "+");
    put(rest, "mi", {}, "…");
  }
  const end = next(1);
  put(end, "mo", { form: "infix" }, "=");
  putNumber(end, formula, 6);
}

function putProduct(row, { sign, factors }, n) {
  if (n || sign < 0) putSign(row, sign < 0 ? "−" : "+");
  if (row.parentNode.localName === "mfrac") return putPower(row, factors[0].value);
  factors.forEach(({ value }, k) => {
    if (k) put(row, "mo", {}, "·");
    putFactor(row, value, k > 0 || n > 0 || sign < 0);
  });
}

function putPower(row, exponent) {
  const power = put(row, "msup");
  put(power, "mi", {}, "e");
  putNumber(put(power, "mrow"), exponent);
}

function putFactor(row, value, needsBrackets) {
  if (value >= 0 || !needsBrackets) return putNumber(row, value);
  const group = put(row, "mrow");
  put(group, "mo", { stretchy: "false" }, "(");
  putNumber(group, value);
  put(group, "mo", { stretchy: "false" }, ")");
}

function putNamed(box, account, link) {
  const list = put(box, "ul", { class: "named" });
  for (const { name, index, isWhole } of namedEntries(account)) {
    const item = put(list, "li"), value = quantities.get(name).at(index);
    putLink(item, { name, index }, link);
    item.append(isWhole ? ` and all of its row` : value === undefined ? "" : ` = ${aligned(value)}`);
  }
}

function putTerms(box, { quantity, parts, total, isMissing }, link) {
  const table = put(box, "table", { class: "terms" }), isShare = quantity.kind === "share";
  const what = isShare ? `The row’s ${plural(parts.length, "power")} of e` : `The ${plural(parts.length, "product")}`;
  put(table, "caption", {}, what + (parts.length > 1 ? ", the largest first" : ""));
  const head = put(put(table, "thead"), "tr");
  const titles = isShare ? ["exponent", "power, over the largest", "sum so far"] : ["factors", "product", "sum so far"];
  for (const title of titles) put(head, "th", { scope: "col" }, title);
  const body = put(table, "tbody");
  let running = 0;
  parts.forEach((part, n) => putTerm(body, part, running += part.value, n, isShare, link));
  const foot = put(put(table, "tfoot"), "tr");
  put(foot, "th", { scope: "row", colspan: 2 }, "sum");
  put(foot, "td", { "data-total": total }, isMissing ? "–" : aligned(total));
  if (parts.length <= SHOWN) return;
  const more = put(box, "button", { type: "button" }, `Show all ${parts.length}`);
  more.onclick = () => {
    table.classList.add("all");
    more.remove();
  };
}

function putTerm(body, part, running, n, isShare, link) {
  const row = put(body, "tr", { "data-term": part.value, class: n < SHOWN ? "" : "more" });
  const cell = put(row, "td", { class: "factors" });
  if (part.sign < 0) put(cell, "span", { class: "sign" }, "−");
  for (const { name, index, value } of part.factors) {
    const factor = put(cell, "span", { class: "factor" });
    if (isConstant(name)) putInline(putMath(factor), name);
    else putLink(factor, { name, index }, link, value === undefined ? null : rounded(value));
    put(factor, "span", { class: "quiet" }, value === undefined ? "–" : aligned(value, 4));
  }
  for (const value of [part.value, running])
    put(row, "td", { class: "number" }, aligned(value));
}

// ---- four ways, and uses -------------------------------------------------------------------------------------------

function putWays(box, account) {
  put(box, "h3", {}, "Four ways to it");
  const table = put(box, "table", { class: "ways" });
  put(table, "caption", { class: "unseen" }, "The same number four ways, and how far each is from the formula");
  const head = put(put(table, "thead"), "tr"), body = put(table, "tbody");
  for (const title of ["way", "number", "off by"]) put(head, "th", { scope: "col" }, title);
  const ways = fourWays(account), compared = ways.filter(({ value }) => value !== undefined);
  for (const way of ways) {
    const row = put(body, "tr", { "data-way": way.key, class: way.isWrong ? "wrong" : "" });
    if (way.value !== undefined) Object.assign(row.dataset, { value: way.value, relative: way.relative });
    put(row, "th", { scope: "row" }, way.label);
    if (way.value === undefined) {
      put(row, "td", { class: "quiet", colspan: 2 }, way.note);
      continue;
    }
    const cell = put(row, "td", { class: "number" }, full(way.value));
    if (way.note) put(cell, "div", { class: "quiet" }, way.note);
    const off = way.key === "formula" ? "" : rounded(way.relative, 1);
    put(row, "td", { class: "number" }, way.isWrong ? `${off} WRONG` : off);
  }
  const isWrong = compared.some(way => way.isWrong), most = Math.max(...compared.map(({ relative }) => relative));
  if (compared.length > 1) put(box, "p", { class: isWrong ? "wrong" : "" },
    isWrong ? "They do NOT agree." : `They agree: off by ${rounded(most, 1)} at most.`);
  put(box, "p", { class: "quiet" }, (account.quantity.kind === "sum"
    ? "Off by: the distance from the formula’s number, as a share of the sum of the sizes of its products"
    : "Off by: the distance, as a share of the number itself") + ", or of a thousandth of the matrix’s largest.");
}

function putUses(box, entry, link) {
  const uses = usesOf(entry);
  put(box, "h3", {}, "Where it is used");
  if (!uses.length) return put(box, "p", { class: "quiet" }, "In no other number of this page.");
  const list = put(box, "ul", { class: "uses" });
  for (const { entries } of uses) {
    const item = put(list, "li");
    entries.slice(0, LISTED).forEach(one => {
      putLink(item, one, link);
      item.append(" ");
    });
    if (entries.length <= LISTED) continue;
    item.append(`and ${entries.length - LISTED} more, to `);
    putLink(item, entries.at(-1), link);
  }
  return list;
}
