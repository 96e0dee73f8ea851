/* Entropy and divergences of rows of probabilities. With P = sum p_j and Q = sum q_j where they are
   to be normalised, and y = q P / Q:

     entropy         -sum p log p;  normalised (sum p log(P / p)) / P
     KL              sum p log(p / q);  normalised (sum p (f - log1p(f))) / P,  f = (y - p) / p
     Jensen-Shannon  sum (p log(p / m) + q log(q / m)) / 2,  m = (p + q) / 2

   The largest p_j has log(P / p_j) = log1p((P - p_j) / p_j) from the sum of the others, so that the
   small entropy of a confident row keeps its digits. A term with p = 0 is 0. A negative number
   makes its row nan, also where all are negative, whose quotients by their sum are not.

   The sums of p and y are equal, so that adding sum (y - p) to KL changes nothing, and makes every
   term positive and of second order; so is every term of Jensen-Shannon. Therefore both keep their
   digits however close p and q are, if only y - p does: P / Q is taken from sums without rounding,
   and like q P / Q in two parts. */

/* A row, or a block of it, between the passes over it. */
typedef struct {
    enum { MOST, OTHERS, SUMS, TERMS, DONE } pass;
    xf_divergence kind;
    bool normalize, valid;
    real lift[2]; /* powers of two by which p and q are multiplied as they are read */
    real held;    /* the largest p, held out of sums */
    real scale;   /* 1 / P */
    real ratio[2];
    double count, others; /* of the p equal to `held`, and the sum of the rest */
    double held_total;    /* the sum of their terms */
    double total, weight; /* the sum of the other terms, and P or 1 */
    double value;
    _Alignas(64) real sum[2][4][LANES]; /* see add_exactly */
} row_of_terms;

INLINE vec entropy_term(vec p, vec q, const void *k)
{
    (void)q, (void)k;
    return v_drop(v_eq(p, v_zero()), v_mul(v_neg(p), v_log(p)));
}
/* p log(P / p), but for the ones held out. */
INLINE vec surprise_term(vec p, vec q, const void *k)
{
    const row_of_terms *row = k;
    (void)q;
    mask none = v_or(v_eq(p, v_zero()), v_eq(p, v_set1(row->held)));
    return v_drop(none, v_mul(v_neg(p), v_log(v_mul(p, v_set1(row->scale)))));
}
INLINE vec others_term(vec p, vec q, const void *k)
{
    (void)q;
    return v_drop(v_eq(p, v_set1(((const row_of_terms *)k)->held)), p);
}
INLINE vec equal_term(vec p, vec q, const void *k)
{
    (void)q;
    return v_keep(v_eq(p, v_set1(((const row_of_terms *)k)->held)), v_set1(1));
}
INLINE vec plain_kl_term(vec p, vec q, const void *k)
{
    (void)k;
    return rel_entr_within(p, q, NAN);
}

/* y = q P / Q, and y - p, which of rows that differ by a factor alone is the error of P / Q. */
#if XF_BITS == 32
#define RATIO_ERROR 0x1p-48f
#else
#define RATIO_ERROR 0x1p-106
#endif
INLINE vec to_scale(vec p, vec q, const void *k, vec *apart)
{
    const row_of_terms *row = k;
    vec ratio = v_set1(row->ratio[0]), y = v_mul(q, ratio);
    vec low = v_fma(q, v_set1(row->ratio[1]), v_lost(q, ratio, y));
    vec d = v_add(v_sub(y, p), low);
    *apart = v_drop(v_le(v_max(d, v_neg(d)), v_mul(y, v_set1(RATIO_ERROR))), d);
    return y;
}
INLINE vec kl_term(vec p, vec q, const void *k)
{
    vec d, y = to_scale(p, q, k, &d);
    return kl_div_within(p, y, d, NAN);
}

