"""How workers and their supervisor end, and what becomes of requests then."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from gevent import socket
from gevent.subprocess import Popen

from helpers import LONG, wait_until
from processes.load import Load
from processes.supervised import HERE, PROGRAM, Supervised, has_ended, serving, started
from ratchet import ConnectionLost, Outcome, bus
from ratchet.bus import codecs

pytestmark = pytest.mark.slow


def connect(processes: Supervised) -> bus.ClientBus[Any, Any]:
    return bus.connect(processes.address, codec=codecs.json)


def begun(path: Path) -> bool:
    return path.with_name(path.name + ".begun").exists()


@pytest.mark.long
def test_under_load_replacing_workers_loses_nothing_and_runs_nothing_twice(tmp_path: Path) -> None:
    with serving("tasks:record") as processes:
        load = Load([processes.address], tmp_path / "ledger")
        for pid in processes.pids.values():
            load.wait_for(pid)
        processes.send(signal.SIGHUP)
        for _ in range(2):
            processes.expect("has ended")
        for pid in processes.pids.values():
            load.wait_for(pid)
        assert set(load.stop()) == {"answered"}
        processes.stop()


@pytest.mark.long
def test_under_load_a_killed_worker_runs_nothing_twice_and_is_replaced(tmp_path: Path) -> None:
    with serving("tasks:record") as processes:
        load = Load([processes.address], tmp_path / "ledger")
        for pid in processes.pids.values():
            load.wait_for(pid)
        os.kill(processes.pids[1], signal.SIGKILL)
        processes.expect("worker 1 .* was killed by signal 9")
        processes.expect("worker 1 .* is ready")
        load.wait_for(processes.pids[1])
        load.stop()
        processes.stop()


def test_sigterm_lets_what_was_taken_be_finished(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("tasks:wait_for_file", processes=1) as processes, connect(processes) as client:
        taken = client.send_request(str(go_on), timeout=LONG)
        wait_until(lambda: begun(go_on), "the handler")
        processes.send(signal.SIGTERM)
        processes.expect("draining")
        go_on.touch()
        assert taken.recv_response() in processes.pids.values()
        assert processes.end()[-1] == "finished: True"


def test_the_second_sigterm_ends_all_at_once(tmp_path: Path) -> None:
    with serving("tasks:wait_for_file", processes=1) as processes, connect(processes) as client:
        taken = client.send_request(str(tmp_path / "never"), timeout=LONG)
        wait_until(lambda: begun(tmp_path / "never"), "the handler")
        processes.send(signal.SIGTERM)
        processes.expect("draining")
        processes.send(signal.SIGINT)
        assert processes.end()[-1] == "finished: False"
        with pytest.raises(ConnectionLost):
            taken.recv_response()


def test_what_takes_longer_than_the_drain_timeout_is_cut_off(tmp_path: Path) -> None:
    with serving("tasks:wait_for_file", drain_timeout=0.1, processes=1) as processes:
        with connect(processes) as client:
            client.send_request(str(tmp_path / "never"), timeout=LONG)
            wait_until(lambda: begun(tmp_path / "never"), "the handler")
            processes.send(signal.SIGTERM)
            assert processes.end()[-1] == "finished: False"


def test_a_worker_that_computes_is_killed_when_its_time_is_over() -> None:
    with serving("tasks:compute", drain_timeout=0.1, processes=1) as processes:
        with connect(processes) as client:
            client.cast(3600.0)
            client.drain(LONG)
        # It cannot say so itself.
        wait_until(lambda: _processor_time(processes.pids[1]) > 0.3, "the computing")
        processes.send(signal.SIGTERM)
        lines = processes.end()
        assert any("was killed by signal 9" in line for line in lines)
        assert lines[-1] == "finished: False"


def _processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    before = _processor_times.setdefault(pid, int(fields[11]))
    return (int(fields[11]) - before) / os.sysconf("SC_CLK_TCK")


_processor_times: dict[int, int] = {}


def test_when_the_supervisor_is_killed_the_workers_finish_and_end(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("tasks:wait_for_file", processes=1) as processes, connect(processes) as client:
        taken = client.send_request(str(go_on), timeout=LONG)
        wait_until(lambda: begun(go_on), "the handler")
        processes.send(signal.SIGKILL)
        processes.process.wait()
        go_on.touch()
        assert taken.recv_response() in processes.pids.values()
        wait_until(lambda: all(map(has_ended, processes.pids.values())), "the end of the workers")


def test_a_worker_that_is_told_to_end_has_a_successor_first(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("tasks:wait_for_file", processes=1) as processes, connect(processes) as client:
        taken = client.send_request(str(go_on), timeout=LONG)
        wait_until(lambda: begun(go_on), "the handler")
        first = processes.pids[1]
        os.kill(first, signal.SIGTERM)
        processes.expect("worker 1 .* is ready")
        go_on.touch()
        assert taken.recv_response() == first
        processes.expect("has ended")
        assert client.call(str(go_on), timeout=LONG) == processes.pids[1]
        processes.stop()


def test_a_handler_that_cannot_be_imported_ends_it_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("1 / 0\n")
    with started("shop:handle", cwd=tmp_path) as processes:
        lines = processes.end()
        assert processes.process.returncode == 1
    assert any('shop.py", line 1' in line for line in lines)
    assert any("cannot import shop: ZeroDivisionError: division by zero" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"handler": "tasks:nothing"}, "the module tasks has no nothing; check MODULE:HANDLER"),
        ({"codec": "tasks:NOT_A_CODEC"}, "tasks:NOT_A_CODEC is not a codec; name a ratchet.bus.Codec"),
        (
            {"ssl_context": "tasks:no_context"},
            "tasks:no_context failed: FileNotFoundError: there is no certificate",
        ),
    ],
)
def test_what_is_named_must_be_there(arguments: dict[str, Any], reason: str) -> None:
    with started(processes=1, **arguments) as processes:
        assert any(line.endswith(f"LoadError: {reason}") for line in processes.end())


def test_a_worker_that_dies_while_it_starts(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import os\nos._exit(3)\n")
    with started("shop:handle", processes=1, cwd=tmp_path) as processes:
        last = processes.end()[-1]
    assert "ChildProcessError: no worker has begun to serve: worker 1" in last
    assert "has ended by itself, with status 3" in last


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        # What is too long is told by its end.
        ("raise ValueError(chr(0x1F600) * 20_000)", f"{chr(0x1F600)}; fix what the traceback shows"),
        (
            "class Unshown(Exception):\n    def __str__(self): raise ValueError\nraise Unshown\n",
            "cannot import shop: Unshown; fix what the traceback shows",
        ),
        (
            "def __getattr__(name): raise RuntimeError(name)",
            "cannot take handle from shop: RuntimeError: handle; fix what the traceback shows",
        ),
    ],
)
def test_whatever_a_module_raises_is_told(source: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(source)
    with started("shop:handle", processes=1, cwd=tmp_path) as processes:
        lines = processes.end()
    assert any("LoadError: " in line and reason in line for line in lines)


def test_a_supervisor_that_is_ended_before_it_serves_says_so_once(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    (tmp_path / "shop.py").write_text("import tasks\ntasks.wait_for_file('go on')\n1 / 0\n")
    path = {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    with started("shop:handle", processes=1, cwd=tmp_path, environment=path) as processes:
        wait_until(lambda: begun(go_on), "the import")
        processes.send(signal.SIGTERM)
        processes.expect("draining")
        go_on.touch()
        lines = processes.end()
    # It had taken nothing that could be cut off.
    assert lines[-1] == "finished: True"
    assert sum("cannot import shop" in line for line in lines) == 1
    assert not any("listening" in line for line in lines)


def test_workers_that_cannot_be_replaced_go_on(tmp_path: Path) -> None:
    module = tmp_path / "shop.py"
    module.write_text("import os\ndef handle(request): return 'old'\n")
    with serving("shop:handle", processes=1, cwd=tmp_path) as processes, connect(processes) as client:
        module.write_text("1 / 0")
        processes.send(signal.SIGHUP)
        processes.expect("cannot serve: cannot import shop: ZeroDivisionError")
        processes.expect("cannot replace worker 1 .*, which goes on")
        assert client.call(None, timeout=LONG) == "old"
        module.write_text("def handle(request): return 'new, and longer'\n")
        processes.send(signal.SIGHUP)
        processes.expect("has ended")
        assert client.call(None, timeout=LONG) == "new, and longer"
        processes.stop()


def test_a_worker_that_dies_again_and_again_is_replaced_all_the_same() -> None:
    with serving("tasks:end_it", processes=1) as processes, connect(processes) as client:
        for _ in range(2):
            with pytest.raises(ConnectionLost) as lost:
                client.call(None, timeout=LONG)
            assert lost.value.outcome == Outcome.UNKNOWN
            processes.expect("was killed by signal 9")
        processes.expect("is ready")
        processes.stop()


def test_a_service_manager_is_told_how_far_it_has_got(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(LONG)
        manager.bind(str(folder / "notify"))
        environment = {"NOTIFY_SOCKET": str(folder / "notify")}
        with serving(processes=1, environment=environment) as processes:
            assert manager.recv(100) == b"READY=1"
            processes.send(signal.SIGHUP)
            assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert manager.recv(100) == b"READY=1"
            processes.stop()
            assert manager.recv(100) == b"STOPPING=1"


def test_a_socket_that_a_service_manager_has_opened_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        descriptor = opened.fileno()
        activate = f"""
