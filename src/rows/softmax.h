/* Softmax rows from their statistics (statistics.h): losses and gradients, log-sum-exp, and
   softmax itself.

     loss = T log1p(s') + D + zeta lse^2,  lse = m + log1p(s')
     g_j = (T exp(d_j) - t_j - t_j s' + 2 zeta lse exp(d_j)) / (1 + s')

   in which nothing cancels where a confident row makes exp(d_j) = 1. */

/* log1p(s) is s below this. */
#if XF_BITS == 32
#define SMALL_SUM 0x1p-30f
#else
#define SMALL_SUM 0x1p-60
#endif

/* s' and log1p(s') of each row, nan where the maximum is not finite. */
INLINE vec finish_log(xf_panel *p)
{
    const vec m = v_load(state(p, MAXIMUM)), held = v_add(v_load(state(p, HELD)), v_sub(m, m));
    const vec s = v_mul(held, v_set1(EXP_UNIT)), log = v_log1p(s);
    v_store(state(p, HELD), held);
    v_store(state(p, SUM), s);
    v_store(state(p, LOG), log);
    return log;
}

/* Of a row whose s' is so small that log1p(s') is s': what it is multiplied with may lift it out of
   the subnormal numbers of REAL, so that is done in double. */
static inline void finish_small(xf_panel *p, int i, double mass, double dot, double pull,
                                double share)
{
    const double s = (double)state(p, HELD)[i] * (double)EXP_UNIT;
    const double scaled = p->weight[i] * p->gradient_scale;
    const real x = state(p, LABEL_LOGIT)[i], m = state(p, MAXIMUM)[i];
    const double e = x < m ? exp_of_fall(x, m) : 1;
    p->loss[i] = (mass * s + dot) * p->weight[i];
    state(p, OWN_GRADIENT)[i] = (real)(((mass * e - share) - share * s + pull * e) * scaled);
}

/* The losses of a panel's rows, each times its weight; what is left out counts 0, whatever it is. */
static inline void weigh(vec loss, xf_panel *p)
{
    real value[LANES];
    v_store(value, loss);
    for (int i = 0; i < LANES; i++)
        p->loss[i] = p->weight[i] < 0 ? 0 : value[i] * p->weight[i];
}

