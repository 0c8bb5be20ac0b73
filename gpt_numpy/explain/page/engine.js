// Runs the model in a worker, so that typing never waits for it. The page asks by messages { id, kind, ... }; every
// kind of question is a function of `answers`, and its result goes back with the same id.

/** @typedef {{ids: number[], targets: number[]}} Reading  the tokens to read, and those to predict */
/** @typedef {Reading & {layer: number, head: number}} HeadReading */
/** @typedef {Reading & {key: string, pass: Pass, gradients: Matrices}} TextPass */
/** @typedef {{layer?: number, head?: number}} Scope  of a step: a head, or all parameters */
/** @typedef {Object<string, number[]>} Lists  by name */
/** @typedef {Object<string, Float64Array>} Numbers  by name */
/** @typedef {{config: Config, weights: Object<string, string>, shapes: Lists}} PackedModel */

/** @type {Model} */
let model = null; // the weights in float64
/** @type {Matrices[]} */
const steps = []; // the weights before each step, for `undo`
/** @type {TextPass} */
let last = null; // the latest pass

const PERTURBED = /^([QKVSPORXYZ]|tok|N_f|R_f|[RNUGY]_(attn|mlp)\d+)$/; // values that runModel passes on by name
const wait = () => new Promise(done => setTimeout(done)); // lets other questions be answered in between

/** The pass of a text with its gradients; the latest one is kept. @param {number[]} ids  @param {number[]} targets */
function passOf(ids, targets) {
  const key = `${ids}|${targets}|${steps.length}`;
  if (last?.key === key) return last;
  const pass = runModel(model, ids, targets), gradients = pass.backward();
  return last = { key, ids, targets, pass, gradients };
}

const answers = {
  /** @param {PackedModel} model */
  load({ config, weights, shapes }) {
    const read = (/** @type {string} */ name) => {
      const [rows, cols] = shapes[name].length === 2 ? shapes[name] : [1, shapes[name][0]];
      return makeMatrix(rows, cols, unpackFloats(weights[name]));
    };
    model = { config, weights: Object.fromEntries(Object.keys(weights).map(name => [name, read(name)])) };
    model.weights["lm_head.weight"] ??= model.weights["tok_emb.weight"]; // the same table twice
    return {};
  },

  /**
   * The numbers of all quantities of a head, the attention weights of every head, and S, P and dS of a pinned one.
   * @param {HeadReading & {names: string[], pinned: number[]}} question
   */
  run({ ids, targets, layer, head, names, pinned }) {
    const found = passOf(ids, targets), { pass } = found, { layers, heads } = model.config;
    const numbers = Object.fromEntries(names.map(name => [name, numbersOf(model, found, name, layer, head)]));
    const maps = Array.from({ length: layers }, (_, n) =>
      Array.from({ length: heads }, (_, h) => /** @type {Matrix} */ (pass.values[`P${n}.${h}`]).values));
    const other = pinned && Object.fromEntries(
      ["S", "P", "dS"].map(name => [name, numbersOf(model, found, name, pinned[0], pinned[1])]));
    return { numbers, maps, other, L: pass.L };
  },

  /** The logits after every token. @param {{ids: number[]}} question */
  outputs: ({ ids }) => ({ values: /** @type {Matrix} */ (runModel(model, ids, ids).values.Z).values }),

  /** Of every value, parameter and gradient of the model. @param {Reading} text */
  digests({ ids, targets }) {
    const { pass, gradients } = passOf(ids, targets), /** @type {Lists} */ found = {};
    /** @type {(mark: string, all: Values) => void} */
    const add = (mark, all) => {
      for (const [name, A] of Object.entries(all)) if (A && "rows" in A) found[mark + name] = digestOf(A.values);
    };
    add("", pass.values), add("d", gradients);
    return { digests: found };
  },

  /**
   * (L(x + h) - L(x - h)) / 2h for entries of a quantity, given by their flat indices; null inside an operation.
   * @param {HeadReading & {name: string, places: number[], step: number}} question
   */
  async differences({ ids, targets, layer, head, name, places, step }) {
    const place = placeOf(model.config, name, layer, head), slopes = [];
    if (!place.isParameter && !PERTURBED.test(name)) return { slopes: null };
    for (const entry of places) {
      const loss = (/** @type {number} */ h) => lossWithChange(ids, targets, place, entry, h);
      slopes.push((loss(step) - loss(-step)) / (2 * step));
      if (places.length > 1) await wait();
    }
    return { slopes };
  },

  /**
   * The loss after a step of each rate, and |g|², by which a small step lowers it.
   * @param {Reading & {rates: number[], scope: Scope}} question
   */
  curve({ ids, targets, rates, scope }) {
    const { pass, gradients } = passOf(ids, targets), chosen = partOfStep(gradients, scope);
    const losses = rates.map(rate => {
      const before = model.weights;
      model.weights = stepped(chosen, rate);
      const { L } = runModel(model, ids, targets);
      model.weights = before;
      return L;
    });
    return { L: pass.L, squared: sumOfSquares(chosen), losses };
  },

  /**
   * If a loss is no longer a number, no step at all is taken.
   * @param {Reading & {rate: number, scope: Scope, times: number}} question
   */
  step({ ids, targets, rate, scope, times }) {
    const { length } = steps, losses = [passOf(ids, targets).pass.L];
    let predicted = 0;
    for (let n = 0; n < times; n++) {
      const chosen = partOfStep(passOf(ids, targets).gradients, scope);
      if (!n) predicted = losses[0] - rate * sumOfSquares(chosen);
      const before = model.weights, after = stepped(chosen, rate);
      const { L } = runModel({ ...model, weights: after }, ids, targets);
      if (!Number.isFinite(L)) {
        if (steps.length > length) model.weights = steps[length];
        steps.length = length;
        last = null;
        return { losses, predicted, isRefused: true };
      }
      steps.push(before);
      model.weights = after;
      losses.push(L);
    }
    return { losses, predicted, taken: steps.length };
  },

  undo() {
    if (steps.length) model.weights = steps.pop();
    last = null;
    return { taken: steps.length };
  },

  reset() {
    if (steps.length) model.weights = steps[0];
    steps.length = 0;
    last = null;
    return { taken: 0 };
  },
};

