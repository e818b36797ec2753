"""The table of the requests that are open on a connection, by their ids.

Whoever makes one uses the methods that a dict and `slots.Table` have in common.  In the compiled
build it is a `slots.Table`; so this module is not compiled itself, and its function stands once
more in `table.pxd`.
"""

from __future__ import annotations

from typing import Any


def new() -> dict[int, Any]:
    """An empty one."""
    return {}


def drop(table: dict[int, Any], id: int) -> None:
    """Take a request out, if it is there; an empty table takes no memory."""
    # It is not there if a signal handler has closed the connection meanwhile.
    if len(table) == 1 and id in table:
        # An idle connection would keep 160 bytes.
        table.clear()
    else:
        table.pop(id, None)
