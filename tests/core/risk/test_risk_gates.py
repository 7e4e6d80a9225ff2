"""Every gate passes on one side of its limit and denies on the other; unknown, NaN and raising deny.

The boundaries stand in one table, in the units of the limits; a gate without its pair fails the first test.
"""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal

import pytest

from daemon.core.desks.registry import OPTION_GATES
from daemon.core.gates import LOSSES, Applies, Gate, Intent, RiskView, ask_gates, reject_rate
from daemon.core.limits import Execution, Risk
from daemon.core.orders import Order
from daemon.core.state import Book, BrokenClaim, ClaimState, Halt, Model, Pause, RiskState, SessionState, TradingHalt
from strategies.kit.contract import Grid
from tests.support.core.desk import CALL, MINUTE, MONDAY, PUT, SECOND, contract, quote
from tests.support.core.risk_view import (
    COVER,
    ENTRY,
    HALF_PAST_ONE_LIMIT,
    LEAVE,
    MONDAY_CALL,
    NEAR_OPEN,
    NOW,
    VIEW,
    At,
    at,
    bars,
    held,
    intent,
    order,
    quoted,
    replace,
)

CLOSE = MONDAY.close_ns
TODAY = intent(contract=contract(MONDAY_CALL))

BOUNDARY: dict[str, tuple[At, At]] = {
    "halted": (at(), at(risk={"halt": Halt("operator", "by hand", 1)})),
    "paused": (at(risk={"pause": Pause("operator", NOW)}), at(risk={"pause": Pause("operator", NOW + 1)})),
    "stopping": (at(), at(risk={"stopping": "maintenance"})),
    "not_reconciled": (at(), at(risk={"reconciled": False})),
    "account_blocked": (at(), at(blocked="trading_blocked")),
    "market_closed": (at(), at(closed=True)),
    "blind": (at(), at(blind="quotes lost for 5 minutes while SPY is held")),
    "trading_halted": (
        at(session={"trading_halts": {"SPY": TradingHalt(NOW - 2, "LUDP", NOW - 1), "QQQ": TradingHalt(1, "LUDP")}}),
        at(session={"trading_halts": {"SPY": TradingHalt(NOW - 2, "LUDP")}}),
    ),
    "calendar_unknown": (at(), at(session={"session": None})),
    "outside_session": (at(now_ns=CLOSE - 1), at(now_ns=CLOSE)),
    "near_open": (
        at(now_ns=MONDAY.open_ns + 15 * MINUTE, limits=NEAR_OPEN),
        at(now_ns=MONDAY.open_ns + 15 * MINUTE - 1, limits=NEAR_OPEN),
    ),
    "near_close": (at(now_ns=CLOSE - 30 * MINUTE - 1), at(now_ns=CLOSE - 30 * MINUTE)),
    "no_trade_window": (
        at(now_ns=MONDAY.open_ns + 210 * MINUTE, limits=HALF_PAST_ONE_LIMIT),
        at(now_ns=MONDAY.open_ns + 210 * MINUTE - 1, limits=HALF_PAST_ONE_LIMIT),
    ),
    "warm_up": (at(session={"warm": True}), at(session={"warm": False})),
    "stale_bar": (at(now_ns=NOW + 90 * SECOND), at(now_ns=NOW + 91 * SECOND)),
    "gapped_bars": (at(session=bars(40, 44)), at(session=bars(40, 45))),
    "model_not_verified": (at(), at(model=None)),
    "model_not_promoted": (at(model={"promoted": True}), at(model={"promoted": False})),
    "model_other_feed": (at(model={"feed": "sip"}), at(model={"feed": "iex"})),
    "answer_not_finite": (at(), at(intent(confidence=math.nan))),
    "low_confidence": (at(intent(confidence=0.5)), at(intent(confidence=math.nextafter(0.5, 0)))),
    "cooldown_trade": (
        at(risk={"last_trade_ns": NOW - 120 * SECOND}),
        at(risk={"last_trade_ns": NOW - 120 * SECOND + 1}),
    ),
    "cooldown_loss": (at(risk={"last_loss_ns": NOW - 300 * SECOND}), at(risk={"last_loss_ns": NOW - 300 * SECOND + 1})),
    "orders_per_minute": (
        at(risk={"order_times": (NOW - MINUTE, *(NOW - MINUTE + 1,) * 5)}),
        at(risk={"order_times": (NOW - MINUTE + 1,) * 6}),
    ),
    "orders_per_day": (at(risk={"orders_today": 99}), at(risk={"orders_today": 100})),
    "order_quantity": (at(intent(quantity=10)), at(intent(quantity=11))),
    "order_notional": (
        at(intent(quantity=10, limit_price=Decimal("12.50"))),  # half of the exposure, 25,000 USD
        at(intent(quantity=10, limit_price=Decimal("12.51"))),
    ),
    "max_position": (
        at(intent(quantity=5), book={"positions": held(3)}, orders={"o1": order(quantity=3, filled=1)}),
        at(intent(quantity=6), book={"positions": held(3)}, orders={"o1": order(quantity=3, filled=1)}),
    ),
    # 5 held at a mid of 2.00 are 1000 USD, 2 working at 2.00 are 400, 5 wanted at 2.12 are 1060
    "gross_exposure": (
        at(book={"positions": held(5)}, orders={"o1": order()}, limits={"gross_exposure_max_usd": Decimal(2460)}),
        at(book={"positions": held(5)}, orders={"o1": order()}, limits={"gross_exposure_max_usd": Decimal("2459.99")}),
    ),
    "buying_power": (
        at(book={"cash": Decimal(1460)}, orders={"o1": order()}),
        at(book={"cash": Decimal("1459.99")}, orders={"o1": order()}),
    ),
    "price_collar": (at(intent(limit_price=Decimal("2.40"))), at(intent(limit_price=Decimal("2.41")))),
    "wide_spread": (at(quotes=quoted("1.90", "2.10")), at(quotes=quoted("1.89", "2.10"))),
    # 500 + 2.00 - 7.00 is 495.00, one part in a hundred below the last close
    "spot_unsupported": (
        at(quotes={**quoted("1.98", "2.02"), PUT: quote(PUT, "6.90", "7.10", at_ns=NOW)}),
        at(quotes={**quoted("1.98", "2.02"), PUT: quote(PUT, "6.91", "7.11", at_ns=NOW)}),
    ),
    "stale_quote": (at(quotes=quoted("1.98", "2.02", 90)), at(quotes=quoted("1.98", "2.02", 91))),
    "open_interest": (at(intent(contract=contract(CALL, 100))), at(intent(contract=contract(CALL, 99)))),
    "expires_today": (at(TODAY, now_ns=CLOSE - 90 * MINUTE - 1), at(TODAY, now_ns=CLOSE - 90 * MINUTE)),
    "daily_loss": (
        at(book={"equity": Decimal("9450.01"), "session_base": Decimal(10500)}),
        at(book={"equity": Decimal("9450.00"), "session_base": Decimal(10500)}),
    ),
    "drawdown": (at(book={"equity": Decimal("7000.01")}), at(book={"equity": Decimal("7000.00")})),
    "consecutive_losses": (at(risk={"pause": Pause(LOSSES, NOW)}), at(risk={"pause": Pause(LOSSES, NOW + 1)})),
    "reject_rate": (
        at(risk={"outcomes": (True,) * 4 + (False,) * 6}),
        at(risk={"outcomes": (True,) * 5 + (False,) * 5}),
    ),
    "claim_broken": (
        at(claim=ClaimState(broken={"v0": BrokenClaim("volatility 20.00%", NOW, "")})),
        at(claim=ClaimState(broken={"v1": BrokenClaim("volatility 20.00%", NOW, "")})),
    ),
    "shares_held": (at(), at(book={"positions": held(100, "SPY", 0)})),
    "intraday_margin": (at(), at(limits={"intraday_exposure_max": 0.01})),
    "owner_unknown": (at(disputed=("AAA",)), at(disputed=("SPY",))),
    "others_short": (at(foreign_held={PUT: -1, "SPY": -1, CALL: 1}), at(foreign_held={PUT: 1, CALL: -1})),
    "closed_by_hand": (at(risk={"by_hand": {"AAA": ""}}), at(risk={"by_hand": {"SPY": ""}})),
    "duplicate_intent": (at(orders={"o1": order("unknown", -1, PUT)}), at(orders={"o1": order("unknown")})),
    "opposite_order": (
        at(orders={"o1": order("pending_cancel", -1, PUT)}),
        at(orders={"o1": order("pending_cancel", -1)}),
    ),
    "oversell": (
        at(LEAVE, book={"positions": held(7)}, orders={"o1": order(side=-1)}),
        at(LEAVE, book={"positions": held(6)}, orders={"o1": order(side=-1)}),
    ),
}

