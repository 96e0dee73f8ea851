"""The one table of losses, dtypes and shapes: it drives the tests and the benchmarks alike.

A case is a public function with one set of options. It makes its own arguments for a dtype and a
shape of (rows, classes), the same ones each time.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import xentfast
from xentfast import _kernels

Array: TypeAlias = NDArray[Any]
Inputs: TypeAlias = tuple[tuple[Array, ...], dict[str, Any]]
Make: TypeAlias = Callable[[np.random.Generator, str, tuple[int, int]], Inputs]

DTYPES = ("float32", "float64")

# XENTFAST_ISA chooses the set when the module is imported: then everything runs with that one.
FORCED_ISA = os.environ.get("XENTFAST_ISA")
ISAS = (FORCED_ISA,) if FORCED_ISA else _kernels.available_isas()
# Sets without fused multiply-add round a product before they add: they hold the error bounds, but
# do not have the bits that all others share.
UNFUSED_ISAS = ("base",)
FUSED_ISAS = tuple(name for name in ISAS if name not in UNFUSED_ISAS)


@dataclass(frozen=True)
class Case:
    """One public function with one set of options."""

    name: str
    function: str  # the name in xentfast and in xentfast.reference
    make: Make  # (rng, dtype, (rows, classes)) -> (args, kwargs)
    gradient: bool = False  # also has _grad and _value_and_grad, and reduces
    elementwise: bool = False  # one result per entry: no axis of classes
    logits: bool = False  # the first argument may be anything, not only probabilities
    # Entries of the gradient are differences of numbers of their own size. What a result without
    # gradient is the difference of, oracle.scale_of_result knows.
    cancels: bool = False
    # What there is of a function that reduces: its value, its gradient, both at once.
    suffixes: tuple[str, ...] = ("", "_grad", "_value_and_grad")
    report: bool = False  # returns many numbers of all rows, to be added up

    def inputs(self, dtype: str, shape: tuple[int, int]) -> Inputs:
        """Make the arguments, which depend on nothing but the case, the dtype and the shape."""
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), *shape])
        return self.make(rng, dtype, shape)

    def __str__(self) -> str:
        return f"{self.function}-{self.name}"


@dataclass(frozen=True)
class Shape:
    """Rows and classes, with the reason for having them."""

    rows: int
    classes: int
    why: str

    @property
    def pair(self) -> tuple[int, int]:
        return self.rows, self.classes

    def __str__(self) -> str:
        return f"{self.rows}x{self.classes}"


# --- shapes ---------------------------------------------------------------------------------------

# A logical vector is 64 bytes: 8 float64 or 16 float32. With few classes the lanes run across a
# panel of rows; long rows are cut into blocks. Everything below straddles one of these switches.
CLASSES = {
    1: "a single class: every loss is 0",
    2: "the smallest softmax",
    3: "a few classes",
    7: "one less than the lanes of float64",
    8: "the lanes of float64",
    9: "one more than the lanes of float64",
    15: "one less than the lanes of float32",
    16: "the lanes of float32",
    17: "one more than the lanes of float32; a prime",
    31: "one less than two vectors of float32",
    32: "two vectors of float32, four of float64",
    33: "one more than two vectors of float32",
    63: "one less than four vectors of float32",
    64: "four vectors of float32",
    65: "one more than four vectors of float32",
    100: "a vector begun but not filled",
    127: "one less than eight vectors of float32; a prime",
    128: "eight vectors of float32",
    129: "one more than eight vectors of float32",
    255: "one less than a power of two",
    256: "a power of two",
    257: "one more than a power of two; a prime",
    511: "one less than a block of 512",
    512: "a block of 512",
    513: "one more than a block of 512",
    1000: "classes of an image classifier",
    1023: "one less than a block of 1024",
    1024: "a block of 1024",
    1025: "one more than a block of 1024",
    2049: "one more than a block of 2048",
    5000: "several blocks and a part of one",
}
ROWS = {
    0: "no rows",
    1: "one row",
    2: "two rows",
    15: "one less than a panel of 16 rows",
    16: "a panel of 16 rows",
    17: "one more than a panel of 16 rows",
    31: "one less than two panels",
    33: "one more than two panels",
    100: "a panel begun but not filled",
    1000: "several chunks of the reduction",
}
SHAPES = (
    # A panel and a row of short rows; of long ones, one for each kind of row below and one more.
    *(Shape(17 if classes < 200 else 6, classes, why) for classes, why in CLASSES.items()),
    *(
        Shape(19, classes, "a panel and a part, of more than a block")
        for classes in (257, 513, 1100)
    ),
    *(Shape(rows, 3, f"{why}; few classes") for rows, why in ROWS.items()),
    *(Shape(rows, 10, f"{why}; the digits") for rows, why in ROWS.items()),
    *(Shape(rows, 20, f"{why}; a vector or two and a rest") for rows, why in ROWS.items()),
)

# For what has to be repeated often: one shape for each kind of row and of remainder.
FEW_SHAPES = (
    Shape(0, 10, "no rows"),
    Shape(1, 1, "one entry"),
    Shape(2, 2, "less than a vector in all"),
    Shape(17, 9, "a panel and a row, more than the lanes of float64"),
    Shape(33, 16, "two panels and a row, the lanes of float32"),
    Shape(5, 17, "one more than the lanes of float32"),
    Shape(18, 33, "more rows than a panel, a vector and one"),
    Shape(3, 129, "one more than eight vectors of float32"),
    Shape(3, 1025, "one more than a block of 1024"),
    Shape(2, 5000, "several blocks"),
)

# Large enough to be shared out among threads: over 2**18 elements, 2**16 for each thread.
LARGE_SHAPES = (
    Shape(27_011, 10, "many short rows, a prime number; four threads"),
    Shape(467, 1000, "middling rows, a prime number; seven threads"),
    Shape(5, 70_001, "long rows, fewer than threads; a prime number of classes"),
)

# --- numbers --------------------------------------------------------------------------------------

# Spread of the logits in a row, which the rows take in turn. The last stands for a row with one
# class far above the others, by up to 80.
SPREADS = (1, 3.9, 20, 80, None)
CONFIDENT = len(SPREADS) - 1


def _kind(shape: tuple[int, int]) -> Array:
    return np.arange(shape[0]) % len(SPREADS)


def _logits(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Array:
    spread = np.array([80 if s is None else s for s in SPREADS])[_kind(shape), np.newaxis]
    x = (rng.random(shape) - 0.5) * spread
    confident = _kind(shape) == CONFIDENT
    x[confident] /= 2
    x[confident, rng.integers(shape[1], size=confident.sum())] = 60
    return x.astype(dtype)


def _index_labels(rng: np.random.Generator, logits: Array) -> Array:
    """Draw labels at random; in confident rows and in every third the class is the likeliest."""
    row = np.arange(logits.shape[0])
    right = (_kind(logits.shape) == CONFIDENT) | (row % 3 == 0)
    return np.where(right, logits.argmax(axis=1), rng.integers(logits.shape[1], size=row.size))


def _distributions(rng: np.random.Generator, shape: tuple[int, int], zeros: bool = True) -> Array:
    """Draw rows of probabilities in float64, with about a quarter of zeros if so wanted."""
    p = rng.standard_exponential(shape) + 1e-3
    if zeros:
        p[:, 1:][rng.random((shape[0], shape[1] - 1)) < 0.25] = 0
    return p / p.sum(axis=1, keepdims=True)


def _class_weight(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Array:
    return rng.uniform(0.25, 4, shape[1]).astype(dtype)


def _sample_weight(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> Array:
    """Draw weights, every seventh of them 0."""
    weight = rng.uniform(0.25, 4, shape)
    weight.ravel()[3::7] = 0
    return weight.astype(dtype)


def rows_by_place_of_the_maximum(classes: int, dtype: str) -> dict[str, Array]:
    """Make rows whose largest logit is met in the first block, the last one, or again and again."""
    rng = np.random.default_rng(classes)
    x = rng.uniform(-20, 0, classes)
    rows = {
        "descending": -np.sort(-x),
        "ascending": np.sort(x),
        "first": np.where(np.arange(classes) == 0, 5, x),
        "last": np.where(np.arange(classes) == classes - 1, 5, x),
        "middle": np.where(np.arange(classes) == classes // 2, 5, x),
        "tied next to each other": np.where(np.arange(classes) // 2 == classes // 4, 5, x),
        "tied across the row": np.where(np.arange(classes) % 300 == 7, 5, x),
        "tied first and last": np.where(np.arange(classes) % (classes - 1) == 0, 5, x),
        "all tied": np.full(classes, 3.25),
        "far above all": np.where(np.arange(classes) == classes - 2, 60, x),
    }
    return {name: row.astype(dtype) for name, row in rows.items()}


# --- softmax cross-entropy ------------------------------------------------------------------------

Options: TypeAlias = Callable[[np.random.Generator, str, tuple[int, int]], dict[str, Any]]

IGNORED = -100


def _no_options(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {}


def _class_weights(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {"class_weight": _class_weight(rng, dtype, shape)}


def _sample_weights(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {"sample_weight": _sample_weight(rng, dtype, shape[:1])}


def _ignoring(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {"ignore_index": IGNORED}


def _smoothing(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {"label_smoothing": 0.1}


def _z_loss(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> dict[str, Any]:
    return {"z_loss": 1e-3}


def _all_options(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> dict[str, Any]:
    """Combine all options but ignored rows; weights in a dtype of their own."""
    return {
        "class_weight": _class_weight(rng, "float64", shape),
        "sample_weight": _sample_weight(rng, "float32", shape[:1]),
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
    }


def _index(options: Options) -> Make:
    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        x = _logits(rng, dtype, shape)
        labels = _index_labels(rng, x)
        kwargs = options(rng, dtype, shape)
        if "ignore_index" in kwargs:
            labels[1::4] = kwargs["ignore_index"]
        return (x, labels), kwargs

    return make


def _index_all(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
    (x, labels), kwargs = _index(_ignoring)(rng, dtype, shape)
    return (x, labels.astype(np.int32)), kwargs | _all_options(rng, dtype, shape)


def _masked(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
    """Mask about a quarter of the classes with -inf, but never the label or the likeliest."""
    (x, labels), kwargs = _index(_no_options)(rng, dtype, shape)
    mask = rng.random(shape) < 0.25
    row = np.arange(shape[0])
    mask[row, labels] = mask[row, x.argmax(axis=1)] = False
    x[mask] = -np.inf
    return (x, labels), kwargs


def _dense(options: Options, labels_dtype: dict[str, str] | None = None) -> Make:
    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        x = _logits(rng, dtype, shape)
        labels = _distributions(rng, shape).astype((labels_dtype or {}).get(dtype, dtype))
        return (x, labels), options(rng, dtype, shape)

    return make


def _from_probabilities(make_labels: Make) -> Make:
    """Replace the logits by probabilities, positive where they are looked at."""

    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        (_, labels), kwargs = make_labels(rng, dtype, shape)
        kwargs.pop("z_loss", None)
        p = _distributions(rng, shape, zeros=False).astype(dtype)
        if labels.shape == shape and "label_smoothing" not in kwargs:
            p[(labels == 0) & (rng.random(shape) < 0.5)] = 0
        return (p, labels), kwargs | {"from_logits": False}

    return make


OTHER_DTYPE = {"float32": "float64", "float64": "float32"}

_CROSS_ENTROPY = (
    # name, make, logits, cancels
    ("index", _index(_no_options), True, False),
    ("index-class_weight", _index(_class_weights), True, False),
    ("index-sample_weight", _index(_sample_weights), True, False),
    ("index-ignore_index", _index(_ignoring), True, False),
    ("index-label_smoothing", _index(_smoothing), True, True),
    ("index-z_loss", _index(_z_loss), True, True),
    ("index-all_options", _index_all, True, True),
    ("index-masked", _masked, True, False),
    ("dense", _dense(_no_options), True, True),
    ("dense-other_dtype", _dense(_no_options, OTHER_DTYPE), True, True),
    ("dense-class_weight", _dense(_class_weights), True, True),
    ("dense-all_options", _dense(_all_options), True, True),
    ("index-probabilities", _from_probabilities(_index(_no_options)), False, False),
    ("index-probabilities-ignore_index", _from_probabilities(_index(_ignoring)), False, False),
    ("index-probabilities-all_options", _from_probabilities(_index_all), False, False),
    ("dense-probabilities", _from_probabilities(_dense(_no_options)), False, False),
    ("dense-probabilities-all_options", _from_probabilities(_dense(_all_options)), False, False),
)

# --- binary cross-entropy -------------------------------------------------------------------------


def _binary(
    options: Callable[[np.random.Generator, tuple[int, int]], dict[str, Any]],
    labels_dtype: str | None = None,
    probabilities: bool = False,
) -> Make:
    """Make logits or probabilities with labels in [0, 1], or 0 and 1 if their dtype is given."""

    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        x = _logits(rng, dtype, shape)
        if probabilities:
            x = (0.001 + 0.998 * rng.random(shape)).astype(dtype)
        if labels_dtype is None:
            labels = rng.random(shape).astype(dtype)
            labels[rng.random(shape) < 0.1] = 0
            labels[rng.random(shape) < 0.1] = 1
        else:
            labels = (rng.random(shape) < 0.5).astype(labels_dtype)
        kwargs = options(rng, shape)
        return (x, labels), kwargs | ({"from_logits": False} if probabilities else {})

    return make


def _plain(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Any]:
    return {}


def _binary_pos_weight(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Any]:
    """Give a weight to each column, which has to be broadcast over the rows."""
    return {"pos_weight": rng.uniform(0.25, 4, (1, shape[1])).astype("float32")}


def _binary_sample_weight(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Any]:
    return {"sample_weight": _sample_weight(rng, "float32", shape)}


def _binary_smoothing(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Any]:
    return {"label_smoothing": 0.1}


def _binary_all(rng: np.random.Generator, shape: tuple[int, int]) -> dict[str, Any]:
    return {
        "pos_weight": 2.5,
        "sample_weight": _sample_weight(rng, "float64", shape),
        "label_smoothing": 0.1,
    }


_BINARY = (
    # name, make, logits, cancels
    ("int", _binary(_plain, "int64"), True, False),
    ("bool", _binary(_plain, "bool"), True, False),
    ("float", _binary(_plain), True, True),
    ("int-pos_weight", _binary(_binary_pos_weight, "int32"), True, False),
    ("int-sample_weight", _binary(_binary_sample_weight, "uint8"), True, False),
    ("int-label_smoothing", _binary(_binary_smoothing, "int64"), True, True),
    ("float-all_options", _binary(_binary_all), True, True),
    ("int-probabilities", _binary(_plain, "int64", probabilities=True), False, False),
    ("float-probabilities", _binary(_plain, probabilities=True), False, True),
    ("float-probabilities-all_options", _binary(_binary_all, None, True), False, True),
)

# --- entropies, divergences and softmax -----------------------------------------------------------


def _one(kwargs: dict[str, Any], scale: float = 1) -> Make:
    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        return ((scale * _distributions(rng, shape)).astype(dtype),), dict(kwargs)

    return make


def _two(kwargs: dict[str, Any], scale: float = 1, rows: int | None = None) -> Make:
    """Make p with zeros and q without; q has as many rows as p or is broadcast from fewer."""

    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        p = scale * _distributions(rng, shape)
        q = scale * _distributions(rng, (shape[0] if rows is None else rows, shape[1]), zeros=False)
        return (p.astype(dtype), q.astype(dtype)), dict(kwargs)

    return make


def _only_logits(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
    return (_logits(rng, dtype, shape),), {}


def _half_right(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
    """Make rows of which every second is no distribution: too large a sum, or an entry below 0."""
    p = _distributions(rng, shape)
    p[1::4] *= 1.01
    p[3::4, 0] -= 1
    return (p.astype(dtype),), {}


CASES = (
    *(
        Case(name, "cross_entropy", make, gradient=True, logits=logits, cancels=cancels)
        for name, make, logits, cancels in _CROSS_ENTROPY
    ),
    *(
        Case(name, "binary_cross_entropy", make, True, True, logits, cancels)
        for name, make, logits, cancels in _BINARY
    ),
    Case("plain", "entropy", _one({})),
    Case("base-normalize", "entropy", _one({"base": 2, "normalize": True}, scale=3)),
    Case("plain", "kl_divergence", _two({})),
    Case("broadcast", "kl_divergence", _two({}, rows=1)),
    Case("base-normalize", "kl_divergence", _two({"base": 10, "normalize": True}, scale=3)),
    Case("plain", "js_divergence", _two({})),
    Case("base-normalize", "js_divergence", _two({"base": 2, "normalize": True}, scale=3)),
    Case("plain", "is_distribution", _half_right),
    Case("plain", "logsumexp", _only_logits, logits=True),
    Case("plain", "log_softmax", _only_logits, logits=True),
    Case("plain", "softmax", _only_logits, logits=True),
)

# --- reports, and divergences of logits: what has tests of values of its own ----------------------


def _report(options: dict[str, Any], probabilities: bool = False) -> Make:
    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        x = _logits(rng, dtype, shape)
        labels, kwargs = _index_labels(rng, x), dict(options)
        if "ignore_index" in kwargs:
            labels[1::4] = kwargs["ignore_index"]
            kwargs["sample_weight"] = _sample_weight(rng, dtype, shape[:1])
        if probabilities:
            x = _distributions(rng, shape).astype(dtype)
        return (x, labels), kwargs | ({"from_logits": False} if probabilities else {})

    return make


def _pair(options: dict[str, Any], labelled: bool = False) -> Make:
    """Make logits and others, every third row of them close to the first."""

    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        x, apart = _logits(rng, dtype, shape), rng.standard_normal(shape)
        apart[::3] *= 1e-3
        pair = x, (x + apart).astype(dtype)
        return (*pair, _index_labels(rng, x)) if labelled else pair, dict(options)

    return make


def _top_k(options: dict[str, Any]) -> Make:
    """List the likeliest classes of a teacher, and an entry that is to be left out."""

    def make(rng: np.random.Generator, dtype: str, shape: tuple[int, int]) -> Inputs:
        p, k = _distributions(rng, shape, zeros=False), min(5, shape[1])
        indices = np.argsort(-p, axis=1)[:, :k]
        listed = np.take_along_axis(p, indices, 1)
        indices = np.append(indices, np.full((shape[0], 1), -1), 1)
        listed = np.append(listed, np.zeros((shape[0], 1)), 1)
        x = _logits(rng, dtype, shape)
        weight = _sample_weight(rng, dtype, shape[:1])
        return (indices, listed.astype(dtype), x), dict(options) | {"sample_weight": weight}

    return make


_BOTH, _VALUE_AND_BOTH = ("_value_and_grad",), ("", "_value_and_grad")
REPORTS = (
    Case("plain", "evaluate", _report({}), report=True),
    Case("highest", "evaluate", _report({"ties": "highest", "top_k": (2, 3)}), report=True),
    Case("weighted", "evaluate", _report({"ignore_index": -1, "bins": 4}), report=True),
    Case("probabilities", "evaluate", _report({}, probabilities=True), report=True),
    Case("plain", "compare", _pair({}), report=True),
    Case("labels", "compare", _pair({}, labelled=True), report=True),
    Case("logits", "kl_divergence", _pair({"temperature": 2.5}), True, suffixes=_BOTH),
    Case("reverse", "kl_divergence", _pair({"reverse": True}), True, suffixes=_BOTH),
    Case("logits", "js_divergence", _pair({}), True, suffixes=_BOTH),
    Case("top-k", "topk_kl_divergence", _top_k({}), True, suffixes=_VALUE_AND_BOTH),
    Case(
        "top-k, class",
        "topk_kl_divergence",
        _top_k({"rest": "class", "temperature": 2.5}),
        True,
        suffixes=_VALUE_AND_BOTH,
    ),
)
ALL_CASES = (*CASES, *REPORTS)
DIVERGENCES = (xentfast.kl_divergence, xentfast.js_divergence)
GRADIENT_CASES = tuple(case for case in CASES if case.gradient)
REDUCTIONS = ("none", "sum", "mean")
