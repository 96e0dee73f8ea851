"""Every case and contender as a test of pytest-benchmark.

pytest-benchmark times one test after the other, and a machine drifts in between. So the first test
of a case runs them all in turn, and each test then hands over its own times through a clock that
shows what was measured.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest

from cases import CASES, Case
from contenders import contenders_of, inputs_of
from race import ROUNDS, Entrant, race
from speed_cases import CLASSES, ISAS, SIZES, TABLE, SpeedCase

# Peers warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")


def _of_tests(case: Case) -> SpeedCase:
    """Every option of the table of the tests, in rows long enough to tell kernels apart."""
    why = "what an option costs"
    return SpeedCase(str(case), case.function, (2_048, 1_008), why, group="options", made_by=case)


GROUPS = (*TABLE, *CLASSES, *SIZES, *ISAS, *map(_of_tests, CASES))
TRIPLES = [
    pytest.param(
        case, mode, contender, id=f"{case.group}-{case.name}-{mode}-{contender}".replace(" ", "_")
    )
    for case in GROUPS
    for mode in case.modes
    for contender in contenders_of(case, mode)
]


class Clock:
    """Shows the time that has been measured elsewhere."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()
_race = functools.lru_cache(maxsize=1)(race)


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize(("case", "mode", "contender"), TRIPLES)
def test_speed(
    case: SpeedCase,
    mode: str,
    contender: str,
    benchmark: Any,
    threads: int,
    request: pytest.FixtureRequest,
) -> None:
    selected = [getattr(item, "callspec", None) for item in request.session.items]
    names = tuple(
        spec.params["contender"]
        for spec in selected
        if spec and (spec.params.get("case"), spec.params.get("mode")) == (case, mode)
    )
    case = case.scaled(request.config.getoption("scale"))
    entrant = _race(case, mode, names, ROUNDS if benchmark.enabled else 1)[contender]
    if entrant.problem:
        benchmark.skipped = True
        raise entrant.problem
    benchmark.group = f"{case.group}: {case.name}, {mode}, {threads} threads"
    benchmark.extra_info = facts(case, mode, contender, entrant) | {"threads": threads}
    times = iter(entrant.seconds)
    benchmark.pedantic(
        CLOCK.advance, setup=lambda: ((next(times),), {}), rounds=len(entrant.seconds)
    )


def facts(case: SpeedCase, mode: str, contender: str, entrant: Entrant) -> dict[str, Any]:
    """Return what the report has to know beside the times."""
    args, _ = inputs_of(case)
    written = args[0].nbytes if case.writes(mode) else 0
    return {
        "group": case.group,
        "case": case.name,
        "function": case.function,
        "shape": case.shape,
        "dtype": case.dtype,
        "mode": mode,
        "contender": contender,
        "elements": args[0].size,
        "bytes": sum(a.nbytes for a in args) + written if case.from_logits else 0,
        "loss": entrant.result,
    }
