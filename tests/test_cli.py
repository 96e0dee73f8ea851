"""The command line, in a process of its own and in this one."""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import xentfast
from xentfast import __main__ as cli
from xentfast import _bench, _peers


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


@pytest.fixture
def two_peers(monkeypatch: pytest.MonkeyPatch, few_elements: None) -> None:
    """The peers that the tests install, and one of them wrong where it has a softmax."""
    pytest.importorskip("sklearn")  # has no wheels for musl
    monkeypatch.setattr(_bench, "PEERS", ("scipy", "scikit-learn"))
    scipy = _peers.PEERS["scipy"]

    def wrong(problem: _peers.Problem) -> _peers.Call:
        if problem.function == "softmax":
            return lambda: problem.args[0]
        if problem.function == "entropy":
            return lambda: 1 // 0
        return scipy(problem)

    monkeypatch.setitem(_peers.PEERS, "scipy", wrong)


@pytest.mark.usefixtures("output", "two_peers")
def test_bench_with_peers(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--quick", "--peers"]) == 0
    out = capsys.readouterr().out
    headings = "function +shape +dtype +ms +GB/s +NumPy +scipy +scikit-learn"
    assert re.search(rf"^{headings} *$", out, re.MULTILINE)
    for name, version in _bench.installed_peers().items():
        assert f"{name} {version}" in out
    row = r"^(\S.*?) +[0-9x]+ +(?:float\d\d)(?: +[0-9]+\.?[0-9]*){3} +(\S+) +(\S+) *$"
    rows = re.findall(row, out, re.MULTILINE)
    assert [label for label, _, _ in rows] == [case.label for case in _bench.CASES]
    missing = {label: (scipy == "-", sklearn == "-") for label, scipy, sklearn in rows}
    assert missing == {
        "cross_entropy": (False, False),
        "cross_entropy + grad": (True, False),
        "binary_cross_entropy": (False, False),
        "entropy": (True, True),
        "softmax": (True, True),
    }


@pytest.mark.usefixtures("two_peers")
def test_bench_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--quick", "--peers", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["config"] == json.loads(json.dumps(xentfast.show_config()))
    assert report["versions"] == {"numpy": np.__version__, **_bench.installed_peers()}
    assert report["repeats"] == 1
    assert [case["function"] for case in report["cases"]] == [c.function for c in _bench.CASES]
    first, softmax, entropy = report["cases"][0], report["cases"][-1], report["cases"][-2]
    assert set(first["seconds"]) == {"xentfast", "NumPy", "reference", "scipy", "scikit-learn"}
    assert all(seconds > 0 for seconds in first["seconds"].values())
    assert first["left_out"] == {}
    assert softmax["left_out"]["scikit-learn"] == "has no softmax"
    assert softmax["left_out"]["scipy"].startswith("differs from the reference by ")
    assert entropy["left_out"]["scipy"].startswith("failed: ")


@pytest.mark.usefixtures("two_peers")
def test_bench_draws_a_picture(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "speed.png"
    assert cli.main(["bench", "--quick", "--peers", "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "GB/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("speed.xyz", r"must end in .png, .svg, .pdf or the like, got .*speed.xyz"),
        ("no/speed.png", r"must be in a folder that exists, got .*no/speed.png"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_at_once(
    name: str, message: str, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        cli.picture_path(str(tmp_path / name))


def test_without_matplotlib_a_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backend_bases", None)
    with pytest.raises(
        argparse.ArgumentTypeError, match="needs matplotlib, which is not installed"
    ):
        cli.picture_path("speed.png")


def test_a_peer_that_is_not_installed_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    problem = _peers.Problem("softmax", (np.ones((2, 3)),))
    with pytest.raises(_peers.NotOffered, match=r"no scipy\.special"):
        _peers.PEERS["scipy"](problem)
    monkeypatch.setattr(_bench, "PEERS", ("no-such-package-here",))
    assert _bench.installed_peers() == {}


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(xentfast.show_config()))


def test_alone_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    modules = "xentfast.dask", "xentfast.dropin", "xentfast.reference"
    for what in (*modules, "info", "bench", "--peers", "cross_entropy", "XENTFAST_ISA"):
        assert what in out


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    out = capsys.readouterr().out
    assert "examples:" in out
    for option in ("--quick", "--threads", "--peers", "--plot", "--json"):
        assert option in out


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
