"""A gateway that dies: what its journal and the broker bring back, and what it does not do twice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.alpaca_api.wire import ZERO
from daemon.gateway import journal, step
from daemon.gateway.books import LinePart
from daemon.gateway.command import ask
from daemon.gateway.events import MAIN, AnyGatewayEvent, Halted, OrderTaken, Suspended, Transferred
from daemon.gateway.journal import event_json, open_journal, read_books, rotate_idle, rotate_when_due, verify
from daemon.gateway.parts import Division
from daemon.host.own_files import StateDirError
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from simulator.trading.settlement import cash_row
from strategies.kit.contract import Session
from strategies.kit.units import DAY_NS, MINUTE_NS, SECOND_NS
from tests.support.desks.desk_run import execute
from tests.support.gateway_stage import CALL, OPEN_NS, PATIENCE_S, SESSIONS, Stage, broker, gateway_on, stage, table
from tests.support.log import LogRecorder


async def test_what_was_done_while_it_was_dead_is_booked_to_its_owner(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 5)
            await s.place("b", 2, type="limit", limit_price="490", client_order_id="rests")
            await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        rests = alpaca.account.by_client_id["rests"]
        alpaca.matching.fill(alpaca.account, rests, Decimal(2), Decimal(490), alpaca.clock.now_ns())
        alpaca.by_hand("place", symbol="SPY", qty="1", side="buy")
        await asyncio.sleep(1)
        async with gateway_on(alpaca, tmp_path) as s:
            assert (s.held("a"), s.held("b"), s.held("main")) == (
                {"SPY": Decimal(5)},
                {"SPY": Decimal(2)},
                {"SPY": Decimal(1)},
            )
            assert s.books.accounts["b"].cash == Decimal(20000) - 980
            rows = (await s.ask("b", "GET", "/v2/account/activities"))[1]
            assert [(row["qty"], row["price"]) for row in rows] == [("2", "490")]
            await s.settled()
            assert s.verified().difference == ""


async def test_after_a_month_away_a_desk_still_finds_its_order_that_filled_meanwhile(tmp_path: Path) -> None:
    days = (("2025-07-02", JULY_NS), ("2025-07-03", JULY_NS + DAY_NS))
    month = [Session(date, open_ns, open_ns + DAY_NS // 4) for date, open_ns in days]
    async with broker(sessions=[*SESSIONS, *month]) as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 5)
            await s.place("a", 5, "sell", type="stop", stop_price="400", time_in_force="gtc", client_order_id="rests")
            await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        rests, at_ns = alpaca.account.by_client_id["rests"], alpaca.clock.now_ns()
        alpaca.matching.fill(alpaca.account, rests, Decimal(5), Decimal(400), at_ns)
        alpaca.clock.jump_to(JULY_NS)
        for _ in range(2):
            async with gateway_on(alpaca, tmp_path) as s:
                assert s.held("a") == {}
                by_name = await s.ask("a", "GET", "/v2/orders:by_client_order_id", client_order_id="rests")
                by_id = await s.ask("a", "GET", f"/v2/orders/{rests.id}")
                assert by_name == by_id
                assert (by_id[1]["filled_qty"], by_id[1]["filled_avg_price"]) == ("5", "400")
                await s.settled()


async def test_after_weeks_away_a_desk_still_finds_how_its_last_order_ended_without_a_fill(tmp_path: Path) -> None:
    days = (("2025-07-02", JULY_NS), ("2025-07-03", JULY_NS + DAY_NS))
    month = [Session(date, open_ns, open_ns + DAY_NS // 4) for date, open_ns in days]
    async with broker(sessions=[*SESSIONS, *month]) as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 1, type="limit", limit_price="400", time_in_force="gtc", client_order_id="rests")
            for number in range(110):  # of a sibling that goes on
                name = f"b-{number}"
                row = await s.place("b", 1, type="limit", limit_price="400", client_order_id=name)
                await s.ask("b", "DELETE", f"/v2/orders/{row['id']}")
                await asyncio.sleep(2)
        alpaca.by_hand("cancel", order_id=alpaca.account.by_client_id["rests"].id)
        await asyncio.sleep(1)
        async with gateway_on(alpaca, tmp_path) as s:
            await s.settled()
        alpaca.clock.jump_to(JULY_NS)
        async with gateway_on(alpaca, tmp_path) as s:
            await s.settled()
            by_name = await s.ask("a", "GET", "/v2/orders:by_client_order_id", client_order_id="rests")
            assert (by_name[0], by_name[1]["status"]) == (200, "canceled")
            assert sum(order.account == "b" for order in s.books.orders.values()) == 100  # and not all for ever


async def test_an_order_that_was_journaled_and_not_sent_is_looked_up_and_not_sent(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            body = {"symbol": "SPY", "qty": "3", "side": "buy", "type": "market", "time_in_force": "day"}
            s.gateway.journal.take(
                OrderTaken(s.gateway.now_ns(), "a", "dead-1", {**body, "client_order_id": "dead-1"}, Decimal(500))
            )
            await s.gateway.journal.durable()  # and here it dies
        async with gateway_on(alpaca, tmp_path) as s:
            await s.until(lambda: not s.books.orders["dead-1"].open)
            assert not alpaca.account.orders
            assert (await s.ask("a", "GET", "/v2/account"))[1]["buying_power"] == "20000.00"
            await s.place("a", 3, client_order_id="dead-1")
            await s.settled()


async def test_an_order_that_was_sent_and_whose_answer_was_not_journaled_is_found(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            body = {"symbol": "SPY", "qty": "3", "side": "buy", "type": "market", "time_in_force": "day"}
            body["client_order_id"] = "dead-2"
            s.gateway.journal.take(OrderTaken(s.gateway.now_ns(), "a", "dead-2", body, Decimal(500)))
            await s.gateway.journal.durable()
        await asyncio.sleep(0)
        alpaca.matching.submit(alpaca.account, body)
        async with gateway_on(alpaca, tmp_path) as s:
            await s.until(lambda: s.held("a") == {"SPY": Decimal(3)})
            assert len(alpaca.account.orders) == 1
            assert not s.held("main")
            await s.settled()


async def test_an_older_copy_of_its_journal_gives_newer_orders_to_the_desks_that_count_on(tmp_path: Path) -> None:
    folder, copied = tmp_path / "gateway", tmp_path / "copy"
    async with broker() as alpaca:
        async with gateway_on(alpaca, folder) as s:
            await s.place("a", 5, client_order_id="e1-shelf-1-0-0")
            await s.settled()
        copied.mkdir()
        shutil.copy(folder / FILE, copied)
        alpaca.by_hand("place", symbol="SPY", qty="1", side="buy", client_order_id="by-hand-1")
        async with gateway_on(alpaca, folder) as s:
            await s.place("a", 7, client_order_id="e1-shelf-2-0-0")
            await s.place("a", 12, "sell", type="stop", stop_price="400", client_order_id="e1-shelf-3-2-0")
            await s.settled()
        async with gateway_on(alpaca, copied) as s:
            assert s.held("a") == {"SPY": Decimal(12)}
            assert s.books.accounts["a"].cash == Decimal(20000) - 12 * Decimal("500.01")
            assert s.books.orders["e1-shelf-3-2-0"].account == "a"
            assert s.held("main") == {"SPY": Decimal(1)}
            await s.settled()


JULY_NS = OPEN_NS + 30 * DAY_NS
PAST = "64fd716922-online_dqn-7-0-0"  # a name that a desk gives


async def test_a_desk_that_trades_past_it_ends_new_risk_for_all_until_a_person_resumes(tmp_path: Path) -> None:
    async with broker() as alpaca:
        alpaca.by_hand("place", symbol="SPY", qty="1", side="buy", client_order_id=PAST.replace("-7-", "-6-"))
        await asyncio.sleep(1)
        async with gateway_on(alpaca, tmp_path) as s:  # what a desk ordered before the gateway came is no trouble
            for name in ("spy-2025-06-02", "0a1b2c3d-1a2b-4123-9123-123456789012"):
                alpaca.by_hand("place", symbol="SPY", qty="1", side="buy", client_order_id=name)
            await s.place("a", 5)
            await s.settled()
            assert s.halted() == ""
            alpaca.by_hand("place", symbol="SPY", qty="1", side="buy", client_order_id=PAST)
            await s.until(lambda: s.halted() == "foreign_order")
            assert f"{PAST} (buy SPY) is a desk's" in str(s.log.of("gateway_halted"))
            assert (await s.refused("b", 1))[0] == 403
            await s.place("a", 2, "sell")
            await s.gateway.resume("anna", "that desk has the gateway's address now")
            await s.settled()
            await s.place("b", 1)  # the same order counts once
            alpaca.by_hand("place", symbol="SPY", qty="1", side="buy", client_order_id=PAST.replace("-7-", "-8-"))
            await s.until(lambda: s.halted() == "foreign_order")
            assert s.held("main") == {"SPY": Decimal(5)}


async def test_a_desk_s_order_past_it_that_the_stream_did_not_tell_is_found_by_the_next_report(tmp_path: Path) -> None:
    async with broker() as alpaca, gateway_on(alpaca, tmp_path) as s:
        alpaca.faults.add("data_null", times=10)  # each of its updates
        alpaca.by_hand("place", symbol="SPY", qty="1", side="buy", client_order_id=PAST)
        await s.until(lambda: s.halted() == "foreign_order")


@pytest.mark.parametrize("dead", [True, False])
async def test_after_a_panic_with_the_accounts_own_keys_no_desk_buys_until_a_person_resumes(
    tmp_path: Path, *, dead: bool
) -> None:
    """`a` held all, `b` nothing: without its halt `b` would buy into an account that a person has just emptied."""

    def panic() -> None:
        for symbol, quantity in (("SPY", "6"), (CALL, "1")):
            alpaca.by_hand("place", symbol=symbol, qty=quantity, side="sell")

    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            alpaca.by_hand("place", symbol="SPY", qty="1", side="buy")
            await s.place("a", 5)
            await s.place("a", 1, symbol=CALL, type="limit", limit_price="20")
            await s.until(lambda: len(s.held("a")) == 2 and len(s.held("main")) == 1)
            await s.settled()
            alpaca.by_hand("place", symbol="SPY", qty="2", side="sell")
            await s.until(lambda: s.held("main") == {"SPY": Decimal(-1)})
            await s.settled()
            assert s.halted() == ""  # five are left: a person's sale of one of them closes the symbol alone
            alpaca.by_hand("place", symbol="SPY", qty="2", side="buy")
            await s.until(lambda: s.held("main") == {"SPY": Decimal(1)})
            if not dead:
                panic()
                await s.until(lambda: s.halted() == "foreign_order")
        if dead:
            panic()
            await asyncio.sleep(60)
        async with gateway_on(alpaca, tmp_path) as s:
            assert not alpaca.account.positions
            assert s.halted() == "foreign_order"
            assert s.books.halt is not None
            assert "sold all that desks hold of SPY" in s.books.halt[1]
            other = {"symbol": CALL.replace("500000", "510000"), "type": "limit", "limit_price": "20"}
            assert (await s.refused("b", 1, **other))[2].startswith("gateway: no new risk: foreign_order")
            await s.gateway.resume("anna", "all is as it should be")
            await s.settled()
            await s.place("b", 1, **other)
            assert s.verified().difference == ""


async def test_a_purchase_that_waited_for_a_hanging_gateway_leaves_after_a_report(tmp_path: Path) -> None:
    """While it was stopped a person closed everything, and the news has not come yet; the desk's request has."""
    other = {"symbol": CALL, "type": "limit", "limit_price": "20"}
    async with broker() as alpaca, gateway_on(alpaca, tmp_path) as s:
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        await s.settled()
        s.gateway.beat()
        alpaca.faults.add("update_lost", times=10)
        alpaca.by_hand("place", symbol="SPY", qty="5", side="sell")
        await asyncio.sleep(40)  # without a beat: longer than a look in virtual time takes
        assert s.halted() == ""
        assert (await s.refused("b", 1, **other))[2].startswith("gateway: no new risk: foreign_order")
        assert [order.symbol for order in alpaca.account.orders.values() if order.open] == []


