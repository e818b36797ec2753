"""A short form of what `make memory` plays under the address sanitizer."""

from __future__ import annotations

import pytest

from robustness.memory import feed_messages, run_hubs

pytestmark = pytest.mark.uncounted


def test_random_messages_are_decoded_or_refused() -> None:
    feed_messages(3_000, seed=1)


def test_hubs_in_several_os_threads_give_each_request_its_own_answer() -> None:
    run_hubs(seconds=0.5)
