/* The body of attention.c for one element type. The cache of a layer is
 * [blocks, block_size, 2, num_kv, dim]: keys at index 0, values at 1. */

/* Writes key and value of each row to its place in the flattened cache. Both are
 * [num_kv, rows, dim] with the given strides; dim is contiguous. */
API void NAME(understudy_cache_write)(ELEMENT *cache, const int64_t *places, int64_t num_rows,
                                      const ELEMENT *key, int64_t key_head, int64_t key_row,
                                      const ELEMENT *value, int64_t value_head, int64_t value_row,
                                      int64_t num_kv, int64_t dim) {
    for (int64_t t = 0; t < num_rows; t++) {
        ELEMENT *place = cache + places[t] * 2 * num_kv * dim;
        for (int64_t k = 0; k < num_kv; k++) {
            size_t size = (size_t)dim * sizeof(ELEMENT);
            memcpy(place + k * dim, key + k * key_head + t * key_row, size);
            memcpy(place + (num_kv + k) * dim, value + k * value_head + t * value_row, size);
        }
    }
}

/* One row and key-value head: its `group` queries over positions begin .. end. `scores` holds
 * group * size floats. */
static void NAME(attend)(const ELEMENT *cache, const int64_t *table, int64_t block_size,
                         int64_t begin, int64_t end, const ELEMENT *q, int64_t q_head,
                         int64_t group, int64_t num_kv, int64_t kv, int64_t dim, float scaling,
                         float softcap, float *scores, int64_t size, ELEMENT *out) {
    int64_t step = 2 * num_kv * dim, count = end - begin;
#define STATE(position, head) \
    (cache + (table[(position) / block_size] * block_size + (position) % block_size) * step \
     + (head) * dim)
    for (int64_t s = 0; s < count; s += 16) {
        const ELEMENT *key[16];
        for (int j = 0; j < 16; j++) {
            /* Beyond the end the last is computed again, and not stored. */
            key[j] = STATE(begin + (s + j < count ? s + j : count - 1), kv);
            if (s + j + 16 < count) {
                const char *ahead = (const char *)STATE(begin + s + j + 16, kv);
                for (int64_t i = 0; i < dim * (int64_t)sizeof(ELEMENT); i += 64)
                    _mm_prefetch(ahead + i, _MM_HINT_T0);
            }
        }
        for (int64_t g = 0; g < group; g++) {
            __m512 sums[16];
            for (int j = 0; j < 16; j++) sums[j] = _mm512_setzero_ps();
            for (int64_t i = 0; i < dim; i += DOT_STEP)
                for (int j = 0; j < 16; j++)
                    sums[j] = NAME(dot)(sums[j], q + g * q_head + i, key[j] + i, dim - i);
            store_f32(scores + g * size + s, lanes(count - s),
                      _mm512_mul_ps(sum_each(sums), _mm512_set1_ps(scaling)));
        }
    }
    for (int64_t g = 0; g < group; g++) {
        float *row = scores + g * size;
        if (softcap > 0)
            for (int64_t s = 0; s < count; s++) row[s] = tanhf(row[s] / softcap) * softcap;
        __m512 low = _mm512_set1_ps(-INFINITY), most = low, total = _mm512_setzero_ps();
        for (int64_t s = 0; s < count; s += 16)
            most = _mm512_max_ps(_mm512_mask_loadu_ps(low, lanes(count - s), row + s), most);
        /* A NaN must reach the output, and max drops it; the sum below does not. */
        __m512 highest = _mm512_set1_ps(_mm512_reduce_max_ps(most));
        for (int64_t s = 0; s < count; s += 16) {
            __mmask16 mask = lanes(count - s);
            __m512 score = load_f32(row + s, mask);
            __m512 p = exp_ps(_mm512_sub_ps(score, highest));
            __mmask16 nan = _mm512_mask_cmp_ps_mask(mask, score, score, _CMP_UNORD_Q);
            p = _mm512_mask_mov_ps(p, nan, score);
            store_f32(row + s, mask, p);
            total = _mm512_mask_add_ps(total, mask, total, p);
        }
        __m512 scale = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
        for (int64_t s = 0; s < count; s += 16) {
            __mmask16 mask = lanes(count - s);
            store_f32(row + s, mask, _mm512_mul_ps(load_f32(row + s, mask), scale));
        }
    }
    for (int64_t g = 0; g < group; g += 4)
        for (int64_t d = 0; d < dim; d += 64) {
            __m512 sums[4][4];
            __mmask16 mask[4];
            int64_t queries = group - g < 4 ? group - g : 4;
            for (int c = 0; c < 4; c++) {
                mask[c] = dim - d > 16 * c ? lanes(dim - d - 16 * c) : 0;
                for (int j = 0; j < 4; j++) sums[j][c] = _mm512_setzero_ps();
            }
            for (int64_t s = 0; s < count; s++) {
                const ELEMENT *v = STATE(begin + s, num_kv + kv) + d;
                if (s + 8 < count) {
                    const char *ahead = (const char *)(STATE(begin + s + 8, num_kv + kv) + d);
                    for (int64_t i = 0; i < 64 * (int64_t)sizeof(ELEMENT); i += 64)
                        _mm_prefetch(ahead + i, _MM_HINT_T0);
                }
                __m512 state[4];
                for (int c = 0; c < 4; c++) state[c] = NAME(load)(v + 16 * c, mask[c]);
                for (int j = 0; j < 4; j++) {
                    /* Beyond the last query the last is computed again, and not stored. */
                    int64_t own = g + (j < queries ? j : queries - 1);
                    __m512 p = _mm512_set1_ps(scores[own * size + s]);
                    for (int c = 0; c < 4; c++)
                        sums[j][c] = _mm512_fmadd_ps(p, state[c], sums[j][c]);
                }
            }
            for (int64_t j = 0; j < queries; j++)
                for (int c = 0; c < 4; c++)
                    NAME(store)(out + (g + j) * dim + d + 16 * c, mask[c], sums[j][c]);
        }
#undef STATE
}

