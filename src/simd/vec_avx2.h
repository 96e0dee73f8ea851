/* The vocabulary of AVX2 with FMA: one register of REAL (8 float or 4 double) and its mask. */
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,prfchw"))), apply_to = function)
#define XF_POP_TARGET
#else
#pragma GCC target("avx2,fma,f16c,prfchw")
#endif

#define REG_BYTES 32
#define REG_LANES (REG_BYTES * 8 / XF_BITS)
#define FUSED 1
#if XF_BITS == 32
typedef __m256 reg;
#define P(op) _mm256_##op##_ps
#define I(op) _mm256_##op##_epi32
#define TO_INT _mm256_castps_si256
#define TO_REAL _mm256_castsi256_ps
#else
typedef __m256d reg;
#define P(op) _mm256_##op##_pd
#define I(op) _mm256_##op##_epi64
#define TO_INT _mm256_castpd_si256
#define TO_REAL _mm256_castsi256_pd
#endif
typedef reg msk; /* all bits of a lane set, or none */

INLINE reg r_set1(real a) { return P(set1)(a); }
INLINE reg r_load(const real *p) { return P(loadu)(p); }
INLINE reg r_hold(reg a)
{
    __asm__("" : "+x"(a));
    return a;
}
INLINE void r_store(real *p, reg a) { P(storeu)(p, a); }
/* Past the caches, to a p aligned to a register. The pool's locks order it before what follows. */
INLINE void r_stream(real *p, reg a) { P(stream)(p, a); }

/* The first n lanes (0 <= n <= REG_LANES); the others read as 0 and are not written. */
INLINE __m256i r_first(ptrdiff_t n)
{
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const void *)(ones + 8 - n * XF_BITS / 32));
}
INLINE reg r_load_part(const real *p, ptrdiff_t n) { return P(maskload)(p, r_first(n)); }
INLINE void r_store_part(real *p, reg a, ptrdiff_t n) { P(maskstore)(p, r_first(n), a); }

INLINE reg r_add(reg a, reg b) { return P(add)(a, b); }
INLINE reg r_sub(reg a, reg b) { return P(sub)(a, b); }
INLINE reg r_mul(reg a, reg b) { return P(mul)(a, b); }
INLINE reg r_div(reg a, reg b) { return P(div)(a, b); }
INLINE reg r_fma(reg a, reg b, reg c) { return P(fmadd)(a, b, c); }
INLINE reg r_min(reg a, reg b) { return P(min)(a, b); }
/* a * b - ab, exact where ab is a * b rounded. */
INLINE reg r_lost(reg a, reg b, reg ab) { return P(fmsub)(a, b, ab); }
INLINE reg r_max(reg a, reg b) { return P(max)(a, b); }

INLINE msk r_lt(reg a, reg b) { return P(cmp)(a, b, _CMP_LT_OQ); }
INLINE msk r_le(reg a, reg b) { return P(cmp)(a, b, _CMP_LE_OQ); }
INLINE msk r_eq(reg a, reg b) { return P(cmp)(a, b, _CMP_EQ_OQ); }
INLINE bool m_all(msk m) { return P(movemask)(m) == (1 << REG_LANES) - 1; }
INLINE msk m_or(msk a, msk b) { return P(or)(a, b); }
INLINE msk m_and(msk a, msk b) { return P(and)(a, b); }
INLINE reg r_select(msk m, reg a, reg b) { return P(blendv)(b, a, m); }
INLINE reg r_keep(msk m, reg a) { return P(and)(m, a); }
INLINE reg r_drop(msk m, reg a) { return P(andnot)(m, a); }

