"""What a type checker must refuse: each is a mistake that would cost somebody an afternoon."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PACKAGE

SECONDS = 80.0
"""After which mypy has taken too long, also on a busy machine: it takes 5 s of a processor."""

# A comment behind a statement is the code of mypy's error there.  Other lines have none.
MISUSES = """
from ratchet import bus
from ratchet.bus import codecs
from ratchet.bus._transport.dial import dial

server = bus.listen("127.0.0.1:0")
client = bus.connect(server.address)
client.call(b"right", timeout=5)

# An address as users write it is not an endpoint.
dial(server.address, None)  # arg-type

# A bus without a codec is of bytes.
client.call("wrong")  # arg-type
client.cast("wrong")  # arg-type
client.send_request({"wrong": 1})  # arg-type
text: str = client.call(b"right")  # assignment
server.serve(str.upper)  # arg-type
transaction, request = server.recv_request()
transaction.send_response(len(request))  # arg-type

# One with a codec is of what the codec takes.
texts = bus.connect(server.address, codec=codecs.text)
texts.call(b"wrong")  # arg-type
body: bytes = texts.call("right")  # assignment

# A codec excludes the two functions, and is not one of them.
bus.listen("127.0.0.1:0", bytes.decode, str.encode, codec=codecs.text)  # call-overload
bus.connect(server.address, codecs.text)  # call-overload

# A port by itself is not an address, and its number is not a text.
bus.listen(8000)  # call-overload
bus.connect(("127.0.0.1", "8000"))  # arg-type

# An address is not a socket.
bus.new_server("127.0.0.1:8000")  # call-overload
bus.new_client(("127.0.0.1", 8000))  # call-overload

# A local bus that has been given types keeps to them.
local_server, local_client = bus.new_local(codec=codecs.text)
local_client.call(1)  # arg-type
"""


def numbered_errors(pattern: str, text: str) -> list[tuple[int, str]]:
    """The line and the code of each error, by a pattern with a group for each."""
    return [(int(line), code) for line, code in re.findall(pattern, text, re.M)]


@pytest.mark.long
@pytest.mark.timeout(90)
def test_each_misuse_is_an_error_and_nothing_else_is(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(MISUSES, encoding="utf-8")
    # In a process of its own: within this one, mypy would leave another limit of recursion
    # and other settings of the collector to the tests that follow.  It finds the package
    # in its working folder.
    mypy = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(program)],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert mypy.stderr == ""
    found = numbered_errors(r"^\S*program\.py:(\d+): error: .*  \[(\S+)\]$", mypy.stdout)
    lines = "\n".join(f"{number} {line}" for number, line in enumerate(MISUSES.splitlines(), 1))
    expected = numbered_errors(r"^(\d+) \S.*  # (\S+)$", lines)
    assert len(expected) > 10
    assert found == expected, mypy.stdout
