# Where rows lie: arrays of up to six leading axes and a class axis, walked in C order of the
# leading axes, and cut into chunks that depend on the shape alone.

from cpython.buffer cimport (
    Py_buffer, PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)

cdef enum:
    LEADING = 6
    CHUNK_ELEMENTS = 32768      # about 10 microseconds of work, so that threads share evenly
    MOST_CHUNKS = 4096          # so that the sums of the chunks stay small
    TASK_ROWS = 4096            # where classes are apart: its ends share lines with the next
    LIGHT_ELEMENTS = 1 << 14    # less takes a microsecond or two: see dispatch.h
    SEGMENT_BLOCKS = 8          # as in rows/bands.h
    SERIAL_ELEMENTS = 1 << 18   # less, some 100 microseconds, is not worth waking threads
    THREAD_ELEMENTS = 1 << 16   # at least so many for each
    STREAM_BYTES = 1 << 24      # more does not stay in the caches: it is written past them
    LINE = 64                   # bytes of a cache line, and of a class of a panel
    TOGETHER_BYTES = 1 << 18    # of panels treated together: a part of a second-level cache,
    MOST_TOGETHER = 3 << 18     # and for four lines of a class a larger one

# How an element that is not of the compute type is read. The codes are _checks.KINDS.
cdef enum kind:
    I8, I16, I32, I64, U8, U16, U32, U64, F32, F64, F16, BF16

cdef struct Shape:
    int axes
    ptrdiff_t size[LEADING]

cdef struct Strided:
    char *data                  # NULL: there is no such array
    ptrdiff_t stride[LEADING]   # bytes
    ptrdiff_t step              # bytes from class to class
    int kind


cdef inline int take(object array, int kind_, bint written, Strided *s) except -1:
    """Describes an array of any dtype and seven axes, or None; the caller keeps it alive."""
    cdef Py_buffer view
    cdef int i
    s.data = NULL
    s.step = 0
    s.kind = kind_
    if array is None:
        return 0
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES | (PyBUF_WRITABLE if written else 0))
    s.data = <char *> view.buf
    for i in range(LEADING):
        s.stride[i] = view.strides[i]
    s.step = view.strides[LEADING]
    PyBuffer_Release(&view)
    return 0


cdef inline void lay(char *data, const Py_ssize_t *strides, int kind_, Strided *s) noexcept nogil:
    """Describes the array of a typed memoryview."""
    cdef int i
    s.data = data
    for i in range(LEADING):
        s.stride[i] = strides[i]
    s.step = strides[LEADING]
    s.kind = kind_


cdef inline void merge(Shape *shape, const Py_ssize_t *size, Strided **arrays,
                       int n) noexcept nogil:
    """Merges axes that every array walks in one stride, and drops those of length 1."""
    cdef int i, j, axes = 0
    cdef bint joined
    cdef Strided *a
    for i in range(LEADING):
        if size[i] == 1:
            continue
        joined = axes > 0
        for j in range(n):
            a = arrays[j]
            if joined and a.data and a.stride[axes - 1] != a.stride[i] * size[i]:
                joined = False
        if not joined:
            axes += 1
            shape.size[axes - 1] = 1
        shape.size[axes - 1] *= size[i]
        for j in range(n):
            arrays[j].stride[axes - 1] = arrays[j].stride[i]
    if axes == 0:
        axes = 1
        shape.size[0] = 1
        for j in range(n):
            arrays[j].stride[0] = 0
    shape.axes = axes


cdef inline char *find(const Shape *shape, const Strided *s, ptrdiff_t row) noexcept nogil:
    """The first class of a row."""
    cdef char *p = s.data
    cdef int axis = shape.axes - 1
    while axis > 0:
        p += (row % shape.size[axis]) * s.stride[axis]
        row //= shape.size[axis]
        axis -= 1
    return p + row * s.stride[0]


