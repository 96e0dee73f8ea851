"""Just below, at and above every length at which the kernels change their way, the bits do not.

The numbers are those of src: a register, a logical vector, two chains; TILE_CLASSES, BLOCK,
SEGMENT, what a panel keeps, and the longest row that is kept. Rows with the classes apart in memory
go across the lanes at every length, rows in the place of the logits are kept there, large ones are
streamed: all ways meet in the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xentfast
from cases import Array
from compare import assert_same_bits
from xentfast import reference

ML_DTYPES = pytest.importorskip("ml_dtypes")
BOTH = xentfast.cross_entropy_value_and_grad
PANEL = 16
# In elements of float32; a block of float64 is half as long.
LANES, CHAINS, TILE_CLASSES, BLOCK = 16, 32, 128, 512
SEGMENT, KEPT, LONGEST = 8 * BLOCK, 64 * BLOCK, 64 * 8 * BLOCK
SWITCHES = (8, LANES, CHAINS, TILE_CLASSES, BLOCK // 2, BLOCK, SEGMENT // 2, SEGMENT, 2 * SEGMENT)
AROUND = sorted({n + d for n in SWITCHES for d in (-1, 0, 1)})
LARGE = [n + d for n in (KEPT // 2, KEPT, LONGEST // 2, LONGEST) for d in (-1, 0, 1)]


def assert_both_same_bits(actual: Any, expected: Any, what: str) -> None:
    for part, a, b in zip(("value", "gradient"), actual, expected, strict=True):
        assert_same_bits(a, b, f"{part}, {what}")


def problem(rows: int, classes: int, dtype: Any) -> tuple[Array, Array]:
    """Make rows whose maximum rises at several places."""
    rng = np.random.default_rng(classes)
    x = rng.standard_normal((rows, classes), np.float32) * 3
    x += np.linspace(0, 30, classes, dtype=np.float32) * rng.integers(-1, 2, (rows, 1))
    return x.astype(dtype), rng.integers(classes, size=rows)


def ways(x: Array, labels: Array) -> dict[str, tuple[Any, Array]]:
    """Compute value and gradient with the same numbers in different places."""
    apart = np.zeros((x.shape[0], 2 * x.shape[1]), x.dtype)[:, ::2]
    apart[...] = x
    there = x.copy()
    target = np.full((x.shape[0], x.shape[1] + 3), 7, x.dtype)[:, 1:-2]
    found = {
        "rows": BOTH(x, labels),
        "apart": BOTH(apart, labels),
        "in place": BOTH(there, labels, out=there),
        "shifted": BOTH(x, labels, out=target),
        "class axis first": BOTH(x.T.copy(), labels, axis=0),
    }
    loss, gradient = found["class axis first"]
    found["class axis first"] = loss, gradient.T
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("classes", AROUND)
def test_classes(classes: int, dtype: str, isa: str) -> None:
    kind = ML_DTYPES.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    x, labels = problem(PANEL + 3, classes, kind)
    found = ways(x, labels)
    for name, result in found.items():
        assert_both_same_bits(result, found["rows"], f"{name}, {classes} classes of {dtype}")
    if kind == np.float64:
        value, gradient = reference.cross_entropy_value_and_grad(x, labels)
        np.testing.assert_allclose(found["rows"][0], value, rtol=1e-13)
        np.testing.assert_allclose(found["rows"][1], gradient, rtol=1e-11, atol=1e-18)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("classes", LARGE)
def test_long_rows(classes: int, dtype: str) -> None:
    x, labels = problem(3, classes, dtype)
    found = ways(x, labels)
    for name, result in found.items():
        assert_both_same_bits(result, found["rows"], f"{name}, {classes} classes of {dtype}")
    value, gradient = reference.cross_entropy_value_and_grad(x, labels)
    rtol = {"float64": 1e-13, "float32": 1e-6, "float16": 1e-6}[dtype]
    np.testing.assert_allclose(found["rows"][0], value, rtol=rtol)
    if dtype != "float16":
        least = np.finfo(dtype).tiny
        np.testing.assert_allclose(found["rows"][1], gradient, rtol=20 * rtol, atol=least)


@pytest.mark.parametrize("rows", [1, 7, 8, 15, PANEL, PANEL + 1, 2 * PANEL - 1, 1000])
@pytest.mark.parametrize("classes", [3, 10, 100, 130])
def test_rows(rows: int, classes: int, isa: str) -> None:
    """Panels that are not full: each row has the bits that it has alone."""
    x, labels = problem(rows, classes, np.float32)
    losses, gradient = BOTH(x, labels, reduction="none")
    for i in {0, rows // 2, rows - 1}:
        alone = BOTH(x[i : i + 1], labels[i : i + 1], reduction="none")
        assert_both_same_bits(
            (losses[i : i + 1], gradient[i : i + 1]), alone, f"row {i} of {rows}, {classes} classes"
        )


# Elements of which 64 of a row and 8 rows are copied together, and 128 KiB at most.
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    "shape",
    [(2, 3), (63, 9), (64, 8), (65, 7), (1000, 3), (3, 1000), (200, 301), (5, 40_000), (40_000, 5)],
)
def test_turned(shape: tuple[int, int], dtype: str) -> None:
    """Transposed logits, labels, weights and results, each alone and all."""
    rng = np.random.default_rng(shape[0])
    lead = (3, *shape)
    x = rng.standard_normal(lead).astype(dtype)
    arrays = [x, rng.random(lead).astype(dtype), rng.random(lead), rng.random(lead)]
    arrays[2] = arrays[2].astype(np.float64 if dtype == "float64" else np.float32)

    def turned(a: Array) -> Array:
        return a.swapaxes(1, 2).copy().swapaxes(1, 2)

    def both(x: Array, labels: Array, weight: Array, pos_weight: Array, out: Array) -> Any:
        return xentfast.binary_cross_entropy_value_and_grad(
            x, labels, sample_weight=weight, pos_weight=pos_weight, out=out
        )

    expected = both(*arrays, np.empty_like(x))
    for which in range(6):
        places = [turned(a) if which in (i, 5) else a for i, a in enumerate(arrays)]
        out = turned(x) if which >= 4 else np.empty_like(x)
        assert_both_same_bits(both(*places, out), expected, f"{shape}, {which} turned")
    there = turned(x)
    assert_both_same_bits(both(there, *arrays[1:], there), expected, f"{shape}, in place")
    whole = arrays[1] > 0.5
    losses = xentfast.binary_cross_entropy(x, whole, reduction="none")
    found = xentfast.binary_cross_entropy(turned(x), turned(whole), reduction="none")
    assert_same_bits(found, losses, f"{shape}, losses")


# 16 MiB are written past the caches.
@pytest.mark.parametrize("classes", [10, 67, 128, 130, 1000, 4100, 33_000])
def test_streamed(classes: int, isa: str) -> None:
    rows = -(-(2**22) // classes)
    x, labels = problem(rows, classes, np.float32)
    there = x.copy()
    in_place = BOTH(there, labels, out=there)
    assert_both_same_bits(BOTH(x, labels), in_place, f"{classes} classes")
    target = np.empty(x.size + 1, np.float32)[1:].reshape(x.shape)
    assert_both_same_bits(BOTH(x, labels, out=target), in_place, f"{classes} classes, misaligned")
    assert_same_bits(
        xentfast.softmax(x), xentfast.softmax(there := x.copy(), out=there), f"softmax of {classes}"
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_streamed_halves(dtype: str) -> None:
    kind = ML_DTYPES.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    for classes in (20, 1000):
        x, labels = problem(2**23 // classes, classes, kind)
        there = x.copy()
        in_place = BOTH(there, labels, out=there)
        assert_both_same_bits(BOTH(x, labels), in_place, f"{classes} classes of {dtype}")


# Pixels: as many panels are treated together as have bands within 256 KiB, sixteen at most, and
# what two lines hold at least. They begin where lines do, and end where an image does.
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize(
    ("images", "classes", "pixels"),
    [
        (2, 3, 255),
        (2, 3, 256),
        (2, 3, 257),
        (4, 20, 15),  # an image is less than a panel
        (2, 150, 1000),  # sixteen together, and some that end with the image
        (3, 100, 1300),  # chunks that begin in one image and end in the next
        (1, 511, 600),
        (1, 512, 600),
        (1, 1024, 520),  # four together
        (1, 1025, 520),
        (1, 2049, 520),
        (2, 4097, 65),  # the last panel of an image has one row
        (1, 9000, 40),
        (1, 33_000, 7),
    ],
)
def test_class_axis_second(images: int, classes: int, pixels: int, dtype: str) -> None:
    x, labels = problem(images * pixels, classes, np.dtype(dtype))
    losses, gradient = BOTH(x, labels, reduction="none")
    lead = (images, pixels)
    second = np.moveaxis(x.reshape(*lead, classes), -1, 1).copy()
    found = BOTH(second, labels.reshape(lead), axis=1, reduction="none")
    what = f"{images} x {classes} x {pixels} of {dtype}"
    assert_both_same_bits(
        found, (losses.reshape(lead), np.moveaxis(gradient.reshape(*lead, classes), -1, 1)), what
    )
    for function in (xentfast.softmax, xentfast.log_softmax):
        expected = np.moveaxis(function(x).reshape(*lead, classes), -1, 1)
        assert_same_bits(function(second, axis=1), expected, f"{function.__name__}, {what}")
    expected = xentfast.logsumexp(x).reshape(lead)
    assert_same_bits(xentfast.logsumexp(second, axis=1), expected, f"logsumexp, {what}")
    there = second.copy()
    in_place = BOTH(there, labels.reshape(lead), axis=1, reduction="none", out=there)
    assert_both_same_bits(in_place, found, f"in place, {what}")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("classes", [20, 600, 4200])
def test_lines_at_any_offset(classes: int, dtype: str) -> None:
    x, labels = problem(150, classes, np.dtype(dtype))
    losses, gradient = BOTH(x, labels, reduction="none")
    for first, to in ((0, 3), (1, 1), (5, 0), (7, 32), (33, 16)):
        wide, out = np.zeros((2, classes, 200), x.dtype)
        wide[:, first : first + 150] = x.T
        place = out[:, to : to + 150]
        found = BOTH(wide[:, first : first + 150], labels, axis=0, reduction="none", out=place)
        what = f"from {first} to {to}, {classes} classes of {dtype}"
        assert_both_same_bits(found, (losses, gradient.T), what)
        place[:] = 0
        assert not out.any(), what


# A chunk of the sums has 8, 4 and 1 rows, a panel of rows whose classes are apart has 16.
@pytest.mark.parametrize("classes", [2049, 5000, 33_000])
@pytest.mark.parametrize("rows", [5, 33, 150])
def test_chunks_of_a_panel(classes: int, rows: int, threads: int) -> None:
    x, labels = problem(rows, classes, np.float32)
    first = x.T.copy()
    options: Any = {"sample_weight": np.linspace(0.5, 2, rows), "ignore_index": int(labels[0])}
    for kwargs in ({}, {"reduction": "sum"}, options):
        loss, gradient = BOTH(x, labels, **kwargs)
        found = BOTH(first, labels, axis=0, **kwargs)
        assert_both_same_bits(found, (loss, gradient.T), f"{rows} rows of {classes}, {kwargs}")
        assert_same_bits(xentfast.cross_entropy(first, labels, axis=0, **kwargs), loss, "value")
    scores = xentfast.evaluate(first, labels, axis=0)
    assert scores.loss == xentfast.evaluate(x, labels).loss


def test_class_axis_second_streamed() -> None:
    x, labels = problem(3 * 20_000, 80, np.float32)
    second = np.moveaxis(x.reshape(3, 20_000, 80), -1, 1).copy()
    there = second.copy()
    in_place = BOTH(there, labels.reshape(3, -1), axis=1, out=there)
    assert_both_same_bits(BOTH(second, labels.reshape(3, -1), axis=1), in_place, "80 classes")


def test_class_axis_first_streamed() -> None:
    """Whole lines of a class are written past the caches; in place they are not, nor elsewhere."""
    x, labels = problem(1024, 4200, np.float32)
    there = x.T.copy()
    in_place = BOTH(there, labels, axis=0, out=there)
    line = np.empty(x.size + 17, np.float32)
    at = -line.ctypes.data % 64 // 4
    for first in (at, at + 1):
        out = line[first : first + x.size].reshape(x.T.shape)
        found = BOTH(x.T.copy(), labels, axis=0, out=out)
        assert_both_same_bits(found, in_place, f"from {first} on")
