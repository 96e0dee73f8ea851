"""Infinities, nan, ignored rows, no rows, weights of 0, extreme numbers, unusual arguments."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xentfast
from cases import ALL_CASES, DIVERGENCES, DTYPES, GRADIENT_CASES, REDUCTIONS, Array, Case
from compare import BOUND, assert_all_same_bits, assert_same_bits, outputs
from xentfast import _checks, reference

INF, NAN = np.inf, np.nan


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def both(logits: Any, labels: Any, dtype: str, **kwargs: Any) -> tuple[Any, Array]:
    kwargs = {"reduction": "none"} | kwargs
    value, gradient = xentfast.cross_entropy_value_and_grad(
        np.array(logits, dtype), np.asarray(labels), **kwargs
    )
    return value, gradient


def assert_rows(found: Any, expected: Any, dtype: str) -> None:
    """Compare with nan and inf in place, entries relative to themselves, and a 0 exactly."""
    assert np.asarray(found).dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=BOUND[dtype], atol=0)


# --- confident rows -------------------------------------------------------------------------------


def test_a_confident_row_keeps_its_digits(isa: str) -> None:
    loss, gradient = both([20, 0, 0], 0, "float32")
    assert loss == pytest.approx(4.122307e-09, rel=1e-6, abs=0)
    np.testing.assert_allclose(gradient, [-4.122307e-09, 2.0611537e-09, 2.0611537e-09], rtol=2e-6)

    loss, gradient = both([40, 0, 0], 0, "float64")
    assert loss == pytest.approx(8.496708510583178e-18, rel=1e-14, abs=0)
    np.testing.assert_allclose(gradient, loss * np.array([-1, 0.5, 0.5]), rtol=1e-14)


def test_a_confident_row_with_a_one_hot_label(dtype: str, isa: str) -> None:
    loss, gradient = both([20, 0, 0], np.array([1, 0, 0], dtype), dtype)
    expected = reference.cross_entropy_value_and_grad([20, 0, 0], 0)
    np.testing.assert_allclose(loss, expected[0], rtol=6e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_allclose(gradient, expected[1], rtol=6e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("margin", [30, 50, 80])
def test_a_confident_entry(margin: int, dtype: str, isa: str) -> None:
    """Right by a margin: loss and gradient are about e^-margin. Wrong by it: the margin and 1."""
    x = np.array([margin, -margin, margin, -margin], dtype)
    loss, gradient = xentfast.binary_cross_entropy_value_and_grad(x, [1, 0, 0, 1], reduction="none")
    tail = np.exp(-np.float64(margin))
    rtol = 6e-6 if dtype == "float32" else 1e-14
    right, wrong = np.log1p(tail), margin + np.log1p(tail)
    np.testing.assert_allclose(loss, [right, right, wrong, wrong], rtol=rtol)
    right, wrong = tail / (1 + tail), 1 / (1 + tail)
    np.testing.assert_allclose(gradient, [-right, right, wrong, -wrong], rtol=rtol)


# --- infinite logits and nan ----------------------------------------------------------------------


def test_minus_infinity_is_a_masked_class(dtype: str, isa: str) -> None:
    loss, gradient = both([[1, -INF, 2], [-INF, 3, -INF]], [0, 1], dtype)
    expected = reference.cross_entropy_value_and_grad([1, 2], 0)
    assert_rows(loss, [expected[0], 0], dtype)
    assert_rows(gradient, [[expected[1][0], 0, expected[1][1]], [0, 0, 0]], dtype)


def test_a_masked_label_costs_infinitely(dtype: str, isa: str) -> None:
    loss, gradient = both([0, -INF, 0], 1, dtype)
    assert loss == INF
    assert_rows(gradient, [0.5, -1, 0.5], dtype)


def test_a_dense_label_of_zero_on_a_masked_class_costs_nothing(dtype: str, isa: str) -> None:
    loss, gradient = both([0, -INF, 0], np.array([0.5, 0, 0.5], dtype), dtype)
    assert_rows(loss, np.log(2), dtype)
    np.testing.assert_array_equal(gradient, [0, 0, 0])


def test_smoothing_over_a_masked_class_costs_infinitely(dtype: str, isa: str) -> None:
    loss, gradient = both([0, -INF, 0], 0, dtype, label_smoothing=0.3)
    assert loss == INF
    np.testing.assert_allclose(gradient, [-0.3, -0.1, 0.4], rtol=1e-6)


@pytest.mark.parametrize("row", [[NAN, 1, 2], [1, INF, 2], [-INF, -INF, -INF], [INF, -INF, NAN]])
@pytest.mark.parametrize("labels", ["index", "dense"])
@pytest.mark.parametrize("classes", [3, 40, 1500])
def test_nan_spoils_its_own_row(
    row: list[float], labels: str, classes: int, dtype: str, isa: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, classes))
    x[1] = row[0]
    x[1, [classes // 2, -1]] = row[1:]
    t: Array = np.array([0, 2, 1])
    if labels == "dense":
        t = np.eye(classes, dtype=dtype)[t]
    loss, gradient = both(x, t, dtype)
    sound = [0, 2]
    expected = both(x[sound], t[sound], dtype)
    assert np.isnan(loss[1])
    assert np.isnan(gradient[1]).all()
    assert_same_bits(loss[sound], expected[0], "loss of other rows")
    assert_same_bits(gradient[sound], expected[1], "gradient of other rows")

    loss, gradient = both(x, t, dtype, reduction="mean")
    assert np.isnan(loss)
    assert np.isnan(gradient[1]).all()
    assert np.isfinite(gradient[sound]).all()


def test_logsumexp_of_infinities(dtype: str, isa: str) -> None:
    x = [[-INF] * 3, [0, INF, -INF], [INF, NAN, 0], [1, -INF, 1], [NAN, -INF, -INF]]
    assert_rows(xentfast.logsumexp(np.array(x, dtype)), [-INF, INF, NAN, 1 + np.log(2), NAN], dtype)


def test_softmax_of_infinities(dtype: str, isa: str) -> None:
    x = np.array([[-INF] * 3, [0, INF, -INF], [INF, NAN, 0], [1, -INF, 1]], dtype)
    assert_rows(xentfast.softmax(x), [[NAN] * 3] * 3 + [[0.5, 0, 0.5]], dtype)
    expected = [[NAN] * 3] * 3 + [[-np.log(2), -INF, -np.log(2)]]
    assert_rows(xentfast.log_softmax(x), expected, dtype)


def test_binary_of_infinities(dtype: str, isa: str) -> None:
    x = np.array([INF, INF, -INF, -INF, NAN, INF, -INF], dtype)
    t = np.array([1, 0, 0, 1, 0, 0.5, 0.5], dtype)
    loss, gradient = xentfast.binary_cross_entropy_value_and_grad(x, t, reduction="none")
    assert_rows(loss, [0, INF, 0, INF, NAN, INF, INF], dtype)
    assert_rows(gradient, [0, 1, 0, -1, NAN, 0.5, -0.5], dtype)


# --- probabilities at their ends ------------------------------------------------------------------


def test_index_labels_look_at_one_probability(dtype: str, isa: str) -> None:
    p = [[0, 0.5, 0.5], [1, 0, 0], [NAN, 0.25, -1], [0.5, -0.5, 1]]
    loss, gradient = both(p, [0, 0, 1, 1], dtype, from_logits=False)
    assert_rows(loss, [INF, 0, np.log(4), NAN], dtype)
    assert_rows(gradient[:3], [[-INF, 0, 0], [-1, 0, 0], [0, -4, 0]], dtype)


def test_dense_labels_of_zero_do_not_look(dtype: str, isa: str) -> None:
    p = [[0, 0.5, 0.5], [0, 0.5, 0.5], [-0.5, 0.5, 1]]
    t = np.array([[0, 1, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]], dtype)
    loss, gradient = both(p, t, dtype, from_logits=False)
    assert_rows(loss, [np.log(2), INF, NAN], dtype)
    assert_rows(gradient[:2], [[0, -2, 0], [-INF, -1, 0]], dtype)


def test_probabilities_are_neither_clipped_nor_normalised(dtype: str, isa: str) -> None:
    small = np.finfo(dtype).tiny
    loss, gradient = both([[small, 3], [1, 1]], [0, 1], dtype, from_logits=False)
    assert_rows(loss, [-np.log(np.float64(small)), 0], dtype)
    assert_rows(gradient, [[-1 / np.float64(small), 0], [0, -1]], dtype)


@pytest.mark.parametrize("step", [1, 3])
def test_what_is_no_probability(step: int, dtype: str, isa: str) -> None:
    """One rule: up to 8 units of the last place above 1 count as 1, what else is outside is nan."""
    unit = float(np.finfo(dtype).eps)
    odd = np.array([1 + unit, 1 + 8 * unit, 1 + 9 * unit, 1.5, INF, -unit, -1, NAN, -0.0], dtype)
    losses = [0, 0, NAN, NAN, NAN, NAN, NAN, NAN, INF]
    slopes = [-1, -1, NAN, NAN, NAN, NAN, NAN, NAN, -INF]
    p = np.full((len(odd), 5 * step), 0.25, dtype)[:, ::step]
    p[:, 1] = odd
    rest = np.log(4)
    onehot = np.zeros(p.shape)
    onehot[:, 1] = 1
    index = np.ones(len(odd), int)
    for y in (index, onehot.astype(dtype), onehot.astype(bool)):
        loss, gradient = both(p, y, dtype, from_logits=False)
        assert_rows(loss, losses, dtype)
        assert_rows(gradient[:, 1], slopes, dtype)
        np.testing.assert_array_equal(gradient[:, [0, 2, 3, 4]], 0)
    for y in (index, onehot.astype(dtype)):
        loss, gradient = both(p, y, dtype, from_logits=False, label_smoothing=0.5)
        assert_rows(loss, 0.6 * np.array(losses) + 0.4 * rest, dtype)
        assert_rows(gradient[:, 1], 0.6 * np.array(slopes), dtype)
        np.testing.assert_allclose(gradient[:, 0], -0.4, rtol=1e-6)
    loss, gradient = both(p, index - 1, dtype, from_logits=False)  # those are not looked at
    assert_rows(loss, [rest] * len(odd), dtype)
    for kwargs in ({}, {"sample_weight": 1.0}):
        loss, gradient = xentfast.binary_cross_entropy_value_and_grad(
            p[:, 1], index, from_logits=False, reduction="none", **kwargs
        )
        assert_rows(loss, losses, dtype)
        assert_rows(gradient, slopes, dtype)
        loss, gradient = xentfast.binary_cross_entropy_value_and_grad(
            p[:, 1], 0 * index, from_logits=False, reduction="none", **kwargs
        )
        assert_rows(loss, [INF, INF, *[NAN] * 6, 0], dtype)
        assert_rows(gradient, [INF, INF, *[NAN] * 6, 1], dtype)
    found = reference.cross_entropy_value_and_grad(p, index, from_logits=False, reduction="none")
    assert_rows(found[0].astype(dtype), losses, dtype)
    assert_rows(found[1][:, 1].astype(dtype), slopes, dtype)


def test_a_half_above_one_is_no_probability(isa: str) -> None:
    """The next one is beyond what rounding of the float32 that it is computed in may leave."""
    p = np.array([[1, 0], [1 + 2**-10, 0]], np.float16)
    loss = xentfast.cross_entropy(p, [0, 0], from_logits=False, reduction="none")
    np.testing.assert_array_equal(loss, [0, NAN])
    theirs = reference.cross_entropy(p, [0, 0], from_logits=False, reduction="none")
    np.testing.assert_array_equal(theirs, [0, NAN])


def test_binary_probabilities_at_their_ends(dtype: str, isa: str) -> None:
    p = np.array([1, 0, 1, 0, -0.1, 1.1, NAN, 0.5], dtype)
    t = np.array([1, 0, 0, 1, 0, 1, 0, 0.5], dtype)
    loss, gradient = xentfast.binary_cross_entropy_value_and_grad(
        p, t, from_logits=False, reduction="none"
    )
    assert_rows(loss, [0, 0, INF, INF, NAN, NAN, NAN, np.log(2)], dtype)
    assert_rows(gradient, [-1, 1, INF, -INF, NAN, NAN, NAN, 0], dtype)


def test_entropy_at_the_ends(dtype: str, isa: str) -> None:
    p = np.array([[0, 1, 0], [1, 0, 0], [-0.1, 0.6, 0.5], [NAN, 0, 1], [0, 0, 0]], dtype)
    assert_rows(xentfast.entropy(p), [0, 0, NAN, NAN, 0], dtype)
    assert np.isnan(xentfast.entropy(np.zeros(3, dtype), normalize=True))
    for row in ([-1, -1, 0.6], [1, -3, 1], [0.5, 0.5, -3]):  # the largest is negative, divided
        assert np.isnan(xentfast.entropy(np.array(row, dtype), normalize=True))


def test_divergences_at_the_ends(dtype: str, isa: str) -> None:
    p = np.array([[0, 1, 0], [0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [-0.5, 1, 0.5]], dtype)
    q = np.array([[0, 1, 0], [1, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]], dtype)
    assert_rows(xentfast.kl_divergence(p, q), [0, INF, 0, INF, NAN], dtype)
    expected = [0, 0.75 * np.log(4 / 3), 0, np.log(2) / 2, NAN]
    assert_rows(xentfast.js_divergence(p, q), expected, dtype)


def test_divergence_of_numbers_whose_ratio_overflows(dtype: str, isa: str) -> None:
    small = np.finfo(dtype).tiny / 64
    p, q = np.array([1, 0], dtype), np.array([small, 1], dtype)
    expected = -np.log(np.float64(q[0]))
    assert xentfast.kl_divergence(p, q) == pytest.approx(expected, rel=1e-6)


def test_rows_whose_sum_or_its_inverse_overflows(dtype: str, isa: str) -> None:
    p, q = np.array([[3, 1, 0, 4]], dtype), np.array([[1, 1, 2, 4]], dtype)
    info = np.finfo(dtype)
    for scale in (info.max / 4.5, info.smallest_subnormal * 2.0**10):
        for n in (4, 3000):  # one block, and several whose sum overflows only in all
            near, far = (np.tile(a, n // 4) * info.dtype.type(scale) for a in (p, q))
            for function in DIVERGENCES:
                found = function(near, far, normalize=True)
                assert_rows(found, function(p, q, normalize=True), dtype)
            more = np.log(n // 4)
            found = xentfast.entropy(near, normalize=True)
            assert_rows(found, xentfast.entropy(p, normalize=True) + more, dtype)


def test_js_divergence_of_disjoint_distributions(dtype: str, isa: str) -> None:
    p, q = np.array([1, 0], dtype), np.array([0, 1], dtype)
    assert xentfast.js_divergence(p, q) == pytest.approx(np.log(2), rel=BOUND[dtype])
    assert xentfast.js_divergence(p, q, base=2) == pytest.approx(1, rel=BOUND[dtype])


def test_is_distribution(dtype: str, isa: str) -> None:
    atol = np.sqrt(np.finfo(dtype).eps)
    p = np.array([[0.5, 0.5], [1.5, -0.5], [NAN, 1], [0.5, 0.25], [0, 1], [INF, 0]], dtype)
    found = xentfast.is_distribution(p)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, [True, False, False, False, True, False])
    assert xentfast.is_distribution(np.array([0.5, 0.5 + atol / 2], dtype))
    assert not xentfast.is_distribution(np.array([0.5, 0.5 + atol * 2], dtype))
    assert xentfast.is_distribution(np.array([0.5, 0.25], dtype), atol=0.3)
    assert not xentfast.is_distribution(np.array([0.5, 0.25], dtype), atol=0.2)
    assert not xentfast.is_distribution(np.array([0.75, 0.5, -0.25], dtype))
    np.testing.assert_array_equal(xentfast.is_distribution([[0, 2], [1, 1]], axis=0), [True, False])


# --- ignored rows, no rows, weights ---------------------------------------------------------------


def test_an_ignored_row_is_exactly_zero_whatever_it_holds(dtype: str, isa: str) -> None:
    x = [[NAN, 1, 2], [0, 0, 0], [INF, 1, 2], [-INF] * 3]
    labels = [-100, 1, -100, -100]
    loss, gradient = both(x, labels, dtype, ignore_index=-100)
    assert_rows(loss, [0, np.log(3), 0, 0], dtype)
    np.testing.assert_array_equal(gradient[[0, 2, 3]], np.zeros((3, 3)))
    # and not counted
    loss, gradient = both(x, labels, dtype, ignore_index=-100, reduction="mean")
    assert_rows(loss, np.log(3), dtype)
    assert_rows(gradient[1], [1 / 3, -2 / 3, 1 / 3], dtype)


def test_an_ignored_row_is_zero_with_every_option(dtype: str, isa: str) -> None:
    loss, gradient = both(
        np.full((2, 3), NAN), [0, 0], dtype, ignore_index=0, label_smoothing=0.5, z_loss=1.0,
        class_weight=[1, 2, 3], sample_weight=[4, 5], reduction="sum",
    )  # fmt: skip
    assert loss == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("labels", "ignore_index"),
    [
        (np.array([0, 1], np.uint8), -100),
        (np.array([0, 1], np.uint8), 256),
        (np.array([0, 1], np.int8), 1 + 2**8),
        (np.array([0, 1], np.uint64), -1),
        (np.array([0, 1], np.int64), 2**64),
        (np.array([0, 1], np.int32), 1 + 2**32),
        (np.array([0, 1], np.int16), -(2**70)),
    ],
)
def test_an_ignore_index_beyond_the_dtype_matches_nothing(
    labels: Array, ignore_index: int, dtype: str
) -> None:
    x = np.array([[1, 2], [3, 5]], dtype)
    found = xentfast.cross_entropy(x, labels, ignore_index=ignore_index, reduction="none")
    assert_same_bits(found, xentfast.cross_entropy(x, labels, reduction="none"), "not ignored")


@pytest.mark.parametrize("name", ["uint64", "uint32", "uint16", "uint8"])
def test_the_largest_label_may_be_ignored(name: str, dtype: str) -> None:
    largest = np.iinfo(name).max
    labels = np.array([largest, 1], name)
    x = np.array([[NAN, NAN], [0, 0]], dtype)
    found = xentfast.cross_entropy(x, labels, ignore_index=int(largest))
    assert_rows(found, np.log(2), dtype)


@pytest.mark.parametrize("classes", [1, 3, 100])
def test_all_ignored(classes: int, dtype: str, isa: str) -> None:
    x, labels = np.ones((5, classes)), np.full(5, -1)
    for reduction, expected in (("mean", NAN), ("sum", 0), ("none", np.zeros(5))):
        loss, gradient = both(x, labels, dtype, ignore_index=-1, reduction=reduction)
        np.testing.assert_array_equal(loss, expected)
        np.testing.assert_array_equal(gradient, np.zeros((5, classes)))


@pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
def test_no_rows(case: Case, dtype: str) -> None:
    args, kwargs = case.inputs(dtype, (0, 7))
    shape = (0, 7) if case.elementwise else (0,)
    function = getattr(xentfast, f"{case.function}_value_and_grad")
    for reduction, expected in (("mean", NAN), ("sum", 0), ("none", np.empty(shape))):
        loss, gradient = function(*args, **kwargs, reduction=reduction)
        np.testing.assert_array_equal(loss, expected)
        assert np.shape(loss) == np.shape(expected)
        assert gradient.shape == (0, 7)
        assert loss.dtype == gradient.dtype == dtype


def test_no_rows_in_two_axes(dtype: str) -> None:
    x = np.empty((3, 4, 0), dtype)
    labels = np.empty((3, 0), np.int64)
    assert xentfast.cross_entropy(x, labels, axis=1, reduction="none").shape == (3, 0)
    assert xentfast.cross_entropy_grad(x, labels, axis=1).shape == (3, 4, 0)
    assert xentfast.softmax(x, axis=1).shape == (3, 4, 0)
    assert xentfast.logsumexp(x, axis=1).shape == (3, 0)


@pytest.mark.parametrize("value", [0, -3.5, 1e30, -1e30])
def test_one_class_costs_nothing(value: float, dtype: str, isa: str) -> None:
    x, labels = np.full((20, 1), value), np.zeros(20, int)
    for kwargs in ({}, {"label_smoothing": 0.3}, {"class_weight": [3.0]}):
        loss, gradient = both(x, labels, dtype, **kwargs)
        np.testing.assert_array_equal(loss, np.zeros(20))
        np.testing.assert_array_equal(gradient, np.zeros((20, 1)))


def test_mean_divides_by_the_weights_of_the_labels(dtype: str, isa: str) -> None:
    x = np.log([[1, 2, 1], [1, 1, 2], [2, 1, 1]])
    w, a = [1, 2, 4], [3, 1, 0.5]
    rows = np.log([2, 4, 2])  # of labels 1, 0, 0
    found, _ = both(x, [1, 0, 0], dtype, class_weight=w, sample_weight=a, reduction="mean")
    expected = (2 * 3 * rows[0] + 1 * rows[1] + 0.5 * rows[2]) / (2 * 3 + 1 + 0.5)
    assert_rows(found, expected, dtype)
    # dense labels count by their sample weights alone
    dense = np.eye(3, dtype=dtype)[[1, 0, 0]]
    found, _ = both(x, dense, dtype, class_weight=w, sample_weight=a, reduction="mean")
    assert_rows(found, expected * 7.5 / 4.5, dtype)


def test_z_loss_by_hand(dtype: str, isa: str) -> None:
    """Class weights leave z_loss alone; sample weights do not."""
    x = np.log([[1, 2, 1], [3, 3, 2]])
    loss, gradient = both(
        x, [1, 2], dtype, z_loss=0.25, class_weight=[1, 2, 4], sample_weight=[3, 1]
    )
    lse = np.log([4, 8])
    assert_rows(
        loss, [3 * (2 * np.log(2) + lse[0] ** 2 / 4), 8 * np.log(2) + lse[1] ** 2 / 4], dtype
    )
    p = np.array([[1, 2, 1], [3, 3, 2]]) / [[4], [8]]
    onehot = np.array([[0, 2, 0], [0, 0, 4]])
    expected = [[3], [1]] * ((np.array([[2], [4]]) + 0.5 * lse[:, np.newaxis]) * p - onehot)
    np.testing.assert_allclose(gradient, expected, rtol=10 * BOUND[dtype])


def test_weights_of_zero(dtype: str, isa: str) -> None:
    x, labels = np.array([[0, 0], [1, 2]]), [0, 1]
    for kwargs in ({"sample_weight": [0, 0]}, {"class_weight": [0, 0]}, {"sample_weight": 0}):
        loss, gradient = both(x, labels, dtype, reduction="mean", **kwargs)
        assert np.isnan(loss)
        np.testing.assert_array_equal(gradient, np.zeros((2, 2)))
        loss, gradient = both(x, labels, dtype, reduction="sum", **kwargs)
        assert loss == 0
        np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"class_weight": [0, 1], "label_smoothing": 0.5},
        {"class_weight": [0, 1], "z_loss": 0.5},
        {"sample_weight": [0, 0]},
    ],
)
def test_the_mean_of_what_weighs_nothing_has_no_gradient(
    kwargs: dict[str, Any], dtype: str, isa: str
) -> None:
    """Whatever the rows' own gradients would be, those of other classes or of nan among them."""
    value, gradient = both([[1, 2], [NAN, 0]], [0, 0], dtype, reduction="mean", **kwargs)
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


