// The whole model, forward and backward, with the names of model.py. Each function returns its output and its backward,
// which takes the gradient of the output and returns those of the inputs.

/** @typedef {Object<string, Matrix|Float64Array>} Values  by name: matrices, or a number for each position */
/** @template G  @typedef {[y: Matrix, backward: (dy: Matrix) => G, inner?: Values]} Layer  inner: what is in between */

/** @type {(x: Matrix, W: Matrix, b?: Matrix) => Layer<Matrix[]>} */
const linear = (x, W, b) => [
  addBias(matmul(x, transpose(W)), b), //                                         y = x Wᵀ + b
  dy => [matmul(dy, W), matmul(transpose(dy), x), b && columnSums(dy)], //        dx = dy W, dW = dyᵀ x, db = Σ_i dy_i
];

/**
 * Each row with mean 0 and variance 1, then scaled and shifted.
 * @param {Matrix} x  @param {Matrix} w  @param {Matrix} [b]  @returns {Layer<Matrix[]>}
 */
function layerNorm(x, w, b) {
  const mean = rowMeans(x), var_ = rowMeans(mapEntries(x, (y, n) => (y - mean[Math.floor(n / x.cols)]) ** 2));
  const r = var_.map(y => 1 / Math.sqrt(y + 1e-5));
  const n = fillMatrix(x.rows, x.cols, (i, m) => (x.values[i * x.cols + m] - mean[i]) * r[i]);
  const y = addBias(mapEntries(n, (value, k) => value * w.values[k % w.cols]), b);
  const backward = (/** @type {Matrix} */ dy) => [
    layerNormBackward({ n, r, w }, dy), columnSums(mapEntries(dy, (value, k) => value * n.values[k])),
    b && columnSums(dy),
  ];
  return [y, backward, { mean, var: var_, r, n }];
}

/**
 * Shifting or scaling a row of x does not change n, so the mean of dn and its component along n are removed.
 * @param {{n: Matrix, r: Float64Array, w: Matrix}} inner  @param {Matrix} dy  @returns {Matrix}
 */
function layerNormBackward({ n, r, w }, dy) {
  const dn = mapEntries(dy, (value, k) => value * w.values[k % w.cols]);
  const means = rowMeans(dn), along = rowMeans(mapEntries(dn, (value, k) => value * n.values[k]));
  return fillMatrix(dy.rows, dy.cols, (i, m) =>
    r[i] * (dn.values[i * dy.cols + m] - means[i] - n.values[i * dy.cols + m] * along[i]));
}

/** @type {typeof rowSums} */
const rowMeans = A => rowSums(A).map(sum => sum / A.cols);

/**
 * u times the probability that a standard normal number is below u; or GPT-2's older form of it.
 * @param {Matrix} u  @param {"exact"|"tanh"} form
 * @returns {[y: Matrix, backward: (dy: Matrix) => Matrix, slope: Matrix]}
 */
function gelu(u, form) {
  const below = mapEntries(u, form === "exact"
    ? x => (1 + erf(x * Math.SQRT1_2)) / 2
    : x => (1 + Math.tanh(curve(x))) / 2);
  /** @type {(x: number, below: number) => number} */
  const density = form === "exact" // the derivative of `below`
    ? x => Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI)
    : (x, c) => 2 * c * (1 - c) * Math.sqrt(2 / Math.PI) * (1 + .134145 * x * x);
  const slope = mapEntries(u, (x, k) => below.values[k] + x * density(x, below.values[k]));
  return [
    mapEntries(u, (x, k) => x * below.values[k]),
    dy => mapEntries(dy, (y, k) => y * slope.values[k]),
    slope,
  ];
}

/** @type {(x: number) => number} */
const curve = x => Math.sqrt(2 / Math.PI) * (x + .044715 * x ** 3);

/** 2/√π e^(-x²) (x + 2x³/3 + 4x⁵/15 + …): no term is negative for x > 0, so nothing cancels. @param {number} x */
function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x, sum = x;
  for (let k = 1; Math.abs(term) > 1e-17 * Math.abs(sum); k++) sum += term *= 2 * x * x / (2 * k + 1);
  return 2 / Math.sqrt(Math.PI) * Math.exp(-x * x) * sum;
}

