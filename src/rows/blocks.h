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

/* Asks for the line that is `ahead` bytes behind p; an address outside the array does no harm. */
INLINE void prefetch(const void *p, ptrdiff_t ahead)
{
    __builtin_prefetch((const char *)((uintptr_t)p + (uintptr_t)ahead));
}

/* The same for the two vectors at p. AHEAD suits what is read once: a memory's latency of work, for
   a page's end stops the hardware. */
#define AHEAD 1024
/* For classes that are pages apart. */
#define CLASSES_AHEAD 24
INLINE void prefetch_two(const real *p, ptrdiff_t ahead)
{
    prefetch(p, ahead);
    prefetch(p + LANES, ahead);
}

/* The same for a vector that will be written: a store that waits for its line holds up all behind it. */
INLINE void prefetch_to_write(const void *p, ptrdiff_t ahead)
{
    __builtin_prefetch((const char *)((uintptr_t)p + (uintptr_t)ahead), 1);
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

static inline ptrdiff_t size_of(xf_type type)
{
    return type == XF_F64 ? 8 : type == XF_F32 ? 4 : type == XF_U8 ? 1 : 2;
}

static inline real read_one(const char *p, xf_type type)
{
    float f32;
    double f64;
    uint16_t half;
    if (type == XF_F32) {
        memcpy(&f32, p, sizeof f32);
        return (real)f32;
    }
    if (type == XF_F64) {
        memcpy(&f64, p, sizeof f64);
        return (real)f64;
    }
    if (type == XF_U8)
        return (real) * (const uint8_t *)p;
    memcpy(&half, p, sizeof half);
    return (real)(type == XF_F16 ? f32_of_f16(half) : f32_of_bf16(half));
}

/* Rounds to what is written: REAL or, of float, 16 bits. */
static inline void write_one(char *p, xf_type type, real a)
{
    if (type == REAL_TYPE) {
        memcpy(p, &a, sizeof a);
        return;
    }
    uint16_t half = type == XF_F16 ? f16_of_f32((float)a) : bf16_of_f32((float)a);
    memcpy(p, &half, sizeof half);
}

/* Do the elements of a row follow each other, in a type that registers read and write? */
static inline bool packed(xf_type type, ptrdiff_t step)
{
    return (type == REAL_TYPE || (XF_BITS == 32 && size_of(type) == 2)) && step == size_of(type);
}

/* The first n lanes, n <= REG_LANES, of a packed row; 0 in the others. */
INLINE reg reg_load(const char *p, xf_type type, ptrdiff_t n)
{
    if (type == REAL_TYPE)
        return n >= REG_LANES ? r_load((const real *)p) : r_load_part((const real *)p, n);
#if XF_BITS == 32
    uint16_t half[REG_LANES] = {0};
    const uint16_t *from = (const uint16_t *)p;
    if (n < REG_LANES) {
        memcpy(half, p, 2 * (size_t)n);
        from = half;
    }
    return type == XF_F16 ? r_load_f16(from) : r_load_bf16(from);
#else
    return r_set1(0);
#endif
}

INLINE void reg_store(char *p, reg a, xf_type type, ptrdiff_t n)
{
    if (type == REAL_TYPE) {
        if (n >= REG_LANES)
            r_store((real *)p, a);
        else
            r_store_part((real *)p, a, n);
        return;
    }
#if XF_BITS == 32
    uint16_t half[REG_LANES], *to = n < REG_LANES ? half : (uint16_t *)p;
    if (type == XF_F16)
        r_store_f16(to, a);
    else
        r_store_bf16(to, a);
    if (n < REG_LANES)
        memcpy(p, half, 2 * (size_t)n);
#endif
}

/* n elements of 16 bits to REAL and back. */
INLINE void widen_as(xf_type type, const char *p, ptrdiff_t n, real *to)
{
    ptrdiff_t j = 0;
    for (; j + REG_LANES <= n; j += REG_LANES)
        r_store(to + j, reg_load(p + 2 * j, type, REG_LANES));
    if (j < n)
        r_store_part(to + j, reg_load(p + 2 * j, type, n - j), n - j);
}

static void widen(const void *from, xf_type type, ptrdiff_t n, void *to)
{
    if (type == XF_F16)
        widen_as(XF_F16, from, n, to);
    else
        widen_as(XF_BF16, from, n, to);
}

INLINE void narrow_as(xf_type type, const real *from, ptrdiff_t n, char *p)
{
    ptrdiff_t j = 0;
    for (; j + REG_LANES <= n; j += REG_LANES) {
        prefetch_to_write(p + 2 * j, AHEAD);
        reg_store(p + 2 * j, r_load(from + j), type, REG_LANES);
    }
    if (j < n)
        reg_store(p + 2 * j, r_load_part(from + j, n - j), type, n - j);
}

static void narrow(const void *from, ptrdiff_t n, void *to, xf_type type)
{
    if (type == XF_F16)
        narrow_as(XF_F16, from, n, to);
    else
        narrow_as(XF_BF16, from, n, to);
}

/* The n elements of row i from class j0 on: in place, or gathered and converted into buffer. */
static inline const real *fetch(const xf_rows *x, int i, ptrdiff_t j0, ptrdiff_t n, void *buffer)
{
    const char *p = x->row[i] + j0 * x->step;
    if (packed(x->type, x->step)) {
        if (x->type == REAL_TYPE)
            return (const real *)p;
        widen(p, x->type, n, buffer);
        return buffer;
    }
    real *to = buffer;
    for (ptrdiff_t j = 0; j < n; j++)
        to[j] = read_one(p + j * x->step, x->type);
    return to;
}

/* Are the rows written as they are computed? */
static inline bool direct(const xf_out *out)
{
    return out->type == REAL_TYPE && out->step == sizeof(real);
}

/* Where a block of row i may be written, and the end of that writing. */
static inline real *place(const xf_out *out, int i, ptrdiff_t j0, void *buffer)
{
    return direct(out) ? (real *)out->row[i] + j0 : (real *)buffer;
}

static inline void put(const xf_out *out, int i, ptrdiff_t j0, ptrdiff_t n, const real *from)
{
    char *p = out->row[i] + j0 * out->step;
    if (p == (const char *)from)
        return;
    if (packed(out->type, out->step)) {
        narrow(from, n, p, out->type);
        return;
    }
    for (ptrdiff_t j = 0; j < n; j++)
        write_one(p + j * out->step, out->type, from[j]);
}

static inline void clear(const xf_out *out, int i, ptrdiff_t classes)
{
    if (packed(out->type, out->step)) {
        memset(out->row[i], 0, (size_t)(classes * out->step));
        return;
    }
    for (ptrdiff_t j = 0; j < classes; j++)
        write_one(out->row[i] + j * out->step, out->type, 0);
}

/* How many of the first n rows lie side by side, so that the elements of a class are one vector? */
static inline int side_by_side(const char *const *row, int n, xf_type type)
{
    int i = 1;
    while (i < n && row[i] - row[0] == i * size_of(type))
        i++;
    return packed(type, size_of(type)) ? i : 0;
}

/* A class of so many rows that lie side by side; the lanes behind them repeat the first. */
INLINE void read_class(const char *p, xf_type type, int rows, real *to)
{
    for (int i = 0; i < rows; i += REG_LANES)
        r_store(to + i, reg_load(p + i * size_of(type), type, rows - i));
    if (rows < LANES)
        v_store(to, v_fill_from(v_load(to), rows, v_set1(to[0])));
}

INLINE void write_class(char *p, xf_type type, int rows, const real *from)
{
    for (int i = 0; i < rows; i += REG_LANES)
        reg_store(p + i * size_of(type), r_load(from + i), type, rows - i);
}

INLINE void read_tile_as(xf_type type, const xf_rows *x, ptrdiff_t j0, ptrdiff_t n, real *tile)
{
    for (ptrdiff_t j = 0; j < n; j += REG_LANES)
        for (int i0 = 0; i0 < LANES; i0 += REG_LANES) {
            reg m[REG_LANES];
            for (int i = 0; i < REG_LANES; i++)
                m[i] = reg_load(x->row[i0 + i] + (j0 + j) * size_of(type), type, n - j);
            r_transpose(m);
            for (int i = 0; i < REG_LANES; i++)
                r_store(tile + (j + i) * LANES + i0, m[i]);
        }
}

/* Reads classes [j0, j0 + n) of LANES rows into tile (classes, LANES). row has LANES entries. */
static inline void read_tile(const xf_rows *x, ptrdiff_t j0, ptrdiff_t n, real *tile)
{
    const xf_type type = x->type;
    const char *p = x->row[0] + j0 * x->step;
    const int rows = side_by_side(x->row, LANES, type);
    int same = rows; /* as a panel's places behind its last row are the first */
    while (same < LANES && x->row[same] == x->row[0])
        same++;
    if (rows == LANES) {
        for (ptrdiff_t j = 0; j < n; j++) {
            prefetch(p, (j + CLASSES_AHEAD) * x->step);
            read_class(p + j * x->step, type, LANES, tile + j * LANES);
        }
    } else if (rows > 0 && same == LANES) {
        for (ptrdiff_t j = 0; j < n; j++)
            read_class(p + j * x->step, type, rows, tile + j * LANES);
    } else if (!packed(type, x->step)) {
        for (int i = 0; i < LANES; i++)
            for (ptrdiff_t j = 0; j < n; j++)
                tile[j * LANES + i] = read_one(x->row[i] + (j0 + j) * x->step, type);
    } else if (type == REAL_TYPE) {
        read_tile_as(REAL_TYPE, x, j0, n, tile);
    } else {
        read_tile_as(type, x, j0, n, tile);
    }
}

/* Bytes to a place past the caches. */
static inline void stream_copy(char *to, const char *from, ptrdiff_t n)
{
    ptrdiff_t j = (ptrdiff_t)(-(uintptr_t)to % 64);
    j = j < n ? j : n;
    memcpy(to, from, (size_t)j);
    for (; j + 64 <= n; j += 64)
        v_stream((real *)(to + j), v_load((const real *)(from + j)));
    memcpy(to + j, from + j, (size_t)(n - j));
}

/* n classes of a tile as rows that lie `apart` bytes apart. Registers are stored whole, over the
   beginning of the row behind, which is written later: so the last classes come first. */
INLINE void store_tile_as(xf_type type, const real *tile, ptrdiff_t n, char *to, ptrdiff_t apart)
{
    for (ptrdiff_t j = (n - 1) / REG_LANES * REG_LANES; j >= 0; j -= REG_LANES)
        for (int i0 = 0; i0 < LANES; i0 += REG_LANES) {
            reg m[REG_LANES];
            for (int i = 0; i < REG_LANES; i++)
                m[i] = r_load(tile + (j + i) * LANES + i0);
            r_transpose(m);
            for (int i = 0; i < REG_LANES; i++)
                reg_store(to + (i0 + i) * apart + j * size_of(type), m[i], type, REG_LANES);
        }
}

/* Writes the tile to classes [j0, j0 + n) of the first `rows` rows; buffer holds LANES blocks. */
static inline void write_tile(const xf_out *out, int rows, ptrdiff_t j0, ptrdiff_t n,
                              const real *tile, char *buffer)
{
    const xf_type type = out->type;
    const ptrdiff_t bytes = n * size_of(type);
    if ((rows == LANES || !packed(type, out->step)) &&
        side_by_side((const char *const *)out->row, rows, type) == rows) {
        char *p = out->row[0] + j0 * out->step;
        const bool lines =
            LANES * size_of(type) == 64 && ((uintptr_t)p | (uintptr_t)out->step) % 64 == 0;
        if (rows == LANES && out->stream && lines) {
            for (ptrdiff_t j = 0; j < n; j++, p += out->step)
                v_stream((real *)p, v_load(tile + j * LANES));
            return;
        }
        for (ptrdiff_t j = 0; j < n; j++, p += out->step)
            write_class(p, type, rows == LANES ? LANES : rows, tile + j * LANES);
        return;
    }
    if (!packed(type, out->step)) {
        for (int i = 0; i < rows; i++)
            for (ptrdiff_t j = 0; j < n; j++)
                write_one(out->row[i] + (j0 + j) * out->step, type, tile[j * LANES + i]);
        return;
    }
    if (type == REAL_TYPE)
        store_tile_as(REAL_TYPE, tile, n, buffer, bytes);
    else
        store_tile_as(type, tile, n, buffer, bytes);
    ptrdiff_t count = 1;
    for (int i = 0; i < rows; i += (int)count) { /* as many as lie one behind the other */
        for (count = 1; i + count < rows && out->row[i + count] == out->row[i] + count * bytes;)
            count++;
        char *to = out->row[i] + j0 * size_of(type);
        if (out->stream)
            stream_copy(to, buffer + i * bytes, count * bytes);
        else
            memcpy(to, buffer + i * bytes, (size_t)(count * bytes));
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
            prefetch_two(p + j, AHEAD);                                                \
            if (q != p)                                                                \
                prefetch_two(q + j, AHEAD);                                            \
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

/* The same for a tile, of panel k of those treated together. */
static inline void read_target(const xf_target *t, int k, ptrdiff_t j0, ptrdiff_t n, real *tile)
{
    if (t->dense)
        read_tile(t->dense + k, j0, n, tile);
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
