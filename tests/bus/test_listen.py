"""Sockets that listen, and the files of Unix sockets."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from endpoints import at, exchange, fill_backlog, listen, needs_ipv6, on_linux, received
from helpers import LONG, wait_until
from ratchet.bus._core.address import TcpEndpoint, UnixEndpoint
from ratchet.bus._socket.listen import SocketFile, listening_address, open_listener
from ratchet.bus._transport.dial import dial
from robustness.leaks import open_descriptors


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=needs_ipv6)])
def test_port_0_listens_on_a_real_port_that_can_be_dialled(host: str, sockets: Callable[[Any], Any]) -> None:
    opened, file = open_listener(TcpEndpoint(host, 0))
    listener = sockets(opened)
    where, port = listener.getsockname()[:2]
    assert port > 0
    assert where in ("127.0.0.1", "::1")
    assert file is None
    assert exchange(listener, TcpEndpoint(where, port)) == (where, port)


def test_no_host_listens_on_every_one(sockets: Callable[[Any], Any]) -> None:
    listener = sockets(listen(TcpEndpoint("", 0)))
    where, port = listener.getsockname()[:2]
    assert where in ("0.0.0.0", "::")
    exchange(listener, TcpEndpoint("127.0.0.1", port))


def test_a_path_listens_on_a_unix_socket_that_can_be_dialled(
    folder: Path, sockets: Callable[[Any], Any]
) -> None:
    opened, file = open_listener(at("a.sock"))
    listener = sockets(opened)
    assert listener.family == socket.AF_UNIX
    assert stat.S_ISSOCK(os.stat("a.sock").st_mode)
    assert isinstance(file, SocketFile)
    assert exchange(listener, at("a.sock")) == f"unix:{folder}/a.sock"


def test_a_port_can_be_listened_on_again_at_once(sockets: Callable[[Any], Any]) -> None:
    first = listen(TcpEndpoint("127.0.0.1", 0))
    endpoint = TcpEndpoint(*first.getsockname())
    accepting = gevent.spawn(first.accept)
    transport, _ = dial(endpoint)
    # The listening side closes first, so it is the one whose port is kept a while.
    accepting.get(timeout=LONG)[0].close()
    assert received(transport) == b""
    transport.close()
    first.close()
    assert sockets(listen(endpoint)).getsockname() == endpoint.address


def test_a_port_that_is_taken_is_an_error_that_names_it(sockets: Callable[[Any], Any]) -> None:
    endpoint = TcpEndpoint(*sockets(listen(TcpEndpoint("127.0.0.1", 0))).getsockname())
    with pytest.raises(OSError, match="cannot listen on") as raised:
        open_listener(endpoint)
    assert raised.value.errno == errno.EADDRINUSE
    assert repr(endpoint.address) in str(raised.value)
    assert isinstance(raised.value.__cause__, OSError)


def test_a_path_that_is_taken_is_an_error_that_names_it_and_harms_nobody(
    folder: Path, sockets: Callable[[Any], Any]
) -> None:
    listener = sockets(listen(at("a.sock")))
    with pytest.raises(OSError, match=r"cannot listen on '.*/a\.sock'") as raised:
        open_listener(at("a.sock"))
    assert raised.value.errno == errno.EADDRINUSE
    # The attempt looked whether anybody listens, and left at once.
    accepted, _ = listener.accept()
    accepted.settimeout(LONG)
    assert accepted.recv(1) == b""
    accepted.close()
    exchange(listener, at("a.sock"))


def test_a_path_in_no_folder_is_an_error_that_names_it(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot listen on '.*/missing/a\.sock'"):
        open_listener(at("missing/a.sock"))


def test_a_path_that_is_too_long_is_an_error_that_says_so(folder: Path) -> None:
    endpoint = at("x" * 200)
    path = endpoint.path
    with pytest.raises(OSError, match=f"cannot listen on '{path}': .*too long"):
        open_listener(endpoint)
    with pytest.raises(OSError, match="too long"):
        dial(endpoint)


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    # A block of addresses that are kept for documentation.
    with pytest.raises(OSError, match=r"cannot listen on \('192\.0\.2\.1', 0\)"):
        open_listener(TcpEndpoint("192.0.2.1", 0))


def test_a_socket_that_fails_to_listen_is_closed(folder: Path) -> None:
    before = open_descriptors()
    with pytest.raises(OSError):
        open_listener(at("missing/a.sock"))
    with pytest.raises(OSError):
        open_listener(TcpEndpoint("192.0.2.1", 0))
    assert open_descriptors() == before


# The file of a Unix socket


def listen_on_a_file(sockets: Callable[[Any], Any]) -> tuple[Any, SocketFile]:
    listener, file = open_listener(at("a.sock"))
    assert file is not None
    return sockets(listener), file


def test_a_file_that_is_left_from_a_server_that_is_no_more_does_not_stand_in_the_way(
    folder: Path, sockets: Callable[[Any], Any]
) -> None:
    listen(at("a.sock")).close()
    assert os.path.exists("a.sock")
    listener, _ = listen_on_a_file(sockets)
    exchange(listener, at("a.sock"))


def test_the_file_of_a_socket_is_removed_once_and_a_missing_one_is_fine(
    folder: Path, sockets: Callable[[Any], Any]
) -> None:
    _, file = listen_on_a_file(sockets)
    for _ in range(2):
        file.remove()
        assert not os.path.exists("a.sock")


def test_a_file_that_is_no_socket_is_never_replaced_or_removed(
    folder: Path, sockets: Callable[[Any], Any]
) -> None:
    _, file = listen_on_a_file(sockets)
    os.rename("a.sock", "moved.sock")
    Path("a.sock").write_text("precious")
    file.remove()
    with pytest.raises(OSError, match="cannot listen on"):
        open_listener(at("a.sock"))
    assert Path("a.sock").read_text() == "precious"


def test_the_file_of_a_later_server_is_not_removed(folder: Path, sockets: Callable[[Any], Any]) -> None:
    _, file = listen_on_a_file(sockets)
    # It stays beside, so that its number is not given to the next one.
    os.rename("a.sock", "moved.sock")
    later, _ = listen_on_a_file(sockets)
    file.remove()
    exchange(later, at("a.sock"))


def test_a_forked_child_does_not_remove_its_parents_file(
    folder: Path, sockets: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = listen_on_a_file(sockets)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        file.remove()
    assert os.path.exists("a.sock")
    file.remove()
    assert not os.path.exists("a.sock")


def test_the_file_is_removed_also_if_the_program_has_changed_its_directory(
    folder: Path, sockets: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, file = listen_on_a_file(sockets)
    monkeypatch.chdir("/")
    assert listening_address(listener) == f"unix:{folder}/a.sock"
    file.remove()
    assert not (folder / "a.sock").exists()


def test_a_path_that_is_too_long_only_when_it_is_absolute_can_be_listened_on(
    folder: Path, sockets: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = folder / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    listen(at("a.sock")).close()
    listener, file = listen_on_a_file(sockets)
    assert listening_address(listener) == f"unix:{deep}/a.sock"
    assert exchange(listener, at("a.sock")) == f"unix:{deep}/a.sock"
    monkeypatch.chdir("/")
    file.remove()
    assert not (deep / "a.sock").exists()


@on_linux
def test_an_abstract_name_can_be_listened_on_by_one_and_has_no_file(
    folder: Path, sockets: Callable[[Any], Any]
) -> None:
    endpoint = UnixEndpoint(f"\0{folder}")
    opened, file = open_listener(endpoint)
    listener = sockets(opened)
    assert file is None
    assert list(folder.iterdir()) == []
    with pytest.raises(OSError, match="cannot listen on") as raised:
        open_listener(endpoint)
    assert raised.value.errno == errno.EADDRINUSE
    assert exchange(listener, endpoint) == listening_address(listener) == endpoint.address


def test_a_server_with_a_full_backlog_is_alive(folder: Path, sockets: Callable[[Any], Any]) -> None:
    listener, file = listen_on_a_file(sockets)
    fill_backlog(listener, "a.sock", sockets)
    before = os.stat("a.sock").st_ino
    with gevent.Timeout(LONG):
        with pytest.raises(OSError, match="cannot listen on") as raised:
            open_listener(at("a.sock"))
    assert raised.value.errno == errno.EADDRINUSE
    assert os.stat("a.sock").st_ino == before
    file.remove()


# The lock


@pytest.fixture
def lock(folder: Path) -> Iterator[int]:
    """The descriptor of a lock on the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


