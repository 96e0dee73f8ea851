"""Time two copies of xentfast in turn, in one run: what a change has made faster, or slower.

    python benchmarks/versions.py OLD NEW
    python benchmarks/versions.py OLD NEW --only 1,008 --within 1024 --rounds 21

A copy is a wheel, a directory that holds an installed `xentfast` (the site-packages of an
environment), or the Python of an environment, whose installation may be editable. Each has a
process of its own, which makes the same arguments from the same seed; both are pinned to the same
CPUs and work in turn, the one that begins changing with each round, so that whatever else the
machine does meets both. A gradient goes into `out=`, an array touched before.

The table gives the medians of the rounds; `ratio` is the median of old / new over the rounds, more
than 1 where the new copy is the faster one, with the quartiles behind it. XENTFAST_ISA counts for
both. --within KIB takes no more rows than have their logits in so many KiB, for the caches;
--scale a part of the rows.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

ROUNDS = 11
# Short calls are repeated to fill a sample of as many seconds.
SAMPLE = 0.01
# The rounds of a slow case end, but not before the first five, when they have taken so long.
PATIENCE, FIRST_ROUNDS = 10.0, 5
MODES = {"value": "value", "value_and_grad": "value and gradient"}


# --- a copy, in a process of its own --------------------------------------------------------------


class Worker:
    """What a copy's process does when asked: each method is a question."""

    def __init__(self, threads: int) -> None:
        import speed_cases
        import xentfast

        xentfast.set_num_threads(threads)
        self.xentfast = xentfast
        self.cases = (*speed_cases.TABLE, *speed_cases.CLASSES, *speed_cases.SIZES)
        self.dtype_of = speed_cases.dtype_of
        self.call: Callable[[], Any] = lambda: None
        self.inputs = functools.lru_cache(maxsize=1)(self.make)

    def about(self) -> dict[str, Any]:
        return self.xentfast.show_config() | {"at": self.xentfast.__path__[0]}

    def names(self) -> list[tuple[str, str, str]]:
        return [(c.group, c.name, mode) for c in self.cases for mode in c.modes]

    def make(self, case: Any) -> tuple[list[Any], dict[str, Any]]:
        args, options = case.inputs()
        return [placed(a) for a in args], options

    def prepare(
        self, group: str, name: str, mode: str, scale: float, within: float
    ) -> dict[str, Any]:
        """Make the arguments and run once; the result shows that both copies do the same."""
        import numpy as np

        case = next(c for c in self.cases if (c.group, c.name) == (group, name))
        size = case.elements * self.dtype_of(case.dtype).itemsize
        case = case.scaled(min(scale, within * 1024 / size))
        args, options = self.inputs(case)
        if case.writes(mode):
            options = options | {"out": placed(np.zeros_like(args[0]))}
        suffix = "_value_and_grad" if mode == "value_and_grad" else ""
        f = getattr(self.xentfast, case.function + suffix)
        self.call = functools.partial(f, *args, **options)
        result = self.call()
        value = np.asarray(result[0] if isinstance(result, tuple) else result)
        return {
            "shape": case.shape,
            "elements": args[0].size,
            "result": float(np.mean(value, dtype=np.float64)),
            "seconds": self.sample(1),
        }

    def sample(self, loops: int) -> float:
        call = self.call
        start = time.perf_counter()
        for _ in range(loops):
            call()
        return (time.perf_counter() - start) / loops


def placed(a: Any) -> Any:
    """Copy an array to 16 bytes behind the beginning of a page, where malloc puts large ones.

    A small one is anywhere, and how arrays lie to each other can make a tenth of the time.
    """
    import numpy as np

    memory = np.empty(a.nbytes + 4096, np.uint8)
    first = (16 - memory.ctypes.data) % 4096
    result = memory[first : first + a.nbytes].view(a.dtype).reshape(a.shape)
    result[...] = a
    return result


