"""Divergences of logits and their gradients, to train a model from another: check, call, reduce."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _exact, _kernels
from xentfast._checks import Array, Reduction

FORWARD, REVERSE, SYMMETRIC = range(3)  # xf_towards of src/rows/rows.h

Rest: TypeAlias = Literal["renormalize", "class"]
_ROUNDING = 2.0**-6  # what the sum of probabilities of 16 bits may be off, whatever they are now in


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
    weights, total = _weights_of(sample_weight, shape)
    inputs = (x,) if weights is None else (x, weights)
    gradient = _checks.output(out, y.shape, y.dtype, *inputs, q=y)
    losses = np.empty(shape, dtype) if reduction == "none" else None
    by = 1 / total if total > 0 else 0
    value = diverge(
        towards, x, y, at, dtype, scale, weights, losses, gradient, by if reduction == "mean" else 1
    )
    return _checks.result(value, total, reduction, dtype, losses, None), gradient


def topk_kl_divergence(
    indices: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    logits: npt.ArrayLike,
    *,
    axis: int = -1,
    rest: Rest = "renormalize",
    temperature: float = 1.0,
    sample_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Any:
    """Divergence ``KL(p, q)`` of a student's logits from the top k of a teacher.

    Parameters
    ----------
    indices : array_like, integer
        Class indices, of the shape of `logits` with k in the place of the classes; k is free.
    probabilities : array_like, floating
        The teacher's probabilities of these classes, at the same temperature, of the shape of
        `indices`. An entry of 0 is left out whatever its index, so that it can fill up a row.
    logits : array_like, floating, of 1 to 7 dimensions
        The student's, along `axis`: float16, bfloat16 (of ml_dtypes), float32 or float64; integers
        and lists are taken as float64.
    axis : int
        The class axis.
    rest : {"renormalize", "class"}
        What becomes of ``r = 1 - sum_i p_i``. "renormalize": the probabilities are divided by their
        sum, ``sum_i p'_i log(p'_i / q_i)``, and classes that are not listed are pulled to 0.
        "class": all those together are one class, ``sum_i p_i log(p_i / q_i) + r log(r / q_r)``
        with ``q_r = 1 - sum_i q_i``: only their sum is taught.
    temperature : float
        What the logits are divided by, positive. The usual factor of its square is left to the
        caller.
    sample_weight : array_like, optional
        A finite weight >= 0 for each row, of the shape of `logits` without `axis`, or a scalar. A
        row of weight 0, or False in a mask, counts as nothing, whatever it holds.
    reduction : {"mean", "sum", "none"}
        "mean" divides by the sum of the weights. "none": one divergence for each row.

    Returns
    -------
    scalar or ndarray
        Of the dtype of `logits`, but float32 for 16 bits; nan for the mean of nothing, and for a
        row whose probabilities are all 0 where they are to be renormalized.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape, for a class that is out of range or listed twice, for a probability that
        is negative or not finite, and with "class" for a sum above 1 by more than 1/64.

    Notes
    -----
    The terms are ``p (u + expm1(-u))`` with ``u = log p - log q``, none of which is negative, and
    are added in double precision, as ``u`` is: to 1e-6 for float32 and 2e-14 for float64. The sum
    of what is not listed is taken by itself, so the small share that a good student leaves there
    keeps its digits. ``KL(q, p)`` is not offered: it is infinite where p is 0.
    """
    return _topk(
        indices, probabilities, logits, axis, rest, temperature, sample_weight, reduction, None,
        False,
    )[0]  # fmt: skip


def topk_kl_divergence_value_and_grad(
    indices: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    logits: npt.ArrayLike,
    *,
    axis: int = -1,
    rest: Rest = "renormalize",
    temperature: float = 1.0,
    sample_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> tuple[Any, Array]:
    """`topk_kl_divergence` and its gradient with respect to `logits`.

    The arguments, and what is raised, are those of `topk_kl_divergence`.

    Parameters
    ----------
    out : ndarray, optional
        The gradient's place, of the shape and dtype of `logits`. It may be `logits` itself. After
        an error its contents are undefined.

    Returns
    -------
    (value, gradient)
        The very bits of `topk_kl_divergence`; the gradient of the shape and dtype of `logits`, with
        "none" that of the sum: ``(q_i - p_i) / temperature`` where a class is listed, elsewhere
        ``q_j / temperature``, with "class" times ``1 - r / q_r``.
    """
    return _topk(
        indices, probabilities, logits, axis, rest, temperature, sample_weight, reduction, out,
        True,
    )  # fmt: skip


def _topk(
    indices: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    logits: npt.ArrayLike,
    axis: int,
    rest: Rest,
    temperature: float,
    sample_weight: npt.ArrayLike | None,
    reduction: Reduction,
    out: Array | None,
    wants_gradient: bool,
) -> tuple[Any, Any]:
    x, at = _checks.rows_of_classes("logits", logits, axis)
    shape, dtype = _checks.lead_shape(x, at), _checks.computed(x.dtype)
    index = _checks.array("indices", indices)
    if index.dtype.kind not in "iu":
        raise TypeError(f"indices must have an integer dtype, got {index.dtype}")
    if index.ndim != x.ndim or _checks.lead_shape(index, at) != shape:
        wanted = (*x.shape[:at], "k", *x.shape[at + 1 :])
        raise ValueError(f"indices must have shape {_written(wanted)}, got {index.shape}")
    p = _checks.widened(_checks.real("probabilities", probabilities))
    if p.shape != index.shape:
        raise ValueError(f"probabilities must have indices' shape {index.shape}, got {p.shape}")
    if rest not in ("renormalize", "class"):
        raise ValueError(f"rest must be 'renormalize' or 'class', got {rest!r}")
    scale = inverse_temperature(temperature)
    _checks.reduction_of(reduction)
    weights, total = _weights_of(sample_weight, shape)
    inputs = (index, p) if weights is None else (index, p, weights)
    gradient = _checks.output(out, x.shape, x.dtype, *inputs, logits=x) if wants_gradient else None
    losses = np.empty(shape, dtype) if reduction == "none" else None
    view, by = _checks.rows(x, at), 1 / total if total > 0 else 0
    found, *bad = _kernels.topk_divergence(
        view,
        _checks.kind(x),
        _checks.kind_of(dtype),
        _checks.rows(index, at),
        _checks.kind(index),
        _checks.rows(p, at),
        _checks.kind(p),
        rest == "class",
        _ROUNDING,
        scale,
        None if weights is None else _checks.lead(weights),
        _checks.kind(weights),
        None if losses is None else _checks.lead(losses),
        None if gradient is None else _checks.rows(gradient, at),
        by if reduction == "mean" else 1,
        view.shape,
        index.shape[at],
    )
    if any(bad):
        _fail_listed(index, p, at, x.shape[at], weights, bad)
    value = _exact.Sum(*found).over(_exact.ONE)
    return _checks.result(value, total, reduction, dtype, losses, None), gradient


def _written(shape: tuple[object, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _fail_listed(
    index: Array, p: Array, at: int, classes: int, weights: Array | None, bad: list[bool]
) -> None:
    """Raise for what the kernel has seen: see `_kernels.topk_divergence`."""
    out_of_range, twice, no_probability, too_much, no_weight = bad
    if no_weight and weights is not None:
        _checks.fail_weight("sample_weight", weights, np.float64)
    index, p = np.moveaxis(index, at, -1), np.moveaxis(p, at, -1)
    counts = p != 0
    if weights is not None:
        counts &= (weights != 0)[..., np.newaxis]
    if no_probability:
        fine = (p >= 0) & (p < math.inf)
        _checks.fail_first("probabilities", "be finite and >= 0", p, ~fine & counts)
    if out_of_range:
        beyond = ((index < 0) | (index > classes - 1)) & counts
        _checks.fail_first("indices", f"be in [0, {classes})", index, beyond)
    if twice:
        equal = (index[..., np.newaxis] == index[..., np.newaxis, :]) & counts[..., np.newaxis, :]
        again = (np.tril(equal, -1).any(axis=-1)) & counts
        _checks.fail_first("indices", "list a class once", index, again)
    if too_much:
        sums = np.where(counts, p, 0).sum(axis=-1, dtype=np.float64)
        most = sums == sums.max(initial=0)
        _checks.fail_first("probabilities", "sum to at most 1", sums, most)


def _weights_of(
    sample_weight: npt.ArrayLike | None, shape: tuple[int, ...]
) -> tuple[Array | None, float]:
    """Return the weights of the rows, and their sum, rounded once."""
    if sample_weight is None:
        return None, float(math.prod(shape))
    weights = _checks.sample_weight_of(sample_weight, shape, np.float64)
    _checks.bounded("sample_weight", weights, np.float64)
    try:
        return weights, math.fsum(weights.ravel().tolist())
    except OverflowError:
        return weights, math.inf
