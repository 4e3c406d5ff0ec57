/* Products: bf16 rows times bf16, int8 or int4 weights.

   A tile is up to ROWS rows times one panel, with all sums in registers. Up to CONVERTED rows quantised weights are
   converted on their way to the product; for more rows a panel is converted once and then used for all. */

#include "kernels.h"

enum { NIBBLE_ROWS = 6, CONVERTED = 64 }; /* an int4 tile has twice the sums, so half the rows */
enum { GROUP = 32 }; /* int4: inputs that share a scale and a zero */

/* A tile: the sums of `rows` rows and one panel. `rows` is a constant wherever this is called, and so below. */
INLINE void tile_bf16(const bf16 *w, const bf16 *x, int64_t inputs, int rows, float *sums) {
    __m512 low[ROWS], high[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) low[r] = high[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < inputs; i += 2, w += 64) {
        __m512bh a = (__m512bh)_mm512_loadu_si512(w), b = (__m512bh)_mm512_loadu_si512(w + 32);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            __m512bh both = pair(x + r * inputs + i);
            low[r] = _mm512_dpbf16_ps(low[r], a, both);
            high[r] = _mm512_dpbf16_ps(high[r], b, both);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        _mm512_storeu_ps(sums + r * WIDE, low[r]);
        _mm512_storeu_ps(sums + r * WIDE + 16, high[r]);
    }
}

/* 32 whole numbers as bf16, which holds every int8 exactly. */
INLINE __m512bh from_int8(const int8_t *w) {
    __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)w)));
    __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(w + 16))));
    return _mm512_cvtne2ps_pbh(high, low);
}

INLINE void tile_int8(const int8_t *w, const float *scale, const bf16 *x, int64_t inputs, int rows, float *sums) {
    __m512 low[ROWS], high[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) low[r] = high[r] = _mm512_setzero_ps();
    for (int64_t i = 0; i < inputs; i += 2, w += 64) {
        __m512bh a = from_int8(w), b = from_int8(w + 32);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            __m512bh both = pair(x + r * inputs + i);
            low[r] = _mm512_dpbf16_ps(low[r], a, both);
            high[r] = _mm512_dpbf16_ps(high[r], b, both);
        }
    }
    __m512 first = _mm512_loadu_ps(scale), second = _mm512_loadu_ps(scale + 16);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        _mm512_storeu_ps(sums + r * WIDE, _mm512_mul_ps(low[r], first));
        _mm512_storeu_ps(sums + r * WIDE + 16, _mm512_mul_ps(high[r], second));
    }
}

INLINE bf16 narrow(float x) {
    bf16 y[16];
    narrow16(y, _mm512_set1_ps(x));
    return y[0];
}

/* bf16 of code - 8, for every 5-bit index: the fifth bit belongs to the next code and does not count. */
INLINE __m512i code_table(void) {
    bf16 table[32];
    for (int code = 0; code < 32; code++) table[code] = narrow((float)(code % 16 - 8));
    return _mm512_loadu_si512(table);
}

/* `totals`: the sum of each row's inputs, per group, for the zeros. */
INLINE void tile_int4(const uint16_t *w, const bf16 *scale, const bf16 *x, const float *totals, int64_t inputs,
                      int rows, __m512i table, float *sums) {
    __m512 low[NIBBLE_ROWS], high[NIBBLE_ROWS];
    int64_t groups = inputs / GROUP;
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) low[r] = high[r] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++, scale += 2 * WIDE) {
        __m512 a[NIBBLE_ROWS], b[NIBBLE_ROWS];
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) a[r] = b[r] = _mm512_setzero_ps();
#pragma GCC unroll 8
        for (int i = 0; i < GROUP; i += 4, w += 32) {
            __m512i words = _mm512_loadu_si512(w);
            __m512bh w0 = (__m512bh)_mm512_permutexvar_epi16(words, table);
            __m512bh w1 = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table);
            __m512bh w2 = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 8), table);
            __m512bh w3 = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(words, 12), table);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const bf16 *at = x + r * inputs + g * GROUP + i;
                __m512bh both = pair(at), next = pair(at + 2);
                a[r] = _mm512_dpbf16_ps(a[r], w0, both);
                b[r] = _mm512_dpbf16_ps(b[r], w1, both);
                a[r] = _mm512_dpbf16_ps(a[r], w2, next);
                b[r] = _mm512_dpbf16_ps(b[r], w3, next);
            }
        }
        __m512 scale0 = widen16(scale), scale1 = widen16(scale + 16);
        __m512 zero0 = widen16(scale + 32), zero1 = widen16(scale + 48);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m512 total = _mm512_set1_ps(totals[r * groups + g]);
            low[r] = _mm512_fmadd_ps(a[r], scale0, _mm512_fmadd_ps(zero0, total, low[r]));
            high[r] = _mm512_fmadd_ps(b[r], scale1, _mm512_fmadd_ps(zero1, total, high[r]));
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        _mm512_storeu_ps(sums + r * WIDE, low[r]);
        _mm512_storeu_ps(sums + r * WIDE + 16, high[r]);
    }
}

