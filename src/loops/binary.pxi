# Binary cross-entropy: element by element, in blocks of the elements' C order.

from libc.string cimport memcpy

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

cdef enum:
    WEIGHTS, LOGITS, LABELS, POS_WEIGHT, LOSSES, GRADIENT, PLACES
    PART_BYTES = 1 << 17        # of the type computed in, of an array that is turned
    TURNED_RUN = 64             # elements that follow each other in C order, and their
    TURNED_ROWS = 8             # neighbours in memory, that are turned together: few lines

# Where a task finds one of the arrays: itself, or a part of it that was copied.
cdef struct Place:
    Shape shape
    Strided array
    ptrdiff_t begin             # the element it begins with
    bint turned


cdef inline bint is_turned(const Shape *shape, const Strided *s) noexcept nogil:
    """Do elements that follow each other lie apart, and those of the axis before side by side?

    So do those of a transposed array: read in C order, each line would be read once for each of
    its elements."""
    cdef int inner = shape.axes - 1
    cdef ptrdiff_t item = item_of(s.kind)
    return (s.data != NULL and inner > 0 and s.stride[inner] != item
            and s.stride[inner - 1] == item)


ctypedef fused word:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef inline void turn_rows(word tag, char *p, ptrdiff_t stride, ptrdiff_t run, ptrdiff_t first,
                           ptrdiff_t end, bint back, char *part) noexcept nogil:
    """Elements [first, end) of rows of `run`, side by side in memory, to `part` in C order."""
    cdef ptrdiff_t rows = (end + run - 1) // run, i, i0, i1, j, j0, j1
    cdef ptrdiff_t begin, stop
    cdef word *turned
    cdef word *to
    for j0 in range((run + TURNED_RUN - 1) // TURNED_RUN):
        j1 = (j0 + 1) * TURNED_RUN if (j0 + 1) * TURNED_RUN < run else run
        for i0 in range((rows + TURNED_ROWS - 1) // TURNED_ROWS):
            i1 = (i0 + 1) * TURNED_ROWS if (i0 + 1) * TURNED_ROWS < rows else rows
            for j in range(j0 * TURNED_RUN, j1):
                turned = <word *> (p + j * stride)
                to = <word *> part + j - first
                begin = i0 * TURNED_ROWS
                begin += begin * run + j < first
                stop = i1 - ((i1 - 1) * run + j >= end)
                if back:
                    for i in range(begin, stop):
                        turned[i] = to[i * run]
                else:
                    for i in range(begin, stop):
                        to[i * run] = turned[i]


cdef void turn(const Shape *shape, const Strided *s, ptrdiff_t first, ptrdiff_t n, bint back,
               char *part) noexcept nogil:
    """Elements [first, first + n) to `part`, or back."""
    cdef int inner = shape.axes - 1
    cdef ptrdiff_t run = shape.size[inner], plane = run * shape.size[inner - 1]
    cdef ptrdiff_t stride = s.stride[inner], item = item_of(s.kind), at, some
    cdef char *p
    while n > 0:
        at = first % plane
        some = plane - at if plane - at < n else n
        p = find(shape, s, first - at % run)
        at %= run
        if item == 4:
            turn_rows[uint32_t](0, p, stride, run, at, at + some, back, part)
        elif item == 8:
            turn_rows[uint64_t](0, p, stride, run, at, at + some, back, part)
        elif item == 2:
            turn_rows[uint16_t](0, p, stride, run, at, at + some, back, part)
        else:
            turn_rows[uint8_t](0, p, stride, run, at, at + some, back, part)
        part += some * item
        first += some
        n -= some


cdef inline void place_array(const Binary *job, const Strided *s, Place *place) noexcept nogil:
    place.shape = job.shape
    place.array = s[0]
    place.begin = 0
    place.turned = is_turned(&job.shape, s)
    if place.turned:
        place.shape.axes = 1
        place.array.stride[0] = item_of(s.kind)


cdef inline bint in_one_run(const Place *a, ptrdiff_t first, ptrdiff_t n) noexcept nogil:
    """Whether elements [first, first + n) follow each other in memory."""
    cdef int inner = a.shape.axes - 1
    cdef ptrdiff_t run = a.shape.size[inner]
    return (a.array.stride[inner] == size_of(a.array.kind)
            and (a.turned or first % run + n <= run))


cdef inline char *find_element(const Place *a, ptrdiff_t element) noexcept nogil:
    return find(&a.shape, &a.array, element - a.begin)


cdef void gather_block(const Binary *job, const Place *a, ptrdiff_t first, ptrdiff_t n,
                       char *buffer) noexcept nogil:
    cdef int inner = a.shape.axes - 1
    cdef ptrdiff_t run = a.shape.size[inner], done = 0, some
    while done < n:
        some = n if a.turned else run - (first + done) % run
        if some > n - done:
            some = n - done
        convert(find_element(a, first + done), a.array.kind, a.array.stride[inner], some, job.real,
                buffer + done * size_of(job.real))
        done += some


cdef inline const void *fetch_block(const Binary *job, const Place *a, ptrdiff_t first,
                                    ptrdiff_t n, char *buffer) noexcept nogil:
    """Elements [first, first + n): in place where they lie so, else gathered and converted."""
    cdef char *p
    cdef int kind_ = a.array.kind
    if a.array.data == NULL:
        return NULL
    if kind_ >= F32 and in_one_run(a, first, n):
        p = find_element(a, first)
        if kind_ == job.real:
            return p
        if job.real == F32 and kind_ != F64:
            job.kernels.widen(p, type_of(kind_), n, buffer)
            return buffer
    gather_block(job, a, first, n, buffer)
    return buffer


cdef inline void *place_block(const Binary *job, const Place *a, ptrdiff_t first, ptrdiff_t n,
                              char *buffer) noexcept nogil:
    """Where elements [first, first + n) may be written; put_block ends it."""
    if a.array.data == NULL:
        return NULL
    if a.array.kind == job.real and in_one_run(a, first, n):
        return find_element(a, first)
    return buffer


cdef inline void put_block(const Binary *job, const Place *a, ptrdiff_t first, ptrdiff_t n,
                           const void *block, char *buffer) noexcept nogil:
    """Writes what was placed in the buffer, which has room for the narrowed block behind it."""
    cdef ptrdiff_t j, item = size_of(a.array.kind)
    cdef char *narrowed = buffer
    if block != buffer:
        return
    if a.array.kind != job.real:
        narrowed = buffer + XF_BLOCK_BYTES
        job.kernels.narrow(buffer, n, narrowed, type_of(a.array.kind))
    if in_one_run(a, first, n):
        memcpy(find_element(a, first), narrowed, n * item)
        return
    for j in range(n):
        memcpy(find_element(a, first + j), narrowed + j * item, item)


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


cdef ptrdiff_t begin_part(const Binary *job, const Strided **arrays, Place *place,
                          ptrdiff_t first, ptrdiff_t end, char *memory) noexcept nogil:
    """Copies what is turned, so much as fits, and tells where it ends."""
    cdef ptrdiff_t part = PART_BYTES // size_of(job.real), stop = first + part
    cdef int i
    if stop > end:
        stop = end
    for i in range(PLACES):
        if place[i].turned and (i == WEIGHTS or not job.counting):
            place[i].begin = first
            place[i].array.data = memory
            memory += part * item_of(arrays[i].kind)
            if i < LOSSES:
                turn(&job.shape, arrays[i], first, stop - first, False, place[i].array.data)
    return stop


cdef void binary_chunk(void *context, ptrdiff_t chunk, void *scratch) noexcept nogil:
    cdef Binary *job = <Binary *> context
    cdef BinaryBuffer *buffer = <BinaryBuffer *> scratch
    cdef Place place[PLACES]
    cdef const Strided *arrays[PLACES]
    cdef xf_binary b
    cdef xf_bool valid = True
    cdef ptrdiff_t first = chunk * job.chunk, end = first + job.chunk, n, stop = first
    cdef double loss = 0, weight = 0
    cdef int i
    if end > job.elements:
        end = job.elements
    arrays[:] = [&job.weights, &job.x, &job.labels, &job.pos_weight, &job.losses, &job.gradient]
    for i in range(PLACES):
        place_array(job, arrays[i], &place[i])
    b.label_smoothing = job.label_smoothing
    b.gradient_scale = job.gradient_scale
    b.from_logits = job.from_logits
    b.hessian = NULL
    while first < end:
        if first == stop:
            stop = begin_part(job, arrays, place, first, end, <char *> (buffer + PLACES))
        n = job.kernels.block if stop - first > job.kernels.block else stop - first
        b.n = n
        b.weight = fetch_block(job, &place[WEIGHTS], first, n, buffer[WEIGHTS])
        weight += count_block(job, b.weight, n)
        if not job.counting:
            b.x = fetch_block(job, &place[LOGITS], first, n, buffer[LOGITS])
            b.label = fetch_block(job, &place[LABELS], first, n, buffer[LABELS])
            b.pos_weight = fetch_block(job, &place[POS_WEIGHT], first, n, buffer[POS_WEIGHT])
            b.loss = place_block(job, &place[LOSSES], first, n, buffer[LOSSES])
            b.gradient = place_block(job, &place[GRADIENT], first, n, buffer[GRADIENT])
            loss += job.kernels.binary(&b, &valid)
            put_block(job, &place[LOSSES], first, n, b.loss, buffer[LOSSES])
            put_block(job, &place[GRADIENT], first, n, b.gradient, buffer[GRADIENT])
        first += n
        if first == stop and not job.counting:
            for i in range(LOSSES, PLACES):
                if place[i].turned:
                    turn(&job.shape, arrays[i], place[i].begin, stop - place[i].begin, True,
                         place[i].array.data)
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
    cdef size_t scratch
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
    scratch = PLACES * sizeof(BinaryBuffer)
    for i in range(PLACES):
        if is_turned(&job.shape, arrays[i]):
            scratch += PART_BYTES // size_of(job.real) * item_of(arrays[i].kind)
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
                    run(binary_chunk, &job, chunks, threads, scratch)
                    weight = tree(job.weight_sums, chunks)
                job.gradient_scale = 1 / weight if weight > 0 else 0
                job.counting = False
            if not job.bad_weight:
                run(binary_chunk, &job, chunks, threads, scratch)
            loss = tree(job.loss_sums, chunks)
            weight = tree(job.weight_sums, chunks)
    finally:
        xf_leave(before)
        free(job.loss_sums)
    return loss, weight, job.bad_label != 0, job.bad_weight != 0