async def test_a_sale_that_waited_for_a_hanging_gateway_sells_nothing_that_a_guard_sold_meanwhile(
    tmp_path: Path,
) -> None:
    """The account has a sibling's five yet, which the broker would let it sell."""
    subs = table("a", guard_prefix="guarda"), table("b")
    async with broker() as alpaca, gateway_on(alpaca, tmp_path, *subs) as s:
        await s.place("a", 5)
        await s.place("b", 5)
        await s.until(lambda: len(s.held("a")) == len(s.held("b")) == 1)
        await s.settled()
        s.gateway.beat()
        alpaca.faults.add("update_lost", times=10)
        alpaca.by_hand("place", symbol="SPY", qty="5", side="sell", client_order_id="guarda-1")
        await asyncio.sleep(40)  # without a beat
        assert s.held("a") == {"SPY": Decimal(5)}  # by its books
        assert (await s.refused("a", 5, "sell"))[0] == 403
        assert (s.held("a"), s.held("b")) == ({}, {"SPY": Decimal(5)})
        hangs = s.log.of("gateway_hung")
        assert [str(hang["seconds"]).partition(".")[0] for hang in hangs] == ["40"]
        await s.place("b", 5, "sell")
        await asyncio.sleep(1)
        await s.settled()
        assert not s.held("b")


