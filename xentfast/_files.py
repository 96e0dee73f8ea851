"""Arrays in files, a block at a time, so that no call takes memory of a file's size.

Whether a file holds what it promises is checked when it is opened. Messages begin with its name.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import operator
import os
import pathlib
import threading
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np

from xentfast import _checks
from xentfast._checks import BFLOAT16, Array

At: TypeAlias = tuple[slice, ...]  # a block: for each axis, from where to where
Shape: TypeAlias = tuple[int, ...]

_SAFETENSORS = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_LONGEST_HEADER = 10**8  # of safetensors
_NPY_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[Shape, bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Source(Protocol):
    """An array in a file."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    chunks: Shape  # what is read as one
    order: Shape  # the axes, neighbours in the file along the last
    anywhere: bool  # whether blocks may be read in any order, and by several threads

    def read(self, at: At) -> Array:
        """Return a block."""
        ...


class _Layout:
    """How an array lies in bytes: where a block begins and ends."""

    def __init__(self, name: str, shape: Shape, dtype: np.dtype[Any], fortran: bool) -> None:
        if not all(type(n) is int and n >= 0 for n in shape):
            raise _WrongError(f"must have a shape of sizes >= 0, got {shape}")
        self.name, self.shape, self.dtype = name, shape, dtype
        self.chunks = (1,) * len(shape)
        self.order = tuple(range(len(shape)))[:: -1 if fortran else 1]
        self.nbytes = math.prod(shape) * dtype.itemsize
        inner = {axis: self.order[i + 1 :] for i, axis in enumerate(self.order)}
        self.strides = tuple(
            math.prod(shape[j] for j in inner[axis]) * dtype.itemsize for axis in range(len(shape))
        )

    def extent(self, at: At) -> tuple[int, int]:
        """Return where a block that is not empty begins and where it ends."""
        first = sum(s.start * stride for s, stride in zip(at, self.strides, strict=True))
        last = sum((s.stop - 1) * stride for s, stride in zip(at, self.strides, strict=True))
        return first, last + self.dtype.itemsize

    def must_hold(self, found: int) -> _WrongError:
        """Return what to say of a file that holds another number of bytes."""
        what = f"{name_of(self.dtype)} of shape {self.shape}"
        return _WrongError(f"must hold {self.nbytes:,} bytes of {what}, got {found:,}")


class Mapped(_Layout):
    """Numbers as they lie in a file.

    A block in one piece is mapped into memory for as long as it is held; the pieces of another are
    read, for the pages around them, which a mapping would take too, may be many times as much.
    """

    anywhere = True

    def __init__(
        self,
        name: str,
        path: pathlib.Path,
        begin: int,
        shape: Shape,
        dtype: np.dtype[Any],
        fortran: bool = False,
    ) -> None:
        super().__init__(name, shape, dtype, fortran)
        self._path, self._begin = path, begin
        found = path.stat().st_size - begin
        if found < self.nbytes or begin < 0:
            raise self.must_hold(max(found, 0))

    def read(self, at: At) -> Array:
        """Return a block."""
        shape = shape_of(at)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        first, last = (self._begin + n for n in self.extent(at))
        with self._path.open("rb", buffering=0) as file, _named(self.name):
            if os.fstat(file.fileno()).st_size < last:
                raise _WrongError("must stay as it is, got cut while it was read")
            if last - first > math.prod(shape) * self.dtype.itemsize:
                return self._gathered(file, first, shape)
            before = first % mmap.ALLOCATIONGRANULARITY
            window = mmap.mmap(
                file.fileno(),
                last - first + before,
                access=mmap.ACCESS_READ,
                offset=first - before,
            )
        return np.ndarray(shape, self.dtype, window, before, self.strides)

    def _gathered(self, file: io.FileIO, first: int, shape: Shape) -> Array:
        """Read what is not in one piece."""
        block: Array = np.empty([shape[axis] for axis in self.order], self.dtype)
        strides = [self.strides[axis] for axis in self.order]
        for index in np.ndindex(block.shape[:-1]):
            file.seek(first + sum(map(operator.mul, index, strides)))
            file.readinto(block[index].view(np.uint8).data)
        return block.transpose(np.argsort(self.order))


