/* Softmax rows from their statistics (statistics.h): losses and gradients, log-sum-exp, and
   softmax itself.

     loss = T log1p(s') + D + zeta lse^2,  lse = m + log1p(s')
     g_j = (T exp(d_j) - t_j - t_j s' + 2 zeta lse exp(d_j)) / (1 + s')

   in which nothing cancels where a confident row makes exp(d_j) = 1. */

/* log1p(s') of each row, and s' made nan where the maximum is not finite. */
INLINE vec finish_log(xf_panel *p)
{
    vec m = v_load(state(p, MAXIMUM)), s = v_add(v_load(state(p, SUM)), v_sub(m, m));
    vec log = v_log1p(s);
    v_store(state(p, SUM), s);
    v_store(state(p, LOG), log);
    return log;
}

/* The losses of a panel from its statistics, and what its gradient needs. */
static inline void finish(const xf_target *t, xf_panel *p)
{
    real own[LANES], share[LANES], weight[LANES], scaled[LANES], value[LANES];
    for (int i = 0; i < LANES; i++) {
        own[i] = share[i] = (real)p->own[i];
        weight[i] = (real)p->weight[i];
        scaled[i] = (real)(p->weight[i] * p->gradient_scale);
    }
    for (int i = 0; t && i < p->rows; i++) {
        ptrdiff_t y = p->label[i];
        real w = t->class_weight && y >= 0 ? ((const real *)t->class_weight)[y] : 1;
        share[i] = own[i] + (real)t->offset * w;
    }
    const vec m = v_load(state(p, MAXIMUM)), x = v_load(state(p, LABEL_LOGIT)), log = finish_log(p);
    const vec label = v_load(own), lse = v_add(m, log), zeta = v_set1((real)p->z_loss);
    vec mass = label, dot = v_drop(v_eq(label, v_zero()), v_mul(label, v_sub(m, x)));
    if (t) {
        mass = v_add(v_load(state(p, MASS)), label);
        dot = v_add(v_load(state(p, DOT)), dot);
    }
    vec loss = v_fma(mass, log, dot), pull = v_zero();
    if (p->z_loss != 0) {
        loss = v_fma(v_mul(zeta, lse), lse, loss);
        pull = v_mul(v_add(zeta, zeta), lse);
    }
    v_store(value, v_drop(v_lt(v_load(weight), v_zero()), loss));
    for (int i = 0; i < LANES; i++)
        p->loss[i] = value[i] * p->weight[i] + 0.0; /* an ignored row's -0 becomes 0 */
    if (!p->wants_gradient)
        return;
    const vec s = v_load(state(p, SUM)), taken = v_load(share);
    vec inverse = v_div(v_load(scaled), v_add(v_set1(1), s));
    vec e = v_exp(v_sub(x, m)), g = v_fma(mass, e, v_neg(taken));
    g = v_fma(pull, e, v_fma(v_neg(taken), s, g));
    v_store(state(p, OWN_GRADIENT), v_mul(g, inverse));
    v_store(state(p, MASS), mass);
    v_store(state(p, ZETA), pull);
    v_store(state(p, INVERSE), inverse);
    v_store(state(p, SCALE), v_mul(v_add(mass, pull), inverse));
}

static void softmax_loss(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out)
{
    t = has_target(t) ? t : NULL;
    statistics(x, t, p, out, true);
    finish(t, p);
}

/* The factors of a gradient: of one row in every lane, or of a row in each. */
typedef struct {
    vec maximum, sum, mass, zeta, inverse, scale, log;
    vec top, rise; /* the exponentials are those of x - top, to be multiplied with rise */
} factors;

#define FACTORS(f) \
    {f(MAXIMUM), f(SUM), f(MASS), f(ZETA), f(INVERSE), f(SCALE), f(LOG), f(MAXIMUM), v_set1(1)}
static inline factors row_factors(xf_panel *p, int i)
{
#define ALL_LANES(which) v_set1(state(p, which)[i])
    return (factors)FACTORS(ALL_LANES);
}
static inline factors tile_factors(xf_panel *p)
{
#define EACH_LANE(which) v_load(state(p, which))
    return (factors)FACTORS(EACH_LANE);
}

/* For a segment of a row of several: the maximum so far was `top`. */
INLINE void at_segment(factors *f, vec top)
{
    const vec least = v_set1(-REAL_MAX);
    f->top = v_max(top, least);
    f->rise = v_exp(v_sub(f->top, v_max(f->maximum, least)));
}

/* What is written of a row: x the logit or its exponential, t the target. */
typedef enum { WRITE_SCALED, WRITE_GRADIENT, WRITE_LOGARITHM } writing;

INLINE vec written(writing what, bool kept, bool several, vec x, vec t, const factors *f)
{
    if (what == WRITE_LOGARITHM)
        return v_sub(v_sub(x, f->maximum), f->log);
    vec e = kept ? x : v_exp(v_sub(x, f->top));
    if (several)
        e = v_mul(e, f->rise);
    if (what == WRITE_SCALED)
        return v_mul(e, f->scale);
    vec g = v_fma(v_neg(t), f->sum, v_fma(f->mass, e, v_neg(t)));
    return v_mul(v_fma(f->zeta, e, g), f->inverse);
}

/* kept: x is the exponentials; several: the row has several segments. */
INLINE void write_as(writing what, bool kept, bool several, const real *x, const real *t,
                     ptrdiff_t n, const factors *f, real *to)
{
    ptrdiff_t j = 0;
    for (; j + LANES <= n; j += LANES)
        v_store(to + j,
                written(what, kept, several, v_load(x + j), t ? v_load(t + j) : v_zero(), f));
    if (j < n) {
        vec c = t ? v_load_part(t + j, n - j) : v_zero();
        v_store_part(to + j, written(what, kept, several, v_load_part(x + j, n - j), c, f), n - j);
    }
}

