"""Ways for the same numbers to lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cases import Array, Case, Inputs


def _c(array: Array) -> Array:
    return np.array(array, order="C")


def _fortran(array: Array) -> Array:
    return np.array(array, order="F")


def _strided(array: Array) -> Array:
    """Take every second element along each axis of a larger array."""
    large = np.zeros([2 * n for n in array.shape], array.dtype)
    view = large[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def _reversed(array: Array) -> Array:
    backwards = (slice(None, None, -1),) * array.ndim
    return np.array(array[backwards], order="C")[backwards]


def _read_only(array: Array) -> Array:
    copy = _c(array)
    copy.flags.writeable = False
    return copy


def _misaligned(array: Array) -> Array:
    """Begin one element after the place where an allocation begins."""
    view = np.empty(array.size + 1, array.dtype)[1:].reshape(array.shape)
    view[...] = array
    return view


@dataclass(frozen=True)
class Layout:
    """A way to place an array; `class_axis_first` makes axis 0 that of the classes."""

    name: str
    place: Callable[[Array], Array]
    class_axis_first: bool = False

    def suits(self, case: Case) -> bool:
        return not (self.class_axis_first and case.elementwise)

    def arrange(self, inputs: Inputs) -> Inputs:
        """Place every array of a case's arguments."""
        args, kwargs = inputs
        kwargs = {k: self.place(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
        if not self.class_axis_first:
            return tuple(map(self.place, args)), kwargs
        turned = [self.place(np.moveaxis(a, -1, 0)) if a.ndim == 2 else self.place(a) for a in args]
        return tuple(turned), kwargs | {"axis": 0}

    def restore(self, result: Any, shape: tuple[int, int]) -> Array:
        """Move the classes of a result shaped like the first argument back to the end."""
        result = np.asarray(result)
        if self.class_axis_first and result.shape == shape[::-1] and result.ndim == 2:
            return np.moveaxis(result, 0, -1)
        return result


LAYOUTS = (
    Layout("C", _c),
    Layout("F", _fortran),
    Layout("strided", _strided),
    Layout("read-only", _read_only),
    Layout("reversed", _reversed),
    Layout("misaligned", _misaligned),
    Layout("class axis first", _c, class_axis_first=True),
)
