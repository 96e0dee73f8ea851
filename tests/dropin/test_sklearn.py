"""The drop-in against scikit-learn itself."""

from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xentfast
import xentfast.dropin.sklearn as ours
from cases import ISAS, UNFUSED_ISAS
from xentfast import _kernels

pytest.importorskip("sklearn", minversion="1.9")
metrics = pytest.importorskip("sklearn.metrics")
losses = pytest.importorskip("sklearn._loss")
sparse = pytest.importorskip("scipy.sparse")
threadpoolctl = pytest.importorskip("threadpoolctl")

RTOL = {"float64": 1e-11, "float32": 2e-5, "float16": 3e-3}
P = np.array([[0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])


def outcome(f: Any, *args: Any, **options: Any) -> tuple[Any, list[Any]]:
    """Return what came of a call: a number or an error's type and text; and the warnings."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        try:
            result = f(*args, **options)
        except Exception as error:
            return (type(error).__name__, str(error)), []
    return result, [(w.category, str(w.message)) for w in record]


def assert_same_outcome(*args: Any, **options: Any) -> Any:
    found, warned = outcome(ours.log_loss, *args, **options)
    expected, expected_warned = outcome(metrics.log_loss, *args, **options)
    assert warned == expected_warned
    if isinstance(expected, tuple):
        assert found == expected
    else:
        assert type(found) is type(expected) is float
        dtype = np.asarray(args[1] if len(args) > 1 else options["y_pred"]).dtype
        assert found == pytest.approx(expected, rel=RTOL.get(dtype.name, 1e-11), nan_ok=True)
    return expected


# --- log_loss -------------------------------------------------------------------------------------


def test_signature() -> None:
    found, expected = (
        [(p.name, p.default, p.kind) for p in inspect.signature(f).parameters.values()]
        for f in (ours.log_loss, metrics.log_loss)
    )
    assert found == expected


@pytest.mark.parametrize("dtype", RTOL)
@settings(max_examples=60, deadline=None, derandomize=True)  # their rounding has no bound
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.sampled_from([2, 3, 7]),
    shape=st.sampled_from(["matrix", "vector", "column"]),
    kind=st.sampled_from(["int", "int8", "gaps", "float", "bool", "str", "object", "indicators"]),
    weight=st.sampled_from(["none", "some", "negative", "zeros", "int"]),
    labels=st.booleans(),
    normalize=st.booleans(),
    ends=st.booleans(),
    layout=st.sampled_from(["C", "F", "strided", "list"]),
)
def test_log_loss(
    dtype: str,
    seed: int,
    classes: int,
    shape: str,
    kind: str,
    weight: str,
    labels: bool,
    normalize: bool,
    ends: bool,
    layout: str,
) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 12))
    p = rng.dirichlet(np.ones(classes), rows)
    if ends:
        p[0] = np.eye(classes)[0]
    if shape != "matrix" or kind == "bool":
        classes = 2
        p = p[:, :2] / p[:, :2].sum(axis=1, keepdims=True)
        p = {"matrix": p, "vector": p[:, 1], "column": p[:, 1:]}[shape]
    p = p.astype(dtype)
    names: Any = np.arange(classes)
    if kind == "gaps":
        names = np.sort(rng.choice(np.arange(-50, 50), classes, replace=False)) * 1000
    elif kind in ("str", "object"):
        names = np.array([f"class {chr(97 + i)}" for i in range(classes)])
    y = names[rng.integers(classes, size=rows)]
    if kind == "indicators":
        y, labels = np.eye(classes, dtype=int)[y], False
    elif kind not in ("gaps", "str"):
        y = y.astype(kind)
        names = names.astype(kind)
    weights = {
        "none": None,
        "some": rng.random(rows),
        "negative": -rng.random(rows),  # of one sign, or the sum would cancel
        "zeros": np.zeros(rows),
        "int": np.arange(1, rows + 1),
    }[weight]
    if layout == "F":
        p = np.asfortranarray(p)
    elif layout == "strided":
        p, y = np.repeat(p, 2, axis=0)[::2], np.repeat(y, 2, axis=0)[::2]
    elif layout == "list" and dtype == "float64":
        p, y = p.tolist(), y.tolist()
    options = {"sample_weight": weights, "normalize": normalize}
    if labels:
        options["labels"] = names
    assert_same_outcome(y, p, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"y_true": [1, 1, 1]},
        {"y_true": [1, 1, 1], "labels": [1]},
        {"y_true": [1, 1, 0], "labels": [1, 0]},
        {"y_true": [1, 1, 0], "labels": [0, 1, 1]},
        {"y_true": [1, 1, 2], "labels": [0, 1]},
        {"y_true": ["x", "y", "z"], "labels": ["x", "y"]},
        {"y_true": [1, 0, 2]},
        {"y_true": [1, 0, 2], "y_proba": [0.1, 0.2, 0.3]},
        {"y_true": [1, 0, 1], "labels": [0, 1, 2]},
        {"y_true": [[0, 1], [1, 1], [0, 1]]},
        {"y_true": [[0, 1], [1, 0], [0, 1]], "labels": [0, 1]},
        {"y_true": [[0, 2], [1, 1], [1, 3]]},
        {"y_true": np.array([[0], [1], [1]])},
        {"y_true": [0.5, 0.2, 1]},
        {"y_true": [0.0, np.nan, 1.0]},
        {"y_true": [1, 0]},
        {"y_true": None},
        {"sample_weight": [1, 2]},
        {"sample_weight": [0, 0, 0]},
        {"sample_weight": [1, -1, 0]},
        {"sample_weight": [np.nan, 1, 3]},
        {"sample_weight": [[1], [1], [3]]},
        {"sample_weight": 2.0},
        {"y_proba": P * 2},
        {"y_proba": -P},
        {"y_proba": P * 0.9},
        {"y_proba": np.where(P == 0.4, np.nan, P)},
        {"y_proba": np.where(P == 0.4, np.inf, P)},
        {"y_proba": [0.1, np.nan, 0.3]},
        {"y_proba": P[np.newaxis]},
        {"y_proba": 0.5},
        {"y_proba": None},
        {"y_proba": [["a", "b"]] * 3},
        {"y_proba": P + 0j},
        {"y_proba": [[0, 1], [1, 0], [1, 0]]},
        {"y_true": [], "y_proba": []},
        {"y_true": [], "y_proba": np.zeros((0, 2))},
        {"y_true": sparse.csr_array([[0, 1], [1, 0], [0, 1]])},
        {"y_true": sparse.coo_matrix([[1], [0], [1]])},
        {"y_proba": sparse.csr_array(P)},
        {"y_proba": sparse.csc_matrix(P)},
        {"sample_weight": sparse.csr_array([[1, 2, 3]])},
        {"labels": sparse.csr_matrix([[0, 1]])},
        {"y_proba": None, "y_pred": sparse.csr_array(P)},
        {"y_proba": P.view(np.matrix)},
        {"y_true": np.array([[1], [0], [1]]).view(np.matrix)},
        {"y_proba": np.ma.array(P)},
        {"normalize": "yes"},
        {"y_pred": P, "y_proba": None},
        {"y_pred": P},
    ],
    ids=str,
)
def test_errors_and_warnings(options: dict[str, Any]) -> None:
    options = {"y_true": [1, 0, 1], "y_proba": P} | options
    found, warned = outcome(ours.log_loss, **options)
    expected, expected_warned = outcome(metrics.log_loss, **options)
    assert warned == expected_warned
    assert found == (expected if isinstance(expected, tuple) else pytest.approx(expected))


@pytest.mark.parametrize("name", ["y_true", "y_proba", "y_pred", "sample_weight", "labels"])
def test_masked_entries_are_refused(name: str) -> None:
    given: dict[str, Any] = {"y_true": [1, 0, 1], "y_proba": P}
    values = {"y_true": [1, 0, 1], "sample_weight": [1.0, 2, 3], "labels": [0, 1]}.get(name, P)
    given[name] = np.ma.masked_equal(values, np.asarray(values).flat[0])
    if name == "y_pred":
        del given["y_proba"]
    with pytest.raises(ValueError, match=f"'{name}' .* without masked entries. Got masked_array"):
        ours.log_loss(**given)


def test_epsilon_of_the_dtype() -> None:
    for dtype, expected in [("float64", 18.37), ("float32", 8.318), ("float16", 3.8125)]:
        p = np.array([[0, 1], [0.5, 0.5]], dtype)
        assert ours.log_loss([0, 1], p) == pytest.approx(expected, rel=1e-3)
        assert_same_outcome([0, 1], p)


def test_integers_that_fill_their_dtype() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(256), 256)
    for dtype in ("int8", "uint8"):
        info = np.iinfo(dtype)
        y = np.arange(info.min, info.max + 1).astype(dtype)
        assert_same_outcome(y, p)
        assert_same_outcome(y[::-1], p, labels=y)
    assert_same_outcome(np.array([0, 2**63 - 1, 2**64 - 1], np.uint64)[[0, 1, 1]], P)
    assert_same_outcome(np.array([-(2**63), 2**63 - 1])[[0, 1, 1]], P)


def test_invalid_parameter_is_both_errors() -> None:
    with pytest.raises(TypeError, match="'y_true' parameter of log_loss"):
        ours.log_loss(None, P)
    with pytest.raises(ValueError, match="'y_true' parameter of log_loss"):
        ours.log_loss(None, P)


# --- half losses ----------------------------------------------------------------------------------

METHODS = ("loss", "gradient", "loss_gradient", "gradient_hessian", "gradient_proba")
PAIRS = [
    ("HalfMultinomialLoss", method)
    for method in METHODS
] + [("HalfBinomialLoss", method) for method in METHODS[:-1]]  # fmt: skip


def inputs(name: str, dtype: str, rows: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    if name == "HalfBinomialLoss":
        y = np.where(rng.random(rows) < 0.7, rng.integers(0, 2, rows), rng.random(rows))
        return y.astype(dtype), (rng.normal(size=rows) * 8).astype(dtype)
    return (
        rng.integers(classes, size=rows).astype(dtype),
        (rng.normal(size=(rows, classes)) * 4).astype(dtype),
    )


def both(name: str, classes: int) -> tuple[Any, Any]:
    options = {"n_classes": classes} if name == "HalfMultinomialLoss" else {}
    return getattr(ours, name)(**options), getattr(losses, name)(**options)


def assert_close(found: Any, expected: Any, dtype: str) -> None:
    tuples = isinstance(expected, tuple)
    for a, b in zip(*(x if tuples else (x,) for x in (found, expected)), strict=True):
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        assert a.flags.f_contiguous == b.flags.f_contiguous
        atol = {"float32": 3e-7, "float64": 1e-15}[dtype]
        np.testing.assert_allclose(a, b, rtol=RTOL[dtype], atol=atol)


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_method_signatures(name: str, method: str) -> None:
    found, expected = (
        [(p.name, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (getattr(loss, method) for loss in both(name, 3))
    )
    assert found == expected


@pytest.mark.parametrize(("name", "method"), PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight", ["none", "some", "zeros", "negative"])
def test_half_losses(name: str, method: str, dtype: str, weight: str) -> None:
    for rows, classes in [(0, 3), (1, 2), (23, 3), (300, 1000)]:  # the last in several blocks
        y, x = inputs(name, dtype, rows, classes)
        w = {
            "none": None,
            "some": np.linspace(0, 2, rows, dtype=dtype),
            "zeros": np.zeros(rows, dtype),
            "negative": -np.ones(rows, dtype),
        }[weight]
        our, their = both(name, classes)
        for layout in (np.ascontiguousarray, np.asfortranarray):
            found, expected = (
                getattr(loss, method)(y_true=y, raw_prediction=layout(x), sample_weight=w)
                for loss in (our, their)
            )
            assert_close(found, expected, dtype)
        if rows:
            total = {"sample_weight": w} if weight == "some" and rows > 1 else {}
            assert our(y, x, **total) == pytest.approx(their(y, x, **total), rel=1e-5)


@pytest.mark.parametrize(("name", "method"), PAIRS)
@pytest.mark.parametrize("out_dtype", ["float32", "float64"])
def test_out_buffers(name: str, method: str, out_dtype: str) -> None:
    y, x = inputs(name, "float64", 11, 4)
    our, their = both(name, 4)
    outs = [f"{part}_out" for part in method.split("_")]
    shapes = {"loss_out": y.shape}
    for given_outs in (outs, outs[:1], outs[1:]):
        places = [
            {out: np.full(shapes.get(out, x.shape), 7, out_dtype) for out in given_outs}
            for _ in range(2)
        ]
        found, expected = (
            getattr(loss, method)(y, x, **place)
            for loss, place in zip((our, their), places, strict=True)
        )
        assert_close(found, expected, "float32")
        results = found if isinstance(found, tuple) else (found,)
        for out, result in zip(outs, results, strict=True):
            if out in given_outs:
                assert np.shares_memory(result, places[0][out])


@pytest.mark.parametrize("method", METHODS[:-1])
def test_a_column_of_logits_is_a_vector(method: str) -> None:
    y, x = inputs("HalfBinomialLoss", "float64", 11, 2)
    our, their = both("HalfBinomialLoss", 2)
    found, expected = (getattr(loss, method)(y, x[:, np.newaxis]) for loss in (our, their))
    assert_close(found, expected, "float64")


def test_threads_change_nothing_and_concern_one_call() -> None:
    y, x = inputs("HalfMultinomialLoss", "float32", 3000, 100)
    before = xentfast.get_num_threads()
    loss = ours.HalfMultinomialLoss(n_classes=100)
    one, many = (loss.gradient_hessian(y, x, n_threads=n) for n in (1, 5))
    assert xentfast.get_num_threads() == before
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda n: loss.loss_gradient(y, x, n_threads=1 + n % 3), range(40)):
            assert xentfast.get_num_threads() == before
    assert xentfast.get_num_threads() == before


def test_half_loss_errors() -> None:
    y, x = inputs("HalfMultinomialLoss", "float64", 5, 3)
    f = np.float32
    our, their = both("HalfMultinomialLoss", 3)
    for args in [
        (y.astype(int), x),
        (y.astype(np.float16), x.astype(np.float16)),
        (y.tolist(), x),
        (y.astype(f), x),
        (y, x.astype(f)),
        (y, x, np.ones(5, f)),
        (y, x, np.ones(5, np.int64)),
        (y, x[:, 0].copy()),
    ]:
        found, expected = (outcome(loss.loss, *args) for loss in (our, their))
        assert found == expected
        assert isinstance(found[0], tuple)
    args = (y, x, None, np.empty(5, f), np.empty((5, 3)))
    assert outcome(our.loss_gradient, *args) == outcome(their.loss_gradient, *args)


def test_refused_on_purpose() -> None:
    y, x = inputs("HalfMultinomialLoss", "float64", 5, 3)
    our = ours.HalfMultinomialLoss(n_classes=3)
    for bad in (-1, 3, 0.5, np.nan):
        labels = y.copy()
        labels[4] = bad
        with pytest.raises(ValueError, match=rf"y_true must be in \[0, 3\), got {bad}.* at row 4"):
            our.loss(labels, x)
    with pytest.raises(ValueError, match=r"y_true must have shape \(5,\), got \(4,\)"):
        our.loss(y[:4], x)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(5,\), got \(6,\)"):
        our.loss(y, x, np.ones(6))
    with pytest.raises(ValueError, match=r"loss_out must have shape \(5,\), got \(4,\)"):
        our.loss(y, x, None, np.empty(4))
    with pytest.raises(ValueError, match=r"y_true must be in \[0, 1\], got 2.0 at row 1"):
        ours.HalfBinomialLoss().loss(np.array([1.0, 2.0]), np.zeros(2))


def test_refused_outputs() -> None:
    y, x = inputs("HalfMultinomialLoss", "float64", 5, 3)
    our = ours.HalfMultinomialLoss()
    for options, message in [
        (
            {"gradient_out": np.empty((5, 4))},
            r"gradient_out must have shape \(5, 3\), got \(5, 4\)",
        ),
        ({"hessian_out": np.empty((4, 3))}, r"must have shape \(5, 3\), got \(4, 3\)"),
        (
            {"gradient_out": np.empty((5, 3)), "hessian_out": np.empty((5, 3), np.float32)},
            "expected 'double' but got 'float'",
        ),
        (
            {"gradient_out": np.empty((5, 3), int)},
            "outputs must be writeable arrays of float32 or float64, got int64",
        ),
        ({"gradient_out": np.broadcast_to(0.0, (5, 3))}, "got float64, read-only and float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            our.gradient_hessian(y, x, **options)
    with pytest.raises(ValueError, match=r"np\.float64\. Got dtype=int32 instead"):
        our.init_gradient_and_hessian(3, "int32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [2, 3, 16, 127, 128, 129, 300])
def test_half_losses_have_their_digits(dtype: str, classes: int, isa: str) -> None:
    rng = np.random.default_rng(classes)
    rows = 150
    x = (rng.normal(size=(rows, classes)) * np.linspace(0, 20, rows)[:, np.newaxis]).astype(dtype)
    x[: rows // 2, 0] += np.linspace(0, 60, rows // 2).astype(dtype)
    x[::5] = np.round(x[::5])  # ties
    y = rng.integers(classes, size=rows).astype(dtype)
    w = rng.random(rows).astype(dtype)
    with np.errstate(under="ignore"):
        d = x.astype(np.longdouble) - x.max(axis=1, keepdims=True)
        e = np.exp(d)
        first = d.argmax(axis=1)
        e[np.arange(rows), first] = 0
        others = e.sum(axis=1)
        e[np.arange(rows), first] = 1
        total = (1 + others)[:, np.newaxis]
        p, q = e / total, (total - e) / total
        q[np.arange(rows), first] = others / total[:, 0]
    label = np.arange(rows), y.astype(int)
    gradient = p.copy()
    gradient[label] = -q[label]
    losses = np.log1p(others) - d[label]
    bound = {"float32": 10 * 2.0**-24, "float64": 12 * 2.0**-53}[dtype]
    tiny = float(np.finfo(dtype).tiny)
    our = ours.HalfMultinomialLoss(n_classes=classes)
    column = w[:, np.newaxis]
    checks = [
        (our.loss_gradient(y, x), (losses, gradient)),
        (our.loss_gradient(y, x, w), (losses * w, gradient * column)),
        (our.gradient_hessian(y, x, w), (gradient * column, p * q * column)),
        (our.gradient_proba(y, x, w), (gradient * column, p)),
    ]
    for found, expected in checks:
        for f, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(f, e.astype(float), rtol=bound, atol=tiny)


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_half_losses_have_the_same_bits_everywhere(name: str, method: str) -> None:
    fused = [isa for isa in ISAS if isa not in UNFUSED_ISAS]
    for dtype in ("float32", "float64"):
        y, x = inputs(name, dtype, 2000, 150)
        our, _ = both(name, 150)
        before, results = _kernels.get_isa(), []
        for isa in fused:
            _kernels.set_isa(isa)
            for n in (1, 3):
                result = getattr(our, method)(y, x, y, n_threads=n)
                results.append(result if isinstance(result, tuple) else (result,))
        _kernels.set_isa(before)
        for result in results[1:]:
            for found, expected in zip(result, results[0], strict=True):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_weight_of_zero_counts_nothing(dtype: str) -> None:
    rows = np.array([[np.nan, 0, 0], [0, 1, 2], [np.inf, 0, 0], [0, -np.inf, 0]], dtype)
    y, w = np.array([0, 1, 0, 1], dtype), np.array([0, 2, 0, 0], dtype)
    our = ours.HalfMultinomialLoss()
    for found in (*our.loss_gradient(y, rows, w), *our.gradient_hessian(y, rows, w)):
        assert np.isfinite(found).all()
        assert not found[w == 0].any()
        assert found[1].any()


def test_confident_rows_keep_their_digits() -> None:
    y, x = np.zeros(1), np.array([[40.0, 0, 0]])
    loss, gradient = ours.HalfMultinomialLoss().loss_gradient(y, x)
    small = 2 * np.exp(-40)
    assert loss[0] == pytest.approx(small, rel=1e-12)
    assert gradient[0, 0] == pytest.approx(-small, rel=1e-12)
    for label in range(3):  # whoever is the label
        _, hessian = ours.HalfMultinomialLoss().gradient_hessian(y + label, x)
        assert hessian[0] == pytest.approx([small, small / 2, small / 2], rel=1e-12)
    _, hessian = ours.HalfMultinomialLoss().gradient_hessian(
        np.ones(1, np.float32), np.float32([[20, 0, 0]])
    )
    assert hessian[0, 0] == pytest.approx(2 * np.exp(-20), rel=1e-6)
    _, proba = ours.HalfMultinomialLoss().gradient_proba(
        np.ones(1, np.float32), np.float32([[43, 0, 0]])
    )
    assert proba[0, 1] == pytest.approx(np.exp(-43), rel=1e-5)
    for raw in (-40.0, 40.0):
        _, hessian = ours.HalfBinomialLoss().gradient_hessian(np.ones(1), np.array([raw]))
        assert hessian[0] == pytest.approx(np.exp(-40), rel=1e-12)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 15, 16, 17, 40])
@pytest.mark.parametrize("classes", [3, 130])
def test_half_losses_of_any_layout(rows: int, classes: int) -> None:
    y, x = inputs("HalfMultinomialLoss", "float64", rows, classes)
    w = np.linspace(1, 2, rows)
    our = ours.HalfMultinomialLoss(n_classes=classes)
    expected = our.gradient_hessian(y, x, w)
    strided = np.zeros((2 * rows, 3 * classes))[::2, ::-3]
    strided[...] = x
    twice = np.repeat(y, 2)[::2], strided, np.repeat(w, 2)[::2]
    for layout in (lambda a: a, np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
        outs = {name: layout(np.full(x.shape, 7.0)) for name in ("gradient_out", "hessian_out")}
        found = our.gradient_hessian(*twice, **outs)
        for f, e in zip(found, expected, strict=True):
            np.testing.assert_array_equal(f, e)
    outs = {name: np.empty((rows, classes), np.float32) for name in ("gradient_out", "hessian_out")}
    for f, e in zip(our.gradient_hessian(*twice, **outs), expected, strict=True):
        np.testing.assert_array_equal(f, e.astype(np.float32))
    in_place = x.copy()
    np.testing.assert_array_equal(our.gradient(y, in_place, w, in_place), expected[0])


# --- in the estimators' places --------------------------------------------------------------------


def test_all_that_estimators_ask_for_is_there() -> None:
    for our, their in (both("HalfMultinomialLoss", 3), both("HalfBinomialLoss", 2)):
        missing = {name for name in dir(their) if name[0] != "_"} - set(dir(our))
        assert not missing
        for name in (
            "n_classes",
            "is_multiclass",
            "differentiable",
            "approx_hessian",
            "xp",
            "device",
        ):
            assert getattr(our, name) == getattr(their, name)
        for name in ("interval_y_true", "interval_y_pred"):
            a, b = getattr(our, name), getattr(their, name)
            assert vars(a) == vars(b)
        assert our.closs.loss is not None


def test_what_estimators_ask_for() -> None:
    rng = np.random.default_rng(0)
    for name in ("HalfMultinomialLoss", "HalfBinomialLoss"):
        our, their = both(name, 4)
        y, x = inputs(name, "float64", 30, 4)
        w = rng.random(30)
        for weight in (None, w):
            for f in ("fit_intercept_only", "constant_to_optimal_zero"):
                found, expected = (getattr(loss, f)(y, weight) for loss in (our, their))
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
        found, expected = (loss.predict_proba(x) for loss in (our, their))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
        p = rng.dirichlet(np.ones(4), 5) if name == "HalfMultinomialLoss" else rng.random(5)
        found, expected = (loss.link.link(p) for loss in (our, their))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
        for order, dtype in (("C", np.float32), ("F", np.float64)):
            arrays = zip(
                *(loss.init_gradient_and_hessian(6, dtype, order) for loss in (our, their)),
                strict=True,
            )
            for found, expected in arrays:
                assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
                assert found.flags.f_contiguous == expected.flags.f_contiguous
        for values in (y, y + 0.5, -y - 1, y + np.inf, p):
            with np.errstate(invalid="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                for f in ("in_y_true_range", "in_y_pred_range"):
                    assert getattr(our, f)(values) == getattr(their, f)(values)
    assert (
        ours.HalfMultinomialLoss().link.symmetrize_raw_prediction(np.eye(2)).sum(axis=1) == 0
    ).all()


def data(classes: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(300, 6))
    y = (x @ rng.normal(size=(6, classes)) + rng.gumbel(size=(300, classes))).argmax(axis=1)
    return x, y, rng.random(300) + 0.1


def fitted(
    monkeypatch: pytest.MonkeyPatch, module: str, make: Any, *args: Any, **options: Any
) -> tuple[Any, Any]:
    """Fit an estimator with its library's losses, and with ours in their place."""
    with threadpoolctl.threadpool_limits(
        1
    ):  # threads of theirs that wait for each other take seconds
        theirs = make().fit(*args, **options)
        imported = importlib.import_module(module)
        for name in ("HalfMultinomialLoss", "HalfBinomialLoss"):
            assert hasattr(imported, name)
            monkeypatch.setattr(imported, name, getattr(ours, name))
        return make().fit(*args, **options), theirs


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "newton-cholesky"])
def test_logistic_regression(
    monkeypatch: pytest.MonkeyPatch, solver: str, weighted: bool, classes: int
) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    x, y, w = data(classes)
    found, expected = fitted(
        monkeypatch,
        "sklearn.linear_model._logistic",
        lambda: linear.LogisticRegression(solver=solver, tol=1e-10, max_iter=1000),
        x, y, sample_weight=w if weighted else None,
    )  # fmt: skip
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_boosting(monkeypatch: pytest.MonkeyPatch, weighted: bool, classes: int) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble")
    x, y, w = data(classes)
    for name, module in [
        ("HistGradientBoostingClassifier", "_hist_gradient_boosting.gradient_boosting"),
        ("GradientBoostingClassifier", "_gb"),
    ]:
        size = {"max_iter": 5} if name.startswith("Hist") else {"n_estimators": 5}
        found, expected = fitted(
            monkeypatch,
            f"sklearn.ensemble.{module}",
            lambda: getattr(ensemble, name)(random_state=0, **size),  # noqa: B023
            x, y, sample_weight=w if weighted else None,
        )  # fmt: skip
        with threadpoolctl.threadpool_limits(1):
            p = found.predict_proba(x)
            np.testing.assert_allclose(p, expected.predict_proba(x), rtol=1e-6)
            again = pickle.loads(pickle.dumps(found))
            np.testing.assert_array_equal(again.predict_proba(x), p)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("method", ["temperature", "sigmoid"])
def test_calibration(monkeypatch: pytest.MonkeyPatch, method: str, classes: int) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    linear = pytest.importorskip("sklearn.linear_model")
    x, y, w = data(classes)
    found, expected = fitted(
        monkeypatch,
        "sklearn.calibration",
        lambda: calibration.CalibratedClassifierCV(linear.LogisticRegression(C=100), method=method),
        x, y, sample_weight=w,
    )  # fmt: skip
    np.testing.assert_allclose(found.predict_proba(x), expected.predict_proba(x), rtol=1e-6)


def test_importing_imports_no_sklearn() -> None:
    code = "import sys, xentfast.dropin.sklearn; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
