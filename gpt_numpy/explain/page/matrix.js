// One matrix on the page: its name, size and formula, and a heatmap on canvas in which cells can be pointed at, walked
// through with the arrow keys, and opened.

const LEAST = 3, MOST = 16; // pixels of a cell
const LABEL = 23; // pixels for the labels of rows: an index and a character
const FONT = '"DejaVu Sans Mono", ui-monospace, Menlo, Consolas, monospace';

// ---- colours -------------------------------------------------------------------------------------------------------

const theme = {};

/** Takes the colours from the style sheet: they change with light, dark and print. */
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const color = name => style.getPropertyValue(`--${name}`).trim();
  for (const name of ["page", "ink", "quiet", "hatch", "mark"]) theme[name] = color(name);
  theme.wrong = channels(style.getPropertyValue("--wrong"));
  for (const name of ["below", "above", "share"])
    theme[name] = shades(["zero", `${name}-mid`, `${name}-end`].map(stop => channels(color(stop))));
}

const FINE = 255; // shades from the colour of zero to the end
const shades = stops => Array.from({ length: FINE + 1 }, (_, n) => mixed(stops, n / FINE));

const channels = color => [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));

/** The colour of a share (0 to 1) of the way from the colour of zero, over the middle one, to the end. */
function mixed([zero, middle, end], share) {
  const [from, to, part] = share < .5 ? [zero, middle, 2 * share] : [middle, end, 2 * share - 1];
  return from.map((channel, n) => Math.round(channel + (to[n] - channel) * part));
}

/** Where the number lies on its scale. The square root of the size lets small gradients be seen. */
function colorOf(value, largest, isShare) {
  if (Number.isNaN(value)) return theme.wrong; // shown as no number is
  const part = largest ? Math.min(1, Math.abs(value) / largest) : 0;
  if (isShare) return theme.share[Math.round(FINE * part)];
  return (value < 0 ? theme.below : theme.above)[Math.round(FINE * Math.sqrt(part))];
}

function hatch(context, x, y, width, height) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = theme.hatch;
  context.lineWidth = 1;
  context.beginPath();
  for (let at = x - height; at < x + width; at += 4) context.moveTo(at, y + height), context.lineTo(at + height, y);
  context.stroke();
  context.restore();
}

/** Sets the size of a canvas in CSS pixels, sharp on every screen; gives what draws on it. */
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

// ---- a matrix ------------------------------------------------------------------------------------------------------

const views = new Map(); // by the name of the quantity
const overriding = new Map(); // numbers that are shown in the place of the file's: those of the broken code

class MatrixView {
  /** `open` is called with an entry; `tallest` limits the height, and the rest scrolls. */
  constructor(parent, quantity, { open, tallest = Infinity }) {
    Object.assign(this, { quantity, open, tallest });
    Object.assign(this, { active: [0, 0], isFocused: false, hover: null, lit: [], chosen: null });
    this.isShare = quantity.kind === "share" || quantity.name === "next";
    const { name, shape } = quantity;
    this.figure = put(parent, "figure", { "data-figure": name });
    const caption = put(this.figure, "figcaption"), title = put(caption, "b");
    putSymbol(putMath(title), name);
    put(caption, "span", { class: "quiet" }, shape.length ? shape.join(" × ") : "a number");
    this.badge = put(caption, "span", { class: "badge" });
    if (quantity.formula) putWrapped(put(this.figure, "p", { class: "formula" }), quantity, quantity.formula);
    this.grid = put(this.figure, "div", { class: "grid" });
    if (!quantity.numbers) {
      put(this.grid, "p", { class: "quiet", "data-matrix": name }, "Its numbers did not fit on this page.");
      return;
    }
    this.above = put(this.grid, "canvas", { class: "above" }); // the labels of columns, and of rows
    this.labels = put(this.grid, "canvas", { class: "labels" });
    this.box = put(this.grid, "div", {
      "data-matrix": name, class: "box", tabindex: 0, role: "application", "aria-roledescription": "matrix",
      "aria-label": `${name}, ${sizeInWords(quantity)}: ${quantity.meaning}. Arrow keys move, Enter opens a number.`,
    });
    this.canvas = put(this.box, "canvas");
    this.scale = put(this.figure, "p", { class: "scale" });
    this.ramp = put(this.scale, "canvas");
    this.largest = put(this.scale, "span");
    this.listen();
  }

