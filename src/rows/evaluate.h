/* Rows scored against an index label y: everything that is reported of one is a function of

     m = max x_j,  s' = sum exp(d_j),  E = sum exp(d_j) d_j,  Q = sum exp(d_j)^2,  d_j = x_j - m,

   of which s' and Q leave the maximum's own term out. With s = 1 + s' and e_y = exp(d_y)

     loss        log1p(s') + (m - x_y)                  lse         m + log1p(s')
     entropy     log1p(s') - E / s                      confidence  1 / s
     Brier       ((s - e_y)^2 + sum_{j != y} e_j^2) / s^2
     rank        the number of logits above x_y, and of those equal to it that win the tie

   where s - e_y is s' and the sum of squares Q where the label is at the maximum: nothing cancels,
   and the small scores of a confident row keep their digits. The sums are taken with the exponentials,
   in the order and by the code of statistics.h, so the loss has the bits of the one that is trained
   with; E and Q are held times 2^EXP_SCALE, as s' is. */

/* Below it exp is 0 in every type: d = -inf must not meet that 0. */
#define DEEPEST (-1000)

/* The sums of one row so far. */
typedef struct {
    running of; /* its maximum and s' */
    double slope, square, rank;
    ptrdiff_t first; /* the block with the maximum that wins */
} tally;

_Static_assert(sizeof(tally) * XF_PANEL <= sizeof(((xf_panel *)0)->sums), "a panel's sums");

static inline void raise_tally(tally *a, real to)
{
    const real from = finite_maximum(a->of.maximum);
    const double held = a->of.held * EXP_ONE, all = a->of.sum + held;
    if (all > 0) {
        const double by = exp_of_fall(from, to);
        a->slope = by > 0 ? by * (a->slope - ((double)to - (double)from) * all) : 0;
        a->square = by * by * (a->square + held);
    }
    raise_maximum(&a->of, to);
}

/* The sums of a block in each lane; equal: how many are at the maximum, above: above the label's. */
typedef struct {
    vec sum[2], slope[2], square[2], equal, above;
} score_sums;

/* So many vectors in lockstep as the registers hold. */
#define SCORE_GROUP (REGS == 1 ? 2 : 1)

/* x against its row's maximum, with its exponential, which is none where x is held out. */
typedef struct {
    vec e, slope, square;
} score_terms;

INLINE vec depth(vec x, vec max, bool general)
{
    const vec d = v_sub(x, max);
    return general ? v_max(v_set1(DEEPEST), d) : d;
}

INLINE vec unit(vec e) { return v_mul(e, v_set1(EXP_UNIT)); }

INLINE void add_score(score_sums *s, int c, vec x, vec e, vec max, vec label, bool general,
                      bool held)
{
    if (held) {
        const mask equal = v_eq(x, max);
        s->equal = v_count(s->equal, equal);
        e = v_drop(equal, e);
    }
    s->above = v_count(s->above, v_lt(label, x));
    s->sum[c] = v_add(s->sum[c], e);
    s->slope[c] = v_fma(e, depth(x, max, general), s->slope[c]);
    s->square[c] = v_fma(unit(e), e, s->square[c]);
}

/* As sum_exp; label: what the logits that are counted are above. The sums but for the counts, which
   go to those of the row, are of the block alone. */
