/* The threads, behind one function. */
#ifndef XF_POOL_H
#define XF_POOL_H
#include <stdbool.h>
#include <stddef.h>

/* scratch: the thread's own (scratch.h), for what is too large for a caller's stack. A task runs
   with the default floating-point environment, whatever its thread had. */
typedef void xf_task(void *context, ptrdiff_t chunk, void *scratch);

/* Once, before all else; false: the system lacks what the pool needs. */
bool xf_pool_prepare(void);

/* Calls task(context, chunk, scratch) for every chunk in [0, chunks), on at most `threads` threads,
   the caller's own among them, with `bytes` of scratch each. Which thread takes a chunk is left
   open. A second caller runs alone. False, and nothing done: no memory for the caller's scratch. */
bool xf_pool_run(xf_task *task, void *context, ptrdiff_t chunks, int threads, size_t bytes);

/* Sets *flag, from any thread. */
void xf_raise(int *flag);

#endif
