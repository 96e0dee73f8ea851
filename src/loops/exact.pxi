# Exact sums over rows: integers and sums without rounding (exact.h), a set of them for each thread,
# which a chunk takes for its time.

from libc.stdlib cimport calloc

cdef enum:
    # A histogram of positive numbers: four places to an octave, one below and one above all.
    LOWEST_OCTAVE = -40
    OCTAVES = 48
    HISTOGRAM = 4 * OCTAVES + 2

cdef struct Sums:
    int places, exact, counts   # how many there are
    int *taken                  # of each place
    xf_exact *sums              # (places, exact)
    int64_t *numbers            # (places, counts)


cdef int sums_begin(Sums *s, int places, int exact, int counts) except -1:
    s.places, s.exact, s.counts = places, exact, counts
    s.taken = <int *> calloc(places, sizeof(int))
    s.sums = <xf_exact *> calloc(<size_t> places * exact, sizeof(xf_exact))
    s.numbers = <int64_t *> calloc(<size_t> places * counts, sizeof(int64_t))
    if not (s.taken and s.sums and s.numbers):
        sums_free(s)
        raise MemoryError("no memory for the sums of the threads")
    return 0


cdef void sums_free(Sums *s) noexcept:
    free(s.taken)
    free(s.sums)
    free(s.numbers)


cdef object sums_read(Sums *s):
    """The sums as (integer in units of 2^-1074, number of +inf, of -inf, of nan), the numbers."""
    cdef unsigned char digits[XF_EXACT_BYTES]
    cdef xf_exact *a
    cdef int i, place
    found = []
    for i in range(s.exact):
        a = s.sums + i
        for place in range(1, s.places):
            xf_exact_merge(a, a + place * s.exact)
        xf_exact_read(a, digits)
        value = int.from_bytes((<char *> digits)[:XF_EXACT_BYTES], "little", signed=True)
        found.append((value, a.infinite, a.negative, a.nan))
    numbers = []
    for i in range(s.counts):
        for place in range(1, s.places):
            s.numbers[i] += s.numbers[i + place * s.counts]
        numbers.append(s.numbers[i])
    return found, numbers


cdef inline void count_in_histogram(int64_t *histogram, double value) noexcept nogil:
    cdef uint64_t bits
    cdef int64_t place
    if value != value:
        return
    memcpy(&bits, &value, sizeof(bits))
    place = <int64_t> (bits >> 50) - 4 * (1023 + LOWEST_OCTAVE) + 1
    place = place if 0 < value and 0 < place else 0
    place = place if place < HISTOGRAM else HISTOGRAM - 1
    histogram[place] += 1
