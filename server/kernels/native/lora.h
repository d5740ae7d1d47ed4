/* LoRA of many adapters over the rows of a step: each row meets its own adapter alone, and each
 * adapter of the batch is read once. */
#ifndef UNDERSTUDY_LORA_H
#define UNDERSTUDY_LORA_H

#include "common.h"

#include <omp.h>

enum { MAX_PARTS = 4, FIELDS = 3 + 5 * MAX_PARTS };

/* One adapter's update of one group of linears, as server/kernels/native.py lays it out. */
typedef struct {
    int64_t a;    /* [rank, in], or 0 if the adapter leaves the group alone */
    int64_t rank; /* rows of a, of all parts together */
    int64_t num_parts;
    struct {
        int64_t column, num_columns; /* of the group's output */
        int64_t first, rank;         /* rows of a */
        int64_t b;                   /* [rank, num_columns], scaling folded in */
    } parts[MAX_PARTS];
} Update;

_Static_assert(sizeof(Update) == FIELDS * sizeof(int64_t), "one int64 per field");

/* Work is cut into units: 4 rows of an A in the first phase, 128 columns of a B in the second. */
enum { RANKS = 4, COLUMNS = 128, AHEAD = 4 };

/* The runs of a step: run j is the rows bounds[j] .. bounds[j + 1] and has the update at
 * updates + j * stride. */
typedef struct {
    const int64_t *bounds, *updates;
    int64_t num_runs, stride;
    int64_t num_shrink, num_expand; /* units */
    int64_t ldh;
    float *h; /* [rows, ldh] */
} Lora;

static inline const Update *update_of(const Lora *lora, int64_t run) {
    return (const Update *)(lora->updates + run * lora->stride);
}

static inline int64_t cut(int64_t size, int64_t unit) { return (size + unit - 1) / unit; }

/* Counts the work; 0, or -1 without memory. The caller frees h. */
static inline int prepare(Lora *lora) {
    lora->num_shrink = lora->num_expand = lora->ldh = 0;
    lora->h = NULL;
    for (int64_t j = 0; j < lora->num_runs; j++) {
        const Update *u = update_of(lora, j);
        if (!u->a) continue;
        lora->ldh = u->rank > lora->ldh ? u->rank : lora->ldh;
        lora->num_shrink += cut(u->rank, RANKS);
        for (int64_t p = 0; p < u->num_parts; p++)
            lora->num_expand += cut(u->parts[p].num_columns, COLUMNS);
    }
    if (!lora->num_shrink) return 0;
    int64_t rows = lora->bounds[lora->num_runs] - lora->bounds[0];
    lora->h = malloc((size_t)(rows * lora->ldh) * sizeof(float));
    return lora->h ? 0 : -1;
}

/* This thread's share first .. last of so many units. */
static inline void own_units(int64_t count, int64_t *first, int64_t *last) {
    int64_t threads = omp_get_num_threads(), own = omp_get_thread_num();
    *first = count * own / threads;
    *last = count * (own + 1) / threads;
}

#define ELEMENT bf16
#define NAME(x) x##_bf16
#define DOT_STEP 32
#include "lora_rows.h"
#undef ELEMENT
#undef NAME
#undef DOT_STEP

#endif
