/* The row primitives' interface: what the Cython loops call through the dispatch. Shapes are
   (rows, classes); one call treats a panel of at most XF_PANEL rows. */
#ifndef XF_ROWS_H
#define XF_ROWS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "exact.h"

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "the order and the rounding of operations, and inf and nan, must be kept: no -ffast-math"
#endif

#define XF_PANEL 16         /* rows a panel can hold: the lanes of the longest logical vector */
#define XF_BLOCK_BYTES 2048 /* a block: 32 logical vectors, summed in two chains of 16 */
#define XF_SEGMENTS 64      /* segments, of eight blocks, of the longest row that is kept */
#define XF_TOGETHER 16      /* the most panels that are treated together */

/* XF_U8: booleans, which are only read. */
typedef enum { XF_F32, XF_F64, XF_F16, XF_BF16, XF_U8 } xf_type;

/* Some rows to read: where each begins, the bytes from class to class, what an element is. */
typedef struct {
    const char *row[XF_PANEL];
    ptrdiff_t step;
    xf_type type;
} xf_rows;

/* Some rows to write; stream: those of a tile go past the caches, as the array is larger than they
   are. What is written after its exponentials were kept there is in the caches already. */
typedef struct {
    char *row[XF_PANEL];
    ptrdiff_t step;
    xf_type type;
    bool stream;
} xf_out;

/* t_j = w_j (scale * dense_j + offset): the label distribution but for an index label's own class.
   class_weight is of the compute type, or NULL for ones; dense may be NULL. */
typedef struct {
    const xf_rows *dense;
    const void *class_weight;
    double scale, offset;
} xf_target;

/* What panels are worked on in, one after the other. */
typedef struct {
    /* the first two: a block of all rows, lanes across rows, and its target; then the same as rows;
       or all four: the panel's rows */
    _Alignas(64) unsigned char tile[4][XF_BLOCK_BYTES * 16];
    unsigned char block[2][XF_BLOCK_BYTES]; /* a block of one row */
} xf_work;

/* What a panel of rows needs, keeps between value and gradient, and gives. Panels that are treated
   together have one work, and the same options. */
typedef struct {
    xf_work *work;
    void *
        band; /* a segment, eight blocks, of all rows, lanes across them; unused by pairs and sparse */
    /* in; the three arrays are filled beyond `rows` too, with -1, 0 and 0 */
    int rows;
    ptrdiff_t classes;
    int64_t label[XF_PANEL]; /* class index, or -1 where there is none */
    double own[XF_PANEL];    /* the index label's own share of t */
    double weight[XF_PANEL]; /* of the row's loss; -1 for an ignored row */
    double z_loss, gradient_scale;
    bool wants_gradient;
    bool asks; /* xf_asks_ahead() */
    /* out */
    double loss[XF_PANEL];
    double lse[XF_PANEL];
    /* between */
    /* where the exponentials of all classes are: the panel's band, the tiles as rows, or the rows of
       out */
    enum { XF_KEPT_NOTHING, XF_KEPT_BAND, XF_KEPT_ROWS, XF_KEPT_OUT } kept;
    _Alignas(64) unsigned char state[16][64];
    unsigned char top[XF_SEGMENTS * 8]; /* the maximum so far after each segment of a kept row */
    unsigned char sums[XF_PANEL * 80];  /* of each row over its segments so far */
} xf_panel;

/* One block of elements of binary cross-entropy; pos_weight, weight, loss, gradient and hessian, of
   logits the weighted p (1 - p), may be NULL. */
typedef struct {
    const void *x, *label, *pos_weight, *weight;
    void *loss, *gradient, *hessian;
    ptrdiff_t n;
    double label_smoothing, gradient_scale;
    bool from_logits;
} xf_binary;

/* Of logits equal to the label's: which come before it in the order of the classes. */
typedef enum { XF_LOWEST_WINS, XF_HIGHEST_WINS, XF_LABEL_WINS } xf_ties; /* as in _evaluate.py */

/* What is reported of a panel's rows with index labels. A row without scores has nan, the largest
   rank there is, and -1 for the class predicted; the rank of a row without label says nothing. */
typedef struct {
    /* in */
    xf_ties ties;
    bool wants_predicted;
    /* out */
    double loss[XF_PANEL], lse[XF_PANEL], entropy[XF_PANEL], brier[XF_PANEL], confidence[XF_PANEL];
    double reciprocal[XF_PANEL]; /* 1 / (1 + rank) */
    int64_t rank[XF_PANEL], predicted[XF_PANEL];
} xf_scores;

/* Of pairs of rows of logits, with the distributions p and q: KL(p, q), KL(q, p), Jensen-Shannon. */
typedef enum { XF_FORWARD, XF_REVERSE, XF_SYMMETRIC } xf_towards; /* as in _divergence.py */

/* How the rows of a panel diverge from those of another. */
typedef struct {
    /* in */
    double scale; /* one over the temperature */
    /* out; change: of the label's probability; log_ratio: of it, p over q; same: the first class */
    double divergence[3][XF_PANEL]; /* by xf_towards */
    double loss[2][XF_PANEL], change[XF_PANEL], log_ratio[XF_PANEL];
    bool same[XF_PANEL];
    /* between value and gradient */
    double maximum[2][XF_PANEL], inverse[2][XF_PANEL], shift[XF_PANEL], offset[XF_PANEL];
} xf_pairs;

/* Of a panel's rows that are spread over shards: shards.h. */
typedef struct {
    double maximum[XF_PANEL];
    double rest[XF_PANEL], label[XF_PANEL]; /* s' of the classes here; -inf: the label is not */
    double scale[XF_PANEL], own[XF_PANEL];
} xf_shard;

