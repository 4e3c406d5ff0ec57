/* The products of a decoder layer for processors with AVX-512 bf16, with norms, rotation, SiLU and residuals inside.

   Compiled when a decoder is fused with kernels="native" (native.py), called through ctypes. Activations are bf16,
   sums float32. Weights lie in panels of 32 outputs, in the order in which they are read:
     bf16  [panel][input pair][32 outputs][2 inputs]
     int8  the same order; a float scale per output
     int4  four such rows of 32 x 2 in one row of 16-bit words, first row in the low bits; per panel and 32 inputs
           32 bf16 scales and 32 bf16 zeros: a weight is (code - 8) * scale + zero
   Up to CONVERTED rows quantised weights are converted on their way to the product; for more rows a panel is
   converted once and then used for all.
   The functions at the end are called by one thread and run on `threads` of OpenMP's pool. */

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

enum { BF16 = 0, INT8 = 1, INT4 = 2 };
enum { WIDE = 32, ROWS = 12, NIBBLE_ROWS = 6, CONVERTED = 64, GROUP = 32, TOGETHER = 4 };
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

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

INLINE float widen(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
INLINE __m512 widen16(const bf16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)x)), 16));
}
INLINE __m512 widen_some(__mmask16 mask, const bf16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x)), 16));
}
INLINE __mmask32 lanes32(int64_t n) { return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1; }
INLINE __mmask16 lanes16(int64_t n) { return (__mmask16)lanes32(n > 16 ? 16 : n); }
INLINE void narrow16(bf16 *y, __m512 x) { _mm256_storeu_si256((void *)y, (__m256i)_mm512_cvtneps_pbh(x)); }
INLINE bf16 narrow(float x) {
    bf16 y[16];
    narrow16(y, _mm512_set1_ps(x));
    return y[0];
}
INLINE __m512bh pair(const bf16 *x) { return (__m512bh)_mm512_set1_epi32(*(const int32_t *)x); }

/* Sums of `rows` rows and one panel; `rows` is a constant wherever these are called. */
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

/* Sums of up to ROWS rows and panel number `panel`; `converted` is the panel as bf16, or NULL: as it is stored. */
static void tile(const Product *p, int64_t panel, const bf16 *converted, const bf16 *x, const float *totals, int rows,
                 float *sums) {
    int64_t inputs = p->inputs, size = WIDE * inputs;
    if (p->format == BF16 || converted) {
        const bf16 *w = converted ? converted : (const bf16 *)p->weight + panel * size;
        switch (rows) {
#define CASE(n) case n: tile_bf16(w, x, inputs, n, sums); break;
            CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
        }
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
INLINE __m512 silu16(__m512 x) {
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1), exp16(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

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

/* The whole product, inside a parallel region: every thread does its share of the panels. No barrier at the end. */
static void multiply(const Product *p, const bf16 *x, int64_t tokens, const Finish *f, char *scratch) {
    int64_t panels = p->outputs / WIDE, inputs = p->inputs, size = WIDE * inputs;
    int64_t shared = f->kind == GATED ? panels / 2 : panels;
    int me = omp_get_thread_num(), threads = omp_get_num_threads();
    int convert = p->format != BF16 && tokens > CONVERTED, deep = p->format == INT4 && !convert ? NIBBLE_ROWS : ROWS;
    bf16 *first = (bf16 *)scratch, *second = first + size;
    float *totals = (float *)scratch, sums[ROWS * WIDE], gates[ROWS * WIDE];
    if (p->format == INT4 && !convert)
        for (int64_t r = 0; r < tokens; r++)
            for (int64_t g = 0; g < inputs / GROUP; g++) {
                const bf16 *at = x + r * inputs + g * GROUP;
                totals[r * (inputs / GROUP) + g] = _mm512_reduce_add_ps(_mm512_add_ps(widen16(at), widen16(at + 16)));
            }
    /* A block of rows stays in the second-level cache while the panels pass by. */
    int64_t block = 262144 / inputs / ROWS * ROWS;
    if (convert || block < ROWS || block > tokens) block = tokens;
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
                    tile(p, panel, convert ? first : 0, at, totals + row * (inputs / GROUP), rows, gates);
                    tile(p, panel + shared, convert ? second : 0, at, totals + row * (inputs / GROUP), rows, sums);
                } else
                    tile(p, panel, convert ? first : 0, at, totals + row * (inputs / GROUP), rows, sums);
                for (int r = 0; r < rows; r++) store(f, row + r, panel, sums + r * WIDE, gates + r * WIDE);
            }
        }
    }
}

