// What a page with the model can do: read any text, show every layer and head, and continue the text. It asks the
// engine, which runs in a worker.

const DELAY = 150; // milliseconds after the last key
const LONGEST = 64; // characters of a text
const MAP = 24; // pixels of the map of a head

// ---- questions to the engine ---------------------------------------------------------------------------------------

/** @type {Map<number, (answered: any) => void>} */
const waiting = new Map(); // by the number of a question, what to do with its answer
/** @type {Worker} */
let engineWorker = null;
let asked = 0; // questions

/** Where a browser refuses workers to a file, at once or when one starts, the engine runs in the page. */
async function startEngine() {
  const source = new Blob([byId("engine").textContent], { type: "text/javascript" });
  try {
    engineWorker = new Worker(URL.createObjectURL(source));
    engineWorker.onmessage = ({ data: { id, ...answered } }) => {
      waiting.get(id)(answered);
      waiting.delete(id);
    };
    const refused = new Promise((_, refuse) => { engineWorker.onerror = refuse; });
    await Promise.race([ask("load", data.model), refused]);
  } catch {
    engineWorker = null;
    await ask("load", data.model);
  }
}

/**
 * Asks one of the engine's `answers`.
 * @template {Kind} K  @param {K} kind  @param {Question<K>} [question]  @returns {Promise<Answer<K>>}
 */
async function ask(kind, question) {
  const id = ++asked, message = { id, kind, ...question };
  const found = await (engineWorker ? new Promise(done => {
    waiting.set(id, done);
    engineWorker.postMessage(message);
  }) : answer(message));
  if (found.error) throw new Error(found.error);
  return found;
}

/**
 * The text of the scene, as the engine reads it: all tokens but the last, and all but the first to predict.
 * @type {(scene?: {ids: number[]}) => Reading}
 */
const read = ({ ids } = scene) => ({ ids: ids.slice(0, -1), targets: ids.slice(1) });

// ---- the scene -----------------------------------------------------------------------------------------------------

const idOf = new Map((data.characters ?? []).map((character, id) => [character, id]));
/** @typedef {{ids: number[], layer: number, head: number, pin: string}} Choice  pin: a head, as "2.1", or empty */
/** @type {Choice} */
const startScene = { ids: data.ids, layer: data.layer, head: data.head, pin: "" };
const NEWLINE = "↵"; // in the field, which has one line
/** @type {{maps: Float64Array[][], pinned: Numbers, checks: Bindings}} */
const live = { maps: [], pinned: null, checks: {} }; // what the engine said besides the numbers

/** @param {string} text  @returns {{ids?: number[], error?: string}}  or what is wrong with it, in a sentence */
function readText(text) {
  const characters = [...text], unknown = characters.filter(one => !idOf.has(one));
  const named = [...new Set(unknown)].slice(0, 5).map(nameOf).join(", ");
  if (unknown.length) return { error: `The model does not know ${named}.` };
  const most = longestText();
  if (characters.length > most)
    return { error: `The text has ${characters.length} characters; at most ${most} are read.` };
  if (characters.length === 1 && idOf.has("\n")) characters.unshift("\n"); // it begins a line, and is to be predicted
  if (characters.length < 2) return { error: "Type at least two characters: one to read, and one to predict." };
  return { ids: characters.map(one => idOf.get(one)) };
}

const longestText = () => Math.min(LONGEST, data.model.config.context + 1);

/** @param {string} character */
function nameOf(character) {
  const code = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  return /[\p{L}\p{N}\p{P}\p{S}]/u.test(character) ? `“${character}”` : code;
}

/** @type {(ids: number[]) => string} */
const textOf = ids => ids.map(id => data.characters[id]).join("");
/** @type {() => string} */
const typedText = () => idOf.has(NEWLINE) ? byId("text").value : byId("text").value.replaceAll(NEWLINE, "\n");
/** @type {(one: Partial<Choice>, other: Choice) => boolean} */
const isSameScene = (one, other) => one.layer === other.layer && one.head === other.head && one.pin === other.pin &&
  String(one.ids) === String(other.ids);
/** @type {(text: string) => number[]} */
const pairOf = text => text ? text.split(".").map(Number) : null; // 2.1: layer 2, head 1
/** @type {Choice} */
let shownScene = null; // a new object for every scene and every change of the weights

