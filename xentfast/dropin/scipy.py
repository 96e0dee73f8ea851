"""What SciPy has of entropies, divergences and softmax, under its names.

`entropy` of `scipy.stats`; `logsumexp`, `softmax`, `log_softmax`, `entr`, `rel_entr`, `kl_div` and
`xlogy` of `scipy.special`; `jensenshannon` of `scipy.spatial.distance`. Better than there, on
purpose: 16 bits are worked out in float32 and rounded once, so that no sum overflows; narrow
integers are float64; a log-probability near 0, the entropy of a nearly certain row, `kl_div` and
`jensenshannon` of what is close, and a sum whose largest terms cancel keep their digits; a result
of nan comes without a warning. `xlogy` has the dtypes of SciPy 1.18: before, it knew float32 only
where both arguments are arrays of it.

What is left goes to SciPy itself, which is imported for it: complex, masked, object and long double
arrays, more than seven axes, and of the elementwise functions, which are no ufuncs here, arrays of
other libraries and the arguments that only ufuncs have. Several axes at once, or `axis` None, take
a copy where their entries are not next to each other in memory.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import xentfast
from xentfast import _checks, _kernels

Array = npt.NDArray[Any]

_TERMS = ("entr", "rel_entr", "kl_div", "xlogy")  # as xf_term of src/rows/rows.h
_TERMS_OF = {
    np.dtype(np.float32): _kernels.terms["float"],
    np.dtype(np.float64): _kernels.terms["double"],
}
_BUFFER = 2**14  # entries that are broadcast, gathered or converted at a time


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
    if _left(pk, qk):
        options = {"nan_policy": nan_policy, "keepdims": keepdims}
        return _scipy("scipy.stats", "entropy")(pk, qk, base, axis, **options)
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
    with np.errstate(all="ignore"):
        p = p / p.sum(axis=-1, keepdims=True)
        if q is None:
            terms = np.where(p < 0, -np.inf, np.where(p == 0, 0, -p * np.log(p)))
        else:
            q = q / q.sum(axis=-1, keepdims=True)
            terms = np.where(p == 0, 0, np.where(q == 0, np.inf, p * np.log(p / q)))
            terms = np.where((p < 0) | (q < 0), np.inf, terms)
            terms = np.where(np.isnan(q), np.nan, terms)
        return np.asarray(terms.sum(axis=-1))


def jensenshannon(
    p: npt.ArrayLike,
    q: npt.ArrayLike,
    base: float | None = None,
    *,
    axis: int | tuple[int, ...] | None = 0,
    keepdims: bool = False,
) -> Any:
    """Root of the Jensen-Shannon divergence along `axis`; `p` and `q` are divided by their sums."""
    if _left(p, q):
        options: dict[str, Any] = {"axis": axis, "keepdims": keepdims}
        return _scipy("scipy.spatial.distance", "jensenshannon")(p, q, base, **options)
    x, y = (_real(np.asarray(a)) for a in (p, q))
    normalize = x.shape == y.shape
    with np.errstate(all="ignore"):
        if not normalize:  # each has sums of its own
            x, y = (a / np.sum(a, axis=axis, keepdims=True) for a in (x, y))
            x, y = np.broadcast_arrays(x, y)
        shape = _kept(x, axis)
        dtype = np.result_type(np.float32, x, y)
        x, y = _rows(x, axis), _rows(y, axis)
        if x.shape[-1] == 0:
            result = np.zeros(x.shape[:-1], dtype)
        else:
            result = np.asarray(xentfast.js_divergence(x, y, normalize=normalize))
        again = np.isnan(result)
        if again.any():  # negative numbers make it inf
            x, y = (a[again].astype(np.float64) for a in (x, y))
            if normalize:
                x, y = (a / a.sum(axis=-1, keepdims=True) for a in (x, y))
            middle = (x + y) / 2
            result[again] = (rel_entr(x, middle) + rel_entr(y, middle)).sum(axis=-1) / 2
        result = result.astype(dtype, copy=False).reshape(shape if keepdims else result.shape)[()]
        if base is not None:
            result /= np.log(base)
        return np.sqrt(result)


def logsumexp(
    a: npt.ArrayLike,
    axis: int | tuple[int, ...] | None = None,
    b: npt.ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> Any:
    """Logarithm of the sum of the exponentials, each times its `b`; and the sum's sign."""
    if _left(a, b):
        return _scipy("scipy.special", "logsumexp")(a, axis, b, keepdims, return_sign)
    if b is None:
        x = _real(a)
    else:
        dtype = _promoted(a, b)
        dtype = np.dtype(np.float64) if dtype.kind in "biu" else dtype
        x, w = (_real(np.asarray(c)) for c in np.broadcast_arrays(a, b))
        x, w = x.astype(dtype, copy=False), w.astype(dtype, copy=False)
    rows = _rows(x, axis)
    if rows.shape[-1] == 0:
        result = np.full(rows.shape[:-1], -np.inf, x.dtype)
        sign = np.sign(result)
    elif b is None:
        result = np.asarray(xentfast.logsumexp(rows), x.dtype)
        sign = np.where(np.isnan(result), np.nan, result > -np.inf)
    else:
        result, sign = _weighted(rows, _rows(w, axis))
        result = result if return_sign else np.where(sign < 0, np.nan, result)
    result, sign = (
        c.astype(x.dtype, copy=False).reshape(_kept(x, axis) if keepdims else c.shape)[()]
        for c in (result, sign)
    )
    return (result, sign) if return_sign else result


