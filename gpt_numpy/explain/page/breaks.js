// Break it: six classic mistakes, made in the page's own computation of the head. The results are compared with the
// right numbers, and each check is shown with its verdict.

/** @typedef {(formula: string) => string} Edit */

/** @type {Edit} */
const withoutScale = formula => formula.replace(/^c /, "");
/** @type {Edit} */
const onlyFromValues = formula => formula.replace(/^Σ_d dQ.* \+ (?=Σ_d dV)/, "");

/**
 * @typedef {{key: string, label: string, right: string, wrong: string, edits: Object<string, Edit>, text: string,
 *   caughtBy: string}} Mistake
 */
const BREAKS = /** @type {Mistake[]} */ ([ // `edits` turns the formula of each broken line into the wrong one
  {
    key: "saturate", label: "forget 1/√D in the scores", right: "S = c * Q @ K.T", wrong: "S = Q @ K.T",
    edits: { S: withoutScale, dQ: withoutScale, dK: withoutScale },
    text: "The scores are √D times too large, so softmax saturates: almost all weight goes to one position, P is near " +
      "0 and 1, and there P (dP − mean) is near 0: the gradient dS dies. (The gradient dY stays fixed.)",
    caughtBy: "The comparison with torch. Not gradcheck: the backward pass has the same factor. In training it shows only in " +
      "a loss that falls slowly, and in the entropy of P above.",
  }, {
    key: "scale", label: "forget 1/√D in the gradients", right: "dQ = c * dS @ K;  dK = c * dS.T @ Q",
    wrong: "dQ = dS @ K;  dK = dS.T @ Q", edits: { dQ: withoutScale, dK: withoutScale },
    text: "The forward pass scales the scores, so the backward pass has the same factor. Without it, dQ and dK are " +
      "too large by √D. Training still works, only worse: Adam even cancels the factor in the updates of W_q and W_k.",
    caughtBy: "Gradcheck against central differences, and the comparison with torch.",
  }, {
    key: "rowsum", label: "forget softmax’s row sum", right: "dS = P * (dP - (P * dP).sum(-1))", wrong: "dS = P * dP",
    edits: { dS: () => "P[i,j] dP[i,j]" },
    text: "Softmax is treated as if each weight depended only on its own score. But the weights of a row sum to 1, " +
      "so what one gains the others lose.",
    caughtBy: "Gradcheck and torch; and a check that needs neither: each row of dS sums to 0, because adding the " +
      "same number to all scores of a row changes nothing.",
  }, {
    key: "mask", label: "forget the mask", right: "S[j > i] = -inf;  P = softmax(S)", wrong: "P = softmax(S)",
    edits: { P: formula => formula }, // only its sum is longer
    text: "Each position now attends to later ones, which include the token it has to predict. (The gradient dY " +
      "stays fixed.)",
    caughtBy: "The comparison with torch, and the causality test: changing a later character must not change an " +
      "earlier output. Not gradcheck: forward and backward have the same mistake, so differences of the same code " +
      "agree with the gradient.",
  }, {
    key: "equals", label: "write = for +=", right: "dX += dQ @ W_q;  dX += dK @ W_k;  dX += dV @ W_v",
    wrong: "dX = dQ @ W_q;  dX = dK @ W_k;  dX = dV @ W_v", edits: { dX: onlyFromValues },
    text: "X is used three times, and each gradient overwrites the one before. Only the part from V is left. (The " +
      "gradient from the other heads is still added.)",
    caughtBy: "Gradcheck of X, or of the embeddings that X comes from. The gradients of W_q, W_k, W_v and W_o stay " +
      "right, so a gradcheck of these alone does not catch it.",
  }, {
    key: "transpose", label: "forget to transpose dS", right: "dK = c * dS.T @ Q", wrong: "dK = c * dS @ Q",
    edits: { dK: formula => formula.replace("dS[i,j]", "dS[j,i]") },
    text: "dS is square, with as many queries as keys, so there is no shape error. Each key’s gradient uses a row " +
      "of dS instead of a column.",
    caughtBy: "Gradcheck of K, and torch. A test with more keys than queries fails at once, with a shape error.",
  },
]).filter(({ edits }) => Object.keys(edits).every(isOnPage));
const TOLERANCE = 1e-10; // of the matrix's largest entry; without a mistake, errors stay below 1e-14
const COMPARED = ["Q", "K", "V", "S", "P", "O", "Y", "dO", "dP", "dV", "dS", "dQ", "dK", "dX", "dR",
  "dW_q", "db_q", "dW_k", "db_k", "dW_v", "db_v", "dW_o", "db_o"];

/** @typedef {Override & {name: string, error: number}} Compared */