/* The losses of a panel from its statistics, and what its gradient needs. */
static inline void finish(const xf_target *t, xf_panel *p)
{
    real own[LANES], share[LANES], scaled[LANES];
    for (int i = 0; i < LANES; i++) {
        own[i] = share[i] = (real)p->own[i];
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
    vec pull = v_zero();
    if (p->z_loss != 0) {
        dot = v_fma(v_mul(zeta, lse), lse, dot);
        pull = v_mul(v_add(zeta, zeta), lse);
    }
    weigh(v_fma(mass, log, dot), p);
    const vec s = v_load(state(p, SUM)), taken = v_load(share);
    if (p->wants_gradient) {
        const vec inverse = v_div(v_load(scaled), v_add(v_set1(1), s));
        vec e = v_exp(v_sub(x, m)), g = v_fma(mass, e, v_neg(taken));
        g = v_fma(pull, e, v_fma(v_neg(taken), s, g));
        v_store(state(p, OWN_GRADIENT), v_mul(g, inverse));
        v_store(state(p, MASS), mass);
        v_store(state(p, ZETA), pull);
        v_store(state(p, INVERSE), inverse);
        v_store(state(p, SCALE), v_mul(v_add(mass, pull), inverse));
    }
    const real least = EXP_ONE * SMALL_SUM;
    if (v_all(v_le(v_set1(least), v_load(state(p, HELD)))))
        return;
    real masses[LANES], dots[LANES], pulls[LANES];
    v_store(masses, mass);
    v_store(dots, dot);
    v_store(pulls, pull);
    for (int i = 0; i < p->rows; i++)
        if (state(p, HELD)[i] < least && p->weight[i] > 0)
            finish_small(p, i, masses[i], dots[i], pulls[i], share[i]);
}

static void softmax_loss(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out,
                         int panels)
{
    t = has_target(t) ? t : NULL;
    statistics(x, t, p, out, panels, true);
    for (int k = 0; k < panels; k++)
        finish(t, p + k);
}

/* The factors of a gradient: of one row in every lane, or of a row in each. */
typedef struct {
    vec maximum, sum, mass, zeta, inverse, scale, log;
    vec up, down; /* what a held exponential is multiplied by: see set_scale */
    bool twice;   /* whether down is not 1 */
    row_exp exp;
} factors;

/* Field by field: what clears the rest of a large struct waits for the lines on their way past the
   caches. */
#define SET_FACTORS(of)      \
    f.maximum = of(MAXIMUM); \
    f.sum = of(SUM);         \
    f.mass = of(MASS);       \
    f.zeta = of(ZETA);       \
    f.inverse = of(INVERSE); \
    f.scale = of(SCALE);     \
    f.log = of(LOG)
static inline factors row_factors(xf_panel *p, int i)
{
    factors f;
#define ALL_LANES(which) v_set1(state(p, which)[i])
    SET_FACTORS(ALL_LANES);
    return f;
}
static inline factors tile_factors(xf_panel *p)
{
    factors f;
#define EACH_LANE(which) v_load(state(p, which))
    SET_FACTORS(EACH_LANE);
    return f;
}

/* What is written of a row: x the logit or its held exponential, t the target. */
typedef enum { WRITE_SCALED, WRITE_GRADIENT, WRITE_LOGARITHM } writing;

/* What is held is multiplied by up, then by down, whose product is a factor a times 2^-EXP_SCALE. down is
   1 but for so small an a that the product would leave the range of REAL before the result does. */
#define SMALL_SCALE (EXP_UNIT * 16)
#define LIFT (EXP_ONE / 4)
#define LOWER (EXP_UNIT * EXP_UNIT * 4)
INLINE void set_scale(factors *f, vec a)
{
    const mask small = v_le(v_max(a, v_neg(a)), v_set1(SMALL_SCALE));
    f->up = v_mul(a, v_select(small, v_set1(LIFT), v_set1(EXP_UNIT)));
    f->down = v_select(small, v_set1(LOWER), v_set1(1));
    f->twice = !v_all(v_eq(f->down, v_set1(1)));
}

/* The same for row i where what is held is of x - top: its factor may lie below the range of REAL. */
static inline void fall(writing what, xf_panel *p, int i, real top, real *up, real *down)
{
    double a = exp_of_fall(finite_maximum(top), finite_maximum(state(p, MAXIMUM)[i]));
    if (what == WRITE_SCALED)
        a *= (double)state(p, SCALE)[i];
    const bool small = -(double)SMALL_SCALE <= a && a <= (double)SMALL_SCALE;
    *up = (real)(a * (double)(small ? LIFT : EXP_UNIT));
    *down = small ? LOWER : 1;
}

INLINE vec written(writing what, bool kept, bool across, bool general, vec x, vec t,
                   const factors *f)
{
    if (what == WRITE_LOGARITHM)
        return v_sub(v_sub(x, f->maximum), f->log);
    vec e, z;
    if (kept) {
        e = x;
    } else {
        v_row_exp(&f->exp, across, general, &x, &e, &z, 1);
        e = v_select(v_eq(x, f->exp.maximum), v_set1(EXP_ONE), e);
    }
    e = v_mul(e, f->up);
    if (f->twice)
        e = v_mul(e, f->down);
    if (what == WRITE_SCALED)
        return e;
    vec g = v_fma(v_neg(t), f->sum, v_fma(f->mass, e, v_neg(t)));
    return v_mul(v_fma(f->zeta, e, g), f->inverse);
}

INLINE void write_part(writing what, bool kept, const real *x, const real *t, ptrdiff_t n,
                       const factors *f, real *to)
{
    const vec c = t ? v_load_part(t, n) : v_zero();
    v_store_part(to, written(what, kept, false, true, v_load_part(x, n), c, f), n);
}

/* From the first whole line on, since a store across two costs that of several. */
INLINE void write_as(writing what, bool kept, bool asks, const real *x, const real *t, ptrdiff_t n,
                     const factors *f, real *to)
{
    ptrdiff_t j = (ptrdiff_t)(-(uintptr_t)to % 64 / sizeof(real));
    j = j < n ? j : n;
    if (j > 0)
        write_part(what, kept, x, t, j, f, to);
    for (; j + LANES <= n; j += LANES) {
        if (asks)
            prefetch_to_write(to + j, AHEAD);
        v_store(to + j,
                written(what, kept, false, true, v_load(x + j), t ? v_load(t + j) : v_zero(), f));
    }
    if (j < n)
        write_part(what, kept, x + j, t ? t + j : NULL, n - j, f, to + j);
}

/* Row i, lanes along the classes. */
INLINE void write_along(writing what, const xf_rows *x, const xf_target *t, xf_panel *p, int i,
                        const xf_out *out, const real *own)
{
    const real *kept = p->kept == XF_KEPT_OUT    ? (const real *)out->row[i]
                       : p->kept == XF_KEPT_ROWS ? (real *)p->work->tile + i * p->classes
                                                 : NULL;
    const bool exponentials = what != WRITE_LOGARITHM, several = p->classes > SEGMENT;
    factors f = row_factors(p, i);
    set_scale(&f, what == WRITE_SCALED ? f.scale : v_set1(1));
    real m = several ? -INFINITY : state(p, MAXIMUM)[i];
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j0);
        if (exponentials && j0 % SEGMENT == 0) {
            if (kept && several)
                m = ((const real *)p->top)[j0 / SEGMENT];
            for (ptrdiff_t j = j0; !kept && several && j < p->classes && j < j0 + SEGMENT;
                 j += BLOCK) {
                const ptrdiff_t length = block_length(p->classes, j);
                real b = block_maximum(fetch(x, i, j, length, p->work->block[0]), length);
                m = b > m ? b : m;
            }
            if (!kept)
                f.exp = row_exp_of(v_set1(finite_maximum(m)), false);
            if (several) {
                real up, down;
                fall(what, p, i, m, &up, &down);
                f.up = v_set1(up);
                f.down = v_set1(down);
                f.twice = true;
            }
        }
        const real *c = t ? fetch_target(t, i, j0, n, p->work->block[1]) : NULL;
        const real *from = kept ? kept + j0 : fetch(x, i, j0, n, p->work->block[0]);
        real *to = place(out, i, j0, p->work->block[0]);
        if (kept)
            write_as(what, true, false, from, c, n, &f, to);
        else
            write_as(what, false, p->asks, from, c, n, &f, to);
        put(out, i, j0, n, to);
    }
    if (own && p->label[i] >= 0)
        write_one(out->row[i] + p->label[i] * out->step, out->type, own[i]);
}

