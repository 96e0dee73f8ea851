"""Same input, same dtype, same bits, whatever the instruction set, threads, layout, neighbours."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import xentfast
from cases import (
    ALL_CASES,
    CASES,
    DTYPES,
    FEW_SHAPES,
    FUSED_ISAS,
    GRADIENT_CASES,
    LARGE_SHAPES,
    SHAPES,
    Array,
    Case,
    Inputs,
    Shape,
    rows_by_place_of_the_maximum,
)
from compare import FEW_WAYS, assert_all_same_bits, assert_same_bits, outputs, read
from layouts import LAYOUTS, Layout
from xentfast import _kernels

needs_two_fused_isas = pytest.mark.skipif(
    len(FUSED_ISAS) < 2,
    reason=f"of the sets with fused multiply-add only {', '.join(FUSED_ISAS) or 'none'} is tried",
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
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
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


def scattered(rows: int, classes: int, spread: float, dtype: str) -> Array:
    """Make numbers in +-spread / 2 by exact arithmetic, so that all machines make the same ones."""
    n = np.arange(rows * classes, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    n ^= n >> np.uint64(32)
    n *= np.uint64(0xD6E8FEB86659FD93)
    x = (n >> np.uint64(40)).astype(np.float64) / 2.0**24 - 0.5
    return (x * spread).reshape(rows, classes).astype(dtype)


def digest(results: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for result in results:
        found.update(np.ascontiguousarray(result).tobytes())
    return found.hexdigest()[:16]


def digests(dtype: str) -> dict[str, str]:
    """Return a digest of the bits that each function makes of scattered numbers."""
    results: dict[str, list[Any]] = {name: [] for name in RECORDED}
    for classes in (1, 3, 8, 10, 17, 100, 257, 1025, 5000):
        x, y = scattered(37, classes, 40, dtype), scattered(37, classes, 1.5, dtype)
        p, q = y + y.dtype.type(1), x + x.dtype.type(21)  # positive; p is below 2
        labels = np.arange(37) * 7 % classes
        weights = {"class_weight": p[0], "sample_weight": p[:, 0]}
        options: dict[str, Any] = {"label_smoothing": 0.125, "z_loss": 2.0**-10}
        both = xentfast.cross_entropy_value_and_grad
        results["index"] += both(x, labels)
        results["index, options"] += both(x, labels, **options, **weights)
        results["dense"] += both(x, p)
        results["dense, options"] += both(x, p, **options, **weights)
        results["index, probabilities"] += both(p / 2, labels, from_logits=False)
        results["dense, probabilities"] += both(p / 2, q, from_logits=False)
        binary = xentfast.binary_cross_entropy_value_and_grad
        results["binary"] += binary(x, p / 2, pos_weight=3)
        results["binary, probabilities"] += binary(p / 2, q / 64, from_logits=False)
        results["entropy"] += [xentfast.entropy(p), xentfast.entropy(p, normalize=True)]
        results["kl_divergence"].append(xentfast.kl_divergence(p, q, normalize=True))
        results["js_divergence"].append(xentfast.js_divergence(p, q))
        results["logsumexp"].append(xentfast.logsumexp(x))
        results["softmax"] += [xentfast.softmax(x), xentfast.log_softmax(x)]
        results["evaluate"] += read(xentfast.evaluate, (x, labels), {}).values()
        results["compare"] += read(xentfast.compare, (x, x + y, labels), {}).values()
        for reverse in (False, True):
            results["kl_divergence, logits"] += xentfast.kl_divergence_value_and_grad(
                x, x + y, reverse=reverse, temperature=1.5
            )
        results["js_divergence, logits"] += xentfast.js_divergence_value_and_grad(x, x + y)
        listed, shares = labels[:, np.newaxis], p[:, :1] / 4
        for rest in ("renormalize", "class"):
            results["topk_kl_divergence"] += xentfast.topk_kl_divergence_value_and_grad(
                listed, shares, x, rest=rest
            )
    return {name: digest(found) for name, found in results.items()}


# The bits of float32 and of float64, the same on every machine with fused multiply-add. A change
# here is a change of the results that users see: it belongs in the change log.
RECORDED = {
    "index": ("a83b9458b0dd4bb4", "de350d880d7ab7c9"),
    "index, options": ("96d528a837e6d4e2", "4d41d454c65d5e5d"),
    "dense": ("90d127eaf1a1a65b", "8b4a59ac9d116e19"),
    "dense, options": ("c54c196d0724779c", "fc38592f3ec6049f"),
    "index, probabilities": ("bdee850f026f52b1", "8d4448cf0e091ffd"),
    "dense, probabilities": ("d6a96a20c306d23a", "10ad967df9f4d71f"),
    "binary": ("1f88cb3eb0ea21dd", "c2aca36e8a3e591b"),
    "binary, probabilities": ("961b0ca60f58d88e", "445a909a5069efdb"),
    "entropy": ("fc5112042db73a8e", "0c44a45b7e83e84e"),
    "kl_divergence": ("a17b953609ca805b", "e0e06387e39616e5"),
    "js_divergence": ("eec46373a083f1c0", "72918887b95ef9f0"),
    "logsumexp": ("2f9297bf46005565", "e6e7ddbf48b62aab"),
    "softmax": ("8b94f8508ae73bc9", "7101c365d7775e77"),
    "evaluate": ("6c5ef3736b24ca38", "ecf1f7088319e4a0"),
    "compare": ("07f5b56c6e0d3d5d", "0ee2d9c53303e108"),
    "kl_divergence, logits": ("28780f86fc56ca80", "46f562fb3adf546a"),
    "js_divergence, logits": ("ea0980116d33dc42", "3a783e517ee2ed00"),
    "topk_kl_divergence": ("638c4d3c553b5803", "10aa462528be5b47"),
}


def test_the_bits_of_every_function_are_recorded() -> None:
    source = inspect.getsource(digests)
    for name in {case.function for case in ALL_CASES} - {"is_distribution"}:  # which has no digits
        assert f"xentfast.{name}" in source


@pytest.mark.parametrize("dtype", DTYPES)
def test_machines_agree(dtype: str, isa: str) -> None:
    """The bits are those that were recorded once, on another machine perhaps."""
    if isa not in FUSED_ISAS:
        pytest.skip(f"{isa} has no fused multiply-add, and its own bits")
    place = DTYPES.index(dtype)
    assert digests(dtype) == {name: both[place] for name, both in RECORDED.items()}


@pytest.mark.parametrize("case", ALL_CASES, ids=str)
def test_layouts_agree(case: Case, isa: str, layout: Layout) -> None:
    if not layout.suits(case):
        pytest.skip(f"{case.function} has no axis of classes")
    for dtype in DTYPES:
        for shape in FEW_SHAPES:
            inputs = case.inputs(dtype, shape.pair)
            expected = outputs(xentfast, case, inputs, FEW_WAYS)
            found = outputs(xentfast, case, layout.arrange(inputs), FEW_WAYS)
            restored = {name: layout.restore(r, shape.pair) for name, r in found.items()}
            assert_all_same_bits(restored, expected, f"{layout.name}, {dtype}, {shape}")


# Rows side by side are cut into panels, a line of each, that are read and written together.
TOGETHER = (
    Shape(70, 300, "panels and a part, read a part of a segment at a time"),
    Shape(37, 4100, "panels and a part, more than a segment"),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [case for case in ALL_CASES if not case.elementwise], ids=str)
def test_panels_together_agree_with_rows(case: Case, dtype: str, isa: str) -> None:
    (side_by_side,) = (layout for layout in LAYOUTS if layout.name == "F")
    for shape in TOGETHER:
        inputs = case.inputs(dtype, shape.pair)
        if case.logits:  # all of them below 0: a maximum begins with the first
            (x, *others), kwargs = inputs
            inputs = (x - np.array(100, dtype), *others), kwargs
        expected = outputs(xentfast, case, inputs, FEW_WAYS)
        found = outputs(xentfast, case, side_by_side.arrange(inputs), FEW_WAYS)
        assert_all_same_bits(found, expected, f"{shape}")


@pytest.mark.parametrize("rows", [70, 69_000], ids=["through the caches", "past them"])
@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_panels_are_written_and_nothing_behind_them(dtype: str, rows: int, isa: str) -> None:
    x = (np.arange(rows * 33) % 97 / 8).reshape(rows, 33).astype(dtype)
    for apart in rows + 2, rows // 64 * 64 + 64:  # lines that begin anywhere, and at whole ones
        large = np.full((apart, 33), 7, dtype, order="F")
        out = large[:rows]
        xentfast.softmax(np.asfortranarray(x), out=out)
        assert_same_bits(out, xentfast.softmax(x), f"{apart} rows from class to class")
        assert (large[rows:] == 7).all()


@dataclass
class Large:
    """The arguments of one case at every large shape, and what one thread makes of them."""

    case: Case
    entries: list[tuple[Shape, Inputs]]
    serial: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def with_one_thread(self, isa: str) -> list[dict[str, Any]]:
        if isa not in self.serial:
            with xentfast.num_threads(1):
                self.serial[isa] = [
                    outputs(xentfast, self.case, inputs, FEW_WAYS) for _, inputs in self.entries
                ]
        return self.serial[isa]


@pytest.fixture(
    scope="module",
    params=[(case, dtype) for case in ALL_CASES for dtype in DTYPES],
    ids=lambda pair: f"{pair[0]}-{pair[1]}",
)
def large(request: pytest.FixtureRequest) -> Large:
    """Make the arguments once for all instruction sets and numbers of threads."""
    case, dtype = request.param
    return Large(case, [(shape, case.inputs(dtype, shape.pair)) for shape in LARGE_SHAPES])


def test_threads_agree(large: Large, isa: str, threads: int) -> None:
    """One thread is compared with itself: the same bits on every run."""
    for (shape, inputs), expected in zip(large.entries, large.with_one_thread(isa), strict=True):
        found = outputs(xentfast, large.case, inputs, FEW_WAYS)
        assert_all_same_bits(found, expected, f"{threads} threads, {shape}")


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
    ways = (("", "none"), ("_grad", "sum"), ("_value_and_grad", "none"))
    found = outputs(xentfast, case, inputs, ways)
    found.pop("report", None)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ALL_CASES, ids=str)
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
