/* Blocks: how a row is cut, read and summed. Element j of a block belongs to lane j mod LANES of
   the chain (j / LANES) mod 2; a lane adds in order, then the two chains are added, then the lanes
   are folded by halves. A tile holds a block of XF_PANEL rows with the lanes across the rows, and
   adds in the same order, so that the layout of the input never shows in a result. */
#define BLOCK (XF_BLOCK_BYTES / (ptrdiff_t)sizeof(real))
#define CHAINS (2 * LANES)

static inline ptrdiff_t block_length(ptrdiff_t classes, ptrdiff_t j0)
{
    return classes - j0 < BLOCK ? classes - j0 : BLOCK;
}

/* The n elements from p on, n <= LANES, and fill behind them. */
INLINE vec load_to(const real *p, ptrdiff_t n, vec fill)
{
    return n >= LANES ? v_load(p) : v_fill_from(v_load_part(p, n), n, fill);
}

INLINE void store_to(real *p, vec a, ptrdiff_t n)
{
    if (n >= LANES)
        v_store(p, a);
    else
        v_store_part(p, a, n);
}

static inline real read_one(const char *p, xf_type type)
{
    if (type == XF_F32) {
        float a;
        memcpy(&a, p, sizeof a);
        return (real)a;
    }
    double a;
    memcpy(&a, p, sizeof a);
    return (real)a;
}

static inline bool contiguous(const xf_rows *x)
{
    return x->type == REAL_TYPE && x->step == sizeof(real);
}

/* The n elements of row i from class j0 on: in place, or gathered and converted into buffer. */
static inline const real *fetch(const xf_rows *x, int i, ptrdiff_t j0, ptrdiff_t n, void *buffer)
{
    const char *p = x->row[i] + j0 * x->step;
    if (contiguous(x))
        return (const real *)p;
    real *to = buffer;
    for (ptrdiff_t j = 0; j < n; j++)
        to[j] = read_one(p + j * x->step, x->type);
    return to;
}

/* Where a block of row i may be written, and the end of that writing. */
static inline real *place(const xf_out *out, int i, ptrdiff_t j0, void *buffer)
{
    char *p = out->row[i] + j0 * out->step;
    return out->step == sizeof(real) ? (real *)p : (real *)buffer;
}

static inline void put(const xf_out *out, int i, ptrdiff_t j0, ptrdiff_t n, const real *from)
{
    char *p = out->row[i] + j0 * out->step;
    if (out->step == sizeof(real))
        return;
    for (ptrdiff_t j = 0; j < n; j++)
        memcpy(p + j * out->step, from + j, sizeof(real));
}

static inline void clear(const xf_out *out, int i, ptrdiff_t classes)
{
    for (ptrdiff_t j = 0; j < classes; j++)
        memset(out->row[i] + j * out->step, 0, sizeof(real));
}

/* Do the rows lie side by side, so that the elements of one class are one logical vector? */
static inline bool side_by_side(const char *const *row)
{
    for (int i = 1; i < LANES; i++)
        if (row[i] - row[0] != i * (ptrdiff_t)sizeof(real))
            return false;
    return true;
}

/* Reads classes [j0, j0 + n) of LANES rows into tile (classes, LANES). row has LANES entries. */
static inline void read_tile(const xf_rows *x, ptrdiff_t j0, ptrdiff_t n, real *tile)
{
    if (x->type == REAL_TYPE && side_by_side(x->row)) {
        const char *p = x->row[0] + j0 * x->step;
        for (ptrdiff_t j = 0; j < n; j++)
            v_store(tile + j * LANES, v_load((const real *)(p + j * x->step)));
    } else if (contiguous(x)) {
        for (ptrdiff_t j = 0; j < n; j += REG_LANES)
            for (int i0 = 0; i0 < LANES; i0 += REG_LANES) {
                reg m[REG_LANES];
                for (int i = 0; i < REG_LANES; i++) {
                    const real *p = (const real *)x->row[i0 + i] + j0 + j;
                    m[i] = n - j >= REG_LANES ? r_load(p) : r_load_part(p, n - j);
                }
                r_transpose(m);
                for (int i = 0; i < REG_LANES; i++)
                    r_store(tile + (j + i) * LANES + i0, m[i]);
            }
    } else {
        for (int i = 0; i < LANES; i++)
            for (ptrdiff_t j = 0; j < n; j++)
                tile[j * LANES + i] = read_one(x->row[i] + (j0 + j) * x->step, x->type);
    }
}