/**
 * The loss of each position, -log p of the target, and the gradient of their mean: (p - next) / T.
 * @param {Matrix} Z  @param {number[]} targets
 * @returns {[losses: Float64Array, backward: () => Matrix, p: Matrix]}
 */
function crossEntropy(Z, targets) {
  const p = softmax(Z), T = Z.rows, /** @type {(i: number, v: number) => number} */ at = (i, v) => i * Z.cols + v;
  const losses = Float64Array.from(targets, (target, i) => {
    const row = Z.values.subarray(at(i, 0), at(i + 1, 0)), largest = Math.max(...row);
    return largest + Math.log(row.reduce((sum, z) => sum + Math.exp(z - largest), 0)) - row[target];
  });
  const backward = () => fillMatrix(T, Z.cols, (i, v) => (p.values[at(i, v)] - (v === targets[i] ? 1 : 0)) / T);
  return [losses, backward, p];
}

/**
 * One head's rows of c_attn, in which W_q, W_k and W_v of all heads are stacked, and its columns of c_proj.
 * @param {Matrices} weights  @param {Config} config  @param {number} n  the layer  @param {number} h  the head
 */
function headWeights(weights, { width, heads }, n, h) {
  const D = width / heads, name = `blocks.${n}.attn`, /** @type {Matrices} */ inputs = {};
  const joined = weights[`${name}.c_attn.weight`], bias = weights[`${name}.c_attn.bias`];
  ["q", "k", "v"].forEach((letter, third) => {
    inputs[`W_${letter}`] = rowsOf(joined, third * width + h * D, D);
    if (bias) inputs[`b_${letter}`] = colsOf(bias, third * width + h * D, D);
  });
  return { ...inputs, W_o: colsOf(weights[`${name}.c_proj.weight`], h * D, D) };
}

/**
 * @typedef {{layers: number, heads: number, width: number, context: number, vocabulary: number, gelu: "exact"|"tanh",
 *   isTied: boolean}} Config  context, vocabulary: how many positions and tokens; isTied: tok_emb and lm_head are one
 * @typedef {{config: Config, weights: Matrices}} Model
 * @typedef {{values: Values, losses: Float64Array, L: number, backward: () => Matrices}} Pass  losses: of each position
 */

/**
 * The model on a text. The values have the names of forward.py, those of a head with its number: P0.3 is head 3 of
 * layer 0; backward() returns the gradients of values and parameters, by these names.
 * @param {Model} model  @param {number[]} ids  to read  @param {number[]} targets  to predict  @returns {Pass}
 */