/* A panel of quantised weights as bf16 in the order of bf16 panels. int8: without the scale. */
static void convert_panel(const Product *p, int64_t panel, bf16 *into) {
    int64_t inputs = p->inputs;
    if (p->format == INT8) {
        const int8_t *w = (const int8_t *)p->weight + panel * WIDE * inputs;
        for (int64_t i = 0; i < WIDE * inputs; i += 32) _mm512_storeu_si512(into + i, (__m512i)from_int8(w + i));
        return;
    }
    const uint16_t *w = (const uint16_t *)p->weight + panel * WIDE * inputs / 4;
    const bf16 *scale = (const bf16 *)p->scale + panel * (inputs / GROUP) * 2 * WIDE;
    __m512i twice = _mm512_set_epi32(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8);
    __m512i first = _mm512_sub_epi32(twice, _mm512_set1_epi32(8)), mask = _mm512_set1_epi32(15);
    for (int64_t g = 0; g < inputs / GROUP; g++, scale += 2 * WIDE) {
        __m512 s[4], z[4]; /* for outputs 0-7, 8-15, 16-23, 24-31, each twice: two inputs stand side by side */
        for (int half = 0; half < 2; half++) {
            __m512 both = widen16(scale + 16 * half), zeros = widen16(scale + 32 + 16 * half);
            s[2 * half] = _mm512_permutexvar_ps(first, both), s[2 * half + 1] = _mm512_permutexvar_ps(twice, both);
            z[2 * half] = _mm512_permutexvar_ps(first, zeros), z[2 * half + 1] = _mm512_permutexvar_ps(twice, zeros);
        }
        for (int i = 0; i < GROUP; i += 4, w += 32, into += 128)
            for (int row = 0; row < 4; row++) {
                int half = row % 2;
                __m512i words = _mm512_srl_epi16(_mm512_loadu_si512(w), _mm_cvtsi32_si128(4 * row));
                __m512i a = _mm512_and_si512(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(words)), mask);
                __m512i b = _mm512_and_si512(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(words, 1)), mask);
                __m512 eight = _mm512_set1_ps(8);
                __m512 low = _mm512_fmadd_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(a), eight), s[2 * half], z[2 * half]);
                __m512 high =
                    _mm512_fmadd_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(b), eight), s[2 * half + 1], z[2 * half + 1]);
                _mm512_storeu_si512(into + 32 * row, (__m512i)_mm512_cvtne2ps_pbh(high, low));
            }
    }
}

void rows_bf16(const bf16 *w, const bf16 *x, int64_t inputs, int rows, float *sums) {
    switch (rows) {
#define CASE(n) case n: tile_bf16(w, x, inputs, n, sums); break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
    }
}

/* Sums of up to `deepest` rows and panel number `panel`; `converted` is the panel as bf16, or NULL: as it is stored. */
static void tile(const Product *p, int64_t panel, const bf16 *converted, const bf16 *x, const float *totals, int rows,
                 int *shaped, float *sums) {
    int64_t inputs = p->inputs, size = WIDE * inputs;
    if (p->format == BF16 || converted) {
        const bf16 *w = converted ? converted : (const bf16 *)p->weight + panel * size;
        if (deepest == DEEP)
            amx_tile(w, x, inputs, rows, shaped, sums);
        else
            rows_bf16(w, x, inputs, rows, sums);
        if (p->format == INT8) {
            const float *scale = (const float *)p->scale + panel * WIDE;
            for (int r = 0; r < rows; r++)
                for (int o = 0; o < WIDE; o++) sums[r * WIDE + o] *= scale[o];
        }
    } else if (p->format == INT8) {
        const int8_t *w = (const int8_t *)p->weight + panel * size;
        const float *scale = (const float *)p->scale + panel * WIDE;
        switch (rows) {
#define CASE(n) case n: tile_int8(w, scale, x, inputs, n, sums); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
        }
    } else {
        const uint16_t *w = (const uint16_t *)p->weight + panel * size / 4;
        const bf16 *scale = (const bf16 *)p->scale + panel * (inputs / GROUP) * 2 * WIDE;
        __m512i table = code_table();
        switch (rows) {
#define CASE(n) case n: tile_int4(w, scale, x, totals, inputs, n, table, sums); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#undef CASE
        }
    }
    if (p->bias)
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < WIDE; o++) sums[r * WIDE + o] += p->bias[panel * WIDE + o];
}

