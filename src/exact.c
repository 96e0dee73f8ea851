/* Places for the sums of threads: which thread has which never shows. */
#include "exact.h"

#include <stdatomic.h>

int xf_place_take(int *places, int n)
{
    for (int i = 0;; i = (i + 1) % n)
        if (!atomic_exchange_explicit((_Atomic int *)&places[i], 1, memory_order_acquire))
            return i;
}

void xf_place_give(int *places, int place)
{
    atomic_store_explicit((_Atomic int *)&places[place], 0, memory_order_release);
}
