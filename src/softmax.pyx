# The normaliser itself: log-sum-exp, softmax and its logarithm.

cdef enum:
    LOGSUMEXP, SOFTMAX, LOG_SOFTMAX

cdef struct Softmax:
    const xf_kernels *kernels
    Shape shape
    Strided x, out
    ptrdiff_t rows, classes, chunk
    int panel, what


cdef void softmax_chunk(void *context, ptrdiff_t chunk) noexcept nogil:
    cdef Softmax *job = <Softmax *> context
    cdef xf_panel p
    cdef xf_rows x
    cdef xf_out out
    cdef ptrdiff_t row = chunk * job.chunk, end = row + job.chunk
    cdef int i, n
    if end > job.rows:
        end = job.rows
    x.step = job.x.step
    x.type = out.type = type_of(job.x.kind)
    out.step = job.out.step
    out.stream = streams(job.rows, job.classes, &job.x, &job.out)
    p.classes = job.classes
    p.wants_gradient = False
    while row < end:
        n = <int> (end - row) if end - row < job.panel else job.panel
        p.rows = n
        find_rows(&job.shape, &job.x, row, n, x.row)
        find_rows(&job.shape, &job.out, row, n, <const char **> out.row)
        if job.what == LOGSUMEXP:
            job.kernels.logsumexp(&x, &p, NULL)
            for i in range(n):
                put_number(out.row[i], job.out.kind, p.lse[i])
        else:
            job.kernels.softmax(&x, &p, &out, job.what == LOG_SOFTMAX)
        row += n


def softmax(const storage[:, :, :, :, :, :, :] x, int kind_, out, int what):
    """Write logsumexp (what = 0), softmax (1) or log_softmax (2) of the rows.

    Of logsumexp, out has one class and the dtype that x is computed in; else it is like x.
    """
    cdef Softmax job
    cdef Strided *arrays[2]
    cdef int i
    arrays[:] = [&job.x, &job.out]
    job.kernels = xf_isa_kernels(type_of(computed(kind_)))
    job.rows = 1
    for i in range(LEADING):
        job.rows *= x.shape[i]
    if job.rows == 0:
        return
    job.classes = x.shape[LEADING]
    job.what = what
    lay(<char *> &x[0, 0, 0, 0, 0, 0, 0], x.strides, kind_, &job.x)
    take(out, computed(kind_) if what == LOGSUMEXP else kind_, True, &job.out)
    merge(&job.shape, x.shape, arrays, 2)
    job.chunk = rows_of_chunk(job.rows, job.classes)
    job.panel = panel_rows(job.kernels, job.classes, what != LOGSUMEXP
                           and job.x.step == size_of(kind_) == job.out.step)
    with nogil:
        xf_pool_run(softmax_chunk, &job, (job.rows + job.chunk - 1) // job.chunk,
                    threads_for(job.rows, job.classes))
