"""The pages of a desk that holds fractions of shares, in a real browser: all decimals stand there, and none is cut.

The figures are those of `tests.support.core.fractions_desk`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import LIMIT_MS, Watched, chromium, dashboard
from tests.support.core import fractions_desk
from tests.support.ports import free_port
from tests.support.toy.registered import registered


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A page of the desk's dashboard, on which nothing went wrong at the end."""
    folder = tmp_path_factory.mktemp("fractions")
    with registered(shelf=fractions_desk.__name__):
        fractions_desk.played().write(folder)
    with dashboard(free_port(), folder) as address, chromium() as browser:
        tab = Watched(browser.new_page(), address)
        tab.page.set_default_timeout(LIMIT_MS)
        yield tab
        assert tab.troubles == []


def text_of(page: Page, selector: str) -> str:
    text: str = page.locator(selector).first.inner_text()
    return " ".join(text.split())


def test_what_is_held_stands_there_with_all_decimals(tab: Watched) -> None:
    page = tab.open("now", '[data-symbol="CCC"]')
    assert "open: 3.35" in text_of(page, '[data-symbol="CCC"]')
    assert "open: 10 of 12.25" in text_of(page, '[data-symbol="BBB"]')


def test_trades_and_their_open_parts_have_all_decimals(tab: Watched) -> None:
    page = tab.open("trades", "#trips tr[data-trade]")
    text = text_of(page, "#trips")
    assert "0.3335 AAA" in text
    assert "10 of 12.25" in text
    assert "1.0 days" in text  # as `rltraderctl trades` says it


def test_the_orders_of_a_basket_and_its_target_have_all_decimals(tab: Watched) -> None:
    page = tab.open("decision/1", "tr[data-order]")
    expect(page.locator("tr[data-order]")).to_have_count(3)
    text = text_of(page, "main")
    for words in ("0.3335 AAA", "12.25 BBB", "3 CCC", "3 orders, $1,558.35"):  # 33.35 + 1,225 + 300
        assert words in text
    quantities = [cell.strip() for cell in page.locator("tr[data-order] td:nth-child(3)").all_inner_texts()]
    assert sorted(quantities) == ["0.3335", "12.25", "3"]


def test_a_chart_of_days_offers_no_session(tab: Watched) -> None:
    page = tab.open("now", "#price [data-groups]")
    expect(page.get_by_label("Symbol", exact=True)).to_be_visible()
    expect(page.get_by_label("Session", exact=True)).to_have_count(0)
    answer = page.evaluate("fetch('/api/bars?view=all&sessions=1').then(answer => answer.json())")
    assert (len(answer["bars"]), answer["sessions"]) == (2, [])  # whichever of two answers comes first
