/* Sums of doubles without any rounding: an integer of 68 digits of 32 bits, in units of 2^-1074,
   which holds every finite double and 2^60 times the largest. The digits are signed and wider than
   needed, so that an addition carries nothing; what is added in which order never shows.
   After Radford M. Neal, "Fast exact summation using small and large superaccumulators" (2015). */
#ifndef XF_EXACT_H
#define XF_EXACT_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define XF_DIGITS 68
#define XF_UNCARRIED 1000 /* additions, of less than 2^53 to a digit, until the next carry */

typedef struct {
    int64_t digit[XF_DIGITS];
    int64_t infinite, negative, nan; /* how many were +inf, -inf and nan */
    int64_t uncarried;
} xf_exact;

/* All digits but the last into [0, 2^32). */
static inline void xf_exact_carry(xf_exact *a)
{
    int64_t carry = 0;
    for (int i = 0; i < XF_DIGITS - 1; i++) {
        const int64_t digit = a->digit[i] + carry;
        a->digit[i] = digit & 0xffffffff;
        carry = (digit - a->digit[i]) / 4294967296;
    }
    a->digit[XF_DIGITS - 1] += carry;
    a->uncarried = 0;
}

static inline void xf_exact_add(xf_exact *a, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    const unsigned exponent = bits >> 52 & 0x7ff;
    uint64_t mantissa = bits & 0xfffffffffffff;
    if (exponent == 0x7ff) {
        *(mantissa ? &a->nan : bits >> 63 ? &a->negative : &a->infinite) += 1;
        return;
    }
    if (exponent)
        mantissa |= (uint64_t)1 << 52;
    const unsigned place = exponent ? exponent - 1 : 0, shift = place % 32;
    const int64_t sign = (int64_t)bits >> 63; /* 0 or -1 */
    const int64_t low = (int64_t)(mantissa << shift & 0xffffffff),
                  high = (int64_t)(mantissa >> (32 - shift));
    int64_t *digit = a->digit + place / 32;
    digit[0] += (low ^ sign) - sign;
    digit[1] += (high ^ sign) - sign;
    if (++a->uncarried == XF_UNCARRIED)
        xf_exact_carry(a);
}

/* A sum to which sixteen values are added at a time, as rows/sums.h does. Adding 1.5 times a power of
   two leaves no room for what is finer, so that the bits of the sum are an integer and those of that
   number; the integers of each place are added as such, and what was too fine goes to the next grid.
   A grid has 48 bits, the first from 2^12 down. */
#define XF_SIXTEEN 16
#define XF_GRIDS 4
#define XF_GRID_LIMIT 0x1p12
static const double XF_GRID[XF_GRIDS] = {0x1.8p16, 0x1.8p-32, 0x1.8p-80, 0x1.8p-128};

typedef struct {
    xf_exact exact;
    double grid[XF_GRIDS][XF_SIXTEEN]; /* in their bits, integers modulo 2^64 */
    int64_t count[XF_GRIDS];           /* additions, less than XF_UNCARRIED, to each place */
} xf_sixteens;

/* Takes the grids into the sum. */
static inline void xf_sixteens_carry(xf_sixteens *a)
{
    for (int g = 0; g < XF_GRIDS; g++) {
        uint64_t bits, sum;
        const double unit = XF_GRID[g] * 0x1p-52 / 1.5;
        memcpy(&bits, &XF_GRID[g], sizeof bits);
        sum = -bits * (uint64_t)(a->count[g] * XF_SIXTEEN);
        for (int i = 0; i < XF_SIXTEEN; i++) {
            memcpy(&bits, &a->grid[g][i], sizeof bits);
            sum += bits;
        }
        const int64_t low = (int64_t)(sum & 0xffffffff), high = (int64_t)(sum - (uint64_t)low);
        xf_exact_add(&a->exact, (double)high * unit);
        xf_exact_add(&a->exact, (double)low * unit);
    }
    memset(a->grid, 0, sizeof a->grid);
    memset(a->count, 0, sizeof a->count);
}

static inline void xf_exact_merge(xf_exact *to, xf_exact *from)
{
    xf_exact_carry(to);
    xf_exact_carry(from);
    for (int i = 0; i < XF_DIGITS; i++)
        to->digit[i] += from->digit[i];
    to->infinite += from->infinite;
    to->negative += from->negative;
    to->nan += from->nan;
}

#define XF_EXACT_BYTES (4 * XF_DIGITS)

/* The sum as a little-endian integer in two's complement. */
static inline void xf_exact_read(xf_exact *a, unsigned char bytes[XF_EXACT_BYTES])
{
    xf_exact_carry(a);
    for (int i = 0; i < XF_EXACT_BYTES; i++)
        bytes[i] = (unsigned char)(a->digit[i / 4] >> i % 4 * 8);
}

/* Of n places, all 0 at first, takes one that is free, from any thread; gives it back. */
int xf_place_take(int *places, int n);
void xf_place_give(int *places, int place);

#endif
