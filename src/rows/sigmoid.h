/* Binary cross-entropy, element by element, with t the label (smoothed), q the weight of the
   positive class, a = q t and b = 1 - t:

     from logits         loss = a softplus(-x) + b softplus(x), softplus(x) = max(x, 0) +
                         log1p(exp(-|x|));  gradient = b sigmoid(x) - a sigmoid(-x)
     from probabilities  loss = -a log p - b log(1 - p);  gradient = -a / p + b / (1 - p)

   A factor of 0 makes its term 0, even against inf, and an entry with nothing but factors of 0 counts
   nothing, whatever it holds. A probability is what log_loss.h takes for one. */

/* log(1 - p), p in [0, 1] */
INLINE vec v_log1m(vec p)
{
    mask small = v_lt(p, v_set1((real)0.25));
    vec near = v_log1p_small(v_neg(v_keep(small, p)), v_zero());
    return v_select(small, near, v_log(v_sub(v_set1(1), p)));
}

INLINE vec product(vec factor, vec a) { return v_drop(v_eq(factor, v_zero()), v_mul(factor, a)); }

INLINE vec binary_loss(bool from_logits, vec x, vec a, vec b)
{
    if (!from_logits) {
        x = as_probability(x);
        return v_add(product(a, v_neg(v_log(x))), product(b, v_neg(v_log1m(x))));
    }
    vec zero = v_zero(), minus = v_neg(x), size = v_max(minus, x);
    vec log = v_log1p_unit(v_exp(v_neg(size)));
    vec line = v_add(product(a, v_max(zero, minus)), product(b, v_max(zero, x)));
    return v_fma(v_add(a, b), log, line);
}

INLINE vec binary_gradient(bool from_logits, vec x, vec a, vec b)
{
    const vec zero = v_zero(), one = v_set1(1);
    if (!from_logits) {
        x = as_probability(x);
        return v_sub(product(b, v_div(one, v_sub(one, x))), product(a, v_div(one, x)));
    }
    vec minus = v_neg(x), u = v_exp(v_neg(v_max(minus, x)));
    vec large = v_div(one, v_add(one, u)), small = v_mul(u, large);
    mask negative = v_lt(x, zero);
    vec up = v_select(negative, small, large), down = v_select(negative, large, small);
    return v_sub(v_mul(b, up), v_mul(a, down));
}

/* p (1 - p) */
INLINE vec binary_hessian(vec x)
{
    vec u = v_exp(v_neg(v_max(v_neg(x), x))), large = v_div(v_set1(1), v_add(v_set1(1), u));
    return v_mul(v_mul(u, large), large);
}

/* plain: no weights, no smoothing, and neither losses nor a Hessian to write. */
INLINE vec binary_step(const xf_binary *b, bool from_logits, bool plain, real *gradient,
                       ptrdiff_t j, ptrdiff_t n, mask *good)
{
    const vec one = v_set1(1);
    const real *q = plain ? NULL : b->pos_weight, *w = plain ? NULL : b->weight;
    real *loss = plain ? NULL : b->loss, *hessian = plain ? NULL : b->hessian;
    vec x = load_to((const real *)b->x + j, n, v_zero());
    vec t = load_to((const real *)b->label + j, n, v_zero());
    *good = v_and(*good, v_and(v_le(v_zero(), t), v_le(t, one)));
    vec rest = v_sub(one, t); /* smoothed by itself: 1 - t of the smoothed t would cancel */
    if (!plain && b->label_smoothing != 0) {
        vec share = v_set1((real)(1 - b->label_smoothing)),
            half = v_set1((real)(b->label_smoothing / 2));
        t = v_fma(t, share, half);
        rest = v_fma(rest, share, half);
    }
    vec positive = q ? v_mul(t, load_to(q + j, n, one)) : t;
    vec weight = w ? load_to(w + j, n, v_zero()) : one;
    const mask none = v_or(v_eq(weight, v_zero()), v_eq(v_add(positive, rest), v_zero()));
    vec value = binary_loss(from_logits, x, positive, rest);
    if (w || q)
        value = v_drop(none, v_mul(value, weight));
    if (gradient) {
        vec g = binary_gradient(from_logits, x, positive, rest);
        vec by = v_mul(weight, v_set1((real)b->gradient_scale));
        g = v_mul(g, by);
        store_to(gradient + j, w || q ? v_drop(none, g) : g, n);
    }
    if (hessian)
        store_to(hessian + j, product(weight, binary_hessian(x)), n);
    if (loss)
        store_to(loss + j, value, n);
    return value;
}

INLINE double binary_block(const xf_binary *b, bool from_logits, bool plain, real *gradient,
                           bool *valid)
{
    vec s[2] = {v_zero(), v_zero()};
    mask good = v_le(s[0], s[0]);
    ptrdiff_t j = 0;
    for (; j + CHAINS <= b->n; j += CHAINS) {
        prefetch_two((const real *)b->x + j, AHEAD);
        prefetch_two((const real *)b->label + j, AHEAD);
        for (int c = 0; c < 2; c++) {
            if (gradient)
                prefetch_to_write(gradient + j + c * LANES, AHEAD);
            s[c] = v_add(s[c],
                         binary_step(b, from_logits, plain, gradient, j + c * LANES, LANES, &good));
        }
    }
    for (int c = 0; j < b->n; c++, j += LANES) {
        ptrdiff_t n = b->n - j < LANES ? b->n - j : LANES;
        vec a = binary_step(b, from_logits, plain, gradient, j, n, &good);
        s[c] = v_add(s[c], n < LANES ? v_fill_from(a, n, v_zero()) : a);
    }
    if (!v_all(good))
        *valid = false;
    return v_fold_add(v_add(s[0], s[1]));
}

static double binary(const xf_binary *b, bool *valid)
{
    const bool plain =
        !b->pos_weight && !b->weight && !b->loss && !b->hessian && b->label_smoothing == 0;
    if (!b->from_logits)
        return binary_block(b, false, false, b->gradient, valid);
    if (!plain)
        return binary_block(b, true, false, b->gradient, valid);
    return b->gradient ? binary_block(b, true, true, b->gradient, valid)
                       : binary_block(b, true, true, NULL, valid);
}
