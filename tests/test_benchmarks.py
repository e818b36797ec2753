"""The harness of the benchmarks: ratios, the table, the baseline, and that every question is asked.

No peer need be installed for that, so nothing is measured here but a made-up load.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import LONG, wait_until

CHECKOUT = Path(__file__).parent.parent


def load_benchmarks() -> None:
    """Make `benchmarks` importable without the checkout's other packages, which may be installed."""
    if "benchmarks" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location("benchmarks", CHECKOUT / "benchmarks" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["benchmarks"])


load_benchmarks()

from benchmarks import install, questions, report  # noqa: E402
from benchmarks.__main__ import FULL, QUICK, possible  # noqa: E402
from benchmarks.common import ANSWERED, CPU, EXCHANGES, IN_VAIN, MEDIAN, NOT_RUN, SPACE, TAKEN  # noqa: E402
from benchmarks.measure import (  # noqa: E402
    Child,
    ChildFailed,
    Comparison,
    Load,
    Measured,
    Program,
    Rounds,
    Scale,
    loads_of,
    program,
)

OURS = Load("ours", program("ours:one"))
PEER = Load("a peer", program("peers.one:one"))
OTHER = Load("another peer", program("peers.other:one"))


def rows_of(scale: Scale) -> list[Comparison]:
    return [row for group in questions.GROUPS for row in questions.comparisons_of(group, scale)]


def measured(unit: str, *rounds: tuple[float | None, float | None]) -> Measured:
    """The outcome of rounds of ours and the peer's; None where one did not play."""
    outcome = Measured()
    for ours, peer in rounds:
        both = ((OURS, ours), (PEER, peer))
        outcome.rounds.append({load: {unit: figure} for load, figure in both if figure is not None})
    return outcome


@pytest.fixture
def rate_row() -> report.Row:
    comparison = Comparison("how many?", OURS, PEER, EXCHANGES, 0.9)
    return report.row_of(comparison, measured(EXCHANGES, (1000, 1000), (3000, 2000), (1200, 1000)))


def test_a_ratio_is_taken_within_each_round_and_its_median_counts(rate_row: report.Row) -> None:
    assert rate_row.ratios == (1.0, 1.5, 1.2)
    assert rate_row.ratio == 1.2
    assert (rate_row.ours, rate_row.peer) == (1200, 1000)


def test_a_round_that_lacks_one_of_the_two_has_no_ratio() -> None:
    comparison = Comparison("how many?", OURS, PEER)
    assert measured(EXCHANGES, (1, 2), (1, None), (None, 2), (1, 0)).ratios(comparison) == [0.5]


@pytest.mark.parametrize(
    ("unit", "target", "ratio", "verdict"),
    [
        (EXCHANGES, 0.9, 0.9, "yes"),
        (EXCHANGES, 0.9, 0.89, "no"),
        (CPU, 1.5, 1.5, "yes"),
        (CPU, 1.5, 1.51, "no"),
        (CPU, None, 7.0, ""),
    ],
)
def test_a_rate_must_be_as_high_as_its_target_and_a_cost_as_low(
    unit: str, target: float | None, ratio: float, verdict: str
) -> None:
    row = report.row_of(Comparison("?", OURS, PEER, unit, target), measured(unit, (ratio, 1)))
    assert row.verdict == verdict


