"""Fixtures: each instruction set, numbers of threads, and layouts in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import xentfast
from cases import ISAS
from layouts import LAYOUTS, Layout
from xentfast import _kernels


def pytest_report_header() -> str:
    """Name the instruction sets that the tests try, and those that they cannot."""
    others = [name for name in _kernels.built_isas() if name not in ISAS]
    return f"instruction sets: {', '.join(ISAS)}; not tried: {', '.join(others) or 'none'}"


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run with each instruction set that was built and runs here."""
    name: str = request.param
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
