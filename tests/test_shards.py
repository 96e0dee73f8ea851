"""Classes spread over workers: three numbers a row from each give the loss and the gradient."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import xentfast
from cases import DTYPES, FUSED_ISAS, REDUCTIONS, Array
from compare import assert_same_bits, refused
from layouts import LAYOUTS
from oracle import ORACLE
from xentfast import _kernels, merge_shards, reference, shard_grad, shard_loss, shard_statistics

# Where the classes are cut: few side by side, many, more than a block, a segment, what is kept.
CUTS = {
    "two of 1": (0, 1, 2),
    "three of 10": (0, 4, 5, 10),
    "a vector and one": (0, 17, 33),
    "many": (0, 129, 300, 1000),
    "a block and more": (0, 513, 1600),
    "segments": (0, 5000, 10_000),
    "one": (0, 70),
}
BOUND = {"float32": 1e-6, "float64": 1e-13}
IGNORED = -100


def rows_of(cuts: tuple[int, ...], dtype: str, rows: int = 19) -> tuple[Array, Array]:
    """Draw rows: plain, confident, ignored, masked in a whole part, their label too."""
    classes = cuts[-1]
    rng = np.random.default_rng(cuts)
    x = (rng.standard_normal((rows, classes)) * 4).astype(dtype)
    y = rng.integers(classes, size=rows)
    x[1, y[1]] = 60
    x[2] += 1000
    if len(cuts) > 2:
        x[3, : cuts[1]] = x[4, cuts[-2] :] = -np.inf
        y[3], y[4] = cuts[1], 0
    x[5, y[5] - 1] = -np.inf
    y[6], x[6] = IGNORED, np.nan
    y[7] = IGNORED
    return x, y


def sharded(
    x: Array,
    y: Array,
    cuts: tuple[int, ...],
    module: ModuleType = xentfast,
    ignore_index: int | None = IGNORED,
    **options: Any,
) -> tuple[Any, Array]:
    """Return value and gradient, made as workers would make them."""
    parts = [x[:, a:b] for a, b in pairwise(cuts)]
    merged = module.merge_shards(
        [
            module.shard_statistics(part, y, first, classes=cuts[-1], ignore_index=ignore_index)
            for part, first in zip(parts, cuts, strict=False)
        ]
    )
    value = module.shard_loss(merged, **options)
    gradients = [
        module.shard_grad(part, y, first, merged, **options)
        for part, first in zip(parts, cuts, strict=False)
    ]
    return value, np.concatenate(gradients, axis=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cuts", CUTS.values(), ids=list(CUTS))
def test_value_and_gradient_are_those_of_whole_rows(
    cuts: tuple[int, ...], dtype: str, isa: str
) -> None:
    x, y = rows_of(cuts, dtype)
    weights = np.random.default_rng(0).random(len(x))
    weights[8] = 0
    for reduction in REDUCTIONS:
        for extra in ({}, {"sample_weight": weights}, {"z_loss": 1e-3}, {"sample_weight": 0.5}):
            options: dict[str, Any] = {**extra, "reduction": reduction}
            found = sharded(x, y, cuts, **options)
            whole = xentfast.cross_entropy_value_and_grad(x, y, ignore_index=IGNORED, **options)
            exact = reference.cross_entropy_value_and_grad(
                x.astype(ORACLE), y, ignore_index=IGNORED, **options
            )
            assert np.asarray(found[0]).dtype == np.float64
            assert found[1].dtype == dtype
            for got, *wanted in zip(found, whole, exact, strict=True):
                for want in wanted:
                    close(got, want, BOUND[dtype])


def close(got: Any, want: Any, bound: float) -> None:
    want = np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, bound, bound * np.abs(want[np.isfinite(want)]).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cuts", CUTS.values(), ids=list(CUTS))
def test_reference(cuts: tuple[int, ...], dtype: str) -> None:
    x, y = rows_of(cuts, dtype)
    weights = np.random.default_rng(0).random(len(x))
    for options in ({}, {"sample_weight": weights, "z_loss": 1e-2, "reduction": "none"}):
        found = sharded(x, y, cuts, **options)
        for got, want in zip(found, sharded(x, y, cuts, reference, **options), strict=True):
            close(got, want, BOUND[dtype])
    part = x[:, : cuts[1]]
    numbers = shard_statistics(part, y, 0, ignore_index=IGNORED)
    wanted = reference.shard_statistics(part, y, 0, ignore_index=IGNORED)
    np.testing.assert_allclose(numbers, wanted, BOUND[dtype], 1e-30)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 100, 400, 9000])
def test_confident_rows_keep_their_digits(classes: int, dtype: str, isa: str) -> None:
    """Wherever the certain class is: in the first shard or in the last."""
    for margin in (20, 40, 80, 200 if dtype == "float64" else 85):
        for label in 0, classes - 1:
            x = np.zeros((1, classes), dtype)
            x[0, label] = margin
            loss = math.log1p((classes - 1) * math.exp(-margin))
            cuts = (0, classes // 2, classes)
            value, gradient = sharded(x, np.array([label]), cuts, reduction="sum")
            assert value == pytest.approx(loss, rel=BOUND[dtype], abs=0)
            probability = -math.expm1(-loss)
            assert gradient[0, label] == pytest.approx(-probability, rel=BOUND[dtype], abs=0)
            rest = np.delete(gradient[0], label)
            np.testing.assert_allclose(rest, probability / (classes - 1), BOUND[dtype])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_central_differences(reduction: str) -> None:
    cuts, rng = (0, 3, 4, 9), np.random.default_rng(1)
    x, y = rng.standard_normal((5, 9)) * 2, np.array([0, 3, 8, 5, IGNORED])
    options: dict[str, Any] = {
        "sample_weight": np.arange(5.0), "z_loss": 0.1, "reduction": reduction,
    }  # fmt: skip
    _, gradient = sharded(x, y, cuts, **options)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = 1e-4
        rise = sharded(x + step, y, cuts, **options)[0] - sharded(x - step, y, cuts, **options)[0]
        assert gradient[place] == pytest.approx(rise / 2e-4, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x, y = rows_of((0, 129, 300), "float32")
    x = x.astype(kind)
    found = sharded(x, y, (0, 129, 300), reduction="sum")
    wide = x.astype(np.float32)
    want = xentfast.cross_entropy_value_and_grad(wide, y, ignore_index=IGNORED, reduction="sum")
    assert found[0] == pytest.approx(want[0], rel=1e-6)
    assert found[1].dtype == kind
    step = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    np.testing.assert_allclose(found[1].astype(float), want[1], 1.01 * step, 2.0**-24)


def test_rows_that_hold_what_is_no_number(isa: str) -> None:
    x = np.zeros((6, 40))
    x[2, 20:] = -np.inf
    x[0, 3], x[1, 30], x[2, 35] = np.nan, np.inf, np.nan
    x[3] = -np.inf
    x[4, 7] = -np.inf  # the label's
    y = np.full(6, 7)
    value, gradient = sharded(x, y, (0, 20, 40), reduction="none")
    want, slope = xentfast.cross_entropy_value_and_grad(x, y, reduction="none")
    np.testing.assert_array_equal(np.isnan(value), [True, True, True, True, False, False])
    np.testing.assert_allclose(value, want, 1e-14)
    np.testing.assert_allclose(gradient, slope, 1e-13, 1e-15)
    assert value[4] == np.inf
    assert np.isnan(shard_statistics(x[:2], y[:2], 0)[1]).all()


def test_a_label_that_no_shard_holds() -> None:
    """Its probability is 0."""
    x, y = np.zeros((2, 4)), np.array([1, 4])
    merged = merge_shards([shard_statistics(x[:, :2], y, 0), shard_statistics(x[:, 2:], y, 2)])
    assert shard_loss(merged, reduction="none").tolist() == [math.log(4), np.inf]
    gradient = shard_grad(x[:, :2], y, 0, merged, reduction="sum")
    np.testing.assert_allclose(gradient, [[0.25, -0.75], [0.25, 0.25]])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_for_each_class(reduction: Any) -> None:
    x, y = rows_of((0, 4, 5, 10), "float64")
    by_class = np.arange(10) / 4
    weights = by_class.take(y, mode="clip")  # of the ignored rows any
    found = sharded(x, y, (0, 4, 5, 10), sample_weight=weights, reduction=reduction)
    whole = xentfast.cross_entropy_value_and_grad(
        x, y, class_weight=by_class, ignore_index=IGNORED, reduction=reduction
    )
    for got, want in zip(found, whole, strict=True):
        close(got, want, 1e-13)


def test_only_ignored_rows() -> None:
    value, gradient = sharded(np.ones((3, 4)), np.full(3, IGNORED), (0, 2, 4))
    assert math.isnan(value)
    assert not gradient.any()
    value, gradient = sharded(np.ones((3, 4)), np.zeros(3, int), (0, 2, 4), sample_weight=0)
    assert math.isnan(value)
    assert not gradient.any()


def test_shapes() -> None:
    for shape in ((4,), (0, 4), (2, 0, 4), (3, 2, 4), (2,) * 6 + (4,)):
        x = np.random.default_rng(0).standard_normal(shape)
        y = np.ones(shape[:-1], np.uint64)
        numbers = shard_statistics(x, y, 0)
        assert numbers.shape == (3, *y.shape)
        merged = merge_shards([numbers])
        assert_same_bits(merged, numbers)
        np.testing.assert_allclose(
            shard_loss(merged, reduction="none"),
            xentfast.cross_entropy(x, y, reduction="none"), 1e-14,
        )  # fmt: skip
        gradient = shard_grad(x, y, 0, merged, reduction="sum")
        np.testing.assert_allclose(
            gradient, xentfast.cross_entropy_grad(x, y, reduction="sum"), 1e-13, 1e-16
        )
    narrow = np.array([1, 0], np.int8)  # compared with a first class beyond its dtype
    assert (shard_statistics(np.zeros((2, 3)), narrow, 1000)[2] == -np.inf).all()


def test_class_axis_and_layouts() -> None:
    x, y = rows_of((0, 300), "float32", 34)
    merged = merge_shards([shard_statistics(x, y, 0, ignore_index=IGNORED)])
    want = shard_grad(x, y, 0, merged)
    for place in [layout.place for layout in LAYOUTS]:
        for axis, shape in (0, (300, 34)), (1, (2, 300, 17)), (2, (2, 17, 300)):
            moved = place(np.moveaxis(x.reshape(*shape[:axis], *shape[axis + 1 :], 300), -1, axis))
            labels = place(y.reshape(shape[:axis] + shape[axis + 1 :]))
            numbers = shard_statistics(moved, labels, 0, axis=axis, ignore_index=IGNORED)
            np.testing.assert_allclose(numbers.reshape(3, -1), merged, 1e-6, 1e-30)
            parts = place(numbers)
            gradient = shard_grad(moved, labels, 0, parts, axis=axis)
            got = np.moveaxis(gradient, axis, -1).reshape(want.shape)
            np.testing.assert_allclose(got, want, 1e-6, 1e-30)


def test_gradient_in_place() -> None:
    for shape in ((20, 10), (20, 300), (3, 9000), (2100, 20)):
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        y = np.arange(shape[0]) % shape[1]
        for logits in x, x.T:
            axis = 1 if logits is x else 0
            merged = shard_statistics(logits, y, 0, axis=axis)
            want = shard_grad(logits, y, 0, merged, axis=axis)
            out = np.empty_like(logits)
            assert shard_grad(logits, y, 0, merged, axis=axis, out=out) is out
            assert_same_bits(out, want)
            copy = logits.copy(order="K")
            assert shard_grad(copy, y, 0, merged, axis=axis, out=copy) is copy
            assert_same_bits(copy, want)


def test_merging() -> None:
    """What was merged can be merged again; shards that hold nothing of a row change nothing."""
    x, y = rows_of((0, 20, 50, 51, 100), "float64")
    ends = (0, 20, 50, 51, 100)
    parts = [shard_statistics(x[:, a:b], y, a, ignore_index=IGNORED) for a, b in pairwise(ends)]
    flat = merge_shards(parts)
    assert (flat[:, y == IGNORED] == [[-np.inf], [0], [np.inf]]).all()
    for tree in (
        [merge_shards(parts[:2]), merge_shards(parts[2:])],
        [merge_shards(parts[:1]), parts[1], merge_shards(tuple(parts[2:]))],
        np.stack(parts)[::-1],
    ):
        np.testing.assert_allclose(merge_shards(tree), flat, 1e-15)
    nothing = np.broadcast_to(np.array([-np.inf, 0, -np.inf])[:, np.newaxis], flat.shape)
    for part in parts:
        counted = part[:, y != IGNORED]
        same = merge_shards([nothing[:, y != IGNORED], counted])
        assert_same_bits(same, counted)
    np.testing.assert_allclose(merge_shards([p.astype(np.float32) for p in parts]), flat, 1e-4)


def computed(x: Array, y: Array) -> list[Array]:
    numbers = shard_statistics(x, y, 0, ignore_index=IGNORED)
    merged = merge_shards([numbers, shard_statistics(x[:, :100], y, len(x[0]))])
    return [numbers, merged, shard_loss(merged, z_loss=0.1), shard_grad(x, y, 0, merged)]


@pytest.mark.parametrize("shape", [(3000, 101), (300, 1000), (40, 9000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits(dtype: str, shape: tuple[int, int]) -> None:
    """They are those of every number of threads and of every instruction set."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(shape).astype(dtype), rng.integers(shape[1], size=shape[0])
    x[1] *= 100
    found, before = [], _kernels.get_isa()
    for isa in FUSED_ISAS:
        _kernels.set_isa(isa)
        for n in 1, 2, 7:
            with xentfast.num_threads(n):
                found.append(computed(x, y))
    _kernels.set_isa(before)
    with ThreadPoolExecutor(4) as pool:
        found += pool.map(lambda _: computed(x, y), range(8))
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            assert_same_bits(got, want)


