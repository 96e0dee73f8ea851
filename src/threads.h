/* How many threads a call may use. */
#ifndef XF_THREADS_H
#define XF_THREADS_H

/* What xf_threads_limit set for the calling thread, else what xf_threads_set did for all. */
int xf_threads(void);
void xf_threads_set(int threads);

/* Returns what stood there; 0: no limit of the thread's own. */
int xf_threads_limit(int threads);

#endif
