/* Pairs of rows of logits a and b, divided by a temperature: how the distributions p and q of their
   softmax diverge. With u_j = log p_j - log q_j

     KL(p, q) = sum p u            = sum p (u + expm1(-u))     as sum p expm1(-u) = sum (q - p) = 0
     KL(q, p) = sum -q u           = sum q (expm1(u) - u)
     JS = sum (p + q) / 4 F(w^2) w^2,  w = tanh(u / 2),  F w^2 = (1 + w) log1p(w) + (1 - w) log1p(-w)

   whose terms are not negative, and 0 where u is. u comes from the difference of the logits, not
   from the logarithms: u = (a - b - shift) / temperature - offset, the shift near that of the first of
   the largest a, so that the offset is small, and what these differences lose is put back. So equal
   rows give 0, and close ones keep their digits.

   The error of the offset is seen in S = sum p expm1(-u), which should be 0, and drops out of
   KL = sum p (u + expm1(-u)) - (S - log1p(S)); where that is not far below the sum, which is so of
   very close rows, the sums are taken again with the offset put right. */

/* (u + expm1(-u)) / u^2 for |u| < NEAR, and F(z) for z = tanh(u / 2)^2 there; approximation error:
   float 2^-26.6 and 2^-28.2, double 2^-55.4 and 2^-54.5. */
#define NEAR 0.75
#if XF_BITS == 32
#define TOO_MUCH 0x1p-22
static const real KL_Q[] = {-0x1.75ab6ep-19f, 0x1.a5555cp-16f, -0x1.a014a6p-13f, 0x1.6c0f62p-10f,
                            -0x1.111114p-7f,  0x1.55555cp-5f,  -0x1.555556p-3f,  0x1p-1f};
static const real JS_Q[] = {0x1.c9a67p-6f, 0x1.1f0cdcp-5f, 0x1.113234p-4f, 0x1.55551p-3f, 0x1p+0f};
#else
#define TOO_MUCH 0x1p-50
static const real KL_Q[] = {-0x1.b19fb95073788p-41, 0x1.96ea26b4e2c48p-37,
                            -0x1.6121f566d3be1p-33, 0x1.1eeafc12a66a4p-29,
                            -0x1.ae64585b0628cp-26, 0x1.27e4fd7145ce8p-22,
                            -0x1.71de3a54b116cp-19, 0x1.a01a019e8b9b6p-16,
                            -0x1.a01a01a01a47ep-13, 0x1.6c16c16c1756ep-10,
                            -0x1.1111111111110p-7,  0x1.5555555555553p-5,
                            -0x1.5555555555555p-3,  0x1p-1};
static const real JS_Q[] = {0x1.2c0159362f845p-7, 0x1.5f54280ea7ab6p-8,
                            0x1.172da0bbb55cep-7, 0x1.67837b3b38c1bp-7,
                            0x1.f0849560e1b8dp-7, 0x1.6c169bb3c7728p-6,
                            0x1.24924984bee9bp-5, 0x1.1111111094eadp-4,
                            0x1.5555555555936p-3, 0x1p+0};
#endif

/* What the elements of a pair need: of one pair in every lane, or of a pair in each. */
typedef struct {
    vec scale, shift, offset;
    vec maximum[2], inverse[2];
} pair_factors;

/* p, q and u of some elements; near: where |u| < NEAR, and there expm1(-u) and expm1(u). */
typedef struct {
    vec p, q, u, down, up, forward, reverse; /* forward: u + expm1(-u), reverse: expm1(u) - u */
    mask near;
    bool all_near;
} pair_terms;

/* a - b, and what its rounding loses. */
INLINE vec difference(vec a, vec b, vec *lost)
{
    const vec d = v_sub(a, b), back = v_add(d, b);
    *lost = v_sub(v_sub(a, back), v_sub(b, v_sub(back, d)));
    return d;
}

/* exp((x - maximum) scale) inverse; what the rounding of x - maximum loses, and that of the product,
   is put back. */
