"""Every case against the reference in long double, within the promised error bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import xentfast
from cases import (
    CASES,
    DTYPES,
    FUSED_ISAS,
    SHAPES,
    Array,
    Case,
    Inputs,
    Shape,
    rows_by_place_of_the_maximum,
)
from compare import BOUND, TINY, WIDE_BOUND, assert_close, bounds_of, outputs
from oracle import ALLOWANCE, ORACLE, expect, scales_of
from xentfast import reference


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
        entries.append(Entry(shape, inputs, expected, scales_of(case, inputs, expected)))
    return Table(case, dtype, entries)


def test_values(table: Table, isa: str) -> None:
    case, dtype = table.case, table.dtype
    for entry in table.entries:
        found = outputs(xentfast, case, entry.inputs)
        per_row = np.asarray(bounds_of(case, dtype, isa, entry.inputs[0][0]))
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
                bound = BOUND[dtype]
            elif got.ndim == 0:
                bound = per_row.max(initial=0)
            elif got.shape == entry.shape.pair and per_row.ndim:
                bound = per_row[:, np.newaxis]
            assert_close(got, want, ALLOWANCE * bound, TINY[dtype], what, entry.scales[name])


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
            bound = ALLOWANCE * (BOUND if isa in FUSED_ISAS else WIDE_BOUND)[dtype]
            assert_close(got, want, bound, TINY[dtype], f"{name}: {what}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_ties_is_exact(isa: str, dtype: str) -> None:
    for classes in (1, 2, 4, 64, 1024, 4096):
        p = xentfast.softmax(np.full((3, classes), 0.7, dtype))
        np.testing.assert_array_equal(p, np.full((3, classes), 1 / classes, dtype))
