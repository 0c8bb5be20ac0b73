// Matrices, and what the model computes with them.

/** @typedef {{rows: number, cols: number, values: Float64Array}} Matrix  in row-major order; a vector is one row */
/** @typedef {Object<string, Matrix>} Matrices  by name */

/** @type {(rows: number, cols: number, values?: Float64Array) => Matrix} */
const makeMatrix = (rows, cols, values = new Float64Array(rows * cols)) => ({ rows, cols, values });
/** @type {(rows: number, cols: number, entry: (i: number, j: number) => number) => Matrix} */
const fillMatrix = (rows, cols, entry) => makeMatrix(rows, cols,
  Float64Array.from({ length: rows * cols }, (_, n) => entry(Math.floor(n / cols), n % cols)));
/** @type {(A: Matrix, change: (x: number, n: number) => number) => Matrix} */
const mapEntries = (A, change) => makeMatrix(A.rows, A.cols, A.values.map(change));
/** Except for the first, some may be undefined. @type {(...parts: Matrix[]) => Matrix} */
const addMatrices = (A, ...others) =>
  others.filter(Boolean).reduce((sum, B) => mapEntries(sum, (x, n) => x + B.values[n]), A);
/** @type {(c: number, A: Matrix) => Matrix} */
const scaleMatrix = (c, A) => mapEntries(A, x => c * x);
/** @type {(A: Matrix, B: Matrix) => number} */
const innerProduct = (A, B) => A.values.reduce((sum, x, n) => sum + x * B.values[n], 0);
/** @type {(A: Matrix, b?: Matrix) => Matrix} */
const addBias = (A, b) => b ? mapEntries(A, (x, n) => x + b.values[n % A.cols]) : A; // to every row
/** @type {(A: Matrix) => Matrix} */
const columnSums = A => matmul(fillMatrix(1, A.rows, () => 1), A);
/** @type {(A: Matrix) => Float64Array} */
const rowSums = A => Float64Array.from({ length: A.rows }, (_, i) =>
  A.values.subarray(i * A.cols, (i + 1) * A.cols).reduce((sum, x) => sum + x, 0));
/** @type {(A: Matrix, masked: number) => Matrix} */
const applyMask = (A, masked) => mapEntries(A, (x, n) => n % A.cols > Math.floor(n / A.cols) ? masked : x);

/** @param {Matrix} A  @returns {Matrix} */
function transpose({ rows, cols, values }) {
  const B = makeMatrix(cols, rows);
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) B.values[j * rows + i] = values[i * cols + j];
  return B;
}

/**
 * Four rows of B at a time, so that each sum is read and written less often.
 * @param {Matrix} A  @param {Matrix} B  @returns {Matrix}
 */
function matmul(A, B) {
  const C = makeMatrix(A.rows, B.cols), { cols } = B, n = A.cols, b = B.values, c = C.values;
  for (let i = 0; i < A.rows; i++) {
    const to = i * cols;
    let k = 0;
    for (; k + 3 < n; k += 4) {
      const a0 = A.values[i * n + k], a1 = A.values[i * n + k + 1], a2 = A.values[i * n + k + 2];
      const a3 = A.values[i * n + k + 3], k0 = k * cols, k1 = k0 + cols, k2 = k1 + cols, k3 = k2 + cols;
      for (let j = 0; j < cols; j++) c[to + j] += a0 * b[k0 + j] + a1 * b[k1 + j] + a2 * b[k2 + j] + a3 * b[k3 + j];
    }
    for (; k < n; k++) for (let j = 0, a = A.values[i * n + k]; j < cols; j++) c[to + j] += a * b[k * cols + j];
  }
  return C;
}

/** @param {Matrix} S  @returns {Matrix} */
function softmax(S) {
  const P = makeMatrix(S.rows, S.cols);
  for (let i = 0; i < S.rows; i++) {
    const row = S.values.subarray(i * S.cols, (i + 1) * S.cols), largest = Math.max(...row);
    const powers = row.map(x => Math.exp(x - largest)), total = powers.reduce((sum, x) => sum + x, 0);
    P.values.set(powers.map(x => x / total), i * S.cols);
  }
  return P;
}

/**
 * Rows first .. first + count - 1, which share their numbers with A.
 * @type {(A: Matrix, first: number, count: number) => Matrix}
 */
const rowsOf = (A, first, count) =>
  makeMatrix(count, A.cols, A.values.subarray(first * A.cols, (first + count) * A.cols));
/** @type {typeof rowsOf} */
const colsOf = (A, first, count) => fillMatrix(A.rows, count, (i, j) => A.values[i * A.cols + first + j]);
/** Matrices of equal width, one below the other. @param {...Matrix} parts  @returns {Matrix} */
function stackRows(...parts) {
  const all = makeMatrix(parts.reduce((rows, A) => rows + A.rows, 0), parts[0].cols);
  let from = 0;
  for (const { values } of parts) all.values.set(values, from), from += values.length;
  return all;
}
/** @type {typeof stackRows} */
const stackCols = (...parts) => transpose(stackRows(...parts.map(transpose)));

/**
 * Base64 of little-endian floats: of 4 bytes each after a leading comma, else of 8.
 * @param {string} text  @returns {Float64Array}
 */
function unpackFloats(text) {
  const isShort = text.startsWith(","), coded = atob(isShort ? text.slice(1) : text);
  const bytes = new Uint8Array(coded.length); // from() with a function takes ten times as long
  for (let n = 0; n < coded.length; n++) bytes[n] = coded.charCodeAt(n);
  return isShort ? Float64Array.from(new Float32Array(bytes.buffer)) : new Float64Array(bytes.buffer);
}
