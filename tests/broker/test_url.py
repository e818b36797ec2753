"""The URL of a broker, which never shows its password."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import wait_until
from ratchet import bus
from ratchet.bus._broker.url import BrokerUrl, check_service, is_broker_url, parse
from ratchet.bus._core.address import TcpEndpoint

LOCAL = (TcpEndpoint("localhost", 5672),)


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("amqp://localhost", BrokerUrl(endpoints=LOCAL)),
        ("amqp://localhost/", BrokerUrl(endpoints=LOCAL)),
        ("amqp://localhost/%2F", BrokerUrl(endpoints=LOCAL)),
        ("amqps://localhost", BrokerUrl(endpoints=(TcpEndpoint("localhost", 5671),), tls=True)),
        ("amqp://localhost:1", BrokerUrl(endpoints=(TcpEndpoint("localhost", 1),))),
        ("amqp://[::1]", BrokerUrl(endpoints=(TcpEndpoint("::1", 5672),))),
        ("amqp://[::1]:65535", BrokerUrl(endpoints=(TcpEndpoint("::1", 65535),))),
        (
            "amqps://a,b:80,[::1],c:05671",
            BrokerUrl(
                endpoints=(
                    TcpEndpoint("a", 5671),
                    TcpEndpoint("b", 80),
                    TcpEndpoint("::1", 5671),
                    TcpEndpoint("c", 5671),
                ),
                tls=True,
            ),
        ),
        ("amqp://me:secret@localhost", BrokerUrl(endpoints=LOCAL, user="me", password="secret")),
        ("amqp://me@localhost", BrokerUrl(endpoints=LOCAL, user="me", password="")),
        ("amqp://me:@localhost", BrokerUrl(endpoints=LOCAL, user="me", password="")),
        ("amqp://a%40b:%3A%2f%3F@localhost", BrokerUrl(endpoints=LOCAL, user="a@b", password=":/?")),
        # The last "@" ends the login, and the first ":" the user.
        ("amqp://me:a@b:c#@localhost", BrokerUrl(endpoints=LOCAL, user="me", password="a@b:c#")),
        ("amqp://m%C3%A9:+@localhost/%C3%A9", BrokerUrl(endpoints=LOCAL, user="mé", password="+", vhost="é")),
        ("amqp://localhost/production", BrokerUrl(endpoints=LOCAL, vhost="production")),
        ("amqp://localhost?service=a-b_1", BrokerUrl(endpoints=LOCAL, service="a-b_1")),
        ("amqp://localhost/v?service=%61", BrokerUrl(endpoints=LOCAL, vhost="v", service="a")),
        ("amqp://localhost/?", BrokerUrl(endpoints=LOCAL)),
    ],
)
def test_every_form_of_a_url_is_understood(url: str, parsed: BrokerUrl) -> None:
    assert parse(url) == parsed
    assert is_broker_url(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("localhost:5672", "must begin with amqp:// or amqps://"),
        ("http://localhost", "must begin with amqp:// or amqps://"),
        ("amqp:localhost", "must begin with amqp:// or amqps://"),
        ("AMQP://localhost", "must begin with amqp:// or amqps://"),
        ("amqp://", "names no host"),
        ("amqp:///vhost", "names no host"),
        ("amqp://:5672", "names no host"),
        ("amqp://a,,b", "names no host"),
        ("amqp://me:hush@", "names no host"),
        ("amqp://a:", "the port of the broker's host 'a' must be a number"),
        ("amqp://a:1:2", "the port of the broker's host 'a' must be a number"),
        ("amqp://a:123456", "the port of the broker's host 'a' must be a number"),
        ("amqp://[::1]x", "the port of the broker's host '[::1]' must be a number"),
        ("amqp://::1", "names no host"),
        ("amqp://[]:1", "the port of the broker's host '[]' must be a number"),
        ("amqp://a:0", "must be between 1 and 65535, not 0"),
        ("amqp://a:65536", "must be between 1 and 65535, not 65536"),
        # Without its "@", a login looks like a host and its port.
        ("amqp://me:hush", "the port of the broker's host 'me' must be a number"),
        ("amqp://me:hu/sh@localhost", "has an '@' behind its hosts"),
        ("amqp://me:hu?sh@localhost", "has an '@' behind its hosts"),
        ("amqp://localhost/a@b", "has an '@' behind its hosts"),
        ("amqp://me:hush%@localhost", "the password of a broker's URL must be percent-encoded UTF-8"),
        ("amqp://me:hush%GG@localhost", "the password of a broker's URL must be percent-encoded UTF-8"),
        ("amqp://me:hush%FF@localhost", "the password of a broker's URL must be percent-encoded UTF-8"),
        ("amqp://me:hush%00@localhost", "the password of a broker's URL must not contain a NUL"),
        ("amqp://%FF:hush@localhost", "the user of a broker's URL must be percent-encoded UTF-8"),
        ("amqp://me:hush@localhost/%", "the vhost of a broker's URL must be percent-encoded UTF-8"),
        ("amqp://localhost/a/b", "has more than one '/' behind its hosts"),
        ("amqp://localhost/" + "a" * 128, "must have at most 127 characters"),
        ("amqp://localhost/" + "%E2%82%AC" * 86, "and 255 bytes"),
        ("amqp://me:hush\ud800@localhost", "the password of a broker's URL must be percent-encoded UTF-8"),
        ("amqp://localhost/\ud800", "the vhost of a broker's URL must be percent-encoded UTF-8"),
        ("amqp://localhost?servise=a", "must be ?service=name"),
        ("amqp://localhost?service=a&service=b", "must be ?service=name"),
        ("amqp://localhost?service", "must be 1 to 64 ASCII letters, digits, '-' and '_', not ''"),
        ("amqp://localhost?service=a.b", "not 'a.b'"),
        ("amqp://localhost?service=%F", "the query of a broker's URL must be percent-encoded UTF-8"),
    ],
)
def test_what_is_wrong_is_named_and_the_password_is_not(url: str, text: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse(url)
    assert text in str(raised.value)
    error: BaseException | None = raised.value
    while error is not None:
        assert "hush" not in str(error)
        error = error.__context__


@pytest.mark.parametrize("url", [None, 5672, b"amqp://me:hush@localhost", ("localhost", 5672)])
def test_anything_but_a_string_is_refused(url: object) -> None:
    with pytest.raises(TypeError, match="must be a string, not") as raised:
        parse(url)
    assert "hush" not in str(raised.value)
    assert not is_broker_url(url)


def test_other_addresses_are_not_meant_for_a_broker() -> None:
    assert not any(
        map(is_broker_url, ["localhost:5672", "unix:/amqp", "amqp.example.org:80", "amqp:5672", "amqps:0"])
    )


@pytest.mark.parametrize(
    "url", ["amqp://me:hush@host/?service=a", "amqps://me:hush@host:1", "amqp:me:hush@host"]
)
def test_the_makers_of_sockets_name_those_of_a_broker(url: str) -> None:
    def refused(call: Callable[[], object], maker: str) -> None:
        with pytest.raises(ValueError, match=re.escape(f"write bus.{maker}(url, service)")) as raised:
            call()
        assert "hush" not in str(raised.value)

    refused(lambda: bus.listen(url), "broker_server")
    refused(lambda: bus.connect(url), "broker_client")
    refused(lambda: bus.connect(["localhost:80", url]), "broker_client")


def test_a_function_that_returns_a_broker_s_url_is_logged_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with bus.connect(lambda: ["amqp://me:hush@host/?service=a"]):
        wait_until(lambda: "amqp://...@host" in caplog.text, "the log")
    assert "hush" not in caplog.text


def test_no_text_shows_the_password() -> None:
    url = parse("amqps://me:hush@a:1,[::1]/v")
    assert "hush" not in repr(url)
    assert str(url) == "amqps://a:1,[::1]:5671"


@settings(deadline=None, database=None)
@given(
    *[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)] * 3
)
def test_whatever_is_encoded_comes_out_again(user: str, password: str, vhost: str) -> None:
    url = parse(f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@localhost/{quote(vhost, safe='')}")
    assert (url.user, url.password, url.vhost) == (user, password, vhost)


@settings(deadline=None, database=None)
@given(st.text(st.sampled_from("a:/@?,[]%4=&0"), max_size=20))
def test_garbage_is_parsed_or_refused(rest: str) -> None:
    with suppress(ValueError):
        assert parse(f"amqp://{rest}").endpoints


@pytest.mark.parametrize("service", ["", "a.b", "a*", "#", "é", "a b", "a" * 65, "a\n"])
def test_a_service_has_a_name_that_fits_into_a_key(service: str) -> None:
    with pytest.raises(ValueError, match="the name of a service must be 1 to 64"):
        check_service(service)


def test_the_name_of_a_service_is_a_string() -> None:
    assert check_service("Thumb_nails-2") == "Thumb_nails-2"
    with pytest.raises(TypeError, match="must be a string, not 5"):
        check_service(5)
