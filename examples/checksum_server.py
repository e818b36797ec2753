"""A server that computes the SHA-256 checksums of what clients send it.

    python examples/checksum_server.py                     a free port of 127.0.0.1
    python examples/checksum_server.py 127.0.0.1:7000      a port of your choice
    python examples/checksum_server.py unix:/tmp/sum.sock  a Unix socket

It prints where it listens, and serves until SIGTERM or SIGINT, when it finishes
what it has taken and ends.  `checksum_client.py` talks to it.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import OrderedDict
from typing import NamedTuple

from ratchet import Ratchet, bus
from socket_server import address_of, drain_on

# A file may be larger than a message, so it comes in pieces.  What a client
# that vanished has left behind goes when this many newer files have begun.
MAX_UNFINISHED = 1024


class Piece(NamedTuple):
    """A piece of a file; `last` if nothing follows."""

    file: str
    last: bool
    data: bytes


def piece_to_bus(piece: Piece) -> tuple[bytes, list[bytes]]:
    return piece.file.encode(), [b"last" if piece.last else b"more", piece.data]


def piece_from_bus(file: bytes, attachments: list[bytes]) -> Piece:
    mark, data = attachments
    return Piece(file.decode(), mark == b"last", data)


CODEC: bus.Codec[Piece, str] = bus.Codec(piece_to_bus, piece_from_bus, str.encode, bytes.decode)
"""A request is a piece of a file, the response to the last one its checksum."""


class Checksums:
    """The files of which the last piece has not come yet."""

    def __init__(self) -> None:
        self.unfinished: OrderedDict[str, hashlib._Hash] = OrderedDict()

    def handle(self, piece: Piece) -> str:
        checksum = self.unfinished.pop(piece.file, None) or hashlib.sha256()
        checksum.update(piece.data)
        if piece.last:
            return checksum.hexdigest()
        self.unfinished[piece.file] = checksum
        if len(self.unfinished) > MAX_UNFINISHED:
            self.unfinished.popitem(last=False)
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the SHA-256 checksums of what clients send.")
    parser.add_argument(
        "address", nargs="?", default="127.0.0.1:0", help="HOST:PORT or unix:PATH (a free port)"
    )
    server = bus.listen(parser.parse_args().address, codec=CODEC)
    with Ratchet() as kernel:
        kernel.attach(server.serve, Checksums().handle)
        kernel.attach_background(drain_on, "SIGTERM", server)
        kernel.attach_background(drain_on, "SIGINT", server)
        # Last, so that whoever has read it may send a signal: both are waited for by then.
        kernel.attach(print, "listening on", address_of(server), flush=True)


if __name__ == "__main__":
    main()
