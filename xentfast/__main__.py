"""The command line.

``info`` says what was built, ``bench`` how fast it is on this machine; ``score`` and ``compare``
evaluate what is in files.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np

import xentfast
from xentfast import _bench, _score

try:
    from rich import box
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    HAS_RICH = True
except ImportError:
    HAS_RICH = False

BENCH_HEADINGS = ("function", "shape", "dtype", "ms", "GB/s", "NumPy", "ratio", "ref.", "ratio")
BENCH_TEXT_COLUMNS = 3

OVERVIEW = """\
Cross-entropy and entropy for arrays on a CPU: the value, the gradient, or both in one pass.

In Python:
  import xentfast
  loss, grad = xentfast.cross_entropy_value_and_grad(logits, labels)

  xentfast            cross_entropy, binary_cross_entropy and linear_cross_entropy with their
                      gradients; evaluate and compare; entropy, kl_divergence, js_divergence;
                      softmax, log_softmax, logsumexp
  xentfast.dropin     the losses of other libraries under their own names: keras, scipy,
                      sklearn, torch
  xentfast.dask       evaluate, compare and cross_entropy_value_and_grad of Dask arrays
  xentfast.reference  the same functions in plain NumPy, to be read
  help(xentfast)      says more, and so does help() of each"""

EXAMPLES = """\
examples:
  xentfast info                  what was built, and what of it runs here
  xentfast info --json           the same for a program
  xentfast bench                 a comparison with NumPy, in less than a minute
  xentfast bench --peers         ... and with torch, jax, ... where they are installed
  xentfast score X.npy Y.npy     loss, accuracy, calibration of logits X and labels Y in files
  xentfast compare A.npy B.npy   how the logits of two models differ
  xentfast score --help          the options of score, and which files it reads

environment:
  XENTFAST_ISA                   forces an instruction set: one of those that `info` names
  XENTFAST_NUM_THREADS           the number of threads; else OMP_NUM_THREADS, else all CPUs"""

BENCH_EXAMPLES = """\
examples:
  xentfast bench --quick --threads 1
  xentfast bench --peers --plot speed.png
  xentfast bench --json > speed.json"""


def three_digits(number: float) -> str:
    """Return a positive number with about three digits and never an exponent."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def bench_row(timing: _bench.Timing) -> tuple[str, ...]:
    """Return one line of the table of times, in the order of `BENCH_HEADINGS`."""
    numbers = (
        *own_numbers(timing),
        timing.seconds[_bench.NUMPY] * 1e3,
        timing.ratio(_bench.NUMPY),
        timing.seconds[_bench.REFERENCE] * 1e3,
        timing.ratio(_bench.REFERENCE),
    )
    return *case_columns(timing), *map(three_digits, numbers)


def peers_row(timing: _bench.Timing, contenders: Sequence[str]) -> tuple[str, ...]:
    """Return one line of the table with peers: our numbers, and the ratio of each contender."""
    ratios = (
        three_digits(timing.ratio(name)) if name in timing.seconds else "-" for name in contenders
    )
    return *case_columns(timing), *map(three_digits, own_numbers(timing)), *ratios


def case_columns(timing: _bench.Timing) -> tuple[str, str, str]:
    """Return what was timed: function, shape and dtype."""
    return timing.case.label, "x".join(map(str, timing.shape)), timing.case.dtype


def own_numbers(timing: _bench.Timing) -> tuple[float, float]:
    """Return milliseconds, and GB/s of the input."""
    seconds = timing.seconds[_bench.OURS]
    return seconds * 1e3, timing.bytes_read / seconds / 1e9