/**
 * For each matrix: its numbers, which of them are wrong, how many, and the largest relative error.
 * @param {Matrices} computed  @returns {Compared[]}
 */
function compareWithRight(computed) {
  return COMPARED.filter(name => quantities.get(name)?.numbers).map(name => {
    const quantity = quantities.get(name), right = quantity.numbers, numbers = computed[name].values;
    const largest = largestMagnitude(right), scale = quantity.isRoundingError(largest) ? quantity.bound || 1 : largest;
    const errors = numbers.map((x, n) => x === right[n] ? 0 : Math.abs(x - right[n]) / scale);
    const wrong = Array.from(errors, error => !(error <= TOLERANCE)); // NaN is never right
    const wrongCount = wrong.filter(Boolean).length, error = errors.reduce((max, one) => Math.max(max, one), 0);
    return { name, numbers, wrong, wrongCount, error };
  });
}

/**
 * Checks the page's computation, without a mistake, against the file: the basis of all that Break it shows.
 * @param {Matrices} inputs
 */
function showSelfCheck(inputs) {
  const line = byId("own");
  if (!inputs) {
    line.textContent = "“Break it” is disabled: some inputs of this head did not fit on this page.";
    byId("breaks").disabled = true;
    return;
  }
  const compared = compareWithRight(computeHead(inputs, new Set()));
  const largest = Math.max(...compared.map(({ error }) => error)), agrees = largest <= TOLERANCE;
  const count = compared.reduce((sum, { numbers }) => sum + numbers.length, 0);
  line.dataset.largest = largest;
  line.classList.toggle("wrong", !agrees);
  line.textContent = `This page’s own computation of the head ${agrees ? "agrees" : "DISAGREES"} with the file’s ` +
    `${formatCount(count)} numbers: off by at most ${formatRounded(largest, 1)} of each matrix’s largest entry.`;
}

/** @param {(mistakes: Set<string>) => void} setMistakes */
function putSwitches(setMistakes) {
  const menu = byId("breaks-menu");
  for (const kind of ["pointerdown", "focusin"]) // the open menu covers what is under it
    document.addEventListener(kind, ({ target }) => { menu.open &&= menu.contains(target); });
  for (const { key, label } of BREAKS) {
    const switchLabel = put(byId("breaks"), "label");
    const input = put(switchLabel, "input", { type: "checkbox", name: "break", value: key });
    switchLabel.append(` ${label}`);
    input.onchange = () => {
      const checked = findAll("[name=break]:checked");
      setMistakes(new Set(Array.from(checked, one => one.value)));
    };
  }
}

// ---- the effects ---------------------------------------------------------------------------------------------------

/** @param {Matrices} inputs  @param {Set<string>} mistakes */
function showMistakes(inputs, mistakes) {
  for (const input of findAll("[name=break]")) input.checked = mistakes.has(input.value);
  const before = new Map(overrides);
  overrides.clear();
  comparedName = null;
  const box = byId("effects"), line = byId("effects-summary");
  box.replaceChildren();
  box.hidden = line.hidden = !inputs || !mistakes.size;
  if (!box.hidden) {
    const computed = computeHead(inputs, mistakes), compared = compareWithRight(computed);
    const wrong = compared.filter(({ wrongCount }) => wrongCount), isUnmasked = mistakes.has("mask");
    for (const one of wrong) overrides.set(one.name, { ...one, isUnmasked });
    if (isUnmasked) { // no entry of dP is wrong: only now those above the diagonal are used
      const numbers = computed.dP_unmasked.values;
      overrides.set("dP", { numbers, wrong: Array.from(numbers, () => false), wrongCount: 0, isUnmasked });
    }
    line.textContent = `${wrong.length} of this head’s ${compared.length} matrices have wrong entries, marked by ` +
      `crosses. The mistake is followed through this head only: d${endOf(inputs)} and everything after the head keep ` +
      "their right values, so that you see this head’s error alone. ";
    put(line, "a", { href: "#effects" }, "Why, and which checks catch it").onclick = event => {
      event.preventDefault(); // the address is the state of the page
      box.scrollIntoView();
      box.querySelector("h2").focus();
    };
    putEffects(box, inputs, mistakes, computed, compared);
  }
  for (const [name, view] of views) if (overrides.has(name) || before.has(name)) {
    if (view.isMaskedAt(view.active)) view.active = [0, 0];
    view.paint(true);
  }
}

// ---- one matrix: right, with the mistake, and the difference -------------------------------------------------------

/** @type {string} */
let comparedName = null; // of the matrix that a button or the open entry has chosen

