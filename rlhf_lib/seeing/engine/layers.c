// The layers of GPT-2, each with its gradient below it.
//
// dx is the gradient in x of the number that is differentiated; gradients of weights are added to
// what is there, so that a batch can come in parts.

#include "kernel.h"

// ---------------------------------------------------------------------------------- layer norm

/** out = unit · weight + bias, where unit is x − its mean, divided by its standard deviation. */
void layer_norm(float *out, float *unit, float *scale, const float *x, Layer w, int N, int C) {
  for (int i = 0; i < N; i++, x += C, unit += C) {
    f4 total = all(0), squares = all(0);
    for (int c = 0; c < C; c += 4) total += load(x + c);
    f4 mean = all(sum(total) / C);
    for (int c = 0; c < C; c += 4) {
      f4 d = load(x + c) - mean;
      squares = multiply_add(d, d, squares);
    }
    scale[i] = 1.f / __builtin_sqrtf(sum(squares) / C + 1e-5f);
    for (int c = 0; c < C; c += 4) store(unit + c, (load(x + c) - mean) * scale[i]);
  }
  unit_to_out(out, unit - N * C, w, N, C);
}

void unit_to_out(float *out, const float *unit, Layer w, int N, int C) {
  for (int i = 0; i < N; i++)
    for (int c = 0; c < C; c += 4) {
      f4 x = load(unit + i * C + c);
      store(out + i * C + c, multiply_add(x, load(w.weight + c), load(w.bias + c)));
    }
}

/** Adds to dx: what goes through x itself, less what goes through its mean and its deviation. */
void layer_norm_backward(float *dx, const float *dout, const float *unit, const float *scale,
                         Layer w, Layer g, int N, int C) {
  for (int i = 0; i < N; i++, dx += C, dout += C, unit += C) {
    f4 total = all(0), along = all(0);
    for (int c = 0; c < C; c += 4) {
      f4 d = load(dout + c), u = load(unit + c), du = d * load(w.weight + c);
      store(g.weight + c, multiply_add(d, u, load(g.weight + c)));
      store(g.bias + c, load(g.bias + c) + d);
      total += du;
      along = multiply_add(du, u, along);
    }
    f4 mean = all(sum(total) / C), slope = all(sum(along) / C);
    for (int c = 0; c < C; c += 4) {
      f4 du = load(dout + c) * load(w.weight + c);
      store(dx + c, load(dx + c) + (du - mean - load(unit + c) * slope) * scale[i]);
    }
  }
}

// ---------------------------------------------------------------------------------- linear

/** out = x weight + bias, or out += that with `add`, as a block does to the residual stream. */
void linear(float *out, const float *x, Layer w, int N, int in, int out_size, int add) {
  for (int i = 0; i < N; i++)
    for (int c = 0; c < out_size; c += 4) {
      float *o = out + i * out_size + c;
      store(o, add ? load(o) + load(w.bias + c) : load(w.bias + c));
    }
  matmul(out, x, in, 1, w.weight, N, in, out_size, 1);
}

/** dx = dout weightᵀ; the gradient of weight is xᵀ dout. `room` holds a transposed weight. */
void linear_backward(float *dx, const float *dout, const float *x, Layer w, Layer g, int N, int in,
                     int out_size, float *room) {
  for (int i = 0; i < N; i++)
    for (int c = 0; c < out_size; c += 4)
      store(g.bias + c, load(g.bias + c) + load(dout + i * out_size + c));
  matmul(g.weight, x, 1, in, dout, in, N, out_size, 1);
  transpose(room, w.weight, in, out_size, in);
  matmul(dx, dout, out_size, 1, room, N, out_size, in, 0);
}

// ---------------------------------------------------------------------------------- gelu

static const float U = 1.5957691216f, CUBIC = 0.044715f;  // U = 2 √(2/π)

/** x σ(u) with u = 2 √(2/π) (x + 0.044715 x³): the same as ½ x (1 + tanh(u / 2)). */
void gelu(float *out, const float *x, int n) {
  for (int i = 0; i < n; i += 4) {
    f4 v = load(x + i), u = U * multiply_add(CUBIC * v * v, v, v);
    store(out + i, v / (1.f + exponential(-u)));
  }
}