INLINE vec probability(vec x, vec maximum, vec inverse, vec scale)
{
    vec lost;
    const vec d = difference(x, maximum, &lost), product = v_mul(d, scale);
    const mask counts = v_lt(v_set1(DEEPEST), product);
    const vec e = v_mul(v_exp(v_max(v_set1(DEEPEST), product)), inverse);
    return v_fma(e, v_keep(counts, v_fma(lost, scale, v_lost(d, scale, product))), e);
}

INLINE pair_terms terms_of(vec a, vec b, const pair_factors *f)
{
    pair_terms t;
    const vec zero = v_zero();
    t.p = probability(a, f->maximum[0], f->inverse[0], f->scale);
    t.q = probability(b, f->maximum[1], f->inverse[1], f->scale);
    vec lost, lost_too;
    const vec apart = difference(difference(a, b, &lost), f->shift, &lost_too);
    const vec low = v_add(lost, lost_too); /* nan where an infinite logit makes u infinite */
    t.u = v_fma(apart, f->scale, v_neg(f->offset));
    t.u = v_fma(v_keep(v_eq(low, low), low), f->scale, t.u);
    t.u = v_drop(v_and(v_eq(t.p, zero), v_eq(t.q, zero)), t.u); /* of two logits of -inf */
    t.near = v_and(v_lt(t.u, v_set1((real)NEAR)), v_lt(v_set1((real)-NEAR), t.u));
    t.all_near = v_all(t.near);
    const vec u = v_keep(t.near, t.u), square = v_mul(u, u);
    t.forward = v_mul(square, HORNER(u, KL_Q));
    t.reverse = v_mul(square, HORNER(v_neg(u), KL_Q));
    t.down = v_sub(t.forward, u);
    t.up = v_add(t.reverse, u);
    return t;
}

/* c x, 0 where c is, even against inf. */
INLINE vec times(vec c, vec x) { return v_drop(v_eq(c, v_zero()), v_mul(c, x)); }

/* The term of Jensen-Shannon where |u| < NEAR. */
INLINE vec symmetric_term(const pair_terms *t)
{
    const vec w = v_div(t->down, v_add(v_set1(2), t->down)), z = v_mul(w, w);
    return v_mul(v_mul(v_set1((real)0.25), v_add(t->p, t->q)), v_mul(z, HORNER(z, JS_Q)));
}

/* log(q / m), m = (p + q) / 2: -log1p(expm1(u) / 2) for u < 0, else -u - log1p(expm1(-u) / 2). */
INLINE vec log_to_middle(const pair_terms *t)
{
    const vec zero = v_zero(), half = v_set1((real)0.5);
    const mask below = v_lt(t->u, zero);
    const vec e = v_mul(half, v_select(below, t->up, t->down));
    vec log = v_log1p_small(e, zero);
    if (!t->all_near) {
        const vec less = v_select(below, t->p, t->q), more = v_select(below, t->q, t->p);
        const vec far = v_sub(v_log1p_unit(v_div(less, more)), v_set1((real)0x1.62e42fefa39efp-1));
        log = v_select(t->near, log, far);
    }
    return v_sub(v_select(below, zero, v_neg(t->u)), log);
}

/* The sums of a pair: the terms of KL(p, q), KL(q, p) and JS, and what should be 0 in the first two.
 */
enum { FORWARD, REVERSE, SYMMETRIC, FORWARD_REST, REVERSE_REST, PAIR_SUMS };

