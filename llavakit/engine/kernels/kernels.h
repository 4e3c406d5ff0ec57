/* What the kernels share: types, how weights lie in memory, vectors of bf16.

   product.c    weights times rows: tiles of rows and panels, and the product of them
   amx.c        the same tiles by the matrix unit of newer processors
   layer.c      a decoder layer around its attention, and all layers of a step
   attention.c  attention of a step's single tokens, and of a prompt

   For processors with AVX-512 bf16. Compiled together when a decoder is fused with kernels="native" (native.py) and
   called through ctypes. Activations are bf16, sums float32. What is marked EXPORT is called by one thread and runs
   on `threads` of OpenMP's pool. */

#pragma once

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

enum { BF16 = 0, INT8 = 1, INT4 = 2 };
enum { WIDE = 32, ROWS = 12, DEEP = 32 }; /* outputs of a panel, rows of a tile, rows of one by the matrix unit */

typedef uint16_t bf16;

/* Weights lie in panels of 32 outputs, in the order in which they are read:
     bf16  [panel][input pair][32 outputs][2 inputs]
     int8  the same order; a float scale per output
     int4  four such rows of 32 x 2 in one row of 16-bit words, first row in the low bits; per panel and 32 inputs
           32 bf16 scales and 32 bf16 zeros: a weight is (code - 8) * scale + zero */
typedef struct {
    const void *weight;
    const void *scale; /* int8: float[outputs]; int4: bf16[panels][inputs / 32][2][32] */
    const float *bias; /* [outputs] or NULL */
    int64_t inputs, outputs, format; /* outputs: a multiple of 32, padded */
} Product;

typedef struct {
    const Product *qkv, *out, *gate_up, *down;
    const float *norm, *mlp_norm, *query_norm, *key_norm; /* the last two NULL in most families */
    float epsilon;
    int32_t heads, key_heads, width;
} Layer;

/* Slots of a cache that get a token each: bf16[layers][2][slots][key heads][positions][width]. */
typedef struct {
    bf16 *table;
    int64_t layer_stride, kind_stride, slot_stride, head_stride;
    const int64_t *lengths; /* positions that the slots hold */
    int64_t slots, longest;
} Slots;

/* Some rows of a prompt, from number `row` of the step on, and the slot that they go on with, which holds `start`
   positions: bf16[layers][2][.][key heads][positions][width]. `source`: NULL, or the slot that holds them instead. */
typedef struct {
    bf16 *slot;
    const bf16 *source;
    int64_t layer_stride, kind_stride, head_stride;
    int64_t source_layer_stride, source_kind_stride, source_head_stride;
    int64_t start, tokens, row;
} Prompt;

/* What becomes of the sums. FLOATS: stored as they are. RESIDUAL: added to a bf16 row, stored as bf16.
   GATED: the panels are gates and the panels of the second half are what they are multiplied with; stored as bf16.
   PLAIN: stored as bf16, `limit` outputs of a row. */
enum { FLOATS, RESIDUAL, GATED, PLAIN };
typedef struct {
    int kind;
    void *into;
    const bf16 *residual;
    int64_t stride, limit;
} Finish;

/* Rows of a tile on this machine: DEEP where the matrix unit is used, else ROWS. */
extern int deepest;

/* The sums of up to DEEP rows and one panel by the matrix unit; `inputs` is a multiple of 32. `shaped`: for how many
   rows this thread's tiles are shaped, at first 0; who is done with them calls amx_release. */
void amx_tile(const bf16 *w, const bf16 *x, int64_t inputs, int rows, int *shaped, float *sums);
void amx_release(void);

/* The sums of up to ROWS rows and one panel by vectors. */
void rows_bf16(const bf16 *w, const bf16 *x, int64_t inputs, int rows, float *sums);

/* The whole product, inside a parallel region: every thread does its share of the panels. No barrier at the end. */
void multiply(const Product *p, const bf16 *x, int64_t tokens, const Finish *f, char *scratch);

/* Inside a parallel region; a barrier at the end. A row's key and value go to place lengths[n] of slot n, its
   queries see everything up to there. qkv: bf16[slots][heads + 2 * key heads][width]. */
void attend(const Slots *s, int64_t layer, const bf16 *qkv, int64_t heads, int64_t key_heads, int64_t width,
            float scale, bf16 *into, float *scores);

INLINE __m512 widen16(const bf16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)x)), 16));
}
INLINE __mmask32 lanes32(int64_t n) { return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1; }
INLINE __mmask16 lanes16(int64_t n) { return (__mmask16)lanes32(n > 16 ? 16 : n); }
INLINE void narrow16(bf16 *y, __m512 x) { _mm256_storeu_si256((void *)y, (__m256i)_mm512_cvtneps_pbh(x)); }
INLINE __m512bh pair(const bf16 *x) { return (__m512bh)_mm512_set1_epi32(*(const int32_t *)x); }

/* exp as 2^n times a polynomial; relative error below 1e-6, far under bf16's. */
INLINE __m512 exp16(__m512 x) {
    __m512 t = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-87)), _mm512_set1_ps(87));
    t = _mm512_mul_ps(t, _mm512_set1_ps(1.44269504f));
    __m512 n = _mm512_roundscale_ps(t, 0), f = _mm512_mul_ps(_mm512_sub_ps(t, n), _mm512_set1_ps(0.69314718f));
    const float terms[] = {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};
    __m512 e = _mm512_set1_ps(1.f / 720);
    for (int k = 0; k < 6; k++) e = _mm512_fmadd_ps(e, f, _mm512_set1_ps(terms[k]));
    return _mm512_scalef_ps(e, n);
}

/* A part of the workspace, on a border of 64 as the workspace is. */
INLINE char *take(char **work, int64_t bytes) {
    char *here = *work;
    *work += (bytes + 63) / 64 * 64;
    return here;
}
