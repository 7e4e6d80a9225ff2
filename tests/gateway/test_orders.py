"""Orders through the gateway: siblings in one symbol, close calls, changes, lost answers, and a broker that is away."""

from __future__ import annotations

import asyncio
import stat
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest
from msgspec import UNSET

from daemon.alpaca_api.wire import Json
from daemon.brokers.alpaca import wire
from daemon.brokers.alpaca.trading.report import funds_of
from daemon.gateway import server
from daemon.gateway.command import show
from daemon.gateway.config import AccountLimits
from simulator.trading.venue import Rules
from strategies.kit.units import SECOND_NS
from tests.support.gateway_stage import CALL, KEYS, PATIENCE_S, SESSIONS, broker, gateway_on, stage, table
from tests.support.simulator.trade_listeners import trade_updates

WASH = (403, 40310000, "potential wash trade detected. use complex orders")


# --- never against each other -----------------------------------------------------------------------------------------


async def test_an_exit_sweeps_a_siblings_entry_away(tmp_path: Path) -> None:
    keys = KEYS["b"]
    async with (
        stage(tmp_path) as s,
        trade_updates(s.server.trade_stream, s.stream_url, keys.key, keys.secret, raw=True) as messages,
    ):
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        entry = await s.place("b", 3, type="limit", limit_price="490")
        own_order = await s.place("b", 1, type="limit", limit_price="480")
        assert (await s.ask("b", "DELETE", f"/v2/orders/{own_order['id']}"))[0] == 204
        await s.until(lambda: not s.books.orders[own_order["client_order_id"]].open)
        await s.place("a", 5, "sell")
        await s.until(lambda: not s.held("a"))
        # a cancel that it had not asked for would halt b's desk: it sees its order expire
        row = (await s.ask("b", "GET", f"/v2/orders/{entry['id']}"))[1]
        assert (row["status"], row["filled_qty"], row["canceled_at"]) == ("expired", "0", None)
        assert row["expired_at"]
        assert (await s.ask("b", "GET", f"/v2/orders/{own_order['id']}"))[1]["status"] == "canceled"
        ends = {entry["id"]: ("expired", "expired"), own_order["id"]: ("canceled", "canceled")}
        updates = {m["data"]["order"]["id"]: (m["data"]["event"], m["data"]["order"]["status"]) for m in messages}
        assert updates == ends
        await s.settled()
        assert s.verified().difference == ""