/**
 * Computes a scene, and puts its numbers on the page.
 * @param {Choice} chosen
 * @param {() => boolean} isWanted
 * @returns {Promise<boolean>}  false if it is no longer wanted when they are there
 */
async function changeScene({ ids, layer, head, pin }, isWanted) {
  const names = data.tables[layer].map(({ name }) => name), began = performance.now();
  const { numbers, maps, other } = await ask("run", { ...read({ ids }), layer, head, names, pinned: pairOf(pin) });
  if (!isWanted()) return false;
  document.body.dataset.recomputed = String(performance.now() - began);
  Object.assign(live, { maps, pinned: other });
  shownScene = { ids, layer, head, pin };
  setScene(shownScene, numbers);
  return true;
}

/** Compares this page's numbers of its first text with the file's: of every value and gradient of every layer. */
async function checkModel() {
  const { digests } = await ask("digests", read(startScene)), line = byId("own");
  let largest = 0, count = 0;
  for (const library in data.digests) for (const [name, expected] of Object.entries(data.digests[library])) {
    const errors = expected.map((x, n) => Math.abs(digests[name][n] - x) / (expected[0] || 1));
    const error = expected.length ? Math.max(...errors) : NaN; // NaN is never right
    live.checks[name] = Math.max(live.checks[name] ?? 0, error);
    largest = Math.max(largest, error);
    count += library === "minitensor" ? 1 : 0;
  }
  const agrees = largest <= data.exact;
  line.dataset.largest = largest;
  line.classList.toggle("wrong", !agrees);
  line.textContent = `Checked: on the first text, this page’s ${formatCount(count)} matrices of all layers ` +
    `${agrees ? "agree" : "DO NOT AGREE"} with those of ${librariesOf()} within ${formatRounded(largest, 1)} of each ` +
    "matrix’s largest number: by this number and two projections of each, which the file carries.";
}

const librariesOf = () => Object.keys(data.digests).join(" and ");

/**
 * What minitensor and torch say of a quantity: its matrix is compared on the first text.
 * @param {Quantity} quantity  @returns {Way[]}
 */
function agreements(quantity) {
  const { layer, head } = scene, { name } = placeOf(data.model.config, quantity.name.replace(/^d/, ""), layer, head);
  const error = live.checks[quantity.isGradient ? `d${name}` : name];
  const isFirst = String(scene.ids) === String(data.ids) && !step.taken;
  const reservation = isFirst ? "" : step.taken ? "before any step only" : "first text only";
  const note = !isFirst ? "the file has their numbers on the first text only, before any step"
    : error === undefined ? "not compared on its own"
    : `this matrix agrees within ${formatRounded(error, 1)} of its largest number`;
  const isWrong = isFirst && error > data.exact, isAgreed = isFirst && error <= data.exact;
  return [{ key: "libraries", label: librariesOf(), note, reservation, isWrong, isAgreed }];
}

/** The difference of the loss for one entry; null where there is none. @param {Entry} entry */
async function slopeOf({ name, index }) {
  const quantity = quantities.get(name);
  if (!quantity.isGradient) return null;
  const { slopes } = await ask("differences", {
    ...read(), layer: scene.layer, head: scene.head, name: name.slice(1), step: data.step,
    places: [quantity.flatIndex(index)],
  });
  return slopes && slopes[0];
}

const AT_ONCE = 8; // differences between which other questions are answered

/**
 * Differences of all entries, a few at a time, as long as `isWanted`, and the numbers by the formula.
 * @type {(quantity: Quantity, progress: (done: number, all: number) => void, isWanted: () => boolean) =>
 *   Promise<{slopes: number[], formulas: number[]}>}
 */
async function measureAll(quantity, progress, isWanted) {
  const { numbers, cols } = quantity, name = quantity.name.slice(1), /** @type {number[]} */ slopes = [];
  const places = [...numbers.keys()].filter(n => !quantity.isMaskedAt(quantity.indexOf(Math.floor(n / cols), n % cols)));
  const question = { ...read(), layer: scene.layer, head: scene.head, name, step: data.step };
  while (slopes.length < places.length && isWanted()) {
    const some = places.slice(slopes.length, slopes.length + AT_ONCE);
    slopes.push(...(await ask("differences", { ...question, places: some })).slopes);
    progress(slopes.length, places.length);
  }
  return { slopes, formulas: places.map(n => numbers[n]) };
}

// ---- the text ------------------------------------------------------------------------------------------------------

