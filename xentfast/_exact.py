"""Sums without rounding: integers in units of the smallest double.

Any order, grouping and split gives the same number, which is rounded once, when it is read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

UNIT = 1074  # sums are in units of 2^-1074
ONE = 1 << UNIT
_NUMBER = re.compile(r"(-?)0x([0-9a-f]+)p([+-][0-9]{1,4})")


def ratio(a: int, b: int) -> float:
    """Return a / b rounded once: nan for b = 0, infinite beyond the largest double."""
    if b == 0:
        return math.nan
    try:
        return a / b
    except OverflowError:
        return math.inf if (a > 0) == (b > 0) else -math.inf


def encode(value: int) -> str:
    """Write an exact number as the hexadecimal digits that are not 0, and a power of two."""
    zeros = (value & -value).bit_length() - 1 if value else UNIT
    return f"{value >> zeros:#x}p{zeros - UNIT:+d}"


def decode(text: Any) -> int:
    """Read what `encode` wrote."""
    found = _NUMBER.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[3]) < -UNIT:
        raise ValueError(f"a sum must be of the form '0x1p+0', got {text!r}")
    value = int(found[2], 16) << (int(found[3]) + UNIT)
    return -value if found[1] else value


@dataclass(frozen=True, slots=True)
class Sum:
    """An exact sum, and how many of what was added was +inf, -inf and nan."""

    exact: int = 0
    infinite: int = 0
    negative: int = 0
    nan: int = 0

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.exact + other.exact,
            self.infinite + other.infinite,
            self.negative + other.negative,
            self.nan + other.nan,
        )

    @property
    def special(self) -> float | None:
        """Inf, -inf or nan where that is the sum."""
        if self.nan or (self.infinite and self.negative):
            return math.nan
        if self.infinite or self.negative:
            return math.inf if self.infinite else -math.inf
        return None

    def over(self, weight: int) -> float:
        """Return the sum over an exact weight."""
        special = self.special
        return ratio(self.exact, weight) if special is None or not weight else special

    def to_list(self) -> list[Any]:
        """Return what JSON can hold: the digits, and the counts if there are any."""
        counts = [self.infinite, self.negative, self.nan]
        return [encode(self.exact), *(counts if any(counts) else ())]

    @classmethod
    def from_list(cls, data: Any) -> Sum:
        """Return the sum of which `to_list` made `data`."""
        if not isinstance(data, list) or len(data) not in (1, 4):
            raise ValueError(f"a sum must be a list of 1 or 4, got {data!r}")
        return cls(decode(data[0]), *map(natural, data[1:]))


def natural(value: Any) -> int:
    """Return a count."""
    if type(value) is not int or value < 0:
        raise ValueError(f"a count must be an int >= 0, got {value!r}")
    return value


# --- histograms of positive numbers: src/loops/exact.pxi ------------------------------------------

PLACES = 194  # four to an octave from 2^-40 to 2^8, one below and one above
_EDGES = [(1 + quarter / 4) * 2.0**octave for octave in range(-40, 8) for quarter in range(4)]
EDGES = (0.0, *_EDGES, 2.0**8, math.inf)  # place i is [EDGES[i], EDGES[i + 1])


def quantile(histogram: tuple[int, ...], q: float) -> float:
    """Return a quantile, within its place of the histogram by interpolation; nan of nothing.

    Below 2^-40 it is 0, above 2^8 inf.
    """
    total = sum(histogram)
    if not total:
        return math.nan
    rank = q * total
    for i, n in enumerate(histogram):
        if n and rank <= n:
            low, high = EDGES[i], EDGES[i + 1]
            if i == 0:
                return 0.0
            return high if math.isinf(high) else low + (high - low) * rank / n
        rank -= n
    return math.inf if histogram[-1] else EDGES[max(i for i, n in enumerate(histogram) if n) + 1]


def add_all(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add two tuples element by element."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def finite(value: float) -> float | None:
    """Return a number as JSON has it: None where it is not finite."""
    return value if math.isfinite(value) else None


def standard_error(
    count: int,
    total: Sum,
    square: Sum,
    weight: int | None = None,
    w_square: Sum | None = None,
    w_total: Sum | None = None,
) -> float:
    """Return sqrt(n / (n - 1) sum (w l - w mean)^2) / W from exact sums; nan of less than two rows.

    They are those of w l, (w l)^2, w, w^2 and w^2 l, the last three by default of weights of 1. The
    sum of squares times W^2 is (w l)^2 W^2 - 2 (w^2 l) W (w l) + w^2 (w l)^2, all of sums: nothing
    cancels before it is rounded.
    """
    all_weight = count * ONE if weight is None else weight
    b, c = w_square or Sum(count * ONE), w_total or total
    if count < 2 or not all_weight or any(s.special is not None for s in (total, square, b, c)):
        return math.nan
    s = total.exact
    spread = (square.exact * all_weight - 2 * c.exact * s) * all_weight + b.exact * s * s
    return math.sqrt(ratio(max(spread, 0) * count << UNIT, all_weight**4 * (count - 1)))