@pytest.mark.parametrize("weight", [1e-60, 1e35, 1e300])
@pytest.mark.parametrize("from_logits", [True, False])
def test_a_mean_of_weights_beyond_float32(weight: float, from_logits: bool, isa: str) -> None:
    p = np.array([[0.5, 0.25, 0.25], [0.125, 0.375, 0.5]], np.float32)
    args, weights = (p, [2, 0]), np.array([1, 3]) * weight
    value, gradient = xentfast.cross_entropy_value_and_grad(
        *args, from_logits=from_logits, sample_weight=weights
    )
    expected = xentfast.cross_entropy_value_and_grad(
        *args, from_logits=from_logits, sample_weight=[1, 3]
    )
    assert_rows(value, expected[0], "float32")
    assert_rows(gradient, expected[1], "float32")


def test_a_weight_of_zero(dtype: str, isa: str) -> None:
    """A row of weight 0 counts nothing, whatever it holds."""
    x = [[NAN, 1], [0, -INF], [-INF, -INF], [INF, 0], [0, 0]]
    labels, weights = np.array([0, 1, 1, 0, 1]), [0, 0, 0, 0, 1]
    onehot = np.eye(2)[labels]
    for kwargs in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.5}, {"class_weight": [2, 3]}):
        expected = both([[0, 0]], [1], dtype, **kwargs)
        for y in (labels, onehot, onehot.astype(bool)):
            for reduction in ("none", "sum", "mean"):
                loss, gradient = both(
                    x, y, dtype, sample_weight=weights, reduction=reduction, **kwargs
                )
                if reduction == "none":
                    assert_rows(loss, [0, 0, 0, 0, *expected[0]], dtype)
                elif reduction == "sum":
                    assert_rows(loss, expected[0][0], dtype)
                if reduction != "mean":
                    assert_rows(gradient, [[0, 0]] * 4 + [*expected[1]], dtype)
                assert np.isfinite(loss).all()
                np.testing.assert_array_equal(gradient[:4], np.zeros((4, 2)))