def serve() -> None:
    """Answer the questions, each a line of JSON; what is printed meanwhile goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        given = json.loads(sys.stdin.readline())
        os.sched_setaffinity(0, given["cpus"])
        sys.path[:0] = given["first"]
        sys.path += given["last"]
        worker = Worker(len(given["cpus"]))
        for line in sys.stdin:
            question, *arguments = json.loads(line)
            try:
                answer = getattr(worker, question)(*arguments)
            except Exception as error:
                answer = {"problem": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


class Copy:
    """The process of a copy, as its owner sees it."""

    def __init__(self, path: pathlib.Path, cpus: list[int], folder: pathlib.Path) -> None:
        here = str(pathlib.Path(__file__).parent)
        first, command = [here], [sys.executable, "-P"]
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                wheel.extractall(folder)
            path = folder
        if (path / "xentfast" / "__init__.py").exists():
            # Without `site`, or an editable installation in this environment would come first.
            first.append(str(path))
            command.append("-S")
        elif path.is_file() and os.access(path, os.X_OK):
            command[0] = str(path)
        else:
            sys.exit(f"{path} must be a wheel, a directory that has xentfast in it, or a Python")
        self.process = subprocess.Popen(
            [*command, __file__, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        last = [entry for entry in sys.path[1:] if entry != here]
        self._say({"cpus": cpus, "first": first, "last": last})

    def _say(self, what: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def ask(self, *question: Any) -> Any:
        assert self.process.stdout is not None
        self._say(question)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"a copy has ended with code {self.process.wait()}")
        return json.loads(answer)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# --- both in turn ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """The medians of a case in one mode, in seconds, and the quartiles of old / new."""

    case: str
    mode: str
    shape: tuple[int, ...]
    elements: int
    old: float
    new: float
    ratio: tuple[float, float, float]

    def __str__(self) -> str:
        low, middle, high = self.ratio
        cells = (
            self.case,
            MODES[self.mode],
            " x ".join(f"{n:,}" for n in self.shape),
            f"{1e3 * self.old:.4g}",
            f"{1e3 * self.new:.4g}",
            f"{1e9 * self.old / self.elements:.3f}",
            f"{1e9 * self.new / self.elements:.3f}",
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
        )
        return "| " + " | ".join(cells) + " |"


HEAD = (
    "| case | | shape | old, ms | new, ms | old, ns/entry | new, ns/entry | ratio |\n"
    "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
)


def compare(copies: list[Copy], case: tuple[str, str, str], options: argparse.Namespace) -> Line:
    """Time one case. Raises ValueError where a copy cannot run it, or the results differ."""
    facts = [copy.ask("prepare", *case, options.scale, options.within) for copy in copies]
    for fact in facts:
        if "problem" in fact:
            raise ValueError(fact["problem"])
    results = [fact["result"] for fact in facts]
    if not abs(results[0] - results[1]) <= 1e-3 * abs(results[0]):
        raise ValueError(f"the results differ: {results[0]!r} and {results[1]!r}")
    loops = max(1, round(SAMPLE / min(fact["seconds"] for fact in facts)))
    times: list[list[float]] = []
    begin = time.perf_counter()
    for turn in range(options.rounds):
        if turn >= FIRST_ROUNDS and time.perf_counter() - begin > PATIENCE:
            break
        seconds = [0.0, 0.0]
        for i in (0, 1) if turn % 2 == 0 else (1, 0):
            if loops > 1:
                copies[i].ask("sample", 1 + loops // 4)  # into the caches again
            seconds[i] = copies[i].ask("sample", loops)
        times.append(seconds)
    ratios = [old / new for old, new in times]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios
    old, new = (statistics.median(column) for column in zip(*times, strict=True))
    _, name, mode = case
    return Line(
        name,
        mode,
        tuple(facts[0]["shape"]),
        facts[0]["elements"],
        old,
        new,
        (quartiles[0], statistics.median(ratios), quartiles[-1]),
    )


@contextlib.contextmanager
def started(paths: list[pathlib.Path], cpus: list[int]) -> Iterator[list[Copy]]:
    with tempfile.TemporaryDirectory() as folder:
        copies = [
            Copy(path, cpus, pathlib.Path(folder, name))
            for path, name in zip(paths, ("old", "new"), strict=True)
        ]
        try:
            yield copies
        finally:
            for copy in copies:
                copy.end()


def main() -> None:
    if sys.argv[1:] == ["--worker"]:
        return serve()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path)
    parser.add_argument("--only", action="append", help="cases whose name has this in it")
    parser.add_argument("--mode", choices=MODES, help="default: both")
    parser.add_argument("--group", default="table", help="table, classes or sizes")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the rows")
    parser.add_argument("--within", type=float, default=float(2**40), metavar="KIB")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path, help="a file for the figures")
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= options.threads <= len(cpus):
        parser.error(f"--threads must be in [1, {len(cpus)}], got {options.threads}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")

    lines = []
    with started([options.old, options.new], cpus[: options.threads]) as copies:
        about = [copy.ask("about") for copy in copies]
        for name, config in zip(("old", "new"), about, strict=True):
            print(
                f"{name}: {config['version']}, {config['isa']}, {config['compiler']}, "
                f"{config['threads']} threads, {config['at']}"
            )
        print("\n" + HEAD)
        for group, name, mode in copies[0].ask("names"):
            wanted = group == options.group and options.mode in (None, mode)
            if not wanted or not any(part in name for part in options.only or [""]):
                continue
            try:
                line = compare(copies, (group, name, mode), options)
            except ValueError as problem:
                print(f"| {name} | {MODES[mode]} | {problem} | | | | | |")
                continue
            lines.append(line)
            print(line, flush=True)
    if options.json:
        figures = {"old": about[0], "new": about[1], "lines": [vars(line) for line in lines]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
