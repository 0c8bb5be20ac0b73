// The state of the page is its address, `#dS[3,1]&tour=4&break=scale,mask&view=projector`, and on a page with the model
// also `&text=…&layer=1&head=2&pin=0.3&compare=dS`. Every change updates the address first, and the page is rendered from
// it, so that links, reload, back and forward all work the same way.

/**
 * @typedef {Choice & {tour: number, mistakes: Set<string>, compared: string, isProjected: boolean}} Address
 *   compared: the matrix of two heads that is shown
 */
/** @typedef {Address & {entry: Entry}} State  entry: null if none is open */
/** @typedef {(changes: Partial<State>, isTyped?: boolean) => Promise<void>} Navigate */

/** @type {Address} */
const startAddress = { tour: 0, mistakes: new Set(), compared: "P", isProjected: false, ...startScene };
/** @type {State} */
const state = { entry: null, ...startAddress };
/**
 * What is on the screen.
 * @type {{address: string, mistakes: string, tour: number, compared: string, isProjected: boolean, isComplete: boolean,
 *   pending: string}}
 */
const rendered = {
  address: null, mistakes: "", tour: 0, compared: null, isProjected: false, isComplete: false, pending: null,
};
/** @type {Matrices} */
let inputs = null; // of the page's own computation of the head
/** @type {Account} */
let current = null; // the open account
/** @type {Entry[]} */
let trail = []; // the entries visited on the way to this one, saved in the browser's history with each address
let isLinkFollowed = false; // a link in the account extends the trail; any other way to an entry starts a new one
/** @type {MatrixView} */
let openedFrom = null; // the matrix that gets the focus back when the account is closed
let isClosing = false; // closing the account leaves the active cell of its matrix where it is
let turn = 0; // counts the addresses that were rendered: one whose scene comes too late is dropped

// ---- the address ---------------------------------------------------------------------------------------------------

/** @param {State} state */
function formatAddress({ entry, tour, mistakes, compared, isProjected, ids, layer, head, pin }) {
  const isOther = String(ids) !== String(startScene.ids);
  const parts = [entry && formatEntry(entry), isOther && `text=${encodeURIComponent(textOf(ids))}`,
    layer !== startScene.layer && `layer=${layer}`, head !== startScene.head && `head=${head}`, pin && `pin=${pin}`,
    pin && compared !== startAddress.compared && `compare=${compared}`, tour && `tour=${tour}`,
    mistakes.size && `break=${[...mistakes].join(",")}`, isProjected && "view=projector"];
  return `#${parts.filter(Boolean).join("&")}`;
}

/**
 * `error` describes an invalid part.
 * @param {string} hash
 * @returns {Address & {entryText: string, error: string}}
 */
function parseAddress(hash) {
  const parsed = { entryText: "", error: "", ...startAddress };
  const /** @type {Bindings} */ counts = { layer: data.layers, head: data.heads };
  for (const coded of hash.slice(1).split("&").filter(Boolean)) {
    let part;
    try {
      part = decodeURIComponent(coded);
    } catch {
      parsed.error = "The address after # cannot be decoded.";
      continue;
    }
    const [key] = part.split("=", 1), value = part.slice(key.length + 1);
    const count = counts[key];
    if (!part.includes("=")) parsed.entryText = part;
    else if (key === "tour" && STOPS[Number(value) - 1]) parsed.tour = Number(value);
    else if (key === "break" && value.split(",").every(one => BREAKS.some(({ key }) => key === one)))
      parsed.mistakes = new Set(value.split(","));
    else if (part === "view=projector") parsed.isProjected = true;
    else if (!isLiving && ["text", "layer", "head", "pin", "compare"].includes(key))
      parsed.error = "This page has the numbers of one text and one head; it cannot show another.";
    else if (key === "text") Object.assign(parsed, readText(value));
    else if (count && /^\d+$/.test(value) && Number(value) < count) Object.assign(parsed, { [key]: Number(value) });
    else if (key === "pin" && isHead(value)) parsed.pin = value;
    else if (key === "compare" && TWO_HEADS.includes(value)) parsed.compared = value;
    else parsed.error = `The address contains “${part}”, which is not valid.`;
  }
  return parsed;
}

/** Whether 2.1 is a layer and a head of the model. @param {string} text */
function isHead(text) {
  const [layer, head] = /^\d+\.\d+$/.test(text) ? pairOf(text) : [];
  return layer < data.layers && head < data.heads;
}

