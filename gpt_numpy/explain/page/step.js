// Take a step: move the weights against their gradient, and see what becomes of the loss. The straight line predicts
// L - rate |g|²; the loss follows it for a small rate only, since it is curved.

const PER_DECADE = 4; // rates of the curve, from 0.0001 to 17.8
const RATES = Array.from({ length: 22 }, (_, n) => 10 ** (-4 + n / PER_DECADE));
/**
 * isChosen: whether the user has moved the slider; lossThere: at the very rate, undefined until it is measured.
 * @type {{rate: number, isChosen: boolean, scope: string, curve: Answer<"curve">, lossThere: number, taken: number}}
 */
const step = { rate: .1, isChosen: false, scope: "all", curve: null, lossThere: undefined, taken: 0 };
/** @type {ReturnType<typeof setTimeout>} */
let rateTimer; // of the measurement at a rate that was chosen

/** @type {() => Scope} */
const scopeOfStep = () => step.scope === "all" ? {} : { layer: scene.layer, head: scene.head };

/** What is on the screen is of other numbers: nothing of it stays until the new curve is there. */
function clearCurve() {
  step.curve = null;
  clearTimeout(rateTimer);
  byId("learn").setAttribute("aria-busy", "true");
  byId("prediction").textContent = "Measuring the curve …";
}

/** Asks for the curve of the loss over the rate, for the text, the head and the weights as they are. */
async function showCurve() {
  if (byId("learn").hidden) return;
  const of = shownScene, scope = step.scope;
  clearCurve();
  const curve = await ask("curve", { ...read(), rates: RATES, scope: scopeOfStep() });
  if (of !== shownScene || scope !== step.scope) return; // something else was chosen meanwhile
  step.curve = curve;
  byId("learn").removeAttribute("aria-busy");
  byId("one-step").disabled = byId("ten-steps").disabled = false; // from the first curve on there is a rate
  if (!step.isChosen) byId("rate").value = firstRate(curve); // the slider rounds it to its grid and range
  showRate(0);
}

/** The logarithm of the rate for which the line predicts a fifth less. @param {Answer<"curve">} curve */
function firstRate({ L, squared }) {
  const rate = .2 * L / squared;
  return rate > 0 ? Math.min(Math.log10(rate), 2) : byId("rate").value; // NaN and infinity are no rates
}

/** The curve at the rate of the slider: at once between its points, after the delay measured. @param {number} delay */
function showRate(delay) {
  step.rate = 10 ** byId("rate").value;
  step.lossThere = undefined;
  byId("rate-label").textContent = formatRounded(step.rate, 2);
  clearTimeout(rateTimer);
  if (!step.curve) return; // being measured
  drawCurve();
  rateTimer = setTimeout(async () => {
    const { rate, curve } = step;
    const { losses: [loss] } = await ask("curve", { ...read(), rates: [rate], scope: scopeOfStep() });
    if (rate !== step.rate || curve !== step.curve) return;
    step.lossThere = loss;
    drawCurve();
  }, delay);
}

const WIDTH = 420, HEIGHT = 130, LEFT = 40, BOTTOM = 18; // of the drawing

