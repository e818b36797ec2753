"""Sending the requests of one `call_many` on a connection: as many as there is room for, together.

It does not wait for that room, and not for the answers.
"""

from __future__ import annotations

from typing import Any

from ratchet import _native
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.outgoing import IDEMPOTENT, OutgoingRequest
from ratchet.bus._socket import heads, wire
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.interfaces import CLOSED
from ratchet.bus._socket.outbox import size_of
from ratchet.errors import MessageTooLarge


def send_some(connection: ClientConnection, owner: object, many: ManyRequests, arg: int, most: int) -> None:
    """Send up to `most` of the next ones, as the server and the high-water mark allow; does not block.

    There is room for one at least.  Raises `MessageTooLarge` if the server takes no message as
    large as the next one; a later one of that size is left for the next call.
    """
    protocol, stream = connection.protocol, connection.stream
    output, begin = stream.output, len(many.outcomes)
    flags = 0 if many.metadata is None else wire.METADATA
    end = min(begin + min(protocol.max_in_flight - len(protocol.open), most), len(many.requests))
    size, high_water = 0, output.writers.high_water - output.unsent
    for index in range(begin, end):
        content = many.messages[index]
        if protocol.narrow:
            try:
                protocol.check_size(content)
            except MessageTooLarge:
                if index > begin:
                    break
                raise
        transaction: ClientTransaction[Any, Any] = _native.new(ClientTransaction)
        transaction.begin(owner, connection, many.requests[index], connection.decode)
        if connection.retries:
            transaction.keep_to_send_again(content, flags | IDEMPOTENT if many.idempotent else flags)
        transaction.id = id = protocol.new_id()
        many.add(transaction)
        protocol.open.setdefault(id, transaction)
        if isinstance(content, bytes) and not protocol.plain:
            # Almost every request is one of these.
            transaction.frame_number = output.write_short_later(heads.REQUEST, flags, id, arg, content)
            size += heads.SIZE + len(content)
        else:
            frame = protocol.request(id, flags, arg, content)
            size += size_of(frame)
            if protocol.plain:
                _send_plain(connection, transaction, frame)
            else:
                transaction.frame_number = output.write_later(frame)
        if size >= high_water:
            break
    output.send_written()
    if stream.state is CLOSED:
        # By a signal handler in the middle of this, which did not see all of them yet.
        connection.run_callback(connection.fail_open, stream.error)


def _send_plain(connection: ClientConnection, transaction: OutgoingRequest, frame: wire.Frame) -> None:
    try:
        connection.plain_sender.send(transaction, frame)
    except BaseException as error:
        # Answers are told by their order, which nobody knows any more.
        connection.stream.lose_place(error)
        raise