/* One row's RMSNorm in float32; `width` is a multiple of 16. */
INLINE float inverse_length(const bf16 *x, int64_t width, float epsilon) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16) {
        __m512 v = widen16(x + i);
        sum = _mm512_fmadd_ps(v, v, sum);
    }
    return 1.f / sqrtf(_mm512_reduce_add_ps(sum) / (float)width + epsilon);
}
static void norm_rows(const bf16 *x, const float *weight, float epsilon, int64_t tokens, int64_t width, bf16 *y) {
#pragma omp for schedule(static)
    for (int64_t t = 0; t < tokens; t++) {
        __m512 scale = _mm512_set1_ps(inverse_length(x + t * width, width, epsilon));
        for (int64_t i = 0; i < width; i += 16)
            narrow16(y + t * width + i,
                     _mm512_mul_ps(_mm512_mul_ps(widen16(x + t * width + i), scale), _mm512_loadu_ps(weight + i)));
    }
}

/* A head's norm, where the family has one, and its rotation: lane j turns with lane j + width / 2. */
INLINE void turn_head(float *y, const float *weight, float epsilon, const bf16 *cosines, const bf16 *sines,
                      int width, bf16 *into) {
    if (weight) {
        float sum = 0;
        for (int j = 0; j < width; j++) sum += y[j] * y[j];
        float scale = 1.f / sqrtf(sum / (float)width + epsilon);
        for (int j = 0; j < width; j++) y[j] *= scale * weight[j];
    }
    int half = width / 2;
    for (int j = 0; j < half; j += 16) {
        __mmask16 mask = lanes16(half - j);
        __m512 a = _mm512_maskz_loadu_ps(mask, y + j), b = _mm512_maskz_loadu_ps(mask, y + half + j);
        __m512 c0 = widen_some(mask, cosines + j), c1 = widen_some(mask, cosines + half + j);
        __m512 s0 = widen_some(mask, sines + j), s1 = widen_some(mask, sines + half + j);
        __m512 low = _mm512_fmadd_ps(b, s0, _mm512_mul_ps(a, c0)), high = _mm512_fmadd_ps(a, s1, _mm512_mul_ps(b, c1));
        _mm256_mask_storeu_epi16(into + j, mask, (__m256i)_mm512_cvtneps_pbh(low));
        _mm256_mask_storeu_epi16(into + half + j, mask, (__m256i)_mm512_cvtneps_pbh(high));
    }
}

static char *take(char **work, int64_t bytes) {
    char *here = *work;
    *work += (bytes + 63) / 64 * 64;
    return here;
}
static int64_t panel_bytes(const Product *p) { return p->format == BF16 ? 0 : 2 * WIDE * p->inputs * 2; }

typedef struct {
    bf16 *normed, *stream, *active, *attended, *qkv;
    float *sums;
    char *mine; /* this thread's */
} Rooms;

/* Where the rows between the products of a layer lie. The same for every thread, but for `mine`. */
static Rooms share(const Layer *l, int64_t tokens, char *work, int64_t thread_bytes) {
    int64_t width = l->qkv->inputs, heads = l->heads * l->width, all = (l->heads + 2 * l->key_heads) * l->width;
    Rooms r;
    r.normed = (bf16 *)take(&work, tokens * width * 2);
    r.stream = (bf16 *)take(&work, tokens * width * 2);
    r.active = (bf16 *)take(&work, tokens * l->down->inputs * 2);
    r.attended = (bf16 *)take(&work, tokens * heads * 2);
    r.qkv = (bf16 *)take(&work, tokens * all * 2);
    r.sums = (float *)take(&work, tokens * l->qkv->outputs * 4);
    r.mine = work + omp_get_thread_num() * thread_bytes;
    return r;
}

