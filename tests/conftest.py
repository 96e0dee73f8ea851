"""Fixtures: each instruction set, numbers of threads, and layouts in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from layouts import LAYOUTS, Layout

import xentfast
from xentfast import _kernels

# XENTFAST_ISA chooses the set when the module is imported: then the whole suite runs with that one.
FORCED_ISA = os.environ.get("XENTFAST_ISA")
ISAS = (FORCED_ISA,) if FORCED_ISA else tuple(xentfast.show_config()["isas_built"])


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that was built and runs here, in force during the test."""
    name: str = request.param
    if name not in _kernels.available_isas():
        pytest.skip(f"{name} does not run on this machine")
    before = _kernels.get_isa()
    _kernels.set_isa(name)
    assert _kernels.get_isa() == name
    yield name
    _kernels.set_isa(before)


@pytest.fixture(params=[1, 2, 7], ids=lambda n: f"{n}thread{'s' * (n > 1)}")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run with one thread, with two, and with more than most small machines have."""
    before = xentfast.get_num_threads()
    xentfast.set_num_threads(request.param)
    assert xentfast.get_num_threads() == request.param
    yield request.param
    xentfast.set_num_threads(before)


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.name.replace(" ", "-"))
def layout(request: pytest.FixtureRequest) -> Layout:
    """Each way to place the arguments in memory."""
    chosen: Layout = request.param
    return chosen
