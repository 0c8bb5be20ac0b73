// One head of attention, forward and back, written out once more: the page's own arithmetic. It is compared with the
// file's numbers, and it is where the mistakes are made. A matrix is { rows, cols, of }, row after row in `of`.

const matrix = (rows, cols, of = new Float64Array(rows * cols)) => ({ rows, cols, of });
const filled = (rows, cols, entry) =>
  matrix(rows, cols, Float64Array.from({ length: rows * cols }, (_, n) => entry(Math.floor(n / cols), n % cols)));
const turned = A => filled(A.cols, A.rows, (i, j) => A.of[j * A.cols + i]);
const each = (A, change) => matrix(A.rows, A.cols, A.of.map(change));
const plus = (A, ...others) => others.filter(Boolean).reduce((sum, B) => each(sum, (x, n) => x + B.of[n]), A);
const scaled = (c, A) => each(A, x => c * x);
const inner = (A, B) => A.of.reduce((sum, x, n) => sum + x * B.of[n], 0);
const shifted = (A, b) => b ? each(A, (x, n) => x + b.of[n % A.cols]) : A; // adds the vector b to every row
const columnSums = A => times(filled(1, A.rows, () => 1), A);
const rowSums = A => Float64Array.from({ length: A.rows }, (_, i) =>
  A.of.subarray(i * A.cols, (i + 1) * A.cols).reduce((sum, x) => sum + x, 0));
const unlessAhead = (A, ahead) => each(A, (x, n) => n % A.cols > Math.floor(n / A.cols) ? ahead : x);

function times(A, B) {
  const C = matrix(A.rows, B.cols);
  for (let i = 0; i < A.rows; i++)
    for (let k = 0; k < A.cols; k++)
      for (let j = 0, a = A.of[i * A.cols + k]; j < B.cols; j++) C.of[i * B.cols + j] += a * B.of[k * B.cols + j];
  return C;
}

function softmax(S) {
  const P = matrix(S.rows, S.cols);
  for (let i = 0; i < S.rows; i++) {
    const row = S.of.subarray(i * S.cols, (i + 1) * S.cols), largest = Math.max(...row);
    const powers = row.map(x => Math.exp(x - largest)), total = powers.reduce((sum, x) => sum + x, 0);
    P.of.set(powers.map(x => x / total), i * S.cols);
  }
  return P;
}

const GIVEN = ["X", "W_q", "W_k", "W_v", "W_o", "b_q", "b_k", "b_v", "b_o"]; // a model may have no biases

/** `nudge` adds a matrix to the value of that name, wherever it is made: for differences. */
function forward(given, broken, nudge = {}) {
  const nudged = (name, A) => nudge[name] ? plus(A, nudge[name]) : A;
  const [X, W_q, W_k, W_v, W_o, b_q, b_k, b_v, b_o] = GIVEN.map(name => given[name] && nudged(name, given[name]));
  const Q = nudged("Q", shifted(times(X, turned(W_q)), b_q));
  const K = nudged("K", shifted(times(X, turned(W_k)), b_k));
  const V = nudged("V", shifted(times(X, turned(W_v)), b_v));
  const scores = scaled(data.constants.c, times(Q, turned(K)));
  const S = nudged("S", broken.has("mask") ? scores : unlessAhead(scores, -Infinity));
  const P = nudged("P", softmax(S));
  const O = nudged("O", times(P, V));
  const Y = plus(shifted(times(O, turned(W_o)), b_o), given.Y_others);
  return { X, Q, K, V, S, P, O, Y };
}

