"""Latencies in bounded memory: counted in buckets on a logarithmic scale.

The mean, the smallest and the largest one are exact; a percentile is exact to
within one bucket, which is 2.3 % wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

_PER_DECADE: Final = 100
# The first bucket begins at 1 us, and the last one at 1000 s.
_SHORTEST: Final = 1e-6
_DECADES: Final = 9
_BUCKETS: Final = _PER_DECADE * _DECADES + 1

# How many buckets a row of the histogram may have, and how many rows it has at most.
_ROW_WIDTHS: Final = (5, 10, 20, 50, 100)
_MAX_ROWS: Final = 20
_BAR_WIDTH: Final = 40
_UNITS: Final = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))


class Latencies:
    """Any number of latencies, in seconds.

    Attributes:
        count: how many there are.
        shortest, longest: the extremes; infinite and 0 while there is none.
    """

    def __init__(self) -> None:
        self.count = 0
        self.shortest = math.inf
        self.longest = 0.0
        self._total = 0.0
        self._buckets = [0] * _BUCKETS

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self._total += seconds
        if seconds < self.shortest:
            self.shortest = seconds
        if seconds > self.longest:
            self.longest = seconds
        self._buckets[_bucket(seconds)] += 1

    @property
    def mean(self) -> float:
        """Their mean; there must be one."""
        return self._total / self.count

    def percentile(self, percent: float) -> float:
        """The latency that `percent` of them do not exceed; there must be one."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if seen >= wanted:
                return min(max(_begin(bucket + 1), self.shortest), self.longest)
        return self.longest

    def histogram(self) -> Iterator[str]:
        """Lines of text: from, to, how many, and a bar; none if there is no latency."""
        if not self.count:
            return
        first, last = _bucket(self.shortest), _bucket(self.longest)
        width = next(width for width in _ROW_WIDTHS if last // width - first // width < _MAX_ROWS)
        rows = [
            (start, sum(self._buckets[start : start + width]))
            for start in range(first // width * width, last + 1, width)
        ]
        most = max(count for _, count in rows)
        digits = len(f"{most:,}")
        for start, count in rows:
            begin, end = shown_time(_begin(start)), shown_time(_begin(start + width))
            bar = "#" * math.ceil(count / most * _BAR_WIDTH)
            yield f"{begin:>8} - {end:>8}  {count:{digits},}  {bar}".rstrip()


def _bucket(seconds: float) -> int:
    """The bucket of a latency; what is out of range is in the first or the last one."""
    if seconds <= _SHORTEST:
        return 0
    return min(int(math.log10(seconds / _SHORTEST) * _PER_DECADE), _BUCKETS - 1)


def _begin(bucket: int) -> float:
    """The lower bound of a bucket, in seconds."""
    return _SHORTEST * math.pow(10.0, bucket / _PER_DECADE)


def shown_time(seconds: float) -> str:
    """Format a time with three digits, in the unit that suits it."""
    unit, size = next((unit for unit in _UNITS if seconds >= 0.9995 * unit[1]), _UNITS[-1])
    value = seconds / size
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {unit}"
