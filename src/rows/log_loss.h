/* Rows of probabilities: loss = -sum t_j log p_j, gradient -t_j / p_j, each 0 where t_j is 0. */

/* Rounding may leave a probability by 8 units of the last place above 1: then it counts as 1. What
   else is outside [0, 1] is nan. */
#define MOST_PROBABILITY (1 + (real)8 / ((int64_t)1 << MANTISSA_BITS))

INLINE vec as_probability(vec p)
{
    mask outside = v_or(v_lt(p, v_zero()), v_lt(v_set1(MOST_PROBABILITY), p));
    vec at_most_one = v_neg(v_max(v_set1(-1), v_neg(p))); /* nan stays, -0 becomes 0 */
    return v_select(outside, v_set1(NAN), at_most_one);
}

/* -t log p */
INLINE vec log_loss_term(vec p, vec t, const void *k)
{
    (void)k;
    return v_drop(v_eq(t, v_zero()), v_mul(v_neg(t), v_log(as_probability(p))));
}
SUM_BLOCK(sum_log_loss, log_loss_term, 1, 0)

INLINE vec ratio(vec t, vec p) { return v_drop(v_eq(t, v_zero()), v_div(t, as_probability(p))); }

/* The probability of each row's label, 1 where there is none. */
INLINE vec label_probabilities(const xf_rows *x, const xf_panel *p)
{
    real at_label[LANES];
    for (int i = 0; i < LANES; i++) {
        const ptrdiff_t y = i < p->rows ? p->label[i] : -1;
        at_label[i] = y < 0 ? 1 : read_one(x->row[i] + y * x->step, x->type);
    }
    return v_load(at_label);
}

static void log_loss(const xf_rows *x, const xf_target *t, xf_panel *p)
{
    real own[LANES] = {0}, sum[LANES] = {0};
    for (int i = 0; i < p->rows; i++) {
        if (p->label[i] >= 0)
            own[i] = (real)p->own[i];
        double total = 0;
        for (ptrdiff_t j0 = 0; has_target(t) && j0 < p->classes; j0 += BLOCK) {
            ptrdiff_t n = block_length(p->classes, j0);
            total += sum_log_loss(fetch(x, i, j0, n, p->work->block[0]),
                                  fetch_target(t, i, j0, n, p->work->block[1]), n, NULL);
        }
        sum[i] = (real)total;
    }
    vec at_label = log_loss_term(label_probabilities(x, p), v_load(own), NULL);
    weigh(v_add(v_load(sum), at_label), p);
}

static void log_loss_gradient(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out)
{
    real own[LANES] = {0}, factor[LANES] = {0};
    for (int i = 0; i < p->rows; i++) {
        const ptrdiff_t y = p->label[i];
        factor[i] = (real)(-p->weight[i] * p->gradient_scale);
        if (y >= 0) {
            real w = t->class_weight ? ((const real *)t->class_weight)[y] : 1;
            own[i] = (real)p->own[i] + (real)t->offset * w;
        }
    }
    /* Before out, which may be x, is written. */
    v_store(own, v_mul(ratio(v_load(own), label_probabilities(x, p)), v_load(factor)));
    for (int i = 0; i < p->rows; i++) {
        const vec by = v_set1(factor[i]);
        if (p->weight[i] < 0 || !has_target(t)) {
            clear(out, i, p->classes);
        } else {
            for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
                ptrdiff_t n = block_length(p->classes, j0);
                const real *b = fetch(x, i, j0, n, p->work->block[0]);
                const real *c = fetch_target(t, i, j0, n, p->work->block[1]);
                real *to = place(out, i, j0, p->work->block[0]);
                for (ptrdiff_t j = 0; j < n; j += LANES) {
                    vec q = load_to(b + j, n - j, v_set1(1)), a = load_to(c + j, n - j, v_zero());
                    store_to(to + j, v_mul(ratio(a, q), by), n - j);
                }
                put(out, i, j0, n, to);
            }
        }
        if (p->weight[i] >= 0 && p->label[i] >= 0)
            write_one(out->row[i] + p->label[i] * out->step, out->type, own[i]);
    }
}
