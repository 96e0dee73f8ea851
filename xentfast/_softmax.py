"""The normaliser itself: check, allocate, call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from xentfast import _checks, _kernels
from xentfast._checks import Array

_KERNELS = _checks.by_dtype(_kernels.softmax)
_LOGSUMEXP, _SOFTMAX, _LOG_SOFTMAX = range(3)


def logsumexp(x: npt.ArrayLike, *, axis: int = -1) -> Any:
    """``log sum_j exp(x_j)`` of each row, in nats.

    Parameters
    ----------
    x : array_like, floating, of 1 to 7 dimensions
        Logits along `axis`: float16, bfloat16 (of ml_dtypes), float32 or float64; integers and
        lists are taken as float64.
    axis : int
        The class axis.

    Returns
    -------
    scalar or ndarray
        Of the dtype of `x`, float32 for 16 bits, and its shape without `axis`: +inf where a row
        holds it, -inf where it holds nothing else, nan where it holds nan.

    Raises
    ------
    TypeError
        For an argument of the wrong kind or dtype.
    ValueError
        For a wrong shape or axis.

    Notes
    -----
    ``m + log1p(s)`` with m the maximum and ``s = sum_j exp(x_j - m) - 1``, summed without the term
    that is 1.
    """
    a, at = _checks.rows_of_classes("x", x, axis)
    out = np.empty(_checks.lead_shape(a, at), _checks.computed(a.dtype))
    _KERNELS(a.dtype)(_checks.rows(a, at), _checks.kind(a), _checks.lead(out), _LOGSUMEXP)
    return out if out.ndim else out[()]


def softmax(x: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """``exp(x_j) / sum_k exp(x_k)`` of each row.

    Parameters
    ----------
    x, axis
        As of `logsumexp`.
    out : ndarray, optional
        Where the result goes, of the shape and dtype of `x`. It may be `x` itself.

    Returns
    -------
    ndarray
        Of the shape and dtype of `x`; nan throughout a row that holds nan or +inf, or -inf alone.

    Raises
    ------
    TypeError, ValueError
        As of `logsumexp`.
    """
    return _write(_SOFTMAX, x, axis, out)


def log_softmax(x: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """``x_j - log sum_k exp(x_k)`` of each row, in nats.

    Parameters
    ----------
    x, axis, out
        As of `softmax`.

    Returns
    -------
    ndarray
        Of the shape and dtype of `x`; nan throughout a row that holds nan or +inf, or -inf alone.

    Raises
    ------
    TypeError, ValueError
        As of `logsumexp`.

    Notes
    -----
    ``(x_j - m) - log1p(s)``, two terms of one sign: see `logsumexp`.
    """
    return _write(_LOG_SOFTMAX, x, axis, out)


def _write(what: int, x: npt.ArrayLike, axis: int, out: Array | None) -> Array:
    a, at = _checks.rows_of_classes("x", x, axis)
    result = _checks.output(out, a.shape, a.dtype, x=a)
    _KERNELS(a.dtype)(_checks.rows(a, at), _checks.kind(a), _checks.rows(result, at), what)
    return result
