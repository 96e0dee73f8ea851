/* Sums over rows without rounding: sixteen values, or products of two, are taken apart by the grids of
   exact.h, each of which costs a few instructions. What a grid cannot hold is added alone. */
#if XF_BITS == 64
#define HALVES (XF_SIXTEEN / LANES)

/* Adds to the grids from the first on; is nothing left of v? */
INLINE bool add_to_grids(xf_sixteens *a, int first, vec *v)
{
    for (int g = first; g < XF_GRIDS; g++) {
        const vec whole = v_set1(XF_GRID[g]);
        bool none = true;
        for (int i = 0; i < HALVES; i++) {
            real *sum = a->grid[g] + i * LANES;
            const vec t = v_add(v[i], whole);
            v_store(sum, v_iadd(v_load(sum), t));
            v[i] = v_sub(v[i], v_sub(t, whole));
            none = v_all(v_eq(v[i], v_zero())) && none;
        }
        if (++a->count[g] == XF_UNCARRIED)
            xf_sixteens_carry(a);
        if (none)
            return true;
    }
    return false;
}

static void add_alone(xf_sixteens *a, const vec *v)
{
    real value[XF_SIXTEEN];
    for (int i = 0; i < HALVES; i++)
        v_store(value + i * LANES, v[i]);
    for (int i = 0; i < XF_SIXTEEN; i++)
        if (value[i] != 0)
            xf_exact_add(&a->exact, value[i]);
}

/* Adds x, or the products x y: each as the double nearest to it and what that leaves, which is exact
   unless a factor is beyond 2^900 or a product not 0 below 2^-900. */
static void add_sixteen(xf_sixteens *a, const double *x, const double *y)
{
    vec v[HALVES], rest[HALVES];
    bool within = true, whole = true;
    for (int i = 0; i < HALVES; i++) {
        v[i] = v_load(x + i * LANES);
        if (y) {
            const vec f = v[i], g = v_load(y + i * LANES);
            v[i] = v_mul(f, g);
            rest[i] = v_lost(f, g, v[i]);
            rest[i] = v_keep(v_eq(v_sub(v[i], v[i]), v_zero()), rest[i]);
            whole = v_all(v_eq(rest[i], v_zero())) && whole;
        }
        within = v_all(v_lt(v_max(v[i], v_neg(v[i])), v_set1(XF_GRID_LIMIT))) && within;
    }
    if (!within || !add_to_grids(a, 0, v))
        add_alone(a, v);
    if (!whole && (!within || !add_to_grids(a, 1, rest)))
        add_alone(a, rest);
}
#undef HALVES
#endif
