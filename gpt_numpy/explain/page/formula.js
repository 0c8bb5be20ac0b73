// Renders formulas as MathML. They have the syntax of the terminal, `P[i,j] (dP[i,j] - Σ_k P[i,k] dP[i,k])`, and are
// shown with index letters, or with the numbers of one entry in place of the letters.

const TOKEN = /e\^|Σ_\w|1\/[TCGNs]\b|[A-Za-z]\w*'?(?:\[[^\]]*\])?|\d[\d.]*|[()√²+\-/]/g;
const ENTRY = /^([A-Za-z]\w*'?)(?:\[([^\]]*)\])?$/;

/**
 * The equation `left = formula`, in pieces between which a narrow column can break the line. `bindings` has the numbers
 * that replace index letters.
 */
function putFormula(parent, left, formula, bindings = {}) {
  const pieces = /[√]| \/ /.test(formula) ? [formula] : formula.split(/ (?=[+-] )|(?<=\]) (?=Σ)/);
  pieces.forEach((piece, n) => {
    if (n === 0) putLeftSide(putMath(parent), left);
    parent.append(" ");
    putTokens(putMath(parent, n ? { class: "continued" } : {}), piece.match(TOKEN), bindings);
  });
}

function putMath(parent, attributes = {}) {
  const math = byId("math").content.firstElementChild.cloneNode(true);
  for (const key in attributes) math.setAttribute(key, attributes[key]);
  return parent.appendChild(math);
}

function putLeftSide(math, { name, indices }) {
  putSymbol(math, name, indices);
  put(math, "mo", {}, "=");
}

/** Consumes tokens up to the end, or up to the parenthesis that closes the row. */
function putTokens(row, tokens, bindings, isInner = false) {
  while (tokens.length) {
    const token = tokens.shift();
    if (token === ")" && isInner) return;
    if (token === "/") return putFraction(row, tokens, bindings, isInner);
    putToken(row, token, tokens, bindings);
  }
}

/** The row so far becomes the numerator, the tokens that follow the denominator. */
function putFraction(row, tokens, bindings, isInner) {
  const numerator = [...row.childNodes], fraction = put(row, "mfrac");
  put(fraction, "mrow").append(...numerator);
  putTokens(put(fraction, "mrow"), tokens, bindings, isInner);
}

function putToken(row, token, tokens, bindings) {
  if (token === "(") putParentheses(row, tokens, bindings);
  else if (token === "√") putTokens(put(row, "msqrt"), tokens.splice(0, tokens.length), bindings); // over the rest
  else if (token === "e^") {
    const power = put(row, "msup");
    put(power, "mi", {}, "e");
    putToken(power, tokens.shift(), tokens, bindings);
  } else if (token.startsWith("Σ_")) {
    const sum = put(row, "munder");
    put(sum, "mo", { movablelimits: "false" }, "∑");
    put(sum, "mi", {}, token[2]);
  } else if (token.startsWith("1/")) putConstant(row, token);
  else if (ENTRY.test(token)) {
    const [, name, inside] = ENTRY.exec(token);
    putSymbol(row, name, inside ? inside.split(",").map(letter => bindings[letter] ?? letter) : []);
  } else if ("+-".includes(token)) putSign(row, token === "-" ? "−" : token);
  else put(row, /\d/.test(token) ? "mn" : "mo", { stretchy: "false" }, token);
}

/** A sign between terms has space on both sides, even in a continued piece, which begins with it. */
function putSign(row, sign) {
  const isInfix = row.childNodes.length || row.classList.contains("continued");
  put(row, "mo", { form: isInfix ? "infix" : "prefix" }, sign);
}

function putParentheses(row, tokens, bindings) {
  const isSquared = lengthToClosing(tokens) && tokens[lengthToClosing(tokens)] === "²";
  const group = put(isSquared ? put(row, "msup") : row, "mrow");
  const inside = tokens.splice(0, lengthToClosing(tokens) || tokens.length);
  const isClosed = inside.at(-1) === ")";
  put(group, "mo", { stretchy: "false" }, "(");
  putTokens(group, isClosed ? inside.slice(0, -1) : inside, bindings);
  if (isClosed) put(group, "mo", { stretchy: "false" }, ")");
  if (isSquared) put(group.parentNode, "mn", {}, String(tokens.shift() && 2));
}

/** The number of tokens up to and including the matching closing parenthesis; 0 if there is none. */
function lengthToClosing(tokens) {
  let depth = 1;
  return tokens.findIndex(token => (depth += token === "(" ? 1 : token === ")" ? -1 : 0) === 0) + 1;
}

function putConstant(row, token) {
  if (!token.startsWith("1/")) return put(row, "mi", {}, token);
  const fraction = put(row, "mfrac");
  put(fraction, "mn", {}, "1");
  put(fraction, "mi", {}, token.slice(2));
  return fraction;
}

/** dW_q[3,1] as dW with the subscript q 3,1. The d is upright, because it is not a factor. */
function putSymbol(row, name, indices = []) {
  const [, d, base, suffix] = /^(d(?=[A-Z]|b_))?(.+?)(?:_(\w+))?$/.exec(name);
  const group = d ? put(row, "mrow") : row;
  if (d) put(group, "mi", { mathvariant: "normal" }, "d");
  if (!suffix && !indices.length) return put(group, "mi", {}, base);
  const symbol = put(group, "msub"), subscript = (put(symbol, "mi", {}, base), put(symbol, "mrow"));
  if (suffix) put(subscript, "mi", { mathvariant: "normal" }, suffix);
  if (suffix && indices.length) put(subscript, "mspace", { width: "0.3em" });
  indices.forEach((index, n) => {
    if (n) put(subscript, "mo", { separator: "true", lspace: "0", rspace: "0.1em" }, ",");
    put(subscript, Number.isInteger(index) ? "mn" : "mi", {}, index);
  });
  return symbol;
}

/** A constant such as 1/T in a line of text, not as a fraction. */
function putInlineConstant(row, token) {
  for (const part of token.match(/\d|\/|\w/g)) put(row, { 1: "mn", "/": "mo" }[part] ?? "mi", {}, part);
}

/** In scientific notation, 1.2 · 10⁻⁵, where the number is very small or very large. */
function putNumber(row, value, digits = 4) {
  const [mantissa, exponent] = formatAligned(Math.abs(value), digits).replaceAll("−", "-").split("e");
  const group = value < 0 ? put(row, "mrow") : row;
  if (value < 0) put(group, "mo", { form: "prefix", lspace: "0", rspace: "0" }, "−");
  put(group, "mn", {}, mantissa);
  if (!exponent) return;
  put(group, "mo", {}, "·");
  const power = put(group, "msup");
  put(power, "mn", {}, "10");
  put(power, "mn", {}, formatFull(Number(exponent)));
}
