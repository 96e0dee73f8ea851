/* The first pass over softmax rows: of a row x with its maximum m and d_j = x_j - m the sum
   s' = sum exp(d_j) without the maximum's own term, and of its target t the sums T = sum t_j and
   D = -sum t_j d_j. Lanes lie along the classes of a row, or across the rows of a panel.

   The maximum is that of the segments so far: a segment that raises it holds out all terms equal to
   it, and the sum before is rescaled. Rows of one block stay in the compute type, those of several
   are summed in double. */

/* What a panel keeps of each row between its passes, each a vector over the rows. */
enum { LABEL_LOGIT, MAXIMUM, SUM, MASS, DOT, LOG, ZETA, INVERSE, SCALE, OWN_GRADIENT };
static inline real *state(xf_panel *p, int which) { return (real *)p->state[which]; }

/* Classes that are read for their maximum before they are summed: 16 kB, half of an L1 cache. */
#define SEGMENT (8 * BLOCK)
/* Elements of the rows that a panel can keep. */
#define KEPT ((ptrdiff_t)(sizeof(((xf_panel *)0)->tile) / sizeof(real)))
/* Up to so many classes a panel is faster with its lanes across the rows. */
#define TILE_CLASSES 128

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
    ptrdiff_t j = 0;
    for (; j + CHAINS <= n; j += CHAINS) {
        prefetch_two(x + j, AHEAD);
        a = v_max(v_load(x + j), a);
        b = v_max(v_load(x + j + LANES), b);
    }
    for (; j < n; j += LANES)
        a = v_max(load_to(x + j, n - j, least), a);
    return v_fold_max(v_max(a, b));
}

/* The accumulators of a sum over a block of exp(x - max), and one step of chain c.  held: without
   the terms equal to max, which are counted; watched: sees whether an x is not below max; keep:
   where the exponentials go. */
typedef struct {
    vec sum[2], equal, sign;
} chains;

INLINE void add_exp(chains *s, int c, vec x, vec d, vec e, vec max, bool held, bool watched)
{
    if (held) {
        mask equal = v_eq(x, max);
        s->equal = v_count(s->equal, equal);
        e = v_drop(equal, e);
    }
    if (watched)
        s->sign = v_iand(s->sign, d);
    s->sum[c] = v_add(s->sum[c], e);
}

INLINE real sum_exp(const real *x, ptrdiff_t n, real m, bool held, bool watched, real *keep,
                    ptrdiff_t ahead, real *count, bool *below)
{
    const vec max = v_set1(m), least = v_set1(-INFINITY);
    chains s = {{v_zero(), v_zero()}, v_zero(), v_set1((real)-0.0)};
    ptrdiff_t j = 0;
    for (; j + CHAINS <= n; j += CHAINS) {
        prefetch_two(x + j, ahead);
        const vec a = v_load(x + j), b = v_load(x + j + LANES);
        const vec d[2] = {v_sub(a, max), v_sub(b, max)};
        vec e[2] = {d[0], d[1]};
        v_exp_of(e, 2);
        if (keep) {
            v_store(keep + j, e[0]);
            v_store(keep + j + LANES, e[1]);
        }
        add_exp(&s, 0, a, d[0], e[0], max, held, watched);
        add_exp(&s, 1, b, d[1], e[1], max, held, watched);
    }
    for (int c = 0; j < n; c++, j += LANES) {
        const vec a = load_to(x + j, n - j, least), d = v_sub(a, max), e = v_exp(d);
        if (keep)
            store_to(keep + j, e, n - j);
        add_exp(&s, c, a, d, e, max, held, watched);
    }
    if (held)
        *count = v_fold_add(v_counted(s.equal));
    if (watched)
        *below = v_all(v_lt(v_ior(s.sign, v_set1(1)), v_zero()));
    return v_fold_add(v_add(s.sum[0], s.sum[1]));
}

/* The sum without the terms equal to m, which are counted; `keep` may be NULL. */
static real sum_held(const real *x, ptrdiff_t n, real m, real *keep, ptrdiff_t ahead, real *count)
{
    return keep ? sum_exp(x, n, m, true, false, keep, ahead, count, NULL)
                : sum_exp(x, n, m, true, false, NULL, ahead, count, NULL);
}

/* The sum where no x is equal to m, or all are to be added. */
static real sum_plain(const real *x, ptrdiff_t n, real m, real *keep, ptrdiff_t ahead)
{
    return keep ? sum_exp(x, n, m, false, false, keep, ahead, NULL, NULL)
                : sum_exp(x, n, m, false, false, NULL, ahead, NULL, NULL);
}

