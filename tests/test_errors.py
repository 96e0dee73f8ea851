"""Everything a caller can get wrong is refused in one sentence; every message is pinned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

import xentfast
from cases import DIVERGENCES, DTYPES, Array
from compare import refused
from xentfast import _checks, _kernels

CROSS_ENTROPIES = (
    xentfast.cross_entropy,
    xentfast.cross_entropy_grad,
    xentfast.cross_entropy_value_and_grad,
)
BINARY_CROSS_ENTROPIES = (
    xentfast.binary_cross_entropy,
    xentfast.binary_cross_entropy_grad,
    xentfast.binary_cross_entropy_value_and_grad,
)
OF_ONE_ARRAY = (
    xentfast.entropy,
    xentfast.is_distribution,
    xentfast.logsumexp,
    xentfast.log_softmax,
    xentfast.softmax,
)

X = np.arange(12.0).reshape(4, 3)
P = np.full((4, 3), 0.25)
LABELS = np.array([0, 2, 1, 0])
BINARY = np.array([[0, 1, 0]] * 4)
MEANWHILE = "{} that were changed meanwhile"


def refuse_cross_entropy(
    error: type[Exception], message: str, logits: Any = X, labels: Any = LABELS, **kwargs: Any
) -> None:
    """Expect each of the three functions to refuse these arguments alike."""
    for function in CROSS_ENTROPIES:
        with refused(error, message):
            function(logits, labels, **kwargs)


def refuse_binary(
    error: type[Exception], message: str, logits: Any = X, labels: Any = BINARY, **kwargs: Any
) -> None:
    for function in BINARY_CROSS_ENTROPIES:
        with refused(error, message):
            function(logits, labels, **kwargs)


# --- logits and probabilities ---------------------------------------------------------------------

NOT_NUMBERS = [
    (np.zeros((4, 3), bool), "bool"),
    (np.full((4, 3), "one"), "<U3"),
    (np.zeros((4, 3), complex), "complex128"),
    (np.zeros((4, 3), object), "object"),
    (np.zeros((4, 3), "datetime64[s]"), "datetime64[s]"),
    (np.zeros((4, 3), [("a", "f4")]), "[('a', '<f4')]"),
    ([[None, 1.0]], "object"),
    (None, "object"),
]


@pytest.mark.parametrize(("x", "dtype"), NOT_NUMBERS)
def test_what_is_not_numbers_is_refused(x: Any, dtype: str) -> None:
    rule = f"must have a floating or integer dtype, got {dtype}"
    refuse_cross_entropy(TypeError, f"logits {rule}", x)
    refuse_binary(TypeError, f"logits {rule}", x)
    for function in OF_ONE_ARRAY:
        name = "x" if "softmax" in function.__name__ or function is xentfast.logsumexp else "p"
        with refused(TypeError, f"{name} {rule}"):
            function(x)
    for divergence in DIVERGENCES:
        with refused(TypeError, f"p {rule}"):
            divergence(x, P)
        with refused(TypeError, f"q {rule}"):
            divergence(P, x)


def test_long_double_is_refused() -> None:
    dtype = np.dtype(np.longdouble)
    if dtype == np.float64:
        pytest.skip("long double is float64 here")
    rule = f"must have dtype float16, bfloat16, float32 or float64, got {dtype}"
    refuse_cross_entropy(TypeError, f"logits {rule}", X.astype(dtype))
    refuse_cross_entropy(TypeError, f"labels {rule}", labels=P.astype(dtype))
    refuse_binary(TypeError, f"logits {rule}", X.astype(dtype))
    refuse_binary(TypeError, f"labels {rule}", labels=P.astype(dtype))
    with refused(TypeError, f"p {rule}"):
        xentfast.entropy(P.astype(dtype))
    with refused(TypeError, f"q {rule}"):
        xentfast.kl_divergence(P, P.astype(dtype))


class Frame:
    """What pandas' dtypes of its own are to NumPy: objects."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return X.astype(object)

    def to_numpy(self, dtype: Any = None) -> Array:
        return X


class Sparse:
    """Matrices that NumPy takes for one object."""

    def toarray(self) -> Array:
        return X


