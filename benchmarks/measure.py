"""Time every case with every contender, and keep the seconds of each case in a file of its own.

    python benchmarks/measure.py FOLDER [--threads N]
    python benchmarks/measure.py FOLDER --group table --only 1,008 --scale 0.1

A case whose file is there already, made by the same build, libraries and machine, is not timed
again: what was interrupted goes on where it stopped. `report.py` makes tables and figures of the
folder. The groups are the table, the classes, the sizes and the instruction sets of speed_cases.py,
of which more than one thread gets only the table and the sizes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import re
import time
import warnings
from typing import Any

import xentfast
from contenders import contenders_of, inputs_of
from race import Entrant, pin, race
from speed_cases import GROUPS, SpeedCase
from xentfast import _kernels

PEERS = ("numpy", "torch", "jax", "optax", "tensorflow-cpu", "scikit-learn", "scipy", "numba")
ONE_THREAD, MORE_THREADS = tuple(GROUPS), ("table", "sizes")


def machine() -> dict[str, Any]:
    """Return all that must be the same for figures to stand in one table."""
    versions = {}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "python": platform.python_version(),
        "xentfast": {k: v for k, v in xentfast.show_config().items() if k != "threads"},
        "build": hashlib.sha256(pathlib.Path(_kernels.__file__).read_bytes()).hexdigest(),
        "versions": versions,
    }


def facts(case: SpeedCase, mode: str, entrants: dict[str, Entrant]) -> dict[str, Any]:
    """Return what the report has to know of a case."""
    args, _ = inputs_of(case)
    written = args[0].nbytes if case.writes(mode) else 0
    return {
        "group": case.group,
        "case": case.name,
        "function": case.function,
        "shape": case.shape,
        "dtype": case.dtype,
        "mode": mode,
        "elements": args[0].size,
        "bytes": sum(a.nbytes for a in args) + written if case.from_logits else 0,
        "seconds": {name: e.seconds for name, e in entrants.items() if e.seconds},
        "losses": {name: e.result for name, e in entrants.items() if e.seconds},
        "absent": {name: e.problem for name, e in entrants.items() if e.problem},
    }


def place(folder: pathlib.Path, case: SpeedCase, mode: str, threads: int) -> pathlib.Path:
    """Return the file of a case."""
    words = re.sub(r"[^\w.]+", "-", f"{case.group} {case.name} {mode}")
    return folder / f"{words}-{threads}.json"


def measure(folder: pathlib.Path, cases: list[SpeedCase], threads: int, scale: float = 1.0) -> int:
    """Time what the folder does not have; return how many races that were."""
    folder.mkdir(parents=True, exist_ok=True)
    given = json.loads(json.dumps({"machine": machine(), "threads": threads, "scale": scale}))
    wanted = [(case, mode) for case in cases for mode in case.modes]
    begin, timed = time.monotonic(), 0
    for i, (case, mode) in enumerate(wanted, 1):
        path = place(folder, case, mode, threads)
        if path.exists():
            there = json.loads(path.read_text(encoding="utf-8"))
            if all(there[name] == value for name, value in given.items()):
                continue
        start, scaled = time.monotonic(), case.scaled(scale)
        entrants = race(scaled, mode, tuple(contenders_of(scaled, mode)))
        part = path.with_suffix(".part")
        part.write_text(json.dumps(given | facts(scaled, mode, entrants)), encoding="utf-8")
        part.replace(path)
        timed += 1
        now = time.monotonic()
        print(
            f"{i}/{len(wanted)}, {now - begin:.0f} s: {case.group}, {case.name}, {mode}, "
            f"{now - start:.1f} s; "
            + ", ".join(f"{name} {1e3 * e.median:.3g}" for name, e in entrants.items() if e.seconds)
            + " ms",
            flush=True,
        )
        for name, entrant in entrants.items():
            if entrant.failed:
                print(f"    {name}: {entrant.problem}", flush=True)
    return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1, help="for everyone (default: 1)")
    parser.add_argument("--group", action="append", choices=tuple(GROUPS))
    parser.add_argument("--only", action="append", help="cases whose name has this in it")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the rows")
    options = parser.parse_args()
    pin(parser, options.threads)
    warnings.simplefilter("ignore")  # peers warn of their own affairs
    groups = options.group or (ONE_THREAD if options.threads == 1 else MORE_THREADS)
    cases = [case for group in groups for case in GROUPS[group]]
    words = options.only or [""]
    chosen = [case for case in cases if any(word in case.name for word in words)]
    measure(options.folder, chosen, options.threads, options.scale)


if __name__ == "__main__":
    main()
