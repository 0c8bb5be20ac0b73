// The numbers of the quantities that formulas.py names, for one head of one layer: where each is in a pass of model.js.

const HEAD_VALUES = ["Q", "K", "V", "S", "P", "O"]; // what is kept of every head
/** @type {Object<string, string>} */
const ATTENTION_VALUES = {
  R: "R_attn", mean: "mean_attn", var: "var_attn", r: "r_attn", n: "n_attn", X: "N_attn", Y: "Y_attn",
};

/**
 * Where a quantity is, such as W_q in the rows of c_attn from `first` on; without an axis, it is all of this matrix.
 * @typedef {{name: string, isParameter?: boolean, axis?: "rows"|"cols", first?: number}} Place
 */

/** @param {Config} config  @param {string} quantity  @param {number} layer  @param {number} head  @returns {Place} */
function placeOf({ width, heads }, quantity, layer, head) {
  if (HEAD_VALUES.includes(quantity)) return { name: `${quantity}${layer}.${head}` };
  if (quantity in ATTENTION_VALUES) return { name: ATTENTION_VALUES[quantity] + layer };
  if (quantity === "W_lm") return { name: "lm_head.weight", isParameter: true };
  const [, kind, part, suffix = ""] = /^([Wwb])(\d?)_?([a-z]*\d*)$/.exec(quantity) ?? [];
  if (!kind) return { name: quantity };
  const [, sub, n] = /^([a-z]+)(\d+)$/.exec(suffix) ?? [], first = head * width / heads, attn = `blocks.${layer}.attn`;
  const type = kind === "b" ? "bias" : "weight";
  /** @type {(module: string, axis?: "rows"|"cols", first?: number) => Place} */
  const parameter = (module, axis, first = 0) => ({ name: `${module}.${type}`, isParameter: true, axis, first });
  if (part) return parameter(`blocks.${n}.mlp.${part === "1" ? "c_fc" : "c_proj"}`);
  if (suffix === "o") return kind === "W" ? parameter(`${attn}.c_proj`, "cols", first) : parameter(`${attn}.c_proj`);
  if (/^[qkv]$/.test(suffix)) return parameter(`${attn}.c_attn`, "rows", "qkv".indexOf(suffix) * width + first);
  if (suffix === "f") return parameter("ln_f");
  return parameter(suffix ? `blocks.${n}.ln_${sub === "attn" ? 1 : 2}` : `blocks.${layer}.ln_1`);
}

/**
 * The numbers of a quantity, from a pass and its gradients.
 * @param {Model} model
 * @param {TextPass} found
 * @param {string} quantity  a name of formulas.py
 * @param {number} layer  @param {number} head
 * @returns {Float64Array|undefined}  undefined if they do not have it
 */
function numbersOf(model, { ids, targets, pass, gradients }, quantity, layer, head) {
  const { config, weights } = model, T = ids.length, D = config.width / config.heads;
  /** @type {(one: (head: number) => Matrix) => Matrix} */
  const others = one => addMatrices(...[...Array(config.heads).keys()].filter(h => h !== head).map(one));
  /** @type {Object<string, () => Matrix|Float64Array>} */
  const special = {
    L: () => Float64Array.of(pass.L),
    next: () => fillMatrix(T, config.vocabulary, (i, v) => v === targets[i] ? 1 : 0),
    pos: () => rowsOf(weights["pos_emb.weight"], 0, T),
    Y_others: () => others(h => matmul(/** @type {Matrix} */ (pass.values[`O${layer}.${h}`]),
      transpose(headWeights(weights, config, layer, h).W_o))),
    dX_others: () => others(h => gradients[`X${layer}.${h}`]),
  };
  const isGradient = quantity.startsWith("d"), of = isGradient ? quantity.slice(1) : quantity;
  const { name, isParameter, axis, first } = placeOf(config, of, layer, head);
  const whole = special[quantity]?.() ?? (isGradient ? gradients : isParameter ? weights : pass.values)[name];
  if (!axis) return whole instanceof Float64Array ? whole : whole?.values;
  const all = /** @type {Matrix} */ (whole), isRow = axis === "cols" || all.rows === 1; // a bias is a row
  return (isRow ? colsOf(all, first, D) : rowsOf(all, first, D)).values;
}

/**
 * What the file carries of each matrix: its largest magnitude, and two projections on fixed directions.
 * @param {Float64Array} numbers  @returns {number[]}
 */
function digestOf(numbers) {
  const found = [0, 0, 0];
  numbers.forEach((x, n) => {
    if (!Number.isFinite(x)) return; // masked scores
    found[0] = Math.max(found[0], Math.abs(x));
    for (const seed of [1, 2]) found[seed] += x * directionAt(n, seed);
  });
  return found;
}

/** A number from -1 to 1 that looks random, the same as in living.py. @type {(n: number, seed: number) => number} */
function directionAt(n, seed) {
  let bits = Math.imul(n + 1, 0x9e3779b1) ^ Math.imul(seed, 0x85ebca6b);
  bits = Math.imul(bits ^ bits >>> 15, 0x2c1b3c6d);
  bits = Math.imul(bits ^ bits >>> 12, 0x297a2d39);
  return ((bits ^ bits >>> 15) >>> 0) / 2 ** 31 - 1;
}
