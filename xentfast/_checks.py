"""The checks: everything a caller can get wrong is refused here, before a kernel sees it.

Each message is one sentence that names the argument, the rule and what came. The kernels take
arrays of seven axes, the class axis last; `rows` and `lead` make such views.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from xentfast import _kernels

Array: TypeAlias = npt.NDArray[Any]
Reduction: TypeAlias = Literal["mean", "sum", "none"]

MOST_AXES = 7
_ROWS = [(None,) * (MOST_AXES - n) + (Ellipsis,) for n in range(MOST_AXES + 1)]
_LEAD = [(None,) * (MOST_AXES - 1 - n) + (Ellipsis, None) for n in range(MOST_AXES)]

# What the loops call the dtypes: the enum `kind` of src/loops/layout.pxi.
_NAMES = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8", "f2")
_KINDS = {np.dtype(name): kind for kind, name in enumerate(_NAMES)}
_BFLOAT16_KIND = len(_NAMES)
_FLOATING = "must have dtype float16, bfloat16, float32 or float64"
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

# NumPy has no bfloat16 of its own. ml_dtypes' is taken by its name; arrays of other libraries come
# as 16 bits viewed as this dtype.
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])


def kind_of(dtype: Any) -> int | None:
    """Return what the loops call a dtype, None where they cannot read it."""
    kind = _KINDS.get(dtype)
    if kind is None and (dtype == BFLOAT16 or dtype.name == "bfloat16"):
        return _BFLOAT16_KIND
    return kind


def kind(a: Array | None) -> int:
    """Return what the loops call the dtype of an array that was checked; 0 for None."""
    return 0 if a is None else kind_of(a.dtype) or 0


def computed(dtype: Any) -> np.dtype[Any]:
    """Return the dtype that one is computed in: float32 for 16 bits."""
    return _FLOAT64 if dtype == _FLOAT64 else _FLOAT32


def epsilon(a: Array) -> float:
    """Return the distance from 1 to the next number of an array's floating dtype."""
    if kind_of(a.dtype) == _BFLOAT16_KIND:
        return 2.0**-7
    return float(np.finfo(a.dtype).eps)


def by_dtype(function: Any) -> Callable[[Any], Callable[..., Any]]:
    """Return what gives the specialisation of a fused kernel for the dtype stored."""
    float32, float64, half = (function[name] for name in ("float", "double", "uint16_t"))

    def specialised(dtype: Any) -> Callable[..., Any]:
        found: Callable[..., Any] = (
            float32 if dtype == _FLOAT32 else float64 if dtype == _FLOAT64 else half
        )
        return found

    return specialised


def _plain(name: str, a: object) -> None:
    # Where numpy.ma is not loaded yet, which takes memory and a deep stack, nothing is masked.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    if isinstance(a, (np.matrix, masked)):
        raise TypeError(f"{name} must be a plain array, got {type(a).__name__}")


def array(name: str, a: object) -> Array:
    """Return `a` as an ndarray in native byte order, read in place where that is possible."""
    x = a if type(a) is np.ndarray else _read(name, a)
    dtype = x.dtype
    if dtype in _KINDS:
        return x
    got = f"{name} must have a floating or integer dtype, got {dtype}"
    if dtype == np.dtype("V2") and dtype.type is np.void:  # what np.load makes of bfloat16
        raise TypeError(f"{got}: if these are bfloat16, use .view(ml_dtypes.bfloat16)")
    if dtype == np.object_ and hasattr(a, "to_numpy"):  # of pandas, with a dtype of its own
        cast = "int" if name == "labels" else "float"
        hint = f"fill or drop missing values, then use .to_numpy({cast})"
        raise TypeError(f"{got} of a {type(a).__name__}: {hint}")
    return x if dtype.isnative else x.astype(dtype.newbyteorder("="))


def _read(name: str, a: Any) -> Array:
    _plain(name, a)
    if hasattr(a, "toarray"):
        raise TypeError(f"{name} must be dense, got {type(a).__name__}: use .toarray()")
    exported = hasattr(a, "__dlpack__")
    try:
        return np.from_dlpack(a) if exported and not hasattr(a, "__array__") else np.asarray(a)
    except (BufferError, RuntimeError, TypeError):
        if exported:
            capsule = a.__dlpack__()
            if _kernels.dlpack_of_bits(capsule):
                source: Any = _Capsule(capsule, a.__dlpack_device__())
                return np.from_dlpack(source).view(_bfloat16())
        raise
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array of numbers, got {error}") from None


