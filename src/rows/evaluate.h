/* Rows scored against an index label y: everything that is reported of one is a function of

     m = max x_j,  s' = sum exp(d_j),  E = sum exp(d_j) d_j,  Q = sum exp(d_j)^2,  d_j = x_j - m,

   of which s' and Q leave the maximum's own term out. With s = 1 + s' and e_y = exp(d_y)

     loss        log1p(s') + (m - x_y)                  lse         m + log1p(s')
     entropy     log1p(s') - E / s                      confidence  1 / s
     Brier       ((s - e_y)^2 + sum_{j != y} e_j^2) / s^2
     rank        the number of logits above x_y, and of those equal to it that win the tie

   where s - e_y is s' and the sum of squares Q where the label is at the maximum: nothing cancels,
   and the small scores of a confident row keep their digits. */

/* Below it exp is 0 in every type: d = -inf must not meet that 0. */
#define DEEPEST (-1000)

typedef struct {
    real maximum;
    double sum, slope, square, held; /* s', E, Q; held: the terms exp(0) that sum leaves out */
    double rank;
} tally;

/* The sums of a block, in each lane. */
typedef struct {
    vec sum, slope, square, held, above;
} tile_sums;

static inline void raise_tally(tally *a, real to)
{
    const double all = a->sum + a->held;
    if (all > 0) {
        const double rise = (double)to - (double)a->maximum, by = exp_of_fall(a->maximum, to);
        a->slope = by > 0 ? by * (a->slope - rise * all) : 0;
        a->square = by * by * (a->square + a->held);
        a->sum = by * all;
    }
    a->held = 0;
    a->maximum = to;
}

/* One step of a chain: x against the maximum, the terms equal to `hold` left out and counted if any
   are to be, and against the label's logit y. */
INLINE void add_step(tile_sums *s, vec x, vec max, bool holds, vec hold, bool or_equal, vec y)
{
    const vec d = v_max(v_set1(DEEPEST), v_sub(x, max)), e = v_exp(d);
    vec rest = e;
    if (holds) {
        const mask held = v_eq(x, hold);
        rest = v_drop(held, e);
        s->held = v_count(s->held, held);
    }
    s->above = v_count(s->above, or_equal ? v_le(y, x) : v_lt(y, x));
    s->sum = v_add(s->sum, rest);
    s->slope = v_fma(e, d, s->slope);
    s->square = v_fma(rest, rest, s->square);
}

#define NO_SUMS {v_zero(), v_zero(), v_zero(), v_zero(), v_zero()}

/* The sums of a block but for its counts, which go to those of the row so far. Behind the end stand
   logits of -inf, so with or_equal a block must be full. */
INLINE void row_block_as(bool holds, bool or_equal, const real *x, ptrdiff_t n, real m, real y,
                         ptrdiff_t ahead, tally *a)
{
    const vec max = v_set1(m), label = v_set1(y), least = v_set1(-INFINITY);
    tile_sums s[2] = {NO_SUMS, NO_SUMS};
    ptrdiff_t j = 0;
    for (; j + CHAINS <= n; j += CHAINS) {
        prefetch_two(x + j, ahead);
        add_step(&s[0], v_load(x + j), max, holds, max, or_equal, label);
        add_step(&s[1], v_load(x + j + LANES), max, holds, max, or_equal, label);
    }
    for (int c = 0; j < n; c++, j += LANES)
        add_step(&s[c], load_to(x + j, n - j, least), max, holds, max, or_equal, label);
    a->sum += v_fold_add(v_add(s[0].sum, s[1].sum));
    a->slope += v_fold_add(v_add(s[0].slope, s[1].slope));
    a->square += v_fold_add(v_add(s[0].square, s[1].square));
    a->rank += v_fold_add(v_add(v_counted(s[0].above), v_counted(s[1].above)));
    if (holds)
        a->held += v_fold_add(v_add(v_counted(s[0].held), v_counted(s[1].held)));
}

static void row_block(bool holds, bool or_equal, const real *x, ptrdiff_t n, real m, real y,
                      ptrdiff_t ahead, tally *a)
{
    if (holds && or_equal)
        row_block_as(true, true, x, n, m, y, ahead, a);
    else if (holds)
        row_block_as(true, false, x, n, m, y, ahead, a);
    else if (or_equal)
        row_block_as(false, true, x, n, m, y, ahead, a);
    else
        row_block_as(false, false, x, n, m, y, ahead, a);
}

