"""Every way through the kernels that length, layout and repetition choose has the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xentfast
from cases import Array
from xentfast import reference

SEGMENT = {"float32": 4096, "float64": 2048}  # what a maximum is looked for in
BOUND = {"float32": 1e-6, "float64": 1e-14}


@pytest.fixture(params=list(SEGMENT))
def dtype(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_maximum_that_comes_again_in_a_later_segment(dtype: str, isa: str) -> None:
    """A value alone looks at a segment once, one with a gradient keeps its exponentials."""
    rng = np.random.default_rng(0)
    classes = 3 * SEGMENT[dtype] + 77
    x = rng.standard_normal((30, classes)).astype(dtype)
    most = x.max(axis=1)
    for row, i in zip(x, rng.integers(0, classes, (30, 40)), strict=True):
        row[i] = row.max()
    np.testing.assert_array_equal(x.max(axis=1), most)
    y = rng.integers(0, classes, 30)
    losses, _ = xentfast.cross_entropy_value_and_grad(x, y, reduction="none")
    np.testing.assert_array_equal(xentfast.cross_entropy(x, y, reduction="none"), losses)
    alone = [xentfast.evaluate(x[i : i + 1], y[i : i + 1]).loss for i in range(30)]
    np.testing.assert_array_equal(np.asarray(alone, dtype), losses)
    expected = reference.cross_entropy(x.astype(np.float64), y, reduction="none")
    np.testing.assert_allclose(losses, expected, rtol=BOUND[dtype])


@pytest.mark.parametrize("tail", [1, 5, 16, 31])
def test_a_maximum_in_the_last_lanes_of_a_long_row(tail: int, dtype: str, isa: str) -> None:
    """The small loss of a sure row shows it: summed below another maximum it would cancel."""
    classes = 2 * SEGMENT[dtype] + tail
    x = np.random.default_rng(tail).standard_normal((tail, classes)).astype(dtype)
    y = classes - 1 - np.arange(tail)
    x[np.arange(tail), y] = 30
    expected = reference.cross_entropy(x.astype(np.float64), y, reduction="none")
    found = xentfast.cross_entropy(x, y, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=2 * BOUND[dtype])
    _, rows = xentfast.evaluate(x, y, per_row=("loss", "predicted"))
    np.testing.assert_array_equal(rows["loss"], found)
    np.testing.assert_array_equal(rows["predicted"], y)


@pytest.mark.parametrize("run", [1, 2, 15, 16, 17, 30, 31, 32, 33, 47])
@pytest.mark.parametrize("classes", [3, 40])
def test_rows_of_axes_that_are_not_one(run: int, classes: int, dtype: str, isa: str) -> None:
    """A panel of rows ends anywhere in the last axis but one."""
    rng = np.random.default_rng(run)
    wide = rng.standard_normal((5, run + 1, classes)).astype(dtype)
    labels = rng.integers(0, classes, (5, run + 1))
    x, y = wide[:, :run], labels[:, :run]
    for function in (xentfast.logsumexp, xentfast.softmax, xentfast.entropy):
        np.testing.assert_array_equal(function(x), function(x.copy()))
    for weights in (None, rng.random((5, run + 1))):
        w = None if weights is None else weights[:, :run]
        found = xentfast.cross_entropy_value_and_grad(x, y, sample_weight=w)
        plain = None if w is None else w.copy()
        expected = xentfast.cross_entropy_value_and_grad(x.copy(), y.copy(), sample_weight=plain)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def _turned(a: Array) -> Any:
    """Return an array whose strides say the same but for the sign of the last."""
    return np.ascontiguousarray(a[..., ::-1])[..., ::-1]


def test_the_short_way_is_for_plain_arrays_alone(dtype: str, isa: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 5)).astype(dtype), rng.integers(0, 5, 8)
    loss, gradient = xentfast.cross_entropy_value_and_grad(x, y)
    spread = np.repeat(y, 2)
    for a, labels in ((_turned(x), y), (x, _turned(y)), (x, spread[::2]), (_turned(x), _turned(y))):
        assert xentfast.cross_entropy(a, labels) == loss
        found, place = xentfast.cross_entropy_value_and_grad(a, labels)
        assert found == loss
        np.testing.assert_array_equal(place, gradient)
    out = _turned(np.empty_like(x))
    xentfast.cross_entropy_grad(x, y, out=out)
    np.testing.assert_array_equal(out, gradient)
