"""Each defect of a recorded option quote is found, under its own name; a good quote has none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.tapes.quotes.coverage import report_on
from daemon.tapes.quotes.faults import faults, over_time, usable
from daemon.tapes.quotes.reader import QuoteArrays
from daemon.tapes.quotes.spot import forwards, spots
from strategies.kit.contract import Session
from tests.support.quote_files import Quote, rows_of, sessions_in, utc, write_quotes

CALL, PUT = "SPY240816C00550000", "SPY240816P00550000"
OPEN_NS, CLOSE_NS = (int(utc(f"2024-08-15 {at}").timestamp()) * 10**9 for at in ("13:30", "20:00"))
SESSION = Session("2024-08-15", OPEN_NS, CLOSE_NS)
NOON = "2024-08-15 16:00"


def read(tmp_path: Path, quotes: Sequence[Quote], **more: Any) -> QuoteArrays:
    (session,) = sessions_in(write_quotes(tmp_path / "q.parquet", rows_of(quotes, **more)))
    return session


def names(masks: dict[str, np.ndarray[Any, Any]]) -> set[str]:
    return {name for name, mask in masks.items() if mask.any()}


DEFECTS: list[tuple[str, Quote, dict[str, Any]]] = [
    ("symbol", ("SPY1240816C00550000", NOON, 1.0, 1.1), {}),
    ("not_finite", (CALL, NOON, float("nan"), 1.1), {}),
    ("not_finite", (CALL, NOON, -0.01, 1.1), {}),
    ("crossed", (CALL, NOON, 1.2, 1.1), {}),
    ("extremes", (CALL, NOON, 1.0, 1.1), {"low_bid": 1.01, "high_bid": 1.2, "low_ask": 1.1, "high_ask": 1.2}),
    ("extremes", (CALL, NOON, 1.0, 1.1), {"low_bid": 1.0, "high_bid": 1.0, "low_ask": 1.1, "high_ask": 1.09}),
    ("off_minute", (CALL, "2024-08-15 16:00:01", 1.0, 1.1), {}),
    ("expired", ("SPY240814C00550000", NOON, 1.0, 1.1), {}),
    ("strike_grid", ("SPY240816C00550100", NOON, 1.0, 1.1), {}),
    ("strike_grid", ("SPY240816C05500000", NOON, 1.0, 1.1), {"underlying": 551.0}),
    ("impossible", ("SPY240816P00000500", NOON, 0.6, 0.7), {}),
    ("impossible", (CALL, NOON, 552.0, 552.1), {"underlying": 551.0}),
    ("outside", (CALL, "2024-08-15 13:30", 1.0, 1.1), {}),
    ("outside", (CALL, "2024-08-15 20:01", 1.0, 1.1), {}),
    ("zero", (CALL, NOON, 0.0, 0.0), {}),
    ("one_sided", (CALL, NOON, 0.0, 0.1), {}),
    ("one_sided", (CALL, NOON, 0.1, 0.0), {}),
]


@pytest.mark.parametrize(("name", "quote", "more"), DEFECTS)
def test_a_defect_has_its_name_and_no_other_and_is_not_usable(
    tmp_path: Path, name: str, quote: Quote, more: dict[str, Any]
) -> None:
    quotes = read(tmp_path, [quote], **more)
    assert names(faults(quotes, SESSION)) == {name}
    assert not usable(quotes, SESSION).any()


def test_good_quotes_of_the_first_and_the_last_minute_have_no_fault(tmp_path: Path) -> None:
    more = {"low_bid": 0.9, "high_bid": 1.05, "low_ask": 1.1, "high_ask": 1.2, "underlying": 551.0}
    good: list[Quote] = [(CALL, "2024-08-15 13:31", 1.0, 1.1), (PUT, "2024-08-15 20:00", 1.0, 1.1)]
    quotes = read(tmp_path, good, **more)
    assert names(faults(quotes, SESSION)) == set()
    assert usable(quotes, SESSION).tolist() == [True, True]


def test_a_date_without_a_session_is_a_fault_of_every_row(tmp_path: Path) -> None:
    quotes = read(tmp_path, [(CALL, NOON, 1.0, 1.1), (PUT, NOON, 1.0, 1.1)])
    assert faults(quotes, None)["no_session"].tolist() == [True, True]


def test_a_price_that_leaps_and_comes_back_is_found_and_one_that_stays_is_not(tmp_path: Path) -> None:
    mids = [1.0, 2.0, 1.1, 1.1, 3.0, 3.0]
    quotes = read(tmp_path, [(CALL, f"2024-08-15 16:0{i}", mid - 0.05, mid + 0.05) for i, mid in enumerate(mids)])
    assert over_time(quotes)["leaping"].tolist() == [False, True, False, False, False, False]


def moving(minutes: int, drift: float) -> list[Quote]:
    """A call that stands still, and a pair at 555 that puts the underlying at 550 rising by `drift` a minute."""
    quotes: list[Quote] = []
    for minute in range(minutes):
        when, half = f"2024-08-15 16:{minute:02}", drift * minute / 2
        quotes += [(CALL, when, 3.0, 3.1)]
        quotes += [
            ("SPY240816C00555000", when, 20 + half, 20 + half),
            ("SPY240816P00555000", when, 25 - half, 25 - half),
        ]
    return quotes


def test_a_quote_that_stands_while_the_underlying_moves_is_stale_after_a_quarter_of_an_hour(tmp_path: Path) -> None:
    table = read(tmp_path, moving(20, 0.1))  # 0.2 % of 550 are 1.1 USD, reached in minute 11; 15 minutes count as well
    stale = over_time(table)["stale"]
    rows = [str(np.datetime64(int(ns), "ns"))[14:16] for ns in table.end_ns[stale]]
    assert rows == ["15", "16", "17", "18", "19"]
    assert {table.contracts.symbols[code] for code in table.codes[stale]} == {CALL}


def test_a_quote_that_stands_while_the_underlying_stands_is_not_stale(tmp_path: Path) -> None:
    assert not over_time(read(tmp_path, moving(20, 0.0)))["stale"].any()


def test_the_forward_is_that_of_the_three_strikes_nearest_to_the_money(tmp_path: Path) -> None:
    quotes: list[Quote] = []
    for strike, call, put in ((540, 13.0, 2.0), (550, 5.0, 4.0), (555, 2.0, 6.5), (560, 1.0, 30.0)):
        quotes += [(f"SPY240816C00{strike}000", NOON, call, call), (f"SPY240816P00{strike}000", NOON, put, put)]
    table = read(tmp_path, quotes)
    assert set(forwards(table).tolist()) == {551.0}  # of 551, 551 and 550.5; the wide pair at 560 is not asked
    assert set(spots(table).tolist()) == {551.0}


def test_a_crossed_quote_gives_no_price_of_the_underlying(tmp_path: Path) -> None:
    table = read(tmp_path, [(CALL, NOON, 9.0, 5.0), (PUT, NOON, 4.0, 4.0)])
    assert np.isnan(forwards(table)).all()


def test_a_recorded_underlying_wins_over_the_implied_one(tmp_path: Path) -> None:
    table = read(tmp_path, [(CALL, NOON, 5.0, 5.0), (PUT, NOON, 4.0, 4.0)], underlying=549.5)
    assert set(spots(table).tolist()) == {549.5}
    assert set(forwards(table).tolist()) == {551.0}


def test_no_pair_gives_no_price_of_the_underlying(tmp_path: Path) -> None:
    assert np.isnan(spots(read(tmp_path, [(CALL, NOON, 5.0, 5.0)]))).all()


def test_the_report_counts_findings_gaps_and_what_is_covered(tmp_path: Path) -> None:
    whole: list[Quote] = [
        (symbol, str(np.datetime64("2024-08-15T13:31") + minute).replace("T", " "), 5.0, 5.1)
        for minute in range(390)
        for symbol in (CALL, PUT)
    ]
    rows = rows_of([quote for quote in whole if quote[1] != NOON or quote[0] != PUT], underlying=550.0)
    rows[1] |= {"bid": 6.0}
    report = report_on(write_quotes(tmp_path / "q.parquet", rows))
    assert {finding.name: (finding.fault, finding.rows) for finding in report.findings} == {
        "crossed": (True, 1),
        "gaps": (False, 1),
    }
    assert report.findings[0].examples == (f"{PUT} 2024-08-15T13:31:00Z 6 / 5.1",)
    (cover,) = report.coverage
    assert (cover.date, cover.expiry, cover.days, cover.moneyness) == ("2024-08-15", "2024-08-16", 1, "0.5 %")
    assert (cover.contracts, cover.rows, cover.two_sided, cover.possible) == (2, 779, 779, 780)
    assert (report.sessions, report.rows, report.faulty) == (1, 779, 1)
