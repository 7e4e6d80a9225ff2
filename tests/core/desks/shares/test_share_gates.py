"""The gates of a daily desk: each denies just beyond its limit and what it does not know, and says why.

Equity 10,000 USD, 20 AAA at 100.00 held, 8,000 USD of cash; numbers are computed by hand.
"""

from __future__ import annotations

from dataclasses import replace as changed
from decimal import Decimal

import msgspec
import pytest
from msgspec.structs import replace

from daemon.core.desks.registry import SHARE_GATES
from daemon.core.events import SessionScheduled
from daemon.core.gates import Applies, Gate, Intent, RiskView, ask_gates
from daemon.core.limits import Basket, Risk, Trading
from daemon.core.orders import Order
from daemon.core.state import Book, Halt, Model, Pause, Position, RiskState, SessionState
from strategies.kit.contract import Grid, Leg
from tests.support.core.daily_desk import IDENTITY, KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk, daily_desk, orders, quote
from tests.support.core.desk import FRIDAY, MINUTE, MONDAY, SECOND, TUESDAY, alarms

NOW = MONDAY.open_ns + 10 * MINUTE
BOOK = Book(
    cash=Decimal(8000), positions={"AAA": Position("AAA", 0, 20, Decimal(2000), 1, 0, "")}, equity=Decimal(10000),
    peak=Decimal(10000), session_start_equity=Decimal(10000),
)  # fmt: skip
VIEW = RiskView(
    now_ns=NOW,
    identity=replace(IDENTITY, mode="live"),
    limits=Risk(),
    execution=Trading().execution,
    session=SessionState(session=MONDAY, warm=True, previous=LAST_FRIDAY.date),
    grid=Grid(86_400 * SECOND),
    risk=RiskState(reconciled=True),
    model=Model("v1", promoted=True, feed="sip"),
    book=BOOK,
    orders={},
    quotes={symbol: quote(symbol, "99.9/100.1", NOW) for symbol in SYMBOLS},
    basket=Basket(),
    symbols=SYMBOLS,
    marks=dict.fromkeys(SYMBOLS, Decimal(100)),
    newest_bar=LAST_FRIDAY.date,
    cost_rate=Decimal("0.001"),
)
BUY = Intent("entry", None, "BBB", +1, 10, Decimal("100.2"))
SELL = Intent("exit", None, "AAA", -1, 20, Decimal("99.7"))
BASKET = Intent("basket", None, "", 0, 0, None, legs=(Leg("AAA", 0), Leg("BBB", 30)))
BY_NAME = {gate.name: gate for gate in SHARE_GATES}


def order(symbol: str, side: int, quantity: int, limit: str | None = "100", purpose: str = "entry") -> dict[str, Order]:
    price = None if limit is None else Decimal(limit)
    return {"o1": Order("o1", "1.0", purpose, "policy", symbol, side, quantity, price, "accepted", 0)}


def legs(*pairs: tuple[str, int]) -> Intent:
    return replace(BASKET, legs=tuple(Leg(symbol, goal) for symbol, goal in pairs))


def test_what_is_within_all_limits_passes_each_gate() -> None:
    for intent in (BUY, SELL, BASKET):
        assert ask_gates(VIEW, intent, SHARE_GATES).denials == ()


def test_each_gate_is_put_to_what_it_is_about() -> None:
    def gates_of(intent: Intent) -> set[str]:
        return {name for name, verdict in ask_gates(VIEW, intent, SHARE_GATES).by_gate.items() if verdict is not None}

    def of(*kinds: Applies) -> set[str]:
        return {gate.name for gate in SHARE_GATES if gate.applies in kinds}

    assert gates_of(SELL) == of(Applies.EVERY_ORDER)
    assert gates_of(BUY) == of(Applies.EVERY_ORDER, Applies.NEW_RISK, Applies.ENTRY)
    assert gates_of(BASKET) == of(Applies.NEW_RISK, Applies.BASKET)
    assert len(BY_NAME) == len(SHARE_GATES)
    assert {"cooldown_trade", "consecutive_losses", "shares_held", "low_confidence"}.isdisjoint(BY_NAME)


