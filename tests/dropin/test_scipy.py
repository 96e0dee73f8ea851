"""The drop-in against SciPy itself."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xentfast.dropin.scipy as ours
from cases import ISAS, UNFUSED_ISAS
from xentfast import _kernels

pytest.importorskip("scipy", minversion="1.17")
stats = pytest.importorskip("scipy.stats")
special = pytest.importorskip("scipy.special")
distance = pytest.importorskip("scipy.spatial.distance")

RTOL = {"float64": 1e-11, "float32": 2e-5, "float16": 3e-3}
SPECIAL = ("logsumexp", "softmax", "log_softmax")
FUSED_ISAS = [name for name in ISAS if name not in UNFUSED_ISAS]
TERMS = ("entr", "rel_entr", "kl_div", "xlogy")


def theirs(name: str) -> Any:
    modules = {"entropy": stats, "jensenshannon": distance}
    return getattr(modules.get(name, special), name)


def assert_same(found: Any, expected: Any, rtol: float = 1e-11) -> None:
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol, rtol)


def quiet(f: Any, *args: Any, **options: Any) -> Any:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return f(*args, **options)


@pytest.mark.parametrize("name", ["entropy", "jensenshannon", *SPECIAL])
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
    for row in ([-1, -1, 0.6], [-1, -1], [-1, 0]):  # whose quotients by their sum may be positive
        assert_same(ours.entropy(row), stats.entropy(row))
        for p, q in ((row, [1] * len(row)), ([1] * len(row), row), (row, [-1] * len(row))):
            assert_same(ours.entropy(p, q), stats.entropy(p, q))
            assert_same(ours.jensenshannon(p, q), quiet(distance.jensenshannon, p, q))
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


# --- weights, distances and single entries --------------------------------------------------------


@pytest.mark.parametrize("dtype", RTOL)
@settings(max_examples=60, deadline=None, derandomize=True)  # their rounding has no bound
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(6,), (5, 7), (2, 3, 4), (1, 1), (0, 3), (3, 0)]),
    axis=st.sampled_from([0, -1, None, (0, -1)]),
    weights=st.sampled_from(["positive", "signed", "one row", "one", "integers", "flags"]),
    odd=st.sampled_from([None, -np.inf, np.nan, np.inf, "weight inf", "weight nan", "weight 0"]),
    keepdims=st.booleans(),
)
def test_weighted_logsumexp(
    dtype: str, seed: int, shape: tuple[int, ...], axis: Any, weights: str, odd: Any, keepdims: bool
) -> None:
    rng = np.random.default_rng(seed)
    if isinstance(axis, tuple) and len(shape) < 2:
        axis = None
    if 0 in shape and axis != 0:
        axis = -1  # several axes of nothing are an IndexError there
    x = np.asarray(rng.normal(size=shape) * 3, dtype)
    b = {
        "positive": rng.random(shape).astype(dtype) + 0.5,
        "signed": rng.choice([-3, 1], shape).astype(dtype),
        "one row": rng.random(shape[-1:]).astype(dtype),
        "one": 0.5,
        "integers": rng.integers(1, 5, shape),
        "flags": rng.random(shape) < 0.7,
    }[weights]
    if odd is not None and x.ndim:
        where = rng.random(shape) < 0.3
        if isinstance(odd, str) and isinstance(b, np.ndarray) and b.dtype == dtype:
            b[rng.random(b.shape) < 0.3] = float(odd.split()[1])
        elif not isinstance(odd, str):
            x[where] = odd
    options = {"axis": axis, "b": b, "keepdims": keepdims, "return_sign": True}
    found, expected = ours.logsumexp(x, **options), quiet(special.logsumexp, x, **options)
    rtol = (
        50 * RTOL[dtype] if weights == "signed" else RTOL[dtype]
    )  # what cancels is theirs to lose
    for f, e in zip(found, expected, strict=True):
        assert_same(f, e, rtol)
    del options["return_sign"]
    assert_same(ours.logsumexp(x, **options), quiet(special.logsumexp, x, **options), rtol)


def test_weights_by_hand() -> None:
    inf, nan = np.inf, np.nan
    for a, b in [
        ([1, 2], [1, -1]), ([inf, 1], [1, 1]), ([inf], [-1]), ([inf, inf], [1, -1]),
        ([nan, 1], [0, 1]), ([nan], [0]), ([1, 2], [0, 0]), ([-inf, -inf], [1, 1]), ([-inf], [-1]),
        ([1, 1], [inf, 1]), ([1, 1], [nan, 1]), ([800, 1], [-1, 1]), ([0, -40], [1, 1]),
        ([inf, 1], [0, 1]), ([-inf, 1], [inf, 1]), ([], []), ([710, 710], [1, -0.999]),
    ]:  # fmt: skip
        for options in ({}, {"return_sign": True}):
            found = ours.logsumexp(a, b=b, **options)
            expected = quiet(special.logsumexp, a, b=b, **options)
            np.testing.assert_allclose(found, expected, rtol=1e-14)
    # What cancels for good is 0, and its logarithm -inf, where SciPy has nan.
    assert ours.logsumexp([1000, 1000], b=[1, -1], return_sign=True) == (-inf, 0)


@pytest.mark.parametrize("dtype", RTOL)
@settings(max_examples=60, deadline=None, derandomize=True)  # their rounding has no bound
@given(
    seed=st.integers(0, 2**32 - 1),
    shapes=st.sampled_from(
        [((6,), (6,)), ((5, 7), (5, 7)), ((2, 3, 4), (3, 4)), ((1, 1), (1, 1)), ((0, 3), (0, 3)),
         ((5, 7), (7,)), ((3, 1), (1, 3))]
    ),
    axis=st.sampled_from([0, -1, None]),
    base=st.sampled_from([None, 2, 0.5]),
    keepdims=st.booleans(),
    odd=st.sampled_from([None, 0, -1, np.nan, np.inf, "zeros"]),
    integers=st.booleans(),
)  # fmt: skip
def test_jensenshannon(
    dtype: str,
    seed: int,
    shapes: Any,
    axis: Any,
    base: float | None,
    keepdims: bool,
    odd: Any,
    integers: bool,
) -> None:
    rng = np.random.default_rng(seed)
    p, q = (rng.random(shape).astype(dtype) + np.dtype(dtype).type(0.1) for shape in shapes)
    if odd == "zeros":
        p[:1] = 0
    elif odd is not None:
        p[rng.random(p.shape) < 0.3] = odd
    if integers:
        q = rng.integers(1, 9, shapes[1])
    options = {"base": base, "axis": axis, "keepdims": keepdims}
    widened = (a.astype(np.float32) if a.dtype == np.float16 else a for a in (p, q))
    expected = quiet(distance.jensenshannon, *widened, **options)
    assert_same(ours.jensenshannon(p, q, **options), expected, np.sqrt(RTOL[dtype]) / 100)


def test_distances_by_hand() -> None:
    assert ours.jensenshannon([1.0, 0, 0], [0, 1.0, 0], 2.0) == 1
    assert ours.jensenshannon([1.0, 2], [0.5, 1]) == 0


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-6), ("float64", 1e-14)])
def test_distance_of_close_distributions(dtype: str, rtol: float) -> None:
    """In float32 SciPy has nan for the first and 0.0002 for the second, which is 8e-7."""
    for near in ([0.3001, 0.6999], [0.300001, 0.699999]):
        p, q = ([Fraction(float(x)) for x in np.array(a, dtype)] for a in (near, [0.3, 0.7]))
        p, q = ([x / sum(a) for x in a] for a in (p, q))
        square = sum((x - y) ** 2 / (x + y) / 4 for x, y in zip(p, q, strict=True))
        square += sum((x - y) ** 4 / (x + y) ** 3 / 24 for x, y in zip(p, q, strict=True))
        found = ours.jensenshannon(np.array(near, dtype), np.array([0.3, 0.7], dtype))
        assert found == pytest.approx(float(square) ** 0.5, rel=rtol)


def elementwise(name: str, *args: Any) -> Any:
    """Return what SciPy does, for xlogy in the dtype of the other terms, as from 1.18 on."""
    expected = quiet(getattr(special, name), *args)
    return expected.astype(special.rel_entr(*args).dtype) if name == "xlogy" else expected


ENDS = [0.0, -0.0, 1.0, 0.7, 1.3, -1.0, np.inf, -np.inf, np.nan, 1e-40, 5e-324, 1e30, 3.4e38]


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_terms_at_the_ends(name: str, dtype: str) -> None:
    x, y = np.meshgrid(*(np.array(ENDS, dtype),) * 2)
    args = (x,) if name == "entr" else (x, y)
    found, expected = getattr(ours, name)(*args), quiet(getattr(special, name), *args)
    if name == "kl_div" and dtype == "float64":  # x / y is 0 or inf in SciPy where it should not be
        with np.errstate(all="ignore"):
            lost = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0) & ~np.isfinite(expected)
            exact = x * (np.log(x) - np.log(y)) - x + y
        expected = np.where(lost, exact, expected)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(
        found, expected, rtol=1e-6 if dtype == "float32" else 2e-15, atol=tiny
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_term_of_what_is_close_is_negative_at_the_ends_of_the_range(
    dtype: str, isa: str
) -> None:
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    x = (rng.uniform(0.25, 0.99, 4000).astype(dtype)) * info.max
    x = np.concatenate([x, rng.uniform(1, 9, 4000).astype(dtype) * info.tiny])
    y = x + rng.integers(-4, 5, len(x)) * np.spacing(x)
    assert (ours.kl_div(x, y) >= 0).all()


@pytest.mark.parametrize("name", TERMS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    shapes=st.sampled_from(
        [((5,), (5,)), ((3, 5), (5,)), ((3, 1), (1, 4)), ((), (3,)), ((2, 0), (0,)), ((), ()),
         ((300, 200), (300, 200)), ((300, 200), ()), ((40, 1000), (40, 1))]
    ),
    dtypes=st.sampled_from(
        [("f4", "f4"), ("f8", "f8"), ("f4", "f8"), ("f2", "f2"), ("i8", "f4"), ("i2", "f4"),
         ("u1", "i1"), ("?", "f8"), (">f8", ">f4")]
    ),
    layout=st.sampled_from(["C", "F", "reversed", "every other"]),
    out=st.sampled_from([None, "out", "tuple", "f8", "x itself"]),
)  # fmt: skip
def test_terms(name: str, seed: int, shapes: Any, dtypes: Any, layout: str, out: Any) -> None:
    rng = np.random.default_rng(seed)
    arrays = [
        np.asarray(rng.exponential(size=shape) * 3).astype(dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    if layout == "F":
        arrays = [np.asfortranarray(a) for a in arrays]
    elif layout == "reversed":
        arrays = [a[..., ::-1] if a.ndim else a for a in arrays]
    elif layout == "every other":
        arrays = [np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a for a in arrays]
    arrays = arrays[:1] if name == "entr" else arrays
    expected = elementwise(name, *arrays)
    options = {}
    shape = np.shape(expected)
    if out == "x itself" and arrays[0].shape == shape and arrays[0].dtype == expected.dtype:
        options["out"] = arrays[0]
    elif out in ("out", "tuple", "f8"):
        place = np.empty(shape, "f8" if out == "f8" else expected.dtype)
        options["out"] = (place,) if out == "tuple" else place
    found = getattr(ours, name)(*arrays, **options)
    if options:
        place = options["out"][0] if out == "tuple" else options["out"]
        assert found is place
        np.testing.assert_allclose(found, expected, 2e-6, 1e-7)
    else:
        assert_same(found, expected, 2e-6 if expected.dtype == "f4" else 1e-13)
        assert np.ndim(found) < 2 or found.flags.f_contiguous == expected.flags.f_contiguous


def test_terms_of_scalars_and_lists() -> None:
    f = np.float32([0.5, 2])
    for args in [
        (2, 3),
        (2.0, 3),
        (0.5, f),
        (f, 2),
        ([1, 2], 3.0),
        (True, 2.0),
        (np.float64(2), f),
    ]:
        for name in TERMS[1:]:
            assert_same(getattr(ours, name)(*args), elementwise(name, *args), 2e-6)
    assert_same(ours.entr(0.3), special.entr(0.3))
    assert_same(ours.entr([0.3, 1]), special.entr([0.3, 1]))


@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", 16 * 2.0**-24), ("float64", 16 * 2.0**-53)]
)
def test_terms_of_what_is_close(dtype: str, bound: float) -> None:
    rng = np.random.default_rng(0)
    x = (rng.random(20_000) * 10).astype(dtype)
    y = (x * (1 + 10.0 ** rng.uniform(-16, 1, x.size) * rng.choice([-0.9, 1], x.size))).astype(
        dtype
    )
    y = np.abs(y)
    f = (y.astype(np.longdouble) - x) / x
    series = sum((-1) ** k * f**k / k for k in range(2, 8))
    expected = x * np.where(np.abs(f) < 1e-3, series, f - np.log1p(f))
    np.testing.assert_allclose(ours.kl_div(x, y), expected.astype(float), rtol=bound)
    np.testing.assert_allclose(ours.rel_entr(x, y), (-x * np.log1p(f)).astype(float), rtol=bound)
    assert (ours.kl_div(x, x) == 0).all()


def test_terms_have_the_same_bits_everywhere(threads: int) -> None:
    x, y = np.random.default_rng(0).exponential(size=(2, 300_001))
    for dtype in ("float32", "float64"):
        a, b = x.astype(dtype), y.astype(dtype)
        cut = list(zip(np.array_split(a, 7), np.array_split(b, 7), strict=True))
        for name in TERMS[1:]:
            f = getattr(ours, name)
            np.testing.assert_array_equal(f(a, b), np.concatenate([f(*part) for part in cut]))


@pytest.mark.parametrize("name", TERMS)
def test_terms_of_every_instruction_set(name: str, isa: str) -> None:
    x, y = np.random.default_rng(1).exponential(size=(2, 1001))
    for dtype, rtol in (("float32", 2e-6), ("float64", 4e-15)):
        args = (x.astype(dtype), y.astype(dtype))[: 1 if name == "entr" else 2]
        found, expected = getattr(ours, name)(*args), getattr(special, name)(*args)
        np.testing.assert_allclose(found, expected, rtol, rtol)
        if isa not in UNFUSED_ISAS:
            before = _kernels.get_isa()
            _kernels.set_isa(FUSED_ISAS[0])
            np.testing.assert_array_equal(found, getattr(ours, name)(*args))
            _kernels.set_isa(before)


# --- what is left to SciPy ------------------------------------------------------------------------


class Wrapped(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of another library, which takes part in ufuncs."""

    def __init__(self, a: Any) -> None:
        self.a = np.asarray(a)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.a

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return Wrapped(getattr(ufunc, method)(*(getattr(i, "a", i) for i in inputs), **options))


