"""The broker's ledger, end to end: fees, dividends, splits, exercises, busts and transfers reach their owners."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.alpaca_api.books import AlpacaPosition
from daemon.brokers.alpaca.rest.client import Refused
from daemon.brokers.alpaca.trading.trading import TradingReads
from daemon.core.session import new_york_date
from daemon.gateway.books import GatewayOrder, Ledgers, LinePart, SubAccount, name_of_call
from daemon.gateway.events import CloseTaken, FillsRead, OrderAnswered, Reported, Updated, Warn
from daemon.gateway.parts import LedgerLine, divide
from daemon.gateway.rules import beyond_means
from daemon.gateway.step import Bookkeeper
from simulator.server import AlpacaServer
from simulator.trading.settlement import amend_fill
from simulator.trading.venue import Rules
from strategies.kit.contract import Session
from strategies.kit.units import DAY_NS, MINUTE_NS, SECOND_NS
from tests.support.gateway_stage import CALL, HALF_DAY, OPEN_NS, SESSIONS, Stage, broker, gateway_on, stage, table

CLOSE_NS = SESSIONS[0].close_ns
FILLS = (1000, 1000)
LIMIT = {"type": "limit", "limit_price": "99"}


async def hold(s: Stage, name: str, quantity: int, symbol: str = "SPY") -> None:
    """Buy and wait for it."""
    more = LIMIT if symbol == CALL else {}
    before = s.held(name).get(symbol, Decimal(0))
    await s.place(name, quantity, symbol=symbol, **more)
    await s.until(lambda: s.held(name).get(symbol) == before + quantity)


async def pass_to(s: Stage, ns: int) -> None:
    """Time goes to `ns`, all that lies between happens, and a report is taken."""
    s.broker.clock.jump_to(ns)
    s.broker.back_office.advance(ns)
    await s.gateway.wait_for_report(30)


async def test_a_split_of_what_a_person_holds_too(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.by_hand("place", symbol="SPY", qty="3", side="buy")
        await hold(s, "a", 5)
        await hold(s, "b", 4)
        s.broker.faults.add("split", symbol="SPY", ratio="1.5")
        await s.until(lambda: s.broker.account.quantity("SPY") == 18)
        await s.gateway.wait_for_report(30)
        # 3 for 2 of 5, 4 and 3: 7.5, 6 and 4.5; whole shares for a and b, and main has the half that is left of a's
        assert (s.held("a"), s.held("b"), s.held("main")) == (
            {"SPY": Decimal(7)},
            {"SPY": Decimal(6)},
            {"SPY": Decimal(5)},
        )
        await s.settled()
        rows = (await s.ask("a", "GET", "/v2/account/activities", activity_types="SPLIT"))[1]
        assert [(row["symbol"], row["qty"]) for row in rows] == [("SPY", "2")]
        assert s.verified().difference == ""


async def test_what_was_announced_of_a_split_is_asked_once_for_both_of_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: list[tuple[str, date]] = []
    async with stage(tmp_path) as s:

        async def ratio(symbol: str, day: date) -> str:
            lookups.append((symbol, day))
            return "3/2"

        monkeypatch.setattr(s.gateway.upstream.reads, "ratio", ratio)
        await hold(s, "a", 5)
        s.broker.faults.add("split", symbol="SPY", ratio="1.5")
        await s.until(lambda: s.broker.account.quantity("SPY") == Decimal("7.5"))
        await s.gateway.wait_for_report(30)
        assert (s.held("a"), s.held("main")) == ({"SPY": Decimal(7)}, {"SPY": Decimal("0.5")})
        assert lookups == [("SPY", date(2025, 6, 2))]
        assert s.books.ratios == {}
        assert s.verified().difference == ""


async def test_shares_of_a_spin_off_come_to_who_held_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path) as s:

        async def spin_offs(symbol: str, day: date) -> list[tuple[str, str, str]]:
            assert (symbol, day) == ("OFF", date(2025, 6, 2))
            return [("SPY", "2025-06-03", "1/2")]  # its shares come a day before the ex-date

        monkeypatch.setattr(s.gateway.upstream.reads, "spin_offs", spin_offs)
        s.broker.by_hand("place", symbol="SPY", qty="3", side="buy")
        await hold(s, "a", 5)
        await hold(s, "b", 4)
        s.broker.faults.add("ledger_line", activity_type="SPIN", symbol="OFF", quantity="6")
        await s.until(lambda: s.broker.account.quantity("OFF") == 6)
        await s.gateway.wait_for_report(30)
        # one for two of 5, 4 and 3: whole shares for a and b
        assert [s.held(name).get("OFF") for name in ("a", "b", "main")] == [Decimal(2), Decimal(2), Decimal(2)]
        await s.settled()
        assert (s.books.spun, s.books.ratios) == ({}, {})
        assert (await s.ask("a", "GET", "/v2/account/activities", activity_types="SPIN"))[1][0]["qty"] == "2"
        assert s.verified().difference == ""


async def test_a_merger_whose_lines_come_between_deaths_of_the_gateway_reaches_each(tmp_path: Path) -> None:
    parts = [("SPY", "-7.5", "0"), ("SPY", "-5", "0"), ("NEW", "4", "0"), ("NEW", "2.25", "0"), ("SPY", "0", "1250")]
    async with broker() as there:
        async with gateway_on(there, tmp_path) as s:
            there.by_hand("place", symbol="SPY", qty="3", side="buy")
            await hold(s, "a", 5)
            await s.place("b", "4.5")  # whose desk is dead from now on
            await s.until(lambda: s.held("b").get("SPY") == Decimal("4.5"))
            await s.place("b", 4, "sell", type="stop", stop_price="400", time_in_force="gtc")
            await s.settled()
            cash = {name: account.cash for name, account in s.books.accounts.items()}
        for symbol, quantity, amount in parts:
            there.faults.add("ledger_line", activity_type="MA", symbol=symbol, quantity=quantity, amount=amount)
            there.back_office.advance(there.clock.now_ns())
            async with gateway_on(there, tmp_path) as s:
                await s.settled()
                assert s.log.of("gateway_line_unowned") == []
        # one for two of 5, 4.5 and 3, and 100.00 USD a share
        assert [s.held(name) for name in ("a", "b", "main")] == [
            {"NEW": Decimal(quantity)} for quantity in ("2", "2.25", "2")
        ]
        gains = {name: account.cash - cash[name] for name, account in s.books.accounts.items()}
        assert gains == {"a": Decimal(500), "b": Decimal(450), "main": Decimal(300)}
        assert not there.account.working  # b's stop is of shares that are gone
        assert s.verified().difference == ""


async def test_a_mergers_lines_wait_for_the_answer_of_a_close_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a` has sold its ten when the broker turns what is left, `b`'s ten, into five."""

    async def none_announced(*_: object) -> None:
        return None

    async with broker() as there, gateway_on(there, tmp_path) as s:
        await hold(s, "a", 10)
        await hold(s, "b", 10)
        await s.settled()
        monkeypatch.setattr(s.gateway.upstream, "_announcement", none_announced)  # else a report outlasts the call
        there.faults.add("http_hang", where={"method": "DELETE"}, seconds=60)
        closing = asyncio.create_task(s.ask("a", "DELETE", "/v2/positions/SPY"))
        await s.until(lambda: there.account.quantity("SPY") == 10)
        for symbol, quantity in (("SPY", "-10"), ("NEW", "5")):
            there.faults.add("ledger_line", activity_type="MA", symbol=symbol, quantity=quantity, amount="0")
        there.back_office.advance(there.clock.now_ns())
        await closing
        await s.until(lambda: not s.held("a"))
        await s.until(lambda: bool(s.held("b").get("NEW")))
        assert (s.held("a"), s.held("b"), s.held("main")) == ({}, {"NEW": Decimal(5)}, {})
        await s.settled()


