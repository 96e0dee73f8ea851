"""Time functions in turn, so that all meet the same machine, and compare their results."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from contenders import CONTENDERS, ours, threads
from speed_cases import Array, SpeedCase

ROUNDS = 9
# Who takes longer than this in all sits out the later rounds, but not the first of them.
PATIENCE, FIRST_ROUNDS = 0.6, 3
# Short calls are repeated to fill a sample.
SAMPLE = 0.005
# Long enough for the idle threads of the one before to stop spinning and leave the CPUs.
PAUSE = 0.01

# Largest difference from our own result, relative to the largest entry: peers sum in the dtype.
AGREEMENT = {"float64": 1e-10, "float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}


@dataclass
class Entrant:
    """A contender, with its seconds for each round or what kept it from running."""

    call: Callable[[], Any] | None = None
    loops: int = 1
    seconds: list[float] = field(default_factory=list)
    result: float = 0.0  # the loss, or the mean of the losses
    problem: BaseException | None = None

    def sample(self, loops: int) -> float:
        assert self.call is not None
        start = time.perf_counter()
        for _ in range(loops):
            self.call()
        return (time.perf_counter() - start) / loops

    def wants_more(self) -> bool:
        spent = sum(self.seconds) * self.loops
        return self.call is not None and (spent < PATIENCE or len(self.seconds) < FIRST_ROUNDS)


def race(case: SpeedCase, mode: str, names: tuple[str, ...], rounds: int) -> dict[str, Entrant]:
    """Let the named contenders run the case in turn, `rounds` times."""
    entrants = {name: Entrant() for name in names}
    expected = as_arrays(ours(case, mode)())
    for name, entrant in entrants.items():
        try:
            prepare(entrant, name, case, mode, expected)
        except (Exception, pytest.skip.Exception) as problem:
            entrant.problem, entrant.call = problem, None
    del expected
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            order = list(entrants.values())
            first = turn % len(order)  # nobody follows the same one each time
            for entrant in order[first:] + order[:first]:
                if not entrant.wants_more():
                    continue
                if threads() > 1:
                    time.sleep(PAUSE)
                if entrant.loops > 1:
                    entrant.sample(1 + entrant.loops // 4)  # into the caches again
                entrant.seconds.append(entrant.sample(entrant.loops))
    finally:
        gc.enable()
        for entrant in entrants.values():
            entrant.call = None  # and with it its arrays
    return entrants


def prepare(entrant: Entrant, name: str, case: SpeedCase, mode: str, expected: list[Array]) -> None:
    """Make a contender's input, let it compile, hold its result against ours and choose loops."""
    entrant.call = CONTENDERS[name](case, mode)
    result = as_arrays(entrant.call())
    if name != "memory":
        difference = max(largest_difference(*pair) for pair in zip(result, expected, strict=True))
        if not difference <= AGREEMENT[case.dtype]:
            pytest.skip(f"{name} differs from xentfast by {difference:.2g} in {case.name}")
        entrant.result = float(np.mean(result[0]))
    del result
    entrant.loops = max(1, round(SAMPLE / entrant.sample(1)))


def as_arrays(result: Any) -> list[Array]:
    """Return the arrays of a result in NumPy, in float32 or float64."""
    if isinstance(result, tuple | list):
        return [array for part in result for array in as_arrays(part)]
    if result is None:
        return []
    if hasattr(result, "detach"):
        result = result.detach()
        result = (result.float() if result.itemsize < 4 else result).numpy()
    elif hasattr(result, "numpy"):
        result = result.numpy()
    array = np.asarray(result)
    return [array.astype(np.float32) if array.itemsize < 4 else array]


def largest_difference(a: Array, b: Array) -> float:
    if a.shape != b.shape:
        return np.inf
    return float(np.abs(a - b).max() / np.abs(b).max())