/** @param {Set<string>} mistakes  @param {?Entry} entry  The open entry chooses its matrix, if that is wrong. */
function showComparison(mistakes, entry) {
  if (entry && overrides.get(entry.name)?.wrongCount) comparedName = entry.name;
  const box = byId("comparison"), names = COMPARED.filter(name => overrides.get(name)?.wrongCount);
  const wasHidden = box.hidden, name = comparedName ?? names.find(one => editsOf(one, mistakes).length) ?? names[0];
  const shown = [name, ...mistakes].join(" ");
  box.hidden = !name;
  if (!name) clearSideBySide(box);
  if (!name || box.dataset.shown === shown && !wasHidden) return; // a new view would lose the keyboard's focus
  box.dataset.shown = shown;
  const quantity = quantities.get(name), right = quantity.numbers, { numbers, isUnmasked } = overrides.get(name);
  const difference = numbers.map((x, n) => x === right[n] ? 0 : x - right[n]);
  const isFinite = !difference.includes(Infinity);
  const head = showSideBySide(box, "Right, wrong, and the difference", [
    { label: "right", quantity, numbers: right },
    { label: "with the mistake", quantity, numbers, isUnmasked },
    { label: "difference", quantity, numbers: difference, isUnmasked: isUnmasked && isFinite },
  ], largestMagnitude(right, numbers, difference));
  putMatrixButtons(head, names, name, one => {
    comparedName = one;
    showComparison(mistakes, null);
    selectSideBySide(state.entry);
    box.querySelector("[aria-pressed=true]").focus();
  });
  if (quantities.get("P").rows > 1) { // the only row sees only itself
    putSharpness(box.querySelector(".side-by-side"));
    layoutSideBySide(); // beside the table there is less room
  }
  if (!isFinite) put(box, "p", { class: "quiet" }, "Hatched in the difference: the right scores there are −∞.");
  if (wasHidden) box.scrollIntoView({ block: "nearest" });
}

/**
 * How sharp attention is, and how large the gradient of the scores: right, and with the mistake. Means over the rows
 * after the first, which sees only itself.
 * @param {Element} parent
 */
function putSharpness(parent) {
  const table = put(parent, "table", { class: "sharpness" }), head = put(put(table, "thead"), "tr");
  for (const title of ["means of rows", "right", "with the mistake"]) put(head, "th", { scope: "col" }, title);
  const body = put(table, "tbody");
  for (const [title, name, measure] of /** @type {[string, string, (row: Float64Array) => number][]} */ ([
    ["largest weight", "P", row => Math.max(...row)],
    ["entropy, in nats", "P", row => -sumOf(row.map(p => p > 0 ? p * Math.log(p) : 0))],
    ["|dS|", "dS", row => sumOf(row.map(Math.abs)) / row.length],
  ])) {
    const line = put(body, "tr"), of = quantities.get(name);
    const /** @type {{numbers: Float64Array, isUnmasked?: boolean}} */ right = { numbers: of.numbers };
    put(line, "th", { scope: "row" }, title);
    for (const { numbers, isUnmasked } of [right, overrides.get(name) ?? right])
      put(line, "td", { class: "number" }, formatRounded(rowMean(of, numbers, isUnmasked, measure), 3));
  }
}

/**
 * The mean over all rows but the first of what is measured of a row: up to the diagonal, unless it is unmasked.
 * @type {(of: Quantity, numbers: Float64Array, isUnmasked: boolean, measure: (row: Float64Array) => number) => number}
 */
function rowMean({ rows, cols }, numbers, isUnmasked, measure) {
  const all = Array.from({ length: rows }, (_, i) => numbers.subarray(i * cols, i * cols + (isUnmasked ? cols : i + 1)));
  return sumOf(all.slice(1).map(measure)) / (rows - 1);
}

/** @type {(parent: Element, names: string[], chosen: string, choose: (name: string) => void) => void} */
function putMatrixButtons(parent, names, chosen, choose) {
  const row = put(parent, "div", { class: "choice", role: "group", "aria-label": "the matrix to compare" });
  for (const name of names) {
    const button = put(row, "button", { type: "button", "data-compare": name, "aria-pressed": name === chosen });
    putSymbol(putMath(button), name);
    button.onclick = () => choose(name);
  }
}

/**
 * The changes that these mistakes make in the formula of a matrix; none if only its factors are wrong.
 * @type {(name: string, mistakes: Set<string>) => Edit[]}
 */
const editsOf = (name, mistakes) =>
  BREAKS.filter(({ key, edits }) => mistakes.has(key) && edits[name]).map(({ edits }) => edits[name]);

