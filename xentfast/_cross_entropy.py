"""Categorical and sparse categorical cross-entropy: check, allocate, call, reduce."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _kernels
from xentfast._checks import Array, Reduction

_KERNELS = _checks.by_dtype(_kernels.cross_entropy)
_plain = _kernels.plain_cross_entropy


def cross_entropy(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> Any:
    """Cross-entropy of class indices or of distributions, in nats.

    With the label distribution ``t`` of a row, one-hot for a class index, and ``p`` the softmax of
    its logits::

        t_j  <-  w_j ((1 - label_smoothing) t_j + label_smoothing / K)
        loss  =  a (-sum_j t_j log p_j + z_loss lse^2),   lse = log sum_j exp(x_j)

    Parameters
    ----------
    logits : array_like, floating, of 1 to 7 dimensions, with K >= 1 classes along `axis`
        Unnormalised log-probabilities, or with ``from_logits=False`` probabilities: float16,
        bfloat16 (of ml_dtypes), float32 or float64; integers and lists are taken as float64.
        ``-inf`` is a class of probability 0.
    labels : array_like
        Class indices in [0, K), of any integer dtype, with the shape of `logits` without `axis`; or
        distributions, of a floating dtype and the shape of `logits`, which need not sum to 1, or
        one-hot rows of booleans.
    axis : int
        The class axis.
    from_logits : bool
        False: `logits` holds probabilities, taken as they are, neither clipped nor normalised. One
        outside [0, 1] makes its row nan, unless its label is 0; by 8 units of the last place above
        1, which rounding may leave, it counts as 1.
    class_weight : array_like, shape (K,), optional
        ``w``: not negative, and finite in the dtype of the result.
    sample_weight : array_like, optional
        ``a``: finite and not negative, a scalar or broadcastable to the shape of `logits` without
        `axis`; that axis may be there with length 1. A row of weight 0, or with the label of a
        class of weight 0, counts nothing, whatever it holds.
    ignore_index : int, optional
        Rows with this class index count nothing: loss and gradient 0, whatever the row holds.
    label_smoothing : float in [0, 1]
        The share of the label that is spread evenly over all classes.
    z_loss : float, not negative
        Weight of the squared log-sum-exp; 0 with ``from_logits=False``.
    reduction : {"mean", "sum", "none"}
        The mean divides by the sum of the weights of the rows that count: sample weight times, for
        class indices, the class weight of the label. "none": one loss for each row.
    out : ndarray, optional
        Where the result goes: of its shape and dtype. After an error its contents are undefined.

    Returns
    -------
    scalar or ndarray
        Of the dtype of `logits`, but float32 for 16 bits; summed in double precision. The mean of
        no rows, or where all weights are 0, is nan.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, and for a value out of range.

    Notes
    -----
    The maximum m of a row is held out of the sum: with ``s = sum_j exp(x_j - m) - 1``, which is
    summed without the term that is 1, ``loss = T log1p(s) + sum_j t_j (m - x_j)`` with ``T = sum_j
    t_j`` has two terms that are not negative: the small loss of a confident row keeps all its
    digits. A row that holds nan or +inf, or -inf alone, has the loss nan.
    """
    return _evaluate(
        logits, labels, axis, from_logits, class_weight, sample_weight, ignore_index,
        label_smoothing, z_loss, reduction, out, True, False,
    )[0]  # fmt: skip


def cross_entropy_grad(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> Array:
    """Gradient of `cross_entropy` with respect to `logits`.

    The arguments, and what is raised, are those of `cross_entropy`.

    Parameters
    ----------
    out : ndarray, optional
        The gradient's place, of the shape and dtype of `logits`. It may be `logits` itself. After
        an error its contents are undefined.

    Returns
    -------
    ndarray
        Of the shape and dtype of `logits`; with "none", the gradient of the sum. From logits
        ``a ((T + 2 z_loss lse) p_j - t_j)``, from probabilities ``-a t_j / p_j``.

    Notes
    -----
    ``((T + 2 z_loss lse) exp(x_j - m) - t_j - t_j s) / (1 + s)``, in which nothing cancels where
    the maximum's own exponential is 1: see `cross_entropy`.

    In float16, numbers below 6e-8 are 0: the gradient of a mean over n rows loses all that is
    smaller than 6e-8 n before the division, so over many rows take ``reduction="sum"`` and scale
    what is made of the gradient, or float32 logits.
    """
    gradient: Array = _evaluate(
        logits, labels, axis, from_logits, class_weight, sample_weight, ignore_index,
        label_smoothing, z_loss, reduction, out, False, True,
    )[1]  # fmt: skip
    return gradient


def cross_entropy_value_and_grad(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    axis: int = -1,
    from_logits: bool = True,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[Any, Array]:
    """`cross_entropy` and its gradient, in one pass.

    The arguments, and what is raised, are those of `cross_entropy`.

    Parameters
    ----------
    out : ndarray, optional
        The gradient's place, of the shape and dtype of `logits`. It may be `logits` itself. After
        an error its contents are undefined.

    Returns
    -------
    (value, gradient)
        The very bits that `cross_entropy` and `cross_entropy_grad` give.
    """
    return _evaluate(
        logits, labels, axis, from_logits, class_weight, sample_weight, ignore_index,
        label_smoothing, z_loss, reduction, out, True, True,
    )  # fmt: skip


def _evaluate(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    axis: int,
    from_logits: bool,
    class_weight: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    ignore_index: int | None,
    label_smoothing: float,
    z_loss: float,
    reduction: Reduction,
    out: Array | None,
    wants_value: bool,
    wants_gradient: bool,
) -> tuple[Any, Any]:
    # What small batches are trained with goes the short way; whatever is not just so comes back.
    if (
        class_weight is sample_weight is None
        and (ignore_index is None or type(ignore_index) is int)
        and type(logits) is type(labels) is np.ndarray
        and logits.ndim == 2
        and type(label_smoothing) is type(z_loss) is float
        and label_smoothing == z_loss == 0
        and from_logits is True
        and (out is None or (wants_gradient and type(out) is np.ndarray))
        and type(axis) is int
        and axis in (-1, 1)
        and reduction in ("mean", "sum")
    ):
        gradient = out if out is not None or not wants_gradient else np.empty_like(logits)
        value = _plain(logits, labels, reduction == "mean", gradient, ignore_index)
        if value is not None:
            return logits.dtype.type(value), gradient
    x, at = _checks.rows_of_classes("logits", logits, axis)
    y, dense = _checks.labels_of(labels, x, at)
    skip = _checks.ignored(ignore_index, y, dense)
    smoothing = _checks.number("label_smoothing", label_smoothing, 0, 1)
    zeta = _checks.number("z_loss", z_loss, 0, math.inf)
    _checks.reduction_of(reduction)
    if zeta and not from_logits:
        raise ValueError(f"z_loss must be 0 where from_logits is False, got {z_loss}")
    shape, dtype = _checks.lead_shape(x, at), _checks.computed(x.dtype)
    inputs: tuple[Array, ...] = (y,)
    weights = by_class = None
    if sample_weight is not None:
        weights = _checks.sample_weight_of(sample_weight, shape, np.float64, at)
        inputs += (weights,)
    if class_weight is not None:
        by_class = _checks.class_weight_of(class_weight, x, at)
        inputs += (by_class,)
    losses = gradient = None
    if wants_gradient:
        gradient = _checks.output(out, x.shape, x.dtype, *inputs, logits=x)
    elif out is not None:
        out = _checks.output(out, shape if reduction == "none" else (), dtype, x, *inputs)
    if reduction == "none" and wants_value:
        losses = np.empty(shape, dtype) if wants_gradient or out is None else out
    loss, weight, bad_label, bad_weight = run(
        x, at, y, dense, by_class, weights, skip, smoothing, zeta, from_logits,
        reduction == "mean", losses, gradient,
    )  # fmt: skip
    if bad_label:
        _checks.fail_label(y, x.shape[at], skip)
    if bad_weight and weights is not None:
        _checks.fail_weight("sample_weight", weights, np.float64)
    if gradient is not None and reduction == "mean" and not weight:
        gradient.fill(0)
    if not wants_value:
        return None, gradient
    place = None if wants_gradient else out
    return _checks.result(loss, weight, reduction, dtype, losses, place), gradient


def run(
    x: Array,
    at: int,
    y: Array,
    dense: bool,
    by_class: Array | None,
    weights: Array | None,
    skip: int | None,
    smoothing: float,
    zeta: float,
    from_logits: bool,
    mean: bool,
    losses: Array | None,
    gradient: Array | None,
) -> tuple[float, float, bool, bool]:
    """Call the kernel with what was checked: see `_kernels.cross_entropy` for what it returns."""
    found: tuple[float, float, bool, bool] = _KERNELS(x.dtype)(
        _checks.rows(x, at),
        _checks.kind(x),
        _checks.rows(y, at) if dense else _checks.lead(y),
        _checks.kind(y),
        dense,
        None if by_class is None else _checks.rows(by_class, 0),
        None if weights is None else _checks.lead(weights),
        _checks.kind(weights),
        skip if skip is None or skip < 2**63 else skip - 2**64,
        smoothing,
        zeta,
        from_logits,
        mean,
        None if losses is None else _checks.lead(losses),
        None if gradient is None else _checks.rows(gradient, at),
    )
    return found
