"""The cross-entropies of `keras.losses` on NumPy arrays, with the results of its backends.

The classes hold their arguments to their dtype (float32) as Keras does; the functions take that of
`y_pred`, which for lists, and for float64 except with class indices, means float32 there and here.
Lists are arrays everywhere. Where the backends differ: `BinaryCrossentropy` of logits is exact, as
with JAX, torch and TensorFlow; a class index out of range is an IndexError, as with torch; rows of
probabilities with negative, zero or infinite entries are what NumPy and JAX make of them. Better
than there, on purpose:

- class indices stay integers: float16 does not round 3001 to 3000;
- a logit of -inf is an honest class of probability 0, where Keras says nan, and a binary logit of
  inf or -inf has the loss 0 on its own side;
- 16 bits are worked out in float32 and rounded once, so that 1 - epsilon is not 1 and no sum
  overflows; a confident row, and a probability next to 0 or 1, keep their digits;
- a class of dtype float64 works in float64, where the NumPy backend rounds to float32 on the way;
- a row of `ignore_class` or of weight 0 leaks nothing, whatever it holds, and nothing warns of
  dividing by 0;
- `label_smoothing` and binary labels outside [0, 1] are a ValueError.

The sparse loss has the `label_smoothing` of the Keras after 3.15. Not seen: masks that layers of
Keras attach to arrays, and `keras.config.floatx()`. A name of None is the usual one, without a
number.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

import xentfast
from xentfast import _checks

Array = npt.NDArray[Any]

_EPSILON = 1e-7
_BLOCK = 2**18  # entries that are clipped at a time: they stay in the cache
_REDUCTIONS = {"sum_over_batch_size", "sum", None, "none", "mean", "mean_with_sample_weight"}


class _Loss:
    """A loss with its options: ``loss(y_true, y_pred, sample_weight=None)``."""

    name: str | None
    reduction: str | None
    dtype: Any
    _not_in_config: ClassVar[tuple[str, ...]] = ("dtype",)

    def __post_init__(self) -> None:
        if self.reduction not in _REDUCTIONS:
            raise ValueError(
                f"Invalid value for argument `reduction`. Expected one of {_REDUCTIONS}. "
                f"Received: reduction={self.reduction}"
            )
        dtype = getattr(self.dtype, "compute_dtype", self.dtype) or "float32"
        name = dtype.removeprefix("mixed_") if isinstance(dtype, str) else np.dtype(dtype).name
        if name not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(f"dtype must be a floating dtype or a policy of one, got {dtype!r}")
        if name == "bfloat16":
            import ml_dtypes  # noqa: F401  (NumPy knows the name from then on)
        self.dtype, self._dtype = name, np.dtype(name)
        self.name = self.name or getattr(type(self), "name", None)

    def __call__(
        self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike, sample_weight: Any = None
    ) -> Any:
        losses, counts = self._losses(*_same_rank(np.asarray(y_true), np.asarray(y_pred)))
        return _reduce(losses, sample_weight, counts, self.reduction).astype(self._dtype)

    def call(self, y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Array:
        """Return the losses before weights and reduction."""
        losses, _ = self._losses(*_same_rank(np.asarray(y_true), np.asarray(y_pred)))
        return losses.astype(self._dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the options, without the dtype, as Keras does."""
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return {name: getattr(self, name) for name in names if name not in self._not_in_config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a loss of the options that `get_config` returned."""
        return cls(**config)

    def _losses(self, t: Array, x: Array) -> tuple[Array, Array | None]:
        """Return the losses, and which of them count, None for all."""
        raise NotImplementedError


@dataclasses.dataclass(eq=False)
class BinaryCrossentropy(_Loss):
    """The mean along `axis` of binary losses; probabilities are clipped, logits are not."""

    from_logits: bool = False
    label_smoothing: float = 0.0
    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "binary_crossentropy"
    dtype: Any = None

    def _losses(self, t: Array, x: Array) -> tuple[Array, None]:
        def rows(t: Array, x: Array) -> Array:
            x = x if self.from_logits else np.clip(x, *_ends(x.dtype))
            losses: Array = xentfast.binary_cross_entropy(
                x, t, from_logits=self.from_logits, label_smoothing=self.label_smoothing,
                reduction="none",
            )  # fmt: skip
            return losses[..., 0] if x.shape[-1] == 1 else np.asarray(losses.mean(axis=-1))

        return _by_block(rows, *_checked(t, x, self.axis), self._dtype), None


@dataclasses.dataclass(eq=False)
class BinaryFocalCrossentropy(_Loss):
    """The mean along `axis` of binary losses times (1 - p_t)^gamma, p_t = t p + (1 - t) (1 - p).

    Probabilities, those of logits too, are clipped in the loss but not in the factor.
    """

    apply_class_balancing: bool = False
    alpha: float = 0.25
    gamma: float = 2.0
    from_logits: bool = False
    label_smoothing: float = 0.0
    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "binary_focal_crossentropy"
    dtype: Any = None

    def _losses(self, t: Array, x: Array) -> tuple[Array, None]:
        smoothing = _checks.number("label_smoothing", self.label_smoothing, 0, 1)

        def rows(t: Array, x: Array) -> Array:
            low, high = _ends(x.dtype)
            if self.from_logits:  # to clip the sigmoid is to clip the logits
                low, high = (
                    x.dtype.type(math.log(end / (1.0 - float(end)))) for end in (low, high)
                )
            losses: Array = xentfast.binary_cross_entropy(
                np.clip(x, low, high), t, from_logits=self.from_logits, label_smoothing=smoothing,
                reduction="none",
            )  # fmt: skip
            t = t.astype(x.dtype, copy=False)
            rest = (1 - t) * (1 - smoothing) + smoothing / 2
            t = t * (1 - smoothing) + smoothing / 2
            with np.errstate(all="ignore"):
                p, q = (
                    (x, 1 - x) if not self.from_logits else (1 / (1 + np.exp(y)) for y in (-x, x))
                )
                losses = losses * (t * q + rest * p) ** self.gamma
            if self.apply_class_balancing:
                losses *= t * self.alpha + rest * (1 - self.alpha)
            return np.asarray(losses.mean(axis=-1))

        return _by_block(rows, *_checked(t, x, self.axis), self._dtype), None


@dataclasses.dataclass(eq=False)
class CategoricalCrossentropy(_Loss):
    """Losses of distributions; probabilities are divided by their sum, then clipped."""

    from_logits: bool = False
    label_smoothing: float = 0.0
    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "categorical_crossentropy"
    dtype: Any = None

    def _losses(self, t: Array, x: Array) -> tuple[Array, None]:
        smoothing, last = self.label_smoothing, x.shape[-1]
        _warn_of_one_class("categorical_crossentropy", self.axis, x)
        t, x = _checked(t, x, self.axis)
        scale = 1.0
        if smoothing and last != x.shape[-1]:
            # Keras divides the share by the length of the last axis, whatever `axis` is:
            # (1 - s) t + s / last = scale ((1 - s') t + s' / classes)
            share = smoothing * x.shape[-1] / last
            scale = 1 - smoothing + share
            smoothing = share / scale

        def rows(t: Array, x: Array) -> Array:
            odd = None
            if not self.from_logits:
                x, odd = _normalized(x)
            t = t.astype(x.dtype) if t.dtype.kind in "biu" else t
            losses = scale * np.asarray(
                xentfast.cross_entropy(
                    x, t, from_logits=self.from_logits, label_smoothing=smoothing, reduction="none"
                )
            )
            return losses if odd is None else np.where(odd, np.nan, losses)

        whole = self.from_logits and t.dtype.kind not in "biu"
        return _by_block(rows, t, x, self._dtype, whole), None


@dataclasses.dataclass(eq=False)
class CategoricalFocalCrossentropy(_Loss):
    """The sum of -alpha (1 - p)^gamma t log p: p is divided by its sum, then clipped.

    `alpha` may be an array, which meets the last axis, whatever `axis` is.
    """

    alpha: Any = 0.25
    gamma: float = 2.0
    from_logits: bool = False
    label_smoothing: float = 0.0
    axis: int = -1
    reduction: str | None = "sum_over_batch_size"
    name: str | None = "categorical_focal_crossentropy"
    dtype: Any = None

    def _losses(self, t: Array, x: Array) -> tuple[Array, None]:
        smoothing = _checks.number("label_smoothing", self.label_smoothing, 0, 1)
        last = x.shape[-1]
        _warn_of_one_class("categorical_focal_crossentropy", self.axis, x)
        alpha = np.asarray(self.alpha)
        if alpha.ndim:
            alpha = _last(np.broadcast_to(alpha, x.shape), self.axis)

        def rows(t: Array, x: Array, alpha: Array) -> Array:
            p, odd = _normalized(xentfast.softmax(x) if self.from_logits else x)
            t = t.astype(x.dtype, copy=False) * (1 - smoothing) + smoothing / last
            t *= alpha * (1 - p) ** self.gamma
            losses = xentfast.cross_entropy(p, t, from_logits=False, reduction="none")
            return np.where(odd, np.nan, losses)

        t, x = _checked(t, x, self.axis)
        return _by_block(rows, t, x, self._dtype, more=np.broadcast_to(alpha, x.shape)), None


@dataclasses.dataclass(eq=False)
class SparseCategoricalCrossentropy(_Loss):
    """Losses of class indices, 0 for `ignore_class`; of probabilities as for distributions."""

    from_logits: bool = False
    ignore_class: int | None = None
    reduction: str | None = "sum_over_batch_size"
    axis: int = -1
    label_smoothing: float = 0.0
    name: str | None = "sparse_categorical_crossentropy"
    dtype: Any = None
    _not_in_config: ClassVar[tuple[str, ...]] = ("dtype", "axis")

    def get_config(self) -> dict[str, Any]:
        """Return the options, without dtype and axis; Keras 3.15 knows no smoothing."""
        config = super().get_config()
        if not self.label_smoothing:
            del config["label_smoothing"]
        return config

    def _losses(self, t: Array, x: Array) -> tuple[Array, Array | None]:
        for axis in (self.axis, -1):
            if t.ndim == x.ndim and t.shape[axis] == 1:
                t = np.squeeze(t, axis=axis)
        if t.shape != x.shape[:-1]:
            raise ValueError(
                "Arguments `target` and `output` must have the same shape up until the last "
                f"dimension: target.shape={t.shape}, output.shape={x.shape}"
            )
        x = _last(x, self.axis)
        if _work(self._dtype) == np.float64:
            x = x.astype(np.float64, copy=False)
        t, counts = self._indices(t, x.shape[-1])
        if self.from_logits:
            ignore = None if counts is None else -1
            losses = xentfast.cross_entropy(
                x, t, ignore_index=ignore, label_smoothing=self.label_smoothing, reduction="none"
            )
            return np.asarray(losses, _work(self._dtype)), counts
        losses = _of_one_class(x, np.maximum(t, 0), _work(self._dtype))
        if self.label_smoothing:
            smoothing = _checks.number("label_smoothing", self.label_smoothing, 0, 1)
            uniform = CategoricalCrossentropy(label_smoothing=1.0, dtype=self.dtype)
            every, _ = uniform._losses(np.broadcast_to(x.dtype.type(0), x.shape), x)
            losses = (1 - smoothing) * losses + smoothing * every
        return losses if counts is None else np.where(counts, losses, 0), counts

    def _indices(self, t: Array, classes: int) -> tuple[Array, Array | None]:
        """Return the class indices, -1 where they are ignored, and which of them count."""
        counts = None if self.ignore_class is None else np.asarray(t != self.ignore_class)
        if t.dtype.kind not in "iu":
            t = np.trunc(t.astype(np.float64))
        bad = ~((t >= 0) & (t < classes))
        if counts is not None:
            bad &= counts
        if bad.any():
            at = tuple(map(int, np.argwhere(bad)[0]))
            where = f" at row {at[0] if t.ndim == 1 else at}" if t.ndim else ""
            raise IndexError(f"labels must be in [0, {classes}), got {t[at]}{where}")
        if counts is not None:
            t = np.where(counts, t, 0).astype(np.int64)
            t[~counts] = -1
        return t if t.dtype.kind in "iu" else t.astype(np.int64), counts


@dataclasses.dataclass(eq=False)
class KLDivergence(_Loss):
    """Kullback-Leibler divergence along the last axis, both sides clipped to [1e-7, 1]."""

    reduction: str | None = "sum_over_batch_size"
    name: str | None = "kl_divergence"
    dtype: Any = None

    def _losses(self, t: Array, x: Array) -> tuple[Array, None]:
        def rows(t: Array, x: Array) -> Array:
            t = t.astype(x.dtype, copy=False)
            return np.asarray(
                xentfast.kl_divergence(np.clip(t, _EPSILON, 1), np.clip(x, _EPSILON, 1))
            )

        t, x = np.broadcast_arrays(t, x)
        return _by_block(rows, t, x, self._dtype), None


def binary_crossentropy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Any:
    """`BinaryCrossentropy` without weights and reduction, in the dtype of `y_pred`."""
    return _plain(BinaryCrossentropy, y_true, y_pred, from_logits, label_smoothing, axis)


def binary_focal_crossentropy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Any:
    """`BinaryFocalCrossentropy` without weights and reduction, in the dtype of `y_pred`."""
    options = (apply_class_balancing, alpha, gamma, from_logits, label_smoothing, axis)
    return _plain(BinaryFocalCrossentropy, y_true, y_pred, *options)


def categorical_crossentropy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Any:
    """`CategoricalCrossentropy` without weights and reduction, in the dtype of `y_pred`."""
    return _plain(CategoricalCrossentropy, y_true, y_pred, from_logits, label_smoothing, axis)


def categorical_focal_crossentropy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    alpha: Any = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Any:
    """`CategoricalFocalCrossentropy` without weights and reduction, in the dtype of `y_pred`."""
    options = (alpha, gamma, from_logits, label_smoothing, axis)
    return _plain(CategoricalFocalCrossentropy, y_true, y_pred, *options)


def sparse_categorical_crossentropy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
    label_smoothing: float = 0.0,
) -> Any:
    """`SparseCategoricalCrossentropy` without weights and reduction, in the dtype of `y_pred`."""
    options = {"ignore_class": ignore_class, "axis": axis, "label_smoothing": label_smoothing}
    return _plain(SparseCategoricalCrossentropy, y_true, y_pred, from_logits, **options)


def kl_divergence(y_true: npt.ArrayLike, y_pred: npt.ArrayLike) -> Any:
    """`KLDivergence` without weights and reduction, in the dtype of `y_pred`."""
    return _plain(KLDivergence, y_true, y_pred)


def _plain(cls: Any, y_true: npt.ArrayLike, y_pred: Any, *args: Any, **options: Any) -> Any:
    leaf = y_pred
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    dtype = np.dtype(getattr(leaf, "dtype", np.float32))
    if dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    elif dtype == np.float64 and cls is not SparseCategoricalCrossentropy:
        dtype = np.dtype(np.float32)
    loss = cls(*args, **options, dtype=dtype)
    losses, _ = loss._losses(np.asarray(y_true), np.asarray(y_pred))
    return losses.astype(loss.dtype)[()]


def _work(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _ends(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    one = _work(dtype).type
    return one(_EPSILON), one(1 - _EPSILON)


def _last(a: Array, axis: int) -> Array:
    if not -a.ndim <= operator.index(axis) < a.ndim:
        raise np.exceptions.AxisError(axis, a.ndim)
    return np.moveaxis(a, axis, -1)


def _checked(t: Array, x: Array, axis: int) -> tuple[Array, Array]:
    if t.shape != x.shape:
        raise ValueError(
            "Arguments `target` and `output` must have the same shape. "
            f"Received: target.shape={t.shape}, output.shape={x.shape}"
        )
    return _last(t, axis), _last(x, axis)


def _warn_of_one_class(name: str, axis: int, x: Array) -> None:
    if isinstance(axis, bool):
        raise ValueError(f"`axis` must be of type `int`. Received: axis={axis} of type {bool}")
    if x.shape[-1] == 1:
        warnings.warn(
            f"In loss {name}, expected y_pred.shape to be (batch_size, num_classes) with "
            f"num_classes > 1. Received: y_pred.shape={x.shape}. Consider using "
            "'binary_crossentropy' if you only have 2 classes.",
            SyntaxWarning,
            stacklevel=4,
        )


def _normalized(x: Array) -> tuple[Array, Array]:
    """Return the rows divided by their sums and clipped, and which have a nan by that."""
    total = np.asarray(np.sum(x, axis=-1))
    with np.errstate(all="ignore"):
        p = x / total[..., np.newaxis]
    np.clip(p, *_ends(x.dtype), out=p)
    return p, _odd(x, total)


def _odd(x: Array, total: Array) -> Array:
    """Return which rows have a nan when divided by their sum, which is 0, infinite or nan then."""
    odd = np.asarray((total == 0) | ~np.isfinite(total))
    if odd.any():
        with np.errstate(all="ignore"):
            odd[odd] = np.isnan(x[odd] / total[odd][:, np.newaxis]).any(axis=-1)
    return odd


def _of_one_class(x: Array, t: Array, dtype: np.dtype[Any]) -> Array:
    """Return the losses of class t of rows that are divided by their sum, then clipped."""
    total = np.asarray(np.sum(x, axis=-1, dtype=dtype))
    own = np.take_along_axis(x, t[..., np.newaxis], axis=-1)[..., 0].astype(dtype)
    with np.errstate(all="ignore"):
        losses = -np.log(np.clip(own / total, *_ends(dtype)))
    return np.where(_odd(x, total), np.nan, losses)


def _same_rank(a: Array, b: Array) -> tuple[Array, Array]:
    """Where one has a last axis of length 1 more: give it to a vector, take it from others."""
    if a.ndim == b.ndim + 1 and a.shape[-1] == 1:
        return (a, b[:, np.newaxis]) if b.ndim == 1 else (a[..., 0], b)
    if b.ndim == a.ndim + 1 and b.shape[-1] == 1:
        return (a[:, np.newaxis], b) if a.ndim == 1 else (a, b[..., 0])
    return a, b


def _blocks(lead: tuple[int, ...], classes: int) -> Iterator[tuple[slice, ...]]:
    """Cut the leading axes into parts of about _BLOCK entries."""
    if not lead:
        yield ()
        return
    inner = math.prod(lead[1:]) * classes
    step = max(1, _BLOCK // max(1, inner))
    for i in range(0, lead[0], step):
        for rest in _blocks(lead[1:], classes) if inner > _BLOCK else [()]:
            yield (slice(i, i + step), *rest)


def _by_block(
    rows: Callable[..., Array],
    t: Array,
    x: Array,
    dtype: np.dtype[Any],
    whole: bool = False,
    more: Array | None = None,
) -> Array:
    """Work out the losses (...) of t and x (..., classes), at once or block by block."""
    work = _work(dtype)
    arrays = (t, x) if more is None else (t, x, more)
    if whole and x.dtype in (dtype, work):
        return np.asarray(rows(*arrays))
    losses = np.empty(x.shape[:-1], work)
    try:
        for at in _blocks(x.shape[:-1], x.shape[-1]):
            t, x, *rest = (a[at] for a in arrays)
            losses[at] = rows(t, x.astype(work, copy=False), *rest)
    except ValueError:  # it names a place in the block: name it in the whole
        t, x, *rest = arrays
        losses[...] = rows(t, x.astype(work), *rest)
    return losses


def _reduce(losses: Array, weight: Any, counts: Array | None, reduction: str | None) -> Any:
    """Weigh and reduce: the plain means divide by the number of losses that count."""
    over_batch = reduction in ("mean", "sum_over_batch_size")
    if weight is not None:
        weight = np.asarray(weight, losses.dtype)
    if counts is not None:
        mask: Array = counts.astype(losses.dtype)
        if over_batch:
            mask *= mask.size / max(1, int(counts.sum()))
        if weight is not None:
            mask, weight = _same_rank(mask, weight)
            mask = mask * weight
        weight = mask
    if weight is not None:
        losses, weight = _same_rank(losses, weight)
        with np.errstate(invalid="ignore"):
            losses = np.where(weight == 0, 0, losses * weight)[()]
    if reduction in (None, "none") or losses.shape in ((), (0,)):
        return losses
    total = np.sum(losses, dtype=np.float64)
    if reduction == "sum":
        return total
    by_weight = weight is not None and not over_batch
    divisor: float = float(np.sum(weight, dtype=np.float64)) if by_weight else losses.size
    return np.asarray(total / divisor if divisor else 0.0)
