"""The workers of one `serve`: how many there are, and when one makes room for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import gevent
import gevent.event
import pytest
from greenlet import getcurrent

from helpers import LONG, turns, wait_until
from ratchet import _clock
from ratchet._wait import waiting_on
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.handle import receive as receive_one
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.intake import Intake
from ratchet.bus._core.serving import Team, wants_transaction
from routes import Client, Owner


@pytest.fixture
def intake() -> Iterator[Intake]:
    intake = Intake(Owner(), gevent.get_hub(), None, None, None, None)
    yield intake
    intake.inbox.close()
    turns()


@pytest.fixture
def client() -> Client:
    return Client()


def ask(intake: Intake, client: Client, question: object) -> None:
    intake.inbox.put(IncomingRequest(intake.requests, client, question, False, None))


def working(team: Team, size: int) -> gevent.Greenlet[..., None]:
    """Let a team work."""
    work = gevent.spawn(team.work, size)
    turns()
    return work


def test_a_team_answers_until_the_inbox_is_closed_and_empty(intake: Intake, client: Client) -> None:
    for number in range(5):
        ask(intake, client, number)
    intake.inbox.close()
    working(Team(intake, lambda number: number**2, False), 2).get(timeout=LONG)
    assert sorted(client.answers) == [0, 1, 4, 9, 16]
    assert not intake.workers


def test_so_many_requests_are_handled_at_once_and_no_more(intake: Intake, client: Client) -> None:
    begun: list[object] = []
    go_on = gevent.event.Event()

    def handle(question: object) -> object:
        begun.append(question)
        go_on.wait(LONG)
        return question

    work = working(Team(intake, handle, False), 3)
    for number in range(5):
        ask(intake, client, number)
    wait_until(lambda: len(begun) >= 3)
    turns()
    assert begun == [0, 1, 2]
    go_on.set()
    wait_until(lambda: client.answers == [0, 1, 2, 3, 4])
    intake.inbox.close()
    work.get(timeout=LONG)


def test_a_worker_that_is_killed_is_replaced(intake: Intake, client: Client) -> None:
    work = working(Team(intake, str, False), 2)
    before = set(intake.workers)
    assert len(before) == 2
    gevent.killall(list(before))
    wait_until(lambda: len(intake.workers) == 2 and not before & set(intake.workers))
    ask(intake, client, 1)
    wait_until(lambda: client.answers == ["1"])
    intake.inbox.close()
    work.get(timeout=LONG)


def test_a_worker_to_which_something_still_refers_is_replaced(intake: Intake, client: Client) -> None:
    held: list[object] = []
    work = working(Team(intake, lambda question: held.append(gevent.getcurrent()), False), 1)
    for number in range(2):
        ask(intake, client, number)
    wait_until(lambda: len(held) == 2)
    assert held[0] is not held[1]
    intake.inbox.close()
    held.clear()
    work.get(timeout=LONG)


def test_one_more_worker_joins_the_team(intake: Intake, client: Client) -> None:
    team: Team = Team(intake, str, False)
    work = working(team, 1)
    team.add_worker()
    assert len(intake.workers) == 2
    intake.inbox.close()
    work.get(timeout=LONG)


def test_a_team_that_is_killed_has_ended(intake: Intake, client: Client) -> None:
    team: Team = Team(intake, lambda question: gevent.sleep(LONG), False)
    work = working(team, 2)
    ask(intake, client, 1)
    turns()
    work.kill()
    team.kill()
    wait_until(lambda: not intake.workers)
    assert client.answers == [Reason.ABANDONED]


def handle(request: object) -> object:
    return request


def handle_with(request: object, transaction: object) -> object:
    return request


class Handler:
    def __call__(self, request: object, transaction: object) -> object:
        return request


@pytest.mark.parametrize(
    ("handler", "wants"),
    [
        (handle, False),
        (handle_with, True),
        (Handler(), True),
        (partial(handle_with, transaction=None), False),
        (partial(handle_with, None), False),
        (lambda *requests: requests, False),
        (lambda request, transaction=None: request, False),
        (len, False),
    ],
)
def test_a_handler_gets_the_transaction_if_it_requires_two_arguments(
    handler: Callable[..., object], wants: bool
) -> None:
    assert wants_transaction(handler) is wants


# On a busy machine, its slice of time could be over in the middle.
@pytest.mark.virtual_time
@pytest.mark.parametrize("size", [1, 3])
def test_a_worker_takes_what_is_queued_before_the_others_of_its_team(
    intake: Intake, client: Client, size: int
) -> None:
    handlers: list[int] = []
    # Not the threads: one that is kept is replaced.
    team: Team = Team(intake, lambda question: handlers.append(id(getcurrent())), False)
    work = working(team, size)
    for number in range(20):
        ask(intake, client, number)
    wait_until(lambda: len(handlers) == 20)
    assert len(set(handlers)) == 1
    team.kill()
    work.kill()


@pytest.mark.virtual_time
@pytest.mark.parametrize("size", [1, 3])
def test_the_hub_has_its_turn_though_time_stands_still(intake: Intake, client: Client, size: int) -> None:
    rings: list[int] = []
    team: Team = Team(intake, lambda question: None, False)
    for number in range(5000):
        ask(intake, client, number)
    timer = _clock.timer(gevent.get_hub(), 0.0)
    timer.start(lambda: rings.append(len(client.answers)))
    work = working(team, size)
    wait_until(lambda: len(client.answers) == 5000)
    timer.close()
    assert rings[0] < 5000
    team.kill()
    work.kill()


def test_a_team_lets_a_thread_that_waits_by_hand_go_first(intake: Intake, client: Client) -> None:
    handled: list[object] = []
    by_hand: list[object] = []

    def receive() -> None:
        while True:
            received = receive_one(intake.inbox, intake.inbox.first(None))
            assert received is not None
            by_hand.append(received[1])
            received[0].send_response(None)
            del received

    team: Team = Team(intake, handled.append, False)
    work = working(team, 2)
    receiver = gevent.spawn(receive)
    wait_until(lambda: waiting_on(receiver))
    for number in range(10):
        ask(intake, client, number)
    wait_until(lambda: len(client.answers) == 10)
    # Two of the team and the other one stood in line.
    assert len(by_hand) >= 3
    assert sorted([*handled, *by_hand], key=str) == list(range(10))
    receiver.kill()
    team.kill()
    work.kill()