/* What is written in the place of the label of each row of a tile, whose class is counted from the
   tile's first; vectors, since one number among them would have to reach the cache before they can be
   read again. */
typedef struct {
    vec label, value;
} owned;

INLINE owned owned_from(const xf_panel *p, ptrdiff_t first)
{
    real label[LANES];
    for (int i = 0; i < LANES; i++)
        label[i] = (real)(p->label[i] - first);
    return (owned){v_load(label), v_load((const real *)p->state[OWN_GRADIENT])};
}

/* Over a tile, lanes across the rows. */
INLINE void write_tile_as(writing what, bool kept, bool general, real *x, const real *t,
                          ptrdiff_t n, const factors *f, const owned *own)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        const vec c = t ? v_load(t + j * LANES) : v_zero();
        vec a = written(what, kept, true, general, v_load(x + j * LANES), c, f);
        if (own)
            a = v_select(v_eq(own->label, v_set1((real)j)), own->value, a);
        v_store(x + j * LANES, a);
    }
}

/* Classes [j0, j0 + n) of panel k, which are in its band. */
INLINE void write_band(writing what, bool kept, bool general, const xf_target *t, xf_panel *panels,
                       int k, ptrdiff_t j0, ptrdiff_t n, const factors *f, bool own)
{
    const xf_panel *const p = panels + k;
    real *const band = p->band, *const target = (real *)p->work->tile[1];
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        const ptrdiff_t length = block_length(n, j), first = j0 + j;
        real *const tile = band + j * LANES;
        if (t)
            read_target(t, k, first, length, target);
        const real *c = t ? target : NULL;
        owned at_label;
        if (own)
            at_label = owned_from(p, first);
        const owned *o = own ? &at_label : NULL;
        if (kept)
            write_tile_as(what, true, true, tile, c, length, f, o);
        else if (general)
            write_tile_as(what, false, true, tile, c, length, f, o);
        else
            write_tile_as(what, false, false, tile, c, length, f, o);
    }
}

