"""Comparisons of two models, and divergences of logits with their gradients."""

from __future__ import annotations

import io
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xentfast
from cases import DTYPES, FUSED_ISAS, LARGE_SHAPES, Array
from compare import assert_same_bits
from layouts import Layout
from oracle import ORACLE
from xentfast import Comparison, _kernels, compare, reference
from xentfast._checks import BFLOAT16

CLASSES = (1, 2, 3, 10, 17, 100, 129, 513, 1000, 4097)
NUMBERS = (
    "count", "labelled", "kl", "kl_error", "reverse_kl", "reverse_kl_error", "js", "js_error",
    "same_first", "same_first_error", "change", "change_error", "change_rms", "change_rms_error",
    "log_perplexity_ratio", "log_perplexity_ratio_error", "base_loss", "other_loss",
)  # fmt: skip
DIVERGENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "forward": ("kl_divergence", {}),
    "reverse": ("kl_divergence", {"reverse": True}),
    "js": ("js_divergence", {}),
}


def pair_of(
    classes: int, dtype: str = "float32", apart: float = 1, rows: int = 21
) -> tuple[Array, Array, Array]:
    """Draw logits, others that far apart from them, and labels."""
    rng = np.random.default_rng([classes, rows])
    x = (rng.standard_normal((rows, classes)) * 4).astype(dtype)
    y = (x + rng.standard_normal(x.shape) * apart).astype(dtype)
    return x, y, rng.integers(classes, size=rows)


def exact_terms(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Return p, q and log p - log q in the widest dtype, the last from the logits' differences."""
    x, y = x.astype(ORACLE), y.astype(ORACLE)
    p, q = reference.softmax(x), reference.softmax(y)
    d = x - y - (x - y)[:, :1]
    e = np.expm1(d)
    return p, q, d - np.log1p((q * e).sum(axis=-1, keepdims=True))


def symmetric(u: Array) -> Array:
    """(1 + w) log1p(w) + (1 - w) log1p(-w) with w = tanh(u / 2), by its series where small."""
    w, r = np.tanh(u / 2), np.exp(-np.abs(u))
    far = 2 * (np.log1p(np.ones_like(r)) - np.log1p(r) - r * np.abs(u) / (1 + r))
    return np.where(np.abs(w) < 1e-2, w**2 + w**4 / 6 + w**6 / 15 + w**8 / 28, far)


def series(u: Array) -> Array:
    """u + expm1(-u), by its series where u is small."""
    small = np.where(np.abs(u) < 1e-2, u, 0)
    terms = sum((-small) ** k / math.factorial(k) for k in range(2, 9))
    return np.where(np.abs(u) < 1e-2, terms, u + np.expm1(-u))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_numbers_are_those_of_the_reference(classes: int, dtype: str, isa: str) -> None:
    bound = 1e-5 if dtype == "float32" else 1e-12
    for apart in 0.5, 10:
        x, y, labels = pair_of(classes, dtype, apart)
        labels[4] = -1
        found = compare(x, y, labels, ignore_index=-1)
        wanted = reference.compare(x, y, labels, ignore_index=-1)
        for name in NUMBERS:
            got, want = getattr(found, name), getattr(wanted, name)
            assert got == pytest.approx(want, rel=bound, abs=bound / 10, nan_ok=True), name
        assert compare(x, y).kl == pytest.approx(reference.compare(x, y).kl, rel=bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 129, 513, 5000])
def test_close_rows_keep_their_digits(classes: int, dtype: str, isa: str) -> None:
    bound = 1e-6 if dtype == "float32" else 1e-14
    for apart in (1, 1e-2, 1e-4) if dtype == "float32" else (1, 1e-2, 1e-4, 1e-8):
        x, y, _ = pair_of(classes, dtype, apart)
        if apart > 1e-8:
            y[::2] += y.dtype.type(8.37)  # which changes nothing, but rounds
        p, q, u = exact_terms(x, y)
        kl, reverse = (p * series(u)).sum(axis=1), (q * series(-u)).sum(axis=1)
        js = ((p + q) * symmetric(u)).sum(axis=1) / 4
        for towards, want in (("forward", kl), ("reverse", reverse), ("js", js)):
            name, options = DIVERGENCES[towards]
            function = getattr(xentfast, f"{name}_value_and_grad")
            value, gradient = function(x, y, **options, reduction="none")
            np.testing.assert_allclose(value, want.astype(float), rtol=bound, err_msg=towards)
            if towards == "forward":
                wanted = np.where(np.abs(u) < 0.5, p * np.expm1(-u), q - p).astype(float)
                scale = np.abs(wanted) + p * np.abs(p * u).sum(axis=1, keepdims=True)
                assert (np.abs(gradient - wanted) <= 10 * bound * scale).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 10, 513])
