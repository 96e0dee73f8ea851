"""Every case against the reference in long double, within the promised error bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cases import CASES, DTYPES, REDUCTIONS, SHAPES, Array, Case, Inputs, Shape
from compare import NARROW_BOUND, TINY, WIDE_BOUND, assert_close, outputs, row_bounds

import xentfast
from xentfast import reference

# Long double is no wider than float64 on some platforms; the reference then has errors of its own.
HAS_WIDER = np.finfo(np.longdouble).eps < 1e-18
ORACLE = np.longdouble if HAS_WIDER else np.float64
ALLOWANCE = 1 if HAS_WIDER else 2


def expect(case: Case, inputs: Inputs) -> dict[str, Any]:
    """Compute what `outputs` should be, in the widest dtype there is."""
    (first, *others), kwargs = inputs
    args = (first.astype(ORACLE), *others)
    if case.function == "is_distribution":
        kwargs = {"atol": np.sqrt(np.finfo(first.dtype).eps)}
    if not case.gradient:
        return {"result": getattr(reference, case.function)(*args, **kwargs)}
    both = getattr(reference, f"{case.function}_value_and_grad")
    found = {}
    for r in REDUCTIONS:
        found[f"value, {r}"], found[f"gradient, {r}"] = both(*args, **kwargs, reduction=r)
    found["value with gradient, none"] = found["value, none"]
    found["gradient with value, none"] = found.pop("gradient, none")
    return found


def scale_of(case: Case, inputs: Inputs, name: str, expected: Any) -> Array:
    """Return what an error is relative to: the expected number, unless that is a difference."""
    if name.startswith("gradient") and case.cancels:
        return scale_of_gradient(case, inputs, name, expected)
    args = [a.astype(ORACLE) for a in inputs[0]]
    kwargs = inputs[1]
    if kwargs.get("normalize"):
        args = [a / a.sum(axis=1, keepdims=True) for a in args]
    nats = np.log(ORACLE(kwargs.get("base", np.e)))
    if case.function == "logsumexp":
        return np.maximum(np.abs(expected), np.abs(args[0]).max(axis=1))
    if case.function == "entropy" and kwargs.get("normalize"):
        return np.abs(expected) + 1 / nats  # a rounding of p before the logarithm
    if case.function == "kl_divergence":
        return size_of_divergence(*args) / nats
    if case.function == "js_divergence":
        p, q = args
        m = (p + q) / 2
        return (size_of_divergence(p, m) + size_of_divergence(q, m)) / 2 / nats
    return np.abs(np.asarray(expected))


def size_of_divergence(p: Array, q: Array) -> Array:
    """Return sum_j p_j (|log(p_j / q_j)| + 1): the terms' sizes, and of the rounding of p / q."""
    p, q = np.broadcast_arrays(p, q)
    ratio = np.divide(p, q, where=(p > 0) & (q > 0), out=np.ones_like(p))
    total: Array = (p * (np.abs(np.log(ratio)) + 1)).sum(axis=1)
    return total


def scale_of_gradient(case: Case, inputs: Inputs, name: str, expected: Array) -> Array:
    """Return the size of the terms of which each entry of a gradient is the difference.

    One of the two is a gradient in its own right: of the binary loss, that without the positive
    class; of (T + 2 z lse) p - t, that of probabilities of 1, which is -t.
    """
    (x, *others), kwargs = inputs
    kwargs = kwargs | {"reduction": name.split(", ")[1]}
    if case.elementwise:
        kwargs |= {"pos_weight": 0}
        term = reference.binary_cross_entropy_grad(x.astype(ORACLE), *others, **kwargs)
    else:
        kwargs |= {"from_logits": False, "z_loss": 0}
        term = reference.cross_entropy_grad(np.ones(x.shape, ORACLE), *others, **kwargs)
    return np.abs(term) + np.abs(expected - term)


@dataclass(frozen=True)
class Entry:
    shape: Shape
    inputs: Inputs
    expected: dict[str, Any]
    scales: dict[str, Array]


