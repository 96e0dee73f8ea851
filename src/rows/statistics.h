/* The first pass over softmax rows: of a row x with its maximum m the sum s' = sum exp(x_j - m) without
   the terms of m itself, and of its target t the sums T = sum t_j and D = sum t_j (m - x_j). Lanes lie
   along the classes of a row, or across the rows of a panel.

   m is the maximum of the segments so far. The terms equal to it are held out of the sum and counted;
   when it rises, they and the sum are rescaled. Sums of exponentials are held times 2^EXP_SCALE, as
   the exponentials are (simd/exp_row.h). Rows of one block stay in the compute type, those of several
   are summed in double. */

/* What a panel keeps of each row between its passes, each a vector over the rows. HELD is s' times
   2^EXP_SCALE, SUM s' itself. */
enum { LABEL_LOGIT, MAXIMUM, HELD, SUM, MASS, DOT, LOG, ZETA, INVERSE, SCALE, OWN_GRADIENT };
static inline real *state(xf_panel *p, int which) { return (real *)p->state[which]; }

/* Elements of the rows that a panel can keep. */
#define KEPT ((ptrdiff_t)(sizeof(((xf_work *)0)->tile) / sizeof(real)))
/* Up to so many classes a panel is faster with its lanes across the rows. */
#define TILE_CLASSES 128

/* The sums of one row over its blocks so far. */
typedef struct {
    real maximum;
    bool
        general; /* whether exponentials are, of the segment before and so most likely of the next */
    double sum, held, mass, dot; /* held: the terms exp(0) that sum leaves out */
} running;

static inline real finite_maximum(real m) { return m < -REAL_MAX ? -REAL_MAX : m; }

static inline void raise_maximum(running *a, real to)
{
    const real from = finite_maximum(a->maximum);
    a->sum = (a->sum + a->held * EXP_ONE) * exp_of_fall(from, to);
    a->held = 0;
    if (a->mass != 0)
        a->dot += a->mass * ((double)to - (double)from);
    a->maximum = to;
}

typedef struct {
    real least, most;
} range;

static inline range block_range(const real *x, ptrdiff_t n, ptrdiff_t ahead)
{
    const vec top = v_set1(INFINITY), bottom = v_set1(-INFINITY);
    vec most[2] = {bottom, bottom}, least[2] = {top, top};
    ptrdiff_t j = 0;
    for (; j + CHAINS <= n; j += CHAINS) {
        if (ahead)
            prefetch_two(x + j, ahead);
        for (int c = 0; c < 2; c++) {
            const vec a = v_load(x + j + c * LANES);
            most[c] = v_max(a, most[c]);
            least[c] = v_min(a, least[c]);
        }
    }
    for (; j < n; j += LANES) {
        most[0] = v_max(load_to(x + j, n - j, bottom), most[0]);
        least[0] = v_min(load_to(x + j, n - j, top), least[0]);
    }
    return (range){v_fold_min(v_min(least[0], least[1])), v_fold_max(v_max(most[0], most[1]))};
}

static inline real block_maximum(const real *x, ptrdiff_t n)
{
    return block_range(x, n, AHEAD).most;
}

/* Do the exponentials of a row with maximum m take the general form? */
static inline bool is_general(real m, real least)
{
    return !(FUSED && -LARGEST_FAST < m && m < LARGEST_FAST && m - least <= LOWEST_FAST);
}

/* The accumulators of a sum over a block, and one step of chain c.  held: without the terms equal to
   the maximum, which are counted; keep: where the exponentials go. */
typedef struct {
    vec sum[2], equal;
} chains;

INLINE void add_exp(chains *s, int c, vec x, vec e, vec max, bool held, real *keep, ptrdiff_t n)
{
    mask equal;
    if (held) {
        equal = v_eq(x, max);
        s->equal = v_count(s->equal, equal);
    }
    if (keep)
        store_to(keep, held ? v_select(equal, v_set1(EXP_ONE), e) : e, n);
    s->sum[c] = v_add(s->sum[c], held ? v_drop(equal, e) : e);
}

