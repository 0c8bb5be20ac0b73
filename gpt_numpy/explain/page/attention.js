// One attention head, forward and backward, computed by the page itself: compared with the numbers of the file, and run
// again with the mistakes of breaks.js. A matrix is { rows, cols, values } in row-major order.

const makeMatrix = (rows, cols, values = new Float64Array(rows * cols)) => ({ rows, cols, values });
const fillMatrix = (rows, cols, entry) => makeMatrix(rows, cols,
  Float64Array.from({ length: rows * cols }, (_, n) => entry(Math.floor(n / cols), n % cols)));
const transpose = A => fillMatrix(A.cols, A.rows, (i, j) => A.values[j * A.cols + i]);
const mapEntries = (A, change) => makeMatrix(A.rows, A.cols, A.values.map(change));
const addMatrices = (A, ...others) =>
  others.filter(Boolean).reduce((sum, B) => mapEntries(sum, (x, n) => x + B.values[n]), A);
const scaleMatrix = (c, A) => mapEntries(A, x => c * x);
const innerProduct = (A, B) => A.values.reduce((sum, x, n) => sum + x * B.values[n], 0);
const addBias = (A, b) => b ? mapEntries(A, (x, n) => x + b.values[n % A.cols]) : A; // to every row
const columnSums = A => matmul(fillMatrix(1, A.rows, () => 1), A);
const rowSums = A => Float64Array.from({ length: A.rows }, (_, i) =>
  A.values.subarray(i * A.cols, (i + 1) * A.cols).reduce((sum, x) => sum + x, 0));
const applyMask = (A, masked) => mapEntries(A, (x, n) => n % A.cols > Math.floor(n / A.cols) ? masked : x);

function matmul(A, B) {
  const C = makeMatrix(A.rows, B.cols);
  for (let i = 0; i < A.rows; i++)
    for (let k = 0; k < A.cols; k++)
      for (let j = 0, a = A.values[i * A.cols + k]; j < B.cols; j++)
        C.values[i * B.cols + j] += a * B.values[k * B.cols + j];
  return C;
}

function softmax(S) {
  const P = makeMatrix(S.rows, S.cols);
  for (let i = 0; i < S.rows; i++) {
    const row = S.values.subarray(i * S.cols, (i + 1) * S.cols), largest = Math.max(...row);
    const powers = row.map(x => Math.exp(x - largest)), total = powers.reduce((sum, x) => sum + x, 0);
    P.values.set(powers.map(x => x / total), i * S.cols);
  }
  return P;
}

const INPUTS = ["X", "W_q", "W_k", "W_v", "W_o", "b_q", "b_k", "b_v", "b_o"]; // a model may have no biases

/** For difference quotients, `perturbations` has matrices, by name, that are added to inputs or intermediate values. */
function forward(inputs, mistakes, perturbations = {}) {
  const perturb = (name, A) => perturbations[name] ? addMatrices(A, perturbations[name]) : A;
  const [X, W_q, W_k, W_v, W_o, b_q, b_k, b_v, b_o] = INPUTS.map(name => inputs[name] && perturb(name, inputs[name]));
  const Q = perturb("Q", addBias(matmul(X, transpose(W_q)), b_q));
  const K = perturb("K", addBias(matmul(X, transpose(W_k)), b_k));
  const V = perturb("V", addBias(matmul(X, transpose(W_v)), b_v));
  const scores = scaleMatrix(mistakes.has("saturate") ? 1 : data.constants.c, matmul(Q, transpose(K)));
  const S = perturb("S", mistakes.has("mask") ? scores : applyMask(scores, -Infinity));
  const P = perturb("P", softmax(S));
  const O = perturb("O", matmul(P, V));
  const Y = addMatrices(addBias(matmul(O, transpose(W_o)), b_o), inputs.Y_others);
  return { X, Q, K, V, S, P, O, Y };
}

