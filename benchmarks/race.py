"""Time functions in turn, so that all meet the same machine, and compare their results."""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import xentfast
from contenders import CONTENDERS, ours, threads
from speed_cases import Array, SpeedCase
from xentfast._peers import NotOffered

ROUNDS = 11
# Who has taken so many seconds in all sits out the later rounds, but not the first five; or three,
# where a call alone takes as long.
PATIENCE, FIRST_ROUNDS, FIRST_OF_LONG = 0.3, 5, 3
# Short calls are repeated to fill a sample.
SAMPLE = 0.005
# Long enough for the idle threads of the one before to stop spinning and leave the CPUs.
PAUSE = 0.01

# Largest difference from our own result, relative to the largest entry: peers sum in the dtype.
AGREEMENT = {"float64": 1e-10, "float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}


@dataclass
class Entrant:
    """A contender, with its seconds for each round or what kept it from running."""

    call: Callable[[], Any]
    loops: int = 0  # in a sample: not known before the first
    seconds: list[float] = field(default_factory=list)
    result: float = 0.0  # the loss, or the mean of the losses
    problem: str = ""
    failed: bool = False  # it has such a function, which did not do what it should

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def time(self, loops: int) -> float:
        start = time.perf_counter()
        for _ in range(loops):
            self.call()
        return (time.perf_counter() - start) / loops

    def sample(self) -> float:
        """Return the seconds of a call, the mean of as many as fill a sample."""
        if not self.loops:
            once = self.time(1)
            self.loops = max(1, round(SAMPLE / once))
            if self.loops == 1:
                return once
        if self.loops > 1:
            self.time(1 + self.loops // 4)  # into the caches again
        return self.time(self.loops)

    def wants_more(self) -> bool:
        spent = sum(self.seconds) * self.loops
        long = any(seconds > PATIENCE for seconds in self.seconds)
        return spent < PATIENCE or len(self.seconds) < (FIRST_OF_LONG if long else FIRST_ROUNDS)


def pin(parser: argparse.ArgumentParser, count: int) -> None:
    """Keep the process to so many CPUs and us to as many threads, or end with the parser's error.

    Before any peer is imported: most take their number of threads from that.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(cpus):
        parser.error(f"--threads must be in [1, {len(cpus)}], got {count}")
    os.sched_setaffinity(0, cpus[:count])
    xentfast.set_num_threads(count)


def race(
    case: SpeedCase, mode: str, names: tuple[str, ...], rounds: int = ROUNDS
) -> dict[str, Entrant]:
    """Let the named contenders run the case in turn, each after a look at its result."""
    entrants = {name: Entrant(_nothing) for name in names}
    expected = as_arrays(ours(case, mode)())
    for name, entrant in entrants.items():
        try:
            prepare(entrant, name, case, mode, expected)
        except Exception as problem:
            entrant.problem = str(problem)
            entrant.failed = not isinstance(problem, NotOffered)
    del expected
    try:
        in_turn([entrant for entrant in entrants.values() if not entrant.problem], rounds)
    finally:
        for entrant in entrants.values():
            entrant.call = _nothing  # its arrays go
    return entrants


def in_turn(entrants: list[Entrant], rounds: int) -> None:
    """Time them round after round, `rounds` times or until all have had enough."""
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(entrants)  # nobody follows the same one each time
            for entrant in entrants[first:] + entrants[:first]:
                if entrant.wants_more():
                    if threads() > 1:
                        time.sleep(PAUSE)
                    entrant.seconds.append(entrant.sample())
    finally:
        gc.enable()


def _nothing() -> None:
    pass


def prepare(entrant: Entrant, name: str, case: SpeedCase, mode: str, expected: list[Array]) -> None:
    """Make a contender's input, let it compile, and hold its result against ours."""
    entrant.call = CONTENDERS[name](case, mode)
    result = as_arrays(entrant.call())
    if name != "memory":
        difference = max(largest_difference(*pair) for pair in zip(result, expected, strict=True))
        if not difference <= AGREEMENT[case.dtype]:
            raise ValueError(f"differs from xentfast by {difference:.2g}")
        entrant.result = float(np.mean(result[0]))


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
