"""The market, the accounts and the environments of a server that a person starts for several desks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import simulator.desks_by_hand
from simulator.clock import SimClock
from simulator.data.rest import day_bar
from simulator.desks_by_hand import DESKS, accounts_of, add_own, environment, market_of, names_of
from simulator.prices.market import Market
from simulator.prices.tape import calendar_sessions
from simulator.server import AlpacaServer
from simulator.trading.account import Account
from strategies.kit.contract import Bar
from strategies.kit.units import SECOND_NS
from tests.support.own.files import forgotten_again, write_strategy
from tests.support.simulator.lone_loop import clock_of_loop
from tests.support.simulator.share_days import OPENS, accounts, shares
from tests.support.simulator.stream_clients import PATIENCE_S, Socket, connected


def test_desks_are_named_once_each() -> None:
    assert names_of("scalper, regime") == ["scalper", "regime"]
    for wrong in ("foo", "regime,regime", ","):
        with pytest.raises(ValueError, match="expected each at most once of scalper, rebalancer, regime"):
            names_of(wrong)


def test_a_strategy_of_one_s_own_has_a_desk_with_its_own_cash_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.desks_by_hand.DESKS", dict(DESKS))
    with forgotten_again():
        path = write_strategy(tmp_path / "mine_desk.py", "mine_desk")
        assert add_own(f"{path}:ToyKeeper") == "toy"
        desk = simulator.desks_by_hand.DESKS["toy"]
        assert (desk.strategy, desk.cash, desk.shares) == (f"{path}:STRATEGY", Decimal(50_000), ("SPY",))
        after = "STRATEGY = STRATEGY._replace(desk='scalper')\n"
        with pytest.raises(ValueError, match=r"its desk is 'scalper', like that of option_scalper: rename it"):
            add_own(str(write_strategy(tmp_path / "mine_scalper.py", "mine_scalper", after=after)))


def test_the_scalper_alone_trades_the_tape_as_ever() -> None:
    market = market_of(["scalper"], None, [])
    assert market.days is None
    assert list(market.bars) == ["SPY"]


def test_all_desks_share_one_market_in_which_the_tape_goes_on_where_the_made_up_days_stop() -> None:
    market = market_of(list(DESKS), None, [])
    assert set(market.bars) == {"SPY", "QQQ", "IWM", *DESKS["rebalancer"].shares}
    server = AlpacaServer(market, SimClock.starting_now(market.sessions[-1].open_ns, 1e-6))
    sessions = [session for session in market.sessions if day_bar(server, "SPY", session, market.sessions[-1].open_ns)]
    assert len(sessions) > 400
    tape = market.bars["SPY"]
    begin = next(index for index, session in enumerate(sessions) if session.open_ns == tape[0].start_ns)
    before = day_bar(server, "SPY", sessions[begin - 1], market.sessions[-1].open_ns)
    assert before is not None
    assert before.close == pytest.approx(tape[0].open, abs=0.005)
    assert market.closing_price(sessions[-1].date) == pytest.approx(Decimal(str(tape[-1].close)), abs=Decimal("0.005"))


def test_a_desk_of_shares_by_the_minute_trades_the_tape_alone_and_needs_its_symbols_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert market_of(["online"], None, []).days is None
    assert accounts_of(["online"])["online"].margin == 1
    more = dataclasses.replace(DESKS["online"], taped=("SPY", "QQQ"))
    monkeypatch.setitem(DESKS, "online", more)
    with pytest.raises(ValueError, match="no bar of QQQ, which the desk online trades: found SPY"):
        market_of(["online"], None, [])


def test_orders_of_every_share_of_a_tape_meet_its_own_path_points() -> None:
    sessions = calendar_sessions("2024-07-01", "2024-07-01")
    open_ns = sessions[0].open_ns
    bars = [Bar("SPY", open_ns, 5.0, 5.0, 5.0, 5.0, 1.0), Bar("QQQ", open_ns + 60 * SECOND_NS, 4.0, 4.0, 4.0, 4.0, 1.0)]
    market = Market(bars, sessions=sessions)
    assert market.next_change(open_ns + 45 * SECOND_NS) == open_ns + 60 * SECOND_NS  # only QQQ trades there
    assert market.next_change(open_ns + 105 * SECOND_NS) > open_ns + 390 * 60 * SECOND_NS


def test_real_daily_bars_serve_daily_desks(data_dir: Path) -> None:
    market = market_of(["regime"], None, [data_dir / "etf_daily_2010_2022.parquet"])
    assert sorted(market.bars) == ["IWM", "QQQ", "SPY"]
    assert market.symbol == "SPY"
    assert market.closing_price("2022-12-30") is not None


def test_each_desk_has_an_environment_of_its_own() -> None:
    by_name = accounts_of(["scalper", "rebalancer"])
    assert [account.cash for account in by_name.values()] == [10_000, 1_000_000]
    server = AlpacaServer(shares(), SimClock.starting_now(OPENS["2024-06-03"]), accounts=by_name.values())
    lines = environment(server, by_name["rebalancer"], "daily_rebalancer").splitlines()
    assert "export APCA_API_KEY_ID=PKLOOPREBALANCER" in lines
    assert "export RLTRADER_DESK__STRATEGY=daily_rebalancer" in lines
    assert any(line.endswith("/stream/PA3REBALANCER") for line in lines)
    assert "PA3REBALANCER" not in environment(server)


def test_of_a_fast_clock_a_desk_is_blind_after_no_less_of_the_machine_s_time_than_at_the_usual_speed() -> None:
    (account,) = accounts_of(["scalper"]).values()
    for rate, expected in ((1.0, []), (60.0, []), (240.0, ["export RLTRADER_BROKER__BLIND_MIN=20"])):  # 5 s each
        server = AlpacaServer(shares(), SimClock.starting_now(OPENS["2024-06-03"], rate), accounts=[account])
        lines = environment(server, account).splitlines()
        assert [line for line in lines if "BLIND" in line] == expected
        assert "BLIND" not in environment(server, account, gateway=True)


async def receive(socket: Socket) -> dict[str, Any]:
    """The next message of the trading stream."""
    async with asyncio.timeout(PATIENCE_S):
        message: dict[str, Any] = json.loads(await socket.socket.recv())
    return message


async def listens(socket: Socket, account: Account) -> None:
    """Log in and listen to trade updates."""
    await socket.say({"action": "auth", "key": account.key, "secret": account.secret})
    assert (await receive(socket))["data"]["status"] == "authorized"
    await socket.say({"action": "listen", "data": {"streams": ["trade_updates"]}})
    assert (await receive(socket))["stream"] == "listening"


async def an_opening() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What two accounts hear as time runs over the open: the first of an auction order, the other of a day order."""
    first, second, _ = accounts()
    clock = clock_of_loop(OPENS["2024-06-04"] - 150 * SECOND_NS, 1e-6)
    async with (
        AlpacaServer(shares(), clock, accounts=[first, second]) as server,
        connected(server.trade_stream_url_of(first)) as own_socket,
        connected(server.trade_stream_url_of(second)) as other,
    ):
        await listens(own_socket, first)
        await listens(other, second)
        server.by_hand("place", key=first.key, symbol="AAA", qty="3", side="buy", time_in_force="opg")
        clock.rate = 240.0
        clock.jump_to(OPENS["2024-06-04"] - 10 * SECOND_NS)
        server.matching.changed.set()
        messages = [await receive(own_socket) for _ in range(3)]
        server.by_hand("place", key=second.key, symbol="BBB", qty="1", side="buy")
        return messages, await receive(other)


async def test_an_auction_order_fills_as_time_runs_and_its_account_alone_hears_of_it() -> None:
    messages, other_message = await an_opening()
    assert [message["data"]["event"] for message in messages] == ["accepted", "new", "fill"]
    assert (messages[-1]["data"]["price"], messages[-1]["data"]["position_qty"]) == ("102", "3")
    assert other_message["data"]["order"]["symbol"] == "BBB"
