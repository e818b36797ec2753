"""What only a dead thread's frames still hold, and what others have too."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from ratchet import Ratchet, thread
from ratchet._death import death_of, held_by_dead


class Held:
    """What is looked for."""


class Derived(Held):
    """It counts as well."""


class Hostile(Held):
    """Whatever it is asked, it raises."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)

    def __eq__(self, other: object) -> bool:
        raise KeyError

    __hash__ = None  # type: ignore[assignment]


def death(func: Callable[[], object]) -> BaseException:
    """What a thread that runs `func` dies of."""
    with pytest.MonkeyPatch.context() as patch:
        # gevent prints the errors of greenlets that are nobody's.
        patch.setattr(gevent.get_hub(), "exception_stream", None)
        died = gevent.spawn(func)
        died.join()
    error = death_of(died)
    assert error is not None
    return error


def kinds_held(error: BaseException) -> list[type]:
    return [type(held) for held in held_by_dead(error, Held)]


def in_a_variable() -> None:
    held = Held()
    raise KeyError(id(held))


def in_an_argument(held: object = None) -> None:
    if held is None:
        in_an_argument(Held())
    raise KeyError


def in_an_outer_frame() -> None:
    held = Held()
    in_a_variable()
    del held


def twice_in_one_frame() -> None:
    held = Held()
    again = held
    raise KeyError(again is held)


def in_a_cell() -> None:
    held = Held()

    def closure() -> object:
        return held

    raise KeyError(closure.__name__)


def in_a_list() -> None:
    held = [Held(), 1]
    raise KeyError(len(held))


def in_a_tuple() -> None:
    held = (Held(), 1)
    raise KeyError(len(held))


def in_a_dict() -> None:
    held = {"held": Held()}
    raise KeyError(len(held))


def in_a_set() -> None:
    held = {Held()}
    raise KeyError(len(held))


def in_a_deque() -> None:
    held = deque([Held()])
    raise KeyError(len(held))


def in_a_cell_s_list() -> None:
    held = [Held()]

    def closure() -> object:
        return held

    raise KeyError(closure.__name__)


def in_a_list_and_a_variable() -> None:
    held = Held()
    others = [held, held]
    raise KeyError(len(others))


def in_the_frame_of_a_cause() -> None:
    try:
        in_a_variable()
    except KeyError as error:
        raise ValueError from error


def in_the_frame_of_a_context() -> None:
    try:
        in_a_variable()
    finally:
        raise ValueError


def in_the_frame_of_a_generator_that_is_over() -> None:
    def generate() -> Iterator[None]:
        yield
        held = Held()
        raise KeyError(type(held))

    for _ in generate():
        pass


def killed() -> None:
    held = Held()
    gevent.get_hub().loop.run_callback(gevent.getcurrent().throw, gevent.GreenletExit())
    gevent.sleep(60)
    del held


ONLY_THERE = [
    in_a_variable,
    in_an_argument,
    twice_in_one_frame,
    in_a_cell,
    in_a_list,
    in_a_tuple,
    in_a_dict,
    in_a_set,
    in_a_deque,
    in_a_cell_s_list,
    in_a_list_and_a_variable,
    in_the_frame_of_a_cause,
    in_the_frame_of_a_context,
    in_the_frame_of_a_generator_that_is_over,
    killed,
]


@pytest.mark.parametrize("func", ONLY_THERE, ids=lambda func: func.__name__)
def test_what_only_the_dead_thread_has_is_found_once(func: Callable[[], object]) -> None:
    error = death(func)
    assert kinds_held(error) == [Held]
    # It is not let go of, nor changed: asked again, it says the same.
    assert kinds_held(error) == [Held]


def test_each_of_several_is_found() -> None:
    assert kinds_held(death(in_an_outer_frame)) == [Held, Held]


@pytest.mark.parametrize("kind", [Derived, Hostile])
def test_an_object_of_a_derived_type_is_found_whatever_it_does(kind: type[Held]) -> None:
    def fail() -> None:
        held = kind()
        raise KeyError(id(held))

    assert kinds_held(death(fail)) == [kind]


def test_a_thread_of_a_scheduler_is_as_any_other() -> None:
    kernel = Ratchet()
    kernel.attach(in_a_variable)
    with pytest.raises(KeyError) as caught:
        kernel.loop()
    # The error is held by more now, and its frames by the debugger that looks at them.
    assert kinds_held(caught.value) == [Held]
    assert set(caught.traceback[-1].frame.f_locals) == {"held"}


kept: list[object] = []


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    yield
    kept.clear()


def somebody_has_the_object() -> None:
    held = Held()
    kept.append(held)
    raise KeyError


def somebody_has_the_list() -> None:
    held = [Held()]
    kept.append(held)
    raise KeyError


def somebody_has_the_closure() -> None:
    held = Held()
    kept.append(lambda: held)
    raise KeyError


def the_error_has_the_object() -> None:
    held = Held()
    raise KeyError(held)


def somebody_has_the_generator() -> None:
    def generate() -> Iterator[BaseException]:
        held = Held()
        try:
            raise KeyError(id(held))
        except KeyError as error:
            yield error

    generator = generate()
    kept.append(generator)
    raise ValueError from next(generator)


def it_is_deeper() -> None:
    held = [[Held()]]
    raise KeyError(len(held))


@pytest.mark.parametrize(
    "func",
    [
        somebody_has_the_object,
        somebody_has_the_list,
        somebody_has_the_closure,
        somebody_has_the_generator,
        the_error_has_the_object,
        it_is_deeper,
    ],
    ids=lambda func: func.__name__,
)
def test_what_somebody_else_may_have_is_not_found(func: Callable[[], object]) -> None:
    assert kinds_held(death(func)) == []


def test_a_generator_of_others_goes_on() -> None:
    error = death(somebody_has_the_generator)
    assert kinds_held(error) == []
    (generator,) = kept
    assert isinstance(generator, Iterator)
    assert next(generator, "its end") == "its end"


def test_a_frame_of_a_living_thread_is_not_searched() -> None:
    def living() -> None:
        held = Held()
        try:
            raise OSError(id(held))
        except OSError as error:
            kept.append(error)
            thread.pause()

    def dying() -> None:
        raise ValueError from kept[0]  # type: ignore[misc]

    lives = gevent.spawn(living)
    gevent.sleep(0)
    error = death(dying)
    assert kinds_held(error) == []
    thread.unpause(lives)
    lives.join()
    kept.clear()
    del lives
    gc.collect()
    assert kinds_held(error) == [Held]


def test_errors_that_are_causes_of_each_other_are_looked_at_once() -> None:
    error = death(in_the_frame_of_a_cause)
    cause = error.__cause__
    assert cause is not None
    cause.__cause__ = error
    cause.__context__ = error
    assert kinds_held(error) == [Held]


class Refusing(Exception):
    """An error that says nothing of itself."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)


class Lying(Exception):
    """An error with attributes of its own in place of every error's."""

    __traceback__ = 1  # type: ignore[assignment]
    __cause__ = __context__ = "nothing"  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Refusing, Lying])
def test_an_error_is_not_asked(kind: type[Exception]) -> None:
    def fail() -> None:
        held = Held()
        raise kind(id(held))

    try:
        fail()
    except Exception as error:
        assert kinds_held(error) == [Held]  # noqa: PT017  # `pytest.raises` would ask it
    else:
        pytest.fail("it raised nothing")