INLINE void score_block_as(const real *x, ptrdiff_t n, const row_exp *of, bool general, bool held,
                           bool watched, real label, ptrdiff_t ahead, bool *below, tally *a)
{
    const vec least = v_set1(-INFINITY), y = v_set1(label), none = v_zero();
    const row_exp here = row_exp_once(of), *f = &here;
    score_sums s = {{none, none}, {none, none}, {none, none}, none, none};
    vec seen = general ? least : none;
    ptrdiff_t j = 0;
    for (; j + CHAINS <= n; j += CHAINS) {
        prefetch_two(x + j, ahead);
        for (int c = 0; c < 2; c += SCORE_GROUP) {
            vec at[SCORE_GROUP], e[SCORE_GROUP], z[SCORE_GROUP];
            for (int i = 0; i < SCORE_GROUP; i++)
                at[i] = v_hold(v_load(x + j + (c + i) * LANES));
            v_row_exp(f, false, general, at, e, z, SCORE_GROUP);
            for (int i = 0; i < SCORE_GROUP; i++) {
                if (watched)
                    seen = v_seen(general, seen, z[i]);
                add_score(&s, c + i, at[i], e[i], f->maximum, y, general, held);
            }
        }
    }
    if (watched && n >= CHAINS)
        *below = v_all_below(general, seen);
    for (int c = 0; j < n; c++, j += LANES) {
        const vec at = load_to(x + j, n - j, least);
        vec e, z;
        v_row_exp(f, false, true, &at, &e, &z, 1);
        if (watched && !v_all(v_lt(at, f->maximum)))
            *below = false;
        add_score(&s, c, at, e, f->maximum, y, true, held);
    }
    if (watched && !*below)
        return;
    a->of.sum += v_fold_add(v_add(s.sum[0], s.sum[1]));
    a->slope += v_fold_add(v_add(s.slope[0], s.slope[1]));
    a->square += v_fold_add(v_add(s.square[0], s.square[1]));
    a->rank += v_fold_add(v_counted(s.above));
    if (held)
        a->of.held += v_fold_add(v_counted(s.equal));
}

static void score_block(const real *x, ptrdiff_t n, const row_exp *f, bool held, real label,
                        ptrdiff_t ahead, tally *a)
{
    bool below;
    if (!FUSED || a->of.general) {
        if (held)
            score_block_as(x, n, f, true, true, false, label, ahead, &below, a);
        else
            score_block_as(x, n, f, true, false, false, label, ahead, &below, a);
    } else {
        if (held)
            score_block_as(x, n, f, false, true, false, label, ahead, &below, a);
        else
            score_block_as(x, n, f, false, false, false, label, ahead, &below, a);
    }
}

/* Of a block that is expected to be below the maximum and within reach; nothing is added if not. */
static bool score_below(const real *x, ptrdiff_t n, const row_exp *f, real label, tally *a)
{
    bool below = true;
    if (!FUSED || a->of.general)
        score_block_as(x, n, f, true, false, true, label, AHEAD, &below, a);
    else
        score_block_as(x, n, f, false, false, true, label, AHEAD, &below, a);
    return below;
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

/* The label of a row: its logit, the number below that, its class. */
typedef struct {
    real logit, under;
    int64_t label;
    xf_ties ties;
} aim;

static inline aim aim_of(const xf_panel *p, real logit, int i, xf_ties ties)
{
    aim y = {.logit = logit, .under = logit, .label = p->label[i], .ties = ties};
    real_bits bits;
    memcpy(&bits, &logit, sizeof bits);
    bits = logit > 0 ? bits - 1 : logit < 0 ? bits + 1 : ((real_bits)1 << (XF_BITS - 1)) + 1;
    memcpy(&y.under, &bits, sizeof bits);
    return y;
}

/* What the logits of a block are to be above: where all of them win a tie the number below the label's
   logit. Else *from to *to are those that do. */
static inline real threshold(const aim *y, ptrdiff_t j0, ptrdiff_t n, ptrdiff_t *from,
                             ptrdiff_t *to)
{
    tie_range(j0, n, y->label, y->ties, from, to);
    if (*to - *from < n || !(y->logit > -INFINITY))
        return y->logit;
    *to = *from;
    return y->under;
}

/* Adds a segment from class j0 on, if nothing in it is above the maximum so far. */
static inline bool evaluate_below(const real *x, ptrdiff_t j0, ptrdiff_t n, const row_exp *f,
                                  const aim *y, tally *a)
{
    tally b = *a;
    const real m = finite_maximum(a->of.maximum);
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        const ptrdiff_t length = block_length(n, j);
        ptrdiff_t from, to;
        const real label = threshold(y, j0 + j, length, &from, &to);
        if (!score_below(x + j, length, f, label, &b)) {
            const range r = block_range(x + j, length, AHEAD);
            if (r.most > m)
                return false;
            b.of.general = is_general(m, r.least);
            if (r.most == m && y->ties == XF_HIGHEST_WINS)
                b.first = j0 + j;
            score_block(x + j, length, f, r.most == m, label, AHEAD, &b);
        }
        b.rank += count_ties(x + j, from, to, y->logit);
    }
    *a = b;
    return true;
}

