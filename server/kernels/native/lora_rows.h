/* The body of lora.c for one element type. */

/* h[m][r] = x[m] . a[r] for up to 4 rows m and RANKS ranks r. */
INLINE void NAME(shrink)(const ELEMENT *x, int64_t ldx, int rows, const ELEMENT *a, int64_t in,
                         int ranks, float *h, int64_t ldh) {
    __m512 sums[4][RANKS];
    for (int m = 0; m < rows; m++)
        for (int r = 0; r < RANKS; r++) sums[m][r] = _mm512_setzero_ps();
    const ELEMENT *row[RANKS];
    for (int r = 0; r < RANKS; r++) row[r] = a + (r < ranks ? r : ranks - 1) * in;
    /* The next ranks lie right behind these. */
    const char *ahead = (const char *)(a + RANKS * in);
    for (int64_t i = 0; i < in; i += DOT_STEP) {
        for (int r = 0; r < RANKS; r++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T0);
        for (int m = 0; m < rows; m++)
            for (int r = 0; r < RANKS; r++)
                sums[m][r] = NAME(dot)(sums[m][r], x + m * ldx + i, row[r] + i, in - i);
    }
    for (int m = 0; m < rows; m++)
        for (int r = 0; r < ranks; r++) h[m * ldh + r] = _mm512_reduce_add_ps(sums[m][r]);
}

/* out[m] += sum over r of h[m][r] * b[r], for up to 4 rows and COLUMNS columns. */
INLINE void NAME(expand)(const float *h, int64_t ldh, int rows, const ELEMENT *b, int64_t ldb,
                         int64_t rank, int64_t columns, ELEMENT *out, int64_t ldo) {
    __m512 sums[4][4];
    for (int m = 0; m < rows; m++)
        for (int c = 0; c < 4; c++) sums[m][c] = _mm512_setzero_ps();
    __mmask16 mask[4];
    for (int c = 0; c < 4; c++) mask[c] = columns > 16 * c ? lanes(columns - 16 * c) : 0;
    for (int64_t r = 0; r < rank; r++) {
        _mm_prefetch((const char *)(b + r * ldb + COLUMNS), _MM_HINT_T0);
        _mm_prefetch((const char *)(b + r * ldb + COLUMNS + 32), _MM_HINT_T0);
        __m512 weight[4];
        for (int c = 0; c < 4; c++) weight[c] = NAME(load)(b + r * ldb + 16 * c, mask[c]);
        for (int m = 0; m < rows; m++) {
            __m512 scale = _mm512_set1_ps(h[m * ldh + r]);
            for (int c = 0; c < 4; c++) sums[m][c] = _mm512_fmadd_ps(scale, weight[c], sums[m][c]);
        }
    }
    for (int m = 0; m < rows; m++)
        for (int c = 0; c < 4; c++) {
            ELEMENT *p = out + m * ldo + 16 * c;
            NAME(store)(p, mask[c], _mm512_add_ps(NAME(load)(p, mask[c]), sums[m][c]));
        }
}

#define BY_ROWS(call)                        \
    switch (rows) {                          \
    case 1: { enum { N = 1 }; call; break; } \
    case 2: { enum { N = 2 }; call; break; } \
    case 3: { enum { N = 3 }; call; break; } \
    default: { enum { N = 4 }; call; break; } \
    }

/* First phase, by all threads of a parallel region: h of every row. */
static void NAME(lora_shrink)(const Lora *lora, const ELEMENT *x, int64_t ldx, int64_t in) {
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < lora->num_shrink; unit++) {
        int64_t j, rest = unit;
        const Update *u = find_ranks(lora, &j, &rest);
        int64_t r = rest * RANKS;
        int ranks = u->rank - r < RANKS ? (int)(u->rank - r) : RANKS;
        const ELEMENT *a = (const ELEMENT *)u->a + r * in;
        for (int64_t m = lora->bounds[j]; m < lora->bounds[j + 1]; m += 4) {
            int64_t rows = lora->bounds[j + 1] - m;
            float *h = lora->h + (m - lora->bounds[0]) * lora->ldh + r;
            BY_ROWS(NAME(shrink)(x + m * ldx, ldx, N, a, in, ranks, h, lora->ldh))
        }
    }
}

/* Second phase: adds the update to out. */
static void NAME(lora_expand)(const Lora *lora, ELEMENT *out, int64_t ldo) {
#pragma omp for schedule(static)
    for (int64_t unit = 0; unit < lora->num_expand; unit++) {
        int64_t j, p, rest = unit;
        const Update *u = find_columns(lora, &j, &p, &rest);
        int64_t column = rest * COLUMNS, left = u->parts[p].num_columns - column;
        const ELEMENT *b = (const ELEMENT *)u->parts[p].b + column;
        for (int64_t m = lora->bounds[j]; m < lora->bounds[j + 1]; m += 4) {
            int64_t rows = lora->bounds[j + 1] - m;
            const float *h =
                lora->h + (m - lora->bounds[0]) * lora->ldh + u->parts[p].first;
            BY_ROWS(NAME(expand)(h, lora->ldh, N, b, u->parts[p].num_columns, u->parts[p].rank,
                                 left, out + m * ldo + u->parts[p].column + column, ldo))
        }
    }
}

#undef BY_ROWS
