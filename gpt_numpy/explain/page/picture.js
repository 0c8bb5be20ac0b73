// The picture: the matrices of the head in one band, each with its gradient under it, with arrows between them; what
// stands before and after the head; the weights; and all other quantities by sublayer, drawn when they are opened.

/** @type {Object<string, number[]>} */
const PLACES = { // column, row and row span of each matrix, whose gradient stands in the same place, under it
  Q: [1, 1], K: [1, 2], S: [2, 1, 2], P: [3, 1, 2], O: [4, 1], V: [4, 2], Z: [5, 1], p: [5, 2],
};
const LARGE = ["S", "P", "dS", "dP"]; // what the page is about
const AROUND = ["R", "X", "Y", "N_f"]; // before and after the head
const ARROWS = [ // those with a star skip matrices, and are dashed
  "Q S", "K S", "S P", "P O", "V O", "O Z *", "Z p",
  "dZ dO *", "dO dP", "dO dV", "dP dS", "dS dQ", "dS dK",
];
/** @type {Object<string, string>} */
const NAMES = { // in a word or two, beside the letter
  Q: "queries", K: "keys", V: "values", S: "scores", P: "weights", O: "output", Z: "logits", p: "probabilities",
  l: "loss of each position", L: "loss", next: "next token", q: "the teacher's prediction", R: "residual stream",
  X: "input", Y: "added to the stream", N_f: "input of lm_head",
};
/** @type {Object<string, string>} */
const MEANINGS = { // in a few words, under the title; the full meaning is in the tip of the title
  Q: "what i looks for", K: "what j offers", V: "what j passes on", S: "how well key j matches query i",
  P: "share of value j in output i", O: "mean of the values", Z: "a score per token", p: "softmax of the logits",
  R: "embeddings plus earlier outputs", X: "the stream, normalised", Y: "output of all heads",
  N_f: "the last stream, normalised",
};
const WEIGHTS = ["q", "k", "v", "o"].flatMap(name => [`W_${name}`, `b_${name}`]);
const SUBLAYER = /_(attn|mlp)(\d+)$/;

/** @param {Open} open */
function drawPicture(open) {
  views.clear();
  for (const id of ["around", "loss", "weights", "chips"]) byId(id).replaceChildren();
  for (const cell of findAll(".cell")) cell.remove();
  const flow = byId("flow"), addView = (/** @type {Element} */ parent, /** @type {string} */ name) => {
    const maxHeight = LARGE.includes(name) ? 400 : 96; // pixels, from which on a matrix scrolls
    if (quantities.has(name)) views.set(name, new MatrixView(parent, quantities.get(name), { open, maxHeight }));
  };
  for (const [name, [column, row, span = 1]] of Object.entries(PLACES)) {
    const cell = put(flow, "div", { class: "cell", style: `grid-column: ${column}; grid-row: ${row} / span ${span}` });
    addView(cell, name);
    const target = quantities.has("q") ? "q" : "next";
    for (const under of name === "p" ? [target, "l", "L"] : [`d${name}`]) addView(cell, under);
  }
  putChips();
  for (const name of AROUND.flatMap(name => [name, `d${name}`])) addView(byId("around"), name);
  for (const one of data.ofLoss) if (one !== "L") addView(byId("loss"), one);
  byId("loss").hidden = byId("about-loss").hidden = data.ofLoss.length < 2;
  const weights = WEIGHTS.flatMap(name => [name, `d${name}`]).filter(name => quantities.has(name));
  for (const name of weights) addView(byId("weights"), name);
  for (const id of ["around", "weights"]) byId(id).closest(".part").hidden = !byId(id).childElementCount;
  byId("weights").style.gridTemplateRows = `repeat(${weights.length / 4}, auto)`; // fewer without biases
  putSublayers(open);
  layoutAll();
}

// ---- on a narrow screen: one pair at a time ------------------------------------------------------------------------

const narrow = matchMedia("(max-width: 55.99rem)");

/** The first matrix of each place, those of the page. @type {() => string[]} */
const placesOf = () => Array.from(findAll(".cell figure:first-child"), one => one.dataset.figure);

/** A map of the head: each chip shows a matrix with its gradient. The other parts of the page are closed. */
function putChips() {
  for (const name of placesOf()) {
    const chip = put(byId("chips"), "button", { type: "button", "data-chip": name });
    putSymbol(putMath(chip), name);
    chip.onclick = () => choosePair(name);
  }
  for (const part of findAll(".part:not([data-ready])")) {
    part.open = !narrow.matches;
    part.ontoggle = () => layoutAll();
    part.dataset.ready = "";
  }
  choosePair("S", false);
}

/** `name`: of a matrix or a gradient of the picture; others leave the choice as it is. @param {string} name */
function choosePair(name, isLaidOut = true) {
  const cell = views.get(name)?.figure.closest(".cell");
  if (!cell) return;
  for (const one of findAll(".cell")) one.classList.toggle("chosen", one === cell);
  const pair = placesOf().find(place => views.get(place)?.figure.closest(".cell") === cell);
  for (const chip of findAll("[data-chip]"))
    chip.setAttribute("aria-pressed", String(chip.dataset.chip === pair));
  if (isLaidOut && narrow.matches) layoutAll();
}

// ---- all other quantities, by sublayer -----------------------------------------------------------------------------

