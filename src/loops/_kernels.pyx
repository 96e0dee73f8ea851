# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, freethreading_compatible=True
"""The compiled module: loops over rows, one included file per family of losses.

Every function here trusts its arguments: xentfast._checks has seen them. Arrays come with seven
axes (layout.pxi), the classes last; logits of 16 bits as uint16. What they are computed in, float32
or float64, is `real` here and in the row primitives.
"""

from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)

ctypedef fused real:
    float
    double

# What logits are stored as; 16 bits hold float16 or bfloat16, computed in float.
ctypedef fused storage:
    float
    double
    uint16_t

cdef extern from "exact.h" nogil:
    enum: XF_EXACT_BYTES
    ctypedef struct xf_exact:
        int64_t infinite, negative, nan
    ctypedef struct xf_sixteens:
        xf_exact exact
    void xf_sixteens_carry(xf_sixteens *)
    void xf_exact_add(xf_exact *, double)
    void xf_exact_merge(xf_exact *, xf_exact *)
    void xf_exact_read(xf_exact *, unsigned char *)
    int xf_place_take(int *, int)
    void xf_place_give(int *, int)

cdef extern from "rows/rows.h" nogil:
    enum: XF_PANEL, XF_TOGETHER, XF_BLOCK_BYTES, XF_HALF_SCRATCH
    ctypedef bint xf_bool "bool"
    ctypedef enum xf_type:
        XF_F32
        XF_F64
        XF_F16
        XF_BF16
        XF_U8
    ctypedef struct xf_rows:
        const char *row[XF_PANEL]
        ptrdiff_t step
        xf_type type
    ctypedef struct xf_out:
        char *row[XF_PANEL]
        ptrdiff_t step
        xf_type type
        xf_bool stream
    ctypedef struct xf_target:
        const xf_rows *dense
        const void *class_weight
        double scale, offset
    ctypedef struct xf_work:
        pass
    ctypedef struct xf_panel:
        xf_work *work
        void *band
        int rows
        ptrdiff_t classes
        int64_t label[XF_PANEL]
        double own[XF_PANEL]
        double weight[XF_PANEL]
        double z_loss, gradient_scale
        xf_bool wants_gradient, asks
        double loss[XF_PANEL]
        double lse[XF_PANEL]
    ctypedef struct xf_binary:
        const void *x
        const void *label
        const void *pos_weight
        const void *weight
        void *loss
        void *gradient
        void *hessian
        ptrdiff_t n
        double label_smoothing, gradient_scale
        xf_bool from_logits
    ctypedef enum xf_ties:
        pass
    ctypedef struct xf_scores:
        xf_ties ties
        xf_bool wants_predicted
        double loss[XF_PANEL]
        double lse[XF_PANEL]
        double entropy[XF_PANEL]
        double brier[XF_PANEL]
        double confidence[XF_PANEL]
        double reciprocal[XF_PANEL]
        int64_t rank[XF_PANEL]
        int64_t predicted[XF_PANEL]
    ctypedef struct xf_half:
        const xf_rows *x
        int rows
        ptrdiff_t classes
        double label[XF_PANEL]
        double weight[XF_PANEL]
        double loss[XF_PANEL]
        const xf_out *gradient
        const xf_out *second
        xf_bool hessian
        void *scratch
    ctypedef enum xf_towards:
        XF_FORWARD
        XF_REVERSE
        XF_SYMMETRIC
    ctypedef struct xf_pairs:
        double scale
        double divergence[3][XF_PANEL]
        double loss[2][XF_PANEL]
        double change[XF_PANEL]
        double log_ratio[XF_PANEL]
        xf_bool same[XF_PANEL]
    ctypedef struct xf_shard:
        double maximum[XF_PANEL]
        double rest[XF_PANEL]
        double label[XF_PANEL]
        double scale[XF_PANEL]
        double own[XF_PANEL]
    ctypedef struct xf_sparse:
        ptrdiff_t listed
        const int64_t *index
        const double *p
        double scale
        xf_bool rest_is_class
        double rounding
        double *logit
        double *slope
        double value
    enum: XF_BAND, XF_DIVERGENCE_BYTES
    ctypedef struct xf_band:
        const char *first
        ptrdiff_t apart, step
        xf_type type
    ctypedef enum xf_divergence:
        XF_MASS
    ctypedef enum xf_term:
        pass
    ctypedef struct xf_kernels:
        ptrdiff_t block
        void (*softmax_loss)(const xf_rows *, const xf_target *, xf_panel *, const xf_out *,
                             int) noexcept nogil
        void (*softmax_gradient)(const xf_rows *, const xf_target *, xf_panel *, const xf_out *,
                                 int) noexcept nogil
        void (*logsumexp)(const xf_rows *, xf_panel *, const xf_out *, int) noexcept nogil
        void (*softmax)(const xf_rows *, xf_panel *, const xf_out *, int, xf_bool) noexcept nogil
        void (*shard_statistics)(const xf_rows *, xf_panel *, xf_shard *, int) noexcept nogil
        void (*shard_gradient)(const xf_rows *, xf_panel *, const xf_shard *, const xf_out *,
                               int) noexcept nogil
        void (*log_loss)(const xf_rows *, const xf_target *, xf_panel *) noexcept nogil
        void (*log_loss_gradient)(const xf_rows *, const xf_target *, xf_panel *,
                                  const xf_out *) noexcept nogil
        void (*evaluate)(const xf_rows *, xf_panel *, xf_bool, xf_scores *, int) noexcept nogil
        void (*add_sixteen)(xf_sixteens *, const double *, const double *) noexcept nogil
        void (*half)(xf_half *) noexcept nogil
        void (*compare)(const xf_rows *, const xf_rows *, xf_panel *, xf_pairs *) noexcept nogil
        void (*compare_gradient)(xf_towards, const xf_rows *, const xf_rows *, xf_panel *,
                                 const xf_pairs *, const xf_out *) noexcept nogil
        void (*sparse_rest)(const xf_rows *, xf_panel *, xf_sparse *) noexcept nogil
        void (*sparse)(xf_sparse *) noexcept nogil
        void (*sparse_gradient)(const xf_rows *, xf_panel *, const xf_sparse *, double,
                                const xf_out *) noexcept nogil
        double (*binary)(const xf_binary *, xf_bool *) noexcept nogil
        void (*divergence)(xf_divergence, xf_bool, const xf_band *, const xf_band *, int,
                           ptrdiff_t, double *, void *) noexcept nogil
        void (*terms)(xf_term, const void *, const void *, ptrdiff_t, void *) noexcept nogil
        void (*widen)(const void *, xf_type, ptrdiff_t, void *) noexcept nogil
        void (*narrow)(const void *, ptrdiff_t, void *, xf_type) noexcept nogil
        void (*elementwise)(int, const void *, void *, ptrdiff_t) noexcept nogil

