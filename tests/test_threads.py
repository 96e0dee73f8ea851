"""Threads: forked children, several callers at once, and the settings of the environment."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import xentfast
from compare import assert_same_bits
from processes import run

# 600,000 numbers: enough for every thread of a pool of 7.
FORK = """
import os, sys
import numpy as np
import xentfast

xentfast.set_num_threads({threads})
x = np.random.default_rng(0).normal(size=(600, 1000)).astype(np.float32)
labels = np.arange(600)
{before}
expected = {expected}
for generation in range(3):
    child = os.fork()
    if child == 0:
        value, gradient = xentfast.cross_entropy_value_and_grad(x, labels)
        right = expected is None or (value == expected[0] and (gradient == expected[1]).all())
        grandchild = os.fork()
        if grandchild == 0:
            again = xentfast.cross_entropy(x, labels)
            os._exit(0 if again == value else 3)
        _, status = os.waitpid(grandchild, 0)
        os._exit(os.waitstatus_to_exitcode(status) if right else 4)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"a child ended with {{os.waitstatus_to_exitcode(status)}}")
    if expected is not None:  # the parent goes on as before
        assert xentfast.cross_entropy(x, labels) == expected[0]
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("when", ["after a parallel call", "before any call"])
def test_fork(threads: int, when: str) -> None:
    """Children and their children make parallel calls, whatever the parent did before."""
    call = "xentfast.cross_entropy_value_and_grad(x, labels)"
    before, expected = (f"for _ in range(3): {call}", call) if "after" in when else ("", "None")
    script = FORK.format(threads=threads, before=before, expected=expected)
    assert run(script) == "done"


FORK_DURING_CALLS = """
import os, sys, threading
import numpy as np
import xentfast

xentfast.set_num_threads(4)
x = np.random.default_rng(0).normal(size=(600, 1000)).astype(np.float32)
labels = np.arange(600)
expected = xentfast.cross_entropy(x, labels)
stop = threading.Event()

def call():
    while not stop.is_set():
        xentfast.cross_entropy(x, labels)

caller = threading.Thread(target=call)
caller.start()
try:
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os._exit(0 if xentfast.cross_entropy(x, labels) == expected else 3)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"a child ended with {os.waitstatus_to_exitcode(status)}")
finally:
    stop.set()
    caller.join()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_while_another_thread_is_in_a_call() -> None:
    assert run(FORK_DURING_CALLS) == "done"


# Eight threads call everything, each from another place on, while the main thread forks; each child
# makes a call of one thread, and every tenth one of several.
FORKS = """
import os, signal, sys, threading
import numpy as np
import xentfast
from cases import ALL_CASES
from compare import FEW_WAYS, outputs

def make(shape):
    found = []
    for case in ALL_CASES:
        inputs = case.inputs("float32", shape)
        found.append((case, inputs, outputs(xentfast, case, inputs, FEW_WAYS)))
    return found

def same(case, inputs, expected):
    found = outputs(xentfast, case, inputs, FEW_WAYS)
    return all(np.array_equal(found[name], a, equal_nan=True) for name, a in expected.items())

xentfast.set_num_threads(4)
sys.setswitchinterval(1e-4)
small, large = make((17, 9)), make((600, 500))
stop, wrong = threading.Event(), []

def call(first):
    place = 7 * first
    while not stop.is_set():
        place = (place + 1) % len(ALL_CASES)
        if not same(*(small, large)[place % 16 == first][place]):
            wrong.append(str(large[place][0]))

callers = [threading.Thread(target=call, args=(i,)) for i in range(8)]
for caller in callers:
    caller.start()
try:
    for i in range(int(sys.argv[1])):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # it would hang
            os._exit(0 if same(*(small, large)[i % 10 == 0][i % len(ALL_CASES)]) else 3)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"child {i} ended with {os.waitstatus_to_exitcode(status)}")
finally:
    stop.set()
    for caller in callers:
        caller.join()