async def test_a_program_that_made_hundreds_of_orders_today_makes_no_report_long_and_nothing_is_missed(
    tmp_path: Path,
) -> None:
    def orders_asked(s: Stage) -> int:
        return sum(r.path.startswith("/v2/orders?status=all") for r in s.broker.requests)

    async with stage(tmp_path) as s:
        for number in range(600):
            row = s.broker.by_hand("place", symbol="SPY", qty="1", side="buy", type="limit", limit_price="400")
            s.broker.by_hand("cancel", order_id=row["id"])
            if number % 20 == 0:
                await asyncio.sleep(0.1)
        await s.until(lambda: len(s.books.orders) == 600 and not s.books.live)
        names = [f"old-{number}" for number in range(3)]
        for name in names:
            await s.place("a", 1, type="limit", limit_price="490", client_order_id=name)
        await s.settled()
        s.broker.clock.jump_to(s.broker.clock.now_ns() + 20 * MINUTE_NS)
        await s.settled()
        for event in ("canceled", "fill"):
            s.broker.faults.add("update_lost", where={"event": event})
        ended, filled, unheard = (s.broker.account.by_client_id[name] for name in names)
        s.broker.matching.end(s.broker.account, ended, "canceled", s.broker.clock.now_ns())
        s.broker.matching.fill(s.broker.account, filled, Decimal(1), Decimal(490), s.broker.clock.now_ns())
        assert len(s.books.live) == 3
        count = orders_asked(s)
        await s.gateway.wait_for_report(PATIENCE_S)
        assert orders_asked(s) - count == 1  # a page has 500
        assert (s.held("a"), len(s.books.live)) == ({"SPY": Decimal(1)}, 1)
        s.broker.faults.add("socket_drop", where={"stream": "trade"})
        await s.place("b", 1)
        await s.until(lambda: not s.gateway.ready)
        s.broker.matching.fill(s.broker.account, unheard, Decimal(1), Decimal(490), s.broker.clock.now_ns())
        count = orders_asked(s)
        await s.until(lambda: s.gateway.ready)
        assert orders_asked(s) - count == 1  # what the stream did not tell is newer than the last report
        await s.settled()
        assert (s.held("a"), s.held("b"), s.books.live) == ({"SPY": Decimal(2)}, {"SPY": Decimal(1)}, {})
        s.broker.clock.jump_to(OPEN_NS + 396 * MINUTE_NS)  # 16:06
        count = orders_asked(s)
        await s.gateway.wait_for_report(PATIENCE_S)
        assert orders_asked(s) - count >= 2  # once after the close all since yesterday is read
        await s.settled()
        count = orders_asked(s)
        await s.gateway.wait_for_report(PATIENCE_S)
        assert orders_asked(s) - count == 1


