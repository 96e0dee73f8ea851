"""The floating-point environment of the calling thread: it changes no result, and is kept."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

import xentfast
from cases import Array
from compare import assert_same_bits
from processes import run

# Where fegetenv puts the control register, and in it: subnormal results 0, subnormal operands 0,
# rounding upwards. Not in the C library's vocabulary: the first two.
X86, ARM = ("<I", 0x8000, 0x0040, 0x4000), ("<I", 1 << 24, 0, 1 << 22)
PLACES = {
    ("Linux", "x86_64"): (28, *X86),
    ("Linux", "aarch64"): (0, *ARM),
    ("Darwin", "x86_64"): (4, *X86),
    ("Darwin", "arm64"): (8, *ARM),
}
HERE = (platform.system(), platform.machine())
pytestmark = pytest.mark.skipif(HERE not in PLACES, reason="fenv_t is not known here")

TINY = 2.0**-1022


@contextmanager
def environment(flush: bool, upwards: bool) -> Iterator[None]:
    """Flush subnormal numbers to 0, or round upwards, in this thread."""
    place, form, results, operands, up = PLACES[HERE]
    libc = ctypes.CDLL(None) if sys.platform == "darwin" else ctypes.CDLL("libm.so.6")
    before, changed = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    assert libc.fegetenv(before) == libc.fegetenv(changed) == 0
    (register,) = struct.unpack_from(form, before, place)
    register |= (results | operands if flush else 0) | (up if upwards else 0)
    struct.pack_into(form, changed, place, register)
    libc.fesetenv(changed)
    try:
        yield
    finally:
        libc.fesetenv(before)


def is_changed(flush: bool, upwards: bool, tiny: float = TINY, one: float = 1.0) -> bool:
    return ((tiny / 4 == 0) if flush else True) and ((one + tiny > one) if upwards else True)


@pytest.mark.parametrize(("flush", "upwards"), [(True, False), (False, True), (True, True)])
def test_results_do_not_depend_on_it(flush: bool, upwards: bool, threads: int, isa: str) -> None:
    """Results that reach down to subnormal numbers, of enough numbers for all threads."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-110, 0, (3000, 100)).astype(np.float32)
    x[:, :2] = -97, 0
    labels = rng.integers(100, size=3000)
    p, targets = xentfast.softmax(x), (x > -50).astype(np.float32)
    halves, doubles = x.astype(np.float16), x.astype(np.float64) * 7
    weights = rng.random(3000)

    def results() -> dict[str, Array]:
        losses, gradient = xentfast.cross_entropy_value_and_grad(x, labels, reduction="none")
        binary, slope = xentfast.binary_cross_entropy_value_and_grad(x, targets, reduction="none")
        return {
            "losses": losses,
            "gradient": gradient,
            "binary": binary,
            "slope": slope,
            "softmax": xentfast.softmax(x),
            "halves": xentfast.cross_entropy_grad(halves, labels, sample_weight=weights),
            "doubles": xentfast.softmax(doubles),
            "entropy": xentfast.entropy(p),
            "divergence": xentfast.js_divergence(p, p[::-1]),
        }

    expected = results()
    assert (np.abs(expected["gradient"]) < np.finfo(np.float32).tiny).any()
    with environment(flush, upwards):
        assert is_changed(flush, upwards)
        found = results()
        assert is_changed(flush, upwards)
    for name, result in expected.items():
        assert_same_bits(found[name], result, f"{name}, {flush=}, {upwards=}")


# A thread inherits the environment of the one that starts it.
FIRST_CALL = """
import numpy as np
import xentfast
from test_environment import environment

x = np.random.default_rng(0).uniform(-110, 0, (3000, 100)).astype(np.float32)
xentfast.set_num_threads(3)
with environment(True, True):
    xentfast.softmax(x)
found = [xentfast.softmax(x) for _ in range(10)]
with xentfast.num_threads(1):
    expected = xentfast.softmax(x)
print(all((result == expected).all() for result in found), (found[0] < 1e-38).any())
"""


def test_workers_that_were_started_under_it() -> None:
    assert run(FIRST_CALL) == "True True"