async def test_a_dividend_is_paid_to_who_held(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        await hold(s, "b", 4)
        for books in s.books.held.values():  # held since the day before
            books[:] = [("2025-06-01", holders) for _, holders in books[-1:]]
        cash = {name: s.books.accounts[name].cash for name in ("a", "b")}
        s.broker.faults.add("dividend", symbol="SPY", amount="1.50")
        await s.until(lambda: any(row.fields["activity_type"] == "DIV" for row in s.broker.account.activities))
        await s.gateway.wait_for_report(30)
        assert s.books.accounts["a"].cash - cash["a"] == Decimal("7.50")
        assert s.books.accounts["b"].cash - cash["b"] == Decimal("6.00")
        rows = (await s.ask("b", "GET", "/v2/account/activities", activity_types="DIV"))[1]
        assert [(row["net_amount"], row["qty"]) for row in rows] == [("6", "4")]
        await s.settled()


@pytest.mark.parametrize("before_opening", [False, True])
async def test_a_line_that_is_pending_is_booked_when_it_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_opening: bool
) -> None:
    pays: dict[str, Any] = {
        "id": "20250602000000000::pays", "activity_type": "DIV", "date": "2025-06-02", "symbol": "SPY", "qty": "5",
        "net_amount": "0", "status": "pending",
    }  # fmt: skip
    shown = [pays] if before_opening else []
    read = TradingReads.activities

    async def activities(reads: TradingReads, after_ns: int) -> list[Any]:
        return [*await read(reads, after_ns), *(dict(row) for row in shown)]

    monkeypatch.setattr(TradingReads, "activities", activities)
    async with stage(tmp_path) as s:
        shown[:] = [pays | {"net_amount": "6.00"}]  # what will be paid is not certain yet
        await hold(s, "a", 5)
        await s.settled()
        cash = s.books.sums()[0]
        shown[:] = [pays | {"net_amount": "7.50", "status": "executed"}]
        s.broker.account.cash += Decimal("7.50")
        await s.settled()
        assert s.books.sums()[0] - cash == Decimal("7.50")


async def test_a_deposit_is_mains(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.faults.add("transfer", amount="250")
        await s.until(lambda: s.broker.account.cash == 100250)
        await s.gateway.wait_for_report(30)
        assert s.books.main.cash == 60250
        assert (await s.ask("a", "GET", "/v2/account/activities"))[1] == []
        await s.settled()


async def test_shares_that_came_from_another_broker_cost_a_desk_what_they_cost_there(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        account = s.broker.account
        account.positions["SPY"] = AlpacaPosition("SPY", Decimal(10), Decimal(480))
        fields = {"activity_type": "ACATS", "date": "2025-06-02", "net_amount": "0", "qty": "10", "symbol": "SPY"}
        account.note(s.broker.clock.now_ns(), {**fields, "description": "from elsewhere", "status": "executed"})
        await s.settled()
        await s.gateway.transfer("main", "a", Decimal(0), "SPY", Decimal(10), "anna", "to be traded")
        (position,) = (await s.ask("a", "GET", "/v2/positions"))[1]
        assert (position["qty"], position["avg_entry_price"]) == ("10", "480")
        await s.settled()


@pytest.mark.parametrize("one_id", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_contracts_in_the_money_become_their_holders_shares(tmp_path: Path, late: bool, one_id: bool) -> None:
    rules = Rules(fill_sizes=FILLS, dead_session_s=1.0, late_activities=late, one_id=one_id)
    contract = "SPY250602C00499000"
    async with stage(tmp_path, rules=rules, cash="300000") as s:
        await s.gateway.transfer("main", "a", Decimal(100000), "", Decimal(0), "anna", "room")
        await s.gateway.transfer("main", "b", Decimal(100000), "", Decimal(0), "anna", "room")
        await hold(s, "a", 2, contract)
        await hold(s, "b", 1, contract)
        await pass_to(s, CLOSE_NS + MINUTE_NS)
        assert (s.held("a"), s.held("b")) == ({"SPY": Decimal(200)}, {"SPY": Decimal(100)})
        cash = s.books.accounts["a"].cash
        await s.settled()
        await pass_to(s, SESSIONS[1].open_ns + 5 * MINUTE_NS)  # the ledger's lines come by now: nothing twice
        assert s.books.accounts["a"].cash == cash
        assert (s.held("a"), s.held("b")) == ({"SPY": Decimal(200)}, {"SPY": Decimal(100)})
        await s.settled()
        assert s.verified().difference == ""


async def test_contracts_of_a_half_day_are_over_at_its_close(tmp_path: Path) -> None:
    rules = Rules(fill_sizes=FILLS, dead_session_s=1.0, late_activities=True)  # their lines come a day later
    lapses, exercised = "SPY250602C00510000", "SPY250602C00499000"
    async with stage(tmp_path, rules=rules, cash="300000", sessions=HALF_DAY) as s:
        await s.gateway.transfer("main", "a", Decimal(100000), "", Decimal(0), "anna", "room")
        await hold(s, "a", 1, exercised)
        await s.place("b", 2, symbol=lapses, type="limit", limit_price="1")
        await s.until(lambda: lapses in s.held("b"))
        close_ns = HALF_DAY[0].close_ns
        await pass_to(s, close_ns - MINUTE_NS)
        assert (list(s.held("a")), list(s.held("b"))) == ([exercised], [lapses])
        await pass_to(s, close_ns + MINUTE_NS)
        assert (s.held("a"), s.held("b")) == ({"SPY": Decimal(100)}, {})
        await s.settled()
        await pass_to(s, SESSIONS[1].open_ns + 5 * MINUTE_NS)  # the lines: nothing twice
        assert (s.held("a"), s.held("b")) == ({"SPY": Decimal(100)}, {})
        await s.settled()
        assert s.verified().difference == ""


@pytest.mark.parametrize("late", [False, True])
async def test_contracts_out_of_the_money_lapse(tmp_path: Path, late: bool) -> None:
    rules = Rules(fill_sizes=FILLS, dead_session_s=1.0, late_activities=late)
    contract = "SPY250602C00510000"
    async with stage(tmp_path, rules=rules) as s:
        await s.place("a", 2, symbol=contract, type="limit", limit_price="1")
        await s.until(lambda: s.held("a") == {contract: Decimal(2)})
        await pass_to(s, CLOSE_NS + MINUTE_NS)
        assert s.held("a") == {}
        await pass_to(s, SESSIONS[1].open_ns + 5 * MINUTE_NS)
        await s.settled()


async def test_fees_of_contracts_are_divided_by_them(tmp_path: Path) -> None:
    rules = Rules(fill_sizes=FILLS, dead_session_s=1.0, fee_per_contract=Decimal("0.05"))
    contract = "SPY250603C00500000"
    async with stage(tmp_path, rules=rules) as s:
        await s.place("a", 2, symbol=contract, **LIMIT)
        await s.place("b", 1, symbol=contract, **LIMIT)
        await s.until(lambda: bool(s.held("a")) and bool(s.held("b")))
        cash = {name: s.books.accounts[name].cash for name in ("a", "b")}
        await pass_to(s, CLOSE_NS + MINUTE_NS)
        assert cash["a"] - s.books.accounts["a"].cash == Decimal("0.10")
        assert cash["b"] - s.books.accounts["b"].cash == Decimal("0.05")
        await s.settled()


@pytest.mark.parametrize(("kind", "quantity"), [("trade_bust", 0), ("trade_correct", 4)])
async def test_a_bust_and_a_correction_are_their_owners(tmp_path: Path, kind: str, quantity: int) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "b", 3)
        await hold(s, "a", 4)  # the newest fill is the one that is amended
        s.broker.faults.add(kind, shift="-1.00")
        await s.until(lambda: any(row.amends for row in s.broker.account.activities))
        price = Decimal("499.01")
        await s.until(lambda: s.books.accounts["a"].cash == 20000 - quantity * price)
        assert s.held("a").get("SPY", Decimal(0)) == quantity
        assert s.held("b") == {"SPY": Decimal(3)}
        await s.settled()
        assert s.verified().difference == ""


async def test_nothing_is_moved_while_a_bust_that_takes_it_back_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes, read = asyncio.Event(), TradingReads.order_fills

    async def read_later(reads: TradingReads, order_id: str) -> list[dict[str, Any]]:
        await goes.wait()
        return await read(reads, order_id)

    async with stage(tmp_path) as s:
        await hold(s, "a", 4)
        monkeypatch.setattr(TradingReads, "order_fills", read_later)
        s.broker.faults.add("trade_bust")
        await s.until(lambda: bool(s.books.amending))
        for cash, symbol, quantity in ((Decimal(100), "", 0), (Decimal(0), "SPY", 4)):
            with pytest.raises(ValueError, match="what a has is not known: the broker changed fills of"):
                await s.gateway.transfer("a", "b", cash, symbol, Decimal(quantity), "anna", "")
        goes.set()
        await s.until(lambda: not s.books.amending)
        assert (s.held("a"), s.held("b")) == ({}, {})  # as the broker: b has no shares that nobody can sell
        await s.gateway.transfer("a", "b", Decimal(100), "", Decimal(0), "anna", "")
        await s.settled()


@pytest.mark.parametrize("quantity", [0, 10])
async def test_a_sub_account_that_a_bust_left_short_buys_back_and_no_more(tmp_path: Path, quantity: int) -> None:
    async with stage(tmp_path) as s:
        if quantity:
            s.broker.by_hand("place", symbol="SPY", qty=str(quantity), side="buy")
            await s.until(lambda: s.held("main") == {"SPY": Decimal(quantity)})
        await hold(s, "a", 4)
        purchase = s.broker.account.trades[-1]
        await s.place("a", 4, "sell")
        await s.until(lambda: not s.held("a"))
        amend_fill(s.broker.matching, s.broker.account, purchase, None, s.broker.clock.now_ns())
        await s.until(lambda: s.held("a") == {"SPY": Decimal(-4)})
        await s.gateway.halt("no_new_risk", "of a test", "anna")
        assert (await s.refused("a", 5))[:2] == (403, 40310000)
        await s.place("a", 3)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(-1)})
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY"))[0] == 200
        await s.until(lambda: not s.held("a"))
        assert s.held("main") == ({"SPY": Decimal(quantity)} if quantity else {})
        await s.settled()
        assert s.verified().difference == ""


