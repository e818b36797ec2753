"""The small parts of a supervisor: names, pauses, the PID file, what systemd passes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helpers import in_os_thread
from ratchet import WrongThread, bus
from ratchet.bus import codecs
from ratchet.bus._core.address import parse
from ratchet.bus._core.stats import NOTHING, total
from ratchet.bus._processes import systemd
from ratchet.bus._processes.back_off import BackOff
from ratchet.bus._processes.channel import Channel, channel_pair
from ratchet.bus._processes.pid_file import PidFile, PidFileError


def test_who_dies_young_is_replaced_later_and_later_and_who_has_lived_at_once() -> None:
    back_off = BackOff()
    pauses = []
    for _ in range(10):
        pauses.append(back_off.pause)
        back_off.note_death(0.5)
    assert pauses[:4] == [0.0, 0.1, 0.2, 0.4]
    assert pauses[-1] == 10.0
    back_off.note_death(60.0)
    assert back_off.pause == 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"handler": repr}, TypeError, 'handler must be a name, "module:name", not <built-in function repr>'),
        ({"handler": "repr"}, ValueError, 'handler must be a name such as "shop.prices:handler", not'),
        ({"handler": "__main__:handle"}, ValueError, "in a module that other processes can import"),
        ({"processes": 0}, ValueError, "processes must be a number above 0, not 0"),
        ({"processes": 10**30}, ValueError, "processes must be a number up to 10000, not 1000000"),
        ({"workers": True}, ValueError, "workers must be a number above 0, not True"),
        ({"codec": codecs.json}, TypeError, "codec must be 'text', 'json' or a name"),
        ({"codec": "msgpack"}, ValueError, 'codec must be a name such as "shop.prices:codec"'),
        ({"ssl_context": object()}, TypeError, "ssl_context must be a name"),
        ({"limits": 1}, TypeError, "limits must be a Limits or None, not 1"),
        ({"drain_timeout": None}, TypeError, "drain_timeout must be a number of seconds, not None"),
        ({"pid_file": 1}, TypeError, "pid_file must be a path or None, not 1"),
        ({"pid_file": ""}, ValueError, "pid_file must be a path or None, not ''"),
        ({"address": "nowhere"}, ValueError, "has no port number"),
        ({"on_ready": 1}, TypeError, "on_ready must be a callable, not 1"),
    ],
)
def test_what_is_wrong_is_said_at_the_call(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    right: dict[str, Any] = {"address": "127.0.0.1:0", "handler": "builtins:repr", "processes": 1}
    with pytest.raises(error) as raised:
        bus.serve_processes(**{**right, **arguments})
    assert text in str(raised.value)


def test_it_is_for_the_main_os_thread() -> None:
    error = in_os_thread(lambda: bus.serve_processes("127.0.0.1:0", "builtins:repr"))
    assert isinstance(error, WrongThread)


def test_last_words_are_heard_of_who_has_not_heard_all() -> None:
    with channel_pair() as (ours, descriptor):
        theirs = Channel(os.dup(descriptor))
    with closing(ours), closing(theirs):
        assert ours.send({"kind": "unread"})
        assert theirs.send({"kind": "first"})
        assert theirs.send({"kind": "last"})
        theirs.close()
        assert [ours.receive() for _ in range(4)] == [{"kind": "first"}, {"kind": "last"}, None, None]


def test_the_counts_of_several_are_added() -> None:
    one = NOTHING._replace(answered=2, queued=1)
    assert total([one, one, NOTHING]) == NOTHING._replace(answered=4, queued=2)


def test_a_pid_file_keeps_a_second_process_out_and_goes_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(PidFileError, match=rf"'{path}': process {os.getpid()} is running"):
            with PidFile(str(path)):
                pass
    assert not path.exists()


def test_a_pid_file_that_a_killed_process_has_left_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text("123456789\n")
    with PidFile(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_pid_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(PidFileError, match=r"cannot use the PID file .*: No such file or directory"):
        with PidFile(str(tmp_path / "nowhere" / "pid")):
            pass


ACTIVATED = """
import fcntl, os, socket, sys
high = []
for path in sys.argv[2:]:
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(path)
    opened.listen()
    high.append(fcntl.fcntl(opened, fcntl.F_DUPFD, 50))
    opened.close()
for number, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sys.argv) - 2))
from ratchet.bus._core.address import parse
from ratchet.bus._processes.systemd import passed_socket
try:
    print(passed_socket(parse(sys.argv[1])).getsockname())
except ValueError as error:
    print(error)
print("LISTEN_FDS" in os.environ)
"""


@pytest.mark.parametrize(
    ("asked", "passed", "taken"),
    [
        ("127.0.0.1:7000", ["one"], "one"),
        ("unix:two", ["one", "two"], "two"),
        (
            "127.0.0.1:7000",
            ["one", "two"],
            "none of the 2 sockets that the service manager has opened listens on",
        ),
    ],
)
def test_which_socket_of_a_service_manager_is_taken(
    asked: str, passed: list[str], taken: str, folder: Path
) -> None:
    paths = [str(folder / name) for name in passed]
    program = [sys.executable, "-c", ACTIVATED, asked, *paths]
    first, rest = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    assert taken in first
    assert rest == "False"


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        ("two", "LISTEN_FDS must be a number of sockets, not 'two'"),
        ("-1", "LISTEN_FDS must be a number of sockets, not '-1'"),
        ("1", "the descriptor 3, which the service manager has opened, is no socket"),
    ],
)
def test_what_is_passed_must_be_sockets(count: str, reason: str) -> None:
    program = """
import os, sys
os.dup2(os.open(os.devnull, os.O_RDONLY), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[1])
from ratchet.bus._core.address import parse
from ratchet.bus._processes.systemd import passed_socket
passed_socket(parse("127.0.0.1:0"))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, count], capture_output=True, text=True, check=False
    )
    assert f"ValueError: {reason}" in ended.stderr


def test_without_a_service_manager_nothing_is_taken_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert systemd.passed_socket(parse("127.0.0.1:0")) is None
    systemd.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    systemd.notify("READY=1")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
def test_a_service_manager_with_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + os.fsdecode(manager.getsockname()[1:]))
        systemd.notify("READY=1", "STATUS=fine")
        assert manager.recv(100) == b"READY=1\nSTATUS=fine"
