"""Room for very large messages."""

from __future__ import annotations

import mmap
import os
import resource
from collections.abc import Iterator
from io import BytesIO

import pytest

from ratchet.bus._core.limits import Limits
from ratchet.bus._socket import pages, wire

MIB = 1 << 20


@pytest.fixture(params=["huge pages", "none"])
def advice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With the advice that the system takes, and as if it took none."""
    if request.param == "none":
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    pages._advice.cache_clear()
    yield
    pages._advice.cache_clear()


@pytest.mark.usefixtures("advice")
@pytest.mark.parametrize(("most", "room"), [(64 * MIB, 32 * MIB), (3 * MIB, 3 * MIB)])
def test_what_is_held_is_moved_to_where_there_is_room(most: int, room: int) -> None:
    held = BytesIO()
    held.write(b"x" * MIB)
    moved, there = pages.with_room(held, MIB, most)
    assert there == room
    moved.write(b"y" * MIB)
    assert moved.tell() == 2 * MIB
    assert moved.getvalue() == (b"x" * MIB + b"y" * MIB).ljust(room, b"\0")


@pytest.mark.usefixtures("advice")
@pytest.mark.parametrize("piece", [64 * 1024, MIB - 1, 5 * MIB])
def test_a_very_large_part_comes_out_as_it_was_sent(piece: int) -> None:
    decoder = wire.Decoder(64 * MIB, 2)
    parts = [os.urandom(MIB) * 20 + b"end", b"short", os.urandom(MIB) * 3]
    whole = wire.encode(wire.REQUEST, 0, 7, 0, parts[:2]) + wire.encode(wire.REQUEST, 0, 8, 0, parts[2:])
    messages = []
    for start in range(0, len(whole), piece):
        messages += decoder.feed(whole[start : start + piece])
    assert messages == [(wire.REQUEST, 0, 7, 0, parts[:2]), (wire.REQUEST, 0, 8, 0, parts[2:])]
    assert not decoder.partial


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the system does not tell")
def test_what_was_only_announced_takes_no_memory() -> None:
    decoder = wire.Decoder(Limits(max_message=1 << 30).max_message, 1)
    sent = bytes(4 * MIB)
    before = resident()
    decoder.feed(wire.encode(wire.REQUEST, 0, 1, 0, [b""])[:-4] + (1 << 30).to_bytes(4, "big"))
    for start in range(0, len(sent), MIB):
        decoder.feed(sent[start : start + MIB])
    assert decoder.missing == (1 << 30) - len(sent)
    # Its last page may be a huge one.
    assert resident() - before < len(sent) + 8 * MIB
