/* Cross-entropies of class indices as scikit-learn's solvers and trees want them: with the gradient
   goes the diagonal of the Hessian, or the probabilities. With m the largest of a row's logits,
   e_j = exp(x_j - m), and s' the sum of the e_j but for one e_j = 1,

     p_j = e_j / (1 + s'),  1 - p_j = c_j / (1 + s'),  c_j = s' where e_j = 1, else 1 + s' - e_j >= 1
     loss = log1p(s') + m - x_y,  gradient p_j, at the label -(1 - p_j),  Hessian p_j (1 - p_j)

   and nothing cancels. Rows stand side by side in the lanes; rows of more than HALF_CLASSES are
   read once for the maximum, once for the sum and once for what is written. */

#define HALF_CLASSES 128
typedef struct {
    real e[HALF_CLASSES * LANES], gradient[HALF_CLASSES * LANES], second[HALF_CLASSES * LANES];
    char rows[HALF_CLASSES * 64 + 64]; /* registers are stored whole, beyond the last row */
} half_scratch;
_Static_assert(sizeof(half_scratch) <= XF_HALF_SCRATCH, "");

INLINE vec v_of_doubles(const double *from)
{
    real a[LANES];
    for (int i = 0; i < LANES; i++)
        a[i] = (real)from[i];
    return v_load(a);
}

/* The losses, times their weights: 0 counts nothing, as in product(). */
INLINE void put_losses(xf_half *h, vec loss)
{
    real a[LANES];
    v_store(a, loss);
    for (int i = 0; i < h->rows; i++)
        h->loss[i] = h->weight[i] == 0 ? 0 : a[i] * h->weight[i];
}

/* As write_tile; out may be of double where REAL is float, and the other way round. */
static void put_tile(const xf_out *out, int rows, ptrdiff_t j0, ptrdiff_t n, const real *tile,
                     char *buffer)
{
#if XF_BITS == 32
    typedef double other;
#else
    typedef float other;
#endif
    if (out->type == REAL_TYPE) {
        write_tile(out, rows, j0, n, tile, buffer);
        return;
    }
    bool beside = rows == LANES;
    for (int i = 1; i < rows; i++)
        beside = beside && out->row[i] - out->row[0] == i * (ptrdiff_t)sizeof(other);
    for (ptrdiff_t j = 0; j < n; j++) {
        other a[LANES];
        for (int i = 0; i < LANES; i++)
            a[i] = (other)tile[j * LANES + i];
        if (beside)
            memcpy(out->row[0] + (j0 + j) * out->step, a, sizeof a);
        else
            for (int i = 0; i < rows; i++)
                memcpy(out->row[i] + (j0 + j) * out->step, a + i, sizeof *a);
    }
}

INLINE void put_outputs(const xf_half *h, ptrdiff_t j0, ptrdiff_t n, half_scratch *s)
{
    if (h->gradient)
        put_tile(h->gradient, h->rows, j0, n, s->gradient, s->rows);
    if (h->second)
        put_tile(h->second, h->rows, j0, n, s->second, s->rows);
}

/* e_j of n classes of a tile, held as in exp_log.h, in their place; exp(x - m) = exp(d) (1 + lost)
   with lost what the rounding of d = x - m has left out. */
INLINE void half_exponentials(real *tile, ptrdiff_t n, vec m)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        vec x = v_load(tile + j * LANES), d = v_sub(x, m), e = d, back = v_sub(d, x);
        vec lost = v_sub(v_sub(x, v_sub(d, back)), v_add(m, back));
        v_exp_held(&e, 1);
        lost = v_keep(v_lt(v_set1(EXP_LOWEST), d), lost);
        v_store(tile + j * LANES, v_fma(e, lost, e));
    }
}

static void half(xf_half *h)
{
    half_scratch *s = h->scratch;
    const ptrdiff_t classes = h->classes;
    const bool whole = classes <= HALF_CLASSES;
    const vec one = v_set1(1), held_one = v_set1(EXP_ONE), unit = v_set1(EXP_UNIT);
    const vec label = v_of_doubles(h->label), weight = v_of_doubles(h->weight);
    vec m = v_set1(-INFINITY), own = v_zero();
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += HALF_CLASSES) {
        ptrdiff_t n = classes - j0 < HALF_CLASSES ? classes - j0 : HALF_CLASSES;
        read_tile(h->x, j0, n, s->e);
        for (ptrdiff_t j = 0; j < n; j++) {
            vec x = v_load(s->e + j * LANES);
            m = v_max(x, m);
            own = v_select(v_eq(label, v_set1((real)(j0 + j))), x, own);
        }
    }
    /* What the additions lose is carried along, so that the order of a long row's classes is free. */
    vec largest = v_zero(), rest = v_zero(), lost = v_zero();
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += HALF_CLASSES) {
        ptrdiff_t n = classes - j0 < HALF_CLASSES ? classes - j0 : HALF_CLASSES;
        if (!whole)
            read_tile(h->x, j0, n, s->e);
        half_exponentials(s->e, n, m);
        for (ptrdiff_t j = 0; j < n; j++) {
            vec e = v_load(s->e + j * LANES);
            mask is_one = v_eq(e, held_one);
            largest = v_add(largest, v_keep(is_one, one));
            vec a = v_sub(v_drop(is_one, e), lost), sum = v_add(rest, a);
            lost = v_sub(v_sub(sum, rest), a);
            rest = sum;
        }
    }
    const vec others = v_fma(rest, unit, v_sub(largest, one)), total = v_add(one, others);
    put_losses(h, v_add(v_log1p(others), v_sub(m, own)));
    if (!h->gradient && !h->second)
        return;
    const vec inverse = v_div(one, total), held_inverse = v_mul(inverse, unit);
    for (ptrdiff_t j0 = 0; j0 < classes; j0 += HALF_CLASSES) {
        ptrdiff_t n = classes - j0 < HALF_CLASSES ? classes - j0 : HALF_CLASSES;
        if (!whole) {
            read_tile(h->x, j0, n, s->e);
            half_exponentials(s->e, n, m);
        }
        for (ptrdiff_t j = 0; j < n; j++) {
            vec e = v_load(s->e + j * LANES), p = v_mul(e, held_inverse);
            vec c = v_select(v_eq(e, held_one), others, v_fma(e, v_neg(unit), total));
            vec q = v_mul(c, inverse);
            vec g = v_select(v_eq(label, v_set1((real)(j0 + j))), v_neg(q), p);
            v_store(s->gradient + j * LANES, product(weight, g));
            v_store(s->second + j * LANES, h->hessian ? product(weight, v_mul(p, q)) : p);
        }
        put_outputs(h, j0, n, s);
    }
}