/** @type {(mistakes: Set<string>) => boolean} */
const isMaskForgotten = mistakes => Boolean(inputs) && mistakes.has("mask");
/** The entry, unless it is masked with these mistakes. @type {(entry: Entry, mistakes: Set<string>) => Entry} */
const openableEntry = (entry, mistakes) =>
  entry && parseEntry(formatEntry(entry), isMaskForgotten(mistakes)).entry || null;
/** @type {Link} */
const linkTo = entry => formatAddress({ ...state, entry });

/**
 * `isTyped`: a text that is being typed replaces the address, so that going back does not go letter by letter.
 * @type {Navigate}
 */
function navigate(changes, isTyped = false) {
  const { scrollX, scrollY } = window, address = formatAddress({ ...state, ...changes });
  if (isTyped) history.replaceState(history.state, "", address);
  else location.hash = address;
  window.scrollTo(scrollX, scrollY); // an empty address would scroll to the top
  return renderAddress(); // now; the hashchange event comes later
}

/** Each address in the history has its own trail, so that going back shortens the trail as well. */
async function renderAddress() {
  const isPending = rendered.pending === location.hash; // its numbers are still being computed
  if (isPending || rendered.address === location.hash && history.state?.trail) return; // already done by navigate()
  rendered.address = location.hash;
  const mine = ++turn, { entryText, error, ...next } = parseAddress(location.hash);
  const isNewScene = isLiving && !isSameScene(shownScene ?? {}, next);
  if (isNewScene) {
    rendered.pending = location.hash;
    if (!await changeScene(next, () => mine === turn)) return;
    rendered.pending = null;
    showScene();
  }
  const isUnmasked = isMaskForgotten(next.mistakes);
  const { entry = null, error: entryError = "" } = entryText ? parseEntry(entryText, isUnmasked) : {};
  const isNewEntry = isNewScene || !isSameEntry(entry, state.entry);
  const isDropped = isNewScene && entryError && rendered.isComplete; // a shorter text has no such entry
  Object.assign(state, next, { entry });
  if (isDropped) history.replaceState(null, "", rendered.address = formatAddress(state));
  if (history.state?.trail && !isDropped) trail = history.state.trail;
  else if (isNewEntry) trail = extendTrail(trail, entry);
  history.replaceState({ trail }, "");
  if (isNewEntry && !state.entry && !isClosing) for (const view of views.values()) view.active = [0, 0];
  isLinkFollowed = isClosing = false;
  byId("notice").textContent = error || (isDropped ? "" : entryError);
  byId("notice").hidden = !byId("notice").textContent;
  render(isNewEntry);
}

/** Draws the page for other numbers: of another text, layer or head, or after a step. */
function showScene() {
  showHeader();
  showGuide();
  drawPicture(openEntry);
  inputs = inputsFromFile();
  openedFrom = null; // the views are new
  Object.assign(rendered, { mistakes: null, tour: 0, compared: null });
  if (!isLiving) return;
  showText();
  showCharacters();
  showHeads(navigate);
  askOutputs();
  showCurve();
}

/** @type {(trail: Entry[], entry: Entry) => Entry[]} */
function extendTrail(trail, entry) {
  if (!entry) return [];
  if (!isLinkFollowed) return [entry];
  const visited = trail.findIndex(one => isSameEntry(one, entry));
  return visited < 0 ? [...trail, entry] : trail.slice(0, visited + 1);
}

// ---- rendering -----------------------------------------------------------------------------------------------------

function render(isNewEntry = true) {
  const mistakes = [...state.mistakes].join(), { compared, isProjected } = state;
  if (isProjected !== rendered.isProjected) showProjector(isProjected);
  if (isLiving && compared !== rendered.compared) showPinned(compared, navigate);
  if (mistakes !== rendered.mistakes) showMistakes(inputs, state.mistakes);
  const hadFocus = byId("account").contains(document.activeElement);
  if (isNewEntry || mistakes !== rendered.mistakes) showComparison(state.mistakes, state.entry);
  current = showAccount(state.entry, trail, linkTo);
  if (hadFocus && state.entry) byId("entry").focus({ preventScroll: true });
  showSuggestions();
  if (isNewEntry && state.entry) choosePair(state.entry.name);
  updateSelection();
  if (state.tour !== rendered.tour) {
    showStop(state.tour, navigate);
    if (narrow.matches) layoutAll(); // matrices that were hidden have no size
    scrollToStop();
  }
  const figure = (openedFrom?.quantity.name === state.entry?.name ? openedFrom : views.get(state.entry?.name))?.figure;
  const isMoved = isNewEntry || isProjected !== rendered.isProjected;
  if (isMoved && (rendered.isComplete || isProjected)) figure?.scrollIntoView({ block: "nearest" });
  Object.assign(rendered, { mistakes, compared, isProjected, tour: state.tour, isComplete: true });
}