def test_merged_numbers_of_nonsense(isa: str) -> None:
    """What did not come from these functions gives wrong numbers, and nothing worse."""
    x, y = rows_of((0, 300), "float32")
    rng = np.random.default_rng(0)
    values = np.array([0, 1, -1, 1e308, -1e308, np.inf, -np.inf, np.nan, 1e-320, 2**20, -3e38])
    for classes in 10, 100, 300:
        part, labels = x[:, :classes], y % classes
        for _ in range(100):
            merged = merge_shards([rng.choice(values, (3, len(x))) for _ in range(2)])
            shard_loss(merged, z_loss=1)
            assert shard_grad(part, labels, 0, merged, z_loss=1).shape == part.shape


# --- what is refused ------------------------------------------------------------------------------

X, Y = np.zeros((4, 3)), np.array([0, 2, 1, 0])
MERGED = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "logits_part must have a floating or integer dtype, got bool",
         {"logits_part": X.astype(bool)}),
        (ValueError, "logits_part must have at least one class, got shape (4, 0), axis 1",
         {"logits_part": X[:, :0]}),
        (ValueError, "logits_part must have 1 to 7 dimensions, got 0", {"logits_part": 1.0}),
        (TypeError, "labels must have an integer dtype, got float64: use .argmax() along the "
         "classes for the largest of each distribution", {"labels": X}),
        (ValueError, "labels must have shape (4,), got (2,)", {"labels": Y[:2]}),
        (ValueError, "axis must be in [-2, 2), got 2", {"axis": 2}),
        (TypeError, "first_class must be an int, got float", {"first_class": 1.0}),
        (ValueError, "first_class must be in [0, 2**62], got -1", {"first_class": -1}),
    ],
)  # fmt: skip
def test_bad_parts(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    given = {"logits_part": X, "labels": Y, "first_class": 0, **arguments}
    with refused(error, message):
        shard_statistics(**given)
    with refused(error, message):
        shard_grad(**given, merged=MERGED)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "labels must be in [0, 3), got 3 at row 1",
         {"labels": [0, 3, 1, 0], "classes": 3}),
        (ValueError, "labels must be >= 0, got -1 at row 2", {"labels": [0, 3, -1, 0]}),
        (ValueError, f"labels must be >= 0, got {2**63} at row 0",
         {"labels": np.full(4, 2**63, np.uint64)}),
        (ValueError, "classes must be in [5, 2**63], got 4", {"first_class": 2, "classes": 4}),
        (TypeError, "classes must be an int, got str", {"classes": "3"}),
        (TypeError, "ignore_index must be an int, got float", {"ignore_index": 0.5}),
    ],
)  # fmt: skip
def test_bad_statistics(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    with refused(error, message):
        shard_statistics(**{"logits_part": X, "labels": Y, "first_class": 0, **arguments})


@pytest.mark.parametrize(
    ("error", "message", "parts"),
    [
        (ValueError, "parts must have at least one shard, got 0", []),
        (ValueError, "parts[1] must have shape (3, ...), got (2, 4)", [MERGED, MERGED[:2]]),
        (ValueError, "parts[0] must have shape (3, ...), got (4,)", np.zeros((3, 4))),
        (ValueError, "parts must have one shape, got (3, 4) and (3, 5) at 1",
         [MERGED, np.zeros((3, 5))]),
        (TypeError, "parts[0] must have dtype float32 or float64, got int64",
         [MERGED.astype(np.int64)]),
        (TypeError, "parts must be a sequence of arrays, got float", 1.0),
    ],
)  # fmt: skip
def test_bad_shards(error: type[Exception], message: str, parts: Any) -> None:
    with refused(error, message):
        merge_shards(parts)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "merged must have shape (3, ...), got (2, 4)", {"merged": MERGED[:2]}),
        (TypeError, "merged must have dtype float32 or float64, got float16",
         {"merged": MERGED.astype(np.float16)}),
        (ValueError, "reduction must be 'mean', 'sum' or 'none', got 'max'", {"reduction": "max"}),
        (ValueError, "z_loss must be finite and >= 0, got -1", {"z_loss": -1}),
        (ValueError, "sample_weight must be finite and >= 0, got -1.0 at 1",
         {"sample_weight": [1, -1.0, 1, 1]}),
        (ValueError, "sample_weight must be finite and >= 0, got nan", {"sample_weight": np.nan}),
        (ValueError, "sample_weight must broadcast to shape (4,), got (3,)",
         {"sample_weight": np.ones(3)}),
    ],
)  # fmt: skip
def test_bad_merged(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    given = {"merged": MERGED, **arguments}
    with refused(error, message):
        shard_loss(**given)
    with refused(error, message):
        shard_grad(X, Y, 0, **given)


def test_bad_gradient() -> None:
    with refused(ValueError, "merged must have shape (3, 4), got (3, 5)"):
        shard_grad(X, Y, 0, np.zeros((3, 5)))
    with refused(TypeError, "out must have dtype float64, got float32"):
        shard_grad(X, Y, 0, MERGED, out=X.astype(np.float32))
    with refused(ValueError, "out must have shape (4, 3), got (3, 4)"):
        shard_grad(X, Y, 0, MERGED, out=np.zeros((3, 4)))
    x = np.zeros((8, 3))
    with pytest.raises(ValueError, match="overlap"):
        shard_grad(x[:4], Y, 0, MERGED, out=x[1:5])
    with pytest.raises(TypeError, match="label_smoothing"):
        shard_grad(X, Y, 0, MERGED, label_smoothing=0.1)  # type: ignore[call-arg]
