// The picture: the matrices of the head in columns from left to right, each gradient under what it is the gradient of,
// and the arrows between them; the weights; and, drawn when they are opened, all other quantities by sublayer.

const PLACES = { // column, row, and over how many of the three rows; gradients stand four rows below
  R: [1, 1], X: [1, 2], Q: [2, 1], K: [2, 2], V: [2, 3], S: [3, 1, 2], P: [4, 1, 2], O: [5, 1, 3], Y: [6, 1, 3],
  N_f: [7, 1], Z: [7, 2], p: [7, 3],
};
const ARROWS = [ // a star marks a way on which other matrices are passed
  "R X", "X Q", "X K", "X V", "Q S", "K S", "S P", "P O", "V O", "O Y", "Y N_f *", "N_f Z", "Z p",
  "dZ dN_f", "dN_f dY *", "dY dO", "dO dP", "dO dV", "dP dS", "dS dQ", "dS dK", "dQ dX", "dK dX", "dV dX", "dX dR",
];
const WEIGHTS = ["q", "k", "v", "o"].flatMap(name => [`W_${name}`, `b_${name}`]);
const SUBLAYER = /_(attn|mlp)(\d+)$/;

const columnsOf = name => quantities.get(name)?.cols ?? 0;

/** Both the head's matrices and its weights; `open` is called with the entry that is chosen. */
function drawPicture(open) {
  const flow = byId("flow"), add = (parent, name) => {
    if (quantities.has(name)) views.set(name, new MatrixView(parent, quantities.get(name), { open, tallest: 150 }));
  };
  flow.style.gridTemplateColumns = ["X", "Q", "S", "P", "O", "Y", "Z"]
    .map(name => `minmax(0, ${share(columnsOf(name)) * ("SP".includes(name) ? 1.3 : 1)}fr)`).join(" ");
  for (const [name, [column, row, span = 1]] of Object.entries(PLACES)) {
    const cell = below => put(flow, "div", { class: row === 3 ? "cell lowest" : "cell",
      style: `grid-column: ${column}; grid-row: ${row + 1 + below} / span ${span}` });
    add(cell(0), name);
    if (name === "p") add(flow.lastChild, "l"), add(flow.lastChild, "L"), add(cell(4), "next");
    else add(cell(4), `d${name}`);
  }
  const weights = WEIGHTS.flatMap(name => [name, `d${name}`]).filter(name => quantities.has(name));
  for (const name of weights) add(byId("weights"), name);
  byId("weights").style.gridTemplateRows = `repeat(${weights.length / 4}, auto)`; // fewer without biases
  drawRest(open);
  layoutAll();
}

/** Columns get room by their width, but the widest not all of it: they scroll. */
const share = columns => Math.sqrt(Math.min(40, Math.max(14, columns)));

// ---- the rest, by sublayer -----------------------------------------------------------------------------------------

function drawRest(open) {
  for (const [title, names] of groups()) {
    const details = put(byId("rest"), "details");
    put(put(details, "summary"), "h3", {}, title);
    put(details, "p", { class: "quiet" }, names.join(", "));
    const inside = put(details, "div", { class: "strip" });
    details.ontoggle = () => { // drawn when first opened: some of these are large
      if (!details.open) return;
      for (const name of names.filter(name => !views.has(name))) {
        views.set(name, new MatrixView(inside, quantities.get(name), { open, tallest: 260 }));
        views.get(name).layout();
        markView(views.get(name), STEPS[state.step - 1]);
      }
      light();
    };
  }
}

