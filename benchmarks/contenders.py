"""Who is timed: xentfast, what memory allows, plain NumPy and every peer that is installed.

Each contender takes a case and a mode, prepares the input in its own type and returns a call
without arguments; where it has nothing for the case that is `NotOffered`, with the reason. A
gradient is always one of the mean, in a fresh array that is released with the result.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np

import xentfast
from speed_cases import Array, SpeedCase
from xentfast import _kernels, _peers, reference

Call: TypeAlias = Callable[[], Any]
Prepare: TypeAlias = Callable[[SpeedCase, str], Call]


def threads() -> int:
    """Return the number of threads for all: the CPUs this process is pinned to."""
    return len(os.sched_getaffinity(0))


@functools.lru_cache(maxsize=1)
def inputs_of(case: SpeedCase) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """Make the arguments once for all contenders of a case."""
    return case.inputs()


def name_of(case: SpeedCase, mode: str) -> str:
    return case.function + ("_value_and_grad" if mode == "value_and_grad" else "")


# --- ourselves, and what memory allows ------------------------------------------------------------


def ours(case: SpeedCase, mode: str) -> Call:
    args, options = inputs_of(case)
    return functools.partial(getattr(xentfast, name_of(case, mode)), *args, **options)


def ours_out(case: SpeedCase, mode: str) -> Call:
    """Write into an array that has been touched before."""
    if not case.writes(mode):
        raise _peers.NotOffered("writes no array")
    return functools.partial(ours(case, mode), out=np.zeros_like(inputs_of(case)[0][0]))


def ours_on(isa: str) -> Prepare:
    def prepare(case: SpeedCase, mode: str) -> Call:
        if isa not in _kernels.available_isas():
            raise _peers.NotOffered(f"{isa} does not run on this machine")
        run, usual = ours(case, mode), _kernels.get_isa()

        def call() -> Any:
            _kernels.set_isa(isa)
            try:
                return run()
            finally:
                _kernels.set_isa(usual)

        return call

    return prepare


def memory(case: SpeedCase, mode: str) -> Call:
    """Read all of the input once; where an array is written, copy into one touched before.

    NumPy's maximum of 32-bit integers takes little more than the reading, and its loops release the
    GIL, so that each thread has a part.
    """
    if not case.from_logits:
        raise _peers.NotOffered("most of the input is not looked at")
    first, *others = (a.reshape(-1).view(np.int32) for a in inputs_of(case)[0])
    parts = threads() if first.nbytes > 2**20 else 1
    work: list[Call] = [part.max for a in others for part in np.array_split(a, parts)]
    if case.writes(mode):
        target = np.zeros_like(first)
        pairs = zip(np.array_split(target, parts), np.array_split(first, parts), strict=True)
        work += [functools.partial(np.copyto, *pair) for pair in pairs]
    else:
        work += [part.max for part in np.array_split(first, parts)]
    if parts == 1:
        return lambda: [task() for task in work] and None
    pool = ThreadPoolExecutor(parts)
    return lambda: [task.result() for task in [pool.submit(f) for f in work]] and None


# --- NumPy ----------------------------------------------------------------------------------------


def numpy_cross_entropy(x: Array, y: Array, axis: int, wants_gradient: bool) -> Any:
    """Compute as a person would for just this case, in the dtype of x, or float32 for a half."""
    d = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    d = d - d.max(axis=axis, keepdims=True)
    dense = y.ndim == x.ndim
    at = y if dense else np.expand_dims(y, axis)
    by_label = (d * y).sum(axis=axis) if dense else np.take_along_axis(d, at, axis).squeeze(axis)
    np.exp(d, out=d)
    sums = d.sum(axis=axis, keepdims=True)
    value = np.mean(np.log(sums).squeeze(axis) - by_label)
    if not wants_gradient:
        return value
    d /= sums
    if dense:
        d -= y
    else:
        np.put_along_axis(d, at, np.take_along_axis(d, at, axis) - 1, axis)
    d /= by_label.size
    return value, d.astype(x.dtype, copy=False)


def numpy_binary(x: Array, t: Array, wants_gradient: bool) -> Any:
    e = np.exp(-np.abs(x))
    value = np.mean(np.maximum(x, 0) - x * t + np.log1p(e))
    if not wants_gradient:
        return value
    return value, (np.where(x < 0, e, 1) / (1 + e) - t) / x.size


def numpy_softmax(x: Array, axis: int, log: bool) -> Array:
    d = x - x.max(axis=axis, keepdims=True)
    if log:
        d -= np.log(np.exp(d).sum(axis=axis, keepdims=True))
    else:
        np.exp(d, out=d)
        d /= d.sum(axis=axis, keepdims=True)
    return d


def plain_numpy(case: SpeedCase, mode: str) -> Call:
    args, _ = inputs_of(case)
    gradient = mode == "value_and_grad"
    if not case.from_logits:
        if gradient:
            raise _peers.NotOffered("nobody writes it")
        rows = np.arange(case.shape[0])
        return lambda: -np.mean(np.log(args[0][rows, args[1]]))
    f = {
        "cross_entropy": lambda x, y: numpy_cross_entropy(x, y, case.axis, gradient),
        "binary_cross_entropy": lambda x, t: numpy_binary(x, t, gradient),
        "entropy": lambda p: -(p * np.log(p)).sum(axis=case.axis),
        "kl_divergence": lambda p, q: (p * np.log(p / q)).sum(axis=case.axis),
        "softmax": lambda x: numpy_softmax(x, case.axis, log=False),
        "log_softmax": lambda x: numpy_softmax(x, case.axis, log=True),
    }[case.function]
    return functools.partial(f, *args)


def numpy_reference(case: SpeedCase, mode: str) -> Call:
    args, options = inputs_of(case)
    wide = [a if a.dtype.kind in "iub" else a.astype(np.float64) for a in args]
    return functools.partial(getattr(reference, name_of(case, mode)), *wide, **options)


def peer(name: str) -> Prepare:
    def prepare(case: SpeedCase, mode: str) -> Call:
        problem = _peers.Problem(
            case.function,
            inputs_of(case)[0],
            gradient=mode == "value_and_grad",
            axis=case.axis,
            from_logits=case.from_logits,
            threads=threads(),
        )
        return _peers.PEERS[name](problem)

    return prepare


PEERS: dict[str, Prepare] = {
    "NumPy": plain_numpy,
    **{name: peer(name) for name in _peers.PEERS},
}
OURS: dict[str, Prepare] = {"memory": memory, "xentfast": ours, "xentfast out=": ours_out}
ISAS: dict[str, Prepare] = {isa: ours_on(isa) for isa in _kernels.built_isas()}
CONTENDERS = OURS | PEERS | ISAS | {"reference": numpy_reference}


def contenders_of(case: SpeedCase, mode: str) -> Iterator[str]:
    """Name the contenders of a case."""
    if case.group == "isas":
        yield from ISAS
    else:
        yield from (name for name in OURS if name != "xentfast out=" or case.writes(mode))
        if case.group != "sizes":
            yield from PEERS