/* Rows 0 .. num_rows of query [num_heads, rows, dim]: row t sees the first lengths[t] positions of
 * tables[t] [num_blocks], the last `window` of them if that is positive. `out` is
 * [rows, num_heads, dim]. Returns 0, or -1 without memory. */
API int NAME(understudy_attention)(const ELEMENT *query, int64_t q_head, int64_t q_row,
                                   const ELEMENT *cache, const int64_t *tables, int64_t num_blocks,
                                   const int64_t *lengths, int64_t num_rows, int64_t num_heads,
                                   int64_t num_kv, int64_t dim, int64_t block_size, float scaling,
                                   int64_t window, float softcap, ELEMENT *out, int num_threads) {
    int64_t group = num_heads / num_kv, longest = 0;
    for (int64_t t = 0; t < num_rows; t++)
        if (lengths[t] > longest) longest = lengths[t];
    int failed = 0;
    if (longest * num_rows * num_kv < 64) num_threads = 1;
#pragma omp parallel num_threads(num_threads) if (num_threads > 1) reduction(| : failed)
    {
        float *scores = malloc((size_t)(group * longest) * sizeof(float));
        failed = !scores;
#pragma omp for schedule(dynamic, 2)
        for (int64_t unit = 0; unit < num_rows * num_kv; unit++) {
            int64_t t = unit / num_kv, kv = unit % num_kv, end = lengths[t];
            int64_t begin = window > 0 && window < end ? end - window : 0;
            if (scores)
                NAME(attend)(cache, tables + t * num_blocks, block_size, begin, end,
                             query + kv * group * q_head + t * q_row, q_head, group, num_kv, kv, dim,
                             scaling, softcap, scores, longest,
                             out + (t * num_heads + kv * group) * dim);
        }
        free(scores);
    }
    return failed ? -1 : 0;
}
