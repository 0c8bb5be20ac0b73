// The tour: the backward pass in its order, at each stop one sentence, what is known and what is computed, and one entry
// worked out in numbers; at the end, questions.

/**
 * @typedef {{title: string, text: string, known: string[], computed: string[], forward: string[], isQuestions?: boolean
 * }} Stop  known, computed: the matrices marked so; forward: those whose formula is shown first
 */
/** @type {Stop[]} */
const STOPS = [
  {
    title: "Start at the loss", known: ["p", "next", "q"], computed: ["dZ"], forward: ["p", "l", ...data.ofLoss],
    text: data.aboutLoss,
  }, {
    title: "Back to Y", known: ["dZ"], computed: ["dN_f", "dR_f", "dY"], forward: ["Z"],
    text: "The gradient goes back through the weights of lm_head and the last layer norm into the stream, which passes " +
      "it on unchanged while each later sublayer adds the gradient from its input.",
  }, {
    title: "Through the output weights", known: ["dY", "O"], computed: ["dO", "dW_o"], forward: ["Y"],
    text: "A matrix product has two gradients: for its input, the output gradient times the weights; for the weights, " +
      "the output gradient times the input, summed over all positions.",
  }, {
    title: "To the values", known: ["dO", "P"], computed: ["dV"], forward: ["O"],
    text: "Forward, O sums over the values j that i attends to; backward, dV sums over the positions i that attend to j, " +
      "with the same weights.",
  }, {
    title: "To the attention weights", known: ["dO", "V"], computed: ["dP"], forward: ["O"],
    text: "A little more weight on j moves the output towards the value at j, so its gradient is the dot product of dO " +
      "and that value.",
  }, {
    title: "Through softmax", known: ["dP", "P"], computed: ["dS"], forward: ["P"],
    text: "The weights of a row sum to 1: weight on j is taken from the others. So dS compares dP at j with the mean of " +
      "its row, weighted by P.",
  }, {
    title: "To the queries", known: ["dS", "K"], computed: ["dQ"], forward: ["S"],
    text: "A score is c times the dot product of a query and a key, so a query’s gradient is the sum of the keys that it " +
      "sees, each weighted by its dS and the same c.",
  }, {
    title: "To the keys", known: ["dS", "Q"], computed: ["dK"], forward: ["S"],
    text: "The same for the other factor: the sum now runs down a column of dS, over the queries that see this key.",
  }, {
    title: "All uses of X", known: ["dQ", "dK", "dV"], computed: ["dX"], forward: ["Q", "K", "V"],
    text: "Each head uses X three times, and the gradient of a value is the sum over its uses: hence += in autograd, and " +
      "never =.",
  }, {
    title: "The weights of Q, K and V", known: ["dQ", "dK", "dV", "X"], forward: ["Q", "K", "V"],
    computed: ["dW_q", "dW_k", "dW_v", "db_q", "db_k", "db_v"],
    text: "All positions share one matrix, so its gradient is a sum over positions; that of K’s bias is 0, because a " +
      "number added to all scores of a row changes nothing.",
  }, {
    title: "On to the stream", known: ["dX"], computed: ["dR"], forward: ["X"],
    text: "Layer norm undoes every shift and every scaling of a row, so the gradient’s mean and its part along n are " +
      "removed; the rest joins dY, which bypassed this attention.",
  }, {
    title: "Now you", known: ["P", "dP"], computed: ["dS"], forward: [], isQuestions: true,
    text: "Three questions about this head; the page knows the answers. dS is covered until the first is answered.",
  },
].filter(({ known, computed }) => isOnPage(known[0]) && isOnPage(computed[0]));

/** @param {number} number  from 1; 0 ends the tour  @param {Navigate} navigate */
function showStop(number, navigate) {
  const box = byId("tour"), stop = STOPS[number - 1];
  box.hidden = !stop;
  byId("toggle-tour").setAttribute("aria-expanded", String(Boolean(stop)));
  byId("toggle-tour").textContent = stop ? "End the tour" : "Tour";
  document.body.classList.toggle("touring", Boolean(stop));
  for (const view of views.values()) markView(view, stop);
  coverAnswer(Boolean(stop?.isQuestions));
  drawArrows();
  if (!stop) return;
  box.dataset.stop = number;
  box.replaceChildren();
  const head = put(box, "div", { class: "head" });
  put(head, "h3", {}, `${number}. ${stop.title}`);
  putButtons(head, number, navigate);
  put(box, "p", {}, stop.text);
  if (stop.isQuestions) return putQuestions(put(box, "div", { class: "questions" }));
  const columns = put(box, "div", { class: "formulas" });
  putFormulas(columns, "forward", stop.forward);
  putFormulas(columns, "backward", stop.computed);
  putWorkedEntry(columns, stop.computed.at(-1).startsWith("db") ? stop.computed[0] : stop.computed.at(-1));
}

/** dS, which shows the sign that is asked for. @param {boolean} isCovered */
function coverAnswer(isCovered) {
  const view = views.get("dS");
  if (view) view.grid.style.visibility = isCovered ? "hidden" : "";
}

/**
 * Shows the matrix that a stop computes, with the card at the top of the screen: at every stop its buttons are in the
 * same place. On a narrow screen the matrices of the stop follow the card.
 */
function scrollToStop() {
  if (!state.tour) return;
  document.body.style.setProperty("--card", `${byId("tour").offsetHeight}px`);
  if (!narrow.matches) views.get(STOPS[state.tour - 1]?.computed[0])?.figure.scrollIntoView({ block: "nearest" });
  window.scrollBy(0, byId("tour").getBoundingClientRect().top - parseFloat(getComputedStyle(byId("tour")).top));
}

