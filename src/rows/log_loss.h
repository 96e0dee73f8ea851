/* Rows of probabilities: loss = -sum t_j log p_j, gradient -t_j / p_j, each 0 where t_j is 0. */

/* -t log p */
INLINE vec log_loss_term(vec p, vec t, const void *k)
{
    (void)k;
    return v_drop(v_eq(t, v_zero()), v_mul(v_neg(t), v_log(p)));
}
SUM_BLOCK(sum_log_loss, log_loss_term, 1, 0)

INLINE vec ratio(vec t, vec p) { return v_drop(v_eq(t, v_zero()), v_div(t, p)); }

static void log_loss(const xf_rows *x, const xf_target *t, xf_panel *p)
{
    real own[LANES] = {0}, at_label[LANES], sum[LANES] = {0}, value[LANES];
    for (int i = 0; i < LANES; i++)
        at_label[i] = 1;
    for (int i = 0; i < p->rows; i++) {
        ptrdiff_t y = p->label[i];
        if (y >= 0) {
            own[i] = (real)p->own[i];
            at_label[i] = read_one(x->row[i] + y * x->step, x->type);
        }
        double total = 0;
        for (ptrdiff_t j0 = 0; has_target(t) && j0 < p->classes; j0 += BLOCK) {
            ptrdiff_t n = block_length(p->classes, j0);
            total += sum_log_loss(fetch(x, i, j0, n, p->block[0]),
                                  fetch_target(t, i, j0, n, p->block[1]), n, NULL);
        }
        sum[i] = (real)total;
    }
    v_store(value, v_add(v_load(sum), log_loss_term(v_load(at_label), v_load(own), NULL)));
    for (int i = 0; i < p->rows; i++)
        p->loss[i] = p->weight[i] < 0 ? 0 : value[i] * p->weight[i];
}

static void log_loss_gradient(const xf_rows *x, const xf_target *t, xf_panel *p, const xf_out *out)
{
    for (int i = 0; i < p->rows; i++) {
        const double factor = -p->weight[i] * p->gradient_scale;
        const vec by = v_set1((real)factor);
        const ptrdiff_t y = p->label[i];
        real own = 0;
        if (y >= 0) { /* before out, which may be x, is written */
            real w = t->class_weight ? ((const real *)t->class_weight)[y] : 1;
            real share = (real)p->own[i] + (real)t->offset * w;
            own =
                share == 0 ? 0 : share / read_one(x->row[i] + y * x->step, x->type) * (real)factor;
        }
        if (p->weight[i] < 0 || !has_target(t)) {
            clear(out, i, p->classes);
        } else {
            for (ptrdiff_t j0 = 0; j0 < p->classes; j0 += BLOCK) {
                ptrdiff_t n = block_length(p->classes, j0);
                const real *b = fetch(x, i, j0, n, p->block[0]);
                const real *c = fetch_target(t, i, j0, n, p->block[1]);
                real *to = place(out, i, j0, p->block[0]);
                for (ptrdiff_t j = 0; j < n; j += LANES) {
                    vec q = load_to(b + j, n - j, v_set1(1)), a = load_to(c + j, n - j, v_zero());
                    store_to(to + j, v_mul(ratio(a, q), by), n - j);
                }
                put(out, i, j0, n, to);
            }
        }
        if (p->weight[i] >= 0 && y >= 0)
            write_one(out->row[i] + y * out->step, out->type, own);
    }
}
