/* The row primitives of one instruction set and compute type, which the build names:
   XF_ISA (avx2), XF_VEC_HEADER ("simd/vec_avx2.h") and XF_BITS (32: float, 64: double). Everything is
   static but the table at the end, xf_<isa>_f<bits>, so that no instruction can leave this file. */
#include <math.h>
#include <string.h>

#include "simd/half.h"
#include "rows/rows.h"

#define INLINE static inline __attribute__((always_inline))

#if XF_BITS == 32
typedef float real;
#define REAL_TYPE XF_F32
#define REAL_MAX 0x1.fffffep127f
#define MANTISSA_BITS 23
#define CELL_BITS 3 /* of the table in simd/exp_row.h */
#else
typedef double real;
#define REAL_TYPE XF_F64
#define REAL_MAX 0x1.fffffffffffffp1023
#define MANTISSA_BITS 52
#define CELL_BITS 2
#endif

#include XF_VEC_HEADER
#ifdef REG_BYTES /* the header is for this architecture */
#include "simd/vec.h"
#include "simd/exp_log.h"
#include "simd/exp_row.h"
#include "rows/blocks.h"
#include "rows/bands.h"
#include "rows/statistics.h"
#include "rows/softmax.h"
#include "rows/shards.h"
#include "rows/log_loss.h"
#include "rows/sigmoid.h"
#include "rows/elementwise.h"
#include "rows/divergence.h"
#include "rows/evaluate.h"
#include "rows/hessian.h"
#include "rows/pairs.h"
#include "rows/sparse.h"
#include "rows/sums.h"

static void elementwise(int which, const void *x, void *y, ptrdiff_t n)
{
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        ptrdiff_t rest = n - j < LANES ? n - j : LANES;
        vec a = v_load_part((const real *)x + j, rest);
        vec b = which == 0   ? v_exp(a)
                : which == 1 ? v_log(a)
                : which == 2 ? v_log1p(a)
                             : v_log1p_unit(a);
        v_store_part((real *)y + j, b, rest);
    }
}

#define JOIN_(isa, bits) xf_##isa##_f##bits
#define JOIN(isa, bits) JOIN_(isa, bits)
const xf_kernels JOIN(XF_ISA, XF_BITS) = {
    .block = BLOCK,
    .softmax_loss = softmax_loss,
    .softmax_gradient = softmax_gradient,
    .logsumexp = logsumexp,
    .softmax = softmax,
    .shard_statistics = shard_statistics,
    .shard_gradient = shard_gradient,
    .log_loss = log_loss,
    .log_loss_gradient = log_loss_gradient,
    .evaluate = evaluate,
#if XF_BITS == 64
    .add_sixteen = add_sixteen,
    .sparse = sparse,
#endif
    .compare = compare,
    .compare_gradient = compare_gradient,
    .sparse_rest = sparse_rest,
    .sparse_gradient = sparse_gradient,
    .binary = binary,
    .divergence = divergence,
    .half = half,
    .terms = terms,
    .widen = widen,
    .narrow = narrow,
    .elementwise = elementwise,
};
#endif

#ifdef XF_POP_TARGET
#pragma clang attribute pop
#endif
