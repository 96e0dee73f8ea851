/* A pool of threads: chunks are claimed from a counter, the caller works too and then waits only
   for the workers that entered. Workers are started when first wanted and spin for a few
   microseconds after a task, since another often follows at once; then they sleep. A forked child
   starts anew. */
#include "pool.h"

#include "environment.h"
#include "scratch.h"

#include <stdatomic.h>

#ifdef _WIN32
#include <process.h>
#include <stdint.h>
#include <windows.h>
typedef SRWLOCK mutex;
typedef CONDITION_VARIABLE condition;
#define MUTEX_INIT SRWLOCK_INIT
#define CONDITION_INIT CONDITION_VARIABLE_INIT
static void lock(mutex *m) { AcquireSRWLockExclusive(m); }
static void unlock(mutex *m) { ReleaseSRWLockExclusive(m); }
static void wait_for(condition *c, mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void wake_all(condition *c) { WakeAllConditionVariable(c); }
static void work(void);
static unsigned __stdcall start(void *none)
{
    (void)none;
    work();
    return 0;
}
static bool start_worker(void)
{
    uintptr_t thread = _beginthreadex(NULL, 1 << 18, start, NULL, 0, NULL);
    if (!thread)
        return false;
    CloseHandle((HANDLE)thread);
    return true;
}
static bool reset_after_fork(void) { return true; }
#else
#include <pthread.h>
typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;
#define MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
#define CONDITION_INIT PTHREAD_COND_INITIALIZER
static void lock(mutex *m) { pthread_mutex_lock(m); }
static void unlock(mutex *m) { pthread_mutex_unlock(m); }
static void wait_for(condition *c, mutex *m) { pthread_cond_wait(c, m); }
static void wake_all(condition *c) { pthread_cond_broadcast(c); }
static void work(void);
static void *start(void *none)
{
    work();
    return none;
}
static bool start_worker(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes))
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 1 << 18);
    bool started = pthread_create(&thread, &attributes, start, NULL) == 0;
    pthread_attr_destroy(&attributes);
    return started;
}
static void child_after_fork(void);
static bool reset_after_fork(void) { return pthread_atfork(NULL, NULL, child_after_fork) == 0; }
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define PAUSE() _mm_pause()
#else
#define PAUSE() __asm__ volatile("yield")
#endif
#define SPINS 100 /* 2 to 5 microseconds */

static struct {
    atomic_flag busy; /* a task is running */
    mutex guard;      /* of all below but next */
    condition wake, done;
    int workers; /* started */
    int places;  /* workers the task still wants */
    int active;  /* workers inside the task */
    atomic_uint round;
    xf_task *task;
    void *context;
    ptrdiff_t chunks;
    size_t bytes; /* of scratch */
    _Atomic ptrdiff_t next;
} pool = {
    .busy = ATOMIC_FLAG_INIT, .guard = MUTEX_INIT, .wake = CONDITION_INIT, .done = CONDITION_INIT};

static void run_chunks(void *scratch)
{
    ptrdiff_t chunk;
    while ((chunk = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed)) < pool.chunks)
        pool.task(pool.context, chunk, scratch);
}

static void work(void)
{
    xf_enter();
    for (;;) {
        unsigned seen = atomic_load(&pool.round);
        for (int i = 0; i < SPINS && atomic_load(&pool.round) == seen; i++)
            PAUSE();
        lock(&pool.guard);
        while (pool.places == 0)
            wait_for(&pool.wake, &pool.guard);
        pool.places--;
        pool.active++;
        unlock(&pool.guard);
        void *scratch = xf_scratch(pool.bytes);
        if (scratch) /* else the others take the chunks */
            run_chunks(scratch);
        lock(&pool.guard);
        if (--pool.active == 0)
            wake_all(&pool.done);
        unlock(&pool.guard);
    }
}

#ifndef _WIN32
/* Of the parent's threads only the caller of fork lives in the child. */
static void child_after_fork(void)
{
    atomic_flag_clear(&pool.busy);
    pool.guard = (mutex)MUTEX_INIT;
    pool.wake = (condition)CONDITION_INIT;
    pool.done = (condition)CONDITION_INIT;
    pool.workers = pool.places = pool.active = 0;
}
#endif

bool xf_pool_prepare(void)
{
    static bool prepared;
    return prepared || (prepared = xf_scratch_prepare() && reset_after_fork());
}

bool xf_pool_run(xf_task *task, void *context, ptrdiff_t chunks, int threads, size_t bytes)
{
    void *scratch = xf_scratch(bytes);
    if (!scratch)
        return false;
    if (chunks < threads)
        threads = (int)chunks;
    const xf_environment before = xf_enter();
    if (threads <= 1 || atomic_flag_test_and_set(&pool.busy)) {
        for (ptrdiff_t chunk = 0; chunk < chunks; chunk++)
            task(context, chunk, scratch);
        xf_leave(before);
        return true;
    }
    lock(&pool.guard);
    while (pool.workers < threads - 1 && start_worker())
        pool.workers++;
    pool.task = task;
    pool.context = context;
    pool.chunks = chunks;
    pool.bytes = bytes;
    atomic_store(&pool.next, 0);
    pool.places = pool.workers < threads - 1 ? pool.workers : threads - 1;
    atomic_fetch_add(&pool.round, 1);
    wake_all(&pool.wake);
    unlock(&pool.guard);
    run_chunks(scratch);
    lock(&pool.guard);
    pool.places = 0;
    while (pool.active > 0)
        wait_for(&pool.done, &pool.guard);
    unlock(&pool.guard);
    atomic_flag_clear(&pool.busy);
    xf_leave(before);
    return true;
}

void xf_raise(int *flag) { atomic_store_explicit((_Atomic int *)flag, 1, memory_order_relaxed); }
