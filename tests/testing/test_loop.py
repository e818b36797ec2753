"""The virtual loop by itself: what gevent asks of a loop, descriptors, signals, fork."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import threading
import time
from typing import Any

import gevent
import pytest

from ratchet import testing, thread
from ratchet.testing._loop import VirtualLoop


def test_it_has_all_that_gevent_asks_of_a_loop() -> None:
    interfaces: Any = importlib.import_module("gevent._interfaces")
    loop = VirtualLoop()
    assert [name for name in interfaces.ILoop.names() if not hasattr(loop, name)] == []
    loop.destroy()
    loop.destroy()


def test_a_destroyed_loop_says_so_and_its_watchers_can_be_closed() -> None:
    loop = VirtualLoop()
    timer: Any = loop.timer(1)
    timer.start(int)
    loop.destroy()
    with pytest.raises(ValueError, match="destroyed"):
        loop.run_callback(int)
    with pytest.raises(ValueError, match="destroyed"):
        timer.start(int)
    timer.close()


def test_processes_and_files_are_not_watched() -> None:
    with testing.virtual_time() as clock:
        with pytest.raises(NotImplementedError, match="processes"):
            clock.loop.child(1)
        with pytest.raises(NotImplementedError, match="files"):
            clock.loop.stat("/")


def test_time_does_not_jump_before_the_sockets_were_quiet_for_the_threshold() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, testing.virtual_time(threshold=0.3) as clock:
        threading.Timer(0.02, theirs.send, (b"x",)).start()
        gevent.socket.wait_read(ours.fileno(), timeout=60)
        assert clock.now < 1


def test_a_virtual_descriptor_is_watched_for_as_long_as_it_is_ready() -> None:
    with testing.virtual_time() as clock:
        loop = clock.loop
        ready = 0
        fd = loop.open_descriptor(lambda: ready)
        assert fd >= 1 << 20
        assert fd in loop.descriptors
        times = []

        def take() -> None:
            nonlocal ready
            times.append(clock.now)
            if len(times) == 3:
                ready = 0

        watcher: Any = loop.io(fd, 1)
        watcher.start(take)
        gevent.sleep(1)
        assert times == []
        ready = 3
        loop.touch(fd)
        gevent.sleep(1)
        assert times == [1.0, 1.0, 1.0]
        watcher.close()
        loop.close_descriptor(fd)
        assert not loop.descriptors
        with pytest.raises(OSError, match="Bad file descriptor"):
            loop.io(fd, 1)


def test_a_signal_is_seen(hits: list[int]) -> None:
    with testing.virtual_time():
        gevent.spawn(os.kill, os.getpid(), signal.SIGUSR1)
        assert thread.sigwait("USR1", timeout=5)
    assert hits == []
    assert signal.getsignal(signal.SIGUSR1) not in (signal.SIG_DFL, signal.SIG_IGN)


def test_each_step_is_shown() -> None:
    seen: list[object] = []
    with testing.virtual_time() as clock:
        clock.loop.on_step = seen.append
        gevent.sleep(1)
        gevent.sleep(2)
        assert len(seen) == clock.loop.steps == 2
        assert clock.loop.jumps == 2


def test_real_time_goes_on_after_a_wait_in_the_system() -> None:
    began = time.perf_counter()
    with testing.virtual_time():
        gevent.get_hub().threadpool.apply(threading.Event().wait, (0.05,))
    assert time.perf_counter() - began >= 0.05
