"""Guard the speed of the kernels by what is the same on every run: the instructions they take."""

from __future__ import annotations

import shutil

import pytest

from instructions import CASES, KEY, count, stored

TOLERANCE = 0.05
REFRESH = "`python benchmarks/instructions.py` stores new figures"


@pytest.fixture(scope="module")
def counted() -> dict[str, float]:
    if not shutil.which("valgrind"):
        pytest.skip("valgrind is not installed")
    if KEY not in stored():
        pytest.skip(f"no figures for {KEY}: {REFRESH}")
    return count()


@pytest.mark.parametrize("name", CASES)
def test_instructions_for_an_element(name: str, counted: dict[str, float]) -> None:
    expected = stored()[KEY][name]
    assert counted[name] == pytest.approx(expected, rel=TOLERANCE), REFRESH
