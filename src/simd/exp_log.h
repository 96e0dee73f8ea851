/* exp and log on one logical vector. Every coefficient is the minimax one of its interval, found by
   the Remez exchange for the relative error and rounded to REAL. The worst errors stated here are
   held by tests/test_math.py. */

/* Exponentials are held as 2^EXP_SCALE exp(d), d <= 0, which is a normal number wherever exp(d) is not
   0 as REAL, and below: the range of the exponent above 1 would lie idle else.

     n = round(d / ln 2),  r = d - n ln 2 in [-ln 2 / 2, ln 2 / 2],  exp(d) = 2^n (1 + r + r^2 Q(r))

   exp(0) is exactly 1; below EXP_LOWEST the result is 0. Approximation error: float 2^-28.2, double
   2^-57.9. */
#define EXP_Q_DOUBLE                                                                             \
    {0x1.ad7f0356a3eb2p-26, 0x1.28adce73e17dcp-22, 0x1.71df262bde362p-19, 0x1.a01999adca517p-16, \
     0x1.a01a0129b48c8p-13, 0x1.6c16c1844b021p-10, 0x1.1111111127e83p-7,  0x1.55555555507f1p-5,  \
     0x1.55555555554f9p-3,  0x1.000000000000ap-1}
/* Adding EXP_SHIFT leaves n, as a biased exponent, in the low bits. */
#if XF_BITS == 32
#define EXP_SCALE 64
#define EXP_ONE 0x1p64f /* exp(0) as it is held */
#define EXP_UNIT 0x1p-64f
#define EXP_LOWEST -132.4f /* rounds to a 2^n of 0: n = -127 - EXP_SCALE */
#define EXP_SHIFT (0x1.8p23f + 127 + EXP_SCALE)
#define LOG2_E 0x1.715476p+0f
#define LN2_HIGH 0x1.62e4p-1f /* 15 bits: n times it is exact */
#define LN2_LOW 0x1.7f7d1cp-20f
static const real EXP_Q[] = {0x1.6a2352p-10f, 0x1.123a6cp-7f, 0x1.5558f4p-5f, 0x1.55549p-3f,
                             0x1.fffffcp-2f};
#else
#define EXP_SCALE 512
#define EXP_ONE 0x1p512
#define EXP_UNIT 0x1p-512
#define EXP_LOWEST -1064.0
#define EXP_SHIFT (0x1.8p52 + 1023 + EXP_SCALE)
#define LOG2_E 0x1.71547652b82fep+0
#define LN2_HIGH 0x1.62e42fefa38p-1 /* 42 bits */
#define LN2_LOW 0x1.ef35793c7673p-45
static const real EXP_Q[] = EXP_Q_DOUBLE;
#endif

/* coefficients[0] x^(n - 1) + ... + coefficients[n - 1] */
#define HORNER(x, coefficients) \
    v_horner(x, coefficients, (int)(sizeof(coefficients) / sizeof(coefficients[0])))
INLINE vec v_horner(vec x, const real *c, int n)
{
    vec p = v_set1(c[0]);
#pragma GCC unroll 16
    for (int i = 1; i < n; i++)
        p = v_fma(p, x, v_set1(c[i]));
    return p;
}

/* Of n vectors in lockstep, so that the chains of one fill the pauses of the others. */
#define ALL(statement)          \
    for (int i = 0; i < n; i++) \
        statement;
INLINE void v_exp_held(vec *d, int n)
{
    const vec shift = v_set1(EXP_SHIFT), one = v_set1(1);
    vec z[4], p[4], r[4];
    ALL(d[i] = v_max(v_set1(EXP_LOWEST), d[i])) /* nan stays */
    ALL(z[i] = v_fma(d[i], v_set1(LOG2_E), shift))
    ALL(r[i] = v_sub(z[i], shift))
    ALL(d[i] = v_fma(r[i], v_set1(-LN2_HIGH), d[i]))
    ALL(r[i] = v_fma(r[i], v_set1(-LN2_LOW), d[i]))
    ALL(p[i] = v_set1(EXP_Q[0]))
#pragma GCC unroll 16
    for (int k = 1; k < (int)(sizeof EXP_Q / sizeof EXP_Q[0]); k++)
        ALL(p[i] = v_fma(p[i], r[i], v_set1(EXP_Q[k])))
    ALL(p[i] = v_fma(p[i], r[i], one))
    ALL(p[i] = v_fma(p[i], r[i], one))
    ALL(d[i] = v_mul(p[i], v_ishl(z[i])))
}
#undef ALL

INLINE vec v_exp(vec d)
{
    v_exp_held(&d, 1);
    return v_mul(d, v_set1(EXP_UNIT));
}

/* log1p(f), f in [sqrt(1/2) - 1, sqrt(2) - 1].
   float:  f - f^2 / 2 + f^3 Q(f), error 2^-27.3;  double: s = f / (2 + f), log1p(f) = 2 s + s^3
   Q(s^2), written as f - (f^2 / 2 - s (f^2 / 2 + s^2 Q(s^2))), error 2^-59.4.  low is added before
   the sum is rounded to the precision of f. */
#if XF_BITS == 32
static const real LOG_Q[] = {-0x1.38c1c6p-4f, 0x1.05649cp-3f, -0x1.0d8758p-3f, 0x1.22d90ap-3f,
                             -0x1.5471f6p-3f, 0x1.99a012p-3f, -0x1.000228p-2f, 0x1.555554p-2f};