print(wrong or "done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_while_eight_threads_call_everything() -> None:
    """A hundred here, a thousand in .ci/run."""
    forks = os.environ.get("XENTFAST_TEST_FORKS", "100")
    # The threads of OpenBLAS are not ours to test.
    assert run(FORKS, forks, OPENBLAS_NUM_THREADS="1") == "done"


def test_several_callers_at_once(threads: int) -> None:
    """Callers share the pool or work alone; neither shows in the bits."""
    rng = np.random.default_rng(1)
    jobs = []
    for i in range(8):
        x = rng.normal(size=(300 + i, 1000)).astype(np.float32 if i % 2 else np.float64)
        jobs.append((x, rng.integers(1000, size=len(x))))
    expected = [xentfast.cross_entropy_value_and_grad(*job) for job in jobs]
    start = threading.Barrier(4)

    def call(first: int) -> list[tuple[int, Any]]:
        start.wait()
        order = [(first + 2 * i) % len(jobs) for i in range(2 * len(jobs))]
        return [(i, xentfast.cross_entropy_value_and_grad(*jobs[i])) for i in order]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(call, range(4)):
            for i, (value, gradient) in found:
                assert_same_bits(value, expected[i][0], f"value of job {i}")
                assert_same_bits(gradient, expected[i][1], f"gradient of job {i}")


def test_changing_the_number_of_threads_between_calls() -> None:
    x = np.random.default_rng(2).normal(size=(600, 1000))
    labels = np.arange(600)
    before = xentfast.get_num_threads()
    try:
        results = []
        for n in (1, 9, 2, 64, 1, 3, 1024, 2):
            xentfast.set_num_threads(n)
            assert xentfast.get_num_threads() == n
            assert xentfast.show_config()["threads"] == n
            results.append(xentfast.cross_entropy(x, labels))
        assert len(set(results)) == 1
    finally:
        xentfast.set_num_threads(before)


def test_numbers_of_threads_of_other_integer_types() -> None:
    before = xentfast.get_num_threads()
    try:
        xentfast.set_num_threads(np.int16(3))
        assert xentfast.get_num_threads() == 3
    finally:
        xentfast.set_num_threads(before)


THREADS = "import xentfast; print(xentfast.get_num_threads())"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XENTFAST_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "5"}, "5"),
        ({"OMP_NUM_THREADS": "5,2"}, "5"),
        ({"XENTFAST_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3"),
        ({"XENTFAST_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, "5"),
        ({"XENTFAST_NUM_THREADS": "1"}, "1"),
        ({"XENTFAST_NUM_THREADS": "99999999"}, "1024"),
    ],
)
def test_the_environment_chooses_the_number(environment: dict[str, str], expected: str) -> None:
    assert run(THREADS, **environment) == expected


@pytest.mark.parametrize("bad", ["0", "-3", "two", "1.5"])
def test_a_wrong_number_in_the_environment_is_refused(bad: str) -> None:
    message = f"ValueError: XENTFAST_NUM_THREADS must be an integer >= 1, got '{bad}'"
    with pytest.raises(AssertionError, match=message):
        run("import xentfast", XENTFAST_NUM_THREADS=bad)
    assert run(THREADS, OMP_NUM_THREADS=bad) == run(THREADS)  # not ours to refuse


def test_set_num_threads_overrides_the_environment() -> None:
    script = "import xentfast; xentfast.set_num_threads(2); print(xentfast.get_num_threads())"
    assert run(script, XENTFAST_NUM_THREADS="3") == "2"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_the_affinity_mask_limits_the_number() -> None:
    limit = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert run(limit + THREADS) == "1"
    # but not a number that was asked for
    assert run(limit + THREADS, XENTFAST_NUM_THREADS="3") == "3"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity masks here")
def test_without_settings_there_is_a_thread_for_each_cpu_at_most() -> None:
    assert 1 <= int(run(THREADS)) <= len(os.sched_getaffinity(0))


def test_the_environment_chooses_the_instruction_set() -> None:
    script = "import xentfast; print(xentfast.show_config()['isa'])"
    available = xentfast._kernels.available_isas()
    for name in available:
        assert run(script, XENTFAST_ISA=name) == name
    assert run(script) == available[-1]


def test_an_unknown_instruction_set_in_the_environment_is_refused() -> None:
    with pytest.raises(AssertionError, match="ValueError: XENTFAST_ISA: instruction set must be"):
        run("import xentfast", XENTFAST_ISA="sse9")


def test_importing_starts_no_thread() -> None:
    script = (
        "import os, threading, numpy; before = len(os.listdir('/proc/self/task'));"
        "import xentfast; print(len(os.listdir('/proc/self/task')) - before)"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc here")
    assert run(script) == "0"


def test_importing_warns_of_nothing() -> None:
    script = (
        "import subprocess, sys; command = ['-P', '-X', 'dev', '-X', 'warn_default_encoding', '-W',"
        "'error', '-c', 'import xentfast']; print(subprocess.call([sys.executable, *command]))"
    )
    assert run(script) == "0"