async def test_where_a_sibling_rests_a_stop_a_purchase_is_denied_by_the_gateway_s_words(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        stop = await s.place("a", 5, "sell", type="stop", stop_price="450", time_in_force="gtc")
        status, code, words = WASH
        assert await s.refused("b", 1) == (status, code, f"gateway: {words}; another sub-account's sell order works")
        assert (await s.ask("a", "DELETE", f"/v2/orders/{stop['id']}"))[0] == 204
        await s.until(lambda: not s.books.orders[stop["client_order_id"]].open)
        await s.place("b", 1)


async def test_a_persons_order_is_cancelled_by_nobody_and_the_close_call_passes_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        person_order = s.broker.by_hand("place", symbol="SPY", qty="1", side="buy", type="limit", limit_price="400")
        await s.until(lambda: person_order["id"] in s.books.names)
        assert await s.refused("a", 5, "sell", type="stop", stop_price="390") == WASH
        priced = await s.place("a", 3, "sell")
        assert (priced["type"], priced["limit_price"]) == ("limit", "400.01")  # a step beyond it
        await s.until(lambda: s.held("a") == {"SPY": Decimal(2)})
        assert s.broker.account.trades[-1].price == 500  # as at the market
        row = await s.place("a", 1, "sell", type="limit", limit_price="399")
        assert row["limit_price"] == "400.01"
        await s.place("a", 1, "sell", type="limit", limit_price="501")  # beyond it
        assert s.books.order_by_id(person_order["id"]).open  # type: ignore[union-attr]
        await s.settled()
        assert s.verified().difference == ""


async def test_two_purchases_of_one_symbol_do_not_meet(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await asyncio.gather(s.place("a", 2), s.place("b", 3))
        await s.until(lambda: (s.held("a"), s.held("b")) == ({"SPY": Decimal(2)}, {"SPY": Decimal(3)}))
        await s.settled()


# --- what main does ---------------------------------------------------------------------------------------------------


async def test_a_symbol_that_main_is_short_in_is_closed_to_entries(tmp_path: Path) -> None:
    def short(broker: object) -> None:
        broker.account.margin = 2  # type: ignore[attr-defined]
        broker.by_hand("place", symbol="SPY", qty="3", side="sell")  # type: ignore[attr-defined]

    async with stage(tmp_path, prepared=short) as s:
        await s.until(lambda: s.held("main") == {"SPY": Decimal(-3)})
        status, _, message = await s.refused("a", 1)
        assert (status, message) == (
            403,
            "gateway: SPY is closed to sub-accounts: main is short in it, or sells it short",
        )


async def test_an_order_with_a_guards_prefix_is_its_sub_accounts_whoever_sent_it(tmp_path: Path) -> None:
    async with stage(tmp_path, table("a", guard_prefix="guarda"), table("b")) as s:
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        name = "guarda-SPY-1-2-0"
        s.broker.by_hand("place", symbol="SPY", qty="5", side="sell", client_order_id=name)  # from another host
        await s.until(lambda: not s.held("a"))
        assert (await s.ask("a", "GET", "/v2/orders", status="all"))[1][0]["client_order_id"] == name
        assert not s.held("main")
        await s.settled()


async def test_a_guards_prefix_that_comes_later_makes_no_former_order_its_sub_accounts(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            s.broker.by_hand("place", symbol="SPY", qty="5", side="buy", client_order_id="guarda-SPY-1-2-0")
            await s.until(lambda: s.held("main") == {"SPY": Decimal(5)})
        async with gateway_on(alpaca, tmp_path, table("a", guard_prefix="guarda"), table("b")) as s:
            s.broker.by_hand("place", symbol="SPY", qty="2", side="buy", client_order_id="guarda-SPY-2-2-0")
            await s.until(lambda: s.held("a") == {"SPY": Decimal(2)})
            await s.settled()
            assert (s.held("main"), s.verified().difference) == ({"SPY": Decimal(5)}, "")


async def test_a_guard_whose_sub_account_left_the_file_sells_what_that_one_holds(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path, table("a", guard_prefix="guarda"), table("b")) as s:
            await s.place("a", 5)
            await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        async with gateway_on(alpaca, tmp_path, table("b")) as s:
            assert (await s.refused("b", 1, client_order_id="guarda-SPY-1-2-0"))[0] == 422
            with pytest.raises(ValueError, match="its guard may still rest a stop for what is gone"):
                await s.gateway.transfer("a", "main", Decimal(0), "SPY", Decimal(5), "anna", "")
            s.broker.by_hand("place", symbol="SPY", qty="5", side="sell", client_order_id="guarda-SPY-2-2-0")
            await s.until(lambda: not s.held("a"))
            assert s.held("main") == {}
            await s.settled()
        async with gateway_on(alpaca, tmp_path, table("b")) as s:
            assert s.books.guards == []  # it holds nothing any more


async def test_shares_of_a_desk_that_is_not_there_are_not_moved_without_its_guards_knowledge(tmp_path: Path) -> None:
    """The guard would rest a stop for all five: it ends, since it is for more than is left, and the rest has none."""
    async with stage(tmp_path, table("a", guard_prefix="guarda"), table("b")) as s:
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        await s.settled()
        with pytest.raises(ValueError, match="a's desk is not there, and its guard would rest a stop for what is gone"):
            await s.gateway.transfer("a", "b", Decimal(0), "SPY", Decimal(2), "anna", "")
        await s.gateway.transfer("a", "b", Decimal(10), "", Decimal(0), "anna", "")  # cash has no stop
        keys = KEYS["a"]
        async with trade_updates(s.server.trade_stream, s.stream_url, keys.key, keys.secret, raw=True):
            await s.gateway.transfer("a", "b", Decimal(0), "SPY", Decimal(2), "anna", "")
        await s.gateway.transfer("b", "main", Decimal(0), "SPY", Decimal(2), "anna", "")  # `b` has no guard
        await s.settled()
        assert [s.held(name) for name in ("a", "b", "main")] == [{"SPY": Decimal(3)}, {}, {"SPY": Decimal(2)}]


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        # 2 shares of 500.01 are held: 2 x 500.005 (the middle), and 2 more ask for 1,000.02
        ({"gross_exposure_max": "2000"}, "gross exposure 2000.04 USD, account.gross_exposure_max is 2000"),
        ({"symbol_exposure_max": "1500"}, "exposure in SPY 2000.04 USD, account.symbol_exposure_max is 1500"),
        ({"orders_a_minute": 1}, "1 orders within a minute, account.orders_a_minute is 1"),
    ],
)
async def test_a_limit_over_all_denies_new_risk_in_words_and_never_an_exit(
    tmp_path: Path, limits: dict[str, object], words: str
) -> None:
    async with stage(tmp_path, limits=AccountLimits(**limits)) as s:  # type: ignore[arg-type]
        await s.place("a", 2)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(2)})
        assert await s.refused("b", 2) == (403, 40310000, f"gateway: {words}")
        await s.place("a", 2, "sell")
        await s.until(lambda: not s.held("a"))


async def test_a_sub_account_trades_its_kinds_and_symbols_alone(tmp_path: Path) -> None:
    subs = (table("a", kinds=("options",), symbols=("SPY",)), table("b", symbols=("QQQ",)))
    cure = "gateway.toml may allow it, from the gateway's next start on"
    async with stage(tmp_path, *subs, symbols=("QQQ",)) as s:
        assert (await s.refused("a", 1))[2] == f"gateway: sub_account.a.kinds is ['options']: no shares; {cure}"
        await s.place("a", 1, symbol=CALL, type="limit", limit_price="9")
        assert (await s.refused("b", 1))[2] == f"gateway: sub_account.b.symbols is ['QQQ']: no SPY; {cure}"
        await s.place("b", 1, symbol="QQQ")


