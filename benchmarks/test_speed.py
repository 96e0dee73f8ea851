"""What each option costs beside the reference, by pytest-benchmark.

    pytest benchmarks/test_speed.py --benchmark-enable

Each case of the tests, in rows long enough to tell kernels apart. The tests run one after the
other, and a machine drifts in between: what stands in a table is measured in turn, by measure.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from cases import CASES, Case
from contenders import CONTENDERS
from speed_cases import SpeedCase

SHAPE = (256, 1_008)


def speed_case(case: Case) -> SpeedCase:
    return SpeedCase(
        str(case), case.function, SHAPE, "an option", gradient=case.gradient, made_by=case
    )


TRIPLES = [
    pytest.param(case, mode, contender, id=f"{case.name}-{mode}-{contender}".replace(" ", "_"))
    for case in map(speed_case, CASES)
    for mode in case.modes
    for contender in ("xentfast", "reference")
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "mode", "contender"), TRIPLES)
def test_speed(case: SpeedCase, mode: str, contender: str, benchmark: Any) -> None:
    benchmark.group = f"{case.name}, {mode}"
    assert benchmark(CONTENDERS[contender](case, mode)) is not None