NUMBER: dict[str, str] = {
    "near_open": "no_entry_after_open_min",
    "near_close": "no_entry_before_close_min",
    "no_trade_window": "no_trade_windows",
    "stale_bar": "stale_bar_s",
    "gapped_bars": "gap_min",
    "low_confidence": "confidence_min",
    "cooldown_trade": "cooldown_trade_s",
    "cooldown_loss": "cooldown_loss_s",
    "orders_per_minute": "orders_per_minute",
    "orders_per_day": "orders_per_day",
    "order_quantity": "order_contracts_max",
    "order_notional": "order_notional_max_usd",
    "max_position": "position_contracts_max",
    "gross_exposure": "gross_exposure_max_usd",
    "price_collar": "price_collar",
    "wide_spread": "spread_max",
    "stale_quote": "quote_age_max_s",
    "spot_unsupported": "spot_gap_max",
    "open_interest": "open_interest_min",
    "expires_today": "expiry_day_no_entry_min",
    "daily_loss": "daily_loss_max",
    "drawdown": "drawdown_max",
    "consecutive_losses": "consecutive_losses_max",
    "reject_rate": "reject_rate_max",
    "intraday_margin": "intraday_exposure_max",
}
"""The limit of each gate that has a number; the others ask a yes or no."""
WITHOUT_NUMBER = {
    "halted", "paused", "stopping", "not_reconciled", "account_blocked", "market_closed", "blind", "calendar_unknown",
    "trading_halted",
    "outside_session", "warm_up", "model_not_verified", "model_not_promoted", "model_other_feed", "answer_not_finite",
    "buying_power", "claim_broken", "shares_held", "owner_unknown", "duplicate_intent", "opposite_order", "oversell",
    "closed_by_hand", "others_short",
}  # fmt: skip
BY_NAME = {gate.name: gate for gate in OPTION_GATES}