/** Every character that is read, what came next, and how likely the model held it. */
function showCharacters() {
  const line = byId("characters"), p = quantities.get("p"), losses = quantities.get("l");
  line.replaceChildren();
  scene.reads.forEach((label, n) => {
    const box = put(line, "span");
    put(box, "small", {}, n);
    box.append(label);
    if (!p?.numbers) return;
    const probability = p.at([n, scene.next[n]]), next = data.vocabulary[scene.next[n]];
    const bar = put(box, "i", { style: `--p: ${probability}` });
    put(bar, "b", {}, next);
    put(box, "small", { class: "chance" }, `${Math.round(100 * probability)} %`);
    box.title = `After “${label}” came “${next}”: the model gave it ${formatRounded(probability, 3)}, ` +
      `so the loss here is ${formatRounded(losses?.at([n]), 3)}.`;
  });
}

let typed = ""; // the ids of the latest text that was typed and could be read

/** The field follows a text that comes from elsewhere, as by going back; what is being typed stays. */
function showText() {
  if (String(scene.ids) === typed) return;
  typed = String(scene.ids);
  byId("text").value = textOf(scene.ids).replaceAll("\n", NEWLINE);
  showTextError();
}

/** An error of the text in the field, or none. */
function showTextError(error = "") {
  const note = byId("text-note"), field = byId("text");
  note.textContent = error && `${error} The last text that it could read is still shown.`;
  note.hidden = !error;
  field.setAttribute("aria-invalid", String(Boolean(error)));
  showUnknown(typedText());
}

/** @param {Navigate} navigate */
function addTextField(navigate) {
  const field = byId("text");
  let timer = 0;
  field.maxLength = 10 * LONGEST; // longer ones are refused with a reason, up to this
  const insert = (/** @type {string} */ text) => {
    field.setRangeText(text.replace(/\r?\n/g, NEWLINE), field.selectionStart, field.selectionEnd, "end");
    field.oninput();
  };
  field.onkeydown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Enter") insert("\n");
  };
  field.onpaste = (/** @type {ClipboardEvent} */ event) => { // the browser would drop the ends of lines
    event.preventDefault();
    insert(event.clipboardData.getData("text").slice(0, field.maxLength));
  };
  field.oninput = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const { ids, error } = readText(typedText());
      showTextError(error);
      if (!ids) return;
      typed = String(ids);
      navigate({ ids }, true);
    }, DELAY);
  };
}

/** The text with what the model does not know underlined; empty if it knows everything. @param {string} text */
function showUnknown(text) {
  const line = byId("unknown"), characters = [...text];
  line.replaceChildren();
  line.hidden = characters.every(one => idOf.has(one));
  if (!line.hidden) for (const one of characters.slice(0, LONGEST))
    put(line, idOf.has(one) ? "span" : "u", {}, one === "\n" ? NEWLINE : one);
}

// ---- layers and heads ----------------------------------------------------------------------------------------------

/**
 * A small map of the attention weights of every head. A click chooses a head; with Shift, it is pinned beside it.
 * @param {Navigate} navigate
 */
function showHeads(navigate) {
  const grid = byId("heads"), { maps } = live, { layer, head } = scene, T = scene.reads.length;
  const focused = /** @type {HTMLElement} */ (document.activeElement)?.dataset?.head;
  grid.replaceChildren();
  grid.style.gridTemplateColumns = `repeat(${data.heads}, auto)`;
  maps.forEach((heads, n) => heads.forEach((numbers, h) => {
    const name = `layer ${n}, head ${h}`, pair = `${n}.${h}`, isPinned = shownScene.pin === pair;
    const button = put(grid, "button", {
      type: "button", "data-head": pair, "aria-pressed": n === layer && h === head, class: isPinned ? "pinned" : "",
      title: `${name}: click to open, Shift-click to pin it for comparison`,
      "aria-label": isPinned ? `${name}, pinned` : name,
    });
    const context = resizeCanvas(put(button, "canvas"), MAP, MAP);
    context.imageSmoothingEnabled = false;
    context.drawImage(bitmapOf(numbers, T, T, 1, true), 0, 0, MAP, MAP);
    button.onclick = ({ shiftKey }) => navigate(shiftKey ? { pin: isPinned ? "" : pair } : { layer: n, head: h });
  }));
  if (focused) grid.querySelector(`[data-head="${focused}"]`)?.focus();
  byId("pin").textContent = shownScene.pin ? "Unpin" : "Pin this head";
  byId("pin").onclick = () => navigate({ pin: shownScene.pin ? "" : `${layer}.${head}` });
}

