/* Softmax rows: statistics and gradient, from logits.

   Of a row x with d_j = x_j - m:  s' = sum exp(d_j) without the maximum's own term,  T = sum t_j,
   D = -sum t_j d_j  give  loss = T log1p(s') + D + zeta lse^2  with  lse = m + log1p(s')  and
   g_j = (T exp(d_j) - t_j - t_j s' + 2 zeta lse exp(d_j)) / (1 + s'),  in which nothing cancels where
   a confident row makes exp(d_j) = 1.

   The maximum is that of the segments so far: a segment that raises it holds out all terms equal to
   it, and the sum before is rescaled. Rows of one block stay in the compute type, those of several
   are summed in double. */

/* What a panel keeps of each row between its passes, each a vector over the rows. */
enum { LABEL_LOGIT, MAXIMUM, SUM, MASS, DOT, LOG, ZETA, INVERSE, SCALE, OWN_GRADIENT };
static inline real *state(xf_panel *p, int which) { return (real *)p->state[which]; }

/* Classes that are read for their maximum before they are summed: 16 kB, half of an L1 cache. */
#define SEGMENT (8 * BLOCK)
/* Elements that the tiles of a panel hold. */
#define TILES (2 * BLOCK * XF_PANEL)
/* Up to so many classes a panel is faster with its lanes across the rows. */
#define TILE_CLASSES 64

/* The sums of one row over its blocks so far. */
typedef struct {
    real maximum;
    double sum, held, mass, dot; /* held: the terms exp(0) that sum leaves out */
} running;

static inline real finite_maximum(real m) { return m < -REAL_MAX ? -REAL_MAX : m; }

static inline void raise_maximum(running *a, real to)
{
    double rise = (double)to - (double)finite_maximum(a->maximum);
    a->sum = (a->sum + a->held) * exp_rescale(-rise);
    if (a->mass != 0)
        a->dot += a->mass * rise;
    a->maximum = to;
}

static inline real block_maximum(const real *x, ptrdiff_t n)
{
    const vec least = v_set1(-INFINITY);
    vec a = least, b = least;
    for (ptrdiff_t j = 0; j < n; j += CHAINS) {
        a = v_max(load_to(x + j, n - j, least), a);
        if (n - j > LANES)
            b = v_max(load_to(x + j + LANES, n - j - LANES, least), b);
    }
    return v_fold_max(v_max(a, b));
}

/* The accumulators of the two sums below, and one step of each for chain c. */
typedef struct {
    vec sum[2], equal, top;
} chains;

INLINE void step_held(chains *s, int c, vec x, vec max, real *keep, ptrdiff_t n)
{
    vec e = v_exp(v_sub(x, max));
    mask held = v_eq(x, max);
    if (keep)
        store_to(keep, e, n);
    s->equal = v_count(s->equal, held);
    s->sum[c] = v_add(s->sum[c], v_drop(held, e));
}

INLINE void step_exp(chains *s, int c, vec x, vec max)
{
    s->top = v_max(x, s->top);
    s->sum[c] = v_add(s->sum[c], v_exp(v_sub(x, max)));
}

/* sum exp(x_j - m) without the terms equal to m, which are counted; keeps all exp where it may. */
static inline real sum_held(const real *x, ptrdiff_t n, real m, real *count, real *keep)
{
    const vec max = v_set1(m), least = v_set1(-INFINITY);
    chains s = {{v_zero(), v_zero()}, v_zero(), least};
    ptrdiff_t j = 0;
    for (; j + CHAINS <= n; j += CHAINS) {
        step_held(&s, 0, v_load(x + j), max, keep ? keep + j : NULL, LANES);
        step_held(&s, 1, v_load(x + j + LANES), max, keep ? keep + j + LANES : NULL, LANES);
    }
    for (int c = 0; j < n; c++, j += LANES)
        step_held(&s, c, load_to(x + j, n - j, least), max, keep ? keep + j : NULL, n - j);
    *count = v_fold_add(v_counted(s.equal));
    return v_fold_add(v_add(s.sum[0], s.sum[1]));
}