/* What is gathered of a panel besides what `finish` wants. */
typedef struct {
    real slope[LANES], square[LANES];
} panel_tally;

static inline void end_tally(const tally *a, xf_panel *p, int i, panel_tally *t, xf_scores *scores)
{
    state(p, HELD)[i] = (real)(a->of.sum + (a->of.held - 1) * EXP_ONE);
    state(p, MAXIMUM)[i] = a->of.maximum;
    t->slope[i] = (real)(a->slope * EXP_UNIT);
    t->square[i] = (real)(a->square * EXP_UNIT + (a->of.held - 1));
    scores->rank[i] = (int64_t)a->rank;
}

/* Row i with its lanes along the classes, as row_statistics. */
static inline void evaluate_along(const xf_rows *rows, xf_panel *p, int i, xf_scores *scores,
                                  panel_tally *t, upcoming *soon)
{
    tally a = {.of = {.maximum = -INFINITY}};
    row_exp f;
    real *const buffer = row_buffer(p, i);
    const ptrdiff_t classes = p->classes;
    const int following = i + 1 < p->rows ? i + 1 : i;
    const bool last = scores->ties == XF_HIGHEST_WINS;
    const aim y = aim_of(p, state(p, LABEL_LOGIT)[i], i, scores->ties);
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += SEGMENT) {
        const ptrdiff_t n = classes - j0 < SEGMENT ? classes - j0 : SEGMENT;
        const real *x = soon->row == i ? soon->x : fetch(rows, i, j0, n, buffer);
        if (j0 > 0 && evaluate_below(x, j0, n, &f, &y, &a))
            continue;
        const survey s = soon->row == i ? soon->s : survey_of(x, n, AHEAD);
        const bool rises = s.all.most > a.of.maximum;
        if (rises)
            raise_tally(&a, s.all.most);
        if (rises || (last && s.all.most == a.of.maximum))
            for (ptrdiff_t j = 0, found = 0; j < n && (last || !found); j += BLOCK)
                if (s.top[j / BLOCK] == s.all.most) {
                    a.first = j0 + j;
                    found = 1;
                }
        const real m = finite_maximum(a.of.maximum);
        if (rises || j0 == 0)
            f = row_exp_of(v_set1(m), false);
        if (classes <= SHORT_ROW && following != i) {
            soon->row = following;
            soon->x = fetch(rows, following, 0, classes, row_buffer(p, following));
            soon->s = survey_of(soon->x, classes, AHEAD);
        }
        const ptrdiff_t apart =
            (rows->row[following] - rows->row[i]) * (classes > SHORT_ROW ? 1 : 2);
        const ptrdiff_t ahead = j0 + SEGMENT < classes ? n * (ptrdiff_t)sizeof(real) : apart;
        a.of.general = is_general(m, s.all.least);
        for (ptrdiff_t j = 0; j < n; j += BLOCK) {
            const ptrdiff_t length = block_length(n, j);
            ptrdiff_t from, to;
            const real label = threshold(&y, j0 + j, length, &from, &to);
            score_block(x + j, length, &f, s.top[j / BLOCK] == m, label, ahead, &a);
            a.rank += count_ties(x + j, from, to, y.logit);
        }
    }
    end_tally(&a, p, i, t, scores);
    if (scores->wants_predicted) {
        const ptrdiff_t n = block_length(classes, a.first);
        const real *x = fetch(rows, i, a.first, n, buffer);
        scores->predicted[i] = a.first + find_equal(x, n, a.of.maximum, last);
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

/* The sums of a block of each row of a tile; above: how many are above the label's logit. */
typedef struct {
    vec sum, slope, square, held, above;
} tile_scores;

/* How many of a tile, besides `above`, win a tie with the labels, which are at the places `at`. Where
   none but the label is equal, that is seen by counting. */
INLINE vec tile_ties(const real *x, ptrdiff_t n, vec y, vec at, bool highest)
{
    vec count = v_zero();
    for (ptrdiff_t j = 0; j < n; j++) {
        const vec here = v_set1((real)j);
        const mask wins = highest ? v_lt(at, here) : v_lt(here, at);
        count = v_count(count, v_and(v_eq(v_load(x + j * LANES), y), wins));
    }
    return v_counted(count);
}

INLINE void tile_terms(const real *x, int n, const row_exp *f, bool general, vec y, tile_scores *s,
                       vec *reached, score_terms *to)
{
    vec a[TILE_GROUP], e[TILE_GROUP], z[TILE_GROUP];
    for (int i = 0; i < n; i++)
        a[i] = v_hold(v_load(x + i * LANES));
    v_row_exp(f, true, general, a, e, z, n);
    for (int i = 0; i < n; i++) {
        const mask held = v_eq(a[i], f->maximum);
        s->held = v_count(s->held, held);
        s->above = v_count(s->above, v_lt(y, a[i]));
        *reached = v_count(*reached, v_le(y, a[i]));
        to[i].e = v_drop(held, e[i]);
        to[i].slope = depth(a[i], f->maximum, general);
        to[i].square = unit(to[i].e);
    }
}

INLINE tile_scores tile_scores_as(const real *x, ptrdiff_t n, const row_exp *f, bool general, vec y,
                                  vec *reached, soon next)
{
    vec sum[CHAINS], slope[CHAINS], square[CHAINS];
    const vec none = v_zero();
    tile_scores s = {none, none, none, none, none};
    *reached = none;
    for (ptrdiff_t j = 0; j < n;) {
        score_terms t[TILE_GROUP];
        const int count = j + TILE_GROUP <= n ? TILE_GROUP : 1;
        prefetch_lines(&next, j, count);
        if (count == TILE_GROUP)
            tile_terms(x + j * LANES, TILE_GROUP, f, general, y, &s, reached, t);
        else
            tile_terms(x + j * LANES, 1, f, general, y, &s, reached, t);
        for (int i = 0; i < count; i++, j++) {
            const ptrdiff_t c = j % CHAINS;
            sum[c] = j < CHAINS ? t[i].e : v_add(sum[c], t[i].e);
            slope[c] = v_fma(t[i].e, t[i].slope, j < CHAINS ? none : slope[c]);
            square[c] = v_fma(t[i].square, t[i].e, j < CHAINS ? none : square[c]);
        }
    }
    *reached = v_counted(*reached);
    return (tile_scores){fold_chains(sum, n), fold_chains(slope, n), fold_chains(square, n),
                         v_counted(s.held), v_counted(s.above)};
}

/* at: the places of the labels in the block. */
static tile_scores score_tile(const real *x, ptrdiff_t n, const row_exp *f, bool general, vec y,
                              vec at, xf_ties ties, soon next)
{
    vec reached;
    tile_scores s = !FUSED || general ? tile_scores_as(x, n, f, true, y, &reached, next)
                                      : tile_scores_as(x, n, f, false, y, &reached, next);
    const vec one = v_set1(1),
              own = v_keep(v_and(v_le(v_zero(), at), v_lt(at, v_set1((real)n))), one);
    if (ties != XF_LABEL_WINS && !v_all(v_eq(reached, v_add(s.above, own))))
        s.above = v_add(s.above, ties == XF_HIGHEST_WINS ? tile_ties(x, n, y, at, true)
                                                         : tile_ties(x, n, y, at, false));
    return s;
}

/* The class whose logit stands for the label's. */
static inline int64_t labelled(const xf_panel *p, int i)
{
    return p->label[i] < 0 ? 0 : p->label[i];
}

/* A panel whose classes, a block at most, are in its band: in the compute type throughout. */
static inline void evaluate_block(xf_panel *p, xf_scores *scores, panel_tally *t, soon next)
{
    real *const band = p->band;
    const ptrdiff_t n = p->classes;
    real place[LANES], label[LANES], rank[LANES];
    vec at = v_zero(), m = v_set1(-INFINITY), least = v_set1(INFINITY);
    tile_label_logits(band, p);
    for (int i = 0; i < LANES; i++)
        label[i] = (real)labelled(p, i);
    tile_range(band, n, &least, &m);
    if (scores->wants_predicted)
        tile_first(band, n, scores->ties == XF_HIGHEST_WINS, &at);
    const vec finite = v_max(v_set1(-REAL_MAX), m);
    const row_exp f = row_exp_of(finite, true);
    const tile_scores s =
        score_tile(band, n, &f, is_tile_general(finite, least), v_load(state(p, LABEL_LOGIT)),
                   v_load(label), scores->ties, next);
    const vec rest = v_sub(s.held, v_set1(1));
    v_store(state(p, HELD), v_fma(rest, v_set1(EXP_ONE), s.sum));
    v_store(state(p, MAXIMUM), m);
    v_store(t->slope, unit(s.slope));
    v_store(t->square, v_add(unit(s.square), rest));
    v_store(rank, s.above);
    v_store(place, at);
    for (int i = 0; i < LANES; i++) {
        scores->rank[i] = (int64_t)rank[i];
        scores->predicted[i] = (int64_t)place[i];
    }
}

/* Adds the segment in a panel's band. */
static inline void evaluate_band(xf_panel *p, ptrdiff_t j0, ptrdiff_t n, vec least, vec top,
                                 const xf_scores *scores)
{
    tally *const a = (tally *)p->sums;
    real *const band = p->band;
    real finite[LANES], best[LANES], before[LANES], place[LANES], label[LANES], rank[LANES];
    const bool last = scores->ties == XF_HIGHEST_WINS;
    for (int i = 0; i < LANES; i++)
        before[i] = a[i].of.maximum;
    for (ptrdiff_t j = 0; scores->wants_predicted && j < n; j += BLOCK) {
        vec at;
        v_store(best, tile_first(band + j * LANES, block_length(n, j), last, &at));
        v_store(place, at);
        for (int i = 0; i < LANES; i++)
            if (best[i] > before[i] || (last && best[i] == before[i]) || j0 + j == 0) {
                before[i] = best[i];
                a[i].first = j0 + j + (ptrdiff_t)place[i];
            }
    }
    v_store(best, top);
    for (int i = 0; i < LANES; i++) {
        if (best[i] > a[i].of.maximum)
            raise_tally(&a[i], best[i]);
        finite[i] = finite_maximum(a[i].of.maximum);
    }
    const row_exp f = row_exp_of(v_load(finite), true);
    const bool general = is_tile_general(v_load(finite), least);
    for (ptrdiff_t j = 0; j < n; j += BLOCK) {
        for (int i = 0; i < LANES; i++)
            label[i] = (real)(labelled(p, i) - (j0 + j));
        const soon next = {(const char *)(band + j * LANES) + AHEAD, 64};
        const tile_scores s =
            score_tile(band + j * LANES, block_length(n, j), &f, general,
                       v_load(state(p, LABEL_LOGIT)), v_load(label), scores->ties, next);
        real sum[LANES], slope[LANES], square[LANES], held[LANES];
        v_store(sum, s.sum);
        v_store(slope, s.slope);
        v_store(square, s.square);
        v_store(held, s.held);
        v_store(rank, s.above);
        for (int i = 0; i < LANES; i++) {
            a[i].of.sum += sum[i];
            a[i].of.held += held[i];
            a[i].slope += slope[i];
            a[i].square += square[i];
            a[i].rank += rank[i];
        }
    }
}

/* Panels with the lanes across their rows, as panel_statistics. */
static inline void evaluate_across(const xf_rows *x, xf_panel *p, xf_scores *scores, panel_tally *t,
                                   int panels)
{
    if (p->classes <= BLOCK) {
        read_bands(x, p, panels, 0, p->classes, 0);
        for (int k = 0; k < panels; k++)
            evaluate_block(p + k, scores + k, t + k, next_panel(x, p, k, panels));
        return;
    }
    vec least[XF_TOGETHER], top[XF_TOGETHER];
    for (int k = 0; k < panels; k++) {
        label_logits(x + k, p + k);
        for (int i = 0; i < LANES; i++)
            ((tally *)p[k].sums)[i] = (tally){.of = {.maximum = -INFINITY}};
    }
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += SEGMENT) {
        const ptrdiff_t n = segment_length(p->classes, j0);
        read_segment(x, p, panels, j0, n, least, top);
        for (int k = 0; k < panels; k++)
            evaluate_band(p + k, j0, n, least[k], top[k], scores + k);
    }
    for (int k = 0; k < panels; k++)
        for (int i = 0; i < LANES; i++) {
            tally *const a = (tally *)p[k].sums + i;
            end_tally(a, p + k, i, t + k, scores + k);
            scores[k].predicted[i] = a->first;
        }
}