const TWO_HEADS = ["S", "P", "dS"]; // of the open head and of the pinned one

/**
 * The matrix of this name of the open head and of the pinned one on one scale, and their difference.
 * @param {string} name  @param {Navigate} navigate
 */
function showPinned(name, navigate) {
  const box = byId("pinned"), { pin } = shownScene;
  box.hidden = !pin;
  clearSideBySide(box);
  if (!pin) return;
  const [layer, head] = pairOf(pin), quantity = quantities.get(name);
  const own = quantity.numbers, other = live.pinned[name];
  const difference = own.map((x, n) => x === other[n] ? 0 : x - other[n]);
  const line = showSideBySide(box, `Two heads: ${name}`, [
    { label: `layer ${scene.layer}, head ${scene.head}`, quantity, numbers: own },
    { label: `layer ${layer}, head ${head}`, quantity, numbers: other },
    { label: "difference", quantity, numbers: difference },
  ], largestMagnitude(own, other, difference));
  const choice = put(line, "span", { class: "choice" });
  for (const one of TWO_HEADS) {
    const button = put(choice, "button", { type: "button", "aria-pressed": one === name });
    putSymbol(putMath(button), one);
    button.onclick = () => navigate({ compared: one });
  }
}

// ---- what the model would write ------------------------------------------------------------------------------------

const LIKELIEST = 10;
/** @type {{values: Float64Array, position: number, temperature: number}} */
const outputs = { values: null, position: 0, temperature: 1 };

/** The last character of the text is not among the positions: only here is it read, to be continued. */
async function askOutputs() {
  const ids = scene.ids.slice(0, data.model.config.context), of = shownScene;
  const { values } = await ask("outputs", { ids });
  if (of !== shownScene) return; // the text has changed since
  Object.assign(outputs, { values, position: ids.length - 1 });
  showOutputs();
}

/** The likeliest next characters of a position, by a temperature that the loss knows nothing of. */
function showOutputs() {
  if (!outputs.values) return; // not yet
  const { values, temperature } = outputs, V = data.vocabulary.length, T = values.length / V;
  const position = outputs.position = Math.max(0, Math.min(T - 1, outputs.position)), came = scene.ids[position + 1];
  const chances = chancesAfter(position), box = byId("outputs");
  const order = [...chances.keys()].filter(v => data.vocabulary[v]).sort((one, other) => chances[other] - chances[one]);
  byId("position").max = T - 1;
  byId("position").value = position;
  byId("position-label").textContent = `after “${data.vocabulary[scene.ids[position]]}” at ${position}`;
  byId("temperature-label").textContent = formatRounded(temperature, 2);
  box.replaceChildren();
  for (const v of order.slice(0, LIKELIEST)) {
    const item = put(box, "li", { style: `--p: ${chances[v]}`, class: v === came ? "came" : "" });
    put(item, "b", {}, data.vocabulary[v]);
    put(item, "span", { class: "quiet" }, `${formatRounded(100 * chances[v], 2)} %${v === came ? ", came" : ""}`);
  }
  byId("write").disabled = scene.ids.length >= longestText();
}

/** @param {number} position */
function chancesAfter(position) {
  const V = data.vocabulary.length, row = outputs.values.subarray(position * V, (position + 1) * V);
  return softmax(makeMatrix(1, V, row.map(z => z / outputs.temperature))).values;
}

/**
 * Draws a character by the probabilities of the last position, and appends it to the text.
 * @param {Navigate} navigate
 */
function writeOne(navigate) {
  const chances = chancesAfter(outputs.values.length / data.vocabulary.length - 1);
  let left = Math.random(), next = 0;
  while (next < chances.length - 1 && (left -= chances[next]) > 0) next++;
  navigate({ ids: [...scene.ids, next] });
}

/** @param {Navigate} navigate */
function addOutputs(navigate) {
  const position = byId("position"), temperature = byId("temperature");
  position.oninput = () => { outputs.position = Number(position.value); showOutputs(); };
  temperature.oninput = () => { outputs.temperature = 10 ** temperature.value; showOutputs(); };
  byId("write").onclick = () => writeOne(navigate);
}