UNUSUAL = [
    (Sparse(), "must be dense, got Sparse: use .toarray()"),
    (
        Frame(),
        "must have a floating or integer dtype, got object of a Frame: fill or drop missing "
        "values, then use .to_numpy({})",
    ),
    (
        np.zeros((4, 3), "V2"),
        "must have a floating or integer dtype, got |V2: if these are bfloat16, use "
        ".view(ml_dtypes.bfloat16)",
    ),
]


@pytest.mark.parametrize(("a", "rule"), UNUSUAL, ids=["sparse", "frame", "void"])
def test_what_can_be_put_right_is_told_how(a: Any, rule: str) -> None:
    numbers = rule.format("float")
    refuse_cross_entropy(TypeError, f"logits {numbers}", a)
    refuse_cross_entropy(TypeError, f"labels {rule.format('int')}", labels=a)
    refuse_cross_entropy(TypeError, f"sample_weight {numbers}", sample_weight=a)
    refuse_cross_entropy(TypeError, f"class_weight {numbers}", class_weight=a)
    refuse_binary(TypeError, f"logits {numbers}", a)
    refuse_binary(TypeError, f"labels {rule.format('int')}", labels=a)
    refuse_binary(TypeError, f"pos_weight {numbers}", pos_weight=a)
    for function in OF_ONE_ARRAY:
        name = "x" if "softmax" in function.__name__ or function is xentfast.logsumexp else "p"
        with refused(TypeError, f"{name} {numbers}"):
            function(a)


def test_sparse_matrices_of_scipy() -> None:
    for matrix in (sparse.csr_matrix(X), sparse.csr_array(X), sparse.coo_matrix(X)):
        rule = f"must be dense, got {type(matrix).__name__}: use .toarray()"
        refuse_cross_entropy(TypeError, f"logits {rule}", matrix)
        refuse_cross_entropy(TypeError, f"labels {rule}", labels=matrix)


def test_a_foreign_array_that_fails_says_why_itself() -> None:
    class Elsewhere:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
            raise TypeError("is on another device")

        def __dlpack__(self, **_: Any) -> Any:
            return X.__dlpack__()

    with refused(TypeError, "is on another device"):
        xentfast.softmax(Elsewhere())


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_matrices_and_masked_arrays_are_refused() -> None:
    for array, name in ((np.matrix(X), "matrix"), (np.ma.array(X), "MaskedArray")):
        rule = f"must be a plain array, got {name}"
        refuse_cross_entropy(TypeError, f"logits {rule}", array)
        refuse_cross_entropy(TypeError, f"labels {rule}", labels=array)
        refuse_cross_entropy(TypeError, f"sample_weight {rule}", sample_weight=array)
        refuse_cross_entropy(TypeError, f"class_weight {rule}", class_weight=array)
        refuse_binary(TypeError, f"pos_weight {rule}", pos_weight=array)
        with refused(TypeError, f"p {rule}"):
            xentfast.entropy(array)


def test_ragged_lists_are_refused() -> None:
    for function, name in ((xentfast.entropy, "p"), (xentfast.softmax, "x")):
        message = f"^{name} must be a rectangular array of numbers, got "
        with pytest.raises(ValueError, match=message):
            function([[1, 2], [3]])


def test_number_of_dimensions() -> None:
    zero, eight = np.array(1.0), np.zeros((1,) * 8)
    for x, n in ((zero, 0), (eight, 8)):
        refuse_cross_entropy(ValueError, f"logits must have 1 to 7 dimensions, got {n}", x)
        with refused(ValueError, f"x must have 1 to 7 dimensions, got {n}"):
            xentfast.softmax(x)
        with refused(ValueError, f"p must have 1 to 7 dimensions, got {n}"):
            xentfast.js_divergence(x, x)
    seven = np.zeros((1,) * 7)
    refuse_binary(ValueError, "logits must have at most 6 dimensions, got 7", seven, seven)


@pytest.mark.parametrize("axis", [2, -3, 100, 2**70])
def test_axis_out_of_range(axis: int) -> None:
    message = f"axis must be in [-2, 2), got {axis}"
    refuse_cross_entropy(ValueError, message, axis=axis)
    for function in OF_ONE_ARRAY:
        with refused(ValueError, message):
            function(P, axis=axis)
    for divergence in DIVERGENCES:
        with refused(ValueError, message):
            divergence(P, P, axis=axis)