class Streamed(_Layout):
    """What a compressed member of an archive holds: blocks from the first byte to the last."""

    anywhere = False

    def __init__(
        self,
        name: str,
        file: zipfile.ZipExtFile,
        shape: Shape,
        dtype: np.dtype[Any],
        fortran: bool,
    ) -> None:
        super().__init__(name, shape, dtype, fortran)
        self._file, self._at = file, 0
        self._order: Literal["C", "F"] = "F" if fortran else "C"

    def read(self, at: At) -> Array:
        """Return the next block."""
        block: Array = np.empty(shape_of(at), self.dtype, self._order)
        if not block.size:
            return block
        first, last = self.extent(at)
        with _named(self.name):
            if last - first != block.nbytes or first != self._at:
                raise _WrongError(
                    "is compressed, and no row of it is whole before the last is: "
                    "store it uncompressed, or with the classes on its last axis"
                )
            place = memoryview(block.reshape(-1, order=self._order).view(np.uint8).data)
            while len(place):
                got = self._file.readinto1(place[: 2**20])  # as it comes, for joining takes memory
                if not got:
                    raise self.must_hold(last - len(place))
                place = place[got:]
            if last == self.nbytes:
                self._file.read(1)  # the end, where the checksum is looked at
        self._at = last
        return block


