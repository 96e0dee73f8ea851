# Categorical cross-entropy, from index or dense labels, from logits or from probabilities.

from libc.stdlib cimport free, malloc

cdef struct CrossEntropy:
    const xf_kernels *kernels
    Shape shape
    Strided x, labels, class_weight, weights, losses, gradient
    Panels panels
    ptrdiff_t rows, classes, chunk, task
    bint from_logits, dense, ignores, weighs, counting, wants_gradient
    int64_t ignored
    double label_smoothing, z_loss, gradient_scale
    double *loss_sums           # of each chunk
    double *weight_sums
    int bad_label, bad_weight


cdef inline void load_weights(CrossEntropy *job, xf_panel *p, ptrdiff_t row,
                              double *counts) noexcept nogil:
    """The weights of a panel's rows, and what each row counts in the mean."""
    cdef const char *weight[XF_PANEL]
    cdef double own = 0 if job.dense else 1 - job.label_smoothing
    cdef int i
    for i in range(XF_PANEL):
        p.label[i] = -1
        p.own[i] = own if i < p.rows else 0
        p.weight[i] = counts[i] = 1 if i < p.rows else 0
    if job.weights.data:
        find_rows(&job.shape, &job.weights, row, p.rows, weight)
        for i in range(p.rows):
            p.weight[i] = counts[i] = number(weight[i], job.weights.kind)
            if not 0 <= counts[i] < INFINITY:
                xf_raise(&job.bad_weight)
            if counts[i] == 0:  # the row counts nothing, whatever it holds
                p.weight[i] = -1


cdef inline bint load_labels(CrossEntropy *job, xf_panel *p, ptrdiff_t row,
                             double *counts) noexcept nogil:
    """The index labels of a panel's rows: read once, checked, then used. Did they change nothing
    else?"""
    cdef bint bad = False, skip
    cdef double by_class
    cdef int i
    read_indices(&job.shape, &job.labels, row, p.rows, p.label)
    for i in range(p.rows):
        bad |= <uint64_t> p.label[i] >= <uint64_t> job.classes
    if not (bad or job.ignores or job.class_weight.data):
        return True
    for i in range(p.rows):
        skip = job.ignores and p.label[i] == job.ignored
        if not skip and <uint64_t> p.label[i] >= <uint64_t> job.classes:
            xf_raise(&job.bad_label)
            skip = True
        if skip:
            p.label[i] = -1
            p.own[i] = counts[i] = 0
            p.weight[i] = -1
        elif job.class_weight.data:
            by_class = number(job.class_weight.data
                              + p.label[i] * size_of(job.class_weight.kind), job.class_weight.kind)
            p.own[i] *= by_class
            counts[i] *= by_class
            if by_class == 0 and job.label_smoothing == 0 and job.z_loss == 0:
                p.weight[i] = -1
    return False


cdef inline void add_in_four(double *sums, const double *values, ptrdiff_t at,
                             int n) noexcept nogil:
    """Adds the values of rows at, at + 1, ... of a chunk, row i to the sum i mod 4."""
    cdef int i, j
    cdef double sum[4]
    if at % 4 == 0 and n % 4 == 0:
        for j in range(4):
            sum[j] = sums[j]
        for i in range(0, n, 4):
            for j in range(4):
                sum[j] += values[i + j]
        for j in range(4):
            sums[j] = sum[j]
        return
    for i in range(n):
        sums[(at + i) & 3] += values[i]


# The sums of one chunk after the other.
cdef struct ChunkSums:
    double *to                  # where that of the chunk at hand goes
    ptrdiff_t first, rows       # where it begins, and how many rows a chunk has
    double four[4]


cdef inline void begin_chunk(ChunkSums *s, double *to, ptrdiff_t first,
                             ptrdiff_t rows) noexcept nogil:
    s.to = to
    s.first = first
    s.rows = rows
    s.four[:] = [0, 0, 0, 0]


cdef inline void end_chunk(ChunkSums *s) noexcept nogil:
    s.to[0] = (s.four[0] + s.four[2]) + (s.four[1] + s.four[3])
    begin_chunk(s, s.to + 1, s.first + s.rows, s.rows)


cdef inline void add_rows(ChunkSums *s, const double *values, ptrdiff_t row,
                          int n) noexcept nogil:
    """Adds the values of n rows from `row` on."""
    cdef ptrdiff_t left = s.first + s.rows - row
    while n >= left:
        add_in_four(s.four, values, row - s.first, <int> left)
        end_chunk(s)
        values += left
        row += left
        n -= <int> left
        left = s.rows
    add_in_four(s.four, values, row - s.first, n)