async def test_a_change_makes_no_order_larger_than_one_may_be(tmp_path: Path) -> None:
    async with stage(tmp_path, table("a", order_max=Decimal(5000)), table("b")) as s:
        row = await s.place("a", 10, type="limit", limit_price="480")
        status, answer = await s.ask("a", "PATCH", f"/v2/orders/{row['id']}", {"qty": "20"})
        words = "gateway: 9600.00 USD in one order, sub_account.a.order_max is 5000"
        assert (status, answer["message"]) == (403, words)
        assert (await s.ask("a", "PATCH", f"/v2/orders/{row['id']}", {"limit_price": "490"}))[0] == 200


async def test_a_halt_denies_new_risk_until_a_person_resumes(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.gateway.halt("operator", "news", "anna")
        assert (await s.refused("a", 1))[2] == "gateway: no new risk: operator: news"
        await s.gateway.resume("anna", "over")
        await s.place("a", 1)


async def test_a_halt_cancels_what_sub_accounts_still_buy_and_nothing_else(tmp_path: Path) -> None:
    """A purchase that fills after the halt would be new risk. Its desk sees it expire, which halts no desk."""
    low = {"type": "limit", "limit_price": "400"}
    async with stage(tmp_path, symbols=("QQQ",)) as s:
        await s.place("a", 2)
        await s.settled()
        stop = await s.place("a", 2, "sell", type="stop", stop_price="390")
        entry = await s.place("b", 1, symbol="QQQ", **low)
        s.broker.by_hand("place", symbol="QQQ", qty="1", side="buy", **low)
        await s.settled()
        await s.gateway.halt("operator", "news", "anna")
        await s.until(lambda: not s.books.orders[entry["client_order_id"]].open)
        assert (await s.ask("b", "GET", f"/v2/orders/{entry['id']}"))[1]["status"] == "expired"
        working = s.broker.account.working.values()
        assert sorted(order.symbol for order in working) == ["QQQ", "SPY"]
        assert stop["id"] in {order.id for order in working}
        assert s.verified().difference == ""


async def test_a_halt_cancels_a_purchase_again_where_the_broker_did_not_take_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        row = await s.place("a", 1, type="limit", limit_price="400")
        where = {"method": "DELETE", "path": f"/v2/orders/{row['id']}"}
        s.broker.faults.add("http_error", where=where, status=500, times=3)
        await s.gateway.halt("operator", "news", "anna")
        await s.until(lambda: not s.books.live)
        assert not s.broker.account.working


async def test_the_journal_is_proven_after_a_halt_whatever_the_orders_were_called(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with gateway_on(alpaca, tmp_path) as s:
            for name in ("z", "a"):
                await s.place("b", 1, type="limit", limit_price="400", time_in_force="gtc", client_order_id=name)
        async with gateway_on(alpaca, tmp_path) as s:  # by a snapshot
            await s.gateway.halt("operator", "a test", "anna")
            await s.until(lambda: not s.books.live)
        assert s.verified().difference == ""


async def test_a_halt_leaves_what_a_sub_account_buys_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.books.accounts["a"].change("SPY", Decimal(-1), Decimal(-500))  # as after a bust
        back = await s.place("a", 1, type="limit", limit_price="400")
        await s.gateway.halt("operator", "news", "anna")
        await asyncio.sleep(2.0)
        assert [order.id for order in s.broker.account.working.values()] == [back["id"]]


async def test_a_resume_ends_no_halt_that_somebody_else_set_a_moment_before(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.gateway.halt("operator", "news", "anna")
        with pytest.raises(ValueError, match=r"anna did this in the last minute: operator: news: look; .* add --seen"):
            await s.gateway.resume("bob", "yesterday's is over")
        assert s.halted() == "operator"
        await s.gateway.resume("bob", "anna agrees", s.gateway.now_ns())
        assert s.halted() == ""


async def test_an_operators_socket_whose_file_is_taken_away_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOOK_S", 0.01)
    async with stage(tmp_path) as s:
        control = s.folder / server.CONTROL_SOCKET
        keeping = asyncio.create_task(s.server.keep_control())
        control.unlink()
        await s.until(control.exists)
        assert stat.S_IMODE(control.lstat().st_mode) == 0o600
        halt = {"why": "news", "by": "anna"}
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(control))) as person,
            person.post("http://localhost/halt", json=halt) as answer,
        ):
            assert (answer.status, s.halted()) == (200, "operator")
        keeping.cancel()


async def test_the_days_loss_over_all_halts_new_risk(tmp_path: Path) -> None:
    async with stage(tmp_path, limits=AccountLimits(day_loss_max=Decimal(5))) as s:
        await s.place("a", 10)  # bought at 500.01, worth 500.005: 5 cents
        await s.settled()
        assert s.halted() == ""
        s.books.day = (s.books.day[0], s.books.day[1] + 6)
        await s.gateway.wait_for_report(30)
        assert s.halted() == "day_loss"
        assert "account.day_loss_max is 5" in (await s.refused("b", 1))[2]
        with pytest.raises(ValueError, match="_max is 5: it ends with the New York day"):
            await s.gateway.resume("anna", "go on")  # the next report would halt again
        assert s.halted() == "day_loss"
        await s.place("a", 10, "sell")


