"""Rows whose classes are spread over workers: three numbers a row from each, and what they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _kernels
from xentfast._checks import Array, Reduction

_KERNELS = _checks.by_dtype(_kernels.shard)
_EXP, _LOG1P = 0, 2
_IGNORED = ((-math.inf,), (0.0,), (math.inf,))  # no other row has both infinities


def shard_statistics(
    logits_part: npt.ArrayLike,
    labels: npt.ArrayLike,
    first_class: int,
    *,
    classes: int | None = None,
    axis: int = -1,
    ignore_index: int | None = None,
) -> Array:
    """Return what a shard of the classes has to say of each row: three numbers.

    Each worker holds the logits of some classes of all rows. The three numbers of all workers,
    brought together by whatever carries them, are one row's by `merge_shards`; of them `shard_loss`
    makes the loss and `shard_grad` the gradient of the worker's part: the cross-entropy of whole
    rows, and no worker has seen the logits of another.

    Parameters
    ----------
    logits_part : array_like, floating, of 1 to 7 dimensions
        Logits of the classes from `first_class` on along `axis`, of a dtype that `cross_entropy`
        takes.
    labels : array_like, integer
        Class indices, counted over all shards, of the shape of `logits_part` without `axis`; the
        same for all workers.
    first_class : int
        The first class of this shard.
    classes : int, optional
        How many there are in all shards. With it every worker refuses a label beyond; without, such
        a label is of probability 0, and its loss inf.
    axis : int
        The class axis.
    ignore_index : int, optional
        A label whose rows count nothing, whatever they hold.

    Returns
    -------
    ndarray of float64, (3, ...)
        For each row its maximum m here, ``sum_j exp(x_j - m) - 1`` over the classes here, and the
        logit of the label, -inf where it is elsewhere. A row that holds nan or +inf has nan as its
        sum; an ignored row is -inf, 0, inf.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, and for a value out of range.

    Notes
    -----
    The maximum's own term is left out of the sum, here and as shards are merged, so that the small
    loss of a confident row keeps its digits: see `cross_entropy`.
    """
    x, at, y, first = _part_of(logits_part, labels, first_class, axis)
    all_classes = 2**63
    if classes is not None:
        all_classes = _index("classes", classes, first + x.shape[at], 63)
    skip = _checks.ignored(ignore_index, y, False)
    _checks.within(y, all_classes, skip)
    ignored = np.zeros(y.shape, np.bool_) if skip is None else y == skip
    numbers = np.empty((3, y.size))
    _KERNELS(x.dtype)(_checks.rows(x, at), _checks.kind(x), _places(y, first, x, at), numbers, None)
    numbers[:, ignored.ravel()] = _IGNORED
    return numbers.reshape(3, *y.shape)


def merge_shards(parts: Sequence[npt.ArrayLike] | Array) -> Array:
    """Return the three numbers of whole rows from those of their shards.

    Parameters
    ----------
    parts : sequence of array_like, float32 or float64, (3, ...), or one array of them
        What `shard_statistics` of each worker returned, or this function of some of them.

    Returns
    -------
    ndarray of float64, (3, ...)
        As of one shard with all the classes.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For no shards, and for a wrong shape.

    Notes
    -----
    Sums are rounded, so the last bits may depend on the order: for the same bits everywhere, every
    worker merges the same list. With the largest maximum M the sum is that of the shard which holds
    it, the first of equal ones, and of the others ``(1 + s) exp(m - M)``.
    """
    if isinstance(parts, str) or not hasattr(parts, "__len__"):
        raise TypeError(f"parts must be a sequence of arrays, got {type(parts).__name__}")
    numbers = [_numbers_of(f"parts[{i}]", part) for i, part in enumerate(parts)]
    if not numbers:
        raise ValueError("parts must have at least one shard, got 0")
    for i, part in enumerate(numbers):
        if part.shape != numbers[0].shape:
            raise ValueError(
                f"parts must have one shape, got {numbers[0].shape} and {part.shape} at {i}"
            )
    maximum = np.max([part[0] for part in numbers], axis=0)
    label = np.max([part[2] for part in numbers], axis=0)
    rest = np.zeros_like(maximum)
    held = np.zeros(maximum.shape, np.bool_)  # whether the shard of the maximum was there
    for m, s, _ in numbers:
        top = m == maximum
        with np.errstate(all="ignore"):
            fall = np.where(top, 0.0, m - maximum)
            rest += np.where(top & ~held, s, (1 + s) * _elementwise(_EXP, fall))
        held |= top
    rest[(maximum == -np.inf) & (rest == rest)] = 0
    return np.stack([maximum, rest, label])


def shard_loss(
    merged: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
) -> Any:
    """`cross_entropy` of rows from their merged numbers, in nats.

    Parameters
    ----------
    merged : array_like, float32 or float64, (3, ...)
        What `merge_shards` returned.
    sample_weight : array_like, optional
        Finite and not negative, a scalar or broadcastable to the labels' shape. Class weights go
        here, where there is no `z_loss`: ``class_weight.take(labels, mode="clip")``.
    z_loss : float, not negative
        Weight of the squared log-sum-exp.
    reduction : {"mean", "sum", "none"}
        As of `cross_entropy`.

    Returns
    -------
    float64 or ndarray of float64
        The same on every worker.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, and for a value out of range.

    Notes
    -----
    There is no label smoothing, which needs the sum of the logits: a fourth number.
    """
    numbers = _numbers_of("merged", merged)
    zeta = _checks.number("z_loss", z_loss, 0, math.inf)
    _checks.reduction_of(reduction)
    weight, counts = _weights_of(sample_weight, numbers)
    maximum, rest, label = numbers
    finite = np.isfinite(maximum)
    with np.errstate(all="ignore"):
        log = np.where(finite, _elementwise(_LOG1P, rest), np.nan)
        losses = log + (maximum - label) + (zeta * (maximum + log) ** 2 if zeta else 0)
        losses = np.where(counts, weight * losses, 0)
        total = losses.sum()
    rows = losses if reduction == "none" else None
    return _checks.result(total, weight.sum(), reduction, losses.dtype, rows, None)


def shard_grad(
    logits_part: npt.ArrayLike,
    labels: npt.ArrayLike,
    first_class: int,
    merged: npt.ArrayLike,
    *,
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> Array:
    """Gradient of `shard_loss` with respect to the logits of one shard, in one pass over them.

    Parameters
    ----------
    logits_part, labels, first_class, axis
        As of `shard_statistics`, and unchanged since. Which rows are ignored is known from there.
    merged : array_like, float32 or float64, (3, ...)
        What `merge_shards` returned.
    sample_weight, z_loss, reduction
        As of `shard_loss`; with "none", the gradient of the sum.
    out : ndarray, optional
        The gradient's place, of the shape and dtype of `logits_part`. It may be that itself. After
        an error its contents are undefined.

    Returns
    -------
    ndarray
        Of the shape and dtype of `logits_part`.

    Raises
    ------
    TypeError, ValueError
        As of `shard_statistics` and `shard_loss`.
    """
    x, at, y, first = _part_of(logits_part, labels, first_class, axis)
    numbers = _numbers_of("merged", merged)
    if numbers.shape[1:] != y.shape:
        raise ValueError(f"merged must have shape {(3, *y.shape)}, got {numbers.shape}")
    zeta = _checks.number("z_loss", z_loss, 0, math.inf)
    _checks.reduction_of(reduction)
    weight, counts = _weights_of(sample_weight, numbers)
    gradient = _checks.output(out, x.shape, x.dtype, y, numbers, logits_part=x)
    maximum, rest, label = numbers
    if reduction == "mean":
        total = weight.sum()
        weight = weight / total if total else weight
    with np.errstate(all="ignore"):
        # g = ((1 + pull) e - 1 - s') / (1 + s') at the label, (1 + pull) e / (1 + s') elsewhere
        e = _elementwise(_EXP, np.minimum(label - maximum, 0))
        pull = 2 * zeta * (maximum + _elementwise(_LOG1P, rest)) if zeta else 0 * rest
        scale = weight / (1 + rest)
        own = scale * ((e - 1) - rest + pull * e)
        scale *= 1 + pull
    valid = np.isfinite(maximum)
    given = np.array(
        [
            np.where(counts, np.where(valid, maximum, 0), -np.inf),
            np.where(valid, scale, np.nan),
            np.where(valid, own, np.nan),
        ]
    ).reshape(3, -1)
    _KERNELS(x.dtype)(
        _checks.rows(x, at),
        _checks.kind(x),
        _places(y, first, x, at),
        given,
        _checks.rows(gradient, at),
    )
    return gradient


def _part_of(
    logits_part: npt.ArrayLike, labels: npt.ArrayLike, first_class: object, axis: int
) -> tuple[Array, int, Array, int]:
    x, at = _checks.rows_of_classes("logits_part", logits_part, axis)
    y = _checks.index_labels_of(labels, x, at)
    # A copy: labels that another thread changes must not lead outside a row.
    return x, at, y.copy(), _index("first_class", first_class, 0, 62)


def _index(name: str, value: object, low: int, bits: int) -> int:
    v = _checks.integer(name, value)
    if not low <= v <= 2**bits:
        raise ValueError(f"{name} must be in [{low}, 2**{bits}], got {v}")
    return v


def _places(y: Array, first: int, x: Array, at: int) -> Array:
    """Return the labels as places in this part, -1 where they are elsewhere."""
    here = (y >= first) & (y < first + x.shape[at])
    places = np.full(y.shape, -1, np.int64)
    places[here] = y[here].astype(np.int64) - first
    return places.ravel()


def _numbers_of(name: str, a: object) -> Array:
    x = _checks.array(name, a)
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must have dtype float32 or float64, got {x.dtype}")
    if x.ndim < 1 or x.shape[0] != 3:
        raise ValueError(f"{name} must have shape (3, ...), got {x.shape}")
    return x.astype(np.float64, copy=False)


def _weights_of(sample_weight: object, numbers: Array) -> tuple[Array, Array]:
    """Return what each row weighs, and whether it counts."""
    shape = numbers.shape[1:]
    counts = ~((numbers[0] == -np.inf) & (numbers[2] == np.inf))
    if sample_weight is None:
        return counts.astype(np.float64), counts
    w = _checks.sample_weight_of(sample_weight, shape, np.float64)
    _checks.bounded("sample_weight", w, np.float64)
    weight = np.where(counts, w, 0.0)
    return weight, weight != 0


def _elementwise(which: int, a: Array) -> Array:
    """Return a function of the kernels, which has the same bits on all machines, in float64."""
    x = np.ascontiguousarray(a).ravel()
    result = np.empty_like(x)
    _kernels.elementwise["double"](which, x, result)
    return result.reshape(np.shape(a))
