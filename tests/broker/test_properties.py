"""The properties of a message, held against those of pamqp."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from ratchet.bus._broker.properties import Properties, decode, encode
from ratchet.bus._broker.tables import UNREADABLE

NAMES = {"type": "message_type"}
# All that this library does not know.
OTHERS: dict[str, Any] = {
    "content_type": "text/plain",
    "content_encoding": "gzip",
    "priority": 3,
    "message_id": "m",
    "timestamp": datetime(2020, 1, 1, tzinfo=UTC),
    "user_id": "me",
    "app_id": "app",
}

texts = st.text(max_size=20) | st.just("x" * 255)
headers = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.booleans() | st.integers(-5, 2**40) | texts | st.lists(st.integers(0, 9)),
)
properties = st.builds(Properties, headers, st.sampled_from([0, 1, 2]), texts, texts, texts, texts)


def as_pamqp_has_them(own: Properties) -> dict[str, Any]:
    """The arguments of pamqp's properties."""
    return {NAMES.get(name, name): value for name, value in own._asdict().items() if value}


@settings(deadline=None, database=None)
@given(properties, st.sets(st.sampled_from(list(OTHERS))))
def test_they_are_read_as_pamqp_writes_them(own: Properties, others: set[str]) -> None:
    theirs = Basic.Properties(**as_pamqp_has_them(own), **{name: OTHERS[name] for name in others})
    assert decode(b"head" + theirs.marshal(), 4) == own._replace(headers=own.headers or None)


@settings(deadline=None, database=None)
@given(properties)
def test_pamqp_reads_them_as_they_are_written(own: Properties) -> None:
    header = ContentHeader()
    header.unmarshal(b"\0" * 12 + encode(own))
    assert header.properties == Basic.Properties(**as_pamqp_has_them(own))


def test_none_are_none() -> None:
    assert encode(Properties()) == b"\0\0"
    assert decode(b"\0\0", 0) == Properties()


def test_what_is_cut_off_is_not_read() -> None:
    own = Properties({"a": 1}, 2, "7", "queue", "1000", "error")
    whole = encode(own)
    for size in range(len(whole)):
        with pytest.raises(UNREADABLE):
            decode(whole[:size], 0)
    assert decode(whole, 0) == own


@pytest.mark.parametrize("wrong", [Properties(correlation_id="é" * 128), Properties(delivery_mode=256)])
def test_what_amqp_cannot_say_is_refused(wrong: Properties) -> None:
    with pytest.raises(ValueError):
        encode(wrong)


@settings(deadline=None, database=None, max_examples=300)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_are_unreadable(data: bytes) -> None:
    try:
        found = decode(data, 0)
    except UNREADABLE:
        return
    assert isinstance(found, Properties)