INLINE vec v_log1p_small(vec f, vec low)
{
    vec q = v_fma(HORNER(f, LOG_Q), f, v_set1(-0.5f));
    return v_add(f, v_fma(v_mul(f, f), q, low));
}
#define ONE_BITS 0x3f800000u
#define SQRT_HALF_BITS 0x3f3504f3u
#define MANTISSA_MASK 0x007fffffu
#define EXPONENT_SHIFT 0x1p23f
#define EXPONENT_BIAS 127
#define LEAST_NORMAL 0x1p-126f
#define SUBNORMAL_SCALE 0x1p24f
#define SUBNORMAL_EXPONENT 24
typedef uint32_t real_bits;
#else
static const real LOG_Q[] = {0x1.2f0bed3994780p-3, 0x1.39a11c79a8788p-3, 0x1.746644b93a3ecp-3,
                             0x1.c71c51eea1d99p-3, 0x1.249249420ff3cp-2, 0x1.999999997fbb2p-2,
                             0x1.5555555555593p-1};
INLINE vec v_log1p_small(vec f, vec low)
{
    vec s = v_div(f, v_add(v_set1(2), f)), z = v_mul(s, s);
    vec half = v_mul(v_set1(0.5), v_mul(f, f));
    vec t = v_fma(s, v_fma(z, HORNER(z, LOG_Q), half), low);
    return v_sub(f, v_sub(half, t));
}
#define ONE_BITS 0x3ff0000000000000u
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdu
#define MANTISSA_MASK 0x000fffffffffffffu
#define EXPONENT_SHIFT 0x1p52
#define EXPONENT_BIAS 1023
#define LEAST_NORMAL 0x1p-1022
#define SUBNORMAL_SCALE 0x1p54
#define SUBNORMAL_EXPONENT 54
typedef uint64_t real_bits;
#endif

INLINE vec v_bits(real_bits bits)
{
    real a;
    memcpy(&a, &bits, sizeof a);
    return v_set1(a);
}

/* The small integer in each lane as a number: in the last bits of EXPONENT_SHIFT it adds itself. */
INLINE vec v_counted(vec a)
{
    const vec shift = v_set1(EXPONENT_SHIFT);
    return v_sub(v_ior(a, shift), shift);
}

/* y = 2^e m, m in [sqrt(1/2), sqrt(2)): e, and f = m - 1. y positive and normal. */
INLINE vec v_split(vec y, vec *f)
{
    vec i = v_iadd(y, v_bits(ONE_BITS - SQRT_HALF_BITS));
    vec m = v_iadd(v_iand(i, v_bits(MANTISSA_MASK)), v_bits(SQRT_HALF_BITS));
    *f = v_sub(m, v_set1(1));
    vec e = v_ior(v_ishr(i), v_set1(EXPONENT_SHIFT));
    return v_sub(e, v_set1(EXPONENT_SHIFT + EXPONENT_BIAS));
}

/* log(2^e (1 + f)) of what v_split has split. */
INLINE vec v_log_split(vec e, vec f)
{
    return v_fma(e, v_set1(LN2_HIGH), v_log1p_small(f, v_mul(e, v_set1(LN2_LOW))));
}

/* Positive, normal and finite: where all are, which is most often, the rest can be spared. */
INLINE mask v_plain(vec y)
{
    return v_and(v_le(v_set1(LEAST_NORMAL), y), v_le(y, v_set1(REAL_MAX)));
}

/* log y of every y: -inf at 0, nan below. Worst error: see tests/test_math.py. */
INLINE vec v_log(vec y)
{
    vec f, e;
    if (v_all(v_plain(y))) {
        e = v_split(y, &f);
        return v_log_split(e, f);
    }
    mask small = v_lt(y, v_set1(LEAST_NORMAL));
    e = v_split(v_select(small, v_mul(y, v_set1(SUBNORMAL_SCALE)), y), &f);
    e = v_sub(e, v_keep(small, v_set1(SUBNORMAL_EXPONENT)));
    vec r = v_log_split(e, f);
    r = v_select(v_eq(y, v_zero()), v_set1(-INFINITY), r);
    r = v_select(v_eq(y, v_set1(INFINITY)), y, r);
    r = v_select(v_lt(y, v_zero()), v_set1(NAN), r);
    return v_select(v_eq(y, y), r, y);
}

/* log(a / b) with a ratio near 1 taken from the exact difference: f = (a - b) / b.  a, b >= 0. */
INLINE vec v_log_ratio(vec a, vec b)
{
    vec y = v_div(a, b), f, near = v_div(v_sub(a, b), b);
    vec e = v_split(y, &f);
    f = v_select(v_eq(e, v_zero()), near, f);
    vec r = v_log_split(e, f);
    mask plain = v_plain(y); /* else the quotient says too little */
    return v_all(plain) ? r : v_select(plain, r, v_sub(v_log(a), v_log(b)));
}

/* log1p(s), s >= 0: log(1 + s) and the part of s that 1 + s lost. */
INLINE vec v_log1p(vec s)
{
    const vec one = v_set1(1);
    vec y = v_add(one, s), f;
    vec lost = v_select(v_lt(s, one), v_sub(s, v_sub(y, one)), v_sub(one, v_sub(y, s)));
    vec e = v_split(y, &f);
    vec low = v_fma(e, v_set1(LN2_LOW), v_div(lost, y));
    vec r = v_fma(e, v_set1(LN2_HIGH), v_log1p_small(f, low));
    return v_add(r, v_sub(s, s)); /* nan stays, inf has no meaning here */
}

/* log1p(u), 0 <= u <= 1: above sqrt(2) - 1 it is ln 2 + log1p((u - 1) / 2). */
INLINE vec v_log1p_unit(vec u)
{
    mask big = v_lt(v_set1((real)0.41421356), u);
    vec f = v_select(big, v_fma(v_set1((real)0.5), u, v_set1((real)-0.5)), u);
    vec r = v_log1p_small(f, v_keep(big, v_set1(LN2_LOW)));
    return v_add(r, v_keep(big, v_set1(LN2_HIGH)));
}