def test_what_has_no_peer_is_held_against_its_target_as_it_is() -> None:
    comparison = Comparison("how much?", OURS, None, SPACE, 150)
    row = report.row_of(comparison, measured(SPACE, (100, None), (200, None), (140, None)))
    assert (row.ratios, row.verdict) == ((100, 200, 140), "yes")
    assert report.cells(row) == ("how much?", "", "≤ 150", "", "100-200", "140", "", SPACE, "yes")
    # It has its target, and needs no baseline.
    assert report.baseline_of([row]) == {}


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0.654, "0.65"), (9.994, "9.99"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_ratios_are_shown_with_three_digits(ratio: float, shown: str) -> None:
    assert report.shown_ratio(ratio) == shown


def test_the_table_names_a_question_once_and_says_why_a_peer_is_missing(rate_row: report.Row) -> None:
    absent = Comparison("how many?", OURS, OTHER, EXCHANGES, 2)
    outcome = measured(EXCHANGES, (1000, None))
    outcome.failures[OTHER] = "ModuleNotFoundError: No module named 'other'"
    heading, question, present, missing = report.text_table(
        [rate_row, report.row_of(absent, outcome)]
    ).splitlines()
    assert heading.split() == ["against", "target", "ratio", "spread", "ours", "theirs", "unit", "reached"]
    assert question == "how many?"
    assert present.startswith("  a peer       ")
    assert present.split()[2:] == ["≥", "0.9", "1.20", "1.00-1.50", "1,200", "1,000", EXCHANGES, "yes"]
    assert missing.startswith("  another peer     ≥ 2  ")
    assert missing.endswith("missing: ModuleNotFoundError: No module named 'other'")


def test_the_page_has_every_cell_the_machine_and_what_could_not_be_installed(rate_row: report.Row) -> None:
    machine = {
        "processor": "A chip",
        "cores": "2",
        "kernel": "Linux 6",
        "Python": "CPython 3",
        "gevent": "26",
    }
    page = report.rst([rate_row], machine, {"other": "no `such` thing"}, "make bench")
    assert "``make bench`` on A chip, 2 cores,\nLinux 6, CPython 3, with gevent 26." in page
    assert "other could not be installed: ``no 'such' thing``" in page
    table = page.partition(".. list-table::")[2]
    assert table.count("* - ") == 2
    assert table.count("\n     -") == 2 * (len(report.HEADINGS) - 1)
    assert "* - how many?\n     - a peer\n     - ≥ 0.9\n     - 1.20\n     - 1.00-1.50\n" in table


def test_json_has_the_figures_unrounded(rate_row: report.Row) -> None:
    everything = report.as_json([rate_row], {"cores": "2"})
    assert everything == {
        "machine": {"cores": "2"},
        "rows": [
            {
                "question": "how many?",
                "against": "a peer",
                "unit": EXCHANGES,
                "target": 0.9,
                "more_is_better": True,
                "ratio": 1.2,
                "ratios": (1.0, 1.5, 1.2),
                "ours": 1200,
                "peer": 1000,
                "reached": True,
                "missing": None,
            }
        ],
    }


def test_a_move_of_more_than_a_fifth_is_named_either_way(rate_row: report.Row) -> None:
    key = rate_row.comparison.key
    assert report.baseline_of([rate_row]) == {key: 1.2}
    baseline = {"up": 1.0, "down": 1.0, "a bit up": 1.0, "a bit down": 1.0, "gone": 1.0}
    ratios = {"up": 1.21, "down": 0.79, "a bit up": 1.19, "a bit down": 0.81, "new": 1.0}
    assert report.moves(ratios, baseline) == [
        "up: 1.00 in the baseline, now 1.21 (+21%)",
        "down: 1.00 in the baseline, now 0.79 (-21%)",
        "new: not in the baseline",
        "gone: in the baseline only",
    ]


def test_every_question_is_asked() -> None:
    asked = [name for group in questions.GROUPS for name in group]
    modules = [path.stem for path in (CHECKOUT / "benchmarks" / "questions").glob("*.py")]
    assert sorted([*asked, "__init__"]) == sorted(modules)


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=["full", "quick"])
def test_no_two_rows_have_the_same_key(scale: Scale) -> None:
    keys = [row.key for row in rows_of(scale)]
    assert len(set(keys)) == len(keys) > 20


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


TINY = replace(QUICK, rounds=2, seconds=0.2, warm_up=0.01, connections=500, threads=1_000)


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
    assert install.requirements()[0] == "matplotlib"
    assert "no-such-folder" in (install.install("./no-such-folder") or "")
