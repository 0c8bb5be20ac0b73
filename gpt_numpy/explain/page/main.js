// The page as a whole. Its state is in its address, `#dS[3,1]&step=4&break=scale,mask`: every change goes there first,
// and the page is shown as the address says. So links, reloading, back and forward all work the same way.

const state = { entry: null, step: 0, broken: new Set() };
const before = { address: null, broken: "", step: 0, isShown: false }; // as it was last shown
let given = null; // what the page's own arithmetic starts from
let current = null; // the account that is open
let trail = []; // the entries visited on the way to this one; kept with each address in the history
let isFollowing = false; // whether the next entry comes from a link in the account; any other begins a new trail
let origin = null; // the matrix from which the account was opened, to return to
let isReturning = false; // whether the account is closed to go on from its entry

// ---- the address ---------------------------------------------------------------------------------------------------

function addressOf({ entry, step, broken }) {
  const parts = [entry && written(entry), step && `step=${step}`, broken.size && `break=${[...broken].join(",")}`];
  return `#${parts.filter(Boolean).join("&")}`;
}

/** What an address says: { entry, step, broken }, and in `error` what of it makes no sense. */
function stateFrom(hash) {
  const found = { entry: null, step: 0, broken: new Set(), error: "" };
  let text = hash.slice(1);
  try {
    text = decodeURIComponent(text);
  } catch {
    return { ...found, error: "The address after # cannot be read." };
  }
  for (const part of text.split("&").filter(Boolean)) {
    const [key, value] = part.split("=");
    if (value === undefined) Object.assign(found, entryFrom(part));
    else if (key === "step" && STEPS[value - 1]) found.step = Number(value);
    else if (key === "break" && value.split(",").every(one => BREAKS.some(({ key }) => key === one)))
      found.broken = new Set(value.split(","));
    else found.error = `The address has “${part}”, which means nothing here.`;
  }
  return found;
}

const linkTo = entry => addressOf({ ...state, entry });

function go(changes) {
  const { scrollX, scrollY } = window;
  location.hash = addressOf({ ...state, ...changes });
  window.scrollTo(scrollX, scrollY); // an empty address would go to the top
  arrive(); // at once, not when the browser says so
}

/** Shows what the address says. The trail goes with each address, so that going back shortens it again. */
function arrive() {
  if (before.address === location.hash && history.state?.trail) return; // `go` was here already
  before.address = location.hash;
  const { error, ...next } = stateFrom(location.hash);
  const hasMoved = !isSame(next.entry, state.entry);
  Object.assign(state, next);
  if (history.state?.trail) trail = history.state.trail;
  else if (hasMoved) trail = extended(trail, state.entry);
  history.replaceState({ trail }, "");
  if (hasMoved && !state.entry && !isReturning) for (const view of views.values()) view.active = [0, 0];
  isFollowing = isReturning = false;
  byId("notice").textContent = error;
  byId("notice").hidden = !error;
  show(hasMoved);
}

function extended(trail, entry) {
  if (!entry) return [];
  const known = trail.findIndex(one => isSame(one, entry));
  if (!isFollowing) return [entry];
  return known < 0 ? [...trail, entry] : trail.slice(0, known + 1);
}

// ---- showing -------------------------------------------------------------------------------------------------------

function show(hasMoved = true) {
  const broken = [...state.broken].join();
  if (broken !== before.broken) showBroken(given, state.broken);
  const wasInside = byId("account").contains(document.activeElement);
  current = showAccount(state.entry, trail, linkTo);
  if (wasInside && state.entry) byId("entry").focus({ preventScroll: true });
  suggest();
  light();
  if (state.step !== before.step) {
    showStep(state.step, go);
    views.get(STEPS[state.step - 1]?.asked[0])?.figure.scrollIntoView({ block: "nearest" });
  }
  const figure = views.get(state.entry?.name)?.figure;
  if (hasMoved && before.isShown) figure?.scrollIntoView({ block: "nearest" });
  Object.assign(before, { broken, step: state.step, isShown: true });
}

/** Frames the chosen entry and, in all matrices, those that it comes from. */
function light() {
  const sources = current ? sourcesOf(current) : [];
  for (const [name, view] of views) {
    view.lit = sources.filter(one => one.name === name);
    view.figure.toggleAttribute("data-lit", view.lit.length > 0);
    view.chosen = state.entry?.name === name ? view.cellOf(state.entry.index) : null;
    if (view.chosen && view.box) {
      view.active = view.chosen;
      view.bringIn(view.chosen);
    }
    view.paint();
  }
}