@pytest.mark.parametrize(("axis", "kind"), [(1.0, "float"), ("1", "str"), (None, "NoneType")])
def test_axis_of_the_wrong_kind(axis: Any, kind: str) -> None:
    refuse_cross_entropy(TypeError, f"axis must be an int, got {kind}", axis=axis)
    with refused(TypeError, f"axis must be an int, got {kind}"):
        xentfast.logsumexp(X, axis=axis)


@pytest.mark.parametrize("shape", [(4, 0), (0, 0)])
def test_no_classes(shape: tuple[int, int]) -> None:
    rule = f"must have at least one class, got shape {shape}, axis 1"
    refuse_cross_entropy(ValueError, f"logits {rule}", np.empty(shape), LABELS[: shape[0]])
    with refused(ValueError, f"x {rule}"):
        xentfast.logsumexp(np.empty(shape))
    with refused(ValueError, f"p {rule}"):
        xentfast.entropy(np.empty(shape))
    rule = f"must have at least one class, got shape {shape[::-1]}, axis 0"
    for divergence in DIVERGENCES:
        with refused(ValueError, f"p {rule}"):
            divergence(np.empty(shape[::-1]), np.empty(shape[::-1]), axis=0)


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*"bBhHiIlLqQ"])
@pytest.mark.parametrize("where", ["first", "last"])
def test_labels_out_of_range_in_every_dtype(name: str, where: str) -> None:
    """The ends of the dtype, the neighbours of the range: none is cast to something that fits."""
    info = np.iinfo(name)
    x = np.zeros((40, 3))
    row = 0 if where == "first" else 39
    for bad in {int(info.min), -1, 3, int(info.max), int(info.max) - 1}:
        if not info.min <= bad <= info.max or bad == 0:
            continue
        labels = np.ones(40, name)
        labels[row] = bad
        message = f"labels must be in [0, 3), got {bad} at row {row}"
        for kwargs in ({}, {"from_logits": False}, {"label_smoothing": 0.1}, {"reduction": "none"}):
            refuse_cross_entropy(ValueError, message, x, labels, **kwargs)
        refuse_cross_entropy(ValueError, message, x, labels, ignore_index=2)


def test_the_row_of_a_bad_label() -> None:
    x = np.zeros((2, 5, 3))
    labels = np.zeros((2, 5), np.int64)
    labels[1, 2] = labels[1, 3] = 12
    refuse_cross_entropy(ValueError, "labels must be in [0, 3), got 12 at row (1, 2)", x, labels)
    message = "labels must be in [0, 2), got 12 at row (1, 2)"
    refuse_cross_entropy(ValueError, message, np.zeros((2, 2, 5)), labels, axis=1)
    refuse_cross_entropy(ValueError, "labels must be in [0, 3), got 3", x[0, 0], 3)
    refuse_cross_entropy(ValueError, "labels must be in [0, 3), got -1", x[0, 0], np.int8(-1))


def test_a_bad_label_among_many_threads(threads: int) -> None:
    x, labels = np.zeros((30_000, 10), np.float32), np.zeros(30_000, np.int64)
    labels[29_999] = 10
    message = "labels must be in [0, 10), got 10 at row 29999"
    refuse_cross_entropy(ValueError, message, x, labels)
    refuse_cross_entropy(ValueError, message, x, labels, reduction="none")


def test_a_label_that_only_looks_like_the_ignored_one() -> None:
    labels = np.array([255, 0], np.uint8)
    message = "labels must be in [0, 3), got 255 at row 0"
    refuse_cross_entropy(ValueError, message, X[:2], labels, ignore_index=-1)
    labels = np.array([2**64 - 1, 0], np.uint64)
    message = f"labels must be in [0, 3), got {2**64 - 1} at row 0"
    refuse_cross_entropy(ValueError, message, X[:2], labels, ignore_index=-1)


def test_no_classes_but_those_that_are_there() -> None:
    """With one class every label but 0 is out of range; the first bad one is named."""
    labels = np.array([0, 1, 2])
    message = "labels must be in [0, 1), got 1 at row 1"
    refuse_cross_entropy(ValueError, message, np.zeros((3, 1)), labels)


