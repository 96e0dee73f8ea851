# Everything that is reported of logits and their index labels, in one pass.

cdef enum:
    # The sums, before those of bins and hits; the names are those of _evaluate.py.
    LOSS, LOSS_SQUARE, ENTROPY, BRIER, RECIPROCAL_RANK, WEIGHT_SQUARE, WEIGHT_LOSS, ROW_SUMS

cdef struct Evaluate:
    const xf_kernels *kernels
    Shape shape
    Strided x, labels, weights, loss, rank, entropy, confidence, lse, predicted
    ptrdiff_t rows, classes, task
    int panel, bins, tops
    bint from_logits, ignores, strips
    int64_t ignored
    const int64_t *top          # the k of top-k, ascending
    xf_ties ties
    Sums sums
    int bad_label, bad_weight


cdef inline void add_panel(Evaluate *job, const xf_panel *p, const xf_scores *s,
                           const double *weights, xf_exact *sums,
                           int64_t *numbers) noexcept nogil:
    """Adds the rows of a panel that have a label.

    sums: ROW_SUMS, confidence of the bins, and if weighted the weights of the hits, of the bins and
    of what is correct in them; numbers: hits, bins, correct in them, histogram of the losses. A hit
    is counted at the first k that is above the rank.
    """
    cdef double weight[XF_PANEL]
    cdef double loss[XF_PANEL]
    cdef double entropy[XF_PANEL]
    cdef double brier[XF_PANEL]
    cdef double reciprocal[XF_PANEL]
    cdef double confidence
    cdef bint weighted = job.weights.data != NULL, counts, first
    cdef int i, j, hit, bin, bins = job.bins, tops = job.tops
    cdef xf_exact *by_bin = sums + ROW_SUMS
    for i in range(XF_PANEL):
        counts = p.label[i] >= 0
        weight[i] = weights[i] if counts else 0
        loss[i] = weights[i] * s.loss[i] if counts else 0
        entropy[i] = weights[i] * s.entropy[i] if counts else 0
        brier[i] = weights[i] * s.brier[i] if counts else 0
        counts = counts and s.rank[i] < INT64_MAX
        reciprocal[i] = weights[i] / <double> (s.rank[i] + 1) if counts else 0
    xf_exact_add_sixteen(&sums[LOSS], loss, 1)
    xf_exact_add_sixteen(&sums[ENTROPY], entropy, 1)
    xf_exact_add_sixteen(&sums[BRIER], brier, 1)
    xf_exact_add_sixteen(&sums[RECIPROCAL_RANK], reciprocal, 1)
    xf_exact_add_products(&sums[LOSS_SQUARE], loss, loss)
    if weighted:
        xf_exact_add_products(&sums[WEIGHT_SQUARE], weight, weight)
        xf_exact_add_products(&sums[WEIGHT_LOSS], weight, loss)
    for i in range(p.rows):
        if p.label[i] < 0:
            continue
        count_in_histogram(numbers + tops + 1 + 2 * bins, s.loss[i])
        hit = 0
        for j in range(tops):
            hit += s.rank[i] >= job.top[j]
        numbers[hit] += 1
        if weighted:
            xf_exact_add(by_bin + bins + hit, weight[i])
        confidence = s.confidence[i]
        if confidence != confidence:
            continue
        bin = <int> (confidence * bins if 0 < confidence < 1 else 0 if confidence < 1 else bins - 1)
        first = s.rank[i] == 0
        xf_exact_add(by_bin + bin, weight[i] * confidence)
        numbers[tops + 1 + bin] += 1
        numbers[tops + 1 + bins + bin] += first
        if weighted:
            xf_exact_add(by_bin + bins + tops + 1 + bin, weight[i])
            if first:
                xf_exact_add(by_bin + bins + tops + 1 + bins + bin, weight[i])


cdef inline void put_scores(const Evaluate *job, const Strided *out, ptrdiff_t row, int n,
                            const double *values) noexcept nogil:
    """Writes the values of n rows, unless there is no such array."""
    cdef const char *place[XF_PANEL]
    cdef int i
    if out.data:
        find_rows(&job.shape, out, row, n, place)
        for i in range(n):
            put_number(<char *> place[i], out.kind, values[i])


cdef inline void put_indices(const Evaluate *job, const Strided *out, ptrdiff_t row, int n,
                             const int64_t *values) noexcept nogil:
    cdef const char *place[XF_PANEL]
    cdef int i
    if out.data:
        find_rows(&job.shape, out, row, n, place)
        for i in range(n):
            (<int64_t *> place[i])[0] = values[i] if values[i] < job.classes else job.classes


