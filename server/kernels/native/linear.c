/* y = x w^T for a few rows x and a bfloat16 or NF4 weight, on AMX tiles.
 *
 * A tile of the weight is 16 outputs by 32 inputs, as it lies in memory; a tile of x holds 16 rows,
 * transposed in pairs of inputs. Decoding is bound by reading the weight: each is read once, and
 * NF4 codes become bfloat16 on the way, the same numbers as bitsandbytes' dequantization. */
#include "lora.h"

#include <sys/syscall.h>
#include <unistd.h>

enum {
    OUTPUTS = 16,   /* of a weight tile */
    INPUTS = 32,    /* of a tile, as bfloat16 */
    ROWS = 16,      /* of a tile of x */
    BLOCKS = 2,     /* tiles of x at a time */
    NF4_BLOCK = 64, /* weights that share a scale */
    ARCH_REQ_XCOMP_PERM = 0x1023,
    XFEATURE_XTILEDATA = 18,
};

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) TileConfig;

/* Whether this machine runs the kernels of this folder: 0 no, 1 without AMX, 2 all. The one function
 * that any x86-64 may run. */
API __attribute__((target("general-regs-only"))) int understudy_level(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw")
        || !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq")
        || !__builtin_cpu_supports("avx512bf16"))
        return 0;
    unsigned a = 7, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return 1;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) ? 1 : 2;
}

/* GCC's tile instructions do not say that they read memory: between the writing of what lies at p,
 * before or after, and their reading of it this keeps the order. Costs no instruction. */
INLINE void keep_order(const void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }

INLINE void configure(void) {
    TileConfig config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = 64;
        config.rows[i] = 16;
    }
    keep_order(&config);
    _tile_loadconfig(&config);
}

/* Tile `block` of x for inputs i .. i + 32: row p holds inputs i + 2p and i + 2p + 1 of each of 16
 * rows, zeros beyond the last row. */
INLINE void transpose_pairs(const bf16 *x, int64_t ldx, int64_t rows, int64_t i, bf16 *tile) {
    __m512i places = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi32((int)(ldx * 2)));
    __mmask16 mask = lanes(rows);
    for (int p = 0; p < 16; p++) {
        __m512i pairs = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), mask, places,
                                                    (const char *)(x + i + 2 * p), 1);
        _mm512_storeu_si512(tile + p * 32, pairs);
    }
}

/* Stores a tile [16 outputs, 16 rows] of sums to `rows` rows of y. */
INLINE void store_sums(const float *sums, int64_t rows, const bf16 *bias, bf16 *y, int64_t ldy) {
    __m512i places = _mm512_mullo_epi32(
        _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
        _mm512_set1_epi32(16));
    __m512 add = bias ? load_bf16(bias, 0xffff) : _mm512_setzero_ps();
    for (int64_t t = 0; t < rows; t++) {
        __m512 row = _mm512_i32gather_ps(places, sums + t, 4);
        store_bf16(y + t * ldy, 0xffff, _mm512_add_ps(row, add));
    }
}

/* The two products below differ in the loop over inputs alone. One body for both, inlined with the
 * kind of weight known, was longer than what it spared and made NF4 1 to 2% slower: what they share
 * is in these macros. */

/* Two blocks of rows, four accumulators: C(output tile, row block) in tiles 0 .. 3. */
#define ZERO()                                                                   \
    do {                                                                         \
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);              \
    } while (0)

#define STORE(block, tile_a, tile_b)                                                            \
    do {                                                                                        \
        int64_t left = num_rows - t - (block) * ROWS;                                           \
        if (left > 0) {                                                                         \
            left = left < ROWS ? left : ROWS;                                                   \
            bf16 *row = y + (t + (block) * ROWS) * ldy + n;                                     \
            _tile_stored(tile_a, sums, 64);                                                     \
            store_sums(sums, left, bias ? bias + n : 0, row, ldy);                              \
            _tile_stored(tile_b, sums, 64);                                                     \
            store_sums(sums, left, bias ? bias + n + 16 : 0, row + 16, ldy);                    \
        }                                                                                       \
    } while (0)

/* One pair of weight tiles, `a` and `b` with `stride` bytes a row, times the tiles of x at `at`. */
#define MULTIPLY(a, b, stride, at)                   \
    do {                                             \
        _tile_loadd(4, a, stride);                   \
        _tile_loadd(5, b, stride);                   \
        _tile_loadd(6, at, 64);                      \
        _tile_dpbf16ps(0, 4, 6);                     \
        _tile_dpbf16ps(1, 5, 6);                     \
        if (two) {                                   \
            _tile_loadd(7, (at) + ROWS * INPUTS, 64); \
            _tile_dpbf16ps(2, 4, 7);                 \
            _tile_dpbf16ps(3, 5, 7);                 \
        }                                            \
    } while (0)

/* The tiles of x for rows t .. t + 32: [in / 32, 2, 16, 32], made by all threads together. */
#define TRANSPOSE()                                                                              \
    _Pragma("omp for schedule(static)") for (int64_t i = 0; i < in / INPUTS; i++)                \
        for (int block = 0; block < BLOCKS; block++) {                                           \
            int64_t left = num_rows - t - block * ROWS;                                          \
            if (left > 0)                                                                        \
                transpose_pairs(x + (t + block * ROWS) * ldx, ldx, left, i * INPUTS,             \
                                tiles + (i * BLOCKS + block) * ROWS * INPUTS);                   \
        }

