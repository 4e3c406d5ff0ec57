/* A decoder layer around its attention, with norms, rotation, SiLU and residuals inside, and all layers of a step. */

#include "kernels.h"

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

INLINE __m512 widen_some(__mmask16 mask, const bf16 *x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x)), 16));
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
                __m512 plain = _mm512_maskz_loadu_ps(mask, y + j);
                _mm256_mask_storeu_epi16(place + j, mask, (__m256i)_mm512_cvtneps_pbh(plain));
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

/* into: bf16[tokens][heads + 2 * key heads][width]. `sines` have their first half negated. */
EXPORT void before_attention(const Layer *l, const bf16 *x, const bf16 *cosines, const bf16 *sines, bf16 *into,
                             int64_t tokens, char *work, int64_t thread_bytes, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Rooms room = share(l, tokens, work, thread_bytes);
        before(l, x, cosines, sines, into, tokens, &room);
    }
}

/* attended: bf16[tokens][heads * width]; x and into: bf16[tokens][inputs]. */
EXPORT void after_attention(const Layer *l, const bf16 *attended, const bf16 *x, bf16 *into, int64_t tokens,
                            char *work, int64_t thread_bytes, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Rooms room = share(l, tokens, work, thread_bytes);
        after(l, attended, x, into, tokens, &room);
    }
}

/* All layers of a step in which every row is one new token: rows in the order of `parts` and of their slots.
   x is overwritten with the last layer's output. */
EXPORT void decode_step(const Layer *const *layers, int64_t count, bf16 *x, const bf16 *cosines, const bf16 *sines,
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

/* RMSNorm of rows. */
EXPORT void norm(const bf16 *x, const float *weight, float epsilon, bf16 *into, int64_t tokens, int64_t width,
                 int threads) {
#pragma omp parallel num_threads(threads)
    norm_rows(x, weight, epsilon, tokens, width, into);
}

/* Of each row the place of the first of its largest scores, -1 where one of them is no number. */
EXPORT void likeliest(const bf16 *scores, int64_t rows, int64_t width, int64_t *into, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const bf16 *row = scores + r * width;
        __m512 most = _mm512_set1_ps(-INFINITY);
        __mmask16 strange = 0;
        for (int64_t i = 0; i < width; i += 16) {
            __m512 some = widen_some(lanes16(width - i), row + i);
            strange |= _mm512_cmp_ps_mask(some, some, _CMP_UNORD_Q);
            most = _mm512_mask_max_ps(most, lanes16(width - i), most, some);
        }
        __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
        into[r] = -1;
        for (int64_t i = 0; !strange && into[r] < 0; i += 16) {
            __mmask16 equal = _mm512_mask_cmp_ps_mask(lanes16(width - i), widen_some(lanes16(width - i), row + i), top,
                                                      _CMP_EQ_OQ);
            if (equal) into[r] = i + __builtin_ctz(equal);
        }
    }
}

/* Ends the pool of threads that belongs to the calling thread. With more threads in all pools than processors OpenMP
   hardly spins before it sleeps, and a step is hundreds of short regions. */
EXPORT void rest(void) { omp_pause_resource_all(omp_pause_soft); }
