"""Threads and what was built: the settings of this process."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from xentfast import _checks, _kernels


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, in every thread that has no `num_threads` of its own.

    The default is the environment variable XENTFAST_NUM_THREADS, else OMP_NUM_THREADS, else the
    number of CPUs this process may run on, by its affinity and the quotas of its control groups.
    Results do not depend on it.

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
    _kernels.set_num_threads(_count(n))


def get_num_threads() -> int:
    """Return how many threads a call of this thread may use."""
    return _kernels.get_num_threads()


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Context in which the calls of this thread may use n threads; those of others are not limited.

    Parameters
    ----------
    n : int, at least 1
        1: the calls run in this thread alone.

    Raises
    ------
    TypeError
        If n is not an int.
    ValueError
        If n is not in [1, 1024].

    Examples
    --------
    >>> with xentfast.num_threads(1):
    ...     loss = xentfast.cross_entropy(logits, labels)
    """
    before = _kernels.limit_threads(_count(n))
    try:
        yield
    finally:
        _kernels.limit_threads(before)


def _count(n: int) -> int:
    count = _checks.integer("n", n)
    if not 1 <= count <= 1024:
        raise ValueError(f"n must be in [1, 1024], got {n}")
    return count


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


def _usable_cpus(root: Path = Path("/")) -> int:
    """Return how many CPUs this process may use: by its affinity, and its control groups' quota."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cpus = os.cpu_count() or 1
    return min([cpus, *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPUs that the control groups of this process, and all above them, allow.

    A line of /proc/self/cgroup is "number:controllers:group", without controllers for version 2.
    One of /proc/self/mountinfo has as fields 3 and 4 the group that is mounted and where, and after
    a hyphen the type, a name and options, the controllers of version 1 among them.
    """
    lines = _read(root / "proc/self/cgroup").splitlines()
    groups = [line.split(":", 2)[1:] for line in lines if line.count(":") >= 2]
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, mount = (part.split() for part in (line + " - ").split(" - ")[:2])
        version1 = mount[:1] == ["cgroup"] and "cpu" in mount[-1].split(",")
        if len(fields) < 5 or not (version1 or mount[:1] == ["cgroup2"]):
            continue
        for controllers, group in groups:
            if ("cpu" in controllers.split(",")) if version1 else not controllers:
                inside = PurePosixPath(group)
                try:
                    inside = inside.relative_to(fields[3])
                except ValueError:  # a group outside what this container sees
                    inside = PurePosixPath()
                for place in (inside, *inside.parents):
                    yield from _quota(root / fields[4].lstrip("/") / place, version1)


def _quota(group: Path, version1: bool) -> Iterator[float]:
    """Yield the CPUs of one group, or nothing where it has no quota."""
    if version1:
        numbers = [_read(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    else:
        numbers = _read(group / "cpu.max").split()
    with contextlib.suppress(ValueError, ZeroDivisionError):  # no such file, or "max"
        quota, period = map(int, numbers)
        if quota > 0:  # -1: none
            yield quota / period


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
