// Matrices of one shape side by side on one colour scale, on which equal colours are equal numbers.

const MOST_HIGH_SIDE = 200; // pixels of each of these matrices, as long as its cells are not too low
/** @type {Map<Element, MatrixView[]>} */
const sideBySide = new Map(); // by the box that they stand in, the views that it shows

/**
 * Shows matrices side by side in a box, in place of what it showed before. Each cell opens its entry.
 * @param {Element} box
 * @param {string} title
 * @param {{label: string, quantity: Quantity, numbers: Float64Array, isUnmasked?: boolean}[]} views  `isUnmasked`
 *   shows the numbers above the diagonal, which are hatched otherwise
 * @param {number} scaleMax  the magnitude at both ends of the colour scale
 * @returns {Element} the line of the title, to which buttons can be added
 */
function showSideBySide(box, title, views, scaleMax) {
  clearSideBySide(box);
  const head = put(box, "div", { class: "head" });
  put(head, "h3", {}, title);
  const scale = put(head, "p", { class: "scale" });
  put(scale, "canvas", { class: "ramp", "data-ramp": "signed" });
  put(scale, "span", { "data-scale": scaleMax }, `all on one scale, ±\u00a0${formatRounded(scaleMax, 3)}`);
  const row = put(box, "div", { class: "side-by-side" });
  const shown = views.map(({ quantity, label, numbers, isUnmasked = false }) => new MatrixView(row, quantity,
    { open: openEntry, maxHeight: MOST_HIGH_SIDE, side: { label, numbers, scaleMax, isUnmasked } }));
  for (const view of shown) view.twins = shown;
  sideBySide.set(box, shown);
  layoutSideBySide();
  return head;
}

/** @param {Element} box  It shows no matrices from now on. */
function clearSideBySide(box) {
  hideTip(); // which may be of one of them
  box.replaceChildren();
  sideBySide.delete(box);
}

/** Computes the sizes of all matrices that stand side by side, and paints them in the colours of the theme. */
function layoutSideBySide() {
  for (const [box, shown] of sideBySide) {
    const widths = shown.map(view => view.grid.clientWidth);
    const height = Math.floor(Math.max(4, theme.zoom * Math.min(MAX_CELL, MOST_HIGH_SIDE / shown[0].quantity.rows)));
    shown.forEach((view, n) => view.layout(height, widths[n]));
    paintRamp(/** @type {HTMLCanvasElement} */ (box.querySelector(".ramp")), "signed");
  }
}

/** Frames the open entry. @param {?Entry} entry */
function selectSideBySide(entry) {
  for (const view of [...sideBySide.values()].flat()) {
    view.selected = entry?.name === view.quantity.name ? view.cellOf(entry.index) : null;
    if (view.selected) {
      view.active = view.selected;
      view.scrollTo(view.selected);
    }
    view.paint();
  }
}
