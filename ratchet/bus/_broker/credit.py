"""Two methods of RabbitMQ 3 that pamqp does not know: how many more deliveries a consumer gets.

They are no part of AMQP 0-9-1, and later versions do not have them.
"""

from __future__ import annotations

from typing import ClassVar, Final

from pamqp import base

_BEFORE: Final = (4, 0)


class Credit(base.Frame):
    """Have a consumer get so many more deliveries, and then none."""

    __slots__: ClassVar[list[str]] = ["consumer", "credit", "drain"]

    frame_id: ClassVar[int] = 200
    index: ClassVar[int] = 0x003C00C8
    name: ClassVar[str] = "Basic.Credit"
    synchronous: ClassVar[bool] = True
    valid_responses: ClassVar[list[str]] = ["Basic.CreditOk"]

    _consumer = "shortstr"
    _credit = "long"
    _drain = "bit"

    def __init__(self, consumer: str = "", credit: int = 0) -> None:
        self.consumer = consumer
        self.credit = credit
        self.drain = False


class CreditOk(base.Frame):
    """The queue has noted that, and has so many messages that nobody has."""

    __slots__: ClassVar[list[str]] = ["available"]

    frame_id: ClassVar[int] = 201
    index: ClassVar[int] = 0x003C00C9
    name: ClassVar[str] = "Basic.CreditOk"
    synchronous: ClassVar[bool] = False

    _available = "long"

    def __init__(self, available: int = 0) -> None:
        self.available = available


def knows_credit(version: tuple[int, ...]) -> bool:
    """Whether a broker of this version has them."""
    return bool(version) and version < _BEFORE
