// GPT-2 for a web page: the names of the Python library, in C, compiled to WebAssembly.
//
// Read in this order: arithmetic.c (vectors, the matrix product), layers.c (each layer with its
// gradient below it), policy.c (the model: forward, backward, its two heads), rollout.c (sampling),
// optimization.c (Adam).
//
// Layout. Rows of a batch are not padded: N tokens of B texts stand one after the other, and
// starts[b] .. starts[b + 1] are those of text b. What belongs to one token is one row of a table
// (N, C), in float32, row after row.
// Axes: B texts, N tokens, K tokens that are predicted, L layers, C width, H heads, D = C / H,
// V vocabulary. C and D are multiples of 4; columns of a matrix product are a multiple of 8.

#pragma once

#ifdef __wasm__
#define EXPORT(name) __attribute__((export_name(#name))) name
__attribute__((import_module("env"), import_name("log")))
#else
#define EXPORT(name) name
#endif
double log(double);  // JavaScript's

enum { MAX_LAYERS = 12, COLUMNS = 8 };

// ---------------------------------------------------------------------------------- arithmetic.c

typedef float f4 __attribute__((vector_size(16), aligned(4)));  // 4 numbers, computed with at once
typedef int i4 __attribute__((vector_size(16), aligned(4)));

static inline f4 load(const float *p) { return *(const f4 *)p; }
static inline void store(float *p, f4 x) { *(f4 *)p = x; }
static inline f4 all(float x) { return (f4){x, x, x, x}; }
static inline float sum(f4 x) { return (x[0] + x[1]) + (x[2] + x[3]); }
static inline f4 smaller(f4 x, f4 y) { return __builtin_elementwise_minimum(x, y); }
static inline f4 larger(f4 x, f4 y) { return __builtin_elementwise_maximum(x, y); }
static inline f4 multiply_add(f4 a, f4 b, f4 c) {  // a b + c
  return a * b + c;
}

void *allocate(int bytes);
float *numbers(int n);  // n of them, all 0
f4 exponential(f4 x);
void matmul(float *out, const float *a, int row, int column, const float *b, int rows, int inner,
            int columns, int add);
void transpose(float *out, const float *a, int rows, int columns, int room);

// ---------------------------------------------------------------------------------- layers.c

typedef struct {
  float *weight, *bias;
} Layer;  // a linear layer, (in, out) and (out,), or a layer norm, (C,) and (C,)

void layer_norm(float *out, float *unit, float *scale, const float *x, Layer w, int N, int C);
void layer_norm_backward(float *dx, const float *dout, const float *unit, const float *scale,
                         Layer w, Layer g, int N, int C);
void unit_to_out(float *out, const float *unit, Layer w, int N, int C);
void linear(float *out, const float *x, Layer w, int N, int in, int out_size, int add);
void linear_backward(float *dx, const float *dout, const float *x, Layer w, Layer g, int N, int in,
                     int out_size, float *room);
void gelu(float *out, const float *x, int n);
void gelu_backward(float *dx, const float *x, int n);
void softmax(float *x, int n);
void attend(float *out, float *probs, const float *q, const float *keys, const float *values,
            int stride, int n, int D);
void attention(float *out, float *probs, const float *qkv, const int *starts, int B, int longest,
               int C, int H);
void attention_backward(float *dqkv, const float *dout, const float *probs, const float *qkv,
                        const int *starts, int B, int longest, int C, int H);

// ---------------------------------------------------------------------------------- policy.c

typedef struct {
  Layer ln_1, c_attn, c_proj, ln_2, c_fc, mlp_proj;
} Block;

typedef struct {
  float *wte, *wpe;  // (V, C), also the policy's head, and (positions, C)
  Block h[MAX_LAYERS];
  Layer ln_f;
  float *score;  // (C,) the head of a reward model or a critic
} Weights;

typedef struct {
  int L, C, H, V, positions, size;  // size counts all weights
  int Vp;                           // V, rounded up to a multiple of 8
  float *weights, *gradient;        // flat, in transformers' order; no gradient for a reference
  float *mean, *square;             // Adam's moments
  int steps;                        // that Adam has made
  Weights w, g;                     // the same two arrays, by name
  float *wte_t;                     // (C, Vp) the head, transposed
} Model;

typedef struct {  // what forward keeps for backward; shared by models of one shape
  int N, longest;  // room
  struct {
    float *x, *unit_1, *scale_1, *qkv, *probs, *y, *middle, *unit_2, *scale_2, *wide;
  } h[MAX_LAYERS];
  float *x, *unit, *scale, *hidden;    // after the last layer; hidden is the trunk's output
  float *a, *b, *wide, *dx, *dqkv;     // room to compute in; dqkv is also the gradient of wide
  float *transposed;                   // room for one matrix
  float *chosen, *logits, *dhidden;    // (K, C), (K, Vp), (N, C)
  int B, K;                            // of the last forward pass
} Activations;