async def test_what_others_sold_while_it_was_dead_is_not_sold_again_before_the_first_report(tmp_path: Path) -> None:
    subs = table("a", guard_prefix="guarda"), table("b")
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path, *subs) as s:
            await s.place("a", 5)
            await s.place("b", 5)
            await s.until(lambda: len(s.held("a")) == len(s.held("b")) == 1)
            await s.settled()
        alpaca.by_hand("place", symbol="SPY", qty="5", side="sell", client_order_id="guarda-1")
        await asyncio.sleep(60)
        async with gateway_on(alpaca, tmp_path, *subs, at_once=True) as s:
            assert s.held("a") == {"SPY": Decimal(5)}  # by its books
            look_up = "GET", "/v2/orders:by_client_order_id"
            assert (await s.ask("a", *look_up, client_order_id="guarda-1"))[0] == 503  # 404 would say: it never was
            with pytest.raises(ValueError, match="the account was not read yet"):
                await s.gateway.transfer("a", "b", Decimal(0), "SPY", Decimal(5), "anna", "")
            assert (await s.refused("a", 5, "sell"))[0] == 403
            assert (await s.ask("a", *look_up, client_order_id="guarda-1"))[0] == 200
            assert (await s.ask("a", *look_up, client_order_id="never-was"))[0] == 404
            assert (s.held("a"), s.held("b")) == ({}, {"SPY": Decimal(5)})
            await s.place("b", 5, "sell")
            await s.until(lambda: not s.held("b"))
            await s.settled()