@pytest.mark.parametrize("shape", [(3,), (5,), (), (4, 1), (1, 4), (4, 2), (3, 4)])
def test_labels_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    message = f"labels must have shape (4,) or (4, 3), got {shape}"
    refuse_cross_entropy(ValueError, message, labels=np.zeros(shape, np.int64))
    refuse_cross_entropy(ValueError, message, labels=np.zeros(shape, np.float32))
    refuse_binary(ValueError, f"labels must have shape (4, 3), got {shape}", labels=np.zeros(shape))


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (np.eye(4, 3, dtype=np.int64), ""),
        (LABELS.astype(np.float32), ": use .astype(int) for class indices"),
        (LABELS.astype(bool), ": use .astype(int) for class indices"),
        (
            [0, np.nan, 1, 2],
            ": fill or drop missing values, then use .astype(int) for class indices",
        ),
    ],
)
def test_one_kind_of_labels_in_the_dtype_of_the_other(labels: Any, hint: str) -> None:
    a = np.asarray(labels)
    message = (
        "labels must have shape (4,) (class indices, integer) or (4, 3) (distributions, floating), "
        f"got {a.shape} with dtype {a.dtype}{hint}"
    )
    refuse_cross_entropy(ValueError, message, labels=labels)


def test_values_that_were_put_right_meanwhile() -> None:
    """Another thread may write to an argument after the kernel has seen what is wrong in it."""
    for of_many in (True, False):
        labels, x = (LABELS, X) if of_many else (LABELS[0], X[0])
        with refused(ValueError, f"labels must be in [0, 3), got {MEANWHILE.format('labels')}"):
            _checks.fail_label(labels, x.shape[-1], None)
        with refused(ValueError, f"labels must be in [0, 1], got {MEANWHILE.format('labels')}"):
            _checks.fail_binary_label(x * 0)
        message = f"sample_weight must be finite and >= 0, got {MEANWHILE.format('weights')}"
        with refused(ValueError, message):
            _checks.fail_weight("sample_weight", x, np.float64)


@pytest.mark.parametrize("dtype", ["U3", "complex128", "object", "datetime64[s]"])
def test_labels_of_the_wrong_dtype(dtype: str) -> None:
    labels = np.zeros(4, dtype)
    message = f"labels must have an integer, floating or boolean dtype, got {labels.dtype}"
    refuse_cross_entropy(TypeError, message, labels=labels)
    refuse_binary(TypeError, message, labels=np.zeros((4, 3), dtype))


@pytest.mark.parametrize("bad", [1.5, -0.5, np.nan, np.inf, 1 + 2.0**-20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_labels_out_of_range(bad: float, dtype: str) -> None:
    labels = np.zeros((4, 3), dtype)
    labels[2, 1] = bad
    message = f"labels must be in [0, 1], got {labels[2, 1]} at (2, 1)"
    for kwargs in ({}, {"label_smoothing": 0.5}, {"reduction": "none"}):
        refuse_binary(ValueError, message, labels=labels, **kwargs)
    refuse_binary(ValueError, message, P, labels, from_logits=False)


def test_a_binary_label_of_bfloat16_that_is_nan() -> None:
    labels = np.array([0, np.nan], pytest.importorskip("ml_dtypes").bfloat16)
    with pytest.raises(ValueError, match=r"labels must be .*, got nan at 1"):
        xentfast.binary_cross_entropy(np.zeros(2), labels)


@pytest.mark.parametrize("name", [*"bBhHiIlLqQ"])
def test_binary_integer_labels_out_of_range(name: str) -> None:
    info = np.iinfo(name)
    for bad in {int(info.min), -1, 2, int(info.max)}:
        if not info.min <= bad <= info.max or bad == 0:
            continue
        labels = np.ones((4, 3), name)
        labels[3, 2] = bad
        refuse_binary(ValueError, f"labels must be 0 or 1, got {bad} at (3, 2)", labels=labels)
    refuse_binary(ValueError, "labels must be 0 or 1, got 2", np.array(0.0), 2)
    refuse_binary(ValueError, "labels must be 0 or 1, got 2 at 1", np.zeros(2), [1, 2])


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf, -1e-300])
def test_weights_are_finite_and_not_negative(bad: float) -> None:
    rule = f"must be finite and >= 0, got {bad}"
    weight = np.ones(4)
    weight[2] = bad
    for reduction in ("mean", "sum", "none"):
        message = f"sample_weight {rule} at 2"
        refuse_cross_entropy(ValueError, message, sample_weight=weight, reduction=reduction)
        message = f"class_weight {rule} at 2"
        refuse_cross_entropy(ValueError, message, class_weight=weight[1:][[0, 2, 1]])
        weights = np.ones((4, 3))
        weights[1, 2] = bad
        message = f"sample_weight {rule} at (1, 2)"
        refuse_binary(ValueError, message, sample_weight=weights, reduction=reduction)
        refuse_binary(ValueError, f"pos_weight {rule} at (1, 2)", pos_weight=weights)
        refuse_binary(ValueError, f"pos_weight {rule}", pos_weight=bad)
        for refuse in (refuse_cross_entropy, refuse_binary):
            refuse(ValueError, f"sample_weight {rule}", sample_weight=bad, reduction=reduction)
    refuse_cross_entropy(ValueError, f"sample_weight {rule}", X[:0], LABELS[:0], sample_weight=bad)


