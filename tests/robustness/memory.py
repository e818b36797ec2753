"""Looks for wrong accesses to memory in the compiled build, by the address sanitizer of gcc.

Run it with `make memory`.  It compiles a copy of the checkout with the sanitizer, and plays
there: random messages through the decoder, hubs in several OS threads at once, and the tests
of the wire and of what every call promises.  The first wrong access ends it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import gevent

from helpers import LONG, PACKAGE
from ratchet import BusTimeout, Rejected, build_info
from ratchet import bus as ratchet_bus
from ratchet.bus._socket.wire import Decoder
from robustness.test_garbage import garbage

CHECKOUT = PACKAGE.parent
# The stack is not looked at: greenlets move it, which the sanitizer does not know.
CFLAGS = "-fsanitize=address --param asan-stack=0 -fno-omit-frame-pointer -g -O1"
TESTS = ["tests/bus", "tests/contract", "tests/robustness/test_garbage.py"]
OS_THREADS = 4
CLIENTS = 16


def feed_messages(count: int, seed: int) -> None:
    """So many random messages through decoders, each cut somewhere; what comes out is within the limits."""
    chance = random.Random(seed)
    decoded = 0
    for _ in range(count):
        data = garbage(chance)
        decoder = Decoder(max_message=1000, max_parts=4)
        cut = chance.randrange(len(data) + 1)
        for piece in (data[:cut], data[cut:]):
            for _, _, _, _, parts in decoder.feed(piece):
                assert sum(map(len, parts)) <= len(data)
                decoded += 1
    print(f"{count} messages, of which {decoded} were whole")
    assert decoded > count / 10


class Traffic(threading.Thread):
    """A server and its clients on the hub of an OS thread of its own."""

    def __init__(self, number: int, seconds: float) -> None:
        super().__init__()
        self._chance = random.Random(number)
        self._end = time.monotonic() + seconds
        self._mark = b"%d" % number
        self.answered = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._play()
        except BaseException as error:
            self.error = error
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    def _play(self) -> None:
        with ratchet_bus.listen("127.0.0.1:0") as server:
            serving = gevent.spawn(server.serve, self._echo, workers=8)
            while time.monotonic() < self._end:
                with ratchet_bus.connect(server.address) as client:
                    asking = [gevent.spawn(self._ask, client) for _ in range(CLIENTS)]
                    gevent.sleep(0.05)
                    # What these would have raised is of no interest.
                    gevent.killall(asking[::3])
                    gevent.joinall(asking, raise_error=True)
            server.close()
            serving.join(LONG)

    def _echo(self, request: bytes) -> bytes:
        if self._chance.random() < 0.1:
            gevent.sleep(self._chance.choice((0, 0.001)))
        return request

    def _ask(self, client: ratchet_bus.ClientBus[bytes, bytes]) -> None:
        for _ in range(self._chance.randrange(200)):
            request = self._mark * self._chance.choice((1, 100, 40_000))
            try:
                assert client.call(request, self._chance.choice((LONG, 0.001))) == request
            except (BusTimeout, Rejected):
                # It had little time.
                continue
            self.answered += 1


def run_hubs(seconds: float) -> None:
    """Requests within several OS threads at once; each gets its own answers."""
    threads = [Traffic(number, seconds) for number in range(1, OS_THREADS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for thread in threads:
        if thread.error is not None:
            raise thread.error
    answered = [thread.answered for thread in threads]
    print(f"answered in each OS thread: {answered}")
    assert min(answered) > 0


def library_of(name: str) -> str:
    """The path of a library that gcc knows."""
    command = ["gcc", f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def look(count: int, seconds: float) -> None:
    """Compile a copy with the sanitizer, and play everything there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "checkout")
        compiled = shutil.ignore_patterns("*.so", "build", ".*", "__pycache__")
        shutil.copytree(CHECKOUT, copy, ignore=compiled)
        build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(build, cwd=copy, env={**os.environ, "CFLAGS": CFLAGS}, check=True)
        sanitized = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (copy, copy / "tests"))),
            # So that each object is a piece of memory of its own.
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0",
            # The second one, because greenlet throws its exceptions through the first.
            "LD_PRELOAD": f"{library_of('libasan.so')} {library_of('libstdc++.so')}",
        }
        here = [sys.executable, "-m", "robustness.memory"]
        for command in (
            [*here, "messages", "--count", str(count)],
            [*here, "hubs", "--seconds", str(seconds)],
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300", *TESTS],
        ):
            print("==", *command[1:], flush=True)
            subprocess.run(command, cwd=copy, env=sanitized, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Look for wrong accesses to memory in the compiled build.")
    parser.add_argument("part", nargs="?", choices=["messages", "hubs"], help="one part, in this process")
    parser.add_argument("--count", type=int, default=100_000, help="random messages")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long the hubs run")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    if options.part is None:
        look(options.count, options.seconds)
        return
    print(f"{build_info()}, seed {options.seed}")
    if options.part == "messages":
        feed_messages(options.count, options.seed)
    else:
        run_hubs(options.seconds)


if __name__ == "__main__":
    main()