async def test_a_panic_right_after_a_start_finds_what_a_guard_rested_while_it_was_dead(tmp_path: Path) -> None:
    subs = table("a", guard_prefix="guarda"), table("b")
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path, *subs) as s:
            await s.place("a", 5)
            await s.until(lambda: bool(s.held("a")))
            await s.settled()
        stop = {"type": "stop", "stop_price": "400", "time_in_force": "gtc"}
        alpaca.by_hand("place", symbol="SPY", qty="5", side="sell", client_order_id="guarda-1", **stop)
        await asyncio.sleep(60)
        async with gateway_on(alpaca, tmp_path, *subs, at_once=True) as s:
            assert [row["status"] for row in await s.gateway.panic("a", "anna")] == [200]
            await s.until(lambda: not s.held("a"))
            assert alpaca.account.by_client_id["guarda-1"].status == "canceled"


async def test_a_guards_stop_of_more_than_its_sub_account_holds_ends_and_keeps_nothing_of_a_sibling_back(
    tmp_path: Path,
) -> None:
    """What the guard does not know: `a` sold five of its eight by the close call, or they were moved, just before."""
    subs = table("a", guard_prefix="guarda"), table("b", guard_prefix="guardb")
    stop = {"symbol": "SPY", "side": "sell", "type": "stop", "stop_price": "400", "time_in_force": "gtc"}
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path, *subs) as s:
            await s.place("a", 3)
            await s.place("b", 10)
            await s.until(lambda: (len(s.held("a")), len(s.held("b"))) == (1, 1))
        for name, quantity in (("guarda-1", "3"), ("guarda-2", "5")):
            alpaca.by_hand("place", qty=quantity, client_order_id=name, **stop)
            await asyncio.sleep(1)
        async with gateway_on(alpaca, tmp_path, *subs) as s:
            await s.until(lambda: not alpaca.account.by_client_id["guarda-2"].open)
            alpaca.by_hand("place", qty="4", client_order_id="guarda-3", **stop)
            began_ns = s.gateway.now_ns()
            await s.until(lambda: not alpaca.account.by_client_id["guarda-3"].open)
            assert s.gateway.now_ns() - began_ns < 5 * SECOND_NS  # and not with the report of the minute
            await s.settled()
            assert alpaca.account.by_client_id["guarda-1"].open
            await s.place("b", 10, "sell")
            await s.until(lambda: not s.held("b"))
            await s.settled()
            assert s.verified().difference == ""


RESTS = {"type": "limit", "limit_price": "480", "time_in_force": "gtc"}


