"""What calibration finds in quotes that are made of known constants, and what bad quotes change about it: nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.core.instruments.option_market import occ_symbol, price, years_to_expiry
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.files import TapeError
from daemon.tapes.quotes.calibration_file import Calibration, SpreadCell, read_calibration, write_calibration
from daemon.tapes.quotes.tape import closes_in
from tests.support.quote_files import write_quotes
from training.analysis.calibrate import WHOLE, calibrate, implied_volatility
from training.data.quotes.columns import ColumnChoice
from training.data.quotes.convert import convert

SPOT = 550.0
DATES = ("2024-08-12", "2024-08-13", "2024-08-14")
HALF, LEVEL, SKEW = 0.006, 0.18, -0.5  # of the mid; annualised; for each 1.0 of ln(strike / forward)


def volatility(strike: float) -> float:
    return LEVEL + SKEW * math.log(strike / SPOT)


def chain(date: str, half: float = HALF, *, expiry: str = "2024-08-16", level: float = LEVEL) -> list[dict[str, Any]]:
    """Calls and puts of 41 strikes at noon and a minute later, priced with the constants above."""
    session, later, _ = SessionCalendar.load("2024-08-12", "2024-08-30").around(date)
    after = later[: [one.date for one in later].index(expiry) + 1]
    rows = []
    for minute in (150, 151):
        at = session.open_ns + minute * 60 * 10**9
        years = years_to_expiry(at, session, after)
        for strike in range(530, 571):
            for right in (1, -1):
                mid = price(SPOT, strike, years, volatility(strike) + level - LEVEL, right)
                sides = {"bid": mid * (1 - half), "ask": mid * (1 + half), "bid_size": 1, "ask_size": 1}
                symbol = occ_symbol("SPY", expiry, right, Decimal(strike))
                rows.append({"symbol": symbol, "timestamp": at, "source": "hand", **sides})
    return rows


def fitted(tmp_path: Path, rows: Sequence[dict[str, Any]], closes: dict[str, float] | None = None) -> Calibration:
    path = write_quotes(tmp_path / "q.parquet", sorted(rows, key=lambda row: (row["timestamp"], row["symbol"])))
    return calibrate(path, closes or {}, "")


def cells(calibration: Calibration) -> dict[tuple[str, str], SpreadCell]:
    return {(cell.days, cell.moneyness): cell for cell in calibration.spreads if cell.part == WHOLE}


@pytest.mark.parametrize("sigma", [0.05, 0.2, 1.5])
def test_the_implied_volatility_is_the_one_that_made_the_price(sigma: float) -> None:
    strikes, rights = np.array([90.0, 100.0, 110.0] * 2), np.repeat([1, -1], 3)
    mids = np.array([price(100.0, strike, 0.1, sigma, right) for strike, right in zip(strikes, rights, strict=True)])
    mask = mids - np.maximum(rights * (100.0 - strikes), 0) > 1e-9  # far from the money nothing is left of it
    volatilities = implied_volatility(mids, np.full(6, 100.0), strikes, np.full(6, 0.1), rights)
    np.testing.assert_allclose(volatilities[mask], sigma, rtol=1e-4)


def test_a_price_that_no_volatility_makes_has_none() -> None:
    mids = np.array([9.9, 10.0, 100.1, 3.0])  # below the intrinsic value, at it, above the forward; no time left
    years = np.array([0.1, 0.1, 0.1, 0.0])
    volatilities = implied_volatility(mids, np.full(4, 110.0), np.full(4, 100.0), years, np.array([1, 1, 1, 1]))
    assert np.isnan(volatilities[[0, 1, 3]]).all()


def test_the_constants_that_made_the_quotes_are_found(tmp_path: Path) -> None:
    calibration = fitted(tmp_path, [row for date in DATES for row in chain(date)])
    assert calibration.fitted.half_spread == pytest.approx(HALF, abs=1e-6)
    assert (calibration.first_date, calibration.last_date, calibration.sessions) == (DATES[0], DATES[-1], 3)
    (term,) = calibration.terms
    assert term.days == "2 to 5"
    assert term.implied.median == pytest.approx(LEVEL, abs=1e-4)
    assert term.skew is not None
    assert term.skew.median == pytest.approx(SKEW, rel=0.02)
    assert (calibration.fitted.volatility_premium, term.premium) == (None, None)  # without closes
    shares = [cell.share.median for cell in cells(calibration).values()]
    assert shares == [pytest.approx(HALF, abs=1e-6)] * 6  # every distance of the strike up to 5 %
    assert {cell.part for cell in calibration.spreads} == {WHOLE, "middle"}  # noon


def test_the_smallest_half_spread_is_that_of_the_cheapest_options(tmp_path: Path) -> None:
    rows = chain("2024-08-14")
    for row in rows:
        mid = (row["bid"] + row["ask"]) / 2
        if mid < 0.2:
            row |= {"bid": mid - 0.005, "ask": mid + 0.005}
    assert fitted(tmp_path, rows).fitted.half_spread_min_usd == pytest.approx(0.005)


def test_the_premium_is_over_the_twenty_returns_before_the_session(tmp_path: Path) -> None:
    dates = [one.date for one in SessionCalendar.load("2024-07-01", "2024-08-13").sessions if one.date < "2024-08-14"]
    closes = {date: 100.0 * math.exp(0.01 * (number % 2)) for number, date in enumerate(dates[-21:])}
    realised = 0.01 * math.sqrt(20 / 19) * math.sqrt(252)  # twenty returns of 1 % up and down in turns
    calibration = fitted(tmp_path, chain("2024-08-14"), closes)
    assert calibration.fitted.volatility_premium == pytest.approx(LEVEL / realised, abs=1e-3)
    del closes["2024-08-13"]
    assert fitted(tmp_path, chain("2024-08-14"), closes).fitted.volatility_premium is None


def test_bad_quotes_and_one_odd_session_do_not_move_the_result(tmp_path: Path) -> None:
    rows = [row for date in DATES[:2] for row in chain(date)] + chain(DATES[2], half=0.05, level=0.4)
    for row in rows[::40]:
        row |= {"bid": row["ask"] * 3}  # crossed
    calibration = fitted(tmp_path, rows)
    assert calibration.fitted.half_spread == pytest.approx(HALF, abs=1e-6)
    assert calibration.terms[0].implied.median == pytest.approx(LEVEL, abs=1e-3)


def test_a_file_without_a_usable_quote_is_an_error(tmp_path: Path) -> None:
    rows = [row | {"bid": 0.0} for row in chain("2024-08-14")]
    with pytest.raises(TapeError, match="no usable quote"):
        fitted(tmp_path, rows)


def test_the_file_reads_back_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    sealed = write_calibration(path, fitted(tmp_path, chain("2024-08-14")))
    assert read_calibration(path) == sealed
    assert len(sealed.digest) == 64
    path.write_text(path.read_text().replace('"sessions": 1', '"sessions": 2', 1))
    with pytest.raises(TapeError, match="the content was changed after it was written"):
        read_calibration(path)
    path.write_text("{}")
    with pytest.raises(TapeError, match="no calibration"):
        read_calibration(path)
    with pytest.raises(TapeError, match="cannot be read"):
        read_calibration(tmp_path / "none.json")


def test_closes_are_the_last_of_each_session_of_minutes_or_days(tmp_path: Path) -> None:
    path = tmp_path / "bars.csv"
    path.write_text(
        "symbol,timestamp,open,high,low,close,volume\n"
        "SPY,2024-08-14T13:30:00Z,1,1,1,1.5,1\nSPY,2024-08-14T19:59:00Z,1,1,1,2.5,1\n"
        "SPY,2024-08-14T20:00:00Z,1,1,1,9.5,1\nSPY,2024-08-15T04:00:00Z,1,1,1,3.5,1\n"
    )  # 20:00 is after the close; the last row is a day's bar
    assert closes_in(path, "SPY") == {"2024-08-14": 2.5, "2024-08-15": 3.5}


def test_the_recorded_chains_of_2026_give_the_half_spread_that_others_found(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.parquet"
    convert(
        "snapshots", [data_dir / "spy_option_chain_snapshots_2026Feb.parquet"], out, ColumnChoice(), lambda *_: None
    )
    calibration = calibrate(out, {}, "")
    assert calibration.sessions == 2
    assert calibration.fitted.half_spread is not None
    assert (
        0.0025 <= calibration.fitted.half_spread <= 0.0042
    )  # docs/PAPER.md: medians of 0.25 to 0.42 %, found by other means
