/* Distillation from a few classes of a teacher: KL(p, q), p given where it is not 0, q the softmax of
   a row of logits over a temperature. Of the classes that are not listed everything is one number, the
   sum of their exponentials

     rest = sum exp((x_j - m) / temperature),  m their maximum,

   taken with the lanes along the classes. The few others are treated in double (sparse):

     Z = sum e_i + rest,  q_i = e_i / Z,  u_i = log p_i - log q_i

   What p leaves of 1 is a class of its own, against rest / Z; or p is divided by its sum P, and then
   KL = log1p(rest / sum e_i) + sum p_i / P (u_i + expm1(-u_i)), u_i of both divided. As of pairs.h no
   term is negative, and close ones keep their digits. */

/* Classes [j0, j0 + n) of the first row, -inf where a class is listed. */
static inline const real *fetch_unlisted(const xf_rows *x, ptrdiff_t j0, ptrdiff_t n,
                                         const xf_sparse *s, xf_panel *p)
{
    ptrdiff_t begin = 0, end = s->listed;
    while (begin < end) { /* the first that is listed from j0 on */
        const ptrdiff_t middle = begin + (end - begin) / 2;
        if (s->index[middle] < j0)
            begin = middle + 1;
        else
            end = middle;
    }
    const real *a = fetch(x, 0, j0, n, p->work->block[0]);
    if (begin == s->listed || s->index[begin] >= j0 + n)
        return a;
    real *to = (real *)p->work->block[0];
    if (a != to)
        memcpy(to, a, (size_t)n * sizeof(real));
    for (; begin < s->listed && s->index[begin] < j0 + n; begin++)
        to[s->index[begin] - j0] = -INFINITY;
    return to;
}

static void sparse_rest(const xf_rows *x, xf_panel *p, xf_sparse *s)
{
    real m = -INFINITY;
    for (ptrdiff_t j = 0; j < p->classes; j += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j);
        const real b = block_maximum(fetch_unlisted(x, j, n, s, p), n);
        m = b > m ? b : m;
    }
    const pair_factors f = {.maximum[0] = v_set1(finite_maximum(m)),
                            .scale = v_set1((real)s->scale)};
    double total = 0, count = 0;
    for (ptrdiff_t j = 0; j < p->classes; j += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j);
        const real *a = fetch_unlisted(x, j, n, s, p);
        total += sum_scaled(a, a, n, &f);
        count += m > -INFINITY ? count_equal(a, n, m) : 0;
    }
    s->maximum = m;
    s->rest = total + count;
    for (ptrdiff_t k = 0; k < s->listed; k++)
        s->logit[k] = read_one(x->row[0] + s->index[k] * x->step, x->type);
}

/* The gradient by `by`: exp((x - m) / temperature) times the factor of what is not listed, then the
   others. out may be x. */
static void sparse_gradient(const xf_rows *x, xf_panel *p, const xf_sparse *s, double by,
                            const xf_out *out)
{
    if (p->weight[0] < 0) {
        clear(out, 0, p->classes);
        return;
    }
    const vec least = v_set1(-INFINITY), scale = v_set1((real)s->scale),
              m = v_set1(finite_maximum((real)s->maximum)), factor = v_set1((real)(s->factor * by));
    for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
        const ptrdiff_t n = block_length(p->classes, j0);
        const real *a = fetch_unlisted(x, j0, n, s, p);
        real *to = place(out, 0, j0, p->work->block[1]);
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            const vec b = load_to(a + j, n - j, least);
            store_to(to + j, probability(b, m, factor, scale), n - j);
        }
        put(out, 0, j0, n, to);
    }
    for (ptrdiff_t k = 0; k < s->listed; k++)
        write_one(out->row[0] + s->index[k] * out->step, out->type, (real)(s->slope[k] * by));
}

#if XF_BITS == 64
/* p (u + expm1(-u)) = p u + q - p of u = log p - log q. */
INLINE vec sparse_term(vec p, vec q, vec u)
{
    const mask near = v_and(v_lt(u, v_set1(NEAR)), v_lt(v_set1(-NEAR), u));
    const vec a = v_keep(near, u);
    return v_select(near, v_mul(p, v_mul(v_mul(a, a), HORNER(a, KL_Q))),
                    v_add(times(p, u), v_sub(q, p)));
}

/* exp(d) of one d <= 0. */
INLINE real exp_one(real d)
{
    real e[LANES];
    v_store(e, v_exp(v_max(v_set1(DEEPEST), v_set1(d))));
    return e[0];
}

