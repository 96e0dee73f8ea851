/* Scratch lies in the heap, since the stack of a caller may be small, and is kept from call to call,
   since fresh pages would cost a small call more than its work. */
#include "scratch.h"

#include <stdint.h>
#include <stdlib.h>

#define LINE 64

/* What stands in the line before a scratch. */
typedef struct {
    void *block; /* as malloc gave it */
    size_t bytes;
} head;

static head *head_of(void *scratch) { return (head *)((char *)scratch - LINE); }

#ifdef _WIN32
#include <windows.h>
static DWORD key;
static void WINAPI release(void *scratch)
{
    if (scratch)
        free(head_of(scratch)->block);
}
static bool make_key(void) { return (key = FlsAlloc(release)) != FLS_OUT_OF_INDEXES; }
static void *held(void) { return FlsGetValue(key); }
static bool hold(void *scratch) { return FlsSetValue(key, scratch); }
#else
#include <pthread.h>
static pthread_key_t key;
static void release(void *scratch)
{
    if (scratch)
        free(head_of(scratch)->block);
}
static bool make_key(void) { return pthread_key_create(&key, release) == 0; }
static void *held(void) { return pthread_getspecific(key); }
static bool hold(void *scratch) { return pthread_setspecific(key, scratch) == 0; }
#endif

bool xf_scratch_prepare(void) { return make_key(); }

void *xf_scratch(size_t bytes)
{
    void *scratch = held();
    if (scratch && head_of(scratch)->bytes >= bytes)
        return scratch;
    void *block = malloc(bytes + 2 * LINE);
    if (!block)
        return NULL;
    void *larger = (void *)(((uintptr_t)block + 2 * LINE - 1) / LINE * LINE);
    *head_of(larger) = (head){block, bytes};
    if (!hold(larger)) {
        free(block);
        return NULL;
    }
    release(scratch);
    return larger;
}
