"""Properties of the losses for whatever numbers Hypothesis comes up with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xentfast
from cases import DTYPES, Array
from compare import BOUND, assert_same_bits

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("steady")

EPS = {dtype: float(np.finfo(dtype).eps) for dtype in DTYPES}
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)


@st.composite
def logits(draw: st.DrawFn, step: float | None = None) -> Array:
    """Draw logits in [-40, 40]; with a step, multiples of it."""
    dtype = draw(st.sampled_from(DTYPES))
    if step is None:
        numbers: Any = st.floats(-40, 40, width=32)
        return draw(hnp.arrays(dtype, SHAPES, elements=numbers))
    numbers = st.integers(int(-40 / step), int(40 / step))
    return draw(hnp.arrays(np.int64, SHAPES, elements=numbers)).astype(dtype) * draw(
        st.just(np.dtype(dtype).type(step))
    )


@st.composite
def labels_for(draw: st.DrawFn, x: Array, dense: bool | None = None) -> Array:
    """Draw class indices or distributions."""
    rows, classes = x.shape
    if dense is None:
        dense = draw(st.booleans())
    if not dense:
        return draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    return draw(distributions(x.dtype.name, (rows, classes)))


@st.composite
def distributions(draw: st.DrawFn, dtype: str, shape: tuple[int, int]) -> Array:
    """Draw rows of probabilities, some of them 0."""
    parts = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 100)))
    parts[:, 0] += parts.sum(axis=1) == 0
    return (parts / parts.sum(axis=1, keepdims=True)).astype(dtype)


@st.composite
def weights_for(draw: st.DrawFn, x: Array) -> Array:
    """Draw a weight for each row, not all of them 0."""
    weights = draw(hnp.arrays(x.dtype, x.shape[0], elements=st.integers(0, 9)))
    weights[0] += 1
    return weights


@st.composite
def options_for(draw: st.DrawFn, x: Array) -> dict[str, Any]:
    classes = x.shape[1]
    return {
        "label_smoothing": draw(st.sampled_from([0.0, 0.125, 1.0])),
        "class_weight": draw(st.none() | hnp.arrays(x.dtype, classes, elements=st.integers(1, 9))),
    }


@given(st.data())
def test_shifting_a_row_changes_nothing_but_roundings(data: st.DataObject) -> None:
    """Logits and shifts are such that their sums are exact; a row is cut into cells from 0 on."""
    x = data.draw(logits(step=0.125))
    labels, options = data.draw(labels_for(x)), data.draw(options_for(x))
    shift = data.draw(hnp.arrays(x.dtype, (x.shape[0], 1), elements=st.integers(-1000, 1000)))
    found = xentfast.cross_entropy_value_and_grad(x + shift, labels, reduction="none", **options)
    expected = xentfast.cross_entropy_value_and_grad(x, labels, reduction="none", **options)
    pairs = [*zip(found, expected, strict=True)]
    pairs += [(f(x + shift), f(x)) for f in (xentfast.softmax, xentfast.log_softmax)]
    for got, wanted in pairs:
        scale = np.abs(wanted).max(axis=-1, keepdims=True, initial=0)
        assert (np.abs(got - wanted) <= 2 * BOUND[x.dtype.name] * scale).all()


@given(st.data())
def test_permuting_the_classes_permutes_the_gradient(data: st.DataObject) -> None:
    x = data.draw(logits())
    labels, options = data.draw(labels_for(x)), data.draw(options_for(x))
    order = np.array(data.draw(st.permutations(range(x.shape[1]))))
    moved = labels[:, order] if labels.ndim == 2 else np.argsort(order)[labels]
    if options["class_weight"] is not None:
        permuted = options | {"class_weight": options["class_weight"][order]}
    else:
        permuted = options
    found = xentfast.cross_entropy_value_and_grad(x[:, order], moved, reduction="none", **permuted)
    expected = xentfast.cross_entropy_value_and_grad(x, labels, reduction="none", **options)
    rtol = 20 * EPS[x.dtype.name]
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol)
    largest = np.abs(expected[1]).max(axis=1, keepdims=True) + 9  # a class weight at most
    assert (np.abs(found[1] - expected[1][:, order]) <= rtol * largest).all()


@given(st.data())
def test_a_gradient_sums_to_zero_over_its_row(data: st.DataObject) -> None:
    """A confident row too: its entries are small, and the sum is small beside them."""
    x = data.draw(logits())
    labels = data.draw(labels_for(x, dense=False))
    weight = data.draw(weights_for(x))
    gradient = xentfast.cross_entropy_grad(x, labels, sample_weight=weight).astype(np.float64)
    size = np.abs(gradient).sum(axis=1)
    assert (np.abs(gradient.sum(axis=1)) <= 100 * EPS[x.dtype.name] * size).all()


@given(st.data())
def test_a_gradient_of_dense_labels_sums_to_zero_over_its_row(data: st.DataObject) -> None:
    x = data.draw(logits())
    labels, options = data.draw(labels_for(x, dense=True)), data.draw(options_for(x))
    gradient = xentfast.cross_entropy_grad(x, labels, reduction="sum", **options)
    sums = np.abs(gradient.astype(np.float64).sum(axis=1))
    assert (sums <= 20 * EPS[x.dtype.name] * 2 * 9).all()  # T p and t, each at most 9


@given(st.data())
def test_weights_multiply(data: st.DataObject) -> None:
    x = data.draw(logits())
    labels, weight = data.draw(labels_for(x)), data.draw(weights_for(x))
    found = xentfast.cross_entropy_value_and_grad(x, labels, sample_weight=weight, reduction="none")
    expected = xentfast.cross_entropy_value_and_grad(x, labels, reduction="none")
    rtol = 4 * EPS[x.dtype.name]
    tiny = float(np.finfo(x.dtype).tiny) * 10
    np.testing.assert_allclose(found[0], weight * expected[0], rtol=rtol, atol=tiny)
    np.testing.assert_allclose(found[1], weight[:, np.newaxis] * expected[1], rtol=rtol, atol=tiny)


@given(st.data())
def test_the_sum_is_the_mean_times_the_weights(data: st.DataObject) -> None:
    x = data.draw(logits())
    labels, weight = data.draw(labels_for(x)), data.draw(weights_for(x))
    class_weight = data.draw(hnp.arrays(x.dtype, x.shape[1], elements=st.integers(1, 9)))
    kwargs = {"sample_weight": weight, "class_weight": class_weight}
    each = xentfast.cross_entropy(x, labels, reduction="none", **kwargs)
    total, of_total = xentfast.cross_entropy_value_and_grad(x, labels, reduction="sum", **kwargs)
    mean, of_mean = xentfast.cross_entropy_value_and_grad(x, labels, reduction="mean", **kwargs)
    divisor = weight.sum() if labels.ndim == 2 else (weight * class_weight[labels]).sum()
    rtol = 4 * EPS[x.dtype.name]
    tiny = float(np.finfo(x.dtype).tiny) * 10
    np.testing.assert_allclose(total, each.sum(dtype=np.float64), rtol=rtol)
    np.testing.assert_allclose(mean * divisor, total, rtol=rtol)
    np.testing.assert_allclose(of_mean * divisor, of_total, rtol=rtol, atol=tiny)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@given(data=st.data())
def test_value_and_gradient_together_equal_each_alone(data: st.DataObject, reduction: str) -> None:
    x = data.draw(logits())
    labels, options = data.draw(labels_for(x)), data.draw(options_for(x))
    options["reduction"] = reduction
    value, gradient = xentfast.cross_entropy_value_and_grad(x, labels, **options)
    assert_same_bits(value, xentfast.cross_entropy(x, labels, **options), "value")
    assert_same_bits(gradient, xentfast.cross_entropy_grad(x, labels, **options), "gradient")


@given(st.data())
def test_losses_are_not_negative(data: st.DataObject) -> None:
    x = data.draw(logits())
    labels, options = data.draw(labels_for(x)), data.draw(options_for(x))
    z_loss = data.draw(st.sampled_from([0.0, 0.5]))
    losses = xentfast.cross_entropy(x, labels, z_loss=z_loss, reduction="none", **options)
    assert (losses >= 0).all()
    binary = data.draw(hnp.arrays(x.dtype, x.shape, elements=st.floats(0, 1, width=32)))
    assert (xentfast.binary_cross_entropy(x, binary, reduction="none") >= 0).all()


@given(st.data())
def test_dense_one_hot_labels_are_index_labels(data: st.DataObject) -> None:
    x = data.draw(logits())
    labels, options = data.draw(labels_for(x, dense=False)), data.draw(options_for(x))
    options["reduction"] = "sum"
    one_hot = np.eye(x.shape[1], dtype=x.dtype)[labels]
    found = xentfast.cross_entropy_value_and_grad(x, one_hot, **options)
    expected = xentfast.cross_entropy_value_and_grad(x, labels, **options)
    np.testing.assert_allclose(found[0], expected[0], rtol=20 * EPS[x.dtype.name])
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=9 * 20 * EPS[x.dtype.name])


@given(st.data())
def test_the_binary_loss_is_that_of_two_classes(data: st.DataObject) -> None:
    x = data.draw(logits()).ravel()
    labels = data.draw(hnp.arrays(np.int64, x.shape, elements=st.integers(0, 1)))
    two = np.stack([np.zeros_like(x), x], axis=1)
    found = xentfast.binary_cross_entropy_value_and_grad(x, labels, reduction="none")
    expected = xentfast.cross_entropy_value_and_grad(two, labels, reduction="none")
    rtol = 20 * EPS[x.dtype.name]
    np.testing.assert_allclose(found[0], expected[0], rtol=rtol)
    np.testing.assert_allclose(found[1], expected[1][:, 1], rtol=rtol)


@given(st.data())
def test_the_binary_loss_does_not_mind_which_class_is_positive(data: st.DataObject) -> None:
    x = data.draw(logits())
    labels = data.draw(hnp.arrays(np.int64, x.shape, elements=st.integers(0, 1)))
    found = xentfast.binary_cross_entropy_value_and_grad(-x, 1 - labels, reduction="none")
    expected = xentfast.binary_cross_entropy_value_and_grad(x, labels, reduction="none")
    assert_same_bits(found[0], expected[0], "loss")
    assert_same_bits(-found[1], expected[1], "gradient")


@given(logits())
def test_softmax_is_a_distribution(x: Array) -> None:
    p = xentfast.softmax(x)
    eps = EPS[x.dtype.name]
    assert (p >= 0).all()
    assert (p <= 1).all()
    np.testing.assert_allclose(p.sum(axis=1, dtype=np.float64), 1, rtol=20 * eps)
    assert np.all(xentfast.is_distribution(p))
    top = (np.arange(len(x)), x.argmax(axis=1))
    np.testing.assert_array_equal(p[top], p.max(axis=1))
    # exp and log undo each other, as far as the rounding of a logarithm of 40 lets them
    log_p = xentfast.log_softmax(x)
    assert (log_p <= 0).all()
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)), p, rtol=100 * eps)
    lse = xentfast.logsumexp(x)
    np.testing.assert_allclose(x - lse[:, np.newaxis], log_p, rtol=0, atol=100 * eps)


@given(st.data())
def test_entropy_is_between_0_and_that_of_even_odds(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    p = data.draw(distributions(dtype, data.draw(SHAPES)))
    eps = EPS[dtype]
    for normalize in (False, True):
        found = xentfast.entropy(p, normalize=normalize)
        # p may be above 1 by a rounding of its sum
        assert (found >= -eps).all()
        assert (found <= np.log(p.shape[1]) * (1 + 20 * eps) + 20 * eps).all()
    bits = xentfast.entropy(p, base=2)
    np.testing.assert_allclose(bits * np.log(2), xentfast.entropy(p), rtol=8 * eps, atol=eps)
    np.testing.assert_allclose(
        xentfast.entropy(p * 3, normalize=True), found, rtol=20 * eps, atol=20 * eps
    )


@given(st.data())
def test_divergences(data: st.DataObject) -> None:
    """KL and JS are not negative but for rounding; JS is symmetric and at most ln 2."""
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(SHAPES)
    p, q = data.draw(distributions(dtype, shape)), data.draw(distributions(dtype, shape))
    eps = EPS[dtype]
    js = xentfast.js_divergence(p, q)
    assert (js >= -4 * eps).all()
    assert (js <= np.log(2) + 4 * eps).all()
    np.testing.assert_allclose(xentfast.js_divergence(q, p), js, rtol=0, atol=4 * eps)
    np.testing.assert_array_equal(xentfast.js_divergence(p, p), np.zeros(len(p)))
    kl = xentfast.kl_divergence(p, q)
    assert (kl >= -4 * eps).all()
    np.testing.assert_array_equal(np.isinf(kl), ((p > 0) & (q == 0)).any(axis=1))
    np.testing.assert_array_equal(xentfast.kl_divergence(p, p), np.zeros(len(p)))
    # the cross-entropy is the entropy and the divergence
    cross = xentfast.cross_entropy(q, p, from_logits=False, reduction="none")
    np.testing.assert_allclose(cross, xentfast.entropy(p) + kl, rtol=20 * eps, atol=20 * eps)
