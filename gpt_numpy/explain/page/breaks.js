// Break it: five classic mistakes, made in the page's own arithmetic. What goes wrong is counted against the file's
// numbers, and shown with the checks that see it and those that cannot.

const BREAKS = [
  {
    key: "scale", label: "forget 1/√D", right: "dQ = c * dS @ K;  dK = c * dS.T @ Q",
    wrong: "dQ = dS @ K;  dK = dS.T @ Q",
    text: "The scores were scaled in the forward pass, so their gradient is scaled too. dQ and dK come out too " +
      "large, by √D. Training goes on and is only worse: Adam even divides the factor out of the weights of Q " +
      "and K.",
    caught: "Gradcheck against central differences, and the comparison with torch.",
  }, {
    key: "rowsum", label: "forget softmax’s row sum", right: "dS = P * (dP - (P * dP).sum(-1))", wrong: "dS = P * dP",
    text: "Softmax is treated as if each weight had only its own score. But the weights of a row share 1 between " +
      "them, and what one gains the others lose.",
    caught: "Gradcheck and torch; and a check that needs neither: each row of dS sums to 0, because adding the same " +
      "number to all scores of a row changes nothing.",
  }, {
    key: "mask", label: "forget the mask", right: "S[j > i] = -inf;  P = softmax(S)", wrong: "P = softmax(S)",
    text: "Each position now sees what comes after it, the answer included. (The gradient dY is held as it is " +
      "here.)",
    caught: "Not gradcheck: forward and backward make the same mistake, and differences of the same code agree with " +
      "it. The comparison with torch sees it, and so does the causality test: change a later character, and no " +
      "earlier output may change.",
  }, {
    key: "equals", label: "write = for +=", right: "dX += dQ @ W_q;  dX += dK @ W_k;  dX += dV @ W_v",
    wrong: "dX = dQ @ W_q;  dX = dK @ W_k;  dX = dV @ W_v",
    text: "X is used three times, and each use overwrites what the one before it sent back. Only dV’s part is left. " +
      "(What the other heads send is added as it should be.)",
    caught: "Gradcheck of X, or of the embeddings that X comes from. The gradients of W_q, W_k, W_v and W_o stay " +
      "right, so a gradcheck of these alone sees nothing.",
  }, {
    key: "transpose", label: "forget to transpose dS", right: "dK = c * dS.T @ Q", wrong: "dK = c * dS @ Q",
    text: "dS is square, as many queries as keys, so there is no shape error. Every key gets the gradient of a " +
      "query’s row.",
    caught: "Gradcheck of K, and torch. A test with unequal numbers of queries and keys fails at once, with a shape " +
      "error.",
  },
];
const TOLERANCE = 1e-10; // of the matrix's largest entry; right arithmetic stays below 1e-14
const COMPARED = ["Q", "K", "V", "S", "P", "O", "Y", "dO", "dP", "dV", "dS", "dQ", "dK", "dX", "dR",
  "dW_q", "db_q", "dW_k", "db_k", "dW_v", "db_v", "dW_o", "db_o"];

/** Each matrix against the file: its numbers, which of them are wrong, and the largest error. */
function comparedWithFile(found) {
  return COMPARED.filter(name => quantities.get(name)?.numbers).map(name => {
    const right = quantities.get(name).numbers, numbers = found[name].of;
    const own = largestOf(right), largest = quantities.get(name).isRounding(own) ? quantities.get(name).size || 1 : own;
    const errors = numbers.map((x, n) => x === right[n] ? 0 : Math.abs(x - right[n]) / largest);
    const wrong = Array.from(errors, error => !(error <= TOLERANCE));
    const many = wrong.filter(Boolean).length, error = errors.reduce((most, one) => Math.max(most, one), 0);
    return { name, numbers, wrong, many, error };
  });
}

/** Once, unbroken: whether the page's arithmetic can be trusted to show what a mistake does. */
function showOwn(given) {
  const line = byId("own");
  if (!given) {
    line.textContent = "This page cannot calculate by itself: some of what attention starts from is not on it.";
    byId("breaks").disabled = true;
    return;
  }
  const all = comparedWithFile(arithmetic(given, new Set())), largest = Math.max(...all.map(({ error }) => error));
  const many = all.reduce((sum, { numbers }) => sum + numbers.length, 0), agrees = largest <= TOLERANCE;
  line.dataset.largest = largest;
  line.classList.toggle("wrong", !agrees);
  const verdict = agrees ? "agrees with" : "DISAGREES with", by = agrees ? " to" : ": it is off by";
  line.textContent = `This page’s own arithmetic ${verdict} the file’s ${count(many)} numbers of this head${by} ` +
    `${rounded(largest, 1)} of each matrix’s largest entry.`;
}

function putSwitches(change) {
  for (const { key, label } of BREAKS) {
    const line = put(byId("breaks"), "label");
    const input = put(line, "input", { type: "checkbox", name: "break", value: key });
    line.append(` ${label}`);
    input.onchange = () => {
      const checked = document.querySelectorAll("[name=break]:checked");
      change(new Set(Array.from(checked, one => one.value)));
    };
  }
}