import os, sys
os.dup2({descriptor}, 3)
os.execve(sys.argv[1], sys.argv[1:], {{**os.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}})
"""
        with serving(
            processes=1, command=[sys.executable, "-c", activate, *PROGRAM], pass_fds=(descriptor,)
        ) as processes:
            assert processes.address == f"127.0.0.1:{opened.getsockname()[1]}"
            with connect(processes) as client:
                assert client.call(None, timeout=LONG) == processes.pids[1]
            processes.stop()
            # It is the service manager's, and listens on.
            socket.create_connection(opened.getsockname()).close()


def test_a_pid_file_is_there_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text("4711\n")
    with serving(processes=1, pid_file=str(file)) as processes:
        assert file.read_text() == f"{processes.process.pid}\n"
        with started(processes=1, pid_file=str(file)) as second:
            assert f"process {processes.process.pid} is running" in second.end()[-1]
        processes.stop()
    assert not file.exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_a_program_without_stdin_or_stdout_ends_as_any_other(closed: str, folder: Path) -> None:
    address = f"unix:{folder}/socket"
    command = (
        f"exec {sys.executable} -m ratchet serve tasks:pid {address} --codec json --processes 1 {closed}"
    )
    process = Popen(["sh", "-c", command], cwd=HERE)
    try:
        with bus.connect(address, codec=codecs.json) as client:
            client.call(None, timeout=LONG)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=LONG) == 0
    finally:
        process.kill()