/* One row of logits, and those of its classes that a teacher lists. */
typedef struct {
    /* in */
    ptrdiff_t listed;
    const int64_t *index; /* ascending, with the probabilities p > 0 */
    const double *p;
    double scale;       /* one over the temperature */
    bool rest_is_class; /* what p leaves of 1 is a class; else p is divided by its sum */
    double rounding;    /* how far that sum may be from 1 */
    double *logit, *slope;
    /* between: the largest of the others, the sum of their exponentials of it, and what makes them the
       gradient; slope is that of the listed */
    double maximum, rest, factor;
    /* out */
    double value;
} xf_sparse;

/* Rows that lie `apart` bytes from each other; a step as in xf_rows. */
typedef struct {
    const char *first;
    ptrdiff_t apart, step;
    xf_type type;
} xf_band;

#define XF_BAND 32                 /* the most rows of a band */
#define XF_DIVERGENCE_BYTES 163840 /* what a band is worked on in */

/* The first three as in xentfast/_divergence.py; the sum of a row, nan where it is not in [0, 1]. */
typedef enum { XF_ENTROPY, XF_KL, XF_JS, XF_MASS } xf_divergence;

typedef enum { XF_ENTR, XF_REL_ENTR, XF_KL_DIV, XF_XLOGY } xf_term; /* as in dropin/scipy.py */

#define XF_HALF_SCRATCH (4 * 8192 + 64)

/* A panel of rows and what scikit-learn wants of it. The first two arrays are filled beyond `rows`
   too. */
typedef struct {
    const xf_rows *x;
    int rows;
    ptrdiff_t classes;
    double label[XF_PANEL], weight[XF_PANEL];
    double loss[XF_PANEL];
    const xf_out *gradient, *second; /* float or double, or NULL */
    bool hessian;                    /* second is its diagonal, else the probabilities */
    void *scratch;                   /* XF_HALF_SCRATCH bytes, aligned to 64 */
} xf_half;

typedef struct {
    /* Elements in a block; bytes of one are XF_BLOCK_BYTES / block. */
    ptrdiff_t block;
    /* Losses of index or dense labels from logits; out may be NULL, or the rows the gradient of
       this panel will be written to. Several panels, each with its x, dense and out, where the
       classes of x are apart. */
    void (*softmax_loss)(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out,
                         int panels);
    void (*softmax_gradient)(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out,
                             int panels);
    /* log-sum-exp of each row into p->lse, and the rows of softmax or its logarithm. */
    void (*logsumexp)(const xf_rows *x, xf_panel *p, const xf_out *out, int panels);
    void (*softmax)(const xf_rows *x, xf_panel *p, const xf_out *out, int panels, bool logarithm);
    /* Of rows with p->label, or -1 where that is in another shard: maximum, rest and label; and from
       maximum (-inf: a row that counts nothing), scale and own the gradient. out may be x. */
    void (*shard_statistics)(const xf_rows *x, xf_panel *p, xf_shard *s, int panels);
    void (*shard_gradient)(const xf_rows *x, xf_panel *p, const xf_shard *s, const xf_out *out,
                           int panels);
    /* Losses of index or dense labels from probabilities. */
    void (*log_loss)(const xf_rows *x, const xf_target *t, xf_panel *p);
    void (*log_loss_gradient)(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out);
    /* The scores of a panel's rows, from logits or from probabilities (which have no lse, and come a
       panel at a time). */
    void (*evaluate)(const xf_rows *x, xf_panel *p, bool from_logits, xf_scores *scores,
                     int panels);
    /* Sixteen values, or their products with others, to a sum; of double only. */
    void (*add_sixteen)(xf_sixteens *sum, const double *x, const double *y);
    /* Loss, gradient and second of index labels. */
    void (*half)(xf_half *h);
    /* The divergences of a panel's pairs of rows of logits, and the gradient of one of them with
       respect to b, times weight and gradient_scale; out may be b. */
    void (*compare)(const xf_rows *a, const xf_rows *b, xf_panel *p, xf_pairs *pairs);
    void (*compare_gradient)(xf_towards what, const xf_rows *a, const xf_rows *b, xf_panel *p,
                             const xf_pairs *pairs, const xf_out *out);
    /* The divergence of the first row: what is not listed; then, of double only, the value; then the
       gradient times `by`, 0 where the panel's first weight is below 0; out may be x. */
    void (*sparse_rest)(const xf_rows *x, xf_panel *p, xf_sparse *s);
    void (*sparse)(xf_sparse *s);
    void (*sparse_gradient)(const xf_rows *x, xf_panel *p, const xf_sparse *s, double by,
                            const xf_out *out);
    /* The sum of the block's losses; *valid becomes false where a label is outside [0, 1]. */
    double (*binary)(const xf_binary *b, bool *valid);
    /* Each row's entropy, divergence or mass; q is NULL where there is one distribution. */
    void (*divergence)(xf_divergence kind, bool normalize, const xf_band *p, const xf_band *q,
                       int rows, ptrdiff_t classes, double *value, void *scratch);
    /* A term of n pairs; of entr y is not looked at, but must be there. */
    void (*terms)(xf_term term, const void *x, const void *y, ptrdiff_t n, void *to);
    /* n elements of XF_F16 or XF_BF16 to the compute type, which is float, and back. */
    void (*widen)(const void *from, xf_type type, ptrdiff_t n, void *to);
    void (*narrow)(const void *from, ptrdiff_t n, void *to, xf_type type);
    /* exp, log, log1p and log1p on [0, 1] of n elements. */
    void (*elementwise)(int which, const void *x, void *y, ptrdiff_t n);
} xf_kernels;

#endif
