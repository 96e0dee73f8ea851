# Everything that is reported of logits and their index labels, in one pass.

cdef enum:
    # The sums of sixteens; the names are those of _evaluate.py.
    LOSS, ENTROPY, BRIER, RECIPROCAL_RANK, LOSS_SQUARE, WEIGHT_SQUARE, WEIGHT_LOSS, ROW_SUMS

cdef struct Evaluate:
    const xf_kernels *kernels
    Shape shape
    Strided x, labels, weights, loss, rank, entropy, confidence, lse, predicted
    ptrdiff_t rows, classes, task
    int bins, tops
    bint from_logits, ignores
    Panels panels
    int64_t ignored
    const int64_t *top          # the k of top-k, ascending
    xf_ties ties
    Sums sums
    int bad_label, bad_weight


cdef inline void add_to_bins(Evaluate *job, const xf_panel *p, const xf_scores *s,
                             const double *weight, const Part *part) noexcept nogil:
    cdef bint weighted = job.weights.data != NULL
    cdef int i, j, hit, bin, rows = p.rows, bins = job.bins, tops = job.tops
    cdef int64_t rank
    cdef double confidence, scale = bins
    cdef const int64_t *top = job.top
    cdef xf_exact *confidences = part.sums
    cdef xf_exact *by_hit = confidences + bins
    cdef xf_exact *by_bin = by_hit + tops + 1
    cdef int64_t *hits = part.numbers
    cdef int64_t *counts = hits + tops + 1
    cdef int64_t *losses = counts + 2 * bins
    for i in range(rows):
        if p.label[i] < 0:
            continue
        count_in_histogram(losses, s.loss[i])
        rank = s.rank[i]
        hit = 0
        for j in range(tops):
            hit += rank >= top[j]
        hits[hit] += 1
        if weighted:
            xf_exact_add(by_hit + hit, weight[i])
        confidence = s.confidence[i]
        if confidence != confidence:
            continue
        bin = <int> (confidence * scale if 0 < confidence < 1
                     else 0 if confidence < 1 else bins - 1)
        counts[bin] += 1
        counts[bins + bin] += rank == 0
        if not weighted:
            xf_exact_add(confidences + bin, confidence)
            continue
        xf_exact_add(confidences + bin, weight[i] * confidence)
        xf_exact_add(by_bin + bin, weight[i])
        if rank == 0:
            xf_exact_add(by_bin + bins + bin, weight[i])


cdef inline void add_panel(Evaluate *job, xf_panel *p, xf_scores *s, double *weight,
                           bint some, const Part *part) noexcept nogil:
    """Adds the rows of a panel that have a label and a weight, and clears what it knows of others.

    Sums: ROW_SUMS, confidence of the bins, and if weighted the weights of the hits, of the bins and
    of what is correct in them; numbers: hits, bins, correct in them, histogram of the losses. A hit
    is counted at the first k that is above the rank.
    """
    cdef double *scores[4]
    cdef int i, k
    scores[0] = s.loss
    scores[1] = s.entropy
    scores[2] = s.brier
    scores[3] = s.reciprocal
    for i in range(XF_PANEL if some or job.weights.data else 0):
        if p.label[i] < 0 or weight[i] == 0:
            p.label[i] = -1
            weight[i] = 0
            for k in range(4):
                scores[k][i] = 0
    add_to_bins(job, p, s, weight, part)
    if job.weights.data:
        for k in range(4):
            for i in range(XF_PANEL):
                scores[k][i] *= weight[i]
        part.add(part.sixteens + WEIGHT_SQUARE, weight, weight)
        part.add(part.sixteens + WEIGHT_LOSS, weight, s.loss)
    for k in range(4):
        part.add(part.sixteens + LOSS + k, scores[k], NULL)
    part.add(part.sixteens + LOSS_SQUARE, s.loss, s.loss)


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