cdef void evaluate_task(void *context, ptrdiff_t task, void *memory) noexcept nogil:
    cdef Evaluate *job = <Evaluate *> context
    cdef Scratch *scratch = <Scratch *> memory
    cdef xf_panel *p = &scratch.panel
    cdef Strip *strip = &scratch.strip if job.strips else NULL
    cdef xf_rows x
    cdef xf_scores scores
    cdef const Strided *rows_of_x = &job.x
    cdef const Shape *shape = &job.shape
    cdef const char *place[XF_PANEL]
    cdef double weight[XF_PANEL]
    cdef int own = xf_place_take(job.sums.taken, job.sums.places)
    cdef xf_exact *sums = job.sums.sums + own * job.sums.exact
    cdef int64_t *numbers = job.sums.numbers + own * job.sums.counts
    cdef ptrdiff_t row = task * job.task, end = row + job.task, begin = 0, stop
    cdef int i, n
    if end > job.rows:
        end = job.rows
    stop = end if strip == NULL else row
    x.type = type_of(job.x.kind)
    p.classes = job.classes
    scores.ties = job.ties
    scores.wants_predicted = job.predicted.data != NULL
    while row < end:
        if row == stop:
            begin = row
            stop = read_strip(&job.shape, &job.x, begin, end, job.classes, strip)
            shape, rows_of_x = &strip.shape, &strip.rows
        n = <int> (stop - row) if stop - row < job.panel else job.panel
        p.rows = n
        for i in range(XF_PANEL):
            p.label[i] = -1
            weight[i] = 1
        if job.weights.data:
            find_rows(&job.shape, &job.weights, row, n, place)
            for i in range(n):
                weight[i] = number(place[i], job.weights.kind)
                if not 0 <= weight[i] < INFINITY:
                    xf_raise(&job.bad_weight)
        find_rows(&job.shape, &job.labels, row, n, place)
        read_indices(place, job.labels.kind, n, p.label)
        for i in range(n):
            if job.ignores and p.label[i] == job.ignored:
                p.label[i] = -1
            elif <uint64_t> p.label[i] >= <uint64_t> job.classes:
                xf_raise(&job.bad_label)
                p.label[i] = -1
        x.step = rows_of_x.step
        find_rows(shape, rows_of_x, row - begin, n, x.row)
        job.kernels.evaluate(&x, p, job.from_logits, &scores)
        add_panel(job, p, &scores, weight, sums, numbers)
        for i in range(n):
            if p.label[i] < 0:
                scores.loss[i] = 0
                scores.rank[i] = -1
        put_scores(job, &job.loss, row, n, scores.loss)
        put_scores(job, &job.entropy, row, n, scores.entropy)
        put_scores(job, &job.confidence, row, n, scores.confidence)
        put_scores(job, &job.lse, row, n, scores.lse)
        put_indices(job, &job.rank, row, n, scores.rank)
        put_indices(job, &job.predicted, row, n, scores.predicted)
        row += n
    xf_place_give(job.sums.taken, own)


def evaluate(const storage[:, :, :, :, :, :, :] x, int kind_, labels, int label_kind,
             weights, int weight_kind, ignore_index, bint from_logits, const int64_t[::1] top,
             int ties, int bins, loss, rank, entropy, confidence, lse, predicted):
    """Return (the sums and the numbers of add_scores, bad label seen, bad weight seen).

    ties is an xf_ties (rows/rows.h), top ascending. The last six, one class each, are written
    unless None: rank and predicted of int64, the others of the dtype that x is computed in.
    """
    cdef Evaluate job
    cdef Strided *arrays[9]
    cdef int i, threads
    arrays[:] = [&job.x, &job.labels, &job.weights, &job.loss, &job.rank, &job.entropy,
                 &job.confidence, &job.lse, &job.predicted]
    job.kernels = xf_isa_kernels(type_of(computed(kind_)))
    job.rows = 1
    for i in range(LEADING):
        job.rows *= x.shape[i]
    job.classes = x.shape[LEADING]
    job.from_logits = from_logits
    job.ignores = ignore_index is not None
    job.ignored = ignore_index if job.ignores else 0
    job.top = &top[0]
    job.tops = <int> top.shape[0]
    job.ties = <xf_ties> ties
    job.bins = bins
    job.bad_label = job.bad_weight = False
    job.x.data = NULL
    if job.rows:
        lay(<char *> &x[0, 0, 0, 0, 0, 0, 0], x.strides, kind_, &job.x)
    take(labels, label_kind, False, &job.labels)
    take(weights, weight_kind, False, &job.weights)
    take(loss, computed(kind_), True, &job.loss)
    take(rank, I64, True, &job.rank)
    take(entropy, computed(kind_), True, &job.entropy)
    take(confidence, computed(kind_), True, &job.confidence)
    take(lse, computed(kind_), True, &job.lse)
    take(predicted, I64, True, &job.predicted)
    merge(&job.shape, x.shape, arrays, 9)
    job.strips = job.rows > 0 and from_logits and strip_rows(&job.shape, &job.x, 0, job.rows,
                                                             job.classes) > 0
    job.panel = panel_rows(job.kernels, job.classes, False)
    threads = threads_for(job.rows, job.classes)
    job.task = rows_of_task(&job.x, job.rows, rows_of_chunk(job.rows, job.classes), threads)
    sums_begin(&job.sums, threads,
               ROW_SUMS + bins + (job.tops + 1 + 2 * bins if job.weights.data else 0),
               job.tops + 1 + 2 * bins + HISTOGRAM)
    try:
        with nogil:
            run(evaluate_task, &job, (job.rows + job.task - 1) // job.task, threads,
                sizeof(Scratch) if job.strips else sizeof(xf_panel))
        return *sums_read(&job.sums), job.bad_label != 0, job.bad_weight != 0
    finally:
        sums_free(&job.sums)