/** @param {Element} parent  @param {number} number  @param {Navigate} navigate */
function putButtons(parent, number, navigate) {
  const row = put(parent, "span", { class: "buttons" });
  /** @type {(text: string, label: string, to: number) => void} */
  const putButton = (text, label, to) => {
    const button = put(row, "button", { type: "button", "aria-label": label }, text);
    button.disabled = to < 1 || to > STOPS.length;
    button.onclick = () => {
      navigate({ tour: to });
      byId("tour").querySelector(`[aria-label="${label}"]`)?.focus({ preventScroll: true });
    };
  };
  putButton("←", "previous stop", number - 1);
  put(row, "span", { class: "quiet" }, `${number} of ${STOPS.length}`);
  putButton("→", "next stop", number + 1);
}

/** @param {Element} parent  @param {string} title  @param {string[]} names */
function putFormulas(parent, title, names) {
  const box = put(parent, "div");
  put(box, "span", { class: "quiet" }, title);
  for (const quantity of names.map(name => quantities.get(name)).filter(one => one?.formula))
    putFormula(put(box, "div"), quantity, quantity.formula);
}

/** The largest entry of a matrix, with its formula in numbers. @param {Element} parent  @param {string} name */
function putWorkedEntry(parent, name) {
  const quantity = quantities.get(name);
  if (!quantity?.numbers) return;
  const box = put(parent, "div", { class: "worked" }), entry = { name, index: indexOfLargest(quantity) };
  put(box, "span", { class: "quiet" }, "the largest entry ");
  putLink(box, entry, linkTo);
  const account = accountOf(entry), where = describePosition(quantity, entry.index).replace("This entry: ", "");
  if (where.includes("“")) put(box, "span", { class: "quiet" }, `: ${where}`); // characters, not only channels
  if (account.isMissing) return;
  putNamedLine(put(box, "div"), { name, indices: entry.index }, account);
  putNumericLine(put(box, "div"), { name, indices: entry.index }, account);
}

const MOST_FACTORS = 4; // named in one line

/**
 * The same sum as that of the numbers, with the names of its factors: of as many products as fit, and at least one.
 * @type {(line: Element, entry: LeftSide, account: Account) => void}
 */
function putNamedLine(line, entry, { parts }) {
  const math = putMath(line), sum = (putLeftSide(math, entry), put(math, "span"));
  const most = Math.min(parts.length > 4 ? 3 : 4, Math.max(1, Math.floor(MOST_FACTORS / parts[0].factors.length)));
  parts.slice(0, most).forEach(({ sign, factors }, n) => {
    if (n || sign < 0) putSign(sum, sign < 0 ? "−" : "+");
    factors.forEach(({ name, index }, k) => {
      if (k) sum.append(`${THIN}·${THIN}`);
      if (isConstant(name)) putInlineConstant(sum, name);
      else putSymbol(sum, name, index);
    });
  });
  if (parts.length <= most) return;
  putSign(sum, "+");
  sum.append("…");
}

/** @param {Quantity} quantity */
function indexOfLargest(quantity) {
  const place = quantity.numbers.findIndex(x => Math.abs(x) === quantity.largest);
  return quantity.indexOf(Math.floor(place / quantity.cols), place % quantity.cols);
}

// ---- questions -----------------------------------------------------------------------------------------------------

/** @param {Element} box */
function putQuestions(box) {
  const dS = quantities.get("dS"), P = quantities.get("P"), dP = quantities.get("dP"), [i, j] = indexOfLargest(dS);
  const value = dS.at([i, j]), mean = sumOf(Array.from({ length: i + 1 }, (_, k) => P.at([i, k]) * dP.at([i, k])));
  const show = (/** @type {number} */ x) => formatRounded(x, 3), at = `[${i},${j}]`;
  putQuestion(box, `dP${at} is ${show(dP.at([i, j]))}, and the weighted mean of its row is ${show(mean)}. ` +
    `What sign does dS${at} have?`,
    ["positive", "0", "negative"], value > 0 ? 0 : value < 0 ? 2 : 1,
    `dS${at} = P (dP − mean) = ${show(P.at([i, j]))} · ${show(dP.at([i, j]) - mean)} = ${show(value)}.`,
    () => coverAnswer(false));
  putQuestion(box, `What is the sum of row ${i} of dS?`, ["1", "0", "the loss"], 1,
    "0: adding the same number to all scores of a row changes no weight, so it cannot change the loss.");
  putQuestion(box, `A training step goes against the gradient. What does it do to S${at}?`,
    ["raise it", "lower it", "leave it"], value > 0 ? 1 : value < 0 ? 0 : 2,
    `dS${at} is ${value > 0 ? "positive: less" : "negative: more"} attention to position ${j} lowers the loss.`);
}

/**
 * @type {(box: Element, question: string, answers: string[], right: number, why: string, answered?: () => any) =>
 *   Element}
 */
function putQuestion(box, question, answers, right, why, answered = () => {}) {
  const group = put(box, "div", { role: "group", "aria-label": question }), line = put(group, "p", {}, question);
  const buttons = answers.map(text => put(group, "button", { type: "button" }, text));
  const verdict = put(group, "p", { class: "quiet", role: "status" });
  buttons.forEach((button, n) => {
    button.onclick = () => {
      for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
      verdict.textContent = `${n === right ? "Yes." : "No."} ${why}`;
      verdict.dataset.isRight = String(n === right);
      answered();
    };
  });
  return line;
}

/**
 * Shows the role of a matrix at a stop as a badge; the style sheet dims matrices without a role.
 * @param {MatrixView} view  @param {Stop} stop
 */
function markView(view, stop) {
  const { name } = view.quantity;
  const role = stop?.computed.includes(name) ? "computed" : stop?.known.includes(name) ? "known" : "";
  view.figure.dataset.role = role;
  view.badge.textContent = role;
}
