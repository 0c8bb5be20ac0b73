// Formulas as MathML. They come as they are read in the terminal, `P[i,j] (dP[i,j] - Σ_k P[i,k] dP[i,k])`, and are
// shown with letters for indices, or with the numbers of an entry put in for them.

const TOKEN = /e\^|Σ_\w|1\/[TC]\b|[A-Za-z]\w*'?(?:\[[^\]]*\])?|\d[\d.]*|[()√²+\-/]/g;
const ENTRY = /^([A-Za-z]\w*'?)(?:\[([^\]]*)\])?$/;

/**
 * A formula with the symbol on its left, in pieces between which a narrow column can break its line. `at` gives numbers
 * for some of the formula's indices.
 */
function putWrapped(parent, left, formula, at = {}) {
  const pieces = /[√]| \/ /.test(formula) ? [formula] : formula.split(/ (?=[+-] )|(?<=\]) (?=Σ)/);
  pieces.forEach((piece, n) => {
    if (n === 0) equals(putMath(parent), left);
    parent.append(" ");
    readRow(putMath(parent, n ? { class: "continued" } : {}), piece.match(TOKEN), at);
  });
}

function putMath(parent, attributes = {}) {
  const math = byId("math").content.firstElementChild.cloneNode(true);
  for (const key in attributes) math.setAttribute(key, attributes[key]);
  return parent.appendChild(math);
}

function equals(math, { name, indices }) {
  putSymbol(math, name, indices);
  put(math, "mo", {}, "=");
}

/** Reads tokens into a row, up to the bracket that closes it. */
function readRow(row, tokens, at, isInner = false) {
  while (tokens.length) {
    const token = tokens.shift();
    if (token === ")" && isInner) return;
    if (token === "/") return readFraction(row, tokens, at, isInner);
    readToken(row, token, tokens, at);
  }
}

/** What stands before the stroke in this row goes above the line, the rest below. */
function readFraction(row, tokens, at, isInner) {
  const above = [...row.childNodes], fraction = put(row, "mfrac");
  put(fraction, "mrow").append(...above);
  readRow(put(fraction, "mrow"), tokens, at, isInner);
}

function readToken(row, token, tokens, at) {
  if (token === "(") readBracket(row, tokens, at);
  else if (token === "√") readRow(put(row, "msqrt"), tokens.splice(0, tokens.length), at); // to the formula's end
  else if (token === "e^") {
    const power = put(row, "msup");
    put(power, "mi", {}, "e");
    readToken(power, tokens.shift(), tokens, at);
  } else if (token.startsWith("Σ_")) {
    const sum = put(row, "munder");
    put(sum, "mo", { movablelimits: "false" }, "∑");
    put(sum, "mi", {}, token[2]);
  } else if (token.startsWith("1/")) putConstant(row, token);
  else if (ENTRY.test(token)) {
    const [, name, inside] = ENTRY.exec(token);
    putSymbol(row, name, inside ? inside.split(",").map(index => at[index] ?? index) : []);
  } else if ("+-".includes(token)) putSign(row, token === "-" ? "−" : token);
  else put(row, /\d/.test(token) ? "mn" : "mo", { stretchy: "false" }, token);
}

/** With room on both sides between terms, even where a line may break before it. */
function putSign(row, sign) {
  const isBetween = row.childNodes.length || row.classList.contains("continued");
  put(row, "mo", { form: isBetween ? "infix" : "prefix" }, sign);
}

function readBracket(row, tokens, at) {
  const isSquared = closes(tokens) && tokens[closes(tokens)] === "²";
  const group = put(isSquared ? put(row, "msup") : row, "mrow");
  const inside = tokens.splice(0, closes(tokens) || tokens.length);
  const isClosed = inside.at(-1) === ")";
  put(group, "mo", { stretchy: "false" }, "(");
  readRow(group, isClosed ? inside.slice(0, -1) : inside, at);
  if (isClosed) put(group, "mo", { stretchy: "false" }, ")");
  if (isSquared) put(group.parentNode, "mn", {}, String(tokens.shift() && 2));
}

/** How many tokens there are up to and with the bracket that closes the one just read; 0 if none does. */
function closes(tokens) {
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

/** dW_q[3,1] as d and W with the subscript q 3,1: the d upright, for it is not a factor. */
function putSymbol(row, name, indices = []) {
  const [, d, base, suffix] = /^(d(?=[A-Z]|b_))?(.+?)(?:_(\w+))?$/.exec(name);
  const group = d ? put(row, "mrow") : row;
  if (d) put(group, "mi", { mathvariant: "normal" }, "d");
  if (!suffix && !indices.length) return put(group, "mi", {}, base);
  const symbol = put(group, "msub"), below = (put(symbol, "mi", {}, base), put(symbol, "mrow"));
  if (suffix) put(below, "mi", { mathvariant: "normal" }, suffix);
  if (suffix && indices.length) put(below, "mspace", { width: "0.3em" });
  indices.forEach((index, n) => {
    if (n) put(below, "mo", { separator: "true", lspace: "0", rspace: "0.1em" }, ",");
    put(below, Number.isInteger(index) ? "mn" : "mi", {}, index);
  });
  return symbol;
}

/** 1/T in a line of text. */
function putInline(row, token) {
  for (const part of token.match(/\d|\/|\w/g)) put(row, { 1: "mn", "/": "mo" }[part] ?? "mi", {}, part);
}

/** A number with so many digits; a power of ten as one writes it by hand. */
function putNumber(row, value, digits = 4) {
  const [digitsOnly, power] = aligned(Math.abs(value), digits).replaceAll("−", "-").split("e");
  const group = value < 0 ? put(row, "mrow") : row;
  if (value < 0) put(group, "mo", { form: "prefix", lspace: "0", rspace: "0" }, "−");
  put(group, "mn", {}, digitsOnly);
  if (!power) return;
  put(group, "mo", {}, "·");
  const ten = put(group, "msup");
  put(ten, "mn", {}, "10");
  put(ten, "mn", {}, full(Number(power)));
}
