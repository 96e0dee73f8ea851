"""Scripts in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TIMEOUT = 600  # for a process that hangs; far beyond what one that does not hang takes
SETTINGS = ("XENTFAST_NUM_THREADS", "OMP_NUM_THREADS", "XENTFAST_ISA")


def run(script: str, *args: str, **environment: str) -> str:
    """Run a script, which may import what is beside this file, and return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *args],
        env=inherited | {"PYTHONPATH": str(Path(__file__).parent)} | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()