async def test_what_the_changed_file_denies_is_cancelled_at_the_start_and_no_exit_is(tmp_path: Path) -> None:
    async with broker() as alpaca:
        orders = alpaca.account.by_client_id
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 5)
            await s.until(lambda: bool(s.held("a")))
            await s.place("a", 5, "sell", **{**RESTS, "limit_price": "600"}, client_order_id="exit")
            for name in ("old", "new"):  # 4,800 USD each, beside shares of 2,500
                await s.place("a", 10, **RESTS, client_order_id=name)
            await s.place("b", 1, symbol=CALL, type="limit", limit_price="0.01", client_order_id="option")
        subs = table("a", exposure_max=Decimal(8000)), table("b", kinds=("shares",))
        async with gateway_on(alpaca, tmp_path, *subs) as s:
            await s.until(lambda: sorted(s.books.live) == ["exit", "old"])
            assert [orders[name].status for name in ("new", "option")] == ["canceled"] * 2
            reasons = {str(row["order"]): str(row["reason"]) for row in s.log.of("gateway_entry_ended")}
            assert reasons["option"].startswith("sub_account.b.kinds is ['shares']: no options; ")
            assert reasons["new"].endswith("USD, sub_account.a.exposure_max is 8000")
            row = (await s.ask("a", "GET", f"/v2/orders/{orders['new'].id}"))[1]
            assert row["status"] == "expired"  # a cancel by another hand halts a desk
            await s.place("b", 1, **RESTS, client_order_id="gone")
            await s.settled()
        async with gateway_on(alpaca, tmp_path, subs[0]) as s:
            await s.until(lambda: sorted(s.books.live) == ["exit", "old"])
            assert s.log.of("gateway_entry_ended") == [{"order": "gone", "reason": "b is not in the file"}]
            assert s.verified().difference == ""


@pytest.mark.parametrize("last", [Halted(OPEN_NS, "operator", "news", "anna"), Suspended(OPEN_NS, "a", True)])
async def test_a_halt_or_a_panic_that_died_before_its_cancels_ends_the_purchases_at_the_next_start(
    tmp_path: Path, last: AnyGatewayEvent
) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 1, **RESTS, client_order_id="rests")
            s.gateway.journal.take(last)
            await s.gateway.journal.durable()  # and here it dies
        async with gateway_on(alpaca, tmp_path) as s:
            await s.until(lambda: not s.books.live)
            assert alpaca.account.by_client_id["rests"].status == "canceled"


async def test_every_row_is_hashed_and_stepped_again(tmp_path: Path) -> None:
    async with broker() as alpaca, gateway_on(alpaca, tmp_path) as s:
        for _ in range(5):
            await s.place("a", 1)
            await s.place("b", 1)
        await s.settled()
        report = s.verified()
        assert (report.difference, report.stepped) == ("", report.rows)


@pytest.mark.parametrize("changed", ["whose a line is", "an event that is gone"])
async def test_a_journal_of_the_former_version_goes_on_and_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    async with broker() as alpaca:
        with monkeypatch.context() as former:
            former.setattr(journal, "code_digest", lambda: "former000000")
            if changed == "whose a line is":
                former.setattr(step, "divide", lambda _, line, __: Division({MAIN: LinePart(ZERO, line.amount)}))
            else:
                former.setattr(journal, "event_json", written_as_gone)
            async with gateway_on(alpaca, tmp_path) as s:
                await s.place("a", 5)
                await s.place("a", 5, "sell", type="stop", stop_price="400", time_in_force="gtc")
                cash_row(alpaca.account, "INT", Decimal("4.00"), alpaca.clock.now_ns(), "interest")
                await s.gateway.configure("b", {"suspend_trade": True})
                await s.settled()
                cash = {name: account.cash for name, account in s.books.accounts.items()}
        async with gateway_on(alpaca, tmp_path) as s:
            assert {name: account.cash for name, account in s.books.accounts.items()} == cash
            assert s.books.accounts["b"].suspended
            assert (await s.ask("a", "GET", "/v2/positions"))[1][0]["qty_available"] == "0"
            assert (await s.ask("a", "DELETE", "/v2/orders"))[0] == 207
            await s.place("a", 5, "sell")
            await s.settled()
        report = s.verified()
        assert (report.difference, report.rows > report.stepped > 0) == ("", True)


async def test_a_row_that_another_version_wrote_and_that_this_one_cannot_step_keeps_no_exit_shut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_: object, event: Transferred) -> None:
        raise KeyError(event.target)

    async with broker() as alpaca:
        with monkeypatch.context() as former:
            former.setattr(journal, "code_digest", lambda: "former000000")
            async with gateway_on(alpaca, tmp_path) as s:
                await s.place("a", 5)
                await s.until(lambda: bool(s.held("a")))
                await s.gateway.transfer("main", "b", Decimal(100), "", ZERO, "anna", "more")
                await s.place("a", 2)
                await s.until(lambda: s.held("a") == {"SPY": Decimal(7)})
                await s.settled()
                shutil.copytree(tmp_path, tmp_path / "killed", ignore=shutil.ignore_patterns("*.sock", "killed"))
        monkeypatch.setattr(step.Bookkeeper, "_move", cannot)
        async with gateway_on(alpaca, tmp_path / "killed") as s:
            assert s.halted() == "journal_damaged"
            assert s.books.halt is not None
            assert "(Transferred) cannot be stepped by this version" in s.books.halt[1]
            assert (await s.refused("b", 1))[0] == 403
            await s.place("a", 7, "sell")
            await s.until(lambda: not s.held("a"))
            await s.settled()


