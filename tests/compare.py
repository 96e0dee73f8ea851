"""What a function returns for a case, and comparisons of it: by bits, or within error bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cases import FUSED_ISAS, REDUCTIONS, Array, Case, Inputs

# The worst relative errors promised for losses and gradients with every option, at every margin:
# how far the logits of a row lie apart. Plain ones are promised more: tests/test_margins.py.
BOUND = {"float32": 5e-7, "float64": 4e-15}
# Without fused multiply-add the difference x - m is rounded, which exp turns into a relative error.
NARROW_MARGIN = 4
WIDE_BOUND = {"float32": 6e-6, "float64": 1e-14}

# Half a unit of the subnormal numbers, and a little.
TINY = {"float32": 1e-45, "float64": 5e-324}


# The public functions of a loss, each with its reductions.
ALL_WAYS = tuple((suffix, r) for suffix in ("", "_grad", "_value_and_grad") for r in REDUCTIONS)
FEW_WAYS = (("", "mean"), ("_grad", "sum"), ("_value_and_grad", "none"))


def outputs(
    module: ModuleType,
    case: Case,
    inputs: Inputs,
    ways: tuple[tuple[str, str], ...] = ALL_WAYS,
) -> dict[str, Any]:
    """Call what the case names, in all ways to get a value and a gradient or in some."""
    args, kwargs = inputs
    if case.report:
        return read(getattr(module, case.function), args, kwargs)
    if not case.gradient:
        return {"result": getattr(module, case.function)(*args, **kwargs)}
    found = {}
    for suffix, r in ways:
        if suffix not in case.suffixes:
            continue
        result = getattr(module, case.function + suffix)(*args, **kwargs, reduction=r)
        if suffix == "":
            found[f"value, {r}"] = result
        elif suffix == "_grad":
            found[f"gradient, {r}"] = result
        else:
            found[f"value with gradient, {r}"], found[f"gradient with value, {r}"] = result
    return found


def read(function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Call what reports, and return its arrays, and its sums as what JSON holds of them."""
    arrays = {}
    if function.__name__ == "evaluate":
        names = ["loss", "rank", "entropy", "confidence", "predicted"]
        if kwargs.get("from_logits", True):
            names.append("lse")
        report, arrays = function(*args, **kwargs, per_row=names)
    else:
        report = function(*args, **kwargs)
    text = json.dumps(report.to_dict()["state"]).encode()
    return {**arrays, "report": np.frombuffer(text, np.uint8)}


def refused(error: type[Exception], message: str) -> Any:
    """Expect this exception with this message, all of it."""
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def _bits(array: Array) -> Array:
    """View floating numbers, bfloat16 among them, as integers."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind in "fV" else array


def assert_same_bits(actual: Any, expected: Any, what: str = "bits") -> None:
    """Compare dtype, shape and bits; a nan is a nan, whatever its sign and payload."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, what
    assert actual.shape == expected.shape, what
    differ = np.atleast_1d(_bits(actual) != _bits(expected))
    if differ.any() and actual.dtype.kind in "fV":
        differ &= np.atleast_1d(~(np.isnan(actual) & np.isnan(expected)))
    if differ.any():
        place = tuple(int(i) for i in np.argwhere(differ)[0])
        got, wanted = np.atleast_1d(actual)[place], np.atleast_1d(expected)[place]
        raise AssertionError(
            f"{what}: {differ.sum()} of {differ.size} differ, first at {place}: "
            f"{float(got).hex()} instead of {float(wanted).hex()}"
        )


def assert_all_same_bits(actual: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    assert actual.keys() == expected.keys(), what
    for name in actual:
        assert_same_bits(actual[name], expected[name], f"{what}: {name}")


def bounds_of(case: Case, dtype: str, isa: str, x: Array) -> Array | float:
    """Return the relative error allowed in each row, or everywhere."""
    if isa in FUSED_ISAS or not case.logits or case.elementwise:
        return BOUND[dtype]
    finite = np.isfinite(x)
    margin = x.max(1, where=finite, initial=-np.inf) - x.min(1, where=finite, initial=np.inf)
    return np.where(margin < NARROW_MARGIN, BOUND[dtype], WIDE_BOUND[dtype])


def assert_close(
    actual: Any, expected: Any, bound: Array | float, tiny: float, what: str, scale: Any = None
) -> None:
    """Assert |actual - expected| <= bound * scale + tiny; scale is |expected| if not given.

    Infinities and nans have to be in the same places.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, what
    scale = np.abs(expected) if scale is None else np.broadcast_to(scale, expected.shape)
    bound = np.broadcast_to(bound, expected.shape)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite].astype(actual.dtype), what)
    error = np.abs(actual[finite].astype(expected.dtype) - expected[finite])
    wrong = ~(error <= bound[finite] * scale[finite] + tiny)
    if wrong.any():
        excess = np.where(wrong, error / (bound[finite] * scale[finite] + tiny), 0)
        worst = excess.argmax()
        place = tuple(int(i) for i in np.argwhere(finite)[worst])
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} miss the bound, the worst {excess[worst]:.3g} "
            f"times, at {place}: {actual[place]!r} instead of {expected[place]!r}"
        )
