"""Divergences of distributions that are close: every digit, never negative, one class as 0."""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xentfast
from cases import DIVERGENCES, Array
from xentfast import reference

BOUND = {"float32": 1e-6, "float64": 1e-14}
LOST = {"float32": 2**-48, "float64": 2.0**-106}  # of q when it is brought to the sum of p
CLOSEST = {"float32": 8, "float64": 16}
KL, JS = DIVERGENCES


@pytest.fixture(params=list(BOUND))
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _wide(x: Fraction) -> Any:
    """Round to a long double, or nearly: its parts are two float64."""
    high = float(x)
    return np.longdouble(high) + np.longdouble(float(x - Fraction(high)))


def _kl_term(p: Fraction, q: Fraction) -> Any:
    """Return p (f - log1p(f)), f = (q - p) / p; p and q are positive."""
    f = _wide((q - p) / p)
    if abs(f) > 0.4:
        return _wide(p) * (f - np.log1p(f))
    s = f / (2 + f)
    return _wide(p) * (f * s - 2 * sum(s ** (2 * k + 1) / (2 * k + 1) for k in range(1, 30)))


def _js_term(p: Fraction, q: Fraction) -> Any:
    u = _wide(abs(p - q) / (p + q))
    if u < 0.5:
        h = sum(u ** (2 * k) / (k * (2 * k - 1)) for k in range(1, 40))
    else:
        w = _wide(2 * min(p, q) / (p + q))
        h = (2 - w) * np.log(2 - w) + (w * np.log(w) if w else 0)
    return _wide(p + q) * h / 4


def _exact(term: Any, p: Array, q: Array, normalize: bool = True) -> float:
    """Sum a row's terms, each from exact rationals."""
    return _exact_sum(term, tuple(p.tolist()), tuple(q.tolist()), normalize)


@functools.cache
def _exact_sum(term: Any, p: tuple[float, ...], q: tuple[float, ...], normalize: bool) -> float:
    rows = [[Fraction(x) for x in row] for row in (p, q)]
    if normalize:
        sums = [sum(row) for row in rows]
        rows = [[x / total for x in row] for row, total in zip(rows, sums, strict=True)]
    return float(sum(term(a, b) for a, b in zip(*rows, strict=True)))


def _close(dtype: str, closeness: int, classes: int) -> tuple[Array, Array]:
    """Two distributions, the second times a factor of its own, at a relative distance."""
    rng = np.random.default_rng([closeness, classes])
    p = rng.dirichlet(np.full(classes, 2.0)) + 1e-3
    q = p * (1 + 10.0**-closeness * rng.uniform(-1, 1, classes)) * rng.choice([1, 0.7, 3e9])
    return p.astype(dtype), q.astype(dtype)


@pytest.mark.parametrize(
    ("function", "p", "q", "right"),
    [
        (JS, [0.3001, 0.6999], [0.3, 0.7], 5.9513e-09),
        (JS, [0.301, 0.699], [0.3, 0.7], 5.9466e-07),
        (KL, [0.30001, 0.69999], [0.3, 0.7], 2.3775e-10),
    ],
)
def test_values_by_hand(function: Any, p: Any, q: Any, right: float, isa: str) -> None:
    assert function(np.float32(p), np.float32(q), normalize=True) == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 17, 700])
def test_every_closeness(dtype: str, classes: int, isa: str) -> None:
    for closeness in range(CLOSEST[dtype] + 1):
        p, q = _close(dtype, closeness, classes)
        for function, term in ((KL, _kl_term), (JS, _js_term)):
            right = _exact(term, p, q)
            apart = np.sqrt((2 if function is KL else 8) * right)  # the relative distance
            bound = BOUND[dtype] + 2 * LOST[dtype] / apart
            assert function(p, q, normalize=True) == pytest.approx(right, rel=bound, abs=0)
            found = getattr(reference, function.__name__)(p, q, normalize=True)
            bound = BOUND["float64"] + 2 * LOST["float64"] / apart
            assert found == pytest.approx(right, rel=bound, abs=0)


def test_js_as_it_comes(dtype: str, isa: str) -> None:
    """Without normalising, each term alone: all ratios of two numbers, near and far."""
    ratio = np.concatenate([1 + 2.0 ** np.arange(-20, 0), 2.0 ** np.arange(1, 60)])
    ratio = np.concatenate([ratio, np.linspace(1, 6, 300)[1:]]).astype(dtype)
    one = np.ones_like(ratio)
    for p, q in ((one, ratio), (ratio, one), (one, 0 * one)):
        found = JS(p[:, np.newaxis], q[:, np.newaxis])
        right = [
            _exact(_js_term, *pair, normalize=False)
            for pair in zip(p[:, None], q[:, None], strict=True)
        ]
        np.testing.assert_allclose(found, right, rtol=BOUND[dtype])
        expected = reference.js_divergence(p[:, np.newaxis], q[:, np.newaxis])
        np.testing.assert_allclose(expected, right, rtol=1e-14)


def test_kl_of_every_ratio(dtype: str, isa: str) -> None:
    """Normalised pairs whose first terms are at any ratio, beside a class that takes the rest."""
    for ratio in np.concatenate([np.linspace(0.4, 2.5, 200), 10.0 ** np.arange(-6, 6)]):
        p = np.array([0.1, 1], dtype)
        q = np.array([0.1 * ratio, 1.1 - 0.1 * ratio], dtype)
        if (q > 0).all():
            found = KL(p, q, normalize=True)
            assert found == pytest.approx(_exact(_kl_term, p, q), rel=BOUND[dtype], abs=0)


