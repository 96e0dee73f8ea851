"""Dask arrays have the results of arrays in memory, with every scheduler, when workers die too."""

from __future__ import annotations

import math
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xentfast
from compare import assert_same_bits, refused
from processes import run

dask: Any = pytest.importorskip("dask")
da: Any = pytest.importorskip("dask.array")
pytest.importorskip("distributed")

import xentfast.dask as xd  # noqa: E402

ROWS, CLASSES, IGNORED = 300, 40, -100
CHUNKS = {
    "one": (ROWS, CLASSES),
    "rows": (70, CLASSES),
    "classes": ((100, 200), (1, 9, 30)),
    "both": (128, 17),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weights": {"sample_weight": np.random.default_rng(1).integers(4, size=ROWS) / 4},
    "weights for each class": {"class_weight": np.arange(CLASSES) / 8},
    "smoothing": {"label_smoothing": 0.125, "z_loss": 0.01},
    "z-loss": {"z_loss": 0.01, "sample_weight": 0.5},
}


def rows_of(dtype: str = "float32") -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = (4 * rng.standard_normal((ROWS, CLASSES))).astype(dtype)
    y = rng.integers(CLASSES, size=ROWS)
    y[::7] = IGNORED
    x[1, : CLASSES // 2], y[1] = -np.inf, CLASSES - 1
    return x, y


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=list(CHUNKS))
def test_evaluations_are_those_in_memory(chunks: Any, scheduler: str) -> None:
    x, y = rows_of()
    blocks = da.from_array(x, chunks=chunks)
    weights = np.random.default_rng(2).random(ROWS)
    for labels in y, da.from_array(y, chunks=33):
        for options in (
            {},
            {"top_k": (2, 3), "ties": "any", "bins": 4},
            {"sample_weight": weights},
            {"sample_weight": da.from_array(weights, chunks=11)},
            {"sample_weight": 0.25},
        ):
            lazy = xd.evaluate(blocks, labels, ignore_index=IGNORED, **options)
            plain = {name: np.asarray(v) if name == "sample_weight" else v
                     for name, v in options.items()}  # fmt: skip
            assert lazy.compute(scheduler=scheduler) == xentfast.evaluate(
                x, y, ignore_index=IGNORED, **plain
            )
    other = da.from_array(x.astype(np.float16), chunks=37)
    lazy = xd.compare(blocks, other, y, ignore_index=IGNORED)
    found = lazy.compute(scheduler=scheduler)
    assert found == xentfast.compare(x, x.astype(np.float16), y, ignore_index=IGNORED)
    assert xd.compare(blocks, x).compute(scheduler=scheduler) == xentfast.compare(x, x)


def test_numbers_of_each_row() -> None:
    x, y = rows_of()
    names = ("loss", "rank", "predicted")
    for chunks in CHUNKS.values():
        lazy, arrays = xd.evaluate(
            da.from_array(x, chunks=chunks), y % CLASSES, per_row=iter(names), top_k=iter((1, 5))
        )
        found, rows = dask.compute(lazy, arrays)
        expected, of_each = xentfast.evaluate(x, y % CLASSES, per_row=names)
        assert found == expected
        for name in names:
            assert arrays[name].dtype == of_each[name].dtype
            assert_same_bits(rows[name], of_each[name])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_value_and_gradient(options: dict[str, Any], dtype: str, reduction: Any) -> None:
    x, y = rows_of(dtype)
    given: dict[str, Any] = {**options, "ignore_index": IGNORED, "reduction": reduction}
    expected = xentfast.cross_entropy_value_and_grad(x, y, **given)
    bound = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-13}[dtype]
    for name, chunks in CHUNKS.items():
        lazy = xd.cross_entropy_value_and_grad(da.from_array(x, chunks=chunks), y, **given)
        found = dask.compute(*lazy, scheduler="synchronous")
        for part, want, planned in zip(found, expected, lazy, strict=True):
            assert part.dtype == planned.dtype == want.dtype
            assert part.shape == planned.shape == want.shape
            np.testing.assert_allclose(part, want, bound, bound * 1e-2)
        if name in ("one", "rows") and dtype != "float16":
            assert_same_bits(found[1], expected[1])
            if reduction == "none":
                assert_same_bits(found[0], expected[0])


