"""The lines that requests are in: an `OrderedDict`, or a `linked.LinkedLine` in the compiled build.

As in `_native`, `lines.pxd` has these functions in C.  What enters a line of the compiled build leaves
the one of the same kind that it is in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

Line: TypeAlias = "OrderedDict[Any, None]"
"""Items, oldest first; None stands for each."""

new_line: Callable[[], Line] = OrderedDict
"""Make an empty one."""

new_flow_line: Callable[[], Line] = OrderedDict
"""Make an empty one of the other kind: what is in it may be in another line as well."""


def first_of(line: Line) -> Any:
    """The oldest item; None if there is none."""
    for item in line:
        return item
    return None


def last_of(line: Line) -> Any:
    """The newest item; None if there is none."""
    for item in reversed(line):
        return item
    return None


def move_to_end(line: Line, item: object) -> None:
    """Make an item the newest one, wherever it is."""
    line.pop(item, None)
    line[item] = None
