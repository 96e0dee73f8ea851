"""``xentfast score`` and ``xentfast compare``: evaluate and compare of files beyond memory.

Blocks of the rows are read, evaluated and added, by several threads: a sum of evaluations is the
same to the last bit however the rows are cut. So memory is that of the blocks, and what was read
until Ctrl-C is a result too.
"""

from __future__ import annotations

import argparse
import json
import math
import operator
import pathlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xentfast import _checks, _evaluate, _files
from xentfast._checks import Array
from xentfast._compare import Comparison, compare
from xentfast._config import get_num_threads, num_threads
from xentfast._evaluate import Evaluation, evaluate
from xentfast._files import At, Source

Result: TypeAlias = Evaluation | Comparison
Rows: TypeAlias = list[tuple[str, str]]

BLOCK = 2**26  # bytes of logits, of all threads: more is hardly faster
LEAST = 2**23  # of a thread
BAR = 24  # characters

FILES = """\
files:
  FILE.npy                 of NumPy
  FILE.npz:NAME            an array of an archive; read in place if that is not compressed
  FILE.safetensors:NAME    a tensor
  FILE.zarr:NAME           Zarr: an array, or one of a group (the extra zarr)
  any other                the numbers alone: --dtype and --shape, or --labels-dtype, say which
  16 bits that are bfloat16, for which .npy has no name, are so with --dtype bfloat16. The name may
  be left out where there is one array. Files may be larger than memory: of each at most 64 MiB are
  held (8 MiB for each of many threads), or if that is more, 1024 rows where a class after the other
  is stored, and a row of chunks of Zarr."""

SCORE_EXAMPLES = f"""\
{FILES}

examples:
  xentfast score logits.npy labels.npy
  xentfast score run.npz:logits run.npz:labels --ignore-index -100 --json > run.json
  xentfast score out.safetensors:logits labels.npy --per-row rows.npy --columns loss,predicted
  xentfast score logits.bin labels.bin --dtype bfloat16 --shape=-1,50257 --labels-dtype int32

In Python: xentfast.Evaluation.from_dict(json.load(file)), and np.load("rows.npy")["loss"]."""

COMPARE_EXAMPLES = f"""\
{FILES}

examples:
  xentfast compare original.npy quantised.npy
  xentfast compare original.npy quantised.npy labels.npy --ignore-index -100 --plot kl.png

In Python: xentfast.Comparison.from_dict(json.load(file))."""


# --- options --------------------------------------------------------------------------------------


def _dtype(text: str) -> np.dtype[Any]:
    try:
        return _files.dtype_of(text)
    except TypeError:
        raise argparse.ArgumentTypeError(f"must be a dtype of numbers, got {text}") from None


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(n) for n in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < -1 or shape.count(-1) > 1:
        raise argparse.ArgumentTypeError(f"must be sizes like 1000,50257, got {text}")
    return shape