INLINE __m512 silu16(__m512 x) {
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1), exp16(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

INLINE void store(const Finish *f, int64_t row, int64_t panel, const float *sums, const float *gates) {
    int64_t at = row * f->stride + panel * WIDE;
    for (int o = 0; o < WIDE; o += 16) {
        __m512 y = _mm512_loadu_ps(sums + o);
        if (f->kind == FLOATS) {
            _mm512_storeu_ps((float *)f->into + at + o, y);
            continue;
        }
        if (f->kind == RESIDUAL) y = _mm512_add_ps(y, widen16(f->residual + at + o));
        if (f->kind == GATED) y = _mm512_mul_ps(y, silu16(_mm512_loadu_ps(gates + o)));
        __mmask16 mask = lanes16(f->limit - panel * WIDE - o);
        _mm256_mask_storeu_epi16((bf16 *)f->into + at + o, mask, (__m256i)_mm512_cvtneps_pbh(y));
    }
}

void multiply(const Product *p, const bf16 *x, int64_t tokens, const Finish *f, char *scratch) {
    int64_t panels = p->outputs / WIDE, inputs = p->inputs, size = WIDE * inputs;
    int64_t shared = f->kind == GATED ? panels / 2 : panels;
    int me = omp_get_thread_num(), threads = omp_get_num_threads();
    /* The matrix unit takes bf16 only: int8 always, so that a row's bits do not depend on its company. */
    int in_registers = deepest == DEEP && p->format == INT8 ? 0 : CONVERTED;
    int convert = p->format != BF16 && tokens > in_registers, shaped = 0;
    int deep = p->format == INT4 && !convert ? NIBBLE_ROWS : deepest;
    bf16 *first = (bf16 *)scratch, *second = first + size;
    float *totals = (float *)scratch, sums[DEEP * WIDE], gates[DEEP * WIDE];
    if (p->format == INT4 && !convert)
        for (int64_t r = 0; r < tokens; r++)
            for (int64_t g = 0; g < inputs / GROUP; g++) {
                const bf16 *at = x + r * inputs + g * GROUP;
                totals[r * (inputs / GROUP) + g] = _mm512_reduce_add_ps(_mm512_add_ps(widen16(at), widen16(at + 16)));
            }
    /* A block of rows stays in the second-level cache while the panels pass by. */
    int64_t block = (deepest == DEEP ? 524288 : 262144) / inputs / deepest * deepest;
    if ((convert && deepest == ROWS) || block < deepest || block > tokens) block = tokens;
    for (int64_t start = 0; start < tokens; start += block) {
        int64_t end = start + block < tokens ? start + block : tokens;
        for (int64_t panel = shared * me / threads; panel < shared * (me + 1) / threads; panel++) {
            if (convert) {
                convert_panel(p, panel, first);
                if (f->kind == GATED) convert_panel(p, panel + shared, second);
            }
            for (int64_t row = start; row < end; row += deep) {
                int rows = end - row < deep ? (int)(end - row) : deep;
                const bf16 *at = x + row * inputs;
                if (f->kind == GATED) {
                    tile(p, panel, convert ? first : 0, at, totals + row * (inputs / GROUP), rows, &shaped, gates);
                    tile(p, panel + shared, convert ? second : 0, at, totals + row * (inputs / GROUP), rows, &shaped, sums);
                } else
                    tile(p, panel, convert ? first : 0, at, totals + row * (inputs / GROUP), rows, &shaped, sums);
                for (int r = 0; r < rows; r++) store(f, row + r, panel, sums + r * WIDE, gates + r * WIDE);
            }
        }
    }
    if (shaped) amx_release();
}

static int64_t panel_bytes(const Product *p) { return p->format == BF16 ? 0 : 2 * WIDE * p->inputs * 2; }

/* A product alone: bf16[tokens][limit]. */
EXPORT void product(const Product *p, const bf16 *x, bf16 *into, int64_t limit, int64_t tokens, char *work,
                    int threads) {
    Finish finish = {PLAIN, into, 0, limit, limit};
#pragma omp parallel num_threads(threads)
    multiply(p, x, tokens, &finish, work + omp_get_thread_num() * panel_bytes(p));
}
