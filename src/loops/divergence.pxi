# Entropy, divergences, and whether rows are distributions.

cdef enum:
    IS_DISTRIBUTION = -1        # beside those of xf_divergence

cdef struct Divergence:
    const xf_kernels *kernels
    Shape shape
    Strided p, q, out
    ptrdiff_t rows, classes, chunk
    int what
    bint normalize
    double unit, tolerance


cdef void divergence_chunk(void *context, ptrdiff_t chunk, void *scratch) noexcept nogil:
    cdef Divergence *job = <Divergence *> context
    cdef xf_rows p, q
    cdef const char *out[XF_PANEL]
    cdef ptrdiff_t row = chunk * job.chunk, end = row + job.chunk
    cdef int i, n
    cdef xf_bool valid
    cdef double value
    if end > job.rows:
        end = job.rows
    p.step = job.p.step
    p.type = type_of(job.p.kind)
    q.step = job.q.step
    q.type = type_of(job.q.kind)
    while row < end:
        n = <int> (end - row) if end - row < XF_PANEL else XF_PANEL
        find_rows(&job.shape, &job.p, row, n, p.row)
        if job.q.data:
            find_rows(&job.shape, &job.q, row, n, q.row)
        find_rows(&job.shape, &job.out, row, n, out)
        for i in range(n):
            if job.what == IS_DISTRIBUTION:
                valid = True
                value = job.kernels.mass(&p, i, job.classes, &valid)
                (<char *> out[i])[0] = valid and -job.tolerance <= value - 1 <= job.tolerance
            else:
                value = job.kernels.divergence(<xf_divergence> job.what, &p,
                                               &q if job.q.data else NULL, i, job.classes,
                                               job.normalize)
                put_number(<char *> out[i], job.out.kind, value / job.unit)
        row += n


cdef divergence_run(Divergence *job, shape):
    """Takes the arrays' shape as a sequence, for p may be of any dtype; the rest of job is set."""
    cdef Py_ssize_t size[LEADING + 1]
    cdef Strided *arrays[3]
    cdef int i
    arrays[:] = [&job.p, &job.q, &job.out]
    job.rows = 1
    for i in range(LEADING + 1):
        size[i] = shape[i]
    for i in range(LEADING):
        job.rows *= size[i]
    if job.rows == 0:
        return
    job.classes = size[LEADING]
    merge(&job.shape, size, arrays, 3)
    job.chunk = rows_of_chunk(job.rows, job.classes)
    with nogil:
        run(divergence_chunk, job, (job.rows + job.chunk - 1) // job.chunk,
            threads_for(job.rows, job.classes), 0)


def divergence(int what, p, int p_kind, q, int q_kind, real[:, :, :, :, :, :, :] out,
               shape, bint normalize, double unit):
    """Write the entropies or divergences of the rows; `what` is an xf_divergence (rows/rows.h).

    p and q (None for the entropy) have the seven-axis shape `shape`, out one class; the results are
    divided by `unit`.
    """
    cdef Divergence job
    job.kernels = xf_isa_kernels(XF_F32 if real is float else XF_F64)
    job.what = what
    job.normalize = normalize
    job.unit = unit
    job.tolerance = 0
    take(p, p_kind, False, &job.p)
    take(q, q_kind, False, &job.q)
    take(out, F32 if real is float else F64, True, &job.out)
    divergence_run(&job, shape)


def is_distribution(p, int kind_, uint8_t[:, :, :, :, :, :, :] out, shape, double tolerance):
    """Write whether each row is in [0, 1] and sums to 1 within the tolerance; out has one class."""
    cdef Divergence job
    job.kernels = xf_isa_kernels(type_of(computed(kind_)))
    job.what = IS_DISTRIBUTION
    job.normalize = False
    job.unit = 1
    job.tolerance = tolerance
    take(p, kind_, False, &job.p)
    take(None, kind_, False, &job.q)
    take(out, U8, True, &job.out)
    divergence_run(&job, shape)
