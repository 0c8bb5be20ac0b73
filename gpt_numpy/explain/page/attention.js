// One attention head, forward and backward: of the whole model in model.js, and with the mistakes of breaks.js.

const INPUTS = ["X", "W_q", "W_k", "W_v", "W_o", "b_q", "b_k", "b_v", "b_o"]; // a model may have no biases
const GIVEN = ["Q", "K", "V", "dO"]; // the inputs of an example, which has no model

/** @typedef {(name: string, A: Matrix) => Matrix} Perturb  receives each value; returns the one to go on with */

/** @type {Set<string>} */
const NO_MISTAKES = new Set(); // keys of breaks.js
/** @type {Perturb} */
const asItIs = (name, A) => A;

/** The values; `perturb` is for difference quotients. @param {Matrices} inputs  @returns {Matrices} */
function forward(inputs, mistakes = NO_MISTAKES, perturb = asItIs) {
  const [X, W_q, W_k, W_v, W_o, b_q, b_k, b_v, b_o] = INPUTS.map(name => inputs[name] && perturb(name, inputs[name]));
  /** @type {(name: string, W: Matrix, b: Matrix) => Matrix} */
  const project = (name, W, b) => perturb(name, inputs[name] ?? addBias(matmul(X, transpose(W)), b));
  const Q = project("Q", W_q, b_q), K = project("K", W_k, b_k), V = project("V", W_v, b_v);
  const scores = scaleMatrix(mistakes.has("saturate") ? 1 : 1 / Math.sqrt(Q.cols), matmul(Q, transpose(K)));
  const S = perturb("S", mistakes.has("mask") ? scores : applyMask(scores, -Infinity));
  const P = perturb("P", softmax(S));
  const O = perturb("O", matmul(P, V));
  if (!X) return { Q, K, V, S, P, O };
  const Y = addMatrices(addBias(matmul(O, transpose(W_o)), b_o), inputs.Y_others);
  return { X, Q, K, V, S, P, O, Y };
}

/**
 * The gradients, each below the forward line that it differentiates.
 * @param {Matrices} inputs  with dY, or dO  @param {Matrices} values  @returns {Matrices}
 */
function backward(inputs, { X, Q, K, V, P, O }, mistakes = NO_MISTAKES) {
  const { dY, W_q, W_k, W_v, W_o } = inputs, noScale = mistakes.has("scale") || mistakes.has("saturate");
  const c = noScale ? 1 : 1 / Math.sqrt(Q.cols);

  // Y = O W_oᵀ + b_o
  const dO = inputs.dO ?? matmul(dY, W_o);

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

  const attention = { dO, dP: applyMask(dP, 0), dP_unmasked: dP, dV, dS, dQ, dK };
  if (!X) return attention;

  // Q = X W_qᵀ + b_q, and the same for K and V: X is used three times
  const uses = [matmul(dQ, W_q), matmul(dK, W_k), matmul(dV, W_v)];
  const dX_head = mistakes.has("equals") ? uses[2] : addMatrices(...uses);
  const [dW_q, dW_k, dW_v] = [dQ, dK, dV].map(A => matmul(transpose(A), X));
  const [db_q, db_k, db_v] = [dQ, dK, dV].map(columnSums);
  const dW_o = matmul(transpose(dY), O), db_o = columnSums(dY); // of Y = O W_oᵀ + b_o

  return { ...attention, dX_head, dW_q, db_q, dW_k, db_k, dW_v, db_v, dW_o, db_o };
}
