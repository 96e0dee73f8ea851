"""How many threads a call may use: the process', the thread's own, what the system allows."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import threadpoolctl

import xentfast
from processes import run
from xentfast import _config

MODULE = "_kernels"


@pytest.fixture(autouse=True)
def five() -> Iterator[None]:
    """Five threads for the process, whatever the machine has."""
    before = xentfast.get_num_threads()
    xentfast.set_num_threads(5)
    yield
    xentfast.set_num_threads(before)


def in_another_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(xentfast.get_num_threads).result()


def test_a_context_counts_for_its_thread_alone() -> None:
    with xentfast.num_threads(2):
        assert xentfast.get_num_threads() == 2
        assert xentfast.show_config()["threads"] == 2
        assert in_another_thread() == 5
        with xentfast.num_threads(np.int8(7)):
            assert xentfast.get_num_threads() == 7
        assert xentfast.get_num_threads() == 2
    assert xentfast.get_num_threads() == 5


def test_a_context_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), xentfast.num_threads(2):
        raise KeyError
    assert xentfast.get_num_threads() == 5


def test_the_process_may_change_within_a_context() -> None:
    with xentfast.num_threads(2):
        xentfast.set_num_threads(3)
        assert xentfast.get_num_threads() == 2
        assert in_another_thread() == 3
    assert xentfast.get_num_threads() == 3


def test_contexts_of_several_threads_at_once() -> None:
    """Contexts that overlap in time: a global that is saved and restored would stay changed."""
    inside = [threading.Barrier(4) for _ in range(3)]

    def call(n: int) -> None:
        inside[0].wait()
        with xentfast.num_threads(n):
            inside[1].wait()
            assert xentfast.get_num_threads() == n
            xentfast.cross_entropy(np.zeros((600, 1000)), np.zeros(600, int))
            assert xentfast.get_num_threads() == n
        inside[2].wait()
        assert xentfast.get_num_threads() == 5

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(call, range(1, 5)))
    assert xentfast.get_num_threads() == 5


@pytest.mark.skipif(sys.platform == "win32", reason="threads are counted in /proc")
def test_a_context_limits_the_threads_that_work() -> None:
    """Alone in a process: with one thread no other is ever started."""
    script = (
        "import os, numpy as np, xentfast; xentfast.set_num_threads(4);"
        "x, y = np.zeros((600, 1000)), np.zeros(600, int); count = lambda: len(os.listdir(task));"
        "task = '/proc/self/task'; before = count()\n"
        "with xentfast.num_threads(1): xentfast.cross_entropy(x, y)\n"
        "alone = count() - before; xentfast.cross_entropy(x, y); print(alone, count() - before)"
    )
    if not Path("/proc/self/task").is_dir():
        pytest.skip("no /proc here")
    assert run(script) == "0 3"


# --- threadpoolctl and joblib ---------------------------------------------------------------------


def ours() -> dict[str, object]:
    (info,) = threadpoolctl.ThreadpoolController().select(user_api="xentfast").info()
    return dict(info)


def test_threadpoolctl_knows_the_module() -> None:
    info = ours()
    assert info["internal_api"] == "xentfast"
    assert info["num_threads"] == 5
    assert info["version"] == xentfast.__version__
    assert Path(str(info["filepath"])).name.startswith(MODULE)


@pytest.mark.parametrize("api", [None, "xentfast"])
def test_threadpoolctl_limits_the_calling_thread(api: str | None) -> None:
    with threadpoolctl.threadpool_limits(1, user_api=api):
        assert xentfast.get_num_threads() == 1
        assert ours()["num_threads"] == 1
        assert in_another_thread() == 5
    assert xentfast.get_num_threads() == 5
    xentfast.set_num_threads(3)  # and nothing of the limit is left
    assert xentfast.get_num_threads() == 3


def test_threadpoolctl_limits_others_alone() -> None:
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert xentfast.get_num_threads() == 5


def test_threadpoolctl_within_a_context() -> None:
    with xentfast.num_threads(4):
        with threadpoolctl.threadpool_limits({"xentfast": 2}):
            assert xentfast.get_num_threads() == 2
        assert xentfast.get_num_threads() == 4
    assert xentfast.get_num_threads() == 5


def test_a_number_that_is_none_is_the_least() -> None:
    for bad in (0, -3):
        with threadpoolctl.threadpool_limits(bad, user_api="xentfast"):
            assert xentfast.get_num_threads() == 1
    assert xentfast.get_num_threads() == 5


def test_without_threadpoolctl() -> None:
    """It is not needed, and an old one without `register` does no harm."""
    for module in ("None", "type(sys)('threadpoolctl')"):
        script = f"import sys; sys.modules['threadpoolctl'] = {module}; import xentfast; print(1)"
        assert run(script) == "1"


def test_processes_of_joblib_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers are told by OMP_NUM_THREADS, or by the limit that is asked for."""
    monkeypatch.delenv("XENTFAST_NUM_THREADS", raising=False)
    with joblib.parallel_config("loky", inner_max_num_threads=3):
        number = joblib.delayed(xentfast.get_num_threads)
        assert joblib.Parallel(2)(number() for _ in range(2)) == [3, 3]