// ---- what goes wrong -----------------------------------------------------------------------------------------------

function showBroken(given, broken) {
  for (const input of document.querySelectorAll("[name=break]")) input.checked = broken.has(input.value);
  const shown = new Map(overriding);
  overriding.clear();
  const box = byId("damage"), line = byId("broken");
  box.replaceChildren();
  box.hidden = line.hidden = !given || !broken.size;
  if (!box.hidden) {
    const found = arithmetic(given, broken), compared = comparedWithFile(found);
    const wrong = compared.filter(({ many }) => many), looksAhead = broken.has("mask");
    for (const one of wrong) overriding.set(one.name, { ...one, looksAhead });
    line.textContent = `${wrong.length} of this head’s ${compared.length} matrices go wrong; crosses mark the wrong ` +
      "numbers. The others, Z, p, l and dY, are held as they are without the mistake. ";
    put(line, "a", { href: "#damage" }, "What each check says");
    line.lastChild.onclick = event => {
      event.preventDefault(); // the address keeps the state of the page
      box.scrollIntoView();
      box.querySelector("h2").focus();
    };
    putDamage(box, given, broken, found, compared);
  }
  for (const [name, view] of views) if (overriding.has(name) || shown.has(name)) view.paint(true);
}

function putDamage(box, given, broken, found, compared) {
  put(box, "h2", { tabindex: -1 }, "What is broken, and who notices");
  for (const { label, right, wrong, text, caught } of BREAKS.filter(({ key }) => broken.has(key))) {
    put(box, "h3", {}, label[0].toUpperCase() + label.slice(1));
    const code = put(box, "pre", { tabindex: 0, "aria-label": "the line, wrong and right" });
    put(code, "span", { class: "wrong" }, `wrong  ${wrong}\n`);
    code.append(`right  ${right}`);
    put(box, "p", {}, text);
    const line = put(box, "p");
    put(line, "b", {}, "Caught by: ");
    line.append(caught);
  }
  putCounts(box, given, broken, found, compared);
  putOtherChecks(box, given, broken, found);
}

function putCounts(box, given, broken, found, compared) {
  const table = put(put(box, "div", { class: "wide" }), "table", { class: "damage" });
  put(table, "caption", {}, "Each matrix: compared with the file, as with torch; and gradcheck of this same code");
  const head = put(put(table, "thead"), "tr"), body = put(table, "tbody");
  const titles = ["matrix", "wrong entries", "largest error", "compared", "gradcheck"];
  for (const title of titles) put(head, "th", { scope: "col" }, title);
  for (const { name, many, error, numbers } of compared) {
    const row = put(body, "tr", { "data-broken": name, "data-wrong": many });
    putSymbol(putMath(put(row, "th", { scope: "row" })), name);
    put(row, "td", { class: "number" }, many ? `${many} of ${numbers.length}` : "none");
    const size = Number.isFinite(error) ? `${rounded(error, 3)} of the largest` : "not −∞ above the mask";
    put(row, "td", { class: "number" }, many ? size : "–");
    putVerdict(row, !many, "right", "WRONG");
    if (!name.startsWith("d")) put(row, "td", { class: "quiet" }, "a forward value");
    else if (name === "dR") put(row, "td", { class: "quiet" }, "not checked: it is X’s, through the layer norm");
    else {
      row.dataset.agrees = gradcheck(given, found, broken, name.slice(1)).agrees;
      putVerdict(row, row.dataset.agrees === "true", "agrees", "OBJECTS");
    }
  }
}

function putVerdict(row, isGood, good, bad) {
  return put(row, "td", { class: isGood ? "" : "wrong" }, isGood ? good : bad);
}

function putOtherChecks(box, given, broken, found) {
  const T = given.X.rows, moved = leak(given, broken);
  put(box, "h3", {}, "Two checks without a gradient to compare with");
  const causality = put(box, "p");
  causality.append("Causality: when the last position reads something else, earlier outputs change by up to " +
    `${rounded(moved, 3)}: `);
  put(causality, "b", { id: "causality", class: moved ? "wrong" : "" }, moved ? "BROKEN, they look ahead" : "holds");
  const sums = rowSums(found.dS), largest = largestOf(sums), isZero = largest <= TOLERANCE * largestOf(found.dS.of);
  const line = put(box, "p");
  line.append(`Row sums: the largest sum of a row of dS is ${rounded(largest, 3)}: `);
  put(line, "b", { id: "sums", class: isZero ? "" : "wrong" }, isZero ? "0 but for rounding, as it must be" : "NOT 0");
  const table = put(put(box, "div", { class: "wide" }), "table", { class: "sums" });
  put(table, "caption", {}, "The sum of each row of dS");
  const head = put(table, "tr"), row = put(table, "tr");
  put(head, "th", { scope: "row" }, "row");
  put(row, "th", { scope: "row" }, "sum");
  for (let i = 0; i < T; i++) {
    put(head, "th", { scope: "col" }, `${i} ${labelOf("i", i)}`);
    put(row, "td", { class: isZero || sums[i] === 0 ? "" : "wrong" }, rounded(sums[i], 2));
  }
}
