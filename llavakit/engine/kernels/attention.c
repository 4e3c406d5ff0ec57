/* Attention. Of a step, in which every row is a new token: each query reads the keys and values of its slot. Of a
   prompt: keys and values are turned into panels, and its queries are multiplied with them in tiles. */

#include "kernels.h"

enum { TOGETHER = 4 }; /* queries of one key head that read its keys and values together */

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

void attend(const Slots *s, int64_t layer, const bf16 *qkv, int64_t heads, int64_t key_heads, int64_t width,
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

/* Attention of one layer's rows, which go on with `slots`. */
EXPORT void attend_step(const Slots *slots, int64_t layer, const bf16 *qkv, int64_t heads, int64_t key_heads,
                        int64_t width, float scale, bf16 *into, char *work, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *scores = (float *)work + omp_get_thread_num() * TOGETHER * ((slots->longest + 16) / 16 * 16);
        attend(slots, layer, qkv, heads, key_heads, width, scale, into, scores);
    }
}

/* A prompt's keys and values as a product's weights (kernels.h), of one key head: keys in panels of 32 keys, values
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

/* Queries that are multiplied with the panels at once: the matrix unit wants whole tiles of 32 inputs. */
INLINE int queries_of(int64_t width) { return width % 32 ? ROWS : deepest; }

/* Softmax of `rows` rows of scores [panel][row of `deep`][32] into bf16[row][panels * 32], not yet divided by the sums.
   Row r sees the first `seen + r` keys. */
static void soften(const float *scores, int64_t deep, int64_t rows, int64_t panels, int64_t seen, float scale,
                   bf16 *into, float *sums) {
    for (int64_t r = 0; r < rows; r++, into += panels * 32) {
        __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
        for (int64_t k = 0; k < panels * 32; k += 16)
            most = _mm512_mask_max_ps(most, lanes16(seen + r - k), most,
                                      _mm512_loadu_ps(scores + (k / 32 * deep + r) * 32 + k % 32));
        __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most)), by = _mm512_set1_ps(scale);
        for (int64_t k = 0; k < panels * 32; k += 16) {
            __m512 score = _mm512_loadu_ps(scores + (k / 32 * deep + r) * 32 + k % 32);
            __m512 e = _mm512_maskz_mov_ps(lanes16(seen + r - k), exp16(_mm512_mul_ps(_mm512_sub_ps(score, top), by)));
            total = _mm512_add_ps(total, e);
            narrow16(into + k, e);
        }
        sums[r] = _mm512_reduce_add_ps(total);
    }
}

/* The sums of `rows` rows, of `deep` that there is room for, and one panel. */
INLINE void multiply_block(const bf16 *w, const bf16 *x, int64_t inputs, int deep, int rows, int *shaped, float *sums) {
    if (deep == DEEP)
        amx_tile(w, x, inputs, DEEP, shaped, sums); /* whole tiles: to shape them anew takes longer */
    else
        rows_bf16(w, x, inputs, rows, sums);
}

/* `rows` queries of one head, up to `deep`, at `apart` elements from each other. */
static void attend_block(const bf16 *query, int64_t apart, int deep, int64_t rows, int64_t seen,
                         const bf16 *key_panels, const bf16 *value_panels, int64_t padded, int64_t width, float scale,
                         bf16 *into, int64_t into_apart, int *shaped, char *work) {
    int64_t panels = (seen + rows + 30) / 32;
    float *scores = (float *)take(&work, panels * 32 * deep * 4), total[DEEP], sums[DEEP * WIDE];
    bf16 *probs = (bf16 *)take(&work, panels * 32 * deep * 2), *queries = (bf16 *)take(&work, deep * width * 2);
    if (deep == DEEP) memset(queries + rows * width, 0, (size_t)((deep - rows) * width) * 2);
    for (int64_t r = 0; r < rows; r++) memcpy(queries + r * width, query + r * apart, (size_t)width * 2);
    for (int64_t p = 0; p < panels; p++)
        multiply_block(key_panels + p * width * 32, queries, width, deep, (int)rows, shaped, scores + p * deep * 32);
    soften(scores, deep, rows, panels, seen, scale, probs, total);
    for (int64_t j = 0; j < width; j += 32) {
        multiply_block(value_panels + j * padded, probs, panels * 32, deep, (int)rows, shaped, sums);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < 32 && j + c < width; c += 16)
                _mm256_mask_storeu_epi16(
                    into + r * into_apart + j + c, lanes16(width - j - c),
                    (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(sums + r * WIDE + c),
                                                              _mm512_set1_ps(1.f / total[r]))));
    }
}