/* With s = p + y, u = |y - p| / s and w = 1 - u = 2 min(p, y) / s the term is
     s / 4 (u (log1p(u) - log1p(-u)) + log1p(u) + log1p(-u))    where u is near 0, and
     s / 4 (2 log(2 - w) + w (log w - log(2 - w)))              elsewhere,
   and s ln2 / 2 where w is 0. From f - log1p(f) the first is u (2 u - a + b) - (a + b), where only
   half cancels. */
INLINE vec js_term(vec p, vec q, const void *k)
{
    const vec zero = v_zero(), half = v_set1((real)0.5), one = v_set1(1);
    vec d, y = to_scale(p, q, k, &d), s = v_add(p, y), inverse = v_div(one, s), unlift = one;
    mask plain = v_plain(inverse);
    if (!v_all(plain)) { /* s or its inverse are beyond the normal numbers */
        mask small = v_lt(s, one);
        vec up = v_set1(SUBNORMAL_SCALE), down = v_set1(1 / SUBNORMAL_SCALE);
        vec lift = v_select(plain, one, v_select(small, up, down));
        unlift = v_select(plain, one, v_select(small, down, up));
        p = v_mul(p, lift);
        y = v_mul(y, lift);
        d = v_mul(d, lift);
        s = v_add(p, y);
        inverse = v_div(one, v_select(v_eq(s, zero), one, s));
    }
    vec u = v_mul(v_max(d, v_neg(d)), inverse), least = v_select(v_lt(d, zero), y, p);
    mask large = v_lt(half, u);
    vec w = v_select(large, v_mul(v_add(least, least), inverse), v_sub(one, u));
    u = v_select(large, v_sub(one, w), u);
    mask upper = v_lt(v_set1((real)0.41421356), u); /* log1p(u) = ln 2 + log1p((u - 1) / 2) */
    vec f = v_select(upper, v_fma(half, u, v_neg(half)), u), g;
    vec e = v_split(w, &g);
    mask near = v_eq(e, zero); /* w of 0 is split as something finite */
    g = v_select(near, v_neg(u), g);
    vec a = v_excess(f), b = v_excess(g);
    vec close = v_fma(u, v_sub(v_add(u, u), v_sub(a, b)), v_neg(v_add(a, b)));
    a = v_add(v_keep(upper, v_set1(LN2_HIGH)), v_add(f, v_sub(v_keep(upper, v_set1(LN2_LOW)), a)));
    b = v_fma(e, v_set1(LN2_HIGH), v_add(g, v_fma(e, v_set1(LN2_LOW), v_neg(b))));
    vec far = v_fma(w, v_sub(b, a), v_add(a, a));
    vec t = v_mul(v_mul(v_mul(v_set1((real)0.25), s), v_select(near, close, far)), unlift);
    mask both = v_and(v_le(zero, p), v_le(zero, y));
    return v_all(both) ? t : v_select(both, t, v_set1(NAN));
}
SUM_BLOCK(sum_entropy, entropy_term, 0, 0)
SUM_BLOCK(sum_surprise, surprise_term, 0, 0)
SUM_BLOCK(sum_others, others_term, 0, 0)
SUM_BLOCK(sum_equal, equal_term, 0, 0)
SUM_BLOCK(sum_plain_kl, plain_kl_term, 0, 0)
SUM_BLOCK(sum_kl, kl_term, 0, 0)
SUM_BLOCK(sum_js, js_term, 0, 0)

/* s + x, and what rounding has lost of it (Knuth). */
INLINE vec v_two_sum(vec s, vec x, vec *lost)
{
    vec t = v_add(s, x), z = v_sub(t, s);
    *lost = v_add(v_sub(s, v_sub(t, z)), v_sub(x, z));
    return t;
}
INLINE double two_sum(double s, double x, double *lost)
{
    double t = s + x, z = t - s;
    *lost = (s - (t - z)) + (x - z);
    return t;
}

