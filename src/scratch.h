/* Memory for a task to work in, one piece a thread. */
#ifndef XF_SCRATCH_H
#define XF_SCRATCH_H
#include <stdbool.h>
#include <stddef.h>

/* Once, before all else; false: the system has no key for thread-local memory left. */
bool xf_scratch_prepare(void);

/* The calling thread's scratch, of at least so many bytes, on a 64-byte boundary, holding anything;
   NULL: no memory. It stays where it is until more is asked for, and goes when the thread ends. */
void *xf_scratch(size_t bytes);

#endif