# --- changes of orders ------------------------------------------------------------------------------------------------


async def test_an_order_is_replaced_by_one_of_the_same_owner(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        row = await s.place("a", 4, type="limit", limit_price="480")
        status, new = await s.ask("a", "PATCH", f"/v2/orders/{row['id']}", {"limit_price": "490", "qty": "6"})
        assert (status, new["qty"], new["limit_price"], new["replaces"]) == (200, "6", "490", row["id"])
        await s.until(lambda: not s.books.orders[row["client_order_id"]].open)
        assert [o["id"] for o in (await s.ask("a", "GET", "/v2/orders"))[1]] == [new["id"]]
        # 6 x 490 of its 20,000 are kept
        assert (await s.ask("a", "GET", "/v2/account"))[1]["buying_power"] == "17060.00"
        assert (await s.ask("b", "PATCH", f"/v2/orders/{new['id']}", {"qty": "9"}))[0] == 404
        await s.settled()


@pytest.mark.parametrize("trail", [{"trail_price": "100"}, {"trail_percent": "20"}])
async def test_a_purchase_by_a_trailing_stop_counts_at_the_price_that_it_waits_for(
    tmp_path: Path, trail: dict[str, str]
) -> None:
    """It buys once the price is 100 above the 500.01 of now: 33 for 20,000, and 8 within 5,000."""
    subs = table("a"), table("b", exposure_max=Decimal(5000))
    async with stage(tmp_path, *subs) as s:
        for name, most in (("a", 33), ("b", 8)):
            order = {"type": "trailing_stop", "time_in_force": "day", **trail}
            assert (await s.refused(name, most + 1, **order))[0] == 403
            row = await s.place(name, most, **order)
            more = {"trail": str(int(next(iter(trail.values()))) + 30)}
            assert (await s.ask(name, "PATCH", f"/v2/orders/{row['id']}", more))[0] == 403


async def test_a_trailing_stop_is_replaced_wherever_its_trail_has_got_to(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 1)
        await s.until(lambda: bool(s.held("a")))
        row = await s.place("a", 1, "sell", type="trailing_stop", trail_percent="5", time_in_force="gtc")
        status, new = await s.ask("a", "PATCH", f"/v2/orders/{row['id']}", {"trail": "6"})
        assert (status, new["trail_percent"], new["replaces"]) == (200, "6", row["id"])


async def test_all_means_its_own(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        order_of_a = await s.place("a", 1, type="limit", limit_price="480")
        order_of_b = await s.place("b", 1, type="limit", limit_price="481")
        status, rows = await s.ask("a", "DELETE", "/v2/orders")
        assert (status, [row["id"] for row in rows]) == (207, [order_of_a["id"]])
        await s.until(lambda: not s.books.orders[order_of_a["client_order_id"]].open)
        assert s.books.orders[order_of_b["client_order_id"]].open
        await s.place("a", 3)
        await s.place("b", 2)
        await s.until(lambda: s.held("b") == {"SPY": Decimal(2)})
        status, rows = await s.ask("a", "DELETE", "/v2/positions", cancel_orders="true")
        assert (status, [(row["symbol"], row["status"]) for row in rows]) == (207, [("SPY", 200)])
        await s.until(lambda: not s.held("a"))
        assert s.held("b") == {"SPY": Decimal(2)}
        await s.settled()


async def test_the_fence_of_a_sub_account_stops_it_alone(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        status, row = await s.ask("a", "PATCH", "/v2/account/configurations", {"suspend_trade": True})
        assert (status, row["suspend_trade"]) == (200, True)
        assert (await s.ask("a", "GET", "/v2/account"))[1]["trade_suspended_by_user"] is True
        assert (await s.refused("a", 1))[:2] == (403, 40310000)
        await s.place("b", 1)
        assert (await s.ask("a", "PATCH", "/v2/account/configurations", {"no_shorting": False}))[0] == 422
        assert s.broker.account.configuration["suspend_trade"] is False


async def test_a_fence_of_the_account_itself_is_told_to_all_and_lifted_by_a_person(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 2)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(2)})
        s.broker.account.configuration["suspend_trade"] = True  # as a guard's of before the gateway, or a person's
        await s.gateway.wait_for_report(5.0)
        assert (await s.refused("a", 2, "sell"))[:2] == (403, 40310000)  # the broker's word: the way out is shut
        for name in ("a", "b"):
            assert (await s.ask(name, "GET", "/v2/account"))[1]["trading_blocked"] is True
        words = "trade_suspended_by_user (the account's setting suspend_trade)"
        assert [entry["detail"] for entry in s.log.of("gateway_blocked")] == [words]
        (line,) = [line for line in show(server.status_of(s.gateway)).splitlines() if line.startswith("BLOCKED: ")]
        assert line.endswith(f"{words}; `rltrader-gateway lift account` lifts that")
        s.broker.faults.add("http_error", where={"method": "PATCH"}, status=500)
        with pytest.raises(ValueError, match=r"the broker did not lift the account's fence: .*: try again"):
            await s.gateway.lift("account", "anna")
        s.broker.faults.clear()
        await s.gateway.lift("account", "anna")
        assert "BLOCKED" not in show(server.status_of(s.gateway))
        assert (await s.ask("a", "GET", "/v2/account"))[1]["trading_blocked"] is False
        await s.place("a", 2, "sell")
        await s.until(lambda: not s.held("a"))
        assert len(s.log.of("gateway_blocked")) == 1


async def test_a_deficit_of_the_account_s_margin_is_each_desk_s_and_exits_pass(tmp_path: Path) -> None:
    """The broker lets such an account close positions alone, whoever's holdings it counts the margin of."""
    async with stage(tmp_path) as s:
        await s.place("a", 2)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(2)})
        await asyncio.sleep(60)
        s.broker.faults.add("margin_deficit", until_ns=s.gateway.now_ns() + 60 * SECOND_NS, amount="250")
        await s.gateway.wait_for_report(5.0)
        for name in ("a", "b"):
            funds = funds_of((await s.ask(name, "GET", "/v2/account"))[1])
            assert funds.maintenance - funds.equity == 250  # type: ignore[operator]  # a desk's alarm margin_deficit
        assert "the account's margin is 250.00 USD above its equity" in (await s.refused("b", 1))[2]
        await s.place("a", 2, "sell")
        await s.until(lambda: not s.held("a"))
        await asyncio.sleep(60)
        await s.gateway.wait_for_report(5.0)
        await s.place("b", 1)