def test_weights_beyond_what_float32_holds() -> None:
    x, weight = X.astype(np.float32), np.ones((4, 3))
    weight[1, 2] = 1e300
    rule = "must be finite and >= 0 in float32, got 1e+300"
    refuse_cross_entropy(ValueError, f"class_weight {rule} at 2", x, class_weight=weight[1])
    refuse_binary(ValueError, f"pos_weight {rule} at (1, 2)", x, pos_weight=weight)
    refuse_binary(ValueError, f"sample_weight {rule} at (1, 2)", x, sample_weight=weight)
    refuse_binary(ValueError, f"sample_weight {rule}", x, sample_weight=1e300)


def test_a_negative_integer_weight() -> None:
    message = "sample_weight must be finite and >= 0, got -1 at 1"
    refuse_cross_entropy(ValueError, message, sample_weight=np.array([1, -1, 1, 1], np.int8))
    message = "class_weight must be finite and >= 0, got -1 at 1"
    refuse_cross_entropy(ValueError, message, class_weight=[1, -1, 1])


def test_a_negative_weight_in_float16() -> None:
    weight = np.array([1, -1, 1], np.float16)
    message = "class_weight must be finite and >= 0, got -1.0 at 1"
    refuse_cross_entropy(ValueError, message, class_weight=weight)


@pytest.mark.parametrize("dtype", ["complex128", "U3", "object"])
def test_weights_of_the_wrong_dtype(dtype: str) -> None:
    def message(name: str) -> str:
        return f"{name} must have a real dtype, got {np.dtype(dtype)}"

    weight = np.ones(4).astype(dtype)
    refuse_cross_entropy(TypeError, message("sample_weight"), sample_weight=weight)
    refuse_cross_entropy(TypeError, message("class_weight"), class_weight=weight[1:])
    refuse_binary(TypeError, message("pos_weight"), pos_weight=weight[1:])
    refuse_binary(TypeError, message("sample_weight"), sample_weight=np.ones((4, 3)).astype(dtype))


def test_class_weights_are_not_booleans() -> None:
    message = "class_weight must have a real dtype, got bool"
    refuse_cross_entropy(TypeError, message, class_weight=[True, False, True])


@pytest.mark.parametrize("shape", [(2,), (5,), (0,), (1, 4), (4, 2), (1, 4, 1)])
def test_sample_weights_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    message = f"sample_weight must broadcast to shape (4,), got {shape}"
    refuse_cross_entropy(ValueError, message, sample_weight=np.ones(shape))
    message = f"sample_weight must broadcast to shape (4, 3), got {shape}"
    refuse_binary(ValueError, message, sample_weight=np.ones(shape))


@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (1, 3), (4, 3)])
def test_class_weights_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    message = f"class_weight must have shape (3,), got {shape}"
    refuse_cross_entropy(ValueError, message, class_weight=np.ones(shape))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (1, 4, 3), (2, 4, 3)])
def test_positive_weights_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    message = f"pos_weight must broadcast to shape (4, 3), got {shape}"
    refuse_binary(ValueError, message, pos_weight=np.ones(shape))


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan, np.inf, 2, 10**400, -(10**400)])
def test_label_smoothing_out_of_range(bad: float) -> None:
    message = f"label_smoothing must be in [0, 1], got {bad}"
    refuse_cross_entropy(ValueError, message, label_smoothing=bad)
    refuse_binary(ValueError, message, label_smoothing=bad)