def denied(moment: At, gates: tuple[Gate, ...] = OPTION_GATES) -> list[str]:
    return [denial.gate for denial in ask_gates(moment.view, moment.intent, gates).denials]


def by(name: str, moment: At) -> list[str]:
    return denied(moment, (BY_NAME[name],))


def test_every_gate_has_its_boundary_here_and_its_limit_among_the_limits() -> None:
    names = [gate.name for gate in OPTION_GATES]
    assert len(set(names)) == len(names)
    assert set(BOUNDARY) == set(names)
    assert set(NUMBER) | WITHOUT_NUMBER == set(names)
    assert not set(NUMBER) & WITHOUT_NUMBER
    limits = {field.name for rules in (Risk, Execution) for field in dataclasses.fields(rules)}
    assert set(NUMBER.values()) <= limits


@pytest.mark.parametrize("name", BOUNDARY)
def test_a_gate_passes_on_the_good_side_of_its_limit(name: str) -> None:
    assert by(name, BOUNDARY[name][0]) == []


@pytest.mark.parametrize("name", BOUNDARY)
def test_a_gate_denies_on_the_bad_side_of_its_limit_and_says_why(name: str) -> None:
    moment = BOUNDARY[name][1]
    verdicts = ask_gates(moment.view, moment.intent, (BY_NAME[name],))
    assert [denial.gate for denial in verdicts.denials] == [name]
    assert len(verdicts.denials[0].reason) > 10
    assert not verdicts.denials[0].reason.startswith("the gate failed")
    assert verdicts.by_gate == {name: verdicts.denials[0].reason}


