"""Divergences of logits and their gradients, to train a model from another: check, call, reduce."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _exact, _kernels
from xentfast._checks import Array, Reduction

FORWARD, REVERSE, SYMMETRIC = range(3)  # xf_towards of src/rows/rows.h


def inverse_temperature(temperature: object) -> float:
    """Return what logits are multiplied by."""
    t = _checks.number("temperature", temperature, 0, math.inf)
    if t == 0 or math.isinf(1 / t):
        raise ValueError(f"temperature must be more than 0, got {temperature}")
    return 1 / t


def diverge(
    towards: int,
    p: Array,
    q: Array,
    axis: int,
    dtype: Any,
    scale: float,
    weights: Array | None,
    out: Array | None,
    gradient: Array | None,
    gradient_scale: float,
) -> float:
    """Write the divergences of the rows and their gradient, and return the weighted sum."""
    view = _checks.rows(q, axis)
    total, bad_weight = _kernels.logit_divergence(
        towards,
        _checks.rows(p, axis),
        _checks.kind(p),
        view,
        _checks.kind(q),
        _checks.kind_of(dtype),
        scale,
        None if weights is None else _checks.lead(weights),
        _checks.kind(weights),
        None if out is None else _checks.lead(out),
        None if gradient is None else _checks.rows(gradient, axis),
        gradient_scale,
        view.shape,
    )
    if bad_weight and weights is not None:
        _checks.fail_weight("sample_weight", weights, np.float64)
    return _exact.Sum(*total).over(_exact.ONE)


def kl_divergence_value_and_grad(
    p: npt.ArrayLike,
    q: npt.ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    reverse: bool = False,
    sample_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[Any, Array]:
    """Kullback-Leibler divergence of logits, and its gradient with respect to those of `q`.

    Parameters
    ----------
    p, q : array_like, floating, of one shape of 1 to 7 dimensions
        Logits along `axis`, of the teacher and of the student: float16, bfloat16 (of ml_dtypes),
        float32 or float64; integers and lists are taken as float64. `q` decides what is computed
        in.
    axis : int
        The class axis.
    temperature : float
        What both are divided by, positive. The usual factor of its square is left to the caller.
    reverse : bool
        ``KL(q, p)``, which seeks a mode, instead of ``KL(p, q)``, which covers them.
    sample_weight : array_like, optional
        A finite weight >= 0 for each row, of the shape of `q` without `axis`, or a scalar. A row of
        weight 0, or False in a mask, counts as nothing, whatever it holds.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights. "none": one divergence for each row.
    out : ndarray, optional
        The gradient's place, of the shape and dtype of `q`. It may be `q` itself. After an error
        its contents are undefined.

    Returns
    -------
    (value, gradient)
        The value as of `cross_entropy`, nan for the mean of nothing; the gradient of the shape and
        dtype of `q`, with "none" that of the sum.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, and for a value out of range.

    Notes
    -----
    ``sum p (u + expm1(-u))`` with ``u = log p - log q`` from the differences of the logits: no term
    is negative, equal rows give 0 and a gradient of 0, and close ones keep their digits. The
    gradient is ``(q - p) / temperature``, or ``q (log q - log p - KL(q, p)) / temperature``.
    """
    return _value_and_grad(
        REVERSE if reverse else FORWARD, p, q, axis, temperature, sample_weight, reduction, out
    )


def js_divergence_value_and_grad(
    p: npt.ArrayLike,
    q: npt.ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    sample_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[Any, Array]:
    """Jensen-Shannon divergence of logits, and its gradient with respect to those of `q`.

    The arguments, and what is raised, are those of `kl_divergence_value_and_grad`.

    Parameters
    ----------
    out : ndarray, optional
        The gradient's place, of the shape and dtype of `q`. It may be `q` itself. After an error
        its contents are undefined.

    Returns
    -------
    (value, gradient)
        As of `kl_divergence_value_and_grad`.

    Notes
    -----
    The gradient is ``q (log(q / m) - KL(q, m)) / (2 temperature)``, where ``m = (p + q) / 2``.
    """
    return _value_and_grad(SYMMETRIC, p, q, axis, temperature, sample_weight, reduction, out)


def _value_and_grad(
    towards: int,
    p: npt.ArrayLike,
    q: npt.ArrayLike,
    axis: int,
    temperature: float,
    sample_weight: npt.ArrayLike | None,
    reduction: Reduction,
    out: Array | None,
) -> tuple[Any, Array]:
    y, at = _checks.rows_of_classes("q", q, axis)
    x = _checks.real("p", p)
    if x.shape != y.shape:
        raise ValueError(f"p must have q's shape {y.shape}, got {x.shape}")
    scale = inverse_temperature(temperature)
    _checks.reduction_of(reduction)
    shape, dtype = _checks.lead_shape(y, at), _checks.computed(y.dtype)
    weights, inputs, total = None, [x], float(math.prod(shape))
    if sample_weight is not None:
        weights = _checks.sample_weight_of(sample_weight, shape, np.float64)
        _checks.bounded("sample_weight", weights, np.float64)
        inputs.append(weights)
        total = _total(weights)
    gradient = _checks.output(out, y.shape, y.dtype, *inputs, q=y)
    losses = np.empty(shape, dtype) if reduction == "none" else None
    by = 1 / total if total > 0 else 0
    value = diverge(
        towards, x, y, at, dtype, scale, weights, losses, gradient, by if reduction == "mean" else 1
    )
    return _checks.result(value, total, reduction, dtype, losses, None), gradient


def _total(weights: Array) -> float:
    """Return the sum of the weights, rounded once."""
    try:
        return math.fsum(weights.ravel().tolist())
    except OverflowError:
        return math.inf