INLINE void add_terms(vec *s, vec a, vec b, const pair_factors *f)
{
    const pair_terms t = terms_of(a, b, f);
    vec term[PAIR_SUMS] = {v_mul(t.p, t.forward), v_mul(t.q, t.reverse), symmetric_term(&t),
                           v_mul(t.p, t.down), v_mul(t.q, t.up)};
    if (!t.all_near) { /* of the larger of p and q and w = exp(-|u|), so that its error is a factor */
        const vec one = v_set1(1), size = v_max(t.u, v_neg(t.u));
        const vec w = v_exp(v_max(v_set1(DEEPEST), v_neg(size)));
        const mask above = v_lt(v_zero(), t.u);
        const vec large = v_select(above, t.p, t.q), apart = v_mul(large, v_sub(one, w));
        const vec of_large = times(large, v_add(v_sub(size, one), w)),
                  of_small = v_mul(large, v_sub(one, times(w, v_add(one, size))));
        const vec log = v_sub(v_set1((real)0x1.62e42fefa39efp-1), v_log1p_unit(w)),
                  both = v_fma(v_add(one, w), log, v_neg(times(w, size)));
        const vec far[PAIR_SUMS] = {
            v_select(above, of_large, of_small), v_select(above, of_small, of_large),
            v_mul(v_mul(v_set1((real)0.5), large), both), v_select(above, v_neg(apart), apart),
            v_select(above, apart, v_neg(apart))};
        for (int k = 0; k < PAIR_SUMS; k++)
            term[k] = v_select(t.near, term[k], far[k]);
    }
    for (int k = 0; k < PAIR_SUMS; k++)
        s[k] = v_add(s[k], term[k]);
}

static void add_pair_block(const real *a, const real *b, ptrdiff_t n, const pair_factors *f,
                           double *sums)
{
    const vec least = v_set1(-INFINITY), zero = v_zero();
    vec s[2][PAIR_SUMS];
    for (int k = 0; k < PAIR_SUMS; k++)
        s[0][k] = s[1][k] = zero;
    ptrdiff_t j = 0;
    for (; j + CHAINS <= n; j += CHAINS) {
        add_terms(s[0], v_load(a + j), v_load(b + j), f);
        add_terms(s[1], v_load(a + j + LANES), v_load(b + j + LANES), f);
    }
    for (int c = 0; j < n; c++, j += LANES)
        add_terms(s[c], load_to(a + j, n - j, least), load_to(b + j, n - j, least), f);
    for (int k = 0; k < PAIR_SUMS; k++)
        sums[k] += v_fold_add(v_add(s[0][k], s[1][k]));
}

/* exp((x - max) / temperature) without the terms at the maximum. */
INLINE vec scaled_term(vec x, vec q, const void *k)
{
    const pair_factors *f = k;
    (void)q;
    return v_drop(v_eq(x, f->maximum[0]), probability(x, f->maximum[0], v_set1(1), f->scale));
}
SUM_BLOCK(sum_scaled, scaled_term, -INFINITY, -INFINITY)

/* Defines the same of a tile, for each of its rows. */
#define SUM_TILE(name, term)                                                     \
    static vec name(const real *p, const real *q, ptrdiff_t n, const void *k)    \
    {                                                                            \
        vec s[CHAINS];                                                           \
        for (ptrdiff_t j = 0; j < n; j++) {                                      \
            const vec t = term(v_load(p + j * LANES), v_load(q + j * LANES), k); \
            s[j % CHAINS] = v_add(j < CHAINS ? v_zero() : s[j % CHAINS], t);     \
        }                                                                        \
        return fold_chains(s, n);                                                \
    }
SUM_TILE(tile_scaled, scaled_term)

/* The maximum of row i, the first place it has, and s', as of softmax. */
static void scaled_statistics(const xf_rows *x, int i, ptrdiff_t classes, vec scale, void *buffer,
                              real *maximum, real *sum, ptrdiff_t *first)
{
    real m = -INFINITY;
    ptrdiff_t at = 0;
    for (ptrdiff_t j = 0; j < classes; j += BLOCK) {
        const ptrdiff_t n = block_length(classes, j);
        const real b = block_maximum(fetch(x, i, j, n, buffer), n);
        if (b > m) {
            m = b;
            at = j;
        }
    }
    const ptrdiff_t n = block_length(classes, at);
    *maximum = m;
    *first = at + find_equal(fetch(x, i, at, n, buffer), n, m, false);
    const pair_factors f = {.maximum[0] = v_set1(finite_maximum(m)), .scale = scale};
    double total = 0, count = 0;
    for (ptrdiff_t j = 0; j < classes; j += BLOCK) {
        const ptrdiff_t n = block_length(classes, j);
        const real *a = fetch(x, i, j, n, buffer);
        total += sum_scaled(a, a, n, &f);
        count += count_equal(a, n, m);
    }
    *sum = (real)(total + (count - 1)) + (m - m); /* nan where the maximum is not finite */
}

