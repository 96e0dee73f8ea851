/* The process has a number of threads, and a thread may have one of its own. */
#include "threads.h"

#include <stdatomic.h>

static atomic_int of_process = 1;
static _Thread_local int of_thread;

int xf_threads(void)
{
    return of_thread ? of_thread : atomic_load_explicit(&of_process, memory_order_relaxed);
}

void xf_threads_set(int threads)
{
    atomic_store_explicit(&of_process, threads, memory_order_relaxed);
}

int xf_threads_limit(int threads)
{
    int before = of_thread;
    of_thread = threads;
    return before;
}

/* What threadpoolctl calls in the module, with any number. It restores what it has read: then the
   thread shall follow the process again. */
#ifdef _WIN32
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif
PUBLIC int xentfast_get_num_threads(void);
PUBLIC void xentfast_set_num_threads(int threads);
int xentfast_get_num_threads(void) { return xf_threads(); }
void xentfast_set_num_threads(int threads)
{
    threads = threads < 1 ? 1 : threads < 1024 ? threads : 1024;
    of_thread = threads == atomic_load_explicit(&of_process, memory_order_relaxed) ? 0 : threads;
}