def _top_k(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(k) for k in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers like 1,5, got {text}") from None


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in _evaluate._PER_ROW:
            listed = ", ".join(_evaluate._PER_ROW)
            raise argparse.ArgumentTypeError(f"must name some of {listed}, got {name}")
    return names


def _rows_path(text: str) -> pathlib.Path:
    path = pathlib.Path(text)
    if path.suffix != ".npy":
        raise argparse.ArgumentTypeError(f"must end in .npy, got {text}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be in a folder that exists, got {text}")
    return path


def add_commands(commands: Any, picture_path: Callable[[str], pathlib.Path]) -> None:
    """Add the two to the parsers of all commands."""
    about = "Evaluate logits in a file: loss, accuracy, entropy, calibration, in one read."
    score = _command(commands, "score", about, SCORE_EXAMPLES)
    score.add_argument("logits", metavar="LOGITS", help="Logits, of 1 to 7 axes.")
    score.add_argument("labels", metavar="LABELS", help="Class indices, without the class axis.")
    add = score.add_argument
    add("--sample-weight", metavar="FILE", help="A weight >= 0 for each row.")
    add("--probabilities", action="store_true", help="LOGITS are probabilities.")
    add("--top-k", type=_top_k, default=(1, 5), metavar="K,...", help="Each k to report: 1,5.")
    add("--ties", choices=("lowest", "highest", "any"), default="lowest",
        help="The class that comes first among equal logits; any: the label.")  # fmt: skip
    add("--bins", type=int, default=15, metavar="N", help="Bins of the calibration: 15.")
    add("--per-row", type=_rows_path, metavar="FILE.npy", help="Write numbers of each row.")
    add("--columns", type=_columns, metavar="NAME,...",
        help=f"Which of {', '.join(_evaluate._PER_ROW)}. Without it loss,rank.")  # fmt: skip
    _common(score, picture_path)
    about = "Compare the logits of two models on the same rows, in one read of both."
    both = _command(commands, "compare", about, COMPARE_EXAMPLES)
    both.add_argument("base", metavar="BASE", help="Logits, of 1 to 7 axes.")
    both.add_argument("other", metavar="OTHER", help="Logits of the same shape.")
    both.add_argument("labels", metavar="LABELS", nargs="?", help="Class indices.")
    both.add_argument("--other-dtype", type=_dtype, metavar="D", help="As --dtype, for OTHER.")
    _common(both, picture_path)


def _command(commands: Any, name: str, about: str, epilog: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=epilog, formatter_class=raw
    )
    return parser


def _common(parser: argparse.ArgumentParser, picture_path: Callable[[str], pathlib.Path]) -> None:
    add = parser.add_argument
    add("--axis", type=int, default=-1, metavar="N", help="The class axis: -1, the last.")
    add("--ignore-index", type=int, metavar="N", help="A label whose rows do not count.")
    add("--dtype", type=_dtype, metavar="D", help="What the numbers are, where no file says it.")
    add("--shape", type=_shape, metavar="N,K",
        help="Their shape; -1, as in --shape=-1,K, is as many as there are.")  # fmt: skip
    add("--labels-dtype", type=_dtype, metavar="D", help="As --dtype, for LABELS.")
    add("--threads", type=int, metavar="N", help="Use N threads; without it, as `info` says.")
    add("--progress", action=argparse.BooleanOptionalAction, default=None,
        help="Show how far it is; without it, on a terminal.")  # fmt: skip
    add("--json", action="store_true", help="Print JSON instead of the table.")
    add("--plot", type=picture_path, metavar="FILE", help="Draw it: .png, .svg, .pdf, ...")


# --- reading --------------------------------------------------------------------------------------


class Job(NamedTuple):
    """What to read, and what to make of a block of it."""

    title: Rows
    empty: Any
    logits: list[Source]
    sources: list[Source]  # the logits and what goes with them
    axis: int
    rows: int
    evaluate: Callable[[At], Any]


def _logits(
    name: str,
    text: str,
    stack: ExitStack,
    axis: int,
    dtype: np.dtype[Any] | None,
    shape: tuple[int, ...] | None,
) -> tuple[Source, int]:
    """Open logits that can be evaluated; return their class axis too, not negative."""
    source = _files.open_array(text, stack, dtype, shape)
    one = np.zeros((), _taken_as(source.dtype))
    _, at = _checks.rows_of_classes(name, np.broadcast_to(one, source.shape), axis)
    return source, at


def _taken_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return what logits are converted to block by block: native, and integers to float64."""
    return np.dtype(np.float64) if dtype.kind in "iu" else dtype.newbyteorder("=")


def _labels(
    text: str, stack: ExitStack, dtype: np.dtype[Any] | None, shape: tuple[int, ...]
) -> Source:
    source = _files.open_array(text, stack, dtype, shape)
    if source.dtype.kind not in "iu":
        raise TypeError(f"{text} must have an integer dtype, got {_files.name_of(source.dtype)}")
    return source


def _without(a: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return a[:axis] + a[axis + 1 :]


def _origin(at: At) -> tuple[int, ...]:
    return tuple(s.start for s in at)


def _check_labels(y: Array, classes: int, ignore_index: int | None, at: At) -> None:
    """Refuse a label out of range with its row in the file."""
    _checks.within(y, classes, _checks.ignored(ignore_index, y, False), _origin(at))


def _described(name: str, source: Source) -> tuple[str, str]:
    shape = " x ".join(f"{n:,}" for n in source.shape)
    return name, f"{source.name}: {shape}, {_files.name_of(source.dtype)}"


def _score(options: argparse.Namespace, stack: ExitStack) -> Job:
    empty = Evaluation.empty(top_k=options.top_k, ties=options.ties, bins=options.bins)
    logits, axis = _logits(
        "logits", options.logits, stack, options.axis, options.dtype, options.shape
    )
    lead, classes = _without(logits.shape, axis), logits.shape[axis]
    labels = _labels(options.labels, stack, options.labels_dtype, lead)
    weights = options.sample_weight and _files.open_array(options.sample_weight, stack, None, lead)
    names: tuple[str, ...] = ()
    if options.per_row:
        names = options.columns or ("loss", "rank")
        if "lse" in names and options.probabilities:
            raise ValueError("--columns must not name lse with --probabilities, got lse")
        floats = _checks.computed(_taken_as(logits.dtype))
        kept = np.dtype([(n, "i8" if n in ("rank", "predicted") else floats) for n in names])
        beside = stack.enter_context(_files.replacing(options.per_row))
        file = stack.enter_context(closing(_files.Written(beside, lead, kept)))
    elif options.columns:
        raise ValueError(f"--columns must come with --per-row, got {','.join(options.columns)}")

    def evaluated(at: At) -> Evaluation:
        here = _without(at, axis)
        x, y = logits.read(at), labels.read(here)
        w = weights.read(here) if weights else None
        try:
            found: Any = evaluate(
                x,
                y,
                axis=axis,
                from_logits=not options.probabilities,
                top_k=options.top_k,
                ties=options.ties,
                ignore_index=options.ignore_index,
                sample_weight=w,
                bins=options.bins,
                per_row=names,
            )
        except ValueError:
            _check_labels(y, classes, options.ignore_index, here)
            if w is not None:
                _checks.bounded("sample_weight", w, np.float64, _origin(here))
            raise
        if names:
            found, arrays = found
            block = np.empty(y.shape, kept)
            for name in names:
                block[name] = arrays[name]
            file.write(here, block)
        part: Evaluation = found
        return part

    sources = [logits, labels, *([weights] if weights else [])]
    title = [_described("logits", logits)]
    return Job(title, empty, [logits], sources, axis, math.prod(lead), evaluated)


def _compare(options: argparse.Namespace, stack: ExitStack) -> Job:
    base, axis = _logits("base", options.base, stack, options.axis, options.dtype, options.shape)
    dtype = options.dtype if options.other_dtype is None else options.other_dtype
    other, _ = _logits("other", options.other, stack, axis, dtype, base.shape)
    lead, classes = _without(base.shape, axis), base.shape[axis]
    labels = options.labels and _labels(options.labels, stack, options.labels_dtype, lead)
    if options.ignore_index is not None and not labels:
        raise ValueError(f"--ignore-index must come with LABELS, got {options.ignore_index}")

    def compared(at: At) -> Comparison:
        a, b = base.read(at), other.read(at)
        y = labels.read(_without(at, axis)) if labels else None
        try:
            return compare(a, b, y, axis=axis, ignore_index=options.ignore_index)
        except ValueError:
            if y is not None:
                _check_labels(y, classes, options.ignore_index, _without(at, axis))
            raise

    title = [_described("base", base), _described("other", other)]
    both = [base, other]
    sources = [*both, *([labels] if labels else [])]
    return Job(title, Comparison.empty(), both, sources, axis, math.prod(lead), compared)


# --- showing --------------------------------------------------------------------------------------


def _size(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.2f} MB"


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Show on stderr how much of `total` bytes is read; yield what takes how many are."""
    begun = time.perf_counter()
    done, width = 0, 0

    def draw(text: str, end: str) -> None:
        nonlocal width
        if shown:
            text = text[: max(shutil.get_terminal_size().columns - 1, 1)]
            print(f"\r{text.ljust(width)}", end=end, file=sys.stderr, flush=True)
            width = len(text)

    def update(now_done: int) -> None:
        nonlocal done
        done = now_done
        if done:
            rate = done / (time.perf_counter() - begun)
            left = round((total - done) / rate)
            filled = "#" * (BAR * done // total)
            draw(
                f"[{filled:{BAR}}] {100 * done // total:3}% of {_size(total)}, "
                f"{rate / 1e9:.2f} GB/s, {left // 60}:{left % 60:02} left",
                "",
            )

    try:
        yield update
    finally:
        seconds = time.perf_counter() - begun
        draw(f"{_size(done)} in {seconds:.2f} s, {done / seconds / 1e9:.2f} GB/s", "\n")


def _number(value: float, error: float | None = None) -> str:
    return f"{value:.6g}" if error is None else f"{value:.6g} ± {error:.2g}"


def _quantiles(quantile: Callable[[float], float], shares: Sequence[float]) -> str:
    return ", ".join(f"{quantile(q):.3g}" for q in shares)


def _evaluation(e: Evaluation) -> Rows:
    """Return the table of an evaluation."""
    rows = [("rows", f"{e.count:,}")]
    if e.weight != e.count:
        rows.append(("sum of weights", _number(e.weight)))
    if e.invalid:
        rows.append(("rows of nan or inf", f"{e.invalid:,}"))
    return [
        *rows,
        ("loss (nats)", _number(e.loss, e.loss_error)),
        ("loss (bits)", _number(e.bits)),
        ("perplexity", _number(e.perplexity)),
        ("loss, 5%, 50%, 95%", _quantiles(e.loss_quantile, (0.05, 0.5, 0.95))),
        ("accuracy", _number(e.accuracy)),
        *((f"top {k}", _number(share)) for k, share in e.top_k.items() if k > 1),
        ("mean reciprocal rank", _number(e.mean_reciprocal_rank)),
        ("entropy (nats)", _number(e.entropy)),
        ("Brier score", _number(e.brier)),
        ("confidence", _number(e.confidence)),
        ("calibration error", _number(e.calibration_error)),
        ("largest of a bin", _number(e.max_calibration_error)),
    ]


def _comparison(c: Comparison) -> Rows:
    """Return the table of a comparison."""
    rows = [
        ("rows", f"{c.count:,}"),
        ("KL(base, other) (nats)", _number(c.kl, c.kl_error)),
        ("50%, 90%, 99%, 99.9%", _quantiles(c.kl_quantile, (0.5, 0.9, 0.99, 0.999))),
        ("KL(other, base) (nats)", _number(c.reverse_kl, c.reverse_kl_error)),
        ("Jensen-Shannon (nats)", _number(c.js, c.js_error)),
        ("same class first", _number(c.same_first, c.same_first_error)),
    ]
    if c.labelled:
        ratio = _number(c.log_perplexity_ratio, c.log_perplexity_ratio_error)
        rows += [
            ("loss of base (nats)", _number(c.base_loss)),
            ("loss of other (nats)", _number(c.other_loss)),
            ("log perplexity ratio", ratio),
            ("change of label's p", _number(c.change, c.change_error)),
            ("its root mean square", _number(c.change_rms, c.change_rms_error)),
        ]
    return rows


def _table(result: Result) -> Rows:
    return _evaluation(result) if isinstance(result, Evaluation) else _comparison(result)


def _json(result: Result) -> str:
    """Return JSON with a line for each entry."""
    lines = (f" {json.dumps(k)}: {json.dumps(v)}" for k, v in result.to_dict().items())
    return "{\n" + ",\n".join(lines) + "\n}"


class _Reading:
    """All blocks, read and added: what was read so far, too, is a result."""

    def __init__(self, job: Job) -> None:
        self.job, self.result = job, job.empty
        self.rows = self.bytes = 0
        first, self._workers = job.logits[0], get_num_threads()
        if first.order[-1] != job.axis or not all(source.anywhere for source in job.sources):
            self._workers = 1
        size = max(_taken_as(source.dtype).itemsize for source in job.logits)
        chunks = tuple(max(sizes) for sizes in zip(*(s.chunks for s in job.logits), strict=True))
        most = max(BLOCK // self._workers, LEAST) // size
        self._blocks = enumerate(_files.blocks(first, job.axis, most, chunks))
        self._bytes_of_row = first.shape[job.axis] * sum(s.dtype.itemsize for s in job.logits)
        self._lock = threading.Condition()
        self._begun, self._stopped = 0, False
        self._errors: list[tuple[int, BaseException]] = []

    @property
    def total(self) -> int:
        """How many bytes there are."""
        return self.job.rows * self._bytes_of_row

    def run(self, show: Callable[[int], None]) -> None:
        """Read until all is read, something is wrong, or Ctrl-C; `show` how many bytes are.

        Where any block can be read at any time, each thread takes blocks of its own, and one unmaps
        its last while the others go on. Else they are read in turn.
        """
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                work = [pool.submit(self._work) for _ in range(self._workers)]
                while wait(work, timeout=0.1).not_done:
                    show(self.bytes)
                show(self.bytes)
            finally:
                # What was begun is a part of the result. Not by joins: Ctrl-C may come before the
                # pool knows its thread, and in a join, which before Python 3.13 takes it for ended.
                with self._lock:
                    self._stopped = True
                    self._lock.wait_for(lambda: not self._begun)
        if self._errors:  # the blocks before the first of them were read
            raise min(self._errors, key=operator.itemgetter(0))[1]

    def _work(self) -> None:
        with num_threads(1) if self._workers > 1 else nullcontext():
            while True:
                with self._lock:
                    i, at = next(self._blocks, (0, None))
                    if at is None or self._stopped:
                        return
                    self._begun += 1
                part = self.job.empty
                rows = math.prod(_without(_files.shape_of(at), self.job.axis))
                try:
                    part = self.job.evaluate(at)
                except BaseException as error:
                    self._errors.append((i, error))
                    self._stopped, rows = True, 0
                with self._lock:
                    self.result += part
                    self.rows += rows
                    self.bytes += rows * self._bytes_of_row
                    self._begun -= 1
                    self._lock.notify_all()


def run(options: argparse.Namespace, show: Callable[[Rows], None]) -> int:
    """Run `score` or `compare`, and return the exit status."""
    reading, status = None, 0
    try:
        with ExitStack() as stack:
            reading = _Reading((_score if options.command == "score" else _compare)(options, stack))
            shown = sys.stderr.isatty() if options.progress is None else options.progress
            reading.run(stack.enter_context(_bar(reading.total, shown)))
        if options.plot:
            with _files.replacing(options.plot) as beside:
                reading.result.plot().savefig(beside, dpi=150)
    except KeyboardInterrupt:
        status = 130
    except (MemoryError, OSError, TypeError, ValueError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            said = f"{error.filename}: {error.strerror}"
        print(f"xentfast {options.command}: {said}", file=sys.stderr)
        return 2
    if reading is None:
        return status
    if options.json:
        print(_json(reading.result))
    else:
        show([*reading.job.title, *_table(reading.result)])
    if status:
        of = f"{reading.rows:,} of {reading.job.rows:,} rows were read"
        print(f"interrupted: {of}", file=sys.stderr)
    return status