/** @param {Open} open */
function putSublayers(open) {
  const opened = Array.from(findAll("#sublayers details[open] h3"), one => one.textContent);
  byId("sublayers").replaceChildren();
  byId("sublayers").parentElement.hidden = !groupQuantities().size;
  for (const [title, names] of groupQuantities()) {
    const details = put(byId("sublayers"), "details");
    put(put(details, "summary"), "h3", {}, title);
    put(details, "p", { class: "quiet" }, names.join(", "));
    const strip = put(details, "div", { class: "strip" });
    details.ontoggle = () => { // drawn only when opened, since some of these are large
      if (!details.open) return;
      for (const name of names.filter(name => !views.has(name))) {
        views.set(name, new MatrixView(strip, quantities.get(name), { open, maxHeight: 260 }));
        views.get(name).layout();
        markView(views.get(name), STOPS[state.tour - 1]);
      }
      updateSelection();
    };
    details.open = opened.includes(title);
  }
}

/** The names under each title. @returns {Map<string, string[]>} */
function groupQuantities() {
  const groups = new Map();
  /** @type {(title: string, name: string) => any} */
  const add = (title, name) => groups.set(title, [...groups.get(title) ?? [], name]);
  const rest = [...quantities.keys()].filter(name => !views.has(name));
  /** @type {(group: string, title: string) => void} */
  const addGroup = (group, title) => rest.filter(name => groupOf(name) === group).forEach(name => add(title, name));
  addGroup("before", "Before X: the stream and its layer norm");
  addGroup("heads", "The other heads");
  const inSublayers = rest.filter(name => SUBLAYER.test(groupOf(name)));
  for (const name of inSublayers.sort((one, other) => depthOf(one) - depthOf(other))) {
    const [, kind, layer] = SUBLAYER.exec(name);
    add(`${kind === "mlp" ? "The MLP" : "Attention"} of layer ${layer}`, name);
  }
  addGroup("end", "The end of the stream, and the loss");
  return groups;
}

/** @param {string} name */
function groupOf(name) {
  if (name.endsWith("_others")) return "heads";
  if (SUBLAYER.test(name) && depthOf(name) > 2 * scene.layer) return name;
  return /_f$|^W_lm$/.test(name) ? "end" : "before";
}

/** @param {string} name */
function depthOf(name) {
  const [, kind, layer] = SUBLAYER.exec(name);
  return 2 * Number(layer) + (kind === "mlp" ? 1 : 0);
}

// ---- layout and arrows ---------------------------------------------------------------------------------------------

const MOST_HIGH = 240; // pixels of a large matrix
let widthOfFlow = 0; // for which the matrices are laid out

/** S and P get what room there is; the other matrices of the picture are low, so that all of it is on one screen. */
function layoutAll() {
  for (const scroller of findAll(".formula, .box")) scroller.scrollLeft = 0; // of the layout before
  widthOfFlow = byId("flow").getBoundingClientRect().width;
  // All widths are read first: each reading after a change makes the browser lay out the page again.
  const widths = new Map(Array.from(views.values(), view => [view, view.grid.clientWidth]));
  const positions = scene.reads.length, { zoom } = theme; // of a matrix that is not shown there is no width
  const room = Math.max(...LARGE.map(name => widths.get(views.get(name)))) - ROW_LABEL * zoom;
  const highest = Math.min(MAX_LARGE_CELL * zoom, room / positions, MOST_HIGH * zoom / positions);
  const large = Math.floor(Math.max(4, highest));
  const low = Math.floor(Math.max(4, Math.min(MAX_CELL, 60 / positions) * zoom));
  for (const view of views.values()) {
    const isInFlow = view.figure.closest("#flow") && view.quantity.rows > 1;
    const height = LARGE.includes(view.quantity.name) ? large : low;
    view.layout(isInFlow ? height : undefined, widths.get(view));
    if (view.selected && view.box) view.scrollTo(view.selected);
  }
  for (const canvas of findAll(".ramp")) paintRamp(canvas, canvas.dataset.ramp);
  layoutSideBySide();
  drawArrows();
}

function drawArrows() {
  const flow = byId("flow"), svg = flow.querySelector("svg"), origin = flow.getBoundingClientRect();
  for (const path of svg.querySelectorAll(":scope > path")) path.remove();
  const boxOf = (/** @type {string} */ name) => {
    const { grid, box = grid } = views.get(name), { right, top, bottom } = box.getBoundingClientRect();
    const left = grid.getBoundingClientRect().left - origin.left; // includes the row labels
    return { left, right: right - origin.left, top: top - origin.top, bottom: bottom - origin.top };
  };
  const arrows = ARROWS.map(arrow => arrow.split(" ")).filter(([from, to]) => views.has(from) && views.has(to));
  const paths = arrows.map(([from, to]) => arrowPath(boxOf(from), boxOf(to), origin.width));
  arrows.forEach(([,, mark], n) =>
    put(svg, "path", { d: paths[n], class: mark ? "dashed" : "", "marker-end": "url(#arrowhead)" }));
}

/** @typedef {{left: number, right: number, top: number, bottom: number}} Box */

/** A curve between columns, an arc within one. @param {Box} start  @param {Box} end  @param {number} width */
function arrowPath(start, end, width) {
  const middle = (/** @type {Box} */ { top, bottom }) => (top + bottom) / 2, y = middle(start), y2 = middle(end);
  if (Math.abs(start.left - end.left) < 30) { // in the same column
    const isLeft = start.left < width / 2;
    const x = isLeft ? Math.min(start.left, end.left) - 3 : Math.max(start.right, end.right) + 3;
    const outer = x + (isLeft ? -14 : 14);
    return `M${x} ${y}C${outer} ${y} ${outer} ${y2} ${x} ${y2}`;
  }
  const [x, x2] = start.left < end.left ? [start.right + 3, end.left - 4] : [start.left - 3, end.right + 4];
  return `M${x} ${y}C${(x + x2) / 2} ${y} ${(x + x2) / 2} ${y2} ${x2} ${y2}`;
}