/* Norm, queries, keys and values, rotation, inside a parallel region; a barrier at the end. */
static void before(const Layer *l, const bf16 *x, const bf16 *cosines, const bf16 *sines, bf16 *into, int64_t tokens,
                   const Rooms *room) {
    int64_t outputs = l->qkv->outputs, width = l->width;
    int64_t turned = l->heads + l->key_heads, all = turned + l->key_heads;
    Finish finish = {FLOATS, room->sums, 0, outputs, outputs};
    norm_rows(x, l->norm, l->epsilon, tokens, l->qkv->inputs, room->normed);
    multiply(l->qkv, room->normed, tokens, &finish, room->mine);
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t n = 0; n < tokens * all; n++) {
        int64_t t = n / all, head = n % all;
        float *y = room->sums + t * outputs + head * width;
        bf16 *place = into + (t * all + head) * width;
        if (head < turned)
            turn_head(y, head < l->heads ? l->query_norm : l->key_norm, l->epsilon, cosines + t * width,
                      sines + t * width, (int)width, place);
        else
            for (int64_t j = 0; j < width; j += 16) {
                __mmask16 mask = lanes16(width - j);
                _mm256_mask_storeu_epi16(place + j, mask, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, y + j)));
            }
    }
}

/* Output product, residual, norm, feed-forward, residual, inside a parallel region; no barrier at the end. */
static void after(const Layer *l, const bf16 *attended, const bf16 *x, bf16 *into, int64_t tokens, const Rooms *room) {
    int64_t width = l->out->outputs, middle = l->down->inputs;
    Finish first = {RESIDUAL, room->stream, x, width, width}, gated = {GATED, room->active, 0, middle, middle};
    Finish last = {RESIDUAL, into, room->stream, width, width};
    multiply(l->out, attended, tokens, &first, room->mine);
#pragma omp barrier
    norm_rows(room->stream, l->mlp_norm, l->epsilon, tokens, width, room->normed);
    multiply(l->gate_up, room->normed, tokens, &gated, room->mine);
#pragma omp barrier
    multiply(l->down, room->active, tokens, &last, room->mine);
}