@pytest.mark.parametrize("figure", ["a lot", {}, "NaN"])
async def test_a_figure_of_the_account_that_cannot_be_read_keeps_no_desk_from_its_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: object
) -> None:
    async with stage(tmp_path) as s:
        account = s.gateway.upstream.reads.account

        async def odd_account() -> Json:
            return {**await account(), "non_marginable_buying_power": figure, "maintenance_margin": figure}

        monkeypatch.setattr(s.gateway.upstream.reads, "account", odd_account)
        await s.gateway.wait_for_report(5.0)
        status, row = await s.ask("a", "GET", "/v2/account")
        assert (status, row["buying_power"]) == (200, "20000.00")  # its own cash still limits it
        await s.place("a", 1)


# --- answers that do not come -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_order_without_an_answer_is_looked_up_and_never_sent_twice(tmp_path: Path, moment: str) -> None:
    async with stage(tmp_path) as s:
        fault = {"where": {"path": "/v2/orders", "method": "POST"}, "status": 504, "moment": moment}
        s.broker.faults.add("http_error", **fault)  # type: ignore[arg-type]
        body = {"symbol": "SPY", "qty": "2", "side": "buy", "type": "market", "time_in_force": "day"}
        status, _ = await s.ask("a", "POST", "/v2/orders", {**body, "client_order_id": "lost-1"})
        assert status == 504
        await s.until(lambda: s.books.orders["lost-1"].status not in ("sending", "unknown"))
        posts = [r for r in s.broker.requests if (r.method, r.path) == ("POST", "/v2/orders")]
        assert len(posts) == 1
        if moment == "after":
            await s.until(lambda: s.held("a") == {"SPY": Decimal(2)})
            assert (await s.ask("a", "GET", "/v2/orders:by_client_order_id", client_order_id="lost-1"))[0] == 200
        else:
            assert (await s.ask("a", "GET", "/v2/orders:by_client_order_id", client_order_id="lost-1"))[0] == 404
            assert not s.held("a")
            await s.place("a", 2, client_order_id="lost-1")  # its owner may use the name again
        await s.settled()


async def test_a_close_call_without_an_answer_keeps_other_sales_back_and_is_found(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 3)
        await s.place("b", 2)
        await s.until(lambda: s.held("b") == {"SPY": Decimal(2)})
        s.broker.faults.add(
            "http_error", where={"path": "/v2/positions/SPY", "method": "DELETE"}, status=504, moment="after"
        )
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY"))[0] == 504
        await s.until(lambda: not s.held("a"))
        assert s.held("b") == {"SPY": Decimal(2)}
        rows = (await s.ask("a", "GET", "/v2/orders", status="all"))[1]
        (sale,) = (wire.order(row) for row in rows if row["side"] == "sell")  # as its desk knows it again
        assert (sale.quantity, sale.limit_price, sale.stop_price) == (Decimal(3), None, UNSET)
        assert not s.held("main")
        await s.settled()


async def test_while_the_broker_is_away_nobody_sees_a_stale_account_and_nothing_new_is_risked(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 3)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(3)})
        s.broker.trade_stream.cut(hold_s=5.0)
        await s.until(lambda: not s.gateway.ready)
        assert (await s.ask("a", "GET", "/v2/positions"))[0] == 503
        assert "no new risk" in (await s.refused("a", 1))[2]
        await s.place("a", 3, "sell")  # the way out stays open
        await s.until(lambda: s.gateway.ready)
        await s.until(lambda: not s.held("a"))
        await s.settled()