def _weighted(a: Array, b: Array) -> tuple[Array, Array]:
    """Return log |sum_j b_j exp(a_j)| and the sum's sign; the largest terms stand apart.

    What `b` has as 0 counts nothing, whatever it is in `a`.
    """
    work = _checks.computed(a.dtype)
    a, b = a.astype(work, copy=False), b.astype(work, copy=False)
    with np.errstate(all="ignore"):
        d = np.where(b == 0, -np.inf, a)
        top = d.max(axis=-1, keepdims=True)
        held = d == top
        d -= top
        most = np.sum(b, axis=-1, where=held)
        rest = np.sum(np.where(held, 0, b * np.exp(d)), axis=-1)
        total = np.asarray(most + rest)
        logarithm = np.where(
            np.abs(rest) < np.abs(most) / 2,
            np.log(np.abs(most)) + np.log1p(rest / most),
            np.log(np.abs(total)),
        )
        logarithm += top[..., 0]
        odd = ~np.isfinite(top[..., 0])
        if odd.any():  # by definition, for what infinities make of it
            total[odd] = (b[odd] * np.exp(a[odd])).sum(axis=-1)
            logarithm[odd] = np.log(np.abs(total[odd]))
    return logarithm, np.sign(total)


def softmax(x: npt.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Exponentials divided by their sum."""
    if _left(x):
        return _scipy("scipy.special", "softmax")(x, axis)
    return _written(xentfast.softmax, x, axis)


def log_softmax(x: npt.ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Logarithm of `softmax`: beside +inf, which is nan itself, -inf."""
    if _left(x):
        return _scipy("scipy.special", "log_softmax")(x, axis)

    def write(rows: Array, out: Array) -> None:
        xentfast.log_softmax(rows, out=out)
        again = np.isnan(out[..., 0])
        if again.any():
            odd = rows[again]
            beside = (odd < np.inf) & (odd.max(axis=-1, keepdims=True) == np.inf)
            out[again] = np.where(beside, -np.inf, np.nan)

    return _written(write, x, axis)


def entr(x: npt.ArrayLike, out: Any = None, /, **options: Any) -> Any:
    """Return -x log x of each entry: 0 at 0, -inf below."""
    return _each("entr", (x,), out, options)


def rel_entr(x: npt.ArrayLike, y: npt.ArrayLike, out: Any = None, /, **options: Any) -> Any:
    """Return x log(x / y) of each entry: 0 where x is 0, inf where one is negative or y is 0."""
    return _each("rel_entr", (x, y), out, options)


def kl_div(x: npt.ArrayLike, y: npt.ArrayLike, out: Any = None, /, **options: Any) -> Any:
    """Return x log(x / y) - x + y of each entry: y where x is 0, inf as for `rel_entr`."""
    return _each("kl_div", (x, y), out, options)


def xlogy(x: npt.ArrayLike, y: npt.ArrayLike, out: Any = None, /, **options: Any) -> Any:
    """Return x log y of each entry: 0 where x is 0 and y not nan."""
    return _each("xlogy", (x, y), out, options)


def _each(name: str, given: tuple[Any, ...], out: Any, options: dict[str, Any]) -> Any:
    x, y = given[0], given[-1]
    if out is None and not options and type(x) is type(y) is np.ndarray:
        plain = x.dtype == y.dtype and x.dtype in _TERMS_OF and x.shape == y.shape
        if plain and x.flags.c_contiguous and y.flags.c_contiguous and x.ndim:
            result = np.empty_like(x)
            flat = (a.reshape(-1) for a in (x, y, result))
            _TERMS_OF[x.dtype](_TERMS.index(name), *flat)
            return result
    if out is None:
        out = options.pop("out", None)
    (place,) = out if isinstance(out, tuple) else (out,)
    others = [a for a in (*given, place) if type(a) is not np.ndarray]
    ufuncs = any(hasattr(a, "__array_ufunc__") and not isinstance(a, np.generic) for a in others)
    arrays = [] if ufuncs else [np.asarray(a) for a in given]
    if options or ufuncs or not all(_is_real(a) and a.dtype.kind != "V" for a in arrays):
        return _scipy("scipy.special", name)(*given, out=out, **options)
    dtype = np.result_type(np.float32, _promoted(*given))
    nditer: Any = np.nditer  # whose types do not know "contig"
    walk = nditer(
        [*arrays, place],
        ["external_loop", "buffered", "grow_inner", "zerosize_ok", "copy_if_overlap"],
        [*([["readonly", "contig"]] * len(arrays)), ["writeonly", "allocate", "contig"]],
        op_dtypes=[dtype] * (len(arrays) + 1),
        casting="same_kind",
        buffersize=_BUFFER,
    )
    with walk:
        result = walk.operands[-1]
        for x, *rest, to in walk:
            _TERMS_OF[dtype](_TERMS.index(name), x, *(rest or [x]), to)
    return result[()] if place is None else place


def _is_real(a: Array) -> bool:
    kind = _checks.kind_of(a.dtype.newbyteorder("="))
    return kind is not None or a.dtype.kind == "b"


def _left(*arrays: Any) -> bool:
    """Whether the arrays are left to SciPy: None, and what are no arrays of numbers, are not."""
    for a in arrays:
        if isinstance(a, np.ma.MaskedArray | np.matrix):
            return True
        x = np.asarray(a)
        if a is not None and (x.ndim > _checks.MOST_AXES or not _is_real(x)):
            return True
    return False


def _scipy(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        raise NotImplementedError(
            f"{name} of such arguments is left to {module}, which is not installed"
        ) from None


def _promoted(*given: Any) -> np.dtype[Any]:
    """Return the common dtype; Python's numbers take that of arrays beside them."""
    weak = [a for a in given if type(a) in (bool, int, float)]
    strong = [np.asarray(a).dtype for a in given if type(a) not in (bool, int, float)]
    return np.result_type(*strong, *(weak if strong else map(np.asarray, weak)))


def _real(a: npt.ArrayLike) -> Array:
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
