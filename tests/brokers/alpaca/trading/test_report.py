"""Reports against the loopback Alpaca. Expected values: what the test ordered, and the server's own books.

A report must be whole after a start, carry only what is new later, and fail rather than leave out a position.
"""

from __future__ import annotations

import asyncio
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from daemon.brokers.alpaca.rest.client import RestError
from daemon.brokers.alpaca.trading.report import Reread, block_reason, funds_of
from daemon.brokers.alpaca.wire import Malformed
from daemon.core.effects import SubmitOrder
from daemon.core.events import BrokerReported, Funds
from daemon.host.time.clock import Clock
from simulator.trading.venue import Rules
from strategies.kit.units import DAY_NS
from tests.support.alpaca.rest_desk import (
    CALL,
    MINUTE_NS,
    NAME,
    OPEN_NS,
    OURS,
    SECOND_NS,
    Desk,
    buy,
    desk,
    eventually,
    filled,
    reporter,
    reporter_at,
)
from tests.support.log import LogRecorder

DATE = {"date": "2024-07-02"}


async def test_a_fresh_account_is_reported_with_its_cash_and_nothing_else() -> None:
    async with desk() as it:
        report = await reporter(it).report()
    assert (report.account, report.cash, report.blocked) == ("PA3LOOPBACK1", Decimal("10000.00"), "")
    assert not any((report.positions, report.open_orders, report.ended_orders, report.fills, report.activities))
    assert OPEN_NS + 2 * MINUTE_NS <= report.asked_ns <= report.time_ns


async def test_fills_are_summed_per_order_and_agree_with_the_orders_own_figures() -> None:
    async with desk(rate=60, rules=Rules(fill_sizes=(1, 2))) as it:
        await filled(it, buy(quantity=5))
        report = await reporter(it).report()
        server = it.server.account.by_client_id[NAME]
    (order,) = report.ended_orders
    assert (order.client_order_id, order.status, order.filled) == (NAME, "filled", Decimal(5))
    assert len(report.fills) >= 3  # at most two contracts at a time
    assert [fill.cumulative_quantity for fill in report.fills] == sorted(f.cumulative_quantity for f in report.fills)
    last = report.fills[-1]
    assert (last.client_order_id, last.cumulative_quantity, last.cumulative_cost) == (NAME, 5, server.cost)
    assert sum(fill.quantity for fill in report.fills) == 5
    (position,) = report.positions
    assert (position.symbol, position.quantity, position.available) == (CALL, Decimal(5), Decimal(5))
    assert report.cash == Decimal("10000.00") - 100 * server.cost


async def test_a_later_report_carries_only_what_is_new_and_all_again_when_told_to_forget() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        making = reporter(it)
        await filled(it, buy())
        it.server.account.note(it.server.clock.now_ns(), {"activity_type": "FEE", "net_amount": "-0.03"} | DATE)
        first = await making.report()
        second = await making.report()
        await it.orders.submit(SubmitOrder("e1-scalper-1-0-2", CALL, -1, 1, Decimal(900), "sell_to_close", 0))
        third = await making.report()
        making.forget()
        fourth = await making.report()
    assert [len(r.ended_orders) for r in (first, second, third, fourth)] == [1, 0, 0, 1]
    assert [len(r.fills) for r in (first, second, third, fourth)] == [1, 0, 0, 1]
    assert [[a.amount for a in r.activities] for r in (first, second, third, fourth)] == [
        [Decimal("-0.03")],
        [],
        [],
        [Decimal("-0.03")],
    ]
    (working,) = third.open_orders
    assert (working.client_order_id, working.side, working.limit_price) == ("e1-scalper-1-0-2", -1, Decimal(900))
    assert third.positions[0].available == 0  # held back for the working order


def test_a_row_of_a_read_is_parsed_again_only_where_it_changed() -> None:
    parsed: list[Any] = []

    def parse(row: object) -> int:
        parsed.append(row)
        if row == {"id": "bad"}:
            raise Malformed("it is bad")
        return len(parsed)

    read = Reread(parse)
    one, other = {"id": "1", "qty": "1"}, {"id": "2", "qty": "1"}
    for rows, values in (
        ([one, other], [1, 2]),
        ([dict(one), dict(other), dict(one)], [1, 2, 1]),  # as they were
        ([{"id": "1", "qty": "2"}], [3]),  # one changed, the other is gone
        ([{"id": "1", "qty": "2"}, other], [3, 4]),  # and back
    ):
        read.begin()
        assert [read(row) for row in rows] == values
    for calls in (5, 6):
        with pytest.raises(Malformed):
            read({"id": "bad"})
        assert len(parsed) == calls


