"""linear_cross_entropy: every option against the two steps, whatever the chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xentfast
from cases import DTYPES, REDUCTIONS, Array
from compare import assert_same_bits
from layouts import LAYOUTS, Layout
from xentfast import _linear, reference

ROWS, FEATURES, CLASSES = 37, 19, 270
# Of gradients relative to the terms of a product, which is rounded in the dtype.
BOUND = {"float32": 1e-6, "float64": 1e-13}
# All rows at once; a few; one at a time. A part of the classes at a time where that is needed.
CHUNKS = (1 << 26, 40_000, 1)


def arguments(dtype: str, lead: tuple[int, ...] = (ROWS,), classes: int = CLASSES) -> Any:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((*lead, FEATURES)).astype(dtype)
    w = (rng.standard_normal((classes, FEATURES)) / 8).astype(dtype)
    b = rng.standard_normal(classes).astype(dtype)
    return x, w, rng.integers(classes, size=lead), b


def distributions(shape: tuple[int, ...]) -> Array:
    p = np.random.default_rng(2).standard_exponential(shape)
    return p / p.sum(axis=-1, keepdims=True)


def options() -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(3)
    by_class, by_row = rng.uniform(0.2, 3, CLASSES), rng.uniform(0.2, 3, ROWS)
    by_row[::7] = 0
    every = {
        "class_weight": by_class,
        "sample_weight": by_row,
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
    }
    return {
        "no options": {},
        "class_weight": {"class_weight": by_class},
        "sample_weight": {"sample_weight": by_row},
        "one sample_weight": {"sample_weight": 0.5},
        "ignore_index": {"ignore_index": -1},
        "label_smoothing": {"label_smoothing": 0.1},
        "z_loss": {"z_loss": 1e-3},
        "all": every | {"ignore_index": -1},
        "dense": {"labels": distributions((ROWS, CLASSES))},
        "dense, all": every | {"labels": distributions((ROWS, CLASSES)).astype("float32")},
    }


def gradients(found: Any) -> list[Array]:
    return [g for g in found[1] if g is not None]


def sizes(x: Array, w: Array, y: Array, b: Array | None, **kwargs: Any) -> list[float]:
    """Return the sizes of the terms that make the largest entry of each gradient."""
    logits = x.astype(np.float64) @ w.T + (0 if b is None else b)
    g = np.abs(reference.cross_entropy_grad(logits, y, **kwargs))
    return [(g @ np.abs(w)).max(), (g.T @ np.abs(x)).max(), g.sum(axis=0).max()]


def assert_near(found: Any, expected: Any, bound: float, scales: Any = None) -> None:
    """Compare values, and gradients relative to their largest entries or to the scales."""
    np.testing.assert_allclose(found[0], expected[0], rtol=bound, atol=bound)
    pairs = list(zip(gradients(found), gradients(expected), strict=True))
    if scales is None:
        scales = [np.abs(want).max() for _, want in pairs]
    for (got, want), scale in zip(pairs, scales, strict=False):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=bound * scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("option", options())
def test_two_steps(option: str, reduction: str, dtype: str) -> None:
    x, w, y, b = arguments(dtype)
    kwargs = options()[option] | {"reduction": reduction}
    y = kwargs.pop("labels", y)
    if "ignore_index" in kwargs:
        y[1::3] = -1
    for bias in (b, None):
        expected = reference.linear_cross_entropy_value_and_grad(x, w, y, bias, **kwargs)
        scales = sizes(x, w, y, bias, **kwargs)
        for chunk_bytes in CHUNKS:
            found = xentfast.linear_cross_entropy_value_and_grad(
                x, w, y, bias, **kwargs, chunk_bytes=chunk_bytes
            )
            assert_near(found, expected, BOUND[dtype], scales)
            assert np.asarray(found[0]).dtype == dtype
            assert all(g.dtype == dtype for g in gradients(found))
            value = xentfast.linear_cross_entropy(x, w, y, bias, **kwargs, chunk_bytes=chunk_bytes)
            np.testing.assert_allclose(value, found[0], rtol=BOUND[dtype], atol=BOUND[dtype])


@pytest.mark.parametrize("lead", [(), (1,), (2, 3, 4), (1, 2, 1, 3, 1, 2)], ids=str)
def test_shapes(lead: tuple[int, ...]) -> None:
    x, w, y, b = arguments("float64", lead, 11)
    dense = distributions((*lead, 11))
    for labels in (y, dense):
        for reduction in REDUCTIONS:
            found, expected = (
                m.linear_cross_entropy_value_and_grad(x, w, labels, b, reduction=reduction)
                for m in (xentfast, reference)
            )
            assert_near(found, expected, 1e-13)
            assert np.shape(found[0]) == (lead if reduction == "none" else ())


def test_one_class_and_one_feature() -> None:
    value, (of_x, of_w, of_b) = xentfast.linear_cross_entropy_value_and_grad(
        [[2.0], [3.0]], [[1.0]], [0, 0], [5.0]
    )
    assert value == 0
    assert not of_x.any()
    assert not of_w.any()
    assert of_b is not None
    assert not of_b.any()


@pytest.mark.parametrize("chunk_rows", range(1, 9))
def test_a_chunk_may_end_anywhere(chunk_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_linear, "_rows_of_chunk", lambda *_: chunk_rows)
    x, w, y, b = arguments("float64", (8,))
    y[2] = y[7] = -1
    kwargs = {"ignore_index": -1, "sample_weight": np.arange(1.0, 9)}
    for labels in (y, distributions((8, CLASSES))):
        if labels is not y:
            kwargs["ignore_index"] = None
        for reduction in REDUCTIONS:
            kwargs["reduction"] = reduction
            found, expected = (
                m.linear_cross_entropy_value_and_grad(x, w, labels, b, **kwargs)
                for m in (xentfast, reference)
            )
            assert_near(found, expected, 1e-13)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """The rows of each chunk, and whether they lie across the classes."""
    seen: list[tuple[int, bool]] = []
    run = _linear._cross_entropy.run

    def spy(x: Array, *rest: Any) -> Any:
        seen.append((len(x), x.strides[0] == x.itemsize))
        return run(x, *rest)

    monkeypatch.setattr(_linear._cross_entropy, "run", spy)
    return seen


# Less than the logits of 3 rows, and more than what 19 take of the rest.
FEW_BYTES = 8000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("option", options())
def test_first_logits_lie_in_the_gradient(
    option: str, reduction: str, dtype: str, chunks: list[tuple[int, bool]]
) -> None:
    x, w, y, b = arguments("float32")
    x, w, b = (few_bits(dtype, a) for a in (x, w, b))
    kwargs: Any = options()[option] | {"reduction": reduction}
    y = kwargs.pop("labels", y)
    if "ignore_index" in kwargs:
        y[1::3] = -1
    expected = reference.linear_cross_entropy_value_and_grad(x, w, y, b, **kwargs)
    scales = sizes(x, w, y, b, **kwargs)
    value, found = xentfast.linear_cross_entropy_value_and_grad(
        x, w, y, b, **kwargs, chunk_bytes=FEW_BYTES
    )
    assert (chunks[0] == (FEATURES, True)) == (y.ndim == 1)
    assert all(rows < 8 and not across for rows, across in chunks[1:])
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    half_ulp = {"float32": 0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    least = 2.0**-25 if dtype == "float16" else 0
    for got, want, scale in zip(found, expected[1], scales, strict=True):
        error = np.abs(got.astype(np.float64) - want)
        assert (error <= 1.01 * half_ulp * np.abs(want) + 1e-6 * scale + least).all()


def test_logits_lie_elsewhere(chunks: list[tuple[int, bool]]) -> None:
    """Without a gradient of the weight, with one not filled as a whole, or in few chunks."""
    x, w, y, b = arguments("float32")
    both = xentfast.linear_cross_entropy_value_and_grad
    xentfast.linear_cross_entropy(x, w, y, b, chunk_bytes=FEW_BYTES)
    both(x, w, y, b, chunk_bytes=FEW_BYTES, filter_eps=0.0)
    both(x, w, y, b, chunk_bytes=15_000)
    assert not any(across for _, across in chunks)


def test_rows_of_chunks_are_even() -> None:
    assert _linear._rows_of_chunk(1000, 10, 4000) == 336
    assert _linear._rows_of_chunk(1000, 10, 10_000) == 1000
    assert _linear._rows_of_chunk(1000, 10, 90) == 9
    assert _linear._rows_of_chunk(5, 10, 1) == 1


def few_bits(dtype: str, a: Array) -> Array:
    if dtype == "bfloat16":
        return a.astype(pytest.importorskip("ml_dtypes").bfloat16)
    return a.astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_half(dtype: str, reduction: str) -> None:
    """As float32 of the widened arguments, the gradients rounded once."""
    x, w, y, b = arguments("float32")
    x, w, b = (few_bits(dtype, a) for a in (x, w, b))
    y[1::3] = -1
    for chunk_bytes in CHUNKS:
        kwargs: Any = {"ignore_index": -1, "reduction": reduction, "chunk_bytes": chunk_bytes}
        found = xentfast.linear_cross_entropy_value_and_grad(x, w, y, b, **kwargs)
        expected = reference.linear_cross_entropy_value_and_grad(x, w, y, b, **kwargs)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        assert np.asarray(found[0]).dtype == np.float32
        for got, want in zip(gradients(found), gradients(expected), strict=True):
            assert got.dtype == x.dtype
            half_ulp = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
            error = np.abs(got.astype(np.float64) - want)
            assert (error <= 1.01 * half_ulp * np.abs(want) + 1e-6 * np.abs(want).max()).all()


def test_bfloat16_is_rounded_to_even() -> None:
    a = np.float32([1, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, np.inf, -np.inf, 3.4e38])
    out = np.zeros(a.shape, _linear._checks.BFLOAT16)
    _linear._narrow(a, out)
    back = _linear._widen(out, np.empty(a.shape, np.float32))
    expected = [1, 1, 1 + 2**-6, -1 - 2**-7, np.inf, -np.inf, np.inf]
    np.testing.assert_array_equal(back, expected)
    _linear._narrow(np.float32([np.nan]), out[:1])
    assert np.isnan(_linear._widen(out[:1], np.empty(1, np.float32)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(layout: Layout, dtype: str) -> None:
    x, w, y, b = arguments(dtype, (ROWS,), 90)
    expected = xentfast.linear_cross_entropy_value_and_grad(x, w, y, b, chunk_bytes=9000)
    placed = (layout.place(a) for a in (x, w, y, b))
    found = xentfast.linear_cross_entropy_value_and_grad(*placed, chunk_bytes=9000)
    assert_near(found, expected, BOUND[dtype], sizes(x, w, y, b))


@pytest.mark.parametrize("place", LAYOUTS[:5], ids=lambda layout: layout.name)
def test_layouts_of_many_axes(place: Layout) -> None:
    x, w, y, b = arguments("float64", (3, 4, 5), 90)
    dense = distributions((3, 4, 5, 90))
    y[1] = -1
    for labels in (y, dense):
        ignored = -1 if labels is y else None
        kwargs = {"ignore_index": ignored, "sample_weight": np.arange(60.0).reshape(3, 4, 5)}
        expected = reference.linear_cross_entropy_value_and_grad(x, w, labels, b, **kwargs)
        kwargs["sample_weight"] = place.place(kwargs["sample_weight"])
        found = xentfast.linear_cross_entropy_value_and_grad(
            place.place(x), w, place.place(labels), b, **kwargs, chunk_bytes=9000
        )
        assert_near(found, expected, 1e-13)


def test_threads_do_not_show() -> None:
    x, w, y, b = arguments("float32", (300,), 5000)
    results = []
    before = xentfast.get_num_threads()
    for threads in (1, 2, 7):
        xentfast.set_num_threads(threads)
        results.append(xentfast.linear_cross_entropy_value_and_grad(x, w, y, b))
    xentfast.set_num_threads(before)
    for value, found in results[1:]:
        assert_same_bits(value, results[0][0])
        for got, want in zip(found, results[0][1], strict=True):
            assert_same_bits(got, want)


def test_ignored_rows_leak_nothing() -> None:
    x, w, y, b = arguments("float32")
    y[::2] = 7_000
    x[::2] = np.nan
    value, (of_x, of_w, of_b) = xentfast.linear_cross_entropy_value_and_grad(
        x, w, y, b, ignore_index=7_000
    )
    expected = xentfast.linear_cross_entropy_value_and_grad(x[1::2], w, y[1::2], b)
    assert_near((value, (of_x[1::2], of_w, of_b)), expected, 2e-6)
    assert not of_x[::2].any()
    losses = xentfast.linear_cross_entropy(x, w, y, b, ignore_index=7_000, reduction="none")
    assert not losses[::2].any()


def test_rows_that_weigh_nothing_leak_nothing() -> None:
    both = xentfast.linear_cross_entropy_value_and_grad
    x, w, y, b = arguments("float32")
    some = np.arange(len(y)) % 3 == 1
    y[some] = 1
    y[~some] = np.where(y[~some] == 1, 2, y[~some])
    x[some] = np.nan
    by_class = np.ones(len(w))
    by_class[1] = 0
    expected = both(x[~some], w, y[~some], b)
    for kwargs in ({"sample_weight": ~some}, {"class_weight": by_class}):
        value, (of_x, of_w, of_b) = both(x, w, y, b, **kwargs)
        assert_near((value, (of_x[~some], of_w, of_b)), expected, 2e-6)
        assert not of_x[some].any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("why", ["ignored", "weights of 0", "no rows"])
def test_nothing_counts(why: str, dtype: str) -> None:
    x, w, y, b = arguments("float32", (0 if why == "no rows" else 4,))
    x, w, b = (few_bits(dtype, a) for a in (x, w, b))
    kwargs: dict[str, Any] = {}
    if why == "ignored":
        y[:] = -1
        kwargs["ignore_index"] = -1
    elif why == "weights of 0":
        kwargs["sample_weight"] = 0
    for filter_eps in (None, 0.1):
        for reduction, value in (("mean", np.nan), ("sum", 0), ("none", np.zeros(len(y)))):
            found = xentfast.linear_cross_entropy_value_and_grad(
                x, w, y, b, reduction=reduction, filter_eps=filter_eps, **kwargs
            )
            np.testing.assert_array_equal(found[0], value)
            assert len(gradients(found)) == 3
            for gradient, argument in zip(gradients(found), (x, w, b), strict=True):
                assert gradient.shape == argument.shape
                assert gradient.dtype == x.dtype
                assert not gradient.astype(np.float32).any()


def test_weights_beyond_the_range_of_their_inverse() -> None:
    x, w, y, b = arguments("float64", (4,), 5)
    tiny = np.full(5, 5e-324)
    value, _ = xentfast.linear_cross_entropy_value_and_grad(x, w, y, b, class_weight=tiny)
    assert np.isfinite(value)


# --- filter_eps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_error_of_filter_eps(dtype: str, reduction: str, eps: float) -> None:
    rng = np.random.default_rng(4)
    x, w, y, b = arguments("float64", (ROWS,), 3000)
    b = np.repeat(rng.uniform(-12, 6, 30), 100)  # some stretches of the classes are unlikely
    x, w, b = (a.astype(dtype) for a in (x, w, b))
    kwargs: Any = {"reduction": reduction, "chunk_bytes": 400_000}
    exact = xentfast.linear_cross_entropy_value_and_grad(x, w, y, b, **kwargs)
    value, found = xentfast.linear_cross_entropy_value_and_grad(
        x, w, y, b, **kwargs, filter_eps=eps
    )
    assert_same_bits(value, exact[0])
    assert_same_bits(found[2], exact[1][2])
    total = ROWS if reduction == "mean" else 1
    bounds = (np.abs(w.astype(np.float64)).sum(0), np.abs(x.astype(np.float64)).sum(0))
    for got, want, bound in zip(found[:2], exact[1][:2], bounds, strict=True):
        rounding = (1e-3 if dtype == "float16" else 1e-6) * np.abs(want).max()
        error = np.abs(got.astype(np.float64) - want.astype(np.float64))
        assert (error <= eps * bound / total + rounding).all()


def test_filter_eps_skips() -> None:
    """Only blocks of 256 classes where nothing is large: here all but that of the labels."""
    x, w, y, b = arguments("float64", (ROWS,), 1000)
    y = 256 + y % 256
    b[256:512] += 40
    _, (_, of_w, _) = xentfast.linear_cross_entropy_value_and_grad(x, w, y, b, filter_eps=1e-3)
    assert of_w[256:512].any(axis=1).all()
    assert not of_w[:256].any()
    assert not of_w[512:].any()


def test_filter_eps_keeps_nan() -> None:
    x, w, y, b = arguments("float64")
    x[3] = np.nan
    _, found = xentfast.linear_cross_entropy_value_and_grad(x, w, y, b, filter_eps=1.0)
    assert np.isnan(found[0][3]).all()
    assert np.isnan(found[1]).all()


# --- what is refused ------------------------------------------------------------------------------

X, W, Y = np.ones((4, 3), np.float32), np.ones((5, 3), np.float32), np.zeros(4, np.int64)
WRONG: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "inputs of strings": (TypeError, "inputs must have a floating or integer dtype, got <U1",
                          {"inputs": np.array([["a"]])}),
    "inputs without axes": (ValueError, "inputs must have 1 to 7 dimensions, got 0",
                            {"inputs": np.float32(1)}),
    "inputs without features": (ValueError, r"inputs must have at least one feature, got shape "
                                r"\(4, 0\)", {"inputs": X[:, :0], "weight": W[:, :0]}),
    "too many axes": (ValueError, "inputs must have 1 to 7 dimensions, got 8",
                      {"inputs": X.reshape(1, 1, 1, 1, 1, 1, 4, 3)}),
    "weight of other width": (ValueError, r"weight must have shape \(K, 3\) with K >= 1, got "
                              r"\(3, 5\)", {"weight": W.T}),
    "weight of one axis": (ValueError, r"weight must have shape \(K, 3\) .*, got \(3,\)",
                           {"weight": W[0]}),
    "no classes": (ValueError, r"weight must have shape .* with K >= 1, got \(0, 3\)",
                   {"weight": W[:0]}),
    "weight of other dtype": (TypeError, "weight must have the dtype of inputs, float32, got "
                              "float64", {"weight": W.astype(float)}),
    "bias of other dtype": (TypeError, "bias must have the dtype of inputs, float32, got float16",
                            {"bias": np.ones(5, np.float16)}),
    "bias of other shape": (ValueError, r"bias must have shape \(5,\), got \(4,\)",
                            {"bias": np.ones(4, np.float32)}),
    "label": (ValueError, r"labels must be in \[0, 5\), got 7 at row 2",
              {"labels": np.array([0, 1, 7, 9])}),
    "ignored label": (ValueError, r"labels must be in \[0, 5\), got 9 at row 3",
                      {"labels": np.array([0, 1, 7, 9]), "ignore_index": 7}),
    "labels of other shape": (ValueError, r"labels must have shape \(4,\) or \(4, 5\), got \(3,\)",
                              {"labels": Y[:3]}),
    "labels of bytes": (TypeError, "labels must have an integer, floating or boolean dtype",
                        {"labels": np.array([b"a"] * 4)}),
    "ignored distribution": (ValueError, "ignore_index must be None for dense labels, got 1",
                             {"labels": np.ones((4, 5)), "ignore_index": 1}),
    "class_weight": (ValueError, r"class_weight must have shape \(5,\), got \(4,\)",
                     {"class_weight": np.ones(4)}),
    "negative class_weight": (ValueError, "class_weight must be finite and >= 0, got -1.0 at 0",
                              {"class_weight": -np.ones(5)}),
    "sample_weight": (ValueError, r"sample_weight must broadcast to shape \(4,\), got \(5,\)",
                      {"sample_weight": np.ones(5)}),
    "negative sample_weight": (ValueError, "sample_weight must be finite and >= 0, got -2 at 1",
                               {"sample_weight": [1, -2, 1, 1]}),
    "label_smoothing": (ValueError, r"label_smoothing must be in \[0, 1\], got 2",
                        {"label_smoothing": 2}),
    "z_loss": (ValueError, "z_loss must be finite and >= 0, got -1", {"z_loss": -1}),
    "reduction": (ValueError, "reduction must be 'mean', 'sum' or 'none', got 'avg'",
                  {"reduction": "avg"}),
    "kind of chunk_bytes": (TypeError, "chunk_bytes must be an int, got float",
                            {"chunk_bytes": 1e6}),
    "chunk_bytes": (ValueError, "chunk_bytes must be positive, got 0", {"chunk_bytes": 0}),
    "kind of filter_eps": (TypeError, "filter_eps must be a number, got str",
                           {"filter_eps": "0.1"}),
    "filter_eps": (ValueError, r"filter_eps must be in \[0, 1\], got nan",
                   {"filter_eps": np.nan}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors(case: str) -> None:
    error, message, changes = WRONG[case]
    arguments = {"inputs": X, "weight": W, "labels": Y} | changes
    for name in ("linear_cross_entropy", "linear_cross_entropy_value_and_grad"):
        with pytest.raises(error, match=message):
            getattr(xentfast, name)(**arguments)
