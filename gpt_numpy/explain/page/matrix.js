// One matrix on the page: its name, size and formula, and a heatmap on a canvas. Each cell can be hovered, reached with
// the arrow keys, and opened. Beside others, in compare.js, it shows given numbers under a label instead.

const MIN_CELL = 3, MAX_CELL = 16, MAX_LARGE_CELL = 44; // pixels, as all sizes here; more with larger type
const NUMBER_WIDTH = 27, NUMBER_HEIGHT = 12; // of a cell with its number in it
const ROW_LABEL = 23; // an index and a character
const FEW = 4; // columns that are wide enough for numbers in them
const FONT = '"DejaVu Sans Mono", ui-monospace, Menlo, Consolas, monospace';

// ---- colours -------------------------------------------------------------------------------------------------------

/** @typedef {number[]} Color  red, green, blue */
/**
 * @typedef {{page: string, ink: string, quiet: string, hatch: string, mark: string, zoom: number, wrong: Color,
 *   negative: Color[], positive: Color[], probability: Color[]}} Theme
 */
const theme = /** @type {Theme} */ ({});

/** Reads the colours from the style sheet: they differ in light mode, dark mode and print. */
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const color = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  for (const name of /** @type {const} */ (["page", "ink", "quiet", "hatch", "mark"])) theme[name] = color(name);
  theme.zoom = parseFloat(style.fontSize) / 16;
  theme.wrong = parseColor(style.getPropertyValue("--wrong"));
  for (const name of /** @type {const} */ (["negative", "positive", "probability"]))
    theme[name] = makeShades(["zero", `${name}-mid`, `${name}-end`].map(stop => parseColor(color(stop))));
}

const SHADES = 255; // from the colour of zero to the end of the scale
/** @type {(stops: Color[]) => Color[]} */
const makeShades = stops => Array.from({ length: SHADES + 1 }, (_, n) => mixColors(stops, n / SHADES));

/** @type {(color: string) => Color} */
const parseColor = color => [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));

/**
 * Interpolates from the colour of zero (fraction 0) over the middle one to the end (fraction 1).
 * @type {(stops: Color[], fraction: number) => Color}
 */
function mixColors([zero, middle, end], fraction) {
  const [from, to, part] = fraction < .5 ? [zero, middle, 2 * fraction] : [middle, end, 2 * fraction - 1];
  return from.map((channel, n) => Math.round(channel + (to[n] - channel) * part));
}

/**
 * Probabilities have a linear scale; signed numbers a square root, so that small gradients stay visible.
 * @type {(value: number, largest: number, isProbability: boolean) => Color}
 */
function colorOf(value, largest, isProbability) {
  if (Number.isNaN(value)) return theme.wrong; // a colour that no number has
  const fraction = largest ? Math.min(1, Math.abs(value) / largest) : 0;
  if (isProbability) return theme.probability[Math.round(SHADES * fraction)];
  return (value < 0 ? theme.negative : theme.positive)[Math.round(SHADES * Math.sqrt(fraction))];
}

/**
 * One pixel for each number, to be enlarged when it is painted.
 * @param {ArrayLike<number>} numbers  @param {number} rows  @param {number} cols  @param {number} largest
 * @param {boolean} isProbability
 */
function bitmapOf(numbers, rows, cols, largest, isProbability) {
  const image = new ImageData(cols, rows), bitmap = document.createElement("canvas");
  for (let n = 0; n < numbers.length; n++) {
    const color = colorOf(numbers[n], largest, isProbability);
    for (let channel = 0; channel < 3; channel++) image.data[4 * n + channel] = color[channel];
    image.data[4 * n + 3] = 255;
  }
  bitmap.width = cols;
  bitmap.height = rows;
  bitmap.getContext("2d").putImageData(image, 0, 0);
  return bitmap;
}

/** @typedef {CanvasRenderingContext2D} Context */
/** @type {(context: Context, x: number, y: number, width: number, height: number) => void} */
function drawHatching(context, x, y, width, height) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = theme.hatch;
  context.lineWidth = 1;
  context.beginPath();
  for (let left = x - height; left < x + width; left += 4)
    context.moveTo(left, y + height), context.lineTo(left + height, y);
  context.stroke();
  context.restore();
}

