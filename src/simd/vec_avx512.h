/* The vocabulary of AVX-512 (F, BW, DQ, VL): one register of REAL (16 float or 8 double). */
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(                                                      \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,prfchw"))), \
    apply_to = function)
#define XF_POP_TARGET
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c,prfchw")
#endif

#define REG_BYTES 64
#define REG_LANES (REG_BYTES * 8 / XF_BITS)
#define FUSED 1
#if XF_BITS == 32
typedef __m512 reg;
typedef __mmask16 msk;
#define P(op) _mm512_##op##_ps
#define I(op) _mm512_##op##_epi32
#define CMP _mm512_cmp_ps_mask
#define ONE _mm512_set1_epi32(1)
#define TO_INT _mm512_castps_si512
#define TO_REAL _mm512_castsi512_ps
#else
typedef __m512d reg;
typedef __mmask8 msk;
#define P(op) _mm512_##op##_pd
#define I(op) _mm512_##op##_epi64
#define CMP _mm512_cmp_pd_mask
#define ONE _mm512_set1_epi64(1)
#define TO_INT _mm512_castpd_si512
#define TO_REAL _mm512_castsi512_pd
#endif

INLINE reg r_set1(real a) { return P(set1)(a); }
INLINE reg r_load(const real *p) { return P(loadu)(p); }
INLINE reg r_hold(reg a)
{
    __asm__("" : "+v"(a));
    return a;
}
INLINE void r_store(real *p, reg a) { P(storeu)(p, a); }
/* Past the caches, to a p aligned to a register. The pool's locks order it before what follows. */
INLINE void r_stream(real *p, reg a) { P(stream)(p, a); }

/* The first n lanes (0 <= n <= REG_LANES); the others read as 0 and are not written. */
INLINE msk r_first(ptrdiff_t n) { return (msk)((1u << n) - 1); }
INLINE reg r_load_part(const real *p, ptrdiff_t n) { return P(maskz_loadu)(r_first(n), p); }
INLINE void r_store_part(real *p, reg a, ptrdiff_t n) { P(mask_storeu)(p, r_first(n), a); }

INLINE reg r_add(reg a, reg b) { return P(add)(a, b); }
INLINE reg r_sub(reg a, reg b) { return P(sub)(a, b); }
INLINE reg r_mul(reg a, reg b) { return P(mul)(a, b); }
INLINE reg r_div(reg a, reg b) { return P(div)(a, b); }
INLINE reg r_fma(reg a, reg b, reg c) { return P(fmadd)(a, b, c); }
INLINE reg r_min(reg a, reg b) { return P(min)(a, b); }
/* a * b - ab, exact where ab is a * b rounded. */
INLINE reg r_lost(reg a, reg b, reg ab) { return P(fmsub)(a, b, ab); }
INLINE reg r_max(reg a, reg b) { return P(max)(a, b); }

INLINE msk r_lt(reg a, reg b) { return CMP(a, b, _CMP_LT_OQ); }
INLINE msk r_le(reg a, reg b) { return CMP(a, b, _CMP_LE_OQ); }
INLINE msk r_eq(reg a, reg b) { return CMP(a, b, _CMP_EQ_OQ); }
INLINE bool m_all(msk m) { return m == (msk)-1; }
INLINE msk m_or(msk a, msk b) { return (msk)(a | b); }
INLINE msk m_and(msk a, msk b) { return (msk)(a & b); }
INLINE reg r_select(msk m, reg a, reg b) { return P(mask_mov)(b, m, a); }
INLINE reg r_keep(msk m, reg a) { return P(maskz_mov)(m, a); }
INLINE reg r_drop(msk m, reg a) { return P(maskz_mov)((msk)~m, a); }

INLINE reg r_iadd(reg a, reg b) { return TO_REAL(I(add)(TO_INT(a), TO_INT(b))); }
INLINE reg r_count(reg a, msk m) { return TO_REAL(I(mask_add)(TO_INT(a), m, TO_INT(a), ONE)); }
INLINE reg r_iand(reg a, reg b) { return P(and)(a, b); }
INLINE reg r_ior(reg a, reg b) { return P(or)(a, b); }
INLINE reg r_ishl(reg a) { return TO_REAL(I(slli)(TO_INT(a), MANTISSA_BITS)); }
INLINE reg r_ishr(reg a) { return TO_REAL(I(srli)(TO_INT(a), MANTISSA_BITS)); }
INLINE reg r_icells(reg a) { return TO_REAL(I(slli)(TO_INT(a), MANTISSA_BITS - CELL_BITS)); }
INLINE reg r_lookup(const reg *table, reg a) { return P(permutexvar)(TO_INT(a), table[0]); }

/* The lanes folded by halves: l with l + 8, then l + 4, then l + 2, then l + 1. */
#if XF_BITS == 32
#define FOLD(name, op)                                                                        \
    INLINE real name(reg a)                                                                   \
    {                                                                                         \
        __m256 c = _mm256_##op##_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)); \
        __m128 b = _mm_##op##_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1));     \
        b = _mm_##op##_ps(b, _mm_movehl_ps(b, b));                                            \
        return _mm_cvtss_f32(_mm_##op##_ss(b, _mm_movehdup_ps(b)));                           \
    }
#else
#define FOLD(name, op)                                                                         \
    INLINE real name(reg a)                                                                    \
    {                                                                                          \
        __m256d c = _mm256_##op##_pd(_mm512_castpd512_pd256(a), _mm512_extractf64x4_pd(a, 1)); \
        __m128d b = _mm_##op##_pd(_mm256_castpd256_pd128(c), _mm256_extractf128_pd(c, 1));     \
        return _mm_cvtsd_f64(_mm_##op##_sd(b, _mm_unpackhi_pd(b, b)));                         \
    }
#endif
FOLD(r_fold_add, add)
FOLD(r_fold_min, min)
FOLD(r_fold_max, max)
#undef FOLD

#if XF_BITS == 32
INLINE void r_transpose(reg m[16])
{
    reg a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(m[i], m[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(m[i], m[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    /* b[4 g + c] holds, in its quarter q, column 4 q + c of rows 4 g to 4 g + 3. */
    for (int c = 0; c < 4; c++) {
        reg lo = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x44);
        reg hi = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xee);
        reg lo2 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x44);
        reg hi2 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xee);
        m[c] = _mm512_shuffle_f32x4(lo, lo2, 0x88);
        m[4 + c] = _mm512_shuffle_f32x4(lo, lo2, 0xdd);
        m[8 + c] = _mm512_shuffle_f32x4(hi, hi2, 0x88);
        m[12 + c] = _mm512_shuffle_f32x4(hi, hi2, 0xdd);
    }
}
#else
INLINE void r_transpose(reg m[8])
{
    reg a[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm512_unpacklo_pd(m[i], m[i + 1]);
        a[i + 1] = _mm512_unpackhi_pd(m[i], m[i + 1]);
    }
    /* a[2 g + c] holds, in its quarter q, column 2 q + c of rows 2 g and 2 g + 1. */
    for (int c = 0; c < 2; c++) {
        reg lo = _mm512_shuffle_f64x2(a[c], a[2 + c], 0x44);
        reg hi = _mm512_shuffle_f64x2(a[c], a[2 + c], 0xee);
        reg lo2 = _mm512_shuffle_f64x2(a[4 + c], a[6 + c], 0x44);
        reg hi2 = _mm512_shuffle_f64x2(a[4 + c], a[6 + c], 0xee);
        m[c] = _mm512_shuffle_f64x2(lo, lo2, 0x88);
        m[2 + c] = _mm512_shuffle_f64x2(lo, lo2, 0xdd);
        m[4 + c] = _mm512_shuffle_f64x2(hi, hi2, 0x88);
        m[6 + c] = _mm512_shuffle_f64x2(hi, hi2, 0xdd);
    }
}
#endif

#if XF_BITS == 32
/* float16 and bfloat16, widened and rounded to even. */
INLINE reg r_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
INLINE void r_store_f16(uint16_t *p, reg a)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
INLINE reg r_load_bf16(const uint16_t *p)
{
    __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
}
INLINE void r_store_bf16(uint16_t *p, reg a)
{
    __m512i i = _mm512_castps_si512(a), high = _mm512_srli_epi32(i, 16);
    __m512i even = _mm512_and_epi32(high, _mm512_set1_epi32(1));
    i = _mm512_add_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(0x7fff)), even);
    __m512i quiet = _mm512_or_epi32(high, _mm512_set1_epi32(0x40));
    i = _mm512_mask_mov_epi32(_mm512_srli_epi32(i, 16), CMP(a, a, _CMP_UNORD_Q), quiet);
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(i));
}
#endif
#undef P
#undef I
#undef CMP
#undef ONE
#undef TO_INT
#undef TO_REAL
#endif