async def test_what_may_have_been_sold_unseen_is_not_moved_while_the_broker_is_away(tmp_path: Path) -> None:
    """Moved by the old books, `b` would hold five shares that nobody has, and `a` would be short of them."""
    async with stage(tmp_path, table("a", guard_prefix="guarda"), table("b")) as s:
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        s.broker.trade_stream.cut(hold_s=5.0)
        await s.until(lambda: not s.gateway.ready)
        s.broker.by_hand("place", symbol="SPY", qty="5", side="sell", client_order_id="guarda-1")
        await s.until(lambda: s.broker.account.quantity("SPY") == 0)
        for cash, quantity in ((0, 5), (100, 0)):
            with pytest.raises(
                ValueError, match=r"the broker's trade stream is gone.*: try again once the broker is back"
            ):
                await s.gateway.transfer("a", "b", Decimal(cash), "SPY", Decimal(quantity), "anna", "")
        await s.until(lambda: s.gateway.ready)
        await s.settled()
        assert (s.held("a"), s.held("b")) == ({}, {})
        await s.gateway.transfer("a", "b", Decimal(100), "", Decimal(0), "anna", "")


@pytest.mark.parametrize("outage", ["stream", "reports"])
async def test_a_close_call_and_a_panic_pass_while_the_broker_is_half_away(tmp_path: Path, outage: str) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        await s.place("b", 1, type="limit", limit_price="400")
        await asyncio.sleep(60)  # the reads of the start are made up for
        if outage == "stream":  # which does not come back: what happened is heard by reports alone
            s.broker.trade_stream.cut(hold_s=600.0)
            await s.until(lambda: not s.gateway.ready)
        else:
            where = {"method": "GET", "path": "/v2/account"}
            s.broker.faults.add("http_error", where=where, status=500, times=1000)
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY", qty="1"))[0] == 200  # b's entry made way
        stop = await s.place("a", 2, "sell", type="stop", stop_price="450", time_in_force="gtc")
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY", qty="3"))[0] == 403  # the stop keeps two of four
        rows = await s.gateway.panic("a", "anna")
        assert [(row["status"], row["body"].get("qty")) for row in rows] == [(200, "4")]
        await s.until(lambda: not s.broker.account.positions)
        assert s.broker.account.orders[stop["id"]].status == "canceled"
        assert not s.gateway.ready


# --- a person at the broker, and panic --------------------------------------------------------------------------------


async def test_what_a_person_sold_of_a_desks_shares_is_mains_short_and_the_desk_sells_what_is_there(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 10)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(10)})
        s.broker.by_hand("place", symbol="SPY", qty="4", side="sell")
        await s.until(lambda: s.held("main") == {"SPY": Decimal(-4)})
        (row,) = (await s.ask("a", "GET", "/v2/positions"))[1]
        assert (row["qty"], row["qty_available"]) == ("10", "6")  # six are left at the broker
        assert (await s.refused("a", 10, "sell"))[0] == 403
        assert (await s.refused("b", 1))[2].startswith("gateway: SPY is closed to sub-accounts")
        await s.place("a", 6, "sell")
        await s.until(lambda: s.held("a") == {"SPY": Decimal(4)})
        await s.settled()  # 4 of a's and -4 of main's: the broker has none
        s.broker.by_hand("place", symbol="SPY", qty="4", side="buy")
        await s.until(lambda: not s.held("main"))
        await s.place("a", 4, "sell")
        await s.until(lambda: not s.held("a"))


@pytest.mark.parametrize("late", [False, True])  # as on paper: its lines come the next day
async def test_shares_that_a_persons_short_call_took_are_sold_by_no_desk_before_they_are_there_again(
    tmp_path: Path, *, late: bool
) -> None:
    rules = Rules(fill_sizes=(1000, 1000), dead_session_s=1.0, late_activities=late)
    async with stage(tmp_path, table("a", "60000"), rules=rules) as s:
        s.broker.account.margin = 2  # it may sell short
        await s.place("a", 100)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(100)})
        s.broker.by_hand("place", symbol=CALL, qty="1", side="sell", type="limit", limit_price="0.01")
        await s.until(lambda: s.held("main") == {CALL: Decimal(-1)})
        await s.settled()
        await asyncio.sleep(11)
        await s.settled()
        details = [entry["detail"] for entry in s.log.of("gateway_main_short")]
        assert details == ["main is short of 100 SPY for calls that a person wrote, by the books held: a 100"]
        s.broker.faults.add("assignment", symbol=CALL)
        await s.until(lambda: s.broker.account.quantity("SPY") == 0)
        for _ in range(2):
            await s.gateway.wait_for_report(PATIENCE_S)
            await asyncio.sleep(11)
        assert (await s.refused("a", 100, "sell"))[0] == 403
        assert (await s.ask("a", "DELETE", "/v2/positions/SPY"))[0] == 403
        assert s.broker.account.quantity("SPY") == 0  # and not a hundred short
        s.broker.by_hand("place", symbol="SPY", qty="100", side="buy")
        await s.until(lambda: s.held("main").get("SPY") == (100 if late else None))
        await s.place("a", 100, "sell")
        await s.until(lambda: not s.held("a"))
        if late:
            s.broker.clock.jump_to(SESSIONS[1].open_ns)
            s.broker.back_office.advance(SESSIONS[1].open_ns)
        await s.settled()
        assert s.held("main") == {}
        assert s.verified().difference == ""