/* The sums of 16 vectors' lanes, in one vector. */
INLINE __m512 sums_of_16(const __m512 *r) {
    __m512 four[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const __m512 *v = r + 4 * i;
        __m512 a = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
        __m512 b = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
        __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
        four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
    }
    __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(four[0], four[1], 0x88),
                             _mm512_shuffle_f32x4(four[0], four[1], 0xdd));
    __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(four[2], four[3], 0x88),
                             _mm512_shuffle_f32x4(four[2], four[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* A query's products with 16 keys, of which `rest` are there: the others count as the last one again. */
INLINE __m512 sixteen(const bf16 *query, const bf16 *keys, int64_t rest, int64_t width) {
    __m512 sums[16];
#pragma GCC unroll 16
    for (int n = 0; n < 16; n++) sums[n] = _mm512_setzero_ps();
    for (int64_t j = 0; j < width; j += 32) {
        __mmask32 mask = lanes32(width - j);
        __m512bh q = (__m512bh)_mm512_maskz_loadu_epi16(mask, query + j);
#pragma GCC unroll 16
        for (int n = 0; n < 16; n++) {
            __m512i key = _mm512_maskz_loadu_epi16(mask, keys + (n < rest ? n : rest - 1) * width + j);
            sums[n] = _mm512_dpbf16_ps(sums[n], q, (__m512bh)key);
        }
    }
    return sums_of_16(sums);
}

/* Asks for memory that is read soon: as far as it goes, 16 rows a call. */
INLINE void fetch(const bf16 *ahead, int64_t k, int64_t rows, int64_t width) {
    if (ahead)
        for (int64_t n = 0; n < rows * width; n += 32) _mm_prefetch((const char *)(ahead + k * width + n), _MM_HINT_T1);
}

/* Scores of a query with `length` keys, then their softmax without its division: as bf16 in place, and the sum.
   `ahead`: as many rows that are read next, or NULL. */
static float weigh(const bf16 *query, const bf16 *keys, int64_t length, int64_t width, float scale, float *scores,
                   const bf16 *ahead) {
    __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps(), factor = _mm512_set1_ps(scale);
    int64_t k = 0;
    for (; k + 16 <= length; k += 16) {
        fetch(ahead, k, 16, width);
        __m512 some = _mm512_mul_ps(sixteen(query, keys + k * width, 16, width), factor);
        most = _mm512_max_ps(most, some);
        _mm512_storeu_ps(scores + k, some);
    }
    if (k < length) {
        __m512 some = _mm512_mul_ps(sixteen(query, keys + k * width, length - k, width), factor);
        most = _mm512_max_ps(most, some);
        _mm512_storeu_ps(scores + k, some);
    }
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (k = 0; k < length; k += 16) {
        __m512 e = _mm512_maskz_mov_ps(lanes16(length - k), exp16(_mm512_sub_ps(_mm512_loadu_ps(scores + k), most)));
        total = _mm512_add_ps(total, e);
        narrow16((bf16 *)scores + k, e);
    }
    return _mm512_reduce_add_ps(total);
}

/* The values, weighted: for `count` queries at once, which is a constant wherever this is called. */
INLINE void gather_values(const bf16 *values, int64_t length, int64_t width, int count, const float *scores,
                          int64_t apart, const float *totals, const bf16 *ahead, bf16 *into) {
    /* Two values side by side come out in quarters of four outputs; this puts them in order. */
    int16_t order[32];
    for (int n = 0; n < 32; n++) order[n] = (int16_t)(n / 8 * 4 + n % 4 + (n % 8 < 4 ? 0 : 16));
    __m512i places = _mm512_loadu_si512(order);
    for (int64_t j = 0; j < width; j += 32) {
        __mmask32 mask = lanes32(width - j);
        __m512 low[4], high[4];
#pragma GCC unroll 4
        for (int q = 0; q < count; q++) low[q] = high[q] = _mm512_setzero_ps();
        for (int64_t k = 0; k < length; k += 2) {
            fetch(j ? 0 : ahead, k, 2, width);
            const bf16 *at = values + k * width + j, *next = k + 1 < length ? at + width : at; /* weight 0 there */
            __m512i a = _mm512_maskz_loadu_epi16(mask, at), b = _mm512_maskz_loadu_epi16(mask, next);
            __m512bh first = (__m512bh)_mm512_unpacklo_epi16(a, b), second = (__m512bh)_mm512_unpackhi_epi16(a, b);
#pragma GCC unroll 4
            for (int q = 0; q < count; q++) {
                __m512bh weights = pair((const bf16 *)(scores + q * apart) + k);
                low[q] = _mm512_dpbf16_ps(low[q], first, weights);
                high[q] = _mm512_dpbf16_ps(high[q], second, weights);
            }
        }
#pragma GCC unroll 4
        for (int q = 0; q < count; q++) {
            __m512 scale = _mm512_set1_ps(1.f / totals[q]);
            __m512i both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high[q], scale), _mm512_mul_ps(low[q], scale));
            _mm512_mask_storeu_epi16(into + q * width + j, mask, _mm512_permutexvar_epi16(places, both));
        }
    }
}

/* `count` query heads, up to TOGETHER, over the keys and values of one key head, which lie one after another.
   `scores` has room for `apart` floats a query. `ahead`: the keys that come next, or NULL. */
static void attend_heads(const bf16 *query, const bf16 *keys, const bf16 *values, int64_t length, int64_t width,
                         int count, float scale, float *scores, int64_t apart, const bf16 *ahead, bf16 *into) {
    float totals[TOGETHER];
    for (int q = 0; q < count; q++)
        totals[q] = weigh(query + q * width, keys, length, width, scale, scores + q * apart, q ? 0 : values);
    switch (count) {
#define CASE(n) case n: gather_values(values, length, width, n, scores, apart, totals, ahead, into); break;
        CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
    }
}

