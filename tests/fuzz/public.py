"""A fuzzer of the public functions: `python tests/fuzz/public.py MINUTES`.

An example is a function with arrays of any dtype, shape, layout and content, fit or not. Either it
is refused in one sentence, by TypeError or ValueError; or the result has the bits of the same call
on plain copies with other threads and every instruction set that shares them, goes into `out` just
so, is near what the reference says in long double, leaves the arguments as they were, and warns of
nothing.
"""

from __future__ import annotations

import functools
import pathlib
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.database import DirectoryBasedExampleDatabase

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import xentfast  # noqa: E402
from cases import UNFUSED_ISAS, Array  # noqa: E402
from compare import assert_same_bits  # noqa: E402
from layouts import LAYOUTS  # noqa: E402
from xentfast import _kernels, reference  # noqa: E402

ISAS = [name for name in _kernels.available_isas() if name not in UNFUSED_ISAS]
PLACES = [layout.place for layout in LAYOUTS if not layout.class_axis_first]
FLOATS = [np.dtype(t) for t in ("f4", "f8", "f2", ml_dtypes.bfloat16, ">f4", ">f8")]
INTEGERS = [np.dtype(t) for t in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", "?")]
OTHERS = [np.dtype(t) for t in ("c8", "O", "S3", "M8[s]", "V2", "g")]
SIZES = st.sampled_from([0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 127, 128, 129])
LONG = st.sampled_from([257, 511, 512, 513, 1025, 2049, 4097, 5000])
# Far beyond rounding: the tests hold the bounds, this is to see what is wrong altogether.
NEAR = {"float32": 1e-4, "float64": 1e-10, "float16": 1e-2, "bfloat16": 5e-2}
DIVERGENCES = ("kl_divergence", "js_divergence")
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-45, 1e-320, 88.0, -104.0, 709.0, 1e30]