def test_a_weight_of_zero_from_probabilities(dtype: str, isa: str) -> None:
    p = [[NAN, 1], [1, 0], [3, -2], [0.5, 0.5]]
    labels = np.array([0, 1, 1, 1])
    for y in (labels, np.eye(2)[labels]):
        for kwargs in ({}, {"label_smoothing": 0.25}):
            loss, gradient = both(
                p, y, dtype, sample_weight=[0, 0, 0, 2], from_logits=False, **kwargs
            )
            assert_rows(loss, [0, 0, 0, 2 * np.log(2)], dtype)
            np.testing.assert_array_equal(gradient[:3], np.zeros((3, 2)))


def test_labels_of_a_class_of_weight_zero(dtype: str, isa: str) -> None:
    """Their rows weigh nothing, unless something else than the label costs."""
    x = [[NAN, 1], [INF, 0], [0, 0], [0, 0]]
    loss, gradient = both(x, [0, 0, 0, 1], dtype, class_weight=[0, 1])
    assert_rows(loss, [0, 0, 0, np.log(2)], dtype)
    assert_rows(gradient, [[0, 0], [0, 0], [0, 0], [0.5, -0.5]], dtype)
    for kwargs in ({"label_smoothing": 0.5}, {"z_loss": 0.5}):
        loss, gradient = both(x, [0, 0, 0, 1], dtype, class_weight=[0, 1], **kwargs)
        assert np.isnan(loss[:2]).all()
        assert np.isnan(gradient[:2]).all()
        assert loss[2] > 0


