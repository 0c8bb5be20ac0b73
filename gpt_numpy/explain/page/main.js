// The state of the page is its address, `#dS[3,1]&step=4&break=scale,mask`. Every change updates the address first, and
// the page is rendered from it, so that links, reload, back and forward all work the same way.

const state = { entry: null, step: 0, mistakes: new Set() };
const rendered = { address: null, mistakes: "", step: 0, isComplete: false }; // the state that is on the screen
let inputs = null; // of the page's own computation
let current = null; // the open account
let trail = []; // the entries visited on the way to this one, saved in the browser's history with each address
let isLinkFollowed = false; // a link in the account extends the trail; any other way to an entry starts a new one
let openedFrom = null; // the matrix that gets the focus back when the account is closed
let isClosing = false; // closing the account leaves the active cell of its matrix where it is

// ---- the address ---------------------------------------------------------------------------------------------------

function formatAddress({ entry, step, mistakes }) {
  const parts = [entry && formatEntry(entry), step && `step=${step}`,
    mistakes.size && `break=${[...mistakes].join(",")}`];
  return `#${parts.filter(Boolean).join("&")}`;
}

/** { entry, step, mistakes, error }, where `error` describes an invalid part. */
function parseAddress(hash) {
  const parsed = { entry: null, step: 0, mistakes: new Set(), error: "" };
  let text = hash.slice(1);
  try {
    text = decodeURIComponent(text);
  } catch {
    return { ...parsed, error: "The address after # cannot be decoded." };
  }
  const parts = text.split("&").filter(Boolean), isEntry = part => !part.includes("=");
  parts.sort((one, other) => isEntry(one) - isEntry(other)); // which entries there are depends on the mistakes
  for (const part of parts) {
    const [key, value] = part.split("=");
    if (value === undefined) Object.assign(parsed, parseEntry(part, isMaskForgotten(parsed.mistakes)));
    else if (key === "step" && STEPS[value - 1]) parsed.step = Number(value);
    else if (key === "break" && value.split(",").every(one => BREAKS.some(({ key }) => key === one)))
      parsed.mistakes = new Set(value.split(","));
    else parsed.error = `The address contains “${part}”, which is not valid.`;
  }
  return parsed;
}

const isMaskForgotten = mistakes => Boolean(inputs) && mistakes.has("mask");
/** The entry, unless it is masked with these mistakes. */
const openableEntry = (entry, mistakes) =>
  entry && parseEntry(formatEntry(entry), isMaskForgotten(mistakes)).entry || null;
const linkTo = entry => formatAddress({ ...state, entry });

function navigate(changes) {
  const { scrollX, scrollY } = window;
  location.hash = formatAddress({ ...state, ...changes });
  window.scrollTo(scrollX, scrollY); // an empty address would scroll to the top
  renderAddress(); // now; the hashchange event comes later
}

/** Each address in the history has its own trail, so that going back shortens the trail as well. */
function renderAddress() {
  if (rendered.address === location.hash && history.state?.trail) return; // already rendered by navigate()
  rendered.address = location.hash;
  const { error, ...next } = parseAddress(location.hash);
  const isNewEntry = !isSameEntry(next.entry, state.entry);
  Object.assign(state, next);
  if (history.state?.trail) trail = history.state.trail;
  else if (isNewEntry) trail = extendTrail(trail, state.entry);
  history.replaceState({ trail }, "");
  if (isNewEntry && !state.entry && !isClosing) for (const view of views.values()) view.active = [0, 0];
  isLinkFollowed = isClosing = false;
  byId("notice").textContent = error;
  byId("notice").hidden = !error;
  render(isNewEntry);
}

function extendTrail(trail, entry) {
  if (!entry) return [];
  if (!isLinkFollowed) return [entry];
  const visited = trail.findIndex(one => isSameEntry(one, entry));
  return visited < 0 ? [...trail, entry] : trail.slice(0, visited + 1);
}

// ---- rendering -----------------------------------------------------------------------------------------------------