async def test_a_stop_of_shares_that_a_persons_short_call_took_ends_and_rests_again_once_they_are_there(
    tmp_path: Path,
) -> None:
    stop = {"type": "stop", "stop_price": "400", "time_in_force": "gtc"}
    async with stage(tmp_path, table("a", "60000"), table("b")) as s:
        await s.place("a", 100)
        await s.place("b", 10)
        await s.until(lambda: (s.held("a"), s.held("b")) == ({"SPY": Decimal(100)}, {"SPY": Decimal(10)}))
        s.broker.by_hand("place", symbol=CALL, qty="1", side="sell", type="limit", limit_price="0.01")
        await s.until(lambda: s.held("main") == {CALL: Decimal(-1)})
        await s.place("b", 10, "sell", client_order_id="older", **stop)
        row = await s.place("a", 100, "sell", client_order_id="newer", **stop)
        await s.settled()
        s.broker.faults.add("assignment", symbol=CALL)
        await s.until(lambda: s.broker.account.quantity("SPY") == 10)
        await s.settled()
        await s.until(lambda: "newer" not in s.books.live)
        assert [order.client_order_id for order in s.broker.account.working.values()] == ["older"]
        assert (await s.ask("a", "GET", f"/v2/orders/{row['id']}"))[1]["status"] == "expired"  # which halts no desk
        assert (await s.refused("a", 100, "sell", **stop))[0] == 403
        s.broker.by_hand("cancel", order_id=s.broker.account.by_client_id["older"].id)
        await s.until(lambda: not s.books.live)
        s.broker.by_hand("place", symbol="SPY", qty="100", side="buy")
        await s.until(lambda: s.held("main") == {})
        await s.place("a", 100, "sell", **stop)
        await s.settled()


async def test_shares_of_a_desk_that_a_person_sold_are_told_until_they_are_there_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:

        async def told_after_a_report() -> list[object]:
            await asyncio.sleep(11)
            await s.settled()
            return [entry["detail"] for entry in s.log.of("gateway_main_short")]

        for name in ("a", "b"):
            await s.place(name, 5)
        await s.until(lambda: s.held("a") == s.held("b") == {"SPY": Decimal(5)})
        s.broker.by_hand("place", symbol="SPY", qty="4", side="sell")
        await s.until(lambda: s.held("main") == {"SPY": Decimal(-4)})
        await s.settled()
        assert s.log.of("gateway_main_short") == []  # it may be news of a close call on its way
        words = "main is short of 4 SPY, by the books held: a 5, b 5"
        assert await told_after_a_report() == [words]
        assert await told_after_a_report() == [words]
        s.broker.by_hand("place", symbol="SPY", qty="1", side="sell")
        assert await told_after_a_report() == [words, words.replace("4", "5", 1)]
        lines = show(server.status_of(s.gateway)).splitlines()
        (line,) = [line for line in lines if line.startswith("SHORT: ")]
        assert "a person sold 5 SPY that a or b holds by the books" in line
        assert "`rltrader-gateway transfer a main --symbol SPY --quantity 5 --why WORDS`" in line
        await s.gateway.transfer("a", "main", Decimal(0), "SPY", Decimal(5), "anna", "sold by hand")
        assert await told_after_a_report() == [words, words.replace("4", "5", 1)]
        assert (s.held("a"), s.held("b"), s.held("main")) == ({}, {"SPY": Decimal(5)}, {})
        assert "SHORT" not in show(server.status_of(s.gateway))
        await s.place("b", 1)  # the symbol is open again


async def test_cash_of_desks_that_a_person_withdrew_is_told_once_with_what_ends_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:

        def told() -> list[object]:
            return [entry["detail"] for entry in s.log.of("gateway_main_short")]

        s.gateway.books.accounts = dict(reversed(s.gateway.books.accounts.items()))  # a snapshot has its own order
        s.broker.faults.add("transfer", amount="-90000")  # main has 60000
        await s.until(lambda: s.broker.account.cash == 10000)
        await s.settled()
        assert told() == []
        for _ in range(2):
            await asyncio.sleep(11)
            await s.settled()
            assert told() == ["main is short of 30000 USD, by the books held: a 20000, b 20000"]
        (line,) = [line for line in show(server.status_of(s.gateway)).splitlines() if line.startswith("SHORT: ")]
        assert line.startswith("SHORT: a person took 30000.00 USD that a and b have by the books: pay them in, or ")
        assert "`rltrader-gateway transfer a main --cash 20000.00 --why WORDS`" in line
        await s.gateway.transfer("a", "main", Decimal(20000), "", Decimal(0), "anna", "withdrawn")
        s.broker.faults.add("transfer", amount="10000")
        await s.until(lambda: s.broker.account.cash == 20000)
        await s.settled()
        assert "SHORT" not in show(server.status_of(s.gateway))
        assert len(told()) == 1


