"""Addresses as users write them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from gevent import socket

from endpoints import on_linux
from ratchet.bus._core.address import (
    Address,
    Endpoint,
    TcpEndpoint,
    UnixEndpoint,
    address_of,
    format_address,
    parse,
)


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
        ("unix:/run//a/./.b/.", UnixEndpoint("/run/a/.b")),
        ("unix:/run/a/", UnixEndpoint("/run/a")),
        ("unix:/", UnixEndpoint("/")),
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


@pytest.mark.parametrize(
    "url", ["amqp://me:hush@host", "http://me:hu@sh@host:80", "amqp://me:hush@host/v?x=1"]
)
def test_a_url_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape("://...@host")) as raised:
        parse(url)
    assert "sh@" not in str(raised.value)


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


def test_a_port_without_a_host_is_a_value_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="'4000' has no host; expected"):
        parse("4000")


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
