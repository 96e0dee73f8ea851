/* Entropy and divergences of rows of probabilities. With P = sum p_j where p is to be normalised:

     entropy         -sum p log p;  normalised (sum p_j log(P / p_j)) / P
     KL              sum p log(p / q)
     Jensen-Shannon  sum (p log(p / m) + q log(q / m)) / 2,  m = (p + q) / 2

   The largest p_j has log(P / p_j) = log1p((P - p_j) / p_j) from the sum of the others, so that the
   small entropy of a confident row keeps its digits. A term with p = 0 is 0, a negative one nan. */

typedef struct {
    vec p, q;            /* what each is multiplied by */
    vec held;            /* the element held out of a sum */
    real lift_p, lift_q; /* and before that, as it is read: see lift_for */
} scales;

INLINE vec entropy_term(vec p, vec q, const void *k)
{
    (void)q, (void)k;
    return v_drop(v_eq(p, v_zero()), v_mul(v_neg(p), v_log(p)));
}
/* p log(1 / scaled p), but for the one held out. */
INLINE vec surprise_term(vec p, vec q, const void *k)
{
    const scales *s = k;
    (void)q;
    mask none = v_or(v_eq(p, v_zero()), v_eq(p, s->held));
    return v_drop(none, v_mul(v_neg(p), v_log(v_mul(p, s->p))));
}
INLINE vec others_term(vec p, vec q, const void *k)
{
    (void)q;
    return v_drop(v_eq(p, ((const scales *)k)->held), p);
}
INLINE vec equal_term(vec p, vec q, const void *k)
{
    (void)q;
    return v_keep(v_eq(p, ((const scales *)k)->held), v_set1(1));
}
/* p log(p / q), 0 where p is 0 and nan where either is negative. */
INLINE vec relative_term(vec p, vec q)
{
    vec none = v_zero();
    vec a = v_mul(p, v_log_ratio(p, q));
    if (v_all(v_and(v_plain(p), v_plain(q))))
        return a;
    a = v_select(v_eq(p, none), v_mul(q, none), a);
    a = v_select(v_eq(q, none), v_select(v_lt(none, p), v_set1(INFINITY), v_mul(p, none)), a);
    return v_select(v_or(v_lt(p, none), v_lt(q, none)), v_set1(NAN), a);
}
INLINE vec kl_term(vec p, vec q, const void *k)
{
    const scales *s = k;
    return relative_term(v_mul(p, s->p), v_mul(q, s->q));
}
INLINE vec js_term(vec p, vec q, const void *k)
{
    const scales *s = k;
    const vec half = v_set1((real)0.5);
    p = v_mul(p, s->p);
    q = v_mul(q, s->q);
    vec m = v_mul(half, v_add(p, q));
    return v_mul(half, v_add(relative_term(p, m), relative_term(q, m)));
}
SUM_BLOCK(sum_entropy, entropy_term, 0, 0)
SUM_BLOCK(sum_surprise, surprise_term, 0, 0)
SUM_BLOCK(sum_others, others_term, 0, 0)
SUM_BLOCK(sum_equal, equal_term, 0, 0)
SUM_BLOCK(sum_kl, kl_term, 0, 0)
SUM_BLOCK(sum_js, js_term, 0, 0)

typedef real block_sum(const real *, const real *, ptrdiff_t, const void *);

/* The n elements of row i from class j0 on, times a power of two. */
static inline const real *fetch_lifted(const xf_rows *x, int i, ptrdiff_t j0, ptrdiff_t n,
                                       void *buffer, real lift)
{
    const real *a = fetch(x, i, j0, n, buffer);
    if (lift == 1)
        return a;
    real *to = buffer;
    for (ptrdiff_t j = 0; j < n; j++)
        to[j] = a[j] * lift;
    return to;
}

