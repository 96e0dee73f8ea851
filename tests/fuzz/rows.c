/* A fuzzer of the row primitives: an input chooses a primitive, a shape and numbers, which are tried
   again and again: with each instruction set, each time in another layout, cut into other panels, of
   which several are treated together where classes are apart. The results must agree, no loss may be
   negative, and nothing but the result may be written. Every array ends or begins at a page that may
   not be touched, and the band of a panel is as long as promised. */
#define _DEFAULT_SOURCE
#include <math.h>
#include <sanitizer/asan_interface.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "dispatch.h"

#define MOST_ROWS (XF_TOGETHER * XF_PANEL)
#define MOST_ELEMENTS (1 << 17)
#define ARRAY_BYTES (1 << 23) /* of all rows of an array, their gaps among them */
#define BAND_GAP 256          /* behind each band */
#define CANARY 0xa5

/* --- the input, as a source of choices ---------------------------------------------------------- */

static struct {
    const uint8_t *at, *end;
    uint64_t random;
} input;

static unsigned byte(void) { return input.at < input.end ? *input.at++ : 0; }

/* In [0, n). */
static ptrdiff_t below(ptrdiff_t n)
{
    unsigned first = byte();
    return (ptrdiff_t)(n > 256 ? first << 8 | byte() : first) % n;
}

static uint64_t next_random(void)
{
    input.random ^= input.random << 13;
    input.random ^= input.random >> 7;
    return input.random ^= input.random << 17;
}

/* The same, of inputs that have been read to their end too. */
static ptrdiff_t any(ptrdiff_t n) { return (ptrdiff_t)((next_random() >> 16) % (uint64_t)n); }

/* In [0, 1). */
static double unit(void) { return (double)(next_random() >> 11) * 0x1p-53; }

