# Cross-entropies for scikit-learn: losses, gradients, and the Hessian's diagonal or probabilities.

cdef struct Plain:
    char *data                  # NULL: there is no such array
    ptrdiff_t size[2]
    ptrdiff_t stride[2]
    int kind                    # F32 or F64

cdef struct Half:
    const xf_kernels *kernels
    Plain x, y, weight, loss, gradient, second
    ptrdiff_t chunk
    bint hessian
    int bad_label


cdef bint plain(object array, int ndim, bint written, Plain *s) noexcept:
    """Describes an array of float32 or float64 and so many axes, or None; false: it is another."""
    cdef Py_buffer view
    cdef const char *format
    cdef bint fit
    cdef int i
    s.data = NULL
    if array is None:
        return True
    try:
        PyObject_GetBuffer(array, &view, PyBUF_STRIDES | PyBUF_FORMAT
                           | (PyBUF_WRITABLE if written else 0))
    except Exception:
        return False
    format = view.format
    fit = view.ndim == ndim and format[0] in (b'f', b'd') and format[1] == 0
    if fit:
        s.data = <char *> view.buf
        s.kind = F32 if format[0] == b'f' else F64
        s.size[1] = 1
        s.stride[1] = view.itemsize
        for i in range(ndim):
            s.size[i] = view.shape[i]
            s.stride[i] = view.strides[i]
    PyBuffer_Release(&view)
    return fit


cdef inline double real_number(const char *p, int kind_) noexcept nogil:
    return (<const float *> p)[0] if kind_ == F32 else (<const double *> p)[0]


cdef inline bint alike(const Plain *a, const Plain *x, bint rows_alone) noexcept nogil:
    return not a.data or (a.size[0] == x.size[0] and (rows_alone or a.size[1] == x.size[1]))


cdef inline void half_out(const Plain *s, ptrdiff_t row, int n, xf_out *out) noexcept nogil:
    cdef int i
    out.step = s.stride[1]
    out.type = type_of(s.kind)
    out.stream = False
    for i in range(XF_PANEL):
        out.row[i] = s.data + (row + (i if i < n else 0)) * s.stride[0]


