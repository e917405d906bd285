// One optimiser step: the gradient clipped, and refused if not finite; then Adam.
// Compare machinery/optimization.py.

#include "kernel.h"

void EXPORT(zero_grad)(Model *m) {
  for (int i = 0; i < m->size; i += 4) store(m->gradient + i, all(0));
}

float EXPORT(gradient_norm)(const Model *m) {
  double total = 0;  // of parts, each summed in float32
  for (int i = 0; i < m->size;) {
    f4 part = all(0);
    for (int end = i + 1024; i < end && i < m->size; i += 4)
      part = multiply_add(load(m->gradient + i), load(m->gradient + i), part);
    total += sum(part);
  }
  return (float)__builtin_sqrt(total);
}

/** 1 − betaᵗ. */
static double correction(float beta, int t) {
  double power = 1;
  while (t--) power *= beta;
  return 1 - power;
}

/** Moves the weights against the gradient times `clip`, by Adam. */
void EXPORT(adam)(Model *m, float learning_rate, float beta_1, float beta_2, float eps,
                  float clip) {
  m->steps++;
  float step = learning_rate / (float)correction(beta_1, m->steps);
  float root = 1.f / (float)__builtin_sqrt(correction(beta_2, m->steps));
  for (int i = 0; i < m->size; i += 4) {
    f4 g = load(m->gradient + i) * clip;
    f4 mean = load(m->mean + i) * beta_1 + g * (1.f - beta_1);
    f4 square = load(m->square + i) * beta_2 + g * g * (1.f - beta_2);
    f4 deviation;
    for (int j = 0; j < 4; j++) deviation[j] = __builtin_sqrtf(square[j]);
    store(m->mean + i, mean);
    store(m->square + i, square);
    store(m->weights + i, load(m->weights + i) - step * mean / (deviation * root + eps));
  }
}

void weights_changed(Model *m);

/** Returns the norm before clipping; if it is not finite, no weight moves. */
float EXPORT(optimizer_step)(Model *m, float learning_rate, float beta_1, float beta_2, float eps,
                             float max_grad_norm) {
  float norm = gradient_norm(m);
  if (norm - norm == 0) {
    adam(m, learning_rate, beta_1, beta_2, eps,
         norm > max_grad_norm ? max_grad_norm / (norm + 1e-6f) : 1.f);
    weights_changed(m);
  }
  zero_grad(m);
  return norm;
}