DESK = {
    "halted": replace(VIEW, risk=RiskState(reconciled=True, halt=Halt("x", "y", 1))),
    "paused": replace(VIEW, risk=RiskState(reconciled=True, pause=Pause("x", 0))),
    "stopping": replace(VIEW, risk=RiskState(reconciled=True, stopping="x")),
    "not_reconciled": replace(VIEW, risk=RiskState()),
    "account_blocked": replace(VIEW, blocked="trading_blocked"),
    "market_closed": replace(VIEW, closed=True),
    "blind": replace(VIEW, blind="quotes lost for 5 minutes while AAA is held"),
    "warm_up": replace(VIEW, session=replace(VIEW.session, warm=False)),
    "model_not_promoted": replace(VIEW, model=Model("v1", promoted=False, feed="sip")),
    "model_other_feed": replace(VIEW, model=Model("v1", promoted=True, feed="iex")),
    "daily_loss": replace(VIEW, limits=changed(Risk(), drawdown_max=1.0), book=replace(BOOK, equity=Decimal(9000))),
    "drawdown": replace(VIEW, book=replace(BOOK, peak=Decimal(14286))),
    "reject_rate": replace(VIEW, risk=RiskState(reconciled=True, outcomes=(True, False) * 5)),
}


@pytest.mark.parametrize("name", DESK)
def test_what_forbids_new_risk_denies_baskets_and_buys_and_no_sale(name: str) -> None:
    for intent, denied in ((BASKET, [name]), (BUY, [name]), (SELL, [])):
        assert [denial.gate for denial in ask_gates(DESK[name], intent, SHARE_GATES).denials] == denied


def test_without_a_model_or_a_calendar_nothing_new_is_bought() -> None:
    blind = replace(VIEW, model=None, session=SessionState())
    denied = {denial.gate for denial in ask_gates(blind, BUY, SHARE_GATES).denials}
    assert {"calendar_unknown", "outside_session", "model_not_verified", "model_other_feed"} <= denied


GOOD_BAD: dict[str, list[tuple[RiskView, Intent, str]]] = {
    "stale_history": [
        (replace(VIEW, newest_bar="2024-06-27"), BASKET, "the newest bar is of 2024-06-27, not of 2024-06-28"),
        (replace(VIEW, newest_bar=MONDAY.date), BASKET, "the newest bar is of 2024-07-01, not of 2024-06-28"),
        (replace(VIEW, newest_bar=""), BASKET, "the newest bar is of no day, not of 2024-06-28"),
        (replace(VIEW, session=SessionState(session=MONDAY)), BASKET, "the session before this one is unknown"),
    ],
    "basket_legs": [
        (VIEW, legs(("AAA", 1), ("AAA", 2)), "leg AAA: twice"),
        (VIEW, legs(("ZZZ", 1)), "leg ZZZ: not one of the symbols of this desk"),
        (VIEW, legs(("AAA", -1)), "leg AAA: -1 shares; a desk never sells short"),
        (replace(VIEW, marks={"AAA": Decimal(0)}), legs(("AAA", 1)), "leg AAA: no price is known"),
    ],
    "basket_under_way": [
        (replace(VIEW, orders=order("AAA", -1, 5)), BASKET, "order o1 of AAA still works"),
    ],
    "turnover": [
        (replace(VIEW, basket=Basket(turnover_max=0.49)), BASKET, "turnover would be 0.5000 of the equity, limit 0.49"),
        (replace(VIEW, book=replace(BOOK, equity=Decimal(0))), BASKET, "equity is 0 USD"),
    ],
    "order_weight": [
        (replace(VIEW, basket=Basket(order_weight_max=0.1)), BUY, "the order would be 0.1002 of the equity, limit 0.1"),
        (VIEW, replace(BUY, limit_price=None), "cost unknown: a buy needs a limit price"),
    ],
    "order_notional": [
        (
            replace(VIEW, basket=Basket(order_notional_max_usd=Decimal(1001))),
            BUY,
            "notional 1002.0 USD, limit 1001",
        ),
        # one and a half times 0.066 of 10,000 USD
        (replace(VIEW, basket=Basket(weight_max=0.066)), BUY, "notional 1002.0 USD, limit 990.0000"),
        (
            replace(VIEW, basket=Basket(order_notional_max_usd=Decimal(5000))),
            replace(BUY, limit_price=None),
            "cost unknown: a buy needs a limit price",
        ),
    ],
    "position_weight": [
        (
            replace(VIEW, basket=Basket(position_weight_max=0.35), orders=order("AAA", +1, 5)),
            replace(BUY, symbol="AAA"),
            "AAA would be 0.3507 of the equity, limit 0.35",
        ),
        (VIEW, replace(BUY, limit_price=None), "cost unknown: a buy needs a limit price"),
    ],
    "intraday_margin": [
        (replace(VIEW, deficit=Decimal(1)), BUY, "the broker's margin is 1 USD above the equity: a deficit"),
        (replace(VIEW, book=replace(BOOK, equity=Decimal(0))), BUY, "equity is 0 USD"),
    ],
    "gross_weight": [
        (
            replace(VIEW, basket=Basket(gross_weight_max=0.35), orders=order("CCC", +1, 5)),
            BUY,
            "all positions would be 0.3502 of the equity, limit 0.35",
        ),
        (
            replace(VIEW, basket=Basket(gross_weight_max=0.35), orders=order("CCC", +1, 5, None)),
            BUY,
            "all positions would be 0.3502 of the equity, limit 0.35",
        ),
        (VIEW, replace(BUY, limit_price=None), "cost unknown: a buy needs a limit price"),
    ],
    "buying_power": [
        (
            replace(VIEW, book=replace(BOOK, cash=Decimal("1003.0019"))),
            BUY,
            "costs 1003.002000 USD, buying power 1003.0019",
        ),
        (VIEW, replace(BUY, limit_price=None), "cost unknown: a buy needs a limit price"),
    ],
    "orders_per_minute": [
        (
            replace(VIEW, risk=RiskState(reconciled=True, order_times=(NOW - 59 * SECOND,) * 6)),
            BUY,
            "6 orders within a minute, limit 6",
        ),
    ],
    "orders_per_day": [
        (replace(VIEW, risk=RiskState(reconciled=True, orders_today=60)), BUY, "60 orders today, limit 60"),
    ],
    "order_quantity": [(VIEW, replace(BUY, quantity=0), "quantity 0: more than 0 is expected")],
    "price_collar": [
        (VIEW, replace(BUY, limit_price=Decimal("105.01")), "limit 105.01 is further than 0.05 from 100"),
        (VIEW, replace(SELL, limit_price=Decimal("94.99")), "limit 94.99 is further than 0.05 from 100"),
        (replace(VIEW, marks={}), SELL, "no price of AAA is known"),
    ],
    "stale_quote": [
        (replace(VIEW, quotes={}), BUY, "no quote for BBB"),
        (replace(VIEW, now_ns=NOW + 91 * SECOND), SELL, "quote is 91 s old, limit 90 s"),
    ],
    "duplicate_intent": [
        (replace(VIEW, orders=order("BBB", +1, 5)), BUY, "order o1 already works on this side of BBB"),
        (replace(VIEW, orders=order("AAA", -1, 5)), SELL, "order o1 already works on this side of AAA"),
    ],
    "opposite_order": [
        (replace(VIEW, orders=order("BBB", -1, 5)), BUY, "order o1 works on the other side of BBB (wash trade)"),
    ],
    "oversell": [(VIEW, replace(SELL, quantity=21), "sells 21 but only 20 are free")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in GOOD_BAD.items() for case in range(len(cases))]
)
def test_a_gate_denies_just_beyond_its_limit_and_says_why(name: str, case: int) -> None:
    view, intent, why = GOOD_BAD[name][case]
    assert [denial.reason for denial in ask_gates(view, intent, (BY_NAME[name],)).denials] == [why]