/* The sum, void where an x is above m: then *above is set. */
static real sum_watched(const real *x, ptrdiff_t n, real m, bool *above)
{
    bool below;
    real sum = sum_exp(x, n, m, false, true, NULL, AHEAD, NULL, &below);
    if (!below) /* or equal */
        *above = block_maximum(x, n) > m;
    return sum;
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

/* Adds a segment that need not be kept, if nothing in it is above the maximum so far. */
static inline bool add_below(const real *x, ptrdiff_t n, running *a)
{
    const real m = finite_maximum(a->maximum);
    double sum = a->sum;
    bool above = false;
    for (ptrdiff_t j = 0; j < n && !above; j += BLOCK)
        sum += sum_watched(x + j, block_length(n, j), m, &above);
    if (!above)
        a->sum = sum;
    return !above;
}

/* Adds a segment whose blocks have the maxima `top`; a new maximum is held out. */
static inline void add_segment(const real *x, ptrdiff_t n, const real *top, bool rises, real *keep,
                               ptrdiff_t ahead, running *a)
{
    const real m = finite_maximum(a->maximum);
    if (rises)
        a->held = 0;
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        const ptrdiff_t length = block_length(n, j);
        real *to = keep ? keep + j : NULL, count = 0;
        if (rises && top[j / BLOCK] == m)
            a->sum += sum_held(x + j, length, m, to, ahead, &count);
        else
            a->sum += sum_plain(x + j, length, m, to, ahead);
        a->held += count;
    }
}

/* Statistics of row i with its lanes along the classes. The exponentials go to `keep` if that is
   not NULL, each less the maximum after its segment. `keep` may be the row itself: whatever else
   needs the logits comes first. Rows of another type are widened into `buffer`, a segment at a time,
   or all of it where that is what is kept. */
static inline void row_statistics(const xf_rows *rows, const xf_target *t, xf_panel *p, int i,
                                  real *buffer, real *keep)
{
    running a = {.maximum = -INFINITY};
    const ptrdiff_t classes = p->classes,
                    next = rows->row[i + 1 < p->rows ? i + 1 : i] - rows->row[i];
    if (classes <= BLOCK) {
        const real *x = fetch(rows, i, 0, classes, buffer);
        const real m = block_maximum(x, classes);
        real count = 0, sum;
        a.maximum = m;
        if (t)
            add_target(x, t, p, i, 0, classes, &a);
        if (m > -INFINITY)
            sum = sum_held(x, classes, m, keep, next, &count);
        else
            sum = sum_plain(x, classes, -REAL_MAX, keep, next);
        state(p, SUM)[i] = sum + (count - 1);
    } else {
        for (ptrdiff_t j0 = 0; j0 < classes; j0 += SEGMENT) {
            const ptrdiff_t n = classes - j0 < SEGMENT ? classes - j0 : SEGMENT;
            const real *x = fetch(rows, i, j0, n, buffer == keep ? buffer + j0 : buffer);
            bool done = !keep && j0 > 0 && add_below(x, n, &a); /* most often the maximum stays */
            real top[SEGMENT / BLOCK], m = -INFINITY;
            for (ptrdiff_t j = 0; !done && j < n; j += BLOCK) {
                real b = block_maximum(x + j, block_length(n, j));
                top[j / BLOCK] = b;
                m = b > m ? b : m;
            }
            const bool rises = m > a.maximum;
            if (rises)
                raise_maximum(&a, m);
            if (t)
                add_target(x, t, p, i, j0, n, &a);
            if (!done) {
                ptrdiff_t ahead = j0 + SEGMENT < classes ? n * (ptrdiff_t)sizeof(real) : next;
                add_segment(x, n, top, rises, keep ? keep + j0 : NULL, ahead, &a);
            }
            if (keep)
                ((real *)p->top)[j0 / SEGMENT] = a.maximum;
        }
        state(p, SUM)[i] = (real)(a.sum + (a.held - 1));
    }
    state(p, MAXIMUM)[i] = a.maximum;
    state(p, MASS)[i] = (real)a.mass;
    state(p, DOT)[i] = (real)a.dot;
}

/* Where the panel behind this one lies, a line for each class of a tile. */
typedef struct {
    const char *at;
    ptrdiff_t step;
} soon;