def test_rows_far_apart_are_as_exact(classes: int, dtype: str, isa: str) -> None:
    """The likeliest class of the one is nothing to the other: a large offset has its own digits."""
    for apart in 3, 10, 20:
        for step in 1, 1 / 16:  # 1/16: probabilities that are nearly the same
            x, y, _ = pair_of(classes, dtype, apart, rows=300)
            x *= x.dtype.type(step)
            a, b = (reference.log_softmax(v.astype(ORACLE)) for v in (x, y))
            u, large = a - b, np.exp(np.maximum(a, b))
            kl, reverse = (np.exp(np.minimum(v, 0)) * series(v) for v in (u, -u))
            js = (1 + np.exp(-np.abs(u))) * symmetric(u) / 4
            for towards, terms in (("forward", kl), ("reverse", reverse), ("js", js)):
                name, options = DIVERGENCES[towards]
                value, _ = getattr(xentfast, f"{name}_value_and_grad")(
                    x, y, **options, reduction="none"
                )
                want = (large * terms).sum(axis=1).astype(float)
                bound = 1e-6 if dtype == "float32" else 1e-14
                np.testing.assert_allclose(value, want, rtol=bound, atol=1e-37, err_msg=towards)


def test_equal_rows_do_not_diverge(isa: str) -> None:
    for classes in CLASSES:
        for dtype in DTYPES:
            x, _, labels = pair_of(classes, dtype)
            x = np.round(x * 4) / 4
            if classes > 1:
                x[2, 1] = -np.inf
            for y in (x, x + 8):
                found = compare(x, y, np.zeros_like(labels))
                for name in "kl", "reverse_kl", "js", "kl_error", "change_rms", "change":
                    assert getattr(found, name) == 0, name
                assert found.log_perplexity_ratio == 0
                assert found.same_first == 1
                for name, options in DIVERGENCES.values():
                    function = getattr(xentfast, f"{name}_value_and_grad")
                    value, gradient = function(x, y, **options)
                    assert value == 0
                    assert not gradient.any()


@pytest.mark.parametrize("towards", DIVERGENCES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 3, 17, 129, 1025])
def test_values_and_gradients(classes: int, dtype: str, towards: str, isa: str) -> None:
    name, options = DIVERGENCES[towards]
    bound = 1e-5 if dtype == "float32" else 1e-12
    x, y, _ = pair_of(classes, dtype, 3)
    weights = np.random.default_rng(0).random(21)
    weights[3] = 0
    for reduction in "mean", "sum", "none":
        for extra in ({}, {"sample_weight": weights}, {"temperature": 2.5}):
            kwargs: dict[str, Any] = {**options, **extra, "reduction": reduction}
            value, gradient = getattr(xentfast, f"{name}_value_and_grad")(x, y, **kwargs)
            wanted, slope = getattr(reference, f"{name}_value_and_grad")(x, y, **kwargs)
            assert np.asarray(value).dtype == gradient.dtype == dtype
            np.testing.assert_allclose(value, wanted, bound, bound / 10)
            np.testing.assert_allclose(gradient, slope, bound, bound / 10)
    if towards != "reverse":
        function = getattr(xentfast, name)
        for temperature in 1, 2.5:
            found = function(x, y, from_logits=True, temperature=temperature)
            value, _ = getattr(xentfast, f"{name}_value_and_grad")(
                x, y, temperature=temperature, reduction="none"
            )
            assert_same_bits(found, value)
        assert function(x[0], y[0], from_logits=True, base=2) == pytest.approx(
            function(x[0], y[0], from_logits=True) / math.log(2), rel=1e-6, abs=1e-7
        )


@pytest.mark.parametrize("towards", DIVERGENCES)
def test_gradients_are_central_differences(towards: str) -> None:
    name, options = DIVERGENCES[towards]
    x, y, _ = pair_of(5, "float64", 2, rows=3)
    function = getattr(xentfast, f"{name}_value_and_grad")
    _, gradient = function(x, y, **options, temperature=1.5)
    for place in np.ndindex(y.shape):
        step = np.zeros_like(y)
        step[place] = 1e-5
        up, down = (function(x, z, **options, temperature=1.5)[0] for z in (y + step, y - step))
        assert gradient[place] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-16)


def test_the_gradient_may_take_the_place_of_the_logits() -> None:
    for half in (False, True):
        x, y, _ = pair_of(129)
        x, y = (x.astype(np.float16), y.astype(np.float16)) if half else (x, y)
        for name, options in DIVERGENCES.values():
            function = getattr(xentfast, f"{name}_value_and_grad")
            value, gradient = function(x, y, **options)
            place = y.copy()
            again, found = function(x, place, **options, out=place)
            assert found is place
            assert value == again
            assert_same_bits(found, gradient)


