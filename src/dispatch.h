/* The instruction sets that were built, and the choice among them. */
#ifndef XF_DISPATCH_H
#define XF_DISPATCH_H
#include "rows/rows.h"

int xf_isa_count(void); /* weakest first */
const char *xf_isa_name(int isa);
bool xf_isa_runs(int isa); /* on this machine */

/* The set in use: the strongest that runs, until xf_isa_choose takes another. */
int xf_isa_chosen(void);
void xf_isa_choose(int isa);
const xf_kernels *xf_isa_kernels(xf_type type);
/* For calls of a few microseconds. AVX-512 slows down what comes after it, on some machines by
   more than it saves there; the set before it has the same bits. */
const xf_kernels *xf_isa_light_kernels(xf_type type);
/* Is it faster here to ask for the lines ahead of a row that is read and then written? AMD's cores see
   by themselves that they are read, and write whole lines without having them unless asked for. */
bool xf_asks_ahead(void);

#endif
