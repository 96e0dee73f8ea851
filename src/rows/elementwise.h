/* The terms of entropies and divergences, entry by entry, with the values at the ends that
   scipy.special gives them:

     entr(x)         -x log x                  0 at 0, -inf below
     rel_entr(x, y)  x log(x / y)              0 where x = 0 and y >= 0, inf beside what is positive
     kl_div(x, y)    x log(x / y) - x + y      y where x = 0 and y >= 0, inf beside what is positive
     xlogy(x, y)     x log y                   0 where x = 0

   nan beside anything is nan. */

/* f - log1p(f) >= 0, f in [sqrt(1/2) - 1, sqrt(2) - 1], from the polynomials of v_log1p_small: f
   itself cancels there and is left out. */
INLINE vec v_excess(vec f)
{
#if XF_BITS == 32
    vec q = v_fma(HORNER(f, LOG_Q), f, v_set1(-0.5f));
    return v_mul(v_mul(f, f), v_neg(q));
#else
    vec s = v_div(f, v_add(v_set1(2), f)), z = v_mul(s, s);
    vec half = v_mul(v_set1(0.5), v_mul(f, f));
    return v_fma(v_neg(s), v_fma(z, HORNER(z, LOG_Q), half), half);
#endif
}

INLINE vec entr_of(vec x, vec y)
{
    (void)y;
    const vec zero = v_zero();
    vec r = v_drop(v_eq(x, zero), v_mul(v_neg(x), v_log(x)));
    return v_select(v_lt(x, zero), v_set1(-INFINITY), r);
}

INLINE vec xlogy_of(vec x, vec y)
{
    mask none = v_and(v_eq(x, v_zero()), v_eq(y, y));
    return v_drop(none, v_mul(x, v_log(y)));
}

/* r where both are positive; else `none` where x = 0 and y >= 0, `below` where either is negative,
   and inf elsewhere. */
INLINE vec at_the_ends(vec x, vec y, vec r, vec none, real below)
{
    const vec zero = v_zero();
    if (v_all(v_and(v_lt(zero, x), v_lt(zero, y))))
        return r;
    r = v_select(v_or(v_le(x, zero), v_le(y, zero)), v_set1(INFINITY), r);
    r = v_select(v_and(v_eq(x, zero), v_le(zero, y)), none, r);
    r = v_select(v_or(v_lt(x, zero), v_lt(y, zero)), v_set1(below), r);
    return v_select(v_and(v_eq(x, x), v_eq(y, y)), r, v_set1(NAN));
}

INLINE vec rel_entr_within(vec x, vec y, real below)
{
    return at_the_ends(x, y, v_mul(x, v_log_ratio(x, y)), v_zero(), below);
}
INLINE vec rel_entr_of(vec x, vec y) { return rel_entr_within(x, y, INFINITY); }

/* x (r - 1 - log r), r = y / x = 2^e (1 + f), of y and the exact d = y - x.  Of near ones e is 0 and
   f - log1p(f) of f = d / x is all there is. Further apart the large terms come first: r - 1 - f and
   e ln 2, whose difference is exact for e = 1 and -1, so that nothing cancels. */
INLINE vec kl_div_within(vec x, vec y, vec d, real below)
{
    const vec one = v_set1(1);
    vec inverse = v_div(one, x), r = v_mul(y, inverse), f;
    vec e = v_split(r, &f);
    vec t = v_fma(e, v_set1(-LN2_HIGH), v_sub(v_sub(r, one), f));
    mask near = v_eq(e, v_zero());
    f = v_select(near, v_mul(d, inverse), f);
    t = v_add(v_drop(near, t), v_fma(e, v_set1(-LN2_LOW), v_excess(f)));
    t = v_mul(x, t);
    mask plain = v_and(v_plain(inverse), v_plain(r)); /* else they say too little */
    if (!v_all(plain))
        t = v_select(plain, t, v_max(v_zero(), v_fma(x, v_log_ratio(x, y), d)));
    return at_the_ends(x, y, t, y, below);
}
INLINE vec kl_div_of(vec x, vec y) { return kl_div_within(x, y, v_sub(y, x), INFINITY); }

#define EACH_TERM(name)                                                                        \
    static void name##_terms(const real *x, const real *y, ptrdiff_t n, real *to)              \
    {                                                                                          \
        for (ptrdiff_t j = 0; j < n; j += LANES)                                               \
            store_to(                                                                          \
                to + j,                                                                        \
                name##_of(load_to(x + j, n - j, v_set1(1)), load_to(y + j, n - j, v_set1(1))), \
                n - j);                                                                        \
    }
EACH_TERM(entr)
EACH_TERM(rel_entr)
EACH_TERM(kl_div)
EACH_TERM(xlogy)

static void terms(xf_term term, const void *x, const void *y, ptrdiff_t n, void *to)
{
    static void (*const all[])(const real *, const real *, ptrdiff_t, real *) = {
        [XF_ENTR] = entr_terms,
        [XF_REL_ENTR] = rel_entr_terms,
        [XF_KL_DIV] = kl_div_terms,
        [XF_XLOGY] = xlogy_terms,
    };
    all[term](x, y, n, to);
}