  get numbers() { return overriding.get(this.quantity.name)?.numbers ?? this.quantity.numbers; }
  indexAt([row, col]) { return this.quantity.index(row, col); }
  entryAt(cell) { return { name: this.quantity.name, index: this.indexAt(cell) }; }
  cellOf(index) { return index.length === 2 ? index : [0, index[0] ?? 0]; }
  isHidden(cell) { return this.quantity.isHidden(this.indexAt(cell)); }

  // ---- size and colours --------------------------------------------------------------------------------------------

  /** Finds the size of the cells. Matrices side by side have rows of one `height`, which the caller may give. */
  layout(height) {
    if (!this.box) return;
    const { rows, cols, indices } = this.quantity;
    const [rowLetter, colLetter] = indices.length === 2 ? indices : ["", indices[0]];
    const hasRowLabels = Boolean(labelOf(rowLetter, 0)), ratio = window.devicePixelRatio || 1;
    const whole = this.grid.clientWidth;
    const fit = free => Math.max(LEAST, Math.min(MOST, Math.floor(free / cols * ratio) / ratio));
    this.height = height ?? Math.max(rows > 1 ? 4 : 10, fit(whole - LABEL));
    this.left = hasRowLabels && this.height >= 8 ? LABEL : 0;
    this.width = fit(whole - this.left - 1);
    this.top = labelOf(colLetter, 0) && this.width >= 7 ? 13 : 0;
    this.labels.hidden = !this.left;
    this.above.hidden = !this.top;
    this.box.style.maxHeight = this.left ? "" : `${this.tallest}px`;
    this.paint(true);
  }

  /** Cells as single pixels, to be drawn enlarged. */
  bitmap() {
    const { rows, cols } = this.quantity, { numbers, isShare } = this, image = new ImageData(cols, rows);
    const largest = this.largestNumber = this.quantity.isRounding(largestOf(numbers)) ? 0 : largestOf(numbers);
    for (let n = 0; n < numbers.length; n++) {
      const color = colorOf(numbers[n], largest, isShare);
      for (let channel = 0; channel < 3; channel++) image.data[4 * n + channel] = color[channel];
      image.data[4 * n + 3] = 255;
    }
    const small = document.createElement("canvas");
    small.width = cols;
    small.height = rows;
    small.getContext("2d").putImageData(image, 0, 0);
    return small;
  }

  paint(isNew = false) {
    if (!this.width) return;
    if (isNew) {
      this.cells = this.bitmap();
      this.paintLabels();
      this.paintScale();
    }
    const { width, height, quantity: { rows, cols } } = this, context = sized(this.canvas, cols * width, rows * height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, 0, 0, cols * width, rows * height);
    if (Math.min(width, height) >= 7) this.paintGaps(context);
    if (this.quantity.isMasked) this.paintMask(context);
    this.paintMarks(context);
    this.paintLights(context);
  }

  paintGaps(context) {
    const { width, height, quantity: { rows, cols } } = this;
    context.fillStyle = theme.page;
    for (let col = 1; col < cols; col++) context.fillRect(col * width - .5, 0, .5, rows * height);
    for (let row = 1; row < rows; row++) context.fillRect(0, row * height - .5, cols * width, .5);
  }

  /** The hatching, except where the broken code does look ahead. */
  paintMask(context) {
    const { width, height, quantity: { rows, cols } } = this;
    if (overriding.get(this.quantity.name)?.looksAhead) return;
    context.fillStyle = theme.page;
    for (let row = 0; row < rows - 1; row++) {
      const x = (row + 1) * width, size = (cols - row - 1) * width;
      context.fillRect(x, row * height, size, height);
      hatch(context, x, row * height, size, height);
    }
  }