/** dx holds the gradient in gelu(x), and afterwards the one in x. */
void gelu_backward(float *dx, const float *x, int n) {
  for (int i = 0; i < n; i += 4) {
    f4 v = load(x + i), u = U * multiply_add(CUBIC * v * v, v, v);
    f4 s = 1.f / (1.f + exponential(-u)), slope = U * (1.f + 3.f * CUBIC * v * v);
    store(dx + i, load(dx + i) * (s + v * s * (1.f - s) * slope));
  }
}

// ---------------------------------------------------------------------------------- attention

/** x becomes exp(x − max) / Σ, in place. It has room up to a multiple of 4, which gets 0. */
void softmax(float *x, int n) {
  for (int i = n; i & 3; i++) x[i] = -1e30f;
  f4 top = load(x), total = all(0);
  for (int i = 4; i < n; i += 4) top = larger(top, load(x + i));
  float max = top[0];
  for (int i = 1; i < 4; i++) max = top[i] > max ? top[i] : max;
  for (int i = 0; i < n; i += 4) {
    f4 e = exponential(load(x + i) - max);
    store(x + i, e);
    total += e;
  }
  float share = 1.f / sum(total);
  for (int i = 0; i < n; i += 4) store(x + i, load(x + i) * share);
  for (int i = n; i & 3; i++) x[i] = 0;
}

/** One query looks at n positions: out = Σ p v, with p the softmax of q · k / √D. */
void attend(float *out, float *probs, const float *q, const float *keys, const float *values,
            int stride, int n, int D) {
  float scale = 1.f / __builtin_sqrtf(D);
  for (int s = 0; s < n; s++) {
    f4 product = all(0);
    for (int d = 0; d < D; d += 4)
      product = multiply_add(load(q + d), load(keys + s * stride + d), product);
    probs[s] = sum(product) * scale;
  }
  softmax(probs, n);
  for (int d = 0; d < D; d += 4) {
    f4 total = all(0);
    for (int s = 0; s < n; s++)
      total = multiply_add(all(probs[s]), load(values + s * stride + d), total);
    store(out + d, total);
  }
}

/** Each token looks at its own text up to itself; qkv is (N, 3C), probs (N, H, longest). */
void attention(float *out, float *probs, const float *qkv, const int *starts, int B, int longest,
               int C, int H) {
  int D = C / H;
  for (int b = 0; b < B; b++)
    for (int h = 0; h < H; h++) {
      const float *keys = qkv + starts[b] * 3 * C + C + h * D, *values = keys + C;
      for (int i = starts[b]; i < starts[b + 1]; i++)
        attend(out + i * C + h * D, probs + (i * H + h) * longest, qkv + i * 3 * C + h * D, keys,
               values, 3 * C, i - starts[b] + 1, D);
    }
}

void attention_backward(float *dqkv, const float *dout, const float *probs, const float *qkv,
                        const int *starts, int B, int longest, int C, int H) {
  int D = C / H, row = 3 * C;
  float scale = 1.f / __builtin_sqrtf(D);
  float dp[longest];
  for (int i = 0; i < starts[B] * row; i += 4) store(dqkv + i, all(0));
  for (int b = 0; b < B; b++)
    for (int h = 0; h < H; h++) {
      int start = starts[b], keys = start * row + C + h * D, values = keys + C;
      for (int i = start; i < starts[b + 1]; i++) {
        const float *p = probs + (i * H + h) * longest, *dy = dout + i * C + h * D;
        const float *q = qkv + i * row + h * D;
        float *dq = dqkv + i * row + h * D;
        float mean = 0;  // of dp under p: softmax's gradient is p (dp − mean)
        for (int s = 0; s <= i - start; s++) {
          const float *v = qkv + values + s * row;
          float *dv = dqkv + values + s * row;
          f4 product = all(0);
          for (int d = 0; d < D; d += 4) {
            f4 y = load(dy + d);
            product = multiply_add(y, load(v + d), product);
            store(dv + d, multiply_add(all(p[s]), y, load(dv + d)));
          }
          dp[s] = sum(product);
          mean += dp[s] * p[s];
        }
        for (int s = 0; s <= i - start; s++) {
          const float *k = qkv + keys + s * row;
          float *dk = dqkv + keys + s * row;
          f4 dscore = all(p[s] * (dp[s] - mean) * scale);
          for (int d = 0; d < D; d += 4) {
            store(dq + d, multiply_add(dscore, load(k + d), load(dq + d)));
            store(dk + d, multiply_add(dscore, load(q + d), load(dk + d)));
          }
        }
      }
    }
}
