"""The harness of the benchmarks: children, rounds, servers, and that every question is asked.

No peer need be installed for that; what is measured here is ours, gevent, and asyncio.
"""

from __future__ import annotations

import argparse
import ast
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarking import CHECKOUT, OURS, PEER, rows_of
from benchmarks import install, programs, questions
from benchmarks.__main__ import FULL, QUICK, groups_of, possible
from benchmarks.before import comparisons_with
from benchmarks.common import (
    ANSWERED,
    EXCHANGES,
    IN_VAIN,
    MEDIAN,
    MESSAGE,
    NOT_RUN,
    ORDER,
    SERVED,
    TAKEN,
    to_json,
)
from benchmarks.measure import Child, ChildFailed, Load, Measured, Program, Rounds, Scale, loads_of, program
from helpers import LONG, run_program, wait_until
from ratchet.bus import codecs

pytestmark = pytest.mark.slow


def test_every_question_is_asked() -> None:
    asked = [name for group in questions.GROUPS for name in group]
    modules = [path.stem for path in (CHECKOUT / "benchmarks" / "questions").glob("*.py")]
    assert sorted([*asked, "__init__"]) == sorted(modules)


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=["full", "quick"])
def test_no_two_rows_have_the_same_key(scale: Scale) -> None:
    keys = [row.key for row in rows_of(scale)]
    assert len(set(keys)) == len(keys) > 20


def chosen(*names: str, against: str = "", before: Path | None = None) -> argparse.Namespace:
    return argparse.Namespace(questions=names, against=against, before=before)


def test_one_row_can_be_had_alone() -> None:
    [(names, rows)] = groups_of(chosen("in_flight", "attach", against="redis, ECHO, -P 256"), FULL)
    assert names == ("in_flight",)
    assert [(row.by_serve, row.target) for row in rows] == [(False, 0.65), (True, None)]
    assert len(loads_of(rows)) == 3


def test_the_library_is_compared_with_what_it_was_in_another_folder() -> None:
    rows = comparisons_with("/older", rows_of(FULL))
    # Once each, however many peers it has.
    assert len({(row.ours, row.figure) for row in rows}) == len(rows) > 20
    targets = {row.asked: row.target for row in rows}
    assert targets["local bus, 1 client"] == 1.0
    assert targets["local bus, 64 clients"] == 1.1
    assert targets["local bus, 64 clients, answered by serve()"] == 1.15
    for row in rows:
        assert row.peer is not None
        assert {program.library for program in row.ours.programs} == {""}
        assert {program.library for program in row.peer.programs} == {"/older"}


def test_a_child_takes_the_library_from_the_folder_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "ratchet").mkdir()
    (tmp_path / "ratchet" / "__init__.py").write_text("def build_info():\n    return 'an older one'\n")
    named = replace(program("machine:build"), library=str(tmp_path))
    child = Child(named, max(os.sched_getaffinity(0)), str(tmp_path))
    try:
        assert child.ask({}) == "an older one"
    finally:
        child.close()