async def test_cash_and_shares_move_by_name(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.by_hand("place", symbol="SPY", qty="3.5", side="buy")
        await s.until(lambda: s.held("main") == {"SPY": Decimal("3.5")})
        await s.gateway.transfer("main", "a", Decimal(500), "SPY", Decimal(3), "anna", "hers to trade")
        assert (s.held("a"), s.held("main")) == ({"SPY": Decimal(3)}, {"SPY": Decimal("0.5")})
        rows = (await s.ask("a", "GET", "/v2/account/activities"))[1]
        assert sorted((row["activity_type"], row["net_amount"], row.get("qty")) for row in rows) == [
            ("JNLC", "500", None),
            ("JNLS", "0", "3"),
        ]
        await s.place("a", 3, "sell")
        await s.until(lambda: not s.held("a"))
        await s.settled()
        for cash, symbol, quantity, words in (
            ("999999", "", "0", "a has"),
            ("0", "SPY", "1", "a has 0 SPY"),
            ("-1", "", "0", "above 0"),
        ):
            with pytest.raises(ValueError, match=words):
                await s.gateway.transfer("a", "b", Decimal(cash), symbol, Decimal(quantity), "anna", "")
        with pytest.raises(ValueError, match="whole shares"):
            await s.gateway.transfer("main", "b", Decimal(0), "SPY", Decimal("0.5"), "anna", "")


async def test_cash_that_was_withdrawn_does_not_move_from_main_before_its_line(tmp_path: Path) -> None:
    """`main` has 60,000 by the books; with 50,000 of them gone, 30,000 more for `a` would be `b`'s."""
    async with stage(tmp_path) as s:
        s.broker.account.cash -= 50000
        await s.gateway.wait_for_report(30)
        with pytest.raises(ValueError, match="at the broker: cash of main moves once both agree"):
            await s.gateway.transfer("main", "a", Decimal(30000), "", Decimal(0), "anna", "")
        await s.gateway.transfer("a", "main", Decimal(5), "", Decimal(0), "anna", "")
        s.broker.account.cash += 50000
        await s.gateway.wait_for_report(30)
        await s.gateway.transfer("main", "a", Decimal(30000), "", Decimal(0), "anna", "")
        await s.settled()


async def test_shares_move_once_the_line_of_their_split_is_there(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        late = s.broker.faults.add("action_line_late", until_ns=2**62, where={"symbol": "SPY"})
        await asyncio.sleep(1)
        s.broker.faults.add("split", symbol="SPY", ratio="2")
        await s.until(lambda: s.broker.account.quantity("SPY") == 10)
        await s.gateway.wait_for_report(30)
        move = ("a", "b", Decimal(0), "SPY", Decimal(5), "anna", "")
        with pytest.raises(
            ValueError, match="SPY 5 in the sub-accounts, 10 at the broker: shares move once both agree"
        ):
            await s.gateway.transfer(*move)
        s.broker.faults.remove(late)
        await s.settled()
        await s.gateway.transfer(*move)
        assert (s.held("a"), s.held("b")) == ({"SPY": Decimal(5)}, {"SPY": Decimal(5)})
        await s.settled()


@pytest.mark.parametrize("days", [1, 2, 5])
async def test_a_split_is_booked_however_many_days_late_its_line_is_told(tmp_path: Path, days: int) -> None:
    opens = [OPEN_NS + day * DAY_NS for day in range(8) if day not in (5, 6)]
    week = [Session(new_york_date(ns).isoformat(), ns, ns + 390 * MINUTE_NS) for ns in opens]
    async with stage(tmp_path, sessions=week) as s:
        await hold(s, "a", 10)
        await hold(s, "b", 4)
        late = s.broker.faults.add("action_line_late", until_ns=2**62, where={"symbol": "SPY"})
        s.broker.faults.add("split", symbol="SPY", ratio="2")
        await s.until(lambda: s.broker.account.quantity("SPY") == 28)
        for _ in range(days):
            await asyncio.sleep(150)
            s.broker.clock.jump_to(s.broker.clock.now_ns() + DAY_NS)
        await asyncio.sleep(150)
        assert s.books.doubts
        s.broker.faults.remove(late)
        await asyncio.sleep(150)
        assert (s.held("a"), s.held("b")) == ({"SPY": Decimal(20)}, {"SPY": Decimal(8)})
        await s.settled()


async def test_a_difference_that_nothing_explains_denies_new_risk_and_is_named(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 2)
        s.broker.account.cash -= Decimal("0.01")
        await s.gateway.wait_for_report(30)
        assert not s.books.doubts  # it may be news on its way
        await asyncio.sleep(11)
        await s.gateway.wait_for_report(30)
        assert s.books.doubts == ("cash 98999.98 in the sub-accounts, 98999.97 at the broker",)
        assert "sub-accounts and broker differ: cash 98999.98" in (await s.refused("b", 1))[2]
        await s.place("a", 2, "sell")
        await s.until(lambda: not s.held("a"))
        s.broker.account.cash += Decimal("0.01")
        await s.gateway.wait_for_report(30)
        await s.place("b", 1)


async def differs(s: Stage) -> str:
    """Two reports, ten seconds apart, show the only difference that there is: it lasts. Returns it in words."""
    await s.gateway.wait_for_report(30)
    assert not s.books.doubts
    await pass_to(s, s.gateway.now_ns() + 11 * SECOND_NS)
    (words,) = s.books.doubts
    return words


async def test_what_no_line_explains_is_mains_by_a_persons_word_and_all_trade_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 2)
        s.broker.account.cash -= Decimal("7.25")
        await s.gateway.wait_for_report(30)
        with pytest.raises(ValueError, match=r"98992\.73 at the broker: it is too new"):
            await s.gateway.accept("cash", Decimal("98992.73"), "main", "anna", "")
        words = await differs(s)
        for asset, figure, account, wrong in (
            ("SPY", "2", "main", "books and broker agree on it, as far as a report tells: cash 98999.98 in"),
            ("cash", "98992.74", "main", "the broker has 98992.73 now, and not 98992.74: look again"),
            ("cash", "98992.73", "c", "c is no sub-account: expected one of main, a, b"),
        ):
            with pytest.raises(ValueError, match=wrong):
                await s.gateway.accept(asset, Decimal(figure), account, "anna", "")
        assert words in (await s.refused("b", 1))[2]
        await s.gateway.accept("cash", Decimal("98992.73"), "main", "anna", "a fee on the page, and no line")
        assert (s.books.main.cash, s.books.accounts["a"].cash) == (Decimal("59992.75"), Decimal("18999.98"))
        (line,) = s.books.main.activities
        assert (line.fields["activity_type"], line.fields["net_amount"]) == ("JNLC", "-7.25")
        assert line.fields["description"] == "a fee on the page, and no line"
        await s.place("b", 1)
        await s.until(lambda: s.held("b") == {"SPY": Decimal(1)})
        await s.settled()
        assert s.verified().difference == ""


async def test_shares_of_a_bust_from_before_the_opening_are_gone_by_a_persons_word(tmp_path: Path) -> None:
    def prepared(broker: AlpacaServer) -> None:
        broker.by_hand("place", symbol="SPY", qty="3", side="buy")

    async with stage(tmp_path, prepared=prepared) as s:
        await s.until(lambda: s.broker.account.quantity("SPY") == 3)
        await hold(s, "a", 2)
        account = s.broker.account
        account.positions["SPY"] = dataclasses.replace(
            account.positions["SPY"], qty=Decimal(4)
        )  # one share of before is busted
        assert await differs(s) == "SPY 5 in the sub-accounts, 4 at the broker"
        await s.place("a", 1, "sell")  # the way out stays
        await s.until(lambda: s.held("a") == {"SPY": Decimal(1)})
        with pytest.raises(ValueError, match="it is too new, and news may be on its way"):
            await s.gateway.accept("SPY", Decimal(3), "main", "anna", "bust")
        await s.gateway.wait_for_report(30)
        cash = s.books.accounts["a"].cash
        await s.gateway.accept("SPY", Decimal(3), "main", "anna", "bust")
        assert (s.held("a"), s.held("main")) == ({"SPY": Decimal(1)}, {"SPY": Decimal(2)})
        assert s.books.accounts["a"].cash == cash
        await s.settled()
        await s.place("b", 1)
        assert s.verified().difference == ""


async def test_shares_that_main_cannot_lack_are_taken_from_whom_a_person_names(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 5)
        await hold(s, "b", 4)
        await s.place("a", 5, "sell", type="limit", limit_price="900", time_in_force="gtc")
        s.broker.account.positions["SPY"] = dataclasses.replace(s.broker.account.positions["SPY"], qty=Decimal(7))
        words = await differs(s)
        with pytest.raises(ValueError, match="main has 0: name whose it was with --account: a has 5, b has 4"):
            await s.gateway.accept("SPY", Decimal(7), "main", "anna", "")
        await s.gateway.accept("SPY", Decimal(7), "a", "anna", "taken by the broker")
        assert (s.held("a"), s.held("b"), s.held("main")) == ({"SPY": Decimal(3)}, {"SPY": Decimal(4)}, {})
        (line,) = [x for x in s.books.accounts["a"].activities if x.fields["activity_type"] == "JNLS"]
        assert (line.fields["qty"], line.fields["symbol"]) == ("-2", "SPY")
        await s.until(lambda: not s.books.working("SPY"))  # the sale of five would have sold two of b's
        assert words not in s.books.doubts
        assert s.books.day[1] == 40000 - 2 * s.books.marks["SPY"]  # neither gain nor loss of the day
        await s.settled()
        assert s.verified().difference == ""


@pytest.mark.parametrize("ratio", ["2", "0.5"])
async def test_a_split_whose_line_is_to_come_is_nobodys_to_accept_for_two_days(tmp_path: Path, ratio: str) -> None:
    async with stage(tmp_path) as s:
        await hold(s, "a", 4)
        await s.gateway.wait_for_report(30)
        position = s.broker.account.positions["SPY"]
        shares = 4 * Decimal(ratio)
        s.broker.account.positions["SPY"] = dataclasses.replace(
            position, qty=shares, average=position.average / Decimal(ratio)
        )
        await differs(s)
        for days in (0, 1):
            await pass_to(s, OPEN_NS + days * DAY_NS + 20 * MINUTE_NS)
            with pytest.raises(ValueError, match="looks like a split, as all cost what they did: until 2025-06-04 its"):
                await s.gateway.accept("SPY", shares, "a", "anna", "")
        await pass_to(s, OPEN_NS + 2 * DAY_NS + 20 * MINUTE_NS)
        await s.gateway.accept("SPY", shares, "a", "anna", "no line came")
        assert s.held("a") == {"SPY": shares}
        await s.settled()


async def test_what_fills_after_an_amendment_is_booked_and_an_old_fill_that_comes_again_is_not(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.faults.add("fill_partial", quantity=2, then_held=True)
        row = await s.place("a", 5, type="limit", limit_price="500.01")
        await s.until(lambda: s.held("a") == {"SPY": Decimal(2)})
        s.broker.faults.add("trade_correct", shift="-1.00")
        await s.until(lambda: s.books.accounts["a"].cash == 20000 - 2 * Decimal("499.01"))
        first = next(r for r in s.broker.account.activities if r.fields["activity_type"] == "FILL")
        order = s.broker.account.orders[row["id"]]
        again = {"event": "partial_fill", "execution_id": "x", "timestamp": first.fields["transaction_time"]}
        again |= {"qty": "2", "price": "500.01", "order": order.shown() | {"filled_qty": "2"}}
        s.gateway._on_update(again)
        s.broker.faults.add("update_lost", where={"event": "fill"})
        order.held = False
        s.broker.matching.fill(s.broker.account, order, Decimal(3), Decimal(500), s.broker.clock.now_ns())
        await s.settled()  # the ledger alone has the second fill
        assert s.held("a") == {"SPY": Decimal(5)}
        assert s.verified().difference == ""


# --- contracts that end -----------------------------------------------------------------------------------------------

IN_THE_MONEY = "SPY250602C00490000"
SOON_NS = CLOSE_NS - 44 * MINUTE_NS


async def test_a_contract_that_its_sub_account_could_not_exercise_is_sold_before_its_end_and_no_other(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, table("a", "20000"), table("b", "60000"), cash="300000") as s:
        put = IN_THE_MONEY.replace("C00490000", "P00510000")
        for name, symbol in (("a", IN_THE_MONEY), ("a", CALL), ("a", put), ("b", IN_THE_MONEY)):
            await s.place(name, 1, symbol=symbol, type="limit", limit_price="20")
        await s.until(lambda: (len(s.held("a")), len(s.held("b"))) == (3, 1))
        rests = await s.place("a", 1, "sell", symbol=IN_THE_MONEY, type="limit", limit_price="99")
        await pass_to(s, SOON_NS - 2 * MINUTE_NS)  # too early for the gateway
        # the broker has looked: a put asks for 100 shares, and nobody in the account has any; 49,000 USD it has
        await s.until(lambda: s.held("a").keys() == {IN_THE_MONEY, CALL})
        await pass_to(s, SOON_NS)
        # a call of 490 asks for 49,000 USD: a has less than 20,000, b has 60,000
        await s.until(lambda: s.held("a") == {CALL: Decimal(1)})  # at the money: it lapses
        assert s.held("b") == {IN_THE_MONEY: Decimal(1)}
        assert s.books.orders[rests["client_order_id"]].status == "canceled"
        assert [entry["detail"] for entry in s.log.of("gateway_sells_out")] == [
            f"a: {IN_THE_MONEY} ends today in the money, and a has not what its exercise takes: it is sold"
        ]
        await pass_to(s, CLOSE_NS - 30 * MINUTE_NS)
        await s.settled()
        assert (s.held("a"), s.held("b"), s.held("main")) == ({CALL: Decimal(1)}, {IN_THE_MONEY: Decimal(1)}, {})


@pytest.mark.parametrize("side", ["bid", "ask"])
async def test_a_quote_of_one_side_is_no_price_by_which_a_contract_is_sold_or_left(tmp_path: Path, side: str) -> None:
    """Half of 500 USD is out of the money for the call of 490, and in the money for the put of 490."""
    async with stage(tmp_path, table("a", "20000"), cash="300000") as s:
        out = IN_THE_MONEY.replace("C004", "P004")
        for symbol in (IN_THE_MONEY, out):
            await s.place("a", 1, symbol=symbol, type="limit", limit_price="20")
        await s.until(lambda: len(s.held("a")) == 2)
        s.broker.faults.add("quote_one_sided", times=2, where={"stream": "rest", "symbol": "SPY"}, side=side)
        await pass_to(s, SOON_NS)
        for _ in range(4):
            await asyncio.sleep(3)
            await s.gateway.wait_for_report(30)
        await s.until(lambda: s.held("a").keys() == {out})
        assert s.broker.faults.met["quote_one_sided"] == 2
        assert {order.symbol for order in s.books.orders.values() if order.side == "sell"} == {IN_THE_MONEY}


async def test_an_index_without_a_quote_keeps_no_other_contract_from_being_sold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path, table("a", "20000"), cash="300000") as s:
        await s.place("a", 1, symbol=IN_THE_MONEY, type="limit", limit_price="20")
        await s.until(lambda: bool(s.held("a")))
        s.books.book("a", "SPXW250602C05000000", LinePart(Decimal(1)))
        market = s.gateway.upstream.market
        ask = market.latest_quotes

        async def stocks_alone(symbols: tuple[str, ...], feed: str) -> dict[str, Any]:
            if "SPXW" in symbols:
                raise Refused(400, None, "invalid symbol: SPXW", {})
            return await ask(symbols, feed)

        monkeypatch.setattr(market, "latest_quotes", stocks_alone)
        await pass_to(s, SOON_NS)
        await s.until(lambda: s.held("a").keys() == {"SPXW250602C05000000"})


async def test_what_the_broker_sells_of_its_own_accord_is_the_holders(tmp_path: Path) -> None:
    put = IN_THE_MONEY.replace("C00490000", "P00510000")
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 1, symbol=put, type="limit", limit_price="20")
            await s.until(lambda: bool(s.held("a")))
            cash = s.books.accounts["a"].cash
        alpaca.clock.jump_to(CLOSE_NS - 59 * MINUTE_NS)  # while the gateway is away
        alpaca.back_office.advance(CLOSE_NS - 59 * MINUTE_NS)
        await asyncio.sleep(1)
        assert not alpaca.account.positions
        async with gateway_on(alpaca, tmp_path) as s:
            await s.settled()
            assert (s.held("a"), s.held("main"), s.books.main.cash) == ({}, {}, Decimal(60000))
            assert s.books.accounts["a"].cash == cash + alpaca.account.trades[-1].price * 100
            alpaca.by_hand("place", symbol=CALL, qty="1", side="buy")
            await s.until(lambda: s.held("main") == {CALL: Decimal(1)})
            alpaca.by_hand("close", symbol=CALL)  # a person's own, on its last day too
            await s.until(lambda: not s.held("main"))
            await s.settled()
            assert (s.held("a"), s.held("main")) == ({}, {})
            assert s.verified().difference == ""


