"""The golden days: whole cents made by integers alone, one observation a decision, and hashes that see changes."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import msgspec
import numpy as np
import pytest

from strategies import daily_rebalancer, regime_switcher
from strategies.golden import (
    GOLDEN_DECISIONS,
    contract_digest,
    contract_hash,
    golden_days,
    golden_observations,
    golden_portfolio,
)
from strategies.kit.contract import Bar, DailySpec, Observation, View
from strategies.kit.daily_features import rebalancer_table, regime_table
from strategies.kit.manifest import decode
from strategies.kit.synthetic import synthetic_days
from strategies.registry import declaration, strategy
from tests.support.paths import REPOSITORY

SPECS = [daily_rebalancer.SPEC, regime_switcher.SPEC]
IDS = [spec.name for spec in SPECS]


def columns(spec: DailySpec) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.float64]]]:
    days = golden_days(spec)
    table = {name: np.full((len(days), len(spec.symbols)), np.nan) for name in ("open", "high", "low", "close")}
    for number, (_, bars) in enumerate(days):
        for bar in bars:
            for name, column in table.items():
                column[number, spec.symbols.index(bar.symbol)] = getattr(bar, name)
    return table


def test_the_first_made_up_day_is_this_one_on_every_platform() -> None:
    first, second = synthetic_days(1, ("A", "B"), [0])
    assert first == Bar("A", 0, *FIRST_A)
    assert second == Bar("B", 0, *FIRST_B)


def by_hand(place: int) -> tuple[float, ...]:
    """The first day of a symbol from Knuth's constants, without the code under test."""
    state, draws = 2 * 2**32 + place, []
    for below in (201, 401, 100, 100, 900_000):
        state = (state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
        draws.append((state >> 33) % below)
    before = 2000 + 1537 * place
    open_cents = before + before * (draws[0] - 100) // 10_000
    close_cents = open_cents + open_cents * (draws[1] - 200) // 10_000
    top = max(open_cents, close_cents) * (10_000 + draws[2]) // 10_000
    bottom = min(open_cents, close_cents) * (10_000 - draws[3]) // 10_000
    return (open_cents / 100, top / 100, bottom / 100, close_cents / 100, 100_000.0 + draws[4])


FIRST_A, FIRST_B = by_hand(0), by_hand(1)


def test_made_up_days_are_valid_whole_cents_that_depend_on_the_seed() -> None:
    bars = list(synthetic_days(7, ("A", "B", "C"), range(300)))
    assert [(bar.start_ns, bar.symbol) for bar in bars[:4]] == [(0, "A"), (0, "B"), (0, "C"), (1, "A")]
    for bar in bars:
        assert 0 < bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
        assert all(price == float(f"{price:.2f}") for price in (bar.open, bar.high, bar.low, bar.close))
    assert bars == list(synthetic_days(7, ("A", "B", "C"), range(300)))
    assert bars[0] != next(synthetic_days(8, ("A", "B", "C"), range(1)))


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_golden_days_are_weekdays_with_all_symbols_until_warm_and_one_missing_since(spec: DailySpec) -> None:
    days = golden_days(spec)
    assert len(days) == spec.history_bars + GOLDEN_DECISIONS
    assert [len(bars) for _, bars in days] == [len(spec.symbols)] * spec.history_bars + [len(spec.symbols) - 1] * 6
    dates = [date.fromisoformat(session.date) for session, _ in days]
    assert [day.weekday() for day in dates] == [number % 5 for number in range(len(days))]
    assert all((session.close_ns - session.open_ns) == 390 * 60_000_000_000 for session, _ in days)
    assert all(session.open_ns - bars[0].start_ns == 570 * 60_000_000_000 for session, bars in days)  # from midnight


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_a_golden_portfolio_is_worth_its_cash_and_shares(spec: DailySpec) -> None:
    prices = {symbol: 10.0 + place for place, symbol in enumerate(spec.symbols)}
    none, invested = (golden_portfolio(spec, prices, decision) for decision in (0, 3))
    assert (none.cash, none.equity, sum(none.shares)) == (spec.capital_usd, spec.capital_usd, 0)
    assert invested.equity == pytest.approx(
        invested.cash + sum(map(float.__mul__, invested.prices, map(float, invested.shares)))
    )
    assert invested.prices == tuple(prices.values())
    assert invested.cash == pytest.approx(spec.capital_usd - 37_037.01)


def test_golden_observations_of_stocks_are_rows_of_the_table_with_growing_masks() -> None:
    spec = daily_rebalancer.SPEC
    observations = golden_observations(strategy(spec.name))
    prices = columns(spec)
    table = rebalancer_table(prices["open"], prices["high"], prices["low"], prices["close"])
    assert len(observations) == GOLDEN_DECISIONS
    for decision, observation in enumerate(observations):
        row, day = observation.array(), spec.history_bars - 1 + decision
        assert row[:700].tobytes() == table.market[day].tobytes()
        assert row[753:].tobytes() == table.tradable[day].tobytes()
        assert row[753:].sum() == 50 - (decision > 0)
        assert row[752] == (day + 1) % 5  # of the next session
    assert observations[0].array()[700] == 1_000_000


def test_golden_observations_of_funds_are_one_sequence_without_any_memory() -> None:
    spec = regime_switcher.SPEC
    observations = golden_observations(strategy(spec.name))
    table = regime_table(columns(spec)["close"])
    assert [observation.hidden for observation in observations] == [b""] * GOLDEN_DECISIONS
    for decision, observation in enumerate(observations):
        assert observation.data[:36] == table[spec.history_bars - 1 + decision].tobytes()
    first = observations[0].array()
    assert first[9:15].tolist() == [1, 0, 0, 0, 0, 0]  # cash alone
    assert observations[-1].array()[14] > 0  # a drawdown: the portfolios' cash shrinks


class Sleeper(regime_switcher.RegimeSwitcher):
    """A strategy that never becomes warm."""

    def observe(
        self, state: regime_switcher.RegimeState, bars: tuple[Bar, ...], view: View
    ) -> tuple[regime_switcher.RegimeState, Observation | None]:
        return state, None


def test_a_daily_strategy_that_is_not_warm_on_the_golden_days_is_named() -> None:
    with pytest.raises(ValueError, match="regime_switcher has no observation after 252 golden sessions"):
        golden_observations(Sleeper())


def test_the_shipped_models_hash_is_still_its_strategys() -> None:
    shelf: Path = REPOSITORY / "onnx_models" / "option_scalper"
    manifest = decode((shelf / (shelf / "current").read_text().strip() / "manifest.json").read_bytes())
    assert manifest.contract_hash == contract_hash(strategy("option_scalper"))


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_the_contract_hash_of_a_daily_strategy_changes_with_all_it_declares(spec: DailySpec) -> None:
    declared = declaration(spec.name)
    digests = {contract_digest(spec, {**declared, entry: "other"}) for entry in declared}
    digests |= {contract_digest(msgspec.structs.replace(spec, capital_usd=1), declared)}
    digests |= {contract_digest(msgspec.structs.replace(spec, continuous=not spec.continuous), declared)}
    assert len(digests | {contract_hash(strategy(spec.name))}) == len(declared) + 3