/* Adds a block to the two chains of a sum, and what they have lost to the two behind them. */
static void add_exactly(real (*sum)[LANES], const real *p, ptrdiff_t n)
{
    vec s[2] = {v_load(sum[0]), v_load(sum[1])}, rest[2] = {v_load(sum[2]), v_load(sum[3])}, lost;
    for (ptrdiff_t j = 0; j < n; j += CHAINS) {
        prefetch_two(p + j, AHEAD);
        for (int c = 0; c < 2 && j + c * LANES < n; c++) {
            s[c] = v_two_sum(s[c], load_to(p + j + c * LANES, n - j - c * LANES, v_zero()), &lost);
            rest[c] = v_add(rest[c], lost);
        }
    }
    for (int c = 0; c < 2; c++) {
        v_store(sum[c], s[c]);
        v_store(sum[2 + c], rest[c]);
    }
}

/* The sum in two parts, the first of which is it rounded; nan where it has overflowed. */
static double exact_sum(real (*sum)[LANES], double *low)
{
    real s[LANES], rest[LANES];
    vec lost, t = v_two_sum(v_load(sum[0]), v_load(sum[1]), &lost);
    v_store(s, t);
    v_store(rest, v_add(v_add(v_load(sum[2]), v_load(sum[3])), lost));
    double high = 0, more = 0;
    *low = 0;
    for (int i = 0; i < LANES; i++) {
        high = two_sum(high, s[i], &more);
        *low += more + rest[i];
    }
    return two_sum(high, *low, low);
}

/* a / b of numbers in two parts, likewise. */
static double exact_ratio(double a, double a_low, double b, double b_low, double *low)
{
    const double split = 0x1p27 + 1;
    double r = a / b, ab = r * b;
    double r1 = r * split - (r * split - r), b1 = b * split - (b * split - b);
    double r2 = r - r1, b2 = b - b1;
    double lost = r2 * b2 - (((ab - r1 * b1) - r1 * b2) - r2 * b1);
    *low = ((((a - ab) - lost) + a_low) - r * b_low) / b;
    return r;
}

/* The power of two that brings a sum near 1, as far as REAL reaches, if it is not near enough. */
static real lift_for(double sum)
{
    const int most = XF_BITS == 32 ? 110 : 1010;
    uint64_t bits;
    if (!(sum < INFINITY && sum > -INFINITY))
        return (real)0x1p-40;
    if ((sum > -0x1p50 && sum < -0x1p-50) || (sum > 0x1p-50 && sum < 0x1p50) || sum == 0)
        return 1;
    memcpy(&bits, &sum, sizeof bits);
    int e = 1023 - (int)(bits >> 52 & 0x7ff);
    bits = (uint64_t)(1023 + (e > most ? most : e < -most ? -most : e)) << 52;
    memcpy(&sum, &bits, sizeof bits);
    return (real)sum;
}

static const real *lifted(const real *p, ptrdiff_t n, real lift, real *buffer)
{
    if (lift == 1)
        return p;
    for (ptrdiff_t j = 0; j < n; j++)
        buffer[j] = p[j] * lift;
    return buffer;
}

/* Are all in [0, most]? */
static bool within(const real *p, ptrdiff_t n, real most)
{
    const vec zero = v_zero(), top = v_set1(most);
    mask good = v_le(zero, zero);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec x = load_to(p + j, n - j, zero);
        good = v_and(good, v_and(v_le(zero, x), v_le(x, top)));
    }
    return v_all(good);
}

static void begin_pass(row_of_terms *row, int pass)
{
    row->pass = pass;
    row->total = row->count = row->others = 0;
    if (pass == MOST)
        row->held = -INFINITY;
    if (pass == SUMS)
        memset(row->sum, 0, sizeof row->sum);
}

static void begin_row(row_of_terms *row, xf_divergence kind, bool normalize)
{
    row->kind = kind;
    row->normalize = normalize;
    row->valid = true;
    row->lift[0] = row->lift[1] = row->ratio[0] = row->weight = 1;
    row->ratio[1] = 0;
    row->held_total = 0;
    begin_pass(row, !normalize || kind == XF_MASS ? TERMS : kind == XF_ENTROPY ? MOST : SUMS);
}