/* How many of n elements are above y, or equal to it. */
INLINE real count_which(bool above, const real *x, ptrdiff_t n, real y)
{
    const vec label = v_set1(y), none = v_set1(NAN);
    vec count = v_zero();
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec a = load_to(x + j, n - j, none);
        count = v_count(count, above ? v_lt(label, a) : v_eq(a, label));
    }
    return v_fold_add(v_counted(count));
}
static real count_above(const real *x, ptrdiff_t n, real y) { return count_which(true, x, n, y); }
static real count_equal(const real *x, ptrdiff_t n, real y) { return count_which(false, x, n, y); }

/* Which of the classes [j0, j0 + n) win a tie with the label: [*from, *to), counted from j0. */
static inline void tie_range(ptrdiff_t j0, ptrdiff_t n, int64_t label, xf_ties ties,
                             ptrdiff_t *from, ptrdiff_t *to)
{
    const ptrdiff_t at = label < j0 ? 0 : label < j0 + n ? label - j0 : n;
    *from = ties == XF_HIGHEST_WINS ? at + (label >= j0) : 0;
    *to = ties == XF_HIGHEST_WINS ? n : ties == XF_LOWEST_WINS ? at : 0;
}

/* How many of them there are that are equal to it. */
static inline real count_ties(const real *x, ptrdiff_t from, ptrdiff_t to, real y)
{
    return from < to ? count_equal(x + from, to - from, y) : 0;
}

/* The first of n elements that is equal to m, or the last: a vector, then an element. */
static inline ptrdiff_t find_equal(const real *x, ptrdiff_t n, real m, bool last)
{
    ptrdiff_t begin = 0, end = n;
    while (end - begin > LANES) {
        const ptrdiff_t middle = begin + (end - begin) / 2;
        const bool before = last ? count_equal(x + middle, end - middle, m) == 0
                                 : count_equal(x + begin, middle - begin, m) > 0;
        if (before)
            end = middle;
        else
            begin = middle;
    }
    while (begin + 1 < end && x[last ? end - 1 : begin] != m)
        last ? end-- : begin++;
    return last ? end - 1 : begin;
}

/* The scores of a panel while they are gathered. */
typedef struct {
    real maximum[LANES], sum[LANES], slope[LANES], square[LANES], label[LANES], rank[LANES];
} panel_tally;

static inline void end_tally(const tally *a, int i, panel_tally *t)
{
    t->maximum[i] = a->maximum;
    t->sum[i] = (real)(a->sum + (a->held - 1));
    t->slope[i] = (real)a->slope;
    t->square[i] = (real)(a->square + (a->held - 1));
}

/* Row i with its lanes along the classes. */
static inline void evaluate_along(const xf_rows *rows, xf_panel *p, int i, xf_scores *scores,
                                  panel_tally *t)
{
    tally a = {.maximum = -INFINITY};
    const ptrdiff_t classes = p->classes,
                    next = rows->row[i + 1 < p->rows ? i + 1 : i] - rows->row[i];
    const real y = t->label[i];
    ptrdiff_t first = 0; /* of the block with the maximum */
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += SEGMENT) {
        const ptrdiff_t n = classes - j0 < SEGMENT ? classes - j0 : SEGMENT;
        const real *x = fetch(rows, i, j0, n, p->tile);
        real top[SEGMENT / BLOCK], m = -INFINITY;
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            real b = block_maximum(x + j, block_length(n, j));
            top[j / BLOCK] = b;
            if (b > m || (b == m && scores->ties == XF_HIGHEST_WINS)) {
                if (b > a.maximum || (b == a.maximum && scores->ties == XF_HIGHEST_WINS))
                    first = j0 + j;
                m = b;
            }
        }
        const bool rises = m > a.maximum;
        if (rises)
            raise_tally(&a, m);
        m = finite_maximum(a.maximum);
        const ptrdiff_t ahead = j0 + SEGMENT < classes ? n * (ptrdiff_t)sizeof(real) : next;
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            const ptrdiff_t length = block_length(n, j);
            ptrdiff_t from, to;
            tie_range(j0 + j, length, p->label[i], scores->ties, &from, &to);
            const bool all = to - from == BLOCK;
            row_block(rises && top[j / BLOCK] == m, all, x + j, length, m, y, ahead, &a);
            a.rank += all ? 0 : count_ties(x + j, from, to, y);
        }
    }
    end_tally(&a, i, t);
    scores->rank[i] = (int64_t)a.rank;
    if (scores->wants_predicted) {
        const ptrdiff_t n = block_length(classes, first);
        const real *x = fetch(rows, i, first, n, p->tile);
        scores->predicted[i] = first + find_equal(x, n, a.maximum, scores->ties == XF_HIGHEST_WINS);
    }
}

