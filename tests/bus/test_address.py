"""Addresses as users write them, and the sockets behind them."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.monkey import get_original

from certificates import client_context
from helpers import LONG, active_watchers, output_of, turns, wait_until
from ratchet.bus._core.address import (
    Address,
    Endpoint,
    TcpEndpoint,
    UnixEndpoint,
    address_of,
    format_address,
    parse,
)
from ratchet.bus._socket.dial import dial
from ratchet.bus._socket.listen import SocketFile, listening_address, open_listener
from ratchet.bus._socket.tls import will_never_work
from ratchet.bus._socket.transport import Transport
from robustness.leaks import open_descriptors


def ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for socket files, and the working one: a socket's path must be short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sockets() -> Iterator[Callable[[Any], Any]]:
    """Closes what is passed to it at the end of the test."""
    opened: list[Any] = []

    def remember(opened_socket: Any) -> Any:
        opened_socket.settimeout(LONG)
        opened.append(opened_socket)
        return opened_socket

    yield remember
    for each in opened:
        each.close()


# What users write


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        (("localhost", 80), TcpEndpoint("localhost", 80)),
        (("127.0.0.1", 0), TcpEndpoint("127.0.0.1", 0)),
        (("::1", 65535), TcpEndpoint("::1", 65535)),
        (("", 80), TcpEndpoint("", 80)),
        ("localhost:80", TcpEndpoint("localhost", 80)),
        ("127.0.0.1:0", TcpEndpoint("127.0.0.1", 0)),
        ("example.org:65535", TcpEndpoint("example.org", 65535)),
        ("[::1]:80", TcpEndpoint("::1", 80)),
        ("[fe80::1%lo]:80", TcpEndpoint("fe80::1%lo", 80)),
        ("[::ffff:127.0.0.1]:80", TcpEndpoint("::ffff:127.0.0.1", 80)),
        ("[::]:0", TcpEndpoint("::", 0)),
        (":80", TcpEndpoint("", 80)),
        ("unix:/run/a.sock", UnixEndpoint("/run/a.sock")),
        ("unix:/a folder/with:80", UnixEndpoint("/a folder/with:80")),
        ("unix:/run/unix:a", UnixEndpoint("/run/unix:a")),
        ("unix:/run/../a.sock", UnixEndpoint("/run/../a.sock")),
        pytest.param("unix:\0name", UnixEndpoint("\0name"), marks=on_linux),
        pytest.param("unix:\0a\0b", UnixEndpoint("\0a\0b"), marks=on_linux),
    ],
)
def test_every_form_of_an_address_is_understood(address: object, endpoint: Endpoint) -> None:
    assert parse(address) == endpoint


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "localhost:",
        "localhost:http",
        "localhost:-1",
        "localhost:+80",
        "localhost: 80",
        "localhost:80 ",
        "localhost:8_0",
        "localhost:\u0668\u0660",
        "localhost:\u00b2",
        "[::1]",
        "unix:",
        "unix:\0",
        "/run/a.sock",
    ],
)
def test_a_text_that_is_no_address_is_a_value_error_that_shows_it(address: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        parse(address)
    assert repr(address) in str(raised.value)


def test_a_path_is_absolute_from_then_on(folder: Path) -> None:
    assert parse("unix:a.sock") == UnixEndpoint(f"{folder}/a.sock")
    assert parse("unix:./a.sock") == UnixEndpoint(f"{folder}/a.sock")
    # What it means is for the system to say: there may be symbolic links.
    assert parse("unix:../a.sock") == UnixEndpoint(f"{folder}/../a.sock")


@pytest.mark.parametrize("address", ["unix://a.sock", "unix:///a.sock"])
def test_a_url_is_a_value_error_that_says_what_to_write(address: str) -> None:
    with pytest.raises(ValueError, match=r"write 'unix:/a\.sock' .* or 'unix:a\.sock'") as raised:
        parse(address)
    assert repr(address) in str(raised.value)


def test_a_path_with_a_nul_is_a_value_error_that_shows_it() -> None:
    with pytest.raises(ValueError, match="must not contain a NUL") as raised:
        parse("unix:/run/a\0b")
    assert repr("unix:/run/a\0b") in str(raised.value)


def test_an_abstract_name_is_a_value_error_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="only Linux has abstract names") as raised:
        parse("unix:\0name")
    assert repr("unix:\0name") in str(raised.value)


@pytest.mark.parametrize("address", ["::1:80", "fe80::1:80", "tcp://localhost:80", "a:b:80"])
def test_an_ambiguous_text_is_a_value_error_that_shows_how_to_write_ipv6(address: str) -> None:
    with pytest.raises(ValueError, match=r"write IPv6 as \[host\]:port") as raised:
        parse(address)
    assert repr(address) in str(raised.value)


@pytest.mark.parametrize(
    "address", [("localhost", -1), ("localhost", 65536), "localhost:65536", "[::1]:99999"]
)
def test_a_port_that_is_out_of_range_is_a_value_error_that_shows_it(address: object) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 65535") as raised:
        parse(address)
    assert repr(address) in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        None,
        80,
        b"localhost:80",
        ["localhost", 80],
        (),
        ("localhost",),
        ("localhost", "80"),
        ("localhost", 80.0),
        ("localhost", True),
        (b"localhost", 80),
        (None, 80),
        ("::1", 80, 0, 0),
        Path("a.sock"),
    ],
)
def test_what_is_no_form_of_an_address_is_a_type_error_that_shows_it(address: object) -> None:
    with pytest.raises(TypeError, match="is not an address; expected") as raised:
        parse(address)
    assert repr(address) in str(raised.value)


@pytest.mark.parametrize(
    ("family", "address", "written"),
    [
        (socket.AF_INET, ("127.0.0.1", 80), ("127.0.0.1", 80)),
        (socket.AF_INET6, ("::1", 80, 0, 0), ("::1", 80)),
        (socket.AF_UNIX, "/run/a.sock", "unix:/run/a.sock"),
        pytest.param(socket.AF_UNIX, b"\0abstract", "unix:\0abstract", marks=on_linux),
        pytest.param(socket.AF_UNIX, b"\0\xff", "unix:\0\udcff", marks=on_linux),
        (socket.AF_UNIX, "", "unix:"),
    ],
)
def test_a_sockets_address_is_shown_as_users_write_it(family: int, address: Any, written: Address) -> None:
    assert address_of(family, address) == written
    if written != "unix:":
        assert parse(written).address == written


@pytest.mark.parametrize("address", ["unix:/run/a.sock", ("localhost", 80), "[::1]:80", "localhost:80"])
def test_an_endpoint_has_its_address_as_users_write_it(address: object) -> None:
    written = parse(address).address
    assert parse(written) == parse(address)
    assert isinstance(written, tuple) or written.startswith("unix:")


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80), "[::1]:80"),
        (("fe80::1%lo", 80), "[fe80::1%lo]:80"),
        (("", 80), ":80"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:/run/a folder/ä", "unix:/run/a folder/ä"),
        ("unix:", "unix:"),
        ("unix:\0name", "unix:\\0name"),
        ("unix:/a\nb\udcff", "unix:/a\\nb\\udcff"),
    ],
)
def test_an_address_becomes_one_text_that_can_be_printed(address: Address, text: str) -> None:
    assert format_address(address) == text
    assert text.isprintable()


# Sockets


def at(path: str) -> UnixEndpoint:
    endpoint = parse(f"unix:{path}")
    assert isinstance(endpoint, UnixEndpoint)
    return endpoint


def listen(endpoint: Endpoint) -> Any:
    """A socket that listens there."""
    return open_listener(endpoint)[0]


def received(transport: Transport) -> bytes:
    """What the peer sends next, waiting for it."""
    socket.wait_read(transport.fileno(), timeout=LONG)
    return transport.receive(100)


def exchange(listener: Any, endpoint: Endpoint) -> Address:
    """Connect, pass a byte each way, and return whom the connecting side sees."""
    accepting = gevent.spawn(listener.accept)
    transport, peer = dial(endpoint)
    accepted = accepting.get(timeout=LONG)[0]
    accepted.settimeout(LONG)
    try:
        assert transport.ready
        accepted.sendall(b"x")
        assert received(transport) == b"x"
        assert transport.send(b"y") == 1
        assert accepted.recv(1) == b"y"
    finally:
        transport.close()
        accepted.close()
    return peer


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


def test_dialling_where_nobody_listens_is_an_os_error_and_leaves_no_watcher(folder: Path) -> None:
    listener = listen(TcpEndpoint("127.0.0.1", 0))
    endpoint = TcpEndpoint(*listener.getsockname())
    listener.close()
    before = active_watchers()
    with pytest.raises(ConnectionRefusedError):
        dial(endpoint)
    with pytest.raises(FileNotFoundError):
        dial(at("missing.sock"))
    listen(at("a.sock")).close()
    with pytest.raises(ConnectionRefusedError):
        dial(at("a.sock"))
    assert active_watchers() <= before


def test_a_socket_that_fails_is_closed(folder: Path) -> None:
    before = open_descriptors()
    for failing in (open_listener, dial):
        with pytest.raises(OSError):
            failing(at("missing/a.sock"))
    with pytest.raises(OSError):
        open_listener(TcpEndpoint("192.0.2.1", 0))
    assert open_descriptors() == before


# Names and numbers of hosts


class Resolver:
    """Takes the place of the hub's, and is asked for names alone."""

    def __init__(self, *found: Any) -> None:
        self.found = found
        self.asked: list[Any] = []

    def getaddrinfo(self, host: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        if not self.found:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", sockaddr) for sockaddr in self.found]

    def close(self) -> None:
        """As the hub wants it."""


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """One that finds nothing, unless it is told what to find."""
    resolver = Resolver()
    monkeypatch.setattr(gevent.get_hub(), "resolver", resolver)
    return resolver


@pytest.fixture
def refused(sockets: Callable[[Any], Any]) -> tuple[str, int]:
    """An address on which nobody listens, and which stays taken."""
    taken = sockets(socket.socket())
    taken.bind(("127.0.0.1", 0))
    address: tuple[str, int] = taken.getsockname()
    return address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", pytest.param("::1", marks=needs_ipv6)])
def test_a_number_needs_no_resolver(host: str, resolver: Resolver, sockets: Callable[[Any], Any]) -> None:
    listener = sockets(listen(TcpEndpoint(host, 0)))
    exchange(listener, TcpEndpoint(*listener.getsockname()[:2]))
    sockets(listen(TcpEndpoint("", 0)))
    assert resolver.asked == []


@needs_ipv6
def test_a_number_with_a_scope_needs_no_resolver(resolver: Resolver) -> None:
    for scope in ("lo", "missing"):
        with pytest.raises(OSError) as raised:
            dial(TcpEndpoint(f"fe80::1%{scope}", 1))
        assert not will_never_work(raised.value)
    assert "'missing'" in str(raised.value)
    assert resolver.asked == []


def test_a_forked_child_dials_numbers_and_listens_on_them_although_its_threads_are_gone() -> None:
    program = """
    import os, gevent
    from ratchet.bus._core.address import TcpEndpoint
    from ratchet.bus._socket.dial import dial
    from ratchet.bus._socket.listen import open_listener

    listener, _ = open_listener(TcpEndpoint("localhost", 0))  # starts the threads of the resolver
    child = os.fork()
    with gevent.Timeout(10):
        if not child:
            own, _ = open_listener(TcpEndpoint("127.0.0.1", 0))
            dial(TcpEndpoint(*own.getsockname()))[0].close()
            own.close()
            os._exit(7)
    listener.close()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert output_of(program) == "7\n"


def test_each_address_of_a_name_is_tried(
    resolver: Resolver, refused: tuple[str, int], sockets: Callable[[Any], Any]
) -> None:
    listener = sockets(listen(TcpEndpoint("127.0.0.1", 0)))
    resolver.found = (refused, listener.getsockname())
    assert exchange(listener, TcpEndpoint("some.example", 1)) == listener.getsockname()
    assert resolver.asked == ["some.example"]


def test_if_each_address_of_a_name_fails_the_error_is_that_of_the_last(
    resolver: Resolver, refused: tuple[str, int]
) -> None:
    # Of the first, the system knows at once that it does not lead there.
    resolver.found = (("255.255.255.255", 1), refused)
    before = open_descriptors()
    with pytest.raises(ConnectionRefusedError):
        dial(TcpEndpoint("some.example", 1))
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a b",
        "a/b",
        "a\0b",
        "user@host",
        "*.example",
        "a..b",
        ".a",
        "a..",
        "x" * 64,
        "\u00e4" * 60,
        "x." * 127,
        "1:2",
        "lo%lo",
        "\ud800",
    ],
)
def test_a_name_that_no_host_can_have_is_refused_for_good(host: str, resolver: Resolver) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a host") as raised:
        dial(TcpEndpoint(host, 80))
    assert repr(host) in str(raised.value)
    assert will_never_work(raised.value)
    assert resolver.asked == []


@pytest.mark.parametrize(
    "host",
    ["localhost", "a.example.", "_srv.a_b.example", "b\u00fccher.example", "1.2.3.4.5", "x." * 126 + "x"],
)
def test_a_name_that_does_not_resolve_now_may_later(host: str, resolver: Resolver) -> None:
    with pytest.raises(socket.gaierror) as raised:
        dial(TcpEndpoint(host, 80))
    assert not will_never_work(raised.value)
    assert resolver.asked == [host]


# Bounds of dialing


def fill_backlog(listener: Any, where: Any, sockets: Callable[[Any], Any]) -> None:
    """Connect until the listener, whose backlog is the smallest, takes no more."""
    listener.listen(0)
    for _ in range(10):
        connecting = get_original("socket", "socket")(listener.family)
        sockets(connecting)
        connecting.setblocking(False)
        if connecting.connect_ex(where) == errno.EAGAIN:
            break
    turns()


@pytest.fixture
def silent(sockets: Callable[[Any], Any]) -> tuple[str, int]:
    """An address that answers no attempt to connect."""
    listener = sockets(listen(TcpEndpoint("127.0.0.1", 0)))
    address: tuple[str, int] = listener.getsockname()
    fill_backlog(listener, address, sockets)
    return address


def test_connecting_is_bounded_in_time(silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.bus._socket.dial._CONNECT_TIMEOUT", 0.1)
    before = open_descriptors(), active_watchers()
    with pytest.raises(TimeoutError, match=r"no connection within 0\.1 s"):
        dial(TcpEndpoint(*silent))
    assert (open_descriptors(), active_watchers()) == before


def test_dialing_that_is_interrupted_leaves_nothing_open(silent: tuple[str, int]) -> None:
    before = open_descriptors(), active_watchers()
    dialing = gevent.spawn(dial, TcpEndpoint(*silent))
    wait_until(lambda: open_descriptors() > before[0], "the attempt")
    dialing.kill()
    assert (open_descriptors(), active_watchers()) == before


def test_a_full_backlog_of_a_unix_socket_is_an_error_at_once(
    folder: Path, sockets: Callable[[Any], Any]
) -> None:
    listener = sockets(listen(at("a.sock")))
    fill_backlog(listener, "a.sock", sockets)
    before = open_descriptors(), active_watchers()
    with gevent.Timeout(LONG):
        with pytest.raises(OSError, match="more connections waiting than it takes") as raised:
            dial(at("a.sock"))
    assert raised.value.errno == errno.EAGAIN
    assert not will_never_work(raised.value)
    assert (open_descriptors(), active_watchers()) == before


def test_the_whole_handshake_is_bounded_in_time_and_not_each_step(
    sockets: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet.bus._socket.dial._CONNECT_TIMEOUT", 0.2)
    listener = sockets(listen(TcpEndpoint("127.0.0.1", 0)))

    def drip() -> None:
        accepted = sockets(listener.accept()[0])
        with pytest.raises(ConnectionError):
            # The head of a record of a handshake, and what could be its body.
            accepted.sendall(bytes.fromhex("16 0303 4000"))
            while True:
                accepted.sendall(b"\x02")
                gevent.sleep(0.01)

    dripping = gevent.spawn(drip)
    before = active_watchers()
    with pytest.raises(TimeoutError, match=r"TLS handshake took more than 0\.2 s"):
        dial(TcpEndpoint(*listener.getsockname()), client_context())
    dripping.get(timeout=LONG)
    assert active_watchers() <= before


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