def test_a_leg_without_a_price_is_denied_by_the_gate_of_legs_alone() -> None:
    verdicts = ask_gates(VIEW, legs(("ZZZ", 1)), SHARE_GATES)
    assert [denial.gate for denial in verdicts.denials] == ["basket_legs"]


def test_a_buy_may_spend_the_last_of_what_working_buys_leave() -> None:
    view = replace(VIEW, book=replace(BOOK, cash=Decimal("1503.502")), orders=order("CCC", +1, 5))
    assert ask_gates(view, BUY, (BY_NAME["buying_power"],)).denials == ()  # 500.50 are kept back, 1,003.002 are left


def test_sales_that_work_add_nothing_to_the_gross_weight() -> None:
    view = replace(VIEW, basket=Basket(gross_weight_max=0.3003), orders=order("AAA", -1, 9))
    assert ask_gates(view, BUY, (BY_NAME["gross_weight"],)).denials == ()


def test_orders_without_a_limit_need_neither_quote_nor_mark() -> None:
    leaving = replace(SELL, limit_price=None)
    assert ask_gates(replace(VIEW, quotes={}, marks={}), leaving, SHARE_GATES).denials == ()


def test_a_basket_is_measured_by_what_the_cash_can_reach() -> None:
    greedy = legs(("AAA", 0), ("BBB", 1000), ("CCC", 1000))  # 200,000 USD wanted, 10,000 there
    tight = replace(VIEW, basket=Basket(turnover_max=1.2))
    assert ask_gates(tight, greedy, SHARE_GATES).denials == ()
    tighter = replace(VIEW, basket=Basket(turnover_max=1.19))
    assert [d.gate for d in ask_gates(tighter, greedy, SHARE_GATES).denials] == ["turnover"]