async def test_a_foreign_order_is_among_the_orders_and_its_fills_are_not_among_ours() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        it.server.by_hand("place", symbol=CALL, qty="1", side="buy", type="market", time_in_force="day")
        await asyncio.sleep(0.05)
        report = await reporter(it).report()
    (order,) = report.ended_orders
    assert (OURS(order.client_order_id), order.filled) == (False, Decimal(1))
    assert report.fills == ()
    assert report.positions[0].quantity == 1


async def test_what_ended_yesterday_is_in_the_first_report_too() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        await filled(it, buy())
        tomorrow = Clock.real(lambda: it.server.clock.now_ns() + DAY_NS)  # the daemon was down overnight
        report = await reporter_at(it, tomorrow).report()
    assert [order.client_order_id for order in report.ended_orders] == [NAME]
    assert [fill.client_order_id for fill in report.fills] == [NAME]


async def test_what_happened_while_the_daemon_was_down_over_a_long_weekend_is_in_the_first_report_too() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        agreed_ns = it.server.clock.now_ns()
        await filled(it, buy())
        it.server.account.note(it.server.clock.now_ns(), {"activity_type": "FEE", "net_amount": "-0.03"} | DATE)
        tuesday = Clock.real(lambda: it.server.clock.now_ns() + 4 * DAY_NS)
        report = await reporter_at(it, tuesday, agreed_ns=lambda: agreed_ns).report()
    assert [order.client_order_id for order in report.ended_orders] == [NAME]
    assert [fill.client_order_id for fill in report.fills] == [NAME]
    assert [line.amount for line in report.activities] == [Decimal("-0.03")]


async def test_a_fill_of_an_order_that_was_queued_days_ago_is_known_by_asking_for_its_order() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        await filled(it, buy())
        order = it.server.account.by_client_id[NAME]
        order.created_ns -= 3 * DAY_NS
        del order.past[:-1]
        report = await reporter(it).report()
        assert it.count("GET", f"/v2/orders/{order.id}") == 1
    assert report.ended_orders == ()
    assert [fill.client_order_id for fill in report.fills] == [NAME]


async def test_an_order_whose_fill_was_busted_is_told_by_its_figures_alone() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        making = reporter(it)
        await filled(it, buy(quantity=2))
        before = await making.report()
        it.server.faults.add("trade_bust")
        await eventually(lambda: not it.server.account.positions)
        after = await making.report()
    assert [order.filled for order in before.ended_orders] == [2]
    assert [order.filled for order in after.ended_orders] == [0]  # its figures changed, so it is news
    assert [(fill.correction, fill.cumulative_quantity) for fill in after.fills] == [(1, 0)]  # where nobody heard it


async def test_a_correction_that_its_order_does_not_show_is_told_by_the_fill_that_it_names() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        making = reporter(it)
        await filled(it, buy(quantity=2))
        (price,) = [order.average_price for order in (await making.report()).ended_orders]
        assert price is not None
        it.server.faults.add("trade_correct", shift="3.50", order_kept=True)  # 2 x 3.50 x 100 = 700 USD
        await eventually(lambda: len(it.server.account.activities) == 2)
        after = await making.report()
        again = await making.report()
    for report in (after, again):
        (fill,) = report.fills
        assert (fill.correction, fill.cumulative_quantity, fill.cumulative_cost) == (1, 2, 2 * price + 7)
    (line,) = after.activities  # for a journal that forgot the order
    assert (line.kind, line.order, line.side) == ("AMENDED_FILL", NAME, 1)
    assert (line.quantity, line.amount, line.id) == (Decimal(0), Decimal(-700), f"{NAME} corrected 1")


async def test_a_correction_that_may_mean_two_fills_is_told_by_whoever_heard_its_name_and_by_nobody_else() -> None:
    """A life that heard it told the book so; the next one, which did not, takes nothing back."""
    async with desk(rules=Rules(fill_sizes=(1, 1))) as it:
        first_life, next_life = reporter(it), reporter(it)
        await filled(it, buy(quantity=2))  # one contract at a time, and the first one four cents dearer
        first = it.server.account.activities[0].fields
        price = Decimal(first["price"])
        first["price"] = str(price + Decimal("0.04"))
        it.server.account.by_client_id[NAME].cost += Decimal("0.04")
        await first_life.report()
        it.server.faults.add("trade_correct", shift="3.50", order_kept=True)
        await eventually(lambda: len(it.server.account.activities) == 3)
        line = it.server.account.activities[-1]
        order = it.server.account.by_client_id[NAME]
        first_life.name_amended(order.id, line.amends)
        assert [fill.cumulative_cost for fill in (await first_life.report()).fills] == [2 * price + Decimal("3.54")]
        fills = (await next_life.report()).fills
    assert [fill for fill in fills if fill.correction] == []