INLINE reg r_iadd(reg a, reg b) { return TO_REAL(I(add)(TO_INT(a), TO_INT(b))); }
INLINE reg r_count(reg a, msk m) { return TO_REAL(I(sub)(TO_INT(a), TO_INT(m))); }
INLINE reg r_iand(reg a, reg b) { return P(and)(a, b); }
INLINE reg r_ior(reg a, reg b) { return P(or)(a, b); }
INLINE reg r_ishl(reg a) { return TO_REAL(I(slli)(TO_INT(a), MANTISSA_BITS)); }
INLINE reg r_ishr(reg a) { return TO_REAL(I(srli)(TO_INT(a), MANTISSA_BITS)); }
INLINE reg r_icells(reg a) { return TO_REAL(I(slli)(TO_INT(a), MANTISSA_BITS - CELL_BITS)); }
INLINE reg r_lookup(const reg *table, reg a)
{
#if XF_BITS == 32
    return _mm256_permutevar8x32_ps(table[0], TO_INT(a));
#else /* by halves, 2 i and 2 i + 1 */
    const __m256 twice = _mm256_castsi256_ps(_mm256_slli_epi64(TO_INT(a), 1));
    const __m256i even = _mm256_castps_si256(_mm256_moveldup_ps(twice)),
                  half = _mm256_or_si256(even, _mm256_set1_epi64x(1LL << 32));
    return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(table[0]), half));
#endif
}

/* The lanes folded by halves: l with l + 4, then l + 2, then l + 1. */
#if XF_BITS == 32
#define FOLD(name, op)                                                                    \
    INLINE real name(reg a)                                                               \
    {                                                                                     \
        __m128 b = _mm_##op##_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); \
        b = _mm_##op##_ps(b, _mm_movehl_ps(b, b));                                        \
        return _mm_cvtss_f32(_mm_##op##_ss(b, _mm_movehdup_ps(b)));                       \
    }
#else
#define FOLD(name, op)                                                                     \
    INLINE real name(reg a)                                                                \
    {                                                                                      \
        __m128d b = _mm_##op##_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1)); \
        return _mm_cvtsd_f64(_mm_##op##_sd(b, _mm_unpackhi_pd(b, b)));                     \
    }
#endif
FOLD(r_fold_add, add)
FOLD(r_fold_min, min)
FOLD(r_fold_max, max)
#undef FOLD

#if XF_BITS == 32
INLINE void r_transpose(reg m[8])
{
    reg a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(m[i], m[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(m[i], m[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        m[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        m[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}
#else
INLINE void r_transpose(reg m[4])
{
    reg a = _mm256_unpacklo_pd(m[0], m[1]), b = _mm256_unpackhi_pd(m[0], m[1]);
    reg c = _mm256_unpacklo_pd(m[2], m[3]), d = _mm256_unpackhi_pd(m[2], m[3]);
    m[0] = _mm256_permute2f128_pd(a, c, 0x20);
    m[1] = _mm256_permute2f128_pd(b, d, 0x20);
    m[2] = _mm256_permute2f128_pd(a, c, 0x31);
    m[3] = _mm256_permute2f128_pd(b, d, 0x31);
}
#endif

#if XF_BITS == 32
/* float16 and bfloat16, widened and rounded to even. */
INLINE reg r_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
INLINE void r_store_f16(uint16_t *p, reg a)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
INLINE reg r_load_bf16(const uint16_t *p)
{
    __m256i a = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
}
INLINE void r_store_bf16(uint16_t *p, reg a)
{
    __m256i i = _mm256_castps_si256(a), high = _mm256_srli_epi32(i, 16);
    __m256i even = _mm256_and_si256(high, _mm256_set1_epi32(1));
    i = _mm256_add_epi32(_mm256_add_epi32(i, _mm256_set1_epi32(0x7fff)), even);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    i = _mm256_blendv_epi8(_mm256_srli_epi32(i, 16), quiet, nan);
    i = _mm256_permute4x64_epi64(_mm256_packus_epi32(i, i), 0x08);
    _mm_storeu_si128((void *)p, _mm256_castsi256_si128(i));
}
#endif
#undef P
#undef I
#undef TO_INT
#undef TO_REAL
#endif