def test_subnormal_numbers(dtype: str, isa: str) -> None:
    least = np.finfo(dtype).smallest_subnormal
    p, q = np.array([0, 1], dtype), np.array([least, 1], dtype)
    assert JS(p, q) == 0
    assert reference.js_divergence(p, q) == pytest.approx(0, abs=1e-44)
    many = np.array([1000 * least, 0], dtype)
    np.testing.assert_allclose(JS(many, many[::-1]), 2000 * least * np.log(2) / 2, atol=least)
    large = np.array([np.finfo(dtype).max, 0], dtype)
    assert JS(large, large / 2) == pytest.approx(float(large[0]) * 0.0425, rel=1e-2)


def test_rows_that_differ_by_a_factor(dtype: str, isa: str) -> None:
    rng = np.random.default_rng(1)
    q = rng.integers(1, 1000, (20, 300)).astype(dtype)
    for p in (q * 3, q * 7, q):
        for function in DIVERGENCES:
            np.testing.assert_array_equal(function(p, q, normalize=True), np.zeros(20))
    one = rng.uniform(0.01, 9, (500, 1)).astype(dtype)
    for function in DIVERGENCES:
        np.testing.assert_array_equal(function(one, one[::-1], normalize=True), np.zeros(500))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("classes", [1, 2, 17, 1300])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_a_negative_number_makes_its_row_nan(
    dtype: str, classes: int, layout: Any, isa: str
) -> None:
    """Of either argument, anywhere, alone or with others, even one that is lost beside the sum."""
    info = np.finfo(dtype)
    others = np.random.default_rng(classes).uniform(1, 2, (40, classes)).astype(dtype)
    p = others.copy()
    p[0] = -p[0]
    p[1, classes // 2 :] *= -1
    p[2:5, [0, classes // 2, -1]] = -info.smallest_subnormal * np.ones(3, dtype)
    p[5, 0] = -info.smallest_subnormal
    p[5, 1:] = info.max / 2 / classes
    p[6] = -0.0
    p[7, :-1], p[7, -1] = 0, -1
    p[8, -1] = -0.0
    odd = np.array([0, 1, 2, 3, 4, 5, 7])
    rows = np.setdiff1d(np.arange(40), odd)
    clean = p[rows] + np.zeros((), dtype)  # no -0
    for module in (xentfast, reference):
        for normalize in (False, True):
            found = module.entropy(np.array(p, order=layout), normalize=normalize)
            assert np.isnan(found[odd]).all()
            expected = module.entropy(clean, normalize=normalize)
            np.testing.assert_allclose(found[rows], expected, 1e-12, 1e-12)
            for function in (module.kl_divergence, module.js_divergence):
                for swap in (1, -1):
                    pair = [np.array(a, order=layout) for a in (p, others)[::swap]]
                    found = function(*pair, normalize=normalize)
                    assert np.isnan(found[odd]).all()
                    expected = function(*(clean, others[rows])[::swap], normalize=normalize)
                    np.testing.assert_allclose(found[rows], expected, 1e-12, 1e-12)
                assert np.isnan(function(-others, -others, normalize=normalize)).all()


@given(st.data())
def test_never_negative(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    classes = data.draw(st.sampled_from([1, 2, 5, 16, 17, 40, 600]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    p = rng.dirichlet(np.full(classes, data.draw(st.sampled_from([0.01, 1, 100]))), 8)
    apart = 10.0 ** -data.draw(st.integers(0, 17))
    q = p * (1 + apart * rng.uniform(-1, 1, p.shape)) * 10.0 ** data.draw(st.integers(-30, 30))
    p, q = p.astype(dtype), q.astype(dtype)
    if (q.sum(axis=1) > 0).all() and (p.sum(axis=1) > 0).all():
        assert (KL(p, q, normalize=True) >= 0).all()
        assert (JS(p, q, normalize=True) >= 0).all()
    assert (JS(p, q) >= 0).all()


@pytest.mark.parametrize(
    "dtypes", [("float32", "float32"), ("float64", "float32"), ("float16", "float16")]
)
@pytest.mark.parametrize("classes", [3, 511, 1300])
def test_rows_side_by_side_have_the_same_bits(
    dtypes: tuple[str, str], classes: int, isa: str
) -> None:
    """Of every number of rows around that of a band, and of either argument alone."""
    rng = np.random.default_rng(classes)
    for rows in (1, 2, 15, 17, 31, 33, 70):
        p, q = (rng.uniform(1e-4, 1, (rows, classes)).astype(d) for d in dtypes)
        p[:, classes // 2] = 0
        across = [(np.asfortranarray(p), q), (p, np.asfortranarray(q))]
        across.append((np.asfortranarray(p)[::-1][::-1], np.asfortranarray(q)))
        wide = np.empty((classes, 3 * rows), p.dtype)
        wide[:, ::3] = p.T
        across.append((wide[:, ::3].T, q))
        for normalize in (False, True):
            for a, b in across:
                for function in DIVERGENCES:
                    found = function(a, b, normalize=normalize)
                    np.testing.assert_array_equal(found, function(p, q, normalize=normalize))
                np.testing.assert_array_equal(
                    xentfast.entropy(a, normalize=normalize),
                    xentfast.entropy(p, normalize=normalize),
                )
        whole = p / p.sum(axis=1, keepdims=True)
        assert xentfast.is_distribution(np.asfortranarray(whole), atol=1e-2).all()
        assert not xentfast.is_distribution(np.asfortranarray(whole - 1), atol=1e-2).any()