class Written(_Layout):
    """An array that is written to a file of its own, .npy, block by block, by any thread."""

    def __init__(self, path: pathlib.Path, shape: Shape, dtype: np.dtype[Any]) -> None:
        super().__init__(str(path), shape, dtype, False)
        self._file, self._lock = path.open("xb"), threading.Lock()
        what = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(self._file, what)
        self._begin = self._file.tell()

    def write(self, at: At, block: Array) -> None:
        """Write a block: in one piece where it is one in the file, else by its last axis."""
        first, last = self.extent(at)
        pieces = [()] if last - first == block.nbytes else np.ndindex(block.shape[:-1])
        with self._lock:
            for index in pieces:
                self._file.seek(self._begin + first + sum(map(operator.mul, index, self.strides)))
                self._file.write(block[index].tobytes())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield another path beside `path`, which takes its place if all goes well."""
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


class Chunked:
    """A Zarr array: whole chunks are read, and kept for the blocks that follow."""

    anywhere = False

    def __init__(self, name: str, array: Any, dtype: np.dtype[Any]) -> None:
        self.name, self.shape, self.dtype = name, tuple(array.shape), dtype
        self.chunks = tuple(getattr(array, "shards", None) or array.chunks)
        self.order = tuple(range(len(self.shape)))
        self._array = array
        self._at: At = ()
        self._kept: Array | None = None

    def read(self, at: At) -> Array:
        """Return a block."""
        if 0 in shape_of(at):
            return np.empty(shape_of(at), self.dtype)
        held = self._kept is not None and all(
            mine.start <= s.start and s.stop <= mine.stop
            for mine, s in zip(self._at, at, strict=True)
        )
        if not held:
            self._kept = None  # before the next are read
            self._at = tuple(
                slice(s.start // chunk * chunk, min(-(-s.stop // chunk) * chunk, size))
                for s, chunk, size in zip(at, self.chunks, self.shape, strict=True)
            )
            with _named(self.name):
                self._kept = np.asarray(self._array[self._at]).view(self.dtype)
        assert self._kept is not None
        return self._kept[
            tuple(
                slice(s.start - mine.start, s.stop - mine.start)
                for mine, s in zip(self._at, at, strict=True)
            )
        ]


def blocks(source: Source, axis: int, most: int, chunks: Shape) -> Iterator[At]:
    """Cut an array into blocks of whole chunks, with all classes of their rows.

    A block has at most `most` numbers where chunks and classes leave that choice. Where the rows
    of a class are side by side, it has enough of them to read a file by its pages.
    """
    shape, classes = source.shape, source.shape[axis]
    if source.order[-1] != axis:
        most = max(most, classes * 1024)
    steps = [min(chunk, n) for chunk, n in zip(chunks, shape, strict=True)]
    steps[axis] = classes
    for i in reversed(source.order):
        if 0 < steps[i] < shape[i]:
            steps[i] = min(steps[i] * max(most // max(math.prod(steps), 1), 1), shape[i])
        if steps[i] < shape[i]:
            break
    cuts = (range(0, n, step or 1) for n, step in zip(shape, steps, strict=True))
    for begins in product(*cuts):
        yield tuple(
            slice(begin, min(begin + step, n))
            for begin, step, n in zip(begins, steps, shape, strict=True)
        )


def open_array(
    text: str,
    stack: ExitStack,
    dtype: np.dtype[Any] | None = None,
    shape: Shape | None = None,
) -> Source:
    """Open FILE or FILE:MEMBER.

    Parameters
    ----------
    text : str
        .npy; .npz and .safetensors, with the member where there are several; Zarr, with the path of
        the array; and else the numbers alone.
    stack : ExitStack
        What closes it in the end.
    dtype : dtype, optional
        What numbers are, where the file does not say: in a file of numbers alone, or where it knows
        their size only, as of bfloat16.
    shape : tuple of int, optional
        What it must be; that of numbers alone, too. One -1 is as many as there are.
    """
    path, member = _split(text)
    suffix = path.suffix.lower()
    zarr = suffix == ".zarr" or path.is_dir()
    path.stat()  # or it says that there is none
    with _named(text):
        if zarr:
            source = _zarr(text, path, member, dtype)
        elif suffix == ".npy":
            source = _npy(text, path, dtype)
        elif suffix == ".npz":
            source = _npz(text, stack, path, member, dtype)
        elif suffix == ".safetensors":
            source = _safetensors(text, path, member, dtype)
        else:
            source = _raw(text, path, dtype, shape)
        if shape is not None and (
            len(shape) != len(source.shape)
            or any(n not in (-1, got) for n, got in zip(shape, source.shape, strict=True))
        ):
            raise _WrongError(f"must have shape {shape}, got {source.shape}")
        return source


def dtype_of(text: str) -> np.dtype[Any]:
    """Return the dtype of a name, bfloat16 among them."""
    if text == "bfloat16":
        return BFLOAT16
    dtype = np.dtype(text)
    if dtype.kind not in "iuf":
        raise TypeError(f"{text} is no dtype of numbers")
    return dtype


def _split(text: str) -> tuple[pathlib.Path, str]:
    """Take the member off a path, unless that is how a file is called."""
    path, colon, member = text.rpartition(":")
    holds_several = path.lower().endswith((".npz", ".safetensors", ".zarr")) or os.path.isdir(path)
    if colon and holds_several and not os.path.exists(text):
        return pathlib.Path(path), member
    return pathlib.Path(text), ""


class _WrongError(ValueError):
    """What is wrong with a file, said so that its name may stand in front."""


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the name of a file in front of what is raised about it, on one line."""
    try:
        yield
    except _WrongError as error:
        raise ValueError(f"{name} {error}") from None
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # it has a name
        said = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{name}: {said}") from None


def shape_of(at: At) -> Shape:
    """Return the shape of a block."""
    return tuple(s.stop - s.start for s in at)