def test_a_class_weight_of_zero_takes_its_term_away(dtype: str, isa: str) -> None:
    loss, gradient = both([0, -INF, 0], 1, dtype, class_weight=[1, 0, 1])
    assert loss == 0
    np.testing.assert_array_equal(gradient, [0, 0, 0])


def test_binary_weights_of_zero(dtype: str, isa: str) -> None:
    x = np.array([1, INF, -INF], dtype)
    value, gradient = xentfast.binary_cross_entropy_value_and_grad(x, [1, 1, 1], sample_weight=0)
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, [0, 0, 0])
    value, gradient = xentfast.binary_cross_entropy_value_and_grad(
        [NAN, 1], [1, 1], sample_weight=0
    )
    assert np.isnan(value)
    np.testing.assert_array_equal(gradient, [0, 0])
    value, gradient = xentfast.binary_cross_entropy_value_and_grad(
        x, [1, 1, 1], pos_weight=0, reduction="none"
    )
    np.testing.assert_array_equal(value, [0, 0, 0])
    np.testing.assert_array_equal(gradient, [0, 0, 0])


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_binary_entries_of_weight_zero(
    smoothing: float, from_logits: bool, dtype: str, isa: str
) -> None:
    """Entries of weight 0, and positive ones of which the class weighs nothing."""
    x = np.tile(np.array([NAN, INF, -INF, -3, 0, 1, 2], dtype), (6, 1))
    t = np.repeat([0, 1, 0.25, 0, 1, 1], 7).reshape(6, 7)
    weight = np.array([0, 0, 0, 1, 1, 1])[:, np.newaxis]
    kwargs = {"from_logits": from_logits, "label_smoothing": smoothing, "sample_weight": weight}
    for positive in (None, 0, 2):
        value, gradient = xentfast.binary_cross_entropy_value_and_grad(
            x, t, pos_weight=positive, reduction="none", **kwargs
        )
        alone, slope = xentfast.binary_cross_entropy_value_and_grad(
            x[3:], t[3:], pos_weight=positive, reduction="none", **kwargs | {"sample_weight": None}
        )
        for found, expected in ((value, alone), (gradient, slope)):
            np.testing.assert_array_equal(found[:3], np.zeros((3, 7)))
            assert_same_bits(found[3:], expected, "the others")
            assert np.isnan(found[3, 0])
        if positive == 0 and not smoothing:
            np.testing.assert_array_equal(value[4:], np.zeros((2, 7)))
            np.testing.assert_array_equal(gradient[4:], np.zeros((2, 7)))