/* The maximum of each row of a tile and its place; `last`: of equal ones the last. */
INLINE vec tile_first(const real *x, ptrdiff_t n, bool last, vec *place)
{
    vec a = v_load(x), at = v_zero();
    for (ptrdiff_t j = 1; j < n; j++) {
        const vec b = v_load(x + j * LANES);
        at = v_select(last ? v_le(a, b) : v_lt(a, b), v_set1((real)j), at);
        a = v_max(b, a);
    }
    *place = at;
    return v_max(a, v_set1(-INFINITY));
}

/* The sums of a block of each row of a tile; label: the place of the label in the block. */
INLINE tile_sums tile_block(const real *x, ptrdiff_t n, vec max, vec hold, vec y, vec label,
                            xf_ties ties)
{
    vec sum[CHAINS], slope[CHAINS], square[CHAINS];
    tile_sums all = NO_SUMS;
    for (ptrdiff_t c = 0; c < CHAINS && c < n; c++) {
        tile_sums s = NO_SUMS;
        s.held = all.held;
        s.above = all.above;
        for (ptrdiff_t j = c; j < n; j += CHAINS) {
            const vec a = v_load(x + j * LANES), at = v_set1((real)j);
            add_step(&s, a, max, true, hold, false, y);
            if (ties != XF_LABEL_WINS) {
                const mask wins = ties == XF_LOWEST_WINS ? v_lt(at, label) : v_lt(label, at);
                s.above = v_count(s.above, v_and(v_eq(a, y), wins));
            }
        }
        sum[c] = s.sum;
        slope[c] = s.slope;
        square[c] = s.square;
        all.held = s.held;
        all.above = s.above;
    }
    return (tile_sums){fold_chains(sum, n), fold_chains(slope, n), fold_chains(square, n),
                       v_counted(all.held), v_counted(all.above)};
}

static tile_sums tile_block_of(const real *x, ptrdiff_t n, vec max, vec hold, vec y, vec label,
                               xf_ties ties)
{
    return ties == XF_LOWEST_WINS    ? tile_block(x, n, max, hold, y, label, XF_LOWEST_WINS)
           : ties == XF_HIGHEST_WINS ? tile_block(x, n, max, hold, y, label, XF_HIGHEST_WINS)
                                     : tile_block(x, n, max, hold, y, label, XF_LABEL_WINS);
}