async def test_a_bust_that_its_order_does_not_show_takes_the_fill_back() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        making = reporter(it)
        await filled(it, buy(quantity=2))
        (price,) = [order.average_price for order in (await making.report()).ended_orders]
        assert price is not None
        it.server.faults.add("trade_bust", order_kept=True)
        await eventually(lambda: not it.server.account.positions)
        after = await making.report()
    assert [(fill.correction, fill.cumulative_quantity, fill.cumulative_cost) for fill in after.fills] == [
        (1, 0, Decimal(0))
    ]
    assert [(line.quantity, line.amount) for line in after.activities] == [(Decimal(-2), 200 * price)]


async def test_a_correction_of_an_order_of_long_ago_is_told_with_what_it_changes() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        await filled(it, buy(quantity=2))
        next_week = Clock.real(lambda: it.server.clock.now_ns() + 7 * DAY_NS)
        it.server.faults.add("trade_correct", shift="3.50")
        await eventually(lambda: len(it.server.account.activities) == 2)
        amended = it.server.account.activities[-1]
        object.__setattr__(amended, "time_ns", amended.time_ns + 7 * DAY_NS)
        report = await reporter_at(it, next_week).report()
    assert (report.ended_orders, report.fills) == ((), ())
    assert [(line.order, line.quantity, line.amount) for line in report.activities] == [
        (NAME, Decimal(0), Decimal(-700))
    ]


async def test_a_ledger_line_that_cannot_be_read_is_told_once_and_left_out() -> None:
    async with desk() as it:
        log = LogRecorder()
        making = reporter(it, log)
        now = it.server.clock.now_ns()
        it.server.account.note(now, {"activity_type": "FEE", "net_amount": "many"} | DATE)
        it.server.account.note(now, {"activity_type": "TOMORROW", "net_amount": "1.00"} | DATE)
        it.server.account.note(now, {"activity_type": "FILL", "status": "correct", "order_id": ["x"]} | DATE)
        first = await making.report()
        await making.report()
    assert [line.kind for line in first.activities] == ["TOMORROW"]
    assert [name for name, _ in log.entries] == ["ledger_line_unreadable"] * 2


@pytest.mark.parametrize("path", ["/v2/positions", "/v2/orders", "/v2/account", "/v2/account/activities"])
async def test_a_part_that_cannot_be_read_fails_the_report(path: str) -> None:
    async with desk() as it:
        it.server.faults.add("malformed_json", where={"path": path})
        with pytest.raises(RestError):
            await reporter(it).report()


async def test_a_report_is_read_again_when_one_of_our_orders_filled_meanwhile() -> None:
    async with desk(rules=Rules(fill_sizes=(9, 9))) as it:
        it.server.faults.add("order_held_back", seconds=0.4)
        await filled(it, buy())
        it.server.faults.add("stale_read", times=2, age_s=0.3, where={"path": "/v2/orders"})  # not filled yet there
        report = await reporter(it).report()
        assert it.count("GET", "/v2/orders") == 4
    assert [order.filled for order in report.ended_orders] == [1]
    assert [fill.client_order_id for fill in report.fills] == [NAME]


async def test_a_clock_that_is_off_is_told_and_one_that_is_right_is_not() -> None:
    async with desk() as it:
        log = LogRecorder()
        await reporter(it, log).report()
        assert log.entries == []
        it.server.faults.add("clock_skew", skew_s=30)
        await reporter(it, log).report()
    ((name, fields),) = log.entries
    assert name == "clock_skew"
    assert fields["skew_s"] == pytest.approx(30, abs=1)


async def test_a_blocked_account_says_why() -> None:
    async with desk() as it:
        it.server.faults.add("account_blocked", until_ns=it.clock.now_ns() + 60 * SECOND_NS)
        report = await reporter(it).report()
    assert "trading_blocked" in report.blocked
    active = {"status": "ACTIVE", "trading_blocked": False, "account_blocked": False}
    assert block_reason(active) == ""
    suspended = "trade_suspended_by_user (the account's setting suspend_trade)"  # named in alarm, gate and status
    assert block_reason(active | {"trade_suspended_by_user": True}) == suspended
    assert block_reason({"status": "ONBOARDING"}) == "status ONBOARDING"
    assert block_reason(active | {"account_blocked": "yes"}) == "account_blocked"