/* s - log1p(s) of a small s. */
static inline double beyond_log1p(double s)
{
    return s * s * (0.5 - s * (1 / 3. - s * (0.25 - s * 0.2)));
}

static inline pair_factors pair_of(const xf_pairs *pairs, int i)
{
    pair_factors f = {.scale = v_set1((real)pairs->scale),
                      .shift = v_set1((real)pairs->shift[i]),
                      .offset = v_set1((real)pairs->offset[i])};
    for (int k = 0; k < 2; k++) {
        f.maximum[k] = v_set1((real)pairs->maximum[k][i]);
        f.inverse[k] = v_set1((real)pairs->inverse[k][i]);
    }
    return f;
}

/* The factors of all pairs, each in its lane. */
static inline pair_factors lanes_of(const xf_pairs *pairs)
{
    real shift[LANES], offset[LANES], maximum[2][LANES], inverse[2][LANES];
    for (int i = 0; i < LANES; i++) {
        shift[i] = (real)pairs->shift[i];
        offset[i] = (real)pairs->offset[i];
        for (int k = 0; k < 2; k++) {
            maximum[k][i] = (real)pairs->maximum[k][i];
            inverse[k][i] = (real)pairs->inverse[k][i];
        }
    }
    return (pair_factors){
        .scale = v_set1((real)pairs->scale),
        .shift = v_load(shift),
        .offset = v_load(offset),
        .maximum = {v_load(maximum[0]), v_load(maximum[1])},
        .inverse = {v_load(inverse[0]), v_load(inverse[1])},
    };
}

/* The sums of pair i with its offset. */
static inline void pair_sums(const xf_rows *const x[2], xf_panel *p, const xf_pairs *pairs, int i,
                             double *sums)
{
    const pair_factors f = pair_of(pairs, i);
    for (int k = 0; k < PAIR_SUMS; k++)
        sums[k] = 0;
    for (ptrdiff_t j = 0; j < p->classes; j += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j);
        add_pair_block(fetch(x[0], i, j, n, p->work->block[0]),
                       fetch(x[1], i, j, n, p->work->block[1]), n, &f, sums);
    }
}

static inline double not_negative(double a) { return a < 0 ? 0 : a; }

/* The labels' shares of the pairs. */
static inline void compare_labels(const xf_rows *const x[2], const xf_panel *p, xf_pairs *pairs,
                                  real (*log)[LANES])
{
    real logit[2][LANES], change[LANES], u[LANES];
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < LANES; i++) {
            const ptrdiff_t y = p->label[i] < 0 ? 0 : p->label[i];
            logit[k][i] = read_one(x[k]->row[i] + y * x[k]->step, x[k]->type);
            pairs->loss[k][i] =
                log[k][i] + (real)(pairs->maximum[k][i] - logit[k][i]) * pairs->scale;
        }
    const pair_factors f = lanes_of(pairs);
    const pair_terms t = terms_of(v_load(logit[0]), v_load(logit[1]), &f);
    v_store(change, v_select(t.near, v_mul(t.p, t.down), v_sub(t.q, t.p)));
    v_store(u, t.u);
    for (int i = 0; i < LANES; i++) {
        pairs->change[i] = change[i];
        pairs->log_ratio[i] = u[i];
    }
}

/* Are the pairs treated with the lanes across them? */
static inline bool pairs_across(const xf_rows *a, const xf_rows *b, const xf_panel *p)
{
    return p->rows >= LANES / 4 &&
           (p->classes <= TILE_CLASSES || !packed(a->type, a->step) || !packed(b->type, b->step));
}

/* Classes [j0, j0 + n) of both, as tiles, unless those of the only block are there already. */
static inline void read_pairs(const xf_rows *const x[2], ptrdiff_t j0, ptrdiff_t n, xf_panel *p,
                              bool first)
{
    for (int k = 0; k < 2 && (first || p->classes > BLOCK); k++)
        read_tile(x[k], j0, n, (real *)p->work->tile[k]);
}

