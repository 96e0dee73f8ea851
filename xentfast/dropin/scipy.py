"""`scipy.stats.entropy`, and `logsumexp`, `softmax` and `log_softmax` of `scipy.special`.

Better than there, on purpose: 16 bits are worked out in float32 and rounded once, so that no sum
overflows; narrow integers are float64; a log-probability near 0, and the entropy of a nearly
certain row, keep their digits; a result of nan comes without a warning.

Left out: the weights `b` of `logsumexp`; long double, complex, object and masked arrays; and
`entr`, `rel_entr` and `kl_div`, which have no rows: there is no kernel for single entries. Several
axes at once, or `axis` None, take a copy where their entries are not next to each other in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import xentfast

Array = npt.NDArray[Any]


def entropy(
    pk: npt.ArrayLike,
    qk: npt.ArrayLike | None = None,
    base: float | None = None,
    axis: int | tuple[int, ...] | None = 0,
    *,
    nan_policy: str = "propagate",
    keepdims: bool = False,
) -> Any:
    """Entropy of `pk`, or its divergence from `qk`, along `axis`; each is divided by its sum.

    Only rows for which the kernel has no entropy are looked at again: for negative numbers, which
    make the entropy -inf and the divergence inf, and for what `nan_policy` says of nan.
    """
    policies = {"propagate", "raise", "omit"}
    if nan_policy not in policies:
        raise ValueError(f"nan_policy must be one of {policies}.")
    if base is not None and base <= 0:
        raise ValueError("`base` must be a positive number or `None`.")
    given = [_real(a) for a in ((pk,) if qk is None else (pk, qk))]
    dtype, ndim = np.result_type(np.float32, *given), max(a.ndim for a in given)
    if axis is None:
        given = [a.ravel() for a in given]
    try:
        given = list(np.broadcast_arrays(*given))
    except ValueError:
        raise ValueError("Array shapes are incompatible for broadcasting.") from None
    shape = (1,) * ndim if axis is None else _kept(given[0], axis)
    p, *q = (_rows(a, axis) for a in given)
    if p.shape[-1] == 0:
        result = np.zeros(p.shape[:-1], dtype)
    elif q:
        result = np.asarray(xentfast.kl_divergence(p, *q, normalize=True))
    else:
        result = np.asarray(xentfast.entropy(p, normalize=True))
    again = np.isnan(result) if q else ~(result >= 0)
    if again.any():
        p, *q = (a[again].astype(np.float64) for a in (p, *q))
        missing = np.isnan(p + q[0] if q else p)
        if nan_policy == "raise" and missing.any():
            raise ValueError("The input contains nan values")
        if nan_policy == "omit":
            p, *q = (np.where(missing, 0, a) for a in (p, *q))
        result[again] = _by_definition(p, *q)
        if nan_policy == "omit":
            result[again] = np.where(missing.all(axis=-1), 0, result[again])
    result = result.astype(dtype, copy=False)[()]
    if base is not None:
        result = result / math.log(base)
    return result.reshape(shape) if keepdims else result


def _by_definition(p: Array, q: Array | None = None) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        p = p / p.sum(axis=-1, keepdims=True)
        if q is None:
            terms = np.where(p < 0, -np.inf, np.where(p == 0, 0, -p * np.log(p)))
        else:
            q = q / q.sum(axis=-1, keepdims=True)
            terms = np.where(p == 0, 0, np.where(q == 0, np.inf, p * np.log(p / q)))
            terms = np.where((p < 0) | (q < 0), np.inf, terms)
            terms = np.where(np.isnan(q), np.nan, terms)
        return np.asarray(terms.sum(axis=-1))


def logsumexp(
    a: npt.ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    b: None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> Any:
    """Logarithm of the sum of the exponentials; its sign is 1, or 0 where it is -inf."""
    if b is not None:
        raise NotImplementedError("b must be None: weights are left to scipy.special.logsumexp")
    x = _real(a)
    rows = _rows(x, axis)
    if rows.shape[-1] == 0:
        result = np.full(rows.shape[:-1], -np.inf, x.dtype)
    else:
        result = np.asarray(xentfast.logsumexp(rows), x.dtype)
    if keepdims:
        result = result.reshape(_kept(x, axis))
    if not return_sign:
        return result[()]
    sign = np.where(np.isnan(result), np.nan, result > -np.inf).astype(x.dtype)
    return result[()], sign[()]


def softmax(x: npt.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Exponentials divided by their sum."""
    return _written(xentfast.softmax, x, axis)


def log_softmax(x: npt.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Logarithm of `softmax`: beside +inf, which is nan itself, -inf."""

    def write(rows: Array, out: Array) -> None:
        xentfast.log_softmax(rows, out=out)
        again = np.isnan(out[..., 0])
        if again.any():
            odd = rows[again]
            beside = (odd < np.inf) & (odd.max(axis=-1, keepdims=True) == np.inf)
            out[again] = np.where(beside, -np.inf, np.nan)

    return _written(write, x, axis)


def _real(a: npt.ArrayLike) -> Array:
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError("arrays must be plain, got MaskedArray")
    x = np.atleast_1d(np.asarray(a))
    return x.astype(np.float64 if x.dtype.kind in "biu" else x.dtype.newbyteorder("="), copy=False)


def _axes(x: Array, axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(x.ndim))
    return axis if isinstance(axis, tuple) else (axis,)


def _rows(x: Array, axis: int | tuple[int, ...] | None) -> Array:
    """View the axes as one, the last."""
    axes = _axes(x, axis)
    moved = np.moveaxis(x, axes, range(-len(axes), 0))
    if len(axes) == 1:
        return moved
    lead = moved.shape[: x.ndim - len(axes)]
    return moved.reshape(*lead, math.prod(moved.shape[len(lead) :]))


def _written(write: Callable[..., Any], x: npt.ArrayLike, axis: Any) -> Any:
    """Return an array laid out as x, with its rows written."""
    a = _real(x)
    result = np.empty_like(a)
    places = _rows(result, axis)
    write(_rows(a, axis), out=places)
    if not np.may_share_memory(places, result):
        axes = _axes(a, axis)
        moved = np.moveaxis(result, axes, range(-len(axes), 0))
        moved[...] = places.reshape(moved.shape)
    return result.reshape(np.shape(x))[()]


def _kept(x: Array, axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    ones = {i % x.ndim for i in _axes(x, axis)}
    return tuple(1 if i in ones else n for i, n in enumerate(x.shape))