def test_distributions_and_probabilities() -> None:
    x, y = rows_of()
    p, labels = xentfast.softmax(x), y % CLASSES
    t = xentfast.softmax(x[::-1] / 2)
    for chunks in CHUNKS.values():
        for logits, given, options in (
            (x, t, {}),
            (x, da.from_array(t, chunks=19), {"reduction": "sum"}),
            (p, labels, {"from_logits": False}),
        ):
            lazy = xd.cross_entropy_value_and_grad(
                da.from_array(logits, chunks=chunks), given, **options
            )
            found = dask.compute(*lazy)
            want = xentfast.cross_entropy_value_and_grad(logits, np.asarray(given), **options)
            assert found[0] == pytest.approx(want[0], rel=1e-6)
            assert_same_bits(found[1], want[1])
    assert xd.evaluate(
        da.from_array(p, chunks=(99, 9)), labels, from_logits=False
    ).compute() == xentfast.evaluate(p, labels, from_logits=False)


def test_axes() -> None:
    x = np.random.default_rng(0).standard_normal((3, 20, 10, 4))
    y = np.random.default_rng(1).integers(20, size=(3, 10, 4))
    weights = np.random.default_rng(2).random((3, 1, 1, 4))
    for chunks in ((2, 20, 3, 4), (1, 7, 10, 3)):
        blocks = da.from_array(x, chunks=chunks)
        assert xd.evaluate(blocks, y, axis=1).compute() == xentfast.evaluate(x, y, axis=1)
        assert xd.compare(blocks, -x, axis=1).compute() == xentfast.compare(x, -x, axis=1)
        for axis in 1, -3:
            found = dask.compute(
                *xd.cross_entropy_value_and_grad(blocks, y, axis=axis, sample_weight=weights)
            )
            want = xentfast.cross_entropy_value_and_grad(x, y, axis=1, sample_weight=weights)
            np.testing.assert_allclose(found[0], want[0], 1e-14)
            np.testing.assert_allclose(found[1], want[1], 1e-13, 1e-18)


def test_nothing() -> None:
    none = da.zeros((0, 5), chunks=(3, 2))
    assert xd.evaluate(none, np.zeros(0, int)).compute() == xentfast.Evaluation.empty()
    for x, options in (
        (none, {}),
        (da.zeros((4, 5), chunks=(3, 2)), {"ignore_index": 0}),
        (da.zeros((4, 5), chunks=(3, 5)), {"sample_weight": np.zeros(4)}),
    ):
        y = np.zeros(len(x), int)
        value, gradient = dask.compute(*xd.cross_entropy_value_and_grad(x, y, **options))
        assert math.isnan(value)
        assert gradient.shape == x.shape
        assert not gradient.any()


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    def fail(block: Any) -> Any:
        raise AssertionError("computed")

    x = da.map_blocks(fail, da.zeros((4, 5), chunks=2), dtype=np.float32, meta=np.empty((0, 0)))
    xd.evaluate(x, np.zeros(4, int))
    xd.compare(x, x)
    xd.cross_entropy_value_and_grad(x, da.zeros(4, dtype=int))
    with pytest.raises(AssertionError, match="computed"):
        xd.evaluate(x, np.zeros(4, int)).compute(scheduler="synchronous")


def test_graphs_of_many_blocks_have_few_layers() -> None:
    """Their merging takes a time that grows with the layers, for each result."""
    y = np.zeros(1000, int)
    for chunks in ((1, 9), (1, 4)):
        x = da.zeros((1000, 9), chunks=chunks)
        lazy = (xd.evaluate(x, y), xd.compare(x, x), *xd.cross_entropy_value_and_grad(x, y))
        for one in lazy:
            assert len(one.dask.layers) < 10
        assert len(lazy[-1].dask) > 1000


