"""Gradients against central differences of the values, and where they are written."""

from __future__ import annotations

import numpy as np
import pytest

import xentfast
from cases import DTYPES, FEW_SHAPES, GRADIENT_CASES, REDUCTIONS, Array, Case, Inputs
from compare import assert_same_bits
from layouts import LAYOUTS, Layout


def inside(case: Case, shape: tuple[int, int]) -> Inputs:
    """Make arguments from which a step leads to others: probabilities are below 1."""
    (x, *others), kwargs = case.inputs("float64", shape)
    return (x if case.logits else 0.9 * x, *others), kwargs


def central_differences(case: Case, shape: tuple[int, int], reduction: str) -> Array:
    """Return (f(x + h) - f(x - h)) / 2 h for each entry of x, with a step fit for its size."""
    (x, *others), kwargs = inside(case, shape)
    value = getattr(xentfast, case.function)
    gradient = np.empty_like(x)
    for place in np.ndindex(x.shape):
        step = 1e-4
        if not case.logits:  # probabilities, where what counts is the distance from the ends
            step *= min(x[place], 1 - x[place]) if case.elementwise else x[place]
        if not np.isfinite(x[place]) or step == 0:
            gradient[place] = 0  # a masked class, or a probability of 0 with a label of 0
            continue
        up, down = x.copy(), x.copy()
        up[place] += step
        down[place] -= step
        rise = value(up, *others, **kwargs, reduction=reduction) - value(
            down, *others, **kwargs, reduction=reduction
        )
        gradient[place] = rise / (up[place] - down[place])
    return gradient


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
def test_central_differences(case: Case, reduction: str) -> None:
    for shape in ((5, 1), (5, 2), (6, 3), (10, 9), (1, 17)):
        args, kwargs = inside(case, shape)
        gradient = getattr(xentfast, f"{case.function}_grad")(*args, **kwargs, reduction=reduction)
        # The error of the method is some h^2 = 1e-8, relative, for each of the terms.
        expected = central_differences(case, shape, reduction)
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=2e-8 * scale)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
def test_gradient_of_none_is_that_of_sum(case: Case, reduction: str) -> None:
    args, kwargs = case.inputs("float64", (17, 10))
    grad = getattr(xentfast, f"{case.function}_grad")
    of_none = grad(*args, **kwargs, reduction="none")
    assert_same_bits(of_none, grad(*args, **kwargs, reduction="sum"), "gradient of none")
    # Not so that of the mean, which has a divisor.
    assert not np.array_equal(of_none, grad(*args, **kwargs, reduction="mean"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
def test_out_gets_the_bits_that_an_allocation_gets(case: Case, dtype: str, isa: str) -> None:
    value = getattr(xentfast, case.function)
    grad = getattr(xentfast, f"{case.function}_grad")
    both = getattr(xentfast, f"{case.function}_value_and_grad")
    for shape in FEW_SHAPES:
        (x, *others), kwargs = case.inputs(dtype, shape.pair)
        for r in REDUCTIONS:
            expected_value, expected = both(x, *others, **kwargs, reduction=r)
            what = f"{shape}, {r}"

            place = np.full_like(expected_value, 7)
            assert value(x, *others, **kwargs, reduction=r, out=place) is place
            assert_same_bits(place, expected_value, f"{what}: value")

            place = np.full_like(x, 7)
            assert grad(x, *others, **kwargs, reduction=r, out=place) is place
            assert_same_bits(place, expected, f"{what}: gradient")

            place = np.full_like(x, 7)
            together = both(x, *others, **kwargs, reduction=r, out=place)
            assert together[1] is place
            assert_same_bits(together[0], expected_value, f"{what}: value beside a gradient in out")
            assert_same_bits(place, expected, f"{what}: gradient beside a value")

            place = x.copy()
            assert grad(place, *others, **kwargs, reduction=r, out=place) is place
            assert_same_bits(place, expected, f"{what}: gradient over its logits")

            place = x.copy()
            together = both(place, *others, **kwargs, reduction=r, out=place)
            assert together[1] is place
            assert_same_bits(together[0], expected_value, f"{what}: value, logits overwritten")
            assert_same_bits(place, expected, f"{what}: gradient over its logits, with a value")


@pytest.mark.parametrize("place_of", LAYOUTS, ids=lambda layout: layout.name.replace(" ", "-"))
@pytest.mark.parametrize("case", GRADIENT_CASES, ids=str)
def test_out_may_lie_in_any_way(case: Case, place_of: Layout) -> None:
    if place_of.name == "read-only" or not place_of.suits(case):
        pytest.skip(f"out of {case.function} cannot be {place_of.name}")
    grad = getattr(xentfast, f"{case.function}_grad")
    for dtype in DTYPES:
        for shape in FEW_SHAPES:
            inputs = case.inputs(dtype, shape.pair)
            expected = grad(*inputs[0], **inputs[1])
            (x, *others), kwargs = place_of.arrange(inputs)
            place = place_of.place(np.full_like(x, 7))
            assert grad(x, *others, **kwargs, out=place) is place
            what = f"{dtype}, {shape}, {place_of.name}"
            assert_same_bits(place_of.restore(place, shape.pair), expected, what)
            # and over the logits, as they lie
            assert grad(x, *others, **kwargs, out=x) is x
            assert_same_bits(place_of.restore(x, shape.pair), expected, f"{what}, over the logits")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_out(name: str, dtype: str, isa: str) -> None:
    function = getattr(xentfast, name)
    for shape in FEW_SHAPES:
        x = np.random.default_rng(1).normal(size=shape.pair).astype(dtype)
        expected = function(x)
        place = np.full_like(x, 7)
        assert function(x, out=place) is place
        assert_same_bits(place, expected, f"{shape}")
        assert function(x, out=x) is x
        assert_same_bits(x, expected, f"{shape}, over its argument")