#define START()                                                                                 \
    Lora lora = {.bounds = bounds, .updates = updates, .num_runs = num_runs, .stride = stride}; \
    bf16 *tiles = aligned_alloc(64, (size_t)(in * BLOCKS * ROWS) * sizeof(bf16));               \
    if (!tiles || prepare(&lora)) {                                                             \
        free(tiles);                                                                            \
        return -1;                                                                              \
    }

/* y [num_rows, ldy] = x [num_rows, ldx] times w [out, in] transposed, plus bias [out] if not null,
 * and the LoRA update of each row, if there are runs. `in` and `out` are multiples of 32. Returns 0,
 * or -1 without memory. */
API int understudy_linear_bf16(const bf16 *x, int64_t ldx, int64_t num_rows, const bf16 *w,
                               const bf16 *bias, int64_t in, int64_t out, bf16 *y, int64_t ldy,
                               const int64_t *bounds, int64_t num_runs, const int64_t *updates,
                               int64_t stride, int num_threads) {
    START()
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        float sums[256] __attribute__((aligned(64)));
        if (lora.num_shrink) lora_shrink_bf16(&lora, x, ldx, in);
        configure();
        for (int64_t t = 0; t < num_rows; t += BLOCKS * ROWS) {
            int two = num_rows - t > ROWS;
            TRANSPOSE()
#pragma omp for schedule(static)
            for (int64_t n = 0; n < out; n += 2 * OUTPUTS) {
                const bf16 *first = w + n * in, *second = first + OUTPUTS * in;
                /* The next outputs lie right behind these. */
                const char *ahead = (const char *)(first + 2 * OUTPUTS * in);
                ZERO();
                for (int64_t i = 0; i < in; i += INPUTS) {
                    for (int line = 0; line < 2 * OUTPUTS; line++, ahead += 64)
                        _mm_prefetch(ahead, _MM_HINT_T1);
                    MULTIPLY(first + i, second + i, (size_t)in * sizeof(bf16),
                             tiles + i * BLOCKS * ROWS);
                }
                STORE(0, 0, 1);
                STORE(1, 2, 3);
            }
        }
        _tile_release();
        if (lora.num_shrink) lora_expand_bf16(&lora, y, ldy);
    }
    free(tiles);
    free(lora.h);
    return 0;
}

/* 64 weights of one output: codes, two to a byte, high half first, times their scale. */
INLINE void dequantize(const uint8_t *codes, float scale, __m512 code, bf16 *w) {
    __m512 factor = _mm512_set1_ps(scale);
    for (int half = 0; half < 2; half++) {
        __m256i bytes = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(codes + 16 * half)));
        /* Each 16-bit lane becomes (high half, low half): weights in order. */
        __m256i pairs = _mm256_or_si256(_mm256_srli_epi16(bytes, 4), _mm256_slli_epi16(bytes, 8));
        pairs = _mm256_and_si256(pairs, _mm256_set1_epi16(0x0f0f));
        __m512i low = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(pairs));
        __m512i high = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(pairs, 1));
        __m512 even = _mm512_mul_ps(_mm512_permutexvar_ps(low, code), factor);
        __m512 odd = _mm512_mul_ps(_mm512_permutexvar_ps(high, code), factor);
        _mm512_storeu_si512(w + 32 * half, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
    }
}

/* As understudy_linear_bf16 for NF4: codes [out, in / 2], scales [out, in / 64], the 16 values
 * `code` of the codes. `in` is a multiple of 64. */
API int understudy_linear_nf4(const bf16 *x, int64_t ldx, int64_t num_rows, const uint8_t *codes,
                              const float *scales, const float *code, const bf16 *bias, int64_t in,
                              int64_t out, bf16 *y, int64_t ldy, const int64_t *bounds,
                              int64_t num_runs, const int64_t *updates, int64_t stride,
                              int num_threads) {
    START()
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        float sums[256] __attribute__((aligned(64)));
        bf16 w[2 * OUTPUTS * NF4_BLOCK] __attribute__((aligned(64)));
        __m512 table = _mm512_loadu_ps(code);
        if (lora.num_shrink) lora_shrink_bf16(&lora, x, ldx, in);
        configure();
        for (int64_t t = 0; t < num_rows; t += BLOCKS * ROWS) {
            int two = num_rows - t > ROWS;
            TRANSPOSE()
#pragma omp for schedule(static)
            for (int64_t n = 0; n < out; n += 2 * OUTPUTS) {
                const char *ahead = (const char *)(codes + (n + 2 * OUTPUTS) * (in / 2));
                ZERO();
                for (int64_t i = 0; i < in; i += NF4_BLOCK) {
                    for (int line = 0; line < OUTPUTS; line++, ahead += 64)
                        _mm_prefetch(ahead, _MM_HINT_T1);
                    for (int64_t r = 0; r < 2 * OUTPUTS; r++)
                        dequantize(codes + ((n + r) * in + i) / 2,
                                   scales[(n + r) * (in / NF4_BLOCK) + i / NF4_BLOCK], table,
                                   w + r * NF4_BLOCK);
                    keep_order(w);
                    for (int half = 0; half < NF4_BLOCK; half += INPUTS)
                        MULTIPLY(w + half, w + OUTPUTS * NF4_BLOCK + half,
                                 NF4_BLOCK * sizeof(bf16), tiles + (i + half) * BLOCKS * ROWS);
                    keep_order(w);
                }
                STORE(0, 0, 1);
                STORE(1, 2, 3);
            }
        }
        _tile_release();
        if (lora.num_shrink) lora_expand_bf16(&lora, y, ldy);
    }
    free(tiles);
    free(lora.h);
    return 0;
}
