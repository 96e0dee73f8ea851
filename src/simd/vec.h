/* One logical vector of 64 bytes, whatever the instruction set: 16 float or 8 double in one, two or
   four registers, so that every set adds in the same order. Include after a vec_<isa>.h. */
#define REGS (64 / REG_BYTES)
#define LANES (512 / XF_BITS)

typedef struct {
    reg r[REGS];
} vec;
typedef struct {
    msk r[REGS];
} mask;

#if REGS == 1
#define EACH(f)  \
    {            \
        {        \
            f(0) \
        }        \
    }
#elif REGS == 2
#define EACH(f)        \
    {                  \
        {              \
            f(0), f(1) \
        }              \
    }
#else
#define EACH(f)                    \
    {                              \
        {                          \
            f(0), f(1), f(2), f(3) \
        }                          \
    }
#endif
#define DEFINE1(type, name, t1, f) \
    static inline type v_##name(t1 a) { return (type)EACH(f); }
#define DEFINE2(type, name, t1, t2, f) \
    static inline type v_##name(t1 a, t2 b) { return (type)EACH(f); }
#define DEFINE3(type, name, t1, t2, t3, f) \
    static inline type v_##name(t1 a, t2 b, t3 c) { return (type)EACH(f); }

#define F(i) r_set1(a)
DEFINE1(vec, set1, real, F)
#undef F
#define F(i) r_load(a + (i) * REG_LANES)
DEFINE1(vec, load, const real *, F)
#undef F
#define F(i) r_add(a.r[i], b.r[i])
DEFINE2(vec, add, vec, vec, F)
#undef F
#define F(i) r_sub(a.r[i], b.r[i])
DEFINE2(vec, sub, vec, vec, F)
#undef F
#define F(i) r_mul(a.r[i], b.r[i])
DEFINE2(vec, mul, vec, vec, F)
#undef F
#define F(i) r_div(a.r[i], b.r[i])
DEFINE2(vec, div, vec, vec, F)
#undef F
/* a * b + c, rounded once (twice without fused multiply-add). */
#define F(i) r_fma(a.r[i], b.r[i], c.r[i])
DEFINE3(vec, fma, vec, vec, vec, F)
#undef F
/* a * b - c, exact where c is a * b rounded. */
#define F(i) r_lost(a.r[i], b.r[i], c.r[i])
DEFINE3(vec, lost, vec, vec, vec, F)
#undef F
/* a > b ? a : b, so b where either is nan. */
#define F(i) r_max(a.r[i], b.r[i])
DEFINE2(vec, max, vec, vec, F)
#undef F
/* a < b ? a : b */
#define F(i) r_min(a.r[i], b.r[i])
DEFINE2(vec, min, vec, vec, F)
#undef F
#define F(i) r_lt(a.r[i], b.r[i])
DEFINE2(mask, lt, vec, vec, F)
#undef F
#define F(i) r_le(a.r[i], b.r[i])
DEFINE2(mask, le, vec, vec, F)
#undef F
#define F(i) r_eq(a.r[i], b.r[i])
DEFINE2(mask, eq, vec, vec, F)
#undef F
#define F(i) m_or(a.r[i], b.r[i])
DEFINE2(mask, or, mask, mask, F)
#undef F
#define F(i) m_and(a.r[i], b.r[i])
DEFINE2(mask, and, mask, mask, F)
#undef F
/* a where the mask is set, else b; keep: else 0; drop: 0 where it is set. */
#define F(i) r_select(a.r[i], b.r[i], c.r[i])
DEFINE3(vec, select, mask, vec, vec, F)
#undef F
#define F(i) r_keep(a.r[i], b.r[i])
DEFINE2(vec, keep, mask, vec, F)
#undef F
#define F(i) r_drop(a.r[i], b.r[i])
DEFINE2(vec, drop, mask, vec, F)
#undef F
/* a plus one in the integer of each lane where the mask is set. */
#define F(i) r_count(a.r[i], b.r[i])
DEFINE2(vec, count, vec, mask, F)
#undef F
/* On the bits of a lane, as an unsigned integer; the shifts are by the length of the mantissa. */
#define F(i) r_iadd(a.r[i], b.r[i])
DEFINE2(vec, iadd, vec, vec, F)
#undef F
#define F(i) r_iand(a.r[i], b.r[i])
DEFINE2(vec, iand, vec, vec, F)
#undef F
#define F(i) r_ior(a.r[i], b.r[i])
DEFINE2(vec, ior, vec, vec, F)
#undef F
#define F(i) r_ishl(a.r[i])
DEFINE1(vec, ishl, vec, F)
#undef F
#define F(i) r_ishr(a.r[i])
DEFINE1(vec, ishr, vec, F)
#undef F
#if FUSED /* only what has fused multiply-add looks into the table of exp_row.h */
/* The bits of a above those that a table is entered with, CELL_BITS of them, as an exponent. */
#define F(i) r_icells(a.r[i])
DEFINE1(vec, icells, vec, F)
#undef F
/* From a table of CELLS entries, repeated to fill its vector, by the last bits of each lane. */
#define F(i) r_lookup(a.r, b.r[i])
DEFINE2(vec, lookup, vec, vec, F)
#undef F
#endif
/* a in registers, so that it is not read again where it is used again. */
#define F(i) r_hold(a.r[i])
DEFINE1(vec, hold, vec, F)
#undef F
#undef DEFINE1
#undef DEFINE2
#undef DEFINE3
#undef EACH

