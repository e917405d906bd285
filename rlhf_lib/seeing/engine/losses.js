// Losses, each with its gradient in what the model gave. Compare mathematics/losses.py, mathematics/kl.py.
//
// What PyTorch differentiates by itself is written out here. Tokens of a minibatch stand one after the other,
// (K,), completion by completion.

/** PPO's clipped surrogate, −min(ρA, clip(ρ, 1 − ε, 1 + ε)A), with ρ = π/π_old. */
export function clippedPolicyLoss(logprobs, old, advantages, epsilon) {
  const loss = new Float64Array(logprobs.length);
  const slope = new Float64Array(logprobs.length);
  for (let k = 0; k < logprobs.length; k++) {
    const ratio = Math.exp(logprobs[k] - old[k]);
    const clipped = Math.min(Math.max(ratio, 1 - epsilon), 1 + epsilon);
    const objective = Math.min(ratio * advantages[k], clipped * advantages[k]);
    loss[k] = -objective;
    slope[k] = objective === ratio * advantages[k] ? -objective : 0; // dρ/d log π = ρ; 0 where clipped
  }
  return { loss, slope };
}

/** Half the squared error of the critic, the worse of clipped and not. */
export function clippedValueLoss(values, old, returns, epsilon) {
  const loss = new Float64Array(values.length);
  const slope = new Float64Array(values.length);
  for (let k = 0; k < values.length; k++) {
    const move = Math.min(Math.max(values[k] - old[k], -epsilon), epsilon);
    const error = values[k] - returns[k];
    const clipped = old[k] + move - returns[k];
    const inside = move === values[k] - old[k];
    loss[k] = Math.max(error ** 2, clipped ** 2) / 2;
    slope[k] = inside || error ** 2 > clipped ** 2 ? error : 0; // a value that has moved too far stays
  }
  return { loss, slope };
}

/** k3 = exp(−d) − 1 + d, with d = log π − log π_ref: unbiased for the KL, never negative. */
export function k3(logprobs, refLogprobs) {
  const loss = new Float64Array(logprobs.length);
  const slope = new Float64Array(logprobs.length);
  for (let k = 0; k < logprobs.length; k++) {
    const gap = logprobs[k] - refLogprobs[k];
    loss[k] = Math.expm1(-gap) + gap;
    slope[k] = -Math.expm1(-gap);
  }
  return { loss, slope };
}

/**
 * −log σ(r_chosen − r_rejected) + c (r_chosen + r_rejected)², averaged over pairs.
 *
 * The slopes are those in the scores of the chosen and of the rejected completions.
 */
export function bradleyTerryLoss(chosen, rejected, centering = 0) {
  const slope = { chosen: new Float64Array(chosen.length), rejected: new Float64Array(chosen.length) };
  let loss = 0;
  for (let k = 0; k < chosen.length; k++) {
    const gap = chosen[k] - rejected[k];
    const total = chosen[k] + rejected[k];
    loss += Math.max(0, -gap) + Math.log1p(Math.exp(-Math.abs(gap))) + centering * total ** 2;
    const wrong = 1 / (1 + Math.exp(gap)); // σ(−gap): how likely the other choice was
    slope.chosen[k] = (-wrong + 2 * centering * total) / chosen.length;
    slope.rejected[k] = (wrong + 2 * centering * total) / chosen.length;
  }
  return { loss: loss / chosen.length, slope };
}

/**
 * What each token weighs in the loss of a minibatch.
 *
 * "tokens": the same for all. "sequences": the mean within each completion, then over completions.
 */
export function tokenWeights(lengths, over) {
  if (over !== "tokens" && over !== "sequences") {
    throw new Error(`over is "${over}"; expected "tokens" or "sequences"`);
  }
  const tokens = lengths.reduce((total, length) => total + length, 0);
  return lengths.flatMap((length) =>
    Array(length).fill(over === "tokens" ? 1 / tokens : 1 / (length * lengths.length)),
  );
}
