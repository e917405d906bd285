// One optimiser step, with the book's settings of Adam. Compare machinery/optimization.py.

/** Returns the norm of the gradient before clipping. If it is not finite, no weight has moved. */
export function optimizerStep(policy, learningRate, maxGradNorm, betas = [0.9, 0.95], eps = 1e-5) {
  const norm = policy.run.optimizer_step(policy.model, learningRate, ...betas, eps, maxGradNorm);
  if (!Number.isFinite(norm)) {
    throw new Error(
      `the gradient norm is ${norm}; the update was refused and the weights are those before it`,
    );
  }
  return norm;
}