/* sum exp(x_j - m), and whether an x_j is above `top`, which makes the sum void. */
static inline real sum_exp(const real *x, ptrdiff_t n, real m, real top, bool *above)
{
    const vec max = v_set1(m), least = v_set1(-INFINITY);
    chains s = {{v_zero(), v_zero()}, v_zero(), least};
    ptrdiff_t j = 0;
    for (; j + CHAINS <= n; j += CHAINS) {
        step_exp(&s, 0, v_load(x + j), max);
        step_exp(&s, 1, v_load(x + j + LANES), max);
    }
    for (int c = 0; j < n; c++, j += LANES)
        step_exp(&s, c, load_to(x + j, n - j, least), max);
    *above = !v_all(v_le(s.top, v_set1(top)));
    return v_fold_add(v_add(s.sum[0], s.sum[1]));
}

/* t (x - m), 0 where t is. */
INLINE vec dot_term(vec x, vec t, const void *max)
{
    return v_drop(v_eq(t, v_zero()), v_mul(t, v_sub(x, *(const vec *)max)));
}
SUM_BLOCK(sum_dot, dot_term, 0, 0)

/* Adds sum t_j (m - x_j) and sum t_j over a segment. */
static inline void add_target(const real *x, const xf_target *t, xf_panel *p, int i, ptrdiff_t j0,
                              ptrdiff_t n, running *a)
{
    const vec max = v_set1(finite_maximum(a->maximum));
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        ptrdiff_t length = block_length(n, j);
        const real *c = fetch_target(t, i, j0 + j, length, p->block[1]);
        a->dot -= sum_dot(x + j, c, length, &max);
        a->mass += sum_block(c, c, length, NULL);
    }
}

/* sum exp(x_j - m) over a segment, block by block, from `sum` on; held: without the terms equal to
   m, else *above tells whether an x_j is above `top`. */
static inline double segment_held(const real *x, ptrdiff_t n, real m, double sum, double *held,
                                  real *keep)
{
    *held = 0;
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        real count;
        sum += sum_held(x + j, block_length(n, j), m, &count, keep ? keep + j : NULL);
        *held += count;
    }
    return sum;
}

static inline double segment_exp(const real *x, ptrdiff_t n, real m, real top, double sum,
                                 bool *above)
{
    *above = false;
    for (ptrdiff_t j = 0; j < n && !*above; j += BLOCK)
        sum += sum_exp(x + j, block_length(n, j), m, top, above);
    return sum;
}

/* Statistics of row i with its lanes along the classes. `keep` may be the row itself: whatever else
   needs the logits comes first. */
static inline void row_statistics(const xf_rows *rows, const xf_target *t, xf_panel *p, int i,
                                  real *buffer, real *keep)
{
    running a = {.maximum = -INFINITY};
    if (p->classes <= BLOCK) {
        const real *x = fetch(rows, i, 0, p->classes, buffer);
        const real m = block_maximum(x, p->classes);
        real sum, count = 0;
        bool above;
        a.maximum = m;
        if (t)
            add_target(x, t, p, i, 0, p->classes, &a);
        if (m > -INFINITY)
            sum = sum_held(x, p->classes, m, &count, keep);
        else
            sum = sum_exp(x, p->classes, -REAL_MAX, m, &above);
        state(p, SUM)[i] = sum + (count - 1);
    } else {
        for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += SEGMENT) {
            ptrdiff_t n = p->classes - j0 < SEGMENT ? p->classes - j0 : SEGMENT;
            const real *x = fetch(rows, i, j0, n, buffer);
            bool above = true;
            double sum = a.sum;
            if (j0 > 0) /* most often the maximum stays */
                sum = segment_exp(x, n, finite_maximum(a.maximum), a.maximum, sum, &above);
            const real m = above ? block_maximum(x, n) : a.maximum;
            const bool rises = m > a.maximum;
            if (rises)
                raise_maximum(&a, m);
            if (t)
                add_target(x, t, p, i, j0, n, &a);
            if (rises)
                a.sum = segment_held(x, n, m, a.sum, &a.held, keep);
            else if (above) /* nothing but -inf so far, or nan */
                a.sum = segment_exp(x, n, -REAL_MAX, INFINITY, a.sum, &above);
            else
                a.sum = sum;
        }
        state(p, SUM)[i] = (real)(a.sum + (a.held - 1));
    }
    state(p, MAXIMUM)[i] = a.maximum;
    state(p, MASS)[i] = (real)a.mass;
    state(p, DOT)[i] = (real)a.dot;
}