# --- what is refused ------------------------------------------------------------------------------

X, Y = da.zeros((4, 3), chunks=(2, 3)), np.array([0, 2, 1, 0])


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "logits must be a Dask array, got ndarray", {"logits": np.zeros((4, 3))}),
        (ValueError, "logits must have 2 to 7 dimensions, got 1", {"logits": X[0]}),
        (ValueError, "logits must have known chunks, got shape (nan, 3): use compute_chunk_sizes()",
         {"logits": X[X[:, 0] > 0]}),
        (TypeError, "logits must have a floating or integer dtype, got bool",
         {"logits": X.astype(bool)}),
        (ValueError, "axis must be in [-2, 2), got 2", {"axis": 2}),
        (ValueError, "labels must have shape (4,) or (4, 3), got (3,)", {"labels": Y[:3]}),
        (ValueError, "sample_weight must broadcast to shape (4,), got (3,)",
         {"sample_weight": np.ones(3)}),
        (ValueError, "sample_weight must be finite and >= 0, got -1.0", {"sample_weight": -1.0}),
        (TypeError, "ignore_index must be an int, got float", {"ignore_index": 0.5}),
    ],
)  # fmt: skip
def test_refused_at_once(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    for function in xd.evaluate, xd.cross_entropy_value_and_grad:
        with refused(error, message):
            function(**{"logits": X, "labels": Y, **arguments})


def test_options_refused_at_once() -> None:
    with refused(ValueError, "bins must be in [1, 1000], got 0"):
        xd.evaluate(X, Y, bins=0)
    with refused(TypeError, "top_k must be a sequence of ints, got 5"):
        xd.evaluate(X, Y, top_k=5)
    with refused(TypeError, "per_row must be a sequence of names, got str"):
        xd.evaluate(X, Y, per_row="loss")
    with refused(TypeError, "labels must have an integer dtype, got complex128"):
        xd.evaluate(X, Y + 1j)
    rule = "labels must have an integer, floating or boolean dtype"
    with refused(TypeError, f"{rule}, got complex128"):
        xd.cross_entropy_value_and_grad(X, Y + 1j)
    with refused(ValueError, "label_smoothing must be in [0, 1], got 2"):
        xd.cross_entropy_value_and_grad(X, Y, label_smoothing=2)
    with refused(ValueError, "class_weight must have shape (3,), got (2,)"):
        xd.cross_entropy_value_and_grad(X, Y, class_weight=[1, 2])
    with refused(ValueError, "reduction must be 'mean', 'sum' or 'none', got 'max'"):
        xd.cross_entropy_value_and_grad(X, Y, reduction="max")
    with refused(ValueError, "other must have shape (4, 3), got (3, 4)"):
        xd.compare(X, X.T)
    with refused(TypeError, "base must be a Dask array, got list"):
        xd.compare([[1.0]], X)
    with refused(ValueError, "ignore_index must be None without labels, got 0"):
        xd.compare(X, X, ignore_index=0)


def test_refused_when_computed() -> None:
    """The block is named in a note, which goes along with an error that is sent."""
    note = "in the block whose first row is (2,)"
    y = np.array([0, 2, 1, 5])
    classes = X.rechunk((2, 2))
    for lazy in (
        xd.evaluate(X, y),
        xd.compare(X, X, y),
        xd.cross_entropy_value_and_grad(X, y)[0],
        xd.cross_entropy_value_and_grad(X, y, class_weight=np.ones(3))[1],
        xd.cross_entropy_value_and_grad(classes, y)[1],
    ):
        with refused(ValueError, f"labels must be in [0, 3), got 5 at row 1\n{note}") as caught:
            lazy.compute(scheduler="synchronous")
        assert pickle.loads(pickle.dumps(caught.value)).__notes__ == [note]
    message = "sample_weight must be finite and >= 0, got -1.0 at 0"
    for blocks in X, classes:
        for function in xd.evaluate, xd.cross_entropy_value_and_grad:
            lazy = function(blocks, Y, sample_weight=np.array([1.0, 2, -1, 2]))
            with refused(ValueError, f"{message}\n{note}"):
                dask.compute(lazy, scheduler="synchronous")


# --- a cluster ------------------------------------------------------------------------------------

CLUSTER = """
import os, pathlib, signal, sys, time
import dask.array as da
import numpy as np
from dask import delayed
from dask.distributed import Client, LocalCluster
import xentfast
import xentfast.dask as xd

folder, killing = pathlib.Path(sys.argv[1]), sys.argv[2] == "kill"
blocks, rows, classes = 40, 50, 300


def load(seed, slowly):
    if slowly:
        time.sleep(0.1)
        (folder / f"{seed}-{os.getpid()}").touch()
    return np.random.default_rng(seed).standard_normal((rows, classes), np.float32)


def whole(slowly):
    parts = [da.from_delayed(delayed(load)(i, slowly), (rows, classes), np.float32)
             for i in range(blocks)]
    return da.concatenate(parts)


y = np.random.default_rng(99).integers(classes, size=blocks * rows)
local = dict(n_workers=3, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
with LocalCluster(**local) as cluster, Client(cluster) as client:
    pids = client.run(os.getpid).values()
    x = whole(True)
    lazy = (
        xd.evaluate(x, y), xd.compare(x, x * np.float32(1.01), y),
        *xd.cross_entropy_value_and_grad(x, y, reduction="none"),
    )
    futures = client.compute(lazy)
    if killing:
        while len(done := list(folder.iterdir())) < 10:
            time.sleep(0.01)
        victim = int(done[0].name.split("-")[1])
        assert victim in pids
        os.kill(victim, signal.SIGKILL)
        assert not any(future.done() for future in futures)
    found = client.gather(futures)
    if killing:
        assert victim not in client.run(os.getpid).values()
    assert len({path.name.split("-")[1] for path in folder.iterdir()}) >= 3

x = whole(False).compute(scheduler="synchronous")
assert found[0] == xentfast.evaluate(x, y)
assert found[0].to_dict() == xentfast.evaluate(x, y).to_dict()
assert found[1] == xentfast.compare(x, x * np.float32(1.01), y)
value, gradient = xentfast.cross_entropy_value_and_grad(x, y, reduction="none")
assert found[2].tobytes() == value.tobytes() and found[3].tobytes() == gradient.tobytes()
print("the same bits")
"""


@pytest.mark.parametrize("what", ["run", "kill"])
def test_a_cluster_of_processes(what: str, tmp_path: Path) -> None:
    """Also when a worker is killed with a part of the results: what it had is computed again."""
    if what == "kill" and not hasattr(signal, "SIGKILL"):
        pytest.skip("no SIGKILL here")
    assert run(CLUSTER, str(tmp_path), what) == "the same bits"


def test_processes() -> None:
    script = (
        "import dask.array as da, numpy as np, xentfast, xentfast.dask as xd\n"
        "if __name__ == '__main__':\n"
        "    x = np.random.default_rng(0).standard_normal((99, 7))\n"
        "    y = np.zeros(99, int)\n"
        "    lazy = xd.evaluate(da.from_array(x, chunks=(20, 3)), y)\n"
        "    assert lazy.compute(scheduler='processes') == xentfast.evaluate(x, y)\n"
        "    print('the same bits')\n"
    )
    assert run(script) == "the same bits"


def test_without_dask() -> None:
    script = (
        "import sys\nsys.modules['dask'] = None\n"
        "try:\n    import xentfast.dask\nexcept ImportError as error:\n    print(error)"
    )
    assert run(script) == "xentfast.dask needs dask: pip install 'xentfast[dask]'"