def written_as_gone(event: AnyGatewayEvent) -> str:
    """An event as JSON; a fence's is one that no later code knows."""
    return '{"type":"Fenced"}' if isinstance(event, Suspended) else event_json(event)


async def test_a_journal_is_rotated_at_rest_and_goes_on_with_its_chain_orders_and_books(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 5, client_order_id="e1-shelf-1-0-0")
            await s.place("b", 2, type="limit", limit_price="490", client_order_id="rests")
            await s.settled()
            with pytest.raises(StateDirError, match="another process"):
                rotate_idle(tmp_path, "paper")
        whole = verify(tmp_path / FILE)
        execute(tmp_path, "DELETE FROM snapshots")  # a killed one left none at its end
        rotation = rotate_idle(tmp_path, "paper")
        assert (rotation.row, rotation.old.parent) == (whole.rows, tmp_path / "rotated")
        assert (verify(rotation.old).rows, verify(rotation.old).difference) == (whole.rows, "")
        rests = alpaca.account.by_client_id["rests"]
        alpaca.matching.fill(alpaca.account, rests, Decimal(2), Decimal(490), alpaca.clock.now_ns())
        async with gateway_on(alpaca, tmp_path) as s:
            await s.settled()
            assert (s.held("a"), s.held("b")) == ({"SPY": Decimal(5)}, {"SPY": Decimal(2)})
            await s.place("a", 5, "sell", client_order_id="e1-shelf-2-2-0")
            await s.until(lambda: not s.held("a"))
            report = s.verified()
            assert (report.difference, report.rows) == ("", report.stepped + 1)  # it begins with the last row before
            with contextlib.closing(JournalReader(tmp_path / FILE)) as reader:
                assert next(reader.entries()).id == rotation.row
        books = read_books(tmp_path / FILE)
        execute(tmp_path, "DELETE FROM snapshots")
        assert read_books(tmp_path / FILE) == books  # from that of the file before
        rotation.old.rename(tmp_path / "elsewhere.sqlite")
        with pytest.raises(
            JournalError, match=f"no snapshot can be used; rows up to {rotation.row - 1} are in the file"
        ):
            read_books(tmp_path / FILE)


async def test_a_start_rotates_what_grew_and_first_tells_of_a_damaged_row(tmp_path: Path) -> None:
    log = LogRecorder()
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 5, client_order_id="e1-shelf-1-0-0")
            await s.settled()
        execute(tmp_path, "CREATE TABLE filler AS SELECT zeroblob(1200000) AS bytes")
        rotate_when_due(tmp_path, "paper", 0, log)
        rotate_when_due(tmp_path, "paper", 2, log)
        assert not log.entries
        execute(tmp_path, "DELETE FROM snapshots")
        execute(tmp_path, "UPDATE events SET payload = '{}' WHERE kind = 'OrderAnswered'")
        rotate_when_due(tmp_path, "paper", 1, log)
        assert "start the gateway first, it goes on without" in str(log.of("journal_not_rotated")[0]["reason"])
        async with gateway_on(alpaca, tmp_path) as s:
            assert s.halted() == "journal_damaged"
        rotate_when_due(tmp_path, "paper", 1, log)
        assert [row["old"] for row in log.of("journal_rotated")] == [str(next((tmp_path / "rotated").iterdir()))]
        async with gateway_on(alpaca, tmp_path) as s:
            await s.settled()
            assert s.verified().difference == ""  # the damage is in the file before