/* The maximum of each row of a tile; sum of exp(x - max) of each without the terms equal to `hold`
   (nan: none), which are counted. Overwrites the tile with all exp if it is to be kept. */
INLINE vec tile_maximum(const real *x, ptrdiff_t n)
{
    vec a = v_set1(-INFINITY);
    for (ptrdiff_t j = 0; j < n; j++)
        a = v_max(v_load(x + j * LANES), a);
    return a;
}

INLINE vec tile_step(real *x, vec max, vec hold, vec *count, bool keep)
{
    vec a = v_load(x), e = v_exp(v_sub(a, max));
    mask held = v_eq(a, hold);
    if (keep)
        v_store(x, e);
    *count = v_count(*count, held);
    return v_drop(held, e);
}

INLINE vec tile_sum_held(real *x, ptrdiff_t n, vec max, vec hold, vec *count, bool keep)
{
    vec sum[CHAINS], equal = v_zero();
    const ptrdiff_t first = n < CHAINS ? n : CHAINS;
    for (ptrdiff_t j = 0; j < first; j++)
        sum[j] = tile_step(x + j * LANES, max, hold, &equal, keep);
    for (ptrdiff_t j = CHAINS; j < n; j++)
        sum[j % CHAINS] = v_add(sum[j % CHAINS], tile_step(x + j * LANES, max, hold, &equal, keep));
    *count = v_counted(equal);
    return fold_chains(sum, n);
}

/* sum t (x - max) and sum t of each row of a tile. */
INLINE vec tile_dot(const real *x, const real *t, ptrdiff_t n, vec max, vec *mass)
{
    vec dot[CHAINS], sum[CHAINS];
    for (ptrdiff_t j = 0; j < n; j++) {
        vec c = v_load(t + j * LANES), d = dot_term(v_load(x + j * LANES), c, &max);
        dot[j % CHAINS] = v_add(j < CHAINS ? v_zero() : dot[j % CHAINS], d);
        sum[j % CHAINS] = v_add(j < CHAINS ? v_zero() : sum[j % CHAINS], c);
    }
    *mass = fold_chains(sum, n);
    return fold_chains(dot, n);
}