static void expect(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

/* --- arrays between pages that may not be touched ------------------------------------------------ */

typedef struct {
    char *memory; /* ARRAY_BYTES */
    char *first;  /* of the lowest element */
    ptrdiff_t bytes;
    char before[ARRAY_BYTES];
    /* of rows: their numbers, one after the other, and where they lie */
    xf_type type;
    char plain[8 * MOST_ELEMENTS];
    char *row[MOST_ROWS];
    ptrdiff_t step;
} array;

enum { X, Q, OUT, WEIGHT, ARRAYS };
static array arrays[ARRAYS];

static void make_arrays(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < ARRAYS; i++) {
        char *all =
            mmap(NULL, ARRAY_BYTES + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        expect(all != MAP_FAILED, "no memory");
        arrays[i].memory = all + page;
        expect(mprotect(all + page, ARRAY_BYTES, PROT_READ | PROT_WRITE) == 0, "no memory");
    }
}

/* The place of so many bytes: at the end of the memory or at its beginning. */
static char *place(array *a, ptrdiff_t bytes)
{
    expect(bytes <= ARRAY_BYTES, "an array is too large for the fuzzer");
    a->bytes = bytes;
    a->first = a->memory + (any(2) ? 0 : ARRAY_BYTES - bytes);
    return a->first;
}

/* A page on each side of the array, where it has one. */
static void poison_around(array *a, bool on)
{
    char *end = a->first + a->bytes, *last = a->memory + ARRAY_BYTES;
    char *low = a->first - a->memory < 4096 ? a->memory : a->first - 4096;
    char *high = last - end < 4096 ? last : end + 4096;
    if (on) {
        ASAN_POISON_MEMORY_REGION(low, (size_t)(a->first - low));
        ASAN_POISON_MEMORY_REGION(end, (size_t)(high - end));
    } else {
        ASAN_UNPOISON_MEMORY_REGION(low, (size_t)(high - low));
    }
}

/* --- numbers ------------------------------------------------------------------------------------ */

static void write_number(char *p, xf_type type, double a)
{
    const float f = (float)a;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t half = (uint16_t)(bits >> 16); /* bfloat16, cut */
    if (type == XF_F64)
        memcpy(p, &a, sizeof a);
    else if (type == XF_U8)
        *p = a > 0.5;
    else if (type == XF_F32)
        memcpy(p, &f, sizeof f);
    else if (type == XF_BF16)
        memcpy(p, &half, sizeof half);
    else {
        half = (uint16_t)((bits >> 16 & 0x8000) | (unsigned)below(0x7c01)); /* any up to inf */
        memcpy(p, &half, sizeof half);
    }
}

static double special(void)
{
    static const double values[] = {
        0.0,      -0.0,      INFINITY,  -INFINITY, NAN,    1.0,    -1.0,   0x1p-149,
        0x1p-126, 0x1p-1074, 0x1p-1022, 88.0,      -88.0,  -104.0, 709.0,  -745.0,
        0x1p127,  -0x1p127,  65504,     1e300,     -1e300, 0x1p17, 0x1p-1, 0x1.fffffep127};
    return values[below(sizeof values / sizeof *values)];
}

typedef enum { LOGITS, PROBABILITIES } numbers;

/* One number of a row. Spread, and how often something special comes, are the array's. */
static double draw(numbers kind, double spread, unsigned specials)
{
    if (specials && (next_random() & 0xff) < specials)
        return special();
    return kind == LOGITS ? (unit() - 0.5) * spread : unit() * unit();
}

static ptrdiff_t size_of(xf_type type)
{
    return type == XF_F64 ? 8 : type == XF_F32 ? 4 : type == XF_U8 ? 1 : 2;
}

static int rows;
static ptrdiff_t classes;

static void draw_rows(array *a, xf_type type, numbers kind)
{
    static const double spreads[] = {0, 1, 8, 40, 200, 2000, 1e5, 1e30};
    const double spread = spreads[below(8)];
    const unsigned specials = byte() & 1 ? byte() : 0;
    a->type = type;
    for (ptrdiff_t j = 0; j < rows * classes; j++)
        write_number(a->plain + j * size_of(type), type, draw(kind, spread, specials));
}

/* --- where rows lie ----------------------------------------------------------------------------- */

/* Lays rows out: one behind the other, with gaps, side by side, or backwards. Side by side they lie in
   runs, as of an inner axis, unless they shall all be `apart` by the same. */
static void lay(array *a, bool alike)
{
    enum { BEHIND, EVERY_SECOND, BACKWARDS, UPWARDS, BESIDE };
    const ptrdiff_t item = size_of(a->type), gap = any(2) ? any(5) : 0;
    const ptrdiff_t way = any(8);
    ptrdiff_t step = item, apart = (classes + gap) * item, run = rows, far = 0;
    if (way >= BESIDE) {
        if (!alike && any(2) && rows > XF_PANEL)
            run = XF_PANEL + any(rows - XF_PANEL);
        step = (run + gap) * item;
        if (any(2)) /* whole cache lines */
            step = (step + 63) / 64 * 64;
        apart = item;
        far = classes * step;
    } else if (way == EVERY_SECOND) {
        step = 2 * item;
        apart = classes * step + gap * item;
    } else if (way == BACKWARDS) {
        step = -item;
    } else if (way == UPWARDS) {
        apart = -apart;
    }
    const ptrdiff_t runs = (rows - 1) / run, longest = runs ? run : rows;
    const ptrdiff_t low =
        (step < 0 ? (classes - 1) * step : 0) + (apart < 0 ? (longest - 1) * apart : 0);
    const ptrdiff_t high = (step > 0 ? (classes - 1) * step : 0) +
                           (apart > 0 ? (longest - 1) * apart : 0) + runs * far + item;
    char *first = place(a, high - low) - low;
    a->step = step;
    for (int i = 0; i < rows; i++)
        a->row[i] = first + i / run * far + i % run * apart;
    memset(a->first, CANARY, (size_t)a->bytes);
}

/* Writes the numbers to the rows. */
static void fill(array *a)
{
    const ptrdiff_t item = size_of(a->type);
    for (int i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < classes; j++)
            memcpy(a->row[i] + j * a->step, a->plain + (i * classes + j) * item, (size_t)item);
}

/* Some rows of an array; the places behind them repeat the first, or are those of its neighbours. */
static void find_rows(const array *a, int first, int n, const char **row)
{
    const bool neighbours = any(2) && first + XF_PANEL <= rows;
    for (int i = 0; i < XF_PANEL; i++)
        row[i] = a->row[first + (i < n || neighbours ? i : 0)];
}

static xf_rows rows_of(const array *a, int first, int n)
{
    xf_rows r = {.step = a->step, .type = a->type};
    find_rows(a, first, n, r.row);
    return r;
}

/* --- what is tried ------------------------------------------------------------------------------ */

static int sets[8], set_count;
static xf_work work;
static _Alignas(64) unsigned char bands[XF_TOGETHER * (8 * XF_BLOCK_BYTES * XF_PANEL + BAND_GAP)];

/* Of each row, and what was written. */
enum { MOST_NUMBERS = 8 };
typedef struct {
    double number[MOST_NUMBERS][MOST_ROWS];
    char out[8 * MOST_ELEMENTS];
    bool valid;
} results;
static results all[2]; /* of the first try, and of another */

static void begin(results *r)
{
    memset(r->number, 0, sizeof r->number);
    r->valid = true;
}

static bool same_numbers(const void *a, const void *b, xf_type type)
{
    if (memcmp(a, b, (size_t)size_of(type)) == 0)
        return true;
    uint64_t bits[2] = {0, 0};
    const uint64_t inf = type == XF_F64   ? 0x7ff0000000000000
                         : type == XF_F32 ? 0x7f800000
                         : type == XF_F16 ? 0x7c00
                                          : 0x7f80;
    const uint64_t sign = (uint64_t)1 << (8 * size_of(type) - 1);
    memcpy(&bits[0], a, (size_t)size_of(type));
    memcpy(&bits[1], b, (size_t)size_of(type));
    return (bits[0] & ~sign) > inf && (bits[1] & ~sign) > inf; /* both are nan */
}

static void expect_same(xf_type type, ptrdiff_t elements)
{
    for (int k = 0; k < MOST_NUMBERS; k++)
        for (int i = 0; i < rows; i++)
            expect(same_numbers(&all[0].number[k][i], &all[1].number[k][i], XF_F64),
                   "two tries differ in a number of a row");
    for (ptrdiff_t j = 0; j < elements; j++) {
        const ptrdiff_t at = j * size_of(type);
        expect(same_numbers(all[0].out + at, all[1].out + at, type),
               "two tries differ in what they write");
    }
    expect(all[0].valid == all[1].valid, "two tries differ in what is valid");
}

/* Of an array, what was written to its rows; nothing else of it may have changed. */
static void take_written(array *a, char *to)
{
    const ptrdiff_t item = size_of(a->type);
    for (int i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < classes; j++) {
            char *p = a->row[i] + j * a->step;
            memcpy(to + (i * classes + j) * item, p, (size_t)item);
            memcpy(p, a->before + (p - a->first), (size_t)item);
        }
    expect(memcmp(a->first, a->before, (size_t)a->bytes) == 0, "a gap was written to");
}

static void poison(bool on)
{
    for (int i = 0; i < ARRAYS; i++)
        poison_around(&arrays[i], on);
}

/* --- panels ------------------------------------------------------------------------------------- */

typedef enum { LOSS, SOFTMAX, LOGSUMEXP, SHARDS, LOG_LOSS, PAIRS, SCORES } primitive;

/* What an input wants of all its tries. */
static struct {
    primitive what;
    bool writes, in_place, logarithm, from_logits, predicted;
    xf_ties ties;
    xf_towards towards;
    bool dense;
    xf_target target;
    double z_loss, gradient_scale, scale;
    int64_t label[MOST_ROWS];
    double own[MOST_ROWS], weight[MOST_ROWS];
} wanted;

/* The panels that are treated together. */
static struct {
    int count;
    xf_panel panel[XF_TOGETHER];
    xf_rows x[XF_TOGETHER], q[XF_TOGETHER];
    xf_out out[XF_TOGETHER];
    xf_scores scores[XF_TOGETHER];
    xf_shard shard[XF_TOGETHER];
} now;

static ptrdiff_t band_bytes(ptrdiff_t block)
{
    const ptrdiff_t filled = (classes + 15) / 16 * 16, most = 8 * block;
    return 64 * (filled < most ? filled : most);
}

static void poison_bands(ptrdiff_t bytes, bool on)
{
    for (int k = 0; k < XF_TOGETHER; k++) {
        unsigned char *gap = bands + k * (bytes + BAND_GAP) + bytes;
        if (on)
            ASAN_POISON_MEMORY_REGION(gap, BAND_GAP);
        else
            ASAN_UNPOISON_MEMORY_REGION(gap, BAND_GAP);
    }
}

static void set_panel(xf_panel *p, int first, int n, void *band)
{
    memset(p, CANARY, sizeof *p);
    p->work = &work;
    p->band = band;
    p->rows = n;
    p->classes = classes;
    p->z_loss = wanted.z_loss;
    p->gradient_scale = wanted.gradient_scale;
    p->wants_gradient = wanted.writes;
    for (int i = 0; i < XF_PANEL; i++) {
        p->label[i] = i < n ? wanted.label[first + i] : -1;
        p->own[i] = i < n ? wanted.own[first + i] : 0;
        p->weight[i] = i < n ? wanted.weight[first + i] : 0;
    }
}

/* Cuts rows from `first` on into up to so many panels; returns the row behind them. */
static int cut(int first, int most, int lanes, ptrdiff_t band)
{
    array *to = &arrays[wanted.in_place ? X : OUT];
    const bool stream = !wanted.in_place && any(2), asks = any(2);
    int k = 0;
    for (; k < most && first < rows; k++) {
        int n = any(8) ? lanes : 1 + (int)any(lanes);
        n = n < rows - first ? n : rows - first;
        const bool has_band = wanted.what != PAIRS;
        set_panel(&now.panel[k], first, n, has_band ? bands + k * (band + BAND_GAP) : NULL);
        now.panel[k].asks = asks;
        now.x[k] = rows_of(&arrays[X], first, n);
        if (wanted.dense || wanted.what == PAIRS)
            now.q[k] = rows_of(&arrays[Q], first, n);
        now.out[k] = (xf_out){.step = to->step, .type = to->type, .stream = stream};
        if (wanted.writes)
            find_rows(to, first, n, (const char **)now.out[k].row);
        now.scores[k] = (xf_scores){.ties = wanted.ties, .wants_predicted = wanted.predicted};
        first += n;
    }
    now.count = k;
    return first;
}

/* A row that counts nothing has -inf for its maximum; that of others is finite. */
static void choose_shard_factors(int first)
{
    for (int k = 0; k < now.count; first += now.panel[k++].rows)
        for (int i = 0; i < now.panel[k].rows; i++) {
            const bool counts = isfinite(now.shard[k].maximum[i]) && wanted.weight[first + i] > 0;
            if (!counts)
                now.shard[k].maximum[i] = -INFINITY;
            now.shard[k].scale[i] = wanted.weight[first + i];
            now.shard[k].own[i] = wanted.own[first + i];
        }
}

static void take_numbers(int first, results *r)
{
    for (int k = 0; k < now.count; first += now.panel[k++].rows)
        for (int i = 0; i < now.panel[k].rows; i++) {
            const xf_panel *p = &now.panel[k];
            const xf_shard *shard = &now.shard[k];
            const xf_scores *s = &now.scores[k];
            double number[MOST_NUMBERS] = {0};
            if (wanted.what == LOSS || wanted.what == LOG_LOSS)
                number[0] = p->loss[i];
            else if (wanted.what == LOGSUMEXP)
                number[0] = p->lse[i];
            else if (wanted.what == SHARDS) /* of zeros of either sign any is the maximum */
                memcpy(number, (double[]){0 + shard->maximum[i], shard->rest[i], shard->label[i]},
                       3 * sizeof *number);
            else if (wanted.what == SCORES)
                memcpy(number,
                       (double[]){s->loss[i], s->entropy[i], s->brier[i], s->confidence[i],
                                  wanted.from_logits ? s->lse[i] : 0,
                                  p->label[i] < 0 ? 0 : (double)s->rank[i],
                                  p->label[i] < 0 ? 0 : s->reciprocal[i],
                                  wanted.predicted ? (double)s->predicted[i] : 0},
                       8 * sizeof *number);
            for (int j = 0; j < MOST_NUMBERS && wanted.what != PAIRS; j++)
                r->number[j][first + i] = number[j];
            if (wanted.what == LOSS && !wanted.dense) /* whose numbers may be negative here */
                expect(!(p->loss[i] < 0), "a loss is negative");
        }
}

/* Pairs have no panels beside them. */
static void compare(const xf_kernels *kernels, int first, results *r)
{
    xf_panel *p = now.panel;
    xf_pairs pairs;
    memset(&pairs, 0, sizeof pairs);
    pairs.scale = wanted.scale;
    kernels->compare(now.x, now.q, p, &pairs);
    kernels->compare_gradient(wanted.towards, now.x, now.q, p, &pairs, now.out);
    for (int i = 0; i < p->rows; i++) {
        for (int j = 0; j < 3; j++) {
            r->number[j][first + i] = pairs.divergence[j][i];
            expect(!(pairs.divergence[j][i] < 0), "a divergence of logits is negative");
        }
        r->number[3][first + i] = pairs.loss[0][i];
        r->number[4][first + i] = pairs.loss[1][i];
        r->number[5][first + i] = pairs.change[i];
        r->number[6][first + i] = pairs.log_ratio[i];
    }
}

static void call(const xf_kernels *kernels, int first, results *r)
{
    xf_panel *p = now.panel;
    xf_target t = wanted.target;
    t.dense = wanted.dense ? now.q : NULL;
    const xf_out *out = wanted.writes ? now.out : NULL;
    switch (wanted.what) {
    case LOSS:
        kernels->softmax_loss(now.x, &t, p, out, now.count);
        if (out)
            kernels->softmax_gradient(now.x, &t, p, out, now.count);
        break;
    case SOFTMAX:
        kernels->softmax(now.x, p, out, now.count, wanted.logarithm);
        break;
    case LOGSUMEXP:
        kernels->logsumexp(now.x, p, NULL, now.count);
        break;
    case SHARDS:
        kernels->shard_statistics(now.x, p, now.shard, now.count);
        break;
    case LOG_LOSS:
        kernels->log_loss(now.x, &t, p);
        if (out)
            kernels->log_loss_gradient(now.x, &t, p, out);
        break;
    case SCORES:
        kernels->evaluate(now.x, p, wanted.from_logits, now.scores, now.count);
        break;
    default:
        compare(kernels, first, r);
    }
    take_numbers(first, r);
    if (wanted.what == SHARDS) {
        choose_shard_factors(first);
        kernels->shard_gradient(now.x, p, now.shard, out, now.count);
    }
}

static void draw_options(xf_type type)
{
    const xf_type real = type == XF_F64 ? XF_F64 : XF_F32;
    const unsigned flags = byte(), options = byte();
    const primitive what = wanted.what;
    const bool weighs = what == LOSS || what == LOG_LOSS;
    wanted.from_logits = what == SCORES ? flags & 1 : what != LOG_LOSS;
    wanted.writes = what == SOFTMAX || what == SHARDS || what == PAIRS || (weighs && flags & 2);
    wanted.in_place = wanted.writes && what != PAIRS && flags & 4;
    wanted.logarithm = flags & 8;
    wanted.predicted = flags & 16;
    wanted.ties = (xf_ties)below(3);
    wanted.towards = (xf_towards)below(3);
    wanted.scale = flags & 32 ? 1 : 4 * unit() + 0.01;
    wanted.target.scale = 1;
    if (weighs && options & 1) {
        static const double smoothings[] = {0.1, 1, 1e-6, 0.5};
        const double eps = smoothings[below(4)];
        wanted.target.scale = 1 - eps;
        wanted.target.offset = eps / (double)classes;
    }
    wanted.dense = weighs && options & 2;
    if (weighs && options & 4) {
        char *w = place(&arrays[WEIGHT], classes * size_of(real));
        for (ptrdiff_t j = 0; j < classes; j++)
            write_number(w + j * size_of(real), real, next_random() & 7 ? 4 * unit() : 0);
        wanted.target.class_weight = w;
    }
    wanted.z_loss = what == LOSS && options & 8 ? unit() : 0;
    wanted.gradient_scale = options & 16 ? 1 : unit();
    for (int i = 0; i < rows; i++) {
        const uint64_t row = next_random() >> 16;
        wanted.weight[i] = row & 1 ? 1 : row & 2 ? 4 * unit() : row & 4 ? 0 : 1;
        wanted.label[i] = wanted.dense ? -1 : any(classes);
        wanted.own[i] = wanted.dense ? 0 : wanted.target.scale;
        if (!wanted.dense && (row & 24) == 24) { /* ignored */
            wanted.label[i] = -1;
            wanted.own[i] = 0;
            wanted.weight[i] = -1;
        }
    }
}

static void panel_case(primitive what, xf_type type)
{
    memset(&wanted, 0, sizeof wanted);
    wanted.what = what;
    draw_options(type);
    draw_rows(&arrays[X], type, wanted.from_logits ? LOGITS : PROBABILITIES);
    if (what == PAIRS)
        draw_rows(&arrays[Q], type, LOGITS);
    else if (wanted.dense)
        draw_rows(&arrays[Q], (xf_type)below(5), PROBABILITIES);
    arrays[OUT].type = type;
    array *written = &arrays[wanted.in_place ? X : OUT];
    for (int try = 0; try <= set_count; try++) {
        results *r = &all[try > 0];
        begin(r);
        xf_isa_choose(sets[try % set_count]);
        const xf_kernels *kernels = xf_isa_kernels(type == XF_F64 ? XF_F64 : XF_F32);
        const ptrdiff_t band = band_bytes(kernels->block);
        lay(&arrays[X], false);
        fill(&arrays[X]);
        if (wanted.dense || what == PAIRS) {
            lay(&arrays[Q], false);
            fill(&arrays[Q]);
        }
        lay(&arrays[OUT], false);
        memcpy(written->before, written->first, (size_t)written->bytes);
        poison(true);
        poison_bands(band, true);
        const bool alone = what == LOG_LOSS || what == PAIRS || !wanted.from_logits ||
                           arrays[X].step == size_of(type);
        for (int first = 0; first < rows;) {
            const int most = alone ? 1 : 1 + (int)any(XF_TOGETHER);
            const int end = cut(first, most, (int)(kernels->block / 32), band);
            call(kernels, first, r);
            first = end;
        }
        poison_bands(band, false);
        poison(false);
        if (wanted.writes)
            take_written(written, r->out);
        if (try > 0)
            expect_same(type, wanted.writes ? rows * classes : 0);
    }
}

/* --- blocks ------------------------------------------------------------------------------------- */

static xf_band band_of(const array *a)
{
    return (xf_band){a->row[0], rows > 1 ? a->row[1] - a->row[0] : 0, a->step, a->type};
}

/* A block of elements, each argument or a row of the divergences. */
static void block_case(const xf_kernels *k, xf_type real, unsigned what)
{
    const ptrdiff_t item = size_of(real);
    xf_band of[2];
    xf_binary b = {0};
    static _Alignas(64) char scratch[XF_DIVERGENCE_BYTES];
    const unsigned options = byte();
    const int which = (int)below(4);
    const xf_divergence kind = (xf_divergence)below(4);
    const xf_type half = options & 1 ? XF_F16 : XF_BF16;
    const ptrdiff_t n = classes < k->block ? classes : k->block;
    char *x = NULL, *y = NULL, *w = NULL, *to = NULL;
    ptrdiff_t wide = item;
    if (what < 2) {
        const xf_type type =
            real == XF_F64 ? XF_F64 : (xf_type[]){XF_F32, XF_F16, XF_BF16}[below(3)];
        for (int i = 0; i < 2; i++)
            draw_rows(&arrays[i], type, PROBABILITIES);
    } else {
        const bool narrows = what == 5;
        const bool widens = what == 4;
        if ((narrows || widens) && real == XF_F64)
            return;
        wide = narrows ? 2 : item;
        const ptrdiff_t read = widens ? 2 : item;
        const double spread = options & 4 ? 2000 : 20;
        const unsigned specials = options & 8 ? byte() : 0;
        x = place(&arrays[X], n * read);
        y = place(&arrays[Q], n * item);
        w = place(&arrays[WEIGHT], n * item);
        to = place(&arrays[OUT], n * wide);
        for (ptrdiff_t j = 0; j < n; j++) {
            const bool logit = what != 2 || options & 2;
            write_number(x + j * read, widens ? half : real,
                         draw(logit ? LOGITS : PROBABILITIES, spread, specials));
            write_number(y + j * item, real, options & 16 ? next_random() & 1 : unit());
            write_number(w + j * item, real, 4 * unit());
        }
        b = (xf_binary){.x = x,
                        .label = y,
                        .pos_weight = options & 32 ? w : NULL,
                        .weight = options & 64 ? w : NULL,
                        .gradient = to,
                        .n = n,
                        .label_smoothing = options & 128 ? 0.1 : 0,
                        .gradient_scale = 0.5,
                        .from_logits = (options & 2) != 0};
    }
    for (int s = 0; s < set_count; s++) {
        xf_isa_choose(sets[s]);
        const xf_kernels *kernels = xf_isa_kernels(real);
        results *r = &all[s > 0];
        begin(r);
        for (int i = 0; i < 2 && what < 2; i++) {
            lay(&arrays[i], true);
            fill(&arrays[i]);
            of[i] = band_of(&arrays[i]);
        }
        if (to)
            memset(to, CANARY, (size_t)arrays[OUT].bytes);
        poison(true);
        if (what < 2) {
            const bool pairs = kind == XF_KL || kind == XF_JS;
            kernels->divergence(kind, options & 1, &of[0], pairs ? &of[1] : NULL, rows, classes,
                                r->number[0], scratch);
            for (int i = 0; i < rows; i++)
                expect(kind == XF_MASS || kind == XF_ENTROPY || !(options & 1) ||
                           !(r->number[0][i] < 0),
                       "a divergence is negative");
        } else if (what == 2)
            r->number[0][0] = kernels->binary(&b, &r->valid);
        else if (what == 3)
            kernels->terms((xf_term)which, x, y, n, to);
        else if (what == 4)
            kernels->widen(x, half, n, to);
        else if (what == 5)
            kernels->narrow(x, n, to, half);
        else if (what == 6)
            kernels->elementwise(which, x, to, n);
        poison(false);
        if (to)
            memcpy(r->out, to, (size_t)arrays[OUT].bytes);
        if (s > 0)
            expect_same(what == 5 ? half : real, to ? n : 0);
    }
}

static void attempt(const uint8_t *data, size_t size)
{
    static const ptrdiff_t lengths[] = {1,    2,    7,    8,    9,    15,   16,   17,    33,   64,
                                        100,  127,  128,  129,  255,  257,  511,  512,   513,  1000,
                                        1023, 1025, 2047, 2049, 4095, 4097, 8193, 16385, 30000};
    static const primitive panel_cases[] = {LOSS,   LOSS,     SOFTMAX, LOGSUMEXP, SHARDS,
                                            SHARDS, LOG_LOSS, PAIRS,   SCORES};
    enum { PANEL_CASES = sizeof panel_cases / sizeof *panel_cases, BLOCK_CASES = 7 };
    input.at = data;
    input.end = data + size;
    input.random = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < size; i++)
        input.random = (input.random ^ data[i]) * 0x100000001b3;
    input.random |= 1;
    const unsigned what = byte() % (PANEL_CASES + BLOCK_CASES);
    const xf_type type = (xf_type)below(4), real = type == XF_F64 ? XF_F64 : XF_F32;
    xf_isa_choose(sets[0]);
    const xf_kernels *k = xf_isa_kernels(real);
    const ptrdiff_t lanes = k->block / 32;
    classes = byte() & 1 ? lengths[below(sizeof lengths / sizeof *lengths)] : 1 + below(200);
    const ptrdiff_t fit = (byte() & 7 ? MOST_ELEMENTS / 8 : MOST_ELEMENTS) / classes;
    const ptrdiff_t most = what < PANEL_CASES ? MOST_ROWS : lanes;
    rows = 1 + (int)below(fit < 1 ? 1 : fit < most ? fit : most);
    if (rows > lanes && byte() & 1)
        rows -= rows % (int)lanes;
    for (int i = 0; i < ARRAYS; i++) {
        arrays[i].first = arrays[i].memory;
        arrays[i].bytes = 0;
    }
    if (what < PANEL_CASES)
        panel_case(panel_cases[what], type);
    else
        block_case(k, real, what - PANEL_CASES);
}