/* So many vectors in lockstep as the registers hold: the steps of one exponential wait for each other. */
#define GROUP (REGS == 1 ? 4 : 1)
INLINE void sum_step(const real *x, int chain, int group, const row_exp *f, bool general, bool held,
                     bool watched, real *keep, chains *s, vec *seen)
{
    vec a[GROUP], e[GROUP], z[GROUP];
    for (int c = 0; c < group; c++)
        a[c] = v_hold(v_load(x + c * LANES));
    v_row_exp(f, false, general, a, e, z, group);
    for (int c = 0; c < group; c++) {
        if (watched)
            *seen = v_seen(general, *seen, z[c]);
        add_exp(s, (chain + c) % 2, a[c], e[c], f->maximum, held, keep ? keep + c * LANES : NULL,
                LANES);
    }
}

/* An even number of vectors. */
INLINE void sum_steps(const real *x, int vectors, const row_exp *f, bool general, bool held,
                      bool watched, real *keep, bool asks, ptrdiff_t ahead, chains *s, vec *seen)
{
    const int group = vectors < GROUP ? vectors : GROUP;
    for (int c = 0; c < vectors; c += 2) {
        prefetch_two(x + c * LANES, ahead);
        for (int k = c; keep && asks && k < c + 2; k++)
            prefetch_to_write(keep + k * LANES, AHEAD);
    }
    for (int c = 0; c < vectors; c += group)
        sum_step(x + c * LANES, c, group, f, general, held, watched, keep ? keep + c * LANES : NULL,
                 s, seen);
}

/* watched: *below becomes false where an x is not below the maximum or, unless general, out of reach. */
INLINE real sum_exp(const real *x, ptrdiff_t n, const row_exp *of, bool general, bool held,
                    bool watched, real *keep, bool asks, ptrdiff_t ahead, real *count, bool *below)
{
    const vec least = v_set1(-INFINITY);
    const row_exp here = row_exp_once(of), *f = &here;
    chains s = {{v_zero(), v_zero()}, v_zero()};
    vec seen = general ? least : v_zero();
    ptrdiff_t j = 0;
    for (; GROUP > 2 && j + GROUP * LANES <= n; j += GROUP * LANES)
        sum_steps(x + j, GROUP, f, general, held, watched, keep ? keep + j : NULL, asks, ahead, &s,
                  &seen);
    for (; j + CHAINS <= n; j += CHAINS)
        sum_steps(x + j, 2, f, general, held, watched, keep ? keep + j : NULL, asks, ahead, &s,
                  &seen);
    if (watched && n >= CHAINS)
        *below = v_all_below(general, seen);
    for (int c = 0; j < n; c++, j += LANES) {
        const vec a = load_to(x + j, n - j, least);
        vec e, z;
        v_row_exp(f, false, true, &a, &e, &z, 1);
        if (watched && !v_all(v_lt(a, f->maximum)))
            *below = false;
        add_exp(&s, c, a, e, f->maximum, held, keep ? keep + j : NULL, n - j);
    }
    if (held)
        *count = v_fold_add(v_counted(s.equal));
    return v_fold_add(v_add(s.sum[0], s.sum[1]));
}

/* The sum without the terms equal to the maximum, of which there are `count`; `keep` may be NULL. */
static real sum_block_exp(const real *x, ptrdiff_t n, const row_exp *f, bool general, bool held,
                          real *keep, bool asks, ptrdiff_t ahead, real *count)
{
#define SUM_EXP(general, held, keep) \
    sum_exp(x, n, f, general, held, false, keep, asks, ahead, count, NULL)
    *count = 0;
    if (!FUSED || general) {
        if (held)
            return keep ? SUM_EXP(true, true, keep) : SUM_EXP(true, true, NULL);
        return keep ? SUM_EXP(true, false, keep) : SUM_EXP(true, false, NULL);
    }
    if (held)
        return keep ? SUM_EXP(false, true, keep) : SUM_EXP(false, true, NULL);
    return keep ? SUM_EXP(false, false, keep) : SUM_EXP(false, false, NULL);
}

