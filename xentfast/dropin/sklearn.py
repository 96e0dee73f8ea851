"""`sklearn.metrics.log_loss`, and `HalfMultinomialLoss` and `HalfBinomialLoss` of `sklearn._loss`.

Put in the place of scikit-learn's, the half losses serve `LogisticRegression`, gradient boosting of
histograms and temperature calibration. Better than there, on purpose: a confident row keeps its
digits, in the loss, the gradient and the Hessian; float16 is worked out in float32; the half losses
take strided arrays where scikit-learn wants contiguous ones, count nothing of a row of weight 0,
whatever it holds, and refuse, with a ValueError, lengths that do not fit together, class indices
out of range and binary labels outside [0, 1]. In `log_loss` masked entries are refused, which
scikit-learn does not see, and a mix of strings and numbers as labels is not. `n_threads` counts for
that call alone.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

import xentfast
from xentfast import _kernels
from xentfast.dropin.scipy import xlogy

Array = npt.NDArray[Any]


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


@dataclasses.dataclass
class _Interval:
    """What labels and predictions lie in."""

    low: float
    high: float
    low_inclusive: bool
    high_inclusive: bool

    def includes(self, x: Array) -> bool:
        """Return whether all of x lies in it."""
        low = x >= self.low if self.low_inclusive else x > self.low
        high = x <= self.high if self.high_inclusive else x < self.high
        return bool(np.all(low) and np.all(high))


class _LogitLink:
    is_multiclass = False
    interval_y_pred = _Interval(0, 1, False, False)

    def link(self, y_pred: Array) -> Array:
        """Return log(p / (1 - p))."""
        return np.asarray(np.log(y_pred) - np.log1p(-y_pred))[()]

    def inverse(self, raw_prediction: Array) -> Array:
        """Return 1 / (1 + exp(-raw))."""
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-raw_prediction)))[()]


class _MultinomialLogit:
    """Raw predictions whose sum over the classes is 0."""

    is_multiclass = True
    interval_y_pred = _Interval(0, 1, False, False)

    def symmetrize_raw_prediction(self, raw_prediction: Array) -> Array:
        return np.asarray(raw_prediction - np.mean(raw_prediction, axis=1)[:, np.newaxis])

    def link(self, y_pred: Array) -> Array:
        """Return log p, less its mean over the classes."""
        return self.symmetrize_raw_prediction(np.log(y_pred))

    def inverse(self, raw_prediction: Array) -> Array:
        """Return the softmax of each row."""
        return np.asarray(xentfast.softmax(raw_prediction))


class _HalfLoss:
    """What both losses share: their outputs, and what estimators ask a loss for."""

    differentiable = True
    approx_hessian = False
    constant_hessian = False
    is_multiclass: bool
    link: Any
    interval_y_true: _Interval
    n_classes: int

    def __init__(self, xp: Any, device: Any) -> None:
        self.xp, self.device = xp, device
        self.interval_y_pred = self.link.interval_y_pred

    @property
    def closs(self) -> Any:
        """What works out the losses."""
        return self

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
        self._run(y_true, raw_prediction, sample_weight, n_threads, loss_out, None, None)
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
        gradient = _squeezed(
            np.empty_like(raw_prediction) if gradient_out is None else gradient_out
        )
        self._run(y_true, raw_prediction, sample_weight, n_threads, None, gradient, None)
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
        gradient = _squeezed(gradient_out)
        self._run(y_true, raw_prediction, sample_weight, n_threads, loss_out, gradient, None)
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
        self._run(y_true, raw_prediction, sample_weight, n_threads, None, gradient, hessian)
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

    def in_y_true_range(self, y: Array) -> bool:
        """Return whether all of y are labels."""
        return self.interval_y_true.includes(y)

    def in_y_pred_range(self, y: Array) -> bool:
        """Return whether all of y are predictions."""
        return bool(self.interval_y_pred.includes(y))

    def constant_to_optimal_zero(self, y_true: Array, sample_weight: Array | None = None) -> Array:
        """Return what makes the losses of perfect predictions 0."""
        return np.zeros_like(y_true)

    def init_gradient_and_hessian(
        self, n_samples: int, dtype: Any = np.float64, order: Any = "F"
    ) -> tuple[Array, Array]:
        """Return empty arrays for `gradient_hessian`."""
        if dtype not in (np.float32, np.float64):
            raise ValueError(
                "Valid options for 'dtype' are np.float32 and np.float64. "
                f"Got dtype={dtype} instead."
            )
        shape = (n_samples, self.n_classes) if self.is_multiclass else (n_samples,)
        return np.empty(shape, dtype, order), np.empty(shape, dtype, order)

    def _run(
        self,
        y_true: Array,
        raw_prediction: Array,
        sample_weight: Array | None,
        n_threads: int,
        loss: Array | None,
        gradient: Array | None,
        second: Array | None,
        hessian: bool = True,
    ) -> None:
        x = _squeezed(raw_prediction)
        several = self.is_multiclass
        if not _kernels.half_loss(
            several, y_true, x, sample_weight, loss, gradient, second, hessian, n_threads
        ):
            self._refuse(y_true, x, sample_weight, loss, gradient, second)

    def _refuse(self, y: Array, x: Array, weight: Array | None, *outputs: Array | None) -> None:
        """Raise for what the kernel has refused."""
        if getattr(y, "dtype", None) not in (np.float32, np.float64):
            raise TypeError("Function call with ambiguous argument types")
        for a in (x, weight):
            if a is not None:
                _same_dtype(y, a, "const ")
        ndim = 2 if self.is_multiclass else 1
        if x.ndim != ndim:
            raise ValueError(
                f"Buffer has wrong number of dimensions (expected {ndim}, got {x.ndim})"
            )
        if y.shape != x.shape[:1]:
            raise ValueError(f"y_true must have shape {x.shape[:1]}, got {y.shape}")
        names = ("sample_weight", "loss_out", "gradient_out", "hessian_out or proba_out")
        for name, a in zip(names, (weight, *outputs), strict=True):
            shape = x.shape if name[0] in "gh" else y.shape
            if a is not None and a.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {a.shape}")
        given = [a for a in outputs if a is not None]
        _same_dtype(given[0], given[-1])
        bad, rule = self._bad(y, x)
        if bad.any():
            i = int(bad.argmax())
            raise ValueError(f"y_true must be in {rule}, got {y[i]} at row {i}")
        raise ValueError(
            "outputs must be writeable arrays of float32 or float64, got "
            + " and ".join(f"{a.dtype}{'' if a.flags.writeable else ', read-only'}" for a in given)
        )

    def _bad(self, y: Array, x: Array) -> tuple[Array, str]:
        """Return which labels are none, and what labels there are."""
        raise NotImplementedError


class HalfMultinomialLoss(_HalfLoss):
    """Softmax cross-entropy of class indices, which are floating: ``lse - raw[y]``."""

    is_multiclass = True
    link = _MultinomialLogit()
    interval_y_true = _Interval(0, math.inf, True, False)
    class_indexing_offsets = y_true_int = y_true_one_hot = None

    def __init__(
        self, sample_weight: Any = None, n_classes: int = 3, xp: Any = None, device: Any = None
    ) -> None:
        super().__init__(xp, device)
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
        self._run(y_true, raw_prediction, sample_weight, n_threads, None, gradient, proba, False)
        return gradient, proba

    def in_y_true_range(self, y: Array) -> bool:
        """Return whether all of y are class indices."""
        return super().in_y_true_range(y) and bool(np.all(y.astype(int) == y))

    def fit_intercept_only(self, y_true: Array, sample_weight: Array | None = None) -> Array:
        """Return the raw predictions of a model of the classes' shares alone."""
        eps = np.finfo(y_true.dtype).eps
        shares = np.array(
            [np.average(y_true == k, weights=sample_weight) for k in range(self.n_classes)],
            y_true.dtype,
        )
        return np.asarray(self.link.link(np.clip(shares, eps, 1 - eps)[np.newaxis]).reshape(-1))

    def predict_proba(self, raw_prediction: Array) -> Array:
        """Return the probabilities of the classes."""
        return np.asarray(self.link.inverse(raw_prediction))

    def _bad(self, y: Array, x: Array) -> tuple[Array, str]:
        bad = ~((y >= 0) & (y < x.shape[1]) & (y == np.trunc(y)))
        return bad, f"[0, {x.shape[1]})"