cdef inline void find_rows(const Shape *shape, const Strided *s, ptrdiff_t first, int n,
                           const char **row) noexcept nogil:
    """The first class of n rows; the panel's other places repeat the first row."""
    cdef int inner = shape.axes - 1, i
    cdef ptrdiff_t run = shape.size[inner], at = first % run if inner else first
    cdef ptrdiff_t stride = s.stride[inner]
    cdef char *p = find(shape, s, first)
    if at + XF_PANEL <= run:
        for i in range(XF_PANEL):
            row[i] = p + i * stride
    else:
        for i in range(n):
            if at == run:
                at = 0
                p = find(shape, s, first + i)
            row[i] = p
            p += stride
            at += 1
    for i in range(n, XF_PANEL):
        row[i] = row[0]


cdef inline int panel_rows(const xf_kernels *k, ptrdiff_t classes, bint again) noexcept nogil:
    """How many rows to treat together; if they are read again, what an L1 cache can hold."""
    cdef ptrdiff_t lanes = k.block // 32, n = 16 * k.block // classes
    if not again or n > lanes:
        n = lanes
    return <int> (n if n > 1 else 1)


# What a thread works in: panels that are treated together, and behind it their bands.
cdef struct Scratch:
    xf_panel panel[XF_TOGETHER]
    xf_scores scores[XF_TOGETHER]
    xf_work work

# How rows become panels of `most` rows, so many of them treated together: several where rows lie
# side by side and their classes apart, so that each class, which may be on another page, is visited
# once for all. The panels begin where cache lines of `lines` do.
cdef struct Panels:
    int most, together
    const Strided *lines
    ptrdiff_t band, scratch     # bytes of a panel's, and of all