/* Slots of a cache that get a token each: bf16[layers][2][slots][key heads][positions][width]. */
typedef struct {
    bf16 *table;
    int64_t layer_stride, kind_stride, slot_stride, head_stride;
    const int64_t *lengths; /* positions that the slots hold */
    int64_t slots, longest;
} Slots;

/* Inside a parallel region; a barrier at the end. A row's key and value go to place lengths[n] of slot n, its
   queries see everything up to there. qkv: bf16[slots][heads + 2 * key heads][width]. */
static void attend(const Slots *s, int64_t layer, const bf16 *qkv, int64_t heads, int64_t key_heads, int64_t width,
                   float scale, bf16 *into, float *scores) {
    int64_t all = heads + 2 * key_heads, group = heads / key_heads, apart = (s->longest + 16) / 16 * 16;
    bf16 *keys = s->table + layer * s->layer_stride, *values = keys + s->kind_stride;
    /* Queries of one key head read its keys and values once, unless there is too little to share out then. */
    int64_t together = s->slots * key_heads < 2 * omp_get_num_threads() ? 1 : group < TOGETHER ? group : TOGETHER;
    int64_t shares = (group + together - 1) / together;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < s->slots * key_heads; i++) {
        int64_t n = i / key_heads, head = i % key_heads;
        int64_t place = n * s->slot_stride + head * s->head_stride + s->lengths[n] * width;
        const bf16 *row = qkv + n * all * width;
        memcpy(keys + place, row + (heads + head) * width, (size_t)width * 2);
        memcpy(values + place, row + (heads + key_heads + head) * width, (size_t)width * 2);
    }
#pragma omp for schedule(static)
    for (int64_t i = 0; i < s->slots * key_heads * shares; i++) {
        int64_t n = i / (key_heads * shares), head = i / shares % key_heads, first = i % shares * together;
        int count = (int)(group - first < together ? group - first : together);
        int64_t place = n * s->slot_stride + head * s->head_stride, query = head * group + first;
        const bf16 *ahead = 0;
        if (shares == 1 && i + 1 < s->slots * key_heads)
            ahead = keys + (head + 1 < key_heads ? place + s->head_stride : (n + 1) * s->slot_stride);
        attend_heads(qkv + (n * all + query) * width, keys + place, values + place, s->lengths[n] + 1, width, count,
                     scale, scores, apart, ahead, into + (n * heads + query) * width);
    }
}

/* A prompt's keys and values as a product's weights (see above), of one key head: keys in panels of 32 keys, values
   in panels of 32 of their width. `padded` keys, of which those behind `length` are zero. */
static void pack_head(const bf16 *keys, const bf16 *values, int64_t length, int64_t padded, int64_t width,
                      bf16 *key_panels, bf16 *value_panels) {
    __m512i apart = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                       _mm512_set1_epi32((int)width / 2));
    for (int64_t k = 0; k < padded; k += 16)
        for (int64_t i = 0; i < width; i += 2)
            _mm512_storeu_si512(key_panels + (k / 32 * width + i) * 32 + k % 32 * 2,
                                _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), lanes16(length - k), apart,
                                                            keys + k * width + i, 4));
    __m512i low, high, turn = _mm512_set1_epi32(0x00200000);
    for (int i = 0; i < 16; i++) ((uint32_t *)&low)[i] = (uint32_t)i * 0x00010001u;
    low = _mm512_or_si512(low, turn), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t j = 0; j < width; j += 32) {
        __mmask32 mask = lanes32(width - j);
        for (int64_t k = 0; k < padded; k += 2, value_panels += 64) {
            __m512i first = _mm512_maskz_loadu_epi16(k < length ? mask : 0, values + k * width + j);
            __m512i second = _mm512_maskz_loadu_epi16(k + 1 < length ? mask : 0, values + (k + 1) * width + j);
            _mm512_storeu_si512(value_panels, _mm512_permutex2var_epi16(first, low, second));
            _mm512_storeu_si512(value_panels + 32, _mm512_permutex2var_epi16(first, high, second));
        }
    }
}

/* Softmax of ROWS rows of scores [panel][row][32] into bf16[row][panels * 32], not yet divided by the sums. Row r
   sees the first `seen + r` keys. */