def test_sixteen_bits_are_widened(isa: str) -> None:
    x, y, labels = pair_of(129, apart=0.5)
    halves = [a.view(np.uint32) >> 16 for a in (x, y)]
    narrow = [a.astype(np.uint16).view(BFLOAT16) for a in halves]
    wide = [(a << 16).view(np.float32) for a in halves]
    assert compare(*narrow, labels) == compare(*wide, labels)
    assert compare(wide[0], narrow[1], labels) == compare(*wide, labels)
    assert compare(wide[0].astype(float), narrow[1]).kl == pytest.approx(compare(*wide).kl)
    value, gradient = xentfast.kl_divergence_value_and_grad(*narrow)
    assert value == xentfast.kl_divergence_value_and_grad(*wide)[0]
    assert gradient.dtype == BFLOAT16


def test_one_row_that_does_not_change() -> None:
    found = compare([[1.0, 2]], [[1.0, 2]], [1])
    assert found.change_rms == 0
    assert math.isnan(found.change_rms_error)
    assert found.to_dict()["change_rms_error"] is None


def test_masked_classes() -> None:
    inf = math.inf
    found = compare([[0.0, 0, -inf], [0, 0, -inf]], [[0.0, 0, -inf], [0, 0, 0]])
    assert found.kl == pytest.approx(math.log(1.5) / 2)
    assert found.reverse_kl == inf
    assert found.js == pytest.approx(reference.compare([[0, 0, -inf]], [[0, 0, 0]]).js / 2)
    _, gradient = xentfast.kl_divergence_value_and_grad([0.0, 0, -inf], [0.0, 0, -inf])
    assert not gradient.any()
    value, gradient = xentfast.js_divergence_value_and_grad([0.0, -inf], [-inf, 0.0])
    assert value == pytest.approx(math.log(2))
    assert not gradient.any()


def test_rows_without_distribution() -> None:
    x, y, labels = pair_of(5)
    x[1, 2], y[3] = np.nan, -np.inf
    found = compare(x, y, labels)
    assert math.isnan(found.kl)
    assert math.isnan(found.js)
    assert math.isnan(found.log_perplexity_ratio)
    assert 0 <= found.same_first <= 19 / 21
    mask = np.ones(21, bool)
    mask[[1, 3]] = False
    value, gradient = xentfast.kl_divergence_value_and_grad(x, y, sample_weight=mask)
    wanted, slope = xentfast.kl_divergence_value_and_grad(x[mask], y[mask])
    assert value == wanted
    assert_same_bits(gradient[mask], slope)
    assert not gradient[~mask].any()


def test_nothing_to_reduce() -> None:
    value, gradient = xentfast.kl_divergence_value_and_grad([[1.0, 2]], [[3.0, 1]], sample_weight=0)
    assert math.isnan(value)
    assert not gradient.any()
    value, gradient = xentfast.js_divergence_value_and_grad(np.empty((0, 3)), np.empty((0, 3)))
    assert math.isnan(value)
    assert gradient.shape == (0, 3)


# --- to the last bit ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_instruction_sets_agree(dtype: str) -> None:
    before = _kernels.get_isa()
    for classes in CLASSES:
        for apart in 5, 1e-3:
            x, y, labels = pair_of(classes, dtype, apart)
            found: list[Any] = []
            for name in FUSED_ISAS:
                _kernels.set_isa(name)
                grads = [
                    getattr(xentfast, f"{f}_value_and_grad")(x, y, **o)[1]
                    for f, o in DIVERGENCES.values()
                ]
                found.append((compare(x, y, labels), grads))
            _kernels.set_isa(before)
            for other, grads in found[1:]:
                assert other == found[0][0]
                for a, b in zip(grads, found[0][1], strict=True):
                    assert_same_bits(a, b)


def test_layouts_agree(layout: Layout, isa: str) -> None:
    for dtype in DTYPES:
        for classes in (1, 3, 17, 129, 1025):
            inputs: Any = (pair_of(classes, dtype), {})
            (x, y, labels), _ = inputs
            args, kwargs = layout.arrange(inputs)
            assert compare(*args, **kwargs) == compare(x, y, labels)
            for name, options in DIVERGENCES.values():
                function = getattr(xentfast, f"{name}_value_and_grad")
                value, gradient = function(x, y, **options)
                again, found = function(*args[:2], **options, **kwargs)
                assert value == again
                assert_same_bits(layout.restore(found, x.shape), gradient)