cdef inline Panels cut(const xf_kernels *k, const Shape *shape, const Strided *x,
                       const Strided *out, ptrdiff_t classes) noexcept nogil:
    """For rows to read and, where out has data, to write."""
    cdef Panels c
    cdef int inner = shape.axes - 1
    cdef ptrdiff_t item = size_of(x.kind), two
    c.band = LINE * min((classes + 15) // 16 * 16, SEGMENT_BLOCKS * k.block)  # as tiles are read
    c.most = panel_rows(k, classes, out.data != NULL and x.step == item == out.step)
    c.together = 1
    c.lines = out if out.data and out.stride[inner] == item else x
    if x.stride[inner] == item != x.step and shape.size[inner] >= XF_PANEL:
        two = 2 * LINE // (c.most * item)   # lines of a class, at the least
        c.together = <int> min(XF_TOGETHER, max(two, TOGETHER_BYTES // c.band,
                                                min(2 * two, MOST_TOGETHER // c.band)))
    c.scratch = sizeof(Scratch) + c.together * c.band
    return c


cdef inline int next_rows(const Panels *c, const Shape *shape, ptrdiff_t row,
                          ptrdiff_t end) noexcept nogil:
    """How many rows the panel has that begins with this one."""
    cdef ptrdiff_t n = min(c.most, end - row), bytes
    cdef int inner = shape.axes - 1
    if c.together > 1:
        bytes = c.most * size_of(c.lines.kind)
        n = min(n, shape.size[inner] - row % shape.size[inner])
        n = min(n, c.most - <ptrdiff_t> (<size_t> find(shape, c.lines, row) % bytes)
                // size_of(c.lines.kind))
    return <int> n


cdef inline xf_panel *take_panels(const Panels *c, void *memory, ptrdiff_t classes,
                                  bint wants_gradient) noexcept nogil:
    """The panels of a thread, with what is the same for all."""
    cdef Scratch *scratch = <Scratch *> memory
    cdef bint asks = xf_asks_ahead()
    cdef int k
    for k in range(c.together):
        scratch.panel[k].work = &scratch.work
        scratch.panel[k].band = <char *> (scratch + 1) + k * c.band
        scratch.panel[k].classes = classes
        scratch.panel[k].wants_gradient = wants_gradient
        scratch.panel[k].asks = asks
    return scratch.panel


cdef inline void set_panels(const Panels *c, const Strided *x, const Strided *out, bint stream,
                            xf_rows *source, xf_out *target) noexcept nogil:
    """What is the same for all that is read and, where out has data, written."""
    cdef int k
    for k in range(c.together):
        source[k].step = x.step
        source[k].type = type_of(x.kind)
        if out.data:
            target[k].step = out.step
            target[k].type = type_of(out.kind)
            target[k].stream = stream


cdef inline int next_panels(const Panels *c, const Shape *shape, const Strided *x,
                            const Strided *out, ptrdiff_t row, ptrdiff_t end, xf_panel *p,
                            xf_rows *source, xf_out *target) noexcept nogil:
    """The panels to be treated together from a row on: how many, and where their rows are."""
    cdef int n = 0
    while n < c.together and row < end:
        p[n].rows = next_rows(c, shape, row, end)
        find_rows(shape, x, row, p[n].rows, source[n].row)
        if out.data:
            find_rows(shape, out, row, p[n].rows, <const char **> target[n].row)
        row += p[n].rows
        n += 1
    return n


ctypedef fused integer:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t


cdef inline void read_as(integer tag, const char *p, ptrdiff_t stride, int n,
                         int64_t *to) noexcept nogil:
    cdef int i
    for i in range(n):
        to[i] = (<const integer *> (p + i * stride))[0]


cdef inline void read_integers(const char *p, int kind_, ptrdiff_t stride, int n,
                               int64_t *to) noexcept nogil:
    """n integers, `stride` bytes apart."""
    if kind_ == I64 or kind_ == U64:
        read_as[int64_t](0, p, stride, n, to)
    elif kind_ == I32:
        read_as[int32_t](0, p, stride, n, to)
    elif kind_ == I16:
        read_as[int16_t](0, p, stride, n, to)
    elif kind_ == I8:
        read_as[int8_t](0, p, stride, n, to)
    elif kind_ == U32:
        read_as[uint32_t](0, p, stride, n, to)
    elif kind_ == U16:
        read_as[uint16_t](0, p, stride, n, to)
    else:
        read_as[uint8_t](0, p, stride, n, to)


cdef inline void read_indices(const Shape *shape, const Strided *s, ptrdiff_t first, int n,
                              int64_t *to) noexcept nogil:
    """The integers of n rows."""
    cdef int inner = shape.axes - 1
    cdef ptrdiff_t run = shape.size[inner], left = run - (first % run if inner else first)
    while n > left:
        read_integers(find(shape, s, first), s.kind, s.stride[inner], <int> left, to)
        to += left
        first += left
        n -= <int> left
        left = run
    read_integers(find(shape, s, first), s.kind, s.stride[inner], n, to)


ctypedef fused numeric:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    float
    double


cdef inline void convert_as(numeric tag, const char *p, ptrdiff_t stride, ptrdiff_t n, int to_kind,
                            void *to) noexcept nogil:
    cdef ptrdiff_t j
    if to_kind == F64:
        for j in range(n):
            (<double *> to)[j] = <double> (<const numeric *> (p + j * stride))[0]
    elif stride == sizeof(numeric):
        for j in range(n):
            (<float *> to)[j] = <float> (<const numeric *> p)[j]
    else:
        for j in range(n):
            (<float *> to)[j] = <float> (<const numeric *> (p + j * stride))[0]


cdef void convert(const char *p, int kind_, ptrdiff_t stride, ptrdiff_t n, int to_kind,
                  void *to) noexcept nogil:
    """n numbers of any kind, `stride` bytes apart, to float or double."""
    cdef ptrdiff_t j
    cdef uint16_t half
    if kind_ == F32:
        convert_as[float](0, p, stride, n, to_kind, to)
    elif kind_ == F64:
        convert_as[double](0, p, stride, n, to_kind, to)
    elif kind_ == I64:
        convert_as[int64_t](0, p, stride, n, to_kind, to)
    elif kind_ == I32:
        convert_as[int32_t](0, p, stride, n, to_kind, to)
    elif kind_ == I16:
        convert_as[int16_t](0, p, stride, n, to_kind, to)
    elif kind_ == I8:
        convert_as[int8_t](0, p, stride, n, to_kind, to)
    elif kind_ == U64:
        convert_as[uint64_t](0, p, stride, n, to_kind, to)
    elif kind_ == U32:
        convert_as[uint32_t](0, p, stride, n, to_kind, to)
    elif kind_ == U16:
        convert_as[uint16_t](0, p, stride, n, to_kind, to)
    elif kind_ == U8:
        convert_as[uint8_t](0, p, stride, n, to_kind, to)
    else:
        for j in range(n):
            half = (<const uint16_t *> (p + j * stride))[0]
            put_number(<char *> to + j * size_of(to_kind), to_kind,
                       f32_of_f16(half) if kind_ == F16 else f32_of_bf16(half))


cdef inline double number(const char *p, int kind_) noexcept nogil:
    cdef double value
    convert(p, kind_, 0, 1, F64, &value)
    return value


cdef inline xf_type type_of(int kind_) noexcept nogil:
    """What the row primitives call a floating kind, or that of booleans."""
    if kind_ == F32:
        return XF_F32
    if kind_ == F64:
        return XF_F64
    if kind_ == U8:
        return XF_U8
    return XF_F16 if kind_ == F16 else XF_BF16


cdef inline int computed(int kind_) noexcept nogil:
    """The kind that a floating kind is computed in."""
    return F64 if kind_ == F64 else F32


cdef inline ptrdiff_t size_of(int kind_) noexcept nogil:
    """Bytes of an element of a floating kind."""
    return 4 if kind_ == F32 else 8 if kind_ == F64 else 2


cdef inline ptrdiff_t item_of(int kind_) noexcept nogil:
    """The same of any kind."""
    return size_of(kind_) if kind_ >= F32 else 1 << (kind_ & 3)


cdef inline void put_number(char *p, int kind_, double value) noexcept nogil:
    if kind_ == F32:
        (<float *> p)[0] = <float> value
    else:
        (<double *> p)[0] = value


cdef inline ptrdiff_t rows_of_chunk(ptrdiff_t rows, ptrdiff_t elements) noexcept nogil:
    """How many rows of so many elements make a chunk: whole panels where they are short, else
    such that panels have whole chunks."""
    cdef ptrdiff_t n = XF_PANEL, fit = CHUNK_ELEMENTS // elements
    if fit >= XF_PANEL:
        n = fit - fit % XF_PANEL
    while n > fit and n > 1:
        n //= 2
    while (rows + n - 1) // n > MOST_CHUNKS:
        n *= 2
    return n


cdef inline ptrdiff_t rows_of_task(const Strided *x, ptrdiff_t rows, ptrdiff_t chunk,
                                   int threads) noexcept nogil:
    """How many rows, whole chunks, a thread takes at once: where their classes are apart, many
    panels, or fewer if that would leave a thread without."""
    cdef ptrdiff_t n = TASK_ROWS
    if x.step == size_of(x.kind):
        return chunk
    while threads > 1 and n > XF_PANEL and rows < 2 * threads * n:
        n //= 2
    return (n + chunk - 1) // chunk * chunk


cdef inline bint streams(ptrdiff_t rows, ptrdiff_t classes, const Strided *x,
                         const Strided *out) noexcept nogil:
    """Is what is written past the caches? Not in the place of what has just been read; sooner where
    classes are apart, whose lines displace each other there."""
    cdef ptrdiff_t item = size_of(x.kind), least = STREAM_BYTES
    if out.step != item:
        least //= 4
    return out.data != x.data and rows * classes * item >= least


cdef inline int threads_up_to(int most, ptrdiff_t rows, ptrdiff_t elements) noexcept nogil:
    cdef double n = <double> rows * <double> elements / THREAD_ELEMENTS
    if n < SERIAL_ELEMENTS // THREAD_ELEMENTS or most < 1:
        return 1
    return <int> n if n < most else most


cdef inline int threads_for(ptrdiff_t rows, ptrdiff_t elements) noexcept nogil:
    return threads_up_to(xf_threads(), rows, elements)


cdef int run(xf_task *task, void *job, ptrdiff_t chunks, int threads,
             size_t scratch) except -1 nogil:
    """Runs a task with so many bytes of scratch for each thread."""
    if not xf_pool_run(task, job, chunks, threads, scratch):
        raise MemoryError(f"no memory for {scratch} bytes of scratch")
    return 0


cdef inline double tree(double *sums, ptrdiff_t n) noexcept nogil:
    """The sum of the chunks' sums, neighbours first."""
    cdef ptrdiff_t i, step = 1
    while step < n:
        i = 0
        while i + step < n:
            sums[i] += sums[i + step]
            i += 2 * step
        step *= 2
    return sums[0] if n else 0
