"""`ratchet serve`: a user's handler, and what signals do to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import pytest

from certificates import authority, client_context
from cli.conftest import Ratchet
from cli.programs import HERE, one_line, read_until, run, serving, started, wait_for
from helpers import LONG
from ratchet import bus, errors
from ratchet.bus import codecs
from ratchet.cli.common import Failure
from ratchet.cli.serve import load

pytestmark = pytest.mark.slow


def stderr_of(server: subprocess.Popen[str]) -> IO[str]:
    assert server.stderr is not None
    return server.stderr


@pytest.mark.parametrize(
    ("form", "shown"), [("127.0.0.1:0", "127.0.0.1:"), ("[::1]:0", "[::1]:"), ("unix:{}/socket", "unix:{}/")]
)
def test_it_says_where_it_listens(form: str, shown: str, tmp_path: Path) -> None:
    with serving("handlers:echo", address=form.format(tmp_path)) as (_, address):
        assert address.startswith(shown.format(tmp_path))
        assert not address.endswith(":0")
        with bus.connect(address) as client:
            assert client.call(b"request", timeout=LONG) == b"request"


def test_a_handler_that_takes_the_transaction_too() -> None:
    with serving("handlers:peer") as (_, address), bus.connect(address) as client:
        assert client.call(b"").startswith(b"('127.0.0.1', ")


def test_the_text_codec_and_a_handler_within_something() -> None:
    with serving("handlers:Shop.price", "--codec", "text") as (_, address):
        with bus.connect(address, codec=codecs.text) as client:
            assert client.call("Äpfel", timeout=LONG) == "Äpfel: 3.50"


def test_the_json_codec() -> None:
    with serving("handlers:item_of", "--codec", "json") as (_, address):
        with bus.connect(address, codec=codecs.json) as client:
            assert client.call({"item": [1, None]}, timeout=LONG) == [1, None]


@pytest.mark.parametrize("options", [(), ("--processes", "1")])
def test_a_codec_of_ones_own(options: tuple[str, ...]) -> None:
    with serving("handlers:item_of", "--codec", "handlers:items", *options) as (_, address):
        with bus.connect(address, codec=codecs.json) as client:
            assert client.call({"item": [1, None]}, timeout=LONG) == {"answer": [1, None]}


@pytest.mark.parametrize(
    ("codec", "advice"),
    [
        ("xml", "'xml' names no codec; write bytes, text, json, or MODULE:NAME, as in shop.wire:codec"),
        ("handlers:item_of", "handlers:item_of is not a codec; name a ratchet.bus.Codec"),
        ("handlers:nothing", "the module handlers has no nothing"),
    ],
)
def test_a_codec_that_is_none(codec: str, advice: str) -> None:
    program = run("serve", "handlers:echo", "127.0.0.1:0", "--codec", codec, cwd=HERE)
    assert program.returncode == 2
    assert advice in program.stderr.decode()
    assert b"Traceback" not in program.stderr


def test_a_handler_may_block_as_in_any_thread() -> None:
    with serving("handlers:meet") as (_, address), bus.connect(address) as client:
        meeting = [client.send_request(b"", timeout=LONG) for _ in range(2)]
        assert [transaction.recv_response() for transaction in meeting] == [b"met", b"met"]


def test_what_a_handler_raises_is_logged_and_the_server_goes_on() -> None:
    with serving("handlers:fail") as (server, address), bus.connect(address) as client:
        for _ in range(2):
            with pytest.raises(errors.RemoteError, match="no such thing"):
                client.call(b"x", timeout=LONG)
            log = read_until(stderr_of(server), "LookupError: no such thing")
            assert "WARNING ratchet.bus: the handler of a request raised LookupError" in log


def test_the_death_of_a_handler_s_thread_is_logged_and_the_server_goes_on() -> None:
    with serving("handlers:die_in_a_thread") as (server, address), bus.connect(address) as client:
        assert client.call(b"x", timeout=LONG) == b"begun"
        log = read_until(stderr_of(server), "LookupError: no such thing")
        assert "ERROR ratchet.serve: the thread fail-" in log
        assert client.call(b"x", timeout=LONG) == b"begun"


# Its counters.


def counters(ratchet: Ratchet, address: str) -> dict[str, int]:
    """What `ratchet stats` shows."""
    program = ratchet("stats", address, "--json")
    assert (program.returncode, program.stderr) == (0, b"")
    counted: dict[str, int] = json.loads(program.stdout)
    return counted


def test_counters_are_served_and_go_on_while_it_drains(ratchet: Ratchet, tmp_path: Path) -> None:
    go_on, stats = tmp_path / "go on", f"unix:{tmp_path}/stats"
    with serving("handlers:wait_for_file", "--stats", stats) as (server, address):
        assert stderr_of(server).readline() == f"serving stats on {stats}\n"
        with bus.connect(address) as client:
            taken = client.send_request(bytes(go_on), timeout=LONG)
            wait_for(begun(go_on), "the handler")
            assert list(counters(ratchet, stats)) == list(bus.Stats._fields)
            server.terminate()
            read_until(stderr_of(server), "draining")
            assert counters(ratchet, stats)["in_flight"] == 1
            go_on.touch()
            assert taken.recv_response() == b"finished"
            assert server.wait(LONG) == 0
    assert not (tmp_path / "stats").exists()


def test_counters_that_cannot_be_served(tmp_path: Path) -> None:
    program = run("serve", "builtins:repr", f"unix:{tmp_path}/socket", "--stats", "unix:/nowhere/stats")
    assert program.returncode == 1
    assert one_line(program).startswith("cannot listen on unix:/nowhere/stats (")
    assert not (tmp_path / "socket").exists()


# The end.

ENDINGS = pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


@ENDINGS
def test_an_idle_server_ends_at_once(ending: signal.Signals, tmp_path: Path) -> None:
    with serving("handlers:echo", address=f"unix:{tmp_path}/socket") as (server, _):
        server.send_signal(ending)
        assert server.wait(LONG) == 0
        assert stderr_of(server).read() == "draining; a second signal stops immediately\n"
        assert not (tmp_path / "socket").exists()


def begun(path: Path) -> Callable[[], bool]:
    return path.with_name(path.name + ".begun").exists


@ENDINGS
def test_what_was_taken_is_finished(ending: signal.Signals, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("handlers:wait_for_file") as (server, address), bus.connect(address) as client:
        taken = client.send_request(bytes(go_on), timeout=LONG)
        wait_for(begun(go_on), "the handler")
        server.send_signal(ending)
        read_until(stderr_of(server), "draining")
        go_on.touch()
        assert taken.recv_response() == b"finished"
        assert server.wait(LONG) == 0


def test_a_request_that_comes_while_it_drains_is_not_run(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("handlers:wait_for_file") as (server, address), bus.connect(address) as client:
        taken = client.send_request(bytes(go_on), timeout=LONG)
        wait_for(begun(go_on), "the handler")
        server.terminate()
        read_until(stderr_of(server), "draining")
        program = run("call", address, "x")
        assert program.returncode == 3
        assert "nothing listens on" in one_line(program)
        go_on.touch()
        assert taken.recv_response() == b"finished"


def test_what_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("handlers:wait_for_file", "--drain-timeout", 0.1) as (server, address):
        with bus.connect(address) as client:
            taken = client.send_request(bytes(go_on), timeout=LONG)
            wait_for(begun(go_on), "the handler")
            server.terminate()
            assert server.wait(LONG) == 1
            assert stderr_of(server).readlines()[-1].startswith("ratchet: work was cut off")
            with pytest.raises(errors.ConnectionLost):
                taken.recv_response()


@pytest.mark.parametrize("handler", ["wait_for_file", "leave_it_to_a_thread"])
def test_the_second_signal_ends_at_once(handler: str, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving(f"handlers:{handler}") as (server, address), bus.connect(address) as client:
        client.send_request(bytes(go_on), timeout=LONG)
        wait_for(begun(go_on), "the handler")
        server.terminate()
        read_until(stderr_of(server), "draining")
        server.send_signal(signal.SIGINT)
        assert server.wait(LONG) == 1
        assert "ratchet: work was cut off" in stderr_of(server).read()


def test_a_thread_that_a_handler_attached_is_waited_for(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("handlers:leave_it_to_a_thread") as (server, address):
        with bus.connect(address) as client:
            assert client.call(bytes(go_on), timeout=LONG) == b"begun"
        wait_for(begun(go_on), "the thread")
        server.terminate()
        read_until(stderr_of(server), "draining")
        go_on.touch()
        assert server.wait(LONG) == 0


def test_a_thread_that_a_handler_attached_has_no_more_time_than_the_drain(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("handlers:leave_it_to_a_thread", "--drain-timeout", 0.1) as (server, address):
        with bus.connect(address) as client:
            assert client.call(bytes(go_on), timeout=LONG) == b"begun"
        wait_for(begun(go_on), "the thread")
        server.terminate()
        assert server.wait(LONG) == 1


def test_sigusr1_writes_what_every_thread_does_and_the_server_goes_on(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with serving("handlers:wait_for_file") as (server, address), bus.connect(address) as client:
        taken = client.send_request(bytes(go_on), timeout=LONG)
        wait_for(begun(go_on), "the handler")
        for _ in range(2):
            server.send_signal(signal.SIGUSR1)
            report = read_until(stderr_of(server), "in wait_for_file")
            assert "<ServerBus at " in report
            assert "in_flight=1" in report
            assert "<Ratchet at " in report
        go_on.touch()
        assert taken.recv_response() == b"finished"
        server.terminate()
        rest = stderr_of(server).read()
        assert server.wait(LONG) == 0
        assert "draining" in rest


def test_a_broken_stderr_keeps_no_server_from_draining() -> None:
    with serving("handlers:echo") as (server, address), bus.connect(address) as client:
        stderr_of(server).close()
        server.send_signal(signal.SIGUSR1)
        assert client.call(b"request", timeout=LONG) == b"request"
        server.terminate()
        assert server.wait(LONG) == 0


# Processes.


def ready(server: subprocess.Popen[str], number: int) -> int:
    """The process ID of a worker, which says that it is ready."""
    line = read_until(stderr_of(server), f"worker {number} (pid ").splitlines()[-1]
    assert line.endswith(") is ready")
    return int(line.partition("(pid ")[2].partition(")")[0])


@pytest.mark.long
def test_processes_are_replaced_and_end(tmp_path: Path) -> None:
    pid_file, socket = tmp_path / "pid", tmp_path / "socket"
    options = ("--processes", 1, "--pid-file", pid_file, "--codec", "json", "--workers", 4)
    with started("serve", "handlers:item_of", f"unix:{socket}", *options) as server:
        first = ready(server, 1)
        read_until(stderr_of(server), f"listening on unix:{socket}")
        assert pid_file.read_text() == f"{server.pid}\n"
        with bus.connect(f"unix:{socket}", codec=codecs.json) as client:
            assert client.call({"item": 7}, timeout=LONG) == 7
            server.send_signal(signal.SIGUSR1)
            report = read_until(stderr_of(server), "in obey")
            assert "<Supervisor at 0x" in report
            assert f"worker 1 (pid {first}): <ServerBus at 0x" in report
            server.send_signal(signal.SIGHUP)
            assert ready(server, 1) != first
            read_until(stderr_of(server), f"worker 1 (pid {first}) has ended")
        server.terminate()
        assert server.wait(LONG) == 0
        assert not socket.exists()
        assert not pid_file.exists()


def test_the_counters_of_processes_are_those_of_all_in_one(ratchet: Ratchet, tmp_path: Path) -> None:
    address, stats, go_on = f"unix:{tmp_path}/socket", f"unix:{tmp_path}/stats", tmp_path / "go on"
    with started("serve", "handlers:wait_for_file", address, "--processes", 2, "--stats", stats) as server:
        read_until(stderr_of(server), f"serving stats on {stats}")
        # Each is a client of another process.
        with bus.connect(address) as one, bus.connect(address) as another:
            (tmp_path / "at once").touch()
            for client in (one, another, one):
                assert client.call(bytes(tmp_path / "at once"), timeout=LONG) == b"finished"
            taken = [client.send_request(bytes(go_on), timeout=LONG) for client in (one, another)]
            wait_for(lambda: counters(ratchet, stats)["in_flight"] == 2, "both handlers")
            counted = counters(ratchet, stats)
            assert list(counted) == list(bus.Stats._fields)
            assert (counted["connections"], counted["answered"]) == (2, 3)
            server.terminate()
            read_until(stderr_of(server), "draining")
            assert counters(ratchet, stats)["in_flight"] == 2
            go_on.touch()
            assert [each.recv_response() for each in taken] == [b"finished"] * 2
        assert server.wait(LONG) == 0
    assert not (tmp_path / "stats").exists()


def test_processes_that_are_cut_off(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    with started("serve", "handlers:wait_for_file", f"unix:{tmp_path}/socket", "--processes", 1) as server:
        read_until(stderr_of(server), "listening on")
        with bus.connect(f"unix:{tmp_path}/socket") as client:
            client.send_request(bytes(go_on), timeout=LONG)
            wait_for(begun(go_on), "the handler")
            server.terminate()
            read_until(stderr_of(server), "draining; a second signal stops immediately")
            server.terminate()
            assert server.wait(LONG) == 1
            assert "ratchet: work was cut off at shutdown" in stderr_of(server).read()


def test_processes_over_tls_show_the_certificate(tmp_path: Path) -> None:
    certificate = str(tmp_path / "server.pem")
    authority().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with started("serve", "handlers:echo", "127.0.0.1:0", "--processes", 1, "--cert", certificate) as server:
        address = read_until(stderr_of(server), "listening on").splitlines()[-1].split()[-1]
        with bus.connect(address, ssl_context=client_context(certificate=False)) as client:
            assert client.call(b"x", timeout=LONG) == b"x"
        server.terminate()
        assert server.wait(LONG) == 0


def test_processes_cannot_import_the_handler() -> None:
    program = run("serve", "handlers:nothing", "127.0.0.1:0", "--processes", 1, cwd=HERE)
    assert program.returncode == 2
    assert one_line(program) == "the module handlers has no nothing; check MODULE:HANDLER"


def test_processes_at_an_address_in_use_and_a_pid_file_that_cannot_be(tmp_path: Path) -> None:
    with serving("handlers:echo") as (_, address):
        program = run("serve", "handlers:echo", address, "--processes", 1, cwd=HERE)
        assert program.returncode == 1
        assert one_line(program).startswith(f"cannot listen on {address} (Address already in use);")
        program = run("serve", "handlers:echo", address, "--pid-file", tmp_path, cwd=HERE)
        assert program.returncode == 1
        assert one_line(program) == f"cannot use the PID file '{tmp_path}': Is a directory"
        program = run("serve", "handlers:echo", address, "--pid-file", "", cwd=HERE)
        assert program.returncode == 2
        assert one_line(program) == "pid_file must be a path or None, not ''"


@pytest.mark.skipif(find_spec("watchfiles") is not None, reason="watchfiles is installed")
def test_reloading_needs_watchfiles() -> None:
    program = run("serve", "handlers:echo", "127.0.0.1:0", "--reload", cwd=HERE)
    assert program.returncode == 2
    assert one_line(program) == "reload needs watchfiles; pip install 'gevent-ratchet[reload]'"


@pytest.mark.skipif(find_spec("watchfiles") is None, reason="watchfiles is not installed")
def test_files_that_change_are_loaded_again(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def handle(request): return b'old'\n")
    with started("serve", "shop:handle", f"unix:{tmp_path}/socket", "--reload", cwd=tmp_path) as server:
        read_until(stderr_of(server), "listening on")
        with bus.connect(f"unix:{tmp_path}/socket") as client:
            assert client.call(b"", timeout=LONG) == b"old"
            (tmp_path / "shop.py").write_text("def handle(request): return b'new, and longer'\n")
            read_until(stderr_of(server), "changed: shop.py")
            read_until(stderr_of(server), "has ended")
            assert client.call(b"", timeout=LONG) == b"new, and longer"
        server.terminate()
        assert server.wait(LONG) == 0


# What a user can get wrong.


@pytest.mark.parametrize(
    ("handler", "advice"),
    [
        ("no_such_module:handle", "there is no module no_such_module, here or installed"),
        ("handlers.inner:handle", "there is no module handlers.inner, here or installed"),
        ("handlers:nothing", "the module handlers has no nothing; check MODULE:HANDLER"),
        ("handlers:Shop.cost", "the module handlers has no Shop.cost; check MODULE:HANDLER"),
        ("handlers:NOT_CALLABLE", "handlers:NOT_CALLABLE cannot be called; name a function"),
        ("handlers:asynchronous", "handlers:asynchronous is an async function; write a plain one"),
        ("handlers:greedy", "handlers:greedy must take the request, or the request and the transaction"),
        ("handlers:modest", "handlers:modest must take the request, or the request and the transaction"),
        ("handlers:keen", "handlers:keen must take the request, or the request and the transaction"),
    ],
)
def test_a_handler_that_cannot_be_served(handler: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(Failure) as failure:
        load(handler, None)
    assert failure.value.status == 2
    assert str(failure.value).startswith(advice)


def test_a_module_that_is_missing() -> None:
    program = run("serve", "no_such_module:handle", "127.0.0.1:0")
    assert program.returncode == 2
    assert one_line(program) == "there is no module no_such_module, here or installed; check its name"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def handle(request:", "SyntaxError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('enough')", "SystemExit: enough"),
    ],
)
def test_a_module_that_cannot_be_imported_is_shown_where(source: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(f"handle = repr\n{source}\n")
    program = run("serve", "shop:handle", "127.0.0.1:0", cwd=tmp_path)
    assert program.returncode == 2
    *trace, line = program.stderr.decode().splitlines()
    assert line.startswith(f"ratchet: cannot import shop: {error}")
    assert line.endswith("; fix what the traceback shows")
    files = [line for line in trace if line.startswith("  File ")]
    assert len(files) == 1
    assert f'{tmp_path}/shop.py", line 2' in files[0]


def test_an_address_in_use() -> None:
    with serving("handlers:echo") as (_, address):
        program = run("serve", "handlers:echo", address, cwd=HERE)
    assert program.returncode == 1
    assert one_line(program) == (
        f"cannot listen on {address} (Address already in use);"
        " stop what listens there, or choose another address"
    )


@pytest.mark.parametrize("address", ["unix:/nowhere/socket", "no-such-host.invalid:0"])
def test_an_address_where_nobody_can_listen(address: str) -> None:
    program = run("serve", "builtins:repr", address)
    assert program.returncode == 1
    assert one_line(program).startswith(f"cannot listen on {address} (")


def test_the_user_s_own_logging_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import logging\nlogging.basicConfig(format='mine: %(message)s')\ndef handle(request): 1 / 0\n"
    )
    with serving("shop:handle", cwd=tmp_path) as (server, address), bus.connect(address) as client:
        with pytest.raises(errors.RemoteError):
            client.call(b"x", timeout=LONG)
        assert stderr_of(server).readline() == "mine: the handler of a request raised ZeroDivisionError\n"
