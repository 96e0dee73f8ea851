"""`evaluate`, `compare` and `cross_entropy_value_and_grad` of Dask arrays, lazily.

The arguments are those of `xentfast`, and what comes back is Dask's, to be computed by whichever of
its schedulers. Each block of rows is a task, which takes one thread. It needs Dask:
``pip install 'xentfast[dask]'``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from operator import getitem
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

try:
    import dask.array as da
    from dask.base import tokenize
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph
except ImportError:
    raise ImportError("xentfast.dask needs dask: pip install 'xentfast[dask]'") from None

import xentfast
from xentfast import _checks
from xentfast._checks import Array, Reduction
from xentfast._evaluate import Ties

__all__ = ["compare", "cross_entropy_value_and_grad", "evaluate"]

Place: TypeAlias = tuple[int, ...]
Key: TypeAlias = tuple[Any, ...]
_EVERY = 16  # evaluations are added so many at a time


def evaluate(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    from_logits: bool = True,
    top_k: Iterable[int] = (1, 5),
    ties: Ties = "lowest",
    ignore_index: int | None = None,
    sample_weight: Any = None,
    bins: int = 15,
    per_row: Iterable[str] = (),
) -> Any:
    """`xentfast.evaluate` of a Dask array: to the last bit what it is of the array in memory.

    Parameters
    ----------
    logits : dask.array.Array, floating, of 2 to 7 dimensions
        Logits, or probabilities if not `from_logits`, along `axis`. Chunks of classes are brought
        together: a row is evaluated where all of it is, as ranks and entropies cannot be merged to
        the same bits.
    labels, sample_weight : dask.array.Array or array_like
        As of `xentfast.evaluate`; they are cut as the rows of `logits` are.
    axis, from_logits, top_k, ties, ignore_index, bins, per_row
        As of `xentfast.evaluate`.

    Returns
    -------
    dask.delayed.Delayed
        An `Evaluation` when computed. With `per_row` a pair of it and a dict of Dask arrays.

    Raises
    ------
    TypeError, ValueError
        As of `xentfast.evaluate`: for options, shapes and dtypes at once, for labels and weights
        out of range when computed, with rows counted from the beginning of their block.
    """
    names = per_row if isinstance(per_row, str) else _held(per_row)
    options = {
        "axis": axis, "from_logits": from_logits, "ties": ties, "ignore_index": ignore_index,
        "bins": bins, "top_k": _held(top_k), "per_row": names,
    }  # fmt: skip
    rows = _Rows("logits", logits, axis)
    rows.add("labels", labels)
    rows.add_weight(sample_weight)
    probe = rows.probe(xentfast.evaluate, **options)
    rows.cut()
    work = _Work("evaluate", rows, options)
    blocks = {}
    for at in rows.places:
        key = work.call(
            "rows", at, partial(xentfast.evaluate, **options),
            rows.x(at), rows.of("labels", at), sample_weight=rows.weight(at),
        )  # fmt: skip
        blocks[at] = (getitem, key, 0) if names else key
    evaluation = work.sum(blocks)
    if not names:
        return evaluation
    return evaluation, {
        name: work.array(
            name,
            {at: (_item_of, task[1], name) for at, task in blocks.items()},
            rows.lead,
            probe[1][name].dtype,
        )
        for name in names
    }


def compare(
    base: Any,
    other: Any,
    labels: Any = None,
    *,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Any:
    """`xentfast.compare` of Dask arrays: to the last bit what it is of the arrays in memory.

    Parameters
    ----------
    base : dask.array.Array, floating, of 2 to 7 dimensions
        Logits along `axis`, whose chunks of classes are brought together.
    other, labels : dask.array.Array or array_like
        As of `xentfast.compare`; they are cut as `base` is.
    axis, ignore_index
        As of `xentfast.compare`.

    Returns
    -------
    dask.delayed.Delayed
        A `Comparison` when computed.

    Raises
    ------
    TypeError, ValueError
        As of `xentfast.compare`, at once or when computed: see `evaluate`.
    """
    options: dict[str, Any] = {"axis": axis, "ignore_index": ignore_index}
    rows = _Rows("base", base, axis)
    rows.add("other", other, whole=True)
    names = ["other"]
    if labels is not None:
        rows.add("labels", labels)
        names.append("labels")
    rows.probe(xentfast.compare, **options)
    rows.cut()
    work = _Work("compare", rows, options)
    function = partial(xentfast.compare, **options)
    return work.sum(
        {
            at: work.call("rows", at, function, rows.x(at), *(rows.of(n, at) for n in names))
            for at in rows.places
        }
    )


def cross_entropy_value_and_grad(
    logits: Any,
    labels: Any,
    *,
    axis: int = -1,
    from_logits: bool = True,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
) -> tuple[Any, Any]:
    """`xentfast.cross_entropy_value_and_grad` of a Dask array.

    Parameters
    ----------
    logits : dask.array.Array, floating, of 2 to 7 dimensions
        Logits or probabilities along `axis`. Chunks of classes stay where they are if logits have
        class indices and neither `class_weight` nor `label_smoothing`: of each chunk three numbers
        for each row are merged, as by `xentfast.merge_shards`. Otherwise they are brought together.
    labels, sample_weight : dask.array.Array or array_like
        As of `xentfast.cross_entropy`; they are cut as `logits` is.
    axis, from_logits, class_weight, ignore_index, label_smoothing, z_loss, reduction
        As of `xentfast.cross_entropy`.

    Returns
    -------
    value, gradient : dask.array.Array
        The value without axes, or one for each row; the gradient with the chunks of `logits` (of
        whole rows, where those were brought together). The gradient of whole rows has the bits of
        the array in memory where the sum of the weights has, as it has without weights; the value,
        added from those of the blocks, differs by rounding, and so does what is merged.

    Raises
    ------
    TypeError, ValueError
        As of `xentfast.cross_entropy`, at once or when computed: see `evaluate`.
    """
    options: dict[str, Any] = {
        "axis": axis, "from_logits": from_logits, "class_weight": class_weight,
        "ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss,
    }  # fmt: skip
    rows = _Rows("logits", logits, axis)
    dense = rows.add("labels", labels) == logits.ndim
    rows.add_weight(sample_weight)
    value, gradient = rows.probe(
        xentfast.cross_entropy_value_and_grad, **options, reduction=reduction
    )
    rows.cut(dense or not from_logits or label_smoothing != 0 or class_weight is not None)
    work = _Work("cross-entropy", rows, options, reduction)
    by_class = None
    if options.pop("class_weight") is not None:  # once for all tasks
        by_class = work.add("class-weight", (), (np.asarray, np.asarray(class_weight, value.dtype)))
    total = None
    if reduction == "mean":  # known before any gradient, for it is of labels and weights alone
        weights = [
            work.call(
                "weight", at, partial(_weight_of, rows.count(at), ignore_index=ignore_index),
                rows.weight(at), None if dense else rows.of("labels", at), by_class,
            )
            for at in rows.places
        ]  # fmt: skip
        total = work.add("total", (), (math.fsum, weights))
    each: dict[str, Any] = {"reduction": "none" if reduction == "none" else "sum"}
    values, gradients = {}, {}
    for at in rows.places:
        y, weight = rows.of("labels", at), rows.weight(at)
        if total is not None:
            weight = work.add("share", at, (_share, weight, total))
        if len(rows.shards) == 1:
            found = work.call(
                "rows", at, partial(xentfast.cross_entropy_value_and_grad, **options, **each),
                rows.x(at), y, class_weight=by_class, sample_weight=weight,
            )  # fmt: skip
            values[at], gradients[rows.index(at)] = (getitem, found, 0), (getitem, found, 1)
            continue
        statistics = partial(
            xentfast.shard_statistics,
            axis=axis, ignore_index=ignore_index, classes=logits.shape[axis],
        )  # fmt: skip
        said = [
            work.call("said", (*at, j), statistics, rows.x(at, j), y, first)
            for j, first in enumerate(rows.shards)
        ]
        merged = work.add("merged", at, (xentfast.merge_shards, said))
        loss = partial(xentfast.shard_loss, z_loss=z_loss, **each)
        values[at] = work.call("loss", at, loss, merged, sample_weight=weight)
        slope = partial(xentfast.shard_grad, axis=axis, z_loss=z_loss, **each)
        for j, first in enumerate(rows.shards):
            gradients[rows.index(at, j)] = work.call(
                "slope", (*at, j), slope, rows.x(at, j), y, first, merged, sample_weight=weight
            )
    if reduction == "none":
        losses = {at: (np.asarray, loss, value.dtype) for at, loss in values.items()}
        result = work.array("value", losses, rows.lead, value.dtype)
    else:
        summed = (_total, list(values.values()), total, value.dtype)
        result = work.array("value", {(): summed}, (), value.dtype)
    return result, work.array("gradient", gradients, rows.chunks, gradient.dtype)


class _Rows:
    """A Dask array of rows of classes, and others cut like it."""

    def __init__(self, name: str, a: Any, axis: int) -> None:
        if not isinstance(a, da.Array):
            raise TypeError(f"{name} must be a Dask array, got {type(a).__name__}")
        if not 2 <= a.ndim <= _checks.MOST_AXES:
            raise ValueError(f"{name} must have 2 to {_checks.MOST_AXES} dimensions, got {a.ndim}")
        if any(math.isnan(n) for n in a.shape):
            raise ValueError(
                f"{name} must have known chunks, got shape {a.shape}: use compute_chunk_sizes()"
            )
        _, self._axis = _checks.rows_of_classes(name, np.ones((1,) * a.ndim, a.dtype), axis)
        self._shape = _checks.lead_shape(a, self._axis)
        self._arrays = {"x": a}
        self._weight: Any = None

    def add(self, name: str, given: Any, whole: bool = False) -> int:
        """Take another array, of rows or of classes too if not `whole`; return its axes."""
        shape = self._arrays["x"].shape
        b = given if isinstance(given, da.Array) else da.asarray(_checks.array(name, given))
        if b.shape != shape and (whole or b.shape != self._shape):
            rule = shape if whole else f"{self._shape} or {shape}"
            raise ValueError(f"{name} must have shape {rule}, got {b.shape}")
        self._arrays[name] = b
        return int(b.ndim)

    def add_weight(self, weight: Any) -> None:
        """Take weights: none, a scalar, or what can be broadcast to the rows."""
        if weight is None:
            return
        w = weight if isinstance(weight, da.Array) else _checks.array("sample_weight", weight)
        if w.ndim == len(self._shape) + 1 and w.shape[self._axis] == 1:
            w = w.squeeze(self._axis)
        if w.ndim == 0 and not isinstance(w, da.Array):
            self._weight = w
            return
        try:
            self._arrays["sample_weight"] = da.broadcast_to(w, self._shape)
        except ValueError:
            raise ValueError(
                f"sample_weight must broadcast to shape {self._shape}, got {w.shape}"
            ) from None

    def cut(self, whole: bool = True) -> None:
        """Cut all arrays as the first is, the chunks of classes brought together if `whole`."""
        a = self._arrays["x"]
        self.chunks = a.rechunk({self._axis: -1}).chunks if whole else a.chunks
        self.lead = self.chunks[: self._axis] + self.chunks[self._axis + 1 :]
        self.places: list[Place] = list(np.ndindex(*map(len, self.lead)))
        sizes = self.chunks[self._axis]
        self.shards = [sum(sizes[:j]) for j in range(len(sizes))]
        for name, b in self._arrays.items():
            self._arrays[name] = b.rechunk(self.chunks if b.ndim == a.ndim else self.lead)

    def index(self, at: Place, shard: int = 0) -> Place:
        """Return the index of a block of the first array."""
        return (*at[: self._axis], shard, *at[self._axis :])

    def x(self, at: Place, shard: int = 0) -> Any:
        """Return the key of a block of the first array."""
        return (self._arrays["x"].name, *self.index(at, shard))

    def of(self, name: str, at: Place) -> Any:
        """Return the key of a block of another, with all classes if it has them."""
        b = self._arrays[name]
        return (b.name, *(at if b.ndim == len(at) else self.index(at)))

    def weight(self, at: Place) -> Any:
        """Return the weights of a block's rows: None, a scalar or a key."""
        return self.of("sample_weight", at) if "sample_weight" in self._arrays else self._weight

    def count(self, at: Place) -> int:
        """Return how many rows a block has."""
        return math.prod(sizes[i] for sizes, i in zip(self.lead, at, strict=True))

    def probe(self, function: Callable[..., Any], **options: Any) -> Any:
        """Call a function with none of the rows, which refuses what is wrong without them."""
        x, *others = (
            np.empty(tuple(n if i == self._axis and b.ndim > len(self._shape) else 0
                           for i, n in enumerate(b.shape)), b.dtype)
            for b in self._arrays.values()
        )  # fmt: skip
        if "sample_weight" in self._arrays:
            options["sample_weight"] = others.pop()
        elif self._weight is not None:
            options["sample_weight"] = self._weight
        return function(x, *others, **options)

    def collections(self) -> list[Any]:
        """Return the arrays."""
        return list(self._arrays.values())

    def origin(self, at: Place) -> Place:
        """Return the first row of a block."""
        return tuple(sum(sizes[:i]) for sizes, i in zip(self.lead, at, strict=False))