/** The gradients, each line under the forward line that it undoes. */
function backward(given, { X, Q, K, V, P, O }, broken) {
  const { dY, W_q, W_k, W_v, W_o } = given, c = broken.has("scale") ? 1 : data.constants.c;

  // Y = O W_oᵀ + b_o
  const dO = times(dY, W_o);
  const dW_o = times(turned(dY), O), db_o = columnSums(dY);

  // O = P V
  const dP = times(dO, turned(V));
  const dV = times(turned(P), dO);

  // P = softmax of each row of S
  const means = rowSums(each(P, (p, n) => p * dP.of[n]));
  const dS = each(P, (p, n) => p * (dP.of[n] - (broken.has("rowsum") ? 0 : means[Math.floor(n / P.cols)])));

  // S = c Q Kᵀ
  const dQ = scaled(c, times(dS, K));
  const dK = scaled(c, times(broken.has("transpose") ? dS : turned(dS), Q));

  // Q = X W_qᵀ + b_q, and so K and V: three uses of X
  const uses = [times(dQ, W_q), times(dK, W_k), times(dV, W_v)];
  const dX_own = broken.has("equals") ? uses[2] : plus(...uses);
  const dX = plus(dX_own, given.dX_others);
  const [dW_q, dW_k, dW_v] = [dQ, dK, dV].map(A => times(turned(A), X));
  const [db_q, db_k, db_v] = [dQ, dK, dV].map(columnSums);

  // X = n w + b, and n = (R - mean) r
  const dR = streamOf(given, dX);
  return { dO, dP: unlessAhead(dP, 0), dV, dS, dQ, dK, dX, dX_own, dR, dW_q, db_q, dW_k, db_k, dW_v, db_v, dW_o, db_o };
}

/** Back through the layer norm: less the mean, and less what goes along n, which the spread takes out again. */
function streamOf({ n, r, w }, dX) {
  const dn = each(dX, (x, at) => x * w.of[at % w.cols]), mean = sums => sums.map(sum => sum / dX.cols);
  const means = mean(rowSums(dn)), along = mean(rowSums(each(dn, (x, at) => x * n.of[at])));
  return filled(dX.rows, dX.cols, (i, m) =>
    r.of[i] * (dn.of[i * dX.cols + m] - means[i] - n.of[i * dX.cols + m] * along[i]));
}

/** What attention starts from, out of the file; null if some of it is not on the page. */
function givenByFile() {
  const taken = name => {
    const quantity = quantities.get(name);
    return quantity?.numbers ? matrix(quantity.rows, quantity.cols, quantity.numbers) : undefined;
  };
  const names = [...GIVEN, "n", "r", "w", "dY", "Y_others", "dX_others"].filter(name => quantities.has(name));
  return names.every(taken) ? Object.fromEntries(names.map(name => [name, taken(name)])) : null;
}

/** All matrices with these mistakes in the code, by name. */
function arithmetic(given, broken) {
  const values = forward(given, broken);
  return { ...values, ...backward(given, values, broken) };
}

/**
 * Gradcheck: the slope of Σ dY Y in one direction, by a central difference of this very code, against what the gradient
 * says. One direction with something of every entry tests the whole matrix.
 */
function gradcheck(given, found, broken, name, step = 1e-4) {
  const gradient = found[name === "X" ? "dX_own" : `d${name}`];
  const wave = each(gradient, (_, n) => Math.cos(2.4 * n + 1));
  const isMasked = name === "P" || MASKED.includes(name) && !broken.has("mask"); // dP is shown below the mask alone
  const direction = isMasked ? unlessAhead(wave, 0) : wave;
  const value = h => inner(forward(given, broken, { [name]: scaled(h, direction) }).Y, given.dY);
  const slope = (value(step) - value(-step)) / (2 * step), claimed = inner(gradient, direction);
  const size = inner(each(gradient, Math.abs), each(direction, Math.abs));
  const blind = 1e-14 * inner(each(given.dY, Math.abs), each(found.Y, Math.abs)) / step; // its own rounding
  return { slope, claimed, agrees: Math.abs(slope - claimed) <= 1e-5 * size + blind };
}

/** How much earlier outputs change when the last position reads something else: not at all, if nobody looks ahead. */
function leak(given, broken) {
  const { rows, cols } = given.X, last = filled(rows, cols, i => i === rows - 1 ? 1 : 0);
  const before = forward(given, broken).Y, after = forward(given, broken, { X: last }).Y;
  return largestOf(after.of.subarray(0, (rows - 1) * cols).map((y, n) => y - before.of[n]));
}
