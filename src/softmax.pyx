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
    x.type = <xf_type> (XF_F32 if job.x.kind == F32 else XF_F64)
    out.step = job.out.step
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
                put_number(out.row[i], job.x.kind, p.lse[i])
        else:
            job.kernels.softmax(&x, &p, &out, job.what == LOG_SOFTMAX)
        row += n


def softmax(const real[:, :, :, :, :, :, :] x, real[:, :, :, :, :, :, :] out, int what):
    """Write logsumexp (what = 0; out has one class), softmax (1) or log_softmax (2) of the rows."""
    cdef Softmax job
    cdef Strided *arrays[2]
    cdef int i
    arrays[:] = [&job.x, &job.out]
    job.kernels = xf_isa_kernels(XF_F32 if real is float else XF_F64)
    job.rows = 1
    for i in range(LEADING):
        job.rows *= x.shape[i]
    if job.rows == 0:
        return
    job.classes = x.shape[LEADING]
    job.what = what
    lay(<char *> &x[0, 0, 0, 0, 0, 0, 0], x.strides, F32 if real is float else F64, &job.x)
    lay(<char *> &out[0, 0, 0, 0, 0, 0, 0], out.strides, job.x.kind, &job.out)
    merge(&job.shape, x.shape, arrays, 2)
    job.chunk = rows_of_chunk(job.rows, job.classes)
    job.panel = panel_rows(job.kernels, job.classes, what != LOGSUMEXP
                           and job.x.step == size_of(job.x.kind) == job.out.step)
    with nogil:
        xf_pool_run(softmax_chunk, &job, (job.rows + job.chunk - 1) // job.chunk,
                    threads_for(job.rows, job.classes))