/* The statistics of all rows of both. */
static inline void statistics_across(const xf_rows *const x[2], xf_panel *p, vec scale,
                                     real (*maximum)[LANES], real (*sum)[LANES],
                                     ptrdiff_t (*first)[LANES])
{
    double total[2][LANES] = {{0}}, count[2][LANES] = {{0}};
    real value[LANES], place[LANES];
    vec at;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < LANES; i++) {
            maximum[k][i] = -INFINITY;
            first[k][i] = 0;
        }
    for (ptrdiff_t j = 0; j < p->classes; j += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j);
        read_pairs(x, j, n, p, true);
        for (int k = 0; k < 2; k++) {
            v_store(value, tile_first((real *)p->work->tile[k], n, false, &at));
            v_store(place, at);
            for (int i = 0; i < LANES; i++)
                if (value[i] > maximum[k][i]) {
                    maximum[k][i] = value[i];
                    first[k][i] = j + (ptrdiff_t)place[i];
                }
        }
    }
    for (ptrdiff_t j = 0; j < p->classes; j += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j);
        read_pairs(x, j, n, p, false);
        for (int k = 0; k < 2; k++) {
            const real *a = (const real *)p->work->tile[k];
            const vec m = v_load(maximum[k]);
            const pair_factors f = {.maximum[0] = v_max(v_set1(-REAL_MAX), m), .scale = scale};
            vec equal = v_zero();
            for (ptrdiff_t c = 0; c < n; c++)
                equal = v_count(equal, v_eq(v_load(a + c * LANES), m));
            v_store(value, tile_scaled(a, a, n, &f));
            v_store(place, v_counted(equal));
            for (int i = 0; i < LANES; i++) {
                total[k][i] += value[i];
                count[k][i] += place[i];
            }
        }
    }
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < LANES; i++)
            sum[k][i] = (real)(total[k][i] + (count[k][i] - 1)) + (maximum[k][i] - maximum[k][i]);
}

/* The sums of all pairs with their offsets. */
static inline void sums_across(const xf_rows *const x[2], xf_panel *p, const xf_pairs *pairs,
                               double (*sums)[LANES])
{
    const pair_factors f = lanes_of(pairs);
    real value[LANES];
    memset(sums, 0, PAIR_SUMS * sizeof *sums);
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j0), used = n < CHAINS ? n : CHAINS;
        vec s[CHAINS][PAIR_SUMS], chain[CHAINS];
        read_pairs(x, j0, n, p, false);
        for (ptrdiff_t j = 0; j < n; j++) {
            const ptrdiff_t at = j * LANES;
            for (int k = 0; k < PAIR_SUMS && j < CHAINS; k++)
                s[j][k] = v_zero();
            add_terms(s[j % CHAINS], v_load((real *)p->work->tile[0] + at),
                      v_load((real *)p->work->tile[1] + at), &f);
        }
        for (int k = 0; k < PAIR_SUMS; k++) {
            for (ptrdiff_t c = 0; c < used; c++)
                chain[c] = s[c][k];
            v_store(value, fold_chains(chain, n));
            for (int i = 0; i < LANES; i++)
                sums[k][i] += value[i];
        }
    }
}

/* What the sums of pair i say: false where they are to be taken again with another offset. */
static inline bool end_pair(xf_pairs *pairs, int i, const double *sums)
{
    const double rest = beyond_log1p(sums[FORWARD_REST]);
    pairs->offset[i] -= sums[FORWARD_REST];
    pairs->divergence[XF_FORWARD][i] = not_negative(sums[FORWARD] - rest);
    pairs->divergence[XF_REVERSE][i] =
        not_negative(sums[REVERSE] - beyond_log1p(sums[REVERSE_REST]));
    pairs->divergence[XF_SYMMETRIC][i] = not_negative(sums[SYMMETRIC]);
    return !(rest > TOO_MUCH * sums[FORWARD]);
}
#define ROUNDS 3 /* at most */