/** Large type, and the picture alone. @param {boolean} isOn */
function showProjector(isOn) {
  document.documentElement.classList.toggle("projector", isOn);
  byId("toggle-projector").setAttribute("aria-pressed", String(isOn));
  layoutForTheme();
}

function layoutForTheme() {
  readTheme();
  layoutAll();
}

/** Frames the selected entry and, in all matrices, its sources. */
function updateSelection() {
  const sources = current ? sourcesOf(current) : [];
  for (const [name, view] of views) {
    const hadFrames = view.hasFrames;
    view.sources = sources.filter(one => one.name === name);
    view.figure.toggleAttribute("data-lit", view.sources.length > 0);
    view.selected = state.entry?.name === name ? view.cellOf(state.entry.index) : null;
    if (view.selected && view.box) {
      view.active = view.selected;
      view.scrollTo(view.selected);
    }
    if (hadFrames || view.hasFrames) view.paint();
  }
  selectSideBySide(state.entry);
}

/** @type {Open} */
function openEntry(entry, by, view = views.get(entry.name)) {
  openedFrom = view;
  hideTip();
  navigate({ entry });
  if (by === "keyboard") byId("entry").focus({ preventScroll: true });
}

function closeAccount() {
  if (!state.entry) return;
  const view = openedFrom ?? views.get(state.entry.name);
  const hadFocus = byId("account").contains(document.activeElement);
  isClosing = true;
  navigate({ entry: null });
  if (hadFocus) view?.box?.focus({ preventScroll: true });
}

/** The menu of mistakes covers the account. */
function closeTopmost() {
  const menu = byId("breaks-menu");
  if (!menu.open) return closeAccount();
  if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
  menu.open = false;
}

// ---- header, guide, events -----------------------------------------------------------------------------------------

function showHeader() {
  const text = isLiving ? textOf(scene.ids) : data.text;
  document.title = `Attention gradients: ${text}`;
  byId("about").textContent = data.about ??
    `Head ${scene.head} of layer ${scene.layer}: every number of its forward and backward pass as a sum of products, down to the loss, L = ${formatRounded(quantities.get("L").at([]), 5)}. The model is ` +
    `${data.described}.${data.learns ? ` What is explained: ${data.learns}.` : ""}` +
    (isLiving ? "" : " It does not fit into a page, which therefore has the numbers of this text and head alone.");
  byId("foot").replaceChildren("In a terminal: ");
  put(byId("foot"), "bdi", {}, commandFor("").trim());
  byId("foot").append(". This file works offline.");
  if (!isLiving) showCharacters();
}

function showGuide() {
  if (data.about) for (const word of document.querySelectorAll(".of-model")) word.remove(); // an example has none
  const { cols: D } = quantities.get("Q"), T = scene.reads.length;
  const letters = [["i", "the position of the query, a row of S"], ["j", "the position of the key, a column of S"],
    ["k", "a position that a sum runs over"], ["d", `one of the D = ${D} channels of a head`],
    ["m", `one of the C = ${data.width} channels of the stream`], ["u", "a hidden unit of an MLP"],
    ["v", "a token of the vocabulary"], ["a", "a channel or token that a sum runs over"], ["c", `1/√D = 1/√${D}`],
    ["T", `the number of positions, ${T}; all indices count from 0`]];
  /** @type {(letter: string) => boolean} */
  const isUsed = letter => !"muva".includes(letter) || [...quantities.values()].some(({ indices }) => indices.includes(letter));
  byId("indices").replaceChildren();
  for (const [letter, meaning] of letters.filter(([letter]) => isUsed(letter === "a" ? "m" : letter))) {
    put(byId("indices"), "dt", {}, letter);
    put(byId("indices"), "dd", {}, meaning);
  }
}

/**
 * An entry such as dK[4,2]; or the largest one of the matrix with this name, or with these words in its meaning.
 * @param {string} text  @returns {Parsed}
 */
