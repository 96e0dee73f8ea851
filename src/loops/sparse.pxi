# Divergence from a teacher of whom a few classes are listed with their probabilities.

from libc.stdlib cimport qsort

cdef struct Listed:
    int64_t index
    double p

cdef struct Sparse:
    const xf_kernels *kernels
    const xf_kernels *doubles
    Shape shape
    Strided x, indices, probabilities, weights, value, gradient
    ptrdiff_t rows, classes, listed, chunk
    bint rest_is_class
    double scale, gradient_scale, rounding
    Sums sums
    int bad_index, bad_pair, bad_probability, bad_sum, bad_weight

# What a thread works in; behind it (listed) of Listed, and four arrays of so many numbers.
cdef struct SparseScratch:
    xf_panel panel
    xf_work work
    Listed listed[1]


cdef int by_index(const void *a, const void *b) noexcept nogil:
    cdef int64_t i = (<const Listed *> a).index, j = (<const Listed *> b).index
    return (i > j) - (i < j)


cdef inline bint load_listed(Sparse *job, ptrdiff_t row, Listed *to, int64_t *index, double *p,
                             xf_sparse *s) noexcept nogil:
    """The classes that are listed with more than 0, ascending; False where one will not do."""
    cdef const char *at = find(&job.shape, &job.indices, row)
    cdef ptrdiff_t k
    cdef double total = 0
    cdef bint good = True
    convert(find(&job.shape, &job.probabilities, row), job.probabilities.kind,
            job.probabilities.step, job.listed, F64, p)
    s.listed = 0
    for k in range(job.listed):
        if p[k] != 0:
            to[s.listed].p = p[k]
            read_integers(at, job.indices.kind, 0, 1, &to[s.listed].index)
            if not 0 < p[k] < INFINITY:
                xf_raise(&job.bad_probability)
                good = False
            if <uint64_t> to[s.listed].index >= <uint64_t> job.classes:
                xf_raise(&job.bad_index)
                good = False
            total += p[k]
            s.listed += 1
        at += job.indices.step
    if job.rest_is_class and total > 1 + job.rounding:
        xf_raise(&job.bad_sum)
    qsort(to, s.listed, sizeof(Listed), by_index)
    for k in range(s.listed):
        index[k] = to[k].index
        p[k] = to[k].p
        if k > 0 and index[k] == index[k - 1]:
            xf_raise(&job.bad_pair)
            good = False
    return good


cdef void sparse_chunk(void *context, ptrdiff_t chunk, void *memory) noexcept nogil:
    cdef Sparse *job = <Sparse *> context
    cdef SparseScratch *scratch = <SparseScratch *> memory
    cdef xf_panel *p = &scratch.panel
    cdef Listed *entries = scratch.listed
    cdef int64_t *index = <int64_t *> (entries + job.listed)
    cdef double *given = <double *> (index + job.listed)
    cdef xf_rows x
    cdef xf_out out
    cdef xf_sparse s
    cdef const char *place[XF_PANEL]
    cdef double weight = 1
    cdef Part part = take_part(&job.sums)
    cdef ptrdiff_t row = chunk * job.chunk, end = row + job.chunk
    if end > job.rows:
        end = job.rows
    x.step = job.x.step
    x.type = type_of(job.x.kind)
    out.step = job.gradient.step
    out.type = type_of(job.gradient.kind)
    out.stream = False
    p.work = &scratch.work
    p.rows = 1
    p.classes = job.classes
    s.scale = job.scale
    s.rest_is_class = job.rest_is_class
    s.rounding = job.rounding
    s.index = index
    s.p = given
    s.logit = given + job.listed
    s.slope = s.logit + job.listed
    for row in range(row, end):
        if job.weights.data:
            weight = number(find(&job.shape, &job.weights, row), job.weights.kind)
            if not 0 <= weight < INFINITY:
                xf_raise(&job.bad_weight)
        s.value = 0
        p.weight[0] = weight if weight else -1
        if weight:
            if not load_listed(job, row, entries, index, given, &s):
                continue
            find_rows(&job.shape, &job.x, row, 1, x.row)
            job.kernels.sparse_rest(&x, p, &s)
            job.doubles.sparse(&s)
            s.value *= weight
            xf_exact_add(&part.sixteens.exact, s.value)
        if job.value.data:
            put_number(find(&job.shape, &job.value, row), job.value.kind, s.value)
        if job.gradient.data:
            find_rows(&job.shape, &job.gradient, row, 1, <const char **> out.row)
            job.kernels.sparse_gradient(&x, p, &s, weight * job.scale * job.gradient_scale, &out)
    give_part(&job.sums, &part)


def topk_divergence(x, int x_kind, int kind_, indices, int index_kind, probabilities, int p_kind,
                    bint rest_is_class, double rounding, double scale, weights, int weight_kind,
                    value, gradient, double gradient_scale, shape, ptrdiff_t listed):
    """Return (the sum as of sums_read; was any index out of range, listed twice, any probability
    not finite or negative, any sum above 1 by more than `rounding`, any weight seen that is none).

    value (one class, of kind_) and gradient (like x) are written unless None: the divergence times
    its weight, and the derivative of that, times gradient_scale. shape is that of x, of seven axes.
    """
    cdef Sparse job
    cdef Py_ssize_t size[LEADING + 1]
    cdef Strided *arrays[6]
    cdef ptrdiff_t chunks
    cdef size_t scratch
    cdef int i, threads
    arrays[:] = [&job.x, &job.indices, &job.probabilities, &job.weights, &job.value, &job.gradient]
    take(x, x_kind, False, &job.x)
    take(indices, index_kind, False, &job.indices)
    take(probabilities, p_kind, False, &job.probabilities)
    take(weights, weight_kind, False, &job.weights)
    take(value, kind_, True, &job.value)
    take(gradient, x_kind, True, &job.gradient)
    job.kernels = xf_isa_kernels(type_of(kind_))
    job.doubles = xf_isa_kernels(XF_F64)
    job.rows = 1
    for i in range(LEADING + 1):
        size[i] = shape[i]
    for i in range(LEADING):
        job.rows *= size[i]
    job.classes = size[LEADING]
    job.listed = listed
    job.rest_is_class = rest_is_class
    job.rounding = rounding
    job.scale = scale
    job.gradient_scale = gradient_scale
    job.bad_index = job.bad_pair = job.bad_probability = job.bad_sum = job.bad_weight = False
    merge(&job.shape, size, arrays, 6)
    job.chunk = rows_of_chunk(job.rows, 2 * job.classes)
    chunks = (job.rows + job.chunk - 1) // job.chunk
    threads = threads_for(job.rows, 2 * job.classes)
    scratch = sizeof(SparseScratch) + listed * (sizeof(Listed) + 4 * sizeof(double))
    sums_begin(&job.sums, threads, 1, 0, 0)
    try:
        with nogil:
            run(sparse_chunk, &job, chunks, threads, scratch)
        sums, _ = sums_read(&job.sums)
    finally:
        sums_free(&job.sums)
    return (sums[0], job.bad_index != 0, job.bad_pair != 0, job.bad_probability != 0,
            job.bad_sum != 0, job.bad_weight != 0)