async def test_what_the_account_may_spend_and_carry_is_read_and_a_figure_that_is_none_is_left_out() -> None:
    async with desk() as it:
        funds = (await reporter(it).report()).funds
        it.server.faults.add("margin_deficit", until_ns=it.clock.now_ns() + 60 * SECOND_NS, amount="250")
        short = (await reporter(it).report()).funds
    cash = Decimal(10_000)
    assert funds == Funds(Decimal(2), 2 * cash, cash, cash, cash, Decimal(0))
    assert short is not None
    assert (short.equity, short.maintenance) == (cash, cash + 250)
    odd = funds_of({"multiplier": "4", "buying_power": "much", "options_buying_power": None})
    assert odd == Funds(multiplier=Decimal(4))


async def test_the_broker_s_clock_says_whether_its_market_is_open_and_opens_next() -> None:
    async with desk() as it:
        usual = await reporter(it).report()
        it.server.faults.add("market_closed", until_ns=it.clock.now_ns() + 60 * SECOND_NS)
        report = await reporter(it).report()
        after = next(session for session in it.server.market.sessions if session.open_ns > OPEN_NS)
    assert (usual.market_open, usual.next_open_ns) == (True, after.open_ns)
    assert (report.market_open, report.next_open_ns) == (False, after.open_ns)


async def test_a_close_of_the_broker_s_clock_is_told_once_two_answers_have_it() -> None:
    async with desk() as it:
        making, sessions = reporter(it), it.server.market.sessions
        place = next(at for at, session in enumerate(sessions) if session.open_ns == OPEN_NS)
        usual = [(await making.report()).next_close_ns for _ in range(2)]
        early_ns = OPEN_NS + 60 * 60 * SECOND_NS
        sessions[place] = msgspec.structs.replace(sessions[place], close_ns=early_ns)
        early = [(await making.report()).next_close_ns for _ in range(2)]
    assert (usual[1], early) == (OPEN_NS + 390 * 60 * SECOND_NS, [0, early_ns])


async def test_an_account_without_a_number_or_cash_fails_the_report() -> None:
    async with desk() as it:
        making = reporter(it)
        it.server.account.account_number = ""
        with pytest.raises(Malformed, match="account_number"):
            await making.report()


async def test_unknown_fields_change_nothing() -> None:
    async with desk() as it:
        it.server.faults.add("http_unknown_field", times=20)
        report = await reporter(it).report()
    assert isinstance(report, BrokerReported)


ANNOUNCEMENTS = "/v2/corporate_actions/announcements"
SPLIT_ROW = {"ca_type": "split", "initiating_symbol": "SPY", "target_symbol": "SPY", "ex_date": "2024-07-02"}
MERGER_ROW = {"ca_type": "merger", "initiating_symbol": "BUYS", "target_symbol": "SOLD", "ex_date": "2024-07-02"}


async def rested(it: Desk) -> None:
    """A call is held, and a stop rests below it."""
    await filled(it, buy())
    stop = SubmitOrder("e1-scalper-2-2-0", CALL, -1, 1, None, "sell_to_close", 0, stop_price=Decimal("0.01"))
    await it.orders.submit(stop)


async def test_announcements_are_read_once_where_a_stop_rests_and_nowhere_else() -> None:
    async with desk(rate=60) as it:
        making = reporter(it)
        await making.report()
        assert it.count("GET", ANNOUNCEMENTS) == 0
        await rested(it)
        for _ in range(3):
            await making.report()
        assert it.count("GET", ANNOUNCEMENTS) == 1


async def test_an_ex_date_that_could_not_be_read_is_asked_for_again_and_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with desk() as it:
        row = {"activity_type": "DIV", "symbol": "SPY", "net_amount": "5"} | DATE
        it.server.account.note(it.server.clock.now_ns(), row)
        symbols: list[str] = []

        async def ex_date(symbol: str, paid: date) -> str:
            symbols.append(symbol)
            if len(symbols) < 3:
                raise Malformed("not now")
            return "2024-07-01"

        monkeypatch.setattr(it.reads, "ex_date", ex_date)
        recorder = LogRecorder()
        making, ex_dates = reporter(it, recorder), []
        for _ in range(4):
            making.forget()
            ex_dates += [line.ex_date for line in (await making.report()).activities if line.kind == "DIV"]
    assert ex_dates == ["", "", "2024-07-01", "2024-07-01"]
    assert len(symbols) == 3
    assert [name for name, _ in recorder.entries if name == "ex_date_unknown"] == ["ex_date_unknown"]