async def test_what_a_person_bought_and_sold_on_a_contracts_last_day_is_not_a_desks_sale(tmp_path: Path) -> None:
    async with broker() as there:
        async with gateway_on(there, tmp_path) as s:
            await hold(s, "a", 2, CALL)
        there.by_hand("place", symbol=CALL, qty="2", side="buy", **LIMIT)
        await asyncio.sleep(1)
        there.by_hand("place", symbol=CALL, qty="2", side="sell")
        await asyncio.sleep(1)
        async with gateway_on(there, tmp_path) as s:  # one report has both
            assert (s.held("a"), s.held("main")) == ({CALL: Decimal(2)}, {})
            await s.settled()


async def test_what_the_broker_sells_of_several_is_each_ones(tmp_path: Path) -> None:
    put = IN_THE_MONEY.replace("C00490000", "P00510000")
    async with broker() as alpaca, gateway_on(alpaca, tmp_path) as s:
        for name, count in (("a", 1), ("b", 2)):
            await s.place(name, count, symbol=put, type="limit", limit_price="20")
        await s.until(lambda: bool(s.held("a")) and s.held("b") == {put: Decimal(2)})
        cash = {name: s.books.accounts[name].cash for name in ("a", "b")}
        alpaca.clock.jump_to(CLOSE_NS - 59 * MINUTE_NS)
        alpaca.back_office.advance(CLOSE_NS - 59 * MINUTE_NS)
        await s.until(lambda: not alpaca.account.positions)
        await s.gateway.wait_for_report(30)
        await s.gateway.wait_for_report(30)
        assert (s.held("a"), s.held("b"), s.held("main"), s.books.main.cash) == ({}, {}, {}, Decimal(60000))
        brought = alpaca.account.trades[-1].price * 100
        assert s.books.accounts["a"].cash == cash["a"] + brought
        assert s.books.accounts["b"].cash == cash["b"] + 2 * brought
        await s.settled()
        rows = (await s.ask("b", "GET", "/v2/account/activities", activity_types="OPCSH"))[1]
        assert [(row["symbol"], row["qty"], Decimal(row["net_amount"])) for row in rows] == [(put, "-2", 2 * brought)]
        await pass_to(s, SESSIONS[1].open_ns + 5 * MINUTE_NS)
        await s.settled()
        assert (s.held("a"), s.held("b"), s.books.settled) == ({}, {}, {})
        assert s.verified().difference == ""