@pytest.mark.parametrize("bad", [-1, np.nan, np.inf])
def test_z_loss_out_of_range(bad: float) -> None:
    refuse_cross_entropy(ValueError, f"z_loss must be finite and >= 0, got {bad}", z_loss=bad)


def test_z_loss_of_probabilities() -> None:
    message = "z_loss must be 0 where from_logits is False, got 0.5"
    refuse_cross_entropy(ValueError, message, P, from_logits=False, z_loss=0.5)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ("0.1", "str"),
        (b"0.1", "bytes"),
        (None, "NoneType"),
        ([1], "list"),
        (1j, "complex"),
        (np.complex64(0.1), "complex64"),
    ],
)
def test_numbers_of_the_wrong_kind(bad: Any, kind: str) -> None:
    for name in ("label_smoothing", "z_loss"):
        refuse_cross_entropy(TypeError, f"{name} must be a number, got {kind}", **{name: bad})
    refuse_binary(TypeError, f"label_smoothing must be a number, got {kind}", label_smoothing=bad)
    if bad is not None:
        with refused(TypeError, f"base must be a number, got {kind}"):
            xentfast.entropy(P, base=bad)
        with refused(TypeError, f"atol must be a number, got {kind}"):
            xentfast.is_distribution(P, atol=bad)


def test_ignore_index_of_the_wrong_kind() -> None:
    refuse_cross_entropy(TypeError, "ignore_index must be an int, got float", ignore_index=1.0)
    refuse_cross_entropy(TypeError, "ignore_index must be an int, got str", ignore_index="1")
    message = "ignore_index must be None for dense labels, got 1"
    refuse_cross_entropy(ValueError, message, labels=P, ignore_index=1)


@pytest.mark.parametrize("bad", ["avg", "Mean", None, 0, True])
def test_unknown_reductions(bad: Any) -> None:
    message = f"reduction must be 'mean', 'sum' or 'none', got {bad!r}"
    refuse_cross_entropy(ValueError, message, reduction=bad)
    refuse_binary(ValueError, message, reduction=bad)


@pytest.mark.parametrize("bad", [0, 1, 1.0, -2, np.nan, np.inf])
def test_bases_that_are_none(bad: float) -> None:
    message = f"base must be finite, positive and not 1, got {bad}"
    with refused(ValueError, message):
        xentfast.entropy(P, base=bad)
    for divergence in DIVERGENCES:
        with refused(ValueError, message):
            divergence(P, P, base=bad)


@pytest.mark.parametrize("bad", [-2, np.nan, np.inf])
def test_tolerances_out_of_range(bad: float) -> None:
    with refused(ValueError, f"atol must be finite and >= 0, got {bad}"):
        xentfast.is_distribution(P, atol=bad)


def test_divergences_of_a_single_number() -> None:
    for function in DIVERGENCES:
        with refused(ValueError, "p must have 1 to 7 dimensions, got 0"):
            function(1.0, P)
        with refused(ValueError, "q must have 1 to 7 dimensions, got 0"):
            function(P, np.float32(0.5))


def test_divergences_of_shapes_that_do_not_fit() -> None:
    for function in DIVERGENCES:
        message = "q must have a shape that broadcasts with p's (4, 3), got (5, 3)"
        with refused(ValueError, message):
            function(P, np.ones((5, 3)))


@pytest.mark.parametrize("bad", [0, -1, 1025, 2**40])
def test_number_of_threads_out_of_range(bad: int) -> None:
    before = xentfast.get_num_threads()
    with refused(ValueError, f"n must be in [1, 1024], got {bad}"):
        xentfast.set_num_threads(bad)
    with refused(ValueError, f"n must be in [1, 1024], got {bad}"), xentfast.num_threads(bad):
        pass
    assert xentfast.get_num_threads() == before


@pytest.mark.parametrize(("bad", "kind"), [(2.0, "float"), ("2", "str"), (None, "NoneType")])
def test_number_of_threads_of_the_wrong_kind(bad: Any, kind: str) -> None:
    with refused(TypeError, f"n must be an int, got {kind}"):
        xentfast.set_num_threads(bad)
    with refused(TypeError, f"n must be an int, got {kind}"), xentfast.num_threads(bad):
        pass


