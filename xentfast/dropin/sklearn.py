"""`sklearn.metrics.log_loss`, and `HalfMultinomialLoss` and `HalfBinomialLoss` of `sklearn._loss`.

Better than there, on purpose: a confident row keeps its digits, in the loss and in the gradient;
float16 is worked out in float32; the half losses take strided arrays where scikit-learn wants
contiguous ones, and refuse, with a ValueError, lengths that do not fit together, class indices
out of range and binary labels outside [0, 1]. In `log_loss` masked entries are refused, which
scikit-learn does not see, and a mix of strings and numbers as labels is not. `n_threads` counts
for that call alone.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

import xentfast

Array = npt.NDArray[Any]

_BLOCK = 2**18  # entries of a gradient, from which a Hessian is made while they are in the cache


class InvalidParameterError(ValueError, TypeError):
    """An argument of `log_loss` is of the wrong kind."""


# --- log_loss -------------------------------------------------------------------------------------


def log_loss(
    y_true: npt.ArrayLike,
    y_proba: Any = None,
    *,
    normalize: bool = True,
    sample_weight: Any = None,
    labels: Any = None,
    y_pred: Any = "deprecated",
) -> float:
    """Mean, or sum, of -log of the label's probability, clipped to [eps, 1 - eps] of its dtype.

    Probabilities are looked at without an array of their size; those for a matrix of indicators
    are copied.
    """
    given = {"y_true": y_true, "y_proba": y_proba, "sample_weight": sample_weight, "labels": labels}
    renamed = not (isinstance(y_pred, str) and y_pred == "deprecated")
    if renamed:
        given["y_pred"] = y_pred
    for name, a in given.items():
        array_like = hasattr(a, "__len__") or hasattr(a, "__array__")
        sparse = hasattr(a, "nnz") and hasattr(a, "toarray")
        bad = not array_like or sparse or getattr(a, "shape", None) == ()
        if (bad and (a is not None or a is y_true)) or np.ma.is_masked(a):
            also = {"sample_weight": " or None", "labels": " or None"}
            also |= {"y_pred": " or an instance of 'str'"} if bad else {}
            rule = f"an array-like{also.get(name, '')}{'' if bad else ' without masked entries'}"
            raise InvalidParameterError(
                f"The {name!r} parameter of log_loss must be {rule}. Got {a!r} instead."
            )
    if not isinstance(normalize, bool | np.bool_):
        raise InvalidParameterError(
            "The 'normalize' parameter of log_loss must be an instance of 'bool' or an instance "
            f"of 'numpy.{np.bool_.__name__}'. Got {normalize!r} instead."
        )
    if renamed:
        if y_proba is not None:
            raise ValueError(
                "Cannot use both `y_pred` and `y_proba`. `y_pred` is deprecated, use `y_proba` "
                "instead."
            )
        warnings.warn(
            "`y_pred` was renamed to `y_proba` in version 1.9 and will be removed in 1.11. Use "
            "`y_proba` instead.",
            FutureWarning,
            stacklevel=2,
        )
        y_proba = y_pred
    if isinstance(y_proba, np.matrix) or isinstance(y_true, np.matrix):
        raise TypeError(
            "np.matrix is not supported. Please convert to a numpy array with np.asarray. For more "
            "information see: https://numpy.org/doc/stable/reference/generated/numpy.matrix.html"
        )
    p = np.asarray(y_proba)
    if p.dtype.kind == "c":
        raise ValueError(f"Complex data not supported\n{p}\n")
    if p.dtype not in (np.float64, np.float32, np.float16):
        p = np.asarray(y_proba, np.float64)
    eps = float(np.finfo(p.dtype).eps)
    fit = _check_probabilities(p, math.sqrt(eps) + 1e-8)
    y = np.asarray(y_true)
    weights = None if sample_weight is None else np.asarray(sample_weight)
    lengths = [len(a) for a in (p, y, weights) if a is not None]
    if len(set(lengths)) > 1:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {lengths}")
    if weights is not None:
        _check_weights(weights, lengths[0])
    index, classes = _encode(y, y_true, labels)
    if not fit:
        warnings.warn(
            "The y_prob values do not sum to one. Make sure to pass probabilities.",
            UserWarning,
            stacklevel=2,
        )
    columns = 2 if p.ndim == 1 or p.shape[1] == 1 else p.shape[1]
    if len(classes) != columns:
        if labels is None:
            raise ValueError(
                f"y_true and y_prob contain different number of classes: {len(classes)} vs "
                f"{columns}. Please provide the true labels explicitly through the labels "
                f"argument. Classes found in y_true: {classes}"
            )
        raise ValueError(
            "The number of classes in labels is different from that in y_prob. Classes found in "
            f"labels: {classes}"
        )
    if index.ndim == 2:
        both = p if columns == p.shape[-1] and p.ndim == 2 else np.stack([1 - p, p], -1)
        clipped = np.clip(both.reshape(-1, columns), eps, 1 - eps)
        losses = xentfast.cross_entropy(
            clipped, index.astype(p.dtype), from_logits=False, reduction="none"
        )
    elif p.ndim == 1 or p.shape[1] == 1:
        losses = xentfast.binary_cross_entropy(
            p.reshape(-1), index, from_logits=False, reduction="none"
        )
    else:
        losses = xentfast.cross_entropy(p, index, from_logits=False, reduction="none")
    if index.ndim == 1:  # to clip the probability of one label is to clip the loss
        losses = np.clip(losses, -math.log1p(-eps), -math.log(eps))
    if not normalize:
        return float(losses.sum(dtype=np.float64) if weights is None else np.dot(losses, weights))
    return float(np.average(losses.astype(np.float64, copy=False), weights=weights))


def _check_probabilities(p: Array, tolerance: float) -> bool:
    """Refuse what are no probabilities; return whether each row of a matrix sums to 1."""
    if p.ndim == 2 and p.size and xentfast.is_distribution(p, atol=tolerance).all():
        return True
    if p.ndim > 2:
        raise ValueError(f"Found array with dim {p.ndim}, while dim <= 2 is required.")
    _check_finite(p, "Input")
    for axis, what in ((0, "sample"), (1, "feature")):
        if p.ndim > axis and p.shape[axis] == 0:
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={p.shape}) while a minimum of 1 is required."
            )
    if p.max() > 1:
        raise ValueError(f"y_prob contains values greater than 1: {p.max()}")
    if p.min() < 0:
        raise ValueError(f"y_prob contains values lower than 0: {p.min()}")
    return p.ndim == 1 or p.shape[1] == 1


def _check_finite(a: Array, name: str) -> None:
    if a.dtype.kind == "f" and not np.isfinite(a).all():
        if np.isnan(a).any():
            raise ValueError(f"{name} contains NaN.")
        raise ValueError(
            f"{name} contains infinity or a value too large for dtype({a.dtype.name!r})."
        )


def _check_weights(weights: Array, rows: int) -> None:
    _check_finite(weights, "Input sample_weight")
    if weights.ndim != 1:
        raise ValueError(
            f"Sample weights must be 1D array or scalar, got {weights.ndim}D array. Expected "
            f"either a scalar value or a 1D array of length {rows}."
        )
    if not weights.any():
        raise ValueError("Sample weights must contain at least one non-zero number.")


def _encode(y: Array, y_true: Any, labels: Any) -> tuple[Array, Array]:
    """Return each label's place among the classes, or a matrix of indicators; and the classes."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    _check_finite(y, "Input y")
    if y.dtype.kind == "f" and (y != np.trunc(y)).any():
        raise ValueError(f"Unknown label type: ({y_true},)")
    if y.ndim == 2 and labels is None and np.isin(y, (0, 1)).all():
        return y, np.arange(y.shape[1])
    if y.ndim > 1:
        raise ValueError(
            "The object was not fitted with multilabel input."
            if labels is not None
            else "Multioutput target data is not supported with label binarization"
        )
    classes = _unique(y if labels is None else np.asarray(labels))
    if labels is not None and not np.all(classes == labels):
        warnings.warn(
            f"Labels passed were {labels}. But this function assumes labels are ordered "
            f"lexicographically. Pass the ordered labels={classes.tolist()} and ensure that the "
            "columns of y_prob correspond to this ordering.",
            UserWarning,
            stacklevel=3,
        )
    integers = {y.dtype.kind, classes.dtype.kind} <= {"i", "u"}
    if integers and int(classes[-1]) - int(classes[0]) < len(classes):  # no gaps
        known = not len(y) or (y.min() >= classes[0] and y.max() <= classes[-1])
        index = y.astype(np.intp, copy=False) - int(classes[0])
    else:
        index = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
        known = bool(np.all(classes[index] == y))
    if not known:
        raise ValueError(
            f"y_true contains values {set(y_true) - set(labels)} not belonging to the passed "
            f"labels {labels}."
        )
    if len(classes) == 1:
        if labels is not None:
            raise ValueError(
                f"The labels array needs to contain at least two labels, got {classes}."
            )
        raise ValueError(
            f"y_true contains only one label ({classes[0]}). Please provide the list of all "
            "expected class labels explicitly through the labels argument."
        )
    return index.astype(np.intp, copy=False), classes


