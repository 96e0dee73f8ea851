"""Same input, same dtype, same bits, whatever the instruction set, threads, layout, neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cases import (
    CASES,
    DTYPES,
    FEW_SHAPES,
    GRADIENT_CASES,
    LARGE_SHAPES,
    SHAPES,
    Array,
    Case,
    Inputs,
    Shape,
)
from compare import assert_all_same_bits, assert_same_bits, outputs
from conftest import FORCED_ISA
from layouts import Layout
from test_values import rows_by_place_of_the_maximum

import xentfast
from xentfast import _kernels

# The baseline of x86-64 has no fused multiply-add: it holds the error bounds, but has its own bits.
FUSED_ISAS = tuple(name for name in _kernels.available_isas() if name != "base")

needs_two_fused_isas = pytest.mark.skipif(
    FORCED_ISA is not None or len(FUSED_ISAS) < 2,
    reason=f"of the sets with fused multiply-add only {FUSED_ISAS} can be tried here",
)


def with_isa(name: str, case: Case, inputs: Inputs) -> dict[str, Any]:
    before = _kernels.get_isa()
    _kernels.set_isa(name)
    try:
        return outputs(xentfast, case, inputs)
    finally:
        _kernels.set_isa(before)


@needs_two_fused_isas
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_instruction_sets_agree(case: Case, dtype: str) -> None:
    for shape in SHAPES + LARGE_SHAPES[:1]:
        inputs = case.inputs(dtype, shape.pair)
        expected = with_isa(FUSED_ISAS[0], case, inputs)
        for name in FUSED_ISAS[1:]:
            what = f"{name} against {FUSED_ISAS[0]}, {shape}"
            assert_all_same_bits(with_isa(name, case, inputs), expected, what)


@needs_two_fused_isas
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [10, 100, 1025, 2049, 5000, 20_001])
def test_instruction_sets_agree_wherever_the_maximum_is(classes: int, dtype: str) -> None:
    case = CASES[0]
    for place, row in rows_by_place_of_the_maximum(classes, dtype).items():
        inputs: Inputs = ((np.stack([row] * 2), np.array([classes // 3, row.argmax()])), {})
        expected = with_isa(FUSED_ISAS[0], case, inputs)
        for name in FUSED_ISAS[1:]:
            what = f"{name} against {FUSED_ISAS[0]}, {classes} classes, maximum {place}"
            assert_all_same_bits(with_isa(name, case, inputs), expected, what)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layouts_agree(case: Case, isa: str, layout: Layout) -> None:
    if not layout.suits(case):
        pytest.skip(f"{case.function} has no axis of classes")
    for dtype in DTYPES:
        for shape in FEW_SHAPES:
            inputs = case.inputs(dtype, shape.pair)
            expected = outputs(xentfast, case, inputs)
            found = {
                name: layout.restore(result, shape.pair)
                for name, result in outputs(xentfast, case, layout.arrange(inputs)).items()
            }
            assert_all_same_bits(found, expected, f"{layout.name}, {dtype}, {shape}")


@dataclass
class Large:
    """The arguments of one case at every large shape, and what one thread makes of them."""

    case: Case
    entries: list[tuple[Shape, Inputs]]
    serial: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def with_one_thread(self, isa: str) -> list[dict[str, Any]]:
        if isa not in self.serial:
            before = xentfast.get_num_threads()
            xentfast.set_num_threads(1)
            self.serial[isa] = [outputs(xentfast, self.case, inputs) for _, inputs in self.entries]
            xentfast.set_num_threads(before)
        return self.serial[isa]


@pytest.fixture(
    scope="module",
    params=[(case, dtype) for case in CASES for dtype in DTYPES],
    ids=lambda pair: f"{pair[0]}-{pair[1]}",
)
def large(request: pytest.FixtureRequest) -> Large:
    """Make the arguments once for all instruction sets and numbers of threads."""
    case, dtype = request.param
    return Large(case, [(shape, case.inputs(dtype, shape.pair)) for shape in LARGE_SHAPES])


def test_threads_agree(large: Large, isa: str, threads: int) -> None:
    """One thread is compared with itself: the same bits on every run."""
    for (shape, inputs), expected in zip(large.entries, large.with_one_thread(isa), strict=True):
        what = f"{threads} threads, {shape}"
        assert_all_same_bits(outputs(xentfast, large.case, inputs), expected, what)


def take_rows(inputs: Inputs, rows: Array, shape: Shape) -> Inputs:
    """Take rows of every argument that has one entry for each row."""
    args, kwargs = inputs
    taken = {
        name: value[rows] if isinstance(value, np.ndarray) and len(value) == shape.rows else value
        for name, value in kwargs.items()
        if name != "class_weight"
    }
    kept = {name: value for name, value in kwargs.items() if name == "class_weight"}
    return tuple(arg[rows] if len(arg) == shape.rows else arg for arg in args), taken | kept


def per_row(case: Case, inputs: Inputs) -> dict[str, Any]:
    """Keep the results that have one entry for each row."""
    found = outputs(xentfast, case, inputs)
    return {name: r for name, r in found.items() if not name.endswith((", sum", ", mean"))}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_do_not_see_their_neighbours(case: Case, dtype: str, isa: str) -> None:
    """A row alone, and among the others in another order, gives what it gives among all."""
    for shape in (Shape(37, k, "two panels and a part") for k in (1, 3, 8, 10, 16, 17, 100, 1025)):
        inputs = case.inputs(dtype, shape.pair)
        expected = per_row(case, inputs)
        shuffled = np.random.default_rng(0).permutation(shape.rows)
        for rows in (*(np.array([i]) for i in (0, 5, 16, 36)), shuffled, shuffled[:7]):
            found = per_row(case, take_rows(inputs, rows, shape))
            for name, result in found.items():
                what = f"{shape}, rows {rows.tolist()}: {name}"
                assert_same_bits(result, expected[name][rows], what)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [c for c in CASES if c.logits and not c.elementwise], ids=str)
def test_rows_do_not_see_spoilt_neighbours(case: Case, dtype: str, isa: str) -> None:
    for classes in (1, 3, 10, 16, 17, 100, 1025):
        inputs = case.inputs(dtype, (37, classes))
        expected = per_row(case, inputs)
        (x, *others), kwargs = inputs
        x = x.copy()
        x[0::3] = [[np.nan], [np.inf], [-np.inf], [np.finfo(dtype).max], [0]] * 2 + [[np.nan]] * 3
        sound = np.arange(37) % 3 != 0
        for name, result in per_row(case, ((x, *others), kwargs)).items():
            what = f"{classes} classes: {name}"
            assert_same_bits(result[sound], expected[name][sound], what)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
def test_value_and_gradient_together_equal_each_alone(case: Case, dtype: str, isa: str) -> None:
    value = getattr(xentfast, case.function)
    grad = getattr(xentfast, f"{case.function}_grad")
    both = getattr(xentfast, f"{case.function}_value_and_grad")
    for shape in SHAPES:
        args, kwargs = case.inputs(dtype, shape.pair)
        for r in ("none", "sum", "mean"):
            together = both(*args, **kwargs, reduction=r)
            assert_same_bits(together[0], value(*args, **kwargs, reduction=r), f"{shape}, {r}")
            assert_same_bits(together[1], grad(*args, **kwargs, reduction=r), f"{shape}, {r}")