def test_whoever_finds_the_directory_locked_waits_and_others_run_meanwhile(
    lock: int, sockets: Callable[[Any], Any]
) -> None:
    listening = gevent.spawn(open_listener, at("a.sock"))
    gevent.sleep(0.02)
    assert not listening.ready()
    assert not os.path.exists("a.sock")
    fcntl.flock(lock, fcntl.LOCK_UN)
    listener, _ = listening.get(timeout=LONG)
    exchange(sockets(listener), at("a.sock"))


def test_a_lock_is_waited_for_with_a_bound(lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.bus._socket.listen._LOCK_TIMEOUT", 0.05)
    before = open_descriptors()
    with pytest.raises(OSError, match=r"cannot listen on '.*': the directory stayed locked for 0\.05 s"):
        open_listener(at("a.sock"))
    assert open_descriptors() == before
    assert not os.path.exists("a.sock")


def test_waiting_for_a_lock_that_is_interrupted_leaves_nothing_open(lock: int) -> None:
    before = open_descriptors()
    listening = gevent.spawn(open_listener, at("a.sock"))
    wait_until(lambda: open_descriptors() > before, "the attempt")
    listening.kill()
    assert open_descriptors() == before
    assert not os.path.exists("a.sock")


def test_listening_leaves_no_lock_behind(folder: Path, sockets: Callable[[Any], Any]) -> None:
    listen_on_a_file(sockets)
    with pytest.raises(OSError):
        open_listener(at("a.sock"))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
