"""Entropy, divergences and the test of a distribution: check, allocate, call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _distillation, _kernels

_DIVERGENCE = {
    np.dtype(np.float32): _kernels.divergence["float"],
    np.dtype(np.float64): _kernels.divergence["double"],
}
_ENTROPY, _KL, _JS = range(3)


def entropy(
    p: npt.ArrayLike, *, axis: int = -1, base: float | None = None, normalize: bool = False
) -> Any:
    """Entropy of each row, ``-sum_j p_j log p_j`` with ``0 log 0 = 0``.

    Parameters
    ----------
    p : array_like, floating, of 1 to 7 dimensions
        Probabilities along `axis`, taken as they are unless `normalize`. Integers and lists are
        taken as float64.
    axis : int
        The axis of a distribution.
    base : float, optional
        The base of the logarithm, positive and not 1: 2 gives bits. Nats by default.
    normalize : bool
        Divide each row by its sum first.

    Returns
    -------
    scalar or ndarray
        Of the dtype of `p`, float32 for 16 bits, and its shape without `axis`; nan where a row
        holds a negative number, before it is divided.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape or axis, and for a wrong base.

    Notes
    -----
    When normalising, the largest element's ``log(S / p)`` is log1p of the sum of the others over
    it, so that the small entropy of a nearly certain row keeps its digits.
    """
    x, at = _checks.rows_of_classes("p", p, axis)
    return _divergence(_ENTROPY, x, None, at, _checks.computed(x.dtype), base, normalize)


def kl_divergence(
    p: npt.ArrayLike,
    q: npt.ArrayLike,
    *,
    axis: int = -1,
    base: float | None = None,
    normalize: bool = False,
    from_logits: bool = False,
    temperature: float = 1.0,
) -> Any:
    """Kullback-Leibler divergence of each row, ``sum_j p_j log(p_j / q_j)``.

    A term with ``p_j = 0`` is 0, one with ``q_j = 0 < p_j`` is inf.

    Parameters
    ----------
    p, q : array_like, floating, of shapes that broadcast
        Probabilities along `axis`, taken as they are unless `normalize`; or logits.
    axis, base, normalize
        As of `entropy`.
    from_logits : bool
        Whether `p` and `q` are logits: equal ones have the divergence 0, close ones keep their
        digits, and it is never negative.
    temperature : float
        What logits are divided by, positive.

    Returns
    -------
    scalar or ndarray
        Of the common dtype, float32 for 16 bits, and the common shape without `axis`; nan where
        a row of probabilities holds a negative number.

    Raises
    ------
    TypeError, ValueError
        As of `entropy`.

    Notes
    -----
    When normalising, ``sum_j q_j - p_j``, which is 0 then, is added term by term. That makes every
    term positive and of second order in ``q_j - p_j``, so that the result is never negative and
    keeps its digits however close the two are.
    """
    return _between(_KL, p, q, axis, base, normalize, from_logits, temperature)


def js_divergence(
    p: npt.ArrayLike,
    q: npt.ArrayLike,
    *,
    axis: int = -1,
    base: float | None = None,
    normalize: bool = False,
    from_logits: bool = False,
    temperature: float = 1.0,
) -> Any:
    """Jensen-Shannon divergence of each row, ``(KL(p, m) + KL(q, m)) / 2``.

    ``m`` is ``(p + q) / 2``. It is symmetric and, of distributions, between 0 and ln 2.

    Parameters
    ----------
    p, q : array_like, floating, of shapes that broadcast
        Probabilities along `axis`, taken as they are unless `normalize`; or logits.
    axis, base, normalize
        As of `entropy`.
    from_logits, temperature
        As of `kl_divergence`.

    Returns
    -------
    scalar or ndarray
        Of the common dtype, float32 for 16 bits, and the common shape without `axis`; nan where
        a row of probabilities holds a negative number.

    Raises
    ------
    TypeError, ValueError
        As of `entropy`.

    Notes
    -----
    Each term is worked out from ``(p_j - q_j) / (p_j + q_j)``: none is negative, and the result
    keeps its digits however close the two are.
    """
    return _between(_JS, p, q, axis, base, normalize, from_logits, temperature)


def is_distribution(p: npt.ArrayLike, *, axis: int = -1, atol: float | None = None) -> Any:
    """Whether each row is a probability distribution: all in [0, 1], and the sum 1.

    Parameters
    ----------
    p : array_like, floating, of 1 to 7 dimensions
        Numbers along `axis`. Integers and lists are taken as float64.
    axis : int
        The axis of a distribution.
    atol : float, optional
        How far the sum may be from 1; the square root of the dtype's epsilon by default.

    Returns
    -------
    bool or ndarray of bool
        Of the shape of `p` without `axis`.

    Raises
    ------
    TypeError, ValueError
        As of `entropy`.
    """
    x, at = _checks.rows_of_classes("p", p, axis)
    if atol is None:
        atol = math.sqrt(_checks.epsilon(x))
    tolerance = _checks.number("atol", atol, 0, math.inf)
    out = np.empty(_checks.lead_shape(x, at), np.bool_)
    view = _checks.rows(x, at)
    place = _checks.lead(out.view(np.uint8))
    _kernels.is_distribution(view, _checks.kind(x), place, view.shape, tolerance)
    return out if out.ndim else bool(out[()])


def _between(
    what: int,
    p: npt.ArrayLike,
    q: npt.ArrayLike,
    axis: int,
    base: float | None,
    normalize: bool,
    from_logits: bool,
    temperature: float,
) -> Any:
    x, y = _checks.real("p", p), _checks.real("q", q)
    for name, a in (("p", x), ("q", y)):
        if not a.ndim:
            raise ValueError(f"{name} must have 1 to {_checks.MOST_AXES} dimensions, got 0")
    if x.shape != y.shape:
        try:
            x, y = np.broadcast_arrays(x, y)
        except ValueError:
            raise ValueError(
                f"q must have a shape that broadcasts with p's {x.shape}, got {y.shape}"
            ) from None
    x, at = _checks.rows_of_classes("p", x, axis)
    dtype = np.result_type(_checks.computed(x.dtype), _checks.computed(y.dtype))
    scale = _distillation.inverse_temperature(temperature)
    if not from_logits:
        if scale != 1:
            raise ValueError(f"temperature must be 1 unless from_logits, got {temperature}")
        return _divergence(what, x, y, at, dtype, base, normalize)
    if normalize:
        raise ValueError("normalize must be False where from_logits is True, got True")
    out = np.empty(_checks.lead_shape(x, at), dtype)
    towards = _distillation.FORWARD if what == _KL else _distillation.SYMMETRIC
    _distillation.diverge(towards, x, y, at, dtype, scale, None, out, None, 1)
    out /= _checks.unit_of(base)
    return out if out.ndim else out[()]


def _divergence(
    what: int,
    p: npt.NDArray[Any],
    q: npt.NDArray[Any] | None,
    axis: int,
    dtype: Any,
    base: float | None,
    normalize: bool,
) -> Any:
    unit = _checks.unit_of(base)
    out = np.empty(_checks.lead_shape(p, axis), dtype)
    view = _checks.rows(p, axis)
    _DIVERGENCE[dtype](
        what,
        view,
        _checks.kind(p),
        None if q is None else _checks.rows(q, axis),
        _checks.kind(q),
        _checks.lead(out),
        view.shape,
        normalize,
        unit,
    )
    return out if out.ndim else out[()]