cdef void cross_entropy_task(void *context, ptrdiff_t task, void *memory) noexcept nogil:
    cdef CrossEntropy *job = <CrossEntropy *> context
    cdef xf_panel *p = take_panels(&job.panels, memory, job.classes, job.wants_gradient)
    cdef xf_rows x[XF_TOGETHER]
    cdef xf_rows dense[XF_TOGETHER]
    cdef xf_out out[XF_TOGETHER]
    cdef xf_target target
    cdef const char *place[XF_PANEL]
    cdef double counts[XF_PANEL]
    cdef ChunkSums losses, weights
    cdef ptrdiff_t row = task * job.task, end = min(row + job.task, job.rows)
    cdef ptrdiff_t chunk = row // job.chunk, first
    cdef int plain[XF_TOGETHER]  # the rows of a panel that only their labels tell apart, else 0
    cdef bint stream = streams(job.rows, job.classes, &job.x, &job.gradient), alike
    cdef int i, k, n
    begin_chunk(&losses, job.loss_sums + chunk, row, job.chunk)
    begin_chunk(&weights, job.weight_sums + chunk, row, job.chunk)
    target.dense = dense if job.dense else NULL
    target.class_weight = job.class_weight.data
    target.scale = 1 - job.label_smoothing
    target.offset = job.label_smoothing / job.classes
    set_panels(&job.panels, &job.x, &job.gradient, stream, x, out)
    for k in range(job.panels.together):
        dense[k].step, dense[k].type = job.labels.step, type_of(job.labels.kind)
        p[k].z_loss = job.z_loss
        p[k].gradient_scale = job.gradient_scale
        plain[k] = 0
    while row < end:
        first = row
        n = 0
        while n < job.panels.together and row < end:  # next_panels, written out for short rows
            p[n].rows = next_rows(&job.panels, &job.shape, row, end)
            if p[n].rows != plain[n]:
                load_weights(job, p + n, row, counts)
            alike = job.dense or load_labels(job, p + n, row, counts)
            plain[n] = p[n].rows if alike and not job.weighs else 0
            if job.weighs:
                add_rows(&weights, counts, row, p[n].rows)
            if not job.counting:
                find_rows(&job.shape, &job.x, row, p[n].rows, x[n].row)
                if job.dense:
                    find_rows(&job.shape, &job.labels, row, p[n].rows, dense[n].row)
                if job.wants_gradient:
                    find_rows(&job.shape, &job.gradient, row, p[n].rows, <const char **> out[n].row)
            row += p[n].rows
            n += 1
        if job.counting:
            continue
        if job.from_logits:
            job.kernels.softmax_loss(x, &target, p, out if job.wants_gradient else NULL, n)
        else:
            job.kernels.log_loss(x, &target, p)
        for k in range(n):
            add_rows(&losses, p[k].loss, first, p[k].rows)
            if job.losses.data:
                find_rows(&job.shape, &job.losses, first, p[k].rows, place)
                for i in range(p[k].rows):
                    put_number(<char *> place[i], job.losses.kind, p[k].loss[i])
            first += p[k].rows
        if not job.wants_gradient:
            continue
        if job.from_logits:
            job.kernels.softmax_gradient(x, &target, p, out, n)
        else:
            job.kernels.log_loss_gradient(x, &target, p, out)
    if losses.first < end:
        end_chunk(&losses)
    if job.weighs and weights.first < end:
        end_chunk(&weights)


