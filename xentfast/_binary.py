"""Binary cross-entropy: check, allocate, call, reduce."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _kernels
from xentfast._checks import Array, Reduction

_KERNELS = _checks.by_dtype(_kernels.binary_cross_entropy)


def binary_cross_entropy(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    from_logits: bool = True,
    pos_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> Any:
    """Binary cross-entropy, element by element, in nats.

    With ``softplus(x) = log(1 + exp(x))``, t the label and q the weight of the positive class::

        t    <-  t (1 - label_smoothing) + label_smoothing / 2
        loss  =  a (q t softplus(-x) + (1 - t) softplus(x))         from logits
        loss  =  a (-q t log p - (1 - t) log(1 - p))                from probabilities

    Parameters
    ----------
    logits : array_like, floating, of at most 6 dimensions
        Logits of the positive class, or with ``from_logits=False`` its probabilities, which are not
        clipped: float16, bfloat16 (of ml_dtypes), float32 or float64; integers and lists are taken
        as float64.
    labels : array_like of the shape of `logits`
        Floating in [0, 1], or integers or booleans that are 0 or 1.
    from_logits : bool
        False: `logits` holds probabilities. One outside [0, 1] makes its entry nan; by 8 units of
        the last place above 1, which rounding may leave, it counts as 1.
    pos_weight : array_like, scalar or broadcastable to the shape of `logits`, optional
        ``q``: not negative, and finite in the dtype of the result.
    sample_weight : array_like, scalar or broadcastable to the shape of `logits`, optional
        ``a``: not negative, and finite in the dtype of the result, in which it is taken. An entry
        of weight 0 counts nothing, whatever it holds.
    label_smoothing : float in [0, 1]
        Moves the labels towards 1/2.
    reduction : {"mean", "sum", "none"}
        The mean divides by the sum of the sample weights, their number where there are none.
    out : ndarray, optional
        Where the result goes: of its shape and dtype. After an error its contents are undefined.

    Returns
    -------
    scalar or ndarray
        Of the dtype of `logits`, but float32 for 16 bits; summed in double precision. The mean of
        no elements is nan.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, and for a value out of range.

    Notes
    -----
    ``softplus(x) = max(x, 0) + log1p(exp(-|x|))`` is exact at both ends. A factor of 0 makes its
    term 0, even against inf: a logit of +inf with the label 1 has the loss 0.
    """
    return _evaluate(
        logits, labels, from_logits, pos_weight, sample_weight, label_smoothing, reduction, out,
        True, False,
    )[0]  # fmt: skip


def binary_cross_entropy_grad(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    from_logits: bool = True,
    pos_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> Array:
    """Gradient of `binary_cross_entropy` with respect to `logits`.

    The arguments, and what is raised, are those of `binary_cross_entropy`.

    Parameters
    ----------
    out : ndarray, optional
        The gradient's place, of the shape and dtype of `logits`. It may be `logits` itself. After
        an error its contents are undefined.

    Returns
    -------
    ndarray
        Of the shape and dtype of `logits`; with "none", the gradient of the sum. From logits
        ``a ((1 - t) sigmoid(x) - q t sigmoid(-x))``, from probabilities
        ``a ((1 - t) / (1 - p) - q t / p)``.
    """
    gradient: Array = _evaluate(
        logits, labels, from_logits, pos_weight, sample_weight, label_smoothing, reduction, out,
        False, True,
    )[1]  # fmt: skip
    return gradient


def binary_cross_entropy_value_and_grad(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    from_logits: bool = True,
    pos_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[Any, Array]:
    """`binary_cross_entropy` and its gradient, in one pass.

    The arguments, and what is raised, are those of `binary_cross_entropy`.

    Parameters
    ----------
    out : ndarray, optional
        The gradient's place, of the shape and dtype of `logits`. It may be `logits` itself. After
        an error its contents are undefined.

    Returns
    -------
    (value, gradient)
        The very bits that `binary_cross_entropy` and `binary_cross_entropy_grad` give.
    """
    return _evaluate(
        logits, labels, from_logits, pos_weight, sample_weight, label_smoothing, reduction, out,
        True, True,
    )  # fmt: skip


def _evaluate(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    from_logits: bool,
    pos_weight: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    label_smoothing: float,
    reduction: Reduction,
    out: Array | None,
    wants_value: bool,
    wants_gradient: bool,
) -> tuple[Any, Any]:
    x = _checks.elements("logits", logits)
    t = _checks.binary_labels_of(labels, x)
    smoothing = _checks.number("label_smoothing", label_smoothing, 0, 1)
    _checks.reduction_of(reduction)
    shape, dtype = x.shape, _checks.computed(x.dtype)
    inputs: tuple[Array, ...] = (t,)
    positive = weights = None
    if pos_weight is not None:
        positive = _checks.pos_weight_of(pos_weight, x)
        inputs += (positive,)
    if sample_weight is not None:
        weights = _checks.sample_weight_of(sample_weight, shape, dtype)
        inputs += (weights,)
    losses = gradient = None
    if wants_gradient:
        gradient = _checks.output(out, shape, x.dtype, *inputs, logits=x)
    elif out is not None:
        out = _checks.output(out, shape if reduction == "none" else (), dtype, x, *inputs)
    if reduction == "none" and wants_value:
        losses = np.empty(shape, dtype) if wants_gradient or out is None else out
    views = [None if a is None else _checks.lead(a) for a in (x, t, positive, weights)]
    kinds = [_checks.kind(a) for a in (x, t, positive, weights)]
    loss, weight, bad_label, bad_weight = _KERNELS(x.dtype)(
        *(part for pair in zip(views, kinds, strict=True) for part in pair),
        smoothing,
        from_logits,
        reduction == "mean",
        None if losses is None else _checks.lead(losses),
        None if gradient is None else _checks.lead(gradient),
    )
    if bad_label:
        _checks.fail_binary_label(t)
    if bad_weight and weights is not None:
        _checks.fail_weight("sample_weight", weights, dtype)
    if gradient is not None and reduction == "mean" and not weight:
        gradient.fill(0)
    if not wants_value:
        return None, gradient
    place = None if wants_gradient else out
    return _checks.result(loss, weight, reduction, dtype, losses, place), gradient
