/* The vocabulary of AArch64's NEON: one register of REAL (4 float or 2 double). */
#if defined(__aarch64__) || defined(_M_ARM64)
#include <arm_neon.h>

#define REG_BYTES 16
#define REG_LANES (REG_BYTES * 8 / XF_BITS)
#define FUSED 1
#if XF_BITS == 32
typedef float32x4_t reg;
typedef uint32x4_t msk;
#define P(op) op##_f32
#define I(op) op##_u32
#define TO_INT vreinterpretq_u32_f32
#define TO_REAL vreinterpretq_f32_u32
#else
typedef float64x2_t reg;
typedef uint64x2_t msk;
#define P(op) op##_f64
#define I(op) op##_u64
#define TO_INT vreinterpretq_u64_f64
#define TO_REAL vreinterpretq_f64_u64
#endif

INLINE reg r_set1(real a) { return P(vdupq_n)(a); }
INLINE reg r_load(const real *p) { return P(vld1q)(p); }
INLINE reg r_hold(reg a) { return a; }
INLINE void r_store(real *p, reg a) { P(vst1q)(p, a); }
/* Where other sets store past the caches. */
INLINE void r_stream(real *p, reg a) { r_store(p, a); }

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

INLINE reg r_add(reg a, reg b) { return P(vaddq)(a, b); }
INLINE reg r_sub(reg a, reg b) { return P(vsubq)(a, b); }
INLINE reg r_mul(reg a, reg b) { return P(vmulq)(a, b); }
INLINE reg r_div(reg a, reg b) { return P(vdivq)(a, b); }
INLINE reg r_fma(reg a, reg b, reg c) { return P(vfmaq)(c, a, b); }
/* a * b - ab, exact where ab is a * b rounded. */
INLINE reg r_lost(reg a, reg b, reg ab) { return r_fma(a, b, P(vnegq)(ab)); }
/* As on x86, b where either is nan. */
INLINE reg r_max(reg a, reg b) { return P(vbslq)(P(vcgtq)(a, b), a, b); }
INLINE reg r_min(reg a, reg b) { return P(vbslq)(P(vcltq)(a, b), a, b); }

INLINE msk r_lt(reg a, reg b) { return P(vcltq)(a, b); }
INLINE msk r_le(reg a, reg b) { return P(vcleq)(a, b); }
INLINE msk r_eq(reg a, reg b) { return P(vceqq)(a, b); }
#if XF_BITS == 32
INLINE bool m_all(msk m) { return vminvq_u32(m) != 0; }
#else
INLINE bool m_all(msk m) { return vgetq_lane_u64(m, 0) && vgetq_lane_u64(m, 1); }
#endif
INLINE msk m_or(msk a, msk b) { return I(vorrq)(a, b); }
INLINE msk m_and(msk a, msk b) { return I(vandq)(a, b); }
INLINE reg r_select(msk m, reg a, reg b) { return P(vbslq)(m, a, b); }
INLINE reg r_keep(msk m, reg a) { return TO_REAL(I(vandq)(TO_INT(a), m)); }
INLINE reg r_drop(msk m, reg a) { return TO_REAL(I(vbicq)(TO_INT(a), m)); }

INLINE reg r_iadd(reg a, reg b) { return TO_REAL(I(vaddq)(TO_INT(a), TO_INT(b))); }
INLINE reg r_count(reg a, msk m) { return TO_REAL(I(vsubq)(TO_INT(a), m)); }
INLINE reg r_iand(reg a, reg b) { return TO_REAL(I(vandq)(TO_INT(a), TO_INT(b))); }
INLINE reg r_ior(reg a, reg b) { return TO_REAL(I(vorrq)(TO_INT(a), TO_INT(b))); }
INLINE reg r_ishl(reg a) { return TO_REAL(I(vshlq_n)(TO_INT(a), MANTISSA_BITS)); }
INLINE reg r_ishr(reg a) { return TO_REAL(I(vshrq_n)(TO_INT(a), MANTISSA_BITS)); }
INLINE reg r_icells(reg a) { return TO_REAL(I(vshlq_n)(TO_INT(a), MANTISSA_BITS - CELL_BITS)); }
/* By bytes: those of entry i are i times the size, and on. */
INLINE reg r_lookup(const reg *table, reg a)
{
    const uint8x16x2_t entries = {{P(vreinterpretq_u8)(table[0]), P(vreinterpretq_u8)(table[1])}};
#if XF_BITS == 32
    const uint32x4_t i = vandq_u32(TO_INT(a), vdupq_n_u32(7));
    const uint8x16_t byte =
        vreinterpretq_u8_u32(vmlaq_u32(vdupq_n_u32(0x03020100), i, vdupq_n_u32(0x04040404)));
    return vreinterpretq_f32_u8(vqtbl2q_u8(entries, byte));
#else
    static const uint8_t first[16] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8, 8, 8, 8, 8},
                         next[16] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
    const uint8x16_t i =
        vandq_u8(vqtbl1q_u8(vreinterpretq_u8_f64(a), vld1q_u8(first)), vdupq_n_u8(3));
    return vreinterpretq_f64_u8(vqtbl2q_u8(entries, vaddq_u8(vshlq_n_u8(i, 3), vld1q_u8(next))));
#endif
}

/* The lanes folded by halves: l with l + 2, then l + 1. */
INLINE real r_fold_add(reg a)
{
#if XF_BITS == 32
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
#else
    return vgetq_lane_f64(a, 0) + vgetq_lane_f64(a, 1);
#endif
}
INLINE real r_fold_min(reg a) { return P(vminnmvq)(a); }
INLINE real r_fold_max(reg a) { return P(vmaxnmvq)(a); }

#if XF_BITS == 32
INLINE void r_transpose(reg m[4])
{
    float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(m[0], m[1]));
    float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(m[0], m[1]));
    float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(m[2], m[3]));
    float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(m[2], m[3]));
    m[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    m[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    m[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    m[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
#else
INLINE void r_transpose(reg m[2])
{
    reg a = vtrn1q_f64(m[0], m[1]);
    m[1] = vtrn2q_f64(m[0], m[1]);
    m[0] = a;
}
#endif

#if XF_BITS == 32
/* float16 and bfloat16, widened and rounded to even. */
INLINE reg r_load_f16(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE void r_store_f16(uint16_t *p, reg a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }
INLINE reg r_load_bf16(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
INLINE void r_store_bf16(uint16_t *p, reg a)
{
    uint32x4_t i = vreinterpretq_u32_f32(a), high = vshrq_n_u32(i, 16);
    uint32x4_t even = vandq_u32(high, vdupq_n_u32(1));
    i = vaddq_u32(vaddq_u32(i, vdupq_n_u32(0x7fff)), even);
    uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
    i = vbslq_u32(vceqq_f32(a, a), vshrq_n_u32(i, 16), quiet);
    vst1_u16(p, vmovn_u32(i));
}
#endif
#undef P
#undef I
#undef TO_INT
#undef TO_REAL
#endif