cdef int run_cross_entropy(CrossEntropy *job, bint mean, double *loss,
                           double *weight) except -1 nogil:
    """The sum of the losses and of what the rows count; the job's arrays and options are set."""
    cdef double one[2]
    cdef double *sums = one
    cdef ptrdiff_t chunks, tasks
    cdef int threads
    cdef xf_environment before
    job.gradient_scale = 1
    job.bad_label = job.bad_weight = False
    job.chunk = rows_of_chunk(job.rows, job.classes)
    job.panels = cut(job.kernels, &job.shape, &job.x, &job.gradient, job.classes)
    if not job.from_logits:
        job.panels.together = 1
    chunks = (job.rows + job.chunk - 1) // job.chunk
    threads = threads_for(job.rows, job.classes)
    job.task = rows_of_task(&job.x, job.rows, job.chunk, threads)
    tasks = (job.rows + job.task - 1) // job.task
    if chunks > 1:
        sums = <double *> malloc(2 * chunks * sizeof(double))
        if not sums:
            raise MemoryError("no memory for the sums of the chunks")
    job.loss_sums = sums
    job.weight_sums = sums + chunks
    job.weighs = job.ignores or job.class_weight.data != NULL or job.weights.data != NULL
    weight[0] = <double> job.rows
    before = xf_enter()         # for the weights too
    try:
        job.counting = mean and job.wants_gradient
        if job.counting:
            if job.weighs:
                run(cross_entropy_task, job, tasks, threads, job.panels.scratch)
                weight[0] = tree(job.weight_sums, chunks)
            job.gradient_scale = 1 / weight[0] if weight[0] > 0 else 0
            job.counting = False
        loss[0] = 0
        if not (job.bad_label or job.bad_weight):
            run(cross_entropy_task, job, tasks, threads, job.panels.scratch)
            loss[0] = tree(job.loss_sums, chunks)
            if job.weighs:
                weight[0] = tree(job.weight_sums, chunks)
    finally:
        xf_leave(before)
        if chunks > 1:
            free(sums)
    return 0


def cross_entropy(const storage[:, :, :, :, :, :, :] x, int kind_, labels, int label_kind,
                  bint dense, class_weight, weights, int weight_kind, ignore_index,
                  double label_smoothing, double z_loss, bint from_logits, bint mean, losses,
                  storage[:, :, :, :, :, :, :] gradient):
    """Return (sum of the losses, sum of what the rows count, bad label seen, bad weight seen).

    class_weight (classes last) and losses are of the dtype that x is computed in. losses and
    gradient are written unless None; with `mean` the gradient is that of the mean. Where a bad
    label or weight was seen, what was written is of no use.
    """
    cdef CrossEntropy job
    cdef Strided *arrays[5]
    cdef int i
    cdef double loss, weight
    arrays[:] = [&job.x, &job.labels, &job.weights, &job.losses, &job.gradient]
    job.kernels = xf_isa_kernels(type_of(computed(kind_)))
    job.rows = 1
    for i in range(LEADING):
        job.rows *= x.shape[i]
    job.classes = x.shape[LEADING]
    if job.rows == 0:
        return 0.0, 0.0, False, False
    lay(<char *> &x[0, 0, 0, 0, 0, 0, 0], x.strides, kind_, &job.x)
    take(labels, label_kind, False, &job.labels)
    take(class_weight, computed(kind_), False, &job.class_weight)
    take(weights, weight_kind, False, &job.weights)
    take(losses, computed(kind_), True, &job.losses)
    job.wants_gradient = gradient is not None
    take(None, kind_, False, &job.gradient)
    if job.wants_gradient:
        lay(<char *> &gradient[0, 0, 0, 0, 0, 0, 0], gradient.strides, kind_, &job.gradient)
    merge(&job.shape, x.shape, arrays, 5)
    job.from_logits = from_logits
    job.dense = dense
    job.ignores = ignore_index is not None
    job.ignored = ignore_index if job.ignores else 0
    job.label_smoothing = label_smoothing
    job.z_loss = z_loss
    with nogil:
        run_cross_entropy(&job, mean, &loss, &weight)
    return loss, weight, job.bad_label != 0, job.bad_weight != 0


cdef bint lay_plain(Py_buffer *view, int axes, const char *formats, int first,
                    Strided *s) noexcept:
    """Describes contiguous rows of one of the formats, the kinds from `first` on, or says no."""
    cdef int i = 0
    if view.ndim != axes or view.format[0] == 0 or view.format[1] != 0:
        return False
    if view.strides[axes - 1] != view.itemsize or (
            axes == 2 and view.strides[0] != view.shape[1] * view.itemsize):
        return False
    while formats[i] != view.format[0]:
        if formats[i] == 0:
            return False
        i += 1
    s.data = <char *> view.buf
    s.kind = first + i
    s.step = view.itemsize if axes == 2 else 0
    s.stride[0] = view.strides[0]
    return True


cdef inline bint apart(const Py_buffer *a, const Py_buffer *b) noexcept:
    return (<char *> a.buf + a.len <= <char *> b.buf or <char *> b.buf + b.len <= <char *> a.buf)


