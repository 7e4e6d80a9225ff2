"""A daily desk that is stopped or paused between its decision and the open keeps what it holds, also after a restart.

Expected values: the policy wants ALL_QQQ while it holds SPY; nothing of that is left. Books are the server's own,
also of what a guard's stop sold while the desk was dead.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from daemon.cli import ctl
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from simulator.trading.orders import AlpacaOrder
from simulator.trading.settlement import amend_fill
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, NEXT_DAY, daily_stage, jump, swapping
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import KEYS, Stage, Table, new_york_ns


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def sale_is_sent(desk: Stage) -> bool:
    return any(post["side"] == "sell" for post in desk.posts())


def works(desk: Stage) -> bool:
    return any(order.symbol == "SPY" for order in desk.account.working.values())


@pytest.mark.parametrize("how", ["SIGTERM", "pause"])
def test_a_stop_before_the_open_leaves_the_account_as_it_is(models: Path, tmp_path: Path, how: str) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        bought(desk)
        shares = desk.held()["SPY"]
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: sale_is_sent(desk), "the sale is sent")
        if how == "pause":
            assert ctl.main(["pause", "--state-dir", str(desk.state_dir), "--reason", "lunch"]) == 0
            desk.until_true(lambda: not works(desk), "the sale is cancelled")
        else:
            stop(desk)
            assert not works(desk)
            desk.start()
        desk.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(desk)
        assert desk.held() == {"SPY": shares}
        assert desk.books().state.basket.given_up["SPY"] == -shares
        assert differences(desk.books(), desk.account) == []


def test_a_cash_account_buys_for_what_has_settled_and_is_refused_nothing(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        bought(desk)
        desk.account.settles = True
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: not desk.held().get("SPY"), "SPY is sold")
        desk.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(desk)
        alarms = {line["alarm"] for line in desk.read_log("alarm")}
        assert ("order_rejected" in alarms, "basket_unfinished" in alarms) == (False, True)
        assert desk.books().state.basket.given_up["QQQ"] > 0
        assert differences(desk.books(), desk.account) == []


def guards_stop_sells(desk: Stage) -> AlpacaOrder:
    """The desk's stop ends; its guard's rests in its place, and sells three and five shares."""
    matching, now_ns = desk.server.server.matching, desk.clock.now_ns()
    for order in tuple(desk.account.working.values()):
        matching.end(desk.account, order, "canceled", now_ns)
    stop = {"type": "stop", "time_in_force": "gtc", "stop_price": "400.00", "client_order_id": "guard-SPY-7-9-0"}
    shares = str(desk.account.quantity("SPY"))
    order = matching.submit(desk.account, {"symbol": "SPY", "qty": shares, "side": "sell", **stop})
    for quantity, price in ((3, "398.37"), (5, "398.11")):
        matching.fill(desk.account, order, Decimal(quantity), Decimal(price), now_ns)
    return order


def bust(desk: Stage, order: AlpacaOrder) -> None:
    """The exchange takes the order's last trade back."""
    last = next(trade for trade in reversed(desk.account.trades) if trade.order_id == order.id)
    amend_fill(desk.server.server.matching, desk.account, last, None, desk.clock.now_ns())


def test_a_trade_of_its_guard_s_stop_that_is_busted_is_taken_back(models: Path, tmp_path: Path) -> None:
    rules: Table = {"protection": {"rest_at_broker": "on", "disaster_stop": 0.2}}
    rules = {**rules, "guard": {"prefix": "guard", "drop_dir": str(tmp_path)}}
    with daily_stage(HALF_DAY, "09:00", tmp_path / "stage", models, rules) as desk:
        secrets = {**KEYS, "GUARD_KEY": "5a" * 32}
        daemon = desk.start(environment=secrets)
        desk.until_true(lambda: any(post["type"] == "stop" for post in desk.posts()), "its stop is sent")
        desk.until_true(lambda: works(desk), "its stop rests")
        shares = desk.held()["SPY"]
        daemon.kill()
        daemon.wait(10)
        order = desk.server.call(guards_stop_sells, desk)
        desk.start(environment=secrets)
        desk.until_true(lambda: len(sold(desk, order)) == 2, "both trades are booked")
        desk.server.call(bust, desk, order)
        desk.until_true(lambda: len(sold(desk, order)) == 3, "the bust is booked")
        stop(desk)
        books = desk.books()
        assert (desk.halts(), books.state.book.positions["SPY"].quantity) == ([], shares - 3)
        assert books.state.book.cash == desk.account.cash


def sold(desk: Stage, order: AlpacaOrder) -> list[int]:
    """The quantities of the order's fills in the journal, taken back ones below 0."""
    reader = JournalReader(desk.state_dir / FILE)
    try:
        rows = reader.query("SELECT quantity FROM fills WHERE client_order_id = ?", (order.client_order_id,))
        return [row["quantity"] for row in rows]
    finally:
        reader.close()
