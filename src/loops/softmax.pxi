# The normaliser itself: log-sum-exp, softmax and its logarithm.

cdef enum:
    LOGSUMEXP, SOFTMAX, LOG_SOFTMAX

cdef struct Softmax:
    const xf_kernels *kernels
    Shape shape
    Strided x, out
    ptrdiff_t rows, classes, task
    int panel, what
    bint strips


cdef void softmax_task(void *context, ptrdiff_t task, void *memory) noexcept nogil:
    cdef Softmax *job = <Softmax *> context
    cdef Scratch *scratch = <Scratch *> memory
    cdef xf_panel *p = &scratch.panel
    cdef Strip *strip = &scratch.strip if job.strips else NULL
    cdef xf_rows x
    cdef xf_out out
    cdef const Strided *rows_of_x = &job.x
    cdef const Strided *rows_of_out = &job.out
    cdef const Shape *shape = &job.shape
    cdef ptrdiff_t row = task * job.task, end = row + job.task, begin = 0, stop
    cdef bint stream = job.what != LOGSUMEXP and streams(job.rows, job.classes, &job.x, &job.out)
    cdef int i, n
    if end > job.rows:
        end = job.rows
    stop = end if strip == NULL else row
    x.type = out.type = type_of(job.x.kind)
    out.stream = stream and strip == NULL
    p.classes = job.classes
    p.wants_gradient = False
    while row < end:
        if row == stop:
            begin = row
            stop = read_strip(&job.shape, &job.x, begin, end, job.classes, strip)
            shape, rows_of_x, rows_of_out = &strip.shape, &strip.rows, &strip.rows
        n = <int> (stop - row) if stop - row < job.panel else job.panel
        p.rows = n
        x.step = rows_of_x.step
        find_rows(shape, rows_of_x, row - begin, n, x.row)
        if job.what == LOGSUMEXP:
            find_rows(&job.shape, &job.out, row, n, <const char **> out.row)
            job.kernels.logsumexp(&x, p, NULL)
            for i in range(n):
                put_number(out.row[i], job.out.kind, p.lse[i])
        else:
            out.step = rows_of_out.step
            find_rows(shape, rows_of_out, row - begin, n, <const char **> out.row)
            job.kernels.softmax(&x, p, &out, job.what == LOG_SOFTMAX)
        row += n
        if strip != NULL and row == stop and job.what != LOGSUMEXP:
            write_strip(strip, job.kernels, stream, &job.shape, &job.out, begin, job.classes)


def softmax(const storage[:, :, :, :, :, :, :] x, int kind_, out, int what):
    """Write logsumexp (what = 0), softmax (1) or log_softmax (2) of the rows.

    Of logsumexp, out has one class and the dtype that x is computed in; else it is like x.
    """
    cdef Softmax job
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
    job.panel = panel_rows(job.kernels, job.classes, what != LOGSUMEXP
                           and job.x.step == size_of(kind_) == job.out.step)
    job.strips = strip_rows(&job.shape, &job.x, 0, job.rows, job.classes) > 0 and (
        what == LOGSUMEXP or strip_rows(&job.shape, &job.out, 0, job.rows, job.classes) > 0)
    with nogil:
        run(softmax_task, &job, (job.rows + job.task - 1) // job.task, threads,
            sizeof(Scratch) if job.strips else sizeof(xf_panel))
