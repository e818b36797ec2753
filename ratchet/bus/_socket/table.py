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