async def test_a_halted_gateway_of_desks_that_hold_something_starts_without_room_for_its_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with stage(tmp_path) as s:
        await s.place("a", 3)
        await s.until(lambda: bool(s.books.accounts["a"].holdings))
        await s.gateway.halt("operator", "a word", "anna")
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    journal = open_journal(tmp_path, "paper", 1)
    assert "cannot reserve 1 MiB" in journal.unreserved
    with pytest.raises(JournalError, match="cannot reserve 1 MiB"):
        await journal.reserve()  # so no resume
    await journal.close()


async def test_a_reserve_that_cannot_be_made_keeps_no_gateway_from_its_desks(tmp_path: Path) -> None:
    (tmp_path / "ballast").symlink_to("/dev/null")
    journal = open_journal(tmp_path, "paper", 1)
    assert "ballast: not a plain file" in journal.unreserved
    await journal.close()
    (tmp_path / "ballast").unlink()
    journal = open_journal(tmp_path, "paper", 1)
    assert (journal.unreserved, (tmp_path / "ballast").stat().st_size) == ("", 2**20)
    await journal.close()


async def test_a_new_sub_account_gets_its_capital_from_main(tmp_path: Path) -> None:
    async with broker("30000") as alpaca:
        async with gateway_on(alpaca, tmp_path, table("a", "20000")) as s:
            assert s.books.main.cash == 10000
        async with gateway_on(alpaca, tmp_path, table("a", "20000"), table("b", "4000")) as s:
            assert (s.books.main.cash, s.books.accounts["b"].cash) == (Decimal(6000), Decimal(4000))
            assert (await s.ask("b", "GET", "/v2/account"))[1]["cash"] == "4000.00"
            await s.settled()


async def test_it_starts_again_while_main_owes_the_broker(tmp_path: Path) -> None:
    """A person may spend on margin what `main` does not have; no new sub-account asks for anything."""
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            alpaca.faults.add("transfer", amount="-70000")
            await s.until(lambda: alpaca.account.cash == 30000)
            await s.settled()
            assert s.books.main.cash == -10000
            await s.place("a", 3)
        async with gateway_on(alpaca, tmp_path) as s:
            await s.place("a", 3, "sell")
            await s.until(lambda: not s.held("a"))
            await s.settled()


async def test_its_operators_socket_is_reached_below_a_path_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("path" * 20)
    async with broker() as alpaca, gateway_on(alpaca, folder) as s:
        status = await asyncio.to_thread(ask, s.gateway.settings, "GET", "/status")
        assert status["broker"]["cash"] == "100000.00"


async def test_a_copy_on_another_host_refuses_its_desks_the_stream_as_the_broker_refuses_it(tmp_path: Path) -> None:
    async with broker() as alpaca, gateway_on(alpaca, tmp_path) as s:
        alpaca.faults.add("connection_limit", times=1000)
        alpaca.trade_stream.cut(hold_s=0.0)
        await s.until(lambda: s.gateway.stream_taken)
        assert (await s.ask("a", "GET", "/stream"))[0] == 429
        assert "HTTP 429" in s.gateway.away()
        alpaca.faults.clear()
        await s.until(lambda: s.gateway.ready)
        assert not s.gateway.stream_taken


async def test_what_a_desk_was_told_of_a_line_stays_when_a_killed_gateway_starts_with_another_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker() as alpaca:
        with monkeypatch.context() as former:
            former.setattr(journal, "code_digest", lambda: "former000000")
            former.setattr(step, "divide", lambda _, line, __: Division({"a": LinePart(ZERO, line.amount)}))
            async with gateway_on(alpaca, tmp_path) as s:
                await s.place("a", 5)
                await s.place("b", 4)
                await s.settled()
                cash_row(alpaca.account, "FEE", Decimal("-0.18"), alpaca.clock.now_ns(), "CAT fee")
                await s.settled()
                shutil.copytree(tmp_path, tmp_path / "killed", ignore=shutil.ignore_patterns("*.sock", "killed"))
        async with gateway_on(alpaca, tmp_path / "killed") as s:
            # 5 at 500.01, and the whole fee: by this code's rule b, who traded four ninths, pays 0.08 of it
            assert s.books.accounts["a"].cash == Decimal(20000) - 5 * Decimal("500.01") - Decimal("0.18")
            (line,) = (await s.ask("a", "GET", "/v2/account/activities/FEE"))[1]
            assert line["net_amount"] == "-0.18"
            await s.settled()
            assert s.verified().difference == ""