/** @type {(box: Element, inputs: Matrices, mistakes: Set<string>, computed: Matrices, compared: Compared[]) => void} */
function putEffects(box, inputs, mistakes, computed, compared) {
  put(box, "h2", { tabindex: -1 }, "The mistake, and which checks catch it");
  for (const { label, right, wrong, text, caughtBy } of BREAKS.filter(({ key }) => mistakes.has(key))) {
    put(box, "h3", {}, label[0].toUpperCase() + label.slice(1));
    const code = put(box, "pre", { tabindex: 0, "aria-label": "the line, wrong and right" });
    put(code, "span", { class: "wrong" }, `wrong  ${wrong}\n`);
    code.append(`right  ${right}`);
    put(box, "p", {}, text.replace("dY", `d${endOf(inputs)}`));
    const line = put(box, "p");
    put(line, "b", {}, "Caught by: ");
    line.append(caughtBy);
  }
  putComparison(box, inputs, mistakes, computed, compared);
  putOtherChecks(box, inputs, mistakes, computed);
}

/** @type {typeof putEffects} */
function putComparison(box, inputs, mistakes, computed, compared) {
  const table = put(put(box, "div", { class: "wide" }), "table", { class: "comparison" });
  put(table, "caption", {}, "Each matrix compared with the right numbers, as with torch; and gradcheck of the broken code");
  const head = put(put(table, "thead"), "tr"), body = put(table, "tbody");
  const titles = ["matrix", "wrong entries", "largest error", "comparison", "gradcheck"];
  for (const title of titles) put(head, "th", { scope: "col" }, title);
  for (const { name, wrongCount, error, numbers } of compared) {
    const row = put(body, "tr", { "data-broken": name, "data-wrong": wrongCount });
    putSymbol(putMath(put(row, "th", { scope: "row" })), name);
    put(row, "td", { class: "number" }, wrongCount ? `${wrongCount} of ${numbers.length}` : "none");
    const { largest } = quantities.get(name), isZero = quantities.get(name).isRoundingError(largest);
    const size = !Number.isFinite(error) ? "not masked with −∞"
      : isZero ? `${formatRounded(largestMagnitude(numbers), 3)}, where 0 is right`
      : `${formatRounded(error, 3)} × the largest right entry`;
    put(row, "td", { class: "number" }, wrongCount ? size : "–");
    putVerdict(row, !wrongCount, "right", "WRONG");
    if (!name.startsWith("d")) put(row, "td", { class: "quiet" }, "a forward value");
    else if (name === "dR") put(row, "td", { class: "quiet" }, "not checked: dX through the layer norm");
    else {
      row.dataset.agrees = String(gradcheck(inputs, computed, mistakes, name.slice(1)).agrees);
      putVerdict(row, row.dataset.agrees === "true", "agrees", "DISAGREES");
    }
  }
}

/** @param {Element} row  @param {boolean} isGood  @param {string} good  @param {string} bad */
function putVerdict(row, isGood, good, bad) {
  return put(row, "td", { class: isGood ? "" : "wrong" }, isGood ? good : bad);
}

/** @param {Element} box  @param {Matrices} inputs  @param {Set<string>} mistakes  @param {Matrices} computed */
function putOtherChecks(box, inputs, mistakes, computed) {
  const T = computed.S.rows, leak = causalityLeak(inputs, mistakes);
  put(box, "h3", {}, "Two checks that need no reference gradient");
  const causality = put(box, "p");
  causality.append("Causality: when the input at the last position changes, earlier outputs change by up to " +
    `${formatRounded(leak, 3)}: `);
  put(causality, "b", { id: "causality", class: leak ? "wrong" : "" }, leak ? "BROKEN" : "holds");
  const sums = rowSums(computed.dS), largest = largestMagnitude(sums);
  const isZero = largest <= TOLERANCE * largestMagnitude(computed.dS.values);
  const line = put(box, "p");
  line.append(`Row sums: the largest sum of a row of dS is ${formatRounded(largest, 3)}: `);
  put(line, "b", { id: "sums", class: isZero ? "" : "wrong" }, isZero ? "0 up to rounding, as it must be" : "NOT 0");
  const table = put(put(box, "div", { class: "wide" }), "table", { class: "sums" });
  put(table, "caption", {}, "The sum of each row of dS");
  const head = put(table, "tr"), row = put(table, "tr");
  put(head, "th", { scope: "row" }, "row");
  put(row, "th", { scope: "row" }, "sum");
  for (let i = 0; i < T; i++) {
    put(head, "th", { scope: "col" }, `${i} ${labelOf("i", i)}`);
    put(row, "td", { class: isZero || sums[i] === 0 ? "" : "wrong" }, formatRounded(sums[i], 2));
  }
}
