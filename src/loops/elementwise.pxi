# Entry by entry: the terms of entropies and divergences, and exp and the logarithms themselves.

cdef struct Terms:
    const xf_kernels *kernels
    const char *x
    const char *y
    char *to
    ptrdiff_t elements, item
    int term


cdef void terms_chunk(void *context, ptrdiff_t chunk, void *scratch) noexcept nogil:
    cdef Terms *job = <Terms *> context
    cdef ptrdiff_t first = chunk * CHUNK_ELEMENTS, n = job.elements - first
    cdef ptrdiff_t at = first * job.item
    job.kernels.terms(<xf_term> job.term, job.x + at, job.y + at,
                      n if n < CHUNK_ELEMENTS else CHUNK_ELEMENTS, job.to + at)


def terms(int term, const real[::1] x, const real[::1] y, real[::1] to):
    """Write an xf_term (rows/rows.h) of x and y, which entr does not look at, to the last."""
    cdef Terms job
    job.elements = x.shape[0]
    if job.elements == 0:
        return
    job.kernels = xf_isa_kernels(XF_F32 if real is float else XF_F64)
    job.x = <const char *> &x[0]
    job.y = <const char *> &y[0]
    job.to = <char *> &to[0]
    job.item = sizeof(real)
    job.term = term
    with nogil:
        run(terms_chunk, &job, (job.elements + CHUNK_ELEMENTS - 1) // CHUNK_ELEMENTS,
            threads_for(job.elements, 1), 0)


def elementwise(int which, const real[::1] x, real[::1] y):
    """Write exp (which = 0), log (1), log1p (2) or log1p on [0, 1] (3) of x to y."""
    cdef const xf_kernels *k = xf_isa_kernels(XF_F32 if real is float else XF_F64)
    if x.shape[0]:
        k.elementwise(which, &x[0], &y[0], x.shape[0])