/** The gradients, each below the forward line that it differentiates. */
function backward(inputs, { X, Q, K, V, P, O }, mistakes) {
  const { dY, W_q, W_k, W_v, W_o } = inputs, noScale = mistakes.has("scale") || mistakes.has("saturate");
  const c = noScale ? 1 : data.constants.c;

  // Y = O W_oᵀ + b_o
  const dO = matmul(dY, W_o);
  const dW_o = matmul(transpose(dY), O), db_o = columnSums(dY);

  // O = P V
  const dP = matmul(dO, transpose(V));
  const dV = matmul(transpose(P), dO);

  // P = softmax of each row of S
  const means = rowSums(mapEntries(P, (p, n) => p * dP.values[n]));
  const dS = mapEntries(P, (p, n) =>
    p * (dP.values[n] - (mistakes.has("rowsum") ? 0 : means[Math.floor(n / P.cols)])));

  // S = c Q Kᵀ
  const dQ = scaleMatrix(c, matmul(dS, K));
  const dK = scaleMatrix(c, matmul(mistakes.has("transpose") ? dS : transpose(dS), Q));

  // Q = X W_qᵀ + b_q, and the same for K and V: X is used three times
  const uses = [matmul(dQ, W_q), matmul(dK, W_k), matmul(dV, W_v)];
  const dX_head = mistakes.has("equals") ? uses[2] : addMatrices(...uses);
  const dX = addMatrices(dX_head, inputs.dX_others);
  const [dW_q, dW_k, dW_v] = [dQ, dK, dV].map(A => matmul(transpose(A), X));
  const [db_q, db_k, db_v] = [dQ, dK, dV].map(columnSums);

  // X = n w + b, and n = (R - mean) r
  const dR = layerNormBackward(inputs, dX);
  return {
    dO, dP: applyMask(dP, 0), dP_unmasked: dP, dV, dS, dQ, dK, dX, dX_head, dR,
    dW_q, db_q, dW_k, db_k, dW_v, db_v, dW_o, db_o,
  };
}

/** Shifting or scaling a row of R does not change n, so the mean of dn and its component along n are removed. */
function layerNormBackward({ n, r, w }, dX) {
  const dn = mapEntries(dX, (x, k) => x * w.values[k % w.cols]), rowMeans = A => rowSums(A).map(sum => sum / A.cols);
  const means = rowMeans(dn), along = rowMeans(mapEntries(dn, (x, k) => x * n.values[k]));
  return fillMatrix(dX.rows, dX.cols, (i, m) =>
    r.values[i] * (dn.values[i * dX.cols + m] - means[i] - n.values[i * dX.cols + m] * along[i]));
}

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
  const values = forward(inputs, mistakes);
  return { ...values, ...backward(inputs, values, mistakes) };
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
  const objective = h => innerProduct(forward(inputs, mistakes, { [name]: scaleMatrix(h, direction) }).Y, inputs.dY);
  const slope = (objective(step) - objective(-step)) / (2 * step), predicted = innerProduct(gradient, direction);
  const size = innerProduct(mapEntries(gradient, Math.abs), mapEntries(direction, Math.abs));
  const terms = innerProduct(mapEntries(inputs.dY, Math.abs), mapEntries(computed.Y, Math.abs));
  const resolution = 1e-14 * terms / step; // rounding of the objective
  return { slope, predicted, agrees: Math.abs(slope - predicted) <= 1e-5 * size + resolution };
}

/** The largest change of an earlier output when the input of the last position changes; 0 in causal attention. */
function causalityLeak(inputs, mistakes) {
  const { rows, cols } = inputs.X, last = fillMatrix(rows, cols, i => i === rows - 1 ? 1 : 0);
  const before = forward(inputs, mistakes).Y, after = forward(inputs, mistakes, { X: last }).Y;
  return largestMagnitude(after.values.subarray(0, (rows - 1) * cols).map((y, n) => y - before.values[n]));
}