@dataclass(frozen=True)
class Table:
    """All shapes of one case in one dtype, with what it should return."""

    case: Case
    dtype: str
    entries: list[Entry]


@pytest.fixture(
    scope="module",
    params=[(case, dtype) for case in CASES for dtype in DTYPES],
    ids=lambda pair: f"{pair[0]}-{pair[1]}",
)
def table(request: pytest.FixtureRequest) -> Table:
    """Work out a case once for all instruction sets."""
    case, dtype = request.param
    entries = []
    for shape in SHAPES:
        inputs = case.inputs(dtype, shape.pair)
        expected = expect(case, inputs)
        scales = {name: scale_of(case, inputs, name, want) for name, want in expected.items()}
        entries.append(Entry(shape, inputs, expected, scales))
    return Table(case, dtype, entries)


def test_values(table: Table, isa: str) -> None:
    case, dtype = table.case, table.dtype
    for entry in table.entries:
        found = outputs(xentfast, case, entry.inputs)
        per_row = ALLOWANCE * row_bounds(case, dtype, entry.inputs[0][0])
        for name, want in entry.expected.items():
            what = f"{entry.shape}, {name}"
            got = np.asarray(found[name])
            if case.function == "is_distribution":
                assert got.dtype == bool, what
                np.testing.assert_array_equal(got, want, what)
                continue
            assert got.dtype == dtype, what
            bound: Array | float = per_row
            if case.function == "logsumexp":
                bound = ALLOWANCE * NARROW_BOUND[dtype]
            elif name in ("value, sum", "value, mean"):
                bound = ALLOWANCE * WIDE_BOUND[dtype]
            elif got.shape == entry.shape.pair and not case.elementwise:
                bound = per_row[:, np.newaxis]
            assert_close(got, want, bound, TINY[dtype], what, entry.scales[name])


def rows_by_place_of_the_maximum(classes: int, dtype: str) -> dict[str, Array]:
    """Make rows whose largest logit is met in the first block, the last one, or again and again."""
    rng = np.random.default_rng(classes)
    x = rng.uniform(-20, 0, classes)
    rows = {
        "descending": -np.sort(-x),
        "ascending": np.sort(x),
        "first": np.where(np.arange(classes) == 0, 5, x),
        "last": np.where(np.arange(classes) == classes - 1, 5, x),
        "middle": np.where(np.arange(classes) == classes // 2, 5, x),
        "tied next to each other": np.where(np.arange(classes) // 2 == classes // 4, 5, x),
        "tied across the row": np.where(np.arange(classes) % 300 == 7, 5, x),
        "tied first and last": np.where(np.arange(classes) % (classes - 1) == 0, 5, x),
        "all tied": np.full(classes, 3.25),
        "far above all": np.where(np.arange(classes) == classes - 2, 60, x),
    }
    return {name: row.astype(dtype) for name, row in rows.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [10, 100, 1025, 5000, 20_001])
def test_place_of_the_maximum(isa: str, dtype: str, classes: int) -> None:
    rows = rows_by_place_of_the_maximum(classes, dtype)
    for name, row in rows.items():
        x = np.stack([row] * 3)
        labels = np.array([row.argmax(), classes - 1, classes // 3])
        found = xentfast.cross_entropy_value_and_grad(x, labels, reduction="none")
        expected = reference.cross_entropy_value_and_grad(
            x.astype(ORACLE), labels, reduction="none"
        )
        for got, want, what in zip(found, expected, ("value", "gradient"), strict=True):
            bound = ALLOWANCE * WIDE_BOUND[dtype]
            assert_close(got, want, bound, TINY[dtype], f"{name}: {what}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_ties_is_exact(isa: str, dtype: str) -> None:
    for classes in (1, 2, 4, 64, 1024, 4096):
        p = xentfast.softmax(np.full((3, classes), 0.7, dtype))
        np.testing.assert_array_equal(p, np.full((3, classes), 1 / classes, dtype))