cdef object plain_value(CrossEntropy *job, const xf_kernels *kernels, ptrdiff_t rows,
                        ptrdiff_t classes, bint mean, ignore_index):
    """The sum or the mean of the losses, None for a bad label; all arrays are described."""
    cdef double loss, weight
    job.kernels = kernels
    job.shape.axes = 1
    job.rows = job.shape.size[0] = rows
    job.classes = classes
    job.class_weight.data = job.weights.data = job.losses.data = NULL
    job.from_logits = True
    job.dense = False
    job.ignores = ignore_index is not None
    job.ignored = ignore_index if job.ignores else 0
    job.label_smoothing = job.z_loss = 0
    job.wants_gradient = job.gradient.data != NULL
    with nogil:
        run_cross_entropy(job, mean, &loss, &weight)
    if job.bad_label:
        return None
    return loss / weight if mean else loss


def plain_cross_entropy(x, labels, bint mean, gradient, ignore_index):
    """The call that small batches are trained with, without what general arrays cost.

    x: ndarray (rows, classes), float32 or float64; labels: ndarray (rows,) of int32 or int64;
    gradient: None or an ndarray like x, or x itself; all contiguous and, where written, apart;
    ignore_index: None or an int.
    Return the sum or the mean of the losses, or None where anything is not just so, or wrong.
    """
    cdef CrossEntropy job
    cdef Py_buffer views[3]
    cdef int i, held = 0
    cdef bint fits
    try:
        PyObject_GetBuffer(x, &views[0], PyBUF_STRIDES | PyBUF_FORMAT)
        held = 1
        PyObject_GetBuffer(labels, &views[1], PyBUF_STRIDES | PyBUF_FORMAT)
        held = 2
        if gradient is not None:
            PyObject_GetBuffer(gradient, &views[2], PyBUF_STRIDES | PyBUF_FORMAT | PyBUF_WRITABLE)
            held = 3
        fits = lay_plain(&views[0], 2, b"fd", F32, &job.x) and (
            lay_plain(&views[1], 1, b"il", I32, &job.labels)
            or lay_plain(&views[1], 1, b"q", I64, &job.labels))
        fits = fits and (
            views[1].shape[0] == views[0].shape[0] > 0 and views[0].shape[1] > 0
            and views[1].itemsize == (4 if job.labels.kind == I32 else 8))
        job.gradient.data = NULL
        job.gradient.step = 0
        if fits and gradient is not None:
            fits = (lay_plain(&views[2], 2, b"fd", F32, &job.gradient)
                    and job.gradient.kind == job.x.kind
                    and views[2].shape[0] == views[0].shape[0]
                    and views[2].shape[1] == views[0].shape[1]
                    and (views[2].buf == views[0].buf or apart(&views[2], &views[0]))
                    and apart(&views[2], &views[1]))
        if not fits:
            return None
        return plain_value(&job, xf_isa_kernels(type_of(job.x.kind)), views[0].shape[0],
                           views[0].shape[1], mean, ignore_index)
    except (BufferError, ValueError, OverflowError):  # read-only, a dtype without a buffer, large
        return None
    finally:
        for i in range(held):
            PyBuffer_Release(&views[i])


cdef inline void lay_at(size_t address, int kind_, ptrdiff_t columns, Strided *s) noexcept nogil:
    """Describes contiguous rows of so many columns, which begin at an address."""
    cdef ptrdiff_t item = size_of(kind_) if kind_ >= F32 else 8
    s.data = <char *> address
    s.kind = kind_
    s.step = item
    s.stride[0] = columns * item


def cross_entropy_at(size_t x, size_t labels, size_t gradient, ptrdiff_t rows, ptrdiff_t classes,
                     bint double_, bint mean, ignore_index):
    """`plain_cross_entropy` of memory that the caller answers for, as libraries with arrays of
    their own have it: logits and gradient of float32, or float64, the labels of int64.

    Without a gradient its address is 0.
    """
    cdef CrossEntropy job
    cdef int kind_ = F64 if double_ else F32
    cdef const xf_kernels *kernels = xf_isa_kernels(type_of(kind_))
    if x == 0 or labels == 0 or rows <= 0 or classes <= 0:
        return None
    lay_at(x, kind_, classes, &job.x)
    lay_at(labels, I64, 1, &job.labels)
    lay_at(gradient, kind_, classes, &job.gradient)
    if rows * classes < LIGHT_ELEMENTS:
        kernels = xf_isa_light_kernels(type_of(kind_))
    try:
        return plain_value(&job, kernels, rows, classes, mean, ignore_index)
    except OverflowError:  # an ignore_index beyond every label
        return None
