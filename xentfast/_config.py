"""Threads and what was built: the settings of this process."""

from __future__ import annotations

import operator
import os
import pathlib

from xentfast import _kernels


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use.

    The default is the environment variable XENTFAST_NUM_THREADS, else OMP_NUM_THREADS, else the
    number of CPUs this process may run on. Results do not depend on it.

    Parameters
    ----------
    n : int, at least 1
        1: no thread is ever started.

    Raises
    ------
    TypeError
        If n is not an int.
    ValueError
        If n is not in [1, 1024].
    """
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(f"n must be an int, got {type(n).__name__}") from None
    if not 1 <= count <= 1024:
        raise ValueError(f"n must be in [1, 1024], got {n}")
    _kernels.set_num_threads(count)


def get_num_threads() -> int:
    """Return how many threads a call may use."""
    return _kernels.get_num_threads()


def show_config() -> dict[str, object]:
    """Return the version, the compiler, the instruction sets and the number of threads.

    Returns
    -------
    dict
        version, compiler, isas_built (names, weakest first), isas_available (those that run
        here), isa (the one in use) and threads.
    """
    return {
        "version": _kernels.version(),
        "compiler": _kernels.compiler(),
        "isas_built": _kernels.built_isas(),
        "isas_available": _kernels.available_isas(),
        "isa": _kernels.get_isa(),
        "threads": get_num_threads(),
    }


def configure() -> None:
    """Take the settings of the environment, once, at import.

    Raises
    ------
    ValueError
        If XENTFAST_ISA names no instruction set that runs here, or XENTFAST_NUM_THREADS is not a
        positive number.
    """
    isa = os.environ.get("XENTFAST_ISA")
    if isa:
        try:
            _kernels.set_isa(isa)
        except ValueError as error:
            raise ValueError(f"XENTFAST_ISA: {error}") from None
    for name in ("XENTFAST_NUM_THREADS", "OMP_NUM_THREADS"):
        # OpenMP allows a list, one number for each level of nesting: the first is ours.
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            _kernels.set_num_threads(min(int(first), 1024))
            return
        if first and name == "XENTFAST_NUM_THREADS":
            raise ValueError(f"{name} must be an integer >= 1, got {first!r}")
    _kernels.set_num_threads(min(_usable_cpus(), 1024))


def _usable_cpus() -> int:
    """Return how many CPUs this process may use: by its affinity, and its cgroup's quota."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cpus = os.cpu_count() or 1
    try:
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such file, or "max"
        pass
    return cpus
