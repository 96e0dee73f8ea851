/* The exponentials of a row, e(x) = 2^EXP_SCALE exp(x - m) with m the row's maximum so far, without
   the rounding of x - m, which alone costs 65 ulp at x - m = -86.

   Numbers are counted in cells of w = ln 2 / CELLS from 0 on. With t = round(x / w), M = round(m / w):

     exp(x - m) = 2^((t - M) / CELLS)  exp(x - t w)  exp(M w - m)

   Both small differences come out of fused multiply-adds, |.| <= w / 2. The last factor, 1 + fit,
   and 2^(i / CELLS), i = (t - M) mod CELLS, are one table for a row. With z of spacing ULP in [2, 4):

     z = fma(x, 1 / w, shift)   its last bits are t - M + REACH: i, and above i the power of two
     t = z - shift              exact, as is the first step of r
     r = x - t w                in two steps: t may be 2^20, so w needs more bits than one REAL has
     e = T + T u,  u = r (1 + r Q(r)),  T from the table, with the power of two added to its exponent

   Error of Q: float 2^-25.2 with CELLS = 8, double 2^-57.7 with 4. e is within 2.2 ulp, at every x - m.

   That holds for x - m >= -LOWEST_FAST and |m| < LARGEST_FAST. Otherwise, in the general form, x is
   first taken from m where m is larger, and what lies below 2^LOWEST_POWER is 0; what both forms can
   treat they give the same bits. Without fused multiply-add x - m is rounded, and exp_log.h does the
   rest. */
#if XF_BITS == 32
#define ULP 0x1p-22f
#define REACH 1024        /* cells below M that z counts, in the low 10 bits */
#define FAR_REACH 5120    /* in the general form: the same in its low 12 bits */
#define LOWEST_FAST 88.0f /* REACH w = 88.7 */
#define LOWEST_POWER -190 /* 2^EXP_SCALE times that is a normal number */
#define ROUND 0x1.8p23f
#define CELLS_OF_ONE 0x1.715476p+3f /* 1 / w */
#define W_HIGH 0x1.62e4p-4f
#define W_LOW 0x1.7f7d1cp-23f
static const real CELL_Q[] = {0x1.55569ap-3f, 0x1.000874p-1f};
static const uint32_t CELL_TABLE[16] = {
    0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7, 0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7,
    0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7, 0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7};
#else
#define ULP 0x1p-51
#define REACH 4096
#define FAR_REACH 20480
#define LOWEST_FAST 709.0 /* REACH w = 709.8 */
#define LOWEST_POWER -1530
#define ROUND 0x1.8p52
#define CELLS_OF_ONE 0x1.71547652b82fep+2
#define W_HIGH 0x1.62e42fefa38p-3
#define W_LOW 0x1.ef35793c7673p-47
static const real CELL_Q[] = {0x1.a0008062a26a6p-16, 0x1.a030c4df2fb36p-13, 0x1.6c16c38580050p-10,
                              0x1.111110a19d9b9p-7,  0x1.5555555541933p-5,  0x1.5555555557e60p-3,
                              0x1.0000000000006p-1};
static const uint64_t CELL_TABLE[8] = {0x3ff0000000000000, 0x3ff306fe0a31b715, 0x3ff6a09e667f3bcd,
                                       0x3ffae89f995ad3ad, 0x3ff0000000000000, 0x3ff306fe0a31b715,
                                       0x3ff6a09e667f3bcd, 0x3ffae89f995ad3ad};
#endif
#define LARGEST_FAST 0x1p17f /* so that M and t - M fit into the bits of z */
#define CELLS (1 << CELL_BITS)
/* What is added to the bits of the table: i there and i in z cancel, and z counts from -REACH. */
#define OFFSET(i)                                                       \
    (((real_bits)(EXP_SCALE - (REACH >> CELL_BITS)) << MANTISSA_BITS) - \
     ((real_bits)((i) % CELLS) << (MANTISSA_BITS - CELL_BITS)))
static const real_bits CELL_OFFSET[LANES] = {
    OFFSET(0), OFFSET(1), OFFSET(2), OFFSET(3), OFFSET(4), OFFSET(5), OFFSET(6), OFFSET(7),
#if XF_BITS == 32
    OFFSET(0), OFFSET(1), OFFSET(2), OFFSET(3), OFFSET(4), OFFSET(5), OFFSET(6), OFFSET(7),
#endif
};

/* Of one row in every lane, or (across) of a row in each, whose table is not fitted. */
typedef struct {
    vec shift, table, fit;
    vec base; /* what the general form takes from x first: 0, or a large maximum */
    vec maximum;
} row_exp;

/* exp(r) - 1 of |r| <= w / 2 */
INLINE vec cell_expm1(vec r) { return v_mul(v_fma(HORNER(r, CELL_Q), r, v_set1(1)), r); }