/* Writes the tile to classes [j0, j0 + n) of the first `rows` rows. */
static inline void write_tile(const xf_out *out, int rows, ptrdiff_t j0, ptrdiff_t n,
                              const real *tile)
{
    if (rows == LANES && side_by_side((const char *const *)out->row)) {
        char *p = out->row[0] + j0 * out->step;
        for (ptrdiff_t j = 0; j < n; j++)
            v_store((real *)(p + j * out->step), v_load(tile + j * LANES));
    } else if (out->step == sizeof(real)) {
        for (ptrdiff_t j = 0; j < n; j += REG_LANES)
            for (int i0 = 0; i0 < rows; i0 += REG_LANES) {
                reg m[REG_LANES];
                for (int i = 0; i < REG_LANES; i++)
                    m[i] = r_load(tile + (j + i) * LANES + i0);
                r_transpose(m);
                for (int i = 0; i < REG_LANES && i0 + i < rows; i++) {
                    real *p = (real *)out->row[i0 + i] + j0 + j;
                    if (n - j >= REG_LANES)
                        r_store(p, m[i]);
                    else
                        r_store_part(p, m[i], n - j);
                }
            }
    } else {
        for (int i = 0; i < rows; i++)
            for (ptrdiff_t j = 0; j < n; j++)
                memcpy(out->row[i] + (j0 + j) * out->step, tile + j * LANES + i, sizeof(real));
    }
}

/* Defines the sum over a block of term(p, q, k); q may be p. Behind the end stand p_fill and
   q_fill, whose term must be 0. */
#define SUM_BLOCK(name, term, p_fill, q_fill)                                          \
    static real name(const real *p, const real *q, ptrdiff_t n, const void *k)         \
    {                                                                                  \
        vec s[2] = {v_zero(), v_zero()};                                               \
        ptrdiff_t j = 0;                                                               \
        for (; j + CHAINS <= n; j += CHAINS) {                                         \
            s[0] = v_add(s[0], term(v_load(p + j), v_load(q + j), k));                 \
            s[1] = v_add(s[1], term(v_load(p + j + LANES), v_load(q + j + LANES), k)); \
        }                                                                              \
        for (int c = 0; j < n; c++, j += LANES)                                        \
            s[c] = v_add(s[c], term(load_to(p + j, n - j, v_set1(p_fill)),             \
                                    load_to(q + j, n - j, v_set1(q_fill)), k));        \
        return v_fold_add(v_add(s[0], s[1]));                                          \
    }

INLINE vec first_term(vec p, vec q, const void *k)
{
    (void)q, (void)k;
    return p;
}
SUM_BLOCK(sum_block, first_term, 0, 0)

/* Folds the CHAINS accumulators of a tile, of which the first n are in use. */
INLINE vec fold_chains(vec *a, ptrdiff_t n)
{
    for (ptrdiff_t half = LANES; half > 0; half /= 2)
        for (ptrdiff_t i = 0; i < half && i + half < n; i++)
            a[i] = v_add(a[i], a[i + half]);
    return a[0];
}

/* t of row i for classes [j0, j0 + n): the dense labels themselves where they are that already. */
static inline const real *fetch_target(const xf_target *t, int i, ptrdiff_t j0, ptrdiff_t n,
                                       void *buffer)
{
    const real *dense = t->dense ? fetch(t->dense, i, j0, n, buffer) : NULL;
    const real *w = t->class_weight ? (const real *)t->class_weight + j0 : NULL;
    if (dense && !w && t->scale == 1 && t->offset == 0)
        return dense;
    const vec scale = v_set1((real)t->scale), offset = v_set1((real)t->offset);
    real *to = buffer;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec a = dense ? v_fma(scale, load_to(dense + j, n - j, v_zero()), offset) : offset;
        if (w)
            a = v_mul(a, load_to(w + j, n - j, v_zero()));
        store_to(to + j, a, n - j);
    }
    return to;
}

/* The same for a tile. */
static inline void read_target(const xf_target *t, ptrdiff_t j0, ptrdiff_t n, real *tile)
{
    if (t->dense)
        read_tile(t->dense, j0, n, tile);
    const real *w = t->class_weight ? (const real *)t->class_weight + j0 : NULL;
    const vec scale = v_set1((real)t->scale), offset = v_set1((real)t->offset);
    for (ptrdiff_t j = 0; j < n; j++) {
        vec a = t->dense ? v_fma(scale, v_load(tile + j * LANES), offset) : offset;
        if (w)
            a = v_mul(a, v_set1(w[j]));
        v_store(tile + j * LANES, a);
    }
}

static inline bool has_target(const xf_target *t) { return t->dense || t->offset != 0; }
