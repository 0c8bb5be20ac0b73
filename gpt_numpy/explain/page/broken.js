// The head as it is computed with the mistakes of breaks.js, and the checks that find them: run on its inputs alone, with
// the gradient dY as it is without a mistake.

/** All matrices that the computation starts from; null if some are not on the page. */
function inputsFromFile() {
  const read = name => {
    const quantity = quantities.get(name);
    return quantity?.numbers ? makeMatrix(quantity.rows, quantity.cols, quantity.numbers) : undefined;
  };
  const names = [...INPUTS, "n", "r", "w", "dY", "Y_others", "dX_others"].filter(name => quantities.has(name));
  return names.every(read) ? Object.fromEntries(names.map(name => [name, read(name)])) : null;
}

/** All values and gradients by name, with these mistakes in the code. */
function computeHead(inputs, mistakes) {
  const values = forward(inputs, mistakes), gradients = backward(inputs, values, mistakes);
  const dX = addMatrices(gradients.dX_head, inputs.dX_others);
  return { ...values, ...gradients, dX, dR: layerNormBackward({ ...inputs, r: inputs.r.values }, dX) };
}

/**
 * Compares the gradient with a central difference of Σ dY Y in one direction, using the same code, mistakes included.
 * The direction changes every entry, so it tests the complete matrix.
 */
function gradcheck(inputs, computed, mistakes, name, step = 1e-4) {
  const gradient = computed[name === "X" ? "dX_head" : `d${name}`];
  const wave = mapEntries(gradient, (_, n) => Math.cos(2.4 * n + 1));
  const hasMask = name === "P" || MASKED.includes(name) && !mistakes.has("mask"); // masked entries of dP are 0
  const direction = hasMask ? applyMask(wave, 0) : wave;
  const perturb = h => (one, A) => one === name ? addMatrices(A, scaleMatrix(h, direction)) : A;
  const objective = h => innerProduct(forward(inputs, mistakes, perturb(h)).Y, inputs.dY);
  const slope = (objective(step) - objective(-step)) / (2 * step), predicted = innerProduct(gradient, direction);
  const size = innerProduct(mapEntries(gradient, Math.abs), mapEntries(direction, Math.abs));
  const terms = innerProduct(mapEntries(inputs.dY, Math.abs), mapEntries(computed.Y, Math.abs));
  const resolution = 1e-14 * terms / step; // rounding of the objective
  return { slope, predicted, agrees: Math.abs(slope - predicted) <= 1e-5 * size + resolution };
}

/** The largest change of an earlier output when the input of the last position changes; 0 in causal attention. */
function causalityLeak(inputs, mistakes) {
  const { rows, cols } = inputs.X, last = fillMatrix(rows, cols, i => i === rows - 1 ? 1 : 0);
  const perturb = (name, A) => name === "X" ? addMatrices(A, last) : A;
  const before = forward(inputs, mistakes).Y, after = forward(inputs, mistakes, perturb).Y;
  return largestMagnitude(after.values.subarray(0, (rows - 1) * cols).map((y, n) => y - before.values[n]));
}
