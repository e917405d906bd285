// A policy is a causal language model; a critic and a reward model are the same trunk with another
// head. Compare models/policy.py, models/tokens.py and models/reward_model.py.

#include "kernel.h"

// ---------------------------------------------------------------------------------- weights

static float *take(float **next, int n) {
  float *start = *next;
  *next += n;
  return start;
}

static Layer take_layer(float **next, int weight, int bias) {
  Layer w;
  w.weight = take(next, weight);
  w.bias = take(next, bias);
  return w;
}

/** The names of a flat array, in the order of transformers' GPT2Model, and the head `score`. */
static Weights name_weights(const Model *m, float *flat) {
  int C = m->C;
  Weights w;
  w.wte = take(&flat, m->V * C);
  w.wpe = take(&flat, m->positions * C);
  for (int l = 0; l < m->L; l++) {
    w.h[l].ln_1 = take_layer(&flat, C, C);
    w.h[l].c_attn = take_layer(&flat, C * 3 * C, 3 * C);
    w.h[l].c_proj = take_layer(&flat, C * C, C);
    w.h[l].ln_2 = take_layer(&flat, C, C);
    w.h[l].c_fc = take_layer(&flat, C * 4 * C, 4 * C);
    w.h[l].mlp_proj = take_layer(&flat, 4 * C * C, C);
  }
  w.ln_f = take_layer(&flat, C, C);
  w.score = take(&flat, C);
  return w;
}

/** A model whose weights are 0; without a gradient and moments if it is not to be trained. */
Model *EXPORT(new_model)(int L, int C, int H, int V, int positions, int trained) {
  if (L > MAX_LAYERS || C % COLUMNS || C % H || C / H % 4) return 0;
  Model *m = allocate(sizeof(Model));
  m->L = L, m->C = C, m->H = H, m->V = V, m->positions = positions;
  m->Vp = (V + COLUMNS - 1) / COLUMNS * COLUMNS;
  m->size = (V + positions) * C + L * (12 * C * C + 13 * C) + 3 * C;
  m->weights = numbers(m->size);
  m->w = name_weights(m, m->weights);
  m->wte_t = numbers(C * m->Vp);
  if (trained) {
    m->gradient = numbers(m->size);
    m->g = name_weights(m, m->gradient);
    m->mean = numbers(m->size);
    m->square = numbers(m->size);
  }
  return m;
}

int EXPORT(size)(const Model *m) { return m->size; }
float *EXPORT(weights)(const Model *m) { return m->weights; }
float *EXPORT(gradient)(const Model *m) { return m->gradient; }

/** To be called whenever weights have changed. */
void EXPORT(weights_changed)(Model *m) { transpose(m->wte_t, m->w.wte, m->V, m->C, m->Vp); }

/** Room for N tokens of texts of at most `longest`, for every model of the shape of m. */
Activations *EXPORT(new_activations)(const Model *m, int N, int longest) {
  int C = m->C;
  Activations *s = allocate(sizeof(Activations));
  longest = (longest + 3) & ~3;
  s->N = N, s->longest = longest;
  for (int l = 0; l < m->L; l++) {
    s->h[l].x = numbers(N * C);
    s->h[l].unit_1 = numbers(N * C);
    s->h[l].scale_1 = numbers(N);
    s->h[l].qkv = numbers(N * 3 * C);
    s->h[l].probs = numbers(N * m->H * longest);
    s->h[l].y = numbers(N * C);
    s->h[l].middle = numbers(N * C);
    s->h[l].unit_2 = numbers(N * C);
    s->h[l].scale_2 = numbers(N);
    s->h[l].wide = numbers(N * 4 * C);
  }
  s->x = numbers(N * C), s->unit = numbers(N * C), s->scale = numbers(N);
  s->hidden = numbers(N * C);
  s->a = numbers(N * C), s->b = numbers(N * C), s->dx = numbers(N * C);
  s->wide = numbers(N * 4 * C), s->dqkv = numbers(N * 4 * C);
  s->transposed = numbers(4 * C * C);
  s->chosen = numbers(N * C), s->logits = numbers(N * m->Vp), s->dhidden = numbers(N * C);
  return s;
}

