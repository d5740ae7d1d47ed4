/* Row-wise operations that torch runs as many small ones. */
#include "common.h"

#define ELEMENT bf16
#define NAME(x) x##_bf16
#include "rows.h"
#undef ELEMENT
#undef NAME

#define ELEMENT float
#define NAME(x) x##_f32
#include "rows.h"