INLINE vec v_zero(void) { return v_set1(0); }
INLINE vec v_neg(vec a) { return v_sub(v_zero(), a); }

INLINE void v_store(real *p, vec a)
{
    for (int i = 0; i < REGS; i++)
        r_store(p + i * REG_LANES, a.r[i]);
}

INLINE void v_stream(real *p, vec a)
{
    for (int i = 0; i < REGS; i++)
        r_stream(p + i * REG_LANES, a.r[i]);
}

INLINE bool v_all(mask m)
{
    msk all = m.r[0];
    for (int i = 1; i < REGS; i++)
        all = m_and(all, m.r[i]);
    return m_all(all);
}

/* How many of n lanes fall into register i. */
INLINE ptrdiff_t v_share(ptrdiff_t n, int i)
{
    n -= i * REG_LANES;
    return n < 0 ? 0 : n > REG_LANES ? REG_LANES : n;
}

/* The first n lanes of p (0 <= n <= LANES), 0 in the others. */
INLINE vec v_load_part(const real *p, ptrdiff_t n)
{
    vec a;
    for (int i = 0; i < REGS; i++)
        a.r[i] = r_load_part(p + i * REG_LANES, v_share(n, i));
    return a;
}

INLINE void v_store_part(real *p, vec a, ptrdiff_t n)
{
    for (int i = 0; i < REGS; i++)
        r_store_part(p + i * REG_LANES, a.r[i], v_share(n, i));
}

/* b with its lanes from n on replaced by those of fill. */
INLINE vec v_fill_from(vec b, ptrdiff_t n, vec fill)
{
    static const real index[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return v_select(v_lt(v_load(index), v_set1((real)n)), b, fill);
}

/* Folds by halves: lane l with lane l + LANES / 2, and so on down to neighbours. */
INLINE real v_fold_add(vec a)
{
#if REGS == 4
    a.r[0] = r_add(a.r[0], a.r[2]);
    a.r[1] = r_add(a.r[1], a.r[3]);
#endif
#if REGS >= 2
    a.r[0] = r_add(a.r[0], a.r[1]);
#endif
    return r_fold_add(a.r[0]);
}

INLINE real v_fold_min(vec a)
{
    for (int i = 1; i < REGS; i++)
        a.r[0] = r_min(a.r[0], a.r[i]);
    return r_fold_min(a.r[0]);
}

INLINE real v_fold_max(vec a)
{
    for (int i = 1; i < REGS; i++)
        a.r[0] = r_max(a.r[0], a.r[i]);
    return r_fold_max(a.r[0]);
}
