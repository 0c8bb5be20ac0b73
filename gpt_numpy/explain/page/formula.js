// Renders formulas as HTML, which style.css lays out with any serif font. They have the syntax of the terminal,
// `P[i,j] (dP[i,j] - Σ_k P[i,k] dP[i,k])`, and are shown with index letters, or with the numbers of one entry instead.

const TOKEN = /e\^|Σ_\w|1\/[TCGNs]\b|[A-Za-z]\w*'?(?:\[[^\]]*\])?|\d[\d.]*|[()√+\-/]/g;
const ENTRY = /^([A-Za-z]\w*'?)(?:\[([^\]]*)\])?$/;
const THIN = "\u2009"; // the space between factors
/** @type {[RegExp, string][]} */
const SPOKEN = [ // a screen reader gets words, because it does not read subscripts and fractions as such
  [/Σ_(\w)/g, "the sum over $1 of"], [/e\^/g, "e to the "], [/√/g, "the square root of "], [/\//g, " over "],
  [/-/g, " minus "], [/[[\],_]/g, " "], [/ +/g, " "],
];

/** @typedef {{name: string, indices: (string|number)[]}} LeftSide  a quantity, or an entry */

/**
 * The equation `left = formula`. `bindings` has the numbers that replace index letters.
 * @type {(parent: Element, left: LeftSide, formula: string, bindings?: Bindings) => void}
 */
function putFormula(parent, left, formula, bindings = {}) {
  const bound = formula.replace(/\[.*?\]/g, inside =>
    inside.replace(/\w+/g, letter => String(bindings[letter] ?? letter)));
  const label = `${formatEntry({ name: left.name, index: left.indices })} = ${bound}`;
  const spoken = SPOKEN.reduce((text, [sign, words]) => text.replace(sign, words), label);
  const math = putMath(parent, { role: "math", "aria-label": spoken });
  putLeftSide(math, left);
  putTokens(put(math, "span"), bound.match(TOKEN));
}

/** A line of it breaks only at an element of class "gap". @param {Element} parent */
function putMath(parent, attributes = {}) {
  return put(parent, "span", { class: "math", ...attributes });
}

/** @param {Element} math  @param {LeftSide} left */
function putLeftSide(math, { name, indices }) {
  putSymbol(math, name, indices);
  put(math, "span", { class: "gap" }, " ");
  math.append("= ");
}

/**
 * Consumes tokens up to the end, or up to the parenthesis that closes the row.
 * @type {(row: Element, tokens: string[]) => void}
 */
function putTokens(row, tokens) {
  while (tokens.length && tokens[0] !== ")") putToken(row, tokens.shift(), tokens);
}

/** @type {(row: Element, token: string, tokens: string[]) => void} */
function putToken(row, token, tokens) {
  if ("+-".includes(token)) return putSign(row, token === "-" ? "−" : token);
  const isFactor = /[\w√Σ]/.test(token[0]) || token === "(" && row.lastChild?.nodeName === "SUB"; // r[i] (, not log(
  if (isFactor && row.hasChildNodes() && !row.textContent.endsWith(THIN)) row.append(THIN);
  if (token === "/") { // the row so far becomes the numerator
    const before = [...row.childNodes], [numerator, denominator] = putFraction(row);
    numerator.append(...before);
    putTokens(denominator, tokens);
  } else if (token === "(") {
    row.append(token);
    putTokens(put(row, "span", { class: "inner" }), tokens);
    row.append(tokens.shift());
  } else if (token === "√") putRoot(row, tokens);
  else if (token === "e^") putToken(putPower(row, "e"), tokens.shift(), tokens);
  else if (token.startsWith("Σ_")) put(put(row, "span", { class: "sum" }, "Σ"), "sub").append(wordOf(token[2]));
  else if (token.startsWith("1/")) {
    const [numerator, denominator] = putFraction(row, "small fraction");
    numerator.append("1");
    denominator.append(wordOf(token.slice(2)));
  } else if (ENTRY.test(token)) {
    const [, name, inside] = ENTRY.exec(token);
    putSymbol(row, name, inside ? inside.split(",") : []);
  } else row.append(token);
}

/** A sign between terms or factors, before which the line may break. @param {Element} row  @param {string} sign */
function putSign(row, sign) {
  if (row.hasChildNodes()) put(row, "span", { class: "gap" }, " ");
  row.append(sign + THIN);
}

/**
 * Returns the empty numerator and denominator. The slash between them is their line, and part of what is copied.
 * @param {Element} row
 */
function putFraction(row, name = "fraction") {
  const fraction = put(row, "span", { class: name }), numerator = put(fraction, "span");
  put(fraction, "span", { class: "over" }, "/");
  return [numerator, put(fraction, "span")];
}

/** The line over the root stands for the parentheses. @type {typeof putTokens} */
function putRoot(row, tokens) {
  const root = put(row, "span", { class: "root" });
  put(root, "span", { class: "radical" }, "√");
  tokens.shift(); // the opening parenthesis
  putTokens(put(root, "span", { class: "radicand" }), tokens);
  tokens.shift(); // the closing one
}

/** Returns the empty exponent. @param {Element} row  @param {string} base */
function putPower(row, base) {
  row.append(wordOf(base));
  return put(row, "sup");
}

/** An element: italic for a letter, W1 too, and upright for a word or a number. @param {string} name */
function wordOf(name) {
  const isLetter = /^[A-Za-z]\d?$/.test(name), child = document.createElement(isLetter ? "i" : "span");
  child.textContent = name;
  return child;
}

/**
 * dW_q[3,1] as dW with the subscript q 3,1. The d is upright, because it is not a factor.
 * @type {(row: Element, name: string, indices?: (string|number)[]) => void}
 */
function putSymbol(row, name, indices = []) {
  const [, d = "", base, suffix] = /^(d(?=[A-Z]|b_))?(.+?)(?:_(\w+))?$/.exec(name);
  row.append(d, wordOf(base));
  if (!suffix && !indices.length) return;
  const subscript = put(row, "sub", {}, suffix ?? "");
  if (suffix && indices.length) subscript.append("\u00a0");
  indices.forEach((index, n) => subscript.append(n ? "," : "", wordOf(String(index))));
}

/** A constant such as 1/T in a line of text, not as a fraction. @param {Element} row  @param {string} token */
function putInlineConstant(row, token) {
  row.append(token.startsWith("1/") ? "1/" : "", wordOf(token.replace("1/", "")));
}

/**
 * In scientific notation, 1.2 · 10⁻⁵, where the number is very small or very large.
 * @param {Element} row  @param {number} value
 */
function putNumber(row, value, digits = 4) {
  const [mantissa, exponent] = formatAligned(Math.abs(value), digits).replaceAll("−", "-").split("e");
  row.append(value < 0 ? "−" : "", mantissa);
  if (!exponent) return;
  row.append(`${THIN}·${THIN}`);
  putPower(row, "10").append(formatFull(Number(exponent)));
}
