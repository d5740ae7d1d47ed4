#include "lora.h"

#define ELEMENT float
#define NAME(x) x##_f32
#define DOT_STEP 16
#include "lora_rows.h"

/* Adds to out [.., ldo] the update of each row of x [.., ldx], both bfloat16, or float32 if
 * `is_f32`. Returns 0, or -1 without memory. */
static int update(int is_f32, const void *x, int64_t ldx, void *out, int64_t ldo, int64_t in,
                  Lora lora, int num_threads) {
    if (prepare(&lora)) return -1;
    if (lora.num_shrink) {
#pragma omp parallel num_threads(num_threads) if (num_threads > 1)
        {
            if (is_f32) lora_shrink_f32(&lora, x, ldx, in);
            else lora_shrink_bf16(&lora, x, ldx, in);
#pragma omp barrier
            if (is_f32) lora_expand_f32(&lora, out, ldo);
            else lora_expand_bf16(&lora, out, ldo);
        }
    }
    free(lora.h);
    return 0;
}

API int understudy_lora_bf16(const bf16 *x, int64_t ldx, bf16 *out, int64_t ldo, int64_t in,
                             const int64_t *bounds, int64_t num_runs, const int64_t *updates,
                             int64_t stride, int num_threads) {
    Lora lora = {.bounds = bounds, .updates = updates, .num_runs = num_runs, .stride = stride};
    return update(0, x, ldx, out, ldo, in, lora, num_threads);
}

API int understudy_lora_f32(const float *x, int64_t ldx, float *out, int64_t ldo, int64_t in,
                            const int64_t *bounds, int64_t num_runs, const int64_t *updates,
                            int64_t stride, int num_threads) {
    Lora lora = {.bounds = bounds, .updates = updates, .num_runs = num_runs, .stride = stride};
    return update(1, x, ldx, out, ldo, in, lora, num_threads);
}