/* The sum of what is expected to be below the maximum and within reach. */
static real sum_watched(const real *x, ptrdiff_t n, const row_exp *f, bool general, bool *below)
{
    *below = true;
    return !FUSED || general
               ? sum_exp(x, n, f, true, false, true, NULL, false, AHEAD, NULL, below)
               : sum_exp(x, n, f, false, false, true, NULL, false, AHEAD, NULL, below);
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
        const real *c = fetch_target(t, i, j0 + j, length, p->work->block[1]);
        a->dot -= sum_dot(x + j, c, length, &max);
        a->mass += sum_block(c, c, length, NULL);
    }
}

/* Adds a segment that need not be kept, if nothing in it is above the maximum so far. */
static inline bool add_below(const real *x, ptrdiff_t n, const row_exp *f, running *a)
{
    const real m = finite_maximum(a->maximum);
    double sum = a->sum, held = a->held;
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        const ptrdiff_t length = block_length(n, j);
        bool below;
        real part = sum_watched(x + j, length, f, a->general, &below), count = 0;
        if (!below) {
            const range r = block_range(x + j, length, AHEAD);
            if (r.most > m)
                return false;
            a->general = is_general(m, r.least);
            part = sum_block_exp(x + j, length, f, a->general, r.most == m, NULL, false, AHEAD,
                                 &count);
        }
        sum += part;
        held += count;
    }
    a->sum = sum;
    a->held = held;
    return true;
}

/* Adds a segment whose blocks have the maxima `top`. */
static inline void add_segment(const real *x, ptrdiff_t n, const real *top, const row_exp *f,
                               real *keep, bool asks, ptrdiff_t ahead, running *a)
{
    const real m = finite_maximum(a->maximum);
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        real count;
        a->sum += sum_block_exp(x + j, block_length(n, j), f, a->general, top[j / BLOCK] == m,
                                keep ? keep + j : NULL, asks, ahead, &count);
        a->held += count;
    }
}

/* What is known of a segment before it is summed: its blocks' maxima, and the range of all. */
typedef struct {
    real top[SEGMENT / BLOCK];
    range all;
} survey;

static inline survey survey_of(const real *x, ptrdiff_t n, ptrdiff_t ahead)
{
    survey s = {.all = {INFINITY, -INFINITY}};
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        const range r = block_range(x + j, block_length(n, j), ahead);
        s.top[j / BLOCK] = r.most;
        s.all.most = r.most > s.all.most ? r.most : s.all.most;
        s.all.least = r.least < s.all.least ? r.least : s.all.least;
    }
    return s;
}

/* The row that comes next, looked at before the one at hand is summed, so that its maximum is there in
   time: that of a short row would be waited for. */
typedef struct {
    int row;
    const real *x;
    survey s;
} upcoming;
#define SHORT_ROW (4 * BLOCK)

/* Where row i is widened: all of it where that is what is kept, else a segment at a time. */
static inline real *row_buffer(xf_panel *p, int i)
{
    return (real *)p->work->tile + (p->kept == XF_KEPT_ROWS ? i * p->classes : i % 2 * SEGMENT);
}

/* Statistics of row i with its lanes along the classes. The exponentials go to `keep` if that is
   not NULL, each of the maximum after its segment. `keep` may be the row itself: whatever else
   needs the logits comes first. */