def test_a_good_entry_passes_every_gate_and_each_says_so() -> None:
    verdicts = ask_gates(VIEW, ENTRY, OPTION_GATES)
    assert verdicts.denials == ()
    assert verdicts.by_gate == dict.fromkeys(BOUNDARY, "")


def test_all_reasons_are_kept_not_only_the_first() -> None:
    reasons = denied(at(intent(quantity=0), model=None, risk={"reconciled": False}, session={"warm": False}))
    assert reasons == [
        "not_reconciled", "warm_up", "model_not_verified", "model_not_promoted", "model_other_feed", "order_quantity",
    ]  # fmt: skip


def test_an_exit_is_put_to_the_duplicate_opposite_and_oversell_gates_alone() -> None:
    nothing_known = at(
        LEAVE, session=SessionState(), model=None, risk=RiskState(halt=Halt("x", "y", 1)), quotes={},
        book=Book(positions=held(5)), now_ns=0,
    )  # fmt: skip
    verdicts = ask_gates(nothing_known.view, LEAVE, OPTION_GATES)
    assert verdicts.denials == ()
    names = {name for name, verdict in verdicts.by_gate.items() if verdict is not None}
    assert names == {"duplicate_intent", "opposite_order", "oversell"}
    assert names == {gate.name for gate in OPTION_GATES if gate.applies is Applies.EVERY_ORDER}


def test_a_purchase_that_would_cover_the_desk_s_own_short_position_and_buy_more_is_denied() -> None:
    gate = (BY_NAME["others_short"],)
    buy = intent(symbol="SPY", quantity=5)
    assert denied(at(buy, book={"positions": held(-5, "SPY", 0)}), gate) == []
    (denial,) = ask_gates(at(buy, book={"positions": held(-4, "SPY", 0)}).view, buy, gate).denials
    assert "buy them back at the broker, then rltraderctl accept-broker" in denial.reason


def test_shares_owed_are_bought_back_up_to_what_is_owed() -> None:
    assert denied(at(COVER, book={"positions": held(-100, "SPY", 0)})) == []


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("duplicate_intent", at(LEAVE, orders={"o1": order(side=-1)})),
        ("opposite_order", at(LEAVE, orders={"o1": order(side=1)})),
        ("oversell", at(LEAVE, book={"positions": held(4)})),
        ("oversell", at(COVER, book={"positions": held(-99, "SPY", 0)})),
        ("oversell", at(COVER, book={"positions": held(100, "SPY", 0)})),
        ("oversell", at(LEAVE)),
        ("oversell", at(replace(LEAVE, quantity=1))),  # of nothing
        ("oversell", at(replace(COVER, quantity=1))),  # nothing is owed
    ],
)
def test_an_exit_does_not_skip_the_gates_against_doing_it_twice_or_too_much(name: str, moment: At) -> None:
    assert name in denied(moment)


def test_a_gate_that_raises_is_a_denial_and_the_next_gates_are_still_asked() -> None:
    def fail(_: RiskView, __: Intent) -> str | None:
        raise ZeroDivisionError("by nobody")

    verdicts = ask_gates(VIEW, ENTRY, (Gate("broken", fail), BY_NAME["halted"]))
    assert [(d.gate, d.reason) for d in verdicts.denials] == [
        ("broken", "the gate failed: ZeroDivisionError: by nobody")
    ]
    assert verdicts.by_gate["halted"] == ""