/* All rows with the lanes across them. */
static inline void evaluate_across(const xf_rows *x, xf_panel *p, xf_scores *scores, panel_tally *t)
{
    real *tile = (real *)p->band;
    real finite[LANES], hold[LANES], place[LANES], label[LANES], best[LANES];
    tally a[LANES];
    int64_t predicted[LANES] = {0};
    const bool last = scores->ties == XF_HIGHEST_WINS;
    const vec y = v_load(t->label), least = v_set1(-REAL_MAX);
    vec at = v_zero();
    if (p->classes <= BLOCK) { /* in one block, and in the compute type throughout */
        const ptrdiff_t n = p->classes;
        read_tile(x, 0, n, tile);
        for (int i = 0; i < LANES; i++)
            label[i] = (real)p->label[i];
        const vec m = tile_first(tile, n, last, &at);
        const vec none = v_select(v_lt(m, least), v_set1(NAN), m);
        const tile_sums s =
            tile_block_of(tile, n, v_max(least, m), none, y, v_load(label), scores->ties);
        const vec rest = v_sub(s.held, v_set1(1));
        v_store(t->maximum, m);
        v_store(t->sum, v_add(s.sum, rest));
        v_store(t->slope, s.slope);
        v_store(t->square, v_add(s.square, rest));
        v_store(t->rank, s.above);
        v_store(place, at);
        for (int i = 0; i < LANES; i++) {
            scores->rank[i] = (int64_t)t->rank[i];
            scores->predicted[i] = (int64_t)place[i];
        }
        return;
    }
    for (int i = 0; i < LANES; i++)
        a[i] = (tally){.maximum = -INFINITY};
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j0);
        tile = (real *)p->band + j0 % SEGMENT * LANES;
        if (j0 % SEGMENT == 0) {
            vec top = v_set1(-INFINITY);
            for (ptrdiff_t j = j0; j < p->classes && j < j0 + SEGMENT; j += BLOCK) {
                const ptrdiff_t length = block_length(p->classes, j);
                read_tile(x, j, length, tile + (j - j0) * LANES);
                const vec m = tile_first(tile + (j - j0) * LANES, length, last, &at);
                v_store(place, at);
                v_store(best, m);
                top = v_max(m, top);
                for (int i = 0; i < LANES; i++)
                    if (best[i] > t->maximum[i] || (last && best[i] == t->maximum[i]) || j == 0) {
                        t->maximum[i] = best[i];
                        predicted[i] = j + (int64_t)place[i];
                    }
            }
            v_store(best, top);
            for (int i = 0; i < LANES; i++) {
                hold[i] = NAN;
                if (best[i] > a[i].maximum) {
                    raise_tally(&a[i], best[i]);
                    hold[i] = best[i];
                }
                finite[i] = finite_maximum(a[i].maximum);
            }
        }
        for (int i = 0; i < LANES; i++)
            label[i] = (real)(p->label[i] - j0);
        const tile_sums s =
            tile_block_of(tile, n, v_load(finite), v_load(hold), y, v_load(label), scores->ties);
        real sum[LANES], slope[LANES], square[LANES], held[LANES], above[LANES];
        v_store(sum, s.sum);
        v_store(slope, s.slope);
        v_store(square, s.square);
        v_store(held, s.held);
        v_store(above, s.above);
        for (int i = 0; i < LANES; i++) {
            a[i].sum += sum[i];
            a[i].slope += slope[i];
            a[i].square += square[i];
            a[i].held += held[i];
            a[i].rank += above[i];
        }
    }
    for (int i = 0; i < LANES; i++) {
        end_tally(&a[i], i, t);
        scores->rank[i] = (int64_t)a[i].rank;
        scores->predicted[i] = predicted[i];
    }
}

/* Where a row holds nan, +inf or -inf alone, it has no scores. */
static inline void end_scores(const xf_panel *p, const real *label, const real *maximum,
                              xf_scores *scores)
{
    for (int i = 0; i < p->rows; i++) {
        if (scores->confidence[i] != scores->confidence[i]) {
            scores->rank[i] = INT64_MAX;
            scores->predicted[i] = -1;
        } else if (scores->ties == XF_LABEL_WINS && p->label[i] >= 0 && label[i] == maximum[i]) {
            scores->predicted[i] = p->label[i];
        }
    }
}

INLINE void widen_scores(vec a, double *to)
{
    real value[LANES];
    v_store(value, a);
    for (int i = 0; i < LANES; i++)
        to[i] = value[i];
}