def _numbers(kind: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    x = rng.standard_normal(shape)
    if kind == "probabilities":
        p = rng.standard_exponential(shape) + 1e-3
        return p / p.sum(axis=-1, keepdims=True) if p.ndim else np.asarray(rng.random())
    if kind == "units":
        return rng.random(shape)
    if kind == "confident":
        return np.where(rng.random(shape) < 0.1, 60, x)
    if kind == "equal":
        return np.full(shape, rng.choice([0, 2.5, -1e4, 3e38]))
    if kind == "wide":
        return x * 10.0 ** rng.integers(-8, 30)
    if kind == "special":
        return np.where(rng.random(shape) < 0.05, rng.choice(SPECIAL, shape), x)
    return x * 4


KINDS = st.sampled_from(
    ["plain", "confident", "equal", "wide", "special", "special", "probabilities", "units"]
)


def _cast(a: Array, dtype: np.dtype[Any]) -> Array:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if dtype.kind in "VM" and dtype.name != "bfloat16":
            return np.zeros(a.shape, dtype)
        return a.astype(dtype)


def _array(data: Any, shape: tuple[int, ...], kind: str, dtypes: list[np.dtype[Any]]) -> Array:
    dtype = data.draw(st.sampled_from(dtypes))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    place: Callable[[Array], Array] = data.draw(st.sampled_from(PLACES))
    a = _cast(np.asarray(_numbers(kind, rng, shape)), dtype)
    return place(a) if a.ndim else a


def _rarely(data: Any) -> bool:
    return bool(data.draw(st.integers(0, 19)) == 0)


def _dtypes(data: Any) -> list[np.dtype[Any]]:
    return OTHERS + INTEGERS if _rarely(data) else FLOATS


def _shape(data: Any) -> tuple[int, ...]:
    lead = data.draw(st.lists(SIZES, max_size=3))
    classes = data.draw(LONG if _rarely(data) else SIZES)
    while np.prod([max(n, 1) for n in lead], dtype=float) * max(classes, 1) > 20_000:
        lead.pop()
    return (*lead, classes)


def _labels(data: Any, shape: tuple[int, ...], axis: int, options: dict[str, Any]) -> Array:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    if _rarely(data):
        shape = data.draw(st.sampled_from([shape[::-1], shape[1:], (*shape, 1), ()]))
    if data.draw(st.booleans()):
        return _array(data, shape, data.draw(st.sampled_from(["units", "special"])), _dtypes(data))
    lead = np.delete(shape, axis) if shape and -len(shape) <= axis < len(shape) else shape
    classes = shape[axis] if len(lead) < len(shape) else 1
    low, high = (-3, classes + 3) if _rarely(data) else (0, max(classes, 1))
    y = rng.integers(low, high, size=tuple(lead))
    if "ignore_index" in options and y.size:
        y = np.where(rng.random(y.shape) < 0.3, options["ignore_index"], y)
    place: Callable[[Array], Array] = data.draw(st.sampled_from(PLACES))
    y = _cast(np.asarray(y), data.draw(st.sampled_from(INTEGERS[:-1])))
    return place(y) if y.ndim else y


Call = tuple[str, list[Any], dict[str, Any]]


def _cross_entropy(data: Any) -> Call:
    shape = _shape(data)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    if _rarely(data):
        axis = data.draw(st.integers(-9, 9))
    options: dict[str, Any] = {"axis": axis}
    if data.draw(st.booleans()):
        options["reduction"] = data.draw(st.sampled_from(["mean", "sum", "none"]))
    if _rarely(data):
        options["from_logits"] = False
    if data.draw(st.integers(0, 3)) == 0:
        options["ignore_index"] = data.draw(st.sampled_from([-100, 0, 1, 255, 2**40]))
    if data.draw(st.integers(0, 3)) == 0:
        options["label_smoothing"] = data.draw(st.sampled_from([0.1, 1.0, 1e-9, -0.1, np.nan]))
    if data.draw(st.integers(0, 3)) == 0:
        options["z_loss"] = data.draw(st.sampled_from([0.01, 1e4, np.inf]))
    inside = -len(shape) <= axis < len(shape)
    lead = tuple(int(n) for n in np.delete(shape, axis)) if inside else shape
    if data.draw(st.integers(0, 3)) == 0:
        kind = data.draw(st.sampled_from(["units", "units", "special"]))
        options["sample_weight"] = _array(data, lead, kind, FLOATS + INTEGERS)
    if data.draw(st.integers(0, 3)) == 0 and inside:
        kind = data.draw(st.sampled_from(["units", "units", "special"]))
        options["class_weight"] = _array(data, (shape[axis],), kind, FLOATS)
    kind = "probabilities" if "from_logits" in options else data.draw(KINDS)
    x = _array(data, shape, kind, _dtypes(data))
    return "cross_entropy", [x, _labels(data, shape, axis, options)], options


def _binary(data: Any) -> Call:
    shape = _shape(data)
    options: dict[str, Any] = {}
    if data.draw(st.booleans()):
        options["reduction"] = data.draw(st.sampled_from(["mean", "sum", "none"]))
    if _rarely(data):
        options["from_logits"] = False
    if data.draw(st.integers(0, 3)) == 0:
        options["label_smoothing"] = data.draw(st.sampled_from([0.1, 1.0, 1e-9, -0.1]))
    for name in ("pos_weight", "sample_weight"):
        if data.draw(st.integers(0, 3)) == 0:
            kind = data.draw(st.sampled_from(["units", "units", "special"]))
            options[name] = _array(data, data.draw(st.sampled_from([shape, ()])), kind, FLOATS)
    x = _array(data, shape, data.draw(KINDS), _dtypes(data))
    kind = data.draw(st.sampled_from(["units", "units", "special"]))
    return "binary_cross_entropy", [x, _array(data, shape, kind, FLOATS + INTEGERS)], options


def _rows(data: Any) -> Call:
    name = data.draw(
        st.sampled_from(
            ["softmax", "log_softmax", "logsumexp", "entropy", "is_distribution", *DIVERGENCES]
        )
    )
    shape = _shape(data)
    options: dict[str, Any] = {"axis": data.draw(st.integers(-len(shape), len(shape) - 1))}
    logits = name in ("softmax", "log_softmax", "logsumexp")
    kinds = KINDS if logits else st.sampled_from(["probabilities", "units", "special"])
    args = [_array(data, shape, data.draw(kinds), _dtypes(data))]
    if name in DIVERGENCES:
        same = [args[0].dtype] if data.draw(st.booleans()) else FLOATS
        args.append(_array(data, shape, data.draw(kinds), same))
    if not logits and name != "is_distribution" and data.draw(st.booleans()):
        options["normalize"] = True
    return name, args, options


# --- what must hold -------------------------------------------------------------------------------


def _plain(a: Any) -> Any:
    """Copy an array into the simplest layout, the bytes in the machine's order."""
    return np.array(a, a.dtype.newbyteorder("="), order="C") if isinstance(a, np.ndarray) else a


def _parts(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def _same(got: Any, want: Any, what: str) -> None:
    for a, b in zip(_parts(got), _parts(want), strict=True):
        assert_same_bits(a, b, what)


def _bytes(args: list[Any], options: dict[str, Any]) -> list[bytes]:
    arrays = [a for a in (*args, *options.values()) if isinstance(a, np.ndarray)]
    return [a.tobytes() for a in arrays if a.dtype != object]


def _into_out(f: Any, args: list[Any], options: dict[str, Any], want: Any) -> None:
    """The same into an array of the right shape, and into the logits where those may be it."""
    target = _parts(want)[-1]
    if not isinstance(target, np.ndarray):
        return
    out = np.zeros([2 * n for n in target.shape], target.dtype)
    view = out[(slice(None, None, 2),) * out.ndim]
    result = _parts(f(*args, **options, out=view))
    assert result[-1] is view
    _same(view.copy(), target, "out")
    view[...] = np.zeros((), target.dtype)
    assert not out.view(f"u{out.itemsize}").any(), "beside out something was written"


def _near(name: str, got: Any, want: Any) -> None:
    """Hold a result against the reference's, where that is not at the edge of the dtype."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{got.shape} for {want.shape}"
    if got.dtype == bool or not got.size:
        return
    close = np.longdouble(NEAR[got.dtype.name])
    wide = got.astype(np.longdouble)
    size = np.abs(want[np.isfinite(want)]).max(initial=0)
    if size > 1e30 or (got.dtype.itemsize == 2 and size > 1e4):
        return
    nan = np.isnan(want)
    assert (np.isnan(wide) == nan).all(), f"{name}: nan elsewhere than in the reference"
    infinite = np.isinf(want)
    assert (wide[infinite] == want[infinite]).all(), f"{name}: {wide} for {want}"
    rest = ~(nan | infinite)
    error = np.abs(wide[rest] - want[rest]).max(initial=0)
    assert error <= close * (1 + size), f"{name}: an error of {error} where the largest is {size}"


def _wide(a: Any) -> Any:
    if not isinstance(a, np.ndarray) or a.dtype.kind in "iub":
        return a
    return a.astype(np.longdouble)


def attempt(data: Any) -> None:
    make = data.draw(st.sampled_from([_cross_entropy, _cross_entropy, _binary, _rows]))
    name, args, options = make(data)
    suffix = ""
    if name.endswith("cross_entropy"):
        suffix = data.draw(st.sampled_from(["", "_grad", "_value_and_grad"]))
    f = getattr(xentfast, name + suffix)
    call = functools.partial(f, *args, **options)
    before = _bytes(args, options)
    words, result = None, None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = call()
        except (TypeError, ValueError) as error:
            words = str(error)
    assert _bytes(args, options) == before, "the arguments were changed"
    if words is not None:
        assert len(words) > 10, f"{name}: {words}"
        assert "\n" not in words, f"{name}: {words}"
        return
    usual = _kernels.get_isa()
    plain_args, plain = list(map(_plain, args)), {k: _plain(v) for k, v in options.items()}
    for isa in ISAS:
        _kernels.set_isa(isa)
        try:
            with xentfast.num_threads(3):
                _same(f(*plain_args, **plain), result, f"{isa}, plain copies")
        finally:
            _kernels.set_isa(usual)
    if name in ("softmax", "log_softmax") or suffix:
        _into_out(f, args, options, result)
    _near_reference(name + suffix, plain_args, plain, result)


def _near_reference(name: str, args: list[Any], options: dict[str, Any], result: Any) -> None:
    weights = [v for k, v in options.items() if k.endswith("_weight")]
    arrays = [
        a for a in (*args, *weights) if isinstance(a, np.ndarray) and a.dtype.kind not in "iub"
    ]
    if not all(np.isfinite(a.astype(np.float64)).all() for a in arrays):
        return  # special values have tests of their own
    if any(np.abs(a.astype(np.float64)).max(initial=0) > 1e30 for a in arrays):
        return
    with np.errstate(all="ignore"):
        wide = {k: _wide(v) for k, v in options.items()}
        want = getattr(reference, name)(*map(_wide, args), **wide)
    for a, b in zip(_parts(result), _parts(want), strict=True):
        _near(name, a, b)


def main() -> None:
    end = time.monotonic() + 60 * float(sys.argv[1])
    database = DirectoryBasedExampleDatabase(ROOT / "build" / "fuzz" / "hypothesis")
    options = settings(
        max_examples=500,
        deadline=None,
        database=database,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
    )
    turn = int(time.time())
    examples = 0

    def counted(data: Any) -> None:
        nonlocal examples
        examples += 1
        attempt(data)

    while time.monotonic() < end:
        seed(turn)(options(given(st.data())(counted)))()
        turn += 1
    print(f"{examples:,} examples, nothing found")


if __name__ == "__main__":
    main()
