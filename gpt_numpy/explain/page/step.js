// Take a step: move the weights against their gradient, and see what becomes of the loss. The straight line predicts
// L - rate |g|²; the loss follows it for a small rate only, since it is curved.

const PER_DECADE = 4; // rates of the curve, from 0.0001 to 17.8
const RATES = Array.from({ length: 22 }, (_, n) => 10 ** (-4 + n / PER_DECADE));
/** @type {{rate: number, scope: string, curve: Answer<"curve">, taken: number}} */
const step = { rate: .1, scope: "all", curve: null, taken: 0 };

/** @type {() => Scope} */
const scopeOfStep = () => step.scope === "all" ? {} : { layer: scene.layer, head: scene.head };

/** Asks for the curve of the loss over the rate, for the text, the head and the weights as they are. */
async function showCurve() {
  if (byId("learn").hidden) return;
  const of = shownScene, scope = step.scope;
  byId("learn").setAttribute("aria-busy", "true"); // the curve on the screen is of other numbers
  const curve = await ask("curve", { ...read(), rates: RATES, scope: scopeOfStep() });
  if (of !== shownScene || scope !== step.scope) return; // something else was chosen meanwhile
  step.curve = curve;
  byId("learn").removeAttribute("aria-busy");
  drawCurve();
}

const WIDTH = 420, HEIGHT = 130, LEFT = 40, BOTTOM = 18; // of the drawing

function drawCurve() {
  const { rate, curve: { L, squared, losses } } = step, svg = byId("curve");
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
  const near = lossOfCurve(rate);
  put(svg, "circle", { cx: x(rate), cy: y(near), r: 4 });
  byId("rate-label").textContent = formatRounded(rate, 2);
  byId("prediction").textContent = `L = ${formatRounded(L, 5)} now; the line predicts ${formatRounded(L - rate * squared, 5)} ` +
    `(L − rate · |g|², |g|² = ${formatRounded(squared, 3)}); ` + (!Number.isFinite(near) ? "too far: the loss is no longer a number."
      : `the curve says ${formatRounded(near, 4)}${near > L ? ": too far, the loss rises." : "."}`);
}

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
    await refresh();
  };
  /** @type {(times: number) => Promise<void>} */
  const take = async times => {
    const question = { ...read(), rate: step.rate, scope: scopeOfStep(), times };
    const { losses, predicted, isRefused, taken } = await ask("step", question);
    const all = losses.map(L => formatRounded(L, 5));
    if (isRefused) return say("The loss is no longer a number after a step of this rate; the weights stay the same.");
    say(times > 1 ? `${times} steps: ${all.join(", ")}.`
      : `Before: ${all[0]}. After: ${all[1]}. The straight line predicted ${formatRounded(predicted, 5)}.`);
    await changed(taken);
  };
  byId("toggle-learn").onclick = () => {
    const isOpen = byId("learn").hidden;
    byId("learn").hidden = !isOpen;
    byId("toggle-learn").setAttribute("aria-expanded", String(isOpen));
    showCurve();
  };
  byId("rate").oninput = () => {
    step.rate = 10 ** byId("rate").value;
    if (step.curve) drawCurve();
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