class _Capsule:
    """What np.from_dlpack asks for a capsule."""

    def __init__(self, capsule: object, device: tuple[int, int]) -> None:
        self._capsule, self._device = capsule, device

    def __dlpack__(self, **_: object) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


def _bfloat16() -> Any:
    """Return ml_dtypes' dtype where that is installed."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return BFLOAT16
    return np.dtype(bfloat16)


def real(name: str, a: object) -> Array:
    """Return an array of a floating dtype the kernels have; integers become float64."""
    x = array(name, a)
    kind = kind_of(x.dtype)
    if kind is None or kind < _KINDS[_FLOAT32]:
        if x.dtype.kind in "iu":
            return x.astype(np.float64)
        if x.dtype.kind != "f":
            raise TypeError(f"{name} must have a floating or integer dtype, got {x.dtype}")
        raise TypeError(f"{name} {_FLOATING}, got {x.dtype}")
    return x


def rows_of_classes(name: str, a: object, axis: int) -> tuple[Array, int]:
    """Return a real array with at least one class, and its class axis, not negative."""
    x = real(name, a)
    n = x.ndim
    if not 1 <= n <= MOST_AXES:
        raise ValueError(f"{name} must have 1 to {MOST_AXES} dimensions, got {n}")
    at = integer("axis", axis)
    if not -n <= at < n:
        raise ValueError(f"axis must be in [{-n}, {n}), got {at}")
    at %= n
    if x.shape[at] == 0:
        raise ValueError(f"{name} must have at least one class, got shape {x.shape}, axis {at}")
    return x, at


def _stored(a: Array) -> Array:
    """View 16-bit floating numbers as uint16, as the buffers of the kernels have them."""
    return a.view(np.uint16) if a.itemsize == 2 and a.dtype.kind not in "iu" else a


def rows(a: Array, axis: int) -> Array:
    """View `a` with seven axes, `axis` last."""
    n = a.ndim
    if axis != n - 1:
        a = a.transpose((*range(axis), *range(axis + 1, n), axis))
    return _stored(a[_ROWS[n]])


def lead(a: Array) -> Array:
    """View `a`, which has no class axis, with seven axes, the last of length 1."""
    return _stored(a[_LEAD[a.ndim]])


def lead_shape(x: Array, axis: int) -> tuple[int, ...]:
    """Return the shape of `x` without `axis`."""
    return x.shape[:axis] + x.shape[axis + 1 :]


def labels_of(labels: object, x: Array, axis: int) -> tuple[Array, bool]:
    """Return the labels, and whether they are dense: distributions of the logits' shape."""
    y = array("labels", labels)
    kind, shape = y.dtype.kind, lead_shape(x, axis)
    if kind not in "biuf" and kind_of(y.dtype) is None:
        raise TypeError(f"labels must have an integer, floating or boolean dtype, got {y.dtype}")
    dense = kind not in "iu"
    if y.shape != (x.shape if dense else shape):
        if y.shape not in (shape, x.shape):
            raise ValueError(f"labels must have shape {shape} or {x.shape}, got {y.shape}")
        hint = ""
        if dense:
            missing = kind == "f" and np.isnan(y).any()
            hint = "fill or drop missing values, then " if missing else ""
            hint = f": {hint}use .astype(int) for class indices"
        raise ValueError(
            f"labels must have shape {shape} (class indices, integer) or {x.shape} "
            f"(distributions, floating), got {y.shape} with dtype {y.dtype}{hint}"
        )
    if kind == "b":
        return y.view(np.uint8), dense
    if kind_of(y.dtype) is None:
        raise TypeError(f"labels {_FLOATING}, got {y.dtype}")
    return y, dense


def index_labels_of(labels: object, x: Array, axis: int) -> Array:
    """Return the labels where they must be class indices; what else there is has a hint."""
    y, shape = array("labels", labels), lead_shape(x, axis)
    if y.dtype.kind not in "iu":
        hint = ""
        if y.shape == x.shape:
            hint = ": use .argmax() along the classes for the largest of each distribution"
        elif y.dtype.kind in "bf":
            hint = ": use .astype(int) for class indices"
        raise TypeError(f"labels must have an integer dtype, got {y.dtype}{hint}")
    if y.shape != shape:
        raise ValueError(f"labels must have shape {shape}, got {y.shape}")
    return y


