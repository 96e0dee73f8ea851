"""Count the instructions that the kernels take for an element, which no busy machine can blur.

`python benchmarks/instructions.py` counts them and stores the figures of this instruction set and
compiler in instructions.json. Needs valgrind, which has no AVX-512.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

import xentfast
from speed_cases import SpeedCase
from versions import placed

FIGURES = pathlib.Path(__file__).with_suffix(".json")

_CONFIG: dict[str, Any] = xentfast.show_config()
ISA = "avx2" if "avx2" in _CONFIG["isas_available"] else _CONFIG["isas_available"][0]
# Another version of a compiler may differ by more than a change worth noticing.
KEY = f"{ISA}, {_CONFIG['compiler'].split('.')[0]}"

# Some 2**18 elements: the Python of a call is then about a hundredth.
CASES = {
    f"{case.name}, {mode}": (case, mode)
    for case in (
        SpeedCase("10 classes", "cross_entropy", (26_214, 10), "panels of rows"),
        SpeedCase("112 classes", "cross_entropy", (2_340, 112), "the largest panels"),
        SpeedCase("1,008 classes", "cross_entropy", (260, 1_008), "whole rows"),
        SpeedCase("32,768 classes", "cross_entropy", (8, 32_768), "rows in blocks"),
        SpeedCase("pixels", "cross_entropy", (1, 64, 64, 64), "panels together", axis=1),
        SpeedCase("dense", "cross_entropy", (260, 1_008), "two arrays", dense=True),
        SpeedCase("float16", "cross_entropy", (260, 1_008), "widened", dtype="float16"),
        SpeedCase("binary", "binary_cross_entropy", (262_144,), "the sigmoid"),
        SpeedCase("entropy", "entropy", (260, 1_008), "the logarithm"),
        SpeedCase("KL", "kl_divergence", (260, 1_008), "the logarithm of a ratio"),
    )
    for mode in case.modes
}
REPEATS = 4
MARKER = "getpgrp"  # a function of the C library that nobody else calls: the counts stop there


def run() -> None:
    """Call each case between two markers, after once to warm up."""
    mark = getattr(os, MARKER)
    for case, mode in CASES.values():
        args, options = case.inputs()
        args = tuple(placed(a) for a in args)  # what is counted depends on where lines begin
        call = functools.partial(getattr(xentfast, case.function), *args, **options)
        if mode == "value_and_grad":
            function = getattr(xentfast, f"{case.function}_value_and_grad")
            call = functools.partial(function, *args, **options, out=placed(args[0]))
        call()
        mark()
        for _ in range(REPEATS):
            call()
        mark()


def count() -> dict[str, float]:
    """Run the cases in valgrind; of its counts each second one is that of a case."""
    settings = {"XENTFAST_ISA": ISA, "XENTFAST_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder, "counts")
        subprocess.run(
            [
                *("valgrind", "--quiet", "--tool=callgrind", f"--dump-before={MARKER}"),
                *(f"--callgrind-out-file={place}", sys.executable, __file__, "--run"),
            ],
            env=os.environ | settings,
            check=True,
        )
        counts = {}
        for i, (name, (case, _)) in enumerate(CASES.items()):
            text = place.with_suffix(f".{2 * i + 2}").read_text(encoding="utf-8")
            (instructions,) = re.findall(r"^totals: (\d+)$", text, re.MULTILINE)
            counts[name] = round(int(instructions) / REPEATS / case.elements, 3)
    return counts


def stored() -> dict[str, dict[str, float]]:
    """Return the figures by instruction set and compiler."""
    figures: dict[str, dict[str, float]] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return figures


def main() -> None:
    if sys.argv[1:] == ["--run"]:
        run()
        return
    counts = count()
    FIGURES.write_text(json.dumps(stored() | {KEY: counts}, indent=2) + "\n", encoding="utf-8")
    print(KEY, *(f"{figure:8.3f}  {name}" for name, figure in counts.items()), sep="\n")


if __name__ == "__main__":
    main()