  /** A wrong entry has a cross; in cells too small for one, a dot. */
  paintMarks(context) {
    const wrong = overriding.get(this.quantity.name)?.wrong, { width, height, quantity: { cols } } = this;
    if (!wrong) return;
    const arm = Math.min(width, height) / 2 - 1.5;
    context.strokeStyle = context.fillStyle = theme.mark;
    context.lineWidth = 1;
    context.beginPath();
    wrong.forEach((isWrong, n) => {
      if (!isWrong) return;
      const x = (n % cols + .5) * width, y = (Math.floor(n / cols) + .5) * height;
      if (arm < 1.5) return context.fillRect(x - .6, y - .6, 1.2, 1.2);
      context.moveTo(x - arm, y - arm), context.lineTo(x + arm, y + arm);
      context.moveTo(x + arm, y - arm), context.lineTo(x - arm, y + arm);
    });
    context.stroke();
  }

  /** The sources of the chosen entry in frames; the chosen one in its row and column; the cell of the keyboard. */
  paintLights(context) {
    const { rows, cols } = this.quantity;
    for (const { rows: [top, bottom], cols: [left, right] } of this.lit)
      this.frame(context, top, left, bottom, right, theme.ink, 1.5);
    if (this.chosen) {
      const [row, col] = this.chosen;
      this.frame(context, row, 0, row, cols - 1, theme.quiet, 1);
      this.frame(context, 0, col, rows - 1, col, theme.quiet, 1);
      this.frame(context, row, col, row, col, theme.ink, 2.5);
    }
    if (this.isFocused) this.frame(context, ...this.active, ...this.active, theme.ink, 2, [3, 2]);
    if (this.hover) this.frame(context, ...this.hover, ...this.hover, theme.ink, 1);
  }

  /** Drawn twice, the wider line in the colour of the page, so that it is seen on every cell. */
  frame(context, top, left, bottom, right, color, line, dash = []) {
    const { width, height, quantity: { rows, cols } } = this;
    const x = Math.max(line / 2, left * width), y = Math.max(line / 2, top * height);
    const end = Math.min((right + 1) * width, cols * width - line / 2);
    const foot = Math.min((bottom + 1) * height, rows * height - line / 2);
    for (const [style, size, dashes] of [[theme.page, line + 1.5, []], [color, line, dash]]) {
      context.strokeStyle = style;
      context.lineWidth = size;
      context.setLineDash(dashes);
      context.strokeRect(x, y, end - x, foot - y);
    }
    context.setLineDash([]);
  }

  paintLabels() {
    const { rows, cols, indices } = this.quantity, middle = n => (n + .5) * this.height + .5;
    if (this.top) {
      const context = sized(this.above, cols * this.width, this.top);
      this.write(context, cols, n => [(n + .5) * this.width, 7], n => labelOf(indices.at(-1), n), "center");
    }
    if (!this.left) return;
    const context = sized(this.labels, this.left, rows * this.height);
    this.write(context, rows, n => [12, middle(n)], n => n, "right");
    this.write(context, rows, n => [15, middle(n)], n => labelOf(indices[0], n), "left", theme.ink);
  }

  write(context, many, at, text, align, color = theme.quiet) {
    context.font = `${Math.min(11, Math.max(8, Math.min(this.height, this.width + 3) - 1.5))}px ${FONT}`;
    context.fillStyle = color;
    context.textAlign = align;
    context.textBaseline = "middle";
    for (let n = 0; n < many; n++) context.fillText(text(n), ...at(n));
  }

  paintScale() {
    paintRamp(this.ramp, this.isShare ? "share" : "signed", 36);
    this.largest.textContent = `${this.isShare ? "0 to" : "±"} ${rounded(this.largestNumber, 3)}`;
  }

  // ---- pointing, walking, opening ----------------------------------------------------------------------------------

  listen() {
    const { canvas, box } = this;
    canvas.onpointermove = event => this.point(this.cellUnder(event));
    canvas.onpointerleave = () => this.point(null);
    canvas.onclick = event => {
      const cell = this.cellUnder(event);
      if (!cell) return;
      this.active = cell;
      this.open(this.entryAt(cell), "pointer");
    };
    box.onfocus = () => this.focus(box.matches(":focus-visible"));
    box.onblur = () => { this.isFocused = false; hideTip(); this.paint(); };
    box.onkeydown = event => this.walk(event);
  }

