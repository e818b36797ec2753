"""The page of `web_app.py` in a browser, used as a person uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import wait_until
from web.browser import MISSING, Browser, browser
from web.programs import WEB_APP, Program, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs a browser: {' and '.join(MISSING)} not installed"),
    pytest.mark.timeout(55),
]

BELOW, START, CANCEL, BAR, RESULT = "#below", "#start", "#cancel", "#bar", "#result"

# Each value that the bar leaves, in a list.
RECORD_THE_BAR = """
    window.bars = [];
    new MutationObserver(changes => window.bars.push(...changes.map(change => Number(change.oldValue))))
        .observe(document.querySelector("#bar"), {attributeFilter: ["value"], attributeOldValue: true});
"""


def test_a_person_counts_primes_cancels_and_closes_the_page(tmp_path: Path) -> None:
    with running(tmp_path / "web", WEB_APP) as web, browser() as page:
        page.open(f"http://{web.address}/")
        assert page.label(BELOW) == "Count the prime numbers below"
        assert page.label(BAR) == "Progress"
        assert not page.is_enabled(CANCEL)

        page.run(RECORD_THE_BAR)
        start_counting(page, "20000000")
        wait_until(lambda: page.is_enabled(START), "the end of the count")
        assert page.text(RESULT) == "There are 1,270,607 prime numbers below 20,000,000."
        bars = page.run("return window.bars")
        assert bars == sorted(bars)
        assert len(set(bars)) > 50
        assert page.value(BAR) == 1

        start_counting(page, "1000000001")
        failure = "It failed: the number must be between 1 and 1,000,000,000"
        wait_until(lambda: page.text(RESULT) == failure, "the page's word")

        start_counting(page, "1000000000")
        wait_until_the_bar_moves(page)
        assert not page.is_enabled(START)
        page.click(CANCEL)
        wait_until(lambda: page.text(RESULT) == "Cancelled.", "the page's word")
        wait_until_cancelled(web, 1)

        start_counting(page, "1000000000")
        wait_until_the_bar_moves(page)
        page.close()
        wait_until_cancelled(web, 2)
        web.end()


def start_counting(page: Browser, below: str) -> None:
    page.fill_in(BELOW, below)
    page.click(START)


def wait_until_the_bar_moves(page: Browser) -> None:
    wait_until(lambda: page.value(BAR) > 0, "progress")
    before = page.value(BAR)
    wait_until(lambda: page.value(BAR) > before, "more progress")


def wait_until_cancelled(web: Program, counts: int) -> None:
    wait_until(lambda: web.stats()["cancelled"] == counts, "the count's cancelling")
    wait_until(lambda: web.stats()["in_flight"] == 0, "the end of its last request")
