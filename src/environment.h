/* The floating-point environment that the kernels need: rounding to nearest, subnormal numbers kept,
   nothing trapped. A caller's thread may have another. */
#ifndef XF_ENVIRONMENT_H
#define XF_ENVIRONMENT_H

#if defined(__x86_64__) || defined(_M_X64)
#include <emmintrin.h>
typedef unsigned xf_environment;
static inline void xf_leave(xf_environment before) { _mm_setcsr(before); }
/* Returns what xf_leave puts back. */
static inline xf_environment xf_enter(void)
{
    xf_environment before = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return before;
}
#else
#include <stdint.h>
typedef uint64_t xf_environment;
static inline void xf_leave(xf_environment before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
}
static inline xf_environment xf_enter(void)
{
    xf_environment before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    xf_leave(0);
    return before;
}
#endif

#endif