static void soften(const float *scores, int64_t panels, int64_t seen, float scale, bf16 *into, float *sums) {
    for (int64_t r = 0; r < ROWS; r++, into += panels * 32) {
        __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
        for (int64_t k = 0; k < panels * 32; k += 16)
            most = _mm512_mask_max_ps(most, lanes16(seen + r - k), most,
                                      _mm512_loadu_ps(scores + (k / 32 * ROWS + r) * 32 + k % 32));
        __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most)), by = _mm512_set1_ps(scale);
        for (int64_t k = 0; k < panels * 32; k += 16) {
            __m512 score = _mm512_loadu_ps(scores + (k / 32 * ROWS + r) * 32 + k % 32);
            __m512 e = _mm512_maskz_mov_ps(lanes16(seen + r - k), exp16(_mm512_mul_ps(_mm512_sub_ps(score, top), by)));
            total = _mm512_add_ps(total, e);
            narrow16(into + k, e);
        }
        sums[r] = _mm512_reduce_add_ps(total);
    }
}

/* ROWS queries of one head, of which `rows` are wanted: bf16[rows] at `apart` elements from each other. */
static void attend_block(const bf16 *query, int64_t apart, int64_t rows, int64_t seen, const bf16 *key_panels,
                         const bf16 *value_panels, int64_t padded, int64_t width, float scale, bf16 *into,
                         int64_t into_apart, char *work) {
    int64_t panels = (seen + rows + 30) / 32;
    float *scores = (float *)take(&work, panels * 32 * ROWS * 4), total[ROWS], sums[ROWS * WIDE];
    bf16 *probs = (bf16 *)take(&work, panels * 32 * ROWS * 2), *queries = (bf16 *)take(&work, ROWS * width * 2);
    memset(queries, 0, (size_t)(ROWS * width) * 2);
    for (int64_t r = 0; r < rows; r++) memcpy(queries + r * width, query + r * apart, (size_t)width * 2);
    for (int64_t p = 0; p < panels; p++)
        tile_bf16(key_panels + p * width * 32, queries, width, ROWS, scores + p * ROWS * 32);
    soften(scores, panels, seen, scale, probs, total);
    for (int64_t j = 0; j < width; j += 32) {
        tile_bf16(value_panels + j * padded, probs, panels * 32, ROWS, sums);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < 32 && j + c < width; c += 16)
                _mm256_mask_storeu_epi16(
                    into + r * into_apart + j + c, lanes16(width - j - c),
                    (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(sums + r * WIDE + c),
                                                              _mm512_set1_ps(1.f / total[r]))));
    }
}

/* Bytes that attend_prompt works in, for itself and for each thread. */
int64_t prompt_bytes(int64_t length, int64_t key_heads, int64_t width) {
    return key_heads * ((length + 31) / 32 * 32) * (width + (width + 31) / 32 * 32) * 2 + 128;
}
int64_t prompt_thread_bytes(int64_t length, int64_t width) {
    return (length + 63) / 32 * 32 * ROWS * 6 + ROWS * width * 2 + 256;
}

/* Attention of a layer's `tokens` rows of one prompt, whose slot (bf16[key heads][positions][width] twice) holds
   `start` positions before them: keys and values are written there, and each query sees everything up to itself. */
