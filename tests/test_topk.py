"""Divergences from the top k of a teacher: against the dense way, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xentfast
from cases import DTYPES, Array
from compare import assert_same_bits
from layouts import Layout
from oracle import ORACLE
from xentfast import reference, topk_kl_divergence, topk_kl_divergence_value_and_grad
from xentfast._checks import BFLOAT16

CLASSES = (2, 3, 10, 17, 129, 513, 1000, 5000)
RESTS = ("renormalize", "class")


def listed(
    classes: int, dtype: str = "float32", k: int = 4, rows: int = 21, apart: float = 1
) -> tuple[Array, Array, Array]:
    """Return indices and probabilities of a teacher's top k, unsorted, and a student's logits."""
    rng = np.random.default_rng([classes, rows])
    x = (rng.standard_normal((rows, classes)) * 4).astype(dtype)
    p = reference.softmax(x + rng.standard_normal(x.shape) * apart)
    indices = rng.permuted(np.argsort(-p, axis=1)[:, : min(k, classes - 1)], axis=1)
    return indices, np.take_along_axis(p, indices, 1).astype(dtype), x


def scattered(indices: Array, p: Array, classes: int) -> Array:
    dense = np.zeros((len(p), classes), ORACLE)
    np.put_along_axis(dense, indices, p.astype(ORACLE), 1)
    return dense


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_every_option_is_the_dense_way(classes: int, dtype: str, rest: Any, isa: str) -> None:
    indices, p, x = listed(classes, dtype)
    weight = np.random.default_rng(0).random(21)
    weight[3] = 0
    bound = {"float32": 1e-6, "float64": 2e-14}[dtype]
    for reduction in ("none", "sum", "mean"):
        for extra in ({}, {"sample_weight": weight}, {"temperature": 2.5}):
            options: dict[str, Any] = {"rest": rest, "reduction": reduction, **extra}
            value, gradient = topk_kl_divergence_value_and_grad(indices, p, x, **options)
            assert_same_bits(topk_kl_divergence(indices, p, x, **options), value)
            assert np.asarray(value).dtype == gradient.dtype == dtype
            wide = indices, p.astype(ORACLE), x.astype(ORACLE)
            wanted, slope = reference.topk_kl_divergence_value_and_grad(*wide, **options)
            np.testing.assert_allclose(value, wanted.astype(float), bound)
            np.testing.assert_allclose(gradient, slope.astype(float), bound, bound / 4)
    dense = scattered(indices, p, classes)
    found = topk_kl_divergence(indices, p, x, rest=rest, reduction="none")
    if rest == "renormalize":
        q = reference.softmax(x.astype(ORACLE))
        dense /= dense.sum(axis=1, keepdims=True)
        wanted = (dense * np.log(np.where(dense > 0, dense / q, 1))).sum(axis=1)
        np.testing.assert_allclose(found, wanted.astype(float), bound)


def test_all_classes_are_the_divergence_of_distributions() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 30, 12))
    p = reference.softmax(x)
    wanted, slope = xentfast.kl_divergence_value_and_grad(x, y)
    indices = rng.permuted(np.broadcast_to(np.arange(12), (30, 12)), axis=1)
    for rest in RESTS:
        found, gradient = topk_kl_divergence_value_and_grad(
            indices, np.take_along_axis(p, indices, 1), y, rest=rest
        )
        assert found == pytest.approx(wanted, rel=1e-13)
        np.testing.assert_allclose(gradient, slope, atol=1e-16)


@pytest.mark.parametrize("rest", RESTS)
@pytest.mark.parametrize("k", [1, 3, 8, 9, 16, 40])
def test_gradients_are_central_differences(k: int, rest: Any) -> None:
    indices, p, x = listed(max(5, k + 2), "float64", k, 3)
    options: dict[str, Any] = {"rest": rest, "temperature": 1.5}
    _, gradient = topk_kl_divergence_value_and_grad(indices, p, x, **options)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-5
        up, down = (topk_kl_divergence(indices, p, z, **options) for z in (x + step, x - step))
        assert gradient[place] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_close_rows_keep_their_digits(dtype: str, isa: str) -> None:
    """As far as the probabilities say: p and the divergences of p from q are taken in long double.

    What is not listed is known to a few roundings, and weighs what its share differs by.
    """
    bound = {"float32": 1e-6, "float64": 2e-14}[dtype]
    for classes in (3, 17, 1000):
        for apart in (1, 1e-2, 1e-3):
            indices, p, x = listed(classes, dtype, apart=apart)
            q = reference.softmax(x.astype(ORACLE))
            r = 1 - p.astype(ORACLE).sum(axis=1)
            share = q.copy()
            np.put_along_axis(share, indices, 0, 1)
            rest = share.sum(axis=1)
            u = np.log(p.astype(ORACLE)) - np.log(np.take_along_axis(q, indices, 1))
            terms = (p * (u + np.expm1(-u))).sum(axis=1)
            v = np.log(r / rest)
            wanted = terms + r * (v + np.expm1(-v))
            found = topk_kl_divergence(indices, p, x, rest="class", reduction="none")
            error = np.abs(found - wanted)
            scale = wanted + r * np.abs(v) + 4 * np.finfo(np.float64).eps / bound * np.sqrt(wanted)
            assert (error <= bound * scale).all(), (classes, apart)
            assert (found >= 0).all()


def test_a_share_of_the_rest_however_small(isa: str) -> None:
    """A student that puts next to nothing, or next to all, where nothing is listed."""
    for dtype in DTYPES:
        for gap in (-200.0, -60.0, -20.0, 20.0, 60.0, 200.0, 3000.0):
            x = np.array([[0, 0, gap, gap]], dtype)
            p = np.array([[0.25, 0.75]], dtype)
            found = topk_kl_divergence([[0, 1]], p, x)
            inner = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
            odds = math.log1p(math.exp(gap)) if gap < 0 else gap + math.log1p(math.exp(-gap))
            assert found == pytest.approx(inner + odds, rel=1e-6 if dtype == "float32" else 1e-14)
            p = np.array([[0.25, 0.25]], dtype)
            value, gradient = topk_kl_divergence_value_and_grad([[0, 1]], p, x, rest="class")
            q = -math.log1p(math.exp(gap)) if gap < 0 else -gap - math.log1p(math.exp(-gap))
            wanted = -math.log(2) - (q + q + gap) / 2
            assert value == pytest.approx(wanted, rel=1e-6)
            share = math.exp(q + gap)  # towards 1/2
            np.testing.assert_allclose(gradient[0, 2:], (share - 0.5) / 2, rtol=1e-5)


def test_layouts_agree(layout: Layout, isa: str) -> None:
    for dtype in DTYPES:
        for classes in (2, 17, 513, 5000):
            arguments = listed(classes, dtype)
            for rest in RESTS:
                value, gradient = topk_kl_divergence_value_and_grad(*arguments, rest=rest)
                args, kwargs = layout.arrange((arguments, {"rest": rest}))
                again, found = topk_kl_divergence_value_and_grad(*args, **kwargs)
                assert value == again
                assert_same_bits(layout.restore(found, arguments[2].shape), gradient)


def test_the_gradient_may_take_the_place_of_the_logits() -> None:
    for dtype in (np.float32, np.float16, np.float64):
        indices, p, x = listed(700)
        x = x.astype(dtype)
        value, gradient = topk_kl_divergence_value_and_grad(indices, p, x)
        place = x.copy()
        again, found = topk_kl_divergence_value_and_grad(indices, p, place, out=place)
        assert found is place
        assert value == again
        assert_same_bits(found, gradient)


def test_sixteen_bits_are_widened(isa: str) -> None:
    indices, p, x = listed(129)
    bits = x.view(np.uint32) >> 16
    narrow, wide = bits.astype(np.uint16).view(BFLOAT16), (bits << 16).view(np.float32)
    few = p.view(np.uint32) >> 16
    shares, same = few.astype(np.uint16).view(BFLOAT16), (few << 16).view(np.float32)
    value, gradient = topk_kl_divergence_value_and_grad(indices, shares, narrow)
    assert value == topk_kl_divergence(indices, same, wide)
    assert value.dtype == np.float32
    assert gradient.dtype == BFLOAT16
    half = x.astype(np.float16)
    assert topk_kl_divergence(indices, p, half) == topk_kl_divergence(
        indices, p, half.astype(np.float32)
    )


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_indices_of_every_dtype(kind: str) -> None:
    indices, p, x = listed(100)
    assert topk_kl_divergence(indices.astype(kind), p, x) == topk_kl_divergence(indices, p, x)


def test_what_is_listed_with_nothing_is_left_out() -> None:
    indices, p, x = listed(50)
    wanted = topk_kl_divergence_value_and_grad(indices, p, x, rest="class")
    for filler in (-1, 3, 50, 2**62):
        more = np.append(np.full((21, 60), filler), indices, axis=1)
        found = topk_kl_divergence_value_and_grad(
            more, np.append(np.zeros((21, 60), p.dtype), p, axis=1), x, rest="class"
        )
        assert found[0] == wanted[0]
        assert_same_bits(found[1], wanted[1])


def test_nothing_listed() -> None:
    x = np.array([[1.0, 2, 3]])
    for k in (0, 2):
        args = np.zeros((1, k), int), np.zeros((1, k)), x
        value, gradient = topk_kl_divergence_value_and_grad(*args, rest="class")
        assert value == 0
        np.testing.assert_allclose(gradient, 0, atol=1e-17)
        value, gradient = topk_kl_divergence_value_and_grad(*args)
        assert math.isnan(value)
        assert np.isnan(gradient).all()
    value, gradient = topk_kl_divergence_value_and_grad(
        np.zeros((0, 2), int), np.zeros((0, 2)), np.zeros((0, 3))
    )
    assert math.isnan(value)
    assert gradient.shape == (0, 3)


def test_rows_of_weight_0_count_nothing_whatever_they_hold() -> None:
    indices, p, x = listed(20)
    keep = np.arange(21) % 3 != 1
    wanted, slope = topk_kl_divergence_value_and_grad(indices[keep], p[keep], x[keep])
    indices[~keep], p[1], p[4], x[~keep] = 99, -1, math.nan, math.nan
    value, gradient = topk_kl_divergence_value_and_grad(indices, p, x, sample_weight=keep)
    assert value == wanted
    assert_same_bits(gradient[keep], slope)
    assert not gradient[~keep].any()


@pytest.mark.parametrize("rest", RESTS)
def test_rows_without_distribution(rest: Any, isa: str) -> None:
    for classes in (5, 600):
        indices, p, x = listed(classes)
        for row, value in enumerate((math.nan, math.inf)):
            x[row, indices[row, 0]] = value
            unlisted = np.setdiff1d(np.arange(classes), indices[row + 2])[0]
            x[row + 2, unlisted] = value
        x[4] = -math.inf
        found, gradient = topk_kl_divergence_value_and_grad(
            indices, p, x, rest=rest, reduction="none"
        )
        assert np.isnan(found[:5]).all()
        assert np.isfinite(found[5:]).all()
        assert np.isnan(gradient[:5]).any(axis=1).all()
        assert np.isfinite(gradient[5:]).all()


def test_masked_classes() -> None:
    inf = math.inf
    x = np.array([[0, 0, -inf, -inf]])
    assert topk_kl_divergence([[0, 1]], [[0.5, 0.5]], x) == 0
    assert topk_kl_divergence([[0, 1]], [[0.5, 0.5]], x, rest="class") == 0
    assert topk_kl_divergence([[0, 2]], [[0.5, 0.5]], x) == inf
    assert topk_kl_divergence([[2, 3]], [[0.5, 0.5]], x) == inf
    assert topk_kl_divergence([[0, 1]], [[0.5, 0.25]], x, rest="class") == inf
    _, gradient = topk_kl_divergence_value_and_grad([[0, 2]], [[0.5, 0.5]], x)
    np.testing.assert_allclose(gradient, [[0, 0.5, -0.5, 0]])
    for p, left in (([0.5, 0.5], 0), ([0.5, 0.25], inf)):
        value, gradient = topk_kl_divergence_value_and_grad([[0, 1]], [p], x, rest="class")
        assert value == left
        assert (gradient[0, 2:] == 0).all()


P, X = [[0.5, 0.25]], [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: f([[0, 3]], P, X),
            ValueError,
            r"indices must be in \[0, 3\), got 3 at \(0, 1\)",
        ),
        (lambda f: f([[-1, 0]], P, X), ValueError, r"indices must be in \[0, 3\), got -1 at"),
        (
            lambda f: f(np.array([[2**64 - 1, 0]], np.uint64), P, X),
            ValueError,
            r"indices must be in \[0, 3\), got 18446744073709551615 at",
        ),
        (lambda f: f([[1, 1]], P, X), ValueError, r"indices must list a class once, got 1 at \(0"),
        (
            lambda f: f([[0, 1]], [[0.5, -0.25]], X),
            ValueError,
            r"probabilities must be finite and >= 0, got -0.25 at \(0, 1\)",
        ),
        (
            lambda f: f([[0, 1]], [[math.nan, 0.5]], X),
            ValueError,
            r"probabilities must be finite and >= 0, got nan at \(0, 0\)",
        ),
        (
            lambda f: f([[0, 1]], [[math.inf, 0.5]], X),
            ValueError,
            r"probabilities must be finite and >= 0, got inf at \(0, 0\)",
        ),
        (
            lambda f: f([[0, 1]], [[0.75, 0.5]], X, rest="class"),
            ValueError,
            "probabilities must sum to at most 1, got 1.25 at 0",
        ),
        (lambda f: f([[0.0, 1.0]], P, X), TypeError, "indices must have an integer dtype, got flo"),
        (
            lambda f: f([0, 1], P[0], X),
            ValueError,
            r"indices must have shape \(1, k\), got \(2,\)",
        ),
        (lambda f: f(0, 0.5, X[0]), ValueError, r"indices must have shape \(k,\), got \(\)"),
        (
            lambda f: f([[0, 1]], [[0.5]], X),
            ValueError,
            r"probabilities must have indices' shape \(1, 2\), got \(1, 1\)",
        ),
        (lambda f: f([[0, 1]], [["a", "b"]], X), TypeError, "probabilities must have a floating"),
        (lambda f: f([[0, 1]], P, [["a"]]), TypeError, "logits must have a floating or integer"),
        (lambda f: f([[0, 1]], P, X, axis=2), ValueError, r"axis must be in \[-2, 2\), got 2"),
        (
            lambda f: f([[0, 1]], P, X, rest="drop"),
            ValueError,
            "rest must be 'renormalize' or 'class', got 'drop'",
        ),
        (lambda f: f([[0, 1]], P, X, temperature=0), ValueError, "temperature must be more than 0"),
        (lambda f: f([[0, 1]], P, X, reduction="all"), ValueError, "reduction must be 'mean', 'su"),
        (lambda f: f([[0, 1]], P, X, sample_weight=-1), ValueError, "sample_weight must be finite"),
        (
            lambda f: f([[0, 1]], P, X, sample_weight=[1, 2]),
            ValueError,
            r"sample_weight must broadcast to shape \(1,\), got \(2,\)",
        ),
    ],
)
def test_messages(call: Any, error: type[Exception], message: str) -> None:
    for function in topk_kl_divergence, topk_kl_divergence_value_and_grad:
        with pytest.raises(error, match=message):
            call(function)


def test_messages_of_the_place_of_the_gradient() -> None:
    with pytest.raises(ValueError, match=r"out must have shape \(1, 3\), got \(1, 2\)"):
        topk_kl_divergence_value_and_grad([[0, 1]], P, X, out=np.empty((1, 2)))
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match="out must not overlap an input, got memory they may sha"):
        topk_kl_divergence_value_and_grad(np.zeros((2, 3), int), x, np.ones((2, 3)), out=x)


def test_rounding_may_lift_the_sum_above_1() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        p = reference.softmax(np.random.default_rng(0).standard_normal((50, 30))).astype(dtype)
        indices = np.broadcast_to(np.arange(30), (50, 30))
        assert topk_kl_divergence(indices, p, np.log(p.astype(float)), rest="class") < 1e-4