function findEntry(text) {
  const direct = parseEntry(text.trim(), isMaskForgotten(state.mistakes));
  if (direct.entry) return direct;
  const words = text.toLowerCase().split(/[\s,]+/).filter(Boolean), wantsGradient = words.includes("gradient");
  /** @type {(textOf: (one: Quantity) => string) => (one: Quantity) => boolean} */
  const fits = textOf => one => words.every(word => word === "gradient" || textOf(one).toLowerCase().includes(word));
  const nameOf = (/** @type {Quantity} */ { name }) => `${name} ${NAMES[name.replace(/^d/, "")] ?? ""}`;
  const all = [...quantities.values()].filter(one => one.numbers && (!wantsGradient || one.isGradient));
  const named = quantities.get(text.trim()) ?? (words.length ? all.find(fits(nameOf)) : undefined);
  const found = named ?? (words.length ? all.find(fits(one => one.meaning)) : undefined);
  if (!found?.numbers) return /\[/.test(text) ? direct : { error: `This page has nothing called ${text}.` };
  const place = found.numbers.findIndex(x => Math.abs(x) === found.largest), { cols } = found;
  return { entry: { name: found.name, index: found.indexOf(Math.floor(place / cols), place % cols) } };
}

function addFind() {
  const field = byId("find");
  for (const { name, meaning } of quantities.values()) put(byId("names"), "option", { value: name }, meaning);
  field.oninput = () => field.setCustomValidity("");
  field.onkeydown = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "Escape") field.blur();
    if (event.key !== "Enter") return;
    const { entry, error } = findEntry(field.value);
    field.setCustomValidity(error ?? "");
    if (error) return field.reportValidity();
    openEntry(entry, "keyboard");
  };
}

/** Rendered again after every change, because the links contain the state of the page. */
function showSuggestions() {
  const line = byId("suggestions");
  line.textContent = "Start with: ";
  for (const [name, kind] of [["dS", "of a score"], ["dX", "of the input"], ["dW_q", "of a weight"], ["L", ""]].filter(([name]) => isOnPage(name))) {
    const quantity = quantities.get(name), { numbers, cols } = quantity;
    if (!numbers) continue;
    const largest = largestMagnitude(numbers), n = numbers.findIndex(x => Math.abs(x) === largest);
    if (name === "L") line.append("and the loss, ");
    putLink(line, { name, index: quantity.indexOf(Math.floor(n / cols), n % cols) }, linkTo);
    line.append(name === "L" ? "." : `, the largest gradient ${kind}; `);
  }
}

function addListeners() {
  document.onkeydown = event => {
    if (event.key === "Escape") closeTopmost();
    const target = /** @type {Element} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("#text, #find, select")) return;
    if (event.key === "/") {
      event.preventDefault();
      byId("find").select();
    }
    if (event.key === "t") byId("toggle-tour").click();
    if (event.key === "]" && state.tour && state.tour < STOPS.length) navigate({ tour: state.tour + 1 });
    if (event.key === "[" && state.tour > 1) navigate({ tour: state.tour - 1 });
    if (event.key === "f") byId("toggle-projector").click();
  };
  byId("toggle-tour").onclick = () => navigate({ tour: state.tour ? 0 : 1 });
  byId("toggle-projector").onclick = () => navigate({ isProjected: !state.isProjected });
  findAll(".skip")[0].onclick = (/** @type {Event} */ event) => {
    event.preventDefault(); // the address is the state of the page
    byId("picture").focus();
  };
  byId("account").onclick = (/** @type {any} */ event) => { isLinkFollowed ||= Boolean(event.target.closest("a")); };
  window.onhashchange = renderAddress;
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).onchange = layoutForTheme;
}

async function start() {
  readTheme();
  document.body.classList.toggle("living", isLiving);
  putSwitches(mistakes => navigate({ mistakes, entry: openableEntry(state.entry, mistakes) }));
  addListeners();
  if (isLiving) {
    await startEngine();
    await renderAddress();
    document.body.dataset.ready = String(performance.now());
    addTextField(navigate);
    addOutputs(navigate);
    addStep(refreshScene);
  } else {
    setScene(data);
    showScene();
    await renderAddress();
    showSelfCheck(inputs);
  }
  addFind();
  new ResizeObserver(() => {
    if (Math.abs(byId("flow").getBoundingClientRect().width - widthOfFlow) < 1) drawArrows();
    else layoutAll();
  }).observe(byId("flow"));
  const toolbar = findAll(".toolbar")[0]; // what it covers: the style sheet keeps clear of it
  new ResizeObserver(() => document.documentElement.style.setProperty("--toolbar", `${toolbar.offsetHeight}px`))
    .observe(toolbar);
  if (!isLiving) return;
  await checkModel();
  render(false); // an open account says what the check found
}

/** After a step the weights are others, and with them all numbers; the address is the same. */
async function refreshScene() {
  const mine = ++turn;
  if (!await changeScene(shownScene, () => mine === turn)) return;
  showScene();
  render();
}

start();
