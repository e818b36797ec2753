"""Print the SHA-256 checksum of every file of a folder, as `sha256sum` prints them.

    python examples/checksum_client.py ADDRESS FOLDER

ADDRESS is where `checksum_server.py` listens: HOST:PORT or unix:PATH.  32
threads share one connection.  The checksums go to stdout, in the order of the
files' names; progress and totals go to stderr.  Exits with 1 if a file could
not be read, or the server is not there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from collections.abc import Iterator

from checksum_server import CODEC, Piece
from ratchet import BusError, Ratchet, bus, thread

THREADS = 32
PIECE_SIZE = 256 * 1024


def files_of(folder: bytes) -> list[bytes]:
    """Every regular file below a folder, sorted by name; names are any bytes."""
    found = []
    for parent, _, names in os.walk(folder, onerror=complain):
        paths = (os.path.join(parent, name) for name in names)
        found += [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]
    return sorted(found)


def complain(error: OSError) -> None:
    """Say what could not be read, as sha256sum does."""
    print(f"{os.fsdecode(error.filename)!r}: {error.strerror}", file=sys.stderr)


def sha256sum_line(checksum: str, path: bytes) -> bytes:
    """A line as sha256sum prints it: a name that would break the line is escaped, and marked."""
    escaped = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != path else b""
    return mark + checksum.encode() + b"  " + escaped + b"\n"


class Summer:
    """The work, shared by all threads: which file is next, what is done, what is printed."""

    def __init__(self, server: bus.ClientBus[Piece, str], paths: list[bytes]) -> None:
        self.server = server
        self.paths = paths
        self.left: Iterator[tuple[int, bytes]] = iter(enumerate(paths))
        self.lines: dict[int, bytes] = {}
        self.printed = self.bytes = self.failed = 0
        self.began = time.monotonic()

    def work(self) -> None:
        """One thread: take a file, have it summed, until none is left."""
        for number, path in self.left:
            try:
                line = sha256sum_line(self.checksum(path), path)
            except OSError as error:
                self.failed += 1
                line = b""
                complain(error)
            self.print_in_order(number, line)

    def checksum(self, path: bytes) -> str:
        name = uuid.uuid4().hex
        with open(path, "rb") as file:
            while True:
                data = file.read(PIECE_SIZE)
                last = len(data) < PIECE_SIZE
                checksum = self.server.call(Piece(name, last, data))
                self.bytes += len(data)
                if last:
                    return checksum

    def print_in_order(self, number: int, line: bytes) -> None:
        self.lines[number] = line
        while self.printed in self.lines:
            sys.stdout.buffer.write(self.lines.pop(self.printed))
            self.printed += 1

    def report(self, end: str) -> None:
        seconds = time.monotonic() - self.began
        print(
            f"{self.printed} of {len(self.paths)} files, {self.bytes:,} bytes,"
            f" {self.failed} failed, {seconds:.1f} s",
            end=end,
            file=sys.stderr,
            flush=True,
        )

    def show_progress(self) -> None:
        """A background thread: one line that changes, or, in a log, a line now and then."""
        live = sys.stderr.isatty()
        while True:
            self.report(end="\r" if live else "\n")
            thread.timer(0.1 if live else 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the SHA-256 checksum of every file of a folder.")
    parser.add_argument("address", help="where the server listens: HOST:PORT or unix:PATH")
    parser.add_argument("folder", help="the folder whose files are summed")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for the server (10)")
    arguments = parser.parse_args()
    if not os.path.isdir(arguments.folder):
        parser.error(f"{arguments.folder!r} is not a folder")
    with bus.connect(arguments.address, codec=CODEC) as server:
        try:
            server.wait_connected(arguments.timeout)
        except BusError as error:
            parser.exit(1, f"{error.message}\n")
        summer = Summer(server, files_of(os.fsencode(arguments.folder)))
        with Ratchet() as kernel:
            kernel.attach_background(summer.show_progress)
            for _ in range(THREADS):
                kernel.attach(summer.work)
    sys.stdout.buffer.flush()
    summer.report(end="\n")
    return 1 if summer.failed else 0


if __name__ == "__main__":
    sys.exit(main())
