"""What `dir()` of an object shows to its user."""

from __future__ import annotations

from typing import ClassVar


class Shown:
    """An object that users hold, with attributes that are for this package only."""

    __slots__ = ()

    # The names of those that are for users.
    _shown: ClassVar[tuple[str, ...]]

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name.startswith("__") or name in self._shown]