def test_unknown_instruction_sets() -> None:
    before = _kernels.get_isa()
    message = f"instruction set must be one of {_kernels.built_isas()}, got 'sse9'"
    with refused(ValueError, message):
        _kernels.set_isa("sse9")
    assert _kernels.get_isa() == before


@pytest.mark.skipif(
    _kernels.built_isas() == _kernels.available_isas(), reason="every set built runs here"
)
def test_instruction_sets_that_do_not_run_here() -> None:
    before = _kernels.get_isa()
    for name in set(_kernels.built_isas()) - set(_kernels.available_isas()):
        with refused(ValueError, f"instruction set {name!r} does not run on this machine"):
            _kernels.set_isa(name)
    assert _kernels.get_isa() == before


# --- out ------------------------------------------------------------------------------------------

GRADIENTS = (xentfast.cross_entropy_grad, xentfast.cross_entropy_value_and_grad)
BINARY_GRADIENTS = (
    xentfast.binary_cross_entropy_grad,
    xentfast.binary_cross_entropy_value_and_grad,
)


def refuse_out(error: type[Exception], message: str, out: Any, x: Array = X, **kwargs: Any) -> None:
    """Expect every function that writes something of the logits' shape to refuse its place."""
    labels = kwargs.pop("labels", LABELS)
    for function in GRADIENTS:
        with refused(error, message):
            function(x, labels, out=out, **kwargs)
    if "class_weight" not in kwargs and labels is LABELS:
        for function in BINARY_GRADIENTS:
            with refused(error, message):
                function(x, BINARY, out=out)
        for function in (xentfast.softmax, xentfast.log_softmax):
            with refused(error, message.replace("logits", "x")):
                function(x, out=out)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ([[0.0] * 3] * 4, TypeError, "out must be an ndarray, got list"),
        (np.zeros((4, 3), "f4"), TypeError, "out must have dtype float64, got float32"),
        (np.zeros((4, 3), ">f8"), TypeError, "out must have dtype float64, got >f8"),
        (np.zeros((4, 3), "i8"), TypeError, "out must have dtype float64, got int64"),
        (np.zeros((3, 4)), ValueError, "out must have shape (4, 3), got (3, 4)"),
        (np.zeros((5, 3)), ValueError, "out must have shape (4, 3), got (5, 3)"),
        (np.zeros(12), ValueError, "out must have shape (4, 3), got (12,)"),
        (
            np.lib.stride_tricks.as_strided(np.zeros(3), (4, 3), (0, 8)),
            ValueError,
            "out must not overlap itself, got strides (0, 8)",
        ),
        (
            np.lib.stride_tricks.as_strided(np.zeros(9), (4, 3), (16, 8)),
            ValueError,
            "out must not overlap itself, got strides (16, 8)",
        ),
    ],
)
def test_an_unfit_out(out: Any, error: type[Exception], message: str) -> None:
    refuse_out(error, message, out)


def test_a_read_only_out() -> None:
    out = np.full((4, 3), 7.0)
    out.flags.writeable = False
    refuse_out(ValueError, "out must be writeable, got a read-only array", out)
    np.testing.assert_array_equal(out, np.full((4, 3), 7.0))
    x = X.copy()
    x.flags.writeable = False
    refuse_out(ValueError, "out must be writeable, got a read-only array", x, x)


def test_an_out_that_overlaps_the_logits_in_part() -> None:
    message = "out must be logits or not overlap it, got a partial overlap"
    memory = np.arange(40.0)
    x = memory[:12].reshape(4, 3)
    refuse_out(ValueError, message, memory[3:15].reshape(4, 3), x)
    refuse_out(ValueError, message, memory[1:13].reshape(4, 3), x)
    refuse_out(ValueError, message, x[::-1], x)
    refuse_out(ValueError, message, x[:, ::-1], x)
    np.testing.assert_array_equal(memory, np.arange(40.0))
    square = np.zeros((4, 4))
    with refused(ValueError, message):
        xentfast.cross_entropy_grad(square, LABELS, out=square.T)
    # Another array on the very same memory is the logits' own place.
    expected = xentfast.cross_entropy_grad(x, LABELS)
    xentfast.cross_entropy_grad(x, LABELS, out=memory[:12].reshape(4, 3))
    np.testing.assert_array_equal(x, expected)


