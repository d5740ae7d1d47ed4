/* Attention of single rows over a paged cache, which is read where it lies. */
#include "common.h"

#include <math.h>

#define ELEMENT bf16
#define NAME(x) x##_bf16
#define DOT_STEP 32
#include "attention_rows.h"
#undef ELEMENT
#undef NAME
#undef DOT_STEP

#define ELEMENT float
#define NAME(x) x##_f32
#define DOT_STEP 16
#include "attention_rows.h"