class _Work:
    """The tasks of a call, one layer of a graph: to merge a layer for each block would be slow."""

    def __init__(self, name: str, rows: _Rows, *options: Any) -> None:
        self._rows = rows
        arrays = rows.collections()
        token = tokenize(name, [a.name for a in arrays], rows.weight(rows.places[0]), *options)
        self._name = f"xentfast-{name}-{token}"
        self._tasks: dict[Key, Any] = {}

    def add(self, what: str, at: Place, task: tuple[Any, ...]) -> Key:
        """Add a task: a function and its arguments, some of them keys; return its own."""
        key = (f"{self._name}-{what}", *at)
        self._tasks[key] = task
        return key

    def call(
        self, what: str, at: Place, function: Callable[..., Any], *args: Any, **options: Any
    ) -> Key:
        """Add a call of a function for a block's rows, in one thread."""
        given = {name: value for name, value in options.items() if value is not None}
        call = partial(_call, function, self._rows.origin(at), tuple(given))
        return self.add(what, at, (call, list(given.values()), *args))

    def _graph(self) -> Any:
        return HighLevelGraph.from_collections(self._name, self._tasks, self._rows.collections())

    def sum(self, parts: dict[Place, Any]) -> Any:
        """Return the sum of what adds up exactly, as a tree."""
        level, keys = 0, list(parts.values())
        while len(keys) > 1 or not level:
            level += 1
            groups = [keys[i : i + _EVERY] for i in range(0, len(keys), _EVERY)]
            keys = [self.add(f"sum-{level}", (i,), (sum, g)) for i, g in enumerate(groups)]
        return Delayed(keys[0], self._graph(), layer=self._name)

    def array(self, what: str, blocks: dict[Place, Any], chunks: Any, dtype: Any) -> Any:
        """Return the array of such blocks."""
        graph, name = self._graph(), f"{self._name}-{what}-array"
        layers = {**graph.layers, name: {(name, *at): task for at, task in blocks.items()}}
        dependencies = {**graph.dependencies, name: {self._name}}
        return da.Array(HighLevelGraph(layers, dependencies), name, chunks, dtype)


