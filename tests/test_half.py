"""float16 and bfloat16: the float32 result of the widened input, rounded once to what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xentfast
from cases import DIVERGENCES
from compare import assert_same_bits
from xentfast import _checks

Array = np.ndarray[Any, Any]
ml_dtypes = pytest.importorskip("ml_dtypes")

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
# Around a register, a logical vector, the tile, a block, what a panel keeps, and a segment.
CLASSES = [1, 2, 7, 9, 16, 17, 63, 64, 65, 127, 129, 511, 512, 513, 1000, 4095, 4096, 4097, 9001]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"label_smoothing": 0.1, "z_loss": 0.01},
}


@pytest.fixture(params=HALVES, ids=str)
def half(request: pytest.FixtureRequest) -> np.dtype[Any]:
    chosen: np.dtype[Any] = request.param
    return chosen


def logits_of(rows: int, classes: int, half: np.dtype[Any]) -> Array:
    rng = np.random.default_rng(classes)
    return (rng.standard_normal((rows, classes)) * 6).astype(half)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("classes", CLASSES)
def test_cross_entropy(
    classes: int, options: dict[str, Any], half: np.dtype[Any], isa: str
) -> None:
    x = logits_of(19, classes, half)
    wide = x.astype(np.float32)
    rng = np.random.default_rng(1)
    weights = {"class_weight": rng.random(classes), "sample_weight": rng.random(19)}
    index = rng.integers(0, classes, 19)
    dense = 1 / (1 + wide**2)
    for labels in index, dense, dense.astype(half):
        for extra in {}, weights:
            want, grad = xentfast.cross_entropy_value_and_grad(
                wide,
                labels.astype(np.float32) if labels.dtype == half else labels,
                reduction="none",
                **options,
                **extra,
            )
            got, got_grad = xentfast.cross_entropy_value_and_grad(
                x, labels, reduction="none", **options, **extra
            )
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, want)
            assert_same_bits(got_grad, grad.astype(half))
            got = xentfast.cross_entropy(x, labels, **options, **extra)
            assert isinstance(got, np.float32)


@pytest.mark.parametrize("classes", [5, 64, 65, 700, 5000])
def test_layouts(classes: int, half: np.dtype[Any], isa: str) -> None:
    x = logits_of(33, classes, half)
    labels = np.random.default_rng(2).integers(0, classes, 33)
    value, grad = xentfast.cross_entropy_value_and_grad(x, labels)
    wide = np.zeros((33, 2 * classes), half)
    wide[:, ::2] = x
    reversed_ = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
    for other in np.asfortranarray(x), wide[:, ::2], reversed_:
        got, got_grad = xentfast.cross_entropy_value_and_grad(other, labels)
        assert got == value
        assert_same_bits(np.ascontiguousarray(got_grad), grad)
    got, got_grad = xentfast.cross_entropy_value_and_grad(x.T.copy(), labels, axis=0)
    assert got == value
    assert_same_bits(np.ascontiguousarray(got_grad.T), grad)
    place = x.copy()
    xentfast.cross_entropy_grad(place, labels, out=place)
    assert_same_bits(place, grad)
    strided = np.zeros((33, 2 * classes), half)
    xentfast.cross_entropy_grad(x, labels, out=strided[:, ::2])
    assert_same_bits(np.ascontiguousarray(strided[:, ::2]), grad)
    assert not strided[:, 1::2].any()


@pytest.mark.parametrize("classes", [3, 70, 700, 5000])
def test_softmax(classes: int, half: np.dtype[Any], isa: str) -> None:
    x = logits_of(18, classes, half)
    wide = x.astype(np.float32)
    np.testing.assert_array_equal(xentfast.logsumexp(x), xentfast.logsumexp(wide))
    assert_same_bits(xentfast.softmax(x), xentfast.softmax(wide).astype(half))
    assert_same_bits(xentfast.log_softmax(x), xentfast.log_softmax(wide).astype(half))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 511, 512, 513, 70_001])
def test_binary(size: int, half: np.dtype[Any], isa: str) -> None:
    rng = np.random.default_rng(size)
    x = (rng.standard_normal(size) * 4).astype(half)
    wide, labels = x.astype(np.float32), rng.integers(0, 2, size)
    want, grad = xentfast.binary_cross_entropy_value_and_grad(wide, labels, reduction="none")
    for given in labels, labels.astype(half), labels.astype(bool):
        got, got_grad = xentfast.binary_cross_entropy_value_and_grad(x, given, reduction="none")
        np.testing.assert_array_equal(got, want)
        assert_same_bits(got_grad, grad.astype(half))
    double = np.zeros(2 * size, half)
    double[::2] = x
    strided = np.zeros(2 * size, half)
    xentfast.binary_cross_entropy_grad(double[::2], labels, reduction="none", out=strided[::2])
    assert_same_bits(strided[::2].copy(), grad.astype(half))


def test_entropy_and_divergences(half: np.dtype[Any], isa: str) -> None:
    rng = np.random.default_rng(3)
    p, q = (rng.dirichlet(np.ones(300), 5).astype(half) for _ in range(2))
    wide_p, wide_q = p.astype(np.float32), q.astype(np.float32)
    np.testing.assert_array_equal(xentfast.entropy(p), xentfast.entropy(wide_p))
    for function in DIVERGENCES:
        got = function(p, q, normalize=True)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, function(wide_p, wide_q, normalize=True))
    assert xentfast.is_distribution(p).all()
    assert not xentfast.is_distribution((p.astype(np.float32) * 2).astype(half)).any()


def test_every_number_is_widened_and_rounded(half: np.dtype[Any], isa: str) -> None:
    """All 65,536 of them, nan included, through log_softmax of a single class and back."""
    x = np.arange(65_536, dtype=np.uint16).view(half)
    zeros = np.zeros(65_536, half)
    pairs = np.stack([x, zeros], axis=1)
    want = xentfast.log_softmax(pairs.astype(np.float32)).astype(half)
    got = xentfast.log_softmax(pairs)
    nan = np.isnan(want.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), nan)
    np.testing.assert_array_equal(got.view(np.uint16)[~nan], want.view(np.uint16)[~nan])


@pytest.mark.parametrize("step", [1, 2])
def test_gradients_are_rounded_to_even(step: int, half: np.dtype[Any], isa: str) -> None:
    """Everything half way between two numbers, and next to it: the gradient of sure rows' weights.

    Of the wrong one of two classes it is the weight, written by registers or one by one.
    """
    normal = np.array(np.finfo(np.float16).tiny if half == np.float16 else 2.0**-126, half)
    least, top = normal.view(np.uint16), np.array(np.inf, half).view(np.uint16)
    low = np.arange(1 if half == np.float16 else least, top, dtype=np.uint16)
    below, above = (a.view(half).astype(np.float64) for a in (low, low + 1))
    above[-1] = 2 * below[-1] - below[-2]  # where rounding to inf begins
    middle = ((below + above) / 2).astype(np.float32)
    weights = np.stack([np.nextafter(middle, -np.inf), middle, np.nextafter(middle, np.inf)])
    weights = weights[np.isfinite(weights)]
    x = np.zeros((len(weights), 2), half)
    x[:, 0] = 2000
    out = np.zeros((len(x), 2 * step), half)[:, ::step]
    labels = np.ones(len(x), np.int64)
    xentfast.cross_entropy_grad(x, labels, sample_weight=weights, reduction="sum", out=out)
    with np.errstate(over="ignore"):
        expected = weights.astype(half)
    assert_same_bits(np.ascontiguousarray(out[:, 0]), expected)
    assert_same_bits(np.ascontiguousarray(out[:, 1]), -expected)


def test_many_equal_logits_do_not_overflow(half: np.dtype[Any]) -> None:
    x = np.ones((1, 70_000), half)
    assert xentfast.cross_entropy(x, [0]) == pytest.approx(np.log(70_000), rel=1e-6)


def test_bfloat16_as_bits() -> None:
    """Arrays of libraries whose bfloat16 NumPy does not know come as 16 bits of a private dtype."""
    x = logits_of(8, 100, HALVES[1])
    labels = np.arange(8)
    value, grad = xentfast.cross_entropy_value_and_grad(x, labels)
    bits = x.view(np.uint16).view(_checks.BFLOAT16)
    got, got_grad = xentfast.cross_entropy_value_and_grad(bits, labels)
    assert got == value
    assert_same_bits(got_grad.view(np.uint16), grad.view(np.uint16))