/* Statistics of all rows with the lanes across them. */
static inline void tile_statistics(const xf_rows *x, const xf_target *t, xf_panel *p)
{
    real *tile = (real *)p->tile[0], *target = (real *)p->tile[1];
    if (p->classes <= BLOCK) {
        ptrdiff_t n = p->classes;
        read_tile(x, 0, n, tile);
        vec m = tile_maximum(tile, n), finite = v_max(v_set1(-REAL_MAX), m), held;
        if (t) {
            vec mass;
            read_target(t, 0, n, target);
            v_store(state(p, DOT), v_sub(v_zero(), tile_dot(tile, target, n, finite, &mass)));
            v_store(state(p, MASS), mass);
        }
        /* A row whose maximum is -inf holds nothing out. */
        vec hold = v_select(v_lt(m, v_set1(-REAL_MAX)), v_set1(NAN), m);
        vec sum = p->wants_gradient ? tile_sum_held(tile, n, finite, hold, &held, true)
                                    : tile_sum_held(tile, n, finite, hold, &held, false);
        v_store(state(p, SUM), v_add(sum, v_sub(held, v_set1(1))));
        v_store(state(p, MAXIMUM), m);
        p->kept = p->wants_gradient ? XF_KEPT_TILE : XF_KEPT_NOTHING;
        return;
    }
    running a[LANES];
    for (int i = 0; i < LANES; i++)
        a[i] = (running){.maximum = -INFINITY};
    real finite[LANES], hold[LANES], sum[LANES], held[LANES], dot[LANES], mass[LANES];
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
        ptrdiff_t n = block_length(p->classes, j0);
        if (j0 % SEGMENT == 0) {
            vec top = v_set1(-INFINITY);
            for (ptrdiff_t j = j0; j < p->classes && j < j0 + SEGMENT; j += BLOCK) {
                ptrdiff_t length = block_length(p->classes, j);
                read_tile(x, j, length, tile);
                top = v_max(tile_maximum(tile, length), top);
            }
            v_store(sum, top);
            for (int i = 0; i < LANES; i++) {
                hold[i] = NAN;
                if (sum[i] > a[i].maximum) {
                    raise_maximum(&a[i], sum[i]);
                    hold[i] = sum[i];
                    a[i].held = 0;
                }
                finite[i] = finite_maximum(a[i].maximum);
            }
        }
        read_tile(x, j0, n, tile);
        if (t) {
            vec total;
            read_target(t, j0, n, target);
            v_store(dot, tile_dot(tile, target, n, v_load(finite), &total));
            v_store(mass, total);
        }
        vec count;
        v_store(sum, tile_sum_held(tile, n, v_load(finite), v_load(hold), &count, false));
        v_store(held, count);
        for (int i = 0; i < LANES; i++) {
            a[i].sum += sum[i];
            if (hold[i] == hold[i])
                a[i].held += held[i];
            if (t) {
                a[i].dot -= dot[i];
                a[i].mass += mass[i];
            }
        }
    }
    for (int i = 0; i < LANES; i++) {
        state(p, MAXIMUM)[i] = a[i].maximum;
        state(p, SUM)[i] = (real)(a[i].sum + (a[i].held - 1));
        state(p, MASS)[i] = (real)a[i].mass;
        state(p, DOT)[i] = (real)a[i].dot;
    }
}

static inline void statistics(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out)
{
    p->kept = XF_KEPT_NOTHING;
    if (!packed(x->type, x->step) || p->classes <= TILE_CLASSES) {
        tile_statistics(x, t, p);
        return;
    }
    real *buffer = (real *)p->tile;
    if (out && p->classes <= SEGMENT) {
        if (out->type == REAL_TYPE && out->step == sizeof(real))
            p->kept = XF_KEPT_OUT;
        else if (p->rows * p->classes <= TILES)
            p->kept = XF_KEPT_ROWS;
    }
    for (int i = 0; i < p->rows; i++) {
        real *own = p->kept == XF_KEPT_ROWS ? buffer + i * p->classes : buffer;
        real *keep = p->kept == XF_KEPT_OUT    ? (real *)out->row[i]
                     : p->kept == XF_KEPT_ROWS ? own
                                               : NULL;
        row_statistics(x, t, p, i, own, keep);
    }
}

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
    real own[LANES], share[LANES], weight[LANES], scaled[LANES];
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
    real value[LANES];
    const vec by = v_load(weight);
    v_store(value, v_drop(v_lt(by, v_zero()), v_mul(loss, by)));
    for (int i = 0; i < LANES; i++)
        p->loss[i] = value[i];
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
    real *logit = state(p, LABEL_LOGIT);
    for (int i = 0; i < LANES; i++) { /* without a label any will do: its own share is 0 */
        const char *at = x->row[i] + (p->label[i] < 0 ? 0 : p->label[i]) * x->step;
        if (x->type == REAL_TYPE)
            memcpy(&logit[i], at, sizeof(real));
        else
            logit[i] = read_one(at, x->type);
    }
    t = has_target(t) ? t : NULL;
    statistics(x, t, p, out);
    finish(t, p);
}

/* The factors of a gradient: of one row in every lane, or of a row in each. */
typedef struct {
    vec maximum, sum, mass, zeta, inverse, scale, log;
} factors;

