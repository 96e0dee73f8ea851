# Two arrays of logits row by row: a report of both, and divergences with their gradients.

cdef enum:
    # The sums of a comparison; the names are those of _compare.py.
    KL, KL_SQUARE, REVERSE_KL, REVERSE_KL_SQUARE, JS, JS_SQUARE, CHANGE, CHANGE_SQUARE
    CHANGE_FOURTH, RATIO, RATIO_SQUARE, BASE_LOSS, OTHER_LOSS, COMPARISON_SUMS

cdef enum:
    # Its numbers, before the histogram of KL.
    PAIRS, SAME, LABELLED, COMPARISON_NUMBERS

cdef struct Pairs:
    const xf_kernels *kernels
    Shape shape
    Strided a, b, labels, weights, value, gradient
    ptrdiff_t rows, classes, chunk
    int panel
    bint ignores, compares
    int64_t ignored
    xf_towards towards
    double scale, gradient_scale
    Sums sums
    int bad_label, bad_weight


cdef inline void add_moments(const Part *part, int first, const double *values) noexcept nogil:
    part.add(part.sixteens + first, values, NULL)
    part.add(part.sixteens + first + 1, values, values)


cdef inline void add_comparison(const Pairs *job, const xf_panel *p, xf_pairs *s,
                                const Part *part) noexcept nogil:
    cdef double square[XF_PANEL]
    cdef double kl
    cdef int64_t *numbers = part.numbers
    cdef int i, k
    for i in range(XF_PANEL):
        if i >= p.rows or (job.ignores and p.label[i] < 0):
            for k in range(3):
                s.divergence[k][i] = 0
        else:
            numbers[PAIRS] += 1
            kl = s.divergence[<int> XF_FORWARD][i]
            numbers[SAME] += s.same[i] and kl == kl
            count_in_histogram(numbers + COMPARISON_NUMBERS, kl)
        if i >= p.rows or p.label[i] < 0:
            s.change[i] = s.log_ratio[i] = s.loss[0][i] = s.loss[1][i] = 0
        else:
            numbers[LABELLED] += 1
        square[i] = s.change[i] * s.change[i]
    for k in range(3):
        add_moments(part, KL + 2 * k, s.divergence[k])
    if job.labels.data:
        add_moments(part, CHANGE, s.change)
        part.add(part.sixteens + CHANGE_FOURTH, square, square)
        add_moments(part, RATIO, s.log_ratio)
        for k in range(2):
            part.add(part.sixteens + BASE_LOSS + k, s.loss[k], NULL)


cdef void pairs_chunk(void *context, ptrdiff_t chunk, void *memory) noexcept nogil:
    cdef Pairs *job = <Pairs *> context
    cdef Scratch *scratch = <Scratch *> memory
    cdef xf_panel *p = scratch.panel
    cdef xf_rows a, b
    cdef xf_out out
    cdef xf_pairs s
    cdef const char *place[XF_PANEL]
    cdef double weighted[XF_PANEL]
    cdef double *values
    cdef Part part = take_part(&job.sums)
    cdef ptrdiff_t row = chunk * job.chunk, end = row + job.chunk
    cdef int i, n
    if end > job.rows:
        end = job.rows
    a.step = job.a.step
    a.type = type_of(job.a.kind)
    b.step = job.b.step
    b.type = type_of(job.b.kind)
    out.step = job.gradient.step
    out.type = type_of(job.gradient.kind)
    out.stream = False
    p.work = &scratch.work
    p.classes = job.classes
    p.gradient_scale = job.gradient_scale * job.scale
    s.scale = job.scale
    values = &s.divergence[<int> job.towards][0]
    while row < end:
        n = <int> (end - row) if end - row < job.panel else job.panel
        p.rows = n
        for i in range(XF_PANEL):
            p.label[i] = -1
            p.weight[i] = 1
        if job.weights.data:
            find_rows(&job.shape, &job.weights, row, n, place)
            for i in range(n):
                p.weight[i] = number(place[i], job.weights.kind)
                if not 0 <= p.weight[i] < INFINITY:
                    xf_raise(&job.bad_weight)
        if job.labels.data:
            read_indices(&job.shape, &job.labels, row, n, p.label)
            for i in range(n):
                if job.ignores and p.label[i] == job.ignored:
                    p.label[i] = -1
                elif <uint64_t> p.label[i] >= <uint64_t> job.classes:
                    xf_raise(&job.bad_label)
                    p.label[i] = -1
        find_rows(&job.shape, &job.a, row, n, a.row)
        find_rows(&job.shape, &job.b, row, n, b.row)
        job.kernels.compare(&a, &b, p, &s)
        if job.compares:
            add_comparison(job, p, &s, &part)
        else:
            for i in range(XF_PANEL):
                weighted[i] = p.weight[i] * values[i] if i < n and p.weight[i] else 0
            part.add(part.sixteens, weighted, NULL)
            if job.value.data:
                find_rows(&job.shape, &job.value, row, n, place)
                for i in range(n):
                    put_number(<char *> place[i], job.value.kind, weighted[i])
            if job.gradient.data:
                for i in range(n):
                    p.weight[i] = p.weight[i] if p.weight[i] else -1
                find_rows(&job.shape, &job.gradient, row, n, <const char **> out.row)
                job.kernels.compare_gradient(job.towards, &a, &b, p, &s, &out)
        row += n
    give_part(&job.sums, &part)