/** @type {(A: Matrix, place: number, h: number) => Matrix} */
function changed(A, place, h) {
  const values = A.values.slice();
  values[place] += h;
  return makeMatrix(A.rows, A.cols, values);
}

/**
 * L with h added to one entry; a place in a parameter counts the entries of the head's part.
 * @type {(ids: number[], targets: number[], place: Place, entry: number, h: number) => number}
 */
function lossWithChange(ids, targets, { name, isParameter, axis, first }, entry, h) {
  if (!isParameter) return runModel(model, ids, targets, (one, A) => one === name ? changed(A, entry, h) : A).L;
  const A = model.weights[name], D = model.config.width / model.config.heads;
  const at = axis === "cols" ? Math.floor(entry / D) * A.cols + first + entry % D
    : axis === "rows" ? first * (A.rows === 1 ? 1 : A.cols) + entry : entry;
  return runModel({ ...model, weights: { ...model.weights, [name]: changed(A, at, h) } }, ids, targets).L;
}

/**
 * The gradients that a step takes: of all parameters, or of this head's alone, with 0 for the rest of its matrices.
 * @type {(gradients: Matrices, scope: Scope) => Matrices}
 */
function partOfStep(gradients, { layer, head } = {}) {
  if (layer === undefined) {
    const all = Object.fromEntries(Object.keys(model.weights).map(name => [name, gradients[name]]));
    if (!model.config.isTied) return all;
    const both = addMatrices(all["tok_emb.weight"], all["lm_head.weight"]); // one table, used twice
    return { ...all, "tok_emb.weight": both, "lm_head.weight": both };
  }
  const { width, heads } = model.config, D = width / heads, name = `blocks.${layer}.attn`;
  const isOwn = (/** @type {number} */ row) => Math.floor(row % width / D) === head;
  /** @type {(A: Matrix, own: (i: number, j: number) => boolean) => Matrix} */
  const keepPart = (A, own) => fillMatrix(A.rows, A.cols, (i, j) => own(i, j) ? A.values[i * A.cols + j] : 0);
  const chosen = {
    [`${name}.c_attn.weight`]: keepPart(gradients[`${name}.c_attn.weight`], i => isOwn(i)),
    [`${name}.c_proj.weight`]: keepPart(gradients[`${name}.c_proj.weight`], (_, j) => isOwn(j)),
  };
  const bias = gradients[`${name}.c_attn.bias`];
  return bias ? { ...chosen, [`${name}.c_attn.bias`]: keepPart(bias, (_, j) => isOwn(j)) } : chosen;
}

/** |g|², in which a table that is used twice counts once. @type {(gradients: Matrices) => number} */
const sumOfSquares = gradients => Object.entries(gradients).reduce((sum, [name, A]) =>
  sum + (model.config.isTied && name === "lm_head.weight" ? 0 : innerProduct(A, A)), 0);

/** The weights after a step. @type {(gradients: Matrices, rate: number) => Matrices} */
function stepped(gradients, rate) {
  const after = { ...model.weights };
  for (const name in gradients)
    after[name] = mapEntries(after[name], (x, n) => x - rate * gradients[name].values[n]);
  return after;
}

/** @typedef {keyof typeof answers} Kind  of question */
/** @template {Kind} K  @typedef {Parameters<typeof answers[K]>[0]} Question */
/** @template {Kind} K  @typedef {Awaited<ReturnType<typeof answers[K]>>} Answer */

/** @param {{id: number, kind: Kind}} message  with the question */
async function answer(message) {
  try {
    return { id: message.id, ...await answers[message.kind](/** @type {any} */ (message)) };
  } catch (error) {
    return { id: message.id, error: String(error) };
  }
}

if (typeof document === "undefined") onmessage = async ({ data }) => postMessage(await answer(data));
