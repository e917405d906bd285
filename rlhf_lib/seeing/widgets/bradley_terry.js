// Mathematics that the demos of comparisons share. Stands after demo.js, before a demo's own code.

const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));

// Gaussian elimination with pivots.
function solve(matrix, right) {
  const n = right.length;
  const m = matrix.map((entries, i) => [...entries, right[i]]);
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
    x[i] = (m[i][n] - dot(m[i].slice(i + 1, n), x.slice(i + 1))) / m[i][i];
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
    if (dot(step, gradient) < 1e-18 * Math.max(1, before)) return moved();
    while (objective(moved()) > before) {
      step = step.map((d) => d / 2);
      if (Math.max(...step.map(Math.abs)) < 1e-12) return x;
    }
    x = moved();
  }
  return x;
}

// Weights of a linear score from rows of features, chosen less rejected; as `fit_weights` in Python.
function fitWeights(rows, ridge, size) {
  const objective = (w) =>
    rows.reduce((loss, features) => loss + softplus(-dot(features, w)), (ridge / 2) * dot(w, w));
  const derivatives = (w) => {
    const gradient = w.map((v) => -ridge * v);
    const hessian = w.map((_, i) => w.map((__, j) => (i === j ? ridge : 0)));
    for (const features of rows) {
      const p = sigmoid(dot(features, w));
      features.forEach((v, i) => {
        gradient[i] += v * (1 - p);
        features.forEach((u, j) => {
          hessian[i][j] += v * u * p * (1 - p);
        });
      });
    }
    return { gradient, hessian };
  };
  return newton(Array(size).fill(0), derivatives, objective);
}
