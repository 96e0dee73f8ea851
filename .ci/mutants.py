"""Change one thing in the sources at a time, build, and see whether the tests notice.

    python .ci/mutants.py [WORD...]     all, or those whose file or reason has a WORD in it

Everything happens in a copy, in an environment of its own under build/mutants. One instruction set
is built, avx2 unless a change is to another's file, without optimisation beyond -O1. The tests
named first run first; a change survives only if all pass. It is then printed, and the exit
code is 1: a test is missing, or the change alters nothing and wants to go from this list. A line
that the sources do not have, or have twice, stops the run.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "mutants"
TREE, TESTS, VENV = WORK / "tree", WORK / "tests", WORK / "venv"
PYTHON = VENV / "bin" / "python"
# What starts processes or measures memory takes long and computes nothing of its own: left out, but
# where a change names it.
SLOW = ("cli", "memory", "stack", "threads")
MOST_SECONDS = 900  # for one run of the tests: a change may make a loop endless


@dataclass(frozen=True)
class Mutant:
    """In a file, `old` becomes `new`; `tests` are those that are most likely to see it."""

    file: str
    old: str
    new: str
    why: str
    tests: str = "bits"

    @property
    def isa(self) -> str:
        """The instruction set to build."""
        found = re.fullmatch(r".*vec_(\w+)\.h", self.file)
        return found[1] if found else "avx2"

    def __str__(self) -> str:
        """Name it, for a person."""
        return f"{self.file}: {self.why}"


LAYOUT, CROSS, BINARY = (
    "src/loops/layout.pxi",
    "src/loops/cross_entropy.pxi",
    "src/loops/binary.pxi",
)
CHECKS, POOL, HALF = "xentfast/_checks.py", "src/pool.c", "src/simd/half.h"
LOG_LOSS, SIGMOID = "src/rows/log_loss.h", "src/rows/sigmoid.h"
STATISTICS, SOFTMAX = "src/rows/statistics.h", "src/rows/softmax.h"
BANDS = "src/rows/bands.h"
EVALUATE, PAIRS = "src/rows/evaluate.h", "src/rows/pairs.h"
HESSIAN, ELEMENTWISE = "src/rows/hessian.h", "src/rows/elementwise.h"
EXP_ROW, DIVERGENCE = "src/simd/exp_row.h", "src/rows/divergence.h"
SHARDS, SHARD_ROWS = "xentfast/_shards.py", "src/rows/shards.h"
SPARSE, SUMS = "src/rows/sparse.h", "src/rows/sums.h"
AVX2, VEC = "src/simd/vec_avx2.h", "src/simd/vec.h"

MUTANTS = (
    # --- where rows lie ---------------------------------------------------------------------------
    Mutant(
        LAYOUT,
        "if joined and a.data and a.stride",
        "if joined and j == 0 and a.stride",
        "axes merged though another array walks them otherwise",
    ),
    Mutant(LAYOUT, "if size[i] == 1:", "if size[i] <= 2:", "an axis of length 2 dropped"),
    Mutant(
        LAYOUT,
        "        row //= shape.size[axis]\n",
        "        row //= shape.size[0]\n",
        "the wrong axis' length, where there are three",
    ),
    Mutant(
        LAYOUT,
        "    if at + XF_PANEL <= run:",
        "    if at + n - 1 <= run:",
        "a panel runs past the end of an axis by one",
    ),
    Mutant(
        LAYOUT,
        "(classes + 15) // 16 * 16",
        "classes",
        "a band has no place for the end of its last tile",
        "memory",
    ),
    Mutant(
        LAYOUT,
        "    if kind_ == I64 or kind_ == U64:",
        "    if kind_ == I64:",
        "labels of 64 bits without a sign read as 8 bits",
    ),
    Mutant(
        LAYOUT,
        "read_as[uint16_t](0, p, stride, n, to)",
        "read_as[int16_t](0, p, stride, n, to)",
        "labels of 16 bits without a sign read with one",
    ),
    Mutant(
        LAYOUT,
        "convert_as[uint32_t](0,",
        "convert_as[int32_t](0,",
        "weights of 32 bits without a sign read with one",
    ),
    Mutant(
        LAYOUT,
        "f32_of_f16(half) if kind_ == F16 else f32_of_bf16(half)",
        "f32_of_f16(half) if kind_ == BF16 else f32_of_bf16(half)",
        "the two kinds of 16 bits swapped where they are gathered",
        "half",
    ),
    Mutant(
        LAYOUT,
        "            sums[i] += sums[i + step]\n",
        "            sums[i] += sums[i + 1]\n",
        "the tree of the chunks adds a neighbour twice",
    ),
    Mutant(
        LAYOUT,
        "    CHUNK_ELEMENTS = 32768",
        "    CHUNK_ELEMENTS = 16384",
        "another order of the sum of the rows",
        "bits",
    ),
    # --- panels that are treated together ---------------------------------------------------------
    Mutant(
        BANDS,
        "*most = v_max(high[1], high[0]);",
        "*most = high[0];",
        "the maximum of every other class",
    ),
    Mutant(
        BANDS,
        "*least = v_min(low[1], low[0]);",
        "*least = low[0];",
        "the minimum of every other class",
    ),
    Mutant(
        BANDS,
        "return classes - j0 < SEGMENT ? classes - j0 : SEGMENT;",
        "return classes < SEGMENT ? classes : SEGMENT;",
        "the last segment is as long as the others",
    ),
    Mutant(
        BANDS,
        "from[k] = x[k].row[0] + j0 * step;",
        "from[k] = x[k].row[0];",
        "the first classes are read again and again",
    ),
    Mutant(
        BANDS,
        "to[k] = (real *)p[k].band + at * LANES;",
        "to[k] = (real *)p[k].band;",
        "the parts of a segment are read over each other",
    ),
    Mutant(
        BANDS,
        "most[k] = v_set1(-INFINITY);",
        "most[k] = v_zero();",
        "no maximum is below 0",
    ),
    Mutant(
        BANDS,
        "tile_range((real *)p[k].band + j * LANES, length,",
        "tile_range((real *)p[k].band, length,",
        "the range of a segment is that of its first part",
    ),
    Mutant(
        BANDS,
        "rows[k] * size_of(type) == 64 &&",
        "rows[k] == LANES &&",
        "numbers of 16 bits go past the caches as they are computed",
        "half",
    ),
    Mutant(
        BANDS,
        "write_class(line, type, rows[k], a);",
        "write_class(line, type, LANES, a);",
        "what lies behind the last row is written",
    ),
    # --- cross-entropy ----------------------------------------------------------------------------
    Mutant(
        CROSS,
        "        bad |= <uint64_t> p.label[i] >= <uint64_t> job.classes",
        "        bad |= <uint64_t> p.label[i] > <uint64_t> job.classes",
        "the first label beyond the classes is taken",
        "errors",
    ),
    Mutant(
        CROSS,
        "            p.own[i] *= by_class",
        "            p.own[i] = by_class",
        "class weights forget the smoothing",
    ),
    Mutant(
        CROSS,
        "            counts[i] *= by_class\n",
        "",
        "the mean does not divide by class weights",
    ),
    Mutant(
        CROSS,
        "        sums[(at + i) & 3] += values[i]",
        "        sums[i & 3] += values[i]",
        "the sums in four depend on how rows are cut into panels",
        "bits",
    ),
    Mutant(
        CROSS,
        "            p.label[i] = -1\n            p.own[i] = counts[i] = 0\n",
        "            p.label[i] = -1\n            p.own[i] = 0\n",
        "ignored rows count in the mean",
    ),
    Mutant(
        CROSS,
        "    target.offset = job.label_smoothing / job.classes",
        "    target.offset = job.label_smoothing / (job.classes + 1)",
        "the share of a class",
    ),
    Mutant(
        CROSS,
        "and apart(&views[2], &views[1]))",
        ")",
        "the short way writes a gradient over its labels",
        "errors",
    ),
    Mutant(
        CROSS,
        "if view.strides[axes - 1] != view.itemsize or (",
        "if (",
        "the short way takes classes that are apart",
    ),
    # --- binary cross-entropy ---------------------------------------------------------------------
    Mutant(
        BINARY,
        "first % run + n <= run",
        "first % run + n <= run + 1",
        "a block runs past the end of an axis by one",
    ),
    Mutant(
        BINARY,
        "        some = n if a.turned else run - (first + done) % run",
        "        some = n if a.turned else run",
        "gathering forgets where in an axis it begins",
    ),
    Mutant(
        BINARY,
        "if not 0 <= a < INFINITY:",
        "if not 0 <= a <= INFINITY:",
        "an infinite weight passes",
        "errors",
    ),
    Mutant(
        BINARY,
        "job.counting = mean and job.gradient.data",
        "job.counting = False",
        "the gradient of the mean is that of the sum",
    ),
    Mutant(
        SIGMOID,
        "v_lt(p, v_set1((real)0.25))",
        "v_lt(p, v_set1((real)0.75))",
        "log(1 - p) by the series where it is too short",
    ),
    Mutant(
        SIGMOID,
        "        s[c] = v_add(s[c], n < LANES ? v_fill_from(a, n, v_zero()) : a);",
        "        s[c] = v_add(s[c], a);",
        "the lanes behind the end count",
    ),
    Mutant(
        SIGMOID,
        "v_sub(v_mul(b, up), v_mul(a, down))",
        "v_sub(v_mul(b, up), v_mul(b, down))",
        "the gradient forgets the weight of the positive class",
    ),
    Mutant(
        SIGMOID,
        "        rest = v_fma(rest, share, half);",
        "        rest = v_sub(one, t);",
        "smoothing cancels for the other class",
    ),
    Mutant(
        SIGMOID,
        "v_le(v_zero(), t), v_le(t, one)",
        "v_lt(v_zero(), t), v_le(t, one)",
        "the label 0 is refused",
    ),
    Mutant(
        SIGMOID,
        "    vec line = v_add(product(a, v_max(zero, minus)), product(b, v_max(zero, x)));",
        "    vec line = v_add(v_mul(a, v_max(zero, minus)), v_mul(b, v_max(zero, x)));",
        "a label of 0 times an infinite logit",
        "special",
    ),
    # --- exponentials and their sums --------------------------------------------------------------
    Mutant(
        EXP_ROW,
        "#define LOWEST_FAST 88.0f",
        "#define LOWEST_FAST 89.5f",
        "the fast form taken beyond its reach",
    ),
    Mutant(
        EXP_ROW,
        "#define LOWEST_POWER -190",
        "#define LOWEST_POWER -100",
        "terms dropped that are not too small",
        "values",
    ),
    Mutant(
        EXP_ROW,
        "{0x1.55569ap-3f, 0x1.000874p-1f}",
        "{0x1.55569ap-3f, 0x1.000876p-1f}",
        "a coefficient in its last place",
    ),
    Mutant(
        EXP_ROW,
        "#define W_LOW 0x1.7f7d1cp-23f",
        "#define W_LOW 0x1.7f7d1cp-24f",
        "the second part of a cell's width, in float",
    ),
    Mutant(
        EXP_ROW,
        "#define W_LOW 0x1.ef35793c7673p-47",
        "#define W_LOW 0x1.ef35793c7673p-48",
        "the second part of a cell's width, in double",
    ),
    Mutant(
        EXP_ROW,
        "[16] = {\n    0x3f800000, 0x3f8b95c2",
        "[16] = {\n    0x3f800000, 0x3f8b95c3",
        "an entry of the table in its last place",
    ),
    Mutant(
        EXP_ROW,
        "        ALL(t[i] = v_fma(t[i], f->fit, t[i]))",
        "        ALL(t[i] = t[i])",
        "the maximum's place in its cell, across rows",
    ),
    Mutant(
        STATISTICS,
        "a->sum = (a->sum + a->held * EXP_ONE) *",
        "a->sum = a->sum *",
        "a maximum that is overtaken is forgotten",
    ),
    Mutant(
        STATISTICS,
        "((double)to - (double)from)",
        "((double)from - (double)to)",
        "a sign, where the maximum rises under dense labels",
    ),
    Mutant(
        STATISTICS,
        "a->general, r.most == m, NULL",
        "a->general, false, NULL",
        "a later term equal to the maximum is not held out",
    ),
    Mutant(
        STATISTICS,
        "if (watched && !v_all(v_lt(a, f->maximum)))",
        "if (watched && false)",
        "a maximum in the last lanes is not seen",
    ),
    Mutant(
        STATISTICS,
        "m - least <= LOWEST_FAST",
        "m - least <= 2 * LOWEST_FAST",
        "the fast form taken for all rows",
    ),
    Mutant(
        STATISTICS,
        "(real)(a.sum + (a.held - 1) * EXP_ONE)",
        "(real)(a.sum + a.held * EXP_ONE)",
        "the maximum's own term is in the sum",
    ),
    # --- softmax rows -----------------------------------------------------------------------------
    Mutant(
        SOFTMAX,
        "v_fma(v_neg(taken), s, g)",
        "v_fma(taken, s, g)",
        "a sign in the gradient at the label",
    ),
    Mutant(
        SOFTMAX,
        "pull = v_mul(v_add(zeta, zeta), lse);",
        "pull = v_mul(zeta, lse);",
        "half of the z-loss' gradient",
    ),
    Mutant(
        SOFTMAX,
        "share[i] = own[i] + (real)t->offset * w;",
        "share[i] = own[i];",
        "the label's share of the smoothing",
    ),
    Mutant(
        SOFTMAX,
        "            if (!(p[k].weight[i] > 0))\n                clear(",
        "            if (false)\n                clear(",
        "rows of no weight keep a gradient",
        "special",
    ),
    Mutant(
        SOFTMAX,
        "(real)(p->label[i] - first)",
        "(real)(p->label[i] - first - !p->label[i])",
        "a label that is the first class is written to no place",
    ),
    Mutant(
        SOFTMAX,
        "    const double e = x < m ? exp_of_fall(x, m) : 1;\n",
        "    const double e = 1;\n",
        "the gradient of a row that is very sure, and wrong",
    ),
    Mutant(
        SOFTMAX,
        "v_load_part(x, n), c, f), n);",
        "v_load_part(x, n), c, f), n > 1 ? n - 1 : n);",
        "the last class of a part is not written",
    ),
    # --- classes spread over workers --------------------------------------------------------------
    Mutant(
        SHARD_ROWS,
        "m == -INFINITY && held == held;",
        "m == -INFINITY;",
        "a nan in a shard of masked classes is passed over",
        "shards",
    ),
    Mutant(
        SHARD_ROWS,
        "p[k].label[i] < 0 ? -INFINITY : state(p + k, LABEL_LOGIT)[i]",
        "state(p + k, LABEL_LOGIT)[i]",
        "the label of another shard is taken for the first class",
        "shards",
    ),
    Mutant(
        SHARD_ROWS,
        "held + (m - m)",
        "held",
        "an infinite logit in a shard",
        "shards",
    ),
    Mutant(
        SHARD_ROWS,
        "if (!(s[k].maximum[i] > -INFINITY))",
        "if (false)",
        "a gradient of 0 times nan, in a row that is ignored",
        "shards",
    ),
    Mutant(
        SHARD_ROWS,
        "(real)s[k].own[i] : 0",
        "(real)s[k].scale[i] : 0",
        "the gradient at the label",
        "shards",
    ),
    Mutant(
        SHARDS,
        "np.where(top & ~held, s,",
        "np.where(top, s,",
        "of maxima in two shards both are left out of the sum",
        "shards",
    ),
    Mutant(
        SHARDS,
        "scale * ((e - 1) - rest + pull * e)",
        "scale * ((1 + pull) * e - (1 + rest))",
        "the gradient of a confident label loses its digits",
        "shards",
    ),
    Mutant(
        SHARDS,
        "    rest[(maximum == -np.inf) & (rest == rest)] = 0\n",
        "",
        "the numbers of ignored rows grow with the shards",
        "shards",
    ),
    Mutant(
        SHARDS,
        "    numbers[:, ignored.ravel()] = _IGNORED\n",
        "",
        "ignored rows count",
        "shards",
    ),
    # --- divergences ------------------------------------------------------------------------------
    Mutant(
        DIVERGENCE,
        "(row->count - 1) * row->held",
        "row->count * row->held",
        "the largest probability twice",
    ),
    Mutant(
        DIVERGENCE,
        "v_and(v_le(zero, x), v_le(x, top))",
        "v_le(x, top)",
        "a negative number in a distribution",
        "special",
    ),
    Mutant(
        DIVERGENCE,
        "row->valid && within(p, n, INFINITY) && (!q || within(q, n, INFINITY))",
        "row->valid && within(p, n, INFINITY)",
        "a negative number in the second distribution",
        "divergences",
    ),
    Mutant(
        DIVERGENCE,
        "rest[c] = v_add(rest[c], lost);",
        "rest[c] = rest[c];",
        "sums with rounding",
        "divergences",
    ),
    Mutant(
        DIVERGENCE,
        "v_fma(q, v_set1(row->ratio[1]), v_lost(q, ratio, y))",
        "v_lost(q, ratio, y)",
        "the ratio of the sums in one part",
        "divergences",
    ),
    Mutant(
        DIVERGENCE,
        "r_store(to[i + c] + j, m[c]);",
        "r_store(to[i + c] + j, m[0]);",
        "one row of a band is another",
        "divergences",
    ),
    # --- evaluation, models side by side, and the drop-ins ----------------------------------------
    Mutant(
        EVALUATE,
        "s->square[c] = v_fma(unit(e), e, s->square[c]);",
        "s->square[c] = v_add(e, s->square[c]);",
        "the sum of squares is the sum",
        "evaluate",
    ),
    Mutant(
        EVALUATE,
        "XF_HIGHEST_WINS ? at + (label >= j0) : 0",
        "XF_HIGHEST_WINS ? at : 0",
        "the label wins a tie with itself",
        "evaluate",
    ),
    Mutant(
        EVALUATE,
        "if (watched && !v_all(v_lt(at, f->maximum)))",
        "if (watched && false)",
        "a maximum in the last lanes is not seen",
        "evaluate",
    ),
    Mutant(
        EVALUATE,
        "score_block(x + j, length, f, r.most == m, label, AHEAD, &b);",
        "score_block(x + j, length, f, false, label, AHEAD, &b);",
        "a later term equal to the maximum is not held out",
        "evaluate",
    ),
    Mutant(
        EVALUATE,
        "logit < 0 ? bits + 1",
        "logit < 0 ? bits",
        "no number below a negative one",
        "evaluate",
    ),
    Mutant(
        EVALUATE,
        "last ? v_le(a, b) : v_lt(a, b)",
        "v_lt(a, b)",
        "the first of equal maxima for the last, across rows",
        "evaluate",
    ),
    Mutant(
        PAIRS,
        "difference(difference(a, b, &lost), f->shift, &lost_too)",
        "difference(difference(a, b, &lost), v_zero(), &lost_too)",
        "a shift of all logits is forgotten",
        "compare",
    ),
    Mutant(
        PAIRS,
        "v_drop(v_and(v_eq(t.p, zero), v_eq(t.q, zero)), t.u)",
        "t.u",
        "a class that both models mask",
        "compare",
    ),
    Mutant(
        PAIRS,
        "#define ROUNDS 3",
        "#define ROUNDS 1",
        "the offset is not refined",
        "compare",
    ),
    Mutant(
        PAIRS,
        "not_negative(sums[FORWARD] - rest)",
        "not_negative(sums[FORWARD])",
        "what the offset has left is not taken off",
        "compare",
    ),
    Mutant(
        PAIRS,
        "v_mul(half, v_select(below, t->up, t->down))",
        "v_mul(half, v_select(below, t->down, t->up))",
        "the gradient of Jensen-Shannon looks to the other side",
        "compare",
    ),
    Mutant(
        PAIRS,
        "t.down = v_sub(t.forward, u);",
        "t.down = v_add(t.forward, u);",
        "a sign",
        "compare",
    ),
    Mutant(
        HESSIAN,
        "h->weight[i] == 0 ? 0 : a[i] * h->weight[i]",
        "a[i] * h->weight[i]",
        "a weight of 0 times an infinite loss",
        "dropin/test_sklearn",
    ),
    Mutant(
        HESSIAN,
        "v_sub(v_drop(is_one, e), lost), sum",
        "v_drop(is_one, e), sum",
        "what additions lose is not carried along",
        "dropin/test_sklearn",
    ),
    Mutant(
        HESSIAN,
        "v_select(v_eq(e, held_one), others, v_fma",
        "v_select(v_eq(e, held_one), v_sub(total, one), v_fma",
        "the digits of a sure row",
        "dropin/test_sklearn",
    ),
    Mutant(
        HESSIAN,
        "memcpy(out->row[i] + (j0 + j) * out->step, a + i",
        "memcpy(out->row[i] + j * out->step, a + i",
        "the second part of a long row over the first",
        "dropin/test_sklearn",
    ),
    Mutant(
        HESSIAN,
        "product(weight, v_mul(p, q)) : p",
        "product(weight, v_mul(p, p)) : p",
        "another second derivative",
        "dropin/test_sklearn",
    ),
    Mutant(
        ELEMENTWISE,
        "v_and(v_eq(x, zero), v_le(zero, y)), none, r)",
        "v_and(v_eq(x, zero), v_lt(zero, y)), none, r)",
        "0 log(0 / 0)",
        "dropin/test_scipy",
    ),
    Mutant(
        ELEMENTWISE,
        "    f = v_select(near, v_mul(d, inverse), f);\n",
        "",
        "terms of what is close lose their digits",
        "dropin/test_scipy",
    ),
    Mutant(
        ELEMENTWISE,
        "v_max(v_zero(), v_fma(x, v_log_ratio(x, y), d))",
        "v_fma(x, v_log_ratio(x, y), d)",
        "terms below 0, of numbers at the ends of the range",
        "dropin/test_scipy",
    ),
    # --- a few classes of a teacher, and exact sums -----------------------------------------------
    Mutant(
        SPARSE,
        "if (s->index[middle] < j0)",
        "if (s->index[middle] <= j0)",
        "the first class of a block is not taken for listed",
        "topk",
    ),
    Mutant(
        SPARSE,
        "begin < s->listed && s->index[begin] < j0 + n; begin++",
        "begin < s->listed && s->index[begin] < j0 + n - 1; begin++",
        "the last class of a block is not taken for listed",
        "topk",
    ),
    Mutant(
        SPARSE,
        "m > -INFINITY ? count_equal(a, n, m) : 0",
        "count_equal(a, n, m)",
        "masked classes that are not listed have a share",
        "topk",
    ),
    Mutant(
        SPARSE,
        "    if (p->weight[0] < 0) {",
        "    if (false) {",
        "the gradient of a row of weight 0",
        "topk",
    ),
    Mutant(
        SPARSE,
        "v_and(v_lt(u, v_set1(NEAR)), v_lt(v_set1(-NEAR), u));\n    const vec a",
        "v_lt(v_set1(1), v_zero());\n    const vec a",
        "terms of what is close lose their digits",
        "topk",
    ),
    Mutant(
        SPARSE,
        "        lost += (all - (t - added)) + (s->p[k] - added);\n",
        "",
        "what the sum of the probabilities loses",
        "topk",
    ),
    Mutant(
        SPARSE,
        "apart = (finite_maximum(s->maximum) - m) * s->scale;",
        "apart = finite_maximum(s->maximum) - m;",
        "the temperature between what is listed and what is not",
        "topk",
    ),
    Mutant(
        SPARSE,
        "(v_fold_add(v_counted(equal)) - 1)",
        "0",
        "listed classes that are equal",
        "topk",
    ),
    Mutant(
        SPARSE,
        "s->maximum < m ? 0 : s->maximum - s->maximum",
        "0",
        "an infinite logit that is not listed",
        "topk",
    ),
    Mutant(
        SPARSE,
        "s->rest == 0 && left <= s->rounding",
        "left <= s->rounding",
        "a small share that is not listed",
        "topk",
    ),
    Mutant(
        SPARSE,
        "s->rest == 0 && left <= s->rounding",
        "false",
        "rounding, where all classes are listed",
        "topk",
    ),
    Mutant(
        SPARSE,
        "log_z + (apart > 0 ? apart : 0)",
        "log_z",
        "what is not listed is above what is",
        "topk",
    ),
    Mutant(
        SPARSE,
        "s->rest_is_class ? 1 : 1 / all",
        "1",
        "probabilities are not divided by their sum",
        "topk",
    ),
    Mutant(
        SPARSE,
        "log_one(s->rest) - (apart < 0 ? apart : 0)",
        "log_one(s->rest)",
        "what is not listed is far below what is",
        "topk",
    ),
    Mutant(
        SPARSE,
        "    } else if (apart > 0) {",
        "    } else if (false) {",
        "what is not listed is beyond the exponential's range",
        "topk",
    ),
    Mutant(
        SPARSE,
        "s->rest_is_class && left > 0 && s->rest > 0 ? left / s->rest : 0",
        "s->rest_is_class ? left / s->rest : 0",
        "0 / 0, where all classes are listed",
        "topk",
    ),
    Mutant(
        SPARSE,
        "!s->rest_is_class && listed == 0 && z > 0",
        "false",
        "all that is listed is masked",
        "topk",
    ),
    Mutant(
        SPARSE,
        "!(z > 0) || (!s->rest_is_class && all == 0)",
        "!(z > 0)",
        "no distribution",
        "topk",
    ),
    Mutant(
        SUMS,
        "if (++a->count[g] == XF_UNCARRIED)",
        "if (++a->count[g] == INT32_MAX)",
        "the grids run over",
        "evaluate",
    ),
    Mutant(
        SUMS,
        "            rest[i] = v_keep(v_eq(v_sub(v[i], v[i]), v_zero()), rest[i]);\n",
        "",
        "inf less inf for what a product leaves",
        "evaluate",
    ),
    Mutant(
        SUMS,
        "v_set1(XF_GRID_LIMIT)",
        "v_set1(INFINITY)",
        "numbers beyond the first grid",
        "evaluate",
    ),
    Mutant(
        SUMS,
        "if (!whole && (!within || !add_to_grids(a, 1, rest)))",
        "if (!whole && !within)",
        "what products leave is not added",
        "evaluate",
    ),
    Mutant(
        SUMS,
        "none = v_all(v_eq(v[i], v_zero())) && none;",
        "none = v_all(v_eq(v[i], v_zero()));",
        "what is too fine, but for the last lanes",
        "evaluate",
    ),
    # --- probabilities ----------------------------------------------------------------------------
    Mutant(
        LOG_LOSS,
        "SUM_BLOCK(sum_log_loss, log_loss_term, 1, 0)",
        "SUM_BLOCK(sum_log_loss, log_loss_term, 0, 1)",
        "the lanes behind the end count",
    ),
    Mutant(
        LOG_LOSS,
        "v_drop(v_eq(t, v_zero()), v_div(t, as_probability(p)))",
        "v_div(t, as_probability(p))",
        "0 / 0 in the gradient",
        "special",
    ),
    Mutant(
        LOG_LOSS,
        "(real)p->own[i] + (real)t->offset * w",
        "(real)p->own[i] + (real)t->offset",
        "the label's share of the smoothing without its class weight",
    ),
    # --- numbers of 16 bits -----------------------------------------------------------------------
    Mutant(
        HALF,
        "(bits + 0x7fff + (bits >> 16 & 1)) >> 16",
        "(bits + 0x8000) >> 16",
        "bfloat16 rounds ties up",
        "half",
    ),
    Mutant(
        HALF,
        "if (rest >= 0x477ff000)",
        "if (rest >= 0x47800000)",
        "float16 between 65,520 and 65,536",
        "half",
    ),
    Mutant(
        HALF,
        "rest - 0x38000000 + 0xfff + (rest >> 13 & 1)",
        "rest - 0x38000000 + 0x1000",
        "float16 rounds ties up",
        "half",
    ),
    Mutant(
        AVX2,
        "_mm256_set1_epi32(0x7fff)), even)",
        "_mm256_set1_epi32(0x8000)), _mm256_setzero_si256())",
        "a register of bfloat16 rounds ties up",
        "half",
    ),
    Mutant(
        AVX2,
        "_mm256_permute2f128_pd(b, d, 0x31)",
        "_mm256_permute2f128_pd(b, d, 0x20)",
        "one row of a tile is another",
    ),
    Mutant(AVX2, "P(cmp)(a, b, _CMP_LT_OQ)", "P(cmp)(a, b, _CMP_LE_OQ)", "less or equal for less"),
    Mutant(
        AVX2,
        "ones + 8 - n * XF_BITS / 32",
        "ones + 8 - (n > 1 ? n - 1 : n) * XF_BITS / 32",
        "the last lane of a part is dropped",
    ),
    Mutant(
        VEC,
        "    n -= i * REG_LANES;",
        "    n -= i * (REG_LANES - 1);",
        "a part reaches too far into the second register",
    ),
    # --- threads ----------------------------------------------------------------------------------
    Mutant(
        POOL,
        "memory_order_relaxed)) < pool.chunks)",
        "memory_order_relaxed)) <= pool.chunks)",
        "a chunk too many",
        "threads",
    ),
    Mutant(
        POOL,
        "    pool.workers = pool.places = pool.active = 0;\n",
        "    pool.places = 0;\n",
        "a child waits for its parent's threads",
        "threads",
    ),
    Mutant(
        POOL,
        "    while (pool.active > 0)\n        wait_for(&pool.done, &pool.guard);\n",
        "",
        "the caller does not wait",
        "threads",
    ),
    # --- checks -----------------------------------------------------------------------------------
    Mutant(
        CHECKS,
        "    if not low <= v <= high or math.isinf(v):",
        "    if not low <= v <= high:",
        "an infinite z_loss",
        "errors",
    ),
    Mutant(
        CHECKS,
        "bad = (y < 0) | (y > classes - 1)",
        "bad = (y < 0) | (y > classes)",
        "the message for the first label beyond the classes",
        "errors",
    ),
    Mutant(
        CHECKS,
        "if size > 1 and stride < extent and out.size:",
        "if size > 1 and stride <= 0 and out.size:",
        "an out that overlaps itself",
        "errors",
    ),
    Mutant(
        CHECKS,
        "(there != here or a.strides != out.strides)",
        "there != here",
        "an out that is the logits with other strides",
        "errors",
    ),
    Mutant(
        CHECKS,
        "    return v if info.min <= v <= info.max else None",
        "    return v",
        "an ignore_index beyond the labels' dtype matches its remainder",
        "special",
    ),
    Mutant(
        CHECKS,
        "if not 0 < v < math.inf or v == 1:",
        "if not 0 < v < math.inf:",
        "the logarithm to base 1",
        "errors",
    ),
)


# --- building and testing -------------------------------------------------------------------------


def run(
    *command: str | pathlib.Path, cwd: pathlib.Path = ROOT, seconds: float | None = None
) -> tuple[int, str]:
    """Run a command and return its exit code, and what it says."""
    path = f"{VENV / 'bin'}:{os.environ['PATH']}"
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=os.environ | {"PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return -1, f"FAILED in {seconds:g} s"
    return done.returncode, done.stdout


def must(*command: str | pathlib.Path, cwd: pathlib.Path = ROOT) -> str:
    """Return what a command says, or stop with it where that fails."""
    code, said = run(*command, cwd=cwd)
    if code:
        sys.exit(f"{' '.join(map(str, command))}\n{said}")
    return said


def copy_trees() -> None:
    """Copy what git knows: all of it to build, and without the sources to test."""
    listed = must("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for tree in (TREE, TESTS):
        shutil.rmtree(tree, ignore_errors=True)
        for name in listed:
            if (ROOT / name).is_file() and (tree == TREE or name[:4] not in ("src/", "xent")):
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)


def install(isa: str) -> pathlib.Path:
    """Build the tree with one instruction set, install it, and return where it was built."""
    if not PYTHON.exists():
        must(sys.executable, "-m", "venv", VENV)
        tools = ("scikit-build-core", "cython", "cmake", "ninja", "scipy", "scikit-learn")
        must(PYTHON, "-m", "pip", "install", "--quiet", *tools)
    dispatch = ROOT / "src" / "dispatch.c"
    line = re.search(r"(#define INSTRUCTION_SETS\(set\)) (set\(base, .*)", dispatch.read_text())
    entry = line and re.search(rf"set\({isa}, \w+\)", line[2])
    if not line or not entry:
        sys.exit(f"{dispatch} must have a line of instruction sets, {isa} among them")
    copy_trees()
    change = dispatch.read_text().replace(line[0], f"{line[1]} {entry[0]}")
    (TREE / "src" / "dispatch.c").write_text(change)
    for header in (TREE / "src" / "simd").glob("vec_*.h"):
        if header.name != f"vec_{isa}.h":
            header.unlink()
    build = WORK / f"build-{isa}"
    shutil.rmtree(build, ignore_errors=True)  # what is copied may be older than what was built
    must(
        *(PYTHON, "-m", "pip", "install", "--quiet", "--no-build-isolation"),
        *(f"-Cbuild-dir={build}", "-Ccmake.build-type=None", "-Ccmake.define.CMAKE_C_FLAGS=-O1"),
        f"{TREE}[test]",
    )
    return build


def tested(first: str) -> tuple[bool, str]:
    """Run the tests, those named first, up to one that fails; return whether all passed."""
    ignored = [f"--ignore=tests/test_{name}.py" for name in SLOW if name != first]
    name = f"tests/{first if '/' in first else 'test_' + first}.py"
    ignored += [  # of the drop-ins, each of which wants its own library, all but the one named
        f"--ignore={path}"
        for path in sorted((TESTS / "tests" / "dropin").glob("test_*.py"))
        if path != TESTS / name
    ]
    options = ("-x", "-q", "-p", "no:cacheprovider", *ignored, name, "tests")
    code, said = run(PYTHON, "-m", "pytest", *options, cwd=TESTS, seconds=MOST_SECONDS)
    lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR", "Fatal"))]
    return code == 0, lines[0] if lines else f"ended with {code}"


def changed(mutant: Mutant) -> str:
    """Return the text of the file with the change."""
    text = (ROOT / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant}: {mutant.old!r} must be there once, is {text.count(mutant.old)} times")
    return text.replace(mutant.old, mutant.new)


def survives(mutant: Mutant, build: pathlib.Path) -> bool:
    """Test with the change in place, and take it back."""
    begin = time.monotonic()
    where = "import xentfast; print(*xentfast.__path__)"
    packages = pathlib.Path(must(PYTHON, "-P", "-c", where).strip())
    if mutant.file.startswith("xentfast/"):
        place, rebuild = packages / mutant.file.split("/", 1)[1], False
    else:
        place, rebuild = TREE / mutant.file, True

    def put(text: str) -> int:
        place.write_text(text)
        code = run("cmake", "--build", build)[0] if rebuild else 0
        if rebuild and not code:
            (module,) = build.glob("_kernels.*.so")
            shutil.copy2(module, packages / module.name)
        return code

    code = put(changed(mutant))
    passed, how = tested(mutant.tests) if not code else (False, "does not build")
    if put((ROOT / mutant.file).read_text()):
        sys.exit(f"{mutant}: what was there before does not build")
    print(
        f"{'SURVIVED' if passed else 'seen'} after {time.monotonic() - begin:.0f} s: {mutant}"
        + ("" if passed else f"\n    {how[:160]}"),
        flush=True,
    )
    return passed


def main() -> int:
    """Try all that are wanted; 1 where one survives."""
    words = sys.argv[1:]
    chosen = [m for m in MUTANTS if not words or any(word in str(m) for word in words)]
    if not chosen:
        sys.exit(f"no change has any of {words} in it")
    for mutant in chosen:
        changed(mutant)  # or it stops at once
    survivors = []
    for isa in sorted({m.isa for m in chosen}):
        build = install(isa)
        passed, how = tested("values")
        if not passed:
            sys.exit(f"the tests must pass before anything is changed: {how}")
        print(f"{isa}: the tests pass as it is", flush=True)
        survivors += [m for m in chosen if m.isa == isa and survives(m, build)]
    print(f"{len(chosen)} changes, {len(survivors)} not seen", *survivors, sep="\n    ")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