def _call(
    function: Callable[..., Any], origin: Place, names: Iterable[str], values: list[Any], *args: Any
) -> Any:
    with xentfast.num_threads(1):
        try:
            return function(*args, **dict(zip(names, values, strict=True)))
        except (TypeError, ValueError) as error:
            error.add_note(f"in the block whose first row is {origin}")
            raise


def _held(values: Any) -> Any:
    """Return a tuple of what may be gone through once only."""
    return tuple(values) if isinstance(values, Iterable) else values


def _item_of(found: Any, name: str) -> Any:
    """Return one of the arrays that come with an evaluation."""
    return found[1][name]


def _weight_of(
    count: int,
    sample_weight: Array | None,
    labels: Array | None,
    class_weight: Array | None,
    *,
    ignore_index: int | None,
) -> float:
    """Return what a block's rows weigh in the mean."""
    weight = np.full(count, 1.0)
    if sample_weight is not None:
        w = np.asarray(sample_weight, np.float64)
        _checks.bounded("sample_weight", w, np.float64)
        weight *= w.ravel()
    if labels is not None:
        y = labels.ravel()
        if class_weight is not None:
            weight *= class_weight.take(y.astype(np.intp), mode="clip")
        if ignore_index is not None:
            weight = weight[y != ignore_index]
    return float(weight.sum())


def _share(sample_weight: Any, total: float) -> Any:
    """Return the weights over their sum: those of no rows are 0."""
    share = 1 / total if total else 0.0
    return share if sample_weight is None else np.asarray(sample_weight, np.float64) * share


def _total(values: list[Any], weight: float | None, dtype: np.dtype[Any]) -> Any:
    """Return the sum of the blocks' values; a mean of nothing is nan."""
    with np.errstate(all="ignore"):
        return dtype.type(math.nan if weight == 0 else np.sum(values, dtype=np.float64))