#define FACTORS(f) {f(MAXIMUM), f(SUM), f(MASS), f(ZETA), f(INVERSE), f(SCALE), f(LOG)}
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

/* What is written of a row: e exp(d), x the logit, t the target. */
typedef enum { WRITE_SCALED, WRITE_GRADIENT, WRITE_LOGARITHM } writing;

INLINE vec written(writing what, bool kept, vec x, vec t, const factors *f)
{
    if (what == WRITE_LOGARITHM)
        return v_sub(v_sub(x, f->maximum), f->log);
    vec e = kept ? x : v_exp(v_sub(x, f->maximum));
    if (what == WRITE_SCALED)
        return v_mul(e, f->scale);
    vec g = v_fma(v_neg(t), f->sum, v_fma(f->mass, e, v_neg(t)));
    return v_mul(v_fma(f->zeta, e, g), f->inverse);
}

INLINE void write_row(writing what, bool kept, const real *x, const real *t, ptrdiff_t n,
                      const factors *f, real *to)
{
    ptrdiff_t j = 0;
    for (; j + LANES <= n; j += LANES)
        v_store(to + j, written(what, kept, v_load(x + j), t ? v_load(t + j) : v_zero(), f));
    if (j < n) {
        vec c = t ? v_load_part(t + j, n - j) : v_zero();
        v_store_part(to + j, written(what, kept, v_load_part(x + j, n - j), c, f), n - j);
    }
}

static inline void write_rows(writing what, const xf_rows *x, const xf_target *t, xf_panel *p,
                              const xf_out *out)
{
    const bool rows = packed(x->type, x->step) && packed(out->type, out->step);
    if (p->kept != XF_KEPT_TILE && rows) {
        for (int i = 0; i < p->rows; i++) {
            const factors f = row_factors(p, i);
            const real *kept = p->kept == XF_KEPT_OUT    ? (const real *)out->row[i]
                               : p->kept == XF_KEPT_ROWS ? (real *)p->tile + i * p->classes
                                                         : NULL;
            for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
                ptrdiff_t n = block_length(p->classes, j0);
                const real *c = t ? fetch_target(t, i, j0, n, p->block[1]) : NULL;
                real *to = place(out, i, j0, p->block[0]);
                if (kept)
                    write_row(what, true, kept + j0, c, n, &f, to);
                else
                    write_row(what, false, fetch(x, i, j0, n, p->block[0]), c, n, &f, to);
                put(out, i, j0, n, to);
            }
        }
        return;
    }
    const factors f = tile_factors(p);
    real *tile = (real *)p->tile[0], *target = (real *)p->tile[1];
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
        ptrdiff_t n = block_length(p->classes, j0);
        bool kept = p->kept == XF_KEPT_TILE;
        if (!kept) {
            read_tile(x, j0, n, tile);
            if (t)
                read_target(t, j0, n, target);
        }
        for (ptrdiff_t j = 0; j < n; j++) {
            vec a = v_load(tile + j * LANES), c = t ? v_load(target + j * LANES) : v_zero();
            v_store(tile + j * LANES, written(what, kept, a, c, &f));
        }
        write_tile(out, p->rows, j0, n, tile);
    }
}

static void softmax_gradient(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out)
{
    if (has_target(t))
        write_rows(WRITE_GRADIENT, x, t, p, out);
    else
        write_rows(WRITE_SCALED, x, NULL, p, out);
    for (int i = 0; i < p->rows; i++) {
        if (p->weight[i] < 0)
            clear(out, i, p->classes);
        else if (p->label[i] >= 0)
            write_one(out->row[i] + p->label[i] * out->step, out->type, state(p, OWN_GRADIENT)[i]);
    }
}

static void logsumexp(const xf_rows *x, xf_panel *p, const xf_out *out)
{
    statistics(x, NULL, p, out);
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
        write_rows(WRITE_LOGARITHM, x, NULL, p, out);
    else
        write_rows(WRITE_SCALED, x, NULL, p, out);
}
