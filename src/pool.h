/* The threads, behind one function. */
#ifndef XF_POOL_H
#define XF_POOL_H
#include <stddef.h>

typedef void xf_task(void *context, ptrdiff_t chunk);

/* Calls task(context, chunk) for every chunk in [0, chunks), on at most `threads` threads, the
   caller's own among them. Which thread takes a chunk is left open. A second caller runs alone. */
void xf_pool_run(xf_task *task, void *context, ptrdiff_t chunks, int threads);

/* Sets *flag, from any thread. */
void xf_raise(int *flag);

#endif