def bench_title(config: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Return the heading of the table of times: what is compared with what."""
    threads = f"{config['threads']} thread{'s' * (config['threads'] != 1)}"
    others = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"xentfast {config['version']} ({config['isa']}, {threads})\n" + (
        f"against NumPy, {others}"
        if others
        else "against NumPy in the same dtype, and against the NumPy reference, float64"
    )


def bench_caption(repeats: int, with_peers: bool) -> str:
    """Return the lines under the table of times: how it was measured, what its columns mean."""
    lines = f"Medians of {repeats} calls each, taken in turn. GB/s: input that xentfast reads.\n"
    if with_peers:
        return lines + (
            "NumPy and the others: how many times as long as xentfast each takes; -: no such\n"
            "function, or another result. NumPy is plain code for the case alone."
        )
    return lines + (
        "NumPy: ms of plain NumPy code for the case alone. ref.: ms of the reference,\n"
        "which takes every option, on float64. ratio: that time over xentfast's."
    )


def bench_json(
    size: _bench.Size, versions: Mapping[str, str], timings: Sequence[_bench.Timing]
) -> str:
    """Return all that was measured as JSON: seconds are medians."""
    cases = [
        {
            "function": timing.case.function,
            "shape": timing.shape,
            "dtype": timing.case.dtype,
            "bytes_read": timing.bytes_read,
            "seconds": timing.seconds,
            "left_out": timing.left_out,
        }
        for timing in timings
    ]
    report = {
        "config": xentfast.show_config(),
        "versions": {"numpy": np.__version__, **versions},
        "repeats": size.repeats,
        "cases": cases,
    }
    return json.dumps(report, indent=1)


def draw_bench(path: pathlib.Path, title: str, timings: Sequence[_bench.Timing]) -> None:
    """Draw how many times as long as xentfast each contender takes, case by case."""
    from matplotlib.figure import Figure

    names = [" ".join(case_columns(timing)) for timing in timings]
    contenders = dict.fromkeys(name for timing in timings for name in timing.seconds)
    figure = Figure(figsize=(9, 1.5 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    for name in contenders:
        rows = [row for row, timing in enumerate(timings) if name in timing.seconds]
        ratios = [timings[row].ratio(name) for row in rows]
        if name == _bench.OURS:
            axes.axvline(1, color="black", label=name)
        else:
            axes.plot(ratios, rows, "o", label=name)
    axes.set(xscale="log", xlabel="time over that of xentfast", title=title)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center")
    figure.savefig(path, dpi=150)


def info_rows(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is known of this build and this machine as (name, value) pairs."""
    return [
        ("version", config["version"]),
        ("compiler", config["compiler"]),
        ("instruction sets built", ", ".join(config["isas_built"])),
        ("available here", ", ".join(config["isas_available"])),
        ("chosen", config["isa"]),
        ("threads", str(config["threads"])),
    ]


def format_columns(rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """Return rows as aligned columns: the first `text_columns` to the left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < text_columns else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def make_console() -> "Console":
    """Return the console to print to: a file or a pipe is as wide as it needs to be."""
    width = None if sys.stdout.isatty() else 160
    return Console(width=width, highlight=False, markup=False)


def print_info(rows: Sequence[Sequence[str]]) -> None:
    """Print (name, value) pairs."""
    if not HAS_RICH:
        print(format_columns(rows, 2))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    make_console().print(table)


def print_bench(
    title: str, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print the table of times."""
    if not HAS_RICH:
        table = format_columns([headings, *rows], BENCH_TEXT_COLUMNS)
        print(f"{title}\n\n{table}\n\n{caption}")
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, heading in enumerate(headings):
        is_text = place < BENCH_TEXT_COLUMNS
        grid.add_column(heading, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    console = make_console()
    console.print(title, "", style="bold", sep="\n")
    console.print(grid)
    console.print("", caption, style="dim", sep="\n")


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of `total` steps on a terminal; yield a function that names the next step."""
    if not HAS_RICH:
        yield lambda name: None
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        steps = 0

        def begin(name: str) -> None:
            nonlocal steps
            bar.update(task, description=name, completed=steps)
            steps += 1

        yield begin


def info(as_json: bool) -> int:
    """Print what was built and what this machine runs."""
    config = xentfast.show_config()
    if as_json:
        print(json.dumps(config, indent=1))
    else:
        print_info(info_rows(config))
    return 0


def bench(
    size: _bench.Size, versions: Mapping[str, str], as_json: bool, plot: pathlib.Path | None
) -> int:
    """Time the cases, and print the table or JSON; `versions` are those of the peers."""
    peers = list(versions)
    try:
        with progress(len(_bench.CASES)) as begin:
            timings = list(_bench.run(size, lambda case: begin(case.label), peers))
    except _bench.DisagreementError as error:
        print(error, file=sys.stderr)
        return 1
    title = bench_title(xentfast.show_config(), versions)
    if plot:
        draw_bench(plot, title, timings)
    if as_json:
        print(bench_json(size, versions, timings))
        return 0
    headings: tuple[str, ...] = BENCH_HEADINGS
    rows = [bench_row(timing) for timing in timings]
    if peers:
        contenders = (_bench.NUMPY, *peers)
        headings = *BENCH_HEADINGS[:5], *contenders
        rows = [peers_row(timing, contenders) for timing in timings]
    print_bench(title, bench_caption(size.repeats, bool(peers)), headings, rows)
    return 0


def picture_path(text: str) -> pathlib.Path:
    """Return where the picture goes; refuse what could not be written after all the measuring."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise argparse.ArgumentTypeError("needs matplotlib, which is not installed") from None
    path = pathlib.Path(text)
    if path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise argparse.ArgumentTypeError(f"must end in .png, .svg, .pdf or the like, got {text}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be in a folder that exists, got {text}")
    return path


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with the whole help, not with the usage line alone."""

    def error(self, message: str) -> NoReturn:
        """Print the help and the mistake, and exit with status 2."""
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: {message}\n")


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="xentfast", description=OVERVIEW, epilog=EXAMPLES, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", metavar="command")
    about = "Say what was built and what of it this machine runs."
    info_parser = commands.add_parser("info", help=about, description=about)
    info_parser.add_argument("--json", action="store_true", help="Print JSON.")
    about = "Compare with NumPy, or with all that is installed, on this machine."
    bench_parser = commands.add_parser(
        "bench", help=about, description=about, epilog=BENCH_EXAMPLES, formatter_class=raw
    )
    bench_parser.add_argument(
        "--quick", action="store_true", help="Use smaller arrays and fewer calls: a few seconds."
    )
    bench_parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="Use N threads; without it, as many as `info` says.",
    )
    bench_parser.add_argument(
        "--peers",
        action="store_true",
        help=f"Time {', '.join(_bench.PEERS)} in the same run, where they are installed: minutes.",
    )
    bench_parser.add_argument(
        "--plot", type=picture_path, metavar="FILE", help="Draw the ratios: .png, .svg, .pdf, ..."
    )
    bench_parser.add_argument(
        "--json", action="store_true", help="Print JSON instead of the table."
    )
    _score.add_commands(commands, picture_path)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "info":
        return info(options.json)
    if options.command is None:
        parser.print_help()
        return 0

    threads_before = xentfast.get_num_threads()
    if options.threads is not None:
        try:
            xentfast.set_num_threads(options.threads)
        except ValueError as error:
            parser.error(f"argument --threads: {error}")
    try:
        if options.command != "bench":
            return _score.run(options, print_info)
        return bench(
            _bench.QUICK if options.quick else _bench.FULL,
            _bench.installed_peers() if options.peers else {},
            options.json,
            options.plot,
        )
    except KeyboardInterrupt:
        return 130
    finally:
        xentfast.set_num_threads(threads_before)


if __name__ == "__main__":
    sys.exit(main())