async def test_what_is_announced_for_the_day_is_a_line_that_books_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with desk(rate=60) as it:
        await rested(it)
        days: list[str] = []

        async def read_announcements(kinds: str, by: str, first_date: str, last_date: str) -> list[dict[str, Any]]:
            assert (kinds, by) == ("split,spinoff,merger,dividend", "ex_date")
            first, last = date.fromisoformat(first_date), date.fromisoformat(last_date)
            assert (last - first).days == 10
            days.append((first + (last - first) / 2).isoformat())
            if len(days) == 1:
                raise Malformed("not now")
            another_day = [row | {"ex_date": "2024-07-03"} for row in (SPLIT_ROW, MERGER_ROW)]
            dividends_paid = [
                {"ca_type": "dividend", "ca_sub_type": kind, "initiating_symbol": symbol, "target_symbol": symbol}
                for kind, symbol in (("cash", "SPY"), ("stock", "FREE"), ("", "ODD"))
            ]
            return [SPLIT_ROW, MERGER_ROW, *dividends_paid, *another_day]

        monkeypatch.setattr(it.reads, "_announcements", read_announcements)
        recorder = LogRecorder()
        making = reporter(it, recorder)
        lines = [[line for line in (await making.report()).activities if line.status == "announced"] for _ in range(3)]
    assert [name for name, _ in recorder.entries if name == "announcements_unread"] == ["announcements_unread"]
    announcements = [(line.kind, line.symbol, line.ex_date) for line in lines[1]]
    of_today = [("SPLIT", "SPY", days[0]), ("MA", "BUYS", days[0]), ("MA", "SOLD", days[0])]
    of_today += [("SPLIT", "FREE", days[0]), ("SPLIT", "ODD", days[0])]  # paid in shares, and not known in what
    assert announcements == [*of_today, ("MA", "BUYS", "2024-07-03"), ("MA", "SOLD", "2024-07-03")]
    assert [len(day_lines) for day_lines in lines] == [0, 7, 0]
    assert len({line.id for line in lines[1]}) == 7
    assert {(line.quantity, line.amount) for line in lines[1]} == {(Decimal(0), Decimal(0))}


@pytest.mark.parametrize(
    ("rows", "ratio"),
    [
        ([SPLIT_ROW | {"old_rate": "1", "new_rate": "3"}, MERGER_ROW | {"old_rate": "1", "new_rate": "0.5"}], "3/1"),
        ([SPLIT_ROW | {"old_rate": 10, "new_rate": 1}] * 2, "1/10"),
        ([MERGER_ROW | {"target_symbol": "SPY", "old_rate": "1", "new_rate": "0.8125"}], "0.8125/1"),
        ([SPLIT_ROW | {"old_rate": "1", "new_rate": "3"}, SPLIT_ROW | {"old_rate": "1", "new_rate": "2"}], ""),
        ([SPLIT_ROW | {"old_rate": "1", "new_rate": None}], ""),
        ([SPLIT_ROW | {"old_rate": "0", "new_rate": "3"}], ""),
        ([MERGER_ROW | {"old_rate": "1", "new_rate": "0.5"}], ""),
        ([], ""),
    ],
)
async def test_the_ratio_of_a_split_is_that_of_its_one_announcement(
    rows: list[Any], ratio: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk() as it:

        async def get(path: str, query: dict[str, str]) -> list[Any]:
            assert (path, query["since"], query["until"]) == (ANNOUNCEMENTS[3:], "2024-06-28", "2024-07-03")
            return rows

        monkeypatch.setattr(it.reads._client, "get", get)
        assert await it.reads.ratio("SPY", date(2024, 7, 3)) == ratio


async def test_either_party_of_a_spin_off_may_be_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    # as Alpaca announced Fortrea's of 2023: the parent in the place of the new share, and nobody in the parent's
    fortrea = {"ca_type": "spinoff", "initiating_symbol": "", "target_symbol": "LH", "ex_date": "2023-07-03"}
    rates = {"old_rate": "1", "new_rate": "1"}
    rows = [
        fortrea | rates,
        fortrea | rates,  # announced again
        {"initiating_symbol": "OLD", "target_symbol": "FTRE", "ex_date": "2023-07-05", "old_rate": 2, "new_rate": 1},
        fortrea | {"target_symbol": "ODD", "old_rate": "0", "new_rate": "1"},
    ]
    async with desk() as it:

        async def get(path: str, query: dict[str, str]) -> list[Any]:
            question = (path, query["ca_types"], query["since"], query["until"])
            assert question == (ANNOUNCEMENTS[3:], "spinoff", "2023-06-25", "2023-07-05")
            return rows

        monkeypatch.setattr(it.reads._client, "get", get)
        parents = await it.reads.spin_offs("FTRE", date(2023, 6, 30))
        assert parents == [("LH", "2023-07-03", "1/1"), ("OLD", "2023-07-05", "1/2")]
