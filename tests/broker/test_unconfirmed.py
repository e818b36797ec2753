"""What was published and is not confirmed yet."""

from __future__ import annotations

from ratchet.bus._broker.unconfirmed import Unconfirmed


def of(*numbers: int) -> Unconfirmed[str]:
    """These, noted in this order."""
    unconfirmed = Unconfirmed[str]()
    for number in numbers:
        unconfirmed.add(number, str(number))
    return unconfirmed


def test_a_confirm_is_about_one_message() -> None:
    unconfirmed = of(1, 2, 3)
    assert unconfirmed.take(2, False) == ["2"]
    assert len(unconfirmed) == 2


def test_or_about_all_up_to_one() -> None:
    unconfirmed = of(1, 2, 4, 5)
    assert unconfirmed.take(4, True) == ["1", "2", "4"]
    assert unconfirmed.take(9, True) == ["5"]


def test_a_confirm_of_what_was_not_noted_is_about_nothing() -> None:
    unconfirmed = of(2)
    assert unconfirmed.take(1, False) == unconfirmed.take(1, True) == unconfirmed.take(3, False) == []
    assert len(unconfirmed) == 1


def test_one_that_a_signal_handler_has_published_and_noted_first_holds_up_no_other() -> None:
    assert of(1, 3, 2, 4).take(2, True) == ["1", "2"]


def test_behind_the_end_nothing_is_unconfirmed() -> None:
    unconfirmed = of(1, 2)
    unconfirmed.clear()
    assert len(unconfirmed) == 0
    assert unconfirmed.take(2, True) == []