/**
 * Sets the size of a canvas in CSS pixels, with the resolution of the screen, and returns its context.
 * @type {(canvas: HTMLCanvasElement, width: number, height: number) => Context}
 */
function resizeCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

// ---- a matrix ------------------------------------------------------------------------------------------------------

/** @type {Map<string, MatrixView>} */
const views = new Map(); // by the name of the quantity
/** @typedef {{numbers: Float64Array, wrong: boolean[], wrongCount: number, isUnmasked?: boolean}} Override */
/** @type {Map<string, Override>} */
const overrides = new Map(); // the numbers of the broken code, shown instead of the right ones

/** @typedef {[row: number, col: number]} Cell */
/** @typedef {(entry: Entry, by: "pointer"|"keyboard", view?: MatrixView) => void} Open */
/** @typedef {{label: string, numbers: Float64Array, scaleMax: number, isUnmasked: boolean}} Side  beside others */

class MatrixView {
  /** @type {Cell} */ active = [0, 0]; // where the keyboard is
  /** @type {Cell} */ hovered = null;
  /** @type {Cell} */ selected = null;
  /** @type {Rectangle[]} */ sources = []; // of the selected entry
  isFocused = false;

  /**
   * `maxHeight`: in pixels; a higher matrix scrolls.
   * @param {Element} parent  @param {Quantity} quantity
   * @param {{open: Open, maxHeight?: number, side?: Side}} options
   */
  constructor(parent, quantity, { open, maxHeight = Infinity, side = null }) {
    this.quantity = quantity, this.open = open, this.maxHeight = maxHeight, this.side = side, this.twins = [this];
    this.isProbability = !side && (quantity.kind === "share" || ["next", "q", "mask"].includes(quantity.name));
    const { name } = quantity;
    this.figure = put(parent, "figure", side ? { "data-side": side.label } : { "data-figure": name });
    if (side) put(put(this.figure, "figcaption"), "span", { class: "name" }, side.label);
    else this.putTitle();
    this.grid = put(this.figure, "div", { class: "grid" });
    if (!side && !quantity.numbers) {
      put(this.grid, "p", { class: "quiet", "data-matrix": name }, "Its numbers did not fit on this page.");
      return;
    }
    this.colLabels = put(this.grid, "canvas", { class: "col-labels" });
    this.rowLabels = put(this.grid, "canvas", { class: "row-labels" });
    this.box = put(this.grid, "div", {
      [side ? "data-compared" : "data-matrix"]: name, class: "box", tabindex: 0,
      role: "application", "aria-roledescription": "matrix",
      "aria-label": `${side ? `${side.label}: ` : ""}${name}, ${describeSize(quantity)}: ${quantity.meaning}. ` +
        "Arrow keys move, Enter opens a number.",
    });
    this.canvas = put(this.box, "canvas");
    if (!side) this.putScale();
    this.addListeners();
  }

  putTitle() {
    const { name, shape, formula } = this.quantity;
    const caption = put(this.figure, "figcaption"), title = put(caption, "b");
    putSymbol(putMath(title), name);
    title.onmouseenter = () => this.showMeaning(title);
    title.onmouseleave = () => hideTip();
    if (NAMES[name]) put(caption, "span", { class: "name" }, NAMES[name]);
    put(caption, "span", { class: "quiet" }, shape.length ? shape.join(" × ") : "a number");
    this.badge = put(caption, "span", { class: "badge" });
    if (MEANINGS[name]) put(this.figure, "p", { class: "meaning" }, MEANINGS[name]);
    else if (this.quantity.isGradient)
      putSymbol(putMath(put(this.figure, "p", { class: "meaning" }, "how L grows with ")), name.slice(1));
    if (formula) putFormula(put(this.figure, "p", { class: "formula" }), this.quantity, formula);
  }

  /** @param {Element} title */
  showMeaning(title) {
    const { left, top, width, height } = title.getBoundingClientRect(), { name, meaning } = this.quantity;
    showTip({ name, index: [] }, "", [[toSentence(meaning)]], { x: left + width / 2, y: top, height });
  }

  putScale() {
    this.scale = put(this.figure, "p", { class: "scale" });
    this.ramp = put(this.scale, "canvas");
    this.largest = put(this.scale, "span");
  }