def _unique(y: Array) -> Array:
    """Return the sorted classes: of integers that lie close together by counting."""
    if y.dtype.kind in "iu" and y.size:
        low, high = int(y.min()), int(y.max())
        if high - low < 1000 + y.size and low > -(2**62) and high < 2**62:
            counts = np.bincount(y.astype(np.int64, copy=False) - low)
            return np.asarray((np.flatnonzero(counts) + low).astype(y.dtype))
    return np.unique(y)


# --- the half losses ------------------------------------------------------------------------------


class _HalfLoss:
    """What both losses share: the outputs, the rows cut into blocks, weights and threads."""

    def loss(
        self,
        y_true: Array,
        raw_prediction: Array,
        sample_weight: Array | None = None,
        loss_out: Array | None = None,
        n_threads: int = 1,
    ) -> Array:
        """Return the loss of each row."""
        if loss_out is None:
            loss_out = np.empty_like(y_true)
        self._run(y_true, raw_prediction, sample_weight, n_threads, loss=loss_out)
        return loss_out

    def gradient(
        self,
        y_true: Array,
        raw_prediction: Array,
        sample_weight: Array | None = None,
        gradient_out: Array | None = None,
        n_threads: int = 1,
    ) -> Array:
        """Return the gradient of the sum of the losses."""
        (gradient,) = _outputs(raw_prediction, gradient_out)
        self._run(y_true, raw_prediction, sample_weight, n_threads, gradient=gradient)
        return gradient

    def loss_gradient(
        self,
        y_true: Array,
        raw_prediction: Array,
        sample_weight: Array | None = None,
        loss_out: Array | None = None,
        gradient_out: Array | None = None,
        n_threads: int = 1,
    ) -> tuple[Array, Array]:
        """Return loss and gradient, from one pass."""
        if gradient_out is None:
            dtype = None if loss_out is None else loss_out.dtype
            gradient_out = np.empty_like(raw_prediction, dtype=dtype)
            loss_out = np.empty_like(y_true) if loss_out is None else loss_out
        elif loss_out is None:
            loss_out = np.empty_like(y_true, dtype=gradient_out.dtype)
        _same_dtype(loss_out, gradient_out)
        gradient = _squeezed(gradient_out)
        self._run(
            y_true, raw_prediction, sample_weight, n_threads, loss=loss_out, gradient=gradient
        )
        return loss_out, gradient

    def gradient_hessian(
        self,
        y_true: Array,
        raw_prediction: Array,
        sample_weight: Array | None = None,
        gradient_out: Array | None = None,
        hessian_out: Array | None = None,
        n_threads: int = 1,
    ) -> tuple[Array, Array]:
        """Return the gradient and the diagonal of the Hessian, p (1 - p)."""
        gradient, hessian = _outputs(raw_prediction, gradient_out, hessian_out)
        self._run(
            y_true, raw_prediction, sample_weight, n_threads, gradient=gradient, hessian=hessian
        )
        return gradient, hessian

    def __call__(
        self,
        y_true: Array,
        raw_prediction: Array,
        sample_weight: Array | None = None,
        n_threads: int = 1,
    ) -> Any:
        losses = self.loss(y_true, raw_prediction, n_threads=n_threads)
        return np.average(losses, weights=sample_weight)

    def _block(self, y: Array, x: Array, g: Array | None, wanted: set[str]) -> dict[str, Array]:
        """Work out some rows without weights; g is the gradient's place, unless none is wanted."""
        raise NotImplementedError

    def _labels(self, y: Array, x: Array) -> Array:
        raise NotImplementedError

    def _run(
        self,
        y_true: Array,
        raw_prediction: Array,
        sample_weight: Array | None,
        n_threads: int,
        **outputs: Array,
    ) -> None:
        if getattr(y_true, "dtype", None) not in (np.float32, np.float64):
            raise TypeError("Function call with ambiguous argument types")
        x = _squeezed(raw_prediction)
        for a in (x, sample_weight):
            if a is not None:
                _same_dtype(y_true, a, "const ")
        y = self._labels(y_true, x)
        for name, a in outputs.items():
            shape = y.shape if name == "loss" else x.shape
            if a.shape != shape:
                raise ValueError(f"{name}_out must have shape {shape}, got {a.shape}")
        if sample_weight is not None and sample_weight.shape != y.shape:
            raise ValueError(f"sample_weight must have shape {y.shape}, got {sample_weight.shape}")
        gradient = outputs.get("gradient")
        in_place = gradient is not None and gradient.dtype == x.dtype
        plain = sample_weight is None and outputs.keys() <= {"loss", "gradient"}
        step = max(1, _BLOCK * len(x) // max(1, x.size))
        if plain and (gradient is None or in_place):
            step = max(1, len(x))
        with xentfast.num_threads(min(max(1, n_threads), 1024)):
            for i in range(0, len(x), step):
                at = slice(i, i + step)
                g = None
                if gradient is not None:
                    g = gradient[at] if in_place else np.empty_like(x[at])
                for name, part in self._block(y[at], x[at], g, set(outputs)).items():
                    if sample_weight is not None and name != "proba":
                        w = sample_weight[at]
                        part *= w[:, np.newaxis] if part.ndim == 2 else w
                    if name != "gradient" or not in_place:
                        outputs[name][at] = part


class HalfMultinomialLoss(_HalfLoss):
    """Softmax cross-entropy of class indices, which are floating: ``lse - raw[y]``."""

    def __init__(
        self, sample_weight: Any = None, n_classes: int = 3, xp: Any = None, device: Any = None
    ) -> None:
        self.n_classes = n_classes

    def gradient_proba(
        self,
        y_true: Array,
        raw_prediction: Array,
        sample_weight: Array | None = None,
        gradient_out: Array | None = None,
        proba_out: Array | None = None,
        n_threads: int = 1,
    ) -> tuple[Array, Array]:
        """Return the gradient and the probabilities, which take no weights."""
        gradient, proba = _outputs(raw_prediction, gradient_out, proba_out)
        self._run(y_true, raw_prediction, sample_weight, n_threads, gradient=gradient, proba=proba)
        return gradient, proba

    def _labels(self, y: Array, x: Array) -> Array:
        if x.ndim != 2:
            raise ValueError(f"Buffer has wrong number of dimensions (expected 2, got {x.ndim})")
        if y.shape != x.shape[:1]:
            raise ValueError(f"y_true must have shape {x.shape[:1]}, got {y.shape}")
        with np.errstate(invalid="ignore"):
            index = y.astype(np.intp)
        bad = (index != y) | (index < 0) | (index >= x.shape[1])
        if bad.any():
            i = int(bad.argmax())
            raise ValueError(f"y_true must be in [0, {x.shape[1]}), got {y[i]} at row {i}")
        return index

    def _block(self, y: Array, x: Array, g: Array | None, wanted: set[str]) -> dict[str, Array]:
        """|g| is p, and 1 - p at the label, where p is exp(-loss): nothing cancels."""
        if g is None:
            return {"loss": xentfast.cross_entropy(x, y, reduction="none")}
        if wanted == {"gradient"}:
            return {"gradient": xentfast.cross_entropy_grad(x, y, reduction="none", out=g)}
        loss, _ = xentfast.cross_entropy_value_and_grad(x, y, reduction="none", out=g)
        parts = {"loss": loss, "gradient": g}
        label = np.arange(len(y)), y
        if "hessian" in wanted:
            parts["hessian"] = hessian = np.abs(g)
            hessian *= 1 - hessian
            hessian[label] = -g[label] * np.exp(-loss)
        if "proba" in wanted:
            parts["proba"] = g.copy()
            parts["proba"][label] = np.exp(-loss)
        return {name: parts[name] for name in wanted}


class HalfBinomialLoss(_HalfLoss):
    """Binary cross-entropy of logits: ``log(1 + exp(raw)) - y raw``."""

    def __init__(self, sample_weight: Any = None, xp: Any = None, device: Any = None) -> None:
        self.n_classes = 2

    def _labels(self, y: Array, x: Array) -> Array:
        if x.ndim != 1:
            raise ValueError(f"Buffer has wrong number of dimensions (expected 1, got {x.ndim})")
        if y.shape != x.shape:
            raise ValueError(f"y_true must have shape {x.shape}, got {y.shape}")
        if y.size and not (y.min() >= 0 and y.max() <= 1):
            i = int((~((y >= 0) & (y <= 1))).argmax())
            raise ValueError(f"y_true must be in [0, 1], got {y[i]} at row {i}")
        return y

    def _block(self, y: Array, x: Array, g: Array | None, wanted: set[str]) -> dict[str, Array]:
        """With the likelier class as the label, |g| is the smaller of p and 1 - p."""
        if g is None:
            return {"loss": xentfast.binary_cross_entropy(x, y, reduction="none")}
        if "loss" in wanted:
            loss, _ = xentfast.binary_cross_entropy_value_and_grad(x, y, reduction="none", out=g)
            return {"loss": loss, "gradient": g}
        if "hessian" not in wanted:
            return {"gradient": xentfast.binary_cross_entropy_grad(x, y, reduction="none", out=g)}
        likelier = (x > 0).astype(x.dtype)
        xentfast.binary_cross_entropy_grad(x, likelier, reduction="none", out=g)
        hessian = np.abs(g)
        hessian *= 1 - hessian
        g += likelier - y
        return {"gradient": g, "hessian": hessian}


def _outputs(raw_prediction: Array, *outputs: Array | None) -> list[Array]:
    """Make the outputs that are missing like the one that is not, or like the prediction."""
    given = [a for a in outputs if a is not None]
    like = given[0] if given else raw_prediction
    made = [np.empty_like(like) if a is None else a for a in outputs]
    _same_dtype(made[0], made[-1])
    return [_squeezed(a) for a in made]


def _squeezed(a: Array) -> Array:
    return a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a


def _same_dtype(a: Array, b: Array, const: str = "") -> None:
    names = {"float32": "float", "float64": "double", "int64": "long", "int32": "int"}
    a_name, b_name = (names.get(dtype.name, dtype.name) for dtype in (a.dtype, b.dtype))
    if a_name != b_name:
        raise ValueError(f"Buffer dtype mismatch, expected '{const}{a_name}' but got '{b_name}'")