  cellUnder({ offsetX, offsetY }) {
    const { rows, cols } = this.quantity;
    const cell = [Math.floor(offsetY / this.height), Math.floor(offsetX / this.width)];
    const isInside = cell[0] >= 0 && cell[0] < rows && cell[1] >= 0 && cell[1] < cols;
    return isInside && !this.isHidden(cell) ? cell : null;
  }

  point(cell) {
    if (String(cell) === String(this.hover)) return;
    this.hover = cell;
    if (cell) this.tell(cell); else hideTip();
    this.paint();
  }

  focus(isByKeyboard) {
    this.isFocused = isByKeyboard;
    if (isByKeyboard) this.announce();
    this.paint();
  }

  walk(event) {
    const { rows, cols } = this.quantity, [row, col] = this.active;
    const to = {
      ArrowLeft: [row, col - 1], ArrowRight: [row, col + 1], ArrowUp: [row - 1, col], ArrowDown: [row + 1, col],
      Home: [row, 0], End: [row, this.quantity.isMasked ? row : cols - 1],
    }[event.key];
    if (event.key === "Enter" || event.key === " ") this.open(this.entryAt(this.active), "keyboard");
    else if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    else if (to[0] >= 0 && to[0] < rows && to[1] >= 0 && to[1] < cols && !this.isHidden(to)) this.active = to;
    event.preventDefault();
    this.isFocused = true;
    if (to) this.announce();
    this.paint();
  }

  announce() {
    const { quantity: { name }, active } = this, place = placeOf(this.quantity, this.indexAt(active));
    byId("say").textContent = `${name} ${place}: ${rounded(this.numbers[this.quantity.flat(this.indexAt(active))], 4)}`;
    this.bringIn(active);
    this.tell(active);
  }

  /** Scrolls the box, and nothing else, so far that a cell is in sight. */
  bringIn([row, col]) {
    const { box, width, height } = this;
    box.scrollLeft = Math.min(col * width, Math.max(box.scrollLeft, (col + 1) * width - box.clientWidth));
    box.scrollTop = Math.min(row * height, Math.max(box.scrollTop, (row + 1) * height - box.clientHeight));
  }

  tell(cell) {
    const { quantity, canvas, width, height } = this, index = this.indexAt(cell), at = quantity.flat(index);
    const override = overriding.get(quantity.name), frame = canvas.getBoundingClientRect();
    const broken = override?.wrong[at] ? override.numbers[at] : undefined;
    showTip(this.entryAt(cell), { place: placeOf(quantity, index), value: quantity.at(index), broken },
      { x: frame.left + (cell[1] + .5) * width, y: frame.top + cell[0] * height, height });
  }
}

function sizeInWords({ rows, cols, shape }) {
  if (!shape.length) return "a single number";
  return shape.length === 1 ? `a vector of ${cols}` : `${rows} rows by ${cols} columns`;
}

function paintRamp(canvas, kind, width = 64, height = 9) {
  const context = sized(canvas, width, height);
  if (kind === "hatched") return hatch(context, 0, 0, width, height);
  for (let x = 0; x < width; x++) {
    const part = kind === "share" ? x / (width - 1) : 2 * x / (width - 1) - 1;
    context.fillStyle = `rgb(${colorOf(part, 1, kind === "share")})`;
    context.fillRect(x, 0, 1, height);
  }
}

// ---- the tooltip ---------------------------------------------------------------------------------------------------

function showTip(entry, { place, value, broken }, { x, y, height }) {
  const tip = byId("tip");
  tip.replaceChildren();
  putSymbol(putMath(tip), entry.name, entry.index);
  put(tip, "b", {}, ` ${aligned(value)}`);
  if (broken !== undefined) put(tip, "div", { class: "wrong" }, `with the mistake ${aligned(broken)}`);
  put(tip, "div", { class: "quiet" }, place);
  tip.hidden = false;
  const left = Math.min(x - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 6);
  const above = y - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(6, left)}px`;
  tip.style.top = `${above > 4 ? above : y + height + 6}px`;
}

function hideTip() { byId("tip").hidden = true; }
