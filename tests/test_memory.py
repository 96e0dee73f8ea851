"""No function takes memory of the size of its arguments, beyond what it returns."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# In a process of its own: the most memory it ever had, before and after a call whose arguments and
# result were touched before. Buffers, threads and code are touched by a small call first.
MEASURE = """
import pathlib, re, sys
import numpy as np
import xentfast

def extra(call):
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # begins anew
    status = pathlib.Path("/proc/self/status")
    most = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text(encoding="ascii"))[1])
    before = most()
    call()
    return most() - before
"""
SCRIPT = """
name, axis = sys.argv[1], int(sys.argv[2])
shape = (3000, 2000) if axis == -1 else (3, 100, 20_000)
x = np.full(shape, 0.25, np.float32)
y = np.zeros(np.delete(shape, axis), np.int64)
out = np.zeros_like(x)
calls = {
    "value": lambda x, y, out: xentfast.cross_entropy(x, y, axis=axis),
    "gradient": lambda x, y, out: xentfast.cross_entropy_value_and_grad(x, y, axis=axis, out=out),
    "smoothed": lambda x, y, out: xentfast.cross_entropy_value_and_grad(
        x, y, axis=axis, label_smoothing=0.1, class_weight=np.ones(x.shape[axis]), out=out),
    "dense": lambda x, y, out: xentfast.cross_entropy(x, x, axis=axis),
    "probabilities": lambda x, y, out: xentfast.cross_entropy(x, y, axis=axis, from_logits=False),
    "softmax": lambda x, y, out: xentfast.softmax(x, axis=axis, out=out),
    "log_softmax": lambda x, y, out: xentfast.log_softmax(x, axis=axis, out=out),
    "logsumexp": lambda x, y, out: xentfast.logsumexp(x, axis=axis),
    "entropy": lambda x, y, out: xentfast.entropy(x, axis=axis, normalize=True),
    "kl": lambda x, y, out: xentfast.kl_divergence(x, x, axis=axis),
    "copy": lambda x, y, out: x.copy(),
    "binary": lambda x, y, out: xentfast.binary_cross_entropy_value_and_grad(x, x, out=out),
}
call = calls[name]
few = [slice(None)] * x.ndim
few[0 if axis == -1 else 2] = slice(0, 700)
small = [np.ascontiguousarray(a) for a in (x[tuple(few)], y[:700] if axis == -1 else y[:, :700],
                                           out[tuple(few)])]
for _ in range(3):
    call(*small)
del small
print(extra(lambda: call(x, y, out)))
"""
NAMES = (
    "value", "gradient", "smoothed", "dense", "probabilities", "softmax", "log_softmax",
    "logsumexp", "entropy", "kl", "binary",
)  # fmt: skip


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")


def extra_memory(script: str, *arguments: object) -> int:
    result = subprocess.run(
        [sys.executable, "-P", "-c", MEASURE + script, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=True,
        env=os.environ | {"XENTFAST_NUM_THREADS": "2"},
    )
    return int(result.stdout)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", NAMES)
def test_extra_memory(name: str, axis: int) -> None:
    assert extra_memory(SCRIPT, name, axis) < 2**20  # beside 24 MB of logits


def test_an_array_would_be_seen() -> None:
    assert extra_memory(SCRIPT, "copy", -1) > 2**24


# What a BLAS packs its matrices into counts too: it is a first call of the default size.
LARGE_LAYER = """
x = np.full((2048, 256), 0.25, np.float32)
w = np.full((32_768, 256), 0.25, np.float32)
y = np.zeros(2048, np.int64)
f = xentfast.linear_cross_entropy_value_and_grad
f(x[:64], w[:64], y[:64])
print(extra(lambda: f(x, w, y)) - x.nbytes - w.nbytes)
"""


def test_linear_with_what_the_blas_keeps() -> None:
    assert extra_memory(LARGE_LAYER) < 72 * 2**20  # of 268 MB of logits


# What a BLAS packs its matrices into it keeps: here the first call does not count.
LINEAR = """
wanted, chunk_bytes = sys.argv[1], int(sys.argv[2])
x = np.full((1500, 64), 0.25, np.float32)
w = np.full((20_000, 64), 0.25, np.float32)
y = np.arange(1500)
y[::3] = -100
f = getattr(xentfast, "linear_cross_entropy" + wanted)
options = {"ignore_index": -100, "chunk_bytes": chunk_bytes}
if wanted:
    options["filter_eps"] = 1e-9  # a product in many parts
f(x, w, y, w[:, 0], **options)
gradients = x.nbytes + w.nbytes + w[:, 0].nbytes if wanted else 0
print(extra(lambda: f(x, w, y, w[:, 0], **options)) - gradients)
"""


@pytest.mark.parametrize("chunk_bytes", [2**22, 2**24])
@pytest.mark.parametrize("wanted", ["", "_value_and_grad"])
def test_linear_takes_a_chunk(wanted: str, chunk_bytes: int) -> None:
    assert extra_memory(LINEAR, wanted, chunk_bytes) < chunk_bytes + 2**20  # of 120 MB of logits


# The first chunk's logits lie in the weight's gradient.
WITHIN = """
x = np.full((600, 256), 0.25, np.float32)
w = np.full((60_000, 256), 0.25, np.float32)
y = np.arange(600)
y[::3] = -100
f = xentfast.linear_cross_entropy_value_and_grad
f(x, w, y, ignore_index=-100, chunk_bytes=2**24)
print(extra(lambda: f(x, w, y, ignore_index=-100, chunk_bytes=2**24)) - x.nbytes - w.nbytes)
"""


def test_linear_within_the_gradient() -> None:
    assert extra_memory(WITHIN) < 2**24 + 2**20  # of 96 MB of logits


def test_linear_takes_what_it_may() -> None:
    assert extra_memory(LINEAR, "", 2**24) > 2**23
