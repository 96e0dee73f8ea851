# Entropy, divergences, and whether rows are distributions.

cdef struct Divergence:
    const xf_kernels *kernels
    Shape shape
    Strided p, q, out
    ptrdiff_t rows, classes, chunk
    int what
    bint normalize
    double unit, tolerance


cdef inline void find_band(const Shape *shape, const Strided *s, ptrdiff_t row,
                           xf_band *band) noexcept nogil:
    band.first = find(shape, s, row)
    band.apart = s.stride[shape.axes - 1]
    band.step = s.step
    band.type = type_of(s.kind)


cdef void divergence_chunk(void *context, ptrdiff_t chunk, void *scratch) noexcept nogil:
    cdef Divergence *job = <Divergence *> context
    cdef xf_band p, q
    cdef double value[XF_BAND]
    cdef char *out
    cdef ptrdiff_t row = chunk * job.chunk, end = row + job.chunk
    cdef int inner = job.shape.axes - 1, i, n
    cdef ptrdiff_t run = job.shape.size[inner], rest
    if end > job.rows:
        end = job.rows
    while row < end:
        rest = run - row % run
        if rest > end - row:
            rest = end - row
        n = <int> rest if rest < XF_BAND else XF_BAND
        find_band(&job.shape, &job.p, row, &p)
        if job.q.data:
            find_band(&job.shape, &job.q, row, &q)
        out = find(&job.shape, &job.out, row)
        job.kernels.divergence(<xf_divergence> job.what, job.normalize, &p,
                               &q if job.q.data else NULL, n, job.classes, value, scratch)
        for i in range(n):
            if job.what == XF_MASS:
                out[0] = -job.tolerance <= value[i] - 1 <= job.tolerance
            else:
                put_number(out, job.out.kind, value[i] / job.unit)
            out += job.out.stride[inner]
        row += n


cdef divergence_run(Divergence *job, shape):
    """Takes the arrays' shape as a sequence, for p may be of any dtype; the rest of job is set."""
    cdef Py_ssize_t size[LEADING + 1]
    cdef Strided *arrays[3]
    cdef int i, threads
    cdef bint across
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
    threads = threads_for(job.rows, job.classes)
    across = job.p.step != size_of(job.p.kind) or job.q.data and job.q.step != size_of(job.q.kind)
    if across and job.chunk < XF_BAND:  # whole bands, or a share for each thread
        job.chunk = (job.rows + threads - 1) // threads
        if job.chunk > XF_BAND:
            job.chunk = XF_BAND
    with nogil:
        run(divergence_chunk, job, (job.rows + job.chunk - 1) // job.chunk,
            threads, XF_DIVERGENCE_BYTES)


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
    job.what = XF_MASS
    job.normalize = False
    job.unit = 1
    job.tolerance = tolerance
    take(p, kind_, False, &job.p)
    take(None, kind_, False, &job.q)
    take(out, U8, True, &job.out)
    divergence_run(&job, shape)