/* rows SECONDS SEED [first] [count]: input number n is made from SEED and n alone, and its number is
   said where it breaks something, so that `rows 0 SEED n 1` tries it again. */
static unsigned long long number;

static void say_number(void) { fprintf(stderr, "input %llu\n", number); }

static void on_signal(int signal)
{
    say_number();
    (void)signal;
    _exit(1);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fputs("usage: rows SECONDS SEED [FIRST [COUNT]]\n", stderr);
        return 2;
    }
    const double seconds = atof(argv[1]);
    const uint64_t seed = strtoull(argv[2], NULL, 10);
    number = argc > 3 ? strtoull(argv[3], NULL, 10) : 0;
    const uint64_t count = argc > 4 ? strtoull(argv[4], NULL, 10) : UINT64_MAX, first = number;
    make_arrays();
    for (int i = 0; i < xf_isa_count() && set_count < 8; i++) /* base has bits of its own */
        if (xf_isa_runs(i) && strcmp(xf_isa_name(i), "base") != 0)
            sets[set_count++] = i;
    expect(set_count > 0, "no instruction set to try");
    __sanitizer_set_death_callback(say_number);
    signal(SIGABRT, on_signal);
    const time_t end = time(NULL) + (time_t)seconds;
    for (; number - first < count && (seconds == 0 || time(NULL) < end); number++) {
        uint8_t data[96];
        input.random = (seed * 0x9e3779b97f4a7c15 ^ number * 0xd1b54a32d192ed03) | 1;
        for (size_t i = 0; i < sizeof data; i++)
            data[i] = (uint8_t)(next_random() >> 32);
        attempt(data, sizeof data);
    }
    printf("%llu inputs, nothing found\n", number - (unsigned long long)first);
    return 0;
}
