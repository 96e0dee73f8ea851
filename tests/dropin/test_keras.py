"""The drop-in against Keras itself, on its NumPy backend, and the table on that of JAX."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import examples
import xentfast.dropin.keras as ours

keras = pytest.importorskip("keras", minversion="3.15")
theirs = keras.losses
BACKEND = keras.backend.backend()
if BACKEND not in ("numpy", "jax"):
    pytest.skip("needs keras on its NumPy backend", allow_module_level=True)

# Keras works in the dtype itself, but for float64 mostly in float32, and a 1 - p of float32
# is off by 6e-8, of 1e-7 where it is clipped.
BOUNDS = {"float64": (2e-5, 3e-7), "float32": (2e-5, 3e-7), "float16": (4e-3, 2e-3)}

CLASSES = (
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "SparseCategoricalCrossentropy",
    "KLDivergence",
)
FUNCTIONS = (
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "sparse_categorical_crossentropy",
    "kl_divergence",
)
REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None)


def quiet(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call without the warnings that Keras has of dividing by 0 and one class, JAX of float64."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.filterwarnings("ignore", "Explicitly requested dtype|You are using a softmax over")
        result = call(*args, **options)
    return result if BACKEND == "numpy" else np.asarray(result)


def assert_same(found: Any, expected: Any, dtype: str = "float32") -> None:
    rtol, atol = BOUNDS[dtype]
    if dtype == "float64":  # which the NumPy backend of Keras loses on its way
        assert found.dtype == dtype
    else:
        assert BACKEND != "numpy" or type(found) is type(expected)
        assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol, atol)


def assert_same_error(call: Callable[[Any], Any]) -> str:
    with pytest.raises(Exception) as expected:  # noqa: PT011
        quiet(lambda: call(theirs))
    with pytest.raises(type(expected.value)) as found:
        call(ours)
    assert str(found.value) == str(expected.value)
    return str(found.value)


def arguments(name: str, rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> Any:
    """Return labels, probabilities with zeros and ones among them, and logits."""
    logits = rng.normal(size=shape) * 3
    binary = name.startswith(("Binary", "binary"))
    if binary:  # Keras on NumPy takes 1 - p in float32
        logits = np.clip(logits, -5, 5)
    p = 1 / (1 + np.exp(-logits)) if binary else rng.exponential(size=shape)
    p[rng.random(shape) < 0.1] = 0
    p[rng.random(shape) < 0.1] = 1
    if name.startswith(("Sparse", "sparse")):
        return rng.integers(shape[axis], size=shape[:-1]), p + 1e-3, logits
    t = rng.random(shape)
    if rng.integers(2):
        t = t.round()
    if "focal" in name.lower() and binary:  # 1 - p of float32 has few digits there
        p = np.clip(p, 1e-3, 1 - 1e-3)
    if name.startswith(("KL", "kl")):
        t[rng.random(shape) < 0.1] = 0
    return t, p + (0 if binary else 1e-3), logits


# --- the worked examples --------------------------------------------------------------------------


@pytest.mark.parametrize("losses", [ours, theirs], ids=["ours", "theirs"])
def test_worked_examples(losses: Any) -> None:
    found = losses.BinaryCrossentropy()(examples.BINARY_TRUE, examples.BINARY_PREDICTED)
    assert repr(found) == "array(0.32428703, dtype=float32)"

    found = losses.CategoricalCrossentropy()(
        examples.CATEGORICAL_TRUE, examples.CATEGORICAL_PREDICTED
    )
    assert repr(found) == "array(0.09458993, dtype=float32)"

    found = losses.SparseCategoricalCrossentropy()(
        np.array(examples.SPARSE_TRUE), np.array(examples.SPARSE_PREDICTED)
    )
    assert repr(found) == "array(0.8892045, dtype=float32)"


def test_lists_and_tuples() -> None:
    t, p = [[1, 0], [0, 1]], [[0.9, 0.1], [0.4, 0.6]]
    for name in ("BinaryCrossentropy", "CategoricalCrossentropy", "KLDivergence"):
        expected = getattr(theirs, name)()(t, p)
        assert_same(getattr(ours, name)()(t, p), expected)
        assert_same(getattr(ours, name)()(tuple(map(tuple, t)), np.array(p)), expected)
    for name in ("binary_crossentropy", "categorical_crossentropy", "kl_divergence"):
        for given_p in (p, tuple(map(tuple, p)), [np.array(row) for row in p]):
            expected = getattr(theirs, name)(t, given_p)
            assert_same(getattr(ours, name)(t, given_p), expected)
    found = ours.SparseCategoricalCrossentropy()([0, 1], p)  # which Keras takes for two structures
    assert_same(found, theirs.SparseCategoricalCrossentropy()(np.array([0, 1]), np.array(p)))


# --- signatures and options -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES + FUNCTIONS)
def test_signature(name: str) -> None:
    found, expected = (
        list(inspect.signature(getattr(m, name)).parameters.values()) for m in (ours, theirs)
    )
    names = [(p.name, p.default) for p in found]
    newer = ("label_smoothing", 0.0)  # of the Keras after 3.15
    if "sparse" in name.lower() and newer not in [(p.name, p.default) for p in expected]:
        names.remove(newer)
    assert names == [(p.name, p.default) for p in expected]


@pytest.mark.parametrize("name", CLASSES)
def test_config(name: str) -> None:
    made = getattr(ours, name)(reduction="sum", name="mine", dtype="float64")
    expected = getattr(theirs, name)(reduction="sum", name="mine", dtype="float64")
    assert made.get_config() == expected.get_config()
    assert (made.name, made.reduction, made.dtype) == ("mine", "sum", "float64")
    again = type(made).from_config(made.get_config())
    assert again.get_config() == made.get_config()
    assert again.dtype == getattr(theirs, name)().dtype == "float32"


def test_options_return_from_config() -> None:
    config = {"from_logits": True, "label_smoothing": 0.2, "axis": 1, "reduction": "none"}
    for name in ("BinaryCrossentropy", "CategoricalCrossentropy"):
        assert getattr(ours, name).from_config(config).get_config().items() >= config.items()
        focal = name.replace("Cross", "FocalCross")
        config |= {"alpha": 0.3, "gamma": 3.0}
        assert getattr(ours, focal).from_config(config).get_config().items() >= config.items()
        config = {key: config[key] for key in list(config)[:4]}
    config = {"from_logits": True, "ignore_class": 255}
    found = ours.SparseCategoricalCrossentropy.from_config(config).get_config()
    assert found == theirs.SparseCategoricalCrossentropy(**config).get_config()
    smooth = ours.SparseCategoricalCrossentropy(label_smoothing=0.1)
    assert smooth.from_config(smooth.get_config()).label_smoothing == 0.1


@pytest.mark.parametrize("dtype", ["float64", np.float16, "mixed_float16", "bfloat16"])
def test_dtypes_and_policies(dtype: Any) -> None:
    t, p = np.eye(3), np.full((3, 3), 1 / 3)
    found, expected = (m.CategoricalCrossentropy(dtype=dtype) for m in (ours, theirs))
    assert found.dtype == expected.dtype
    assert found(t, p).dtype == found.dtype
    assert float(found(t, p)) == pytest.approx(np.log(3), rel=4e-3)


def test_policy_object() -> None:
    policy = keras.DTypePolicy("mixed_float16")
    assert ours.KLDivergence(dtype=policy).dtype == "float16"


def test_unknown_dtype() -> None:
    with pytest.raises(ValueError, match="dtype must be a floating dtype or a policy"):
        ours.KLDivergence(dtype="int32")


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("dtype", BOUNDS if BACKEND == "numpy" else ["float32", "float16"])
@settings(
    max_examples=25 if BACKEND == "numpy" else 4, deadline=None, derandomize=True
)  # their rounding has no bound
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(7, 5), (1, 1), (2, 3, 4), (4, 4, 4), (0, 3), (5,), (6, 1)]),
    last=st.booleans(),
    from_logits=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    gamma=st.sampled_from([0.0, 0.5, 2.0]),
    reduction=st.sampled_from(REDUCTIONS),
    weight=st.sampled_from(["none", "scalar", "rows", "column", "zeros"]),
    ignore=st.sampled_from([None, 0, 1, -1]),
    layout=st.sampled_from(["C", "F", "strided"]),
)
def test_classes(
    name: str,
    dtype: str,
    seed: int,
    shape: tuple[int, ...],
    last: bool,
    from_logits: bool,
    smoothing: float,
    gamma: float,
    reduction: str | None,
    weight: str,
    ignore: int | None,
    layout: str,
) -> None:
    rng = np.random.default_rng(seed)
    fixed = last or len(shape) < 3 or name in ("SparseCategoricalCrossentropy", "KLDivergence")
    axis = -1 if fixed else 1
    t, p, logits = arguments(name, rng, shape, axis)
    options: dict[str, Any] = {"reduction": reduction, "dtype": dtype}
    if name != "KLDivergence":
        options |= {"from_logits": from_logits}
        if "Sparse" in name:
            options |= {"ignore_class": ignore}
            if ignore is not None:
                t[rng.random(t.shape) < 0.4] = ignore
        else:
            options |= {"label_smoothing": smoothing, "axis": axis}
        if "Focal" in name:
            options |= {"gamma": gamma, "alpha": 0.3}
        if name == "BinaryFocalCrossentropy":
            options |= {"apply_class_balancing": last}
        elif "Focal" in name and last:
            options |= {"alpha": rng.random(shape[-1]).tolist()}
    x = (logits if from_logits and name != "KLDivergence" else p).astype(dtype)
    if dtype != "float32" and not (from_logits and "Categorical" in name and "Focal" not in name):
        # What comes near 0 or 1 is off or infinite in Keras: that is another test's.
        x = np.clip(x, 0.01, 0.99) if dtype == "float16" else np.clip(x, 1e-3, 1 - 1e-3)
    if layout == "F":
        x, t = np.asfortranarray(x), np.asfortranarray(t)
    elif layout == "strided":
        x, t = np.repeat(x, 2, axis=0)[::2], np.repeat(t, 2, axis=0)[::2]
    lead = shape[:-1] if axis == -1 else np.delete(shape, axis)
    weights = {
        "none": None,
        "scalar": 2 if "ignore_class" not in options else None,  # with a mask Keras fails
        "rows": rng.random(lead),
        "column": rng.random((*lead, 1)),
        "zeros": np.zeros(lead),
    }[weight]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        expected = quiet(lambda: getattr(theirs, name)(**options)(t, x, sample_weight=weights))
        found = getattr(ours, name)(**options)(t, x, sample_weight=weights)
    assert_same(found, expected, dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions(name: str, dtype: str) -> None:
    bounds = dtype if "sparse" in name else "float32"
    rng = np.random.default_rng(1)
    for shape, axis in [((7, 5), -1), ((4, 4, 4), 1), ((5,), -1), ((0, 3), -1)]:
        t, p, logits = arguments(name, rng, shape, axis)
        for x, options in [(p, {}), (logits, {"from_logits": True, "axis": axis})]:
            x = x.astype(dtype)
            if name != "kl_divergence":
                expected = quiet(getattr(theirs, name), t, x, **options)
                assert_same(getattr(ours, name)(t, x, **options), expected, bounds)
        if name == "kl_divergence":
            p = p.astype(dtype)
            assert_same(ours.kl_divergence(t, p), quiet(theirs.kl_divergence, t, p))


def test_integers_as_predictions_are_float64() -> None:
    x = np.array([[1, 2, 3], [3, 1, 2]])
    found = ours.sparse_categorical_crossentropy(np.array([0, 2]), x, from_logits=True)
    expected = theirs.sparse_categorical_crossentropy(np.array([0, 2]), x, from_logits=True)
    assert_same(found, expected, "float64")


def test_more_rows_than_a_block() -> None:
    rng = np.random.default_rng(2)
    shape = (700, 3, 400)  # blocks of some rows
    x, t = rng.random(shape, np.float32), rng.integers(0, 2, shape)
    for name in ("BinaryCrossentropy", "CategoricalCrossentropy", "KLDivergence"):
        loss, expected = getattr(ours, name)(reduction=None), getattr(theirs, name)(reduction=None)
        assert_same(loss(t, x), expected(t, x))
    wide = x.reshape(2, -1)  # a row alone is more than a block
    found = ours.BinaryCrossentropy(reduction=None)(t.reshape(2, -1), wide)
    assert_same(found, theirs.BinaryCrossentropy(reduction=None)(t.reshape(2, -1), wide))
    moved = ours.CategoricalCrossentropy(reduction=None, axis=0)(t, x)  # (3, 400) rows of 700
    assert_same(moved, theirs.CategoricalCrossentropy(reduction=None, axis=0)(t, x))


def test_clipping_to_the_digits() -> None:
    t, p = np.array([[1], [0], [1]]), np.array([[0], [1], [1]], np.float32)
    found = ours.BinaryCrossentropy(reduction=None)(t, p)
    expected = np.float32([16.118095, 15.942385, 1.1920929e-07])
    np.testing.assert_allclose(found, expected, rtol=2e-7)
    found = quiet(theirs.BinaryCrossentropy(reduction=None), t, p)
    np.testing.assert_allclose(found, expected, rtol=2e-7)


inf, nan = np.inf, np.nan
ODD = np.float32([
    [-0.1, 0.6, 0.5], [1.5, -0.5, 0], [0, 0, 0], [-1, -2, 0.5], [-1, -1, -1], [1, -1, 0],
    [1, -2, 1], [-1, 2, -1], [2, 3, 4], [nan, 0.5, 0.5], [inf, 0.5, 0.5], [-inf, 0.5, 0.5],
    [inf, -inf, 0], [1e-30, 0, 0], [1e30, 1e30, 1e-30], [3e38, 3e38, 0], [1, 0, 0],
])  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("label", range(3))
def test_odd_rows(name: str, label: int) -> None:
    t: Any = np.full(len(ODD), label)
    if "Sparse" not in name:
        t = np.eye(3)[t]
    found, expected = (quiet(getattr(m, name)(reduction=None), t, ODD) for m in (ours, theirs))
    assert_same(np.asarray(found), expected)


def test_odd_rows_along_another_axis_and_alone() -> None:
    t = np.eye(3)[np.arange(len(ODD)) % 3]
    for name in ("CategoricalCrossentropy", "CategoricalFocalCrossentropy"):
        losses = [getattr(m, name)(reduction=None, axis=0) for m in (ours, theirs)]
        found, expected = (quiet(f, t.T, ODD.T) for f in losses)
        assert_same(np.asarray(found), expected)
    alone = [m.CategoricalCrossentropy() for m in (ours, theirs)]
    for row in ODD:
        found, expected = (quiet(f, t[0], row) for f in alone)
        assert_same(np.asarray(found), expected)


def test_binary_logits_are_exact() -> None:
    x = np.array([[100.0, -100, 40, -40, 16, inf, -inf, inf, -inf]], np.float32).T
    t = np.array([[0.0, 1, 1, 0, 0, 0, 1, 1, 0]]).T
    found = ours.BinaryCrossentropy(from_logits=True, reduction=None)(t, x)
    small = np.exp(-40)
    expected = [100, 100, small, small, 16 + np.exp(-16), inf, inf, 0, 0]
    np.testing.assert_allclose(found, np.float32(expected), rtol=1e-6)


def test_binary_logits_are_those_of_the_backend() -> None:
    most = 80 if BACKEND == "jax" else 5  # that of NumPy takes 1 - p in float32
    x = np.linspace(-most, most, 41, dtype=np.float32)[:, np.newaxis]
    both = [m.BinaryCrossentropy(from_logits=True, reduction=None) for m in (ours, theirs)]
    for t in (np.zeros_like(x), np.ones_like(x), np.full_like(x, 0.3)):
        found, expected = (quiet(f, t, x) for f in both)
        assert_same(np.asarray(found), expected)


def test_nan_is_nan_for_its_row_only() -> None:
    x = np.array([[0.2, 0.8], [np.nan, 0.5]])
    for name, t in [
        ("SparseCategoricalCrossentropy", np.array([0, 1])),
        ("CategoricalCrossentropy", np.eye(2)),
        ("BinaryCrossentropy", np.eye(2)),
        ("KLDivergence", np.eye(2)),
    ]:
        found = getattr(ours, name)(reduction=None)(t, x)
        assert_same(found, getattr(theirs, name)(reduction=None)(t, x))
        assert np.isnan(found).tolist() == [False, True]


def test_labels_that_are_floating_or_columns() -> None:
    x = np.random.default_rng(3).normal(size=(3, 4))
    for t in (np.array([0.0, 3.9, 1]), np.array([[0], [3], [1]]), np.array([True, False, True])):
        found, expected = (
            m.SparseCategoricalCrossentropy(from_logits=True, reduction=None)(t, x)
            for m in (ours, theirs)
        )
        assert_same(found, expected)


def test_labels_and_predictions_of_another_rank() -> None:
    column, vector = np.array([[0.3], [0.4], [0.9]]), np.array([0, 1, 1])
    for t, x in [(vector, column), (vector[:, np.newaxis], column[:, 0])]:
        found, expected = (m.BinaryCrossentropy(reduction=None)(t, x) for m in (ours, theirs))
        assert_same(found, expected)


# --- errors and warnings --------------------------------------------------------------------------


def test_errors() -> None:
    two, three = np.array([0.3, 0.2]), np.array([0, 1, 1])
    square = np.full((3, 3), 1 / 3)
    for call, match in [
        (lambda m: m.BinaryCrossentropy()(three, two), "must have the same shape"),
        (lambda m: m.categorical_crossentropy(three, two), "must have the same shape"),
        (lambda m: m.sparse_categorical_crossentropy(two.astype(int), square), "up until the last"),
        (lambda m: m.binary_crossentropy(np.eye(3), square, axis=2), "out of bounds"),
        (lambda m: m.categorical_crossentropy(np.eye(3), square, axis=5), "out of bounds"),
        (lambda m: m.categorical_crossentropy(np.eye(3), square, axis=True), "of type `int`"),
        (lambda m: m.categorical_focal_crossentropy(np.eye(3), square, axis=True), "of type `int`"),
        (lambda m: m.binary_focal_crossentropy(three, two), "must have the same shape"),
        (lambda m: m.binary_crossentropy(np.array(0), np.array(0.5)), "out of bounds"),
    ]:
        assert match in assert_same_error(call)


def test_unknown_reduction() -> None:
    for m in (ours, theirs):
        with pytest.raises(ValueError, match=r"Invalid value for argument `reduction`.*=avg$"):
            m.KLDivergence(reduction="avg")


@pytest.mark.parametrize("name", ["CategoricalCrossentropy", "CategoricalFocalCrossentropy"])
def test_one_class_is_warned_of(name: str) -> None:
    t, x = np.ones((3, 1)), np.ones((3, 1))
    messages = []
    for m in (ours, theirs):
        with pytest.warns(SyntaxWarning, match="num_classes > 1") as record:
            getattr(m, name)()(t, x)
        messages.append([str(w.message) for w in record])
    assert messages[0] == messages[1]


# --- better than there, on purpose ----------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"from_logits": True}])
def test_class_out_of_range(options: dict[str, Any]) -> None:
    x = np.full((2, 3), 1 / 3)
    loss = ours.SparseCategoricalCrossentropy(**options)
    for bad, got in [(3, "3"), (-1, "-1"), (2**40, "1099511627776"), (3.0, "3.0"), (nan, "nan")]:
        message = rf"labels must be in \[0, 3\), got {got} at row 1"
        with pytest.raises(IndexError, match=message):
            loss(np.array([0, bad]), x)
        with pytest.raises(IndexError, match=message):
            ours.sparse_categorical_crossentropy(np.array([0, bad]), x, **options)
    with pytest.raises(IndexError, match=r"got 3 at row \(1, 0\)"):
        loss(np.array([[0, 1], [3, 0]]), np.full((2, 2, 3), 1 / 3))
    with pytest.raises(IndexError, match=r"got 3$"):
        loss(np.array(3), x[0])
    with pytest.raises(IndexError, match="index 3 is out of bounds"):
        theirs.SparseCategoricalCrossentropy(**options)(np.array([0, 3]), x)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("ignore", [None, 1, -1])
def test_smoothing_of_class_indices(from_logits: bool, ignore: int | None) -> None:
    rng = np.random.default_rng(5)
    _, p, logits = arguments("sparse", rng, (40, 5), -1)
    t = rng.integers(5, size=40).astype(np.uint8)
    options: dict[str, Any] = {"label_smoothing": 0.2, "from_logits": from_logits}
    x = logits if from_logits else p
    dense = ours.CategoricalCrossentropy(**options, reduction=None)(np.eye(5)[t], x)
    loss = ours.SparseCategoricalCrossentropy(**options, ignore_class=ignore, reduction=None)
    expected = dense if ignore is None else np.where(t == ignore, 0, dense)
    np.testing.assert_allclose(loss(t, x), expected, rtol=2e-6)
    found = ours.sparse_categorical_crossentropy(t, x, ignore_class=ignore, **options)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_a_bad_binary_label_is_placed_in_the_whole() -> None:
    t, x = np.zeros((3000, 200)), np.full((3000, 200), 0.5, np.float32)
    t[2900, 7] = 2
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\], got 2.0 at \(2900, 7\)"):
        ours.BinaryCrossentropy()(t, x)


def test_smoothing_out_of_range() -> None:
    for name in CLASSES[:-1]:
        t = np.array([0, 1]) if "Sparse" in name else np.eye(2)
        with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
            getattr(ours, name)(label_smoothing=1.5)(t, np.eye(2))


def test_a_scalar_weighs_a_masked_loss() -> None:
    x = np.random.default_rng(4).normal(size=(3, 4))
    loss = ours.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    once, twice = (loss(np.array([1, 0, 2]), x, sample_weight=w) for w in (1, 2))
    assert once == loss(np.array([1, 0, 2]), x) == twice / 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_class_indices_are_not_rounded(dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    x = np.zeros((1, 4000), np.float32)
    x[0, 3001] = 20
    found = ours.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)(np.array([3001]), x)
    assert float(found) < 1e-4


def test_a_masked_class_is_no_nan() -> None:
    x = np.array([[1.0, -np.inf, 2.0]])
    expected = np.log1p(np.exp(-1))
    found = ours.SparseCategoricalCrossentropy(from_logits=True)(np.array([2]), x)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    found = ours.CategoricalCrossentropy(from_logits=True)(np.array([[0, 0, 1]]), x)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_half_precision_is_finite() -> None:
    t = np.array([[1.0], [0.0]], np.float16)
    found = ours.BinaryCrossentropy(reduction=None, dtype="float16")(t, np.ones((2, 1)))
    np.testing.assert_array_equal(found, np.float16([1.1920929e-07, 15.942385]))
    x = np.zeros((1, 70_000), np.float16)
    found = ours.sparse_categorical_crossentropy(np.array([0]), x, from_logits=True)
    assert found.dtype == np.float16
    assert float(found[0]) == pytest.approx(np.log(70_000), rel=1e-3)


def test_a_confident_row_keeps_its_digits() -> None:
    x = np.array([[20.0, 0, 0]], np.float32)
    found = ours.sparse_categorical_crossentropy(np.array([0]), x, from_logits=True)
    assert float(found[0]) == pytest.approx(np.log1p(2 * np.exp(-20)), rel=1e-6)


@pytest.mark.parametrize("from_logits", [True, False])
def test_an_ignored_row_leaks_nothing(from_logits: bool) -> None:
    x = np.array([[0.2, 0.8], [np.nan, np.inf]])
    loss = ours.SparseCategoricalCrossentropy(from_logits=from_logits, ignore_class=-1)
    alone = ours.SparseCategoricalCrossentropy(from_logits=from_logits)
    with np.errstate(all="raise"):
        assert loss(np.array([1, -1]), x) == alone(np.array([1]), x[:1])
        assert loss(np.array([-1, -1]), x) == 0


def test_the_table_on_the_backend_of_jax() -> None:
    code = [sys.executable, "-P", "-m", "pytest", "-q", "-x", __file__, "-p", "no:cacheprovider"]
    code += ["-k", "classes or functions or odd or those_of_the_backend or clipping"]
    environment = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(code, env=environment, capture_output=True, encoding="utf-8")
    assert found.returncode == 0, found.stdout[-4000:]


def test_a_weight_of_zero_counts_nothing() -> None:
    x, t = np.array([[nan, 0.0], [1, 2], [-inf, 0]]), np.array([0, 1, 0])
    weight = np.array([0.0, 1, 0])
    for name in ("BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"):
        y = t if "Sparse" in name else np.eye(2)[t]
        loss = getattr(ours, name)(from_logits=True, reduction="mean_with_sample_weight")
        assert loss(y, x, sample_weight=weight) == loss(y[1:2], x[1:2])


def test_importing_imports_no_keras() -> None:
    code = "import sys, xentfast.dropin.keras; assert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