function groups() {
  const found = new Map(), add = (title, name) => found.set(title, [...found.get(title) ?? [], name]);
  const rest = [...quantities.keys()].filter(name => !views.has(name));
  const addAll = (group, title) => rest.filter(name => groupOf(name) === group).forEach(name => add(title, name));
  addAll("before", "Before X: the stream and its layer norm");
  addAll("heads", "The other heads");
  const sublayers = rest.filter(name => SUBLAYER.test(groupOf(name))).sort((one, other) => depth(one) - depth(other));
  for (const name of sublayers) {
    const [, kind, layer] = SUBLAYER.exec(name);
    add(`${kind === "mlp" ? "The MLP" : "Attention"} of layer ${layer}`, name);
  }
  addAll("end", "The end of the stream, and the loss");
  return found;
}

function groupOf(name) {
  if (name.endsWith("_others")) return "heads";
  if (SUBLAYER.test(name) && depth(name) > 2 * data.layer) return name;
  return /_f$|^W_lm$|^L$/.test(name) ? "end" : "before";
}

function depth(name) {
  const [, kind, layer] = SUBLAYER.exec(name);
  return 2 * layer + (kind === "mlp" ? 1 : 0);
}

// ---- sizes and arrows ----------------------------------------------------------------------------------------------

/** Lays out again what is on the page; in the picture all rows are of one height, for they are the same positions. */
function layoutAll() {
  const scores = views.get("S"), positions = scores.quantity.cols;
  const wanted = Math.max((scores.grid.clientWidth - LABEL) / positions, Math.min(10, 150 / positions));
  const height = Math.floor(Math.max(4, Math.min(MOST, wanted)));
  for (const view of views.values()) {
    const isInFlow = view.figure.closest("#flow") && view.quantity.rows > 1;
    view.layout(isInFlow ? height : undefined);
  }
  for (const canvas of document.querySelectorAll(".ramp")) paintRamp(canvas, canvas.dataset.ramp);
  drawArrows();
}

function drawArrows() {
  const flow = byId("flow"), svg = flow.querySelector("svg"), origin = flow.getBoundingClientRect();
  svg.querySelectorAll(":scope > path").forEach(path => path.remove());
  const boxOf = name => {
    const { grid, box = grid } = views.get(name), { right, top, bottom } = box.getBoundingClientRect();
    const left = grid.getBoundingClientRect().left - origin.left; // the labels of the rows as well
    return { left, right: right - origin.left, top: top - origin.top, bottom: bottom - origin.top };
  };
  for (const arrow of ARROWS) {
    const [from, to, mark] = arrow.split(" ");
    if (!views.has(from) || !views.has(to)) continue;
    put(svg, "path", { d: curve(from, to, boxOf(from), boxOf(to), origin.width), class: mark ? "far" : "",
      "marker-end": "url(#tip-of-arrow)" });
  }
}

/** From one matrix to the next column, along the side to one in the same, or past two columns beneath them. */
function curve(from, to, start, end, width) {
  const middle = ({ top, bottom }) => (top + bottom) / 2, y = middle(start), z = middle(end);
  if (from === "V" && to === "O") {
    const x = (end.left + end.right) / 2;
    return `M${start.right + 3} ${y}H${x - 14}Q${x} ${y} ${x} ${y - 14}V${end.bottom + 24}`;
  }
  if (from === "dO" && to === "dV") {
    const x = (start.left + start.right) / 2;
    return `M${x} ${start.bottom + 24}V${z - 14}Q${x} ${z} ${x - 14} ${z}H${end.right + 4}`;
  }
  if (Math.abs(start.left - end.left) < 30) { // in one column: along its outer side
    const isLeft = start.left < width / 2;
    const x = isLeft ? Math.min(start.left, end.left) - 3 : Math.max(start.right, end.right) + 3;
    const out = x + (isLeft ? -14 : 14);
    return `M${x} ${y}C${out} ${y} ${out} ${z} ${x} ${z}`;
  }
  const [x, x2] = start.left < end.left ? [start.right + 3, end.left - 4] : [start.left - 3, end.right + 4];
  return `M${x} ${y}C${(x + x2) / 2} ${y} ${(x + x2) / 2} ${z} ${x2} ${z}`;
}