static inline void evaluate_logits(const xf_rows *x, xf_panel *p, xf_scores *scores)
{
    panel_tally t;
    for (int i = 0; i < LANES; i++) {
        const ptrdiff_t y = p->label[i] < 0 ? 0 : p->label[i];
        t.label[i] = read_one(x->row[i] + y * x->step, x->type);
    }
    if (!packed(x->type, x->step) || p->classes <= TILE_CLASSES) {
        evaluate_across(x, p, scores, &t);
    } else {
        for (int i = 0; i < LANES; i++)
            t.maximum[i] = t.sum[i] = t.slope[i] = t.square[i] = 0;
        for (int i = 0; i < p->rows; i++)
            evaluate_along(x, p, i, scores, &t);
    }
    const vec one = v_set1(1), m = v_load(t.maximum), y = v_load(t.label);
    const vec s = v_add(v_load(t.sum), v_sub(m, m)); /* nan where the maximum is not finite */
    const vec log = v_log1p(s), confidence = v_div(one, v_add(one, s)), d = v_sub(y, m);
    const vec e = v_exp(v_max(v_set1(DEEPEST), d)), q = v_load(t.square);
    const mask first = v_eq(y, m);
    const vec others = v_select(first, s, v_add(one, v_sub(s, e)));
    const vec squares = v_select(first, q, v_fma(v_neg(e), e, v_add(one, q)));
    const vec wrong = v_mul(others, confidence);
    widen_scores(v_sub(log, d), scores->loss);
    widen_scores(v_add(m, log), scores->lse);
    widen_scores(v_fma(v_neg(v_load(t.slope)), confidence, log), scores->entropy);
    widen_scores(v_fma(wrong, wrong, v_mul(v_mul(squares, confidence), confidence)), scores->brier);
    widen_scores(confidence, scores->confidence);
    end_scores(p, t.label, t.maximum, scores);
}

/* From probabilities: loss -log p_y, entropy -sum p log p, Brier (1 - p_y)^2 + sum_{j != y} p_j^2,
   the squares of the largest left out of the sum, so that nothing cancels where it is the label's.
 */
INLINE vec square_term(vec p, vec q, const void *k)
{
    (void)q;
    return v_drop(v_eq(p, *(const vec *)k), v_mul(p, p));
}
SUM_BLOCK(sum_square, square_term, 0, 0)

static inline void evaluate_probabilities(const xf_rows *x, xf_panel *p, xf_scores *scores)
{
    real label[LANES] = {0}, maximum[LANES] = {0}, log[LANES];
    for (int i = 0; i < p->rows; i++) {
        const ptrdiff_t y = p->label[i] < 0 ? 0 : p->label[i];
        label[i] = read_one(x->row[i] + y * x->step, x->type);
    }
    v_store(log, v_log(v_load(label)));
    for (int i = 0; i < p->rows; i++) {
        const real y = label[i];
        real m = -INFINITY;
        ptrdiff_t first = 0;
        for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
            const ptrdiff_t n = block_length(p->classes, j0);
            const real b = block_maximum(fetch(x, i, j0, n, p->block[0]), n);
            if (b > m || (b == m && scores->ties == XF_HIGHEST_WINS)) {
                m = b;
                first = j0;
            }
        }
        const vec held = v_set1(m);
        double entropy = 0, square = 0, equal = 0, rank = 0;
        for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
            const ptrdiff_t n = block_length(p->classes, j0);
            const real *a = fetch(x, i, j0, n, p->block[0]);
            entropy += sum_entropy(a, a, n, NULL);
            square += sum_square(a, a, n, &held);
            equal += count_equal(a, n, m);
            ptrdiff_t from, to;
            tie_range(j0, n, p->label[i], scores->ties, &from, &to);
            rank += count_above(a, n, y) + count_ties(a, from, to, y);
        }
        const double most = m, miss = 1 - (double)y;
        square += y == m ? (equal - 1) * most * most : equal * most * most - (double)y * y;
        maximum[i] = m;
        scores->loss[i] = -log[i];
        scores->lse[i] = 0;
        scores->entropy[i] = (real)entropy;
        scores->brier[i] = (real)(miss * miss + square);
        scores->confidence[i] = entropy == entropy && m <= REAL_MAX ? m : NAN;
        scores->rank[i] = (int64_t)rank;
        if (scores->wants_predicted) {
            const ptrdiff_t n = block_length(p->classes, first);
            scores->predicted[i] = first + find_equal(fetch(x, i, first, n, p->block[0]), n, m,
                                                      scores->ties == XF_HIGHEST_WINS);
        }
        if (scores->confidence[i] != scores->confidence[i])
            scores->loss[i] = scores->entropy[i] = scores->brier[i] = NAN;
    }
    end_scores(p, label, maximum, scores);
}

static void evaluate(const xf_rows *x, xf_panel *p, bool from_logits, xf_scores *scores)
{
    if (from_logits)
        evaluate_logits(x, p, scores);
    else
        evaluate_probabilities(x, p, scores);
}
