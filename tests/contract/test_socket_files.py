"""The files of Unix sockets: which are replaced, refused and removed."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from gevent import socket

from contract.buses import Start
from helpers import LONG, PACKAGE
from ratchet import bus as ratchet_bus


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus"


def is_socket(path: Path) -> bool:
    return stat.S_ISSOCK(path.stat().st_mode)


def check_works(path: Path) -> None:
    with ratchet_bus.connect(f"unix:{path}") as client:
        assert client.call(b"question", LONG) == b"question"


def test_a_stale_file_is_replaced(path: Path, start: Start) -> None:
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
        gone.listen()
    assert is_socket(path)
    with ratchet_bus.listen(f"unix:{path}") as server:
        start(server.serve, bytes)
        check_works(path)


def test_the_file_of_a_live_server_is_refused_and_that_server_goes_on(path: Path, start: Start) -> None:
    with ratchet_bus.listen(f"unix:{path}") as server:
        start(server.serve, bytes)
        with pytest.raises(OSError, match="cannot listen on") as raised:
            ratchet_bus.listen(f"unix:{path}")
        assert raised.value.errno == errno.EADDRINUSE
        assert str(path) in str(raised.value)
        check_works(path)


RACER = """
import sys, time
from ratchet import bus

server = None
for line in sys.stdin:
    path, begin = line.split()
    if server is not None:
        server.close()
    while time.monotonic() < float(begin):
        pass
    try:
        server = bus.listen(f"unix:{path}")
    except OSError as error:
        server = None
        print(error.errno, flush=True)
    else:
        print("listening", flush=True)
"""


def test_of_several_processes_that_start_at_once_on_a_stale_file_exactly_one_listens(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        racers = [stack.enter_context(program(RACER)) for _ in range(4)]
        for number in range(50):
            path = tmp_path / str(number)
            with socket.socket(socket.AF_UNIX) as gone:
                gone.bind(str(path))
                gone.listen()
            begin = time.monotonic() + 0.01
            for racer in racers:
                assert racer.stdin is not None
                racer.stdin.write(f"{path} {begin}\n")
                racer.stdin.flush()
            answers = [racer.stdout.readline().strip() for racer in racers if racer.stdout is not None]
            assert sorted(answers) == [*[str(errno.EADDRINUSE)] * 3, "listening"], f"try {number}"
            # The one that says so is the one that has the file.
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))


@contextmanager
def program(source: str) -> Iterator[subprocess.Popen[str]]:
    """A program of its own, which is told and says things line by line."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_relative_path_stays_what_it_was_when_the_program_changes_its_directory(
    path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    with ratchet_bus.listen(f"unix:{path.name}") as server:
        assert server.address == f"unix:{path}"
        start(server.serve, bytes)
        with ratchet_bus.connect(f"unix:{path.name}") as client:
            # It connects only when this thread waits.
            monkeypatch.chdir("/")
            assert client.call(b"question", LONG) == b"question"
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_an_abstract_name_is_an_address_as_any_other(path: Path, start: Start) -> None:
    address = f"unix:\0{path}"
    with ratchet_bus.listen(address) as server:
        assert server.address == address
        start(server.serve, bytes)
        with pytest.raises(OSError, match="cannot listen on"):
            ratchet_bus.listen(address)
        with ratchet_bus.connect(server.address) as client:
            assert client.call(b"question", LONG) == b"question"
    ratchet_bus.listen(address).close()
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("what", ["file", "directory", "link"])
def test_what_is_no_socket_is_refused_and_untouched(path: Path, what: str) -> None:
    target = path.with_name("target")
    target.write_text("precious")
    if what == "file":
        path.write_text("precious")
    elif what == "directory":
        path.mkdir()
    else:
        path.symlink_to(target)
    before = path.lstat()
    with pytest.raises(OSError, match="cannot listen on"):
        ratchet_bus.listen(f"unix:{path}")
    after = path.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("end", ["close", "drain"])
def test_the_file_is_removed_when_the_server_ends(path: Path, end: str) -> None:
    with ratchet_bus.listen(f"unix:{path}") as server:
        assert is_socket(path)
        getattr(server, end)()
        assert not path.exists()


def test_the_file_is_removed_when_a_drain_begins(path: Path, start: Start) -> None:
    with ratchet_bus.listen(f"unix:{path}") as server, ratchet_bus.connect(f"unix:{path}") as client:
        sent = client.send_request(b"question")
        transaction, _ = server.recv_request(LONG)
        draining = start(server.drain)
        draining.wait_until_blocked()
        assert not path.exists()
        transaction.send_response(b"answer")
        assert sent.recv_response(LONG) == b"answer"
        assert draining.result() is True


@pytest.mark.parametrize("end", ["close", "drain"])
def test_the_file_of_another_server_that_has_replaced_it_stays(path: Path, start: Start, end: str) -> None:
    with ratchet_bus.listen(f"unix:{path}") as first:
        os.unlink(path)
        with ratchet_bus.listen(f"unix:{path}") as second:
            start(second.serve, bytes)
            getattr(first, end)()
            assert is_socket(path)
            check_works(path)
        assert not path.exists()


def test_a_file_that_is_gone_already_is_no_trouble(path: Path) -> None:
    with ratchet_bus.listen(f"unix:{path}") as server:
        os.unlink(path)
        server.close()
    assert not path.exists()


def test_new_server_leaves_the_file_of_its_socket_to_whoever_made_it(path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    with ratchet_bus.new_server(listener):
        assert is_socket(path)
    assert is_socket(path)
