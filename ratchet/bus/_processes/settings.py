"""The settings of a worker, which its supervisor sends in the first message."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ratchet.bus._core.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that all workers of a supervisor share.

    Attributes:
        handler: MODULE:NAME.
        workers: how many requests one worker process handles at once.
        codec: the name of one; None for bytes.
        limits: the bounds of the bus of each process.
        ssl_context: MODULE:NAME of a TLS context, or of a function that makes one; None for no TLS.
        ssl_arguments: what that function is called with.
        patch: whether the standard library is patched before the handler is imported.
        drain_timeout: seconds that a worker has to finish what it has taken.
        path: where modules are looked for.
    """

    handler: str
    workers: int
    codec: str | None
    limits: Limits
    ssl_context: str | None
    patch: bool
    drain_timeout: float
    ssl_arguments: list[Any] = field(default_factory=list)
    path: list[str] = field(default_factory=lambda: list(map(str, sys.path)))

    def to_json(self) -> dict[str, Any]:
        """As a message carries it."""
        return asdict(self)


def settings_from(message: Mapping[str, Any]) -> Settings:
    """The settings that a message carries."""
    return Settings(**{**message, "limits": Limits(**message["limits"])})
