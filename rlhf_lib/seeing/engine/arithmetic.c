// Memory, the exponential of four numbers at once, and the matrix product.

#include "kernel.h"

// ---------------------------------------------------------------------------------- memory

#ifdef __wasm__
extern unsigned char __heap_base;
static unsigned long top = 0;

/** Memory that is never given back: a page that starts anew makes a new instance. */
void *EXPORT(allocate)(int bytes) {
  if (!top) top = (unsigned long)&__heap_base;
  unsigned long start = (top + 63) & ~63ul;
  top = start + bytes;
  unsigned long needed = (top + 65535) / 65536, have = __builtin_wasm_memory_size(0);
  if (needed > have && __builtin_wasm_memory_grow(0, needed - have) == -1ul) __builtin_trap();
  return (void *)start;
}
#else
#include <stdlib.h>
void *allocate(int bytes) { return calloc(1, bytes); }
#endif

float *numbers(int n) {  // fresh memory is 0
  return allocate(4 * n);
}

// ---------------------------------------------------------------------------------- exponential

/** e^x = 2^n e^f with f within ±(log 2) / 2, where a polynomial of degree 6 is exact enough. */
f4 exponential(f4 x) {
  x = smaller(larger(x, all(-87.f)), all(88.f));
  const float magic = 12582912.f;  // 1.5 × 2^23: adding it rounds to a whole number
  f4 n = (x * 1.44269504f + magic) - magic;
  f4 f = x - n * 0.693359375f + n * 2.12194440e-4f;  // log 2 in two parts
  f4 p = all(1.9875691500e-4f);
  p = multiply_add(p, f, all(1.3981999507e-3f));
  p = multiply_add(p, f, all(8.3334519073e-3f));
  p = multiply_add(p, f, all(4.1665795894e-2f));
  p = multiply_add(p, f, all(1.6666665459e-1f));
  p = multiply_add(p, f, all(5.0000001201e-1f));
  p = multiply_add(p, f * f, f + 1.f);
  i4 power = (__builtin_convertvector(n, i4) + 127) << 23;  // the bits of 2^n
  return p * (f4)power;
}

// ---------------------------------------------------------------------------------- products

/** Some rows, 4 or 1, and 8 columns of a product, in registers. */
__attribute__((always_inline)) static inline void tile(int rows, float *out, const float *a,
                                                       int row, int column, const float *b,
                                                       int from, int to, int columns, int add) {
  f4 left[4], right[4];
  for (int i = 0; i < rows; i++) {
    left[i] = add ? load(out + i * columns) : all(0);
    right[i] = add ? load(out + i * columns + 4) : all(0);
  }
  const float *from_a = a + from * column, *from_b = b + from * columns;
  for (int k = from; k < to; k++) {
    f4 b_left = load(from_b), b_right = load(from_b + 4);
    for (int i = 0; i < rows; i++) {
      f4 x = all(from_a[i * row]);
      left[i] = multiply_add(x, b_left, left[i]);
      right[i] = multiply_add(x, b_right, right[i]);
    }
    from_a += column;
    from_b += columns;
  }
  for (int i = 0; i < rows; i++) {
    store(out + i * columns, left[i]);
    store(out + i * columns + 4, right[i]);
  }
}

/**
 * out = a b, or out += a b; out is (rows, columns), b is (inner, columns).
 *
 * Element (i, k) of a is a[i * row + k * column]: (inner, 1) reads a table as it stands, and
 * (1, rows) reads it transposed. The order of the loops keeps 192 rows of 8 columns of b and a
 * block of a in the cache.
 */
void matmul(float *out, const float *a, int row, int column, const float *b, int rows, int inner,
            int columns, int add) {
  enum { ROWS = 64, INNER = 192 };
  for (int first = 0; first < rows; first += ROWS) {
    int last = first + ROWS < rows ? first + ROWS : rows;
    for (int from = 0; from < inner; from += INNER) {
      int to = from + INNER < inner ? from + INNER : inner;
      int more = add || from > 0;
      for (int j = 0; j < columns; j += COLUMNS) {
        int i = first;
        for (; i + 4 <= last; i += 4)
          tile(4, out + i * columns + j, a + i * row, row, column, b + j, from, to, columns, more);
        for (; i < last; i++)
          tile(1, out + i * columns + j, a + i * row, row, column, b + j, from, to, columns, more);
      }
    }
  }
}

/** (rows, columns) to (columns, room), of which the first `rows` columns are written. */
void transpose(float *out, const float *a, int rows, int columns, int room) {
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) out[j * room + i] = a[i * columns + j];
}
