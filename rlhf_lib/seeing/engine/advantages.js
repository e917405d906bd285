// Compare mathematics/advantages.py. What belongs to tokens is a list for each completion.

const EPS = 1e-4; // beside the standard deviation of a group
const WHITENING_EPS = 1e-8;

const total = (values) => values.reduce((sum, x) => sum + x, 0);
export const mean = (values) => total(values) / values.length;

/** Biased, divided by the count. */
function variance(values) {
  const middle = mean(values);
  return mean(values.map((x) => (x - middle) ** 2));
}

/** Each reward, less the mean of its group, over the group's standard deviation: one a completion. */
export function groupAdvantages(rewards, groupSize) {
  if (groupSize < 2) throw new Error(`groupSize is ${groupSize}; expected at least 2`);
  if (rewards.length % groupSize) {
    throw new Error(`rewards has ${rewards.length} entries; expected a multiple of groupSize=${groupSize}`);
  }
  const advantages = [];
  for (let first = 0; first < rewards.length; first += groupSize) {
    const group = rewards.slice(first, first + groupSize);
    const middle = mean(group);
    const unbiased = total(group.map((r) => (r - middle) ** 2)) / (groupSize - 1);
    const scale = Math.sqrt(unbiased) + EPS;
    advantages.push(...group.map((r) => (r - middle) / scale));
  }
  return advantages;
}

/** Whether all rewards of a group are equal, so that it teaches nothing. */
export const isSilent = (group) => group.every((r) => r === group[0]);

/** Per token −β (log π − log π_ref), and the score on the last one. */
export const tokenRewards = (scores, logRatio, beta) =>
  logRatio.map((row, i) => row.map((x, t) => -beta * x + (t === row.length - 1 ? scores[i] : 0)));

/** Generalised advantage estimation: A_t = δ_t + γλ A_{t+1}, δ_t = r_t + γ V_{t+1} − V_t. */
export function gae(rewards, values, gamma, lam) {
  const advantages = rewards.map((row, i) => {
    const found = row.slice();
    let following = 0; // A_{t+1}
    let nextValue = 0; // V_{t+1}
    for (let t = row.length - 1; t >= 0; t--) {
      following = row[t] + gamma * nextValue - values[i][t] + gamma * lam * following;
      nextValue = values[i][t];
      found[t] = following;
    }
    return found;
  });
  return { advantages, returns: advantages.map((row, i) => row.map((x, t) => x + values[i][t])) };
}

/** Shifted and scaled to mean 0 and variance 1 over all tokens. */
export function whiten(rows) {
  const all = rows.flat();
  const middle = mean(all);
  const scale = 1 / Math.sqrt(variance(all) + WHITENING_EPS);
  return rows.map((row) => row.map((x) => (x - middle) * scale));
}

/** How much of the returns the critic foresaw: 1 is a perfect critic, 0 a constant. */
export function explainedVariance(values, returns) {
  const [all, wanted] = [values.flat(), returns.flat()];
  return 1 - variance(wanted.map((x, k) => x - all[k])) / variance(wanted);
}
