# Binary cross-entropy: element by element, in blocks of the elements' C order.

cdef struct Binary:
    const xf_kernels *kernels
    Shape shape
    Strided x, labels, pos_weight, weights, losses, gradient
    ptrdiff_t elements, chunk
    double label_smoothing, gradient_scale
    int real                    # the kind computed in
    bint from_logits, counting
    double *loss_sums
    double *weight_sums
    int bad_label, bad_weight


# A block of one of the arrays, and room to narrow it.
ctypedef char BinaryBuffer[2 * XF_BLOCK_BYTES]


cdef inline bint in_one_run(Binary *job, const Strided *s, ptrdiff_t first,
                            ptrdiff_t n) noexcept nogil:
    """Whether elements [first, first + n) follow each other in memory."""
    cdef int inner = job.shape.axes - 1
    cdef ptrdiff_t run = job.shape.size[inner]
    return s.stride[inner] == size_of(s.kind) and first % run + n <= run


cdef void gather_block(Binary *job, const Strided *s, ptrdiff_t first, ptrdiff_t n,
                       char *buffer) noexcept nogil:
    cdef int inner = job.shape.axes - 1
    cdef ptrdiff_t run = job.shape.size[inner], done = 0, some
    while done < n:
        some = run - (first + done) % run
        if some > n - done:
            some = n - done
        convert(find(&job.shape, s, first + done), s.kind, s.stride[inner], some, job.real,
                buffer + done * size_of(job.real))
        done += some


cdef inline const void *fetch_block(Binary *job, const Strided *s, ptrdiff_t first, ptrdiff_t n,
                                    char *buffer) noexcept nogil:
    """Elements [first, first + n): in place where they lie so, else gathered and converted."""
    cdef char *p
    if s.data == NULL:
        return NULL
    if s.kind >= F32 and in_one_run(job, s, first, n):
        p = find(&job.shape, s, first)
        if s.kind == job.real:
            return p
        if job.real == F32 and s.kind != F64:
            job.kernels.widen(p, type_of(s.kind), n, buffer)
            return buffer
    gather_block(job, s, first, n, buffer)
    return buffer


cdef inline void *place_block(Binary *job, const Strided *s, ptrdiff_t first, ptrdiff_t n,
                              char *buffer) noexcept nogil:
    """Where elements [first, first + n) may be written; put_block ends it."""
    if s.data == NULL:
        return NULL
    if s.kind == job.real and in_one_run(job, s, first, n):
        return find(&job.shape, s, first)
    return buffer


cdef inline void put_block(Binary *job, const Strided *s, ptrdiff_t first, ptrdiff_t n,
                           const void *block, char *buffer) noexcept nogil:
    """Writes what was placed in the buffer, which has room for the narrowed block behind it."""
    cdef ptrdiff_t j, item = size_of(s.kind)
    cdef char *narrowed = buffer
    if block != buffer:
        return
    if s.kind != job.real:
        narrowed = buffer + XF_BLOCK_BYTES
        job.kernels.narrow(buffer, n, narrowed, type_of(s.kind))
    if in_one_run(job, s, first, n):
        memcpy(find(&job.shape, s, first), narrowed, n * item)
        return
    for j in range(n):
        memcpy(find(&job.shape, s, first + j), narrowed + j * item, item)


cdef inline double count_block(Binary *job, const void *weights, ptrdiff_t n) noexcept nogil:
    cdef double a, total = 0
    cdef ptrdiff_t j
    if weights == NULL:
        return <double> n
    for j in range(n):
        a = (<const float *> weights)[j] if job.real == F32 else (<const double *> weights)[j]
        if not 0 <= a < INFINITY:
            xf_raise(&job.bad_weight)
        total += a
    return total