function render(isNewEntry = true) {
  const mistakes = [...state.mistakes].join();
  if (mistakes !== rendered.mistakes) showMistakes(inputs, state.mistakes);
  const hadFocus = byId("account").contains(document.activeElement);
  if (isNewEntry || mistakes !== rendered.mistakes) showComparison(state.mistakes, state.entry);
  current = showAccount(state.entry, trail, linkTo);
  if (hadFocus && state.entry) byId("entry").focus({ preventScroll: true });
  showSuggestions();
  if (isNewEntry && state.entry) choosePair(state.entry.name);
  updateSelection();
  if (state.step !== rendered.step) {
    showStep(state.step, navigate);
    if (narrow.matches) layoutAll(); // matrices that were hidden have no size
    views.get(STEPS[state.step - 1]?.computed[0])?.figure.scrollIntoView({ block: "nearest" });
  }
  const figure = (openedFrom?.quantity.name === state.entry?.name ? openedFrom : views.get(state.entry?.name))?.figure;
  if (isNewEntry && rendered.isComplete) figure?.scrollIntoView({ block: "nearest" });
  Object.assign(rendered, { mistakes, step: state.step, isComplete: true });
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

// ---- header, guide, events -----------------------------------------------------------------------------------------

function showHeader() {
  document.title = `Attention gradients: ${data.text}`;
  byId("about").textContent = `The backward pass of head ${data.head} (of ${data.heads}` +
    `${data.heads > 1 ? ", which attend in parallel" : ""}) in layer ${data.layer} (of ${data.layers}) on ` +
    `“${data.text}”: every number as a sum of products, traced back to the loss. The model is ` +
    `${data.model}; its loss on this text is ${formatRounded(data.loss, 5)}.` +
    (data.learns ? ` What is explained: ${data.learns}.` : "");
  const line = byId("characters");
  data.reads.forEach((label, n) => {
    const character = put(line, "span");
    put(character, "small", {}, n);
    character.append(label);
  });
  const next = put(line, "span", { class: "quiet" });
  put(next, "small", {}, "next");
  next.append(data.vocabulary[data.next.at(-1)] ?? "");
  byId("foot").append("Made by ");
  put(byId("foot"), "bdi", {}, data.command.join(""));
  byId("foot").append(". This file works offline.");
}

function showGuide() {
  const { cols: D } = quantities.get("Q"), T = data.reads.length;
  const letters = [["i", "the position of the query, a row of S"], ["j", "the position of the key, a column of S"],
    ["k", "a position that a sum runs over"], ["d", `one of the D = ${D} channels of a head`],
    ["m", `one of the C = ${data.width} channels of the stream`], ["u", "a hidden unit of an MLP"],
    ["v", "a token of the vocabulary"], ["a", "a channel or token that a sum runs over"], ["c", `1/√D = 1/√${D}`],
    ["T", `the number of positions, ${T}; all indices count from 0`]];
  for (const [letter, meaning] of letters) {
    put(byId("indices"), "dt", {}, letter);
    put(byId("indices"), "dd", {}, meaning);
  }
}

/** An entry such as dK[4,2]; or the largest one of the matrix with this name, or with these words in its meaning. */
function findEntry(text) {
  const direct = parseEntry(text.trim(), isMaskForgotten(state.mistakes));
  if (direct.entry) return direct;
  const words = text.toLowerCase().split(/[\s,]+/).filter(Boolean), wantsGradient = words.includes("gradient");
  const fits = textOf => one => words.every(word => word === "gradient" || textOf(one).toLowerCase().includes(word));
  const nameOf = ({ name }) => `${name} ${NAMES[name.replace(/^d/, "")] ?? ""}`;
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
  field.onkeydown = event => {
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
  for (const [name, kind] of [["dS", "of a score"], ["dX", "of the input"], ["dW_q", "of a weight"], ["L", ""]]) {
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
    if (event.key === "Escape") closeAccount();
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === byId("find")) return;
    if (event.key === "/") {
      event.preventDefault();
      byId("find").select();
    }
    if (event.key === "n" && state.step < STEPS.length) navigate({ step: state.step + 1 });
    if (event.key === "p" && state.step > 1) navigate({ step: state.step - 1 });
  };
  byId("toggle-steps").onclick = () => navigate({ step: state.step ? 0 : 1 });
  document.querySelector(".skip").onclick = event => {
    event.preventDefault(); // the address is the state of the page
    byId("picture").focus();
  };
  byId("account").onclick = event => { isLinkFollowed ||= Boolean(event.target.closest("a")); };
  window.onhashchange = renderAddress;
  const repaint = () => { readTheme(); layoutAll(); };
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).onchange = repaint;
  new ResizeObserver(() => {
    if (Math.abs(byId("flow").getBoundingClientRect().width - widthOfFlow) < 1) drawArrows();
    else layoutAll();
  }).observe(byId("flow"));
}

readTheme();
showHeader();
showGuide();
drawPicture(openEntry);
inputs = inputsFromFile();
showSelfCheck(inputs);
putSwitches(mistakes => navigate({ mistakes, entry: openableEntry(state.entry, mistakes) }));
addListeners();
addFind();
renderAddress();