static inline void row_statistics(const xf_rows *rows, const xf_target *t, xf_panel *p, int i,
                                  real *keep, upcoming *soon)
{
    running a = {.maximum = -INFINITY};
    row_exp f;
    real *const buffer = row_buffer(p, i);
    const ptrdiff_t classes = p->classes;
    const bool asks = !keep || p->asks, looks = asks && classes <= SHORT_ROW;
    const int following = i + 1 < p->rows ? i + 1 : i;
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += SEGMENT) {
        const ptrdiff_t n = classes - j0 < SEGMENT ? classes - j0 : SEGMENT;
        const real *x =
            soon->row == i ? soon->x : fetch(rows, i, j0, n, buffer == keep ? buffer + j0 : buffer);
        const bool done = !keep && j0 > 0 && add_below(x, n, &f, &a); /* most often m stays */
        survey s = {.all = {INFINITY, -INFINITY}};
        if (!done)
            s = soon->row == i ? soon->s : survey_of(x, n, asks ? AHEAD : 0);
        const bool rises = s.all.most > a.maximum;
        if (rises)
            raise_maximum(&a, s.all.most);
        if (rises || j0 == 0)
            f = row_exp_of(v_set1(finite_maximum(a.maximum)), false);
        if (t)
            add_target(x, t, p, i, j0, n, &a);
        if (looks && following != i) {
            soon->row = following;
            soon->x = fetch(rows, following, 0, classes, row_buffer(p, following));
            soon->s = survey_of(soon->x, classes, AHEAD);
        }
        if (!done) {
            /* the row behind this one, which of short rows has been looked at already */
            const ptrdiff_t apart = (rows->row[following] - rows->row[i]) * (looks ? 2 : 1);
            const ptrdiff_t ahead = j0 + SEGMENT < classes ? n * (ptrdiff_t)sizeof(real) : apart;
            a.general = is_general(finite_maximum(a.maximum), s.all.least);
            add_segment(x, n, s.top, &f, keep ? keep + j0 : NULL, asks, ahead, &a);
        }
        if (keep)
            ((real *)p->top)[j0 / SEGMENT] = a.maximum;
    }
    state(p, HELD)[i] = (real)(a.sum + (a.held - 1) * EXP_ONE);
    state(p, MAXIMUM)[i] = a.maximum;
    state(p, MASS)[i] = (real)a.mass;
    state(p, DOT)[i] = (real)a.dot;
}

/* Where what is looked at next lies, a line for each class of a tile: the panel behind this one, or of
   panels that are treated together the band of the next. */
typedef struct {
    const char *at;
    ptrdiff_t step;
} soon;

static inline soon next_panel(const xf_rows *x, const xf_panel *p, int k, int panels)
{
    const ptrdiff_t apart = x->row[1] - x->row[0];
    if (panels > 1)
        return (soon){p[k + 1 < panels ? k + 1 : k].band, 64};
    return (soon){x->row[0] + LANES * apart, packed(x->type, x->step) ? 64 : x->step};
}

/* Does any row of a tile take the general form? */
INLINE bool is_tile_general(vec m, vec least)
{
    const vec limit = v_set1(LARGEST_FAST);
    return !(FUSED && v_all(v_and(v_lt(v_max(m, v_neg(m)), limit),
                                  v_le(v_sub(m, least), v_set1(LOWEST_FAST)))));
}

#define TILE_GROUP (REGS == 1 ? 2 : 1)

/* The exponentials of n vectors of a tile without those of the maximum, which are counted. All of them
   overwrite the tile if they are to be kept. */
INLINE void tile_exp(real *x, int n, const row_exp *f, bool general, vec *count, bool keep, vec *e)
{
    vec a[TILE_GROUP], z[TILE_GROUP];
    for (int i = 0; i < n; i++)
        a[i] = v_hold(v_load(x + i * LANES));
    v_row_exp(f, true, general, a, e, z, n);
    for (int i = 0; i < n; i++) {
        const mask held = v_eq(a[i], f->maximum);
        if (keep)
            v_store(x + i * LANES, v_select(held, v_set1(EXP_ONE), e[i]));
        *count = v_count(*count, held);
        e[i] = v_drop(held, e[i]);
    }
}

INLINE void prefetch_lines(const soon *next, ptrdiff_t j, int n)
{
    for (int i = 0; i < n; i++)
        prefetch(next->at, (j + i) * next->step);
}