/* m is finite. */
INLINE row_exp row_exp_of(vec m, bool across)
{
    row_exp f = {.maximum = m, .base = m};
#if FUSED
    const mask near = v_lt(v_max(m, v_neg(m)), v_set1(LARGEST_FAST));
    const vec x = v_keep(near, m), round = v_set1(ROUND);
    f.base = v_drop(near, m);
    const vec cell = v_sub(v_fma(x, v_set1(CELLS_OF_ONE), round), round);
    f.shift = v_fma(cell, v_set1(-ULP), v_set1(2 + REACH * ULP));
    const vec r = v_fma(cell, v_set1(W_HIGH), v_neg(x));
    f.fit = cell_expm1(v_fma(cell, v_set1(W_LOW), r));
    f.table = v_load((const real *)CELL_TABLE);
    if (!across)
        f.table = v_fma(f.table, f.fit, f.table);
    f.table = v_iadd(f.table, v_load((const real *)CELL_OFFSET));
#else
    (void)across;
#endif
    return f;
}

/* The same of one row in as few registers as can be: what is kept of exponentials cannot change it. */
INLINE row_exp row_exp_once(const row_exp *f)
{
#define FIRST_LANE(a) v_set1(*(const real *)&f->a)
    return (row_exp){.shift = FIRST_LANE(shift),
                     .table = f->table,
                     .fit = FIRST_LANE(fit),
                     .base = FIRST_LANE(base),
                     .maximum = FIRST_LANE(maximum)};
}

/* e(x) and the places of n vectors x, in lockstep. An x = m may give anything near 2^EXP_SCALE. */
#define ALL(statement)          \
    for (int i = 0; i < n; i++) \
        statement;
INLINE void v_row_exp(const row_exp *f, bool across, bool general, const vec *x, vec *e, vec *z,
                      int n)
{
#if FUSED
    const vec shift = general ? v_add(f->shift, v_set1((FAR_REACH - REACH) * ULP)) : f->shift;
    const vec low = v_set1(2 + (FAR_REACH + LOWEST_POWER * CELLS) * ULP);
    vec r[4], q[4], t[4];
    if (general) {
        ALL(r[i] = v_sub(x[i], f->base))
        ALL(z[i] = v_fma(r[i], v_set1(CELLS_OF_ONE * ULP), shift))
        ALL(q[i] = v_sub(z[i], shift))
        ALL(r[i] = v_fma(q[i], v_set1(-W_HIGH / ULP), r[i]))
    } else {
        ALL(z[i] = v_fma(x[i], v_set1(CELLS_OF_ONE * ULP), shift))
        ALL(q[i] = v_sub(z[i], shift))
        ALL(r[i] = v_fma(q[i], v_set1(-W_HIGH / ULP), x[i]))
    }
    ALL(r[i] = v_fma(q[i], v_set1(-W_LOW / ULP), r[i]))
    ALL(t[i] = v_iadd(v_lookup(f->table, z[i]), v_icells(z[i])))
    if (across)
        ALL(t[i] = v_fma(t[i], f->fit, t[i]))
    ALL(q[i] = v_set1(CELL_Q[0]))
#pragma GCC unroll 16
    for (int k = 1; k < (int)(sizeof CELL_Q / sizeof CELL_Q[0]); k++)
        ALL(q[i] = v_fma(q[i], r[i], v_set1(CELL_Q[k])))
    ALL(q[i] = v_fma(q[i], r[i], v_set1(1)))
    ALL(q[i] = v_mul(q[i], r[i]))
    ALL(e[i] = v_fma(t[i], q[i], t[i]))
    if (general)
        ALL(e[i] = v_drop(v_le(z[i], low), e[i]))
#else
    (void)across, (void)general;
    ALL(e[i] = v_sub(x[i], f->base))
    ALL(z[i] = v_sub(x[i], f->base))
    v_exp_held(e, n);
#endif
}
#undef ALL

/* The places of all x so far: joined, or the highest in the general form. */
INLINE vec v_seen(bool general, vec seen, vec z)
{
    return general ? v_max(z, seen) : v_ior(seen, z);
}

/* Are all x seen within reach, and below the cell of m? A place outside [2, 2 + REACH ULP) has another
   exponent or a bit above those of REACH, and no other place has the bits of 2 alone to hide it: a z
   of 0 takes an x with x / w = -shift exactly, near -2^19.5 for one m of 2^21. */
INLINE bool v_all_below(bool general, vec seen)
{
#if FUSED
    if (general)
        return v_all(v_lt(seen, v_set1(2 + FAR_REACH * ULP)));
    return v_all(v_eq(v_iand(seen, v_bits(~(real_bits)(REACH - 1))), v_set1(2)));
#else
    (void)general;
    return v_all(v_lt(seen, v_zero()));
#endif
}

/* exp(from - to), from <= to, in plain arithmetic: the same bits with every instruction set. */
INLINE double exp_of_fall(real from, real to)
{
    static const double q[] = EXP_Q_DOUBLE;
    const double shift = 0x1.8p52 + 1023, d = (double)from - (double)to, back = d + to,
                 lost = (from - back) - (to - (back - d));
    if (!(d > -1400))
        return 0;
    /* of d / 2, squared, so that no factor is subnormal where the product is not */
    double z = d / 2 * 0x1.71547652b82fep+0 + shift, n = z - shift, p = q[0], power;
    double r = (d / 2 - n * 0x1.62e42fefa38p-1) - n * 0x1.ef35793c7673p-45;
    for (int i = 1; i < 10; i++)
        p = p * r + q[i];
    uint64_t bits;
    memcpy(&bits, &z, sizeof bits);
    bits <<= 52;
    memcpy(&power, &bits, sizeof power);
    p = ((p * r + 1) * r + 1) * power;
    return p * p * (1 + lost);
}