def name_of(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype, bfloat16 among them."""
    return "bfloat16" if dtype == BFLOAT16 else str(dtype)


def _taken(stored: np.dtype[Any], wanted: np.dtype[Any] | None) -> np.dtype[Any]:
    """Return what numbers are taken for: what they are stored as, or `wanted` of the same size."""
    if wanted is not None and stored != wanted:
        if stored.itemsize != wanted.itemsize or stored.kind not in "Viu":
            raise _WrongError(f"must hold {name_of(wanted)}, got {stored}")
        return wanted
    if stored.kind == "V" and stored.itemsize == 2 and stored.names is None:
        raise _WrongError(f"must say what its 16 bits are, got {stored}: use --dtype bfloat16")
    if stored.kind not in "biuf" and _checks.kind_of(stored) is None:
        raise _WrongError(f"must hold real numbers, got dtype {stored}")
    return stored


def _header(file: Any) -> tuple[Shape, np.dtype[Any], bool]:
    """Read what stands in .npy before the numbers: shape, dtype, and whether Fortran's order."""
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise _WrongError(f"must be of version 1.0 or 2.0 of .npy, got {version}")
    shape, fortran, dtype = _NPY_HEADERS[version](file)
    return shape, dtype, fortran


def _npy(text: str, path: pathlib.Path, dtype: np.dtype[Any] | None) -> Source:
    with path.open("rb") as file:
        shape, stored, fortran = _header(file)
        return Mapped(text, path, file.tell(), shape, _taken(stored, dtype), fortran)


def _chosen(member: str, names: Collection[str]) -> str:
    """Return the name of the member that is wanted, or of the only one."""
    if member in names:
        return member
    listed = ", ".join(names) or "none"
    if member:
        raise _WrongError(f"must name one of the members {listed}")
    if len(names) != 1:
        raise _WrongError(f"must be followed by :MEMBER, one of {listed}")
    return next(iter(names))


def _npz(
    text: str, stack: ExitStack, path: pathlib.Path, member: str, dtype: np.dtype[Any] | None
) -> Source:
    archive = stack.enter_context(zipfile.ZipFile(path))
    infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    info = infos[_chosen(member, infos)]
    stream = cast(zipfile.ZipExtFile, stack.enter_context(archive.open(info)))
    shape, stored, fortran = _header(stream)
    taken = _taken(stored, dtype)
    if info.compress_type != zipfile.ZIP_STORED:
        return Streamed(text, stream, shape, taken, fortran)
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)  # the lengths of the name and of what follows it
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    begin = info.header_offset + 30 + name + extra + stream.tell()
    return Mapped(text, path, begin, shape, taken, fortran)


def _safetensors(text: str, path: pathlib.Path, member: str, dtype: np.dtype[Any] | None) -> Source:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(path.stat().st_size - 8, _LONGEST_HEADER):
            raise _WrongError(f"must begin with a header, got one of {size:,} bytes")
        said = file.read(size)
    try:
        header = json.loads(said)
        header.pop("__metadata__", None)
        entries = {
            name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in header.items()
        }
        code, shape, begin, end = entries[_chosen(member, entries)]
    except _WrongError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _WrongError("must begin with a header as safetensors writes it") from None
    if code != "BF16" and code not in _SAFETENSORS:
        raise _WrongError(f"must hold real numbers of 8 to 64 bits, got {code}")
    stored = BFLOAT16 if code == "BF16" else np.dtype(_SAFETENSORS[code])
    source = Mapped(text, path, 8 + size + begin, shape, _taken(stored, dtype))
    if source.nbytes != end - begin:
        raise source.must_hold(end - begin)
    return source


def _raw(text: str, path: pathlib.Path, dtype: np.dtype[Any] | None, shape: Shape | None) -> Source:
    if dtype is None or shape is None:
        raise _WrongError(
            "is no .npy, .npz, .safetensors or Zarr, so --dtype and --shape, or for labels "
            "--labels-dtype, must be given"
        )
    size = path.stat().st_size
    if -1 in shape:
        one = -math.prod(shape) * dtype.itemsize
        shape = tuple(size // one if one and n == -1 else n for n in shape)
    source = Mapped(text, path, 0, shape, dtype)
    if source.nbytes != size:
        raise source.must_hold(size)
    return source


def _zarr(text: str, path: pathlib.Path, member: str, dtype: np.dtype[Any] | None) -> Source:
    try:
        import zarr
    except ImportError:
        raise _WrongError("needs zarr: pip install 'xentfast[zarr]'") from None
    try:
        node: Any = zarr.open(path, mode="r", path=member or None)
    except FileNotFoundError:
        raise _WrongError("must be a file or a Zarr array, got neither") from None
    if not hasattr(node, "chunks"):
        names = sorted(name for name, _ in node.arrays())
        raise _WrongError(f"must be followed by :ARRAY, one of {', '.join(names) or 'none'}")
    return Chunked(text, node, _taken(np.dtype(node.dtype), dtype))
