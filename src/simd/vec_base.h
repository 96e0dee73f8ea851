/* The vocabulary of the x86-64 baseline (SSE2): one register of REAL (4 float or 2 double).
   It has no fused multiply-add: a product is rounded before it is added. */
#if defined(__x86_64__) || defined(_M_X64)
#include <emmintrin.h>

#define REG_BYTES 16
#define REG_LANES (REG_BYTES * 8 / XF_BITS)
#define FUSED 0
#if XF_BITS == 32
typedef __m128 reg;
#define P(op) _mm_##op##_ps
#define I(op) _mm_##op##_epi32
#define TO_INT _mm_castps_si128
#define TO_REAL _mm_castsi128_ps
#else
typedef __m128d reg;
#define P(op) _mm_##op##_pd
#define I(op) _mm_##op##_epi64
#define TO_INT _mm_castpd_si128
#define TO_REAL _mm_castsi128_pd
#endif
typedef reg msk; /* all bits of a lane set, or none */

INLINE reg r_set1(real a) { return P(set1)(a); }
INLINE reg r_load(const real *p) { return P(loadu)(p); }
INLINE reg r_hold(reg a) { return a; }
INLINE void r_store(real *p, reg a) { P(storeu)(p, a); }
/* Past the caches, to a p aligned to a register. The pool's locks order it before what follows. */
INLINE void r_stream(real *p, reg a) { P(stream)(p, a); }

/* The first n lanes (0 <= n <= REG_LANES); the others read as 0 and are not written. */
INLINE reg r_load_part(const real *p, ptrdiff_t n)
{
    real lane[REG_LANES] = {0};
    for (ptrdiff_t i = 0; i < n; i++)
        lane[i] = p[i];
    return r_load(lane);
}
INLINE void r_store_part(real *p, reg a, ptrdiff_t n)
{
    real lane[REG_LANES];
    r_store(lane, a);
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = lane[i];
}

INLINE reg r_add(reg a, reg b) { return P(add)(a, b); }
INLINE reg r_sub(reg a, reg b) { return P(sub)(a, b); }
INLINE reg r_mul(reg a, reg b) { return P(mul)(a, b); }
INLINE reg r_div(reg a, reg b) { return P(div)(a, b); }
INLINE reg r_fma(reg a, reg b, reg c) { return P(add)(P(mul)(a, b), c); }
INLINE reg r_min(reg a, reg b) { return P(min)(a, b); }
/* a * b - ab, exact where ab is a * b rounded: the products of the factors' halves are (Dekker). */
INLINE reg r_half(reg a)
{
    reg c = r_mul(a, r_set1((real)(1 << (MANTISSA_BITS / 2 + 1)) + 1));
    return r_sub(c, r_sub(c, a));
}
INLINE reg r_max(reg a, reg b) { return P(max)(a, b); }

INLINE msk r_lt(reg a, reg b) { return P(cmplt)(a, b); }
INLINE msk r_le(reg a, reg b) { return P(cmple)(a, b); }
INLINE msk r_eq(reg a, reg b) { return P(cmpeq)(a, b); }
INLINE bool m_all(msk m) { return P(movemask)(m) == (1 << REG_LANES) - 1; }
INLINE msk m_or(msk a, msk b) { return P(or)(a, b); }
INLINE msk m_and(msk a, msk b) { return P(and)(a, b); }
INLINE reg r_keep(msk m, reg a) { return P(and)(m, a); }
INLINE reg r_drop(msk m, reg a) { return P(andnot)(m, a); }
INLINE reg r_select(msk m, reg a, reg b) { return P(or)(r_keep(m, a), r_drop(m, b)); }
INLINE reg r_lost(reg a, reg b, reg ab)
{
    reg a1 = r_half(a), b1 = r_half(b), a2 = r_sub(a, a1), b2 = r_sub(b, b1);
    reg rest = r_sub(ab, r_mul(a1, b1));
    rest = r_sub(r_sub(rest, r_mul(a1, b2)), r_mul(a2, b1));
    rest = r_sub(r_mul(a2, b2), rest);
    return r_keep(r_eq(r_sub(rest, rest), r_set1(0)), rest); /* 0 where a is too large for r_half */
}

INLINE reg r_iadd(reg a, reg b) { return TO_REAL(I(add)(TO_INT(a), TO_INT(b))); }
INLINE reg r_count(reg a, msk m) { return TO_REAL(I(sub)(TO_INT(a), TO_INT(m))); }
INLINE reg r_iand(reg a, reg b) { return P(and)(a, b); }
INLINE reg r_ior(reg a, reg b) { return P(or)(a, b); }
INLINE reg r_ishl(reg a) { return TO_REAL(I(slli)(TO_INT(a), MANTISSA_BITS)); }
INLINE reg r_ishr(reg a) { return TO_REAL(I(srli)(TO_INT(a), MANTISSA_BITS)); }

/* The lanes folded by halves: l with l + 2, then l + 1. */
#if XF_BITS == 32
#define FOLD(name, op)                                                   \
    INLINE real name(reg a)                                              \
    {                                                                    \
        a = _mm_##op##_ps(a, _mm_movehl_ps(a, a));                       \
        return _mm_cvtss_f32(_mm_##op##_ss(a, _mm_shuffle_ps(a, a, 1))); \
    }
#else
#define FOLD(name, op) \
    INLINE real name(reg a) { return _mm_cvtsd_f64(_mm_##op##_sd(a, _mm_unpackhi_pd(a, a))); }
#endif
FOLD(r_fold_add, add)
FOLD(r_fold_min, min)
FOLD(r_fold_max, max)
#undef FOLD

#if XF_BITS == 32
INLINE void r_transpose(reg m[4]) { _MM_TRANSPOSE4_PS(m[0], m[1], m[2], m[3]); }
#else
INLINE void r_transpose(reg m[2])
{
    reg a = _mm_unpacklo_pd(m[0], m[1]);
    m[1] = _mm_unpackhi_pd(m[0], m[1]);
    m[0] = a;
}
#endif

#if XF_BITS == 32
/* float16 and bfloat16: no instruction converts them. */
#define CONVERT(name)                                                                     \
    INLINE reg r_load_##name(const uint16_t *p)                                           \
    {                                                                                     \
        return _mm_setr_ps(f32_of_##name(p[0]), f32_of_##name(p[1]), f32_of_##name(p[2]), \
                           f32_of_##name(p[3]));                                          \
    }                                                                                     \
    INLINE void r_store_##name(uint16_t *p, reg a)                                        \
    {                                                                                     \
        real lane[REG_LANES];                                                             \
        r_store(lane, a);                                                                 \
        for (int i = 0; i < REG_LANES; i++)                                               \
            p[i] = name##_of_f32(lane[i]);                                                \
    }
CONVERT(f16)
CONVERT(bf16)
#undef CONVERT
#endif
#undef P
#undef I
#undef TO_INT
#undef TO_REAL
#endif
