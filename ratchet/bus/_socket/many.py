"""Sending the requests of one `call_many` on a connection: as many as there is room for, together.

It does not wait for that room, and not for the answers.
"""

from __future__ import annotations

from typing import Any

from ratchet import _native
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._socket import wire
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.interfaces import CLOSED
from ratchet.bus._socket.outbox import size_of
from ratchet.errors import MessageTooLarge


def send_some(connection: ClientConnection, owner: object, many: ManyRequests, arg: int) -> None:
    """Send the next ones, as many as the server and the high-water mark allow; does not block.

    There is room for one at least.  Raises `MessageTooLarge` if the server takes no message as
    large as the next one; a later one of that size is left for the next call.
    """
    protocol, stream = connection.protocol, connection.stream
    flags = 0 if many.metadata is None else wire.METADATA
    begin, room = len(many.outcomes), protocol.max_in_flight - len(protocol.open)
    size, high_water = 0, stream.output.writers.high_water - stream.output.unsent
    frames: list[wire.Frame] = []
    for index in range(begin, min(begin + room, len(many.requests))):
        parts = many.messages[index]
        if protocol.narrow:
            try:
                protocol.check_size(parts)
            except MessageTooLarge:
                if frames:
                    break
                raise
        transaction: ClientTransaction[Any, Any] = _native.new(ClientTransaction)
        transaction.begin(owner, connection, many.requests[index], connection.decode)
        transaction.id = id = protocol.new_id()
        frame = protocol.request(id, flags, arg, parts)
        many.add(transaction)
        protocol.open.setdefault(id, transaction)
        frames.append(frame)
        size += size_of(frame)
        if size >= high_water:
            break
    sent: list[Any] = many.outcomes[begin:]
    if protocol.plain:
        try:
            for transaction, frame in zip(sent, frames, strict=True):
                connection.plain_sender.send(transaction, frame)
        except BaseException as error:
            # Answers are told by their order, which nobody knows any more.
            stream.lose_place(error)
            raise
    else:
        number = stream.output.write_many(frames, size) - len(frames)
        for transaction in sent:
            number += 1
            transaction.frame_number = number
    if stream.state is CLOSED:
        # By a signal handler in the middle of this, which did not see all of them yet.
        connection.run_callback(connection.fail_open, stream.error)
