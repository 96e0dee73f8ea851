"""``xentfast score`` and ``compare``: files of every kind against their arrays in memory."""

from __future__ import annotations

import io
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xentfast
from cases import Array
from compare import assert_same_bits
from xentfast import Comparison, Evaluation, _files, _score
from xentfast import __main__ as cli
from xentfast._checks import BFLOAT16

Path = pathlib.Path
CODES = {"int8": "I8", "float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}


def stored(dtype: str, shape: tuple[int, ...] = (57, 13)) -> Array:
    """Draw logits, of which many are equal."""
    x = np.random.default_rng(len(shape)).integers(-9, 9, size=shape)
    if dtype == "bfloat16":
        return ((x / 2).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16)
    return (x / 2).astype(dtype)


def labels_of(x: Array, axis: int = -1) -> Array:
    shape = np.delete(x.shape, axis)
    return np.random.default_rng(1).integers(x.shape[axis], size=shape, dtype=np.int32)


# --- a writer for each kind of file ---------------------------------------------------------------


def plain(x: Array) -> Array:
    """Return what NumPy's files hold of bfloat16: two bytes."""
    return x.view("V2") if x.dtype == BFLOAT16 else x


def npy(folder: Path, name: str, x: Array) -> str:
    path = folder / f"{name}.npy"
    np.save(path, plain(x))
    return str(path)


def fortran(folder: Path, name: str, x: Array) -> str:
    return npy(folder, name, np.asfortranarray(x))


def swapped(folder: Path, name: str, x: Array) -> str:
    bytewise = x if x.dtype == BFLOAT16 else x.astype(x.dtype.newbyteorder(">"))
    return npy(folder, name, bytewise)


def npz(folder: Path, name: str, x: Array) -> str:
    path = folder / f"{name}.npz"
    np.savez(path, other=np.zeros(3), **{name: plain(x)})
    return f"{path}:{name}"


def npz_compressed(folder: Path, name: str, x: Array) -> str:
    path = folder / f"{name}.npz"
    np.savez_compressed(path, **{name: plain(x)})
    return str(path)


def safetensors(folder: Path, name: str, x: Array) -> str:
    """Write the format by hand, with a header that leaves the numbers at an odd place."""
    path = folder / f"{name}.safetensors"
    code = "BF16" if x.dtype == BFLOAT16 else CODES.get(x.dtype.name, "I32")
    entries = {
        "__metadata__": {"format": "np"},
        "before": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        name: {"dtype": code, "shape": x.shape, "data_offsets": [3, 3 + x.nbytes]},
    }
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"abc" + x.tobytes())
    return f"{path}:{name}"


def raw(folder: Path, name: str, x: Array) -> str:
    path = folder / f"{name}.bin"
    path.write_bytes(x.tobytes())
    return str(path)