@pytest.mark.parametrize("where", ["before", "behind"])
def test_sample_weights_broadcast(where: str, dtype: str) -> None:
    """To the leading shape, or with the axis of the classes of length 1."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(5, 4, 3)), rng.integers(3, size=(5, 4))
    axis = -1 if where == "behind" else 0
    x = np.moveaxis(x, -1, axis)
    for shape in ((5, 4), (5, 1), (1, 4), (4,), (1,), (1, 1)):
        w = rng.random(shape)
        full = np.broadcast_to(w, (5, 4)).copy()
        expected = both(x, y, dtype, axis=axis, sample_weight=full, reduction="mean")
        kept = np.expand_dims(w, axis) if w.ndim == 2 else w
        for weight in (w, kept):
            found = both(x, y, dtype, axis=axis, sample_weight=weight, reduction="mean")
            assert_same_bits(found[0], expected[0], f"loss, {shape}")
            assert_same_bits(found[1], expected[1], f"gradient, {shape}")
            theirs = reference.cross_entropy(x.astype(dtype), y, axis=axis, sample_weight=weight)
            assert_rows(found[0], theirs, dtype)
    t, w = rng.integers(2, size=(5, 4)), rng.random((5, 1))
    found = xentfast.binary_cross_entropy(t - 0.5, t, sample_weight=w)
    assert_same_bits(
        found, xentfast.binary_cross_entropy(t - 0.5, t, sample_weight=np.repeat(w, 4, 1)), "binary"
    )


@pytest.mark.parametrize("weight", [True, 2, np.float32(2), np.array(2, np.uint8), [2, 2, 2]])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sample_weight_may_be_a_scalar(weight: Any, reduction: str, dtype: str) -> None:
    x, labels = np.arange(6.0).reshape(3, 2), [0, 1, 0]
    found = both(x, labels, dtype, sample_weight=weight, reduction=reduction)
    expected = both(x, labels, dtype, reduction=reduction)
    factor = 1 if reduction == "mean" or weight is True else 2
    assert_rows(found[0], factor * expected[0], dtype)
    assert_rows(found[1], factor * expected[1], dtype)


@pytest.mark.parametrize(
    "name", ["bool", "uint8", "int16", "float16", "bfloat16", "float32", "float64"]
)
def test_weights_of_any_real_dtype(name: str, dtype: str) -> None:
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")  # NumPy knows the name from then on
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(9, 4)), rng.integers(4, size=9)
    a, w = rng.integers(2, size=9), rng.integers(1, 9, size=4)
    plain = both(x, labels, dtype, sample_weight=a.astype(dtype), class_weight=w.astype(dtype))
    kwargs = {"sample_weight": a.astype(name)} | (
        {} if name == "bool" else {"class_weight": w.astype(name)}
    )
    found = both(x, labels, dtype, **{"class_weight": w.astype(dtype)} | kwargs)
    assert_same_bits(found[0], plain[0], "loss")
    assert_same_bits(found[1], plain[1], "gradient")


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("kind", ["int", "uint"])
def test_the_largest_weight_of_a_dtype(kind: str, bits: int, dtype: str) -> None:
    largest = np.array([np.iinfo(f"{kind}{bits}").max], f"{kind}{bits}")
    x, wide = np.array([[0, 1]], dtype), largest.astype(np.float64)
    for name, weight in ("sample_weight", largest), ("class_weight", largest.repeat(2)):
        found = xentfast.cross_entropy(x, [0], **{name: weight}, reduction="sum")
        same = {name: weight.astype(wide.dtype)}
        assert found == xentfast.cross_entropy(x, [0], **same, reduction="sum")
        assert found > wide[0]


# --- extreme logits -------------------------------------------------------------------------------


def test_the_largest_logits(dtype: str, isa: str) -> None:
    largest = np.finfo(dtype).max
    x = [[largest, -largest, 0], [largest, largest, largest], [-largest] * 3]
    loss, gradient = both(x, [0, 1, 2], dtype)
    assert_rows(loss, [0, np.log(3), np.log(3)], dtype)
    assert_rows(gradient[0], [0, 0, 0], dtype)
    assert_rows(gradient[1:], [[1 / 3, -2 / 3, 1 / 3], [1 / 3, 1 / 3, -2 / 3]], dtype)
    assert both(x, [1, 0, 0], dtype)[0][0] == INF  # 2 max: beyond the range


def test_the_largest_logits_of_the_binary_loss(dtype: str, isa: str) -> None:
    largest = np.finfo(dtype).max
    x = np.array([largest, largest, -largest, -largest], dtype)
    loss, gradient = xentfast.binary_cross_entropy_value_and_grad(x, [1, 0, 0, 1], reduction="none")
    np.testing.assert_array_equal(loss, [0, largest, 0, largest])
    np.testing.assert_array_equal(gradient, [0, 1, 0, -1])


def test_subnormal_logits(dtype: str, isa: str) -> None:
    small = float(np.finfo(dtype).smallest_subnormal)
    loss, gradient = both([[small, -small, 0], [3 * small] * 3], [0, 1], dtype)
    assert_rows(loss, [np.log(3)] * 2, dtype)
    assert_rows(gradient, [[-2 / 3, 1 / 3, 1 / 3], [1 / 3, -2 / 3, 1 / 3]], dtype)


def test_a_large_common_offset_costs_no_digits(dtype: str, isa: str) -> None:
    offset = 2.0**20  # leaves 2**-3 as the last place of float32
    x = np.array([[0.5, 0.25, -1, 3], [0, 0, 0, 0]])
    found = both(x + offset, [1, 2], dtype)
    expected = both(x, [1, 2], dtype)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=BOUND[dtype], atol=0)


def test_ties_share_alike(dtype: str, isa: str) -> None:
    for classes in (2, 5, 16, 17, 300, 1500):
        x = np.full((classes, classes) if classes < 20 else (3, classes), 7.0)
        labels = np.arange(len(x)) * (classes // len(x))
        loss, gradient = both(x, labels, dtype)
        assert_rows(loss, np.full(len(x), np.log(classes)), dtype)
        assert len(np.unique(loss)) == 1
        other = np.arange(classes) != labels[:, np.newaxis]
        assert_rows(gradient[other], np.full(other.sum(), 1 / classes), dtype)
        assert_rows(gradient[~other], np.full(len(x), 1 / classes - 1), dtype)


# --- labels and arguments of every kind -----------------------------------------------------------


@pytest.mark.parametrize("name", [*"bBhHiIlLqQ"])
def test_labels_of_every_integer_dtype(name: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(50, 100)), rng.integers(100, size=50)
    labels[:2] = 0, 99
    expected = both(x, labels, dtype)
    found = both(x, labels.astype(name), dtype)
    assert_same_bits(found[0], expected[0], "loss")
    assert_same_bits(found[1], expected[1], "gradient")


@pytest.mark.parametrize("name", ["float32", "float64", *"bBhHiIlLqQ", "?"])
def test_binary_labels_of_every_dtype(name: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    function = xentfast.binary_cross_entropy_value_and_grad
    for shape in ((7, 5), (3, 1500)):  # within a block, and over several
        x, labels = rng.normal(size=shape).astype(dtype), rng.integers(2, size=shape)
        expected = function(x, labels.astype(dtype))
        apart = np.repeat(labels.astype(name), 3, axis=1)[:, ::3]
        for place in (labels.astype(name), apart, np.asfortranarray(apart)):
            found = function(x, place)
            assert_same_bits(found[0], expected[0], f"loss, {shape}, {place.strides}")
            assert_same_bits(found[1], expected[1], f"gradient, {shape}, {place.strides}")


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_zero_strides(case: Case, dtype: str) -> None:
    """One row seen five times is five equal rows."""

    def seen(array: Array) -> Array:
        return np.broadcast_to(array, (5, *array.shape[1:]))

    args, kwargs = case.inputs(dtype, (1, 40))
    if "sample_weight" in kwargs:
        kwargs["sample_weight"] = seen(kwargs["sample_weight"])
    found = outputs(xentfast, case, (tuple(map(seen, args)), kwargs))
    copies = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
    expected = outputs(xentfast, case, (tuple(np.array(seen(arg)) for arg in args), copies))
    assert_all_same_bits(found, expected, str(case))


def test_zero_strides_along_the_classes(dtype: str) -> None:
    x = np.broadcast_to(np.arange(4, dtype=dtype)[:, np.newaxis], (4, 30))
    found = xentfast.cross_entropy(x, np.zeros(4, int), reduction="none")
    assert_rows(found, np.full(4, np.log(30)), dtype)


def test_more_elements_than_fit_in_32_bits(isa: str) -> None:
    """One row of 32,768 probabilities seen 70,000 times: 2**31 elements and more, in 128 kB."""
    rows, classes = 70_000, 32_768
    p = np.linspace(0.25, 0.75, classes, dtype=np.float32)
    labels = np.arange(rows) % classes
    many = np.broadcast_to(p, (rows, classes))
    assert many.size > 2**31
    found = xentfast.cross_entropy(many, labels, from_logits=False, reduction="none")
    expected = xentfast.cross_entropy(
        np.array(np.split(p, classes)), np.zeros(classes, int), from_logits=False, reduction="none"
    )
    assert_same_bits(found, expected[labels], "looked up in one row")


@pytest.mark.skipif(sys.platform != "linux", reason="files elsewhere may have no holes")
def test_offsets_that_do_not_fit_in_32_bits(tmp_path: Path) -> None:
    """Five rows of half a thousand million probabilities, in a file that is nearly all hole."""
    labels = np.array([0, 499_999_999, 250_000_000, 1, 499_999_998])
    file = tmp_path / "holes"
    try:
        p = np.memmap(file, np.float32, "w+", shape=(5, 500_000_000))
    except OSError as error:
        pytest.skip(f"no file of 10 GB here, not even of holes: {error}")
    file.unlink()  # it lives on until p goes
    p[np.arange(5), labels] = [0.5, 0.25, 0.125, 1, 0.75]
    found = xentfast.cross_entropy(p, labels, from_logits=False, reduction="none")
    assert_rows(found, -np.log([0.5, 0.25, 0.125, 1, 0.75]), "float32")


def test_one_row_gives_a_scalar(dtype: str) -> None:
    x = np.array([1, 2, 3], dtype)
    for label in (2, np.int8(2), np.array(2, np.uint16)):
        for reduction in REDUCTIONS:
            value, gradient = xentfast.cross_entropy_value_and_grad(x, label, reduction=reduction)
            assert type(value) is np.dtype(dtype).type
            assert_rows(value, 0.40760596444438, dtype)
            assert gradient.shape == (3,)
    for function in (xentfast.logsumexp, xentfast.entropy):
        assert type(function(x)) is np.dtype(dtype).type
    assert type(xentfast.kl_divergence(x, x)) is np.dtype(dtype).type
    assert isinstance(xentfast.is_distribution(x), (bool, np.bool_))
    dense = xentfast.cross_entropy(x, np.array([0, 0, 1], dtype), reduction="none")
    assert type(dense) is np.dtype(dtype).type
    assert_rows(dense, 0.40760596444438, dtype)


def test_an_array_of_one_row_gives_arrays(dtype: str) -> None:
    x = np.array([[1, 2, 3]], dtype)
    value, gradient = xentfast.cross_entropy_value_and_grad(x, [2], reduction="none")
    assert value.shape == (1,)
    assert gradient.shape == (1, 3)
    assert type(xentfast.cross_entropy(x, [2])) is np.dtype(dtype).type


def test_binary_of_a_single_number(dtype: str) -> None:
    x = np.array(0, dtype)
    for reduction in REDUCTIONS:
        value, gradient = xentfast.binary_cross_entropy_value_and_grad(x, 1, reduction=reduction)
        assert type(value) is np.dtype(dtype).type
        assert_rows(value, np.log(2), dtype)
        assert gradient == -0.5
        assert gradient.shape == ()


def test_lists_and_integers_are_float64() -> None:
    expected = xentfast.cross_entropy(np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([0, 1]))
    integers = np.array([[1, 2], [3, 5]], np.uint8)
    for logits in ([[1, 2], [3, 5]], [[1.0, 2.0], [3.0, 5.0]], integers, memoryview(integers)):
        found = xentfast.cross_entropy(logits, [0, 1])
        assert_same_bits(found, expected, repr(logits))


class _WithArray:
    """Something that knows how to become an array and nothing else."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.array


