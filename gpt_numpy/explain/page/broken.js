// The head as it is computed with the mistakes of breaks.js, and the checks that find them: run on its inputs alone,
// with the gradient dY as it is without a mistake.

/** All matrices that the computation starts from; null if some are not on the page. @returns {Matrices} */
function inputsFromFile() {
  const read = (/** @type {string} */ name) => {
    const quantity = quantities.get(name);
    return quantity?.numbers ? makeMatrix(quantity.rows, quantity.cols, quantity.numbers) : undefined;
  };
  const given = GIVEN.filter(name => quantities.get(name).kind === "given");
  const names = [...INPUTS, ...given, "n", "r", "w", "dY", "Y_others", "dX_others"].filter(name => quantities.has(name));
  return names.every(read) ? Object.fromEntries(names.map(name => [name, read(name)])) : null;
}

/**
 * All values and gradients, with these mistakes in the code.
 * @param {Matrices} inputs  @param {Set<string>} mistakes  @returns {Matrices}
 */
function computeHead(inputs, mistakes) {
  const values = forward(inputs, mistakes), gradients = backward(inputs, values, mistakes);
  if (!inputs.X) return { ...values, ...gradients };
  const dX = addMatrices(gradients.dX_head, inputs.dX_others);
  return { ...values, ...gradients, dX, dR: layerNormBackward({ n: inputs.n, r: inputs.r.values, w: inputs.w }, dX) };
}

/**
 * Compares the gradient with a central difference of Σ dY Y, or Σ dO O, in one direction, with the same mistakes.
 * The direction changes every entry, so it tests the complete matrix.
 * @param {Matrices} inputs  @param {Matrices} computed  by computeHead  @param {Set<string>} mistakes
 * @param {string} name
 */
function gradcheck(inputs, computed, mistakes, name, step = 1e-4) {
  const gradient = computed[name === "X" ? "dX_head" : `d${name}`];
  const wave = mapEntries(gradient, (_, n) => Math.cos(2.4 * n + 1));
  const hasMask = name === "P" || MASKED.includes(name) && !mistakes.has("mask"); // masked entries of dP are 0
  const direction = hasMask ? applyMask(wave, 0) : wave;
  /** @type {(h: number) => Perturb} */
  const perturb = h => (one, A) => one === name ? addMatrices(A, scaleMatrix(h, direction)) : A;
  const end = endOf(inputs);
  /** @type {(h: number) => number} */
  const objective = h => innerProduct(forward(inputs, mistakes, perturb(h))[end], inputs[`d${end}`]);
  const slope = (objective(step) - objective(-step)) / (2 * step), predicted = innerProduct(gradient, direction);
  const size = innerProduct(mapEntries(gradient, Math.abs), mapEntries(direction, Math.abs));
  const terms = innerProduct(mapEntries(inputs[`d${end}`], Math.abs), mapEntries(computed[end], Math.abs));
  const resolution = 1e-14 * terms / step; // rounding of the objective
  return { slope, predicted, agrees: Math.abs(slope - predicted) <= 1e-5 * size + resolution };
}

/** The value whose gradient is given. @param {Matrices} inputs */
const endOf = inputs => inputs.dY ? "Y" : "O";

/**
 * The largest change of an earlier output when the input of the last position changes; 0 in causal attention.
 * @param {Matrices} inputs  @param {Set<string>} mistakes
 */
function causalityLeak(inputs, mistakes) {
  const changed = inputs.X ? ["X"] : ["Q", "K", "V"], end = endOf(inputs);
  /** @type {(A: Matrix) => Matrix} */
  const raiseLast = A => fillMatrix(A.rows, A.cols, (i, j) => A.values[i * A.cols + j] + (i === A.rows - 1 ? 1 : 0));
  /** @type {Perturb} */
  const perturb = (name, A) => changed.includes(name) ? raiseLast(A) : A;
  const before = forward(inputs, mistakes)[end], after = forward(inputs, mistakes, perturb)[end];
  const { rows, cols } = before;
  return largestMagnitude(after.values.subarray(0, (rows - 1) * cols).map((y, n) => y - before.values[n]));
}