def zarr_array(folder: Path, name: str, x: Array) -> str:
    """Write an array in chunks that end in the middle of its last ones."""
    zarr = pytest.importorskip("zarr")
    path = folder / f"{name}.zarr"
    bits = x.view(np.uint16) if x.dtype == BFLOAT16 else x
    chunks = tuple(max(1, -(-n // 3)) for n in x.shape)
    made = zarr.create_array(store=path, shape=x.shape, chunks=chunks, dtype=bits.dtype)
    made[...] = bits
    return str(path)


def zarr_group(folder: Path, name: str, x: Array) -> str:
    """Write an array of a group, in shards of several chunks."""
    zarr = pytest.importorskip("zarr")
    path = folder / f"{name}.zarr"
    bits = x.view(np.uint16) if x.dtype == BFLOAT16 else x
    group = zarr.open_group(path, mode="w").create_group("model")
    made = group.create_array(
        "out", shape=x.shape, chunks=(2,) * x.ndim, shards=(16,) * x.ndim, dtype=bits.dtype
    )
    made[...] = bits
    return f"{path}:model/out"


WRITERS = (
    npy, fortran, swapped, npz, npz_compressed, safetensors, raw, zarr_array, zarr_group,
)  # fmt: skip
Writer = Callable[[Path, str, Array], str]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows."""
    monkeypatch.setattr(_score, "BLOCK", 700)
    monkeypatch.setattr(_score, "LEAST", 0)


@pytest.fixture(autouse=True)
def plain_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "HAS_RICH", False)


class Output:
    """What a command left: its status and what it printed."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Output]:
    """Run a command in this process."""

    def run_here(*arguments: object) -> Output:
        status = cli.main([*map(str, arguments)])
        return Output(status, *capsys.readouterr())

    return run_here


Run = Callable[..., Output]


def evaluation(output: Output) -> Evaluation:
    assert output.status == 0, output.err
    return Evaluation.from_dict(json.loads(output.out))


# --- every kind of file ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_kind_of_file(write: Writer, dtype: str, tmp_path: Path, run: Run) -> None:
    x = stored(dtype)
    y = labels_of(x)
    where = write(tmp_path, "x", x), write(tmp_path, "y", y)
    options = ["--dtype", dtype] if dtype == "bfloat16" or write is raw else []
    if write is raw:
        options += ["--shape", "57,13", "--labels-dtype", "int32"]
    wanted = xentfast.evaluate(x, y)
    assert evaluation(run("score", *where, "--json", *options)) == wanted
    found = run("compare", where[0], *where, "--json", *options)
    assert Comparison.from_dict(json.loads(found.out)) == xentfast.compare(x, x, y)


def test_what_safetensors_writes(tmp_path: Path, run: Run) -> None:
    library = pytest.importorskip("safetensors.numpy")
    x = stored("float32")
    y = labels_of(x)
    library.save_file({"x": x, "y": y}, tmp_path / "both.safetensors")
    both = tmp_path / "both.safetensors"
    assert evaluation(run("score", f"{both}:x", f"{both}:y", "--json")) == xentfast.evaluate(x, y)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((13,), 0),  # one row
        ((0, 13), -1),  # no rows
        ((57, 1), -1),
        ((3, 40, 13), -1),  # blocks of a part of the second axis
        ((13, 57), 0),  # the classes apart
        ((3, 13, 40), 1),
        ((2, 3, 13, 5), -2),
    ],
    ids=str,
)
@pytest.mark.parametrize("write", [npy, fortran, zarr_array], ids=lambda write: write.__name__)
def test_every_axis(
    write: Writer, shape: tuple[int, ...], axis: int, tmp_path: Path, run: Run
) -> None:
    if write is zarr_array and shape == (13,):
        pytest.importorskip("zarr")
    x = stored("float32", shape)
    y = labels_of(x, axis)
    w = np.arange(y.size, dtype=np.float64).reshape(y.shape)
    where = write(tmp_path, "x", x), npy(tmp_path, "y", y)
    rows = tmp_path / "rows.npy"
    found = run(
        "score", *where, "--axis", axis, "--json", "--sample-weight", npy(tmp_path, "w", w),
        "--per-row", rows, "--columns", "loss,rank,entropy,confidence,lse,predicted",
    )  # fmt: skip
    names = ("loss", "rank", "entropy", "confidence", "lse", "predicted")
    wanted, arrays = xentfast.evaluate(x, y, axis=axis, sample_weight=w, per_row=names)
    assert evaluation(found) == wanted
    kept = np.load(rows)
    assert kept.shape == y.shape
    assert kept.dtype.names == names
    for name in names:
        assert_same_bits(kept[name], arrays[name])
    assert sorted(os.listdir(tmp_path)) == sorted(
        {"rows.npy", "y.npy", "w.npy", Path(where[0]).name}
    )


@pytest.mark.parametrize("shape", [(57, 13), (6, 7, 13)])
def test_compressed_rows_in_their_order(shape: tuple[int, ...], tmp_path: Path, run: Run) -> None:
    x = stored("float32", shape)
    y = labels_of(x)
    where = npz_compressed(tmp_path, "x", x), npz_compressed(tmp_path, "y", y)
    assert evaluation(run("score", *where, "--json")) == xentfast.evaluate(x, y)


def test_every_option(tmp_path: Path, run: Run) -> None:
    x, y = stored("float32"), labels_of(stored("float32"))
    p = xentfast.softmax(x)
    y[::5] = -100
    where = npy(tmp_path, "p", p), npy(tmp_path, "y", y)
    found = run(
        "score", *where, "--probabilities", "--top-k", "2,3", "--ties", "any", "--bins", 7,
        "--ignore-index", -100, "--threads", 2, "--json", "--no-progress",
    )  # fmt: skip
    assert evaluation(found) == xentfast.evaluate(
        p, y, from_logits=False, top_k=(2, 3), ties="any", bins=7, ignore_index=-100
    )
    other = npy(tmp_path, "other", p[::-1].astype(np.float64))
    found = run("compare", where[0], other, where[1], "--ignore-index", -100, "--json")
    assert Comparison.from_dict(json.loads(found.out)) == xentfast.compare(
        p, p[::-1].astype(np.float64), y, ignore_index=-100
    )


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_number_of_threads(threads: int, tmp_path: Path, run: Run) -> None:
    x = stored("float32", (6, 7, 13))
    y = labels_of(x)
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", y)
    rows = tmp_path / "rows.npy"
    found = run("score", *where, "--threads", threads, "--json", "--per-row", rows)
    wanted, arrays = xentfast.evaluate(x, y, per_row=("loss", "rank"))
    assert evaluation(found) == wanted
    for name, values in arrays.items():
        assert_same_bits(np.load(rows)[name], values)


def test_numbers_alone_may_be_as_many_as_there_are(tmp_path: Path, run: Run) -> None:
    x = stored("bfloat16")
    y = labels_of(x).astype(">i8")
    z = stored("float32")
    where = raw(tmp_path, "x", x), raw(tmp_path, "z", z), raw(tmp_path, "y", y)
    options = "--dtype", "bfloat16", "--shape=-1,13", "--labels-dtype", ">i8", "--json"
    wanted = xentfast.evaluate(x, y)
    assert evaluation(run("score", where[0], where[2], *options)) == wanted
    found = run("compare", *where, "--other-dtype", "float32", *options)
    assert Comparison.from_dict(json.loads(found.out)) == xentfast.compare(x, z, y)


def test_bfloat16_by_its_name(tmp_path: Path, run: Run) -> None:
    x = stored("bfloat16")
    np.save(tmp_path / "x.npy", x)  # with the field that is called so
    where = tmp_path / "x.npy", npy(tmp_path, "y", labels_of(x))
    assert evaluation(run("score", *where, "--json")) == xentfast.evaluate(x, labels_of(x))


@given(st.data())
def test_blocks_hold_every_row_once(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4)))
    chunks = tuple(data.draw(st.integers(1, 10)) for _ in shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    source = _files.Mapped.__new__(_files.Mapped)
    _files._Layout.__init__(source, "", shape, np.dtype("f4"), data.draw(st.booleans()))
    most = data.draw(st.integers(1, 500))
    seen = np.zeros(shape, int)
    for at in _files.blocks(source, axis, most, chunks):
        seen[at] += 1
        for i, (s, chunk, n) in enumerate(zip(at, chunks, shape, strict=True)):
            assert s.start % chunk == 0 or i == axis
            assert s.stop % chunk == 0 or s.stop == n
    assert (seen == 1).all()


# --- what is shown --------------------------------------------------------------------------------


def test_the_table_of_score(tmp_path: Path, run: Run) -> None:
    x, y = stored("float32"), labels_of(stored("float32"))
    x[3, 4] = np.nan
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", y)
    found = run("score", *where, "--sample-weight", npy(tmp_path, "w", np.full(57, 0.5)))
    assert found.status == 0
    assert found.err == ""
    for line in (
        rf"logits +{re.escape(where[0])}: 57 x 13, float32",
        "rows +57",
        "sum of weights +28.5",
        "rows of nan or inf +1",
        r"loss \(nats\) +nan ± nan",
        r"accuracy +0\.\d+",
        r"top 5 +0\.\d+",
    ):
        assert re.search(rf"^{line}$", found.out, re.MULTILINE), line


def test_the_table_of_compare(tmp_path: Path, run: Run) -> None:
    x, y = stored("float32"), labels_of(stored("float32"))
    where = npy(tmp_path, "x", x), npy(tmp_path, "z", x.astype(np.float16) * np.float16(1.5))
    without = run("compare", *where).out
    found = run("compare", *where, npy(tmp_path, "y", y)).out
    c = xentfast.compare(x, 1.5 * x, y)
    assert f"{c.kl:.6g} ± {c.kl_error:.2g}" in found
    assert re.search(r"^other +\S+: 57 x 13, float16$", found, re.MULTILINE)
    for name in ("log perplexity ratio", "loss of base", "its root mean square"):
        assert name in found
        assert name not in without


def test_how_far_it_is_goes_to_stderr(
    tmp_path: Path,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = stored("float32")
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", labels_of(x))
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    with _score._bar(10**10, True) as show:
        show(0)
        show(4 * 10**9)
        show(10**10)
    first, second, last = capsys.readouterr().err.strip().split("\r")
    assert first == "[#########               ]  40% of 10.00 GB, 4.00 GB/s, 0:02 left"
    assert second == "[########################] 100% of 10.00 GB, 5.00 GB/s, 0:00 left"
    assert last == "10.00 GB in 3.00 s, 3.33 GB/s"
    monkeypatch.undo()
    err = run("score", *where, "--progress").err
    assert re.search(r"0.00 MB in \d+\.\d\d s, \d+\.\d\d GB/s *$", err)
    assert run("score", *where).err == ""


def test_a_plot(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("matplotlib")
    x = stored("float32")
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", labels_of(x))
    for command in (("score", *where), ("compare", where[0], *where)):
        path = tmp_path / f"{command[0]}.png"
        assert run(*command, "--plot", path).status == 0
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(os.listdir(tmp_path)) == 4


# --- what is wrong --------------------------------------------------------------------------------


def wrong(run: Run, message: str, *arguments: object) -> None:
    """Expect one line on stderr, status 2 and nothing else."""
    found = run(*arguments)
    assert (found.status, found.out) == (2, "")
    assert re.fullmatch(f"xentfast {arguments[0]}: {message}\n", found.err), found.err


def test_labels_out_of_range(tmp_path: Path, run: Run) -> None:
    x, y = stored("float32"), labels_of(stored("float32"))
    y[[40, 50]] = 13, -100
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", y)
    rows = tmp_path / "rows.npy"
    message = r"labels must be in \[0, 13\), got 13 at row 40"
    for options in ((), ("--ignore-index", -100), ("--threads", 7)):
        wrong(run, message, "score", *where, *options, "--per-row", rows)
        wrong(run, message, "compare", where[0], *where, *options)
    wrong(
        run, message.replace("13 at row 40", "-100 at row 50"), "score", *where,
        "--ignore-index", 13,
    )  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]
    x, y = stored("float32", (3, 40, 13)), labels_of(stored("float32", (3, 40, 13)))
    y[2, 31] = 99
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", y)
    wrong(run, r"labels must be in \[0, 13\), got 99 at row \(2, 31\)", "score", *where)


def test_weights_out_of_range(tmp_path: Path, run: Run) -> None:
    x, w = stored("float32"), np.ones(57)
    w[43] = -1
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", labels_of(x))
    message = r"sample_weight must be finite and >= 0, got -1.0 at 43"
    wrong(run, message, "score", *where, "--sample-weight", npy(tmp_path, "w", w))


def test_shapes_and_dtypes_that_do_not_fit(tmp_path: Path, run: Run) -> None:
    x, y = stored("float32"), labels_of(stored("float32"))
    at = {
        name: npy(tmp_path, name, a)
        for name, a in {
            "x": x, "y": y, "short": y[:-1], "floats": y.astype(np.float32), "text": y.astype("U3"),
            "bits": stored("bfloat16"), "complex": x.astype(complex), "none": x[:, :0],
            "flat": x[0], "long": x.astype(np.longdouble),
        }.items()
    }  # fmt: skip
    name = {key: re.escape(value) for key, value in at.items()}
    for message, *arguments in (
        (rf"{name['short']} must have shape \(57,\), got \(56,\)", at["x"], at["short"]),
        (rf"{name['floats']} must have an integer dtype, got float32", at["x"], at["floats"]),
        (rf"{name['text']} must hold real numbers, got dtype <U3", at["x"], at["text"]),
        (rf"{name['complex']} must hold real numbers, got dtype complex128",
         at["complex"], at["y"]),
        (rf"{name['bits']} must say what its 16 bits are, got .V2: use --dtype bfloat16",
         at["bits"], at["y"]),
        (r"logits must have at least one class, got shape \(57, 0\), axis 1", at["none"], at["y"]),
        (r"axis must be in \[-2, 2\), got 2", at["x"], at["y"], "--axis", 2),
        (rf"{name['x']} must hold bfloat16, got float32", at["x"], at["y"], "--dtype", "bfloat16"),
        (rf"{name['x']} must have shape \(57, 14\), got \(57, 13\)",
         at["x"], at["y"], "--shape", "57,14"),
        (rf"{name['x']} must have shape \(57,\), got \(57, 13\)",
         at["x"], at["y"], "--sample-weight", at["x"]),
        (r"top_k must be >= 1 and below 2\*\*63, got 0", at["x"], at["y"], "--top-k", 0),
        (r"bins must be in \[1, 1000\], got 0", at["x"], at["y"], "--bins", 0),
        (r"--columns must come with --per-row, got loss", at["x"], at["y"], "--columns", "loss"),
        (r"--columns must not name lse with --probabilities, got lse",
         at["x"], at["y"], "--probabilities", "--per-row", tmp_path / "r.npy", "--columns", "lse"),
    ):  # fmt: skip
        wrong(run, message, "score", *arguments)
    wrong(
        run, rf"{name['flat']} must have shape \(57, 13\), got \(13,\)", "compare", at["x"],
        at["flat"],
    )  # fmt: skip
    message = "--ignore-index must come with LABELS, got 3"
    wrong(run, message, "compare", at["x"], at["x"], "--ignore-index", 3)


def test_files_that_are_not_there(tmp_path: Path, run: Run) -> None:
    x = npy(tmp_path, "x", stored("float32"))
    for name in ("no.npy", "no.npz:a", "no.safetensors:a", "no.bin", "no.zarr", "no.npz"):
        path = re.escape(str(tmp_path / name.partition(":")[0]))
        wrong(run, f"{path}: No such file or directory", "score", x, tmp_path / name)


def test_members_that_are_not_there(tmp_path: Path, run: Run) -> None:
    y = npy(tmp_path, "y", labels_of(stored("float32")))
    for write in (npz, safetensors):
        where = write(tmp_path, "x", stored("float32"))
        path = where.removesuffix(":x")
        first = "other" if write is npz else "before"
        wrong(
            run, re.escape(f"{path} must be followed by :MEMBER, one of {first}, x"),
            "score", path, y,
        )  # fmt: skip
        named = re.escape(f"{path}:z must name one of the members {first}, x")
        wrong(run, named, "score", f"{path}:z", y)


def test_groups_of_zarr(tmp_path: Path, run: Run) -> None:
    y = npy(tmp_path, "y", labels_of(stored("float32")))
    where = zarr_group(tmp_path, "x", stored("float32"))
    path, _, member = where.rpartition(":")
    wrong(run, re.escape(f"{path}:model must be followed by :ARRAY, one of out"), "score",
          f"{path}:model", y)  # fmt: skip
    (tmp_path / "empty").mkdir()
    for nothing in (f"{path}:nothing", str(tmp_path / "empty")):
        message = re.escape(f"{nothing} must be a file or a Zarr array, got neither")
        wrong(run, message, "score", nothing, y)
    for chunk in (tmp_path / "x.zarr" / member / "c").glob("*/*"):
        chunk.write_bytes(b"broken")
    wrong(run, re.escape(f"{where}: ") + ".+", "score", where, y)


def test_without_zarr(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.zarr").mkdir()
    monkeypatch.setitem(sys.modules, "zarr", None)
    message = r".*x\.zarr needs zarr: pip install 'xentfast\[zarr\]'"
    wrong(run, message, "score", tmp_path / "x.zarr", tmp_path / "y.npy")


def test_files_that_are_cut_short(tmp_path: Path, run: Run) -> None:
    x, y = stored("float32"), npy(tmp_path, "y", labels_of(stored("float32")))
    what = "must hold 2,964 bytes of float32 of shape (57, 13), got"
    for write in (npy, safetensors):
        where = write(tmp_path, "x", x)
        path = Path(where.removesuffix(":x"))
        path.write_bytes(path.read_bytes()[:-4])
        wrong(run, re.escape(f"{where} {what} 2,960"), "score", where, y)
        path.write_bytes(path.read_bytes()[:6])
        wrong(run, re.escape(str(path)) + ".+", "score", where, y)
    where = raw(tmp_path, "x", x[:-1])
    options = "--dtype", "float32", "--shape", "57,13"
    wrong(run, re.escape(f"{where} {what} 2,912"), "score", where, y, *options)
    message = (
        f"{where} is no .npy, .npz, .safetensors or Zarr, so --dtype and --shape, or for labels "
        "--labels-dtype, must be given"
    )
    wrong(run, re.escape(message), "score", where, y, *options[:2])
    options = "--dtype", "float32", "--shape=-1,17"
    wrong(run, r".*bytes of float32 of shape \(42, 17\), got 2,912", "score", where, y, *options)
    where = npz(tmp_path, "x", x)
    path = Path(where.removesuffix(":x"))
    path.write_bytes(path.read_bytes()[:-4])
    wrong(run, re.escape(f"{where}: ") + ".+", "score", where, y)


def member(path: Path, content: bytes) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return f"{path}:x"


def test_compressed_members_that_are_wrong(tmp_path: Path, run: Run) -> None:
    x, y = stored("float32"), npy(tmp_path, "y", labels_of(stored("float32")))
    buffer = io.BytesIO()
    np.save(buffer, x)
    path = tmp_path / "x.npz"
    where = member(path, buffer.getvalue()[:-4])
    message = "must hold 2,964 bytes of float32 of shape (57, 13), got 2,960"
    wrong(run, re.escape(f"{where} {message}"), "score", where, y)
    where = member(path, buffer.getvalue())
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    path.write_bytes(broken)
    wrong(run, re.escape(f"{where}: ") + ".+", "score", where, y)
    where = member(path, b"not an array")
    wrong(run, re.escape(f"{where}: ") + ".+", "score", where, y)
    where = npz_compressed(tmp_path, "x", np.asfortranarray(stored("float32", (2000, 13))))
    y = npy(tmp_path, "y", np.zeros(2000, np.int32))
    across = (
        f"{where} is compressed, and no row of it is whole before the last is: "
        "store it uncompressed, or with the classes on its last axis"
    )
    wrong(run, re.escape(across), "score", where, y)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[1]", "must begin with a header as safetensors writes it"),
        (b"{", "must begin with a header as safetensors writes it"),
        (b'{"x": {}}', "must begin with a header as safetensors writes it"),
        (
            b'{"x": {"dtype": "F32", "shape": [57, -13], "data_offsets": [0, 4]}}',
            "must have a shape of sizes >= 0, got (57, -13)",
        ),
        (
            b'{"x": {"dtype": "F32", "shape": [1, "2"], "data_offsets": [0, 4]}}',
            "must have a shape of sizes >= 0, got (1, '2')",
        ),
        (
            b'{"x": {"dtype": "F8_E4M3", "shape": [57, 13], "data_offsets": [0, 741]}}',
            "must hold real numbers of 8 to 64 bits, got F8_E4M3",
        ),
        (
            b'{"x": {"dtype": "F32", "shape": [57, 13], "data_offsets": [0, 4]}}',
            "must hold 2,964 bytes of float32 of shape (57, 13), got 4",
        ),
    ],
)
def test_safetensors_that_are_wrong(header: bytes, message: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2964))
    wrong(run, f".*{re.escape(message)}", "score", path, tmp_path / "y.npy")


