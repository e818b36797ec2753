"""The line that requests are in: an `OrderedDict`, or a `linked.LinkedLine` in the compiled build.

As in `_native`, `lines.pxd` has these functions in C.  An item that enters a line of the compiled build
leaves the one that it is in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeAlias

Line: TypeAlias = "OrderedDict[Any, None]"
"""Items, oldest first; None stands for each."""

new_line: Callable[[], Line] = OrderedDict
"""Make an empty one."""


def first_of(line: Line) -> Any:
    """The oldest item; None if there is none."""
    for item in line:
        return item
    return None