class HalfBinomialLoss(_HalfLoss):
    """Binary cross-entropy of logits: ``log(1 + exp(raw)) - y raw``."""

    is_multiclass = False
    link = _LogitLink()
    interval_y_true = _Interval(0, 1, True, True)
    n_classes = 2

    def __init__(self, sample_weight: Any = None, xp: Any = None, device: Any = None) -> None:
        super().__init__(xp, device)

    def constant_to_optimal_zero(self, y_true: Array, sample_weight: Array | None = None) -> Array:
        """Return what makes the losses of perfect predictions 0."""
        term = xlogy(y_true, y_true) + xlogy(1 - y_true, 1 - y_true)
        return np.asarray(term if sample_weight is None else term * sample_weight)

    def fit_intercept_only(self, y_true: Array, sample_weight: Array | None = None) -> Any:
        """Return the raw prediction of a model of the mean alone."""
        mean = np.average(y_true, weights=sample_weight)
        eps = 10 * np.finfo(mean.dtype).eps
        return self.link.link(np.clip(mean, eps, 1 - eps))

    def predict_proba(self, raw_prediction: Array) -> Array:
        """Return the probabilities of both classes."""
        x = _squeezed(raw_prediction)
        return np.stack([self.link.inverse(-x), self.link.inverse(x)], axis=-1)

    def _bad(self, y: Array, x: Array) -> tuple[Array, str]:
        return ~((y >= 0) & (y <= 1)), "[0, 1]"


def _outputs(raw_prediction: Array, first: Array | None, second: Array | None) -> Any:
    """Make the outputs that are missing like the one that is not, or like the prediction."""
    like = raw_prediction if first is second is None else second if first is None else first
    return [_squeezed(np.empty_like(like) if a is None else a) for a in (first, second)]


def _squeezed(a: Array) -> Array:
    return a[:, 0] if a.ndim == 2 and a.shape[1] == 1 else a


def _same_dtype(a: Array, b: Array, const: str = "") -> None:
    names = {"float32": "float", "float64": "double", "int64": "long", "int32": "int"}
    a_name, b_name = (names.get(dtype.name, dtype.name) for dtype in (a.dtype, b.dtype))
    if a_name != b_name:
        raise ValueError(f"Buffer dtype mismatch, expected '{const}{a_name}' but got '{b_name}'")