function openEntry(entry, by) {
  origin = views.get(entry.name);
  hideTip();
  go({ entry });
  if (by === "keyboard") byId("entry").focus({ preventScroll: true });
}

function closeAccount() {
  const view = origin ?? views.get(state.entry?.name);
  if (!state.entry) return;
  const isInside = byId("account").contains(document.activeElement);
  isReturning = true;
  go({ entry: null });
  if (isInside) view?.box?.focus({ preventScroll: true });
}

// ---- the head, the keys, the sizes ---------------------------------------------------------------------------------

function showHead() {
  document.title = `Attention, backwards: ${data.text}`;
  byId("about").textContent = `Head ${data.head} (of ${data.heads}) of layer ${data.layer} (of ${data.layers}) reads ` +
    `“${data.text}”. Every number of its backward pass is opened into the products that it is the sum of, down to the loss. ` +
    `The model is ${data.model}; its loss on this text is ${rounded(data.loss, 5)}.`;
  const line = byId("characters");
  data.reads.forEach((label, n) => {
    const one = put(line, "span");
    put(one, "small", {}, n);
    one.append(label);
  });
  const last = put(line, "span", { class: "quiet" });
  put(last, "small", {}, "next");
  last.append(data.vocabulary[data.next.at(-1)] ?? "");
  byId("foot").append("Made by ");
  put(byId("foot"), "bdi", {}, data.command.join(""));
  byId("foot").append(". The file needs no network and fetches nothing.");
}

function showGuide() {
  const { cols: D } = quantities.get("Q"), T = data.reads.length;
  const letters = [["i", "the position that looks, a row of S"], ["j", "the position looked at, a column of S"],
    ["k", "a position that a sum runs over"], ["d", `one of the D = ${D} numbers of a head`],
    ["m", `one of the C = ${data.width} channels of the stream`], ["u", "one of the numbers inside an MLP"],
    ["v", "a token of the vocabulary"], ["a", "another channel or token, that a sum runs over"], ["c", `1/√D = 1/√${D}`],
    ["T", `the number of positions, ${T}; all counting starts at 0`]];
  for (const [letter, meaning] of letters) {
    put(byId("indices"), "dt", {}, letter);
    put(byId("indices"), "dd", {}, meaning);
  }
}

/** The largest entries of some matrices, to begin with; anew each time, for links keep the state of the page. */
function suggest() {
  const line = byId("suggestions");
  line.textContent = "To begin with: ";
  for (const [name, what] of [["dS", "of a score"], ["dX", "of the input"], ["dW_q", "of a weight"], ["L", ""]]) {
    const quantity = quantities.get(name), { numbers, cols } = quantity;
    if (!numbers) continue;
    const largest = largestOf(numbers), at = numbers.findIndex(x => Math.abs(x) === largest);
    if (name === "L") line.append("and the loss, ");
    putLink(line, { name, index: quantity.index(Math.floor(at / cols), at % cols) }, linkTo);
    line.append(name === "L" ? "." : `, the largest gradient ${what}; `);
  }
}

function listen() {
  document.onkeydown = event => {
    if (event.key === "Escape") closeAccount();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n" && state.step < STEPS.length) go({ step: state.step + 1 });
    if (event.key === "p" && state.step > 1) go({ step: state.step - 1 });
  };
  byId("walk").onclick = () => go({ step: state.step ? 0 : 1 });
  document.querySelector(".skip").onclick = event => {
    event.preventDefault(); // the address keeps the state of the page
    byId("picture").focus();
  };
  byId("account").onclick = event => { isFollowing ||= Boolean(event.target.closest("a")); };
  window.onhashchange = arrive;
  const repaint = () => { readTheme(); layoutAll(); };
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).onchange = repaint;
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (Math.abs(contentRect.width - width) < 1) return drawArrows();
    width = contentRect.width;
    layoutAll();
  }).observe(byId("flow"));
}

readTheme();
showHead();
showGuide();
drawPicture(openEntry);
given = givenByFile();
showOwn(given);
putSwitches(broken => go({ broken }));
listen();
arrive();
