"""The drop-in against SciPy itself."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xentfast.dropin.scipy as ours

pytest.importorskip("scipy", minversion="1.17")
stats = pytest.importorskip("scipy.stats")
special = pytest.importorskip("scipy.special")

RTOL = {"float64": 1e-11, "float32": 2e-5, "float16": 3e-3}
SPECIAL = ("logsumexp", "softmax", "log_softmax")


def theirs(name: str) -> Any:
    return getattr(special if name in SPECIAL else stats, name)


def assert_same(found: Any, expected: Any, rtol: float = 1e-11) -> None:
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol, rtol)


def quiet(f: Any, *args: Any, **options: Any) -> Any:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args, **options)


@pytest.mark.parametrize("name", ["entropy", *SPECIAL])
def test_signature(name: str) -> None:
    found, expected = (
        [(p.name, p.default, p.kind) for p in inspect.signature(f).parameters.values()]
        for f in (getattr(ours, name), theirs(name))
    )
    assert found == expected


@pytest.mark.parametrize("dtype", RTOL)
@settings(max_examples=50, deadline=None, derandomize=True)  # their rounding has no bound
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(6,), (5, 7), (2, 3, 4), (1, 1), (0, 3), (3, 0)]),
    axis=st.sampled_from([0, -1, None, (0, -1), (-1, 0)]),
    relative=st.sampled_from(["no", "same shape", "one row", "one entry"]),
    base=st.sampled_from([None, 2, 0.5]),
    nan_policy=st.sampled_from(["propagate", "omit"]),
    keepdims=st.booleans(),
    odd=st.sampled_from([None, 0, -1, np.nan, np.inf, "zeros", "all nan"]),
    layout=st.sampled_from(["C", "F", "reversed"]),
)
def test_entropy(
    dtype: str,
    seed: int,
    shape: tuple[int, ...],
    axis: Any,
    relative: str,
    base: float | None,
    nan_policy: str,
    keepdims: bool,
    odd: Any,
    layout: str,
) -> None:
    rng = np.random.default_rng(seed)
    if isinstance(axis, tuple) and len(shape) < 2:
        axis = None
    p = rng.random(shape).astype(dtype)
    q_shape = {"one row": shape[-1:], "one entry": (1,)}.get(relative, shape)
    q = None if relative == "no" else rng.random(q_shape).astype(dtype) + np.dtype(dtype).type(0.1)
    for a in (p, q):
        if a is None or odd is None or not a.size:
            continue
        if odd == "zeros":
            a[0] = 0
        elif odd == "all nan":
            a[0] = np.nan
        else:
            a[rng.random(a.shape) < 0.3] = odd
    if layout == "F":
        p = np.asfortranarray(p)
    elif layout == "reversed":
        p = p[::-1]
    options = {"base": base, "axis": axis, "nan_policy": nan_policy, "keepdims": keepdims}
    if axis is None and q is not None:
        q = np.broadcast_to(q, shape)
    expected = quiet(stats.entropy, p, q, **options)
    if dtype == "float16":  # SciPy says float32, but for some nans float16
        expected = expected.astype(np.float32)
    assert_same(ours.entropy(p, q, **options), expected, RTOL[dtype])


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("dtype", RTOL)
@settings(max_examples=30, deadline=None, derandomize=True)  # their rounding has no bound
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(6,), (5, 7), (2, 3, 4), (1, 1), (0, 3), ()]),
    axis=st.sampled_from([0, -1, None, (0, -1), (-1, 0)]),
    odd=st.sampled_from([None, -np.inf, np.nan, np.inf]),
    layout=st.sampled_from(["C", "F", "reversed"]),
)
def test_special(
    name: str, dtype: str, seed: int, shape: tuple[int, ...], axis: Any, odd: Any, layout: str
) -> None:
    rng = np.random.default_rng(seed)
    if isinstance(axis, tuple) and len(shape) < 2:
        axis = None
    if shape == (0, 3):
        axis = -1  # rows of nothing are another test's
    x = np.asarray(rng.normal(size=shape) * 3, dtype)
    if odd is not None and x.ndim:
        x[rng.random(shape) < 0.3] = odd
    if layout == "F":
        x = np.asfortranarray(x)
    elif layout == "reversed" and x.ndim:
        x = x[::-1]
    expected = quiet(theirs(name), x, axis=axis)
    found = getattr(ours, name)(x, axis=axis)
    assert_same(found, expected, RTOL[dtype])
    if name == "logsumexp":
        options = {"axis": axis, "keepdims": True, "return_sign": True}
        signed = ours.logsumexp(x, **options), quiet(special.logsumexp, x, **options)
        for found, expected in zip(*signed, strict=True):
            assert_same(found, expected, RTOL[dtype])


def test_lists_integers_and_scalars() -> None:
    for a in ([1, 2, 3], np.array([[1, 2], [3, 4]]), [True, False, True], 3):
        assert_same(ours.entropy(a), stats.entropy(a))
        assert_same(ours.logsumexp(a), special.logsumexp(a))
        if not isinstance(a, list) or a[0] is not True:
            assert_same(ours.softmax(a), special.softmax(a))
            assert_same(ours.log_softmax(a), special.log_softmax(a))
    assert_same(ours.entropy([-1, -1, 0.6]), stats.entropy([-1, -1, 0.6]))  # the sum is negative
    for p, q in [([1, 2], np.float32([1, 3])), (np.float16([1, 2]), np.float32([1, 3]))]:
        assert_same(ours.entropy(p, q), stats.entropy(p, q), 1e-6)


def test_nothing() -> None:
    assert_same(ours.entropy([]), stats.entropy([]))
    assert_same(ours.entropy([], [1.0]), stats.entropy([], [1.0]))
    empty = np.zeros((0, 3))
    assert_same(ours.entropy(empty), stats.entropy(empty))
    assert_same(ours.logsumexp(empty, axis=0), special.logsumexp(empty, axis=0))
    assert_same(ours.logsumexp([]), special.logsumexp([]))
    for name in ("softmax", "log_softmax"):
        for f in (getattr(ours, name), theirs(name)):
            with pytest.raises(ValueError, match=r"zero-size array|at least one class"):
                f(empty, axis=0)


def test_base_one_is_warned_of() -> None:
    for f in (ours.entropy, stats.entropy):
        with pytest.warns(RuntimeWarning, match="divide by zero"):
            assert f([0.5, 0.5], base=1) == np.inf


def test_errors() -> None:
    p, nan = np.ones((3, 4)), [1, np.nan]
    for options, match in [
        ({"pk": p, "base": 0}, "`base` must be a positive number or `None`."),
        ({"pk": p, "base": -1}, "`base` must be a positive number or `None`."),
        ({"pk": p, "qk": [1.0, 2.0]}, "Array shapes are incompatible for broadcasting."),
        ({"pk": p, "axis": 5}, "axis 5 is out of bounds for array of dimension 2"),
        ({"pk": p, "axis": (0, 0)}, "repeated axis in `source` argument"),
        ({"pk": p, "axis": 0.5}, "integer argument expected, got float"),
        ({"pk": nan, "nan_policy": "raise"}, "The input contains nan values"),
        ({"pk": [1, 2], "qk": nan, "nan_policy": "raise"}, "The input contains nan values"),
    ]:
        with pytest.raises(Exception, match=match) as expected:
            stats.entropy(**options)
        with pytest.raises(type(expected.value)) as found:
            ours.entropy(**options)
        assert str(found.value) == str(expected.value)
    for f in (ours.entropy, stats.entropy):
        with pytest.raises(ValueError, match="nan_policy must be one of"):
            f([1.0, 2.0], nan_policy="drop")
    for name in SPECIAL:
        for f in (getattr(ours, name), theirs(name)):
            with pytest.raises(np.exceptions.AxisError, match="axis 2 is out of bounds"):
                f(p, axis=2)


def test_what_is_left_out() -> None:
    with pytest.raises(NotImplementedError, match="b must be None"):
        ours.logsumexp([1.0, 2.0], b=[1, 2])
    with pytest.raises(TypeError, match="must be plain, got MaskedArray"):
        ours.entropy(np.ma.array([1.0, 2.0], mask=[False, True]))
    with pytest.raises(TypeError, match="must have a floating or integer dtype"):
        ours.softmax([1j, 2])
    assert not any(hasattr(ours, name) for name in ("entr", "rel_entr", "kl_div"))


def test_better_on_purpose() -> None:
    x = np.zeros(70_000, np.float16)
    assert float(ours.logsumexp(x)) == pytest.approx(np.log(70_000), rel=1e-3)
    assert float(ours.log_softmax(x)[0]) == pytest.approx(-np.log(70_000), rel=1e-3)
    assert ours.entropy(x + 1) == pytest.approx(np.log(70_000), rel=1e-5)
    assert ours.log_softmax([40.0, 0, 0])[0] == pytest.approx(-2 * np.exp(-40), rel=1e-12)
    assert ours.softmax(np.array([1, 2], np.uint8)).dtype == np.float64


def test_softmax_is_laid_out_as_its_input() -> None:
    for name in ("softmax", "log_softmax"):
        x = np.asfortranarray(np.arange(12.0).reshape(3, 4))
        assert getattr(ours, name)(x, axis=0).flags.f_contiguous
        assert getattr(ours, name)(x.T, axis=0).flags.c_contiguous


def test_importing_imports_no_scipy() -> None:
    code = "import sys, xentfast.dropin.scipy; assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