@pytest.mark.skipif(sys.platform == "win32", reason="it cuts no file that is mapped")
def test_a_file_that_is_cut_while_it_is_read(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = stored("float32")
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", labels_of(x))
    evaluate = _score.evaluate

    def cutting(*args: Any, **options: Any) -> Any:
        found = evaluate(*args, **options)
        os.truncate(where[0], 1000)
        return found

    monkeypatch.setattr(_score, "evaluate", cutting)
    message = re.escape(f"{where[0]} must stay as it is, got cut while it was read")
    wrong(run, message, "score", *where)


def test_rows_that_cannot_be_written(tmp_path: Path, run: Run) -> None:
    x = stored("float32")
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", labels_of(x))
    (tmp_path / "rows.npy").mkdir()
    wrong(run, ".+", "score", *where, "--per-row", tmp_path / "rows.npy")
    assert sorted(os.listdir(tmp_path)) == ["rows.npy", "x.npy", "y.npy"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--per-row", "rows.txt"], "must end in .npy, got rows.txt"),
        (["--per-row", "no/rows.npy"], "must be in a folder that exists, got no/rows.npy"),
        (["--dtype", "number"], "must be a dtype of numbers, got number"),
        (["--dtype", "U3"], "must be a dtype of numbers, got U3"),
        (["--shape", "3,x"], "must be sizes like 1000,50257, got 3,x"),
        (["--shape=-1,-1"], "must be sizes like 1000,50257, got -1,-1"),
        (["--shape=-2,5"], "must be sizes like 1000,50257, got -2,5"),
        (["--top-k", "1,five"], "must be numbers like 1,5, got 1,five"),
        (["--columns", "loss,gain"], "must name some of loss, rank, entropy, confidence, lse, "
         "predicted, got gain"),
        (["--threads", "0"], "argument --threads: n must be in [1, 1024], got 0"),
    ],
)  # fmt: skip
def test_mistakes_print_help_and_exit_2(
    option: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["score", "x.npy", "y.npy", *option])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