/* All rows, lanes across them; own: what is written at each row's label, is in the panel's state. */
INLINE void write_across(writing what, const xf_rows *x, const xf_target *t, xf_panel *p,
                         const xf_out *out, int panels, bool own)
{
    const bool kept = p->kept == XF_KEPT_BAND, exponentials = what != WRITE_LOGARITHM,
               several = p->classes > SEGMENT;
    vec top[XF_TOGETHER], most[XF_TOGETHER], least[XF_TOGETHER];
    for (int k = 0; k < panels; k++)
        top[k] = several ? v_set1(-INFINITY) : v_load(state(p + k, MAXIMUM));
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += SEGMENT) {
        const ptrdiff_t n = segment_length(p->classes, j0);
        if (!kept)
            read_segment(x, p, panels, j0, n, exponentials ? least : NULL, most);
        for (int k = 0; k < panels; k++) {
            factors f = tile_factors(p + k);
            bool general = true;
            set_scale(&f, what == WRITE_SCALED ? f.scale : v_set1(1));
            if (exponentials && !kept) {
                top[k] = v_max(most[k], top[k]);
                const vec finite = v_max(v_set1(-REAL_MAX), top[k]);
                f.exp = row_exp_of(finite, true);
                general = is_tile_general(finite, least[k]);
            }
            if (exponentials && several) {
                real m[LANES], up[LANES], down[LANES];
                v_store(m, top[k]);
                for (int i = 0; i < LANES; i++)
                    fall(what, p + k, i, m[i], &up[i], &down[i]);
                f.up = v_load(up);
                f.down = v_load(down);
                f.twice = true;
            }
            write_band(what, kept, general, t, p, k, j0, n, &f, own);
        }
        write_bands(out, p, panels, j0, n);
    }
}

INLINE void write_rows(writing what, const xf_rows *x, const xf_target *t, xf_panel *p,
                       const xf_out *out, int panels, bool own)
{
    if (p->kept == XF_KEPT_BAND || !packed(x->type, x->step) || !packed(out->type, out->step)) {
        write_across(what, x, t, p, out, panels, own);
    } else {
        for (int i = 0; i < p->rows; i++)
            write_along(what, x, t, p, i, out, own ? state(p, OWN_GRADIENT) : NULL);
    }
}

static void softmax_gradient(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out,
                             int panels)
{
    if (has_target(t))
        write_rows(WRITE_GRADIENT, x, t, p, out, panels, true);
    else
        write_rows(WRITE_SCALED, x, NULL, p, out, panels, true);
    for (int k = 0; k < panels; k++)
        for (int i = 0; i < p[k].rows; i++)
            if (!(p[k].weight[i] > 0))
                clear(out + k, i, p->classes);
}

static void logsumexp(const xf_rows *x, xf_panel *p, const xf_out *out, int panels)
{
    statistics(x, NULL, p, out, panels, false);
    for (int k = 0; k < panels; k++) {
        vec m = v_load(state(p + k, MAXIMUM)), s = v_load(state(p + k, HELD));
        vec finite = v_add(m, finish_log(p + k)), lse = v_select(v_eq(s, s), m, s);
        real value[LANES];
        v_store(value, v_select(v_eq(v_sub(m, m), v_zero()), finite, lse));
        for (int i = 0; i < p[k].rows; i++)
            p[k].lse[i] = value[i];
    }
}

static void softmax(const xf_rows *x, xf_panel *p, const xf_out *out, int panels, bool logarithm)
{
    p->wants_gradient = !logarithm; /* the exponentials are worth keeping */
    logsumexp(x, p, logarithm ? NULL : out, panels);
    for (int k = 0; k < panels; k++)
        v_store(state(p + k, SCALE), v_div(v_set1(1), v_add(v_set1(1), v_load(state(p + k, SUM)))));
    if (logarithm)
        write_rows(WRITE_LOGARITHM, x, NULL, p, out, panels, false);
    else
        write_rows(WRITE_SCALED, x, NULL, p, out, panels, false);
}