static void compare(const xf_rows *a, const xf_rows *b, xf_panel *p, xf_pairs *pairs)
{
    const xf_rows *const x[2] = {a, b};
    const vec scale = v_set1((real)pairs->scale), one = v_set1(1);
    const bool across = pairs_across(a, b, p);
    real maximum[2][LANES] = {{0}}, sum[2][LANES] = {{0}}, log[2][LANES], inverse[LANES];
    ptrdiff_t first[2][LANES] = {{0}};
    if (across)
        statistics_across(x, p, scale, maximum, sum, first);
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < p->rows && !across; i++)
            scaled_statistics(x[k], i, p->classes, scale, p->work->block[k], &maximum[k][i],
                              &sum[k][i], &first[k][i]);
        v_store(log[k], v_log1p(v_load(sum[k])));
        v_store(inverse, v_div(one, v_add(one, v_load(sum[k]))));
        for (int i = 0; i < LANES; i++) {
            pairs->maximum[k][i] = maximum[k][i];
            pairs->inverse[k][i] = inverse[i];
        }
    }
    for (int i = 0; i < LANES; i++) {
        const ptrdiff_t at = first[0][i] * b->step;
        real shift = maximum[0][i] - read_one(b->row[i] + at, b->type);
        shift = shift - shift == 0 ? shift : 0;
        /* What is far from 0 is left to the shift, whose rounding is put back. */
        const double apart = (double)maximum[0][i] - (double)maximum[1][i],
                     logs = (double)log[0][i] - (double)log[1][i],
                     offset = logs + (apart - (double)shift) * pairs->scale;
        const real moved = (real)((double)shift + offset / pairs->scale);
        shift = moved - moved == 0 ? moved : shift;
        pairs->shift[i] = shift;
        pairs->offset[i] = logs + (apart - (double)shift) * pairs->scale;
        pairs->same[i] = first[0][i] == first[1][i];
    }
    double sums[PAIR_SUMS], of_all[PAIR_SUMS][LANES];
    bool done[LANES] = {false}, all = !across;
    for (int round = 0; !all && round < ROUNDS; round++) {
        sums_across(x, p, pairs, of_all);
        all = true;
        for (int i = 0; i < p->rows; i++) {
            for (int k = 0; k < PAIR_SUMS; k++)
                sums[k] = of_all[k][i];
            done[i] = done[i] || end_pair(pairs, i, sums);
            all = all && done[i];
        }
    }
    for (int i = 0; i < p->rows && !across; i++)
        for (int round = 0; !done[i] && round < ROUNDS; round++) {
            pair_sums(x, p, pairs, i, sums);
            done[i] = end_pair(pairs, i, sums);
        }
    compare_labels(x, p, pairs, log);
}

/* The gradient of a divergence with respect to b, without the factor 1 / temperature:
     KL(p, q)  q - p = p expm1(-u)    KL(q, p)  q (-u - KL(q, p))
     JS        q (log(q / m) - sum q log(q / m)) / 2 */
INLINE vec pair_gradient(xf_towards what, const pair_terms *t, vec mean)
{
    if (what == XF_FORWARD)
        return v_select(t->near, v_mul(t->p, t->down), v_sub(t->q, t->p));
    if (what == XF_REVERSE)
        return times(t->q, v_neg(v_add(t->u, mean)));
    return times(v_mul(v_set1((real)0.5), t->q), v_sub(log_to_middle(t), mean));
}

INLINE void pair_gradient_block(xf_towards what, const real *a, const real *b, ptrdiff_t n,
                                const pair_factors *f, vec mean, vec by, real *to)
{
    const vec least = v_set1(-INFINITY);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const pair_terms t =
            terms_of(load_to(a + j, n - j, least), load_to(b + j, n - j, least), f);
        store_to(to + j, v_mul(pair_gradient(what, &t, mean), by), n - j);
    }
}

/* sum q log(q / m) over a block. */
INLINE vec middle_term(vec a, vec b, const void *k)
{
    const pair_terms t = terms_of(a, b, k);
    return times(t.q, log_to_middle(&t));
}
SUM_BLOCK(sum_middle, middle_term, -INFINITY, -INFINITY)
SUM_TILE(tile_middle, middle_term)