def signature(named: Program) -> tuple[set[str], set[str]]:
    """The parameters that a program's function takes, and those of them that it needs."""
    module, name = named.function.split(":")
    source = (CHECKOUT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    [function] = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    parameters = [parameter.arg for parameter in function.args.args]
    return set(parameters), set(parameters[: len(parameters) - len(function.args.defaults)])


# Read, not imported: the peers need not be installed.
@pytest.mark.parametrize("load", loads_of(rows_of(FULL)), ids=lambda load: load.name)
def test_every_program_that_a_question_names_takes_what_it_is_given(load: Load) -> None:
    given = {"seconds", *(name for name, _ in load.client.arguments)}
    if load.server is not None:
        given.add("server")
        taken, needed = signature(load.server)
        assert needed <= {"ready", *(name for name, _ in load.server.arguments)} <= taken
    if load.half_of is not None:
        given.add("rate")
    taken, needed = signature(load.client)
    assert needed <= given <= taken


def test_where_few_files_may_be_open_there_are_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.__main__.most_connections", lambda: 500)
    scale = possible(FULL)
    assert scale.connections < 500
    assert scale.connection_steps == (1, 10, 100, 500)
    assert "436 idle connections" in questions.comparisons_of(("idle_memory",), scale)[0].question


TINY = replace(QUICK, rounds=2, seconds=0.2, warm_up=0.05, connections=500, threads=1_000)


def play(*loads: Load, rounds: int = 2, until: float = 0.0) -> Measured:
    said: list[str] = []
    playing = Rounds(loads, max(os.sched_getaffinity(0)), said.append)
    playing.play(replace(TINY, rounds=rounds), until)
    assert said
    return playing.measured


@pytest.mark.parametrize("name", ["latency", "idle_memory", "idle_speed", "attach", "connect_and_close"])
def test_a_question_without_strangers_is_answered(name: str) -> None:
    rows = questions.comparisons_of((name,), TINY)
    outcome = play(*loads_of(rows))
    assert outcome.failures == {}
    for row in rows:
        assert len(outcome.ratios(row)) == 2
        assert all(ratio > 0 for ratio in outcome.ratios(row))


def test_an_order_has_the_size_of_a_message_and_is_the_same_json_on_both_sides() -> None:
    assert len(to_json(ORDER)) == len(MESSAGE)
    assert codecs.json.request_to_bus(ORDER) == to_json(ORDER).encode()


def test_calls_to_processes_are_answered_and_the_servers_are_counted_alone_too() -> None:
    pytest.importorskip("gunicorn")
    pytest.importorskip("geventhttpclient")
    rows = questions.comparisons_of(("processes",), TINY)
    outcome = play(*loads_of(rows))
    assert outcome.failures == {}
    for row in rows:
        assert all(ratio > 0 for ratio in outcome.ratios(row))
        for load in row.loads:
            both, alone = (outcome.figures(load, figure) for figure in (EXCHANGES, SERVED))
            assert all(fewer < more for fewer, more in zip(both, alone, strict=True))


@pytest.mark.parametrize("function", ["ours:serve_by_processes", "peers.gunicorn:serve"])
def test_workers_have_the_core_of_their_server_and_end_with_it(function: str, tmp_path: Path) -> None:
    if "gunicorn" in function:
        pytest.importorskip("gunicorn")
    cpu = max(os.sched_getaffinity(0))
    child = Child(program(function, processes=2), cpu, str(tmp_path))
    try:
        _, processes = child.ask({}, serves=True)
        assert processes[0] == child.pid
        assert set(processes[1:]) == children_of(child.pid)
        assert len(processes) == 3
        assert [os.sched_getaffinity(process) for process in processes] == [{cpu}] * 3
    finally:
        child.close()
    wait_until(lambda: not any(map(is_running, processes)), "the workers' end")


def is_installed(load: Load) -> bool:
    """Whether it needs nothing but this library, gevent and asyncio."""
    known = ("ours:", "peers.gevent:", "peers.asyncio:", "peers.protocol:")
    return all(
        named.function.removeprefix("benchmarks.").startswith(known)
        and ("on_uvloop", True) not in named.arguments
        for named in load.programs
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "group", [group for group in questions.GROUPS if "local" in group[0] or "connection" in group[0]]
)
def test_questions_through_serve_and_by_hand_are_answered(group: tuple[str, ...]) -> None:
    loads = [load for load in loads_of(questions.comparisons_of(group, TINY)) if is_installed(load)]
    assert any(load.server == program("ours:serve", workers=64) for load in loads) or "local" in group[0]
    playing = Rounds(loads, max(os.sched_getaffinity(0)), lambda said: None)
    playing.play(replace(TINY, rounds=1, seconds=0.05), until=0.0)
    assert playing.measured.failures == {}
    for figures in playing.measured.rounds[0].values():
        assert all(figure > 0 for figure in figures.values())


@pytest.mark.parametrize("in_flight", [1, 64])
def test_what_a_program_in_c_takes_to_begin_does_not_count(in_flight: int) -> None:
    if programs.version("redis-server") == "not installed":
        pytest.skip("redis-server is not installed")
    client = program("peers.redis:echo", connections=1, in_flight=in_flight)
    load = Load("redis", client, program("peers.redis:serve"))
    outcome = play(load)
    assert outcome.failures == {}
    # Slower than any machine, if it took as long for each as it takes to begin.
    assert all(figure > 1_000 for figure in outcome.figures(load, EXCHANGES))


def test_a_program_that_is_not_installed_is_named() -> None:
    assert programs.version("no-such-server") == "not installed"
    with pytest.raises(FileNotFoundError, match="no-such-server is not installed"):
        programs.start_server("no-such-server", lambda port: [])


LISTEN = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(60)
"""


START = f"""
import os, signal, sys
sys.path.append({str(CHECKOUT)!r})
from benchmarks import programs

port, server = programs.start_server(sys.executable, lambda port: ["-c", {{program}}, str(port)])
"""


def test_a_program_ends_with_the_process_that_started_it() -> None:
    started = START.format(program=repr(LISTEN))
    died = run_program(f"{started}print(server.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)")
    assert died.returncode == -signal.SIGKILL
    wait_until(lambda: not is_running(int(died.stdout)), "the end of the program")


def test_a_program_that_ends_before_it_listens_has_failed() -> None:
    failed = run_program(START.format(program="'pass'"))
    assert "does not listen" in failed.stderr


def test_a_load_that_fails_is_missing_and_the_others_are_measured() -> None:
    ours = Load("ours", program("ours:local", clients=1))
    outcome = play(ours, PEER, Load("half", OURS.client, half_of=PEER))
    assert [list(figures) for figures in outcome.rounds] == [[ours], [ours]]
    reason, consequence = outcome.failures.values()
    assert reason == "ModuleNotFoundError: No module named 'benchmarks.peers.one'"
    assert consequence == "it needs the rate of a peer"


def test_a_load_that_takes_long_is_played_in_the_first_round_alone() -> None:
    ours = Load("ours", program("ours:local", clients=1))
    outcome = play(ours, replace(ours, name="ours, once", once=True))
    assert [len(figures) for figures in outcome.rounds] == [2, 1]


@pytest.mark.long
def test_a_server_that_is_asked_for_too_much_says_what_it_did_in_time_and_in_vain() -> None:
    rows = [row for row in questions.comparisons_of(("overload",), TINY) if row.ours.server is None]
    [load] = loads_of(rows)
    outcome = play(load)
    assert outcome.failures == {}
    [figures] = outcome.rounds[0].values()
    assert list(figures) == [row.figure for row in rows] == [ANSWERED, IN_VAIN, NOT_RUN]
    assert all(0 <= share <= 120 for share in figures.values())


def test_a_polite_client_says_how_long_it_waited() -> None:
    server = program("under_load:serve", workers=1, shortest=5000, longest=5000)
    load = Load("polite", program("under_load:polite", others=2, each=10), server)
    outcome = play(load)
    assert outcome.failures == {}
    assert 5 <= outcome.figures(load, MEDIAN)[0] < 1000 * LONG


@pytest.mark.long
def test_hostile_clients_say_how_much_memory_the_server_took() -> None:
    server = program("hostile:serve", answers=False)
    load = Load("unfinished", program("hostile:unfinished_requests", connections=2), server)
    outcome = play(replace(load, fresh=True, once=True))
    assert outcome.failures == {}
    [figures] = outcome.rounds[0].values()
    # Two messages of 16 MiB, and no more.
    assert 0 <= figures[TAKEN] < 64


def test_there_are_two_rounds_however_late_it_is_and_no_more_then() -> None:
    ours = Load("ours", program("ours:local", clients=1))
    assert len(play(ours, rounds=5, until=0.0).rounds) == 2
    assert len(play(ours, rounds=3, until=time.monotonic() + LONG).rounds) == 3


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        (Program("time:no_such_function", ()), "AttributeError: module 'time' has no attribute"),
        (Program("os:_exit", (("status", 3),)), "the process ended with 3"),
        # It waits for a signal that never comes.
        (Program("signal:pause", ()), "no answer within 1 s"),
    ],
    ids=["raises", "dies", "hangs"],
)
def test_a_child_that_does_not_answer_has_failed_and_is_ended(
    tmp_path: Path, named: Program, reason: str
) -> None:
    child = Child(named, max(os.sched_getaffinity(0)), str(tmp_path))
    try:
        with pytest.raises(ChildFailed, match=reason):
            child.ask({}, patience=1.0 if named.function == "signal:pause" else LONG)
    finally:
        child.close()
    assert not is_running(child.pid)


def is_running(process: int) -> bool:
    """Whether there is such a process, other than one that has ended and waits to be reaped."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def children_of(process: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == process:
            found.add(int(path.parent.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_no_child_outlives_a_run_however_it_ends(how: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "connect_and_close"]
    run = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with run:
        try:
            # Two clients and two servers.
            wait_until(lambda: len(children_of(run.pid)) == 4, "the children")
            children = children_of(run.pid)
        finally:
            run.send_signal(how)
        assert run.stdout is not None
        assert run.stdout.read() == b""
    assert run.returncode != 0
    wait_until(lambda: not any(map(is_running, children)), "the children's end")


def test_what_cannot_be_installed_has_a_reason() -> None:
    assert "matplotlib" in install.requirements()
    assert "no-such-folder" in (install.install("./no-such-folder") or "")