cdef pairs_run(Pairs *job, shape, int numbers):
    """The sums and the numbers; the arrays' shape is a sequence, for they may be of any dtype."""
    cdef Py_ssize_t size[LEADING + 1]
    cdef Strided *arrays[6]
    cdef ptrdiff_t chunks
    cdef int i, threads
    arrays[:] = [&job.a, &job.b, &job.labels, &job.weights, &job.value, &job.gradient]
    job.rows = 1
    for i in range(LEADING + 1):
        size[i] = shape[i]
    for i in range(LEADING):
        job.rows *= size[i]
    job.classes = size[LEADING]
    job.bad_label = job.bad_weight = False
    merge(&job.shape, size, arrays, 6)
    job.chunk = rows_of_chunk(job.rows, 2 * job.classes)
    job.panel = panel_rows(job.kernels, job.classes, False)
    chunks = (job.rows + job.chunk - 1) // job.chunk
    threads = threads_for(job.rows, 4 * job.classes)
    sums_begin(&job.sums, threads, COMPARISON_SUMS if job.compares else 1, 0, numbers)
    try:
        with nogil:
            run(pairs_chunk, job, chunks, threads, sizeof(Scratch))
        return sums_read(&job.sums)
    finally:
        sums_free(&job.sums)


def compare(a, int a_kind, b, int b_kind, int kind_, labels, int label_kind, ignore_index, shape):
    """Return (the sums and the numbers of add_comparison, bad label seen).

    a, b and labels (None, or of one class) have the seven-axis shape `shape`; kind_ is F32 or F64,
    what they are computed in.
    """
    cdef Pairs job
    job.kernels = xf_isa_kernels(type_of(kind_))
    job.compares = True
    job.ignores = ignore_index is not None
    job.ignored = ignore_index if job.ignores else 0
    job.towards = XF_FORWARD
    job.scale = job.gradient_scale = 1
    take(a, a_kind, False, &job.a)
    take(b, b_kind, False, &job.b)
    take(labels, label_kind, False, &job.labels)
    take(None, F64, False, &job.weights)
    take(None, kind_, True, &job.value)
    take(None, kind_, True, &job.gradient)
    found = pairs_run(&job, shape, COMPARISON_NUMBERS + HISTOGRAM)
    return *found, job.bad_label != 0


def logit_divergence(int towards, a, int a_kind, b, int b_kind, int kind_, double scale, weights,
                     int weight_kind, value, gradient, double gradient_scale, shape):
    """Return (the sum as of sums_read, bad weight seen); towards is an xf_towards.

    value (one class, of kind_) and gradient (like b) are written unless None: what diverges times
    its weight, and the derivative of that with respect to b, times gradient_scale. A pair of weight
    0 has none.
    """
    cdef Pairs job
    job.kernels = xf_isa_kernels(type_of(kind_))
    job.compares = job.ignores = False
    job.ignored = 0
    job.towards = <xf_towards> towards
    job.scale = scale
    job.gradient_scale = gradient_scale
    take(a, a_kind, False, &job.a)
    take(b, b_kind, False, &job.b)
    take(None, I64, False, &job.labels)
    take(weights, weight_kind, False, &job.weights)
    take(value, kind_, True, &job.value)
    take(gradient, b_kind, True, &job.gradient)
    sums, _ = pairs_run(&job, shape, 1)
    return sums[0], job.bad_weight != 0
