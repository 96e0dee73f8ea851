# Rows whose classes are spread over shards: what one has to say of each row, and its part of the
# gradient.

cdef struct Shard:
    const xf_kernels *kernels
    Shape shape
    Strided x, out
    Panels panels
    ptrdiff_t rows, classes, task
    const int64_t *labels
    double *numbers             # (3, rows)


cdef inline void swap_numbers(Shard *job, ptrdiff_t row, int n, double *first, double *second,
                              double *third, bint written) noexcept nogil:
    """Writes the three numbers of n rows, or reads them."""
    cdef double *at = job.numbers + row
    cdef int i
    for i in range(n):
        if written:
            at[i], at[job.rows + i], at[2 * job.rows + i] = first[i], second[i], third[i]
        else:
            first[i], second[i], third[i] = at[i], at[job.rows + i], at[2 * job.rows + i]


cdef void shard_task(void *context, ptrdiff_t task, void *memory) noexcept nogil:
    cdef Shard *job = <Shard *> context
    cdef xf_panel *p = take_panels(&job.panels, memory, job.classes, False)
    cdef xf_shard numbers[XF_TOGETHER]
    cdef xf_rows x[XF_TOGETHER]
    cdef xf_out out[XF_TOGETHER]
    cdef ptrdiff_t row = task * job.task, end = min(row + job.task, job.rows), first
    cdef bint wants_gradient = job.out.data != NULL
    cdef bint stream = wants_gradient and streams(job.rows, job.classes, &job.x, &job.out)
    cdef int i, k, n
    set_panels(&job.panels, &job.x, &job.out, stream, x, out)
    while row < end:
        first = row
        n = next_panels(&job.panels, &job.shape, &job.x, &job.out, row, end, p, x, out)
        for k in range(n):
            for i in range(XF_PANEL):
                p[k].label[i] = job.labels[row + i] if i < p[k].rows else -1
            if wants_gradient:
                swap_numbers(job, row, p[k].rows, numbers[k].maximum, numbers[k].scale,
                             numbers[k].own, False)
            row += p[k].rows
        if wants_gradient:
            job.kernels.shard_gradient(x, p, numbers, out, n)
            continue
        job.kernels.shard_statistics(x, p, numbers, n)
        for k in range(n):
            swap_numbers(job, first, p[k].rows, numbers[k].maximum, numbers[k].rest,
                         numbers[k].label, True)
            first += p[k].rows


def shard(const storage[:, :, :, :, :, :, :] x, int kind_, const int64_t[::1] labels,
          double[:, ::1] numbers, out):
    """Without out write of each row the maximum, s' and the label's logit to numbers; else read of
    each the maximum of all its classes (-inf: gradient 0), the scale of its exponentials and the
    gradient of its label, and write the gradient to out, which is like x.

    labels: the places in x, -1 where the label is not there; those of a caller's own could change.
    """
    cdef Shard job
    cdef Strided *arrays[2]
    cdef int i, threads
    arrays[:] = [&job.x, &job.out]
    job.kernels = xf_isa_kernels(type_of(computed(kind_)))
    job.rows = labels.shape[0]
    if job.rows == 0:
        return
    job.classes = x.shape[LEADING]
    job.labels = &labels[0]
    job.numbers = &numbers[0, 0]
    lay(<char *> &x[0, 0, 0, 0, 0, 0, 0], x.strides, kind_, &job.x)
    take(out, kind_, True, &job.out)
    merge(&job.shape, x.shape, arrays, 2)
    threads = threads_for(job.rows, job.classes)
    job.task = rows_of_task(&job.x, job.rows, rows_of_chunk(job.rows, job.classes), threads)
    job.panels = cut(job.kernels, &job.shape, &job.x, &job.out, job.classes)
    with nogil:
        run(shard_task, &job, (job.rows + job.task - 1) // job.task, threads, job.panels.scratch)
