/* The body of lora.c for one element type. */

/* h[m][r] = x[m] . a[r] for up to 4 rows m and RANKS ranks r. Fetches as many from `ahead`. */
INLINE void NAME(shrink)(const ELEMENT *x, int64_t ldx, int rows, const ELEMENT *a, int64_t in,
                         int ranks, float *h, int64_t ldh, const char *ahead) {
    __m512 sums[4][RANKS];
    for (int m = 0; m < rows; m++)
        for (int r = 0; r < RANKS; r++) sums[m][r] = _mm512_setzero_ps();
    const ELEMENT *row[RANKS];
    for (int r = 0; r < RANKS; r++) row[r] = a + (r < ranks ? r : ranks - 1) * in;
    for (int64_t i = 0; i < in; i += DOT_STEP) {
        for (int r = 0; r < RANKS; r++, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T0);
        for (int m = 0; m < rows; m++)
            for (int r = 0; r < RANKS; r++)
                sums[m][r] = NAME(dot)(sums[m][r], x + m * ldx + i, row[r] + i, in - i);
    }
    for (int m = 0; m < rows; m++)
        for (int r = 0; r < ranks; r++) h[m * ldh + r] = _mm512_reduce_add_ps(sums[m][r]);
}

/* out[m] += sum over r of h[m][r] * b[r], for one or two rows and COLUMNS columns. Fetches as many
 * rows from `ahead`, `ahead_step` bytes apart. */
INLINE void NAME(expand)(const float *h, int64_t ldh, int rows, const ELEMENT *b, int64_t ldb,
                         int64_t rank, int64_t columns, ELEMENT *out, int64_t ldo,
                         const char *ahead, int64_t ahead_step) {
    enum { VECTORS = COLUMNS / 16 };
    __m512 sums[2][VECTORS];
    for (int m = 0; m < rows; m++)
        for (int c = 0; c < VECTORS; c++) sums[m][c] = _mm512_setzero_ps();
    __mmask16 mask[VECTORS];
    for (int c = 0; c < VECTORS; c++) mask[c] = columns > 16 * c ? lanes(columns - 16 * c) : 0;
    for (int64_t r = 0; r < rank; r++) {
        for (size_t i = 0; i < COLUMNS * sizeof(ELEMENT); i += 64)
            _mm_prefetch(ahead + r * ahead_step + i, _MM_HINT_T0);
        __m512 weight[VECTORS];
        for (int c = 0; c < VECTORS; c++) weight[c] = NAME(load)(b + r * ldb + 16 * c, mask[c]);
        for (int m = 0; m < rows; m++) {
            __m512 scale = _mm512_set1_ps(h[m * ldh + r]);
            for (int c = 0; c < VECTORS; c++)
                sums[m][c] = _mm512_fmadd_ps(scale, weight[c], sums[m][c]);
        }
    }
    for (int m = 0; m < rows; m++)
        for (int c = 0; c < VECTORS; c++) {
            ELEMENT *p = out + m * ldo + 16 * c;
            NAME(store)(p, mask[c], _mm512_add_ps(NAME(load)(p, mask[c]), sums[m][c]));
        }
}

/* First phase, by all threads of a parallel region: h of every row. Nobody waits at its end. */
static inline void NAME(lora_shrink)(const Lora *lora, const ELEMENT *x, int64_t ldx, int64_t in) {
    int64_t first, last, passed = 0;
    own_units(lora->num_shrink, &first, &last);
    for (int64_t j = 0; j < lora->num_runs && passed < last; j++) {
        const Update *u = update_of(lora, j);
        int64_t count = u->a ? cut(u->rank, RANKS) : 0;
        int64_t unit = first > passed ? first - passed : 0;
        int64_t end = last - passed < count ? last - passed : count;
        passed += count;
        for (; unit < end; unit++) {
            int64_t r = unit * RANKS;
            int ranks = u->rank - r < RANKS ? (int)(u->rank - r) : RANKS;
            const ELEMENT *a = (const ELEMENT *)u->a + r * in;
            /* Some units ahead: in this A, else in the next. */
            const ELEMENT *far = a + AHEAD * RANKS * in;
            if (unit + AHEAD >= count && j + 1 < lora->num_runs && update_of(lora, j + 1)->a)
                far = (const ELEMENT *)update_of(lora, j + 1)->a
                    + (unit + AHEAD - count) * RANKS * in;
            const char *ahead = (const char *)far;
            for (int64_t m = lora->bounds[j]; m < lora->bounds[j + 1]; m += 4) {
                int64_t rows = lora->bounds[j + 1] - m;
                const ELEMENT *row = x + m * ldx;
                float *h = lora->h + (m - lora->bounds[0]) * lora->ldh + r;
                if (rows == 1) NAME(shrink)(row, ldx, 1, a, in, ranks, h, lora->ldh, ahead);
                else if (rows == 2) NAME(shrink)(row, ldx, 2, a, in, ranks, h, lora->ldh, ahead);
                else if (rows == 3) NAME(shrink)(row, ldx, 3, a, in, ranks, h, lora->ldh, ahead);
                else NAME(shrink)(row, ldx, 4, a, in, ranks, h, lora->ldh, ahead);
            }
        }
    }
}

/* Second phase, once every thread has done the first: adds the update to out. */
static inline void NAME(lora_expand)(const Lora *lora, ELEMENT *out, int64_t ldo) {
    int64_t first, last, passed = 0;
    own_units(lora->num_expand, &first, &last);
    for (int64_t j = 0; j < lora->num_runs && passed < last; j++) {
        const Update *u = update_of(lora, j);
        for (int64_t p = 0; u->a && p < u->num_parts && passed < last; p++) {
            int64_t num_columns = u->parts[p].num_columns, count = cut(num_columns, COLUMNS);
            int64_t unit = first > passed ? first - passed : 0;
            int64_t end = last - passed < count ? last - passed : count;
            passed += count;
            for (; unit < end; unit++) {
                int64_t column = unit * COLUMNS, left = num_columns - column;
                const ELEMENT *b = (const ELEMENT *)u->parts[p].b + column;
                /* The columns behind these, or the first of the next B. */
                const char *ahead = (const char *)(b + COLUMNS);
                int64_t ahead_step = num_columns;
                const Update *next = j + 1 < lora->num_runs ? update_of(lora, j + 1) : u;
                if (left <= COLUMNS && (p + 1 < u->num_parts || next->a)) {
                    int in_this = p + 1 < u->num_parts;
                    ahead = (const char *)(in_this ? u->parts[p + 1].b : next->parts[0].b);
                    ahead_step = in_this ? u->parts[p + 1].num_columns : next->parts[0].num_columns;
                }
                ahead_step *= (int64_t)sizeof(ELEMENT);
                for (int64_t m = lora->bounds[j]; m < lora->bounds[j + 1]; m += 2) {
                    const float *h =
                        lora->h + (m - lora->bounds[0]) * lora->ldh + u->parts[p].first;
                    ELEMENT *row = out + m * ldo + u->parts[p].column + column;
                    int64_t rank = u->parts[p].rank;
                    if (lora->bounds[j + 1] - m == 1)
                        NAME(expand)(h, lora->ldh, 1, b, num_columns, rank, left, row, ldo, ahead,
                                     ahead_step);
                    else
                        NAME(expand)(h, lora->ldh, 2, b, num_columns, rank, left, row, ldo, ahead,
                                     ahead_step);
                }
            }
        }
    }
}
