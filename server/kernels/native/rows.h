/* The body of rows.c for one element type. */

/* out = weight * (x / sqrt(mean(x^2) + epsilon)), the quotient rounded to the element type first. */
API void NAME(understudy_rms_norm)(const ELEMENT *x, int64_t num_rows, int64_t size,
                                   const ELEMENT *weight, float epsilon, ELEMENT *out) {
    for (int64_t t = 0; t < num_rows; t++, x += size, out += size) {
        __m512 squares = _mm512_setzero_ps();
        for (int64_t i = 0; i < size; i += 16) {
            __m512 v = NAME(load)(x + i, lanes(size - i));
            squares = _mm512_fmadd_ps(v, v, squares);
        }
        float mean = _mm512_reduce_add_ps(squares) / (float)size;
        __m512 scale = _mm512_set1_ps(1.0f / __builtin_sqrtf(mean + epsilon));
        for (int64_t i = 0; i < size; i += 16) {
            __mmask16 mask = lanes(size - i);
            __m512 v = NAME(round)(_mm512_mul_ps(NAME(load)(x + i, mask), scale));
            NAME(store)(out + i, mask, _mm512_mul_ps(NAME(load)(weight + i, mask), v));
        }
    }
}

/* out = silu(gate) * up for rows of [gate, up], each `size` long. */
API void NAME(understudy_silu_mul)(const ELEMENT *x, int64_t num_rows, int64_t size, ELEMENT *out,
                                   int num_threads) {
    if (num_rows * size < (1 << 12)) num_threads = 1;
#pragma omp parallel for schedule(static) num_threads(num_threads) if (num_threads > 1)
    for (int64_t t = 0; t < num_rows; t++) {
        const ELEMENT *gate = x + t * 2 * size, *up = gate + size;
        for (int64_t i = 0; i < size; i += 16) {
            __mmask16 mask = lanes(size - i);
            __m512 g = NAME(load)(gate + i, mask), one = _mm512_set1_ps(1.0f);
            /* silu(g) = g / (1 + e^-g); e^-|g| never overflows. */
            __m512 e = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(g)));
            __mmask16 negative = _mm512_cmp_ps_mask(g, _mm512_setzero_ps(), _CMP_LT_OQ);
            __m512 top = _mm512_mask_mov_ps(one, negative, e);
            __m512 silu = _mm512_mul_ps(g, _mm512_div_ps(top, _mm512_add_ps(one, e)));
            __m512 product = _mm512_mul_ps(NAME(round)(silu), NAME(load)(up + i, mask));
            NAME(store)(out + t * size + i, mask, product);
        }
    }
}