async def test_what_the_broker_sells_of_two_contracts_has_a_line_of_each(tmp_path: Path) -> None:
    puts = sorted(IN_THE_MONEY.replace("C00490000", f"P{strike:05}000") for strike in (508, 510))
    async with broker() as alpaca, gateway_on(alpaca, tmp_path) as s:
        for name in ("a", "b"):
            for put in puts:
                await s.place(name, 1, symbol=put, type="limit", limit_price="20")
        await s.until(lambda: all(s.held(name) == dict.fromkeys(puts, Decimal(1)) for name in ("a", "b")))
        alpaca.clock.jump_to(CLOSE_NS - 59 * MINUTE_NS)
        alpaca.back_office.advance(CLOSE_NS - 59 * MINUTE_NS)
        await s.until(lambda: not alpaca.account.positions)
        await s.gateway.wait_for_report(30)
        await s.until(lambda: (s.held("a"), s.held("b"), s.held("main")) == ({}, {}, {}))
        rows = (await s.ask("b", "GET", "/v2/account/activities", activity_types="OPCSH"))[1]
        assert sorted(row["symbol"] for row in rows) == puts
        assert len({row["id"] for row in rows}) == 2


async def test_a_contract_that_is_not_to_be_exercised_is_left_alone(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 1, symbol=IN_THE_MONEY, type="limit", limit_price="20")
            await s.until(lambda: bool(s.held("a")))
            assert (await s.ask("a", "POST", f"/v2/positions/{IN_THE_MONEY}/do-not-exercise"))[0] == 200
        async with gateway_on(alpaca, tmp_path) as s:  # which has not forgotten it
            await pass_to(s, SOON_NS)
            for _ in range(3):
                await s.gateway.wait_for_report(30)
                await asyncio.sleep(1)
            assert s.held("a") == {IN_THE_MONEY: Decimal(1)}
            assert not s.log.of("gateway_sells_out")
            assert s.verified().difference == ""


