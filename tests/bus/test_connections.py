"""The connections of one client, without a dialer."""

from __future__ import annotations

import socket
from typing import Any

import gevent

from helpers import LONG
from ratchet import bus
from ratchet.bus import Limits
from ratchet.bus._core.address import format_address
from ratchet.bus._socket.client import ClientBus
from ratchet.bus._socket.servers import Servers
from ratchet.bus._transport.transport import Transport
from ratchet.bus.codecs import Decode, Encode, client_functions


def test_a_plain_server_that_lets_this_side_in_again_is_used_after_a_final_failure() -> None:
    with bus.listen("127.0.0.1:0") as server:
        gevent.spawn(server.serve, bytes.upper)
        address: Any = server.address

        def begin(servers: Servers) -> None:
            place = servers.make_place(address, has_others=False)
            servers.only, servers.places = place, [place]
            place.failure.note(ValueError("a certificate that is not trusted"))
            place.use(Transport(socket.create_connection(address)), address)

        encode: Encode[bytes]
        decode: Decode[bytes]
        encode, decode = client_functions(None, None, None)
        with ClientBus(format_address(address), encode, decode, Limits(), True, None, begin) as client:
            assert client.call(b"question", LONG) == b"QUESTION"
