// Sampling: one token after the other for every text that has not ended. Compare models/rollout.py.
//
// A text's prompt is read like its completion, one token at a time, only that the next token is
// given instead of drawn; so prompts of different lengths stand side by side without padding.

#include "kernel.h"

typedef struct {
  int B, S;                    // room for texts, and for tokens of each
  float *qkv[MAX_LAYERS];      // (B, S, 3C) of every token read: the cache
  float *x, *a, *b, *wide, *unit, *scale, *probs, *new_qkv, *logits;
  int *running;                // texts that have not ended
} Decoder;

Decoder *EXPORT(new_decoder)(const Model *m, int B, int S) {
  int C = m->C;
  Decoder *d = allocate(sizeof(Decoder));
  d->B = B, d->S = S;
  for (int l = 0; l < m->L; l++) d->qkv[l] = numbers(B * S * 3 * C);
  d->x = numbers(B * C), d->a = numbers(B * C), d->b = numbers(B * C), d->unit = numbers(B * C);
  d->wide = numbers(B * 4 * C), d->scale = numbers(B), d->probs = numbers(S + 4);
  d->new_qkv = numbers(B * 3 * C), d->logits = numbers(B * m->Vp);
  d->running = allocate(4 * B);
  return d;
}

/** Reads token t of the n running texts; their trunk's output is in d->a, (n, C). */
static void decoder_step(const Model *m, Decoder *d, const int *tokens, int n, int t) {
  int C = m->C, H = m->H, D = C / H, S = d->S;
  for (int i = 0; i < n; i++)
    for (int c = 0; c < C; c += 4) {
      float *wte = m->w.wte + tokens[d->running[i] * S + t] * C, *wpe = m->w.wpe + t * C;
      store(d->x + i * C + c, load(wte + c) + load(wpe + c));
    }
  for (int l = 0; l < m->L; l++) {
    Block w = m->w.h[l];
    layer_norm(d->a, d->unit, d->scale, d->x, w.ln_1, n, C);
    linear(d->new_qkv, d->a, w.c_attn, n, C, 3 * C, 0);
    for (int i = 0; i < n; i++) {
      float *text = d->qkv[l] + d->running[i] * S * 3 * C, *now = text + t * 3 * C;
      for (int c = 0; c < 3 * C; c += 4) store(now + c, load(d->new_qkv + i * 3 * C + c));
      for (int h = 0; h < H; h++)
        attend(d->b + i * C + h * D, d->probs, now + h * D, text + C + h * D,
               text + 2 * C + h * D, 3 * C, t + 1, D);
    }
    linear(d->x, d->b, w.c_proj, n, C, C, 1);
    layer_norm(d->a, d->unit, d->scale, d->x, w.ln_2, n, C);
    linear(d->wide, d->a, w.c_fc, n, C, 4 * C, 0);
    gelu(d->wide, d->wide, n * 4 * C);
    linear(d->x, d->wide, w.mlp_proj, n, 4 * C, C, 1);
  }
  layer_norm(d->a, d->unit, d->scale, d->x, m->w.ln_f, n, C);
}

/** The token at which the sum of the probabilities passes `uniform`, which is in [0, 1). */
static int draw(const float *probs, int V, float uniform) {
  for (int v = 0; v < V; v++) {
    uniform -= probs[v];
    if (uniform < 0) return v;
  }
  int most = 0;  // only where rounding has left a sum a little below 1
  for (int v = 1; v < V; v++)
    if (probs[v] > probs[most]) most = v;
  return most;
}

/**
 * Completions of at most T tokens, the end token included; returns how many texts ended.
 *
 * tokens, (B, S), begins with the prompts and gets the completions. lengths, (B,), are those of the
 * prompts, and afterwards of the whole texts. uniforms and logprobs are (B, T); the latter are at
 * the sampling temperature.
 */
int EXPORT(sample)(const Model *m, Decoder *d, int *tokens, int *lengths, int B, int T, int end,
                   float temperature, const float *uniforms, float *logprobs) {
  int C = m->C, Vp = m->Vp, S = d->S, n = B;
  int prompt[B];
  for (int b = 0; b < B; b++) d->running[b] = b, prompt[b] = lengths[b];
  for (int t = 0; t < S - 1 && n; t++) {
    decoder_step(m, d, tokens, n, t);
    matmul(d->logits, d->a, C, 1, m->wte_t, n, C, Vp, 0);
    int going = 0;
    for (int i = 0; i < n; i++) {
      int b = d->running[i];
      d->running[going++] = b;
      int written = t + 1 - prompt[b];  // tokens of the completion that are there already
      if (written < 0) continue;        // still reading its prompt
      float *row = d->logits + i * Vp;
      for (int v = 0; v < Vp; v += 4) store(row + v, load(row + v) / temperature);
      softmax(row, m->V);
      int token = draw(row, m->V, uniforms[b * T + written]);
      logprobs[b * T + written] = (float)log(row[token]);
      tokens[b * S + t + 1] = token;
      lengths[b] = t + 2;
      if (token == end || written + 1 == T || t + 2 == S) going--;
    }
    n = going;
  }
  int ended = 0;
  for (int b = 0; b < B; b++) ended += tokens[b * S + lengths[b] - 1] == end;
  return ended;
}