def test_means_are_spent_once() -> None:
    books = Ledgers(now_ns=OPEN_NS, accounts={"a": SubAccount("a", "1-a", cash=Decimal(60000))})
    books.broker_account = {"non_marginable_buying_power": "500000"}
    calls = [IN_THE_MONEY, IN_THE_MONEY.replace("490", "491")]
    for symbol in calls:
        books.accounts["a"].change(symbol, Decimal(1), Decimal(1000))
    spots = {"SPY": Decimal(500)}
    assert beyond_means(books, spots, "2025-06-02") == [("a", calls[1])]  # 49,000 of 60,000, then 49,100 of 11,000
    assert beyond_means(books, spots, "2025-06-03") == []
    assert beyond_means(books, {}, "2025-06-02") == []
    books.broker_account = {"non_marginable_buying_power": "48000"}  # of all sub-accounts together
    assert beyond_means(books, spots, "2025-06-02") == [("a", symbol) for symbol in calls]


def sale_update(order_id: str, name: str, quantity: int) -> dict[str, Any]:
    """News of the stream: all of an order sold at 50.00."""
    at = "2025-06-02T14:00:00Z"
    row = {
        "id": order_id, "client_order_id": name, "symbol": "SPY", "side": "sell", "type": "market", "status": "filled",
        "qty": str(quantity), "filled_qty": str(quantity), "submitted_at": at, "updated_at": at,
    }  # fmt: skip
    return {
        "event": "fill",
        "order": row,
        "qty": str(quantity),
        "price": "50",
        "timestamp": at,
        "execution_id": order_id,
    }


def selling(*holders: str) -> Bookkeeper:
    """Sub-accounts that hold 300 SPY each."""
    accounts = {name: SubAccount(name, f"1-{name}") for name in holders}
    for account in accounts.values():
        account.change("SPY", Decimal(300), Decimal(300))
    return Bookkeeper(Ledgers(now_ns=OPEN_NS, accounts=accounts))


FEE = LedgerLine(
    "x::1", "FEE", "", Decimal(0), Decimal("-0.06"), None, "2025-06-02", "TAF fee for 300 shares", "executed"
)


def paying(machine: Bookkeeper) -> dict[str, Decimal]:
    """Who pays how much of the day's fee."""
    return {name: part.amount for name, part in divide(machine.books, FEE, "").parts.items()}