// ---------------------------------------------------------------------------------- the trunk

static void copy(float *out, const float *x, int n) {
  for (int i = 0; i < n; i += 4) store(out + i, load(x + i));
}

static void add(float *out, const float *x, int n) {
  for (int i = 0; i < n; i += 4) store(out + i, load(out + i) + load(x + i));
}

/** The trunk's output after every token goes to s->hidden, (N, C). */
void EXPORT(forward)(const Model *m, Activations *s, const int *tokens, const int *starts, int B) {
  int C = m->C, N = starts[B];
  float *x = m->L ? s->h[0].x : s->x;
  for (int b = 0; b < B; b++)
    for (int i = starts[b]; i < starts[b + 1]; i++) {
      copy(x + i * C, m->w.wte + tokens[i] * C, C);
      add(x + i * C, m->w.wpe + (i - starts[b]) * C, C);
    }
  for (int l = 0; l < m->L; l++) {
    Block w = m->w.h[l];
    float *middle = s->h[l].middle, *wide = s->h[l].wide;
    x = s->h[l].x;
    layer_norm(s->a, s->h[l].unit_1, s->h[l].scale_1, x, w.ln_1, N, C);
    linear(s->h[l].qkv, s->a, w.c_attn, N, C, 3 * C, 0);
    attention(s->h[l].y, s->h[l].probs, s->h[l].qkv, starts, B, s->longest, C, m->H);
    copy(middle, x, N * C);
    linear(middle, s->h[l].y, w.c_proj, N, C, C, 1);

    layer_norm(s->a, s->h[l].unit_2, s->h[l].scale_2, middle, w.ln_2, N, C);
    linear(wide, s->a, w.c_fc, N, C, 4 * C, 0);
    gelu(s->wide, wide, N * 4 * C);
    float *next = l + 1 < m->L ? s->h[l + 1].x : s->x;
    copy(next, middle, N * C);
    linear(next, s->wide, w.mlp_proj, N, 4 * C, C, 1);
  }
  layer_norm(s->hidden, s->unit, s->scale, s->x, m->w.ln_f, N, C);
  for (int i = 0; i < N * C; i += 4) store(s->dhidden + i, all(0));
  s->B = B;
}

/** After forward and the gradient of a head, which is in s->dhidden: the gradient of the trunk. */
void EXPORT(backward)(Model *m, Activations *s, const int *tokens, const int *starts) {
  int C = m->C, B = s->B, N = starts[B];
  float *dx = s->dx;  // the gradient in the residual stream, from the last layer down
  for (int i = 0; i < N * C; i += 4) store(dx + i, all(0));
  layer_norm_backward(dx, s->dhidden, s->unit, s->scale, m->w.ln_f, m->g.ln_f, N, C);
  for (int l = m->L - 1; l >= 0; l--) {
    Block w = m->w.h[l], g = m->g.h[l];
    float *wide = s->h[l].wide, *da = s->b;
    gelu(s->wide, wide, N * 4 * C);
    float *dwide = s->dqkv;  // (N, 4C)
    linear_backward(dwide, dx, s->wide, w.mlp_proj, g.mlp_proj, N, 4 * C, C, s->transposed);
    gelu_backward(dwide, wide, N * 4 * C);
    unit_to_out(s->a, s->h[l].unit_2, w.ln_2, N, C);
    linear_backward(da, dwide, s->a, w.c_fc, g.c_fc, N, C, 4 * C, s->transposed);
    layer_norm_backward(dx, da, s->h[l].unit_2, s->h[l].scale_2, w.ln_2, g.ln_2, N, C);

    linear_backward(da, dx, s->h[l].y, w.c_proj, g.c_proj, N, C, C, s->transposed);
    attention_backward(s->dqkv, da, s->h[l].probs, s->h[l].qkv, starts, B, s->longest, C, m->H);
    unit_to_out(s->a, s->h[l].unit_1, w.ln_1, N, C);
    linear_backward(da, s->dqkv, s->a, w.c_attn, g.c_attn, N, C, 3 * C, s->transposed);
    layer_norm_backward(dx, da, s->h[l].unit_1, s->h[l].scale_1, w.ln_1, g.ln_1, N, C);
  }
  for (int b = 0; b < B; b++)
    for (int i = starts[b]; i < starts[b + 1]; i++) {
      add(m->g.wte + tokens[i] * C, dx + i * C, C);
      add(m->g.wpe + (i - starts[b]) * C, dx + i * C, C);
    }
}