  get numbers() { return (this.side ?? overrides.get(this.quantity.name))?.numbers ?? this.quantity.numbers; }
  /** Whether the masked entries are shown: only the code that forgets the mask computes them. */
  get isUnmasked() { return Boolean((this.side ?? overrides.get(this.quantity.name))?.isUnmasked); }
  /** @param {Cell} cell */
  indexOf([row, col]) { return this.quantity.indexOf(row, col); }
  /** @param {Cell} cell */
  entryOf(cell) { return { name: this.quantity.name, index: this.indexOf(cell) }; }
  /** @type {(index: number[]) => Cell} */
  cellOf(index) { return index.length === 2 ? [index[0], index[1]] : [0, index[0] ?? 0]; }
  /** @param {Cell} cell */
  isMaskedAt(cell) { return !this.isUnmasked && this.quantity.isMaskedAt(this.indexOf(cell)); }

  // ---- size and colours --------------------------------------------------------------------------------------------

  /**
   * Computes the size of the cells. Matrices side by side need equal row heights, so the caller may pass one.
   * @param {number} [height]
   */
  layout(height, available = this.grid.clientWidth) {
    if (!this.box) return;
    const { rows, cols, indices } = this.quantity;
    const [rowLetter, colLetter] = indices.length === 2 ? indices : ["", indices[0]];
    const hasRowLabels = Boolean(labelOf(rowLetter, 0)), ratio = window.devicePixelRatio || 1;
    const { zoom } = theme, wide = MAX_LARGE_CELL * zoom;
    const most = this.side || LARGE.includes(this.quantity.name) ? wide : MAX_CELL * zoom;
    /** @type {(width: number, most: number) => number} */
    const fitCell = (width, most) => Math.max(MIN_CELL, Math.min(most, Math.floor(width / cols * ratio) / ratio));
    this.height = height ?? Math.max(rows > 1 ? 4 : 10, fitCell(available - ROW_LABEL * zoom, most));
    this.left = hasRowLabels && this.height >= 8 ? ROW_LABEL * zoom : 0;
    this.width = fitCell(available - this.left - 1, cols <= FEW ? wide : most);
    this.top = labelOf(colLetter, 0) && this.width >= 7 ? 13 * zoom : 0;
    this.rowLabels.hidden = !this.left;
    this.colLabels.hidden = !this.top;
    this.box.style.maxHeight = this.left ? "" : `${this.maxHeight}px`;
    this.paint(true);
  }

  drawBitmap() {
    const { quantity, numbers, isProbability } = this, { rows, cols, largest: right } = quantity;
    const shown = largestMagnitude(numbers); // with a mistake on the scale of the right numbers, if these are not 0
    const largest = this.largestNumber =
      this.side?.scaleMax ?? (!quantity.isRoundingError(right) ? right : quantity.isRoundingError(shown) ? 0 : shown);
    this.largestShown = shown;
    return bitmapOf(numbers, rows, cols, largest, isProbability);
  }

  paint(isChanged = false) {
    if (!this.width) return;
    if (isChanged) {
      this.bitmap = this.drawBitmap();
      this.paintLabels();
      if (this.scale) this.paintScale();
    }
    const { width, height, quantity: { rows, cols } } = this;
    const context = resizeCanvas(this.canvas, cols * width, rows * height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.bitmap, 0, 0, cols * width, rows * height);
    if (Math.min(width, height) >= 7) this.paintGaps(context);
    if (this.quantity.hasMask) this.paintMask(context);
    if (this.hasNumbers) this.paintNumbers(context);
    this.paintErrors(context);
    this.paintFrames(context);
  }

  /** @param {Context} context */
  paintGaps(context) {
    const { width, height, quantity: { rows, cols } } = this;
    context.fillStyle = theme.page;
    for (let col = 1; col < cols; col++) context.fillRect(col * width - .5, 0, .5, rows * height);
    for (let row = 1; row < rows; row++) context.fillRect(0, row * height - .5, cols * width, .5);
  }

  /** Hatches the masked entries, unless they are shown. @param {Context} context */
  paintMask(context) {
    const { width, height, quantity: { rows, cols } } = this;
    if (this.isUnmasked) return;
    context.fillStyle = theme.page;
    for (let row = 0; row < rows - 1; row++) {
      const x = (row + 1) * width, size = (cols - row - 1) * width;
      context.fillRect(x, row * height, size, height);
      drawHatching(context, x, row * height, size, height);
    }
  }