static inline soon next_panel(const xf_rows *x)
{
    const ptrdiff_t apart = x->row[1] - x->row[0];
    return (soon){x->row[0] + LANES * apart, packed(x->type, x->step) ? 64 : x->step};
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

INLINE void tile_exp(real *x, int n, vec max, vec hold, vec *count, bool keep, vec *e)
{
    vec a[2];
    for (int i = 0; i < n; i++) {
        a[i] = v_load(x + i * LANES);
        e[i] = v_sub(a[i], max);
    }
    v_exp_of(e, n);
    for (int i = 0; i < n; i++) {
        const mask held = v_eq(a[i], hold);
        if (keep)
            v_store(x + i * LANES, e[i]);
        *count = v_count(*count, held);
        e[i] = v_drop(held, e[i]);
    }
}

INLINE void prefetch_pair(const soon *next, ptrdiff_t j)
{
    prefetch(next->at, j * next->step);
    prefetch(next->at, (j + 1) * next->step);
}

INLINE vec tile_sum_held(real *x, ptrdiff_t n, vec max, vec hold, vec *count, bool keep,
                         const xf_rows *rows)
{
    vec sum[CHAINS], equal = v_zero();
    const soon next = next_panel(rows);
    const ptrdiff_t first = n < CHAINS ? n : CHAINS;
    ptrdiff_t j = 0;
    for (; j + 2 <= first; j += 2) {
        prefetch_pair(&next, j);
        tile_exp(x + j * LANES, 2, max, hold, &equal, keep, sum + j);
    }
    for (; j + 2 <= n; j += 2) {
        vec e[2];
        prefetch_pair(&next, j);
        tile_exp(x + j * LANES, 2, max, hold, &equal, keep, e);
        sum[j % CHAINS] = v_add(sum[j % CHAINS], e[0]);
        sum[j % CHAINS + 1] = v_add(sum[j % CHAINS + 1], e[1]);
    }
    if (j < n) {
        vec e;
        tile_exp(x + j * LANES, 1, max, hold, &equal, keep, &e);
        sum[j % CHAINS] = j < CHAINS ? e : v_add(sum[j % CHAINS], e);
    }
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

/* Statistics of all rows with the lanes across them. */
static inline void tile_statistics(const xf_rows *x, const xf_target *t, xf_panel *p, bool labelled)
{
    real *tile = (real *)p->tile[0], *target = (real *)p->tile[1];
    if (p->classes <= BLOCK) {
        ptrdiff_t n = p->classes;
        read_tile(x, 0, n, tile);
        if (labelled)
            tile_label_logits(tile, p);
        vec m = tile_maximum(tile, n), finite = v_max(v_set1(-REAL_MAX), m), held;
        if (t) {
            vec mass;
            read_target(t, 0, n, target);
            v_store(state(p, DOT), v_sub(v_zero(), tile_dot(tile, target, n, finite, &mass)));
            v_store(state(p, MASS), mass);
        }
        /* A row whose maximum is -inf holds nothing out. */
        vec hold = v_select(v_lt(m, v_set1(-REAL_MAX)), v_set1(NAN), m);
        vec sum = p->wants_gradient ? tile_sum_held(tile, n, finite, hold, &held, true, x)
                                    : tile_sum_held(tile, n, finite, hold, &held, false, x);
        v_store(state(p, SUM), v_add(sum, v_sub(held, v_set1(1))));
        v_store(state(p, MAXIMUM), m);
        p->kept = p->wants_gradient ? XF_KEPT_TILE : XF_KEPT_NOTHING;
        return;
    }
    p->kept = XF_KEPT_NOTHING;
    if (labelled)
        label_logits(x, p);
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
        v_store(sum, tile_sum_held(tile, n, v_load(finite), v_load(hold), &count, false, x));
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
                              bool labelled)
{
    if (!packed(x->type, x->step) || p->classes <= TILE_CLASSES) {
        if (out && out->stream) { /* its ends share their lines with the panels beside it */
            prefetch(out->row[0], 0);
            prefetch(out->row[p->rows - 1], p->classes * size_of(out->type) - 1);
        }
        tile_statistics(x, t, p, labelled);
        return;
    }
    if (labelled)
        label_logits(x, p);
    p->kept = where_to_keep(p, out);
    for (int i = 0; i < p->rows; i++) {
        real *buffer = (real *)p->tile, *keep = NULL;
        if (p->kept == XF_KEPT_ROWS)
            keep = buffer += i * p->classes;
        else if (p->kept == XF_KEPT_OUT)
            keep = (real *)out->row[i];
        row_statistics(x, t, p, i, buffer, keep);
    }
}