/* What a row is multiplied by where REAL could not hold its sum, or the inverse of that. */
static inline real lift_for(double sum)
{
    if (sum > REAL_MAX * (real)0x1p-30)
        return (real)0x1p-40;
    return sum > 0 && sum < (double)LEAST_NORMAL * 0x1p30 ? (real)0x1p60 : 1;
}

/* The sum of a row over its blocks, in double. */
static inline double row_sum(block_sum *sum, const xf_rows *p, const xf_rows *q, int i,
                             ptrdiff_t classes, const scales *k)
{
    _Alignas(64) unsigned char block[2][XF_BLOCK_BYTES];
    double total = 0;
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += BLOCK) {
        ptrdiff_t n = block_length(classes, j0);
        const real *a = fetch_lifted(p, i, j0, n, block[0], k ? k->lift_p : 1);
        total += sum(a, q ? fetch_lifted(q, i, j0, n, block[1], k->lift_q) : a, n, k);
    }
    return total;
}

static double normalized_entropy(const xf_rows *p, int i, ptrdiff_t classes, real lift)
{
    _Alignas(64) unsigned char block[XF_BLOCK_BYTES];
    real most = -INFINITY;
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += BLOCK) {
        ptrdiff_t n = block_length(classes, j0);
        real m = block_maximum(fetch_lifted(p, i, j0, n, block, lift), n);
        most = m > most ? m : most;
    }
    scales k = {.held = v_set1(most), .lift_p = lift};
    double count = row_sum(sum_equal, p, NULL, i, classes, &k);
    double others = row_sum(sum_others, p, NULL, i, classes, &k) + (count - 1) * most;
    double total = others + most;
    if (total < 0 && most > 0) /* the one held out is negative then */
        return NAN;
    if (lift == 1 && lift_for(total) != 1)
        return normalized_entropy(p, i, classes, lift_for(total));
    k.p = v_set1((real)(1 / total));
    real log[LANES];
    v_store(log, v_log1p(v_set1((real)(others / most))));
    return (row_sum(sum_surprise, p, NULL, i, classes, &k) + count * most * log[0]) / total;
}

/* One over the sum of a lifted row. */
static inline vec inverse_sum(const xf_rows *x, int i, ptrdiff_t classes, real *lift)
{
    scales k = {.lift_p = 1};
    double sum = row_sum(sum_block, x, NULL, i, classes, &k);
    k.lift_p = *lift = lift_for(sum);
    if (*lift != 1)
        sum = row_sum(sum_block, x, NULL, i, classes, &k);
    return v_set1((real)(1 / sum));
}

static double divergence(xf_divergence kind, const xf_rows *p, const xf_rows *q, int i,
                         ptrdiff_t classes, bool normalize)
{
    if (kind == XF_ENTROPY)
        return normalize ? normalized_entropy(p, i, classes, 1)
                         : row_sum(sum_entropy, p, NULL, i, classes, NULL);
    scales k = {.p = v_set1(1), .q = v_set1(1), .lift_p = 1, .lift_q = 1};
    if (normalize) {
        k.p = inverse_sum(p, i, classes, &k.lift_p);
        k.q = inverse_sum(q, i, classes, &k.lift_q);
    }
    static block_sum *const sums[] = {[XF_KL] = sum_kl, [XF_JS] = sum_js};
    return row_sum(sums[kind], p, q, i, classes, &k);
}

static double mass(const xf_rows *p, int i, ptrdiff_t classes, bool *valid)
{
    _Alignas(64) unsigned char block[XF_BLOCK_BYTES];
    const vec zero = v_zero(), one = v_set1(1);
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += BLOCK) {
        ptrdiff_t n = block_length(classes, j0);
        const real *a = fetch(p, i, j0, n, block);
        mask good = v_le(zero, zero);
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            vec x = load_to(a + j, n - j, zero);
            good = v_and(good, v_and(v_le(zero, x), v_le(x, one)));
        }
        if (!v_all(good))
            *valid = false;
    }
    return row_sum(sum_block, p, NULL, i, classes, NULL);
}