@pytest.mark.parametrize(("percent", "limit", "denied"), [(100, 2.0, []), (100, 1.9, ["turnover"]), (75, 0.0001, [])])
def test_sales_that_pay_back_what_the_account_owes_are_no_turnover(
    percent: int, limit: float, denied: list[str]
) -> None:
    """10,000 USD in AAA, of which a withdrawal left 2,500: 7,500 are owed, so 2,500 are sold and 2,500 bought."""
    positions = {"AAA": replace(BOOK.positions["AAA"], quantity=100, cost=Decimal(10_000))}
    owing = replace(BOOK, cash=Decimal(-7500), positions=positions, equity=Decimal(2500), peak=Decimal(2500))
    owing = replace(owing, session_start_equity=Decimal(2500), session_base=Decimal(2500))
    view = replace(VIEW, book=owing, basket=Basket(turnover_max=limit))
    changed_to = legs(("AAA", 100 - percent), ("BBB", 0 if percent < 100 else 30))
    assert [d.gate for d in ask_gates(view, changed_to, SHARE_GATES).denials] == denied


def test_others_sales_hold_no_exit_up_and_a_foreign_order_in_another_symbol_no_basket() -> None:
    view = replace(VIEW, orders=order("AAA", -1, 5, purpose="foreign"))
    assert ask_gates(view, replace(SELL, quantity=15), SHARE_GATES).denials == ()
    elsewhere = replace(VIEW, orders=order("ZZZ", -1, 5, purpose="foreign"))
    assert ask_gates(elsewhere, BASKET, SHARE_GATES).denials == ()


def test_a_gate_that_raises_denies() -> None:
    def fail(_: RiskView, __: Intent) -> str | None:
        raise KeyError("x")

    verdicts = ask_gates(VIEW, SELL, (Gate("broken", fail, Applies.EVERY_ORDER),))
    assert [denial.reason for denial in verdicts.denials] == ["the gate failed: KeyError: 'x'"]


# --- in the desk --------------------------------------------------------------------------------------------------


def test_a_denied_basket_sends_nothing_at_all_and_is_recorded_with_all_reasons() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.state = replace(d.state, model=None, risk=replace(d.state.risk, reconciled=False))
    d.due()
    effects = d.answer(0, 20, KEEP)
    effects += d.quotes(0, AAA="100", BBB="100")
    row = d.decisions()[-1]
    assert (orders(effects), row.outcome, row.work) == ([], "denied", None)
    assert row.gates is not None
    reasons = msgspec.json.decode(row.gates)
    assert {name for name, reason in reasons.items() if reason} == {
        "not_reconciled", "model_not_verified", "model_not_promoted", "model_other_feed",
    }  # fmt: skip
    assert d.state.stats.denials == dict.fromkeys(
        ("not_reconciled", "model_not_verified", "model_not_promoted", "model_other_feed"), 1
    )


def test_a_halted_desk_is_asked_all_the_same_and_its_basket_denied() -> None:
    d = daily_desk()
    d.state = replace(d.state, risk=replace(d.state.risk, halt=Halt("operator", "x", 1)))
    d.due()
    d.answer(10, KEEP, KEEP)
    assert [(row.outcome, row.action) for row in d.decisions()] == [("denied", "rebalance")]


def test_a_basket_on_old_bars_is_denied_and_missing_symbols_are_told() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.bars(TUESDAY, AAA=100.0)
    d.end()
    d.begin(FRIDAY)
    d.due()
    assert alarms(d.answer(0, KEEP, KEEP)) == ["symbols_masked"]
    row = d.decisions()[-1]
    assert row.outcome == "denied"
    assert d.state.stats.denials == {"stale_history": 1}


def test_bars_from_before_a_session_that_was_not_held_are_the_newest() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.bars(TUESDAY, AAA=100.0, BBB=100.0, CCC=100.0)
    d.end()
    d.begin(FRIDAY)
    scheduled = SessionScheduled(d.at(-20), FRIDAY, (), (MONDAY, TUESDAY))  # once more, without Wednesday
    d.put(scheduled)
    d.due()
    d.answer(0, KEEP, KEEP)
    assert d.state.stats.denials == {}


def test_a_state_that_was_made_warm_beforehand_is_as_fresh_as_its_own_bars() -> None:
    d = daily_desk()
    d.due()
    d.state = replace(d.state, basket=replace(d.state.basket, newest={}))
    d.answer(10, KEEP, KEEP)
    assert d.decisions()[-1].outcome == "ordered"


def test_a_desk_without_any_bar_is_denied() -> None:
    d = DailyDesk().fund().begin(MONDAY)
    d.strategy.warm_after = 0
    d.due()
    d.answer(10, KEEP, KEEP)
    assert d.state.stats.denials == {"stale_history": 1, "basket_legs": 1}