@pytest.mark.parametrize(
    ("working", "exposure"),
    [
        ({}, 1_060),  # five at 2.12
        ({"o1": order(symbol=PUT, quantity=40)}, 9_060),  # and forty at 2.00 that may still be bought
        ({"o1": order(symbol=PUT, quantity=40, filled=10)}, 7_060),
        ({"o1": order(side=-1, symbol=PUT, quantity=40)}, 1_060),  # a sale costs nothing
        ({"o1": replace(order(symbol="SPY", quantity=10), limit_price=Decimal(500))}, 6_060),  # shares, one by one
    ],
)
def test_the_exposure_of_an_order_counts_the_buys_that_still_work(working: dict[str, Order], exposure: int) -> None:
    for limit, denied_by in ((exposure / 10_000, []), ((exposure - 1) / 10_000, ["intraday_margin"])):
        moment = at(orders=working, limits={"intraday_exposure_max": limit})
        assert by("intraday_margin", moment) == denied_by


def test_ten_contracts_at_a_price_that_one_wrong_bar_made_are_no_order_by_the_default_limits() -> None:
    bad = at(intent(quantity=10, limit_price=Decimal("15.65")))  # 15,650 USD instead of 2,500
    assert by("order_notional", bad) == ["order_notional"]
    wider = at(intent(quantity=10, limit_price=Decimal("15.65")), limits={"gross_exposure_max_usd": Decimal(31300)})
    assert by("order_notional", wider) == []


@pytest.mark.parametrize(("bid", "ask"), [("0.60", "1.60"), ("0.05", "1.50"), ("0", "1.45"), ("1.45", "0")])
def test_what_a_held_option_quoted_too_wide_is_worth_is_unknown(bid: str, ask: str) -> None:
    other = intent(contract=contract(PUT), symbol=PUT)
    moment = {"positions": held(5)}, {PUT: quote(PUT, at_ns=NOW), CALL: quote(CALL, bid, ask, at_ns=NOW)}
    assert by("gross_exposure", at(other, book=moment[0], quotes=moment[1])) == ["gross_exposure"]
    narrow = {**moment[1], CALL: quote(CALL, "1.90", "2.10", at_ns=NOW)}  # 10 %: as wide as the desk itself buys
    assert by("gross_exposure", at(other, book=moment[0], quotes=narrow)) == []


