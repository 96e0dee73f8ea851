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

/* Sixteen values at once, of a size that most have: two grids, of 48 bits each from 2^12 down, take
   the values apart by adding a number that leaves no room for what is finer, and sixteen of a grid
   have an exact sum. What does not fit is added one by one. A scale moves the grids. */
#define XF_SIXTEEN 16
static inline void xf_exact_add_sixteen(xf_exact *a, const double *value, double scale)
{
    const double coarse = 0x1.8p16 * scale, fine = 0x1.8p-32 * scale, limit = 0x1p12 * scale;
    double high[XF_SIXTEEN], low[XF_SIXTEEN], misfit[XF_SIXTEEN];
    for (int i = 0; i < XF_SIXTEEN; i++) {
        high[i] = (value[i] + coarse) - coarse;
        const double rest = value[i] - high[i];
        low[i] = (rest + fine) - fine;
        misfit[i] = rest == low[i] ? 0 : 1;
        misfit[i] += value[i] < limit ? 0 : 1;
        misfit[i] += value[i] > -limit ? 0 : 1;
    }
    for (int half = XF_SIXTEEN / 2; half; half /= 2)
        for (int i = 0; i < half; i++) {
            high[i] += high[i + half];
            low[i] += low[i + half];
            misfit[i] += misfit[i + half];
        }
    if (misfit[0] == 0) {
        xf_exact_add(a, high[0]);
        xf_exact_add(a, low[0]);
        return;
    }
    for (int i = 0; i < XF_SIXTEEN; i++)
        xf_exact_add(a, value[i]);
}

/* The products x y of sixteen pairs, each as the double nearest to it and what that leaves (Dekker's
   product): exact unless a factor is beyond 2^900, or a product not 0 below 2^-900. */
static inline void xf_exact_add_products(xf_exact *a, const double *x, const double *y)
{
    double product[XF_SIXTEEN], rest[XF_SIXTEEN];
    for (int i = 0; i < XF_SIXTEEN; i++) {
        const double split_x = x[i] * 0x1.0000002p27, split_y = y[i] * 0x1.0000002p27;
        const double x1 = split_x - (split_x - x[i]), x2 = x[i] - x1;
        const double y1 = split_y - (split_y - y[i]), y2 = y[i] - y1;
        product[i] = x[i] * y[i];
        rest[i] = x2 * y2 - (((product[i] - x1 * y1) - x2 * y1) - x1 * y2);
        rest[i] = rest[i] - rest[i] == 0 ? rest[i] : 0; /* of a product that is not finite */
    }
    xf_exact_add_sixteen(a, product, 1);
    xf_exact_add_sixteen(a, rest, 0x1p-48);
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