# --- interrupted ----------------------------------------------------------------------------------


def sparse(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Write an array of zeros that takes no room."""
    with path.open("wb") as file:
        what = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, what)
        file.truncate(file.tell() + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let Ctrl-C come in the middle of a block."""
    evaluate, calls = _score.evaluate, iter(range(after))

    def stopped(*args: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return evaluate(*args, **options)

    monkeypatch.setattr(_score, "evaluate", stopped)


def test_what_was_read_is_the_result(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = stored("float32")
    y = labels_of(x)
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", y)
    interrupted(monkeypatch, 3)
    found = run("score", *where, "--json", "--per-row", tmp_path / "rows.npy", "--threads", 1)
    n = 3 * (700 // 4 // 13)
    assert found.status == 130
    assert Evaluation.from_dict(json.loads(found.out)) == xentfast.evaluate(x[:n], y[:n])
    assert found.err == f"interrupted: {n} of 57 rows were read\n"
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


def test_interrupted_before_anything_was_read(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_files, "open_array", stopped)
    found = run("score", tmp_path / "x.npy", tmp_path / "y.npy")
    assert (found.status, found.out, found.err) == (130, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no signal goes to one thread there")
def test_interrupted_it_waits_for_what_was_begun(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = stored("float32")
    where = npy(tmp_path, "x", x), npy(tmp_path, "y", labels_of(x))
    evaluate, blocks = _score.evaluate, itertools.count(1)

    def begun(*args: Any, **options: Any) -> Any:
        if next(blocks) == 3:
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.5)  # for a caller that does not wait to go on
        return evaluate(*args, **options)

    monkeypatch.setattr(_score, "evaluate", begun)
    main = threading.main_thread().ident
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        found = run("score", *where, "--json", "--threads", 1)
    finally:
        signal.signal(signal.SIGINT, before)
    n = 3 * (700 // 4 // 13)
    assert found.status == 130
    assert Evaluation.from_dict(json.loads(found.out)).count == n
    assert found.err == f"interrupted: {n} of 57 rows were read\n"


def heed_ctrl_c() -> None:
    """A shell's background jobs, and what they start, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C is not sent to one process")
def test_a_process_that_is_interrupted(tmp_path: Path) -> None:
    sparse(tmp_path / "x.npy", (2**27, 1000), "f4")  # half a terabyte
    sparse(tmp_path / "y.npy", (2**27,), "i1")
    command = [sys.executable, "-P", "-m", "xentfast", "score", "x.npy", "y.npy", "--progress"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=heed_ctrl_c,
    ) as process:
        assert process.stderr is not None
        while "%" not in process.stderr.read(1):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    rows = int(re.search(r"^rows +([0-9,]+) *$", out, re.MULTILINE)[1].replace(",", ""))  # type: ignore[index]
    assert 0 < rows < 2**27
    assert re.search(r"^loss \(nats\) +6\.90776 ± ", out, re.MULTILINE)
    assert err.endswith(f"interrupted: {rows:,} of {2**27:,} rows were read\n")
    assert "Traceback" not in err


# --- memory ---------------------------------------------------------------------------------------

PEAK = """
import pathlib, re, sys
from xentfast import __main__ as cli
status = pathlib.Path("/proc/self/status")
most = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text(encoding="ascii"))[1])
before = most()
assert cli.main(sys.argv[1:]) == 0
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
@pytest.mark.parametrize("kind", ["npy", "across", "compressed"])
def test_memory_is_that_of_a_block(kind: str, tmp_path: Path) -> None:
    classes, rows = 1000, 2**18  # 1 GiB
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    sparse(x, (classes, rows) if kind == "across" else (rows, classes), "f4")
    sparse(y, (rows,), "i8")
    if kind == "compressed":
        with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
            z.write(x, "x.npy")
        x = tmp_path / "x.npz"
    done = subprocess.run(
        [sys.executable, "-P", "-c", PEAK, "score", x, y, "--axis", str(-(kind != "across"))],
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 2**27  # a block, and what a process begins with