def test_threads_of_joblib() -> None:
    x, y = np.random.default_rng(0).normal(size=(600, 1000)), np.arange(600)
    expected = xentfast.cross_entropy(x, y)

    def call() -> object:
        with threadpoolctl.threadpool_limits(1):
            return xentfast.cross_entropy(x, y)

    found = joblib.Parallel(4, backend="threading")(joblib.delayed(call)() for _ in range(40))
    assert set(found) == {expected}
    assert xentfast.get_num_threads() == 5


# --- what the system allows -----------------------------------------------------------------------

V2 = "30 23 0:26 {root} {point} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 32 0:29 {root} {point} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER_V1 = "34 32 0:30 / {point} rw - cgroup cgroup rw,memory"
HERE = "/sys/fs/cgroup"


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("groups", "mounts", "quotas", "expected"),
    [
        pytest.param("", "", {}, 64, id="no groups"),
        pytest.param(
            "0::/", V2.format(root="/", point=HERE), {"cpu.max": "250000 100000\n"}, 3, id="v2"
        ),
        pytest.param(
            "0::/", V2.format(root="/", point=HERE), {"cpu.max": "max 100000\n"}, 64, id="v2, none"
        ),
        pytest.param(
            "0::/", V2.format(root="/", point=HERE), {"cpu.max": "1000 100000\n"}, 1, id="v2, < 1"
        ),
        pytest.param(
            "0::/user.slice/a/b",
            V2.format(root="/", point=HERE),
            {
                "user.slice/cpu.max": "800000 100000",
                "user.slice/a/cpu.max": "400000 100000",
                "user.slice/a/b/cpu.max": "max 100000",
                "other/cpu.max": "100000 100000",
            },
            4,
            id="v2, nested: the least of all above",
        ),
        pytest.param(
            "0::/docker/123/inner",
            V2.format(root="/docker/123", point=HERE),
            {"cpu.max": "600000 100000", "inner/cpu.max": "200000 100000"},
            2,
            id="v2, a group that is the root of a container",
        ),
        pytest.param(
            "0::/../../elsewhere",
            V2.format(root="/", point=HERE),
            {"cpu.max": "300000 100000"},
            3,
            id="v2, a group outside",
        ),
        pytest.param(
            "4:memory:/x\n3:cpu,cpuacct:/x/y\n0::/",
            OTHER_V1.format(point=f"{HERE}/memory")
            + "\n"
            + V1.format(root="/", point=f"{HERE}/cpu,cpuacct"),
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "500000\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/x/y/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/x/y/cpu.cfs_period_us": "100000\n",
                "memory/x/cpu.cfs_quota_us": "100000\n",
                "memory/x/cpu.cfs_period_us": "100000\n",
            },
            5,
            id="v1, nested",
        ),
        pytest.param(
            "3:cpu,cpuacct:/docker/123",
            V1.format(root="/docker/123", point=f"{HERE}/cpu,cpuacct"),
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2,
            id="v1, in a container",
        ),
        pytest.param(
            "3:cpu:/\n0::/a",
            V1.format(root="/", point=f"{HERE}/cpu")
            + "\n"
            + V2.format(root="/", point=f"{HERE}/unified"),
            {
                "cpu/cpu.cfs_quota_us": "900000",
                "cpu/cpu.cfs_period_us": "100000",
                "unified/a/cpu.max": "700000 100000",
            },
            7,
            id="both",
        ),
        pytest.param(
            "broken\n0::/a",
            "broken\n\n1 - \n" + V2.format(root="/", point=HERE),
            {"a/cpu.max": "nonsense", "cpu.max": "100000 0"},
            64,
            id="nonsense",
        ),
    ],
)
def test_quotas(
    groups: str,
    mounts: str,
    quotas: dict[str, str],
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_config.os, "sched_getaffinity", lambda _: range(64), raising=False)
    files = {f"{HERE[1:]}/{name}": text for name, text in quotas.items()}
    if mounts:
        files |= {"proc/self/cgroup": groups + "\n", "proc/self/mountinfo": mounts + "\n"}
    assert _config._usable_cpus(tree(tmp_path, files)) == expected


def test_the_affinity_counts_beside_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config.os, "sched_getaffinity", lambda _: range(2), raising=False)
    assert _config._usable_cpus(tmp_path) == 2
    monkeypatch.delattr(_config.os, "sched_getaffinity")
    monkeypatch.setattr(_config.os, "cpu_count", lambda: None)
    assert _config._usable_cpus(tmp_path) == 1
