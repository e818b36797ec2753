"""How the blocks of this package give back what they change, be they interrupted at any line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def undoing(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo()` when the block is left, and once more if an interrupt strikes in that.

    Doing it twice must change nothing.  A change is made in the block, not before it.
    """
    try:
        yield
        undo()
    except BaseException:
        undo()
        raise