def test_a_persons_own_sale_pays_its_fee_beside_a_close_call_whose_news_came_before_its_answer() -> None:
    machine = selling("main", "a")
    machine.step(Updated(OPEN_NS, sale_update("1", "by-hand", 200)))
    call = name_of_call("a")
    machine.step(CloseTaken(OPEN_NS, "a", call, "SPY", "sell", Decimal(100)))
    machine.step(Updated(OPEN_NS, sale_update("2", "the-brokers", 100)))
    machine.step(OrderAnswered(OPEN_NS, call, sale_update("2", "the-brokers", 100)["order"]))
    assert paying(machine) == {"main": Decimal("-0.04"), "a": Decimal("-0.02")}


def sale(order_id: str, quantity: str, day: int = 2, cumulative: str = "300", **more: str) -> dict[str, str]:
    """The ledger's line of a sale at 50.00 on this day of June."""
    return {
        "id": f"202506{day:02d}100000000::{order_id}{day}", "activity_type": "FILL", "order_id": order_id,
        "symbol": "SPY", "side": "sell", "qty": quantity, "price": "50", "cum_qty": cumulative,
        "transaction_time": f"2025-06-{day:02d}T14:00:00Z", "type": "fill", **more,
    }  # fmt: skip


def test_a_busted_sale_pays_no_fee() -> None:
    machine = selling("a", "b")
    books = machine.books
    for name in ("a", "b"):
        books.keep(GatewayOrder(name, f"{name}-1", "SPY", "sell", "new", OPEN_NS, id=name, quantity=Decimal(300)))
        books.names[name] = f"{name}-1"
        machine.step(Updated(OPEN_NS, sale_update(name, f"{name}-1", 300)))
    fill = sale("a", "300")
    correction = sale("a", "100", 3, previous_id=fill["id"], status="correct")  # 200 of 300 are taken back
    machine.step(FillsRead(OPEN_NS, "a", [fill, correction]))
    assert paying(machine) == {"a": Decimal("-0.02"), "b": Decimal("-0.04")}  # 0.015 and 0.045
    bust = sale("a", "100", 4, previous_id=correction["id"], status="canceled")
    machine.step(FillsRead(OPEN_NS, "a", [fill, correction, bust]))
    assert paying(machine) == {"b": Decimal("-0.06")}


@pytest.mark.parametrize("busted_day", [2, 3])
def test_a_bust_of_one_of_two_equal_fills_counts_for_the_day_of_that_fill(busted_day: int) -> None:
    machine = selling("a", "b")  # a order that rests fills at its limit, and one day is often like the other
    books, fills = machine.books, [sale("1", "100", 2, "100"), sale("1", "100", 3, "200")]
    books.keep(GatewayOrder("a", "a-1", "SPY", "sell", "new", OPEN_NS, id="1", quantity=Decimal(200)))
    books.names["1"] = "a-1"
    report = Reported(OPEN_NS + DAY_NS, OPEN_NS + DAY_NS, {"cash": "0"}, [], [], fills)
    machine.step(report)
    bust = sale("1", "100", 4, "100", previous_id=fills[busted_day - 2]["id"], status="canceled")
    machine.step(FillsRead(OPEN_NS + 2 * DAY_NS, "1", [*fills, bust]))
    payers = {day: divide(books, replace(FEE, date=f"2025-06-{day:02d}"), "").parts.keys() for day in (2, 3)}
    assert payers == {busted_day: {"main"}, 5 - busted_day: {"a"}}
    sold_by = [books.holders_before("SPY", f"2025-06-{day:02d}").get("a", Decimal(0)) for day in (3, 4)]
    assert sold_by == ([Decimal(0), Decimal(-100)] if busted_day == 2 else [Decimal(-100), Decimal(-100)])
    assert books.accounts["a"].quantity("SPY") == 200


@pytest.mark.parametrize(("fill_day", "gain"), [(2, 200), (3, 100)])
def test_a_correction_is_of_the_fill_that_the_stream_named(fill_day: int, gain: int) -> None:
    machine = selling("a")  # two fills of 100, at 50.00 and 51.00; the ledger's line does not say which became 52.00
    books, fills = machine.books, [sale("1", "100", 2, "100"), sale("1", "100", 3, "200", price="51")]
    books.keep(GatewayOrder("a", "a-1", "SPY", "sell", "new", OPEN_NS, id="1", quantity=Decimal(200)))
    books.names["1"] = "a-1"
    machine.step(Reported(OPEN_NS + DAY_NS, OPEN_NS + DAY_NS, {"cash": "0"}, [], [], fills))
    before, update = books.accounts["a"].cash, sale_update("1", "a-1", 200)
    machine.step(Updated(OPEN_NS + DAY_NS, update | {"event": "trade_correct", "execution_id": f"1{fill_day}"}))
    corrected = sale("1", "100", 4, "200", price="52", status="correct")
    machine.step(FillsRead(OPEN_NS + 2 * DAY_NS, "1", [*fills, corrected]))
    assert books.accounts["a"].cash - before == gain


def test_a_split_that_is_taken_back_leaves_what_a_share_cost() -> None:
    machine = selling("a")
    line = {
        "id": "20250602000000000::1", "activity_type": "SPLIT", "date": "2025-06-02", "symbol": "SPY", "qty": "300",
        "net_amount": "0", "status": "executed",
    }  # fmt: skip
    account, positions = {"cash": "0"}, [{"symbol": "SPY", "qty": "600", "avg_entry_price": "0.5"}]
    for row in (line, {**line, "status": "canceled"}):
        machine.step(Reported(OPEN_NS, OPEN_NS, account, positions, [], [row], {}, []))
    holding = machine.books.accounts["a"].holdings["SPY"]
    assert (holding.qty, holding.average) == (Decimal(300), Decimal(1))


@pytest.mark.parametrize("split_day", [2, 4])
def test_a_split_of_shares_with_a_new_name_that_the_same_report_tells(split_day: int) -> None:
    """As after days without a gateway, or of one night; the ids say nothing of the order."""
    machine = selling("main", "a")
    told = [("4", 2, "NC", "SPY", "-600"), ("3", 2, "NC", "XYZ", "600")]
    told += [("2", split_day, "SPLIT", "XYZ", "-600"), ("1", split_day, "SPLIT", "XYZ", "1200")]
    rows: list[dict[str, Any]] = [
        {
            "id": f"20250602000000000::{name}", "activity_type": kind, "date": f"2025-06-{day:02d}", "symbol": symbol,
            "qty": quantity, "net_amount": "0", "status": "executed",
        }
        for name, day, kind, symbol, quantity in told
    ]  # fmt: skip
    positions = [{"symbol": "XYZ", "qty": "1200", "avg_entry_price": "0.5"}]
    machine.step(Reported(OPEN_NS + 3 * DAY_NS, OPEN_NS + 3 * DAY_NS, {"cash": "0"}, positions, [], rows))
    for name in ("main", "a"):
        holdings = machine.books.accounts[name].holdings
        assert {symbol: (it.qty, it.average) for symbol, it in holdings.items()} == {
            "XYZ": (Decimal(600), Decimal("0.5"))
        }
    assert machine.books.differences == {}