def test_what_is_left_to_scipy() -> None:
    masked = np.ma.array([1.0, 2, 4], mask=[False, True, False])
    long = np.array([1, 2, 4], np.longdouble)
    deep = np.random.default_rng(0).random((2,) * 8)
    for name, args in [
        ("logsumexp", ([1 + 2j, 3],)), ("logsumexp", (long,)), ("logsumexp", (deep,)),
        ("softmax", ([1j, 2],)), ("softmax", (long,)), ("softmax", (deep,)),
        ("log_softmax", (long,)), ("entropy", (masked,)),
        ("entropy", (deep, deep)),
        ("jensenshannon", (masked, [1.0, 2, 3])), ("jensenshannon", (deep, deep)),
        ("entr", (masked,)), ("rel_entr", (masked, 2.0)), ("xlogy", (2j, [1.0, 2])),
        ("kl_div", (np.array([1.0, 2]), masked[:2])),
    ]:  # fmt: skip
        found, expected = (quiet(f, *args) for f in (getattr(ours, name), theirs(name)))
        assert type(found) is type(expected)
        np.testing.assert_array_equal(found, expected)
    found = ours.logsumexp([1 + 2j, 3], b=[1, -1], return_sign=True)
    np.testing.assert_array_equal(
        found, special.logsumexp([1 + 2j, 3], b=[1, -1], return_sign=True)
    )
    assert type(ours.entr(Wrapped([1.0, 2]))) is Wrapped
    assert ours.entr(np.array([1.0, 2]), where=[True, False], out=np.zeros(2)).tolist() == [0, 0]
    with pytest.raises(TypeError, match="not supported for the input types"):
        ours.entr(long)


def test_what_is_left_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("scipy.special", "scipy.stats", "scipy.spatial.distance"):
        monkeypatch.setitem(sys.modules, module, None)
    a = [1j, 2]
    for call, module in [
        (lambda: ours.entropy(a), "scipy.stats"),
        (lambda: ours.jensenshannon(a, a), "scipy.spatial.distance"),
        (lambda: ours.logsumexp(a), "scipy.special"),
        (lambda: ours.softmax(a), "scipy.special"),
        (lambda: ours.log_softmax(a), "scipy.special"),
        (lambda: ours.entr(a), "scipy.special"),
    ]:
        with pytest.raises(
            NotImplementedError, match=f"is left to {module}, which is not installed"
        ):
            call()
    assert ours.logsumexp([0.0], b=[2.0]) == np.log(2)


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