INLINE real log_one(real y)
{
    real log[LANES];
    v_store(log, v_log(v_set1(y)));
    return log[0];
}

INLINE real log1p_one(real y)
{
    real log[LANES];
    v_store(log, v_log1p(v_set1(y)));
    return log[0];
}

/* The value and the factors of the gradient. The exponentials of what is listed are of its own
   maximum, so that neither sum is 0 where the other is far above it; `fall` takes either to both. */
static void sparse(xf_sparse *s)
{
    const ptrdiff_t n = s->listed;
    const vec none = v_zero(), least = v_set1(-INFINITY), scale = v_set1(s->scale);
    vec top = least, sum = none, total = none;
    real all = 0, lost = 0; /* the sum of p, and what its roundings have lost */
    for (ptrdiff_t k = 0; k < n; k++) {
        const real t = all + s->p[k], added = t - all;
        lost += (all - (t - added)) + (s->p[k] - added);
        all = t;
    }
    for (ptrdiff_t k = 0; k < n; k += LANES)
        top = v_max(load_to(s->logit + k, n - k, least), top);
    const real m = finite_maximum(v_fold_max(top)),
               apart = (finite_maximum(s->maximum) - m) * s->scale;
    const vec most = v_set1(m);
    vec equal = none; /* the terms exp(0), of which one is left out: see statistics.h */
    for (ptrdiff_t k = 0; k < n; k += LANES) {
        const vec x = load_to(s->logit + k, n - k, least);
        const vec e = v_exp(v_max(v_set1(DEEPEST), v_mul(v_sub(x, most), scale)));
        const mask held = v_eq(x, most);
        store_to(s->slope + k, e, n - k);
        equal = v_count(equal, held);
        sum = v_add(sum, v_drop(held, e));
    }
    const real fall[2] = {exp_one(apart > 0 ? -apart : 0), exp_one(apart < 0 ? apart : 0)};
    const real more = v_fold_add(sum) + (v_fold_add(v_counted(equal)) - 1), listed = 1 + more,
               rest = s->rest * fall[1];
    real z = listed * fall[0] + rest;
    z +=
        (m - m) + (s->maximum < m ? 0 : s->maximum - s->maximum); /* nan where that is not finite */
    const real log_z = apart > 0 ? log_one(z) : log1p_one(more + rest);
    real left = not_negative(1 - all - lost);
    if (s->rest == 0 && left <= s->rounding)
        left = 0; /* of classes that are all listed */
    /* log q_i is the logit less this */
    const real log = s->rest_is_class ? log_z + (apart > 0 ? apart : 0) : log1p_one(more);
    const vec by = v_set1(s->rest_is_class ? 1 : 1 / all), to_all = v_set1(fall[0] / z),
              to_own = s->rest_is_class ? to_all : v_set1(1 / listed);
    for (ptrdiff_t k = 0; k < n; k += LANES) {
        const vec x = load_to(s->logit + k, n - k, none), e = load_to(s->slope + k, n - k, none);
        const vec p = v_mul(load_to(s->p + k, n - k, none), by);
        const vec u = v_sub(v_add(v_log(p), v_set1(log)), v_mul(v_sub(x, most), scale));
        const vec term = sparse_term(p, v_mul(e, to_own), u);
        total = v_add(total, v_drop(v_eq(p, none), term));
        store_to(s->slope + k, v_sub(v_mul(e, to_all), p), n - k);
    }
    real beside;
    if (s->rest_is_class) {
        const vec r = v_set1(left), share = v_set1(rest / z);
        const vec u = v_set1(log_one(left) + log_z - log_one(s->rest) - (apart < 0 ? apart : 0));
        real term[LANES];
        v_store(term, sparse_term(r, share, u)); /* share, where r is 0 */
        beside = term[0];
    } else if (apart > 0) { /* log(1 + y) with y out of range */
        const real y = s->rest / listed;
        beside = log_one(y) + apart + log1p_one(fall[0] / y);
    } else {
        beside = log1p_one(rest / listed);
    }
    s->factor = fall[1] / z - (s->rest_is_class && left > 0 && s->rest > 0 ? left / s->rest : 0);
    s->value = not_negative(v_fold_add(total)) + beside + (z - z);
    if (!s->rest_is_class && listed == 0 && z > 0)
        s->value = INFINITY;
    if (!(z > 0) || (!s->rest_is_class && all == 0))
        s->value = s->factor = NAN;
}
#endif
