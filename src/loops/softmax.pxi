# The normaliser itself: log-sum-exp, softmax and its logarithm.

cdef enum:
    LOGSUMEXP, SOFTMAX, LOG_SOFTMAX

cdef struct Softmax:
    const xf_kernels *kernels
    Shape shape
    Strided x, out
    Panels panels
    ptrdiff_t rows, classes, task
    int what


cdef void softmax_task(void *context, ptrdiff_t task, void *memory) noexcept nogil:
    cdef Softmax *job = <Softmax *> context
    cdef xf_panel *p = take_panels(&job.panels, memory, job.classes, False)
    cdef xf_rows x[XF_TOGETHER]
    cdef xf_out out[XF_TOGETHER]
    cdef ptrdiff_t row = task * job.task, end = min(row + job.task, job.rows)
    cdef bint stream = job.what != LOGSUMEXP and streams(job.rows, job.classes, &job.x, &job.out)
    cdef int i, k, n
    set_panels(&job.panels, &job.x, &job.out, stream, x, out)
    while row < end:
        n = next_panels(&job.panels, &job.shape, &job.x, &job.out, row, end, p, x, out)
        if job.what == LOGSUMEXP:
            job.kernels.logsumexp(x, p, NULL, n)
        else:
            job.kernels.softmax(x, p, out, n, job.what == LOG_SOFTMAX)
        for k in range(n):
            for i in range(p[k].rows if job.what == LOGSUMEXP else 0):
                put_number(out[k].row[i], job.out.kind, p[k].lse[i])
            row += p[k].rows


def softmax(const storage[:, :, :, :, :, :, :] x, int kind_, out, int what):
    """Write logsumexp (what = 0), softmax (1) or log_softmax (2) of the rows.

    Of logsumexp, out has one class and the dtype that x is computed in; else it is like x.
    """
    cdef Softmax job
    cdef Strided nothing
    cdef Strided *arrays[2]
    cdef int i, threads
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
    threads = threads_for(job.rows, job.classes)
    job.task = rows_of_task(&job.x, job.rows, rows_of_chunk(job.rows, job.classes), threads)
    nothing.data = NULL
    job.panels = cut(job.kernels, &job.shape, &job.x, &nothing if what == LOGSUMEXP else &job.out,
                     job.classes)
    with nogil:
        run(softmax_task, &job, (job.rows + job.task - 1) // job.task, threads,
            job.panels.scratch)