cdef inline bint load_row_labels(Evaluate *job, xf_panel *p, ptrdiff_t row,
                                 double *weight) noexcept nogil:
    """The labels and weights of a panel's rows; may some of its places not count?"""
    cdef const char *place[XF_PANEL]
    cdef bint some = job.ignores or p.rows < XF_PANEL
    cdef int i
    for i in range(XF_PANEL):
        p.label[i] = -1
        weight[i] = 1
    if job.weights.data:
        find_rows(&job.shape, &job.weights, row, p.rows, place)
        for i in range(p.rows):
            weight[i] = number(place[i], job.weights.kind)
            if not 0 <= weight[i] < INFINITY:
                xf_raise(&job.bad_weight)
    read_indices(&job.shape, &job.labels, row, p.rows, p.label)
    for i in range(p.rows):
        some |= <uint64_t> p.label[i] >= <uint64_t> job.classes
    for i in range(p.rows if some else 0):
        if job.ignores and p.label[i] == job.ignored:
            p.label[i] = -1
        elif <uint64_t> p.label[i] >= <uint64_t> job.classes:
            xf_raise(&job.bad_label)
            p.label[i] = -1
    return some


cdef inline void put_panel(Evaluate *job, xf_panel *p, ptrdiff_t row, xf_scores *scores,
                           double *weight, bint some, const Part *part) noexcept nogil:
    """Writes what is wanted of each row, and adds it to the sums."""
    cdef int i, n = p.rows
    for i in range(n if some else 0):
        if p.label[i] < 0:
            scores.loss[i] = 0
            scores.rank[i] = -1
    put_scores(job, &job.loss, row, n, scores.loss)
    put_scores(job, &job.entropy, row, n, scores.entropy)
    put_scores(job, &job.confidence, row, n, scores.confidence)
    put_scores(job, &job.lse, row, n, scores.lse)
    put_indices(job, &job.rank, row, n, scores.rank)
    put_indices(job, &job.predicted, row, n, scores.predicted)
    add_panel(job, p, scores, weight, some, part)


cdef void evaluate_task(void *context, ptrdiff_t task, void *memory) noexcept nogil:
    cdef Evaluate *job = <Evaluate *> context
    cdef xf_panel *p = take_panels(&job.panels, memory, job.classes, False)
    cdef xf_rows x[XF_TOGETHER]
    cdef xf_scores *scores = (<Scratch *> memory).scores
    cdef double weight[XF_TOGETHER][XF_PANEL]
    cdef bint some[XF_TOGETHER]
    cdef Part part = take_part(&job.sums)
    cdef ptrdiff_t row = task * job.task, end = min(row + job.task, job.rows), first
    cdef Strided nothing
    cdef int k, n
    nothing.data = NULL
    set_panels(&job.panels, &job.x, &nothing, False, x, NULL)
    for k in range(job.panels.together):
        scores[k].ties = job.ties
        scores[k].wants_predicted = job.predicted.data != NULL
    while row < end:
        first = row
        n = next_panels(&job.panels, &job.shape, &job.x, &nothing, row, end, p, x, NULL)
        for k in range(n):
            some[k] = load_row_labels(job, p + k, row, weight[k])
            row += p[k].rows
        job.kernels.evaluate(x, p, job.from_logits, scores, n)
        for k in range(n):
            put_panel(job, p + k, first, scores + k, weight[k], some[k], &part)
            first += p[k].rows
    give_part(&job.sums, &part)


def evaluate(const storage[:, :, :, :, :, :, :] x, int kind_, labels, int label_kind,
             weights, int weight_kind, ignore_index, bint from_logits, const int64_t[::1] top,
             int ties, int bins, loss, rank, entropy, confidence, lse, predicted):
    """Return (the sums and the numbers of add_scores, bad label seen, bad weight seen).

    ties is an xf_ties (rows/rows.h), top ascending. The last six, one class each, are written
    unless None: rank and predicted of int64, the others of the dtype that x is computed in.
    """
    cdef Evaluate job
    cdef Strided nothing
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
    job.x.data = nothing.data = NULL
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
    job.panels = cut(job.kernels, &job.shape, &job.x, &nothing, job.classes)
    if not from_logits:
        job.panels.together = 1
    threads = threads_for(job.rows, job.classes)
    job.task = rows_of_task(&job.x, job.rows, rows_of_chunk(job.rows, job.classes), threads)
    sums_begin(&job.sums, threads, ROW_SUMS,
               bins + (job.tops + 1 + 2 * bins if job.weights.data else 0),
               job.tops + 1 + 2 * bins + HISTOGRAM)
    try:
        with nogil:
            run(evaluate_task, &job, (job.rows + job.task - 1) // job.task, threads,
                job.panels.scratch)
        return *sums_read(&job.sums), job.bad_label != 0, job.bad_weight != 0
    finally:
        sums_free(&job.sums)
