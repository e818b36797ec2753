"""Waiting for sockets and descriptors: what comes back, and what is refused."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from types import SimpleNamespace

import gevent
import pytest

from callers import Caller
from helpers import LONG, active_watchers, burn, turns
from ratchet import thread


def test_block_on_returns_the_object_that_is_readable(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    reading = Caller(lambda: thread.block_on([ours])).started()
    turns()
    assert reading.outcome is None
    theirs.send(b"x")
    assert reading.result() is ours


def test_block_on_returns_the_object_that_is_writable(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    writing = Caller(lambda: thread.block_on([], [ours])).started()
    turns()
    assert writing.outcome is None
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while theirs.recv(65536):
            pass
    assert writing.result() is ours


def test_block_on_returns_the_one_of_several_that_is_ready() -> None:
    with contextlib.ExitStack() as sockets:
        pairs = [socket.socketpair() for _ in range(3)]
        for pair in pairs:
            for end in pair:
                sockets.enter_context(end)
        blocked = Caller(lambda: thread.block_on(ours for ours, _ in pairs)).started()
        pairs[1][1].send(b"x")
        assert blocked.result() is pairs[1][0]
        # The end of the stream is something to read, too.
        pairs[1][0].recv(1)
        pairs[2][1].close()
        assert thread.block_on([ours for ours, _ in pairs]) is pairs[2][0]


def test_block_on_returns_one_object_when_several_are_ready_at_once(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    ours.send(b"x")
    theirs.send(b"x")
    assert thread.block_on([ours, theirs], [ours, theirs]) in ends


def test_block_on_takes_pipes_files_and_descriptors() -> None:
    reads, writes = os.pipe()
    with open(reads, "rb") as reader, open(writes, "wb", buffering=0) as writer:
        assert thread.block_on([reader], timeout=0) is None
        assert thread.block_on([], [writer]) is writer
        writer.write(b"x")
        assert thread.block_on([reader]) is reader
        assert thread.block_on([reads]) == reads


def test_block_on_takes_gevents_sockets() -> None:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        blocked = Caller(lambda: thread.block_on([ours])).started()
        theirs.send(b"x")
        assert blocked.result() is ours


def test_block_on_takes_the_same_object_to_read_and_to_write(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = ends
    assert thread.block_on([ours], [ours], timeout=LONG) is ours


def test_block_on_is_none_on_timeout(ends: tuple[socket.socket, socket.socket]) -> None:
    started = time.monotonic()
    assert thread.block_on(ends, timeout=0.02) is None
    assert time.monotonic() - started >= 0.02
    assert thread.block_on(ends, timeout=0) is None


def test_block_on_of_what_is_ready_does_not_time_out_even_at_zero_or_when_the_hub_is_late(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    theirs.send(b"x")
    assert thread.block_on([ours], timeout=0) is ours
    assert thread.block_on([], [ours], timeout=0) is ours
    busy = gevent.spawn(burn, 0.05)
    assert thread.block_on([ours], timeout=0.01) is ours
    assert busy.ready()


def test_block_on_of_a_closed_object_is_a_value_error(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    before = active_watchers()
    ours.close()
    with pytest.raises(ValueError, match="is closed"):
        thread.block_on([theirs, ours])
    reads, writes = os.pipe()
    with open(reads, "rb") as reader:
        os.close(writes)
    with pytest.raises(ValueError, match="closed"):
        thread.block_on([reader])
    with pytest.raises(ValueError, match="is closed"):
        thread.block_on([], [-1])
    assert active_watchers() == before


def test_block_on_nothing_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="at least one object"):
        thread.block_on([])
    with pytest.raises(ValueError, match="at least one object"):
        thread.block_on([], [], timeout=0)


@pytest.mark.parametrize("wrong", [None, "file", object(), True, SimpleNamespace(fileno=lambda: "1")])
def test_block_on_of_what_has_no_fileno_is_a_type_error(
    wrong: object, ends: tuple[socket.socket, socket.socket]
) -> None:
    before = active_watchers()
    for reads, writes in ([[*ends, wrong], []], [[], [*ends, wrong]]):
        with pytest.raises(TypeError, match=r"objects with fileno\(\)"):
            thread.block_on(reads, writes)
    assert active_watchers() == before


def test_several_threads_may_wait_for_one_object(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    blocked = [Caller(lambda: thread.block_on([ours])).started() for _ in range(3)]
    thread.kill(blocked[0].thread)
    theirs.send(b"x")
    assert [caller.result() for caller in blocked[1:]] == [ours, ours]