// ---------------------------------------------------------------------------------- two heads

/**
 * log π of K tokens after forward: logprobs[k] is that of tokens[where[k]], in nats.
 *
 * It is read one token earlier, and `where` never holds the first token of a text.
 */
void EXPORT(token_logprobs)(const Model *m, Activations *s, const int *tokens, const int *where,
                            int K, float temperature, float *logprobs) {
  int C = m->C, Vp = m->Vp;
  for (int k = 0; k < K; k++) copy(s->chosen + k * C, s->hidden + (where[k] - 1) * C, C);
  matmul(s->logits, s->chosen, C, 1, m->wte_t, K, C, Vp, 0);
  for (int k = 0; k < K; k++) {
    float *row = s->logits + k * Vp;
    for (int v = 0; v < Vp; v += 4) store(row + v, load(row + v) / temperature);
    softmax(row, m->V);  // the row now holds probabilities, and 0 beyond V
    for (int v = (m->V + 3) & ~3; v < Vp; v++) row[v] = 0;
    logprobs[k] = (float)log(row[tokens[where[k]]]);
  }
  s->K = K;
}

/**
 * From the gradient in each log-probability to the ones in the head and in s->dhidden.
 *
 * The gradient of log π(y) in the logits is [y] − π.
 */
void EXPORT(token_logprobs_backward)(Model *m, Activations *s, const int *tokens, const int *where,
                                     float temperature, const float *dlogprobs) {
  int C = m->C, V = m->V, Vp = m->Vp, K = s->K;
  for (int k = 0; k < K; k++) {
    float *row = s->logits + k * Vp, weight = dlogprobs[k] / temperature;
    for (int v = 0; v < Vp; v += 4) store(row + v, load(row + v) * -weight);
    row[tokens[where[k]]] += weight;
  }
  matmul(m->g.wte, s->logits, 1, Vp, s->chosen, V, K, C, 1);
  matmul(s->a, s->logits, Vp, 1, m->w.wte, K, V, C, 0);
  for (int k = 0; k < K; k++) add(s->dhidden + (where[k] - 1) * C, s->a + k * C, C);
}

/** The head `score` after tokens where[k]: a critic reads every one, a reward model the last. */
void EXPORT(token_values)(const Model *m, Activations *s, const int *where, int K, float *values) {
  for (int k = 0; k < K; k++) {
    f4 product = all(0);
    for (int c = 0; c < m->C; c += 4)
      product = multiply_add(load(s->hidden + where[k] * m->C + c), load(m->w.score + c), product);
    values[k] = sum(product);
  }
  s->K = K;
}

void EXPORT(token_values_backward)(Model *m, Activations *s, const int *where,
                                   const float *dvalues) {
  for (int k = 0; k < s->K; k++)
    for (int c = 0; c < m->C; c += 4) {
      float *hidden = s->hidden + where[k] * m->C + c, *dhidden = s->dhidden + where[k] * m->C + c;
      store(m->g.score + c, load(m->g.score + c) + load(hidden) * dvalues[k]);
      store(dhidden, load(dhidden) + load(m->w.score + c) * dvalues[k]);
    }
}