cdef void half_chunk(void *context, ptrdiff_t chunk, void *scratch) noexcept nogil:
    cdef Half *job = <Half *> context
    cdef xf_half h
    cdef xf_rows x
    cdef xf_out gradient, second
    cdef ptrdiff_t row = chunk * job.chunk, end = row + job.chunk
    cdef int i, n, lanes = <int> (job.kernels.block // 32)
    cdef double y
    if end > job.x.size[0]:
        end = job.x.size[0]
    x.step = job.x.stride[1]
    x.type = type_of(job.x.kind)
    h.x = &x
    h.classes = job.x.size[1]
    h.hessian = job.hessian
    h.gradient = &gradient if job.gradient.data else NULL
    h.second = &second if job.second.data else NULL
    h.scratch = scratch
    for i in range(XF_PANEL):
        h.label[i] = 0
        h.weight[i] = 1
    while row < end:
        n = lanes if end - row > lanes else <int> (end - row)
        h.rows = n
        for i in range(XF_PANEL):
            x.row[i] = job.x.data + (row + (i if i < n else 0)) * job.x.stride[0]
        for i in range(n):
            y = real_number(job.y.data + (row + i) * job.y.stride[0], job.y.kind)
            if not 0 <= y <= h.classes - 1 or y != <double> <int64_t> y:
                xf_raise(&job.bad_label)
                return
            h.label[i] = y
            if job.weight.data:
                h.weight[i] = real_number(job.weight.data + (row + i) * job.weight.stride[0],
                                          job.weight.kind)
        if job.gradient.data:
            half_out(&job.gradient, row, n, &gradient)
        if job.second.data:
            half_out(&job.second, row, n, &second)
        job.kernels.half(&h)
        if job.loss.data:
            for i in range(n):
                put_number(job.loss.data + (row + i) * job.loss.stride[0], job.loss.kind, h.loss[i])
        row += n


cdef inline void *run_of(const Plain *s, ptrdiff_t first, ptrdiff_t n, int kind_, bint read,
                         char *buffer) noexcept nogil:
    """Elements [first, first + n) in place where they are a run of the kind, else in the buffer."""
    cdef char *p = s.data + first * s.stride[0]
    if s.data == NULL:
        return NULL
    if s.kind == kind_ and s.stride[0] == size_of(kind_):
        return p
    if read:
        convert(p, s.kind, s.stride[0], n, kind_, buffer)
    return buffer


cdef inline void put_run(const Plain *s, ptrdiff_t first, ptrdiff_t n, int kind_, const void *run_,
                         const char *buffer) noexcept nogil:
    """Writes what run_of has given a buffer for."""
    cdef char *p = s.data + first * s.stride[0]
    cdef ptrdiff_t i
    if run_ != buffer:
        return
    if s.stride[0] == size_of(s.kind):
        convert(buffer, kind_, size_of(kind_), n, s.kind, p)
        return
    for i in range(n):
        put_number(p + i * s.stride[0], s.kind, real_number(buffer + i * size_of(kind_), kind_))


cdef void half_binary_chunk(void *context, ptrdiff_t chunk, void *scratch) noexcept nogil:
    cdef Half *job = <Half *> context
    cdef char *buffer = <char *> scratch
    cdef xf_binary b
    cdef xf_bool valid = True
    cdef ptrdiff_t first = chunk * job.chunk, end = first + job.chunk, n
    cdef int kind_ = job.x.kind
    if end > job.x.size[0]:
        end = job.x.size[0]
    b.pos_weight = NULL
    b.label_smoothing = 0
    b.gradient_scale = 1
    b.from_logits = True
    while first < end:
        n = job.kernels.block if end - first > job.kernels.block else end - first
        b.n = n
        b.x = run_of(&job.x, first, n, kind_, True, buffer)
        b.label = run_of(&job.y, first, n, kind_, True, buffer + XF_BLOCK_BYTES)
        b.weight = run_of(&job.weight, first, n, kind_, True, buffer + 2 * XF_BLOCK_BYTES)
        b.loss = run_of(&job.loss, first, n, kind_, False, buffer + 3 * XF_BLOCK_BYTES)
        b.gradient = run_of(&job.gradient, first, n, kind_, False, buffer + 4 * XF_BLOCK_BYTES)
        b.hessian = run_of(&job.second, first, n, kind_, False, buffer + 5 * XF_BLOCK_BYTES)
        job.kernels.binary(&b, &valid)
        put_run(&job.loss, first, n, kind_, b.loss, buffer + 3 * XF_BLOCK_BYTES)
        put_run(&job.gradient, first, n, kind_, b.gradient, buffer + 4 * XF_BLOCK_BYTES)
        put_run(&job.second, first, n, kind_, b.hessian, buffer + 5 * XF_BLOCK_BYTES)
        first += n
    if not valid:
        xf_raise(&job.bad_label)


def half_loss(bint multinomial, y, x, weight, loss, gradient, second, bint hessian, int threads):
    """Write what is not None; false, and nothing of use done, where an argument is amiss.

    x is (rows, classes), or (rows,) of binary labels; second is the diagonal of the Hessian, or
    the probabilities.
    """
    cdef Half job
    cdef int ndim = 2 if multinomial else 1
    cdef ptrdiff_t rows
    if not (plain(x, ndim, False, &job.x) and plain(y, 1, False, &job.y)
            and plain(weight, 1, False, &job.weight) and plain(loss, 1, True, &job.loss)
            and plain(gradient, ndim, True, &job.gradient)
            and plain(second, ndim, True, &job.second)):
        return False
    if not (job.x.data and job.y.data and job.y.kind == job.x.kind and alike(&job.y, &job.x, True)
            and (not job.weight.data or job.weight.kind == job.x.kind)
            and alike(&job.weight, &job.x, True) and alike(&job.loss, &job.x, True)
            and alike(&job.gradient, &job.x, False) and alike(&job.second, &job.x, False)
            and (not job.gradient.data or job.gradient.kind == (
                job.loss.kind if job.loss.data else
                job.second.kind if job.second.data else job.gradient.kind))):
        return False
    rows = job.x.size[0]
    if rows == 0 or job.x.size[1] == 0:
        return rows == 0
    job.kernels = xf_isa_kernels(type_of(job.x.kind))
    job.chunk = rows_of_chunk(rows, job.x.size[1])  # whole panels and blocks
    job.hessian = hessian
    job.bad_label = False
    with nogil:
        run(half_chunk if multinomial else half_binary_chunk, &job,
            (rows + job.chunk - 1) // job.chunk, threads_up_to(threads, rows, job.x.size[1]),
            XF_HALF_SCRATCH)
    return not job.bad_label