void attend_prompt(bf16 *keys, bf16 *values, int64_t head_stride, int64_t start, int64_t tokens, const bf16 *qkv,
                   int64_t heads, int64_t key_heads, int64_t width, float scale, bf16 *into, char *work, int threads) {
    int64_t all = heads + 2 * key_heads, group = heads / key_heads, length = start + tokens;
    int64_t padded = (length + 31) / 32 * 32, blocks = (tokens + ROWS - 1) / ROWS, wide = (width + 31) / 32 * 32;
    char *rest = work + prompt_bytes(length, key_heads, width);
    bf16 *key_panels = (bf16 *)work, *value_panels = key_panels + key_heads * padded * width;
#pragma omp parallel num_threads(threads)
    {
        char *mine = rest + omp_get_thread_num() * prompt_thread_bytes(length, width);
#pragma omp for schedule(static)
        for (int64_t head = 0; head < key_heads; head++) {
            for (int64_t t = 0; t < tokens; t++) {
                const bf16 *row = qkv + (t * all + heads + head) * width;
                memcpy(keys + head * head_stride + (start + t) * width, row, (size_t)width * 2);
                memcpy(values + head * head_stride + (start + t) * width, row + key_heads * width, (size_t)width * 2);
            }
            pack_head(keys + head * head_stride, values + head * head_stride, length, padded, width,
                      key_panels + head * padded * width, value_panels + head * padded * wide);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = heads * blocks - 1; i >= 0; i--) { /* the longest first */
            int64_t t = i / heads * ROWS, head = i % heads, rows = tokens - t < ROWS ? tokens - t : ROWS;
            attend_block(qkv + (t * all + head) * width, all * width, rows, start + t + 1,
                         key_panels + head / group * padded * width, value_panels + head / group * padded * wide,
                         padded, width, scale, into + (t * heads + head) * width, heads * width, mine);
        }
    }
}

/* into: bf16[tokens][heads + 2 * key heads][width]. `sines` have their first half negated. */
void before_attention(const Layer *l, const bf16 *x, const bf16 *cosines, const bf16 *sines, bf16 *into,
                      int64_t tokens, char *work, int64_t thread_bytes, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Rooms room = share(l, tokens, work, thread_bytes);
        before(l, x, cosines, sines, into, tokens, &room);
    }
}

/* attended: bf16[tokens][heads * width]; x and into: bf16[tokens][inputs]. */
void after_attention(const Layer *l, const bf16 *attended, const bf16 *x, bf16 *into, int64_t tokens, char *work,
                     int64_t thread_bytes, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Rooms room = share(l, tokens, work, thread_bytes);
        after(l, attended, x, into, tokens, &room);
    }
}

/* Attention of one layer's rows, which go on with `slots`. */
void attend_step(const Slots *slots, int64_t layer, const bf16 *qkv, int64_t heads, int64_t key_heads, int64_t width,
                 float scale, bf16 *into, char *work, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *scores = (float *)work + omp_get_thread_num() * TOGETHER * ((slots->longest + 16) / 16 * 16);
        attend(slots, layer, qkv, heads, key_heads, width, scale, into, scores);
    }
}

/* All layers of a step in which every row is one new token: rows in the order of `parts` and of their slots.
   x is overwritten with the last layer's output. */
void decode_step(const Layer *const *layers, int64_t count, bf16 *x, const bf16 *cosines, const bf16 *sines,
                 const Slots *const *parts, int64_t num_parts, int64_t tokens, float scale, char *work,
                 int64_t thread_bytes, int threads) {
#pragma omp parallel num_threads(threads)
    for (int64_t number = 0; number < count; number++) {
        const Layer *l = layers[number];
        int64_t row = 0, all = (l->heads + 2 * l->key_heads) * l->width, heads = l->heads * l->width;
        Rooms room = share(l, tokens, work, thread_bytes);
        before(l, x, cosines, sines, room.qkv, tokens, &room);
        for (int64_t part = 0; part < num_parts; row += parts[part++]->slots)
            attend(parts[part], number, room.qkv + row * all, l->heads, l->key_heads, l->width, scale,
                   room.attended + row * heads, (float *)room.mine);
        after(l, room.attended, x, x, tokens, &room);
#pragma omp barrier
    }
}

/* A product alone: bf16[tokens][limit]. */
void product(const Product *p, const bf16 *x, bf16 *into, int64_t limit, int64_t tokens, char *work, int threads) {
    Finish finish = {PLAIN, into, 0, limit, limit};
#pragma omp parallel num_threads(threads)
    multiply(p, x, tokens, &finish, work + omp_get_thread_num() * panel_bytes(p));
}

/* RMSNorm of rows. */
void norm(const bf16 *x, const float *weight, float epsilon, bf16 *into, int64_t tokens, int64_t width, int threads) {
#pragma omp parallel num_threads(threads)
    norm_rows(x, weight, epsilon, tokens, width, into);
}
