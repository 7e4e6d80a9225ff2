"""The option chain over REST, against the loopback server: what is listed, left out, and how volatile it says it is.

Expiries and strikes are worked out by hand from the real calendar of July 2024 and the made-up tape around 545.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.brokers.alpaca.market.chain import (
    implied_volatility,
    nearest_expiry,
    read_contracts,
    strikes_around,
)
from daemon.brokers.alpaca.market.feed import with_neighbours
from daemon.brokers.alpaca.rest.client import RestError
from daemon.core.events import Contract, SessionScheduled
from strategies.kit.contract import Bar
from tests.support.alpaca.market_desk import calendar, desk, session

pytestmark = pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning")

DAY = session("2024-07-02")
EXPIRIES = ["2024-07-03", "2024-07-05", "2024-07-08", "2024-07-09", "2024-07-10"]  # 1 to 5 trading days later


def scheduled() -> SessionScheduled:
    return SessionScheduled(0, *calendar().around(DAY.date))


def raw(symbol: object = "SPY240703C00545000", **changes: Any) -> dict[str, Any]:
    return {"symbol": symbol, "status": "active", "tradable": True, "size": "100", "open_interest": "237", **changes}


def contract(strike: int, right: int, expiry: str = "2024-07-03") -> Contract:
    letter = "C" if right > 0 else "P"
    return Contract(
        f"SPY{expiry[2:4]}{expiry[5:7]}{expiry[8:]}{letter}{strike:05d}000", expiry, right, Decimal(strike), 5
    )


async def test_the_configured_expiries_near_the_money_are_listed_with_both_rights(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", -60, rate=1.0) as it:
        listed = await it.chain.listed(scheduled(), 545.0, it.clock.now_ns)
        assert listed is not None
        assert listed.session_date == "2024-07-02"
        assert sorted({c.expiry for c in listed.contracts}) == EXPIRIES
        strikes = {c.strike for c in listed.contracts if c.expiry == "2024-07-03"}
        assert {Decimal(s) for s in range(535, 556)} <= strikes
        assert all(Decimal(512) <= strike <= Decimal(578) for strike in strikes)
        calls = [c.strike for c in listed.contracts if c.right > 0]
        assert sorted(calls) == sorted(c.strike for c in listed.contracts if c.right < 0)
        assert listed.volatility == pytest.approx(0.18, abs=0.02)  # the server's option market has 0.18


async def test_missing_greeks_leave_the_volatility_unknown(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", -60, rate=1.0) as it:
        it.server.faults.add("greeks_missing", times=100_000)
        listed = await it.chain.listed(scheduled(), 545.0, it.clock.now_ns)
        assert listed is not None
        assert listed.volatility is None
        assert "volatility_unknown" in it.log.names()


async def test_snapshots_that_cannot_be_had_do_not_hold_the_contracts_back(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", -60, rate=1.0) as it:
        it.server.faults.add("http_error", status=500, where={"path": "/v1beta1/options/snapshots*"})
        listed = await it.chain.listed(scheduled(), 545.0, it.clock.now_ns)
        assert listed is not None
        assert listed.volatility is None


async def test_a_listing_that_cannot_be_had_is_raised_and_the_feed_asks_again(tmp_path: Path) -> None:
    async with desk(tmp_path, "2024-07-02", -60, rate=1.0) as it:
        it.server.faults.add("http_error", times=3, status=503, where={"path": "/v2/options/contracts*"})
        with pytest.raises(RestError):
            await it.chain.listed(scheduled(), 545.0, it.clock.now_ns)
        it.feed._bars.learn_spot({"SPY": (Bar("SPY", 0, 545.0, 545.0, 545.0, 545.0, 1.0),)})
        await it.feed.schedule(DAY)
        assert [type(event).__name__ for event in it.events] == ["SessionScheduled", "ContractsListed"]
        assert len(it.log.of("chain_unlisted")) == 2


@pytest.mark.parametrize("spot", [0.0, float("nan"), float("inf"), -5.0])
async def test_without_a_price_nothing_is_listed(tmp_path: Path, spot: float) -> None:
    async with desk(tmp_path, "2024-07-02", -60, rate=1.0) as it:
        assert await it.chain.listed(scheduled(), spot, it.clock.now_ns) is None


def test_a_contract_says_itself_by_its_symbol() -> None:
    contracts, odd = read_contracts([raw()], "SPY", EXPIRIES)
    assert contracts == (Contract("SPY240703C00545000", "2024-07-03", +1, Decimal(545), 237),)
    assert odd == []


@pytest.mark.parametrize(
    "item",
    [
        raw("SPY2240703P00280000"),  # an adjusted root, as XOM2241220P00280000 was seen
        raw("SPY240231C00545000"),  # no such day
        raw("QQQ240703C00545000"),
        raw("nonsense"),
        raw(symbol=None),
        raw(tradable=False),
        raw(status="inactive"),
        raw(size="10"),
        {"symbol": "SPY240703C00545000"},
        None,
        "SPY240703C00545000",
    ],
)
def test_an_odd_contract_is_left_out_and_counted(item: object) -> None:
    contracts, odd = read_contracts([item, raw()], "SPY", EXPIRIES)
    assert len(contracts) == 1
    assert len(odd) == 1


@pytest.mark.parametrize("interest", [None, "", "many", 1.5, -3, "9" * 5000])
def test_an_unknown_open_interest_is_none_at_all(interest: object) -> None:
    contracts, _ = read_contracts([raw(open_interest=interest)], "SPY", EXPIRIES)
    assert contracts[0].open_interest == 0


def test_other_expiries_are_left_out_silently() -> None:
    assert read_contracts([raw("SPY240712C00545000")], "SPY", EXPIRIES) == ((), [])


def test_strikes_are_whole_dollars_that_hold_the_span() -> None:
    assert strikes_around(545.5, Decimal("0.02")) == (Decimal(534), Decimal(557))  # 534.59 and 556.41


def test_the_nearest_expiry_has_both_rights_of_a_strike() -> None:
    lone = [contract(545, +1), contract(546, -1), contract(545, +1, "2024-07-05"), contract(545, -1, "2024-07-05")]
    assert nearest_expiry(lone) == "2024-07-05"
    assert nearest_expiry(lone[:2]) is None


def test_the_volatility_is_the_median_of_the_sane_ones() -> None:
    values = [0.1, 0.2, 0.9, None, 0, -1.0, float("nan"), float("inf"), "0.3", True]
    snapshots: dict[str, Any] = {str(n): {"impliedVolatility": value} for n, value in enumerate(values)}
    assert implied_volatility({**snapshots, "odd": None, "none": {}}) == 0.2
    assert implied_volatility({"a": {}}) is None


def test_neighbours_are_two_strikes_on_each_side_with_both_rights_of_the_same_expiry() -> None:
    listed = [contract(k, r, e) for e in EXPIRIES[:2] for k in range(540, 551) for r in (+1, -1)]
    neighbours = with_neighbours(listed, (contract(545, +1).symbol,))
    assert neighbours == {contract(k, r).symbol for k in range(543, 548) for r in (+1, -1)}
    edge = with_neighbours(listed, (contract(540, -1).symbol, "SPY240719P00500000"))
    assert edge == {contract(k, r).symbol for k in (540, 541, 542) for r in (+1, -1)} | {"SPY240719P00500000"}
