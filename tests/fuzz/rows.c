/* A fuzzer of the row primitives: an input chooses a primitive, shapes, layouts and numbers. Every
   array ends or begins at a page that may not be touched. The instruction sets that share their bits
   must agree, no loss may be negative, and nothing but the result may be written. */
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

#define MOST_ELEMENTS (1 << 15)
#define ARRAY_BYTES (1 << 21) /* of all rows of an array, their gaps among them */
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
    a->first = a->memory + (byte() & 1 ? 0 : ARRAY_BYTES - bytes);
    return a->first;
}

/* A page on each side of the array, where it has one. */
static void poison(array *a, bool on)
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

static void keep(array *a) { memcpy(a->before, a->first, (size_t)a->bytes); }

/* --- numbers ------------------------------------------------------------------------------------ */

static void write_number(char *p, xf_type type, double a)
{
    const float f = (float)a;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t half = (uint16_t)(bits >> 16); /* bfloat16, cut */
    if (type == XF_F64)
        memcpy(p, &a, sizeof a);
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

static ptrdiff_t size_of(xf_type type) { return type == XF_F64 ? 8 : type == XF_F32 ? 4 : 2; }

/* Lays out and fills rows: one behind the other, with gaps, side by side, or backwards. */
static void make_rows(array *a, xf_rows *r, int rows, ptrdiff_t classes, xf_type type, numbers kind)
{
    static const double spreads[] = {0, 1, 8, 40, 200, 2000, 1e5, 1e30};
    const ptrdiff_t item = size_of(type), gap = below(5);
    const unsigned way = byte() % 5;
    ptrdiff_t step = item, apart = (classes + gap) * item;
    if (way == 1) { /* side by side */
        step = (rows + gap) * item;
        apart = item;
    } else if (way == 2) {
        step = 2 * item;
        apart = classes * step + gap * item;
    } else if (way == 3) {
        step = -item;
    } else if (way == 4) {
        apart = -apart;
    }
    const ptrdiff_t low =
        (step < 0 ? (classes - 1) * step : 0) + (apart < 0 ? (rows - 1) * apart : 0);
    const ptrdiff_t high =
        (step > 0 ? (classes - 1) * step : 0) + (apart > 0 ? (rows - 1) * apart : 0) + item;
    char *first = place(a, high - low) - low;
    memset(a->first, CANARY, (size_t)a->bytes);
    r->step = step;
    r->type = type;
    for (int i = 0; i < XF_PANEL; i++)
        r->row[i] = first + (i < rows ? i : 0) * apart;
    const double spread = spreads[below(8)];
    const unsigned specials = byte() & 1 ? byte() : 0;
    for (int i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < classes; j++)
            write_number((char *)r->row[i] + j * step, type, draw(kind, spread, specials));
    keep(a);
}

/* --- what is tried ------------------------------------------------------------------------------ */

static int sets[8], set_count;
static xf_panel panel;
static xf_work work;
static _Alignas(64) unsigned char band[8 * XF_BLOCK_BYTES * XF_PANEL];
static int rows;
static ptrdiff_t classes;

typedef struct {
    double numbers[2 * XF_PANEL];
    char out[ARRAY_BYTES];
    bool valid;
} results;

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

/* A row to write is where a row to read is, or the rows of another array in the same places. */
static void make_out(xf_out *out, const xf_rows *x, bool in_place)
{
    array *a = &arrays[OUT];
    if (!in_place) {
        a->bytes = arrays[X].bytes;
        place(a, a->bytes);
        memset(a->first, CANARY, (size_t)a->bytes);
        keep(a);
    }
    for (int i = 0; i < XF_PANEL; i++)
        out->row[i] = in_place ? (char *)x->row[i] : a->first + (x->row[i] - arrays[X].first);
    out->step = x->step;
    out->type = x->type;
    out->stream = !in_place && byte() & 1;
}

/* Only the elements of the result may have changed; those are kept to be compared. */
static void take_out(const xf_out *out, array *a, results *r)
{
    memset(r->out, 0, (size_t)a->bytes);
    for (int i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < classes; j++) {
            char *p = out->row[i] + j * out->step;
            const size_t item = (size_t)size_of(out->type);
            memcpy(r->out + (p - a->first), p, item);
            memcpy(p, a->before + (p - a->first), item);
        }
    expect(memcmp(a->first, a->before, (size_t)a->bytes) == 0, "a gap was written to");
}

static void set_panel(const xf_panel *given)
{
    memcpy(&panel, given, offsetof(xf_panel, loss));
    panel.work = &work;
    panel.band = band;
}

static void softmax_case(const xf_kernels *k, xf_type type, unsigned what)
{
    (void)k;
    xf_rows x, dense;
    xf_out out;
    xf_target t = {.scale = 1};
    const bool in_place = byte() & 1, gradient = byte() & 1, logarithm = byte() & 1;
    const bool from_logits = what != 2;
    make_rows(&arrays[X], &x, rows, classes, type, from_logits ? LOGITS : PROBABILITIES);
    make_out(&out, &x, in_place);
    array *written = &arrays[in_place ? X : OUT];
    xf_panel given;
    memset(&given, 0, sizeof given);
    if (what != 1) {
        const unsigned options = byte();
        if (options & 1) {
            static const double smoothings[] = {0.1, 1, 1e-6, 0.5};
            const double eps = smoothings[below(4)];
            t.scale = 1 - eps;
            t.offset = eps / (double)classes;
        }
        if (options & 2) {
            make_rows(&arrays[Q], &dense, rows, classes, (xf_type)below(4), PROBABILITIES);
            t.dense = &dense;
        }
        if (options & 4) {
            const xf_type real = type == XF_F64 ? XF_F64 : XF_F32;
            char *w = place(&arrays[WEIGHT], classes * size_of(real));
            for (ptrdiff_t j = 0; j < classes; j++)
                write_number(w + j * size_of(real), real, next_random() & 7 ? 4 * unit() : 0);
            t.class_weight = w;
        }
        given.z_loss = from_logits && options & 8 ? unit() : 0;
        given.gradient_scale = options & 16 ? 1 : unit();
        for (int i = 0; i < rows; i++) {
            const unsigned row = byte();
            given.weight[i] = row & 1 ? 1 : row & 2 ? 4 * unit() : row & 4 ? 0 : 1;
            given.label[i] = t.dense ? -1 : below(classes);
            given.own[i] = t.dense ? 0 : t.scale;
            if (!t.dense && (row & 24) == 24) { /* ignored */
                given.label[i] = -1;
                given.own[i] = 0;
                given.weight[i] = -1;
            }
        }
        for (int i = rows; i < XF_PANEL; i++)
            given.label[i] = -1;
    }
    given.rows = rows;
    given.classes = classes;
    given.wants_gradient = gradient;
    static results all[2];
    for (int s = 0; s < set_count; s++) {
        xf_isa_choose(sets[s]);
        const xf_kernels *kernels = xf_isa_kernels(type == XF_F64 ? XF_F64 : XF_F32);
        results *r = &all[s > 0];
        set_panel(&given);
        for (int i = 0; i < ARRAYS; i++)
            poison(&arrays[i], true);
        const xf_out *to = gradient ? &out : NULL;
        if (what == 0)
            kernels->softmax_loss(&x, &t, &panel, to, 1);
        else if (what == 1 && gradient)
            kernels->softmax(&x, &panel, &out, 1, logarithm);
        else if (what == 1)
            kernels->logsumexp(&x, &panel, NULL, 1);
        else
            kernels->log_loss(&x, &t, &panel);
        if (what != 1 && gradient) {
            if (what == 0)
                kernels->softmax_gradient(&x, &t, &panel, &out, 1);
            else
                kernels->log_loss_gradient(&x, &t, &panel, &out);
        }
        for (int i = 0; i < ARRAYS; i++)
            poison(&arrays[i], false);
        memset(r->numbers, 0, sizeof r->numbers);
        for (int i = 0; i < rows; i++) {
            if (what != 1)
                r->numbers[i] = panel.loss[i];
            else if (!gradient)
                r->numbers[i] = panel.lse[i];
            if (what == 0 && !t.dense) /* whose numbers may be negative here */
                expect(!(panel.loss[i] < 0), "a loss is negative");
        }
        if (gradient)
            take_out(&out, written, r);
        if (s == 0)
            continue;
        for (int i = 0; i < rows; i++)
            expect(same_numbers(&all[0].numbers[i], &all[1].numbers[i], XF_F64),
                   "two sets differ in a loss");
        for (int i = 0; i < rows && gradient; i++)
            for (ptrdiff_t j = 0; j < classes; j++) {
                const ptrdiff_t at = out.row[i] + j * out.step - written->first;
                expect(same_numbers(all[0].out + at, all[1].out + at, type),
                       "two sets differ in what they write");
            }
    }
}

static void expect_same(const double *a, const double *b)
{
    for (int i = 0; i < rows; i++)
        expect(same_numbers(a + i, b + i, XF_F64), "two sets differ in a number of a row");
}

/* Labels, or none, and weights. */
static void make_panel(xf_panel *given)
{
    memset(given, 0, sizeof *given);
    given->rows = rows;
    given->classes = classes;
    given->gradient_scale = unit();
    for (int i = 0; i < XF_PANEL; i++) {
        const unsigned row = byte();
        given->label[i] = i < rows && row & 7 ? below(classes) : -1;
        given->weight[i] = (row & 56) == 0 ? -1 : row & 8 ? 1 : unit();
    }
}

static void evaluate_case(xf_type type)
{
    xf_rows x;
    xf_panel given;
    xf_scores all[2];
    const bool from_logits = byte() & 1, predicted = byte() & 1;
    const xf_ties ties = (xf_ties)below(3);
    make_rows(&arrays[X], &x, rows, classes, type, from_logits ? LOGITS : PROBABILITIES);
    make_panel(&given);
    for (int s = 0; s < set_count; s++) {
        xf_isa_choose(sets[s]);
        xf_scores *r = &all[s > 0], *first = &all[0];
        memset(r, 0, sizeof *r);
        r->ties = ties;
        r->wants_predicted = predicted;
        set_panel(&given);
        poison(&arrays[X], true);
        xf_isa_kernels(type == XF_F64 ? XF_F64 : XF_F32)->evaluate(&x, &panel, from_logits, r, 1);
        poison(&arrays[X], false);
        if (s == 0)
            continue;
        expect_same(first->loss, r->loss);
        if (from_logits)
            expect_same(first->lse, r->lse);
        expect_same(first->entropy, r->entropy);
        expect_same(first->brier, r->brier);
        expect_same(first->confidence, r->confidence);
        for (int i = 0; i < rows; i++) {
            expect(given.label[i] < 0 || first->rank[i] == r->rank[i], "two sets differ in a rank");
            expect(!predicted || first->predicted[i] == r->predicted[i],
                   "two sets differ in a class");
        }
    }
}

static void compare_case(xf_type type)
{
    xf_rows a, b;
    xf_out out;
    xf_panel given;
    static xf_pairs pairs[2];
    static results written[2];
    const xf_towards towards = (xf_towards)below(3);
    const double scale = byte() & 1 ? 1 : 4 * unit() + 0.01;
    make_rows(&arrays[X], &a, rows, classes, type, LOGITS);
    make_rows(&arrays[Q], &b, rows, classes, type, LOGITS);
    make_out(&out, &a, false);
    make_panel(&given);
    for (int s = 0; s < set_count; s++) {
        xf_isa_choose(sets[s]);
        const xf_kernels *kernels = xf_isa_kernels(type == XF_F64 ? XF_F64 : XF_F32);
        xf_pairs *r = &pairs[s > 0], *first = &pairs[0];
        memset(r, 0, sizeof *r);
        r->scale = scale;
        set_panel(&given);
        for (int i = 0; i < ARRAYS; i++)
            poison(&arrays[i], true);
        kernels->compare(&a, &b, &panel, r);
        kernels->compare_gradient(towards, &a, &b, &panel, r, &out);
        for (int i = 0; i < ARRAYS; i++)
            poison(&arrays[i], false);
        take_out(&out, &arrays[OUT], &written[s > 0]);
        for (int k = 0; k < 3; k++)
            for (int i = 0; i < rows; i++)
                expect(!(r->divergence[k][i] < 0), "a divergence of logits is negative");
        if (s == 0)
            continue;
        for (int k = 0; k < 3; k++)
            expect_same(first->divergence[k], r->divergence[k]);
        expect_same(first->loss[0], r->loss[0]);
        expect_same(first->loss[1], r->loss[1]);
        expect_same(first->change, r->change);
        expect_same(first->log_ratio, r->log_ratio);
        for (int i = 0; i < rows; i++)
            for (ptrdiff_t j = 0; j < classes; j++) {
                const ptrdiff_t at = out.row[i] + j * out.step - arrays[OUT].first;
                expect(same_numbers(written[0].out + at, written[1].out + at, type),
                       "two sets differ in a gradient of pairs");
            }
    }
}

static xf_band band_of(const xf_rows *x)
{
    return (xf_band){x->row[0], rows > 1 ? x->row[1] - x->row[0] : 0, x->step, x->type};
}

/* A block of elements, each argument or a row of the divergences. */
static void block_case(const xf_kernels *k, xf_type real, unsigned what)
{
    static results all[2];
    const ptrdiff_t item = size_of(real);
    xf_rows p, q;
    xf_band bands[2];
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
        make_rows(&arrays[X], &p, rows, classes, type, PROBABILITIES);
        make_rows(&arrays[Q], &q, rows, classes, type, PROBABILITIES);
        bands[0] = band_of(&p);
        bands[1] = band_of(&q);
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
        memset(r->numbers, 0, sizeof r->numbers);
        r->valid = true;
        if (to)
            memset(to, CANARY, (size_t)arrays[OUT].bytes);
        for (int i = 0; i < ARRAYS; i++)
            poison(&arrays[i], true);
        if (what < 2) {
            const bool pairs = kind == XF_KL || kind == XF_JS;
            kernels->divergence(kind, options & 1, &bands[0], pairs ? &bands[1] : NULL, rows,
                                classes, r->numbers, scratch);
            for (int i = 0; i < rows; i++)
                expect(kind == XF_MASS || kind == XF_ENTROPY || !(options & 1) ||
                           !(r->numbers[i] < 0),
                       "a divergence is negative");
        } else if (what == 2)
            r->numbers[0] = kernels->binary(&b, &r->valid);
        else if (what == 3)
            kernels->terms((xf_term)which, x, y, n, to);
        else if (what == 4)
            kernels->widen(x, half, n, to);
        else if (what == 5)
            kernels->narrow(x, n, to, half);
        else if (what == 6)
            kernels->elementwise(which, x, to, n);
        for (int i = 0; i < ARRAYS; i++)
            poison(&arrays[i], false);
        if (to)
            memcpy(r->out, to, (size_t)arrays[OUT].bytes);
        if (s == 0)
            continue;
        expect(all[0].valid == all[1].valid, "two sets differ in what is valid");
        for (int i = 0; i < rows; i++)
            expect(same_numbers(&all[0].numbers[i], &all[1].numbers[i], XF_F64),
                   "two sets differ in a sum");
        const xf_type type = what == 5 ? half : real;
        for (ptrdiff_t j = 0; j < n && to; j++)
            expect(same_numbers(all[0].out + j * wide, all[1].out + j * wide, type),
                   "two sets differ in what they write");
    }
}