def widened(a: Array) -> Array:
    """Return bfloat16 as float32, and anything else as it is."""
    if kind_of(a.dtype) != _BFLOAT16_KIND:
        return a
    return (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _weight(name: str, weight: object, kinds: str) -> Array:
    """Return weights of a dtype the loops can read."""
    w = widened(array(name, weight))
    if w.dtype.kind not in kinds:
        raise TypeError(f"{name} must have a real dtype, got {w.dtype}")
    if w.dtype == np.bool_:
        return w.view(np.uint8)
    return w if kind_of(w.dtype) is not None else w.astype(np.float64)


def sample_weight_of(
    weight: object, shape: tuple[int, ...], dtype: Any, axis: int | None = None
) -> Array:
    """Return weights broadcast to that shape; those of an array are checked where they are read.

    They may have an axis of length 1 where the logits have that of the classes.
    """
    w = _weight("sample_weight", weight, "biuf")
    if w.ndim == 0:
        bounded("sample_weight", w, dtype)
    elif axis is not None and w.ndim == len(shape) + 1 and w.shape[axis] == 1:
        w = w.squeeze(axis)
    return w if w.shape == shape else _broadcast("sample_weight", w, shape)


def _broadcast(name: str, w: Array, shape: tuple[int, ...]) -> Array:
    try:
        return np.broadcast_to(w, shape)
    except ValueError:
        raise ValueError(f"{name} must broadcast to shape {shape}, got {w.shape}") from None


def class_weight_of(weight: object, x: Array, axis: int) -> Array:
    """Return a contiguous class weight of the dtype that the logits are computed in."""
    w, dtype = _weight("class_weight", weight, "iuf"), computed(x.dtype)
    if w.shape != (x.shape[axis],):
        raise ValueError(f"class_weight must have shape {(x.shape[axis],)}, got {w.shape}")
    bounded("class_weight", w, dtype)
    return np.ascontiguousarray(w, dtype)


def bounded(name: str, w: Array, dtype: Any, origin: tuple[int, ...] = ()) -> None:
    """Refuse weights that are negative, or not finite in the dtype they are taken in."""
    if w.size and not (w.min() >= 0 and float(w.max()) <= float(np.finfo(dtype).max)):
        fail_weight(name, w, dtype, origin)


def fail_weight(name: str, w: Array, dtype: Any, origin: tuple[int, ...] = ()) -> None:
    """Raise for the first weight that is negative, or not finite in the dtype it is taken in.

    `origin` is where `w` begins in an array of which it is a part.
    """
    most = float(np.finfo(dtype).max)
    values = w.astype(np.float64)
    got, where = _first("weights", w, ~((values >= 0) & (values <= most)), " at ", origin)
    too_large = not isinstance(got, str) and most < float(got) < math.inf
    in_dtype = f" in {np.dtype(dtype)}" if too_large else ""
    raise ValueError(f"{name} must be finite and >= 0{in_dtype}, got {got}{where}")


def _first(what: str, a: Array, bad: Any, at: str, origin: tuple[int, ...] = ()) -> tuple[Any, str]:
    """Return the first bad value and where it is: another thread may have put all right."""
    found = np.argwhere(bad)
    if not len(found):
        return f"{what} that were changed meanwhile", ""
    index = tuple(int(i) for i in found[0])
    there = tuple(map(operator.add, index, origin)) if origin else index
    return a[index], f"{at}{there[0] if a.ndim == 1 else there}" if a.ndim else ""


def fail_first(name: str, rule: str, a: Array, bad: Any) -> None:
    """Raise for the first bad value of an array."""
    got, where = _first(name, a, bad, " at ")
    raise ValueError(f"{name} must {rule}, got {got}{where}")


def _beyond(y: Array, classes: int, ignore_index: int | None) -> Any:
    bad = (y < 0) | (y > classes - 1)
    return bad if ignore_index is None else bad & (y != ignore_index)


def within(y: Array, classes: int, ignore_index: int | None, origin: tuple[int, ...] = ()) -> None:
    """Refuse index labels that are out of range and not ignored."""
    if _beyond(y, classes, ignore_index).any():
        fail_label(y, classes, ignore_index, origin)


def fail_label(
    y: Array, classes: int, ignore_index: int | None, origin: tuple[int, ...] = ()
) -> None:
    """Raise for the first index label out of range; `origin` as of `fail_weight`."""
    bad = _beyond(y, classes, ignore_index)
    got, where = _first("labels", y, bad, " at row ", origin)
    rule = f"in [0, {classes})" if classes < 2**63 else ">= 0"
    raise ValueError(f"labels must be {rule}, got {got}{where}")


def fail_binary_label(t: Array) -> None:
    """Raise for the first binary label outside [0, 1]."""
    if t.dtype == BFLOAT16:
        raise ValueError("labels must be in [0, 1], got others in bfloat16")
    rule = "in [0, 1]" if t.dtype.kind == "f" else "0 or 1"
    values = t.astype(np.float64)  # comparing a nan of bfloat16 warns
    got, where = _first("labels", t, ~((values >= 0) & (values <= 1)), " at ")
    raise ValueError(f"labels must be {rule}, got {got}{where}")


def integer(name: str, value: Any) -> int:
    """Return an int, or what stands for one."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None


def _float(name: str, value: Any) -> float:
    if isinstance(value, str | bytes | bytearray | complex | np.complexfloating):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:  # an int beyond every float
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}") from None


def number(name: str, value: object, low: float, high: float) -> float:
    """Return a number in [low, high], high excluded where it is infinite."""
    v = _float(name, value)
    if not low <= v <= high or math.isinf(v):
        rule = f"in [{low:g}, {high:g}]" if high < math.inf else f"finite and >= {low:g}"
        raise ValueError(f"{name} must be {rule}, got {value}")
    return v


def ignored(value: object, y: Array, dense: bool) -> int | None:
    """Return the label to ignore as the kernels compare it, or None where none can match."""
    if value is None:
        return None
    if dense:
        raise ValueError(f"ignore_index must be None for dense labels, got {value}")
    v = integer("ignore_index", value)
    info = np.iinfo(y.dtype)
    return v if info.min <= v <= info.max else None


def reduction_of(value: object) -> None:
    """Refuse an unknown reduction."""
    if value not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {value!r}")


def unit_of(base: object) -> float:
    """Return the natural logarithm of a base, 1 for None."""
    if base is None:
        return 1.0
    v = _float("base", base)
    if not 0 < v < math.inf or v == 1:
        raise ValueError(f"base must be finite, positive and not 1, got {base}")
    return math.log(v)


def output(
    out: object, shape: tuple[int, ...], dtype: Any, *inputs: Array, **inplace: Array
) -> Array:
    """Return the place of a result: a new array, or `out` if it is fit for it.

    It must overlap none of `inputs`; an argument named in `inplace` it may be, but not overlap
    otherwise.
    """
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray, got {type(out).__name__}")
    _plain("out", out)
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {np.dtype(dtype)}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    extent = out.itemsize
    for stride, size in sorted(zip(map(abs, out.strides), out.shape, strict=True)):
        if size > 1 and stride < extent and out.size:
            raise ValueError(f"out must not overlap itself, got strides {out.strides}")
        extent += stride * (size - 1)
    for a in inputs:
        if np.may_share_memory(out, a):
            raise ValueError("out must not overlap an input, got memory they may share")
    for name, a in inplace.items():
        there, here = (b.__array_interface__["data"][0] for b in (a, out))
        if np.may_share_memory(out, a) and (there != here or a.strides != out.strides):
            raise ValueError(f"out must be {name} or not overlap it, got a partial overlap")
    return out


def elements(name: str, a: object) -> Array:
    """Return a real array for a loss that has no class axis."""
    x = real(name, a)
    if x.ndim >= MOST_AXES:
        raise ValueError(f"{name} must have at most {MOST_AXES - 1} dimensions, got {x.ndim}")
    return x


def binary_labels_of(labels: object, x: Array) -> Array:
    """Return binary labels; their values are checked where they are read."""
    t = array("labels", labels)
    if t.dtype.kind not in "biuf" and kind_of(t.dtype) is None:
        raise TypeError(f"labels must have an integer, floating or boolean dtype, got {t.dtype}")
    if t.shape != x.shape:
        raise ValueError(f"labels must have shape {x.shape}, got {t.shape}")
    if t.dtype == np.bool_:
        return t.view(np.uint8)
    if kind_of(t.dtype) is None:
        raise TypeError(f"labels {_FLOATING}, got {t.dtype}")
    return t


def pos_weight_of(weight: object, x: Array) -> Array:
    """Return the weight of the positive class, broadcast to the shape of the logits."""
    w = _weight("pos_weight", weight, "biuf")
    bounded("pos_weight", w, computed(x.dtype))
    return _broadcast("pos_weight", w, x.shape)


def result(
    loss: float,
    weight: float,
    reduction: Reduction,
    dtype: Any,
    losses: Array | None,
    out: Array | None,
) -> Any:
    """Return the value: the losses, or their sum or mean, in `out` if it is given."""
    if losses is not None:
        return losses if losses.ndim or losses is out else losses[()]
    if reduction == "mean":  # of nothing: nan
        loss = loss / weight if weight else math.nan
    value = dtype.type(loss)
    if out is None:
        return value
    out[()] = value
    return out