INLINE vec tile_sum_as(real *x, ptrdiff_t n, const row_exp *f, bool general, vec *count, bool keep,
                       soon next)
{
    vec sum[CHAINS], equal = v_zero();
    const ptrdiff_t first = n < CHAINS ? n : CHAINS;
    ptrdiff_t j = 0;
    for (; j + TILE_GROUP <= first; j += TILE_GROUP) {
        prefetch_lines(&next, j, TILE_GROUP);
        tile_exp(x + j * LANES, TILE_GROUP, f, general, &equal, keep, sum + j);
    }
    for (; j + TILE_GROUP <= n; j += TILE_GROUP) {
        vec e[TILE_GROUP];
        prefetch_lines(&next, j, TILE_GROUP);
        tile_exp(x + j * LANES, TILE_GROUP, f, general, &equal, keep, e);
        for (int i = 0; i < TILE_GROUP; i++)
            sum[j % CHAINS + i] = v_add(sum[j % CHAINS + i], e[i]);
    }
    if (j < n) {
        vec e;
        tile_exp(x + j * LANES, 1, f, general, &equal, keep, &e);
        sum[j % CHAINS] = j < CHAINS ? e : v_add(sum[j % CHAINS], e);
    }
    *count = v_counted(equal);
    return fold_chains(sum, n);
}

static inline vec tile_sum(real *x, ptrdiff_t n, const row_exp *f, bool general, vec *count,
                           bool keep, soon next)
{
    if (!FUSED || general)
        return keep ? tile_sum_as(x, n, f, true, count, true, next)
                    : tile_sum_as(x, n, f, true, count, false, next);
    return keep ? tile_sum_as(x, n, f, false, count, true, next)
                : tile_sum_as(x, n, f, false, count, false, next);
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

/* The logit of each row's label; without one any will do, for its own share is 0. */
static inline void label_logits(const xf_rows *x, xf_panel *p)
{
    for (int i = 0; i < LANES; i++) {
        const ptrdiff_t y = p->label[i] < 0 ? 0 : p->label[i];
        state(p, LABEL_LOGIT)[i] = read_one(x->row[i] + y * x->step, x->type);
    }
}

static inline void tile_label_logits(const real *tile, xf_panel *p)
{
    for (int i = 0; i < LANES; i++) {
        const ptrdiff_t y = p->label[i] < 0 ? 0 : p->label[i];
        state(p, LABEL_LOGIT)[i] = tile[y * LANES + i];
    }
}

/* Statistics of panel k of those at p, whose classes, a block at most, are in its band. */
static inline void block_statistics(const xf_target *t, xf_panel *panels, int k, bool labelled,
                                    soon next)
{
    xf_panel *const p = panels + k;
    const ptrdiff_t n = p->classes;
    real *const band = p->band, *const target = (real *)p->work->tile[1];
    if (labelled)
        tile_label_logits(band, p);
    vec m = v_set1(-INFINITY), least = v_set1(INFINITY), held;
    tile_range(band, n, &least, &m);
    const vec finite = v_max(v_set1(-REAL_MAX), m);
    if (t) {
        vec mass;
        read_target(t, k, 0, n, target);
        v_store(state(p, DOT), v_sub(v_zero(), tile_dot(band, target, n, finite, &mass)));
        v_store(state(p, MASS), mass);
    }
    const row_exp f = row_exp_of(finite, true);
    vec sum =
        tile_sum(band, n, &f, is_tile_general(finite, least), &held, p->kept == XF_KEPT_BAND, next);
    v_store(state(p, HELD), v_fma(v_sub(held, v_set1(1)), v_set1(EXP_ONE), sum));
    v_store(state(p, MAXIMUM), m);
}

/* Adds the segment in the band of panel k to the sums of its rows; the exponentials stay there if those
   of all classes will. */
static inline void add_band(const xf_target *t, xf_panel *panels, int k, ptrdiff_t j0, ptrdiff_t n,
                            vec least, vec top)
{
    xf_panel *const p = panels + k;
    running *const a = (running *)p->sums;
    real *const band = p->band, *const target = (real *)p->work->tile[1];
    real finite[LANES], sum[LANES], held[LANES], dot[LANES], mass[LANES];
    v_store(sum, top);
    for (int i = 0; i < LANES; i++) {
        if (sum[i] > a[i].maximum)
            raise_maximum(&a[i], sum[i]);
        finite[i] = finite_maximum(a[i].maximum);
    }
    const row_exp f = row_exp_of(v_load(finite), true);
    const bool general = is_tile_general(v_load(finite), least);
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        const ptrdiff_t length = block_length(n, j);
        if (t) {
            vec total;
            read_target(t, k, j0 + j, length, target);
            v_store(dot, tile_dot(band + j * LANES, target, length, v_load(finite), &total));
            v_store(mass, total);
        }
        vec count;
        const soon next = {(const char *)(band + j * LANES) + AHEAD, 64};
        v_store(sum, tile_sum(band + j * LANES, length, &f, general, &count,
                              p->kept == XF_KEPT_BAND, next));
        v_store(held, count);
        for (int i = 0; i < LANES; i++) {
            a[i].sum += sum[i];
            a[i].held += held[i];
            if (t) {
                a[i].dot -= dot[i];
                a[i].mass += mass[i];
            }
        }
    }
}

