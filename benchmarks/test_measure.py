"""What is measured is kept, and read by the report: with few rows, so that no figure counts."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

import measure
import report
from contenders import CONTENDERS
from race import FIRST_OF_LONG, FIRST_ROUNDS, PATIENCE, Entrant, race
from speed_cases import GROUPS, SpeedCase
from xentfast._peers import NotOffered

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = [
    SpeedCase("16 x 10", "cross_entropy", (16, 10), "a panel"),
    SpeedCase("softmax, 7 x 3, axis 0", "softmax", (7, 3), "writes, and the classes first", axis=0),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("measured")
    assert measure.measure(folder, SMALL, threads=1) == 3
    return folder


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS, "table", tuple(SMALL))


def test_every_contender_has_times_or_a_reason(folder: pathlib.Path) -> None:
    for path in folder.iterdir():
        facts = json.loads(path.read_text(encoding="utf-8"))
        both = facts["seconds"], facts["absent"]
        assert not both[0].keys() & both[1].keys()
        assert {"memory", "xentfast", "NumPy"} <= both[0].keys()
        assert {"torch", "torch.compile", "jax"} <= both[0].keys() | both[1].keys()
        assert all(min(seconds) > 0 for seconds in both[0].values())


def test_what_is_there_is_not_timed_again(folder: pathlib.Path) -> None:
    assert measure.measure(folder, SMALL, threads=1) == 0
    path = measure.place(folder, SMALL[0], "value", 1)
    path.unlink()
    assert measure.measure(folder, SMALL, threads=1) == 1
    path.write_text(path.read_text(encoding="utf-8").replace('"build": "', '"build": "0'))
    assert measure.measure(folder, SMALL, threads=1) == 1


def test_the_table_says_how_many_times_as_long_a_peer_takes(folder: pathlib.Path) -> None:
    (run,) = report.load(folder)
    key = "table", "16 x 10", "value_and_grad"
    run.seconds[key].update(
        {"xentfast": 2e-3, "xentfast out=": 1e-3, "memory": 5e-4, "NumPy": 7e-3}
    )
    size = run.facts[key]["bytes"]
    assert size == 2 * 16 * 10 * 4 + 16 * 8
    head, _, *rows = (
        [c.strip() for c in x.split("|")[1:-1]] for x in report.table(run).splitlines()
    )
    assert [row[0] for row in rows] == ["16 x 10", "", "softmax, 7 x 3, axis 0"]
    row = dict(zip(head[1:], rows[1][1:], strict=True))
    assert row["ms"] == "2"
    assert row["ms, `out=`"] == "1"
    assert row["of memory"] == "50%"
    assert row["NumPy"] == "3.5"
    assert "With 1 thread:" in report.markdown([run])


def test_figures_of_two_builds_are_not_mixed(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for i, path in enumerate(sorted(folder.iterdir())):
        text = path.read_text(encoding="utf-8").replace('"build": "', f'"build": "{i}')
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="measured with another build"):
        report.load(tmp_path)


def test_ratios_have_the_digits_that_count() -> None:
    assert [report.ratio(r) for r in (0.5, 1.234, 2.345, 12.3)] == ["**0.50**", "1.23", "2.3", "12"]


def test_who_is_slow_sits_out() -> None:
    def rounds(seconds: float) -> int:
        entrant = Entrant(lambda: None, loops=1)
        while entrant.wants_more():
            entrant.seconds.append(seconds)
        return len(entrant.seconds)

    assert rounds(2 * PATIENCE) == FIRST_OF_LONG
    assert rounds(PATIENCE / 2) == FIRST_ROUNDS
    assert rounds(PATIENCE / 20) == 20


def test_what_fails_or_differs_is_told_from_what_is_not_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacks(case: SpeedCase, mode: str) -> Any:
        raise NotOffered("has none")

    monkeypatch.setitem(CONTENDERS, "lacks", lacks)
    monkeypatch.setitem(CONTENDERS, "wrong", lambda case, mode: lambda: 1e9)
    found = race(SMALL[0], "value", ("xentfast", "lacks", "wrong"))
    assert found["xentfast"].seconds
    assert not found["xentfast"].problem
    assert (found["lacks"].problem, found["lacks"].failed) == ("has none", False)
    assert found["wrong"].failed
    assert "differs from xentfast" in found["wrong"].problem


def test_cases_have_places_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    cases = [case for group in GROUPS.values() for case in group]
    places = {measure.place(pathlib.Path(), c, mode, 1) for c in cases for mode in c.modes}
    assert len(places) == sum(len(case.modes) for case in cases)