NAN = Decimal("NaN")


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("low_confidence", at(intent(confidence=math.nan))),
        ("answer_not_finite", at(intent(logits=(0.0, math.inf)))),
        ("order_notional", at(intent(limit_price=NAN))),
        ("gross_exposure", at(intent(limit_price=NAN))),
        ("buying_power", at(book={"cash": NAN})),
        ("price_collar", at(intent(limit_price=NAN))),
        ("wide_spread", at(quotes={CALL: replace(quote(CALL), bid=NAN)})),
        ("wide_spread", at(limits={"spread_max": math.nan})),
        ("daily_loss", at(book={"equity": NAN})),
        ("daily_loss", at(book={"session_start_equity": NAN})),
        ("daily_loss", at(limits={"daily_loss_max": math.nan})),
        ("drawdown", at(book={"equity": NAN})),
        ("drawdown", at(limits={"drawdown_max": math.nan})),
        ("low_confidence", at(limits={"confidence_min": math.nan})),
    ],
)
def test_nan_never_opens_a_gate(name: str, moment: At) -> None:
    assert by(name, moment) == [name]


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("paused", at(risk={"pause": Pause("operator", 0)})),
        ("outside_session", at(now_ns=MONDAY.open_ns - 1)),
        ("outside_session", at(session={"ended": True})),
        ("outside_session", at(session={"session": None})),
        ("near_open", at(session={"session": None})),
        ("near_close", at(session={"session": None})),
        ("no_trade_window", at(now_ns=MONDAY.open_ns + 150 * MINUTE, limits=HALF_PAST_ONE_LIMIT)),
        ("no_trade_window", at(limits={"no_trade_windows": ("noon",)})),
        ("stale_bar", at(session={"starts": ()})),
        ("model_not_promoted", at(model=None)),
        ("model_other_feed", at(model=None)),
        ("order_quantity", at(intent(quantity=0))),
        ("order_notional", at(intent(limit_price=None))),
        ("gross_exposure", at(intent(limit_price=None))),
        ("gross_exposure", at(book={"positions": held(1, PUT, -1)})),
        ("gross_exposure", at(book={"positions": held(1)}, quotes=quoted("1.98", "2.02", 91))),
        ("buying_power", at(intent(limit_price=None))),
        ("price_collar", at(intent(limit_price=None))),
        ("price_collar", at(quotes={})),
        ("price_collar", at(quotes=quoted("0", "0"))),
        ("price_collar", at(intent(limit_price=Decimal("1.59")))),
        ("wide_spread", at(quotes={})),
        ("wide_spread", at(quotes=quoted("0", "0.05"))),
        ("wide_spread", at(quotes=quoted("2.02", "1.98"))),
        ("stale_quote", at(quotes={})),
        ("spot_unsupported", at(session={"spot": 0.0})),
        ("spot_unsupported", at(quotes=quoted("40.00", "40.20"))),  # a call at the money costs less than 25
        ("spot_unsupported", at(session={"spot": 510.0})),  # 2.00 for a call 10 in the money
        ("open_interest", at(intent(contract=None))),
        ("expires_today", at(intent(contract=None))),
        ("daily_loss", at(book={"session_start_equity": Decimal(0)})),
        ("drawdown", at(book={"peak": Decimal(0)})),
        ("duplicate_intent", at(orders={"o1": order(symbol=PUT)})),
    ],
)
def test_what_is_unknown_or_makes_no_sense_is_denied(name: str, moment: At) -> None:
    assert by(name, moment) == [name]


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("paused", at(risk={"pause": Pause(LOSSES, NOW + 1)})),  # the losses' own gate speaks for it
        ("spot_unsupported", at(quotes={})),  # `stale_quote` says so
        ("outside_session", at(now_ns=MONDAY.open_ns)),
        ("no_trade_window", at(now_ns=MONDAY.open_ns + 150 * MINUTE - 1, limits=HALF_PAST_ONE_LIMIT)),
        ("consecutive_losses", at(risk={"pause": Pause("operator", 0)})),
        ("gross_exposure", at(book={"positions": held(1)})),
        ("reject_rate", at(risk={"outcomes": (True,) * 9})),  # before there are ten, nothing is known
        ("reject_rate", at(limits={"reject_rate_max": 0.0}, risk={"outcomes": (False,) * 10})),  # none was rejected
        ("opposite_order", at(orders={"o1": order("accepted", -1, PUT)})),
        ("duplicate_intent", at(orders={"o1": order("accepted", -1)})),
        ("oversell", at()),
    ],
)
def test_a_gate_leaves_alone_what_is_not_its_matter(name: str, moment: At) -> None:
    assert by(name, moment) == []


@pytest.mark.parametrize("mode", ["replay", "dry_run", "paper"])
def test_a_model_that_is_not_promoted_or_of_another_feed_may_trade_where_no_money_is_real(mode: str) -> None:
    moment = at(identity={"mode": mode}, model=Model("v1", promoted=False, feed="iex"))
    assert denied(moment) == []


@pytest.mark.parametrize(("overnight", "reasons"), [(False, ["near_close"]), (True, [])])
def test_the_last_close_before_the_flatten_ends_entries_only_where_there_is_a_flatten(
    overnight: bool, reasons: list[str]
) -> None:
    last = {"now_ns": MONDAY.close_ns - 30 * MINUTE, "grid": Grid(60 * MINUTE)}  # hours: 15:30
    assert by("near_close", at(limits={"no_entry_before_close_min": 8}, overnight=overnight, **last)) == reasons


def test_the_reject_rate_is_that_of_the_newest_orders() -> None:
    risk = RiskState(outcomes=(True,) * 10 + (False,) * 9 + (True,))
    assert reject_rate(risk, Risk()) == 0.1
    assert reject_rate(RiskState(outcomes=(True,) * 9), Risk()) is None