cdef extern from "simd/half.h" nogil:
    float f32_of_f16(uint16_t)
    float f32_of_bf16(uint16_t)

cdef extern from "dispatch.h" nogil:
    int xf_isa_count()
    const char *xf_isa_name(int)
    xf_bool xf_isa_runs(int)
    xf_bool xf_asks_ahead()
    int xf_isa_chosen()
    void xf_isa_choose(int)
    const xf_kernels *xf_isa_kernels(xf_type)
    const xf_kernels *xf_isa_light_kernels(xf_type)

cdef extern from "environment.h" nogil:
    ctypedef unsigned int xf_environment
    xf_environment xf_enter()
    void xf_leave(xf_environment)

cdef extern from "pool.h" nogil:
    ctypedef void xf_task(void *, ptrdiff_t, void *) noexcept nogil
    xf_bool xf_pool_prepare()
    xf_bool xf_pool_run(xf_task *, void *, ptrdiff_t, int, size_t)
    void xf_raise(int *)

cdef extern from "threads.h" nogil:
    int xf_threads()
    void xf_threads_set(int)
    int xf_threads_limit(int)

cdef extern from *:
    """
    #if defined(__clang__)
    #define XF_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define XF_COMPILER "gcc " __VERSION__
    #else
    #define XF_COMPILER "unknown"
    #endif
    """
    const char *XF_VERSION
    const char *XF_COMPILER

include "config.pxi"
include "layout.pxi"
include "cross_entropy.pxi"
include "softmax.pxi"
include "shards.pxi"
include "binary.pxi"
include "divergence.pxi"
include "elementwise.pxi"
include "exact.pxi"
include "evaluate.pxi"
include "hessian.pxi"
include "pairs.pxi"
include "sparse.pxi"
