"""Options and the machine: all contenders get the same CPUs, and the JSON says which versions."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from typing import Any

import pytest

import xentfast

PEERS = ("numpy", "torch", "jax", "optax", "tensorflow-cpu", "scikit-learn", "scipy", "numba")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="threads for everyone (default: 1)")
    parser.addoption("--scale", type=float, default=1.0, help="part of the rows, for a quick look")


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Pin the process before any peer is imported: most take their number of threads from that."""
    wanted: int = request.config.getoption("threads")
    cpus = sorted(os.sched_getaffinity(0))
    if wanted > len(cpus):
        pytest.exit(f"--threads must be at most {len(cpus)}, the CPUs of this process")
    os.sched_setaffinity(0, cpus[:wanted])
    xentfast.set_num_threads(wanted)
    yield wanted
    os.sched_setaffinity(0, cpus)


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    versions = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    machine_info["xentfast"] = xentfast.show_config()
    machine_info["versions"] = versions