function drawCurve() {
  const { rate, lossThere, curve: { L, squared, losses } } = step, svg = byId("curve");
  const logs = RATES.map(Math.log10), top = Math.max(L * 1.6, L + .3);
  /** @type {(rate: number) => number} */
  const x = r => LEFT + (Math.log10(r) - logs[0]) / (logs.at(-1) - logs[0]) * (WIDTH - LEFT - 4);
  /** @type {(loss: number) => number} */
  const heightOf = l => Number.isNaN(l) ? 3 : Math.max(-3, Math.min(3, l / top)); // what is no number is too high
  /** @type {(loss: number) => number} */
  const y = l => 4 + (1 - heightOf(l)) * (HEIGHT - BOTTOM - 4); // what is beyond the drawing is cut off
  /** @type {(lossAt: (rate: number, n: number) => number) => string} */
  const path = lossAt => `M${RATES.map((r, n) => `${x(r).toFixed(1)} ${y(lossAt(r, n)).toFixed(1)}`).join("L")}`;
  svg.replaceChildren();
  put(svg, "path", { class: "level", d: `M${LEFT} ${y(L)}H${WIDTH}` });
  put(svg, "text", { x: 0, y: y(L) + 4 }, formatRounded(L, 3));
  put(svg, "path", { class: "line", d: path(r => L - r * squared) });
  put(svg, "path", { class: "loss", d: path((_, n) => losses[n]) });
  for (const tick of [.001, .01, .1, 1, 10])
    put(svg, "text", { x: x(tick), y: HEIGHT - 3, "text-anchor": "middle" }, tick);
  put(svg, "text", { x: 0, y: 10 }, "loss");
  put(svg, "text", { x: 0, y: HEIGHT - 3 }, "rate");
  const near = lossThere ?? lossOfCurve(rate), about = lossThere === undefined ? "about " : "";
  const line = L - rate * squared;
  put(svg, "circle", { cx: x(rate), cy: Math.max(4, y(near)), r: 4 }); // one beyond the drawing is at its upper edge
  const says = !Number.isFinite(near) ? "too far: the loss is no longer a number."
    : `the curve says ${about}${formatRounded(near, 5)}${near > L ? ": too far, the loss rises." : "."}`;
  byId("prediction").textContent = `L = ${formatRounded(L, 5)} now; the line predicts ${formatRounded(line, 5)} ` +
    `(L − rate · |g|², |g|² = ${formatRounded(squared, 3)}); ${says}${ofLine(line)}`;
}

/** @type {(predicted: number) => string} */
const ofLine = predicted => predicted < 0 ? " No loss can be below 0: the step is too long for the straight line." : "";

/** Between the computed points, linearly in the logarithm of the rate. @param {number} rate */
function lossOfCurve(rate) {
  const at = (Math.log10(rate) - Math.log10(RATES[0])) * PER_DECADE;
  const n = Math.max(0, Math.min(RATES.length - 2, Math.floor(at)));
  return step.curve.losses[n] + (at - n) * (step.curve.losses[n + 1] - step.curve.losses[n]);
}

/** `refresh` computes the scene anew with the changed weights. @param {() => Promise<void>} refresh */
function addStep(refresh) {
  const say = (/** @type {string} */ text) => { byId("step-result").textContent = text; };
  /** @type {(taken: number) => Promise<void>} */
  const changed = async taken => {
    step.taken = taken;
    byId("undo").disabled = byId("reset").disabled = !taken;
    clearCurve();
    await refresh();
  };
  /** @type {(times: number) => Promise<void>} */
  const take = async times => {
    const question = { ...read(), rate: step.rate, scope: scopeOfStep(), times };
    const { losses, predicted, isRefused, taken } = await ask("step", question);
    const all = losses.map(L => formatRounded(L, 5));
    if (isRefused) return say("The loss is no longer a number after a step of this rate; the weights stay the same.");
    say(times > 1 ? `${times} steps: ${all.join(", ")}.`
      : `Before: ${all[0]}. After: ${all[1]}. The straight line predicted ${formatRounded(predicted, 5)}.` +
        ofLine(predicted));
    await changed(taken);
  };
  byId("toggle-learn").onclick = () => {
    const isOpen = byId("learn").hidden;
    byId("learn").hidden = !isOpen;
    byId("toggle-learn").setAttribute("aria-expanded", String(isOpen));
    showCurve();
  };
  byId("rate").oninput = () => {
    step.isChosen = true;
    showRate(DELAY);
  };
  byId("scope").onchange = () => { step.scope = byId("scope").value; showCurve(); };
  byId("one-step").onclick = () => take(1);
  byId("ten-steps").onclick = () => take(10);
  for (const kind of /** @type {const} */ (["undo", "reset"])) byId(kind).onclick = async () => {
    const { taken } = await ask(kind);
    say(kind === "undo" ? "The last step is undone." : "The weights are those of the file again.");
    await changed(taken);
  };
}