/* The next n elements of the row in this pass. */
static void take_block(row_of_terms *row, const real *p, const real *q, ptrdiff_t n)
{
    real block[2][BLOCK], most;
    if (row->pass == MOST || row->pass == SUMS) /* before a lift makes 0 of what is negative */
        row->valid = row->valid && within(p, n, INFINITY) && (!q || within(q, n, INFINITY));
    p = lifted(p, n, row->lift[0], block[0]);
    q = q ? lifted(q, n, row->lift[1], block[1]) : p;
    switch (row->pass) {
    case MOST:
        most = block_maximum(p, n);
        row->held = most > row->held ? most : row->held;
        return;
    case OTHERS:
        row->count += sum_equal(p, p, n, row);
        row->others += sum_others(p, p, n, row);
        return;
    case SUMS:
        add_exactly(row->sum[0], p, n);
        add_exactly(row->sum[1], q, n);
        return;
    default:
        if (row->kind == XF_ENTROPY)
            row->total += (row->normalize ? sum_surprise : sum_entropy)(p, p, n, row);
        else if (row->kind == XF_KL)
            row->total += (row->normalize ? sum_kl : sum_plain_kl)(p, q, n, row);
        else if (row->kind == XF_JS)
            row->total += sum_js(p, q, n, row);
        else {
            row->total += sum_block(p, p, n, row);
            row->valid = row->valid && within(p, n, 1);
        }
    }
}

static void end_row(row_of_terms *row, double value)
{
    row->value = value;
    row->pass = DONE;
}

static void end_others(row_of_terms *row)
{
    row->others += (row->count - 1) * row->held;
    row->weight = row->others + row->held;
    real lift = lift_for(row->weight);
    if (row->lift[0] == 1 && lift != 1) {
        row->lift[0] = lift;
        begin_pass(row, MOST);
    } else {
        row->scale = (real)(1 / row->weight);
        real log[LANES];
        v_store(log, v_log1p(v_set1((real)(row->others / row->held))));
        row->held_total = row->count * row->held * log[0];
        begin_pass(row, TERMS);
    }
}

static void end_sums(row_of_terms *row)
{
    double sum[2], low[2];
    bool again = false;
    for (int i = 0; i < 2; i++) {
        sum[i] = exact_sum(row->sum[i], &low[i]);
        real lift = lift_for(sum[i]);
        if (row->lift[i] == 1 && lift != 1) {
            row->lift[i] = lift;
            again = true;
        }
    }
    if (again) {
        begin_pass(row, SUMS);
        return;
    }
    if (!(sum[0] > 0 && sum[1] > 0)) {
        end_row(row, NAN);
        return;
    }
    double rest, ratio = exact_ratio(sum[0], low[0], sum[1], low[1], &rest);
    row->weight = sum[0];
    row->ratio[0] = (real)ratio;
    row->ratio[1] = (real)((ratio - (double)row->ratio[0]) + rest);
    begin_pass(row, TERMS);
}

static void end_pass(row_of_terms *row)
{
    if (row->pass == MOST)
        begin_pass(row, OTHERS);
    else if (row->pass == OTHERS)
        end_others(row);
    else if (row->pass == SUMS)
        end_sums(row);
    else
        end_row(row, row->valid ? (row->total + row->held_total) / row->weight : NAN);
}

/* Rows read across, a block each; the line between them spreads the rows over a cache's sets. */
typedef real crossed[BLOCK + 64 / sizeof(real)];

/* Do the rows lie side by side, so that a line of memory holds elements of several? */
static bool crosswise(const xf_band *x, int rows)
{
    ptrdiff_t apart = x->apart < 0 ? -x->apart : x->apart, step = x->step < 0 ? -x->step : x->step;
    return rows > 1 && apart < step && x->step != size_of(x->type);
}