static void attempt(const uint8_t *data, size_t size)
{
    static const ptrdiff_t lengths[] = {1,    2,    7,    8,    9,    15,   16,   17,    33,   64,
                                        100,  127,  128,  129,  255,  257,  511,  512,   513,  1000,
                                        1023, 1025, 2047, 2049, 4095, 4097, 8193, 16385, 30000};
    input.at = data;
    input.end = data + size;
    input.random = 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < size; i++)
        input.random = (input.random ^ data[i]) * 0x100000001b3;
    input.random |= 1;
    const unsigned what = byte() % 12;
    const xf_type type = (xf_type)below(4), real = type == XF_F64 ? XF_F64 : XF_F32;
    xf_isa_choose(sets[0]);
    const xf_kernels *k = xf_isa_kernels(real);
    const ptrdiff_t lanes = k->block / 32;
    classes = byte() & 1 ? lengths[below(sizeof lengths / sizeof *lengths)] : 1 + below(200);
    ptrdiff_t most = MOST_ELEMENTS / classes;
    rows = 1 + (int)below(most < 1 ? 1 : most < lanes ? most : lanes);
    for (int i = 0; i < ARRAYS; i++) {
        arrays[i].first = arrays[i].memory;
        arrays[i].bytes = ARRAY_BYTES;
    }
    if (what < 3)
        softmax_case(k, type, what);
    else if (what < 10)
        block_case(k, real, what - 3);
    else if (what == 10)
        evaluate_case(type);
    else
        compare_case(type);
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