/* Where a row holds nan, +inf or -inf alone, it has no scores. */
static inline void end_scores(const xf_panel *p, const real *label, const real *maximum,
                              xf_scores *scores)
{
    for (int i = 0; i < p->rows; i++)
        scores->reciprocal[i] = 1 / ((double)scores->rank[i] + 1);
    for (int i = 0; i < p->rows; i++) {
        if (scores->confidence[i] != scores->confidence[i]) {
            scores->rank[i] = INT64_MAX;
            scores->reciprocal[i] = 0;
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

/* What is reported of a panel, from its sums. */
static inline void finish_scores(xf_panel *p, const panel_tally *t, xf_scores *scores)
{
    finish(NULL, p);
    const vec one = v_set1(1), m = v_load(state(p, MAXIMUM)), y = v_load(state(p, LABEL_LOGIT));
    const vec s = v_load(state(p, SUM)), log = v_load(state(p, LOG));
    const vec confidence = v_div(one, v_add(one, s)), q = v_load(t->square);
    const vec e = v_exp(v_max(v_set1(DEEPEST), v_sub(y, m)));
    const mask first = v_eq(y, m);
    const vec others = v_select(first, s, v_add(one, v_sub(s, e)));
    const vec squares = v_select(first, q, v_fma(v_neg(e), e, v_add(one, q)));
    const vec wrong = v_mul(others, confidence);
    for (int i = 0; i < LANES; i++)
        scores->loss[i] = (real)p->loss[i];
    widen_scores(v_add(m, log), scores->lse);
    widen_scores(v_fma(v_neg(v_load(t->slope)), confidence, log), scores->entropy);
    widen_scores(v_fma(wrong, wrong, v_mul(v_mul(squares, confidence), confidence)), scores->brier);
    widen_scores(confidence, scores->confidence);
    end_scores(p, state(p, LABEL_LOGIT), state(p, MAXIMUM), scores);
}

static inline void evaluate_logits(const xf_rows *x, xf_panel *p, xf_scores *scores, int panels)
{
    panel_tally t[XF_TOGETHER];
    for (int k = 0; k < panels; k++) {
        p[k].kept = XF_KEPT_NOTHING;
        p[k].wants_gradient = false;
        p[k].z_loss = 0;
        p[k].gradient_scale = 1;
        for (int i = 0; i < LANES; i++)
            p[k].own[i] = p[k].weight[i] = 1;
    }
    if (!packed(x->type, x->step) || p->classes <= TILE_CLASSES) {
        evaluate_across(x, p, scores, t, panels);
    } else {
        for (int i = 0; i < LANES; i++) {
            state(p, MAXIMUM)[i] = state(p, HELD)[i] = t->slope[i] = t->square[i] = 0;
            scores->rank[i] = 0;
        }
        label_logits(x, p);
        upcoming soon = {.row = -1};
        for (int i = 0; i < p->rows; i++)
            evaluate_along(x, p, i, scores, t, &soon);
    }
    for (int k = 0; k < panels; k++)
        finish_scores(p + k, t + k, scores + k);
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
            const real b = block_maximum(fetch(x, i, j0, n, p->work->block[0]), n);
            if (b > m || (b == m && scores->ties == XF_HIGHEST_WINS)) {
                m = b;
                first = j0;
            }
        }
        const vec held = v_set1(m);
        double entropy = 0, square = 0, equal = 0, rank = 0;
        for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
            const ptrdiff_t n = block_length(p->classes, j0);
            const real *a = fetch(x, i, j0, n, p->work->block[0]);
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
            scores->predicted[i] = first + find_equal(fetch(x, i, first, n, p->work->block[0]), n,
                                                      m, scores->ties == XF_HIGHEST_WINS);
        }
        if (scores->confidence[i] != scores->confidence[i])
            scores->loss[i] = scores->entropy[i] = scores->brier[i] = NAN;
    }
    end_scores(p, label, maximum, scores);
}

static void evaluate(const xf_rows *x, xf_panel *p, bool from_logits, xf_scores *scores, int panels)
{
    if (from_logits)
        evaluate_logits(x, p, scores, panels);
    else
        evaluate_probabilities(x, p, scores);
}