def told(number: int, kind: str, symbol: str, quantity: str, amount: str = "0", **more: str) -> dict[str, str]:
    """A line of the broker's ledger of June 2nd."""
    return {
        "id": f"2025060200000{number:04d}::{number}", "activity_type": kind, "date": "2025-06-02", "symbol": symbol,
        "qty": quantity, "net_amount": amount, "status": "executed", **more,
    }  # fmt: skip


def take(machine: Bookkeeper, minute: int, held: dict[str, int], *lines: dict[str, str], **more: Any) -> list[str]:
    """Take a report of that minute; returns the names of what a person is told."""
    at_ns = OPEN_NS + minute * MINUTE_NS
    positions = [{"symbol": symbol, "qty": str(quantity), "avg_entry_price": "1"} for symbol, quantity in held.items()]
    cash = {"cash": str(machine.books.sums()[0] + sum(Decimal(line.get("net_amount", "0")) for line in lines))}
    effects = machine.step(Reported(at_ns, at_ns, cash, positions, more.pop("orders", []), list(lines), **more))
    return [effect.name for effect in effects if isinstance(effect, Warn)]


TWO_CALLS = "SPY250620C00500000"


@pytest.mark.parametrize(
    ("line", "back"),
    [
        (("DIV", "SPY", "600", "90.00"), ("DIV", "SPY", "-600", "-90.00")),
        (("DIV", "SPY", "600", "90.00"), ("CORR", "SPY", "0", "-90.00")),
        (("INT", "", "0", "30.00"), ("INT", "", "0", "-30.00")),
        (("OPEXP", TWO_CALLS, "-2"), ("OPEXP", TWO_CALLS, "2")),
    ],
)
def test_what_takes_a_line_back_is_of_whom_that_one_was(line: tuple[str, ...], back: tuple[str, ...]) -> None:
    machine = selling("a", "b")
    books = machine.books
    books.accounts["a"].cash = Decimal(1000)
    books.book("a", TWO_CALLS, LinePart(Decimal(2), cost=Decimal(400)))
    books.held["SPY"] = [("2025-05-01", {"a": Decimal(600)}), ("2025-05-20", {"a": Decimal(300), "b": Decimal(300)})]
    before = {name: (account.cash, dict(account.holdings)) for name, account in books.accounts.items()}
    first = told(1, *line)
    there = {"SPY": 600, TWO_CALLS: 0 if line[0] == "OPEXP" else 2}
    take(machine, 0, {s: q for s, q in there.items() if q}, first, ex_dates={first["id"]: "2025-05-20"})
    assert books.accounts["a"].cash + books.accounts["a"].quantity(TWO_CALLS) != 1002  # the line was a's
    books.accounts["b"].cash += 5000  # a transfer, and b earns from now on
    assert take(machine, 1, {"SPY": 600, TWO_CALLS: 2}, told(2, *back)) == []
    books.accounts["b"].cash -= 5000
    after = {name: (account.cash, dict(account.holdings)) for name, account in books.accounts.items()}
    assert after == before
    take(machine, 2, {"SPY": 600, TWO_CALLS: 2}, told(3, "DIV", "SPY", "-600", "-90.00"))  # what was taken back is over
    assert books.accounts["b"].cash == before["b"][0] - 45


def stop_row(symbol: str, status: str, **more: str) -> dict[str, Any]:
    at = "2025-06-02T13:30:00Z"
    return {
        "id": "1", "client_order_id": "a-1", "symbol": symbol, "side": "sell", "type": "stop", "stop_price": "80",
        "qty": "300", "filled_qty": "0", "status": status, "submitted_at": at, "updated_at": at, **more,
    }  # fmt: skip


@pytest.mark.parametrize("dead", [False, True])
def test_an_order_that_the_broker_keeps_under_a_new_name_sells_the_shares_of_that_name(dead: bool) -> None:
    machine = selling("main", "a")
    books = machine.books
    order = GatewayOrder("a", "a-1", "SPY", "sell", "new", OPEN_NS - DAY_NS, quantity=Decimal(300))
    books.keep(order)
    books.show(order, stop_row("SPY", "new"))
    names = told(1, "NC", "SPY", "-600"), told(2, "NC", "NEW", "600")
    at = "2025-06-02T14:00:00Z"
    row = stop_row("NEW", "filled", filled_qty="300", updated_at=at)
    if not dead:
        take(machine, 0, {"NEW": 600}, *names, orders=[stop_row("NEW", "new")])
        assert books.free("a", "NEW") == 0  # the stop keeps them
        update = {"event": "fill", "order": row, "qty": "300", "price": "80", "timestamp": at, "execution_id": "x"}
        machine.step(Updated(OPEN_NS, update))
        take(machine, 1, {"NEW": 300})
    else:  # all of it was while nothing of the gateway ran
        fill = {**sale("1", "300", symbol="NEW", price="80"), "transaction_time": at}
        take(machine, 1, {"NEW": 300}, *names, fill, orders=[row])
    assert {name: dict(account.holdings).keys() for name, account in books.accounts.items()} == {
        "main": {"NEW"}, "a": set()
    }  # fmt: skip
    assert books.accounts["a"].cash == 300 * 80
    assert books.sums()[1] == {"NEW": Decimal(300)}


def test_a_fee_whose_cash_was_read_before_its_line_is_no_rounding() -> None:
    machine = selling("main", "a")
    machine.books.uneven = 6  # fills of fractions, whose cents the broker rounds
    fee = {"id": "x::1", "activity_type": "FEE", "date": "2025-06-02", "net_amount": "-0.06", "status": "executed"}
    positions = [{"symbol": "SPY", "qty": "600", "avg_entry_price": "1"}]
    for minute, (cash, lines) in enumerate((("0", [fee]), ("-0.06", []))):
        at_ns = OPEN_NS + minute * MINUTE_NS
        machine.step(Reported(at_ns, at_ns, {"cash": cash}, positions, [], lines, {}, []))
    assert (machine.books.differences, machine.books.main.cash) == ({}, Decimal("-0.06"))


async def test_a_stop_that_is_done_for_each_day_keeps_its_shares(tmp_path: Path) -> None:
    rules = Rules(fill_sizes=(1000, 1000), dead_session_s=1.0, gtc_ends_days=True)
    async with stage(tmp_path, rules=rules) as s:
        await hold(s, "a", 5)
        await s.place("a", 5, "sell", type="stop", stop_price="400", time_in_force="gtc", client_order_id="stop")
        await pass_to(s, CLOSE_NS + MINUTE_NS)
        assert (s.books.orders["stop"].row["status"], s.books.orders["stop"].open) == ("done_for_day", True)
        assert (await s.ask("a", "GET", "/v2/positions/SPY"))[1]["qty_available"] == "0"
        await pass_to(s, SESSIONS[1].open_ns + MINUTE_NS)
        assert (await s.refused("a", 5, "sell"))[0] == 403
        assert s.books.orders["stop"].open