  /** Each number in its cell, with two digits, in the ink that its colour leaves readable. @param {Context} context */
  paintNumbers(context) {
    const { width, height, numbers, quantity: { rows, cols } } = this;
    context.font = `${10 * theme.zoom}px ${FONT}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let row = 0; row < rows; row++) for (let col = 0; col < cols; col++) {
      const value = numbers[row * cols + col];
      if (this.isMaskedAt([row, col]) || !Number.isFinite(value)) continue;
      const [red, green, blue] = colorOf(value, this.largestNumber, this.isProbability);
      context.fillStyle = .3 * red + .59 * green + .11 * blue > 140 ? "#000" : "#fff";
      context.fillText(shortNumber(value), (col + .5) * width, (row + .5) * height, width - 2);
    }
  }

  /**
   * A cross on each wrong entry; a dot if the cell is too small, a cut corner if its number stands in it.
   * @param {Context} context
   */
  paintErrors(context) {
    const wrong = overrides.get(this.quantity.name)?.wrong, { width, height, quantity: { cols } } = this;
    if (!wrong || this.side) return; // side by side the colours show what is wrong
    const arm = Math.min(width, height) / 2 - 1.5;
    context.strokeStyle = context.fillStyle = theme.mark;
    context.lineWidth = 1;
    context.beginPath();
    wrong.forEach((isWrong, n) => {
      if (!isWrong) return;
      if (this.hasNumbers) { // a corner, which leaves the number readable
        const right = (n % cols + 1) * width, top = Math.floor(n / cols) * height;
        return context.moveTo(right - 8, top), context.lineTo(right, top + 8);
      }
      const x = (n % cols + .5) * width, y = (Math.floor(n / cols) + .5) * height;
      if (arm < 1.5) return context.fillRect(x - .6, y - .6, 1.2, 1.2);
      context.moveTo(x - arm, y - arm), context.lineTo(x + arm, y + arm);
      context.moveTo(x + arm, y - arm), context.lineTo(x - arm, y + arm);
    });
    context.stroke();
  }

  get hasNumbers() { return this.width >= NUMBER_WIDTH * theme.zoom && this.height >= NUMBER_HEIGHT * theme.zoom; }
  get hasFrames() { return Boolean(this.sources.length || this.selected || this.isFocused || this.hovered); }

  /**
   * Frames the sources of the selected entry; that entry, its row and its column; the cell with the keyboard focus.
   * @param {Context} context
   */
  paintFrames(context) {
    const { rows, cols } = this.quantity;
    for (const { rows: [top, bottom], cols: [left, right] } of this.sources)
      this.drawFrame(context, top, left, bottom, right, theme.ink, 1.5);
    if (this.selected) {
      const [row, col] = this.selected;
      this.drawFrame(context, row, 0, row, cols - 1, theme.quiet, 1);
      this.drawFrame(context, 0, col, rows - 1, col, theme.quiet, 1);
      this.drawFrame(context, row, col, row, col, theme.ink, 2.5);
    }
    if (this.isFocused) this.drawFrame(context, ...this.active, ...this.active, theme.ink, 2, [3, 2]);
    if (this.hovered) this.drawFrame(context, ...this.hovered, ...this.hovered, theme.ink, 1);
  }

  /**
   * A wider line in the colour of the page is drawn first, so that the frame stands out on every cell.
   * @type {(context: Context, top: number, left: number, bottom: number, right: number, color: string, line: number,
   *   dash?: number[]) => void}
   */
  drawFrame(context, top, left, bottom, right, color, line, dash = []) {
    const { width, height, quantity: { rows, cols } } = this;
    const x = Math.max(line / 2, left * width), y = Math.max(line / 2, top * height);
    const xEnd = Math.min((right + 1) * width, cols * width - line / 2);
    const yEnd = Math.min((bottom + 1) * height, rows * height - line / 2);
    for (const [style, size, dashes] of /** @type {[string, number, number[]][]} */ ([
      [theme.page, line + 1.5, []], [color, line, dash],
    ])) {
      context.strokeStyle = style;
      context.lineWidth = size;
      context.setLineDash(dashes);
      context.strokeRect(x, y, xEnd - x, yEnd - y);
    }
    context.setLineDash([]);
  }

  paintLabels() {
    const { rows, cols, indices } = this.quantity;
    const middle = (/** @type {number} */ n) => (n + .5) * this.height + .5;
    if (this.top) {
      const context = resizeCanvas(this.colLabels, cols * this.width, this.top);
      const y = 7 * theme.zoom;
      this.writeLabels(context, cols, n => [(n + .5) * this.width, y], n => labelOf(indices.at(-1), n), "center");
    }
    if (!this.left) return;
    const context = resizeCanvas(this.rowLabels, this.left, rows * this.height);
    this.writeLabels(context, rows, n => [12 * theme.zoom, middle(n)], n => n, "right");
    this.writeLabels(context, rows, n => [15 * theme.zoom, middle(n)], n => labelOf(indices[0], n), "left", theme.ink);
  }

  /**
   * @type {(context: Context, count: number, positionOf: (n: number) => [x: number, y: number],
   *   textOf: (n: number) => string|number, align: CanvasTextAlign, color?: string) => void}
   */
  writeLabels(context, count, positionOf, textOf, align, color = theme.quiet) {
    context.font = `${Math.min(11 * theme.zoom, Math.max(8, Math.min(this.height, this.width + 3) - 1.5))}px ${FONT}`;
    context.fillStyle = color;
    context.textAlign = align;
    context.textBaseline = "middle";
    for (let n = 0; n < count; n++) context.fillText(String(textOf(n)), ...positionOf(n));
  }

  paintScale() {
    paintRamp(this.ramp, this.isProbability ? "probability" : "signed", 36);
    const isMore = this.largestShown > this.largestNumber * (1 + 1e-9);
    const beyond = overrides.get(this.quantity.name)?.wrongCount ? "wrong" : "masked";
    this.largest.textContent = `${this.isProbability ? "0 to" : "±"}\u00a0${formatRounded(this.largestNumber, 3)}` +
      (isMore && this.largestNumber ? `, ${beyond} up to ${formatRounded(this.largestShown, 3)}` : "");
  }

  // ---- pointer and keyboard ----------------------------------------------------------------------------------------

  addListeners() {
    const { canvas, box } = this;
    canvas.onpointermove = event => this.hover(this.cellUnder(event));
    canvas.onpointerleave = () => this.hover(null);
    canvas.onclick = event => {
      const cell = this.cellUnder(event);
      if (!cell) return;
      this.active = cell;
      this.open(this.entryOf(cell), "pointer", this);
    };
    box.onfocus = () => this.focus(box.matches(":focus-visible"));
    box.onblur = () => { this.isFocused = false; hideTip(); this.paint(); };
    box.onkeydown = event => this.handleKey(event);
  }

  /** @param {MouseEvent} event  @returns {Cell} */
  cellUnder({ offsetX, offsetY }) {
    const { rows, cols } = this.quantity;
    const /** @type {Cell} */ cell = [Math.floor(offsetY / this.height), Math.floor(offsetX / this.width)];
    const isInside = cell[0] >= 0 && cell[0] < rows && cell[1] >= 0 && cell[1] < cols;
    return isInside && !this.isMaskedAt(cell) ? cell : null;
  }

  /** @param {Cell} cell  or null */
  hover(cell) {
    if (String(cell) === String(this.hovered)) return;
    for (const twin of this.twins) { // matrices side by side frame the same cell
      twin.hovered = cell;
      twin.paint();
    }
    if (cell) this.showTip(cell); else hideTip();
  }

  /** @param {boolean} isByKeyboard */
  focus(isByKeyboard) {
    this.isFocused = isByKeyboard;
    if (isByKeyboard) this.announce([[toSentence(this.quantity.meaning)]]);
    this.paint();
  }

  /** @param {KeyboardEvent} event */
  handleKey(event) {
    const { rows, cols } = this.quantity, [row, col] = this.active;
    const /** @type {Object<string, Cell>} */ cells = {
      ArrowLeft: [row, col - 1], ArrowRight: [row, col + 1], ArrowUp: [row - 1, col], ArrowDown: [row + 1, col],
      Home: [row, 0], End: [row, this.quantity.hasMask && !this.isUnmasked ? row : cols - 1],
    }, to = cells[event.key];
    if (event.key === "Enter" || event.key === " ") this.open(this.entryOf(this.active), "keyboard", this);
    else if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    else if (to[0] >= 0 && to[0] < rows && to[1] >= 0 && to[1] < cols && !this.isMaskedAt(to)) this.active = to;
    event.preventDefault();
    this.isFocused = true;
    if (to) this.announce();
    this.paint();
  }

  /** Says and shows where the keyboard is; `lines` are added to the tip. @param {TipLine[]} lines */
  announce(lines = []) {
    const { quantity, active } = this, index = this.indexOf(active), value = this.numbers[quantity.flatIndex(index)];
    byId("say").textContent = `${quantity.name} ${describeIndex(quantity, index)}: ${formatRounded(value, 4)}`;
    this.scrollTo(active);
    this.showTip(active, lines);
  }

  /** Scrolls a cell into view, in its box alone: scrollIntoView would scroll the page as well. @param {Cell} cell */
  scrollTo([row, col]) {
    const { box, width, height } = this;
    box.scrollLeft = Math.min(col * width, Math.max(box.scrollLeft, (col + 1) * width - box.clientWidth));
    box.scrollTop = Math.min(row * height, Math.max(box.scrollTop, (row + 1) * height - box.clientHeight));
  }

  /** @param {Cell} cell  @param {TipLine[]} more */
  showTip(cell, more = []) {
    const { quantity, canvas, width, height } = this, index = this.indexOf(cell), n = quantity.flatIndex(index);
    const override = overrides.get(quantity.name), { left, top } = canvas.getBoundingClientRect();
    const isMasked = quantity.isMaskedAt(index), isWrong = override && (override.wrong[n] || isMasked);
    /** @type {TipLine[]} */
    const lines = this.side ? this.twins.map(({ side, numbers }) => [`${side.label} ${formatAligned(numbers[n])}`])
      : isWrong ? [[`with the mistake ${formatAligned(override.numbers[n])}`, "wrong"]] : [];
    const value = this.side ? "" : isMasked ? "masked" : formatAligned(quantity.at(index));
    showTip(this.entryOf(cell), value, [...lines, [describeIndex(quantity, index), "quiet"], ...more],
      { x: left + (cell[1] + .5) * width, y: top + cell[0] * height, height });
  }
}

/** In at most six characters: −.037, 1.2, 3e−5, 2/3. @param {number} value */
function shortNumber(value) {
  const exact = formatExact(value);
  if (exact && exact.length <= 6) return exact;
  const size = Math.abs(value);
  const text = !size ? "0" : size >= 100 || size < .001 ? size.toExponential(0) : String(Number(size.toPrecision(2)));
  return (value < 0 ? "−" : "") + text.replace(/^0\./, ".").replace("e-", "e−").replace("e+", "e");
}

/** @param {Quantity} quantity */
function describeSize({ rows, cols, shape }) {
  if (!shape.length) return "a single number";
  return shape.length === 1 ? `a vector of ${cols}` : `${rows} rows by ${cols} columns`;
}

/** @param {HTMLCanvasElement} canvas  @param {string} kind  "signed", "probability" or "hatched" */
function paintRamp(canvas, kind, width = 64, height = 9) {
  const context = resizeCanvas(canvas, width, height), isProbability = kind === "probability";
  if (kind === "hatched") return drawHatching(context, 0, 0, width, height);
  for (let x = 0; x < width; x++) {
    const value = isProbability ? x / (width - 1) : 2 * x / (width - 1) - 1;
    context.fillStyle = `rgb(${colorOf(value, 1, isProbability)})`;
    context.fillRect(x, 0, 1, height);
  }
}

// ---- the tooltip ---------------------------------------------------------------------------------------------------

/** @typedef {[text: string, className?: string]} TipLine  under the entry and its value */

/** @type {(entry: Entry, value: string, lines: TipLine[], at: {x: number, y: number, height: number}) => void} */
function showTip(entry, value, lines, { x, y, height }) {
  const tip = byId("tip");
  tip.replaceChildren();
  putSymbol(putMath(tip), entry.name, entry.index);
  put(tip, "b", {}, ` ${value}`);
  for (const [text, kind = ""] of lines) put(tip, "div", { class: kind }, text);
  tip.hidden = false;
  const left = Math.min(x - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 6);
  const above = y - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(6, left)}px`;
  tip.style.top = `${above > 4 ? above : y + height + 6}px`;
}

function hideTip() { byId("tip").hidden = true; }