INLINE void cross_as(xf_type type, const char *p, ptrdiff_t step, int rows, ptrdiff_t n,
                     crossed *to)
{
    for (ptrdiff_t j = 0; j < n; j += REG_LANES)
        for (int i = 0; i < rows; i += REG_LANES) {
            reg m[REG_LANES];
            const char *from = p + j * step + i * size_of(type);
            for (int c = 0; c < REG_LANES; c++) {
                prefetch(from + c * step, REG_LANES * step);
                m[c] = j + c < n ? reg_load(from + c * step, type, rows - i) : r_set1(0);
            }
            r_transpose(m);
            for (int c = 0; c < REG_LANES && i + c < rows; c++)
                r_store(to[i + c] + j, m[c]);
        }
}

/* Classes [j0, j0 + n) of a band, one row behind the other. */
static void read_across(const xf_band *x, int rows, ptrdiff_t j0, ptrdiff_t n, crossed *to)
{
    const char *p = x->first + j0 * x->step;
    if (x->apart != size_of(x->type) || !packed(x->type, x->apart)) {
        for (ptrdiff_t j = 0; j < n; j++)
            for (int i = 0; i < rows; i++)
                to[i][j] = read_one(p + j * x->step + i * x->apart, x->type);
    } else if (x->type == REAL_TYPE) {
        cross_as(REAL_TYPE, p, x->step, rows, n, to);
    } else {
        cross_as(x->type, p, x->step, rows, n, to);
    }
}

typedef struct {
    row_of_terms row[XF_BAND];
    _Alignas(64) crossed block[2][XF_BAND];
} band;
_Static_assert(sizeof(band) <= XF_DIVERGENCE_BYTES, "a band fits its scratch");

static void fetch_band(const xf_band *x, int rows, ptrdiff_t j0, ptrdiff_t n, crossed *block,
                       const real **p)
{
    bool across = crosswise(x, rows);
    if (across)
        read_across(x, rows, j0, n, block);
    for (int i = 0; i < rows; i++) {
        const xf_rows one = {{x->first + i * x->apart}, x->step, x->type};
        p[i] = across ? block[i] : fetch(&one, 0, j0, n, block[i]);
    }
}

static void divergence_band(xf_divergence kind, bool normalize, const xf_band *p, const xf_band *q,
                            int rows, ptrdiff_t classes, double *value, band *b)
{
    const real *at[2][XF_BAND] = {{NULL}};
    for (int i = 0; i < rows; i++)
        begin_row(&b->row[i], kind, normalize);
    for (int left = rows; left > 0;) {
        for (ptrdiff_t j0 = 0; j0 < classes; j0 += BLOCK) {
            ptrdiff_t n = block_length(classes, j0);
            fetch_band(p, rows, j0, n, b->block[0], at[0]);
            if (q)
                fetch_band(q, rows, j0, n, b->block[1], at[1]);
            for (int i = 0; i < rows; i++)
                if (b->row[i].pass != DONE)
                    take_block(&b->row[i], at[0][i], at[1][i], n);
        }
        for (int i = 0; i < rows; i++)
            if (b->row[i].pass != DONE) {
                end_pass(&b->row[i]);
                left -= b->row[i].pass == DONE;
            }
    }
    for (int i = 0; i < rows; i++)
        value[i] = b->row[i].value;
}

/* Rows that lie side by side go through the passes together, others one after the other. */
static void divergence(xf_divergence kind, bool normalize, const xf_band *p, const xf_band *q,
                       int rows, ptrdiff_t classes, double *value, void *scratch)
{
    if (crosswise(p, rows) || (q && crosswise(q, rows))) {
        divergence_band(kind, normalize, p, q, rows, classes, value, scratch);
        return;
    }
    for (int i = 0; i < rows; i++) {
        xf_band a = *p, b = q ? *q : a;
        a.first += i * a.apart;
        b.first += i * b.apart;
        divergence_band(kind, normalize, &a, q ? &b : NULL, 1, classes, value + i, scratch);
    }
}
