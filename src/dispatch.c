/* The only place that knows instruction sets: which were built, which run here, which is used. */
#include "dispatch.h"

#include <stdatomic.h>
#include <string.h>

static bool always(void) { return true; }

#if defined(__x86_64__) || defined(_M_X64)
/* CPUID and XGETBV are read by hand: __builtin_cpu_supports answers 0 for everything under some
   toolchains. A set counts only if the operating system saves its registers (XCR0). */
#include <cpuid.h>
static void cpuid(unsigned leaf, unsigned r[4])
{
    if (!__get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]))
        r[0] = r[1] = r[2] = r[3] = 0;
}
static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

enum { EAX, EBX, ECX, EDX };
#define BIT(i) (1u << (i))

static bool runs_avx2(void)
{
    unsigned one[4], seven[4];
    const unsigned first = BIT(12) | BIT(27) | BIT(28) | BIT(29); /* FMA, OSXSAVE, AVX, F16C */
    cpuid(1, one);
    cpuid(7, seven);
    return (one[ECX] & first) == first && (seven[EBX] & BIT(5)) && (xcr0() & 0x6) == 0x6;
}

static bool runs_avx512(void)
{
    unsigned seven[4];
    const unsigned all = BIT(16) | BIT(17) | BIT(30) | BIT(31); /* F, DQ, BW, VL */
    cpuid(7, seven);
    return runs_avx2() && (seven[EBX] & all) == all && (xcr0() & 0xe6) == 0xe6;
}

static bool asks(void)
{
    unsigned r[4];
    cpuid(0, r);
    return memcmp(&r[EBX], "Auth", 4) != 0; /* the first register of "AuthenticAMD" */
}

#define INSTRUCTION_SETS(set) set(base, always) set(avx2, runs_avx2) set(avx512, runs_avx512)
#elif defined(__aarch64__) || defined(_M_ARM64)
static bool asks(void) { return true; }

#define INSTRUCTION_SETS(set) set(neon, always)
#else
#error "xentfast has no row primitives for this architecture: see src/simd/vec_*.h"
#endif

#define DECLARE(isa, runs) extern const xf_kernels xf_##isa##_f32, xf_##isa##_f64;
INSTRUCTION_SETS(DECLARE)

static const struct {
    const char *name;
    bool (*runs)(void);
    const xf_kernels *kernels[2]; /* by xf_type */
} sets[] = {
#define ENTRY(isa, runs) {#isa, runs, {&xf_##isa##_f32, &xf_##isa##_f64}},
    INSTRUCTION_SETS(ENTRY)};

static atomic_int chosen = -1;

int xf_isa_count(void) { return (int)(sizeof sets / sizeof sets[0]); }

const char *xf_isa_name(int isa) { return sets[isa].name; }

bool xf_isa_runs(int isa) { return sets[isa].runs(); }

int xf_isa_chosen(void)
{
    int isa = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (isa >= 0)
        return isa;
    for (isa = xf_isa_count() - 1; !xf_isa_runs(isa); isa--) {
    }
    xf_isa_choose(isa);
    return isa;
}

void xf_isa_choose(int isa) { atomic_store_explicit(&chosen, isa, memory_order_relaxed); }

const xf_kernels *xf_isa_kernels(xf_type type) { return sets[xf_isa_chosen()].kernels[type]; }

const xf_kernels *xf_isa_light_kernels(xf_type type)
{
    enum { LIGHT = 1 }; /* avx2 */
    int isa = xf_isa_chosen();
    return sets[isa < LIGHT ? isa : LIGHT].kernels[type];
}

bool xf_asks_ahead(void)
{
    static atomic_int known = -1; /* CPUID is slow, above all on a virtual machine */
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer < 0) {
        answer = asks();
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return answer;
}