class _WithDLPack:
    """Something that hands over its memory by DLPack and nothing else."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("wrap", [_WithArray, _WithDLPack])
def test_foreign_arrays(wrap: Any, dtype: str) -> None:
    x, labels = np.array([[1, 2], [3, 5]], dtype), np.array([0, 1])
    found = xentfast.cross_entropy_value_and_grad(wrap(x), wrap(labels))
    expected = xentfast.cross_entropy_value_and_grad(x, labels)
    assert_same_bits(found[0], expected[0], "loss")
    assert_same_bits(found[1], expected[1], "gradient")


class _Bfloat16:
    """bfloat16 as another library hands it over, which NumPy does not know."""

    def __init__(self, bits: Array) -> None:
        self.bits = bits

    def __dlpack__(self, **_: Any) -> Any:
        capsule = self.bits.__dlpack__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        address = pointer(capsule, b"dltensor")
        code = ctypes.c_uint8.from_address(address + ctypes.sizeof(ctypes.c_void_p) + 12)
        assert code.value == 1  # unsigned
        code.value = 4
        return capsule

    def __dlpack_device__(self) -> Any:
        return self.bits.__dlpack_device__()


class _Bfloat16OfTorch(_Bfloat16):
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise TypeError("Got unsupported ScalarType BFloat16")


@pytest.mark.parametrize("wrap", [_Bfloat16, _Bfloat16OfTorch])
@pytest.mark.parametrize("installed", [True, False])
def test_foreign_bfloat16(wrap: Any, installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(ml_dtypes.bfloat16)
    labels, weight = np.arange(5), np.arange(1, 6).astype(ml_dtypes.bfloat16)
    expected = xentfast.cross_entropy_value_and_grad(x, labels, sample_weight=weight)
    if not installed:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    bits = x.view(np.uint16)
    found = xentfast.cross_entropy_value_and_grad(
        wrap(bits), labels, sample_weight=wrap(weight.view(np.uint16))
    )
    assert_same_bits(found[0], expected[0], "loss")
    assert found[1].dtype == (x.dtype if installed else _checks.BFLOAT16)
    assert_same_bits(found[1].view(np.uint16), expected[1].view(np.uint16), "gradient")
    assert np.shares_memory(_checks.array("logits", wrap(bits)), bits)  # read in place


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_foreign_byte_order(case: Case, dtype: str) -> None:
    """Each array with its bytes swapped gives the same bits."""
    args, kwargs = case.inputs(dtype, (5, 9))
    expected = outputs(xentfast, case, (args, kwargs))

    def swap(a: Any) -> Any:
        return a.astype(a.dtype.newbyteorder()) if isinstance(a, np.ndarray) else a

    swapped = tuple(map(swap, args)), {name: swap(a) for name, a in kwargs.items()}
    found = outputs(xentfast, case, swapped)
    for name, result in expected.items():
        assert_same_bits(found[name], result, name)


@pytest.mark.parametrize("storage", ["float32", "float64", "float16"])
@pytest.mark.parametrize("classes", [3, 20, 130, 1100])
def test_boolean_one_hot_labels(classes: int, storage: str, isa: str) -> None:
    rng = np.random.default_rng(classes)
    x, labels = rng.normal(size=(19, classes)).astype(storage), rng.integers(classes, size=19)
    onehot = np.eye(classes, dtype=bool)[labels]
    for axis, a, y in ((-1, x, onehot), (0, x.T.copy(), onehot.T.copy()), (0, x.T, onehot.T)):
        for kwargs in ({}, {"label_smoothing": 0.1}, {"class_weight": np.arange(classes) + 1.0}):
            found = xentfast.cross_entropy_value_and_grad(a, y, axis=axis, **kwargs)
            expected = xentfast.cross_entropy_value_and_grad(
                a, y.astype(np.float32), axis=axis, **kwargs
            )
            assert_same_bits(found[0], expected[0], "loss")
            assert_same_bits(found[1], expected[1], "gradient")


@pytest.mark.parametrize("axis", range(-4, 4))
def test_every_axis(axis: int, dtype: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, 5, 4, 6)).astype(dtype)
    last = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    labels = rng.integers(last.shape[-1], size=last.shape[:-1])
    for reduction in REDUCTIONS:
        found = xentfast.cross_entropy_value_and_grad(x, labels, axis=axis, reduction=reduction)
        expected = xentfast.cross_entropy_value_and_grad(last, labels, reduction=reduction)
        assert_same_bits(found[0], expected[0], "loss")
        assert_same_bits(np.moveaxis(found[1], axis, -1), expected[1], "gradient")
    p = xentfast.softmax(x, axis=axis)
    assert_same_bits(np.moveaxis(p, axis, -1), xentfast.softmax(last), "softmax")
    for function in (xentfast.logsumexp, xentfast.entropy, xentfast.is_distribution):
        assert_same_bits(function(p, axis=axis), function(np.moveaxis(p, axis, -1)), "rows")
    divergence = xentfast.js_divergence(p, p[::-1], axis=axis)
    moved = np.moveaxis(p, axis, -1), np.moveaxis(p[::-1], axis, -1)
    assert_same_bits(divergence, xentfast.js_divergence(*moved), "divergence")


def test_seven_dimensions(dtype: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 1, 3, 2, 2, 2, 3)).astype(dtype)
    labels = rng.integers(3, size=(2, 1, 2, 2, 2, 3))
    found = xentfast.cross_entropy(x, labels, axis=2, reduction="none")
    expected = xentfast.cross_entropy(
        np.moveaxis(x, 2, -1).reshape(-1, 3), labels.ravel(), reduction="none"
    )
    assert_same_bits(found.ravel(), expected, "seven dimensions")


def test_divergences_of_two_dtypes_are_of_the_wider() -> None:
    p, q = np.array([0.5, 0.5], np.float32), np.array([0.25, 0.75])
    for function in DIVERGENCES:
        found = function(p, q)
        assert found.dtype == np.float64
        assert_same_bits(found, function(p.astype(np.float64), q), "widened")


def test_divergences_broadcast(dtype: str) -> None:
    rng = np.random.default_rng(6)
    p, q = rng.dirichlet([1] * 5, (3, 1)), rng.dirichlet([1] * 5, (1, 4))
    p, q = p.astype(dtype), q.astype(dtype)
    for function in DIVERGENCES:
        found = function(p, q)
        assert found.shape == (3, 4)
        for i in range(3):
            for j in range(4):
                assert_same_bits(found[i, j], function(p[i, 0], q[0, j]), f"{i}, {j}")


def test_nothing_but_out_is_written(dtype: str) -> None:
    for case in ALL_CASES:
        args, kwargs = case.inputs(dtype, (20, 30))
        before = [arg.copy() for arg in args]
        outputs(xentfast, case, (tuple(args), kwargs))
        for arg, copy in zip(args, before, strict=True):
            assert_same_bits(arg, copy, str(case))
