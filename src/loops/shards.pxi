# Rows whose classes are spread over shards: what one has to say of each row, and its part of the
# gradient.

cdef struct Shard:
    const xf_kernels *kernels
    Shape shape
    Strided x, out
    ptrdiff_t rows, classes, task
    int panel
    bint strips
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
    cdef Scratch *scratch = <Scratch *> memory
    cdef xf_panel *p = &scratch.panel
    cdef Strip *strip = &scratch.strip if job.strips else NULL
    cdef xf_shard numbers
    cdef xf_rows x
    cdef xf_out out
    cdef const Strided *rows_of_x = &job.x
    cdef const Strided *rows_of_out = &job.out
    cdef const Shape *shape = &job.shape
    cdef ptrdiff_t row = task * job.task, end = row + job.task, begin = 0, stop
    cdef bint wants_gradient = job.out.data != NULL
    cdef bint stream = wants_gradient and streams(job.rows, job.classes, &job.x, &job.out)
    cdef int i, n
    if end > job.rows:
        end = job.rows
    stop = end if strip == NULL else row
    x.type = out.type = type_of(job.x.kind)
    out.stream = stream and strip == NULL
    p.classes = job.classes
    p.wants_gradient = False
    while row < end:
        if row == stop:
            begin = row
            stop = read_strip(&job.shape, &job.x, begin, end, job.classes, strip)
            shape, rows_of_x, rows_of_out = &strip.shape, &strip.rows, &strip.rows
        n = <int> (stop - row) if stop - row < job.panel else job.panel
        p.rows = n
        for i in range(XF_PANEL):
            p.label[i] = job.labels[row + i] if i < n else -1
        x.step = rows_of_x.step
        find_rows(shape, rows_of_x, row - begin, n, x.row)
        if not wants_gradient:
            job.kernels.shard_statistics(&x, p, &numbers)
            swap_numbers(job, row, n, numbers.maximum, numbers.rest, numbers.label, True)
        else:
            swap_numbers(job, row, n, numbers.maximum, numbers.scale, numbers.own, False)
            out.step = rows_of_out.step
            find_rows(shape, rows_of_out, row - begin, n, <const char **> out.row)
            job.kernels.shard_gradient(&x, p, &numbers, &out)
        row += n
        if strip != NULL and row == stop and wants_gradient:
            write_strip(strip, job.kernels, stream, &job.shape, &job.out, begin, job.classes)


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
    job.panel = panel_rows(job.kernels, job.classes, False)
    job.strips = strip_rows(&job.shape, &job.x, 0, job.rows, job.classes) > 0 and (
        out is None or strip_rows(&job.shape, &job.out, 0, job.rows, job.classes) > 0)
    with nogil:
        run(shard_task, &job, (job.rows + job.task - 1) // job.task, threads,
            sizeof(Scratch) if job.strips else sizeof(xf_panel))
