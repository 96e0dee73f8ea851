# Exact sums over rows: integers and sums without rounding (exact.h), a set of them for each thread,
# which a chunk takes for its time.

from libc.stdlib cimport calloc
from libc.string cimport memcpy

cdef enum:
    # A histogram of positive numbers: four places to an octave, one below and one above all.
    LOWEST_OCTAVE = -40
    OCTAVES = 48
    HISTOGRAM = 4 * OCTAVES + 2

cdef struct Sums:
    int places, wide, exact, counts     # how many there are
    int *taken                          # of each place
    xf_sixteens *sixteens               # (places, wide)
    xf_exact *sums                      # (places, exact)
    int64_t *numbers                    # (places, counts)
    void (*add)(xf_sixteens *, const double *, const double *) noexcept nogil

# Those of one place, as long as it is taken.
cdef struct Part:
    int place
    xf_sixteens *sixteens
    xf_exact *sums
    int64_t *numbers
    void (*add)(xf_sixteens *, const double *, const double *) noexcept nogil


cdef int sums_begin(Sums *s, int places, int wide, int exact, int counts) except -1:
    s.places, s.wide, s.exact, s.counts = places, wide, exact, counts
    s.taken = <int *> calloc(places, sizeof(int))
    s.sixteens = <xf_sixteens *> calloc(<size_t> places * wide, sizeof(xf_sixteens))
    s.sums = <xf_exact *> calloc(<size_t> places * exact + 1, sizeof(xf_exact))
    s.numbers = <int64_t *> calloc(<size_t> places * counts + 1, sizeof(int64_t))
    s.add = xf_isa_kernels(XF_F64).add_sixteen
    if not (s.taken and s.sixteens and s.sums and s.numbers):
        sums_free(s)
        raise MemoryError("no memory for the sums of the threads")
    return 0


cdef void sums_free(Sums *s) noexcept:
    free(s.taken)
    free(s.sixteens)
    free(s.sums)
    free(s.numbers)


cdef inline Part take_part(Sums *s) noexcept nogil:
    cdef Part part
    cdef int place = xf_place_take(s.taken, s.places)
    part.place = place
    part.sixteens = s.sixteens + place * s.wide
    part.sums = s.sums + place * s.exact
    part.numbers = s.numbers + place * s.counts
    part.add = s.add
    return part


cdef inline void give_part(Sums *s, const Part *part) noexcept nogil:
    xf_place_give(s.taken, part.place)


cdef object sum_read(xf_exact *a):
    cdef unsigned char digits[XF_EXACT_BYTES]
    xf_exact_read(a, digits)
    value = int.from_bytes((<char *> digits)[:XF_EXACT_BYTES], "little", signed=True)
    return value, a.infinite, a.negative, a.nan


cdef object sums_read(Sums *s):
    """The sums as (integer in units of 2^-1074, number of +inf, of -inf, of nan), those of sixteens
    first, and the numbers."""
    cdef int i, place
    found = []
    for i in range(s.wide):
        xf_sixteens_carry(s.sixteens + i)
        for place in range(1, s.places):
            xf_sixteens_carry(s.sixteens + i + place * s.wide)
            xf_exact_merge(&s.sixteens[i].exact, &s.sixteens[i + place * s.wide].exact)
        found.append(sum_read(&s.sixteens[i].exact))
    for i in range(s.exact):
        for place in range(1, s.places):
            xf_exact_merge(s.sums + i, s.sums + i + place * s.exact)
        found.append(sum_read(s.sums + i))
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
    # Numbers that are not negative lie in the order of their bits, the others below 0.
    place = (<int64_t> bits >> 50) - 4 * (1023 + LOWEST_OCTAVE) + 1
    place = place if 0 < place else 0
    place = place if place < HISTOGRAM else HISTOGRAM - 1
    histogram[place] += 1
