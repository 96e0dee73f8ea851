"""The command line: ``info`` says what was built, ``bench`` how fast it is on this machine."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import xentfast
from xentfast import _bench

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


def three_digits(number: float) -> str:
    """Return a positive number with about three digits and never an exponent."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def bench_row(timing: _bench.Timing) -> tuple[str, ...]:
    """Return one line of the table of times, in the order of `BENCH_HEADINGS`."""
    numbers = (
        timing.seconds * 1e3,
        timing.bytes_read / timing.seconds / 1e9,
        timing.numpy_seconds * 1e3,
        timing.numpy_seconds / timing.seconds,
        timing.reference_seconds * 1e3,
        timing.reference_seconds / timing.seconds,
    )
    shape = "x".join(map(str, timing.shape))
    return timing.case.label, shape, timing.case.dtype, *map(three_digits, numbers)


def bench_title(config: Mapping[str, Any]) -> str:
    """Return the heading of the table of times: what is compared with what."""
    threads = f"{config['threads']} thread{'s' * (config['threads'] != 1)}"
    return (
        f"xentfast {config['version']} ({config['isa']}, {threads})\n"
        "against NumPy in the same dtype, and against the NumPy reference, float64"
    )


def bench_caption(repeats: int) -> str:
    """Return the lines under the table of times: how it was measured, what its columns mean."""
    return (
        f"Medians of {repeats} calls each, taken in turn. GB/s: input that xentfast reads.\n"
        "NumPy: ms of plain NumPy code for the case alone. ref.: ms of the reference,\n"
        "which takes every option, on float64. ratio: that time over xentfast's."
    )


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


def print_bench(title: str, caption: str, rows: Sequence[Sequence[str]]) -> None:
    """Print the table of times."""
    if not HAS_RICH:
        table = format_columns([BENCH_HEADINGS, *rows], BENCH_TEXT_COLUMNS)
        print(f"{title}\n\n{table}\n\n{caption}")
        return
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, heading in enumerate(BENCH_HEADINGS):
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


def info() -> int:
    """Print what was built and what this machine runs."""
    print_info(info_rows(xentfast.show_config()))
    return 0


def bench(size: _bench.Size) -> int:
    """Time the cases and print the table."""
    try:
        with progress(len(_bench.CASES)) as begin:
            rows = [
                bench_row(timing) for timing in _bench.run(size, lambda case: begin(case.label))
            ]
        print_bench(bench_title(xentfast.show_config()), bench_caption(size.repeats), rows)
    except _bench.DisagreementError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake with the whole help, not with the usage line alone."""

    def error(self, message: str) -> NoReturn:
        """Print the help and the mistake, and exit with status 2."""
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: {message}\n")


def make_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="xentfast",
        description="Cross-entropy and entropy for arrays on a CPU.",
        epilog="XENTFAST_ISA forces an instruction set, XENTFAST_NUM_THREADS a number of threads.",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    about = "Say what was built and what of it this machine runs."
    commands.add_parser("info", help=about, description=about)
    about = "Compare with NumPy on this machine, in less than a minute."
    bench_parser = commands.add_parser("bench", help=about, description=about)
    bench_parser.add_argument(
        "--quick", action="store_true", help="Use smaller arrays and fewer calls: a few seconds."
    )
    bench_parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="Use N threads; without it, as many as `info` says.",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "info":
        return info()
    if options.command != "bench":
        parser.print_help()
        return 0

    threads_before = xentfast.get_num_threads()
    if options.threads is not None:
        try:
            xentfast.set_num_threads(options.threads)
        except ValueError as error:
            parser.error(f"argument --threads: {error}")
    try:
        return bench(_bench.QUICK if options.quick else _bench.FULL)
    except KeyboardInterrupt:
        return 130
    finally:
        xentfast.set_num_threads(threads_before)


if __name__ == "__main__":
    sys.exit(main())