/* Statistics of panels with more classes than a block. */
static void band_statistics(const xf_rows *x, const xf_target *t, xf_panel *p, int panels,
                            bool labelled)
{
    vec least[XF_TOGETHER], top[XF_TOGETHER];
    for (int k = 0; k < panels; k++) {
        if (labelled)
            label_logits(x + k, p + k);
        for (int i = 0; i < LANES; i++)
            ((running *)p[k].sums)[i] = (running){.maximum = -INFINITY};
    }
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += SEGMENT) {
        const ptrdiff_t n = segment_length(p->classes, j0);
        read_segment(x, p, panels, j0, n, least, top);
        for (int k = 0; k < panels; k++)
            add_band(t, p, k, j0, n, least[k], top[k]);
    }
    for (int k = 0; k < panels; k++)
        for (int i = 0; i < LANES; i++) {
            const running *a = (const running *)p[k].sums + i;
            state(p + k, MAXIMUM)[i] = a->maximum;
            state(p + k, HELD)[i] = (real)(a->sum + (a->held - 1) * EXP_ONE);
            state(p + k, MASS)[i] = (real)a->mass;
            state(p + k, DOT)[i] = (real)a->dot;
        }
}

/* The same with the lanes across the rows, of any number of classes. */
static inline void panel_statistics(const xf_rows *x, const xf_target *t, xf_panel *p, int panels,
                                    bool labelled)
{
    for (int k = 0; k < panels; k++)
        p[k].kept = p->wants_gradient && p->classes <= SEGMENT ? XF_KEPT_BAND : XF_KEPT_NOTHING;
    if (p->classes > BLOCK) {
        band_statistics(x, t, p, panels, labelled);
        return;
    }
    read_bands(x, p, panels, 0, p->classes, 0);
    for (int k = 0; k < panels; k++)
        block_statistics(t, p, k, labelled, next_panel(x, p, k, panels));
}

/* Panels of long rows have one row, so that `top` is that row's. */
static inline int where_to_keep(const xf_panel *p, const xf_out *out)
{
    if (!out || p->classes > XF_SEGMENTS * SEGMENT || (p->classes > SEGMENT && p->rows > 1))
        return XF_KEPT_NOTHING;
    if (direct(out))
        return XF_KEPT_OUT;
    return p->rows * p->classes <= KEPT ? XF_KEPT_ROWS : XF_KEPT_NOTHING;
}

static inline void statistics(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out,
                              int panels, bool labelled)
{
    if (!packed(x->type, x->step) || p->classes <= TILE_CLASSES) {
        if (out && out->stream) { /* its ends share their lines with the panels beside it */
            prefetch(out->row[0], 0);
            prefetch(out->row[p->rows - 1], p->classes * size_of(out->type) - 1);
        }
        panel_statistics(x, t, p, panels, labelled);
        return;
    }
    if (labelled)
        label_logits(x, p);
    p->kept = where_to_keep(p, out);
    upcoming soon = {.row = -1};
    for (int i = 0; i < p->rows; i++) {
        real *keep = p->kept == XF_KEPT_ROWS  ? row_buffer(p, i)
                     : p->kept == XF_KEPT_OUT ? (real *)out->row[i]
                                              : NULL;
        row_statistics(x, t, p, i, keep, &soon);
    }
}