function runModel({ config, weights }, ids, targets, perturb = asItIs) {
  const { layers, heads } = config, /** @type {Values} */ values = {}, /** @type {Matrices} */ gradients = {};
  const /** @type {(() => void)[]} */ lines = []; // the backward lines, run from the last
  /** @type {Perturb} */
  const keep = (name, A) => values[name] = perturb(name, A);
  /** @type {(name: string, gradients: Matrix[]) => Matrix} */
  const keepGradients = (name, [dx, dW, db]) => {
    Object.assign(gradients, { [`${name}.weight`]: dW }, db && { [`${name}.bias`]: db });
    return dx;
  };
  /**
   * With its parameters, whose gradients are kept: backward returns dx alone.
   * @type {(make: typeof linear, name: string, x: Matrix) => Layer<Matrix>}
   */
  const layer = (make, name, x) => {
    const [y, backward, inner] = make(x, weights[`${name}.weight`], weights[`${name}.bias`]);
    return [y, dy => keepGradients(name, backward(dy)), inner];
  };

  let x = keep("tok", fillMatrix(ids.length, config.width, (i, m) =>
    weights["tok_emb.weight"].values[ids[i] * config.width + m]));
  x = addMatrices(x, rowsOf(weights["pos_emb.weight"], 0, ids.length));
  let /** @type {Matrix} */ dx; // the gradient of the stream, which flows back from the end
  lines.push(() => {
    gradients.tok = dx;
    const onehot = fillMatrix(ids.length, config.vocabulary, (i, v) => v === ids[i] ? 1 : 0);
    gradients["tok_emb.weight"] = matmul(transpose(onehot), dx);
    gradients["pos_emb.weight"] = makeMatrix(config.context, config.width);
    gradients["pos_emb.weight"].values.set(dx.values);
  });

  /**
   * x + f(norm(x)). The stream itself passes unchanged, forward and backward; R is what the sublayer reads of it.
   * @type {(sub: string, norm: string, f: (N: Matrix) => Layer<Matrix>) => void}
   */
  const addSublayer = (sub, norm, f) => {
    const R = keep(`R_${sub}`, x);
    const [normed, normBackward, inner] = layer(layerNorm, norm, R), N = keep(`N_${sub}`, normed);
    for (const name in inner) values[`${name}_${sub}`] = inner[name];
    const [y, backward] = f(N), Y = keep(`Y_${sub}`, y);
    x = addMatrices(x, Y);
    lines.push(() => {
      gradients[`Y_${sub}`] = dx;
      gradients[`N_${sub}`] = backward(dx);
      gradients[`R_${sub}`] = normBackward(gradients[`N_${sub}`]);
      dx = addMatrices(dx, gradients[`R_${sub}`]);
    });
  };

  /** @type {(n: number) => (x: Matrix) => Layer<Matrix>} */
  const attention = n => X => {
    const name = `blocks.${n}.attn`;
    const all = Array.from({ length: heads }, (_, h) => ({ X, ...headWeights(weights, config, n, h) }));
    const each = all.map((inputs, h) => forward(inputs, NO_MISTAKES, (one, A) =>
      HEAD_VALUES.includes(one) ? keep(`${one}${n}.${h}`, A) : A));
    const Y = addBias(addMatrices(...each.map(({ Y }) => Y)), weights[`${name}.c_proj.bias`]);
    return [Y, dY => {
      const found = each.map((one, h) => backward({ ...all[h], dY }, one));
      found.forEach((one, h) => {
        for (const letter of HEAD_VALUES) gradients[`${letter}${n}.${h}`] = one[`d${letter}`];
        gradients[`X${n}.${h}`] = one.dX_head;
      });
      /** @type {(kind: "W"|"b") => Matrix[]} */
      const joined = kind => ["q", "k", "v"].flatMap(letter => found.map(one => one[`d${kind}_${letter}`]));
      keepGradients(`${name}.c_attn`, [null, stackRows(...joined("W")),
        weights[`${name}.c_attn.bias`] && stackCols(...joined("b"))]);
      keepGradients(`${name}.c_proj`, [null, stackCols(...found.map(({ dW_o }) => dW_o)),
        weights[`${name}.c_proj.bias`] && columnSums(dY)]);
      return addMatrices(...found.map(({ dX_head }) => dX_head));
    }];
  };

  /** @type {typeof attention} */
  const mlp = n => N => {
    const sub = `mlp${n}`, [u, upBackward] = layer(linear, `blocks.${n}.mlp.c_fc`, N), U = keep(`U_${sub}`, u);
    const [g, geluBackward, slope] = gelu(U, config.gelu), G = keep(`G_${sub}`, g);
    const [y, downBackward] = layer(linear, `blocks.${n}.mlp.c_proj`, G);
    values[`g_${sub}`] = slope;
    return [y, dY => {
      gradients[`G_${sub}`] = downBackward(dY);
      gradients[`U_${sub}`] = geluBackward(gradients[`G_${sub}`]);
      return upBackward(gradients[`U_${sub}`]);
    }];
  };

  for (let n = 0; n < layers; n++) {
    addSublayer(`attn${n}`, `blocks.${n}.ln_1`, attention(n));
    addSublayer(`mlp${n}`, `blocks.${n}.ln_2`, mlp(n));
  }

  const [normed, normBackward, inner] = layer(layerNorm, "ln_f", keep("R_f", x)), N_f = keep("N_f", normed);
  for (const name in inner) values[`${name}_f`] = inner[name];
  const [logits, headBackward] = layer(linear, "lm_head", N_f), Z = keep("Z", logits);
  const [losses, lossBackward, p] = crossEntropy(Z, targets);
  Object.assign(values, { p, l: losses });
  lines.push(() => {
    gradients.Z = lossBackward();
    gradients.N_f = headBackward(gradients.Z);
    dx = gradients.R_f = normBackward(gradients.N_f);
  });
  const L = losses.reduce((sum, l) => sum + l, 0) / losses.length;
  return { values, losses, L, backward: () => (lines.reverse().forEach(line => line()), gradients) };
}