INLINE void pair_gradient_tile(xf_towards what, const real *a, real *b, ptrdiff_t n,
                               const pair_factors *f, vec mean, mask counts, vec by)
{
    for (ptrdiff_t j = 0; j < n * LANES; j += LANES) {
        const pair_terms t = terms_of(v_load(a + j), v_load(b + j), f);
        v_store(b + j, v_keep(counts, v_mul(pair_gradient(what, &t, mean), by)));
    }
}

static inline void gradient_across(xf_towards what, const xf_rows *const x[2], xf_panel *p,
                                   const xf_pairs *pairs, const xf_out *out)
{
    const pair_factors f = lanes_of(pairs);
    real *const a = (real *)p->work->tile[0], *const b = (real *)p->work->tile[1];
    real weight[LANES], by[LANES], mean[LANES], value[LANES];
    double total[LANES] = {0};
    for (ptrdiff_t j = 0; what == XF_SYMMETRIC && j < p->classes; j += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j);
        read_pairs(x, j, n, p, true);
        v_store(value, tile_middle(a, b, n, &f));
        for (int i = 0; i < LANES; i++)
            total[i] += value[i];
    }
    for (int i = 0; i < LANES; i++) {
        weight[i] = (real)p->weight[i];
        by[i] = (real)(p->weight[i] * p->gradient_scale);
        mean[i] = (real)(what == XF_REVERSE ? pairs->divergence[XF_REVERSE][i] : total[i]);
    }
    const mask counts = v_le(v_zero(), v_load(weight));
    for (ptrdiff_t j = 0; j < p->classes; j += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j);
        read_pairs(x, j, n, p, true);
        if (what == XF_FORWARD)
            pair_gradient_tile(XF_FORWARD, a, b, n, &f, v_load(mean), counts, v_load(by));
        else if (what == XF_REVERSE)
            pair_gradient_tile(XF_REVERSE, a, b, n, &f, v_load(mean), counts, v_load(by));
        else
            pair_gradient_tile(XF_SYMMETRIC, a, b, n, &f, v_load(mean), counts, v_load(by));
        write_tile(out, p->rows, j, n, b, (char *)p->work->tile[2]);
    }
}

static void compare_gradient(xf_towards what, const xf_rows *a, const xf_rows *b, xf_panel *p,
                             const xf_pairs *pairs, const xf_out *out)
{
    if (pairs_across(a, b, p)) {
        const xf_rows *const x[2] = {a, b};
        gradient_across(what, x, p, pairs, out);
        return;
    }
    for (int i = 0; i < p->rows; i++) {
        if (p->weight[i] < 0) {
            clear(out, i, p->classes);
            continue;
        }
        const pair_factors f = pair_of(pairs, i);
        double mean = what == XF_REVERSE ? pairs->divergence[XF_REVERSE][i] : 0;
        for (ptrdiff_t j = 0; what == XF_SYMMETRIC && j < p->classes; j += BLOCK) {
            const ptrdiff_t n = block_length(p->classes, j);
            mean += sum_middle(fetch(a, i, j, n, p->work->block[0]),
                               fetch(b, i, j, n, p->work->block[1]), n, &f);
        }
        const vec by = v_set1((real)(p->weight[i] * p->gradient_scale)), m = v_set1((real)mean);
        for (ptrdiff_t j = 0; j < p->classes; j += BLOCK) {
            const ptrdiff_t n = block_length(p->classes, j);
            const real *c = fetch(a, i, j, n, p->work->block[0]),
                       *d = fetch(b, i, j, n, p->work->block[1]);
            real *to = place(out, i, j, p->work->block[1]);
            if (what == XF_FORWARD)
                pair_gradient_block(XF_FORWARD, c, d, n, &f, m, by, to);
            else if (what == XF_REVERSE)
                pair_gradient_block(XF_REVERSE, c, d, n, &f, m, by, to);
            else
                pair_gradient_block(XF_SYMMETRIC, c, d, n, &f, m, by, to);
            put(out, i, j, n, to);
        }
    }
}