static inline void write_block(writing what, bool kept, bool several, const real *x, const real *t,
                               ptrdiff_t n, const factors *f, real *to)
{
    if (kept && several)
        write_as(what, true, true, x, t, n, f, to);
    else if (kept)
        write_as(what, true, false, x, t, n, f, to);
    else if (several)
        write_as(what, false, true, x, t, n, f, to);
    else
        write_as(what, false, false, x, t, n, f, to);
}

/* Row i, lanes along the classes. */
static inline void write_along(writing what, const xf_rows *x, const xf_target *t, xf_panel *p,
                               int i, const xf_out *out, const real *own)
{
    const real *kept = p->kept == XF_KEPT_OUT    ? (const real *)out->row[i]
                       : p->kept == XF_KEPT_ROWS ? (real *)p->tile + i * p->classes
                                                 : NULL;
    const bool several = p->classes > SEGMENT;
    factors f = row_factors(p, i);
    real m = -INFINITY;
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j0);
        if (what != WRITE_LOGARITHM && several && j0 % SEGMENT == 0) {
            if (kept)
                m = ((const real *)p->top)[j0 / SEGMENT];
            for (ptrdiff_t j = j0; !kept && j < p->classes && j < j0 + SEGMENT; j += BLOCK) {
                const ptrdiff_t length = block_length(p->classes, j);
                real b = block_maximum(fetch(x, i, j, length, p->block[0]), length);
                m = b > m ? b : m;
            }
            at_segment(&f, v_set1(m));
        }
        const real *c = t ? fetch_target(t, i, j0, n, p->block[1]) : NULL;
        const real *from = kept ? kept + j0 : fetch(x, i, j0, n, p->block[0]);
        real *to = place(out, i, j0, p->block[0]);
        write_block(what, kept != NULL, several, from, c, n, &f, to);
        put(out, i, j0, n, to);
    }
    if (own && p->label[i] >= 0)
        write_one(out->row[i] + p->label[i] * out->step, out->type, own[i]);
}

/* All rows, lanes across them. */
static inline void write_across(writing what, const xf_rows *x, const xf_target *t, xf_panel *p,
                                const xf_out *out, const real *own)
{
    const bool kept = p->kept == XF_KEPT_TILE, several = p->classes > SEGMENT;
    real *tile = (real *)p->tile[0], *target = (real *)p->tile[1];
    factors f = tile_factors(p);
    vec top = v_set1(-INFINITY);
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j0);
        if (what != WRITE_LOGARITHM && several && j0 % SEGMENT == 0) {
            for (ptrdiff_t j = j0; j < p->classes && j < j0 + SEGMENT; j += BLOCK) {
                const ptrdiff_t length = block_length(p->classes, j);
                read_tile(x, j, length, tile);
                top = v_max(tile_maximum(tile, length), top);
            }
            at_segment(&f, top);
        }
        if (!kept) {
            read_tile(x, j0, n, tile);
            if (t)
                read_target(t, j0, n, target);
        }
        for (ptrdiff_t j = 0; j < n; j++) {
            vec a = v_load(tile + j * LANES), c = t ? v_load(target + j * LANES) : v_zero();
            v_store(tile + j * LANES, written(what, kept, several, a, c, &f));
        }
        for (int i = 0; own && i < p->rows; i++)
            if (p->label[i] >= j0 && p->label[i] < j0 + n)
                tile[(p->label[i] - j0) * LANES + i] = own[i];
        write_tile(out, p->rows, j0, n, tile, (char *)p->tile[2]);
    }
}

/* own: what is written at each row's label, or NULL. */
static inline void write_rows(writing what, const xf_rows *x, const xf_target *t, xf_panel *p,
                              const xf_out *out, const real *own)
{
    if (p->kept == XF_KEPT_TILE || !packed(x->type, x->step) || !packed(out->type, out->step)) {
        write_across(what, x, t, p, out, own);
    } else {
        for (int i = 0; i < p->rows; i++)
            write_along(what, x, t, p, i, out, own);
    }
}

static void softmax_gradient(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out)
{
    const real *own = state(p, OWN_GRADIENT);
    if (has_target(t))
        write_rows(WRITE_GRADIENT, x, t, p, out, own);
    else
        write_rows(WRITE_SCALED, x, NULL, p, out, own);
    for (int i = 0; i < p->rows; i++)
        if (p->weight[i] < 0)
            clear(out, i, p->classes);
}

static void logsumexp(const xf_rows *x, xf_panel *p, const xf_out *out)
{
    statistics(x, NULL, p, out, false);
    vec m = v_load(state(p, MAXIMUM)), s = v_load(state(p, SUM));
    vec finite = v_add(m, finish_log(p)), lse = v_select(v_eq(s, s), m, s);
    real value[LANES];
    v_store(value, v_select(v_eq(v_sub(m, m), v_zero()), finite, lse));
    for (int i = 0; i < p->rows; i++)
        p->lse[i] = value[i];
}

static void softmax(const xf_rows *x, xf_panel *p, const xf_out *out, bool logarithm)
{
    p->wants_gradient = !logarithm; /* the exponentials are worth keeping */
    logsumexp(x, p, logarithm ? NULL : out);
    v_store(state(p, SCALE), v_div(v_set1(1), v_add(v_set1(1), v_load(state(p, SUM)))));
    if (logarithm)
        write_rows(WRITE_LOGARITHM, x, NULL, p, out, NULL);
    else
        write_rows(WRITE_SCALED, x, NULL, p, out, NULL);
}