cdef void binary_chunk(void *context, ptrdiff_t chunk, void *scratch) noexcept nogil:
    cdef Binary *job = <Binary *> context
    cdef BinaryBuffer *buffer = <BinaryBuffer *> scratch
    cdef xf_binary b
    cdef xf_bool valid = True
    cdef ptrdiff_t first = chunk * job.chunk, end = first + job.chunk, n
    cdef double loss = 0, weight = 0
    if end > job.elements:
        end = job.elements
    b.label_smoothing = job.label_smoothing
    b.gradient_scale = job.gradient_scale
    b.from_logits = job.from_logits
    b.hessian = NULL
    while first < end:
        n = job.kernels.block if end - first > job.kernels.block else end - first
        b.n = n
        b.weight = fetch_block(job, &job.weights, first, n, buffer[0])
        weight += count_block(job, b.weight, n)
        if not job.counting:
            b.x = fetch_block(job, &job.x, first, n, buffer[1])
            b.label = fetch_block(job, &job.labels, first, n, buffer[2])
            b.pos_weight = fetch_block(job, &job.pos_weight, first, n, buffer[3])
            b.loss = place_block(job, &job.losses, first, n, buffer[4])
            b.gradient = place_block(job, &job.gradient, first, n, buffer[5])
            loss += job.kernels.binary(&b, &valid)
            put_block(job, &job.losses, first, n, b.loss, buffer[4])
            put_block(job, &job.gradient, first, n, b.gradient, buffer[5])
        first += n
    if not valid:
        xf_raise(&job.bad_label)
    job.loss_sums[chunk] = loss
    job.weight_sums[chunk] = weight


def binary_cross_entropy(const storage[:, :, :, :, :, :, :] x, int kind_, labels, int label_kind,
                         pos_weight, int pos_weight_kind, weights, int weight_kind,
                         double label_smoothing, bint from_logits, bint mean, losses,
                         storage[:, :, :, :, :, :, :] gradient):
    """Return (sum of the losses, sum of the weights, bad label seen, bad weight seen).

    The last of the seven axes has length 1. losses, of the dtype that x is computed in, and the
    gradient are written unless None.
    """
    cdef Binary job
    cdef Strided *arrays[6]
    cdef ptrdiff_t chunks
    cdef int threads, i
    cdef double loss, weight
    cdef xf_environment before
    arrays[:] = [&job.x, &job.labels, &job.pos_weight, &job.weights, &job.losses, &job.gradient]
    job.real = computed(kind_)
    job.kernels = xf_isa_kernels(type_of(job.real))
    job.elements = 1
    for i in range(LEADING):
        job.elements *= x.shape[i]
    if job.elements == 0:
        return 0.0, 0.0, False, False
    lay(<char *> &x[0, 0, 0, 0, 0, 0, 0], x.strides, kind_, &job.x)
    take(labels, label_kind, False, &job.labels)
    take(pos_weight, pos_weight_kind, False, &job.pos_weight)
    take(weights, weight_kind, False, &job.weights)
    take(losses, job.real, True, &job.losses)
    take(None, kind_, False, &job.gradient)
    if gradient is not None:
        lay(<char *> &gradient[0, 0, 0, 0, 0, 0, 0], gradient.strides, kind_, &job.gradient)
    merge(&job.shape, x.shape, arrays, 6)
    job.label_smoothing = label_smoothing
    job.from_logits = from_logits
    job.gradient_scale = 1
    job.bad_label = job.bad_weight = False
    job.chunk = rows_of_chunk((job.elements + job.kernels.block - 1) // job.kernels.block,
                              job.kernels.block) * job.kernels.block
    chunks = (job.elements + job.chunk - 1) // job.chunk
    threads = threads_for(job.elements, 1)
    job.loss_sums = <double *> malloc(2 * chunks * sizeof(double))
    if not job.loss_sums:
        raise MemoryError("no memory for the sums of the chunks")
    job.weight_sums = job.loss_sums + chunks
    before = xf_enter()         # for the weights too
    try:
        with nogil:
            job.counting = mean and job.gradient.data
            if job.counting:
                weight = <double> job.elements
                if job.weights.data:
                    run(binary_chunk, &job, chunks, threads, 6 * sizeof(BinaryBuffer))
                    weight = tree(job.weight_sums, chunks)
                job.gradient_scale = 1 / weight if weight > 0 else 0
                job.counting = False
            if not job.bad_weight:
                run(binary_chunk, &job, chunks, threads, 6 * sizeof(BinaryBuffer))
            loss = tree(job.loss_sums, chunks)
            weight = tree(job.weight_sums, chunks)
    finally:
        xf_leave(before)
        free(job.loss_sums)
    return loss, weight, job.bad_label != 0, job.bad_weight != 0
