"""Threads whose stack is small, and what a call works in instead: memory of the heap."""

from __future__ import annotations

import re
import sys

import pytest

from cases import ALL_CASES
from processes import run

MOST = 48 * 1024  # bytes of its caller's stack that a call may take

# A stack that ends is a crash, so all is called in a process of its own: first in a thread of 64
# KiB, then in one whose stack is painted, to show how deep it went beyond one that does nothing.
CALLS = """
import ctypes, mmap, sys, threading
import ml_dtypes
import numpy as np
import xentfast
from cases import ALL_CASES, FEW_SHAPES, ISAS
from compare import FEW_WAYS, outputs

PAINT, SIZE = 0x5A, 1 << 20
calls, failures = [], []

def prepare(function):
    shapes = [shape.pair for shape in FEW_SHAPES] + [(1200, 100)]  # many panels together
    for case in (case for case in ALL_CASES if case.function == function):
        for dtype in ("float32", "float64", "float16", ml_dtypes.bfloat16):
            for shape in shapes:
                args, options = case.inputs("float32", shape)
                args = [a.astype(dtype) if a.dtype.kind == "f" else a for a in args]
                calls.append((case, (args, options)))
                if not case.elementwise:
                    first = [np.ascontiguousarray(a.T) for a in args]
                    calls.append((case, (first, options | {"axis": 0})))
        args, options = case.inputs("float64", (2, 2))
        calls.append((case, ([a.tolist() for a in args], options)))

def call_all():
    try:
        for isa in ISAS:
            xentfast._kernels.set_isa(isa)
            for case, inputs in calls:
                outputs(xentfast, case, inputs, FEW_WAYS)
    except BaseException as error:
        failures.append(error)

def touched(work):
    libc = ctypes.CDLL(None)
    attributes, thread = ctypes.create_string_buffer(512), ctypes.c_void_p()
    memory = mmap.mmap(-1, SIZE)
    stack = np.frombuffer(memory, np.uint8)
    stack[:] = PAINT
    start = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: work())
    for failed in (
        libc.pthread_attr_init(attributes),
        libc.pthread_attr_setstack(attributes, stack.ctypes, ctypes.c_size_t(SIZE)),
        libc.pthread_create(ctypes.byref(thread), attributes, start, None),
        libc.pthread_join(thread, None),
    ):
        assert not failed
    return SIZE - int((stack != PAINT).argmax())

prepare(sys.argv[1])
threading.stack_size(64 * 1024)
thread = threading.Thread(target=call_all)
thread.start()
thread.join()
print(touched(call_all) - touched(lambda: None))
if failures:
    raise failures[0]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="threads are not those of POSIX")
@pytest.mark.parametrize("function", sorted({case.function for case in ALL_CASES}))
def test_calls_in_a_thread_with_a_small_stack(function: str) -> None:
    assert 0 < int(run(CALLS, function)) < MOST


# Memory is taken away, first in large pieces and then in small ones, before a first call. Every
# other small one is given back, for the message: no two of them are neighbours, so that there is
# none for scratch, the least of which is three times as large.
NO_MEMORY = """
import resource
import numpy as np
import xentfast

x, pixels = np.zeros((4, 3)), np.zeros((64, 400))
calls = {
    "a panel": lambda: xentfast.cross_entropy(x, [0, 1, 2, 0]),
    "panels": lambda: xentfast.logsumexp(pixels, axis=0),
    "a block": lambda: xentfast.binary_cross_entropy(x, x),
}
status = open("/proc/self/statm", encoding="ascii").read().split()
small = [bytearray(1 << 13) for _ in range(128)]
limit = (int(status[0]) + 2000) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
taken = []
for size in (1 << 20, 1 << 16, 1 << 13):
    try:
        while True:
            taken.append(bytearray(size))
    except MemoryError:
        pass
del small[::2]
for name, call in calls.items():
    try:
        call()
    except MemoryError as error:
        print(name, error)
del taken
for call in calls.values():
    call()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what memory there is cannot be limited")
def test_without_memory_a_call_says_so() -> None:
    lines = run(NO_MEMORY).splitlines()
    for name, line in zip(("a panel", "panels", "a block"), lines, strict=True):
        assert re.fullmatch(name + r" no memory for \d{5,} bytes of scratch", line)
