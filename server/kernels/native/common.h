/* Shared by the native CPU kernels: bfloat16 and float32 rows as 16-lane float32 vectors.
 *
 * Everything here needs AVX-512 with BF16. Sums are float32; each row's order of summation depends
 * on that row alone. */
#ifndef UNDERSTUDY_COMMON_H
#define UNDERSTUDY_COMMON_H

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

typedef uint16_t bf16;

INLINE __mmask16 lanes(int64_t count) {
    return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1);
}

INLINE __m512 load_bf16(const bf16 *p, __mmask16 mask) {
    __m256i half = _mm256_maskz_loadu_epi16(mask, p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void store_bf16(bf16 *p, __mmask16 mask, __m512 v) {
    _mm256_mask_storeu_epi16(p, mask, (__m256i)_mm512_cvtneps_pbh(v));
}

INLINE __m512 load_f32(const float *p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }

INLINE void store_f32(float *p, __mmask16 mask, __m512 v) { _mm512_mask_storeu_ps(p, mask, v); }

/* v as it reads after a store: rounded to the row's type. */
INLINE __m512 round_bf16(__m512 v) {
    __m256i half = (__m256i)_mm512_cvtneps_pbh(v);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE __m512 round_f32(__m512 v) { return v; }

/* Dot products step by DOT_STEP elements: 32 of bfloat16, 16 of float32. */
INLINE __m512 dot_bf16(__m512 sum, const bf16 *a, const bf16 *b, int64_t left) {
    __mmask32 mask = left >= 32 ? 0xffffffffu : (1u << left) - 1;
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(mask, a),
                            (__m512bh)_mm512_maskz_loadu_epi16(mask, b));
}

INLINE __m512 dot_f32(__m512 sum, const float *a, const float *b, int64_t left) {
    __mmask16 mask = lanes(left);
    return _mm512_fmadd_ps(load_f32(a, mask), load_f32(b, mask), sum);
}

/* Lane i of the result is the sum of v[i]'s lanes. */
INLINE __m512 sum_each(const __m512 *v) {
    __m512 pairs[8], quads[4];
    for (int i = 0; i < 8; i++)
        pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]),
                                 _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
        quads[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                                 _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    __m512 low = _mm512_add_ps(_mm512_shuffle_f32x4(quads[0], quads[1], 0x88),
                               _mm512_shuffle_f32x4(quads[0], quads[1], 0xdd));
    __m512 high = _mm512_add_ps(_mm512_shuffle_f32x4(quads[2], quads[3], 0x88),
                                _mm512_shuffle_f32x4(quads[2], quads[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88),
                         _mm512_shuffle_f32x4(low, high, 0xdd));
}

/* e^v for v <= 0, to about 2 units in the last place: 2^n times a polynomial in the rest. */
INLINE __m512 exp_ps(__m512 v) {
    v = _mm512_max_ps(v, _mm512_set1_ps(-104.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(1.44269504f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), v);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

#endif