@pytest.mark.parametrize("shape", LARGE_SHAPES, ids=str)
def test_threads_agree(shape: Any, threads: int) -> None:
    x, y, labels = pair_of(shape.classes, "float32", 1, shape.rows)
    found = compare(x, y, labels), xentfast.kl_divergence_value_and_grad(x, y)
    before = xentfast.get_num_threads()
    xentfast.set_num_threads(1)
    serial = compare(x, y, labels), xentfast.kl_divergence_value_and_grad(x, y)
    xentfast.set_num_threads(before)
    assert found[0] == serial[0]
    assert found[1][0] == serial[1][0]
    assert_same_bits(found[1][1], serial[1][1])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 30),
    st.lists(st.integers(0, 30), max_size=4),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_split_order_and_grouping_adds_up_to_the_last_bit(
    rows: int, cuts: list[int], spoilt: bool, random: Any
) -> None:
    x, y, labels = pair_of(20, rows=rows)
    if spoilt and rows:
        x[rows // 2, 3] = np.nan
    parts = [*np.split(np.arange(rows), sorted(cuts))]
    found = [compare(x[i], y[i], labels[i]) for i in parts]
    whole = compare(x, y, labels)
    assert sum(found) == whole
    random.shuffle(found)
    while len(found) > 1:
        i = random.randrange(len(found) - 1)
        found[i : i + 2] = [found[i] + found[i + 1]]
    assert found[0] + Comparison.empty() == whole
    assert hash(found[0]) == hash(whole)


# --- what is read, and what is refused ------------------------------------------------------------


def test_json_pickle_and_repr() -> None:
    x, y, labels = pair_of(10)
    for found in compare(x, y, labels), compare(x, y), Comparison.empty():
        text = json.dumps(found.to_dict(), allow_nan=False)
        assert Comparison.from_dict(json.loads(text)) == found
        assert pickle.loads(pickle.dumps(found)) == found
        assert repr(found).startswith(f"<Comparison of {found.count} rows: KL ")
        assert "<th>kl</th>" in found._repr_html_()
    for data in {}, {"state": {}}, {"state": None}:
        with pytest.raises(ValueError, match="data must be what to_dict returns, got "):
            Comparison.from_dict(data)


def test_quantiles_of_kl() -> None:
    x, y, _ = pair_of(10, "float64", 1, 5000)
    found, each = compare(x, y), xentfast.kl_divergence(x, y, from_logits=True)
    for q in 0.01, 0.5, 0.9, 0.999:
        assert found.kl_quantile(q) == pytest.approx(np.quantile(each, q), rel=0.15)


def test_plot() -> None:
    pytest.importorskip("matplotlib")
    x, y, labels = pair_of(10)
    for found in compare(x, y, labels), compare(x, x), Comparison.empty():
        figure = found.plot()
        figure.savefig(io.BytesIO())
        assert figure.axes[0].get_xlabel() == "KL(base, other) (nats)"


TWO = [1.0, 2.0]
KL, JS = xentfast.kl_divergence_value_and_grad, xentfast.js_divergence_value_and_grad


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: compare(TWO, [1.0]),
            ValueError,
            r"other must have base's shape \(2,\), got \(1,\)",
        ),
        (lambda: compare(TWO, TWO, 2), ValueError, r"labels must be in \[0, 2\), got 2"),
        (lambda: compare(TWO, TWO, TWO), TypeError, "labels must have an integer dtype"),
        (lambda: compare(TWO, ["a", "b"]), TypeError, "other must have a floating or integer"),
        (lambda: compare(TWO, TWO).kl_quantile(2), ValueError, r"q must be in \[0, 1\], got 2"),
        (lambda: compare(TWO, TWO) + 1, TypeError, "unsupported operand"),
        (lambda: KL(TWO, TWO, temperature=0), ValueError, "temperature must be more than 0, got 0"),
        (lambda: KL(TWO, TWO, temperature=-1), ValueError, "temperature must be finite and >= 0"),
        (lambda: KL([1.0], TWO), ValueError, r"p must have q's shape \(2,\), got \(1,\)"),
        (lambda: KL(TWO, TWO, sample_weight=-1), ValueError, "sample_weight must be finite and >="),
        (lambda: JS(TWO, TWO, reduction="all"), ValueError, "reduction must be 'mean', 'sum' or"),
        (lambda: JS(TWO, TWO, out=np.empty(1)), ValueError, r"out must have shape \(2,\), got"),
        (
            lambda: compare(TWO, TWO, ignore_index=3),
            ValueError,
            "ignore_index must be None without labels, got 3",
        ),
        (
            lambda: xentfast.kl_divergence(TWO, TWO, temperature=2),
            ValueError,
            "temperature must be 1 unless from_logits, got 2",
        ),
        (
            lambda: xentfast.js_divergence(TWO, TWO, from_logits=True, normalize=True),
            ValueError,
            "normalize must be False where from_logits is True, got True",
        ),
    ],
)
def test_messages(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