def test_an_out_that_is_another_argument() -> None:
    message = "out must not overlap an input, got memory they may share"
    labels = P.copy()
    refuse_out(ValueError, message, labels, labels=labels)
    with refused(ValueError, message):
        xentfast.binary_cross_entropy_grad(X, labels, out=labels)
    memory = np.ones(16)
    out = memory[:12].reshape(4, 3)
    with refused(ValueError, message):
        xentfast.cross_entropy_grad(X, LABELS, sample_weight=memory[8:12], out=out)
    with refused(ValueError, message):
        xentfast.binary_cross_entropy_grad(X, BINARY, sample_weight=out, out=out)
    with refused(ValueError, message):
        xentfast.binary_cross_entropy_grad(X, BINARY, pos_weight=memory[:3], out=out)
    index = np.zeros(24, np.int64)
    with refused(ValueError, message):
        xentfast.cross_entropy_grad(X, index[:4], out=index[:12].view(np.float64).reshape(4, 3))

    with refused(ValueError, message):
        xentfast.cross_entropy_grad(X, LABELS, class_weight=memory[:3], out=out)
    np.testing.assert_array_equal(memory, np.ones(16))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_an_out_that_is_no_plain_array() -> None:
    for array, name in ((np.matrix(X), "matrix"), (np.ma.array(X), "MaskedArray")):
        refuse_out(TypeError, f"out must be a plain array, got {name}", array)


def test_an_unfit_out_for_values() -> None:
    for function, labels, lead in (
        (xentfast.cross_entropy, LABELS, (4,)),
        (xentfast.binary_cross_entropy, BINARY, (4, 3)),
    ):
        with refused(ValueError, "out must have shape (), got (4,)"):
            function(X, labels, out=np.zeros(4))
        with refused(ValueError, f"out must have shape {lead}, got ()"):
            function(X, labels, reduction="none", out=np.zeros(()))
        with refused(TypeError, "out must have dtype float64, got float32"):
            function(X, labels, reduction="none", out=np.zeros(lead, np.float32))
        with refused(TypeError, "out must have dtype float32, got float64"):
            function(X.astype(np.float32), labels, out=np.zeros(()))
    x = X.copy()
    message = "out must not overlap an input, got memory they may share"
    with refused(ValueError, message):
        xentfast.cross_entropy(x, LABELS, reduction="none", out=x[:, 0])
    with refused(ValueError, message):
        xentfast.binary_cross_entropy(x, BINARY, reduction="none", out=x)
    np.testing.assert_array_equal(x, X)


def test_out_is_complete_or_an_exception_is_raised(threads: int) -> None:
    """A bad label or weight in the last row is not passed over, whatever was written before."""
    rows = 30_000
    x = np.random.default_rng(0).normal(size=(rows, 10)).astype(np.float32)
    labels, weight = np.arange(rows) % 10, np.ones(rows)
    good = xentfast.cross_entropy_grad(x, labels)
    for reduction in ("mean", "sum", "none"):
        bad_labels, bad_weight = labels.copy(), weight.copy()
        bad_labels[-1], bad_weight[-1] = -7, -7
        out = np.full_like(x, 7)
        with refused(ValueError, "labels must be in [0, 10), got -7 at row 29999"):
            xentfast.cross_entropy_grad(x, bad_labels, reduction=reduction, out=out)
        with refused(ValueError, "sample_weight must be finite and >= 0, got -7.0 at 29999"):
            xentfast.cross_entropy_grad(
                x, labels, sample_weight=bad_weight, reduction=reduction, out=out
            )
    # and the next call is not disturbed
    np.testing.assert_array_equal(xentfast.cross_entropy_grad(x, labels), good)


def test_options_are_keywords() -> None:
    for function in (*CROSS_ENTROPIES, *BINARY_CROSS_ENTROPIES, *DIVERGENCES):
        with pytest.raises(TypeError, match="positional argument"):
            function(X, LABELS, -1)
    for function in OF_ONE_ARRAY:
        with pytest.raises(TypeError, match="positional argument"):
            function(X, -1)


@pytest.mark.parametrize("error", [RuntimeError("no array today"), KeyError("x")])
def test_exceptions_of_foreign_arrays_pass_through(error: Exception) -> None:
    class Unwilling:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
            raise error

    for function in CROSS_ENTROPIES:
        with pytest.raises(type(error)) as raised:
            function(Unwilling(), LABELS)
        assert raised.value is error