INLINE int64_t in_panels(int64_t n) { return (n + 31) / 32 * 32; }
/* Bytes of the panels of one key head, and of what a thread needs beside them. */
INLINE int64_t head_bytes(int64_t length, int64_t width) { return in_panels(length) * (width + in_panels(width)) * 2; }
INLINE int64_t block_bytes(int64_t length, int64_t width) {
    return (length + 63) / 32 * 32 * queries_of(width) * 6 + queries_of(width) * width * 2 + 256;
}

/* Bytes that attend_prompts works in, `longest` being the positions that the longest of them has then. */
EXPORT int64_t prompts_bytes(int64_t longest, int64_t key_heads, int64_t width, int threads) {
    return (key_heads + threads) * head_bytes(longest, width) + threads * block_bytes(longest, width) + 128;
}

/* The keys (kind 0) or values of one key head: the beginning of the other slot, then the new rows. */
static void write_head(const Prompt *p, int64_t layer, int64_t kind, int64_t head, const bf16 *rows, int64_t apart,
                       int64_t width) {
    bf16 *into = p->slot + layer * p->layer_stride + kind * p->kind_stride + head * p->head_stride;
    if (p->source)
        memcpy(into, p->source + layer * p->source_layer_stride + kind * p->source_kind_stride +
               head * p->source_head_stride, (size_t)(p->start * width) * 2);
    for (int64_t t = 0; t < p->tokens; t++)
        memcpy(into + (p->start + t) * width, rows + (p->row + t) * apart, (size_t)width * 2);
}

/* What one block of queries of a head gathers; `panels` are its keys and then its values. */
static void attend_rows(const Prompt *p, int64_t block, int64_t head, const bf16 *panels, const bf16 *qkv, int64_t all,
                        int64_t heads, int64_t width, float scale, bf16 *into, int *shaped, char *work) {
    int deep = queries_of(width);
    int64_t t = block * deep, rows = p->tokens - t < deep ? p->tokens - t : deep, row = p->row + t;
    int64_t padded = in_panels(p->start + p->tokens);
    attend_block(qkv + (row * all + head) * width, all * width, deep, rows, p->start + t + 1, panels,
                 panels + padded * width, padded, width, scale, into + (row * heads + head) * width, heads * width,
                 shaped, work);
}

static void pack_prompt(const Prompt *p, int64_t layer, int64_t head, int64_t width, bf16 *panels) {
    const bf16 *keys = p->slot + layer * p->layer_stride + head * p->head_stride;
    int64_t length = p->start + p->tokens, padded = in_panels(length);
    pack_head(keys, keys + p->kind_stride, length, padded, width, panels, panels + padded * width);
}

/* Attention of a layer's rows of `count` prompts: keys and values are written into their slots, and each query sees
   everything up to itself. A prompt that begins like a slot stands behind the prompt of that one. */
EXPORT void attend_prompts(const Prompt *prompts, int64_t count, int64_t longest, int64_t layer, const bf16 *qkv,
                           int64_t heads, int64_t key_heads, int64_t width, float scale, bf16 *into, char *work,
                           int threads) {
    int64_t all = heads + 2 * key_heads, group = heads / key_heads, deep = queries_of(width);
    int64_t head_size = head_bytes(longest, width), mine_size = head_size + block_bytes(longest, width);
#pragma omp parallel num_threads(threads)
    {
        char *mine = work + key_heads * head_size + omp_get_thread_num() * mine_size;
        int shaped = 0;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < 2 * key_heads; i++)
            for (int64_t n = 0; n < count; n++) /* in order: some begin like those before them */
                write_head(prompts + n, layer, i % 2, i / 2, qkv + (heads + i % 2 * key_heads + i / 2) * width,
                           all * width, width);
        if (count * key_heads >= 8 * threads) { /* enough to share out: a thread packs what it needs itself */
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < count * key_heads; i++) {
                const Prompt *p = prompts + i / key_heads;
                int64_t first = i % key_heads * group, blocks = (p->tokens + deep - 1) / deep;
                pack_prompt(p, layer, i % key_heads, width, (bf16 *)mine);
                for (int64_t j = 0; j < group * blocks; j++)
                    attend_rows(p, j / group, first + j % group, (bf16 *)mine, qkv, all, heads, width, scale, into,
                                &shaped, mine + head_size);
            }
        } else
            for (const Prompt *p = prompts; p < prompts + count; p++) {
                int64_t blocks = (p->tokens + deep - 1) / deep;
#pragma omp for schedule(static)
                for (int64_t head = 0; head < key_heads; head++)
                    pack_prompt(p, layer, head, width, (bf16 *)(work + head * head_size));
#pragma omp for schedule(dynamic)
                for (int64_t i = heads * blocks - 1; i >= 0; i--) /* the longest first */
                    attend_rows(p, i / heads, i % heads, (bf16 *)(work + i % heads / group * head_size), qkv, all,
                                heads, width, scale, into, &shaped, mine + head_size);
            }
        if (shaped) amx_release();
    }
}
