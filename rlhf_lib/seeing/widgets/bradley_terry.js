// Mathematics that the two demos of comparisons share. Stands after common.js, before a demo's own code.

const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));

function solve(matrix, right) { // Gaussian elimination with pivots
  const n = right.length, m = matrix.map((row, i) => [...row, right[i]]);
  for (let k = 0; k < n; k++) {
    let pivot = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(m[i][k]) > Math.abs(m[pivot][k])) pivot = i;
    [m[k], m[pivot]] = [m[pivot], m[k]];
    for (let i = k + 1; i < n; i++) {
      const factor = m[i][k] / m[k][k];
      for (let j = k; j <= n; j++) m[i][j] -= factor * m[k][j];
    }
  }
  const x = Array(n).fill(0);
  for (let i = n - 1; i >= 0; i--) {
    x[i] = (m[i][n] - m[i].slice(i + 1, n).reduce((sum, v, j) => sum + v * x[i + 1 + j], 0)) / m[i][i];
  }
  return x;
}

// Newton's method for a smooth convex objective, a step halved until it helps.
function newton(start, derivatives, objective) {
  let x = start;
  for (let turn = 0; turn < 100; turn++) {
    const { gradient, hessian } = derivatives(x);
    let step = solve(hessian, gradient);
    const before = objective(x);
    const moved = () => x.map((v, i) => v + step[i]);
    if (step.reduce((sum, d, i) => sum + d * gradient[i], 0) < 1e-18 * Math.max(1, before)) return moved();
    while (objective(moved()) > before) {
      step = step.map((d) => d / 2);
      if (Math.max(...step.map(Math.abs)) < 1e-12) return x;
    }
    x = moved();
  }
  return x;
}

const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

// Weights of a linear score from rows of features, chosen less rejected; as `fit_weights` in Python.
function fitWeights(rows, ridge, size) {
  const objective = (w) => rows.reduce((sum, row) => sum + softplus(-dot(row, w)), (ridge / 2) * dot(w, w));
  const derivatives = (w) => {
    const gradient = w.map((v) => -ridge * v);
    const hessian = w.map((_, i) => w.map((__, j) => (i === j ? ridge : 0)));
    for (const row of rows) {
      const p = sigmoid(dot(row, w));
      row.forEach((v, i) => {
        gradient[i] += v * (1 - p);
        row.forEach((u, j) => { hessian[i][j] += v * u * p * (1 - p); });
      });
    }
    return { gradient, hessian };
  };
  return newton(Array(size).fill(0), derivatives, objective);
}
