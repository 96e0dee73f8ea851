"""The command line, in a process of its own and in this one."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest

import xentfast
from xentfast import __main__ as cli
from xentfast import _bench


def run(*arguments: str) -> str:
    """Run the module and return what it prints."""
    command = [sys.executable, "-P", "-m", "xentfast", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_info(out: str) -> None:
    """Expect a line for everything that `info` promises, with what the package itself says."""
    config: dict[str, Any] = xentfast.show_config()  # the values are of several types
    for name, value in (
        ("version", config["version"]),
        ("compiler", config["compiler"]),
        ("instruction sets built", ", ".join(config["isas_built"])),
        ("available here", ", ".join(config["isas_available"])),
        ("chosen", config["isa"]),
        ("threads", config["threads"]),
    ):
        assert re.search(rf"^{name} +{re.escape(str(value))} *$", out, re.MULTILINE), name


def assert_bench(out: str) -> None:
    """Expect the headings, and a row for each case in turn: function, shape, dtype, numbers."""
    assert re.search(r"^function +shape +dtype +ms +GB/s +NumPy +ratio +ref\. +ratio *$", out, re.M)
    row = r"^(\S.*?) +[0-9]+(?:x([0-9]+))? +(float\d\d)(?: +[0-9]+\.?[0-9]*){6} *$"
    assert re.findall(row, out, re.MULTILINE) == [
        (case.label, "" if case.classes == 1 else str(case.classes), case.dtype)
        for case in _bench.CASES
    ]


def test_info_in_a_process_of_its_own() -> None:
    assert_info(run("info"))


def test_bench_in_a_process_of_its_own() -> None:
    assert_bench(run("bench", "--quick"))


@pytest.fixture(params=["rich", "plain"])
def output(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rich, and with the plain columns that stand in for it."""
    if request.param == "rich":
        pytest.importorskip("rich")
    monkeypatch.setattr(cli, "HAS_RICH", request.param == "rich")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def few_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark too small to time anything, which still runs and checks every case."""
    monkeypatch.setattr(_bench, "QUICK", _bench.Size(elements=2**10, repeats=1))


@pytest.mark.usefixtures("output")
def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    assert_info(capsys.readouterr().out)


@pytest.mark.usefixtures("output", "few_elements")
def test_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--quick"]) == 0
    assert_bench(capsys.readouterr().out)


@pytest.mark.usefixtures("few_elements")
def test_bench_uses_the_threads_asked_for_and_puts_them_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = xentfast.get_num_threads()
    assert cli.main(["bench", "--quick", "--threads", "1"]) == 0
    assert ", 1 thread)" in capsys.readouterr().out
    assert xentfast.get_num_threads() == before


@pytest.mark.usefixtures("few_elements")
def test_bench_refuses_a_wrong_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(xentfast, "softmax", lambda x: x)
    assert cli.main(["bench", "--quick"]) == 1
    assert "softmax of xentfast must agree with the reference" in capsys.readouterr().err


def test_without_a_command_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert "info" in out
    assert "bench" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure"], "invalid choice: 'measure'"),
        (["bench", "--threads", "0"], "argument --threads: n must be in [1, 1024], got 0"),
        (["bench", "--threads", "two"], "argument --threads: invalid int value: 'two'"),
    ],
)
def test_mistakes_print_help_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert "--help" in err


def test_columns_are_aligned() -> None:
    rows = [("name", "ms"), ("softmax", "1.50")]
    assert cli.format_columns(rows, 1) == "name       ms\nsoftmax  1.50"


@pytest.mark.parametrize(
    ("number", "text"), [(0.5, "0.50"), (9.994, "9.99"), (12.34, "12.3"), (1234.5, "1234")]
)
def test_numbers_have_about_three_digits(number: float, text: str) -> None:
    assert cli.three_digits(number) == text