async def test_shares_of_others_that_a_desks_guard_sold_are_told_until_they_are_there_again(tmp_path: Path) -> None:
    """The guard did not know that the five were moved from `a` to `b` in its desk's silence."""
    async with stage(tmp_path, table("a", guard_prefix="guarda"), table("b")) as s:
        await s.place("b", 5)
        await s.until(lambda: s.held("b") == {"SPY": Decimal(5)})
        await s.settled()
        s.broker.by_hand("place", symbol="SPY", qty="5", side="sell", client_order_id="guarda-1")
        await s.until(lambda: s.held("a") == {"SPY": Decimal(-5)})
        assert (await s.refused("b", 5, "sell"))[0] == 403  # the account has none
        await s.settled()
        for _ in range(2):
            await asyncio.sleep(11)
            await s.settled()
            details = [entry["detail"] for entry in s.log.of("gateway_desk_short")]
            assert details == ["a is short of 5 SPY, by the books held: b 5"]
        (line,) = [line for line in show(server.status_of(s.gateway)).splitlines() if line.startswith("SHORT: ")]
        assert line.startswith("SHORT: a sold 5 SPY that b holds by the books, and the account has less: ")
        assert "`rltrader-gateway panic a` buys them back" in line
        assert "`rltrader-gateway transfer b a --symbol SPY --quantity 5 --why WORDS`" in line
        await s.gateway.panic("a", "anna")
        await s.until(lambda: not s.held("a"))
        await s.place("b", 5, "sell")
        await s.until(lambda: not s.held("b"))
        await s.settled()
        assert s.log.of("gateway_main_short") == []
        assert "SHORT" not in show(server.status_of(s.gateway))


async def test_a_sale_in_usd_is_refused_since_its_quantity_is_not_known(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 2)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(2)})
        body = {"symbol": "SPY", "notional": "600", "side": "sell", "type": "market", "time_in_force": "day"}
        status, row = await s.ask("a", "POST", "/v2/orders", body)
        assert (status, "sell a quantity" in row["message"]) == (422, True)
        status, _ = await s.ask("a", "POST", "/v2/orders", {**body, "side": "buy"})
        assert status == 200
        await s.until(lambda: s.held("a")["SPY"] > 3)
        await s.settled()


async def test_panic_of_one_closes_its_holdings_and_keeps_it_flat(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 3)
        await s.place("b", 2)
        await s.until(lambda: bool(s.held("a")) and bool(s.held("b")))
        await s.place("a", 3, "sell", type="stop", stop_price="400", time_in_force="gtc")
        rows = await s.gateway.panic("a", "anna")
        assert [(row["symbol"], row["status"]) for row in rows] == [("SPY", 200)]
        await s.until(lambda: not s.held("a"))
        assert s.held("b") == {"SPY": Decimal(2)}
        assert (await s.refused("a", 1))[0] == 403
        await s.settled()


async def test_panic_of_the_account_closes_everything(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.broker.by_hand("place", symbol="SPY", qty="1.5", side="buy")
        await s.place("a", 3)
        await s.until(lambda: bool(s.held("a")) and bool(s.held("main")))
        await s.gateway.panic("account", "anna")
        await s.until(lambda: not s.broker.account.positions)
        assert s.halted() == "panic"
        assert not s.held("a")
        assert not s.held("main")
        await s.settled()


async def test_an_entry_that_is_still_on_its_way_is_swept_when_it_is_there(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.place("a", 5)
        await s.until(lambda: s.held("a") == {"SPY": Decimal(5)})
        s.broker.faults.add("http_slow", where={"path": "/v2/orders", "method": "POST"}, seconds=1, moment="before")
        entry = asyncio.create_task(s.place("b", 3, type="limit", limit_price="490", client_order_id="late"))
        await s.until(lambda: "late" in s.books.live)
        await s.place("a", 5, "sell")
        await s.until(lambda: not s.held("a"))
        await entry
        assert s.books.orders["late"].status == "canceled"
        deletes = [r.path for r in s.broker.requests if r.method == "DELETE"]
        assert deletes == [f"/v2/orders/{s.books.orders['late'].id}"]
        await s.settled()


async def test_the_fence_of_a_panic_is_lifted_by_a_person(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        await s.gateway.panic("a", "anna")
        assert (await s.refused("a", 1))[0] == 403
        with pytest.raises(ValueError, match=r"anna did this in the last minute: panic: all of a is closed: look"):
            await s.gateway.lift("a", "bob")
        assert (await s.refused("a", 1))[0] == 403
        await s.gateway.lift("a", "bob", s.gateway.now_ns())
        await s.place("a", 1)
